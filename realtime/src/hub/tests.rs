//! What the hub asks the engine for when clients and backends write, and what it makes of the answers.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use serde_json::{Value, json};
use ulid::Ulid;

use super::scripted::Script;
use super::*;
use crate::api::{self, Asked};
use crate::auth::{SigningKey, mint_hs256};
use crate::config::ApiKey;
use crate::connection::{Identity, Origin};
use crate::engine::{Deferred, Entry, Reacting, Source};
use crate::http::TrustedProxies;
use crate::json::Json;
use crate::metrics::Trigger;

const SECRET: &[u8] = b"a secret for tests, of no use elsewhere";

/// Who sends HTTP requests.
const CALLER: Client = Client {
    key: 999,
    serial: 999,
};

/// A hub with an engine that does what it is told.
struct Stage {
    hub: Hub,
    script: Script,
}

impl Stage {
    fn new() -> Self {
        let key = base64::engine::general_purpose::STANDARD.encode(SECRET);
        let key = SigningKey::parse("HS256", "", &key).expect("a key");
        let verifier = Verifier::new(vec![key], None, None, std::time::Duration::ZERO);
        let metrics = Metrics::new(SystemTime::now(), "1.13");
        let script = Script::default();
        let engine = Box::new(script.clone());
        let hub = Hub::new(&Settings::default(), verifier, metrics, engine);
        Self { hub, script }
    }

    /// A client connects.
    fn connect(&mut self, key: Key, channels: Value) -> ConnectionId {
        self.hub.outboxes.open(key);
        let claims = json!({
            "scope": "connect", "exp": 4_000_000_000_u64, "uid": format!("u{key}"), "channels": channels,
        });
        let request = ::http::Request::get(format!("/v1?token={}", mint_hs256(SECRET, &claims)))
            .header("Host", "test")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Vec::new())
            .expect("a request");
        let client = Client {
            key,
            serial: key as u64 + 1,
        };
        let refused = self
            .hub
            .upgrade(Now::read(), client, &request, socket_origin());
        assert!(refused.is_none());
        self.read(key);
        self.hub.notices.clear();
        self.hub.connection(key).expect("it is open").id
    }

    /// A client sends a message.
    fn send(&mut self, key: Key, message: Value) {
        let text = message.to_string();
        self.hub.incoming(Now::read(), key, Incoming::Text(&text));
    }

    /// A client subscribes, and the engine has nothing against it.
    fn subscribe(&mut self, key: Key, channel: &str) {
        self.send(
            key,
            json!({"event": "hotsock.subscribe", "channel": channel}),
        );
        let (ticket, _) = self.script.asked().expect("a join");
        self.answer(ticket, joined(Vec::new()));
        self.read(key);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.script.answer(ticket, answer);
        self.hub.pump(Now::read());
    }

    /// What was asked next.
    fn asked(&self) -> (Ticket, Request) {
        self.script.asked().expect("a request")
    }

    /// Takes what waits for a client, as text: nothing is compressed.
    fn read(&mut self, key: Key) -> String {
        self.hub.outboxes.take_news(&mut Vec::new());
        let outbox = self.hub.outboxes.of(key);
        let bytes: Vec<u8> = outbox.pending().flatten().copied().collect();
        outbox.wrote(bytes.len());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The answer to an HTTP request, if there is one.
    fn answered(&mut self) -> Option<(u16, Value)> {
        self.hub.notices.drain(..).find_map(|notice| match notice {
            Notice::Answered(CALLER, answer) => {
                let body = serde_json::from_slice(answer.body()).expect("JSON");
                Some((answer.status().as_u16(), body))
            }
            _ => None,
        })
    }

    /// A backend publishes.
    fn publish(&mut self, body: Value) {
        let request = ::http::Request::post("/publish")
            .header("Authorization", format!("Bearer {}", "k".repeat(40)))
            .header("User-Agent", "backend/1.0")
            .header("X-Forwarded-For", "203.0.113.9, 198.51.100.7")
            .body(body.to_string().into_bytes())
            .expect("a request");
        let settings = Settings {
            api_keys: vec![ApiKey::parse(&"k".repeat(40)).expect("a key")],
            ..Settings::default()
        };
        let proxies = TrustedProxies::new(&[
            "198.51.100.0/24".parse().expect("a network"),
            "10.0.0.1".parse().expect("a network"),
        ]);
        let asked = Asked {
            settings: &settings,
            proxies: &proxies,
            peer: Some([10, 0, 0, 1].into()),
            operations: false,
            started: Instant::now(),
            draining: false,
        };
        let (_, answer) = api::handle(&mut self.hub, Now::read(), CALLER, &request, &asked);
        assert!(answer.is_none(), "{answer:?}");
    }

    /// A client sends a message over HTTP, in the name of a connection.
    fn call(&mut self, key: Key, message: Value) -> Result<(), Failure> {
        let (text, origin) = (message.to_string(), call_origin());
        let message = protocol::parse(&text).expect("a message");
        let done = self.hub.client_publish(
            Now::read(),
            &Asker::Request(CALLER),
            key,
            &message,
            Via::Http(&origin),
        );
        self.hub.pump(Now::read());
        done
    }
}

