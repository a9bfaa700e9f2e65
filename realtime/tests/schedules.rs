//! What is done later (section 16 of the protocol), against a real server.

mod support;

use serde_json::{Value, json};

use support::{API_KEYS, Answer, Client, Server, expression, in_seconds, token};

fn listener(server: &Server) -> Client {
    let observing =
        json!({"*": {"subscribe": true, "storage": {"*": {"observe": true, "get": true}}}});
    let mut client = server.connect(json!({"uid": "listener", "channels": observing}));
    client.subscribe("room");
    client
}

fn publish(server: &Server, more: Value) -> Answer {
    let mut body = json!({"channel": "room", "event": "reminder"});
    let given = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(given);
    server.publish(body)
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn cancel(server: &Server, id: &str) -> Answer {
    let key = format!("Bearer {}", API_KEYS[1]);
    server.request(
        "DELETE",
        &format!("/schedules/{id}"),
        &[("Authorization", &key)],
        "",
    )
}

/// The last part of a schedule's name.
fn id_of(answer: &Answer) -> String {
    let answer = answer.json();
    let arn = answer["scheduleArn"].as_str().expect("a scheduleArn");
    arn.rsplit('/').next().expect("parts").to_owned()
}

/// It came when it was due: by the time in its id, which was made then (R-SCHED-17), not before and at most a second late.
fn in_time(message: &Value, at: i64) {
    let id: ulid::Ulid = message["id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("a ULID");
    let late = id.timestamp_ms() as i64 - at * 1000;
    assert!((0..=1000).contains(&late), "{late} ms after its time");
}

/// Claims of a user who may plan messages and writes up to a time.
fn planner(before: i64) -> Value {
    let (message, entry) = (
        json!({"publish": true, "scheduleBefore": before}),
        json!({"set": true, "get": true, "scheduleBefore": before}),
    );
    let channel = json!({"alias": "r", "subscribe": true, "messages": {"reminder": message}, "storage": {"k": entry}});
    json!({"uid": "ana", "channels": {"room": channel}})
}

/// R-SCHED-1, R-SCHED-3, R-SCHED-9, R-SCHED-10, R-SCHED-11, R-SCHED-12, R-SCHED-13, R-SCHED-17, R-SRV-7, R-SRV-9
#[test]
fn a_backends_message_is_delivered_at_its_time() {
    let server = Server::with("region = \"eu-north-1\"\n");
    let mut ana = listener(&server);
    let (later, at) = in_seconds(2);
    let answer = publish(&server, json!({"data": 1, "scheduleExpression": later}));
    assert_eq!(answer.status, 202);
    let body = answer.json();
    assert_eq!(
        (&body["channel"], &body["event"]),
        (&json!("room"), &json!("reminder"))
    );
    assert_eq!(
        body.as_object().map(serde_json::Map::len),
        Some(3),
        "{body}"
    );
    let arn = body["scheduleArn"].as_str().expect("a string");
    let (head, id) = arn.rsplit_once('/').expect("parts");
    assert_eq!(
        head, "arn:aws:scheduler:eu-north-1:000000000000:schedule/realtime",
        "R-SCHED-12"
    );
    id.parse::<ulid::Ulid>().expect("R-SCHED-12: a ULID");
    // By another clock, for the same moment; and to whoever is subscribed then.
    let oslo = jiff::Timestamp::from_second(at)
        .expect("a time")
        .in_tz("Europe/Oslo")
        .expect("a zone");
    let oslo = format!("at({})", oslo.strftime("%Y-%m-%dT%H:%M:%S"));
    let zoned =
        json!({"data": 2, "scheduleExpression": oslo, "scheduleExpressionTimezone": "Europe/Oslo"});
    assert_eq!(publish(&server, zoned).status, 202);
    ana.expect_nothing();
    let mut late_comer = listener(&server);
    let mut gone = listener(&server);
    gone.send(json!({"event": "hotsock.unsubscribe", "channel": "room"}));
    gone.expect("hotsock.unsubscribed");
    let mut seen = Vec::new();
    for client in [&mut ana, &mut late_comer] {
        let messages: Vec<_> = (0..2).map(|_| client.expect("reminder")).collect();
        for message in &messages {
            in_time(message, at);
            assert_eq!(
                message.as_object().map(serde_json::Map::len),
                Some(4),
                "{message}"
            );
        }
        seen.push(messages);
    }
    assert_eq!(seen[0], seen[1]);
    gone.expect_nothing();
    ana.expect_nothing();
    assert_eq!(server.metric("realtime_schedules_total"), 2.0);
}

/// R-SCHED-4: neither is it looked at, nor is anything late.
#[test]
fn a_zone_without_an_expression_means_nothing() {
    let server = Server::start();
    let mut ana = listener(&server);
    for zone in ["Europe/Oslo", "Europe/Atlantis", ""] {
        let answer = publish(&server, json!({"scheduleExpressionTimezone": zone}));
        assert_eq!(
            answer.json(),
            json!({"channel": "room", "event": "reminder"})
        );
        ana.expect("reminder");
    }
    let mut ben = server.connect(planner(0));
    ben.subscribe("room");
    ben.send(json!({"channel": "room", "event": "reminder", "scheduleExpressionTimezone": "Europe/Atlantis"}));
    ana.expect("reminder");
}

/// R-SCHED-2, R-SCHED-5, R-JSON-10, R-ERR-4, R-SRV-8
#[test]
fn what_is_no_time_to_come_is_refused_at_every_door() {
    let server = Server::start();
    let mut ana = listener(&server);
    let mut ben = server.connect(planner(4_000_000_000));
    ben.subscribe("room");
    let soon = expression(support::now() as i64 + 3600);
    for (expression, zone, code_expected, hint) in [
        (
            json!("rate(5 minutes)"),
            Value::Null,
            "INVALID_SCHEDULE",
            "rate",
        ),
        (
            json!("cron(0 9 * * ? *)"),
            Value::Null,
            "INVALID_SCHEDULE",
            "cron",
        ),
        (json!(""), Value::Null, "INVALID_SCHEDULE", "at("),
        (json!("tomorrow"), Value::Null, "INVALID_SCHEDULE", "at("),
        (
            json!("at(2099-02-30T00:00:00)"),
            Value::Null,
            "INVALID_SCHEDULE",
            "exist",
        ),
        (
            json!("at(2020-01-01T00:00:00)"),
            Value::Null,
            "INVALID_SCHEDULE",
            "past",
        ),
        (
            json!(soon),
            json!("Europe/Atlantis"),
            "INVALID_SCHEDULE",
            "IANA",
        ),
        (json!(soon), json!("+02:00"), "INVALID_SCHEDULE", "IANA"),
        (json!(soon), json!(""), "INVALID_SCHEDULE", "IANA"),
        // An hour from now in UTC is an hour ago in a zone that is two hours ahead.
        (json!(soon), json!("Etc/GMT-14"), "INVALID_SCHEDULE", "past"),
        (
            json!(4_070_908_800_i64),
            Value::Null,
            "INVALID_MESSAGE",
            "scheduleExpression",
        ),
        (
            json!(soon),
            json!(["UTC"]),
            "INVALID_MESSAGE",
            "scheduleExpressionTimezone",
        ),
    ] {
        let more = json!({"scheduleExpression": expression, "scheduleExpressionTimezone": zone});
        for event in ["reminder", "hotsock.channelStorageSet"] {
            let mut body = more.clone();
            body["event"] = json!(event);
            body["key"] = json!("k");
            let answer = publish(&server, body.clone());
            assert_eq!(
                (answer.status, &*code(&answer)),
                (400, code_expected),
                "{body}"
            );
            assert!(answer.body.contains(hint), "{}", answer.body);
            body["channel"] = json!("r");
            ben.send(body.clone());
            assert_eq!(ben.expect_error(code_expected)["channel"], "r", "{body}");
        }
    }
    ana.expect_nothing();
    assert_eq!(server.metric("realtime_schedules_total"), 0.0);
}

/// R-SCHED-7, R-SCHED-8, R-PERM-14, R-PERM-29, R-PUB-6, R-PUB-7, R-STOR-28, R-ERR-9
#[test]
fn a_client_may_plan_up_to_its_scheduled_before() {
    let server = Server::start();
    let at = support::now() as i64 + 3600;
    let request = |event: &str, at: i64| json!({"channel": "r", "event": event, "key": "k", "data": 1, "scheduleExpression": expression(at)});
    let (message, entry) = ("reminder", "hotsock.channelStorageSet");
    for (before, allowed) in [
        (at, true),
        (at + 1, true),
        (at - 1, false),
        (0, false),
        (1, false),
    ] {
        let mut ana = server.connect(planner(before));
        ana.subscribe("room");
        for event in [message, entry] {
            ana.send(request(event, at));
            match allowed {
                // No acknowledgement (R-ERR-9).
                true => ana.expect_nothing(),
                false => {
                    let error = ana.expect_error("SCHEDULE_PERMISSION_DENIED");
                    assert_eq!(error["channel"], "r");
                }
            }
        }
    }
    assert_eq!(server.metric("realtime_schedules_total"), 4.0);
    // The grant itself is needed as well, and a subscription.
    let mut ana = server.connect(planner(at));
    ana.send(request(message, at));
    ana.expect_error("NOT_SUBSCRIBED");
    ana.send(request("other", at));
    ana.expect_error("PUBLISH_PERMISSION_DENIED");
    let mut denied = planner(at);
    denied["channels"]["room"]["storage"]["*"] = json!({"set": false});
    let mut ana = server.connect(denied);
    ana.send(request(entry, at));
    ana.expect_error("STORAGE_SET_PERMISSION_DENIED");
    assert_eq!(server.metric("realtime_schedules_total"), 4.0);
}

/// R-SCHED-7, R-SCHED-10, R-SCHED-13, R-SCHED-15, R-PUB-12, R-UMD-17: the sender is gone by then.
#[test]
fn a_clients_message_is_delivered_in_its_name_although_it_has_gone() {
    let server = Server::start();
    let mut listener = listener(&server);
    let mut claims = planner(4_000_000_000);
    claims["umd"] = json!({"mood": "calm"});
    let mut ana = server.connect(claims);
    ana.subscribe("room");
    let (later, at) = in_seconds(2);
    ana.send(json!({"channel": "r", "event": "reminder", "data": 1, "scheduleExpression": later}));
    // What it becomes after the acceptance does not matter.
    let update = token(json!({
        "scope": "umd", "uid": "ana", "umd": {"mood": "busy"}, "umdUpdate": true, "umdPropagate": true,
    }));
    ana.send(json!({"event": "hotsock.umdUpdate", "data": {"token": update}}));
    ana.settle();
    ana.close();
    let message = listener.expect("reminder");
    in_time(&message, at);
    assert_eq!(message["channel"], "room");
    assert_eq!(
        message["meta"],
        json!({"uid": "ana", "umd": {"mood": "calm"}})
    );
}

/// R-SCHED-16, R-PUB-9
#[test]
fn the_senders_echo_setting_applies_at_delivery() {
    let server = Server::start();
    let (later, _) = in_seconds(2);
    let senders = [true, false].map(|echo| {
        let mut claims = planner(4_000_000_000);
        claims["channels"]["room"]["messages"]["reminder"]["echo"] = json!(echo);
        let mut ana = server.connect(claims);
        ana.subscribe("room");
        ana.send(json!({"channel": "room", "event": "reminder", "data": echo, "scheduleExpression": later}));
        ana.settle();
        (echo, ana)
    });
    for (echo, mut ana) in senders {
        // The other one's comes in any case, so there is no need to wait for what does not come.
        let mut seen = vec![ana.expect("reminder")["data"] == echo];
        if echo {
            seen.push(ana.expect("reminder")["data"] == echo);
        }
        seen.sort_unstable();
        assert_eq!(seen, if echo { vec![false, true] } else { vec![false] });
        ana.expect_nothing();
    }
}

/// R-STOR-28, R-SCHED-7, R-SCHED-13, R-SCHED-18, R-SCHED-15, R-SRV-21
#[test]
fn a_planned_write_meets_the_value_that_is_current_then() {
    let server = Server::start();
    let mut listener = listener(&server);
    let mut ana = server.connect(planner(4_000_000_000));
    let write = |value: i64, more: Value| {
        let mut body = json!({"event": "hotsock.channelStorageSet", "channel": "room", "key": "k", "data": value});
        let given = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(given);
        body
    };
    assert_eq!(server.publish(write(1, json!({}))).status, 202);
    assert_eq!(listener.next()["data"], 1);
    let (later, at) = in_seconds(2);
    // A change now, equal by then.
    ana.send(write(2, json!({"scheduleExpression": later})));
    ana.settle();
    // Equal now, a change by then.
    let (last, last_at) = (expression(at + 1), at + 1);
    let answer = server.publish(write(
        1,
        json!({"scheduleExpression": last, "eagerIdGeneration": true}),
    ));
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.json().as_object().map(serde_json::Map::len),
        Some(3),
        "no id (R-SRV-21)"
    );
    assert_eq!(answer.json()["event"], "hotsock.channelStorageSet");
    listener.expect_nothing();
    assert_eq!(server.publish(write(2, json!({}))).status, 202);
    assert_eq!(listener.next()["data"], 2);
    let changed = listener.next();
    let now = jiff::Timestamp::now().as_millisecond();
    assert_eq!(changed["data"], 1, "the planned 2 was no change");
    assert_eq!(changed["meta"], json!({"uid": null, "umd": null}));
    assert!(now >= last_at * 1000, "not before its time");
    listener.expect_nothing();
}

/// R-SCHED-17, R-DLV-8, R-SCHED-11
#[test]
fn an_eager_identifier_is_known_at_once_and_used_at_delivery() {
    let server = Server::start();
    let mut ana = listener(&server);
    let (later, at) = in_seconds(2);
    let answer = publish(
        &server,
        json!({"scheduleExpression": later, "eagerIdGeneration": true}),
    )
    .json();
    let id: ulid::Ulid = answer["id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("a ULID");
    assert!(
        (id.timestamp_ms() as i64) < at * 1000,
        "it was made at acceptance"
    );
    assert!(answer["scheduleArn"].is_string());
    assert_eq!(ana.expect("reminder")["id"], answer["id"]);
    let now = jiff::Timestamp::now().as_millisecond();
    assert!(now >= at * 1000, "not before its time");
}

/// R-SRV-16, R-SRV-12, R-SRV-15: what is a copy is decided when it is accepted.
#[test]
fn a_planned_copy_disappears() {
    let server = Server::start();
    let mut ana = listener(&server);
    let (later, _) = in_seconds(2);
    let planned = json!({"data": "planned", "scheduleExpression": later, "deduplicationId": "one"});
    let answers = [0, 1].map(|_| publish(&server, planned.clone()));
    assert!(
        answers
            .iter()
            .all(|it| it.status == 202 && it.json()["scheduleArn"].is_string())
    );
    // The identifier is used up before anything is delivered.
    assert_eq!(
        publish(&server, json!({"data": "now", "deduplicationId": "one"})).status,
        202
    );
    ana.expect_nothing();
    // Something behind it, to know when to stop waiting.
    let end = expression(support::now() as i64 + 4);
    publish(&server, json!({"data": "end", "scheduleExpression": end}));
    assert_eq!(ana.expect("reminder")["data"], "planned");
    assert_eq!(ana.expect("reminder")["data"], "end");
}

/// R-SCHED-14, R-DLV-13
#[test]
fn plans_outlive_the_server_and_what_fell_due_meanwhile_is_done_at_its_start() {
    let mut server = Server::start();
    let (soon, soon_at) = in_seconds(3);
    let (later, later_at) = in_seconds(9);
    let mut claims = planner(4_000_000_000);
    claims["channels"]["room"]["messages"]["reminder"]["store"] = json!(-1);
    let mut ana = server.connect(claims);
    ana.subscribe("room");
    ana.send(json!({"channel": "room", "event": "reminder", "data": "later", "scheduleExpression": later}));
    ana.settle();
    let write = json!({
        "event": "hotsock.channelStorageSet", "channel": "room", "key": "k", "data": "soon", "scheduleExpression": soon,
    });
    assert_eq!(server.publish(write).status, 202);
    // Nobody is left whose goodbye would be waited for.
    ana.close();
    server.await_metric("realtime_connections", 0.0);
    server.end();
    while (support::now() as i64) <= soon_at {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let server = server.again("");
    let observing = json!({"*": {"subscribe": true, "storage": {"k": {"observe": true}}}});
    let mut listener = server.connect(json!({"channels": observing}));
    listener.subscribe("room");
    let entry = listener.expect("hotsock.channelStorageUpdated");
    assert_eq!(entry["data"], "soon", "it was done at the start");
    let message = listener.expect("reminder");
    assert_eq!(message["data"], "later");
    in_time(&message, later_at);
}

/// R-SCHED-15, R-LIM-7, R-SRV-8: what is wrong is told when it is sent.
#[test]
fn names_and_sizes_are_checked_when_it_is_accepted() {
    let server = Server::start();
    let (later, _) = in_seconds(3600);
    let too_large = "x".repeat(32_767);
    for (more, status, code_expected) in [
        (json!({"data": too_large}), 413, "DATA_TOO_LARGE"),
        (json!({"channel": "a*"}), 400, "INVALID_CHANNEL"),
        (json!({"event": "a*"}), 400, "INVALID_EVENT"),
        (json!({"store": -2}), 400, "INVALID_MESSAGE"),
        (
            json!({"event": "hotsock.channelStorageSet"}),
            400,
            "INVALID_KEY",
        ),
        (
            json!({"event": "hotsock.channelStorageSet", "key": "k", "store": 0}),
            400,
            "INVALID_MESSAGE",
        ),
    ] {
        let mut body = more.clone();
        body["scheduleExpression"] = json!(later);
        let answer = publish(&server, body);
        assert_eq!(
            (answer.status, &*code(&answer)),
            (status, code_expected),
            "{code_expected}"
        );
    }
    assert_eq!(server.metric("realtime_schedules_total"), 0.0);
}

/// R-DIFF-10, R-SRV-1, R-ERR-10
#[test]
fn a_plan_can_be_taken_back() {
    let server = Server::start();
    let mut ana = listener(&server);
    let (later, _) = in_seconds(2);
    let planned: Vec<_> = ["first", "second"]
        .map(|data| publish(&server, json!({"data": data, "scheduleExpression": later})))
        .iter()
        .map(id_of)
        .collect();
    let path = format!("/schedules/{}", planned[0]);
    let refused = server.request("DELETE", &path, &[], "");
    assert_eq!((refused.status, &*code(&refused)), (401, "UNAUTHORIZED"));
    let taken = cancel(&server, &planned[0]);
    assert_eq!((taken.status, taken.json()), (200, json!({})));
    for id in [&*planned[0], "01KA5T6Q2M8Y0V3WZ4B7C9D1EF", "x", "%20"] {
        let answer = cancel(&server, id);
        assert_eq!((answer.status, &*code(&answer)), (404, "NOT_FOUND"), "{id}");
    }
    assert_eq!(ana.expect("reminder")["data"], "second");
    let done = cancel(&server, &planned[1]);
    assert_eq!((done.status, &*code(&done)), (404, "NOT_FOUND"));
    let end = expression(support::now() as i64 + 3);
    publish(&server, json!({"data": "end", "scheduleExpression": end}));
    assert_eq!(ana.expect("reminder")["data"], "end");
    for method in ["POST", "PUT"] {
        let answer = server.request(
            method,
            &path,
            &[("Authorization", &format!("Bearer {}", API_KEYS[0]))],
            "",
        );
        assert_eq!(
            (answer.status, &*code(&answer)),
            (405, "METHOD_NOT_ALLOWED")
        );
    }
}
