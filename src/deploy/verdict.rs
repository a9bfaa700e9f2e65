//! How a run ends: its files, its post hooks, its report or its failure.

use super::{Deployment, REPORT, UNTOUCHED, region::Target};
use crate::{
    error::{Exit, Failure},
    hooks::{Moment, Outcome as HookOutcome},
    report::{self, Bytes, Connections, DecisionKind, HostReport, Outcome, RegionReport, Report},
    signals::{HostState, Phase},
    state::{self, ProvisionState, RegionState},
};
use contract::digest::Digest;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// One run from its decision to its report.
pub(super) struct Run {
    decision: DecisionKind,
}

impl Run {
    /// Leaves `running` in the state file, so that an earlier success can't be taken for this run (D-CLI-46).
    pub(super) fn begin(
        deployment: &Deployment<'_>,
        targets: &[Target],
        decision: DecisionKind,
    ) -> Result<Self, Failure> {
        let run = Self { decision };
        run.save_outcome(deployment, targets, Outcome::Running)?;
        // The messages of earlier runs are of no use to this one, and would pile up for ever.
        for target in targets {
            let journal = deployment.journal(target);
            std::fs::File::create(&journal).map_err(|e| {
                let doing = format!("{} can't be written", journal.display());
                Failure::because(Exit::Failure, doing, e).hint(UNTOUCHED)
            })?;
        }
        Ok(run)
    }

    /// Writes the state as it is now. Hosts are on their way by then, so a full disk must not keep anybody from
    /// following them.
    pub(super) fn note(&self, deployment: &Deployment<'_>, targets: &[Target]) {
        if let Err(failure) = self.save_outcome(deployment, targets, Outcome::Running) {
            deployment.console.warn(failure.message);
        }
    }

    fn save_outcome(
        &self,
        deployment: &Deployment<'_>,
        targets: &[Target],
        outcome: Outcome,
    ) -> Result<(), Failure> {
        let regions = targets.iter().map(|t| {
            let state = RegionState {
                stack_id: t.stack.clone().unwrap_or_default(),
                provisioned_elb_name: t.provisioned_load_balancer.clone().unwrap_or_default(),
                previous_stack_id: t.previous_stack.clone(),
                template_url: t.template_url.clone(),
            };
            (t.region.name.clone(), state)
        });
        let state = ProvisionState {
            v: state::FORMAT,
            name: deployment.config.service_name.clone(),
            hotswap: self.decision == DecisionKind::HotSwap,
            environment: deployment.environment.name.clone(),
            regions: regions.collect(),
            outcome,
            swap: deployment.swap.clone(),
            payload: deployment.packed.payload.clone(),
            started: deployment.started,
            ended: (outcome != Outcome::Running).then(Timestamp::now),
        };
        state.save(&deployment.request.out).map_err(|e| {
            Failure::because(
                Exit::Failure,
                format!("the state file {} can't be written", state::FILE),
                e,
            )
        })
    }

