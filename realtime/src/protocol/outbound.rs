//! What clients and backends are sent: each message as one compact JSON text in one allocation.

use std::num::NonZeroU8;

use jiff::Timestamp;

use super::{Action, Failure};
use crate::json::Json;

/// Who is behind something; what is missing is written as `null` (R-JSON-4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// User id.
    pub uid: Option<&'a str>,
    /// User metadata.
    pub umd: Option<&'a Json>,
}

/// A member of a presence channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// User id, by which members are told apart.
    pub uid: &'a str,
    /// User metadata, `null` when missing (R-JSON-4).
    pub umd: Option<&'a Json>,
}

/// Collects a text. What writes to it runs twice: to measure, then to write into memory of exactly that size.
pub(super) struct Out {
    text: String,
    length: usize,
    measuring: bool,
}

pub(super) fn build(write: impl Fn(&mut Out)) -> String {
    let mut out = Out {
        text: String::new(),
        length: 0,
        measuring: true,
    };
    write(&mut out);
    out.text.reserve_exact(out.length);
    out.measuring = false;
    write(&mut out);
    out.text
}

/// How long that would be.
pub(super) fn measure(write: impl Fn(&mut Out)) -> usize {
    let mut out = Out {
        text: String::new(),
        length: 0,
        measuring: true,
    };
    write(&mut out);
    out.length
}

impl Out {
    /// Writes what is JSON already.
    pub(super) fn json(&mut self, json: &str) -> &mut Out {
        if self.measuring {
            self.length += json.len();
        } else {
            self.text.push_str(json);
        }
        self
    }

    /// Writes a string, quoted and escaped where RFC 8259 section 7 wants it.
    pub(super) fn string(&mut self, value: &str) -> &mut Out {
        if self.measuring {
            self.length += 2 + value.bytes().map(escaped_length).sum::<usize>();
            return self;
        }
        self.text.push('"');
        let mut plain = 0;
        for (at, byte) in value.bytes().enumerate() {
            let Some(escape) = escape(byte) else { continue };
            self.text.push_str(&value[plain..at]);
            self.text.push('\\');
            self.text.push(char::from(escape.get()));
            if escape.get() == b'u' {
                self.text.push_str("00");
                self.text.push(char::from(HEX[usize::from(byte >> 4)]));
                self.text.push(char::from(HEX[usize::from(byte & 15)]));
            }
            plain = at + 1;
        }
        self.text.push_str(&value[plain..]);
        self.text.push('"');
        self
    }

    fn string_or_null(&mut self, value: Option<&str>) -> &mut Out {
        match value {
            Some(value) => self.string(value),
            None => self.json("null"),
        }
    }

    /// `"uid":…,"umd":…`
    fn identity(&mut self, uid: Option<&str>, umd: Option<&Json>) -> &mut Out {
        self.json("\"uid\":")
            .string_or_null(uid)
            .json(",\"umd\":")
            .json(umd.map_or("null", Json::as_str))
    }

    pub(super) fn meta(&mut self, meta: Meta<'_>) -> &mut Out {
        self.json("{").identity(meta.uid, meta.umd).json("}")
    }

    fn member(&mut self, member: &Member<'_>) -> &mut Out {
        self.meta(Meta {
            uid: Some(member.uid),
            umd: member.umd,
        })
    }

