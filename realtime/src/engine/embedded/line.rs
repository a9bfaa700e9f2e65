//! What waits in one channel: places of tasks that the file has not finished, and behind them everything that came later.

use std::collections::VecDeque;
use std::sync::Arc;

use ulid::Ulid;

use super::super::store::task::{Effect, Marking, More};
use super::super::store::{Slot, UNWRITABLE};
use super::super::{Answer, Entry, Outcome, Ticket};
use crate::connection::ConnectionId;
use crate::presence::Member;

/// In the order of the requests.
pub type Line = VecDeque<Held>;

/// One place in a line.
#[derive(Debug)]
pub enum Held {
    /// The file has not finished the task with this number.
    Awaited(u64, Then),
    /// It has happened, and is to be told when its turn has come.
    Ready(Outcome),
    /// Likewise.
    Many(Vec<Outcome>),
    /// Likewise: a message that nobody keeps. How many of them wait is bounded.
    Live(Vec<Outcome>),
    /// What came of a plan; nothing, if it could not be carried out.
    Fired(Option<Vec<Outcome>>),
    /// It happens when its turn has come.
    Due(Action),
    /// Nothing came of it.
    Nothing,
}

/// What follows when the file has finished a task.
#[derive(Debug)]
pub enum Then {
    /// What came of it says everything.
    Said,
    /// Something in memory.
    Act(Action),
    /// An answer that had to wait for it.
    Tells(Ticket, Answer),
    /// A plan has been carried out.
    Fired,
    /// A token has been spent, or was before.
    Spent(Ticket),
    /// What a process must know that begins.
    /// With the last identifier from a predecessor, which is exact, or without.
    Begin { exact: bool },
    /// Plans that are due.
    Plans,
    /// What has expired is gone.
    Sweep,
    /// The height of identifiers is written.
    Pulse(Ulid),
}

/// Something that concerns memory alone.
#[derive(Debug)]
pub enum Action {
    /// A subscription begins.
    Join {
        ticket: Ticket,
        connection: ConnectionId,
        member: Option<Member>,
        counted: bool,
        /// What it observes, as the file had it.
        observed: Vec<Entry>,
        /// The mark of the token that was spent for it.
        spent: Option<Marking>,
    },
    /// A subscription ends.
    Leave {
        uid: Option<Arc<str>>,
        counted: bool,
    },
    /// A member's metadata changes.
    Update {
        ticket: Ticket,
        member: Member,
        spent: Option<Marking>,
    },
    /// What is known about the channel.
    Describe { ticket: Ticket },
}

impl Action {
    fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Join { ticket, .. } | Self::Update { ticket, .. } | Self::Describe { ticket } => {
                Some(*ticket)
            }
            Self::Leave { .. } => None,
        }
    }

    /// With what the file said.
    fn with(mut self, entries: Vec<Entry>, marking: Option<Marking>) -> Self {
        match &mut self {
            Self::Join {
                observed, spent, ..
            } => (*observed, *spent) = (entries, marking),
            Self::Update { spent, .. } => *spent = marking,
            Self::Leave { .. } | Self::Describe { .. } => {}
        }
        self
    }
}

impl Held {
    /// What stands in the line when a task is finished; without an effect it could not be done.
    pub fn of(then: Then, slot: &Slot, effect: Option<Effect>) -> Self {
        let say = |ticket, answer| Self::Ready(Outcome::Answer(ticket, answer));
        match (then, effect) {
            (Then::Act(action), effect) => {
                let refused = match effect.map(|effect| effect.more) {
                    None => Answer::Unavailable(UNWRITABLE),
                    Some(More::Spent) => Answer::Spent,
                    Some(More::TooMuch) => Answer::TooMuch,
                    Some(More::Observed(entries, marking)) => {
                        return Self::Due(action.with(entries, marking));
                    }
                    Some(More::Marked(marking)) => {
                        return Self::Due(action.with(Vec::new(), Some(marking)));
                    }
                    Some(_) => return Self::Due(action),
                };
                action
                    .ticket()
                    .map_or(Self::Nothing, |ticket| say(ticket, refused))
            }
            // The token stays spent if that could not be undone; it has been of no use.
            (Then::Tells(ticket, answer), _) => say(ticket, answer),
            (Then::Fired, effect) => Self::Fired(effect.map(|effect| effect.outcomes)),
            (_, Some(effect)) => Self::Many(effect.outcomes),
            (_, None) => slot.ticket.map_or(Self::Nothing, |ticket| {
                say(ticket, Answer::Unavailable(UNWRITABLE))
            }),
        }
    }
}
