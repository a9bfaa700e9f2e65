//! The promises, each by name, with the requirement it proves.

use crate::{
    cloud::Cloud,
    load::{self, Load},
    service::Service,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

pub type Promise = fn(&Cloud) -> Result<(), String>;

/// In this order.
pub const ALL: &[(&str, Promise)] = &[
    (
        "d_hot_19_a_hot_swap_brings_the_new_version_to_every_host_without_a_failed_request",
        swap_under_load,
    ),
    (
        "websockets_live_on_when_every_host_swaps_a_server_that_hands_over",
        handed_over,
    ),
    (
        "d_hot_65_a_second_run_with_the_same_payload_converges_and_restarts_nothing",
        converges,
    ),
    (
        "d_hot_60_a_plan_tells_everything_and_changes_nothing",
        plan_changes_nothing,
    ),
    (
        "d_hot_42_a_host_that_never_gets_healthy_is_named_at_once_and_goes_on_serving_the_old_version",
        unhealthy_host,
    ),
    (
        "d_pay_8_a_blob_changed_in_the_bucket_is_refused_and_the_old_version_serves",
        tampered_blob,
    ),
    ("d_hot_14_scaling_before_a_swap_is_preserved", scaled_before),
    (
        "d_hot_13_a_size_outside_of_min_and_max_changes_nothing",
        outside_of_bounds,
    ),
    (
        "d_hot_35_an_instance_terminated_during_the_swap_leaves_the_roster",
        terminated_during,
    ),
    (
        "d_hot_35_an_instance_that_joins_during_the_swap_ends_on_the_new_version",
        joined_during,
    ),
    (
        "d_hot_25_a_failing_pre_hotswap_hook_changes_nothing_and_exits_7",
        failing_pre_hook,
    ),
    (
        "d_hook_14_a_failing_post_hotswap_hook_exits_7_after_the_swap",
        failing_post_hook,
    ),
    (
        "d_cli_5_an_interrupt_in_every_phase_leaves_a_serving_version_and_a_true_report",
        interrupted,
    ),
    (
        "d_hot_6_without_a_promoted_stack_new_hosts_are_built",
        nothing_promoted,
    ),
    (
        "d_prov_8_a_stack_that_can_not_be_built_is_deleted_again",
        broken_provision,
    ),
];

/// Every host answers `version`, through its own proxy.
fn all_serve(cloud: &Cloud, service: &Service, version: &str) {
    let hosts = hosts_of(cloud, service);
    assert!(!hosts.is_empty(), "the service has no hosts");
    for host in hosts {
        let url = url(&host);
        assert_eq!(
            load::get(&url),
            Ok((200, version.to_owned())),
            "{url} of {}",
            host["instance"]
        );
    }
}

/// The running hosts of the service's stack.
pub fn hosts_of(cloud: &Cloud, service: &Service) -> Vec<Value> {
    let group = cloud.group(&service.stack());
    cloud
        .hosts()
        .into_iter()
        .filter(|h| h["group"] == group.as_str() && h["state"] == "running")
        .collect()
}

pub fn url(host: &Value) -> String {
    host["url"].as_str().expect("a URL").to_owned()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Ids of all containers that run for an instance, in any version.
pub fn containers(instance: &str) -> BTreeSet<String> {
    let label = format!("label=porter.instance={instance}");
    docker(&["ps", "-q", "--no-trunc", "--filter", &label])
        .lines()
        .map(str::to_owned)
        .collect()
}

pub fn docker(args: &[&str]) -> String {
    let done = Command::new("docker")
        .args(args)
        .output()
        .expect("docker runs");
    assert!(
        done.status.success(),
        "docker {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn provisioned(cloud: &Cloud, name: &str) -> Service {
    let service = Service::new(name);
    service.commit();
    service.provisioned(cloud);
    service
}

/// Deletes the service's stack and waits until its hosts are gone, so that the next promise has the machine to itself.
pub fn done(cloud: &Cloud, service: &Service) -> Result<(), String> {
    let group = cloud.group(&service.stack());
    cloud.delete_stack(&service.stack());
    eventually(
        "the stack's hosts are gone",
        Duration::from_secs(60),
        || {
            cloud
                .hosts()
                .iter()
                .all(|h| h["group"] != group.as_str())
                .then_some(())
        },
    );
    Ok(())
}

fn handed_over(cloud: &Cloud) -> Result<(), String> {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };
    let service = Service::real_time("live");
    service.commit();
    service.provisioned(cloud);
    let mut sockets: Vec<TcpStream> = (hosts_of(cloud, &service).iter())
        .map(|host| {
            let url = url(host);
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            let mut socket = TcpStream::connect(address).expect("a proxy");
            let limit = Some(Duration::from_secs(20));
            socket.set_read_timeout(limit).expect("a timeout");
            let request = "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            socket.write_all(request.as_bytes()).expect("sent");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).expect("an answer");
                head.extend(byte);
            }
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
            // Half a frame before the swap, the rest after it.
            socket.write_all(b"\x81\x85\0\0\0\0he").expect("sent");
            socket
        })
        .collect();
    assert_eq!(sockets.len(), 3);
    service.packed(cloud, "v2");
    let provision = ["build", "provision", "-e", "stage", "--hotswap-only"];
    let said = service.succeed(cloud, &provision);
    for socket in &mut sockets {
        socket.write_all(b"llo").expect("sent");
        let mut answer = [0; 7];
        socket
            .read_exact(&mut answer)
            .expect("the connection lives");
        assert_eq!(&answer, b"\x81\x05hello");
    }
    let report = service.report();
    let total = &report["connections"];
    assert!(total["before"].as_u64() >= Some(3), "{total}");
    assert_eq!(total["handed_over"], total["before"]);
    for nothing in ["dropped", "closed", "cut", "taken_back"] {
        assert_eq!(total[nothing], 0, "{nothing} of {total}");
    }
    assert!(total["in_flight"].as_u64() >= Some(3), "{total}");
    for host in report["regions"][0]["hosts"].as_array().expect("hosts") {
        assert!(
            host["connections"]["handed_over"].as_u64() >= Some(1),
            "{host}"
        );
    }
    assert!(
        said.all().contains("0 dropped, 0 closed, 0 cut"),
        "{}",
        said.all()
    );
    eprintln!("{total}");
    done(cloud, &service)
}

/// The size of what is largest of all that a host has downloaded.
fn largest_blob(host: &Value) -> u64 {
    let blobs = format!("/proc/{}/root/var/lib/porter/blobs", host["pid"]);
    let blobs = std::fs::read_dir(&blobs).unwrap_or_else(|error| panic!("{blobs}: {error}"));
    blobs
        .map(|blob| blob.and_then(|it| it.metadata()).expect("a file").len())
        .max()
        .unwrap_or(0)
}

fn swap_under_load(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "swap");
    all_serve(cloud, &service, "v1");
    let hosts = hosts_of(cloud, &service);
    assert_eq!(hosts.len(), 3);
    // Simulated hosts share an engine: who finds there at boot what another one has just loaded does not download it.
    let server = std::fs::metadata(service.path().join("server"))
        .expect("the server")
        .len();
    let had_layer: BTreeSet<_> = hosts
        .iter()
        .filter(|host| largest_blob(host) > server / 8)
        .map(|host| text(&host["instance"]))
        .collect();
    assert!(!had_layer.is_empty(), "somebody downloaded it");
    service.packed(cloud, "v2");

    let load = Load::on(&hosts.iter().map(url).collect::<Vec<_>>());
    let said = service.succeed(
        cloud,
        &[
            "build",
            "provision",
            "-e",
            "stage",
            "--hotswap-only",
            "--output",
            "json",
        ],
    );
    let seen = load.end();

    // D-HOT-1: the promoted stack is updated in place; the hosts are those from before.
    all_serve(cloud, &service, "v2");
    let instances = |hosts: &[Value]| {
        hosts
            .iter()
            .map(|h| text(&h["instance"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(instances(&hosts_of(cloud, &service)), instances(&hosts));
    assert_eq!(seen.failures, Vec::<String>::new());
    // D-HOT-19: the seed's steps, in the seed's order.
    let steps: Vec<_> = (1..=7)
        .map(|n| said.stderr.find(&format!("[{n}/7]")))
        .collect();
    assert!(
        steps.iter().all(Option::is_some) && steps.is_sorted(),
        "{}",
        said.stderr
    );
    // D-CLI-7, D-HOT-23, D-CLI-47: what the run leaves for scripts.
    let left = |name: &str| {
        let bytes = std::fs::read(service.path().join(".porter-tmp").join(name)).expect(name);
        serde_json::from_slice::<Value>(&bytes).expect(name)
    };
    let state = left("provision_state.json");
    assert_eq!(
        (&state["Hotswap"], &state["outcome"]),
        (&true.into(), &"success".into())
    );
    assert_eq!(
        left("template.us-east-1.json"),
        left("CloudFormationTemplate.json")
    );
    assert!(
        seen.answers.contains_key("v1") && seen.answers.contains_key("v2"),
        "{:?}",
        seen.answers
    );
    // D-HOT-58: the report says what happened on every host, and it is what stdout says too.
    let report = service.report();
    assert_eq!(said.json(), report);
    assert_eq!(
        (&report["decision"], &report["outcome"]),
        (&"hot_swap".into(), &"success".into())
    );
    let reported = report["regions"][0]["hosts"].as_array().expect("hosts");
    assert_eq!(reported.len(), 3);
    for host in reported {
        assert_eq!(host["serving"], report["to"], "{host}");
        assert!(
            host["seconds"]
                .as_object()
                .expect("steps")
                .contains_key("cut_over"),
            "{host}"
        );
    }
    // D-PAY-6: the server's layer was there already; only the layer with the version travels.
    let mut again = 0;
    for host in reported {
        let bytes = host["bytes"].as_u64().expect("bytes");
        match had_layer.contains(&text(&host["instance"])) {
            true => again += bytes,
            false => assert!(bytes < server, "{host}"),
        }
    }
    assert!(again < server / 4, "{again} bytes: {reported:#?}");
    // D-HOST-6 to D-HOST-8: one container a host is left.
    for host in &hosts {
        assert_eq!(containers(&text(&host["instance"])).len(), 1);
    }
    done(cloud, &service)
}

fn converges(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "again");
    let before: Vec<_> = hosts_of(cloud, &service)
        .iter()
        .map(|h| containers(&text(&h["instance"])))
        .collect();
    service.succeed(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    // D-HOT-65, D-HOT-22
    let report = service.report();
    assert_eq!(report["outcome"], "success");
    assert_eq!(
        report["bytes"]["uploaded"], 0,
        "an unchanged layer is never uploaded again"
    );
    assert_eq!(report["bytes"]["downloaded"], 0);
    let after: Vec<_> = hosts_of(cloud, &service)
        .iter()
        .map(|h| containers(&text(&h["instance"])))
        .collect();
    assert_eq!(before, after);
    done(cloud, &service)
}

fn plan_changes_nothing(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "plan");
    let stack = cloud.describe_stack(&service.stack());
    let objects = cloud.objects();
    service.packed(cloud, "v2");
    let plan = service
        .succeed(
            cloud,
            &["hotswap", "plan", "-e", "stage", "--output", "json"],
        )
        .json();
    // D-HOT-60
    assert_eq!(plan["decision"]["decision"], "hot_swap", "{plan}");
    let region = &plan["regions"][0];
    assert_eq!(region["sizes"]["promoted"]["desired"], 3, "{plan}");
    assert!(
        region["bytes_to_upload"].as_u64().is_some_and(|n| n > 0),
        "{plan}"
    );
    let told = service
        .succeed(cloud, &["hotswap", "plan", "-e", "stage"])
        .stdout;
    assert!(told.contains("of 7 d used"), "{told}");
    assert_eq!(cloud.describe_stack(&service.stack()), stack);
    assert_eq!(cloud.objects(), objects);
    all_serve(cloud, &service, "v1");
    done(cloud, &service)
}

fn unhealthy_host(cloud: &Cloud) -> Result<(), String> {
    let mut service = Service::new("sick");
    // The agent asks the new version only when this test has had the time to pause it.
    service.start_period = "5s";
    service.commit();
    service.provisioned(cloud);
    let hosts = hosts_of(cloud, &service);
    let sick = text(&hosts[1]["instance"]);
    let old = containers(&sick);
    service.packed(cloud, "v2");

    let mut swap = cloud.porter_watched(service.path(), &["build", "provision", "-e", "stage"]);
    swap.until("[6/7]", Duration::from_secs(60));
    let new = eventually("the new container starts", Duration::from_secs(60), || {
        containers(&sick).difference(&old).next().cloned()
    });
    // A paused process accepts no request: its health check can't pass.
    docker(&["pause", &new]);
    let gave_up = swap.until("health_timeout", Duration::from_secs(60));
    let said = swap.end(Duration::from_secs(30));

    // D-HOT-42: at once, with host, step, cause and log.
    assert!(gave_up.elapsed() < Duration::from_secs(30));
    assert_eq!(said.status, 5, "{}", said.all());
    for expected in [sick.as_str(), "health", "service v2 is up"] {
        assert!(
            said.stderr.contains(expected),
            "`{expected}` is missing:\n{}",
            said.all()
        );
    }
    let report = service.report();
    let states: Vec<_> = report["regions"][0]["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .map(|h| (text(&h["instance"]), text(&h["outcome"])))
        .collect();
    assert_eq!(states.len(), 3, "{report}");
    assert!(
        states.contains(&(sick.clone(), "failed".into())),
        "{states:?}"
    );
    // D-HOST-24: there the old version serves untouched, and nothing of the new one is left.
    assert_eq!(load::get(&url(&hosts[1])), Ok((200, "v1".into())));
    eventually(
        "the failed container is gone",
        Duration::from_secs(20),
        || (containers(&sick) == old).then_some(()),
    );
    // D-HOT-40: the others went on.
    for host in [&hosts[0], &hosts[2]] {
        eventually("the others serve v2", Duration::from_secs(30), || {
            (load::get(&url(host)) == Ok((200, "v2".into()))).then_some(())
        });
    }
    // D-HOT-65: once the cause is gone the same command finishes the work, and finished hosts are left alone.
    let finished = containers(&text(&hosts[0]["instance"]));
    service.succeed(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    all_serve(cloud, &service, "v2");
    assert_eq!(containers(&text(&hosts[0]["instance"])), finished);
    done(cloud, &service)
}

fn tampered_blob(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "tampered");
    let before: BTreeSet<String> = cloud.objects().into_keys().collect();
    service.packed(cloud, "v2");
    // The upload is a deployment's second step; the hook of the third one is where we get between.
    let mut swap = cloud.porter_watched(service.path(), &["build", "provision", "-e", "stage"]);
    swap.until("[3/7]", Duration::from_secs(60));
    for key in cloud
        .objects()
        .into_keys()
        .filter(|k| !before.contains(k) && k.contains("/blobs/"))
    {
        cloud.overwrite(&key, b"not what the digest says");
    }
    let said = swap.end(Duration::from_secs(120));
    // D-PAY-8
    assert_eq!(said.status, 5, "{}", said.all());
    assert!(said.stderr.contains("digest"), "{}", said.all());
    all_serve(cloud, &service, "v1");
    done(cloud, &service)
}

fn scaled_before(cloud: &Cloud) -> Result<(), String> {
    let service = Service::new("scaled");
    service.commit();
    std::fs::write(service.path().join("stack.json"), bounds(1, 3, 3))
        .map_err(|e| e.to_string())?;
    let service = service.with_region("    stack_definition_path: stack.json\n");
    service.commit();
    service.provisioned(cloud);
    cloud.set_desired(&service.stack(), 2);
    eventually("two hosts are left", Duration::from_secs(60), || {
        (hosts_of(cloud, &service).len() == 2).then_some(())
    });
    service.packed(cloud, "v2");
    service.succeed(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    // D-HOT-14: DesiredP, not DesiredT.
    assert_eq!(cloud.desired(&service.stack()), 2);
    assert_eq!(hosts_of(cloud, &service).len(), 2);
    all_serve(cloud, &service, "v2");
    done(cloud, &service)
}

fn bounds(min: u32, max: u32, desired: u32) -> String {
    serde_json::json!({"Resources": {"Hosts": {
        "Type": "AWS::AutoScaling::AutoScalingGroup",
        "Properties": {"MinSize": min.to_string(), "MaxSize": max, "DesiredCapacity": desired}
    }}})
    .to_string()
}

fn outside_of_bounds(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "bounds");
    std::fs::write(service.path().join("stack.json"), bounds(1, 2, 2))
        .map_err(|e| e.to_string())?;
    let service = service.with_region("    stack_definition_path: stack.json\n");
    service.packed(cloud, "v2");
    let objects = cloud.objects();
    let said = service.run(cloud, &["build", "provision", "-e", "stage"]);
    // D-HOT-13, D-HOT-17: three numbers, both remedies, before anything is uploaded.
    assert_eq!(said.status, 1, "{}", said.all());
    for expected in [
        "DesiredCapacity 3",
        "MinSize 1",
        "MaxSize 2",
        "--no-hotswap",
    ] {
        assert!(
            said.stderr.contains(expected),
            "`{expected}` is missing:\n{}",
            said.all()
        );
    }
    assert_eq!(cloud.objects(), objects);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        all_serve(cloud, &service, "v1");
    }
    done(cloud, &service)
}

fn terminated_during(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "terminated");
    let victim = text(&hosts_of(cloud, &service)[0]["instance"]);
    let old = containers(&victim);
    service.packed(cloud, "v2");
    let mut swap = cloud.porter_watched(
        service.path(),
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    swap.until("[6/7]", Duration::from_secs(60));
    // Paused, it can't have reported success before it goes.
    for id in &old {
        docker(&["pause", id]);
    }
    cloud.terminate(&victim);
    let said = swap.end(Duration::from_secs(150));
    // D-HOT-35, D-HOT-36
    assert_eq!(said.status, 0, "{}", said.all());
    let report = service.report();
    let mut left = report["regions"][0]["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .filter(|h| h["instance"] == victim.as_str());
    assert!(left.all(|h| h["outcome"] == "left"), "{report}");
    all_serve(cloud, &service, "v2");
    done(cloud, &service)
}

fn joined_during(cloud: &Cloud) -> Result<(), String> {
    let service = Service::new("joined");
    service.commit();
    std::fs::write(service.path().join("stack.json"), bounds(1, 4, 2))
        .map_err(|e| e.to_string())?;
    let service = service.with_region("    stack_definition_path: stack.json\n");
    service.commit();
    service.provisioned(cloud);
    service.packed(cloud, "v2");
    let mut swap = cloud.porter_watched(
        service.path(),
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    swap.until("[6/7]", Duration::from_secs(60));
    cloud.set_desired(&service.stack(), 3);
    let said = swap.end(Duration::from_secs(150));
    assert_eq!(said.status, 0, "{}", said.all());
    eventually("the new host serves", Duration::from_secs(60), || {
        (hosts_of(cloud, &service).len() == 3).then_some(())
    });
    // D-HOT-35, D-HOT-51: whenever it joined, it ends on the new version.
    eventually("all three serve v2", Duration::from_secs(60), || {
        hosts_of(cloud, &service)
            .iter()
            .all(|h| load::get(&url(h)) == Ok((200, "v2".into())))
            .then_some(())
    });
    done(cloud, &service)
}

fn failing_pre_hook(cloud: &Cloud) -> Result<(), String> {
    let mut service = Service::new("prehook");
    service.hooks = "hooks:\n  pre_hotswap:\n  - executable: refuse\n  post_hotswap:\n  - {executable: note, run_condition: fail}\n".into();
    service.hook(
        "refuse",
        "echo the quality gate says no; env | sort > seen-by-refuse; exit 3",
    );
    service.hook("note", "echo $PORTER_SWAP_OUTCOME > seen-by-note");
    service.commit();
    service.provisioned(cloud);
    let stack = cloud.describe_stack(&service.stack());
    service.packed(cloud, "v2");
    let said = service.run(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    // D-HOT-25, D-CLI-3
    assert_eq!(said.status, 7, "{}", said.all());
    assert!(
        said.stderr.contains("the quality gate says no"),
        "{}",
        said.all()
    );
    assert_eq!(cloud.describe_stack(&service.stack()), stack);
    all_serve(cloud, &service, "v1");
    // D-HOOK-7, D-HOOK-8: the documented environment.
    let env = std::fs::read_to_string(service.path().join("seen-by-refuse")).expect("the hook ran");
    for name in [
        "AWS_REGION=us-east-1",
        "PORTER_ENVIRONMENT=stage",
        "PORTER_SWAP_ID=",
        "PORTER_NEW_PAYLOAD_DIGEST=sha256:",
        "AWS_CLOUDFORMATION_STACKID=arn:",
    ] {
        assert!(
            env.lines().any(|l| l.starts_with(name)),
            "{name} is missing:\n{env}"
        );
    }
    // D-HOOK-13
    assert_eq!(
        std::fs::read_to_string(service.path().join("seen-by-note"))
            .expect("the post hook ran")
            .trim(),
        "fail"
    );
    done(cloud, &service)
}

fn failing_post_hook(cloud: &Cloud) -> Result<(), String> {
    let mut service = Service::new("posthook");
    service.hooks = "hooks:\n  post_hotswap:\n  - executable: refuse\n".into();
    service.hook("refuse", "exit 1");
    service.commit();
    service.provisioned(cloud);
    service.packed(cloud, "v2");
    let said = service.run(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    // D-HOT-24, D-HOOK-14
    assert_eq!(said.status, 7, "{}", said.all());
    all_serve(cloud, &service, "v2");
    done(cloud, &service)
}

fn interrupted(cloud: &Cloud) -> Result<(), String> {
    let service = provisioned(cloud, "interrupted");
    let mut version = 1;
    for phase in ["[1/7]", "[2/7]", "[3/7]", "[4/7]", "[5/7]", "[6/7]"] {
        version += 1;
        let before = load::get(&url(&hosts_of(cloud, &service)[0]))?.1;
        service.packed(cloud, &format!("v{version}"));
        let mut swap = cloud.porter_watched(
            service.path(),
            &["build", "provision", "-e", "stage", "--hotswap-only"],
        );
        swap.until(phase, Duration::from_secs(60));
        swap.interrupt();
        let said = swap.end(Duration::from_secs(60));
        // D-CLI-5: it ends by itself, and says so.
        assert_eq!(said.status, 130, "{phase}: {}", said.all());
        assert!(said.stderr.contains("hint:"), "{phase}: {}", said.all());
        // Whatever the hosts were told, each serves one of the two versions all the time.
        for host in hosts_of(cloud, &service) {
            let (status, body) = load::get(&url(&host))?;
            assert!(
                status == 200 && [before.clone(), format!("v{version}")].contains(&body),
                "{phase}: {status} {body}"
            );
        }
        // D-HOT-65: and the next run finishes the work.
        service.succeed(
            cloud,
            &["build", "provision", "-e", "stage", "--hotswap-only"],
        );
        all_serve(cloud, &service, &format!("v{version}"));
    }
    done(cloud, &service)
}

fn nothing_promoted(cloud: &Cloud) -> Result<(), String> {
    cloud.forget_promotion();
    let service = Service::new("unpromoted");
    service.commit();
    service.pack(cloud);
    let said = service.run(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    // D-HOT-6, D-CFG-98
    assert_eq!(said.status, 4, "{}", said.all());
    assert!(said.stderr.contains("promoted"), "{}", said.all());
    service.succeed(cloud, &["build", "provision", "-e", "stage"]);
    assert_eq!(service.report()["decision"], "provision");
    all_serve(cloud, &service, "v1");
    done(cloud, &service)
}

fn broken_provision(cloud: &Cloud) -> Result<(), String> {
    let service = Service::new("broken");
    // A service without a binary: its container can't start, so no host ever boots.
    std::fs::write(
        service.path().join("Dockerfile"),
        "FROM scratch\nCOPY version /version\nEXPOSE 8080\nENTRYPOINT [\"/absent\"]\n",
    )
    .map_err(|e| e.to_string())?;
    service.commit();
    service.pack(cloud);
    let before = cloud.stacks();
    let said = service.run(cloud, &["build", "provision", "-e", "stage"]);
    // D-PROV-8, D-PROV-7: the cause is named, and nothing is left behind.
    assert_eq!(said.status, 1, "{}", said.all());
    assert!(
        said.stderr.contains("start_failed") || said.stderr.contains("absent"),
        "{}",
        said.all()
    );
    assert_eq!(cloud.stacks(), before);
    Ok(())
}
