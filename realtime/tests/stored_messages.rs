//! Messages that are kept (sections 9, 14 and 19.2 of the protocol), against a real server. That a message is kept shows in
//! that one can react to it (R-REACT-4).

mod support;

use serde_json::{Value, json};

use support::{Client, Server, eventually, in_seconds};

/// A client that may do everything in `room` and every other channel, but keep nothing itself.
fn reader(server: &Server) -> Client {
    let everything = json!({"*": {"subscribe": true, "messages": {"*": {"react": true}}}});
    server.connect(json!({"uid": "reader", "channels": everything}))
}

/// Whether a message is stored: whether a reaction to it is taken. Leaves no reaction.
fn is_stored(reader: &mut Client, channel: &str, id: &Value) -> bool {
    for action in ["add", "remove"] {
        let data = json!({"messageId": id, "reaction": "?", "action": action});
        reader.send(json!({"event": "hotsock.messageReaction", "channel": channel, "data": data}));
    }
    let answers = reader.drain();
    // It may go between the two, and between the two questions that either is.
    let missing = |it: &&Value| it["error"]["code"] == "MESSAGE_NOT_FOUND";
    assert_eq!(
        answers.iter().filter(missing).count(),
        answers.len(),
        "{answers:?}"
    );
    answers.is_empty()
}

fn publish(server: &Server, more: Value) -> support::Answer {
    let mut body = json!({"channel": "room", "event": "chat"});
    let given = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(given);
    server.publish(body)
}

/// R-HIST-1, R-HIST-2, R-HIST-3, R-SRV-10, R-LIM-15, R-SRV-8: delivered alike, kept or not.
#[test]
fn a_backend_says_how_long_its_message_is_kept() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    for (store, stored) in [
        (None, false),
        (Some(0), false),
        (Some(-1), true),
        (Some(3600), true),
        (Some(3_155_695_200_i64), true),
    ] {
        let answer = publish(&server, json!({"store": store, "data": [store]}));
        assert_eq!(answer.status, 202);
        assert_eq!(answer.json(), json!({"channel": "room", "event": "chat"}));
        let message = reader.expect("chat");
        let id = message["id"].clone();
        let expected = json!({"id": id, "event": "chat", "channel": "room", "data": [store]});
        assert_eq!(message, expected, "R-HIST-3, R-HIST-10");
        assert_eq!(is_stored(&mut reader, "room", &id), stored, "{store:?}");
    }
    for store in [
        json!(-2),
        json!(3_155_695_201_i64),
        json!(0.5),
        json!("1"),
        json!([1]),
    ] {
        let answer = publish(&server, json!({"store": store}));
        assert_eq!(answer.status, 400, "{store}");
        assert_eq!(answer.json()["error"]["code"], "INVALID_MESSAGE");
        assert!(answer.body.contains("store"), "{}", answer.body);
    }
    reader.expect_nothing();
    assert_eq!(server.metric("realtime_messages_stored_total"), 3.0);
}

/// R-PUB-14, R-PUB-16, R-HIST-1, R-HIST-3, R-PERM-15, R-PERM-30, R-HIST-10: the directive decides; what the client says
/// about it is not heard.
#[test]
fn a_clients_message_is_kept_as_its_directive_says() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let messages = json!({
        "*": {"publish": true}, "kept": {"store": -1}, "also.*": {"store": 60}, "also.not": {"store": 0},
        "denied": {"publish": false, "store": -1},
    });
    let claims =
        json!({"uid": "ana", "channels": {"room": {"subscribe": true, "messages": messages}}});
    let mut ana = server.connect(claims);
    ana.subscribe("room");
    for (event, stored) in [
        ("chat", false),
        ("kept", true),
        ("also.this", true),
        ("also.not", false),
    ] {
        for wish in [
            json!(null),
            json!(0),
            json!(-1),
            json!(60),
            json!("for ever"),
        ] {
            ana.send(json!({
                "channel": "room", "event": event, "data": 1, "store": wish, "emitPubSubEvent": wish,
                "deduplicationId": "the same",
            }));
            let message = reader.expect(event);
            let id = message["id"].clone();
            let meta = json!({"uid": "ana", "umd": null});
            let expected =
                json!({"id": id, "event": event, "channel": "room", "data": 1, "meta": meta});
            assert_eq!(message, expected, "R-HIST-3, R-HIST-10");
            assert_eq!(
                is_stored(&mut reader, "room", &id),
                stored,
                "{event} {wish}"
            );
        }
    }
    // It was told of all those reactions.
    ana.drain();
    ana.send(json!({"channel": "room", "event": "denied"}));
    ana.expect_error("PUBLISH_PERMISSION_DENIED");
    reader.expect_nothing();
    assert_eq!(server.metric("realtime_messages_stored_total"), 10.0);
}

