//! Clean-up: what no version needs any more. Failures are warnings, tried again by the next swap (D-HOST-36).

use crate::{
    docker::{Container, Engine},
    images,
    store::Store,
};
use contract::{digest::Digest, manifest::Manifest};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

/// The payloads this host has served, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Digests; the first serves now.
    pub payloads: Vec<Digest>,
}

/// Its file.
#[derive(Clone, Debug)]
pub struct HistoryFile(PathBuf);

impl HistoryFile {
    /// `history.json` in the state directory.
    pub fn new(state: &Path) -> Self {
        Self(state.join("history.json"))
    }

    /// What was recorded; empty when nothing was, or when it can't be read: then earlier images are not kept.
    pub fn read(&self) -> History {
        let bytes = crate::files::read(&self.0)
            .ok()
            .flatten()
            .unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Records that `payload` serves now and returns the payloads whose images and blobs stay: it, and
    /// `keep_images` earlier ones (D-PAY-14).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn record(&self, payload: &Digest, keep_images: u32) -> io::Result<BTreeSet<Digest>> {
        let mut history = self.read();
        history.payloads.retain(|p| p != payload);
        history.payloads.insert(0, payload.clone());
        history
            .payloads
            .truncate(1 + usize::try_from(keep_images).unwrap_or(usize::MAX - 1));
        let bytes = serde_json::to_vec(&history).map_err(io::Error::other)?;
        crate::files::replace(&self.0, &bytes)?;
        Ok(history.payloads.into_iter().collect())
    }
}

/// Removes this host's image references that none of the payloads uses, and their blobs. Returns what did not work.
pub async fn images(
    engine: &Engine,
    store: &Store,
    instance: &str,
    keep: &BTreeSet<Digest>,
) -> Vec<String> {
    let mut wanted = BTreeSet::new();
    for payload in keep {
        if let Some(manifest) = store.cached_manifest(payload) {
            wanted.extend(references(instance, &manifest));
        }
    }
    let mut warnings = Vec::new();
    match engine.references(&images::reference_prefix(instance)).await {
        Ok(present) => {
            for reference in present.into_iter().filter(|r| !wanted.contains(r)) {
                if let Err(failure) = engine.remove_image(&reference).await {
                    warnings.push(failure.message);
                }
            }
        }
        Err(failure) => warnings.push(failure.message),
    }
    warnings.extend(store.keep_only(keep));
    warnings
}

fn references(instance: &str, manifest: &Manifest) -> Vec<String> {
    manifest
        .images
        .values()
        .map(|i| images::reference(instance, &i.config.digest))
        .collect()
}

/// Removes containers, running or not. Returns what did not work.
pub async fn containers(
    engine: &Engine,
    unwanted: impl IntoIterator<Item = &Container>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for container in unwanted {
        if let Err(failure) = engine.remove(&container.id).await {
            warnings.push(failure.message);
        }
    }
    warnings
}
