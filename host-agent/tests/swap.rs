//! A swap on one host, with a real engine, a real proxy and an AWS API that we did not write.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::{signal::Kind, step::Step};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_31_no_request_fails_while_a_host_swaps_under_load() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two) = (simple("1"), simple("2"));
    host.boot(&cloud, &one, "01A").await;
    // D-HOST-11: a first boot reports `booted`, never `success`.
    let booted = cloud.verdict("01A").await;
    assert_eq!(
        (booted.kind, booted.serving.as_ref()),
        (Kind::Booted, Some(&one.digest))
    );
    assert_eq!(host.get("/").await, (200, "1".into()));

    let load = Load::start(host.at, 8, 4, 8);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    let after = load.requests.load(std::sync::atomic::Ordering::Relaxed);
    eventually("load goes on after the swap", async || {
        (load.requests.load(std::sync::atomic::Ordering::Relaxed) > after + 500).then_some(())
    })
    .await;
    // D-HOST-31: no request failed, on kept, fresh and idle connections alike.
    let answers = load.finish().await;
    assert!(
        answers["1"] > 0 && answers["2"] > 0 && answers.len() == 2,
        "{answers:?}"
    );

    let verdict = cloud.verdict("01B").await;
    assert_eq!(
        (verdict.kind, &verdict.step),
        (Kind::Success, &Step::Report)
    );
    assert_eq!(
        (verdict.from, verdict.serving),
        (Some(one.digest), Some(two.digest))
    );
    assert_eq!((verdict.drain.cut, verdict.drain.open), (0, 0));
    eprintln!("milliseconds per step: {:?}", verdict.ms);
    // D-HOST-32: idle connections did not delay the drain.
    assert!(verdict.ms[&Step::Drain] < 3000, "{:?}", verdict.ms);
    assert_eq!(verdict.warnings, Vec::<String>::new());
    // D-HOST-2, D-HOST-3, D-HOST-4: start, health, cut_over and the others were told in their order.
    let told: Vec<Step> = cloud
        .signals()
        .await
        .into_iter()
        .filter(|s| s.swap == "01B" && s.kind == Kind::Progress && s.detail.is_none())
        .map(|s| s.step)
        .collect();
    let all: Vec<Step> = Step::ALL
        .into_iter()
        .filter(|s| !matches!(s, Step::Await | Step::Handover | Step::Bake | Step::Report))
        .collect();
    assert_eq!(told, all);
    // D-HOST-6, D-HOST-7: one container is left, the new one.
    assert_eq!(host.containers().len(), 1);
}
