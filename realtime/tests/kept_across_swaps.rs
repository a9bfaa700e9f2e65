//! What a server has accepted is there after it has been replaced, and is done once: stored messages, storage, reactions,
//! schedules, copies, single-use tokens, and calls in the name of a connection (R-OPS-1, R-DIFF-16). The old process has
//! the database open all the time, and takes everything back in the end. The same with either engine (R-DIFF-11).

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::redis::Redis;
use support::service::Service;
use support::{Answer, Client, now, token};

fn with_redis(redis: &Redis) -> Service {
    Service::with(&format!("[engine]\nurl = \"{}\"\n", redis.url()))
}

fn everything(uid: &str) -> Value {
    json!({"uid": uid, "channels": {"*": {
        "subscribe": true,
        "getInfo": true,
        "messages": {"*": {
            "publish": true, "echo": true, "store": -1, "react": true, "scheduleBefore": now() + 3600,
        }},
        "storage": {"*": {"get": true, "set": true, "observe": true, "scheduleBefore": now() + 3600}},
    }}})
}

/// A call of the client HTTP API in the name of a client's connection.
fn call(service: &Service, client: &Client, name: &str, body: Value) -> Answer {
    let data = &client.welcome["data"];
    let (id, secret) = (
        data["connectionId"].as_str().expect("an id"),
        data["connectionSecret"].as_str().expect("a secret"),
    );
    let path = format!(
        "/connection/{name}?connectionId={}&connectionSecret={secret}",
        id.replace('=', "%3d")
    );
    service.first.request("POST", &path, &[], &body.to_string())
}

