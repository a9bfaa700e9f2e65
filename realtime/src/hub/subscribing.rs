//! A client subscribes to channels, and ends its subscriptions.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Client, Hub, Waiting, single_use};
use crate::claims::{Claims, Grants};
use crate::connection::{Connection, ConnectionId, Identity, Subscription};
use crate::engine::{Answer, Keys, Request, SingleUse};
use crate::events::Happening;
use crate::names;
use crate::outbox::Key;
use crate::presence::{self, Member};
use crate::protocol::{self, Code, Failure, Inbound, Meta};
use crate::time::Now;

/// A subscription that waits for the engine.
#[derive(Debug)]
pub struct Joining {
    client: Client,
    connection: ConnectionId,
    /// The channel as the client called it, for an error (R-ERR-4).
    called: Box<str>,
    channel: Arc<str>,
    identity: Identity,
    token: Option<Arc<Claims>>,
    alias: Option<Box<str>>,
    counted: bool,
    /// When it was asked for. From now on messages reach it, so from now on they are in its history, too, however long the
    /// answer takes (R-HIST-5).
    since: Timestamp,
    auto: bool,
    observes: bool,
    /// Why it can't be, if the engine was asked only whether its token is spent.
    refusal: Option<Failure>,
}

impl Hub {
    /// `hotsock.subscribe`. The order of the checks is that of R-SUB-10.
    pub(super) fn subscribe(
        &mut self,
        now: Now,
        key: Key,
        message: &Inbound<'_>,
    ) -> Result<(), Failure> {
        let called = channel_of(message)?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let mut channel = self.real_name(connection, called);
        self.not_yet_subscribed(connection, &channel)?;
        let token = protocol::parse_token(message.data).map_err(|it| it.in_channel(called))?;
        let Some(token) = token else {
            return self.join(now, key, called, channel, None, false);
        };
        let claims = self.verify(now, &token).ok();
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let claims = claims
            .filter(|claims| may_subscribe(connection, claims))
            .ok_or_else(|| Failure::from(Code::InvalidSubscribeToken).in_channel(called))?;
        // The two tokens are one claim set, in which a real name wins over an alias and the subscribe token's alias over
        // the connect token's (R-SUB-21, R-SUB-24, R-PERM-16).
        if !connection.claims.names_channel(called) {
            if claims.names_channel(called) {
                channel = called.into();
            } else if let Some(real) = claims.channel_of_alias(called) {
                channel = real.into();
            }
            self.not_yet_subscribed(connection, &channel)?;
        }
        self.join(now, key, called, channel, Some(claims), false)
    }

    /// A channel that the connect token says the client is to be subscribed to (R-SUB-28).
    pub(super) fn auto_subscribe(
        &mut self,
        now: Now,
        key: Key,
        channel: &str,
    ) -> Result<(), Failure> {
        self.join(now, key, channel, channel.into(), None, true)
    }

    /// Permission, user, capacity; then the engine is asked.
    fn join(
        &mut self,
        now: Now,
        key: Key,
        called: &str,
        channel: Arc<str>,
        token: Option<Claims>,
        auto: bool,
    ) -> Result<(), Failure> {
        let token = token.map(Arc::new);
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let grants = Grants {
            connect: &connection.claims,
            subscription: token.as_deref(),
            channel: &channel,
        };
        let identity = identity(connection, token.as_deref());
        let permitted = match grants.subscribe() {
            true => self.member(connection, &channel, &identity, called),
            false => Err(Failure::from(Code::SubscribePermissionDenied).in_channel(called)),
        };
        let counted = !grants.omit_from_sub_count();
        let alias = grants.alias().map(Into::into);
        let observes = grants.may_observe();
        let spend: Option<SingleUse> = token.as_deref().and_then(single_use);
        let (request, refusal) = match (permitted, spend) {
            (Err(failure), None) => return Err(failure),
            // That a token is spent is said before anything that it does not permit (R-SUB-6, R-SUB-10).
            (Err(failure), Some(token)) => (Request::Check(token), Some(failure)),
            (Ok(member), spend) => {
                let request = Request::Join {
                    channel: channel.clone(),
                    connection: connection.id,
                    member,
                    counted,
                    observe: observes.then(|| observed(&connection.claims, &token, &channel)),
                    spend,
                };
                (request, None)
            }
        };
        let joining = Joining {
            client: Client {
                key,
                serial: connection.serial,
            },
            connection: connection.id,
            called: called.into(),
            alias,
            channel,
            identity,
            counted,
            since: now.wall,
            auto,
            observes,
            token,
            refusal,
        };
        self.ask(now, key, request, Waiting::Subscribing(Box::new(joining)));
        Ok(())
    }

