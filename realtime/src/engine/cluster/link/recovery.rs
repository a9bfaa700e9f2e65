//! From a new connection to serving: who one is, what one holds, what one missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use redis_protocol::resp3::types::BytesFrame;
use tracing::{error, info, warn};

use super::{DOUBT, Expect, Fields, Garbled, LEASE, Link, Phase, unique};
use crate::engine::Health;
use crate::engine::cluster::channel::{Channel, Held};
use crate::engine::cluster::event::{Announced, members};
use crate::engine::cluster::op::{Op, number, of_member, optional, text};
use crate::engine::cluster::reply::unpack;
use crate::engine::cluster::scripts::Script;
use crate::engine::cluster::shared::Adoption;
use crate::presence::Member;

/// Channels named in one command.
const CHANNELS: usize = 256;

/// Units of what is held in one command.
const UNITS: usize = 100;

impl Link {
    /// One of the answers to the greeting.
    pub(super) fn greeted(&mut self, now: Instant, expect: &Expect, frame: BytesFrame) {
        let text_of = |frame: BytesFrame| match frame {
            BytesFrame::BlobString { data, .. }
            | BytesFrame::SimpleString { data, .. }
            | BytesFrame::VerbatimString { data, .. } => Some(data),
            _ => None,
        };
        match expect {
            Expect::Info => {
                let info = text_of(frame).unwrap_or_default();
                if let Err((why, wrong)) = fits(&String::from_utf8_lossy(&info)) {
                    self.fail(now, &why, wrong);
                }
            }
            Expect::Load => {
                let Some(digest) = text_of(frame) else {
                    return self.fail(now, "it can't load a script", true);
                };
                self.digests.push(digest);
                if self.digests.len() == Script::ALL.len() {
                    self.introduce(now);
                }
            }
            _ => {}
        }
    }

    /// Subscribes, and says who this is.
    fn introduce(&mut self, now: Instant) {
        let mut places = vec![
            self.key("calls"),
            self.key(&format!("returns:{}", self.process)),
        ];
        places.extend(
            self.channels
                .keys()
                .map(|name| self.key(&format!("e:{name}"))),
        );
        for places in places.chunks(CHANNELS) {
            let mut subscribe = vec![text("SUBSCRIBE")];
            subscribe.extend(places.iter().map(|place| text(place)));
            self.notify(subscribe);
        }
        if !self.registered {
            // A part may have been said before the connection broke: that goes with its lease.
            self.node = unique();
            self.acting = 1;
            return self.register(now);
        }
        self.enter(Phase::Resuming, now);
        self.acting += 1;
        let mut arguments = vec![text(&self.predecessor), number(LEASE.as_millis())];
        let mut asked = Vec::new();
        for (at, op) in self.redo.iter().enumerate() {
            if let Some(sequence) = op.sequence {
                asked.push(at);
                arguments.push(number(sequence));
            }
        }
        self.script(now, Script::Resume, 0, arguments, Expect::Resume(asked));
    }

    /// Redis says whether it still knows this node, and what came of the requests without an answer.
    pub(super) fn resumed(
        &mut self,
        now: Instant,
        asked: &[usize],
        mut fields: Fields,
    ) -> Result<(), Garbled> {
        let state = fields.text()?;
        let mut results = HashMap::new();
        for (at, result) in asked.iter().zip(fields.list()?) {
            let BytesFrame::BlobString { data, .. } = result else {
                return Err(Garbled("an operation without an outcome"));
            };
            if !data.is_empty() {
                results.insert(*at, unpack(data)?.split_off(1));
            }
        }
        for (at, mut op) in std::mem::take(&mut self.redo).into_iter().enumerate() {
            op.sequence = None;
            match results.remove(&at) {
                Some(parts) => self.was_done(op, parts),
                // Nobody waits for it any more, and it was not done.
                None if op.abandoned => {
                    if let Some((channel, _)) = op.joins() {
                        let channel = channel.clone();
                        self.left(&channel, 1);
                    }
                }
                None => self.redo.push_back(op),
            }
        }
        if state == "OK" {
            self.predecessor.clear();
            self.catch_up(now);
        } else {
            warn!("this host was taken for dead: it says again what it holds");
            self.rename();
            self.register(now);
        }
        Ok(())
    }

