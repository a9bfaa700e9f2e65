//! What clients ask over HTTP in the name of their connection (section 18 of the protocol), against a real server.
//! Histories: `history.rs`.

mod support;

use std::time::Instant;

use serde_json::{Value, json};

use support::{API_KEYS, Answer, Client, PATIENCE, Server, token};

const ENDPOINTS: [&str; 8] = [
    "listMessages",
    "listReactions",
    "publishMessage",
    "channelStorageGet",
    "channelStorageSet",
    "channelStorageList",
    "getChannelInfo",
    "umdUpdate",
];

/// May do everything everywhere.
fn all(uid: &str) -> Value {
    json!({"uid": uid, "channels": {"*": {
        "subscribe": true, "getInfo": true,
        "messages": {"*": {"publish": true, "react": true}},
        "storage": {"*": {"get": true, "set": true, "observe": true}},
    }}})
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, &*answer.code()),
        (status, code),
        "{}",
        answer.body
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8"),
        "R-HTTP-7"
    );
}

#[track_caller]
fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// R-HTTP-2, R-HTTP-3, R-CONN-13, R-LOG-4
#[test]
fn credentials_that_are_not_those_of_an_open_connection_get_one_and_the_same_answer() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    let ben = server.connect(all("ben"));
    let gone = server.connect(all("cleo"));
    let ended = gone.credentials();
    gone.close();
    server.await_metric("realtime_connections", 2.0);
    let secret_of = |client: &Client| {
        client.welcome["data"]["connectionSecret"]
            .as_str()
            .expect("a secret")
            .to_owned()
    };
    let (id, secret) = (ana.id().to_owned(), secret_of(&ana));
    let with = |id: &str, secret: &str| format!("connectionId={id}&connectionSecret={secret}");
    let body = json!({"channel": "a", "messageId": "01KA5T6Q2M8Y0V3WZ4B7C9D1EF", "key": "k", "event": "x"});
    let wrong = [
        String::new(),
        ended,
        format!("connectionId={id}"),
        format!("connectionSecret={secret}"),
        with("", ""),
        with(&id, ""),
        with("", &secret),
        with(&id, &secret_of(&ben)),
        with(ben.id(), &secret),
        with("AAAAAAAAAAAAAAA=", &secret),
        with(&id[..15], &secret),
        with(&format!("{id}%3D"), &secret),
        with(&id, &secret[..19]),
        with(&id, &format!("{secret}x")),
        with(&id, &in_the_other_case(&secret)),
        with(&id, &format!("{}%20", &secret[..19])),
        with(&id, &"x".repeat(20)),
        with(&id, &"%00".repeat(20)),
        with("%FF", "%FF"),
        format!("connectionid={id}&connectionsecret={secret}"),
    ];
    let key = format!("Bearer {}", API_KEYS[0]);
    let bearer = format!("Bearer {secret}");
    let mut bodies = Vec::new();
    for endpoint in ENDPOINTS {
        for query in &wrong {
            let path = format!("/connection/{endpoint}?{query}");
            for headers in [vec![], vec![("Authorization", &*key)]] {
                let answer = server.request("POST", &path, &headers, &body.to_string());
                refused(&answer, 401, "UNAUTHORIZED");
                bodies.push(answer.body);
            }
        }
        // Neither a header nor the body is the place for them, and what is wrong with the body is not told.
        let path = format!("/connection/{endpoint}");
        let inside = json!({"channel": "a", "connectionId": id, "connectionSecret": secret});
        for body in [inside.to_string(), String::new(), "{".into()] {
            let headers = [("Authorization", &*bearer), ("connectionSecret", &*secret)];
            let answer = server.request("POST", &path, &headers, &body);
            refused(&answer, 401, "UNAUTHORIZED");
            bodies.push(answer.body);
        }
    }
    assert!(bodies.iter().all(|it| *it == bodies[0]), "{bodies:?}");
    assert!(server.metric("realtime_auth_failures_total{cause=\"connection_secret\"}") > 0.0);
    assert!(
        server.log().iter().all(|line| !line.contains(&secret)),
        "R-LOG-4"
    );
    // Any of the ways in which `=` may arrive.
    for equals in ["=", "%3d", "%3D"] {
        let query = with(&id.replace('=', equals), &secret);
        let path = format!("/connection/getChannelInfo?{query}");
        ok(&server.request("POST", &path, &[], r#"{"channel":"a"}"#));
    }
}

/// R-HTTP-1, R-ERR-10
#[test]
fn every_endpoint_takes_post_and_nothing_else_is_there() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    for endpoint in ENDPOINTS {
        let path = format!("/connection/{endpoint}?{}", ana.credentials());
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let answer = server.request(method, &path, &[], "{}");
            refused(&answer, 405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), Some("POST"));
        }
        let head = server.request("HEAD", &path, &[], "");
        assert_eq!((head.status, &*head.body), (405, ""));
        assert_eq!(server.request("OPTIONS", &path, &[], "").status, 204);
    }
    for path in [
        "/connection",
        "/connection/",
        "/connection/unknown",
        "/connection/listmessages",
        "/connection/listMessages/",
        "/connection/listMessages/a",
        "/Connection/listMessages",
    ] {
        let path = format!("{path}?{}", ana.credentials());
        refused(&server.request("POST", &path, &[], "{}"), 404, "NOT_FOUND");
    }
}

