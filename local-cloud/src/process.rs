//! Processes, told apart for certain: a process id alone may belong to somebody else by the time it is used.

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Environment variable that every process of a local cloud carries; its value is the cloud's state directory. It is not
/// part of the exported variables, so a shell that uses the cloud is never taken for a part of it.
pub const OWNER: &str = "PORTER_LOCAL_OWNER";

/// A process: its id and when it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Start time.
    pub started: u64,
}

impl Process {
    /// The running process with this id; none when it has ended (a zombie has ended).
    pub fn running(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// This process.
    pub fn current() -> Option<Self> {
        Self::running(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::running(self.pid) == Some(self)
    }

    /// Whether this very process, and no other one, listens on an IPv4 port of this machine.
    pub fn listens_on(self, port: u16) -> bool {
        let Ok(table) = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid)) else {
            return false;
        };
        let sockets: Vec<String> = listeners(&table, port)
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return false;
        };
        descriptors
            .flatten()
            .filter_map(|d| fs::read_link(d.path()).ok())
            .any(|target| sockets.iter().any(|s| target == Path::new(s)))
    }

    /// Sends a signal, when it still is the same process.
    pub fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended since: then the wish is fulfilled.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Inodes of the sockets that listen on this port, in a `/proc/net/tcp`: address in the second column, state in the
/// fourth (`0A` listens), inode in the tenth.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = &str> {
    let end = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&end) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).copied()).flatten()
    })
}

fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The command name may contain anything, also spaces and parentheses: fields count from the last one.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Every running process whose environment names this state directory as its owner.
pub fn owned_by(state: &Path) -> Vec<Process> {
    let mark = [OWNER.as_bytes(), b"=", state.as_os_str().as_encoded_bytes()].concat();
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| u32::try_from(pid) != Ok(own))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|&b| b == 0).any(|line| line == mark))
        })
        .filter_map(Process::running)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_confusing_name_is_read_right() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
    }

    #[test]
    fn a_port_belongs_to_the_process_that_listens_on_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::running(i32::try_from(other.id()).unwrap()).unwrap();
        assert!(Process::current().unwrap().listens_on(port));
        assert!(!process.listens_on(port));
        drop(listener);
        assert!(!Process::current().unwrap().listens_on(port));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn only_marked_processes_are_ours_and_a_reused_id_is_not_the_same_process() {
        let state = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(OWNER, state.path())
            .spawn()
            .unwrap();
        let process = Process::running(i32::try_from(child.id()).unwrap()).unwrap();
        let wait = std::time::Instant::now();
        // Between fork and exec the child still shows this test's environment.
        while owned_by(state.path()) != [process] {
            assert!(
                wait.elapsed().as_secs() < 10,
                "the marked process is not found"
            );
            std::thread::yield_now();
        }
        let impostor = Process {
            started: process.started + 1,
            ..process
        };
        impostor.signal(Signal::KILL);
        assert!(process.is_alive() && !impostor.is_alive());
        process.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!process.is_alive() && owned_by(state.path()).is_empty());
    }
}
