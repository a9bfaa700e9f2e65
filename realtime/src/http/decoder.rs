//! The reading half of a connection: bytes in, at most one request out at a time.
//!
//! A head is searched line by line, each byte looked at once, and only a complete one is parsed, by `httparse`. It
//! stays in the buffer as it came until the body is there: so the state between two reads is bytes and a few numbers.
//! What may be read in two ways is refused, never guessed (RFC 9112 section 11.2): a proxy in front may have guessed
//! otherwise.

use ::http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use serde::{Deserialize, Serialize};

/// How large a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of request line and headers together, and of the extensions and trailers of a chunked body. 431 above, or
    /// 414 if the request line alone is longer. The default of 32 KiB has room for a token of 8 KiB and more
    /// (R-LIM-20).
    pub head: usize,
    /// Bytes of body, 413 above. The default is 256 KiB (R-LIM-17).
    pub body: usize,
    /// Header lines, 431 above. The default is 100.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: 32 * 1024,
            body: 256 * 1024,
            headers: 100,
        }
    }
}

/// Why what arrived is no request. Where it ends is unknown then: every one of these ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BadRequest {
    /// 400
    #[error("the request line or a header is not HTTP/1.1")]
    Syntax,
    /// 400: a line feed or a carriage return alone.
    #[error("a line does not end with CR LF")]
    LineEnding,
    /// 400
    #[error("the request target is not a path, a URL or, for OPTIONS, an asterisk")]
    Target,
    /// 400: RFC 9112 section 3.2.
    #[error("an HTTP/1.1 request has exactly one Host header")]
    Host,
    /// 400
    #[error("Content-Length is not one decimal number")]
    Length,
    /// 400: with Content-Length, in HTTP/1.0, or with `chunked` anywhere but last and once.
    #[error("Transfer-Encoding contradicts the rest of the request")]
    Framing,
    /// 400
    #[error("a chunk of the body is malformed")]
    Chunk,
    /// 413
    #[error("the body is too large")]
    BodyTooLarge,
    /// 414
    #[error("the request target is too long")]
    TargetTooLong,
    /// 417
    #[error("only 100-continue can be expected")]
    Expectation,
    /// 431
    #[error("the headers are too large")]
    HeadTooLarge,
    /// 501
    #[error("the only transfer encoding known is chunked")]
    TransferEncoding,
    /// 505
    #[error("the protocol is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
}

impl BadRequest {
    /// The status to answer with before closing.
    pub fn status(self) -> StatusCode {
        match self {
            BadRequest::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BadRequest::TargetTooLong => StatusCode::URI_TOO_LONG,
            BadRequest::Expectation => StatusCode::EXPECTATION_FAILED,
            BadRequest::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            BadRequest::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            BadRequest::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// The reading half of one HTTP/1.1 connection. Plain data at every byte; without heap memory between requests.
///
/// It holds what has arrived of one request, within [`Limits`], and what was fed together with its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    /// What is not used up: a head as it came, then the body as far as it is not in `Stage::Chunked`.
    buffer: Vec<u8>,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Waiting for the empty line; `line` is where the line begins in which `scanned` bytes hold no line feed.
    Head { line: usize, scanned: usize },
    /// A body of `length` bytes follows the first `head` ones.
    Sized {
        head: usize,
        length: usize,
        expects: bool,
    },
    /// Chunks follow the first `head` bytes.
    Chunked {
        head: usize,
        expects: bool,
        chunks: Chunks,
    },
    /// What comes can no longer be told apart.
    Failed(BadRequest),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Head {
            line: 0,
            scanned: 0,
        }
    }
}

/// A chunked body, RFC 9112 section 7.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chunks {
    /// The chunks so far, joined.
    body: Vec<u8>,
    next: Next,
    /// Bytes of the present line known to hold no line feed.
    scanned: usize,
    /// What the head, extensions and trailers have taken of [`Limits::head`].
    spent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
}

