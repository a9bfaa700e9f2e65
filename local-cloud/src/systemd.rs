//! The service manager of a simulated host: enough of systemd for the units that packages and templates bring.
//!
//! `systemctl` is a client of the socket [`SOCKET`]: it sends its arguments as a JSON list and gets an [`Answer`].
//! Processes of a unit share a process group, where systemd has a control group.

mod unit;

pub use unit::{KillMode, Kind, Restart, Unit};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, OpenOptions},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixDatagram, UnixListener, UnixStream},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// Where `systemctl` finds the manager.
pub const SOCKET: &str = "/run/systemd/stand-in.sock";
/// Output of services, one file per unit.
pub const LOGS: &str = "/var/log/services";
const PLACES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const MACHINE: [&str; 5] = [
    "containerd.service",
    "docker.service",
    "docker.socket",
    "systemd-journald.service",
    "systemd-sysctl.service",
];
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
const START_WITHIN: Duration = Duration::from_secs(90);
/// A service of type `forking` that has not left the foreground by then is taken for started: the stand-ins don't fork.
const FORK_WITHIN: Duration = Duration::from_secs(5);

/// What `systemctl` prints and ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit status.
    pub code: u8,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    fn out(code: u8, out: impl Into<String>) -> Self {
        Self {
            code,
            out: out.into() + "\n",
            err: String::new(),
        }
    }

    fn err(code: u8, err: impl Into<String>) -> Self {
        Self {
            code,
            out: String::new(),
            err: err.into() + "\n",
        }
    }
}

/// The services that run, by unit name.
#[derive(Default)]
pub struct Manager {
    services: Mutex<HashMap<String, Service>>,
}

#[derive(Clone)]
struct Service {
    state: watch::Receiver<State>,
    wish: Arc<watch::Sender<Wish>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Active(Option<u32>),
    Inactive,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
}

/// Answers `systemctl` until the socket fails.
///
/// # Errors
/// The socket can't be made.
pub async fn serve(manager: Arc<Manager>) -> Result<()> {
    fs::create_dir_all("/run/systemd/notify")?;
    let listener = UnixListener::bind(SOCKET).context(SOCKET)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let manager = Arc::clone(&manager);
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            if BufReader::new(read).read_line(&mut line).await.is_ok()
                && let Ok(args) = serde_json::from_str::<Vec<String>>(&line)
            {
                let answer = manager.systemctl(&args).await;
                // A client that went away needs no answer.
                let _ = write
                    .write_all(&serde_json::to_vec(&answer).unwrap_or_default())
                    .await;
            }
        });
    }
}

