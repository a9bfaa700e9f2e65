//! The processes of one service, of which each takes over from the one before it (`docs/handover.md`).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use handover::control::{Answer, Request, Role, Status, ask};
use handover::{End, Receipt};

use super::{PATIENCE, Server};

/// The processes of one service: the one that serves first, and others that may take over.
pub struct Service {
    pub first: Server,
    pub others: Vec<Other>,
    flags: &'static [&'static str],
}

/// One that may take over; ended when dropped.
pub struct Other {
    child: Child,
}

impl Other {
    /// Ends it without a word.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The variables by which a process finds its sockets (`docs/handover.md`).
pub fn environment(dir: &Path, name: &str) -> [(&'static str, PathBuf); 4] {
    [
        ("PORTER_INET_SOCKET", dir.join("inet.sock")),
        ("PORTER_HANDOVER_SOCKET", dir.join("handover.sock")),
        ("PORTER_CONTROL_SOCKET", dir.join(format!("{name}.control"))),
        ("PORTER_HEALTH_SOCKET", dir.join(format!("{name}.health"))),
    ]
}

impl Service {
    /// With the first process only.
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more settings, as [`Server::with`].
    pub fn with(settings: &str) -> Self {
        Self::launch(settings, &[])
    }

    /// With more settings, and flags for every process.
    pub fn launch(settings: &str, flags: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let environment = environment(dir.path(), "first");
        Self {
            first: Server::launch_with(dir, settings, flags, &environment),
            others: Vec::new(),
            flags,
        }
    }

    /// Where their sockets are.
    pub fn dir(&self) -> &Path {
        self.first.dir.path()
    }

    /// Starts another process, which waits.
    pub fn start_other(&mut self, name: &str) {
        self.start_with(name, Command::new(env!("CARGO_BIN_EXE_realtime")));
    }

    /// Starts another process with fewer descriptors than others may have.
    pub fn start_with_descriptors(&mut self, name: &str, descriptors: u32) {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_realtime"));
        self.start_with(name, command);
    }

    fn start_with(&mut self, name: &str, mut command: Command) {
        let child = command
            .args(["serve", "--config"])
            .arg(self.first.path("realtime.toml"))
            .args(self.flags)
            .env_clear()
            .envs(environment(self.dir(), name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server starts");
        self.others.push(Other { child });
        self.await_status(name, |status| status.role == Role::Waiting);
    }

    /// Asks a process over its control socket; `None` if it does not answer.
    pub fn ask(&self, name: &str, request: Request) -> Option<Answer> {
        ask(
            &self.dir().join(format!("{name}.control")),
            request,
            PATIENCE,
        )
        .ok()
    }

    /// Has a process take over, while the caller does other things; `None` if it does not live to tell.
    pub fn order(&self, name: &str) -> JoinHandle<Option<Answer>> {
        let path = self.dir().join(format!("{name}.control"));
        std::thread::spawn(move || ask(&path, Request::TakeOver {}, PATIENCE).ok())
    }

    /// What a process says of itself.
    pub fn status(&self, name: &str) -> Option<Status> {
        match self.ask(name, Request::Status {}) {
            Some(Answer::Status(status)) => Some(status),
            _ => None,
        }
    }

    /// Waits until a process says what is wanted.
    pub fn await_status(&self, name: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = self.status(name);
            match status {
                Some(status) if wanted(&status) => return status,
                status => assert!(begun.elapsed() < PATIENCE, "{name} is {status:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has a process take over, and gives its receipt once the other one has done its part, too: whoever took over may say
    /// so before the other one has let go.
    pub fn take_over(&self, name: &str) -> Receipt {
        let receipt = match self.ask(name, Request::TakeOver {}) {
            Some(Answer::Receipt(receipt)) => receipt,
            other => panic!("no receipt from {name}: {other:?}"),
        };
        // Of one that failed nothing is known: the other process may be stopped.
        if receipt.end == End::Taken {
            self.await_nobody_giving();
        }
        receipt
    }

    /// Waits until no process that answers is in the middle of giving.
    fn await_nobody_giving(&self) {
        for entry in std::fs::read_dir(self.dir()).expect("it can be read") {
            let name = entry.expect("it can be read").file_name();
            let Some(name) = name.to_str().and_then(|it| it.strip_suffix(".control")) else {
                continue;
            };
            let begun = Instant::now();
            while self.status(name).is_some_and(|it| it.role == Role::Giving) {
                assert!(begun.elapsed() < PATIENCE, "{name} does not let go");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Starts a process that takes over at once.
    pub fn swap(&mut self, name: &str) -> Receipt {
        self.start_other(name);
        let receipt = self.take_over(name);
        assert_eq!(receipt.end, End::Taken, "{receipt:?}");
        assert_eq!(receipt.transferred, receipt.offered, "{receipt:?}");
        receipt
    }
}
