//! A hook that is a Dockerfile: built with its own folder as context, run with the repository at `/repo_root`, removed
//! afterwards (D-HOOK-3).

use super::{End, HookContext, Output};
use crate::pack::{
    Build, build_image,
    container::{self, RunError},
    engine, folder_context,
};
use bollard::{
    container::LogOutput,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::RemoveImageOptions,
};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// On images and containers of hooks; the value is new for every run, so that hooks that run together never share an
/// image that one of them removes.
const LABEL: &str = "porter.hook";

/// Builds and runs the hook. `end` completing ends the build or kills the container.
///
/// # Errors
/// Why it could not be run.
pub(super) async fn run(
    dockerfile: &Path,
    context: &HookContext,
    variables: &BTreeMap<String, String>,
    output: &mut Output,
    end: impl Future<Output = End>,
) -> Result<End, String> {
    let docker = engine::connect().await.map_err(|e| e.to_string())?;
    let (Some(folder), Some(name)) = (dockerfile.parent(), dockerfile.file_name()) else {
        return Err(format!("`{}` is not a file", dockerfile.display()));
    };
    if !dockerfile.is_file() {
        return Err(format!("there is no file `{}`", dockerfile.display()));
    }
    let labels = HashMap::from([(LABEL.to_owned(), ulid::Ulid::generate().to_string())]);
    let build = Build {
        dockerfile: name.to_string_lossy().into_owned(),
        labels: labels.clone(),
        ..Build::default()
    };
    let mut end = std::pin::pin!(end);
    let image = tokio::select! {
        image = build_image(&docker, &build, folder_context(folder, Path::new(name)), &|_| {}) => image.map_err(|e| e.to_string())?,
        ended = &mut end => return Ok(ended),
    };

    let flag = context
        .volume_flag
        .as_ref()
        .map(|f| format!(":{f}"))
        .unwrap_or_default();
    let body = ContainerCreateBody {
        image: Some(image.clone()),
        env: Some(
            variables
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        labels: Some(labels),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{}:/repo_root{flag}", context.root.display())]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut keep = |chunk: LogOutput| {
        match &chunk {
            LogOutput::StdOut { message } => output.stdout(message),
            LogOutput::StdErr { message } | LogOutput::Console { message } => {
                output.stderr(message)
            }
            LogOutput::StdIn { .. } => {}
        }
        Ok(())
    };
    let mut ended = None;
    let result = container::run(&docker, body, &mut keep, async { ended = Some(end.await) }).await;
    if !context.keep_images {
        // Its parents stay: they may be those of another image that is being built.
        let removal = RemoveImageOptions {
            force: true,
            noprune: true,
            ..Default::default()
        };
        if let Err(error) = docker.remove_image(&image, Some(removal), None).await {
            tracing::warn!(image, %error, "the image of a hook stays");
        }
    }
    match (result, ended) {
        (Ok(status), _) => Ok(End::Exited(status)),
        (Err(RunError::Ended), Some(ended)) => Ok(ended),
        (Err(error), _) => Err(error.to_string()),
    }
}
