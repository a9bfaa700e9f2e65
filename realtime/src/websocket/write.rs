//! Messages in, frames out. A server's frames are not masked and every message is one frame, so what is sent depends on
//! nothing but the message.

use std::sync::Arc;

use super::{CONTROL_PAYLOAD, CloseCode, bit, deflate, opcode};

/// One encoded frame, shared by all connections that it is sent to.
pub type Frame = Arc<[u8]>;

/// A text message.
pub fn text(payload: &str) -> Frame {
    frame(bit::FIN | opcode::TEXT, &[payload.as_bytes()])
}

/// A text message from pieces, each of which is copied once: into the frame.
pub fn text_parts(parts: &[&str]) -> Frame {
    frame(bit::FIN | opcode::TEXT, parts)
}

/// A text message for connections that negotiated permessage-deflate (RFC 7692 §7.2.1, without context takeover). When
/// compressing gains nothing, the frame is the one of [`text`], which such connections understand as well (§6).
pub fn text_deflated(payload: &str) -> Frame {
    let deflated = deflate::deflate(payload.as_bytes());
    if deflated.len() < payload.len() {
        frame(bit::FIN | bit::DEFLATED | opcode::TEXT, &[&deflated])
    } else {
        text(payload)
    }
}

/// A binary message. The protocol has none (R-JSON-1); conformance tests echo them.
pub fn binary(payload: &[u8]) -> Frame {
    frame(bit::FIN | opcode::BINARY, &[payload])
}

/// A ping; of the payload at most 125 bytes are sent.
pub fn ping(payload: &[u8]) -> Frame {
    control(opcode::PING, payload)
}

/// The answer to a ping, with its payload (RFC 6455 §5.5.3); at most 125 bytes are sent.
pub fn pong(payload: &[u8]) -> Frame {
    control(opcode::PONG, payload)
}

/// A close frame. The reason is cut after at most 123 bytes, between two characters.
///
/// # Panics
///
/// In builds with debug assertions, when the code must not be sent.
pub fn close(code: CloseCode, reason: &str) -> Frame {
    debug_assert!(code.may_be_sent(), "{code:?} in a close frame");
    let code = code.0.to_be_bytes();
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD - code.len())];
    frame(bit::FIN | opcode::CLOSE, &[&code[..], reason.as_bytes()])
}

fn control(opcode: u8, payload: &[u8]) -> Frame {
    frame(
        bit::FIN | opcode,
        &[&payload[..payload.len().min(CONTROL_PAYLOAD)]],
    )
}

