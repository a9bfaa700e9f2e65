//! What backends are told of connections, subscriptions, channels, messages, storage and reactions (section 20 of the
//! protocol).
//!
//! [`Happening`] is what happened, as plain data; [`envelope`] says it in JSON. [`courier`] brings it to the sinks
//! ([`sink`]) over a spool on disk ([`spool`], [`cursor`], [`turn`]); [`batch`] and [`retry`] are its decisions.

pub mod batch;
pub mod courier;
pub mod cursor;
pub mod envelope;
pub mod retry;
pub mod sink;
pub mod spool;
pub mod turn;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::connection::{Connection, ConnectionId, Identity, Origin};
use crate::engine::{Publish, Reacting, Source};
use crate::json::Json;
use crate::presence::{Change, Member};

/// Something that backends can be told.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A connection was accepted, has ended, or has other metadata (R-EVT-17, R-EVT-18, R-EVT-20).
    Connection {
        /// Which of the three.
        what: ConnectionChange,
        /// The connection, as it is now.
        connection: Box<ConnectionFacts>,
    },
    /// A subscription began or ended (R-EVT-21).
    Subscription {
        /// It began.
        began: bool,
        /// The channel.
        channel: Arc<str>,
        /// The connection.
        connection: ConnectionId,
        /// Who the subscription acts as.
        identity: Identity,
    },
    /// The counted subscriptions of a channel are so many now (R-EVT-22).
    Channel {
        /// The channel.
        channel: Arc<str>,
        /// Its counted subscriptions.
        subscriptions: u64,
    },
    /// A member list has changed (R-EVT-23 to R-EVT-25).
    Member {
        /// The channel.
        channel: Arc<str>,
        /// What changed.
        change: Change,
        /// The list after the change.
        members: Arc<[Member]>,
    },
    /// A message was delivered whose directive or request says so (R-EVT-26).
    Published(Ulid, Publish),
    /// An entry of storage has another value (R-EVT-29 to R-EVT-31).
    Storage(Box<StorageChange>),
    /// A reaction was put on a message or taken off (R-EVT-32, R-EVT-33).
    Reaction {
        /// Its identifier; the same when it is taken off (R-EVT-35).
        id: Ulid,
        /// Which reaction; its source is that of the request that put it on (R-EVT-33).
        reacting: Box<Reacting>,
        /// When it was put on.
        created_at: Timestamp,
        /// When it goes with its message, if it does.
        expires_at: Option<Timestamp>,
    },
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionChange {
    /// It was accepted.
    Connected,
    /// It has ended.
    Disconnected,
    /// Its metadata has changed.
    Updated,
}

/// What is told of a connection (R-EVT-19).
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Its public name.
    pub id: ConnectionId,
    /// Since when.
    pub connected_at: Timestamp,
    /// Until when, if it has ended.
    pub disconnected_at: Option<Timestamp>,
    /// The claim `keepAlive`.
    pub keep_alive: bool,
    /// Who it is now.
    pub identity: Identity,
    /// Where it comes from.
    pub origin: Origin,
}

impl ConnectionFacts {
    /// Of a connection, and when it ended.
    #[must_use]
    pub fn of(connection: &Connection, disconnected_at: Option<Timestamp>) -> Self {
        Self {
            id: connection.id,
            connected_at: connection.connected_at,
            disconnected_at,
            keep_alive: connection.claims.keep_alive,
            identity: connection.identity.clone(),
            origin: connection.origin.clone(),
        }
    }
}

/// A change of one entry of storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StorageChange {
    /// The channel.
    pub channel: Arc<str>,
    /// Which entry.
    pub key: Box<str>,
    /// Its value; `None` if it was cleared or has expired.
    pub value: Option<Json>,
    /// Its value before; `None` for a first write.
    pub previous: Option<Json>,
    /// It has expired.
    pub expired: bool,
    /// When it will expire, if it will.
    pub expires_at: Option<Timestamp>,
    /// Who wrote it.
    pub meta: Identity,
    /// How the write came.
    pub source: Option<Arc<Source>>,
}
