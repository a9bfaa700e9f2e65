//! What the writer does, one task after the other, and what comes of each.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;
use ulid::Ulid;

use super::super::marks::Mark;
use super::super::{
    Answer, DEDUPLICATION_WINDOW, Deferred, Entry, Keys, Outcome, Publish, Reacting, Ticket, Write,
};
use super::marks::{self, Kind};
use super::meta::{self, Height};
use super::plans::{self, Plan};
use super::sweep::{self, Swept};
use super::{entries, messages, reactions};
use crate::events::Happening;

/// Plans that are carried out in one go, at most.
pub const PLANS: i64 = 256;

/// A mark that is to be made, and until when it holds.
#[derive(Debug, Clone, Copy)]
pub struct Marking {
    /// What it is of.
    pub kind: Kind,
    /// The mark.
    pub mark: Mark,
    /// Until when, in milliseconds.
    pub until: i64,
}

impl Marking {
    /// Of something with an identifier for deduplication.
    #[must_use]
    pub fn seen(now: Timestamp, mark: Mark) -> Self {
        let until = (now + DEDUPLICATION_WINDOW).as_millisecond();
        Self {
            kind: Kind::Seen,
            mark,
            until,
        }
    }

    fn make(&self, connection: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
        marks::insert(connection, now_ms, self.kind, &self.mark, self.until)
    }
}

/// One task. Those with a ticket are answered.
#[derive(Debug)]
pub enum Task {
    /// A message that is kept, or must not come twice.
    Publish {
        ticket: Ticket,
        id: Ulid,
        mark: Option<Marking>,
        message: Publish,
    },
    /// A write to storage.
    Write {
        ticket: Ticket,
        mark: Option<Marking>,
        write: Write,
    },
    /// A reaction; `id` names the change.
    React {
        ticket: Ticket,
        id: Ulid,
        reacting: Reacting,
    },
    /// A plan.
    Schedule {
        ticket: Ticket,
        id: Ulid,
        mark: Option<Marking>,
        due_ms: i64,
        message: Option<Ulid>,
        deferred: Deferred,
    },
    /// A plan is taken back.
    Cancel { ticket: Ticket, id: Ulid },
    /// A plan is carried out. `message` is the identifier of its message.
    Fire {
        plan: Ulid,
        message: Ulid,
        deferred: Deferred,
    },
    /// A single-use token.
    Spend { mark: Marking },
    /// A single-use token was of no use after all.
    Unspend { mark: Mark },
    /// What a subscription needs: its token spent, and what it observes.
    Join {
        channel: Arc<str>,
        mark: Option<Marking>,
        observe: Option<Keys>,
    },
    /// Removes what has expired.
    Sweep,
    /// Writes how high identifiers are.
    Pulse { ceiling: i64 },
    /// Is a token spent?
    Check { ticket: Ticket, mark: Mark },
    /// One entry.
    Read {
        ticket: Ticket,
        channel: Arc<str>,
        key: Box<str>,
    },
    /// The event of a message.
    Find {
        ticket: Ticket,
        channel: Arc<str>,
        message: Ulid,
    },
    /// What is planned.
    Planned { ticket: Ticket, id: Ulid },
    /// The plans that are due.
    Due,
    /// What a process must know that begins.
    Status,
}

/// What came of a task.
#[derive(Debug, Default)]
pub struct Effect {
    /// What happened, in order.
    pub outcomes: Vec<Outcome>,
    /// Something has been kept that expires then, in milliseconds.
    pub expires: Option<i64>,
    /// What else there is to know.
    pub more: More,
}

/// What the engine must know beside the outcomes.
#[derive(Debug, Default)]
pub enum More {
    /// Nothing.
    #[default]
    Nothing,
    /// A mark was made.
    Marked(Marking),
    /// The token had been spent before.
    Spent,
    /// The entries that a subscription observes, and the mark of the token that was spent for it.
    Observed(Vec<Entry>, Option<Marking>),
    /// They are too many.
    TooMuch,
    /// There is a plan that is due then, in milliseconds.
    Planned(i64, Option<Marking>),
    /// Plans that are due, and when the next one is that is not.
    Due(Vec<Plan>, Option<i64>),
    /// What a sweep has done.
    Swept(Swept),
    /// What a process must know that begins: how high identifiers are, when the next plan is due, when anything expires.
    Status(Height, Option<i64>, Option<i64>),
}

