//! What the two sides may rely on, with both in one process.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use handover::{
    Cause, Deadlines, End, Failure, Limits, Phase, Receipt, Schemas, Settings,
    control::{Answer, Request, Role, ask},
    desk::{Desk, Event, Precopy},
    predecessor::{self, Counts, Ending, Precopied},
    successor::{self, Inheritance},
    unobserved,
    wire::{HEADER, Header, Hello, Kind, Message, Offer},
};
use proptest::{collection, prelude::*};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::{
    io::{IoSlice, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    name: String,
    unsent: Vec<u8>,
}

fn state(index: usize) -> State {
    State {
        name: format!("connection {index}"),
        unsent: vec![index as u8; 100],
    }
}

fn settings() -> Settings {
    Settings::new(Schemas::only(1))
}

fn counts(connections: u32) -> Counts {
    Counts {
        listeners: 0,
        connections,
    }
}

/// Connections to give, and the other ends of them.
fn connections(count: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
    // All tests of this program run at once, and many a shell allows 1,024.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    (0..count).map(|_| UnixStream::pair().unwrap()).unzip()
}

/// Everything from hello to the end, in the predecessor.
fn give(stream: UnixStream, held: &[UnixStream], settings: &Settings) -> Result<Ending, Failure> {
    let asked = predecessor::answer(stream, counts(held.len() as u32), settings, unobserved())?;
    Ok(asked.give(&[], &[], with_states(held)))
}

fn with_states(held: &[UnixStream]) -> Vec<(&UnixStream, State)> {
    held.iter()
        .enumerate()
        .map(|(index, fd)| (fd, state(index)))
        .collect()
}

fn resumed(ending: Result<Ending, Failure>) -> Failure {
    match ending {
        Ok(Ending::Resume(failure)) => failure,
        other => panic!("expected to resume: {other:?}"),
    }
}

/// Nobody has a duplicate of these any more: when the holder closes, the client sees the end.
fn assert_held_by_nobody_else(held: Vec<UnixStream>, clients: Vec<UnixStream>) {
    drop(held);
    for mut client in clients {
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    }
}

/// A successor that accepts everything.
fn take_all(
    stream: UnixStream,
    settings: Settings,
) -> Result<(Inheritance<State>, Receipt), Failure> {
    successor::ask(stream, &settings, unobserved())?.take(Ok)
}

#[test]
fn listeners_shared_state_and_connections_cross_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (held, clients) = connections(600);
    let shared = vec![7; 3_000_000];
    let waiting = UnixStream::connect(&path).unwrap();

    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, settings()));
    let now = Counts {
        listeners: 1,
        connections: 600,
    };
    let asked = predecessor::answer(a, now, &settings(), unobserved()).unwrap();
    assert_eq!(asked.schema(), 1);
    let prepared = asked
        .transfer(
            &[("public", listener.as_fd())],
            &shared,
            held.iter()
                .enumerate()
                .map(|(i, fd)| (fd, state(i)))
                .collect::<Vec<_>>(),
        )
        .unwrap();
    let Ending::Released(receipt) = prepared.commit() else {
        panic!("not released");
    };
    drop((held, listener));
    assert_eq!(
        (receipt.offered, receipt.transferred, receipt.dropped),
        (600, 600, 0)
    );

    let (inheritance, receipt) = successor.join().unwrap().unwrap();
    assert_eq!(receipt.end, End::Taken);
    assert!(receipt.reversible);
    assert!(inheritance.complete);
    assert!(inheritance.shared == shared);
    for (index, ((fd, got), mut client)) in
        inheritance.connections.into_iter().zip(clients).enumerate()
    {
        assert_eq!(got, state(index));
        let mut held = UnixStream::from(fd);
        client.write_all(&(index as u32).to_le_bytes()).unwrap();
        let mut bytes = [0; 4];
        held.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), index as u32);
    }
    // Who had connected, and was not accepted yet, is accepted by the successor.
    let (name, fd) = inheritance.listeners.into_iter().next().unwrap();
    assert_eq!(name, "public");
    UnixListener::from(fd).accept().unwrap();
    drop(waiting);
}

