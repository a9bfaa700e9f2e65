//! The table of all settings: the one place from which they are read, listed and documented (R-CFG-1, R-CFG-2).

use super::form::{self, Form, choice, count, duration, many, one, parsed, size, text};
use super::{KeySlot, LogFormat, LogLevel, Secret, Settings};
use crate::auth::Algorithm;
use crate::engine::Durability;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// Reads items into the settings, or says everything that is wrong with them.
type Set = Box<dyn Fn(&mut Settings, &[String]) -> Result<(), Vec<String>> + Send + Sync>;
/// Shows the value in force.
type Show = Box<dyn Fn(&Settings) -> String + Send + Sync>;
/// Gives the second the value of the first; whether that made a difference.
type Keep = Box<dyn Fn(&Settings, &mut Settings) -> bool + Send + Sync>;

/// One setting.
pub struct Setting {
    /// How files and `--set` name it, such as `limits.idle`.
    pub key: &'static str,
    /// How its value is written, such as `duration`.
    pub kind: String,
    /// Whether it takes several values.
    pub list: bool,
    /// Whether its value is never shown, and never taken from a flag.
    pub secret: bool,
    /// Whether a reload applies it (R-CFG-2); others need a restart.
    pub reload: bool,
    /// What it does.
    pub meaning: &'static str,
    set: Set,
    show: Show,
    keep: Keep,
}

impl Setting {
    /// The environment variable, such as `REALTIME_LIMITS_IDLE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!(
            "REALTIME_{}",
            self.key.to_ascii_uppercase().replace('.', "_")
        )
    }

    /// The value in force as it would be written; `[redacted]` for a secret that is set.
    #[must_use]
    pub fn show(&self, settings: &Settings) -> String {
        match (self.show)(settings) {
            shown if self.secret && !shown.is_empty() => "[redacted]".into(),
            shown => shown,
        }
    }

    /// Reads `items` into the settings.
    pub(super) fn set(&self, settings: &mut Settings, items: &[String]) -> Result<(), Vec<String>> {
        (self.set)(settings, items)
    }

    /// Gives `new` the value of `old`; whether that made a difference.
    pub(super) fn keep(&self, old: &Settings, new: &mut Settings) -> bool {
        (self.keep)(old, new)
    }
}

/// Every setting, in the order of the documentation.
#[must_use]
pub fn settings() -> &'static [Setting] {
    static TABLE: LazyLock<Vec<Setting>> = LazyLock::new(table);
    &TABLE
}

/// The table as the documentation prints it.
#[must_use]
pub fn markdown() -> String {
    let defaults = Settings::default();
    let mut out = String::from(
        "| Setting | Environment variable | Value | Default | Reload | What it does |\n|---|---|---|---|---|---|\n",
    );
    for s in settings() {
        let default = match s.show(&defaults) {
            shown if shown.is_empty() => "–".to_owned(),
            shown => format!("`{shown}`"),
        };
        let list = if s.list { "list of " } else { "" };
        let reload = if s.reload { "yes" } else { "restart" };
        let (key, variable, kind, meaning) = (s.key, s.variable(), &s.kind, s.meaning);
        out.push_str(&format!(
            "| `{key}` | `{variable}` | {list}{kind} | {default} | {reload} | {meaning} |\n"
        ));
    }
    out
}

/// A row whose value is shown and which a reload applies.
fn row<T: Clone + PartialEq + 'static>(
    key: &'static str,
    form: Form<T>,
    field: fn(&mut Settings) -> &mut T,
    meaning: &'static str,
) -> Setting {
    let Form {
        name,
        list,
        read,
        show,
    } = form;
    Setting {
        key,
        kind: name,
        list,
        secret: false,
        reload: true,
        meaning,
        set: Box::new(move |settings, items| {
            *field(settings) = read(items)?;
            Ok(())
        }),
        show: Box::new(move |settings| show(field(&mut settings.clone()))),
        keep: Box::new(move |old, new| {
            let value = field(&mut old.clone()).clone();
            let differs = *field(new) != value;
            *field(new) = value;
            differs
        }),
    }
}

impl Setting {
    fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    fn restart(mut self) -> Self {
        self.reload = false;
        self
    }
}

const ACCESS_KEY_ID: &str =
    "The access key id of a backend that publishes by invoking a function with an AWS SDK.";
const SECRET_ACCESS_KEY: &str = "Its secret access key, of 32 characters at least.";