    /// Runs the post hooks that the outcome admits, writes state and report, and says how it went.
    pub(super) async fn finish(
        self,
        deployment: &Deployment<'_>,
        targets: &[Target],
        result: Result<(), Failure>,
    ) -> Result<Report, Failure> {
        let moment = match self.decision {
            DecisionKind::HotSwap => Moment::PostHotswap,
            DecisionKind::Provision => Moment::PostProvision,
        };
        let admitted = if result.is_ok() {
            HookOutcome::Pass
        } else {
            HookOutcome::Fail
        };
        // A failing post hook turns success into failure, and adds itself to a failure there is (D-HOOK-14).
        let result = match (
            result,
            deployment.hook(moment, targets, Some(admitted)).await,
        ) {
            (Ok(()), hook) => hook.map_err(|f| {
                f.hint("the deployment itself is complete: every host serves the new payload")
            }),
            (Err(failure), Ok(())) => Err(failure),
            (Err(failure), Err(hook)) => Err(failure.detail(hook.message)),
        };
        let outcome = match &result {
            Ok(()) => Outcome::Success,
            Err(failure) if failure.exit == Exit::Interrupted => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        let report = self.report(deployment, targets, outcome);
        let path = deployment.request.out.join(REPORT);
        let written = report.save(&path).map_err(|e| {
            Failure::because(
                Exit::Failure,
                format!("the report {} can't be written", path.display()),
                e,
            )
        });
        // Files that can't be written fail the run, but never take the place of what happened to the hosts.
        let files = [self.save_outcome(deployment, targets, outcome), written];
        let result = files
            .into_iter()
            .fold(result, |result, file| match (result, file) {
                (result, Ok(())) => result,
                (Ok(()), Err(file)) => Err(file
                    .hint("the deployment itself is complete: every host serves the new payload")),
                (Err(failure), Err(file)) => Err(failure.detail(file.message)),
            });
        match result {
            Ok(()) => Ok(report),
            Err(failure) => {
                deployment.console.say(report.table().trim_end());
                Err(failure)
            }
        }
    }

    fn report(&self, deployment: &Deployment<'_>, targets: &[Target], outcome: Outcome) -> Report {
        let ended = Timestamp::now();
        let regions: Vec<_> = targets.iter().map(region_report).collect();
        let from: BTreeSet<&Digest> = regions
            .iter()
            .flat_map(|r| &r.hosts)
            .filter_map(|h| h.from.as_ref())
            .collect();
        let from = if from.len() == 1 {
            from.into_iter().next().cloned()
        } else {
            None
        };
        Report {
            v: report::FORMAT,
            service: deployment.config.service_name.clone(),
            environment: deployment.environment.name.clone(),
            swap: deployment.swap.clone(),
            decision: self.decision,
            outcome,
            started: deployment.started,
            ended,
            seconds: ended.duration_since(deployment.started).as_secs_f64(),
            from,
            to: deployment.packed.payload.clone(),
            connections: Connections::total(regions.iter().flat_map(|r| &r.hosts)),
            bytes: Bytes {
                uploaded: targets.iter().map(|t| t.uploaded).sum(),
                downloaded: regions.iter().flat_map(|r| &r.hosts).map(|h| h.bytes).sum(),
            },
            override_blackout: deployment.request.override_blackout.clone(),
            regions,
        }
    }
}

fn region_report(target: &Target) -> RegionReport {
    RegionReport {
        region: target.region.name.clone(),
        outcome: target.outcome,
        reasons: target.reasons.clone(),
        stack: target.stack.clone(),
        stack_status: target.stack_status.clone(),
        hosts: target.hosts.iter().map(host_report).collect(),
    }
}

fn host_report(host: &HostState) -> HostReport {
    let signal = host.signal.as_ref();
    HostReport {
        instance: host.instance.clone(),
        outcome: match host.phase {
            Phase::Done => Outcome::Success,
            Phase::Failed => Outcome::Failed,
            Phase::Left => Outcome::Left,
            Phase::Silent | Phase::Working | Phase::Booted => Outcome::Unknown,
        },
        from: signal.and_then(|s| s.from.clone()),
        to: signal.map(|s| s.to.clone()),
        serving: signal.and_then(|s| s.serving.clone()),
        step: host.step,
        seconds: signal
            .map(|s| {
                s.ms.iter()
                    .map(|(step, ms)| (*step, *ms as f64 / 1000.0))
                    .collect()
            })
            .unwrap_or_default(),
        bytes: signal.map_or(0, |s| s.bytes),
        drain: signal.map(|s| s.drain).unwrap_or_default(),
        connections: signal.and_then(|s| Some(Connections::of(s.handover?, s.drain.cut))),
        warnings: signal.map(|s| s.warnings.clone()).unwrap_or_default(),
        cause: signal.and_then(|s| s.cause.clone()),
    }
}
