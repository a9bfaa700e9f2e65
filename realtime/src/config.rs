//! Settings: what can be set, how it is written, where it comes from, and what may change while the server runs.
//!
//! Every setting is one row of [`settings`]: its key, how it is read and shown, its default, whether a reload applies it,
//! and the sentence that the documentation prints (`docs/realtime-configuration.md`, `realtime settings`). Values come from
//! a TOML file, from environment variables and from flags, the later winning ([`Sources`]). Everything that is wrong is
//! reported at once, each finding with its place ([`Errors`]).

mod address;
mod error;
mod form;
mod generate;
mod load;
mod proxy;
mod secret;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use address::Address;
pub use error::{Errors, Finding, Source};
pub use form::{parse_duration, parse_size, show_duration, show_size};
pub use load::{Flag, Loaded, Reloaded, Sources};
pub use proxy::TrustedProxy;
pub use secret::{ApiKey, Secret};
pub use table::{Setting, markdown, settings};
pub use watch::Watch;

use crate::auth::{SigningKey, Verifier};
use crate::engine::Durability;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The release of the reference product that this server is compatible with (R-OPS-9).
pub const COMPATIBILITY_VERSION: &str = "1.13.5";

/// The file in [`Settings::data_dir`] that holds the generated API keys (R-CFG-4).
pub const API_KEYS_FILE: &str = "api-keys";

/// Everything that can be set, checked as a whole. [`Settings::default`] lets the server start (R-CFG-1).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients and backends connect; one at least.
    pub listen: Vec<Address>,
    /// Where `/healthz`, `/metrics` and `/info` are served without an API key (R-LOG-12). Empty: nowhere.
    pub operations: Vec<Address>,
    /// The keys whose tokens are good (R-AUTH-2): none, one or two. Empty: every token is refused (R-AUTH-18).
    pub signing_keys: Vec<SigningKey>,
    /// What `aud` of every token must be or contain (R-CLAIM-6). `None`: not enforced.
    pub audience: Option<String>,
    /// What `iss` of every token must be (R-CLAIM-7). `None`: not enforced.
    pub issuer: Option<String>,
    /// How far clocks may differ, for `exp` and `nbf` (R-CLAIM-3).
    pub leeway: Duration,
    /// The keys that open the server API (R-SRV-2). Ask with [`Settings::accepts_api_key`].
    pub api_keys: Vec<ApiKey>,
    /// Times, sizes and caps.
    pub limits: Limits,
    /// From whom `X-Forwarded-For` is believed (R-CFG-5).
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The `Origin` values that are let in (R-DIFF-20). Empty: all.
    pub origins: Vec<String>,
    /// Whether permessage-deflate is agreed to when a client offers it (R-CONN-32).
    pub compression: bool,
    /// Whether the web console is served at `/console` (R-CONS-7).
    pub console: bool,
    /// What is logged, and how.
    pub log: Log,
    /// Over how long the closes with 1012 are spread when the server ends without a successor (R-CONN-30, R-DIFF-16).
    pub shutdown_spread: Duration,
    /// What the server keeps on disk: generated API keys, what the embedded engine keeps, events that wait for a sink.
    pub data_dir: PathBuf,
    /// Where messages, storage and schedules are kept.
    pub engine: EngineSettings,
    /// The URL under which clients reach the server, without a path; shown to operators only (R-OPS-10).
    pub public_url: Option<String>,
    /// The release of the reference product that `/info` names (R-OPS-9).
    pub compatibility_version: String,
    /// Where this server runs, in the operator's words; part of `/info` (R-OPS-9).
    pub region: String,
    /// What backends are told, and how (R-EVT-4).
    pub events: Events,
    /// The credentials with which the server API may be called as a function is invoked (R-DIFF-7).
    pub function_keys: [FunctionKey; 2],
    /// Whether `/echo` is served, which sends every message back. A flag for development, never a setting.
    pub dev_echo: bool,
    /// The keys as they were written, before files were read.
    pub(crate) keys: KeySettings,
}

