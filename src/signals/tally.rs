//! Counts instances, not messages: each host counts by its own newest report, whatever the queue does to messages.
//!
//! SQS delivers at least once and in any order. Every message carries (swap, instance, sequence number), and the number
//! rises per host also over restarts of its agent, so "newest" means the highest number, never the latest arrival. The
//! rules:
//!
//! - Another swap's message, a stranger's, one of another format, a repeated or an overtaken one changes nothing.
//! - `progress` is for people; it never decides anything, not even when it is newer than a result.
//! - Among `success`, `failed` and `booted` the newest decides for its host. An agent reports `failed` only when it has
//!   given up, so the first `failed` ends the wait; but should a host have both on the queue before we look, its last
//!   word counts: `success` after `failed` means that it was repaired (a retry by hand, a restart), `failed` after
//!   `success` that what it served is gone again.
//! - `booted` counts as done when the host serves the wanted payload; one that booted with the old payload is swapped
//!   like the others and then reports `success` (D-HOT-35).
//! - Only members of the group count. What a host says before the group lists it is kept until it does; an instance that
//!   left is struck off and counts no more.

use contract::{
    digest::Digest,
    signal::{FORMAT, HostSignal, Kind},
    step::Step,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The Auto Scaling group as it was read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// DesiredCapacity.
    pub desired: u32,
    /// Ids of the instances that are InService.
    pub in_service: BTreeSet<String>,
}

/// What one region's hosts have said about one swap.
#[derive(Clone, Debug)]
pub struct Tally {
    swap: String,
    wanted: Digest,
    desired: u32,
    hosts: BTreeMap<String, Host>,
}

#[derive(Clone, Debug)]
struct Host {
    standing: Standing,
    /// When the newest report, or its listing, was noticed here.
    since: Timestamp,
    /// The newest message of any kind.
    newest: Option<HostSignal>,
    /// The newest message that can decide.
    result: Option<HostSignal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It spoke, but the group did not list it yet.
    Unlisted,
    /// InService when the wait began.
    Listed,
    /// InService since later.
    Joined,
    /// No longer InService.
    Left,
}

impl Standing {
    fn counts(self) -> bool {
        matches!(self, Self::Listed | Self::Joined)
    }
}

/// What a message body was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// News from a host.
    Recorded {
        /// Instance id.
        instance: String,
        /// False as long as the group does not list it.
        listed: bool,
    },
    /// A repeated message, or one that a newer message of the same host had overtaken.
    Duplicate {
        /// Instance id.
        instance: String,
    },
    /// About another swap.
    Stale {
        /// That swap's id.
        swap: String,
    },
    /// Ours, in a format that this version does not read.
    Unsupported {
        /// The message's `v`.
        v: u64,
    },
    /// Not a host's message about this swap at all.
    Foreign {
        /// Why not, for the log.
        why: String,
    },
}

/// What a reading of the group changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Struck off.
    pub left: Vec<String>,
    /// Expected from now on.
    pub joined: Vec<String>,
}

/// What a host is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has not said anything yet.
    Silent,
    /// It is in the step shown.
    Working,
    /// It came up with another payload than the wanted one and is going to swap.
    Booted,
    /// It serves the wanted payload.
    Done,
    /// It has given up.
    Failed,
    /// It is not in service in the group any more.
    Left,
}

/// One host, for progress and report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostState {
    /// Instance id.
    pub instance: String,
    /// In one word.
    pub phase: Phase,
    /// The step reached, or the one that failed.
    pub step: Option<Step>,
    /// How far within the step.
    pub detail: Option<String>,
    /// When this was noticed on the build host.
    pub since: Timestamp,
    /// The kind of `signal`.
    pub kind: Option<Kind>,
    /// Joined the group after the wait had begun.
    pub joined: bool,
    /// The report behind it: the deciding one where there is one, else the newest.
    pub signal: Option<HostSignal>,
}

/// What the hosts' reports amount to.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Some have not finished.
    Waiting {
        /// Hosts that serve the wanted payload.
        done: usize,
        /// Instances that do not yet.
        missing: Vec<String>,
    },
    /// Every member of the group serves the wanted payload.
    Success {
        /// The hosts that said so; empty means that no host was verified (D-HOT-36).
        verified: Vec<String>,
    },
    /// At least one host has certainly failed.
    Failed {
        /// Those that have, with their last report.
        hosts: Vec<HostState>,
    },
    /// The deadline came first.
    DeadlinePassed {
        /// Hosts that serve the wanted payload.
        done: usize,
        /// Those that do not, with what was last heard of them.
        missing: Vec<HostState>,
    },
}

