//! Messages of clients and backends on their way to subscribers (sections 9 and 10 of the protocol), against a real server.

mod support;

use std::collections::HashMap;
use std::sync::Barrier;

use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use support::{Client, Server, libc_signal, token};

/// Claims of a user with these directives in channel `a`.
fn in_a(uid: &str, directives: Value) -> Value {
    json!({"uid": uid, "channels": {"a": directives}})
}

/// Claims of a user who only listens, everywhere.
fn listener() -> Value {
    json!({"channels": {"*": {"subscribe": true}}})
}

/// A client that is subscribed to `a`.
fn subscriber(server: &Server) -> Client {
    let mut client = server.connect(listener());
    client.subscribe("a");
    client
}

fn chat(client: &mut Client, data: impl Into<Value>) {
    let data: Value = data.into();
    client.send(json!({"event": "chat", "channel": "a", "data": data}));
}

fn keys(message: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = message
        .as_object()
        .expect("an object")
        .keys()
        .map(|key| &**key)
        .collect();
    keys.sort_unstable();
    keys
}

/// R-PUB-1, R-PUB-8, R-PUB-12, R-DLV-1, R-DLV-2, R-DLV-4, R-ERR-9, R-DLV-12
#[test]
fn a_client_publishes_to_all_other_subscribers() {
    let server = Server::start();
    let publish = json!({"subscribe": true, "messages": {"chat": {"publish": true}}});
    let mut ana = server.connect(in_a("ana", publish));
    ana.subscribe("a");
    let mut others: Vec<_> = (0..3).map(|_| subscriber(&server)).collect();
    let mut elsewhere = server.connect(listener());
    elsewhere.subscribe("b");
    chat(&mut ana, json!({"text": "Moin"}));
    ana.expect_nothing();
    let messages: Vec<_> = others
        .iter_mut()
        .map(|other| other.expect("chat"))
        .collect();
    let message = &messages[0];
    assert!(messages.iter().all(|it| it == message));
    assert_eq!(keys(message), ["channel", "data", "event", "id", "meta"]);
    assert_eq!(message["channel"], "a");
    assert_eq!(message["data"], json!({"text": "Moin"}));
    assert_eq!(message["meta"], json!({"uid": "ana", "umd": null}));
    let id = message["id"].as_str().expect("an id");
    let ulid: ulid::Ulid = id.parse().expect("a ULID");
    let age = support::now().abs_diff(ulid.timestamp_ms() / 1000);
    assert!(id.len() == 26 && age < 60, "{id}");
    others.iter_mut().for_each(Client::expect_nothing);
    elsewhere.expect_nothing();
}

/// R-DLV-2, R-DLV-3, R-PUB-13
#[test]
fn a_backends_message_has_no_meta_and_missing_data_is_null() {
    let server = Server::start();
    let publish = json!({"subscribe": true, "messages": {"chat": {"publish": true}}});
    let mut ana = server.connect(in_a("ana", publish));
    ana.subscribe("a");
    let mut ben = subscriber(&server);
    assert_eq!(
        server
            .publish(json!({"channel": "a", "event": "price", "data": {"bid": 101.5}}))
            .status,
        202
    );
    let message = ben.expect("price");
    assert_eq!(keys(&message), ["channel", "data", "event", "id"]);
    assert_eq!(message["data"], json!({"bid": 101.5}));
    server.publish(json!({"channel": "a", "event": "price"}));
    assert_eq!(ben.expect("price").get("data"), Some(&Value::Null));
    ana.send(json!({"event": "chat", "channel": "a"}));
    assert_eq!(ben.expect("chat").get("data"), Some(&Value::Null));
}

