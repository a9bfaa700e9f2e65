//! What backends ask of the server over HTTP (section 19 of the protocol), against a real server.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use serde_json::{Value, json};

use support::{API_KEYS, Answer, PATIENCE, Server, token};

const MESSAGE: &str = r#"{"channel":"a","event":"price"}"#;

fn listener() -> Value {
    json!({"channels": {"*": {"subscribe": true}}})
}

fn post(server: &Server, headers: &[(&str, &str)], body: &str) -> Answer {
    server.request("POST", "/publish", headers, body)
}

/// `POST /publish` with a key; the status.
fn publish_with(server: &Server, key: &str) -> u16 {
    post(
        server,
        &[("Authorization", &format!("Bearer {key}"))],
        MESSAGE,
    )
    .status
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .expect("a code")
        .to_owned()
}

/// R-SRV-1, R-SRV-2, R-SRV-4, R-SRV-5, R-ERR-10
#[test]
fn the_server_api_takes_either_key_in_its_header_and_nothing_else() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    ana.subscribe("a");
    let [one, two] = API_KEYS;
    let header = |value: String| vec![("Authorization", value)];
    for accepted in [
        header(format!("Bearer {one}")),
        header(format!("Bearer {two}")),
        header(format!("bearer {one}")),
        header(format!("BEARER {two}")),
    ] {
        let headers: Vec<_> = accepted
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        assert_eq!(post(&server, &headers, MESSAGE).status, 202, "{accepted:?}");
        ana.expect("price");
    }
    let connect = token(json!({}));
    for refused in [
        vec![],
        header(format!("Bearer {}", "x".repeat(40))),
        header(format!("Bearer {}", &one[..39])),
        header(format!("Bearer {one}x")),
        header(format!("Bearer {}", one.to_uppercase())),
        header(format!("Bearer {one}{two}")),
        header(format!("Bearer {connect}")),
        header(format!("Basic {one}")),
        header(one.into()),
        header("Bearer ".into()),
        vec![("Authentication", format!("Bearer {one}"))],
        vec![
            ("Authorization", format!("Bearer {one}")),
            ("Authorization", format!("Bearer {two}")),
        ],
    ] {
        let headers: Vec<_> = refused
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        for (method, path) in [
            ("POST", "/publish"),
            ("GET", "/channels/a"),
            ("GET", "/channels/a/storage"),
            ("GET", "/channels/a/messages"),
            ("GET", "/schedules/01KA5T6Q2M8Y0V3WZ4B7C9D1EF"),
            ("DELETE", "/schedules/01KA5T6Q2M8Y0V3WZ4B7C9D1EF"),
            ("GET", "/info"),
        ] {
            let answer = server.request(method, path, &headers, MESSAGE);
            assert_eq!(
                (answer.status, &*code(&answer)),
                (401, "UNAUTHORIZED"),
                "{refused:?}"
            );
            assert!(!answer.body.contains(one), "R-ERR-2");
        }
    }
    for query in ["key", "apiKey", "token", "Authorization"] {
        assert_eq!(
            server
                .request("POST", &format!("/publish?{query}={one}"), &[], MESSAGE)
                .status,
            401
        );
    }
    ana.expect_nothing();
    // Operators see it, and never the key.
    assert!(server.metric("realtime_auth_failures_total{cause=\"api_key\"}") > 0.0);
    server.logged(|record| {
        record["message"]
            .as_str()
            .is_some_and(|it| it.contains("API key is missing or wrong"))
    });
    assert!(
        server.log().iter().all(|line| !line.contains(&one[..39])),
        "R-LOG-4"
    );
}

/// R-SRV-2, R-CFG-4
#[test]
fn without_configured_keys_two_of_40_characters_are_there_from_the_start() {
    let server = Server::with("api_keys = []\n");
    let file = server.path("api-keys");
    let text = std::fs::read_to_string(&file).expect("keys were generated");
    let keys: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert_eq!(keys.len(), 2);
    for key in &keys {
        assert_eq!(key.len(), 40);
        assert_eq!(publish_with(&server, key), 202);
        assert!(
            server.log().iter().all(|line| !line.contains(key)),
            "a key in the log"
        );
    }
    assert_ne!(keys[0], keys[1]);
    assert_eq!(publish_with(&server, API_KEYS[0]), 401);
}

