//! A swap that fails, wherever it fails, is noticed by nobody: the process that served serves on, with every connection,
//! every subscription and every byte that was on its way (R-OPS-1, R-DIFF-16; `docs/handover.md`, "Who serves").
//!
//! What the protocol does between any two processes is tested in `handover/tests`; here it is the server's own part: that
//! it freezes nothing too early, and that whatever it has frozen goes on.
mod support;

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use handover::control::{Answer, Role};
use handover::predecessor::{self, Counts, Ending, Precopied};
use handover::successor::{self, Inheritance};
use handover::{End, Failure, Phase, Receipt, Schemas, Settings, unobserved};
use rustix::process::Signal;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple as _, Serializer};
use serde_json::json;
use support::service::Service;
use support::{Client, PATIENCE};

/// More than one batch of 253 descriptors.
const CONNECTIONS: usize = 300;

/// So many of them see who comes and goes.
const MEMBERS: usize = 20;

/// The schema of the server's state. Whoever changes it changes it here.
const SCHEMA: u32 = 1;

/// Clients in one room, of whom some are in the middle of a word at every failure.
struct Room {
    clients: Vec<Client>,
    said: u64,
}

impl Room {
    fn open(service: &Service) -> Self {
        let mut clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let grants =
                    json!({"subscribe": true, "messages": {"*": {"publish": true, "echo": true}}});
                let mut client = service.first.connect(json!({
                    "uid": format!("client-{number}"),
                    "channels": {"room": grants.clone(), "presence.den": grants},
                }));
                client.subscribe("room");
                if number < MEMBERS {
                    client.subscribe_quietly("presence.den");
                }
                client
            })
            .collect();
        clients.iter_mut().for_each(|client| drop(client.drain()));
        Self { clients, said: 0 }
    }

    /// One of them says a number, of which half is sent before `fault` and half after it; all of them hear it once, and
    /// nothing else: nobody has come or gone.
    fn keeps_talking<T>(&mut self, fault: impl FnOnce() -> T) -> T {
        let word = self.begin_a_word();
        let came_of_it = fault();
        self.end_the_word(&word);
        came_of_it
    }

    /// What is left to be sent of it.
    fn begin_a_word(&mut self) -> Vec<u8> {
        self.said += 1;
        let message = json!({"event": "number", "channel": "room", "data": self.said}).to_string();
        assert!(message.len() < 126, "a short frame");
        let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
        frame.extend(message.bytes());
        let rest = frame.split_off(frame.len() / 2);
        self.speaker().write_all(&frame).expect("it is connected");
        rest
    }

    fn end_the_word(&mut self, rest: &[u8]) {
        self.speaker().write_all(rest).expect("it is connected");
        for client in &mut self.clients {
            assert_eq!(client.expect("number")["data"], self.said);
        }
        self.clients.iter_mut().for_each(Client::expect_nothing);
    }

    fn speaker(&mut self) -> &mut TcpStream {
        self.clients[self.said as usize * 7 % CONNECTIONS].stream()
    }
}

/// The server says that it has given up, and serves with everything.
fn serves_on(service: &Service, phase: impl std::fmt::Debug) {
    let status = service.await_status("first", |it| it.role == Role::Serving);
    assert_eq!(status.connections as usize, CONNECTIONS, "after {phase:?}");
}

fn settings() -> Settings {
    Settings::new(Schemas::only(SCHEMA))
}

/// A successor in this process: it asks, takes with `accept`, and does `at_phase` on its way.
fn take<T>(
    path: &Path,
    settings: &Settings,
    at_phase: impl Fn(Phase) + Send + 'static,
    accept: impl FnOnce(Inheritance<Raw>) -> Result<T, String>,
) -> Result<(T, Receipt), Failure> {
    successor::connect(path, settings, Box::new(at_phase))?.take(accept)
}

