//! Images: from blobs on disk into the engine, in constant memory.
//!
//! The archive that `docker load` reads is made on the fly: a tar of the configuration, the layers (unpacked while they
//! are sent) and `manifest.json`. Every blob is hashed as it is read; a wrong one breaks the archive off before its end,
//! so that the engine keeps nothing of it (D-PAY-8).

use crate::{
    docker::Engine,
    failure::Failure,
    store::{Store, finish},
};
use bytes::Bytes;
use contract::{
    digest::Digest,
    manifest::{Blob, Image},
    signal::CauseCode,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read, Write},
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// The prefix of this host's image references.
pub fn reference_prefix(instance: &str) -> String {
    format!("porter/{}:", instance.to_lowercase())
}

/// This host's reference of an image: identity is the digest of its configuration (D-PACK-5).
pub fn reference(instance: &str, config: &Digest) -> String {
    format!("{}{}", reference_prefix(instance), config.hex())
}

/// The image's layers as the engine names them.
pub fn diff_ids(image: &Image) -> Vec<Digest> {
    image.layers.iter().map(|l| l.diff_id.clone()).collect()
}

/// Whether the engine has the image; if so it also gets this host's reference.
///
/// # Errors
/// [`CauseCode::Engine`].
pub async fn is_loaded(engine: &Engine, instance: &str, image: &Image) -> Result<bool, Failure> {
    let config = &image.config.digest;
    let name = reference(instance, config);
    if !engine.has_image(config, &name, &diff_ids(image)).await? {
        return Ok(false);
    }
    // Other stores name images otherwise; there the reference is the identity and already present.
    Ok(engine.tag(config, &name).await?
        || engine.has_image(config, &name, &diff_ids(image)).await?)
}

/// Loads one image and makes sure that it is the one that was meant.
///
/// # Errors
/// [`CauseCode::DigestMismatch`] when a cached blob is damaged, [`CauseCode::Engine`] when the engine refuses or ends up
/// with another image.
pub async fn load(
    engine: &Engine,
    store: &Store,
    instance: &str,
    image: &Image,
) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    // Why the archive broke off: the engine would only say that it did.
    let cause: Arc<Mutex<Option<Failure>>> = Arc::default();
    let writer = {
        let (image, store, cause) = (image.clone(), store.clone(), cause.clone());
        let reference = reference(instance, &image.config.digest);
        tokio::task::spawn_blocking(move || {
            let pipe = Pipe {
                sender: sender.clone(),
            };
            if let Err(failure) = write_archive(pipe, &store, &image, &reference) {
                let _ = sender.blocking_send(Err(io::Error::other(failure.message.clone())));
                if let Ok(mut cause) = cause.lock() {
                    *cause = Some(failure);
                }
            }
        })
    };
    let archive = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let loaded = engine.load(archive).await;
    // The engine may stop reading early, when it has what it needs; the writer then ends at its next piece.
    let _ = writer.await;
    let broken = cause.lock().ok().and_then(|mut c| c.take());
    match (loaded, broken) {
        (_, Some(failure)) if failure.code != CauseCode::Engine => return Err(failure),
        (Err(why), _) => {
            let code = if why.contains("no space left on device") {
                CauseCode::DiskFull
            } else {
                CauseCode::Engine
            };
            return Err(Failure::new(
                code,
                format!("the engine refused image {}: {why}", image.reference),
            ));
        }
        (Ok(()), _) => {}
    }
    if is_loaded(engine, instance, image).await? {
        Ok(())
    } else {
        Err(Failure::new(
            CauseCode::Engine,
            format!(
                "the engine loaded image {}, but what it has now is not {}",
                image.reference, image.config.digest
            ),
        ))
    }
}

/// A writer whose other end is the request body.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine stopped reading"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_archive(pipe: Pipe, store: &Store, image: &Image, reference: &str) -> Result<(), Failure> {
    let stopped =
        |e: io::Error| Failure::new(CauseCode::Engine, format!("the archive broke off: {e}"));
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(128 * 1024, pipe));
    let config_name = format!("{}.json", image.config.digest.hex());
    let config = open(store, &image.config)?;
    append(&mut archive, &config_name, image.config.size, config)?;
    let mut layers = Vec::new();
    let mut written = BTreeSet::new();
    for layer in &image.layers {
        let name = format!("{}/layer.tar", layer.diff_id.hex());
        // The same layer may occur twice, such as the empty one.
        if written.insert(name.clone()) {
            let blob = open(store, &layer.blob)?;
            let unpacked =
                zstd::stream::read::Decoder::new(blob).map_err(|e| damaged(&layer.blob, &e))?;
            append(
                &mut archive,
                &name,
                layer.unpacked,
                Unpacked::new(unpacked, layer.unpacked),
            )?;
        }
        layers.push(name);
    }
    let index =
        serde_json::json!([{"Config": config_name, "RepoTags": [reference], "Layers": layers}])
            .to_string();
    append(
        &mut archive,
        "manifest.json",
        index.len() as u64,
        index.as_bytes(),
    )?;
    let mut rest = archive.into_inner().map_err(stopped)?;
    rest.flush().map_err(stopped)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> Result<(), Failure> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    archive
        .append_data(&mut header, name, content)
        .map_err(|e| {
            match e
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<Failure>())
            {
                Some(failure) => failure.clone(),
                None if e.kind() == io::ErrorKind::BrokenPipe => Failure::new(
                    CauseCode::Engine,
                    format!("the archive broke off at {name}: {e}"),
                ),
                // The blob itself can't be read or unpacked.
                None => Failure::new(
                    CauseCode::DigestMismatch,
                    format!("{name} can't be read from the cached blobs: {e}"),
                ),
            }
        })
}

fn open(store: &Store, blob: &Blob) -> Result<BufReader<Verified<File>>, Failure> {
    let path = store.blob(&blob.digest);
    let file = File::open(&path).map_err(|e| Failure::file("opening the blob", &path, &e))?;
    let verified = Verified {
        inner: file,
        hasher: Some(Sha256::new()),
        blob: blob.clone(),
    };
    Ok(BufReader::with_capacity(128 * 1024, verified))
}

fn damaged(blob: &Blob, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        CauseCode::DigestMismatch,
        format!("the cached blob {} is damaged: {why}", blob.digest.short()),
    )
}

/// Hashes what passes and turns a wrong end into an error, before the reader could take it for the end.
struct Verified<R> {
    inner: R,
    hasher: Option<Sha256>,
    blob: Blob,
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..n]);
        }
        if n == 0
            && !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
            && finish(hasher) != self.blob.digest
        {
            return Err(io::Error::other(damaged(
                &self.blob,
                &"its digest changed on disk",
            )));
        }
        Ok(n)
    }
}

/// A layer while it is unpacked: its length must be the one in the tar header, and its compressed bytes are read to
/// their end, so that their digest is known before the entry is complete.
struct Unpacked<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Unpacked<R> {
    fn new(inner: R, length: u64) -> Self {
        Self {
            inner,
            left: length,
        }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |what: &str| {
            io::Error::other(Failure::new(
                CauseCode::DigestMismatch,
                format!("a layer is {what} than its manifest says"),
            ))
        };
        let n = self.inner.read(buffer)?;
        match u64::try_from(n) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => Err(wrong("shorter")),
            Ok(read) if read > self.left => Err(wrong("longer")),
            Ok(read) => {
                self.left -= read;
                Ok(n)
            }
            Err(e) => Err(io::Error::other(e)),
        }
    }
}
