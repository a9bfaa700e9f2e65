//! A host without a cloud: HAProxy, and behind its Unix socket the server's processes, each of which takes over from the
//! one before it. What porter's host agent does with containers is done here with bare processes, so that whatever load and
//! books prove can be proved in seconds and hundreds of times.

use super::{ask, load};
use anyhow::{Context, bail};
use handover::{
    End, Receipt,
    control::{self, Answer, Request, Role, Status},
};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Resource, Signal, getrlimit, kill_process},
};
use serde::Serialize;
use std::{
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// For a process to start, to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key of the server API on bare hosts: they live for one run, and on loopback.
const API_KEY: &str = "a-key-of-the-demo-for-hosts-that-live-for-one-run";

/// As the host agent's configuration (`templates/haproxy.cfg`), as far as it matters for connections that stay.
const PROXY: &str = "\
global
    no strict-limits
    stats socket {folder}/haproxy.sock mode 600 level admin
defaults
    mode http
    maxconn {maxconn}
    option idle-close-on-response
    timeout connect 13s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend front
    maxconn {maxconn}
    bind fd@{fd}
    default_backend back
backend back
    server app unix@{folder}/inet.sock
";

/// One host.
#[derive(Debug)]
pub struct BareHost {
    folder: tempfile::TempDir,
    program: PathBuf,
    public_key: String,
    address: SocketAddr,
    proxy: Process,
    server: Process,
    engine: String,
    generation: u32,
}

/// Ended with its owner.
#[derive(Debug)]
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one swap on a bare host came to.
#[derive(Clone, Debug)]
pub struct BareSwap {
    /// The successor's account.
    pub receipt: Receipt,
    /// From starting the successor until its predecessor had ended.
    pub took: Duration,
}

/// What processes hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Process id.
    pub pid: u32,
    /// Memory that is resident, in KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl BareHost {
    /// With HAProxy and a first server process that serve. `engine` is the server's `engine.url`; blank for a database
    /// file of its own.
    ///
    /// # Errors
    /// Either does not start.
    pub fn start(program: &Path, public_key: &str, engine: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("porter-bare-")
            .tempdir()
            .context("a temporary folder can't be made")?;
        let server = spawn_server(program, folder.path(), public_key, engine, 0)?;
        // Bound here and inherited: a port that is free now may not be later.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let proxy = spawn_proxy(folder.path(), &listener)?;
        let host = Self {
            folder,
            program: program.to_owned(),
            public_key: public_key.to_owned(),
            address,
            proxy,
            server,
            engine: engine.to_owned(),
            generation: 0,
        };
        host.await_role(0, Role::Serving)?;
        host.await_health()?;
        Ok(host)
    }

    /// Where clients and backends connect.
    pub fn target(&self) -> load::Host {
        load::Host {
            address: self.address,
            api_key: API_KEY.into(),
        }
    }

    /// The running process gives everything to a new one, and ends.
    ///
    /// # Errors
    /// The successor does not come up, or does not get everything.
    pub fn swap(&mut self) -> anyhow::Result<BareSwap> {
        let began = Instant::now();
        let (old, new) = (self.generation, self.generation + 1);
        let successor = spawn_server(
            &self.program,
            self.folder.path(),
            &self.public_key,
            &self.engine,
            new,
        )?;
        self.await_role(new, Role::Waiting)?;
        let receipt = match self.ask(new, Request::TakeOver {})? {
            Answer::Receipt(receipt) if receipt.end == End::Taken => receipt,
            other => bail!("the take-over failed: {other:?}"),
        };
        // It lets go of thousands of descriptors, and until that is done it does not retire.
        self.await_role(old, Role::Emptied)?;
        match self.ask(old, Request::Retire {})? {
            Answer::Retiring {} => {}
            other => bail!("the predecessor does not retire: {other:?}"),
        }
        let mut predecessor = std::mem::replace(&mut self.server, successor);
        self.generation = new;
        let ended = wait("the predecessor to end", || {
            Ok(predecessor.0.try_wait()?.is_some())
        });
        ended?;
        Ok(BareSwap {
            receipt,
            took: began.elapsed(),
        })
    }

    /// Kills the server: nobody succeeds it.
    ///
    /// # Errors
    /// It has ended before.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Stops the server for so long, at least; how long it was.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(&self, time: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.signal(Signal::STOP)?;
        thread::sleep(time);
        let paused = began.elapsed();
        self.signal(Signal::CONT)?;
        Ok(paused)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.server.0);
        kill_process(pid, signal).context("the server has ended")
    }

    /// What the server holds now.
    ///
    /// # Errors
    /// It has ended.
    pub fn server(&self) -> anyhow::Result<Holds> {
        holds(self.server.0.id())
    }

    /// What server and proxy hold when no client is connected any more, less the connections between the two that the
    /// proxy keeps for the next clients: how many these are is its own business.
    ///
    /// # Errors
    /// Either has ended, or still has others after a minute.
    pub fn at_rest(&self) -> anyhow::Result<(Holds, Holds)> {
        let mut kept = 0;
        wait("the last clients' connections to end", || {
            let clients = self.proxy_says("show stat front 1 -1", ',', "scur")?;
            kept = self.proxy_says("show servers conn back", ' ', "idle_cur")?;
            match self.ask(self.generation, Request::Status {})? {
                Answer::Status(status) => Ok(clients == 0 && u64::from(status.connections) == kept),
                other => bail!("`status` was answered with {other:?}"),
            }
        })?;
        Ok((
            least(self.server.0.id(), kept)?,
            least(self.proxy.0.id(), kept)?,
        ))
    }

    /// A number that the proxy says of itself, by the name of its column.
    fn proxy_says(&self, command: &str, separator: char, name: &str) -> anyhow::Result<u64> {
        let mut socket = UnixStream::connect(self.folder.path().join("haproxy.sock"))?;
        writeln!(socket, "{command}")?;
        let answer = io::read_to_string(socket)?;
        let mut lines = answer.trim_start_matches("# ").lines();
        let mut fields = || lines.next().unwrap_or_default().split(separator);
        let column = fields().position(|column| column == name);
        let value = column.and_then(|at| fields().nth(at)?.parse().ok());
        value.with_context(|| format!("HAProxy does not say `{name}`: {answer}"))
    }

    fn ask(&self, generation: u32, request: Request) -> anyhow::Result<Answer> {
        let path = control_socket(self.folder.path(), generation);
        control::ask(&path, request, PATIENCE)
            .with_context(|| format!("asking process {generation} for {request:?}"))
    }

    fn await_role(&self, generation: u32, role: Role) -> anyhow::Result<()> {
        wait(&format!("process {generation} to be {role:?}"), || {
            let answer = self.ask(generation, Request::Status {});
            Ok(matches!(answer, Ok(Answer::Status(Status { role: is, .. })) if is == role))
        })
    }

    /// Through the proxy.
    fn await_health(&self) -> anyhow::Result<()> {
        wait("the proxy to reach the server", || {
            Ok(ask::get(self.address, "/health", API_KEY).is_ok())
        })
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > PATIENCE {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn control_socket(folder: &Path, generation: u32) -> PathBuf {
    folder.join(format!("{generation}.control"))
}

fn spawn_server(
    program: &Path,
    folder: &Path,
    public_key: &str,
    engine: &str,
    generation: u32,
) -> anyhow::Result<Process> {
    let log = fs::File::create(folder.join(format!("{generation}.log")))?;
    let spawned = Command::new(program)
        .args(["serve", "--listen"])
        // The public socket is named by the environment; this one is for nobody.
        .arg(format!("unix:{}/unused.sock", folder.display()))
        .env_clear()
        .env("PORTER_INET_SOCKET", folder.join("inet.sock"))
        .env("PORTER_HANDOVER_SOCKET", folder.join("handover.sock"))
        .env("PORTER_CONTROL_SOCKET", control_socket(folder, generation))
        .env("REALTIME_DATA_DIR", folder)
        .env("REALTIME_ENGINE_URL", engine)
        .env("REALTIME_API_KEYS", API_KEY)
        .env("REALTIME_SIGNING_KEYS_1_METHOD", "EdDSA")
        .env("REALTIME_SIGNING_KEYS_1_KEY", public_key)
        .stdin(Stdio::null())
        .stdout(log)
        .spawn();
    Ok(Process(spawned.with_context(|| {
        format!("{} can't be run", program.display())
    })?))
}

fn spawn_proxy(folder: &Path, listener: &TcpListener) -> anyhow::Result<Process> {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let configuration = PROXY
        .replace("{folder}", &folder.display().to_string())
        .replace("{fd}", &listener.as_raw_fd().to_string())
        // Two descriptors for each connection.
        .replace("{maxconn}", &((maximum - 200) / 2).to_string());
    let file = folder.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    fcntl_setfd(listener, FdFlags::empty()).context("a listener can't be inherited")?;
    let spawned = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    Ok(Process(spawned.context("haproxy can't be run")?))
}

/// What a process holds, less so many descriptors. It was asked just now, and may not have closed that connection yet, so
/// the least of some looks counts.
fn least(pid: u32, kept: u64) -> anyhow::Result<Holds> {
    let mut least = holds(pid)?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        least.descriptors = least.descriptors.min(holds(pid)?.descriptors);
    }
    least.descriptors -= kept;
    Ok(least)
}

fn holds(pid: u32) -> anyhow::Result<Holds> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let rss_kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("process {pid} has no resident memory"))?;
    Ok(Holds {
        pid,
        rss_kib,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}
