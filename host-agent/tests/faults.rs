//! What goes wrong on a host: each fault is told with its cause, and the old version serves on.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::{
    digest::Digest,
    names::blob_key,
    signal::{CauseCode, HostSignal, Kind},
    spec::{HeaderCapture, HostSpec, OnDrainTimeout},
    step::Step,
};
use std::time::Duration;
use support::*;

/// Boots version 1, wants `bad`, and returns the failure that the host reports after having checked that nothing of the
/// new version is left and nothing of the old one was touched.
async fn refused(cloud: &Cloud, host: &TestHost, bad: &Payload) -> HostSignal {
    let one = simple("1");
    host.boot(cloud, &one, "01A").await;
    let (config, containers) = (host.config(), host.containers());
    cloud.want(&bad.digest, "01B", in_minutes(20)).await;
    host.reports(cloud, "hotswap").await;
    let verdict = cloud.verdict("01B").await;
    assert_eq!(verdict.kind, Kind::Failed);
    assert_eq!(
        (verdict.from.as_ref(), verdict.serving.as_ref()),
        (Some(&one.digest), Some(&one.digest))
    );
    assert_eq!(verdict.to, bad.digest);
    // D-HOST-24: the new containers are gone, the old one is the same as before; D-HOST-30: so is the proxy's file.
    assert_eq!(host.containers(), containers);
    assert_eq!(host.config(), config);
    assert_eq!(host.get("/").await, (200, "1".into()));
    assert_eq!(
        host.images().len(),
        1,
        "the refused version's image is gone"
    );
    let cause = verdict.cause.as_ref().expect("a failure has a cause");
    assert!(cause.log.len() <= 2048 && !cause.message.is_empty());
    // It was reported: a second run has nothing to add and ends with 0 (cfn-hup would run it for ever otherwise).
    host.reports(cloud, "hotswap").await;
    let told = cloud
        .signals()
        .await
        .into_iter()
        .filter(|s| s.swap == "01B" && s.kind == Kind::Failed)
        .count();
    assert_eq!(told, 1);
    verdict
}

