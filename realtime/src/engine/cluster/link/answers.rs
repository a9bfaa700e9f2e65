//! What came of requests.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;
use redis_protocol::resp3::types::BytesFrame;
use tracing::{info, warn};
use ulid::Ulid;

use super::{Expect, Fields, Garbled, Link, Phase, REFUSED, failure};
use crate::connection::ConnectionId;
use crate::engine::cluster::channel::{Channel, Held};
use crate::engine::cluster::event::{kept_write, member, members, value, written};
use crate::engine::cluster::op::{Observed, Op, Page, Progress, Work};
use crate::engine::cluster::reply::{id, text};
use crate::engine::store::entries::size as entry_size;
use crate::engine::store::messages::size as message_size;
use crate::engine::{
    Answer, Deferred, Entry, Outcome, PAGE_BYTES, PAGE_ITEMS, Publish, Reacting, Reaction, Request,
    Stored, Write,
};
use crate::events::{Happening, StorageChange};
use crate::presence::{Change, Member};

/// Errors after which only another connection helps: the scripts are gone, or the server is no primary any more.
const FATAL: [&str; 8] = [
    "READONLY",
    "NOSCRIPT",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOAUTH",
    "NOPERM",
    "BUSY",
];

/// Errors that waiting does not cure.
const WRONG: [&str; 5] = ["WRONGPASS", "NOAUTH", "NOPERM", "NOPROTO", "ERR"];

/// How often the keys of a storage may change while a subscription begins that observes some.
const TRIES: usize = 10;

/// What is to be done after an answer.
enum Next {
    /// It is this.
    Answer(Answer),
    /// Another step.
    Step,
    /// Everything has been said.
    Done,
}

impl Link {
    /// An answer or a push.
    pub(super) fn came(&mut self, now: Instant, frame: BytesFrame) {
        if let BytesFrame::Push { .. } = frame {
            return self.pushed(now, frame);
        }
        let Some((sent, expect)) = self.expected.pop_front() else {
            let why = failure(&frame).unwrap_or_else(|| "it answers what nobody asked".into());
            return self.fail(now, &why, false);
        };
        let error = failure(&frame);
        match expect {
            Expect::Hello | Expect::Select | Expect::Info | Expect::Load => {
                if let Some(error) = error {
                    let wrong = WRONG.iter().any(|wrong| error.starts_with(wrong))
                        && !error.contains("max number of clients");
                    return self.fail(now, &error, wrong);
                }
                self.greeted(now, &expect, frame);
            }
            Expect::Op(op) => {
                self.flying -= 1;
                self.weight -= op.weight();
                let took = now.saturating_duration_since(sent);
                self.shared.meter.committed(1, took, error.is_none());
                match error {
                    Some(error) if is_fatal(&error) => {
                        self.flying += 1;
                        self.weight += op.weight();
                        self.expected.push_front((now, Expect::Op(op)));
                        self.fail(now, &error, false);
                    }
                    Some(error) => {
                        self.complain(now, &error);
                        self.refused(*op);
                    }
                    None => self.op_answered(now, *op, frame),
                }
                if matches!(self.phase, Phase::Lost) {
                    self.take_name(now);
                }
            }
            Expect::Call(ticket) => {
                // This process listens itself.
                let alone = !matches!(frame, BytesFrame::Number { data, .. } if data > 1);
                if alone && self.calls.remove(&ticket).is_some() {
                    self.answer(Some(ticket), Answer::NotFound);
                }
            }
            Expect::Return => self.settled += 1,
            Expect::Resume(_) | Expect::Register { .. } | Expect::CatchUp(_) => {
                if let Some(error) = error {
                    return self.fail(now, &error, false);
                }
                let done = Fields::of(frame).and_then(|fields| match expect {
                    Expect::Resume(asked) => self.resumed(now, &asked, fields),
                    Expect::Register { last } => self.registered(now, last, fields),
                    Expect::CatchUp(asked) => self.caught_up(now, asked, fields),
                    _ => Ok(()),
                });
                if let Err(error) = done {
                    self.fail(now, &error.to_string(), false);
                }
            }
            Expect::Tend | Expect::Fire => {
                let tending = matches!(expect, Expect::Tend);
                if tending {
                    self.tending = false;
                    self.tend_at = Some(now + super::TEND);
                } else {
                    self.firing = false;
                    self.fire_at = None;
                }
                match error {
                    Some(error) if is_fatal(&error) => return self.fail(now, &error, false),
                    Some(error) => return self.complain(now, &error),
                    None => {}
                }
                let done = Fields::of(frame).and_then(|fields| match tending {
                    true => self.tended(now, fields),
                    false => self.fired(now, fields),
                });
                if let Err(error) = done {
                    self.complain(now, &error);
                }
            }
        }
    }

