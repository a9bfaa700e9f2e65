//! Reactions (section 15 of the protocol), against a real server.

mod support;

use serde_json::{Value, json};

use support::{Answer, Client, Server, eventually, in_seconds, token};

/// Claims of a user who may react to every `chat` in `room`, which it may call `r`.
fn in_room(uid: &str, react: Value) -> Value {
    json!({"uid": uid, "channels": {"room": {"alias": "r", "subscribe": true, "messages": {"chat": {"react": react}}}}})
}

fn subscribed(server: &Server, claims: Value) -> Client {
    let mut client = server.connect(claims);
    client.subscribe("room");
    client
}

/// A message that is kept.
fn stored(server: &Server, event: &str) -> Value {
    let body = json!({"channel": "room", "event": event, "store": 3600, "eagerIdGeneration": true});
    server.publish(body).json()["id"].clone()
}

fn react(client: &mut Client, channel: &str, data: Value) {
    client.send(json!({"event": "hotsock.messageReaction", "channel": channel, "data": data}));
}

fn data(id: &Value, reaction: &str, action: &str) -> Value {
    json!({"messageId": id, "reaction": reaction, "action": action})
}

/// What subscribers get, whatever its id.
fn told(message: &Value, id: &Value, reaction: &str, action: &str, meta: Value) {
    let event = match action {
        "add" => "hotsock.messageReactionAdded",
        _ => "hotsock.messageReactionRemoved",
    };
    let expected = json!({
        "id": message["id"], "event": event, "channel": "room", "data": data(id, reaction, action), "meta": meta,
    });
    assert_eq!(*message, expected);
    let own: ulid::Ulid = message["id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("a ULID");
    assert_ne!(own.to_string(), *id.as_str().expect("an id"));
}

fn by(uid: &str) -> Value {
    json!({"uid": uid, "umd": null})
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// R-REACT-5, R-REACT-8, R-REACT-9, R-REACT-10, R-REACT-11, R-REACT-13, R-ERR-9, R-SUB-26
#[test]
fn a_reaction_is_told_once_to_all_subscribers_but_who_reacts() {
    let server = Server::start();
    let mut ana = subscribed(&server, in_room("ana", json!(true)));
    let mut again = subscribed(&server, in_room("ana", json!(true)));
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    let id = stored(&server, "chat");
    for client in [&mut ana, &mut again, &mut ben] {
        client.expect("chat");
    }
    react(&mut ana, "room", data(&id, "🎉", "add"));
    told(&ben.next(), &id, "🎉", "add", by("ana"));
    // Other connections of the same user are told.
    told(&again.next(), &id, "🎉", "add", by("ana"));
    ana.expect_nothing();
    // Once per user and value, from whichever of its connections and by whichever name of the channel.
    react(&mut ana, "r", data(&id, "🎉", "add"));
    react(&mut again, "room", data(&id, "🎉", "add"));
    for client in [&mut ana, &mut again, &mut ben] {
        client.expect_nothing();
    }
    react(&mut ana, "r", data(&id, "👍", "add"));
    told(&ben.next(), &id, "👍", "add", by("ana"));
    react(&mut ben, "room", data(&id, "🎉", "add"));
    told(&ana.next(), &id, "🎉", "add", by("ben"));
    // What is not there is not removed, and nobody else's is.
    react(&mut ben, "room", data(&id, "👍", "remove"));
    react(&mut ben, "room", data(&id, "👎", "remove"));
    ben.expect_nothing();
    ana.expect_nothing();
    react(&mut ana, "room", data(&id, "🎉", "remove"));
    told(&ben.next(), &id, "🎉", "remove", by("ana"));
    react(&mut ana, "room", data(&id, "🎉", "remove"));
    ben.expect_nothing();
    ana.expect_nothing();
    // And it may be put on again.
    react(&mut ana, "room", data(&id, "🎉", "add"));
    told(&ben.next(), &id, "🎉", "add", by("ana"));
    assert_eq!(
        server.metric("realtime_messages_received_total{kind=\"reaction\"}"),
        10.0
    );
}

/// R-REACT-11, R-PUB-10
#[test]
fn who_reacts_hears_of_it_only_with_echo() {
    let server = Server::start();
    let id = stored(&server, "chat");
    for (messages, echo) in [
        (json!({"hotsock.messageReaction": {"echo": true}}), true),
        (json!({"*": {"echo": true}}), true),
        (json!({"#regex:^hotsock": {"echo": true}}), true),
        (json!({"chat": {"echo": true}}), false),
        (
            json!({"*": {"echo": true}, "hotsock.messageReaction": {"echo": false}}),
            false,
        ),
    ] {
        let mut claims = in_room("ana", json!(true));
        let given = messages.as_object().expect("an object").clone();
        let target = claims["channels"]["room"]["messages"]
            .as_object_mut()
            .expect("an object");
        for (event, directives) in given {
            let entry = target.entry(event).or_insert_with(|| json!({}));
            let directives = directives.as_object().expect("an object").clone();
            entry.as_object_mut().expect("an object").extend(directives);
        }
        let mut ana = subscribed(&server, claims);
        for action in ["add", "remove"] {
            react(&mut ana, "room", data(&id, "🎉", action));
            match echo {
                true => told(&ana.next(), &id, "🎉", action, by("ana")),
                false => ana.expect_nothing(),
            }
        }
    }
}

/// R-REACT-5, R-REACT-6, R-REACT-7, R-PERM-13: permission is that of the event of the message reacted to.
#[test]
fn the_event_of_the_message_decides_which_reactions_are_permitted() {
    let server = Server::start();
    let ids = ["chat", "note"].map(|event| stored(&server, event));
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    // Composed and decomposed: two values.
    let (composed, decomposed) = ("\u{e9}", "e\u{301}");
    for (messages, allowed) in [
        (json!({}), vec![]),
        (json!({"chat": {"react": false}}), vec![]),
        (
            json!({"chat": {"react": true}}),
            vec![(0, "🎉"), (0, composed), (0, decomposed)],
        ),
        (json!({"chat": {"react": ["🎉"]}}), vec![(0, "🎉")]),
        (json!({"chat": {"react": []}}), vec![]),
        (
            json!({"*": {"react": [composed]}}),
            vec![(0, composed), (1, composed)],
        ),
        (
            json!({"*": {"react": ["🎉"]}, "chat": {"react": [decomposed]}}),
            vec![(0, "🎉"), (0, decomposed), (1, "🎉")],
        ),
        (
            json!({"*": {"react": true}, "chat": {"react": false}}),
            vec![(1, "🎉"), (1, composed), (1, decomposed)],
        ),
        (
            json!({"hotsock.messageReaction": {"publish": true, "react": true}}),
            vec![],
        ),
    ] {
        let channel = json!({"alias": "r", "subscribe": true, "messages": messages});
        let mut ana = subscribed(
            &server,
            json!({"uid": "ana", "channels": {"room": channel}}),
        );
        for (at, id) in ids.iter().enumerate() {
            for reaction in ["🎉", composed, decomposed] {
                for action in ["add", "remove"] {
                    react(&mut ana, "r", data(id, reaction, action));
                    if allowed.contains(&(at, reaction)) {
                        told(&ben.next(), id, reaction, action, by("ana"));
                        ana.expect_nothing();
                    } else {
                        let error = ana.expect_error("REACTION_PERMISSION_DENIED");
                        assert_eq!(error["channel"], "r", "R-ERR-4");
                        ben.expect_nothing();
                    }
                }
            }
        }
    }
}

/// R-REACT-2, R-REACT-3, R-REACT-4, R-REACT-18, R-PERM-18
#[test]
fn a_reaction_needs_a_subscription_a_user_and_a_stored_message() {
    let server = Server::start();
    let before = stored(&server, "chat");
    let mut ana = server.connect(in_room("ana", json!(true)));
    for name in ["room", "r"] {
        react(&mut ana, name, data(&before, "🎉", "add"));
        assert_eq!(ana.expect_error("NOT_SUBSCRIBED")["channel"], name);
    }
    ana.subscribe("room");
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    // From before the subscription, without `historyStart`: it exists, and that is enough.
    react(&mut ana, "room", data(&before, "🎉", "add"));
    told(&ben.next(), &before, "🎉", "add", by("ana"));
    // Nobody in particular.
    let channel = json!({"room": {"subscribe": true, "messages": {"*": {"react": true}}}});
    let mut nobody = subscribed(&server, json!({"channels": channel}));
    react(&mut nobody, "room", data(&before, "🎉", "add"));
    nobody.expect_error("REACTION_USER_ID_REQUIRED");
    // Not stored, of another channel, never there, or no id at all.
    server.publish(json!({"channel": "room", "event": "chat"}));
    let fleeting = ana.expect("chat")["id"].clone();
    ben.expect("chat");
    let elsewhere =
        json!({"channel": "other", "event": "chat", "store": -1, "eagerIdGeneration": true});
    let elsewhere = server.publish(elsewhere).json()["id"].clone();
    for id in [
        fleeting,
        elsewhere,
        json!("01KA5T6Q2M8Y0V3WZ4B7C9D1EF"),
        json!("x"),
        json!("🎉🎉"),
    ] {
        for action in ["add", "remove"] {
            react(&mut ana, "r", data(&id, "🎉", action));
            assert_eq!(ana.expect_error("MESSAGE_NOT_FOUND")["channel"], "r");
            let answer = from_backend(&server, json!({"data": data(&id, "🎉", action)}));
            assert_eq!((answer.status, &*code(&answer)), (404, "MESSAGE_NOT_FOUND"));
        }
    }
    ben.expect_nothing();
    // Over with the subscription.
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "room"}));
    ana.expect("hotsock.unsubscribed");
    react(&mut ana, "room", data(&before, "🎉", "remove"));
    ana.expect_error("NOT_SUBSCRIBED");
}

