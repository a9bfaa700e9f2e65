//! The frames of a handover, byte by byte: encoding and decoding without I/O. `docs/handover.md` is the specification.
//!
//! A frame is a header of eight bytes and a body. Bodies are [postcard](https://postcard.jamesmunns.com/wire-format):
//! numbers as varints, sequences and text with their length in front.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::borrow::Cow;

/// The first bytes of a hello: a stranger on the socket is told from a peer of another version.
pub const MAGIC: [u8; 8] = *b"handover";

/// The version of this protocol; in hello right behind the magic, in every version.
pub const PROTOCOL: u16 = 1;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// The most bytes that a body can have, whatever the settings say.
pub const MAX_BODY: usize = 1 << 20;

/// The most descriptors that one frame carries: Linux's `SCM_MAX_FD`.
pub const MAX_DESCRIPTORS: u16 = 253;

/// The most characters of a reason, in bytes; longer ones are cut.
const MAX_TEXT: usize = 1024;

/// The most versions that a hello or an offer lists.
const MAX_SCHEMAS: usize = 256;

/// Bytes that are no frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum WireError {
    #[error("no frame has kind {0}")]
    UnknownKind(u8),
    #[error("a frame's reserved byte is {0}, not 0")]
    Reserved(u8),
    #[error("a body of {length} bytes, over the limit of {limit}")]
    BodyTooLong { length: u32, limit: usize },
    #[error("{0} descriptors in one frame, over the limit of 253")]
    TooManyDescriptors(u16),
    #[error("a `{kind}` with {got} descriptors")]
    Descriptors { kind: &'static str, got: u16 },
    #[error("a `{0}` whose body is malformed")]
    Malformed(&'static str),
    #[error("a `{0}` with bytes behind its end")]
    Trailing(&'static str),
    #[error("this is not a handover: the greeting does not begin with its magic")]
    NotAHandover,
    #[error(
        "the peer speaks version {0} of the handover protocol, this process version {PROTOCOL}"
    )]
    Protocol(u16),
    #[error("{0} schema versions, over the limit of {MAX_SCHEMAS}")]
    TooManySchemas(usize),
}

/// What a frame is: the first byte of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // See `Message`.
pub enum Kind {
    Hello = 1,
    Offer = 2,
    Refuse = 3,
    Begin = 4,
    Listeners = 5,
    Shared = 6,
    Connections = 7,
    Ack = 8,
    Sealed = 9,
    Ready = 10,
    Abort = 11,
    Precopy = 12,
}

impl Kind {
    /// Every kind, in the order of the protocol.
    pub const ALL: [Kind; 12] = [
        Kind::Hello,
        Kind::Offer,
        Kind::Refuse,
        Kind::Begin,
        Kind::Listeners,
        Kind::Shared,
        Kind::Connections,
        Kind::Ack,
        Kind::Sealed,
        Kind::Ready,
        Kind::Abort,
        Kind::Precopy,
    ];

    /// Its name in messages and in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::Offer => "offer",
            Kind::Refuse => "refuse",
            Kind::Begin => "begin",
            Kind::Listeners => "listeners",
            Kind::Shared => "shared",
            Kind::Connections => "connections",
            Kind::Ack => "ack",
            Kind::Sealed => "sealed",
            Kind::Ready => "ready",
            Kind::Abort => "abort",
            Kind::Precopy => "precopy",
        }
    }

    /// How many descriptors a frame of this kind may carry.
    fn may_carry(self, descriptors: u16) -> bool {
        match self {
            Kind::Hello | Kind::Offer => descriptors == 1,
            Kind::Listeners | Kind::Connections => descriptors >= 1,
            _ => descriptors == 0,
        }
    }
}

/// The eight bytes before every body; all numbers little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Byte 0. Byte 1 is reserved, and 0.
    pub kind: Kind,
    /// Bytes 2 and 3: how many descriptors came with the header's first byte.
    pub descriptors: u16,
    /// Bytes 4 to 7: the body's length.
    pub length: u32,
}