/// R-HIST-2
#[test]
fn a_message_is_kept_for_its_time_and_no_longer() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let began = std::time::Instant::now();
    let mut ids = [1, 3600].map(|store| {
        publish(&server, json!({"store": store}));
        reader.expect("chat")["id"].clone()
    });
    eventually("the expiry", || {
        (!is_stored(&mut reader, "room", &ids[0])).then_some(())
    });
    assert!(began.elapsed().as_millis() >= 900, "not before its time");
    assert!(is_stored(&mut reader, "room", &ids[1]));
    // And over a restart.
    publish(&server, json!({"store": -1}));
    ids[0] = reader.expect("chat")["id"].clone();
    let server = server.again("");
    let mut reader = self::reader(&server);
    reader.subscribe("room");
    for id in &ids {
        assert!(is_stored(&mut reader, "room", id), "R-DIFF-11");
    }
}

/// R-PUB-17, R-DLV-14, R-SRV-7, R-DLV-8, R-REACT-18: a message that nobody heard is there for whoever comes later.
#[test]
fn what_is_kept_in_a_channel_without_subscribers_is_found_later() {
    let server = Server::start();
    let answer = publish(&server, json!({"store": 60, "eagerIdGeneration": true})).json();
    assert_eq!(
        answer.as_object().map(serde_json::Map::len),
        Some(3),
        "{answer}"
    );
    let mut reader = reader(&server);
    reader.subscribe("room");
    assert!(is_stored(&mut reader, "room", &answer["id"]));
    // In its own channel only.
    reader.subscribe("other");
    assert!(!is_stored(&mut reader, "other", &answer["id"]));
}

/// R-PUB-19, R-LIM-7, R-LIM-22
#[test]
fn what_is_too_large_is_neither_kept_nor_delivered() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let messages = json!({"chat": {"broadcast": true, "store": -1}});
    let mut ana =
        server.connect(json!({"channels": {"room": {"alias": "r", "messages": messages}}}));
    let (fits, too_large) = ("x".repeat(32_766), "x".repeat(32_767));
    ana.send(json!({"channel": "r", "event": "chat", "data": too_large}));
    assert_eq!(ana.expect_error("DATA_TOO_LARGE")["channel"], "r");
    let answer = publish(&server, json!({"store": 1, "data": too_large}));
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["code"], "DATA_TOO_LARGE");
    ana.send(json!({"channel": "r", "event": "chat", "data": fits}));
    let id = reader.expect("chat")["id"].clone();
    assert!(is_stored(&mut reader, "room", &id));
    assert_eq!(server.metric("realtime_messages_stored_total"), 1.0);
}

/// R-HIST-11
#[test]
fn a_scheduled_message_is_kept_from_its_delivery_on() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let (later, at) = in_seconds(3);
    let answer = publish(
        &server,
        json!({"store": 2, "scheduleExpression": later, "eagerIdGeneration": true}),
    );
    let id = answer.json()["id"].clone();
    assert!(!is_stored(&mut reader, "room", &id), "it is not there yet");
    assert_eq!(reader.expect("chat")["id"], id);
    assert!(is_stored(&mut reader, "room", &id));
    eventually("the expiry", || {
        (!is_stored(&mut reader, "room", &id)).then_some(())
    });
    let lived = jiff::Timestamp::now().as_millisecond() - at * 1000;
    assert!(
        lived >= 1_900,
        "counted from its delivery, not its acceptance: {lived} ms"
    );
}

/// R-SRV-12, R-SRV-15, R-SRV-16: a copy is accepted like every message, and neither kept nor delivered.
#[test]
fn a_copy_is_not_kept() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let copy = json!({"store": 60, "deduplicationId": "one", "eagerIdGeneration": true});
    let ids = [0, 1].map(|_| publish(&server, copy.clone()).json()["id"].clone());
    assert_ne!(ids[0], ids[1], "R-SRV-15");
    assert_eq!(reader.expect("chat")["id"], ids[0]);
    reader.expect_nothing();
    assert!(is_stored(&mut reader, "room", &ids[0]));
    assert!(!is_stored(&mut reader, "room", &ids[1]));
}

