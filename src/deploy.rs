//! THE deploy: the steps of `docs/hotswap.md`, in order.
//!
//! [`run`] decides first and acts second. [`hot_swap`] and [`provision`] read top to bottom as the documentation's lists;
//! what a step does in one region is in [`region`], and regions are worked on concurrently.

pub mod plan;
mod region;
mod verdict;

use crate::{
    config::{Config, Environment, HookEntry, blackout},
    eligibility::{self, Decision, Finding},
    error::{Exit, Failure},
    hooks::{self, Moment},
    pack::Packed,
    progress::Console,
    report::{Bytes, DecisionKind, Outcome, RegionReport, Report},
    state::{self, ProvisionState, RegionState},
};
use futures::future::join_all;
use jiff::Timestamp;
use region::{Prepared, Target};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// The report's name below `.porter-tmp/`.
pub const REPORT: &str = "hotswap_report.json";

/// What the caller wants.
#[derive(Debug)]
pub struct Request {
    /// Environment of the configuration.
    pub environment: String,
    /// Root of the service's repository.
    pub repository: PathBuf,
    /// `.porter-tmp`.
    pub out: PathBuf,
    /// Which way.
    pub way: Way,
    /// Use the template's DesiredCapacity once (D-HOT-14).
    pub reset_desired: bool,
    /// Why an active blackout window does not count (D-CFG-113).
    pub override_blackout: Option<String>,
    /// The host agent's binary; by default `host-agent` beside this program.
    pub host_agent: Option<PathBuf>,
}

/// Which way a deployment may go (D-CLI-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the decision says.
    Either,
    /// New hosts in any case.
    Provision,
    /// Running hosts or nothing.
    HotSwap,
}

/// What is deployed where: read once, checked, then only looked at.
pub(crate) struct Deployment<'a> {
    request: &'a Request,
    console: &'a Console,
    stop: &'a CancellationToken,
    config: Config,
    environment: Environment,
    packed: Packed,
    agent: region::AgentBinary,
    swap: String,
    started: Timestamp,
}

/// `porter build provision`: decides, then swaps the running hosts or builds new ones.
///
/// # Errors
/// Everything that kept the environment from running the payload on every host, with what runs where instead. The
/// report is on disk in either case, once the decision was made.
pub async fn run(request: &Request, console: &Console, stop: &CancellationToken) -> Result<Report, Failure> {
    let deployment = Deployment::open(request, console, stop)?;
    let mut targets = deployment.connect().await?;

    console.say("[1/7] check the promoted stack against the one-week window, its status and its size");
    let decision = deployment.decide(&mut targets).await?;
    let result = match decision {
        Decision::HotSwap { .. } => hot_swap(&deployment, &mut targets).await,
        Decision::Provision { reasons } => provision(&deployment, &mut targets, &reasons).await,
        Decision::Refuse { reasons, exit } => return Err(refused(&reasons, exit)),
    };
    result
}

/// The seed's steps 2 to 7 on the build host.
async fn hot_swap(deployment: &Deployment<'_>, targets: &mut [Target]) -> Result<Report, Failure> {
    let console = deployment.console;
    let mut run = Run::begin(deployment, targets, DecisionKind::HotSwap)?;

    console.say("[2/7] upload the service payload, assemble the template, upload it");
    let prepared = deployment.prepare(targets).await?;
    deployment.refuse_drift(targets, &prepared).await?;

    console.say("[3/7] call the pre_hotswap hook");
    let outcome = match deployment.hook(Moment::PreHotswap, targets, None).await {
        Err(failure) => Err(failure.hint("nothing has changed: every host serves what it served before")),
        Ok(()) => swap_hosts(deployment, targets, &prepared, &mut run).await,
    };

    console.say("[7/7] call the post_hotswap hook");
    run.finish(deployment, targets, outcome, Moment::PostHotswap).await
}

/// Steps 4 to 6, which leave scaling as they found it whatever happens.
async fn swap_hosts(deployment: &Deployment<'_>, targets: &mut [Target], prepared: &[Prepared], run: &mut Run) -> Result<(), Failure> {
    let console = deployment.console;
    deployment.not_interrupted("before the update: nothing has changed, every host serves what it served before")?;
    deployment.suspend_scaling(targets).await;

    console.say("[4/7] UpdateStack");
    let updated = deployment.update(targets, prepared).await;
    let result = match updated {
        Err(failure) => Err(failure),
        Ok(()) => {
            run.save(deployment, targets)?;
            console.say("[5/7] determine the instances of the Auto Scaling group");
            match deployment.roster(targets).await {
                Err(failure) => Err(failure),
                Ok(()) => {
                    console.say("[6/7] receive from the signal queue until every instance has reported");
                    deployment.follow_hosts(targets).await
                }
            }
        }
    };
    deployment.resume_scaling(targets).await;
    result
}

/// New hosts in every region; all regions succeed or the new stacks are deleted (D-PROV-8, D-PROV-9).
async fn provision(deployment: &Deployment<'_>, targets: &mut [Target], reasons: &[Finding]) -> Result<Report, Failure> {
    let console = deployment.console;
    let mut run = Run::begin(deployment, targets, DecisionKind::Provision)?;
    for reason in reasons {
        console.say(format!("  {reason}"));
    }

    console.say("[2/7] call the pre_provision hook");
    let outcome = match deployment.hook(Moment::PreProvision, targets, None).await {
        Err(failure) => Err(failure.hint("nothing has been built")),
        Ok(()) => build_hosts(deployment, targets, &mut run).await,
    };

    console.say("[7/7] call the post_provision hook");
    run.finish(deployment, targets, outcome, Moment::PostProvision).await
}

/// Upload, CreateStack, follow to the end, hear from every new host.
async fn build_hosts(deployment: &Deployment<'_>, targets: &mut [Target], run: &mut Run) -> Result<(), Failure> {
    let console = deployment.console;
    console.say("[3/7] upload the service payload, assemble the template, upload it");
    let prepared = deployment.prepare(targets).await?;
    deployment.not_interrupted("before CreateStack: nothing has been built")?;

    console.say("[4/7] CreateStack");
    let built = async {
        deployment.create(targets, &prepared).await?;
        run.save(deployment, targets)?;
        console.say("[5/7] follow the stack until it is complete");
        deployment.follow_stacks(targets).await?;
        console.say("[6/7] receive from the signal queue until every instance has booted");
        deployment.roster(targets).await?;
        deployment.follow_hosts(targets).await
    };
    let result = built.await;
    match result {
        Ok(()) => Ok(()),
        Err(failure) => Err(deployment.delete_stacks(targets, failure).await),
    }
}