/// R-SRV-2, R-LIM-19
#[test]
fn more_keys_of_32_characters_or_more_may_be_configured() {
    let keys = ["a".repeat(32), "b".repeat(40), "c".repeat(100)];
    let server = Server::with(&format!("api_keys = {}\n", json!(keys)));
    assert!(keys.iter().all(|key| publish_with(&server, key) == 202));
}

/// A connection that is kept for many requests, as backends do.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn to(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(BufReader::new(stream))
    }

    fn publish(&mut self, key: &str, body: &str) -> u16 {
        let length = body.len();
        let head =
            format!("POST /publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        self.0
            .get_mut()
            .write_all(request.as_bytes())
            .expect("it reads");
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| line != "\r\n") {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            assert!(!line.is_empty(), "the connection ended: {lines:?}");
            lines.push(line);
        }
        let length = lines.iter().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")
                .map(|it| it.trim().parse())
        });
        let mut body = vec![0; length.expect("a length").expect("a number")];
        self.0.read_exact(&mut body).expect("a body");
        lines[0][9..12].parse().expect("a status")
    }
}

/// R-SRV-3: scenario 26.
#[test]
fn a_key_is_replaced_while_the_other_is_in_use_without_a_failed_request() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    ana.subscribe("a");
    let [one, two] = API_KEYS;
    let fresh = "fresh000000000000000000000000000000key-1";
    let stop = AtomicBool::new(false);
    let published: usize = std::thread::scope(|threads| {
        let backends: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let mut backend = Kept::to(&server);
                    let mut count = 0;
                    while !stop.load(Relaxed) {
                        assert_eq!(backend.publish(two, MESSAGE), 202);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for (old, new) in [(one, fresh), (fresh, one), (one, fresh)] {
            assert_eq!(
                (publish_with(&server, old), publish_with(&server, new)),
                (202, 401)
            );
            server.configure(&format!("api_keys = [\"{new}\", \"{two}\"]\n"));
            server.reload();
            assert_eq!(
                (publish_with(&server, old), publish_with(&server, new)),
                (401, 202)
            );
        }
        stop.store(true, Relaxed);
        backends
            .into_iter()
            .map(|backend| backend.join().expect("no request failed"))
            .sum()
    });
    assert!(published > 0);
    assert_eq!(ana.drain().len(), published + 6, "none was lost");
}

/// R-SRV-3: without a signal, within 30 seconds.
#[test]
fn a_key_that_is_taken_out_of_its_file_soon_stops_working() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("keys");
    std::fs::write(&file, API_KEYS.join("\n")).expect("written");
    let server = Server::launch_in(
        dir,
        &format!("api_keys_file = \"{}\"\n", file.display()),
        &[],
    );
    assert_eq!(publish_with(&server, API_KEYS[0]), 202);
    std::fs::write(&file, API_KEYS[1]).expect("written");
    let begun = Instant::now();
    while publish_with(&server, API_KEYS[0]) == 202 {
        assert!(begun.elapsed() < PATIENCE, "still accepted");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(publish_with(&server, API_KEYS[1]), 202);
}

/// R-SRV-6, R-SRV-7, R-HTTP-7
#[test]
fn a_publish_is_answered_with_what_was_published() {
    let server = Server::start();
    let answer = server.publish(json!({"channel": "board.1", "event": "price"}));
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.json(),
        json!({"channel": "board.1", "event": "price"})
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let eager = server
        .publish(json!({"channel": "board.1", "event": "price", "eagerIdGeneration": true}))
        .json();
    let id = eager["id"].as_str().expect("an id");
    assert_eq!(
        eager,
        json!({"id": id, "channel": "board.1", "event": "price"})
    );
}

