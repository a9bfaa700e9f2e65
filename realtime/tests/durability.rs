//! What has been accepted is kept: with processes that are killed, disks that are full, a file that others lock, have cut
//! off, or have written with another version (decision 0016).
//!
//! Some of it needs a process of its own: this program starts itself again, with the name of a part in its environment.

mod support;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use realtime::connection::Identity;
use realtime::engine::embedded::Embedded;
use realtime::engine::{
    Answer, Deferred, Durability, Engine, Health, History, Outcome, Publish, Request, Ticket, Write,
};
use realtime::json::Json;
use realtime::metrics::EngineMeter;
use realtime::time::Now;
use serde_json::json;
use support::{PATIENCE, Server};
use ulid::Ulid;

const FILE: &str = "realtime.db";

fn open(folder: &Path, durability: Durability) -> anyhow::Result<Embedded> {
    Embedded::open(folder, durability, EngineMeter::default(), Arc::new(|| {}))
}

/// Opens it as the first process that serves.
fn begun(folder: &Path) -> Embedded {
    let mut engine = open(folder, Durability::Off).expect("it opens");
    engine.begin(Now::read()).expect("it begins");
    engine
}

fn message(channel: &str, data: &str, store: i64) -> Publish {
    Publish {
        channel: channel.into(),
        event: "chat".into(),
        data: Json::compact(data).expect("JSON"),
        meta: None,
        except: None,
        deduplication_id: None,
        store,
        emit: false,
        source: None,
    }
}

fn write(key: &str, value: &str, store: i64) -> Write {
    Write {
        channel: "a".into(),
        key: key.into(),
        value: Json::compact(value).ok(),
        meta: Identity::default(),
        store,
        deduplication_id: None,
        emit: false,
        source: None,
    }
}

/// The answer to a request, and what else came of it.
fn ask(engine: &mut Embedded, request: Request) -> (Answer, Vec<Outcome>) {
    let asked = engine.submit(Now::read(), request);
    assert!(engine.settle(Now::read(), PATIENCE), "it settles");
    let (mut answer, mut rest) = (None, Vec::new());
    while let Some(outcome) = engine.next_outcome() {
        match outcome {
            Outcome::Answer(ticket, given) if ticket == asked => answer = Some(given),
            other => rest.push(other),
        }
    }
    (answer.expect("it is answered"), rest)
}

