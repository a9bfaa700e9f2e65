//! Takes out of an image what only tells when and where it was built, so that the same commit on the same base gives
//! the same bytes (D-PACK-17): the modification times in a layer's tar, and the dates and container names in the image
//! configuration. What a program in the image can see otherwise stays: names, content, modes, owners, attributes.
//!
//! Layers are rewritten as they stream by; the only thing kept in memory is one entry's extended header.

use serde_json::{Map, Value};
use std::io::{self, Read, Write};

/// The modification time of every file: 1980-01-01T00:00:00Z, the earliest that zip archives can express, and the one
/// that buildpacks use.
const MTIME: u64 = 315_532_800;
/// The same for the image configuration.
const CREATED: &str = "1980-01-01T00:00:00Z";

const BLOCK: usize = 512;
/// An extended header holds names and attributes of one file; far above what file systems allow for both.
const MAX_EXTENDED: u64 = 4 * 1024 * 1024;

// Fields of a tar header (POSIX ustar and GNU).
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME_FIELD: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..265;
const GNU_ATIME_CTIME: std::ops::Range<usize> = 345..369;
const GNU_IS_EXTENDED: usize = 482;
const GNU_SPARSE_IS_EXTENDED: usize = 504;

/// Copies a layer's tar, normalised, and returns the number of bytes written.
///
/// # Errors
/// Those of reader and writer; `InvalidData` with the offset for something that is not a tar.
pub fn layer(mut tar: impl Read, mut out: impl Write) -> io::Result<u64> {
    let mut copy = Copy {
        read: 0,
        written: 0,
        chunk: vec![0; crate::payload::blobs::CHUNK],
    };
    let mut size_of_next: Option<u64> = None;
    loop {
        let mut header = [0; BLOCK];
        if !copy.header(&mut tar, &mut header)? || header.iter().all(|b| *b == 0) {
            break;
        }
        copy.check(&header)?;
        let kind = header[TYPE];
        let own_size =
            number(&header[SIZE]).ok_or_else(|| copy.bad("an entry's size is not a number"))?;
        if matches!(kind, b'x' | b'g') {
            let records = copy.extended(&mut tar, own_size)?;
            let kept = Records::parse(&records)
                .ok_or_else(|| copy.bad("an extended header is malformed"))?;
            if kind == b'x' {
                size_of_next = kept.size;
            }
            if !kept.bytes.is_empty() {
                set_number(&mut header[SIZE], kept.bytes.len() as u64);
                copy.emit(&mut out, &mut header)?;
                copy.write_padded(&mut out, &kept.bytes)?;
            }
            continue;
        }
        // Links, devices and folders have no content, whatever their size field says; names (`L`, `K`) and files do.
        let size = if (b'1'..=b'6').contains(&kind) {
            0
        } else {
            size_of_next.unwrap_or(own_size)
        };
        if !matches!(kind, b'L' | b'K') {
            size_of_next = None;
        }
        let mut more = kind == b'S' && header[GNU_IS_EXTENDED] != 0;
        copy.emit(&mut out, &mut header)?;
        while more {
            let mut sparse = [0; BLOCK];
            tar.read_exact(&mut sparse)?;
            copy.read += BLOCK as u64;
            more = sparse[GNU_SPARSE_IS_EXTENDED] != 0;
            copy.write(&mut out, &sparse)?;
        }
        copy.content(&mut tar, &mut out, size)?;
    }
    // What follows the end mark is padding, of a length that depends on the writer.
    io::copy(&mut tar, &mut io::sink())?;
    copy.write(&mut out, &[0; 2 * BLOCK])?;
    Ok(copy.written)
}

/// Whether these first bytes are a tar's.
pub fn is_tar(head: &[u8]) -> bool {
    let empty = head.len() == BLOCK && head.iter().all(|b| *b == 0);
    empty
        || head
            .get(MAGIC)
            .is_some_and(|magic| magic.starts_with(b"ustar"))
}

struct Copy {
    read: u64,
    written: u64,
    chunk: Vec<u8>,
}