    /// The server has refused a request, and has not done it.
    fn refused(&mut self, mut op: Op) {
        op.sequence = None;
        if op.releases() {
            // It is tried again: a subscription must end.
            self.later.push(op);
            return;
        }
        if op.entered
            && let Some((channel, _)) = op.joins()
        {
            let channel = channel.clone();
            self.left(&channel, 1);
            self.barrier = false;
        }
        self.finish(op, Answer::Unavailable(REFUSED));
    }

    fn op_answered(&mut self, now: Instant, mut op: Op, frame: BytesFrame) {
        let barrier = matches!(op.progress, Progress::Keys(_) | Progress::Observes(_));
        let next = Fields::of(frame).and_then(|mut fields| {
            let code = fields.text()?;
            if code == "NONODE" || code == "STALE" {
                return Ok(None);
            }
            self.interpret(now, &mut op, &code, fields).map(Some)
        });
        match next {
            Ok(None) => {
                op.sequence = None;
                self.lose_name(now, op);
            }
            Ok(Some(Next::Step)) => {
                op.sequence = None;
                self.barrier = op.joins().is_some();
                self.send(now, op);
                return;
            }
            Ok(Some(Next::Answer(answer))) => self.finish(op, answer),
            Ok(Some(Next::Done)) => {}
            Err(error) => {
                self.complain(now, &error);
                self.refused(op);
            }
        }
        if barrier {
            self.barrier = false;
        }
    }