    /// What a permitted subscription adds to the member list of a presence channel, unless it lacks a user or a cap is
    /// reached.
    fn member(
        &self,
        connection: &Connection,
        channel: &str,
        identity: &Identity,
        called: &str,
    ) -> Result<Option<Member>, Failure> {
        let member = match (names::is_presence(channel), &identity.uid) {
            (false, _) => None,
            (true, Some(uid)) => Some(Member {
                uid: uid.clone(),
                umd: identity.umd.clone(),
            }),
            (true, None) => {
                return Err(Failure::from(Code::PresenceChannelUserIdRequired).in_channel(called));
            }
        };
        self.within_caps(connection, channel, called)?;
        Ok(member)
    }

    fn within_caps(
        &self,
        connection: &Connection,
        channel: &str,
        called: &str,
    ) -> Result<(), Failure> {
        let limits = &self.rules.limits;
        let here = || {
            self.channels
                .find(channel)
                .and_then(|key| self.channels.get(key))
        };
        // Automatic subscriptions are all asked for before the first is answered.
        let subscriptions = connection.subscriptions.len() + connection.parked as usize;
        let cap = if (limits.subscriptions_per_connection).is_some_and(|most| subscriptions >= most)
        {
            "this connection has as many subscriptions as it may have"
        } else if (limits.subscribers_per_channel)
            .is_some_and(|most| here().is_some_and(|channel| channel.subscribers.len() >= most))
        {
            "this channel has as many subscribers as it may have"
        } else {
            return Ok(());
        };
        Err(Failure::because(Code::RateLimited, cap).in_channel(called))
    }

    pub(super) fn joined(&mut self, now: Now, joining: Joining, answer: Answer) {
        let client = joining.client;
        let here = self.unpark(now, client);
        let outcome = match answer {
            Answer::Joined { members, observed } => Ok((members, observed)),
            Answer::Spent => {
                self.metrics.auth_failed("spent");
                Err(Code::InvalidSubscribeToken.into())
            }
            Answer::PresenceFull => Err(Code::PresenceChannelCapacityReached.into()),
            Answer::TooMuch => Err(Failure::because(
                Code::RateLimited,
                "the storage of this channel that would be observed is larger than one subscription may be sent",
            )),
            Answer::Unavailable(why) => Err(Failure::unavailable(why)),
            _ => Err(joining.refusal.unwrap_or(Code::InternalError.into())),
        };
        let (members, observed) = match outcome {
            Ok(joined) => joined,
            Err(failure) if here => {
                return self.refuse(now, client.key, &failure.in_channel(&*joining.called));
            }
            // Its number may be another client's by now.
            Err(_) => return,
        };
        let uid = names::is_presence(&joining.channel)
            .then(|| joining.identity.uid.clone())
            .flatten();
        if !here {
            // It went while the engine was busy with its subscription.
            let (channel, counted) = (joining.channel, joining.counted);
            self.engine.submit(
                now,
                Request::Leave {
                    channel,
                    connection: joining.connection,
                    uid,
                    counted,
                },
            );
            return;
        }
        let (channel, position) = self.channels.add(&joining.channel, client.key);
        let payload = protocol::subscribed(
            &joining.channel,
            joining.alias.as_deref(),
            joining.auto,
            members.as_deref().map(presence::views).as_deref(),
            Meta::from(&joining.identity),
        );
        if self.tells {
            self.tell(Happening::Subscription {
                began: true,
                channel: joining.channel.clone(),
                connection: joining.connection,
                identity: joining.identity.clone(),
            });
        }
        if let Some(connection) = self.connection_mut(client.key) {
            connection.add(Subscription {
                channel,
                position,
                identity: joining.identity,
                token: joining.token,
                alias: joining.alias,
                since: joining.since,
                counted: joining.counted,
                observes: joining.observes,
            });
        }
        self.metrics.subscriptions.inc();
        self.count_channels();
        self.send(now, client.key, &payload);
        self.send_observed(now, client.key, &joining.channel, &observed);
    }