impl Copy {
    fn bad(&self, what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{what}, at byte {}", self.read.saturating_sub(BLOCK as u64)),
        )
    }

    /// False at the end of a tar that has no end mark.
    fn header(&mut self, tar: &mut impl Read, header: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match tar.read(&mut header[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(self.bad("the tar ends within a header")),
                n => filled += n,
            }
        }
        self.read += BLOCK as u64;
        Ok(true)
    }

    fn check(&self, header: &[u8; BLOCK]) -> io::Result<()> {
        if number(&header[CHECKSUM]) == Some(checksum(header)) {
            Ok(())
        } else {
            Err(self.bad("not a tar header: its checksum is wrong"))
        }
    }

    fn extended(&mut self, tar: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(self.bad("an extended header is larger than 4 MiB"));
        }
        let mut records = Vec::new();
        let padded = size.next_multiple_of(BLOCK as u64);
        if tar.take(padded).read_to_end(&mut records)? as u64 != padded {
            return Err(self.bad("the tar ends within an extended header"));
        }
        self.read += padded;
        records.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(records)
    }

    /// Writes the header with the fixed time and its new checksum.
    fn emit(&mut self, out: &mut impl Write, header: &mut [u8; BLOCK]) -> io::Result<()> {
        set_number(&mut header[MTIME_FIELD], MTIME);
        if &header[MAGIC] == b"ustar  \0" {
            header[GNU_ATIME_CTIME].fill(0);
        }
        let sum = format!("{:06o}\0 ", checksum(header));
        header[CHECKSUM].copy_from_slice(sum.as_bytes());
        self.write(out, header)
    }

    fn content(&mut self, tar: &mut impl Read, out: &mut impl Write, size: u64) -> io::Result<()> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| self.bad("an entry's size is impossible"))?;
        let mut left = padded;
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.chunk.len());
            let n = tar.read(&mut self.chunk[..want])?;
            if n == 0 {
                return Err(self.bad("the tar ends within a file"));
            }
            out.write_all(&self.chunk[..n])?;
            left -= n as u64;
        }
        self.read += padded;
        self.written += padded;
        Ok(())
    }

    fn write(&mut self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn write_padded(&mut self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        self.write(out, bytes)?;
        let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.write(out, &[0; BLOCK][..padding])
    }
}

/// The records of an extended header, without the times.
struct Records {
    bytes: Vec<u8>,
    size: Option<u64>,
}

impl Records {
    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut kept = Self {
            bytes: Vec::with_capacity(rest.len()),
            size: None,
        };
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ')?;
            let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
            let record = rest
                .get(..length)
                .filter(|r| r.len() > space + 1 && r.ends_with(b"\n"))?;
            let body = &record[space + 1..length - 1];
            let equals = body.iter().position(|b| *b == b'=')?;
            let (key, value) = (&body[..equals], &body[equals + 1..]);
            if key == b"size" {
                kept.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
            }
            let a_time = matches!(
                key,
                b"mtime" | b"atime" | b"ctime" | b"LIBARCHIVE.creationtime"
            );
            if !a_time {
                kept.bytes.extend_from_slice(record);
            }
            rest = &rest[length..];
        }
        Some(kept)
    }
}

/// An octal field, or GNU's binary form for large values.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let digits = &field[1..];
        let (high, low) = digits.split_at(digits.len().saturating_sub(8));
        let fits = field[0] == 0x80 && high.iter().all(|b| *b == 0);
        return fits.then(|| low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

/// Eleven octal digits and a zero byte. Both values that are written here fit.
fn set_number(field: &mut [u8], value: u64) {
    field.copy_from_slice(format!("{value:011o}\0").as_bytes());
}

/// The sum of the header's bytes, its own field counted as spaces.
fn checksum(header: &[u8; BLOCK]) -> u64 {
    header
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if CHECKSUM.contains(&i) {
                u64::from(b' ')
            } else {
                u64::from(*b)
            }
        })
        .sum()
}

