//! Where the demos play: a cloud of their own, a copy of the service's repository, a report; one at a time.

use crate::porter::Porter;
use anyhow::{Context, bail};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The environment of the examples' configuration that demos deploy.
pub const ENVIRONMENT: &str = "stage";
/// The demos' cloud has a name of its own, so that it is no other cloud of this user that is taken down.
const CLOUD: &str = "demo";
/// Fresh hosts must answer within this time after they were provisioned.
const BOOT: Duration = Duration::from_secs(300);

/// What any demo is asked for.
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
    /// The load runs at least so long.
    pub at_least: Duration,
    /// Whether what is deployed is built for release.
    pub release: bool,
    /// Leave the cloud running.
    pub keep: bool,
}

/// Plays a demo's acts in a cloud of their own, takes that down whatever happened, and writes the report.
///
/// # Errors
/// Those of the acts, or the stage can't be set up or taken down.
pub async fn play<Acts, Report>(
    settings: &Settings,
    stop: CancellationToken,
    acts: impl FnOnce(Porter) -> Acts,
) -> anyhow::Result<Report>
where
    Acts: Future<Output = anyhow::Result<Report>> + Send + 'static,
    Report: Serialize + Send + 'static,
{
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
    let acts = tokio::spawn(acts(porter.clone()));
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

/// Starts the cloud, and has later commands use it.
///
/// # Errors
/// It does not start.
pub async fn cloud_up(porter: &mut Porter, hosts: usize) -> anyhow::Result<()> {
    let hosts = hosts.to_string();
    let cloud = porter.json(&["local", "up", "--hosts", &hosts]).await?;
    for (name, value) in cloud["env"].as_object().into_iter().flatten() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        porter.variables.insert(name.clone(), value);
    }
    Ok(())
}

/// Waits until `count` hosts run and `unready` has nothing to say against any of them.
///
/// # Errors
/// That does not happen in time, or `unready` fails.
pub async fn hosts_that_serve<Says: Future<Output = anyhow::Result<Option<String>>>>(
    porter: &Porter,
    count: usize,
    unready: impl Fn(Host) -> Says,
) -> anyhow::Result<Vec<Host>> {
    let began = Instant::now();
    loop {
        let status = porter.json(&["local", "status"]).await?;
        let hosts = running_hosts(&status)?;
        let mut missing = format!("{} of {count} hosts run", hosts.len());
        if hosts.len() == count {
            missing.clear();
            for host in &hosts {
                if let Some(why) = unready(host.clone()).await? {
                    missing = format!("{}: {why}", host.url);
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

/// Says on the terminal what is done now.
pub fn act(title: &str) {
    eprintln!("\n== {title}");
}

/// Runs git in the service's repository.
///
/// # Errors
/// It fails.
pub async fn git(porter: &Porter, arguments: &[&str]) -> anyhow::Result<String> {
    porter.command(Path::new("git"), arguments).await
}

/// Commits everything in the service's repository.
///
/// # Errors
/// Those of git.
pub async fn commit(porter: &Porter, message: &str) -> anyhow::Result<()> {
    git(porter, &["add", "-A"]).await?;
    // A name of its own: the machine may have none configured.
    let author = ["-c", "user.name=demo", "-c", "user.email=demo@localhost"];
    let commit = ["-c", "commit.gpgsign=false", "commit", "-q", "-m", message];
    git(porter, &[author.as_slice(), commit.as_slice()].concat()).await?;
    Ok(())
}

/// A running host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Instance id.
    pub instance: String,
    /// Its front door.
    pub url: String,
    /// The same, to connect to.
    pub address: SocketAddr,
    /// Its first process, in whose namespaces everything of the host lives.
    pub pid: Option<u32>,
}

/// The running hosts of `porter local status --output json`.
///
/// # Errors
/// It is not as that command prints it.
pub fn running_hosts(status: &serde_json::Value) -> anyhow::Result<Vec<Host>> {
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
            Ok(Host {
                instance: instance.to_owned(),
                url: url.to_owned(),
                address,
                pid: host["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn running_hosts_are_read_from_the_status_and_others_left_out() {
        let status = json!({"endpoint": "http://127.0.0.1:4566", "hosts": [
            {"instance": "i-1", "address": "127.0.1.5", "url": "http://127.0.1.5:8080", "state": "running", "pid": 77},
            {"instance": "i-2", "address": "127.0.1.6", "url": "http://127.0.1.6:8080", "state": "booting"},
        ]});
        let hosts = running_hosts(&status).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].address, "127.0.1.5:8080".parse().unwrap());
        assert_eq!(hosts[0].url, "http://127.0.1.5:8080");
        let odd = json!({"hosts": [{"instance": "i-1", "url": "ftp://x", "state": "running"}]});
        assert!(running_hosts(&odd).is_err());
    }
}
