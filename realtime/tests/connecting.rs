//! Connecting: who gets in, what a client is told, how connections end, and what the HTTP side of the listeners does.

mod support;

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use flate2::read::DeflateDecoder;
use serde_json::{Value, json};
use support::{API_KEYS, Client, PATIENCE, Server, libc_signal, now, token};
use tungstenite::Message;

/// A connection of which every byte is ours.
struct Raw<S: Read> {
    stream: BufReader<S>,
}

impl Raw<TcpStream> {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("an option");
        Raw::over(stream)
    }
}

impl<S: Read> Raw<S> {
    fn over(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>)
    where
        S: Write,
    {
        let stream = self.stream.get_mut();
        stream.write_all(bytes.as_ref()).expect("it is connected");
    }

    /// The head of an answer, in lower case.
    fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = self.stream.read_line(&mut head).expect("a head");
            assert_ne!(count, 0, "it ended: {head:?}");
        }
        let status = head.split(' ').nth(1).expect("a status line");
        (status.parse().expect("a status"), head.to_ascii_lowercase())
    }

    /// An answer: status, head, body.
    fn answer(&mut self) -> (u16, String, String) {
        let (status, head) = self.head();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
        self.stream.read_exact(&mut body).expect("the body");
        (status, head, String::from_utf8(body).expect("text"))
    }

    /// A frame: its first byte and its payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut byte = || {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a frame");
            byte[0]
        };
        let (first, short) = (byte(), byte());
        let length = match short {
            126 => u64::from(byte()) << 8 | u64::from(byte()),
            127 => (0..8).fold(0, |length, _| length << 8 | u64::from(byte())),
            short => short.into(),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).expect("a payload");
        (first, payload)
    }

    fn message(&mut self) -> Value {
        let (first, payload) = self.frame();
        assert_eq!(first, 0x81, "R-JSON-1: one text frame");
        serde_json::from_slice(&payload).expect("JSON")
    }

    fn close_code(&mut self) -> u16 {
        loop {
            let (first, payload) = self.frame();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    /// Reads up to the end, and gives what came before it.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("it did not end: {error}"),
        }
        rest
    }
}

fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A frame as clients send it; `first` is FIN and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 8, 9, 10];
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

fn text(message: &Value) -> Vec<u8> {
    frame(0x81, message.to_string().as_bytes())
}

fn ping() -> Value {
    json!({"event": "hotsock.ping"})
}

/// Claims for everything on every channel.
fn all(uid: &str) -> Value {
    json!({"uid": uid, "channels": {"*": {
        "subscribe": true, "messages": {"*": {"publish": true, "echo": true}}
    }}})
}

fn upgraded(server: &Server, claims: Value, more: &str) -> Raw<TcpStream> {
    let mut raw = Raw::connect(server);
    raw.send(handshake(&format!("/v1?token={}", token(claims)), more));
    assert_eq!(raw.head().0, 101);
    raw
}

// What a client is told

/// R-CONN-10: it asks for nothing more, and waits no longer than the client does.
#[test]
fn the_welcome_follows_the_handshake_by_itself() {
    let server = Server::start();
    let mut raw = upgraded(&server, json!({}), "");
    let five = Duration::from_secs(5);
    raw.stream
        .get_ref()
        .set_read_timeout(Some(five))
        .expect("a time-out");
    assert_eq!(raw.message()["event"], "hotsock.connected");
}

/// R-CONN-1, R-CONN-8, R-CONN-9, R-CONN-16, R-JSON-1, R-JSON-4
#[test]
fn a_client_is_welcomed_with_its_names_and_who_it_is() {
    let server = Server::start();
    let ana = server.connect(json!({"uid": "ana", "umd": {"role": "host"}}));
    let data = &ana.welcome["data"];
    assert_eq!(
        ana.welcome,
        json!({
            "event": "hotsock.connected",
            "data": {
                "connectionId": data["connectionId"],
                "connectionExpiresAt": null,
                "connectionSecret": data["connectionSecret"],
            },
            "meta": {"uid": "ana", "umd": {"role": "host"}},
        })
    );
    let nobody = server.connect(json!({}));
    assert_eq!(nobody.welcome["meta"], json!({"uid": null, "umd": null}));
}

/// R-CONN-11, R-CONN-12, R-CONN-13
#[test]
fn every_connection_has_a_name_and_a_secret_of_its_own() {
    let server = Server::start();
    let clients: Vec<_> = (0..20).map(|_| server.connect(all("ana"))).collect();
    let mut seen = std::collections::HashSet::new();
    for client in &clients {
        let id = client.id();
        let body = id.strip_suffix('=').expect("R-CONN-12: padded");
        assert_eq!(id.len(), 16);
        assert!(
            body.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
            "{id}"
        );
        let secret = client.welcome["data"]["connectionSecret"].as_str();
        let secret = secret.expect("text");
        assert!(secret.len() == 20 && secret.chars().all(|c| c.is_ascii_alphanumeric()));
        assert!(seen.insert(id.to_owned()) && seen.insert(secret.to_owned()));
    }
}

/// R-CONN-14, R-CONN-15, R-DIFF-1, R-JSON-5
#[test]
fn the_end_of_a_connection_is_announced_if_it_has_one() {
    let unlimited = Server::start().connect(json!({})).welcome;
    assert_eq!(unlimited["data"]["connectionExpiresAt"], Value::Null);
    let server = Server::with("[limits]\nduration = \"2h\"");
    let before = now();
    let welcome = server.connect(json!({})).welcome;
    let expires = welcome["data"]["connectionExpiresAt"]
        .as_str()
        .expect("a date");
    assert!(
        expires.len() == 20 && expires.ends_with('Z'),
        "seconds, UTC: {expires}"
    );
    let expires: jiff::Timestamp = expires.parse().expect("RFC 3339");
    let wanted = before as i64 + 7200..=now() as i64 + 7200;
    assert!(
        wanted.contains(&expires.as_second()),
        "{expires} {wanted:?}"
    );
}

/// R-CONN-2, R-DIFF-5
#[test]
fn a_socket_opens_wherever_clients_look_for_it() {
    let server = Server::start();
    let token = token(json!({}));
    for path in ["/", "/v1", "/v1/"] {
        let connected = Client::connect_to(&server, &format!("{path}?token={token}"));
        assert!(connected.is_ok(), "{path}");
    }
    for path in ["/v2", "/v1/x", "/health"] {
        let status = Client::connect_to(&server, &format!("{path}?token={token}")).err();
        assert_ne!(status, None, "{path}");
    }
    assert_eq!(server.get("/health").status, 200, "HTTP has the same door");
}