/// R-HTTP-6: what a browser asks before `fetch` sends JSON from another origin, and what it must see in every answer.
#[test]
fn a_page_of_another_origin_may_call_and_read_every_answer() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    let origin = ("Origin", "https://app.example.com");
    for endpoint in ENDPOINTS {
        let path = format!("/connection/{endpoint}?{}", ana.credentials());
        let asks = [
            origin,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type"),
        ];
        let preflight = server.request("OPTIONS", &path, &asks, "");
        assert_eq!((preflight.status, &*preflight.body), (204, ""));
        let list = |name: &str| {
            let value = preflight.header(name).unwrap_or_default();
            value.to_ascii_lowercase()
        };
        assert_eq!(list("access-control-allow-origin"), "*");
        assert!(list("access-control-allow-methods").contains("post"));
        assert!(list("access-control-allow-headers").contains("content-type"));
        for (method, path, body) in [
            ("POST", &*path, r#"{"channel":"a","key":"k","event":"x"}"#),
            ("POST", &path, "{"),
            ("GET", &path, ""),
            ("POST", &format!("/connection/{endpoint}"), "{}"),
            ("POST", "/connection/unknown", "{}"),
        ] {
            let answer = server.request(method, path, &[origin], body);
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, Some("*"), "{method} {path} {}", answer.status);
        }
    }
}

/// R-HTTP-5, R-HTTP-7, R-JSON-8
#[test]
fn a_body_is_json_whatever_its_content_type() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    for kind in [
        "text/plain;charset=UTF-8",
        "application/json",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        let body = " {\"channel\": \"a\", \"more\": [1]}\n";
        let answer = server.call_with(&ana, "getChannelInfo", &[("Content-Type", kind)], body);
        assert_eq!(
            ok(&answer),
            json!({"channel": "a", "subscriptionsCount": 0}),
            "{kind}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/json; charset=utf-8")
        );
    }
    let body = "{\"channel\":\"a\"}";
    ok(&server.call_with(&ana, "getChannelInfo", &[], body));
}