const MILLISECONDS_10: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// No cap is higher: far above what one process could serve.
const MANY: usize = 1_000_000_000;

fn table() -> Vec<Setting> {
    let time = |least, most| duration(least, most);
    let cap = || count(1, MANY).or_off();
    let mut rows = vec![
        row(
            "listen",
            addresses(),
            |s| &mut s.listen,
            "Where clients and backends connect: `tcp:127.0.0.1:7400`, \
            `tcp:[::]:7400`, `unix:/run/realtime/inet.sock`; several at once.",
        )
        .restart(),
        row(
            "operations",
            addresses(),
            |s| &mut s.operations,
            "A listener of its own for `/healthz`, `/metrics` and \
            `/info`, which ask for no API key there.",
        )
        .restart(),
        row(
            "public_url",
            url(),
            |s| &mut s.public_url,
            "The URL under which clients reach the server, such as \
            `https://rt.example.com`. Only shown to operators, at start and by `serve --info`.",
        ),
        row(
            "region",
            word(),
            |s| &mut s.region,
            "Where this server runs, in your words; part of `/info`.",
        ),
    ];
    rows.extend(signing_key(0));
    rows.extend(signing_key(1));
    rows.extend([
        row("audience", text(), |s| &mut s.audience, "What `aud` of every token must be or contain; blank: not enforced."),
        row("issuer", text(), |s| &mut s.issuer, "What `iss` of every token must be; blank: not enforced."),
        row("leeway", time(Duration::ZERO, HOUR), |s| &mut s.leeway, "How far the clocks of this server and of whoever \
            issues tokens may differ, for `exp` and `nbf`."),
        row("api_keys", many("keys", |t| Ok(Secret::new(t)), |_| "set".into()), |s| &mut s.keys.api, "Keys of the server \
            API, each of 32 characters at least. Without any, two are generated on the first start into \
            `api-keys` in the data directory.").secret(),
        row("api_keys_file", path(), |s| &mut s.keys.api_file, "A file with API keys, one on a line."),
        row("limits.idle", time(MILLISECONDS_10, YEAR).or_off(), |s| &mut s.limits.idle, "A connection without a message \
            in either direction for that long is closed with 1001."),
        row("limits.duration", time(MILLISECONDS_10, YEAR).or_off(), |s| &mut s.limits.duration, "The age at which every \
            connection is closed with 1001."),
        row("limits.keep_alive", time(MILLISECONDS_10, YEAR), |s| &mut s.limits.keep_alive, "Time between two \
            `hotsock.keepAlive` on connections that ask for them."),
        row("limits.ping", time(MILLISECONDS_10, HOUR).or_off(), |s| &mut s.limits.ping, "Time between two protocol pings; \
            a peer that answers neither of two is gone."),
        row("limits.handshake", time(MILLISECONDS_10, HOUR), |s| &mut s.limits.handshake, "How long a new socket has to \
            send a complete request head."),
        row("limits.inbound_message", size(1 << 10, 64 << 20), |s| &mut s.limits.inbound_message, "The largest WebSocket \
            message that a client may send, all its frames together; more closes with 1009."),
        // The largest message of the protocol, `hotsock.subscribed` with 100 KiB of presence members, must fit twice.
        row("limits.outbound_bytes", size(256 << 10, 1 << 30), |s| &mut s.limits.outbound_bytes, "How many bytes may wait \
            for one connection; more closes it with 1008 as a slow consumer."),
        row("limits.outbound_messages", count(64, 10_000_000), |s| &mut s.limits.outbound_messages, "How many messages may \
            wait for one connection: tiny ones cost more in bookkeeping than in bytes."),
        row("limits.write_stall", time(MILLISECONDS_10, HOUR), |s| &mut s.limits.write_stall, "How long a connection that \
            messages wait for may take none before it is closed as a slow consumer."),
        row("limits.request_body", size(1 << 10, 64 << 20), |s| &mut s.limits.request_body, "The largest HTTP request \
            body; more is answered with 413."),
        // A token of 8 KiB is always accepted in the URL (R-LIM-20), and browsers add headers of their own.
        row("limits.request_head", size(12 << 10, 1 << 20), |s| &mut s.limits.request_head, "The longest request line with \
            all headers; the token travels in there."),
        row("limits.request_timeout", time(MILLISECONDS_10, HOUR), |s| &mut s.limits.request_timeout, "How long an HTTP \
            request may take until it is answered or abandoned."),
        row("limits.connections", cap(), |s| &mut s.limits.connections, "WebSocket connections of this process; \
            further ones are answered with 429."),
        row("limits.connections_per_second", cap(), |s| &mut s.limits.connections_per_second, "New WebSocket connections \
            of this process in one second; further ones are answered with 429."),
        row("limits.pending_handshakes", count(1, 1_000_000), |s| &mut s.limits.pending_handshakes, "Sockets that have not \
            sent a complete request yet; of more than that the oldest is closed."),
        row("limits.subscriptions_per_connection", cap(), |s| &mut s.limits.subscriptions_per_connection, "Subscriptions \
            of one connection; further ones are answered with RATE_LIMITED."),
        row("limits.subscribers_per_channel", cap(), |s| &mut s.limits.subscribers_per_channel, "Subscribers of one \
            channel in this process; further ones are answered with RATE_LIMITED."),
        row("limits.messages_per_second", cap(), |s| &mut s.limits.messages_per_second, "Messages and HTTP calls that one \
            connection may send in one second; further ones are answered with RATE_LIMITED."),
        row("trusted_proxies", parsed("networks or `unix`"), |s| &mut s.trusted_proxies, "From whom `X-Forwarded-For` is \
            believed: networks, addresses, or `unix` for whoever connects to a Unix socket."),
        row("origins", many("origins", origin, String::clone), |s| &mut s.origins, "The web origins that may connect and \
            call, such as `https://app.example.com`; blank: all."),
        row("compression", choice(&[("true", true), ("false", false)]), |s| &mut s.compression, "Whether permessage-deflate \
            is agreed to when a client offers it. Costs memory and CPU for each connection."),
        row("console", choice(&[("true", true), ("false", false)]), |s| &mut s.console, "Whether the web console is \
            served at `/console`, to anybody; without a token it does nothing."),
        row("log.level", choice(&[("debug", LogLevel::Debug), ("info", LogLevel::Info), ("warn", LogLevel::Warn),
            ("error", LogLevel::Error)]), |s| &mut s.log.level, "The least severe level that is logged. `debug` logs every \
            message with its payload."),
        row("log.format", choice(&[("json", LogFormat::Json), ("text", LogFormat::Text)]), |s| &mut s.log.format, "One JSON \
            object a line, or lines for people.").restart(),
        row("log.trace_sample_percent", count(0, 100), |s| &mut s.log.trace_sample_percent, "Of a hundred messages, how many \
            leave the spans of their way through the server in the log, at level `info` or `debug`; 0: none."),
        row("shutdown_spread", time(Duration::ZERO, HOUR), |s| &mut s.shutdown_spread, "Over how long connections are \
            closed with 1012 when the server ends without a successor, so that clients come back in a trickle."),
        row("data_dir", one("path", required_path, |p: &PathBuf| p.display().to_string()), |s| &mut s.data_dir, "What the \
            server keeps on disk: generated API keys, the database `realtime.db`, events that wait to be taken. On a local \
            disk, for one server and its successor. The default lies beside the socket of `PORTER_HANDOVER_SOCKET`, if \
            that is set.").restart(),
        row("engine.url", engine_url(), |s| &mut s.engine.url, "Where messages, storage, reactions and schedules are \
            kept: blank or `sqlite` for the file in the data directory; for several hosts the Redis or Valkey that they \
            share, `redis://[user:password@]host:port/db`, `rediss://…` with TLS, or `redis+unix:///path?db=0`.")
            .secret().restart(),
        row("engine.url_file", path(), |s| &mut s.engine.url_file, "A file with that URL, instead of it.").restart(),
        row("engine.password_file", path(), |s| &mut s.engine.password_file, "A file with the password of that Redis, \
            instead of the one in the URL.").restart(),
        row("engine.ca_file", path(), |s| &mut s.engine.ca_file, "A PEM file with the authorities that may vouch for \
            that Redis; blank: those that browsers trust.").restart(),
        row("engine.prefix", word(), |s| &mut s.engine.prefix, "With what every key begins in that Redis: one for each \
            installation that shares it.").restart(),
        row("engine.durability", choice(&[("full", Durability::Full), ("normal", Durability::Normal),
            ("off", Durability::Off)]), |s| &mut s.engine.durability, "What a loss of power may cost of what was accepted: \
            `full` nothing; `normal` the last seconds; `off` the file. The end of the process alone costs nothing.")
            .restart(),
        row("events.sns.topic_arn", topic_arn(), |s| &mut s.events.sns_topic, "The SNS topic that every event is published \
            to; blank: none."),
        row("events.eventbridge.bus", text(), |s| &mut s.events.event_bus, "The EventBridge bus, by name or ARN, that every \
            event is put on; blank: none."),
        row("events.webhook.url", webhook(), |s| &mut s.events.webhook_url, "A URL to which every event is posted; blank: \
            none. A password in it is not shown."),
        row("events.webhook.secret", many("secrets", |t| Ok(Secret::new(t)), |_| "set".into()),
            |s| &mut s.events.webhook_secrets, "What those requests are signed with; several while one replaces another.")
            .secret(),
        row("events.stdout", choice(&[("true", true), ("false", false)]), |s| &mut s.events.stdout, "Whether every event is \
            written to standard output, one JSON object a line."),
        row("events.region", text(), |s| &mut s.events.region, "The AWS region of topic and bus; blank: that of the ARN, else \
            as the AWS SDK finds it."),
        row("events.endpoint_url", url(), |s| &mut s.events.endpoint_url, "Where SNS and EventBridge are, for emulators and \
            private endpoints; blank: as the AWS SDK finds them, `AWS_ENDPOINT_URL` included."),
        row("events.spool_bytes", size(1 << 20, 1 << 40), |s| &mut s.events.spool_bytes, "How much may wait on disk while a \
            sink takes no events. Above that the oldest are dropped."),
        row("function_keys.1.access_key_id", text(), |s| &mut s.function_keys[0].access_key_id, ACCESS_KEY_ID),
        row("function_keys.1.secret_access_key", secret(), |s| &mut s.function_keys[0].secret_access_key, SECRET_ACCESS_KEY)
            .secret(),
        row("function_keys.2.access_key_id", text(), |s| &mut s.function_keys[1].access_key_id, ACCESS_KEY_ID),
        row("function_keys.2.secret_access_key", secret(), |s| &mut s.function_keys[1].secret_access_key, SECRET_ACCESS_KEY)
            .secret(),
        row("compatibility_version", word(), |s| &mut s.compatibility_version, "The release of the reference product that \
            `/info` and events name as compatible."),
    ]);
    rows
}

