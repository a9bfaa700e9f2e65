//! Log files of the stand-ins: lines with a time.

use anyhow::{Context, Result};
use std::{
    fs::{File, OpenOptions},
    io::Write,
};

/// An append-only log file.
pub struct Log {
    /// The file, to be given to processes as their output.
    pub file: File,
}

impl Log {
    /// Opens or creates it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn open(path: &str) -> Result<Self> {
        Ok(Self {
            file: OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| path.to_owned())?,
        })
    }

    /// Adds a line. A full disk must not end the work that is being logged.
    pub fn line(&mut self, text: &str) {
        let _ = writeln!(
            self.file,
            "{} {text}",
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        );
    }

    /// Adds what a process has written.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.file.write_all(bytes);
    }
}