/// R-HTTP-8, R-HTTP-12, R-HTTP-25, R-HTTP-36, R-JSON-10
#[test]
fn what_is_wrong_with_a_body_is_said() {
    let server = Server::start();
    let mut ana = server.connect(all("ana"));
    ana.subscribe("a");
    for endpoint in ENDPOINTS {
        for body in [
            "",
            " ",
            "[]",
            "\"a\"",
            "null",
            "1",
            "{",
            "{}{}",
            "channel=a",
        ] {
            let answer = server.call_with(&ana, endpoint, &[], body);
            refused(&answer, 400, "INVALID_MESSAGE");
        }
    }
    let id = "01KA5T6Q2M8Y0V3WZ4B7C9D1EF";
    for (endpoint, body, code, hint) in [
        ("listMessages", json!({}), "INVALID_CHANNEL", "channel"),
        (
            "listMessages",
            json!({"channel": ""}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "listMessages",
            json!({"channel": "a b"}),
            "INVALID_CHANNEL",
            "white space",
        ),
        (
            "listMessages",
            json!({"channel": ["a"]}),
            "INVALID_MESSAGE",
            "channel must be a string",
        ),
        (
            "listMessages",
            json!({"channel": "a", "reverse": 1}),
            "INVALID_MESSAGE",
            "reverse",
        ),
        (
            "listMessages",
            json!({"channel": "a", "expandReactions": "x"}),
            "INVALID_MESSAGE",
            "expandReactions",
        ),
        (
            "listReactions",
            json!({"channel": "a"}),
            "INVALID_MESSAGE",
            "messageId",
        ),
        (
            "listReactions",
            json!({"channel": "a", "messageId": "x"}),
            "INVALID_MESSAGE",
            "messageId",
        ),
        (
            "listReactions",
            json!({"messageId": id}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "publishMessage",
            json!({"event": "x"}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "publishMessage",
            json!({"channel": "a"}),
            "INVALID_EVENT",
            "event",
        ),
        (
            "publishMessage",
            json!({"channel": "a", "event": "x*"}),
            "INVALID_EVENT",
            "*",
        ),
        (
            "publishMessage",
            json!({"channel": "a", "event": "x", "eagerIdGeneration": 1}),
            "INVALID_MESSAGE",
            "eagerIdGeneration",
        ),
        (
            "channelStorageGet",
            json!({"channel": "a"}),
            "INVALID_KEY",
            "key",
        ),
        (
            "channelStorageGet",
            json!({"channel": "a", "key": "a b"}),
            "INVALID_KEY",
            "key",
        ),
        (
            "channelStorageGet",
            json!({"channel": "a", "key": "x".repeat(129)}),
            "INVALID_KEY",
            "128",
        ),
        (
            "channelStorageGet",
            json!({"key": "k"}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "channelStorageSet",
            json!({"channel": "a", "data": 1}),
            "INVALID_KEY",
            "key",
        ),
        (
            "channelStorageSet",
            json!({"key": "k", "data": 1}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "channelStorageList",
            json!({}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "channelStorageList",
            json!({"channel": "a", "keys": "k"}),
            "INVALID_MESSAGE",
            "keys must be an array",
        ),
        (
            "channelStorageList",
            json!({"channel": "a", "keys": [1]}),
            "INVALID_MESSAGE",
            "keys",
        ),
        (
            "channelStorageList",
            json!({"channel": "a", "after": 1}),
            "INVALID_MESSAGE",
            "after",
        ),
        ("getChannelInfo", json!({}), "INVALID_CHANNEL", "channel"),
        (
            "getChannelInfo",
            json!({"channel": "x".repeat(257)}),
            "INVALID_CHANNEL",
            "256",
        ),
        (
            "umdUpdate",
            json!({"channel": "", "token": "x"}),
            "INVALID_CHANNEL",
            "channel",
        ),
        (
            "umdUpdate",
            json!({"token": {}}),
            "INVALID_MESSAGE",
            "token",
        ),
    ] {
        let answer = server.call(&ana, endpoint, body.clone());
        refused(&answer, 400, code);
        assert!(
            answer.body.contains(hint),
            "{endpoint} {body}: {}",
            answer.body
        );
    }
    ana.expect_nothing();
}

/// R-LIM-17
#[test]
fn a_body_has_256_kib_at_most() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    let body = r#"{"channel":"a"}"#;
    let padded = |bytes: usize| format!("{body}{}", " ".repeat(bytes - body.len()));
    ok(&server.call_with(&ana, "getChannelInfo", &[], &padded(256 * 1024)));
    let over = server.call_with(&ana, "getChannelInfo", &[], &padded(256 * 1024 + 1));
    assert_eq!(over.status, 413);
}

/// R-HTTP-9, R-SUB-26, R-SUB-21
#[test]
fn an_alias_stands_for_its_channel_in_every_call() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "channels": {
        "member.9f2": {
            "alias": "me", "subscribe": true, "getInfo": true,
            "messages": {"*": {"publish": true, "echo": true, "store": 60}},
            "storage": {"*": {"get": true, "set": true}},
        },
    }}));
    assert_eq!(ana.subscribe("me")["channel"], "member.9f2");
    // Replies to what is sent repeat the name as it was called.
    let sent = server.call(
        &ana,
        "publishMessage",
        json!({"channel": "me", "event": "x"}),
    );
    assert_eq!(
        (sent.status, sent.json()),
        (202, json!({"channel": "me", "event": "x"}))
    );
    assert_eq!(ana.expect("x")["channel"], "member.9f2");
    let set = json!({"channel": "me", "key": "k", "data": 1});
    let set = server.call(&ana, "channelStorageSet", set);
    assert_eq!(
        (set.status, set.json()),
        (
            202,
            json!({"channel": "me", "event": "hotsock.channelStorageSet"})
        )
    );
    // Replies to what is read carry the real one.
    let get = ok(&server.call(
        &ana,
        "channelStorageGet",
        json!({"channel": "me", "key": "k"}),
    ));
    assert_eq!(
        (&get["channel"], &get["data"]),
        (&json!("member.9f2"), &json!(1))
    );
    let listed = ok(&server.call(&ana, "listMessages", json!({"channel": "me"})));
    assert_eq!(listed["messages"][0]["channel"], "member.9f2");
    let items = ok(&server.call(&ana, "channelStorageList", json!({"channel": "me"})));
    assert_eq!(items["items"][0]["key"], "k");
    assert_eq!(
        ok(&server.call(&ana, "getChannelInfo", json!({"channel": "me"}))),
        json!({"channel": "member.9f2", "subscriptionsCount": 1})
    );
    let id = &listed["messages"][0]["id"];
    let reactions = json!({"channel": "me", "messageId": id});
    assert_eq!(
        ok(&server.call(&ana, "listReactions", reactions)),
        json!({"reactions": []})
    );
    let umd = json!({
        "scope": "umd", "uid": "ana", "umd": 1, "channels": {"member.9f2": {"umdUpdate": true}},
    });
    let renewed = json!({"channel": "me", "token": token(umd)});
    assert_eq!(ok(&server.call(&ana, "umdUpdate", renewed)), json!({}));
}

/// With every letter's case changed: a secret without any would be the same, which happens once in 10^16 times.
fn in_the_other_case(secret: &str) -> String {
    let change = |letter: char| match letter.is_ascii_uppercase() {
        true => letter.to_ascii_lowercase(),
        false => letter.to_ascii_uppercase(),
    };
    secret.chars().map(change).collect()
}

/// R-HTTP-10, R-LIVE-9, R-CONN-19
#[test]
fn calls_keep_no_connection_alive() {
    let server = Server::with("[limits]\nidle = \"2s\"\n");
    let heart = Server::start();
    let mut claims = all("ana");
    claims["heartbeatTimeout"] = json!(5);
    for (server, mut client, reason) in [
        (&server, server.connect(all("ana")), "Going away"),
        (&heart, heart.connect(claims), "Heartbeat timeout"),
    ] {
        let begun = Instant::now();
        let mut calls = 0;
        loop {
            let answer = server.call(&client, "getChannelInfo", json!({"channel": "a"}));
            if answer.status == 401 {
                break;
            }
            ok(&answer);
            calls += 1;
            assert!(begun.elapsed() < PATIENCE, "it stays open");
        }
        assert!(calls > 10, "{calls}");
        assert_eq!(client.closed(), (1001, reason.into()));
    }
}

/// R-DIFF-18: who may send so many messages in a second may not send more by another way.
#[test]
fn the_cap_of_a_connection_counts_its_calls() {
    let server = Server::with("[limits]\nmessages_per_second = 5\n");
    let ana = server.connect(all("ana"));
    let ben = server.connect(all("ben"));
    let statuses: Vec<u16> = (0..200)
        .map(|_| server.call(&ana, "getChannelInfo", json!({"channel": "a"})))
        .map(|answer| {
            if answer.status != 200 {
                refused(&answer, 429, "RATE_LIMITED");
            }
            answer.status
        })
        .collect();
    assert!(
        statuses.contains(&200) && statuses.contains(&429),
        "{statuses:?}"
    );
    ok(&server.call(&ben, "getChannelInfo", json!({"channel": "a"})));
}

/// R-HTTP-29, R-HTTP-30, R-HTTP-31, R-HTTP-32, R-HTTP-33, R-PUB-10, R-PUB-12, R-DLV-8
#[test]
fn a_message_is_published_over_http_as_over_the_websocket() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "channels": {
        "room.*": {"subscribe": true, "messages": {
            "chat": {"publish": true},
            "echoed": {"publish": true, "echo": true},
            "planned": {"publish": true, "scheduleBefore": 4_000_000_000_u64},
        }},
        "tower": {"messages": {"call": {"broadcast": true}}},
    }}));
    let mut ben = server.connect(all("ben"));
    ben.subscribe("room.8");
    ben.subscribe("tower");
    let publish =
        |server: &Server, ana: &Client, body: Value| server.call(ana, "publishMessage", body);
    let chat = json!({"channel": "room.8", "event": "chat", "data": "Moin"});
    refused(&publish(&server, &ana, chat.clone()), 403, "NOT_SUBSCRIBED");
    ana.subscribe("room.8");
    let sent = publish(&server, &ana, chat);
    assert_eq!(
        (sent.status, sent.json()),
        (202, json!({"channel": "room.8", "event": "chat"}))
    );
    let seen = ben.expect("chat");
    assert_eq!(
        seen,
        json!({
            "id": seen["id"], "event": "chat", "channel": "room.8", "data": "Moin",
            "meta": {"uid": "ana", "umd": null},
        })
    );
    ana.expect_nothing();
    // The identifier is the one that is delivered.
    let eager = json!({"channel": "room.8", "event": "echoed", "eagerIdGeneration": true});
    let sent = publish(&server, &ana, eager).json();
    assert_eq!(
        sent,
        json!({"id": sent["id"], "channel": "room.8", "event": "echoed"})
    );
    for client in [&mut ana, &mut ben] {
        assert_eq!(client.expect("echoed")["id"], sent["id"]);
    }
    // Without a subscription, where the claims say so.
    let call = json!({"channel": "tower", "event": "call"});
    assert_eq!(publish(&server, &ana, call).status, 202);
    ben.expect("call");
    for (body, status, code) in [
        (
            json!({"channel": "room.8", "event": "other"}),
            403,
            "PUBLISH_PERMISSION_DENIED",
        ),
        (
            json!({"channel": "elsewhere", "event": "chat"}),
            403,
            "PUBLISH_PERMISSION_DENIED",
        ),
        (
            json!({"channel": "room.8", "event": "hotsock.chat"}),
            400,
            "INVALID_EVENT",
        ),
        (
            json!({"channel": "room.8", "event": "hotsock.subscribe"}),
            400,
            "INVALID_EVENT",
        ),
        (
            json!({"channel": "room.8", "event": "hotsock.channelStorageSet"}),
            400,
            "INVALID_EVENT",
        ),
        (
            json!({"channel": "room.8", "event": "chat", "data": "x".repeat(32 * 1024)}),
            413,
            "DATA_TOO_LARGE",
        ),
        (
            json!({"channel": "room.8", "event": "chat", "scheduleExpression": "at(2099-01-01T00:00:00)"}),
            403,
            "SCHEDULE_PERMISSION_DENIED",
        ),
    ] {
        refused(&publish(&server, &ana, body), status, code);
    }
    let planned = json!({
        "channel": "room.8", "event": "planned", "scheduleExpression": "at(2096-01-01T00:00:00)",
    });
    let planned = publish(&server, &ana, planned);
    assert_eq!(planned.status, 202);
    let planned = planned.json();
    let arn = planned["scheduleArn"].as_str().expect("an ARN");
    assert!(arn.starts_with("arn:aws:scheduler:"), "{arn}");
    assert_eq!(
        planned,
        json!({"channel": "room.8", "event": "planned", "scheduleArn": arn})
    );
    ana.expect_nothing();
    ben.expect_nothing();
    let triggers = |trigger: &str| {
        server.metric(&format!(
            "realtime_messages_published_total{{trigger=\"{trigger}\"}}"
        ))
    };
    assert_eq!(
        (triggers("client.http"), triggers("client.websocket")),
        (4.0, 0.0)
    );
}