fn history(service: &Service, client: &Client, channel: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map(|message| message["id"].clone());
        let body = json!({"channel": channel, "after": after});
        let answer = call(service, client, "listMessages", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = answer.json()["messages"]
            .as_array()
            .expect("a list")
            .clone();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// `at(…)` for so many seconds from now.
fn in_seconds(seconds: u64) -> String {
    let at = jiff::Timestamp::from_second((now() + seconds) as i64).expect("a time");
    format!("at({})", at.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// R-OPS-1, R-STOR-2, R-STOR-14, R-HIST-5, R-REACT-8, R-HTTP-4: to and fro, everything that was kept is what it was.
#[test]
fn what_is_kept_is_the_same_in_the_successor_and_back() {
    kept(Service::start());
}

/// The same with several hosts' engine.
#[test]
fn what_is_kept_is_the_same_in_the_successor_and_back_with_redis() {
    let redis = Redis::start();
    kept(with_redis(&redis));
}

fn kept(mut service: Service) {
    let mut ana = service.first.connect(everything("ana"));
    let mut ben = service.first.connect(everything("ben"));
    ana.subscribe("room.1");
    ben.subscribe("room.1");
    ana.send(json!({"event": "chat", "channel": "room.1", "data": 1}));
    let first = ana.expect("chat");
    ben.expect("chat");
    let set = |value: Value| json!({"event": "hotsock.channelStorageSet", "channel": "room.1", "key": "rules", "data": value});
    ana.send(set(json!({"seats": 4})));
    for client in [&mut ana, &mut ben] {
        assert_eq!(
            client.expect("hotsock.channelStorageUpdated")["data"],
            json!({"seats": 4})
        );
    }
    for name in ["second", "third", "second"] {
        let known = match service.status(name) {
            Some(_) => service.take_over(name),
            None => service.swap(name),
        };
        assert_eq!((known.transferred, known.dropped), (2, 0));
        // The same value again is no change; another one is, and its observers are still known.
        ben.send(set(json!({"seats": 4})));
        ben.expect_nothing();
        ana.send(set(json!({"by": name})));
        for client in [&mut ana, &mut ben] {
            assert_eq!(
                client.expect("hotsock.channelStorageUpdated")["data"],
                json!({"by": name})
            );
        }
        ana.send(set(json!({"seats": 4})));
        for client in [&mut ana, &mut ben] {
            client.expect("hotsock.channelStorageUpdated");
        }
        ana.send(json!({"event": "chat", "channel": "room.1", "data": name}));
        ana.expect("chat");
        ben.expect("chat");
    }
    // A reaction to a message of three processes ago, put on once and only once.
    let react = json!({"event": "hotsock.messageReaction", "channel": "room.1",
        "data": {"messageId": first["id"], "reaction": "+1", "action": "add"}});
    ana.send_together([react.clone(), react]);
    let seen = ben.expect("hotsock.messageReactionAdded");
    assert_eq!(seen["data"]["messageId"], first["id"]);
    assert_eq!(
        ana.expect("hotsock.messageReactionAdded"),
        seen,
        "R-REACT-11"
    );
    ana.settle();
    ben.expect_nothing();
    let kept = history(&service, &ana, "room.1");
    let data: Vec<_> = kept.iter().map(|message| message["data"].clone()).collect();
    assert_eq!(
        data,
        [json!(1), json!("second"), json!("third"), json!("second")]
    );
    assert_eq!(kept[0]["reactions"], json!({"+1": {"count": 1}}));
}

/// R-SRV-16, R-CLAIM-26, R-SCHED-14, R-DIFF-10: what the first process has promised, the next one does, once.
#[test]
fn what_was_promised_is_done_once_by_whoever_serves_then() {
    promised(Service::start());
}

/// The same with several hosts' engine.
#[test]
fn what_was_promised_is_done_once_by_whoever_serves_then_with_redis() {
    let redis = Redis::start();
    promised(with_redis(&redis));
}

fn promised(mut service: Service) {
    let mut ana = service.first.connect(everything("ana"));
    ana.subscribe("room.1");
    let planned = |name: &str, seconds| {
        let answer = service
            .first
            .publish(json!({"channel": "room.1", "event": name, "store": 60,
            "scheduleExpression": in_seconds(seconds)}));
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()["scheduleArn"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    planned("soon", 2);
    let never = planned("never", 3600);
    let write = service.first.publish(
        json!({"channel": "room.1", "event": "hotsock.channelStorageSet",
        "key": "turn", "data": "ben", "scheduleExpression": in_seconds(2)}),
    );
    assert_eq!(write.status, 202, "{}", write.body);
    let copy = json!({"channel": "room.1", "event": "copied", "deduplicationId": "x"});
    assert_eq!(service.first.publish(copy.clone()).status, 202);
    ana.expect("copied");
    let once = token(json!({"uid": "ben", "singleUse": true, "jti": "once"}));
    drop(Client::connect(&service.first, &once).expect("its first use"));

    service.swap("second");
    assert_eq!(service.first.publish(copy).status, 202);
    assert_eq!(Client::connect(&service.first, &once).err(), Some(403));
    let id = never.rsplit('/').next().expect("a last part");
    let bearer = format!("Bearer {}", support::API_KEYS[0]);
    let cancelled = service.first.request(
        "DELETE",
        &format!("/schedules/{id}"),
        &[("Authorization", &bearer)],
        "",
    );
    assert!((200..300).contains(&cancelled.status), "{}", cancelled.body);
    assert_eq!(service.first.get(&format!("/schedules/{id}")).status, 404);

    let mut due = [ana.next(), ana.next()].map(|message| message["event"].clone());
    due.sort_by_key(ToString::to_string);
    assert_eq!(due, ["hotsock.channelStorageUpdated", "soon"]);
    planned_is_over(&service, &mut ana);
}

/// A marker that is planned after everything else comes next: nothing was done twice.
fn planned_is_over(service: &Service, client: &mut Client) {
    let answer = service
        .first
        .publish(json!({"channel": "room.1", "event": "marker",
        "scheduleExpression": in_seconds(3)}));
    assert_eq!(answer.status, 202, "{}", answer.body);
    client.expect("marker");
}

/// R-OPS-1, R-DLV-1, R-DLV-6, R-DLV-13, R-HIST-1: backends publish without a pause while the server is replaced six times.
/// What was accepted is delivered once, in order, and is in the history, once.
#[test]
fn stored_messages_under_load_are_neither_lost_nor_doubled_by_swaps() {
    under_load(Service::start());
}

/// The same with several hosts' engine.
#[test]
fn stored_messages_under_load_are_neither_lost_nor_doubled_by_swaps_with_redis() {
    let redis = Redis::start();
    under_load(with_redis(&redis));
}

fn under_load(mut service: Service) {
    let mut ana = service.first.connect(everything("ana"));
    ana.subscribe("room.1");
    let stop = Arc::new(AtomicBool::new(false));
    let address = service.first.address;
    let bearer = format!("Bearer {}", support::API_KEYS[0]);
    let backend = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut accepted = Vec::new();
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let body = json!({"channel": "room.1", "event": "n", "data": number, "store": 600});
                let key = [("Authorization", &*bearer)];
                let answer =
                    support::request_to(address, "POST", "/publish", &key, &body.to_string());
                assert_eq!(
                    answer.status, 202,
                    "no swap refuses anything: {}",
                    answer.body
                );
                accepted.push(number);
                number += 1;
            }
            accepted
        })
    };
    let mut received: Vec<Value> = Vec::new();
    for name in ["second", "third", "second", "third", "second", "third"] {
        // So many more arrive before the next swap that each happens under load.
        let wanted = received.len() + 25;
        while received.len() < wanted {
            received.push(ana.next());
        }
        let receipt = match service.status(name) {
            Some(_) => service.take_over(name),
            None => service.swap(name),
        };
        assert_eq!((receipt.transferred >= 1, receipt.dropped), (true, 0));
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = backend.join().expect("the backend was never refused");
    while received.len() < accepted.len() {
        received.push(ana.next());
    }
    ana.expect_nothing();
    let numbers = |messages: &[Value]| -> Vec<u64> {
        messages
            .iter()
            .map(|it| it["data"].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(numbers(&received), accepted);
    assert!(
        received
            .windows(2)
            .all(|two| two[0]["id"].as_str() < two[1]["id"].as_str()),
        "R-DLV-5"
    );
    assert_eq!(numbers(&history(&service, &ana, "room.1")), accepted);
}
