//! One client, from its welcome to its close code: who it is, what it may do, where it is subscribed, when it must be
//! looked at again. Plain data, so that it can be taken out of one process and put into another.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use jiff::Timestamp;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use crate::channels::ChannelKey;
use crate::claims::{Claims, Grants};
use crate::json::Json;
use crate::protocol::Meta;

/// Names a connection: 16 characters of URL-safe base64 that end in `=` (R-CONN-12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionId([u8; 16]);

impl ConnectionId {
    /// A new one: 88 random bits, unique for any number of connections that could be open.
    pub fn random() -> Self {
        let mut id = [0; 16];
        let bits: [u8; 11] = rand::random();
        URL_SAFE
            .encode_slice(bits, &mut id)
            .expect("eleven bytes are sixteen characters");
        Self(id)
    }

    /// As clients write it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }

    /// Reads what a client wrote; `None` if it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = text.as_bytes().try_into().ok()?;
        bytes.is_ascii().then_some(Self(bytes))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What only a connection and this server know: 20 alphanumeric characters (R-CONN-13), 119 bits.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Secret([u8; 20]);

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        let mut rng = rand::rng();
        Self(std::array::from_fn(|_| rng.sample(Alphanumeric)))
    }

    /// Reads what somebody gave for one; `None` if it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 20] = text.as_bytes().try_into().ok()?;
        bytes
            .iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(Self(bytes))
    }

    /// As the client gets it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("alphanumeric characters are ASCII")
    }

    /// Compares without telling by the time it takes how much was right.
    pub fn matches(&self, text: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, text.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A user and its metadata; `None` stands for `null` in both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The user id.
    pub uid: Option<Arc<str>>,
    /// The user's metadata.
    pub umd: Option<Json>,
}

impl Identity {
    /// Who a token says somebody is.
    pub fn of(claims: &Claims) -> Self {
        Self {
            uid: claims.uid.as_deref().map(Into::into),
            umd: claims.umd.clone().filter(|umd| !umd.is_null()),
        }
    }
}

impl<'a> From<&'a Identity> for Meta<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            uid: identity.uid.as_deref(),
            umd: identity.umd.as_ref(),
        }
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The address of the peer, or what a trusted proxy said it is (R-CFG-5).
    pub source_ip: Option<IpAddr>,
    /// Its `User-Agent`.
    pub user_agent: Option<Box<str>>,
}

/// Most bytes of a `User-Agent` that are kept: it is stored with every message that is (R-HIST-10), and its sender would
/// otherwise choose how large that is.
const USER_AGENT_BYTES: usize = 512;

impl Origin {
    /// Of a request: the address that was found out for it, and what its headers say.
    pub fn new(source_ip: Option<IpAddr>, headers: &http::HeaderMap) -> Self {
        let agent = headers.get(http::header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        Self {
            source_ip,
            // What `to_str` gives is ASCII.
            user_agent: agent.map(|agent| agent[..agent.len().min(USER_AGENT_BYTES)].into()),
        }
    }
}

/// A connection that is subscribed to a channel.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The channel.
    pub channel: ChannelKey,
    /// Where this subscription stands in the channel's list.
    pub position: usize,
    /// Who it acts as (R-CLAIM-19 to R-CLAIM-21).
    pub identity: Identity,
    /// The token with which it was made, if it was not the connect token.
    pub token: Option<Arc<Claims>>,
    /// The name by which this client calls the channel.
    pub alias: Option<Box<str>>,
    /// When it began: the default start of the history it may see (R-HIST-5).
    pub since: Timestamp,
    /// Was it counted? Fixed at its beginning (R-SUB-18).
    pub counted: bool,
    /// Can it observe any storage? As its tokens say, which never change; so a write asks only those who can.
    pub observes: bool,
}