impl Decoder {
    /// A decoder for a connection on which nothing has arrived.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes what arrived and gives out the request it completes, if any.
    ///
    /// Bytes of a next request stay inside: once this one is answered, ask for it with `feed(&[], …)` before reading
    /// on.
    ///
    /// # Errors
    /// What arrived is no request or too large; the connection is to be closed after an answer with its status. Further
    /// calls give the same error.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<Request<Vec<u8>>>, BadRequest> {
        if let Stage::Failed(reason) = self.stage {
            return Err(reason);
        }
        self.buffer.extend_from_slice(bytes);
        let outcome = self.advance(limits);
        if let Err(reason) = outcome {
            *self = Decoder {
                buffer: Vec::new(),
                stage: Stage::Failed(reason),
            };
        }
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        outcome
    }

    /// How many bytes are held.
    pub fn buffered(&self) -> usize {
        let joined = if let Stage::Chunked { chunks, .. } = &self.stage {
            chunks.body.len()
        } else {
            0
        };
        self.buffer.len() + joined
    }

    /// Whether nothing of a next request has arrived.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty() && matches!(self.stage, Stage::Head { .. })
    }

    /// What came after an upgrade request: the first bytes of the WebSocket.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.stage = Stage::default();
        std::mem::take(&mut self.buffer)
    }

    /// Whether the client waits for [`super::CONTINUE`]: the head is complete, asks for it, and no byte of the body
    /// came. Asked once after every feed of one byte or more, it is true once per request.
    pub fn expects_continue(&self) -> bool {
        match &self.stage {
            Stage::Sized { head, expects, .. } => *expects && self.buffer.len() == *head,
            // The first byte of a chunk's size is either in the buffer or used up together with its line.
            Stage::Chunked {
                head,
                expects,
                chunks,
            } => {
                *expects
                    && self.buffer.len() == *head
                    && chunks.next == Next::Size
                    && chunks.body.is_empty()
            }
            Stage::Head { .. } | Stage::Failed(_) => false,
        }
    }

    fn advance(&mut self, limits: &Limits) -> Result<Option<Request<Vec<u8>>>, BadRequest> {
        let mut parsed = None;
        if let Stage::Head { line, scanned } = &mut self.stage {
            let Some(head) = find_head(&mut self.buffer, line, scanned, limits)? else {
                return Ok(None);
            };
            let request = parse(&self.buffer[..head], limits)?;
            let expects = expects(&request)?;
            self.stage = match framing(&request)? {
                Framing::Length(length) if length > limits.body => {
                    return Err(BadRequest::BodyTooLarge);
                }
                Framing::Length(length) => Stage::Sized {
                    head,
                    length,
                    expects,
                },
                Framing::Chunked => Stage::Chunked {
                    head,
                    expects,
                    chunks: Chunks {
                        body: Vec::new(),
                        next: Next::Size,
                        scanned: 0,
                        spent: head,
                    },
                },
            };
            parsed = Some(request);
        }
        let (head, body) = match &mut self.stage {
            Stage::Sized { head, length, .. } => {
                let end = *head + *length;
                if self.buffer.len() < end {
                    return Ok(None);
                }
                let rest = self.buffer.split_off(end);
                let body = self.buffer.split_off(*head);
                (std::mem::replace(&mut self.buffer, rest), body)
            }
            Stage::Chunked { head, chunks, .. } => {
                let (used, done) = chunks.read(&self.buffer[*head..], limits)?;
                if !done {
                    self.buffer.drain(*head..*head + used);
                    return Ok(None);
                }
                let rest = self.buffer.split_off(*head + used);
                self.buffer.truncate(*head);
                (
                    std::mem::replace(&mut self.buffer, rest),
                    std::mem::take(&mut chunks.body),
                )
            }
            Stage::Head { .. } | Stage::Failed(_) => return Ok(None),
        };
        self.stage = Stage::default();
        let request = match parsed {
            Some(request) => request,
            None => parse(&head, limits)?,
        };
        Ok(Some(request.map(|()| body)))
    }
}

