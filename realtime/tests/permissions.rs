//! What the channels, messages and aliases of a token permit, and which names there may be (sections 5 and 6, and who
//! subscribe tokens are for, from section 4).

mod support;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::{Client, SECRET, Server, now, token};

/// A connection to which its token permits this.
fn with_channels(server: &Server, channels: Value) -> Client {
    server.connect(json!({"uid": "ana", "channels": channels}))
}

/// A token whose `channels` are written exactly so: in a JSON value, members have no order.
fn token_with_text(channels: &str) -> String {
    let claims = format!(
        r#"{{"exp":{},"scope":"connect","channels":{channels}}}"#,
        now() + 3600
    );
    let [header, claims] = [r#"{"alg":"HS256"}"#, &claims].map(|it| URL_SAFE_NO_PAD.encode(it));
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The code of the error with which a message is refused, or nothing if it is not.
fn refusal(client: &mut Client, message: Value) -> Option<String> {
    client.send(message);
    let answer = client.drain();
    let error = answer.iter().find(|it| it["event"] == "hotsock.error");
    error.map(|error| error["error"]["code"].as_str().expect("a code").to_owned())
}

/// Subscribes, with a token if one is given; the code of the refusal.
fn subscribing(client: &mut Client, channel: &str, token: Option<&str>) -> Option<String> {
    let mut message = json!({"event": "hotsock.subscribe", "channel": channel});
    if let Some(token) = token {
        message["data"] = json!({"token": token});
    }
    refusal(client, message)
}

/// Publishes; the code of the refusal.
fn publishing(client: &mut Client, channel: &str, event: &str) -> Option<String> {
    refusal(client, json!({"event": event, "channel": channel}))
}

fn denied() -> Option<String> {
    Some("PUBLISH_PERMISSION_DENIED".to_owned())
}

fn no_subscribing() -> Option<String> {
    Some("SUBSCRIBE_PERMISSION_DENIED".to_owned())
}

fn unsubscribe(client: &mut Client, channel: &str) {
    client.send(json!({"event": "hotsock.unsubscribe", "channel": channel}));
    client.expect("hotsock.unsubscribed");
}

/// R-PERM-1, R-PERM-2, R-PERM-3, R-PERM-4, R-PERM-6: which names a key means, for channels and for events alike.
#[test]
fn keys_are_names_wildcards_or_regular_expressions() {
    let server = Server::start();
    for (key, matching, others) in [
        (
            "room",
            &["room"][..],
            &["rooms", "Room", "roo", "a.room", "r*"][..],
        ),
        (
            "team.7.*",
            &["team.7.alerts", "team.7.", "team.7.a.b"],
            &["team.7", "team.71.x", "x.team.7.a", "Team.7.a"],
        ),
        ("*.x", &["a.b.x", ".x"], &["x", "a.x.b"]),
        (
            "a*b*c",
            &["abc", "a-b-c", "abcbc"],
            &["acb", "abcb", "ac", "xabc"],
        ),
        ("a*a", &["aa", "a-a"], &["a"]),
        ("*", &["x", "room", "ü"], &[]),
        ("**", &["x", "room"], &[]),
        ("lot.[0-9]+", &["lot.[0-9]+"], &["lot.1"]),
        (
            r"#regex:^lot\.[0-9]+$",
            &["lot.19"],
            &["lot.x", "lot.19a", "a.lot.19"],
        ),
        ("#regex:lot", &["lot", "a-lot-of"], &["lo-t", "Lot"]),
        ("#regex:(?i)^LOT$", &["lot", "Lot"], &["lots"]),
        ("#regex:^(a|bc)+$", &["a", "abca"], &["ab", ""]),
        (r"#regex:^\d+$", &["12"], &["١٢", "1a"]),
        (r"#regex:^\w+$", &["a_1"], &["ä", "a-b"]),
        (r"#regex:^\S+$", &["a"], &[]),
        // Where a letter beyond ASCII stands, a word ends.
        (
            r"#regex:\bcat\b",
            &["cat", "a.cat", "ücat"],
            &["cats", "acat"],
        ),
        ("#regex:^[[:alpha:]]+$", &["abc"], &["a1", "ä"]),
        (r"#regex:^\x{fc}.$", &["üa"], &["ua"]),
    ] {
        let mut by_channel = with_channels(&server, json!({key: {"subscribe": true}}));
        let mut by_event = with_channels(
            &server,
            json!({"c": {"messages": {key: {"broadcast": true}}}}),
        );
        for (names, permitted) in [(matching, true), (others, false)] {
            for &name in names
                .iter()
                .filter(|name| !name.is_empty() && !name.contains('*'))
            {
                let refused = subscribing(&mut by_channel, name, None);
                assert_eq!(
                    refused,
                    if permitted { None } else { no_subscribing() },
                    "{key} {name}"
                );
                let refused = publishing(&mut by_event, "c", name);
                assert_eq!(
                    refused,
                    if permitted { None } else { denied() },
                    "{key} {name}"
                );
            }
        }
    }
}

/// R-PERM-5, R-PERM-7, R-PERM-21, R-PERM-23, R-PERM-26, R-PERM-27: what makes a whole token invalid, and what just does not.
#[test]
fn what_a_token_must_not_contain() {
    let server = Server::start();
    let long = "a".repeat(257);
    let invalid_keys = [
        "#regex:(",
        "#regex:[a",
        "#regex:a)",
        "#regex:*",
        "#regex:a{1001}",
        r"#regex:\8",
        r"#regex:(a)\1",
        "#regex:(?=a)b",
        "#regex:(?!a)b",
        "#regex:(?<=a)b",
        "#regex:(?<!a)b",
        r"#regex:\p{Nonsense}",
    ];
    for key in invalid_keys {
        for channels in [
            json!({key: {"subscribe": true}}),
            json!({"room": {"messages": {key: {}}}}),
            json!({"room": {"storage": {key: {}}}}),
        ] {
            assert_eq!(
                server.refusal(&token(json!({"channels": channels}))),
                401,
                "{channels}"
            );
        }
    }
    let store = |store: Value| json!({"room": {"messages": {"hi": {"store": store}}}});
    let storage =
        |store: Value| json!({"room": {"storage": {"key": {"set": true, "store": store}}}});
    for (channels, expected) in [
        (
            json!({"room": {"alias": "r"}, "hall": {"alias": "h", "autoSubscribe": true}}),
            101,
        ),
        (json!({"room.*": {"alias": "r"}}), 401),
        (json!({"#regex:^room$": {"alias": "r"}}), 401),
        (json!({"room.*": {"autoSubscribe": true}}), 401),
        (json!({"#regex:^room$": {"autoSubscribe": true}}), 401),
        (json!({"room": {"alias": ""}}), 401),
        (json!({"room": {"alias": "a b"}}), 401),
        (json!({"room": {"alias": "a*"}}), 401),
        (json!({"room": {"alias": "a#"}}), 401),
        (json!({"room": {"alias": "a,b"}}), 401),
        (json!({"room": {"alias": &long[..256]}}), 101),
        (json!({"room": {"alias": long}}), 401),
        (json!({"room": {"alias": 1}}), 401),
        (
            json!({"room": {"alias": "same"}, "hall": {"alias": "same"}}),
            401,
        ),
        (json!({"room": {"alias": "hall"}, "hall": {}}), 401),
        (json!({"room": {"alias": "room"}}), 401),
        (store(json!(-1)), 101),
        (store(json!(0)), 101),
        (store(json!(3_155_695_200_u64)), 101),
        (store(json!(3_155_695_201_u64)), 401),
        (store(json!(-2)), 401),
        (store(json!(1.5)), 401),
        (store(json!("1")), 401),
        (storage(json!(-1)), 101),
        (storage(json!(1)), 101),
        (storage(json!(3_155_695_200_u64)), 101),
        (storage(json!(0)), 401),
        (storage(json!(-2)), 401),
        (storage(json!(3_155_695_201_u64)), 401),
    ] {
        assert_eq!(
            server.refusal(&token(json!({"channels": channels}))),
            expected,
            "{channels}"
        );
    }
}

/// R-PERM-8, R-PERM-9, R-PERM-10, R-PERM-11, R-PERM-12, R-PERM-19, R-PERM-31: the votes of all matching keys count, in
/// whatever order they are written; a no is stronger than any number of yeses, and silence is no.
#[test]
fn one_no_outweighs_every_yes() {
    let server = Server::start();
    let yes = r#"{"subscribe":true}"#;
    let no = r#"{"subscribe":false}"#;
    for (keys, channel, permitted) in [
        (vec![("lab.*", yes), ("lab.core", no)], "lab.9", true),
        (vec![("lab.*", yes), ("lab.core", no)], "lab.core", false),
        (vec![("lab.*", no), ("lab.core", yes)], "lab.core", false),
        (vec![("lab.*", no), ("lab.core", yes)], "lab.9", false),
        (
            vec![("*", yes), ("lab.*", yes), ("#regex:core", no)],
            "lab.core",
            false,
        ),
        (
            vec![("*", "{}"), ("lab.*", yes), ("lab.core", "{}")],
            "lab.core",
            true,
        ),
        (vec![("lab.*", "{}"), ("lab.core", "{}")], "lab.core", false),
        (
            vec![("#regex:^lab", yes), ("lab.*", yes), ("other", no)],
            "lab.core",
            true,
        ),
    ] {
        let mut orders = vec![keys.clone(), keys.clone()];
        orders[1].reverse();
        for keys in orders {
            let text = keys
                .iter()
                .map(|(key, rule)| format!("{key:?}:{rule}"))
                .collect::<Vec<_>>();
            let text = format!("{{{}}}", text.join(","));
            let mut client = Client::connect(&server, &token_with_text(&text)).expect("it is good");
            let refused = subscribing(&mut client, channel, None);
            assert_eq!(
                refused,
                if permitted { None } else { no_subscribing() },
                "{text} {channel}"
            );
        }
    }

    // The same one level below, across the keys of both levels.
    let (yes, no) = (r#"{"publish":true}"#, r#"{"publish":false}"#);
    for (keys, permitted) in [
        (vec![("lab.core", "hi", yes)], true),
        (vec![("*", "*", yes)], true),
        (vec![("*", "h*", yes), ("lab.core", "bye", no)], true),
        (vec![("*", "hi", no), ("lab.core", "hi", yes)], false),
        (vec![("*", "hi", yes), ("lab.core", "#regex:i$", no)], false),
        (vec![("lab.core", "*", "{}"), ("lab.*", "hi", yes)], true),
        (vec![("lab.9", "hi", yes), ("lab.core", "bye", yes)], false),
    ] {
        let mut orders = vec![keys.clone(), keys.clone()];
        orders[1].reverse();
        for keys in orders {
            let rule = |(channel, event, rule): &(&str, &str, &str)| {
                format!(r#"{channel:?}:{{"subscribe":true,"messages":{{{event:?}:{rule}}}}}"#)
            };
            let text = format!(
                "{{{}}}",
                keys.iter().map(rule).collect::<Vec<_>>().join(",")
            );
            let mut client = Client::connect(&server, &token_with_text(&text)).expect("it is good");
            client.subscribe("lab.core");
            let refused = publishing(&mut client, "lab.core", "hi");
            assert_eq!(refused, if permitted { None } else { denied() }, "{text}");
        }
    }

    // Publishing is granted there, but not subscribing (R-PERM-31).
    let channels =
        json!({"lab.core": {"subscribe": false}, "lab.*": {"messages": {"*": {"publish": true}}}});
    let mut client = with_channels(&server, channels);
    assert_eq!(
        publishing(&mut client, "lab.core", "hi").as_deref(),
        Some("NOT_SUBSCRIBED")
    );
}

/// R-PUB-2, R-PUB-3, R-PUB-4, R-PUB-5, R-PUB-6, R-PUB-7, R-PERM-10: all cases there are. What is refused reaches nobody.
#[test]
fn publish_and_broadcast_decide_together() {
    let server = Server::start();
    let mut observer = with_channels(&server, json!({"room": {"subscribe": true}}));
    observer.subscribe("room");
    let votes = [None, Some(true), Some(false)];
    for publish in votes {
        for broadcast in votes {
            for subscribed in [true, false] {
                let expected = match (publish, broadcast, subscribed) {
                    (Some(false), _, _) => denied(),
                    (_, Some(true), _) | (Some(true), _, true) => None,
                    (Some(true), _, false) => Some("NOT_SUBSCRIBED".to_owned()),
                    (None, _, _) => denied(),
                };
                let mut rule = json!({});
                for (name, vote) in [("publish", publish), ("broadcast", broadcast)] {
                    if let Some(vote) = vote {
                        rule[name] = json!(vote);
                    }
                }
                let channels = json!({"room": {"subscribe": subscribed, "messages": {"hi": rule}}});
                let mut client = with_channels(&server, channels.clone());
                if subscribed {
                    client.subscribe("room");
                }
                assert_eq!(
                    publishing(&mut client, "room", "hi"),
                    expected,
                    "{channels}"
                );
                if expected.is_none() {
                    observer.expect("hi");
                }
                observer.expect_nothing();
            }
        }
    }
}

/// R-PERM-30: `echo` alone permits nothing.
#[test]
fn echo_is_for_those_who_may_send() {
    let server = Server::start();
    let rule = |publish: bool| json!({"hi": {"publish": publish, "echo": true, "store": -1, "emitPubSubEvent": true}});
    let channels = json!({
        "open": {"subscribe": true, "messages": rule(true)},
        "closed": {"subscribe": true, "messages": rule(false)},
    });
    let mut client = with_channels(&server, channels);
    client.subscribe("open");
    client.subscribe("closed");
    for channel in ["open", "closed"] {
        client.send(json!({"event": "hi", "channel": channel}));
    }
    client.expect("hi");
    client.expect_error("PUBLISH_PERMISSION_DENIED");
    client.expect_nothing();
}

/// R-CLAIM-12, R-CLAIM-13, R-CLAIM-14: whom a subscribe token is for, and as whom its subscription acts.
#[test]
fn a_subscribe_token_is_for_a_connection_or_for_a_user() {
    let server = Server::start();
    let mut other = server.connect(json!({"uid": "ben"}));
    let elsewhere = other.id().to_owned();
    for connection_uid in [Some("ana"), None] {
        let mut claims = json!({});
        if let Some(uid) = connection_uid {
            claims["uid"] = json!(uid);
        }
        let mut client = server.connect(claims);
        let here = client.id().to_owned();
        // The token's `connectionId` and `uid`; the uid of the subscription, if there is one.
        let (of_ana, of_connection) = (connection_uid.map(|_| json!("ana")), json!(connection_uid));
        for (connection, uid, expected) in [
            (Some(&here), None, Some(of_connection.clone())),
            (Some(&here), Some("ana"), Some(json!("ana"))),
            (Some(&here), Some("ben"), Some(json!("ben"))),
            (Some(&here), Some(""), Some(of_connection)),
            (Some(&elsewhere), None, None),
            (Some(&elsewhere), Some("ana"), None),
            (Some(&elsewhere), Some("ben"), None),
            (None, Some("ana"), of_ana),
            (None, Some("ben"), None),
            (None, Some("An"), None),
            (None, Some(""), None),
            (None, None, None),
        ] {
            let mut claims =
                json!({"scope": "subscribe", "channels": {"room": {"subscribe": true}}});
            if let Some(id) = connection {
                claims["connectionId"] = json!(id);
            }
            if let Some(uid) = uid {
                claims["uid"] = json!(uid);
            }
            let data = json!({"token": token(claims.clone())});
            client.send(json!({"event": "hotsock.subscribe", "channel": "room", "data": data}));
            match expected {
                Some(uid) => {
                    assert_eq!(
                        client.expect("hotsock.subscribed")["meta"]["uid"],
                        uid,
                        "{claims}"
                    );
                    unsubscribe(&mut client, "room");
                }
                None => drop(client.expect_error("INVALID_SUBSCRIBE_TOKEN")),
            }
        }
    }

    // With a uid alone, on each of the user's connections.
    let of_ben = token(
        json!({"scope": "subscribe", "uid": "ben", "channels": {"room": {"subscribe": true}}}),
    );
    let mut third = server.connect(json!({"uid": "ben"}));
    for client in [&mut other, &mut third] {
        assert_eq!(subscribing(client, "room", Some(&of_ben)), None);
    }
}

/// R-CLAIM-19, R-CLAIM-20, R-CLAIM-21: what a subscribe token says of the user wins, what it leaves out is inherited, and
/// an explicit null is a value.
#[test]
fn a_subscription_is_who_its_token_says() {
    let server = Server::start();
    let mut observer = with_channels(&server, json!({"*": {"subscribe": true}}));
    let mut client = server.connect(json!({
        "uid": "ben", "umd": {"of": "connection"},
        "channels": {"*": {"subscribe": true, "messages": {"hi": {"publish": true}}}},
    }));
    let inherited = json!({"of": "connection"});
    for (number, claims, uid, umd) in [
        (0, None, "ben", inherited.clone()),
        (1, Some(json!({})), "ben", inherited.clone()),
        (2, Some(json!({"uid": "zoe"})), "zoe", inherited.clone()),
        (3, Some(json!({"uid": ""})), "ben", inherited),
        (4, Some(json!({"umd": null})), "ben", json!(null)),
        (
            5,
            Some(json!({"umd": {"of": "token"}})),
            "ben",
            json!({"of": "token"}),
        ),
        (6, Some(json!({"uid": "zoe", "umd": 0})), "zoe", json!(0)),
    ] {
        let channel = format!("room.{number}");
        let mut message = json!({"event": "hotsock.subscribe", "channel": channel});
        if let Some(mut claims) = claims {
            claims["scope"] = json!("subscribe");
            claims["connectionId"] = json!(client.id());
            message["data"] = json!({"token": token(claims)});
        }
        client.send(message);
        let meta = json!({"uid": uid, "umd": umd});
        assert_eq!(client.expect("hotsock.subscribed")["meta"], meta);
        observer.subscribe(&channel);
        client.send(json!({"event": "hi", "channel": channel}));
        assert_eq!(observer.expect("hi")["meta"], meta);
    }
    // Who the connection is has not changed.
    assert_eq!(
        client.subscribe("last")["meta"],
        json!({"uid": "ben", "umd": {"of": "connection"}})
    );
}

/// R-PERM-16, R-PERM-17, R-PERM-18, R-PERM-20, R-PERM-22: a subscribe token and the connect token speak together, about that
/// one channel, for as long as the subscription lasts.
#[test]
fn a_subscribe_token_adds_to_the_connect_token_while_it_is_used() {
    let server = Server::start();
    let connect = json!({
        "room": {"messages": {"allowed": {"publish": true}, "shouted": {"broadcast": true}}},
        "hall": {"subscribe": true},
        "shut": {"subscribe": false},
    });
    let mut client = with_channels(&server, connect);
    let with =
        |channels: Value| token(json!({"scope": "subscribe", "uid": "ana", "channels": channels}));

    // What the connect token says no to stays so, and the token must be for the channel.
    let all = json!({"*": {"subscribe": true}});
    assert_eq!(
        subscribing(&mut client, "shut", Some(&with(all))),
        no_subscribing()
    );
    let elsewhere = json!({"hall": {"subscribe": true}});
    assert_eq!(
        subscribing(&mut client, "room", Some(&with(elsewhere))),
        no_subscribing()
    );
    // `autoSubscribe` is for connect tokens.
    let auto = json!({"room": {"autoSubscribe": true}});
    assert_eq!(
        subscribing(&mut client, "room", Some(&with(auto))),
        no_subscribing()
    );
    // Both may forbid.
    let no = json!({"hall": {"subscribe": false}});
    assert_eq!(
        subscribing(&mut client, "hall", Some(&with(no))),
        no_subscribing()
    );

    let adding = with(json!({
        "room": {
            "subscribe": true,
            "messages": {
                "added": {"publish": true},
                "allowed": {"publish": false},
                "called": {"broadcast": true},
                "shouted": {"broadcast": false},
            },
        },
        "hall": {"messages": {"added": {"publish": true}}},
    }));
    assert_eq!(publishing(&mut client, "room", "added"), denied());
    assert_eq!(subscribing(&mut client, "room", Some(&adding)), None);
    client.subscribe("hall");
    for (channel, event, expected) in [
        ("room", "added", None),
        ("room", "allowed", denied()),
        // Broadcasting is neither given nor taken by a subscribe token.
        ("room", "called", denied()),
        ("room", "shouted", None),
        // What it says about other channels means nothing.
        ("hall", "added", denied()),
    ] {
        assert_eq!(
            publishing(&mut client, channel, event),
            expected,
            "{channel} {event}"
        );
    }

    unsubscribe(&mut client, "room");
    let not_subscribed = Some("NOT_SUBSCRIBED".to_owned());
    for (event, expected) in [
        ("added", denied()),
        ("allowed", not_subscribed),
        ("shouted", None),
    ] {
        assert_eq!(publishing(&mut client, "room", event), expected, "{event}");
    }
    assert_eq!(subscribing(&mut client, "room", None), no_subscribing());
    // With another token, what the first one gave is gone as well.
    let plain = with(json!({"room": {"subscribe": true}}));
    assert_eq!(subscribing(&mut client, "room", Some(&plain)), None);
    for (event, expected) in [("added", denied()), ("allowed", None)] {
        assert_eq!(publishing(&mut client, "room", event), expected, "{event}");
    }
}

/// R-PERM-16: the subscribe token's alias wins.
///
/// R-PERM-23: an alias is one of its own token; others may use the same.
#[test]
fn a_subscribe_token_brings_its_own_alias() {
    let server = Server::start();
    let mut client = with_channels(
        &server,
        json!({"room": {"alias": "of-connect", "subscribe": true}}),
    );
    let with = |alias: &str| {
        token(json!({"scope": "subscribe", "uid": "ana", "channels": {"room": {"alias": alias}}}))
    };
    for (alias, expected) in [("of-token", "of-token"), ("of-connect", "of-connect")] {
        let data = json!({"token": with(alias)});
        client.send(json!({"event": "hotsock.subscribe", "channel": "room", "data": data}));
        let confirmed = client.expect("hotsock.subscribed");
        assert_eq!(confirmed["channel"], "room");
        assert_eq!(confirmed["meta"]["channelAlias"], expected);
        unsubscribe(&mut client, expected);
    }
    assert_eq!(
        client.subscribe("of-connect")["meta"]["channelAlias"],
        "of-connect"
    );

    let unlike = token(json!({
        "scope": "subscribe", "uid": "ana", "channels": {"hall": {"alias": "a"}, "attic": {"alias": "a"}},
    }));
    let refused = subscribing(&mut client, "hall", Some(&unlike));
    assert_eq!(refused.as_deref(), Some("INVALID_SUBSCRIBE_TOKEN"));
}

/// R-PERM-24: it counts as permission to subscribe, also later, and an explicit no denies it.
#[test]
fn automatic_subscription_is_a_permission_to_subscribe() {
    let server = Server::start();
    let channels = json!({
        "alone": {"autoSubscribe": true},
        "denied": {"autoSubscribe": true, "subscribe": false},
        "denied.by.pattern": {"autoSubscribe": true},
        "#regex:pattern$": {"subscribe": false},
        "not": {"autoSubscribe": false},
    });
    let mut client = with_channels(&server, channels);
    let mut answers: Vec<_> = (client.drain().into_iter())
        .map(|it| {
            (
                it["channel"].as_str().expect("a channel").to_owned(),
                it["error"]["code"].clone(),
            )
        })
        .collect();
    answers.sort_by(|one, other| one.0.cmp(&other.0));
    let no = json!("SUBSCRIBE_PERMISSION_DENIED");
    assert_eq!(
        answers,
        [
            ("alone".to_owned(), json!(null)),
            ("denied".to_owned(), no.clone()),
            ("denied.by.pattern".to_owned(), no),
        ]
    );
    unsubscribe(&mut client, "alone");
    client.subscribe("alone");
    for channel in ["denied", "denied.by.pattern", "not"] {
        assert_eq!(
            subscribing(&mut client, channel, None),
            no_subscribing(),
            "{channel}"
        );
    }
}

/// R-PERM-7: whatever a token contains, the server answers, and others go on talking. The bounds are on what a token may
/// contain, so that nothing about this is a matter of luck: what goes beyond them is refused.
#[test]
fn no_token_stalls_the_server() {
    let server = Server::start();
    let room = json!({"room": {"subscribe": true, "messages": {"*": {"publish": true}}}});
    let mut speaker = with_channels(&server, room.clone());
    let mut listener = with_channels(&server, room);
    speaker.subscribe("room");
    listener.subscribe("room");
    let mut others_talk = || {
        speaker.send(json!({"event": "hi", "channel": "room"}));
        listener.expect("hi");
    };
    let many = |count: usize, key: fn(usize) -> String| -> Value {
        (0..count)
            .map(|number| (key(number), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let nested = |pattern: &str, times: usize| {
        let regex = format!(
            "#regex:{}{pattern}{}",
            "(".repeat(times),
            ")*".repeat(times)
        );
        json!({regex: {"subscribe": true}})
    };

    // Too large, too deep, too many.
    for channels in [
        json!({"#regex:((a{100}){100}){100}": {}}),
        json!({"#regex:(((((a{30}){30}){30}){30}){30}){30}": {}}),
        json!({"#regex:(x+x+)+y{1001}": {}}),
        json!({r"#regex:(\p{L}{200}){200}": {}}),
        nested("a", 2000),
        many(1000, |number| format!("{number}*")),
        many(600, |number| format!("#regex:{number}")),
        json!({"room": {"messages": many(1000, |number| format!("{number}*"))}}),
        json!({"room": {"storage": many(1000, |number| format!("*{number}"))}}),
    ] {
        let claims = |scope: &str| json!({"scope": scope, "uid": "ana", "umdUpdate": true, "channels": channels});
        let shown: String = channels.to_string().chars().take(60).collect();
        assert_eq!(server.refusal(&token(claims("connect"))), 401, "{shown}");
        others_talk();
        let mut client = server.connect(json!({"uid": "ana"}));
        let refused = subscribing(&mut client, "room", Some(&token(claims("subscribe"))));
        assert_eq!(
            refused.as_deref(),
            Some("INVALID_SUBSCRIBE_TOKEN"),
            "{shown}"
        );
        let update = json!({"event": "hotsock.umdUpdate", "data": {"token": token(claims("umd"))}});
        assert_eq!(
            refusal(&mut client, update).as_deref(),
            Some("INVALID_UMD_TOKEN"),
            "{shown}"
        );
        others_talk();
    }

    // Allowed, and what makes other matchers try without end, against the longest names there are.
    let name = "a".repeat(256);
    let stars = format!("{}b", "a*".repeat(120));
    for (channels, permitted) in [
        (json!({"#regex:^(a+)+$": {"subscribe": true}}), true),
        (json!({"#regex:^(a+)+b$": {"subscribe": true}}), false),
        (json!({"#regex:^(a|aa)*b$": {"subscribe": true}}), false),
        (
            json!({"#regex:^(a*)*(a*)*(a*)*b$": {"subscribe": true}}),
            false,
        ),
        (
            json!({"#regex:^a{0,200}a{0,200}b$": {"subscribe": true}}),
            false,
        ),
        (nested("a", 20), true),
        (json!({stars: {"subscribe": true}}), false),
        (json!({"a*".repeat(120): {"subscribe": true}}), true),
    ] {
        let mut client = with_channels(&server, channels.clone());
        let refused = subscribing(&mut client, &name, None);
        assert_eq!(
            refused,
            if permitted { None } else { no_subscribing() },
            "{channels}"
        );
        others_talk();
    }
}

/// R-LIM-1, R-LIM-2, R-LIM-22: names of channels, wherever one is given.
#[test]
fn names_of_channels() {
    let server = Server::start();
    let any = json!({"#regex:": {"subscribe": true, "messages": {"*": {"broadcast": true}}}});
    let mut client = with_channels(&server, any);
    for name in [
        "a",
        "a/b.c:d-e_f",
        "ü",
        "日本",
        "🎉",
        "a'\"\\",
        "presence",
        ".",
        &"ü".repeat(256),
    ] {
        assert_eq!(subscribing(&mut client, name, None), None, "{name}");
        assert_eq!(publishing(&mut client, name, "hi"), None, "{name}");
        let answer = server.publish(json!({"channel": name, "event": "hi"}));
        assert_eq!(answer.status, 202, "{name}");
        client.drain();
    }
    let long = "ü".repeat(257);
    for name in [
        "",
        "*",
        "a*",
        "a#b",
        "#a",
        "a,b",
        " ",
        "a b",
        " a",
        "a\n",
        "a\tb",
        "\u{a0}",
        "a\u{2028}b",
        "a\u{3000}",
        &long,
    ] {
        let invalid = Some("INVALID_CHANNEL".to_owned());
        assert_eq!(subscribing(&mut client, name, None), invalid, "{name:?}");
        assert_eq!(publishing(&mut client, name, "hi"), invalid, "{name:?}");
        for event in ["hotsock.unsubscribe", "hotsock.umdUpdate"] {
            let refused = refusal(&mut client, json!({"event": event, "channel": name}));
            assert_eq!(refused, invalid, "{event} {name:?}");
        }
        let answer = server.publish(json!({"channel": name, "event": "hi"}));
        assert_eq!(answer.status, 400, "{name:?}");
        assert_eq!(
            answer.json()["error"]["code"],
            "INVALID_CHANNEL",
            "{name:?}"
        );
    }
}

/// R-LIM-3: channels need no declaration, and there may be any number of them.
#[test]
fn channels_come_and_go_in_any_number() {
    const CHANNELS: usize = 2000;
    let server = Server::start();
    let mut client = with_channels(&server, json!({"room.*": {"subscribe": true}}));
    for number in 0..CHANNELS {
        client.send(json!({"event": "hotsock.subscribe", "channel": format!("room.{number}")}));
    }
    for number in 0..CHANNELS {
        assert_eq!(
            client.expect("hotsock.subscribed")["channel"],
            format!("room.{number}")
        );
    }
    assert_eq!(server.metric("realtime_channels"), CHANNELS as f64);
    assert_eq!(
        server
            .publish(json!({"channel": "room.1999", "event": "hi"}))
            .status,
        202
    );
    client.expect("hi");
    client.close();
    server.await_metric("realtime_channels", 0.0);
}

/// R-LIM-4, R-LIM-5, R-LIM-22: names of events; the prefix of the protocol is for its own messages.
#[test]
fn names_of_events() {
    let server = Server::start();
    let any =
        json!({"room": {"subscribe": true, "messages": {"*": {"publish": true, "echo": true}}}});
    let mut client = with_channels(&server, any);
    client.subscribe("room");
    for name in [
        "a",
        "a b",
        "a#b",
        "a,b",
        "ü",
        "hotsock",
        "Hotsock.x",
        "x.hotsock.y",
        "\n",
        &"ü".repeat(128),
    ] {
        client.send(json!({"event": name, "channel": "room"}));
        client.expect(name);
        let answer = server.publish(json!({"channel": "room", "event": name}));
        assert_eq!(answer.status, 202, "{name:?}");
        client.expect(name);
    }
    let long = "ü".repeat(129);
    for name in [
        "*",
        "a*",
        "#a",
        "#",
        "#regex:a",
        "hotsock.",
        "hotsock.chat",
        "hotsock.connected",
        &long,
    ] {
        let refused = publishing(&mut client, "room", name);
        assert_eq!(refused.as_deref(), Some("INVALID_EVENT"), "{name:?}");
        let answer = server.publish(json!({"channel": "room", "event": name}));
        assert_eq!(answer.status, 400, "{name:?}");
        assert_eq!(answer.json()["error"]["code"], "INVALID_EVENT", "{name:?}");
    }
    // Those of the protocol are no names of the application's events either, for backends.
    for name in ["hotsock.subscribe", "hotsock.ping", "hotsock.memberAdded"] {
        let answer = server.publish(json!({"channel": "room", "event": name}));
        assert_eq!(answer.status, 400, "{name:?}");
    }
    for control in ["hotsock.heartbeat", "hotsock.pong"] {
        assert_eq!(refusal(&mut client, json!({"event": control})), None);
    }
}
