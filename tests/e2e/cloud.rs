//! A local cloud of the tests' own, and the `porter` program pointed at it.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

/// What a finished `porter` said.
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON: {e}\n{}\n{}", self.stdout, self.stderr))
    }

    /// Everything it said, for a failing assertion.
    pub fn all(&self) -> String {
        format!(
            "exit status {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}

pub struct Cloud {
    name: String,
    env: BTreeMap<String, String>,
}

impl Cloud {
    /// Starts it, after cleaning up what a killed run may have left.
    pub fn up(name: &str, hosts: u32) -> Self {
        let bare = Self {
            name: name.to_owned(),
            env: BTreeMap::new(),
        };
        bare.down();
        let said = bare.porter(
            Path::new("/"),
            &[
                "local",
                "up",
                "--hosts",
                &hosts.to_string(),
                "--poll",
                "1s",
                "--region",
                "us-east-1",
                "--region",
                "us-west-2",
                "--output",
                "json",
            ],
        );
        assert_eq!(said.status, 0, "porter local up: {}", said.all());
        let env = said.json()["env"]
            .as_object()
            .expect("env")
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect();
        Self { env, ..bare }
    }

    /// The same cloud for a `porter` that sees one variable otherwise.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut env = self.env.clone();
        env.insert(name.to_owned(), value.to_owned());
        Self {
            name: self.name.clone(),
            env,
        }
    }

    pub fn down(&self) {
        let said = self.porter(Path::new("/"), &["local", "down"]);
        assert_eq!(said.status, 0, "porter local down: {}", said.all());
    }

    /// A variable that `local up` exports.
    pub fn var(&self, name: &str) -> &str {
        self.env
            .get(name)
            .unwrap_or_else(|| panic!("`porter local up` exports no {name}: {:?}", self.env.keys()))
    }

    /// The running hosts, as `porter local status` lists them.
    pub fn hosts(&self) -> Vec<Value> {
        let said = self.porter(Path::new("/"), &["local", "status", "--output", "json"]);
        assert_eq!(said.status, 0, "{}", said.all());
        said.json()["hosts"].as_array().cloned().unwrap_or_default()
    }

    fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_porter"));
        command
            .args(args)
            .current_dir(folder)
            .envs(&self.env)
            .env("PORTER_LOCAL_NAME", &self.name);
        command
    }

    /// Runs `porter` to its end.
    pub fn porter(&self, folder: &Path, args: &[&str]) -> Said {
        let output = self.command(folder, args).output().expect("porter starts");
        Said {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts `porter` and lets the caller watch its progress.
    pub fn porter_watched(&self, folder: &Path, args: &[&str]) -> Watched {
        let mut child = self
            .command(folder, args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("porter starts");
        let (send, lines) = channel();
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Watched {
            child,
            lines,
            seen: vec![],
        }
    }
}

/// A running `porter`.
pub struct Watched {
    child: Child,
    lines: Receiver<(Instant, String)>,
    /// Its progress so far, with the time of each line.
    pub seen: Vec<(Instant, String)>,
}

impl Watched {
    /// Waits until a line of progress holds `text`; when it was said.
    pub fn until(&mut self, text: &str, limit: Duration) -> Instant {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) => {
                    self.seen.push((at, line.clone()));
                    if line.contains(text) {
                        return at;
                    }
                }
                Err(_) => {
                    drop(self.child.kill());
                    panic!(
                        "no line with `{text}` within {limit:?}; said so far:\n{}",
                        self.said()
                    );
                }
            }
        }
    }

    fn said(&self) -> String {
        self.seen
            .iter()
            .map(|(_, l)| l.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("still running");
    }

    /// Waits for its end.
    pub fn end(mut self, limit: Duration) -> Said {
        let end = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break status,
                None if Instant::now() >= end => {
                    drop(self.child.kill());
                    panic!(
                        "porter did not end within {limit:?}; said so far:\n{}",
                        self.said()
                    );
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut stdout = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut pipe, &mut stdout).expect("stdout");
        }
        self.seen.extend(self.lines.iter());
        Said {
            status: status.code().unwrap_or(-1),
            stdout,
            stderr: self.said(),
        }
    }
}