impl Chunks {
    /// Reads on; gives how many bytes are used up and whether the body is complete.
    fn read(&mut self, bytes: &[u8], limits: &Limits) -> Result<(usize, bool), BadRequest> {
        let mut at = 0;
        loop {
            match self.next {
                Next::Size => {
                    let Some(line) = self.line(&bytes[at..], limits)? else {
                        return Ok((at, false));
                    };
                    at += line.len() + 2;
                    let size = self.size(line, limits)?;
                    if size > limits.body.saturating_sub(self.body.len()) {
                        return Err(BadRequest::BodyTooLarge);
                    }
                    self.next = if size == 0 {
                        Next::Trailer
                    } else {
                        Next::Data(size)
                    };
                }
                Next::Data(left) => {
                    let taken = left.min(bytes.len() - at);
                    self.body.extend_from_slice(&bytes[at..at + taken]);
                    at += taken;
                    if taken < left {
                        self.next = Next::Data(left - taken);
                        return Ok((at, false));
                    }
                    self.next = Next::DataEnd;
                }
                Next::DataEnd => {
                    let end = &bytes[at..bytes.len().min(at + 2)];
                    if !b"\r\n".starts_with(end) {
                        return Err(BadRequest::Chunk);
                    }
                    if end.len() < 2 {
                        return Ok((at, false));
                    }
                    at += 2;
                    self.next = Next::Size;
                }
                // Nothing of the protocol is in a trailer: bounded and dropped.
                Next::Trailer => {
                    let Some(line) = self.line(&bytes[at..], limits)? else {
                        return Ok((at, false));
                    };
                    at += line.len() + 2;
                    if line.is_empty() {
                        return Ok((at, true));
                    }
                    self.spend(line.len() + 2, limits)?;
                }
            }
        }
    }

    /// The next line without its end, if it is there.
    fn line<'a>(
        &mut self,
        bytes: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<&'a [u8]>, BadRequest> {
        let most = limits.head.saturating_sub(self.spent) + SIZE_DIGITS + 2;
        match find_line(&bytes[..bytes.len().min(most)], 0, &mut self.scanned)? {
            Some(end) => {
                self.scanned = 0;
                Ok(Some(&bytes[..end - 2]))
            }
            None if bytes.len() > most => Err(BadRequest::HeadTooLarge),
            None => Ok(None),
        }
    }

    fn size(&mut self, line: &[u8], limits: &Limits) -> Result<usize, BadRequest> {
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (size, extensions) = line.split_at(digits);
        let extension = extensions.trim_ascii_start();
        let well_formed = extensions.is_empty() || extension.starts_with(b";");
        let printable = extensions
            .iter()
            .all(|&byte| byte == b'\t' || !byte.is_ascii_control());
        if !(1..=SIZE_DIGITS).contains(&digits) || !well_formed || !printable {
            return Err(BadRequest::Chunk);
        }
        self.spend(extensions.len(), limits)?;
        let size = std::str::from_utf8(size)
            .ok()
            .and_then(|size| usize::from_str_radix(size, 16).ok());
        size.ok_or(BadRequest::Chunk)
    }

    fn spend(&mut self, bytes: usize, limits: &Limits) -> Result<(), BadRequest> {
        self.spent += bytes;
        if self.spent > limits.head {
            Err(BadRequest::HeadTooLarge)
        } else {
            Ok(())
        }
    }
}

/// Hexadecimal digits of a chunk's size, leading zeros included.
const SIZE_DIGITS: usize = 16;

/// Looks for the end of the line that begins at `from`: the index after its CR LF.
fn find_line(bytes: &[u8], from: usize, scanned: &mut usize) -> Result<Option<usize>, BadRequest> {
    // Less may be looked at than before: limits change.
    let unseen = (from + *scanned).min(bytes.len());
    let Some(found) = bytes[unseen..].iter().position(|&byte| byte == b'\n') else {
        *scanned = bytes.len().saturating_sub(from);
        return Ok(None);
    };
    let end = unseen + found + 1;
    match bytes[from..end - 1].split_last() {
        Some((b'\r', line)) if !line.contains(&b'\r') => Ok(Some(end)),
        _ => Err(BadRequest::LineEnding),
    }
}