    /// A request whose answer was lost was carried out.
    fn was_done(&mut self, mut op: Op, parts: Vec<bytes::Bytes>) {
        let done = parts.first().is_some_and(|code| &**code == b"OK");
        if let Some((name, member)) = op.joins() {
            let (name, uid) = (name.clone(), member.map(|member| member.uid.clone()));
            let counted = matches!(
                op.request(),
                Some(crate::engine::Request::Join { counted: true, .. })
            );
            if !done {
                self.left(&name, 1);
            } else {
                let channel = self.channels.entry(name.clone()).or_default();
                channel.hold(uid.clone(), counted);
                // What it observes went with the answer: it begins again, and nobody notices.
                let observes = matches!(
                    op.request(),
                    Some(crate::engine::Request::Join {
                        observe: Some(_),
                        ..
                    })
                );
                if op.abandoned || observes {
                    let held = Held {
                        subscriptions: 1,
                        counted: usize::from(counted),
                    };
                    if !op.abandoned {
                        channel.subscriptions += 1;
                        op.forget_token();
                        self.redo.push_back(op);
                    }
                    self.redo.push_back(Op::release(name, uid, held));
                    return;
                }
            }
        }
        if let crate::engine::cluster::op::Work::Release(name, uid, held) = &op.work {
            let (name, uid, held) = (name.clone(), uid.clone(), *held);
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.let_go(&uid, held);
            }
            self.left(&name, held.subscriptions);
        }
        self.known.push((op, parts));
    }

    fn rename(&mut self) {
        self.replaces = std::mem::replace(&mut self.node, unique());
        self.acting = 1;
        self.registered = false;
    }

    /// Another has this node's name, or nobody: as soon as nothing is on its way under it, there is a new one.
    pub(super) fn lose_name(&mut self, now: Instant, op: Op) {
        self.redo.push_back(op);
        self.enter(Phase::Lost, now);
    }

    pub(super) fn take_name(&mut self, now: Instant) {
        if self.flying == 0 {
            self.rename();
            self.register(now);
        }
    }

    /// Says under a new name what this node holds.
    fn register(&mut self, now: Instant) {
        self.enter(Phase::Registering, now);
        let mut units = Vec::new();
        for (name, channel) in &self.channels {
            for (uid, held) in &channel.held {
                let mut unit = vec![text(name)];
                unit.extend(optional(uid.as_deref()));
                unit.extend([number(held.subscriptions), number(held.counted)]);
                let known = channel
                    .members
                    .iter()
                    .find(|it| Some(&it.uid) == uid.as_ref());
                let member = known.cloned().unwrap_or_else(|| Member {
                    uid: uid.clone().unwrap_or_else(|| Arc::from("")),
                    umd: None,
                });
                let [_, umd, digest, size] = of_member(&member);
                unit.extend([umd, digest, size]);
                units.push(unit);
            }
        }
        let mut parts: Vec<_> = units.chunks(UNITS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        for (at, part) in parts.into_iter().enumerate() {
            let replaces = if at == last { &*self.replaces } else { "" };
            let mut arguments = vec![number(LEASE.as_millis()), text(replaces)];
            arguments.extend(part.iter().flatten().cloned());
            let expect = Expect::Register { last: at == last };
            self.script(now, Script::Register, 0, arguments, expect);
        }
    }

    pub(super) fn registered(
        &mut self,
        now: Instant,
        last: bool,
        mut fields: Fields,
    ) -> Result<(), Garbled> {
        if fields.text()? == "FORMAT" {
            let format = fields.text()?;
            let why = format!(
                "what another version of this server keeps there is in format {format}, which this version does not read; update this host, or use another engine.prefix"
            );
            self.fail(now, &why, true);
            return Ok(());
        }
        if last {
            self.registered = true;
            self.replaces.clear();
            self.predecessor.clear();
            self.catch_up(now);
        }
        Ok(())
    }

    /// Reads what was missed in all channels.
    fn catch_up(&mut self, now: Instant) {
        self.enter(Phase::Catching, now);
        self.gaps = 0;
        self.missed.clear();
        for (name, channel) in &mut self.channels {
            channel.live = false;
            if channel.position.is_some() || !channel.held.is_empty() {
                self.missed.push_back(name.clone());
            }
        }
        self.read_missed(now);
    }

    fn read_missed(&mut self, now: Instant) {
        let asked: Vec<_> = {
            let most = CHANNELS.min(self.missed.len());
            self.missed.drain(..most).collect()
        };
        if !asked.is_empty() {
            return self.ask_missed(now, asked);
        }
        if self.gaps > 0 {
            error!(
                channels = self.gaps,
                "messages to subscribers may be lost: the time without connection was longer than what is kept of these channels, or Redis has lost it"
            );
        }
        if matches!(self.phase, Phase::Catching) {
            self.serve(now);
        }
    }

    fn ask_missed(&mut self, now: Instant, asked: Vec<Arc<str>>) {
        let mut arguments = Vec::with_capacity(2 * asked.len());
        for name in &asked {
            let position = self.channels.get(name).and_then(|it| it.position);
            arguments.push(text(name));
            arguments.push(position.map_or_else(bytes::Bytes::new, number));
        }
        self.script(now, Script::CatchUp, 0, arguments, Expect::CatchUp(asked));
    }

    /// Announcements of one channel did not arrive: they are read from its log.
    pub(super) fn reread(&mut self, now: Instant, name: &Arc<str>) {
        warn!(
            channel = &**name,
            "an announcement is missing: it is read again"
        );
        if let Some(channel) = self.channels.get_mut(name) {
            channel.live = false;
            self.ask_missed(now, vec![name.clone()]);
        }
    }

    /// What was missed in some channels.
    pub(super) fn caught_up(
        &mut self,
        now: Instant,
        asked: Vec<Arc<str>>,
        answers: Fields,
    ) -> Result<(), Garbled> {
        let mut asked = asked.into_iter();
        for answer in answers {
            let Some(name) = asked.next() else {
                return Err(Garbled("more answers than questions"));
            };
            self.missed_in(now, &name, Fields::of(answer)?)?;
        }
        // Those that did not fit into one answer, or have more.
        self.missed.extend(asked);
        self.read_missed(now);
        Ok(())
    }

    fn missed_in(
        &mut self,
        now: Instant,
        name: &Arc<str>,
        mut answer: Fields,
    ) -> Result<(), Garbled> {
        let kind = answer.text()?;
        let head = answer.number_if_any()?;
        if !self.channels.contains_key(name) {
            return Ok(());
        }
        if kind == "LOG" {
            while !answer.is_empty() {
                let announced = Announced::read(answer.bytes()?)?;
                self.happen(name, announced)?;
            }
        }
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        match &*kind {
            "SAME" => {}
            "LOG" if channel.position < head => {
                self.missed.push_back(name.clone());
                return Ok(());
            }
            "LOG" => {}
            "GAP" => {
                let known = channel.position.is_some();
                let forgiving = known && !channel.doubted;
                let list = members(answer.list()?)?;
                if known && !channel.doubted {
                    self.gaps += 1;
                }
                channel.position = head;
                channel.doubted = false;
                if known && forgiving && channel.misses(&list) {
                    channel.doubted = true;
                    self.doubts
                        .entry(now + DOUBT)
                        .or_default()
                        .push(name.clone());
                }
                if known {
                    let keep = channel.doubted;
                    for (change, members) in channel.become_list(list, keep) {
                        self.outcomes.push(crate::engine::Outcome::Presence {
                            channel: name.clone(),
                            change,
                            members,
                            except: None,
                        });
                    }
                } else {
                    channel.members = list;
                }
            }
            _ => return Err(Garbled("an unknown answer")),
        }
        if let Some(channel) = self.channels.get_mut(name) {
            channel.live = true;
        }
        Ok(())
    }

    /// After a failure members were missing in Redis, and their nodes have had time to say that they have them.
    pub(super) fn doubt(&mut self, now: Instant, name: Arc<str>) {
        if let Some(channel) = self.channels.get_mut(&name)
            && channel.doubted
        {
            channel.live = false;
            let arguments = vec![text(&name), bytes::Bytes::new()];
            self.script(
                now,
                Script::CatchUp,
                0,
                arguments,
                Expect::CatchUp(vec![name]),
            );
        }
    }

    fn serve(&mut self, now: Instant) {
        self.enter(Phase::Up, now);
        self.down_since = None;
        self.given_up = false;
        self.attempts = 0;
        self.tend_at = Some(now);
        self.shared.set_health(Health::Well);
        self.shared.began(Ok(()));
        let place = self.installation.address.place.to_string();
        if std::mem::take(&mut self.said_down) {
            info!(engine = place, "the other hosts are in reach again");
        } else {
            info!(engine = place, "joined the other hosts");
        }
        for (op, parts) in std::mem::take(&mut self.known) {
            if let Err(error) = self.settle_known(op, &parts) {
                self.complain(now, &error);
            }
        }
    }

    /// Takes over from another process.
    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption { snapshot, adopted } = adoption;
        let certain = snapshot.as_ref().is_some_and(|it| !it.uncertain);
        let mut held_before = HashMap::new();
        if let Some(snapshot) = snapshot {
            for state in snapshot.channels {
                let held: HashMap<_, _> = state.held.into_iter().collect();
                let channel = Channel {
                    position: state.position,
                    members: state.members,
                    ..Channel::default()
                };
                self.channels.insert(state.name.clone(), channel);
                held_before.insert(state.name, held);
            }
            if certain {
                self.node = snapshot.node;
                self.predecessor = snapshot.process;
                self.registered = true;
            } else {
                self.replaces = snapshot.node;
            }
        }
        for (name, users) in adopted {
            let channel = self.channels.entry(name.clone()).or_default();
            let mut before = held_before.remove(&name).unwrap_or_default();
            for (uid, (held, umd)) in users {
                channel.subscriptions += held.subscriptions;
                if let Some(uid) = &uid
                    && channel.members.iter().all(|it| it.uid != *uid)
                {
                    let uid = uid.clone();
                    channel.members.push(Member { uid, umd });
                }
                channel.held.insert(uid.clone(), held);
                if !certain {
                    continue;
                }
                // What has not come has left.
                let had = before.remove(&uid).unwrap_or_default();
                let lost = Held {
                    subscriptions: had.subscriptions.saturating_sub(held.subscriptions),
                    counted: had.counted.saturating_sub(held.counted),
                };
                if lost.subscriptions > 0 {
                    channel.held.insert(uid.clone(), had);
                    channel.subscriptions += lost.subscriptions;
                    self.redo.push_back(Op::release(name.clone(), uid, lost));
                }
            }
            held_before.insert(name, before);
        }
        for (name, users) in held_before {
            let Some(channel) = self.channels.get_mut(&name) else {
                continue;
            };
            if certain {
                for (uid, held) in users {
                    channel.subscriptions += held.subscriptions;
                    channel.held.insert(uid.clone(), held);
                    self.redo.push_back(Op::release(name.clone(), uid, held));
                }
            }
            if channel.subscriptions == 0 {
                self.channels.remove(&name);
            }
        }
    }
}

