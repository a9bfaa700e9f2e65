//! What a token says, and pure answers to "may this connection …?" (sections 4 and 5 of the specification).
//!
//! [`Claims`] is read once, when the token is used, and never changes. Every question is then answered from all keys that
//! match a name, by combining votes for which order cannot matter. [`Grants`] asks the connect token and, for a
//! subscription made with one, its subscribe token together.

mod go_regex;
mod grants;
mod object;
mod pattern;
mod payload;
mod rules;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

pub use self::grants::{Grants, MessageGrants, React, StorageGrants};
pub(crate) use self::object::Object;
pub use self::payload::{MAX_KEYS, MAX_PATTERNS};
pub(crate) use self::payload::{Registered, parse_registered};
use self::rules::{ChannelRule, Votes};
use crate::json::Json;

/// Why claims make a token invalid: which claim, and what it must be.
///
/// The place contains keys of the token, so this is for the token's issuer and for logs, never for the other side of a
/// connection (R-ERR-2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} {problem}", subject(.at))]
pub struct ClaimsError {
    at: Box<str>,
    problem: Cow<'static, str>,
}

fn subject(at: &str) -> Cow<'static, str> {
    if at.is_empty() {
        "the payload".into()
    } else {
        format!("claim `{at}`").into()
    }
}

/// Where a token may be used (R-CLAIM-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u8);

impl Scope {
    const CONNECT: u8 = 1;
    const SUBSCRIBE: u8 = 2;
    const UMD: u8 = 4;

    /// Values that are separated by spaces; unknown ones do not matter (R-CLAIM-9).
    fn parse(text: &str) -> Self {
        Self(text.split(' ').fold(0, |scope, value| {
            scope
                | match value {
                    "connect" => Self::CONNECT,
                    "subscribe" => Self::SUBSCRIBE,
                    "umd" => Self::UMD,
                    _ => 0,
                }
        }))
    }

    /// May open a connection.
    #[must_use]
    pub fn connect(self) -> bool {
        self.0 & Self::CONNECT != 0
    }

    /// May be presented with a subscribe.
    #[must_use]
    pub fn subscribe(self) -> bool {
        self.0 & Self::SUBSCRIBE != 0
    }

    /// May change user metadata.
    #[must_use]
    pub fn umd(self) -> bool {
        self.0 & Self::UMD != 0
    }
}

/// The claims of a valid token.
pub struct Claims {
    /// Where the token may be used.
    pub scope: Scope,
    /// The connection it is for. Given at all, even empty, the token opens none (R-CONN-5).
    pub connection_id: Option<Box<str>>,
    /// The user; an empty one is none (R-CLAIM-17). At most [`UID_CHARACTERS`](crate::names::UID_CHARACTERS).
    pub uid: Option<Box<str>>,
    /// The user metadata: nothing if the claim is absent, `null` if it is given so (R-CLAIM-21). At most
    /// [`UMD_BYTES`](crate::names::UMD_BYTES).
    pub umd: Option<Json>,
    /// Whether the connection's own umd may be changed (R-UMD-6).
    pub umd_update: bool,
    /// Whether such a change reaches all its subscriptions (R-UMD-10).
    pub umd_propagate: bool,
    /// Whether the connection gets keep-alive messages (R-CLAIM-29).
    pub keep_alive: bool,
    /// How long the connection may stay silent, 5 to 600 seconds (R-CLAIM-28).
    pub heartbeat_timeout: Option<Duration>,
    /// The `jti` of a token that may be used once (R-CLAIM-23).
    pub single_use: Option<Box<str>>,
    /// When the token stops being usable. A date beyond the years that a [`Timestamp`] can tell becomes the last or first
    /// that it can.
    pub expires: Timestamp,
    channels: Box<[ChannelRule]>,
    payload: Box<str>,
}

impl Claims {
    /// Reads the payload of a token: everything that needs neither the time nor keys, audience and issuer.
    ///
    /// # Errors
    /// The first claim that makes the token invalid, with what it must be.
    pub fn parse(payload: &str) -> Result<Self, ClaimsError> {
        parse_registered(payload).map(|(claims, _)| claims)
    }

    /// The payload as it was signed; [`Claims::parse`] makes the same claims of it again.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// The channels whose key says `autoSubscribe: true`, in the order of the token (R-SUB-28). Whether subscribing is
    /// permitted is not decided here. Empty without the `connect` scope (R-PERM-22).
    pub fn auto_subscribe(&self) -> impl Iterator<Item = &str> {
        let connect = self.scope.connect();
        self.channels
            .iter()
            .filter(move |rule| connect && rule.votes.grants(Votes::AUTO_SUBSCRIBE))
            .filter_map(|rule| rule.key.literal())
    }

    /// The channel for which this token defines the alias. A name that [`Claims::names_channel`] is no alias, which
    /// R-PERM-23 has made sure of.
    #[must_use]
    pub fn channel_of_alias(&self, alias: &str) -> Option<&str> {
        self.channels
            .iter()
            .find(|rule| rule.alias.as_deref() == Some(alias))
            .and_then(|rule| rule.key.literal())
    }

    /// Whether the channel is a literal key of the token, which wins over an alias of the same name (R-SUB-21).
    #[must_use]
    pub fn names_channel(&self, channel: &str) -> bool {
        self.channels
            .iter()
            .any(|rule| rule.key.literal() == Some(channel))
    }

    fn rules_for<'a>(&'a self, channel: &str) -> impl Iterator<Item = &'a ChannelRule> {
        self.channels
            .iter()
            .filter(move |rule| rule.key.matches(channel))
    }

    fn votes_for(&self, channel: &str) -> Votes {
        let mut votes = Votes::default();
        self.rules_for(channel)
            .for_each(|rule| votes.add(rule.votes));
        votes
    }

    fn alias_of(&self, channel: &str) -> Option<&str> {
        self.channels
            .iter()
            .find(|rule| rule.key.literal() == Some(channel))
            .and_then(|rule| rule.alias.as_deref())
    }
}

impl fmt::Debug for Claims {
    /// Without what a token says about a person and its permissions.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scope,
            uid,
            expires,
            ..
        } = self;
        let mut debug = formatter.debug_struct("Claims");
        debug
            .field("scope", scope)
            .field("uid", uid)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

/// Whether a umd token permits changing the umd of a subscription to the channel (R-UMD-2).
#[must_use]
pub fn may_update_umd(umd_token: &Claims, channel: &str) -> bool {
    umd_token.votes_for(channel).grants(Votes::UMD_UPDATE)
}

#[cfg(test)]
mod tests;
