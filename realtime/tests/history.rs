//! What is kept of a channel and how it is read again (sections 14, 15 and 18 of the protocol), against a real server.

mod support;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use support::{Answer, Client, PATIENCE, Server};

/// May subscribe and read, with more directives for all channels.
fn reader(uid: &str, more: Value) -> Value {
    let mut directives = json!({"subscribe": true});
    directives
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    json!({"uid": uid, "channels": {"*": directives}})
}

/// Publishes as a backend; the identifier.
fn publish(server: &Server, channel: &str, more: Value) -> String {
    let mut body = json!({
        "channel": channel, "event": "chat", "store": 3600, "eagerIdGeneration": true,
    });
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    let answer = server.publish(body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Publishes so many.
fn publish_many(server: &Server, channel: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| publish(server, channel, json!({"data": number})))
        .collect()
}

#[track_caller]
fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, &*answer.code()),
        (status, code),
        "{}",
        answer.body
    );
}

#[track_caller]
fn list(server: &Server, client: &Client, body: Value) -> Value {
    ok(&server.call(client, "listMessages", body))
}

fn ids(page: &Value) -> Vec<String> {
    let messages = page["messages"].as_array().expect("messages");
    let ids = messages.iter().map(|message| message["id"].as_str());
    ids.map(|id| id.expect("an id").to_owned()).collect()
}

/// The millisecond in which an identifier was made.
fn milliseconds(id: &str) -> u64 {
    ulid::Ulid::from_string(id).expect("a ULID").timestamp_ms()
}

/// Whatever is made from now on is of a later millisecond.
fn outlive(id: &str) {
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_millis()
    };
    while now() <= u128::from(milliseconds(id)) {
        std::thread::yield_now();
    }
}

/// R-HTTP-12, R-HTTP-23, R-HTTP-24, R-HIST-1, R-HIST-3, R-HIST-4, R-HIST-10, R-JSON-4, R-PERM-25
#[test]
fn a_subscriber_reads_what_was_kept_and_nothing_else() {
    let server = Server::start();
    let mut ana = server.connect(reader(
        "ana",
        json!({"historyStart": 0, "messages": {
            "kept": {"publish": true, "store": 60}, "passing": {"publish": true},
        }}),
    ));
    let body = json!({"channel": "room.8"});
    // Whatever `historyStart` says, without a subscription nothing is read.
    refused(
        &server.call(&ana, "listMessages", body.clone()),
        403,
        "NOT_SUBSCRIBED",
    );
    let backend = publish(
        &server,
        "room.8",
        json!({"data": {"a": [9_007_199_254_740_993_u64, "x"]}, "store": -1}),
    );
    ana.subscribe("room.8");
    publish(&server, "room.8", json!({"store": 0}));
    publish(&server, "room.9", json!({}));
    ana.send(json!({"channel": "room.8", "event": "passing", "data": 1}));
    ana.send(json!({"channel": "room.8", "event": "kept", "data": "Moin"}));
    let kept = server.call(
        &ana,
        "publishMessage",
        json!({"channel": "room.8", "event": "kept", "eagerIdGeneration": true}),
    );
    let own = kept.json()["id"].clone();
    let page = list(&server, &ana, body.clone());
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(3), "{page}");
    let meta = json!({"uid": "ana", "umd": null});
    assert_eq!(
        page,
        json!({"messages": [
            {
                "id": backend, "event": "chat", "channel": "room.8", "data": {"a": [9_007_199_254_740_993_u64, "x"]},
                "meta": {"uid": null, "umd": null},
            },
            {
                "id": page["messages"][1]["id"], "event": "kept", "channel": "room.8", "data": "Moin",
                "meta": meta,
            },
            {"id": own, "event": "kept", "channel": "room.8", "data": null, "meta": meta},
        ]})
    );
    assert!(
        server
            .call(&ana, "listMessages", body.clone())
            .body
            .contains("9007199254740993"),
        "R-JSON-9"
    );
    ana.subscribe_quietly("room.0");
    assert_eq!(
        list(&server, &ana, json!({"channel": "room.0"})),
        json!({"messages": []})
    );
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "room.8"}));
    ana.drain();
    refused(
        &server.call(&ana, "listMessages", body),
        403,
        "NOT_SUBSCRIBED",
    );
}

