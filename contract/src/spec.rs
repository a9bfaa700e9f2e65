//! What one kind of host runs: containers, how they are checked, how the proxy serves them, how a swap behaves.
//! Written by `porter build pack` from the resolved configuration, read by the host agent.

use crate::millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The containers and settings of every host of one environment in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// In the order of the configuration.
    pub containers: Vec<ContainerSpec>,
    /// How the proxy serves the inet containers.
    pub proxy: ProxySpec,
    /// Limits of a swap.
    pub swap: SwapSpec,
}

/// Whether a container takes traffic from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Serves requests on `inet_port`.
    Inet,
    /// Works on its own.
    Worker,
}

/// Which version of a worker runs alone while versions change (D-CFG-85).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapOrder {
    /// New beside old, then the old one stops.
    StartFirst,
    /// The old one stops before the new one starts.
    StopFirst,
}

/// One container (D-HOST-15, D-CFG-66 to D-CFG-86).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// `containers[].name`, unique on the host.
    pub name: String,
    /// Key into [`crate::manifest::Manifest::images`].
    pub image: String,
    /// Inet or worker.
    pub topology: Topology,
    /// The TCP port inside the container; present for inet containers, unless they hand over.
    pub inet_port: Option<u16>,
    /// An inet container that listens on a Unix socket and hands its listeners and live connections to its successor
    /// (`docs/handover.md`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
    /// It keeps data on the host: a folder of its own that its next version finds again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub data: bool,
    /// User id inside the container, 0 is root (D-CFG-74).
    pub uid: u32,
    /// Read-only root filesystem (D-CFG-75).
    pub read_only: bool,
    /// At least 1 (D-CFG-76).
    pub pids_limit: u32,
    /// Memory limit in bytes (D-CFG-83).
    pub memory: Option<u64>,
    /// CPU limit in billionths of a CPU, the engine's `NanoCpus` (D-CFG-83).
    pub nano_cpus: Option<u64>,
    /// Between SIGTERM and SIGKILL (D-CFG-84).
    #[serde(rename = "stop_grace_ms", with = "millis")]
    pub stop_grace: Duration,
    /// Workers only; inet containers always start first.
    pub swap_order: SwapOrder,
    /// When the container counts as ready.
    pub health: HealthCheck,
}

/// The swap health check (D-CFG-77 to D-CFG-80).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Begins with `/`.
    pub path: String,
    /// Between two checks.
    #[serde(rename = "interval_ms", with = "millis")]
    pub interval: Duration,
    /// For one check.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// So many successes in a row.
    pub healthy: u32,
    /// Before the first check; for workers the time they must run without a restart.
    #[serde(rename = "start_period_ms", with = "millis")]
    pub start_period: Duration,
    /// The accepted status.
    pub status: u16,
    /// Worker readiness: a command run in the container that must exit 0.
    pub exec: Option<Vec<String>>,
}

/// The proxy's settings (section 1.4 of the deployment specification).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySpec {
    /// A load balancer stands before the host: the upper-bound timeouts and the port 8080 listener apply
    /// (D-HAP-3, D-HAP-5).
    pub behind_load_balancer: bool,
    /// Request header captures, in order (D-HAP-7).
    pub request_header_captures: Vec<HeaderCapture>,
    /// Response header captures, in order.
    pub response_header_captures: Vec<HeaderCapture>,
    /// Request logging (D-CFG-33).
    pub log: bool,
    /// gzip (D-CFG-34).
    pub compression: bool,
    /// MIME types to compress; empty means all.
    pub compress_types: Vec<String>,
    /// `None` where the user set nothing (D-HAP-4); `Some(0)` removes the timeout.
    pub timeouts: ProxyTimeouts,
    /// D-CFG-41.
    pub maxconn: u32,
    /// Plain HTTP is answered with a redirect, except on the health path (D-HAP-15 to D-HAP-17).
    pub https_redirect: bool,
    /// No listener on port 80 (D-HAP-6).
    pub https_only: bool,
    /// Statistics listener address such as `127.0.0.1:8404`; `None` is off (D-CFG-48).
    pub stats_bind: Option<String>,
}

/// A header of which the proxy's log keeps the first `length` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderCapture {
    /// Header name.
    pub header: String,
    /// At least 1.
    pub length: u32,
}

/// The configured timeouts (D-CFG-36 to D-CFG-40).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyTimeouts {
    /// `timeout client`
    #[serde(rename = "client_ms", with = "millis::option", default)]
    pub client: Option<Duration>,
    /// `timeout server`
    #[serde(rename = "server_ms", with = "millis::option", default)]
    pub server: Option<Duration>,
    /// `timeout tunnel`
    #[serde(rename = "tunnel_ms", with = "millis::option", default)]
    pub tunnel: Option<Duration>,
    /// `timeout http-request`
    #[serde(rename = "http_request_ms", with = "millis::option", default)]
    pub http_request: Option<Duration>,
    /// `timeout http-keep-alive`
    #[serde(rename = "http_keep_alive_ms", with = "millis::option", default)]
    pub http_keep_alive: Option<Duration>,
}

/// What happens to connections that outlast the drain (D-CFG-106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrainTimeout {
    /// They are cut and counted; the swap succeeds.
    Close,
    /// The swap fails after traffic has moved; the old containers stay.
    Fail,
}

/// Limits of a swap on one host (section 1.8 of the deployment specification).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapSpec {
    /// Fetch, load, start, become healthy (D-CFG-104).
    #[serde(rename = "prepare_timeout_ms", with = "millis")]
    pub prepare_timeout: Duration,
    /// For the old containers' connections (D-CFG-105).
    #[serde(rename = "drain_timeout_ms", with = "millis")]
    pub drain_timeout: Duration,
    /// When that time is over.
    pub on_drain_timeout: OnDrainTimeout,
    /// How long a process that has handed over waits to take everything back.
    #[serde(
        rename = "handover_bake_ms",
        with = "millis",
        default = "default_handover_bake"
    )]
    pub handover_bake: Duration,
    /// Earlier payloads whose images and blobs stay on the host, so that going back ships nothing.
    pub keep_images: u32,
}

/// [`SwapSpec::handover_bake`] where nothing is said.
pub const DEFAULT_HANDOVER_BAKE: Duration = Duration::from_secs(5);

/// The same, as a function.
pub fn default_handover_bake() -> Duration {
    DEFAULT_HANDOVER_BAKE
}
