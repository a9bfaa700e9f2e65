//! Builds the containers and takes the images apart (D-PACK).
//!
//! `Config → revision → builds → saved images → blobs → manifest`. Everything that later phases need lies in
//! `.porter-tmp` then; the last file to be written is `payload.json`, so a pack that failed leaves nothing that could be
//! deployed by mistake.

mod arguments;
mod build;
mod builder;
mod cache;
pub(crate) mod container;
mod context;
pub(crate) mod engine;
mod ignored;
mod images;
mod normalise;
mod packed;
mod revision;
mod split;

pub use build::BuildError;
pub(crate) use build::{Build, image as build_image};
pub use cache::Cache;
pub(crate) use context::of_folder as folder_context;
pub use images::{Summary, platform};
pub use normalise::layer as normalise_layer;
pub use packed::{NotPacked, Packed, forget};
pub use revision::{NoRevision, Revision, read as revision};
pub use split::{Split, SplitError, split};

use crate::{
    config::model::Config,
    files,
    payload::{
        self,
        blobs::{self, BlobStore},
        oci,
    },
};
use bollard::{Docker, query_parameters::RemoveImageOptions};
use bytes::Bytes;
use contract::manifest::{self, Image, Manifest};
use futures::{Stream, TryStreamExt, future::join_all};
use images::Wanted;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio_util::{
    io::{StreamReader, SyncIoBridge},
    sync::CancellationToken,
};

/// Where pack leaves its results, below the repository root (D-CLI-44).
pub const OUT: &str = ".porter-tmp";

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A dirty work tree is an error (D-PACK-4).
    pub require_clean: bool,
    /// Build every image layer anew.
    pub no_cache: bool,
    /// Cancelled, it ends the pack with [`PackError::Interrupted`].
    pub stop: CancellationToken,
}