/// R-OPS-1: refused before anything is frozen.
#[test]
fn a_successor_that_cannot_read_the_state_or_has_no_room_is_refused() {
    let mut service = Service::start();
    let mut room = Room::open(&service);
    let path = service.dir().join("handover.sock");
    let failure = room.keeps_talking(|| {
        let settings = Settings::new(Schemas::only(SCHEMA + 98));
        take(&path, &settings, |_| (), |_| Ok(())).expect_err("it can't read the state")
    });
    assert_eq!(failure.receipt.phase, Some(Phase::Connected), "{failure}");
    serves_on(&service, "another schema");
    // 300 descriptors do not fit beside what every process has.
    service.start_with_descriptors("narrow", 128);
    let receipt = room.keeps_talking(|| service.take_over("narrow"));
    assert_eq!(receipt.end, End::Failed);
    assert_eq!(receipt.phase, Some(Phase::Connected), "{receipt:?}");
    let cause = receipt.cause.unwrap_or_default();
    assert!(cause.contains("descriptors"), "{cause}");
    serves_on(&service, "no room");
    // Nothing is left of all that: the next one takes over.
    room.keeps_talking(|| service.swap("second"));
}

/// R-OPS-1: at every phase before the last, by a panic, which is what an orderly death is.
#[test]
fn a_successor_that_panics_at_any_phase_leaves_everything_where_it_was() {
    let mut service = Service::start();
    let mut room = Room::open(&service);
    let path = service.dir().join("handover.sock");
    let phases = Phase::ALL.into_iter().filter(|phase| *phase < Phase::Taken);
    for wanted in phases {
        let panics = move |phase| assert!(phase != wanted, "as this test wants it");
        let before = service.status("first").and_then(|it| it.last);
        room.keeps_talking(|| {
            let taking = AssertUnwindSafe(|| take(&path, &settings(), panics, |_| Ok(())));
            match catch_unwind(taking) {
                // Not every phase is passed by this side.
                Ok(Ok((_, receipt))) => panic!("it has taken over: {receipt:?}"),
                Ok(Err(failure)) => panic!("it was refused: {failure}"),
                Err(_) => {
                    // Nobody notes who went without a hello.
                    if wanted > Phase::Connected {
                        service.await_status("first", |it| it.last != before);
                    }
                    serves_on(&service, wanted);
                }
            }
        });
    }
    let refused = room.keeps_talking(|| {
        take(
            &path,
            &settings(),
            |_| (),
            |_| Err::<(), _>("not today".into()),
        )
        .expect_err("it says no")
    });
    assert_eq!(refused.receipt.phase, Some(Phase::Sealed));
    let status = service.await_status("first", |it| it.role == Role::Serving);
    let cause = (status.last.and_then(|it| it.cause)).unwrap_or_default();
    assert!(cause.contains("not today"), "{cause}");
    serves_on(&service, "a refusal");
    room.keeps_talking(|| service.swap("second"));
}

/// R-OPS-1: either side is stopped for longer than the deadlines.
#[test]
fn a_side_that_is_stopped_for_longer_than_the_deadlines_costs_no_connection() {
    let mut service = Service::start();
    let mut room = Room::open(&service);
    let path = service.dir().join("handover.sock");
    // The successor stops where it has been given the listeners, a batch, everything; and after it has said that it is
    // ready, when the commit may have been written already and has to be taken back.
    for (wanted, longer) in [
        (Phase::Begun, 2500),
        (Phase::Transferring, 2500),
        (Phase::Sealed, 3500),
        (Phase::Ready, 3500),
    ] {
        let stops = move |phase| {
            if phase == wanted {
                // What is tested is that a deadline passes.
                std::thread::sleep(Duration::from_millis(longer));
            }
        };
        let taken = room.keeps_talking(|| {
            let taken = take(&path, &settings(), stops, |_| Ok(()));
            serves_on(&service, wanted);
            taken
        });
        assert!(taken.is_err(), "{wanted:?}: {taken:?}");
    }
    // The predecessor: nothing answers, so nothing begins.
    service.start_other("second");
    let receipt = room.keeps_talking(|| {
        service.first.signal(Signal::STOP);
        let receipt = service.take_over("second");
        service.first.signal(Signal::CONT);
        receipt
    });
    assert_eq!(receipt.end, End::Failed, "{receipt:?}");
    serves_on(&service, "being stopped");
    let receipt = room.keeps_talking(|| service.take_over("second"));
    assert_eq!(
        (receipt.end, receipt.transferred as usize),
        (End::Taken, CONNECTIONS)
    );
}