impl Header {
    /// As bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let d = self.descriptors.to_le_bytes();
        let l = self.length.to_le_bytes();
        [self.kind as u8, 0, d[0], d[1], l[0], l[1], l[2], l[3]]
    }

    /// From bytes, with every bound checked, so that nothing is allocated for a number that someone made up.
    pub fn decode(bytes: [u8; HEADER], limit: usize) -> Result<Self, WireError> {
        let [kind, reserved, d0, d1, l0, l1, l2, l3] = bytes;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(WireError::UnknownKind(kind))?;
        if reserved != 0 {
            return Err(WireError::Reserved(reserved));
        }
        let descriptors = u16::from_le_bytes([d0, d1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let limit = limit.min(MAX_BODY);
        if length as usize > limit {
            return Err(WireError::BodyTooLong { length, limit });
        }
        if descriptors > MAX_DESCRIPTORS {
            return Err(WireError::TooManyDescriptors(descriptors));
        }
        if !kind.may_carry(descriptors) {
            return Err(WireError::Descriptors {
                kind: kind.name(),
                got: descriptors,
            });
        }
        Ok(Self {
            kind,
            descriptors,
            length,
        })
    }
}

/// The successor introduces itself. Carries the reading end of its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Versions of state that it reads.
    pub reads: Vec<u32>,
    /// Versions that it will be able to write, should it be replaced or taken back.
    pub writes: Vec<u32>,
    /// How many more descriptors it can open.
    pub room: u32,
}

/// What the predecessor has to give. Carries the reading end of its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The version in which it will write the state.
    pub schema: u32,
    /// Versions that it could read back.
    pub reads: Vec<u32>,
    /// Listeners.
    pub listeners: u32,
    /// Connections at this moment; nothing is frozen, so the count may still change.
    pub connections: u32,
    /// Bytes of state that come at once, before anything is frozen.
    pub precopy: u64,
}

/// What was sent, all in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Listeners.
    pub listeners: u32,
    /// Bytes of the state that belongs to no connection.
    pub shared: u64,
    /// Connections.
    pub connections: u32,
}