/// The client: `systemctl ARGS`.
///
/// # Errors
/// The manager does not answer.
pub async fn systemctl(args: &[String]) -> Result<Answer> {
    let (read, mut write) = UnixStream::connect(SOCKET)
        .await
        .context("Failed to connect to bus")?
        .into_split();
    write
        .write_all((serde_json::to_string(args)? + "\n").as_bytes())
        .await?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

impl Manager {
    /// Starts what is enabled: the multi-user target.
    pub async fn start_enabled(&self) {
        let Ok(entries) = fs::read_dir(WANTS) else {
            return;
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        names.sort();
        for name in names {
            if let Err(e) = self.start(&name).await {
                eprintln!("{name}: {e:#}");
            }
        }
    }

    async fn systemctl(&self, args: &[String]) -> Answer {
        let (flags, words): (Vec<&str>, Vec<&str>) = args
            .iter()
            .map(String::as_str)
            .partition(|a| a.starts_with('-'));
        let Some((verb, names)) = words.split_first() else {
            return Answer::err(1, "systemctl: no command");
        };
        if *verb == "daemon-reload" || *verb == "reset-failed" {
            return Answer::default();
        }
        if names.is_empty() {
            return Answer::err(1, "Too few arguments.");
        }
        let mut last = Answer::default();
        for name in names {
            let name = if name.contains('.') {
                (*name).to_owned()
            } else {
                format!("{name}.service")
            };
            let answer = self.one(verb, &name, &flags).await;
            last.out += &answer.out;
            last.err += &answer.err;
            last.code = last.code.max(answer.code);
        }
        if flags.iter().any(|f| ["-q", "--quiet"].contains(f)) {
            last.out.clear();
        }
        last
    }

    async fn one(&self, verb: &str, name: &str, flags: &[&str]) -> Answer {
        // The engine and the kernel are the machine's: hosts may ask for them, and never change them.
        if MACHINE.contains(&name) {
            return match verb {
                "is-active" => Answer::out(0, "active"),
                "is-enabled" => Answer::out(0, "enabled"),
                _ => Answer::default(),
            };
        }
        let state = self.state(name);
        match verb {
            "is-active" => match state {
                State::Active(_) => Answer::out(0, "active"),
                State::Starting => Answer::out(3, "activating"),
                State::Failed => Answer::out(3, "failed"),
                State::Inactive => Answer::out(3, "inactive"),
            },
            "is-failed" => Answer::out(
                u8::from(state != State::Failed),
                if state == State::Failed {
                    "failed"
                } else {
                    "inactive"
                },
            ),
            "is-enabled" if Path::new(WANTS).join(name).exists() => Answer::out(0, "enabled"),
            "is-enabled" => Answer::out(1, "disabled"),
            "show" => Answer::out(
                0,
                format!(
                    "MainPID={}",
                    if let State::Active(Some(pid)) = state {
                        pid
                    } else {
                        0
                    }
                ),
            ),
            "status" => Answer::out(
                if matches!(state, State::Active(_)) {
                    0
                } else {
                    3
                },
                format!("{name}: {state:?}, log {LOGS}/{name}.log"),
            ),
            "disable" => {
                let _ = fs::remove_file(Path::new(WANTS).join(name));
                if flags.contains(&"--now") {
                    self.stop(name).await
                } else {
                    Answer::default()
                }
            }
            "stop" => self.stop(name).await,
            "enable" | "start" | "restart" | "try-restart" | "reload" | "reload-or-restart" => {
                let active = matches!(state, State::Active(_));
                let result = match verb {
                    "enable" => self.enable(name, flags.contains(&"--now")).await,
                    "start" => self.start(name).await,
                    "try-restart" if !active => Ok(()),
                    "reload" | "reload-or-restart" if active => {
                        self.reload(name, verb == "reload").await
                    }
                    "reload" => Err(anyhow::anyhow!("{name} is not active, cannot reload.")),
                    _ => {
                        self.stop(name).await;
                        self.start(name).await
                    }
                };
                match result {
                    Ok(()) => Answer::default(),
                    Err(e) if e.downcast_ref::<unit::NotFound>().is_some() => {
                        Answer::err(5, format!("Failed to {verb} {name}: {e}"))
                    }
                    Err(e) => Answer::err(
                        1,
                        format!("Job for {name} failed: {e:#}; see {LOGS}/{name}.log"),
                    ),
                }
            }
            other => Answer::err(
                1,
                format!("systemctl {other} is not simulated by the local cloud"),
            ),
        }
    }

    fn services(&self) -> MutexGuard<'_, HashMap<String, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, name: &str) -> State {
        self.services()
            .get(name)
            .map_or(State::Inactive, |s| *s.state.borrow())
    }

    async fn enable(&self, name: &str, now: bool) -> Result<()> {
        let path = find(name)?;
        fs::create_dir_all(WANTS)?;
        let link = Path::new(WANTS).join(name);
        if !link.exists() {
            let _ = fs::remove_file(&link);
            symlink(path, link)?;
        }
        if now { self.start(name).await } else { Ok(()) }
    }

    async fn start(&self, name: &str) -> Result<()> {
        if matches!(self.state(name), State::Active(_)) {
            return Ok(());
        }
        let unit = read(name)?;
        // As with systemd: not a failure.
        if unit
            .conditions
            .iter()
            .any(|(path, absent)| path.exists() == *absent)
        {
            return Ok(());
        }
        let (state_tx, mut state) = watch::channel(State::Starting);
        let (wish, wishes) = watch::channel(Wish::Run);
        self.services().insert(
            name.to_owned(),
            Service {
                state: state.clone(),
                wish: Arc::new(wish),
            },
        );
        tokio::spawn(supervise(name.to_owned(), unit, state_tx, wishes));
        let ended = timeout(START_WITHIN, state.wait_for(|s| *s != State::Starting))
            .await
            .context("it did not start in time")?;
        let state = *ended.context("its supervisor ended")?;
        anyhow::ensure!(state != State::Failed, "it failed");
        Ok(())
    }

    async fn stop(&self, name: &str) -> Answer {
        let service = self.services().get(name).cloned();
        let Some(mut service) = service else {
            return match find(name) {
                Ok(_) => Answer::default(),
                Err(e) => Answer::err(5, format!("Failed to stop {name}: {e}")),
            };
        };
        let _ = service.wish.send(Wish::Stop);
        // The supervisor kills what does not end by itself.
        let _ = service
            .state
            .wait_for(|s| matches!(s, State::Inactive | State::Failed))
            .await;
        Answer::default()
    }

    async fn reload(&self, name: &str, only: bool) -> Result<()> {
        let unit = read(name)?;
        let State::Active(pid) = self.state(name) else {
            anyhow::bail!("it is not active")
        };
        if unit.reload.is_empty() {
            if only {
                anyhow::bail!("Job type reload is not applicable for unit {name}.");
            }
            self.stop(name).await;
            return self.start(name).await;
        }
        for line in &unit.reload {
            run_to_end(name, &unit, line, pid).await?;
        }
        Ok(())
    }
}

fn find(name: &str) -> Result<PathBuf, unit::NotFound> {
    PLACES
        .iter()
        .map(|p| Path::new(p).join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| unit::NotFound(name.to_owned()))
}

fn read(name: &str) -> Result<Unit> {
    let path = find(name)?;
    let mut text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for place in PLACES {
        let Ok(entries) = fs::read_dir(Path::new(place).join(format!("{name}.d"))) else {
            continue;
        };
        let mut drop_ins: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "conf"))
            .collect();
        drop_ins.sort();
        for drop_in in drop_ins {
            text = text + "\n" + &fs::read_to_string(drop_in)?;
        }
    }
    Unit::parse(&text).with_context(|| path.display().to_string())
}

