//! What clients and backends send: JSON text to typed values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Code, Failure};

/// The members of one JSON object that are asked for, as they came.
///
/// Each reading gives nothing for a member that is missing or `null`, and refuses one of another type with
/// INVALID_MESSAGE by its name and what was expected (R-JSON-10).
#[derive(Debug, Clone)]
pub struct Members<'a, const N: usize> {
    names: &'static [&'static str; N],
    values: [Option<&'a RawValue>; N],
    /// What stands before a name in a sentence: the path of a nested object.
    path: &'static str,
}

impl<'a, const N: usize> Members<'a, N> {
    /// Reads one JSON object; members of other names are skipped, of a repeated one the last counts (R-JSON-8).
    ///
    /// # Errors
    /// INVALID_MESSAGE: the text is not JSON, or not an object.
    pub fn read(
        text: &'a str,
        names: &'static [&'static str; N],
    ) -> Result<Members<'a, N>, Failure> {
        let mut members = Members {
            names,
            values: [None; N],
            path: "",
        };
        let mut json = serde_json::Deserializer::from_str(text);
        match Deserializer::deserialize_map(&mut json, &mut members).and_then(|()| json.end()) {
            Ok(()) => Ok(members),
            Err(error) if error.is_data() => {
                let found = text.trim_start_matches([' ', '\t', '\n', '\r']);
                Err(Failure::because(
                    Code::InvalidMessage,
                    format!("expected a JSON object, not {}", kind_of(found)),
                ))
            }
            Err(_) => Err(Failure::because(
                Code::InvalidMessage,
                "this is not valid JSON",
            )),
        }
    }

    /// Reads the body of an HTTP request, whatever its content type (R-HTTP-5, R-HTTP-8, R-SRV-20).
    ///
    /// # Errors
    /// INVALID_MESSAGE: the body is not UTF-8, not JSON, or not an object.
    pub fn of_body(
        body: &'a [u8],
        names: &'static [&'static str; N],
    ) -> Result<Members<'a, N>, Failure> {
        let text = simdutf8::basic::from_utf8(body);
        Members::read(
            text.map_err(|_| Failure::because(Code::InvalidMessage, "the body is not UTF-8"))?,
            names,
        )
    }

    /// Reads an object inside of another; `path` is what its members are called by, like `data.`.
    fn nested(
        value: Option<&'a RawValue>,
        path: &'static str,
        names: &'static [&'static str; N],
    ) -> Result<Members<'a, N>, Failure> {
        let Some(value) = value.filter(|value| value.get() != "null") else {
            return Ok(Members {
                names,
                values: [None; N],
                path,
            });
        };
        match Members::read(value.get(), names) {
            Ok(members) => Ok(Members { path, ..members }),
            Err(_) => Err(wrong_type(
                "",
                path.trim_end_matches('.'),
                "an object",
                value,
            )),
        }
    }

    /// The member as it came, `null` included.
    pub fn raw(&self, name: &'static str) -> Option<&'a RawValue> {
        let index = self.names.iter().position(|known| *known == name);
        debug_assert!(index.is_some(), "{name} was not asked for");
        index.and_then(|index| self.values[index])
    }

    fn given(&self, name: &'static str) -> Option<&'a RawValue> {
        self.raw(name).filter(|value| value.get() != "null")
    }

    /// A string.
    ///
    /// # Errors
    /// INVALID_MESSAGE: it is something else, or holds half a surrogate pair.
    pub fn string(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Failure> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let quoted = value
            .get()
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        match quoted {
            Some(text) if !text.contains('\\') => Ok(Some(Cow::Borrowed(text))),
            // Only escapes can still be wrong: halves of surrogate pairs.
            Some(_) => match serde_json::from_str(value.get()) {
                Ok(text) => Ok(Some(Cow::Owned(text))),
                Err(_) => Err(Failure::because(
                    Code::InvalidMessage,
                    format!("{}{name} must be valid Unicode text", self.path),
                )),
            },
            None => Err(wrong_type(self.path, name, "a string", value)),
        }
    }

    /// `true` or `false`; a missing member is `false`.
    ///
    /// # Errors
    /// INVALID_MESSAGE: it is something else.
    pub fn boolean(&self, name: &'static str) -> Result<bool, Failure> {
        match self.given(name) {
            None => Ok(false),
            Some(value) => match value.get() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(wrong_type(self.path, name, "true or false", value)),
            },
        }
    }

    /// A whole number, however it is written (`60`, `60.0`, `6e1`).
    ///
    /// # Errors
    /// INVALID_MESSAGE: it is something else, has a fraction, or is beyond what a double holds exactly.
    pub fn integer(&self, name: &'static str) -> Result<Option<i64>, Failure> {
        /// 2^53: up to here every whole number is a double.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let exact = value.get().parse::<i64>().ok();
        let integer = exact.or_else(|| {
            let number: f64 = serde_json::from_str(value.get()).ok()?;
            (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
        });
        integer
            .map(Some)
            .ok_or_else(|| wrong_type(self.path, name, "an integer", value))
    }

    /// An array of strings.
    ///
    /// # Errors
    /// INVALID_MESSAGE: it is something else.
    pub fn strings(&self, name: &'static str) -> Result<Option<Vec<String>>, Failure> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let strings = serde_json::from_str(value.get());
        strings
            .map(Some)
            .map_err(|_| wrong_type(self.path, name, "an array of strings", value))
    }
}

impl<'a, const N: usize> Visitor<'a> for &mut Members<'a, N> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(index) = map.next_key_seed(Name(self.names))? {
            match index {
                Some(index) => self.values[index] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Finds a member's name among those asked for.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|known| *known == name))
    }
}