    fn interpret(
        &mut self,
        now: Instant,
        op: &mut Op,
        code: &str,
        mut fields: Fields,
    ) -> Result<Next, Garbled> {
        let request = match &op.work {
            Work::Release(channel, uid, held) => {
                let (channel, uid, held) = (channel.clone(), uid.clone(), *held);
                self.released(&channel, &uid, held, fields)?;
                // Nobody is answered, but it is settled.
                return Ok(Next::Answer(Answer::Done));
            }
            Work::Asked(request) => &**request,
        };
        let answer = match (request, code) {
            (_, "SPENT") if !matches!(request, Request::Join { .. }) => Answer::Spent,
            (Request::Join { .. }, _) => return self.joining(op, code, fields),
            (Request::Update { channel, .. }, "OK") => {
                let (channel, member) = match request {
                    Request::Update { member, .. } => (channel.clone(), member.clone()),
                    _ => return Ok(Next::Done),
                };
                let position = fields.number_if_any()?;
                if let Some(ticket) = op.ticket {
                    self.outcomes.push(Outcome::Answer(ticket, Answer::Done));
                    self.settled += 1;
                }
                if fields.text()? == "U" {
                    self.changed(&channel, position, Change::Updated(member), None);
                }
                return Ok(Next::Done);
            }
            (Request::Update { .. }, "FULL") => Answer::PresenceFull,
            (Request::Publish(publish), _) => {
                let id = fields.id()?;
                let fresh = (code == "OK").then(|| publish.clone());
                let position = match fresh {
                    Some(_) => fields.number_if_any()?,
                    None => None,
                };
                if let Some(ticket) = op.ticket {
                    self.outcomes
                        .push(Outcome::Answer(ticket, Answer::Published(id)));
                    self.settled += 1;
                }
                if let Some(publish) = fresh {
                    self.published(id, publish, position);
                }
                return Ok(Next::Done);
            }
            (Request::Describe { .. }, _) => Answer::Described {
                subscriptions: fields.number()?,
                members: members(fields.list()?)?.into(),
            },
            (Request::Write(_), "COPY") => Answer::Done,
            (Request::Write(write), _) => {
                let write = write.clone();
                if let Some(ticket) = op.ticket {
                    self.outcomes.push(Outcome::Answer(ticket, Answer::Done));
                    self.settled += 1;
                }
                self.wrote(write, &mut fields)?;
                return Ok(Next::Done);
            }
            (Request::Read { .. }, _) => {
                fields.number()?;
                Answer::Entry(entries(fields.list()?)?.pop().map(|(entry, _)| entry))
            }
            (Request::List { permitted, .. }, _) => {
                let permitted = permitted.clone();
                let Progress::Page(page) = &mut op.progress else {
                    return Err(Garbled("a page that nobody wants"));
                };
                match turn_page(page, &permitted, fields)? {
                    true => Answer::Entries(std::mem::take(&mut page.entries)),
                    false => return Ok(Next::Step),
                }
            }
            (Request::History(_), _) => {
                let (mut found, mut bytes) = match std::mem::take(&mut op.progress) {
                    Progress::Messages(found, bytes, _) => (found, bytes),
                    _ => (Vec::new(), 0),
                };
                let cursor = Some(fields.text()?).filter(|cursor| !cursor.is_empty());
                let mut full = false;
                for frame in fields.list()? {
                    let message = message(Fields::of(frame)?)?;
                    let size = message_size(&message);
                    if !found.is_empty() && bytes + size > PAGE_BYTES {
                        full = true;
                        break;
                    }
                    bytes += size;
                    found.push(message);
                }
                if full || found.len() >= PAGE_ITEMS || cursor.is_none() {
                    Answer::Messages(found)
                } else {
                    op.progress = Progress::Messages(found, bytes, cursor);
                    return Ok(Next::Step);
                }
            }
            (Request::Find { .. }, _) => {
                let there = fields.flag()?;
                let event = fields.text()?;
                Answer::Found(there.then(|| event.into()))
            }
            (Request::React(reacting), "OK") => {
                let reacting = reacting.clone();
                let changed = fields.flag()?;
                if let Some(ticket) = op.ticket {
                    self.outcomes.push(Outcome::Answer(ticket, Answer::Done));
                    self.settled += 1;
                }
                if changed {
                    self.reacted(reacting, fields)?;
                }
                return Ok(Next::Done);
            }
            (
                Request::Reactions {
                    message, since_ms, ..
                },
                "OK",
            ) => {
                if i64::try_from(message.timestamp_ms()).is_ok_and(|ms| ms < *since_ms) {
                    Answer::NotFound
                } else {
                    Answer::Reactions(reactions(fields.list()?)?)
                }
            }
            (Request::Schedule { eager, .. }, _) => {
                let schedule = fields.id()?;
                let message = fields.present()?;
                let message = message.map(|it| id(&text(&it)?)).transpose()?;
                let due = fields.number_if_any()?;
                let redis_now = fields.number()?;
                let first = self.shared.due().into_iter().chain(due).min();
                self.fire_by(now, redis_now, first);
                Answer::Scheduled {
                    schedule,
                    message: message.filter(|_| *eager),
                }
            }
            (Request::Planned(_), "OK") => {
                let at = fields
                    .moment()?
                    .ok_or(Garbled("a schedule without a time"))?;
                let kind = fields.text()?;
                let before_last = fields.bytes()?;
                let last = fields.bytes()?;
                let deferred = match &*kind {
                    "P" => Deferred::Publish(value(&last)?),
                    "W" => Deferred::Write(written(&before_last, &last)?),
                    _ => return Err(Garbled("an unknown plan")),
                };
                Answer::Planned {
                    at,
                    deferred: Box::new(deferred),
                }
            }
            (_, "NOTFOUND") => Answer::NotFound,
            (Request::Spend(_) | Request::Check(_) | Request::Cancel(_), "OK") => Answer::Done,
            _ => return Err(Garbled("an unknown answer")),
        };
        Ok(Next::Answer(answer))
    }