/// R-CONN-3
#[test]
fn no_subprotocol_is_needed_or_chosen() {
    let server = Server::start();
    for more in ["", "Sec-WebSocket-Protocol: hotsock, other\r\n"] {
        let mut raw = Raw::connect(&server);
        raw.send(handshake(&format!("/v1?token={}", token(json!({}))), more));
        let (status, head) = raw.head();
        assert_eq!(status, 101);
        assert!(!head.contains("sec-websocket-protocol"), "{head}");
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
    }
}

// Who gets in

/// R-CONN-6, R-CONN-31
#[test]
fn an_unusable_token_is_refused_before_the_upgrade_and_leaves_nothing_behind() {
    let server = Server::start();
    let good = token(json!({}));
    let (body, _) = good.rsplit_once('.').expect("three parts");
    let forged = realtime::auth::mint_hs256(
        b"another secret",
        &json!({"exp": now() + 60, "scope": "connect"}),
    );
    let refused = [
        ("nothing", String::new()),
        ("no token", "abc".to_owned()),
        ("no signature", format!("{body}.")),
        ("a foreign signature", forged),
        ("expired", token(json!({"exp": now() - 10}))),
        ("not yet valid", token(json!({"nbf": now() + 1000}))),
        (
            "an invalid claim",
            token(json!({"uid": "x".repeat(129), "channels": 7})),
        ),
    ];
    for (why, token) in &refused {
        assert_eq!(server.refusal(token), 401, "{why}");
    }
    assert_eq!(
        server.request("GET", "/v1", &[], "").status,
        426,
        "without an upgrade there is nothing to refuse"
    );
    assert_eq!(server.metric("realtime_connections_opened_total"), 0.0);
    assert_eq!(
        server.metric("realtime_handshakes_refused_total{cause=\"token\"}"),
        refused.len() as f64
    );
}

/// R-CONN-4, R-CONN-5, R-CONN-7, R-CONN-31
#[test]
fn a_good_token_that_is_not_for_connecting_is_forbidden() {
    let server = Server::start();
    let spent = token(json!({"singleUse": true, "jti": "once"}));
    Client::connect(&server, &spent).expect("its first use");
    let forbidden = [
        ("no scope connect", token(json!({"scope": "subscribe"}))),
        (
            "a connectionId",
            token(json!({"connectionId": "Zt4Qw8LmPoAxBC0="})),
        ),
        ("spent", spent),
    ];
    for (why, token) in forbidden {
        assert_eq!(server.refusal(&token), 403, "{why}");
    }
    assert_eq!(server.metric("realtime_connections_opened_total"), 1.0);
}

/// R-ERR-2, R-ERR-10
#[test]
fn a_refusal_has_a_code_and_a_sentence_and_repeats_nothing() {
    let server = Server::start();
    let mut raw = Raw::connect(&server);
    raw.send(handshake(
        &format!("/v1?token={}", token(json!({"scope": "umd"}))),
        "",
    ));
    let (status, head, body) = raw.answer();
    assert_eq!(status, 403);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON"),
        json!({"error": {"code": "UNAUTHORIZED", "message": "the token does not permit to connect"}})
    );
}

/// R-CONN-17: waits until the token has expired, which a second connect shows.
#[test]
fn permissions_last_as_long_as_the_connection_not_the_token() {
    let server = Server::start();
    let mut claims = all("ana");
    claims["exp"] = json!(now() + 4);
    let short = token(claims);
    let mut client = Client::connect(&server, &short).expect("still good");
    let begun = Instant::now();
    while server.refusal(&short) == 101 {
        assert!(begun.elapsed() < PATIENCE, "it never expires");
        std::thread::sleep(Duration::from_millis(50));
    }
    client.subscribe("orders");
    client.send(json!({"event": "paid", "channel": "orders", "data": 1}));
    assert_eq!(client.expect("paid")["data"], 1);
}

/// R-CONN-26
#[test]
fn one_user_may_connect_any_number_of_times() {
    let server = Server::start();
    let mut clients: Vec<_> = (0..30).map(|_| server.connect(all("ana"))).collect();
    for client in &mut clients {
        client.subscribe("orders");
    }
    server.publish(json!({"channel": "orders", "event": "paid", "data": 1}));
    for client in &mut clients {
        client.expect("paid");
    }
}

/// R-LIM-20
#[test]
fn a_long_token_fits_into_the_url() {
    let server = Server::start();
    let long = token(json!({"uid": "ana", "more": "x".repeat(12_000)}));
    assert_eq!(server.refusal(&long), 101);
}

/// R-DIFF-18, R-LIM-21
#[test]
fn a_full_server_says_so_at_the_handshake_and_has_room_again_when_somebody_leaves() {
    let server = Server::with("[limits]\nconnections = 2");
    let one = server.connect(json!({}));
    let _two = server.connect(json!({}));
    let mut raw = Raw::connect(&server);
    raw.send(handshake(&format!("/v1?token={}", token(json!({}))), ""));
    let (status, _, body) = raw.answer();
    assert_eq!(status, 429);
    assert!(body.contains("\"RATE_LIMITED\""), "{body}");
    one.close();
    server.await_metric("realtime_connections", 1.0);
    server.connect(json!({}));
}

