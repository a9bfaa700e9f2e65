//! What is counted, for Prometheus (R-LOG-12). Every name is listed in `docs/realtime-configuration.md`.
//!
//! The loop counts as it works: a plain field for each metric, and an index into an array where a message is counted by
//! kind, never a look-up by text. No label holds what a client chose (a channel, a user, an event name, a path): whoever
//! connects could otherwise make series without end. Labels are variants of an enum or literals of this program.

use crate::info::{COMMIT, VERSION};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a client's message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// `hotsock.subscribe`
    Subscribe,
    /// `hotsock.unsubscribe`
    Unsubscribe,
    /// `hotsock.ping` and `hotsock.pong`
    Ping,
    /// `hotsock.heartbeat`
    Heartbeat,
    /// `hotsock.umdUpdate`
    UmdUpdate,
    /// `hotsock.channelStorageSet` and `hotsock.channelStorageGet`
    Storage,
    /// `hotsock.messageReaction`
    Reaction,
    /// An application event.
    Publish,
    /// Anything that is no message.
    Invalid,
}

const KINDS: [&str; 9] = [
    "subscribe",
    "unsubscribe",
    "ping",
    "heartbeat",
    "umd_update",
    "storage",
    "reaction",
    "publish",
    "invalid",
];

/// Where a published message came from (R-EVT-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// A client's WebSocket.
    #[serde(rename = "client.websocket")]
    ClientWebSocket,
    /// The client HTTP API.
    #[serde(rename = "client.http")]
    ClientHttp,
    /// The server API.
    #[serde(rename = "server.http")]
    ServerHttp,
    /// The server API in the form of a function's invocation (R-DIFF-7).
    #[serde(rename = "server.lambda")]
    ServerLambda,
}

const TRIGGERS: [&str; 4] = [
    "client.websocket",
    "client.http",
    "server.http",
    "server.lambda",
];

impl Trigger {
    /// As events and labels name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        TRIGGERS[self as usize]
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The client closed it.
    Client,
    /// The transport failed, or the peer stopped answering pings.
    Transport,
    /// The idle limit.
    Idle,
    /// The duration limit.
    Duration,
    /// No heartbeat in time.
    Heartbeat,
    /// Too much waited for it, or it took nothing for too long.
    SlowConsumer,
    /// It broke RFC 6455 or a limit: binary, too big, not UTF-8.
    Protocol,
    /// The server ended.
    Shutdown,
}

impl Closed {
    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Transport => "transport",
            Self::Idle => "idle",
            Self::Duration => "duration",
            Self::Heartbeat => "heartbeat",
            Self::SlowConsumer => "slow_consumer",
            Self::Protocol => "protocol",
            Self::Shutdown => "shutdown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabels {
    code: u16,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    trigger: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtSink {
    sink: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drop {
    sink: &'static str,
    reason: &'static str,
}

/// Why an event did not reach a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// So many waited in memory that there was no place for it.
    Queue,
    /// It could not be written to the spool.
    Disk,
    /// The spool was full, and it was the oldest.
    SpoolFull,
    /// The spool was damaged where it stood.
    Damaged,
    /// The sink takes nothing as large.
    TooLarge,
    /// The sink refused it for what it is.
    Refused,
    /// The sink was turned off before it took it.
    TurnedOff,
}

impl Dropped {
    fn label(self) -> &'static str {
        match self {
            Self::Queue => "queue_full",
            Self::Disk => "disk",
            Self::SpoolFull => "spool_full",
            Self::Damaged => "damaged",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::TurnedOff => "turned_off",
        }
    }
}

/// What becomes of events for backends. Copies count together: the loop has one, the thread that delivers another.
#[derive(Clone, Debug, Default)]
pub struct EventMetrics {
    emitted: Family<OfType, Counter>,
    delivered: Family<AtSink, Counter>,
    failed: Family<AtSink, Counter>,
    dropped: Family<Drop, Counter>,
    lag: Family<AtSink, Gauge<f64, AtomicU64>>,
    spooled: Gauge,
}

