//! Where clients connect: TCP addresses and Unix sockets.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::event::Source as _;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};

use super::socket::Stream;
use crate::config::Address;

/// After a failed accept (no descriptors left), how long until the next try.
const RETRY: Duration = Duration::from_millis(100);

/// One open listener.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    address: Address,
    /// Whom it is for.
    pub door: Door,
    /// More sockets may wait, although the kernel will not say so again.
    pub has_more: bool,
    /// Not before, after a failure.
    pub retry: Option<Instant>,
}

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Clients and backends.
    Public,
    /// Operators: health, metrics and info without a key, and nothing else.
    Operations,
    /// A successor (`docs/handover.md`).
    Handover,
}

impl Door {
    /// Whether the listener goes to the successor with all connections.
    pub fn travels(self) -> bool {
        matches!(self, Self::Public | Self::Handover)
    }
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Opens a listener.
    ///
    /// The file of a Unix socket that nobody serves any more is replaced; one that is served is an error. Everybody who
    /// can reach its folder may connect: the proxy runs as another user, and the folder's permissions decide.
    ///
    /// # Errors
    /// The address is in use, not one of this host, or its folder does not exist.
    pub fn open(
        address: &Address,
        door: Door,
        registry: &Registry,
        token: Token,
    ) -> anyhow::Result<Self> {
        let source = match address {
            Address::Tcp(at) => TcpListener::bind(*at).map(Source::Tcp),
            Address::Unix(path) => handover::place::bind(path)
                .map(|listener| Source::Unix(UnixListener::from_std(listener))),
        }
        .with_context(|| format!("can't listen on {address}"))?;
        Self::register(source, address, door, registry, token)
    }

    /// A listener that another process has opened.
    ///
    /// # Errors
    /// The kernel's.
    pub fn inherit(
        fd: OwnedFd,
        address: &Address,
        door: Door,
        registry: &Registry,
        token: Token,
    ) -> anyhow::Result<Self> {
        let source = match address {
            Address::Tcp(_) => Source::Tcp(TcpListener::from_std(fd.into())),
            Address::Unix(_) => Source::Unix(UnixListener::from_std(fd.into())),
        };
        Self::register(source, address, door, registry, token)
    }

    fn register(
        mut source: Source,
        address: &Address,
        door: Door,
        registry: &Registry,
        token: Token,
    ) -> anyhow::Result<Self> {
        match &mut source {
            Source::Tcp(listener) => listener.register(registry, token, Interest::READABLE),
            Source::Unix(listener) => listener.register(registry, token, Interest::READABLE),
        }
        .with_context(|| format!("can't await connections on {address}"))?;
        Ok(Self {
            source,
            address: address.clone(),
            door,
            // Somebody may wait since before the kernel was asked.
            has_more: true,
            retry: None,
        })
    }

    /// The name by which it travels to another process.
    pub fn name(&self) -> String {
        match self.door {
            Door::Handover => format!("{} {}", handover::place::HANDOVER, self.address()),
            _ => format!("public {}", self.address()),
        }
    }

    /// Reads such a name.
    pub fn parse_name(name: &str) -> Option<(Address, Door)> {
        let (door, address) = name.split_once(' ')?;
        let door = match door {
            handover::place::HANDOVER => Door::Handover,
            "public" => Door::Public,
            _ => return None,
        };
        Some((address.parse().ok()?, door))
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Tcp(listener) => listener.as_fd(),
            Source::Unix(listener) => listener.as_fd(),
        }
    }

    /// It is another process's: the file of a Unix socket stays.
    pub fn let_go(mut self, registry: &Registry) {
        // It fails only if it was not registered.
        let _ = match &mut self.source {
            Source::Tcp(listener) => listener.deregister(registry),
            Source::Unix(listener) => listener.deregister(registry),
        };
    }

    /// Where this listener really is: with the port that the kernel chose, if it was to choose.
    pub fn address(&self) -> impl fmt::Display {
        match &self.source {
            Source::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| self.address.clone(), Address::Tcp),
            Source::Unix(_) => self.address.clone(),
        }
    }

    /// Takes a socket that waits, with its peer's address if it has one.
    ///
    /// # Errors
    /// The kernel's, but for "nothing waits", which is `None`.
    pub fn accept(&mut self) -> io::Result<Option<(Stream, Option<IpAddr>)>> {
        self.has_more = true;
        loop {
            let accepted = match &self.source {
                Source::Tcp(listener) => listener.accept().and_then(|(stream, peer)| {
                    // Frames are written when they are complete; waiting for more would only delay them.
                    stream.set_nodelay(true)?;
                    Ok((Stream::Tcp(stream), Some(peer.ip().to_canonical())))
                }),
                Source::Unix(listener) => listener
                    .accept()
                    .map(|(stream, _)| (Stream::Unix(stream), None)),
            };
            match accepted {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.has_more = false;
                    return Ok(None);
                }
                // The client has gone while it waited.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => {
                    self.retry = Some(Instant::now() + RETRY);
                    return Err(error);
                }
            }
        }
    }

    /// Stops listening. A Unix socket's file goes too.
    pub fn close(self, registry: &Registry) {
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        self.let_go(registry);
    }
}
