//! `realtime check-token`: what a token may do, and why it is refused. Asks the same code as the server does.

use super::{SourceFlags, print, token_of};
use crate::claims::{Claims, Grants, React};
use crate::config::Settings;
use crate::names::{check_channel, check_event, check_storage_key};
use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::process::ExitCode;

/// Explain what a token may do, and why it is refused
///
/// Works offline with the keys, audience and issuer of the settings. Without a signing key the claims are explained all the
/// same, and the signature is said to be unverified. The exit code is 1 for a token that the server would refuse everywhere.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// The token, `-` for standard input [default: the variable REALTIME_TOKEN]
    token: Option<String>,
    /// A channel to explain. May be repeated [default: those that the token names]
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
    /// An event to explain. May be repeated [default: those that the token names]
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    /// A storage key to explain. May be repeated [default: those that the token names]
    #[arg(long, value_name = "NAME")]
    key: Vec<String>,
    /// Judge the token as of another time, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How the explanation is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    sources: SourceFlags,
}

const EXAMPLES: &str = "\
Examples:
  realtime check-token eyJ... --channel room.8 --event chat
  realtime token --uid ana --channel 'room.*=subscribe' | realtime check-token - --channel room.8
  realtime check-token - --output json < token | jq .channels";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// A JSON object
    Json,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let settings = self.sources.load()?.settings;
        let token = token_of(self.token.as_deref())?;
        let verdict = judge(&token, &settings, self.at.unwrap_or_else(Timestamp::now));
        let report = self.report(&verdict);
        match self.output {
            Output::Json => print(format_args!("{report:#}"))?,
            Output::Text => print(text(&report).trim_end())?,
        }
        Ok(if verdict.refusal.is_none() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn report(&self, verdict: &Verdict) -> Value {
        let mut report = json!({
            "usable": verdict.refusal.is_none(),
            "signature": verdict.signature,
            "refusal": verdict.refusal,
        });
        if let Some(payload) = &verdict.payload {
            report["claims"] = payload.clone();
        }
        if let Some(claims) = &verdict.claims {
            report["uses"] = uses(claims);
            report["channels"] = self.channels(claims, verdict.payload.as_ref());
            let channels = verdict
                .payload
                .as_ref()
                .and_then(|p| p["channels"].as_object());
            let patterns = channels
                .into_iter()
                .flat_map(Map::keys)
                .filter(|name| !is_literal(name));
            report["patterns"] = patterns.cloned().collect();
        }
        report
    }

    /// What holds on each channel that was asked for, else on each that the token names.
    fn channels(&self, claims: &Claims, payload: Option<&Value>) -> Value {
        let named = |member: &str| names_in(payload, member);
        let or_named = |asked: &Vec<String>, member| {
            if asked.is_empty() {
                named(member)
            } else {
                asked.clone()
            }
        };
        let channels = if self.channel.is_empty() {
            let channels = payload.and_then(|p| p["channels"].as_object());
            channels
                .map(|c| c.keys().filter(|name| is_literal(name)).cloned().collect())
                .unwrap_or_default()
        } else {
            self.channel.clone()
        };
        let (events, keys) = (
            or_named(&self.event, "messages"),
            or_named(&self.key, "storage"),
        );
        let explained = channels.iter().map(|asked| {
            let channel = claims.channel_of_alias(asked).unwrap_or(asked);
            (asked.clone(), explain(claims, channel, &events, &keys))
        });
        Value::Object(explained.collect())
    }
}

/// What the server would say of a token.
struct Verdict {
    /// `good`, `unverified` or `refused`.
    signature: &'static str,
    /// Why it is refused everywhere, if it is.
    refusal: Option<String>,
    /// The claims, if they are valid ones.
    claims: Option<Claims>,
    /// The claims as they are written, if they are JSON.
    payload: Option<Value>,
}

