//! What a host tells the build host: JSON messages on the stack's queue (D-HOT-30, D-HOT-79).

use crate::{digest::Digest, step::Step};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The message format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// The queue refuses larger bodies (D-TPL-17), so writers trim the log tail until a message fits.
pub const MAX_BYTES: usize = 16 * 1024;

/// Bound of [`Cause::log`] (D-HOT-79).
pub const MAX_LOG_BYTES: usize = 2 * 1024;

/// One message. Unknown fields are ignored; another `v` is reported and skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSignal {
    /// [`FORMAT`].
    pub v: u32,
    /// The swap that this message answers.
    pub swap: String,
    /// Raised by a resumed build host; 0 in simple mode.
    #[serde(default)]
    pub epoch: u32,
    /// Rises per host and swap, also over restarts of the agent: the newest message wins, whatever the order of arrival.
    pub seq: u64,
    /// Stack id.
    pub stack: String,
    /// Region name.
    pub region: String,
    /// EC2 instance id.
    pub instance: String,
    /// When the host wrote it.
    pub at: Timestamp,
    /// What it says.
    pub kind: Kind,
    /// Payload before.
    pub from: Option<Digest>,
    /// Payload wanted.
    pub to: Digest,
    /// Payload in rotation now.
    pub serving: Option<Digest>,
    /// The step reached, or the one that failed.
    pub step: Step,
    /// How far within the step, for people: `41 %`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Only with [`Kind::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Milliseconds spent in each finished step.
    #[serde(default)]
    pub ms: BTreeMap<Step, u64>,
    /// Bytes fetched from the bucket.
    #[serde(default)]
    pub bytes: u64,
    /// How the old containers' connections ended.
    #[serde(default)]
    pub drain: Drain,
    /// What became of the connections of containers that hand over; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// What went wrong without changing the outcome, such as an image that could not be removed (D-HOST-36).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A step began; never decides anything.
    Progress,
    /// The swap is done on this host: it serves `to`.
    Success,
    /// It failed here; `serving` says what runs.
    Failed,
    /// A fresh host came up serving `serving` (D-HOST-11).
    Booted,
}

/// Sessions on the old containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Ended by themselves.
    pub ended: u64,
    /// Cut at the drain deadline.
    pub cut: u64,
    /// Still open.
    pub open: u64,
}

/// The connections of containers with `handover: true`, all of a host together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Containers of which there are both an old and a new one.
    pub containers: u32,
    /// Connections that the old processes had when they froze, or were told to end.
    pub before: u64,
    /// Connections that the new processes have taken over.
    pub handed_over: u64,
    /// Connections whose process had to end without a successor that understands its state: told to come back
    /// (SIGTERM). Those that do not leave in time are in [`Drain::cut`], too.
    pub closed: u64,
    /// Connections that went down with their process in the middle of a handover.
    pub dropped: u64,
    /// Connections that the old processes have taken back, because the swap failed after the handover.
    pub taken_back: u64,
    /// Messages that were under way while nobody read; absent when the services do not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Bytes of connections' state.
    pub bytes: u64,
    /// Microseconds in which nobody read, the longest of all containers.
    pub frozen_us: u64,
    /// Microseconds from the successor's hello to its last word, the longest of all containers.
    pub total_us: u64,
}

