//! Backends are told what happens (section 20 of the protocol): over SNS and EventBridge of an AWS endpoint that we did not
//! write, a webhook and standard output; through outages, kills, full disks, reloads and swaps.
#[path = "support/emulator.rs"]
mod emulator;
mod support;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::Emulator;
use serde_json::{Value, json};
use support::service::Service;
use support::{Client, PATIENCE, Server, libc_signal, token};
use tempfile::TempDir;

const REGION: &str = "eu-central-1";

/// Longer than any other patience: what failed is sent again at growing intervals.
const LATER: std::time::Duration = std::time::Duration::from_secs(90);

/// An AWS endpoint with a topic and a bus, each with a queue behind it.
struct Cloud {
    runtime: tokio::runtime::Runtime,
    emulator: Emulator,
    sqs: aws_sdk_sqs::Client,
    topic: String,
    of_topic: String,
    of_bus: String,
}

impl Cloud {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let emulator = Emulator::start();
        let (sqs, topic, of_topic, of_bus) = runtime.block_on(async {
            let credentials =
                aws_credential_types::Credentials::new("test", "test", None, None, "tests");
            let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
                .endpoint_url(emulator.endpoint())
                .region(aws_config::Region::new(REGION))
                .credentials_provider(credentials)
                .load()
                .await;
            let sqs = aws_sdk_sqs::Client::new(&config);
            let sns = aws_sdk_sns::Client::new(&config);
            let bus = aws_sdk_eventbridge::Client::new(&config);
            let (of_topic, topic_queue) = queue(&sqs, "of-topic").await;
            let (of_bus, bus_queue) = queue(&sqs, "of-bus").await;
            let topic = sns
                .create_topic()
                .name("events")
                .send()
                .await
                .expect("a topic");
            let topic = topic.topic_arn().expect("its ARN").to_owned();
            sns.subscribe()
                .topic_arn(&topic)
                .protocol("sqs")
                .endpoint(topic_queue)
                .send()
                .await
                .expect("a subscription");
            bus.create_event_bus()
                .name("chat")
                .send()
                .await
                .expect("a bus");
            bus.put_rule()
                .name("all")
                .event_bus_name("chat")
                .event_pattern(r#"{"source":["hotsock.v1"]}"#)
                .send()
                .await
                .expect("a rule");
            let target = aws_sdk_eventbridge::types::Target::builder()
                .id("queue")
                .arn(bus_queue)
                .build()
                .expect("a target");
            bus.put_targets()
                .rule("all")
                .event_bus_name("chat")
                .targets(target)
                .send()
                .await
                .expect("a target");
            (sqs, topic, of_topic, of_bus)
        });
        Self {
            runtime,
            emulator,
            sqs,
            topic,
            of_topic,
            of_bus,
        }
    }

    fn settings(&self, endpoint: &str) -> String {
        format!(
            "events.endpoint_url = \"{endpoint}\"\nevents.region = \"{REGION}\"\n\
            events.sns.topic_arn = \"{}\"\nevents.eventbridge.bus = \"chat\"\n",
            self.topic
        )
    }

    /// Takes messages from a queue until there are as many different ones as wanted; `id` tells them apart.
    fn take(&self, queue: &str, wanted: usize, id: impl Fn(&Value) -> String) -> Vec<Value> {
        let begun = Instant::now();
        let (mut taken, mut seen) = (Vec::new(), HashSet::new());
        while seen.len() < wanted {
            assert!(
                begun.elapsed() < LATER,
                "{} of {wanted}: {taken:#?}",
                seen.len()
            );
            for message in self.receive(queue, 1) {
                if seen.insert(id(&message)) {
                    taken.push(message);
                }
            }
        }
        taken
    }

    /// Takes messages from a queue until all of these numbers have come.
    fn take_all(
        &self,
        queue: &str,
        wanted: std::ops::RangeInclusive<u32>,
        number: impl Fn(&Value) -> String,
    ) {
        let begun = Instant::now();
        let mut missing: HashSet<_> = wanted.map(|n| n.to_string()).collect();
        while !missing.is_empty() {
            assert!(begun.elapsed() < LATER, "missing: {missing:?}");
            for message in self.receive(queue, 1) {
                missing.remove(&number(&message));
            }
        }
    }

    /// What is in a queue now, ten messages at most.
    fn receive(&self, queue: &str, seconds: i32) -> Vec<Value> {
        self.runtime.block_on(async {
            let received = self
                .sqs
                .receive_message()
                .queue_url(queue)
                .max_number_of_messages(10)
                .wait_time_seconds(seconds)
                .send()
                .await
                .expect("the queue answers");
            let mut bodies = Vec::new();
            for message in received.messages() {
                let handle = message.receipt_handle().unwrap_or_default();
                self.sqs
                    .delete_message()
                    .queue_url(queue)
                    .receipt_handle(handle)
                    .send()
                    .await
                    .expect("it is deleted");
                let body = message.body().expect("a body");
                bodies.push(serde_json::from_str(body).expect("JSON"));
            }
            bodies
        })
    }
}

async fn queue(sqs: &aws_sdk_sqs::Client, name: &str) -> (String, String) {
    let made = sqs
        .create_queue()
        .queue_name(name)
        .send()
        .await
        .expect("a queue");
    let url = made.queue_url().expect("its URL").to_owned();
    (url, format!("arn:aws:sqs:{REGION}:000000000000:{name}"))
}