/// Every stored message of a channel.
fn history(engine: &mut Embedded, channel: &str) -> Vec<(Ulid, String)> {
    let mut all = Vec::new();
    loop {
        let asked = History {
            channel: channel.into(),
            since_ms: 0,
            event: None,
            after: all.last().map(|it: &(Ulid, String)| it.0),
            before: None,
            reverse: false,
        };
        match ask(engine, Request::History(asked)).0 {
            Answer::Messages(page) if page.is_empty() => return all,
            Answer::Messages(page) => {
                all.extend(page.into_iter().map(|it| (it.id, it.data.to_string())));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn value(engine: &mut Embedded, key: &str) -> Option<String> {
    let (channel, key) = ("a".into(), key.into());
    match ask(engine, Request::Read { channel, key }).0 {
        Answer::Entry(entry) => entry.map(|entry| entry.value.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Whether a message is kept; it is delivered exactly then.
fn keeps(engine: &mut Embedded, message: Publish) -> bool {
    let (answer, rest) = ask(engine, Request::Publish(message));
    let delivered = rest.iter().any(|it| matches!(it, Outcome::Message(..)));
    match answer {
        Answer::Published(_) => assert!(delivered),
        Answer::Unavailable(why) => assert!(!delivered && why.contains("try again"), "{why}"),
        other => panic!("{other:?}"),
    }
    delivered
}

/// Takes turns until it is well again, which it finds out by itself.
fn recovers(engine: &mut Embedded) {
    let begun = Instant::now();
    while engine.health() != Health::Well {
        assert!(begun.elapsed() < PATIENCE, "{:?}", engine.health());
        let due = engine.next_due().expect("it wants to try again");
        let wait = due.duration_since(Now::read().wall);
        std::thread::sleep(Duration::try_from(wait).unwrap_or_default());
        engine.turn(Now::read());
        engine.settle(Now::read(), PATIENCE);
    }
}

// --- processes of their own

const PART: &str = "DURABILITY_PART";
const FOLDER: &str = "DURABILITY_FOLDER";
const NUMBER: &str = "DURABILITY_NUMBER";

fn child(part: &str, folder: &Path, number: usize) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .env(FOLDER, folder)
        .env(NUMBER, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Not a test: what this program does as its own child.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let folder = std::env::var_os(FOLDER).expect("given with it");
    let number = std::env::var(NUMBER).expect("given with it");
    let number = number.parse().expect("a number");
    match &*part {
        "load" => load(folder.as_ref(), number),
        "full" => full(folder.as_ref()),
        other => panic!("no part is called {other}"),
    }
}

/// Has things kept as fast as it can, and says of each what has been answered, until it is killed. Half of the messages are
/// planned for now.
fn load(folder: &Path, life: usize) {
    let mut engine = open(folder, Durability::Full).expect("it opens");
    engine.begin(Now::read()).expect("it begins");
    let mut out = std::io::stdout().lock();
    let mut asked: HashMap<Ticket, String> = HashMap::new();
    for number in 0.. {
        let now = Now::read();
        let name = format!("{life}-{number}");
        let data = format!("\"{name}\"");
        let ticket = engine.submit(now, Request::Publish(message("a", &data, -1)));
        asked.insert(ticket, format!("kept {name}"));
        let ticket = engine.submit(
            now,
            Request::Write(write(&format!("k{}", number % 7), &data, -1)),
        );
        asked.insert(ticket, format!("written {} {name}", number % 7));
        let deferred = Deferred::Publish(message("plans", &data, -1));
        let (at, eager) = (now.wall, false);
        let ticket = engine.submit(
            now,
            Request::Schedule {
                at,
                deferred,
                eager,
            },
        );
        asked.insert(ticket, format!("planned {name}"));
        // Now and then it waits, so that batches of many sizes are cut off.
        if number % 13 == 0 {
            engine.settle(now, PATIENCE);
        }
        engine.turn(Now::read());
        while let Some(outcome) = engine.next_outcome() {
            if let Outcome::Answer(ticket, answer) = outcome {
                let id = match answer {
                    Answer::Published(id) => id.to_string(),
                    Answer::Done | Answer::Scheduled { .. } => String::new(),
                    // Too much at once is refused, and that is well.
                    Answer::Unavailable(_) => continue,
                    other => panic!("{other:?}"),
                };
                let what = asked.remove(&ticket).expect("it was asked");
                writeln!(out, "answer {what} {id}").expect("the parent listens");
            }
        }
    }
}

/// R-DLV-5, R-DLV-12, R-STOR-2, R-HIST-1, R-SCHED-14, R-OPS-2: nothing that was answered is missing, whenever the process is
/// killed; identifiers rise from one life to the next; what was planned is done exactly once, also when it is cut off between
/// the two.
#[test]
fn a_process_that_is_killed_has_kept_what_it_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut kept, mut planned) = (HashSet::new(), HashSet::new());
    let mut written: HashMap<String, String> = HashMap::new();
    let mut last = Ulid::nil();
    // At least so many; more on a slow disk, until it is worth something.
    for life in 0.. {
        if life >= 12 && kept.len() > 100 && planned.len() > 100 {
            break;
        }
        assert!(life < 120, "{} {}", kept.len(), planned.len());
        let mut child = child("load", folder.path(), life);
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut answers = output.lines().map_while(Result::ok);
        // It has answered something; then it is killed at a moment of no meaning to it.
        let first = answers
            .find(|line| line.starts_with("answer"))
            .expect("it works");
        let pause = Duration::from_micros(rand::random_range(0..150_000));
        std::thread::sleep(pause);
        child.kill().expect("it lives");
        let mut lowest = Ulid(u128::MAX);
        let mut highest = Ulid::nil();
        for line in std::iter::once(first).chain(answers) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                // The last line may be cut off.
                ["answer", "kept", name, id] if id.len() == 26 => {
                    let id: Ulid = id.parse().expect("an identifier");
                    (lowest, highest) = (lowest.min(id), highest.max(id));
                    kept.insert((id, format!("\"{name}\"")));
                }
                ["answer", "planned", name] => {
                    planned.insert(format!("\"{name}\""));
                }
                ["answer", "written", key, name] => {
                    written.insert(format!("k{key}"), name.into());
                }
                _ => {}
            }
        }
        child.wait().expect("it was killed");
        assert!(lowest > last, "{lowest} after {last}");
        last = last.max(highest);
    }
    let mut engine = begun(folder.path());
    // What was due when it was killed.
    let begun = Instant::now();
    while engine.next_due().is_some_and(|due| due <= Now::read().wall) {
        assert!(begun.elapsed() < PATIENCE);
        engine.turn(Now::read());
        engine.settle(Now::read(), PATIENCE);
    }
    while engine.next_outcome().is_some() {}
    let all: HashSet<_> = history(&mut engine, "a").into_iter().collect();
    let missing: Vec<_> = kept.difference(&all).collect();
    assert!(missing.is_empty(), "of {}: {missing:?}", kept.len());
    let done = history(&mut engine, "plans");
    let once: HashSet<_> = done.iter().map(|it| it.1.clone()).collect();
    assert_eq!(once.len(), done.len(), "each once");
    assert!(planned.is_subset(&once), "all of {}", planned.len());
    let number = |value: &str| -> (usize, usize) {
        let (life, number) = value
            .trim_matches('"')
            .split_once('-')
            .expect("two numbers");
        (
            life.parse().expect("a number"),
            number.parse().expect("a number"),
        )
    };
    for (key, name) in written {
        let now = value(&mut engine, &key).expect("it was written");
        assert!(
            number(&now) >= number(&name),
            "{key} is {now}, and {name} was answered"
        );
    }
    let next = ask(&mut engine, Request::Publish(message("a", "1", 0))).0;
    assert!(matches!(next, Answer::Published(id) if id > last));
}

/// R-OPS-2: what can't be kept is refused and delivered to nobody, the rest goes on; with room again everything does, without
/// a restart, and nothing that was refused counts as accepted.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = child("full", folder.path(), 0);
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let lines: Vec<_> = output.lines().map_while(Result::ok).collect();
    assert!(child.wait().expect("it ends").success(), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("it recovered")),
        "{lines:#?}"
    );
}

fn full(folder: &Path) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // A file can't grow: for the database that is what a full disk is. Without a handler the signal would end the process.
    let limit = |bytes| {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        setrlimit(Resource::Fsize, limit).expect("it can be lowered, and raised again");
    };
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).expect("a handler");
    refuses_and_recovers(folder, || limit(Some(1 << 20)), || limit(None));
    println!("it recovered");
}

