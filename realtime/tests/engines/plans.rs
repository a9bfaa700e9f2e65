//! Schedules (section 16 of the protocol).

use jiff::Timestamp;
use realtime::engine::{Answer, Deferred, Outcome, Request};
use realtime::events::Happening;
use ulid::Ulid;

use super::run::{Run, START, all, message, with_each, write};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(START + ms).expect("a time")
}

/// Plans something; names it, and gives the identifier that was promised.
fn plan(run: &mut Run, ms: i64, deferred: Deferred, eager: bool) -> (Ulid, Option<Ulid>) {
    let at = at(ms);
    match run.answer(Request::Schedule {
        at,
        deferred,
        eager,
    }) {
        Answer::Scheduled { schedule, message } => (schedule, message),
        other => panic!("not planned: {other:?}"),
    }
}

fn say(data: &str, store: i64) -> Deferred {
    Deferred::Publish(message("a", data, store))
}

/// What was delivered.
fn heard(outcomes: &[Outcome]) -> Vec<(Ulid, String)> {
    let heard = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Message(id, message) => Some((*id, message.data.to_string())),
        _ => None,
    });
    heard.collect()
}

/// R-SCHED-10, R-SCHED-13, R-SCHED-17, R-HIST-11: at its time, once, with an identifier of then, and kept from then on.
#[test]
fn a_message_is_delivered_at_its_time_and_once() {
    with_each(|mut run| {
        let (_, promised) = plan(&mut run, 10_000, say("1", 5), false);
        assert_eq!(promised, None);
        assert_eq!(
            run.engine.next_due().map(|due| due <= at(10_000)),
            Some(true)
        );
        assert!(heard(&run.pass(9_999)).is_empty());
        let now = heard(&run.pass(1));
        assert_eq!(now.len(), 1);
        assert_eq!(now[0].0.timestamp_ms(), (START + 10_000) as u64);
        assert!(heard(&run.pass(4_000)).is_empty());
        assert_eq!(run.page(all("a")), ["1"], "kept, counted from its delivery");
        run.pass(1_000);
        assert!(run.page(all("a")).is_empty());
    });
}

/// R-SCHED-17, R-DLV-8
#[test]
fn a_promised_identifier_is_kept() {
    with_each(|mut run| {
        let (_, promised) = plan(&mut run, 10_000, say("1", -1), true);
        let promised = promised.expect("it was asked for");
        assert_eq!(promised.timestamp_ms(), START as u64);
        assert_eq!(heard(&run.pass(10_000)), [(promised, "1".to_owned())]);
    });
}

/// R-DLV-7, R-OPS-3: many at one time come in the order in which they were planned, also with their like from before.
#[test]
fn many_that_are_due_come_in_order() {
    with_each(|mut run| {
        for number in 0..700 {
            let deferred = say(&number.to_string(), if number % 2 == 0 { -1 } else { 0 });
            let at = at(5_000);
            let eager = false;
            run.submit(Request::Schedule {
                at,
                deferred,
                eager,
            });
        }
        run.settled();
        let heard = heard(&run.pass(6_000));
        let data: Vec<_> = heard.iter().map(|it| it.1.clone()).collect();
        assert_eq!(data, (0..700).map(|it| it.to_string()).collect::<Vec<_>>());
        assert!(heard.is_sorted_by(|one, next| one.0 < next.0), "R-DLV-6");
    });
}