/// Times, sizes and caps. A cap that is `None` does not exist (R-LIM-21).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// A connection without a message in either direction for that long is closed (R-CONN-19, R-DIFF-2). `None`: never.
    pub idle: Option<Duration>,
    /// The age at which every connection is closed (R-CONN-18, R-DIFF-1). `None`: never.
    pub duration: Option<Duration>,
    /// Time between two `hotsock.keepAlive` (R-LIVE-4).
    pub keep_alive: Duration,
    /// Time between two protocol pings; a peer that answered neither of two is gone (R-DIFF-4). `None`: no pings.
    pub ping: Option<Duration>,
    /// How long a new socket has to send a complete request head.
    pub handshake: Duration,
    /// Bytes of one inbound WebSocket message, all frames together (R-LIM-16).
    pub inbound_message: usize,
    /// Bytes that may wait for one connection; more closes it as a slow consumer (R-DLV-11).
    pub outbound_bytes: usize,
    /// Messages that may wait for one connection: tiny ones cost more in bookkeeping than in bytes.
    pub outbound_messages: usize,
    /// How long a connection with bytes waiting may accept none before it is closed as a slow consumer.
    pub write_stall: Duration,
    /// Bytes of one HTTP request body (R-LIM-17).
    pub request_body: usize,
    /// Bytes of request line and headers together; the token travels in there (R-LIM-20).
    pub request_head: usize,
    /// How long an HTTP request may take from its first byte to the last of its answer (R-LIM-18).
    pub request_timeout: Duration,
    /// WebSocket connections of this process (R-DIFF-18).
    pub connections: Option<usize>,
    /// New WebSocket connections of this process in one second (R-DIFF-18).
    pub connections_per_second: Option<usize>,
    /// Sockets that have not sent a complete request yet; of more than that the oldest is closed.
    pub pending_handshakes: usize,
    /// Subscriptions of one connection (R-LIM-21).
    pub subscriptions_per_connection: Option<usize>,
    /// Subscribers of one channel in this process (R-LIM-21).
    pub subscribers_per_channel: Option<usize>,
    /// Messages that one connection may send in one second (R-DIFF-18).
    pub messages_per_second: Option<usize>,
}

/// Where backends are told of what happens (R-EVT-4, R-DIFF-8, R-DIFF-9). Each on its own, and all off by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    /// The ARN of an SNS topic.
    pub sns_topic: Option<String>,
    /// The name or ARN of an EventBridge bus.
    pub event_bus: Option<String>,
    /// A URL that gets every event as a request.
    pub webhook_url: Option<String>,
    /// What its requests are signed with, all at once, so that a secret can be replaced.
    pub webhook_secrets: Vec<Secret>,
    /// Standard output, one event a line.
    pub stdout: bool,
    /// The AWS region. `None`: that of the ARN, or what the environment says.
    pub region: Option<String>,
    /// Where SNS and EventBridge are. `None`: where the AWS SDK finds them.
    pub endpoint_url: Option<String>,
    /// How many bytes of events wait on disk for a sink that takes none, at most.
    pub spool_bytes: usize,
}

impl Events {
    /// Is anybody to be told?
    #[must_use]
    pub fn any(&self) -> bool {
        self.sns_topic.is_some()
            || self.event_bus.is_some()
            || self.webhook_url.is_some()
            || self.stdout
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sns_topic: None,
            event_bus: None,
            webhook_url: None,
            webhook_secrets: Vec::new(),
            stdout: false,
            region: None,
            endpoint_url: None,
            spool_bytes: 256 << 20,
        }
    }
}

/// A pair of credentials as the AWS SDKs have them. Two of them, so that one can be replaced while the other is in use
/// (R-OPS-6).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionKey {
    /// The access key id; `None`: there is no such pair.
    pub access_key_id: Option<String>,
    /// The secret access key.
    pub secret_access_key: Option<Secret>,
}

