//! THE demo: its acts, in order, in the words of the README.

use crate::{
    load::{self, Load, Plan, Target},
    porter::Porter,
    receipt::{AFTER, Facts, HostFacts, Report, SwapReport},
    service,
};
use anyhow::{Context, bail};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The environment of the example's configuration that the demo deploys.
const ENVIRONMENT: &str = "stage";
/// The demo's cloud has a name of its own, so that it is no other cloud of this user that is taken down.
const CLOUD: &str = "demo";
const SERVICE: &str = "hello";
const FROM: &str = "v1";
const TO: &str = "v2";

/// At the end every host is asked so often: more often than it has server processes or containers that could differ.
const LAST_QUESTIONS: usize = 20;

/// Fresh hosts must answer within this time after they were provisioned.
const BOOT: Duration = Duration::from_secs(300);

/// Every host must have answered so many requests before the swap begins.
const WARM: u64 = 50;

/// The goal is this many requests a second; a load below it proves too little.
const GOAL_PER_SECOND: f64 = 500.0;

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The repository.
    pub root: PathBuf,
    /// Where the `porter` program lies.
    pub porter: PathBuf,
    /// Where the report goes.
    pub folder: PathBuf,
    /// The service's scratch repository is made in here. Outside of this repository: cargo would take a folder within
    /// it for a forgotten member of the workspace.
    pub scratch: PathBuf,
    /// Number of hosts.
    pub hosts: usize,
    /// Requests a second, in all.
    pub rate: f64,
    /// The load runs at least so long.
    pub at_least: Duration,
    /// Leave the cloud running.
    pub keep: bool,
}

/// Runs the demo, and takes the cloud down whatever happened.
///
/// # Errors
/// When an act could not be carried out. A swap that failed or was noticed is no error here but a [`Report`] that did
/// not pass.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<Report> {
    let report = settings.folder.join("report.json");
    if report.exists() {
        // A report of an earlier run must not be taken for this one's.
        fs::remove_file(&report)?;
    }
    fs::create_dir_all(&settings.folder)?;
    let scratch = tempfile::Builder::new()
        .prefix("porter-demo-")
        .tempdir_in(&settings.scratch)
        .context("a temporary folder can't be made")?;
    let lock = only_one(&settings.scratch)?;
    let porter = Porter {
        program: settings.porter.clone(),
        folder: scratch.path().to_owned(),
        variables: BTreeMap::from([("PORTER_LOCAL_NAME".into(), CLOUD.into())]),
        stop,
    };
    // What a killed demo left, or a kept one. There is mostly nothing, and if it fails `up` will say why.
    if let Err(error) = porter.show(&["local", "down"]).await {
        eprintln!("{error:#}");
    }

    // As a task, so that even a panic in an act leads past `down`.
    let acts = tokio::spawn(acts(settings.clone(), porter.clone()));
    let result = match acts.await {
        Ok(result) => result,
        Err(error) => Err(anyhow::anyhow!("the demo itself broke: {error}")),
    };
    let down = if settings.keep {
        eprintln!(
            "the local cloud still runs; `PORTER_LOCAL_NAME={CLOUD} porter local down` ends it\n\
             the service's repository is {}",
            scratch.keep().display()
        );
        Ok(())
    } else {
        take_down(porter).await
    };
    drop(lock);
    let result = result?;
    let json = serde_json::to_string_pretty(&result)? + "\n";
    fs::write(&report, json).with_context(|| format!("{} can't be written", report.display()))?;
    down?;
    Ok(result)
}

/// A second demo would take the first one's cloud down. The lock goes with the process, however that ends.
fn only_one(folder: &Path) -> anyhow::Result<fs::File> {
    let path = folder.join("porter-demo.lock");
    let lock = fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("{} can't be opened", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!("another demo is running on this machine"),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} can't be locked", path.display()))
        }
    }
}

/// `down` runs also after Ctrl-C, and can't be interrupted by it.
async fn take_down(porter: Porter) -> anyhow::Result<()> {
    let porter = Porter {
        stop: CancellationToken::new(),
        ..porter
    };
    porter
        .show(&["local", "down"])
        .await
        .with_context(|| format!("the local cloud was not taken down\nhint: `PORTER_LOCAL_NAME={CLOUD} porter local down` may be repeated"))
}

