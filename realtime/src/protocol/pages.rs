//! What is read over HTTP: pages of messages and entries, reactions, schedules, as compact JSON (sections 18 and 19 of the
//! protocol).
//!
//! The engine bounds a page by what it keeps. How long it gets as an answer is known here only, so a page is cut here as
//! well: whoever asks goes on behind the last that came, as after any page (R-HTTP-17, R-HTTP-18).

use std::collections::HashMap;

use jiff::Timestamp;
use ulid::Ulid;

use super::outbound::{Meta, Out, build, measure};
use crate::engine::{Deferred, Entry, PAGE_BYTES, Reaction, Stored};

/// The messages of a channel, each with the reactions to it: how many, or with `expand` whose (R-HTTP-20 to R-HTTP-24).
pub fn messages(channel: &str, page: &[Stored], expand: bool) -> String {
    let page: Vec<_> = (page.iter())
        .map(|stored| (stored, tally(&stored.reactions)))
        .collect();
    list(
        "messages",
        fitting(&page, |out, it| message(out, channel, it, expand)),
        |out, it| {
            message(out, channel, it, expand);
        },
    )
}

/// The reactions of all users with one value.
struct Tally<'a> {
    reaction: &'a str,
    by: Vec<&'a Reaction>,
}

/// Reactions by their value, in the order in which each value came first.
fn tally(reactions: &[Reaction]) -> Vec<Tally<'_>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut tallies: Vec<Tally<'_>> = Vec::new();
    for given in reactions {
        let place = *places.entry(&*given.reaction).or_insert_with(|| {
            tallies.push(Tally {
                reaction: &given.reaction,
                by: Vec::new(),
            });
            tallies.len() - 1
        });
        tallies[place].by.push(given);
    }
    tallies
}