/// What never changes is told before the freeze, in pieces if need be, and the mark says what was told.
#[test]
fn what_is_told_in_advance_is_there_before_anything_is_frozen() {
    for length in [0, 1, 3_000_000] {
        let told = vec![9; length];
        let (a, b) = UnixStream::pair().unwrap();
        let expected = told.clone();
        let successor = thread::spawn(move || {
            let mut offered = successor::ask(b, &settings(), unobserved()).unwrap();
            assert!(offered.precopied() == expected);
            assert!(offered.precopied().is_empty(), "it is there once");
            offered.take::<State, _>(Ok).unwrap()
        });
        let asked =
            predecessor::answer_with_precopy(a, counts(0), &settings(), unobserved(), |schema| {
                assert_eq!(schema, 1);
                Precopied {
                    bytes: told,
                    mark: 7,
                }
            })
            .unwrap();
        assert_eq!(asked.precopied(), (length > 0).then_some(7));
        let Ending::Released(receipt) = asked.give(&[], &[], with_states(&[])) else {
            panic!("not released");
        };
        assert_eq!(receipt.bytes, 0, "only what is told in the freeze counts");
        successor.join().unwrap();
    }
}

/// A successor that can't read it refuses in time: nobody waited.
#[test]
fn what_was_told_in_advance_may_be_declined_before_anything_is_frozen() {
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), unobserved()).unwrap();
        offered.decline("it is in an unknown script".into())
    });
    let told = |_| Precopied {
        bytes: vec![1],
        mark: 7,
    };
    let failure = predecessor::answer_with_precopy(a, counts(0), &settings(), unobserved(), told);
    let failure = failure.unwrap_err();
    assert_eq!(failure.phase, Some(Phase::Offered));
    assert_eq!(failure.receipt.frozen_ms, 0.0);
    assert!(failure.to_string().contains("unknown script"), "{failure}");
    let failure = successor.join().unwrap();
    assert!(matches!(failure.cause, Cause::Service(_)), "{failure}");
}

/// More than the limit is not told, and not accepted: by whoever tells it, by whoever hears of it, and in pieces.
#[test]
fn what_is_told_in_advance_is_limited() {
    let limited = |precopy| Settings {
        limits: Limits {
            precopy,
            ..Limits::default()
        },
        ..settings()
    };
    let told = |_| Precopied {
        bytes: vec![9; 11],
        mark: 7,
    };
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, settings()).unwrap());
    let asked = predecessor::answer_with_precopy(a, counts(0), &limited(10), unobserved(), told);
    let asked = asked.unwrap();
    assert_eq!(asked.precopied(), None);
    let ending = asked.give(&[], &[], with_states(&[]));
    assert!(matches!(ending, Ending::Released(_)), "{ending:?}");
    successor.join().unwrap();

    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, limited(10)).unwrap_err());
    let refused = predecessor::answer_with_precopy(a, counts(0), &settings(), unobserved(), told);
    assert_eq!(refused.unwrap_err().receipt.frozen_ms, 0.0);
    let failure = successor.join().unwrap().to_string();
    assert!(
        failure.contains("bytes told in advance is 11, over the limit of 10"),
        "{failure}"
    );

    for pieces in [&[3, 3][..], &[0]] {
        let (mut a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, settings()).unwrap_err());
        assert_eq!(next_kind(&mut a), Kind::Hello);
        let Message::Offer(offer) = offer() else {
            unreachable!("it is one");
        };
        let offer = Message::Offer(Offer {
            precopy: 5,
            ..offer
        });
        let _word = send_with_word(&a, &offer);
        for length in pieces {
            let piece = Message::Precopy(vec![9; *length].into());
            a.write_all(&piece.encode().unwrap()).unwrap();
        }
        let failure = successor.join().unwrap();
        assert_eq!(failure.phase, Some(Phase::Connected), "{failure}");
        assert_eq!(next_kind(&mut a), Kind::Abort);
    }
}

