//! Blobs: from the bucket to disk, verified by digest at every use, bounded.
//!
//! `blobs/<hex>` holds verified blobs, `manifests/<hex>` manifests, `partial/<hex>` what has arrived of a blob so far: a
//! transfer that was interrupted resumes there by range (D-PAY-8). Nothing is trusted because it exists.

use crate::failure::Failure;
use aws_sdk_s3::{Client, error::SdkError, operation::get_object::GetObjectError};
use bytes::Bytes;
use contract::{
    digest::Digest,
    manifest::{Blob, MAX_BYTES, Manifest},
    names,
    signal::CauseCode,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// D-HOT-74: so many calls at most, waiting 2, 4, 8 … seconds between them.
const ATTEMPTS: u32 = 7;

/// The bucket that holds the service's payloads.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
}

/// Why a piece of a transfer ended early.
enum Interrupted {
    /// Not worth repeating.
    Fatal(Failure),
    /// The network or the bucket: repeat from where it stopped.
    Transient(String),
}

impl Bucket {
    /// Endpoint, region and credentials come from the SDK's chain.
    pub fn new(config: &aws_config::SdkConfig) -> Self {
        let own_endpoint = std::env::var_os("AWS_ENDPOINT_URL").is_some();
        let config = aws_sdk_s3::config::Builder::from(config)
            // An endpoint without wildcard names needs the bucket in the path.
            .force_path_style(own_endpoint)
            // Every blob is verified by its SHA-256 anyway, and a range has no checksum of its own.
            .response_checksum_validation(
                aws_sdk_s3::config::ResponseChecksumValidation::WhenRequired,
            )
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// Streams the object's bytes from `offset` on into `sink`.
    async fn read(
        &self,
        bucket: &str,
        key: &str,
        offset: u64,
        mut sink: impl FnMut(Bytes) -> Result<(), Failure>,
    ) -> Result<(), Interrupted> {
        let mut request = self.client.get_object().bucket(bucket).key(key);
        if offset > 0 {
            request = request.range(format!("bytes={offset}-"));
        }
        let answer = request.send().await.map_err(|e| {
            let status = e.raw_response().map(|r| r.status().as_u16());
            let missing = matches!(&e, SdkError::ServiceError(s) if matches!(s.err(), GetObjectError::NoSuchKey(_)));
            let message = format!("s3://{bucket}/{key} can't be read: {}", crate::aws_error(&e));
            match status {
                _ if missing => Interrupted::Fatal(Failure::new(CauseCode::PayloadMissing, message)),
                Some(404) => Interrupted::Fatal(Failure::new(CauseCode::PayloadMissing, message)),
                Some(403) => Interrupted::Fatal(Failure::new(
                    CauseCode::PayloadMissing,
                    format!("{message}. The instance role needs s3:GetObject, and s3:ListBucket to tell a missing object from a forbidden one"),
                )),
                // A range that begins beyond the object's end: it is shorter than what an earlier attempt has read.
                Some(416) => Interrupted::Fatal(Failure::new(CauseCode::DigestMismatch, message)),
                _ => Interrupted::Transient(message),
            }
        })?;
        let mut body = answer.body;
        loop {
            match body.try_next().await {
                Ok(Some(piece)) => sink(piece).map_err(Interrupted::Fatal)?,
                Ok(None) => return Ok(()),
                Err(e) => {
                    return Err(Interrupted::Transient(format!(
                        "s3://{bucket}/{key} broke off: {e}"
                    )));
                }
            }
        }
    }
}

/// The cache on this host's disk.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Below the state directory; creates its folders.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        for name in ["blobs", "partial", "manifests"] {
            let folder = state.join(name);
            fs::create_dir_all(&folder)
                .map_err(|e| Failure::file("creating the folder", &folder, &e))?;
        }
        Ok(Self {
            folder: state.to_owned(),
        })
    }

    /// Where a verified blob lies.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.hex())
    }

    fn manifest_path(&self, payload: &Digest) -> PathBuf {
        self.folder.join("manifests").join(payload.hex())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder.join("partial").join(digest.hex())
    }

    /// The manifest of a payload: from disk when it is there and whole, else from the bucket.
    ///
    /// # Errors
    /// [`CauseCode::PayloadMissing`], [`CauseCode::DigestMismatch`], [`CauseCode::DiskFull`].
    pub async fn manifest(
        &self,
        from: &Bucket,
        bucket: &str,
        service: &str,
        payload: &Digest,
    ) -> Result<Manifest, Failure> {
        if let Some(manifest) = self.cached_manifest(payload) {
            return Ok(manifest);
        }
        let key = names::manifest_key(service, payload);
        let mut bytes = Vec::new();
        for attempt in 1.. {
            bytes.clear();
            let read = from.read(bucket, &key, 0, |piece| {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > MAX_BYTES {
                    return Err(Failure::new(
                        CauseCode::DigestMismatch,
                        format!("the manifest {key} is larger than {MAX_BYTES} bytes"),
                    ));
                }
                Ok(())
            });
            match read.await {
                Ok(()) => break,
                Err(Interrupted::Fatal(failure)) => return Err(failure),
                Err(Interrupted::Transient(why)) => pause(attempt, why).await?,
            }
        }
        let found = digest_of(&bytes);
        if found != *payload {
            return Err(mismatch(&format!("the manifest {key}"), payload, &found));
        }
        let manifest = parse_manifest(&bytes)?;
        let path = self.manifest_path(payload);
        crate::files::replace(&path, &bytes)
            .map_err(|e| Failure::file("writing the manifest", &path, &e))?;
        Ok(manifest)
    }

    /// The manifest of a payload that this host has had before, if its file is whole.
    pub fn cached_manifest(&self, payload: &Digest) -> Option<Manifest> {
        let bytes = fs::read(self.manifest_path(payload)).ok()?;
        (digest_of(&bytes) == *payload)
            .then(|| parse_manifest(&bytes).ok())
            .flatten()
    }

    /// Whether the blob lies on disk and is whole. A damaged file is removed.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub async fn has(&self, blob: &Blob) -> Result<bool, Failure> {
        let path = self.blob(&blob.digest);
        let wanted = blob.clone();
        blocking(move || {
            let failed = |e: &io::Error| Failure::file("verifying", &path, e);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(failed(&e)),
            };
            let mut hasher = Sha256::new();
            let length = copy_into(&mut file, &mut hasher).map_err(|e| failed(&e))?;
            if length == wanted.size && finish(hasher) == wanted.digest {
                return Ok(true);
            }
            tracing::warn!(path = %path.display(), "a cached blob is damaged and will be fetched again");
            crate::files::remove(&path).map_err(|e| failed(&e))?;
            Ok(false)
        })
        .await
    }

    /// Fetches one blob that is not on disk. `fetched` counts the bytes as they arrive.
    ///
    /// # Errors
    /// [`CauseCode::PayloadMissing`], [`CauseCode::DigestMismatch`], [`CauseCode::DiskFull`].
    pub async fn fetch(
        &self,
        from: &Bucket,
        bucket: &str,
        service: &str,
        blob: &Blob,
        fetched: &AtomicU64,
    ) -> Result<(), Failure> {
        let key = names::blob_key(service, &blob.digest);
        let partial = self.partial(&blob.digest);
        let resumed = partial.metadata().is_ok_and(|m| m.len() > 0);
        let found = self.transfer(from, bucket, &key, blob, fetched).await?;
        let found = match found {
            // What an earlier attempt left behind may be what is wrong: once more from the beginning.
            wrong if wrong != blob.digest && resumed => {
                self.discard(&partial)?;
                self.transfer(from, bucket, &key, blob, fetched).await?
            }
            found => found,
        };
        if found != blob.digest {
            self.discard(&partial)?;
            return Err(mismatch(
                &format!("the blob s3://{bucket}/{key}"),
                &blob.digest,
                &found,
            ));
        }
        let path = self.blob(&blob.digest);
        let persist = || {
            File::open(&partial)?.sync_all()?;
            fs::rename(&partial, &path)?;
            crate::files::sync_folder(&self.folder.join("blobs"))
        };
        persist().map_err(|e| Failure::file("keeping the blob", &path, &e))
    }

    fn discard(&self, partial: &Path) -> Result<(), Failure> {
        crate::files::remove(partial).map_err(|e| Failure::file("removing", partial, &e))
    }

    /// Completes the partial file and returns the digest of what it holds.
    async fn transfer(
        &self,
        from: &Bucket,
        bucket: &str,
        key: &str,
        blob: &Blob,
        fetched: &AtomicU64,
    ) -> Result<Digest, Failure> {
        let path = self.partial(&blob.digest);
        let (mut file, mut hasher, mut length) = open_partial(path.clone()).await?;
        if length > blob.size {
            // What lies there can't be the beginning of this blob.
            self.discard(&path)?;
            (file, hasher, length) = open_partial(path.clone()).await?;
        }
        for attempt in 1.. {
            // A file that is complete already needs no call; a range beyond its end would be an error.
            let outcome = if length == blob.size && blob.size > 0 {
                Ok(())
            } else {
                let offset = length;
                let read = from.read(bucket, key, offset, |piece| {
                    length += piece.len() as u64;
                    if length > blob.size {
                        return Err(Failure::new(
                            CauseCode::DigestMismatch,
                            format!(
                                "the blob s3://{bucket}/{key} is longer than the {} bytes that the manifest names",
                                blob.size
                            ),
                        ));
                    }
                    fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    hasher.update(&piece);
                    file.write_all(&piece).map_err(|e| Failure::file("writing the blob", &path, &e))
                });
                read.await
            };
            match outcome {
                // The answer was whole (a broken one is an error), so the object itself is too short, and stays so.
                Ok(()) if length < blob.size => {
                    self.discard(&path)?;
                    return Err(Failure::new(
                        CauseCode::DigestMismatch,
                        format!(
                            "the blob s3://{bucket}/{key} is not what its digest says: it has {length} bytes instead of {}",
                            blob.size
                        ),
                    ));
                }
                Ok(()) => break,
                Err(Interrupted::Fatal(failure)) => {
                    // Bytes that can't be right must not be resumed; a full disk needs the room.
                    self.discard(&path)?;
                    return Err(failure);
                }
                Err(Interrupted::Transient(why)) => pause(attempt, why).await?,
            }
        }
        Ok(finish(hasher))
    }

    /// Removes every blob and manifest that none of `payloads` needs, and all partial files (D-PAY-14).
    ///
    /// # Errors
    /// A sentence per file that stays; the others are gone.
    pub fn keep_only(&self, payloads: &BTreeSet<Digest>) -> Vec<String> {
        let mut blobs = BTreeSet::new();
        let mut manifests = BTreeSet::new();
        for payload in payloads {
            manifests.insert(payload.hex().to_owned());
            if let Some(manifest) = self.cached_manifest(payload) {
                blobs.extend(manifest.blobs().iter().map(|b| b.digest.hex().to_owned()));
            }
        }
        let nothing = BTreeSet::new();
        [
            ("blobs", &blobs),
            ("manifests", &manifests),
            ("partial", &nothing),
        ]
        .into_iter()
        .flat_map(|(name, keep)| remove_others(&self.folder.join(name), keep))
        .collect()
    }
}

