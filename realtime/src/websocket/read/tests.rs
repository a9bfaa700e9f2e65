//! What a client may rely on, and what a hostile one cannot do. The Autobahn suite says the same from outside
//! (`make conformance`).

use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{deflate::deflate, text, text_deflated};
use super::*;

/// R-LIM-16: the limit that the protocol names.
const LIMIT: usize = 128 * 1024;
const FIN: u8 = bit::FIN;
const TEXT: u8 = opcode::TEXT;
const BINARY: u8 = opcode::BINARY;
const RSV1: u8 = bit::DEFLATED;

/// [`Incoming`] that outlives the read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(CloseCode, String)>),
}

impl From<Incoming<'_>> for Seen {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Incoming::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Incoming::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Incoming::Close(frame) => {
                Self::Close(frame.map(|frame| (frame.code, frame.reason.to_owned())))
            }
        }
    }
}

fn seen_text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

/// A frame as clients send it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// One message in as many frames as there are pieces.
fn fragments(first: u8, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = pieces.len() - 1;
    let frame = |(at, piece): (usize, &&[u8])| {
        let opcode = if at == 0 { first } else { opcode::CONTINUATION };
        masked(if at == last { opcode | FIN } else { opcode }, piece)
    };
    pieces.iter().enumerate().map(frame).collect()
}

/// What a decoder makes of one read.
fn feed(decoder: &mut Decoder, bytes: &[u8]) -> (Vec<Seen>, Result<(), Violation>) {
    let mut seen = Vec::new();
    let result = decoder.feed(&mut bytes.to_vec(), &mut |incoming| {
        seen.push(incoming.into());
        ControlFlow::Continue(())
    });
    (seen, result)
}

fn read(bytes: &[u8], deflate: bool) -> (Vec<Seen>, Result<(), Violation>) {
    feed(&mut Decoder::new(LIMIT, deflate), bytes)
}

/// A read for every byte, and a new process between any two.
fn read_bytewise(bytes: &[u8], deflate: bool) -> (Vec<Seen>, Result<(), Violation>) {
    let mut decoder = Decoder::new(LIMIT, deflate);
    let mut all = Vec::new();
    for byte in bytes {
        decoder = moved(decoder);
        let (seen, result) = feed(&mut decoder, &[*byte]);
        all.extend(seen);
        if result.is_err() {
            return (all, result);
        }
    }
    (all, Ok(()))
}

/// The decoder as another process receives it.
fn moved(decoder: Decoder) -> Decoder {
    let state = serde_json::to_vec(&decoder).expect("plain data");
    serde_json::from_slice(&state).expect("what was written")
}

/// Heap memory that a decoder owns, in bytes.
fn heap(decoder: &Decoder) -> usize {
    let partial = decoder.partial.as_ref().map_or(0, |partial| {
        let message = partial
            .message
            .as_ref()
            .map_or(0, |message| message.payload.capacity());
        size_of::<Partial>() + partial.begun.capacity() + message
    });
    partial + decoder.unread.capacity()
}

#[test]
fn a_text_message_in_one_frame_is_handed_out() {
    // RFC 6455 §5.7: "Hello", masked.
    let frame = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(read(&frame, false), (vec![seen_text("Hello")], Ok(())));
}

/// RFC 6455 §5.4
#[test]
fn control_frames_are_handed_out_between_the_frames_of_a_message() {
    let mut frames = fragments(TEXT, &[b"one ", b"", b"message"]);
    frames.insert(1, masked(FIN | opcode::PING, b"?"));
    frames.insert(3, masked(FIN | opcode::PONG, b""));
    let bytes = frames.concat();
    let expected = vec![
        Seen::Ping(b"?".to_vec()),
        Seen::Pong(vec![]),
        seen_text("one message"),
    ];
    assert_eq!(read(&bytes, false), (expected.clone(), Ok(())));
    assert_eq!(read_bytewise(&bytes, false), (expected, Ok(())));
}

/// RFC 6455 §5.2: all three spellings of a length, at their bounds.
#[test]
fn frames_of_any_length_are_read() {
    for length in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, LIMIT] {
        let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let (seen, result) = read(&masked(FIN | BINARY, &payload), false);
        assert_eq!(result, Ok(()), "{length}");
        assert!(seen == [Seen::Binary(payload)], "{length}");
    }
}

