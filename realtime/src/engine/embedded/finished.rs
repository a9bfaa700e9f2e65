//! What the file has finished: each line lets go what no longer waits.

use std::sync::Arc;

use jiff::Timestamp;

use super::super::store::marks::Kind;
use super::super::store::schema::FOREVER;
use super::super::store::task::{Effect, Marking, More};
use super::super::store::{self, Done, Slot};
use super::super::{Answer, Outcome, Ticket};
use super::Embedded;
use super::line::{Action, Held, Line, Then};
use super::unasked::later;
use crate::time::Now;

impl Embedded {
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.outcomes.push_back(Outcome::Answer(ticket, answer));
    }

    /// An outcome behind everything that waits in its channel.
    pub(super) fn put(&mut self, channel: &str, outcome: Outcome) {
        if matches!(outcome, Outcome::Tell(_)) && !self.tells {
            return;
        }
        match self.lines.get_mut(channel) {
            Some(line) => line.push_back(Held::Ready(outcome)),
            None => self.outcomes.push_back(outcome),
        }
    }

    /// Something that concerns memory alone: now, or when its turn has come.
    pub(super) fn act(&mut self, now: Now, channel: Arc<str>, action: Action) {
        match self.lines.get_mut(&channel) {
            Some(line) => line.push_back(Held::Due(action)),
            None => {
                if let Some(held) = self.perform(now, &channel, action) {
                    self.lines.insert(channel, Line::from([held]));
                }
            }
        }
    }

    pub(super) fn finished(&mut self, now: Now, done: Done) {
        let (slot, effect) = match done {
            Done::Read(ticket, answer) => return self.answer(ticket, answer),
            Done::Written(slot, effect) => (slot, effect),
        };
        if let Some(effect) = &effect {
            self.expiry
                .at_least(effect.expires.filter(|at| *at < FOREVER));
            match &effect.more {
                // Of a token it is not certain yet that it was of use.
                More::Marked(marking) | More::Planned(_, Some(marking))
                    if marking.kind == Kind::Seen =>
                {
                    self.remember(now, marking);
                }
                _ => {}
            }
            if let More::Planned(due, _) = effect.more {
                self.plans.at_least(Some(due));
            }
        }
        let Some(channel) = slot.channel.clone() else {
            if let Some(then) = self.apart.remove(&slot.number) {
                self.went_apart(now, &slot, then, effect);
            }
            return;
        };
        let Some(line) = self.lines.get_mut(&channel) else {
            return;
        };
        let waits =
            |held: &Held| matches!(held, Held::Awaited(number, _) if *number == slot.number);
        let Some(at) = line.iter().position(waits) else {
            return;
        };
        let Held::Awaited(_, then) = std::mem::replace(&mut line[at], Held::Nothing) else {
            return;
        };
        line[at] = Held::of(then, &slot, effect);
        self.release_line(now, &channel);
    }

    /// Lets everything go in a channel up to what still waits for the file.
    pub(super) fn release_line(&mut self, now: Now, channel: &Arc<str>) {
        let Some(mut line) = self.lines.remove(channel) else {
            return;
        };
        loop {
            match line.pop_front() {
                None => return,
                Some(awaited @ Held::Awaited(..)) => {
                    line.push_front(awaited);
                    break;
                }
                Some(Held::Nothing) => {}
                Some(Held::Ready(outcome)) => self.let_out(outcome),
                Some(Held::Many(outcomes)) => {
                    outcomes
                        .into_iter()
                        .for_each(|outcome| self.let_out(outcome));
                }
                Some(Held::Live(outcomes)) => {
                    self.live -= 1;
                    outcomes
                        .into_iter()
                        .for_each(|outcome| self.let_out(outcome));
                }
                Some(Held::Fired(outcomes)) => {
                    self.plans.busy = self.plans.busy.saturating_sub(1);
                    match outcomes {
                        Some(outcomes) => {
                            outcomes
                                .into_iter()
                                .for_each(|outcome| self.let_out(outcome));
                        }
                        // It is still planned.
                        None => self.plans.at = Some(later(now)),
                    }
                }
                Some(Held::Due(action)) => {
                    if let Some(held) = self.perform(now, channel, action) {
                        line.push_front(held);
                        break;
                    }
                }
            }
        }
        self.lines.insert(channel.clone(), line);
    }

    pub(super) fn let_out(&mut self, outcome: Outcome) {
        if self.tells || !matches!(outcome, Outcome::Tell(_)) {
            self.outcomes.push_back(outcome);
        }
    }

    pub(super) fn remember(&mut self, now: Now, marking: &Marking) {
        let until = Timestamp::from_millisecond(marking.until).unwrap_or(Timestamp::MAX);
        let set = match marking.kind {
            Kind::Seen => &mut self.seen,
            Kind::Spent => &mut self.spent,
        };
        set.insert(now.wall, marking.mark, until);
    }

    /// What came of a task that belongs to no channel.
    pub(super) fn went_apart(&mut self, now: Now, slot: &Slot, then: Then, effect: Option<Effect>) {
        let ticket = slot.ticket;
        match (then, effect) {
            (Then::Spent(ticket), Some(effect)) => match effect.more {
                More::Marked(marking) => {
                    self.remember(now, &marking);
                    self.answer(ticket, Answer::Done);
                }
                _ => self.answer(ticket, Answer::Spent),
            },
            (Then::Begin { exact }, Some(effect)) => {
                if let More::Status(height, due, expiry) = effect.more {
                    self.began = true;
                    let floor = match exact {
                        true => height.last_id,
                        false => height.floor(now.wall.as_millisecond()),
                    };
                    self.ids.last = self.ids.last.max(floor);
                    self.plans.at_least(due);
                    self.expiry.at_least(expiry);
                }
            }
            (Then::Begin { .. }, None) => {}
            (Then::Plans, effect) => {
                self.plans.busy -= 1;
                match effect.map(|effect| effect.more) {
                    Some(More::Due(due, next)) => self.fire(now, due, next),
                    _ => self.plans.at = Some(later(now)),
                }
            }
            (Then::Sweep, effect) => {
                self.expiry.busy -= 1;
                match effect.map(|effect| effect.more) {
                    Some(More::Swept(swept)) => self.swept(now, slot.number, swept),
                    _ => self.expiry.at_least(Some(later(now))),
                }
            }
            (Then::Pulse(id), effect) => {
                self.pulse.busy = false;
                match effect {
                    Some(_) => self.pulse.id = id,
                    None => self.pulse.next = later(now),
                }
            }
            (_, Some(effect)) => self.outcomes.extend(effect.outcomes),
            (_, None) => {
                if let Some(ticket) = ticket {
                    self.answer(ticket, Answer::Unavailable(store::UNWRITABLE));
                }
            }
        }
    }
}
