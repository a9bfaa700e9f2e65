//! Bytes in, messages out.
//!
//! A frame that is complete in what was read is unmasked where it lies and handed out without a copy. Only what is cut off
//! by the end of a read is carried over: half a header, half a control frame, or the part of a message that is there. What
//! is carried over grows with the bytes that really came, never with the length that a frame announces.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::{CONTROL_PAYLOAD, CloseCode, CloseFrame, bit, deflate, opcode};

/// What a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message, whole, uncompressed and valid.
    Text(&'a str),
    /// A binary message, whole and uncompressed.
    Binary(&'a [u8]),
    /// A ping; the answer is a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The client closes, or answers our close. Nothing after it is decoded.
    Close(Option<CloseFrame<'a>>),
}

/// A breach of RFC 6455, RFC 7692 or the size limit, after which the connection must be failed: send a close frame with
/// [`Violation::close`], then close the socket (RFC 6455 §7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.close().1)]
pub enum Violation {
    /// Clients mask every frame (§5.1).
    Unmasked,
    /// RSV1 to RSV3 belong to extensions; RSV1 to the first frame of a compressed message alone (RFC 7692 §6).
    ReservedBit,
    /// 3 to 7 and 11 to 15 have no meaning (§5.2).
    ReservedOpcode,
    /// A control frame is one frame (§5.5).
    FragmentedControl,
    /// A control frame has at most 125 bytes (§5.5).
    LongControl,
    /// A length is written in the fewest bytes, and below 2^63 (§5.2). Both are a MUST: a length that could be spelled in
    /// several ways is what parties along a connection come to read differently.
    MalformedLength,
    /// A continuation follows the start of a message (§5.4).
    OrphanContinuation,
    /// The fragments of one message are not interrupted by another one (§5.4).
    InterruptedMessage,
    /// A close frame holds nothing, or two bytes of code and a reason (§5.5.1).
    MalformedClose,
    /// A code that must not be sent (§7.4).
    InvalidCloseCode,
    /// Text, or the reason of a close frame, is not UTF-8 (§8.1).
    InvalidText,
    /// What a compressed message holds is no deflate stream (RFC 7692 §7.2.2).
    CorruptDeflate,
    /// A message has more bytes than are allowed, as sent or uncompressed (R-LIM-16).
    TooBig,
}

impl Violation {
    /// What to say in the close frame: the code, and a reason for people.
    pub fn close(&self) -> (CloseCode, &'static str) {
        match self {
            Self::Unmasked => (CloseCode::PROTOCOL, "Frame is not masked"),
            Self::ReservedBit => (CloseCode::PROTOCOL, "Reserved bit is set"),
            Self::ReservedOpcode => (CloseCode::PROTOCOL, "Opcode is reserved"),
            Self::FragmentedControl => (CloseCode::PROTOCOL, "Control frame is fragmented"),
            Self::LongControl => (CloseCode::PROTOCOL, "Control frame is too long"),
            Self::MalformedLength => (CloseCode::PROTOCOL, "Frame length is malformed"),
            Self::OrphanContinuation => (CloseCode::PROTOCOL, "Continuation of no message"),
            Self::InterruptedMessage => (CloseCode::PROTOCOL, "Message interrupted by another"),
            Self::MalformedClose => (CloseCode::PROTOCOL, "Close frame is malformed"),
            Self::InvalidCloseCode => (CloseCode::PROTOCOL, "Close code is invalid"),
            Self::InvalidText => (CloseCode::INVALID_DATA, "Text is not UTF-8"),
            Self::CorruptDeflate => (CloseCode::INVALID_DATA, "Compressed data is corrupt"),
            Self::TooBig => (CloseCode::TOO_BIG, "Message is too big"),
        }
    }
}

/// The reading half of a connection. Between two reads it is plain data: serialised and deserialised after any byte, in
/// another process, it continues as if nothing had happened. Between two messages it owns no heap memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decoder {
    /// In bytes, of all frames of a message together.
    max_message: usize,
    deflate: bool,
    /// A close frame or a violation came: whatever follows is ignored (RFC 6455 §5.5.1, §7.1.7).
    ended: bool,
    partial: Option<Box<Partial>>,
    /// Bytes that came before the caller asked to stop, not looked at yet.
    unread: VecDeque<u8>,
}

/// What the end of a read cut off.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Partial {
    /// The header of a frame or a whole control frame, as sent, as far as it came.
    begun: Vec<u8>,
    /// The message whose first frame has begun and whose last has not ended; control frames come between its frames.
    message: Option<Message>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Message {
    text: bool,
    deflated: bool,
    /// Unmasked, still compressed if it is.
    payload: Vec<u8>,
    /// How many bytes of `payload` are known to be whole characters.
    checked: usize,
    /// The frame that has not ended; none between two frames.
    frame: Option<OpenFrame>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct OpenFrame {
    fin: bool,
    /// Turned so that its first byte is for the next byte to come.
    mask: [u8; 4],
    /// How many bytes are still to come.
    left: usize,
}

/// The first 6 to 14 bytes of a frame.
#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
    deflated: bool,
    opcode: u8,
    mask: [u8; 4],
    /// How many bytes the header itself has.
    size: usize,
    /// How many bytes follow it.
    payload: usize,
}

type Sink<'s> = dyn FnMut(Incoming<'_>) -> ControlFlow<()> + 's;