    /// A subscription begins, or not yet, or not at all.
    fn joining(&mut self, op: &mut Op, code: &str, mut fields: Fields) -> Result<Next, Garbled> {
        if let Progress::Keys(observed) = &mut op.progress {
            let version = fields.text()?;
            if observed.after.is_some() && observed.version != version {
                // Another key has come: from the beginning.
                observed.keys.clear();
                observed.after = None;
                observed.tries += 1;
                if observed.tries > TRIES {
                    return Ok(self.not_joined(op, Answer::Unavailable(REFUSED)));
                }
                return Ok(Next::Step);
            }
            observed.version = version;
            let more = fields.flag()?;
            observed.after = Some(fields.bytes()?);
            let Some(Request::Join {
                observe: Some(permitted),
                ..
            }) = op.request()
            else {
                return Err(Garbled("keys that nobody wants"));
            };
            let permitted = permitted.clone();
            let Progress::Keys(observed) = &mut op.progress else {
                return Err(Garbled("keys that nobody wants"));
            };
            for key in fields.list()? {
                if let BytesFrame::BlobString { data, .. } = key
                    && std::str::from_utf8(&data).is_ok_and(|key| permitted.permit(key))
                {
                    observed.keys.push(data);
                }
            }
            if !more {
                op.progress = Progress::Observes(std::mem::take(observed));
            }
            return Ok(Next::Step);
        }
        let Some(Request::Join {
            channel: name,
            connection,
            member,
            counted,
            observe,
            ..
        }) = op.request().cloned()
        else {
            return Err(Garbled("a subscription that nobody wants"));
        };
        let position = fields.number_if_any()?;
        let change = fields.text()?;
        let count = fields.number()?;
        let list = fields.list()?;
        let observed = fields.list()?;
        let listed = fields.flag()?;
        let list = match listed && member.is_some() {
            true => Some(members(list)?),
            false => None,
        };
        let channel = self.channels.entry(name.clone()).or_default();
        if channel.position.is_none() {
            // Without a member there is no list to be had: the position alone is enough.
            if position.is_some() && (list.is_some() || member.is_none()) {
                channel.members = list.clone().unwrap_or_default();
                channel.position = position;
                channel.live = true;
            }
        } else if let Some(member) = member.clone().filter(|_| channel.live && code == "OK") {
            channel.put(member);
            channel.position = position.or(channel.position);
        }
        match code {
            "OK" => {}
            "KEYS" => {
                let tries = match &op.progress {
                    Progress::Observes(observed) => observed.tries + 1,
                    _ => 0,
                };
                if tries > TRIES {
                    return Ok(self.not_joined(op, Answer::Unavailable(REFUSED)));
                }
                op.progress = Progress::Keys(Observed {
                    tries,
                    ..Observed::default()
                });
                return Ok(Next::Step);
            }
            "SPENT" => return Ok(self.not_joined(op, Answer::Spent)),
            "FULL" => return Ok(self.not_joined(op, Answer::PresenceFull)),
            "TOOMUCH" => return Ok(self.not_joined(op, Answer::TooMuch)),
            _ => return Err(Garbled("an unknown answer")),
        }
        let mut seen = Vec::new();
        for (entry, _) in entries(observed)? {
            if observe.as_ref().is_some_and(|keys| keys.permit(&entry.key)) {
                seen.push(entry);
            }
        }
        let channel = self.channels.entry(name.clone()).or_default();
        let uid = member.as_ref().map(|member| member.uid.clone());
        channel.hold(uid.clone(), counted);
        // While older things are being read again, only Redis has the list.
        let members = match list {
            Some(list) if !channel.live => list.into(),
            _ => channel.list(),
        };
        if op.abandoned {
            // It exists, and nobody wants it.
            let held = Held {
                subscriptions: 1,
                counted: usize::from(counted),
            };
            self.redo.push_back(Op::release(name, uid, held));
            return Ok(Next::Answer(Answer::TooMuch));
        }
        if let Some(ticket) = op.ticket {
            let answer = Answer::Joined {
                members: member.is_some().then(|| members.clone()),
                observed: seen,
            };
            self.outcomes.push(Outcome::Answer(ticket, answer));
            self.settled += 1;
        }
        if counted {
            self.tell_count(&name, count);
        }
        if let Some(member) = member {
            // A new member is announced to the others; new metadata of a known one to all, the joiner included (R-PRES-11).
            let (change, except) = match &*change {
                "A" => (Some(Change::Added(member)), Some(connection)),
                "U" => (Some(Change::Updated(member)), None),
                _ => (None, None),
            };
            if let Some(change) = change {
                self.announce(&name, change, members, except);
            }
        }
        Ok(Next::Done)
    }

