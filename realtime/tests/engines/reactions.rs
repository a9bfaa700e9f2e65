//! Reactions (section 15 of the protocol).

use realtime::engine::{Answer, Outcome, Reaction, Request};
use realtime::events::Happening;
use ulid::Ulid;

use super::run::{Run, START, all, message, reacting, with_each};

/// What is told of it, if anything is: the identifier of the change, and whether it was put on.
fn change(outcomes: &[Outcome]) -> Option<(Ulid, bool)> {
    let mut changes = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Reaction { id, reacting } => Some((*id, reacting.add)),
        _ => None,
    });
    let change = changes.next();
    assert!(changes.next().is_none(), "one change");
    change
}

fn react(
    run: &mut Run,
    message: Ulid,
    reaction: &str,
    add: bool,
    uid: &str,
) -> Option<(Ulid, bool)> {
    let (answer, rest) = run.ask(Request::React(reacting("a", message, reaction, add, uid)));
    assert!(matches!(answer, Answer::Done), "{answer:?}");
    change(&rest)
}

fn reactions(run: &mut Run, message: Ulid, since_ms: i64) -> Option<Vec<Reaction>> {
    let channel = "a".into();
    match run.answer(Request::Reactions {
        channel,
        message,
        since_ms,
    }) {
        Answer::Reactions(reactions) => Some(reactions),
        Answer::NotFound => None,
        other => panic!("{other:?}"),
    }
}

/// R-REACT-8, R-REACT-9, R-REACT-10, R-REACT-13
#[test]
fn a_user_has_each_reaction_to_a_message_once() {
    with_each(|mut run| {
        let id = run.publish(message("a", "1", -1));
        let added = react(&mut run, id, "+1", true, "ana").expect("a change");
        assert!(added.1 && added.0 > id);
        assert_eq!(react(&mut run, id, "+1", true, "ana"), None);
        assert!(react(&mut run, id, "-1", true, "ana").is_some());
        assert!(react(&mut run, id, "+1", true, "ben").is_some());
        assert_eq!(react(&mut run, id, "-1", false, "ben"), None, "not ben's");
        let removed = react(&mut run, id, "-1", false, "ana").expect("a change");
        assert!(
            !removed.1 && removed.0 > added.0,
            "a new identifier for each change"
        );
        assert_eq!(react(&mut run, id, "-1", false, "ana"), None);
        let left = reactions(&mut run, id, 0).expect("the message is there");
        let left: Vec<_> = left.iter().map(|it| (&*it.reaction, &*it.uid)).collect();
        assert_eq!(left, [("+1", "ana"), ("+1", "ben")], "oldest first");
    });
}

/// R-REACT-4, R-REACT-12
#[test]
fn only_a_stored_message_of_the_channel_can_be_reacted_to() {
    with_each(|mut run| {
        let kept = run.publish(message("a", "1", 10));
        let passing = run.publish(message("a", "1", 0));
        let elsewhere = run.publish(message("b", "1", -1));
        assert!(react(&mut run, kept, "x", true, "ana").is_some());
        for id in [passing, elsewhere, Ulid::nil()] {
            let (answer, rest) = run.ask(Request::React(reacting("a", id, "x", true, "ana")));
            assert!(
                matches!(answer, Answer::NotFound) && rest.is_empty(),
                "{answer:?}"
            );
        }
        run.clock += 10_000;
        let (answer, rest) = run.ask(Request::React(reacting("a", kept, "x", false, "ana")));
        assert!(
            matches!(answer, Answer::NotFound) && rest.is_empty(),
            "{answer:?}"
        );
        assert_eq!(reactions(&mut run, kept, 0), None);
        let later = run.pass(60_000);
        assert!(later.is_empty(), "they go in silence: {later:?}");
        assert_eq!(reactions(&mut run, kept, 0), None);
    });
}

/// R-HTTP-13: reactions come with their message; and one that is not visible has none.
#[test]
fn reactions_are_listed_with_their_message() {
    with_each(|mut run| {
        run.clock += 5;
        let id = run.publish(message("a", "1", -1));
        let (added, _) = react(&mut run, id, "x", true, "ana").expect("a change");
        let Answer::Messages(page) = run.answer(Request::History(all("a"))) else {
            panic!("no page");
        };
        let expected = Reaction {
            id: added,
            reaction: "x".into(),
            uid: "ana".into(),
            umd: Some(super::run::json("{\"of\":1}")),
        };
        assert_eq!(page[0].reactions, [expected]);
        assert_eq!(
            reactions(&mut run, id, START + 5).map(|it| it.len()),
            Some(1)
        );
        assert_eq!(reactions(&mut run, id, START + 6), None);
    });
}

/// R-EVT-32, R-EVT-33, R-EVT-35, R-REACT-16
#[test]
fn backends_are_told_which_reaction_was_put_on_and_taken_off() {
    with_each(|mut run| {
        run.engine.tell(true);
        let id = run.publish(message("a", "1", 60));
        let mut told = |add, emit, after| {
            run.clock += after;
            let mut it = reacting("a", id, "x", add, "ana");
            it.emit = emit;
            let (_, rest) = run.ask(Request::React(it));
            let (changed, _) = change(&rest).expect("a change");
            let told = rest.into_iter().find_map(|outcome| match outcome {
                Outcome::Tell(Happening::Reaction {
                    id,
                    reacting,
                    created_at,
                    expires_at,
                }) => Some((id, reacting, created_at, expires_at)),
                _ => None,
            });
            (changed, told)
        };
        let (added, put_on) = told(true, true, 5);
        let (removed, taken_off) = told(false, true, 7);
        let (put_on, taken_off) = (put_on.expect("told"), taken_off.expect("told"));
        assert_ne!(added, removed);
        assert_eq!((put_on.0, taken_off.0), (added, added));
        assert!(put_on.1.add && !taken_off.1.add);
        assert_eq!(
            &*taken_off.1.source.request_id, "add",
            "of the request that put it on"
        );
        assert_eq!(put_on.2.as_millisecond(), START + 5);
        assert_eq!(taken_off.2, put_on.2);
        let end = jiff::Timestamp::from_millisecond(START + 60_000).ok();
        assert_eq!((put_on.3, taken_off.3), (end, end));
        assert!(told(true, false, 0).1.is_none(), "not asked for");
    });
}