    fn members(&mut self, members: &[Member<'_>]) -> &mut Out {
        self.json("[");
        for (index, member) in members.iter().enumerate() {
            self.json(if index == 0 { "" } else { "," }).member(member);
        }
        self.json("]")
    }

    fn failure(&mut self, failure: &Failure) -> &mut Out {
        self.json("\"error\":{\"code\":\"")
            .json(failure.code.as_str())
            .json("\",\"message\":")
            .string(&failure.message);
        self.json("}")
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What follows the backslash when a byte cannot stand for itself.
const ESCAPES: [Option<NonZeroU8>; 256] = {
    let mut escapes = [None; 256];
    let mut byte = 0;
    while byte < 32 {
        escapes[byte] = NonZeroU8::new(b'u');
        byte += 1;
    }
    escapes[0x08] = NonZeroU8::new(b'b');
    escapes[0x09] = NonZeroU8::new(b't');
    escapes[0x0a] = NonZeroU8::new(b'n');
    escapes[0x0c] = NonZeroU8::new(b'f');
    escapes[0x0d] = NonZeroU8::new(b'r');
    escapes[b'"' as usize] = NonZeroU8::new(b'"');
    escapes[b'\\' as usize] = NonZeroU8::new(b'\\');
    escapes
};

fn escape(byte: u8) -> Option<NonZeroU8> {
    ESCAPES[usize::from(byte)]
}

fn escaped_length(byte: u8) -> usize {
    match escape(byte).map(NonZeroU8::get) {
        None => 1,
        Some(b'u') => 6,
        Some(_) => 2,
    }
}

/// `hotsock.connected`, the first message of every connection (R-CONN-8). The time of expiry is written in whole
/// seconds (R-CONN-14); without one it is `null` (R-CONN-15).
pub fn connected(
    connection_id: &str,
    connection_expires_at: Option<Timestamp>,
    connection_secret: &str,
    meta: Meta<'_>,
) -> String {
    let expires_at = connection_expires_at.map(|time| format!("{time:.0}"));
    build(|out| {
        out.json("{\"event\":\"hotsock.connected\",\"data\":{\"connectionId\":")
            .string(connection_id);
        out.json(",\"connectionExpiresAt\":")
            .string_or_null(expires_at.as_deref());
        out.json(",\"connectionSecret\":")
            .string(connection_secret)
            .json("},\"meta\":")
            .meta(meta)
            .json("}");
    })
}

/// `hotsock.subscribed`: `auto` for a subscription that the token asked for (R-SUB-29), `members` on presence channels
/// (R-PRES-3), `alias` when the subscription has one (R-SUB-22).
pub fn subscribed(
    channel: &str,
    alias: Option<&str>,
    auto: bool,
    members: Option<&[Member<'_>]>,
    meta: Meta<'_>,
) -> String {
    build(|out| {
        out.json("{\"event\":\"hotsock.subscribed\",\"channel\":")
            .string(channel)
            .json(",\"data\":{");
        if auto {
            out.json("\"autoSubscribed\":true");
        }
        if let Some(members) = members {
            out.json(if auto {
                ",\"members\":"
            } else {
                "\"members\":"
            })
            .members(members);
        }
        out.json("},\"meta\":{");
        if let Some(alias) = alias {
            out.json("\"channelAlias\":").string(alias).json(",");
        }
        out.identity(meta.uid, meta.umd).json("}}");
    })
}

/// `hotsock.unsubscribed`; `meta` only for a subscription with an alias (R-SUB-14, R-SUB-22).
pub fn unsubscribed(channel: &str, alias_and_meta: Option<(&str, Meta<'_>)>) -> String {
    build(|out| {
        out.json("{\"event\":\"hotsock.unsubscribed\",\"channel\":")
            .string(channel)
            .json(",\"data\":{}");
        if let Some((alias, meta)) = alias_and_meta {
            out.json(",\"meta\":{\"channelAlias\":")
                .string(alias)
                .json(",")
                .identity(meta.uid, meta.umd)
                .json("}");
        }
        out.json("}");
    })
}

/// A message of the application (R-DLV-2): `data` is compact JSON, `meta` is there when a client sent it (R-PUB-12).
pub fn message(id: &str, event: &str, channel: &str, data: &str, meta: Option<Meta<'_>>) -> String {
    build(|out| {
        out.json("{\"id\":")
            .string(id)
            .json(",\"event\":")
            .string(event)
            .json(",\"channel\":")
            .string(channel);
        out.json(",\"data\":").json(data);
        if let Some(meta) = meta {
            out.json(",\"meta\":").meta(meta);
        }
        out.json("}");
    })
}

/// `hotsock.memberAdded`, with the full list after the change (R-PRES-5).
pub fn member_added(channel: &str, member: &Member<'_>, members: &[Member<'_>]) -> String {
    member_event("hotsock.memberAdded", channel, member, members)
}

/// `hotsock.memberUpdated`, with the full list after the change (R-PRES-5).
pub fn member_updated(channel: &str, member: &Member<'_>, members: &[Member<'_>]) -> String {
    member_event("hotsock.memberUpdated", channel, member, members)
}

/// `hotsock.memberRemoved`; the list no longer has the member (R-PRES-5).
pub fn member_removed(channel: &str, member: &Member<'_>, members: &[Member<'_>]) -> String {
    member_event("hotsock.memberRemoved", channel, member, members)
}

fn member_event(event: &str, channel: &str, member: &Member<'_>, members: &[Member<'_>]) -> String {
    build(|out| {
        out.json("{\"event\":\"")
            .json(event)
            .json("\",\"channel\":")
            .string(channel);
        out.json(",\"data\":{\"member\":")
            .member(member)
            .json(",\"members\":")
            .members(members)
            .json("}}");
    })
}

/// `hotsock.channelStorageData`, also the body of the HTTP answer (R-HTTP-34); for a key without a value `data` and
/// `meta` are `null` (R-STOR-8).
pub fn storage_data(channel: &str, key: &str, entry: Option<(&str, Meta<'_>)>) -> String {
    storage_event("hotsock.channelStorageData", channel, key, entry)
}

/// `hotsock.channelStorageUpdated`; a cleared entry has the data `null` and the meta of who cleared it (R-STOR-17).
pub fn storage_updated(channel: &str, key: &str, data: &str, meta: Meta<'_>) -> String {
    storage_event(
        "hotsock.channelStorageUpdated",
        channel,
        key,
        Some((data, meta)),
    )
}

fn storage_event(event: &str, channel: &str, key: &str, entry: Option<(&str, Meta<'_>)>) -> String {
    build(|out| {
        out.json("{\"event\":\"")
            .json(event)
            .json("\",\"channel\":")
            .string(channel)
            .json(",\"key\":")
            .string(key);
        match entry {
            Some((data, meta)) => out
                .json(",\"data\":")
                .json(data)
                .json(",\"meta\":")
                .meta(meta)
                .json("}"),
            None => out.json(",\"data\":null,\"meta\":null}"),
        };
    })
}

/// `hotsock.messageReactionAdded` or `hotsock.messageReactionRemoved` (R-REACT-10).
pub fn reaction(
    id: &str,
    channel: &str,
    message_id: &str,
    reaction: &str,
    action: Action,
    meta: Meta<'_>,
) -> String {
    let event = match action {
        Action::Add => "hotsock.messageReactionAdded",
        Action::Remove => "hotsock.messageReactionRemoved",
    };
    build(|out| {
        out.json("{\"id\":")
            .string(id)
            .json(",\"event\":\"")
            .json(event)
            .json("\",\"channel\":")
            .string(channel);
        out.json(",\"data\":{\"messageId\":")
            .string(message_id)
            .json(",\"reaction\":")
            .string(reaction);
        out.json(",\"action\":\"")
            .json(action.as_str())
            .json("\"},\"meta\":")
            .meta(meta)
            .json("}");
    })
}

/// `hotsock.error` (R-ERR-1), with the channel when the failure is about one (R-ERR-3).
pub fn error(failure: &Failure) -> String {
    build(|out| {
        out.json("{\"event\":\"hotsock.error\",");
        if let Some(channel) = &failure.channel {
            out.json("\"channel\":").string(channel).json(",");
        }
        out.failure(failure).json("}");
    })
}

/// The answer to `hotsock.ping`; its `data` is a string of two characters (R-LIVE-16).
pub fn pong() -> &'static str {
    r#"{"event":"hotsock.pong","data":"{}"}"#
}

/// What a connection whose token asks for it hears every 570 seconds (R-LIVE-1).
pub fn keep_alive() -> &'static str {
    r#"{"event":"hotsock.keepAlive","data":{}}"#
}

/// What the server may ask a client, which answers with `hotsock.pong` (R-LIVE-18).
pub fn ping() -> &'static str {
    r#"{"event":"hotsock.ping","data":{}}"#
}