    /// `hotsock.unsubscribe`.
    pub(super) fn unsubscribe(
        &mut self,
        now: Now,
        key: Key,
        message: &Inbound<'_>,
    ) -> Result<(), Failure> {
        let called = channel_of(message)?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let id = connection.id;
        let channel = self.real_name(connection, called);
        let at = self.channels.find(&channel);
        let removed = at.and_then(|at| {
            self.connection_mut(key)
                .and_then(|connection| connection.remove(at))
        });
        let Some(subscription) = removed else {
            return Err(Failure::from(Code::NotSubscribed).in_channel(called));
        };
        let alias = (subscription.alias.as_deref())
            .map(|alias| (alias, Meta::from(&subscription.identity)));
        self.send(now, key, &protocol::unsubscribed(&channel, alias));
        self.leave(now, id, &subscription);
        Ok(())
    }

    /// A subscription that its connection no longer has: the channel and the engine forget it too.
    pub(super) fn leave(
        &mut self,
        now: Now,
        connection: ConnectionId,
        subscription: &Subscription,
    ) {
        let Some(channel) = self.channels.get(subscription.channel) else {
            return;
        };
        let name = channel.name.clone();
        if let Some(moved) = self
            .channels
            .remove(subscription.channel, subscription.position)
            && let Some(moved) = self.connection_mut(moved)
            && let Some(moved) = moved.subscription_mut(subscription.channel)
        {
            moved.position = subscription.position;
        }
        self.metrics.subscriptions.dec();
        self.count_channels();
        if self.tells {
            self.tell(Happening::Subscription {
                began: false,
                channel: name.clone(),
                connection,
                identity: subscription.identity.clone(),
            });
        }
        let uid = names::is_presence(&name)
            .then(|| subscription.identity.uid.clone())
            .flatten();
        self.engine.submit(
            now,
            Request::Leave {
                channel: name,
                connection,
                uid,
                counted: subscription.counted,
            },
        );
    }

    fn not_yet_subscribed(&self, connection: &Connection, channel: &str) -> Result<(), Failure> {
        match self
            .channels
            .find(channel)
            .and_then(|at| connection.subscription(at))
        {
            // The real name: the client has the alias from the earlier `hotsock.subscribed` (R-ERR-4).
            Some(_) => Err(Failure::from(Code::AlreadySubscribed).in_channel(channel)),
            None => Ok(()),
        }
    }

    /// The channel that a client means, and its subscription to it if it has one.
    pub(super) fn place<'a>(
        &self,
        connection: &'a Connection,
        called: &str,
    ) -> (Arc<str>, Option<&'a Subscription>) {
        let channel = self.real_name(connection, called);
        let at = self.channels.find(&channel);
        let subscription = at.and_then(|at| connection.subscription(at));
        (channel, subscription)
    }

    /// The channel that a client means: a real name wins over an alias (R-SUB-21).
    pub(super) fn real_name(&self, connection: &Connection, called: &str) -> Arc<str> {
        let subscribed = self
            .channels
            .find(called)
            .filter(|&at| connection.subscription(at).is_some());
        if let Some(channel) = subscribed.and_then(|at| self.channels.get(at)) {
            return channel.name.clone();
        }
        if connection.claims.names_channel(called) {
            return called.into();
        }
        let of_subscription = connection.channel_of_alias(called);
        if let Some(channel) = of_subscription.and_then(|at| self.channels.get(at)) {
            return channel.name.clone();
        }
        connection
            .claims
            .channel_of_alias(called)
            .unwrap_or(called)
            .into()
    }
}

/// The channel that a message names, checked.
pub(super) fn channel_of<'a>(message: &'a Inbound<'_>) -> Result<&'a str, Failure> {
    let called = message
        .channel
        .as_deref()
        .ok_or_else(|| Failure::from(Code::InvalidChannel))?;
    check_channel(called)?;
    Ok(called)
}

/// A channel's name as the protocol wants it (R-LIM-1, R-LIM-2).
pub(super) fn check_channel(called: &str) -> Result<(), Failure> {
    names::check_channel(called)
        .map_err(|why| Failure::because(Code::InvalidChannel, why.to_string()).in_channel(called))
}

/// Is this token for subscribing, and for this connection (R-CLAIM-12 to R-CLAIM-14)?
fn may_subscribe(connection: &Connection, token: &Claims) -> bool {
    token.scope.subscribe() && names_connection(connection, token)
}

/// Does a token name this connection, by its id or by its user?
pub(super) fn names_connection(connection: &Connection, token: &Claims) -> bool {
    match &token.connection_id {
        Some(id) => **id == *connection.id.as_str(),
        None => token.uid.is_some() && token.uid.as_deref() == connection.identity.uid.as_deref(),
    }
}

