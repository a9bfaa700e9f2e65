//! A swap that nobody notices: containers that hand over their connections, with a real engine and a real proxy.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::{
    signal::{CauseCode, HostSignal, Kind},
    spec::{ContainerSpec, HostSpec, SwapOrder, Topology},
    step::Step,
};
use handover::control::{Answer, Request, Role, ask};
use std::{path::PathBuf, time::Duration};
use support::*;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A client whose connection lives as long as somebody answers on it.
struct Echo {
    stream: BufReader<TcpStream>,
    said: u64,
}

impl Echo {
    /// `None` when whoever answers does not upgrade.
    async fn try_open(host: &TestHost) -> Option<Self> {
        let request = "Upgrade: echo\r\n";
        let (head, stream) = upgrade(host, request).await;
        head.starts_with("HTTP/1.1 101")
            .then_some(Self { stream, said: 0 })
    }

    async fn open(host: &TestHost) -> Self {
        Self::try_open(host).await.expect("an upgrade")
    }

    /// Says a line and expects it back with its number; returns the version that answered.
    async fn say(&mut self) -> String {
        self.said += 1;
        self.stream.get_mut().write_all(b"hello\n").await.unwrap();
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        read.expect("an answer").unwrap();
        let (version, rest) = line.split_once(' ').expect("the connection was closed");
        assert_eq!(rest, format!("{}: hello\n", self.said));
        version.to_owned()
    }

    async fn is_closed(&mut self) {
        let mut rest = String::new();
        let read = self.stream.read_line(&mut rest);
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{rest}");
    }
}

/// Asks for `/echo` with these headers; the answer's head, and the connection behind it.
async fn upgrade(host: &TestHost, headers: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = BufReader::new(TcpStream::connect(host.at).await.unwrap());
    let request =
        format!("GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n{headers}\r\n");
    stream
        .get_mut()
        .write_all(request.as_bytes())
        .await
        .unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).await.unwrap();
        assert!(read > 0, "closed after: {head}");
    }
    (head, stream)
}

async fn clients(host: &TestHost, count: usize) -> Vec<Echo> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Echo::open(host).await;
        client.say().await;
        clients.push(client);
    }
    clients
}

/// A container that hands over, its image called `image`.
fn keeper_named(name: &str) -> ContainerSpec {
    ContainerSpec {
        handover: true,
        inet_port: None,
        ..container(name, name)
    }
}

fn keeper(version: &str, arguments: &[&str]) -> Payload {
    keeper_of(version, arguments, keeper_named("web"))
}

fn keeper_of(version: &str, arguments: &[&str], spec: ContainerSpec) -> Payload {
    let arguments = [&["--version", version], arguments].concat();
    payload(
        version,
        vec![("web", image_of("keeper", &arguments))],
        host_spec(vec![spec]),
    )
}

/// One that the proxy never asks: its connections would be counted, too, and end when they like.
fn rarely_checked(version: &str, arguments: &[&str]) -> Payload {
    let mut spec = keeper_named("web");
    spec.health.interval = Duration::from_secs(3600);
    keeper_of(version, arguments, spec)
}

/// The proxy's processes with how often they were reloaded.
fn proxy(host: &TestHost) -> String {
    let pid = std::fs::read_to_string(host.path("haproxy.pid")).unwrap();
    let children = std::process::Command::new("pgrep")
        .args(["-P", pid.trim()])
        .output()
        .unwrap();
    format!(
        "{} {}",
        pid.trim(),
        String::from_utf8_lossy(&children.stdout)
            .trim()
            .replace('\n', " ")
    )
}

async fn swap(cloud: &Cloud, host: &TestHost, payload: &Payload, swap: &str) -> HostSignal {
    cloud.upload(payload).await;
    cloud.want(&payload.digest, swap, in_minutes(20)).await;
    host.reports(cloud, "hotswap").await;
    let verdict = cloud.verdict(swap).await;
    eprintln!(
        "{swap}: {:?} {:?} handover {:?} drain {:?} ms {:?} warnings {:?}",
        verdict.kind,
        verdict.cause.as_ref().map(|c| &c.message),
        verdict.handover,
        verdict.drain,
        verdict.ms,
        verdict.warnings
    );
    verdict
}