/// What a connection has sent to be kept or planned, as long as the engine has not answered. It is read on meanwhile, as far
/// as what it sends next can't overtake that (R-CONN-22).
#[derive(Debug)]
pub struct Entrusted {
    /// How much of it.
    pub count: u32,
    /// The channel for which all of it is, if it is one.
    pub channel: Option<Arc<str>>,
    /// A message that came behind and waits until all is answered; so the connection is parked.
    pub held: Option<Box<str>>,
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    /// Its public name.
    pub id: ConnectionId,
    /// Tells it from others on the HTTP interface.
    pub secret: Secret,
    /// What its connect token says.
    pub claims: Arc<Claims>,
    /// Who it is. The metadata may change (R-UMD-6).
    pub identity: Identity,
    /// Where it comes from.
    pub origin: Origin,
    /// Since when.
    pub connected_at: Timestamp,
    /// Its subscriptions, sorted by channel key: there may be thousands.
    pub subscriptions: Vec<Subscription>,
    /// The channels of those that have an alias: few, where subscriptions may be many.
    pub aliased: Vec<ChannelKey>,
    /// When something is due.
    pub deadlines: Deadlines,
    /// How many messages it has sent lately.
    pub rate: Rate,
    /// How many requests it waits for; what it sends meanwhile waits too (R-CONN-22).
    pub parked: u32,
    /// What it sent to be kept or planned and the engine has not answered, if there is anything.
    pub entrusted: Option<Box<Entrusted>>,
    /// Messages to it are compressed (R-CONN-32).
    pub deflate: bool,
    /// The mark of the last pre-copy that its claims were in (`docs/handover.md`); 0 if they were in none.
    pub precopied: u64,
    /// Distinguishes connections that had the same number in the server's table one after the other.
    pub serial: u64,
}

impl Connection {
    /// Its subscription to a channel.
    pub fn subscription(&self, channel: ChannelKey) -> Option<&Subscription> {
        self.find(channel).ok().map(|at| &self.subscriptions[at])
    }

    /// Its subscription to a channel, to be changed.
    pub fn subscription_mut(&mut self, channel: ChannelKey) -> Option<&mut Subscription> {
        self.find(channel)
            .ok()
            .map(|at| &mut self.subscriptions[at])
    }

    /// Adds a subscription to a channel that it has none to.
    pub fn add(&mut self, subscription: Subscription) {
        if let Err(at) = self.find(subscription.channel) {
            if subscription.alias.is_some() {
                self.aliased.push(subscription.channel);
            }
            self.subscriptions.insert(at, subscription);
        }
    }

    /// Removes the subscription to a channel.
    pub fn remove(&mut self, channel: ChannelKey) -> Option<Subscription> {
        let at = self.find(channel).ok()?;
        let subscription = self.subscriptions.remove(at);
        if subscription.alias.is_some() {
            self.aliased.retain(|&it| it != channel);
        }
        if self.subscriptions.is_empty() {
            self.subscriptions = Vec::new();
        }
        Some(subscription)
    }

    /// The channel to which this connection is subscribed under an alias.
    pub fn channel_of_alias(&self, alias: &str) -> Option<ChannelKey> {
        let named = |channel: &ChannelKey| {
            self.subscription(*channel)
                .is_some_and(|subscription| subscription.alias.as_deref() == Some(alias))
        };
        self.aliased.iter().copied().find(named)
    }

    /// What holds for this connection in a channel, with or without a subscription to it.
    pub fn grants<'a>(
        &'a self,
        channel: &'a str,
        subscription: Option<&'a Subscription>,
    ) -> Grants<'a> {
        Grants {
            connect: &self.claims,
            subscription: subscription.and_then(|subscription| subscription.token.as_deref()),
            channel,
        }
    }

    fn find(&self, channel: ChannelKey) -> Result<usize, usize> {
        self.subscriptions
            .binary_search_by_key(&channel, |subscription| subscription.channel)
    }
}

/// How long a connection may live, be silent, be deaf.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Without a message in either direction for so long, it is closed (R-CONN-19).
    pub idle: Option<Duration>,
    /// It is closed at this age (R-CONN-18).
    pub duration: Option<Duration>,
    /// `hotsock.keepAlive` is sent so often to who asked for it (R-LIVE-1).
    pub keep_alive: Duration,
    /// A peer from which nothing came for so long is pinged (R-DIFF-4).
    pub ping: Option<Duration>,
}

/// Something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// No heartbeat in time (R-LIVE-7).
    HeartbeatMissed,
    /// The connection's age has reached the limit (R-CONN-18).
    Expired,
    /// No message for too long (R-CONN-19).
    Idle,
    /// The peer answers no ping (R-CONN-25).
    Dead,
    /// Send `hotsock.keepAlive`.
    KeepAlive,
    /// Send a ping of the WebSocket protocol.
    Ping,
}