/// Header and payload in one allocation: the length in the fewest bytes that hold it (RFC 6455 §5.2).
fn frame(first: u8, parts: &[impl AsRef<[u8]>]) -> Frame {
    let payload: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    let mut header = [first, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let header = match payload {
        0..=125 => {
            header[1] = payload as u8;
            &header[..2]
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            &header[..4]
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            &header[..]
        }
    };
    // Of all safe ways this one allocates once, where it is to stay: an iterator of known length.
    let mut frame: Frame = std::iter::repeat_n(0, header.len() + payload).collect();
    let mut rest = Arc::get_mut(&mut frame).expect("nobody else has it yet");
    for part in std::iter::once(header).chain(parts.iter().map(AsRef::as_ref)) {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    frame
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tungstenite::protocol::{Role, WebSocket};

    use super::super::deflate::inflate;
    use super::*;

    /// RFC 6455 §5.7
    #[test]
    fn the_examples_of_the_rfc_are_sent() {
        assert_eq!(&text("Hello")[..], b"\x81\x05Hello");
        assert_eq!(&ping(b"Hello")[..], b"\x89\x05Hello");
        assert_eq!(&pong(b"Hello")[..], b"\x8A\x05Hello");
        assert_eq!(binary(&[7; 256])[..5], [0x82, 0x7E, 0x01, 0x00, 7]);
        assert_eq!(
            binary(&[7; 65536])[..11],
            [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0, 7]
        );
    }

    /// R-JSON-1: one text frame, and nothing else. RFC 6455 §5.2: the shortest length, at its bounds.
    #[test]
    fn a_message_is_one_text_frame_with_the_shortest_length() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let payload = "x".repeat(length);
            let frame = text(&payload);
            assert_eq!((frame[0], frame.len()), (0x81, header + length));
            assert_eq!(&frame[header..], payload.as_bytes());
        }
    }

    /// RFC 6455 §5.5
    #[test]
    fn control_frames_never_exceed_their_limit() {
        assert_eq!(ping(&[0; 200]).len(), 2 + 125);
        let closed = close(CloseCode::RESTART, &"ü".repeat(100));
        assert_eq!(
            closed[..4],
            [0x88, 2 + 122, 0x03, 0xF4],
            "61 whole characters, no half one"
        );
        assert_eq!(closed.len(), 2 + 2 + 122);
    }

    /// RFC 7692 §7.2.1
    #[test]
    fn a_compressed_frame_is_marked_and_lacks_the_tail() {
        let message = r#"{"event":"message","data":{"same":"same same same same same same"}}"#;
        let frame = text_deflated(message);
        assert_eq!(frame[0], 0xC1);
        assert!(
            frame.len() < message.len() && !frame.ends_with(&[0x00, 0x00, 0xFF, 0xFF]),
            "{frame:x?}"
        );
        assert_eq!(
            inflate(&frame[2..], message.len()).as_deref(),
            Ok(message.as_bytes())
        );
        assert_eq!(text_deflated("Hi"), text("Hi"), "nothing to gain");
        assert_eq!(text_deflated(""), text(""));
    }

    /// R-CONN-32, RFC 7692 §7.1.2.1: a client that asked for it keeps no more than the promised window.
    #[test]
    fn a_compressed_frame_refers_no_further_back_than_was_promised() {
        let window = 1 << deflate::WINDOW_BITS;
        let noise = |length: u64| {
            (0..length).map(|at| char::from(b'!' + (at * at * 7919 % 9973 % 90) as u8))
        };
        let twice = |length| {
            deflate::deflate(noise(length).collect::<String>().repeat(2).as_bytes()).len() as u64
        };
        assert!(
            twice(window - 1_000) < window,
            "what is in reach costs nothing the second time"
        );
        assert!(
            twice(window + 1) > window * 3 / 2,
            "what is out of reach is said again"
        );
    }

    proptest! {
        #[test]
        fn pieces_are_sent_as_the_whole(parts in prop::collection::vec(".{0,99}", 0..6)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(text_parts(&parts), text(&parts.concat()));
        }

        /// RFC 7692 §7.2: of any size, so that the compressor's output ends anywhere in the room it is given.
        #[test]
        fn what_was_compressed_unpacks_to_itself(
            words in prop::collection::vec("[a-e]{1,5}|\\PC{1,20}", 0..400),
            times in 1..40usize,
        ) {
            let message = words.concat().repeat(times);
            let payload = deflate::deflate(message.as_bytes());
            prop_assert!(inflate(&payload, message.len()).as_deref() == Ok(message.as_bytes()));
        }

        /// R-JSON-1: a client that is not ours reads one text message.
        #[test]
        fn an_independent_client_reads_what_is_sent(message in ".{0,300}", times in 1..300usize) {
            let message = message.repeat(times);
            let sent = [&text(&message)[..], &close(CloseCode::GOING_AWAY, "Going away")].concat();
            let mut client = WebSocket::from_raw_socket(Cursor::new(sent), Role::Client, None);
            prop_assert_eq!(client.read().expect("text"), tungstenite::Message::text(message));
            let tungstenite::Message::Close(Some(frame)) = client.read().expect("close") else {
                panic!("a close frame");
            };
            prop_assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Going away"));
        }
    }
}
