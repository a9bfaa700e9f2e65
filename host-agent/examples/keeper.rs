//! A service whose connections survive its replacement, for the host agent's tests: HTTP on Unix sockets, and after an
//! upgrade (`GET /echo`) every line comes back with its number, from the same connection in whatever process.
//!
//! `--version V` what `/` answers; `--schema N` of its connections' state; `--die-at PHASE` of taking over; `--die-after
//! PHASE` the same, a moment later; `--hang-at PHASE` never says another word of it; `--die-giving PHASE` of giving;
//! `--descriptors N` may have so many; `--sick` unhealthy once it has taken over; `--slow-ms N` waits when it is asked to give.
//! It ends with SIGTERM.

use handover::{
    Failure, Phase, Schemas, Settings, Side,
    control::Role,
    desk::{Desk, Event},
    place::{self, Place},
    predecessor::Asked,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, retry_on_intr, write},
    net::{Shutdown, SocketFlags, accept_with, shutdown},
    process::{Resource, Rlimit, setrlimit},
};
use serde::{Deserialize, Serialize};
use std::{
    env,
    error::Error,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Duration,
};

const HEALTH: &str = "health";

fn option(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|a| a != name);
    arguments.next()?;
    Some(arguments.next().unwrap_or_default())
}

#[derive(Default, Serialize, Deserialize)]
struct Client {
    private: bool,
    upgraded: bool,
    lines: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Keeper {
    desk: Desk,
    place: Place,
    listeners: Vec<(String, OwnedFd)>,
    clients: Vec<(OwnedFd, Client)>,
    version: String,
    status: &'static str,
}

fn main() -> Result<(), Box<dyn Error>> {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::terminate())
                .expect("a handler")
                .recv()
                .await;
        });
        eprintln!("told to end");
        // Whoever asks just now still gets an answer.
        thread::sleep(Duration::from_millis(500));
        std::process::exit(0);
    });
    let schema = option("--schema").and_then(|n| n.parse().ok()).unwrap_or(1);
    let (at, after) = (option("--die-at"), option("--die-after"));
    let (hang, giving) = (option("--hang-at"), option("--die-giving"));
    if let Some(most) = option("--descriptors").and_then(|n| n.parse().ok()) {
        let (current, maximum) = (Some(most), Some(most));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    let watch = move |side: Side, phase: Phase| {
        let here = |wanted: &Option<String>| wanted.as_deref() == Some(phase.name());
        if side == Side::Successor && here(&at) {
            eprintln!("dies at {phase}");
            std::process::exit(3);
        }
        if side == Side::Predecessor && here(&giving) {
            std::process::exit(3);
        }
        if side == Side::Successor && here(&hang) {
            thread::sleep(Duration::from_secs(3600));
        }
        if side == Side::Successor && here(&after) {
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(300));
                eprintln!("dies");
                std::process::exit(3);
            });
        }
    };
    let place = Place::from_environment()?;
    let desk = Desk::watched(Settings::new(Schemas::only(schema)), watch)?;
    let first = !place::is_held(&place.handover)?;
    let mut listeners = Vec::new();
    let mut listen = |name: &str, fd: OwnedFd| listeners.push((name.to_owned(), fd));
    let health = env::var("PORTER_HEALTH_SOCKET")?;
    listen(HEALTH, place::bind(health.as_ref())?.into());
    if first {
        listen(place::HANDOVER, place::bind(&place.handover)?.into());
        listen(
            "inet",
            place::bind(place.inet.as_ref().expect("a public socket"))?.into(),
        );
        desk.note(|status| status.role = Role::Serving);
    }
    desk.obey(place::bind(
        place.control.as_ref().expect("a control socket"),
    )?)?;
    let mut keeper = Keeper {
        desk,
        place,
        listeners,
        clients: Vec::new(),
        version: option("--version").unwrap_or_default(),
        status: "200 OK",
    };
    loop {
        keeper.turn()?;
        while let Some(event) = keeper.desk.next() {
            match event {
                Event::Asked(asked) => keeper.give(*asked),
                Event::TakeOver => keeper.take_over().unwrap_or_else(|e| eprintln!("{e}")),
                Event::Precopy(_) => {}
                Event::Retire => return Ok(()),
            }
        }
    }
}

