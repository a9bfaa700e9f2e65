//! What the server answered, taken apart field by field.

use bytes::Bytes;
use jiff::Timestamp;
use redis_protocol::resp3::types::BytesFrame;
use ulid::Ulid;

/// An answer that is not what the script gives: another version wrote it, or somebody else did.
#[derive(Debug, thiserror::Error)]
#[error("an answer can't be understood: {0}")]
pub struct Garbled(pub &'static str);

/// The fields of an array, in order.
pub struct Fields(std::vec::IntoIter<BytesFrame>);

impl Fields {
    /// Those of an array or a push.
    pub fn of(frame: BytesFrame) -> Result<Self, Garbled> {
        match frame {
            BytesFrame::Array { data, .. } | BytesFrame::Push { data, .. } => {
                Ok(Self(data.into_iter()))
            }
            _ => Err(Garbled("not an array")),
        }
    }

    /// Are there no more?
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// The next one's bytes.
    pub fn bytes(&mut self) -> Result<Bytes, Garbled> {
        match self.0.next() {
            Some(BytesFrame::BlobString { data, .. } | BytesFrame::SimpleString { data, .. }) => {
                Ok(data)
            }
            Some(BytesFrame::Number { data, .. }) => Ok(data.to_string().into()),
            _ => Err(Garbled("a field is missing")),
        }
    }

    /// The next one as text.
    pub fn text(&mut self) -> Result<String, Garbled> {
        text(&self.bytes()?)
    }

    /// The next one as text, `None` if it is blank.
    pub fn present(&mut self) -> Result<Option<Bytes>, Garbled> {
        Ok(Some(self.bytes()?).filter(|bytes| !bytes.is_empty()))
    }

    /// Is the next one `1`?
    pub fn flag(&mut self) -> Result<bool, Garbled> {
        Ok(&*self.bytes()? == b"1")
    }

    /// The next one as a number.
    pub fn number(&mut self) -> Result<u64, Garbled> {
        (self.text()?.parse()).map_err(|_| Garbled("not a number"))
    }

    /// The next one as a number, `None` if it is blank.
    pub fn number_if_any(&mut self) -> Result<Option<u64>, Garbled> {
        let text = self.text()?;
        match &*text {
            "" => Ok(None),
            text => (text.parse().map(Some)).map_err(|_| Garbled("not a number")),
        }
    }

    /// The next one as a moment in milliseconds, `None` if it is blank.
    pub fn moment(&mut self) -> Result<Option<Timestamp>, Garbled> {
        let ms = self.number_if_any()?;
        let moment = ms.map(|ms| {
            i64::try_from(ms)
                .ok()
                .and_then(|ms| Timestamp::from_millisecond(ms).ok())
                .ok_or(Garbled("not a moment"))
        });
        moment.transpose()
    }

    /// The next one as an identifier.
    pub fn id(&mut self) -> Result<Ulid, Garbled> {
        id(&self.text()?)
    }

    /// The next one as an array.
    pub fn list(&mut self) -> Result<Fields, Garbled> {
        Fields::of(self.0.next().ok_or(Garbled("a field is missing"))?)
    }
}

impl Iterator for Fields {
    type Item = BytesFrame;

    fn next(&mut self) -> Option<BytesFrame> {
        self.0.next()
    }
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> Result<String, Garbled> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Garbled("not UTF-8"))
}

/// An identifier as the scripts write it: 32 hexadecimal digits, which sort as it does.
pub fn id(text: &str) -> Result<Ulid, Garbled> {
    u128::from_str_radix(text, 16)
        .map(Ulid)
        .map_err(|_| Garbled("not an identifier"))
}

/// An identifier for the scripts.
pub fn hex(id: Ulid) -> String {
    format!("{:032x}", id.0)
}

/// An error of the server, as it wrote it.
pub fn failure(frame: &BytesFrame) -> Option<String> {
    match frame {
        BytesFrame::SimpleError { data, .. } => Some(data.to_string()),
        BytesFrame::BlobError { data, .. } => Some(String::from_utf8_lossy(data).into_owned()),
        _ => None,
    }
}

/// Texts that the scripts have packed into one, in order.
pub fn unpack(mut packed: Bytes) -> Result<Vec<Bytes>, Garbled> {
    let mut parts = Vec::new();
    while !packed.is_empty() {
        let colon = packed.iter().position(|byte| *byte == b':');
        let length = colon.and_then(|at| std::str::from_utf8(&packed[..at]).ok()?.parse().ok());
        let (Some(colon), Some(length)) = (colon, length) else {
            return Err(Garbled("a length is missing"));
        };
        let _ = packed.split_to(colon + 1);
        if packed.len() < length {
            return Err(Garbled("it is cut off"));
        }
        parts.push(packed.split_to(length));
    }
    Ok(parts)
}

/// Texts in one that can be taken apart again, as the scripts do it.
pub fn pack(parts: &[&[u8]]) -> Vec<u8> {
    let mut packed = Vec::new();
    for part in parts {
        packed.extend_from_slice(part.len().to_string().as_bytes());
        packed.push(b':');
        packed.extend_from_slice(part);
    }
    packed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_as_it_was(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)) {
            let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            let unpacked = unpack(pack(&parts).into()).unwrap();
            prop_assert_eq!(unpacked.iter().map(|part| &**part).collect::<Vec<_>>(), parts);
        }

        #[test]
        fn nothing_that_comes_panics(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = unpack(bytes.into());
        }

        #[test]
        fn an_identifier_sorts_as_its_text(one in any::<u128>(), other in any::<u128>()) {
            prop_assert_eq!(one.cmp(&other), hex(Ulid(one)).cmp(&hex(Ulid(other))));
            prop_assert_eq!(id(&hex(Ulid(one))).unwrap(), Ulid(one));
        }
    }
}
