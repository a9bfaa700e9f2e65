//! What `porter build provision` reports of a swap, as far as receipts need it.

use anyhow::Context;
use contract::step::Step;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// What `porter build provision` wrote to `.porter-tmp/hotswap_report.json`, as far as the receipt needs it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SwapReport {
    /// `hot_swap` or `provision`.
    pub decision: String,
    /// `success`, `failed` or `unknown`.
    pub outcome: String,
    /// Payload digest before.
    pub from: Option<String>,
    /// Payload digest wanted.
    pub to: String,
    /// porter's own measure of the run.
    pub seconds: f64,
    /// Bytes moved.
    pub bytes: Bytes,
    /// One entry a region.
    pub regions: Vec<RegionReport>,
}

/// Bytes moved in the swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// By the build host.
    pub uploaded: u64,
    /// By all hosts together.
    pub downloaded: u64,
}

/// One region's part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct RegionReport {
    /// By instance id.
    pub hosts: Vec<HostReport>,
}

/// One host's part, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HostReport {
    /// Instance id.
    pub instance: String,
    /// `success`, `failed`, `unknown` or `left`.
    pub outcome: String,
    /// Seconds in each finished step.
    #[serde(default)]
    pub seconds: BTreeMap<Step, f64>,
    /// Bytes fetched.
    #[serde(default)]
    pub bytes: u64,
    /// How the old connections ended.
    #[serde(default)]
    pub drain: Drain,
    /// What the swap cost connections that were to live on; absent where nothing hands over.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// What went wrong without changing the outcome.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How the connections of the old containers ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// By themselves.
    pub ended: u64,
    /// Cut at the drain deadline.
    pub cut: u64,
    /// Not at all.
    pub open: u64,
}

/// What a swap cost connections that were to live on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Before the swap: HTTP connections of the proxy among them.
    pub before: u64,
    /// Taken over by the new version.
    pub handed_over: u64,
    /// Lost with a process.
    pub dropped: u64,
    /// Told to come back.
    pub closed: u64,
    /// Cut at the end of the drain.
    pub cut: u64,
    /// Taken back by the old version.
    pub taken_back: u64,
    /// Messages that were under way while nobody read.
    pub in_flight: Option<u64>,
    /// Milliseconds in which nobody read.
    pub freeze_ms: f64,
    /// Milliseconds of the whole handover.
    pub handover_ms: f64,
}

/// The report of the last swap of the service in `folder`.
///
/// # Errors
/// There is none, or it is not understood.
pub fn read(folder: &Path) -> anyhow::Result<SwapReport> {
    let path = folder.join(".porter-tmp/hotswap_report.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not understood", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn porters_report_is_read_by_the_names_it_is_written_with() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".porter-tmp")).unwrap();
        assert!(read(folder.path()).is_err());
        let written = json!({
            "v": 1, "service": "hello", "environment": "stage", "swap": "01", "decision": "hot_swap", "outcome": "success",
            "started": "2026-11-21T02:00:00Z", "ended": "2026-11-21T02:00:12Z", "seconds": 12.3, "from": null, "to": "sha256:b",
            "bytes": {"uploaded": 123, "downloaded": 456},
            "regions": [{"region": "us-east-1", "outcome": "success", "reasons": [], "stack": null, "stack_status": null,
                "hosts": [{"instance": "i-1", "outcome": "success", "from": null, "to": null, "serving": null, "step": "report",
                    "seconds": {"fetch": 0.12, "cut_over": 0.3}, "bytes": 123, "drain": {"ended": 3, "cut": 0, "open": 0},
                    "connections": {"before": 1002, "handed_over": 1002, "freeze_ms": 7.5, "later": 1},
                    "warnings": [], "cause": null}]}],
        });
        fs::write(
            folder.path().join(".porter-tmp/hotswap_report.json"),
            written.to_string(),
        )
        .unwrap();
        let read = read(folder.path()).unwrap();
        assert_eq!(
            (read.decision.as_str(), read.bytes.downloaded),
            ("hot_swap", 456)
        );
        let host = &read.regions[0].hosts[0];
        assert_eq!(host.seconds[&contract::step::Step::CutOver], 0.3);
        assert_eq!(host.drain.ended, 3);
        let connections = host.connections.unwrap();
        assert_eq!(
            (connections.handed_over, connections.freeze_ms),
            (1002, 7.5)
        );
    }
}
