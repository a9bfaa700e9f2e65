//! A connection's whole state, out of one process and into the next (decision 0013, `docs/handover.md`).
//!
//! What travels is what cannot be made again: identity, tokens as they were signed, subscriptions, metadata, deadlines as
//! time that has passed or is left. What tokens permit is read from them anew; who subscribes where and who is present is
//! rebuilt from the connections. The engine's own memory travels once, beside them: identifiers go on rising, what was
//! spent stays spent, members stay in their order. Nobody is told anything: for clients nothing has happened.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
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

/// One connection, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionState {
    id: ConnectionId,
    secret: Secret,
    /// The payload of the connect token, whose signature was checked when it was used.
    claims: String,
    /// The metadata now; it may differ from the token's.
    umd: Option<String>,
    source_ip: Option<IpAddr>,
    user_agent: Option<Box<str>>,
    connected_at: Timestamp,
    subscriptions: Vec<SubscriptionState>,
    deadlines: DeadlinesState,
    deflate: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SubscriptionState {
    channel: String,
    uid: Option<String>,
    umd: Option<String>,
    /// The payload of its own token.
    claims: Option<String>,
    alias: Option<Box<str>>,
    since: Timestamp,
    counted: bool,
}

/// A connection that has come, read and checked: to be put into a hub, which cannot fail any more.
#[derive(Debug)]
pub struct Revived {
    state: ConnectionState,
    claims: Arc<Claims>,
    umd: Option<Json>,
    subscriptions: Vec<(Identity, Option<Arc<Claims>>)>,
}

/// A state that cannot be read, although its schema is known.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The claims of a token.
    #[error("the claims of connection {0} can't be read")]
    Claims(String, #[source] ClaimsError),
    /// Metadata.
    #[error("the metadata of connection {0} can't be read")]
    Metadata(String, #[source] JsonError),
}

impl ConnectionState {
    /// Whether messages to it are compressed.
    pub fn deflate(&self) -> bool {
        self.deflate
    }

    /// Reads what a hub will need. Touches no socket: the handover may still be called off.
    ///
    /// # Errors
    /// A token or a value that this version reads in another way than the one that wrote it.
    pub fn revive(&self) -> Result<Revived, Unreadable> {
        let name = || self.id.as_str().to_owned();
        let claims = |payload: &str| {
            Claims::parse(payload)
                .map(Arc::new)
                .map_err(|why| Unreadable::Claims(name(), why))
        };
        let json = |text: &Option<String>| {
            let json = text.as_deref().map(Json::compact).transpose();
            json.map_err(|why| Unreadable::Metadata(name(), why))
        };
        let subscriptions = self.subscriptions.iter().map(|subscription| {
            let identity = Identity {
                uid: subscription.uid.as_deref().map(Into::into),
                umd: json(&subscription.umd)?,
            };
            Ok((
                identity,
                subscription.claims.as_deref().map(claims).transpose()?,
            ))
        });
        Ok(Revived {
            claims: claims(&self.claims)?,
            umd: json(&self.umd)?,
            subscriptions: subscriptions.collect::<Result<_, _>>()?,
            state: self.clone(),
        })
    }
}

impl Hub {
    /// Whether everything is settled: no connection waits for the engine, so that all there is to know is in the states.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.notices.is_empty()
    }

    /// The state of a connection at this moment.
    pub fn export(&self, now: Now, key: Key) -> Option<ConnectionState> {
        let connection = self.connection(key)?;
        let text = |json: &Option<Json>| json.as_ref().map(|json| json.as_str().to_owned());
        let subscriptions = connection.subscriptions.iter().filter_map(|subscription| {
            Some(SubscriptionState {
                channel: self.channels.get(subscription.channel)?.name.to_string(),
                uid: subscription.identity.uid.as_deref().map(str::to_owned),
                umd: text(&subscription.identity.umd),
                claims: subscription
                    .token
                    .as_ref()
                    .map(|claims| claims.payload().to_owned()),
                alias: subscription.alias.clone(),
                since: subscription.since,
                counted: subscription.counted,
            })
        });
        Some(ConnectionState {
            id: connection.id,
            secret: connection.secret,
            claims: connection.claims.payload().to_owned(),
            umd: text(&connection.identity.umd),
            source_ip: connection.origin.source_ip,
            user_agent: connection.origin.user_agent.clone(),
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

    /// Takes over what belongs to no connection; before the connections.
    pub fn import_engine(&mut self, now: Now, state: EngineState) {
        self.engine.import(now, state);
    }

    /// Puts a connection in. Nobody is told.
    pub fn import(&mut self, now: Instant, client: Client, revived: Revived) {
        let Revived {
            state,
            claims,
            umd,
            subscriptions,
        } = revived;
        let mut connection = Connection {
            id: state.id,
            secret: state.secret,
            identity: Identity {
                uid: claims.uid.as_deref().map(Into::into),
                umd,
            },
            claims,
            origin: Origin {
                source_ip: state.source_ip,
                user_agent: state.user_agent,
            },
            connected_at: state.connected_at,
            subscriptions: Vec::with_capacity(subscriptions.len()),
            aliased: Vec::new(),
            deadlines: state.deadlines.import(now),
            parked: 0,
            entrusted: None,
            deflate: state.deflate,
            // A second has at most passed: whoever sends too much is found out in the next one.
            rate: Rate::new(now),
            serial: client.serial,
        };
        for (subscription, (identity, token)) in state.subscriptions.into_iter().zip(subscriptions)
        {
            let name: Arc<str> = subscription.channel.into();
            let uid = identity.uid.clone().filter(|_| names::is_presence(&name));
            self.engine.adopt(
                &name,
                connection.id,
                uid,
                identity.umd.as_ref(),
                subscription.counted,
            );
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
                alias: subscription.alias,
                since: subscription.since,
                counted: subscription.counted,
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
