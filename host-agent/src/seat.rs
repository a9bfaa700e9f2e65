//! Seats: the sockets that the successive containers of a service hold one after the other, and where a container is
//! reached.
//!
//! A seat is a directory below `/run/porter` that is mounted into its containers at the same path. Two sockets belong to
//! the seat itself, because their listeners are handed over: the public one, which the proxy knows, and the one at which
//! a successor finds its predecessor. Two more belong to each process. So a handover changes no name, and the proxy needs
//! not be told of it.
//!
//! A container begins a seat of its own when it has no predecessor, or none whose connections it can read.

use crate::failure::Failure;
use rustix::fs::{Gid, Uid};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, Permissions},
    io,
    net::SocketAddrV4,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The kernel's limit for the path of a Unix socket (`sun_path`), without its last zero.
const MAX_PATH: usize = 107;

/// Where an inet container is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Published by the engine.
    Tcp(SocketAddrV4),
    /// By whoever holds the seat.
    Seat(Seat),
}

impl Endpoint {
    /// Where it is published, if it is.
    pub fn tcp(&self) -> Option<SocketAddrV4> {
        match self {
            Endpoint::Tcp(at) => Some(*at),
            Endpoint::Seat(_) => None,
        }
    }

    /// The seat, if it has one.
    pub fn seat(&self) -> Option<&Seat> {
        match self {
            Endpoint::Tcp(_) => None,
            Endpoint::Seat(seat) => Some(seat),
        }
    }

    /// As a server's address in the proxy's configuration: its root directory is that of all seats.
    pub fn in_proxy(&self) -> String {
        match self {
            Endpoint::Tcp(at) => at.to_string(),
            Endpoint::Seat(seat) => format!("unix@/{seat}/{INET}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(at) => at.fmt(f),
            Endpoint::Seat(seat) => write!(f, "unix:{seat}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("unix:") {
            Some(seat) => seat.parse().map(Endpoint::Seat),
            None => text.parse().map(Endpoint::Tcp).map_err(|_| ()),
        }
    }
}

const INET: &str = "inet.sock";

/// A seat's name: `s` and ten hexadecimal digits, because the whole path of a socket has 107 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat(String);

impl Seat {
    /// The seat that this container begins when it has no other. Always the same, so that a repetition finds its own.
    pub fn begun_by(instance: &str, swap: &str, container: &str) -> Self {
        Self(format!("s{}", short_hash(&[instance, swap, container], 5)))
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Seat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('s').ok_or(())?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (digits.len() == 10 && digits.bytes().all(hex))
            .then(|| Self(text.to_owned()))
            .ok_or(())
    }
}

/// The sockets of one process on a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// `PORTER_INET_SOCKET`: the seat's, travels.
    pub inet: PathBuf,
    /// `PORTER_HANDOVER_SOCKET`: the seat's, travels.
    pub handover: PathBuf,
    /// `PORTER_CONTROL_SOCKET`: this process's.
    pub control: PathBuf,
    /// `PORTER_HEALTH_SOCKET`: this process's.
    pub health: PathBuf,
}

/// The seats of this host.
#[derive(Clone, Debug)]
pub struct Seats {
    /// Here, and in the containers.
    folder: PathBuf,
    /// The same folder as the engine sees it.
    in_engine: PathBuf,
}

impl Seats {
    /// `in_engine`, when the engine lives in another root than this process.
    pub fn new(folder: &Path, in_engine: Option<&Path>) -> Self {
        Self {
            folder: folder.to_owned(),
            in_engine: in_engine.unwrap_or(folder).to_owned(),
        }
    }

    /// The folder of all seats: the proxy's root directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The sockets of the process that this swap started on a seat.
    pub fn sockets(&self, seat: &Seat, swap: &str) -> Sockets {
        let folder = self.folder.join(&seat.0);
        let process = short_hash(&[swap], 4);
        Sockets {
            inet: folder.join(INET),
            handover: folder.join("handover.sock"),
            control: folder.join(format!("control-{process}.sock")),
            health: folder.join(format!("health-{process}.sock")),
        }
    }

    /// Where a seat lies for the engine, and where it is mounted.
    pub fn mount(&self, seat: &Seat) -> (PathBuf, PathBuf) {
        (self.in_engine.join(&seat.0), self.folder.join(&seat.0))
    }

