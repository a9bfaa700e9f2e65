//! Channel storage (section 13 of the protocol), against a real server.

mod support;

use serde_json::{Value, json};

use support::{Client, Server, eventually, token};

/// Claims of a user with these storage keys in channel `game`, which it may subscribe to as `g`.
fn in_game(uid: &str, storage: Value) -> Value {
    json!({"uid": uid, "channels": {"game": {"alias": "g", "subscribe": true, "storage": storage}}})
}

/// May do everything with every key.
fn everything() -> Value {
    json!({"*": {"get": true, "set": true, "observe": true}})
}

fn set(client: &mut Client, channel: &str, key: &str, data: Value) {
    client.send(
        json!({"event": "hotsock.channelStorageSet", "channel": channel, "key": key, "data": data}),
    );
}

fn get(client: &mut Client, channel: &str, key: &str) -> Value {
    client.send(json!({"event": "hotsock.channelStorageGet", "channel": channel, "key": key}));
    client.expect("hotsock.channelStorageData")
}

fn of_ana() -> Value {
    json!({"uid": "ana", "umd": null})
}

fn data(key: &str, data: Value, meta: Value) -> Value {
    json!({"event": "hotsock.channelStorageData", "channel": "game", "key": key, "data": data, "meta": meta})
}

fn updated(key: &str, data: Value, meta: Value) -> Value {
    json!({"event": "hotsock.channelStorageUpdated", "channel": "game", "key": key, "data": data, "meta": meta})
}

fn write(server: &Server, more: Value) -> support::Answer {
    let mut body = json!({"event": "hotsock.channelStorageSet", "channel": "game"});
    let given = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(given);
    server.publish(body)
}

fn code(answer: &support::Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// R-STOR-1, R-STOR-3, R-STOR-4, R-STOR-5, R-STOR-7, R-STOR-8, R-STOR-18, R-STOR-24, R-STOR-34, R-ERR-9, R-SUB-26: whole
/// messages, so no `id` either.
#[test]
fn what_is_set_is_read_by_those_who_may_without_a_subscription() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    let mut ben = server.connect(in_game("ben", json!({"rules": {"get": true}})));
    assert_eq!(
        get(&mut ben, "game", "rules"),
        data("rules", Value::Null, Value::Null)
    );
    set(&mut ana, "game", "rules", json!({"seats": 4}));
    ana.expect_nothing();
    let expected = data("rules", json!({"seats": 4}), of_ana());
    // By alias as well, and answered with the real name.
    for name in ["game", "g"] {
        assert_eq!(get(&mut ben, name, "rules"), expected);
    }
    ana.expect_nothing();
    // Other keys, and the same key of other channels, are other entries.
    set(&mut ana, "g", "turn", json!("ben"));
    assert_eq!(get(&mut ana, "game", "turn")["data"], "ben");
    assert_eq!(get(&mut ana, "game", "rules"), expected);
    ben.expect_nothing();
}

/// R-STOR-4, R-STOR-5, R-STOR-6, R-ERR-4, R-PERM-9: one permission does not imply another, and what is refused changes
/// nothing.
#[test]
fn set_get_and_observe_are_granted_one_by_one() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    set(&mut ana, "game", "k", json!(1));
    ana.settle();
    for (grants, may_set, may_get, may_observe) in [
        (json!({}), false, false, false),
        (json!({"k": {"set": true}}), true, false, false),
        (json!({"k": {"get": true}}), false, true, false),
        (json!({"k": {"observe": true}}), false, false, true),
        (
            json!({"*": {"get": true, "set": true, "observe": true}, "k": {"get": false}}),
            true,
            false,
            true,
        ),
        (
            json!({"*": {"get": true, "set": true, "observe": true}, "#regex:^k$": {"set": false, "observe": false}}),
            false,
            true,
            false,
        ),
    ] {
        let mut ben = server.connect(in_game("ben", grants.clone()));
        let current = get(&mut ana, "game", "k")["data"].clone();
        for name in ["game", "g"] {
            ben.send(json!({"event": "hotsock.channelStorageGet", "channel": name, "key": "k"}));
            match may_get {
                true => assert_eq!(ben.next()["data"], current, "{grants}"),
                false => {
                    let error = ben.expect_error("STORAGE_GET_PERMISSION_DENIED");
                    assert_eq!(error["channel"], name, "R-ERR-4");
                }
            }
        }
        let next = current.as_i64().expect("a number") + 1;
        set(&mut ben, "g", "k", json!(next));
        match may_set {
            true => ben.expect_nothing(),
            false => {
                let error = ben.expect_error("STORAGE_SET_PERMISSION_DENIED");
                assert_eq!(error["channel"], "g", "R-ERR-4");
            }
        }
        let now = if may_set { json!(next) } else { current };
        assert_eq!(get(&mut ana, "game", "k")["data"], now, "{grants}");
        ben.subscribe("game");
        let seen = ben.drain();
        match may_observe {
            true => assert_eq!(seen.len(), 1, "{grants}"),
            false => assert_eq!(seen, Vec::<Value>::new(), "{grants}"),
        }
    }
}