/// R-SRV-6, R-SRV-8, R-LIM-1, R-LIM-2, R-LIM-4, R-LIM-22, R-HTTP-8, R-ERR-10, R-JSON-10
#[test]
fn what_is_wrong_with_a_publish_is_said_and_nothing_is_delivered() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    ana.subscribe("a");
    let with = |name: &str, value: Value| {
        let mut body = json!({"channel": "a", "event": "price"});
        body[name] = value;
        body.to_string()
    };
    for (body, code_expected, hint) in [
        (String::new(), "INVALID_MESSAGE", "JSON"),
        ("[]".into(), "INVALID_MESSAGE", "object"),
        ("{".into(), "INVALID_MESSAGE", "JSON"),
        ("\"a\"".into(), "INVALID_MESSAGE", "object"),
        (r#"{"event":"price"}"#.into(), "INVALID_CHANNEL", "channel"),
        (r#"{"channel":"a"}"#.into(), "INVALID_EVENT", "event"),
        (with("channel", json!("")), "INVALID_CHANNEL", "channel"),
        (with("channel", json!(null)), "INVALID_CHANNEL", "channel"),
        (with("channel", json!(1)), "INVALID_MESSAGE", "channel"),
        (
            with("channel", json!("a b")),
            "INVALID_CHANNEL",
            "white space",
        ),
        (with("channel", json!("a*")), "INVALID_CHANNEL", "*"),
        (
            with("channel", json!("x".repeat(257))),
            "INVALID_CHANNEL",
            "256",
        ),
        (with("event", json!(["price"])), "INVALID_MESSAGE", "event"),
        (with("event", json!("")), "INVALID_EVENT", "event"),
        (
            with("event", json!("x".repeat(129))),
            "INVALID_EVENT",
            "128",
        ),
        (with("event", json!("#regex:a")), "INVALID_EVENT", "#"),
        (
            with("event", json!("hotsock.subscribed")),
            "INVALID_EVENT",
            "hotsock.",
        ),
        (
            with("deduplicationId", json!(1)),
            "INVALID_MESSAGE",
            "deduplicationId",
        ),
        (
            with("eagerIdGeneration", json!("yes")),
            "INVALID_MESSAGE",
            "eagerIdGeneration",
        ),
        (
            with("emitPubSubEvent", json!(1)),
            "INVALID_MESSAGE",
            "emitPubSubEvent",
        ),
        (with("store", json!("forever")), "INVALID_MESSAGE", "store"),
    ] {
        let answer = post(
            &server,
            &[("Authorization", &format!("Bearer {}", API_KEYS[0]))],
            &body,
        );
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, code_expected),
            "{body}"
        );
        let sentence = answer.json()["error"]["message"]
            .as_str()
            .expect("a sentence")
            .to_owned();
        assert!(sentence.contains(hint), "{body}: {sentence}");
        assert_eq!(answer.json().as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(
            answer.header("content-type"),
            Some("application/json; charset=utf-8"),
            "R-HTTP-7"
        );
    }
    ana.expect_nothing();
    let largest = json!({"channel": "x".repeat(256), "event": "y".repeat(128)});
    assert_eq!(server.publish(largest).status, 202);
}

/// R-SRV-9, R-SRV-14, R-SRV-20, R-JSON-8
#[test]
fn a_backend_may_publish_anything_anywhere() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    for channel in ["a", "presence.none", "a/b", "日本", "hotsock.mine"] {
        if channel.starts_with("presence.") {
            assert_eq!(
                server
                    .publish(json!({"channel": channel, "event": "x"}))
                    .status,
                202
            );
            continue;
        }
        ana.subscribe(channel);
        for more in [
            json!({"emitPubSubEvent": true}),
            json!({"emitPubSubEvent": false, "store": 0, "deduplicationId": "", "unknown": [1], "meta": {"uid": "x"}}),
            json!({"emitPubSubEvent": null, "store": null, "key": "k", "data": [0]}),
        ] {
            let mut body = json!({"channel": channel, "event": "any thing", "data": [0]});
            body.as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            assert_eq!(server.publish(body).status, 202);
            let message = ana.expect("any thing");
            assert_eq!(
                message,
                json!({"id": message["id"], "event": "any thing", "channel": channel, "data": [0]})
            );
        }
    }
}

