//! Takes a saved image apart while it streams out of the engine: every layer is normalised, hashed and compressed on the
//! way to its blob, so that memory does not depend on the image's size (D-PAY-7).
//!
//! Both layouts of `docker save` are understood: the classic one (`<id>/layer.tar`, Docker up to 24, Podman) and the OCI
//! one (`blobs/sha256/<hex>`, Docker from 25 on, with plain or compressed layers). In both, what says which file is what
//! comes after the layers; a layer is therefore recognised by its content.

use super::{cache::Cache, normalise};
use crate::payload::blobs::{self, BlobStore, BlobWriter};
use contract::{
    digest::Digest,
    manifest::{Blob, Layer},
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Read, Write},
    path::{Component, Path},
};
use tar::EntryType;

/// zstd's default: packing is as fast as the network, and better levels save little.
const LEVEL: i32 = 3;
/// For all descriptions in an archive together: a thousand times what real ones take.
const MAX_JSON: u64 = 32 * 1024 * 1024;
const HEAD: u64 = 512;

/// An image in blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The normalised image configuration.
    pub config: Blob,
    /// Base first.
    pub layers: Vec<Layer>,
}

/// Why an archive could not be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// Reading the stream, or writing a blob.
    #[error("the image stream could not be read or stored: {0}")]
    Io(#[from] io::Error),
    /// A layer is damaged.
    #[error("layer `{name}` can't be read: {error}")]
    Layer {
        /// Its name in the archive.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The archive is not an image.
    #[error("what the engine saved is not an image that porter understands: {0}")]
    Layout(String),
}

/// Reads the archive of one image to its end. `progress` hears of bytes of layers as they are read.
///
/// # Errors
/// [`SplitError`]; blobs that were finished stay, unfinished ones leave nothing.
pub fn split(
    archive: impl Read,
    store: &BlobStore,
    cache: &mut Cache,
    progress: &mut dyn FnMut(u64),
) -> Result<Split, SplitError> {
    let mut found = Found::default();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = clean(&entry.path()?);
        match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default();
                let base = match entry.header().entry_type() {
                    EntryType::Symlink => Path::new(&name)
                        .parent()
                        .unwrap_or(Path::new(""))
                        .to_owned(),
                    _ => Path::new("").to_owned(),
                };
                found.links.insert(name, clean(&base.join(target)));
            }
            EntryType::Regular | EntryType::Continuous => {
                let mut head = Vec::new();
                (&mut entry).take(HEAD).read_to_end(&mut head)?;
                if normalise::is_tar(&head) || Packing::of(&head) != Packing::None {
                    let layer = match cache.layer(&name, store) {
                        Some(layer) => layer,
                        None => {
                            let layer = store_layer(head, &mut entry, store, progress).map_err(
                                |error| SplitError::Layer {
                                    name: name.clone(),
                                    error,
                                },
                            )?;
                            cache.add_layer(&name, &layer);
                            layer
                        }
                    };
                    found.layers.insert(name, layer);
                } else if matches!(head.first(), Some(b'{' | b'[')) {
                    found.json_bytes += entry.size();
                    if found.json_bytes > MAX_JSON {
                        return Err(SplitError::Layout(format!(
                            "its descriptions exceed {MAX_JSON} bytes"
                        )));
                    }
                    entry.read_to_end(&mut head)?;
                    found.json.insert(name, head);
                }
            }
            _ => {}
        }
    }
    found.image(store)
}

/// What an archive held.
#[derive(Default)]
struct Found {
    layers: BTreeMap<String, Layer>,
    json: BTreeMap<String, Vec<u8>>,
    json_bytes: u64,
    links: BTreeMap<String, String>,
}

/// An entry of the classic `manifest.json`, which engines with the OCI layout write as well.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