#[test]
fn both_sides_pass_every_phase_in_order() {
    let seen = |log: &Arc<Mutex<Vec<Phase>>>| {
        let log = Arc::clone(log);
        Box::new(move |phase| log.lock().unwrap().push(phase))
    };
    let (old, new) = (Arc::default(), Arc::default());
    let (held, _clients) = connections(300);
    let (a, b) = UnixStream::pair().unwrap();
    let observer = seen(&new);
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), observer).unwrap();
        assert_eq!(
            (offered.schema(), offered.connections(), offered.listeners()),
            (1, 300, 0)
        );
        offered.take::<State, _>(Ok).unwrap();
    });
    let asked = predecessor::answer(a, counts(300), &settings(), seen(&old)).unwrap();
    assert!(matches!(
        asked.give(&[], &[], with_states(&held)),
        Ending::Released(_)
    ));
    successor.join().unwrap();
    for log in [old, new] {
        let mut phases = log.lock().unwrap().clone();
        let batches = phases
            .iter()
            .filter(|phase| **phase == Phase::Transferring)
            .count();
        assert_eq!(batches, 2, "{phases:?}");
        phases.dedup();
        assert_eq!(phases, Phase::ALL);
    }
}

#[test]
fn a_process_without_connections_is_taken_over_too() {
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, settings()));
    assert!(matches!(give(a, &[], &settings()), Ok(Ending::Released(_))));
    let (inheritance, receipt) = successor.join().unwrap().unwrap();
    assert!(inheritance.connections.is_empty() && inheritance.complete);
    assert_eq!(receipt.transferred, 0);
}

#[test]
fn a_successor_that_cannot_read_the_state_is_refused_before_anything_is_frozen() {
    let (a, b) = UnixStream::pair().unwrap();
    let theirs = Settings::new(Schemas {
        reads: vec![3, 4],
        writes: vec![4],
    });
    let successor = thread::spawn(move || take_all(b, theirs));
    let ours = Settings::new(Schemas {
        reads: vec![1, 2],
        writes: vec![2],
    });
    let failure = give(a, &[], &ours).unwrap_err();
    assert!(matches!(failure.cause, Cause::NoCommonSchema { .. }));
    assert_eq!(failure.receipt.frozen_ms, 0.0);
    let failure = successor.join().unwrap().unwrap_err();
    let Cause::Refused(reason) = failure.cause else {
        panic!("{failure}");
    };
    assert_eq!(
        reason,
        "the predecessor writes state in versions [2], the successor reads [3, 4]: they have none in common"
    );
}

#[test]
fn the_newest_common_schema_is_written_and_whether_there_is_a_way_back_is_known() {
    let (a, b) = UnixStream::pair().unwrap();
    let theirs = Settings::new(Schemas {
        reads: vec![1, 2, 3],
        writes: vec![3],
    });
    let successor = thread::spawn(move || take_all(b, theirs).unwrap());
    let ours = Settings::new(Schemas {
        reads: vec![1, 2],
        writes: vec![1, 2],
    });
    let Ending::Released(receipt) = give(a, &[], &ours).unwrap() else {
        panic!("not released");
    };
    let (inheritance, theirs) = successor.join().unwrap();
    assert_eq!(inheritance.schema, 2);
    assert_eq!((receipt.schema, theirs.schema), (Some(2), Some(2)));
    assert!(!receipt.reversible && !theirs.reversible);
}

#[test]
fn what_the_successors_service_refuses_goes_back() {
    let (held, clients) = connections(300);
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), unobserved()).unwrap();
        let refuse = |_: Inheritance<State>| Err::<(), _>("no room in the engine".to_owned());
        offered.take(refuse).unwrap_err()
    });
    let failure = resumed(give(a, &held, &settings()));
    assert_eq!(failure.phase, Some(Phase::Sealed));
    assert!(
        failure.to_string().contains("no room in the engine"),
        "{failure}"
    );
    assert_eq!(
        (failure.receipt.end, failure.receipt.transferred),
        (End::Failed, 0)
    );
    assert!(matches!(successor.join().unwrap().cause, Cause::Service(_)));
    assert_held_by_nobody_else(held, clients);
}

