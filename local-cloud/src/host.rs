//! One simulated host, seen from outside: its files, its start and its end.
//!
//! `hosts/INSTANCE/` has `boot.json` ([`Boot`]), `init.json` (the host's PID 1, as a [`Process`] of this machine),
//! `console.log`, and the layers `upper`, `work` and the mount point `root`. The root file system is an overlay over
//! this machine's own: the host sees the machine's programs, and nothing that it writes leaves `upper`. All mounts are
//! in the host's own mount namespace: with PID 1 everything goes.

use crate::{
    place::{Place, read_json, write_json},
    process::{OWNER, Process},
};
use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where a host's proxy listens for plain HTTP. Not 80: a machine may run a web server of its own on every address.
pub const HTTP_PORT: u16 = 8080;
/// Where it listens for requests that a load balancer received by HTTPS.
pub const FORWARDED_HTTPS_PORT: u16 = 8081;
/// The metadata service.
pub const METADATA_PORT: u16 = 1338;

/// Everything a host knows when it starts: what EC2 would have given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// EC2 instance id.
    pub instance: String,
    /// Auto Scaling group.
    pub group: String,
    /// The group's stack, when CloudFormation made it.
    pub stack: Option<String>,
    /// Target groups in which the instance is registered once it runs.
    pub target_groups: Vec<String>,
    /// Loopback address, 127.0.x.y.
    pub address: String,
    /// AWS region.
    pub region: String,
    /// Availability zone.
    pub zone: String,
    /// Account id.
    pub account: String,
    /// Launch template's image.
    pub image: String,
    /// Launch template's instance type.
    pub instance_type: String,
    /// The role behind the instance profile; none without a profile.
    pub role: Option<String>,
    /// User data as the launch template has it: base64.
    pub user_data: String,
    /// The AWS endpoint.
    pub endpoint: String,
    /// How often the cfn-hup stand-in looks, in milliseconds; the real one counts in minutes.
    pub poll_ms: u64,
    /// The machine's Docker Engine.
    pub docker_socket: PathBuf,
    /// The cloud's state directory, see [`OWNER`].
    pub owner: PathBuf,
}

/// How far a host has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// cloud-init works.
    Booting,
    /// cloud-init is done.
    Running,
    /// cloud-init is done, and part of it failed; the host stays up, as on EC2.
    Failed,
    /// Its PID 1 has ended.
    Stopped,
}

/// What cloud-init says when it is done, in `/var/lib/cloud/data/status.json` of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootStatus {
    /// Booting, running or failed.
    pub state: HostState,
    /// What failed, one line each.
    pub errors: Vec<String>,
}

/// Where [`BootStatus`] is, below the host's root.
pub const STATUS_FILE: &str = "var/lib/cloud/data/status.json";

/// A simulated host, for people and tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    /// EC2 instance id.
    pub instance: String,
    /// Auto Scaling group.
    pub group: String,
    /// Id of the stack that the group belongs to.
    pub stack: Option<String>,
    /// AWS region.
    pub region: String,
    /// Loopback address.
    pub address: String,
    /// Where its proxy answers.
    pub url: String,
    /// How far it has come.
    pub state: HostState,
    /// What failed while it booted.
    pub errors: Vec<String>,
    /// Digest of the payload that its containers run, when there are any.
    pub payload: Option<String>,
    /// Its PID 1, as this machine numbers it; none when it has ended.
    pub pid: Option<i32>,
    /// Its root directory as seen from this machine: the whole one while it runs, else what it wrote.
    pub root: PathBuf,
}

/// Reads what is known of a host; the payload stays open.
///
/// # Errors
/// It has no `boot.json`.
pub fn info(place: &Place, instance: &str) -> Result<HostInfo> {
    let dir = place.host(instance);
    let boot: Boot = read_json(&dir.join("boot.json"))?;
    let init = init(&dir);
    let status: Option<BootStatus> = read_json(&dir.join("upper").join(STATUS_FILE)).ok();
    let state = match (init, &status) {
        (None, _) => HostState::Stopped,
        (Some(_), None) => HostState::Booting,
        (Some(_), Some(s)) => s.state,
    };
    Ok(HostInfo {
        url: format!("http://{}:{HTTP_PORT}", boot.address),
        instance: boot.instance,
        group: boot.group,
        stack: boot.stack,
        region: boot.region,
        address: boot.address,
        state,
        errors: status.map(|s| s.errors).unwrap_or_default(),
        payload: None,
        pid: init.map(|p| p.pid),
        root: init.map_or_else(
            || dir.join("upper"),
            |p| format!("/proc/{}/root", p.pid).into(),
        ),
    })
}

/// The host's PID 1, when it runs.
pub fn init(dir: &Path) -> Option<Process> {
    read_json::<Process>(&dir.join("init.json"))
        .ok()
        .filter(|p| p.is_alive())
}

/// Starts a host in its own namespaces; it dies with the calling thread.
///
/// # Errors
/// Its directory can't be written or `unshare` is missing.
pub fn start(place: &Place, boot: &Boot) -> Result<Child> {
    let dir = place.host(&boot.instance);
    fs::create_dir_all(&dir)?;
    write_json(&dir.join("boot.json"), boot)?;
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("console.log"))?;
    let environment = BTreeMap::from([
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/aws/bin".to_owned(),
        ),
        ("HOME", "/root".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("AWS_ENDPOINT_URL", boot.endpoint.clone()),
        (
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            format!("http://{}:{METADATA_PORT}", boot.address),
        ),
        (crate::stand_ins::POLL, boot.poll_ms.to_string()),
        (OWNER, boot.owner.display().to_string()),
    ]);
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--propagation",
            "private",
        ])
        .arg(place.file("program"))
        .args([crate::entry::HIDDEN, "host"])
        .arg(&dir)
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("setpriv")
}

/// Ends a host at once, as pulling the plug would, and waits until its processes are gone.
pub fn stop(dir: &Path) {
    let Some(init) = init(dir) else { return };
    init.signal(Signal::KILL);
    let begun = Instant::now();
    while init.is_alive() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
