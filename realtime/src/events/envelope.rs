//! What backends get of a happening: one JSON object with `source`, `type`, `metadata`, `data`, `dataType` (R-EVT-1).

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{ConnectionChange, ConnectionFacts, Happening, StorageChange};
use crate::connection::{Identity, Origin};
use crate::engine::{Publish, Reacting, Source};
use crate::json::Json;
use crate::presence::Change;

/// What `source` always is.
pub const SOURCE: &str = "hotsock.v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    source: &'static str,
    r#type: &'static str,
    metadata: Metadata<'a>,
    data: Data<'a>,
    data_type: &'static str,
}

/// What can be filtered by without looking at the data: text only, and only what is known (R-EVT-2, R-EVT-3).
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    hotsock_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reaction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    #[serde(rename_all = "camelCase")]
    Connection {
        id: &'a str,
        connected_at: String,
        disconnected_at: Option<String>,
        keep_alive: bool,
        source_ip: Option<String>,
        uid: Option<&'a str>,
        umd: Option<&'a Json>,
        user_agent: Option<&'a str>,
    },
    #[serde(rename_all = "camelCase")]
    Subscription {
        channel: &'a str,
        connection_id: &'a str,
        uid: Option<&'a str>,
        umd: Option<&'a Json>,
    },
    #[serde(rename_all = "camelCase")]
    Channel {
        name: &'a str,
        subscriptions_count: u64,
    },
    ChannelMember {
        uid: &'a str,
        umd: Option<&'a Json>,
        members: Vec<Who<'a>>,
    },
    Message {
        channel: &'a str,
        event: &'a str,
        id: String,
        data: &'a Json,
        #[serde(skip_serializing_if = "Option::is_none")]
        meta: Option<Who<'a>>,
    },
    #[serde(rename_all = "camelCase")]
    ChannelStorage {
        channel: &'a str,
        key: &'a str,
        data: Option<&'a Json>,
        data_previous: Option<&'a Json>,
        expired: bool,
        expires_at: Option<String>,
        meta: Who<'a>,
    },
    #[serde(rename_all = "camelCase")]
    MessageReaction {
        channel: &'a str,
        message_id: String,
        id: String,
        reaction: &'a str,
        uid: &'a str,
        umd: Option<&'a Json>,
        created_at: String,
        expires_at: Option<String>,
    },
}

/// A user; what is missing is `null` (R-JSON-4).
#[derive(Serialize)]
struct Who<'a> {
    uid: Option<&'a str>,
    umd: Option<&'a Json>,
}

impl<'a> From<&'a Identity> for Who<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            uid: identity.uid.as_deref(),
            umd: identity.umd.as_ref(),
        }
    }
}