/// R-HTTP-13, R-HTTP-14, R-HTTP-15, R-HTTP-16, R-HTTP-17, R-HTTP-18, R-LIM-12: scenario 19.
#[test]
fn a_history_of_250_is_paged_forward_and_backward_without_a_gap() {
    let server = Server::start();
    let mut ana = server.connect(reader("ana", json!({"historyStart": 0})));
    let published = publish_many(&server, "room.8", 250);
    ana.subscribe("room.8");
    let mut sorted = published.clone();
    sorted.sort();
    for reverse in [false, true] {
        let (mut last, mut seen, mut sizes) = (None::<String>, Vec::new(), Vec::new());
        loop {
            let bound = if reverse { "before" } else { "after" };
            let mut body = json!({"channel": "room.8", "reverse": reverse});
            body[bound] = json!(last);
            let page = ids(&list(&server, &ana, body));
            sizes.push(page.len());
            last = page.last().cloned();
            seen.extend(page);
            if *sizes.last().expect("a page") < 100 {
                break;
            }
        }
        assert_eq!(sizes, [100, 100, 50]);
        let mut expected = sorted.clone();
        if reverse {
            expected.reverse();
        }
        assert_eq!(seen, expected, "each once, in the order of their ids");
    }
    let page = |body: Value| {
        let mut whole = json!({"channel": "room.8"});
        whole
            .as_object_mut()
            .expect("an object")
            .extend(body.as_object().expect("an object").clone());
        ids(&list(&server, &ana, whole))
    };
    let of = |reverse: bool, name: &str, id: &str| {
        let mut body = json!({"reverse": reverse});
        body[name] = json!(id);
        page(body)
    };
    // Each has its direction, and no effect in the other.
    assert_eq!(of(false, "before", &sorted[5]), sorted[..100]);
    let newest: Vec<_> = sorted.iter().rev().take(100).cloned().collect();
    assert_eq!(of(true, "after", &sorted[5]), newest);
    // Exclusive, and no message needs to have that identifier.
    assert_eq!(of(false, "after", &sorted[0]), sorted[1..101]);
    assert_eq!(of(true, "before", &sorted[1]), [sorted[0].clone()]);
    assert_eq!(of(true, "before", &sorted[0]), Vec::<String>::new());
    assert_eq!(of(false, "after", &sorted[249]), Vec::<String>::new());
    assert_eq!(of(false, "after", &"0".repeat(26)), sorted[..100]);
    assert_eq!(of(true, "before", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"), newest);
    let lower = sorted[0].to_ascii_lowercase();
    assert_eq!(of(false, "after", &lower), sorted[1..101]);
    for name in ["after", "before"] {
        for reverse in [false, true] {
            for id in [
                "",
                "x",
                "01KA5T6Q2M8Y0V3WZ4B7C9D1E",
                "01KA5T6Q2M8Y0V3WZ4B7C9D1EU",
            ] {
                let mut body = json!({"channel": "room.8", "reverse": reverse});
                body[name] = json!(id);
                let answer = server.call(&ana, "listMessages", body);
                refused(&answer, 400, "INVALID_MESSAGE");
            }
        }
    }
}

/// R-HIST-5, R-HIST-6, R-HIST-7, R-HIST-8, R-HIST-9, R-HTTP-19, R-PERM-14
#[test]
fn the_window_begins_with_the_subscription_or_earlier() {
    let server = Server::start();
    let early = publish(&server, "room.8", json!({}));
    outlive(&early);
    let start = |seconds: f64| json!({"historyStart": seconds});
    let soon = (milliseconds(&early) + 3_600_000) as f64 / 1000.0;
    let mut plain = server.connect(reader("plain", json!({})));
    let mut whole = server.connect(reader("whole", start(0.0)));
    let mut later = server.connect(reader("later", start(soon)));
    // Exactly the millisecond of the message: inclusive. And the one after it.
    let at = milliseconds(&early) as f64 / 1000.0;
    let mut exact = server.connect(reader("exact", start(at)));
    let mut after = server.connect(reader("after", start(at + 0.001)));
    let everybody = [&mut plain, &mut whole, &mut later, &mut exact, &mut after];
    for client in everybody {
        client.subscribe("room.8");
    }
    let second = publish(&server, "room.8", json!({}));
    let seen = |client: &Client, more: Value| {
        let mut body = json!({"channel": "room.8"});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        ids(&list(&server, client, body))
    };
    let both = vec![early.clone(), second.clone()];
    let reversed: Vec<_> = both.iter().rev().cloned().collect();
    for (client, expected) in [
        (&plain, &both[1..]),
        (&whole, &both[..]),
        (&later, &both[1..]),
        (&exact, &both[..]),
        (&after, &both[1..]),
    ] {
        assert_eq!(seen(client, json!({})), expected);
        let back = seen(client, json!({"reverse": true}));
        assert_eq!(back, reversed[..expected.len()]);
    }
    // No bound widens it.
    let first = "0".repeat(26);
    assert_eq!(
        seen(&plain, json!({"after": first})),
        std::slice::from_ref(&second)
    );
    let before = json!({"before": second, "reverse": true});
    assert_eq!(seen(&plain, before), Vec::<String>::new());
    // A new subscription has a new start; what `historyStart` opens stays open.
    outlive(&second);
    for client in [&mut plain, &mut whole] {
        client.send(json!({"event": "hotsock.unsubscribe", "channel": "room.8"}));
        client.send(json!({"event": "hotsock.subscribe", "channel": "room.8"}));
        client.drain();
    }
    assert_eq!(seen(&plain, json!({})), Vec::<String>::new());
    assert_eq!(seen(&whole, json!({})), both);
    let third = publish(&server, "room.8", json!({}));
    assert_eq!(seen(&plain, json!({})), std::slice::from_ref(&third));
    assert_eq!(seen(&whole, json!({})), [early, second, third]);
}

/// R-PERM-14, R-PERM-16, R-PERM-18: a subscribe token may open more of the past.
#[test]
fn a_subscribe_token_opens_the_past_while_its_subscription_lasts() {
    let server = Server::start();
    let early = publish(&server, "room.8", json!({}));
    outlive(&early);
    let mut ana = server.connect(reader("ana", json!({})));
    let grant = support::token(json!({"scope": "subscribe", "uid": "ana", "channels": {
        "room.8": {"subscribe": true, "historyStart": 0},
    }}));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "room.8", "data": {"token": grant}}));
    ana.expect("hotsock.subscribed");
    let body = json!({"channel": "room.8"});
    assert_eq!(ids(&list(&server, &ana, body.clone())), [early]);
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "room.8"}));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "room.8"}));
    ana.drain();
    assert_eq!(ids(&list(&server, &ana, body)), Vec::<String>::new());
}