/// R-CONN-29: a binary message is known as one, so it can be answered with 1003.
#[test]
fn a_binary_message_is_never_taken_for_text() {
    let (seen, _) = read(&masked(FIN | BINARY, b"{}"), false);
    assert_eq!(seen, [Seen::Binary(b"{}".to_vec())]);
    assert_eq!(
        &super::super::close(CloseCode::UNSUPPORTED, "")[..],
        [0x88, 2, 0x03, 0xEB]
    );
}

/// R-CONN-24, RFC 6455 §5.5.1
#[test]
fn a_close_frame_may_be_empty() {
    assert_eq!(
        read(&masked(FIN | opcode::CLOSE, b""), false),
        (vec![Seen::Close(None)], Ok(()))
    );
}

/// RFC 6455 §5.5.1, §7.4
#[test]
fn a_close_frame_says_its_code_and_reason() {
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999,
    ] {
        let payload = [&u16::to_be_bytes(code)[..], "tschüß".as_bytes()].concat();
        let expected = Seen::Close(Some((CloseCode(code), "tschüß".to_owned())));
        assert_eq!(
            read_bytewise(&masked(FIN | opcode::CLOSE, &payload), false),
            (vec![expected], Ok(()))
        );
    }
}

/// RFC 6455 §5.5.1
#[test]
fn nothing_after_a_close_frame_is_decoded() {
    let mut decoder = Decoder::new(LIMIT, false);
    let close = [
        masked(FIN | opcode::CLOSE, b""),
        masked(FIN | opcode::PING, b""),
    ]
    .concat();
    assert_eq!(
        feed(&mut decoder, &close),
        (vec![Seen::Close(None)], Ok(()))
    );
    assert_eq!(
        feed(&mut decoder, &masked(FIN | TEXT, b"more")),
        (vec![], Ok(()))
    );
    assert_eq!(feed(&mut decoder, &[0xFF; 20]), (vec![], Ok(())));
    assert_eq!(heap(&decoder), 0);
}