/// R-PUB-2 to R-PUB-7, R-PERM-9, R-PERM-10
#[test]
fn publish_and_broadcast_give_the_documented_verdicts() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let denied = Some("PUBLISH_PERMISSION_DENIED");
    for (publish, broadcast, unsubscribed, subscribed) in [
        (None, None, denied, denied),
        (None, Some(true), None, None),
        (None, Some(false), denied, denied),
        (Some(true), None, Some("NOT_SUBSCRIBED"), None),
        (Some(true), Some(true), None, None),
        (Some(true), Some(false), Some("NOT_SUBSCRIBED"), None),
        (Some(false), None, denied, denied),
        (Some(false), Some(true), denied, denied),
        (Some(false), Some(false), denied, denied),
    ] {
        let mut event = json!({});
        for (name, value) in [("publish", publish), ("broadcast", broadcast)] {
            if let Some(value) = value {
                event[name] = value.into();
            }
        }
        // `b` is `a` by another name: an error repeats what the client wrote (R-ERR-4).
        let directives = json!({"alias": "b", "subscribe": true, "messages": {"chat": event}});
        let mut ana = server.connect(in_a("ana", directives));
        for expected in [unsubscribed, subscribed] {
            for name in ["a", "b"] {
                ana.send(json!({"event": "chat", "channel": name}));
                match expected {
                    Some(code) => {
                        assert_eq!(ana.expect_error(code)["channel"], name, "{event}");
                        ben.expect_nothing();
                    }
                    None => {
                        assert_eq!(ben.expect("chat")["channel"], "a", "{event}");
                    }
                }
            }
            ana.drain();
            ana.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
            ana.drain();
        }
    }
    ben.expect_nothing();
}

/// R-PERM-16, R-PERM-18, R-PERM-20, R-PERM-31
#[test]
fn a_subscribe_token_adds_to_what_may_be_published_while_it_is_subscribed() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    ben.subscribe("lab.core");
    let channels = json!({
        "lab.core": {"subscribe": false}, "lab.*": {"messages": {"*": {"publish": true}}},
        "a": {"messages": {"never": {"publish": false}}},
    });
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    ana.send(json!({"event": "chat", "channel": "lab.core"}));
    ana.expect_error("NOT_SUBSCRIBED");
    let messages =
        json!({"chat": {"publish": true}, "never": {"publish": true}, "cast": {"broadcast": true}});
    let token = token(json!({
        "scope": "subscribe", "uid": "ana",
        "channels": {"a": {"subscribe": true, "messages": messages}, "lab.core": {"messages": messages}},
    }));
    let denied = Some("PUBLISH_PERMISSION_DENIED");
    for subscribed in [false, true, false] {
        if subscribed {
            ana.send(
                json!({"event": "hotsock.subscribe", "channel": "a", "data": {"token": token}}),
            );
            ana.expect("hotsock.subscribed");
        } else {
            ana.send(json!({"event": "hotsock.unsubscribe", "channel": "a"}));
            ana.next();
        }
        for (event, refusal) in [
            ("chat", denied.filter(|_| !subscribed)),
            ("never", denied),
            ("cast", denied),
        ] {
            ana.send(json!({"event": event, "channel": "a"}));
            match refusal {
                Some(code) => drop(ana.expect_error(code)),
                None => drop(ben.expect(event)),
            }
        }
    }
    ben.expect_nothing();
}

/// R-PUB-3, R-PUB-11, R-PUB-12: even where subscribing is denied; the connection's metadata stand in for the subscription's.
#[test]
fn a_broadcaster_needs_no_subscription_and_hears_no_echo() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let directives =
        json!({"subscribe": false, "messages": {"*": {"broadcast": true, "echo": true}}});
    let mut claims = in_a("probe", directives);
    claims["umd"] = json!({"unit": 7});
    let mut probe = server.connect(claims);
    chat(&mut probe, 1);
    assert_eq!(
        ben.expect("chat")["meta"],
        json!({"uid": "probe", "umd": {"unit": 7}})
    );
    probe.expect_nothing();
}

