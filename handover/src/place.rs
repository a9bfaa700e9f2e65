//! Where the processes of a service find each other.
//!
//! | variable | names | whose |
//! |---|---|---|
//! | `PORTER_INET_SOCKET` | the public Unix socket | the service's: the listener travels |
//! | `PORTER_HANDOVER_SOCKET` | the handover socket | the service's: the listener travels, as [`HANDOVER`] |
//! | `PORTER_CONTROL_SOCKET` | the control socket | this one process's: it never travels |
//!
//! The handover socket is bound once, by the first process, and its listener is handed over with all others. So whoever
//! serves is who accepts there: there is no name to be moved after the commit, and no moment in which it points to
//! nobody. A successor that connects too early or too late waits in the backlog for whoever comes out as the owner.

use crate::descriptors::try_connect;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    env,
    fs::{File, Permissions, remove_file, set_permissions},
    io::{self, ErrorKind},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

/// The name under which the handover socket's own listener is handed over.
pub const HANDOVER: &str = "handover";

/// The sockets of one process, as its environment names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The public socket, if the service has one.
    pub inet: Option<PathBuf>,
    /// The handover socket.
    pub handover: PathBuf,
    /// The control socket. Without one nobody leads this process.
    pub control: Option<PathBuf>,
}

impl Place {
    /// From the variables of this process.
    ///
    /// # Errors
    /// No handover socket is named.
    pub fn from_environment() -> io::Result<Self> {
        let path = |variable| env::var_os(variable).map(PathBuf::from);
        let missing = || io::Error::new(ErrorKind::NotFound, "PORTER_HANDOVER_SOCKET is not set");
        Ok(Self {
            inet: path("PORTER_INET_SOCKET"),
            handover: path("PORTER_HANDOVER_SOCKET").ok_or_else(missing)?,
            control: path("PORTER_CONTROL_SOCKET"),
        })
    }
}

/// Whether a process listens at `path`, be it a stopped one. Never waits.
///
/// # Errors
/// Neither yes nor no, such as a lack of permission.
pub fn is_held(path: &Path) -> io::Result<bool> {
    match try_connect(path) {
        // A full backlog is somebody's.
        Ok(_) | Err(Errno::AGAIN) => Ok(true),
        // Nobody holds the socket behind this name any more; or there is no name.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Listens at `path`, replacing what a dead process left there. A lock file beside it keeps two first processes apart.
/// The listener is non-blocking.
///
/// Whoever reaches the folder may connect, whatever the umask: a proxy has to, and processes of a service may run as
/// different users. Who may take part in a handover, or lead it, is decided by credentials.
///
/// # Errors
/// `AddrInUse`: somebody listens there. Otherwise what the file system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let lock = open_lock(&beside(path))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if is_held(path)? {
        return Err(io::Error::new(
            ErrorKind::AddrInUse,
            format!("another process listens at {}", path.display()),
        ));
    }
    match remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    set_permissions(path, Permissions::from_mode(0o777))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Reading is enough to lock, so a file that another user left is no obstacle.
fn open_lock(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(path);
            // Another user was faster.
            file.or_else(|_| File::open(path))
        }
        opened => opened,
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::{bind, is_held};
    use std::io::ErrorKind;

    #[test]
    fn a_socket_that_a_dead_process_left_is_bound_again_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.sock");
        assert!(!is_held(&path).unwrap());
        let listener = bind(&path).unwrap();
        assert!(is_held(&path).unwrap());
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
        assert!(!is_held(&path).unwrap());
        bind(&path).unwrap();
    }
}