/// RFC 6455 §5.1, §5.2, §5.4, §5.5, §7.4, §8.1; RFC 7692 §6. R-CONN-29 where a message is too big.
#[test]
fn breaches_of_the_protocol_are_refused_with_their_close_code() {
    let close = |payload: &[u8]| masked(FIN | opcode::CLOSE, payload);
    let mut unmasked = text("hi").to_vec();
    let mut frames = vec![
        (std::mem::take(&mut unmasked), Violation::Unmasked, 1002),
        (
            masked(FIN | opcode::PING | RSV1, b""),
            Violation::ReservedBit,
            1002,
        ),
        (masked(FIN | TEXT | 0x20, b""), Violation::ReservedBit, 1002),
        (masked(FIN | TEXT | 0x10, b""), Violation::ReservedBit, 1002),
        (
            masked(opcode::PING, b""),
            Violation::FragmentedControl,
            1002,
        ),
        (
            masked(opcode::CLOSE, b""),
            Violation::FragmentedControl,
            1002,
        ),
        (
            masked(FIN | opcode::PING, &[0; 126]),
            Violation::LongControl,
            1002,
        ),
        (
            masked(FIN | opcode::CLOSE, &[0; 0x1_0000]),
            Violation::LongControl,
            1002,
        ),
        (
            vec![FIN | TEXT, 0xFE, 0, 125, 0, 0, 0, 0],
            Violation::MalformedLength,
            1002,
        ),
        (
            vec![FIN | TEXT, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
            Violation::MalformedLength,
            1002,
        ),
        (
            vec![FIN | TEXT, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0],
            Violation::MalformedLength,
            1002,
        ),
        (
            masked(opcode::CONTINUATION, b""),
            Violation::OrphanContinuation,
            1002,
        ),
        (
            masked(FIN | opcode::CONTINUATION, b"a"),
            Violation::OrphanContinuation,
            1002,
        ),
        (
            [masked(TEXT, b"a"), masked(FIN | TEXT, b"b")].concat(),
            Violation::InterruptedMessage,
            1002,
        ),
        (
            [masked(BINARY, b""), masked(BINARY, b"b")].concat(),
            Violation::InterruptedMessage,
            1002,
        ),
        (
            [masked(BINARY, b""), masked(FIN | RSV1, b"b")].concat(),
            Violation::ReservedBit,
            1002,
        ),
        (close(&[3]), Violation::MalformedClose, 1002),
        (close(b"\x03\xE8\xFF"), Violation::InvalidText, 1007),
        (
            masked(FIN | TEXT, b"\xC0\xAF"),
            Violation::InvalidText,
            1007,
        ),
        (
            masked(FIN | TEXT, b"\xED\xA0\x80"),
            Violation::InvalidText,
            1007,
        ),
        (
            masked(FIN | TEXT, "ü".as_bytes().split_at(1).0),
            Violation::InvalidText,
            1007,
        ),
        (
            masked(FIN | TEXT | RSV1, &[0x07]),
            Violation::CorruptDeflate,
            1007,
        ),
        (
            masked(FIN | TEXT | RSV1, &deflate(b"\xFF")),
            Violation::InvalidText,
            1007,
        ),
        (
            masked(FIN | TEXT, &vec![b'a'; LIMIT + 1]),
            Violation::TooBig,
            1009,
        ),
    ];
    frames.extend(
        (3..=7)
            .chain(11..=15)
            .map(|opcode| (masked(FIN | opcode, b""), Violation::ReservedOpcode, 1002)),
    );
    frames.extend(
        [
            0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ]
        .map(|code| {
            let frame = close(&code.to_be_bytes());
            (frame, Violation::InvalidCloseCode, 1002)
        }),
    );
    for (bytes, violation, code) in frames {
        let start = &bytes[..bytes.len().min(20)];
        assert_eq!(read(&bytes, true), (vec![], Err(violation)), "{start:x?}");
        assert_eq!(
            read_bytewise(&bytes[..bytes.len().min(200)], true).1,
            Err(violation),
            "{start:x?}"
        );
        assert_eq!(violation.close().0, CloseCode(code));
    }
}

/// RFC 7692 §6, R-CONN-32
#[test]
fn a_compressed_message_is_refused_when_compression_was_not_negotiated() {
    assert_eq!(
        read(&masked(FIN | TEXT | RSV1, &deflate(b"hi")), false),
        (vec![], Err(Violation::ReservedBit))
    );
}

/// RFC 6455 §7.1.7
#[test]
fn nothing_is_decoded_after_a_violation_and_what_came_before_counts() {
    let mut decoder = Decoder::new(LIMIT, false);
    let bytes = [
        masked(FIN | TEXT, b"before"),
        masked(FIN | 3, b""),
        masked(FIN | TEXT, b"after"),
    ]
    .concat();
    assert_eq!(
        feed(&mut decoder, &bytes),
        (vec![seen_text("before")], Err(Violation::ReservedOpcode))
    );
    assert_eq!(
        feed(&mut decoder, &masked(FIN | TEXT, b"later")),
        (vec![], Ok(()))
    );
    assert_eq!(heap(&decoder), 0);
}

/// RFC 6455 §8.1: in the middle of a frame, as soon as no further byte could make it right.
#[test]
fn wrong_text_is_refused_with_its_first_wrong_byte() {
    for wrong in [
        &b"\xC0"[..],
        b"\xFF",
        b"\xF4\x90",
        b"\xED\xA0",
        b"\xE2\x82\x41",
        b"\xF5",
        b"\x80",
        b"\xE0\x9F",
    ] {
        let payload = [b"\xCE\xBA ", wrong, b" and what follows"].concat();
        let frame = masked(FIN | TEXT, &payload);
        let certain = 6 + 3 + wrong.len();
        assert_eq!(
            read_bytewise(&frame[..certain - 1], false),
            (vec![], Ok(())),
            "{wrong:x?}"
        );
        assert_eq!(
            read_bytewise(&frame[..certain], false),
            (vec![], Err(Violation::InvalidText)),
            "{wrong:x?}"
        );

        // And when a fragment ends within it.
        let start = masked(TEXT, &payload[..3 + wrong.len() - 1]);
        let next = masked(opcode::CONTINUATION, &payload[3 + wrong.len() - 1..]);
        assert_eq!(read(&start, false), (vec![], Ok(())), "{wrong:x?}");
        assert_eq!(
            read(&[start, next].concat(), false),
            (vec![], Err(Violation::InvalidText)),
            "{wrong:x?}"
        );
    }
}

/// RFC 6455 §5.6: a fragment may end within a character.
#[test]
fn text_may_be_cut_anywhere() {
    let whole = "aκό€σ𐍈\u{10FFFF}\u{FFFF}z";
    for at in 0..=whole.len() {
        let (one, two) = whole.as_bytes().split_at(at);
        let bytes = fragments(TEXT, &[one, two]).concat();
        assert_eq!(
            read(&bytes, false),
            (vec![seen_text(whole)], Ok(())),
            "{at}"
        );
        assert_eq!(
            read_bytewise(&bytes, false),
            (vec![seen_text(whole)], Ok(())),
            "{at}"
        );
    }
}

/// R-LIM-16: 128 KiB in any number of frames; R-CONN-29: one byte more is 1009.
#[test]
fn a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let payload = vec![b'a'; LIMIT];
    let pieces: Vec<&[u8]> = payload.chunks(LIMIT / 3).collect();
    let whole = vec![Seen::Text("a".repeat(LIMIT))];
    let frames = fragments(TEXT, &pieces);
    assert!(read(&frames.concat(), false) == (whole.clone(), Ok(())));
    assert!(read(&masked(FIN | TEXT | RSV1, &deflate(&payload)), true) == (whole, Ok(())));

    let mut long = frames;
    long.pop();
    let last = LIMIT - LIMIT / 3 * 3 + 1;
    long.push(masked(FIN, &vec![b'a'; last]));
    // The header is enough: not a byte of it is waited for.
    let short = masked(FIN, &vec![b'a'; last]).len() - last;
    let bytes = long.concat();
    assert_eq!(
        read(&bytes[..bytes.len() - last], false),
        (vec![], Err(Violation::TooBig))
    );
    assert_eq!(short, 6);
    assert_eq!(
        Violation::TooBig.close(),
        (CloseCode::TOO_BIG, "Message is too big")
    );
}

