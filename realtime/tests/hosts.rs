//! Two real servers with one Redis between them, over the wire (R-DIFF-11 to R-DIFF-13): clients and backends can't tell at
//! which of them they are. What the engine itself promises is tested in `cluster.rs`.

mod support;

use std::time::{Duration, Instant};

use handover::End;
use handover::control::Answer;
use serde_json::{Value, json};

use support::redis::Redis;
use support::service::Service;
use support::{Client, PATIENCE, Server, token};

fn settings(redis: &Redis) -> String {
    format!("[engine]\nurl = \"{}\"\n", redis.url())
}

fn host(redis: &Redis) -> Server {
    Server::with(&settings(redis))
}

/// May do everything everywhere.
fn all(uid: &str) -> Value {
    json!({"uid": uid, "channels": {"*": {
        "subscribe": true, "getInfo": true, "historyStart": 0,
        "messages": {"*": {"publish": true, "echo": true, "react": true, "store": -1}},
        "storage": {"*": {"get": true, "set": true, "observe": true}},
    }}})
}

fn uids(members: &Value) -> Vec<&str> {
    let members = members.as_array().expect("a list");
    members
        .iter()
        .map(|it| it["uid"].as_str().expect("a uid"))
        .collect()
}

/// The texts of the next messages of the application.
fn texts(client: &mut Client, count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|_| {
            let message = client.expect("chat");
            let text = |name: &str| message[name].as_str().expect("a text").to_owned();
            (text("id"), text("data"))
        })
        .collect()
}

/// R-DLV-5, R-DLV-6, R-DIFF-12
#[test]
fn a_message_reaches_the_subscribers_of_every_host_in_one_order() {
    let redis = Redis::start();
    let (a, b) = (host(&redis), host(&redis));
    let (mut ana, mut ben) = (a.connect(all("ana")), b.connect(all("ben")));
    ana.subscribe("room");
    ben.subscribe("room");
    let chat = |text: String| json!({"event": "chat", "channel": "room", "data": text});
    for n in 0..100 {
        ana.send(chat(format!("ana {n}")));
        ben.send(chat(format!("ben {n}")));
        let server = if n % 2 == 0 { &a } else { &b };
        if n % 10 == 0 {
            assert_eq!(server.publish(chat(format!("backend {n}"))).status, 202);
        }
    }
    let seen = texts(&mut ana, 210);
    assert_eq!(seen, texts(&mut ben, 210));
    assert!(seen.is_sorted_by(|one, other| one.0 < other.0));
    for who in ["ana", "ben"] {
        let own: Vec<_> = seen.iter().filter(|it| it.1.starts_with(who)).collect();
        assert!(
            own.iter()
                .map(|it| it.1.clone())
                .eq((0..100).map(|n| format!("{who} {n}")))
        );
    }
}

/// R-PRES-3 to R-PRES-12, R-HTTP-48
#[test]
fn presence_and_counts_span_the_hosts() {
    let redis = Redis::start();
    let (a, b) = (host(&redis), host(&redis));
    let (mut ana, mut ben) = (a.connect(all("ana")), b.connect(all("ben")));
    ana.subscribe("presence.x");
    let subscribed = ben.subscribe("presence.x");
    assert_eq!(uids(&subscribed["data"]["members"]), ["ana", "ben"]);
    let added = ana.expect("hotsock.memberAdded");
    assert_eq!(uids(&added["data"]["members"]), ["ana", "ben"]);
    let mut again = b.connect(all("ana"));
    again.subscribe("presence.x");
    for server in [&a, &b] {
        let info = server.get("/channels/presence.x").json();
        assert_eq!(info["subscriptionsCount"], 3, "{info}");
    }
    ana.close();
    again.close();
    let removed = ben.expect("hotsock.memberRemoved");
    assert_eq!(uids(&removed["data"]["members"]), ["ben"]);
    ben.expect_nothing();
}