fn wrong_type(path: &str, name: &str, expected: &str, found: &RawValue) -> Failure {
    Failure::because(
        Code::InvalidMessage,
        format!(
            "{path}{name} must be {expected}, not {}",
            kind_of(found.get())
        ),
    )
}

/// What a JSON text begins as.
fn kind_of(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A message of a client, from the WebSocket or the Client HTTP API. Types are checked, names and sizes are not.
#[derive(Debug, Clone)]
pub struct Inbound<'a> {
    /// Never empty.
    pub event: Cow<'a, str>,
    /// As the client named it, so perhaps an alias.
    pub channel: Option<Cow<'a, str>>,
    /// The storage key.
    pub key: Option<Cow<'a, str>>,
    /// Any JSON value as it came, not yet compact.
    pub data: Option<&'a RawValue>,
    /// `at(…)`, not yet read.
    pub schedule_expression: Option<Cow<'a, str>>,
    /// An IANA time zone, not yet looked up.
    pub schedule_expression_timezone: Option<Cow<'a, str>>,
    /// Whether the identifier is assigned on acceptance (R-DLV-8).
    pub eager_id_generation: bool,
}

/// What an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `hotsock.subscribe`
    Subscribe,
    /// `hotsock.unsubscribe`
    Unsubscribe,
    /// `hotsock.ping`
    Ping,
    /// `hotsock.pong`
    Pong,
    /// `hotsock.heartbeat`
    Heartbeat,
    /// `hotsock.umdUpdate`
    UmdUpdate,
    /// `hotsock.channelStorageSet`
    StorageSet,
    /// `hotsock.channelStorageGet`
    StorageGet,
    /// `hotsock.messageReaction`
    Reaction,
    /// Any event of the application.
    Message,
}

/// The event with which clients and backends write storage.
pub const STORAGE_SET: &str = "hotsock.channelStorageSet";

/// The event with which clients read storage.
pub const STORAGE_GET: &str = "hotsock.channelStorageGet";

/// The event with which clients and backends react, and the key of claims that says whether they hear their own echo.
pub const REACTION: &str = "hotsock.messageReaction";

impl Kind {
    /// What an event name stands for; nothing for a `hotsock.` event that clients do not send (R-ERR-7).
    pub fn of(event: &str) -> Option<Kind> {
        let Some(control) = event.strip_prefix("hotsock.") else {
            return Some(Kind::Message);
        };
        match control {
            "subscribe" => Some(Kind::Subscribe),
            "unsubscribe" => Some(Kind::Unsubscribe),
            "ping" => Some(Kind::Ping),
            "pong" => Some(Kind::Pong),
            "heartbeat" => Some(Kind::Heartbeat),
            "umdUpdate" => Some(Kind::UmdUpdate),
            "channelStorageSet" => Some(Kind::StorageSet),
            "channelStorageGet" => Some(Kind::StorageGet),
            "messageReaction" => Some(Kind::Reaction),
            _ => None,
        }
    }
}

