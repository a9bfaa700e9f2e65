//! How fast the embedded engine keeps things, and how long others wait for it (decision 0016).
//!
//! `cargo bench -p realtime --bench engine`, with names of parts for some of them, and `DURABILITY=off` for what the disk
//! adds; in the folder of `BENCH_FOLDER`, or a temporary one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use realtime::connection::{ConnectionId, Identity};
use realtime::engine::embedded::Embedded;
use realtime::engine::{
    Answer, Durability, Engine, History, Outcome, Publish, Request, Ticket, Write,
};
use realtime::json::Json;
use realtime::metrics::EngineMeter;
use realtime::presence::Member;
use realtime::time::Now;
use tempfile::TempDir;
use ulid::Ulid;

const MILLION: usize = 1_000_000;

/// An engine and the bell that its threads ring.
struct Bench {
    engine: Embedded,
    bell: Receiver<()>,
    /// How far its clock is ahead of the real one.
    ahead: Duration,
    /// Nothing is done unasked.
    still: bool,
    _folder: TempDir,
}

impl Bench {
    fn new(durability: Durability) -> Self {
        let folder = match std::env::var_os("BENCH_FOLDER") {
            Some(parent) => TempDir::new_in(parent),
            None => TempDir::new(),
        };
        let folder = folder.expect("a temporary folder");
        let (ring, bell): (Sender<()>, _) = channel();
        let ring = std::sync::Mutex::new(ring);
        let wake = Arc::new(move || {
            let _ = ring.lock().expect("no panic while locked").send(());
        });
        let meter = EngineMeter::default();
        let engine = Embedded::open(folder.path(), durability, meter, wake);
        let mut engine = engine.expect("it opens");
        engine.begin(Now::read()).expect("it begins");
        Self {
            engine,
            bell,
            ahead: Duration::ZERO,
            still: false,
            _folder: folder,
        }
    }

    fn now(&self) -> Now {
        let now = Now::read();
        Now {
            wall: now.wall + self.ahead,
            ..now
        }
    }

    /// One turn of a loop that has nothing else to do.
    fn turn(&mut self) {
        let now = self.now();
        if self.still {
            self.engine.settle(now, Duration::from_millis(1));
            return;
        }
        let _ = self.bell.recv_timeout(Duration::from_millis(1));
        while self.bell.try_recv().is_ok() {}
        self.engine.turn(now);
    }

    fn ask(&mut self, request: Request) -> Answer {
        let now = self.now();
        let asked = self.engine.submit(now, request);
        loop {
            while let Some(outcome) = self.engine.next_outcome() {
                if let Outcome::Answer(ticket, answer) = outcome
                    && ticket == asked
                {
                    return answer;
                }
            }
            self.turn();
        }
    }

    /// So many requests, at most `window` of them under way; the time each took.
    fn flood(
        &mut self,
        count: usize,
        window: usize,
        mut request: impl FnMut(usize) -> Request,
    ) -> (Duration, Vec<Duration>) {
        let mut asked: HashMap<Ticket, Instant> = HashMap::new();
        let (mut next, mut took, begun) = (0, Vec::with_capacity(count), Instant::now());
        while took.len() < count {
            while next < count && asked.len() < window {
                let now = self.now();
                asked.insert(self.engine.submit(now, request(next)), now.mono);
                next += 1;
            }
            self.turn();
            while let Some(outcome) = self.engine.next_outcome() {
                if let Outcome::Answer(ticket, answer) = outcome
                    && let Some(since) = asked.remove(&ticket)
                {
                    assert!(!matches!(answer, Answer::Unavailable(_)), "{answer:?}");
                    took.push(since.elapsed());
                }
            }
        }
        (begun.elapsed(), took)
    }
}

fn message(number: usize, store: i64) -> Request {
    let data = format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(100));
    Request::Publish(Publish {
        channel: "a".into(),
        event: if number.is_multiple_of(100) {
            "rare"
        } else {
            "chat"
        }
        .into(),
        data: Json::compact(&data).expect("JSON"),
        meta: None,
        except: None,
        deduplication_id: None,
        store,
        emit: false,
        source: None,
    })
}

fn write(key: usize, value: usize, store: i64) -> Request {
    Request::Write(Write {
        channel: "a".into(),
        key: format!("key-{key}").into(),
        value: Json::compact(&value.to_string()).ok(),
        meta: Identity::default(),
        store,
        deduplication_id: None,
        emit: false,
        source: None,
    })
}

