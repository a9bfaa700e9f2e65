//! A container that runs once, whose output is read while it runs, and which is removed whatever happens.

use super::engine;
use bollard::{
    Docker,
    container::LogOutput,
    models::{ContainerCreateBody, HostConfigLogConfig},
    query_parameters::{AttachContainerOptions, RemoveContainerOptions},
};
use futures::StreamExt;
use std::io;

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine could not do something.
    #[error("the Docker Engine could not {doing}: {message}")]
    Engine {
        /// What was asked.
        doing: &'static str,
        /// What it says.
        message: String,
    },
    /// The output could not be kept.
    #[error("its output can't be stored: {0}")]
    Output(io::Error),
    /// The caller has ended it; it was killed.
    #[error("it was ended")]
    Ended,
}

/// Runs a container to its end and returns its exit status. `end` completing kills it.
///
/// # Errors
/// [`RunError`]; also then no container is left.
pub async fn run(
    docker: &Docker,
    mut body: ContainerCreateBody,
    output: &mut (dyn FnMut(LogOutput) -> io::Result<()> + Send),
    end: impl Future<Output = ()>,
) -> Result<i64, RunError> {
    (body.attach_stdout, body.attach_stderr) = (Some(true), Some(true));
    // The output is read here; the engine need not keep it on disk as well.
    let log = HostConfigLogConfig {
        typ: Some("none".into()),
        config: None,
    };
    body.host_config.get_or_insert_default().log_config = Some(log);
    let container = docker
        .create_container(None, body)
        .await
        .map_err(failed("create the container"))?;
    let result = tokio::select! {
        result = attend(docker, &container.id, output) => result,
        () = end => Err(RunError::Ended),
    };
    let removal = RemoveContainerOptions {
        force: true,
        v: true,
        ..Default::default()
    };
    let removed = docker.remove_container(&container.id, Some(removal)).await;
    let status = result?;
    removed.map_err(failed("remove the container"))?;
    Ok(status)
}

async fn attend(
    docker: &Docker,
    id: &str,
    output: &mut (dyn FnMut(LogOutput) -> io::Result<()> + Send),
) -> Result<i64, RunError> {
    let options = AttachContainerOptions {
        stdout: true,
        stderr: true,
        stream: true,
        ..Default::default()
    };
    let mut attached = docker
        .attach_container(id, Some(options))
        .await
        .map_err(failed("attach to the container"))?;
    docker
        .start_container(id, None)
        .await
        .map_err(failed("start the container"))?;
    while let Some(chunk) = attached.output.next().await {
        output(chunk.map_err(failed("pass on the container's output"))?)
            .map_err(RunError::Output)?;
    }
    engine::exit_status(docker, id)
        .await
        .map_err(failed("wait for the container"))
}

fn failed(doing: &'static str) -> impl Fn(bollard::errors::Error) -> RunError {
    move |error| RunError::Engine {
        doing,
        message: engine::message(&error),
    }
}
