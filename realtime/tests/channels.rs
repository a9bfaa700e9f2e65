//! Subscribing, unsubscribing, aliases and automatic subscription (section 8 of the protocol), against a real server.

mod support;

use serde_json::{Value, json};

use support::{Client, Server, now, token};

/// Claims of a user who may subscribe to everything, and publish and hear everything it publishes.
fn anywhere(uid: &str) -> Value {
    let messages = json!({"*": {"publish": true, "echo": true}});
    json!({"uid": uid, "channels": {"*": {"subscribe": true, "messages": messages}}})
}

/// A subscribe token for a user, good for one channel with these directives.
fn subscribe_token(uid: &str, channel: &str, directives: Value) -> String {
    let channels = json!({channel: directives});
    token(json!({"scope": "subscribe", "uid": uid, "channels": channels}))
}

fn subscribe_with(client: &mut Client, channel: &str, token: &str) {
    let data = json!({"token": token});
    client.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
}

fn unsubscribe(client: &mut Client, channel: &str) {
    client.send(json!({"event": "hotsock.unsubscribe", "channel": channel}));
}

fn publish(client: &mut Client, channel: &str, data: impl Into<Value>) {
    let data: Value = data.into();
    client.send(json!({"event": "chat", "channel": channel, "data": data}));
}

fn count(server: &Server, channel: &str) -> u64 {
    let answer = server.get(&format!("/channels/{channel}"));
    answer.json()["subscriptionsCount"]
        .as_u64()
        .expect("a count")
}

/// R-SUB-1, R-SUB-2, R-SUB-3
#[test]
fn a_subscription_is_confirmed_to_the_connection_that_asked() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    let mut ben = server.connect(json!({"channels": {"orders.42": {"subscribe": true}}}));
    let mut cid = server.connect(anywhere("cid"));
    assert_eq!(
        ana.subscribe("orders.42"),
        json!({
            "event": "hotsock.subscribed", "channel": "orders.42", "data": {},
            "meta": {"uid": "ana", "umd": null},
        })
    );
    assert_eq!(
        ben.subscribe("orders.42"),
        json!({
            "event": "hotsock.subscribed", "channel": "orders.42", "data": {},
            "meta": {"uid": null, "umd": null},
        })
    );
    ana.expect_nothing();
    cid.expect_nothing();
    server.publish(json!({"channel": "orders.42", "event": "new"}));
    ana.expect("new");
    ben.expect("new");
    cid.expect_nothing();
}

/// R-SUB-4, R-SUB-5, R-CLAIM-11: without a subscribe token the connect token decides, in whichever way it is left out.
#[test]
fn data_may_be_absent_or_hold_a_subscribe_token() {
    let server = Server::start();
    let channels =
        json!({"a": {"subscribe": true}, "b": {"subscribe": true}, "c": {"subscribe": true}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    for (channel, data) in [
        ("a", json!(null)),
        ("b", json!({})),
        ("c", json!({"token": null})),
    ] {
        ana.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
        assert_eq!(ana.expect("hotsock.subscribed")["channel"], channel);
    }
    ana.send(json!({"event": "hotsock.subscribe", "channel": "d"}));
    ana.expect_error("SUBSCRIBE_PERMISSION_DENIED");
    subscribe_with(
        &mut ana,
        "d",
        &subscribe_token("ana", "d", json!({"subscribe": true})),
    );
    assert_eq!(ana.expect("hotsock.subscribed")["channel"], "d");
}

/// R-SUB-6, R-CLAIM-2, R-CLAIM-4, R-CLAIM-12, R-CLAIM-22, R-ERR-1, R-ERR-3, R-ERR-5
#[test]
fn an_unusable_subscribe_token_is_refused_with_the_channel_and_nothing_else_happens() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana"}));
    let mut other = server.connect(json!({"uid": "ben"}));
    let good = json!({"scope": "subscribe", "uid": "ana", "channels": {"a": {"subscribe": true}}});
    let with = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        claims
    };
    let spent = token(with(json!({"singleUse": true, "jti": "once"})));
    subscribe_with(&mut ana, "a", &spent);
    ana.expect("hotsock.subscribed");
    unsubscribe(&mut ana, "a");
    ana.expect("hotsock.unsubscribed");
    let mut claims = with(json!({"exp": now() + 60}));
    let forged = realtime::auth::mint_hs256(b"another secret, not that of the server", &claims);
    claims.as_object_mut().expect("claims").remove("uid");
    for (unusable, why) in [
        ("no token".to_owned(), "malformed"),
        (String::new(), "empty"),
        (forged, "badly signed"),
        (token(with(json!({"exp": now() - 1}))), "expired"),
        (token(with(json!({"nbf": now() + 600}))), "not yet valid"),
        (
            token(with(json!({"scope": "connect umd"}))),
            "without the scope",
        ),
        (
            token(with(json!({"connectionId": other.id()}))),
            "for another connection",
        ),
        (token(with(json!({"uid": "ben"}))), "for another user"),
        (token(with(json!({"uid": ""}))), "for nobody"),
        (token(claims), "for nobody"),
        (spent, "already spent"),
    ] {
        subscribe_with(&mut ana, "a", &unusable);
        let error = ana.expect_error("INVALID_SUBSCRIBE_TOKEN");
        assert_eq!(error["channel"], "a", "{why}");
        // R-ERR-2
        assert!(
            unusable.is_empty() || !error.to_string().contains(&unusable),
            "{why}"
        );
    }
    assert_eq!(count(&server, "a"), 0);
    subscribe_with(&mut ana, "a", &token(good.clone()));
    ana.expect("hotsock.subscribed");
    // A connection without a user is not meant by a token without one.
    let mut nobody = server.connect(json!({}));
    subscribe_with(&mut nobody, "a", &token(with(json!({"uid": ""}))));
    nobody.expect_error("INVALID_SUBSCRIBE_TOKEN");
    other.expect_nothing();
}

