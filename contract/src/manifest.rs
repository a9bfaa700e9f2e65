//! The payload manifest: the one thing a template names (by digest), from which a host knows everything else.
//!
//! Format `layers` (D-PAY-5): blobs are content-addressed under one prefix of the bucket, shared by all payloads of a
//! service; the SHA-256 of the manifest's canonical JSON bytes is the *payload digest*.

use crate::{digest::Digest, spec::HostSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// An upper bound on a manifest's size in bytes, so that a host never reads an unbounded object into memory. A manifest
/// with 100 containers of 128 layers each stays below 4 MiB.
pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Everything a payload consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format number, [`FORMAT`].
    pub v: u32,
    /// `service_name` of the configuration.
    pub service: String,
    /// The service version: short commit hash, with a suffix when the work tree was dirty (D-PACK-3, D-PACK-4).
    pub version: String,
    /// The resolved configuration, for the record and for people.
    pub config: Blob,
    /// Images by the name that [`crate::spec::ContainerSpec::image`] uses.
    pub images: BTreeMap<String, Image>,
    /// What the hosts run: environment → region → specification.
    pub hosts: BTreeMap<String, BTreeMap<String, HostSpec>>,
}

/// One container image, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Repository and tag, a label for people: identity is `config.digest` (D-PACK-5, D-PACK-6).
    pub reference: String,
    /// `os/architecture`, such as `linux/amd64`.
    pub platform: String,
    /// The image configuration (JSON, stored as it is). Its digest is the image id of the classic Docker image store.
    pub config: Blob,
    /// The layers, base first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the uncompressed tar, as the image configuration's `rootfs.diff_ids` names it.
    pub diff_id: Digest,
    /// Size of the uncompressed tar in bytes.
    pub unpacked: u64,
    /// The zstd-compressed tar as it lies in the bucket.
    pub blob: Blob,
}

/// An object in the bucket: `porter-deployment/<service>/blobs/sha256/<hex>` ([`crate::names::blob_key`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Length of the stored bytes.
    pub size: u64,
}

impl Manifest {
    /// The bytes that are uploaded and whose SHA-256 is the payload digest. Deterministic: structs keep their field
    /// order and maps are sorted (D-PACK-17).
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Every blob a host needs, each once, in a stable order.
    pub fn blobs(&self) -> Vec<&Blob> {
        let mut all: BTreeMap<&Digest, &Blob> = BTreeMap::new();
        all.insert(&self.config.digest, &self.config);
        for image in self.images.values() {
            all.insert(&image.config.digest, &image.config);
            for layer in &image.layers {
                all.insert(&layer.blob.digest, &layer.blob);
            }
        }
        all.into_values().collect()
    }
}