/// The rows of a signing key; `slot` is 0 or 1.
fn signing_key(slot: usize) -> [Setting; 4] {
    // Accessors are plain functions, so there is one for each slot.
    fn first(s: &mut Settings) -> &mut KeySlot {
        &mut s.keys.signing[0]
    }
    fn second(s: &mut Settings) -> &mut KeySlot {
        &mut s.keys.signing[1]
    }
    const METHOD: &str =
        "The algorithm of this signing key: `HS256` to `HS512`, `RS…`, `PS…`, `ES…`, `EdDSA`.";
    const ID: &str = "Compared with `kid` of a token; blank: tried for every token.";
    const KEY: &str = "Base64 of the secret, or of the PEM public key.";
    const FILE: &str = "A file with that Base64, instead of it.";
    let key = || {
        one(
            "Base64",
            |t| Ok((!t.is_empty()).then(|| Secret::new(t))),
            |k| k.as_ref().map_or("", |_| "set").into(),
        )
    };
    if slot == 0 {
        [
            row(
                "signing_keys.1.method",
                method(),
                |s| &mut first(s).method,
                METHOD,
            ),
            row("signing_keys.1.id", text(), |s| &mut first(s).id, ID),
            row("signing_keys.1.key", key(), |s| &mut first(s).key, KEY).secret(),
            row(
                "signing_keys.1.key_file",
                path(),
                |s| &mut first(s).key_file,
                FILE,
            ),
        ]
    } else {
        [
            row(
                "signing_keys.2.method",
                method(),
                |s| &mut second(s).method,
                METHOD,
            ),
            row("signing_keys.2.id", text(), |s| &mut second(s).id, ID),
            row("signing_keys.2.key", key(), |s| &mut second(s).key, KEY).secret(),
            row(
                "signing_keys.2.key_file",
                path(),
                |s| &mut second(s).key_file,
                FILE,
            ),
        ]
    }
}