/// R-DIFF-18: of 2 in a second and tries until one is refused, in bursts of more than that.
#[test]
fn the_rate_of_new_connections_is_capped() {
    let server = Server::with("[limits]\nconnections_per_second = 2");
    let token = token(json!({}));
    let begun = Instant::now();
    loop {
        assert!(
            begun.elapsed() < PATIENCE,
            "never refused, or this machine opens two in a second"
        );
        // Whatever the token; where it is looked at, the next second has begun in between.
        if server.refusal(&token) == 429 && server.refusal("abc") == 429 {
            break;
        }
    }
    while server.refusal(&token) != 101 {
        assert!(begun.elapsed() < PATIENCE, "a second does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// R-DIFF-18: what comes in one read came in one moment.
#[test]
fn messages_above_the_cap_are_answered_each_and_heartbeats_are_not_lost() {
    let server = Server::with("[limits]\nmessages_per_second = 3");
    let mut raw = upgraded(&server, all("ana"), "");
    raw.message();
    let mut burst: Vec<_> = (0..3).flat_map(|_| text(&ping())).collect();
    burst.extend(text(
        &json!({"event": "hotsock.subscribe", "channel": "orders"}),
    ));
    burst.extend(text(&json!({"event": "hotsock.heartbeat"})));
    burst.extend(text(&ping()));
    raw.send(burst);
    for _ in 0..3 {
        assert_eq!(raw.message()["event"], "hotsock.pong");
    }
    let limited = raw.message();
    assert_eq!(limited["error"]["code"], "RATE_LIMITED");
    assert_eq!(limited["channel"], "orders", "R-ERR-3");
    let limited = raw.message();
    assert_eq!(limited["error"]["code"], "RATE_LIMITED");
    assert_eq!(limited.get("channel"), None);
    // The cap is for a second, not for ever.
    let begun = Instant::now();
    loop {
        raw.send(text(&ping()));
        if raw.message()["event"] == "hotsock.pong" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(400));
    }
}

/// R-DIFF-20
#[test]
fn pages_of_other_origins_are_kept_out_when_a_list_is_configured() {
    let open = Server::start();
    let path = format!("/v1?token={}", token(json!({})));
    let from = |server: &Server, origin: &str| {
        Client::open(server, &path, &[("origin", origin)]).map_or_else(|status| status, |_| 101)
    };
    assert_eq!(from(&open, "https://anywhere.example"), 101);
    let listed = Server::with("origins = [\"https://app.example.com\"]");
    assert_eq!(from(&listed, "https://app.example.com"), 101);
    assert_eq!(from(&listed, "https://evil.example.com"), 403);
    listed.connect(json!({})).settle();
    let cors = |origin| {
        let answer = listed.request("GET", "/health", &[("Origin", origin)], "");
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    let allowed = "https://app.example.com";
    assert_eq!(cors(allowed).as_deref(), Some(allowed));
    assert_eq!(cors("https://evil.example.com"), None);
}

/// R-CFG-5
#[test]
fn forwarded_addresses_are_believed_from_configured_proxies_only() {
    let source = |settings: &str, forwarded: &str| {
        let server = Server::with(settings);
        let path = format!("/v1?token={}", token(json!({})));
        Client::open(&server, &path, &[("x-forwarded-for", forwarded)]).expect("it is let in");
        let record = server.logged(|record| record["message"] == "connected");
        record["source_ip"].as_str().expect("text").to_owned()
    };
    assert_eq!(source("", "203.0.113.9"), "127.0.0.1");
    let trusting = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";
    assert_eq!(source(trusting, "203.0.113.9"), "203.0.113.9");
    assert_eq!(
        source(trusting, "192.0.2.1, 203.0.113.9, 10.1.2.3"),
        "203.0.113.9",
        "what the client made up is not reached"
    );
}

// Messages

/// R-CONN-21, R-CONN-22
#[test]
fn messages_that_come_with_the_handshake_are_answered_after_the_welcome_in_order() {
    let server = Server::start();
    let mut all_at_once = handshake(&format!("/v1?token={}", token(all("ana"))), "").into_bytes();
    all_at_once.extend(text(
        &json!({"event": "hotsock.subscribe", "channel": "orders"}),
    ));
    all_at_once.extend(text(
        &json!({"event": "paid", "channel": "orders", "data": 1}),
    ));
    all_at_once.extend(text(&ping()));
    let wanted = [
        "hotsock.connected",
        "hotsock.subscribed",
        "paid",
        "hotsock.pong",
    ];
    // In one segment, in two, and byte by byte.
    for cut in [all_at_once.len(), all_at_once.len() - 40, 1] {
        let mut raw = Raw::connect(&server);
        for part in all_at_once.chunks(cut) {
            raw.send(part);
        }
        assert_eq!(raw.head().0, 101);
        assert_eq!(
            wanted.map(|_| raw.message()["event"].as_str().expect("text").to_owned()),
            wanted
        );
    }
}

/// R-CONN-22, R-DIFF-15: 500 messages in few reads, each of which depends on the one before.
#[test]
fn messages_are_processed_in_the_order_in_which_they_came() {
    let server = Server::start();
    let mut raw = upgraded(&server, all("ana"), "");
    raw.message();
    let mut bytes = Vec::new();
    for n in 0..100 {
        let channel = format!("c{n}");
        bytes.extend(text(
            &json!({"event": "hotsock.subscribe", "channel": channel}),
        ));
        bytes.extend(text(
            &json!({"event": "n", "channel": channel, "data": "x".repeat(1000)}),
        ));
        bytes.extend(text(
            &json!({"event": "hotsock.unsubscribe", "channel": channel}),
        ));
        bytes.extend(text(&json!({"event": "n", "channel": channel})));
        bytes.extend(text(&ping()));
    }
    raw.send(bytes);
    for n in 0..100 {
        let channel = format!("c{n}");
        for event in ["hotsock.subscribed", "n", "hotsock.unsubscribed"] {
            let message = raw.message();
            assert_eq!(
                (&message["event"], &message["channel"]),
                (&json!(event), &json!(channel))
            );
        }
        assert_eq!(raw.message()["error"]["code"], "NOT_SUBSCRIBED");
        assert_eq!(raw.message()["event"], "hotsock.pong");
    }
}

/// R-CONN-29, R-LIM-16
#[test]
fn a_binary_or_oversized_message_closes_the_connection() {
    let server = Server::start();
    let mut client = server.connect(json!({}));
    client.send_message(Message::binary(vec![1, 2, 3]));
    assert_eq!(client.closed().0, 1003);

    let most = 128 << 10;
    let padded = |size: usize| {
        let mut text = ping().to_string();
        text.push_str(&" ".repeat(size - text.len()));
        text
    };
    let mut client = server.connect(json!({}));
    client.send_text(&padded(most));
    client.expect("hotsock.pong");
    client.send_text(&padded(most + 1));
    assert_eq!(client.closed().0, 1009);

    let mut raw = upgraded(&server, json!({}), "");
    let whole = padded(most + 1);
    let mut fragments = whole.as_bytes().chunks(1 << 12).enumerate();
    let first = fragments.next().expect("a fragment").1;
    raw.send(frame(0x01, first));
    for (_, fragment) in fragments {
        // The server closes with the fragment that is too much; what follows may find no reader.
        let _ = raw.stream.get_mut().write_all(&frame(0x00, fragment));
    }
    assert_eq!(raw.close_code(), 1009);

    let small = Server::with("[limits]\ninbound_message = \"1KiB\"");
    let mut client = small.connect(json!({}));
    client.send_text(&padded(1024));
    client.expect("hotsock.pong");
    client.send_text(&padded(1025));
    assert_eq!(client.closed().0, 1009);
}

#[test]
fn frames_that_break_the_websocket_protocol_close_with_its_codes() {
    let server = Server::start();
    let broken: [(&str, Vec<u8>, u16); 6] = [
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", frame(0xc1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xff\xff"), 1007),
        (
            "a close code that does not exist",
            frame(0x88, &[0, 1]),
            1002,
        ),
    ];
    for (what, bytes, code) in broken {
        let mut raw = upgraded(&server, json!({}), "");
        raw.send(bytes);
        assert_eq!(raw.close_code(), code, "{what}");
        assert_eq!(raw.rest(), b"", "{what}: nothing after the close frame");
    }
    server.await_metric("realtime_connections", 0.0);
}

#[test]
fn nothing_is_answered_after_a_close_frame() {
    let server = Server::start();
    let mut raw = upgraded(&server, json!({}), "");
    raw.message();
    let mut bytes = frame(0x88, &1000u16.to_be_bytes());
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(text(&ping()));
    raw.send(bytes);
    assert_eq!(raw.frame(), (0x88, 1000u16.to_be_bytes().to_vec()));
    assert_eq!(raw.rest(), b"");
}

/// R-CONN-32
#[test]
fn messages_are_compressed_only_when_the_client_offers_it_and_the_server_may() {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let plain = Server::start();
    let path = format!("/v1?token={}", token(all("ana")));
    let (on, off) = (Server::with("compression = true"), &plain);
    for (server, more) in [(off, offer), (&on, "")] {
        let mut raw = Raw::connect(server);
        raw.send(handshake(&path, more));
        let (status, head) = raw.head();
        assert_eq!(status, 101);
        assert!(!head.contains("extensions"), "{head}");
    }
    let mut raw = Raw::connect(&on);
    raw.send(handshake(&path, offer));
    let (_, head) = raw.head();
    assert!(head.contains("permessage-deflate"), "{head}");
    raw.frame();
    raw.send(text(
        &json!({"event": "hotsock.subscribe", "channel": "orders"}),
    ));
    raw.frame();
    let data = "all the same ".repeat(500);
    on.publish(json!({"channel": "orders", "event": "paid", "data": data}));
    let (first, mut payload) = raw.frame();
    assert_eq!(first, 0xc1, "compressed");
    assert!(payload.len() < data.len() / 4);
    payload.extend([0, 0, 0xff, 0xff]);
    let mut inflated = vec![0; data.len()];
    DeflateDecoder::new(&*payload)
        .read_exact(&mut inflated)
        .expect("deflate");
    assert!(String::from_utf8_lossy(&inflated).contains(&data[..1000]));
}

// Errors and values

/// R-ERR-1, R-ERR-3, R-ERR-5, R-ERR-6, R-ERR-7, R-ERR-8
#[test]
fn every_refused_message_is_answered_and_the_connection_stays() {
    let server = Server::start();
    let mut client = server.connect(all("ana"));
    let refused = [
        ("", "INVALID_MESSAGE", None),
        ("not json", "INVALID_MESSAGE", None),
        ("[]", "INVALID_MESSAGE", None),
        ("{}", "INVALID_MESSAGE", None),
        (r#"{"event":""}"#, "INVALID_MESSAGE", None),
        (r#"{"event":null}"#, "INVALID_MESSAGE", None),
        (r#"{"event":["a"]}"#, "INVALID_MESSAGE", None),
        (r#"{"event":"hotsock.other"}"#, "INVALID_EVENT", None),
        (
            r#"{"event":"hotsock.connected","channel":"c"}"#,
            "INVALID_EVENT",
            Some("c"),
        ),
        (r#"{"event":"paid"}"#, "INVALID_CHANNEL", None),
        (
            r#"{"event":"hotsock.unsubscribe","channel":"c"}"#,
            "NOT_SUBSCRIBED",
            Some("c"),
        ),
        (
            r#"{"event":"paid","channel":"c"}"#,
            "NOT_SUBSCRIBED",
            Some("c"),
        ),
    ];
    for (text, code, channel) in refused {
        client.send_text(text);
        let error = client.expect_error(code);
        assert_eq!(error["channel"].as_str(), channel, "{text}: {error}");
        let message = error["error"]["message"].as_str().expect("a sentence");
        assert!(!message.is_empty(), "{text}");
        assert_eq!(error.get("data"), None, "{text}: {error}");
    }
    client.expect_nothing();
}

/// R-ERR-11: the fixed codes and nothing else are said about these.
#[test]
fn the_codes_that_clients_act_on_mean_what_they_should() {
    let server = Server::start();
    let mut client = server.connect(json!({"channels": {"mine": {"subscribe": true}}}));
    client.subscribe("mine");
    let subscribe = |channel: &str| json!({"event": "hotsock.subscribe", "channel": channel});
    client.send(subscribe("mine"));
    client.expect_error("ALREADY_SUBSCRIBED");
    client.send(subscribe("other"));
    client.expect_error("SUBSCRIBE_PERMISSION_DENIED");
    client.send(subscribe("presence.room"));
    client.expect_error("SUBSCRIBE_PERMISSION_DENIED");
    let mut with_token = subscribe("other");
    with_token["data"] = json!({"token": "abc"});
    client.send(with_token);
    client.expect_error("INVALID_SUBSCRIBE_TOKEN");
    client.send(json!({"event": "hotsock.unsubscribe", "channel": "other"}));
    client.expect_error("NOT_SUBSCRIBED");
    let mut nobody = server.connect(json!({"channels": {"presence.room": {"subscribe": true}}}));
    nobody.send(subscribe("presence.room"));
    nobody.expect_error("PRESENCE_CHANNEL_USER_ID_REQUIRED");
}

/// R-ERR-4, R-JSON-3
#[test]
fn an_error_names_the_channel_as_the_client_did_and_messages_by_its_real_name() {
    let server = Server::start();
    let mut client = server.connect(json!({"channels": {"orders.42": {
        "alias": "orders", "subscribe": true, "messages": {"paid": {"publish": true, "echo": true}}
    }}}));
    client.send(json!({"event": "paid", "channel": "orders"}));
    assert_eq!(client.expect_error("NOT_SUBSCRIBED")["channel"], "orders");
    client.send(json!({"event": "hotsock.subscribe", "channel": "orders"}));
    assert_eq!(client.expect("hotsock.subscribed")["channel"], "orders.42");
    client.send(json!({"event": "hotsock.subscribe", "channel": "orders"}));
    assert_eq!(
        client.expect_error("ALREADY_SUBSCRIBED")["channel"],
        "orders.42"
    );
    client.send(json!({"event": "paid", "channel": "orders"}));
    assert_eq!(client.expect("paid")["channel"], "orders.42");
}

/// R-ERR-9: without `echo` a publish is answered with nothing.
#[test]
fn what_succeeds_is_not_acknowledged() {
    let server = Server::start();
    let mut client = server.connect(json!({"channels": {"orders": {
        "subscribe": true, "messages": {"paid": {"publish": true, "echo": false}}
    }}}));
    client.subscribe("orders");
    client.send(json!({"event": "paid", "channel": "orders"}));
    client.expect_nothing();
}

/// R-ERR-2: not of a token that is refused inside a connection, either.
#[test]
fn errors_repeat_no_token() {
    let server = Server::start();
    let mut client = server.connect(json!({}));
    let forged = realtime::auth::mint_hs256(b"wrong", &json!({"uid": "spy", "scope": "subscribe"}));
    client.send(json!({
        "event": "hotsock.subscribe", "channel": "c", "data": {"token": forged}
    }));
    let error = client.expect_error("INVALID_SUBSCRIBE_TOKEN").to_string();
    assert!(
        !error.contains(&forged) && !error.contains("spy"),
        "{error}"
    );
}

/// R-JSON-2, R-JSON-8, R-JSON-10
#[test]
fn messages_are_read_as_json_values() {
    let server = Server::start();
    let mut client = server.connect(all("ana"));
    client.send_text(r#" {"\u0065vent" : "hotsock.p\u0069ng", "unknown": {"a": [1]}} "#);
    client.expect("hotsock.pong");
    client.send_text(r#"{"channel":"stra\u00dfe","more":null,"event":"hotsock.subscribe"}"#);
    assert_eq!(client.expect("hotsock.subscribed")["channel"], "straße");
    client.send_text(r#"{"event":["hotsock.ping"]}"#);
    let error = client.expect_error("INVALID_MESSAGE");
    let sentence = error["error"]["message"].as_str().expect("text");
    assert!(
        sentence.contains("event") && sentence.contains("string"),
        "{sentence}"
    );
    assert!(!sentence.contains("::"), "no internal types: {sentence}");
}

/// R-JSON-6, R-JSON-7, R-JSON-9
#[test]
fn data_keeps_its_digits_and_is_measured_compact() {
    let server = Server::start();
    let mut client = server.connect(all("ana"));
    // 256 characters, 512 bytes.
    let channel = "ß".repeat(256);
    client.subscribe(&channel);
    let digits = "[9007199254740993,1.0,1e400,-0]";
    client.send_text(&format!(
        r#"{{"event":"n","channel":"{channel}","data":{digits}}}"#
    ));
    let mut raw = upgraded(&server, all("bea"), "");
    raw.message();
    raw.send(text(
        &json!({"event": "hotsock.subscribe", "channel": "raw"}),
    ));
    raw.message();
    // 32 KiB when compact, more as it comes.
    let most = format!("\"{}\"", "x".repeat(32 * 1024 - 2));
    for data in [digits, &format!("[ {digits} ]"), &format!(" {most} ")] {
        let message = format!(r#"{{"event":"n","channel":"raw","data":{data}}}"#);
        raw.send(frame(0x81, message.as_bytes()));
        let (_, payload) = raw.frame();
        let payload = String::from_utf8(payload).expect("UTF-8");
        let compact = data.replace(' ', "");
        assert!(
            payload.contains(&format!("\"data\":{compact}")),
            "{payload}"
        );
    }
    let message = format!(r#"{{"event":"n","channel":"raw","data":[{most}]}}"#);
    raw.send(frame(0x81, message.as_bytes()));
    assert_eq!(raw.message()["error"]["code"], "DATA_TOO_LARGE");
}

// How connections end

/// R-CONN-23, R-CONN-24, R-CONN-25: with and without a close frame, by FIN and by reset.
#[test]
fn however_a_connection_ends_its_subscriptions_end_too() {
    let server = Server::start();
    let room = |uid: &str| json!({"uid": uid, "channels": {"presence.room": {"subscribe": true}}});
    let mut observer = server.connect(room("observer"));
    observer.subscribe("presence.room");
    type Ends = (&'static str, fn(Client));
    let ends: [Ends; 5] = [
        ("a close without a code", Client::close),
        ("a reset", Client::vanish),
        ("nothing but the end of the stream", drop),
        ("the end of one side", |mut client| {
            client.stream().shutdown(Shutdown::Write).expect("open");
            let mut rest = Vec::new();
            client.stream().read_to_end(&mut rest).expect("it ends");
        }),
        ("half a frame", |mut client| {
            client.stream().write_all(&[0x81, 0xfe, 1]).expect("open");
        }),
    ];
    for (how, end) in ends {
        let mut client = server.connect(room("ana"));
        client.subscribe("presence.room");
        assert_eq!(
            observer.expect("hotsock.memberAdded")["data"]["member"]["uid"],
            "ana"
        );
        end(client);
        let removed = observer.expect("hotsock.memberRemoved");
        assert_eq!(removed["data"]["member"]["uid"], "ana", "{how}");
        server.await_metric("realtime_connections", 1.0);
    }
}

/// R-CONN-24, R-CONN-27: the close is answered with the code it had, and coming back works at once.
#[test]
fn a_close_is_answered_with_its_code_and_the_client_may_come_back_at_once() {
    let server = Server::start();
    for (payload, answer) in [
        (vec![], 1000),
        (1000u16.to_be_bytes().to_vec(), 1000),
        (4321u16.to_be_bytes().to_vec(), 4321),
    ] {
        let mut raw = upgraded(&server, all("ana"), "");
        raw.message();
        raw.send(frame(0x88, &payload));
        assert_eq!(raw.close_code(), answer);
        assert_eq!(raw.rest(), b"");
    }
    server.await_metric("realtime_connections", 0.0);
}

/// R-CONN-28
#[test]
fn subscriptions_do_not_survive_their_connection() {
    let server = Server::start();
    let mut first = server.connect(all("ana"));
    first.subscribe("orders");
    first.close();
    let mut second = server.connect(all("ana"));
    server.publish(json!({"channel": "orders", "event": "paid", "data": 1}));
    second.expect_nothing();
    second.subscribe("orders");
    server.publish(json!({"channel": "orders", "event": "paid", "data": 2}));
    assert_eq!(second.expect("paid")["data"], 2);
}

#[test]
fn a_connection_that_takes_no_bytes_is_closed_as_a_slow_consumer() {
    let server = Server::with(
        "[limits]\nwrite_stall = \"200ms\"\noutbound_bytes = \"256MiB\"\nidle = \"off\"",
    );
    let mut client = server.connect(all("ana"));
    client.subscribe("orders");
    let data = "x".repeat(32_000);
    let begun = Instant::now();
    while server.metric("realtime_slow_consumer_closes_total") == 0.0 {
        assert!(begun.elapsed() < PATIENCE, "it is never closed");
        for _ in 0..20 {
            server.publish(json!({"channel": "orders", "event": "n", "data": data}));
        }
    }
    server.await_metric("realtime_connections", 0.0);
}

/// R-LOG-12
#[test]
fn what_waits_for_connections_is_shown_by_the_metrics() {
    let server = Server::with("[limits]\noutbound_bytes = \"256MiB\"");
    let mut client = server.connect(all("ana"));
    client.subscribe("orders");
    let data = "x".repeat(32_000);
    let begun = Instant::now();
    while server.metric("realtime_outbox_bytes") < 100_000.0 {
        assert!(begun.elapsed() < PATIENCE, "nothing waits");
        for _ in 0..20 {
            server.publish(json!({"channel": "orders", "event": "n", "data": data}));
        }
    }
    assert!(server.metric("realtime_outbox_messages") >= 4.0);
    client.vanish();
    server.await_metric("realtime_outbox_bytes", 0.0);
    server.await_metric("realtime_outbox_messages", 0.0);
}

/// R-DLV-11: what came for a client while the server had other things to do is written before the client is blamed. The
/// server is stopped meanwhile, so that everything is there at once.
#[test]
fn a_client_that_reads_is_no_slow_consumer_however_much_comes_at_once() {
    let server = Server::with("[limits]\noutbound_bytes = \"256KiB\"");
    let mut reader = upgraded(&server, all("ana"), "");
    reader.send(text(
        &json!({"event": "hotsock.subscribe", "channel": "orders"}),
    ));
    let events = [reader.message(), reader.message()];
    assert_eq!(events[1]["event"], "hotsock.subscribed");
    let silent =
        json!({"channels": {"orders": {"messages": {"*": {"publish": true, "broadcast": true}}}}});
    let mut writers: Vec<_> = (0..12)
        .map(|_| upgraded(&server, silent.clone(), ""))
        .collect();
    let burst = text(&json!({"event": "n", "channel": "orders", "data": "x".repeat(1000)}));
    let burst = burst.repeat(30);
    server.signal(libc_signal::Signal::STOP);
    for writer in &mut writers {
        writer.send(&burst);
    }
    server.signal(libc_signal::Signal::CONT);
    for _ in 0..12 * 30 {
        assert_eq!(reader.message()["event"], "n");
    }
    assert_eq!(server.metric("realtime_slow_consumer_closes_total"), 0.0);
}

/// The answers to pings are bounded like all that waits for a client.
#[test]
fn a_client_that_pings_and_reads_nothing_is_closed_as_a_slow_consumer() {
    let server = Server::with("[limits]\noutbound_bytes = \"256KiB\"");
    let mut raw = upgraded(&server, json!({}), "");
    let stream = raw.stream.get_mut();
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .expect("a time-out");
    let pings: Vec<_> = (0..500).flat_map(|_| frame(0x89, &[b'x'; 125])).collect();
    let begun = Instant::now();
    while server.metric("realtime_slow_consumer_closes_total") == 0.0 {
        assert!(begun.elapsed() < PATIENCE, "it is never closed");
        for _ in 0..20 {
            let _ = stream.write(&pings);
        }
    }
}

// Shutdown and reload

/// R-CONN-30
#[test]
fn a_server_that_ends_delivers_what_waits_and_closes_everybody_with_1012() {
    let mut server = Server::with("shutdown_spread = \"200ms\"");
    let mut clients: Vec<_> = (0..10).map(|_| server.connect(all("ana"))).collect();
    for client in &mut clients {
        client.subscribe("orders");
    }
    for n in 0..20 {
        server.publish(json!({"channel": "orders", "event": "n", "data": n}));
    }
    server.signal(libc_signal::TERM);
    for client in &mut clients {
        for n in 0..20 {
            assert_eq!(client.expect("n")["data"], n);
        }
        assert_eq!(client.closed(), (1012, "Service restart".to_owned()));
    }
    drop(clients);
    assert!(server.ended().success());
}

/// R-CONN-30, R-DIFF-16, R-OPS-12: a spread of an hour, until a second signal. Signals after that change nothing.
#[test]
fn while_it_drains_a_server_serves_on_but_is_not_ready_and_a_second_signal_hurries_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let operations = dir.path().join("operations.sock");
    let settings = format!(
        "operations = [\"unix:{}\"]\nshutdown_spread = \"1h\"",
        operations.display()
    );
    let mut server = Server::launch_in(dir, &settings, &[]);
    let healthz = || {
        let mut stream = support::unix(&operations);
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        support::Answer::read(stream).status
    };
    assert_eq!(healthz(), 200);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect(all("ana"))).collect();
    for client in &mut clients {
        client.subscribe("orders");
    }
    // A request that has begun before is answered, and may not become a connection.
    let mut begun = Raw::connect(&server);
    let late = handshake(&format!("/v1?token={}", token(json!({}))), "");
    let (head, tail) = late.split_at(40);
    begun.send(head);
    let mut resting = Raw::connect(&server);
    resting.send("GET /health HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(resting.answer().0, 200);

    server.signal(libc_signal::TERM);
    server.logged(|record| {
        record["message"]
            .as_str()
            .is_some_and(|it| it.starts_with("ending"))
    });
    assert_eq!(healthz(), 503);
    assert!(TcpStream::connect(server.address).is_err(), "nobody new");
    begun.send(tail);
    assert_eq!(begun.answer().0, 503);
    assert_eq!(begun.rest(), b"");
    assert_eq!(resting.rest(), b"");
    // One goes at once; the others have most of the hour, and are served.
    let mut served = 0;
    for client in &mut clients {
        client
            .stream()
            .write_all(&text(&ping()))
            .expect("connected");
        served += usize::from(
            matches!(client.next_or_close(), Some(message) if message["event"] == "hotsock.pong"),
        );
    }
    assert_eq!(served, 3);
    server.signal(libc_signal::TERM);
    let closed = clients
        .iter_mut()
        .filter_map(|client| client.next_or_close())
        .count();
    assert_eq!(closed, 0, "all are closed");
    server.signal(libc_signal::TERM);
    drop((clients, begun, resting));
    assert!(server.ended().success());
    assert!(!operations.exists(), "the socket's file goes too");
}

/// R-CFG-2, R-OPS-6, R-OPS-11: keys, caps, origins, log level.
#[test]
fn settings_change_without_losing_a_connection() {
    let server = Server::start();
    let mut client = server.connect(all("ana"));
    client.subscribe("orders");
    let key = |secret: &[u8]| {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(secret);
        format!("[signing_keys.1]\nmethod = \"HS256\"\nkey = \"{key}\"\n")
    };
    server.configure(&format!(
        "[log]\nlevel = \"debug\"\n[limits]\nconnections = 1\nmessages_per_second = 1\n{}",
        key(b"a new secret")
    ));
    assert_eq!(server.reload()["level"], "INFO");
    let old = token(json!({}));
    let new = realtime::auth::mint_hs256(
        b"a new secret",
        &json!({"exp": now() + 60, "scope": "connect"}),
    );
    assert_eq!(server.refusal(&new), 429, "the new cap");
    client.send(json!({"event": "paid", "channel": "orders", "data": 1}));
    assert_eq!(client.expect("paid")["data"], 1);
    server.logged(|record| record["level"] == "DEBUG" && record["message"] == "received");
    server.configure(&key(b"a new secret"));
    server.reload();
    assert_eq!(server.refusal(&old), 401, "the old key");
    assert_eq!(server.refusal(&new), 101, "the new key");
    client.expect_nothing();
}

/// R-CFG-2: limits hold for connections that were there before, at once.
#[test]
fn reloaded_limits_apply_to_open_connections() {
    // Longer than the test waits for anything, the time that a request has included: nothing else wakes the server.
    let more = "ping = \"off\"\nhandshake = \"1h\"\nrequest_timeout = \"1h\"";
    let server = Server::with(&format!("[limits]\nidle = \"1h\"\n{more}"));
    let mut client = server.connect(json!({}));
    server.configure(&format!("[limits]\nidle = \"50ms\"\n{more}"));
    server.reload();
    assert_eq!(client.closed(), (1001, "Going away".to_owned()));
}

/// R-CFG-2: the server looks at its files by itself.
#[test]
fn a_changed_file_is_read_without_a_signal() {
    let server = Server::start();
    server.configure("[limits]\nconnections = 1");
    server.logged(|record| record["message"] == "the settings were read anew");
    let _one = server.connect(json!({}));
    assert_eq!(server.refusal(&token(json!({}))), 429);
}

/// R-CFG-3
#[test]
fn wrong_settings_are_rejected_as_a_whole() {
    let server = Server::start();
    let mut client = server.connect(all("ana"));
    server.configure("[limits]\nconnections = 1\nidle = \"soon\"");
    let record = server.reload();
    assert_eq!(record["level"], "ERROR", "{record}");
    server.connect(json!({})).settle();
    client.settle();
    assert_eq!(server.metric("realtime_reloads_rejected_total"), 1.0);
}

// HTTP

/// R-OPS-12
#[test]
fn health_is_open_to_everybody_and_other_paths_are_not_there() {
    let server = Server::start();
    for path in ["/health", "/healthz"] {
        let answer = server.request("GET", path, &[], "");
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"status": "ready"}))
        );
    }
    let unknown = server.request("GET", "/nothing", &[], "");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "NOT_FOUND", "R-ERR-10");
    let wrong = server.request("GET", "/publish", &[], "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(wrong.json()["error"]["code"], "METHOD_NOT_ALLOWED");
    let wrong = server.request("POST", "/health", &[], "");
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let head = server.request("HEAD", "/health", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some("18"));
    let socket = server.request("GET", "/v1", &[], "");
    assert_eq!(
        (socket.status, socket.header("upgrade")),
        (426, Some("websocket"))
    );
    assert_eq!(server.request("POST", "/v1", &[], "").status, 405);
}

/// R-OPS-12: without a signing key every client would be refused, and `/health` says so.
#[test]
fn a_server_that_can_take_nobody_is_not_ready() {
    let server = Server::with("[signing_keys.1]\nmethod = \"HS256\"");
    assert_eq!(server.request("GET", "/healthz", &[], "").status, 503);
}

/// R-LOG-12
#[test]
fn operators_have_a_listener_that_asks_for_no_key_and_serves_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("operations.sock");
    let settings = format!("operations = [\"unix:{}\"]", path.display());
    let server = Server::launch_in(dir, &settings, &[]);
    let get = |target: &str| {
        let mut stream = support::unix(&path);
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        support::Answer::read(stream).status
    };
    for target in ["/health", "/metrics", "/info"] {
        assert_eq!(get(target), 200, "{target}");
    }
    assert_eq!(get("/channels/c"), 401);
    assert_eq!(get("/v1"), 404);
    let mut stream = Raw::over(support::unix(&path));
    stream.send(handshake(&format!("/v1?token={}", token(json!({}))), ""));
    assert_eq!(stream.answer().0, 404);
    for target in ["/metrics", "/info"] {
        assert_eq!(
            server.request("GET", target, &[], "").status,
            401,
            "{target}"
        );
        assert_eq!(server.get(target).status, 200, "{target}");
    }
}

/// R-OPS-13
#[test]
fn clients_come_over_ipv4_ipv6_and_unix_sockets_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("inet.sock");
    // Left by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let settings = format!(
        "listen = [\"tcp:127.0.0.1:0\", \"tcp:[::1]:0\", \"unix:{}\"]",
        path.display()
    );
    let server = Server::launch_in(dir, &settings, &[]);
    let listening = server.logged(|record| {
        record["address"]
            .as_str()
            .is_some_and(|it| it.starts_with("tcp:[::1]"))
    });
    let v6 = listening["address"].as_str().expect("text");
    let v6 = TcpStream::connect(v6.trim_start_matches("tcp:")).expect("it listens");
    let hello = handshake(&format!("/v1?token={}", token(all("ana"))), "");
    let mut over_v6 = Raw::over(v6);
    let mut over_unix = Raw::over(support::unix(&path));
    over_v6.send(&hello);
    over_unix.send(&hello);
    assert_eq!((over_v6.head().0, over_unix.head().0), (101, 101));
    let subscribe = text(&json!({"event": "hotsock.subscribe", "channel": "orders"}));
    over_v6.send(&subscribe);
    over_unix.send(&subscribe);
    let mut over_v4 = server.connect(all("ana"));
    over_v4.subscribe("orders");
    for raw_events in [
        [over_v6.message(), over_v6.message()],
        [over_unix.message(), over_unix.message()],
    ] {
        assert_eq!(raw_events[1]["event"], "hotsock.subscribed");
    }
    over_v4.send(json!({"event": "paid", "channel": "orders", "data": 1}));
    assert_eq!(over_v6.message()["event"], "paid");
    assert_eq!(over_unix.message()["event"], "paid");
}

#[test]
fn a_socket_that_somebody_serves_is_not_taken_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("inet.sock");
    let settings = format!(
        "listen = [\"tcp:127.0.0.1:0\", \"unix:{}\"]",
        path.display()
    );
    let server = Server::launch_in(dir, &settings, &[]);
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_realtime"))
        .args(["serve", "--config"])
        .arg(server.path("realtime.toml"))
        .env_clear()
        .output()
        .expect("it starts");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("inet.sock"), "{said}");
    Raw::over(support::unix(&path)).send("GET");
}

#[test]
fn an_http_connection_serves_many_requests_one_after_the_other_and_pipelined() {
    let server = Server::start();
    let mut raw = Raw::connect(&server);
    let health = "GET /health HTTP/1.1\r\nHost: test\r\n\r\n";
    for _ in 0..3 {
        raw.send(health);
        let (status, head, _) = raw.answer();
        assert_eq!(status, 200);
        assert!(head.contains("connection: keep-alive"), "{head}");
    }
    let body = json!({"channel": "c", "event": "e", "data": 1}).to_string();
    let publish = format!(
        "POST /publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        API_KEYS[0],
        body.len()
    );
    let last = "GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    raw.send(health.repeat(100) + &publish + health + last + health);
    for _ in 0..100 {
        assert_eq!(raw.answer().0, 200);
    }
    assert_eq!((raw.answer().0, raw.answer().0), (202, 200));
    assert_eq!(raw.answer().0, 404);
    assert_eq!(raw.rest(), b"", "nothing is answered after a close");
}

/// More is asked for only as answers are read, so that whoever does not read them fills nobody's memory.
#[test]
fn a_client_that_reads_no_answers_is_not_asked_for_more_requests() {
    let server = Server::start();
    let mut raw = Raw::connect(&server);
    raw.stream
        .get_mut()
        .set_write_timeout(Some(Duration::from_millis(300)))
        .expect("a time-out");
    // Large ones with large answers, so that few fill the kernel's buffers on both ways.
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nX-Padding: {}\r\n\r\n",
        API_KEYS[0],
        "x".repeat(4000)
    );
    let requests = request.repeat(1000);
    let mut sent = 0;
    while let Ok(count) = {
        let rest = &requests.as_bytes()[sent % requests.len()..];
        raw.stream.get_mut().write(rest)
    } {
        sent += count;
        assert!(sent < 200 << 20, "the server reads without end");
    }
    let memory = server.metric("process_resident_memory_bytes");
    assert!(memory < f64::from(100 << 20), "{memory} bytes");
    // And it goes on where it stood once they are read.
    for _ in 0..sent / request.len() {
        assert_eq!(raw.answer().0, 200);
    }
}

/// All requests are in the server's memory when it can't write; nothing but the client's reading sets it going again.
#[test]
fn pipelined_requests_go_on_once_their_answers_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("operations.sock");
    let settings = format!("operations = [\"unix:{}\"]", path.display());
    let _server = Server::launch_in(dir, &settings, &[]);
    let mut raw = Raw::over(support::unix(&path));
    raw.send("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".repeat(200));
    // Until the answers fill the kernel's buffer: it grows no more.
    let filled = || rustix::io::ioctl_fionread(raw.stream.get_ref()).expect("a socket");
    let mut seen = 0;
    while filled() < 50_000 || filled() > seen {
        seen = filled();
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..200 {
        assert_eq!(raw.answer().0, 200);
    }
}

#[test]
fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let server = Server::start();
    for target in ["/health", "/metrics"] {
        let mut raw = Raw::connect(&server);
        let key = API_KEYS[0];
        raw.send(format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n\r\n"
        ));
        raw.stream
            .get_ref()
            .shutdown(Shutdown::Write)
            .expect("open");
        assert_eq!(raw.answer().0, 200);
        assert_eq!(raw.rest(), b"");
    }
}

