//! The load, its books and real server processes behind a real HAProxy: a swap that is clean is seen to be clean, and
//! whatever is not clean is seen.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use demo::live::{
    bare::BareHost,
    ledger::Phase,
    load::{Load, Outcome, Plan},
    swaps::{self, Course},
    tokens::Issuer,
};
use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// `realtime` is built by `cargo test --workspace`, and lies where this test's own folder is.
fn realtime() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("realtime");
    assert!(program.exists(), "{} is not built", program.display());
    program
}

fn start(connections: usize) -> (BareHost, Load) {
    let issuer = Issuer::new().unwrap();
    let host = BareHost::start(&realtime(), &issuer.public_key(), "").unwrap();
    let plan = Plan {
        period: Duration::from_millis(250),
        publish_period: Duration::from_millis(250),
        ..Plan::new(vec![host.target()], connections)
    };
    let load = Load::open(&plan, &issuer).unwrap();
    (host, load)
}

/// Waits until the load has seen what `wanted` asks for.
fn until(load: &Load, wanted: impl Fn(&Outcome) -> bool) {
    let began = Instant::now();
    loop {
        let outcome = load.look().unwrap();
        if wanted(&outcome) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{outcome:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Three swaps in a row under messages both ways, backends and presence.
///
/// R-OPS-1, R-DIFF-16, R-DLV-1, R-DLV-5, R-DLV-6, scenario 27
#[test]
fn swaps_under_200_connections_drop_lose_double_and_reorder_nothing() {
    let course = Course {
        program: &realtime(),
        connections: 200,
        count: 3,
        hosts: 1,
        engine: "",
    };
    let swaps = swaps::run(&course, &CancellationToken::new(), |_, _, _| {}).unwrap();
    assert_eq!(swaps.problems(), Vec::<String>::new());
    let outcome = &swaps.outcome;
    assert_eq!(outcome.websockets.kept, 200);
    assert_eq!(outcome.messages.received, outcome.messages.owed);
    assert!(outcome.messages.received > outcome.messages.sent, "groups");
    assert!(outcome.publishes.accepted > 0);
    assert!(outcome.gaps.contains_key(&Phase::Swap));
    assert!(outcome.gaps.contains_key(&Phase::Steady));
    for swap in &swaps.swaps {
        // The proxy's own connections to the server, over which backends publish, travel as well.
        assert!(swap.receipt.transferred >= 200, "{:?}", swap.receipt);
    }
}

/// A server that dies takes its connections along, and the books say so.
#[test]
fn a_server_that_is_killed_is_found_out() {
    let (host, load) = start(20);
    until(&load, |seen| seen.messages.received > 50);
    host.kill().unwrap();
    until(&load, |seen| seen.websockets.dropped == 20);
    let outcome = load.finish().unwrap();
    assert_eq!(outcome.websockets.kept, 0);
    let problems = outcome.problems().join("\n");
    assert!(problems.contains("20 WebSockets dropped"), "{problems}");
}

/// A server that stands still shows as a gap of that length, on every connection.
#[test]
fn a_server_that_stands_still_shows_as_a_gap() {
    let (host, load) = start(20);
    until(&load, |seen| seen.messages.received > 50);
    load.begin(Phase::Swap);
    let pause = Duration::from_millis(600);
    let paused = host.pause(pause).unwrap();
    assert!(paused >= pause);
    // Everybody has had a message since.
    let so_far = load.look().unwrap().messages.received;
    until(&load, |seen| seen.messages.received > so_far + 200);
    load.begin(Phase::Steady);
    let outcome = load.finish().unwrap();
    assert_eq!(outcome.problems(), Vec::<String>::new());
    let gap = outcome.gaps[&Phase::Swap];
    // A message is due every 250 ms on each: the first one of a connection that was held up waited 350 ms at least.
    assert!(gap.p50 >= 349.0, "{gap:?}");
}
