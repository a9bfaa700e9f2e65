//! One message for many connections: encoded once, shared by all outboxes.

use std::cell::OnceCell;

use crate::websocket::{self, Frame};

/// Compressing less than this costs more than it saves: a frame header and a deflate block eat the difference.
const WORTH_COMPRESSING: usize = 128;

/// A message in the forms in which it leaves, each made when the first connection needs it.
#[derive(Debug)]
pub struct Encoded<'a> {
    payload: &'a str,
    plain: OnceCell<Frame>,
    deflated: OnceCell<Frame>,
}

impl<'a> Encoded<'a> {
    /// A message that nobody has got yet.
    pub fn new(payload: &'a str) -> Self {
        Self {
            payload,
            plain: OnceCell::new(),
            deflated: OnceCell::new(),
        }
    }

    /// The frame for a connection, which has negotiated compression or has not (R-CONN-32).
    pub fn frame(&self, deflate: bool) -> Frame {
        if deflate && self.payload.len() >= WORTH_COMPRESSING {
            self.deflated
                .get_or_init(|| websocket::text_deflated(self.payload))
                .clone()
        } else {
            self.plain
                .get_or_init(|| websocket::text(self.payload))
                .clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-CONN-32, and what decision 0013 promises: a message is encoded once for all who get it in the same form.
    #[test]
    fn a_message_is_encoded_once_for_each_form() {
        let text = format!("\"{}\"", "x".repeat(WORTH_COMPRESSING));
        let message = Encoded::new(&text);
        for deflate in [false, true] {
            let (one, other) = (message.frame(deflate), message.frame(deflate));
            assert!(std::ptr::eq(&*one, &*other), "one allocation");
        }
        assert!(message.frame(true).len() < message.frame(false).len());
        assert_eq!(*message.frame(false), *websocket::text(&text));
    }

    #[test]
    fn what_is_short_is_not_compressed() {
        let text = "x".repeat(WORTH_COMPRESSING - 1);
        let message = Encoded::new(&text);
        assert_eq!(*message.frame(true), *websocket::text(&text));
    }
}
