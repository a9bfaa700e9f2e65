//! Rules of members, counts, copies and tokens, against a naive model. What is kept: `tests/engines.rs`.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use proptest::prelude::*;

use super::super::marks::Mark;
use super::super::{DEDUPLICATION_WINDOW, Publish, SPENT_MARGIN, SingleUse};
use super::*;

/// A moment, in milliseconds since some day in 2026.
fn at(ms: i64) -> Now {
    Now {
        wall: Timestamp::from_millisecond(1_790_000_000_000 + ms).expect("a time"),
        mono: Instant::now(),
    }
}

fn publish(channel: &str, deduplication_id: Option<&str>) -> Publish {
    Publish {
        channel: channel.into(),
        event: "chat".into(),
        data: Json::null(),
        meta: None,
        except: None,
        deduplication_id: deduplication_id.map(Into::into),
        store: 0,
        emit: false,
        source: None,
    }
}

/// An engine with a file of its own.
struct Opened(
    Embedded,
    #[expect(dead_code, reason = "removed when dropped")] tempfile::TempDir,
);

impl Opened {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let meter = EngineMeter::default();
        let engine = Embedded::open(folder.path(), Durability::Off, meter, Arc::new(|| {}));
        Self(engine.expect("it opens"), folder)
    }
}

impl Deref for Opened {
    type Target = Embedded;