fn remove_others(folder: &Path, keep: &BTreeSet<String>) -> Vec<String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return vec![format!("{} can't be listed: {e}", folder.display())],
    };
    entries
        .flatten()
        .filter(|e| !e.file_name().to_str().is_some_and(|n| keep.contains(n)))
        .filter_map(|e| {
            crate::files::remove(&e.path())
                .err()
                .map(|error| format!("{} can't be removed: {error}", e.path().display()))
        })
        .collect()
}

async fn open_partial(path: PathBuf) -> Result<(File, Sha256, u64), Failure> {
    blocking(move || {
        let open = || -> io::Result<_> {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)?;
            let mut hasher = Sha256::new();
            let length = copy_into(&mut file, &mut hasher)?;
            Ok((file, hasher, length))
        };
        open().map_err(|e| Failure::file("opening", &path, &e))
    })
    .await
}

fn copy_into(from: &mut impl Read, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(length),
            n => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

/// Waits before the next attempt; the last one's reason becomes the failure.
async fn pause(attempt: u32, why: String) -> Result<(), Failure> {
    if attempt >= ATTEMPTS {
        return Err(Failure::new(
            CauseCode::PayloadMissing,
            format!("{why}, {ATTEMPTS} times in a row"),
        ));
    }
    tracing::warn!(attempt, why, "fetching again");
    tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
    Ok(())
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, Failure> {
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|e| Failure::internal(format!("the manifest can't be understood: {e}")))?;
    if manifest.v == contract::manifest::FORMAT {
        Ok(manifest)
    } else {
        Err(Failure::internal(format!(
            "the manifest has format {}, this host reads {}",
            manifest.v,
            contract::manifest::FORMAT
        )))
    }
}

fn mismatch(what: &str, wanted: &Digest, found: &Digest) -> Failure {
    Failure::new(
        CauseCode::DigestMismatch,
        format!("{what} is not what its digest says: wanted {wanted}, its bytes have {found}"),
    )
}

/// SHA-256 of bytes in memory.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

/// The digest a hasher has arrived at.
pub fn finish(hasher: Sha256) -> Digest {
    Digest::from_bytes(&hasher.finalize().into())
}

/// Runs file work off the event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Failure::internal(format!("a file task ended early: {e}"))))
}