/// The same, on a real file system without room. Only root can make one.
#[test]
fn a_full_file_system_refuses_and_recovers() {
    struct Mounted(tempfile::TempDir);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    let folder = tempfile::tempdir().expect("a temporary folder");
    let mount = |options: &str| {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success())
    };
    if !mount("size=2m") {
        eprintln!("not tested: this user may not mount a file system");
        return;
    }
    let path = folder.path().to_owned();
    let more = || {
        let mount = Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(&path)
            .status();
        assert!(mount.is_ok_and(|status| status.success()));
    };
    let mounted = Mounted(folder);
    refuses_and_recovers(mounted.0.path(), || {}, more);
}

fn refuses_and_recovers(folder: &Path, fill: impl Fn(), free: impl Fn()) {
    let mut engine = begun(folder);
    let large = format!("\"{}\"", "x".repeat(20_000));
    assert!(keeps(&mut engine, message("a", &large, -1)));
    fill();
    let mut count = 1;
    while keeps(&mut engine, message("a", &large, -1)) {
        count += 1;
        assert!(count < 1_000, "there is a limit");
    }
    assert!(matches!(engine.health(), Health::Ill(why) if why.contains("nothing can be kept")));
    let mut once = message("a", &large, -1);
    once.deduplication_id = Some("x".into());
    assert!(!keeps(&mut engine, once.clone()));
    assert!(
        !keeps(&mut engine, once.clone()),
        "it is no copy: the first one was refused"
    );
    let refused = ask(&mut engine, Request::Write(write("k", &large, -1)));
    assert!(
        matches!(refused.0, Answer::Unavailable(_)) && refused.1.is_empty(),
        "{refused:?}"
    );
    assert!(
        keeps(&mut engine, message("a", "1", 0)),
        "what is not kept goes on"
    );
    let read = history(&mut engine, "a").len();
    assert_eq!(read, count, "and what was kept is read");
    free();
    recovers(&mut engine);
    assert!(keeps(&mut engine, once.clone()));
    let (answer, rest) = ask(&mut engine, Request::Publish(once));
    assert!(
        matches!(answer, Answer::Published(_)) && rest.is_empty(),
        "now it is a copy"
    );
    assert_eq!(history(&mut engine, "a").len(), count + 1);
}