/// What pack tells while it works.
#[derive(Clone, Debug)]
pub enum PackEvent<'a> {
    /// Something the operator should know.
    Warning(String),
    /// The version is known.
    Version(&'a Revision),
    /// An image build begins.
    Building {
        /// Key of the image.
        image: &'a str,
    },
    /// A line of a build's output.
    Output {
        /// Key of the image.
        image: &'a str,
        /// The line.
        line: &'a str,
    },
    /// An image build has ended well.
    Built {
        /// Key of the image.
        image: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// So many bytes of an image's layers were taken apart since the last such event.
    Saved {
        /// Key of the image.
        image: &'a str,
        /// Uncompressed, except where the engine itself keeps layers compressed.
        bytes: u64,
    },
    /// Nothing is left to do for this image.
    Done(&'a Summary),
}

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No version.
    #[error(transparent)]
    NoRevision(#[from] NoRevision),
    /// `--require-clean`.
    #[error("the work tree has changes that are not committed: {}", list(.0))]
    Dirty(Vec<String>),
    /// No Docker.
    #[error(transparent)]
    NoEngine(#[from] engine::NoEngine),
    /// A configured file is not there.
    #[error("container `{container}`: {path} can't be read: {error}")]
    Dockerfile {
        /// Key of the image.
        container: String,
        /// Relative to the repository root.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// D-CFG-73.
    #[error(
        "container `{container}`: {path} declares build arguments without a default that the environment does not set: {}; \
         set them, give them a default, or say `validate_build_args_exist: false`",
        names.join(", ")
    )]
    MissingArguments {
        /// Key of the image.
        container: String,
        /// The Dockerfile.
        path: String,
        /// The names.
        names: Vec<String>,
    },
    /// A build failed.
    #[error("container `{container}`: {path} was not built: {error}")]
    Build {
        /// Key of the image.
        container: String,
        /// The Dockerfile.
        path: String,
        /// Why.
        error: BuildError,
    },
    /// The builder container (D-PACK-9).
    #[error("container `{container}`: the builder image made from {path} {problem}")]
    Builder {
        /// Key of the image.
        container: String,
        /// The builder file.
        path: String,
        /// What happened, with its last lines.
        problem: String,
    },
    /// D-PACK-20.
    #[error(
        "container `{container}`: the image is for {found}, the hosts are {expected}; build it for them, or change `instance_type`"
    )]
    Platform {
        /// Key of the image.
        container: String,
        /// Of the image.
        found: String,
        /// Of the hosts.
        expected: String,
    },
    /// D-CFG-70.
    #[error("{}", .0.join("; "))]
    Ports(Vec<String>),
    /// The engine failed otherwise.
    #[error("container `{container}`: the Docker Engine could not {doing}: {message}")]
    Engine {
        /// Key of the image.
        container: String,
        /// What was asked.
        doing: &'static str,
        /// What it says.
        message: String,
    },
    /// The image could not be taken apart.
    #[error("container `{container}`: {error}")]
    Split {
        /// Key of the image.
        container: String,
        /// Why.
        error: SplitError,
    },
    /// A stack definition is not there (D-PACK-14).
    #[error("the stack definition {} can't be read: {error}", path.display())]
    StackDefinition {
        /// As configured.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// [`Options::stop`] was cancelled.
    #[error("packing was interrupted; nothing was packed")]
    Interrupted,
    /// `.porter-tmp` can't be written.
    #[error("{} can't be written: {error}", path.display())]
    Out {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

fn list(changes: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = changes
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if changes.len() > SHOWN {
        text = format!("{text} and {} more", changes.len() - SHOWN);
    }
    text
}

/// Packs the service in `root` into `out`. The same commit on the same base images gives the same payload digest
/// (D-PACK-17).
///
/// # Errors
/// [`PackError`]. `out` then holds no payload that a later phase would accept.
pub async fn run(
    config: &Config,
    root: &Path,
    out: &Path,
    options: Options,
    progress: &(dyn Fn(PackEvent<'_>) + Sync),
) -> Result<Packed, PackError> {
    let mut config = config.clone();
    let revision = revision::read(root).await?;
    if !revision.changes.is_empty() {
        if options.require_clean {
            return Err(PackError::Dirty(revision.changes));
        }
        progress(PackEvent::Warning(format!(
            "the work tree has changes that are not committed ({}): the version is marked {}",
            list(&revision.changes),
            revision.version
        )));
    }
    progress(PackEvent::Version(&revision));

    let folder = payload::folder(out);
    let previous = packed::forget(out).map_err(|error| PackError::Out {
        path: out.to_owned(),
        error,
    })?;
    fs::create_dir_all(&folder).map_err(|error| PackError::Out {
        path: folder.clone(),
        error,
    })?;

    let docker = engine::connect().await?;
    let wanted = images::wanted(&mut config);
    let work = Work {
        docker: &docker,
        root,
        no_cache: options.no_cache,
        stop: options.stop.child_token(),
        revision: &revision,
        progress,
    };
    let built = work.build_all(&wanted).await?;

    let store = BlobStore::below(&folder);
    let mut cache = Cache::read(&folder);
    let mut manifest_images = BTreeMap::new();
    let mut exposed = BTreeMap::new();
    // One image at a time: the engine writes each one to disk as a whole before it sends it (D-PACK-12).
    for (wanted, id) in wanted.iter().zip(&built) {
        exposed.insert(wanted.key.clone(), work.check(wanted, id).await?);
        let split = tokio::select! {
            split = work.save(wanted, id, &store, &mut cache) => split?,
            () = work.stop.cancelled() => return Err(PackError::Interrupted),
        };
        manifest_images.insert(
            wanted.key.clone(),
            Image {
                reference: images::reference(&revision.version, revision.committed, &wanted.key),
                platform: wanted.platform.clone(),
                config: split.config,
                layers: split.layers,
            },
        );
    }
    images::find_ports(&mut config, &exposed).map_err(PackError::Ports)?;
    copy_stack_definitions(&mut config, root, out)?;

    let yaml = serde_yaml::to_string(&config).map_err(|e| PackError::Out {
        path: out.join("config.yaml"),
        error: io::Error::other(e),
    })?;
    let write = |path: &Path, bytes: &[u8]| {
        files::write_atomically(path, bytes).map_err(|error| PackError::Out {
            path: path.to_owned(),
            error,
        })
    };
    write(&out.join("config.yaml"), yaml.as_bytes())?;
    let stored = |error| PackError::Out {
        path: folder.clone(),
        error,
    };
    let manifest = Manifest {
        v: manifest::FORMAT,
        service: config.service_name.clone(),
        version: revision.version.clone(),
        config: store.add(yaml.as_bytes()).map_err(stored)?,
        images: manifest_images,
        hosts: images::hosts(&config),
    };
    let layout = oci::write(&folder, &store, &manifest).map_err(stored)?;
    let mut keep: Vec<_> = manifest
        .blobs()
        .into_iter()
        .map(|b| b.digest.clone())
        .collect();
    cache.save(&folder, &keep).map_err(stored)?;
    keep.extend(layout.into_iter().map(|b| b.digest));
    store.retain(&keep).map_err(stored)?;

    if let Some(previous) = &previous {
        untag(&docker, previous, &manifest).await;
    }

    let summary = images::summary(&manifest, previous.as_ref());
    let packed = packed::save(out, manifest, summary).map_err(|error| PackError::Out {
        path: out.to_owned(),
        error,
    })?;
    for image in &packed.summary {
        progress(PackEvent::Done(image));
    }
    Ok(packed)
}

struct Work<'a> {
    docker: &'a Docker,
    root: &'a Path,
    no_cache: bool,
    /// Cancelled by the caller, and by the first build that fails.
    stop: CancellationToken,
    revision: &'a Revision,
    progress: &'a (dyn Fn(PackEvent<'_>) + Sync),
}

impl Work<'_> {
    /// Builds all images at the same time (D-PACK-12). The first failure ends the others, which clean up behind them.
    async fn build_all(&self, wanted: &[Wanted]) -> Result<Vec<String>, PackError> {
        let build = async |wanted| {
            let result = self.build(wanted).await;
            if result.is_err() {
                self.stop.cancel();
            }
            result
        };
        let results = join_all(wanted.iter().map(build)).await;
        let (mut ids, mut first) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(id) => ids.push(id),
                // An interruption may be the consequence of another's failure, which is then the cause to tell.
                Err(error) => match first {
                    None | Some(PackError::Interrupted) => first = Some(error),
                    Some(_) => {}
                },
            }
        }
        first.map_or(Ok(ids), Err)
    }

    /// Builds one image, with its builder image when there is a builder file (D-PACK-7, D-PACK-8).
    async fn build(&self, wanted: &Wanted) -> Result<String, PackError> {
        let began = Instant::now();
        (self.progress)(PackEvent::Building { image: &wanted.key });
        let tag = Some(images::reference(
            &self.revision.version,
            self.revision.committed,
            &wanted.key,
        ));
        let platform = self.foreign_platform(wanted).await?;
        let dockerfile = wanted.dockerfile.to_string_lossy().into_owned();
        let id = if self.root.join(&wanted.dockerfile_build).is_file() {
            let tar = builder::context(self, wanted, platform.clone()).await?;
            let build = Build {
                dockerfile: dockerfile.clone(),
                tag,
                no_cache: self.no_cache,
                platform,
                ..Build::default()
            };
            self.image(wanted, &dockerfile, &build, context::of_tar(tar))
                .await?
        } else {
            let arguments = self.arguments(wanted, &wanted.dockerfile)?;
            let build = Build {
                dockerfile: dockerfile.clone(),
                tag,
                arguments,
                no_cache: self.no_cache,
                platform,
                ..Build::default()
            };
            self.image(
                wanted,
                &dockerfile,
                &build,
                context::of_folder(self.root, &wanted.dockerfile),
            )
            .await?
        };
        (self.progress)(PackEvent::Built {
            image: &wanted.key,
            took: began.elapsed(),
        });
        Ok(id)
    }

    async fn image(
        &self,
        wanted: &Wanted,
        path: &str,
        build: &Build,
        context: context::Context,
    ) -> Result<String, PackError> {
        let output = |line: &str| {
            (self.progress)(PackEvent::Output {
                image: &wanted.key,
                line,
            })
        };
        tokio::select! {
            result = build::image(self.docker, build, context, &output) => {
                result.map_err(|error| PackError::Build { container: wanted.key.clone(), path: path.to_owned(), error })
            }
            () = self.stop.cancelled() => Err(PackError::Interrupted),
        }
    }

    /// The platform to ask for: none when it is the engine's own.
    async fn foreign_platform(&self, wanted: &Wanted) -> Result<Option<String>, PackError> {
        let version = self
            .docker
            .version()
            .await
            .map_err(|e| engine_error(wanted, "tell its version", &e))?;
        let own = format!(
            "{}/{}",
            version.os.unwrap_or_default(),
            version.arch.unwrap_or_default()
        );
        Ok((own != wanted.platform).then(|| wanted.platform.clone()))
    }

    fn arguments(
        &self,
        wanted: &Wanted,
        path: &Path,
    ) -> Result<std::collections::HashMap<String, String>, PackError> {
        let shown = path.display().to_string();
        let text =
            fs::read_to_string(self.root.join(path)).map_err(|error| PackError::Dockerfile {
                container: wanted.key.clone(),
                path: shown.clone(),
                error,
            })?;
        let found = arguments::read(&text, |name| std::env::var(name).ok());
        if wanted.validate_arguments && !found.missing.is_empty() {
            return Err(PackError::MissingArguments {
                container: wanted.key.clone(),
                path: shown,
                names: found.missing,
            });
        }
        Ok(found.set.into_iter().collect())
    }

    /// Compares the platform (D-PACK-20) and returns the exposed ports.
    async fn check(&self, wanted: &Wanted, id: &str) -> Result<Vec<String>, PackError> {
        let image = self
            .docker
            .inspect_image(id)
            .await
            .map_err(|e| engine_error(wanted, "show the image", &e))?;
        let found = format!(
            "{}/{}",
            image.os.unwrap_or_default(),
            image.architecture.unwrap_or_default()
        );
        if found != wanted.platform {
            return Err(PackError::Platform {
                container: wanted.key.clone(),
                found,
                expected: wanted.platform.clone(),
            });
        }
        Ok(image
            .config
            .and_then(|c| c.exposed_ports)
            .unwrap_or_default())
    }

    /// Streams the image out of the engine into blobs, unless an earlier pack did.
    async fn save(
        &self,
        wanted: &Wanted,
        id: &str,
        store: &BlobStore,
        cache: &mut Cache,
    ) -> Result<Split, PackError> {
        let (key, blobs, known, image) = (
            wanted.key.clone(),
            store.clone(),
            cache.clone(),
            id.to_owned(),
        );
        // What is stored may be large, and reading it again belongs on a thread that may block.
        let cached = tokio::task::spawn_blocking(move || known.image(&image, &blobs))
            .await
            .ok()
            .flatten();
        if let Some(split) = cached {
            return Ok(split);
        }
        let archive = self
            .docker
            .export_image(id)
            .map_err(|e| io::Error::other(engine::message(&e)));
        let told = |bytes| (self.progress)(PackEvent::Saved { image: &key, bytes });
        let split = split_stream(archive, store, cache, &told)
            .await
            .map_err(|error| PackError::Split {
                container: key.clone(),
                error,
            })?;
        cache.add_image(id, &split);
        Ok(split)
    }
}

