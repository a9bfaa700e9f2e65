//! What happened in a channel, as the scripts announce it to all nodes and keep it for those that missed it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ulid::Ulid;

use super::reply::{Garbled, id, text, unpack};
use crate::connection::ConnectionId;
use crate::engine::{Publish, Reacting, Write};
use crate::json::Json;
use crate::presence::Member;

/// An announcement whose body has not been read yet.
pub struct Announced {
    /// Its place in the channel's order; each is one above the one before.
    pub position: u64,
    /// The node that caused it; blank: none in particular.
    pub origin: Bytes,
    body: Vec<Bytes>,
}

/// What is announced.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(Ulid, Publish),
    /// A member is new; the connection that brought it is not told.
    Added(Member, Option<ConnectionId>),
    /// A member's metadata is another.
    Updated(Member),
    /// A member is gone.
    Removed(Member),
    /// A value of storage is another.
    Storage(Write),
    /// A reaction was put on a message or taken off.
    Reaction(Ulid, Reacting),
}

impl Announced {
    /// Reads its head.
    pub fn read(packed: Bytes) -> Result<Self, Garbled> {
        let mut parts = unpack(packed)?.into_iter();
        let mut next = || parts.next().ok_or(Garbled("an announcement is cut off"));
        let position = text(&next()?)?.parse();
        let origin = next()?;
        Ok(Self {
            position: position.map_err(|_| Garbled("not a position"))?,
            origin,
            body: parts.collect(),
        })
    }

    /// Reads its body.
    pub fn event(self) -> Result<Event, Garbled> {
        Ok(match &self.body[..] {
            [kind, of, body] if &**kind == b"M" => Event::Message(id(&text(of)?)?, value(body)?),
            [kind, uid, umd, except] if &**kind == b"A" => {
                Event::Added(member(uid, umd)?, ConnectionId::parse(&text(except)?))
            }
            [kind, uid, umd] if &**kind == b"U" => Event::Updated(member(uid, umd)?),
            [kind, uid, umd] if &**kind == b"R" => Event::Removed(member(uid, umd)?),
            [kind, of, body] if &**kind == b"S" => Event::Storage(written(of, body)?),
            [kind, of, body] if &**kind == b"X" => Event::Reaction(id(&text(of)?)?, value(body)?),
            _ => return Err(Garbled("an unknown announcement")),
        })
    }
}

/// A member from its texts.
pub fn member(uid: &[u8], umd: &[u8]) -> Result<Member, Garbled> {
    let umd = match umd {
        [] => None,
        umd => Some(Json::compact(&text(umd)?).map_err(|_| Garbled("metadata that is not JSON"))?),
    };
    Ok(Member {
        uid: Arc::from(text(uid)?),
        umd,
    })
}

/// The members that a script lists, in their order.
pub fn members(mut listed: super::reply::Fields) -> Result<Vec<Member>, Garbled> {
    let mut found = Vec::new();
    while !listed.is_empty() {
        let uid = listed.bytes()?;
        let kept = listed.bytes()?;
        let (Some(order), Some(umd)) = (kept.get(8..24), kept.get(64..)) else {
            return Err(Garbled("a member is cut off"));
        };
        found.push((order.to_vec(), member(&uid, umd)?));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found.into_iter().map(|(_, member)| member).collect())
}

/// A write from its value, blank if it clears, and the rest.
pub fn written(of: &[u8], rest: &[u8]) -> Result<Write, Garbled> {
    let mut write: Write = value(rest)?;
    if !of.is_empty() {
        let json = Json::compact(&text(of)?);
        write.value = Some(json.map_err(|_| Garbled("a value that is not JSON"))?);
    }
    Ok(write)
}

/// A write as it is kept: the length of its value, the value, the rest.
pub fn kept_write(kept: &[u8]) -> Result<Write, Garbled> {
    const CUT_OFF: Garbled = Garbled("an entry is cut off");
    let (length, rest) = kept.split_at_checked(8).ok_or(CUT_OFF)?;
    let length = std::str::from_utf8(length).ok();
    let length = length.and_then(|it| usize::from_str_radix(it, 16).ok());
    let parts = length.and_then(|length| rest.split_at_checked(length));
    let (value, rest) = parts.ok_or(CUT_OFF)?;
    written(value, rest)
}

/// What is kept of a write beside its value.
pub fn rest_of(write: &Write) -> Bytes {
    body(&Write {
        value: None,
        ..write.clone()
    })
}

/// Reads what [`body`] wrote.
pub fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Garbled> {
    serde_json::from_slice(bytes).map_err(|_| Garbled("a body that can't be read"))
}

/// How messages, writes and reactions are kept and announced: as JSON, which hosts of different versions read alike.
pub fn body(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain data in memory can be encoded")
        .into()
}