fn message(
    out: &mut Out,
    channel: &str,
    (stored, tallies): &(&Stored, Vec<Tally<'_>>),
    expand: bool,
) {
    let mut text = [0; ulid::ULID_LEN];
    let id: &str = stored.id.array_to_str(&mut text);
    out.json("{\"id\":")
        .string(id)
        .json(",\"event\":")
        .string(&stored.event)
        .json(",\"channel\":")
        .string(channel);
    out.json(",\"data\":").json(stored.data.as_str());
    // Always there: clients read `meta.uid` unguarded (R-HTTP-23).
    out.json(",\"meta\":").meta(Meta::from(&stored.meta));
    if expand || !tallies.is_empty() {
        out.json(",\"reactions\":{");
        for (index, tally) in tallies.iter().enumerate() {
            out.json(if index == 0 { "" } else { "," })
                .string(tally.reaction)
                .json(":{\"count\":")
                .json(&tally.by.len().to_string());
            if expand {
                out.json(",\"items\":");
                elements(out, &tally.by, |out, given| {
                    out.json("{");
                    reactor(out, given);
                });
            }
            out.json("}");
        }
        out.json("}");
    }
    out.json("}");
}

/// `"uid":…,"umd":…}`, without a umd if there is none (R-HTTP-21, R-HTTP-26).
fn reactor(out: &mut Out, given: &Reaction) {
    out.json("\"uid\":").string(&given.uid);
    if let Some(umd) = &given.umd {
        out.json(",\"umd\":").json(umd.as_str());
    }
    out.json("}");
}

/// All reactions to one message (R-HTTP-26).
pub fn reactions(reactions: &[Reaction]) -> String {
    list("reactions", reactions, |out, given| {
        out.json("{\"reaction\":").string(&given.reaction).json(",");
        reactor(out, given);
    })
}

/// Entries of a channel's storage (R-HTTP-44, R-SRV-30).
pub fn entries(page: &[Entry]) -> String {
    list("items", fitting(page, entry), entry)
}

fn entry(out: &mut Out, entry: &Entry) {
    out.json("{\"key\":")
        .string(&entry.key)
        .json(",\"data\":")
        .json(entry.value.as_str())
        .json(",\"meta\":")
        .meta(Meta::from(&entry.meta))
        .json("}");
}

/// What is planned (R-DIFF-10). `meta` is `null` for a message of a backend, as it has none; `store` is as it was asked for.
pub fn schedule(id: Ulid, at: Timestamp, deferred: &Deferred) -> String {
    let (id, at) = (id.to_string(), at.to_string());
    let (event, key, data, meta, store, emit) = match deferred {
        Deferred::Publish(it) => (
            &*it.event,
            None,
            Some(&it.data),
            it.meta.as_ref(),
            it.store,
            it.emit,
        ),
        Deferred::Write(it) => (
            "hotsock.channelStorageSet",
            Some(&*it.key),
            it.value.as_ref(),
            Some(&it.meta),
            it.store,
            it.emit,
        ),
    };
    let store = store.to_string();
    build(|out| {
        out.json("{\"id\":")
            .string(&id)
            .json(",\"at\":")
            .string(&at);
        out.json(",\"channel\":")
            .string(deferred.channel())
            .json(",\"event\":")
            .string(event);
        if let Some(key) = key {
            out.json(",\"key\":").string(key);
        }
        out.json(",\"data\":")
            .json(data.map_or("null", |data| data.as_str()));
        match meta {
            Some(meta) => out.json(",\"meta\":").meta(Meta::from(meta)),
            None => out.json(",\"meta\":null"),
        };
        out.json(",\"store\":").json(&store);
        out.json(if emit {
            ",\"emitPubSubEvent\":true}"
        } else {
            ",\"emitPubSubEvent\":false}"
        });
    })
}

/// `{"name":[…]}`
fn list<T>(name: &str, items: &[T], write: impl Fn(&mut Out, &T)) -> String {
    build(|out| {
        out.json("{\"").json(name).json("\":");
        elements(out, items, &write);
        out.json("}");
    })
}

fn elements<T>(out: &mut Out, items: &[T], write: impl Fn(&mut Out, &T)) {
    out.json("[");
    for (index, item) in items.iter().enumerate() {
        out.json(if index == 0 { "" } else { "," });
        write(out, item);
    }
    out.json("]");
}

/// As many from the front as fit on a page; one at least.
fn fitting<T>(items: &[T], write: impl Fn(&mut Out, &T)) -> &[T] {
    let mut bytes = 0;
    let fit = items.iter().take_while(|item| {
        bytes += measure(|out| write(out, item)) + 1;
        bytes <= PAGE_BYTES
    });
    let count = fit.count().max(1).min(items.len());
    &items[..count]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::connection::Identity;
    use crate::engine::{Publish, Write};
    use crate::json::Json;

    fn json_of(value: &Value) -> Json {
        Json::compact(&value.to_string()).expect("JSON")
    }

    fn value_of(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    fn ana() -> Identity {
        Identity {
            uid: Some("ana".into()),
            umd: None,
        }
    }

    fn given(reaction: &str, uid: &str, umd: Option<Value>) -> Reaction {
        Reaction {
            id: Ulid::nil(),
            reaction: reaction.into(),
            uid: uid.into(),
            umd: umd.as_ref().map(json_of),
        }
    }

    fn stored(id: u128, data: &Value, meta: Identity, reactions: Vec<Reaction>) -> Stored {
        Stored {
            id: Ulid(id),
            event: "chat".into(),
            data: json_of(data),
            meta,
            reactions,
        }
    }

    fn reacted() -> Vec<Reaction> {
        vec![
            given("🎉", "ana", Some(json!({"role": "host"}))),
            given("\"", "ben", None),
            given("🎉", "ben", None),
        ]
    }

    /// R-HTTP-20, R-HTTP-22, R-HTTP-23, R-JSON-4
    #[test]
    fn a_page_counts_reactions_and_leaves_them_out_where_there_are_none() {
        let page = [
            stored(1, &json!("Moin"), ana(), reacted()),
            stored(2, &json!({"a": 1}), Identity::default(), Vec::new()),
        ];
        assert_eq!(
            messages("room.8", &page, false),
            "{\"messages\":[\
             {\"id\":\"00000000000000000000000001\",\"event\":\"chat\",\"channel\":\"room.8\",\"data\":\"Moin\",\
             \"meta\":{\"uid\":\"ana\",\"umd\":null},\"reactions\":{\"🎉\":{\"count\":2},\"\\\"\":{\"count\":1}}},\
             {\"id\":\"00000000000000000000000002\",\"event\":\"chat\",\"channel\":\"room.8\",\"data\":{\"a\":1},\
             \"meta\":{\"uid\":null,\"umd\":null}}]}"
        );
        assert_eq!(messages("room.8", &[], false), r#"{"messages":[]}"#);
    }

    /// R-HTTP-21, R-HTTP-22
    #[test]
    fn an_expanded_page_says_who_reacted_and_that_nobody_did() {
        let page = [
            stored(1, &json!("Moin"), ana(), reacted()),
            stored(2, &json!(null), ana(), Vec::new()),
        ];
        let page = value_of(&messages("room.8", &page, true));
        assert_eq!(
            page["messages"][0]["reactions"],
            json!({
                "🎉": {"count": 2, "items": [{"uid": "ana", "umd": {"role": "host"}}, {"uid": "ben"}]},
                "\"": {"count": 1, "items": [{"uid": "ben"}]},
            })
        );
        assert_eq!(page["messages"][1]["reactions"], json!({}));
    }

    /// R-HTTP-26, R-HTTP-28
    #[test]
    fn reactions_are_listed_one_by_one() {
        assert_eq!(
            reactions(&reacted()),
            "{\"reactions\":[{\"reaction\":\"🎉\",\"uid\":\"ana\",\"umd\":{\"role\":\"host\"}},\
             {\"reaction\":\"\\\"\",\"uid\":\"ben\"},{\"reaction\":\"🎉\",\"uid\":\"ben\"}]}"
        );
        assert_eq!(reactions(&[]), r#"{"reactions":[]}"#);
    }

    /// R-SRV-30, R-HTTP-44
    #[test]
    fn entries_are_listed_with_their_writers() {
        let page = [Entry {
            key: "rules".into(),
            value: json_of(&json!({"seats": 4})),
            meta: ana(),
        }];
        assert_eq!(
            entries(&page),
            r#"{"items":[{"key":"rules","data":{"seats":4},"meta":{"uid":"ana","umd":null}}]}"#
        );
        assert_eq!(entries(&[]), r#"{"items":[]}"#);
    }

    /// R-LIM-12, R-HTTP-17, R-HTTP-44: what a page is made of counts, the names of reactions and users included.
    #[test]
    fn a_page_ends_before_it_exceeds_its_bytes_but_is_never_empty() {
        let half = json!("x".repeat(PAGE_BYTES / 2));
        let many = (0..2000)
            .map(|user| given("🎉", &format!("user-{user}"), Some(json!("y".repeat(900)))));
        let page = |data: &Value, reactions: Vec<Reaction>| {
            let first = stored(1, data, ana(), reactions.clone());
            [
                first,
                stored(2, data, ana(), reactions),
                stored(3, &json!(1), ana(), Vec::new()),
            ]
        };
        let count = |text: String| {
            let value = value_of(&text);
            (text.len(), value["messages"].as_array().map_or(0, Vec::len))
        };
        let (bytes, items) = count(messages("a", &page(&half, Vec::new()), false));
        assert!(bytes <= PAGE_BYTES && items == 1, "{bytes} {items}");
        let reacted = page(&json!(1), many.collect());
        assert_eq!(count(messages("a", &reacted, false)).1, 3);
        let (bytes, items) = count(messages("a", &reacted, true));
        assert!(bytes > PAGE_BYTES && items == 1, "one alone may be larger");
        let entry = |key: &str| Entry {
            key: key.into(),
            value: json_of(&half),
            meta: ana(),
        };
        let text = entries(&[entry("a"), entry("b")]);
        assert!(text.len() <= PAGE_BYTES && !text.contains("\"b\""));
    }

    /// R-DIFF-10
    #[test]
    fn a_schedule_says_when_and_what() {
        let at: Timestamp = "2027-05-04T09:30:00Z".parse().expect("a time");
        let publish = Deferred::Publish(Publish {
            channel: "board.1".into(),
            event: "price".into(),
            data: json_of(&json!({"bid": 101.5})),
            meta: None,
            except: None,
            deduplication_id: None,
            store: 3600,
            emit: true,
            source: None,
        });
        assert_eq!(
            value_of(&schedule(Ulid(7), at, &publish)),
            json!({
                "id": "00000000000000000000000007", "at": "2027-05-04T09:30:00Z", "channel": "board.1",
                "event": "price", "data": {"bid": 101.5}, "meta": null, "store": 3600, "emitPubSubEvent": true,
            })
        );
        let write = Deferred::Write(Write {
            channel: "game.3".into(),
            key: "rules".into(),
            value: None,
            meta: ana(),
            store: -1,
            deduplication_id: None,
            emit: false,
            source: None,
        });
        assert_eq!(
            value_of(&schedule(Ulid(7), at, &write)),
            json!({
                "id": "00000000000000000000000007", "at": "2027-05-04T09:30:00Z", "channel": "game.3",
                "event": "hotsock.channelStorageSet", "key": "rules", "data": null,
                "meta": {"uid": "ana", "umd": null}, "store": -1, "emitPubSubEvent": false,
            })
        );
    }
}
