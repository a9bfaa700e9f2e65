//! The engine of a single host: members, counts and identifiers in memory, what is kept in a database file.
//!
//! What only concerns memory happens at once. What the file must know first (a message that is kept, a write, a token that
//! is spent) goes to the writer of the [`Store`], and leaves a place in its channel's [`line`]: whatever else comes
//! for that channel waits behind it, so that each channel's outcomes come in the order of its requests; other channels do
//! not wait. A channel for which nothing waits has no line, and costs nothing.

mod asked;
mod finished;
mod line;
mod members;
mod unasked;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ulid::Ulid;

use self::line::{Action, Line, Then};
use self::members::Channel;
use self::unasked::{Due, Pulse};
use super::ids::Ids;
use super::marks::{Expiring, mark};
use super::store::reader::Ask;
use super::store::task::Task;
use super::store::{Durability, Store, Wake};
use super::{Answer, Engine, EngineState, Health, Outcome, Request, Ticket};
use crate::connection::ConnectionId;
use crate::json::Json;
use crate::metrics::EngineMeter;
use crate::presence::{Change, Member};
use crate::time::Now;

/// How long a process that begins waits for the file.
const BEGINNING: Duration = Duration::from_secs(10);

/// How long one that takes over does; everything stands still meanwhile.
const TAKING_OVER: Duration = Duration::from_millis(150);

/// The engine of a single process.
#[derive(Debug)]
pub struct Embedded {
    store: Store,
    last_ticket: u64,
    ids: Ids,
    channels: HashMap<Arc<str>, Channel>,
    /// What of spent tokens and copies is known without asking the file. The file decides: this saves asking it.
    spent: Expiring,
    seen: Expiring,
    outcomes: VecDeque<Outcome>,
    /// Only those in which something waits.
    lines: HashMap<Arc<str>, Line>,
    /// What waits for the file outside of any channel.
    apart: HashMap<u64, Then>,
    /// How many messages wait that nobody keeps.
    live: usize,
    tells: bool,
    /// Nothing is done unasked while another process serves.
    serves: bool,
    /// What had to be known before serving has been read.
    began: bool,
    plans: Due,
    expiry: Due,
    pulse: Pulse,
}

