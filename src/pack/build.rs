//! One image build through the Engine API, with the classic builder: every engine since 1.2x has it, and it needs no
//! session beside the request.

use super::{context::Context, engine};
use bollard::{
    Docker,
    query_parameters::{BuildImageOptions, BuilderVersion},
};
use futures::StreamExt;
use std::{
    collections::{HashMap, VecDeque},
    io,
};

/// Lines of output that an error shows.
const TAIL: usize = 20;

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Within the context.
    pub dockerfile: String,
    /// `repository:tag`.
    pub tag: Option<String>,
    /// Build arguments.
    pub arguments: HashMap<String, String>,
    /// Labels of the image.
    pub labels: HashMap<String, String>,
    /// Build every layer anew.
    pub no_cache: bool,
    /// Set only for a platform that is not the engine's own.
    pub platform: Option<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file of the context could not be read.
    #[error("the build context can't be read: {0}")]
    Context(io::Error),
    /// The engine, or a step of the Dockerfile.
    #[error("{message}{}", tail(lines))]
    Failed {
        /// What the engine says.
        message: String,
        /// The build's last lines.
        lines: Vec<String>,
    },
}

fn tail(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = String::from("; the build's last lines:");
    for line in lines {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

/// Builds and returns the image id. `output` hears every line.
///
/// # Errors
/// [`BuildError`]. Dropping the future ends the build: the engine notices that its client has gone.
pub async fn image(
    docker: &Docker,
    build: &Build,
    context: Context,
    output: &(dyn Fn(&str) + Sync),
) -> Result<String, BuildError> {
    let options = BuildImageOptions {
        dockerfile: build.dockerfile.clone(),
        t: build.tag.clone(),
        nocache: build.no_cache,
        rm: true,
        forcerm: true,
        buildargs: Some(build.arguments.clone()).filter(|a| !a.is_empty()),
        labels: Some(build.labels.clone()).filter(|l| !l.is_empty()),
        platform: build.platform.clone().unwrap_or_default(),
        version: BuilderVersion::BuilderV1,
        ..BuildImageOptions::default()
    };
    let mut id = None;
    let mut failure = None;
    let mut lines = VecDeque::new();
    let mut partial = String::new();
    let mut events = docker.build_image(options, None, Some(context.body));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                id = event.aux.and_then(|aux| aux.id).or(id);
                partial.push_str(&event.stream.unwrap_or_default());
                while let Some(end) = partial.find('\n') {
                    let line: String = partial.drain(..=end).collect();
                    let line = line.trim_end();
                    if !line.is_empty() {
                        output(line);
                        lines.push_back(line.to_owned());
                        if lines.len() > TAIL {
                            lines.pop_front();
                        }
                    }
                }
            }
            Err(error) => failure = Some(engine::message(&error)),
        }
    }
    drop(events);
    if let Ok(Err(error)) = context.reader.await {
        // An engine that fails early does not read on; only a reader's own trouble is the cause.
        if error.kind() != io::ErrorKind::BrokenPipe {
            return Err(BuildError::Context(error));
        }
    }
    lines.extend(Some(partial.trim_end().to_owned()).filter(|p| !p.is_empty()));
    match (failure, id) {
        (None, Some(id)) => Ok(id),
        (failure, _) => {
            let message =
                failure.unwrap_or_else(|| "the engine ended the build without an image".into());
            Err(BuildError::Failed {
                message,
                lines: lines.into(),
            })
        }
    }
}
