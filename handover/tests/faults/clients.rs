//! Clients over Unix and TCP sockets, each with a ledger of what it said and what it was answered.

use crate::processes::{Service, condition};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

struct Client {
    name: usize,
    stream: Box<dyn Stream>,
    /// Bytes that are not written yet: mostly the second half of a line.
    unsent: Vec<u8>,
    said: u64,
    answered: u64,
    input: Vec<u8>,
    alive: bool,
}

pub struct Clients(Vec<Client>);

impl Clients {
    /// One in three over TCP.
    pub fn connect(service: &Service, count: usize) -> Self {
        Self::connect_some(service, count, |name| name.is_multiple_of(3))
    }

    pub fn connect_over_unix(service: &Service, count: usize) -> Self {
        Self::connect_some(service, count, |_| false)
    }

    fn connect_some(service: &Service, count: usize, over_tcp: fn(usize) -> bool) -> Self {
        let connect = |name: usize| {
            let stream: Box<dyn Stream> = if over_tcp(name) {
                let stream = TcpStream::connect(("127.0.0.1", service.port())).unwrap();
                stream.set_nonblocking(true).unwrap();
                Box::new(stream)
            } else {
                let stream = UnixStream::connect(service.inet()).unwrap();
                stream.set_nonblocking(true).unwrap();
                Box::new(stream)
            };
            Client {
                name,
                stream,
                unsent: Vec::new(),
                said: 0,
                answered: 0,
                input: Vec::new(),
                alive: true,
            }
        };
        Self((0..count).map(connect).collect())
    }

    /// A turn of everyone: a few bytes out, whatever is there in. At most some lines are unanswered at a time.
    fn turn(&mut self, say: bool) {
        for client in self.0.iter_mut().filter(|client| client.alive) {
            if say && client.unsent.is_empty() && client.said - client.answered < 20 {
                client.said += 1;
                client.unsent = line(client.name, client.said);
            }
            client.write();
            client.read();
        }
    }

    pub fn talk_while(&mut self, mut go_on: impl FnMut() -> bool) {
        condition("what the clients talk about", || {
            self.turn(true);
            !go_on()
        });
    }

    pub fn talk_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(true);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn talk_until_each_has(&mut self, answers: u64) {
        condition("answers for everyone", || {
            self.turn(true);
            self.0
                .iter()
                .all(|client| !client.alive || client.answered >= answers)
        });
        assert!(self.0.iter().all(|client| client.alive));
    }

    /// Everyone gets this many answers more, and then all that are due; or has been cut off. Says how many live.
    pub fn talk_more_and_count_the_living(&mut self, more: u64) -> usize {
        let goals: Vec<_> = self.0.iter().map(|client| client.answered + more).collect();
        condition("answers for everyone who lives", || {
            self.turn(true);
            let mut each = self.0.iter().zip(&goals);
            each.all(|(client, goal)| !client.alive || client.answered >= *goal)
        });
        condition("all answers that are due", || {
            self.turn(false);
            let mut each = self.0.iter();
            each.all(|client| {
                !client.alive || (client.unsent.is_empty() && client.answered == client.said)
            })
        });
        self.0.iter().filter(|client| client.alive).count()
    }
}

fn line(name: usize, number: u64) -> Vec<u8> {
    format!(
        "client {name} says line {number} {}\n",
        "x".repeat((number % 40) as usize)
    )
    .into_bytes()
}

impl Client {
    fn write(&mut self) {
        // Half lines are what a handover may lose or double most easily.
        let count = self.unsent.len().min(13);
        match self.stream.write(&self.unsent[..count]) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.alive = false,
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.alive = false,
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.alive = false,
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let got: Vec<u8> = self.input.drain(..=end).collect();
            self.answered += 1;
            let mut expected = format!("{}: ", self.answered).into_bytes();
            expected.extend(line(self.name, self.answered));
            assert!(
                got == expected,
                "the ledger of client {} is broken: expected {:?}, got {:?}",
                self.name,
                String::from_utf8_lossy(&expected),
                String::from_utf8_lossy(&got)
            );
        }
    }
}