/// R-CONN-22, R-PUB-18: a write is in place for whatever the same connection sends after it.
#[test]
fn a_connection_reads_what_it_has_just_written() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    for round in 0..50 {
        ana.send_together([
            json!({"event": "hotsock.channelStorageSet", "channel": "game", "key": "k", "data": round}),
            json!({"event": "hotsock.channelStorageGet", "channel": "game", "key": "k"}),
            json!({"event": "hotsock.channelStorageSet", "channel": "game", "key": "k", "data": "later"}),
            json!({"event": "hotsock.ping"}),
        ]);
        assert_eq!(ana.expect("hotsock.channelStorageData")["data"], round);
        ana.expect("hotsock.pong");
    }
    // A subscription that is asked for before the write sees the change, one that is asked for after it the value.
    ana.send_together([
        json!({"event": "hotsock.subscribe", "channel": "game"}),
        json!({"event": "hotsock.channelStorageSet", "channel": "game", "key": "k", "data": "first"}),
        json!({"event": "hotsock.unsubscribe", "channel": "game"}),
        json!({"event": "hotsock.subscribe", "channel": "game"}),
    ]);
    ana.expect("hotsock.subscribed");
    assert_eq!(ana.next(), updated("k", json!("later"), of_ana()));
    assert_eq!(ana.next(), updated("k", json!("first"), of_ana()));
    ana.expect("hotsock.unsubscribed");
    ana.expect("hotsock.subscribed");
    assert_eq!(ana.next(), updated("k", json!("first"), of_ana()));
    ana.expect_nothing();
}

/// R-STOR-9, R-STOR-10, R-STOR-17
#[test]
fn null_an_empty_object_or_nothing_clears_and_other_empty_values_do_not() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    let mut ben = server.connect(in_game("ben", everything()));
    ben.subscribe("game");
    for clearing in [r#","data":null"#, r#","data":{}"#, r#","data": { } "#, ""] {
        set(&mut ana, "game", "k", json!("a value"));
        assert_eq!(ben.next(), updated("k", json!("a value"), of_ana()));
        ana.send_text(&format!(
            r#"{{"event":"hotsock.channelStorageSet","channel":"game","key":"k"{clearing}}}"#
        ));
        assert_eq!(
            ben.next(),
            updated("k", Value::Null, of_ana()),
            "{clearing}"
        );
        assert_eq!(
            get(&mut ana, "game", "k"),
            data("k", Value::Null, Value::Null)
        );
    }
    for value in [
        json!([]),
        json!(""),
        json!(0),
        json!(false),
        json!({"": {}}),
        json!([null]),
    ] {
        set(&mut ana, "game", "k", value.clone());
        assert_eq!(ben.next(), updated("k", value.clone(), of_ana()));
        assert_eq!(get(&mut ana, "game", "k"), data("k", value, of_ana()));
    }
}