/// R-DLV-5, R-DLV-6, R-DLV-7: what is kept and what is not are one sequence.
#[test]
fn kept_and_other_messages_keep_their_order() {
    let server = Server::start();
    let mut reader = reader(&server);
    reader.subscribe("room");
    let messages = json!({"kept": {"broadcast": true, "store": 60}, "plain": {"broadcast": true}});
    let mut ana = server.connect(json!({"channels": {"room": {"messages": messages}}}));
    for number in 0..300 {
        let event = if number % 3 == 0 { "kept" } else { "plain" };
        ana.send(json!({"channel": "room", "event": event, "data": number}));
    }
    let seen: Vec<_> = (0..300).map(|_| reader.next()).collect();
    assert!((0..300).all(|number| seen[number]["data"] == number));
    let ids: Vec<_> = seen
        .iter()
        .map(|it| it["id"].as_str().expect("an id"))
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
}

/// R-CONN-22, R-DLV-10, R-DLV-1: what a connection sends is processed in order, although keeping takes a moment: its own copy
/// comes before the end of its subscription, and others see its messages of several channels as they were sent.
#[test]
fn what_is_sent_behind_a_kept_message_does_not_overtake_it() {
    let server = Server::start();
    let mut reader = server.connect(json!({"channels": {"*": {"subscribe": true}}}));
    reader.subscribe("a");
    reader.subscribe("b");
    let messages = json!({"kept": {"broadcast": true, "echo": true, "store": 60}, "plain": {"broadcast": true}});
    let mut ana =
        server.connect(json!({"channels": {"*": {"subscribe": true, "messages": messages}}}));
    for round in 0..20 {
        ana.send_together([
            json!({"event": "hotsock.subscribe", "channel": "a"}),
            json!({"event": "kept", "channel": "a", "data": [round, 0]}),
            json!({"event": "plain", "channel": "b", "data": [round, 1]}),
            json!({"event": "kept", "channel": "a", "data": [round, 2]}),
            json!({"event": "kept", "channel": "b", "data": [round, 3]}),
            json!({"event": "plain", "channel": "a", "data": [round, 4]}),
            json!({"event": "hotsock.unsubscribe", "channel": "a"}),
        ]);
        let own: Vec<_> = (0..4).map(|_| ana.next()["event"].clone()).collect();
        assert_eq!(
            own,
            ["hotsock.subscribed", "kept", "kept", "hotsock.unsubscribed"]
        );
        for number in 0..5 {
            assert_eq!(reader.next()["data"], json!([round, number]));
        }
    }
    ana.expect_nothing();
}

/// R-PUB-17, R-STOR-35: a broadcast that nobody heard is in the history, and writes to storage are not.
#[test]
fn a_kept_broadcast_is_read_later_and_storage_is_no_message() {
    let server = Server::start();
    let directives = json!({"messages": {"kept": {"broadcast": true, "store": -1}}, "storage": {"k": {"set": true}}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": {"room": directives}}));
    ana.send(json!({"channel": "room", "event": "kept", "data": 1}));
    ana.send(
        json!({"channel": "room", "event": "hotsock.channelStorageSet", "key": "k", "data": 2}),
    );
    ana.settle();
    let body = json!({"channel": "room", "event": "hotsock.channelStorageSet", "key": "k", "data": 3, "store": 60});
    assert_eq!(server.publish(body).status, 202);
    let history = server.get("/channels/room/messages").json();
    let messages = history["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 1, "{history}");
    assert_eq!(
        (&messages[0]["event"], &messages[0]["data"]),
        (&json!("kept"), &json!(1))
    );
    assert_eq!(messages[0]["meta"], json!({"uid": "ana", "umd": null}));
    let internal = [
        "connectionId",
        "sourceIp",
        "userAgent",
        "trigger",
        "requestId",
        "source",
    ];
    assert!(
        internal
            .iter()
            .all(|name| !history.to_string().contains(name)),
        "R-HIST-10"
    );
}
