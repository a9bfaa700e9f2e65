//! THE deploy: the steps of `docs/hotswap.md`, in order.
//!
//! [`run`] decides first and acts second. [`hot_swap`] and [`provision`] read top to bottom as the documentation's lists;
//! what a step does in one region is in [`region`], and regions are worked on concurrently.

mod decide;
mod hook;
mod hosts;
pub mod plan;
mod prepare;
mod region;
mod stacks;
mod verdict;

use crate::{
    config::{Config, Environment},
    eligibility::Decision,
    error::Failure,
    hooks::Moment,
    pack::Packed,
    progress::Console,
    report::{DecisionKind, Report},
};
use jiff::Timestamp;
use prepare::Prepared;
use region::{AgentBinary, Target};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;
use verdict::Run;

pub(crate) use {decide::VERSION, hook::hook_failure, stacks::all};

/// What is true as long as no host was asked for anything.
const UNTOUCHED: &str = "nothing has changed: every host serves what it served before";

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
    /// Wait for a running update that is in the way (D-HOT-11); a plan only tells of it.
    pub waits: bool,
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
struct Deployment<'a> {
    request: &'a Request,
    console: &'a Console,
    stop: &'a CancellationToken,
    config: Config,
    environment: Environment,
    packed: Packed,
    agent: AgentBinary,
    /// The swap id of this run, a ULID.
    swap: String,
    started: Timestamp,
}

/// `porter build provision`: decides, then swaps the running hosts or builds new ones.
///
/// # Errors
/// Everything that kept the environment from running the payload on every host, with what runs where instead. The
/// report is on disk in either case, once the decision was made.
pub async fn run(
    request: &Request,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Report, Failure> {
    let deployment = Deployment::open(request, console, stop)?;
    console
        .say("[1/7] check the promoted stack against the one-week window, its status and its size");
    let mut targets = deployment
        .unless_interrupted(UNTOUCHED, deployment.connect())
        .await?;
    match deployment.decide(&mut targets).await? {
        Decision::HotSwap { .. } => hot_swap(&deployment, &mut targets).await,
        Decision::Provision { .. } => provision(&deployment, &mut targets).await,
        Decision::Refuse { reasons, exit } => Err(decide::refused(&reasons, exit)),
    }
}

/// The seed's steps 2 to 7 on the build host.
async fn hot_swap(deployment: &Deployment<'_>, targets: &mut [Target]) -> Result<Report, Failure> {
    let console = deployment.console;
    let run = Run::begin(deployment, targets, DecisionKind::HotSwap)?;

    console.say("[2/7] upload the service payload, assemble the template, upload it");
    let mut prepared = match deployment.prepare(targets, UNTOUCHED).await {
        Ok(prepared) => prepared,
        Err(failure) => return run.finish(deployment, targets, Err(failure)).await,
    };
    match deployment.drift(targets, &prepared).await {
        Ok(None) => {}
        Ok(Some(drift)) => return instead_of_swap(deployment, targets, drift).await,
        Err(failure) => return run.finish(deployment, targets, Err(failure)).await,
    }

    console.say("[3/7] call the pre_hotswap hook");
    let result = match deployment.hook(Moment::PreHotswap, targets, None).await {
        Ok(()) => swap_hosts(deployment, targets, &mut prepared, &run).await,
        Err(failure) => Err(failure.hint(UNTOUCHED)),
    };

    console.say("[7/7] call the post_hotswap hook");
    run.finish(deployment, targets, result).await
}

/// Steps 4 to 6. Scaling is left as it was found, whatever comes between.
async fn swap_hosts(
    deployment: &Deployment<'_>,
    targets: &mut [Target],
    prepared: &mut [Prepared],
    run: &Run,
) -> Result<(), Failure> {
    deployment.not_interrupted(UNTOUCHED)?;
    deployment.suspend_scaling(targets).await;
    let result = update_and_wait(deployment, targets, prepared, run).await;
    deployment.resume_scaling(targets).await;
    result
}

async fn update_and_wait(
    deployment: &Deployment<'_>,
    targets: &mut [Target],
    prepared: &mut [Prepared],
    run: &Run,
) -> Result<(), Failure> {
    let console = deployment.console;
    console.say("[4/7] UpdateStack");
    // From here on hosts are swapping: whatever fails, those that were asked are followed to their verdict (D-HOT-41).
    let mut results = deployment.update(targets, prepared).await?;
    run.note(deployment, targets);

    console.say("[5/7] determine the instances of the Auto Scaling group");
    results.extend(deployment.roster(targets, DecisionKind::HotSwap).await);

    console.say("[6/7] receive from the signal queue until every instance has reported");
    let verdicts = deployment
        .follow_hosts(targets, DecisionKind::HotSwap)
        .await;
    results.extend(verdicts);
    stacks::all(results).map(drop)
}

/// The template asks for more than a swap may change: new hosts get it.
async fn instead_of_swap(
    deployment: &Deployment<'_>,
    targets: &mut [Target],
    drift: Vec<String>,
) -> Result<Report, Failure> {
    for line in drift {
        deployment.console.say(format!("  {line}"));
    }
    deployment
        .console
        .say("  that is more than a hot swap may change, so new hosts are built");
    for target in targets.iter_mut() {
        target.stack = None;
        target.stack_status = None;
    }
    provision(deployment, targets).await
}

/// New hosts in every region; all regions succeed or the new stacks are deleted (D-PROV-1, D-PROV-8).
async fn provision(deployment: &Deployment<'_>, targets: &mut [Target]) -> Result<Report, Failure> {
    let console = deployment.console;
    let run = Run::begin(deployment, targets, DecisionKind::Provision)?;

    console.say("[2/7] call the pre_provision hook");
    let result = match deployment.hook(Moment::PreProvision, targets, None).await {
        Ok(()) => build_hosts(deployment, targets, &run).await,
        Err(failure) => Err(failure.hint("nothing has been built")),
    };

    console.say("[7/7] call the post_provision hook");
    run.finish(deployment, targets, result).await
}

/// Steps 3 to 6 of a provision, and the way back.
async fn build_hosts(
    deployment: &Deployment<'_>,
    targets: &mut [Target],
    run: &Run,
) -> Result<(), Failure> {
    let console = deployment.console;
    console.say("[3/7] upload the service payload, assemble the template, upload it");
    let prepared = deployment
        .prepare(targets, "nothing has been built")
        .await?;
    deployment.not_interrupted("nothing has been built")?;

    match create_and_wait(deployment, targets, &prepared, run).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(deployment.delete_stacks(targets, failure).await),
    }
}

async fn create_and_wait(
    deployment: &Deployment<'_>,
    targets: &mut [Target],
    prepared: &[Prepared],
    run: &Run,
) -> Result<(), Failure> {
    let console = deployment.console;
    console.say("[4/7] CreateStack");
    deployment.create(targets, prepared).await?;
    run.note(deployment, targets);

    console.say("[5/7] follow the stack until it is complete, and determine its instances");
    deployment.follow_stacks(targets, prepared).await?;
    stacks::all(deployment.roster(targets, DecisionKind::Provision).await)?;

    console.say("[6/7] receive from the signal queue until every instance has booted");
    let verdicts = deployment
        .follow_hosts(targets, DecisionKind::Provision)
        .await;
    stacks::all(verdicts).map(drop)
}