/// R-STOR-11, R-STOR-12, R-STOR-13: what equals the value is no change; but its writer is the last one.
#[test]
fn an_unchanged_value_is_told_to_nobody_and_has_a_new_writer() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    let mut ben = server.connect(in_game("ben", everything()));
    ben.subscribe("game");
    // Clearing what is not there is no change either.
    set(&mut ana, "game", "k", Value::Null);
    ana.settle();
    ben.expect_nothing();
    let first = r#"{"a":1,"b":[{"c":"é","d":100}],"big":9007199254740993}"#;
    let send = |client: &mut Client, value: &str| {
        client.send_text(&format!(
            r#"{{"event":"hotsock.channelStorageSet","channel":"game","key":"k","data":{value}}}"#
        ));
    };
    send(&mut ana, first);
    ben.expect("hotsock.channelStorageUpdated");
    for same in [
        first,
        r#"{"b":[{"d":1e2,"c":"\u00e9"}],"big":9007199254740993,"a":1.0}"#,
    ] {
        send(&mut ben, same);
        ben.expect_nothing();
        assert_eq!(
            get(&mut ana, "game", "k")["meta"]["uid"],
            "ben",
            "R-STOR-13"
        );
        send(&mut ana, same);
        assert_eq!(get(&mut ana, "game", "k")["meta"]["uid"], "ana");
    }
    ben.expect_nothing();
    for other in [
        r#"{"a":1,"b":[{"c":"é","d":100}],"big":9007199254740992}"#,
        r#"{"a":1,"b":[{"c":"é","d":"100"}],"big":9007199254740992}"#,
    ] {
        send(&mut ana, other);
        ben.expect("hotsock.channelStorageUpdated");
    }
    ben.expect_nothing();
}

/// R-STOR-14, R-STOR-15, R-STOR-16, R-STOR-17, R-STOR-19, R-STOR-27
#[test]
fn a_change_is_told_to_every_subscriber_who_observes_the_key() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    // The writer's identity is that of its subscription.
    let as_host = token(json!({
        "scope": "subscribe", "connectionId": ana.id(), "uid": "host", "umd": {"seat": 1},
        "channels": {"game": {"subscribe": true}},
    }));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "game", "data": {"token": as_host}}));
    ana.expect("hotsock.subscribed");
    let observing = |keys: Value| {
        let mut client = server.connect(in_game("ben", keys));
        client.subscribe("game");
        client
    };
    let mut observers = [
        observing(json!({"score.1": {"observe": true}})),
        observing(json!({"score.*": {"observe": true}})),
        observing(json!({"#regex:^score\\.[0-9]$": {"observe": true}})),
    ];
    let mut others = [
        observing(json!({})),
        observing(json!({"score": {"observe": true}})),
        observing(json!({"*": {"get": true, "set": true}})),
        observing(json!({"*": {"observe": true}, "score.*": {"observe": false}})),
        server.connect(in_game("ben", everything())),
    ];
    set(&mut ana, "game", "score.1", json!(7));
    let host = json!({"uid": "host", "umd": {"seat": 1}});
    let expected = updated("score.1", json!(7), host.clone());
    assert_eq!(ana.next(), expected, "R-STOR-15");
    for observer in &mut observers {
        assert_eq!(observer.next(), expected);
    }
    // Nobody else's key, and no longer than the subscription.
    set(&mut ana, "game", "score.10", json!(8));
    ana.expect("hotsock.channelStorageUpdated");
    observers[0].expect_nothing();
    assert_eq!(observers[1].next(), updated("score.10", json!(8), host));
    observers[2].expect_nothing();
    observers[1].send(json!({"event": "hotsock.unsubscribe", "channel": "game"}));
    observers[1].expect("hotsock.unsubscribed");
    set(&mut ana, "game", "score.1", json!(9));
    ana.expect("hotsock.channelStorageUpdated");
    observers[1].expect_nothing();
    others.iter_mut().for_each(Client::expect_nothing);
}