/// Runs a service until somebody wishes it to stop or it ends for good.
async fn supervise(
    name: String,
    unit: Unit,
    state: watch::Sender<State>,
    mut wishes: watch::Receiver<Wish>,
) {
    loop {
        let end = match run_once(&name, &unit, &state, &mut wishes).await {
            Ok(end) => end,
            Err(e) => {
                eprintln!("{name}: {e:#}");
                End::Failed
            }
        };
        let again = match (end, unit.restart) {
            (End::Stopped | End::Oneshot, _) => false,
            (_, Restart::Always) => true,
            (End::Failed, Restart::OnFailure) => true,
            _ => false,
        };
        // A unit whose first start fails is reported as failed, and tried again only by systemctl.
        let first_failed = *state.borrow() == State::Starting;
        if !again || first_failed {
            let kept = end == End::Oneshot && unit.remain_after_exit;
            state.send_replace(match end {
                End::Failed => State::Failed,
                _ if kept => State::Active(None),
                _ => State::Inactive,
            });
            if kept {
                wished_to_stop(&mut wishes).await;
                state.send_replace(State::Inactive);
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(unit.restart_after) => {}
            () = wished_to_stop(&mut wishes) => {
                state.send_replace(State::Inactive);
                return;
            }
        }
    }
}

/// Returns when the service shall stop. A channel that closed means the same: nobody can wish any more.
async fn wished_to_stop(wishes: &mut watch::Receiver<Wish>) {
    let _ = wishes.wait_for(|w| *w == Wish::Stop).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Oneshot,
    Exited,
    Failed,
}

async fn run_once(
    name: &str,
    unit: &Unit,
    state: &watch::Sender<State>,
    wishes: &mut watch::Receiver<Wish>,
) -> Result<End> {
    for dir in &unit.runtime_directories {
        fs::create_dir_all(Path::new("/run").join(dir))?;
    }
    for line in &unit.start_pre {
        run_to_end(name, unit, line, None).await?;
    }
    if unit.kind == Kind::Oneshot {
        for line in &unit.start {
            run_to_end(name, unit, line, None).await?;
        }
        return Ok(End::Oneshot);
    }
    let line = unit.start.first().context("it has no ExecStart")?;
    let notify = Path::new("/run/systemd/notify").join(name);
    let socket = if unit.kind == Kind::Notify {
        let _ = fs::remove_file(&notify);
        Some(UnixDatagram::bind(&notify)?)
    } else {
        None
    };
    let mut child = command(name, unit, line, None)?
        .env("NOTIFY_SOCKET", &notify)
        .spawn()
        .with_context(|| line.clone())?;
    let pid = child.id();
    let started = tokio::select! {
        ended = began(unit, socket, &mut child) => ended?,
        () = wished_to_stop(wishes) => Began::Running,
    };
    let pid = match started {
        Began::Running => pid,
        Began::Forked(pid) => {
            state.send_replace(State::Active(Some(pid)));
            return follow_forked(pid, unit, wishes).await;
        }
        Began::Ended(status) => return Ok(verdict(unit, status)),
    };
    state.send_replace(State::Active(pid));
    tokio::select! {
        status = child.wait() => Ok(verdict(unit, status?)),
        () = wished_to_stop(wishes) => {
            end_group(pid, &mut child, unit).await;
            Ok(End::Stopped)
        }
    }
}

enum Began {
    Running,
    Forked(u32),
    Ended(ExitStatus),
}

async fn began(unit: &Unit, socket: Option<UnixDatagram>, child: &mut Child) -> Result<Began> {
    match (unit.kind, socket) {
        (Kind::Notify, Some(socket)) => {
            let mut buffer = [0; 4096];
            let ready = async {
                loop {
                    let n = socket.recv(&mut buffer).await?;
                    if String::from_utf8_lossy(&buffer[..n])
                        .lines()
                        .any(|l| l == "READY=1")
                    {
                        return anyhow::Ok(());
                    }
                }
            };
            tokio::select! {
                ready = timeout(START_WITHIN, ready) => {
                    ready.context("it did not say that it is ready")??;
                    Ok(Began::Running)
                }
                status = child.wait() => Ok(Began::Ended(status?)),
            }
        }
        (Kind::Forking, _) => match timeout(FORK_WITHIN, child.wait()).await {
            Err(_) => Ok(Began::Running),
            Ok(status) => {
                let status = status?;
                let pid = unit
                    .pid_file
                    .as_ref()
                    .and_then(|p| fs::read_to_string(p).ok()?.trim().parse().ok());
                Ok(if status.success() {
                    pid.map_or(Began::Ended(status), Began::Forked)
                } else {
                    Began::Ended(status)
                })
            }
        },
        _ => Ok(Began::Running),
    }
}

async fn follow_forked(pid: u32, unit: &Unit, wishes: &mut watch::Receiver<Wish>) -> Result<End> {
    let alive = || Path::new(&format!("/proc/{pid}")).exists();
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("pid")?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                if !alive() {
                    return Ok(End::Exited);
                }
            }
            () = wished_to_stop(wishes) => break,
        }
    }
    let _ = kill_process(raw, Signal::TERM);
    let waited = async {
        while alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(unit.stop_within, waited).await.is_err() {
        let _ = kill_process(raw, Signal::KILL);
    }
    Ok(End::Stopped)
}