/// R-DIFF-10
#[test]
fn what_is_planned_can_be_looked_at_and_taken_back() {
    with_each(|mut run| {
        let (first, _) = plan(&mut run, 10_000, say("1", 0), false);
        let (second, _) = plan(&mut run, 10_000, say("2", 0), false);
        match run.answer(Request::Planned(first)) {
            Answer::Planned { at: when, deferred } => {
                assert_eq!(when, at(10_000));
                assert!(matches!(*deferred, Deferred::Publish(it) if it.data.as_str() == "1"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(run.answer(Request::Cancel(first)), Answer::Done));
        assert!(matches!(
            run.answer(Request::Cancel(first)),
            Answer::NotFound
        ));
        assert!(matches!(
            run.answer(Request::Planned(first)),
            Answer::NotFound
        ));
        assert_eq!(heard(&run.pass(10_000)).len(), 1);
        assert!(matches!(
            run.answer(Request::Planned(second)),
            Answer::NotFound
        ));
        assert!(matches!(
            run.answer(Request::Cancel(second)),
            Answer::NotFound
        ));
    });
}

/// R-SRV-16, R-SRV-12: a copy is known when it is accepted; what was accepted is delivered, whatever came meanwhile.
#[test]
fn copies_are_decided_at_acceptance() {
    with_each(|mut run| {
        let copy = |data: &str| {
            let mut it = message("a", data, 0);
            it.deduplication_id = Some("x".into());
            it
        };
        let (first, _) = plan(&mut run, 10_000, Deferred::Publish(copy("1")), false);
        let (again, promised) = plan(&mut run, 20_000, Deferred::Publish(copy("2")), true);
        assert!(again > first && promised.is_some(), "R-SRV-15");
        assert!(matches!(
            run.answer(Request::Planned(again)),
            Answer::NotFound
        ));
        assert!(!run.delivers(copy("3")));
        let mut write = write("a", "k", Some("1"), -1);
        write.deduplication_id = Some("x".into());
        plan(&mut run, 5_000, Deferred::Write(write.clone()), false);
        assert!(run.write(write).is_empty());
        let all: Vec<_> = heard(&run.pass(30_000))
            .into_iter()
            .map(|it| it.1)
            .collect();
        assert_eq!(all, ["1"]);
        assert_eq!(run.value("a", "k"), None);
    });
}

/// R-SCHED-18, R-EVT-36
#[test]
fn a_planned_write_is_compared_with_what_is_there_then() {
    with_each(|mut run| {
        run.engine.tell(true);
        let mut later = write("a", "k", Some("2"), 60);
        later.emit = true;
        plan(&mut run, 10_000, Deferred::Write(later.clone()), false);
        plan(&mut run, 20_000, Deferred::Write(later), false);
        run.write(write("a", "k", Some("1"), -1));
        let first = run.pass(10_000);
        let changes = first
            .iter()
            .filter(|it| matches!(it, Outcome::Storage { .. }))
            .count();
        assert_eq!(changes, 1);
        let previous = first.iter().find_map(|outcome| match outcome {
            Outcome::Tell(Happening::Storage(change)) => change.previous.as_ref(),
            _ => None,
        });
        assert_eq!(previous.map(ToString::to_string).as_deref(), Some("1"));
        let second = run.pass(10_000);
        assert!(second.is_empty(), "unchanged: {second:?}");
        run.clock += 59_999;
        assert!(run.value("a", "k").is_some(), "but renewed");

        let mut emitted = message("a", "3", 0);
        emitted.emit = true;
        plan(&mut run, 100_000, Deferred::Publish(emitted), false);
        let told = run
            .pass(100_000)
            .into_iter()
            .find_map(|outcome| match outcome {
                Outcome::Tell(Happening::Published(_, message)) => message.source,
                _ => None,
            });
        assert_eq!(told.as_deref().map(|it| &*it.request_id), Some("publish"));
    });
}

/// R-SCHED-14: what fell due while nobody served is done at once, and once.
#[test]
fn plans_outlive_a_restart() {
    with_each(|mut run| {
        plan(&mut run, 10_000, say("1", -1), false);
        plan(&mut run, 50_000, say("2", 0), false);
        let mut run = run.again(20_000);
        let first = heard(&run.pass(0));
        assert_eq!(first.iter().map(|it| &*it.1).collect::<Vec<_>>(), ["1"]);
        let mut run = run.again(0);
        assert!(heard(&run.pass(0)).is_empty());
        assert_eq!(heard(&run.pass(30_000)).len(), 1);
        let mut run = run.again(0);
        assert!(heard(&run.pass(1)).is_empty());
        assert_eq!(run.page(all("a")), ["1"]);
    });
}
