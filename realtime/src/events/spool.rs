//! Events on disk until every sink has taken them: files to which is only ever appended, in one folder.
//!
//! A record is `length, checksum, identifier, envelope`; the checksum covers all but itself. Whoever is killed in the middle
//! of a write leaves half a record at the end of a file: it fails its checksum, and reading goes on with the next file. A
//! process never appends to a file of another one, so nothing ever follows half a record. What was written survives the end
//! of the process at once, and that of the machine after [`Spool::sync`].

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ulid::Ulid;

/// Bytes in front of an envelope: length, checksum, identifier.
const HEAD: usize = 4 + 4 + 16;

/// A longer envelope is none: a member list with the largest data is far below. Bounds what a damaged length can ask for.
pub const LONGEST: usize = 4 << 20;

/// Bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// A file from which everything was taken is removed once it has so many bytes: a new one for every few events would cost
/// more than it saves.
const WORTH_REMOVING: u64 = 1 << 20;

const ENDING: &str = "events";

/// A place between two records: all before it has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The number of the file.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Names it; also tells when it was written.
    pub id: Ulid,
    /// What sinks get.
    pub envelope: String,
    /// The place behind it.
    pub end: Place,
}

/// What was found at a place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records, in order; none at the end.
    pub records: Vec<Record>,
    /// Where to go on if there are none: ends of files are behind it.
    pub place: Place,
    /// Bytes that were no records and were left out, if there are any.
    pub damaged: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// As long as the kernel may have some of it only in memory.
    unsynced: Option<File>,
}

/// All files.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    limit: u64,
    /// The oldest first.
    segments: VecDeque<Segment>,
    next: u64,
    /// The last one is written to.
    open: bool,
}

impl Spool {
    /// Opens what is in a folder, which is made. No file that is written will have a number as low as `above`.
    ///
    /// # Errors
    /// The folder can't be read or made.
    pub fn open(dir: &Path, above: u64, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok())
                .filter(|_| path.extension().is_some_and(|it| it == ENDING));
            if let Some(number) = number {
                segments.push(Segment {
                    number,
                    bytes: entry.metadata()?.len(),
                    unsynced: None,
                });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        let last = segments.last().map_or(0, |segment| segment.number);
        Ok(Self {
            dir: dir.into(),
            limit,
            segments: segments.into(),
            next: last.max(above) + 1,
            open: false,
        })
    }

    /// Another limit from now on.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The place behind everything.
    pub fn end(&self) -> Place {
        match self.segments.back() {
            Some(last) => Place {
                segment: last.number,
                offset: last.bytes,
            },
            None => Place {
                segment: self.next,
                offset: 0,
            },
        }
    }

