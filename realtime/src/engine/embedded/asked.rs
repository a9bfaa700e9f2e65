//! Requests on their way: to the writer, with a place in their channel's line; to the readers; or answered at once.

use std::sync::Arc;

use jiff::Timestamp;

use super::super::marks::mark;
use super::super::store;
use super::super::store::marks::Kind;
use super::super::store::reader::{Ask, Question};
use super::super::store::task::{Marking, Task};
use super::super::{Answer, Deferred, Outcome, Publish, SPENT_MARGIN, SingleUse, Ticket};
use super::Embedded;
use super::line::{Held, Then};
use crate::events::Happening;
use crate::time::Now;

/// Messages that nobody keeps and that wait behind one that is being kept, at most.
const LIVE: usize = 1 << 16;

impl Embedded {
    pub(super) fn publish(&mut self, now: Now, ticket: Ticket, message: Publish) {
        let id = self.ids.next(now.wall);
        let Some(mark) = self.copy(now, &message.channel, message.deduplication_id.as_deref())
        else {
            let answer = Outcome::Answer(ticket, Answer::Published(id));
            return self.put(&message.channel, answer);
        };
        let channel = message.channel.clone();
        if message.store != 0 || mark.is_some() {
            let task = Task::Publish {
                ticket,
                id,
                mark,
                message,
            };
            return self.give_in(now, channel, ticket, task, Then::Said);
        }
        let told = (message.emit && self.tells)
            .then(|| Outcome::Tell(Happening::Published(id, message.clone())));
        let answer = Outcome::Answer(ticket, Answer::Published(id));
        let line = match self.lines.is_empty() {
            true => None,
            false => self.lines.get_mut(&channel),
        };
        let outcomes = [Some(answer), Some(Outcome::Message(id, message)), told];
        let outcomes = outcomes.into_iter().flatten();
        match line {
            None => self.outcomes.extend(outcomes),
            Some(line) if self.live < LIVE => {
                self.live += 1;
                line.push_back(Held::Live(outcomes.collect()));
            }
            Some(_) => self.answer(ticket, Answer::Unavailable(store::BUSY)),
        }
    }

    pub(super) fn schedule(
        &mut self,
        now: Now,
        ticket: Ticket,
        at: Timestamp,
        mut deferred: Deferred,
        eager: bool,
    ) {
        let id = self.ids.next(now.wall);
        let message = eager.then(|| self.ids.next(now.wall));
        let channel = deferred.channel().clone();
        // Decided now, and not again when it is due (R-SRV-16).
        let copy = match &mut deferred {
            Deferred::Publish(publish) => publish.deduplication_id.take(),
            Deferred::Write(write) => write.deduplication_id.take(),
        };
        let Some(mark) = self.copy(now, &channel, copy.as_deref()) else {
            let answer = Answer::Scheduled {
                schedule: id,
                message,
            };
            return self.answer(ticket, answer);
        };
        // Not before its time (R-SCHED-13), so that what is left of a millisecond counts.
        let due_ms = (at.as_nanosecond() + 999_999).div_euclid(1_000_000);
        let task = Task::Schedule {
            ticket,
            id,
            mark,
            due_ms: i64::try_from(due_ms).unwrap_or(i64::MAX),
            message,
            deferred,
        };
        self.give_apart(now, ticket, task, Then::Said);
    }

    /// The mark that must be made for something with an identifier for deduplication; nothing at all for a known copy.
    #[expect(clippy::option_option, reason = "a copy, no mark, a mark")]
    pub(super) fn copy(
        &self,
        now: Now,
        channel: &str,
        id: Option<&str>,
    ) -> Option<Option<Marking>> {
        let Some(id) = id else {
            return Some(None);
        };
        // A channel's name holds no white space, so the two parts cannot run into each other.
        let mark = mark(&[channel, " ", id]);
        match self.seen.contains(now.wall, &mark) {
            true => None,
            false => Some(Some(Marking::seen(now.wall, mark))),
        }
    }

    /// The mark that must be made for a single-use token; nothing at all for one that is known to be spent.
    #[expect(clippy::option_option, reason = "spent, no token, a mark")]
    pub(super) fn marking(&self, now: Now, token: Option<SingleUse>) -> Option<Option<Marking>> {
        let Some(token) = token else {
            return Some(None);
        };
        let mark = mark(&[&token.jti]);
        let until = token.until.checked_add(SPENT_MARGIN);
        match self.spent.contains(now.wall, &mark) {
            true => None,
            false => Some(Some(Marking {
                kind: Kind::Spent,
                mark,
                until: until.unwrap_or(Timestamp::MAX).as_millisecond(),
            })),
        }
    }

    pub(super) fn ask(&mut self, now: Now, ticket: Ticket, ask: Ask) {
        let question = Question {
            ticket,
            now: now.wall,
            ask,
        };
        if !self.store.ask(question) {
            self.answer(ticket, Answer::Unavailable(store::BUSY));
        }
    }

    /// Gives the writer a task that has its place in a channel's line.
    pub(super) fn give_in(
        &mut self,
        now: Now,
        channel: Arc<str>,
        ticket: Ticket,
        task: Task,
        then: Then,
    ) {
        let given = self.store.give(
            now,
            self.ids.last,
            Some(channel.clone()),
            Some(ticket),
            task,
        );
        match given {
            Some(number) => {
                let line = self.lines.entry(channel).or_default();
                line.push_back(Held::Awaited(number, then));
            }
            None => {
                let refusal = Outcome::Answer(ticket, Answer::Unavailable(store::BUSY));
                self.put(&channel, refusal);
            }
        }
    }

    /// Gives the writer a task that belongs to no channel.
    pub(super) fn give_apart(&mut self, now: Now, ticket: Ticket, task: Task, then: Then) {
        match self
            .store
            .give(now, self.ids.last, None, Some(ticket), task)
        {
            Some(number) => drop(self.apart.insert(number, then)),
            None => self.answer(ticket, Answer::Unavailable(store::BUSY)),
        }
    }
}