    fn deref(&self) -> &Embedded {
        &self.0
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut Embedded {
        &mut self.0
    }
}

fn outcomes(engine: &mut Embedded, now: Now) -> Vec<Outcome> {
    assert!(engine.settle(now, Duration::from_secs(20)), "it settles");
    std::iter::from_fn(|| engine.next_outcome()).collect()
}

/// Submits, and gives what came of it: the answer, and the rest.
fn ask(engine: &mut Embedded, now: Now, request: Request) -> (Option<Answer>, Vec<Outcome>) {
    let ticket = engine.submit(now, request);
    let mut answer = None;
    let mut rest = Vec::new();
    for outcome in outcomes(engine, now) {
        match outcome {
            Outcome::Answer(to, given) => {
                assert_eq!(to, ticket);
                assert!(answer.replace(given).is_none(), "one answer to one request");
            }
            other => rest.push(other),
        }
    }
    (answer, rest)
}

/// Publishes; the identifier, and whether it was delivered.
fn accepted(engine: &mut Embedded, now: Now, message: Publish) -> (Ulid, bool) {
    let (answer, rest) = ask(engine, now, Request::Publish(message));
    let Some(Answer::Published(id)) = answer else {
        panic!("not published: {answer:?}");
    };
    match &rest[..] {
        [] => (id, false),
        [Outcome::Message(delivered, _)] => {
            assert_eq!(*delivered, id, "R-DLV-8");
            (id, true)
        }
        more => panic!("more than one delivery: {more:?}"),
    }
}

fn member(uid: &str, umd: u8) -> Member {
    Member {
        uid: uid.into(),
        umd: (umd > 0).then(|| Json::compact(&umd.to_string()).expect("JSON")),
    }
}

fn join(channel: &str, member: Option<Member>, spend: Option<SingleUse>) -> Request {
    Request::Join {
        channel: channel.into(),
        connection: ConnectionId::random(),
        member,
        counted: true,
        observe: None,
        spend,
    }
}

fn leave(channel: &str, uid: Option<&str>) -> Request {
    Request::Leave {
        channel: channel.into(),
        connection: ConnectionId::random(),
        uid: uid.map(Into::into),
        counted: true,
    }
}

fn token(jti: &str, expires_ms: i64) -> SingleUse {
    SingleUse {
        jti: jti.into(),
        until: at(expires_ms).wall,
    }
}

fn described(engine: &mut Embedded, channel: &str) -> (u64, Vec<Member>) {
    let channel = channel.into();
    match ask(engine, at(0), Request::Describe { channel }).0 {
        Some(Answer::Described {
            subscriptions,
            members,
        }) => (subscriptions, members.to_vec()),
        other => panic!("not described: {other:?}"),
    }
}

/// R-DLV-4: the first ten characters are the milliseconds at which the message was processed.
#[test]
fn an_identifier_is_a_ulid_of_the_moment() {
    let mut engine = Opened::new();
    let (id, _) = accepted(&mut engine, at(7), publish("a", None));
    assert_eq!(id.to_string().len(), 26);
    assert_eq!(id.timestamp_ms(), 1_790_000_000_007);
}

proptest! {
    /// R-DLV-5, R-DLV-6, R-DLV-7: within a millisecond, and with a clock that jumps anywhere.
    #[test]
    fn identifiers_rise_whatever_the_clock_does(
        times in prop::collection::vec(prop_oneof![Just(0i64), -100_000i64..100_000], 1..200),
    ) {
        let mut engine = Opened::new();
        let mut last = Ulid::nil();
        for ms in times {
            let (id, delivered) = accepted(&mut engine, at(ms), publish("a", None));
            prop_assert!(delivered && id > last, "{id} after {last}");
            // As texts, too: that is how clients compare them.
            prop_assert!(id.to_string() > last.to_string());
            last = id;
        }
    }
}

const WINDOW: i64 = 5 * 60 * 1000;

/// R-SRV-12, R-SRV-13, R-LIM-14
#[test]
fn a_copy_within_five_minutes_disappears_and_does_not_prolong_them() {
    assert_eq!(DEDUPLICATION_WINDOW.as_millis(), WINDOW as u128);
    let mut engine = Opened::new();
    let mut copy = |ms| accepted(&mut engine, at(ms), publish("a", Some("x"))).1;
    assert!(copy(0));
    assert!(!copy(1));
    assert!(!copy(WINDOW - 1));
    assert!(copy(WINDOW), "free again, counted from the first");
    assert!(!copy(2 * WINDOW - 1));
}

/// R-SRV-13
#[test]
fn the_same_deduplication_id_in_another_channel_is_another() {
    let mut engine = Opened::new();
    let mut copy = |channel, id| accepted(&mut engine, at(0), publish(channel, Some(id))).1;
    assert!(copy("a", "x"));
    assert!(copy("b", "x"));
    assert!(copy("a", "y"));
    assert!(copy("a", "b x"));
    assert!(copy("a/b", "x"));
    assert!(!copy("b", "x"));
}

/// R-SRV-15
#[test]
fn a_copy_gets_an_identifier_of_its_own_that_nobody_sees() {
    let mut engine = Opened::new();
    let (first, _) = accepted(&mut engine, at(0), publish("a", Some("x")));
    let (second, delivered) = accepted(&mut engine, at(0), publish("a", Some("x")));
    let (third, _) = accepted(&mut engine, at(0), publish("a", None));
    assert!(!delivered && first < second && second < third);
}

/// R-CLAIM-22, R-CLAIM-24, R-CLAIM-26
#[test]
fn a_single_use_token_succeeds_once_wherever_it_is_used() {
    let mut engine = Opened::new();
    let done = |engine: &mut Embedded, request| {
        matches!(
            ask(engine, at(0), request).0,
            Some(Answer::Done | Answer::Joined { .. })
        )
    };
    assert!(done(&mut engine, Request::Spend(token("a", 1000))));
    assert!(!done(&mut engine, Request::Spend(token("a", 1000))));
    assert!(!done(&mut engine, join("c", None, Some(token("a", 1000)))));
    assert!(done(&mut engine, Request::Check(token("b", 1000))));
    assert!(done(&mut engine, join("c", None, Some(token("b", 1000)))));
    assert!(!done(&mut engine, join("d", None, Some(token("b", 1000)))));
    assert!(!done(&mut engine, Request::Spend(token("b", 1000))));
    assert!(!done(&mut engine, Request::Check(token("b", 1000))));
    assert_eq!(
        described(&mut engine, "c").0,
        1,
        "the refused joins changed nothing"
    );
    assert_eq!(described(&mut engine, "d").0, 0);
}

/// R-CLAIM-3, R-CLAIM-26: with leeway a token is accepted for a while after its `exp`, once.
#[test]
fn a_spent_token_is_remembered_as_long_as_it_could_be_accepted() {
    let mut engine = Opened::new();
    let hour = 3_600_000;
    let mut spend = |ms| {
        let (answer, _) = ask(&mut engine, at(ms), Request::Spend(token("a", 1000)));
        matches!(answer, Some(Answer::Done))
    };
    assert!(spend(1500), "already past its exp");
    assert!(!spend(2000));
    assert!(!spend(hour));
}

/// R-CLAIM-25, R-PRES-17
#[test]
fn a_join_that_finds_no_room_spends_nothing_and_changes_nothing() {
    let mut engine = Opened::new();
    let big = |uid: usize| Member {
        uid: uid.to_string().into(),
        umd: Some(Json::compact(&format!("\"{}\"", "x".repeat(1000))).expect("JSON")),
    };
    let full = (0..200)
        .find(|&uid| {
            let request = join(
                "presence.a",
                Some(big(uid)),
                Some(token(&uid.to_string(), 0)),
            );
            matches!(
                ask(&mut engine, at(0), request).0,
                Some(Answer::PresenceFull)
            )
        })
        .expect("there is a limit");
    let (subscriptions, members) = described(&mut engine, "presence.a");
    assert_eq!((subscriptions, members.len()), (full as u64, full));
    ask(&mut engine, at(0), leave("presence.a", Some("0")));
    let again = join(
        "presence.a",
        Some(big(full)),
        Some(token(&full.to_string(), 0)),
    );
    assert!(matches!(
        ask(&mut engine, at(0), again).0,
        Some(Answer::Joined {
            members: Some(members),
            ..
        }) if members.len() == full
    ));
}

/// R-SUB-18: a `leave` too many, which should never happen, does no harm either.
#[test]
fn leaving_a_channel_that_nobody_is_in_changes_nothing() {
    let mut engine = Opened::new();
    assert!(ask(&mut engine, at(0), leave("a", None)).1.is_empty());
    assert_eq!(described(&mut engine, "a").0, 0);
}

/// Nothing is kept of what is over: no channel without subscribers, no deduplication entry or spent token that no
/// longer matters, and of each one that does a few bytes, however long the text is that others chose.
#[test]
fn memory_does_not_grow_with_what_is_over() {
    let mut engine = Opened::new();
    let long = "x".repeat(10_000);
    let margin = SPENT_MARGIN.as_millis() as i64;
    let step = 10_000;
    for turn in 0..2_000 {
        let now = at(turn * step);
        let id = format!("{turn}{long}");
        accepted(&mut engine, now, publish("a", Some(&id)));
        ask(&mut engine, now, Request::Spend(token(&id, turn * step)));
        ask(&mut engine, now, join(&format!("c{turn}"), None, None));
        ask(&mut engine, now, leave(&format!("c{turn}"), None));
    }
    assert!(engine.channels.is_empty());
    assert!(engine.outcomes.is_empty());
    let (seen, spent) = (&engine.seen, &engine.spent);
    assert!(seen.entries.len() as i64 <= WINDOW / step + 1);
    assert!(spent.entries.len() as i64 <= margin / step + 1);
    assert_eq!(seen.entries.len(), seen.due.len());
    assert_eq!(spent.entries.len(), spent.due.len());
    assert_eq!(size_of::<Mark>(), 32);
}

/// What may happen, with numbers that stand for channels, users and subscriptions.
#[derive(Debug, Clone)]
enum Step {
    Join {
        channel: usize,
        uid: u8,
        umd: u8,
        counted: bool,
    },
    Leave(usize),
    Update {
        channel: usize,
        uid: u8,
        umd: u8,
    },
    Publish {
        channel: usize,
        deduplication_id: Option<u8>,
    },
    Wait(i64),
}

const CHANNELS: [&str; 3] = ["a", "presence.b", "presence.c"];

fn step() -> impl Strategy<Value = Step> {
    let user = || (0..3usize, 0..4u8, 0..3u8);
    prop_oneof![
        4 => (user(), any::<bool>()).prop_map(|((channel, uid, umd), counted)| Step::Join {
            channel, uid, umd, counted
        }),
        3 => any::<prop::sample::Index>().prop_map(|at| Step::Leave(at.index(1 << 16))),
        1 => user().prop_map(|(channel, uid, umd)| Step::Update { channel, uid, umd }),
        2 => (0..3usize, prop::option::of(0..2u8)).prop_map(|(channel, deduplication_id)| {
            Step::Publish { channel, deduplication_id }
        }),
        1 => (0..WINDOW).prop_map(Step::Wait),
    ]
}

/// The rules as a list of subscriptions and lists of members say them.
#[derive(Default)]
struct Model {
    /// Channel, user if it is a presence channel, counted.
    subscriptions: Vec<(usize, Option<String>, bool)>,
    members: [Vec<Member>; 3],
    accepted: HashMap<(usize, u8), i64>,
    now: i64,
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Presence {
            channel,
            change,
            members,
            except,
        } => {
            format!("{channel} {change:?} {members:?} {}", except.is_some())
        }
        Outcome::Message(_, message) => format!("{} message", message.channel),
        other => unreachable!("no step of the model makes {other:?}"),
    }
}