/// R-LIM-16, R-CONN-29: the limit holds for what comes out, too.
#[test]
fn a_small_frame_that_unpacks_beyond_the_limit_is_refused() {
    let bomb = deflate(&vec![b'a'; 64 * 1024 * 1024]);
    let frame = |payload: &[u8]| masked(FIN | TEXT | RSV1, payload);
    let mut decoder = Decoder::new(1024 * 1024, true);
    assert!(bomb.len() < decoder.max_message, "{}", bomb.len());
    assert_eq!(
        feed(&mut decoder, &frame(&bomb)),
        (vec![], Err(Violation::TooBig))
    );
    assert_eq!(
        read(&frame(&deflate(&vec![b'a'; LIMIT + 1])), true),
        (vec![], Err(Violation::TooBig))
    );
}

/// R-LIM-16
#[test]
fn memory_grows_with_the_bytes_that_came_and_not_with_an_announced_length() {
    let frame = masked(FIN | BINARY, &vec![7; LIMIT]);
    let mut decoder = Decoder::new(LIMIT, false);
    let mut sizes = Vec::new();
    for (at, piece) in frame.chunks(100).enumerate() {
        let (seen, result) = feed(&mut decoder, piece);
        assert_eq!(
            (seen.is_empty(), result),
            ((at + 1) * 100 < frame.len(), Ok(()))
        );
        let came = (at + 1) * 100;
        assert!(
            heap(&decoder) <= size_of::<Partial>() + (2 * came).min(LIMIT),
            "{came}: {}",
            heap(&decoder)
        );
        sizes.push(heap(&decoder));
    }
    // Few of the pieces make the buffer move, so many of them are no work that grows with their number.
    sizes.dedup();
    assert!(sizes.len() < 20, "{sizes:?}");
}

#[test]
fn between_two_messages_a_decoder_is_small_and_owns_no_memory() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    let mut decoder = Decoder::new(LIMIT, true);
    let frames = [
        fragments(TEXT, &[b"some", b"thing"]).concat(),
        masked(FIN | opcode::PING, b"?"),
    ]
    .concat();
    for byte in &frames[..frames.len() - 1] {
        feed(&mut decoder, &[*byte]).1.expect("valid");
    }
    assert!(decoder.mid_message());
    assert_eq!(decoder.buffered(), 6, "the ping without its last byte");
    feed(&mut decoder, &frames[frames.len() - 1..])
        .1
        .expect("valid");
    assert!(!decoder.mid_message());
    assert_eq!((decoder.buffered(), heap(&decoder)), (0, 0));
}