/// The storage keys that a subscription observes: those that its tokens grant, asked wherever they are read.
fn observed(connect: &Arc<Claims>, token: &Option<Arc<Claims>>, channel: &Arc<str>) -> Keys {
    let (connect, token, channel) = (connect.clone(), token.clone(), channel.clone());
    Keys::such_that(move |key| {
        let grants = Grants {
            connect: &connect,
            subscription: token.as_deref(),
            channel: &channel,
        };
        grants.observes(key)
    })
}

/// Who a subscription acts as: what its token says, else what its connection is (R-CLAIM-19 to R-CLAIM-21).
fn identity(connection: &Connection, token: Option<&Claims>) -> Identity {
    let own = &connection.identity;
    match token {
        None => own.clone(),
        Some(token) => Identity {
            uid: token
                .uid
                .as_deref()
                .map(Into::into)
                .or_else(|| own.uid.clone()),
            umd: match &token.umd {
                Some(umd) => Some(umd.clone()).filter(|umd| !umd.is_null()),
                None => own.umd.clone(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use base64::Engine as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{SigningKey, Verifier, mint_hs256};
    use crate::config::Settings;
    use crate::connection::Origin;
    use crate::engine;
    use crate::hub::{Backend, Notice};
    use crate::metrics::{Closed, Metrics, Trigger};

    const SECRET: &[u8] = b"a secret for tests, of no use elsewhere";

    fn hub(settings: &Settings) -> Hub {
        let key = base64::engine::general_purpose::STANDARD.encode(SECRET);
        let key = SigningKey::parse("HS256", "", &key).expect("a key");
        let verifier = Verifier::new(vec![key], None, None, std::time::Duration::ZERO);
        let metrics = Metrics::new(SystemTime::now(), "1.13");
        thread_local! {
            static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
        }
        let settings = Settings {
            data_dir: FOLDER.with(|folder| folder.path().to_owned()),
            ..settings.clone()
        };
        let engine = engine::open(&settings, metrics.engine.clone(), Arc::new(|| {}));
        Hub::new(&settings, verifier, metrics, engine.expect("it opens"))
    }

    fn token(mut claims: Value) -> String {
        claims["exp"] = json!(4_000_000_000_u64);
        mint_hs256(SECRET, &claims)
    }

    /// A client connects, as user `u` and its number.
    fn connect(hub: &mut Hub, key: Key, serial: u64) {
        let client = Client { key, serial };
        hub.outboxes.open(key);
        let claims = json!({
            "scope": "connect", "uid": format!("u{key}"), "channels": {"*": {"subscribe": true}},
        });
        let request = http::Request::get(format!("/v1?token={}", token(claims)))
            .header("Host", "test")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Vec::new())
            .expect("a request");
        let refused = hub.upgrade(Now::read(), client, &request, Origin::default());
        assert!(refused.is_none() && hub.is_open(key));
    }

    /// What a client sends, without what comes of it: the engine has not answered yet.
    fn ask_to_subscribe(hub: &mut Hub, key: Key, channel: &str, token: Option<&str>) {
        let data = token.map(|token| json!({"token": token}));
        let text =
            json!({"event": "hotsock.subscribe", "channel": channel, "data": data}).to_string();
        let message = protocol::parse(&text).expect("a message");
        hub.subscribe(Now::read(), key, &message)
            .expect("it is not refused at once");
    }

    /// Takes what waits for a client, as its socket would; as text, since nothing is compressed and frames are short.
    fn read(hub: &mut Hub, key: Key) -> String {
        hub.outboxes.take_news(&mut Vec::new());
        let outbox = hub.outboxes.of(key);
        let bytes: Vec<u8> = outbox.pending().flatten().copied().collect();
        outbox.wrote(bytes.len());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn describe(hub: &mut Hub, channel: &str) -> String {
        let client = Client {
            key: 999,
            serial: 999,
        };
        hub.notices.clear();
        hub.describe(Now::read(), client, channel);
        match hub.notices.pop() {
            Some(Notice::Answered(_, answer)) => {
                String::from_utf8(answer.into_body()).expect("text")
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    fn publish(hub: &mut Hub, body: &str) {
        let message = protocol::parse_publish(body.as_bytes()).expect("a publish");
        let client = Client {
            key: 999,
            serial: 999,
        };
        let backend = Backend {
            client,
            trigger: Trigger::ServerHttp,
            origin: &Origin::default,
            invocation: None,
        };
        hub.publish_from_backend(Now::read(), &backend, &message)
            .expect("accepted");
    }

    /// R-CONN-23, R-SUB-18, R-PRES-13: it went while the engine was busy with its subscription.
    #[test]
    fn a_client_that_goes_while_it_waits_leaves_nothing_behind() {
        let mut hub = hub(&Settings::default());
        connect(&mut hub, 0, 1);
        connect(&mut hub, 1, 2);
        ask_to_subscribe(&mut hub, 1, "presence.a", None);
        hub.pump(Now::read());
        read(&mut hub, 1);

        ask_to_subscribe(&mut hub, 0, "presence.a", None);
        assert!(hub.is_parked(0), "R-CONN-22");
        hub.forget(Now::read(), 0, Closed::Transport);
        hub.pump(Now::read());
        assert_eq!(
            describe(&mut hub, "presence.a"),
            r#"{"name":"presence.a","subscriptionsCount":1,"members":[{"uid":"u1","umd":null}]}"#
        );
        let seen = read(&mut hub, 1);
        assert!(
            seen.contains("memberAdded") && seen.contains("memberRemoved"),
            "{seen}"
        );
        assert_eq!(hub.metrics.subscriptions.get(), 1);
        assert!(hub.waiting.is_empty());
    }

    /// R-SUB-1: an answer is for the connection that asked, not for the next one with its number.
    #[test]
    fn a_late_answer_does_not_reach_whoever_has_the_number_next() {
        let mut hub = hub(&Settings::default());
        connect(&mut hub, 0, 1);
        let once = json!({
            "scope": "subscribe", "uid": "u0", "singleUse": true, "jti": "once",
            "channels": {"a": {"subscribe": true}},
        });
        let once = token(once);
        ask_to_subscribe(&mut hub, 0, "a", Some(&once));
        assert!(hub.settle(Now::read(), Duration::from_secs(20)));
        for (channel, token) in [("b", Some(&*once)), ("c", None)] {
            ask_to_subscribe(&mut hub, 0, channel, token);
        }
        hub.forget(Now::read(), 0, Closed::Transport);
        // Connecting acts on the answers that are due.
        connect(&mut hub, 0, 2);
        assert!(hub.settle(Now::read(), Duration::from_secs(20)));
        let seen = read(&mut hub, 0);
        assert!(seen.contains("hotsock.connected"), "{seen}");
        assert!(
            !seen.contains("hotsock.error") && !seen.contains("hotsock.subscribed"),
            "{seen}"
        );
        assert!(!hub.is_parked(0));
        assert_eq!(
            (hub.channels.len(), hub.metrics.subscriptions.get()),
            (0, 0)
        );
        assert!(hub.waiting.is_empty());
    }

    /// R-DLV-9, R-DLV-11, R-DLV-1: half of the subscribers are closed by one and the same message. The others get it, and
    /// then learn who has gone, each in the same order.
    #[test]
    fn slow_consumers_found_during_a_fan_out_cost_nobody_else_a_message() {
        let mut settings = Settings::default();
        (
            settings.limits.outbound_bytes,
            settings.limits.outbound_messages,
        ) = (usize::MAX / 64, 8);
        let mut hub = hub(&settings);
        let all = 0..40;
        for key in all.clone() {
            connect(&mut hub, key, key as u64 + 1);
            ask_to_subscribe(&mut hub, key, "presence.a", None);
            hub.pump(Now::read());
            all.clone()
                .take(key + 1)
                .for_each(|key| drop(read(&mut hub, key)));
        }
        let reads = |key: &Key| key.is_multiple_of(2);
        for number in 0..9 {
            publish(
                &mut hub,
                &format!(r#"{{"channel":"presence.a","event":"m{number}"}}"#),
            );
            // Everybody is asked to take something; every second one never does.
            hub.outboxes.take_news(&mut Vec::new());
            if number < 8 {
                for key in all.clone().filter(reads) {
                    assert!(read(&mut hub, key).contains(&format!("m{number}")));
                }
            }
        }
        assert_eq!(hub.connections(), 20);
        let mut seen = Vec::new();
        for key in all.clone() {
            assert_eq!(hub.is_open(key), reads(&key));
            let waiting = read(&mut hub, key);
            if reads(&key) {
                assert!(
                    waiting.contains("\"m8\"") && waiting.matches("memberRemoved").count() == 20
                );
                assert!(waiting.find("\"m8\"") < waiting.find("memberRemoved"));
                seen.push(waiting);
            } else {
                assert!(
                    waiting.contains("Slow consumer") && !waiting.contains("\"m8\""),
                    "{waiting}"
                );
            }
        }
        assert!(seen.iter().all(|it| *it == seen[0]), "R-PRES-20, R-DLV-6");
        let described = describe(&mut hub, "presence.a");
        assert!(
            described.contains(r#""subscriptionsCount":20"#),
            "{described}"
        );
    }
}