    fn not_joined(&mut self, op: &Op, answer: Answer) -> Next {
        if let Some((channel, _)) = op.joins() {
            let channel = channel.clone();
            self.left(&channel, 1);
        }
        Next::Answer(answer)
    }

    /// Subscriptions have ended.
    fn released(
        &mut self,
        name: &Arc<str>,
        uid: &Option<Arc<str>>,
        held: Held,
        mut fields: Fields,
    ) -> Result<(), Garbled> {
        let position = fields.number_if_any()?;
        let gone = fields.text()? == "R";
        let count = fields.number_if_any()?;
        if let Some(count) = count.filter(|_| held.counted > 0) {
            self.tell_count(name, count);
        }
        if let Some(channel) = self.channels.get_mut(name) {
            channel.let_go(uid, held);
            if let Some(uid) = uid.as_ref().filter(|_| gone) {
                let known = channel.members.iter().find(|member| member.uid == *uid);
                let member = known.cloned().unwrap_or(Member {
                    uid: uid.clone(),
                    umd: None,
                });
                self.changed(name, position, Change::Removed(member), None);
            }
        }
        self.left(name, held.subscriptions);
        Ok(())
    }

    /// A change of a list that this node has caused itself.
    fn changed(
        &mut self,
        name: &Arc<str>,
        position: Option<u64>,
        change: Change,
        except: Option<ConnectionId>,
    ) {
        if !self.reached(name, position) {
            return;
        }
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        match &change {
            Change::Added(member) | Change::Updated(member) => {
                channel.put(member.clone());
            }
            Change::Removed(member) => {
                channel.take(&member.uid);
            }
        }
        let members = channel.list();
        if position.is_some() {
            self.announce(name, change, members, except);
        } else {
            // Nobody is left who could be told, but for backends.
            self.tell_member(name, &change, &members);
        }
    }

    fn tell_member(&mut self, name: &Arc<str>, change: &Change, members: &Arc<[Member]>) {
        if self.shared.tells() {
            self.tell(Happening::Member {
                channel: name.clone(),
                change: change.clone(),
                members: members.clone(),
            });
        }
    }

    pub(super) fn announce(
        &mut self,
        name: &Arc<str>,
        change: Change,
        members: Arc<[Member]>,
        except: Option<ConnectionId>,
    ) {
        self.outcomes.push(Outcome::Presence {
            channel: name.clone(),
            change: change.clone(),
            members: members.clone(),
            except,
        });
        self.tell_member(name, &change, &members);
    }

    /// What this node did stands at that position of a channel. False: what happened there is still to be read, this too.
    fn reached(&mut self, name: &Arc<str>, position: Option<u64>) -> bool {
        match self.channels.get_mut(name) {
            None => true,
            Some(channel) if !channel.live => channel.position.is_none(),
            Some(channel) => {
                channel.position = channel.position.max(position);
                true
            }
        }
    }