#[test]
fn what_follows_a_stop_is_kept_and_comes_first_the_next_time() {
    let frame = |text: &str| masked(FIN | TEXT, text.as_bytes());
    let mut decoder = Decoder::new(LIMIT, false);
    let mut seen = Vec::new();
    let mut one = |decoder: &mut Decoder, bytes: &[u8]| {
        let count = seen.len();
        let stop = &mut |incoming: Incoming<'_>| {
            seen.push(incoming.into());
            ControlFlow::Break(())
        };
        decoder.feed(&mut bytes.to_vec(), stop).expect("valid");
        (seen.len() - count, seen.clone())
    };

    let three = [frame("1"), frame("2"), frame("3")].concat();
    let (head, tail) = three.split_at(three.len() - 3);
    assert_eq!(one(&mut decoder, head), (1, vec![seen_text("1")]));
    assert_eq!(decoder.buffered(), head.len() - frame("1").len());
    assert!(!decoder.mid_message());
    decoder = moved(decoder);
    assert_eq!(one(&mut decoder, &[]).0, 1);
    assert_eq!(one(&mut decoder, &[]).0, 0, "half a frame");
    assert!(decoder.mid_message());
    assert_eq!(
        one(&mut decoder, &[tail, &frame("4"), &frame("5")].concat()).0,
        1
    );
    assert_eq!(one(&mut decoder, &frame("6")).0, 1);
    assert_eq!(one(&mut decoder, &[]).0, 1);
    let all = ["1", "2", "3", "4", "5", "6"].map(seen_text);
    assert_eq!(one(&mut decoder, &[]), (1, all.to_vec()));
    assert_eq!((decoder.buffered(), heap(&decoder)), (0, 0));
}

/// RFC 7692 §7.2.3: every example that needs no context from an earlier message.
#[test]
fn the_examples_of_the_compression_rfc_are_understood() {
    let hello = (vec![seen_text("Hello")], Ok(()));
    let examples: [&[&[u8]]; 5] = [
        &[&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]],
        &[&[0xf2, 0x48, 0xcd], &[0xc9, 0xc9, 0x07, 0x00]],
        &[&[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ]],
        &[&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]],
        &[&[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ]],
    ];
    for pieces in examples {
        let bytes = fragments(TEXT | RSV1, pieces).concat();
        assert_eq!(read(&bytes, true), hello, "{pieces:x?}");
        assert_eq!(read_bytewise(&bytes, true), hello, "{pieces:x?}");
    }
    assert_eq!(
        read(&masked(FIN | TEXT | RSV1, &[0x00]), true),
        (vec![seen_text("")], Ok(()))
    );
    // Uncompressed messages stay possible (§6).
    assert_eq!(read(&masked(FIN | TEXT, b"Hello"), true), hello);
}

/// RFC 7692 §7.2.2: a compressed message says nothing about the next one.
#[test]
fn no_context_is_taken_over_between_compressed_messages() {
    let message = format!("{{\"event\":\"x\",\"data\":\"{}\"}}", "repeat ".repeat(40));
    let frame = masked(FIN | TEXT | RSV1, &deflate(message.as_bytes()));
    assert_eq!(
        &text_deflated(&message)[2..],
        deflate(message.as_bytes()),
        "what is sent is compressed alike"
    );
    // The second message cannot refer to the first: this one copies five bytes from before its start.
    let reference = masked(FIN | TEXT | RSV1, &[0x82, 0x01, 0x00]);
    let (seen, result) = read(&[&frame[..], &frame, &reference].concat(), true);
    assert_eq!(seen, [seen_text(&message), seen_text(&message)]);
    assert_eq!(result, Err(Violation::CorruptDeflate));
}

/// What a client sends, as frames and as what it means.
#[derive(Debug, Clone)]
struct Sent {
    frames: Vec<Vec<u8>>,
    means: Seen,
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..300usize, 2 => 300..5_000usize, 1 => 60_000..=70_000usize]
}

fn control() -> impl Strategy<Value = Sent> {
    (any::<bool>(), vec(any::<u8>(), 0..=CONTROL_PAYLOAD)).prop_map(|(ping, payload)| Sent {
        frames: vec![masked(
            FIN | if ping { opcode::PING } else { opcode::PONG },
            &payload,
        )],
        means: if ping {
            Seen::Ping(payload)
        } else {
            Seen::Pong(payload)
        },
    })
}

fn message() -> impl Strategy<Value = Sent> {
    let payload = (any::<bool>(), sizes(), any::<u32>());
    (
        payload,
        any::<bool>(),
        vec(any::<prop::sample::Index>(), 0..4),
    )
        .prop_map(|((text, size, seed), deflated, cuts)| {
            let seed = seed as usize;
            let (bytes, means) = if text {
                let text: String = "{\"a\":\"äß€𐍈\"}"
                    .chars()
                    .cycle()
                    .skip(seed % 13)
                    .take(size)
                    .collect();
                (text.clone().into_bytes(), Seen::Text(text))
            } else {
                let bytes: Vec<u8> = (0..size).map(|at| (at * (seed | 1)) as u8).collect();
                (bytes.clone(), Seen::Binary(bytes))
            };
            let first = if text { TEXT } else { BINARY };
            let (first, bytes) = if deflated {
                (first | RSV1, deflate(&bytes))
            } else {
                (first, bytes)
            };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            Sent {
                frames: fragments(first, &pieces),
                means,
            }
        })
}