impl EventMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "events_emitted",
            "Events for backends that happened while a sink was on, by type",
            self.emitted.clone(),
        );
        registry.register(
            "events_delivered",
            "Events that a sink has taken",
            self.delivered.clone(),
        );
        registry.register(
            "events_failed",
            "Attempts to deliver events that failed and are repeated, by sink",
            self.failed.clone(),
        );
        registry.register(
            "events_dropped",
            "Events that a sink will never get, by sink and reason",
            self.dropped.clone(),
        );
        registry.register(
            "events_lag_seconds",
            "Age of the oldest event that a sink has not taken",
            self.lag.clone(),
        );
        registry.register(
            "events_spool_bytes",
            "Bytes of events on disk",
            self.spooled.clone(),
        );
    }

    /// An event happened; `of` is one of the protocol's types.
    pub fn emitted(&self, of: &'static str) {
        self.emitted.get_or_create(&OfType { r#type: of }).inc();
    }

    /// A sink has taken so many events.
    pub fn delivered(&self, sink: &'static str, count: usize) {
        self.delivered
            .get_or_create(&AtSink { sink })
            .inc_by(count as u64);
    }

    /// An attempt has failed, and will be repeated.
    pub fn failed(&self, sink: &'static str) {
        self.failed.get_or_create(&AtSink { sink }).inc();
    }

    /// So many events will never reach a sink; `all` where they reached none.
    pub fn dropped(&self, sink: &'static str, reason: Dropped, count: u64) {
        let reason = reason.label();
        self.dropped
            .get_or_create(&Drop { sink, reason })
            .inc_by(count);
    }

    /// So many bytes of events are on disk.
    pub fn spooled(&self, bytes: u64) {
        self.spooled.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// How old the oldest event is that a sink has not taken.
    pub fn lag(&self, sink: &'static str, age: Duration) {
        self.lag
            .get_or_create(&AtSink { sink })
            .set(age.as_secs_f64());
    }
}

/// What is counted of an engine. Its threads have copies of it, which count together.
#[derive(Clone, Debug)]
pub struct EngineMeter {
    /// 1: it does everything; 0: it can't do some of it.
    pub healthy: Gauge,
    /// What waits to be kept.
    pub queue: Gauge,
    commits: Counter,
    failures: Counter,
    batch: Histogram,
    seconds: Histogram,
}

impl Default for EngineMeter {
    fn default() -> Self {
        Self {
            healthy: Gauge::default(),
            queue: Gauge::default(),
            commits: Counter::default(),
            failures: Counter::default(),
            batch: Histogram::new((0..11).map(|n| f64::from(1 << n))),
            // From 100 µs, a commit without a disk, to more than a second.
            seconds: Histogram::new((0..8).map(|n| 1e-4 * 4f64.powi(n))),
        }
    }
}

impl EngineMeter {
    /// So many tasks were to be kept in one transaction.
    pub fn committed(&self, tasks: usize, took: Duration, kept: bool) {
        self.commits.inc();
        if !kept {
            self.failures.inc();
        }
        self.batch.observe(tasks as f64);
        self.seconds.observe(took.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "engine_healthy",
            "Whether the engine does everything: 1, or 0",
            self.healthy.clone(),
        );
        registry.register(
            "engine_queue",
            "Tasks that wait to be kept",
            self.queue.clone(),
        );
        registry.register("engine_commits", "Transactions", self.commits.clone());
        registry.register(
            "engine_commit_failures",
            "Transactions that failed: nothing of them is kept, and whoever asked was told",
            self.failures.clone(),
        );
        registry.register(
            "engine_commit_tasks",
            "Tasks in one transaction",
            self.batch.clone(),
        );
        registry.register(
            "engine_commit_seconds",
            "Time that one transaction took, up to the disk",
            self.seconds.clone(),
        );
    }
}

/// Everything that is counted. Made once; the loop owns it.
pub struct Metrics {
    /// WebSocket connections that are open.
    pub connections: Gauge,
    /// WebSocket connections that were ever opened.
    pub connections_opened: Counter,
    /// Subscriptions that are active.
    pub subscriptions: Gauge,
    /// Channels with a subscriber.
    pub channels: Gauge,
    /// Copies of messages queued for connections.
    pub deliveries: Counter,
    /// Messages accepted to be kept.
    pub stored: Counter,
    /// Writes to channel storage that were accepted.
    pub storage_writes: Counter,
    /// Reactions, put on or taken off, that were accepted.
    pub reactions: Counter,
    /// Messages and writes accepted to be done later.
    pub schedules: Counter,
    /// Bytes read from sockets.
    pub bytes_received: Counter,
    /// Bytes written to sockets.
    pub bytes_sent: Counter,
    /// Bytes that wait for connections to take them.
    pub outbox_bytes: Gauge,
    /// Messages that wait for connections to take them.
    pub outbox_messages: Gauge,
    /// Reloads that were applied.
    pub reloads: Counter,
    /// Reloads that were rejected (R-CFG-3).
    pub reloads_rejected: Counter,
    /// What becomes of events for backends.
    pub events: EventMetrics,
    /// What the engine counts.
    pub engine: EngineMeter,
    loop_turn: Histogram,
    slow_consumers: Counter,
    received: Vec<Counter>,
    published: Vec<Counter>,
    closed: Family<CloseLabels, Counter>,
    refused: Family<Cause, Counter>,
    auth_failures: Family<Cause, Counter>,
    errors: Family<Code, Counter>,
    requests: Family<RouteLabels, Counter>,
    log_dropped: Gauge,
    memory: Gauge,
    open_files: Gauge,
    cpu: Counter<f64, AtomicU64>,
    registry: Registry,
}

impl Metrics {
    /// Registers everything. `started` is when the process began to serve; `compatibility` is named in the build info.
    #[must_use]
    pub fn new(started: SystemTime, compatibility: &str) -> Self {
        let mut registry = Registry::default();
        let (memory, open_files, cpu) = (Gauge::default(), Gauge::default(), Counter::default());
        let start: Gauge<f64, AtomicU64> = Gauge::default();
        start.set(
            started
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |d| d.as_secs_f64()),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Memory in use",
            memory.clone(),
        );
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            open_files.clone(),
        );
        registry.register("process_cpu_seconds", "Processor time used", cpu.clone());
        registry.register(
            "process_start_time_seconds",
            "When the process began to serve, in Unix seconds",
            start,
        );

        let own = registry.sub_registry_with_prefix("realtime");
        let build = [
            ("version", VERSION),
            ("commit", COMMIT),
            ("compatibility", compatibility),
        ];
        let build = build.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.register("build", "What is running", Info::new(build.to_vec()));
        let kinds = Family::<Kind, Counter>::default();
        own.register(
            "messages_received",
            "Messages of clients, by what they ask for",
            kinds.clone(),
        );
        let triggers = Family::<By, Counter>::default();
        own.register(
            "messages_published",
            "Messages accepted for channels, by where they came from",
            triggers.clone(),
        );
        let metrics = Self {
            connections: register(own, "connections", "Open WebSocket connections"),
            connections_opened: register(own, "connections_opened", "WebSocket connections opened"),
            subscriptions: register(own, "subscriptions", "Active subscriptions"),
            channels: register(own, "channels", "Channels with a subscriber"),
            deliveries: register(
                own,
                "deliveries",
                "Copies of messages queued for connections",
            ),
            stored: register(own, "messages_stored", "Messages accepted to be kept"),
            storage_writes: register(
                own,
                "storage_writes",
                "Writes to channel storage that were accepted",
            ),
            reactions: register(
                own,
                "reactions",
                "Reactions, put on or taken off, that were accepted",
            ),
            schedules: register(
                own,
                "schedules",
                "Messages and writes accepted to be done later",
            ),
            bytes_received: register(own, "bytes_received", "Bytes read from sockets"),
            bytes_sent: register(own, "bytes_sent", "Bytes written to sockets"),
            outbox_bytes: register(
                own,
                "outbox_bytes",
                "Bytes that wait for connections to take them",
            ),
            outbox_messages: register(
                own,
                "outbox_messages",
                "Messages that wait for connections to take them",
            ),
            log_dropped: register(
                own,
                "log_records_dropped",
                "Log records dropped because nobody read fast enough",
            ),
            reloads: register(own, "reloads", "Reloads of the settings that were applied"),
            reloads_rejected: register(
                own,
                "reloads_rejected",
                "Reloads of the settings that were rejected",
            ),
            slow_consumers: register(
                own,
                "slow_consumer_closes",
                "Connections closed because they took too little",
            ),
            closed: register(
                own,
                "connections_closed",
                "WebSocket connections ended, by close code and reason",
            ),
            refused: register(
                own,
                "handshakes_refused",
                "WebSocket handshakes refused, by cause",
            ),
            auth_failures: register(
                own,
                "auth_failures",
                "Tokens and API keys refused, by cause",
            ),
            errors: register(
                own,
                "errors",
                "Errors answered to clients and backends, by code",
            ),
            requests: register(
                own,
                "http_requests",
                "HTTP requests answered, by route and status",
            ),
            received: KINDS
                .map(|kind| kinds.get_or_create_owned(&Kind { kind }))
                .to_vec(),
            published: TRIGGERS
                .map(|trigger| triggers.get_or_create_owned(&By { trigger }))
                .to_vec(),
            events: EventMetrics::default(),
            engine: EngineMeter::default(),
            // From 10 µs, a turn with one small message, to more than half a second, which everybody notices.
            loop_turn: Histogram::new((0..9).map(|n| 1e-5 * 4f64.powi(n))),
            memory,
            open_files,
            cpu,
            registry: Registry::default(),
        };
        metrics.events.register(own);
        metrics.engine.register(own);
        own.register(
            "loop_turn_seconds",
            "Time that one turn of the loop took",
            metrics.loop_turn.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }

    /// A message of a client has been read.
    pub fn received(&self, kind: MessageKind) {
        self.received[kind as usize].inc();
    }

    /// A message has been accepted for a channel.
    pub fn published(&self, trigger: Trigger) {
        self.published[trigger as usize].inc();
    }

    /// A connection has ended. `code` is what stood in the close frame; whatever a client made up is counted as 0.
    pub fn closed(&self, reason: Closed, code: u16) {
        if reason == Closed::SlowConsumer {
            self.slow_consumers.inc();
        }
        let code = if (1000..=1015).contains(&code) {
            code
        } else {
            0
        };
        self.closed
            .get_or_create(&CloseLabels {
                code,
                reason: reason.label(),
            })
            .inc();
    }

    /// A WebSocket handshake has been refused; `cause` is a word of this program, such as `token` or `cap`.
    pub fn refused(&self, cause: &'static str) {
        self.refused.get_or_create(&Cause { cause }).inc();
    }

    /// A token or an API key has been refused; `cause` is a word of this program, such as `expired`.
    pub fn auth_failed(&self, cause: &'static str) {
        self.auth_failures.get_or_create(&Cause { cause }).inc();
    }

    /// An error has been answered; `code` is one of the protocol's, such as `NOT_SUBSCRIBED`.
    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&Code { code }).inc();
    }

    /// A request has been answered. `route` is the pattern of the path, never the path; `other` for an unknown one.
    pub fn request(&self, route: &'static str, status: u16) {
        self.requests
            .get_or_create(&RouteLabels { route, status })
            .inc();
    }

    /// One turn of the loop has taken that long.
    pub fn loop_turn(&self, took: Duration) {
        self.loop_turn.observe(took.as_secs_f64());
    }

    /// Everything in the OpenMetrics text format; see [`CONTENT_TYPE`]. Asks the kernel about the process.
    #[must_use]
    pub fn encode(&self) -> String {
        self.memory.set(resident_memory());
        self.log_dropped
            .set(i64::try_from(crate::log::dropped()).unwrap_or(i64::MAX));
        self.open_files
            .set(fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as i64));
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        self.cpu.inner().store(
            (cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9).to_bits(),
            RELAXED,
        );
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("text can be written to a String");
        out
    }
}