impl Effect {
    fn answer(ticket: Ticket, answer: Answer) -> Self {
        Self {
            outcomes: vec![Outcome::Answer(ticket, answer)],
            ..Self::default()
        }
    }

    fn of(more: More) -> Self {
        Self {
            more,
            ..Self::default()
        }
    }
}

impl Task {
    /// Does it change anything?
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Self::Publish { .. }
            | Self::Write { .. }
            | Self::React { .. }
            | Self::Schedule { .. }
            | Self::Cancel { .. }
            | Self::Fire { .. }
            | Self::Spend { .. }
            | Self::Unspend { .. }
            | Self::Sweep
            | Self::Pulse { .. } => true,
            Self::Join { mark, .. } => mark.is_some(),
            Self::Check { .. }
            | Self::Read { .. }
            | Self::Find { .. }
            | Self::Planned { .. }
            | Self::Due
            | Self::Status => false,
        }
    }

    /// About how many bytes of memory it takes while it waits.
    #[must_use]
    pub fn size(&self) -> usize {
        let publish = |it: &Publish| it.data.as_str().len() + it.event.len();
        let write = |it: &Write| it.value.as_ref().map_or(0, |it| it.as_str().len());
        let more = match self {
            Self::Publish { message, .. } => publish(message),
            Self::Write { write: it, .. } => write(it),
            Self::Schedule { deferred, .. } | Self::Fire { deferred, .. } => match deferred {
                Deferred::Publish(it) => publish(it),
                Deferred::Write(it) => write(it),
            },
            _ => 0,
        };
        512 + more
    }

    /// Does it. What has an error has changed nothing: the caller takes it back.
    pub fn apply(self, connection: &Connection, now: Timestamp) -> rusqlite::Result<Effect> {
        let now_ms = now.as_millisecond();
        Ok(match self {
            Self::Publish {
                ticket,
                id,
                mark,
                message,
            } => {
                let answer = Outcome::Answer(ticket, Answer::Published(id));
                if let Some(mark) = &mark
                    && !mark.make(connection, now_ms)?
                {
                    return Ok(Effect {
                        outcomes: vec![answer],
                        ..Effect::default()
                    });
                }
                let mut effect = deliver(connection, now_ms, id, message)?;
                effect.outcomes.insert(0, answer);
                effect.more = mark.map_or(More::Nothing, More::Marked);
                effect
            }
            Self::Write {
                ticket,
                mark,
                write,
            } => {
                let answer = Outcome::Answer(ticket, Answer::Done);
                if let Some(mark) = &mark
                    && !mark.make(connection, now_ms)?
                {
                    return Ok(Effect {
                        outcomes: vec![answer],
                        ..Effect::default()
                    });
                }
                let (mut outcomes, expires) = entries::write(connection, now_ms, &write)?;
                outcomes.insert(0, answer);
                Effect {
                    outcomes,
                    expires: Some(expires),
                    more: mark.map_or(More::Nothing, More::Marked),
                }
            }
            Self::React {
                ticket,
                id,
                reacting,
            } => Effect {
                outcomes: reactions::react(connection, now, ticket, id, &reacting)?,
                ..Effect::default()
            },
            Self::Schedule {
                ticket,
                id,
                mark,
                due_ms,
                message,
                deferred,
            } => {
                let answer = Answer::Scheduled {
                    schedule: id,
                    message,
                };
                if let Some(mark) = &mark
                    && !mark.make(connection, now_ms)?
                {
                    return Ok(Effect::answer(ticket, answer));
                }
                plans::insert(connection, id, due_ms, message, &deferred)?;
                Effect {
                    more: More::Planned(due_ms, mark),
                    ..Effect::answer(ticket, answer)
                }
            }
            Self::Cancel { ticket, id } => match plans::remove(connection, id)? {
                true => Effect::answer(ticket, Answer::Done),
                false => Effect::answer(ticket, Answer::NotFound),
            },
            Self::Fire {
                plan,
                message,
                deferred,
            } => match plans::remove(connection, plan)? {
                true => fire(connection, now_ms, message, deferred)?,
                // It was taken back meanwhile.
                false => Effect::default(),
            },
            Self::Spend { mark } => match mark.make(connection, now_ms)? {
                true => Effect::of(More::Marked(mark)),
                false => Effect::of(More::Spent),
            },
            Self::Unspend { mark } => {
                marks::remove(connection, Kind::Spent, &mark)?;
                Effect::default()
            }
            Self::Join {
                channel,
                mark,
                observe,
            } => {
                let observed = match &observe {
                    Some(keys) => entries::observed(connection, now_ms, &channel, keys)?,
                    None => Some(Vec::new()),
                };
                match observed {
                    None => Effect::of(More::TooMuch),
                    Some(observed) => match mark {
                        Some(mark) if !mark.make(connection, now_ms)? => Effect::of(More::Spent),
                        _ => Effect::of(More::Observed(observed, mark)),
                    },
                }
            }
            Self::Sweep => Effect::of(More::Swept(sweep::sweep(connection, now_ms)?)),
            Self::Pulse { ceiling } => {
                let mut height = meta::read(connection)?;
                height.ceiling = ceiling;
                height.wall = now_ms;
                meta::write(connection, height)?;
                Effect::default()
            }
            Self::Check { ticket, mark } => {
                match marks::contains(connection, now_ms, Kind::Spent, &mark)? {
                    true => Effect::answer(ticket, Answer::Spent),
                    false => Effect::answer(ticket, Answer::Done),
                }
            }
            Self::Read {
                ticket,
                channel,
                key,
            } => {
                let entry = entries::read(connection, now_ms, &channel, &key)?;
                Effect::answer(ticket, Answer::Entry(entry))
            }
            Self::Find {
                ticket,
                channel,
                message,
            } => {
                let event = messages::event(connection, now_ms, &channel, message)?;
                Effect::answer(ticket, Answer::Found(event))
            }
            Self::Planned { ticket, id } => Effect::answer(ticket, plans::find(connection, id)?),
            Self::Due => {
                let due = plans::due(connection, now_ms, PLANS)?;
                Effect::of(More::Due(due, plans::next(connection)?))
            }
            Self::Status => Effect::of(More::Status(
                meta::read(connection)?,
                plans::next(connection)?,
                sweep::next(connection)?,
            )),
        })
    }
}

/// Keeps a message if it is to be kept, and has it delivered.
fn deliver(
    connection: &Connection,
    now_ms: i64,
    id: Ulid,
    message: Publish,
) -> rusqlite::Result<Effect> {
    let expires = match message.store {
        0 => None,
        _ => Some(messages::insert(connection, now_ms, id, &message)?),
    };
    let told = message
        .emit
        .then(|| Outcome::Tell(Happening::Published(id, message.clone())));
    let mut outcomes = vec![Outcome::Message(id, message)];
    outcomes.extend(told);
    Ok(Effect {
        outcomes,
        expires,
        more: More::Nothing,
    })
}

/// Does what was planned (R-SCHED-10, R-SCHED-18, R-HIST-11).
fn fire(
    connection: &Connection,
    now_ms: i64,
    message: Ulid,
    deferred: Deferred,
) -> rusqlite::Result<Effect> {
    match deferred {
        Deferred::Publish(publish) => deliver(connection, now_ms, message, publish),
        Deferred::Write(write) => {
            let (outcomes, expires) = entries::write(connection, now_ms, &write)?;
            Ok(Effect {
                outcomes,
                expires: Some(expires),
                more: More::Nothing,
            })
        }
    }
}
