//! What outlives the end of a process, and what a successor takes over.

use realtime::engine::{Answer, EngineState, Outcome, Request};
use realtime::presence::Member;

use super::run::{Run, all, join, json, member, message, reacting, token, with_each, write};

fn spent(answer: &Answer) -> bool {
    match answer {
        Answer::Spent => true,
        Answer::Done | Answer::Joined { .. } => false,
        other => panic!("{other:?}"),
    }
}

/// R-STOR-2, R-HIST-1, R-SCHED-14: everything that was answered is there again.
#[test]
fn what_is_kept_outlives_a_restart() {
    with_each(|mut run| {
        let id = run.publish(message("a", "1", -1));
        run.answer(Request::React(reacting("a", id, "x", true, "ana")));
        run.write(write("a", "k", Some("{\"v\":1.50}"), -1));
        run.write(write("a", "short", Some("1"), 5));
        let mut run = run.again(5_000);
        assert_eq!(run.page(all("a")), ["1"]);
        assert_eq!(
            run.value("a", "k").as_deref(),
            Some("{\"v\":1.50}"),
            "R-JSON-9"
        );
        assert_eq!(run.value("a", "short"), None);
        let again = run.ask(Request::React(reacting("a", id, "x", true, "ana")));
        assert!(again.1.is_empty(), "it is there already");
    });
}

/// R-SRV-12, R-SRV-13, R-SRV-16: also of what is not kept, and of writes.
#[test]
fn copies_are_known_after_a_restart() {
    with_each(|mut run| {
        let copy = |store| {
            let mut it = message("a", "1", store);
            it.deduplication_id = Some("x".into());
            it
        };
        let mut write = write("b", "k", Some("1"), -1);
        write.deduplication_id = Some("x".into());
        assert!(run.delivers(copy(0)));
        assert_eq!(run.write(write.clone()).len(), 1);
        let mut run = run.again(299_000);
        assert!(!run.delivers(copy(0)));
        assert!(!run.delivers(copy(-1)));
        write.value = Some(json("2"));
        assert!(run.write(write.clone()).is_empty());
        assert_eq!(run.value("b", "k").as_deref(), Some("1"));
        let mut run = run.again(1_000);
        assert!(run.delivers(copy(0)), "after five minutes it is free again");
        assert_eq!(run.write(write).len(), 1);
    });
}

/// R-SRV-13: two at once, of which neither is kept yet: one is a copy.
#[test]
fn of_two_at_once_one_is_the_copy() {
    with_each(|mut run| {
        for store in [0, -1, 60] {
            let mut it = message("a", "1", store);
            it.deduplication_id = Some(store.to_string().into());
            run.submit(Request::Publish(it.clone()));
            run.submit(Request::Publish(it));
        }
        let delivered = run
            .settled()
            .into_iter()
            .filter(|it| matches!(it, Outcome::Message(..)));
        assert_eq!(delivered.count(), 3);
    });
}

/// R-CLAIM-22, R-CLAIM-24, R-CLAIM-26
#[test]
fn a_token_is_spent_once_also_at_once_and_after_a_restart() {
    with_each(|mut run| {
        run.submit(Request::Spend(token("a")));
        run.submit(Request::Spend(token("a")));
        let mut spending = join("c", None, None);
        if let Request::Join { spend, .. } = &mut spending {
            *spend = Some(token("a"));
        }
        run.submit(spending.clone());
        let answers = run
            .settled()
            .into_iter()
            .filter_map(|outcome| match outcome {
                Outcome::Answer(_, answer) => Some(spent(&answer)),
                _ => None,
            });
        let answers: Vec<_> = answers.collect();
        assert_eq!(
            (answers.len(), answers.iter().filter(|it| !**it).count()),
            (3, 1)
        );
        let mut run = run.again(1_000);
        assert!(spent(&run.answer(Request::Check(token("a")))));
        assert!(spent(&run.answer(Request::Spend(token("a")))));
        assert!(spent(&run.answer(spending)));
        assert!(!spent(&run.answer(Request::Check(token("b")))));
    });
}

/// R-CLAIM-25, R-PRES-17: a subscription or an update that finds no room spends nothing, neither here nor after a restart.
#[test]
fn a_refusal_spends_nothing() {
    with_each(|mut run| {
        let large = |uid: &str| Member {
            uid: uid.into(),
            umd: Some(json(&format!("\"{}\"", "x".repeat(60_000)))),
        };
        let with = |uid: &str, jti: &str| {
            let mut request = join("presence.a", Some(large(uid)), None);
            if let Request::Join { spend, .. } = &mut request {
                *spend = Some(token(jti));
            }
            request
        };
        assert!(!spent(&run.answer(with("ana", "a"))));
        assert!(matches!(run.answer(with("ben", "b")), Answer::PresenceFull));
        assert!(matches!(
            run.answer(join("presence.a", Some(member("cy")), None)),
            Answer::Joined { .. }
        ));
        let update = Request::Update {
            channel: "presence.a".into(),
            member: large("cy"),
            spend: Some(token("c")),
        };
        assert!(matches!(run.answer(update), Answer::PresenceFull));
        for jti in ["b", "c"] {
            assert!(!spent(&run.answer(Request::Check(token(jti)))));
        }
        let mut run = run.again(0);
        for jti in ["b", "c"] {
            assert!(!spent(&run.answer(Request::Spend(token(jti)))));
        }
        assert!(spent(&run.answer(Request::Spend(token("a")))));
    });
}

