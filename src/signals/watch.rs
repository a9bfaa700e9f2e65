//! The tally, the stack's own status and the deadline together: when does the wait for a region end, and how?
//!
//! Pure: [`Watch`] is told what was read and when, and answers what to read next. [`super::wait`] does the reading.

use super::tally::{Membership, Observation, Reconciliation, Tally, Verdict};
use crate::eligibility::{Progress, StackStatus, Standing};
use jiff::Timestamp;
use std::time::Duration;

/// What is known about the update that the hosts are expected to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// UpdateStack was accepted; before that, the stack's LastUpdatedTime was this. A reading that still shows it is a
    /// stale one: DescribeStacks is eventually consistent, and yesterday's UPDATE_ROLLBACK_COMPLETE says nothing.
    Started {
        /// LastUpdatedTime before the call.
        before: Option<Timestamp>,
    },
    /// None: the stack is what it shall be, and only the hosts are waited for.
    NotNeeded,
}

/// How often things are read.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest wait of one receive call; short, so that everything beside it stays prompt.
    pub receive: Duration,
    /// Between two readings of the group (D-HOT-35).
    pub group: Duration,
    /// Between two readings of the stack's status.
    pub stack: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let [receive, group, stack] = [2, 15, 5].map(Duration::from_secs);
        Self {
            receive,
            group,
            stack,
        }
    }
}

/// A first reading of the stack that still shows what was before the update is believed after this time.
const STALE_FOR: Duration = Duration::from_secs(60);

/// What to read next.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// The group's membership.
    pub group: bool,
    /// The stack's status.
    pub stack: bool,
    /// How long the next receive may wait for messages.
    pub receive_for: Duration,
}

/// How the wait for a region ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Every host in service serves the wanted payload, and the stack's update is complete.
    Succeeded {
        /// The hosts that said so; empty means that no host was verified.
        verified: Vec<String>,
    },
    /// The hosts' verdict is [`Verdict::Failed`].
    HostsFailed(Verdict),
    /// CloudFormation gave the update up (D-HOT-37).
    StackFailed {
        /// The stack's status.
        status: StackStatus,
    },
    /// The deadline came first. The verdict is [`Verdict::DeadlinePassed`], or [`Verdict::Success`] when only the
    /// stack's update was not complete.
    DeadlinePassed(Verdict),
}

/// One region's wait.
#[derive(Clone, Debug)]
pub struct Watch {
    tally: Tally,
    deadline: Timestamp,
    mark: Mark,
    stack: Option<StackStatus>,
    /// Nothing decisive was recorded since the group was last read: success needs a reading of the present (D-HOT-36).
    group_is_current: bool,
    pace: Pace,
    began: Timestamp,
    group_read: Timestamp,
    stack_read: Option<Timestamp>,
}

impl Watch {
    /// A wait that begins at `now` with the group as read just before.
    pub fn new(tally: Tally, mark: Mark, deadline: Timestamp, pace: Pace, now: Timestamp) -> Self {
        Self {
            tally,
            deadline,
            mark,
            stack: None,
            group_is_current: false,
            pace,
            began: now,
            group_read: now,
            stack_read: None,
        }
    }

    /// The tally so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The end of it.
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// When the wait ends at the latest.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// A message was received.
    pub fn observe(&mut self, body: &str, now: Timestamp) -> Observation {
        let observation = self.tally.observe(body, now);
        if matches!(observation, Observation::Recorded { .. }) {
            self.group_is_current = false;
        }
        observation
    }

    /// The group was read.
    pub fn group(&mut self, group: &Membership, now: Timestamp) -> Reconciliation {
        self.group_read = now;
        self.group_is_current = true;
        self.tally.reconcile(group, now)
    }

    /// The stack was read.
    pub fn stack(&mut self, status: &StackStatus, updated: Option<Timestamp>, now: Timestamp) {
        self.stack_read = Some(now);
        let stale = match self.mark {
            Mark::Started { before } => {
                updated == before
                    && status.is_at_rest()
                    && self.stack.is_none()
                    && since(self.began, now) < STALE_FOR
            }
            Mark::NotNeeded => false,
        };
        if !stale {
            self.stack = Some(status.clone());
        }
    }

    /// A reading failed: the next one waits its usual time.
    pub fn missed(&mut self, due: Due, now: Timestamp) {
        if due.group {
            self.group_read = now;
        }
        if due.stack {
            self.stack_read = Some(now);
        }
    }

    /// What to read next. Once all hosts are done, what the verdict still needs is read sooner.
    pub fn due(&self, now: Timestamp) -> Due {
        const SOON: Duration = Duration::from_secs(1);
        let all_done = matches!(
            self.tally.verdict(now, Timestamp::MAX),
            Verdict::Success { .. }
        );
        let settled = self.stack_progress() == Progress::Complete;
        let stack_every = if all_done {
            self.pace.stack.min(SOON)
        } else {
            self.pace.stack
        };
        let receive_for = self.pace.receive.min(since(now, self.deadline));
        Due {
            group: since(self.group_read, now) >= self.pace.group
                || (all_done && settled && !self.group_is_current),
            stack: self.stack_read.is_none_or(|t| since(t, now) >= stack_every),
            receive_for: if all_done {
                receive_for.min(SOON)
            } else {
                receive_for
            },
        }
    }

    /// Whether and how the wait has ended.
    pub fn ended(&self, now: Timestamp) -> Option<Ended> {
        let verdict = self.tally.verdict(now, self.deadline);
        let stack = self.stack_progress();
        match (verdict, stack) {
            (verdict @ Verdict::Failed { .. }, _) => Some(Ended::HostsFailed(verdict)),
            (_, Progress::Failed) => {
                let status = self
                    .stack
                    .clone()
                    .unwrap_or_else(|| StackStatus::new("DELETE_COMPLETE"));
                Some(Ended::StackFailed { status })
            }
            (Verdict::Success { verified }, Progress::Complete) if self.group_is_current => {
                Some(Ended::Succeeded { verified })
            }
            (verdict @ Verdict::DeadlinePassed { .. }, _) => Some(Ended::DeadlinePassed(verdict)),
            (verdict, _) => (now >= self.deadline).then_some(Ended::DeadlinePassed(verdict)),
        }
    }

    fn stack_progress(&self) -> Progress {
        match (&self.stack, self.mark) {
            (None, _) => Progress::Running,
            (Some(status), Mark::Started { .. }) => status.update(),
            // Nothing of ours is running, so any status at rest will do, except that of a stack being taken away.
            (Some(status), Mark::NotNeeded) => match status.standing() {
                Standing::NotServing => Progress::Failed,
                _ if status.is_at_rest() => Progress::Complete,
                _ => Progress::Running,
            },
        }
    }
}

/// From `earlier` to `later`; zero when the clock was set back between.
fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}