fn change(channel: usize, change: &Change, members: &[Member], except: bool) -> String {
    format!("{} {change:?} {members:?} {except}", CHANNELS[channel])
}

impl Model {
    /// What the step is as a request, and what must come of it besides the answer.
    fn apply(&mut self, step: Step) -> Option<(Request, Vec<String>)> {
        match step {
            Step::Join {
                channel,
                uid,
                umd,
                counted,
            } => {
                let presence = channel > 0;
                let new = member(&uid.to_string(), umd);
                let mut told = Vec::new();
                if presence {
                    let members = &mut self.members[channel];
                    match members.iter_mut().find(|it| it.uid == new.uid) {
                        None => {
                            members.push(new.clone());
                            told.push(change(channel, &Change::Added(new.clone()), members, true));
                        }
                        Some(known) if *known == new => {}
                        Some(known) => {
                            *known = new.clone();
                            told.push(change(
                                channel,
                                &Change::Updated(new.clone()),
                                members,
                                false,
                            ));
                        }
                    }
                }
                let uid = presence.then(|| uid.to_string());
                self.subscriptions.push((channel, uid, counted));
                let request = Request::Join {
                    channel: CHANNELS[channel].into(),
                    connection: ConnectionId::random(),
                    member: presence.then_some(new),
                    counted,
                    observe: None,
                    spend: None,
                };
                Some((request, told))
            }
            Step::Leave(at) => {
                let at = at.checked_rem(self.subscriptions.len())?;
                let (channel, uid, counted) = self.subscriptions.remove(at);
                let mut told = Vec::new();
                let still = |it: &(usize, Option<String>, bool)| it.0 == channel && it.1 == uid;
                if let Some(uid) = &uid
                    && !self.subscriptions.iter().any(still)
                {
                    let members = &mut self.members[channel];
                    let at = members
                        .iter()
                        .position(|it| *it.uid == **uid)
                        .expect("a member");
                    let gone = members.remove(at);
                    if !members.is_empty() {
                        told.push(change(channel, &Change::Removed(gone), members, false));
                    }
                }
                let request = Request::Leave {
                    channel: CHANNELS[channel].into(),
                    connection: ConnectionId::random(),
                    uid: uid.map(Into::into),
                    counted,
                };
                Some((request, told))
            }
            Step::Update { channel, uid, umd } => {
                let new = member(&uid.to_string(), umd);
                let members = &mut self.members[channel];
                let mut told = Vec::new();
                if let Some(known) = members.iter_mut().find(|it| it.uid == new.uid)
                    && *known != new
                {
                    *known = new.clone();
                    told.push(change(
                        channel,
                        &Change::Updated(new.clone()),
                        members,
                        false,
                    ));
                }
                let channel = CHANNELS[channel].into();
                Some((
                    Request::Update {
                        channel,
                        member: new,
                        spend: None,
                    },
                    told,
                ))
            }
            Step::Publish {
                channel,
                deduplication_id,
            } => {
                let key = deduplication_id.map(|id| (channel, id));
                let copy = key.is_some_and(|key| {
                    self.accepted
                        .get(&key)
                        .is_some_and(|first| self.now < first + WINDOW)
                });
                if let (Some(key), false) = (key, copy) {
                    self.accepted.insert(key, self.now);
                }
                let told = (!copy).then(|| format!("{} message", CHANNELS[channel]));
                let id = deduplication_id.map(|id| id.to_string());
                let message = publish(CHANNELS[channel], id.as_deref());
                Some((Request::Publish(message), told.into_iter().collect()))
            }
            Step::Wait(ms) => {
                self.now += ms;
                None
            }
        }
    }
}

