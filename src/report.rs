//! The outcome per region and host, for people and as JSON (D-HOT-58): `.porter-tmp/hotswap_report.json`, and the
//! table that a command prints at its end.

use contract::{
    digest::Digest,
    signal::{Cause, Drain, Handover},
    step::Step,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    path::Path,
};

/// The report's format number.
pub const FORMAT: u32 = 1;

/// One run of `porter build provision`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub v: u32,
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// Swap id of this run.
    pub swap: String,
    /// What was done.
    pub decision: DecisionKind,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Between the two.
    pub seconds: f64,
    /// Payload digest before, when all hosts that reported agree on one.
    pub from: Option<Digest>,
    /// Payload digest wanted.
    pub to: Digest,
    /// Bytes moved.
    pub bytes: Bytes,
    /// What the swap cost the connections of all hosts together, where containers hand over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// Why an active blackout window did not count (D-CFG-113).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_blackout: Option<String>,
    /// One entry a region.
    pub regions: Vec<RegionReport>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// Running hosts got the new code.
    HotSwap,
    /// New hosts were built.
    Provision,
}

/// How a run, a region or a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Still going, or the build host died: only in the state file.
    Running,
    /// All is as wanted.
    Success,
    /// Not so.
    Failed,
    /// No verdict: the deadline or an interrupt came first.
    Unknown,
    /// The region was not asked for anything: it is as it was before the run.
    Untouched,
    /// The instance left its group during the swap.
    Left,
}

/// Bytes moved in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// By the build host, all regions.
    pub uploaded: u64,
    /// By all hosts together.
    pub downloaded: u64,
}

/// One region's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionReport {
    /// Region name.
    pub region: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was swapped or provisioned (D-HOT-59).
    pub reasons: Vec<String>,
    /// Stack id.
    pub stack: Option<String>,
    /// Its last known status.
    pub stack_status: Option<String>,
    /// By instance id.
    pub hosts: Vec<HostReport>,
}

/// One host's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// Instance id.
    pub instance: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Payload before.
    pub from: Option<Digest>,
    /// Payload wanted.
    pub to: Option<Digest>,
    /// Payload serving, by the host's own last word.
    pub serving: Option<Digest>,
    /// Last known step.
    pub step: Option<Step>,
    /// Seconds in each finished step.
    pub seconds: BTreeMap<Step, f64>,
    /// Bytes fetched.
    pub bytes: u64,
    /// How the old connections ended.
    pub drain: Drain,
    /// What the swap cost the connections of the containers that hand over; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// What went wrong without changing the outcome.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub cause: Option<Cause>,
}

/// What a swap cost connections that were to live on: of a host, or of all hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Before the swap.
    pub before: u64,
    /// Taken over by the new version.
    pub handed_over: u64,
    /// Lost with a process that died in the middle of it.
    pub dropped: u64,
    /// Told to come back, because the new version could not read their state.
    pub closed: u64,
    /// Cut at the end of the drain, those of ordinary containers included.
    pub cut: u64,
    /// Taken back by the old version, because the swap failed after the handover.
    pub taken_back: u64,
    /// Messages that were under way while nobody read, where services count them.
    pub in_flight: Option<u64>,
    /// Milliseconds in which nobody read: of the container, or host, that took longest.
    pub freeze_ms: f64,
    /// Milliseconds of the whole handover, likewise.
    pub handover_ms: f64,
}

impl Connections {
    /// Of one host.
    pub fn of(handover: Handover, cut: u64) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        Self {
            before: handover.before,
            handed_over: handover.handed_over,
            dropped: handover.dropped,
            closed: handover.closed,
            cut,
            taken_back: handover.taken_back,
            in_flight: handover.in_flight,
            freeze_ms: ms(handover.frozen_us),
            handover_ms: ms(handover.total_us),
        }
    }

    /// Of all hosts that hand over.
    pub fn total<'a>(hosts: impl IntoIterator<Item = &'a HostReport>) -> Option<Self> {
        let each = hosts.into_iter().filter_map(|h| h.connections);
        each.reduce(|a, b| Self {
            before: a.before + b.before,
            handed_over: a.handed_over + b.handed_over,
            dropped: a.dropped + b.dropped,
            closed: a.closed + b.closed,
            cut: a.cut + b.cut,
            taken_back: a.taken_back + b.taken_back,
            in_flight: match (a.in_flight, b.in_flight) {
                (Some(a), Some(b)) => Some(a + b),
                (one, another) => one.or(another),
            },
            freeze_ms: a.freeze_ms.max(b.freeze_ms),
            handover_ms: a.handover_ms.max(b.handover_ms),
        })
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections: {} handed over, {} dropped, {} closed, {} cut",
            self.before, self.handed_over, self.dropped, self.closed, self.cut
        )?;
        if self.taken_back > 0 {
            write!(f, ", {} taken back", self.taken_back)?;
        }
        if let Some(messages) = self.in_flight {
            write!(f, "; {messages} messages in flight")?;
        }
        write!(f, "; frozen for {:.1} ms", self.freeze_ms)
    }
}

impl Report {
    /// Writes the report aside and renames it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        crate::files::write_atomically(
            path,
            &serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?,
        )
    }

    /// The table printed at the end of a run.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let what = match self.decision {
            DecisionKind::HotSwap => "hot swap",
            DecisionKind::Provision => "provision",
        };
        let from = self.from.as_ref().map_or("-", |d| d.short());
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{} {} of {}: {} in {:.1} s, {} -> {}, {} uploaded, {} downloaded",
            self.environment,
            what,
            self.service,
            word(self.outcome),
            self.seconds,
            from,
            self.to.short(),
            size(self.bytes.uploaded),
            size(self.bytes.downloaded),
        );
        if let Some(connections) = &self.connections {
            let _ = writeln!(out, "  all hosts: {connections}");
        }
        for region in &self.regions {
            let _ = writeln!(
                out,
                "  {}  {}{}",
                region.region,
                word(region.outcome),
                region
                    .stack_status
                    .as_ref()
                    .map(|s| format!(", stack {s}"))
                    .unwrap_or_default()
            );
            for host in &region.hosts {
                let _ = writeln!(
                    out,
                    "    {:<20} {:<8} serves {:<12} {:>6.2} s  fetch {:.2}  load {:.2}  start {:.2}  health {:.2}  cut_over {:.2}  drain {:.2}  cut {}",
                    host.instance,
                    word(host.outcome),
                    host.serving.as_ref().map_or("?", |d| d.short()),
                    // The sum of nothing is -0.0.
                    host.seconds.values().sum::<f64>() + 0.0,
                    host.seconds.get(&Step::Fetch).unwrap_or(&0.0),
                    host.seconds.get(&Step::Load).unwrap_or(&0.0),
                    host.seconds.get(&Step::Start).unwrap_or(&0.0),
                    host.seconds.get(&Step::Health).unwrap_or(&0.0),
                    host.seconds.get(&Step::CutOver).unwrap_or(&0.0),
                    host.seconds.get(&Step::Drain).unwrap_or(&0.0),
                    host.drain.cut,
                );
                if let Some(connections) = &host.connections {
                    let _ = writeln!(out, "      {connections}");
                }
                if let Some(cause) = &host.cause {
                    let _ = writeln!(
                        out,
                        "      {} failed: {}",
                        host.step.map_or("?", Step::name),
                        cause.message
                    );
                }
                for warning in &host.warnings {
                    let _ = writeln!(out, "      warning: {warning}");
                }
            }
        }
        out
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Success => "success",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
        Outcome::Untouched => "untouched",
        Outcome::Left => "left",
    }
}

/// `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests;