/// R-ERR-3, R-JSON-10
#[test]
fn data_of_the_wrong_shape_is_refused_with_the_channel() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    for data in [
        json!("a"),
        json!([]),
        json!({"token": 1}),
        json!({"token": {}}),
    ] {
        ana.send(json!({"event": "hotsock.subscribe", "channel": "a", "data": data}));
        assert_eq!(
            ana.expect_error("INVALID_MESSAGE")["channel"],
            "a",
            "{data}"
        );
    }
}

/// R-SUB-7, R-PERM-9, R-PERM-16, R-PERM-17, R-PERM-19
#[test]
fn without_a_grant_or_with_any_false_subscribing_is_denied() {
    let server = Server::start();
    let channels = json!({
        "lab.*": {"subscribe": true}, "lab.core": {"subscribe": false}, "talk": {"messages": {"*": {"publish": true}}},
    });
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    let yes = json!({"subscribe": true});
    for (channel, token) in [
        ("lab.core", None),
        ("talk", None),
        ("unknown", None),
        // A false of the connect token holds whatever the subscribe token grants, and the other way round.
        (
            "lab.core",
            Some(subscribe_token("ana", "lab.core", yes.clone())),
        ),
        (
            "lab.9",
            Some(subscribe_token("ana", "lab.9", json!({"subscribe": false}))),
        ),
        ("unknown", Some(subscribe_token("ana", "another", yes))),
    ] {
        let data = token.map(|token| json!({"token": token}));
        ana.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
        assert_eq!(
            ana.expect_error("SUBSCRIBE_PERMISSION_DENIED")["channel"],
            channel
        );
    }
    ana.subscribe("lab.9");
}

/// R-SUB-8, R-SUB-9, R-PERM-18
#[test]
fn a_second_subscribe_leaves_the_first_untouched() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "umd": 1}));
    let id = ana.id().to_owned();
    let token_as = |uid: &str, umd: Value, echo: bool| {
        let directives =
            json!({"subscribe": true, "messages": {"chat": {"publish": true, "echo": echo}}});
        token(json!({
            "scope": "subscribe", "connectionId": id, "uid": uid, "umd": umd, "channels": {"a": directives},
        }))
    };
    subscribe_with(&mut ana, "a", &token_as("first", json!({"n": 1}), true));
    let first = json!({"uid": "first", "umd": {"n": 1}});
    assert_eq!(
        ana.expect("hotsock.subscribed")["meta"],
        first,
        "R-SUB-3, R-CLAIM-14, R-CLAIM-19"
    );
    subscribe_with(&mut ana, "a", &token_as("second", json!({"n": 2}), false));
    assert_eq!(ana.expect_error("ALREADY_SUBSCRIBED")["channel"], "a");
    publish(&mut ana, "a", "x");
    assert_eq!(ana.expect("chat")["meta"], first);
    assert_eq!(count(&server, "a"), 1);

    unsubscribe(&mut ana, "a");
    ana.expect("hotsock.unsubscribed");
    publish(&mut ana, "a", "y");
    ana.expect_error("PUBLISH_PERMISSION_DENIED");
    subscribe_with(&mut ana, "a", &token_as("second", json!({"n": 2}), false));
    assert_eq!(
        ana.expect("hotsock.subscribed")["meta"],
        json!({"uid": "second", "umd": {"n": 2}})
    );
    publish(&mut ana, "a", "z");
    ana.expect_nothing();
}

