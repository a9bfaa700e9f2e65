//! An AWS endpoint that we did not write: MiniStack, at the version and in the place that the local cloud pins, on loopback
//! only. Not through the crate of the local cloud: it would bring SDKs of ten services into every build of these tests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// MiniStack and everything that it needs.
const PINNED: &str = include_str!("../../../local-cloud/src/requirements.txt");

/// A first import of everything may have to read it all from a slow disk.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// A running MiniStack; ended when dropped.
pub struct Emulator {
    child: Child,
    port: u16,
    _files: TempDir,
}

impl Emulator {
    /// Starts one that knows nothing.
    pub fn start() -> Self {
        let python = python();
        // Between choosing a free port and binding it somebody else may take it.
        let started = (0..5).find_map(|_| Self::on_free_port(&python));
        started.expect("MiniStack is healthy in time")
    }

    fn on_free_port(python: &Path) -> Option<Self> {
        let files = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let dir = files.path();
        let log = std::fs::File::create(dir.join("log")).expect("a file");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(python)
            .args(["-m", "ministack"])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
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
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a twin"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let mut emulator = Self {
            child,
            port,
            _files: files,
        };
        let begun = Instant::now();
        while begun.elapsed() < HEALTHY_WITHIN {
            if emulator.is_healthy() {
                return Some(emulator);
            }
            if emulator
                .child
                .try_wait()
                .expect("it can be asked")
                .is_some()
            {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(
                b"GET /_ministack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(" 200 ") && answer.contains("\"services\""))
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of the private virtual environment, which is shared with the local cloud and made by whoever comes
/// first.
fn python() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
        PathBuf::from,
    );
    let cache = base.join("porter");
    std::fs::create_dir_all(&cache).expect("a cache");
    let pin = PINNED.lines().find(|line| line.starts_with("ministack=="));
    let pin = pin.expect("MiniStack is pinned");
    let dir = cache.join(pin.replace("==", "-"));
    let (python, complete) = (dir.join("bin/python"), dir.join("porter-complete"));
    let lock = std::fs::File::open(&cache).expect("a cache");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    if std::fs::read_to_string(&complete).is_ok_and(|it| it == PINNED) && python.exists() {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&dir));
    let list = dir.join("requirements.txt");
    std::fs::write(&list, PINNED).expect("written");
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--no-input", "--only-binary", ":all:", "-c"])
        .arg(&list)
        .arg(pin));
    std::fs::write(&complete, PINNED).expect("written");
    python
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}