#[test]
fn a_successor_that_panics_has_given_up() {
    let (held, clients) = connections(3);
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), unobserved()).unwrap();
        let _ = offered.take(|_: Inheritance<State>| -> Result<(), String> {
            panic!("a defect of the service")
        });
    });
    resumed(give(a, &held, &settings()));
    assert!(successor.join().is_err());
    assert_held_by_nobody_else(held, clients);
}

#[test]
fn a_predecessor_that_changes_its_mind_keeps_everything() {
    for after_transfer in [false, true] {
        let (held, clients) = connections(3);
        let (a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, settings()));
        let asked = predecessor::answer(a, counts(3), &settings(), unobserved()).unwrap();
        if after_transfer {
            drop(asked.transfer(&[], &[], with_states(&held)).unwrap());
        } else {
            drop(asked);
        }
        // It lives, so this is no death to inherit from.
        let failure = successor.join().unwrap().unwrap_err();
        assert!(
            matches!(failure.cause, Cause::Ended | Cause::GaveUp(_)),
            "{failure}"
        );
        assert_held_by_nobody_else(held, clients);
    }
}

/// One byte more than `State` is too many, as one less is: both were written in another layout under the same number.
#[test]
fn a_state_that_the_successor_cannot_decode_ends_in_resuming() {
    fn resumes<S: serde::Serialize>(foreign: impl Fn(usize) -> S) {
        let (held, clients) = connections(600);
        let (a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, settings()));
        let asked = predecessor::answer(a, counts(600), &settings(), unobserved()).unwrap();
        let states: Vec<_> = held.iter().zip((0..600).map(foreign)).collect();
        let Ending::Resume(failure) = asked.give(&[], &[], states) else {
            panic!("not resumed");
        };
        assert!(
            failure
                .to_string()
                .contains("state of connection 0 cannot be read"),
            "{failure}"
        );
        assert!(matches!(
            successor.join().unwrap().unwrap_err().cause,
            Cause::State { index: 0, .. }
        ));
        assert_held_by_nobody_else(held, clients);
    }
    resumes(|_| u64::MAX);
    resumes(|index| (state(index), 0_u8));
}

/// A change of the limits, and what is said when it is felt.
type Case = (fn(&mut Limits), &'static str);

fn cases(of_a_frame: &'static str) -> [Case; 3] {
    [
        (|l| l.frame = 100, of_a_frame),
        (|l| l.total = 1000, "bytes of state is"),
        (
            |l| l.connections = 19,
            "connections is 20, over the limit of 19",
        ),
    ]
}

#[test]
fn limits_end_a_handover_in_resuming_and_say_which() {
    let limited = |change: fn(&mut Limits)| {
        let mut settings = settings();
        change(&mut settings.limits);
        settings
    };
    for (change, sentence) in cases("bytes of one state is") {
        // In the predecessor.
        let (held, clients) = connections(20);
        let (a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, settings()));
        let failure = resumed(give(a, &held, &limited(change)));
        assert!(failure.to_string().contains(sentence), "{failure}");
        assert!(matches!(
            successor.join().unwrap().unwrap_err().cause,
            Cause::GaveUp(_)
        ));
        assert_held_by_nobody_else(held, clients);
    }
    for (change, sentence) in cases("over the limit of 100") {
        // In the successor.
        let (held, clients) = connections(20);
        let (a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, limited(change)).unwrap_err());
        let ending = give(a, &held, &settings());
        let failure = successor.join().unwrap();
        assert!(failure.to_string().contains(sentence), "{failure}");
        assert!(!matches!(ending, Ok(Ending::Released(_))));
        assert_held_by_nobody_else(held, clients);
    }
}