/// R-SUB-10, R-SUB-6, R-ERR-11
#[test]
fn checks_run_in_the_order_of_the_protocol() {
    let server = Server::start();
    let channels = json!({
        "have": {"subscribe": true, "alias": "mine"}, "presence.den": {"subscribe": true},
    });
    let mut nobody = server.connect(json!({"channels": channels}));
    nobody.subscribe("have");
    let id = nobody.id().to_owned();
    let single = |channels: Value| {
        token(json!({
            "scope": "subscribe", "connectionId": id, "channels": channels, "singleUse": true, "jti": "once",
        }))
    };
    subscribe_with(
        &mut nobody,
        "other",
        &single(json!({"other": {"subscribe": true}})),
    );
    nobody.expect("hotsock.subscribed");
    let denied = single(json!({"presence.den": {"subscribe": false}}));
    for (channel, data, code, named) in [
        (
            "no good",
            json!({"token": "bad"}),
            "INVALID_CHANNEL",
            "no good",
        ),
        (
            "mine",
            json!({"token": "bad"}),
            "ALREADY_SUBSCRIBED",
            "have",
        ),
        ("have", json!("bad"), "ALREADY_SUBSCRIBED", "have"),
        (
            "presence.no",
            json!({"token": "bad"}),
            "INVALID_SUBSCRIBE_TOKEN",
            "presence.no",
        ),
        (
            "presence.den",
            json!({"token": denied}),
            "INVALID_SUBSCRIBE_TOKEN",
            "presence.den",
        ),
        (
            "presence.no",
            json!(null),
            "SUBSCRIBE_PERMISSION_DENIED",
            "presence.no",
        ),
        (
            "presence.den",
            json!(null),
            "PRESENCE_CHANNEL_USER_ID_REQUIRED",
            "presence.den",
        ),
    ] {
        nobody.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
        assert_eq!(nobody.expect_error(code)["channel"], named, "{channel}");
    }
}

/// R-CLAIM-25: what fails for another reason does not spend the token.
#[test]
fn a_failed_subscribe_spends_no_token() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "channels": {"a": {"subscribe": true}}}));
    ana.subscribe("a");
    let once = token(json!({
        "scope": "subscribe", "uid": "ana", "singleUse": true, "jti": "once",
        "channels": {"a": {"subscribe": true}, "b": {"subscribe": true}, "c": {"subscribe": false}},
    }));
    for (channel, code) in [
        ("a", "ALREADY_SUBSCRIBED"),
        ("c", "SUBSCRIBE_PERMISSION_DENIED"),
    ] {
        subscribe_with(&mut ana, channel, &once);
        ana.expect_error(code);
    }
    let mut ben = server.connect(json!({"uid": "ben"}));
    subscribe_with(&mut ben, "b", &once);
    ben.expect_error("INVALID_SUBSCRIBE_TOKEN");
    subscribe_with(&mut ana, "b", &once);
    ana.expect("hotsock.subscribed");
    subscribe_with(&mut ana, "c", &once);
    ana.expect_error("INVALID_SUBSCRIBE_TOKEN");
}

/// R-CLAIM-22, R-CLAIM-26, R-CLAIM-13
#[test]
fn of_many_simultaneous_uses_of_a_single_use_token_one_succeeds() {
    let server = Server::start();
    let mut clients: Vec<_> = (0..20)
        .map(|_| server.connect(json!({"uid": "ana"})))
        .collect();
    for round in 0..10 {
        let once = token(json!({
            "scope": "subscribe", "uid": "ana", "singleUse": true, "jti": format!("once {round}"),
            "channels": {"a": {"subscribe": true}},
        }));
        clients
            .iter_mut()
            .for_each(|client| subscribe_with(client, "a", &once));
        let mut subscribed = 0;
        for client in &mut clients {
            let answer = client.next();
            if answer["event"] == "hotsock.subscribed" {
                subscribed += 1;
                unsubscribe(client, "a");
                client.expect("hotsock.unsubscribed");
            } else {
                assert_eq!(answer["error"]["code"], "INVALID_SUBSCRIBE_TOKEN");
            }
        }
        assert_eq!(subscribed, 1);
    }
    assert_eq!(count(&server, "a"), 0);
}