fn travels(name: &str) -> bool {
    name != HEALTH
}

impl Keeper {
    fn take_over(&mut self) -> Result<(), Failure> {
        let taken = self.desk.take_over(&self.place.handover, Ok)?;
        self.listeners.extend(taken.listeners);
        self.clients.extend(taken.connections);
        if option("--sick").is_some() {
            self.status = "503 Service Unavailable";
        }
        Ok(())
    }

    fn give(&mut self, asked: Asked) {
        let slow = option("--slow-ms")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        thread::sleep(Duration::from_millis(slow));
        let listeners = self.listeners.iter().filter(|(name, _)| travels(name));
        let listeners: Vec<_> = listeners
            .map(|(name, fd)| (&name[..], fd.as_fd()))
            .collect();
        let clients = self.clients.iter().filter(|(_, client)| !client.private);
        let clients: Vec<_> = clients.map(|(fd, client)| (fd, client)).collect();
        let given = asked.give(&listeners, &[], clients);
        if self.desk.gave(given) {
            self.listeners.retain(|(name, _)| !travels(name));
            self.clients.retain(|(_, client)| client.private);
        }
    }

    fn turn(&mut self) -> Result<(), Errno> {
        let public = |(_, client): &&(OwnedFd, Client)| !client.private;
        let travelling = self.listeners.iter().filter(|(name, _)| travels(name));
        self.desk.counts(
            travelling.count(),
            self.clients.iter().filter(public).count(),
        );
        let mut fds = vec![PollFd::new(&self.desk, PollFlags::IN)];
        fds.extend(
            self.listeners
                .iter()
                .map(|(_, fd)| PollFd::new(fd, PollFlags::IN)),
        );
        fds.extend(self.clients.iter().map(|(fd, client)| {
            let full = !client.output.is_empty();
            PollFd::new(fd, if full { PollFlags::OUT } else { PollFlags::IN })
        }));
        retry_on_intr(|| poll(&mut fds, None))?;
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut of_clients = ready[1 + self.listeners.len()..].iter();
        let (version, status) = (&self.version, self.status);
        self.clients.retain_mut(|(fd, client)| {
            let turn = of_clients.next().is_some_and(|ready| *ready);
            let mut turned = || client.turn(fd, version, status);
            let ended = turn && matches!(turned(), Err(error) if error != Errno::AGAIN);
            ended.then(|| shutdown(fd, Shutdown::Both)).is_none()
        });
        let listeners = self.listeners.iter().zip(&ready[1..]);
        for ((name, listener), _) in listeners.filter(|(_, ready)| **ready) {
            while let Ok(fd) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                match &name[..] {
                    place::HANDOVER => self.desk.successor(fd.into()),
                    name => self.clients.push((
                        fd,
                        Client {
                            private: name == HEALTH,
                            ..Client::default()
                        },
                    )),
                }
            }
        }
        Ok(())
    }
}

impl Client {
    fn turn(&mut self, fd: &OwnedFd, version: &str, status: &str) -> Result<(), Errno> {
        let mut bytes = [0; 4096];
        if self.output.is_empty() {
            match read(fd, &mut bytes)? {
                0 => return Err(Errno::PIPE),
                count => self.input.extend_from_slice(&bytes[..count]),
            }
        }
        let end: &[u8] = if self.upgraded { b"\n" } else { b"\r\n\r\n" };
        while let Some(at) = self.input.windows(end.len()).position(|w| w == end) {
            let request: Vec<u8> = self.input.drain(..at + end.len()).collect();
            if self.upgraded {
                self.lines += 1;
                self.output
                    .extend(format!("{version} {}: ", self.lines).bytes());
                self.output.extend(request);
            } else if request.starts_with(b"GET /echo ") {
                self.upgraded = true;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
                self.output.extend(answer.bytes());
                break;
            } else {
                let status = if request.starts_with(b"GET /health ") {
                    status
                } else {
                    "200 OK"
                };
                let length = version.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{version}");
                self.output.extend(head.bytes());
            }
        }
        let written = write(fd, &self.output)?;
        self.output.drain(..written);
        Ok(())
    }
}