fn method() -> Form<String> {
    one(
        "algorithm",
        |t| {
            let names = Algorithm::ALL.map(Algorithm::name);
            let found = names.into_iter().find(|name| name.eq_ignore_ascii_case(t));
            found
                .map(str::to_owned)
                .ok_or_else(|| format!("`{t}` is not one of {}", names.join(", ")))
        },
        String::clone,
    )
}

fn addresses() -> Form<Vec<super::Address>> {
    form::parsed("addresses")
}

fn word() -> Form<String> {
    let read = |t: &str| match t {
        "" => Err("must not be blank".to_owned()),
        t => Ok(t.to_owned()),
    };
    one("text", read, String::clone)
}

fn secret() -> Form<Option<Secret>> {
    one(
        "text",
        |t| Ok((!t.is_empty()).then(|| Secret::new(t))),
        |s| s.as_ref().map_or("", |_| "set").into(),
    )
}

/// Messages of FIFO topics need groups and are throttled by them; nothing here would gain by it.
fn topic_arn() -> Form<Option<String>> {
    let read = |t: &str| {
        let parts: Vec<_> = t.split(':').collect();
        match parts[..] {
            [""] => Ok(None),
            ["arn", _, "sns", region, _, name] if !region.is_empty() && !name.is_empty() => {
                match name.ends_with(".fifo") {
                    true => Err("is a FIFO topic: use a standard one".to_owned()),
                    false => Ok(Some(t.to_owned())),
                }
            }
            _ => Err(format!(
                "`{t}` is not the ARN of a topic, such as `arn:aws:sns:eu-central-1:123456789012:events`"
            )),
        }
    };
    one("ARN", read, |t: &Option<String>| {
        t.clone().unwrap_or_default()
    })
}