impl Decoder {
    /// A decoder for a connection that was just upgraded. A message may have `max_message` bytes in any number of frames,
    /// as sent and uncompressed (R-LIM-16). `deflate`: permessage-deflate was negotiated.
    pub fn new(max_message: usize, deflate: bool) -> Self {
        Self {
            max_message,
            deflate,
            ended: false,
            partial: None,
            unread: VecDeque::new(),
        }
    }

    /// Takes the bytes just read, and calls `on` for every message and control frame that they complete, in order. The
    /// bytes are unmasked in place: what is left in them means nothing.
    ///
    /// When `on` answers `Break`, nothing more is decoded for now. The bytes behind that message are kept, and come first
    /// in the next `feed`, for which no new bytes are needed. Whoever stops should stop reading as well: what is kept has no
    /// limit of its own. After a close frame or an error everything is ignored.
    ///
    /// # Errors
    ///
    /// The first [`Violation`], as soon as it is certain: of a text message with its first wrong byte, of an announced
    /// length with the header. What came before it has been handed out.
    pub fn feed(&mut self, bytes: &mut [u8], on: &mut Sink<'_>) -> Result<(), Violation> {
        let result = if self.unread.is_empty() {
            self.decode(bytes, on).map(|rest| self.unread.extend(rest))
        } else {
            let mut unread = std::mem::take(&mut self.unread);
            unread.extend(&*bytes);
            let rest = self
                .decode(unread.make_contiguous(), on)
                .map(|rest| rest.len());
            rest.map(|rest| {
                if rest > 0 {
                    unread.drain(..unread.len() - rest);
                    self.unread = unread;
                }
            })
        };
        if result.is_err() {
            self.ended = true;
        }
        if self.ended {
            (self.partial, self.unread) = (None, VecDeque::new());
        }
        result
    }