/// Takes apart a saved image that arrives as a stream. `progress` hears of bytes of layers, in large steps.
///
/// # Errors
/// [`SplitError`].
pub async fn split_stream(
    archive: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    store: &BlobStore,
    cache: &mut Cache,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Split, SplitError> {
    let archive = SyncIoBridge::new(StreamReader::new(archive));
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let (store, mut known) = (store.clone(), std::mem::take(cache));
    // Hashing and compressing would hold up every other task of this thread.
    let work = tokio::task::spawn_blocking(move || {
        let mut unsaid = 0;
        let split = split::split(archive, &store, &mut known, &mut |bytes| {
            unsaid += bytes;
            if unsaid >= EVENT_BYTES {
                told.send(std::mem::take(&mut unsaid)).unwrap_or_default();
            }
        });
        told.send(unsaid).unwrap_or_default();
        (split, known)
    });
    while let Some(bytes) = tell.recv().await {
        progress(bytes);
    }
    let (split, known) = work.await.map_err(io::Error::other)?;
    *cache = known;
    split
}

/// An event for every read would cost more than reading.
const EVENT_BYTES: u64 = 8 * 1024 * 1024;

/// Takes the names of the previous pack from its images, so that `docker image prune` can collect them; their layers stay
/// as the cache of the next build.
async fn untag(docker: &Docker, previous: &Manifest, current: &Manifest) {
    let kept: Vec<_> = current.images.values().map(|i| &i.reference).collect();
    for reference in previous
        .images
        .values()
        .map(|i| &i.reference)
        .filter(|r| !kept.contains(r))
    {
        let removal = RemoveImageOptions {
            force: false,
            noprune: true,
            ..Default::default()
        };
        if let Err(error) = docker.remove_image(reference, Some(removal), None).await {
            tracing::debug!(reference, %error, "the previous pack's image keeps its name");
        }
    }
}

fn engine_error(wanted: &Wanted, doing: &'static str, error: &bollard::errors::Error) -> PackError {
    PackError::Engine {
        container: wanted.key.clone(),
        doing,
        message: engine::message(error),
    }
}

/// Copies the user's templates into `out`, named by their content, and points the configuration there, so that later
/// phases need no checkout (D-PACK-14).
fn copy_stack_definitions(config: &mut Config, root: &Path, out: &Path) -> Result<(), PackError> {
    for region in config.environments.iter_mut().flat_map(|e| &mut e.regions) {
        let Some(path) = &mut region.stack_definition_path else {
            continue;
        };
        let failed = |error| PackError::StackDefinition {
            path: path.clone(),
            error,
        };
        let bytes = fs::read(root.join(&*path)).map_err(failed)?;
        let extension = path
            .extension()
            .map(|e| format!(".{}", e.to_string_lossy()))
            .unwrap_or_default();
        let copy = out.join(format!(
            "stack-definition-{}{extension}",
            blobs::digest(&bytes).hex()
        ));
        files::write_atomically(&copy, &bytes).map_err(|error| PackError::Out {
            path: copy.clone(),
            error,
        })?;
        *path = copy.strip_prefix(root).unwrap_or(&copy).to_owned();
    }
    Ok(())
}