/// R-OPS-2: another process that writes for too long delays what is kept, and then has it refused; what is read, and what is
/// not kept, goes on, and the loop is never stopped.
#[test]
fn a_lock_of_another_process_refuses_and_passes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    assert!(keeps(&mut engine, message("a", "1", -1)));
    let other = rusqlite::Connection::open(folder.path().join(FILE)).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("it locks");
    let submitting = Instant::now();
    engine.submit(Now::read(), Request::Publish(message("a", "2", -1)));
    assert!(
        submitting.elapsed() < Duration::from_millis(500),
        "nobody waits in the loop"
    );
    assert!(engine.settle(Now::read(), PATIENCE));
    let refused = std::iter::from_fn(|| engine.next_outcome())
        .any(|it| matches!(it, Outcome::Answer(_, Answer::Unavailable(_))));
    assert!(refused);
    assert!(matches!(engine.health(), Health::Ill(_)));
    assert!(keeps(&mut engine, message("a", "3", 0)));
    assert_eq!(value(&mut engine, "k"), None);
    assert_eq!(history(&mut engine, "a").len(), 1);
    other.execute_batch("COMMIT").expect("it unlocks");
    recovers(&mut engine);
    assert!(keeps(&mut engine, message("a", "4", -1)));

    // A short lock is only waited for.
    other.execute_batch("BEGIN IMMEDIATE").expect("it locks");
    engine.submit(Now::read(), Request::Publish(message("a", "5", -1)));
    other.execute_batch("COMMIT").expect("it unlocks");
    assert!(engine.settle(Now::read(), PATIENCE));
    let data: Vec<_> = history(&mut engine, "a")
        .into_iter()
        .map(|it| it.1)
        .collect();
    assert_eq!(data, ["1", "4", "5"]);
}