fn verdict(unit: &Unit, status: ExitStatus) -> End {
    let code = status.code();
    if status.success() || code.is_some_and(|c| unit.success_status.contains(&c)) {
        End::Exited
    } else {
        End::Failed
    }
}

async fn end_group(pid: Option<u32>, child: &mut Child, unit: &Unit) {
    let Some(group) = pid
        .and_then(|p| i32::try_from(p).ok())
        .and_then(Pid::from_raw)
    else {
        return;
    };
    // A process that has just ended needs no signal.
    let main = |signal| kill_process(group, signal).unwrap_or_default();
    let all = |signal| kill_process_group(group, signal).unwrap_or_default();
    if unit.kill_mode == KillMode::Group {
        all(unit.stop_signal)
    } else {
        main(unit.stop_signal)
    }
    if timeout(unit.stop_within, child.wait()).await.is_err() {
        main(Signal::KILL);
        let _ = child.wait().await;
    }
    if unit.kill_mode != KillMode::Process {
        // What the main process left of its group.
        all(Signal::KILL);
    }
}

async fn run_to_end(name: &str, unit: &Unit, line: &str, main: Option<u32>) -> Result<()> {
    let tolerant = line
        .trim_start_matches(['@', '+', '!', ':'])
        .starts_with('-');
    let status = command(name, unit, line, main)?
        .status()
        .await
        .with_context(|| line.to_owned());
    match status {
        Ok(status) if !status.success() && !tolerant => anyhow::bail!("`{line}`: {status}"),
        Err(e) if !tolerant => Err(e),
        _ => Ok(()),
    }
}

fn command(name: &str, unit: &Unit, line: &str, main: Option<u32>) -> Result<Command> {
    let mut variables: BTreeMap<String, String> = unit.environment.clone();
    for (path, optional) in &unit.environment_files {
        match fs::read_to_string(path) {
            Ok(text) => variables.extend(unit::assignments(&text)),
            Err(_) if *optional => {}
            Err(e) => anyhow::bail!("{}: {e}", path.display()),
        }
    }
    if let Some(pid) = main {
        variables.insert("MAINPID".into(), pid.to_string());
    }
    let words = unit::words(line, &variables)?;
    let (program, args) = words.split_first().context("an empty command line")?;
    fs::create_dir_all(LOGS)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(Path::new(LOGS).join(format!("{name}.log")))?;
    let mut command = match &unit.user {
        Some(user) if user != "root" => {
            let mut c = Command::new("setpriv");
            c.args([
                "--reuid",
                user,
                "--regid",
                unit.group.as_deref().unwrap_or(user),
                "--init-groups",
            ])
            .arg(program);
            c
        }
        _ => Command::new(program),
    };
    command
        .args(args)
        .envs(&variables)
        .current_dir(unit.working_directory.as_deref().unwrap_or(Path::new("/")))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}
