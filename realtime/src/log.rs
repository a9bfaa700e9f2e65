//! The log: one record a line on standard output, and what never stands in it (R-LOG-1 to R-LOG-5, R-LOG-10).
//!
//! Records are written by a thread of its own. A reader that stalls would otherwise stall the loop, and with it every
//! connection; so beyond [`BUFFERED`] records further ones are dropped and counted.

use crate::config::{Log, LogFormat, LogLevel};
use serde_json::Value;
use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::io::IsTerminal;
use std::panic;
use std::sync::OnceLock;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Records that may wait to be written.
pub const BUFFERED: usize = 16_384;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// Members of a message whose values are secrets (R-LOG-4).
const SECRET_MEMBERS: [&str; 2] = ["token", "connectionSecret"];

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Keeps the log going; dropping it writes what waits. Hold it until the program ends.
pub struct Guard {
    _worker: WorkerGuard,
}

/// Records dropped so far because nobody read them fast enough.
#[must_use]
pub fn dropped() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

/// Starts the log, and has panics logged as ERROR with a stack trace (R-LOG-3). Once in a program.
///
/// # Errors
/// When a log has been started before.
pub fn init(log: &Log) -> anyhow::Result<Guard> {
    let stdout = std::io::stdout();
    let colours = stdout.is_terminal();
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(BUFFERED)
        .finish(stdout);
    let _ = DROPPED.set(writer.error_counter());
    let (level, handle) = reload::Layer::new(filter(log.level));
    let layer = fmt::layer()
        .with_writer(writer)
        .with_span_events(FmtSpan::NONE);
    let registry = tracing_subscriber::registry().with(level);
    match log.format {
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(false))
            .try_init()?,
        LogFormat::Text => registry
            .with(layer.with_ansi(colours).with_target(false))
            .try_init()?,
    }
    let _ = LEVEL.set(handle);
    log_panics();
    Ok(Guard { _worker: worker })
}

/// Changes the level of the running log (R-LOG-10). Without a log this does nothing.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let backtrace = Backtrace::force_capture();
        tracing::error!(place, %backtrace, "panicked: {message}");
    }));
}

/// A URL or request target as it may be logged: the values of `token` and `connectionSecret` in its query are replaced,
/// however their names are escaped (R-LOG-4).
#[must_use]
pub fn redact_url(url: &str) -> Cow<'_, str> {
    let Some((path, query)) = url.split_once('?') else {
        return Cow::Borrowed(url);
    };
    let mut hidden = false;
    let pairs: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| {
            let (name, value) = form_urlencoded::parse(pair.as_bytes())
                .next()
                .unwrap_or_default();
            if value.is_empty() || !secret_member(&name) {
                return Cow::Borrowed(pair);
            }
            hidden = true;
            Cow::Owned(format!("{name}={REDACTED}"))
        })
        .collect();
    if hidden {
        Cow::Owned(format!("{path}?{}", pairs.join("&")))
    } else {
        Cow::Borrowed(url)
    }
}

/// A message or request body as it may be logged at DEBUG (R-LOG-2, R-LOG-4): every member `token` or `connectionSecret`
/// and every text that looks like a token is replaced, at any depth. Of what is not JSON only the length is told, since
/// half a message may hold a whole token.
#[must_use]
pub fn redact_message(message: &str) -> String {
    match serde_json::from_str::<Value>(message) {
        Ok(mut value) => {
            hide(&mut value);
            value.to_string()
        }
        Err(_) => format!("[{} bytes that are not JSON]", message.len()),
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if secret_member(name) && !value.is_null() {
                    *value = REDACTED.into();
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) if looks_like_a_token(text) => *value = REDACTED.into(),
        _ => {}
    }
}

fn secret_member(name: &str) -> bool {
    SECRET_MEMBERS
        .iter()
        .any(|secret| secret.eq_ignore_ascii_case(name))
}

