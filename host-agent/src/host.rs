//! This host: its settings, its identity, and the doors to everything a swap touches.

use crate::{
    clean::HistoryFile,
    data::Data,
    docker::Engine,
    failure::Failure,
    job::{Stack, StackFile},
    journal::JournalFile,
    machine::{self, Machine},
    queue::Queue,
    seat::Seats,
    signal::Signals,
    store::Bucket,
    traffic::{mover::Mover, proxy::Proxy},
};
use contract::{names::path, step::Step};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long the agent waits for an engine that is not there when it begins.
const ENGINE_STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Where things are. The defaults are those of every host (D-HOST-46); tests run several hosts on one machine.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// State, journal and blobs
    #[arg(long, global = true, env = "PORTER_STATE_DIR", default_value = path::STATE, value_name = "PATH")]
    pub state_dir: PathBuf,
    /// Names the stack; written by cfn-init
    #[arg(long, global = true, env = "PORTER_STACK_FILE", default_value = path::STACK, value_name = "PATH")]
    pub stack_file: PathBuf,
    /// Facts about the machine; optional
    #[arg(long, global = true, env = "PORTER_MACHINE_FILE", default_value = path::MACHINE, value_name = "PATH")]
    pub machine_file: PathBuf,
    /// The container engine
    #[arg(
        long,
        global = true,
        env = "PORTER_DOCKER_SOCKET",
        default_value = "/var/run/docker.sock",
        value_name = "PATH"
    )]
    pub docker_socket: PathBuf,
    /// The proxy's program
    #[arg(
        long,
        global = true,
        env = "PORTER_PROXY_PROGRAM",
        default_value = "/usr/sbin/haproxy",
        value_name = "PATH"
    )]
    pub proxy_program: PathBuf,
    /// The proxy's configuration
    #[arg(long, global = true, env = "PORTER_PROXY_CONFIG", default_value = path::PROXY_CONFIG, value_name = "PATH")]
    pub proxy_config: PathBuf,
    /// The proxy's runtime socket
    #[arg(long, global = true, env = "PORTER_PROXY_SOCKET", default_value = path::PROXY_SOCKET, value_name = "PATH")]
    pub proxy_socket: PathBuf,
    /// The socket of the proxy's master process
    #[arg(long, global = true, env = "PORTER_PROXY_MASTER_SOCKET", default_value = path::PROXY_MASTER_SOCKET, value_name = "PATH")]
    pub proxy_master_socket: PathBuf,
    /// Sockets of containers that hand over their connections; the proxy's root directory
    #[arg(long, global = true, env = "PORTER_SOCKETS_DIR", default_value = path::SOCKETS, value_name = "PATH")]
    pub sockets_dir: PathBuf,
    /// Data of containers that keep any (`data: true`)
    #[arg(long, global = true, env = "PORTER_CONTAINER_DATA_DIR", default_value = path::DATA, value_name = "PATH")]
    pub data_dir: PathBuf,
    /// Command that starts the proxy
    #[arg(
        long,
        global = true,
        env = "PORTER_PROXY_START",
        default_value = "systemctl start haproxy.service",
        value_name = "COMMAND"
    )]
    pub proxy_start: String,
    /// Command that stops the proxy
    #[arg(
        long,
        global = true,
        env = "PORTER_PROXY_STOP",
        default_value = "systemctl stop haproxy.service",
        value_name = "COMMAND"
    )]
    pub proxy_stop: String,
    /// This host's instance id, instead of asking the instance metadata service
    #[arg(long, global = true, env = "PORTER_INSTANCE", value_name = "ID")]
    pub instance: Option<String>,
    /// cfn-hup's record of what it has seen
    #[arg(
        long,
        global = true,
        env = "PORTER_CFN_HUP_RECORD",
        default_value = "/var/lib/cfn-hup/data/metadata_db.json",
        value_name = "PATH"
    )]
    pub cfn_hup_record: PathBuf,
    /// Test aid: stop for ever at `<step>:before` or `<step>:after`
    #[arg(long, global = true, env = "PORTER_TEST_PAUSE_AT", hide = true)]
    pub pause_at: Option<String>,
}

impl Settings {
    /// The proxy with its paths and commands.
    pub fn proxy(&self) -> Proxy {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Proxy {
            program: self.proxy_program.clone(),
            config: self.proxy_config.clone(),
            admin_socket: self.proxy_socket.clone(),
            master_socket: self.proxy_master_socket.clone(),
            start: words(&self.proxy_start),
            stop: words(&self.proxy_stop),
        }
    }

    /// The seats of containers that hand over.
    pub fn seats(&self, machine: &Machine) -> Seats {
        Seats::new(&self.sockets_dir, machine.engine_sockets.as_deref())
    }

    /// The folders of containers that keep data.
    pub fn data(&self, machine: &Machine) -> Data {
        Data::new(&self.data_dir, machine.engine_data.as_deref())
    }

    /// The instance id: given, or told by the instance metadata service.
    ///
    /// # Errors
    /// A sentence when neither is there.
    pub async fn instance(&self) -> Result<String, String> {
        match &self.instance {
            Some(id) => Ok(id.clone()),
            None => machine::instance_id().await,
        }
    }