/// R-SRV-10, R-SRV-17, R-SRV-18, R-REACT-15, R-SCHED-2, R-DLV-12: a message that can't be kept or sent later as it says is
/// refused as a whole, neither lost in silence nor sent at once.
#[test]
fn what_is_refused_is_never_half_done() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    ana.subscribe("a");
    for (more, status, code_expected, hint) in [
        (
            json!({"store": 3_155_695_201_i64}),
            400,
            "INVALID_MESSAGE",
            "3155695200",
        ),
        (json!({"store": -2}), 400, "INVALID_MESSAGE", "-1"),
        (
            json!({"scheduleExpression": "rate(1 minute)"}),
            400,
            "INVALID_SCHEDULE",
            "rate",
        ),
        (
            json!({"event": "hotsock.channelStorageSet"}),
            400,
            "INVALID_KEY",
            "key",
        ),
        (
            json!({"event": "hotsock.messageReaction"}),
            400,
            "INVALID_REACTION",
            "action",
        ),
        (
            json!({"event": "hotsock.messageReaction", "data": {"messageId": "x", "reaction": "y", "action": "add"}}),
            403,
            "REACTION_USER_ID_REQUIRED",
            "uid",
        ),
        (
            json!({"event": "hotsock.channelStorageGet"}),
            400,
            "INVALID_EVENT",
            "hotsock.",
        ),
        (
            json!({"event": "hotsock.subscribe"}),
            400,
            "INVALID_EVENT",
            "hotsock.",
        ),
    ] {
        let mut body =
            json!({"channel": "a", "event": "price", "deduplicationId": "one", "data": {}});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        let answer = server.publish(body);
        assert_eq!(
            (answer.status, &*code(&answer)),
            (status, code_expected),
            "{more}"
        );
        assert!(answer.body.contains(hint), "{}", answer.body);
    }
    ana.expect_nothing();
    for metric in [
        "messages_published_total{trigger=\"server.http\"}",
        "messages_stored_total",
        "schedules_total",
    ] {
        assert_eq!(
            server.metric(&format!("realtime_{metric}")),
            0.0,
            "{metric}"
        );
    }
    // Nor has a refused message used up its deduplication id.
    server.publish(json!({"channel": "a", "event": "price", "deduplicationId": "one"}));
    ana.expect("price");
}

/// R-SRV-19
#[test]
fn messages_of_backends_and_clients_are_told_apart() {
    let server = Server::start();
    let mut ana =
        server.connect(json!({"channels": {"a": {"messages": {"*": {"broadcast": true}}}}}));
    server.publish(json!({"channel": "a", "event": "x"}));
    server.publish(json!({"channel": "a", "event": "x"}));
    ana.send(json!({"channel": "a", "event": "x"}));
    ana.settle();
    for (trigger, count) in [
        ("server.http", 2.0),
        ("client.websocket", 1.0),
        ("client.http", 0.0),
    ] {
        let name = format!("realtime_messages_published_total{{trigger=\"{trigger}\"}}");
        assert_eq!(server.metric(&name), count, "{name}");
    }
}

/// R-SRV-20, R-HTTP-5
#[test]
fn a_body_is_json_whatever_its_content_type() {
    let server = Server::start();
    let key = format!("Bearer {}", API_KEYS[0]);
    for kind in [
        "text/plain;charset=UTF-8",
        "application/json",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        let headers = [("Authorization", &*key), ("Content-Type", kind)];
        assert_eq!(post(&server, &headers, MESSAGE).status, 202, "{kind}");
        assert_eq!(
            post(&server, &headers, "channel=a&event=price").status,
            400,
            "{kind}"
        );
    }
    assert_eq!(
        post(
            &server,
            &[("Authorization", &key)],
            &format!(" \n{MESSAGE}\t")
        )
        .status,
        202
    );
}

