//! The service under test: answers every line with its number and the line, and stops itself at a phase.

use handover::{
    Deadlines, Phase, Schemas, Settings, Side,
    control::Role,
    desk::{Desk, Event},
    place::{self, Place},
    predecessor::Precopied,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, retry_on_intr, write},
    net::{SocketFlags, accept_with},
    process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit},
};
use serde::{Deserialize, Serialize};
use std::{
    env,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Set for a process of the service: what it does to itself, as [`Act`] in text.
pub const ACT: &str = "HANDOVER_TEST_ACT";
/// Where the first process writes its TCP port.
pub const PORT_FILE: &str = "HANDOVER_TEST_PORT_FILE";

/// Set where nobody is stopped for good: no deadline passes that a crowded machine might miss.
pub const PATIENT: &str = "HANDOVER_TEST_PATIENT";

pub const LONGER_THAN_EVERY_DEADLINE: Duration = Duration::from_millis(3000);

fn settings() -> Settings {
    let settings = Settings::new(Schemas::only(1));
    let (short, long) = match env::var_os(PATIENT) {
        Some(_) => (Duration::from_secs(30), Duration::from_secs(30)),
        None => (Duration::from_millis(700), Duration::from_millis(2000)),
    };
    Settings {
        deadlines: Deadlines {
            hello: long,
            freeze: short,
            batch: short,
            ready: short,
            commit: short,
            frozen: long,
        },
        ..settings
    }
}

/// What a process does to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Nothing,
    /// SIGSTOP, the first time it passes the phase.
    StopAt(Phase),
    /// From the beginning it may open few descriptors.
    HasFewDescriptors,
    /// It may open few descriptors from this phase on.
    LosesDescriptorsAt(Phase),
    /// From the beginning it cannot write a single byte to a file.
    CannotWriteFiles,
}

impl Act {
    pub fn to_text(self) -> String {
        match self {
            Act::Nothing => "nothing".to_owned(),
            Act::StopAt(phase) => format!("stop {phase}"),
            Act::HasFewDescriptors => "few".to_owned(),
            Act::LosesDescriptorsAt(phase) => format!("few {phase}"),
            Act::CannotWriteFiles => "no-files".to_owned(),
        }
    }

    fn from_text(text: &str) -> Self {
        let phase = |name| {
            Phase::ALL
                .into_iter()
                .find(|phase| phase.name() == name)
                .unwrap()
        };
        match text.split_once(' ') {
            Some(("stop", name)) => Act::StopAt(phase(name)),
            Some(("few", name)) => Act::LosesDescriptorsAt(phase(name)),
            None if text == "few" => Act::HasFewDescriptors,
            None if text == "no-files" => Act::CannotWriteFiles,
            _ => Act::Nothing,
        }
    }
}

/// As many as are open, and 40.
fn few_descriptors() {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    limit(Resource::Nofile, open + 40);
}

fn limit(resource: Resource, current: u64) {
    let limit = Rlimit {
        current: Some(current),
        ..getrlimit(resource)
    };
    setrlimit(resource, limit).unwrap();
}

pub struct Child {
    act: Act,
}

#[derive(Default, Serialize, Deserialize)]
struct Client {
    lines: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Child {
    pub fn from_environment() -> Option<Self> {
        let text = env::var(ACT).ok()?;
        Some(Self {
            act: Act::from_text(&text),
        })
    }

    pub fn run(self) {
        let done = AtomicBool::new(false);
        let desk = Desk::watched(settings(), move |_: Side, phase| match self.act {
            Act::StopAt(at) if at == phase && !done.swap(true, Ordering::Relaxed) => {
                kill_process(getpid(), Signal::STOP).unwrap();
            }
            Act::LosesDescriptorsAt(at) if at == phase => few_descriptors(),
            _ => {}
        })
        .unwrap();
        let place = Place::from_environment().unwrap();
        let mut listeners: Vec<(String, OwnedFd)> = Vec::new();
        let mut clients: Vec<(OwnedFd, Client)> = Vec::new();
        if !place::is_held(&place.handover).unwrap() {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            tcp.set_nonblocking(true).unwrap();
            let port_file = PathBuf::from(env::var_os(PORT_FILE).unwrap());
            std::fs::write(port_file, tcp.local_addr().unwrap().port().to_string()).unwrap();
            for (name, fd) in [
                (
                    place::HANDOVER,
                    place::bind(&place.handover).unwrap().into(),
                ),
                (
                    "unix",
                    place::bind(place.inet.as_ref().unwrap()).unwrap().into(),
                ),
                ("tcp", tcp.into()),
            ] {
                listeners.push((name.to_owned(), fd));
            }
            desk.note(|status| status.role = Role::Serving);
        }
        let control = place::bind(place.control.as_ref().unwrap()).unwrap();
        desk.obey(control).unwrap();
        match self.act {
            Act::HasFewDescriptors => few_descriptors(),
            // Whoever tries is killed by SIGXFSZ.
            Act::CannotWriteFiles => limit(Resource::Fsize, 0),
            _ => {}
        }
        loop {
            while let Some(event) = desk.next() {
                match event {
                    Event::Asked(asked) => {
                        let fds: Vec<_> = listeners
                            .iter()
                            .map(|(name, fd)| (&name[..], fd.as_fd()))
                            .collect();
                        let states = clients.iter().map(|(fd, client)| (fd, client));
                        if desk.gave(asked.give(&fds, b"shared", states)) {
                            listeners.clear();
                            clients.clear();
                        }
                    }
                    Event::TakeOver => match desk.take_over(&place.handover, Ok) {
                        Ok(taken) => {
                            listeners = taken.listeners;
                            clients = taken.connections;
                        }
                        Err(failure) => eprintln!("{failure}"),
                    },
                    Event::Precopy(precopy) => precopy.give(Precopied {
                        bytes: b"in advance".to_vec(),
                        mark: 0,
                    }),
                    Event::Retire => return,
                }
            }
            desk.counts(listeners.len(), clients.len());
            turn(&desk, &listeners, &mut clients);
        }
    }
}

fn turn(desk: &Desk, listeners: &[(String, OwnedFd)], clients: &mut Vec<(OwnedFd, Client)>) {
    let mut fds = vec![PollFd::new(desk, PollFlags::IN)];
    fds.extend(
        listeners
            .iter()
            .map(|(_, fd)| PollFd::new(fd, PollFlags::IN)),
    );
    fds.extend(clients.iter().map(|(fd, client)| {
        let full = !client.output.is_empty();
        PollFd::new(fd, if full { PollFlags::OUT } else { PollFlags::IN })
    }));
    retry_on_intr(|| poll(&mut fds, None)).unwrap();
    let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    let mut of_clients = ready[1 + listeners.len()..].iter();
    clients.retain_mut(|(fd, client)| {
        !of_clients.next().unwrap() || client.turn(fd).is_ok_and(|more| more)
    });
    for ((name, listener), _) in listeners
        .iter()
        .zip(&ready[1..])
        .filter(|(_, ready)| **ready)
    {
        while let Ok(fd) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            match &name[..] {
                place::HANDOVER => desk.successor(fd.into()),
                _ => clients.push((fd, Client::default())),
            }
        }
    }
}

impl Client {
    fn turn(&mut self, fd: &OwnedFd) -> Result<bool, Errno> {
        let mut bytes = [0; 37];
        if self.output.is_empty() {
            match read(fd, &mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            self.lines += 1;
            self.output.extend(format!("{}: ", self.lines).bytes());
            self.output.extend(self.input.drain(..=end));
        }
        match write(fd, &self.output) {
            Ok(count) => drop(self.output.drain(..count)),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}