#[test]
fn more_connections_than_were_offered_are_checked_against_the_room_again() {
    let (held, clients) = connections(2);
    let (a, mut b) = UnixStream::pair().unwrap();
    let predecessor = thread::spawn(move || {
        let asked = predecessor::answer(a, counts(0), &settings(), unobserved()).unwrap();
        let ending = asked.give(&[], &[], with_states(&held));
        (resumed(Ok(ending)), held)
    });
    // Room for one connection, and the sixteen that the protocol keeps free.
    say_hello(&b, 17);
    b.write_all(&Message::Begin.encode().unwrap()).unwrap();
    let (failure, held) = predecessor.join().unwrap();
    assert!(
        matches!(
            failure.cause,
            Cause::NoRoom {
                needed: 18,
                room: 17
            }
        ),
        "{failure}"
    );
    assert_held_by_nobody_else(held, clients);
    b.read_to_end(&mut Vec::new()).unwrap();
}

/// A hello as another implementation would send it.
fn say_hello(stream: &UnixStream, room: u32) -> OwnedFd {
    let hello = Message::Hello(Hello {
        reads: vec![1],
        writes: vec![1],
        room,
    });
    send_with_word(stream, &hello)
}

/// A frame, and with its first byte the reading end of a new word; its writing end is returned.
fn send_with_word(stream: &UnixStream, message: &Message<'_>) -> OwnedFd {
    let (reading, writing) = rustix::pipe::pipe().unwrap();
    send(stream, &message.encode().unwrap(), reading.as_fd());
    writing
}

fn send(stream: &UnixStream, frame: &[u8], fd: BorrowedFd<'_>) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = sendmsg(
        stream,
        &[IoSlice::new(frame)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    assert_eq!(sent, frame.len());
}

/// Receives a frame, and says of what kind it was.
fn next_kind(stream: &mut UnixStream) -> Kind {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let header = Header::decode(header, 1000).unwrap();
    stream
        .read_exact(&mut vec![0; header.length as usize])
        .unwrap();
    header.kind
}

fn offer() -> Message<'static> {
    Message::Offer(Offer {
        schema: 1,
        reads: vec![1],
        listeners: 1,
        connections: 1,
        precopy: 0,
    })
}

#[test]
fn a_whole_frame_is_kept_though_its_sender_died_before_the_acknowledgement() {
    let (mut a, b) = UnixStream::pair().unwrap();
    let (gone, when_gone) = mpsc::channel();
    let wait_at_begun = move |phase| {
        if phase == Phase::Begun {
            when_gone.recv().unwrap();
        }
    };
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), Box::new(wait_at_begun)).unwrap();
        offered.take::<State, _>(Ok)
    });
    assert_eq!(next_kind(&mut a), Kind::Hello);
    let word = send_with_word(&a, &offer());
    assert_eq!(next_kind(&mut a), Kind::Begin);
    let (held, _client) = UnixStream::pair().unwrap();
    let state = postcard::to_stdvec(&state(5)).unwrap();
    let connections = Message::Connections(vec![state.into()]).encode().unwrap();
    send(&a, &connections, held.as_fd());
    drop((a, word));
    gone.send(()).unwrap();
    let (inheritance, receipt) = successor.join().unwrap().unwrap();
    assert_eq!(receipt.end, End::Inherited);
    assert_eq!(inheritance.connections.len(), 1);
}

/// How a predecessor of another make ends, in the middle of its second frame.
#[derive(Clone, Copy, PartialEq)]
enum Exit {
    Dies,
    GivesUpAndDies,
    HangsUpAndLives,
}