    fn reacted(&mut self, reacting: Reacting, mut fields: Fields) -> Result<(), Garbled> {
        let id_now = fields.id()?;
        let position = fields.number_if_any()?;
        let expires_at = fields.moment()?;
        let (id_then, then) = kept_reaction(&fields.bytes()?)?;
        if self.shared.tells() && reacting.emit {
            // What was put on is what is taken off (R-EVT-33, R-EVT-35).
            let told = Reacting {
                umd: then.umd,
                source: then.source,
                ..reacting.clone()
            };
            self.tell(Happening::Reaction {
                id: id_then,
                reacting: Box::new(told),
                created_at: moment_of(id_then),
                expires_at,
            });
        }
        if self.reached(&reacting.channel, position) {
            self.outcomes.push(Outcome::Reaction {
                id: id_now,
                reacting,
            });
        }
        Ok(())
    }

    fn tell(&mut self, happening: Happening) {
        self.outcomes.push(Outcome::Tell(happening));
    }

    fn tell_count(&mut self, channel: &Arc<str>, subscriptions: u64) {
        if self.shared.tells() {
            self.tell(Happening::Channel {
                channel: channel.clone(),
                subscriptions,
            });
        }
    }

    /// A message of this node has happened.
    fn published(&mut self, id: Ulid, publish: Publish, position: Option<u64>) {
        let told = (self.shared.tells() && publish.emit).then(|| publish.clone());
        if self.reached(&publish.channel, position) {
            self.outcomes.push(Outcome::Message(id, publish));
        }
        if let Some(publish) = told {
            self.tell(Happening::Published(id, publish));
        }
    }

    /// A write of this node has happened: whether it changed anything, its position, the write before, one that had expired
    /// and when, and when this one expires follow.
    fn wrote(&mut self, write: Write, fields: &mut Fields) -> Result<(), Garbled> {
        let changed = fields.flag()?;
        let position = fields.number_if_any()?;
        if changed && self.reached(&write.channel, position) {
            self.outcomes.push(stored(write.clone()));
        }
        let before = fields.present()?.map(|it| kept_write(&it)).transpose()?;
        let lapsed = fields.present()?.map(|it| kept_write(&it)).transpose()?;
        let lapsed_at = fields.moment()?;
        let expires_at = fields.moment()?;
        if !self.shared.tells() {
            return Ok(());
        }
        if let Some(lapsed) = lapsed {
            self.tell_expired(lapsed, lapsed_at);
        }
        if changed && write.emit {
            self.tell(Happening::Storage(Box::new(StorageChange {
                channel: write.channel,
                key: write.key,
                value: write.value,
                previous: before.and_then(|before| before.value),
                expired: false,
                expires_at,
                meta: write.meta,
                source: write.source,
            })));
        }
        Ok(())
    }

    fn tell_expired(&mut self, lapsed: Write, at: Option<Timestamp>) {
        self.tell(Happening::Storage(Box::new(StorageChange {
            channel: lapsed.channel,
            key: lapsed.key,
            value: None,
            previous: lapsed.value,
            expired: true,
            expires_at: at,
            meta: lapsed.meta,
            source: lapsed.source,
        })));
    }

    /// The next schedule is due at a time of the server's clock.
    fn fire_by(&mut self, now: Instant, redis_now: u64, due: Option<u64>) {
        self.shared.set_due(due);
        self.fire_at = None;
        let Some(due) = due else { return };
        if self.given.is_some() && due <= redis_now {
            // There is more than one step takes.
            self.asked = true;
        }
        let wait = std::time::Duration::from_millis(due.saturating_sub(redis_now).max(1));
        // Far away is looked at again whenever this node looks after things.
        self.fire_at = Some(now + wait.min(std::time::Duration::from_secs(3600)));
    }