    /// The instance id for whoever only looks: as the agent found it when it was last at work, so that a look needs no
    /// network, and no variables of the service that runs the agent.
    ///
    /// # Errors
    /// As [`Settings::instance`], when the agent has not been at work here.
    pub async fn known_instance(&self) -> Result<String, String> {
        match crate::files::read(&self.instance_file()) {
            Ok(Some(id)) if self.instance.is_none() => {
                Ok(String::from_utf8_lossy(&id).into_owned())
            }
            _ => self.instance().await,
        }
    }

    fn instance_file(&self) -> PathBuf {
        self.state_dir.join("instance")
    }
}

/// Everything a swap needs.
#[derive(Debug)]
pub struct Host {
    /// Where things are.
    pub settings: Settings,
    /// EC2 instance id.
    pub instance: String,
    /// Addresses and ports.
    pub machine: Machine,
    /// The container engine.
    pub engine: Engine,
    /// The proxy.
    pub proxy: Proxy,
    /// Sockets of containers that hand over.
    pub seats: Seats,
    /// Where containers keep data.
    pub data: Data,
    /// The bucket.
    pub bucket: Bucket,
    /// The stack.
    pub stack: Stack,
    /// The way to the build host.
    pub signals: Signals,
    /// The journal.
    pub journal: JournalFile,
    /// Payloads served before.
    pub history: HistoryFile,
    /// Held as long as this process works on the host (D-HOST-12).
    _lock: File,
}

/// A host, or what is left of one whose container engine is silent: enough to say so.
#[derive(Debug)]
pub enum Opened {
    /// Ready to work.
    Host(Box<Host>),
    /// Only able to report.
    WithoutEngine(Box<WithoutEngine>),
}

/// Enough of a host to report that its container engine does not answer.
#[derive(Debug)]
pub struct WithoutEngine {
    /// EC2 instance id.
    pub instance: String,
    /// The stack.
    pub stack: Stack,
    /// The way to the build host.
    pub signals: Signals,
    /// The journal.
    pub journal: JournalFile,
    /// What the engine did.
    pub failure: Failure,
    _lock: File,
}

impl Host {
    /// Takes the host's lock, waiting for whoever has it, and opens everything.
    ///
    /// # Errors
    /// A sentence for the log: no signal can be sent yet, or, for a silent engine, was sent already.
    pub async fn open(settings: Settings) -> Result<Opened, String> {
        let lock = lock(&settings.state_dir).await?;
        let file = StackFile::read(&settings.stack_file)?;
        let machine = Machine::read(&settings.machine_file)?;
        let aws = aws_config::from_env()
            .region(aws_config::Region::new(file.region.clone()))
            .load()
            .await;
        let instance = settings.instance().await?;
        if let Err(e) = crate::files::replace(&settings.instance_file(), instance.as_bytes()) {
            // Only a look would miss it; what is wrong with the disk is told by the step that needs it.
            tracing::warn!(error = %e, "this host's instance id can't be recorded");
        }
        let stack = Stack::new(&aws, file);
        let signals = Signals::new(Queue::new(&aws), &settings.state_dir);
        let engine = match connect(&settings.docker_socket, &instance).await {
            Ok(engine) => engine,
            Err(failure) => {
                return Ok(Opened::WithoutEngine(Box::new(WithoutEngine {
                    instance,
                    stack,
                    signals,
                    journal: JournalFile::new(&settings.state_dir),
                    failure,
                    _lock: lock,
                })));
            }
        };
        Ok(Opened::Host(Box::new(Self {
            instance,
            seats: settings.seats(&machine),
            data: settings.data(&machine),
            machine,
            engine,
            proxy: settings.proxy(),
            bucket: Bucket::new(&aws),
            stack,
            signals,
            journal: JournalFile::new(&settings.state_dir),
            history: HistoryFile::new(&settings.state_dir),
            settings,
            _lock: lock,
        })))
    }

    /// What moves traffic.
    pub fn traffic(&self) -> Mover<'_> {
        Mover {
            proxy: &self.proxy,
            machine: &self.machine,
            seats: &self.seats,
            state: &self.settings.state_dir,
        }
    }

    /// Lets a test stop the agent at an exact place: the file `paused` in the state directory says that it is there.
    pub async fn pause_at(&self, step: Step, moment: &str) {
        let here = format!("{step}:{moment}");
        if self.settings.pause_at.as_deref() == Some(&here) {
            let _ = fs::write(self.settings.state_dir.join("paused"), &here);
            std::future::pending::<()>().await;
        }
    }
}

/// The engine, which may be about to start: after a reboot, or while a package update restarts it.
async fn connect(socket: &Path, instance: &str) -> Result<Engine, Failure> {
    let until = Instant::now() + ENGINE_STARTS_WITHIN;
    loop {
        match Engine::connect(socket, instance).await {
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(250)).await,
            result => return result,
        }
    }
}

/// Makes the state directory (0700, D-HOST-46) and takes its lock.
async fn lock(state: &Path) -> Result<File, String> {
    let failed = |e: &dyn std::fmt::Display| {
        format!("the state directory {} can't be used: {e}", state.display())
    };
    fs::create_dir_all(state).map_err(|e| failed(&e))?;
    fs::set_permissions(state, fs::Permissions::from_mode(0o700)).map_err(|e| failed(&e))?;
    let file = File::create(state.join("lock")).map_err(|e| failed(&e))?;
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !told {
                    tracing::info!("another host-agent is at work on this host; waiting for it");
                    told = true;
                }
                sleep(Duration::from_millis(200)).await;
            }
            Err(e) => return Err(failed(&e)),
        }
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.message
    }
}
