//! Headroom: old and new run side by side, so the host must hold both (D-HOST-14). Checked before anything changes.

use crate::{docker::Engine, failure::Failure, observe::Facts};
use contract::{signal::CauseCode, spec::HostSpec};
use std::{os::unix::fs::MetadataExt, path::Path};

/// Free disk must exceed what comes by 20 %.
///
/// # Errors
/// [`CauseCode::DiskFull`] with the numbers.
pub fn disk(
    state: &Path,
    engine_root: Option<&str>,
    to_fetch: u64,
    to_unpack: u64,
) -> Result<(), Failure> {
    // The engine's folder may be out of this process's sight; its disk is then taken to be the root's.
    let engine = engine_root
        .map(Path::new)
        .filter(|p| p.exists())
        .unwrap_or(Path::new("/"));
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    let needs = if device(state) == device(engine) {
        vec![(state, to_fetch.saturating_add(to_unpack))]
    } else {
        vec![(state, to_fetch), (engine, to_unpack)]
    };
    for (path, bytes) in needs.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let stat = rustix::fs::statvfs(path)
            .map_err(|e| Failure::file("measuring the disk of", path, &e.into()))?;
        enough(
            "disk",
            &path.display().to_string(),
            stat.f_bavail * stat.f_frsize,
            bytes,
            20,
            CauseCode::DiskFull,
        )?;
    }
    Ok(())
}

/// Free memory must exceed the new containers' limits by 10 %; where one has no limit, what its predecessor uses counts.
///
/// # Errors
/// [`CauseCode::MemoryLow`] with the numbers.
pub async fn memory(
    engine: &Engine,
    spec: &HostSpec,
    before: &Facts,
    swap: &str,
) -> Result<(), Failure> {
    let mut wanted = 0;
    for container in &spec.containers {
        // One of this swap that runs already has its memory.
        if before.running(swap).any(|c| c.name == container.name) {
            continue;
        }
        let more = match container.memory {
            Some(limit) => limit,
            None => {
                let old = before
                    .containers
                    .iter()
                    .find(|c| c.running && c.swap != swap && c.name == container.name);
                match old {
                    Some(old) => engine.memory_in_use(&old.id).await,
                    None => 0,
                }
            }
        };
        wanted = u64::saturating_add(wanted, more);
    }
    let Some(available) = available_memory() else {
        return Ok(());
    };
    enough(
        "memory",
        "this host",
        available,
        wanted,
        10,
        CauseCode::MemoryLow,
    )
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// Pure: whether `free` exceeds `wanted` by so many percent.
fn enough(
    what: &str,
    place: &str,
    free: u64,
    wanted: u64,
    percent: u64,
    code: CauseCode,
) -> Result<(), Failure> {
    let needed = wanted.saturating_add(wanted / 100 * percent);
    if wanted == 0 || free > needed {
        return Ok(());
    }
    const MIB: u64 = 1024 * 1024;
    Err(Failure::new(
        code,
        format!(
            "not enough {what} on {place} for the new version beside the old one: {} MiB are free, {} MiB and {percent} % more are needed; nothing was changed",
            free / MIB,
            wanted.div_ceil(MIB)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_host_14_a_host_without_room_for_both_versions_says_so_with_the_numbers() {
        // D-HOST-14
        const MIB: u64 = 1024 * 1024;
        let check = |free| {
            enough(
                "memory",
                "this host",
                free,
                1000 * MIB,
                10,
                CauseCode::MemoryLow,
            )
        };
        assert_eq!(check(1101 * MIB), Ok(()));
        let failure = check(1100 * MIB).unwrap_err();
        assert_eq!(failure.code, CauseCode::MemoryLow);
        assert!(
            failure
                .message
                .contains("1100 MiB are free, 1000 MiB and 10 % more"),
            "{failure}"
        );
        assert_eq!(enough("disk", "/", 0, 0, 20, CauseCode::DiskFull), Ok(()));
    }

    #[test]
    fn d_host_14_free_disk_is_measured_before_anything_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let failure = disk(folder.path(), None, u64::MAX / 4, 0).unwrap_err();
        assert_eq!(failure.code, CauseCode::DiskFull);
        assert_eq!(disk(folder.path(), None, 1, 1), Ok(()));
    }
}