/// R-PERM-16, R-PERM-17, R-PERM-18, R-PERM-28: what a subscribe token adds for storage holds as long as its subscription.
#[test]
fn a_subscribe_token_grants_storage_while_it_is_subscribed() {
    let server = Server::start();
    let mut ana = server.connect(
        json!({"uid": "ana", "channels": {"game": {"storage": {"locked": {"set": false}}}}}),
    );
    write(&server, json!({"key": "k", "data": 1}));
    let channels = json!({"game": {"subscribe": true, "storage": everything()}, "other": {"storage": everything()}});
    let token = token(json!({"scope": "subscribe", "uid": "ana", "channels": channels}));
    for subscribed in [false, true, false] {
        if subscribed {
            ana.send(
                json!({"event": "hotsock.subscribe", "channel": "game", "data": {"token": token}}),
            );
            ana.expect("hotsock.subscribed");
            let nobody = json!({"uid": null, "umd": null});
            assert_eq!(ana.next(), updated("k", json!(1), nobody), "R-STOR-25");
        } else {
            ana.send(json!({"event": "hotsock.unsubscribe", "channel": "game"}));
            ana.next();
        }
        set(&mut ana, "game", "k", json!(2));
        ana.send(json!({"event": "hotsock.channelStorageGet", "channel": "game", "key": "k"}));
        if subscribed {
            assert_eq!(ana.next(), updated("k", json!(2), of_ana()));
            assert_eq!(ana.next(), data("k", json!(2), of_ana()));
        } else {
            let refused: Vec<_> = (0..2)
                .map(|_| ana.next()["error"]["code"].clone())
                .collect();
            assert!(refused.contains(&json!("STORAGE_SET_PERMISSION_DENIED")));
            assert!(refused.contains(&json!("STORAGE_GET_PERMISSION_DENIED")));
        }
        // A `false` of either token wins, and other channels are none of the token's business.
        for (channel, key) in [("game", "locked"), ("other", "k")] {
            set(&mut ana, channel, key, json!(1));
            ana.expect_error("STORAGE_SET_PERMISSION_DENIED");
        }
    }
}

/// R-STOR-25, R-STOR-26, R-SUB-11, R-SUB-31, R-PRES-19, R-STOR-27
#[test]
fn a_subscription_begins_with_what_it_observes_in_the_order_of_the_keys() {
    let server = Server::start();
    let keys = ["a", "B", "a.1", "ä", "z", "hidden", "a1"];
    for key in keys {
        let body = json!({"event": "hotsock.channelStorageSet", "channel": "presence.den", "key": key, "data": key});
        assert_eq!(server.publish(body).status, 202);
    }
    let storage = json!({"*": {"observe": true}, "hid*": {"observe": false}});
    let channel = json!({"subscribe": true, "storage": storage});
    let mut ben = server.connect(json!({"uid": "ben", "channels": {"presence.den": channel}}));
    ben.subscribe("presence.den");
    let mut automatic = channel.clone();
    automatic["autoSubscribe"] = json!(true);
    let mut ana = server.connect(json!({"uid": "ana", "channels": {"presence.den": automatic}}));
    let subscribed = ana.expect("hotsock.subscribed");
    assert_eq!(subscribed["data"]["autoSubscribed"], true);
    assert_eq!(
        subscribed["data"]["members"].as_array().map(Vec::len),
        Some(2),
        "R-SUB-31"
    );
    let seen: Vec<_> = ana.drain();
    let expected: Vec<_> = ["B", "a", "a.1", "a1", "z", "ä"]
        .into_iter()
        .map(|key| {
            let mut entry = updated(key, json!(key), json!({"uid": null, "umd": null}));
            entry["channel"] = json!("presence.den");
            entry
        })
        .collect();
    assert_eq!(seen, expected);
    // Nobody else gets them.
    ben.expect("hotsock.channelStorageUpdated");
    let seen = ben.drain();
    assert_eq!(
        seen.iter()
            .filter(|it| it["event"] == "hotsock.channelStorageUpdated")
            .count(),
        5
    );
    // On every subscribe: a second time, too.
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "presence.den"}));
    ana.expect("hotsock.unsubscribed");
    ana.subscribe("presence.den");
    assert_eq!(ana.drain(), expected);
}

/// R-STOR-26, R-STOR-33: while others write as fast as they can, a subscriber sees the value at its beginning and then
/// every change, in order, from there on.
#[test]
fn who_subscribes_during_changes_misses_none_and_sees_none_twice() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    let mut ben = server.connect(in_game("ben", everything()));
    const ROUNDS: i64 = 20;
    for round in 0..ROUNDS {
        for step in 1..=20 {
            set(&mut ana, "game", "k", json!(round * 20 + step));
        }
        ben.subscribe("game");
        let mut seen = Vec::new();
        while seen.last() != Some(&((round + 1) * 20)) {
            let message = ben.expect("hotsock.channelStorageUpdated");
            seen.push(message["data"].as_i64().expect("a number"));
        }
        assert!(
            seen.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{seen:?}"
        );
        ben.expect_nothing();
        ben.send(json!({"event": "hotsock.unsubscribe", "channel": "game"}));
        ben.expect("hotsock.unsubscribed");
    }
}