/// R-DLV-5: whatever the clock does, and whether anything was kept.
#[test]
fn identifiers_rise_over_restarts_and_with_a_clock_that_is_set_back() {
    with_each(|mut run| {
        let mut last = run.publish(message("a", "1", -1));
        for (clock, store) in [
            (0, -1),
            (-3_600_000, -1),
            (0, 0),
            (7_200_000, -1),
            (-10_000_000, 0),
            (-1, 0),
        ] {
            run = run.again(clock);
            let id = run.publish(message("a", "1", store));
            assert!(id > last, "{id} after {last}, with the clock at {clock}");
            last = id;
            // A process that lives has time to write how far it has come.
            run.pass(0);
            run.settled();
        }
        let data = run.page(all("a"));
        assert_eq!(data.len(), 4);
    });
}

/// R-DLV-5, R-DLV-6: also those of messages that nobody keeps, assigned shortly before the end of a process whose clock had
/// been ahead.
#[test]
fn identifiers_of_what_is_not_kept_are_not_assigned_again() {
    with_each(|mut run| {
        run.publish(message("a", "0", 0));
        run.pass(0);
        run.clock += 9_000;
        let mut last = run.publish(message("a", "0", 0));
        for _ in 0..1_000 {
            last = run.publish(message("a", "0", 0));
        }
        let mut run = run.again(-9_500);
        let next = run.publish(message("a", "0", 0));
        assert!(next > last, "{next} after {last}");
    });
}

/// A successor has the place open while its predecessor serves; then it goes on where that one ended; and back again.
#[test]
fn a_successor_goes_on_and_so_does_the_predecessor_after_it() {
    with_each(|mut run| {
        let mut copy = message("a", "1", -1);
        copy.deduplication_id = Some("x".into());
        let mut successor = Run {
            place: run.place.clone(),
            engine: run.place.open(),
            clock: run.clock,
        };
        assert!(run.delivers(copy.clone()));
        assert!(!spent(&run.answer(Request::Spend(token("t")))));
        run.answer(join("presence.a", Some(member("ana")), None));
        let at = jiff::Timestamp::from_millisecond(super::run::START + 5_000).expect("a time");
        let deferred = realtime::engine::Deferred::Publish(message("a", "\"later\"", 0));
        run.answer(Request::Schedule {
            at,
            deferred,
            eager: false,
        });
        let last = run.publish(message("a", "2", 0));

        // One that only waits does nothing unasked.
        successor.clock += 6_000;
        successor.engine.turn(successor.now());
        assert_eq!(successor.engine.next_due(), None);
        assert!(successor.settled().is_empty());
        successor.clock -= 6_000;

        for turn in 0..2 {
            let state = run.engine.export(run.now());
            let wire = postcard::to_stdvec(&state).expect("it travels");
            let state: EngineState = postcard::from_bytes(&wire).expect("it arrives");
            run.engine.release();
            assert_eq!(run.engine.next_due(), None, "it does nothing any more");
            successor.engine.import(successor.now(), state);
            let channel = "presence.a".into();
            let connection = realtime::connection::ConnectionId::random();
            successor
                .engine
                .adopt(&channel, connection, Some("ana".into()), None, true);
            successor.engine.adopted(successor.now());
            assert!(successor.settled().is_empty(), "nobody is told");
            assert!(!successor.delivers(copy.clone()));
            assert!(spent(&successor.answer(Request::Spend(token("t")))));
            match successor.answer(Request::Describe { channel }) {
                Answer::Described {
                    subscriptions,
                    members,
                } => {
                    assert_eq!(
                        (subscriptions, &*members),
                        (1, &[member("ana")][..]),
                        "turn {turn}"
                    );
                }
                other => panic!("{other:?}"),
            }
            assert!(successor.publish(message("a", "3", 0)) > last);
            std::mem::swap(&mut run, &mut successor);
        }
        let heard = run
            .pass(5_000)
            .into_iter()
            .filter(|it| matches!(it, Outcome::Message(..)));
        assert_eq!(heard.count(), 1, "it was planned before, and is done once");
        assert!(successor.pass(5_000).is_empty());
    });
}

/// R-OPS-2: a predecessor that dies in the middle of a handover has kept what it has answered.
#[test]
fn a_successor_of_a_dead_process_has_what_was_kept() {
    with_each(|mut run| {
        let mut copy = message("a", "1", -1);
        copy.deduplication_id = Some("x".into());
        let mut successor = Run {
            place: run.place.clone(),
            engine: run.place.open(),
            clock: run.clock,
        };
        let last = run.publish(copy.clone());
        run.answer(Request::Spend(token("t")));
        drop(run);
        successor
            .engine
            .import(successor.now(), EngineState::default());
        successor.engine.adopted(successor.now());
        assert!(successor.publish(message("a", "2", 0)) > last);
        assert!(!successor.delivers(copy));
        assert!(spent(&successor.answer(Request::Spend(token("t")))));
        assert_eq!(successor.page(all("a")), ["1"]);
    });
}