/// What the AWS SDK of the server finds in its environment.
fn credentials() -> [(&'static str, PathBuf); 3] {
    [
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
    ]
}

fn launch(dir: TempDir, settings: &str) -> Server {
    Server::launch_with(dir, settings, &[], &credentials())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The event in a message that SNS put into a queue.
fn of_sns(message: &Value) -> Value {
    serde_json::from_str(message["Message"].as_str().expect("a message")).expect("an event")
}

/// A name for an event, by what it says.
fn name(event: &Value) -> String {
    format!("{} {} {}", event["type"], event["metadata"], event["data"])
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

/// What leads to the AWS endpoint, and may be shut: then connections are refused.
struct Door {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    open: Option<Arc<AtomicBool>>,
}

impl Door {
    /// Shut.
    fn before(url: &str) -> Self {
        Self {
            address: ([127, 0, 0, 1], support::redis::free_port()).into(),
            to: Arc::new(Mutex::new(socket_of(url))),
            open: None,
        }
    }

    /// New connections go there from now on.
    fn lead_to(&self, url: &str) {
        *self.to.lock().expect("no panic") = socket_of(url);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn open(&mut self) {
        let begun = Instant::now();
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let open = Arc::new(AtomicBool::new(true));
        self.open = Some(open.clone());
        let to = self.to.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !open.load(Ordering::SeqCst) {
                    break;
                }
                let at = *to.lock().expect("no panic");
                let Ok(other) = TcpStream::connect(at) else {
                    continue;
                };
                for (from, to) in [(&stream, &other), (&other, &stream)] {
                    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else {
                        continue;
                    };
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
    }
}

fn socket_of(url: &str) -> SocketAddr {
    let address = url.trim_start_matches("http://").parse();
    address.expect("an address")
}

/// A backend's HTTP server, which writes down what it gets.
#[derive(Clone)]
struct Hook {
    address: SocketAddr,
    state: Arc<(Mutex<HookState>, Condvar)>,
}

#[derive(Default)]
struct HookState {
    /// What it answers.
    status: u16,
    requests: Vec<Posted>,
    /// Connections.
    open: usize,
}

#[derive(Clone, Debug)]
struct Posted {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Posted {
    fn event(&self) -> Value {
        serde_json::from_str(&self.body).expect("an event")
    }

    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }
}

const WEBHOOK_SECRET: &str = "a secret that only the backend knows";

impl Hook {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hook = Self {
            address: listener.local_addr().expect("its address"),
            state: Arc::default(),
        };
        hook.answer(status);
        let serving = hook.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                serving.count(|open| *open += 1);
                std::thread::spawn(move || {
                    serving.serve(stream);
                    serving.count(|open| *open -= 1);
                });
            }
        });
        hook
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a twin"));
        loop {
            let mut headers = BTreeMap::new();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some((name, value)) = line.trim().split_once(": ") {
                    headers.insert(name.to_ascii_lowercase(), value.to_owned());
                }
                line.clear();
            }
            let Some(length) = headers.get("content-length") else {
                return;
            };
            let mut body = vec![0; length.parse().expect("a length")];
            reader.read_exact(&mut body).expect("a body");
            let status = {
                let mut state = self.state.0.lock().expect("no panic while locked");
                let status = state.status;
                state.requests.push(Posted {
                    status,
                    headers,
                    body: String::from_utf8(body).expect("text"),
                });
                status
            };
            self.state.1.notify_all();
            let answer = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, status: u16) {
        self.state.0.lock().expect("no panic while locked").status = status;
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.state.0.lock().expect("no panic while locked").open);
        self.state.1.notify_all();
    }

    /// Waits until whatever was sent has been read, and nobody is connected any more.
    fn until_left(&self) {
        let state = self.state.0.lock().expect("no panic while locked");
        let left = (self.state.1).wait_timeout_while(state, LATER, |state| state.open > 0);
        assert!(!left.expect("no panic while locked").1.timed_out());
    }

    fn settings(&self) -> String {
        format!(
            "events.webhook.url = \"http://{}/events?from=rt\"\nevents.webhook.secret = [\"{WEBHOOK_SECRET}\"]\n",
            self.address
        )
    }

    /// Waits until it has got something, as a whole.
    fn until(&self, wanted: impl Fn(&[Posted]) -> bool) -> Vec<Posted> {
        let begun = Instant::now();
        let mut state = self.state.0.lock().expect("no panic while locked");
        while !wanted(&state.requests) {
            assert!(begun.elapsed() < LATER, "{:#?}", state.requests);
            state = (self.state.1)
                .wait_timeout(state, std::time::Duration::from_millis(100))
                .expect("no panic while locked")
                .0;
        }
        state.requests.clone()
    }

    /// Waits until it has taken an event of a type, and gives what it has taken, in order.
    fn taken_until(&self, last: &str) -> Vec<Value> {
        let is_last = |it: &Posted| it.status < 300 && it.event()["type"] == last;
        let all = self.until(|requests| requests.iter().any(is_last));
        (all.iter().filter(|it| it.status < 300))
            .map(Posted::event)
            .collect()
    }
}

fn member(uid: &str) -> Value {
    json!({"uid": uid, "umd": {"colour": "red"}, "keepAlive": true, "channels": {"*": {
        "subscribe": true, "messages": {"*": {"publish": true}, "loud": {"publish": true, "emitPubSubEvent": true}},
    }}})
}

