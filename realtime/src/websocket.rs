//! RFC 6455, the server's side, as a state machine without I/O: bytes in, messages out; messages in, bytes out.
//!
//! * [`upgrade`] answers the opening handshake on a request that is already parsed (RFC 6455 §4.2).
//! * [`Decoder`] turns what was read from a socket into messages and control frames, and refuses what the RFC forbids.
//! * [`text`], [`close`] and their like encode frames. Whoever sends holds no state, so one frame serves any number of
//!   connections.
//! * permessage-deflate (RFC 7692) compresses each message for itself, without context takeover in either direction:
//!   nothing is kept between messages, and a compressed message can be shared as well.
//!
//! # Why not a library
//!
//! A live connection must be able to move into another process between any two bytes (decision 0013): with half a frame
//! header, half a message, a third of a character. No maintained codec lets its half-assembled message out, so the reading
//! half is our own: a [`Decoder`] between two reads is plain data that serialises. The writing half has no state at all.
//! Compression itself, UTF-8 validation and hashing come from crates.

mod deflate;
mod handshake;
mod read;
mod write;

pub use handshake::{NotAnUpgrade, Upgrade, upgrade};
pub use read::{Decoder, Incoming, Violation};
pub use write::{Frame, binary, close, ping, pong, text, text_deflated, text_parts};

/// The longest payload of a control frame, in bytes (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD: usize = 125;

/// What a frame is, by the low four bits of its first byte (RFC 6455 §5.2).
mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// The other bits of a frame's first two bytes (RFC 6455 §5.2, RFC 7692 §6).
mod bit {
    pub const FIN: u8 = 0x80;
    pub const RESERVED: u8 = 0x70;
    /// RSV1 on the first frame of a message: the message is compressed.
    pub const DEFLATED: u8 = 0x40;
    pub const MASKED: u8 = 0x80;
}

/// Why a connection is closed, as a number in the close frame (RFC 6455 §7.4 and the registry of IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: done.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server ends the connection, or the client navigates away.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the other side broke RFC 6455.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a kind of message that is not accepted here (R-CONN-29).
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: text that is not UTF-8, or compressed data that is none.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a rule of the server's own.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message above the limit (R-LIM-16).
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: the server failed.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the server restarts, come back (R-CONN-30).
    pub const RESTART: Self = Self(1012);
    /// 1013: overloaded, come back later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Whether this code may travel in a close frame: registered codes and those for libraries and applications. 1004 has
    /// no meaning, and 1005, 1006 and 1015 only stand for "there was no close frame" (RFC 6455 §7.4.1 and §7.4.2).
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a close frame says when it is not empty (RFC 6455 §5.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Always one that [may be sent](CloseCode::may_be_sent).
    pub code: CloseCode,
    /// At most 123 bytes; for people.
    pub reason: &'a str,
}
