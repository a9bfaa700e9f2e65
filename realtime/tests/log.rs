//! The log of a whole process: its level while it runs, and what a panic leaves in it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use realtime::config::{Log, LogFormat, LogLevel};
use realtime::log;
use serde_json::{Value, json};
use std::panic;
use std::process::Command;
use support::Server;

const CHILD: &str = "LOG_TEST_CHILD";

/// What the other test runs as a process of its own, since a process has one log.
#[test]
fn the_process_that_logs() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let _guard = log::init(&Log {
        level: LogLevel::Info,
        format: LogFormat::Json,
        trace_sample_percent: 0,
    })
    .unwrap();
    tracing::debug!("before");
    log::set_level(LogLevel::Debug);
    tracing::debug!(bytes = 7, "while debugging");
    log::set_level(LogLevel::Warn);
    tracing::info!("afterwards");
    let _ = panic::catch_unwind(|| panic!("on purpose"));
    assert_eq!(log::dropped(), 0);
}

/// R-LOG-1, R-LOG-3, R-LOG-5, R-LOG-10
#[test]
fn the_level_changes_while_running_and_a_panic_is_an_error_with_its_stack() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "the_process_that_logs", "--nocapture"])
        .env(CHILD, "1");
    let output = child.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    // Between the records stand the lines of the test harness.
    let records: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(&line[line.find('{')?..]).ok())
        .collect();
    let messages: Vec<_> = records
        .iter()
        .map(|r| r["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        messages,
        ["while debugging", "panicked: on purpose"],
        "{text}"
    );
    assert_eq!(
        (&records[0]["level"], &records[0]["bytes"]),
        (&"DEBUG".into(), &7.into())
    );
    assert!(
        records[0]["timestamp"]
            .as_str()
            .is_some_and(|t| t.ends_with('Z'))
    );
    let panicked = &records[1];
    assert_eq!(panicked["level"], "ERROR");
    assert!(
        panicked["place"]
            .as_str()
            .is_some_and(|p| p.contains("tests/log.rs")),
        "{panicked}"
    );
    assert!(
        panicked["backtrace"]
            .as_str()
            .is_some_and(|b| b.contains("the_process_that_logs")),
        "{panicked}"
    );
}

/// The spans in a log, in the order in which they were written.
fn spans(server: &Server) -> Vec<Value> {
    let records = server.log();
    let records = records
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok());
    records
        .filter(|it: &Value| it["type"] == "app.span")
        .collect()
}

/// R-LOG-2, R-LOG-6, R-LOG-9
#[test]
fn a_message_leaves_the_spans_of_its_way_under_one_trace() {
    let server = Server::with("[log]\ntrace_sample_percent = 100\n");
    let messages = json!({"chat": {"publish": true, "echo": true}});
    let channels = json!({"room": {"subscribe": true, "messages": messages}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    let mut ben = server.connect(json!({"uid": "ben", "channels": channels}));
    ana.subscribe("room");
    ben.subscribe("room");
    ana.send(json!({"event": "chat", "channel": "room", "data": "confidential"}));
    let by_client = ana.expect("chat")["id"].as_str().unwrap().to_owned();
    ben.expect("chat");
    let answer = server.publish(json!({"channel": "room", "event": "price", "data": "confidential", "eagerIdGeneration": true}));
    let by_backend = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(ben.expect("price")["id"], *by_backend);

    for (id, trigger) in [(by_client, "client.websocket"), (by_backend, "server.http")] {
        let trace = format!("{:032x}", id.parse::<ulid::Ulid>().unwrap().0);
        server.logged(|it| it["traceId"] == *trace && it["spanName"] == "deliver");
        let spans: Vec<_> = spans(&server)
            .into_iter()
            .filter(|it| it["traceId"] == *trace)
            .collect();
        let named = |name: &str| {
            spans
                .iter()
                .find(|it| it["spanName"] == name)
                .unwrap_or_else(|| panic!("{name}: {spans:#?}"))
        };
        assert_eq!(spans.len(), 3, "{spans:#?}");
        let (accept, engine, deliver) = (named("accept"), named("engine"), named("deliver"));
        assert_eq!(accept.get("parentSpanId"), None);
        assert_eq!(
            (&accept["trigger"], &deliver["deliveries"]),
            (&json!(trigger), &json!(2))
        );
        for child in [engine, deliver] {
            assert_eq!(child["parentSpanId"], accept["spanId"]);
        }
        let begun = |it: &Value| it["startEpochMs"].as_i64().unwrap();
        assert!(
            begun(accept) <= begun(engine) && begun(engine) <= begun(deliver),
            "{spans:#?}"
        );
        assert!(begun(accept).abs_diff(support::now() as i64 * 1000) < 60_000);
        for span in &spans {
            let id = span["spanId"].as_str().unwrap();
            assert!(
                id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()),
                "{span}"
            );
            assert_eq!(spans.iter().filter(|it| it["spanId"] == id).count(), 1);
            assert_eq!(
                (&span["status"], &span["level"]),
                (&json!("ok"), &json!("INFO"))
            );
            assert!(
                span["durationMs"]
                    .as_f64()
                    .is_some_and(|ms| (0.0..60_000.0).contains(&ms)),
                "{span}"
            );
        }
    }
    assert!(
        !server.log().join("\n").contains("confidential"),
        "no payload above DEBUG"
    );
}

/// R-LOG-7, R-LOG-8, R-LOG-10
#[test]
fn sampling_follows_the_settings_and_the_level_without_a_dropped_connection() {
    let tracing = |percent: u8, level: &str| {
        format!("[log]\nlevel = \"{level}\"\ntrace_sample_percent = {percent}\n")
    };
    let server = Server::with(&tracing(0, "info"));
    let channels = json!({"room": {"subscribe": true}});
    let mut ana = server.connect(json!({"uid": "ana", "channels": channels}));
    ana.subscribe("room");
    let mut told = || {
        for n in 0..20 {
            let message = json!({"channel": "room", "event": "n", "data": n});
            assert_eq!(server.publish(message).status, 202);
            ana.expect("n");
        }
    };
    // One thread writes the log: when it has the record of a reload, it has all that was logged before.
    let follow = |settings: &str| {
        server.configure(settings);
        server.reload();
        spans(&server).len()
    };
    told();
    assert_eq!(follow(&tracing(100, "info")), 0, "0 is off");
    told();
    assert_eq!(follow(&tracing(0, "info")), 60, "100 is all");
    told();
    assert_eq!(follow(&tracing(100, "debug")), 60, "off again");
    told();
    assert_eq!(follow(&tracing(100, "info")), 120, "also at DEBUG");
    // Above INFO the reload itself is not logged; a refused token is.
    let before = server.metric("realtime_reloads_total");
    server.configure(&tracing(100, "warn"));
    server.signal(support::libc_signal::HUP);
    while server.metric("realtime_reloads_total") <= before {
        std::thread::yield_now();
    }
    told();
    let log = server.log().len();
    assert_eq!(server.refusal("wrong"), 401);
    server.logged_after(log, |it| it["level"] == "WARN");
    assert_eq!(spans(&server).len(), 120, "not above INFO");
}
