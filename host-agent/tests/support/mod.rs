//! What the tests stand on: an AWS endpoint (MiniStack), hosts with a real HAProxy on a loopback address of their own, real
//! containers, and a client that counts every request that fails.

#![allow(dead_code, reason = "each test binary uses its own part")]

use contract::{
    digest::Digest,
    manifest::{Blob, FORMAT, Image, Layer, Manifest},
    names::{blob_key, label, manifest_key},
    signal::{HostSignal, Kind},
    spec::{
        ContainerSpec, HealthCheck, HostSpec, OnDrainTimeout, ProxySpec, ProxyTimeouts, SwapOrder,
        SwapSpec, Topology,
    },
};
use local_cloud::emulator::Emulator;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

pub const REGION: &str = "us-east-1";
pub const ENVIRONMENT: &str = "test";
pub const SERVICE: &str = "hello";
/// The machine's container engine.
const ENGINE: &str = "/var/run/docker.sock";
pub const BUCKET: &str = "porter-test";

/// Waits for a condition; a test never sleeps as proof.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < until,
            "did not happen within a minute: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

fn blob(bytes: &[u8]) -> Blob {
    Blob {
        digest: digest(bytes),
        size: bytes.len() as u64,
    }
}

// ---- the AWS endpoint --------------------------------------------------------------------------------------------------

/// MiniStack with a bucket, a queue and, after the first [`Cloud::want`], a stack.
pub struct Cloud {
    _emulator: Emulator,
    pub endpoint: String,
    pub s3: aws_sdk_s3::Client,
    sqs: aws_sdk_sqs::Client,
    cfn: aws_sdk_cloudformation::Client,
    pub queue: String,
    stack: tokio::sync::OnceCell<String>,
    seen: tokio::sync::Mutex<Vec<HostSignal>>,
}

/// A loopback address that nobody else uses: no two hosts, endpoints or test processes meet on a port.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let [.., high, low] = pid.to_be_bytes();
    Ipv4Addr::new(
        127,
        64 + high % 128,
        low,
        NEXT.fetch_add(1, Ordering::Relaxed),
    )
}

