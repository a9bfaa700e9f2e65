//! A backend: one HTTP connection that is kept, over which messages are published one after the other. Every request must
//! be answered once, with 202; what was sent is never sent again.

use mio::net::TcpStream;
use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
};

/// Headers of an answer, at most.
const MAX_HEADERS: usize = 32;

/// One connection of a backend.
#[derive(Debug)]
pub struct Publisher {
    /// Registered by whoever polls.
    pub stream: TcpStream,
    api_key: String,
    /// Bytes of the current request that are still to be written.
    unwritten: VecDeque<u8>,
    answer: Vec<u8>,
    /// A request has begun and is not answered.
    busy: bool,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(address: SocketAddr, api_key: &str) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            api_key: api_key.to_owned(),
            unwritten: VecDeque::new(),
            answer: Vec::new(),
            busy: false,
        })
    }

    /// Whether the last request has been answered.
    pub fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Begins a request.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn publish(&mut self, body: &str) -> io::Result<()> {
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.api_key,
            body.len()
        );
        self.unwritten.extend(request.as_bytes());
        self.busy = true;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match self.stream.write(self.unwritten.as_slices().0) {
                Ok(written) => drop(self.unwritten.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes and reads what is possible: the status of an answer that is complete now.
    ///
    /// # Errors
    /// The connection ended or broke, or what came is no answer to anything that was asked.
    pub fn ready(&mut self) -> io::Result<Option<u16>> {
        self.write()?;
        let mut bytes = [0; 4096];
        let ended = loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(read) => self.answer.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let garbled = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let status = match complete(&self.answer).map_err(|e| garbled(&e))? {
            Some((status, length)) if self.busy => {
                self.answer.drain(..length);
                self.busy = false;
                Some(status)
            }
            _ => None,
        };
        if !self.busy && !self.answer.is_empty() {
            return Err(garbled("a second answer to one request"));
        }
        if ended && status.is_none() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(status)
    }
}

/// Status and length of an answer, once it is whole.
fn complete(bytes: &[u8]) -> Result<Option<(u16, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let head_length = match head.parse(bytes).map_err(|e| e.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let length = head
        .headers
        .iter()
        .find(|h| h.name.eq_ignore_ascii_case("content-length"))
        .and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok())
        .ok_or("an answer without Content-Length")?;
    let whole = head_length + length;
    let status = head.code.ok_or("an answer without a status")?;
    Ok((bytes.len() >= whole).then_some((status, whole)))
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_not_before() {
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1";
        let whole = answer.len() - b"HTTP/1.1".len();
        for cut in 0..whole {
            assert_eq!(complete(&answer[..cut]), Ok(None));
        }
        assert_eq!(complete(answer), Ok(Some((202, whole))));
        assert!(complete(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(complete(b"nonsense\r\n").is_err());
    }
}