const MESSAGE: [&str; 7] = [
    "event",
    "channel",
    "key",
    "data",
    "scheduleExpression",
    "scheduleExpressionTimezone",
    "eagerIdGeneration",
];

/// Reads a WebSocket message. Whether its event is known, [`Kind::of`] tells.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, no event, or a member of the wrong type (R-ERR-6, R-JSON-10).
pub fn parse(text: &str) -> Result<Inbound<'_>, Failure> {
    let members = Members::read(text, &MESSAGE)?;
    let event = members.string("event").and_then(|event| match event {
        Some(event) if !event.is_empty() => Ok(event),
        _ => Err(Failure::because(
            Code::InvalidMessage,
            "event is missing or empty",
        )),
    });
    inbound(&members, event)
}

/// Reads the body of a Client HTTP API request that sends a message: `event` is what the path says, or else the body.
///
/// # Errors
/// As [`parse`], but a missing event is INVALID_EVENT.
pub fn parse_body<'a>(body: &'a [u8], event: Option<&'static str>) -> Result<Inbound<'a>, Failure> {
    let members = Members::of_body(body, &MESSAGE)?;
    let event = match event {
        Some(event) => Ok(Cow::Borrowed(event)),
        None => required(&members, "event", Code::InvalidEvent),
    };
    inbound(&members, event)
}

fn inbound<'a>(
    members: &Members<'a, 7>,
    event: Result<Cow<'a, str>, Failure>,
) -> Result<Inbound<'a>, Failure> {
    let channel = members.string("channel")?;
    let read = |channel| {
        Ok(Inbound {
            event: event?,
            channel,
            key: members.string("key")?,
            data: members.raw("data"),
            schedule_expression: members.string("scheduleExpression")?,
            schedule_expression_timezone: members.string("scheduleExpressionTimezone")?,
            eager_id_generation: members.boolean("eagerIdGeneration")?,
        })
    };
    read(channel.clone()).map_err(|failure| about(failure, channel))
}

fn about(failure: Failure, channel: Option<Cow<'_, str>>) -> Failure {
    Failure {
        channel: channel.map(Cow::into_owned),
        ..failure
    }
}

/// A member without which nothing can be done: missing, `null` or empty it is refused with that code.
pub(super) fn required<'a, const N: usize>(
    members: &Members<'a, N>,
    name: &'static str,
    code: Code,
) -> Result<Cow<'a, str>, Failure> {
    let value = members.string(name)?.filter(|value| !value.is_empty());
    value.ok_or_else(|| Failure::because(code, format!("{name} is missing or empty")))
}

/// Reads `data.token` of `hotsock.subscribe` and `hotsock.umdUpdate`; `data` may be absent (R-SUB-4, R-SUB-5).
///
/// # Errors
/// INVALID_MESSAGE: `data` is no object or the token no string.
pub fn parse_token(data: Option<&RawValue>) -> Result<Option<Cow<'_, str>>, Failure> {
    Members::nested(data, "data.", &["token"])?.string("token")
}

/// What `hotsock.messageReaction` asks for in its `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction<'a> {
    /// The message reacted to; not yet known to be an identifier.
    pub message_id: Cow<'a, str>,
    /// Not empty, otherwise unchecked.
    pub reaction: Cow<'a, str>,
    /// Whether it is put on or taken off.
    pub action: Action,
}

/// What is done with a reaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `add`
    Add,
    /// `remove`
    Remove,
}

impl Action {
    /// As it stands in `data.action`.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Remove => "remove",
        }
    }
}

/// Reads the `data` of a reaction.
///
/// # Errors
/// INVALID_MESSAGE: `data` is no object or a member of it no string. INVALID_REACTION: a member is missing, or the
/// action neither `add` nor `remove` (R-REACT-1).
pub fn parse_reaction(data: Option<&RawValue>) -> Result<Reaction<'_>, Failure> {
    let members = Members::nested(data, "data.", &["messageId", "reaction", "action"])?;
    let action = match members.string("action")?.as_deref() {
        Some("add") => Action::Add,
        Some("remove") => Action::Remove,
        _ => {
            return Err(Failure::because(
                Code::InvalidReaction,
                "data.action must be add or remove",
            ));
        }
    };
    let required = |name| {
        let value = members.string(name)?.filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Failure::because(
                Code::InvalidReaction,
                format!("data.{name} is missing or empty"),
            )
        })
    };
    Ok(Reaction {
        message_id: required("messageId")?,
        reaction: required("reaction")?,
        action,
    })
}