/// R-CLAIM-20, R-CLAIM-21
#[test]
fn what_a_subscribe_token_leaves_out_is_the_connections() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "umd": {"role": "host"}}));
    let id = ana.id().to_owned();
    let host = json!({"role": "host"});
    for (claims, meta) in [
        (json!({}), json!({"uid": "ana", "umd": host})),
        (json!({"uid": "ben"}), json!({"uid": "ben", "umd": host})),
        (json!({"umd": null}), json!({"uid": "ana", "umd": null})),
        (json!({"umd": 0}), json!({"uid": "ana", "umd": 0})),
    ] {
        let mut all = json!({"scope": "subscribe", "connectionId": id, "channels": {"a": {"subscribe": true}}});
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        subscribe_with(&mut ana, "a", &token(all));
        assert_eq!(ana.expect("hotsock.subscribed")["meta"], meta);
        unsubscribe(&mut ana, "a");
        ana.expect("hotsock.unsubscribed");
    }
}

/// R-SUB-11, R-SUB-12: while others publish as fast as they can.
#[test]
fn messages_come_between_the_two_confirmations_and_nowhere_else() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    let channels = json!({"a": {"messages": {"chat": {"broadcast": true}}}});
    let mut loud = server.connect(json!({"channels": channels}));
    let all = 600;
    for number in 0..all {
        publish(&mut loud, "a", number);
        if number % 20 == 5 {
            ana.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
        } else if number % 20 == 15 {
            unsubscribe(&mut ana, "a");
        }
    }
    loud.settle();
    let mut subscribed = false;
    let mut last = None;
    for message in ana.drain() {
        match message["event"].as_str() {
            Some("hotsock.subscribed") => (subscribed, last) = (true, None),
            Some("hotsock.unsubscribed") => subscribed = false,
            Some("chat") => {
                assert!(subscribed, "outside of a subscription: {message}");
                let number = message["data"].as_u64().expect("a number");
                assert!(
                    last.is_none_or(|last| number == last + 1),
                    "{last:?} then {number}"
                );
                last = Some(number);
            }
            _ => panic!("{message}"),
        }
    }
}

/// R-SUB-12, R-SUB-14
#[test]
fn an_unsubscribe_without_an_alias_is_confirmed_without_meta() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    ana.subscribe("a");
    unsubscribe(&mut ana, "a");
    let confirmation = json!({"event": "hotsock.unsubscribed", "channel": "a", "data": {}});
    assert_eq!(ana.next(), confirmation);
    server.publish(json!({"channel": "a", "event": "x"}));
    ana.expect_nothing();
}

