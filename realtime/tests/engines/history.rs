//! Stored messages (section 14 of the protocol).

use realtime::engine::{Answer, History, PAGE_BYTES, PAGE_ITEMS, Request};
use ulid::Ulid;

use super::run::{Run, START, all, message, user, with_each};

/// R-HIST-1, R-HIST-3: what is kept is delivered like everything else, and listed later with its sender.
#[test]
fn a_stored_message_is_delivered_and_listed() {
    with_each(|mut run| {
        assert!(run.delivers(message("a", "1", -1)));
        assert!(run.delivers(message("a", "2", 0)));
        assert!(run.delivers(message("b", "3", 60)));
        let Answer::Messages(page) = run.answer(Request::History(all("a"))) else {
            panic!("no page");
        };
        assert_eq!(page.len(), 1);
        assert_eq!((&*page[0].event, &*page[0].data.to_string()), ("chat", "1"));
        assert_eq!(page[0].meta, user("ana"));
        assert_eq!(run.page(all("b")), ["3"]);
        assert!(run.page(all("c")).is_empty());
    });
}

/// R-HIST-2, R-DIFF-14: kept for so many seconds, and not a moment longer; -1 is for ever.
#[test]
fn a_message_is_listed_as_long_as_it_is_kept() {
    with_each(|mut run| {
        run.publish(message("a", "1", 10));
        run.publish(message("a", "2", -1));
        run.publish(message("a", "3", 20));
        run.clock += 9_999;
        assert_eq!(run.page(all("a")), ["1", "2", "3"]);
        run.clock += 1;
        assert_eq!(run.page(all("a")), ["2", "3"]);
        run.pass(10_000);
        assert_eq!(run.page(all("a")), ["2"]);
        run.pass(1_000_000_000);
        assert_eq!(run.page(all("a")), ["2"]);
    });
}

/// R-HIST-5, R-HIST-6, R-HIST-8, R-HTTP-13 to R-HTTP-15, R-HTTP-19: what is visible begins at a millisecond, and `after` and
/// `before` can't widen it.
#[test]
fn a_page_lies_within_its_bounds() {
    with_each(|mut run| {
        let mut ids = Vec::new();
        for number in 0..6 {
            ids.push(run.publish(message("a", &number.to_string(), -1)));
            run.clock += 1;
        }
        let since = |ms: i64| History {
            since_ms: START + ms,
            ..all("a")
        };
        assert_eq!(run.page(since(2)), ["2", "3", "4", "5"]);
        assert_eq!(run.page(since(3)), ["3", "4", "5"]);
        assert!(run.page(since(6)).is_empty());
        assert!(run.page(since(i64::MAX - START)).is_empty());
        let from = |after: usize| History {
            after: Some(ids[after]),
            ..since(2)
        };
        assert_eq!(run.page(from(3)), ["4", "5"]);
        assert_eq!(run.page(from(0)), ["2", "3", "4", "5"]);
        let back = |before: Option<Ulid>| History {
            before,
            reverse: true,
            ..since(2)
        };
        assert_eq!(run.page(back(None)), ["5", "4", "3", "2"]);
        assert_eq!(run.page(back(Some(ids[4]))), ["3", "2"]);
        assert!(run.page(back(Some(ids[1]))).is_empty());
        assert!(run.page(back(Some(Ulid::nil()))).is_empty());
    });
}

/// R-DIFF-21
#[test]
fn a_page_can_be_of_one_event() {
    with_each(|mut run| {
        for number in 0..10 {
            let mut it = message("a", &number.to_string(), -1);
            it.event = if number % 3 == 0 { "third" } else { "other" }.into();
            run.publish(it);
        }
        let third = |reverse| History {
            event: Some("third".into()),
            reverse,
            ..all("a")
        };
        assert_eq!(run.page(third(false)), ["0", "3", "6", "9"]);
        assert_eq!(run.page(third(true)), ["9", "6", "3", "0"]);
    });
}

/// R-HTTP-17: a page ends at a hundred messages or a million bytes; one that is larger alone is a page of its own. Those that
/// have expired do not count.
#[test]
fn a_page_is_full_when_there_is_enough() {
    with_each(|mut run| {
        for number in 0..PAGE_ITEMS * 2 {
            run.submit(Request::Publish(message("a", "\"gone\"", 1)));
            run.submit(Request::Publish(message("a", &number.to_string(), -1)));
        }
        run.settled();
        run.clock += 1_000;
        let page = run.page(all("a"));
        assert_eq!(page.len(), PAGE_ITEMS);
        assert_eq!(page[PAGE_ITEMS - 1], (PAGE_ITEMS - 1).to_string());

        let large = format!("\"{}\"", "x".repeat(PAGE_BYTES / 3));
        for _ in 0..5 {
            run.publish(message("b", &large, -1));
        }
        assert_eq!(run.page(all("b")).len(), 2);
        let alone = format!("\"{}\"", "x".repeat(PAGE_BYTES * 2));
        run.publish(message("c", &alone, -1));
        run.publish(message("c", "1", -1));
        assert_eq!(run.page(all("c")), [alone]);
    });
}

/// R-REACT-5: what the target of a reaction is called.
#[test]
fn the_event_of_a_stored_message_is_found_in_its_channel_alone() {
    with_each(|mut run| {
        let id = run.publish(message("a", "1", 5));
        let passing = run.publish(message("a", "1", 0));
        let found = |run: &mut Run, channel: &str, message| {
            let channel = channel.into();
            match run.answer(Request::Find { channel, message }) {
                Answer::Found(event) => event.map(String::from),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(found(&mut run, "a", id).as_deref(), Some("chat"));
        assert_eq!(found(&mut run, "b", id), None);
        assert_eq!(found(&mut run, "a", passing), None);
        run.clock += 5_000;
        assert_eq!(found(&mut run, "a", id), None);
    });
}