fn judge(token: &str, settings: &Settings, now: Timestamp) -> Verdict {
    let verifier = settings.verifier();
    let payload = payload_of(token);
    let parsed = payload
        .as_ref()
        .map_err(|e| anyhow!("{e}"))
        .and_then(|text| Ok(Claims::parse(text)?));
    let (signature, refusal) = if verifier.has_keys() {
        match verifier.verify(token, now) {
            Ok(_) => ("good", None),
            Err(refusal) => {
                // The order of the checks is the server's: whatever comes after the signature has a good one.
                use crate::auth::Refusal::{Audience, Claims, Expired, Issuer, NotYetValid};
                let passed = matches!(
                    refusal,
                    Expired | NotYetValid | Audience | Issuer | Claims(_)
                );
                let cause = refusal
                    .source()
                    .map(|cause| format!(": {cause}"))
                    .unwrap_or_default();
                (
                    if passed { "good" } else { "refused" },
                    Some(format!("{refusal}{cause}")),
                )
            }
        }
    } else {
        let expired =
            |claims: &Claims| (claims.expires <= now).then(|| "the token has expired".to_owned());
        (
            "unverified",
            parsed
                .as_ref()
                .map_or_else(|e| Some(e.to_string()), expired),
        )
    };
    Verdict {
        signature,
        refusal,
        claims: parsed.ok(),
        payload: payload
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok()),
    }
}

/// The second part of a token, decoded; nothing is verified.
fn payload_of(token: &str) -> anyhow::Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, _] = parts[..] else {
        return Err(anyhow!(
            "the token is malformed: it is not three parts with dots between them"
        ));
    };
    let bytes = URL_SAFE_NO_PAD
        .decode(payload)
        .context("the token is malformed: its payload is not base64url")?;
    String::from_utf8(bytes).context("the token is malformed: its payload is not UTF-8")
}

/// Where the token may be used, and why not (R-CONN-4, R-CONN-5, R-CLAIM-12, R-CLAIM-15).
fn uses(claims: &Claims) -> Value {
    let scope = claims.scope;
    let connection = claims.connection_id.is_some();
    let named = connection || claims.uid.is_some();
    let verdict = |in_scope: bool, name: &str, also: Option<&str>| match (in_scope, also) {
        (false, _) => format!("no: its scope lacks {name}"),
        (true, Some(why)) => format!("no: {why}"),
        (true, None) => "yes".to_owned(),
    };
    let connect = connection.then_some("a token with connectionId never opens a connection");
    let other = (!named).then_some("it names neither a connectionId nor a uid");
    json!({
        "connect": verdict(scope.connect(), "connect", connect),
        "subscribe": verdict(scope.subscribe(), "subscribe", other),
        "umd": verdict(scope.umd(), "umd", other),
        "once": claims.single_use.is_some(),
    })
}

/// What holds on one channel: the answers that the server acts on.
fn explain(claims: &Claims, channel: &str, events: &[String], keys: &[String]) -> Value {
    if let Err(bad) = check_channel(channel) {
        return json!({"invalid": bad.to_string()});
    }
    let grants = Grants {
        connect: claims,
        subscription: None,
        channel,
    };
    let messages = events.iter().map(|event| {
        let explained = match check_event(event) {
            Err(bad) => json!({"invalid": bad.to_string()}),
            Ok(()) => {
                let m = grants.message(event);
                let react = match m.react {
                    React::None => json!(false),
                    React::All => json!(true),
                    React::Only(listed) => json!(listed),
                };
                json!({
                    "publish": m.publish == Some(true),
                    // An explicit no to publishing holds for broadcasting too (R-PUB-5).
                    "broadcast": m.broadcast && m.publish != Some(false),
                    "echo": m.echo,
                    "emitPubSubEvent": m.emit_pub_sub_event,
                    "react": react,
                    "store": m.store,
                    "scheduleBefore": time(m.schedule_before_ms),
                })
            }
        };
        (event.clone(), explained)
    });
    let storage = keys.iter().map(|key| {
        let explained = match check_storage_key(key) {
            Err(bad) => json!({"invalid": bad.to_string()}),
            Ok(()) => {
                let s = grants.storage(key);
                json!({
                    "observe": s.observe,
                    "get": s.get,
                    "set": s.set,
                    "emitPubSubEvent": s.emit_pub_sub_event,
                    "store": s.store,
                    "scheduleBefore": time(s.schedule_before_ms),
                })
            }
        };
        (key.clone(), explained)
    });
    json!({
        "channel": channel,
        "subscribe": grants.subscribe(),
        "autoSubscribe": claims.auto_subscribe().any(|name| name == channel),
        "alias": grants.alias(),
        "getInfo": grants.get_info(),
        "omitFromSubCount": grants.omit_from_sub_count(),
        "historyStart": grants.history_start_ms().map_or(json!("the subscription"), |ms| time(ms).into()),
        "messages": messages.collect::<Map<_, _>>(),
        "storage": storage.collect::<Map<_, _>>(),
    })
}