/// R-HTTP-34, R-HTTP-35, R-HTTP-37, R-HTTP-38, R-HTTP-39, R-HTTP-40, R-STOR-8, R-STOR-15, R-STOR-19
#[test]
fn storage_is_written_and_read_over_http_as_over_the_websocket() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "umd": 7, "channels": {"game.3": {
        "subscribe": true,
        "storage": {
            "rules": {"get": true, "set": true, "observe": true},
            "secret": {"set": true},
            "turn": {"get": true},
            "later": {"set": true, "scheduleBefore": 4_000_000_000_u64},
        },
    }}}));
    let get = |server: &Server, ana: &Client, key: &str| {
        server.call(
            ana,
            "channelStorageGet",
            json!({"channel": "game.3", "key": key}),
        )
    };
    let set = |server: &Server, ana: &Client, key: &str, data: Value| {
        let body = json!({"channel": "game.3", "key": key, "data": data});
        server.call(ana, "channelStorageSet", body)
    };
    assert_eq!(
        ok(&get(&server, &ana, "rules")),
        json!({
            "event": "hotsock.channelStorageData", "channel": "game.3", "key": "rules", "data": null, "meta": null,
        })
    );
    // No subscription is needed; with one, the writer hears of it on its WebSocket.
    let written = json!({"channel": "game.3", "event": "hotsock.channelStorageSet"});
    let first = set(&server, &ana, "rules", json!({"seats": 4}));
    assert_eq!((first.status, first.json()), (202, written.clone()));
    ana.subscribe("game.3");
    ana.expect("hotsock.channelStorageUpdated");
    let again = set(&server, &ana, "rules", json!({"seats": 4}));
    assert_eq!((again.status, again.json()), (202, written.clone()));
    ana.expect_nothing();
    assert_eq!(set(&server, &ana, "rules", json!({"seats": 5})).status, 202);
    assert_eq!(
        ana.expect("hotsock.channelStorageUpdated")["data"],
        json!({"seats": 5})
    );
    let read = ok(&get(&server, &ana, "rules"));
    assert_eq!(
        read,
        json!({
            "event": "hotsock.channelStorageData", "channel": "game.3", "key": "rules", "data": {"seats": 5},
            "meta": {"uid": "ana", "umd": 7},
        })
    );
    ana.send(json!({"event": "hotsock.channelStorageGet", "channel": "game.3", "key": "rules"}));
    assert_eq!(ana.expect("hotsock.channelStorageData"), read, "R-HTTP-34");
    assert_eq!(set(&server, &ana, "secret", json!(1)).status, 202);
    for key in ["secret", "later", "other"] {
        refused(
            &get(&server, &ana, key),
            403,
            "STORAGE_GET_PERMISSION_DENIED",
        );
    }
    for key in ["turn", "other"] {
        let answer = set(&server, &ana, key, json!(1));
        refused(&answer, 403, "STORAGE_SET_PERMISSION_DENIED");
    }
    let at = |key: &str| json!({"channel": "game.3", "key": key, "data": 1, "scheduleExpression": "at(2096-01-01T00:00:00)"});
    refused(
        &server.call(&ana, "channelStorageSet", at("rules")),
        403,
        "SCHEDULE_PERMISSION_DENIED",
    );
    let planned = server.call(&ana, "channelStorageSet", at("later"));
    let arn = &planned.json()["scheduleArn"];
    assert_eq!(
        (planned.status, planned.json()),
        (
            202,
            json!({"channel": "game.3", "event": "hotsock.channelStorageSet", "scheduleArn": arn})
        )
    );
    assert!(arn.is_string());
    let large = set(&server, &ana, "rules", json!("x".repeat(32 * 1024)));
    refused(&large, 413, "DATA_TOO_LARGE");
    ana.expect_nothing();
}

