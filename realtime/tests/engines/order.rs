//! The one order in which a channel's outcomes come, whatever of it has to be kept first.

use std::collections::HashMap;

use proptest::prelude::*;
use realtime::connection::ConnectionId;
use realtime::engine::{Answer, Outcome, Request, Ticket};

use super::run::{Run, join, member, message, token, with_each, write};
use super::{places, run};

const CHANNELS: [&str; 3] = ["presence.a", "presence.b", "presence.c"];

/// What may be asked for, with the number of its channel.
#[derive(Debug, Clone)]
enum Step {
    /// Kept, or a copy of what, or neither.
    Publish(usize, bool, Option<u8>),
    Write(usize, u8, u8),
    Join(usize, u8, bool),
    Leave(usize),
    Read(usize, u8),
    Describe(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let channel = || 0..CHANNELS.len();
    prop_oneof![
        4 => (channel(), any::<bool>(), prop::option::weighted(0.3, 0..3u8))
            .prop_map(|(channel, kept, copy)| Step::Publish(channel, kept, copy)),
        2 => (channel(), 0..2u8, 0..3u8).prop_map(|(channel, key, value)| Step::Write(channel, key, value)),
        2 => (channel(), 0..3u8, any::<bool>()).prop_map(|(channel, uid, spends)| Step::Join(channel, uid, spends)),
        1 => any::<prop::sample::Index>().prop_map(|at| Step::Leave(at.index(1 << 16))),
        1 => (channel(), 0..2u8).prop_map(|(channel, key)| Step::Read(channel, key)),
        1 => channel().prop_map(Step::Describe),
    ]
}

/// What each channel must show, in order, said as plainly as possible.
#[derive(Default)]
struct Model {
    expected: [Vec<String>; 3],
    copies: Vec<(usize, u8)>,
    entries: HashMap<(usize, u8), u8>,
    /// Channel and user of each subscription.
    subscriptions: Vec<(usize, u8)>,
    spent: usize,
    published: usize,
}

impl Model {
    /// The request that a step is; what must come of it is noted.
    fn apply(&mut self, step: Step) -> Option<(usize, Request)> {
        Some(match step {
            Step::Publish(channel, kept, copy) => {
                let number = self.published;
                self.published += 1;
                let mut it = message(CHANNELS[channel], &number.to_string(), i64::from(kept));
                it.deduplication_id = copy.map(|copy| copy.to_string().into());
                self.expected[channel].push("published".into());
                let known = copy.is_some_and(|copy| self.copies.contains(&(channel, copy)));
                if !known {
                    self.copies.extend(copy.map(|copy| (channel, copy)));
                    self.expected[channel].push(format!("message {number}"));
                }
                (channel, Request::Publish(it))
            }
            Step::Write(channel, key, value) => {
                self.expected[channel].push("done".into());
                let before = match value {
                    0 => self.entries.remove(&(channel, key)),
                    _ => self.entries.insert((channel, key), value),
                };
                if before.unwrap_or_default() != value {
                    self.expected[channel].push(format!("storage {key} {value}"));
                }
                let text = value.to_string();
                let value = (value > 0).then_some(&*text);
                let write = write(CHANNELS[channel], &key.to_string(), value, -1);
                (channel, Request::Write(write))
            }
            Step::Join(channel, uid, spends) => {
                let new = !self.subscriptions.contains(&(channel, uid));
                self.subscriptions.push((channel, uid));
                self.expected[channel].push("joined".into());
                if new {
                    self.expected[channel].push(format!("added {uid}"));
                }
                let mut request = join(CHANNELS[channel], Some(member(&uid.to_string())), None);
                if let (true, Request::Join { spend, .. }) = (spends, &mut request) {
                    *spend = Some(token(&self.spent.to_string()));
                    self.spent += 1;
                }
                (channel, request)
            }
            Step::Leave(at) => {
                let at = at.checked_rem(self.subscriptions.len())?;
                let (channel, uid) = self.subscriptions.remove(at);
                let gone = !self.subscriptions.contains(&(channel, uid));
                if gone && self.subscriptions.iter().any(|it| it.0 == channel) {
                    self.expected[channel].push(format!("removed {uid}"));
                }
                let request = Request::Leave {
                    channel: CHANNELS[channel].into(),
                    connection: ConnectionId::random(),
                    uid: Some(uid.to_string().into()),
                    counted: true,
                };
                (channel, request)
            }
            Step::Read(channel, key) => {
                let value = self.entries.get(&(channel, key));
                self.expected[channel].push(format!("entry {value:?}"));
                let (name, key) = (CHANNELS[channel].into(), key.to_string().into());
                (channel, Request::Read { channel: name, key })
            }
            Step::Describe(channel) => {
                let count = self
                    .subscriptions
                    .iter()
                    .filter(|it| it.0 == channel)
                    .count();
                self.expected[channel].push(format!("described {count}"));
                let channel_name = CHANNELS[channel].into();
                (
                    channel,
                    Request::Describe {
                        channel: channel_name,
                    },
                )
            }
        })
    }
}

/// The channel of an outcome, and how the model says it.
fn shown(outcome: &Outcome, asked: &HashMap<Ticket, usize>) -> (usize, String) {
    let number = |channel: &str| {
        let found = CHANNELS.iter().position(|it| *it == channel);
        found.expect("a channel of this test")
    };
    match outcome {
        Outcome::Answer(ticket, answer) => {
            let shown = match answer {
                Answer::Published(_) => "published".into(),
                Answer::Done => "done".into(),
                Answer::Joined { .. } => "joined".into(),
                Answer::Entry(entry) => {
                    let value = entry.as_ref().map(|it| it.value.to_string());
                    let value = value.map(|it| it.parse::<u8>().expect("a number"));
                    format!("entry {:?}", value.as_ref())
                }
                Answer::Described { subscriptions, .. } => format!("described {subscriptions}"),
                other => panic!("{other:?}"),
            };
            (asked[ticket], shown)
        }
        Outcome::Message(_, message) => (
            number(&message.channel),
            format!("message {}", message.data),
        ),
        Outcome::Storage {
            channel,
            key,
            value,
            ..
        } => {
            let value = value.as_ref().map_or("0".into(), ToString::to_string);
            (number(channel), format!("storage {key} {value}"))
        }
        Outcome::Presence {
            channel, change, ..
        } => {
            use realtime::presence::Change;
            let shown = match change {
                Change::Added(it) => format!("added {}", it.uid),
                Change::Updated(it) => format!("updated {}", it.uid),
                Change::Removed(it) => format!("removed {}", it.uid),
            };
            (number(channel), shown)
        }
        other => panic!("no step makes {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// R-DLV-5, R-DLV-6, R-DLV-7, R-STOR-26, R-STOR-33: nobody waits for an answer, some of it must be kept first, and yet each
    /// channel's outcomes are those of its requests one after the other. The identifiers of its messages rise.
    #[test]
    fn every_channel_is_in_the_order_of_its_requests(steps in prop::collection::vec(step(), 1..150)) {
        for place in places() {
            let mut run = Run::begin(place, 0);
            let mut model = Model::default();
            let mut asked = HashMap::new();
            for step in steps.clone() {
                if let Some((channel, request)) = model.apply(step) {
                    asked.insert(run.submit(request), channel);
                }
            }
            let mut seen: [Vec<String>; 3] = Default::default();
            let mut last = [ulid::Ulid::nil(); 3];
            for outcome in run.settled() {
                let (channel, text) = shown(&outcome, &asked);
                if let Outcome::Message(id, _) = outcome {
                    prop_assert!(id > last[channel]);
                    last[channel] = id;
                }
                seen[channel].push(text);
            }
            prop_assert_eq!(&seen, &model.expected);
        }
    }
}

/// R-DLV-9: what one channel has to keep does not delay another.
#[test]
fn other_channels_do_not_wait() {
    with_each(|mut run| {
        if !run.place.is_immediate() {
            // Nothing waits for a disk, and everything for an answer.
            return;
        }
        run.submit(Request::Publish(message("a", "1", -1)));
        run.submit(Request::Publish(message("a", "2", 0)));
        run.submit(Request::Publish(message("b", "3", 0)));
        // At once, without a turn: nothing of the first channel can have come yet.
        let first: Vec<_> = std::iter::from_fn(|| run.engine.next_outcome()).collect();
        let data = |outcomes: &[Outcome]| {
            let data = outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Message(_, message) => Some(message.data.to_string()),
                _ => None,
            });
            data.collect::<Vec<_>>()
        };
        assert_eq!(data(&first), ["3"]);
        assert_eq!(data(&run.settled()), ["1", "2"]);
    });
}

/// R-EVT-22 to R-EVT-26: beside what subscribers are told, in its order; and not a word when nobody listens.
#[test]
fn backends_are_told_in_the_same_order() {
    with_each(|mut run| {
        let told = |run: &mut run::Run| {
            let mut emitted = message("presence.a", "1", -1);
            emitted.emit = true;
            run.submit(join("presence.a", Some(member("ana")), None));
            run.submit(Request::Publish(emitted));
            run.submit(Request::Leave {
                channel: "presence.a".into(),
                connection: ConnectionId::random(),
                uid: Some("ana".into()),
                counted: true,
            });
            let told = run
                .settled()
                .into_iter()
                .filter_map(|outcome| match outcome {
                    Outcome::Tell(happening) => Some(format!("{happening:?}")),
                    _ => None,
                });
            told.collect::<Vec<_>>()
        };
        assert!(told(&mut run).is_empty());
        run.engine.tell(true);
        let all = told(&mut run);
        let wanted = [
            "subscriptions: 1",
            "Added",
            "Published",
            "subscriptions: 0",
            "Removed",
        ];
        assert_eq!(all.len(), wanted.len(), "{all:#?}");
        for (told, wanted) in all.iter().zip(wanted) {
            assert!(told.contains(wanted), "{told} is not {wanted}");
        }
    });
}