impl Cloud {
    pub async fn start() -> Self {
        // The one that `porter local up` starts, at the same pinned version; it installs itself on a fresh machine.
        let emulator = Emulator::start().await.unwrap_or_else(|e| panic!("{e:#}"));
        let endpoint = emulator.endpoint().to_owned();
        let config = aws_config::from_env()
            .region(REGION)
            .endpoint_url(&endpoint)
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                "test", "test", None, None, "test",
            ))
            .load()
            .await;
        let s3 = aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::config::Builder::from(&config)
                .force_path_style(true)
                .build(),
        );
        let sqs = aws_sdk_sqs::Client::new(&config);
        let cfn = aws_sdk_cloudformation::Client::new(&config);
        eventually("MiniStack answers", async || {
            s3.create_bucket().bucket(BUCKET).send().await.ok()
        })
        .await;
        let queue = sqs
            .create_queue()
            .queue_name("signals")
            .send()
            .await
            .unwrap()
            .queue_url
            .unwrap();
        Self {
            _emulator: emulator,
            endpoint,
            s3,
            sqs,
            cfn,
            queue,
            stack: Default::default(),
            seen: Default::default(),
        }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.s3
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(bytes.into())
            .send()
            .await
            .unwrap();
    }

    pub async fn upload(&self, payload: &Payload) {
        for (digest, bytes) in &payload.blobs {
            self.put(&blob_key(SERVICE, digest), bytes.clone()).await;
        }
        self.put(
            &manifest_key(SERVICE, &payload.digest),
            payload.manifest.to_bytes(),
        )
        .await;
    }

    /// What `porter build provision` does to the stack: only parameters change.
    pub async fn want(&self, payload: &Digest, swap: &str, deadline: jiff::Timestamp) {
        use aws_sdk_cloudformation::types::Parameter;
        let template = serde_json::json!({
            "Parameters": {
                "PorterPayloadDigest": {"Type": "String"}, "PorterSwapId": {"Type": "String"}, "PorterDeadline": {"Type": "String"}
            },
            "Resources": {"LaunchTemplate": {
                "Type": "AWS::EC2::LaunchTemplate",
                "Metadata": {"Porter": {
                    "v": 1, "swap": {"Ref": "PorterSwapId"}, "payload": {"Ref": "PorterPayloadDigest"}, "service": SERVICE,
                    "environment": ENVIRONMENT, "region": {"Ref": "AWS::Region"}, "stack": {"Ref": "AWS::StackId"},
                    "bucket": BUCKET, "queue": self.queue, "mode": "simple", "deadline": {"Ref": "PorterDeadline"}
                }},
                "Properties": {"LaunchTemplateData": {"InstanceType": "t3.micro"}}
            }}
        }).to_string();
        let parameter = |key: &str, value: &str| {
            Parameter::builder()
                .parameter_key(key)
                .parameter_value(value)
                .build()
        };
        let parameters = vec![
            parameter("PorterPayloadDigest", payload.as_str()),
            parameter("PorterSwapId", swap),
            parameter("PorterDeadline", &deadline.to_string()),
        ];
        match self.stack.get() {
            None => {
                let created = self
                    .cfn
                    .create_stack()
                    .stack_name("hello-test")
                    .template_body(template)
                    .set_parameters(Some(parameters))
                    .send()
                    .await
                    .unwrap();
                self.stack.set(created.stack_id.unwrap()).unwrap();
            }
            Some(stack) => {
                self.cfn
                    .update_stack()
                    .stack_name(stack)
                    .template_body(template)
                    .set_parameters(Some(parameters))
                    .send()
                    .await
                    .unwrap();
            }
        }
        eventually("the stack is complete", async || {
            let stacks = self
                .cfn
                .describe_stacks()
                .stack_name(self.stack.get().unwrap())
                .send()
                .await
                .ok()?;
            stacks
                .stacks?
                .first()?
                .stack_status()?
                .as_str()
                .ends_with("_COMPLETE")
                .then_some(())
        })
        .await;
    }

    /// Every message so far, in the order of their numbers.
    pub async fn signals(&self) -> Vec<HostSignal> {
        let mut seen = self.seen.lock().await;
        loop {
            let answer = self
                .sqs
                .receive_message()
                .queue_url(&self.queue)
                .max_number_of_messages(10)
                .send()
                .await
                .unwrap();
            let messages = answer.messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                seen.push(serde_json::from_str(message.body().unwrap()).unwrap());
                self.sqs
                    .delete_message()
                    .queue_url(&self.queue)
                    .receipt_handle(message.receipt_handle().unwrap())
                    .send()
                    .await
                    .unwrap();
            }
        }
        seen.sort_by_key(|s| s.seq);
        seen.clone()
    }

    /// The verdict of a swap on a host, once it is on the queue.
    pub async fn verdict(&self, swap: &str) -> HostSignal {
        eventually(&format!("a verdict of {swap}"), async || {
            self.signals()
                .await
                .into_iter()
                .find(|s| s.swap == swap && s.kind != Kind::Progress)
        })
        .await
    }
}

pub fn in_minutes(minutes: i64) -> jiff::Timestamp {
    jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes)
}

// ---- payloads ----------------------------------------------------------------------------------------------------------

pub struct Payload {
    pub digest: Digest,
    pub manifest: Manifest,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

/// The programs that run in containers, below the folder of built ones.
const PROGRAMS: [&str; 3] = ["examples/service", "examples/keeper", "realtime"];

/// The layer with one of them, and its uncompressed digest and length.
fn service_layer(program: &str) -> &'static (Layer, Vec<u8>) {
    static LAYERS: [OnceLock<(Layer, Vec<u8>)>; 3] = [const { OnceLock::new() }; 3];
    let which = PROGRAMS.iter().position(|p| p.ends_with(program)).unwrap();
    LAYERS[which].get_or_init(|| {
        // target/…/deps/test-… → target/…/examples/service
        let program = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join(PROGRAMS[which]);
        let bytes = std::fs::read(&program)
            .unwrap_or_else(|e| panic!("{} is built by `cargo test`: {e}", program.display()));
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "service", bytes.as_slice())
            .unwrap();
        let tar = tar.into_inner().unwrap();
        let packed = zstd::encode_all(tar.as_slice(), 1).unwrap();
        (
            Layer {
                diff_id: digest(&tar),
                unpacked: tar.len() as u64,
                blob: blob(&packed),
            },
            packed,
        )
    })
}