impl Found {
    fn image(&self, store: &BlobStore) -> Result<Split, SplitError> {
        let saved = self.description()?;
        let layers = saved
            .layers
            .iter()
            .map(|name| {
                let name = clean(Path::new(name));
                let layer = self
                    .layers
                    .get(&name)
                    .or_else(|| self.layers.get(self.links.get(&name)?));
                layer
                    .cloned()
                    .ok_or_else(|| SplitError::Layout(format!("layer `{name}` is missing")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let config = self.json(&saved.config)?;
        let named = serde_json::from_slice::<Value>(config)
            .ok()
            .and_then(|c| Some(c.get("rootfs")?.get("diff_ids")?.as_array()?.len()));
        if named != Some(layers.len()) {
            return Err(SplitError::Layout(format!(
                "its configuration names {named:?} layers, the archive {}",
                layers.len()
            )));
        }
        let diff_ids: Vec<String> = layers.iter().map(|l| l.diff_id.to_string()).collect();
        let config = normalise::config(config, &diff_ids).ok_or_else(|| {
            SplitError::Layout(format!("`{}` is not an image configuration", saved.config))
        })?;
        Ok(Split {
            config: store.add(&config)?,
            layers,
        })
    }

    fn json(&self, name: &str) -> Result<&[u8], SplitError> {
        let name = clean(Path::new(name));
        let bytes = self
            .json
            .get(&name)
            .or_else(|| self.json.get(self.links.get(&name)?));
        bytes
            .map(Vec::as_slice)
            .ok_or_else(|| SplitError::Layout(format!("`{name}` is missing")))
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<T, SplitError> {
        serde_json::from_slice(self.json(name)?)
            .map_err(|e| SplitError::Layout(format!("`{name}`: {e}")))
    }

    fn description(&self) -> Result<Saved, SplitError> {
        if self.json.contains_key("manifest.json") {
            let mut all: Vec<Saved> = self.parse("manifest.json")?;
            return match (all.pop(), all.len()) {
                (Some(saved), 0) => Ok(saved),
                (_, n) => Err(SplitError::Layout(format!(
                    "expected one image, found {}",
                    n + 1
                ))),
            };
        }
        // A pure OCI layout: an index of manifests or of further indexes.
        let mut value: Value = self.parse("index.json")?;
        let mut name = "index.json".to_owned();
        while let Some(manifests) = value.get("manifests").and_then(Value::as_array) {
            // Attestations stand beside the image as manifests of an unknown platform.
            let image = manifests.iter().find(|m| m["platform"]["os"] != "unknown");
            name = image
                .and_then(|m| oci_path(&m["digest"]))
                .ok_or_else(|| SplitError::Layout(format!("`{name}` names no image")))?;
            value = self.parse(&name)?;
        }
        let layers = value["layers"]
            .as_array()
            .and_then(|all| all.iter().map(|l| oci_path(&l["digest"])).collect());
        match (oci_path(&value["config"]["digest"]), layers) {
            (Some(config), Some(layers)) => Ok(Saved { config, layers }),
            _ => Err(SplitError::Layout(format!(
                "`{name}` is not an image manifest"
            ))),
        }
    }
}

fn oci_path(digest: &Value) -> Option<String> {
    Some(format!("blobs/{}", digest.as_str()?.replacen(':', "/", 1)))
}

/// `./a/../b` → `b`. Names are only compared, never opened.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// How the engine has compressed a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn store_layer(
    head: Vec<u8>,
    rest: impl Read,
    store: &BlobStore,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Layer> {
    let packing = Packing::of(&head);
    let raw = Watched {
        inner: io::Cursor::new(head).chain(rest),
        progress,
    };
    match packing {
        Packing::None => compress(raw, store),
        Packing::Gzip => compress(flate2::read::MultiGzDecoder::new(raw), store),
        Packing::Zstd => compress(zstd::Decoder::new(raw)?, store),
    }
}

fn compress(tar: impl Read, store: &BlobStore) -> io::Result<Layer> {
    let encoder = zstd::Encoder::new(store.writer()?, LEVEL)?;
    // Headers are written block by block; the hash and the encoder get them together with what follows.
    let mut out = BufWriter::with_capacity(
        blobs::CHUNK,
        Hashed {
            hash: Sha256::new(),
            encoder,
        },
    );
    let unpacked = normalise::layer(tar, &mut out)?;
    let Hashed { hash, encoder } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let blob = encoder.finish()?.finish()?;
    Ok(Layer {
        diff_id: Digest::from_bytes(&hash.finalize().into()),
        unpacked,
        blob,
    })
}

struct Hashed {
    hash: Sha256,
    encoder: zstd::Encoder<'static, BlobWriter>,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.encoder.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Tells how far a large layer is.
struct Watched<'a, R> {
    inner: R,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        (self.progress)(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use serde_json::json;

    struct Archive(tar::Builder<Vec<u8>>);

    impl Archive {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn file(&mut self, name: &str, bytes: &[u8]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            self.0.append_data(&mut header, name, bytes).unwrap();
        }

        /// As the OCI layout names blobs.
        fn blob(&mut self, bytes: &[u8]) -> Value {
            let digest = blobs::digest(bytes);
            self.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
            json!({"digest": digest, "size": bytes.len()})
        }

        fn link(&mut self, name: &str, target: &str) {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            self.0.append_link(&mut header, name, target).unwrap();
        }

        fn finish(self) -> Vec<u8> {
            self.0.into_inner().unwrap()
        }
    }

    fn layer(content: &str) -> Vec<u8> {
        let mut layer = Archive::new();
        layer.file("etc/content", content.as_bytes());
        layer.finish()
    }

    /// An image of three layers, the last one the same as the first.
    fn image_config() -> Vec<u8> {
        let ids: Vec<_> = ["one", "two", "one"]
            .iter()
            .map(|c| blobs::digest(&layer(c)))
            .collect();
        json!({"architecture": "amd64", "os": "linux", "config": {}, "created": "2026-01-01T00:00:00Z", "history": [],
               "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string()
        .into_bytes()
    }

    fn classic() -> Vec<u8> {
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let mut archive = Archive::new();
        archive.file(&format!("{a}/VERSION"), b"1.0");
        archive.file(&format!("{a}/json"), b"{}");
        archive.file(&format!("{a}/layer.tar"), &layer("one"));
        archive.file(&format!("{b}/layer.tar"), &layer("two"));
        archive.link(&format!("{c}/layer.tar"), &format!("../{a}/layer.tar"));
        archive.file("config.json", &image_config());
        let layers = [a, b, c].map(|id| format!("{id}/layer.tar"));
        archive.file(
            "manifest.json",
            json!([{"Config": "config.json", "RepoTags": null, "Layers": layers}])
                .to_string()
                .as_bytes(),
        );
        archive.finish()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn oci(pack: fn(&[u8]) -> Vec<u8>, with_docker_manifest: bool) -> Vec<u8> {
        let mut archive = Archive::new();
        let layers = ["one", "two"].map(|c| archive.blob(&pack(&layer(c))));
        let layers = [&layers[0], &layers[1], &layers[0]];
        let config = archive.blob(&image_config());
        let manifest = archive.blob(
            json!({"schemaVersion": 2, "config": config, "layers": layers})
                .to_string()
                .as_bytes(),
        );
        let attestation = json!({"digest": format!("sha256:{}", "0".repeat(64)), "platform": {"os": "unknown", "architecture": "unknown"}});
        let inner = archive.blob(
            json!({"schemaVersion": 2, "manifests": [attestation, manifest]})
                .to_string()
                .as_bytes(),
        );
        archive.file(
            "index.json",
            json!({"schemaVersion": 2, "manifests": [inner]})
                .to_string()
                .as_bytes(),
        );
        if with_docker_manifest {
            let path = |d: &Value| oci_path(&d["digest"]).unwrap();
            let layers: Vec<_> = layers.into_iter().map(path).collect();
            archive.file(
                "manifest.json",
                json!([{"Config": path(&config), "RepoTags": null, "Layers": layers}])
                    .to_string()
                    .as_bytes(),
            );
        }
        archive.finish()
    }

    fn take_apart(archive: &[u8]) -> (tempfile::TempDir, Result<Split, SplitError>) {
        let folder = tempfile::tempdir().unwrap();
        let split = split(
            archive,
            &BlobStore::below(folder.path()),
            &mut Cache::read(folder.path()),
            &mut |_| {},
        );
        (folder, split)
    }

    #[test]
    fn every_layout_of_an_image_gives_the_same_blobs() {
        let (folder, expected) = take_apart(&classic());
        let expected = expected.unwrap();
        let store = BlobStore::below(folder.path());
        for (found, content) in expected.layers.iter().zip(["one", "two", "one"]) {
            store.verify(&found.blob).unwrap();
            let tar =
                zstd::decode_all(std::fs::File::open(store.path(&found.blob.digest)).unwrap())
                    .unwrap();
            assert_eq!(blobs::digest(&tar), found.diff_id);
            assert!(String::from_utf8_lossy(&tar).contains(content));
        }
        let config: Value =
            serde_json::from_slice(&std::fs::read(store.path(&expected.config.digest)).unwrap())
                .unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!(
                expected
                    .layers
                    .iter()
                    .map(|l| &l.diff_id)
                    .collect::<Vec<_>>()
            )
        );
        for (what, archive) in [
            ("docker 25", oci(<[u8]>::to_vec, true)),
            ("containerd", oci(gzip, true)),
            ("pure OCI", oci(gzip, false)),
            ("zstd", oci(|b| zstd::encode_all(b, 1).unwrap(), false)),
        ] {
            assert_eq!(take_apart(&archive).1.unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn a_known_layer_is_not_compressed_again_unless_its_blob_was_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut cache) = (BlobStore::below(folder.path()), Cache::read(folder.path()));
        let mut read = 0;
        let first = split(&classic()[..], &store, &mut cache, &mut |n| read += n).unwrap();
        assert!(read > 0);
        let keep: Vec<_> = first.layers.iter().map(|l| l.blob.digest.clone()).collect();
        cache.save(folder.path(), &keep).unwrap();
        let mut cache = Cache::read(folder.path());
        assert_eq!(
            split(&classic()[..], &store, &mut cache, &mut |_| panic!(
                "a known layer was read"
            ))
            .unwrap(),
            first
        );
        // D-PAY-8: a file is never trusted because it exists.
        std::fs::write(store.path(&first.layers[0].blob.digest), "damaged").unwrap();
        assert_eq!(
            split(&classic()[..], &store, &mut cache, &mut |_| {}).unwrap(),
            first
        );
        store.verify(&first.layers[0].blob).unwrap();
    }

    #[test]
    fn what_is_no_image_is_an_error_that_says_what_is_missing() {
        let mut without = Archive::new();
        without.file("config.json", &image_config());
        without.file(
            "manifest.json",
            br#"[{"Config": "config.json", "Layers": ["x/layer.tar"]}]"#,
        );
        let cases = [
            (Archive::new().finish(), "`index.json` is missing"),
            (without.finish(), "layer `x/layer.tar` is missing"),
            (classic()[..9000].to_vec(), ""),
        ];
        for (archive, expected) in cases {
            let error = take_apart(&archive).1.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