/// Three parts of which the first begins as the Base64 of `{"` does.
fn looks_like_a_token(text: &str) -> bool {
    text.trim_start().starts_with("eyJ") && text.matches('.').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// R-LOG-4
    #[test]
    fn the_token_of_a_url_is_hidden_and_the_rest_stays() {
        for (url, shown) in [
            ("/v1?token=abc", "/v1?token=[redacted]"),
            (
                "wss://rt.example.com/v1?a=1&token=abc&b=2",
                "wss://rt.example.com/v1?a=1&token=[redacted]&b=2",
            ),
            (
                "/v1?%74oken=abc&token=def",
                "/v1?token=[redacted]&token=[redacted]",
            ),
            ("/v1?TOKEN=abc", "/v1?TOKEN=[redacted]"),
            (
                "/connection/listMessages?connectionId=Zt4%3D&connectionSecret=q7Rk",
                "/connection/listMessages?connectionId=Zt4%3D&connectionSecret=[redacted]",
            ),
            ("/v1", "/v1"),
            ("/v1?", "/v1?"),
            ("/v1?token=", "/v1?token="),
            ("/v1?tokens=3", "/v1?tokens=3"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }

    /// R-LOG-4
    #[test]
    fn secrets_of_a_message_are_hidden_and_the_rest_stays() {
        for (message, shown) in [
            (
                json!({"event":"hotsock.subscribe","channel":"a","data":{"token":"eyJh.b.c"}}),
                json!({"event":"hotsock.subscribe","channel":"a","data":{"token":"[redacted]"}}),
            ),
            (
                json!({"event":"hotsock.connected","data":{"connectionId":"Zt4=","connectionSecret":"q7Rk"}}),
                json!({"event":"hotsock.connected","data":{"connectionId":"Zt4=","connectionSecret":"[redacted]"}}),
            ),
            (
                json!({"token":{"deep":"abc"}}),
                json!({"token":"[redacted]"}),
            ),
            (
                json!({"data":["eyJhbGciOi.e30.sig", "e.y.J"]}),
                json!({"data":["[redacted]", "e.y.J"]}),
            ),
            (
                json!({"data":{"token":null,"n":12}}),
                json!({"data":{"token":null,"n":12}}),
            ),
        ] {
            assert_eq!(redact_message(&message.to_string()), shown.to_string());
        }
    }

    /// R-LOG-4
    #[test]
    fn of_half_a_message_only_the_length_is_told() {
        let half = r#"{"event":"hotsock.subscribe","data":{"token":"eyJh.b.c""#;
        assert_eq!(redact_message(half), "[55 bytes that are not JSON]");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z .\"\\\\é]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-z]{1,6}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// R-LOG-4
        #[test]
        fn wherever_a_message_holds_its_token_it_is_never_shown(
            before in any_json(),
            after in any_json(),
            token in "[A-Z]{12,40}",
            name in prop_oneof![Just("token"), Just("connectionSecret"), Just("Token")],
        ) {
            let message = json!({"event": "x", "before": before, "data": [{"inner": {name: &token}, "after": after}]});
            prop_assert!(!redact_message(&message.to_string()).contains(&token));
        }

        /// R-LOG-2
        #[test]
        fn a_message_without_secrets_is_shown_as_it_is(value in any_json()) {
            let message = json!({"event": "x", "payload": value}).to_string();
            prop_assume!(!message.contains("token"));
            prop_assert_eq!(redact_message(&message), message);
        }

        /// R-LOG-4
        #[test]
        fn wherever_a_url_holds_its_token_it_is_never_shown(
            path in "/[a-z/%0-9]{0,12}",
            before in "([a-z]{1,5}=[a-z0-9%?=]{0,8}&){0,3}",
            after in "(&[a-z]{1,5}=[a-z0-9%?=]{0,8}){0,3}",
            escaped in proptest::array::uniform5(any::<bool>()),
            token in "[A-Z]{12,40}",
        ) {
            let letters = "token".bytes().zip(escaped);
            let name: String =
                letters.map(|(b, esc)| if esc { format!("%{b:02X}") } else { char::from(b).to_string() }).collect();
            let url = format!("{path}?{before}{name}={token}{after}");
            let shown = redact_url(&url);
            prop_assert!(!shown.contains(&token), "{}", shown);
            prop_assert!(shown.starts_with(&path));
        }
    }
}