    fn tended(&mut self, now: Instant, mut fields: Fields) -> Result<(), Garbled> {
        let state = fields.text()?;
        let more = fields.flag()?;
        let due = fields.number_if_any()?;
        let reaped = fields.text()?;
        let tells = fields.list()?;
        let redis_now = fields.number()?;
        if more {
            self.tend_at = Some(now);
            self.asked |= self.given.is_some();
        }
        self.fire_by(now, redis_now, due);
        if !reaped.is_empty() && self.reaping != reaped {
            info!(
                node = reaped,
                "a host has not shown that it lives: its subscriptions end"
            );
            self.reaping = reaped;
        }
        let again = std::mem::take(&mut self.later);
        self.redo.extend(again);
        for told in tells {
            let mut told = Fields::of(told)?;
            match &*told.text()? {
                "C" => {
                    let channel: Arc<str> = told.text()?.into();
                    let count = told.number()?;
                    self.tell_count(&channel, count);
                }
                "R" => {
                    let channel: Arc<str> = told.text()?.into();
                    let member = member(&told.bytes()?, &told.bytes()?)?;
                    let members = members(told.list()?)?.into();
                    self.tell(Happening::Member {
                        channel,
                        change: Change::Removed(member),
                        members,
                    });
                }
                "E" => {
                    let lapsed = kept_write(&told.bytes()?)?;
                    let at = told.moment()?;
                    self.tell_expired(lapsed, at);
                }
                _ => return Err(Garbled("an unknown happening")),
            }
        }
        if state != "OK" && self.is_up() {
            warn!(
                "this host had not been heard of for too long and was taken for dead: it says again what it holds"
            );
            self.enter(Phase::Lost, now);
            self.take_name(now);
        }
        Ok(())
    }

    fn fired(&mut self, now: Instant, mut fields: Fields) -> Result<(), Garbled> {
        fields.text()?;
        let due = fields.number_if_any()?;
        let tells = fields.list()?;
        let redis_now = fields.number()?;
        self.fire_by(now, redis_now, due);
        for told in tells {
            let mut told = Fields::of(told)?;
            match &*told.text()? {
                "P" => {
                    let id = told.id()?;
                    let publish = value(&told.bytes()?)?;
                    let position = told.number_if_any()?;
                    self.published(id, publish, position);
                }
                "W" => {
                    let write = written(&told.bytes()?, &told.bytes()?)?;
                    self.wrote(write, &mut told)?;
                }
                _ => return Err(Garbled("an unknown happening")),
            }
        }
        Ok(())
    }

    /// Redis knows what came of a request whose answer was lost. Announcements have been read meanwhile.
    pub(super) fn settle_known(&mut self, op: Op, parts: &[Bytes]) -> Result<(), Garbled> {
        let (Some(code), first) = (parts.first().map(|it| text(it)).transpose()?, parts.get(1))
        else {
            return Err(Garbled("an operation without an outcome"));
        };
        let the_id = |at: Option<&Bytes>| -> Result<Ulid, Garbled> {
            id(&text(at.ok_or(Garbled("an identifier is missing"))?)?)
        };
        let answer = match (op.request(), &*code) {
            (None, _) => Answer::Done,
            (
                Some(Request::Join {
                    channel, member, ..
                }),
                "OK",
            ) => Answer::Joined {
                members: member.is_some().then(|| {
                    self.channels
                        .get(channel)
                        .map(Channel::list)
                        .unwrap_or_default()
                }),
                observed: Vec::new(),
            },
            (_, "SPENT") => Answer::Spent,
            (_, "FULL") => Answer::PresenceFull,
            (_, "TOOMUCH") => Answer::TooMuch,
            (_, "NOTFOUND") => Answer::NotFound,
            (Some(Request::Publish(publish)), _) => {
                let id = the_id(first)?;
                if code == "OK" && publish.emit && self.shared.tells() {
                    let publish = publish.clone();
                    self.tell(Happening::Published(id, publish));
                }
                Answer::Published(id)
            }
            (Some(Request::Schedule { .. }), _) => Answer::Scheduled {
                schedule: the_id(first)?,
                message: parts
                    .get(2)
                    .filter(|it| !it.is_empty())
                    .map(|it| the_id(Some(it)))
                    .transpose()?,
            },
            _ => Answer::Done,
        };
        self.finish(op, answer);
        Ok(())
    }
}