/// R-PUB-9, R-PUB-10
#[test]
fn a_sender_hears_itself_only_with_echo_and_its_other_connections_always() {
    let server = Server::start();
    let messages = json!({"chat": {"publish": true}, "loud": {"publish": true, "echo": true}, "*": {"echo": false}});
    let quiet = json!({"chat": {"publish": true}, "loud": {"publish": true, "echo": true}});
    for (messages, echoed) in [(messages, false), (quiet, true)] {
        let claims = in_a("ana", json!({"subscribe": true, "messages": messages}));
        let mut tabs = [server.connect(claims.clone()), server.connect(claims)];
        tabs.iter_mut().for_each(|tab| drop(tab.subscribe("a")));
        for event in ["chat", "loud"] {
            tabs[0].send(json!({"event": event, "channel": "a"}));
            tabs[1].expect(event);
        }
        let heard: Vec<_> = tabs[0]
            .drain()
            .iter()
            .map(|it| it["event"].clone())
            .collect();
        assert_eq!(heard, if echoed { vec![json!("loud")] } else { vec![] });
    }
}

/// R-PUB-12, R-CLAIM-19
#[test]
fn a_message_carries_the_identity_of_its_subscription() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut ana = server.connect(json!({"uid": "ana", "umd": 1}));
    let directives = json!({"subscribe": true, "messages": {"chat": {"publish": true}}});
    let token = token(json!({
        "scope": "subscribe", "connectionId": ana.id(), "uid": "guest", "umd": [2], "channels": {"a": directives},
    }));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "a", "data": {"token": token}}));
    ana.expect("hotsock.subscribed");
    chat(&mut ana, "x");
    assert_eq!(
        ben.expect("chat")["meta"],
        json!({"uid": "guest", "umd": [2]})
    );
}

/// R-HIST-3, R-PUB-16: the directive's `store` changes nothing about live delivery, and what a client
/// says about storing, events and copies changes nothing at all.
#[test]
fn live_delivery_is_the_same_whatever_is_to_be_kept() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    for store in [-1, 3600] {
        let event = json!({"publish": true, "store": store, "emitPubSubEvent": true});
        let mut ana = server.connect(in_a(
            "ana",
            json!({"subscribe": true, "messages": {"chat": event}}),
        ));
        ana.subscribe("a");
        for number in 0..3 {
            ana.send(json!({
                "event": "chat", "channel": "a", "data": number, "store": "x", "emitPubSubEvent": 1,
                "deduplicationId": "the same", "unknown": {},
            }));
        }
        ana.expect_nothing();
        for number in 0..3 {
            assert_eq!(ben.expect("chat")["data"], number);
        }
    }
}

/// R-PUB-18, R-CONN-22
#[test]
fn a_publish_right_after_a_subscribe_is_judged_after_it() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let directives =
        json!({"subscribe": true, "messages": {"chat": {"publish": true, "echo": true}}});
    let mut ana = server.connect(in_a("ana", directives));
    for number in 0..50 {
        ana.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
        chat(&mut ana, number);
        ana.send(json!({"event": "hotsock.unsubscribe", "channel": "a"}));
        chat(&mut ana, "not subscribed");
    }
    for number in 0..50 {
        ana.expect("hotsock.subscribed");
        assert_eq!(ana.expect("chat")["data"], number);
        ana.expect("hotsock.unsubscribed");
        ana.expect_error("NOT_SUBSCRIBED");
        assert_eq!(ben.expect("chat")["data"], number);
    }
    ben.expect_nothing();
}

/// R-PUB-19, R-LIM-7, R-LIM-22, R-JSON-6: 32,768 bytes of compact JSON, from clients and backends.
#[test]
fn data_of_32_kib_is_delivered_and_one_byte_more_is_refused() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut ana = server.connect(in_a(
        "ana",
        json!({"messages": {"chat": {"broadcast": true}}}),
    ));
    let text = |bytes: usize| "x".repeat(bytes - 2);
    for multibyte in [false, true] {
        let largest = if multibyte {
            "ß".repeat(16_383)
        } else {
            text(32_768)
        };
        chat(&mut ana, largest.clone());
        assert_eq!(ben.expect("chat")["data"], largest);
        server.publish(json!({"channel": "a", "event": "chat", "data": largest}));
        assert_eq!(ben.expect("chat")["data"], largest);
    }
    // White space between tokens is not part of the value.
    let spacious = format!(
        r#"{{"event":"chat","channel":"a","data":[{}"{}"]}}"#,
        " ".repeat(9000),
        text(32_766)
    );
    ana.send_text(&spacious);
    assert_eq!(ben.expect("chat")["data"], json!([text(32_766)]));

    chat(&mut ana, text(32_769));
    assert_eq!(ana.expect_error("DATA_TOO_LARGE")["channel"], "a");
    let refused = server.publish(json!({"channel": "a", "event": "chat", "data": text(32_769)}));
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (413, &json!("DATA_TOO_LARGE"))
    );
    ben.expect_nothing();
}

