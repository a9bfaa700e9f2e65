//! What a host keeps, reuses and leaves alone from swap to swap.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::{
    digest::Digest,
    names::{blob_key, label},
    signal::{HostSignal, Kind},
    spec::{ContainerSpec, SwapOrder, Topology},
};
use std::time::Duration;
use support::*;

/// Wants this payload and runs the agent; the verdict must be a success.
async fn swap(cloud: &Cloud, host: &TestHost, payload: &Payload, id: &str) -> HostSignal {
    cloud.upload(payload).await;
    cloud.want(&payload.digest, id, in_minutes(20)).await;
    host.reports(cloud, "hotswap").await;
    let verdict = cloud.verdict(id).await;
    assert_eq!(verdict.kind, Kind::Success, "{:?}", verdict.cause);
    verdict
}

fn blobs_on(host: &TestHost) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(host.state.join("blobs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hot_65_a_host_that_serves_the_wanted_payload_says_so_and_restarts_nothing() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = simple("1");
    host.boot(&cloud, &one, "01A").await;
    let before = host.containers();
    let verdict = swap(&cloud, &host, &one, "01B").await;
    // D-HOT-65
    assert_eq!(
        (verdict.from, verdict.serving),
        (Some(one.digest.clone()), Some(one.digest.clone()))
    );
    assert_eq!(host.containers(), before);
    // D-HOST-11: a second boot, after a restart of the machine's services, finds it serving as well.
    cloud.want(&one.digest, "01C", in_minutes(20)).await;
    host.reports(&cloud, "boot").await;
    assert_eq!(cloud.verdict("01C").await.kind, Kind::Booted);
    assert_eq!(host.containers(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_41_after_a_reboot_the_same_payload_serves_again_without_outside_help() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = simple("1");
    host.boot(&cloud, &one, "01A").await;
    // What a reboot leaves: stopped containers, no proxy, the state directory.
    for id in host.containers() {
        docker(&["kill", &id]);
    }
    let stopped = std::process::Command::new("sh")
        .arg(host.path("stop.sh"))
        .status()
        .unwrap();
    assert!(stopped.success());
    host.reports(&cloud, "boot").await;
    // D-HOST-41
    assert_eq!(host.get("/").await, (200, "1".into()));
    assert_eq!(host.containers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_pay_14_the_current_and_one_earlier_payload_stay_and_going_back_ships_nothing() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let (one, two, three) = (simple("1"), simple("2"), simple("3"));
    host.boot(&cloud, &one, "01A").await;
    let first = cloud.verdict("01A").await;
    let layer = &one.manifest.images["web"].layers[0].blob;
    assert!(first.bytes >= layer.size);
    assert_eq!(first.kind, Kind::Booted);
    // D-PAY-6: the shared layer is not fetched again.
    let second = swap(&cloud, &host, &two, "01B").await;
    assert_eq!(second.bytes, two.manifest.images["web"].config.size);
    swap(&cloud, &host, &three, "01C").await;
    // D-PAY-14, D-HOST-8: current and one earlier.
    assert_eq!(host.images().len(), 2);
    let mut kept: Vec<String> = [&two, &three]
        .iter()
        .flat_map(|p| {
            p.manifest.images["web"]
                .layers
                .iter()
                .map(|l| &l.blob)
                .chain([&p.manifest.images["web"].config])
        })
        .map(|b| b.digest.hex().to_owned())
        .collect();
    kept.sort();
    kept.dedup();
    assert_eq!(blobs_on(&host), kept);
    let back = swap(&cloud, &host, &two, "01D").await;
    assert_eq!(back.bytes, 0);
    assert_eq!(host.get("/").await, (200, "2".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_pay_8_an_interrupted_transfer_resumes_and_a_damaged_cache_is_not_trusted() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = simple("1");
    let image = &one.manifest.images["web"];
    let blob = &image.layers[0].blob;
    let bytes = &one.blobs[&blob.digest];
    // Half of the layer has arrived, and of the configuration something wrong.
    std::fs::create_dir_all(host.state.join("partial")).unwrap();
    std::fs::create_dir_all(host.state.join("blobs")).unwrap();
    std::fs::write(
        host.state.join("partial").join(blob.digest.hex()),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    std::fs::write(
        host.state.join("blobs").join(image.config.digest.hex()),
        b"{}",
    )
    .unwrap();
    host.boot(&cloud, &one, "01A").await;
    let verdict = cloud.verdict("01A").await;
    // D-PAY-8
    assert_eq!(verdict.kind, Kind::Booted);
    assert_eq!(
        verdict.bytes,
        (bytes.len() - bytes.len() / 2) as u64 + image.config.size
    );
    // A partial file with wrong bytes costs one more transfer, not the swap.
    let two = simple("2");
    let config = &two.manifest.images["web"].config;
    std::fs::write(
        host.state.join("partial").join(config.digest.hex()),
        b"wrong",
    )
    .unwrap();
    let verdict = swap(&cloud, &host, &two, "01B").await;
    assert_eq!(verdict.bytes, 2 * config.size - 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_15_to_20_containers_get_their_options_variables_and_labels() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let one = simple("1");
    host.boot(&cloud, &one, "01A").await;
    let text = docker(&["inspect", &host.containers()[0]]).join("\n");
    let inspected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let config = &inspected[0]["HostConfig"];
    // D-HOST-15
    assert_eq!(config["ReadonlyRootfs"], true);
    assert_eq!(config["PidsLimit"], 64);
    assert_eq!(config["Memory"], 64 * 1024 * 1024);
    assert_eq!(
        config["RestartPolicy"],
        serde_json::json!({"Name": "on-failure", "MaximumRetryCount": 5})
    );
    assert_eq!(
        config["SecurityOpt"],
        serde_json::json!(["no-new-privileges"])
    );
    assert!(inspected[0]["NetworkSettings"]["Networks"]["porter"].is_object());
    assert_eq!(inspected[0]["Config"]["User"], "1001");
    assert!(config["Ulimits"][0]["Hard"].as_i64().unwrap() > 1024);
    // D-HOST-19: the one port, on the address of the machine's file, from its range, chosen for good.
    let machine: serde_json::Value =
        serde_json::from_slice(&std::fs::read(host.path("machine.json")).unwrap()).unwrap();
    let binding = &config["PortBindings"]["8080/tcp"][0];
    let port: u64 = binding["HostPort"].as_str().unwrap().parse().unwrap();
    assert_eq!(binding["HostIp"], host.at.ip().to_string());
    assert!(
        port >= machine["port_range"][0].as_u64().unwrap()
            && port <= machine["port_range"][1].as_u64().unwrap()
    );
    // D-HOST-20
    let labels = &inspected[0]["Config"]["Labels"];
    for (name, value) in [
        (label::SERVICE, SERVICE),
        (label::ENVIRONMENT, ENVIRONMENT),
        (label::PAYLOAD, one.digest.as_str()),
        (label::SWAP, "01A"),
        (label::CONTAINER, "web"),
        (label::INSTANCE, &host.instance),
        (label::ENDPOINT, &format!("{}:{port}", host.at.ip())),
    ] {
        assert_eq!(labels[name], value, "{name}");
    }
    // D-HOST-16, D-HOST-17
    let environment = host.get("/env").await.1;
    for line in [
        "PORTER_ENVIRONMENT=test".to_owned(),
        "AWS_REGION=us-east-1".to_owned(),
        "RSYSLOG_TCP_PORT=514".to_owned(),
        "PORTERD_TCP_PORT=3001".to_owned(),
        "PORTER_SERVICE_VERSION=1".to_owned(),
        "PORTER_SWAP_ID=01A".to_owned(),
        format!("PORTER_PAYLOAD_DIGEST={}", one.digest),
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line} in\n{environment}"
        );
    }
    let address = environment
        .lines()
        .find_map(|l| l.strip_prefix("RSYSLOG_TCP_ADDR="))
        .unwrap();
    assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{address}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_20_containers_of_others_are_never_touched() {
    let cloud = Cloud::start().await;
    let (host, other) = (TestHost::new(&cloud).await, TestHost::new(&cloud).await);
    let one = simple("1");
    host.boot(&cloud, &one, "01A").await;
    other.reports(&cloud, "boot").await;
    let image = format!(
        "porter/{}:{}",
        other.instance,
        one.manifest.images["web"].config.digest.hex()
    );
    // Neither a stranger's, with a name like ours, nor another host's, nor a stopped one.
    let stranger = docker(&[
        "create",
        "--name",
        &format!("hello.web.stranger.{}", host.instance),
        &image,
    ]);
    let others = other.containers();
    swap(&cloud, &host, &simple("2"), "01B").await;
    swap(&cloud, &host, &simple("3"), "01C").await;
    let all = docker(&["ps", "-aq", "--no-trunc"]);
    docker(&["rm", &stranger[0]]);
    // D-HOST-20
    assert!(all.contains(&stranger[0]));
    assert_eq!(other.containers(), others);
    assert_eq!(other.get("/").await, (200, "1".into()));
    // The image, too, is still there for the host that uses it.
    assert_eq!(other.images().len(), 1);
}

fn worker(order: SwapOrder) -> ContainerSpec {
    let mut worker = container("jobs", "jobs");
    worker.topology = Topology::Worker;
    worker.inet_port = None;
    worker.swap_order = order;
    worker.health.start_period = Duration::from_millis(500);
    worker
}

fn with_worker(version: &str, order: SwapOrder, arguments: &[&str]) -> Payload {
    with(version, worker(order), arguments)
}

fn with(version: &str, worker: ContainerSpec, arguments: &[&str]) -> Payload {
    let spec = host_spec(vec![container("web", "web"), worker]);
    let jobs: Vec<&str> = ["--worker", "--version", version]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    payload(
        version,
        vec![
            ("web", image(&["--version", version])),
            ("jobs", image(&jobs)),
        ],
        spec,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_25_workers_swap_in_their_order_and_a_worker_that_fails_leaves_the_old_one_at_work()
{
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &with_worker("1", SwapOrder::StopFirst, &[]), "01A")
        .await;
    assert_eq!(cloud.verdict("01A").await.kind, Kind::Booted);
    assert_eq!(host.containers().len(), 2);
    swap(
        &cloud,
        &host,
        &with_worker("2", SwapOrder::StopFirst, &[]),
        "01B",
    )
    .await;
    let running = |host: &TestHost| {
        let mut lines = docker(&[
            "ps",
            "--format",
            "{{.Label \"porter.container\"}} {{.Label \"porter.swap\"}}",
            "--filter",
            &format!("label={}={}", label::INSTANCE, host.instance),
        ]);
        lines.sort();
        lines
    };
    assert_eq!(running(&host), ["jobs 01B", "web 01B"]);
    // D-HOST-25, D-HOST-28: the new worker ends; the old one had made room and is at work again.
    let mut patient = worker(SwapOrder::StopFirst);
    patient.health.start_period = Duration::from_secs(20);
    let bad = with("3", patient, &["--exit-after-ms", "100"]);
    cloud.upload(&bad).await;
    cloud.want(&bad.digest, "01C", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    let verdict = cloud.verdict("01C").await;
    assert_eq!(
        verdict.cause.unwrap().code,
        contract::signal::CauseCode::ContainerExited
    );
    assert_eq!(running(&host), ["jobs 01B", "web 01B"]);
    assert_eq!(host.get("/").await, (200, "2".into()));
    // Side by side is the other order.
    swap(
        &cloud,
        &host,
        &with_worker("4", SwapOrder::StartFirst, &[]),
        "01D",
    )
    .await;
    assert_eq!(running(&host), ["jobs 01D", "web 01D"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_hap_20_a_host_with_workers_only_needs_no_proxy() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let jobs = |version: &str| {
        payload(
            version,
            vec![("jobs", image(&["--worker", "--version", version]))],
            host_spec(vec![worker(SwapOrder::StartFirst)]),
        )
    };
    let one = jobs("1");
    host.boot(&cloud, &one, "01A").await;
    // D-HAP-20
    assert!(!host.path("haproxy.pid").exists());
    let verdict = swap(&cloud, &host, &jobs("2"), "01B").await;
    assert_eq!(verdict.from, Some(one.digest));
    assert_eq!(host.containers().len(), 1);
    assert_eq!(
        swap(&cloud, &host, &jobs("2"), "01C").await.serving,
        Some(jobs("2").digest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_11_an_update_during_the_first_boot_is_noticed_by_the_boot_itself() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    // The boot has moved traffic, and waits for this program before it ends.
    let (path, folder) = host.own_program(
        "porter_hotswap_signal",
        "touch $OUT/moved; until [ -e $OUT/go ]; do sleep 0.05; done",
    );
    let (one, two) = (simple("1"), simple("2"));
    cloud.upload(&one).await;
    cloud.upload(&two).await;
    cloud.want(&one.digest, "01A", in_minutes(20)).await;
    let mut boot = host.agent(&cloud, &["boot"]);
    let mut boot = boot.env("PATH", path).spawn().unwrap();
    eventually("the first version serves", async || {
        folder.join("moved").exists().then_some(())
    })
    .await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    std::fs::write(folder.join("go"), "").unwrap();
    assert!(boot.wait().await.unwrap().success());
    assert_eq!(cloud.verdict("01A").await.kind, Kind::Booted);
    assert_eq!(cloud.verdict("01B").await.kind, Kind::Success);
    assert_eq!(host.get("/").await, (200, "2".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_9_a_verdict_that_the_queue_did_not_take_is_sent_by_the_next_run() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.boot(&cloud, &simple("1"), "01A").await;
    let two = simple("2");
    cloud.upload(&two).await;
    cloud.want(&two.digest, "01B", in_minutes(20)).await;
    let mut agent = host
        .agent(&cloud, &["hotswap"])
        .env("PORTER_TEST_PAUSE_AT", "report:kept")
        .spawn()
        .unwrap();
    eventually("the verdict is kept", async || {
        host.state.join("paused").exists().then_some(())
    })
    .await;
    agent.kill().await.unwrap();
    assert!(
        cloud
            .signals()
            .await
            .iter()
            .all(|s| s.swap != "01B" || s.kind == Kind::Progress)
    );
    let before = host.containers();
    host.reports(&cloud, "hotswap").await;
    // D-HOST-9: sent once, and nothing is done twice.
    assert_eq!(cloud.verdict("01B").await.kind, Kind::Success);
    assert_eq!(host.containers(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_23_the_users_own_programs_hear_of_ports_and_never_change_the_outcome() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    host.own_program("porter_docker_post_run", "echo $1 > $OUT/started; exit 1");
    let (path, folder) = host.own_program("porter_hotswap_signal", "cat > $OUT/moved; exit 1");
    let one = simple("1");
    cloud.upload(&one).await;
    cloud.want(&one.digest, "01A", in_minutes(20)).await;
    let output = host
        .agent(&cloud, &["boot"])
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    // D-HOST-22, D-HOST-23
    let port: u16 = std::fs::read_to_string(folder.join("started"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let moved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("moved")).unwrap()).unwrap();
    assert_eq!(
        moved,
        serde_json::json!({"containers": [{"hostPort": port}], "swap": "01A", "phase": "cut_over"})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_host_36_status_shows_what_runs_and_what_the_last_swap_left() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    assert_eq!(
        host.status(&cloud).await["payload"],
        serde_json::Value::Null
    );
    let one = simple("1");
    host.boot(&cloud, &one, "01A").await;
    let status = host.status(&cloud).await;
    assert_eq!(
        (status["payload"].as_str(), status["swap"].as_str()),
        (Some(one.digest.as_str()), Some("01A"))
    );
    assert_eq!(
        (&status["proxy"], &status["containers"][0]["in_rotation"]),
        (&true.into(), &true.into())
    );
    // D-CLI-43
    assert_eq!(status["last"]["outcome"], "booted");
    let bad = simple_with("2", &["--health", "500"], |s| {
        s.swap.prepare_timeout = Duration::from_secs(20)
    });
    cloud.upload(&bad).await;
    cloud.want(&bad.digest, "01B", in_minutes(20)).await;
    host.reports(&cloud, "hotswap").await;
    let status = host.status(&cloud).await;
    // D-HOST-36: the step and the cause of the last one, while the other serves.
    assert_eq!(
        (&status["last"]["outcome"], &status["last"]["step"]),
        (&"failed".into(), &"health".into())
    );
    assert_eq!(status["last"]["cause"]["code"], "health_timeout");
    assert_eq!(status["payload"], one.digest.as_str());
    let people = host.run(&cloud, &["status"]).await;
    let text = String::from_utf8(people.stdout).unwrap();
    assert!(
        text.contains("running, in rotation") && text.contains("failed at step health"),
        "{text}"
    );
    // Someone who logs in has none of the variables that cfn-hup gives to the agent, and perhaps no metadata service.
    let shell = (host
        .agent(&cloud, &["status"])
        .env_remove("PORTER_INSTANCE"))
    .env("AWS_EC2_METADATA_DISABLED", "true")
    .output()
    .await
    .unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_pay_7_memory_stays_below_128_mib_for_an_image_of_2_gib() {
    use sha2::{Digest as _, Sha256};
    use std::io::Write;
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    // A sparse file of 2 GiB inside the layer's tar, packed while it is made: nothing of that size lies anywhere.
    const SIZE: u64 = 2 << 30;
    struct Hashing(zstd::stream::write::Encoder<'static, Vec<u8>>, Sha256, u64);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.update(bytes);
            self.2 += bytes.len() as u64;
            self.0.write_all(bytes).map(|()| bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (layer, packed) = tokio::task::spawn_blocking(|| {
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        let mut tar = tar::Builder::new(Hashing(encoder, Sha256::new(), 0));
        let mut header = tar::Header::new_gnu();
        header.set_size(SIZE);
        header.set_mode(0o644);
        tar.append_data(
            &mut header,
            "zeros",
            std::io::Read::take(std::io::repeat(0), SIZE),
        )
        .unwrap();
        let Hashing(encoder, hasher, unpacked) = tar.into_inner().unwrap();
        let packed = encoder.finish().unwrap();
        let digest = Digest::from_bytes(&Sha256::digest(&packed).into());
        let blob = contract::manifest::Blob {
            digest,
            size: packed.len() as u64,
        };
        (
            contract::manifest::Layer {
                diff_id: Digest::from_bytes(&hasher.finalize().into()),
                unpacked,
                blob,
            },
            packed,
        )
    })
    .await
    .unwrap();
    let (mut large, mut blobs) = image(&["--version", "large"]);
    let mut config: serde_json::Value =
        serde_json::from_slice(&blobs.remove(&large.config.digest).unwrap()).unwrap();
    config["rootfs"]["diff_ids"]
        .as_array_mut()
        .unwrap()
        .push(layer.diff_id.to_string().into());
    let config = config.to_string().into_bytes();
    large.config.digest = Digest::from_bytes(&Sha256::digest(&config).into());
    large.config.size = config.len() as u64;
    blobs.insert(large.config.digest.clone(), config);
    blobs.insert(layer.blob.digest.clone(), packed);
    large.layers.push(layer);
    let large = payload("large", vec![("web", (large, blobs))], {
        let mut spec = host_spec(vec![container("web", "web")]);
        spec.swap.prepare_timeout = Duration::from_secs(600);
        spec.swap.keep_images = 0;
        spec
    });
    cloud.upload(&large).await;
    cloud.want(&large.digest, "01A", in_minutes(20)).await;
    // It stops once the image is loaded, so that its peak can be read while it lives.
    let mut agent = host
        .agent(&cloud, &["boot"])
        .env("PORTER_TEST_PAUSE_AT", "load:after")
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(400);
    while !host.state.join("paused").exists() {
        assert!(std::time::Instant::now() < until, "the image is loaded");
        assert!(agent.try_wait().unwrap().is_none(), "the agent goes on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id().unwrap())).unwrap();
    agent.kill().await.unwrap();
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    eprintln!("peak resident memory: {kib} KiB");
    // D-PAY-7, D-QA-11
    assert!(kib < 128 * 1024, "{kib} KiB");
    let key = blob_key(SERVICE, &large.manifest.config.digest);
    assert!(key.ends_with(large.manifest.config.digest.hex()));
}

/// Every version of a container with `data: true` finds what the one before has left, also while both run; a container
/// without it has no folder of the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containers_data_stays_from_version_to_version() {
    let cloud = Cloud::start().await;
    let host = TestHost::new(&cloud).await;
    let keeps = |version: &str| simple_with(version, &[], |spec| spec.containers[0].data = true);
    host.boot(&cloud, &keeps("1"), "01A").await;
    let folder = host.path("data").join(format!("{SERVICE}-web"));
    std::fs::write(folder.join("kept"), "by 1").unwrap();
    let mounted = |host: &TestHost| {
        let ids = host.containers();
        docker(&[
            "inspect",
            "--format",
            "{{range .Mounts}}{{.Source}}:{{.Destination}}:{{.RW}}{{end}} {{.Config.Env}}",
            &ids[0],
        ])
        .concat()
    };
    let expected = format!("{}:/data:true", folder.display());
    let before = mounted(&host);
    assert!(before.starts_with(&expected), "{before}");
    assert!(before.contains("PORTER_DATA_DIR=/data"), "{before}");
    swap(&cloud, &host, &keeps("2"), "01B").await;
    assert_eq!(host.get("/").await, (200, "2".into()));
    assert!(mounted(&host).starts_with(&expected));
    assert_eq!(std::fs::read(folder.join("kept")).unwrap(), b"by 1");
    swap(&cloud, &host, &simple("3"), "01C").await;
    let without = mounted(&host);
    assert!(!without.contains("/data"), "{without}");
}
