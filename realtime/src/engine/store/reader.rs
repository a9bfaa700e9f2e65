//! The threads that only read: pages of history and of storage. They see what has been answered, and keep nobody waiting
//! who writes.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;
use tracing::error;
use ulid::Ulid;

use super::super::{Answer, History, Keys, Select, Ticket};
use super::{Done, Wake};
use super::{entries, messages, reactions};

/// A question on its way to the readers.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub ticket: Ticket,
    /// When.
    pub now: Timestamp,
    /// What.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Debug)]
pub enum Ask {
    /// A page of storage.
    List {
        channel: Arc<str>,
        select: Select,
        permitted: Keys,
    },
    /// A page of messages.
    History(History),
    /// The reactions to a message.
    Reactions {
        channel: Arc<str>,
        message: Ulid,
        since_ms: i64,
    },
}

/// What a reader has.
pub struct Reader {
    pub connection: Connection,
    pub questions: Arc<Mutex<Receiver<Question>>>,
    pub done: Sender<Done>,
    pub wake: Wake,
}

impl Reader {
    /// Works until nobody can ask any more.
    pub fn run(self) {
        loop {
            // Whoever waits holds the lock; the others wait for the lock.
            let next = self
                .questions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok(question) = next else {
                return;
            };
            let ticket = question.ticket;
            let answer = self.answer(question);
            let answer = answer.inspect_err(|error| error!(%error, "the database can't be read"));
            let answer = answer.unwrap_or(Answer::Unavailable(super::UNREADABLE));
            let _ = self.done.send(Done::Read(ticket, answer));
            (self.wake)();
        }
    }

    fn answer(&self, question: Question) -> rusqlite::Result<Answer> {
        let now_ms = question.now.as_millisecond();
        // One moment of the file for everything that is read.
        let connection = self.connection.unchecked_transaction()?;
        Ok(match question.ask {
            Ask::List {
                channel,
                select,
                permitted,
            } => Answer::Entries(entries::list(
                &connection,
                now_ms,
                &channel,
                &select,
                &permitted,
            )?),
            Ask::History(asked) => Answer::Messages(messages::page(&connection, now_ms, &asked)?),
            Ask::Reactions {
                channel,
                message,
                since_ms,
            } => {
                let old = i64::try_from(message.timestamp_ms()).is_ok_and(|at| at < since_ms);
                match messages::find(&connection, now_ms, &channel, message)? {
                    Some((row, _)) if !old => Answer::Reactions(reactions::of(&connection, row)?),
                    _ => Answer::NotFound,
                }
            }
        })
    }
}