fn stored(server: &Server, channel: &str, key: &str, data: &Value) {
    let body = json!({
        "channel": channel, "event": "hotsock.channelStorageSet", "key": key, "data": data,
    });
    assert_eq!(server.publish(body).status, 202);
}

fn keys(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    let keys = items.iter().map(|item| item["key"].as_str());
    keys.map(|key| key.expect("a key")).collect()
}

/// R-HTTP-41, R-HTTP-42, R-HTTP-45, R-LIM-13, R-STOR-6, R-STOR-18
#[test]
fn a_listing_of_storage_has_what_the_claims_let_be_read() {
    let server = Server::start();
    for key in ["rules", "turn", "secret", "score.ana", "score.ben"] {
        stored(&server, "game.3", key, &json!({"of": key}));
    }
    let ana = server.connect(json!({"uid": "ana", "channels": {"game.*": {"storage": {
        "rules": {"get": true},
        "score.*": {"get": true},
        "score.ben": {"get": false},
        "secret": {"set": true, "observe": true},
    }}}}));
    let list = |body: Value| ok(&server.call(&ana, "channelStorageList", body));
    assert_eq!(
        list(json!({"channel": "game.3"})),
        json!({"items": [
            {"key": "rules", "data": {"of": "rules"}, "meta": {"uid": null, "umd": null}},
            {"key": "score.ana", "data": {"of": "score.ana"}, "meta": {"uid": null, "umd": null}},
        ]})
    );
    // Named ones: those that exist and may be read, in order, each once; `after` has no effect beside them.
    let named = json!({
        "channel": "game.3", "after": "zzz",
        "keys": ["score.ben", "score.ana", "nothing", "a b", "secret", "rules", "rules"],
    });
    assert_eq!(keys(&list(named)), ["rules", "score.ana"]);
    for nothing in [
        json!({"channel": "game.3", "keys": ["turn"]}),
        json!({"channel": "game.3", "keys": []}),
        json!({"channel": "game.3", "after": "score.ana"}),
        json!({"channel": "game.4"}),
        json!({"channel": "elsewhere"}),
    ] {
        assert_eq!(list(nothing), json!({"items": []}));
    }
    let hundred: Vec<String> = (0..100).map(|number| format!("k{number}")).collect();
    let named = |keys: &[String]| {
        server.call(
            &ana,
            "channelStorageList",
            json!({"channel": "game.3", "keys": keys}),
        )
    };
    assert_eq!(ok(&named(&hundred)), json!({"items": []}));
    let over = [&hundred[..], &["one".into()]].concat();
    refused(&named(&over), 400, "INVALID_MESSAGE");
}