impl Happening {
    /// Its `type` (section 20.2 of the protocol).
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Connection { what, .. } => match what {
                ConnectionChange::Connected => "hotsock.connected",
                ConnectionChange::Disconnected => "hotsock.disconnected",
                ConnectionChange::Updated => "hotsock.connectionUpdated",
            },
            Self::Subscription { began: true, .. } => "hotsock.subscribed",
            Self::Subscription { began: false, .. } => "hotsock.unsubscribed",
            Self::Channel { .. } => "hotsock.channelUpdated",
            Self::Member { change, .. } => match change {
                Change::Added(_) => "hotsock.memberAdded",
                Change::Updated(_) => "hotsock.memberUpdated",
                Change::Removed(_) => "hotsock.memberRemoved",
            },
            Self::Published(..) => "hotsock.messagePublished",
            Self::Storage(_) => "hotsock.channelStorageUpdated",
            Self::Reaction { reacting, .. } if reacting.add => "hotsock.messageReactionAdded",
            Self::Reaction { .. } => "hotsock.messageReactionRemoved",
        }
    }

    /// Its `dataType`: which shape its data has.
    #[must_use]
    pub fn data_type(&self) -> &'static str {
        match self {
            Self::Connection { .. } => "connection",
            Self::Subscription { .. } => "subscription",
            Self::Channel { .. } => "channel",
            Self::Member { .. } => "channelMember",
            Self::Published(..) => "message",
            Self::Storage(_) => "channelStorage",
            Self::Reaction { .. } => "messageReaction",
        }
    }

    /// The whole event as JSON. `version` is the release of the reference product that backends expect (R-EVT-16).
    #[must_use]
    pub fn envelope(&self, version: &str) -> String {
        let envelope = Envelope {
            source: SOURCE,
            r#type: self.type_name(),
            metadata: Metadata {
                hotsock_version: version,
                ..self.metadata()
            },
            data: self.data(),
            data_type: self.data_type(),
        };
        serde_json::to_string(&envelope).unwrap_or_default()
    }

    fn metadata(&self) -> Metadata<'_> {
        let of = |channel| Metadata {
            channel: Some(channel),
            ..Metadata::default()
        };
        match self {
            Self::Connection { .. } => Metadata::default(),
            Self::Subscription { channel, .. }
            | Self::Channel { channel, .. }
            | Self::Member { channel, .. } => of(channel),
            Self::Published(_, publish) => Metadata {
                event: Some(&publish.event),
                request_id: publish.source.as_deref().map(|it| &*it.request_id),
                ..of(&publish.channel).from(publish.source.as_deref())
            },
            Self::Storage(change) => Metadata {
                key: Some(&change.key),
                ..of(&change.channel).from(change.source.as_deref())
            },
            Self::Reaction { reacting, .. } => Metadata {
                reaction: Some(&reacting.reaction),
                request_id: Some(&reacting.source.request_id),
                ..of(&reacting.channel).from(Some(&reacting.source))
            },
        }
    }

    fn data(&self) -> Data<'_> {
        match self {
            Self::Connection { connection, .. } => Data::connection(connection),
            Self::Subscription {
                channel,
                connection,
                identity,
                ..
            } => Data::Subscription {
                channel,
                connection_id: connection.as_str(),
                uid: identity.uid.as_deref(),
                umd: identity.umd.as_ref(),
            },
            Self::Channel {
                channel,
                subscriptions,
            } => Data::Channel {
                name: channel,
                subscriptions_count: *subscriptions,
            },
            Self::Member {
                change, members, ..
            } => {
                let (Change::Added(member) | Change::Updated(member) | Change::Removed(member)) =
                    change;
                Data::ChannelMember {
                    uid: &member.uid,
                    umd: member.umd.as_ref(),
                    members: (members.iter())
                        .map(|it| Who {
                            uid: Some(&it.uid),
                            umd: it.umd.as_ref(),
                        })
                        .collect(),
                }
            }
            Self::Published(id, publish) => Data::message(*id, publish),
            Self::Storage(change) => Data::storage(change),
            Self::Reaction {
                id,
                reacting,
                created_at,
                expires_at,
            } => Data::reaction(*id, reacting, *created_at, *expires_at),
        }
    }
}

impl<'a> Metadata<'a> {
    /// With what is known of the client or backend that caused it. `connectionId` is there for clients only (R-EVT-27).
    fn from(self, source: Option<&'a Source>) -> Self {
        let Some(source) = source else {
            return self;
        };
        Self {
            connection_id: source.connection.as_ref().map(|it| it.as_str()),
            source_ip: source_ip(&source.origin),
            trigger: Some(source.trigger.as_str()),
            user_agent: source.origin.user_agent.as_deref(),
            ..self
        }
    }
}

impl<'a> Data<'a> {
    fn connection(connection: &'a ConnectionFacts) -> Self {
        Self::Connection {
            id: connection.id.as_str(),
            connected_at: at(connection.connected_at, 9),
            disconnected_at: connection.disconnected_at.map(|it| at(it, 9)),
            keep_alive: connection.keep_alive,
            source_ip: source_ip(&connection.origin),
            uid: connection.identity.uid.as_deref(),
            umd: connection.identity.umd.as_ref(),
            user_agent: connection.origin.user_agent.as_deref(),
        }
    }

    fn message(id: Ulid, publish: &'a Publish) -> Self {
        let known = |identity: &&Identity| identity.uid.is_some() || identity.umd.is_some();
        Self::Message {
            channel: &publish.channel,
            event: &publish.event,
            id: id.to_string(),
            data: &publish.data,
            meta: publish.meta.as_ref().filter(known).map(Who::from),
        }
    }

    fn storage(change: &'a StorageChange) -> Self {
        Self::ChannelStorage {
            channel: &change.channel,
            key: &change.key,
            data: change.value.as_ref(),
            data_previous: change.previous.as_ref(),
            expired: change.expired,
            expires_at: change.expires_at.map(|it| at(it, 0)),
            meta: Who::from(&change.meta),
        }
    }

    fn reaction(
        id: Ulid,
        reacting: &'a Reacting,
        created: Timestamp,
        expires: Option<Timestamp>,
    ) -> Self {
        Self::MessageReaction {
            channel: &reacting.channel,
            message_id: reacting.message.to_string(),
            id: id.to_string(),
            reaction: &reacting.reaction,
            uid: &reacting.uid,
            umd: reacting.umd.as_ref(),
            created_at: at(created, 3),
            expires_at: expires.map(|it| at(it, 0)),
        }
    }
}

fn source_ip(origin: &Origin) -> Option<String> {
    origin.source_ip.map(|ip| ip.to_string())
}

/// RFC 3339 in UTC (R-JSON-5) with so many digits of a second, always (R-EVT-19, R-EVT-32).
fn at(when: Timestamp, digits: u8) -> String {
    DateTimePrinter::new()
        .precision(Some(digits))
        .timestamp_to_string(&when)
}