#[test]
fn only_the_death_of_an_undecided_predecessor_is_inherited_from_and_only_whole_frames() {
    for exit in [Exit::Dies, Exit::GivesUpAndDies, Exit::HangsUpAndLives] {
        let (mut a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || take_all(b, settings()));
        assert_eq!(next_kind(&mut a), Kind::Hello);
        let word = send_with_word(&a, &offer());
        assert_eq!(next_kind(&mut a), Kind::Begin);
        let (held, mut client) = UnixStream::pair().unwrap();
        let listeners = Message::Listeners(vec!["public".to_owned()])
            .encode()
            .unwrap();
        send(&a, &listeners, std::io::stdin().as_fd());
        assert_eq!(next_kind(&mut a), Kind::Ack);
        let connections = Message::Connections(vec![vec![1; 100].into()])
            .encode()
            .unwrap();
        send(&a, &connections[..50], held.as_fd());
        drop(held);
        let mut kept = None;
        match exit {
            Exit::Dies => drop(word),
            Exit::GivesUpAndDies => drop(rustix::io::write(word, b"A").unwrap()),
            Exit::HangsUpAndLives => kept = Some(word),
        }
        drop(a);
        let taken = successor.join().unwrap();
        if exit == Exit::Dies {
            let (inheritance, receipt) = taken.unwrap();
            assert!(!inheritance.complete);
            assert_eq!(
                (inheritance.listeners.len(), inheritance.connections.len()),
                (1, 0)
            );
            assert_eq!(
                (receipt.end, receipt.offered, receipt.dropped),
                (End::Inherited, 1, 1)
            );
        } else {
            assert_eq!(taken.unwrap_err().receipt.end, End::Failed);
        }
        // The descriptor of the frame that was cut has been closed in any case.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(kept);
    }
}

#[test]
fn descriptors_that_a_frame_announces_and_does_not_bring_are_noticed() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let hello = Message::Hello(Hello {
        reads: vec![1],
        writes: vec![1],
        room: 1000,
    });
    b.write_all(&hello.encode().unwrap()).unwrap();
    let failure = give(a, &[], &settings()).unwrap_err();
    assert!(
        matches!(
            failure.cause,
            Cause::DescriptorsLost {
                announced: 1,
                got: 0
            }
        ),
        "{failure}"
    );
}

#[test]
fn whoever_speaks_something_else_is_turned_away_at_once() {
    for greeting in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &Message::Begin.encode().unwrap(),
        &[0; HEADER],
        &[0xff; 64],
    ] {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(greeting).unwrap();
        let failure = give(a, &[], &settings()).unwrap_err();
        assert!(
            matches!(failure.cause, Cause::Wire(_) | Cause::OutOfOrder { .. }),
            "{failure}"
        );
        assert_eq!(failure.phase, None);
    }
}

#[test]
fn whoever_says_nothing_is_left_after_the_deadline() {
    let hasty = Settings {
        deadlines: Deadlines {
            hello: Duration::from_millis(50),
            ..Deadlines::default()
        },
        ..settings()
    };
    let (a, _b) = UnixStream::pair().unwrap();
    let failure = give(a, &[], &hasty).unwrap_err();
    assert!(
        matches!(
            failure.cause,
            Cause::TimedOut {
                waited_for: "hello"
            }
        ),
        "{failure}"
    );
    let (_a, b) = UnixStream::pair().unwrap();
    let failure = take_all(b, hasty).unwrap_err();
    assert!(
        matches!(
            failure.cause,
            Cause::TimedOut {
                waited_for: "the offer"
            }
        ),
        "{failure}"
    );
}

#[test]
fn the_freeze_as_a_whole_has_a_deadline_of_its_own() {
    let hasty = Settings {
        deadlines: Deadlines {
            // Less than the successor's service may take, and much more than sending takes.
            frozen: Duration::from_secs(1),
            ..Deadlines::default()
        },
        ..settings()
    };
    let (held, clients) = connections(3);
    let (a, b) = UnixStream::pair().unwrap();
    let (resumed_by_now, accepting) = mpsc::channel::<()>();
    let successor = thread::spawn(move || {
        let offered = successor::ask(b, &settings(), unobserved()).unwrap();
        let slowly = |inheritance: Inheritance<State>| {
            let _ = accepting.recv();
            Ok(inheritance)
        };
        offered.take(slowly).unwrap_err()
    });
    let failure = resumed(give(a, &held, &hasty));
    assert!(
        matches!(
            failure.cause,
            Cause::TimedOut {
                waited_for: "ready"
            }
        ),
        "{failure}"
    );
    drop(resumed_by_now);
    let failure = successor.join().unwrap();
    assert!(
        failure
            .to_string()
            .contains("did not answer in time (ready)"),
        "{failure}"
    );
    assert_held_by_nobody_else(held, clients);
}

