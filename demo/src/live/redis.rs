//! One Redis for all hosts of the demo, where their containers reach it: at the gateway of the network that they join.

use super::bare::Process;
use crate::porter::Porter;
use anyhow::{Context, bail};
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The network of porter's hosts (`docs/host-agent.md`), and how a host marks it.
const NETWORK: &str = "porter";
const LABEL: &str = "porter.network=1";

/// For it to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ended with its owner. It keeps nothing on disk, and no password: only this machine's containers reach it, for as long as
/// the demo runs.
#[derive(Debug)]
pub struct Redis {
    /// As `engine.url`.
    pub url: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// Waits until it answers.
    ///
    /// # Errors
    /// There is no `redis-server`, or no network for it.
    pub async fn start(porter: &Porter) -> anyhow::Result<Self> {
        let gateway = gateway(porter).await?;
        let folder = tempfile::tempdir().context("a temporary folder can't be made")?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            // Between choosing a free port and binding it somebody else may take it.
            let port = TcpListener::bind((gateway, 0))?.local_addr()?.port();
            let mut process = spawn(gateway, port, folder.path())?;
            while process.0.try_wait()?.is_none() && began.elapsed() < PATIENCE {
                if TcpStream::connect((gateway, port)).is_ok() {
                    return Ok(Self {
                        url: format!("redis://{gateway}:{port}"),
                        _process: process,
                        _folder: folder,
                    });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        bail!("redis-server did not listen at {gateway} within {PATIENCE:?}")
    }
}

fn spawn(gateway: Ipv4Addr, port: u16, folder: &Path) -> anyhow::Result<Process> {
    // A demo that is killed takes it along.
    let spawned = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server"])
        .args(["--bind", &gateway.to_string(), "--port", &port.to_string()])
        .args(["--protected-mode", "no", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    spawned
        .map(Process)
        .context("redis-server can't be run; `make setup` installs it")
}

/// Where containers reach this machine. The first host would make the network; this comes before it.
async fn gateway(porter: &Porter) -> anyhow::Result<Ipv4Addr> {
    let docker = Path::new("docker");
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let inspect = ["network", "inspect", NETWORK, "--format", format];
    let found = match porter.command(docker, &inspect).await {
        Ok(found) => found,
        Err(_) => {
            let create = ["network", "create", "--label", LABEL, NETWORK];
            porter.command(docker, &create).await?;
            porter.command(docker, &inspect).await?
        }
    };
    let gateway = found.trim().parse();
    gateway.with_context(|| format!("the network `{NETWORK}` has the gateway {found:?}"))
}