impl Engine for Embedded {
    fn submit(&mut self, now: Now, request: Request) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        match request {
            Request::Publish(message) => self.publish(now, ticket, message),
            Request::Join {
                channel,
                connection,
                member,
                counted,
                observe,
                spend,
            } => {
                let action = Action::Join {
                    ticket,
                    connection,
                    member,
                    counted,
                    observed: Vec::new(),
                    spent: None,
                };
                let Some(mark) = self.marking(now, spend) else {
                    self.put(&channel, Outcome::Answer(ticket, Answer::Spent));
                    return ticket;
                };
                if mark.is_none() && observe.is_none() {
                    self.act(now, channel, action);
                    return ticket;
                }
                let task = Task::Join {
                    channel: channel.clone(),
                    mark,
                    observe,
                };
                self.give_in(now, channel, ticket, task, Then::Act(action));
            }
            Request::Leave {
                channel,
                connection: _,
                uid,
                counted,
            } => self.act(now, channel, Action::Leave { uid, counted }),
            Request::Update {
                channel,
                member,
                spend,
            } => {
                let action = Action::Update {
                    ticket,
                    member,
                    spent: None,
                };
                match self.marking(now, spend) {
                    None => self.put(&channel, Outcome::Answer(ticket, Answer::Spent)),
                    Some(None) => self.act(now, channel, action),
                    Some(Some(mark)) => {
                        self.give_in(
                            now,
                            channel,
                            ticket,
                            Task::Spend { mark },
                            Then::Act(action),
                        );
                    }
                }
            }
            Request::Describe { channel } => self.act(now, channel, Action::Describe { ticket }),
            Request::Spend(token) => match self.marking(now, Some(token)) {
                Some(Some(mark)) => {
                    self.give_apart(now, ticket, Task::Spend { mark }, Then::Spent(ticket));
                }
                _ => self.answer(ticket, Answer::Spent),
            },
            Request::Check(token) => {
                let mark = mark(&[&token.jti]);
                match self.spent.contains(now.wall, &mark) {
                    true => self.answer(ticket, Answer::Spent),
                    false => self.give_apart(now, ticket, Task::Check { ticket, mark }, Then::Said),
                }
            }
            Request::Write(write) => {
                let Some(mark) = self.copy(now, &write.channel, write.deduplication_id.as_deref())
                else {
                    self.put(
                        &write.channel.clone(),
                        Outcome::Answer(ticket, Answer::Done),
                    );
                    return ticket;
                };
                let channel = write.channel.clone();
                let task = Task::Write {
                    ticket,
                    mark,
                    write,
                };
                self.give_in(now, channel, ticket, task, Then::Said);
            }
            Request::React(reacting) => {
                let channel = reacting.channel.clone();
                let id = self.ids.next(now.wall);
                let task = Task::React {
                    ticket,
                    id,
                    reacting,
                };
                self.give_in(now, channel, ticket, task, Then::Said);
            }
            Request::Read { channel, key } => {
                let task = Task::Read {
                    ticket,
                    channel: channel.clone(),
                    key,
                };
                self.give_in(now, channel, ticket, task, Then::Said);
            }
            Request::Find { channel, message } => {
                let task = Task::Find {
                    ticket,
                    channel: channel.clone(),
                    message,
                };
                self.give_in(now, channel, ticket, task, Then::Said);
            }
            Request::List {
                channel,
                select,
                permitted,
            } => {
                let ask = Ask::List {
                    channel,
                    select,
                    permitted,
                };
                self.ask(now, ticket, ask);
            }
            Request::History(asked) => self.ask(now, ticket, Ask::History(asked)),
            Request::Reactions {
                channel,
                message,
                since_ms,
            } => {
                let ask = Ask::Reactions {
                    channel,
                    message,
                    since_ms,
                };
                self.ask(now, ticket, ask);
            }
            Request::Schedule {
                at,
                deferred,
                eager,
            } => self.schedule(now, ticket, at, deferred, eager),
            Request::Planned(id) => {
                self.give_apart(now, ticket, Task::Planned { ticket, id }, Then::Said);
            }
            Request::Cancel(id) => {
                self.give_apart(now, ticket, Task::Cancel { ticket, id }, Then::Said);
            }
            Request::Call { .. } => self.answer(ticket, Answer::NotFound),
            Request::Return { .. } => {}
        }
        ticket
    }

    fn is_elsewhere(&self) -> bool {
        false
    }

    fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    fn turn(&mut self, now: Now) {
        while let Some(done) = self.store.take() {
            self.finished(now, done);
        }
        if self.serves {
            self.due(now);
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        if !self.serves {
            return None;
        }
        let pulse = self.wants_pulse().then_some(self.pulse.next);
        let next = [self.plans.next(), self.expiry.next(), pulse];
        let next = next.into_iter().flatten().min()?;
        Some(Timestamp::from_millisecond(next).unwrap_or(Timestamp::MAX))
    }

    fn tell(&mut self, on: bool) {
        self.tells = on;
    }

    fn is_settled(&self) -> bool {
        self.store.is_idle() && self.lines.is_empty()
    }

    fn settle(&mut self, now: Now, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.is_settled() {
            let left = until.saturating_duration_since(Instant::now());
            match self.store.wait(left) {
                Some(done) => self.finished(now, done),
                None => return false,
            }
        }
        true
    }

    fn health(&self) -> Health {
        self.store.ill().map_or(Health::Well, Health::Ill)
    }

    fn name(&self) -> &'static str {
        "embedded"
    }

    fn begin(&mut self, now: Now) -> anyhow::Result<()> {
        (self.serves, self.began) = (true, false);
        self.unasked(now, Task::Status, Then::Begin { exact: false });
        if !self.settle(now, BEGINNING) || !self.began {
            anyhow::bail!(
                "what is kept can't be read: {}",
                self.store
                    .ill()
                    .unwrap_or_else(|| "the disk does not answer".into())
            );
        }
        Ok(())
    }

    fn export(&self, now: Now) -> EngineState {
        let members = |state: &Channel| {
            let members = state.presence.members();
            members
                .iter()
                .map(|member| {
                    let umd = member.umd.as_ref().map(|umd| umd.as_str().to_owned());
                    (member.uid.to_string(), umd)
                })
                .collect()
        };
        EngineState {
            last_id: self.ids.last.0,
            spent: self.spent.export(now.wall),
            seen: self.seen.export(now.wall),
            presence: (self.channels.iter())
                .filter(|(_, state)| !state.presence.is_empty())
                .map(|(name, state)| (name.to_string(), members(state)))
                .collect(),
            more: Vec::new(),
        }
    }

    fn import(&mut self, now: Now, state: EngineState) {
        self.ids.last = self.ids.last.max(Ulid(state.last_id));
        self.spent.import(state.spent);
        self.seen.import(state.seen);
        for (name, members) in state.presence {
            let channel = self.channels.entry(name.into()).or_default();
            for (uid, umd) in members {
                let umd = umd.and_then(|umd| Json::compact(&umd).ok());
                channel.presence.expect_member(Member {
                    uid: uid.into(),
                    umd,
                });
            }
        }
        (self.serves, self.began) = (true, false);
        // What the predecessor did not come to say is in the file, which may have more than it said.
        let exact = state.last_id > 0;
        self.unasked(now, Task::Status, Then::Begin { exact });
        self.settle(now, TAKING_OVER);
    }

    fn adopt(
        &mut self,
        channel: &Arc<str>,
        _connection: ConnectionId,
        uid: Option<Arc<str>>,
        umd: Option<&Json>,
        counted: bool,
    ) {
        let state = self.channels.entry(channel.clone()).or_default();
        state.subscriptions += 1;
        state.counted += u64::from(counted);
        if let Some(uid) = uid {
            let umd = umd.cloned();
            state.presence.adopt(Member { uid, umd });
        }
    }

    fn adopted(&mut self, _now: Now) {
        let mut left = Vec::new();
        for (name, state) in &mut self.channels {
            while let Some(member) = state.presence.remove_unheld() {
                left.push((name.clone(), member, state.presence.members()));
            }
        }
        self.channels.retain(|_, state| state.subscriptions > 0);
        for (channel, member, members) in left {
            self.changed(channel, Change::Removed(member), members, None, true);
        }
    }

    fn release(&mut self) {
        self.serves = false;
        self.channels.clear();
        self.lines.clear();
        self.live = 0;
        self.apart.clear();
        self.outcomes.clear();
        (self.spent, self.seen) = (Expiring::default(), Expiring::default());
        (self.plans, self.expiry, self.pulse) = Default::default();
    }
}

impl Embedded {
    /// Opens the file in that folder. Nothing is done with it unasked before [`Engine::begin`] or [`Engine::import`].
    ///
    /// # Errors
    /// The file can't be used: damaged, too new, or the folder can't be written. The message says what to do.
    pub fn open(
        folder: &Path,
        durability: Durability,
        meter: EngineMeter,
        wake: Wake,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            store: Store::open(folder, durability, meter, wake)?,
            last_ticket: 0,
            ids: Ids::default(),
            channels: HashMap::new(),
            spent: Expiring::default(),
            seen: Expiring::default(),
            outcomes: VecDeque::new(),
            lines: HashMap::new(),
            apart: HashMap::new(),
            live: 0,
            tells: false,
            serves: false,
            began: false,
            plans: Due::default(),
            expiry: Due::default(),
            pulse: Pulse::default(),
        })
    }
}

#[cfg(test)]
mod tests;
