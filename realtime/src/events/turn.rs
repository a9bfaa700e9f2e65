//! Which process has the spool: they take turns, in the order in which they began to serve.
//!
//! Each holds a lock on a file of its own, with a number above all others. Whoever has the lowest number that is still
//! locked has the spool. So when one process after the other takes over within moments, none gets in front of one that
//! still has something to write; and whoever dies lets go at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const ENDING: &str = "turn";

/// The place of this process. Dropping it is being done.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    number: u64,
    _lock: File,
}

impl Turn {
    /// Takes the next place.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn take(folder: &Path) -> io::Result<Self> {
        loop {
            let last = numbers(folder)?.into_iter().max().unwrap_or_default();
            let number = last + 1;
            let path = path(folder, number);
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            let file = match opened {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            // Whoever looks before it is locked takes it for one whose owner is gone, and removes it.
            if try_lock(&file)? && is_at(&file, &path) {
                return Ok(Self {
                    path,
                    number,
                    _lock: file,
                });
            }
        }
    }

    /// Are all in front done? What those left behind that died is removed.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn has_come(&self) -> io::Result<bool> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        for number in numbers(folder)? {
            if number >= self.number {
                continue;
            }
            let path = path(folder, number);
            match File::open(&path) {
                Ok(file) if !try_lock(&file)? => return Ok(false),
                Ok(_) => drop(fs::remove_file(&path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.{ENDING}"))
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == ENDING) {
            numbers.extend(
                path.file_stem()
                    .and_then(|it| it.to_str()?.parse::<u64>().ok()),
            );
        }
    }
    Ok(numbers)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => one.ino() == other.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-EVT-14: through any number of swaps.
    #[test]
    fn turns_come_in_the_order_in_which_they_were_taken() {
        let dir = tempfile::tempdir().unwrap();
        let first = Turn::take(dir.path()).unwrap();
        let second = Turn::take(dir.path()).unwrap();
        let third = Turn::take(dir.path()).unwrap();
        let come = |turn: &Turn| turn.has_come().unwrap();
        assert!(come(&first) && !come(&second) && !come(&third));
        // Who waits may give up.
        drop(second);
        assert!(!come(&third));
        drop(first);
        assert!(come(&third));
        drop(third);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// R-EVT-11
    #[test]
    fn whoever_died_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("7.turn"), "").unwrap();
        let turn = Turn::take(dir.path()).unwrap();
        assert!(turn.number > 7 && turn.has_come().unwrap());
        assert_eq!(numbers(dir.path()).unwrap(), [turn.number]);
    }
}