/// What the processes of a host say that they are.
fn roles(host: &TestHost) -> Vec<Role> {
    let mut roles = Vec::new();
    for seat in std::fs::read_dir(host.path("run"))
        .into_iter()
        .flatten()
        .flatten()
    {
        for file in std::fs::read_dir(seat.path()).unwrap().flatten() {
            let path: PathBuf = file.path();
            let name = file.file_name().into_string().unwrap();
            if !name.starts_with("control-") || !name.ends_with(".sock") {
                continue;
            }
            if let Ok(Answer::Status(status)) =
                ask(&path, Request::Status {}, Duration::from_secs(2))
            {
                roles.push(status.role);
            }
        }
    }
    roles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_and_the_proxy_is_not_touched_when_a_container_hands_over() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &keeper("1", &[]), "01A").await;
    assert_eq!(host.get("/").await, (200, "1".into()));
    let mut clients = clients(&host, 20).await;
    let load = Load::start(host.at, 2, 2, 2);
    let (config, before) = (host.config(), proxy(&host));
    for (swap_id, version) in [("01B", "2"), ("01C", "3")] {
        let verdict = swap(&cloud, &host, &keeper(version, &[]), swap_id).await;
        assert_eq!(verdict.kind, Kind::Success);
        for client in &mut clients {
            assert_eq!(client.say().await, version);
        }
        // The proxy has the same processes and the same file.
        assert_eq!(
            (host.config(), proxy(&host)),
            (config.clone(), before.clone())
        );
        let account = verdict.handover.expect("an account");
        assert!(account.before >= 20, "{account:?}");
        assert_eq!(
            (
                account.handed_over,
                account.dropped,
                account.closed,
                account.taken_back
            ),
            (account.before, 0, 0, 0)
        );
        // Connections that were handed over are neither drained nor cut.
        assert_eq!(verdict.drain, Default::default());
        assert_eq!(verdict.warnings, Vec::<String>::new());
        assert!(verdict.ms[&Step::Bake] >= 500);
        let told: Vec<Step> = (cloud.signals().await.into_iter())
            .filter(|s| s.swap == swap_id && s.kind == Kind::Progress && s.detail.is_none())
            .map(|s| s.step)
            .collect();
        let all = Step::ALL.into_iter();
        assert_eq!(
            told,
            all.filter(|s| !matches!(s, Step::Await | Step::Report))
                .collect::<Vec<_>>()
        );
        assert_eq!(
            (host.containers().len(), roles(&host)),
            (1, vec![Role::Serving])
        );
    }
    // No request failed either.
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_cannot_read_the_state_gets_the_traffic_and_the_old_connections_are_told_to_end()
 {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &keeper("1", &[]), "01A").await;
    let mut clients = clients(&host, 3).await;
    let load = Load::start(host.at, 2, 1, 0);
    let verdict = swap(&cloud, &host, &keeper("2", &["--schema", "2"]), "01B").await;
    load.finish().await;
    assert_eq!(
        (verdict.kind, host.get("/").await.1.as_str()),
        (Kind::Success, "2")
    );
    let said = verdict.warnings.join("; ");
    assert!(
        said.contains("container `web` was drained instead of handed over: the old version writes its connections' state in versions [1], the new one reads [2]"),
        "{said}"
    );
    let account = verdict.handover.unwrap();
    assert!(
        account.closed >= 3 && account.handed_over == 0,
        "{account:?}"
    );
    for client in &mut clients {
        client.is_closed().await;
    }
    assert_eq!(
        (host.containers().len(), roles(&host)),
        (1, vec![Role::Serving])
    );
    // From there on it goes on as before.
    let mut client = Echo::open(&host).await;
    // The workers of the configuration before end on their own.
    let before = eventually("one worker is left", async || {
        Some(proxy(&host)).filter(|processes| processes.split(' ').count() == 2)
    })
    .await;
    let verdict = swap(&cloud, &host, &keeper("3", &["--schema", "2"]), "01C").await;
    assert_eq!(
        (verdict.kind, verdict.handover.unwrap().closed),
        (Kind::Success, 0)
    );
    assert_eq!((client.say().await.as_str(), proxy(&host)), ("3", before));
    // Processes of another user would not trust each other.
    let mut other = host_spec(vec![keeper_named("web")]);
    other.containers[0].uid = 1002;
    let image = image_of("keeper", &["--version", "4", "--schema", "2"]);
    let verdict = swap(
        &cloud,
        &host,
        &payload("4", vec![("web", image)], other),
        "01D",
    )
    .await;
    let said = verdict.warnings.join("; ");
    assert!(
        said.contains("the old version runs as user 1001, the new one as user 1002"),
        "{said}"
    );
    assert_eq!(
        (verdict.kind, host.get("/").await.1.as_str()),
        (Kind::Success, "4")
    );
}