/// R-LIM-4, R-LIM-22, R-JSON-7, R-ERR-8
#[test]
fn event_names_follow_the_rules() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut ana = server.connect(in_a("ana", json!({"messages": {"*": {"broadcast": true}}})));
    for event in [
        "x".repeat(128),
        "漢".repeat(128),
        "a#b".into(),
        "is-typing".into(),
        "hotsockx".into(),
        "a b".into(),
    ] {
        ana.send(json!({"event": event, "channel": "a"}));
        ben.expect(&event);
        assert_eq!(
            server
                .publish(json!({"event": event, "channel": "a"}))
                .status,
            202
        );
        ben.expect(&event);
    }
    for event in [
        "x".repeat(129),
        "漢".repeat(129),
        "#a".into(),
        "a*".into(),
        "hotsock.mine".into(),
    ] {
        ana.send(json!({"event": event, "channel": "a"}));
        assert_eq!(ana.expect_error("INVALID_EVENT")["channel"], "a", "{event}");
        let refused = server.publish(json!({"event": event, "channel": "a"}));
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (400, &json!("INVALID_EVENT"))
        );
    }
    ana.send(json!({"event": "chat"}));
    assert_eq!(ana.expect_error("INVALID_CHANNEL").get("channel"), None);
    ben.expect_nothing();
}

/// R-SCHED-8, R-PERM-29: who may send now may not for that reason send later; and what is refused is not sent at once.
#[test]
fn a_scheduled_message_is_refused_and_not_sent_at_once() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut ana = server.connect(in_a("ana", json!({"messages": {"*": {"broadcast": true}}})));
    ana.send(
        json!({"event": "chat", "channel": "a", "scheduleExpression": "at(2099-01-01T00:00:00)"}),
    );
    let error = ana.expect_error("SCHEDULE_PERMISSION_DENIED");
    assert_eq!(error["channel"], "a");
    ben.expect_nothing();
}

