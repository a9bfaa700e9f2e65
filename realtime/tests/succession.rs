//! A server is replaced while its clients talk: nothing is dropped, lost, doubled or reordered, and nobody is told
//! (R-OPS-1, R-DIFF-16, scenario 27; `docs/handover.md`).
mod support;

use std::time::{Duration, Instant};

use handover::End;
use handover::control::{Answer, Request, Role};
use serde_json::{Value, json};
use support::service::Service;
use support::{Client, PATIENCE, SECRET, now, token};
use tungstenite::Message;

/// A client's frame with a payload of up to 65,535 bytes (RFC 6455, 5.2).
fn masked(first_byte: u8, payload: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first_byte, 0x80 | 126];
    bytes.extend(
        u16::try_from(payload.len())
            .expect("a short payload")
            .to_be_bytes(),
    );
    bytes.extend(mask);
    bytes.extend(
        payload
            .bytes()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn chatter(uid: &str) -> Value {
    json!({"uid": uid, "umd": {"colour": "red"}, "channels": {
        "room.*": {"subscribe": true, "messages": {"*": {"publish": true, "echo": true}}},
        "presence.*": {"subscribe": true, "messages": {"*": {"publish": true}}},
    }})
}

/// R-OPS-1, R-DLV-1, R-DLV-5, R-DLV-6
#[test]
fn a_swap_keeps_every_connection_and_its_subscriptions() {
    let mut service = Service::start();
    let (mut ana, mut ben) = (
        service.first.connect(chatter("ana")),
        service.first.connect(chatter("ben")),
    );
    ana.subscribe("room.1");
    ben.subscribe("room.1");
    ana.send(json!({"event": "before", "channel": "room.1", "data": 1}));
    let before = ben.expect("before");
    ana.expect("before");

    let receipt = service.swap("second");
    assert_eq!(receipt.transferred, 2);
    assert_eq!(
        service
            .await_status("first", |it| it.role == Role::Emptied)
            .connections,
        0
    );
    assert_eq!(
        service
            .await_status("second", |it| it.role == Role::Serving)
            .connections,
        2
    );

    ana.send(json!({"event": "after", "channel": "room.1", "data": 2}));
    let after = ben.expect("after");
    assert_eq!(ana.expect("after"), after, "the echo");
    assert_eq!(
        after["meta"],
        json!({"uid": "ana", "umd": {"colour": "red"}})
    );
    assert!(
        after["id"].as_str() > before["id"].as_str(),
        "identifiers rise from one process to the next"
    );
    ana.expect_nothing();
    ben.expect_nothing();
}

/// R-OPS-1: no memberRemoved and no memberAdded is seen by anyone; members stay in their order (R-PRES-8).
#[test]
fn nobody_leaves_or_joins_a_presence_channel_in_a_swap() {
    let mut service = Service::start();
    let mut clients: Vec<_> = ["zoe", "ana", "ben"]
        .map(|uid| service.first.connect(chatter(uid)))
        .into();
    for client in &mut clients {
        client.subscribe("presence.den");
    }
    clients.iter_mut().for_each(|client| drop(client.drain()));
    service.swap("second");
    clients.iter_mut().for_each(Client::expect_nothing);
    let info = service.first.get("/channels/presence.den").json();
    let uids: Vec<_> = info["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|it| it["uid"].clone())
        .collect();
    assert_eq!(uids, ["zoe", "ana", "ben"]);
    assert_eq!(info["subscriptionsCount"], 3);
    // And whoever leaves afterwards is missed.
    clients.remove(0).close();
    for client in &mut clients {
        let removed = client.expect("hotsock.memberRemoved");
        assert_eq!(removed["data"]["member"]["uid"], "zoe");
    }
}

/// A frame of which half has come, and a message of which some fragments have: the next process reads the rest.
#[test]
fn a_half_read_message_is_finished_by_the_successor() {
    use std::io::Write as _;
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    ana.subscribe("room.1");
    let text =
        json!({"event": "long", "channel": "room.1", "data": "x".repeat(30_000)}).to_string();
    let (first, second) = text.split_at(20_000);
    // Text without FIN, then a continuation with it.
    let bytes = [masked(0x01, first), masked(0x80, second)].concat();
    for cut in [1, 7, 19_000, 20_004, 20_010, 29_000] {
        let name = format!("after-{cut}");
        ana.stream().write_all(&bytes[..cut]).expect("written");
        // What was written has been read before the swap: a ping of another connection is answered behind it.
        service.first.connect(chatter("other")).settle();
        service.swap(&name);
        ana.stream().write_all(&bytes[cut..]).expect("written");
        assert_eq!(
            ana.expect("long")["data"].as_str().map(str::len),
            Some(30_000),
            "cut at {cut}"
        );
    }
}

/// What a client has not read yet is not lost.
#[test]
fn unsent_bytes_reach_a_client_that_reads_late() {
    let mut service = Service::with("[limits]\noutbound_bytes = \"16MiB\"\n");
    let (mut ana, mut ben) = (
        service.first.connect(chatter("ana")),
        service
            .first
            .connect(json!({"channels": {"room.*": {"subscribe": true}}})),
    );
    rustix::net::sockopt::set_socket_recv_buffer_size(ben.stream(), 65_536).expect("an option");
    ben.subscribe("room.1");
    ana.subscribe_quietly("room.1");
    let data = "y".repeat(30_000);
    // More than the kernel's buffers hold on both sides.
    for number in 0..300 {
        ana.send(json!({"event": "burst", "channel": "room.1", "data": {"number": number, "text": data}}));
        if number == 250 {
            ana.subscribe_quietly("room.2");
            service.swap("second");
            let account = service
                .await_status("first", |it| it.role == Role::Emptied)
                .last
                .expect("a receipt");
            assert!(
                account.service["unsentBytes"].as_u64() > Some(0),
                "{account:?}"
            );
        }
    }
    for number in 0..300 {
        assert_eq!(ben.expect("burst")["data"]["number"], number);
    }
    ben.expect_nothing();
}

/// What was spent stays spent, what was seen stays seen (R-CLAIM-26, R-SRV-16).
#[test]
fn single_use_tokens_and_copies_are_known_to_the_successor() {
    let mut service = Service::start();
    let once = token(json!({"singleUse": true, "jti": "one", "exp": now() + 600}));
    let mut ana = Client::connect(&service.first, &once).expect("the first use");
    let mut ben = service.first.connect(chatter("ben"));
    ben.subscribe("room.1");
    let message = json!({"channel": "room.1", "event": "price", "deduplicationId": "d1"});
    assert_eq!(service.first.publish(message.clone()).status, 202);
    ben.expect("price");
    service.swap("second");
    assert_eq!(service.first.refusal(&once), 403);
    assert_eq!(service.first.publish(message).status, 202);
    ben.expect_nothing();
    ana.expect_nothing();
}

/// R-DIFF-16, R-SRV-16: what has been accepted is kept before anything changes hands. A disk that takes too long puts the swap
/// off, and nobody notices.
#[test]
fn a_swap_is_put_off_while_something_is_still_to_be_kept() {
    if support::is_with_redis() {
        return; // There is no file that somebody could hold; `tests/cluster.rs` has what takes its place.
    }
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    ana.subscribe("room.1");
    service.start_other("second");
    let file = rusqlite::Connection::open(service.first.path("realtime.db")).expect("it opens");
    let copy = json!({"channel": "room.1", "event": "chat", "data": 1, "deduplicationId": "x"});
    file.execute_batch("BEGIN IMMEDIATE").expect("it locks");
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| service.first.publish(copy.clone()).status);
        let begun = Instant::now();
        let idle = "realtime_engine_queue 0";
        while service.first.get("/metrics").body.contains(idle) {
            assert!(begun.elapsed() < PATIENCE);
        }
        let receipt = service.take_over("second");
        file.execute_batch("COMMIT").expect("it unlocks");
        assert_eq!(receipt.end, End::Failed, "{receipt:?}");
        let cause = receipt.cause.unwrap_or_default();
        assert!(cause.contains("has not finished keeping"), "{cause}");
        assert_eq!(publishing.join().expect("no panic"), 202);
    });
    assert_eq!(ana.expect("chat")["data"], 1);
    let receipt = service.take_over("second");
    assert_eq!(receipt.end, End::Taken, "{receipt:?}");
    assert_eq!(service.first.publish(copy).status, 202);
    ana.expect_nothing();
}