/// An image and what lies in the bucket for it.
pub type ImageAndBlobs = (Image, BTreeMap<Digest, Vec<u8>>);

/// An image of the test service started with these arguments.
pub fn image(arguments: &[&str]) -> ImageAndBlobs {
    image_of("service", arguments)
}

/// An image of one of the test services.
pub fn image_of(program: &str, arguments: &[&str]) -> ImageAndBlobs {
    let (layer, packed) = service_layer(program);
    // Tests share one engine: an image of another test must not count as loaded here.
    let test = format!(
        "{}-{}",
        std::process::id(),
        std::thread::current().name().unwrap_or_default()
    );
    let command: Vec<&str> = std::iter::once("/service")
        .chain(arguments.iter().copied())
        .chain(if program == "realtime" {
            vec![]
        } else {
            vec!["--test", &test]
        })
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": command, "Env": [
            // Only the real-time server reads them.
            format!("REALTIME_SIGNING_KEYS_1_KEY={}", "A".repeat(44)), format!("REALTIME_API_KEYS={}", "k".repeat(40))
        ]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}
    })
    .to_string()
    .into_bytes();
    let image = Image {
        reference: format!("hello:{}", arguments.join("-").replace("--", "")),
        platform: "linux/amd64".into(),
        config: blob(&config),
        layers: vec![layer.clone()],
    };
    let blobs = BTreeMap::from([
        (layer.blob.digest.clone(), packed.clone()),
        (image.config.digest.clone(), config),
    ]);
    (image, blobs)
}

pub fn container(name: &str, image: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: image.into(),
        topology: Topology::Inet,
        inet_port: Some(8080),
        handover: false,
        data: false,
        uid: 1001,
        read_only: true,
        pids_limit: 64,
        memory: Some(64 * 1024 * 1024),
        nano_cpus: None,
        stop_grace: Duration::from_secs(10),
        swap_order: SwapOrder::StartFirst,
        health: HealthCheck {
            method: "GET".into(),
            path: "/health".into(),
            // The proxy asks so often, too, and gives a server up after three times without an answer: on a busy machine
            // that must take longer than the machine is busy.
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            healthy: 1,
            start_period: Duration::ZERO,
            status: 200,
            exec: None,
        },
    }
}

pub fn host_spec(containers: Vec<ContainerSpec>) -> HostSpec {
    HostSpec {
        containers,
        proxy: ProxySpec {
            behind_load_balancer: true,
            request_header_captures: vec![],
            response_header_captures: vec![],
            log: false,
            compression: false,
            compress_types: vec![],
            timeouts: ProxyTimeouts::default(),
            maxconn: 1000,
            https_redirect: false,
            https_only: false,
            stats_bind: None,
        },
        swap: SwapSpec {
            prepare_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            on_drain_timeout: OnDrainTimeout::Close,
            handover_bake: Duration::from_millis(500),
            keep_images: 1,
        },
    }
}

/// A payload with one image per container of the specification.
pub fn payload(version: &str, images: Vec<(&str, ImageAndBlobs)>, spec: HostSpec) -> Payload {
    let config = format!("service_name: {SERVICE} # {version}").into_bytes();
    let mut blobs = BTreeMap::from([(digest(&config), config.clone())]);
    let mut by_name = BTreeMap::new();
    for (name, (image, its_blobs)) in images {
        blobs.extend(its_blobs);
        by_name.insert(name.to_owned(), image);
    }
    let manifest = Manifest {
        v: FORMAT,
        service: SERVICE.into(),
        version: version.into(),
        config: blob(&config),
        images: by_name,
        hosts: BTreeMap::from([(ENVIRONMENT.into(), BTreeMap::from([(REGION.into(), spec)]))]),
    };
    Payload {
        digest: digest(&manifest.to_bytes()),
        manifest,
        blobs,
    }
}

/// One inet container that answers `version`, with more arguments and a changed specification.
pub fn simple_with(
    version: &str,
    arguments: &[&str],
    change: impl FnOnce(&mut HostSpec),
) -> Payload {
    let mut spec = host_spec(vec![container("web", "web")]);
    change(&mut spec);
    let arguments: Vec<&str> = ["--version", version]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    payload(version, vec![("web", image(&arguments))], spec)
}

