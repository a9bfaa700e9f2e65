//! Bytes and descriptors over a Unix stream, with deadlines: exact reads, `SCM_RIGHTS` counted and checked.
//!
//! Descriptors travel with one `sendmsg` whose data begins with a frame's header. The kernel ties them to the first byte
//! of that call, and the receiver reads a header alone and exactly: so descriptors always belong to the frame that is
//! being read, and a header's count tells whether any were lost.

use crate::{failure::Cause, wire::MAX_DESCRIPTORS};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, recvmsg, send, sendmsg, socket_with,
    },
    process::{Resource, getrlimit},
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS as usize));

/// Until one of `fds` is ready, or the deadline. `None` waits for ever. Says which are ready; none at the deadline.
pub(crate) fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    deadline: Option<Instant>,
) -> Result<[bool; N], Cause> {
    let mut polled = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    loop {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Cause::io("waiting for the other process", error)),
        }
    }
}

fn ready(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Instant,
    waited_for: &'static str,
) -> Result<(), Cause> {
    match wait([(fd, flags)], Some(deadline))? {
        [true] => Ok(()),
        [false] => Err(Cause::TimedOut { waited_for }),
    }
}

/// Sends a frame and the descriptors that belong to it. The stream is non-blocking.
pub(crate) fn send_all(
    stream: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
    waited_for: &'static str,
) -> Result<(), Cause> {
    let mut sent = 0;
    while sent < bytes.len() {
        let result = if sent == 0 && !descriptors.is_empty() {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(Cause::io("sending descriptors", Errno::TOOMANYREFS));
            }
            sendmsg(
                stream,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        } else {
            send(stream, &bytes[sent..], SendFlags::NOSIGNAL)
        };
        match result {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready(stream, PollFlags::OUT, deadline, waited_for)?,
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Cause::Ended),
            Err(error) => return Err(Cause::io("sending to the other process", error)),
        }
    }
    Ok(())
}

/// Fills `buffer` exactly, and adds the descriptors that come along to `descriptors`; they close on exec. The stream is
/// non-blocking. Reports whether the kernel had to drop any.
pub(crate) fn receive_exact(
    stream: BorrowedFd<'_>,
    mut buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    deadline: Instant,
    waited_for: &'static str,
) -> Result<bool, Cause> {
    let mut truncated = false;
    while !buffer.is_empty() {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(
            stream,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => {
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                truncated |= received.flags.contains(ReturnFlags::CTRUNC);
                if received.bytes == 0 {
                    return Err(Cause::Ended);
                }
                buffer = &mut buffer[received.bytes..];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready(stream, PollFlags::IN, deadline, waited_for)?,
            // The other side closed with bytes of ours unread.
            Err(Errno::CONNRESET) => return Err(Cause::Ended),
            Err(error) => return Err(Cause::io("receiving from the other process", error)),
        }
    }
    Ok(truncated)
}

/// Has the table of this process's descriptors grow to `more` than are open now. It grows by doubling, and each time a
/// process with threads waits for every processor to notice (`synchronize_rcu` in the kernel's `expand_fdtable`), some
/// milliseconds: better before anything is frozen. Nothing depends on it, so an error is none.
pub(crate) fn make_room(more: u64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    // Descriptors are given out from below: the highest one that will be needed, for a moment.
    if let Ok(highest) = i32::try_from(open + more)
        && let Ok(null) = std::fs::File::open("/dev/null")
    {
        drop(rustix::io::fcntl_dupfd_cloexec(&null, highest));
    }
}

/// How many descriptors this process can still open: its soft limit less what is open.
///
/// # Errors
/// `/proc` is not mounted.
pub fn room() -> std::io::Result<u64> {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(u64::MAX);
    };
    // Reading the folder takes one itself, which is not worth subtracting.
    let open = std::fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok(limit.saturating_sub(open))
}

/// Connects to a Unix socket. A listener whose owner is stopped fills its backlog, and a plain connect would wait there
/// for ever.
pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<UnixStream, Cause> {
    const DOING: &str = "connecting to the predecessor";
    loop {
        match try_connect(path) {
            Ok(stream) => return Ok(stream),
            // A full backlog cannot be polled for.
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(Errno::AGAIN) => {
                return Err(Cause::TimedOut {
                    waited_for: "room in the listener's backlog",
                });
            }
            Err(error) => return Err(Cause::io(DOING, error)),
        }
    }
}

/// Connects at once, or not: `AGAIN` is a full backlog. The stream is non-blocking.
pub(crate) fn try_connect(path: &Path) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