/// R-CLAIM-26, R-SRV-13, R-SRV-16, R-STOR-14, R-STOR-26, R-HIST-6, R-HTTP-11
#[test]
fn what_is_kept_is_kept_for_all_hosts() {
    let redis = Redis::start();
    let (a, b) = (host(&redis), host(&redis));
    let once = token({
        let mut claims = all("ana");
        claims["singleUse"] = true.into();
        claims["jti"] = "once".into();
        claims
    });
    let mut ana = Client::connect(&a, &once).expect("it is the first use");
    assert_eq!(b.refusal(&once), 403, "R-CLAIM-26");

    for (server, text) in [(&a, "first"), (&b, "copy")] {
        let answer = server.publish(json!({
            "event": "chat", "channel": "room", "data": text, "store": -1, "deduplicationId": "7",
        }));
        assert_eq!(answer.status, 202);
    }
    let mut ben = b.connect(all("ben"));
    ben.subscribe("room");
    let call = |server: &Server, name: &str, body: Value| {
        let path = format!("/connection/{name}?{}", ben.credentials());
        server.request("POST", &path, &[], &body.to_string())
    };
    // Any host answers in the name of a connection of another.
    let listed = call(&a, "listMessages", json!({"channel": "room"}));
    let messages = listed.json()["messages"].clone();
    assert_eq!(messages.as_array().map(Vec::len), Some(1), "{messages}");
    assert_eq!(messages[0]["data"], "first");

    let set = json!({"event": "hotsock.channelStorageSet", "channel": "room", "key": "turn", "data": "ana"});
    ana.send(set);
    let updated = ben.expect("hotsock.channelStorageUpdated");
    assert_eq!(
        (&updated["key"], &updated["data"]),
        (&"turn".into(), &"ana".into())
    );
    ana.subscribe("room");
    let observed = ana.expect("hotsock.channelStorageUpdated");
    assert_eq!(observed["data"], "ana", "R-STOR-26");

    let react = json!({"event": "hotsock.messageReaction", "channel": "room",
        "data": {"messageId": messages[0]["id"], "reaction": "+1", "action": "add"}});
    ana.send(react);
    let added = ben.expect("hotsock.messageReactionAdded");
    assert_eq!(added["data"]["messageId"], messages[0]["id"]);
    assert_eq!(
        ana.expect("hotsock.messageReactionAdded")["id"],
        added["id"],
        "R-REACT-11"
    );

    let at = jiff::Timestamp::now() + Duration::from_secs(2);
    let scheduled = a.publish(json!({
        "event": "chat", "channel": "room", "data": "later",
        "scheduleExpression": format!("at({})", at.strftime("%Y-%m-%dT%H:%M:%S")),
    }));
    assert_eq!(scheduled.status, 202, "{}", scheduled.body);
    assert_eq!(texts(&mut ben, 1)[0].1, "later");
    assert_eq!(texts(&mut ana, 1)[0].1, "later");
    assert_eq!(a.metric("realtime_engine_healthy"), 1.0);
}

/// R-DIFF-13
#[test]
fn the_others_end_the_subscriptions_of_a_host_that_was_killed() {
    let redis = Redis::start();
    let (a, b) = (host(&redis), host(&redis));
    let (mut ana, mut ben) = (a.connect(all("ana")), b.connect(all("ben")));
    ana.subscribe("presence.x");
    ben.subscribe("presence.x");
    a.signal(support::libc_signal::Signal::KILL);
    let died = Instant::now();
    let removed = ben.expect("hotsock.memberRemoved");
    assert_eq!(uids(&removed["data"]["members"]), ["ben"]);
    assert!(
        died.elapsed() < Duration::from_secs(15),
        "{:?}",
        died.elapsed()
    );
    assert_eq!(
        b.get("/channels/presence.x").json()["subscriptionsCount"],
        1
    );
    ben.expect_nothing();
}

