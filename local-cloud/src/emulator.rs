//! The AWS endpoint: MiniStack, a program from PyPI that we did not write, pinned, in a private virtual environment,
//! on loopback only.

use crate::{
    process::{OWNER, Process},
    query::Endpoint,
};
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// MiniStack and everything it pulls in, at the versions this was tested with.
const PINNED: &str = include_str!("requirements.txt");
/// Starts it, with one action added.
const LAUNCHER: &str = include_str!("launcher.py");
/// A first import of everything may have to read it all from a slow disk.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// Ports that are tried.
const ATTEMPTS: usize = 5;

/// A running MiniStack. It ends when this value is dropped, and with the process that started it.
#[derive(Debug)]
pub struct Emulator {
    process: Process,
    url: String,
    stop: mpsc::Sender<()>,
    keeper: Option<thread::JoinHandle<()>>,
    _files: Option<tempfile::TempDir>,
}

impl Emulator {
    /// Starts an emulator for a test: files in a temporary directory, virtual environment in the user's cache.
    ///
    /// # Errors
    /// See [`install`] and [`Emulator::start_in`].
    pub async fn start() -> Result<Self> {
        let cache = crate::place::Place::from_env("test")?.cache;
        let python =
            tokio::task::spawn_blocking(move || install(&cache, &|line| eprintln!("{line}")))
                .await??;
        let files = tempfile::Builder::new()
            .prefix("porter-emulator-")
            .tempdir()?;
        let mut emulator = Self::start_in(
            &python,
            files.path(),
            &files.path().join("emulator.log"),
            files.path(),
        )
        .await?;
        emulator._files = Some(files);
        Ok(emulator)
    }

