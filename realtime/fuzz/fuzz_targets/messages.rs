//! Messages of clients and of backends: JSON that may be none. What is taken means the same as it did to a plain JSON
//! parser, what is refused is answered by a message that can be sent, and logging hides without breaking. When something is
//! to be done is a moment to come, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realtime::json::{Json, MAX_DEPTH};
use realtime::protocol::{self, Failure, Kind};
use realtime::{log, names, schedule};
use serde::Deserialize as _;
use serde_json::Value;

/// The value, as deep as it may be; without the plain parser's own limit, which is one level below ours.
fn value(text: &str) -> serde_json::Result<Value> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let value = Value::deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn refused(failure: &Failure) {
    for text in [protocol::error(failure), protocol::http_error(failure)] {
        value(&text).expect("a refusal is JSON");
    }
}

fn compact(text: &str) {
    let Ok(json) = Json::compact(text) else {
        return;
    };
    let again = Json::compact(json.as_str()).expect("what is compact is JSON");
    assert_eq!(json, again, "it is compact");
    assert!(json.as_str().len() <= text.trim().len());
    assert!(depth(json.as_str()) <= MAX_DEPTH);
    assert!(json.same_value(&again));
    // Halves of surrogate pairs and numbers beyond 1e308 are JSON, but not to the plain parser.
    if let Ok(expected) = value(text) {
        assert_eq!(value(json.as_str()).expect("still"), expected);
        let rewritten = Json::compact(&expected.to_string()).expect("JSON");
        assert_eq!(rewritten.is_null(), json.is_null());
    }
    let sent = protocol::message("01", "an event", "a/channel", json.as_str(), None);
    let raw: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(&sent).expect("a message is JSON");
    assert_eq!(
        raw["data"].get(),
        json.as_str(),
        "data goes through untouched"
    );
}

fn planned(expression: &str, zone: Option<&str>) {
    let now = "2027-03-01T10:15:30Z".parse().expect("a time");
    if let Ok(at) = schedule::moment(now, expression, zone) {
        assert!(at >= now, "not in the past");
        assert_eq!(at.subsec_nanosecond(), 0, "in whole seconds");
        let zone = zone.unwrap_or("UTC");
        assert!(expression.len() == "at(2027-05-04T09:30:00)".len() && !zone.is_empty());
    }
}

fuzz_target!(|data: &[u8]| {
    match protocol::parse_publish(data) {
        Err(failure) => refused(&failure),
        Ok(publish) => {
            let _ = names::check_channel(&publish.channel);
            let _ = names::check_event(&publish.event);
            if let Some(expression) = &publish.schedule_expression {
                planned(expression, publish.schedule_expression_timezone.as_deref());
            }
        }
    }
    if let Err(failure) = protocol::parse_body(data, Some("hotsock.ping")) {
        refused(&failure);
    }
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let _ = log::redact_message(text);
    compact(text);
    // On its own as well: an expression, then a zone.
    match text.split_once('\n') {
        Some((expression, zone)) => planned(expression, Some(zone)),
        None => planned(text, None),
    }
    match protocol::parse(text) {
        Err(failure) => refused(&failure),
        Ok(message) => {
            assert!(!message.event.is_empty());
            let object = value(text);
            // The same JSON, unless the plain parser stumbles over what nobody asked for.
            assert!(object.is_err() || object.is_ok_and(|it| it.is_object()));
            Kind::of(&message.event);
            if let Some(channel) = &message.channel {
                let _ = names::check_channel(channel);
                let _ = names::is_presence(channel);
            }
            if let Some(key) = &message.key {
                let _ = names::check_storage_key(key);
            }
            if let Some(data) = message.data {
                compact(data.get());
            }
            for failure in [
                protocol::parse_token(message.data).err(),
                protocol::parse_reaction(message.data).err(),
            ]
            .into_iter()
            .flatten()
            {
                refused(&failure);
            }
        }
    }
});
