//! The load against servers that misbehave in every way a swap could: each must be counted for what it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use demo::{
    http::load::{Load, Plan, Target, poll},
    http::tally::{FailureKind, Tally},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const OK_V1: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv1";

/// What a server does with one request.
#[derive(Clone, Debug, PartialEq)]
enum Act {
    /// Sends these bytes and keeps the connection.
    Answer(String),
    /// Sends these bytes and closes.
    AnswerAndClose(String),
    /// Sends these bytes, then resets.
    Reset(String),
    /// Reads the request and never answers.
    Silence,
}

fn version(v: &str) -> Act {
    Act::Answer(OK_V1.replace("v1", v))
}

/// A server that handles its n-th request, over all connections, as `script(n)` says.
async fn server(
    script: impl Fn(usize) -> Act + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let (script, counter) = (Arc::new(script), served.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(connection(stream, script.clone(), counter.clone()));
        }
    });
    (address, served)
}

async fn connection(
    mut stream: TcpStream,
    script: Arc<impl Fn(usize) -> Act + Send + Sync>,
    counter: Arc<AtomicUsize>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let close = String::from_utf8_lossy(&head).contains("connection: close");
        match script(counter.fetch_add(1, Ordering::SeqCst)) {
            Act::Answer(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                if close {
                    return;
                }
            }
            Act::AnswerAndClose(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Act::Reset(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Silence => std::future::pending().await,
        }
    }
}

fn plan(addresses: &[SocketAddr]) -> Plan {
    let targets = addresses.iter().enumerate().map(|(n, address)| Target {
        instance: format!("i-{n}"),
        address: *address,
    });
    Plan {
        kept: 1,
        fresh: 0,
        slow_ms: None,
        timeout: Duration::from_secs(20),
        ..Plan::new(targets.collect(), 200.0)
    }
}

/// Runs the load until the condition on the served requests holds, at most 30 s.
async fn run(plan: &Plan, mut done: impl FnMut(&Load) -> bool) -> Tally {
    let load = Load::start(plan);
    tokio::time::timeout(Duration::from_secs(30), async {
        while !done(&load) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the load got there in time");
    load.finish().await.0
}

fn only_failure(tally: &Tally) -> (FailureKind, u64, String) {
    let failures = tally.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let (kind, failures) = failures.into_iter().next().unwrap();
    (kind, failures.count, failures.first[0].clone())
}

#[tokio::test]
async fn answers_are_counted_by_the_version_in_the_body_on_every_host() {
    let (old, _) = server(|n| version(if n < 10 { "v1" } else { "v2" })).await;
    let (new, _) = server(|_| version("v2")).await;
    let mut plan = plan(&[old, new]);
    plan.fresh = 2;
    plan.slow_ms = Some(5);
    let tally = run(&plan, |load| load.fewest_answers() >= 30).await;
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures());
    // The slow client took some of the first ten answers; the others name the version.
    let v1 = tally.answered_by()["v1"];
    assert!((1..=10).contains(&v1), "{v1}");
    assert!(tally.slow > 0);
    let answered: u64 = tally.answered_by().values().sum();
    assert_eq!(answered + tally.slow, tally.requests());
    assert!(!tally.hosts[1].answered_by.contains_key("v1"));
    let latency = tally.latency();
    assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
}

#[tokio::test]
async fn the_load_keeps_its_rate_over_all_hosts() {
    let (a, _) = server(|_| version("v1")).await;
    let (b, _) = server(|_| version("v1")).await;
    let mut plan = plan(&[a, b]);
    plan.kept = 4;
    plan.fresh = 1;
    let load = Load::start(&plan);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (tally, ran) = load.finish().await;
    let rate = tally.requests() as f64 / ran.as_secs_f64();
    assert!((80.0..=220.0).contains(&rate), "{rate} instead of 200");
    // A kept connection is opened once.
    assert_eq!(tally.reconnects, 0);
}

#[tokio::test]
async fn a_refused_connection_is_a_failure() {
    // A port that nobody is given by chance.
    let gone = ([127, 0, 0, 1], 1).into();
    let plan = plan(&[gone]);
    let load = Load::start(&plan);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (tally, ran) = load.finish().await;
    let (kind, count, first) = only_failure(&tally);
    assert_eq!(kind, FailureKind::Refused, "{first}");
    assert!(count > 0 && count == tally.requests());
    assert!(first.contains("i-0"), "{first}");
    assert_eq!(tally.longest_gap(0, ran), ran.as_micros() as f64 / 1e3);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_response_is_a_failure_and_the_client_goes_on() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nv1";
    let (address, _) = server(move |n| match n {
        5 => Act::Reset(half.into()),
        7 => Act::AnswerAndClose(half.into()),
        _ => version("v1"),
    })
    .await;
    let tally = run(&plan(&[address]), |load| load.fewest_answers() >= 12).await;
    let (kind, count, first) = only_failure(&tally);
    assert_eq!((kind, count), (FailureKind::Broken, 2), "{first}");
}

#[tokio::test]
async fn a_request_that_was_sent_and_got_no_answer_is_a_failure_even_on_a_kept_connection() {
    let (address, _) = server(|n| match n {
        5 => Act::AnswerAndClose(String::new()),
        7 => Act::Reset(String::new()),
        _ => version("v1"),
    })
    .await;
    let tally = run(&plan(&[address]), |load| load.fewest_answers() >= 12).await;
    let (kind, count, first) = only_failure(&tally);
    assert_eq!((kind, count), (FailureKind::Broken, 2), "{first}");
}

#[tokio::test]
async fn a_status_other_than_200_is_a_failure() {
    let (address, _) = server(|n| match n {
        3 => Act::Answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into()),
        _ => version("v1"),
    })
    .await;
    let tally = run(&plan(&[address]), |load| load.fewest_answers() >= 6).await;
    let (kind, count, first) = only_failure(&tally);
    assert_eq!((kind, count), (FailureKind::Status, 1));
    assert!(first.ends_with("status 503"), "{first}");
}

#[tokio::test]
async fn a_response_slower_than_the_time_limit_is_a_failure() {
    let (address, _) = server(|n| if n == 2 { Act::Silence } else { version("v1") }).await;
    let mut plan = plan(&[address]);
    plan.timeout = Duration::from_secs(3);
    let tally = run(&plan, |load| load.fewest_answers() >= 6).await;
    let failures = tally.failures();
    assert_eq!(failures[&FailureKind::Timeout].count, 1, "{failures:?}");
}

#[tokio::test]
async fn what_is_not_http_or_names_no_version_is_a_failure() {
    let (address, _) = server(|n| match n {
        2 => Act::AnswerAndClose("220 mail.example ESMTP\r\n".into()),
        4 => Act::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()),
        _ => version("v1"),
    })
    .await;
    let tally = run(&plan(&[address]), |load| load.fewest_answers() >= 6).await;
    let (kind, count, first) = only_failure(&tally);
    assert_eq!((kind, count), (FailureKind::Garbled, 2), "{first}");
}