fn socket_origin() -> Origin {
    Origin {
        source_ip: Some([192, 0, 2, 1].into()),
        user_agent: Some("socket/1.0".into()),
    }
}

fn call_origin() -> Origin {
    Origin {
        source_ip: Some([192, 0, 2, 2].into()),
        user_agent: Some("page/1.0".into()),
    }
}

fn joined(observed: Vec<Entry>) -> Answer {
    Answer::Joined {
        members: None,
        observed,
    }
}

/// Where something came from, without the name of its request, which is a UUID.
fn came(source: &Option<Arc<Source>>) -> (Trigger, Option<ConnectionId>, Origin) {
    let source = source.as_ref().expect("a source");
    let id = uuid::Uuid::parse_str(&source.request_id).expect("R-EVT-28: a UUID");
    assert_eq!((id.get_version_num(), source.request_id.len()), (4, 36));
    (source.trigger, source.connection, source.origin.clone())
}

/// Everything that a client may do with its messages, by event.
fn directives() -> Value {
    json!({"a": {"subscribe": true, "messages": {
        "plain": {"broadcast": true}, "kept": {"broadcast": true, "store": 60},
        "told": {"broadcast": true, "emitPubSubEvent": true},
        "later": {"broadcast": true, "scheduleBefore": 4_000_000_000_u64},
        "chat": {"react": true}, "told chat": {"react": true, "emitPubSubEvent": true},
    }, "storage": {
        "plain": {"set": true}, "told": {"set": true, "emitPubSubEvent": true, "store": 7},
    }}})
}

const LATER: &str = "at(2090-01-01T00:00:00)";