/// R-HTTP-43, R-HTTP-44: only what may be read counts for a page, in the order of bytes.
#[test]
fn storage_is_paged_behind_the_last_key() {
    let server = Server::start();
    let ana = server.connect(json!({"channels": {
        "game.3": {"storage": {"*": {"get": true}, "hidden*": {"get": false}}},
    }}));
    let mut expected: Vec<String> = (0..250).map(|number| format!("k{number}")).collect();
    expected.extend(["B".into(), "b".into(), "é".into(), "日".into()]);
    for (number, key) in expected.iter().enumerate() {
        stored(&server, "game.3", key, &json!(number));
        // As many that may not be read, before and after and in between.
        stored(&server, "game.3", &format!("hidden-{key}"), &json!(number));
    }
    expected.sort_unstable();
    let (mut after, mut seen, mut sizes) = (None::<String>, Vec::new(), Vec::new());
    loop {
        let body = json!({"channel": "game.3", "after": after});
        let page = ok(&server.call(&ana, "channelStorageList", body));
        let page: Vec<String> = keys(&page).iter().map(|key| (*key).to_owned()).collect();
        sizes.push(page.len());
        after = page.last().cloned();
        seen.extend(page);
        if *sizes.last().expect("a page") < 100 {
            break;
        }
    }
    assert_eq!(sizes, [100, 100, 54]);
    assert_eq!(seen, expected);
}

/// R-HTTP-44: 1 MB ends a page, too.
#[test]
fn a_page_of_storage_has_a_megabyte_at_most() {
    let server = Server::start();
    let ana = server.connect(all("ana"));
    let large = json!("x".repeat(30 * 1024));
    for number in 10..60 {
        stored(&server, "a", &format!("k{number}"), &large);
    }
    let (mut after, mut seen) = (None::<String>, Vec::new());
    while seen.len() < 50 {
        let answer = server.call(
            &ana,
            "channelStorageList",
            json!({"channel": "a", "after": after}),
        );
        let page = ok(&answer);
        assert!(answer.body.len() <= 1_000_000, "{}", answer.body.len());
        let page: Vec<String> = keys(&page).iter().map(|key| (*key).to_owned()).collect();
        assert!(!page.is_empty(), "after {} entries", seen.len());
        assert!(
            answer.body.len() > 900_000 || seen.len() + page.len() == 50,
            "nothing but 1 MB shortens a page"
        );
        after = page.last().cloned();
        seen.extend(page);
    }
    let expected: Vec<_> = (10..60).map(|number| format!("k{number}")).collect();
    assert_eq!(seen, expected);
}

/// R-HTTP-46, R-HTTP-47, R-HTTP-48, R-HTTP-49, R-HTTP-50, R-HTTP-51, R-SUB-17
#[test]
fn a_channel_is_described_to_whoever_may_know() {
    let server = Server::start();
    let ana = server.connect(json!({"channels": {
        "room.8": {"getInfo": true},
        "presence.*": {"getInfo": true},
        "presence.den": {"getInfo": true},
        "closed": {"subscribe": true},
        "presence.dark": {"getInfo": false},
    }}));
    let info = |channel: &str| server.call(&ana, "getChannelInfo", json!({"channel": channel}));
    let nobody = json!({"channel": "room.8", "subscriptionsCount": 0});
    assert_eq!(ok(&info("room.8")), nobody);
    assert_eq!(
        ok(&info("presence.den")),
        json!({"channel": "presence.den", "subscriptionsCount": 0, "members": []})
    );
    let mut others = ["ben", "cleo", "ben"].map(|uid| server.connect(all(uid)));
    for other in &mut others {
        other.subscribe("room.8");
        other.subscribe_quietly("presence.den");
    }
    assert_eq!(
        ok(&info("room.8")),
        json!({"channel": "room.8", "subscriptionsCount": 3})
    );
    let members = json!([{"uid": "ben", "umd": null}, {"uid": "cleo", "umd": null}]);
    let described = ok(&info("presence.den"));
    assert_eq!(
        described,
        json!({"channel": "presence.den", "subscriptionsCount": 3, "members": members})
    );
    let told = server.get("/channels/presence.den").json();
    assert_eq!(
        (&told["members"], &told["name"]),
        (&described["members"], &described["channel"])
    );
    for channel in ["closed", "elsewhere", "presence.dark"] {
        refused(&info(channel), 403, "INFO_PERMISSION_DENIED");
    }
}