/// Where messages, storage and schedules are kept, and how safely (R-DIFF-11).
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Which engine: blank or `sqlite` for a file in [`Settings::data_dir`], else the URL of a Redis or Valkey server that
    /// several hosts share. It may hold a password.
    pub url: Secret,
    /// A file that holds that URL instead.
    pub url_file: Option<PathBuf>,
    /// A file that holds the password of the server, instead of the one in the URL.
    pub password_file: Option<PathBuf>,
    /// The authorities that may vouch for the server, in PEM; `None`: those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// With what every key begins in the server.
    pub prefix: String,
    /// How certainly it outlives a loss of power.
    pub durability: Durability,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            url: Secret::new(""),
            url_file: None,
            password_file: None,
            ca_file: None,
            prefix: "rt".into(),
            durability: Durability::default(),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written (R-LOG-1).
    pub level: LogLevel,
    /// How a record is written.
    pub format: LogFormat,
    /// Of a hundred messages, how many are traced (R-LOG-7).
    pub trace_sample_percent: usize,
}

/// Levels, each including the ones above it (R-LOG-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Unexpected failures.
    Error,
    /// Misuse of inputs, and deprecations.
    Warn,
    /// What operators follow. No payloads.
    Info,
    /// Every message with its payload (R-LOG-2).
    Debug,
}

/// How a log record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line (R-LOG-5).
    Json,
    /// A line for people.
    Text,
}

/// The keys as they were written. What is public in [`Settings`] is made of this once files have been read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KeySettings {
    pub signing: [KeySlot; 2],
    pub api: Vec<Secret>,
    pub api_file: Option<PathBuf>,
    /// What tokens can be made with: of each key in force its method, its id, and its Base64.
    pub signers: Vec<(String, Option<String>, Secret)>,
}

/// One of the two places for a signing key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeySlot {
    pub method: String,
    pub id: Option<String>,
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
}

impl Default for KeySlot {
    fn default() -> Self {
        Self {
            method: "HS256".into(),
            id: None,
            key: None,
            key_file: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![Address::Tcp(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                7400,
            ))],
            operations: Vec::new(),
            signing_keys: Vec::new(),
            audience: None,
            issuer: None,
            leeway: Duration::ZERO,
            api_keys: Vec::new(),
            limits: Limits::default(),
            trusted_proxies: vec![TrustedProxy::Unix],
            origins: Vec::new(),
            compression: false,
            console: true,
            log: Log {
                level: LogLevel::Info,
                format: LogFormat::Json,
                trace_sample_percent: 1,
            },
            shutdown_spread: Duration::from_secs(5),
            data_dir: "realtime-data".into(),
            engine: EngineSettings::default(),
            public_url: None,
            compatibility_version: COMPATIBILITY_VERSION.into(),
            region: "local".into(),
            events: Events::default(),
            function_keys: Default::default(),
            dev_echo: false,
            keys: KeySettings::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(600)),
            duration: None,
            keep_alive: Duration::from_secs(570),
            ping: Some(Duration::from_secs(30)),
            handshake: Duration::from_secs(10),
            inbound_message: 128 << 10,
            outbound_bytes: 1 << 20,
            outbound_messages: 8192,
            write_stall: Duration::from_secs(30),
            request_body: 256 << 10,
            request_head: 32 << 10,
            request_timeout: Duration::from_secs(5),
            connections: None,
            connections_per_second: None,
            pending_handshakes: 1024,
            subscriptions_per_connection: None,
            subscribers_per_channel: None,
            messages_per_second: None,
        }
    }
}

impl Settings {
    /// What tokens are checked against.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier::new(
            self.signing_keys.clone(),
            self.audience.clone(),
            self.issuer.clone(),
            self.leeway,
        )
    }

    /// Whether `given`, the credential after `Bearer`, is one of the API keys. Takes as long whichever key it is, and when
    /// it is none (R-SRV-4).
    #[must_use]
    pub fn accepts_api_key(&self, given: &[u8]) -> bool {
        ApiKey::accepted(&self.api_keys, given)
    }
}