fn is_fatal(error: &str) -> bool {
    FATAL.iter().any(|fatal| error.starts_with(fatal))
}

/// What subscribers are told of a write.
pub(super) fn stored(write: Write) -> Outcome {
    Outcome::Storage {
        channel: write.channel,
        key: write.key,
        value: write.value,
        meta: write.meta,
    }
}

/// Entries of storage, each with its size.
fn entries(mut listed: Fields) -> Result<Vec<(Entry, usize)>, Garbled> {
    let mut found = Vec::new();
    while !listed.is_empty() {
        let key = listed.text()?;
        let write = kept_write(&listed.bytes()?)?;
        let value = write.value.ok_or(Garbled("an entry without a value"))?;
        let entry = Entry {
            key: key.into(),
            value,
            meta: write.meta,
        };
        let size = entry_size(&entry);
        found.push((entry, size));
    }
    Ok(found)
}

/// The next step of a page of storage. True: the page is complete.
fn turn_page(
    page: &mut Page,
    permitted: &crate::engine::Keys,
    mut fields: Fields,
) -> Result<bool, Garbled> {
    if page.keys.is_empty() && !page.complete {
        fields.text()?;
        page.complete = !fields.flag()?;
        page.after = Some(fields.bytes()?);
        for key in fields.list()? {
            if page.entries.len() + page.keys.len() >= PAGE_ITEMS {
                // There may be more, but not in this page.
                page.complete = true;
                break;
            }
            if let BytesFrame::BlobString { data, .. } = key
                && std::str::from_utf8(&data).is_ok_and(|key| permitted.permit(key))
            {
                page.keys.push_back(data);
            }
        }
        return Ok(page.keys.is_empty() && page.complete);
    }
    let looked = usize::try_from(fields.number()?).unwrap_or(usize::MAX);
    for (entry, size) in entries(fields.list()?)? {
        if !permitted.permit(&entry.key) {
            continue;
        }
        if page.entries.len() >= PAGE_ITEMS
            || !page.entries.is_empty() && page.bytes + size > PAGE_BYTES
        {
            return Ok(true);
        }
        page.bytes += size;
        page.entries.push(entry);
    }
    page.keys.drain(..looked.min(page.keys.len()));
    Ok(page.keys.is_empty() && (page.complete || page.entries.len() >= PAGE_ITEMS))
}

fn message(mut fields: Fields) -> Result<Stored, Garbled> {
    let id = fields.id()?;
    let publish: Publish = value(&fields.bytes()?)?;
    Ok(Stored {
        id,
        event: publish.event,
        data: publish.data,
        meta: publish.meta.unwrap_or_default(),
        reactions: reactions(fields.list()?)?,
    })
}

fn reactions(listed: Fields) -> Result<Vec<Reaction>, Garbled> {
    let mut found = Vec::new();
    for frame in listed {
        let BytesFrame::BlobString { data, .. } = frame else {
            return Err(Garbled("a reaction that is none"));
        };
        let (id, reacting) = kept_reaction(&data)?;
        found.push(Reaction {
            id,
            reaction: reacting.reaction,
            uid: reacting.uid,
            umd: reacting.umd,
        });
    }
    found.sort_by_key(|reaction| reaction.id);
    Ok(found)
}

fn kept_reaction(kept: &[u8]) -> Result<(Ulid, Reacting), Garbled> {
    let (at, body) = kept
        .split_at_checked(32)
        .ok_or(Garbled("a reaction is cut off"))?;
    Ok((id(&text(at)?)?, value(body)?))
}

/// The moment in an identifier.
fn moment_of(id: Ulid) -> Timestamp {
    let ms = i64::try_from(id.timestamp_ms()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
