//! Processes of the service under test, and what their leader asks of them.

use crate::keeper::{self, Act};
use handover::{
    End, Receipt, Side,
    control::{self, Answer, Request, Role, Status},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// After this a condition will not come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, never for time.
pub fn condition(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn name(side: Side) -> &'static str {
    match side {
        Side::Predecessor => "old",
        Side::Successor => "new",
    }
}

pub struct Service {
    folder: TempDir,
    patient: bool,
}

pub struct Process {
    pub name: String,
    child: Child,
}

/// An order under way.
pub struct Order(Receiver<Answer>);

impl Order {
    /// Whether it has been answered: a handover that did not come about.
    pub fn has_failed(&self) -> bool {
        matches!(self.0.try_recv(), Ok(Answer::Receipt(receipt)) if receipt.end == End::Failed)
    }

    pub fn wait(self) -> Answer {
        self.0.recv_timeout(PATIENCE).unwrap()
    }
}

impl Service {
    /// Patient processes have the default deadlines, others short ones.
    pub fn new(patient: bool) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            patient,
        }
    }

    pub fn let_everyone_in(&self) {
        let everyone = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.folder.path(), everyone).unwrap();
    }

    pub fn copy_of_this_program(&self) -> PathBuf {
        let copy = self.path("program");
        // By another process: whatever a thread of this one forks meanwhile must not hold the copy open for writing.
        let copied = Command::new("cp")
            .arg(std::env::current_exe().unwrap())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn inet(&self) -> PathBuf {
        self.path("inet.sock")
    }

    pub fn port(&self) -> u16 {
        std::fs::read_to_string(self.path("port"))
            .unwrap()
            .parse()
            .unwrap()
    }

    pub fn handover(&self) -> PathBuf {
        self.path("handover.sock")
    }

    pub fn control(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.sock"))
    }

    pub fn start(&self, name: &str, act: Act) -> Process {
        self.start_as(Command::new(std::env::current_exe().unwrap()), name, act)
    }

    /// As another container has it: process ids and networks of its own.
    pub fn start_in_other_namespaces(&self, name: &str) -> Process {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--net", "--fork", "--kill-child"]);
        command.arg(std::env::current_exe().unwrap());
        self.start_as(command, name, Act::Nothing)
    }

    fn start_as(&self, mut command: Command, name: &str, act: Act) -> Process {
        if self.patient {
            command.env(keeper::PATIENT, "1");
        }
        let child = command
            .env(keeper::ACT, act.to_text())
            .env(keeper::PORT_FILE, self.path("port"))
            .env("PORTER_INET_SOCKET", self.inet())
            .env("PORTER_HANDOVER_SOCKET", self.handover())
            .env("PORTER_CONTROL_SOCKET", self.control(name))
            .spawn()
            .unwrap();
        let process = Process {
            name: name.to_owned(),
            child,
        };
        self.until(name, |_| true);
        process
    }

    pub fn until_serving(&self, name: &str) {
        self.until(name, |status| status.role == Role::Serving);
    }

    pub fn until(&self, name: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        let mut last = None;
        condition(&format!("the status of `{name}`"), || {
            let path = self.control(name);
            match control::ask(&path, Request::Status {}, Duration::from_secs(5)) {
                Ok(Answer::Status(status)) => {
                    let done = holds(&status);
                    last = Some(status);
                    done
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => false,
            }
        });
        last.unwrap()
    }

    /// A handover in which nothing is stopped; a few times if a crowded machine misses a deadline.
    pub fn take_over(&self, name: &str) -> Receipt {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.order(name, Request::TakeOver {}).wait() {
                Answer::Receipt(receipt) if tries < 5 && has_timed_out(&receipt) => {}
                Answer::Receipt(receipt) => {
                    if receipt.end == End::Taken {
                        self.until_nobody_gives();
                    }
                    return receipt;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whoever takes over may say so before the other one has let go.
    fn until_nobody_gives(&self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let ask = || control::ask(&path, Request::Status {}, Duration::from_secs(5));
            condition(
                "nobody gives",
                || !matches!(ask(), Ok(Answer::Status(status)) if status.role == Role::Giving),
            );
        }
    }

    /// On a thread of its own: whoever is ordered may be stopped or killed.
    pub fn order(&self, name: &str, request: Request) -> Order {
        let (sender, receiver) = channel();
        let path = self.control(name);
        thread::spawn(move || {
            if let Ok(answer) = control::ask(&path, request, PATIENCE) {
                let _ = sender.send(answer);
            }
        });
        Order(receiver)
    }
}

fn has_timed_out(receipt: &Receipt) -> bool {
    let cause = receipt.cause.as_deref().unwrap_or_default();
    receipt.end == End::Failed && cause.contains("did not answer in time")
}

impl Process {
    pub fn side(&self) -> Side {
        match &self.name[..] {
            "old" => Side::Predecessor,
            _ => Side::Successor,
        }
    }

    /// Whether it has stopped itself, at the phase that it was told.
    pub fn is_stopped(&self) -> bool {
        let options = WaitOptions::UNTRACED | WaitOptions::NOHANG;
        waitpid(Some(self.pid()), options)
            .unwrap()
            .is_some_and(|(_, status)| status.stopped())
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.id();
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    }

    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