/// As [`url`], with path and query.
fn webhook() -> Form<Option<String>> {
    let read = |t: &str| {
        if t.is_empty() {
            return Ok(None);
        }
        let uri: Option<http::Uri> = t.parse().ok();
        let fits = uri.is_some_and(|u| {
            matches!(u.scheme_str(), Some("http" | "https")) && u.authority().is_some()
        });
        match fits {
            true => Ok(Some(t.to_owned())),
            false => Err("is not a URL such as `https://backend.example.com/events`".to_owned()),
        }
    };
    // Whatever is in front of the host or behind the path may be a secret.
    let show = |t: &Option<String>| {
        let uri: Option<http::Uri> = t.as_deref().and_then(|t| t.parse().ok());
        uri.map(|u| {
            format!(
                "{}://{}{}",
                u.scheme_str().unwrap_or_default(),
                u.authority()
                    .map(|a| a.as_str().rsplit('@').next().unwrap_or_default())
                    .unwrap_or_default(),
                u.path()
            )
        })
        .unwrap_or_default()
    };
    one("URL", read, show)
}

/// A URL that may hold a password.
fn engine_url() -> Form<Secret> {
    one(
        "URL",
        |t| Ok(Secret::new(t)),
        |url: &Secret| url.expose().to_owned(),
    )
}

fn path() -> Form<Option<PathBuf>> {
    one(
        "path",
        |t| Ok((!t.is_empty()).then(|| t.into())),
        |p: &Option<PathBuf>| {
            p.as_ref()
                .map(|p| p.display().to_string())
                .unwrap_or_default()
        },
    )
}

fn required_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("must not be blank".into())
    } else {
        Ok(text.into())
    }
}

fn url() -> Form<Option<String>> {
    let read = |t: &str| {
        let t = t.trim_end_matches('/');
        if t.is_empty() {
            return Ok(None);
        }
        let uri: Option<http::Uri> = t.parse().ok();
        let fits = uri.is_some_and(|u| {
            matches!(u.scheme_str(), Some("http" | "https"))
                && matches!(u.path(), "" | "/")
                && u.query().is_none()
        });
        if fits {
            Ok(Some(t.to_owned()))
        } else {
            Err(format!(
                "`{t}` is not a URL such as `https://rt.example.com`"
            ))
        }
    };
    one("URL", read, |t: &Option<String>| {
        t.clone().unwrap_or_default()
    })
}

/// An origin as browsers send it (RFC 6454, section 6.2): scheme, host and perhaps a port, nothing behind it; or `null`.
fn origin(text: &str) -> Result<String, String> {
    let wrong =
        || format!("`{text}` is not an origin such as `https://app.example.com`, without a path");
    if text == "null" {
        return Ok(text.into());
    }
    let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let fits = scheme_fits
        && !authority.contains(['@', '*'])
        && authority.parse::<http::uri::Authority>().is_ok();
    if fits {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(wrong())
    }
}