pub fn simple(version: &str) -> Payload {
    simple_with(version, &[], |_| {})
}

// ---- a host ------------------------------------------------------------------------------------------------------------

pub struct TestHost {
    pub folder: tempfile::TempDir,
    pub instance: String,
    pub at: SocketAddrV4,
    endpoint: String,
    pub state: PathBuf,
    /// The socket of its container engine: the machine's, unless a test has one of its own.
    pub engine: PathBuf,
}

impl TestHost {
    pub async fn new(cloud: &Cloud) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("porter-host-")
            .tempdir()
            .unwrap();
        let address = own_address();
        let at = folder.path();
        let write = |name: &str, text: String| std::fs::write(at.join(name), text).unwrap();
        write(
            "machine.json",
            serde_json::json!({
                "bind_address": address.to_string(), "http_port": 8080, "forwarded_https_port": 8081,
                "publish_address": address.to_string(), "port_range": [20_000, 20_019]
            })
            .to_string(),
        );
        let d = at.display();
        write(
            "start.sh",
            format!(
                "#!/bin/sh\nexec haproxy -W -D -S {d}/master.sock -f {d}/haproxy.cfg -p {d}/haproxy.pid >{d}/haproxy.log 2>&1\n"
            ),
        );
        write(
            "stop.sh",
            format!(
                "#!/bin/sh\nkill $(cat {d}/haproxy.pid)\nwhile kill -0 $(cat {d}/haproxy.pid) 2>/dev/null; do sleep 0.05; done\nrm -f {d}/master.sock\n"
            ),
        );
        let instance = format!("i-{:08x}{:08x}", std::process::id(), address.to_bits());
        Self {
            state: at.join("state"),
            folder,
            instance,
            at: SocketAddrV4::new(address, 8080),
            endpoint: cloud.endpoint.clone(),
            engine: ENGINE.into(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The agent, ready to be run.
    pub fn agent(&self, cloud: &Cloud, arguments: &[&str]) -> tokio::process::Command {
        if let Some(stack) = cloud.stack.get() {
            let file =
                serde_json::json!({"stack": stack, "region": REGION, "resource": "LaunchTemplate"});
            std::fs::write(self.path("stack.json"), file.to_string()).unwrap();
        }
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_host-agent"));
        command
            .args(arguments)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", REGION)
            .env("PORTER_STATE_DIR", &self.state)
            .env("PORTER_DOCKER_SOCKET", &self.engine)
            .env("PORTER_STACK_FILE", self.path("stack.json"))
            .env("PORTER_MACHINE_FILE", self.path("machine.json"))
            .env("PORTER_SOCKETS_DIR", self.path("run"))
            .env("PORTER_CONTAINER_DATA_DIR", self.path("data"))
            .env("PORTER_PROXY_CONFIG", self.path("haproxy.cfg"))
            .env("PORTER_PROXY_SOCKET", self.path("admin.sock"))
            .env("PORTER_PROXY_MASTER_SOCKET", self.path("master.sock"))
            .env(
                "PORTER_PROXY_START",
                format!("sh {}", self.path("start.sh").display()),
            )
            .env(
                "PORTER_PROXY_STOP",
                format!("sh {}", self.path("stop.sh").display()),
            )
            .env("PORTER_INSTANCE", &self.instance)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, cloud: &Cloud, arguments: &[&str]) -> Output {
        self.agent(cloud, arguments).output().await.unwrap()
    }

    /// Runs the agent and expects it to end with 0: it has reported, whatever it was.
    pub async fn reports(&self, cloud: &Cloud, errand: &str) -> String {
        let output = self.run(cloud, &[errand]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{errand} ended with {}:\n{said}",
            output.status
        );
        said
    }

    pub async fn status(&self, cloud: &Cloud) -> serde_json::Value {
        let output = self.run(cloud, &["status", "--json"]).await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the proxy answers to `GET path`, with the status.
    pub async fn get(&self, path: &str) -> (u16, String) {
        Client::new(self.at).get(path).await.unwrap()
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(self.path("haproxy.cfg")).unwrap_or_default()
    }

    /// Ids of this host's containers, running or not.
    pub fn containers(&self) -> Vec<String> {
        self.docker(&[
            "ps",
            "-aq",
            "--no-trunc",
            "--filter",
            &format!("label={}={}", label::INSTANCE, self.instance),
        ])
    }

    /// This host's image references.
    pub fn images(&self) -> Vec<String> {
        self.docker(&[
            "images",
            "-q",
            "--no-trunc",
            &format!("porter/{}", self.instance),
        ])
    }

    /// Lines that the docker command prints of this host's engine.
    pub fn docker(&self, arguments: &[&str]) -> Vec<String> {
        docker_at(&self.engine, arguments)
    }

    /// A program of the user's own, and the `PATH` on which the agent finds it (D-HOST-22, D-HOST-23). `$OUT` is the
    /// folder that is returned, too.
    pub fn own_program(&self, name: &str, script: &str) -> (String, PathBuf) {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = self.path("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        let script = format!("#!/bin/sh\nOUT={}\n{script}\n", folder.display());
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        (format!("{}:{path}", folder.display()), folder)
    }

    /// Boots with this payload.
    pub async fn boot(&self, cloud: &Cloud, payload: &Payload, swap: &str) {
        cloud.upload(payload).await;
        cloud.want(&payload.digest, swap, in_minutes(20)).await;
        self.reports(cloud, "boot").await;
    }
}

/// Lines that the docker command prints of the machine's engine.
pub fn docker(arguments: &[&str]) -> Vec<String> {
    docker_at(Path::new(ENGINE), arguments)
}

fn docker_at(engine: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("docker");
    command
        .arg("-H")
        .arg(format!("unix://{}", engine.display()));
    let output = command.args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("haproxy.log")).unwrap_or_default();
            eprintln!("haproxy of {}:\n{log}", self.instance);
        }
        if let Ok(pid) = std::fs::read_to_string(self.path("haproxy.pid")) {
            let _ = Command::new("kill").arg(pid.trim()).output();
        }
        for id in self.containers() {
            self.docker(&["rm", "-fv", &id]);
        }
        let references = self.docker(&[
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
            &format!("porter/{}", self.instance),
        ]);
        for reference in references {
            self.docker(&["rmi", &reference]);
        }
    }
}

/// A container engine of the test's own, which may be stopped and started again: its containers live on, as on a host
/// (`live-restore` in `templates/daemon.json`). It has a network of its own: engines that share one take each other's
/// bridges away.
pub struct OwnEngine {
    process: std::process::Child,
    /// Keeps the network while no engine runs.
    network: std::process::Child,
    folder: tempfile::TempDir,
}

impl OwnEngine {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("porter-engine-")
            .tempdir()
            .unwrap();
        // It ends with its input, which ends with the test.
        let network = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready && cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut network = network.expect("util-linux is installed: `make setup`");
        let mut ready = String::new();
        let output = network.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut ready).unwrap();
        assert_eq!(ready, "ready\n", "this test needs to be root");
        let engine = Self {
            process: Self::launch(folder.path(), network.id()),
            network,
            folder,
        };
        engine.answers().await;
        engine
    }

    fn launch(folder: &Path, network: u32) -> std::process::Child {
        let config = folder.join("daemon.json");
        std::fs::write(
            &config,
            r#"{"live-restore": true, "storage-driver": "overlay2"}"#,
        )
        .unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let at = |name: &str| folder.join(name).into_os_string();
        Command::new("nsenter")
            .arg(format!("--net=/proc/{network}/ns/net"))
            .arg("dockerd")
            .args(["--config-file".into(), config.into_os_string()])
            .args(["--data-root".into(), at("data")])
            .args(["--exec-root".into(), at("exec")])
            .args(["--pidfile".into(), at("pid")])
            .arg("--host")
            .arg(format!("unix://{}", folder.join("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed: `make setup`")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    async fn answers(&self) {
        eventually("an engine of the test's own answers", async || {
            let version = docker_at(&self.socket(), &["version", "-f", "{{.Server.Version}}"]);
            let answers = version.iter().any(|version| !version.is_empty());
            answers.then_some(())
        })
        .await;
    }

    /// Ends it, as its restart or upgrade does; its containers go on.
    pub fn stop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).output();
        self.process.wait().unwrap();
    }

    pub async fn start_again(&mut self) {
        self.process = Self::launch(self.folder.path(), self.network.id());
        self.answers().await;
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("the engine of the test's own:\n{log}");
        }
        let socket = self.socket();
        for id in docker_at(&socket, &["ps", "-aq"]) {
            docker_at(&socket, &["rm", "-f", &id]);
        }
        self.stop();
        drop(self.network.stdin.take());
        let _ = self.network.wait();
        // An engine leaves the mount of its data folder, upon itself, behind.
        let _ = Command::new("umount")
            .arg(self.folder.path().join("data"))
            .output();
    }
}