/// All moments at which a connection must be looked at. Deciding is pure; the server keeps one timer for each connection.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// When the last message went in either direction.
    last_message: Instant,
    /// When the last byte came from the peer.
    last_heard: Instant,
    /// Pings sent since, without an answer, and when the last one left.
    unanswered: u8,
    pinged: Instant,
    heartbeat: Option<(Duration, Instant)>,
    keep_alive: Option<Instant>,
    opened: Instant,
}

/// [`Deadlines`] on their way, in microseconds before the freeze, or as time that is left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DeadlinesState {
    message_ago: u64,
    heard_ago: u64,
    unanswered: u8,
    pinged_ago: u64,
    heartbeat: Option<(Duration, Duration)>,
    keep_alive: Option<Duration>,
    opened_ago: u64,
}

impl DeadlinesState {
    /// The deadlines as they are now, in the process that goes on.
    pub fn import(&self, now: Instant) -> Deadlines {
        Deadlines {
            last_message: back(now, self.message_ago),
            last_heard: back(now, self.heard_ago),
            unanswered: self.unanswered,
            pinged: back(now, self.pinged_ago),
            heartbeat: self.heartbeat.map(|(timeout, left)| (timeout, now + left)),
            keep_alive: self.keep_alive.map(|left| now + left),
            opened: back(now, self.opened_ago),
        }
    }
}

/// How long ago, in whole microseconds.
fn ago(now: Instant, then: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(then).as_micros()).unwrap_or(u64::MAX)
}

/// The moment so many microseconds ago, or now if this clock does not reach back so far.
fn back(now: Instant, microseconds: u64) -> Instant {
    now.checked_sub(Duration::from_micros(microseconds))
        .unwrap_or(now)
}

/// Pings that may stay unanswered before the peer counts as dead; each is given half the ping interval.
const MISSES: u8 = 2;

/// How long reading what has come may take once a client is read again.
const READING: Duration = Duration::from_secs(1);

impl Deadlines {
    /// Those of a connection that opens now.
    pub fn new(
        now: Instant,
        pace: &Pace,
        heartbeat_timeout: Option<Duration>,
        keep_alive: bool,
    ) -> Self {
        Self {
            last_message: now,
            last_heard: now,
            unanswered: 0,
            pinged: now,
            heartbeat: heartbeat_timeout.map(|timeout| (timeout, now + timeout)),
            keep_alive: keep_alive.then(|| now + pace.keep_alive),
            opened: now,
        }
    }

    /// As they travel to another process, whose monotonic clock may be another one: time passed and time left.
    pub fn export(&self, now: Instant) -> DeadlinesState {
        DeadlinesState {
            message_ago: ago(now, self.last_message),
            heard_ago: ago(now, self.last_heard),
            unanswered: self.unanswered,
            pinged_ago: ago(now, self.pinged),
            heartbeat: (self.heartbeat)
                .map(|(timeout, due)| (timeout, due.saturating_duration_since(now))),
            keep_alive: self
                .keep_alive
                .map(|due| due.saturating_duration_since(now)),
            opened_ago: ago(now, self.opened),
        }
    }

    /// A message went in either direction.
    pub fn message(&mut self, now: Instant) {
        self.last_message = now;
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.unanswered = 0;
    }

    /// A heartbeat came.
    pub fn heartbeat(&mut self, now: Instant) {
        if let Some((timeout, due)) = &mut self.heartbeat {
            *due = now + *timeout;
        }
    }

    /// What the client sends is read again, after it had to wait. A heartbeat or a pong that was due meanwhile may be among
    /// what has come, so there is a moment to read it (R-LIVE-20). Who waited for less loses and gains nothing.
    pub fn resumed(&mut self, now: Instant, pace: &Pace) {
        if let Some((_, due)) = &mut self.heartbeat
            && *due <= now
        {
            *due = now + READING;
        }
        if self.next_ping(pace).is_some_and(|at| at <= now) {
            self.heard(now);
        }
    }