impl Tally {
    /// A tally of the swap `swap` to the payload `wanted`, over the group as it was at the update.
    pub fn new(
        swap: impl Into<String>,
        wanted: Digest,
        group: &Membership,
        now: Timestamp,
    ) -> Self {
        let listed = |id: &String| (id.clone(), Host::new(Standing::Listed, now));
        Self {
            swap: swap.into(),
            wanted,
            desired: group.desired,
            hosts: group.in_service.iter().map(listed).collect(),
        }
    }

    /// The payload that every host shall serve.
    pub fn wanted(&self) -> &Digest {
        &self.wanted
    }

    /// Takes one message body in.
    pub fn observe(&mut self, body: &str, now: Timestamp) -> Observation {
        let signal = match self.read(body) {
            Ok(signal) => signal,
            Err(other) => return other,
        };
        let instance = signal.instance.clone();
        let host = self
            .hosts
            .entry(instance.clone())
            .or_insert_with(|| Host::new(Standing::Unlisted, now));
        let newer =
            |than: &Option<HostSignal>| than.as_ref().is_none_or(|old| order(old) < order(&signal));
        let decides = signal.kind != Kind::Progress && newer(&host.result);
        let newest = newer(&host.newest);
        if !decides && !newest {
            return Observation::Duplicate { instance };
        }
        if decides {
            host.result = Some(signal.clone());
        }
        if newest {
            host.newest = Some(signal);
        }
        host.since = now;
        Observation::Recorded {
            instance,
            listed: host.standing.counts(),
        }
    }

    /// Compares the expected hosts with the group as it is now (D-HOT-35).
    pub fn reconcile(&mut self, group: &Membership, now: Timestamp) -> Reconciliation {
        self.desired = group.desired;
        let mut change = Reconciliation::default();
        for (instance, host) in &mut self.hosts {
            if host.standing.counts() && !group.in_service.contains(instance) {
                host.standing = Standing::Left;
                host.since = now;
                change.left.push(instance.clone());
            }
        }
        for instance in &group.in_service {
            let host = self
                .hosts
                .entry(instance.clone())
                .or_insert_with(|| Host::new(Standing::Unlisted, now));
            if !host.standing.counts() {
                host.standing = Standing::Joined;
                change.joined.push(instance.clone());
            }
        }
        change
    }

    /// What the reports amount to. Results come before the deadline: a swap that is complete at its deadline is complete.
    pub fn verdict(&self, now: Timestamp, deadline: Timestamp) -> Verdict {
        let members = || self.hosts.iter().filter(|(_, h)| h.standing.counts());
        let (done, missing): (Vec<_>, Vec<_>) =
            members().partition(|(_, host)| host.phase(&self.wanted) == Phase::Done);
        let states = |of: &[(&String, &Host)]| {
            of.iter()
                .map(|(id, h)| h.state(id, &self.wanted))
                .collect::<Vec<_>>()
        };
        let failed: Vec<_> = missing
            .iter()
            .copied()
            .filter(|(_, h)| h.phase(&self.wanted) == Phase::Failed)
            .collect();
        if !failed.is_empty() {
            return Verdict::Failed {
                hosts: states(&failed),
            };
        }
        // A group that wants hosts and has none in service is being refilled; it proves nothing.
        let empty = done.is_empty() && missing.is_empty() && self.desired > 0;
        if missing.is_empty() && !empty {
            return Verdict::Success {
                verified: done.into_iter().map(|(id, _)| id.clone()).collect(),
            };
        }
        if now >= deadline {
            return Verdict::DeadlinePassed {
                done: done.len(),
                missing: states(&missing),
            };
        }
        Verdict::Waiting {
            done: done.len(),
            missing: missing.into_iter().map(|(id, _)| id.clone()).collect(),
        }
    }

    /// Every host that is or was a member since the wait began, by instance id.
    pub fn hosts(&self) -> Vec<HostState> {
        let seen = |h: &Host| h.standing != Standing::Unlisted;
        self.hosts
            .iter()
            .filter(|(_, h)| seen(h))
            .map(|(id, h)| h.state(id, &self.wanted))
            .collect()
    }

