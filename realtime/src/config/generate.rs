//! Makes API keys when an installation starts for the first time (R-CFG-4).

use super::load::read_api_keys;
use super::{API_KEYS_FILE, ApiKey, Errors, Finding, Loaded, Source};
use rand::distr::{Alphanumeric, SampleString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

impl Loaded {
    /// Makes two API keys when there are none, and says where they are (R-CFG-4). They are written aside and linked into
    /// place, with mode 0600: of two processes that start at once both take the keys of the first.
    ///
    /// # Errors
    /// The data directory can't be written; the message says which, and what to set instead.
    pub fn generate_api_keys(&mut self) -> Result<Option<PathBuf>, Errors> {
        if !self.settings.api_keys.is_empty() {
            return Ok(None);
        }
        let dir = &self.settings.data_dir;
        let path = dir.join(API_KEYS_FILE);
        let text = write_api_keys(dir, &path).map_err(|e| {
            let message = format!(
                "cannot be written: {e}; set `data_dir` to a directory that can, or `api_keys` to keys of your own"
            );
            Errors(vec![Finding { source: Source::File(path.clone(), 0), key: String::new(), message }])
        })?;
        let (keys, mut wrong) = read_api_keys(&path, &text);
        if keys.is_empty() && wrong.is_empty() {
            wrong.push(Finding {
                source: Source::File(path.clone(), 0),
                key: String::new(),
                message: "holds no key; remove it, and two are generated".into(),
            });
        }
        if !wrong.is_empty() {
            return Err(Errors(wrong));
        }
        self.settings.api_keys = keys;
        self.watch.add(&path);
        Ok(Some(path))
    }
}

fn write_api_keys(dir: &Path, path: &Path) -> io::Result<String> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let random = |length| Alphanumeric.sample_string(&mut rand::rng(), length);
    let text = format!("{}\n{}\n", random(ApiKey::LENGTH), random(ApiKey::LENGTH));
    // Not by process id: containers that share the directory are all process 1.
    let aside = dir.join(format!(".{API_KEYS_FILE}.{}", random(8)));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    fs::File::open(dir)?.sync_all()?;
    match linked {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => fs::read_to_string(path),
        linked => linked.map(|()| text),
    }
}