/// R-SUB-13, R-ERR-4
#[test]
fn unsubscribing_from_what_is_not_subscribed_is_an_error() {
    let server = Server::start();
    let channels = json!({"a": {"alias": "mine", "subscribe": false}, "b": {"subscribe": true}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    ana.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
    ana.expect_error("SUBSCRIBE_PERMISSION_DENIED");
    for channel in ["a", "mine", "b", "never"] {
        unsubscribe(&mut ana, channel);
        assert_eq!(ana.expect_error("NOT_SUBSCRIBED")["channel"], channel);
    }
    ana.subscribe("b");
    unsubscribe(&mut ana, "b");
    ana.expect("hotsock.unsubscribed");
    unsubscribe(&mut ana, "b");
    ana.expect_error("NOT_SUBSCRIBED");
}

/// R-SUB-15, R-CONN-22
#[test]
fn unsubscribe_and_subscribe_sent_together_end_subscribed() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    ana.subscribe("a");
    for _ in 0..20 {
        unsubscribe(&mut ana, "a");
        for _ in 0..2 {
            ana.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
        }
        ana.expect("hotsock.unsubscribed");
        ana.expect("hotsock.subscribed");
        ana.expect_error("ALREADY_SUBSCRIBED");
    }
    server.publish(json!({"channel": "a", "event": "x"}));
    ana.expect("x");
    ana.expect_nothing();
    assert_eq!(count(&server, "a"), 1);
}

/// R-SUB-16, R-LIM-3, R-LIM-21: two thousand at once, of which any can be given up.
#[test]
fn a_connection_has_as_many_subscriptions_as_it_likes() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    let names: Vec<_> = (0..2000)
        .map(|number| format!("channel/{number}"))
        .collect();
    for name in &names {
        ana.send(json!({"event": "hotsock.subscribe", "channel": name}));
    }
    for name in &names {
        assert_eq!(ana.expect("hotsock.subscribed")["channel"], **name);
    }
    server.await_metric("realtime_subscriptions", 2000.0);
    for name in names.iter().step_by(2) {
        unsubscribe(&mut ana, name);
    }
    assert_eq!(ana.drain().len(), 1000);
    for (number, name) in names.iter().enumerate().step_by(97) {
        server.publish(json!({"channel": name, "event": "x"}));
        match number % 2 {
            0 => ana.expect_nothing(),
            _ => assert_eq!(ana.expect("x")["channel"], **name),
        }
    }
    ana.close();
    server.await_metric("realtime_subscriptions", 0.0);
    server.await_metric("realtime_channels", 0.0);
}

/// R-SUB-17, R-SRV-28, R-SRV-29: however a subscription ends.
#[test]
fn a_count_rises_and_falls_with_subscriptions() {
    let server = Server::start();
    let mut tabs: Vec<_> = (0..4).map(|_| server.connect(anywhere("ana"))).collect();
    for (number, tab) in tabs.iter_mut().enumerate() {
        assert_eq!(count(&server, "a"), number as u64);
        tab.subscribe("a");
    }
    assert_eq!(count(&server, "a"), 4);
    unsubscribe(&mut tabs[0], "a");
    tabs[0].expect("hotsock.unsubscribed");
    assert_eq!(count(&server, "a"), 3);
    tabs.pop().expect("the fourth").close();
    server.await_metric("realtime_subscriptions", 2.0);
    assert_eq!(count(&server, "a"), 2);
    tabs.pop().expect("the third").vanish();
    server.await_metric("realtime_subscriptions", 1.0);
    assert_eq!(count(&server, "a"), 1);
    drop(tabs);
    server.await_metric("realtime_subscriptions", 0.0);
    assert_eq!(count(&server, "a"), 0);
}

/// R-SUB-17, R-SUB-18, R-SUB-19, R-SRV-29
#[test]
fn a_subscription_that_does_not_count_changes_no_count_but_is_present() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    let mut ben = server.connect(anywhere("ben"));
    let hidden = |channel: &str| {
        subscribe_token(
            "ben",
            channel,
            json!({"subscribe": true, "omitFromSubCount": true}),
        )
    };
    for channel in ["a", "presence.a"] {
        ana.subscribe(channel);
        for _ in 0..3 {
            subscribe_with(&mut ben, channel, &hidden(channel));
            ben.expect("hotsock.subscribed");
            assert_eq!(count(&server, channel), 1);
            unsubscribe(&mut ben, channel);
            ben.expect("hotsock.unsubscribed");
            assert_eq!(count(&server, channel), 1);
        }
        // The same channel, counted this time: fixed for each subscription when it is made.
        ben.subscribe(channel);
        assert_eq!(count(&server, channel), 2);
        unsubscribe(&mut ben, channel);
        ben.expect("hotsock.unsubscribed");
        assert_eq!(count(&server, channel), 1);
    }
    for event in ["hotsock.memberAdded", "hotsock.memberRemoved"].repeat(4) {
        assert_eq!(ana.next()["event"], event);
    }
    ana.expect_nothing();
    subscribe_with(&mut ben, "only", &hidden("only"));
    ben.expect("hotsock.subscribed");
    assert_eq!(count(&server, "only"), 0);
    ben.close();
    server.await_metric("realtime_subscriptions", 2.0);
    assert_eq!(count(&server, "only"), 0);
}

