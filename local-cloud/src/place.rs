//! Where a local cloud keeps its files, and what they say.
//!
//! `$XDG_STATE_HOME/porter/local/NAME/` (else `~/.local/state/…`), mode 0700, goes with `porter local down`:
//!
//! | file | what |
//! |---|---|
//! | `cloud.json` | [`Cloud`](CloudFile): written when the cloud is ready |
//! | `fleet.json` | the fleet's process, written as its first act |
//! | `failed` | why the fleet ended, when it did |
//! | `env` | `export …` lines |
//! | `program` | copy of this program: a rebuild must not pull the ground from under running hosts |
//! | `emulator.log`, `fleet.log`, `emulator/` | MiniStack's output and files |
//! | `hosts/INSTANCE/` | one simulated host: see [`crate::host`] |

use crate::process::Process;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    env, fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Names and directories of one local cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cloud's name: several may run beside each other.
    pub name: String,
    /// Its state directory.
    pub state: PathBuf,
    /// The user's cache: MiniStack's private virtual environment, shared by all clouds.
    pub cache: PathBuf,
}

/// What a ready cloud says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudFile {
    /// MiniStack.
    pub emulator: Process,
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    /// Regions in which groups are followed; the first is the default one.
    pub regions: Vec<String>,
    /// The exported variables.
    pub env: BTreeMap<String, String>,
}

impl Place {
    /// The cloud of this name, below `XDG_STATE_HOME` and `XDG_CACHE_HOME`.
    ///
    /// # Errors
    /// The name is not a plain word, or neither the XDG variables nor `HOME` are set.
    pub fn from_env(name: &str) -> Result<Self> {
        let base = |variable: &str, fallback: &str| -> Result<PathBuf> {
            match (
                env::var_os(variable).filter(|v| !v.is_empty()),
                env::var_os("HOME").filter(|v| !v.is_empty()),
            ) {
                (Some(dir), _) => Ok(dir.into()),
                (None, Some(home)) => Ok(Path::new(&home).join(fallback)),
                (None, None) => bail!(
                    "neither {variable} nor HOME is set, so there is no place for the local cloud's files"
                ),
            }
        };
        Self::below(
            name,
            &base("XDG_STATE_HOME", ".local/state")?,
            &base("XDG_CACHE_HOME", ".cache")?,
        )
    }

    /// The cloud of this name below these directories.
    ///
    /// # Errors
    /// The name is not a plain word, or the path can't be given to an overlay mount.
    pub fn below(name: &str, state: &Path, cache: &Path) -> Result<Self> {
        if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            bail!("`{name}` is not a name for a local cloud: use letters, digits, `-` and `_`");
        }
        let state = std::path::absolute(state)?.join("porter/local").join(name);
        if state
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|b| b",:\\".contains(b))
        {
            bail!(
                "{}: overlay mounts don't take a path with `,`, `:` or `\\`; set XDG_STATE_HOME to another directory",
                state.display()
            );
        }
        Ok(Self {
            name: name.to_owned(),
            state,
            cache: std::path::absolute(cache)?.join("porter"),
        })
    }

    /// A file of the state directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The directory of one host.
    pub fn host(&self, instance: &str) -> PathBuf {
        self.state.join("hosts").join(instance)
    }

    /// Instance ids of all hosts that ever ran here and have not been removed.
    pub fn hosts(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.state.join("hosts")) else {
            return vec![];
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        ids.sort();
        ids
    }

    /// What the cloud says about itself; none when it is not ready.
    pub fn cloud(&self) -> Option<CloudFile> {
        read_json(&self.file("cloud.json")).ok()
    }

    /// The fleet's process, when it runs.
    pub fn fleet(&self) -> Option<Process> {
        read_json::<Process>(&self.file("fleet.json"))
            .ok()
            .filter(|p| p.is_alive())
    }

    /// Takes the lock under which clouds of this user are started and taken down, waiting for others. It is on a
    /// directory, so it leaves no file behind; it is released on drop.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn lock(&self) -> Result<fs::File> {
        let dir = self
            .state
            .parent()
            .context("the state directory has no parent")?;
        loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| dir.display().to_string())?;
            let Ok(file) = fs::File::open(dir) else {
                continue;
            };
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            // The one before us may have removed the directory as its last act.
            if dir.exists() {
                return Ok(file);
            }
        }
    }
}

/// Reads a JSON file.
///
/// # Errors
/// It is missing, unreadable or of another form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// Writes a JSON file aside and renames it.
///
/// # Errors
/// The file can't be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?, 0o600)
}

/// Writes a file aside, with a mode, and renames it.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().context("no file name")?.to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&aside)
        .with_context(|| aside.display().to_string())?;
    file.write_all(bytes)?;
    fs::rename(&aside, path).with_context(|| path.display().to_string())
}

/// Values quoted for a POSIX shell, one `export` per line.
pub fn exports(env: &BTreeMap<String, String>) -> String {
    env.iter()
        .map(|(k, v)| format!("export {k}='{}'\n", v.replace('\'', r"'\''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_values_come_back_from_a_shell_as_they_were() {
        let value = "a 'b' $HOME `x` \"y\" \\";
        let script = exports(&BTreeMap::from([("PORTER_T".to_owned(), value.to_owned())]))
            + "printf %s \"$PORTER_T\"";
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), value);
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        for bad in ["", "..", "a/b", "a b"] {
            assert!(
                Place::below(bad, Path::new("/s"), Path::new("/c")).is_err(),
                "{bad}"
            );
        }
        assert_eq!(
            Place::below("x", Path::new("/s"), Path::new("/c"))
                .unwrap()
                .state,
            Path::new("/s/porter/local/x")
        );
    }
}