/// A message of a backend: the body of `POST /publish`. Types are checked, names, sizes and ranges are not.
#[derive(Debug, Clone)]
pub struct Publish<'a> {
    /// Never empty.
    pub channel: Cow<'a, str>,
    /// Never empty.
    pub event: Cow<'a, str>,
    /// The storage key, for `hotsock.channelStorageSet` (R-SRV-17).
    pub key: Option<Cow<'a, str>>,
    /// Any JSON value as it came, not yet compact.
    pub data: Option<&'a RawValue>,
    /// Nothing when empty (R-SRV-14).
    pub deduplication_id: Option<Cow<'a, str>>,
    /// Whether the identifier is assigned on acceptance (R-DLV-8).
    pub eager_id_generation: bool,
    /// Whether other systems hear of it (R-SRV-11).
    pub emit_pub_sub_event: bool,
    /// Seconds to keep it, -1 for ever; the default depends on the event (R-SRV-10, R-STOR-30).
    pub store: Option<i64>,
    /// `at(…)`, not yet read.
    pub schedule_expression: Option<Cow<'a, str>>,
    /// An IANA time zone, not yet looked up.
    pub schedule_expression_timezone: Option<Cow<'a, str>>,
    /// Who reacts; read for `hotsock.messageReaction` only (R-REACT-15).
    pub author: Author<'a>,
}

/// In whose name a backend acts.
#[derive(Debug, Clone, Default)]
pub struct Author<'a> {
    /// `meta.uid`
    pub uid: Option<Cow<'a, str>>,
    /// `meta.umd`, as it came.
    pub umd: Option<&'a RawValue>,
}

const PUBLISH: [&str; 11] = [
    "channel",
    "event",
    "key",
    "data",
    "deduplicationId",
    "eagerIdGeneration",
    "emitPubSubEvent",
    "store",
    "scheduleExpression",
    "scheduleExpressionTimezone",
    "meta",
];

