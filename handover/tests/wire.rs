//! The wire format: the bytes that `docs/handover.md` shows, and that no others can do harm.

use handover::wire::{HEADER, Header, Hello, Kind, MAX_BODY, Message, Offer, Sealed, WireError};
use proptest::{collection::vec, prelude::*};

/// One frame of each kind, and its bytes in hexadecimal: header, then body. The same stand in the specification.
fn golden() -> Vec<(Message<'static>, &'static str)> {
    vec![
        (
            Message::Hello(Hello {
                reads: vec![2, 3],
                writes: vec![3],
                room: 19_950,
            }),
            "0100 0100 11000000 68616e646f766572 01 02 02 03 01 03 ee9b01",
        ),
        (
            Message::Offer(Offer {
                schema: 3,
                reads: vec![2, 3],
                listeners: 2,
                connections: 300,
                precopy: 2,
            }),
            "0200 0100 08000000 03 02 02 03 02 ac02 02",
        ),
        (
            Message::Refuse("busy".to_owned()),
            "0300 0000 05000000 04 62757379",
        ),
        (Message::Begin, "0400 0000 00000000"),
        (
            Message::Listeners(vec!["handover".to_owned(), "unix".to_owned()]),
            "0500 0200 0e000000 08 68616e646f766572 04 756e6978",
        ),
        (
            Message::Shared(vec![1, 2, 3].into()),
            "0600 0000 03000000 010203",
        ),
        (
            Message::Connections(vec![vec![0xaa, 0xbb].into(), vec![].into()]),
            "0700 0200 04000000 02 aabb 00",
        ),
        (Message::Ack(1), "0800 0000 01000000 01"),
        (
            Message::Sealed(Sealed {
                listeners: 2,
                shared: 3,
                connections: 300,
            }),
            "0900 0000 04000000 02 03 ac02",
        ),
        (Message::Ready, "0a00 0000 00000000"),
        (
            Message::Abort("no".to_owned()),
            "0b00 0000 03000000 02 6e6f",
        ),
        (
            Message::Precopy(vec![4, 5].into()),
            "0c00 0000 02000000 0405",
        ),
    ]
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

fn decode(frame: &[u8]) -> Result<Message<'_>, WireError> {
    let (header, body) = frame.split_first_chunk::<HEADER>().expect("a header");
    let header = Header::decode(*header, MAX_BODY)?;
    Message::decode(header.kind, header.descriptors, body)
}

#[test]
fn every_kind_of_frame_has_the_bytes_of_the_specification() {
    let golden = golden();
    assert!(
        Kind::ALL
            .iter()
            .all(|kind| golden.iter().any(|(message, _)| message.kind() == *kind))
    );
    for (message, hex) in golden {
        assert_eq!(message.encode().unwrap(), bytes(hex), "{message:?}");
        assert_eq!(decode(&bytes(hex)).unwrap(), message);
    }
}

#[test]
fn the_specification_shows_these_very_bytes() {
    let document = include_str!("../../docs/handover.md");
    for (message, hex) in golden() {
        assert!(
            document.contains(hex),
            "{message:?}: {hex} is not in docs/handover.md"
        );
    }
}