/// R-HTTP-4, R-PERM-18, R-PERM-16
#[test]
fn what_a_subscribe_token_permits_lasts_as_long_as_its_subscription() {
    let server = Server::start();
    stored(&server, "game.3", "rules", &json!(1));
    let mut ana = server.connect(json!({"uid": "ana"}));
    let grant = token(
        json!({"scope": "subscribe", "uid": "ana", "channels": {"game.3": {
            "subscribe": true, "getInfo": true, "storage": {"*": {"get": true}},
            "messages": {"chat": {"publish": true}},
        }}}),
    );
    let calls = [
        (
            "channelStorageGet",
            json!({"channel": "game.3", "key": "rules"}),
        ),
        ("getChannelInfo", json!({"channel": "game.3"})),
        (
            "publishMessage",
            json!({"channel": "game.3", "event": "chat"}),
        ),
        ("listMessages", json!({"channel": "game.3"})),
    ];
    let statuses = |server: &Server, ana: &Client| {
        calls.clone().map(|(endpoint, mut body)| {
            // A token over HTTP changes nothing.
            body["token"] = json!(grant);
            body["data"] = json!({"token": grant});
            server.call(ana, endpoint, body).status
        })
    };
    let items = |server: &Server, ana: &Client| {
        let page = ok(&server.call(ana, "channelStorageList", json!({"channel": "game.3"})));
        page["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(statuses(&server, &ana), [403; 4]);
    assert_eq!(items(&server, &ana), 0);
    ana.send(json!({"event": "hotsock.subscribe", "channel": "game.3", "data": {"token": grant}}));
    ana.expect("hotsock.subscribed");
    assert_eq!(statuses(&server, &ana), [200, 200, 202, 200]);
    assert_eq!(items(&server, &ana), 1);
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "game.3"}));
    ana.expect("hotsock.unsubscribed");
    assert_eq!(statuses(&server, &ana), [403; 4]);
    assert_eq!(items(&server, &ana), 0);
}

fn umd_token(mut claims: Value) -> String {
    claims["scope"] = json!("umd");
    token(claims)
}

/// R-HTTP-52, R-HTTP-53, R-HTTP-54, R-HTTP-55, R-UMD-13, R-UMD-4, R-UMD-8, R-UMD-14
#[test]
fn metadata_is_changed_over_http() {
    let server = Server::start();
    let mut ana = server.connect(all("ana"));
    let mut ben = server.connect(all("ben"));
    ana.subscribe("presence.den");
    ben.subscribe("presence.den");
    ana.expect("hotsock.memberAdded");
    let renew = |server: &Server, ana: &Client, body: Value| server.call(ana, "umdUpdate", body);

    let here = |umd: Value| {
        umd_token(
            json!({"uid": "ana", "umd": umd, "channels": {"presence.den": {"umdUpdate": true}}}),
        )
    };
    let body = json!({"channel": "presence.den", "token": here(json!({"mood": "busy"}))});
    let answer = renew(&server, &ana, body);
    assert_eq!((answer.status, &*answer.body), (200, "{}"));
    for client in [&mut ana, &mut ben] {
        let updated = client.expect("hotsock.memberUpdated");
        assert_eq!(
            updated["data"]["member"],
            json!({"uid": "ana", "umd": {"mood": "busy"}})
        );
    }
    // The same again changes nothing, and is no failure.
    let body = json!({"channel": "presence.den", "token": here(json!({"mood": "busy"}))});
    assert_eq!(renew(&server, &ana, body).status, 200);

    let everywhere = |umd: Value, more: Value| {
        let mut claims = json!({"uid": "ana", "umd": umd, "umdUpdate": true});
        claims
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        umd_token(claims)
    };
    // The connection's own: inherited by what comes later.
    let body = json!({"token": everywhere(json!(1), json!({}))});
    assert_eq!(ok(&renew(&server, &ana, body)), json!({}));
    ana.expect_nothing();
    assert_eq!(ana.subscribe("room.8")["meta"]["umd"], 1);

    let good = here(json!(9));
    for (body, status, code) in [
        (json!({}), 401, "INVALID_UMD_TOKEN"),
        (json!({"token": ""}), 401, "INVALID_UMD_TOKEN"),
        (json!({"token": null}), 401, "INVALID_UMD_TOKEN"),
        (json!({"token": "x.y.z"}), 401, "INVALID_UMD_TOKEN"),
        (json!({"data": {"token": good}}), 401, "INVALID_UMD_TOKEN"),
        (
            json!({"channel": "presence.den", "token": token(json!({"scope": "connect", "uid": "ana"}))}),
            401,
            "INVALID_UMD_TOKEN",
        ),
        (
            json!({"channel": "presence.den", "token": umd_token(json!({"uid": "eve", "umd": 1}))}),
            401,
            "INVALID_UMD_TOKEN",
        ),
        (json!({"token": good}), 403, "UMD_UPDATE_PERMISSION_DENIED"),
        (
            json!({"channel": "presence.den", "token": everywhere(json!(1), json!({}))}),
            403,
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            json!({"channel": "elsewhere", "token": good}),
            403,
            "NOT_SUBSCRIBED",
        ),
    ] {
        refused(&renew(&server, &ana, body), status, code);
    }
    // A token that may be used once is spent by its first success, by either way.
    let once = everywhere(json!(2), json!({"singleUse": true, "jti": "one"}));
    assert_eq!(renew(&server, &ana, json!({"token": once})).status, 200);
    refused(
        &renew(&server, &ana, json!({"token": once})),
        401,
        "INVALID_UMD_TOKEN",
    );
    ana.expect_nothing();
    ben.expect_nothing();
}

