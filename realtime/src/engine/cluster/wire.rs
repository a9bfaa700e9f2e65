//! The one connection: bytes in and out without waiting, commands and answers in RESP3.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf as _, Bytes, BytesMut};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use redis_protocol::resp3::encode::complete::extend_encode;
use redis_protocol::resp3::types::BytesFrame;
use rustls::ClientConnection;

use super::address::Tls;

/// Bytes taken from the socket at once.
const CHUNK: usize = 64 << 10;

/// Bytes that may wait to be decoded before more are read.
const ENOUGH: usize = 1 << 20;

/// A connection to the server.
pub struct Wire {
    stream: Stream,
    tls: Option<Box<ClientConnection>>,
    input: BytesMut,
    output: BytesMut,
    readable: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Begins to connect over TCP.
    ///
    /// # Errors
    /// The system refuses.
    pub fn tcp(
        registry: &Registry,
        token: Token,
        address: SocketAddr,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        let tls = tls
            .map(|tls| ClientConnection::new(tls.config.clone(), tls.name.clone()))
            .transpose()
            .map_err(io::Error::other)?
            .map(|mut tls| {
                // What is sent is bounded by whoever sends.
                tls.set_buffer_limit(None);
                Box::new(tls)
            });
        Self::new(
            registry,
            token,
            Stream::Tcp(TcpStream::connect(address)?),
            tls,
        )
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn unix(registry: &Registry, token: Token, path: &Path) -> io::Result<Self> {
        Self::new(
            registry,
            token,
            Stream::Unix(UnixStream::connect(path)?),
            None,
        )
    }

    fn new(
        registry: &Registry,
        token: Token,
        mut stream: Stream,
        tls: Option<Box<ClientConnection>>,
    ) -> io::Result<Self> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match &mut stream {
            Stream::Tcp(stream) => registry.register(stream, token, both)?,
            Stream::Unix(stream) => registry.register(stream, token, both)?,
        }
        Ok(Self {
            stream,
            tls,
            input: BytesMut::new(),
            output: BytesMut::new(),
            readable: false,
        })
    }

    /// Is the connection made? Asked when the socket can be written.
    ///
    /// # Errors
    /// It was refused.
    pub fn established(&mut self) -> io::Result<bool> {
        let Stream::Tcp(stream) = &self.stream else {
            return Ok(true);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {
                // Commands are written together once in a turn: nothing is to be waited for.
                stream.set_nodelay(true)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Something can be read.
    pub fn arrived(&mut self) {
        self.readable = true;
    }

    /// Is there more to read?
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Adds a command to what is written next.
    pub fn send(&mut self, arguments: Vec<Bytes>) {
        let data = (arguments.into_iter())
            .map(|data| BytesFrame::BlobString {
                data,
                attributes: None,
            })
            .collect();
        let command = BytesFrame::Array {
            data,
            attributes: None,
        };
        extend_encode(&mut self.output, &command, false)
            .expect("an array of strings can be encoded");
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.output.is_empty() {
                tls.writer().write_all(&self.output)?;
                self.output.clear();
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, up to a bound.
    ///
    /// # Errors
    /// The connection is broken or has ended.
    pub fn fill(&mut self) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
        let full = self.input.len() + ENOUGH;
        while self.readable && self.input.len() < full {
            if let Some(tls) = &mut self.tls {
                match tls.read_tls(&mut self.stream) {
                    Ok(0) => return Err(ended()),
                    Ok(_) => {
                        let state = tls.process_new_packets().map_err(io::Error::other)?;
                        let at = self.input.len();
                        self.input.resize(at + state.plaintext_bytes_to_read(), 0);
                        tls.reader().read_exact(&mut self.input[at..])?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.readable = false
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let at = self.input.len();
            self.input.resize(at + CHUNK, 0);
            let read = self.stream.read(&mut self.input[at..]);
            self.input.truncate(at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(ended()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next answer or push, if it is there as a whole.
    ///
    /// # Errors
    /// What came is not RESP3.
    pub fn next(&mut self) -> io::Result<Option<BytesFrame>> {
        if self.input.is_empty() {
            return Ok(None);
        }
        match decode_bytes_mut(&mut self.input) {
            Ok(decoded) => Ok(decoded.map(|(frame, _, _)| frame)),
            Err(error) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it does not speak RESP3: {}", error.details()),
            )),
        }
    }

    /// Lets go of the socket.
    pub fn close(mut self, registry: &Registry) {
        // It is closed anyway.
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => registry.deregister(stream),
            Stream::Unix(stream) => registry.deregister(stream),
        };
    }
}

impl io::Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(from),
            Self::Unix(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