    /// What is due now, the most final first; and it counts as done. `parked`: what the client sends is not read at the
    /// moment, so that it can't be blamed for being silent.
    pub fn due(&mut self, now: Instant, pace: &Pace, parked: bool) -> Option<Due> {
        if pace
            .duration
            .is_some_and(|limit| self.opened + limit <= now)
        {
            return Some(Due::Expired);
        }
        if !parked && self.heartbeat.is_some_and(|(_, due)| due <= now) {
            return Some(Due::HeartbeatMissed);
        }
        if let Some(due) = &mut self.keep_alive
            && *due <= now
        {
            // A message, so it comes before the idle limit when both are late.
            // Counted from connecting; a process that was stopped for long sends one, not all that it missed.
            while *due <= now {
                *due += pace.keep_alive;
            }
            self.last_message = now;
            return Some(Due::KeepAlive);
        }
        if !parked
            && pace
                .idle
                .is_some_and(|limit| self.last_message + limit <= now)
        {
            return Some(Due::Idle);
        }
        if !parked && self.next_ping(pace).is_some_and(|at| at <= now) {
            if self.unanswered >= MISSES {
                return Some(Due::Dead);
            }
            self.unanswered += 1;
            self.pinged = now;
            return Some(Due::Ping);
        }
        None
    }

    /// When to look again. `None`: no limit applies.
    pub fn next(&self, pace: &Pace, parked: bool) -> Option<Instant> {
        let silence = [
            self.heartbeat.map(|(_, due)| due),
            pace.idle.map(|limit| self.last_message + limit),
            self.next_ping(pace),
        ];
        [
            pace.duration.map(|limit| self.opened + limit),
            self.keep_alive,
        ]
        .into_iter()
        .chain(silence.into_iter().filter(|_| !parked))
        .flatten()
        .min()
    }

    fn next_ping(&self, pace: &Pace) -> Option<Instant> {
        let interval = pace.ping?;
        Some(match self.unanswered {
            0 => self.last_heard + interval,
            _ => self.pinged + interval / 2,
        })
    }
}

/// How many messages came within the second that began with the first of them.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    since: Instant,
    count: usize,
}

