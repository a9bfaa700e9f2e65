//! The payload folder as an OCI image layout (D-PACK-23), so that other tools can read what porter packed, for example
//! `skopeo copy oci:.porter-tmp/payload:web docker-daemon:web:packed`. Hosts do not read these files.

use super::blobs::BlobStore;
use crate::files;
use contract::manifest::{Blob, Image, Manifest};
use serde_json::{Value, json};
use std::{io, path::Path};

/// Writes `oci-layout`, `index.json` and one image manifest for each image, and returns the image manifests' blobs.
///
/// # Errors
/// Those of the file system.
pub fn write(folder: &Path, store: &BlobStore, manifest: &Manifest) -> io::Result<Vec<Blob>> {
    let mut written = Vec::new();
    let mut index = Vec::new();
    for (name, image) in &manifest.images {
        let blob = store.add(image_manifest(image).to_string().as_bytes())?;
        let (os, architecture) = image
            .platform
            .split_once('/')
            .unwrap_or((&image.platform, ""));
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &blob);
        entry["platform"] = json!({"architecture": architecture, "os": os});
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        index.push(entry);
        written.push(blob);
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index});
    files::write_atomically(&folder.join("index.json"), index.to_string().as_bytes())?;
    files::write_atomically(
        &folder.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(written)
}

fn image_manifest(image: &Image) -> Value {
    let layers: Vec<Value> = image
        .layers
        .iter()
        .map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+zstd", &l.blob))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &image.config),
        "layers": layers,
    })
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size})
}
