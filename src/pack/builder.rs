//! The builder pattern (D-PACK-8): an image that prints the context of the runtime build as a tar on its standard output.

use super::{
    Build, PackError, Work,
    container::{self, RunError},
    context,
    images::Wanted,
};
use bollard::{
    container::LogOutput, models::ContainerCreateBody, query_parameters::RemoveImageOptions,
};
use std::{
    fs::File,
    io::{Seek, Write},
};

/// Of the builder's standard error, this much is kept for its error message.
const KEPT: usize = 4096;

/// Builds and runs the builder image and returns the tar that it printed. The tar goes to a file first, so that the
/// runtime build begins only after the builder has ended well (D-PACK-9). Container and image are removed whatever
/// happens.
pub(super) async fn context(
    work: &Work<'_>,
    wanted: &Wanted,
    platform: Option<String>,
) -> Result<File, PackError> {
    let arguments = work.arguments(wanted, &wanted.dockerfile_build)?;
    let path = wanted.dockerfile_build.to_string_lossy().into_owned();
    let build = Build {
        dockerfile: path.clone(),
        arguments,
        no_cache: work.no_cache,
        platform,
        ..Build::default()
    };
    let image = work
        .image(
            wanted,
            &path,
            &build,
            context::of_folder(work.root, &wanted.dockerfile_build),
        )
        .await?;
    let result = run(work, wanted, &path, &image).await;
    // Its parents stay: they are the cache of the next build.
    let removal = RemoveImageOptions {
        force: false,
        noprune: true,
        ..Default::default()
    };
    let removed = work.docker.remove_image(&image, Some(removal), None).await;
    if let Err(error) = removed {
        tracing::debug!(image, %error, "the builder image stays");
    }
    result
}

async fn run(work: &Work<'_>, wanted: &Wanted, path: &str, image: &str) -> Result<File, PackError> {
    let failed = |problem: String| PackError::Builder {
        container: wanted.key.clone(),
        path: path.to_owned(),
        problem,
    };
    let mut tar =
        tempfile::tempfile().map_err(|e| failed(format!("has nowhere to print to: {e}")))?;
    let mut errors = Vec::new();
    let mut output = |chunk| {
        match chunk {
            LogOutput::StdOut { message } => tar.write_all(&message)?,
            LogOutput::StdErr { message } | LogOutput::Console { message } => {
                errors.extend_from_slice(&message);
                let excess = errors.len().saturating_sub(KEPT);
                errors.drain(..excess);
            }
            LogOutput::StdIn { .. } => {}
        }
        Ok(())
    };
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        ..Default::default()
    };
    match container::run(work.docker, body, &mut output, work.stop.cancelled()).await {
        Ok(0) => {}
        Ok(status) => {
            return Err(failed(format!(
                "ended with exit status {status}: {}",
                String::from_utf8_lossy(&errors).trim()
            )));
        }
        Err(RunError::Ended) => return Err(PackError::Interrupted),
        Err(error) => return Err(failed(format!("did not run: {error}"))),
    }
    tar.rewind()
        .map_err(|e| failed(format!("printed a context that can't be read back: {e}")))?;
    Ok(tar)
}