/// R-PUB-14, R-PUB-15, R-HIST-10, R-EVT-28, R-DLV-12: what is kept, told or planned notes where it came from; a plain message
/// carries nothing more than before, and nobody waits for it.
#[test]
fn a_message_says_where_it_came_from_only_if_somebody_may_ask() {
    let mut stage = Stage::new();
    let id = stage.connect(0, directives());
    let mut seen = Vec::new();
    for event in ["plain", "kept", "told", "later"] {
        let mut message = json!({"event": event, "channel": "a", "data": 1});
        if event == "later" {
            message["scheduleExpression"] = json!(LATER);
        }
        stage.send(0, message);
        assert!(!stage.hub.is_parked(0), "fire and forget");
        let publish = match stage.asked().1 {
            Request::Publish(publish) => publish,
            Request::Schedule {
                at,
                deferred: Deferred::Publish(publish),
                eager,
            } => {
                assert_eq!(
                    (at.to_string(), eager),
                    ("2090-01-01T00:00:00Z".to_owned(), false)
                );
                publish
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(publish.except, Some(id), "R-PUB-9");
        if event == "plain" {
            assert!(publish.source.is_none());
        } else {
            let expected = (Trigger::ClientWebSocket, Some(id), socket_origin());
            assert_eq!(came(&publish.source), expected);
        }
        seen.push((publish.store, publish.emit, stage.hub.waiting.len()));
    }
    // What is only told of is not waited for either.
    assert_eq!(
        seen,
        [(0, false, 0), (60, false, 1), (0, true, 1), (0, false, 2)]
    );
}

/// R-HTTP-33, R-EVT-15, R-EVT-27: over HTTP it is the request that counts, which may come from elsewhere.
#[test]
fn what_is_sent_over_http_comes_from_the_request() {
    let mut stage = Stage::new();
    let id = stage.connect(0, directives());
    stage
        .call(0, json!({"event": "kept", "channel": "a"}))
        .expect("permitted");
    let (ticket, Request::Publish(publish)) = stage.asked() else {
        panic!("a publish");
    };
    assert_eq!(
        came(&publish.source),
        (Trigger::ClientHttp, Some(id), call_origin())
    );
    stage.answer(ticket, Answer::Published(Ulid(7)));
    assert_eq!(
        stage.answered(),
        Some((202, json!({"channel": "a", "event": "kept"}))),
        "R-HTTP-30"
    );
}

/// R-SRV-11, R-SRV-19, R-EVT-27, R-EVT-28, R-CFG-5: the address of a backend is what trusted proxies say.
#[test]
fn a_backends_source_is_its_own_address() {
    let mut stage = Stage::new();
    let origin = Origin {
        source_ip: Some([203, 0, 113, 9].into()),
        user_agent: Some("backend/1.0".into()),
    };
    for (more, emit, has_source) in [
        (json!({}), false, false),
        (json!({"emitPubSubEvent": false}), false, false),
        (json!({"emitPubSubEvent": true}), true, true),
        (json!({"store": 5}), false, true),
        (json!({"scheduleExpression": LATER}), false, true),
        (
            json!({"event": "hotsock.channelStorageSet", "key": "k"}),
            false,
            false,
        ),
        (
            json!({"event": "hotsock.channelStorageSet", "key": "k", "emitPubSubEvent": true}),
            true,
            true,
        ),
        (
            json!({"event": "hotsock.channelStorageSet", "key": "k", "scheduleExpression": LATER}),
            false,
            true,
        ),
    ] {
        let mut body = json!({"channel": "a", "event": "e"});
        let given = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(given);
        stage.publish(body);
        let (emitted, source) = match stage.asked().1 {
            Request::Publish(it) => (it.emit, it.source),
            Request::Write(it) => (it.emit, it.source),
            Request::Schedule {
                deferred: Deferred::Publish(it),
                ..
            } => (it.emit, it.source),
            Request::Schedule {
                deferred: Deferred::Write(it),
                ..
            } => (it.emit, it.source),
            other => panic!("{other:?}"),
        };
        assert_eq!(emitted, emit, "{more}");
        assert_eq!(source.is_some(), has_source, "{more}");
        if source.is_some() {
            assert_eq!(came(&source), (Trigger::ServerHttp, None, origin.clone()));
        }
    }
}

/// R-STOR-20, R-STOR-31, R-PERM-28
#[test]
fn a_write_is_as_its_directive_says() {
    let mut stage = Stage::new();
    let id = stage.connect(0, directives());
    for (key, store, emit) in [("plain", -1, false), ("told", 7, true)] {
        stage.send(0, json!({"event": "hotsock.channelStorageSet", "channel": "a", "key": key, "data": 1, "store": 1}));
        let (_, Request::Write(write)) = stage.asked() else {
            panic!("a write");
        };
        assert_eq!((write.store, write.emit, &*write.key), (store, emit, key));
        assert_eq!(write.meta.uid.as_deref(), Some("u0"));
        assert_eq!(write.source.is_some(), emit);
        if emit {
            assert_eq!(came(&write.source).1, Some(id));
        }
    }
}

/// R-OPS-2, R-ERR-1, R-ERR-4: what the engine could not do is said: in the channel as it was called, or as a 503, in the
/// engine's own words.
#[test]
fn what_the_engine_could_not_do_is_told() {
    const WHY: &str = "the database can't be written at the moment";
    let mut stage = Stage::new();
    let mut directives = directives();
    directives["a"]["alias"] = json!("alias");
    directives["a"]["storage"]["plain"]["get"] = json!(true);
    stage.connect(0, directives);
    stage.subscribe(0, "a");
    let reaction = json!({"messageId": Ulid(1).to_string(), "reaction": "x", "action": "add"});
    let requests = [
        json!({"event": "kept", "channel": "alias"}),
        json!({"event": "later", "channel": "alias", "scheduleExpression": LATER}),
        json!({"event": "hotsock.channelStorageSet", "channel": "alias", "key": "plain", "data": 1}),
        json!({"event": "hotsock.channelStorageGet", "channel": "alias", "key": "plain"}),
        json!({"event": "hotsock.messageReaction", "channel": "alias", "data": reaction}),
    ];
    for request in &requests {
        stage.send(0, request.clone());
        assert_eq!(stage.read(0), "", "{request}");
        let (ticket, _) = stage.asked();
        stage.answer(ticket, Answer::Unavailable(WHY));
        let seen = stage.read(0);
        let expected = json!({
            "event": "hotsock.error", "channel": "alias", "error": {"code": "INTERNAL_ERROR", "message": WHY},
        });
        assert!(
            seen.ends_with(&expected.to_string()) || seen.contains(WHY),
            "{request}: {seen}"
        );
        assert!(
            seen.contains(r#""channel":"alias""#) && seen.contains("INTERNAL_ERROR"),
            "{seen}"
        );
        assert!(!stage.hub.is_parked(0));
    }
    // A plain message has nobody who would wait for it.
    stage.send(0, json!({"event": "plain", "channel": "a"}));
    let (ticket, _) = stage.asked();
    stage.answer(ticket, Answer::Unavailable(WHY));
    assert_eq!(stage.read(0), "");
    // Over HTTP.
    stage.call(0, requests[0].clone()).expect("permitted");
    let (ticket, _) = stage.asked();
    stage.answer(ticket, Answer::Unavailable(WHY));
    let refused = json!({"error": {"code": "INTERNAL_ERROR", "message": WHY}});
    assert_eq!(stage.answered(), Some((503, refused.clone())));
    for body in [
        json!({"channel": "a", "event": "e"}),
        json!({"channel": "a", "event": "hotsock.channelStorageSet", "key": "k"}),
        json!({"channel": "a", "event": "hotsock.messageReaction", "data": reaction, "meta": {"uid": "b"}}),
    ] {
        stage.publish(body);
        let (ticket, _) = stage.asked();
        stage.answer(ticket, Answer::Unavailable(WHY));
        assert_eq!(stage.answered(), Some((503, refused.clone())));
    }
    assert!(stage.hub.waiting.is_empty());
}

/// R-DLV-9, R-CONN-22: who sends faster than is written waits, and nobody else does.
#[test]
fn a_client_is_not_heard_while_too_much_of_it_is_being_kept() {
    let mut stage = Stage::new();
    for key in [0, 1] {
        stage.connect(key, directives());
    }
    let mut sent = 0;
    while !stage.hub.is_parked(0) {
        stage.send(0, json!({"event": "kept", "channel": "a", "data": sent}));
        sent += 1;
        assert!(sent <= 1_000, "it has a bound");
    }
    assert!(sent > 1, "one at a time would be slow");
    stage.send(1, json!({"event": "kept", "channel": "a"}));
    assert!(!stage.hub.is_parked(1));
    let tickets: Vec<_> = std::iter::from_fn(|| stage.script.asked())
        .map(|it| it.0)
        .collect();
    assert_eq!(tickets.len(), sent + 1);
    for &ticket in &tickets {
        stage.answer(ticket, Answer::Published(Ulid(1)));
    }
    assert!(!stage.hub.is_parked(0), "all is answered");
    assert!(stage.hub.waiting.is_empty());
    // And as much as before is possible again.
    for number in 0..sent {
        assert!(!stage.hub.is_parked(0), "{number}");
        stage.send(0, json!({"event": "kept", "channel": "a"}));
    }
    assert!(stage.hub.is_parked(0));
}

/// R-SUB-1, R-CONN-23: an answer is for whoever asked, not for whoever has its number next.
#[test]
fn a_late_answer_is_for_nobody_else() {
    let mut stage = Stage::new();
    let mut directives = directives();
    directives["a"]["storage"]["plain"]["get"] = json!(true);
    stage.connect(0, directives.clone());
    stage.send(0, json!({"event": "kept", "channel": "a"}));
    stage.send(
        0,
        json!({"event": "hotsock.channelStorageGet", "channel": "a", "key": "plain"}),
    );
    let (first, _) = stage.asked();
    let (second, _) = stage.asked();
    stage.hub.forget(Now::read(), 0, Closed::Transport);
    stage.connect(0, directives);
    stage.hub.connections[0]
        .as_mut()
        .expect("it is open")
        .serial = 77;
    stage.answer(first, Answer::Unavailable("away"));
    stage.answer(second, Answer::Entry(None));
    assert_eq!(stage.read(0), "");
    assert!(!stage.hub.is_parked(0) && stage.hub.waiting.is_empty());
}

/// R-STOR-25, R-STOR-26, R-STOR-27: storage is asked for only where a token can grant it, and then by its keys; what comes
/// of it follows the confirmation at once.
#[test]
fn a_subscription_asks_for_what_it_observes_and_for_nothing_else() {
    let mut stage = Stage::new();
    let observing =
        json!({"storage": {"k*": {"observe": true}, "kx": {"observe": false}}, "subscribe": true});
    stage.connect(0, json!({"*": {"subscribe": true}, "watched": observing, "read": {"storage": {"*": {"get": true}}}}));
    for (channel, expected) in [("a", false), ("read", false), ("watched", true)] {
        stage.send(0, json!({"event": "hotsock.subscribe", "channel": channel}));
        let (ticket, Request::Join { observe, .. }) = stage.asked() else {
            panic!("a join");
        };
        assert_eq!(observe.is_some(), expected, "{channel}");
        let entries = observe.map_or(Vec::new(), |keys| {
            let permitted: Vec<_> = ["k", "k1", "kx", "x"]
                .into_iter()
                .filter(|key| keys.permit(key))
                .collect();
            assert_eq!(permitted, ["k", "k1"]);
            permitted
        });
        let entries: Vec<_> = entries
            .into_iter()
            .map(|key| Entry {
                key: key.into(),
                value: Json::null(),
                meta: Identity::default(),
            })
            .collect();
        let count = entries.len();
        stage.script.answer(ticket, joined(entries));
        // A message of the channel that is next in the engine's order.
        stage.script.say(Outcome::Reaction {
            id: Ulid(1),
            reacting: reacting(channel),
        });
        stage.hub.pump(Now::read());
        let seen = stage.read(0);
        let at = |what: &str| seen.find(what).unwrap_or_else(|| panic!("{what}: {seen}"));
        assert_eq!(seen.matches("channelStorageUpdated").count(), count);
        assert!(at("hotsock.subscribed") < at("messageReactionAdded"));
        if count > 0 {
            assert!(at("hotsock.subscribed") < at(r#""key":"k","#));
            assert!(at(r#""key":"k","#) < at(r#""key":"k1","#));
            assert!(at(r#""key":"k1","#) < at("messageReactionAdded"));
        }
    }
    // Too much: no subscription, and it is said why.
    stage.send(0, json!({"event": "hotsock.subscribe", "channel": "b"}));
    let (ticket, _) = stage.asked();
    stage.answer(ticket, Answer::TooMuch);
    let seen = stage.read(0);
    assert!(
        seen.contains("RATE_LIMITED") && seen.contains(r#""channel":"b""#),
        "{seen}"
    );
    assert!(!stage.hub.is_parked(0));
    assert_eq!(stage.hub.metrics.subscriptions.get(), 3);
}

fn reacting(channel: &str) -> Reacting {
    Reacting {
        channel: channel.into(),
        message: Ulid(1),
        reaction: "x".into(),
        add: true,
        uid: "u".into(),
        umd: None,
        except: None,
        emit: false,
        source: Arc::new(Source {
            trigger: Trigger::ServerHttp,
            connection: None,
            origin: Origin::default(),
            request_id: "".into(),
        }),
    }
}

/// R-REACT-5, R-REACT-11, R-REACT-16, R-CONN-22: the event of the message decides, and the client waits for it.
#[test]
fn a_reaction_is_decided_by_the_event_of_its_message() {
    let mut stage = Stage::new();
    let id = stage.connect(0, directives());
    stage.subscribe(0, "a");
    let data = json!({"messageId": Ulid(9).to_string(), "reaction": "x", "action": "remove"});
    for (event, expected) in [
        ("chat", Some(false)),
        ("told chat", Some(true)),
        ("plain", None),
    ] {
        stage.send(
            0,
            json!({"event": "hotsock.messageReaction", "channel": "a", "data": data}),
        );
        let (ticket, Request::Find { channel, message }) = stage.asked() else {
            panic!("it looks for the message");
        };
        assert_eq!((&*channel, message), ("a", Ulid(9)));
        assert!(stage.hub.is_parked(0));
        stage.answer(ticket, Answer::Found(Some(event.into())));
        assert!(!stage.hub.is_parked(0));
        let Some(emit) = expected else {
            assert!(stage.read(0).contains("REACTION_PERMISSION_DENIED"));
            continue;
        };
        let (ticket, Request::React(reacting)) = stage.asked() else {
            panic!("it reacts");
        };
        assert_eq!(
            (reacting.emit, reacting.add, reacting.except),
            (emit, false, Some(id))
        );
        assert_eq!(
            (&*reacting.uid, &*reacting.reaction, reacting.message),
            ("u0", "x", Ulid(9))
        );
        assert_eq!(
            came(&Some(reacting.source)),
            (Trigger::ClientWebSocket, Some(id), socket_origin())
        );
        stage.answer(ticket, Answer::Done);
        assert_eq!(stage.read(0), "", "R-ERR-9");
        // It may have gone between the two questions.
        stage.send(
            0,
            json!({"event": "hotsock.messageReaction", "channel": "a", "data": data}),
        );
        let (ticket, _) = stage.asked();
        stage.answer(ticket, Answer::Found(Some(event.into())));
        let (ticket, _) = stage.asked();
        stage.answer(ticket, Answer::NotFound);
        assert!(stage.read(0).contains("MESSAGE_NOT_FOUND"));
    }
    assert!(stage.hub.waiting.is_empty());
}

/// R-HTTP-3, R-REACT-2, R-PERM-18: over HTTP nothing waits, so that the subscription, or the connection, may have ended while
/// the engine looked for the message.
#[test]
fn a_reaction_over_http_is_permitted_by_what_is_when_it_is_decided() {
    let mut stage = Stage::new();
    stage.connect(0, directives());
    let data = json!({"messageId": Ulid(9).to_string(), "reaction": "x", "action": "add"});
    let message = json!({"event": "hotsock.messageReaction", "channel": "a", "data": data});
    let find = |stage: &mut Stage| {
        stage.call(0, message.clone()).expect("subscribed");
        assert!(!stage.hub.is_parked(0));
        stage.asked().0
    };
    let found = || Answer::Found(Some("chat".into()));
    stage.subscribe(0, "a");
    let ticket = find(&mut stage);
    stage.answer(ticket, found());
    let (ticket, Request::React(reacting)) = stage.asked() else {
        panic!("it reacts");
    };
    assert_eq!(came(&Some(reacting.source)).2, call_origin());
    stage.answer(ticket, Answer::Done);
    let accepted = json!({"channel": "a", "event": "hotsock.messageReaction"});
    assert_eq!(stage.answered(), Some((202, accepted)), "R-REACT-14");
    let code = |answer: Option<(u16, Value)>| {
        let (status, body) = answer.expect("an answer");
        (
            status,
            body["error"]["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let ticket = find(&mut stage);
    stage.send(0, json!({"event": "hotsock.unsubscribe", "channel": "a"}));
    stage.answer(ticket, found());
    assert_eq!(code(stage.answered()), (403, "NOT_SUBSCRIBED".to_owned()));
    stage.asked();
    stage.subscribe(0, "a");
    let ticket = find(&mut stage);
    stage.hub.forget(Now::read(), 0, Closed::Transport);
    stage.answer(ticket, found());
    assert_eq!(code(stage.answered()), (401, "UNAUTHORIZED".to_owned()));
    assert!(stage.hub.waiting.is_empty());
}

/// R-SCHED-11, R-SCHED-12, R-SCHED-17, R-HTTP-30, R-HTTP-38
#[test]
fn a_schedule_is_named_over_http() {
    let mut stage = Stage::new();
    stage.connect(0, directives());
    let arn = format!(
        "arn:aws:scheduler:local:000000000000:schedule/realtime/{}",
        Ulid(5)
    );
    for eager in [false, true] {
        let message = json!({
            "event": "later", "channel": "a", "scheduleExpression": "at(2090-01-01T00:00:00)",
            "scheduleExpressionTimezone": "Europe/Oslo", "eagerIdGeneration": eager,
        });
        stage.call(0, message).expect("permitted");
        let (
            ticket,
            Request::Schedule {
                at, eager: asked, ..
            },
        ) = stage.asked()
        else {
            panic!("a schedule");
        };
        assert_eq!(
            (at.to_string(), asked),
            ("2089-12-31T23:00:00Z".to_owned(), eager)
        );
        let schedule = Ulid(5);
        let message = eager.then_some(Ulid(6));
        stage.answer(ticket, Answer::Scheduled { schedule, message });
        let mut expected = json!({"channel": "a", "event": "later", "scheduleArn": arn});
        if eager {
            expected["id"] = json!(Ulid(6).to_string());
        }
        assert_eq!(stage.answered(), Some((202, expected)));
    }
}

/// R-CONN-22, R-DLV-10: as long as something is being kept, what could overtake it waits, and what the engine puts behind it
/// does not.
#[test]
fn what_follows_something_that_is_being_kept_does_not_overtake_it() {
    let mut directives = directives();
    directives["a"]["storage"]["plain"]["get"] = json!(true);
    directives["b"] = json!({"messages": {
        "plain": {"broadcast": true}, "kept": {"broadcast": true, "store": 60}, "later": {"broadcast": true},
    }, "storage": {"k": {"set": true, "get": true}}});
    let kept = json!({"event": "kept", "channel": "a"});
    for (message, waits) in [
        (json!({"event": "plain", "channel": "a"}), false),
        (json!({"event": "kept", "channel": "b"}), false),
        (
            json!({"event": "hotsock.channelStorageSet", "channel": "b", "key": "k"}),
            false,
        ),
        (
            json!({"event": "hotsock.channelStorageGet", "channel": "a", "key": "plain"}),
            false,
        ),
        (json!({"event": "hotsock.heartbeat"}), false),
        (json!({"event": "plain", "channel": "b"}), true),
        (
            json!({"event": "hotsock.channelStorageGet", "channel": "b", "key": "k"}),
            true,
        ),
        (
            json!({"event": "hotsock.unsubscribe", "channel": "a"}),
            true,
        ),
        (json!({"event": "hotsock.subscribe", "channel": "b"}), true),
        (json!({"event": "hotsock.ping"}), true),
        (json!({"event": "hotsock.unknown"}), true),
    ] {
        let mut stage = Stage::new();
        stage.connect(0, directives.clone());
        stage.subscribe(0, "a");
        stage.send(0, kept.clone());
        let (first, Request::Publish(publish)) = stage.asked() else {
            panic!("a publish");
        };
        stage.send(0, kept.clone());
        let (second, _) = stage.asked();
        stage.send(0, message.clone());
        if !waits {
            assert_eq!(stage.read(0), "", "{message}");
            let is_read = message["event"] == "hotsock.channelStorageGet";
            assert_eq!(stage.hub.is_parked(0), is_read, "{message}");
            continue;
        }
        assert!(stage.hub.is_parked(0), "{message}");
        stage.answer(first, Answer::Published(Ulid(1)));
        assert!(
            stage.hub.is_parked(0) && stage.script.asked().is_none(),
            "{message}"
        );
        assert_eq!(stage.read(0), "", "{message}");
        // The answer to the last one, and then what it has caused: that is told before what was held is done.
        stage.script.answer(second, Answer::Published(Ulid(2)));
        let publish = crate::engine::Publish {
            except: None,
            ..publish
        };
        stage.script.say(Outcome::Message(Ulid(2), publish));
        stage.hub.pump(Now::read());
        let done = stage.read(0);
        let asked = stage.script.asked().is_some();
        let told = done.find(r#""event":"kept""#).expect("it is told");
        let answered = done.find("hotsock.").is_some_and(|at| at > told);
        assert!(asked || answered, "{message}: it is done now: {done}");
        assert!(
            stage
                .hub
                .connection(0)
                .is_some_and(|it| it.entrusted.is_none())
        );
    }
}

/// R-HIST-5, R-DLV-1: a message that comes while the engine is busy with a subscription reaches its client, so it is in the
/// client's history, too.
#[test]
fn a_history_begins_when_the_subscription_was_asked_for() {
    let mut stage = Stage::new();
    let id = stage.connect(0, json!({"a": {"subscribe": true}}));
    let asked = Now::read();
    let text = json!({"event": "hotsock.subscribe", "channel": "a"}).to_string();
    stage.hub.incoming(asked, 0, Incoming::Text(&text));
    let (ticket, _) = stage.asked();
    stage.script.answer(ticket, joined(Vec::new()));
    let later = Now {
        wall: asked.wall + Duration::from_secs(3),
        mono: asked.mono + Duration::from_secs(3),
    };
    stage.hub.pump(later);
    let call = calls::Call {
        endpoint: calls::Endpoint::ListMessages,
        secret: stage.hub.connection(0).expect("it is open").secret,
        body: br#"{"channel":"a"}"#.to_vec(),
        origin: Origin::default(),
    };
    let called = stage.hub.call(later, CALLER, id, &call);
    assert_eq!(called, Ok(()));
    let (_, Request::History(history)) = stage.asked() else {
        panic!("no history was asked for");
    };
    assert_eq!(history.since_ms, asked.wall.as_millisecond());
}
