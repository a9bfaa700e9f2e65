//! A connection's whole state, out of one process and into the next (decision 0013, `docs/handover.md`).
//!
//! What travels is what cannot be made again: identity, tokens as they were signed, subscriptions, metadata, deadlines as
//! time that has passed or is left. What tokens permit is read from them anew; who subscribes where and who is present is
//! rebuilt from the connections. The engine's own memory travels once, beside them: identifiers go on rising, what was
//! spent stays spent, members stay in their order. Nobody is told anything: for clients nothing has happened.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use handover::predecessor::Precopied;
use jiff::Timestamp;
use jiff::fmt::serde::timestamp::nanosecond::required as nanoseconds;
use serde::{Deserialize, Serialize};

use super::{Client, Hub};
use crate::channels::Channels;
use crate::claims::{Claims, ClaimsError, Grants};
use crate::connection::{
    Connection, ConnectionId, DeadlinesState, Identity, Origin, Rate, Secret, Subscription,
};
use crate::engine::EngineState;
use crate::json::{Json, JsonError};
use crate::names;
use crate::outbox::Key;
use crate::time::Now;

/// The longest token, in bytes, that is told in advance: those of 60,000 connections are within `handover::Limits::precopy`.
/// Longer ones travel with their connections.
const PRECOPIED_TOKEN: usize = 1024;

/// One connection, as it travels: borrowed from where it leaves, owned where it arrives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionState<'a> {
    id: ConnectionId,
    secret: Secret,
    /// The payload of the connect token, whose signature was checked when it was used. `None`: it was told in advance.
    claims: Option<Cow<'a, str>>,
    /// The metadata now; it may differ from the token's.
    umd: Option<Cow<'a, str>>,
    source_ip: Option<IpAddr>,
    user_agent: Option<Cow<'a, str>>,
    #[serde(with = "nanoseconds")]
    connected_at: Timestamp,
    subscriptions: Vec<SubscriptionState<'a>>,
    deadlines: DeadlinesState,
    deflate: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SubscriptionState<'a> {
    channel: Cow<'a, str>,
    uid: Option<Cow<'a, str>>,
    umd: Option<Cow<'a, str>>,
    /// The payload of its own token.
    claims: Option<Cow<'a, str>>,
    alias: Option<Cow<'a, str>>,
    #[serde(with = "nanoseconds")]
    since: Timestamp,
    counted: bool,
}

/// What a successor knows before anything is frozen: the claims of connect tokens, which never change. Reading them is
/// half of what it takes to read a connection.
#[derive(Debug, Default)]
pub struct Precopy(HashMap<ConnectionId, Arc<Claims>>);

impl Precopy {
    /// Reads what [`Hub::precopy`] wrote.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let tokens: Vec<(ConnectionId, &str)> = postcard::from_bytes(bytes)
            .map_err(|error| format!("what was told in advance can't be read: {error}"))?;
        let claims = tokens
            .into_iter()
            .map(|(id, payload)| Ok((id, read_claims(&id, payload)?)));
        let claims: Result<_, Unreadable> = claims.collect();
        claims.map(Self).map_err(|why| why.with_causes())
    }
}

/// A connection that has come, read and checked: to be put into a hub, which cannot fail any more.
#[derive(Debug)]
pub struct Revived {
    claims: Arc<Claims>,
    rest: Rest,
}

/// All of a connection but its claims.
#[derive(Debug)]
struct Rest {
    id: ConnectionId,
    secret: Secret,
    umd: Option<Json>,
    origin: Origin,
    connected_at: Timestamp,
    subscriptions: Vec<RevivedSubscription>,
    deadlines: DeadlinesState,
    deflate: bool,
}

#[derive(Debug)]
struct RevivedSubscription {
    channel: Arc<str>,
    identity: Identity,
    token: Option<Arc<Claims>>,
    alias: Option<Box<str>>,
    since: Timestamp,
    counted: bool,
}

/// What arrives where a [`ConnectionState`] left. It is revived as it comes in, while the predecessor writes the next ones.
#[derive(Debug, Deserialize)]
#[serde(from = "ConnectionState<'static>")]
pub struct Arrival(Result<(Option<Arc<Claims>>, Rest), Unreadable>);