/// Names of events or storage keys that the token spells out, on whatever channel.
fn names_in(payload: Option<&Value>, member: &str) -> Vec<String> {
    let channels = payload
        .and_then(|p| p["channels"].as_object())
        .into_iter()
        .flat_map(Map::values);
    let mut names: Vec<String> = channels
        .filter_map(|c| c[member].as_object())
        .flat_map(Map::keys)
        .filter(|n| is_literal(n))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Neither a wildcard nor a regular expression (R-PERM-1).
fn is_literal(key: &str) -> bool {
    !key.contains('*') && !key.starts_with("#regex:")
}

/// A time in words; 0 is never.
fn time(millis: i64) -> String {
    match Timestamp::from_millisecond(millis) {
        Ok(_) if millis == 0 => "never".into(),
        Ok(time) => time.to_string(),
        Err(_) => format!("{millis} ms"),
    }
}

/// The report for people.
fn text(report: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &Value| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
            Value::Null => "–".into(),
            other => other.to_string(),
        };
        out.push_str(&format!("{name:<28}{value}\n"));
    };
    match report["refusal"].as_str() {
        Some(why) => line("refused", &why.into()),
        None if report["signature"] == "unverified" => {
            line("usable", &"perhaps: the signature is unverified".into())
        }
        None => line("usable", &true.into()),
    }
    let signature = match report["signature"].as_str() {
        Some("unverified") => "unverified: no signing key is configured",
        Some("refused") => "refused",
        _ => "good",
    };
    line("signature", &signature.into());
    for claim in ["scope", "uid", "umd", "connectionId", "aud", "iss", "jti"] {
        if let Some(value) = report["claims"].get(claim) {
            line(claim, value);
        }
    }
    for claim in ["exp", "nbf"] {
        if let Some(seconds) = report["claims"][claim].as_f64() {
            let time = Timestamp::from_second(seconds as i64);
            line(
                claim,
                &time
                    .map_or_else(|_| seconds.to_string(), |t| t.to_string())
                    .into(),
            );
        }
    }
    for (name, value) in report["uses"].as_object().into_iter().flatten() {
        line(
            &format!("may {name}").replace("may once", "good once only"),
            value,
        );
    }
    for (asked, channel) in report["channels"].as_object().into_iter().flatten() {
        line("", &"".into());
        line(
            &format!("channel {asked}"),
            channel.get("invalid").unwrap_or(&"".into()),
        );
        for (name, value) in channel.as_object().into_iter().flatten() {
            match name.as_str() {
                "channel" if value == asked => {}
                "invalid" => {}
                "messages" | "storage" => {
                    let what = if name == "messages" { "event" } else { "key" };
                    for (of, directives) in value.as_object().into_iter().flatten() {
                        line(
                            &format!("  {what} {of}"),
                            directives.get("invalid").unwrap_or(&"".into()),
                        );
                        for (directive, value) in directives.as_object().into_iter().flatten() {
                            if directive != "invalid" {
                                line(&format!("    {directive}"), value);
                            }
                        }
                    }
                }
                _ => line(&format!("  {name}"), value),
            }
        }
    }
    out.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