impl Rate {
    /// None so far.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
        }
    }

    /// Counts a message, and says whether it is within the cap (R-DIFF-18).
    pub fn allows(&mut self, now: Instant, most: usize) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count += 1;
        self.count <= most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// R-HIST-10: it is kept with every stored message.
    #[test]
    fn a_user_agent_is_kept_up_to_a_length() {
        let of = |agent: &[u8]| {
            let mut headers = http::HeaderMap::new();
            let value = http::HeaderValue::from_bytes(agent).expect("a header");
            headers.insert(http::header::USER_AGENT, value);
            Origin::new(None, &headers).user_agent
        };
        assert_eq!(of(b"demo/1.0").as_deref(), Some("demo/1.0"));
        let kept = of(&[b'x'; 10_000]).map(|agent| agent.len());
        assert_eq!(kept, Some(USER_AGENT_BYTES));
        // Bytes that are no text are nobody's name.
        assert_eq!(of(b"caf\xe9"), None);
        assert_eq!(
            Origin::new(None, &http::HeaderMap::new()),
            Origin::default()
        );
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The defaults of the settings, with the duration limit of the reference.
    fn pace() -> Pace {
        Pace {
            idle: Some(seconds(600)),
            duration: Some(seconds(7200)),
            keep_alive: seconds(570),
            ping: Some(seconds(30)),
        }
    }

    /// Looks at a connection whenever it asks for that, as the server does, until it must be closed or `end` is reached.
    /// `hear` is asked at every ping whether the peer answers it.
    fn live(
        deadlines: &mut Deadlines,
        pace: &Pace,
        end: Instant,
        mut answers: impl FnMut(Instant) -> bool,
    ) -> Vec<(Instant, Due)> {
        let mut happened = Vec::new();
        while let Some(now) = deadlines.next(pace, false).filter(|at| *at <= end) {
            while let Some(due) = deadlines.due(now, pace, false) {
                happened.push((now, due));
                match due {
                    Due::Ping if answers(now) => deadlines.heard(now),
                    Due::Ping | Due::KeepAlive => {}
                    _ => return happened,
                }
            }
        }
        happened
    }

    /// R-LIVE-1, R-LIVE-3, R-LIVE-4, R-CONN-18
    #[test]
    fn twelve_keep_alives_in_two_hours_then_the_duration_limit() {
        let start = Instant::now();
        let pace = pace();
        let mut deadlines = Deadlines::new(start, &pace, None, true);
        let happened = live(&mut deadlines, &pace, start + seconds(10_000), |_| true);
        let notable: Vec<_> = happened
            .into_iter()
            .filter(|(_, due)| *due != Due::Ping)
            .map(|(at, due)| ((at - start).as_secs(), due))
            .collect();
        let mut wanted: Vec<_> = (1..=12).map(|n| (n * 570, Due::KeepAlive)).collect();
        wanted.push((7200, Due::Expired));
        assert_eq!(notable, wanted);
    }

    /// R-LIVE-1, R-DIFF-3
    #[test]
    fn other_traffic_does_not_move_the_keep_alive() {
        let start = Instant::now();
        let pace = Pace {
            idle: None,
            ping: None,
            duration: None,
            ..pace()
        };
        let mut deadlines = Deadlines::new(start, &pace, None, true);
        deadlines.message(start + seconds(569));
        deadlines.heard(start + seconds(569));
        assert_eq!(deadlines.next(&pace, false), Some(start + seconds(570)));
        assert_eq!(
            deadlines.due(start + seconds(570), &pace, false),
            Some(Due::KeepAlive)
        );
    }

    /// R-LIVE-2
    #[test]
    fn who_did_not_ask_for_keep_alives_gets_none_and_is_idle_in_time() {
        let start = Instant::now();
        let pace = pace();
        let mut deadlines = Deadlines::new(start, &pace, None, false);
        let happened = live(&mut deadlines, &pace, start + seconds(10_000), |_| true);
        assert!(happened.iter().all(|(_, due)| *due != Due::KeepAlive));
        // R-CONN-20: twenty answered pings were no messages.
        assert_eq!(
            happened.last(),
            Some(&(start + seconds(600), Due::Idle)),
            "{happened:?}"
        );
    }

    /// R-CONN-25, R-DIFF-4
    #[test]
    fn a_peer_that_is_gone_is_pinged_twice_and_noticed_within_a_minute() {
        let start = Instant::now();
        let pace = pace();
        let mut deadlines = Deadlines::new(start, &pace, None, false);
        let gone = live(&mut deadlines, &pace, start + seconds(10_000), |_| false);
        let wanted = [(30, Due::Ping), (45, Due::Ping), (60, Due::Dead)];
        assert_eq!(
            gone,
            wanted.map(|(at, due)| (start + seconds(at), due)).to_vec()
        );
    }

    /// R-LIVE-20
    #[test]
    fn a_heartbeat_that_came_while_earlier_messages_were_processed_counts() {
        let start = Instant::now();
        let pace = pace();
        let mut deadlines = Deadlines::new(start, &pace, Some(seconds(5)), false);
        let late = start + seconds(90);
        assert_eq!(deadlines.due(late, &pace, true), None, "it is not read");
        assert!(
            deadlines.next(&pace, true).is_some_and(|at| at > late),
            "waiting is not looked at in a circle"
        );
        deadlines.resumed(late, &pace);
        assert_eq!(deadlines.due(late, &pace, false), None, "it is read now");
        deadlines.heartbeat(late);
        assert_eq!(
            deadlines.due(late + seconds(5), &pace, false),
            Some(Due::HeartbeatMissed)
        );
    }

    /// R-LIVE-9
    #[test]
    fn waiting_for_something_short_does_not_move_the_heartbeat() {
        let start = Instant::now();
        let pace = pace();
        let mut deadlines = Deadlines::new(start, &pace, Some(seconds(5)), false);
        for tenth in 0..50 {
            deadlines.resumed(start + tenth * SECOND / 10, &pace);
        }
        assert_eq!(
            deadlines.due(start + seconds(5), &pace, false),
            Some(Due::HeartbeatMissed)
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Message,
        Heartbeat,
        Pong,
        Look,
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![
            Just(Event::Message),
            Just(Event::Heartbeat),
            Just(Event::Pong),
            Just(Event::Look)
        ];
        prop::collection::vec((0u64..4_000, event), 0..60)
    }

    fn limit(most: u64) -> impl Strategy<Value = Option<Duration>> {
        prop::option::of((10..most).prop_map(Duration::from_millis))
    }

    proptest! {
        /// R-CONN-18, R-CONN-19, R-CONN-20, R-CONN-25, R-LIVE-5, R-LIVE-7, R-LIVE-8, R-LIVE-9, R-LIVE-17: whatever a client
        /// does and in whatever moments the server looks, nothing is closed early, and a server that looks when it was told
        /// to is never late.
        #[test]
        fn connections_are_closed_in_time_and_never_early(
            idle in limit(20_000),
            duration in limit(60_000),
            ping in limit(10_000),
            heartbeat in limit(20_000),
            keep_alive in prop::option::of(10u64..20_000),
            events in events(),
        ) {
            let start = Instant::now();
            let pace = Pace {
                idle,
                duration,
                ping,
                keep_alive: Duration::from_millis(keep_alive.unwrap_or(1)),
            };
            let mut deadlines = Deadlines::new(start, &pace, heartbeat, keep_alive.is_some());
            // What a reader of the specification would write down.
            let (mut message, mut beat, mut heard, mut now) = (start, start, start, start);
            for (wait, event) in events {
                let until = now + Duration::from_millis(wait);
                while let Some(at) = deadlines.next(&pace, false).filter(|at| *at <= until) {
                    prop_assert!(at > now || at == start, "looked at twice in one moment");
                    now = at;
                    let mut closed = false;
                    while let Some(due) = deadlines.due(now, &pace, false) {
                        match due {
                            Due::Expired => prop_assert_eq!(Some(now - start), duration),
                            Due::Idle => prop_assert_eq!(Some(now - message), idle),
                            Due::HeartbeatMissed => prop_assert_eq!(Some(now - beat), heartbeat),
                            Due::Dead => {
                                let interval = ping.expect("who was pinged");
                                prop_assert_eq!(now - heard, interval + interval / 2 * 2);
                            }
                            Due::KeepAlive => {
                                let interval = pace.keep_alive.as_nanos();
                                prop_assert_eq!((now - start).as_nanos() % interval, 0);
                                message = now;
                            }
                            Due::Ping => prop_assert!(Some(now - heard) >= ping),
                        }
                        closed |= !matches!(due, Due::KeepAlive | Due::Ping);
                        if closed {
                            break;
                        }
                    }
                    if closed {
                        return Ok(());
                    }
                }
                now = until;
                match event {
                    Event::Message => {
                        (message, heard) = (now, now);
                        deadlines.message(now);
                        deadlines.heard(now);
                    }
                    Event::Heartbeat => {
                        (message, heard, beat) = (now, now, now);
                        deadlines.message(now);
                        deadlines.heard(now);
                        deadlines.heartbeat(now);
                    }
                    Event::Pong => {
                        heard = now;
                        deadlines.heard(now);
                    }
                    Event::Look => prop_assert_eq!(deadlines.due(now, &pace, false), None, "looked at too often"),
                }
                for (since, limit) in [(start, duration), (message, idle), (beat, heartbeat)] {
                    prop_assert!(limit.is_none_or(|limit| now - since <= limit), "closed too late");
                }
                prop_assert!(ping.is_none_or(|interval| now - heard <= interval * 2), "noticed too late");
            }
        }

        /// R-DIFF-18: never more than the cap within a second of a burst, and who keeps to the cap is never refused.
        #[test]
        fn a_rate_is_capped_and_who_keeps_to_it_is_let_through(
            most in 1usize..20,
            waits in prop::collection::vec(0u64..1_500, 1..80),
        ) {
            let start = Instant::now();
            let mut rate = Rate::new(start);
            let (mut now, mut asked, mut allowed) = (start, Vec::new(), Vec::new());
            for wait in waits {
                now += Duration::from_millis(wait);
                asked.push(now);
                let recent = |moments: &[Instant]| moments.iter().filter(|at| now - **at < SECOND).count();
                if rate.allows(now, most) {
                    allowed.push(now);
                    prop_assert!(recent(&allowed) <= 2 * most, "two windows at most meet in one second");
                } else {
                    prop_assert!(recent(&asked) > most);
                }
            }
        }
    }
}