/// R-OPS-2
#[test]
fn clients_stay_while_redis_is_away_and_nobody_has_to_restart_anything() {
    let mut redis = Redis::durable();
    let (a, b) = (host(&redis), host(&redis));
    let (mut ana, mut ben) = (a.connect(all("ana")), b.connect(all("ben")));
    ana.subscribe("presence.x");
    ben.subscribe("presence.x");
    ana.expect("hotsock.memberAdded");
    redis.kill();
    let chat = || json!({"event": "chat", "channel": "presence.x", "data": "hello"});
    let refused = a.publish(chat());
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(
        !refused.body.to_lowercase().contains("redis"),
        "{}",
        refused.body
    );
    a.await_metric("realtime_engine_healthy", 0.0);
    ana.expect_nothing();
    ben.expect_nothing();
    redis.launch();
    for server in [&a, &b] {
        server.await_metric("realtime_engine_healthy", 1.0);
    }
    assert_eq!(a.publish(chat()).status, 202);
    for client in [&mut ana, &mut ben] {
        assert_eq!(texts(client, 1)[0].1, "hello");
        client.expect_nothing();
    }
}

/// R-OPS-1: a host is swapped under traffic from another; its clients miss nothing, and nobody sees anybody leave or come.
#[test]
fn a_host_is_swapped_under_the_traffic_of_another() {
    let redis = Redis::start();
    let mut a = Service::with(&settings(&redis));
    let b = host(&redis);
    let (mut ana, mut ben) = (a.first.connect(all("ana")), b.connect(all("ben")));
    for client in [&mut ana, &mut ben] {
        client.subscribe("presence.x");
        client.subscribe("room");
    }
    ana.expect("hotsock.memberAdded");
    a.start_other("second");
    a.start_other("third");
    let mut sent = 0;
    let send = |ben: &mut Client, sent: &mut usize, count: usize| {
        for _ in 0..count {
            ben.send(json!({"event": "chat", "channel": "room", "data": sent.to_string()}));
            *sent += 1;
        }
    };
    for name in ["second", "third", "first"] {
        let order = a.order(name);
        let begun = Instant::now();
        // Nobody reads meanwhile, and there is a limit to what waits for a reader.
        let most = sent + 1_500;
        while !order.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "no handover");
            if sent < most {
                send(&mut ben, &mut sent, 5);
            }
            std::thread::yield_now();
        }
        match order.join().expect("no panic") {
            Some(Answer::Receipt(receipt)) => assert_eq!(receipt.end, End::Taken, "{receipt:?}"),
            other => panic!("{other:?}"),
        }
        send(&mut ben, &mut sent, 20);
    }
    let wanted: Vec<_> = (0..sent).map(|n| n.to_string()).collect();
    let seen = texts(&mut ana, sent);
    assert!(seen.iter().map(|it| &it.1).eq(&wanted));
    assert_eq!(seen, texts(&mut ben, sent));
    ana.expect_nothing();
    ben.expect_nothing();
    assert_eq!(
        b.get("/channels/presence.x").json()["subscriptionsCount"],
        2
    );
    ana.send(json!({"event": "hotsock.unsubscribe", "channel": "presence.x"}));
    let removed = ben.expect("hotsock.memberRemoved");
    assert_eq!(uids(&removed["data"]["members"]), ["ben"]);
}

/// R-LOG-4: the password of Redis is nobody's business.
#[test]
fn the_password_is_shown_nowhere() {
    let redis = Redis::with(&["--requirepass", "sesame-sesame"]);
    let with_url = format!(
        "[log]\nlevel = \"debug\"\n[engine]\nurl = \"redis://:sesame-sesame@127.0.0.1:{}\"\n",
        redis.port
    );
    let server = Server::with(&with_url);
    assert_eq!(
        server.publish(json!({"event": "x", "channel": "a"})).status,
        202
    );
    let info = server.get("/info");
    let metrics = server.get("/metrics");
    for text in [&info.body, &metrics.body, &server.log().join("\n")] {
        assert!(!text.contains("sesame"), "{text}");
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("password");
    std::fs::write(&file, "sesame-sesame\n").expect("it is written");
    let from_file = format!(
        "[engine]\nurl = \"{}\"\npassword_file = \"{}\"\n",
        redis.url(),
        file.display()
    );
    let server = Server::with(&from_file);
    assert_eq!(
        server.publish(json!({"event": "x", "channel": "a"})).status,
        202
    );
}