impl Arrival {
    /// With the claims that were told in advance, if they do not come with it.
    ///
    /// # Errors
    /// A sentence.
    pub fn complete(self, known: &mut Precopy) -> Result<Revived, String> {
        let complete = |(claims, rest): (Option<_>, Rest)| {
            let claims = claims.or_else(|| known.0.remove(&rest.id));
            let claims = claims.ok_or_else(|| Unreadable::NoClaims(rest.id.as_str().to_owned()))?;
            Ok(Revived { claims, rest })
        };
        self.0.and_then(complete).map_err(|why| why.with_causes())
    }
}

impl From<ConnectionState<'_>> for Arrival {
    fn from(state: ConnectionState<'_>) -> Self {
        Self(state.revive())
    }
}

/// A state that cannot be read, although its schema is known.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The claims of a token.
    #[error("the claims of connection {0} can't be read")]
    Claims(String, #[source] ClaimsError),
    /// They came neither with the connection nor before.
    #[error("the claims of connection {0} have not come")]
    NoClaims(String),
    /// Metadata.
    #[error("the metadata of connection {0} can't be read")]
    Metadata(String, #[source] JsonError),
}

impl Unreadable {
    fn with_causes(self) -> String {
        format!("{:#}", anyhow::Error::from(self))
    }
}

fn read_claims(id: &ConnectionId, payload: &str) -> Result<Arc<Claims>, Unreadable> {
    let claims = Claims::parse(payload);
    claims
        .map(Arc::new)
        .map_err(|why| Unreadable::Claims(id.as_str().to_owned(), why))
}

impl ConnectionState<'_> {
    /// Reads what a hub will need. Touches no socket: the handover may still be called off.
    fn revive(self) -> Result<(Option<Arc<Claims>>, Rest), Unreadable> {
        let name = || self.id.as_str().to_owned();
        let claims = |payload: &str| read_claims(&self.id, payload);
        let json =
            |text: &str| Json::compact(text).map_err(|why| Unreadable::Metadata(name(), why));
        let subscriptions = self.subscriptions.iter().map(|subscription| {
            Ok(RevivedSubscription {
                channel: (*subscription.channel).into(),
                identity: Identity {
                    uid: subscription.uid.as_deref().map(Into::into),
                    umd: subscription.umd.as_deref().map(json).transpose()?,
                },
                token: subscription.claims.as_deref().map(claims).transpose()?,
                alias: subscription.alias.as_deref().map(Into::into),
                since: subscription.since,
                counted: subscription.counted,
            })
        });
        let own = self.claims.as_deref().map(claims).transpose()?;
        let rest = Rest {
            id: self.id,
            secret: self.secret,
            umd: self.umd.as_deref().map(json).transpose()?,
            origin: Origin {
                source_ip: self.source_ip,
                user_agent: self.user_agent.as_deref().map(Into::into),
            },
            connected_at: self.connected_at,
            subscriptions: subscriptions.collect::<Result<_, _>>()?,
            deadlines: self.deadlines,
            deflate: self.deflate,
        };
        Ok((own, rest))
    }
}