proptest! {
    /// R-SUB-17, R-SUB-18, R-SRV-27, R-SRV-29, R-PRES-4, R-PRES-5, R-PRES-7 to R-PRES-12, R-PRES-16, R-SRV-13: any order
    /// of joins, leaves, updates and messages has the effect that the rules say, and no other.
    #[test]
    fn the_engine_does_what_a_naive_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut engine = Opened::new();
        let mut model = Model::default();
        for step in steps {
            let Some((request, expected)) = model.apply(step) else {
                continue;
            };
            let (answer, told) = ask(&mut engine, at(model.now), request);
            prop_assert_eq!(told.iter().map(shown).collect::<Vec<_>>(), expected);
            if let Some(Answer::Joined {
            members: Some(members),
            ..
        }) = answer {
                prop_assert!(model.members.iter().any(|it| **it == *members));
            }
            for (number, channel) in CHANNELS.iter().enumerate() {
                let counted = model.subscriptions.iter().filter(|it| it.0 == number && it.2).count();
                let expected = (counted as u64, model.members[number].clone());
                prop_assert_eq!(described(&mut engine, channel), expected);
            }
        }
        let open = (0..3).filter(|number| model.subscriptions.iter().any(|it| it.0 == *number));
        prop_assert_eq!(engine.channels.len(), open.count(), "no channel is kept without a subscriber");
    }
}
