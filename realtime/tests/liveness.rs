//! What keeps a connection alive and what ends it: keep-alive, heartbeat, ping, the idle and the duration limit, peers that
//! are gone. How long each takes is proved where deadlines are decided (`connection.rs`), where time is an argument; here
//! the settings are short and the tests wait for what must happen (R-DIFF-22).

mod support;

use std::io::Read as _;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Server};
use tungstenite::Message;

fn going_away() -> (u16, String) {
    (1001, "Going away".to_owned())
}

/// R-LIVE-1, R-LIVE-2, R-LIVE-4, R-DIFF-3, R-DIFF-22: while another client, which did not ask, gets nothing.
#[test]
fn who_asks_for_keep_alives_gets_them_whatever_else_it_does() {
    let server = Server::with("[limits]\nkeep_alive = \"50ms\"\nidle = \"off\"");
    let mut plain = server.connect(json!({}));
    let mut refuses = server.connect(json!({"keepAlive": false}));
    let mut kept = server.connect(json!({"keepAlive": true}));
    for _ in 0..3 {
        assert_eq!(
            kept.expect("hotsock.keepAlive"),
            json!({"event": "hotsock.keepAlive", "data": {}})
        );
    }
    // Talking does not put it off.
    let mut seen = 0;
    while seen < 3 {
        let between = kept.drain();
        assert!(between.iter().all(|it| it["event"] == "hotsock.keepAlive"));
        seen += between.len();
    }
    plain.expect_nothing();
    refuses.expect_nothing();
}

/// R-LIVE-2: nobody answers it, and whoever gets it is not idle.
#[test]
fn a_keep_alive_needs_no_answer_and_resets_the_idle_limit() {
    let server = Server::with("[limits]\nkeep_alive = \"100ms\"\nidle = \"400ms\"");
    let mut silent = server.connect(json!({}));
    let mut kept = server.connect(json!({"keepAlive": true}));
    assert_eq!(silent.closed(), going_away());
    for _ in 0..6 {
        kept.expect("hotsock.keepAlive");
    }
    let others = kept.drain();
    assert!(
        others.iter().all(|it| it["event"] == "hotsock.keepAlive"),
        "{others:?}"
    );
}