/// R-HTTP-6, R-SRV-20, R-DIFF-20
#[test]
fn pages_may_call_and_read_answers_of_every_kind() {
    let server = Server::start();
    let origin = ("Origin", "https://app.example.com");
    let preflight = server.request(
        "OPTIONS",
        "/publish",
        &[
            origin,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization"),
        ],
        "",
    );
    assert_eq!((preflight.status, &*preflight.body), (204, ""));
    let list = |name: &str| {
        preflight
            .header(name)
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    assert_eq!(list("access-control-allow-origin"), "*");
    for method in ["post", "get"] {
        assert!(list("access-control-allow-methods").contains(method));
    }
    for header in ["authorization", "content-type"] {
        assert!(list("access-control-allow-headers").contains(header));
    }
    let key = format!("Bearer {}", API_KEYS[0]);
    let good = ("Authorization", &*key);
    for (method, path, headers, body, status) in [
        ("POST", "/publish", vec![good], MESSAGE, 202),
        ("POST", "/publish", vec![good], "[]", 400),
        ("POST", "/publish", vec![], MESSAGE, 401),
        ("GET", "/channels/a", vec![good], "", 200),
        ("GET", "/publish", vec![good], "", 405),
        ("GET", "/nothing", vec![good], "", 404),
    ] {
        for headers in [headers.clone(), [headers, vec![origin]].concat()] {
            let answer = server.request(method, path, &headers, body);
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some("*"),
                "{method} {path}"
            );
        }
    }
    // With a list of origins, only those on it.
    let server = Server::with("origins = [\"https://app.example.com\"]\n");
    for (origin, allowed) in [
        ("https://app.example.com", true),
        ("https://evil.example.com", false),
    ] {
        for answer in [
            server.request("OPTIONS", "/publish", &[("Origin", origin)], ""),
            server.request("POST", "/publish", &[("Origin", origin)], MESSAGE),
        ] {
            assert_eq!(
                answer.header("access-control-allow-origin"),
                allowed.then_some(origin)
            );
        }
    }
}

/// R-LIM-17, R-LIM-22
#[test]
fn a_body_has_256_kib_at_most() {
    let server = Server::start();
    let key = format!("Bearer {}", API_KEYS[0]);
    let padded = |bytes: usize| format!("{MESSAGE}{}", " ".repeat(bytes - MESSAGE.len()));
    let headers = [("Authorization", &*key)];
    assert_eq!(post(&server, &headers, &padded(256 * 1024)).status, 202);
    let refused = post(&server, &headers, &padded(256 * 1024 + 1));
    assert_eq!(refused.status, 413);
    assert!(!code(&refused).is_empty(), "R-ERR-10");
}

/// R-ERR-10
#[test]
fn other_methods_and_paths_are_refused_by_their_codes() {
    let server = Server::start();
    let headers = [("Authorization", &*format!("Bearer {}", API_KEYS[0]))];
    for (method, path, allow) in [
        ("GET", "/publish", "POST"),
        ("PUT", "/publish", "POST"),
        ("POST", "/channels/a", "GET, HEAD"),
        ("DELETE", "/channels/a", "GET, HEAD"),
        ("POST", "/channels/a/storage", "GET, HEAD"),
        ("DELETE", "/channels/a/messages", "GET, HEAD"),
        (
            "POST",
            "/schedules/01KA5T6Q2M8Y0V3WZ4B7C9D1EF",
            "GET, HEAD, DELETE",
        ),
        ("POST", "/info", "GET, HEAD"),
    ] {
        let answer = server.request(method, path, &headers, "");
        assert_eq!(
            (answer.status, &*code(&answer)),
            (405, "METHOD_NOT_ALLOWED"),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allow));
    }
    for path in [
        "/publish/",
        "/publishing",
        "/channels",
        "/channels/a/b",
        "/channels/a/storage/k",
        "/schedules",
        "/schedules/a/b",
        "/Publish",
        "/connection",
    ] {
        let answer = server.request("POST", path, &headers, MESSAGE);
        assert_eq!(
            (answer.status, &*code(&answer)),
            (404, "NOT_FOUND"),
            "{path}"
        );
    }
    for path in [
        "/channels/a",
        "/channels/a/storage",
        "/channels/a/messages",
        "/info",
    ] {
        let (head, get) = (server.request("HEAD", path, &headers, ""), server.get(path));
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
        if path != "/info" {
            assert_eq!(head.header("content-length"), get.header("content-length"));
        }
    }
}