fn say(what: &str, mut took: Vec<Duration>, all: Duration) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    let rate = took.len() as f64 / all.as_secs_f64();
    println!(
        "{what:<58} {rate:>9.0}/s  p50 {:>9.3?}  p99 {:>9.3?}  max {:>9.3?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let durability = match std::env::var("DURABILITY").as_deref() {
        Ok("off") => Durability::Off,
        Ok("normal") => Durability::Normal,
        _ => Durability::Full,
    };
    println!("durability {durability:?}");
    type Part = fn(Durability);
    let parts: [(&str, Part); 5] = [
        ("passing", passing),
        ("publish", publish),
        ("storage", storage),
        ("history", history),
        ("expiry", expiry),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            part(durability);
        }
    }
}

/// Messages that nobody keeps: the engine must not be noticed.
fn passing(durability: Durability) {
    let mut bench = Bench::new(durability);
    let Request::Publish(one) = message(0, 0) else {
        unreachable!("it is a message");
    };
    let begun = Instant::now();
    for _ in 0..MILLION {
        let now = bench.now();
        bench.engine.submit(now, Request::Publish(one.clone()));
        while bench.engine.next_outcome().is_some() {}
    }
    let each = begun.elapsed() / MILLION as u32;
    println!("passing messages, each with a reading of the clocks {each:>12.0?}");
}

/// Stored messages, at several depths of the queue.
fn publish(durability: Durability) {
    for window in [1, 16, 64, 256, 1024] {
        let mut bench = Bench::new(durability);
        let count = (window * 400).clamp(2_000, 100_000);
        let (all, took) = bench.flood(count, window, |number| message(number, -1));
        say(&format!("stored publishes, {window} under way"), took, all);
    }
    let mut bench = Bench::new(durability);
    let channels: Vec<Arc<str>> = (0..10_000).map(|it| format!("room.{it}").into()).collect();
    let (all, took) = bench.flood(100_000, 256, |number| {
        let mut request = message(number, 3600);
        if let Request::Publish(message) = &mut request {
            message.channel = channels[number * 7919 % channels.len()].clone();
            message.deduplication_id = Some(number.to_string().into());
        }
        request
    });
    say(
        "  the same in 10,000 channels, deduplicated, 256 under way",
        took,
        all,
    );
}

/// Writes to an entry that a thousand connections observe: what the engine has to say is one outcome for all of them.
fn storage(durability: Durability) {
    let mut bench = Bench::new(durability);
    for uid in 0..1_000 {
        let answer = bench.ask(Request::Join {
            channel: "a".into(),
            connection: ConnectionId::random(),
            member: None::<Member>,
            counted: uid % 2 == 0,
            observe: Some(realtime::engine::Keys::all()),
            spend: None,
        });
        assert!(matches!(answer, Answer::Joined { .. }));
    }
    for window in [1, 64] {
        let (all, took) = bench.flood(window * 2_000, window, |number| {
            write(number % 50, number, -1)
        });
        say(
            &format!("writes, 1,000 subscribers, {window} under way"),
            took,
            all,
        );
    }
    let (all, took) = bench.flood(100_000, 256, |number| write(number, number, -1));
    say("writes to 100,000 keys, 256 under way", took, all);
    let (all, took) = bench.flood(2_000, 1, |number| Request::Read {
        channel: "a".into(),
        key: format!("key-{}", number * 7919 % 100_000).into(),
    });
    say(
        "reads of one of 100,000 keys, one after the other",
        took,
        all,
    );
    let (all, took) = bench.flood(500, 1, |number| Request::List {
        channel: "a".into(),
        select: realtime::engine::Select::After(Some(
            format!("key-{}", number * 7919 % 100_000).into(),
        )),
        permitted: realtime::engine::Keys::all(),
    });
    say("pages of 100 of 100,000 keys", took, all);
    let (all, took) = bench.flood(20, 1, |_| Request::Join {
        channel: "a".into(),
        connection: ConnectionId::random(),
        member: None,
        counted: true,
        observe: Some(realtime::engine::Keys::such_that(|key| key.ends_with("99"))),
        spend: None,
    });
    say(
        "subscriptions that observe 1,000 of 100,000 keys",
        took,
        all,
    );
}