/// R-STOR-2: a loss of power may cut off what is being written. The file is whole up to some moment, in the order in which
/// things were accepted.
#[test]
fn a_file_that_is_cut_off_is_whole_up_to_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    // So few that SQLite does not yet begin its log anew.
    for number in 0..200 {
        engine.submit(
            Now::read(),
            Request::Publish(message("a", &number.to_string(), -1)),
        );
        if number % 3 == 0 {
            engine.settle(Now::read(), PATIENCE);
        }
    }
    engine.settle(Now::read(), PATIENCE);
    let wal = format!("{FILE}-wal");
    let length = std::fs::metadata(folder.path().join(&wal))
        .expect("it is there")
        .len();
    let mut counts = HashSet::new();
    for _ in 0..20 {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in [FILE, &wal] {
            std::fs::copy(folder.path().join(file), copy.path().join(file)).expect("it is copied");
        }
        let cut = std::fs::File::options()
            .write(true)
            .open(copy.path().join(&wal));
        let cut = cut.and_then(|file| file.set_len(rand::random_range(0..length)));
        cut.expect("it is cut");
        let Ok(mut left) = open(copy.path(), Durability::Off) else {
            panic!("it opens");
        };
        left.begin(Now::read()).expect("it begins");
        let data: Vec<_> = history(&mut left, "a").into_iter().map(|it| it.1).collect();
        let expected: Vec<_> = (0..data.len()).map(|it| it.to_string()).collect();
        assert_eq!(data, expected);
        counts.insert(data.len());
        assert!(keeps(&mut left, message("a", "1", -1)), "and it goes on");
    }
    assert!(counts.len() > 3, "it was cut in many places: {counts:?}");
}

/// R-OPS-3, R-EVT-31, R-DIFF-14: a hundred thousand entries that expire in one second are removed a little at a time; whoever
/// has something kept meanwhile hardly waits, each expiry is told once, and then they are gone from the file.
#[test]
fn much_that_expires_at_once_stops_nobody() {
    const MANY: usize = 30_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    engine.tell(true);
    for number in 0..MANY {
        let mut it = write(&number.to_string(), "1", 60);
        it.emit = number % 10 == 0;
        engine.submit(Now::read(), Request::Write(it));
        if number % 5_000 == 0 {
            engine.settle(Now::read(), PATIENCE);
        }
    }
    engine.settle(Now::read(), PATIENCE);
    while engine.next_outcome().is_some() {}
    let later = || Now {
        wall: Now::read().wall + Duration::from_secs(61),
        ..Now::read()
    };
    let (mut told, mut longest, begun) = (0, Duration::ZERO, Instant::now());
    let mut published = 0;
    while engine
        .next_due()
        .is_some_and(|due| due <= later().wall + Duration::from_secs(1))
        || told < MANY / 10
    {
        assert!(begun.elapsed() < PATIENCE * 3, "{told}");
        engine.turn(later());
        let asked = Instant::now();
        engine.submit(later(), Request::Publish(message("b", "1", -1)));
        published += 1;
        engine.settle(later(), PATIENCE);
        longest = longest.max(asked.elapsed());
        while let Some(outcome) = engine.next_outcome() {
            told += usize::from(matches!(outcome, Outcome::Tell(_)));
        }
    }
    assert_eq!(told, MANY / 10);
    // Wide, for a machine with much else to do; the benchmark has the number.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(
        published > MANY / 1_000,
        "others had their turn: {published}"
    );
    drop(engine);
    let file = rusqlite::Connection::open(folder.path().join(FILE)).expect("it opens");
    let left: i64 = file
        .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
        .expect("it is read");
    assert_eq!(left, 0);
}

