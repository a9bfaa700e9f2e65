//! The connection to the Docker Engine, for packing and for hooks.

use bollard::Docker;
use futures::StreamExt;
use std::time::Duration;

/// How long the engine may take to begin an answer. It reads a whole build context, and writes a whole image to disk,
/// before it says anything.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long it may take to say that it is there.
const GREETING: Duration = Duration::from_secs(10);

/// There is no engine to work with.
#[derive(Debug, thiserror::Error)]
#[error(
    "no Docker Engine answers{}: {cause}. Install it (Debian, Ubuntu: `apt-get install docker.io`; Amazon Linux: `dnf install docker`), \
     start it (`systemctl start docker`), and see that this user may use it (`docker version` tells)",
    address.as_ref().map(|a| format!(" at {a}")).unwrap_or_default()
)]
pub struct NoEngine {
    /// `DOCKER_HOST`, when it is set.
    address: Option<String>,
    cause: String,
}

/// Connects as the `docker` command does: to `DOCKER_HOST`, or to the local socket.
///
/// # Errors
/// [`NoEngine`], which says what to install or start.
pub async fn connect() -> Result<Docker, NoEngine> {
    let address = std::env::var("DOCKER_HOST").ok().filter(|a| !a.is_empty());
    connect_to(address).await
}

async fn connect_to(address: Option<String>) -> Result<Docker, NoEngine> {
    let connecting = async {
        let docker = match &address {
            Some(address) => Docker::connect_with_host(address),
            None => Docker::connect_with_local_defaults(),
        };
        docker?.negotiate_version().await
    };
    let cause = match tokio::time::timeout(GREETING, connecting).await {
        Ok(Ok(docker)) => return Ok(docker.with_timeout(PATIENCE)),
        Ok(Err(error)) => chain(&error),
        Err(_) => format!("silence for {} s", GREETING.as_secs()),
    };
    Err(NoEngine { address, cause })
}

/// What went wrong, in the engine's own words where it has some.
pub fn message(error: &bollard::errors::Error) -> String {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        other => chain(other),
    }
}

/// Waits for a container's end and returns its exit status.
///
/// # Errors
/// The engine's.
pub async fn exit_status(docker: &Docker, container: &str) -> Result<i64, bollard::errors::Error> {
    use bollard::errors::Error;
    match docker.wait_container(container, None).next().await {
        Some(Ok(end)) => Ok(end.status_code),
        // The client library makes an error of every status but 0.
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error),
        None => Err(Error::IOError {
            err: std::io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}

/// An error with its causes: the client library's own texts leave them out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_engine_one_error_says_what_to_install_and_what_to_start() {
        let error = connect_to(Some("unix:///nonexistent/docker.sock".into()))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("no Docker Engine answers at unix:///nonexistent/docker.sock: "),
            "{error}"
        );
        for part in ["apt-get install docker.io", "systemctl start docker"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