/// R-JSON-9, R-JSON-2: what is sent arrives as it was, digit for digit.
#[test]
fn data_arrives_unaltered() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut ana = server.connect(in_a(
        "ana",
        json!({"messages": {"chat": {"broadcast": true}}}),
    ));
    let data =
        r#"{"n":12345678901234567890123,"e":1.50e+3,"a":[true,null,"é\u0000\ud83c\udf89"],"":{}}"#;
    let message = format!(r#"{{"event":"chat","channel":"a","data":{data}}}"#);
    for from_client in [true, false] {
        if from_client {
            ana.send_text(&message);
        } else {
            let key = format!("Bearer {}", support::API_KEYS[1]);
            let answer = server.request("POST", "/publish", &[("Authorization", &key)], &message);
            assert_eq!(answer.status, 202);
        }
        let Message::Text(text) = ben.next_message() else {
            panic!("a text message was expected");
        };
        assert!(text.contains(&format!(r#""data":{data}"#)), "{text}");
    }
}

/// R-DLV-1, R-DLV-5, R-DLV-6, R-DLV-7
#[test]
fn under_load_all_subscribers_see_one_rising_sequence_without_a_gap() {
    const PUBLISHERS: usize = 20;
    const EACH: usize = 100;
    let server = Server::start();
    let mut subscribers: Vec<_> = (0..100).map(|_| subscriber(&server)).collect();
    let begin = Barrier::new(PUBLISHERS);
    std::thread::scope(|threads| {
        for publisher in 0..PUBLISHERS {
            let (server, begin) = (&server, &begin);
            threads.spawn(move || {
                let data = |number| json!({"from": publisher, "number": number});
                if publisher % 4 == 0 {
                    begin.wait();
                    for number in 0..EACH {
                        let body = json!({"channel": "a", "event": "chat", "data": data(number)});
                        assert_eq!(server.publish(body).status, 202);
                    }
                } else {
                    let broadcast = json!({"messages": {"chat": {"broadcast": true}}});
                    let mut client = server.connect(in_a("p", broadcast));
                    begin.wait();
                    (0..EACH).for_each(|number| chat(&mut client, data(number)));
                    client.settle();
                }
            });
        }
    });
    let first: Vec<_> = (0..PUBLISHERS * EACH)
        .map(|_| subscribers[0].next_message())
        .collect();
    for other in &mut subscribers[1..] {
        assert!(first.iter().all(|message| other.next_message() == *message));
    }
    subscribers.iter_mut().for_each(Client::expect_nothing);
    let first: Vec<Value> = first
        .iter()
        .map(|message| serde_json::from_str(message.to_text().expect("a text")).expect("JSON"))
        .collect();
    let mut next: HashMap<u64, u64> = HashMap::new();
    for message in &first {
        let from = message["data"]["from"].as_u64().expect("a number");
        let next = next.entry(from).or_default();
        assert_eq!(
            message["data"]["number"], *next,
            "in the order in which each publisher sent"
        );
        *next += 1;
    }
    let ids: Vec<_> = first
        .iter()
        .map(|it| it["id"].as_str().expect("an id"))
        .collect();
    assert!(ids.is_sorted_by(|one, other| one < other));
}

/// R-DLV-15, R-DLV-1
#[test]
fn a_large_channel_gets_the_same_messages() {
    let server = Server::start();
    let mut subscribers: Vec<_> = (0..600).map(|_| subscriber(&server)).collect();
    for number in 0..3 {
        server.publish(json!({"channel": "a", "event": "chat", "data": number}));
    }
    let first = subscribers[0].drain();
    assert_eq!(first.len(), 3);
    assert!(subscribers[1..].iter_mut().all(|it| it.drain() == first));
}

/// R-DLV-10
#[test]
fn messages_of_several_channels_reach_a_connection_in_one_order() {
    let server = Server::start();
    let mut ben = server.connect(listener());
    (0..10).for_each(|channel| drop(ben.subscribe(&format!("c{channel}"))));
    let mut ana =
        server.connect(json!({"channels": {"*": {"messages": {"*": {"broadcast": true}}}}}));
    for number in 0..500 {
        let channel = format!("c{}", number * 7 % 10);
        ana.send(json!({"event": "chat", "channel": channel, "data": number}));
    }
    for number in 0..500 {
        assert_eq!(ben.expect("chat")["data"], number);
    }
}

/// R-DLV-9, R-DLV-11, R-DLV-1: it gets what fits, without a gap, then 1008; nobody else notices.
#[test]
fn who_does_not_read_is_closed_and_nobody_else_waits_or_misses_anything() {
    let server = Server::with("[limits]\noutbound_bytes = \"256KiB\"\n");
    let mut stalled = subscriber(&server);
    let mut prompt = [subscriber(&server), subscriber(&server)];
    let data = "x".repeat(30_000);
    let closes = "realtime_slow_consumer_closes_total";
    let mut published = 0;
    while server.metric(closes) == 0.0 {
        assert!(published < 2000, "60 MB wait for one that does not read");
        for _ in 0..10 {
            server.publish(json!({"channel": "a", "event": "chat", "data": [published, data]}));
            for client in &mut prompt {
                assert_eq!(client.expect("chat")["data"][0], published);
            }
            published += 1;
        }
    }
    // Cleaned up as any disconnect.
    assert_eq!(server.get("/channels/a").json()["subscriptionsCount"], 2);
    let mut read = 0;
    let (code, reason) = loop {
        match stalled.next_message() {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(message["data"][0], read, "no message is left out");
                read += 1;
            }
            Message::Close(Some(frame)) => break (u16::from(frame.code), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, &*reason), (1008, "Slow consumer"));
    assert!(read < published);
    server.publish(json!({"channel": "a", "event": "after"}));
    prompt
        .iter_mut()
        .for_each(|client| drop(client.expect("after")));
    assert_eq!(server.metric(closes), 1.0);
}

/// R-DLV-8, R-SRV-7
#[test]
fn an_eager_identifier_is_that_of_the_delivered_message() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    let mut last = String::new();
    for _ in 0..20 {
        let answer =
            server.publish(json!({"channel": "a", "event": "chat", "eagerIdGeneration": true}));
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(ben.expect("chat")["id"], *id);
        assert!(id > last);
        last = id;
    }
}

/// R-SRV-12 to R-SRV-15, R-LIM-14
#[test]
fn copies_of_a_backends_message_disappear() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    ben.subscribe("b");
    let mut ids = Vec::new();
    let mut publish = |channel: &str, id: &str| {
        let answer = server.publish(json!({
            "channel": channel, "event": "chat", "deduplicationId": id, "eagerIdGeneration": true,
        }));
        assert_eq!(answer.status, 202);
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
    };
    for (channel, id, delivered) in [
        ("a", "px-881", true),
        ("a", "px-881", false),
        ("a", "px-881", false),
        ("b", "px-881", true),
        ("a", "px-882", true),
        ("a", "", true),
        ("a", "", true),
    ] {
        publish(channel, id);
        let heard = ben.drain();
        assert_eq!(heard.len(), usize::from(delivered), "{channel} {id}");
        assert!(heard.iter().all(|it| it["channel"] == channel));
    }
    // A copy's answer looks like any other, and its identifier is nobody else's.
    assert!(ids.is_sorted_by(|one, other| one < other));
}

/// R-DLV-13
#[test]
fn what_was_answered_with_202_arrives_although_the_server_ends() {
    let server = Server::start();
    let mut ben = subscriber(&server);
    for number in 0..200 {
        let answer = server.publish(json!({"channel": "a", "event": "chat", "data": number}));
        assert_eq!(answer.status, 202);
    }
    server.signal(libc_signal::TERM);
    for number in 0..200 {
        assert_eq!(ben.expect("chat")["data"], number);
    }
    assert_eq!(ben.closed().0, 1012);
}

/// R-DLV-14
#[test]
fn publishing_to_nobody_succeeds() {
    let server = Server::start();
    assert_eq!(
        server
            .publish(json!({"channel": "empty", "event": "chat"}))
            .status,
        202
    );
    let mut ana = server.connect(in_a(
        "ana",
        json!({"messages": {"chat": {"broadcast": true}}}),
    ));
    chat(&mut ana, "x");
    ana.expect_nothing();
}

/// R-LIM-16, R-LIM-22: in one frame or in many.
#[test]
fn an_inbound_message_has_128_kib_at_most() {
    let server = Server::start();
    let padded = |bytes: usize| {
        let message = r#"{"event":"hotsock.ping"}"#;
        format!("{message}{}", " ".repeat(bytes - message.len()))
    };
    let in_frames = |client: &mut Client, text: &str, size: usize| {
        let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
        for (number, chunk) in chunks.iter().enumerate() {
            let kind = if number == 0 {
                Data::Text
            } else {
                Data::Continue
            };
            let last = number + 1 == chunks.len();
            let frame = Frame::message(chunk.to_vec(), OpCode::Data(kind), last);
            client.send_message(Message::Frame(frame));
        }
    };
    for size in [128 * 1024 + 1, 1000] {
        let mut client = server.connect(json!({}));
        in_frames(&mut client, &padded(128 * 1024), size);
        client.expect("hotsock.pong");
        in_frames(&mut client, &padded(128 * 1024 + 1), size);
        assert_eq!(client.closed().0, 1009);
    }
}