/// R-SRV-26, R-SRV-27, R-SRV-28, R-SRV-29
#[test]
fn a_channel_is_described_by_its_count_and_members() {
    let server = Server::start();
    assert_eq!(
        server.get("/channels/board.1").json(),
        json!({"name": "board.1", "subscriptionsCount": 0})
    );
    let empty = json!({"name": "presence.den", "subscriptionsCount": 0, "members": []});
    assert_eq!(server.get("/channels/presence.den").json(), empty);
    let claims =
        |uid: &str| json!({"uid": uid, "umd": {"of": uid}, "channels": {"*": {"subscribe": true}}});
    let mut clients = ["ana", "ben", "ana"].map(|uid| server.connect(claims(uid)));
    for client in &mut clients {
        client.subscribe("board.1");
        client.subscribe("presence.den");
    }
    let hidden = json!({"*": {"subscribe": true, "omitFromSubCount": true}});
    let mut hidden = server.connect(json!({"uid": "hid", "channels": hidden}));
    hidden.subscribe("board.1");
    let answer = server.get("/channels/board.1");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(
        answer.json(),
        json!({"name": "board.1", "subscriptionsCount": 3})
    );
    assert_eq!(
        server.get("/channels/presence.den").json(),
        json!({"name": "presence.den", "subscriptionsCount": 3, "members": [
            {"uid": "ana", "umd": {"of": "ana"}}, {"uid": "ben", "umd": {"of": "ben"}},
        ]})
    );
    hidden.subscribe("presence.den");
    let described = server.get("/channels/presence.den").json();
    assert_eq!(described["subscriptionsCount"], 3);
    assert_eq!(described["members"][2], json!({"uid": "hid", "umd": null}));
    for client in clients {
        client.close();
    }
    hidden.close();
    support::eventually("everybody has left", || {
        (server.get("/channels/presence.den").json() == empty).then_some(())
    });
}

/// R-SRV-33, R-LIM-1, R-LIM-2, R-LIM-22
#[test]
fn a_channels_name_is_decoded_once() {
    let server = Server::start();
    let mut ana = server.connect(listener());
    for (path, name) in [
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%E6%97%A5", "日"),
        ("a+b", "a+b"),
        ("a:b", "a:b"),
        ("x%3Fy", "x?y"),
    ] {
        ana.send(json!({"event": "hotsock.subscribe", "channel": name}));
        ana.drain();
        let expected = json!({"name": name, "subscriptionsCount": 1});
        assert_eq!(server.get(&format!("/channels/{path}")).json(), expected);
        // A query is no part of it.
        assert_eq!(
            server.get(&format!("/channels/{path}?keys=k")).json(),
            expected
        );
    }
    assert_eq!(
        server.get(&format!("/channels/{}", "x".repeat(256))).status,
        200
    );
    for path in [
        "a%20b",
        "a%2A",
        "%23a",
        "a%2Cb",
        "a%0Ab",
        "",
        &"x".repeat(257),
    ] {
        let answer = server.get(&format!("/channels/{path}"));
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, "INVALID_CHANNEL"),
            "{path}"
        );
    }
    assert_eq!(server.get("/channels/%FF").status, 400);
}

/// Writes storage as a backend.
fn stored(server: &Server, channel: &str, key: &str, data: &Value) {
    let body = json!({
        "channel": channel, "event": "hotsock.channelStorageSet", "key": key, "data": data,
    });
    assert_eq!(server.publish(body).status, 202);
}

fn keys(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let page = answer.json();
    let items = page["items"].as_array().expect("items");
    let keys = items.iter().map(|item| item["key"].as_str());
    keys.map(|key| key.expect("a key").to_owned()).collect()
}