/// R-OPS-3, R-REACT-12: nothing is left in the file of what has expired: messages, the reactions to them, copies, tokens.
#[test]
fn nothing_is_left_of_what_has_expired() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    let mut once = message("a", "1", 60);
    once.deduplication_id = Some("x".into());
    let Answer::Published(id) = ask(&mut engine, Request::Publish(once)).0 else {
        panic!("not published");
    };
    let source = Arc::new(realtime::engine::Source {
        trigger: realtime::metrics::Trigger::ServerHttp,
        connection: None,
        origin: realtime::connection::Origin::default(),
        request_id: "1".into(),
    });
    for number in 0..700 {
        let reacting = realtime::engine::Reacting {
            channel: "a".into(),
            message: id,
            reaction: "x".into(),
            add: true,
            uid: number.to_string().into(),
            umd: None,
            except: None,
            emit: false,
            source: source.clone(),
        };
        engine.submit(Now::read(), Request::React(reacting));
    }
    let token = realtime::engine::SingleUse {
        jti: "one".into(),
        until: Now::read().wall,
    };
    assert!(matches!(
        ask(&mut engine, Request::Spend(token)).0,
        Answer::Done
    ));
    let later = Now {
        wall: Now::read().wall + Duration::from_secs(3700),
        ..Now::read()
    };
    while engine.next_due().is_some_and(|due| due <= later.wall) {
        engine.turn(later);
        assert!(engine.settle(later, PATIENCE));
    }
    drop(engine);
    let file = rusqlite::Connection::open(folder.path().join(FILE)).expect("it opens");
    for table in ["messages", "reactions", "entries", "plans", "marks"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let left: i64 = file
            .query_row(&sql, [], |row| row.get(0))
            .expect("it is read");
        assert_eq!(left, 0, "{table}");
    }
}

/// R-SCHED-14: a plan of a newer version, which this one can't read, keeps no other from being carried out, and stays.
#[test]
fn a_plan_that_cannot_be_read_stops_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    let file = rusqlite::Connection::open(folder.path().join(FILE)).expect("it opens");
    let strange = "INSERT INTO plans (id, due, deferred) VALUES (zeroblob(16), 1, '{\"Dance\":1}')";
    file.execute_batch(strange).expect("it is written");
    let deferred = Deferred::Publish(message("a", "1", 0));
    let (at, eager) = (Now::read().wall, false);
    ask(
        &mut engine,
        Request::Schedule {
            at,
            deferred,
            eager,
        },
    );
    let begun = Instant::now();
    let mut heard = 0;
    while heard == 0 {
        assert!(begun.elapsed() < PATIENCE);
        engine.turn(Now::read());
        engine.settle(Now::read(), PATIENCE);
        while let Some(outcome) = engine.next_outcome() {
            heard += usize::from(matches!(outcome, Outcome::Message(..)));
        }
    }
    let left: i64 = file
        .query_row("SELECT count(*) FROM plans", [], |row| row.get(0))
        .expect("it is read");
    assert_eq!(left, 1);
}

// --- the file

/// R-OPS-2: what a newer version has added does not disturb this one, on the way back; what this one can't read is refused
/// with what to do.
#[test]
fn a_newer_file_is_read_as_long_as_it_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut engine = begun(folder.path());
    assert!(keeps(&mut engine, message("a", "1", -1)));
    let newer = |oldest: i64| {
        let file = rusqlite::Connection::open(folder.path().join(FILE)).expect("it opens");
        let sql = format!("PRAGMA user_version = 99; UPDATE meta SET oldest_reader = {oldest};");
        file.execute_batch(&sql).expect("it is written");
        file
    };
    // While this version serves, as in a swap.
    newer(1)
        .execute_batch(
            "ALTER TABLE messages ADD COLUMN mood TEXT; ALTER TABLE entries ADD COLUMN mood TEXT;
             ALTER TABLE plans ADD COLUMN mood TEXT; CREATE TABLE moods (mood TEXT);",
        )
        .expect("it adds");
    assert!(keeps(&mut engine, message("a", "2", -1)));
    drop(engine);
    let mut back = begun(folder.path());
    assert!(keeps(&mut back, message("a", "3", -1)));
    assert_eq!(history(&mut back, "a").len(), 3);
    drop(back);
    newer(50);
    let error = format!(
        "{:#}",
        open(folder.path(), Durability::Full).expect_err("too new")
    );
    assert!(
        error.contains("newer version") && error.contains(FILE),
        "{error}"
    );
}