async fn acts(settings: Settings, mut porter: Porter) -> anyhow::Result<Report> {
    act(&format!(
        "A cloud with {} hosts on this machine",
        settings.hosts
    ));
    let hosts = settings.hosts.to_string();
    let cloud = porter.json(&["local", "up", "--hosts", &hosts]).await?;
    for (name, value) in cloud["env"].as_object().into_iter().flatten() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        porter.variables.insert(name.clone(), value);
    }

    act(&format!("Version 1 of {SERVICE}: pack, provision, promote"));
    let folder = porter.folder.clone();
    service::copy(&settings.root, &folder)?;
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
    let targets = hosts_that_serve(&porter, settings.hosts).await?;

    act(&format!(
        "Load: {:.0} requests/s over {hosts} hosts",
        settings.rate
    ));
    let load = Load::start(&Plan::new(
        targets.iter().map(|(target, _)| target.clone()).collect(),
        settings.rate,
    ));
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
    let mut hosts = Vec::new();
    for (target, url) in &targets {
        let answers = load::poll(target, LAST_QUESTIONS, Duration::from_secs(5)).await;
        hosts.push(HostFacts {
            instance: target.instance.clone(),
            url: url.clone(),
            last_answers: answers
                .into_iter()
                .map(|a| a.map_err(|e| e.to_string()))
                .collect(),
        });
    }
    let (swap, unread) = match swap_report(&folder) {
        Ok(swap) => (Some(swap), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Ok(Report::new(&Facts {
        service: SERVICE.into(),
        environment: ENVIRONMENT.into(),
        expected_hosts: settings.hosts,
        from: FROM.into(),
        to: TO.into(),
        floor_per_second: GOAL_PER_SECOND.min(settings.rate * 0.8),
        swap,
        swap_error: swapped.err().map(|e| format!("{e:#}")).or(unread),
        swap_took,
        tally,
        load_ran,
        load_before,
        load_after: load_ran.saturating_sub(ended),
        hosts,
    }))
}

fn act(title: &str) {
    eprintln!("\n== {title}");
}

async fn git(porter: &Porter, arguments: &[&str]) -> anyhow::Result<String> {
    porter.command(Path::new("git"), arguments).await
}

async fn commit(porter: &Porter, message: &str) -> anyhow::Result<()> {
    git(porter, &["add", "-A"]).await?;
    // A name of its own: the machine may have none configured.
    let author = ["-c", "user.name=demo", "-c", "user.email=demo@localhost"];
    let commit = ["-c", "commit.gpgsign=false", "commit", "-q", "-m", message];
    git(porter, &[author.as_slice(), commit.as_slice()].concat()).await?;
    Ok(())
}

/// Waits until `count` hosts run and each answers with version 1.
async fn hosts_that_serve(porter: &Porter, count: usize) -> anyhow::Result<Vec<(Target, String)>> {
    let began = Instant::now();
    loop {
        let status = porter.json(&["local", "status"]).await?;
        let hosts = running_hosts(&status)?;
        let mut missing = format!("{} of {count} hosts run", hosts.len());
        if hosts.len() == count {
            missing.clear();
            for (target, url) in &hosts {
                let said = load::poll(target, 1, Duration::from_secs(2)).await;
                match said.first() {
                    Some(Ok(version)) if version == FROM => {}
                    Some(Ok(version)) => bail!("{url} serves {version} after {FROM} was deployed"),
                    Some(Err(failure)) => missing = format!("{url}: {failure}"),
                    None => {}
                }
            }
            if missing.is_empty() {
                return Ok(hosts);
            }
        }
        if began.elapsed() > BOOT {
            bail!(
                "the hosts did not come to serve within {} s: {missing}\nhint: `make demo DEMO=--keep`, then `PORTER_LOCAL_NAME={CLOUD} porter local logs HOST` shows why",
                BOOT.as_secs()
            );
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            () = porter.stop.cancelled() => bail!("interrupted while the hosts started"),
        }
    }
}

/// The running hosts of `porter local status --output json`.
fn running_hosts(status: &serde_json::Value) -> anyhow::Result<Vec<(Target, String)>> {
    let hosts = status["hosts"]
        .as_array()
        .context("`porter local status` named no hosts")?;
    hosts
        .iter()
        .filter(|host| host["state"] == "running")
        .map(|host| {
            let instance = host["instance"]
                .as_str()
                .context("a host has no instance id")?;
            let url = host["url"].as_str().context("a host has no URL")?;
            let address: SocketAddr = url
                .strip_prefix("http://")
                .map(|rest| rest.trim_end_matches('/'))
                .and_then(|rest| rest.parse().ok())
                .with_context(|| format!("{url} is not http:// with address and port"))?;
            let instance = instance.to_owned();
            Ok((Target { instance, address }, url.to_owned()))
        })
        .collect()
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

fn swap_report(folder: &Path) -> anyhow::Result<SwapReport> {
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
    fn running_hosts_are_read_from_the_status_and_others_left_out() {
        let status = json!({"endpoint": "http://127.0.0.1:4566", "hosts": [
            {"instance": "i-1", "address": "127.0.1.5", "url": "http://127.0.1.5:8080", "state": "running"},
            {"instance": "i-2", "address": "127.0.1.6", "url": "http://127.0.1.6:8080", "state": "booting"},
        ]});
        let hosts = running_hosts(&status).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].0.address, "127.0.1.5:8080".parse().unwrap());
        assert_eq!(hosts[0].1, "http://127.0.1.5:8080");
        let odd = json!({"hosts": [{"instance": "i-1", "url": "ftp://x", "state": "running"}]});
        assert!(running_hosts(&odd).is_err());
    }

    #[test]
    fn porters_report_is_read_by_the_names_it_is_written_with() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".porter-tmp")).unwrap();
        assert!(swap_report(folder.path()).is_err());
        let written = json!({
            "v": 1, "service": "hello", "environment": "stage", "swap": "01", "decision": "hot_swap", "outcome": "success",
            "started": "2026-11-21T02:00:00Z", "ended": "2026-11-21T02:00:12Z", "seconds": 12.3, "from": null, "to": "sha256:b",
            "bytes": {"uploaded": 123, "downloaded": 456},
            "regions": [{"region": "us-east-1", "outcome": "success", "reasons": [], "stack": null, "stack_status": null,
                "hosts": [{"instance": "i-1", "outcome": "success", "from": null, "to": null, "serving": null, "step": "report",
                    "seconds": {"fetch": 0.12, "cut_over": 0.3}, "bytes": 123, "drain": {"ended": 3, "cut": 0, "open": 0},
                    "warnings": [], "cause": null}]}],
        });
        fs::write(
            folder.path().join(".porter-tmp/hotswap_report.json"),
            written.to_string(),
        )
        .unwrap();
        let read = swap_report(folder.path()).unwrap();
        assert_eq!(
            (read.decision.as_str(), read.bytes.downloaded),
            ("hot_swap", 456)
        );
        let host = &read.regions[0].hosts[0];
        assert_eq!(host.seconds[&contract::step::Step::CutOver], 0.3);
        assert_eq!(host.drain.ended, 3);
    }
}