/// Is this a server that the scripts can rely on? Otherwise why not, and whether it will never be.
fn fits(info: &str) -> Result<(), (String, bool)> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_default()
    };
    if field("redis_mode") == "cluster" || field("server_mode") == "cluster" {
        let why = "it runs in cluster mode, where a channel's order would be nobody's; use one primary, with replicas or not";
        return Err((why.into(), true));
    }
    let version = field("redis_version");
    let major: u32 = version
        .split('.')
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(0);
    if major < 7 {
        let why = format!("its version is {version}; Redis 7.0 or Valkey 7.2 is needed at least");
        return Err((why, true));
    }
    if field("role") == "slave" {
        return Err(("it is a replica, not the primary".into(), false));
    }
    let policy = field("maxmemory_policy");
    if !matches!(policy, "noeviction" | "") {
        warn!(
            policy,
            "Redis may throw away what this installation keeps when its memory is full: set maxmemory-policy to noeviction"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_relied_on_is_refused_with_the_reason() {
        assert_eq!(
            fits("redis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master"),
            Ok(())
        );
        let (why, wrong) = fits("redis_version:7.2.4\r\nredis_mode:cluster").unwrap_err();
        assert!(wrong && why.contains("cluster mode"), "{why}");
        let (why, wrong) = fits("redis_version:6.2.1\r\nredis_mode:standalone").unwrap_err();
        assert!(wrong && why.contains("6.2.1"), "{why}");
        let (_, wrong) = fits("redis_version:7.2.4\r\nrole:slave").unwrap_err();
        assert!(!wrong, "a replica may become the primary");
    }
}
