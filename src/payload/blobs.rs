//! Blobs on the build host: `.porter-tmp/payload/blobs/sha256/<hex>`.
//!
//! A blob is written to a temporary file, hashed on the way and renamed to its digest, so that a name is only ever
//! there with its content. It is not synced: a blob is verified each time it is used, never trusted because it exists.

use contract::{digest::Digest, manifest::Blob};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Read and written at once: large enough that system calls do not count, small enough that memory does not.
pub const CHUNK: usize = 128 * 1024;

/// Why a blob on disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadBlob {
    /// It is not there, or can't be read.
    #[error("{path} can't be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its content is not what its name says.
    #[error(
        "{path} was changed or cut short: it has {found} ({found_size} bytes), its name promises {expected} ({expected_size} bytes)"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Digest of what is there.
        found: Digest,
        /// Length of what is there.
        found_size: u64,
        /// What should be there.
        expected: Digest,
        /// How long it should be.
        expected_size: u64,
    },
}

/// The blobs of one `.porter-tmp`.
#[derive(Clone, Debug)]
pub struct BlobStore {
    folder: PathBuf,
}

impl BlobStore {
    /// The store below a payload folder; nothing is created before the first blob is written.
    pub fn below(payload_folder: &Path) -> Self {
        Self {
            folder: payload_folder.join("blobs/sha256"),
        }
    }

    /// Where a blob lies, or would.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Begins a blob whose digest is known only at its end.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn writer(&self) -> io::Result<BlobWriter> {
        fs::create_dir_all(&self.folder)?;
        let file = tempfile::Builder::new()
            .prefix("unfinished-")
            .tempfile_in(&self.folder)?;
        Ok(BlobWriter {
            folder: self.folder.clone(),
            file: BufWriter::with_capacity(CHUNK, file),
            hash: Sha256::new(),
            size: 0,
        })
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn add(&self, bytes: &[u8]) -> io::Result<Blob> {
        let mut writer = self.writer()?;
        writer.write_all(bytes)?;
        writer.finish()
    }

    /// Reads a blob from beginning to end and compares digest and length (D-PAY-8).
    ///
    /// # Errors
    /// [`BadBlob`].
    pub fn verify(&self, blob: &Blob) -> Result<(), BadBlob> {
        Self::verify_file(&self.path(&blob.digest), blob)
    }

    /// The same for a blob that lies elsewhere.
    ///
    /// # Errors
    /// [`BadBlob`].
    pub fn verify_file(path: &Path, blob: &Blob) -> Result<(), BadBlob> {
        let path = path.to_owned();
        let (found, found_size) = match File::open(&path).and_then(hash) {
            Ok(found) => found,
            Err(error) => return Err(BadBlob::Unreadable { path, error }),
        };
        if found == blob.digest && found_size == blob.size {
            Ok(())
        } else {
            let (expected, expected_size) = (blob.digest.clone(), blob.size);
            Err(BadBlob::Changed {
                path,
                found,
                found_size,
                expected,
                expected_size,
            })
        }
    }

    /// Removes every file that `keep` does not name: blobs of earlier payloads, and what a killed run left.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn retain(&self, keep: &[Digest]) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !keep.iter().any(|d| d.hex() == name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Digest and length of everything a reader gives, in constant memory.
///
/// # Errors
/// Those of the reader.
pub fn hash(mut reader: impl Read) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let n = reader.read(&mut chunk)?;
        if n == 0 {
            return Ok((Digest::from_bytes(&hash.finalize().into()), size));
        }
        hash.update(&chunk[..n]);
        size += n as u64;
    }
}

/// Digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(&Sha256::digest(bytes).into())
}

/// A blob that is being written. Dropped before [`BlobWriter::finish`] it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    folder: PathBuf,
    file: BufWriter<NamedTempFile>,
    hash: Sha256,
    size: u64,
}

impl BlobWriter {
    /// Gives the blob its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> io::Result<Blob> {
        let blob = Blob {
            digest: Digest::from_bytes(&self.hash.finalize().into()),
            size: self.size,
        };
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.persist(self.folder.join(blob.digest.hex()))?;
        Ok(blob)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_pay_8_a_blob_that_was_changed_or_cut_short_is_told_apart_from_a_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::below(folder.path());
        let blob = store.add(b"the content").unwrap();
        store.verify(&blob).unwrap();
        for bad in [&b"the c0ntent"[..], b"the cont", b""] {
            fs::write(store.path(&blob.digest), bad).unwrap();
            let error = store.verify(&blob).unwrap_err().to_string(); // D-PAY-8
            assert!(
                error.contains(blob.digest.as_str()) && error.contains("changed or cut short"),
                "{error}"
            );
        }
        fs::remove_file(store.path(&blob.digest)).unwrap();
        assert!(matches!(
            store.verify(&blob),
            Err(BadBlob::Unreadable { .. })
        ));
    }

    #[test]
    fn an_unfinished_blob_leaves_nothing_and_unnamed_ones_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::below(folder.path());
        let kept = store.add(b"kept").unwrap();
        store.add(b"old").unwrap();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        store.retain(std::slice::from_ref(&kept.digest)).unwrap();
        let left: Vec<_> = fs::read_dir(&store.folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [kept.digest.hex()]);
    }
}