    /// Starts an emulator with this interpreter, its files in `dir`, and waits until it is healthy. `owner` marks its
    /// process.
    ///
    /// # Errors
    /// It ends early or isn't healthy in time; the error has the last lines of its log.
    pub async fn start_in(python: &Path, dir: &Path, log: &Path, owner: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut last = None;
        // Between choosing a free port and binding it somebody else may take it, such as another emulator of this kind.
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match Self::on_port(python, port, dir, log, owner).await {
                Ok(emulator) => return Ok(emulator),
                Err(e) => last = Some(e),
            }
        }
        Err(last.context("the emulator was not started")?)
    }

    async fn on_port(
        python: &Path,
        port: u16,
        dir: &Path,
        log: &Path,
        owner: &Path,
    ) -> Result<Self> {
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        let launcher = dir.join("launcher.py");
        fs::write(&launcher, LAUNCHER)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(python)
            .arg(&launcher)
            .env_clear()
            .envs(env::var_os("PATH").map(|p| ("PATH", p)))
            .env("LANG", "C.UTF-8")
            .env("HOME", dir)
            .env("TMPDIR", dir)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("MINISTACK_HOST", "127.0.0.1")
            .env("STATE_DIR", dir.join("state"))
            .env("S3_DATA_DIR", dir.join("s3"))
            // Listeners of its own that nothing here uses.
            .env("IOT_MTLS_ENABLED", "0")
            .env("SFTP_ENABLED", "0")
            // It would remove containers of other MiniStacks on this machine.
            .env("DOCKER_HOST", "unix:///nonexistent")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(OWNER, owner)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let (process, stop, keeper) = keep(command)?;
        let url = format!("http://127.0.0.1:{port}");
        let emulator = Self {
            process,
            url,
            stop,
            keeper: Some(keeper),
            _files: None,
        };
        let endpoint = Endpoint::new(&emulator.url);
        let begun = Instant::now();
        loop {
            // What answers may be somebody else's emulator, while ours is about to say that its port is taken.
            if let Ok((200, body)) = endpoint.get("/_ministack/health").await
                && body.contains("\"services\"")
                && process.listens_on(port)
            {
                return Ok(emulator);
            }
            if !emulator.is_alive() {
                bail!(
                    "MiniStack ended before it was healthy; the end of {}:\n{}",
                    log.display(),
                    tail(log, 15)
                );
            }
            if begun.elapsed() > HEALTHY_WITHIN {
                bail!(
                    "MiniStack was not healthy within {} s; the end of {}:\n{}",
                    HEALTHY_WITHIN.as_secs(),
                    log.display(),
                    tail(log, 15)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> &str {
        &self.url
    }

    /// MiniStack's process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// SDK configuration that leads here, with the credentials that everybody uses with emulators.
    pub async fn sdk_config(&self, region: &str) -> aws_config::SdkConfig {
        sdk_config(&self.url, region).await
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// SDK configuration for an emulator's endpoint.
pub async fn sdk_config(endpoint: &str, region: &str) -> aws_config::SdkConfig {
    let credentials =
        aws_sdk_s3::config::Credentials::new("test", "test", None, None, "porter local cloud");
    aws_config::defaults(aws_config::BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(aws_config::Region::new(region.to_owned()))
        .credentials_provider(credentials)
        .load()
        .await
}

/// Starts a process from a thread that lives as long as it shall: the signal on a parent's death is that of the
/// parent's *thread*.
fn keep(mut command: Command) -> Result<(Process, mpsc::Sender<()>, thread::JoinHandle<()>)> {
    let (started_tx, started) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let keeper = thread::spawn(move || match command.spawn() {
        Ok(mut child) => {
            let _ = started_tx.send(Ok(child.id()));
            // Also when the sender is gone.
            loop {
                match stopped.recv_timeout(Duration::from_millis(500)) {
                    Err(mpsc::RecvTimeoutError::Timeout)
                        if matches!(child.try_wait(), Ok(None)) => {}
                    _ => break,
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        Err(e) => {
            let _ = started_tx.send(Err(e));
        }
    });
    let pid = i32::try_from(started.recv()?.context("setpriv")?)?;
    let process = Process::running(pid).context("MiniStack ended at once")?;
    Ok((process, stop, keeper))
}

/// Creates the private virtual environment below `cache`, unless it is complete, and returns its interpreter. Tells
/// `progress` before something that takes long.
///
/// # Errors
/// Python or pip failed; the error has their last lines.
pub fn install(cache: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let version = version();
    let dir = cache.join(format!("ministack-{version}"));
    let (python, complete) = (dir.join("bin/python"), dir.join("porter-complete"));
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    // Two that start at once share one installation.
    let lock = fs::File::open(cache)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let works = || {
        Command::new(&python)
            .args(["-c", "import ministack"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if fs::read_to_string(&complete).is_ok_and(|c| c == PINNED) && works() {
        return Ok(python);
    }
    progress(&format!(
        "installing MiniStack {version}, the AWS endpoint, into {} (once)",
        dir.display()
    ));
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&dir))?;
    let list = dir.join("requirements.txt");
    fs::write(&list, PINNED)?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--only-binary",
        ":all:",
    ]);
    run(pip
        .arg("-c")
        .arg(&list)
        .arg(format!("ministack=={version}")))?;
    fs::write(&complete, PINNED)?;
    Ok(python)
}

/// Removes the virtual environment from the cache, and the cache when nothing else is in it.
///
/// # Errors
/// It can't be removed.
pub fn uninstall(cache: &Path) -> Result<()> {
    let dir = cache.join(format!("ministack-{}", version()));
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    let _ = fs::remove_dir(cache);
    Ok(())
}

fn version() -> &'static str {
    PINNED
        .lines()
        .find_map(|l| l.strip_prefix("ministack=="))
        .unwrap_or_default()
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| shown.clone())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    bail!(
        "{shown}: {}\n{}",
        output.status,
        lines[lines.len().saturating_sub(12)..].join("\n")
    )
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_emulator_on_a_port_that_was_taken_meanwhile_is_not_mistaken_for_the_one_that_took_it()
     {
        let first = Emulator::start().await.unwrap();
        let port = first
            .endpoint()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let cache = crate::place::Place::from_env("test").unwrap().cache;
        let python = install(&cache, &|_| {}).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let second = Emulator::on_port(&python, port, dir.path(), &log, dir.path()).await;
        assert!(second.unwrap_err().to_string().contains("already in use"));
        assert!(first.is_alive());
    }
}