#[test]
fn a_service_that_does_not_freeze_in_time_serves_on() {
    let hasty = Settings {
        deadlines: Deadlines {
            freeze: Duration::from_millis(20),
            batch: Duration::from_millis(20),
            ..Deadlines::default()
        },
        ..settings()
    };
    let (held, clients) = connections(3);
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, hasty).unwrap_err());
    let asked = predecessor::answer(a, counts(3), &settings(), unobserved()).unwrap();
    let failure = successor.join().unwrap();
    assert!(matches!(failure.cause, Cause::TimedOut { .. }), "{failure}");
    let failure = resumed(Ok(asked.give(&[], &[], with_states(&held))));
    assert!(matches!(failure.cause, Cause::GaveUp(_)), "{failure}");
    assert_held_by_nobody_else(held, clients);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Sizes on both sides of every bound: no state, a batch that is full by count, one that is full by bytes.
    #[test]
    fn whatever_the_sizes_every_state_arrives_with_its_descriptor(
        sizes in collection::vec(prop_oneof![0_usize..50, 50_000_usize..400_000], 0..12),
        small in 0_usize..600,
        shared in 0_usize..3_000_000,
    ) {
        let states: Vec<Vec<u8>> = sizes
            .into_iter()
            .chain((0..small).map(|index| index % 7))
            .enumerate()
            .map(|(index, size)| vec![index as u8; size])
            .collect();
        let (held, clients) = connections(states.len());
        let shared = vec![5; shared];
        let (a, b) = UnixStream::pair().unwrap();
        let successor = thread::spawn(move || {
            let offered = successor::ask(b, &settings(), unobserved()).unwrap();
            offered.take::<Vec<u8>, _>(Ok).unwrap().0
        });
        let asked = predecessor::answer(a, counts(states.len() as u32), &settings(), unobserved()).unwrap();
        let ending = asked.give(&[], &shared, held.iter().zip(&states).collect::<Vec<_>>());
        prop_assert!(matches!(ending, Ending::Released(_)), "{ending:?}");
        let inheritance = successor.join().unwrap();
        prop_assert!(inheritance.shared == shared);
        prop_assert_eq!(inheritance.connections.len(), states.len());
        for (index, ((fd, got), mut client)) in inheritance.connections.into_iter().zip(clients).enumerate() {
            prop_assert!(got == states[index]);
            let mut held = UnixStream::from(fd);
            held.write_all(&(index as u32).to_le_bytes()).unwrap();
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).unwrap();
            prop_assert_eq!(u32::from_le_bytes(bytes), index as u32);
        }
    }
}

#[test]
fn a_successor_is_told_when_there_is_nothing_to_take() {
    let (a, b) = UnixStream::pair().unwrap();
    predecessor::refuse(a, "this process does not serve");
    let failure = take_all(b, settings()).unwrap_err();
    assert!(
        matches!(failure.cause, Cause::Refused(reason) if reason == "this process does not serve")
    );
}

/// Waits until a successor asks; with what it could have been told before.
fn asked(desk: &Desk) -> (Box<predecessor::Asked>, Option<Precopy>) {
    let begun = Instant::now();
    let mut unanswered = None;
    loop {
        match desk.next() {
            Some(Event::Asked(asked)) => return (asked, unanswered),
            Some(Event::Precopy(precopy)) => unanswered = Some(precopy),
            _ => thread::sleep(Duration::from_millis(1)),
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody asks");
    }
}

/// A loop that is too busy to tell anything in advance holds nobody up, and knows that it has told nothing.
#[test]
fn what_is_told_too_late_is_not_told() {
    let desk = Desk::new(settings()).unwrap();
    desk.note(|status| status.role = Role::Serving);
    desk.counts(0, 3);
    let (held, _clients) = connections(3);
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || {
        let mut offered = successor::ask(b, &settings(), unobserved()).unwrap();
        assert!(offered.precopied().is_empty());
        offered.take::<State, _>(Ok).unwrap()
    });
    desk.successor(a);
    let (asked, precopy) = asked(&desk);
    precopy.expect("it was asked for").give(Precopied {
        bytes: vec![1],
        mark: 7,
    });
    assert_eq!(asked.precopied(), None);
    assert!(desk.gave(asked.give(&[], &[], with_states(&held))));
    successor.join().unwrap();
}