impl Handover {
    /// Adds another container's, or host's: counts are summed, of times the longest stays.
    pub fn add(&mut self, other: &Handover) {
        self.containers += other.containers;
        self.before += other.before;
        self.handed_over += other.handed_over;
        self.closed += other.closed;
        self.dropped += other.dropped;
        self.taken_back += other.taken_back;
        self.in_flight = match (self.in_flight, other.in_flight) {
            (Some(a), Some(b)) => Some(a + b),
            (one, another) => one.or(another),
        };
        self.bytes += other.bytes;
        self.frozen_us = self.frozen_us.max(other.frozen_us);
        self.total_us = self.total_us.max(other.total_us);
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For machines and for `docs/errors.md`.
    pub code: CauseCode,
    /// One sentence for people, naming the container where there is one.
    pub message: String,
    /// The last lines of the container's log, at most [`MAX_LOG_BYTES`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

/// The list of causes (D-HOT-82).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseCode {
    /// A blob or the manifest is not in the bucket.
    PayloadMissing,
    /// Its bytes are not what its digest says.
    DigestMismatch,
    /// The disk can't hold it.
    DiskFull,
    /// The new containers would not fit beside the old ones.
    MemoryLow,
    /// The container engine does not answer or refused.
    Engine,
    /// A container could not be created or started.
    StartFailed,
    /// A container ended while it was being checked.
    ContainerExited,
    /// An inet container has no usable TCP port.
    PortMissing,
    /// The health check did not pass in time.
    HealthTimeout,
    /// A new process did not take over from the old one, or gave the wrong account of it.
    HandoverFailed,
    /// The proxy refused its new configuration.
    ProxyConfig,
    /// The proxy did not take over the new configuration.
    ProxyReload,
    /// Connections outlasted the drain under `on_drain_timeout: fail`.
    DrainTimeout,
    /// The swap's deadline passed before traffic moved.
    Deadline,
    /// A newer desired state arrived before traffic moved.
    Superseded,
    /// Anything else; always a defect worth reporting.
    Internal,
}

impl HostSignal {
    /// The message body: the log tail is cut until it fits into [`MAX_BYTES`].
    pub fn to_body(&self) -> String {
        let mut signal = self.clone();
        loop {
            let body = serde_json::to_string(&signal).unwrap_or_default();
            if body.len() <= MAX_BYTES {
                return body;
            }
            // Warnings first, then the log: the verdict and its sentence are what must arrive.
            if signal.warnings.pop().is_some() {
                continue;
            }
            match &mut signal.cause {
                Some(cause) if !cause.log.is_empty() => {
                    let middle = cause.log.len() / 2;
                    let cut = (middle..=cause.log.len())
                        .find(|&i| cause.log.is_char_boundary(i))
                        .unwrap_or(0);
                    cause.log.drain(..cut.max(1));
                }
                Some(cause) if cause.message.chars().count() > 200 => {
                    cause.message = cause.message.chars().take(200).collect();
                }
                _ => return body,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signal() -> HostSignal {
        HostSignal {
            v: FORMAT,
            swap: "01JD".into(),
            epoch: 0,
            seq: 7,
            stack: "arn:aws:cloudformation:us-east-1:000000000000:stack/hello/1".into(),
            region: "us-east-1".into(),
            instance: "i-0abc".into(),
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            kind: Kind::Failed,
            from: None,
            to: Digest::from_bytes(&[1; 32]),
            serving: None,
            step: Step::Health,
            detail: None,
            cause: Some(Cause {
                code: CauseCode::HealthTimeout,
                message: "m".into(),
                log: String::new(),
            }),
            ms: BTreeMap::from([(Step::Detect, 3)]),
            bytes: 12,
            drain: Drain::default(),
            handover: None,
            warnings: vec![],
        }
    }

    #[test]
    fn d_hot_79_the_wire_form_is_stable() {
        insta::assert_json_snapshot!(signal());
    }

    #[test]
    fn d_hot_79_unknown_fields_are_ignored() {
        let mut value = serde_json::to_value(signal()).unwrap();
        value["later"] = serde_json::json!({"a": 1});
        assert_eq!(
            serde_json::from_value::<HostSignal>(value).unwrap(),
            signal()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn d_tpl_17_a_body_fits_the_queue_and_keeps_its_verdict(log in ".{0,9000}", warnings in proptest::collection::vec(".{0,900}", 0..30)) {
            let mut s = signal();
            s.warnings = warnings;
            if let Some(cause) = &mut s.cause { cause.log = log.repeat(3); }
            let body = s.to_body();
            prop_assert!(body.len() <= MAX_BYTES);
            let back: HostSignal = serde_json::from_str(&body).unwrap();
            prop_assert_eq!((back.kind, back.seq, back.step), (s.kind, s.seq, s.step));
        }
    }
}