    /// Writes events, all of them or none.
    ///
    /// # Errors
    /// The disk does not take them.
    pub fn append<'a>(
        &mut self,
        events: impl IntoIterator<Item = (Ulid, &'a str)>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (id, envelope) in events {
            encode(&mut bytes, id, envelope);
        }
        let last = self.segments.back().map_or(0, |last| last.bytes);
        if !self.open || last >= self.segment_bytes() {
            self.begin()?;
        }
        let segment = self.segments.back_mut().ok_or(io::ErrorKind::NotFound)?;
        let file = match &mut segment.unsynced {
            Some(file) => file,
            // It was synced: what comes now is not.
            none => none.insert(
                OpenOptions::new()
                    .append(true)
                    .open(path(&self.dir, segment.number))?,
            ),
        };
        let written = file.write_all(&bytes);
        if written.is_err() {
            // Half a record may be there: nothing may follow it.
            drop(file.set_len(segment.bytes));
            self.open = false;
        } else {
            segment.bytes += bytes.len() as u64;
        }
        written
    }

    fn begin(&mut self) -> io::Result<()> {
        self.open = false;
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path(&self.dir, self.next))?;
        self.segments.push_back(Segment {
            number: self.next,
            bytes: 0,
            unsynced: Some(file),
        });
        self.next += 1;
        self.open = true;
        Ok(())
    }

    /// An eighth of all, so that not much is lost when the oldest has to go.
    fn segment_bytes(&self) -> u64 {
        (self.limit / 8).clamp(64 << 10, 8 << 20)
    }

    /// Records from a place on, so many at most.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn read(&self, from: Place, most: usize) -> io::Result<Found> {
        let mut found = Found {
            place: from,
            ..Found::default()
        };
        loop {
            let Some(segment) = self.segment_at(&mut found.place) else {
                return Ok(found);
            };
            let file = File::open(path(&self.dir, segment.number))?;
            let start = found.place.offset;
            let mut buffer = read_at(&file, start, CHUNK.min(segment.bytes - start))?;
            if let Step::Longer(needed) = step(&buffer)
                && start + needed as u64 <= segment.bytes
            {
                buffer = read_at(&file, start, needed as u64)?;
            }
            let mut rest = &buffer[..];
            while found.records.len() < most
                && let Step::Record(id, envelope, length) = step(rest)
            {
                rest = &rest[length..];
                found.place.offset += length as u64;
                found.records.push(Record {
                    id,
                    envelope: envelope.to_owned(),
                    end: found.place,
                });
            }
            if !found.records.is_empty() {
                return Ok(found);
            }
            // Not a record, and not the beginning of one that fits: the rest of this file is lost.
            found.damaged += segment.bytes - start;
            found.place.offset = segment.bytes;
            if Some(segment.number) == self.segments.back().map(|last| last.number) {
                return Ok(found);
            }
        }
    }

    /// The file in which something comes after this place, which is moved to its beginning if it is a later one.
    fn segment_at(&self, place: &mut Place) -> Option<&Segment> {
        let at = self
            .segments
            .partition_point(|segment| segment.number < place.segment);
        let segment = self.segments.iter().skip(at).find(|segment| {
            match segment.number == place.segment {
                true => place.offset < segment.bytes,
                // One to which nothing could be written is empty.
                false => segment.bytes > 0,
            }
        })?;
        if segment.number > place.segment {
            *place = Place {
                segment: segment.number,
                offset: 0,
            };
        }
        Some(segment)
    }

    /// Bytes behind a place.
    pub fn behind(&self, place: Place) -> u64 {
        self.segments
            .iter()
            .filter(|segment| segment.number >= place.segment)
            .map(|segment| match segment.number == place.segment {
                true => segment.bytes.saturating_sub(place.offset),
                false => segment.bytes,
            })
            .sum()
    }

    /// How many records of one file stand behind a place.
    pub fn count(&self, from: Place, segment: u64) -> u64 {
        let mut place = from.max(Place { segment, offset: 0 });
        let mut count = 0;
        while place.segment == segment
            && let Ok(found) = self.read(place, 4096)
            && !found.records.is_empty()
        {
            let here = |record: &&Record| record.end.segment == segment;
            count += found.records.iter().filter(here).count() as u64;
            place = found.place;
        }
        count
    }

    /// The number of the oldest file if there is more than the limit allows.
    pub fn excess(&self) -> Option<u64> {
        (self.segments.len() > 1 && self.bytes() > self.limit).then(|| self.segments[0].number)
    }

    /// Removes the files in front of a place.
    ///
    /// # Errors
    /// One can't be removed.
    pub fn trim(&mut self, needed: Place) -> io::Result<()> {
        while let Some(first) = self.segments.front() {
            let is_last = self.segments.len() == 1;
            let taken = first.number < needed.segment
                || first.number == needed.segment && needed.offset >= first.bytes;
            if !taken || (is_last && self.open && first.bytes < WORTH_REMOVING) {
                break;
            }
            match fs::remove_file(path(&self.dir, first.number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.segments.pop_front();
            self.open &= !is_last;
        }
        Ok(())
    }

    /// Has the disk keep everything, whatever happens to the machine.
    ///
    /// # Errors
    /// The disk does not.
    pub fn sync(&mut self) -> io::Result<()> {
        let mut any = false;
        for segment in &mut self.segments {
            if let Some(file) = &segment.unsynced {
                file.sync_data()?;
                segment.unsynced = None;
                any = true;
            }
        }
        if any {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{ENDING}"))
}

fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn encode(into: &mut Vec<u8>, id: Ulid, envelope: &str) {
    // The caller has seen that it is not too long.
    let length = u32::try_from(envelope.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let id = id.0.to_le_bytes();
    into.extend_from_slice(&length);
    into.extend_from_slice(&checksum(&length, &id, envelope.as_bytes()));
    into.extend_from_slice(&id);
    into.extend_from_slice(envelope.as_bytes());
}

fn checksum(length: &[u8], id: &[u8], envelope: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(id);
    hasher.update(envelope);
    hasher.finalize().to_le_bytes()
}

/// What stands at the beginning of some bytes.
enum Step<'a> {
    /// A record, and how long it is.
    Record(Ulid, &'a str, usize),
    /// Perhaps one that needs so many bytes.
    Longer(usize),
    /// None.
    Damaged,
}

fn step(bytes: &[u8]) -> Step<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return Step::Longer(HEAD);
    };
    let (length, sum, id) = (&head[..4], &head[4..8], &head[8..]);
    let number = length
        .try_into()
        .map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
    if number == 0 || number > LONGEST {
        return Step::Damaged;
    }
    let Some(envelope) = rest.get(..number) else {
        return Step::Longer(HEAD + number);
    };
    if checksum(length, id, envelope) != sum {
        return Step::Damaged;
    }
    match (id.try_into(), std::str::from_utf8(envelope)) {
        (Ok(id), Ok(envelope)) => {
            Step::Record(Ulid(u128::from_le_bytes(id)), envelope, HEAD + number)
        }
        _ => Step::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    use super::*;

    fn envelope(n: usize) -> String {
        format!("{{\"n\":{n},\"text\":\"{}\"}}", "ä".repeat(n % 50))
    }

    fn write(spool: &mut Spool, numbers: std::ops::Range<usize>) {
        for n in numbers {
            spool
                .append([(Ulid(n as u128), &*envelope(n))])
                .expect("the disk takes it");
        }
    }

    /// Everything from a place on, in reads of a few.
    fn read_all(spool: &Spool, mut place: Place) -> (Vec<u128>, u64) {
        let (mut all, mut damaged) = (Vec::new(), 0);
        loop {
            let found = spool.read(place, 3).expect("it can be read");
            damaged += found.damaged;
            if found.records.is_empty() {
                return (all, damaged);
            }
            for record in &found.records {
                assert_eq!(record.envelope, envelope(record.id.0 as usize));
                all.push(record.id.0);
            }
            assert_eq!(found.records.last().map(|it| it.end), Some(found.place));
            place = found.place;
        }
    }

    fn ids(numbers: std::ops::Range<usize>) -> Vec<u128> {
        numbers.map(|n| n as u128).collect()
    }

    fn fresh(limit: u64) -> (TempDir, Spool) {
        let dir = tempdir().expect("a folder");
        let spool = Spool::open(dir.path(), 0, limit).expect("it can be opened");
        (dir, spool)
    }

    /// R-EVT-11, R-EVT-14
    #[test]
    fn what_is_written_is_read_in_order_also_by_the_next_process() {
        let (dir, mut spool) = fresh(1 << 20);
        assert_eq!(read_all(&spool, Place::default()), (vec![], 0));
        let begin = spool.end();
        write(&mut spool, 0..50);
        assert_eq!(read_all(&spool, begin), (ids(0..50), 0));
        let middle = spool.read(begin, 20).unwrap().place;
        drop(spool);
        let mut spool = Spool::open(dir.path(), 0, 1 << 20).unwrap();
        assert_eq!(read_all(&spool, middle), (ids(20..50), 0));
        let end = spool.end();
        write(&mut spool, 50..60);
        assert_eq!(read_all(&spool, middle), (ids(20..60), 0));
        assert_eq!(read_all(&spool, end), (ids(50..60), 0));
        assert_eq!(spool.behind(spool.end()), 0);
        assert_eq!(spool.behind(Place::default()), spool.bytes());
    }

    /// R-EVT-11: killed at any byte of a write, or with any byte gone wrong, nothing is read that was not written.
    #[test]
    fn half_a_record_is_never_read() {
        let (dir, mut spool) = fresh(1 << 20);
        write(&mut spool, 0..4);
        let file = path(dir.path(), 1);
        let whole = fs::read(&file).unwrap();
        let ends: Vec<_> = (spool.read(Place::default(), 9).unwrap().records.iter())
            .map(|record| record.end.offset as usize)
            .collect();
        for cut in 0..whole.len() {
            let kept = ends.iter().filter(|end| **end <= cut).count();
            for zeros in [0, 40] {
                let mut bytes = whole[..cut].to_vec();
                bytes.resize(cut + zeros, 0);
                fs::write(&file, bytes).unwrap();
                let mut next = Spool::open(dir.path(), 0, 1 << 20).unwrap();
                write(&mut next, 10..12);
                let (read, damaged) = read_all(&next, Place::default());
                assert_eq!(read, [ids(0..kept), ids(10..12)].concat(), "cut at {cut}");
                let torn = !ends.contains(&cut) && cut > 0;
                assert_eq!(damaged > 0, torn || zeros > 0);
                assert_eq!(next.count(Place::default(), 1), kept as u64);
                fs::remove_file(path(dir.path(), 2)).unwrap();
            }
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&file, bytes).unwrap();
            let next = Spool::open(dir.path(), 0, 1 << 20).unwrap();
            let (read, damaged) = read_all(&next, Place::default());
            let kept = ends.iter().filter(|end| **end <= at).count();
            assert_eq!(read, ids(0..kept), "byte {at}");
            assert!(damaged > 0);
        }
    }

    /// R-EVT-11
    #[test]
    fn files_go_when_they_are_not_needed_and_when_there_is_too_much() {
        let (dir, mut spool) = fresh(1 << 20);
        let large = "x".repeat(10_000);
        let mut last = 0;
        while spool.excess().is_none() {
            last += 1;
            spool.append([(Ulid(last), &*large)]).unwrap();
        }
        assert!(spool.bytes() <= (1 << 20) + 2 * 10_024);
        let oldest = spool.excess().unwrap();
        let lost = spool.count(Place::default(), oldest);
        assert!(lost > 0);
        spool
            .trim(Place {
                segment: oldest + 1,
                offset: 0,
            })
            .unwrap();
        assert_eq!(spool.excess(), None);
        let first = &spool.read(Place::default(), 1).unwrap().records[0];
        assert_eq!(first.id.0, u128::from(lost) + 1);
        spool.sync().unwrap();
        spool.append([(Ulid(0), "{}")]).unwrap();
        spool.trim(spool.end()).unwrap();
        assert!(spool.bytes() < WORTH_REMOVING);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert!(left <= 1, "{left} files");
        spool.append([(Ulid(1), "{}")]).unwrap();
    }

    /// A place in a file that is gone must not hide those that come later.
    #[test]
    fn numbers_rise_above_every_place_that_is_remembered() {
        let dir = tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 7, 1 << 20).unwrap();
        write(&mut spool, 0..2);
        let remembered = Place {
            segment: 7,
            offset: 99_999,
        };
        assert_eq!(read_all(&spool, remembered), (ids(0..2), 0));
    }

    /// R-OPS-2: a disk that takes nothing for a while.
    #[test]
    fn after_a_write_that_failed_the_next_one_counts() {
        let (dir, mut spool) = fresh(1 << 20);
        write(&mut spool, 0..2);
        // As if it had been half written.
        let file = path(dir.path(), 1);
        spool.open = false;
        let mut bytes = fs::read(&file).unwrap();
        bytes.extend_from_slice(&[1, 2, 3]);
        fs::write(&file, bytes).unwrap();
        write(&mut spool, 2..4);
        assert_eq!(read_all(&spool, Place::default()), (ids(0..4), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// R-EVT-11, R-EVT-14: whatever the pattern of writes, reads and restarts, a reader gets everything once, in order.
        #[test]
        fn a_reader_gets_everything_once(steps in prop::collection::vec((0_u8..4, 1_usize..40), 1..40)) {
            let dir = tempdir().unwrap();
            let open = |above| Spool::open(dir.path(), above, 1 << 20).unwrap();
            let mut spool = open(0);
            let (mut place, mut written, mut read) = (spool.end(), 0, Vec::new());
            for (what, count) in steps {
                match what {
                    0 => {
                        write(&mut spool, written..written + count);
                        written += count;
                    }
                    1 => {
                        let found = spool.read(place, count).unwrap();
                        prop_assert_eq!(found.damaged, 0);
                        read.extend(found.records.iter().map(|record| record.id.0));
                        place = found.place;
                    }
                    2 => spool.trim(place).unwrap(),
                    _ => spool = open(place.segment),
                }
            }
            read.extend(read_all(&spool, place).0);
            prop_assert_eq!(read, ids(0..written));
        }
    }
}
