//! WebSocket frames from a client: however they are cut into reads, and wherever the decoder is stopped or moved to
//! another process, the same messages come out, then the same violation, and never more is held than was sent and allowed.
#![no_main]

use std::ops::ControlFlow;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use realtime::websocket::{CONTROL_PAYLOAD, Decoder, Incoming, Violation};

#[derive(Arbitrary, Debug)]
struct Reads {
    deflate: bool,
    /// Small limits are reached by small inputs.
    max_message: u16,
    /// How many bytes each read brings, over and over.
    sizes: [u8; 4],
    /// After how many messages whoever listens asks to stop; 0 for never.
    stop: u8,
    /// Before which read the decoder moves to another process.
    moves: u8,
}

/// What came out: each message as its kind and content, then the violation.
type Outcome = (Vec<(u8, Vec<u8>)>, Option<Violation>);

fn owned(message: Incoming<'_>) -> (u8, Vec<u8>) {
    match message {
        Incoming::Text(text) => (1, text.into()),
        Incoming::Binary(bytes) => (2, bytes.into()),
        Incoming::Ping(bytes) => (9, bytes.into()),
        Incoming::Pong(bytes) => (10, bytes.into()),
        Incoming::Close(None) => (8, Vec::new()),
        Incoming::Close(Some(frame)) => {
            assert!(frame.code.may_be_sent());
            let mut bytes = frame.code.0.to_be_bytes().to_vec();
            bytes.extend_from_slice(frame.reason.as_bytes());
            (8, bytes)
        }
    }
}

fn whole(mut decoder: Decoder, bytes: &[u8]) -> Outcome {
    let mut messages = Vec::new();
    let result = decoder.feed(&mut bytes.to_vec(), &mut |message| {
        messages.push(owned(message));
        ControlFlow::Continue(())
    });
    (messages, result.err())
}

fn in_pieces(mut decoder: Decoder, bytes: &[u8], reads: &Reads) -> Outcome {
    let most = usize::from(reads.max_message) + CONTROL_PAYLOAD + 14;
    let mut messages: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut rest = bytes;
    for turn in 0_usize.. {
        let size = usize::from(reads.sizes[turn % reads.sizes.len()]).max(1);
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        if turn == usize::from(reads.moves) {
            let text = serde_json::to_string(&decoder).expect("plain data");
            decoder = serde_json::from_str(&text).expect("what was written can be read");
        }
        let mut piece = piece.to_vec();
        loop {
            let mut stopped = false;
            let result = decoder.feed(&mut piece, &mut |message| {
                messages.push(owned(message));
                stopped = reads.stop > 0 && messages.len() % usize::from(reads.stop) == 0;
                match stopped {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            if let Err(violation) = result {
                return (messages, Some(violation));
            }
            if !stopped {
                break;
            }
            piece.clear();
        }
        assert!(
            decoder.buffered() <= most,
            "{} bytes are held",
            decoder.buffered()
        );
        if rest.is_empty() {
            return (messages, None);
        }
    }
    unreachable!("every turn takes a byte")
}

fuzz_target!(|data: &[u8]| {
    let mut data = Unstructured::new(data);
    let Ok(reads) = Reads::arbitrary(&mut data) else {
        return;
    };
    let bytes = data.take_rest();
    let decoder = Decoder::new(reads.max_message.into(), reads.deflate);
    let expected = whole(decoder.clone(), bytes);
    for (_, content) in expected.0.iter().filter(|(kind, _)| *kind < 8) {
        assert!(content.len() <= reads.max_message.into());
    }
    assert_eq!(in_pieces(decoder, bytes, &reads), expected);
});
