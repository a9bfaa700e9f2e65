//! What is done because it is due: plans, expiry, and the height of identifiers.

use std::time::Duration;

use ulid::Ulid;

use super::super::Outcome;
use super::super::store::plans::Plan;
use super::super::store::sweep::Swept;
use super::super::store::task::Task;
use super::Embedded;
use super::line::{Held, Then};
use crate::events::Happening;
use crate::time::Now;

/// How often, at most, a little of what has expired is removed, unless there is more of it.
const SWEEP: Duration = Duration::from_secs(1);

/// How often the height of identifiers is written while there are new ones.
const PULSE: Duration = Duration::from_secs(10);

/// How far ahead of the clock identifiers are covered by that; more than twice the time between two.
const AHEAD: Duration = Duration::from_secs(30);

/// After how long something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that is done when it is due, by one task at a time.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// When, in milliseconds, if ever.
    pub(super) at: Option<i64>,
    /// So many tasks are at it.
    pub(super) busy: usize,
}

impl Due {
    pub(super) fn at_least(&mut self, at: Option<i64>) {
        self.at = self.at.into_iter().chain(at).min();
    }

    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        self.busy == 0 && self.at.is_some_and(|at| at <= now_ms)
    }

    pub(super) fn next(&self) -> Option<i64> {
        self.at.filter(|_| self.busy == 0)
    }
}

/// What has been written of the height of identifiers.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The last identifier then.
    pub(super) id: Ulid,
    /// When it is time again.
    pub(super) next: i64,
    pub(super) busy: bool,
}

impl Embedded {
    pub(super) fn due(&mut self, now: Now) {
        let now_ms = now.wall.as_millisecond();
        if self.plans.is_due(now_ms) {
            self.plans.busy += 1;
            self.unasked(now, Task::Due, Then::Plans);
        }
        if self.expiry.is_due(now_ms) {
            self.expiry.busy += 1;
            self.unasked(now, Task::Sweep, Then::Sweep);
        }
        // A clock that has been set back does not put it off.
        let soon = now_ms + PULSE.as_millis() as i64;
        self.pulse.next = self.pulse.next.min(soon);
        if self.pulse.next <= now_ms && self.wants_pulse() {
            self.pulse.busy = true;
            let again = if self.store.ill().is_some() {
                RETRY
            } else {
                PULSE
            };
            self.pulse.next = now_ms + again.as_millis() as i64;
            let last = i64::try_from(self.ids.last.timestamp_ms()).unwrap_or(now_ms);
            let ceiling = last.max(now_ms) + AHEAD.as_millis() as i64;
            self.unasked(now, Task::Pulse { ceiling }, Then::Pulse(self.ids.last));
        }
    }

    /// Is there anything new to say of identifiers? While nothing can be kept, this also finds out that it can be again
    /// (R-OPS-2).
    pub(super) fn wants_pulse(&self) -> bool {
        !self.pulse.busy && (self.pulse.id != self.ids.last || self.store.ill().is_some())
    }

    pub(super) fn unasked(&mut self, now: Now, task: Task, then: Then) {
        if let Some(number) = self.store.give(now, self.ids.last, None, None, task) {
            self.apart.insert(number, then);
        }
    }

    /// Carries out what was planned, each as if it was asked for now, and takes it off the list in the same transaction.
    pub(super) fn fire(&mut self, now: Now, due: Vec<Plan>, next: Option<i64>) {
        // Those that are at it now are asked for again, and then they are not there any more.
        self.plans.at = next;
        for plan in due {
            let message = plan.message.unwrap_or_else(|| self.ids.next(now.wall));
            let channel = plan.deferred.channel().clone();
            let task = Task::Fire {
                plan: plan.id,
                message,
                deferred: plan.deferred,
            };
            let given = self
                .store
                .give(now, self.ids.last, Some(channel.clone()), None, task);
            if let Some(number) = given {
                self.plans.busy += 1;
                let line = self.lines.entry(channel).or_default();
                line.push_back(Held::Awaited(number, Then::Fired));
            }
        }
    }

    pub(super) fn swept(&mut self, now: Now, number: u64, swept: Swept) {
        let soonest = now.wall.as_millisecond() + SWEEP.as_millis() as i64;
        self.expiry.at = match swept.more {
            true => Some(now.wall.as_millisecond()),
            false => swept.next.map(|next| next.max(soonest)),
        };
        for outcome in swept.told {
            let Outcome::Tell(Happening::Storage(change)) = &outcome else {
                continue;
            };
            let channel = change.channel.clone();
            match self.lines.get_mut(&channel) {
                None => self.let_out(outcome),
                Some(line) => {
                    // Before what the file was asked for later.
                    let later = |held: &Held| matches!(held, Held::Awaited(it, _) if *it > number);
                    let at = line.iter().position(later).unwrap_or(line.len());
                    line.insert(at, Held::Ready(outcome));
                }
            }
        }
    }
}

/// When to try again.
pub(super) fn later(now: Now) -> i64 {
    now.wall.as_millisecond() + RETRY.as_millis() as i64
}
