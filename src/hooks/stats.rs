//! Credentials of the proxy's statistics page: made by each pack, told to hooks, never part of the configuration, so that
//! packing a commit twice gives the same payload (D-PACK-15, D-PACK-16).

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const BYTES: usize = 16;

/// User name and password, 16 random bytes each, in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsCredentials {
    /// 32 hex digits.
    pub username: String,
    /// 32 hex digits.
    pub password: String,
}

impl fmt::Debug for StatsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatsCredentials(…)")
    }
}

impl StatsCredentials {
    /// Makes new ones and writes them to `.porter-tmp/haproxy-stats.json`, readable for its owner alone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(out: &Path) -> io::Result<Self> {
        let mut random = [0; 2 * BYTES];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let credentials = Self {
            username: hex::encode(&random[..BYTES]),
            password: hex::encode(&random[BYTES..]),
        };
        fs::create_dir_all(out)?;
        // Made anew, not truncated: the mode of a file that exists would stay what it is.
        match fs::remove_file(file(out)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut new = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file(out))?;
        new.write_all(&serde_json::to_vec(&credentials).map_err(io::Error::other)?)?;
        Ok(credentials)
    }

    /// Reads those of the last pack.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a damaged file.
    pub fn read(out: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(file(out))?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

fn file(out: &Path) -> PathBuf {
    out.join("haproxy-stats.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn d_pack_15_16_they_are_random_long_and_readable_for_their_owner_alone() {
        let out = tempfile::tempdir().unwrap();
        fs::write(file(out.path()), "old").unwrap();
        let one = StatsCredentials::create(out.path()).unwrap();
        assert_eq!((one.username.len(), one.password.len()), (32, 32)); // D-PACK-15
        assert_eq!(
            fs::metadata(file(out.path())).unwrap().permissions().mode() & 0o777,
            0o600
        ); // D-PACK-16
        assert!(StatsCredentials::read(out.path()).unwrap() == one);
        assert!(StatsCredentials::create(out.path()).unwrap() != one);
    }
}
