//! Programs of the user's own on the host's path, called at two moments. Their outcome never changes a swap.

use serde_json::json;
use std::{net::SocketAddrV4, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// D-HOT-75.
const LIMIT: Duration = Duration::from_secs(60);

/// `porter_docker_post_run <host port>`, after each inet container was started (D-HOST-22).
pub async fn after_start(at: SocketAddrV4) {
    run(
        "porter_docker_post_run",
        &[at.port().to_string()],
        String::new(),
    )
    .await;
}

/// `porter_hotswap_signal`, with the new containers' host ports on its input, after traffic has moved (D-HOST-23).
pub async fn after_cut_over(swap: &str, endpoints: impl Iterator<Item = SocketAddrV4>) {
    let containers: Vec<_> = endpoints.map(|e| json!({"hostPort": e.port()})).collect();
    let input = json!({"containers": containers, "swap": swap, "phase": "cut_over"});
    run("porter_hotswap_signal", &[], input.to_string()).await;
}

async fn run(program: &str, arguments: &[String], input: String) {
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        // It is optional.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => {
            tracing::warn!(program, error = %e, "can't be run");
            return;
        }
    };
    let finished = timeout(LIMIT, async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is none the worse for it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait().await
    });
    match finished.await {
        Ok(Ok(status)) => tracing::info!(program, %status, "ended"),
        Ok(Err(e)) => tracing::warn!(program, error = %e, "was lost"),
        Err(_) => tracing::warn!(program, "did not end within a minute and is killed"),
    }
}