/// What a sink reads from an envelope again.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Labels<'a> {
    /// `source`.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// `type`.
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// `dataType`.
    #[serde(borrow)]
    pub data_type: Cow<'a, str>,
    /// `metadata`, in the order of its names.
    pub metadata: BTreeMap<String, String>,
}

impl<'a> Labels<'a> {
    /// Reads them; `None` if this is no envelope.
    #[must_use]
    pub fn of(envelope: &'a str) -> Option<Self> {
        serde_json::from_str(envelope).ok()
    }

    /// What is an attribute of an SNS message: all metadata but the version (R-EVT-7), of storage only some of it (R-EVT-8).
    /// Without what would be empty (R-EVT-9), and without what SNS does not take: it would refuse the whole message.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_storage = self.r#type == "hotsock.channelStorageUpdated";
        let wanted = move |name: &str| match of_storage {
            true => matches!(name, "channel" | "key" | "trigger"),
            false => name != "hotsockVersion",
        };
        [
            ("source", &*self.source),
            ("type", &*self.r#type),
            ("dataType", &*self.data_type),
        ]
        .into_iter()
        .chain(
            self.metadata
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .filter(move |(name, _)| wanted(name)),
        )
        .filter(|(_, value)| !value.is_empty() && value.chars().all(is_xml))
    }
}