const RELAXED: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

/// Makes a metric and registers it.
fn register<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Bytes of memory in use, as proc(5) tells; 0 where it doesn't.
fn resident_memory() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| {
        rest.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<i64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            "1.13.5",
        )
    }

    /// R-LOG-12
    #[test]
    fn every_kind_of_message_and_every_trigger_has_its_own_series_from_the_start() {
        let metrics = metrics();
        let before = metrics.encode();
        for kind in KINDS {
            assert!(
                before.contains(&format!(
                    "realtime_messages_received_total{{kind=\"{kind}\"}} 0\n"
                )),
                "{before}"
            );
        }
        metrics.received(MessageKind::Subscribe);
        metrics.received(MessageKind::Invalid);
        metrics.published(Trigger::ServerHttp);
        let after = metrics.encode();
        assert!(
            after.contains("realtime_messages_received_total{kind=\"subscribe\"} 1\n"),
            "{after}"
        );
        assert!(
            after.contains("realtime_messages_received_total{kind=\"invalid\"} 1\n"),
            "{after}"
        );
        assert!(
            after.contains("realtime_messages_published_total{trigger=\"server.http\"} 1\n"),
            "{after}"
        );
    }

    /// R-LOG-12
    #[test]
    fn a_slow_consumer_is_counted_by_its_close_and_on_its_own() {
        let metrics = metrics();
        metrics.closed(Closed::SlowConsumer, 1008);
        metrics.closed(Closed::Client, 4321);
        let text = metrics.encode();
        assert!(
            text.contains("realtime_slow_consumer_closes_total 1\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "realtime_connections_closed_total{code=\"1008\",reason=\"slow_consumer\"} 1\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("realtime_connections_closed_total{code=\"0\",reason=\"client\"} 1\n"),
            "{text}"
        );
    }

    /// R-OPS-3
    #[test]
    fn close_codes_that_clients_make_up_make_no_series() {
        let metrics = metrics();
        for code in 0..=u16::MAX {
            metrics.closed(Closed::Client, code);
        }
        assert_eq!(
            metrics
                .encode()
                .matches("realtime_connections_closed_total{")
                .count(),
            17
        );
    }

    /// R-LOG-12
    #[test]
    fn causes_codes_routes_and_the_process_are_shown() {
        let metrics = metrics();
        metrics.connections.set(3);
        metrics.refused("cap");
        metrics.auth_failed("expired");
        metrics.error("NOT_SUBSCRIBED");
        metrics.request("/publish", 202);
        metrics.loop_turn(Duration::from_micros(50));
        let text = metrics.encode();
        for line in [
            "realtime_connections 3",
            "realtime_handshakes_refused_total{cause=\"cap\"} 1",
            "realtime_auth_failures_total{cause=\"expired\"} 1",
            "realtime_errors_total{code=\"NOT_SUBSCRIBED\"} 1",
            "realtime_http_requests_total{route=\"/publish\",status=\"202\"} 1",
            "realtime_loop_turn_seconds_bucket{le=\"0.00016\"} 1",
            "process_start_time_seconds 1800000000.0",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line}\n{text}");
        }
        assert!(text.contains("realtime_build_info{version="), "{text}");
        assert!(text.ends_with("# EOF\n"));
        let memory = text
            .lines()
            .find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
        assert!(
            memory
                .and_then(|m| m.parse::<i64>().ok())
                .is_some_and(|m| m > 100_000),
            "{text}"
        );
    }

    /// R-LOG-12
    #[test]
    fn every_metric_is_documented() {
        let document = include_str!("../../docs/realtime-configuration.md");
        let metrics = metrics();
        metrics.closed(Closed::Idle, 1001);
        let text = metrics.encode();
        for name in text
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE "))
            .filter_map(|l| l.split(' ').next())
        {
            assert!(
                document.contains(name),
                "docs/realtime-configuration.md says nothing of {name}"
            );
        }
    }
}