/// Reads the body of `POST /publish`.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, or a member of the wrong type. INVALID_CHANNEL, INVALID_EVENT: it is missing.
pub fn parse_publish(body: &[u8]) -> Result<Publish<'_>, Failure> {
    let members = Members::of_body(body, &PUBLISH)?;
    let channel = required(&members, "channel", Code::InvalidChannel)?;
    let read = |channel| {
        let event = required(&members, "event", Code::InvalidEvent)?;
        let author = match Kind::of(&event) {
            Some(Kind::Reaction) => {
                let meta = Members::nested(members.raw("meta"), "meta.", &["uid", "umd"])?;
                Author {
                    uid: meta.string("uid")?,
                    umd: meta.raw("umd"),
                }
            }
            _ => Author::default(),
        };
        Ok(Publish {
            channel,
            event,
            key: members.string("key")?,
            data: members.raw("data"),
            deduplication_id: members
                .string("deduplicationId")?
                .filter(|id| !id.is_empty()),
            eager_id_generation: members.boolean("eagerIdGeneration")?,
            emit_pub_sub_event: members.boolean("emitPubSubEvent")?,
            store: members.integer("store")?,
            schedule_expression: members.string("scheduleExpression")?,
            schedule_expression_timezone: members.string("scheduleExpressionTimezone")?,
            author,
        })
    };
    read(channel.clone()).map_err(|failure| about(failure, Some(channel)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn refused<T: fmt::Debug>(outcome: Result<T, Failure>) -> (Code, Option<String>, String) {
        let failure = outcome.expect_err("a refusal");
        (failure.code, failure.channel, failure.message.into_owned())
    }

    fn because(code: Code, channel: Option<&str>, message: &str) -> (Code, Option<String>, String) {
        (code, channel.map(str::to_owned), message.to_owned())
    }

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn a_message_is_its_event_and_whatever_else_was_sent() {
        let text = r#"{"channel":"game.3","event":"hotsock.channelStorageSet","key":"rules","data":{ "seats":4 },
            "scheduleExpression":"at(2027-05-04T09:30:00)","scheduleExpressionTimezone":"Europe/Oslo",
            "eagerIdGeneration":true}"#;
        let message = parse(text).expect("a message");
        assert_eq!(
            (&*message.event, message.channel.as_deref()),
            ("hotsock.channelStorageSet", Some("game.3"))
        );
        assert_eq!(
            (message.key.as_deref(), message.data.map(RawValue::get)),
            (Some("rules"), Some(r#"{ "seats":4 }"#))
        );
        assert_eq!(
            message.schedule_expression.as_deref(),
            Some("at(2027-05-04T09:30:00)")
        );
        assert_eq!(
            message.schedule_expression_timezone.as_deref(),
            Some("Europe/Oslo")
        );
        assert!(message.eager_id_generation);

        let least = parse(r#"{"event":"hotsock.ping"}"#).expect("a message");
        assert!(
            least.channel.is_none()
                && least.key.is_none()
                && least.data.is_none()
                && !least.eager_id_generation
        );
    }

    #[test]
    fn names_without_escapes_are_not_copied() {
        let message = parse(r#"{"event":"chat","channel":"r\u00f6om"}"#).expect("a message");
        assert!(matches!(message.event, Cow::Borrowed("chat")));
        assert_eq!(message.channel.as_deref(), Some("röom"));
    }

    /// R-ERR-6
    #[test]
    fn what_is_no_object_with_an_event_is_an_invalid_message() {
        let cases = [
            ("", "this is not valid JSON"),
            ("{", "this is not valid JSON"),
            (r#"{"event":"a"} x"#, "this is not valid JSON"),
            (r#"{"event":"a",}"#, "this is not valid JSON"),
            (r#"{event:"a"}"#, "this is not valid JSON"),
            ("[]", "expected a JSON object, not an array"),
            (" \n\"{}\"", "expected a JSON object, not a string"),
            ("null", "expected a JSON object, not null"),
            ("17", "expected a JSON object, not a number"),
            ("{}", "event is missing or empty"),
            (r#"{"event":""}"#, "event is missing or empty"),
            (r#"{"event":null}"#, "event is missing or empty"),
            (r#"{"Event":"a"}"#, "event is missing or empty"),
        ];
        for (text, message) in cases {
            assert_eq!(
                refused(parse(text)),
                because(Code::InvalidMessage, None, message),
                "{text:?}"
            );
        }
    }

    /// R-JSON-10, R-ERR-4
    #[test]
    fn a_member_of_the_wrong_type_is_told_by_name_and_expectation() {
        let cases = [
            (
                r#"{"event":["a"],"channel":"me"}"#,
                Some("me"),
                "event must be a string, not an array",
            ),
            (
                r#"{"channel":"me","event":7}"#,
                Some("me"),
                "event must be a string, not a number",
            ),
            (
                r#"{"event":"a","channel":{}}"#,
                None,
                "channel must be a string, not an object",
            ),
            (
                r#"{"event":"a","channel":"me","key":false}"#,
                Some("me"),
                "key must be a string, not a boolean",
            ),
            (
                r#"{"event":"a","channel":"me","scheduleExpression":1}"#,
                Some("me"),
                "scheduleExpression must be a string, not a number",
            ),
            (
                r#"{"event":"a","channel":"me","scheduleExpressionTimezone":[]}"#,
                Some("me"),
                "scheduleExpressionTimezone must be a string, not an array",
            ),
            (
                r#"{"event":"a","channel":"me","eagerIdGeneration":"true"}"#,
                Some("me"),
                "eagerIdGeneration must be true or false, not a string",
            ),
            (
                r#"{"event":"a\ud800","channel":"me"}"#,
                Some("me"),
                "event must be valid Unicode text",
            ),
        ];
        for (text, channel, message) in cases {
            assert_eq!(
                refused(parse(text)),
                because(Code::InvalidMessage, channel, message),
                "{text}"
            );
        }
    }

    /// R-JSON-8, R-PUB-16
    #[test]
    fn unknown_members_are_ignored_and_of_a_repeated_one_the_last_counts() {
        let text = r#"{"event":1,"store":"x","emitPubSubEvent":[],"deduplicationId":{},"x":{"event":2},"event":"a",
            "\u0065vent":"b","channel":"one","channel":null}"#;
        let message = parse(text).expect("a message");
        assert_eq!((&*message.event, message.channel), ("b", None));
    }

    /// R-JSON-9
    #[test]
    fn numbers_in_data_keep_their_digits() {
        for digits in [
            "9007199254740993",
            "1.0",
            "-0",
            "1e400",
            "0.1000000000000000055511151231257827",
            "3E-2",
        ] {
            let text = format!(r#"{{"event":"a","data":{{"n":{digits}}}}}"#);
            let data = parse(&text).expect("a message").data.expect("data");
            assert_eq!(data.get(), format!(r#"{{"n":{digits}}}"#));
        }
    }

    #[test]
    fn deep_nesting_exhausts_no_stack() {
        let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
        let text = format!(r#"{{"event":"a","x":{deep},"data":{deep}}}"#);
        assert_eq!(
            parse(&text).expect("a message").data.map(RawValue::get),
            Some(deep.as_str())
        );
        assert_eq!(refused(parse(&deep)).0, Code::InvalidMessage);
        assert_eq!(
            refused(parse(&"[".repeat(128 * 1024))).0,
            Code::InvalidMessage
        );
    }

    /// R-ERR-7
    #[test]
    fn an_event_of_the_protocol_that_clients_do_not_send_is_none() {
        let known = [
            ("hotsock.subscribe", Kind::Subscribe),
            ("hotsock.unsubscribe", Kind::Unsubscribe),
            ("hotsock.ping", Kind::Ping),
            ("hotsock.pong", Kind::Pong),
            ("hotsock.heartbeat", Kind::Heartbeat),
            ("hotsock.umdUpdate", Kind::UmdUpdate),
            ("hotsock.channelStorageSet", Kind::StorageSet),
            ("hotsock.channelStorageGet", Kind::StorageGet),
            ("hotsock.messageReaction", Kind::Reaction),
            ("chat", Kind::Message),
            ("hotsock", Kind::Message),
            ("Hotsock.ping", Kind::Message),
        ];
        for (event, kind) in known {
            assert_eq!(Kind::of(event), Some(kind), "{event}");
        }
        for event in [
            "hotsock.",
            "hotsock.Ping",
            "hotsock.connected",
            "hotsock.keepAlive",
            "hotsock.error",
        ] {
            assert_eq!(Kind::of(event), None, "{event}");
        }
    }

    /// R-SUB-4, R-SUB-5
    #[test]
    fn a_token_is_read_from_data_which_may_be_absent() {
        assert_eq!(parse_token(None), Ok(None));
        for without in ["null", "{}", r#"{"token":null}"#, r#"{"other":1}"#] {
            assert_eq!(parse_token(Some(raw(without))), Ok(None), "{without}");
        }
        assert_eq!(
            parse_token(Some(raw(r#"{"token":"eyJ"}"#))),
            Ok(Some("eyJ".into()))
        );
        assert_eq!(
            refused(parse_token(Some(raw(r#""eyJ""#)))),
            because(
                Code::InvalidMessage,
                None,
                "data must be an object, not a string"
            )
        );
        assert_eq!(
            refused(parse_token(Some(raw(r#"{"token":["eyJ"]}"#)))),
            because(
                Code::InvalidMessage,
                None,
                "data.token must be a string, not an array"
            )
        );
    }

    /// R-REACT-1
    #[test]
    fn a_reaction_names_its_message_its_value_and_what_to_do() {
        let good =
            r#"{"messageId":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","reaction":"🎉","action":"remove"}"#;
        let reaction = parse_reaction(Some(raw(good))).expect("a reaction");
        let expected = Reaction {
            message_id: "01KA5T6Q2M8Y0V3WZ4B7C9D1EF".into(),
            reaction: "🎉".into(),
            action: Action::Remove,
        };
        assert_eq!(reaction, expected);
        let cases = [
            (
                r#"{"messageId":"0","reaction":"x","action":"toggle"}"#,
                Code::InvalidReaction,
                "data.action must be add or remove",
            ),
            (
                r#"{"messageId":"0","reaction":"x"}"#,
                Code::InvalidReaction,
                "data.action must be add or remove",
            ),
            (
                r#"{"messageId":"0","action":"add"}"#,
                Code::InvalidReaction,
                "data.reaction is missing or empty",
            ),
            (
                r#"{"reaction":"x","action":"add"}"#,
                Code::InvalidReaction,
                "data.messageId is missing or empty",
            ),
            (
                r#"{"reaction":1,"action":"add","messageId":"0"}"#,
                Code::InvalidMessage,
                "data.reaction must be a string, not a number",
            ),
            (
                "[]",
                Code::InvalidMessage,
                "data must be an object, not an array",
            ),
        ];
        for (data, code, message) in cases {
            assert_eq!(
                refused(parse_reaction(Some(raw(data)))),
                because(code, None, message),
                "{data}"
            );
        }
        assert_eq!(refused(parse_reaction(None)).0, Code::InvalidReaction);
    }

    /// R-SRV-6, R-SRV-10, R-SRV-11, R-SRV-14
    #[test]
    fn a_backend_s_message_has_defaults_for_all_but_channel_and_event() {
        let body = br#"{"channel":"board.1","event":"price","data":{"bid":101.5},"deduplicationId":"px-881",
            "eagerIdGeneration":false,"emitPubSubEvent":true,"store":3600,
            "scheduleExpression":"at(2027-05-04T09:30:00)","scheduleExpressionTimezone":"UTC"}"#;
        let full = parse_publish(body).expect("a publish");
        assert_eq!(
            (&*full.channel, &*full.event, full.key),
            ("board.1", "price", None)
        );
        assert_eq!(full.data.map(RawValue::get), Some(r#"{"bid":101.5}"#));
        assert_eq!(
            (full.deduplication_id.as_deref(), full.store),
            (Some("px-881"), Some(3600))
        );
        assert_eq!(
            (full.eager_id_generation, full.emit_pub_sub_event),
            (false, true)
        );
        assert_eq!(
            full.schedule_expression.as_deref(),
            Some("at(2027-05-04T09:30:00)")
        );
        assert_eq!(full.schedule_expression_timezone.as_deref(), Some("UTC"));

        let least =
            parse_publish(br#"{"event":"a","channel":"c","deduplicationId":"","store":null}"#)
                .expect("a publish");
        assert_eq!(
            (
                least.deduplication_id,
                least.store,
                least.emit_pub_sub_event
            ),
            (None, None, false)
        );
        assert!(least.data.is_none() && least.schedule_expression.is_none());
    }

    #[test]
    fn a_lifetime_is_a_whole_number() {
        let store = |text: &str| {
            let body = format!(r#"{{"channel":"c","event":"a","store":{text}}}"#);
            parse_publish(body.as_bytes())
                .map(|publish| publish.store)
                .map_err(|failure| failure.message)
        };
        for (text, value) in [
            ("-1", -1),
            ("0", 0),
            ("3155695200", 3_155_695_200),
            ("60.0", 60),
            ("6e1", 60),
        ] {
            assert_eq!(store(text), Ok(Some(value)), "{text}");
        }
        for (text, kind) in [
            ("1.5", "number"),
            ("1e300", "number"),
            ("99999999999999999999", "number"),
            ("\"1\"", "string"),
        ] {
            assert_eq!(
                store(text),
                Err(format!("store must be an integer, not a {kind}").into()),
                "{text}"
            );
        }
    }

    /// R-SRV-6
    #[test]
    fn a_backend_is_told_what_is_missing_or_wrong() {
        let cases: [(&[u8], _); 8] = [
            (
                b"",
                because(Code::InvalidMessage, None, "this is not valid JSON"),
            ),
            (
                b"\xff",
                because(Code::InvalidMessage, None, "the body is not UTF-8"),
            ),
            (
                b"[1]",
                because(
                    Code::InvalidMessage,
                    None,
                    "expected a JSON object, not an array",
                ),
            ),
            (
                br#"{"event":"a"}"#,
                because(Code::InvalidChannel, None, "channel is missing or empty"),
            ),
            (
                br#"{"channel":7,"event":"a"}"#,
                because(
                    Code::InvalidMessage,
                    None,
                    "channel must be a string, not a number",
                ),
            ),
            (
                br#"{"channel":"c"}"#,
                because(Code::InvalidEvent, Some("c"), "event is missing or empty"),
            ),
            (
                br#"{"channel":"c","event":"a","store":"1"}"#,
                because(
                    Code::InvalidMessage,
                    Some("c"),
                    "store must be an integer, not a string",
                ),
            ),
            (
                br#"{"channel":"c","event":"a","emitPubSubEvent":1}"#,
                because(
                    Code::InvalidMessage,
                    Some("c"),
                    "emitPubSubEvent must be true or false, not a number",
                ),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(refused(parse_publish(body)), expected);
        }
    }

    /// R-REACT-15
    #[test]
    fn a_backend_reacts_in_the_name_that_meta_gives() {
        let publish = |event: &str, meta: &str| {
            format!(r#"{{"channel":"c","event":"{event}","meta":{meta}}}"#)
        };
        let body = publish(
            "hotsock.messageReaction",
            r#"{"uid":"ana","umd":{"n":1.0}}"#,
        );
        let author = parse_publish(body.as_bytes()).expect("a publish").author;
        assert_eq!(
            (author.uid.as_deref(), author.umd.map(RawValue::get)),
            (Some("ana"), Some(r#"{"n":1.0}"#))
        );
        let wrong = publish("hotsock.messageReaction", r#"{"uid":7}"#);
        assert_eq!(
            refused(parse_publish(wrong.as_bytes())).2,
            "meta.uid must be a string, not a number"
        );
        let wrong = publish("hotsock.messageReaction", "7");
        assert_eq!(
            refused(parse_publish(wrong.as_bytes())).2,
            "meta must be an object, not a number"
        );
        assert!(
            parse_publish(publish("price", "7").as_bytes())
                .expect("a publish")
                .author
                .uid
                .is_none()
        );
    }

    /// R-HTTP-8
    #[test]
    fn a_client_s_http_body_is_read_like_its_messages() {
        let message = parse_body(
            br#"{"channel":"room.8","event":"chat","data":"Moin"}"#,
            None,
        )
        .expect("a message");
        assert_eq!(
            (&*message.event, message.data.map(RawValue::get)),
            ("chat", Some("\"Moin\""))
        );
        let set = parse_body(
            br#"{"channel":"g","key":"k","event":7}"#,
            Some("hotsock.channelStorageSet"),
        )
        .expect("a message");
        assert_eq!(
            (&*set.event, set.key.as_deref()),
            ("hotsock.channelStorageSet", Some("k"))
        );
        let missing = refused(parse_body(br#"{"channel":"room.8"}"#, None));
        assert_eq!(
            missing,
            because(
                Code::InvalidEvent,
                Some("room.8"),
                "event is missing or empty"
            )
        );
        for body in [&b""[..], b"[]", b"\"x\"", b"\xc3\x28"] {
            assert_eq!(refused(parse_body(body, None)).0, Code::InvalidMessage);
        }
    }

    #[test]
    fn any_body_s_members_can_be_asked_for_by_type() {
        let text = r#"{"keys":["rules","tu\u0072n"],"after":null,"reverse":true,"limit":5}"#;
        let members = Members::read(text, &["keys", "after", "reverse", "limit", "before"])
            .expect("an object");
        assert_eq!(
            members.strings("keys"),
            Ok(Some(vec!["rules".to_owned(), "turn".to_owned()]))
        );
        assert_eq!(
            (members.string("after"), members.string("before")),
            (Ok(None), Ok(None))
        );
        assert_eq!(
            (members.boolean("reverse"), members.integer("limit")),
            (Ok(true), Ok(Some(5)))
        );
        let wrong = Members::read(r#"{"keys":["a",1]}"#, &["keys"]).expect("an object");
        assert_eq!(
            refused(wrong.strings("keys")).2,
            "keys must be an array of strings, not an array"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\",:\\\\a-z0-9 ut]{0,60}|.{0,60}") {
            let _ = parse(&text);
            let _ = parse_body(text.as_bytes(), None);
            let _ = parse_publish(text.as_bytes());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_body(&body, None);
            let _ = parse_publish(&body);
        }

        /// R-ERR-6, R-JSON-9
        #[test]
        fn what_is_sent_is_what_is_read(
            event in ".{1,20}", channel in ".{0,20}", key in ".{0,20}", data in ".{0,20}", number: u64,
        ) {
            let data = json!({ "text": data, "number": number });
            let text = json!({ "event": event, "channel": channel, "key": key, "data": data }).to_string();
            let message = parse(&text).expect("a message");
            prop_assert_eq!(&*message.event, &*event);
            prop_assert_eq!((message.channel.as_deref(), message.key.as_deref()), (Some(&*channel), Some(&*key)));
            let read: Value = serde_json::from_str(message.data.expect("data").get()).expect("JSON");
            prop_assert_eq!(read, data);
        }
    }
}
