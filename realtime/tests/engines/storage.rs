//! Storage (section 13 of the protocol).

use realtime::engine::{Answer, Keys, OBSERVED_BYTES, Outcome, PAGE_ITEMS, Request, Select};
use realtime::events::{Happening, StorageChange};

use super::run::{Run, START, join, json, source, user, with_each, write};

/// What observers are told: key, value, writer.
fn seen(outcomes: &[Outcome]) -> Vec<(String, Option<String>)> {
    let seen = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Storage { key, value, .. } => {
            Some((key.to_string(), value.as_ref().map(ToString::to_string)))
        }
        _ => None,
    });
    seen.collect()
}

/// What backends are told.
fn told(outcomes: Vec<Outcome>) -> Vec<StorageChange> {
    let told = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Tell(Happening::Storage(change)) => Some(*change),
        _ => None,
    });
    told.collect()
}

fn keys(run: &mut Run, select: Select, permitted: Keys) -> Vec<String> {
    let channel = "a".into();
    match run.answer(Request::List {
        channel,
        select,
        permitted,
    }) {
        Answer::Entries(page) => page.into_iter().map(|it| it.key.into()).collect(),
        other => panic!("no page: {other:?}"),
    }
}

/// R-STOR-1, R-STOR-8, R-STOR-10, R-STOR-14, R-STOR-17, R-STOR-34
#[test]
fn a_change_is_told_with_its_value_and_its_writer() {
    with_each(|mut run| {
        assert_eq!(run.value("a", "k"), None);
        for value in ["{\"x\":1}", "[]", "\"\"", "0", "false"] {
            let outcomes = run.write(write("a", "k", Some(value), -1));
            let [
                Outcome::Storage {
                    channel,
                    key,
                    value: now,
                    meta,
                },
            ] = &outcomes[..]
            else {
                panic!("{outcomes:?}");
            };
            assert_eq!((&**channel, &**key), ("a", "k"));
            assert_eq!(
                now.as_ref().map(ToString::to_string).as_deref(),
                Some(value)
            );
            assert_eq!(*meta, user("ana"));
            assert_eq!(run.value("a", "k").as_deref(), Some(value));
        }
        assert_eq!(run.value("b", "k"), None);
        let cleared = run.write(write("a", "k", None, -1));
        assert_eq!(seen(&cleared), [("k".into(), None)]);
        assert_eq!(run.value("a", "k"), None);
    });
}