    /// Makes the folder of all seats: the proxy does not start without it.
    ///
    /// # Errors
    /// [`contract::signal::CauseCode::Internal`], or a full disk.
    pub fn prepare(&self) -> Result<(), Failure> {
        let made = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::set_permissions(&self.folder, Permissions::from_mode(0o755)));
        made.map_err(|e| Failure::file("making the sockets' folder", &self.folder, &e))
    }

    /// Makes a seat for processes of user `uid`: they bind sockets there, and everybody may connect, because the proxy
    /// runs as a user of its own.
    ///
    /// # Errors
    /// As [`Seats::prepare`]; and when a socket's path would be longer than the kernel allows.
    pub fn make(&self, seat: &Seat, uid: u32) -> Result<(), Failure> {
        let longest = self.sockets(seat, "").control;
        if longest.as_os_str().len() > MAX_PATH {
            return Err(Failure::internal(format!(
                "the path of a socket, {}, has {} bytes, and the kernel allows {MAX_PATH}: give the sockets a folder with a shorter path (PORTER_SOCKETS_DIR)",
                longest.display(),
                longest.as_os_str().len()
            )));
        }
        self.prepare()?;
        let folder = self.folder.join(&seat.0);
        let make = || -> io::Result<()> {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(0));
            Ok(rustix::fs::chown(&folder, Some(user), Some(group))?)
        };
        make().map_err(|e| Failure::file("making a seat's folder", &folder, &e))
    }

    /// The user whose processes a seat is for.
    pub fn user(&self, seat: &Seat) -> Option<u32> {
        fs::metadata(self.folder.join(&seat.0))
            .ok()
            .map(|m| m.uid())
    }

    /// Removes all other seats. Returns what did not work.
    pub fn keep_only(&self, seats: &BTreeSet<Seat>) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let unwanted = entries.filter(|e| {
            let name = e.file_name();
            let seat = name.to_str().and_then(|n| n.parse::<Seat>().ok());
            seat.is_some_and(|s| !seats.contains(&s))
        });
        let removed = unwanted.map(|e| (e.path(), fs::remove_dir_all(e.path())));
        removed
            .filter_map(|(path, result)| {
                let error = result.err()?;
                Some(format!("{} can't be removed: {error}", path.display()))
            })
            .collect()
    }
}

/// So many bytes of a SHA-256, as hexadecimal digits.
fn short_hash(parts: &[&str], bytes: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_it_is_written_and_the_proxy_sees_paths_below_its_root() {
        let seat = Seat::begun_by("i-0abc", "01A", "web");
        assert_eq!(seat, Seat::begun_by("i-0abc", "01A", "web"));
        assert_ne!(seat, Seat::begun_by("i-0abc", "01A", "api"));
        for endpoint in [
            Endpoint::Tcp("127.0.0.1:20000".parse().unwrap()),
            Endpoint::Seat(seat.clone()),
        ] {
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
        assert_eq!(
            Endpoint::Seat(seat.clone()).in_proxy(),
            format!("unix@/{seat}/inet.sock")
        );
        for bad in ["unix:", "unix:s12", "unix:s012345678/", "8080"] {
            assert_eq!(bad.parse::<Endpoint>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn processes_of_one_seat_share_what_travels_and_nothing_else() {
        let seats = Seats::new(Path::new("/run/porter"), None);
        let seat = Seat::begun_by("i-0abc", "01A", "web");
        let (a, b) = (seats.sockets(&seat, "01A"), seats.sockets(&seat, "01B"));
        assert_eq!((&a.inet, &a.handover), (&b.inet, &b.handover));
        assert!(a.control != b.control && a.health != b.health);
        let here = format!("/run/porter/{seat}/");
        for path in [&a.inet, &a.handover, &a.control, &a.health] {
            assert!(path.to_str().unwrap().starts_with(&here));
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let seat = Seat::begun_by("i-0abc", "01A", "web");
        let fits = Seats::new(folder.path(), None);
        fits.make(&seat, 1001).unwrap();
        assert_eq!(fits.user(&seat), Some(1001));
        let long = Seats::new(&folder.path().join("x".repeat(80)), None);
        let failure = long.make(&seat, 1001).unwrap_err();
        assert!(failure.message.contains("PORTER_SOCKETS_DIR"), "{failure}");
        // What no container uses any more goes; what is not ours stays.
        fs::create_dir(folder.path().join("other")).unwrap();
        assert_eq!(fits.keep_only(&BTreeSet::new()), Vec::<String>::new());
        assert_eq!(
            (fits.user(&seat), folder.path().join("other").exists()),
            (None, true)
        );
    }
}