/// R-STOR-33
#[test]
fn concurrent_writers_leave_everybody_with_the_same_value() {
    let server = Server::start();
    let mut observers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = server.connect(in_game("o", everything()));
            client.subscribe("game");
            client
        })
        .collect();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect(in_game("w", everything()));
                for step in 0..50 {
                    set(&mut client, "game", "k", json!([writer, step]));
                }
                client.settle();
            });
        }
    });
    let mut reader = server.connect(in_game("r", everything()));
    let last = get(&mut reader, "game", "k")["data"].clone();
    let mut seen = Vec::new();
    for observer in &mut observers {
        let changes: Vec<_> = (0..200).map(|_| observer.next()["data"].clone()).collect();
        assert_eq!(changes.last(), Some(&last));
        observer.expect_nothing();
        seen.push(changes);
    }
    assert!(seen.iter().all(|it| *it == seen[0]), "one order for all");
}

/// R-STOR-20, R-STOR-21, R-STOR-22, R-STOR-23, R-STOR-13
#[test]
fn an_entry_lives_as_long_as_its_directive_says() {
    let server = Server::start();
    let storage = json!({
        "*": {"get": true, "observe": true},
        "short": {"set": true, "store": 1}, "renewed": {"set": true, "store": 3}, "default": {"set": true},
    });
    let mut ana = server.connect(in_game("ana", storage));
    ana.subscribe("game");
    let began = std::time::Instant::now();
    for key in ["default", "renewed", "short"] {
        set(&mut ana, "game", key, json!("v"));
        assert_eq!(ana.next(), updated(key, json!("v"), of_ana()));
    }
    eventually("the expiry", || {
        (get(&mut ana, "game", "short")["data"].is_null()).then_some(())
    });
    assert!(began.elapsed().as_millis() >= 900, "not before its time");
    assert_eq!(
        get(&mut ana, "game", "short"),
        data("short", Value::Null, Value::Null)
    );
    // An unchanged write renews: it is there longer than from its first second on.
    while began.elapsed().as_millis() < 3_500 {
        set(&mut ana, "game", "renewed", json!("v"));
        assert_eq!(get(&mut ana, "game", "renewed")["data"], "v");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ana.expect_nothing();
    // What expired is not delivered, and the same value is a first write again.
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "game"}));
    ana.expect("hotsock.unsubscribed");
    ana.subscribe("game");
    let keys: Vec<_> = ana.drain().iter().map(|it| it["key"].clone()).collect();
    assert_eq!(keys, [json!("default"), json!("renewed")]);
    set(&mut ana, "game", "short", json!("v"));
    assert_eq!(
        ana.next(),
        updated("short", json!("v"), of_ana()),
        "R-STOR-23"
    );
}

/// R-STOR-2, R-STOR-29, R-STOR-30, R-DIFF-11
#[test]
fn entries_outlive_connections_and_the_server() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    set(
        &mut ana,
        "game",
        "of_a_client",
        json!({"b": 9007199254740993_i64}),
    );
    ana.settle();
    ana.close();
    assert_eq!(
        write(&server, json!({"key": "of_a_backend", "data": [1]})).status,
        202
    );
    assert_eq!(
        write(&server, json!({"key": "gone", "data": [1]})).status,
        202
    );
    assert_eq!(
        write(&server, json!({"key": "gone", "data": {}})).status,
        202
    );
    let server = server.again("");
    let mut ben = server.connect(in_game("ben", everything()));
    ben.subscribe("game");
    let nobody = json!({"uid": null, "umd": null});
    assert_eq!(
        ben.drain(),
        [
            updated("of_a_backend", json!([1]), nobody),
            updated("of_a_client", json!({"b": 9007199254740993_i64}), of_ana()),
        ]
    );
}