/// R-HTTP-18, R-HIST-2, R-HTTP-17: pages are full, however many messages between have expired, and of whichever event.
#[test]
fn nothing_that_is_not_there_shortens_a_page() {
    let server = Server::start();
    let mut ana = server.connect(reader("ana", json!({"historyStart": 0})));
    let mut kept = Vec::new();
    for number in 0..150 {
        publish(&server, "room.8", json!({"store": 1, "data": "gone soon"}));
        kept.push(publish(&server, "room.8", json!({"data": number})));
        publish(&server, "room.8", json!({"store": 1}));
        publish(&server, "room.8", json!({"event": "other", "store": 1}));
    }
    ana.subscribe("room.8");
    let begun = Instant::now();
    let body = json!({"channel": "room.8"});
    let rest = json!({"channel": "room.8", "after": kept[99]});
    // The later ones expire later: with them the second page is right.
    while ids(&list(&server, &ana, rest.clone())) != kept[100..] {
        assert!(begun.elapsed() < PATIENCE, "they do not expire");
    }
    assert_eq!(ids(&list(&server, &ana, body)), kept[..100]);
    let back = list(&server, &ana, json!({"channel": "room.8", "reverse": true}));
    let newest: Vec<_> = kept.iter().rev().take(100).cloned().collect();
    assert_eq!(ids(&back), newest);
}

