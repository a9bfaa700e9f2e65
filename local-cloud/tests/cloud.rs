//! The local cloud for real: MiniStack, namespaces, processes. Needs what `porter local up` needs.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy takes for other code.

use aws_sdk_cloudformation::{Client, types::Parameter};
use local_cloud::{Cloud, Ephemeral, HostInfo, HostState, Options, process};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

const TEMPLATE: &str = include_str!("template.json");

fn options() -> Options {
    Options {
        program: env!("CARGO_BIN_EXE_local-cloud").into(),
        poll: Duration::from_millis(300),
        ..Options::new().unwrap()
    }
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "waited too long for {what}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn hosts_in(cloud: &Cloud, count: usize, state: HostState) -> Vec<HostInfo> {
    until(&format!("{count} hosts that are {state:?}"), async || {
        let hosts = cloud.hosts().await;
        if hosts.iter().any(|h| h.state == HostState::Failed) && state != HostState::Failed {
            let host = &hosts[0];
            let log = |name: &str| {
                fs::read_to_string(host.root.join("var/log").join(name)).unwrap_or_default()
            };
            panic!(
                "{:?}\n{}\n{}",
                host.errors,
                log("cloud-init-output.log"),
                log("cfn-init.log")
            );
        }
        (hosts.len() == count && hosts.iter().all(|h| h.state == state)).then_some(hosts)
    })
    .await
}

fn parameters(cloud: &Cloud, swap: &str, size: u32) -> Option<Vec<Parameter>> {
    let one = |key: &str, value: String| {
        Parameter::builder()
            .parameter_key(key)
            .parameter_value(value)
            .build()
    };
    Some(vec![
        one("Swap", swap.into()),
        one("Size", size.to_string()),
        one(
            "Targets",
            cloud.about().env["PORTER_LOCAL_TARGET_GROUP_ARN"].clone(),
        ),
    ])
}

async fn create(cloud: &Cloud, size: u32) -> Client {
    let sdk = cloud.sdk_config("us-east-1").await;
    let s3 = aws_sdk_s3::Client::new(&sdk);
    s3.put_object()
        .bucket("porter-local-us-east-1")
        .key("thing")
        .body(b"payload".to_vec().into())
        .send()
        .await
        .unwrap();
    let client = Client::new(&sdk);
    client
        .create_stack()
        .stack_name("demo")
        .template_body(TEMPLATE)
        .set_parameters(parameters(cloud, "one", size))
        .send()
        .await
        .unwrap();
    client
}

fn read(host: &HostInfo, path: &str) -> String {
    fs::read_to_string(host.root.join(path.trim_start_matches('/'))).unwrap_or_default()
}

