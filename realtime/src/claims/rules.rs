//! What the keys of a token say: directives by channel, event and storage key.
//!
//! They are kept by every connection for as long as it lives, so they are small.

use super::pattern::Pattern;

/// What one key of `channels` says.
#[derive(Debug)]
pub struct ChannelRule {
    pub key: Pattern,
    pub votes: Votes,
    /// [`i64::MAX`] if the key does not say, which is never the earliest.
    pub history_start_ms: i64,
    pub alias: Option<Box<str>>,
    pub messages: Box<[MessageRule]>,
    pub storage: Box<[StorageRule]>,
}

/// What one key of `messages` says.
#[derive(Debug)]
pub struct MessageRule {
    pub key: Pattern,
    pub votes: Votes,
    pub reactions: Option<Box<[Box<str>]>>,
    /// 0 if the key does not say, which is what holds then.
    pub schedule_before_ms: i64,
    pub store: Option<i64>,
}

/// What one key of `storage` says.
#[derive(Debug)]
pub struct StorageRule {
    pub key: Pattern,
    pub votes: Votes,
    /// 0 if the key does not say, which is what holds then.
    pub schedule_before_ms: i64,
    pub store: Option<i64>,
}

/// The yes and no that keys have said on boolean directives, one bit each. Adding votes up is a union of bits, so the
/// order of keys cannot matter (R-PERM-8), and a no is never lost (R-PERM-9).
#[derive(Debug, Clone, Copy, Default)]
pub struct Votes {
    yes: u8,
    no: u8,
}

impl Votes {
    // Of a channel.
    pub const SUBSCRIBE: u8 = 1;
    pub const AUTO_SUBSCRIBE: u8 = 2;
    pub const GET_INFO: u8 = 4;
    pub const OMIT_FROM_SUB_COUNT: u8 = 8;
    pub const UMD_UPDATE: u8 = 16;
    // Of an event or a storage key.
    pub const EMIT_PUB_SUB_EVENT: u8 = 1;
    pub const PUBLISH: u8 = 2;
    pub const BROADCAST: u8 = 4;
    pub const ECHO: u8 = 8;
    pub const REACT: u8 = 16;
    pub const GET: u8 = 32;
    pub const SET: u8 = 64;
    pub const OBSERVE: u8 = 128;

    pub fn cast(&mut self, directive: u8, value: bool) {
        if value {
            self.yes |= directive
        } else {
            self.no |= directive
        }
    }

    pub fn add(&mut self, other: Self) {
        self.yes |= other.yes;
        self.no |= other.no;
    }

    pub fn without(self, directives: u8) -> Self {
        Self {
            yes: self.yes & !directives,
            no: self.no & !directives,
        }
    }

    /// What the keys decide, if any has spoken.
    pub fn decision(self, directive: u8) -> Option<bool> {
        match (self.yes & directive != 0, self.no & directive != 0) {
            (_, true) => Some(false),
            (true, false) => Some(true),
            (false, false) => None,
        }
    }

    /// What holds: false if no key has spoken (R-PERM-10).
    pub fn grants(self, directive: u8) -> bool {
        self.decision(directive) == Some(true)
    }
}