/// One frame's meaning.
///
/// What there is much of may be borrowed from the bytes that were received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Successor → predecessor, first.
    Hello(Hello),
    /// Predecessor → successor, the answer.
    Offer(Offer),
    /// Predecessor → successor, the other answer: why not.
    Refuse(String),
    /// Successor → predecessor: freeze, and send.
    Begin,
    /// Predecessor → successor, behind the offer: a piece of what can be told before anything is frozen.
    Precopy(Cow<'a, [u8]>),
    /// Predecessor → successor: the names of the listeners, in the order of the descriptors.
    Listeners(Vec<String>),
    /// Predecessor → successor: a piece of the state that belongs to no connection.
    Shared(Cow<'a, [u8]>),
    /// Predecessor → successor: the states of some connections, in the order of the descriptors.
    Connections(Vec<Cow<'a, [u8]>>),
    /// Successor → predecessor: this many frames of the transfer have been received and understood.
    Ack(u32),
    /// Predecessor → successor: that was all.
    Sealed(Sealed),
    /// Successor → predecessor: the service accepts it.
    Ready,
    /// Either → the other: why the handover ends. What counts is the word that was given before.
    Abort(String),
}

impl<'a> Message<'a> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Offer(_) => Kind::Offer,
            Message::Refuse(_) => Kind::Refuse,
            Message::Begin => Kind::Begin,
            Message::Listeners(_) => Kind::Listeners,
            Message::Shared(_) => Kind::Shared,
            Message::Connections(_) => Kind::Connections,
            Message::Ack(_) => Kind::Ack,
            Message::Sealed(_) => Kind::Sealed,
            Message::Ready => Kind::Ready,
            Message::Abort(_) => Kind::Abort,
            Message::Precopy(_) => Kind::Precopy,
        }
    }

    /// The descriptors that have to go with it.
    fn descriptors(&self) -> usize {
        match self {
            Message::Hello(_) | Message::Offer(_) => 1,
            Message::Listeners(names) => names.len(),
            Message::Connections(states) => states.len(),
            _ => 0,
        }
    }

    /// The whole frame.
    ///
    /// # Errors
    /// More descriptors or bytes than a frame can carry.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut body = Body::new();
        match self {
            Message::Hello(hello) => {
                body.bytes.extend_from_slice(&MAGIC);
                body.push(&PROTOCOL);
                body.push(hello);
            }
            Message::Offer(offer) => body.push(offer),
            Message::Refuse(text) | Message::Abort(text) => body.push(cut(text)),
            Message::Begin | Message::Ready => {}
            Message::Listeners(names) => names.iter().for_each(|name| body.push(name)),
            Message::Shared(bytes) | Message::Precopy(bytes) => body.bytes.extend_from_slice(bytes),
            Message::Connections(states) => states.iter().for_each(|state| body.push_blob(state)),
            Message::Ack(count) => body.push(count),
            Message::Sealed(sealed) => body.push(sealed),
        }
        body.frame(self.kind(), self.descriptors())?;
        Ok(body.bytes)
    }

    /// From a body whose header has been checked.
    ///
    /// # Errors
    /// A body that is not exactly what its kind demands. Never panics, and never allocates more than a small multiple
    /// of the body.
    pub fn decode(kind: Kind, descriptors: u16, body: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = Rest { kind, bytes: body };
        let message = match kind {
            Kind::Hello => {
                let Some((magic, bytes)) = body.split_first_chunk() else {
                    return Err(WireError::NotAHandover);
                };
                if *magic != MAGIC {
                    return Err(WireError::NotAHandover);
                }
                rest.bytes = bytes;
                let protocol: u16 = rest.take()?;
                if protocol != PROTOCOL {
                    return Err(WireError::Protocol(protocol));
                }
                let hello: Hello = rest.take()?;
                few(&hello.reads)?;
                few(&hello.writes)?;
                Message::Hello(hello)
            }
            Kind::Offer => {
                let offer: Offer = rest.take()?;
                few(&offer.reads)?;
                Message::Offer(offer)
            }
            Kind::Refuse => Message::Refuse(rest.take()?),
            Kind::Begin => Message::Begin,
            Kind::Listeners => Message::Listeners(
                (0..descriptors)
                    .map(|_| rest.take())
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Shared => Message::Shared(std::mem::take(&mut rest.bytes).into()),
            Kind::Precopy => Message::Precopy(std::mem::take(&mut rest.bytes).into()),
            Kind::Connections => Message::Connections(
                (0..descriptors)
                    .map(|_| rest.take_blob())
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Ack => Message::Ack(rest.take()?),
            Kind::Sealed => Message::Sealed(rest.take()?),
            Kind::Ready => Message::Ready,
            Kind::Abort => Message::Abort(rest.take()?),
        };
        if rest.bytes.is_empty() {
            Ok(message)
        } else {
            Err(WireError::Trailing(kind.name()))
        }
    }
}

fn few(schemas: &[u32]) -> Result<(), WireError> {
    if schemas.len() > MAX_SCHEMAS {
        return Err(WireError::TooManySchemas(schemas.len()));
    }
    Ok(())
}

/// The beginning of a text, to a character's end.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// A frame in the making: room for the header, then the body.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER],
        }
    }

    /// Bytes of the body so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - HEADER
    }

    /// Numbers, texts and structures of those: nothing that postcard could refuse.
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) {
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = postcard::to_extend(value, bytes)
            .expect("memory is the only limit of a plain structure");
    }

    /// A state: its length as a varint, and its bytes.
    pub(crate) fn push_blob(&mut self, blob: &[u8]) {
        self.push(&blob.len());
        self.bytes.extend_from_slice(blob);
    }

    /// For the next frame, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
    }

    /// The whole frame.
    pub(crate) fn frame(&mut self, kind: Kind, descriptors: usize) -> Result<&[u8], WireError> {
        let too_long = |_| WireError::BodyTooLong {
            length: u32::MAX,
            limit: MAX_BODY,
        };
        let header = Header {
            kind,
            descriptors: u16::try_from(descriptors)
                .map_err(|_| WireError::TooManyDescriptors(u16::MAX))?,
            length: u32::try_from(self.len()).map_err(too_long)?,
        };
        let bytes = header.encode();
        Header::decode(bytes, MAX_BODY)?;
        self.bytes[..HEADER].copy_from_slice(&bytes);
        Ok(&self.bytes)
    }
}

/// What is left of a body.
struct Rest<'a> {
    kind: Kind,
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let (value, rest) = postcard::take_from_bytes(self.bytes)
            .map_err(|_| WireError::Malformed(self.kind.name()))?;
        self.bytes = rest;
        Ok(value)
    }

    fn take_blob(&mut self) -> Result<Cow<'a, [u8]>, WireError> {
        let length: usize = self.take()?;
        let (blob, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(WireError::Malformed(self.kind.name()))?;
        self.bytes = rest;
        Ok(blob.into())
    }
}