/// The body of a 202 (R-HTTP-29, R-HTTP-30, R-SRV-7).
pub fn accepted(
    channel: &str,
    event: &str,
    id: Option<&str>,
    schedule_arn: Option<&str>,
) -> String {
    build(|out| {
        out.json("{");
        if let Some(id) = id {
            out.json("\"id\":").string(id).json(",");
        }
        out.json("\"channel\":")
            .string(channel)
            .json(",\"event\":")
            .string(event);
        if let Some(arn) = schedule_arn {
            out.json(",\"scheduleArn\":").string(arn);
        }
        out.json("}");
    })
}

/// The body of an HTTP error (R-ERR-10).
pub fn http_error(failure: &Failure) -> String {
    build(|out| {
        out.json("{").failure(failure).json("}");
    })
}

/// What backends are told of a channel (R-SRV-26, R-SRV-27); `members` on presence channels only.
pub fn channel_info(
    name: &str,
    subscriptions_count: u64,
    members: Option<&[Member<'_>]>,
) -> String {
    info("name", name, subscriptions_count, members)
}

/// What clients are told of a channel: the same, but the name is called `channel` (R-HTTP-51).
pub fn client_channel_info(
    channel: &str,
    subscriptions_count: u64,
    members: Option<&[Member<'_>]>,
) -> String {
    info("channel", channel, subscriptions_count, members)
}

fn info(
    label: &str,
    name: &str,
    subscriptions_count: u64,
    members: Option<&[Member<'_>]>,
) -> String {
    let count = subscriptions_count.to_string();
    build(|out| {
        out.json("{\"")
            .json(label)
            .json("\":")
            .string(name)
            .json(",\"subscriptionsCount\":")
            .json(&count);
        if let Some(members) = members {
            out.json(",\"members\":").members(members);
        }
        out.json("}");
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::Code;

    fn json_of(text: &str) -> Json {
        Json::compact(text).expect("JSON")
    }

    const ANA: Meta<'_> = Meta {
        uid: Some("ana"),
        umd: None,
    };
    const NOBODY: Meta<'_> = Meta {
        uid: None,
        umd: None,
    };

    /// R-CONN-8, R-CONN-9, R-CONN-15, R-JSON-4, R-JSON-5
    #[test]
    fn a_connection_is_greeted_with_what_it_is() {
        let role = json_of(r#"{"role":"host"}"#);
        let expires = "2027-03-01T10:15:30.987Z".parse().expect("a time");
        let meta = Meta {
            umd: Some(&role),
            ..ANA
        };
        insta::assert_snapshot!(connected("Zt4Qw8LmPoAxBC0=", Some(expires), "q7Rk2ZpV0sLm9TxYb4Hc", meta), @r#"{"event":"hotsock.connected","data":{"connectionId":"Zt4Qw8LmPoAxBC0=","connectionExpiresAt":"2027-03-01T10:15:30Z","connectionSecret":"q7Rk2ZpV0sLm9TxYb4Hc"},"meta":{"uid":"ana","umd":{"role":"host"}}}"#);
        insta::assert_snapshot!(connected("Zt4Qw8LmPoAxBC0=", None, "q7Rk2ZpV0sLm9TxYb4Hc", NOBODY), @r#"{"event":"hotsock.connected","data":{"connectionId":"Zt4Qw8LmPoAxBC0=","connectionExpiresAt":null,"connectionSecret":"q7Rk2ZpV0sLm9TxYb4Hc"},"meta":{"uid":null,"umd":null}}"#);
    }

    /// R-SUB-2, R-SUB-22, R-SUB-29, R-SUB-31, R-JSON-4
    #[test]
    fn a_subscription_is_confirmed_with_its_identity_alias_and_members() {
        insta::assert_snapshot!(subscribed("orders.42", None, false, None, ANA), @r#"{"event":"hotsock.subscribed","channel":"orders.42","data":{},"meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(subscribed("member.9f2", Some("me"), false, None, ANA), @r#"{"event":"hotsock.subscribed","channel":"member.9f2","data":{},"meta":{"channelAlias":"me","uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(subscribed("inbox.7", None, true, None, NOBODY), @r#"{"event":"hotsock.subscribed","channel":"inbox.7","data":{"autoSubscribed":true},"meta":{"uid":null,"umd":null}}"#);
        let members = [Member {
            uid: "ana",
            umd: None,
        }];
        insta::assert_snapshot!(subscribed("presence.den", None, false, Some(&members), ANA), @r#"{"event":"hotsock.subscribed","channel":"presence.den","data":{"members":[{"uid":"ana","umd":null}]},"meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(subscribed("presence.den", Some("d"), true, Some(&[]), ANA), @r#"{"event":"hotsock.subscribed","channel":"presence.den","data":{"autoSubscribed":true,"members":[]},"meta":{"channelAlias":"d","uid":"ana","umd":null}}"#);
    }

    /// R-SUB-14, R-SUB-22
    #[test]
    fn an_end_of_a_subscription_has_meta_only_with_an_alias() {
        insta::assert_snapshot!(unsubscribed("orders.42", None), @r#"{"event":"hotsock.unsubscribed","channel":"orders.42","data":{}}"#);
        insta::assert_snapshot!(unsubscribed("member.9f2", Some(("me", ANA))), @r#"{"event":"hotsock.unsubscribed","channel":"member.9f2","data":{},"meta":{"channelAlias":"me","uid":"ana","umd":null}}"#);
    }

    /// R-DLV-2
    #[test]
    fn a_message_has_meta_only_when_a_client_sent_it() {
        let id = "01KA5T6Q2M8Y0V3WZ4B7C9D1EF";
        insta::assert_snapshot!(message(id, "chat", "room.8", "\"Moin\"", Some(ANA)), @r#"{"id":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","event":"chat","channel":"room.8","data":"Moin","meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(message(id, "price", "board.1", r#"{"bid":101.5}"#, None), @r#"{"id":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","event":"price","channel":"board.1","data":{"bid":101.5}}"#);
        insta::assert_snapshot!(message(id, "price", "board.1", "null", Some(NOBODY)), @r#"{"id":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","event":"price","channel":"board.1","data":null,"meta":{"uid":null,"umd":null}}"#);
    }

    /// R-PRES-6, R-PRES-23
    #[test]
    fn member_messages_have_the_member_and_the_list_but_no_id_and_no_meta() {
        let busy = json_of(r#"{"mood":"busy"}"#);
        let (ana, ben) = (
            Member {
                uid: "ana",
                umd: None,
            },
            Member {
                uid: "ben",
                umd: None,
            },
        );
        let changed = Member {
            umd: Some(&busy),
            ..ben
        };
        insta::assert_snapshot!(member_added("presence.den", &ben, &[ana, ben]), @r#"{"event":"hotsock.memberAdded","channel":"presence.den","data":{"member":{"uid":"ben","umd":null},"members":[{"uid":"ana","umd":null},{"uid":"ben","umd":null}]}}"#);
        insta::assert_snapshot!(member_updated("presence.den", &changed, &[ana, changed]), @r#"{"event":"hotsock.memberUpdated","channel":"presence.den","data":{"member":{"uid":"ben","umd":{"mood":"busy"}},"members":[{"uid":"ana","umd":null},{"uid":"ben","umd":{"mood":"busy"}}]}}"#);
        insta::assert_snapshot!(member_removed("presence.den", &changed, &[ana]), @r#"{"event":"hotsock.memberRemoved","channel":"presence.den","data":{"member":{"uid":"ben","umd":{"mood":"busy"}},"members":[{"uid":"ana","umd":null}]}}"#);
    }

    /// R-STOR-8, R-STOR-24
    #[test]
    fn storage_messages_have_key_value_and_last_writer() {
        insta::assert_snapshot!(storage_data("game.3", "rules", Some((r#"{"seats":4}"#, ANA))), @r#"{"event":"hotsock.channelStorageData","channel":"game.3","key":"rules","data":{"seats":4},"meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(storage_data("game.3", "none", None), @r#"{"event":"hotsock.channelStorageData","channel":"game.3","key":"none","data":null,"meta":null}"#);
        insta::assert_snapshot!(storage_updated("game.3", "rules", r#"{"seats":4}"#, ANA), @r#"{"event":"hotsock.channelStorageUpdated","channel":"game.3","key":"rules","data":{"seats":4},"meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(storage_updated("game.3", "rules", "null", NOBODY), @r#"{"event":"hotsock.channelStorageUpdated","channel":"game.3","key":"rules","data":null,"meta":{"uid":null,"umd":null}}"#);
    }

    #[test]
    fn reaction_messages_say_what_was_done_to_which_message() {
        let (id, target) = ("01KA5T9C4D6E8F0G2H4J6K8MNP", "01KA5T6Q2M8Y0V3WZ4B7C9D1EF");
        insta::assert_snapshot!(reaction(id, "room.8", target, "🎉", Action::Add, ANA), @r#"{"id":"01KA5T9C4D6E8F0G2H4J6K8MNP","event":"hotsock.messageReactionAdded","channel":"room.8","data":{"messageId":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","reaction":"🎉","action":"add"},"meta":{"uid":"ana","umd":null}}"#);
        insta::assert_snapshot!(reaction(id, "room.8", target, "🎉", Action::Remove, ANA), @r#"{"id":"01KA5T9C4D6E8F0G2H4J6K8MNP","event":"hotsock.messageReactionRemoved","channel":"room.8","data":{"messageId":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","reaction":"🎉","action":"remove"},"meta":{"uid":"ana","umd":null}}"#);
    }

    /// R-ERR-1, R-ERR-3, R-ERR-10
    #[test]
    fn a_refusal_has_its_code_at_the_top_level() {
        let denied = Failure::from(Code::SubscribePermissionDenied);
        insta::assert_snapshot!(error(&denied.clone().in_channel("orders.42")), @r#"{"event":"hotsock.error","channel":"orders.42","error":{"code":"SUBSCRIBE_PERMISSION_DENIED","message":"subscribe is not permitted on this channel"}}"#);
        insta::assert_snapshot!(error(&Failure::because(Code::InvalidMessage, "event is missing or empty")), @r#"{"event":"hotsock.error","error":{"code":"INVALID_MESSAGE","message":"event is missing or empty"}}"#);
        insta::assert_snapshot!(http_error(&denied.in_channel("orders.42")), @r#"{"error":{"code":"SUBSCRIBE_PERMISSION_DENIED","message":"subscribe is not permitted on this channel"}}"#);
    }

    /// R-LIVE-16, R-LIVE-18
    #[test]
    fn the_messages_of_liveness_are_always_the_same() {
        insta::assert_snapshot!(pong(), @r#"{"event":"hotsock.pong","data":"{}"}"#);
        insta::assert_snapshot!(ping(), @r#"{"event":"hotsock.ping","data":{}}"#);
        insta::assert_snapshot!(keep_alive(), @r#"{"event":"hotsock.keepAlive","data":{}}"#);
    }

    /// R-HTTP-29, R-HTTP-30, R-SRV-7
    #[test]
    fn an_accepted_request_is_repeated_with_its_id_and_schedule() {
        let arn = "arn:aws:scheduler:local:0:schedule/realtime/01KA5TE8";
        insta::assert_snapshot!(accepted("room.8", "chat", None, None), @r#"{"channel":"room.8","event":"chat"}"#);
        insta::assert_snapshot!(accepted("room.8", "chat", Some("01KA5TD0Q1R3S5T7V9W0X2Y4ZA"), None), @r#"{"id":"01KA5TD0Q1R3S5T7V9W0X2Y4ZA","channel":"room.8","event":"chat"}"#);
        insta::assert_snapshot!(accepted("room.8", "reminder", None, Some(arn)), @r#"{"channel":"room.8","event":"reminder","scheduleArn":"arn:aws:scheduler:local:0:schedule/realtime/01KA5TE8"}"#);
    }

    /// R-HTTP-49, R-HTTP-51, R-SRV-26, R-SRV-27
    #[test]
    fn a_channel_s_info_has_members_only_on_presence_channels() {
        let members = [
            Member {
                uid: "ana",
                umd: None,
            },
            Member {
                uid: "ben",
                umd: None,
            },
        ];
        insta::assert_snapshot!(channel_info("board.1", 12, None), @r#"{"name":"board.1","subscriptionsCount":12}"#);
        insta::assert_snapshot!(channel_info("presence.den", 0, Some(&[])), @r#"{"name":"presence.den","subscriptionsCount":0,"members":[]}"#);
        insta::assert_snapshot!(client_channel_info("presence.den", 3, Some(&members)), @r#"{"channel":"presence.den","subscriptionsCount":3,"members":[{"uid":"ana","umd":null},{"uid":"ben","umd":null}]}"#);
    }

    #[test]
    fn every_control_character_is_escaped() {
        let all: String = (0..=0x7f_u8)
            .map(char::from)
            .chain("\u{2028}é🎉".chars())
            .collect();
        let text = error(&Failure::because(Code::InternalError, all.clone()));
        assert!(text.bytes().all(|byte| byte >= b' '));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["error"]["message"], json!(all));
    }

    /// Text that needs escapes more often than not.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z.]{0,12}", "[\"\\\\\\x00-\\x1fa-z]{0,12}", ".{0,12}"]
    }

    fn values() -> impl Strategy<Value = Json> {
        prop_oneof![
            text().prop_map(|text| json!({ "text": text }).to_string()),
            any::<u64>().prop_map(|number| number.to_string()),
            Just("[9007199254740993,1.0]".to_owned()),
        ]
        .prop_map(|text| json_of(&text))
    }

    fn value_of(json: Option<&Json>) -> Value {
        json.map_or(Value::Null, |json| {
            serde_json::from_str(json.as_str()).expect("JSON")
        })
    }

    /// A text read back, after making sure that it took one allocation of its size (R-JSON-1).
    fn read(text: String) -> Value {
        assert_eq!(text.len(), text.capacity());
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert!(value.is_object());
        value
    }

    proptest! {
        /// R-JSON-1, R-JSON-4, R-DLV-2
        #[test]
        fn whatever_a_message_holds_comes_back(
            event in text(), channel in text(), alias in text(), data in values(),
            uid in proptest::option::of(text()), umd in proptest::option::of(values()), auto: bool,
        ) {
            let meta = Meta { uid: uid.as_deref(), umd: umd.as_ref() };
            let identity = json!({ "uid": uid, "umd": value_of(umd.as_ref()) });
            let data_value = value_of(Some(&data));

            let sent = message("01K", &event, &channel, data.as_str(), Some(meta));
            prop_assert!(sent.contains(data.as_str()), "every digit of data");
            let mut expected = json!({ "id": "01K", "event": event, "channel": channel, "data": data_value });
            prop_assert_eq!(read(message("01K", &event, &channel, data.as_str(), None)), expected.clone());
            expected["meta"] = identity.clone();
            prop_assert_eq!(read(sent), expected);

            let member = Member { uid: &alias, umd: umd.as_ref() };
            let entry = json!({ "uid": alias, "umd": value_of(umd.as_ref()) });
            let list = json!([entry, entry]);
            prop_assert_eq!(
                read(member_added(&channel, &member, &[member, member])),
                json!({ "event": "hotsock.memberAdded", "channel": channel,
                    "data": { "member": entry, "members": list } })
            );
            let mut expected = json!({ "event": "hotsock.subscribed", "channel": channel, "meta": identity });
            expected["data"] = json!({ "members": list });
            expected["meta"]["channelAlias"] = json!(alias);
            if auto {
                expected["data"]["autoSubscribed"] = json!(true);
            }
            prop_assert_eq!(read(subscribed(&channel, Some(&alias), auto, Some(&[member, member]), meta)), expected);

            prop_assert_eq!(
                read(accepted(&channel, &event, Some(&alias), Some(&alias))),
                json!({ "id": alias, "channel": channel, "event": event, "scheduleArn": alias })
            );
            prop_assert_eq!(
                read(storage_updated(&channel, &alias, data.as_str(), meta)),
                json!({ "event": "hotsock.channelStorageUpdated", "channel": channel, "key": alias,
                    "data": data_value, "meta": identity })
            );
            prop_assert_eq!(
                read(reaction("01K", &channel, &alias, &event, Action::Add, meta)),
                json!({ "id": "01K", "event": "hotsock.messageReactionAdded", "channel": channel,
                    "data": { "messageId": alias, "reaction": event, "action": "add" }, "meta": identity })
            );
            let failure = Failure::because(Code::InvalidEvent, event.clone()).in_channel(channel.clone());
            let expected = json!({ "code": "INVALID_EVENT", "message": event });
            prop_assert_eq!(read(http_error(&failure)), json!({ "error": expected }));
            prop_assert_eq!(
                read(error(&failure)),
                json!({ "event": "hotsock.error", "channel": channel, "error": expected })
            );
            prop_assert_eq!(
                read(connected(&alias, None, &event, meta)),
                json!({ "event": "hotsock.connected", "meta": identity,
                    "data": { "connectionId": alias, "connectionExpiresAt": null, "connectionSecret": event } })
            );
        }
    }
}