#[test]
fn what_is_no_request_is_answered_with_400_and_the_end() {
    let server = Server::start();
    for (bytes, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nHost: test\r\n\r\n".to_owned(), 505),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(40_000)), 414),
        (
            "POST /publish HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n".to_owned(),
            413,
        ),
    ] {
        let mut raw = Raw::connect(&server);
        raw.send(bytes);
        assert_eq!(raw.answer().0, status);
        assert_eq!(raw.rest(), b"");
    }
}

#[test]
fn a_body_that_waits_for_leave_gets_it() {
    let server = Server::start();
    let mut raw = Raw::connect(&server);
    let body = json!({"channel": "c", "event": "e"}).to_string();
    raw.send(format!(
        "POST /publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        API_KEYS[0],
        body.len()
    ));
    assert_eq!(raw.head().0, 100);
    raw.send(body);
    assert_eq!(raw.answer().0, 202);
}

#[test]
fn whoever_sends_no_whole_request_in_time_is_let_go() {
    let server = Server::with("[limits]\nhandshake = \"1s\"");
    let mut silent = Raw::connect(&server);
    assert_eq!(silent.rest(), b"", "nothing to answer");
    let mut slow = Raw::connect(&server);
    slow.send("GET /health HTTP/1.1\r\nHo");
    assert_eq!(slow.answer().0, 408);
    assert_eq!(slow.rest(), b"");
    let mut second = Raw::connect(&server);
    second.send("GET /health HTTP/1.1\r\nHost: test\r\n\r\nGET /hea");
    assert_eq!(second.answer().0, 200);
    assert_eq!(second.answer().0, 408, "the next request has begun");
    let mut client = server.connect(json!({}));
    client.settle();
}