/// A leader compares both sides as soon as the successor has taken over.
#[test]
fn who_has_given_everything_says_at_once_that_it_has_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let desk = Desk::new(settings()).unwrap();
    desk.note(|status| status.role = Role::Serving);
    desk.counts(1, 3);
    desk.obey(handover::place::bind(&path).unwrap()).unwrap();
    let (held, _clients) = connections(3);
    let (a, b) = UnixStream::pair().unwrap();
    let successor = thread::spawn(move || take_all(b, settings()).unwrap());
    desk.successor(a);
    let (asked, _) = asked(&desk);
    let status = || match ask(&path, Request::Status {}, Duration::from_secs(60)) {
        Ok(Answer::Status(status)) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!((status().role, status().connections), (Role::Giving, 3));
    assert!(desk.gave(asked.give(&[], &[], with_states(&held))));
    let status = status();
    assert_eq!(status.role, Role::Emptied);
    assert_eq!((status.listeners, status.connections), (0, 0));
    successor.join().unwrap();
}

#[test]
fn a_listener_whose_backlog_is_full_is_waited_for_until_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let socket = || {
        let stream = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        );
        stream.unwrap()
    };
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let mut waiting = Vec::new();
    loop {
        let stream = socket();
        match rustix::net::connect(&stream, &address) {
            Ok(()) => waiting.push(stream),
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let hasty = Settings {
        deadlines: Deadlines {
            hello: Duration::from_millis(50),
            ..Deadlines::default()
        },
        ..settings()
    };
    assert!(handover::place::is_held(&path).unwrap());
    let failure = successor::connect(&path, &hasty, unobserved()).unwrap_err();
    assert!(matches!(failure.cause, Cause::TimedOut { .. }), "{failure}");
}

/// The commit's deadline and the successor's taking race here, some hundred times, with delays from none to a
/// millisecond on both sides.
#[test]
fn however_late_the_successor_is_exactly_one_side_has_the_connections() {
    let mut taken = 0;
    let rounds = 400;
    for round in 0_u64..rounds {
        let (held, clients) = connections(2);
        let (a, b) = UnixStream::pair().unwrap();
        let delay = Duration::from_micros(round * 7919 % 1000);
        let patience = Duration::from_micros(round * 104_729 % 1000);
        let successor = thread::spawn(move || {
            let late = move |phase| {
                if phase == Phase::Ready {
                    thread::sleep(delay);
                }
            };
            successor::ask(b, &settings(), Box::new(late))
                .unwrap()
                .take::<State, _>(Ok)
        });
        let impatient = Settings {
            deadlines: Deadlines {
                commit: patience,
                ..Deadlines::default()
            },
            ..settings()
        };
        let ending = give(a, &held, &impatient).unwrap();
        match (ending, successor.join().unwrap()) {
            (Ending::Released(_), Ok((inheritance, _))) => {
                taken += 1;
                drop(held);
                let held = inheritance
                    .connections
                    .into_iter()
                    .map(|(fd, _)| fd.into())
                    .collect();
                assert_held_by_nobody_else(held, clients);
            }
            (Ending::Resume(_), Err(_)) => assert_held_by_nobody_else(held, clients),
            (ending, taken) => panic!("both or nobody: {ending:?}, {taken:?}"),
        }
    }
    // Otherwise this was no race.
    assert!(taken > 0 && taken < rounds, "{taken} of {rounds}");
}