/// The way back: the first process takes everything from the second.
#[test]
fn a_swap_can_be_taken_back() {
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    ana.subscribe("presence.den");
    for round in 0..3 {
        let name = format!("second-{round}");
        service.swap(&name);
        let receipt = service.take_over("first");
        assert_eq!((receipt.end, receipt.transferred), (End::Taken, 1));
        assert!(matches!(
            service.ask(&name, Request::Retire {}),
            Some(Answer::Retiring {})
        ));
        ana.expect_nothing();
    }
    ana.send(json!({"event": "still", "channel": "presence.den"}));
    ana.settle();
    assert_eq!(
        service.first.get("/channels/presence.den").json()["members"][0]["uid"],
        "ana"
    );
}

/// Permissions of the connect token, of a subscribe token and changed metadata hold on.
#[test]
fn tokens_metadata_and_aliases_hold_in_the_successor() {
    let mut service = Service::start();
    let mut ana = service
        .first
        .connect(json!({"uid": "ana", "channels": {"me.1": {"subscribe": true, "alias": "me"}}}));
    ana.subscribe("me");
    let subscribe = token(
        json!({"scope": "subscribe", "uid": "ana", "umd": 7, "channels": {
            "room.9": {"subscribe": true, "messages": {"chat": {"publish": true, "echo": true}}}
        }}),
    );
    ana.send(
        json!({"event": "hotsock.subscribe", "channel": "room.9", "data": {"token": subscribe}}),
    );
    ana.expect("hotsock.subscribed");
    let umd = token(json!({"scope": "umd", "uid": "ana", "umd": {"new": true}, "umdUpdate": true}));
    ana.send(json!({"event": "hotsock.umdUpdate", "data": {"token": umd}}));
    ana.settle();
    service.swap("second");
    ana.send(json!({"event": "chat", "channel": "room.9", "data": 1}));
    assert_eq!(ana.expect("chat")["meta"], json!({"uid": "ana", "umd": 7}));
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "me"}));
    let gone = ana.expect("hotsock.unsubscribed");
    assert_eq!(
        (&gone["channel"], &gone["meta"]["channelAlias"]),
        (&json!("me.1"), &json!("me"))
    );
    ana.send(json!({"event": "hotsock.subscribe", "channel": "me.1"}));
    assert_eq!(
        ana.expect("hotsock.subscribed")["meta"]["umd"],
        json!({"new": true}),
        "R-UMD-8"
    );
}