fn code(signal: &HostSignal) -> CauseCode {
    signal.cause.as_ref().unwrap().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_pay_8_a_blob_changed_in_the_bucket_is_refused_by_its_digest() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple("2");
    cloud.upload(&two).await;
    let config = &two.manifest.images["web"].config;
    let mut bytes = two.blobs[&config.digest].clone();
    bytes[20] ^= 1;
    cloud.put(&blob_key(SERVICE, &config.digest), bytes).await;
    let verdict = refused(&cloud, &host, &two).await;
    // D-PAY-8
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::DigestMismatch, Step::Fetch)
    );
    let kept: Vec<_> = std::fs::read_dir(host.state.join("blobs"))
        .unwrap()
        .flatten()
        .collect();
    assert!(
        kept.iter()
            .all(|f| f.file_name().to_str() != Some(config.digest.hex()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_82_a_blob_that_is_not_in_the_bucket_is_named() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple("2");
    cloud.upload(&two).await;
    let key = blob_key(SERVICE, &two.manifest.images["web"].config.digest);
    cloud
        .s3
        .delete_object()
        .bucket(BUCKET)
        .key(&key)
        .send()
        .await
        .unwrap();
    let verdict = refused(&cloud, &host, &two).await;
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::PayloadMissing, Step::Fetch)
    );
    assert!(verdict.cause.unwrap().message.contains(&key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_27_a_health_check_that_never_passes_is_told_with_its_answers_and_the_log() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple_with("2", &["--health", "503"], |spec| {
        spec.swap.prepare_timeout = Duration::from_secs(20)
    });
    cloud.upload(&two).await;
    let verdict = refused(&cloud, &host, &two).await;
    // D-HOST-27, D-HOST-10
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::HealthTimeout, Step::Health)
    );
    let cause = verdict.cause.unwrap();
    assert!(
        cause.message.contains("container `web` answered 503"),
        "{}",
        cause.message
    );
    assert!(cause.log.contains("health is 503"), "{}", cause.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_27_a_container_that_ends_during_its_check_fails_at_once_with_its_status_and_log() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple_with("2", &["--health", "503", "--exit-after-ms", "300"], |_| {});
    cloud.upload(&two).await;
    let began = std::time::Instant::now();
    let verdict = refused(&cloud, &host, &two).await;
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::ContainerExited, Step::Health)
    );
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "well before prepare_timeout"
    );
    let cause = verdict.cause.unwrap();
    assert!(
        cause.log.contains("can't find its database"),
        "{}",
        cause.log
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_82_a_container_that_cannot_start_is_told() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (mut broken, mut blobs) = image(&["--version", "2"]);
    let config = blobs.remove(&broken.config.digest).unwrap();
    let config = String::from_utf8(config)
        .unwrap()
        .replace("/service", "/missing")
        .into_bytes();
    broken.config.digest = {
        use sha2::Digest as _;
        Digest::from_bytes(&sha2::Sha256::digest(&config).into())
    };
    broken.config.size = config.len() as u64;
    blobs.insert(broken.config.digest.clone(), config);
    let two = payload(
        "2",
        vec![("web", (broken, blobs))],
        host_spec(vec![container("web", "web")]),
    );
    cloud.upload(&two).await;
    let verdict = refused(&cloud, &host, &two).await;
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::StartFailed, Step::Start)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_18_an_inet_container_without_a_port_is_told() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple_with("2", &[], |spec| spec.containers[0].inet_port = None);
    cloud.upload(&two).await;
    // D-HOST-18
    let verdict = refused(&cloud, &host, &two).await;
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::PortMissing, Step::Start)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_14_a_version_that_does_not_fit_beside_the_old_one_changes_nothing() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let two = simple_with("2", &[], |spec| spec.containers[0].memory = Some(1 << 50));
    cloud.upload(&two).await;
    let verdict = refused(&cloud, &host, &two).await;
    // D-HOST-14
    assert_eq!(
        (code(&verdict), verdict.step),
        (CauseCode::MemoryLow, Step::Start)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_30_a_configuration_that_the_proxy_refuses_changes_nothing() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    // The proxy itself refuses the one; a line break in the other never gets so far.
    for n in 0..2 {
        let two = simple_with(&format!("2{n}"), &[], |spec| match n {
            0 => spec.proxy.stats_bind = Some("nowhere:99999999".into()),
            _ => {
                let header = "Host\n  bind :1".into();
                spec.proxy.request_header_captures = vec![HeaderCapture { header, length: 10 }];
            }
        });
        cloud.upload(&two).await;
        if n == 0 {
            let verdict = refused(&cloud, &host, &two).await;
            // D-HOST-30
            assert_eq!(
                (code(&verdict), verdict.step),
                (CauseCode::ProxyConfig, Step::CutOver)
            );
            assert!(verdict.cause.unwrap().message.contains("refused"));
        } else {
            cloud.want(&two.digest, "01C", in_minutes(20)).await;
            host.reports(&cloud, "hotswap").await;
            assert_eq!(code(&cloud.verdict("01C").await), CauseCode::ProxyConfig);
            assert_eq!(host.get("/").await, (200, "1".into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_43_after_the_deadline_traffic_does_not_move() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two) = (simple("1"), simple("2"));
    host.boot(&cloud, &one, "01A").await;
    cloud.upload(&two).await;
    // D-HOT-43: passed before the host noticed …
    cloud.want(&two.digest, "01B", in_minutes(-1)).await;
    host.reports(&cloud, "hotswap").await;
    let verdict = cloud.verdict("01B").await;
    assert_eq!(
        (code(&verdict), verdict.serving.as_ref()),
        (CauseCode::Deadline, Some(&one.digest))
    );
    // … and while it was being prepared.
    let slow = simple_with("3", &["--health", "503"], |_| {});
    cloud.upload(&slow).await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    cloud.want(&slow.digest, "01C", soon).await;
    host.reports(&cloud, "hotswap").await;
    let verdict = cloud.verdict("01C").await;
    assert_eq!(
        (code(&verdict), verdict.serving.as_ref()),
        (CauseCode::Deadline, Some(&one.digest))
    );
    assert_eq!(
        (host.get("/").await.1.as_str(), host.containers().len()),
        ("1", 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_12_a_newer_desired_state_supersedes_a_swap_that_has_not_moved_traffic() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two, three) = (
        simple("1"),
        simple_with("2", &["--health", "503"], |_| {}),
        simple("3"),
    );
    host.boot(&cloud, &one, "01A").await;
    cloud.upload(&two).await;
    cloud.upload(&three).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut agent = host.agent(&cloud, &["hotswap"]).spawn().unwrap();
    eventually("the second version is being checked", async || {
        cloud
            .signals()
            .await
            .iter()
            .any(|s| s.swap == "01B" && s.step == Step::Health)
            .then_some(())
    })
    .await;
    cloud.want(&three.digest, "01C", in_minutes(20)).await;
    assert!(agent.wait().await.unwrap().success());
    // D-HOST-12: told for the one, done for the other, by the same run.
    assert_eq!(code(&cloud.verdict("01B").await), CauseCode::Superseded);
    assert_eq!(cloud.verdict("01C").await.kind, Kind::Success);
    assert_eq!(
        (host.get("/").await.1.as_str(), host.containers().len()),
        ("3", 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_82_a_full_disk_is_told_with_the_numbers() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    std::fs::create_dir_all(&host.state).unwrap();
    let state = host.state.to_str().unwrap().to_owned();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &state])
        .status()
        .unwrap();
    assert!(mounted.success(), "this test needs to be root");
    let one = simple("1");
    cloud.upload(&one).await;
    cloud.want(&one.digest, "01A", in_minutes(20)).await;
    let output = host.run(&cloud, &["boot"]).await;
    let verdict = cloud.verdict("01A").await;
    std::process::Command::new("umount")
        .arg(&state)
        .status()
        .unwrap();
    // A boot that failed says so to cloud-init as well.
    assert!(!output.status.success());
    assert_eq!(
        (verdict.kind, code(&verdict)),
        (Kind::Failed, CauseCode::DiskFull)
    );
    assert!(verdict.cause.unwrap().message.contains("MiB"));
    assert!(host.containers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_82_an_engine_that_does_not_answer_is_told() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = simple("1");
    cloud.upload(&one).await;
    cloud.want(&one.digest, "01A", in_minutes(20)).await;
    let output = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_DOCKER_SOCKET", host.path("none.sock"))
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let verdict = cloud.verdict("01A").await;
    assert_eq!(
        (verdict.kind, code(&verdict), verdict.step),
        (Kind::Failed, CauseCode::Engine, Step::Detect)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_29_an_engine_that_restarts_during_the_health_check_does_not_fail_the_swap() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let slow = |spec: &mut HostSpec| spec.containers[0].health.healthy = 10;
    let (one, two) = (simple("1"), simple_with("2", &[], slow));
    host.boot(&cloud, &one, "01A").await;
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut door = EngineDoor::open(host.path("engine.sock"));
    let mut agent = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_DOCKER_SOCKET", &door.path)
        .spawn()
        .unwrap();
    eventually("the second version is being checked", async || {
        let signals = cloud.signals().await;
        signals
            .iter()
            .any(|s| s.swap == "01B" && s.step == Step::Health)
            .then_some(())
    })
    .await;
    door.shut();
    // The engine's absence, not a wait for anything.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(agent.try_wait().unwrap().is_none(), "the agent gave up");
    door.reopen();
    assert!(agent.wait().await.unwrap().success());
    // D-HOST-29
    assert_eq!(cloud.verdict("01B").await.kind, Kind::Success);
    assert_eq!(host.get("/").await, (200, "2".into()));
    assert_eq!(host.containers().len(), 1);
}

/// Boots version 1 with these arguments and limits, swaps to version 2 during a request that takes `ms` from the moment in
/// which version 2 has been started, and returns the verdict and whether the long request was answered.
async fn swap_during(
    cloud: &Cloud,
    host: &TestHost,
    ms: u32,
    arguments: &[&str],
    limit: impl Fn(&mut HostSpec),
) -> (HostSignal, bool) {
    let one = simple_with("1", arguments, &limit);
    let two = simple_with("2", arguments, &limit);
    host.boot(cloud, &one, "01A").await;
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let old = host.containers().remove(0);
    let (path, folder) = host.own_program(
        "porter_docker_post_run",
        "touch $OUT/started; until [ -e $OUT/go ]; do sleep 0.05; done",
    );
    let mut agent = host.agent(cloud, &["hotswap"]);
    let mut agent = agent.env("PATH", path).spawn().unwrap();
    eventually("version 2 has been started", async || {
        folder.join("started").exists().then_some(())
    })
    .await;
    let at = host.at;
    let long = tokio::spawn(async move { Client::new(at).get(&format!("/slow?ms={ms}")).await });
    eventually("version 1 has the request", async || {
        (!docker(&["logs", &old]).is_empty()).then_some(())
    })
    .await;
    std::fs::write(folder.join("go"), "").unwrap();
    assert!(agent.wait().await.unwrap().success());
    let verdict = cloud.verdict("01B").await;
    assert_eq!(host.get("/").await, (200, "2".into()));
    let answered = matches!(long.await.unwrap(), Ok((200, _)));
    (verdict, answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_5_a_long_request_on_the_old_version_is_waited_for() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (verdict, answered) = swap_during(&cloud, &host, 5000, &[], |_| {}).await;
    // D-HOST-5, D-HOST-32
    assert!(answered);
    assert_eq!(verdict.kind, Kind::Success);
    assert_eq!(
        (verdict.drain.ended, verdict.drain.cut, verdict.drain.open),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_33_a_connection_that_outlasts_the_drain_is_cut_and_counted() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let limit = |spec: &mut HostSpec| spec.swap.drain_timeout = Duration::from_secs(1);
    let (verdict, answered) = swap_during(&cloud, &host, 60_000, &[], limit).await;
    // D-HOST-33, D-CFG-106 `close`
    assert!(!answered);
    assert_eq!(verdict.kind, Kind::Success);
    assert_eq!(
        (verdict.drain.ended, verdict.drain.cut, verdict.drain.open),
        (0, 1, 0)
    );
    assert_eq!(host.containers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_35_a_container_that_is_told_to_end_may_end_connections_that_outlasted_the_drain_itself()
 {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let limit = |spec: &mut HostSpec| spec.swap.drain_timeout = Duration::from_secs(1);
    let (verdict, answered) = swap_during(&cloud, &host, 5000, &["--graceful"], limit).await;
    // D-HOST-35, D-HOST-33: it outlasted the drain, and is counted; its end was the container's, within `stop_grace`.
    assert!(
        answered,
        "the proxy cut it before the container could answer"
    );
    assert_eq!(
        (verdict.kind, verdict.drain.cut, verdict.warnings.len()),
        (Kind::Success, 1, 0),
        "{:?}",
        verdict.warnings
    );
    assert_eq!(host.containers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_cfg_106_under_fail_a_drain_that_takes_too_long_fails_the_swap_and_keeps_the_connection()
{
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let limit = |spec: &mut HostSpec| {
        spec.swap.drain_timeout = Duration::from_secs(1);
        spec.swap.on_drain_timeout = OnDrainTimeout::Fail;
    };
    let (verdict, answered) = swap_during(&cloud, &host, 8000, &[], limit).await;
    // D-CFG-106
    assert_eq!(
        (verdict.kind, code(&verdict), verdict.step),
        (Kind::Failed, CauseCode::DrainTimeout, Step::Drain)
    );
    assert_eq!(
        (
            verdict.drain.open,
            verdict.serving == Some(verdict.to.clone())
        ),
        (1, true)
    );
    assert!(answered, "the old container stays for its connections");
    assert_eq!(host.containers().len(), 2);
    // The next swap takes the leftover away.
    let three = simple("3");
    cloud.upload(&three).await;
    cloud.want(&three.digest, "01C", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    assert_eq!(cloud.verdict("01C").await.kind, Kind::Success);
    assert_eq!(host.containers().len(), 1);
}

/// Kills the proxy of a host, master and workers, as its service manager would find it after a crash.
fn kill_proxy(host: &TestHost) {
    let master = std::fs::read_to_string(host.path("haproxy.pid")).unwrap();
    let master = master.trim();
    let children =
        std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    for pid in std::iter::once(master).chain(children.split_whitespace()) {
        std::process::Command::new("kill")
            .args(["-9", pid])
            .status()
            .unwrap();
    }
}

/// What a service manager does that restarts a dead proxy just before the agent replaces its configuration.
fn start_with_the_configuration_before(host: &TestHost) -> String {
    let d = host.folder.path().display();
    std::fs::copy(host.path("haproxy.cfg"), host.path("before.cfg")).unwrap();
    let script = format!(
        "#!/bin/sh\nset -e\ncd {d}\nmv haproxy.cfg wanted.cfg\ncp before.cfg haproxy.cfg\nsh start.sh\nmv wanted.cfg haproxy.cfg\n"
    );
    std::fs::write(host.path("early.sh"), script).unwrap();
    format!("sh {}", host.path("early.sh").display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_31_a_proxy_that_died_and_was_restarted_with_the_old_configuration_gets_the_new_one()
{
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two) = (simple("1"), simple("2"));
    host.boot(&cloud, &one, "01A").await;
    let start = start_with_the_configuration_before(&host);
    kill_proxy(&host);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let output = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_PROXY_START", start)
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    // D-HOST-31
    assert_eq!(cloud.verdict("01B").await.kind, Kind::Success);
    assert_eq!(host.get("/").await, (200, "2".into()));
    assert_eq!(host.containers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_24_a_proxy_that_can_not_be_started_with_the_new_version_serves_the_old_one_again() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two) = (simple("1"), simple("2"));
    host.boot(&cloud, &one, "01A").await;
    kill_proxy(&host);
    // Fails once: the new version's start. The second one is the way back's.
    let script = format!(
        "cd {}\nif mkdir once 2>/dev/null; then echo no >&2; exit 1; fi\nexec sh start.sh\n",
        host.folder.path().display()
    );
    std::fs::write(host.path("second.sh"), script).unwrap();
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let output = host
        .agent(&cloud, &["hotswap"])
        .env(
            "PORTER_PROXY_START",
            format!("sh {}", host.path("second.sh").display()),
        )
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    // D-HOST-24
    let verdict = cloud.verdict("01B").await;
    assert_eq!(
        (verdict.kind, code(&verdict)),
        (Kind::Failed, CauseCode::ProxyReload)
    );
    assert_eq!(host.get("/").await, (200, "1".into()));
    assert_eq!(host.containers().len(), 1);
}