    /// How many members are done, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let members: Vec<_> = self
            .hosts
            .values()
            .filter(|h| h.standing.counts())
            .collect();
        (
            members
                .iter()
                .filter(|h| h.phase(&self.wanted) == Phase::Done)
                .count(),
            members.len(),
        )
    }

    /// A message of ours about this swap, or what it is instead.
    fn read(&self, body: &str) -> Result<HostSignal, Observation> {
        let foreign = |why: String| Observation::Foreign { why };
        let value: Value =
            serde_json::from_str(body).map_err(|e| foreign(format!("it is not JSON ({e})")))?;
        let (Some(v), Some(swap)) = (
            value.get("v").and_then(Value::as_u64),
            value.get("swap").and_then(Value::as_str),
        ) else {
            return Err(foreign("it has no format number and swap id".into()));
        };
        // The other swap first: an old host's format is nobody's problem once its swap is over.
        if swap != self.swap {
            return Err(Observation::Stale {
                swap: swap.to_owned(),
            });
        }
        if v != u64::from(FORMAT) {
            return Err(Observation::Unsupported { v });
        }
        let signal: HostSignal =
            serde_json::from_value(value).map_err(|e| foreign(format!("it can't be read: {e}")))?;
        if signal.to != self.wanted {
            return Err(foreign(format!(
                "{} names the payload {} under this swap's id, not {}",
                signal.instance,
                signal.to.short(),
                self.wanted.short()
            )));
        }
        Ok(signal)
    }
}

/// What orders the messages of one host.
fn order(signal: &HostSignal) -> (u32, u64) {
    (signal.epoch, signal.seq)
}

impl Host {
    fn new(standing: Standing, now: Timestamp) -> Self {
        Self {
            standing,
            since: now,
            newest: None,
            result: None,
        }
    }

    fn phase(&self, wanted: &Digest) -> Phase {
        if self.standing == Standing::Left {
            return Phase::Left;
        }
        let Some(result) = &self.result else {
            return if self.newest.is_some() {
                Phase::Working
            } else {
                Phase::Silent
            };
        };
        let serves_wanted = result.serving.as_ref() == Some(wanted);
        match result.kind {
            Kind::Failed => Phase::Failed,
            Kind::Success | Kind::Booted if serves_wanted => Phase::Done,
            // A success that names no payload in rotation can only mean the one it swapped to: a worker has no rotation.
            Kind::Success if result.serving.is_none() => Phase::Done,
            _ if self
                .newest
                .as_ref()
                .is_some_and(|n| order(n) > order(result)) =>
            {
                Phase::Working
            }
            _ => Phase::Booted,
        }
    }

    fn state(&self, instance: &str, wanted: &Digest) -> HostState {
        let phase = self.phase(wanted);
        let signal = match phase {
            Phase::Done | Phase::Failed => &self.result,
            _ => &self.newest,
        };
        HostState {
            instance: instance.to_owned(),
            phase,
            step: signal.as_ref().map(|s| s.step),
            detail: signal.as_ref().and_then(|s| s.detail.clone()),
            since: self.since,
            kind: signal.as_ref().map(|s| s.kind),
            joined: self.standing == Standing::Joined,
            signal: signal.clone(),
        }
    }
}

impl HostState {
    /// The region-less line that an error shows under its headline: host, step, cause, what serves. The log follows by
    /// itself in `signal.cause.log`.
    pub fn line(&self) -> String {
        let serving = match self.signal.as_ref().and_then(|s| s.serving.as_ref()) {
            Some(digest) => format!("; it serves {}", digest.short()),
            None => String::new(),
        };
        let step = self.step.map_or("", Step::name);
        let detail = self
            .detail
            .as_ref()
            .map_or(String::new(), |d| format!(" ({d})"));
        match self.phase {
            Phase::Failed => {
                let cause = self.signal.as_ref().and_then(|s| s.cause.as_ref());
                let cause = cause.map_or("no cause given", |c| c.message.as_str());
                format!("{}: failed in step {step}: {cause}{serving}", self.instance)
            }
            Phase::Done => format!("{}: done", self.instance),
            Phase::Working => format!("{}: in step {step}{detail}{serving}", self.instance),
            Phase::Booted => format!(
                "{}: booted with another payload and has not swapped{serving}",
                self.instance
            ),
            Phase::Silent => format!("{}: nothing heard yet", self.instance),
            Phase::Left => format!("{}: left the group", self.instance),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { done, missing } => {
                write!(
                    f,
                    "{done} of {} hosts done; waiting for {}",
                    done + missing.len(),
                    missing.join(", ")
                )
            }
            Self::Success { verified } if verified.is_empty() => {
                write!(f, "the group has no hosts, so no host was verified")
            }
            Self::Success { verified } => {
                write!(f, "all {} hosts serve the new payload", verified.len())
            }
            Self::Failed { hosts } => {
                let names: Vec<_> = hosts.iter().map(|h| h.instance.as_str()).collect();
                write!(f, "{} failed", names.join(", "))
            }
            Self::DeadlinePassed { done, missing } => {
                write!(
                    f,
                    "{done} of {} hosts were done at the deadline",
                    done + missing.len()
                )
            }
        }
    }
}
