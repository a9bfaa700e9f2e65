//! The builder pattern (D-PACK-8): an image that prints the context of the runtime build as a tar on its standard output.

use super::{Build, PackError, Work, context, engine, engine_error, images::Wanted};
use bollard::{
    container::LogOutput,
    models::ContainerCreateBody,
    query_parameters::{AttachContainerOptions, RemoveContainerOptions, RemoveImageOptions},
};
use futures::StreamExt;
use std::{
    fs::File,
    io::{Seek, Write},
};

/// Of the builder's standard error, this much is kept for its error message.
const KEPT: usize = 4096;

/// Builds and runs the builder image and returns the tar that it printed. The tar goes to a file first, so that the
/// runtime build begins only after the builder has ended well (D-PACK-9). Container and image are removed whatever
/// happens.
pub(super) async fn context(work: &Work<'_>, wanted: &Wanted, platform: Option<String>) -> Result<File, PackError> {
    let arguments = work.arguments(wanted, &wanted.dockerfile_build)?;
    let path = wanted.dockerfile_build.to_string_lossy().into_owned();
    let build = Build { dockerfile: path.clone(), arguments, no_cache: work.options.no_cache, platform, ..Build::default() };
    let image = work.image(wanted, &path, &build, context::of_folder(work.root, &wanted.dockerfile_build)).await?;

    let body = ContainerCreateBody { image: Some(image.clone()), attach_stdout: Some(true), attach_stderr: Some(true), ..Default::default() };
    let result = match work.docker.create_container(None, body).await {
        Ok(container) => {
            let result = run(work, wanted, &path, &container.id).await;
            let removal = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            drop(work.docker.remove_container(&container.id, Some(removal)).await);
            result
        }
        Err(error) => Err(engine_error(wanted, "create the builder container", &error)),
    };
    // Its parents stay: they are the cache of the next build.
    let removal = RemoveImageOptions { force: false, noprune: true, ..Default::default() };
    drop(work.docker.remove_image(&image, Some(removal), None).await);
    result
}

async fn run(work: &Work<'_>, wanted: &Wanted, path: &str, container: &str) -> Result<File, PackError> {
    let failed = |problem: String| PackError::Builder { container: wanted.key.clone(), path: path.to_owned(), problem };
    let options = AttachContainerOptions { stdout: true, stderr: true, stream: true, logs: true, ..Default::default() };
    let mut attached = work
        .docker
        .attach_container(container, Some(options))
        .await
        .map_err(|e| engine_error(wanted, "attach to the builder container", &e))?;
    work.docker.start_container(container, None).await.map_err(|e| failed(format!("could not be started: {}", engine::message(&e))))?;
    let mut tar = tempfile::tempfile().map_err(|e| failed(format!("printed a context that can't be stored: {e}")))?;
    let mut errors = Vec::new();
    while let Some(output) = attached.output.next().await {
        match output {
            Ok(LogOutput::StdOut { message }) => tar.write_all(&message).map_err(|e| failed(format!("printed a context that can't be stored: {e}")))?,
            Ok(LogOutput::StdErr { message } | LogOutput::Console { message }) => {
                errors.extend_from_slice(&message);
                let excess = errors.len().saturating_sub(KEPT);
                errors.drain(..excess);
            }
            Ok(LogOutput::StdIn { .. }) => {}
            Err(error) => return Err(engine_error(wanted, "read what the builder printed", &error)),
        }
    }
    let status = super::engine::exit_status(work.docker, container).await.map_err(|e| engine_error(wanted, "wait for the builder container", &e))?;
    if status != 0 {
        return Err(failed(format!("ended with exit status {status}: {}", String::from_utf8_lossy(&errors).trim())));
    }
    tar.rewind().map_err(|e| failed(format!("printed a context that can't be read back: {e}")))?;
    Ok(tar)
}