/// R-UMD-10, R-HTTP-53: a change that reaches all subscriptions has one answer, when all is done.
#[test]
fn a_propagated_change_is_answered_once_it_is_everywhere() {
    let server = Server::with("[limits]\noutbound_bytes = \"64MiB\"\n");
    let mut ana = server.connect(all("ana"));
    let mut ben = server.connect(all("ben"));
    let channels = ["presence.a", "presence.b", "presence.c", "room.8"];
    for channel in channels {
        ana.subscribe_quietly(channel);
        ben.subscribe_quietly(channel);
    }
    ana.drain();
    let change = |umd: Value| {
        let claims = json!({"uid": "ana", "umd": umd, "umdUpdate": true, "umdPropagate": true});
        json!({"token": umd_token(claims)})
    };
    assert_eq!(
        ok(&server.call(&ana, "umdUpdate", change(json!(5)))),
        json!({})
    );
    let told: Vec<_> = ben.drain();
    assert_eq!(told.len(), 3, "{told:?}");
    for channel in &channels[..3] {
        let members = &server.get(&format!("/channels/{channel}")).json()["members"];
        assert_eq!(members[0], json!({"uid": "ana", "umd": 5}), "{channel}");
    }
    // One of them has no room: the others follow, and the answer says what is missing.
    let umd = json!("x".repeat(1000));
    let mut crowd: Vec<Client> = Vec::new();
    for number in 0.. {
        let mut claims = all(&format!("user-{number:03}"));
        claims["umd"] = umd.clone();
        let mut one = server.connect(claims);
        one.send(json!({"event": "hotsock.subscribe", "channel": "presence.b"}));
        let answer = loop {
            let message = one.next();
            if message["event"] != "hotsock.memberAdded" {
                break message;
            }
        };
        if answer["event"] == "hotsock.error" {
            break;
        }
        crowd.push(one);
    }
    let large = json!("y".repeat(1000));
    let answer = server.call(&ana, "umdUpdate", change(large.clone()));
    refused(&answer, 403, "PRESENCE_CHANNEL_CAPACITY_REACHED");
    assert!(answer.body.contains("`presence.b`"), "{}", answer.body);
    let umd_in = |channel: &str| {
        let described = server.get(&format!("/channels/{channel}")).json();
        let members = described["members"].as_array().expect("members").clone();
        let own = members.into_iter().find(|member| member["uid"] == "ana");
        own.expect("ana")["umd"].clone()
    };
    assert_eq!(umd_in("presence.a"), large);
    assert_eq!(umd_in("presence.b"), json!(5));
    assert_eq!(umd_in("presence.c"), large);
}

/// R-REACT-14
#[test]
fn a_reaction_is_a_message_over_http() {
    let server = Server::start();
    let mut ana = server.connect(all("ana"));
    let mut ben = server.connect(all("ben"));
    ana.subscribe("room.8");
    ben.subscribe("room.8");
    let message =
        json!({"channel": "room.8", "event": "chat", "store": 60, "eagerIdGeneration": true});
    let id = server.publish(message).json()["id"].clone();
    ana.expect("chat");
    ben.expect("chat");
    let body = json!({
        "channel": "room.8", "event": "hotsock.messageReaction",
        "data": {"messageId": id, "reaction": "🎉", "action": "add"},
    });
    let answer = server.call(&ana, "publishMessage", body);
    assert_eq!(
        (answer.status, answer.json()),
        (
            202,
            json!({"channel": "room.8", "event": "hotsock.messageReaction"})
        )
    );
    assert_eq!(
        ben.expect("hotsock.messageReactionAdded")["data"]["messageId"],
        id
    );
}

/// R-LIM-18, R-OPS-2: a database that somebody holds. What must be written is answered or abandoned in time,
/// pages are answered as ever, and afterwards all is well by itself.
#[test]
fn what_cannot_be_done_in_time_is_abandoned_and_nothing_else_waits_for_it() {
    if support::is_with_redis() {
        return; // There is no file that somebody could hold; `tests/cluster.rs` has what takes its place.
    }
    let server = Server::with("[limits]\nrequest_timeout = \"1s\"\n");
    let mut ana = server.connect(all("ana"));
    ana.subscribe("a");
    stored(&server, "a", "k", &json!(1));
    ana.expect("hotsock.channelStorageUpdated");
    let file = server.path("realtime.db");
    let database = rusqlite::Connection::open(file).expect("it can be opened");
    database
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody writes");
    let set = |data: Value| {
        let body = json!({"channel": "a", "key": "k", "data": data});
        server.call(&ana, "channelStorageSet", body)
    };
    std::thread::scope(|threads| {
        let writing = threads.spawn(|| set(json!(2)));
        let mut read = 0;
        while !writing.is_finished() {
            ok(&server.call(&ana, "listMessages", json!({"channel": "a"})));
            ok(&server.call(&ana, "channelStorageList", json!({"channel": "a"})));
            ok(&server.call(&ana, "getChannelInfo", json!({"channel": "b"})));
            read += 1;
        }
        let answer = writing.join().expect("it is answered");
        refused(&answer, 503, "INTERNAL_ERROR");
        assert!(answer.body.contains("no answer in time"), "{}", answer.body);
        assert!(read > 3, "{read}");
    });
    database.execute_batch("ROLLBACK").expect("it is let go");
    let begun = Instant::now();
    while set(json!(3)).status != 202 {
        assert!(begun.elapsed() < PATIENCE, "it does not recover");
    }
    let get = json!({"channel": "a", "key": "k"});
    let read = ok(&server.call(&ana, "channelStorageGet", get));
    assert_eq!(read["data"], json!(3));
}
