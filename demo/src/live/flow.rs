//! THE demo: its acts, in order, in the words of the README.

use super::{
    ask,
    ledger::Phase,
    load::{self, Load, Outcome, Plan},
    receipt::{Facts, HostFacts, Report, SwapFacts},
    redis::Redis,
    tokens::Issuer,
};
use crate::{
    porter::Porter,
    service,
    stage::{self, ENVIRONMENT, Host, Settings, act, commit, git, hosts_that_serve},
    swap_report,
};
use anyhow::{Context, bail};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

const EXAMPLE: &str = "examples/realtime";
const SERVICE: &str = "realtime";

/// Versions in the order in which they are deployed: there, and back again.
const FIRST: &str = "v1";
const SECOND: &str = "v2";

/// Committed with the service; what it says is what the build of that commit says of itself.
const VERSION_FILE: &str = "version";

/// Messages flow for so long before the first swap, between the two, and after the last one: whatever a swap breaks late
/// shows within this time.
const STEADY: Duration = Duration::from_secs(4);

/// A message is due on every connection within this time, so that every connection has something to say about a swap.
const ROUND: Duration = Duration::from_millis(1100);

/// At the end of a swap every host is asked so often which version it is.
const QUESTIONS: usize = 10;

/// What hosts keep their state in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A database file of each host.
    Embedded,
    /// One Redis for all; then the clients of every channel are on all hosts.
    Redis,
}

/// Runs the demo with `connections` WebSockets.
///
/// # Errors
/// When an act could not be carried out. A swap that failed or was noticed is no error here but a [`Report`] that did
/// not pass.
pub async fn run(
    settings: Settings,
    connections: usize,
    engine: Engine,
    stop: CancellationToken,
) -> anyhow::Result<Report> {
    let acts = {
        let settings = settings.clone();
        async move |porter| acts(settings, connections, engine, porter).await
    };
    stage::play(&settings, stop, acts).await
}

async fn acts(
    settings: Settings,
    connections: usize,
    engine: Engine,
    mut porter: Porter,
) -> anyhow::Result<Report> {
    act("Two versions of the server are built");
    let first = build(&porter, &settings, FIRST).await?;
    let second = build(&porter, &settings, SECOND).await?;

    act(&format!(
        "A cloud with {} hosts on this machine",
        settings.hosts
    ));
    stage::cloud_up(&mut porter, settings.hosts).await?;

    act(&format!("{FIRST} of {SERVICE}: pack, provision, promote"));
    let issuer = Arc::new(Issuer::new()?);
    porter
        .variables
        .insert("REALTIME_PUBLIC_KEY".into(), issuer.public_key());
    service::copy(&settings.root, EXAMPLE, &porter.folder)?;
    service::set_hosts(&porter.folder, settings.hosts)?;
    let redis = match engine {
        Engine::Embedded => None,
        Engine::Redis => Some(Redis::start(&porter).await?),
    };
    if let Some(redis) = &redis {
        service::set_parameter(&porter.folder, "EngineUrl", &redis.url)?;
    }
    git(&porter, &["init", "-q"]).await?;
    pack(&mut porter, FIRST, &first).await?;
    provision(&porter).await?;
    porter.show(&["build", "promote"]).await?;
    let hosts = hosts_that_serve(&porter, settings.hosts, not_ready).await?;
    let targets = hosts.iter().map(target).collect::<anyhow::Result<_>>()?;
    let proxies = proxies(&hosts)?;

    let mut plan = Plan::new(targets, connections);
    plan.across = redis.is_some();
    act(&format!(
        "{connections} WebSockets over {} hosts, messages both ways on each, backends that publish",
        hosts.len()
    ));
    let load = open(plan.clone(), issuer.clone()).await?;
    steady(&porter, STEADY).await?;

    let mut swaps = Vec::new();
    for (from, to, binary) in [(FIRST, SECOND, &second), (SECOND, FIRST, &first)] {
        act(&format!(
            "{from} -> {to}: pack, plan, hot swap, under that load"
        ));
        load.begin(Phase::Build);
        pack(&mut porter, to, binary).await?;
        porter.show(&["hotswap", "plan", "-e", ENVIRONMENT]).await?;
        load.begin(Phase::Swap);
        let began = Instant::now();
        let swapped = provision(&porter).await;
        let took = began.elapsed();
        steady(&porter, ROUND).await?;
        load.begin(Phase::Steady);
        let reported = swap_report::read(&porter.folder);
        let error = swapped.and(
            reported
                .as_ref()
                .map(|_| ())
                .map_err(|e| anyhow::anyhow!("{e:#}")),
        );
        swaps.push(SwapFacts {
            from: from.into(),
            to: to.into(),
            error: error.err().map(|e| format!("{e:#}")),
            report: reported.ok(),
            took,
            serves: serves(&plan).await?,
        });
        steady(&porter, STEADY).await?;
    }

    act("The books");
    let ran = load.look()?.ran;
    steady(&porter, settings.at_least.saturating_sub(ran)).await?;
    let outcome = finish(load).await?;
    let now = self::proxies(&hosts)?;
    let hosts = hosts
        .iter()
        .zip(proxies.iter().zip(&now))
        .map(|(host, (before, after))| HostFacts {
            instance: host.instance.clone(),
            url: host.url.clone(),
            proxy_kept: before == after && !before.is_empty(),
        })
        .collect();
    Ok(Report::new(Facts {
        service: SERVICE.into(),
        environment: ENVIRONMENT.into(),
        engine,
        expected_hosts: settings.hosts,
        expected_connections: connections,
        hosts,
        swaps,
        outcome,
    }))
}