/// R-LIVE-5, R-LIVE-7, R-LIVE-9, R-LIVE-10, R-LIVE-11, R-LIVE-12, R-CONN-23: four clients with five seconds. One is silent, one talks about everything
/// else, one sends heartbeats and stays, one has no such claim.
#[test]
fn only_heartbeats_keep_a_connection_that_promised_them() {
    let server = Server::start();
    let claims = |uid: &str, timeout: Option<u64>| {
        let mut claims = json!({"uid": uid, "channels": {"presence.room": {
            "subscribe": true, "messages": {"*": {"publish": true, "echo": true}}
        }}});
        if let Some(timeout) = timeout {
            claims["heartbeatTimeout"] = json!(timeout);
        }
        claims
    };
    let mut observer = server.connect(claims("observer", None));
    observer.subscribe("presence.room");
    let clients = ["silent", "talking", "beating"].map(|uid| {
        let mut client = server.connect(claims(uid, Some(5)));
        client.subscribe("presence.room");
        observer.expect("hotsock.memberAdded");
        client
    });
    let [mut silent, mut talking, mut beating] = clients;
    let missed = (1001, "Heartbeat timeout".to_owned());
    let (stop, stopped) = mpsc::channel::<()>();
    let beats = std::thread::spawn(move || {
        // 0.9 of the interval would do; a busy machine gets more room.
        while stopped.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            beating.send(json!({"event": "hotsock.heartbeat"}));
        }
        beating
    });
    let talks = std::thread::spawn(move || {
        loop {
            talking.send(json!({"event": "hotsock.pong"}));
            talking.send(json!({"event": "note", "channel": "presence.room"}));
            talking.send_message(Message::Pong("still here".into()));
            talking.send(json!({"event": "hotsock.ping"}));
            loop {
                match talking.next_or_close() {
                    None => return,
                    Some(message) if message["event"] == "hotsock.pong" => break,
                    Some(_) => {}
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert_eq!(silent.closed(), missed);
    talks.join().expect("it was closed");
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let message = observer.next();
        if message["event"] == "hotsock.memberRemoved" {
            gone.push(message["data"]["member"]["uid"].clone());
        }
    }
    gone.sort_by_key(Value::to_string);
    assert_eq!(gone, ["silent", "talking"]);
    assert_eq!(
        server.metric("realtime_connections_closed_total{code=\"1001\",reason=\"heartbeat\"}"),
        2.0
    );
    drop(stop);
    let mut beating = beats.join().expect("it was never closed");
    let answers = beating.drain();
    assert!(
        answers.iter().all(|it| it["event"] != "hotsock.error"
            && it["event"] != "hotsock.heartbeat"
            && it["event"] != "hotsock.pong"),
        "R-LIVE-6: no reply to a heartbeat"
    );
}

/// R-LIVE-6, R-LIVE-13, R-LIVE-20
#[test]
fn a_heartbeat_that_nobody_asked_for_is_ignored() {
    let server = Server::start();
    let mut client = server.connect(json!({}));
    client.send(json!({"event": "hotsock.heartbeat"}));
    client.expect_nothing();
}

/// R-LIVE-15, R-LIVE-16, R-LIVE-20
#[test]
fn a_ping_is_answered_with_a_pong_whose_data_is_a_string() {
    let server = Server::start();
    let mut client = server.connect(json!({}));
    let mut other = server.connect(json!({}));
    client.send(json!({"event": "hotsock.ping"}));
    assert_eq!(
        client.next(),
        json!({"event": "hotsock.pong", "data": "{}"})
    );
    other.expect_nothing();
}

/// R-LIVE-18, R-LIVE-19
#[test]
fn a_pong_is_accepted_without_a_word() {
    let server = Server::start();
    let mut client = server.connect(json!({}));
    client.send(json!({"event": "hotsock.pong"}));
    client.send(json!({"event": "hotsock.pong", "data": "{}"}));
    client.expect_nothing();
}

/// R-CONN-19, R-CONN-20, R-DIFF-2, R-LIVE-17: the silent client answers protocol pings all the time, which are no messages;
/// the other sends messages until the first is gone, and is there still.
#[test]
fn only_messages_keep_a_connection_from_being_idle() {
    let server = Server::with("[limits]\nidle = \"2s\"\nping = \"400ms\"");
    let mut silent = server.connect(json!({}));
    let mut talking = server.connect(json!({}));
    let silence = std::thread::spawn(move || silent.closed());
    while !silence.is_finished() {
        talking.settle();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(silence.join().expect("it was closed"), going_away());
    talking.settle();
    assert_eq!(talking.closed(), going_away());
    assert_eq!(
        server.metric("realtime_connections_closed_total{code=\"1001\",reason=\"idle\"}"),
        2.0
    );
}

/// R-CONN-19, R-LIVE-17: messages to a connection count as well as messages of it.
#[test]
fn a_connection_that_only_receives_is_not_idle() {
    let server = Server::with("[limits]\nidle = \"1s\"");
    let listening = || json!({"channels": {"orders": {"subscribe": true}}});
    let mut silent = server.connect(listening());
    let mut receiving = server.connect(listening());
    receiving.subscribe("orders");
    let silence = std::thread::spawn(move || silent.closed());
    while !silence.is_finished() {
        server.publish(json!({"channel": "orders", "event": "paid", "data": 1}));
        receiving.expect("paid");
    }
    assert_eq!(silence.join().expect("it was closed"), going_away());
    server.publish(json!({"channel": "orders", "event": "paid", "data": 2}));
    assert_eq!(receiving.expect("paid")["data"], 2);
}

/// R-DIFF-2: no idle limit. The client that has one elsewhere is the clock.
#[test]
fn the_idle_limit_can_be_switched_off() {
    let limited = Server::with("[limits]\nidle = \"100ms\"");
    let unlimited = Server::with("[limits]\nidle = \"off\"");
    let mut quiet = unlimited.connect(json!({}));
    for _ in 0..3 {
        assert_eq!(limited.connect(json!({})).closed(), going_away());
    }
    quiet.settle();
}

/// R-CONN-18, R-DIFF-1: whatever its activity.
#[test]
fn a_connection_ends_at_the_duration_limit_although_it_is_busy() {
    let server = Server::with("[limits]\nduration = \"300ms\"");
    let mut client = server.connect(json!({"keepAlive": true}));
    assert_ne!(client.welcome["data"]["connectionExpiresAt"], Value::Null);
    loop {
        client.send(json!({"event": "hotsock.ping"}));
        if client.next_or_close().is_none() {
            break;
        }
    }
    server.await_metric(
        "realtime_connections_closed_total{code=\"1001\",reason=\"duration\"}",
        1.0,
    );
    let mut silent = server.connect(json!({}));
    assert_eq!(silent.closed(), going_away());
}

/// R-CONN-25, R-DIFF-4: one peer reads and so answers the pings, one does not.
#[test]
fn a_peer_that_answers_no_ping_is_dropped_and_its_subscriptions_end() {
    let server = Server::with("[limits]\nping = \"400ms\"");
    let room = |uid: &str| json!({"uid": uid, "channels": {"presence.room": {"subscribe": true}}});
    let mut observer = server.connect(room("observer"));
    observer.subscribe("presence.room");
    let mut deaf = server.connect(room("deaf"));
    deaf.subscribe("presence.room");
    observer.expect("hotsock.memberAdded");
    // While the observer reads it answers what it is asked.
    let removed = observer.expect("hotsock.memberRemoved");
    assert_eq!(removed["data"]["member"]["uid"], "deaf");
    observer.settle();
    let mut rest = Vec::new();
    let _ = deaf.stream().read_to_end(&mut rest);
    assert!(
        rest.windows(2).filter(|it| *it == [0x89, 0]).count() == 2,
        "it was pinged twice: {rest:?}"
    );
    assert_eq!(server.metric("realtime_connections"), 1.0);
}

/// R-DIFF-4: who talks is not asked, and a ping of the client is answered with what it said.
#[test]
fn a_ping_of_the_protocol_is_answered_with_its_payload() {
    let server = Server::start();
    let mut client: Client = server.connect(json!({}));
    client.send_message(Message::Ping("are you there".into()));
    assert_eq!(client.next_frame(), Message::Pong("are you there".into()));
}