/// R-STOR-18, R-STOR-29, R-SRV-9, R-SRV-17, R-SRV-21, R-SRV-7
#[test]
fn a_backend_writes_without_permission_in_nobodys_name() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    ana.subscribe("game");
    let nobody = json!({"uid": null, "umd": null});
    let answer = write(
        &server,
        json!({"key": "k", "data": {"a": 1}, "eagerIdGeneration": true, "meta": {"uid": "x"}}),
    );
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.json(),
        json!({"channel": "game", "event": "hotsock.channelStorageSet"}),
        "R-SRV-21"
    );
    assert_eq!(ana.next(), updated("k", json!({"a": 1}), nobody.clone()));
    // Unchanged is accepted as well, and told to nobody.
    assert_eq!(
        write(&server, json!({"key": "k", "data": {"a": 1.0}})).status,
        202
    );
    ana.expect_nothing();
    assert_eq!(write(&server, json!({"key": "k"})).status, 202);
    assert_eq!(ana.next(), updated("k", Value::Null, nobody));
    // `key` means nothing for other events.
    let message = json!({"event": "x", "channel": "game", "key": "* *"});
    assert_eq!(server.publish(message).status, 202);
    assert_eq!(ana.next()["event"], "x");
}

/// R-SRV-12, R-SRV-13, R-SRV-14, R-SRV-16
#[test]
fn a_copy_of_a_backends_write_disappears() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    ana.subscribe("game");
    for (value, id, seen) in [
        (1, "one", true),
        (2, "one", false),
        (3, "", true),
        (4, "", true),
    ] {
        let answer = write(
            &server,
            json!({"key": "k", "data": value, "deduplicationId": id}),
        );
        assert_eq!(answer.status, 202);
        match seen {
            true => assert_eq!(ana.next()["data"], value),
            false => ana.expect_nothing(),
        }
    }
    // A client has no such thing (R-PUB-16).
    for value in [5, 6] {
        ana.send(json!({
            "event": "hotsock.channelStorageSet", "channel": "game", "key": "k", "data": value,
            "deduplicationId": "one", "store": 1, "emitPubSubEvent": true,
        }));
        assert_eq!(ana.next()["data"], value);
    }
}

/// R-STOR-30, R-LIM-15, R-SRV-8, R-LIM-22
#[test]
fn a_backends_lifetime_is_for_ever_or_up_to_a_hundred_years() {
    let server = Server::start();
    for (store, status) in [
        (json!(-1), 202),
        (json!(1), 202),
        (json!(3_155_695_200_i64), 202),
        (json!(0), 400),
        (json!(-2), 400),
        (json!(3_155_695_201_i64), 400),
        (json!(1.5), 400),
        (json!("1"), 400),
    ] {
        let answer = write(&server, json!({"key": "k", "data": 1, "store": store}));
        assert_eq!(answer.status, status, "{store}");
        if status == 400 {
            assert_eq!(code(&answer), "INVALID_MESSAGE");
            assert!(answer.body.contains("store"), "{}", answer.body);
        }
    }
    let mut ana = server.connect(in_game("ana", everything()));
    write(&server, json!({"key": "short", "data": 1, "store": 1}));
    eventually("the expiry", || {
        (get(&mut ana, "game", "short")["data"].is_null()).then_some(())
    });
    assert_eq!(get(&mut ana, "game", "k")["data"], 1);
}

