//! What a pack leaves in `.porter-tmp`, and how later phases read it: never without comparing digests (D-CFG-8).
//!
//! | file | content |
//! |---|---|
//! | `payload.json` | schema version and digests; written last, removed first |
//! | `config.yaml` | the resolved configuration |
//! | `payload/manifest.json` | the manifest; its SHA-256 is the payload digest |
//! | `payload/blobs/sha256/` | the blobs |
//! | `payload/index.json`, `payload/oci-layout` | the same as an OCI image layout |
//! | `payload/cache.json` | what need not be compressed again |

use super::images::Summary;
use crate::{
    config::model::Config,
    files,
    payload::{
        self,
        blobs::{self, BlobStore},
    },
};
use contract::{
    digest::Digest,
    manifest::{self, Manifest},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The layout of `.porter-tmp` that this version writes and reads.
const SCHEMA: u32 = 1;

/// A packed payload on the build host.
#[derive(Clone, Debug)]
pub struct Packed {
    /// `.porter-tmp`.
    pub out: PathBuf,
    /// What the hosts receive.
    pub manifest: Manifest,
    /// The payload digest.
    pub payload: Digest,
    /// The manifest's length in bytes.
    pub manifest_size: u64,
    /// One line for each image; as of the pack, also when read later.
    pub summary: Vec<Summary>,
}

/// `payload.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    /// Version of the porter that packed.
    porter: String,
    service: String,
    version: String,
    /// Digest of `payload/manifest.json`: the payload digest.
    payload: Digest,
    /// Digest of `config.yaml`.
    config: Digest,
    summary: Vec<Summary>,
}

/// Why a later phase can't use what lies in `.porter-tmp`.
#[derive(Debug, thiserror::Error)]
pub enum NotPacked {
    /// Nothing was packed, or the last pack failed.
    #[error("{} can't be read: {error}; run `porter build pack` first", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another version of porter packed it.
    #[error(
        "{} was packed by porter {by} with schema {found}; this is porter {} with schema {SCHEMA}: pack and provision with the same version",
        out.display(),
        env!("CARGO_PKG_VERSION")
    )]
    Schema {
        /// `.porter-tmp`.
        out: PathBuf,
        /// Version of the other porter.
        by: String,
        /// Its schema.
        found: u32,
    },
    /// Files do not belong together.
    #[error("{} has digest {found}, the pack recorded {expected}; it was changed afterwards: run `porter build pack` again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: Digest,
        /// What it had.
        expected: Digest,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {problem}; run `porter build pack` again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Packed {
    /// Reads what the last pack left (D-CFG-8). Blobs are looked up here and verified when they are uploaded.
    ///
    /// # Errors
    /// [`NotPacked`].
    pub fn open(out: &Path) -> Result<Self, NotPacked> {
        let path = out.join("payload.json");
        let bytes = read(&path)?;
        let damaged = |path: &Path, problem: String| NotPacked::Damaged {
            path: path.to_owned(),
            problem,
        };
        // Only the schema number has its place in every version.
        let raw: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e.to_string()))?;
        let found = raw["schema"]
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0);
        if found != SCHEMA {
            let by = raw["porter"].as_str().unwrap_or("?").to_owned();
            return Err(NotPacked::Schema {
                out: out.to_owned(),
                by,
                found,
            });
        }
        let record: Record =
            serde_json::from_value(raw).map_err(|e| damaged(&path, e.to_string()))?;
        expect(&out.join("config.yaml"), &record.config)?;
        let path = manifest_path(out);
        let bytes = expect(&path, &record.payload)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e.to_string()))?;
        if manifest.v != manifest::FORMAT {
            return Err(damaged(
                &path,
                format!(
                    "it has format {}, this porter reads {}",
                    manifest.v,
                    manifest::FORMAT
                ),
            ));
        }
        let packed = Self {
            out: out.to_owned(),
            manifest,
            payload: record.payload,
            manifest_size: bytes.len() as u64,
            summary: record.summary,
        };
        let store = packed.blobs();
        for blob in packed.manifest.blobs() {
            let path = store.path(&blob.digest);
            let found = fs::metadata(&path)
                .map_err(|error| NotPacked::Missing {
                    path: path.clone(),
                    error,
                })?
                .len();
            if found != blob.size {
                return Err(damaged(
                    &path,
                    format!("it has {found} bytes instead of {}", blob.size),
                ));
            }
        }
        Ok(packed)
    }

    /// The resolved configuration that was packed (D-CFG-7).
    ///
    /// # Errors
    /// [`NotPacked`].
    pub fn config(&self) -> Result<Config, NotPacked> {
        let path = self.out.join("config.yaml");
        let bytes = expect(&path, &self.manifest.config.digest)?;
        serde_yaml::from_slice(&bytes).map_err(|e| NotPacked::Damaged {
            path,
            problem: e.to_string(),
        })
    }

    /// Its blobs.
    pub fn blobs(&self) -> BlobStore {
        BlobStore::below(&payload::folder(&self.out))
    }

    /// The file whose bytes the payload digest names.
    pub fn manifest_path(&self) -> PathBuf {
        manifest_path(&self.out)
    }
}

fn manifest_path(out: &Path) -> PathBuf {
    payload::folder(out).join("manifest.json")
}

fn read(path: &Path) -> Result<Vec<u8>, NotPacked> {
    fs::read(path).map_err(|error| NotPacked::Missing {
        path: path.to_owned(),
        error,
    })
}

fn expect(path: &Path, expected: &Digest) -> Result<Vec<u8>, NotPacked> {
    let bytes = read(path)?;
    let found = blobs::digest(&bytes);
    if found == *expected {
        Ok(bytes)
    } else {
        Err(NotPacked::Changed {
            path: path.to_owned(),
            found,
            expected: expected.clone(),
        })
    }
}

/// Makes the last payload unusable before a new one is begun, and returns its manifest for comparison.
///
/// # Errors
/// The record of the last payload can't be removed.
pub fn forget(out: &Path) -> io::Result<Option<Manifest>> {
    match fs::remove_file(out.join("payload.json")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(fs::read(manifest_path(out))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes manifest and record, the record last.
pub(super) fn save(out: &Path, manifest: Manifest, summary: Vec<Summary>) -> io::Result<Packed> {
    let bytes = manifest.to_bytes();
    let payload = blobs::digest(&bytes);
    files::write_atomically(&manifest_path(out), &bytes)?;
    let record = Record {
        schema: SCHEMA,
        porter: env!("CARGO_PKG_VERSION").into(),
        service: manifest.service.clone(),
        version: manifest.version.clone(),
        payload: payload.clone(),
        config: manifest.config.digest.clone(),
        summary: summary.clone(),
    };
    files::write_atomically(
        &out.join("payload.json"),
        &serde_json::to_vec_pretty(&record).map_err(io::Error::other)?,
    )?;
    Ok(Packed {
        out: out.to_owned(),
        manifest,
        payload,
        manifest_size: bytes.len() as u64,
        summary,
    })
}
