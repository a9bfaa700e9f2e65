//! The demo of ordinary services: its acts, in order.

use crate::{
    http::{
        load::{self, Load, Plan, Target},
        receipt::{AFTER, Facts, HostFacts, Report},
    },
    porter::Porter,
    service,
    stage::{self, ENVIRONMENT, Host, Settings, act, commit, git, hosts_that_serve},
    swap_report,
};
use anyhow::bail;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const SERVICE: &str = "hello";
const EXAMPLE: &str = "examples/hello";
const FROM: &str = "v1";
const TO: &str = "v2";

/// At the end every host is asked so often: more often than it has server processes or containers that could differ.
const LAST_QUESTIONS: usize = 20;

/// Every host must have answered so many requests before the swap begins.
const WARM: u64 = 50;

/// The goal is this many requests a second; a load below it proves too little.
const GOAL_PER_SECOND: f64 = 500.0;

/// Runs the demo.
///
/// # Errors
/// When an act could not be carried out. A swap that failed or was noticed is no error here but a [`Report`] that did
/// not pass.
pub async fn run(settings: Settings, rate: f64, stop: CancellationToken) -> anyhow::Result<Report> {
    let acts = {
        let settings = settings.clone();
        async move |porter| acts(settings, rate, porter).await
    };
    stage::play(&settings, stop, acts).await
}

async fn acts(settings: Settings, rate: f64, mut porter: Porter) -> anyhow::Result<Report> {
    act(&format!(
        "A cloud with {} hosts on this machine",
        settings.hosts
    ));
    stage::cloud_up(&mut porter, settings.hosts).await?;

    act(&format!("Version 1 of {SERVICE}: pack, provision, promote"));
    let folder = porter.folder.clone();
    service::copy(&settings.root, EXAMPLE, &folder)?;
    service::set_hosts(&folder, settings.hosts)?;
    // Kept from demo to demo, and apart from the workspace's own results, whose compiler flags differ.
    let build = settings.folder.join("build");
    porter
        .variables
        .insert("CARGO_TARGET_DIR".into(), build.display().to_string());
    git(&porter, &["init", "-q"]).await?;
    commit(&porter, "Version 1").await?;
    porter.show(&["build", "pack"]).await?;
    porter
        .show(&["build", "provision", "-e", ENVIRONMENT])
        .await?;
    porter.show(&["build", "promote"]).await?;
    let hosts = hosts_that_serve(&porter, settings.hosts, not_ready).await?;

    act(&format!(
        "Load: {rate:.0} requests/s over {} hosts",
        hosts.len()
    ));
    let load = Load::start(&Plan::new(hosts.iter().map(target).collect(), rate));
    // A load that can't get going shows in its numbers; the swap would then prove nothing, so it does not begin.
    until(
        &porter,
        Duration::from_secs(60),
        "the load to reach every host",
        || load.fewest_answers() >= WARM,
    )
    .await?;

    act("Version 2: change the source, pack, plan, hot swap, under that load");
    service::set_version(&folder, FROM, TO)?;
    commit(&porter, "Version 2").await?;
    porter.show(&["build", "pack"]).await?;
    porter.show(&["hotswap", "plan", "-e", ENVIRONMENT]).await?;
    let load_before = load.elapsed();
    let began = Instant::now();
    let swapped = porter
        .show(&["build", "provision", "-e", ENVIRONMENT])
        .await;
    let swap_took = began.elapsed();
    let ended = load.elapsed();
    let until = settings
        .at_least
        .max(ended + AFTER + Duration::from_millis(100));
    tokio::select! {
        () = sleep(until.saturating_sub(ended)) => {}
        () = porter.stop.cancelled() => bail!("interrupted while the load ran on"),
    }
    let (tally, load_ran) = load.finish().await;

    act("The receipt");
    let mut facts = Vec::new();
    for host in &hosts {
        let answers = load::poll(&target(host), LAST_QUESTIONS, Duration::from_secs(5)).await;
        facts.push(HostFacts {
            instance: host.instance.clone(),
            url: host.url.clone(),
            last_answers: answers
                .into_iter()
                .map(|a| a.map_err(|e| e.to_string()))
                .collect(),
        });
    }
    let (swap, unread) = match swap_report::read(&folder) {
        Ok(swap) => (Some(swap), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Ok(Report::new(&Facts {
        service: SERVICE.into(),
        environment: ENVIRONMENT.into(),
        expected_hosts: settings.hosts,
        from: FROM.into(),
        to: TO.into(),
        floor_per_second: GOAL_PER_SECOND.min(rate * 0.8),
        swap,
        swap_error: swapped.err().map(|e| format!("{e:#}")).or(unread),
        swap_took,
        tally,
        load_ran,
        load_before,
        load_after: load_ran.saturating_sub(ended),
        hosts: facts,
    }))
}

/// Why a host is not ready yet; an error when it serves what was not deployed.
async fn not_ready(host: Host) -> anyhow::Result<Option<String>> {
    let said = load::poll(&target(&host), 1, Duration::from_secs(2)).await;
    match said.first() {
        Some(Ok(version)) if version != FROM => {
            bail!("{} serves {version} after {FROM} was deployed", host.url)
        }
        Some(Err(failure)) => Ok(Some(failure.to_string())),
        Some(Ok(_)) | None => Ok(None),
    }
}

fn target(host: &Host) -> Target {
    Target {
        instance: host.instance.clone(),
        address: host.address,
    }
}

/// Waits for a condition that needs no command.
async fn until(
    porter: &Porter,
    limit: Duration,
    what: &str,
    holds: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        tokio::select! {
            () = sleep(Duration::from_millis(20)) => {}
            () = porter.stop.cancelled() => bail!("interrupted while waiting for {what}"),
        }
    }
    Ok(())
}
