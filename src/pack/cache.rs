//! What was packed before, so that nothing unchanged is compressed again: `.porter-tmp/payload/cache.json`.
//!
//! Keys are the engine's image ids, and the names of layers in saved archives; both are digests of content. A cache that
//! is missing, damaged or of another version is empty: it can cost time, never correctness, because a blob is verified
//! before it is taken from here (D-PAY-8).

use super::split::Split;
use crate::{files, payload::blobs::BlobStore};
use contract::manifest::{Blob, Layer};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// Raised whenever the same input gives other blobs: normalisation, compression.
const RECIPE: u32 = 1;

/// Layers and images by their names in the engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cache {
    recipe: u32,
    images: BTreeMap<String, CachedImage>,
    layers: BTreeMap<String, Layer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedImage {
    config: Blob,
    layers: Vec<Layer>,
}

impl Cache {
    /// Reads the cache of a payload folder.
    pub fn read(folder: &Path) -> Self {
        let read = fs::read(folder.join("cache.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        read.filter(|c| c.recipe == RECIPE).unwrap_or(Self {
            recipe: RECIPE,
            ..Self::default()
        })
    }

    /// Writes it, without entries whose blobs are not in `keep`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&mut self, folder: &Path, keep: &[contract::digest::Digest]) -> io::Result<()> {
        self.layers
            .retain(|_, layer| keep.contains(&layer.blob.digest));
        self.images
            .retain(|_, image| keep.contains(&image.config.digest));
        files::write_atomically(
            &folder.join("cache.json"),
            &serde_json::to_vec(self).map_err(io::Error::other)?,
        )
    }

    /// The blobs of an image, when all of them are there and good.
    pub fn image(&self, id: &str, store: &BlobStore) -> Option<Split> {
        let image = self.images.get(id)?;
        let mut blobs = image.layers.iter().map(|l| &l.blob).chain([&image.config]);
        blobs.all(|b| store.verify(b).is_ok()).then(|| Split {
            config: image.config.clone(),
            layers: image.layers.clone(),
        })
    }

    /// Remembers an image.
    pub fn add_image(&mut self, id: &str, split: &Split) {
        self.images.insert(
            id.to_owned(),
            CachedImage {
                config: split.config.clone(),
                layers: split.layers.clone(),
            },
        );
    }

    /// A layer by its name in an archive, when its blob is there and good.
    pub fn layer(&self, name: &str, store: &BlobStore) -> Option<Layer> {
        self.layers
            .get(name)
            .filter(|l| store.verify(&l.blob).is_ok())
            .cloned()
    }

    /// Remembers a layer, if its name tells its content: a part of it is a digest.
    pub fn add_layer(&mut self, name: &str, layer: &Layer) {
        let is_digest =
            |part: &str| part.len() >= 64 && part.bytes().take(64).all(|b| b.is_ascii_hexdigit());
        if name.split('/').any(is_digest) {
            self.layers.insert(name.to_owned(), layer.clone());
        }
    }
}
