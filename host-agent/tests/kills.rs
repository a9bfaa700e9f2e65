//! kill -9 at every step, found by enumeration, so that a new step is covered at once (D-HOST-13).

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::{signal::Kind, step::Step};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_13_an_agent_killed_at_any_step_is_started_again_and_ends_with_one_version_in_rotation()
 {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let versions = [simple("1"), simple("2")];
    host.boot(&cloud, &versions[0], "01A").await;
    cloud.upload(&versions[1]).await;
    let load = Load::start(host.at, 2, 1, 4);

    let mut moments: Vec<String> = Step::ALL
        .into_iter()
        .filter(|s| !matches!(s, Step::Await | Step::Handover | Step::Bake))
        .flat_map(|s| [format!("{s}:before"), format!("{s}:after")])
        .collect();
    moments.push("report:kept".into());
    for (n, moment) in moments.iter().enumerate() {
        let wanted = &versions[(n + 1) % 2];
        let swap = format!("01B{n:02}");
        let _ = std::fs::remove_file(host.state.join("paused"));
        cloud.want(&wanted.digest, &swap, in_minutes(20)).await;
        let mut agent = host
            .agent(&cloud, &["hotswap"])
            .env("PORTER_TEST_PAUSE_AT", moment)
            .spawn()
            .unwrap();
        eventually(&format!("the agent is at {moment}"), async || {
            host.state.join("paused").exists().then_some(())
        })
        .await;
        agent.kill().await.unwrap();
        // One version answers while nobody is at work, always the same.
        let (status, version) = host.get("/").await;
        assert_eq!(status, 200, "after a kill at {moment}");
        for _ in 0..5 {
            assert_eq!(
                host.get("/").await,
                (200, version.clone()),
                "after a kill at {moment}"
            );
        }
        // cfn-hup runs its action again.
        host.reports(&cloud, "hotswap").await;
        let verdict = cloud.verdict(&swap).await;
        assert_eq!(
            (verdict.kind, verdict.serving),
            (Kind::Success, Some(wanted.digest.clone())),
            "after a kill at {moment}"
        );
        assert_eq!(
            host.get("/").await,
            (200, wanted.manifest.version.clone()),
            "after a kill at {moment}"
        );
        assert_eq!(host.containers().len(), 1, "after a kill at {moment}");
        // Numbers rise over restarts, so that the newest message is known whatever the order of arrival.
        let signals = cloud.signals().await;
        assert!(signals.windows(2).all(|w| w[0].seq < w[1].seq));
        assert_eq!(signals.last().map(|s| s.kind), Some(Kind::Success));
    }
    // D-HOST-31 holds through all of it.
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_12_after_a_kill_before_the_cut_over_a_newer_desired_state_wins() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let versions = [simple("1"), simple("2"), simple("3")];
    host.boot(&cloud, &versions[0], "01A").await;
    for payload in &versions {
        cloud.upload(payload).await;
    }
    cloud.want(&versions[1].digest, "01B", in_minutes(20)).await;
    let mut agent = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_TEST_PAUSE_AT", "health:after")
        .spawn()
        .unwrap();
    eventually("the agent is there", async || {
        host.state.join("paused").exists().then_some(())
    })
    .await;
    agent.kill().await.unwrap();
    cloud.want(&versions[2].digest, "01C", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    // D-HOST-12
    let undone = cloud.verdict("01B").await;
    assert_eq!(
        (undone.kind, undone.cause.unwrap().code),
        (Kind::Failed, contract::signal::CauseCode::Superseded)
    );
    assert_eq!(cloud.verdict("01C").await.kind, Kind::Success);
    assert_eq!(
        (host.get("/").await.1.as_str(), host.containers().len()),
        ("3", 1)
    );
}
