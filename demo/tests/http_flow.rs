//! The acts against a stand-in for the `porter` program: what is called, in which order, and that the cloud is taken
//! down whatever happens.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use demo::{
    http::{flow, receipt::Report},
    stage::Settings,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

/// Answers as the real program does, as far as the demo looks at it. `$STATE` is the test's folder; the first provision
/// of a run makes hosts, the second one swaps them.
const PORTER: &str = r#"#!/bin/sh
set -eu
STATE="$(dirname "$0")"
printf '%s\n' "$*" >>"$STATE/calls"
case "$*" in
"local status"*)
    if [ -e "$STATE/up" ]; then cat "$STATE/status.json"; else echo "no cloud" >&2; exit 1; fi ;;
"local up"*)
    touch "$STATE/up"
    echo '{"endpoint": "http://127.0.0.1:1", "region": "us-east-1", "env": {"FROM_UP": "yes"}, "hosts": []}' ;;
"local down"*) rm -f "$STATE/up" ;;
"build provision"*)
    [ "$FROM_UP" = yes ] && [ "$PORTER_LOCAL_NAME" = demo ]
    if [ -e "$STATE/provisioned" ]; then
        cp src/version.rs "$STATE/swapped"
        mkdir -p .porter-tmp
        cp "$STATE/hotswap_report.json" .porter-tmp/
        . "$STATE/on_swap"
    else
        touch "$STATE/provisioned"
    fi ;;
esac
"#;

async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<Report> {
    flow::run(settings, 200.0, stop).await
}

struct Stage {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Stage {
    /// A root with an example, a stand-in for porter that runs `on_swap` when it swaps, and one host that serves v2
    /// from then on, when `moves`.
    async fn new(on_swap: &str, moves: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let example = path.join("examples/hello");
        fs::create_dir_all(example.join("src")).unwrap();
        fs::create_dir_all(example.join(".porter")).unwrap();
        fs::write(
            example.join("src/version.rs"),
            "pub const VERSION: &str = \"v1\";\n",
        )
        .unwrap();
        fs::write(example.join(".porter/config"), "instance_count: 3\n").unwrap();
        let porter = path.join("porter");
        fs::write(&porter, PORTER).unwrap();
        fs::set_permissions(&porter, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("on_swap"), on_swap).unwrap();
        let url = host(path.join(if moves { "swapped" } else { "never" })).await;
        let status = serde_json::json!({"endpoint": "http://127.0.0.1:1", "hosts": [
            {"instance": "i-1", "address": "127.0.0.1", "url": url, "state": "running"}]});
        fs::write(path.join("status.json"), status.to_string()).unwrap();
        let report = serde_json::json!({"v": 1, "decision": "hot_swap", "outcome": "success", "from": null,
            "to": "sha256:b", "seconds": 0.1, "bytes": {"uploaded": 1, "downloaded": 2}, "regions": [
                {"hosts": [{"instance": "i-1", "outcome": "success", "seconds": {"fetch": 0.1}}]}]});
        fs::write(path.join("hotswap_report.json"), report.to_string()).unwrap();
        let settings = Settings {
            root: path.to_owned(),
            porter,
            folder: path.join("target/demo"),
            scratch: path.to_owned(),
            hosts: 1,
            at_least: Duration::ZERO,
            release: false,
            keep: false,
        };
        Self { folder, settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The calls of the stand-in, each once in a row.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let mut calls: Vec<String> = text.lines().map(str::to_owned).collect();
        calls.dedup();
        calls
    }
}

/// A host that answers v1 until the file `swapped` exists, v2 from then on.
async fn host(swapped: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let swapped = swapped.clone();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let version = if swapped.exists() { "v2" } else { "v1" };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{version}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

fn read_report(root: &Path) -> serde_json::Value {
    let text = fs::read(root.join("target/demo/report.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_swap_passes_and_calls_porter_in_the_order_of_the_readme() {
    let stage = Stage::new("", true).await;
    let report = run(stage.settings.clone(), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.passed);
    assert!(report.http.seconds_after_swap >= 3.0 && report.http.seconds_before_swap > 0.0);
    let written = read_report(stage.folder.path());
    assert_eq!(written["http"]["failed"], 0);
    assert_eq!(written["hosts"][0]["serves"], "v2");
    assert_eq!(
        fs::read_to_string(stage.path("swapped")).unwrap(),
        "pub const VERSION: &str = \"v2\";\n"
    );
    assert_eq!(
        stage.calls(),
        [
            "local down",
            "local up --hosts 1 --output json",
            "build pack",
            "build provision -e stage",
            "build promote",
            "local status --output json",
            "build pack",
            "hotswap plan -e stage",
            "build provision -e stage",
            "local down",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_swap_is_reported_with_its_reason_and_the_cloud_is_taken_down() {
    let stage = Stage::new("exit 5", false).await;
    let report = run(stage.settings.clone(), CancellationToken::new())
        .await
        .unwrap();
    assert!(!report.passed);
    let problems = report.problems.join("\n");
    assert!(problems.contains("exit status: 5"), "{problems}");
    assert!(problems.contains("i-1 serves v1 at the end"), "{problems}");
    assert_eq!(read_report(stage.folder.path())["passed"], false);
    assert_eq!(stage.calls().last().unwrap(), "local down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_act_is_an_error_leaves_no_old_report_and_the_cloud_is_taken_down() {
    let stage = Stage::new("", true).await;
    fs::create_dir_all(stage.path("target/demo")).unwrap();
    fs::write(stage.path("target/demo/report.json"), "{\"passed\": true}").unwrap();
    fs::write(stage.path("examples/hello/.porter/config"), "x: 1\n").unwrap();
    let error = run(stage.settings.clone(), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("instance_count"), "{error:#}");
    assert!(!stage.path("target/demo/report.json").exists());
    assert_eq!(stage.calls().last().unwrap(), "local down");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_swap_ends_it_and_the_cloud_is_taken_down() {
    let stage = Stage::new(
        "trap 'touch \"$STATE/told\"; exit 130' INT; touch \"$STATE/swapping\"; while :; do sleep 0.05; done",
        false,
    )
    .await;
    let stop = CancellationToken::new();
    let demo = tokio::spawn(run(stage.settings.clone(), stop.clone()));
    let swapping = stage.path("swapping");
    tokio::time::timeout(Duration::from_secs(60), async {
        while !swapping.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the swap begins");
    stop.cancel();
    // What the load saw until then is told all the same, and it does not pass.
    match demo.await.unwrap() {
        Ok(report) => assert!(!report.passed),
        Err(error) => assert!(error.to_string().contains("interrupted"), "{error:#}"),
    }
    assert!(stage.path("told").exists(), "porter itself was told");
    assert_eq!(stage.calls().last().unwrap(), "local down");
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_leaves_the_cloud_and_a_second_demo_waits_for_nobody() {
    let mut stage = Stage::new("", true).await;
    stage.settings.keep = true;
    let lock = fs::File::create(stage.path("porter-demo.lock")).unwrap();
    lock.lock().unwrap();
    let error = run(stage.settings.clone(), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another demo"), "{error}");
    assert!(stage.calls().is_empty());

    // Not dropped: while another test starts a program, that has the file open too, until it runs.
    lock.unlock().unwrap();
    run(stage.settings.clone(), CancellationToken::new())
        .await
        .unwrap();
    assert!(stage.path("up").exists());
    assert_ne!(stage.calls().last().unwrap(), "local down");
}
