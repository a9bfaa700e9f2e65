//! Answers every line with its number and the line, and can be replaced while its clients talk: the numbers go on.
//!
//! A tour of the `handover` crate. One loop polls all sockets; a connection is a descriptor and a plain structure. So
//! freezing is not polling, and handing over is passing both on.

use handover::desk::{Desk, Event};
use handover::place::{self, Place};
use handover::{Failure, Schemas, Settings, control::Role, predecessor::Asked};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::{env, error::Error, net::TcpListener};

/// The number of `Client`'s layout. A new layout gets the next one, and the old one is read for a release more.
const SCHEMA: u32 = 1;

/// All that a client's connection is, besides its descriptor.
#[derive(Default, Serialize, Deserialize)]
struct Client {
    lines: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Keeper {
    desk: Desk,
    place: Place,
    listeners: Vec<(String, OwnedFd)>,
    clients: Vec<(OwnedFd, Client)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let place = Place::from_environment()?;
    let desk = Desk::new(Settings::new(Schemas::only(SCHEMA)))?;
    let first = !place::is_held(&place.handover)?;
    let mut listeners = Vec::new();
    let mut listen = |name: &str, fd: OwnedFd| listeners.push((name.to_owned(), fd));
    if first {
        listen(place::HANDOVER, place::bind(&place.handover)?.into());
        if let Some(path) = &place.inet {
            listen("unix", place::bind(path)?.into());
        }
        if let Ok(address) = env::var("ECHO_TCP") {
            let tcp = TcpListener::bind(address)?;
            tcp.set_nonblocking(true)?;
            listen("tcp", tcp.into());
        }
        desk.note(|status| status.role = Role::Serving);
    }
    if let Some(path) = &place.control {
        desk.obey(place::bind(path)?)?;
    }
    let mut keeper = Keeper {
        desk,
        place,
        listeners,
        clients: Vec::new(),
    };
    if !first && keeper.place.control.is_none() {
        keeper.take_over()?; // Nobody will say when: now.
    }
    while keeper.place.control.is_some() || !keeper.listeners.is_empty() {
        keeper.serve_whoever_is_ready()?;
        while let Some(event) = keeper.desk.next() {
            match event {
                Event::Asked(asked) => keeper.give(*asked),
                Event::TakeOver => drop(keeper.take_over()), // The leader is told.
                Event::Precopy(_) => {} // There is little to tell, and all of it changes.
                Event::Retire => return Ok(()),
            }
        }
    }
    Ok(())
}

impl Keeper {
    fn take_over(&mut self) -> Result<(), Failure> {
        let taken = self.desk.take_over(&self.place.handover, Ok)?;
        self.listeners = taken.listeners;
        self.clients = taken.connections;
        Ok(())
    }

    /// Nothing in here reads from a client or writes to one, which is all that freezing takes.
    fn give(&mut self, asked: Asked) {
        let listeners: Vec<_> = (self.listeners.iter())
            .map(|(name, fd)| (&name[..], fd.as_fd()))
            .collect();
        let clients = self.clients.iter().map(|(fd, client)| (fd, client));
        if self.desk.gave(asked.give(&listeners, &[], clients)) {
            self.listeners.clear();
            self.clients.clear();
        }
    }

    fn serve_whoever_is_ready(&mut self) -> Result<(), Errno> {
        self.desk.counts(self.listeners.len(), self.clients.len());
        let mut fds = vec![PollFd::new(&self.desk, PollFlags::IN)];
        let listeners = self.listeners.iter();
        fds.extend(listeners.map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
        fds.extend(self.clients.iter().map(|(fd, client)| {
            let full = !client.output.is_empty();
            PollFd::new(fd, if full { PollFlags::OUT } else { PollFlags::IN })
        }));
        retry_on_intr(|| poll(&mut fds, None))?;
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut of_clients = ready[1 + self.listeners.len()..].iter();
        self.clients.retain_mut(|(fd, client)| {
            let turn = of_clients.next().is_some_and(|ready| *ready);
            let ended = turn && client.turn(fd).is_err_and(|error| error != Errno::AGAIN);
            // A stopped successor of a failed handover may hold a duplicate: closing is not enough.
            ended.then(|| shutdown(fd, Shutdown::Both)).is_none()
        });
        let listeners = self.listeners.iter().zip(&ready[1..]);
        for ((name, listener), _) in listeners.filter(|(_, ready)| **ready) {
            while let Ok(fd) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                if name == place::HANDOVER {
                    self.desk.successor(fd.into());
                } else {
                    self.clients.push((fd, Client::default()));
                }
            }
        }
        Ok(())
    }
}

impl Client {
    /// Reads once and writes once. An error is the connection's end.
    fn turn(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        let mut bytes = [0; 4096];
        if self.output.is_empty() {
            match read(fd, &mut bytes)? {
                0 => return Err(Errno::PIPE),
                count => self.input.extend_from_slice(&bytes[..count]),
            }
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            self.lines += 1;
            self.output.extend(format!("{}: ", self.lines).bytes());
            self.output.extend(self.input.drain(..=end));
        }
        let written = write(fd, &self.output)?;
        self.output.drain(..written);
        Ok(())
    }
}