#[test]
fn sockets_that_say_nothing_make_room_for_others() {
    let server = Server::with("[limits]\npending_handshakes = 5");
    let mut silent: Vec<_> = (0..5).map(|_| Raw::connect(&server)).collect();
    let clients: Vec<_> = (0..10).map(|_| server.connect(json!({}))).collect();
    assert_eq!(silent[0].rest(), b"", "the oldest went");
    for mut client in clients {
        client.settle();
    }
}

#[test]
fn a_server_without_descriptors_left_lets_silent_sockets_go_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let server = Server::start();
    let open = server.metric("process_open_fds") as u64;
    let limit = Rlimit {
        current: Some(open + 10),
        maximum: Some(open + 10),
    };
    let pid = Pid::from_raw(server.pid() as i32);
    prlimit(pid, Resource::Nofile, limit).expect("a lower limit");
    let _silent: Vec<_> = (0..30).map(|_| Raw::connect(&server)).collect();
    let mut client = server.connect(json!({}));
    client.settle();
    server.logged(|record| record["message"] == "a connection could not be taken");
}

/// Of thousands of connections in every way that they end, nothing is left.
#[test]
fn no_descriptor_is_leaked() {
    let server = Server::start();
    server.connect(json!({})).close();
    server.await_metric("realtime_connections", 0.0);
    let descriptors = || server.metric("process_open_fds");
    let before = descriptors();
    for round in 0..200 {
        match round % 5 {
            0 => server.connect(all("ana")).close(),
            1 => server.connect(all("ana")).vanish(),
            2 => drop(server.connect(all("ana"))),
            3 => assert_eq!(server.refusal("abc"), 401),
            _ => drop(Raw::connect(&server)),
        }
    }
    let begun = Instant::now();
    while descriptors() > before {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} of {before} descriptors",
            descriptors()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.metric("realtime_connections"), 0.0);
}

/// A development flag: every message comes back, for longer than a request may take.
#[test]
fn the_echo_path_outlives_the_time_of_a_request() {
    let server = Server::launch("[limits]\nrequest_timeout = \"100ms\"", &["--dev-echo"]);
    let mut client = Client::open(&server, "/echo", &[]).expect("it is served");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        client.send(json!({"event": "anything"}));
        client.expect("anything");
    }
    let plain = Server::start();
    assert_eq!(Client::open(&plain, "/echo", &[]).err(), Some(404));
}