/// R-LIM-6, R-LIM-8, R-LIM-22, R-SRV-17, R-HTTP-36, R-JSON-6, R-JSON-7, R-JSON-10, R-ERR-4, R-ERR-5
#[test]
fn keys_and_values_have_limits() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    let (longest, too_long) = ("é".repeat(128), "é".repeat(129));
    let fits = json!("x".repeat(32_766));
    let too_large = json!("x".repeat(32_767));
    for key in ["k", "a.b/c:d", "日本", &longest] {
        set(&mut ana, "game", key, fits.clone());
        assert_eq!(get(&mut ana, "game", key)["data"], fits, "{key}");
        assert_eq!(
            write(&server, json!({"key": key, "data": fits})).status,
            202
        );
    }
    for key in ["", " ", "a b", "a*", "#a", "a#b", "a,b", &too_long] {
        for event in ["hotsock.channelStorageSet", "hotsock.channelStorageGet"] {
            ana.send(json!({"event": event, "channel": "g", "key": key, "data": 1}));
            assert_eq!(ana.expect_error("INVALID_KEY")["channel"], "g", "{key}");
        }
        let answer = write(&server, json!({"key": key, "data": 1}));
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, "INVALID_KEY"),
            "{key}"
        );
    }
    for event in ["hotsock.channelStorageSet", "hotsock.channelStorageGet"] {
        ana.send(json!({"event": event, "channel": "game"}));
        ana.expect_error("INVALID_KEY");
        ana.send(json!({"event": event, "key": "k"}));
        ana.expect_error("INVALID_CHANNEL");
        ana.send(json!({"event": event, "channel": "a*", "key": "k"}));
        ana.expect_error("INVALID_CHANNEL");
        ana.send(json!({"event": event, "channel": "game", "key": ["k"]}));
        let error = ana.expect_error("INVALID_MESSAGE");
        let sentence = error["error"]["message"].as_str().expect("a sentence");
        assert!(
            sentence.contains("key") && sentence.contains("string"),
            "{sentence}"
        );
    }
    let answer = write(&server, json!({"data": 1}));
    assert_eq!(
        (answer.status, &*code(&answer)),
        (400, "INVALID_KEY"),
        "R-SRV-17"
    );
    set(&mut ana, "g", "k", too_large.clone());
    assert_eq!(ana.expect_error("DATA_TOO_LARGE")["channel"], "g");
    let answer = write(&server, json!({"key": "k", "data": too_large}));
    assert_eq!((answer.status, &*code(&answer)), (413, "DATA_TOO_LARGE"));
    assert_eq!(
        get(&mut ana, "game", "k")["data"],
        fits,
        "nothing has changed"
    );
    // White space does not count, and numbers keep their digits (R-JSON-9).
    ana.send_text(&format!(
        r#"{{"event":"hotsock.channelStorageSet","channel":"game","key":"k","data":[{} 1.10 ]}}"#,
        " ".repeat(40_000)
    ));
    ana.send(json!({"event": "hotsock.channelStorageGet", "channel": "game", "key": "k"}));
    let tungstenite::Message::Text(text) = ana.next_message() else {
        panic!("a text");
    };
    assert!(text.contains(r#""data":[1.10]"#), "{text}");
}

/// R-UMD-17, R-STOR-19
#[test]
fn a_write_carries_the_metadata_of_its_time() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    set(&mut ana, "game", "before", json!(1));
    let update =
        token(json!({"scope": "umd", "uid": "ana", "umd": {"mood": "busy"}, "umdUpdate": true}));
    ana.send(json!({"event": "hotsock.umdUpdate", "data": {"token": update}}));
    set(&mut ana, "game", "after", json!(1));
    let busy = json!({"uid": "ana", "umd": {"mood": "busy"}});
    assert_eq!(get(&mut ana, "game", "after")["meta"], busy);
    assert_eq!(get(&mut ana, "game", "before")["meta"], of_ana());
}

/// R-STOR-25, R-DLV-11: a subscription that begins with more than an outbox holds is none of the subscriber's fault, even
/// if it reads late; and what comes behind is not lost.
#[test]
fn much_storage_does_not_make_a_subscriber_slow() {
    let server = Server::with("[limits]\noutbound_bytes = \"256KiB\"\n");
    const ENTRIES: usize = 300;
    let value = "x".repeat(30_000);
    for number in 0..ENTRIES {
        let body = json!({"key": format!("k{number:03}"), "data": value});
        assert_eq!(write(&server, body).status, 202);
    }
    let mut ana = server.connect(in_game("ana", everything()));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "game"}));
    server.await_metric("realtime_subscriptions", 1.0);
    for number in 0..10 {
        server.publish(json!({"channel": "game", "event": "late", "data": number}));
    }
    ana.expect("hotsock.subscribed");
    for number in 0..ENTRIES {
        assert_eq!(ana.next()["key"], format!("k{number:03}"));
    }
    for number in 0..10 {
        assert_eq!(ana.expect("late")["data"], number);
    }
    ana.expect_nothing();
}

/// R-LOG-12
#[test]
fn writes_are_counted() {
    let server = Server::start();
    let mut ana = server.connect(in_game("ana", everything()));
    set(&mut ana, "game", "k", json!(1));
    set(&mut ana, "game", "a b", json!(1));
    ana.drain();
    write(&server, json!({"key": "k", "data": 2}));
    assert_eq!(server.metric("realtime_storage_writes_total"), 2.0);
    assert_eq!(
        server.metric("realtime_messages_received_total{kind=\"storage\"}"),
        2.0
    );
}
