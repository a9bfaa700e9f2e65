//! Programs that we did not write, and scripts that drive them: `tests/clients` has the scripts, `scripts/setup` installs
//! what they need. What is missing fails the tests; nothing is skipped.

use super::{API_KEYS, SECRET, Server};
use base64::Engine as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a whole script may take on a busy machine.
const SCRIPT: Duration = Duration::from_secs(240);

/// Where `scripts/setup` puts what the tests need.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
        PathBuf::from,
    );
    base.join("porter")
}

/// Where the scripts are.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Something that `scripts/setup` installs.
#[track_caller]
pub fn installed(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run scripts/setup, which installs it",
        path.display()
    );
    path
}

/// A script of Node, which finds `ws`.
pub fn node(script: &str) -> Command {
    let modules = installed(cache().join("node-clients/node_modules/ws"));
    let mut node = Command::new("node");
    node.arg(clients().join(script))
        .env("NODE_PATH", modules.parent().expect("node_modules"));
    node
}

/// What the conversations are told about the server.
pub fn told<'a>(script: &'a mut Command, server: &Server) -> &'a mut Command {
    let secret = base64::engine::general_purpose::STANDARD.encode(SECRET);
    script
        .env("REALTIME_URL", format!("ws://{}/v1", server.address))
        .env("REALTIME_SECRET", secret)
        .env("REALTIME_API_KEY", API_KEYS[0])
        .env("REALTIME_FILE", server.path("realtime.toml"))
        .env("REALTIME_PID", server.pid().to_string())
}

/// Runs a script to its end, hands over every line that it prints, and fails with all that it said.
pub fn keeps_its_promises(script: &mut Command, mut said: impl FnMut(&str)) {
    let mut child = script
        // Of its own, so that a browser ends with its script.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!(
                "{:?}: {e}; run scripts/setup, which installs it",
                script.get_program()
            )
        });
    let (send, lines) = channel();
    let stdout = child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut stderr = child.stderr.take().expect("piped");
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        drop(stderr.read_to_string(&mut text));
        text
    });
    let (end, mut all) = (Instant::now() + SCRIPT, String::new());
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                said(&line);
                all += &line;
                all.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let group = rustix::process::Pid::from_child(&child);
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                break;
            }
        }
    }
    let status = child.wait().expect("it can be waited for");
    let complaints = complaints.join().expect("no panic");
    assert!(
        status.success(),
        "{:?} ended with {status}, after {SCRIPT:?} at most\n{all}{complaints}",
        script.get_args()
    );
    print!("{all}");
}

/// A script of Node that drives Chromium.
pub fn in_a_browser(script: &str) -> Command {
    let chromium = std::env::var_os("CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
    let mut node = node(script);
    node.env("CHROMIUM", installed(chromium.into()));
    node
}

/// A folder for the pictures of a test, which stay when it has ended.
pub fn screenshots(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