/// R-STOR-11, R-STOR-12, R-STOR-13: the same value is no change, however it is written; its writer and its time are new.
#[test]
fn the_same_value_is_written_in_silence() {
    with_each(|mut run| {
        run.engine.tell(true);
        assert!(run.write(write("a", "k", None, -1)).is_empty());
        run.write(write("a", "k", Some(r#"{"a":1,"b":[2]}"#), 10));
        run.clock += 9_000;
        let mut again = write("a", "k", Some(r#"{"b":[2.0],"a":1}"#), 10);
        again.meta = user("ben");
        again.emit = true;
        assert!(run.write(again).is_empty());
        run.clock += 9_000;
        let (channel, key) = ("a".into(), "k".into());
        match run.answer(Request::Read { channel, key }) {
            Answer::Entry(Some(entry)) => assert_eq!(entry.meta, user("ben")),
            other => panic!("the time is not renewed: {other:?}"),
        }
    });
}

/// R-STOR-20, R-STOR-21, R-STOR-22, R-STOR-23, R-DIFF-14
#[test]
fn an_entry_that_has_expired_is_not_there() {
    with_each(|mut run| {
        run.write(write("a", "k", Some("1"), 10));
        run.clock += 9_999;
        assert_eq!(run.value("a", "k").as_deref(), Some("1"));
        run.clock += 1;
        assert_eq!(run.value("a", "k"), None);
        assert!(keys(&mut run, Select::After(None), Keys::all()).is_empty());
        assert!(run.write(write("a", "k", None, -1)).is_empty());
        assert_eq!(seen(&run.write(write("a", "k", Some("1"), 10))).len(), 1);
        run.clock += 10_000;
        let again = run.write(write("a", "k", Some("1"), 10));
        assert_eq!(seen(&again).len(), 1, "the expired value does not count");
        assert!(
            seen(&run.pass(20_000)).is_empty(),
            "nobody observes an expiry"
        );
    });
}

/// R-STOR-31, R-STOR-32, R-EVT-29, R-EVT-30
#[test]
fn backends_are_told_what_changed() {
    with_each(|mut run| {
        run.engine.tell(true);
        let emitted = |value, store| {
            let mut it = write("a", "k", value, store);
            it.emit = true;
            it
        };
        let first = told(run.write(emitted(Some("1"), 60)));
        let expected = StorageChange {
            channel: "a".into(),
            key: "k".into(),
            value: Some(json("1")),
            previous: None,
            expired: false,
            expires_at: jiff::Timestamp::from_millisecond(START + 60_000).ok(),
            meta: user("ana"),
            source: Some(source("write")),
        };
        assert_eq!(first, [expected]);
        let second = told(run.write(emitted(Some("2"), -1)));
        assert_eq!(second[0].previous, Some(json("1")));
        assert_eq!(second[0].expires_at, None);
        let cleared = told(run.write(emitted(None, -1)));
        assert_eq!(
            (&cleared[0].value, &cleared[0].previous),
            (&None, &Some(json("2")))
        );
        assert!(
            told(run.write(write("a", "k", Some("3"), -1))).is_empty(),
            "not asked for"
        );
        run.engine.tell(false);
        assert!(
            told(run.write(emitted(Some("4"), -1))).is_empty(),
            "nobody listens"
        );
    });
}

/// R-EVT-31, R-DIFF-14: within a minute, with what the last write had; also if somebody writes before that.
#[test]
fn backends_are_told_of_an_expiry_if_the_last_write_asked_for_it() {
    with_each(|mut run| {
        run.engine.tell(true);
        for (key, emits) in [("told", true), ("written", true), ("silent", false)] {
            run.write(write("a", key, Some("1"), 5));
            let mut last = write("a", key, Some("1"), 10);
            last.emit = emits;
            last.source = Some(source("last"));
            run.write(last);
        }
        run.clock += 10_500;
        let mut early = write("a", "written", Some("2"), -1);
        early.emit = true;
        let written = told(run.write(early));
        assert_eq!(
            written.iter().map(|it| it.expired).collect::<Vec<_>>(),
            [true, false],
            "the end of the old value, then the new one"
        );
        assert_eq!(written[1].previous, None);
        let expired = told(run.pass(49_000));
        let [only] = &expired[..] else {
            panic!("{expired:?}");
        };
        assert_eq!(
            (&*only.key, only.expired, &only.value),
            ("told", true, &None)
        );
        assert_eq!(only.previous, Some(json("1")));
        assert_eq!(only.source, Some(source("last")));
        assert!(told(run.pass(60_000)).is_empty(), "once");
    });
}

/// R-HTTP-44
#[test]
fn a_list_is_ordered_by_bytes_and_holds_what_is_permitted() {
    with_each(|mut run| {
        for key in ["b", "a", "é", "Z", "a/b", "z"] {
            run.write(write("a", key, Some("1"), -1));
        }
        let every = ["Z", "a", "a/b", "b", "z", "é"];
        assert_eq!(keys(&mut run, Select::After(None), Keys::all()), every);
        assert_eq!(
            keys(&mut run, Select::After(Some("a/b".into())), Keys::all()),
            every[3..]
        );
        let short = Keys::such_that(|key| key.len() == 1);
        assert_eq!(
            keys(&mut run, Select::After(None), short.clone()),
            ["Z", "a", "b", "z"]
        );
        let named = ["z", "a", "z", "no", "a/b"].map(Into::into).to_vec();
        assert_eq!(keys(&mut run, Select::Named(named), short), ["a", "z"]);
        for nothing in [&[][..], &["no"], &["a"]] {
            let named = nothing.iter().map(|key| (*key).into()).collect();
            let other = Keys::such_that(|key| key != "a");
            assert!(keys(&mut run, Select::Named(named), other).is_empty());
        }
        for number in 0..PAGE_ITEMS + 5 {
            run.submit(Request::Write(write(
                "a",
                &format!("n{number:03}"),
                Some("1"),
                -1,
            )));
        }
        run.settled();
        let numbers = Keys::such_that(|key| key.starts_with('n'));
        let page = keys(&mut run, Select::After(None), numbers.clone());
        assert_eq!((page.len(), &*page[0]), (PAGE_ITEMS, "n000"));
        let rest = keys(&mut run, Select::After(Some((*page[99]).into())), numbers);
        assert_eq!(rest.len(), 5);
    });
}

/// R-STOR-25, R-STOR-26: with the answer come the values as they are at that place in the order, and changes after it.
#[test]
fn a_subscription_begins_with_what_it_observes() {
    with_each(|mut run| {
        for key in ["b", "a", "hidden"] {
            run.write(write("a", key, Some("1"), -1));
        }
        run.write(write("a", "short", Some("1"), 1));
        run.clock += 1_000;
        let short = Keys::such_that(|key| key != "hidden");
        run.submit(Request::Write(write("a", "b", Some("2"), -1)));
        run.submit(join("a", None, Some(short)));
        run.submit(Request::Write(write("a", "b", Some("3"), -1)));
        let outcomes = run.settled();
        let observed = outcomes
            .iter()
            .position(|it| matches!(it, Outcome::Answer(_, Answer::Joined { .. })));
        let at = observed.expect("it is answered");
        let Outcome::Answer(_, Answer::Joined { observed, .. }) = &outcomes[at] else {
            unreachable!("it was found");
        };
        let observed: Vec<_> = observed
            .iter()
            .map(|it| (&*it.key, it.value.to_string()))
            .collect();
        assert_eq!(observed, [("a", "1".to_owned()), ("b", "2".to_owned())]);
        assert_eq!(seen(&outcomes[..at]), [("b".into(), Some("2".into()))]);
        assert_eq!(seen(&outcomes[at..]), [("b".into(), Some("3".into()))]);
    });
}

/// Nobody's outbox has to hold more than that; and then there is no subscription.
#[test]
fn what_a_subscription_observes_is_bounded() {
    with_each(|mut run| {
        let large = format!("\"{}\"", "x".repeat(OBSERVED_BYTES / 8));
        for key in 0..9 {
            run.write(write("a", &key.to_string(), Some(&large), -1));
        }
        let answer = run.answer(join("a", None, Some(Keys::all())));
        assert!(matches!(answer, Answer::TooMuch), "{answer:?}");
        let channel = "a".into();
        match run.answer(Request::Describe { channel }) {
            Answer::Described { subscriptions, .. } => assert_eq!(subscriptions, 0),
            other => panic!("{other:?}"),
        }
        let one = Keys::such_that(|key| key == "3");
        assert!(matches!(
            run.answer(join("a", None, Some(one))),
            Answer::Joined { .. }
        ));
    });
}

/// R-STOR-33, R-STOR-35
#[test]
fn the_last_write_wins_and_is_no_message() {
    with_each(|mut run| {
        for number in 0..100 {
            run.submit(Request::Write(write(
                "a",
                "k",
                Some(&number.to_string()),
                -1,
            )));
        }
        let values = seen(&run.settled());
        let expected: Vec<_> = (0..100)
            .map(|it| ("k".to_owned(), Some(it.to_string())))
            .collect();
        assert_eq!(values, expected);
        assert_eq!(run.value("a", "k").as_deref(), Some("99"));
        assert!(run.page(super::run::all("a")).is_empty());
    });
}