/// R-SRV-30, R-SRV-31, R-SRV-32, R-SRV-33, R-LIM-13, R-STOR-34: scenario 18.
#[test]
fn a_backend_reads_all_storage_of_a_channel() {
    let server = Server::start();
    let get = |query: &str| server.get(&format!("/channels/a%2Fb/storage{query}"));
    assert_eq!(
        (get("").status, get("").json()),
        (200, json!({"items": []}))
    );
    let mut ana = server.connect(json!({"uid": "ana", "umd": 1, "channels": {
        "a/b": {"storage": {"rules": {"set": true}}},
    }}));
    let set = json!({
        "event": "hotsock.channelStorageSet", "channel": "a/b", "key": "rules", "data": {"seats": 4},
    });
    ana.send(set);
    ana.settle();
    stored(&server, "a/b", "turn", &json!("ben"));
    stored(&server, "a/b", "gone", &json!(1));
    stored(&server, "a/b", "gone", &json!(null));
    stored(&server, "a", "other", &json!(1));
    let answer = get("");
    assert_eq!(
        answer.json(),
        json!({"items": [
            {"key": "rules", "data": {"seats": 4}, "meta": {"uid": "ana", "umd": 1}},
            {"key": "turn", "data": "ben", "meta": {"uid": null, "umd": null}},
        ]})
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    for (query, expected) in [
        ("?keys=turn", vec!["turn"]),
        ("?keys=turn,none,rules,gone,turn", vec!["rules", "turn"]),
        ("?keys=turn&after=zzz", vec!["turn"]),
        ("?keys=none", vec![]),
        ("?keys=,", vec![]),
        ("?keys=&after=", vec!["rules", "turn"]),
        ("?after=rules", vec!["turn"]),
        ("?after=s", vec!["turn"]),
        ("?after=turn", vec![]),
        ("?keys=%74urn", vec!["turn"]),
    ] {
        assert_eq!(keys(&get(query)), expected, "{query}");
    }
    let named = |count: usize| {
        let keys: Vec<String> = (0..count).map(|number| format!("k{number}")).collect();
        get(&format!("?keys={}", keys.join(",")))
    };
    assert_eq!(named(100).status, 200);
    let over = named(101);
    assert_eq!((over.status, &*over.code()), (400, "INVALID_MESSAGE"));
    let bad = server.get("/channels/a%20b/storage");
    assert_eq!((bad.status, &*bad.code()), (400, "INVALID_CHANNEL"));
}

/// R-SRV-31, R-SRV-32, R-HTTP-44: scenario 18.
#[test]
fn storage_of_250_keys_is_paged_for_a_backend() {
    let server = Server::start();
    let mut expected: Vec<String> = (0..250).map(|number| format!("k/{number} é")).collect();
    expected
        .iter_mut()
        .for_each(|key| *key = key.replace(' ', "+"));
    for key in &expected {
        stored(&server, "a", key, &json!(key));
    }
    expected.sort_unstable();
    let (mut seen, mut sizes) = (Vec::<String>::new(), Vec::new());
    while sizes.last().is_none_or(|&size| size == 100) {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(seen.last().map(|last| ("after", last)))
            .finish();
        let page = keys(&server.get(&format!("/channels/a/storage?{query}")));
        sizes.push(page.len());
        seen.extend(page);
    }
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(seen, expected);
}

/// R-DIFF-10, R-SCHED-12
#[test]
fn what_is_planned_can_be_looked_at_and_taken_back() {
    let server = Server::start();
    let at = |more: Value| {
        let mut body =
            json!({"channel": "board.1", "scheduleExpression": "at(2096-05-04T09:30:00)"});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        let answer = server.publish(body).json();
        let arn = answer["scheduleArn"].as_str().expect("an ARN").to_owned();
        arn.rsplit('/').next().expect("an id").to_owned()
    };
    let message = at(
        json!({"event": "price", "data": {"bid": 9_007_199_254_740_993_u64}, "store": 60, "emitPubSubEvent": true}),
    );
    let write = at(json!({"event": "hotsock.channelStorageSet", "key": "rules", "data": [1]}));
    let get = |id: &str| server.get(&format!("/schedules/{id}"));
    let headers = [("Authorization", &*format!("Bearer {}", API_KEYS[0]))];
    let ask =
        |method: &str, id: &str| server.request(method, &format!("/schedules/{id}"), &headers, "");
    let planned = get(&message);
    assert_eq!(planned.status, 200);
    assert!(
        planned.body.contains("9007199254740993"),
        "R-JSON-9: {}",
        planned.body
    );
    assert_eq!(
        planned.json(),
        json!({
            "id": message, "at": "2096-05-04T09:30:00Z", "channel": "board.1", "event": "price",
            "data": {"bid": 9_007_199_254_740_993_u64}, "meta": null, "store": 60, "emitPubSubEvent": true,
        })
    );
    assert_eq!(
        get(&write).json(),
        json!({
            "id": write, "at": "2096-05-04T09:30:00Z", "channel": "board.1",
            "event": "hotsock.channelStorageSet", "key": "rules", "data": [1],
            "meta": {"uid": null, "umd": null}, "store": -1, "emitPubSubEvent": false,
        })
    );
    let head = ask("HEAD", &message);
    assert_eq!((head.status, &*head.body), (200, ""));
    let cancelled = ask("DELETE", &message);
    assert_eq!((cancelled.status, &*cancelled.body), (200, "{}"));
    let beyond = format!("8{}", &write[1..]);
    for (method, id) in [
        ("GET", &*message),
        ("DELETE", &message),
        ("GET", "01KA5T6Q2M8Y0V3WZ4B7C9D1EF"),
        ("DELETE", "01KA5T6Q2M8Y0V3WZ4B7C9D1EF"),
        ("GET", "x"),
        ("DELETE", ""),
        ("DELETE", &beyond),
    ] {
        let answer = ask(method, id);
        assert_eq!(
            (answer.status, &*answer.code()),
            (404, "NOT_FOUND"),
            "{method} {id}"
        );
    }
    assert_eq!(get(&write).status, 200, "the other one stays");
}

/// R-OPS-7, R-OPS-8, R-OPS-9, R-OPS-10
#[test]
fn the_report_says_what_runs_where_and_how_much_and_no_secret() {
    let server = Server::with("region = \"here\"\n[limits]\nconnections = 9\n");
    let mut ana = server.connect(listener());
    ana.subscribe("a");
    ana.subscribe("b");
    let ben = server.connect(listener());
    let answer = server.get("/info?any=input");
    assert_eq!(answer.status, 200);
    let info = answer.json();
    for text in [
        "architecture",
        "commit",
        "os",
        "rustVersion",
        "version",
        "engine",
    ] {
        assert!(
            info[text].as_str().is_some_and(|it| !it.is_empty()),
            "{text}: {info}"
        );
    }
    assert_eq!(info.get("license"), Some(&Value::Null));
    assert_eq!(
        [
            &info["region"],
            &info["compatibility"],
            &info["engineProblem"]
        ],
        [&json!("here"), &json!("1.13.5"), &Value::Null]
    );
    assert_eq!(
        [
            &info["connections"],
            &info["subscriptions"],
            &info["channels"]
        ],
        [2, 2, 2]
    );
    assert_eq!(info["limits"]["connections"], "9");
    assert!(info["uptimeSeconds"].is_u64());
    let publish = info["outputs"]["publishUrl"].as_str();
    assert!(
        publish.is_some_and(|url| url.ends_with("/publish")),
        "{info}"
    );
    for secret in [
        API_KEYS[0],
        API_KEYS[1],
        ana.welcome["data"]["connectionSecret"]
            .as_str()
            .expect("a secret"),
    ] {
        assert!(!answer.body.contains(secret));
    }
    ben.close();
    ana.close();
    server.await_metric("realtime_connections", 0.0);
    assert_eq!(server.get("/info").json()["subscriptions"], 0);
    assert_eq!(server.request("GET", "/info", &[], "").status, 401);
}