/// R-LIM-12, R-HTTP-17, R-HTTP-18
#[test]
fn a_page_has_a_megabyte_at_most_and_nothing_else_shortens_it() {
    let server = Server::start();
    let mut ana = server.connect(reader("ana", json!({"historyStart": 0})));
    let large = json!({"data": "x".repeat(30 * 1024)});
    let published: Vec<_> = (0..70)
        .map(|_| publish(&server, "room.8", large.clone()))
        .collect();
    ana.subscribe("room.8");
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < published.len() {
        let body = json!({"channel": "room.8", "after": seen.last()});
        let answer = server.call(&ana, "listMessages", body);
        assert!(answer.body.len() <= 1_000_000, "{}", answer.body.len());
        let page = ids(&ok(&answer));
        assert!(!page.is_empty(), "after {} messages", seen.len());
        seen.extend(page);
        assert!(answer.body.len() > 900_000 || seen.len() == published.len());
    }
    assert_eq!(seen, published);
}

fn react(server: &Server, client: &Client, message: &str, reaction: &str, action: &str) {
    let body = json!({
        "channel": "room.8", "event": "hotsock.messageReaction",
        "data": {"messageId": message, "reaction": reaction, "action": action},
    });
    let answer = server.call(client, "publishMessage", body);
    assert_eq!(answer.status, 202, "{}", answer.body);
}

/// R-HTTP-20, R-HTTP-21, R-HTTP-22, R-HTTP-25, R-HTTP-26, R-HTTP-28, R-REACT-8, R-REACT-13: scenario 20.
#[test]
fn reactions_are_counted_in_a_history_and_named_on_demand() {
    let server = Server::start();
    let may = json!({"messages": {"*": {"react": true}}});
    let mut host = reader("ana", may.clone());
    host["umd"] = json!({"role": "host"});
    let mut ana = server.connect(host);
    let mut ben = server.connect(reader("ben", may));
    for client in [&mut ana, &mut ben] {
        client.subscribe("room.8");
    }
    let one = publish(&server, "room.8", json!({}));
    let two = publish(&server, "room.8", json!({}));
    let listed = |message: &str| {
        let body = json!({"channel": "room.8", "messageId": message});
        ok(&server.call(&ana, "listReactions", body))
    };
    assert_eq!(listed(&one), json!({"reactions": []}));
    for (client, reaction) in [
        (&ben, "👍"),
        (&ana, "🎉"),
        (&ana, "🎉"),
        (&ben, "🎉"),
        (&ben, "\"quoted\""),
    ] {
        react(&server, client, &one, reaction, "add");
    }
    react(&server, &ana, &one, "👍", "remove");
    let role = json!({"role": "host"});
    assert_eq!(
        listed(&one),
        json!({"reactions": [
            {"reaction": "👍", "uid": "ben"},
            {"reaction": "🎉", "uid": "ana", "umd": role},
            {"reaction": "🎉", "uid": "ben"},
            {"reaction": "\"quoted\"", "uid": "ben"},
        ]})
    );
    let page = list(&server, &ana, json!({"channel": "room.8"}));
    assert_eq!(
        page["messages"][0]["reactions"],
        json!({"👍": {"count": 1}, "🎉": {"count": 2}, "\"quoted\"": {"count": 1}})
    );
    assert_eq!(page["messages"][1].get("reactions"), None, "{page}");
    let page = list(
        &server,
        &ana,
        json!({"channel": "room.8", "expandReactions": true}),
    );
    assert_eq!(
        page["messages"][0]["reactions"],
        json!({
            "👍": {"count": 1, "items": [{"uid": "ben"}]},
            "🎉": {"count": 2, "items": [{"uid": "ana", "umd": role}, {"uid": "ben"}]},
            "\"quoted\"": {"count": 1, "items": [{"uid": "ben"}]},
        })
    );
    assert_eq!(page["messages"][1]["reactions"], json!({}));
    react(&server, &ben, &one, "👍", "remove");
    react(&server, &ben, &one, "\"quoted\"", "remove");
    let page = list(&server, &ana, json!({"channel": "room.8"}));
    assert_eq!(
        page["messages"][0]["reactions"],
        json!({"🎉": {"count": 2}})
    );
    assert_eq!(listed(&two), json!({"reactions": []}));
}