/// R-REACT-12
#[test]
fn a_reaction_goes_with_its_message_and_nobody_is_told() {
    let server = Server::start();
    let mut ana = subscribed(&server, in_room("ana", json!(true)));
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    let body = json!({"channel": "room", "event": "chat", "store": 1, "eagerIdGeneration": true});
    let id = server.publish(body).json()["id"].clone();
    for client in [&mut ana, &mut ben] {
        client.expect("chat");
    }
    react(&mut ana, "room", data(&id, "🎉", "add"));
    told(&ben.next(), &id, "🎉", "add", by("ana"));
    eventually("the expiry", || {
        // No change as long as it is there.
        react(&mut ana, "room", data(&id, "🎉", "add"));
        let seen = ana.drain();
        assert!(
            seen.iter()
                .all(|it| it["error"]["code"] == "MESSAGE_NOT_FOUND"),
            "{seen:?}"
        );
        (!seen.is_empty()).then_some(())
    });
    ben.expect_nothing();
}

/// R-REACT-1, R-LIM-10, R-LIM-22, R-JSON-10, R-REACT-17, R-ERR-5
#[test]
fn reactions_have_a_form_and_limits() {
    let server = Server::start();
    let mut ana = subscribed(&server, in_room("ana", json!(true)));
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    let id = stored(&server, "chat");
    ana.expect("chat");
    ben.expect("chat");
    let longest = "é".repeat(50);
    for reaction in ["a", " a", "🎉🎉", &longest] {
        react(&mut ana, "room", data(&id, reaction, "add"));
        told(&ben.next(), &id, reaction, "add", by("ana"));
        let more = json!({"meta": {"uid": "bot"}, "data": data(&id, reaction, "add")});
        assert_eq!(from_backend(&server, more).status, 202);
        told(&ben.next(), &id, reaction, "add", by("bot"));
        ana.expect("hotsock.messageReactionAdded");
    }
    let too_long = "a".repeat(101);
    let valid = data(&id, "a", "add");
    let with = |name: &str, value: Value| {
        let mut data = valid.clone();
        data[name] = value;
        data
    };
    for (data, code_expected) in [
        (with("reaction", json!("")), "INVALID_REACTION"),
        (with("reaction", json!("  ")), "INVALID_REACTION"),
        (with("reaction", json!("#1")), "INVALID_REACTION"),
        (with("reaction", json!("a#")), "INVALID_REACTION"),
        (with("reaction", json!(too_long)), "INVALID_REACTION"),
        (with("reaction", Value::Null), "INVALID_REACTION"),
        (with("reaction", json!(1)), "INVALID_MESSAGE"),
        (with("action", json!("toggle")), "INVALID_REACTION"),
        (with("action", json!("ADD")), "INVALID_REACTION"),
        (with("action", Value::Null), "INVALID_REACTION"),
        (with("action", json!(true)), "INVALID_MESSAGE"),
        (with("messageId", Value::Null), "INVALID_REACTION"),
        (with("messageId", json!([id])), "INVALID_MESSAGE"),
        (json!("a"), "INVALID_MESSAGE"),
        (json!([]), "INVALID_MESSAGE"),
        (Value::Null, "INVALID_REACTION"),
    ] {
        react(&mut ana, "r", data.clone());
        assert_eq!(ana.expect_error(code_expected)["channel"], "r", "{data}");
        let answer = from_backend(&server, json!({"data": data}));
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, code_expected),
            "{data}"
        );
    }
    let (later, _) = in_seconds(60);
    ana.send(json!({"event": "hotsock.messageReaction", "channel": "r", "data": valid, "scheduleExpression": later}));
    assert_eq!(ana.expect_error("INVALID_SCHEDULE")["channel"], "r");
    let answer = from_backend(&server, json!({"data": valid, "scheduleExpression": later}));
    assert_eq!((answer.status, &*code(&answer)), (400, "INVALID_SCHEDULE"));
    ana.send(json!({"event": "hotsock.messageReaction", "data": valid}));
    ana.expect_error("INVALID_CHANNEL");
    ben.expect_nothing();
}

