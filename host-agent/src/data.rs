//! What containers keep on the host (`data: true`): a folder for each, which the next version of the container finds again.
//! It outlives every swap, and goes with the instance; what must survive that belongs elsewhere.

use crate::failure::Failure;
use contract::names::path;
use rustix::fs::{Gid, Uid};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Whose folder: no other container of the host has it.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// The service; letters, digits, `_` and `-`.
    pub service: &'a str,
    /// The container; no hyphen, so that two names never run into each other.
    pub container: &'a str,
}

/// The folder of all of them.
#[derive(Clone, Debug)]
pub struct Data {
    folder: PathBuf,
    /// The same folder as the engine sees it.
    in_engine: PathBuf,
}

impl Data {
    /// `in_engine`, when the engine lives in another root than this process.
    pub fn new(folder: &Path, in_engine: Option<&Path>) -> Self {
        Self {
            folder: folder.to_owned(),
            in_engine: in_engine.unwrap_or(folder).to_owned(),
        }
    }

    /// Where a folder lies for the engine, and where it is mounted.
    pub fn mount(&self, folder: Folder<'_>) -> (PathBuf, PathBuf) {
        (self.in_engine.join(folder.name()), path::DATA_INSIDE.into())
    }

    /// Makes a folder that only user `uid` may enter; one that is there keeps what is in it.
    ///
    /// # Errors
    /// [`contract::signal::CauseCode::Internal`], or a full disk.
    pub fn make(&self, folder: Folder<'_>, uid: u32) -> Result<(), Failure> {
        let private = Permissions::from_mode(0o700);
        let own = self.folder.join(folder.name());
        let make = || -> io::Result<()> {
            fs::create_dir_all(&own)?;
            fs::set_permissions(&self.folder, private.clone())?;
            fs::set_permissions(&own, private)?;
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(0));
            Ok(rustix::fs::chown(&own, Some(user), Some(group))?)
        };
        make().map_err(|e| Failure::file("making a container's data folder", &own, &e))
    }
}

impl Folder<'_> {
    fn name(&self) -> String {
        format!("{}-{}", self.service, self.container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_containers_data_stays_and_is_its_own() {
        let there = tempfile::tempdir().unwrap();
        let data = Data::new(&there.path().join("data"), Some(Path::new("/elsewhere")));
        let folder = |container| Folder {
            service: "a-b",
            container,
        };
        data.make(folder("web"), 0).unwrap();
        let own = there.path().join("data/a-b-web");
        fs::write(own.join("kept"), "1").unwrap();
        data.make(folder("web"), 1001).unwrap();
        assert_eq!(fs::read(own.join("kept")).unwrap(), b"1");
        let facts = fs::metadata(&own).unwrap();
        assert_eq!((facts.mode() & 0o777, facts.uid()), (0o700, 1001));
        let root = fs::metadata(there.path().join("data")).unwrap();
        assert_eq!(root.mode() & 0o777, 0o700);
        assert_eq!(
            data.mount(folder("web")),
            ("/elsewhere/a-b-web".into(), "/data".into())
        );
        assert_ne!(data.mount(folder("web")), data.mount(folder("api")));
    }
}