/// Pages of a channel with a million messages, and with another half a million that have just expired.
fn history(durability: Durability) {
    let mut bench = Bench::new(Durability::Off);
    let _ = durability;
    let (all, took) = bench.flood(MILLION, 4096, |number| {
        let expires = number % 3 == 2 || (600_000..700_000).contains(&number);
        message(number, if expires { 3600 } else { -1 })
    });
    say(
        "(filling with 1,000,000 messages, without the disk)",
        took,
        all,
    );
    let first = match bench.ask(Request::History(page(None, None, false, None))) {
        Answer::Messages(page) => page[0].id,
        other => panic!("{other:?}"),
    };
    let last = match bench.ask(Request::History(page(None, None, true, None))) {
        Answer::Messages(page) => page[0].id,
        other => panic!("{other:?}"),
    };
    let somewhere = |number: usize| {
        let share = number as u128 * 7919 % 1000;
        Ulid(first.0 + (last.0 - first.0) / 1000 * share)
    };
    let event = || Some("rare".into());
    let pages = |bench: &mut Bench, what: &str| {
        let mut flood = |what: &str, request: &dyn Fn(usize) -> History| {
            let (all, took) = bench.flood(1_000, 1, |number| Request::History(request(number)));
            say(what, took, all);
        };
        flood(&format!("first page of 100{what}"), &|_| {
            page(None, None, false, None)
        });
        flood(&format!("last page of 100{what}"), &|_| {
            page(None, None, true, None)
        });
        flood(&format!("page of 100 after any message{what}"), &|number| {
            page(Some(somewhere(number)), None, false, None)
        });
        flood(
            &format!("page of 100 before any message{what}"),
            &|number| page(None, Some(somewhere(number)), true, None),
        );
        flood(&format!("page of 100 of a rare event{what}"), &|number| {
            page(Some(somewhere(number)), None, false, event())
        });
    };
    pages(&mut bench, "");
    // Not swept yet.
    bench.still = true;
    bench.ahead = Duration::from_secs(4000);
    pages(&mut bench, ", a third expired");
    let behind = Ulid(first.0 + (last.0 - first.0) / 10 * 6);
    let (all, took) = bench.flood(100, 1, |_| {
        Request::History(page(Some(behind), None, false, None))
    });
    say(
        "page of 100 behind up to 100,000 expired in a row",
        took,
        all,
    );
}

fn page(
    after: Option<Ulid>,
    before: Option<Ulid>,
    reverse: bool,
    event: Option<Box<str>>,
) -> History {
    History {
        channel: "a".into(),
        since_ms: 0,
        event,
        after,
        before,
        reverse,
    }
}

/// A million entries expire in one second: how long others wait while they go.
fn expiry(durability: Durability) {
    let mut bench = Bench::new(durability);
    let (all, took) = bench.flood(MILLION, 4096, |number| write(number, 1, 36_000));
    say("(filling with 1,000,000 entries)", took, all);
    let mut number = 0;
    let mut one_of_each = |bench: &mut Bench, took: &mut [Vec<Duration>; 3]| {
        number += 1;
        let (channel, key) = ("a".into(), "key-1".into());
        let requests = [
            message(number, -1),
            Request::Read { channel, key },
            Request::History(page(None, None, true, None)),
        ];
        for (request, took) in requests.into_iter().zip(took) {
            let asked = Instant::now();
            bench.ask(request);
            took.push(asked.elapsed());
        }
    };
    let show = |took: [Vec<Duration>; 3], all| {
        let names = ["stored publishes", "reads of an entry", "pages of 100"];
        for (name, took) in names.into_iter().zip(took) {
            say(&format!("  {name}"), took, all);
        }
    };
    let (begun, mut took) = (Instant::now(), Default::default());
    (0..1_000).for_each(|_| one_of_each(&mut bench, &mut took));
    println!("before anything expires, one after the other:");
    show(took, begun.elapsed());
    bench.ahead = Duration::from_secs(36_001);
    let (begun, mut took) = (Instant::now(), Default::default());
    loop {
        one_of_each(&mut bench, &mut took);
        let soon = bench.now().wall + Duration::from_secs(1);
        // When nothing is due within a second all of them are gone.
        if bench.engine.next_due().is_none_or(|due| due > soon) && bench.engine.is_settled() {
            break;
        }
    }
    let all = begun.elapsed();
    println!("1,000,000 entries have gone in {all:.1?}; meanwhile:");
    show(took, all);
}