/// A conversation: messages, with control frames anywhere between their frames.
fn conversation() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    vec(
        (
            message(),
            vec((any::<prop::sample::Index>(), control()), 0..3),
        ),
        1..5,
    )
    .prop_map(|sent| {
        let (mut bytes, mut means) = (Vec::new(), Vec::new());
        for (message, controls) in sent {
            let count = message.frames.len();
            for (at, frame) in message.frames.iter().enumerate() {
                for (_, control) in controls
                    .iter()
                    .filter(|(index, _)| index.index(count) == at)
                {
                    bytes.extend(control.frames.concat());
                    means.push(control.means.clone());
                }
                bytes.extend(frame);
            }
            means.push(message.means);
        }
        (bytes, means)
    })
}

/// A decoder's way through `bytes` in reads that end at `cuts`, moved to another process after every one, with a stop
/// after every message when `stops`.
fn pieced(bytes: &[u8], mut cuts: Vec<usize>, stops: bool) -> (Vec<Seen>, Result<(), Violation>) {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut decoder = Decoder::new(LIMIT, true);
    let (mut seen, mut from) = (Vec::new(), 0);
    for cut in cuts {
        let mut read = bytes[from..cut].to_vec();
        from = cut;
        loop {
            let count = seen.len();
            let result = decoder.feed(&mut read, &mut |incoming| {
                seen.push(incoming.into());
                if stops {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if result.is_err() {
                return (seen, result);
            }
            read.clear();
            if !stops || seen.len() == count {
                break;
            }
        }
        decoder = moved(decoder);
    }
    (seen, Ok(()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// R-LIM-16, RFC 6455 §5.4: how the network cuts the bytes, and where the connection changes its process, is never
    /// seen in what is understood.
    #[test]
    fn a_conversation_means_the_same_however_it_is_cut_and_moved(
        (bytes, means) in conversation(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        stops: bool,
    ) {
        let cuts = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert!(read(&bytes, true) == (means.clone(), Ok(())), "in one read");
        prop_assert!(pieced(&bytes, cuts, stops) == (means, Ok(())), "in pieces");
    }

    /// The same with something wrong in it: the same messages before, and the same verdict.
    #[test]
    fn a_breach_is_seen_the_same_however_it_is_cut_and_moved(
        (mut bytes, _) in conversation(),
        flips in vec((any::<prop::sample::Index>(), 0..8u8), 1..3),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        stops: bool,
    ) {
        for (at, bit) in flips {
            // Headers are more telling than payloads.
            let near = at.index(bytes.len().min(600));
            bytes[near] ^= 1 << bit;
        }
        let cuts = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert!(read(&bytes, true) == pieced(&bytes, cuts, stops));
    }
}

proptest! {
    /// R-LIM-16: no bytes whatever make the decoder panic or hold more than a message and a little.
    #[test]
    fn arbitrary_bytes_are_survived_in_bounded_memory(
        reads in vec(prop_oneof![
            vec(any::<u8>(), 0..300),
            vec(any::<u8>(), 0..300).prop_map(|payload| masked(FIN | TEXT | RSV1, &payload)),
            vec(any::<u8>(), 0..300).prop_map(|payload| masked(BINARY, &payload)),
            vec(any::<u8>(), 0..300).prop_map(|payload| masked(0, &payload)),
        ], 1..20),
        deflate: bool,
        limit in 0..2_000usize,
    ) {
        let mut decoder = Decoder::new(limit, deflate);
        for mut read in reads {
            let result = decoder.feed(&mut read, &mut |incoming| {
                if let Incoming::Text(text) = incoming {
                    assert!(text.len() <= limit);
                }
                ControlFlow::Continue(())
            });
            let little = size_of::<Partial>() + 256;
            prop_assert!(heap(&decoder) <= limit + little, "{} of {limit}", heap(&decoder));
            prop_assert!(decoder.buffered() <= heap(&decoder));
            if result.is_err() {
                break;
            }
        }
    }
}
