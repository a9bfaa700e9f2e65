//! Notices that a file behind the settings has changed (R-CFG-2).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Tells when the files behind the settings have changed and come to rest: one that is being written is left alone until two
/// looks at it agree. A look costs one `stat` a file; every 5 seconds is often enough for R-SRV-3.
#[derive(Clone, Debug, Default)]
pub struct Watch(Vec<Watched>);

#[derive(Clone, Debug)]
struct Watched {
    path: PathBuf,
    /// As it was when it was read, or when its change was told.
    told: Option<Stamp>,
    /// As it was at the last look.
    seen: Option<Stamp>,
}

/// Inode, length and time of change, in nanoseconds: a file that is replaced, rewritten or gone differs in one of them.
type Stamp = (u64, u64, i64, i64);

impl Watch {
    /// Watches a file from its present state on. To be called before it is read, so that no change falls in between.
    pub(super) fn add(&mut self, path: &Path) {
        let now = stamp(path);
        self.0.retain(|file| file.path != path);
        self.0.push(Watched {
            path: path.into(),
            told: now,
            seen: now,
        });
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|file| file.path.as_path())
    }

    /// Whether a file differs from when a change was last told, while all are as they were at the last look.
    pub fn changed(&mut self) -> bool {
        let mut rest = true;
        for file in &mut self.0 {
            let now = stamp(&file.path);
            rest &= now == file.seen;
            file.seen = now;
        }
        let changed = rest && self.0.iter().any(|file| file.seen != file.told);
        if changed {
            self.0.iter_mut().for_each(|file| file.told = file.seen);
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let of = fs::metadata(path).ok()?;
    Some((of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
}