/// Normalises an image configuration, whose layers get the names that [`layer`] gave them. `None` when it is not an
/// image configuration.
pub fn config(bytes: &[u8], diff_ids: &[String]) -> Option<Vec<u8>> {
    let mut config: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    config.insert("created".into(), CREATED.into());
    // The classic builder's record of the last build container: names and ids that are new each time.
    for key in [
        "container",
        "container_config",
        "docker_version",
        "parent",
        "id",
    ] {
        config.shift_remove(key);
    }
    if let Some(run) = config.get_mut("config").and_then(Value::as_object_mut) {
        for key in ["Hostname", "Domainname", "Image"] {
            run.shift_remove(key);
        }
    }
    for entry in config
        .get_mut("history")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("created".into(), CREATED.into());
        }
    }
    let rootfs = config.get_mut("rootfs")?.as_object_mut()?;
    rootfs.insert("diff_ids".into(), diff_ids.into());
    serde_json::to_vec(&config).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    type File = (String, Vec<u8>, u32);

    fn tar_of(files: &[File], mtime: u64, pax_time: Option<&str>) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content, mode) in files {
            if let Some(time) = pax_time {
                tar.append_pax_extensions([
                    ("mtime", time.as_bytes()),
                    ("SCHILY.xattr.user.x", b"kept"),
                ])
                .unwrap();
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            header.set_mtime(mtime);
            header.set_uid(7);
            tar.append_data(&mut header, name, &content[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn normalised(tar: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let written = layer(Cursor::new(tar), &mut out).unwrap();
        assert_eq!(written, out.len() as u64);
        out
    }

    fn read(tar: &[u8]) -> Vec<(File, u64, u64)> {
        let mut archive = tar::Archive::new(Cursor::new(tar));
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let (mode, mtime, uid) = (
                entry.header().mode().unwrap(),
                entry.header().mtime().unwrap(),
                entry.header().uid().unwrap(),
            );
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            ((name, content, mode), mtime, uid)
        });
        read.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn d_pack_17_only_the_times_change_and_the_result_does_not_depend_on_them(
            files in prop::collection::vec(("[a-z]{1,150}", prop::collection::vec(any::<u8>(), 0..3000), 0u32..0o7777), 0..8),
            times in (0u64..4_000_000_000, 0u64..4_000_000_000),
        ) {
            let (a, b) = (normalised(&tar_of(&files, times.0, None)), normalised(&tar_of(&files, times.1, None)));
            prop_assert_eq!(&a, &b); // D-PACK-17
            prop_assert_eq!(&normalised(&a), &a);
            let expected: Vec<_> = files.into_iter().map(|f| (f, MTIME, 7)).collect();
            prop_assert_eq!(read(&a), expected);
        }

        #[test]
        fn damaged_tars_never_panic_and_damaged_headers_are_errors(bytes in prop::collection::vec(any::<u8>(), 512..2000), at in 0usize..512, bit in 0u8..8) {
            prop_assert!(layer(Cursor::new(&bytes), io::sink()).is_err());
            let mut tar = tar_of(&[("a".into(), vec![1; 700], 0o644)], 5, None);
            tar[at] ^= 1 << bit;
            // The checksum's own padding is the one thing that may be written in several ways.
            prop_assert!(layer(Cursor::new(&tar), io::sink()).is_err() || CHECKSUM.contains(&at));
        }
    }

    #[test]
    fn a_number_in_binary_form_may_be_in_a_field_of_any_length() {
        let mut field = [0; 12];
        (field[0], field[10], field[11]) = (0x80, 1, 2);
        assert_eq!(number(&field), Some(258));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, b'2', 0]), Some(12_800));
        // Too large for what is done with it, or negative.
        field[3] = 1;
        assert_eq!(number(&field), None);
        assert_eq!(number(&[0xFF; 8]), None);
    }

    #[test]
    fn times_in_extended_headers_go_and_attributes_stay() {
        let files = [("a".to_owned(), b"x".to_vec(), 0o644)];
        let (a, b) = (
            normalised(&tar_of(&files, 1, Some("1700000000.5"))),
            normalised(&tar_of(&files, 2, Some("1"))),
        );
        assert_eq!(a, b);
        let text = String::from_utf8_lossy(&a);
        assert!(
            text.contains("SCHILY.xattr.user.x=kept") && !text.contains("mtime="),
            "{text}"
        );
    }

    #[test]
    fn a_truncated_tar_is_an_error_that_says_where() {
        let tar = tar_of(&[("a".into(), vec![1; 5000], 0o644)], 1, None);
        let error = layer(Cursor::new(&tar[..3000]), io::sink()).unwrap_err();
        assert!(error.to_string().contains("ends within a file"), "{error}");
        let error = layer(Cursor::new(&b"x".repeat(1024)), io::sink()).unwrap_err();
        assert!(error.to_string().contains("at byte 0"), "{error}");
    }

    #[test]
    fn d_pack_17_image_configurations_of_two_builds_become_one() {
        let build = |n: u32| {
            serde_json::json!({
                "architecture": "amd64",
                "config": {"Hostname": format!("host{n}"), "Cmd": ["/x"], "Image": format!("sha256:{n}"), "ExposedPorts": {"8080/tcp": {}}},
                "container": n.to_string(), "container_config": {"Hostname": n}, "created": format!("2026-01-01T00:00:0{n}Z"),
                "history": [{"created": format!("2026-01-01T00:00:0{n}Z"), "created_by": "COPY x"}],
                "os": "linux", "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{n}")]}
            })
            .to_string()
        };
        let of = |n| {
            String::from_utf8(config(build(n).as_bytes(), &["sha256:ab".into()]).unwrap()).unwrap()
        };
        assert_eq!(of(1), of(2)); // D-PACK-17
        insta::assert_snapshot!(of(1), @r#"{"architecture":"amd64","config":{"Cmd":["/x"],"ExposedPorts":{"8080/tcp":{}}},"created":"1980-01-01T00:00:00Z","history":[{"created":"1980-01-01T00:00:00Z","created_by":"COPY x"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:ab"]}}"#);
        assert_eq!(config(b"{}", &[]), None);
    }
}
