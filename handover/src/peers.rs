//! Who may be the other side.

use crate::failure::Cause;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::os::unix::net::UnixStream;

/// Refuses a peer that is neither our own user, nor root, nor one of `trusted`.
///
/// The kernel has noted the user at `connect` or `listen`. Of a listener that was itself handed over that is whoever
/// bound it first. The process id says nothing: 0 for a process in another container.
pub(crate) fn check(stream: &UnixStream, trusted: &[u32]) -> Result<(), Cause> {
    let uid = getsockopt(stream, PeerCredentials)
        .map_err(|e| Cause::io("asking for the peer's user", e))?
        .uid();
    if uid == 0 || uid == rustix::process::geteuid().as_raw() || trusted.contains(&uid) {
        Ok(())
    } else {
        Err(Cause::NotOurs { uid })
    }
}