/// A way to the engine that can be shut: what a restart of the engine looks like to an agent, without one.
pub struct EngineDoor {
    pub path: PathBuf,
    relay: Option<tokio::task::JoinHandle<()>>,
}

impl EngineDoor {
    pub fn open(path: PathBuf) -> Self {
        let mut door = Self { path, relay: None };
        door.reopen();
        door
    }

    /// Nothing answers any more, and connections that were open end.
    pub fn shut(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.abort();
        }
        std::fs::remove_file(&self.path).unwrap();
    }

    pub fn reopen(&mut self) {
        let listener = tokio::net::UnixListener::bind(&self.path).unwrap();
        self.relay = Some(tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut agent, _)) = listener.accept().await {
                connections.spawn(async move {
                    let engine = tokio::net::UnixStream::connect(ENGINE).await;
                    let _ = tokio::io::copy_bidirectional(&mut agent, &mut engine.unwrap()).await;
                });
            }
        }));
    }
}

// ---- a client ----------------------------------------------------------------------------------------------------------

/// HTTP/1.1 with keep-alive, without any retry: what goes wrong is seen.
pub struct Client {
    at: SocketAddrV4,
    open: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(at: SocketAddrV4) -> Self {
        Self { at, open: None }
    }

    pub async fn get(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(self.at).await?),
        };
        stream
            .get_mut()
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await?;
        let (mut status, mut length, mut close, mut line) = (0, 0, false, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap_or(0);
            } else if let Some(n) = text.strip_prefix("content-length: ") {
                length = n.parse().unwrap_or(0);
            } else if text == "connection: close" {
                close = true;
            } else if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if !close {
            self.open = Some(stream);
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub fn close(&mut self) {
        self.open = None;
    }
}