    /// Keeps bytes that came before anybody could take messages; they come first in the next `feed`.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
    }

    /// How many bytes are held: half a frame, fragments of a message, and what came after `on` asked to stop.
    pub fn buffered(&self) -> usize {
        let partial = self.partial.as_ref().map_or(0, |partial| {
            partial.begun.len()
                + partial
                    .message
                    .as_ref()
                    .map_or(0, |message| message.payload.len())
        });
        partial + self.unread.len()
    }

    /// Whether a message or a control frame has begun and not ended; what came after `on` asked to stop does not count.
    pub fn mid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Decodes until the bytes are used up or `on` asks to stop; answers those that were not looked at.
    fn decode<'b>(
        &mut self,
        mut rest: &'b mut [u8],
        on: &mut Sink<'_>,
    ) -> Result<&'b [u8], Violation> {
        while !rest.is_empty() && !self.ended {
            let flow = match self.partial.as_deref() {
                Some(Partial {
                    message: Some(Message { frame: Some(_), .. }),
                    ..
                }) => self.payload(&mut rest, on)?,
                Some(Partial { begun, .. }) if !begun.is_empty() => self.resume(&mut rest, on)?,
                _ => self.start(&mut rest, on)?,
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(rest)
    }

    /// At the start of a frame: hands out what is complete where it lies.
    fn start(
        &mut self,
        rest: &mut &mut [u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        let header = Header::read(rest, self.deflate)?;
        if let Some(header) = header {
            self.admit(&header)?;
            let complete = rest.len() - header.size >= header.payload;
            if complete
                && (header.is_control() || (header.fin && header.opcode != opcode::CONTINUATION))
            {
                take(rest, header.size);
                let payload = take(rest, header.payload);
                unmask(payload, header.mask);
                return match header.opcode {
                    opcode::TEXT | opcode::BINARY => {
                        self.message(header.is_text(), header.deflated, payload, on)
                    }
                    _ => self.control(header.opcode, payload, on),
                };
            }
            if !header.is_control() {
                take(rest, header.size);
                return self.open(&header, rest, on);
            }
        }
        let begun = take(rest, rest.len());
        self.partial
            .get_or_insert_default()
            .begun
            .extend_from_slice(begun);
        Ok(ControlFlow::Continue(()))
    }

    /// Behind the first bytes of a header or of a control frame.
    fn resume(
        &mut self,
        rest: &mut &mut [u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        let begun = &mut self.partial.get_or_insert_default().begun;
        let header = loop {
            match Header::read(begun, self.deflate)? {
                Some(header) => break header,
                None if rest.is_empty() => return Ok(ControlFlow::Continue(())),
                None => begun.extend_from_slice(take(rest, 1)),
            }
        };
        if header.is_control() {
            let missing = (header.size + header.payload).saturating_sub(begun.len());
            begun.extend_from_slice(take(rest, missing.min(rest.len())));
            if begun.len() < header.size + header.payload {
                return Ok(ControlFlow::Continue(()));
            }
        }
        let mut begun = std::mem::take(begun);
        self.tidy();
        self.admit(&header)?;
        if header.is_control() {
            let payload = &mut begun[header.size..];
            unmask(payload, header.mask);
            self.control(header.opcode, payload, on)
        } else {
            self.open(&header, rest, on)
        }
    }

    /// Whether a frame may come here, and its message be that long. Memory is only ever taken for one that passed.
    fn admit(&self, header: &Header) -> Result<(), Violation> {
        let message = self
            .partial
            .as_ref()
            .and_then(|partial| partial.message.as_ref());
        match (header.opcode, message) {
            (opcode::CONTINUATION, None) => return Err(Violation::OrphanContinuation),
            (opcode::TEXT | opcode::BINARY, Some(_)) => return Err(Violation::InterruptedMessage),
            _ => {}
        }
        let before = message.map_or(0, |message| message.payload.len());
        if !header.is_control() && header.payload > self.max_message.saturating_sub(before) {
            return Err(Violation::TooBig);
        }
        Ok(())
    }

    /// Behind the header of a data frame that is not handed out in place.
    fn open(
        &mut self,
        header: &Header,
        rest: &mut &mut [u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        let message = self
            .partial
            .get_or_insert_default()
            .message
            .get_or_insert_with(|| Message {
                text: header.is_text(),
                deflated: header.deflated,
                payload: Vec::new(),
                checked: 0,
                frame: None,
            });
        message.frame = Some(OpenFrame {
            fin: header.fin,
            mask: header.mask,
            left: header.payload,
        });
        self.payload(rest, on)
    }

    /// Within the payload of a data frame that was opened, or at its end.
    fn payload(
        &mut self,
        rest: &mut &mut [u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        if let Some(partial) = &mut self.partial
            && let Some(message) = &mut partial.message
            && message.take(rest, self.max_message)?
            && let Some(message) = partial.message.take()
        {
            self.tidy();
            return self.message(message.text, message.deflated, &message.payload, on);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Hands out a message.
    fn message(
        &self,
        text: bool,
        deflated: bool,
        payload: &[u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        let inflated;
        let payload = if deflated {
            inflated = deflate::inflate(payload, self.max_message)?;
            &inflated
        } else {
            payload
        };
        Ok(on(if text {
            Incoming::Text(valid(payload)?)
        } else {
            Incoming::Binary(payload)
        }))
    }

    /// Hands out a control frame.
    fn control(
        &mut self,
        opcode: u8,
        payload: &[u8],
        on: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, Violation> {
        Ok(on(match opcode {
            opcode::PING => Incoming::Ping(payload),
            opcode::PONG => Incoming::Pong(payload),
            _ => {
                let frame = close_frame(payload)?;
                self.ended = true;
                Incoming::Close(frame)
            }
        }))
    }

    /// An empty rest is no rest: between two messages nothing stays allocated.
    fn tidy(&mut self) {
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.begun.is_empty() && partial.message.is_none())
        {
            self.partial = None;
        }
    }
}

impl Message {
    /// Takes what is there of the open frame's payload; answers whether the message is complete.
    fn take(&mut self, rest: &mut &mut [u8], max_message: usize) -> Result<bool, Violation> {
        let Some(frame) = &mut self.frame else {
            return Ok(false);
        };
        let piece = take(rest, frame.left.min(rest.len()));
        unmask(piece, frame.mask);
        frame.mask.rotate_left(piece.len() % 4);
        frame.left -= piece.len();

        // Doubling keeps many small pieces cheap; the end of the message, if it is known, or else the limit bounds it.
        let needed = self.payload.len() + piece.len();
        if needed > self.payload.capacity() {
            let most = if frame.fin {
                needed + frame.left
            } else {
                max_message.max(needed)
            };
            let room = (2 * self.payload.len()).clamp(needed, most);
            self.payload.reserve_exact(room - self.payload.len());
        }
        self.payload.extend_from_slice(piece);

        let complete = frame.fin && frame.left == 0;
        if frame.left == 0 {
            self.frame = None;
        }
        // Text that is complete is checked when it is handed out.
        if self.text && !self.deflated && !complete {
            self.check()?;
        }
        Ok(complete)
    }

    /// Checks the text that is new, so that wrong text is refused with its first wrong byte (RFC 6455 §8.1). A character
    /// at the end may be incomplete, as long as it can still become one.
    fn check(&mut self) -> Result<(), Violation> {
        let new = self.payload.get(self.checked..).unwrap_or_default();
        match simdutf8::compat::from_utf8(new) {
            Ok(_) => self.checked = self.payload.len(),
            Err(error) if error.error_len().is_some() => return Err(Violation::InvalidText),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

impl Header {
    /// The header that these bytes begin with; none while it is incomplete. What is wrong is refused with the byte that is.
    fn read(bytes: &[u8], deflate: bool) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let (fin, opcode) = (first & bit::FIN != 0, first & 0x0F);
        let data = matches!(opcode, opcode::TEXT | opcode::BINARY);
        let control = matches!(opcode, opcode::CLOSE | opcode::PING | opcode::PONG);
        let allowed = if deflate && data { bit::DEFLATED } else { 0 };
        if first & bit::RESERVED & !allowed != 0 {
            return Err(Violation::ReservedBit);
        }
        if !data && !control && opcode != opcode::CONTINUATION {
            return Err(Violation::ReservedOpcode);
        }
        if control && !fin {
            return Err(Violation::FragmentedControl);
        }

        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & bit::MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        let short = usize::from(second & !bit::MASKED);
        if control && short > CONTROL_PAYLOAD {
            return Err(Violation::LongControl);
        }
        let (payload, at) = match short {
            126 => {
                let Some(length) = bytes[2..].first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*length)), 4)
            }
            127 => {
                let Some(length) = bytes[2..].first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*length), 10)
            }
            _ => (short as u64, 2),
        };
        let shortest = match payload {
            0..=125 => 2,
            126..=0xFFFF => 4,
            _ => 10,
        };
        if at != shortest || payload >> 63 != 0 {
            return Err(Violation::MalformedLength);
        }
        let payload = usize::try_from(payload).map_err(|_| Violation::TooBig)?;
        let Some(&mask) = bytes[at..].first_chunk() else {
            return Ok(None);
        };
        let deflated = first & bit::DEFLATED != 0;
        Ok(Some(Self {
            fin,
            deflated,
            opcode,
            mask,
            size: at + mask.len(),
            payload,
        }))
    }

    fn is_control(&self) -> bool {
        self.opcode >= opcode::CLOSE
    }

    fn is_text(&self) -> bool {
        self.opcode == opcode::TEXT
    }
}

/// The first `count` bytes, which `rest` loses.
fn take<'b>(rest: &mut &'b mut [u8], count: usize) -> &'b mut [u8] {
    let (first, after) = std::mem::take(rest).split_at_mut(count);
    *rest = after;
    first
}

/// Removes the mask (RFC 6455 §5.3): eight bytes at a time, which compilers turn into as many as the machine can.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip([a, b, c, d, a, b, c, d]) {
        *byte ^= mask;
    }
}

fn valid(text: &[u8]) -> Result<&str, Violation> {
    simdutf8::basic::from_utf8(text).map_err(|_| Violation::InvalidText)
}

fn close_frame(payload: &[u8]) -> Result<Option<CloseFrame<'_>>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::MalformedClose),
        [high, low, reason @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*high, *low]));
            if !code.may_be_sent() {
                return Err(Violation::InvalidCloseCode);
            }
            Ok(Some(CloseFrame {
                code,
                reason: valid(reason)?,
            }))
        }
    }
}

#[cfg(test)]
mod tests;