#[tokio::test]
async fn d_host_1_a_host_boots_from_its_template_and_an_update_runs_its_hook() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Ephemeral::up("test-boot", dir.path(), options())
        .await
        .unwrap();
    let client = create(&cloud.0, 2).await;
    let hosts = hosts_in(&cloud.0, 2, HostState::Running).await;
    assert_ne!(hosts[0].address, hosts[1].address);
    let stack = client
        .describe_stacks()
        .stack_name("demo")
        .send()
        .await
        .unwrap()
        .stacks()[0]
        .stack_id()
        .unwrap()
        .to_owned();
    assert!(hosts.iter().all(|h| h.stack.as_ref() == Some(&stack)));
    let balancers =
        aws_sdk_elasticloadbalancingv2::Client::new(&cloud.0.sdk_config("us-east-1").await);
    let registered = until("registration in the target group", async || {
        let health = balancers
            .describe_target_health()
            .target_group_arn(cloud.0.about().env["PORTER_LOCAL_TARGET_GROUP_ARN"].as_str())
            .send()
            .await
            .unwrap();
        let ids: BTreeSet<String> = health
            .target_health_descriptions()
            .iter()
            .map(|d| d.target().unwrap().id().unwrap().to_owned())
            .collect();
        (ids.len() == 2).then_some(ids)
    })
    .await;
    assert!(hosts.iter().all(|h| registered.contains(&h.instance)));
    // An engine that restarts makes its socket anew: hosts must see what appears beside the one of today.
    let beside = format!("porter-test-{}", std::process::id());
    fs::write(Path::new("/var/run").join(&beside), "").unwrap();
    let seen = |host: &HostInfo| {
        let link = fs::read_link(host.root.join("run/docker.sock")).unwrap();
        let place = link.parent().unwrap().strip_prefix("/").unwrap();
        host.root.join(place).join(&beside).exists()
    };
    let all_see = hosts.iter().all(seen);
    fs::remove_file(Path::new("/var/run").join(&beside)).unwrap();
    assert!(all_see);
    for host in &hosts {
        assert_eq!(read(host, "/etc/from-cloud-init"), "hello");
        assert_eq!(read(host, "/thing"), "payload");
        assert_eq!(
            fs::read_link(host.root.join("etc/link")).unwrap(),
            Path::new("/etc/cfn")
        );
        assert!(!host.root.join("never").exists());
        let machine: serde_json::Value =
            serde_json::from_str(&read(host, "/etc/porter/machine.json")).unwrap();
        assert_eq!(
            (
                machine["bind_address"].as_str(),
                machine["http_port"].as_u64()
            ),
            (Some(host.address.as_str()), Some(8080))
        );
        // Nothing that the host wrote is on the machine.
        assert!(!Path::new("/etc/from-cloud-init").exists() && !Path::new("/thing").exists());
        until("the baseline of cfn-hup", async || {
            (!read(host, "/var/lib/cfn-hup/data/metadata_db.json").is_empty()).then_some(())
        })
        .await;
        assert_eq!(read(host, "/var/log/swaps"), "");
    }

    client
        .update_stack()
        .stack_name("demo")
        .use_previous_template(true)
        .set_parameters(parameters(&cloud.0, "two", 2))
        .send()
        .await
        .unwrap();
    for host in &hosts {
        // D-HOST-1
        until("the hook", async || {
            (read(host, "/var/log/swaps") == "two\n").then_some(())
        })
        .await;
        let env = read(host, "/var/log/swap-env");
        assert!(
            env.contains(r#"CFN_OLD_METADATA={"swap":"one"}"#)
                && env.contains(r#"CFN_NEW_METADATA={"swap":"two"}"#),
            "{env}"
        );
        assert!(env.contains(&format!("AWS_ENDPOINT_URL={}\n", cloud.0.endpoint())));
    }
    // The hosts are the same ones: an update of metadata replaces nothing.
    let same: Vec<HostInfo> = cloud.0.hosts().await;
    assert_eq!(
        same.iter().map(|h| h.pid).collect::<Vec<_>>(),
        hosts.iter().map(|h| h.pid).collect::<Vec<_>>()
    );

    // Scaling in takes one host away with everything in it; scaling out brings a new one.
    let gone = &hosts[0].instance;
    cloud.0.terminate_instance(gone, true).await.unwrap();
    let fresh = until("the replacement", async || {
        let now = cloud.0.hosts().await;
        let good = now.len() == 2
            && now
                .iter()
                .all(|h| h.state == HostState::Running && h.instance != *gone);
        good.then_some(now)
            .and_then(|hosts| hosts.into_iter().find(|h| h.instance != same[1].instance))
    })
    .await;
    assert_eq!(fresh.stack, hosts[0].stack);
    cloud
        .0
        .terminate_instance(&fresh.instance, false)
        .await
        .unwrap();
    let left = hosts_in(&cloud.0, 1, HostState::Running).await;
    // A host is not listed any more before the last of it is gone.
    until("nothing is left of the two", async || {
        let place = cloud.0.place();
        let left = [gone, &fresh.instance].map(|instance| place.host(instance).exists());
        (left == [false, false]).then_some(())
    })
    .await;

    // A reboot keeps the root and starts what is enabled; cloud-init does not run again.
    let before = &left[0];
    cloud.0.reboot(&before.instance).unwrap();
    let after = until("the reboot", async || {
        let host = cloud.0.hosts().await.remove(0);
        let services = host.root.join("run/cfn-hup.pid").exists()
            || host.root.join("var/run/cfn-hup.pid").exists();
        (host.pid.is_some() && host.pid != before.pid && services).then_some(host)
    })
    .await;
    assert_eq!(after.state, HostState::Running);
    assert_eq!(
        read(&after, "/var/log/cloud-init-output.log")
            .matches("begins")
            .count(),
        1
    );
    until("the second start of what is enabled", async || {
        let log = read(&after, "/var/log/services/clock.service.log");
        (log == "started\nstarted\n").then_some(())
    })
    .await;
}

/// What a machine shows of clouds: processes, mounts, and the engine's containers and networks.
fn traces(state: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut traces: Vec<String> = mounts
        .lines()
        .filter(|l| l.contains(&*state.to_string_lossy()))
        .map(str::to_owned)
        .collect();
    traces.extend(process::owned_by(state).iter().map(|p| format!("{p:?}")));
    if state.exists() {
        traces.push(state.display().to_string());
    }
    traces
}

fn engine() -> BTreeSet<String> {
    let list = |args: &[&str]| {
        let out = std::process::Command::new("docker")
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // Other tests share the engine: only what names this one's instances counts.
    let mut seen: BTreeSet<String> = list(&[
        "ps",
        "-a",
        "--filter",
        "label=porter.instance",
        "--format",
        "{{.Label \"porter.instance\"}}",
    ])
    .into_iter()
    .collect();
    seen.extend(
        list(&["images", "--format", "{{.Repository}}"])
            .iter()
            .filter_map(|r| r.strip_prefix("porter/").map(str::to_owned)),
    );
    seen
}

#[tokio::test]
async fn up_twice_is_harmless_and_down_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Ephemeral::up("test-down", dir.path(), options())
        .await
        .unwrap();
    let again = Cloud::up(cloud.0.place(), &options(), &|_| {})
        .await
        .unwrap();
    assert_eq!(again.about(), cloud.0.about());
    create(&cloud.0, 1).await;
    let host = hosts_in(&cloud.0, 1, HostState::Running).await.remove(0);
    let init = process::Process::running(host.pid.unwrap()).unwrap();
    // What a host agent leaves in the engine.
    let docker = |args: &[&str]| {
        assert!(
            std::process::Command::new("docker")
                .args(args)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap()
                .success(),
            "{args:?}"
        )
    };
    let (image, label) = (
        format!("porter/{}:test", host.instance),
        format!("porter.instance={}", host.instance),
    );
    let layer = dir.path().join("layer.tar");
    std::process::Command::new("tar")
        .args(["-cf", layer.to_str().unwrap(), "--files-from", "/dev/null"])
        .status()
        .unwrap();
    docker(&["import", layer.to_str().unwrap(), &image]);
    docker(&["create", "--label", &label, &image, "/nothing"]);
    fs::remove_file(layer).unwrap();
    assert!(engine().contains(&host.instance));
    let place = cloud.0.place().clone();
    assert!(traces(&place.state).len() > 5);
    assert!(Cloud::down(&place).await.unwrap());
    assert_eq!(traces(&place.state), Vec::<String>::new());
    assert!(!init.is_alive() && !again.about().emulator.is_alive());
    assert!(!engine().contains(&host.instance));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "files are left"
    );
    // And nothing is there to be taken down a second time.
    assert!(!Cloud::down(&place).await.unwrap());
}