/// Builds the server from the repository, under the name of a version that it tells in `/info`. Kept from demo to demo.
async fn build(porter: &Porter, settings: &Settings, version: &str) -> anyhow::Result<PathBuf> {
    let folder = settings.folder.join("build");
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let mut cargo = porter.clone();
    cargo.folder = settings.root.clone();
    cargo
        .variables
        .insert("REALTIME_COMMIT".into(), version.into());
    // Where cargo builds otherwise, so that nothing is built twice; but root leaves nothing of its own among the files of
    // whoever called it.
    if std::env::var_os("SUDO_UID").is_some() {
        cargo
            .variables
            .insert("CARGO_TARGET_DIR".into(), folder.display().to_string());
    }
    let profile = if settings.release { "release" } else { "dev" };
    let arguments = [
        "build",
        "--quiet",
        "--profile",
        profile,
        "--package",
        "realtime",
        "--bin",
        "realtime",
        "--message-format",
        "json",
    ];
    let messages = cargo.command(Path::new("cargo"), &arguments).await?;
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no program that it built")?;
    let kept = folder.join(format!("realtime-{version}"));
    fs::copy(&built, &kept).with_context(|| format!("{} can't be copied", built.display()))?;
    Ok(kept)
}

/// Commits a version and packs it. The binary has been built: building it now would be load on the machine that carries
/// hosts and clients.
async fn pack(porter: &mut Porter, version: &str, binary: &Path) -> anyhow::Result<()> {
    porter
        .variables
        .insert("REALTIME_BINARY".into(), binary.display().to_string());
    fs::write(porter.folder.join(VERSION_FILE), version)?;
    commit(porter, version).await?;
    porter.show(&["build", "pack"]).await
}

async fn provision(porter: &Porter) -> anyhow::Result<()> {
    porter
        .show(&["build", "provision", "-e", ENVIRONMENT])
        .await
}

async fn open(plan: Plan, issuer: Arc<Issuer>) -> anyhow::Result<Load> {
    spawn_blocking(move || Load::open(&plan, &issuer)).await?
}

async fn finish(load: Load) -> anyhow::Result<Outcome> {
    spawn_blocking(move || load.finish()).await?
}

async fn steady(porter: &Porter, time: Duration) -> anyhow::Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        () = porter.stop.cancelled() => bail!("interrupted while messages flowed"),
    }
}

/// Why a host is not ready yet; an error when it serves what was not deployed.
async fn not_ready(host: Host) -> anyhow::Result<Option<String>> {
    let version = spawn_blocking(move || version(&target(&host)?)).await?;
    match version {
        Ok(version) if version == FIRST => Ok(None),
        Ok(version) => bail!("a host serves {version} after {FIRST} was deployed"),
        Err(error) => Ok(Some(format!("{error:#}"))),
    }
}

/// The version that answers on a new connection.
fn version(target: &load::Host) -> anyhow::Result<String> {
    let info = ask::get(target.address, "/info", &target.api_key)?;
    let info: serde_json::Value = serde_json::from_str(&info)?;
    Ok(info["commit"].as_str().unwrap_or("unknown").to_owned())
}

/// What every host answers, asked several times.
async fn serves(plan: &Plan) -> anyhow::Result<Vec<BTreeSet<String>>> {
    let hosts = plan.hosts.clone();
    let ask = |host: &load::Host| {
        let answer = || version(host).unwrap_or_else(|error| format!("{error:#}"));
        (0..QUESTIONS).map(|_| answer()).collect()
    };
    Ok(spawn_blocking(move || hosts.iter().map(ask).collect()).await?)
}

/// A host as backends see it. Each has made its own API key when it booted, and keeps it where only root can read.
fn target(host: &Host) -> anyhow::Result<load::Host> {
    let pid = host.pid.context("`porter local status` names no pid")?;
    let path = format!("/proc/{pid}/root/dockerfile.env");
    let text = fs::read_to_string(&path).with_context(|| format!("{path} can't be read"))?;
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("REALTIME_API_KEYS="))
        .context("the host has no API key")?;
    Ok(load::Host {
        address: host.address,
        api_key: key.split(',').next().unwrap_or(key).to_owned(),
    })
}

/// The HAProxy processes of every host, which are those that see its files: a process that was reloaded or restarted has
/// another id.
fn proxies(hosts: &[Host]) -> anyhow::Result<Vec<BTreeSet<u32>>> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // It may have ended since.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "haproxy" {
            all.push((pid, namespace(pid)));
        }
    }
    let of = |host: &Host| {
        let here = host.pid.and_then(namespace);
        let inside = all
            .iter()
            .filter(|(_, there)| here.is_some() && *there == here);
        inside.map(|(pid, _)| *pid).collect()
    };
    Ok(hosts.iter().map(of).collect())
}