/// A character of XML 1.0: what SNS and SQS take.
#[must_use]
pub fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::connection::ConnectionId;
    use crate::metrics::Trigger;
    use crate::presence::Member;

    fn json(text: &str) -> Json {
        Json::compact(text).unwrap()
    }

    fn id() -> ConnectionId {
        ConnectionId::parse("Zt4Qw8LmPoAxBC0=").unwrap()
    }

    fn ana(umd: Option<&str>) -> Identity {
        Identity {
            uid: Some("ana".into()),
            umd: umd.map(json),
        }
    }

    fn when(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn source(trigger: Trigger, client: bool) -> Arc<Source> {
        Arc::new(Source {
            trigger,
            connection: client.then(id),
            origin: Origin {
                source_ip: client.then(|| "203.0.113.9".parse().unwrap()),
                user_agent: client.then(|| "demo/1.0".into()),
            },
            request_id: "0b1f6d3e-7a80-4a5c-9f0e-2d1c3b4a5968".into(),
        })
    }

    fn connection(what: ConnectionChange) -> Happening {
        Happening::Connection {
            what,
            connection: Box::new(ConnectionFacts {
                id: id(),
                connected_at: when("2027-03-01T08:15:30.120934551Z"),
                disconnected_at: (what == ConnectionChange::Disconnected)
                    .then(|| when("2027-03-01T09:00:00Z")),
                keep_alive: false,
                identity: ana(None),
                origin: source(Trigger::ClientWebSocket, true).origin.clone(),
            }),
        }
    }

    fn member(change: fn(Member) -> Change) -> Happening {
        let ben = Member {
            uid: "ben".into(),
            umd: None,
        };
        let ana = Member {
            uid: "ana".into(),
            umd: Some(json(r#"{"role":"host"}"#)),
        };
        let change = change(ben.clone());
        let left = matches!(change, Change::Removed(_));
        Happening::Member {
            channel: "presence.den".into(),
            change,
            members: [ana]
                .into_iter()
                .chain((!left).then_some(ben))
                .collect::<Vec<_>>()
                .into(),
        }
    }

    fn published(meta: Option<Identity>, source: Option<Arc<Source>>) -> Happening {
        Happening::Published(
            Ulid::from_string("01KA5T6Q2M8Y0V3WZ4B7C9D1EF").unwrap(),
            Publish {
                channel: "room.8".into(),
                event: "chat".into(),
                data: json(r#"{"text":"Moin","n":9007199254740993.0}"#),
                meta,
                except: None,
                deduplication_id: None,
                store: 0,
                emit: true,
                source,
            },
        )
    }

    fn storage(value: Option<&str>, previous: Option<&str>, expired: bool) -> Happening {
        Happening::Storage(Box::new(StorageChange {
            channel: "game.3".into(),
            key: "turn".into(),
            value: value.map(json),
            previous: previous.map(json),
            expired,
            expires_at: value.map(|_| when("2027-03-02T08:15:30Z")),
            meta: ana(None),
            source: Some(source(Trigger::ClientWebSocket, true)),
        }))
    }

    fn reaction(add: bool) -> Happening {
        Happening::Reaction {
            id: Ulid::from_string("01KA5T9C4D6E8F0G2H4J6K8MNP").unwrap(),
            reacting: Box::new(Reacting {
                channel: "room.8".into(),
                message: Ulid::from_string("01KA5T6Q2M8Y0V3WZ4B7C9D1EF").unwrap(),
                reaction: "🎉".into(),
                add,
                uid: "ana".into(),
                umd: None,
                except: None,
                emit: true,
                source: source(Trigger::ClientHttp, true),
            }),
            created_at: when("2027-03-01T08:20:01.482Z"),
            expires_at: None,
        }
    }

    fn all() -> Vec<Happening> {
        let subscription = |began| Happening::Subscription {
            began,
            channel: "room.8".into(),
            connection: id(),
            identity: ana(Some(r#"{"role":"host"}"#)),
        };
        vec![
            connection(ConnectionChange::Connected),
            connection(ConnectionChange::Updated),
            connection(ConnectionChange::Disconnected),
            subscription(true),
            subscription(false),
            Happening::Channel {
                channel: "room.8".into(),
                subscriptions: 3,
            },
            member(Change::Added),
            member(Change::Updated),
            member(Change::Removed),
            published(
                Some(ana(None)),
                Some(source(Trigger::ClientWebSocket, true)),
            ),
            published(None, Some(source(Trigger::ServerLambda, false))),
            storage(Some(r#""ben""#), Some(r#""ana""#), false),
            storage(None, Some(r#""ben""#), true),
            reaction(true),
            reaction(false),
        ]
    }

    /// R-EVT-1, R-EVT-2, R-EVT-3, R-EVT-15, R-EVT-16, R-EVT-19, R-EVT-21, R-EVT-24, R-EVT-27, R-EVT-30, R-EVT-32, R-EVT-33,
    /// R-EVT-35
    #[test]
    fn every_type_of_event_has_exactly_its_members() {
        let events: Vec<_> = all()
            .iter()
            .map(|happening| {
                let envelope = happening.envelope("1.13.5");
                let pretty: Value = serde_json::from_str(&envelope).unwrap();
                assert_eq!(
                    pretty.as_object().unwrap().keys().collect::<Vec<_>>().len(),
                    5
                );
                envelope
            })
            .collect();
        insta::assert_snapshot!(events.join("\n"));
    }

    /// R-EVT-7, R-EVT-8: ten at most, as many as SQS takes of an SNS message.
    #[test]
    fn attributes_of_a_message_are_its_metadata_without_the_version() {
        let attributes: Vec<_> = all()
            .iter()
            .map(|happening| {
                let envelope = happening.envelope("1.13.5");
                let labels = Labels::of(&envelope).unwrap();
                let attributes: Vec<_> = labels
                    .attributes()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                assert!(attributes.len() <= 10);
                attributes.join(" ")
            })
            .collect();
        insta::assert_snapshot!(attributes.join("\n"));
    }

    /// R-EVT-27
    #[test]
    fn a_message_of_a_client_without_user_and_metadata_has_no_meta() {
        let event = published(Some(Identity::default()), None).envelope("1.13.5");
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["data"].get("meta"), None);
        let metadata = event["metadata"].as_object().unwrap();
        assert_eq!(
            metadata.keys().collect::<Vec<_>>(),
            ["channel", "event", "hotsockVersion"]
        );
    }

    proptest! {
        /// R-EVT-2, R-EVT-3, R-EVT-7, R-EVT-9
        #[test]
        fn whatever_is_in_an_event_its_labels_can_be_read_and_sent(
            channel in ".{0,30}", event in ".{0,30}", agent in proptest::option::of(".{0,30}"), client: bool,
        ) {
            let mut from = (*source(Trigger::ClientHttp, client)).clone();
            from.origin.user_agent = agent.map(Into::into);
            let mut happening = published(None, Some(Arc::new(from)));
            if let Happening::Published(_, publish) = &mut happening {
                publish.channel = channel.as_str().into();
                publish.event = event.as_str().into();
            }
            let envelope = happening.envelope("1.13.5");
            let whole: Value = serde_json::from_str(&envelope).unwrap();
            prop_assert!(whole["metadata"].as_object().unwrap().values().all(Value::is_string));
            prop_assert_eq!(&whole["metadata"]["channel"], &channel);
            let labels = Labels::of(&envelope).unwrap();
            let attributes: Vec<_> = labels.attributes().collect();
            prop_assert!(attributes.iter().all(|(_, value)| !value.is_empty()));
            prop_assert!(attributes.iter().all(|(_, value)| value.chars().all(is_xml)));
            let sent = attributes.iter().any(|&(name, value)| name == "event" && value == event);
            prop_assert_eq!(sent, !event.is_empty() && event.chars().all(is_xml));
            prop_assert_eq!(attributes.iter().any(|(name, _)| *name == "connectionId"), client);
            prop_assert!(attributes.iter().all(|(name, _)| *name != "hotsockVersion"));
        }
    }
}