#[tokio::test]
async fn after_a_killed_fleet_nothing_runs_and_down_cleans() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Ephemeral::up("test-kill", dir.path(), options())
        .await
        .unwrap();
    create(&cloud.0, 1).await;
    let host = until("a host", async || {
        cloud.0.hosts().await.pop().filter(|h| h.pid.is_some())
    })
    .await;
    let init = process::Process::running(host.pid.unwrap()).unwrap();
    let place = cloud.0.place().clone();
    place.fleet().unwrap().signal(rustix::process::Signal::KILL);
    let emulator = cloud.0.about().emulator;
    let all_gone =
        || process::owned_by(&place.state).is_empty() && !init.is_alive() && !emulator.is_alive();
    until("everything to die with the fleet", async || {
        all_gone().then_some(())
    })
    .await;
    assert!(Cloud::find(&place).is_none());
    assert!(Cloud::down(&place).await.unwrap());
    assert_eq!(traces(&place.state), Vec::<String>::new());
}

#[tokio::test]
async fn a_cloud_whose_owner_dies_takes_itself_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let of = process::Process::running(i32::try_from(owner.id()).unwrap());
    let place = local_cloud::Place::below("test-owner", dir.path(), Path::new("/")).unwrap();
    let place = local_cloud::Place {
        cache: local_cloud::Place::from_env("x").unwrap().cache,
        ..place
    };
    let options = Options {
        owner: of,
        ..options()
    };
    let up = Cloud::up(&place, &options, &|_| {}).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    up.unwrap();
    until("the cloud to go", async || {
        traces(&place.state).is_empty().then_some(())
    })
    .await;
}