/// R-EVT-1, R-EVT-2, R-EVT-4, R-EVT-5, R-EVT-6, R-EVT-7, R-EVT-10, R-EVT-14, R-EVT-17, R-EVT-18, R-EVT-19, R-EVT-21,
/// R-EVT-22, R-EVT-23, R-EVT-24, R-EVT-26, R-EVT-27, R-EVT-28, R-DIFF-8, R-DIFF-9; and nothing else: no message whose
/// directive does not say so (R-PUB-15), no heartbeat (R-LIVE-14), nothing internal (R-EVT-12).
#[test]
fn a_run_reaches_topic_bus_webhook_and_standard_output_exactly() {
    let (cloud, hook) = (Cloud::start(), Hook::start(204));
    let settings = cloud.settings(&cloud.emulator.endpoint()) + &hook.settings();
    let server = launch(folder(), &(settings + "events.stdout = true\n"));
    let mut ana = server.connect(member("ana"));
    let id = ana.id().to_owned();
    ana.subscribe("presence.den");
    ana.send(json!({"event": "quiet", "channel": "presence.den", "data": 1}));
    ana.send(json!({"event": "hotsock.heartbeat"}));
    ana.send(json!({"event": "loud", "channel": "presence.den", "data": {"n": 2}}));
    let backend = json!({"channel": "room.8", "event": "news", "data": 3, "emitPubSubEvent": true});
    assert_eq!(server.publish(backend).status, 202);
    ana.settle();
    ana.close();
    let expected = [
        "hotsock.channelUpdated",
        "hotsock.channelUpdated",
        "hotsock.connected",
        "hotsock.disconnected",
        "hotsock.memberAdded",
        "hotsock.memberRemoved",
        "hotsock.messagePublished",
        "hotsock.messagePublished",
        "hotsock.subscribed",
        "hotsock.unsubscribed",
    ];
    let all = hook.until(|requests| requests.len() >= expected.len());
    let events: Vec<_> = all.iter().map(Posted::event).collect();
    let mut sorted = types(&events);
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    let at = |wanted: &str| {
        let found = types(&events).iter().position(|it| *it == wanted);
        found.unwrap_or_else(|| panic!("no {wanted}"))
    };
    // R-EVT-14
    assert_eq!(at("hotsock.connected"), 0);
    assert!(at("hotsock.subscribed") < at("hotsock.messagePublished"));
    assert!(at("hotsock.messagePublished") < at("hotsock.unsubscribed"));
    assert!(at("hotsock.unsubscribed") < at("hotsock.disconnected"));
    assert!(at("hotsock.memberAdded") < at("hotsock.memberRemoved"));

    let connected = &events[0];
    let since = connected["data"]["connectedAt"].clone();
    assert_eq!(
        since.as_str().map(str::len),
        Some("2027-03-01T08:15:30.120934551Z".len())
    );
    assert_eq!(
        connected,
        &json!({"source": "hotsock.v1", "type": "hotsock.connected", "dataType": "connection",
            "metadata": {"hotsockVersion": "1.13.5"}, "data": {
                "id": id, "connectedAt": since, "disconnectedAt": null, "keepAlive": true, "sourceIp": "127.0.0.1",
                "uid": "ana", "umd": {"colour": "red"}, "userAgent": null}})
    );
    let disconnected = &events[at("hotsock.disconnected")]["data"];
    assert_eq!(disconnected["connectedAt"], since);
    assert!(disconnected["disconnectedAt"].as_str() > since.as_str());
    assert_eq!(
        (&disconnected["id"], &disconnected["uid"]),
        (&json!(id), &json!("ana"))
    );
    assert_eq!(
        events[at("hotsock.unsubscribed")],
        json!({"source": "hotsock.v1", "type": "hotsock.unsubscribed", "dataType": "subscription",
            "metadata": {"hotsockVersion": "1.13.5", "channel": "presence.den"}, "data": {
                "channel": "presence.den", "connectionId": id, "uid": "ana", "umd": {"colour": "red"}}})
    );
    assert_eq!(
        events[at("hotsock.memberRemoved")]["data"]["members"],
        json!([])
    );
    let loud = &events[at("hotsock.messagePublished")];
    assert_eq!(loud["data"]["data"], json!({"n": 2}));
    assert_eq!(
        loud["data"]["meta"],
        json!({"uid": "ana", "umd": {"colour": "red"}})
    );
    assert_eq!(loud["metadata"]["connectionId"], json!(id));
    assert_eq!(loud["metadata"]["trigger"], "client.websocket");
    let news = events
        .iter()
        .rfind(|it| it["data"]["event"] == "news")
        .expect("news");
    assert_eq!(news["data"].get("meta"), None);
    assert_eq!(news["metadata"].get("connectionId"), None);
    assert_eq!(news["metadata"]["trigger"], "server.http");
    assert_ne!(news["metadata"]["requestId"], loud["metadata"]["requestId"]);

    // The same at the others, each in its own form.
    let mut wanted: Vec<_> = events.iter().map(name).collect();
    wanted.sort();
    let of_topic = cloud.take(&cloud.of_topic, expected.len(), |it| name(&of_sns(it)));
    let mut got: Vec<_> = of_topic.iter().map(|it| name(&of_sns(it))).collect();
    got.sort();
    assert_eq!(got, wanted);
    for message in &of_topic {
        let event = of_sns(message);
        let attributes = message["MessageAttributes"]
            .as_object()
            .expect("attributes");
        let mut labels = event["metadata"].as_object().expect("metadata").clone();
        labels.remove("hotsockVersion");
        for name in ["source", "type", "dataType"] {
            labels.insert(name.into(), event[name].clone());
        }
        assert!(attributes.values().all(|it| it["Type"] == "String"));
        let given: serde_json::Map<_, _> = (attributes.iter())
            .map(|(name, it)| (name.clone(), it["Value"].clone()))
            .collect();
        assert_eq!(given, labels);
    }
    let of_bus = cloud.take(&cloud.of_bus, expected.len(), |it| name(&it["detail"]));
    let mut got: Vec<_> = of_bus.iter().map(|it| name(&it["detail"])).collect();
    got.sort();
    assert_eq!(got, wanted);
    for entry in &of_bus {
        assert_eq!(entry["source"], "hotsock.v1");
        assert_eq!(entry["detail-type"], entry["detail"]["dataType"]);
    }
    server.await_metric("realtime_events_delivered_total{sink=\"stdout\"}", 10.0);
    server.logged(|line| line["type"] == "hotsock.disconnected");
    let mut got: Vec<_> = (server.log().iter())
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["source"] == "hotsock.v1")
        .map(|event| name(&event))
        .collect();
    got.sort();
    assert_eq!(got, wanted);
    // Nothing else comes.
    for queue in [&cloud.of_topic, &cloud.of_bus] {
        assert_eq!(cloud.receive(queue, 0), Vec::<Value>::new());
    }
    server.await_metric("realtime_events_lag_seconds{sink=\"sns\"}", 0.0);
}

