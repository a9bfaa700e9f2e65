//! Brings a payload to a region's bucket: what is there is left alone, what is missing is verified and uploaded, the
//! manifest comes last, so that a manifest in the bucket means that all its blobs are there too (D-PAY-3, D-PAY-5).

use super::blobs::{self, BadBlob, BlobStore};
use crate::pack::Packed;
use contract::{digest::Digest, manifest::Blob, names};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// Uploads and look-ups that run at the same time, for each region.
const CONCURRENCY: usize = 4;

/// Below this size S3 charges the infrequent-access class as if the object were this large (D-PAY-15).
const SMALL: u64 = 128 * 1024;

/// One object to upload, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Key in the bucket.
    pub key: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// What its bytes are.
    pub blob: Blob,
    /// `Content-Type`.
    pub content_type: &'static str,
}

impl Object {
    /// Storage class STANDARD_IA is cheaper for this object; otherwise the standard class is (D-PAY-15).
    pub fn infrequent_access(&self) -> bool {
        self.blob.size >= SMALL
    }
}

/// The size of an object, once the bucket has answered.
pub type SizeOf = BoxFuture<'static, anyhow::Result<Option<u64>>>;

/// The two things that an upload asks of a bucket. The one place where the payload meets the SDK.
pub struct Bucket {
    /// Size of the object with that key, `None` for a 404, an error for anything else (D-PAY-3).
    pub size: Box<dyn Fn(&str) -> SizeOf + Send + Sync>,
    /// Streams the file to the key.
    pub put: Box<dyn Fn(Object) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

/// What an upload did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes of objects that were missing.
    pub bytes: u64,
    /// Their number.
    pub objects: usize,
    /// Bytes of objects that were already there.
    pub skipped_bytes: u64,
    /// Their number.
    pub skipped_objects: usize,
}