/// R-SUB-20, R-SUB-22, R-SUB-23, R-SUB-25, R-SUB-26, R-JSON-3
#[test]
fn a_client_may_use_an_alias_that_nobody_else_sees() {
    let server = Server::start();
    let directives = json!({"alias": "me", "subscribe": true, "messages": {"chat": {"publish": true, "echo": true}}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": {"member.9f2": directives}}));
    let mut ben = server.connect(anywhere("ben"));
    ben.subscribe("member.9f2");
    let meta = json!({"channelAlias": "me", "uid": "ana", "umd": null});
    for (subscribe_as, unsubscribe_as) in [("me", "member.9f2"), ("member.9f2", "me"), ("me", "me")]
    {
        assert_eq!(
            ana.subscribe(subscribe_as),
            json!({"event": "hotsock.subscribed", "channel": "member.9f2", "data": {}, "meta": meta})
        );
        publish(&mut ana, "me", "by alias");
        publish(&mut ana, "member.9f2", "by name");
        for data in ["by alias", "by name"] {
            let message = ana.expect("chat");
            assert_eq!(
                (&message["channel"], &message["data"]),
                (&json!("member.9f2"), &json!(data))
            );
            assert_eq!(message["meta"], json!({"uid": "ana", "umd": null}));
            assert_eq!(ben.expect("chat"), message);
        }
        unsubscribe(&mut ana, unsubscribe_as);
        assert_eq!(
            ana.next(),
            json!({"event": "hotsock.unsubscribed", "channel": "member.9f2", "data": {}, "meta": meta})
        );
    }
    // It is an alias for whoever has it in a token, and for nobody else.
    publish(&mut ben, "me", "x");
    ben.expect_error("NOT_SUBSCRIBED");
    ana.expect_nothing();
}

/// R-SUB-21, R-PERM-16: a literal key of either token is a real name; a pattern is not.
#[test]
fn a_real_name_wins_over_an_alias() {
    let server = Server::start();
    let channels =
        json!({"a": {"alias": "room.1", "subscribe": true}, "room.*": {"subscribe": true}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    assert_eq!(
        ana.subscribe("room.1")["channel"],
        "a",
        "a pattern does not shadow an alias"
    );
    unsubscribe(&mut ana, "room.1");
    assert_eq!(ana.expect("hotsock.unsubscribed")["channel"], "a");

    subscribe_with(
        &mut ana,
        "room.1",
        &subscribe_token("ana", "room.1", json!({"subscribe": true})),
    );
    let confirmation = ana.expect("hotsock.subscribed");
    assert_eq!(
        (
            &confirmation["channel"],
            &confirmation["meta"]["channelAlias"]
        ),
        (&json!("room.1"), &Value::Null)
    );
    // From now on there is a subscription of that name.
    ana.send(json!({"event": "hotsock.subscribe", "channel": "room.1"}));
    assert_eq!(ana.expect_error("ALREADY_SUBSCRIBED")["channel"], "room.1");
    ana.subscribe("a");
    unsubscribe(&mut ana, "room.1");
    assert_eq!(ana.expect("hotsock.unsubscribed")["channel"], "room.1");
    unsubscribe(&mut ana, "room.1");
    assert_eq!(ana.expect("hotsock.unsubscribed")["channel"], "a");

    // A literal key of the connect token is real, whatever alias a subscribe token makes of it.
    let mut ben = server.connect(json!({"uid": "ben", "channels": {"me": {"subscribe": true}}}));
    let other = subscribe_token("ben", "other", json!({"subscribe": true, "alias": "me"}));
    subscribe_with(&mut ben, "me", &other);
    assert_eq!(ben.expect("hotsock.subscribed")["channel"], "me");
}

/// R-SUB-20, R-SUB-24, R-SUB-26
#[test]
fn an_alias_of_a_subscribe_token_holds_while_its_subscription_does() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana"}));
    let directives = json!({"alias": "me", "subscribe": true, "messages": {"chat": {"publish": true, "echo": true}}});
    subscribe_with(
        &mut ana,
        "me",
        &subscribe_token("ana", "member.1", directives),
    );
    let confirmation = ana.expect("hotsock.subscribed");
    assert_eq!(confirmation["channel"], "member.1");
    assert_eq!(confirmation["meta"]["channelAlias"], "me");
    publish(&mut ana, "me", "x");
    assert_eq!(ana.expect("chat")["channel"], "member.1");
    ana.send(json!({"event": "hotsock.subscribe", "channel": "me"}));
    assert_eq!(
        ana.expect_error("ALREADY_SUBSCRIBED")["channel"],
        "member.1",
        "R-ERR-4"
    );
    unsubscribe(&mut ana, "me");
    assert_eq!(
        ana.expect("hotsock.unsubscribed")["meta"]["channelAlias"],
        "me"
    );
    unsubscribe(&mut ana, "me");
    assert_eq!(
        ana.expect_error("NOT_SUBSCRIBED")["channel"],
        "me",
        "R-ERR-4"
    );
}

/// R-SUB-24, R-PERM-16
#[test]
fn the_subscribe_tokens_alias_wins_over_the_connect_tokens() {
    let server = Server::start();
    let channels = json!({"a": {"alias": "one", "subscribe": true}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    let two = subscribe_token("ana", "a", json!({"alias": "two"}));
    subscribe_with(&mut ana, "one", &two);
    let confirmation = ana.expect("hotsock.subscribed");
    assert_eq!(
        (
            &confirmation["channel"],
            &confirmation["meta"]["channelAlias"]
        ),
        (&json!("a"), &json!("two"))
    );
    unsubscribe(&mut ana, "two");
    assert_eq!(
        ana.expect("hotsock.unsubscribed")["meta"]["channelAlias"],
        "two"
    );
    // The same word for different channels in the two tokens.
    subscribe_with(
        &mut ana,
        "one",
        &subscribe_token("ana", "b", json!({"alias": "one", "subscribe": true})),
    );
    assert_eq!(ana.expect("hotsock.subscribed")["channel"], "b");
}

/// R-SUB-28, R-SUB-29, R-SUB-30, R-SUB-31 (members), R-SUB-22, R-PERM-21, R-PERM-24
#[test]
fn a_connect_token_subscribes_by_itself() {
    let server = Server::start();
    let channels = json!({
        "inbox.7": {"autoSubscribe": true, "alias": "inbox"}, "presence.den": {"autoSubscribe": true},
        "later": {"subscribe": true},
    });
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    let mut confirmations = ana.drain();
    confirmations.sort_by_key(|it| it["channel"].to_string());
    assert_eq!(
        confirmations,
        [
            json!({
                "event": "hotsock.subscribed", "channel": "inbox.7", "data": {"autoSubscribed": true},
                "meta": {"channelAlias": "inbox", "uid": "ana", "umd": null},
            }),
            json!({
                "event": "hotsock.subscribed", "channel": "presence.den",
                "data": {"autoSubscribed": true, "members": [{"uid": "ana", "umd": null}]},
                "meta": {"uid": "ana", "umd": null},
            }),
        ]
    );
    let requested = &ana.subscribe("later")["data"]["autoSubscribed"];
    assert!(requested.is_null() || requested == false);
    assert_eq!(count(&server, "inbox.7"), 1);
}

/// R-SUB-27, R-SUB-34
#[test]
fn what_is_subscribed_automatically_can_be_given_up_and_taken_again() {
    let server = Server::start();
    let channels = json!({"inbox.7": {"autoSubscribe": true, "alias": "inbox"}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    ana.expect("hotsock.subscribed");
    for name in ["inbox", "inbox.7"] {
        ana.send(json!({"event": "hotsock.subscribe", "channel": name}));
        assert_eq!(ana.expect_error("ALREADY_SUBSCRIBED")["channel"], "inbox.7");
    }
    server.publish(json!({"channel": "inbox.7", "event": "mail"}));
    ana.expect("mail");
    ana.expect_nothing();
    unsubscribe(&mut ana, "inbox");
    ana.expect("hotsock.unsubscribed");
    assert_eq!(ana.subscribe("inbox")["data"], json!({}));
}

/// R-SUB-32, R-SUB-33, R-PERM-24
#[test]
fn a_failed_automatic_subscription_is_reported_and_touches_no_other() {
    let server = Server::start();
    let channels = json!({
        "a": {"autoSubscribe": true}, "presence.a": {"autoSubscribe": true},
        "no": {"autoSubscribe": true}, "n*": {"subscribe": false}, "z": {"autoSubscribe": true},
    });
    let mut nobody = server.connect(json!({"channels": channels}));
    let answers = nobody.drain();
    let mut seen: Vec<_> = answers
        .iter()
        .map(|it| {
            (
                it["channel"].as_str().unwrap_or_default(),
                it["error"]["code"].as_str(),
            )
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("a", None),
            ("no", Some("SUBSCRIBE_PERMISSION_DENIED")),
            ("presence.a", Some("PRESENCE_CHANNEL_USER_ID_REQUIRED")),
            ("z", None),
        ]
    );
}

/// R-SUB-28, R-SUB-33: a token may ask for more than the bounds of an outbox let through at once.
#[test]
fn many_automatic_subscriptions_make_nobody_a_slow_consumer() {
    let server = Server::with("[limits]\noutbound_messages = 64\n");
    let channels: serde_json::Map<_, _> = (0..200)
        .map(|number| (format!("c{number}"), json!({"autoSubscribe": true})))
        .collect();
    let mut ana = server.connect(json!({"channels": channels}));
    assert_eq!(ana.drain().len(), 200);
}

/// R-LIM-21
#[test]
fn configured_caps_answer_with_an_error() {
    let server =
        Server::with("[limits]\nsubscriptions_per_connection = 3\nsubscribers_per_channel = 2\n");
    let mut ana = server.connect(anywhere("ana"));
    for channel in ["a", "b", "c"] {
        ana.subscribe(channel);
    }
    ana.send(json!({"event": "hotsock.subscribe", "channel": "d"}));
    assert_eq!(ana.expect_error("RATE_LIMITED")["channel"], "d");
    unsubscribe(&mut ana, "b");
    ana.expect("hotsock.unsubscribed");
    ana.subscribe("d");
    server.connect(anywhere("ben")).subscribe("x");
    let mut ben = server.connect(anywhere("ben"));
    ben.subscribe("a");
    let mut cid = server.connect(anywhere("cid"));
    cid.send(json!({"event": "hotsock.subscribe", "channel": "a"}));
    assert_eq!(cid.expect_error("RATE_LIMITED")["channel"], "a");
    // Automatic subscriptions are no way around.
    let channels: serde_json::Map<_, _> = (0..5)
        .map(|number| (format!("auto.{number}"), json!({"autoSubscribe": true})))
        .collect();
    let mut auto = server.connect(json!({"channels": channels}));
    let events: Vec<_> = auto.drain().iter().map(|it| it["event"].clone()).collect();
    assert_eq!(
        events
            .iter()
            .filter(|it| *it == "hotsock.subscribed")
            .count(),
        3
    );
    assert_eq!(events.iter().filter(|it| *it == "hotsock.error").count(), 2);
    // R-LIM-21: connections per server.
    let server = Server::with("[limits]\nconnections = 1\n");
    let _one = server.connect(json!({}));
    assert_eq!(server.refusal(&token(json!({}))), 429);
}

/// R-LIM-1, R-LIM-2, R-LIM-22, R-JSON-7
#[test]
fn a_channel_name_has_256_characters_at_most() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    for name in [
        "x".repeat(256),
        "ß".repeat(256),
        "a/b.c:ä-日本".into(),
        "1".into(),
    ] {
        assert_eq!(ana.subscribe(&name)["channel"], name);
    }
    for name in [
        "x".repeat(257),
        "ß".repeat(257),
        String::new(),
        "a b".into(),
        "a*".into(),
        "#a".into(),
        "a,b".into(),
    ] {
        ana.send(json!({"event": "hotsock.subscribe", "channel": name}));
        assert_eq!(ana.expect_error("INVALID_CHANNEL")["channel"], name);
    }
    ana.send(json!({"event": "hotsock.subscribe"}));
    assert_eq!(ana.expect_error("INVALID_CHANNEL").get("channel"), None);
}

/// R-ERR-5, R-ERR-6, R-ERR-7, R-JSON-10
#[test]
fn what_is_no_message_of_the_protocol_is_answered_and_closes_nothing() {
    let server = Server::start();
    let mut ana = server.connect(anywhere("ana"));
    for text in [
        "",
        "hello",
        "[]",
        "null",
        "{",
        r#"{"event":""}"#,
        r#"{"channel":"a"}"#,
        r#"{"event":["a"]}"#,
        "{} {}",
    ] {
        ana.send_text(text);
        ana.expect_error("INVALID_MESSAGE");
    }
    for event in [
        "hotsock.unknown",
        "hotsock.subscribed",
        "hotsock.",
        "hotsock.error",
    ] {
        ana.send(json!({"event": event, "channel": "a"}));
        assert_eq!(ana.expect_error("INVALID_EVENT")["channel"], "a", "{event}");
    }
    ana.subscribe("a");
}