/// An HTTP connection goes on, and a request that is half read is answered exactly once, by whoever read its last byte.
#[test]
fn http_requests_are_answered_across_a_swap() {
    use std::io::{Read as _, Write as _};
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    ana.subscribe("room.1");
    let body = json!({"channel": "room.1", "event": "price"}).to_string();
    let request = format!(
        "POST /publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        support::API_KEYS[0],
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(service.first.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let answered = |stream: &mut std::net::TcpStream| {
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"}") {
            stream.read_exact(&mut byte).expect("an answer");
            answer.extend(byte);
        }
        String::from_utf8(answer).expect("text")
    };
    for (round, cut) in [0, 10, request.len() - 3].into_iter().enumerate() {
        stream
            .write_all(&request.as_bytes()[..cut])
            .expect("written");
        service.first.connect(chatter("other")).settle();
        service.swap(&format!("round-{round}"));
        stream
            .write_all(&request.as_bytes()[cut..])
            .expect("written");
        assert!(answered(&mut stream).starts_with("HTTP/1.1 202"));
        ana.expect("price");
        ana.expect_nothing();
    }
}

/// Deadlines go on: what was left before the swap is left after it (R-LIVE-8).
#[test]
fn a_heartbeat_that_is_missed_across_a_swap_closes_the_connection() {
    let mut service = Service::start();
    let mut ana = service.first.connect(json!({"heartbeatTimeout": 5}));
    let begun = Instant::now();
    service.swap("second");
    assert_eq!(ana.closed(), (1001, "Heartbeat timeout".into()));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(3),
        "not before its time: {took:?}"
    );
}

