//! One accepted socket, and which protocol it speaks at the moment.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use http::HeaderValue;
use mio::event::Source as _;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::http as wire;
use crate::websocket;

/// A byte stream of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket, from a proxy on the same host.
    Unix(UnixStream),
}

impl Stream {
    /// A socket that was accepted by another process.
    pub fn from_fd(fd: OwnedFd, unix: bool) -> Self {
        match unix {
            true => Self::Unix(UnixStream::from_std(fd.into())),
            false => Self::Tcp(TcpStream::from_std(fd.into())),
        }
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// Asks the kernel to say nothing more of it.
    pub fn deregister(&mut self, registry: &Registry) {
        // It fails only if it was not registered.
        let _ = match self {
            Self::Tcp(stream) => stream.deregister(registry),
            Self::Unix(stream) => stream.deregister(registry),
        };
    }

    /// Asks the kernel to say when bytes can be read or written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => stream.register(registry, token, interest),
            Self::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, or the kernel's.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    /// Writes what the kernel takes.
    ///
    /// # Errors
    /// `WouldBlock` if that is nothing, or the kernel's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    /// Says that no more bytes will come, once those written have been read.
    pub fn end(&self) {
        // It fails only if the peer has gone, which reading will tell.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

/// A socket in the server's table.
#[derive(Debug)]
pub struct Socket {
    /// Its bytes.
    pub stream: Stream,
    /// Rises with every socket.
    pub serial: u64,
    /// Where it comes from; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// It came through a listener for operators.
    pub operations: bool,
    /// What it speaks.
    pub kind: Kind,
    /// When to look at it, unless it is a connection of the hub, which knows its own deadlines.
    pub deadline: Option<Instant>,
    /// It has not sent a complete request yet.
    pub pending: bool,
    /// The kernel takes bytes, as far as is known.
    pub writable: bool,
    /// It could have been read and was not, because something had to be finished first.
    pub unread: bool,
    /// It is looked at again in the next turn.
    pub again: bool,
    /// Bytes wait for it, and since this moment the kernel has taken none.
    pub stalled: Option<Instant>,
    /// The kernel said that the peer has ended its side; reading up to the end will show it.
    pub read_closed: bool,
}

/// What a socket speaks.
#[derive(Debug)]
pub enum Kind {
    /// HTTP, the beginning of all.
    Http(Box<Http>),
    /// A connection of the hub.
    WebSocket(websocket::Decoder),
    /// The echo path of development.
    Echo(Box<Echo>),
    /// Nothing any more: what waits is written, then what the peer still sends is thrown away until it has ended, too.
    /// To close at once would make the kernel take back what the peer has not read yet.
    Ending {
        /// Everything is written, and the end was told.
        told: bool,
    },
}

/// An HTTP connection.
#[derive(Debug, Default)]
pub struct Http {
    /// What has come of the next request.
    pub decoder: wire::Decoder,
    /// A request is being answered; the next one waits.
    pub awaiting: bool,
    /// It has had an answer.
    pub served: bool,
    /// Of the request that is being answered: whether only the head is wanted, ...
    pub head_only: bool,
    /// ... whether another request may follow, ...
    pub keep_alive: bool,
    /// ... its route, for the metrics, ...
    pub route: &'static str,
    /// ... and the page that asks.
    pub origin: Option<HeaderValue>,
}

/// A WebSocket that gets back what it sends.
#[derive(Debug)]
pub struct Echo {
    /// What has come of the next message.
    pub decoder: websocket::Decoder,
    /// Answers are compressed.
    pub deflate: bool,
}

impl Socket {
    /// A socket that was just accepted.
    pub fn new(stream: Stream, serial: u64, peer: Option<IpAddr>, operations: bool) -> Self {
        Self {
            stream,
            serial,
            peer,
            operations,
            kind: Kind::Http(Box::default()),
            deadline: None,
            pending: false,
            writable: true,
            unread: false,
            again: false,
            stalled: None,
            read_closed: false,
        }
    }
}