#[test]
fn a_body_that_is_cut_short_or_too_long_is_refused() {
    for (message, hex) in golden() {
        let frame = bytes(hex);
        // Pieces of shared state, and of what is told in advance, have no structure.
        if matches!(message.kind(), Kind::Shared | Kind::Precopy) {
            continue;
        }
        for end in HEADER..frame.len() {
            assert!(decode(&frame[..end]).is_err(), "{message:?} cut at {end}");
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert_eq!(
            decode(&longer),
            Err(WireError::Trailing(message.kind().name()))
        );
    }
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_anything_is_allocated() {
    let header = |kind: Kind, descriptors: u16, length: u32| {
        let mut bytes = Header {
            kind,
            descriptors: 0,
            length,
        }
        .encode();
        bytes[2..4].copy_from_slice(&descriptors.to_le_bytes());
        Header::decode(bytes, 1000)
    };
    assert_eq!(
        header(Kind::Shared, 0, 1001),
        Err(WireError::BodyTooLong {
            length: 1001,
            limit: 1000
        })
    );
    assert_eq!(
        header(Kind::Connections, 254, 0),
        Err(WireError::TooManyDescriptors(254))
    );
    for (kind, descriptors) in [
        (Kind::Begin, 1),
        (Kind::Hello, 0),
        (Kind::Hello, 2),
        (Kind::Connections, 0),
        (Kind::Ack, 1),
    ] {
        assert_eq!(
            header(kind, descriptors, 0),
            Err(WireError::Descriptors {
                kind: kind.name(),
                got: descriptors
            })
        );
    }
    assert_eq!(
        Header::decode([13, 0, 0, 0, 0, 0, 0, 0], 1),
        Err(WireError::UnknownKind(13))
    );
    assert_eq!(
        Header::decode([4, 1, 0, 0, 0, 0, 0, 0], 1),
        Err(WireError::Reserved(1))
    );
}

#[test]
fn a_stranger_and_a_peer_of_another_version_are_told_apart() {
    let decode = |body| Message::decode(Kind::Hello, 1, body);
    assert_eq!(decode(b"GET / HTTP/1.1"), Err(WireError::NotAHandover));
    assert_eq!(decode(b"hand"), Err(WireError::NotAHandover));
    // Whatever a later version puts behind its number.
    assert_eq!(decode(b"handover\x07\xff\xff"), Err(WireError::Protocol(7)));
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let Message::Abort(text) = decode(&Message::Abort("é".repeat(5000)).encode().unwrap()).unwrap()
    else {
        panic!("another kind");
    };
    assert_eq!(text, "é".repeat(512));
}

fn schemas() -> impl Strategy<Value = Vec<u32>> {
    vec(any::<u32>(), 0..256)
}

fn messages() -> impl Strategy<Value = Message<'static>> {
    prop_oneof![
        (schemas(), schemas(), any::<u32>()).prop_map(|(reads, writes, room)| Message::Hello(
            Hello {
                reads,
                writes,
                room
            }
        )),
        (
            any::<u32>(),
            schemas(),
            any::<u32>(),
            any::<u32>(),
            any::<u64>()
        )
            .prop_map(|(schema, reads, listeners, connections, precopy)| {
                Message::Offer(Offer {
                    schema,
                    reads,
                    listeners,
                    connections,
                    precopy,
                })
            }),
        ".{0,200}".prop_map(Message::Refuse),
        Just(Message::Begin),
        vec(".{0,40}", 1..=253).prop_map(Message::Listeners),
        vec(any::<u8>(), 0..5000).prop_map(|bytes| Message::Shared(bytes.into())),
        vec(vec(any::<u8>(), 0..300), 1..=253)
            .prop_map(|states| Message::Connections(states.into_iter().map(Into::into).collect())),
        any::<u32>().prop_map(Message::Ack),
        (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(listeners, shared, connections)| {
            Message::Sealed(Sealed {
                listeners,
                shared,
                connections,
            })
        }),
        Just(Message::Ready),
        ".{0,200}".prop_map(Message::Abort),
        vec(any::<u8>(), 0..5000).prop_map(|bytes| Message::Precopy(bytes.into())),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in messages()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(decode(&frame).unwrap(), message);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_they_mean_fits_in_them(
        kind in 0_usize..Kind::ALL.len(),
        descriptors in 0_u16..=300,
        body in vec(any::<u8>(), 0..2000),
    ) {
        if let Ok(message) = Message::decode(Kind::ALL[kind], descriptors, &body) {
            // Two varints may mean the same number, so the bytes need not be the same, but they cannot be more.
            if let Ok(frame) = message.encode() {
                prop_assert!(frame.len() - HEADER <= body.len());
                prop_assert_eq!(decode(&frame).unwrap(), message);
            }
        }
    }

    #[test]
    fn arbitrary_headers_are_within_bounds_or_refused(bytes in any::<[u8; HEADER]>(), limit in 0_usize..1 << 24) {
        if let Ok(header) = Header::decode(bytes, limit) {
            prop_assert!(header.descriptors <= 253);
            prop_assert!(header.length as usize <= limit.min(MAX_BODY));
            prop_assert_eq!(header.encode(), bytes);
        }
    }
}