/// Looks for the end of a head: its length. Empty lines before it are dropped (RFC 9112 section 2.2).
fn find_head(
    buffer: &mut Vec<u8>,
    line: &mut usize,
    scanned: &mut usize,
    limits: &Limits,
) -> Result<Option<usize>, BadRequest> {
    let mut begin = 0;
    let end = loop {
        // What is beyond the limit is too much, whatever it is: how much has been read must not make a difference.
        let visible = &buffer[..buffer.len().min(begin + limits.head)];
        let Some(end) = find_line(visible, begin + *line, scanned)? else {
            break None;
        };
        let empty = end - (begin + *line) == 2;
        *scanned = 0;
        if !empty {
            *line = end - begin;
        } else if *line == 0 {
            begin = end;
        } else {
            break Some(end - begin);
        }
    };
    buffer.drain(..begin);
    match end {
        Some(end) => Ok(Some(end)),
        None if buffer.len() <= limits.head => Ok(None),
        _ if buffer[..limits.head].contains(&b'\n') => Err(BadRequest::HeadTooLarge),
        _ => Err(BadRequest::TargetTooLong),
    }
}

/// A complete head as a request without its body.
fn parse(head: &[u8], limits: &Limits) -> Result<Request<()>, BadRequest> {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(BadRequest::Version),
        _ => return Err(BadRequest::Syntax),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(BadRequest::Syntax);
    };
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(method.as_bytes()).map_err(|_| BadRequest::Syntax)?;
    *request.version_mut() = if version == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    *request.uri_mut() = target_of(request.method(), target)?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadRequest::Syntax)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BadRequest::Syntax)?;
        request
            .headers_mut()
            .try_append(name, value)
            .map_err(|_| BadRequest::HeadTooLarge)?;
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(BadRequest::Host);
    }
    Ok(request)
}

/// The four forms of a target, RFC 9112 section 3.2. A fragment is never sent, and would be dropped in silence.
fn target_of(method: &Method, target: &str) -> Result<Uri, BadRequest> {
    if target.contains('#') {
        return Err(BadRequest::Target);
    }
    let uri: Uri = target.parse().map_err(|_| BadRequest::Target)?;
    let allowed = match target {
        "*" => method == Method::OPTIONS,
        _ if target.starts_with('/') => true,
        _ if uri.scheme().is_some() => uri.authority().is_some(),
        _ => method == Method::CONNECT && uri.authority().is_some(),
    };
    if allowed {
        Ok(uri)
    } else {
        Err(BadRequest::Target)
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

/// Where the body ends, RFC 9112 section 6.3.
fn framing(request: &Request<()>) -> Result<Framing, BadRequest> {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        let mut codings = items(headers, TRANSFER_ENCODING);
        if codings.any(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
            return Err(BadRequest::TransferEncoding);
        }
        let once = items(headers, TRANSFER_ENCODING).count() == 1;
        if !once || headers.contains_key(CONTENT_LENGTH) || request.version() == Version::HTTP_10 {
            return Err(BadRequest::Framing);
        }
        return Ok(Framing::Chunked);
    }
    let mut lengths = items(headers, CONTENT_LENGTH);
    let Some(length) = lengths.next() else {
        return Ok(Framing::Length(0));
    };
    // The same number twice is allowed to mean that number.
    if lengths.any(|other| other != length)
        || length.is_empty()
        || !length.iter().all(u8::is_ascii_digit)
    {
        return Err(BadRequest::Length);
    }
    let length = std::str::from_utf8(length).map_err(|_| BadRequest::Length)?;
    // Digits that are no usize are too many of them.
    Ok(Framing::Length(length.parse().unwrap_or(usize::MAX)))
}

/// The items of a list-valued header over all its lines.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// RFC 9110 section 10.1.1; HTTP/1.0 has no expectations.
fn expects(request: &Request<()>) -> Result<bool, BadRequest> {
    if request.version() == Version::HTTP_10 || !request.headers().contains_key(EXPECT) {
        return Ok(false);
    }
    let known =
        items(request.headers(), EXPECT).all(|item| item.eq_ignore_ascii_case(b"100-continue"));
    if known {
        Ok(true)
    } else {
        Err(BadRequest::Expectation)
    }
}

#[cfg(test)]
mod tests;