/// A reaction of a backend in `room`, by `bot` unless it says otherwise.
fn from_backend(server: &Server, more: Value) -> Answer {
    let mut body =
        json!({"channel": "room", "event": "hotsock.messageReaction", "meta": {"uid": "bot"}});
    let given = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(given);
    server.publish(body)
}

/// R-REACT-15, R-REACT-9, R-SRV-18, R-LIM-9, R-LIM-22
#[test]
fn a_backend_reacts_in_the_name_of_whomever_it_says() {
    let server = Server::start();
    let mut ana = subscribed(&server, in_room("ana", json!(false)));
    let id = stored(&server, "chat");
    ana.expect("chat");
    let longest = "é".repeat(128);
    let umd = json!({"a": "x".repeat(1016)});
    assert_eq!(umd.to_string().len(), 1024);
    for meta in [
        json!({"uid": "bot"}),
        json!({"uid": "bot2", "umd": null}),
        json!({"uid": longest, "umd": umd}),
        // In the name of somebody who is here and might not.
        json!({"uid": "ana", "umd": {"n": 1}}),
    ] {
        for action in ["add", "remove"] {
            let more =
                json!({"meta": meta, "data": data(&id, "🎉", action), "eagerIdGeneration": true});
            let answer = from_backend(&server, more.clone());
            let accepted = json!({"channel": "room", "event": "hotsock.messageReaction"});
            assert_eq!((answer.status, answer.json()), (202, accepted.clone()));
            let meta = json!({"uid": meta["uid"], "umd": meta["umd"]});
            told(&ana.next(), &id, "🎉", action, meta);
            // A second time changes nothing, and is accepted all the same.
            assert_eq!(from_backend(&server, more).json(), accepted);
            ana.expect_nothing();
        }
    }
    for (meta, status, code_expected) in [
        (Value::Null, 403, "REACTION_USER_ID_REQUIRED"),
        (json!({}), 403, "REACTION_USER_ID_REQUIRED"),
        (json!({"umd": 1}), 403, "REACTION_USER_ID_REQUIRED"),
        (json!({"uid": ""}), 403, "REACTION_USER_ID_REQUIRED"),
        (json!({"uid": null}), 403, "REACTION_USER_ID_REQUIRED"),
        (json!({"uid": 1}), 400, "INVALID_MESSAGE"),
        (json!("ana"), 400, "INVALID_MESSAGE"),
        (
            json!({"uid": format!("{longest}x")}),
            400,
            "INVALID_MESSAGE",
        ),
        (
            json!({"uid": "a", "umd": "x".repeat(1023)}),
            413,
            "DATA_TOO_LARGE",
        ),
    ] {
        let answer = from_backend(
            &server,
            json!({"meta": meta, "data": data(&id, "🎉", "add")}),
        );
        assert_eq!(
            (answer.status, &*code(&answer)),
            (status, code_expected),
            "{meta}"
        );
    }
    ana.expect_nothing();
}