/// R-EVT-11, R-OPS-2: the service refuses connections, then hangs; clients notice nothing, and nothing is lost.
#[test]
fn an_outage_of_the_service_loses_nothing() {
    let cloud = Cloud::start();
    let mut door = Door::before(&cloud.emulator.endpoint());
    let server = launch(folder(), &cloud.settings(&door.url()));
    let mut ana = server.connect(member("ana"));
    let mut sent = 0;
    let mut busy = |ana: &mut Client, count: usize| {
        for _ in 0..count {
            sent += 1;
            ana.send(json!({"event": "loud", "channel": "room.1", "data": sent}));
        }
        ana.settle();
    };
    ana.subscribe("room.1");
    busy(&mut ana, 30);
    server.logged(|it| it["sink"] == "sns" && it["level"] == "WARN");
    server.logged(|it| it["sink"] == "eventbridge" && it["level"] == "WARN");
    busy(&mut ana, 30);
    door.open();
    let number = |event: &Value| event["data"]["data"].to_string();
    cloud.take_all(&cloud.of_topic, 1..=60, |it| number(&of_sns(it)));
    cloud.take_all(&cloud.of_bus, 1..=60, |it| number(&it["detail"]));
    cloud.emulator.signal(rustix::process::Signal::STOP);
    busy(&mut ana, 30);
    let failures =
        |sink| server.metric(&format!("realtime_events_failed_total{{sink=\"{sink}\"}}"));
    let before = (failures("sns"), failures("eventbridge"));
    let begun = Instant::now();
    while failures("sns") == before.0 || failures("eventbridge") == before.1 {
        assert!(begun.elapsed() < LATER, "no attempt has failed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    busy(&mut ana, 30);
    cloud.emulator.signal(rustix::process::Signal::CONT);
    cloud.take_all(&cloud.of_topic, 61..=120, |it| number(&of_sns(it)));
    cloud.take_all(&cloud.of_bus, 61..=120, |it| number(&it["detail"]));
    server.await_metric("realtime_events_lag_seconds{sink=\"sns\"}", 0.0);
    server.await_metric("realtime_events_lag_seconds{sink=\"eventbridge\"}", 0.0);
    let dropped = server.get("/metrics").body;
    assert!(
        !dropped.contains("realtime_events_dropped_total{"),
        "{dropped}"
    );
}

/// R-EVT-11, R-OPS-2: the service is killed under load, and is another process when it comes back.
#[test]
fn a_service_that_is_killed_and_started_again_gets_what_it_has_not_taken() {
    let mut cloud = Cloud::start();
    let mut door = Door::before(&cloud.emulator.endpoint());
    door.open();
    let server = launch(folder(), &cloud.settings(&door.url()));
    let mut ana = server.connect(member("ana"));
    ana.subscribe("room.1");
    let mut busy = |numbers: std::ops::RangeInclusive<u32>| {
        for number in numbers {
            ana.send(json!({"event": "loud", "channel": "room.1", "data": number}));
        }
        ana.settle();
    };
    let number = |event: &Value| event["data"]["data"].to_string();
    let takes = |cloud: &Cloud, numbers: std::ops::RangeInclusive<u32>| {
        cloud.take_all(&cloud.of_topic, numbers.clone(), |it| number(&of_sns(it)));
        cloud.take_all(&cloud.of_bus, numbers, |it| number(&it["detail"]));
    };
    busy(1..=30);
    takes(&cloud, 1..=30);
    cloud.emulator.signal(rustix::process::Signal::KILL);
    busy(31..=90);
    for sink in ["sns", "eventbridge"] {
        server.logged(|it| it["sink"] == sink && it["level"] == "WARN");
    }
    cloud = Cloud::start();
    door.lead_to(&cloud.emulator.endpoint());
    busy(91..=100);
    takes(&cloud, 31..=100);
    for sink in ["sns", "eventbridge"] {
        server.await_metric(
            &format!("realtime_events_lag_seconds{{sink=\"{sink}\"}}"),
            0.0,
        );
        let dropped = format!("realtime_events_dropped_total{{sink=\"{sink}\"");
        assert!(!server.get("/metrics").body.contains(&dropped));
    }
}

/// The events in the spool of a server, as they stand on disk.
fn spooled(server: &Server) -> usize {
    let files = std::fs::read_dir(server.path("events")).expect("the spool");
    files
        .filter_map(|file| std::fs::read(file.ok()?.path()).ok())
        .map(|bytes| {
            String::from_utf8_lossy(&bytes)
                .matches("\"source\":\"hotsock.v1\"")
                .count()
        })
        .sum()
}

fn await_spooled(server: &Server, wanted: usize) {
    let begun = Instant::now();
    while spooled(server) < wanted {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} of {wanted}",
            spooled(server)
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// R-EVT-11, R-EVT-14
#[test]
fn after_a_kill_the_next_start_sends_the_rest_in_order() {
    let hook = Hook::start(503);
    let mut server = launch(folder(), &hook.settings());
    let mut ana = server.connect(member("ana"));
    for n in 0..20 {
        ana.subscribe(&format!("room.{n}"));
    }
    ana.settle();
    hook.until(|requests| !requests.is_empty());
    // Connected, and of each channel its subscription and its count.
    await_spooled(&server, 41);
    server.signal(rustix::process::Signal::KILL);
    server.ended();
    let dir = std::mem::replace(&mut server.dir, folder());
    hook.until_left();
    hook.answer(200);
    let server = launch(dir, &hook.settings());
    let last = |it: &Posted| it.event()["metadata"]["channel"] == "room.19";
    let done = |requests: &[Posted]| {
        requests
            .iter()
            .filter(|it| it.status == 200 && last(it))
            .count()
            == 2
    };
    let all = hook.until(done);
    let taken: Vec<_> = all.iter().filter(|it| it.status == 200).collect();
    let ids: HashSet<_> = taken.iter().map(|it| it.id()).collect();
    assert_eq!((taken.len(), ids.len()), (41, 41), "each once");
    let channels: Vec<_> = (taken.iter().map(|it| it.event()))
        .filter(|event| event["type"] == "hotsock.subscribed")
        .map(|event| {
            event["metadata"]["channel"]
                .as_str()
                .expect("a channel")
                .to_owned()
        })
        .collect();
    let wanted: Vec<_> = (0..20).map(|n| format!("room.{n}")).collect();
    assert_eq!(channels, wanted);
    // What failed was the same event, under the same name.
    assert!(
        all.iter()
            .filter(|it| it.status == 503)
            .all(|it| it.id() == taken[0].id())
    );
    // And it goes on.
    server.connect(member("ben"));
    hook.until(|requests| requests.iter().any(|it| it.event()["data"]["uid"] == "ben"));
}

/// R-EVT-4, R-OPS-11
#[test]
fn sinks_are_turned_off_and_on_while_clients_stay() {
    let (one, other) = (Hook::start(200), Hook::start(200));
    let server = launch(folder(), &one.settings());
    let mut ana = server.connect(member("ana"));
    ana.subscribe("room.1");
    one.taken_until("hotsock.channelUpdated");
    // It has not only come, but the answer has been read.
    server.await_metric("realtime_events_delivered_total{sink=\"webhook\"}", 3.0);
    server.configure("");
    server.reload();
    ana.subscribe("room.2");
    server.configure(&other.settings());
    server.reload();
    ana.subscribe("room.3");
    ana.settle();
    let first = |it: &Posted| it.event()["metadata"]["channel"].clone();
    let got = other.until(|requests| requests.len() >= 2);
    assert!(got.iter().all(|it| first(it) == "room.3"), "{got:#?}");
    // Another sink beside it gets what comes then, and the first one goes on.
    server.configure(&(other.settings() + "events.stdout = true\n"));
    server.reload();
    ana.subscribe("room.4");
    server.logged(|line| line["metadata"]["channel"] == "room.4");
    server.await_metric("realtime_events_delivered_total{sink=\"webhook\"}", 7.0);
    server.configure(&one.settings());
    server.reload();
    ana.close();
    let got = one.taken_until("hotsock.disconnected");
    let of_one: HashSet<_> = got
        .iter()
        .map(|it| it["metadata"]["channel"].to_string())
        .collect();
    assert!(of_one.contains("\"room.1\"") && of_one.contains("\"room.4\""));
    let began = |it: &&Value| it["type"] == "hotsock.subscribed";
    assert_eq!(
        got.iter().filter(began).count(),
        1,
        "room.2 to room.4 began without it"
    );
    assert!(
        server
            .log()
            .iter()
            .any(|line| line.contains("a sink for events is off"))
    );
    assert!(
        !server
            .log()
            .iter()
            .any(|line| line.contains(WEBHOOK_SECRET)),
        "no secret is logged"
    );
}

/// R-EVT-10, R-EVT-11: the limit of the spool; the oldest go, and that is counted.
#[test]
fn a_full_spool_drops_the_oldest_and_says_so() {
    let hook = Hook::start(500);
    let server = launch(
        folder(),
        &("events.spool_bytes = \"1MiB\"\n".to_owned() + &hook.settings()),
    );
    let mut claims = member("ana");
    claims["umd"] = json!("x".repeat(1000));
    let mut ana = server.connect(claims);
    let dropped = "realtime_events_dropped_total{sink=\"webhook\",reason=\"spool_full\"}";
    let mut rounds = 0;
    while server.metric(dropped) == 0.0 {
        for _ in 0..50 {
            ana.subscribe("room.1");
            ana.send(json!({"event": "hotsock.unsubscribe", "channel": "room.1"}));
            ana.expect("hotsock.unsubscribed");
            rounds += 1;
        }
        assert!(rounds < 5_000, "nothing is ever dropped");
    }
    ana.settle();
    let size = server.metric("realtime_events_spool_bytes");
    assert!(size <= f64::from(1 << 20), "{size}");
    server.logged(|it| it["level"] == "ERROR" && it["sink"] == "webhook" && it["lost"].is_u64());
    hook.answer(200);
    ana.close();
    let taken = hook.taken_until("hotsock.disconnected");
    let begun = taken
        .iter()
        .filter(|it| it["type"] == "hotsock.subscribed")
        .count();
    assert!(begun < rounds && begun > 100, "{begun} of {rounds}");
    let emitted: f64 = [
        "subscribed",
        "unsubscribed",
        "connected",
        "disconnected",
        "channelUpdated",
    ]
    .map(|it| {
        server.metric(&format!(
            "realtime_events_emitted_total{{type=\"hotsock.{it}\"}}"
        ))
    })
    .iter()
    .sum();
    server.await_metric("realtime_events_lag_seconds{sink=\"webhook\"}", 0.0);
    let delivered = server.metric("realtime_events_delivered_total{sink=\"webhook\"}");
    // One was under way when its file went.
    let missing = emitted - delivered - server.metric(dropped);
    assert!((-1.0..=0.0).contains(&missing), "{missing}");
}

/// R-DIFF-9: a backend can tell that an event is ours, and new; a secret is replaced by having two for a while.
#[test]
fn a_webhook_is_signed_with_every_secret() {
    let hook = Hook::start(200);
    let encoded = STANDARD.encode("another secret, of thirty-two b.");
    let settings = hook.settings().replace(
        &format!("[\"{WEBHOOK_SECRET}\"]"),
        &format!("[\"{WEBHOOK_SECRET}\", \"whsec_{encoded}\"]"),
    );
    let server = launch(folder(), &settings);
    server.connect(member("ana"));
    let posted = hook.until(|requests| !requests.is_empty())[0].clone();
    let (id, timestamp) = (posted.id(), &posted.headers["webhook-timestamp"]);
    let age = support::now() - timestamp.parse::<u64>().expect("seconds");
    assert!(age < 60);
    let signatures: Vec<_> = posted.headers["webhook-signature"].split(' ').collect();
    let expected: Vec<_> = [WEBHOOK_SECRET, "another secret, of thirty-two b."]
        .map(|secret| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let signed = format!("{id}.{timestamp}.{}", posted.body);
            format!(
                "v1,{}",
                STANDARD.encode(hmac::sign(&key, signed.as_bytes()))
            )
        })
        .into();
    assert_eq!(signatures, expected);
    assert_eq!(posted.headers["content-type"], "application/json");
}

/// R-EVT-11: what the receiver finds wrong does not keep back all others.
#[test]
fn an_event_that_is_refused_for_what_it_is_is_dropped_alone() {
    let hook = Hook::start(422);
    let server = launch(folder(), &hook.settings());
    let mut ana = server.connect(member("ana"));
    server.await_metric(
        "realtime_events_dropped_total{sink=\"webhook\",reason=\"refused\"}",
        1.0,
    );
    let logged = server.logged(|it| it["level"] == "ERROR" && it["why"] == "HTTP 422");
    assert_eq!(logged["type"], "hotsock.connected");
    hook.answer(200);
    ana.subscribe("room.1");
    hook.taken_until("hotsock.subscribed");
}

/// R-EVT-20, R-UMD-12
#[test]
fn other_metadata_of_a_connection_is_told_once_and_the_same_never() {
    let hook = Hook::start(200);
    let server = launch(folder(), &hook.settings());
    let mut ana = server.connect(member("ana"));
    let umd = |value: Value| {
        token(json!({"scope": "umd", "uid": "ana", "umd": value, "umdUpdate": true}))
    };
    for value in [
        json!({"colour": "red"}),
        json!({"colour": "blue"}),
        json!({"colour": "blue"}),
        Value::Null,
    ] {
        ana.send(json!({"event": "hotsock.umdUpdate", "data": {"token": umd(value)}}));
    }
    ana.send(json!({"event": "hotsock.heartbeat"}));
    ana.settle();
    ana.close();
    let events = hook.taken_until("hotsock.disconnected");
    let told: Vec<_> = events
        .iter()
        .map(|it| {
            (
                it["type"].as_str().unwrap_or_default(),
                it["data"]["umd"].clone(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("hotsock.connected", json!({"colour": "red"})),
            ("hotsock.connectionUpdated", json!({"colour": "blue"})),
            ("hotsock.connectionUpdated", Value::Null),
            ("hotsock.disconnected", Value::Null),
        ]
    );
}

/// R-EVT-11: what happened until the end is sent before it.
#[test]
fn a_graceful_end_sends_what_it_causes() {
    let hook = Hook::start(200);
    let mut server = launch(
        folder(),
        &("shutdown_spread = \"0s\"\n".to_owned() + &hook.settings()),
    );
    let mut ana = server.connect(member("ana"));
    ana.subscribe("room.1");
    server.signal(libc_signal::TERM);
    assert_eq!(ana.closed().0, 1012);
    assert!(server.ended().success());
    let all = hook.until(|requests| !requests.is_empty());
    let events: Vec<_> = all.iter().map(Posted::event).collect();
    assert_eq!(
        types(&events)
            .iter()
            .filter(|it| **it == "hotsock.disconnected")
            .count(),
        1
    );
    assert_eq!(
        types(&events)
            .iter()
            .filter(|it| **it == "hotsock.unsubscribed")
            .count(),
        1
    );
}

/// R-OPS-1, R-EVT-17, R-EVT-18: for backends nothing happens in a swap, and what waits is sent by whoever goes on.
#[test]
fn in_a_swap_nothing_is_sent_twice_or_lost() {
    let hook = Hook::start(200);
    let mut service = Service::with(&hook.settings());
    let mut ana = service.first.connect(member("ana"));
    let mut channel = 0;
    let mut busy = |ana: &mut Client, count: usize| {
        for _ in 0..count {
            ana.subscribe(&format!("room.{channel}"));
            channel += 1;
        }
    };
    for n in 1..4 {
        busy(&mut ana, 10);
        // At the second swap much waits.
        hook.answer(if n == 2 { 503 } else { 200 });
        busy(&mut ana, 10);
        service.swap(&n.to_string());
        busy(&mut ana, 10);
        hook.answer(200);
    }
    ana.settle();
    ana.close();
    hook.taken_until("hotsock.disconnected");
    let all = hook.until(|requests| {
        let taken = requests.iter().filter(|it| it.status == 200);
        taken
            .filter(|it| it.event()["type"] == "hotsock.unsubscribed")
            .count()
            == 90
    });
    let taken: Vec<_> = all.iter().filter(|it| it.status == 200).collect();
    let ids: HashSet<_> = taken.iter().map(|it| it.id()).collect();
    assert_eq!(ids.len(), taken.len(), "each once");
    let events: Vec<_> = taken.iter().map(|it| it.event()).collect();
    let count = |wanted: &str| types(&events).iter().filter(|it| **it == wanted).count();
    assert_eq!(count("hotsock.connected"), 1);
    assert_eq!(count("hotsock.disconnected"), 1);
    let began: Vec<_> = (events.iter())
        .filter(|it| it["type"] == "hotsock.subscribed")
        .map(|it| {
            it["metadata"]["channel"]
                .as_str()
                .expect("a channel")
                .to_owned()
        })
        .collect();
    let wanted: Vec<_> = (0..90).map(|n| format!("room.{n}")).collect();
    assert_eq!(began, wanted, "all, in order");
}

/// R-EVT-8, R-EVT-25, R-EVT-27, R-EVT-29, R-EVT-30, R-EVT-31, R-EVT-32, R-EVT-33, R-EVT-35, R-EVT-36, R-DIFF-14
#[test]
fn what_is_kept_planned_and_reacted_to_is_told_if_whoever_did_it_may() {
    let hook = Hook::start(200);
    let server = launch(folder(), &hook.settings());
    let grants = json!({"*": {"subscribe": true, "umdUpdate": true,
        "messages": {"chat": {"publish": true, "emitPubSubEvent": true, "store": 600, "react": true}},
        "storage": {"*": {"set": true, "get": true, "observe": true, "emitPubSubEvent": true, "store": 600}},
    }});
    let mut ana = server.connect(json!({"uid": "ana", "channels": grants}));
    let id = ana.id().to_owned();
    ana.subscribe("presence.den");
    let mut one_event = {
        let mut seen = 0;
        move |wanted: &str, matches: &dyn Fn(&Value) -> bool| {
            let fits = |it: &Posted| {
                let event = it.event();
                event["type"] == wanted && matches(&event)
            };
            let all = hook.until(|requests| requests.iter().skip(seen).any(fits));
            let at = all.iter().skip(seen).position(fits).expect("it has come") + seen;
            seen = at + 1;
            all[at].event()
        }
    };
    let any = &|_: &Value| true;

    // Storage: only what changes, with what it was before; what expires, with who wrote it last.
    let set = |data: Value| json!({"event": "hotsock.channelStorageSet", "channel": "presence.den", "key": "turn", "data": data});
    ana.send(set(json!("ana")));
    ana.send(set(json!("ana")));
    ana.send(set(json!({"n": 1})));
    let first = one_event("hotsock.channelStorageUpdated", any);
    assert_eq!(first["data"]["data"], "ana");
    assert_eq!(first["data"]["dataPrevious"], Value::Null);
    assert_eq!(first["data"]["meta"], json!({"uid": "ana", "umd": null}));
    assert_eq!(first["metadata"]["connectionId"], json!(id));
    assert_eq!(first["metadata"].get("requestId"), None);
    assert!(first["data"]["expiresAt"].is_string());
    let second = one_event("hotsock.channelStorageUpdated", any);
    assert_eq!(
        (&second["data"]["data"], &second["data"]["dataPrevious"]),
        (&json!({"n": 1}), &json!("ana"))
    );
    let write = json!({"channel": "presence.den", "event": "hotsock.channelStorageSet", "key": "soon", "data": 1,
        "store": 1, "emitPubSubEvent": true});
    assert_eq!(server.publish(write).status, 202);
    let written = one_event("hotsock.channelStorageUpdated", any);
    assert_eq!(
        (&written["data"]["key"], &written["data"]["expired"]),
        (&json!("soon"), &json!(false))
    );
    let expired = one_event("hotsock.channelStorageUpdated", any);
    assert_eq!(
        (
            &expired["data"]["key"],
            &expired["data"]["expired"],
            &expired["data"]["data"]
        ),
        (&json!("soon"), &json!(true), &Value::Null)
    );
    assert_eq!(expired["data"]["dataPrevious"], json!(1));
    assert_eq!(expired["metadata"], written["metadata"]);
    assert_eq!(expired["metadata"]["trigger"], "server.http");

    // A reaction keeps its name, and the request that put it on.
    ana.send(json!({"event": "chat", "channel": "presence.den", "data": "Moin"}));
    let message = one_event("hotsock.messagePublished", any)["data"]["id"].clone();
    let react = |action: &str| {
        json!({"event": "hotsock.messageReaction", "channel": "presence.den",
        "data": {"messageId": message, "reaction": "👍", "action": action}})
    };
    ana.send(react("add"));
    ana.send(react("remove"));
    let added = one_event("hotsock.messageReactionAdded", any);
    let removed = one_event("hotsock.messageReactionRemoved", any);
    assert_eq!(added["data"]["messageId"], message);
    assert_eq!(added["data"], removed["data"]);
    assert_eq!(added["metadata"], removed["metadata"]);
    assert_eq!(
        added["data"]["createdAt"].as_str().map(str::len),
        Some("2027-03-01T08:20:01.482Z".len())
    );
    assert!(added["data"]["expiresAt"].is_string(), "as its message");

    // Metadata of a member.
    let umd = json!({"scope": "umd", "uid": "ana", "umd": {"mood": "busy"}, "channels": {"presence.den": {"umdUpdate": true}}});
    ana.send(json!({"event": "hotsock.umdUpdate", "channel": "presence.den", "data": {"token": token(umd)}}));
    let updated = one_event("hotsock.memberUpdated", any);
    assert_eq!(
        updated["data"],
        json!({"uid": "ana", "umd": {"mood": "busy"}, "members": [{"uid": "ana", "umd": {"mood": "busy"}}]})
    );

    // A planned message is told of when it is sent, as it was accepted.
    let (at, _) = support::in_seconds(2);
    let planned = json!({"channel": "room.2", "event": "later", "data": 5, "emitPubSubEvent": true, "scheduleExpression": at});
    assert_eq!(server.publish(planned).status, 202);
    let sent = one_event("hotsock.messagePublished", &|it| {
        it["data"]["event"] == "later"
    });
    assert_eq!(sent["metadata"]["trigger"], "server.http");
    assert_eq!(sent["metadata"]["sourceIp"], "127.0.0.1");
    assert!(sent["metadata"]["requestId"].is_string());
}

/// R-EVT-34
#[test]
fn reactions_that_vanish_with_their_message_are_not_told() {
    let hook = Hook::start(200);
    let server = launch(folder(), &hook.settings());
    let grants = json!({"room": {"subscribe": true, "messages": {
        "brief": {"publish": true, "echo": true, "emitPubSubEvent": true, "store": 3, "react": true},
        "last": {"publish": true, "emitPubSubEvent": true},
    }}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": grants}));
    ana.subscribe("room");
    ana.send(json!({"event": "brief", "channel": "room", "data": 1}));
    let message = ana.expect("brief")["id"].clone();
    ana.send(
        json!({"event": "hotsock.messageReaction", "channel": "room", "data": {
            "messageId": message, "reaction": "👍", "action": "add",
        }}),
    );
    let told = |requests: &[Posted], wanted: &str| {
        let is = |it: &&Posted| it.event()["type"] == wanted;
        requests.iter().filter(is).count()
    };
    hook.until(|all| told(all, "hotsock.messageReactionAdded") == 1);
    // Out of the list, and out of the database, whose sweeper comes for a younger storage entry as well.
    let listed = json!({"channel": "room"});
    support::eventually("the message expires", || {
        let answer = server.call(&ana, "listMessages", listed.clone());
        (answer.json()["messages"] == json!([])).then_some(())
    });
    let entry = json!({"channel": "room", "event": "hotsock.channelStorageSet", "key": "k", "data": 1,
        "store": 1, "emitPubSubEvent": true});
    assert_eq!(server.publish(entry).status, 202);
    hook.until(|all| told(all, "hotsock.channelStorageUpdated") == 2);
    ana.send(json!({"event": "last", "channel": "room", "data": 2}));
    let is_last = |it: &Posted| it.event()["data"]["event"] == "last";
    let all = hook.until(|all| all.iter().any(is_last));
    assert_eq!(told(&all, "hotsock.messageReactionRemoved"), 0);
}

/// R-OPS-2, R-EVT-11: a spool that can't be opened for a while; and without any sink there is none.
#[test]
fn events_wait_until_their_folder_can_be_used() {
    let hook = Hook::start(200);
    let dir = folder();
    let obstacle = dir.path().join("events");
    std::fs::write(&obstacle, "not a folder").expect("written");
    let server = launch(dir, "");
    server.connect(member("nobody")).close();
    server.configure(&hook.settings());
    server.reload();
    let mut ana = server.connect(member("ana"));
    ana.subscribe("room.1");
    server.logged(|it| it["level"] == "ERROR" && it["folder"].is_string());
    assert!(obstacle.is_file());
    std::fs::remove_file(&obstacle).expect("removed");
    let events = hook.taken_until("hotsock.subscribed");
    assert_eq!(types(&events)[0], "hotsock.connected");
    assert!(events.iter().all(|it| it["data"]["uid"] != "nobody"));
}