/// Why a payload did not reach the bucket. Nothing that hosts use has changed then.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The look-up failed.
    #[error("{key}: the bucket did not say whether it has this object: {error:#}")]
    Lookup {
        /// The object.
        key: String,
        /// Why.
        error: anyhow::Error,
    },
    /// The upload failed.
    #[error("{key} was not uploaded: {error:#}")]
    Put {
        /// The object.
        key: String,
        /// Why.
        error: anyhow::Error,
    },
    /// The local file is not what was packed.
    #[error("{0}; run `porter build pack` again")]
    BadBlob(#[from] BadBlob),
    /// The host agent's binary can't be read.
    #[error("the host agent {} can't be read: {error}", path.display())]
    NoAgent {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The objects of a payload that a bucket lacks, the manifest always last, and what is already there (D-PAY-3).
///
/// # Errors
/// A look-up that did not answer.
pub async fn plan(
    packed: &Packed,
    bucket: &Bucket,
) -> Result<(Vec<Object>, Uploaded), UploadError> {
    let looked_up: Vec<(Object, bool)> = stream::iter(objects(packed))
        .map(|object| async move {
            let there = is_there(&object, bucket).await?;
            Ok::<_, UploadError>((object, there))
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut done = Uploaded::default();
    let mut missing = Vec::new();
    for (object, there) in looked_up {
        if there {
            done.skipped_objects += 1;
            done.skipped_bytes += object.blob.size;
        } else {
            missing.push(object);
        }
    }
    Ok((missing, done))
}

/// Uploads what is missing (D-PAY-5). `progress` hears of each object that has arrived, by its size.
///
/// # Errors
/// The first that occurred; uploads that had begun are dropped. Repeating continues where this ended.
pub async fn upload(
    packed: &Packed,
    bucket: &Bucket,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Uploaded, UploadError> {
    let (mut missing, mut done) = plan(packed, bucket).await?;
    let manifest_key = names::manifest_key(&packed.manifest.service, &packed.payload);
    let manifest = missing.pop_if(|last| last.key == manifest_key);
    stream::iter(missing.iter())
        .map(|o| put(o, bucket, progress))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    if let Some(manifest) = &manifest {
        put(manifest, bucket, progress).await?;
    }
    for object in missing.iter().chain(&manifest) {
        done.objects += 1;
        done.bytes += object.blob.size;
    }
    Ok(done)
}

/// Uploads the host agent's binary when the bucket lacks it, and returns its digest, which the template pins
/// (D-SEC-26).
///
/// # Errors
/// [`UploadError`].
pub async fn upload_agent(
    service: &str,
    agent: &Path,
    bucket: &Bucket,
) -> Result<(Digest, Uploaded), UploadError> {
    let path = agent.to_owned();
    let (digest, size) = off_the_runtime(move || File::open(&path).and_then(blobs::hash))
        .await
        .map_err(|error| UploadError::NoAgent {
            path: agent.to_owned(),
            error,
        })?;
    let object = Object {
        key: names::agent_key(service, &digest),
        path: agent.to_owned(),
        blob: Blob {
            digest: digest.clone(),
            size,
        },
        content_type: "application/octet-stream",
    };
    if is_there(&object, bucket).await? {
        return Ok((
            digest,
            Uploaded {
                skipped_bytes: size,
                skipped_objects: 1,
                ..Uploaded::default()
            },
        ));
    }
    // A binary that is replaced between the two readings is refused by every host: its bytes are pinned by digest.
    (bucket.put)(object.clone())
        .await
        .map_err(|error| UploadError::Put {
            key: object.key,
            error,
        })?;
    Ok((
        digest,
        Uploaded {
            bytes: size,
            objects: 1,
            ..Uploaded::default()
        },
    ))
}

/// Every object of a payload, the manifest last.
fn objects(packed: &Packed) -> Vec<Object> {
    let store = packed.blobs();
    let mut all: Vec<Object> = packed
        .manifest
        .blobs()
        .into_iter()
        .map(|blob| Object {
            key: names::blob_key(&packed.manifest.service, &blob.digest),
            path: store.path(&blob.digest),
            blob: blob.clone(),
            content_type: "application/octet-stream",
        })
        .collect();
    all.push(Object {
        key: names::manifest_key(&packed.manifest.service, &packed.payload),
        path: packed.manifest_path(),
        blob: Blob {
            digest: packed.payload.clone(),
            size: packed.manifest_size,
        },
        content_type: "application/json",
    });
    all
}

/// An object of another size is the rest of something else and is uploaded again; S3 itself never shows a part of one.
async fn is_there(object: &Object, bucket: &Bucket) -> Result<bool, UploadError> {
    let size = (bucket.size)(&object.key)
        .await
        .map_err(|error| UploadError::Lookup {
            key: object.key.clone(),
            error,
        })?;
    Ok(size == Some(object.blob.size))
}

/// Verifies the file as a whole, then streams it (D-PAY-8).
async fn put(
    object: &Object,
    bucket: &Bucket,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), UploadError> {
    let (path, blob) = (object.path.clone(), object.blob.clone());
    off_the_runtime(move || BlobStore::verify_file(&path, &blob)).await?;
    (bucket.put)(object.clone())
        .await
        .map_err(|error| UploadError::Put {
            key: object.key.clone(),
            error,
        })?;
    progress(object.blob.size);
    Ok(())
}

/// Runs work that reads whole files where it does not hold up other tasks.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // Blocking tasks are not cancelled while the runtime lives, so the work itself has panicked: pass that on.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload;
    use contract::manifest::{self, Image, Layer, Manifest};
    use futures::FutureExt;
    use std::{
        collections::BTreeMap,
        fs,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// A payload of one image with two layers.
    fn packed(out: &Path) -> Packed {
        let store = BlobStore::below(&payload::folder(out));
        let layer = |content: &[u8]| {
            let blob = store.add(content).unwrap();
            Layer {
                diff_id: blob.digest.clone(),
                unpacked: blob.size,
                blob,
            }
        };
        let image = Image {
            reference: "s3/s3:x".into(),
            platform: "linux/amd64".into(),
            config: store.add(b"{}").unwrap(),
            layers: vec![layer(b"base"), layer(b"top")],
        };
        let manifest = Manifest {
            v: manifest::FORMAT,
            service: "hello".into(),
            version: "abc1234".into(),
            config: store.add(b"config").unwrap(),
            images: BTreeMap::from([("web".into(), image)]),
            hosts: BTreeMap::new(),
        };
        let bytes = manifest.to_bytes();
        let path = payload::folder(out).join("manifest.json");
        fs::write(&path, &bytes).unwrap();
        Packed {
            out: out.to_owned(),
            manifest,
            payload: blobs::digest(&bytes),
            manifest_size: bytes.len() as u64,
            summary: vec![],
        }
    }

    type Contents = Arc<Mutex<Vec<(String, u64)>>>;

    /// A bucket that remembers what is put, and refuses keys that contain `refuse`.
    fn bucket(contents: &Contents, refuse: Option<&'static str>) -> Bucket {
        let (seen, held) = (contents.clone(), contents.clone());
        let size = move |key: &str| {
            let held = seen.lock().unwrap();
            let found = held.iter().find(|(k, _)| k == key).map(|(_, size)| *size);
            async move { Ok(found) }.boxed()
        };
        let put = move |object: Object| {
            let held = held.clone();
            async move {
                anyhow::ensure!(
                    !refuse.is_some_and(|part| object.key.contains(part)),
                    "AccessDenied"
                );
                let size = fs::metadata(object.path)?.len();
                held.lock().unwrap().push((object.key, size));
                Ok(())
            }
            .boxed()
        };
        Bucket {
            size: Box::new(size),
            put: Box::new(put),
        }
    }

    #[tokio::test]
    async fn d_pay_3_5_only_what_is_missing_is_uploaded_and_the_manifest_comes_last() {
        let out = tempfile::tempdir().unwrap();
        let packed = packed(out.path());
        let contents = Contents::default();
        let told = AtomicU64::new(0);
        let tell = |n| {
            told.fetch_add(n, Ordering::Relaxed);
        };
        let first = upload(&packed, &bucket(&contents, None), &tell)
            .await
            .unwrap();
        // D-PAY-5: config, image config, two layers, manifest.
        assert_eq!((first.objects, first.skipped_objects), (5, 0));
        assert_eq!(first.bytes, told.load(Ordering::Relaxed));
        assert_eq!(
            contents.lock().unwrap().last().unwrap().0,
            names::manifest_key("hello", &packed.payload)
        );

        let again = upload(&packed, &bucket(&contents, None), &tell)
            .await
            .unwrap();
        assert_eq!(
            (
                again.objects,
                again.bytes,
                again.skipped_objects,
                again.skipped_bytes
            ),
            (0, 0, 5, first.bytes)
        ); // D-PAY-3

        // An object of another size is not the object.
        contents.lock().unwrap()[0].1 = 0;
        let repaired = upload(&packed, &bucket(&contents, None), &tell)
            .await
            .unwrap();
        assert_eq!(repaired.objects, 1);
    }

    #[tokio::test]
    async fn d_pay_8_a_blob_that_was_changed_since_the_pack_is_not_uploaded_and_neither_is_the_manifest()
     {
        let out = tempfile::tempdir().unwrap();
        let packed = packed(out.path());
        let bad = &packed.manifest.images["web"].layers[1].blob;
        fs::write(packed.blobs().path(&bad.digest), "pot").unwrap();
        let contents = Contents::default();
        let error = upload(&packed, &bucket(&contents, None), &|_| {})
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(bad.digest.as_str()) && error.contains("run `porter build pack` again"),
            "D-PAY-8: {error}"
        );
        let manifest = names::manifest_key("hello", &packed.payload);
        assert!(
            contents
                .lock()
                .unwrap()
                .iter()
                .all(|(key, _)| *key != manifest && *key != names::blob_key("hello", &bad.digest))
        );
    }

    #[tokio::test]
    async fn an_upload_that_fails_names_the_object_and_repeating_it_continues() {
        let out = tempfile::tempdir().unwrap();
        let packed = packed(out.path());
        let contents = Contents::default();
        let error = upload(&packed, &bucket(&contents, Some("manifests")), &|_| {})
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "{} was not uploaded: AccessDenied",
                names::manifest_key("hello", &packed.payload)
            )
        );
        let rest = upload(&packed, &bucket(&contents, None), &|_| {})
            .await
            .unwrap();
        assert_eq!((rest.objects, rest.skipped_objects), (1, 4));
    }

    #[tokio::test]
    async fn the_agent_is_uploaded_once_under_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("host-agent");
        fs::write(&agent, "binary").unwrap();
        let contents = Contents::default();
        for expected in [1, 0] {
            let (digest, done) = upload_agent("hello", &agent, &bucket(&contents, None))
                .await
                .unwrap();
            assert_eq!(digest, blobs::digest(b"binary"));
            assert_eq!(done.objects, expected);
            assert_eq!(
                contents.lock().unwrap()[..],
                [(names::agent_key("hello", &digest), 6)]
            );
        }
    }
}