/// R-CONN-22, R-REACT-4: what is sent behind a reaction waits until it is decided.
#[test]
fn a_reaction_is_done_before_what_follows_it() {
    let server = Server::start();
    let mut claims = in_room("ana", json!(true));
    claims["channels"]["room"]["messages"]["*"] = json!({"broadcast": true, "echo": true});
    let mut ana = subscribed(&server, claims);
    let id = stored(&server, "chat");
    ana.expect("chat");
    for _ in 0..20 {
        let reaction = |action: &str| json!({"event": "hotsock.messageReaction", "channel": "room", "data": data(&id, "🎉", action)});
        ana.send_together([
            reaction("add"),
            json!({"event": "say", "channel": "room"}),
            reaction("remove"),
            json!({"event": "hotsock.unsubscribe", "channel": "room"}),
            reaction("add"),
            json!({"event": "hotsock.subscribe", "channel": "room"}),
        ]);
        let events: Vec<_> = (0..6).map(|_| ana.next()["event"].clone()).collect();
        assert_eq!(
            events,
            [
                "hotsock.messageReactionAdded",
                "say",
                "hotsock.messageReactionRemoved",
                "hotsock.unsubscribed",
                "hotsock.error",
                "hotsock.subscribed",
            ]
        );
    }
}

/// R-UMD-17, R-PERM-16, R-PERM-18: user, metadata and permission are the subscription's.
#[test]
fn a_reaction_carries_what_the_subscription_is_now() {
    let server = Server::start();
    let id = stored(&server, "chat");
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    let mut ana = server.connect(json!({"uid": "ana"}));
    let claims = json!({
        "scope": "subscribe", "connectionId": ana.id(), "uid": "host",
        "channels": {"room": {"subscribe": true, "messages": {"chat": {"react": ["🎉"]}}}},
    });
    ana.send(
        json!({"event": "hotsock.subscribe", "channel": "room", "data": {"token": token(claims)}}),
    );
    ana.expect("hotsock.subscribed");
    react(&mut ana, "room", data(&id, "🎉", "add"));
    told(&ben.next(), &id, "🎉", "add", by("host"));
    let update = json!({
        "scope": "umd", "uid": "host", "umd": {"mood": "busy"}, "channels": {"room": {"umdUpdate": true}},
    });
    ana.send(
        json!({"event": "hotsock.umdUpdate", "channel": "room", "data": {"token": token(update)}}),
    );
    react(&mut ana, "room", data(&id, "🎉", "remove"));
    let busy = json!({"uid": "host", "umd": {"mood": "busy"}});
    told(&ben.next(), &id, "🎉", "remove", busy);
    ana.expect_nothing();
}

/// R-REACT-8, R-STOR-2, R-DIFF-11
#[test]
fn reactions_outlive_the_server() {
    let server = Server::start();
    let id = stored(&server, "chat");
    let mut ana = subscribed(&server, in_room("ana", json!(true)));
    react(&mut ana, "room", data(&id, "🎉", "add"));
    ana.settle();
    ana.close();
    let server = server.again("");
    let mut ana = subscribed(&server, in_room("ana", json!(true)));
    let mut ben = subscribed(&server, in_room("ben", json!(true)));
    react(&mut ana, "room", data(&id, "🎉", "add"));
    react(&mut ana, "room", data(&id, "👍", "add"));
    told(&ben.next(), &id, "👍", "add", by("ana"));
    react(&mut ana, "room", data(&id, "🎉", "remove"));
    told(&ben.next(), &id, "🎉", "remove", by("ana"));
}
