//! Files that must be whole or absent: written aside, synced, renamed, folder synced.

use std::{io::Write, path::Path};

/// Replaces `path` with `bytes`; a reader or a crash sees the old or the new content, never a part.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}