/// The successor answers health checks on its private socket before it serves, and the public socket of the proxy is
/// always answered by whoever serves.
#[test]
fn health_is_told_on_private_sockets_and_the_public_socket_travels() {
    let mut service = Service::start();
    service.start_other("second");
    let dir = service.dir().to_owned();
    let health = |name: &str| -> u16 {
        use std::io::Write as _;
        let mut stream = support::unix(&dir.join(name));
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .expect("written");
        support::Answer::read(stream).status
    };
    assert_eq!(
        (
            health("first.health"),
            health("second.health"),
            health("inet.sock")
        ),
        (200, 200, 200)
    );
    assert_eq!(service.take_over("second").end, End::Taken);
    assert_eq!(
        (
            health("first.health"),
            health("second.health"),
            health("inet.sock")
        ),
        (200, 200, 200)
    );
    service.await_status("first", |status| status.role == Role::Emptied);
    assert!(matches!(
        service.ask("first", Request::Retire {}),
        Some(Answer::Retiring {})
    ));
    assert!(service.first.ended().success());
    assert_eq!(health("inet.sock"), 200);
}

/// R-CONN-29
#[test]
fn a_connection_that_breaks_the_protocol_after_a_swap_is_closed_as_before() {
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    service.swap("second");
    ana.send_message(Message::binary(vec![1, 2, 3]));
    assert_eq!(ana.closed().0, 1003);
}
/// What the secret of the tests is, is not in any log.
#[test]
fn secrets_are_never_logged() {
    let service = Service::start();
    let ana = service.first.connect(chatter("ana"));
    let secret = ana.welcome["data"]["connectionSecret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    ana.close();
    service.first.await_metric("realtime_connections", 0.0);
    let log = service.first.log().join("\n");
    assert!(!log.contains(&secret) && !log.contains(std::str::from_utf8(SECRET).expect("text")));
}

/// R-OPS-1, R-HTTP-2, R-HIST-5: a connection keeps its credentials and what it may see of the past.
#[test]
fn a_client_reads_on_over_http_after_a_swap() {
    let mut service = Service::start();
    let mut ana = service.first.connect(chatter("ana"));
    let publish = |service: &Service| {
        let body =
            json!({"channel": "room.1", "event": "x", "store": 60, "eagerIdGeneration": true});
        service.first.publish(body).json()["id"].clone()
    };
    let early = publish(&service);
    let read = |service: &Service, ana: &Client| {
        let answer = service
            .first
            .call(ana, "listMessages", json!({"channel": "room.1"}));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let messages = answer.json()["messages"].as_array().cloned();
        let ids = messages.into_iter().flatten().map(|it| it["id"].clone());
        ids.collect::<Vec<_>>()
    };
    // From a later millisecond on.
    let millisecond = |id: &Value| id.as_str().map(|id| id[..10].to_owned());
    let mut last = early.clone();
    while millisecond(&last) == millisecond(&early) {
        last = publish(&service);
    }
    ana.subscribe("room.1");
    let first = publish(&service);
    ana.expect("x");
    let before = read(&service, &ana);
    assert_eq!(before.last(), Some(&first));
    assert!(!before.contains(&early));

    service.swap("second");
    assert_eq!(read(&service, &ana), before);
    let second = publish(&service);
    ana.expect("x");
    assert_eq!(read(&service, &ana), [before, vec![second]].concat());
}