/// R-OPS-1: SIGKILL hits the successor anywhere. Either the old process has everything, or the new one had said that it
/// has everything, and then died like any process.
#[test]
fn a_successor_that_is_killed_takes_connections_along_only_when_it_had_taken_over() {
    let (mut kept, mut round) = (0, 0);
    // Until the kill has hit before the end often enough: how often depends on the machine.
    while kept < 12 {
        let mut service = Service::start();
        let mut room = Room::open(&service);
        loop {
            round += 1;
            assert!(round < 500, "it is always too late");
            let name = format!("second-{round}");
            service.start_other(&name);
            let mut successor = service.others.pop().expect("just started");
            let word = room.begin_a_word();
            let order = service.order(&name);
            // Anywhere in what takes some ten milliseconds.
            std::thread::sleep(Duration::from_micros(round * 7919 % 40_000));
            successor.kill();
            let _ = order.join().expect("no panic");
            let status = service.await_status("first", |it| it.role != Role::Giving);
            if status.role == Role::Emptied {
                break;
            }
            serves_on(&service, "a kill");
            room.end_the_word(&word);
            kept += 1;
        }
    }
}

/// R-OPS-1: a state that was damaged on its way, or comes from something else, is refused, and the process that refuses it
/// waits for its next turn.
#[test]
fn a_server_that_is_given_nonsense_gives_it_back() {
    let mut service = Service::start();
    service.start_other("second");
    let path = service.dir().join("handover.sock");
    let connect = |uid: &str, umd: &str| {
        let grants = json!({"subscribe": true, "messages": {"*": {"publish": true}}});
        let mut client = (service.first)
            .connect(json!({"uid": uid, "umd": umd, "channels": {"presence.room": grants}}));
        client.subscribe_quietly("presence.room");
        client
    };
    let mut ana = connect("ana", "");
    // The token of this one is too long to be told in advance, that of the next one comes too late for it.
    let mut ben = connect("ben", &"x".repeat(1000));
    // Everything is taken from the first process, so that this one is the predecessor of the second.
    let (offered, told) = std::iter::repeat_with(|| {
        let mut offered = successor::connect(&path, &settings(), unobserved()).expect("it serves");
        let told = offered.precopied();
        (offered, told)
    })
    .take(100)
    // A loop that is busy may tell nothing in advance.
    .find(|(_, told)| !told.is_empty())
    .expect("it tells something in advance");
    let mut cleo = connect("cleo", "");
    let (held, _) = offered.take(Ok).expect("nothing stands against it");
    let [(client, Raw(state)), others @ ..] = &held.connections[..] else {
        panic!("three connections: {:?}", held.connections);
    };
    assert_eq!(others.len(), 2);
    let listeners: Vec<_> = (held.listeners.iter())
        .map(|(name, fd)| (&name[..], fd.as_fd()))
        .collect();
    let (_, door) = (listeners.iter())
        .find(|(name, _)| name.ends_with("handover.sock"))
        .expect("it travels with the others");
    let door: UnixListener = door.try_clone_to_owned().expect("a duplicate").into();
    let give = |told: &[u8], shared: &[u8], state: &[u8]| -> Result<Receipt, Failure> {
        let order = service.order("second");
        let stream = accept(&door);
        let counts = Counts {
            listeners: listeners.len() as u32,
            connections: 3,
        };
        let precopy = |_| Precopied {
            bytes: told.to_vec(),
            mark: 0,
        };
        let ending = match predecessor::answer_with_precopy(
            stream,
            counts,
            &settings(),
            unobserved(),
            precopy,
        ) {
            Ok(asked) => {
                let others = others.iter().map(|(fd, Raw(state))| (fd, &state[..]));
                let all: Vec<_> = std::iter::once((client, state)).chain(others).collect();
                let states = all.into_iter().map(|(fd, state)| (fd, Raw(state.to_vec())));
                asked.give(&listeners, shared, states.collect::<Vec<_>>())
            }
            Err(failure) => Ending::Resume(failure),
        };
        let answer = order.join().expect("no panic").expect("an answer");
        let Answer::Receipt(receipt) = answer else {
            panic!("no receipt: {answer:?}");
        };
        match ending {
            Ending::Released(_) => {
                assert_eq!(receipt.end, End::Taken);
                Ok(receipt)
            }
            Ending::Resume(failure) => {
                assert_eq!(receipt.end, End::Failed);
                Err(failure)
            }
        }
    };
    let cuts = |bytes: &[u8]| (0..bytes.len()).step_by((bytes.len() / 40).max(1));
    for cut in cuts(&held.shared) {
        let failure =
            give(&told, &held.shared[..cut], state).expect_err("the shared state was cut");
        assert!(failure.to_string().contains("can't be read"), "{failure}");
    }
    for cut in cuts(state) {
        give(&told, &held.shared, &state[..cut]).expect_err("the connection's state was cut");
    }
    for nonsense in [vec![0xFF; 3], vec![0; 100], vec![1; 1000]] {
        give(&told, &held.shared, &nonsense).expect_err("that is no state");
    }
    // Well-formed, but this version reads the token in another way than the one that wrote it.
    let mut other = told.clone();
    let token = (other.windows(2).position(|it| it == b"{\"")).expect("the payload of the token");
    other[token] = b'[';
    for (told, why) in [
        (&other[..], "can't be read"),
        (&told[..told.len() - 1], "was told in advance can't be read"),
    ] {
        let failure = give(told, &held.shared, state).expect_err("the token can't be read");
        assert!(failure.to_string().contains(why), "{failure}");
        assert_eq!(failure.receipt.frozen_ms, 0.0, "nobody has waited");
    }
    let failure = give(&[], &held.shared, state).expect_err("there is no token");
    let said = failure.to_string();
    assert!(
        said.contains("the claims of connection") && said.contains("have not come"),
        "{said}"
    );
    let status = service.await_status("second", |it| it.role == Role::Waiting);
    assert_eq!(status.connections, 0);
    give(&told, &held.shared, state).expect("nothing stands against it");
    drop(held);
    service.await_status("second", |it| it.role == Role::Serving);
    // Who came later, and nobody else.
    for (client, later) in [(&mut ana, 2), (&mut ben, 1), (&mut cleo, 0)] {
        let seen = client.drain();
        assert_eq!(seen.len(), later, "{seen:?}");
        assert!(
            seen.iter().all(|it| it["event"] == "hotsock.memberAdded"),
            "{seen:?}"
        );
    }
    ana.send(json!({"event": "still", "channel": "presence.room"}));
    ana.settle();
    for client in [&mut ben, &mut cleo] {
        client.expect("still");
        client.expect_nothing();
    }
    let room = service.first.get("/channels/presence.room").json();
    assert_eq!(room["members"].as_array().map(Vec::len), Some(3), "{room}");
    assert_eq!(room["members"][0]["uid"], "ana");
}

/// Without making it a listener that blocks: duplicates share their flags.
fn accept(door: &UnixListener) -> UnixStream {
    let begun = Instant::now();
    loop {
        match door.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("an option");
                return stream;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(begun.elapsed() < PATIENCE, "nobody came");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nobody can come: {error}"),
        }
    }
}

/// A state as it is, without its meaning.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Raw;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Raw, A::Error> {
                let mut all = Vec::new();
                // The end is an error of the format, which has no other.
                while let Ok(Some(byte)) = bytes.next_element() {
                    all.push(byte);
                }
                Ok(Raw(all))
            }
        }
        // As many bytes as a frame can have.
        deserializer.deserialize_tuple(1 << 20, All)
    }
}