/// RFC 9112, section 9.5: a server may close an idle connection; a client that had sent nothing has lost nothing.
#[tokio::test]
async fn a_connection_closed_while_idle_is_a_reconnect_and_not_a_failure() {
    for reset in [false, true] {
        let (address, _) = server(move |n| match n % 3 {
            2 if reset => Act::Reset(OK_V1.into()),
            2 => Act::AnswerAndClose(OK_V1.into()),
            _ => version("v1"),
        })
        .await;
        let mut plan = plan(&[address]);
        plan.rate = 50.0;
        let tally = run(&plan, |load| load.fewest_answers() >= 20).await;
        if !reset {
            assert_eq!(tally.failed(), 0, "{:?}", tally.failures());
        }
        // A reset may overtake the answer before it: then that request is broken, and rightly so.
        assert!(
            tally.reconnects + tally.failed() >= 5,
            "{}",
            tally.reconnects
        );
    }
}

#[tokio::test]
async fn connection_close_in_an_answer_is_obeyed() {
    let (address, _) = server(|_| {
        Act::AnswerAndClose(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nv1".into(),
        )
    })
    .await;
    let tally = run(&plan(&[address]), |load| load.fewest_answers() >= 10).await;
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures());
}

#[tokio::test]
async fn polling_a_host_returns_every_answer() {
    let (address, served) = server(|n| version(if n == 1 { "v1" } else { "v2" })).await;
    let instance = "i-0".into();
    let target = Target { instance, address };
    let said: Vec<String> = poll(&target, 4, Duration::from_secs(20))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(said, ["v2", "v1", "v2", "v2"]);
    assert_eq!(served.load(Ordering::SeqCst), 4);
}