/// Has the proxy's own checks fail, and the next one be an hour away.
fn give_up_the_server(host: &TestHost) {
    let config = host.config();
    let mut words = config
        .lines()
        .filter_map(|l| l.trim().strip_prefix("server "));
    let name = words.next().unwrap().split(' ').next().unwrap().to_owned();
    let mut socket = std::os::unix::net::UnixStream::connect(host.path("admin.sock")).unwrap();
    let command = format!("set server {SERVICE}-backend/{name} health down\n");
    std::io::Write::write_all(&mut socket, command.as_bytes()).unwrap();
    assert_eq!(std::io::read_to_string(socket).unwrap().trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_asked_just_now_gets_requests_whatever_the_proxy_saw_of_the_one_before()
{
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &rarely_checked("1", &[]), "01A").await;
    give_up_the_server(&host);
    assert_eq!(host.get("/").await.0, 503);
    let forward = swap(&cloud, &host, &rarely_checked("2", &[]), "01B").await;
    assert_eq!(forward.kind, Kind::Success);
    assert_eq!(host.get("/").await, (200, "2".into()));
    // And on the way back.
    give_up_the_server(&host);
    let dies = rarely_checked("3", &["--die-after", "taken"]);
    let back = swap(&cloud, &host, &dies, "01C").await;
    assert_eq!((back.kind, back.step), (Kind::Failed, Step::Bake));
    assert_eq!(host.get("/").await, (200, "2".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_successor_fails_the_old_version_serves_as_if_nothing_had_happened() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = keeper("1", &[]);
    host.boot(&cloud, &one, "01A").await;
    let mut clients = clients(&host, 3).await;
    let (containers, config, before) = (host.containers(), host.config(), proxy(&host));
    let cases: [(&[&str], Step, CauseCode); 7] = [
        (
            &["--die-at", "connected"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        (
            &["--die-at", "begun"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        (
            &["--die-at", "transferring"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        (
            &["--die-at", "ready"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        // Refused before anything is frozen: what came would be closed without a word.
        (
            &["--descriptors", "24"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        // Nobody but the leader can end this one: both processes wait.
        (
            &["--hang-at", "committed"],
            Step::Handover,
            CauseCode::HandoverFailed,
        ),
        // The way back in the bake: everything is handed over again.
        (&["--sick"], Step::Bake, CauseCode::HealthTimeout),
    ];
    for (n, (arguments, step, code)) in cases.into_iter().enumerate() {
        let verdict = swap(&cloud, &host, &keeper("2", arguments), &format!("01B{n}")).await;
        let cause = verdict.cause.as_ref().expect("a cause");
        assert_eq!(
            (verdict.kind, verdict.step, cause.code),
            (Kind::Failed, step, code),
            "{arguments:?}"
        );
        assert_eq!(verdict.serving.as_ref(), Some(&one.digest), "{arguments:?}");
        if n < 4 {
            assert!(
                cause
                    .message
                    .contains("the new process ended in the handover"),
                "{cause:?}"
            );
            assert!(cause.log.contains("dies at"), "{cause:?}");
        }
        if arguments.contains(&"--descriptors") {
            assert!(cause.message.contains("descriptors"), "{cause:?}");
        }
        for client in &mut clients {
            assert_eq!(client.say().await, "1", "{arguments:?}");
        }
        assert_eq!(
            (host.containers(), host.config()),
            (containers.clone(), config.clone())
        );
        assert_eq!(
            (proxy(&host), roles(&host)),
            (before.clone(), vec![Role::Serving])
        );
        if step == Step::Bake {
            let account = verdict.handover.unwrap();
            assert!(
                account.taken_back >= 3 && account.dropped == 0,
                "{account:?}"
            );
        }
    }
    // One that dies after it has taken over takes the connections along; the old version serves new ones.
    let verdict = swap(
        &cloud,
        &host,
        &keeper("2", &["--die-after", "taken"]),
        "01C",
    )
    .await;
    assert_eq!((verdict.kind, verdict.step), (Kind::Failed, Step::Bake));
    assert_eq!(verdict.serving.as_ref(), Some(&one.digest));
    assert_eq!(host.get("/").await, (200, "1".into()));
    assert_eq!(
        (host.containers(), roles(&host)),
        (containers, vec![Role::Serving])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_step_of_a_handover_goes_on_and_no_connection_ends() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let versions = [keeper("1", &[]), keeper("2", &[])];
    host.boot(&cloud, &versions[0], "01A").await;
    cloud.upload(&versions[1]).await;
    let mut clients = clients(&host, 3).await;
    let before = proxy(&host);
    let steps = Step::ALL
        .into_iter()
        .filter(|s| *s >= Step::Health && *s != Step::Await);
    let moments = steps.flat_map(|s| [format!("{s}:before"), format!("{s}:after")]);
    for (n, moment) in moments.enumerate() {
        let wanted = &versions[(n + 1) % 2];
        let swap = format!("01B{n:02}");
        let _ = std::fs::remove_file(host.state.join("paused"));
        cloud.want(&wanted.digest, &swap, in_minutes(20)).await;
        let mut agent = (host.agent(&cloud, &["hotswap"]))
            .env("PORTER_TEST_PAUSE_AT", &moment)
            .spawn()
            .unwrap();
        eventually(&format!("the agent is at {moment}"), async || {
            host.state.join("paused").exists().then_some(())
        })
        .await;
        agent.kill().await.unwrap();
        for client in &mut clients {
            client.say().await;
        }
        host.reports(&cloud, "hotswap").await;
        let verdict = cloud.verdict(&swap).await;
        assert_eq!(
            (verdict.kind, verdict.serving.as_ref()),
            (Kind::Success, Some(&wanted.digest)),
            "{moment}"
        );
        assert_eq!(verdict.handover.unwrap().dropped, 0, "{moment}");
        for client in &mut clients {
            assert_eq!(client.say().await, wanted.manifest.version, "{moment}");
        }
        assert_eq!(
            (host.containers().len(), roles(&host)),
            (1, vec![Role::Serving]),
            "{moment}"
        );
    }
    assert_eq!(proxy(&host), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_the_middle_of_a_handover_asks_both_processes_how_it_ended() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &keeper("1", &["--slow-ms", "700"]), "01A")
        .await;
    let mut client = Echo::open(&host).await;
    let two = keeper("2", &[]);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut agent = host.agent(&cloud, &["hotswap"]).spawn().unwrap();
    eventually("the handover is under way", async || {
        roles(&host).contains(&Role::Giving).then_some(())
    })
    .await;
    agent.kill().await.unwrap();
    host.reports(&cloud, "hotswap").await;
    let verdict = cloud.verdict("01B").await;
    assert_eq!(
        (verdict.kind, client.say().await.as_str()),
        (Kind::Success, "2")
    );
    assert_eq!(verdict.handover.unwrap().dropped, 0);

    // Something newer is wanted meanwhile, and the interrupted one had not been finished: what was taken goes back first.
    let three = keeper("3", &[]);
    cloud.upload(&three).await;
    cloud.want(&three.digest, "01C", in_minutes(20)).await;
    let _ = std::fs::remove_file(host.state.join("paused"));
    let mut agent = (host.agent(&cloud, &["hotswap"]))
        .env("PORTER_TEST_PAUSE_AT", "handover:before")
        .spawn()
        .unwrap();
    eventually("the agent is there", async || {
        host.state.join("paused").exists().then_some(())
    })
    .await;
    agent.kill().await.unwrap();
    cloud.want(&two.digest, "01D", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    let undone = cloud.verdict("01C").await;
    assert_eq!(
        (undone.kind, undone.cause.unwrap().code),
        (Kind::Failed, CauseCode::Superseded)
    );
    assert_eq!(
        (cloud.verdict("01D").await.kind, client.say().await.as_str()),
        (Kind::Success, "2")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_containers_that_hand_over_and_ordinary_ones_are_swapped_together() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let of = |version: &str, spec: HostSpec| {
        let plain = image(&["--version", version]);
        let images = vec![
            ("web", image_of("keeper", &["--version", version])),
            ("api", image_of("keeper", &["--version", version])),
            ("plain", plain),
            ("jobs", image(&["--version", version, "--worker"])),
        ];
        payload(version, images, spec)
    };
    let mixed = || {
        let mut jobs = container("jobs", "jobs");
        (jobs.topology, jobs.swap_order) = (Topology::Worker, SwapOrder::StopFirst);
        jobs.inet_port = None;
        host_spec(vec![
            keeper_named("web"),
            container("plain", "plain"),
            keeper_named("api"),
            jobs,
        ])
    };
    // A host of ordinary containers: the first that hand over have nobody to take over from.
    let plain = |version| of(version, host_spec(vec![container("web", "plain")]));
    host.boot(&cloud, &plain("1"), "01A").await;
    let load = Load::start(host.at, 2, 2, 2);
    let verdict = swap(&cloud, &host, &of("2", mixed()), "01B").await;
    assert_eq!(
        (verdict.kind, verdict.handover, host.containers().len()),
        (Kind::Success, None, 4)
    );
    // In turns; the ordinary container does not upgrade.
    let mut clients = Vec::new();
    while clients.len() < 6 {
        clients.extend(Echo::try_open(&host).await);
    }
    let verdict = swap(&cloud, &host, &of("3", mixed()), "01C").await;
    assert_eq!((verdict.kind, host.containers().len()), (Kind::Success, 4));
    let account = verdict.handover.unwrap();
    assert_eq!(
        (account.containers, account.dropped, account.closed),
        (2, 0, 0)
    );
    assert!(account.handed_over >= 6, "{account:?}");
    // The ordinary container's change reloaded the proxy; connections of the others went on through it.
    for client in &mut clients {
        assert_eq!(client.say().await, "3");
    }
    assert_eq!(verdict.drain.cut, 0);
    // When one of them fails, all of it goes back.
    let mut bad = mixed();
    bad.containers[1].health.status = 204;
    bad.containers[1].health.path = "/".into();
    bad.swap.prepare_timeout = Duration::from_secs(5);
    assert_eq!(
        swap(&cloud, &host, &of("4", bad), "01D").await.kind,
        Kind::Failed
    );
    for client in &mut clients {
        assert_eq!(client.say().await, "3");
    }
    // And back to an ordinary container, in which no connection can live on.
    let verdict = swap(&cloud, &host, &plain("5"), "01E").await;
    assert_eq!((verdict.kind, host.containers().len()), (Kind::Success, 1));
    assert!(verdict.handover.unwrap().closed >= 6);
    for client in &mut clients {
        client.is_closed().await;
    }
    load.finish().await;
    assert_eq!(host.get("/").await, (200, "5".into()));
}

/// Whoever goes while the new version serves has lost nothing when that is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_by_itself_in_the_bake_is_not_counted_as_dropped() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    // In the bake it must fail four times, so that somebody can leave meanwhile.
    let patient = |version: &str, arguments: &[&str]| {
        let mut spec = keeper_named("web");
        spec.health.healthy = 4;
        keeper_of(version, arguments, spec)
    };
    host.boot(&cloud, &patient("1", &[]), "01A").await;
    let mut clients = clients(&host, 3).await;
    let two = patient("2", &["--sick"]);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut agent = host.agent(&cloud, &["hotswap"]).spawn().unwrap();
    eventually("the new version serves", async || {
        roles(&host).contains(&Role::Emptied).then_some(())
    })
    .await;
    drop(clients.pop());
    assert!(agent.wait().await.unwrap().success());
    let verdict = cloud.verdict("01B").await;
    assert_eq!((verdict.kind, verdict.step), (Kind::Failed, Step::Bake));
    let account = verdict.handover.unwrap();
    assert!(
        account.handed_over >= 3 && account.taken_back >= 2 && account.dropped == 0,
        "{account:?}"
    );
    for client in &mut clients {
        assert_eq!(client.say().await, "1");
    }
}

/// The agent with this errand, killed where it is about to hand over.
async fn kill_before_the_handover(cloud: &Cloud, host: &TestHost, payload: &Payload, swap: &str) {
    cloud.upload(payload).await;
    cloud.want(&payload.digest, swap, in_minutes(20)).await;
    let mut agent = (host.agent(cloud, &["hotswap"]))
        .env("PORTER_TEST_PAUSE_AT", "handover:before")
        .spawn()
        .unwrap();
    eventually("the agent is about to hand over", async || {
        host.state.join("paused").exists().then_some(())
    })
    .await;
    agent.kill().await.unwrap();
}

/// SIGKILL of the old process, as far as it can be told apart: it takes along what it had not sent, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_old_process_dies_in_the_handover_what_has_crossed_lives_on() {
    let cloud = Cloud::start().await;
    for (n, phase) in ["offered", "transferring", "sealed", "committed"]
        .into_iter()
        .enumerate()
    {
        let host = TestHost::new(&cloud).await;
        let one = rarely_checked("1", &["--die-giving", phase]);
        let id = |swap: u8| format!("01{n}{swap}");
        host.boot(&cloud, &one, &id(1)).await;
        let mut clients = clients(&host, 3).await;
        let verdict = swap(&cloud, &host, &rarely_checked("2", &[]), &id(2)).await;
        let answers = async || {
            let (status, version) = host.get("/").await;
            (status == 200).then_some(version)
        };
        if phase == "offered" {
            assert_eq!((verdict.kind, verdict.step), (Kind::Failed, Step::Handover));
            assert_eq!(eventually("somebody serves", answers).await, "1");
            for client in &mut clients {
                client.is_closed().await;
            }
        } else {
            assert_eq!(verdict.kind, Kind::Success, "{phase}");
            let account = verdict.handover.unwrap();
            assert!(
                account.handed_over >= 3 && account.dropped == 0,
                "{phase}: {account:?}"
            );
            assert!(
                verdict.warnings.join("; ").contains("the old process"),
                "{phase}: {:?}",
                verdict.warnings
            );
            for client in &mut clients {
                assert_eq!(client.say().await, "2", "{phase}");
            }
        }
        assert_eq!(
            (host.containers().len(), roles(&host)),
            (1, vec![Role::Serving]),
            "{phase}"
        );
    }
}

/// SIGSTOP of the old process, for longer than everybody's patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_is_stopped_keeps_its_connections_when_it_goes_on() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &keeper("1", &[]), "01A").await;
    let mut clients = clients(&host, 3).await;
    let containers = host.containers();
    kill_before_the_handover(&cloud, &host, &keeper("2", &[]), "01B").await;
    docker(&["kill", "--signal", "STOP", &containers[0]]);
    host.reports(&cloud, "hotswap").await;
    docker(&["kill", "--signal", "CONT", &containers[0]]);
    let verdict = cloud.verdict("01B").await;
    assert_eq!(
        (verdict.kind, verdict.cause.unwrap().code),
        (Kind::Failed, CauseCode::HandoverFailed)
    );
    assert!(
        verdict
            .warnings
            .join("; ")
            .contains("so it was not restarted"),
        "{:?}",
        verdict.warnings
    );
    for client in &mut clients {
        assert_eq!(client.say().await, "1");
    }
    assert_eq!(
        (host.containers(), roles(&host)),
        (containers, vec![Role::Serving])
    );
    let verdict = swap(&cloud, &host, &keeper("3", &[]), "01C").await;
    assert_eq!(verdict.kind, Kind::Success);
    for client in &mut clients {
        assert_eq!(client.say().await, "3");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_answer_during_a_handover_is_not_noticed() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &keeper("1", &["--slow-ms", "700"]), "01A")
        .await;
    let mut clients = clients(&host, 3).await;
    let two = keeper("2", &[]);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut door = EngineDoor::open(host.path("engine.sock"));
    let mut agent = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_DOCKER_SOCKET", &door.path)
        .spawn()
        .unwrap();
    eventually("the handover is under way", async || {
        roles(&host).contains(&Role::Giving).then_some(())
    })
    .await;
    door.shut();
    // The engine's absence, not a wait for anything.
    tokio::time::sleep(Duration::from_secs(3)).await;
    door.reopen();
    assert!(agent.wait().await.unwrap().success());
    passed_unnoticed(&cloud, &host, &mut clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_restarted_during_a_handover_is_not_noticed() {
    let cloud = Cloud::start().await;
    let mut engine = OwnEngine::start().await;
    let mut host = TestHost::new(&cloud).await;
    host.engine = engine.socket();
    host.boot(&cloud, &keeper("1", &["--slow-ms", "700"]), "01A")
        .await;
    let mut clients = clients(&host, 3).await;
    let two = keeper("2", &[]);
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut agent = host.agent(&cloud, &["hotswap"]).spawn().unwrap();
    eventually("the handover is under way", async || {
        roles(&host).contains(&Role::Giving).then_some(())
    })
    .await;
    engine.stop();
    for client in &mut clients {
        client.say().await;
    }
    engine.start_again().await;
    assert!(agent.wait().await.unwrap().success());
    passed_unnoticed(&cloud, &host, &mut clients).await;
}

/// The swap that was called 01B has succeeded, and version 2 has everything.
async fn passed_unnoticed(cloud: &Cloud, host: &TestHost, clients: &mut [Echo]) {
    let verdict = cloud.verdict("01B").await;
    assert_eq!(verdict.kind, Kind::Success, "{:?}", verdict.cause);
    assert_eq!(verdict.handover.unwrap().dropped, 0);
    for client in clients {
        assert_eq!(client.say().await, "2");
    }
    assert_eq!(
        (host.containers().len(), roles(host)),
        (1, vec![Role::Serving])
    );
}

/// A file system of its own for what the agent writes down; gone when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success(), "this test needs to be root");
        Self(at.to_owned())
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let some = vec![0; 4096];
        while file.write_all(&some).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_handover_costs_no_connection() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let disk = SmallDisk::mount(&host.state);
    host.boot(&cloud, &keeper("1", &[]), "01A").await;
    let mut clients = clients(&host, 3).await;
    let before = proxy(&host);
    let two = keeper("2", &[]);
    kill_before_the_handover(&cloud, &host, &two, "01B").await;
    disk.fill();
    host.run(&cloud, &["hotswap"]).await;
    let verdict = cloud.verdict("01B").await;
    let cause = verdict.cause.unwrap();
    assert_eq!(
        (verdict.kind, cause.code),
        (Kind::Failed, CauseCode::DiskFull)
    );
    for client in &mut clients {
        assert_eq!(client.say().await, "1");
    }
    assert_eq!(
        (host.containers().len(), roles(&host)),
        (1, vec![Role::Serving])
    );
    // When there is room again, nothing stands in the way.
    std::fs::remove_file(disk.ballast()).unwrap();
    let verdict = swap(&cloud, &host, &keeper("3", &[]), "01C").await;
    assert_eq!(verdict.kind, Kind::Success, "{:?}", verdict.cause);
    for client in &mut clients {
        assert_eq!(client.say().await, "3");
    }
    assert_eq!(proxy(&host), before);
}

/// WebSockets of the real-time server, through a real proxy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_live_on_when_the_real_time_server_is_swapped() {
    use tokio::io::AsyncReadExt;

    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let server = |version: &str| {
        // An image of its own for each version, told apart by a setting without effect here.
        let idle = format!("limits.idle=30{version}s");
        let image = image_of("realtime", &["serve", "--dev-echo", "--set", &idle]);
        let mut spec = host_spec(vec![keeper_named("web")]);
        spec.containers[0].memory = None;
        payload(version, vec![("web", image)], spec)
    };
    host.boot(&cloud, &server("1"), "01A").await;
    let headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let (head, stream) = upgrade(&host, headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        sockets.push(stream);
    }
    let before = proxy(&host);
    for (n, swap_id) in ["01B", "01C"].into_iter().enumerate() {
        // Half a frame before the swap, the other half after it.
        for socket in &mut sockets {
            socket
                .get_mut()
                .write_all(&[0x81, 0x85, 0, 0, 0, 0, b'h'])
                .await
                .unwrap();
        }
        let verdict = swap(&cloud, &host, &server(&(n + 2).to_string()), swap_id).await;
        assert_eq!(verdict.kind, Kind::Success);
        let account = verdict.handover.unwrap();
        assert!(
            account.handed_over >= 100 && account.handed_over == account.before,
            "{account:?}"
        );
        assert_eq!(
            (account.dropped, account.closed, verdict.drain.cut),
            (0, 0, 0)
        );
        assert!(account.in_flight.is_some_and(|n| n >= 100), "{account:?}");
        for socket in &mut sockets {
            socket.get_mut().write_all(b"ello").await.unwrap();
            let mut answer = [0; 7];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"\x81\x05hello");
        }
    }
    assert_eq!(proxy(&host), before);
}
