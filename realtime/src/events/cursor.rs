//! How far a sink has come, on disk: what it has taken is not sent again after a restart, but for the last few.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::spool::Place;

/// Two of them are written in turns: one that is half written leaves the other.
const SLOT: usize = 32;

/// The file that remembers a sink's place.
#[derive(Debug)]
pub struct Cursor {
    path: PathBuf,
    file: File,
    turn: u64,
}

impl Cursor {
    /// Opens or makes the file of a sink; also the place that it remembers, if it does.
    ///
    /// # Errors
    /// It can't be read or made.
    pub fn open(dir: &Path, sink: &str) -> io::Result<(Self, Option<Place>)> {
        let path = file(dir, sink);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let latest = read(&file);
        let (turn, place) = latest.map_or((0, None), |(turn, place)| (turn, Some(place)));
        Ok((Self { path, file, turn }, place))
    }

    /// The place that a sink's file remembers.
    pub fn peek(dir: &Path, sink: &str) -> Option<Place> {
        let file = File::open(file(dir, sink)).ok()?;
        read(&file).map(|(_, place)| place)
    }

    /// Remembers a place.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn set(&mut self, place: Place) -> io::Result<()> {
        self.turn += 1;
        let offset = (self.turn % 2) * SLOT as u64;
        self.file.write_all_at(&slot(self.turn, place), offset)
    }

    /// Forgets it: the sink is off.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

fn file(dir: &Path, sink: &str) -> PathBuf {
    dir.join(format!("{sink}.cursor"))
}

fn slot(turn: u64, place: Place) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&turn.to_le_bytes());
    bytes[8..16].copy_from_slice(&place.segment.to_le_bytes());
    bytes[16..24].copy_from_slice(&place.offset.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The later of the two that is whole.
fn read(file: &File) -> Option<(u64, Place)> {
    let slots = [0, SLOT as u64].into_iter().filter_map(|offset| {
        let mut bytes = [0; SLOT];
        file.read_exact_at(&mut bytes, offset).ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes);
        let (turn, segment, offset) = (number(0).ok()?, number(8).ok()?, number(16).ok()?);
        let place = Place { segment, offset };
        (turn > 0 && slot(turn, place) == bytes).then_some((turn, place))
    });
    slots.max_by_key(|(turn, _)| *turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> Place {
        Place {
            segment: n / 3,
            offset: n * 17,
        }
    }

    /// R-EVT-11
    #[test]
    fn the_last_place_is_remembered_and_half_a_write_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cursor, none) = Cursor::open(dir.path(), "sns").unwrap();
        assert_eq!(none, None);
        assert_eq!(Cursor::peek(dir.path(), "webhook"), None);
        for n in 1..20 {
            cursor.set(place(n)).unwrap();
            assert_eq!(Cursor::peek(dir.path(), "sns"), Some(place(n)));
            let whole = fs::read(file(dir.path(), "sns")).unwrap();
            for at in 0..SLOT - 4 {
                let mut torn = whole.clone();
                torn[(n as usize % 2) * SLOT + at] ^= 1;
                fs::write(file(dir.path(), "sns"), torn).unwrap();
                let before = (n > 1).then(|| place(n - 1));
                assert_eq!(Cursor::peek(dir.path(), "sns"), before);
            }
            fs::write(file(dir.path(), "sns"), whole).unwrap();
        }
        let (cursor, found) = Cursor::open(dir.path(), "sns").unwrap();
        assert_eq!(found, Some(place(19)));
        cursor.remove().unwrap();
        assert_eq!(Cursor::peek(dir.path(), "sns"), None);
    }
}