/// What is wrong with the file is said with its name, and what to do.
#[test]
fn a_file_that_cannot_be_used_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(FILE);
    std::fs::write(
        &path,
        "this is no database, but long enough to look at".repeat(100),
    )
    .expect("it is written");
    let error = format!(
        "{:#}",
        open(folder.path(), Durability::Full).expect_err("no database")
    );
    assert!(
        error.contains(&*path.to_string_lossy()) && error.contains("move it"),
        "{error}"
    );

    let error = format!(
        "{:#}",
        open(Path::new("/proc/nowhere"), Durability::Full).expect_err("no folder")
    );
    assert!(
        error.contains("/proc/nowhere") && error.contains("set `data_dir`"),
        "{error}"
    );
}

/// Messages are nobody else's business: the folder and all files are for the server's user alone.
#[test]
fn what_is_kept_is_readable_by_its_owner_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("new/data");
    let mut engine = begun(&data);
    assert!(keeps(&mut engine, message("a", "1", -1)));
    assert_eq!(
        std::fs::metadata(&data)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    let mut names: Vec<_> = std::fs::read_dir(&data)
        .expect("it is read")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("it is there").mode() & 0o777;
            assert_eq!(mode, 0o600, "{entry:?}");
            entry.file_name().into_string().expect("a name")
        })
        .collect();
    names.sort();
    assert_eq!(names, [FILE, "realtime.db-shm", "realtime.db-wal"]);
}

// --- the server

/// R-SRV-16, R-CLAIM-26, R-DLV-12: a server that is killed has not forgotten what it answered with 202.
#[test]
fn a_server_that_is_killed_knows_its_copies_and_spent_tokens() {
    let mut server = Server::start();
    let copy = json!({"channel": "a", "event": "chat", "data": 1, "deduplicationId": "x"});
    assert_eq!(server.publish(copy.clone()).status, 202);
    let once = support::token(json!({
        "scope": "connect", "uid": "ana", "singleUse": true, "jti": "once",
        "channels": {"a": {"subscribe": true}},
    }));
    assert_eq!(server.refusal(&once), 101);
    server.signal(rustix::process::Signal::KILL);
    server.ended();
    let folder = std::mem::replace(
        &mut server.dir,
        tempfile::tempdir().expect("a temporary folder"),
    );
    let server = Server::launch_in(folder, "", &[]);
    assert_eq!(server.refusal(&once), 403);
    let mut client = server.connect(json!({
        "scope": "connect", "uid": "ben", "channels": {"a": {"subscribe": true}},
    }));
    client.subscribe("a");
    assert_eq!(server.publish(copy).status, 202);
    assert_eq!(
        server
            .publish(json!({"channel": "a", "event": "chat", "data": 2}))
            .status,
        202
    );
    assert_eq!(
        client.expect("chat")["data"],
        2,
        "the copy is not delivered"
    );
}

/// R-OPS-2, R-LOG-12: while another process holds the file the server is ready, says in its metrics that it is ill, and gets
/// well by itself.
#[test]
fn a_server_says_that_it_can_keep_nothing_and_when_that_is_over() {
    let server = Server::start();
    let copy =
        |id: &str| json!({"channel": "a", "event": "chat", "data": 1, "deduplicationId": id});
    let healthy = |server: &Server| {
        let metrics = server.get("/metrics").body;
        metrics
            .lines()
            .any(|line| line == "realtime_engine_healthy 1")
    };
    assert_eq!(server.publish(copy("1")).status, 202);
    assert!(healthy(&server));
    let other = rusqlite::Connection::open(server.path(FILE)).expect("it opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("it locks");
    assert_ne!(server.publish(copy("2")).status, 202);
    assert!(!healthy(&server));
    assert_eq!(server.get("/health").status, 200, "it still serves");
    let passing = json!({"channel": "a", "event": "chat", "data": 1});
    assert_eq!(server.publish(passing).status, 202);
    other.execute_batch("COMMIT").expect("it unlocks");
    let begun = Instant::now();
    while !healthy(&server) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.publish(copy("2")).status, 202);
}