/// Load on one host until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub requests: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    answers: Arc<std::sync::Mutex<BTreeMap<String, u64>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// `busy` closed loops over kept connections, `fresh` loops that open a connection per request, and `idle` ones that
    /// leave their connection idle for a while between two requests.
    pub fn start(at: SocketAddrV4, busy: usize, fresh: usize, idle: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            requests: Arc::default(),
            failures: Arc::default(),
            answers: Arc::default(),
            tasks: vec![],
        };
        let kinds = [(busy, false, 2), (fresh, true, 2), (idle, false, 2500)];
        for (count, fresh, pause) in kinds {
            for _ in 0..count {
                let (stop, requests, failures, answers) = (
                    load.stop.clone(),
                    load.requests.clone(),
                    load.failures.clone(),
                    load.answers.clone(),
                );
                load.tasks.push(tokio::spawn(async move {
                    let mut client = Client::new(at);
                    while !stop.load(Ordering::Relaxed) {
                        requests.fetch_add(1, Ordering::Relaxed);
                        match client.get("/").await {
                            Ok((200, body)) => {
                                *answers.lock().unwrap().entry(body).or_default() += 1
                            }
                            Ok((status, _)) => {
                                failures.lock().unwrap().push(format!("status {status}"))
                            }
                            Err(e) => failures.lock().unwrap().push(e.to_string()),
                        }
                        if fresh {
                            client.close();
                        }
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                }));
            }
        }
        load
    }

    /// Answers per version, after the last request has ended; panics when one failed.
    pub async fn finish(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failures = self.failures.lock().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {} requests failed: {:?}",
            failures.len(),
            self.requests.load(Ordering::Relaxed),
            &failures[..failures.len().min(10)]
        );
        let answers = self.answers.lock().unwrap();
        answers.clone()
    }
}

/// Appends to a file, for scripts that a test changes.
pub fn append(path: &Path, text: &str) {
    std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}