/// R-HTTP-25, R-HTTP-27: whether it never was, has expired, is of another channel or older than the window, is not told.
#[test]
fn reactions_of_what_is_not_visible_are_not_found() {
    let server = Server::start();
    let early = publish(&server, "room.8", json!({}));
    let elsewhere = publish(&server, "room.9", json!({}));
    outlive(&elsewhere);
    let mut ana = server.connect(reader("ana", json!({})));
    let ask = |client: &Client, message: &str| {
        let body = json!({"channel": "room.8", "messageId": message});
        server.call(client, "listReactions", body)
    };
    refused(&ask(&ana, &early), 403, "NOT_SUBSCRIBED");
    ana.subscribe("room.8");
    let passing = publish(&server, "room.8", json!({"store": 0}));
    let short = publish(&server, "room.8", json!({"store": 1}));
    let begun = Instant::now();
    while ask(&ana, &short).status == 200 {
        assert!(begun.elapsed() < PATIENCE, "it does not expire");
    }
    let mut bodies = Vec::new();
    for message in [
        &*early,
        &elsewhere,
        &passing,
        &short,
        "01KA5T6Q2M8Y0V3WZ4B7C9D1EF",
    ] {
        let answer = ask(&ana, message);
        refused(&answer, 404, "MESSAGE_NOT_FOUND");
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    let mut whole = server.connect(reader("whole", json!({"historyStart": 0})));
    whole.subscribe("room.8");
    assert_eq!(ok(&ask(&whole, &early)), json!({"reactions": []}));
}

/// R-DIFF-21, R-HTTP-13, R-HTTP-14, R-HTTP-15, R-HTTP-20, R-SRV-33
#[test]
fn a_backend_reads_the_whole_history_of_any_channel_by_event() {
    let server = Server::start();
    let get = |query: &str| server.get(&format!("/channels/a%2Fb/messages{query}"));
    assert_eq!(ok(&get("")), json!({"messages": []}));
    let published = publish_many(&server, "a/b", 130);
    let other = publish(&server, "a/b", json!({"event": "any thing", "data": [1]}));
    let all = [&published[..], std::slice::from_ref(&other)].concat();
    assert_eq!(ids(&ok(&get(""))), all[..100]);
    assert_eq!(ids(&ok(&get(&format!("?after={}", all[99])))), all[100..]);
    let newest: Vec<_> = all.iter().rev().take(100).cloned().collect();
    assert_eq!(ids(&ok(&get("?reverse=true"))), newest);
    let before = format!("?reverse=true&before={}", all[3]);
    let oldest: Vec<_> = all[..3].iter().rev().cloned().collect();
    assert_eq!(ids(&ok(&get(&before))), oldest);
    // Each has its direction; what is empty is not given.
    assert_eq!(ids(&ok(&get(&format!("?before={}", all[3])))), all[..100]);
    let empty = "?after=&before=&event=&reverse=";
    assert_eq!(ids(&ok(&get(empty))), all[..100]);
    let meta = json!({"uid": null, "umd": null});
    for query in ["?event=any%20thing", "?event=any+thing"] {
        assert_eq!(
            ok(&get(query)),
            json!({"messages": [
                {"id": other, "event": "any thing", "channel": "a/b", "data": [1], "meta": meta},
            ]})
        );
    }
    let last = format!("?event=chat&after={}", all[100]);
    assert_eq!(ids(&ok(&get(&last))), published[101..]);
    assert_eq!(ids(&ok(&get("?event=none"))), Vec::<String>::new());
    for query in ["?after=x", "?before=01", "?reverse=1", "?reverse=yes"] {
        refused(&get(query), 400, "INVALID_MESSAGE");
    }
    let answer = server.get("/channels/a%20b/messages");
    refused(&answer, 400, "INVALID_CHANNEL");
}