impl Hub {
    /// Whether everything is settled: no connection waits for the engine, so that all there is to know is in the states.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.notices.is_empty()
    }

    /// What a successor can be told before the freeze.
    pub fn precopy(&mut self) -> Precopied {
        self.precopies += 1;
        let mark = self.precopies;
        let mut tokens = Vec::with_capacity(self.by_id.len());
        for connection in self.connections.iter_mut().flatten() {
            if connection.claims.payload().len() <= PRECOPIED_TOKEN {
                connection.precopied = mark;
                tokens.push((connection.id, connection.claims.payload()));
            }
        }
        let bytes = postcard::to_stdvec(&tokens).expect("plain data in memory can be encoded");
        Precopied { bytes, mark }
    }

    /// The state of a connection at this moment, without what a successor knows that was told everything up to `mark`.
    pub fn export(&self, now: Now, key: Key, mark: Option<u64>) -> Option<ConnectionState<'_>> {
        fn text(json: &Option<Json>) -> Option<Cow<'_, str>> {
            json.as_ref().map(|json| Cow::from(json.as_str()))
        }
        let connection = self.connection(key)?;
        let subscriptions = connection.subscriptions.iter().filter_map(|subscription| {
            Some(SubscriptionState {
                channel: Cow::from(&*self.channels.get(subscription.channel)?.name),
                uid: subscription.identity.uid.as_deref().map(Cow::from),
                umd: text(&subscription.identity.umd),
                claims: (subscription.token.as_ref()).map(|claims| Cow::from(claims.payload())),
                alias: subscription.alias.as_deref().map(Cow::from),
                since: subscription.since,
                counted: subscription.counted,
            })
        });
        Some(ConnectionState {
            id: connection.id,
            secret: connection.secret,
            claims: (mark != Some(connection.precopied))
                .then(|| Cow::from(connection.claims.payload())),
            umd: text(&connection.identity.umd),
            source_ip: connection.origin.source_ip,
            user_agent: connection.origin.user_agent.as_deref().map(Cow::from),
            connected_at: connection.connected_at,
            subscriptions: subscriptions.collect(),
            deadlines: connection.deadlines.export(now.mono),
            deflate: connection.deflate,
        })
    }

    /// What belongs to no connection.
    pub fn export_engine(&self, now: Now) -> EngineState {
        self.engine.export(now)
    }

    /// For so many more connections.
    pub fn make_room(&mut self, connections: usize) {
        self.by_id.reserve(connections);
        self.connections.reserve(connections);
    }

    /// Takes over what belongs to no connection; before the connections.
    pub fn import_engine(&mut self, now: Now, state: EngineState) {
        self.engine.import(now, state);
    }

    /// Puts a connection in. Nobody is told.
    pub fn import(&mut self, now: Instant, client: Client, revived: Revived) {
        let Revived { claims, rest } = revived;
        let mut connection = Connection {
            id: rest.id,
            secret: rest.secret,
            identity: Identity {
                uid: claims.uid.as_deref().map(Into::into),
                umd: rest.umd,
            },
            claims,
            origin: rest.origin,
            connected_at: rest.connected_at,
            subscriptions: Vec::with_capacity(rest.subscriptions.len()),
            aliased: Vec::new(),
            deadlines: rest.deadlines.import(now),
            parked: 0,
            entrusted: None,
            deflate: rest.deflate,
            precopied: 0,
            // A second has at most passed: whoever sends too much is found out in the next one.
            rate: Rate::new(now),
            serial: client.serial,
        };
        for subscription in rest.subscriptions {
            let RevivedSubscription {
                channel: name,
                identity,
                token,
                alias,
                since,
                counted,
            } = subscription;
            let uid = identity.uid.clone().filter(|_| names::is_presence(&name));
            let umd = identity.umd.as_ref();
            (self.engine).adopt(&name, connection.id, uid, umd, counted);
            let (channel, position) = self.channels.add(&name, client.key);
            let grants = Grants {
                connect: &connection.claims,
                subscription: token.as_deref(),
                channel: &name,
            };
            let observes = grants.may_observe();
            connection.add(Subscription {
                channel,
                position,
                identity,
                token,
                alias,
                since,
                counted,
                observes,
            });
            self.metrics.subscriptions.inc();
        }
        self.by_id.insert(connection.id, client.key);
        if self.connections.len() <= client.key {
            self.connections.resize_with(client.key + 1, || None);
        }
        self.connections[client.key] = Some(Box::new(connection));
        self.metrics.connections.inc();
        self.count_channels();
    }

    /// All connections that came are in. Members whose connections did not come, because the predecessor died on the way,
    /// have left.
    pub fn imported(&mut self, now: Now) {
        self.engine.adopted(now);
        self.pump(now);
    }

    /// Forgets every connection without a word to anybody: another process has them.
    pub fn release(&mut self) {
        for key in self.by_id.drain().map(|(_, key)| key) {
            self.connections[key] = None;
        }
        self.channels = Channels::default();
        self.engine.release();
        self.metrics.connections.set(0);
        self.metrics.subscriptions.set(0);
        self.metrics.channels.set(0);
    }
}
