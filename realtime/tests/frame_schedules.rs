//! Frames that are cut wherever a swap may cut them (`docs/handover.md`; R-OPS-1, R-DIFF-16): every message that went in
//! comes out of the echo path once, whole and in its order, whichever process read which byte of it.
//!
//! What happens is decided by a seed, byte by byte and swap by swap, so a schedule that failed can be played again:
//! `REALTIME_TEST_SEED=7 cargo test -p realtime --test frame_schedules`.
mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use support::service::Service;
use support::{Client, PATIENCE};

/// Longer messages than clients of the protocol may send, as the Autobahn suite needs them.
const SETTINGS: &str = "compression = true\n\
    [limits]\ninbound_message = \"2MiB\"\noutbound_bytes = \"64MiB\"\n";

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const COMPRESSED: u8 = 0x40;

/// What ends the data of a sync flush, and is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// A message as its receiver sees it.
#[derive(Clone, PartialEq, Eq)]
struct Sent {
    opcode: u8,
    payload: Vec<u8>,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opcode, payload } = self;
        write!(f, "{opcode:#x} with {} bytes", payload.len())
    }
}

/// SplitMix64: the same numbers for a seed for ever, whatever a library does.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a size")
    }

    /// From 1 to `most`, all magnitudes alike.
    fn size(&mut self, most: usize) -> usize {
        let magnitude = self.below(most.ilog2() as usize + 1);
        (1 + self.below(2 << magnitude)).min(most)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A client's frame (RFC 6455, 5.2).
fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(first);
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1024);
    let mut compress = Compress::new(Compression::fast(), false);
    compress
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .expect("any input is taken");
    assert!(out.ends_with(&TAIL), "there was room for everything");
    out.truncate(out.len() - TAIL.len());
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &TAIL].concat();
    let mut out = Vec::with_capacity(4 << 20);
    Decompress::new(false)
        .decompress_vec(&input, &mut out, FlushDecompress::Sync)
        .expect("what the server has compressed");
    out
}

/// A client on the echo path: what it still has to send, and what it has to get for it.
struct Peer {
    stream: TcpStream,
    outgoing: VecDeque<u8>,
    expected: VecDeque<Sent>,
    incoming: Vec<u8>,
}

impl Peer {
    fn open(service: &Service, compressed: bool) -> Self {
        let offer: &[_] = match compressed {
            true => &[("Sec-WebSocket-Extensions", "permessage-deflate")],
            false => &[],
        };
        let mut stream = TcpStream::connect(service.first.address).expect("it listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut head =
            "GET /echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                .to_owned();
        for (name, value) in offer {
            head += &format!("{name}: {value}\r\n");
        }
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .expect("written");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("an answer");
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        stream.set_nonblocking(true).expect("an option");
        Self {
            stream,
            outgoing: VecDeque::new(),
            expected: VecDeque::new(),
            incoming: Vec::new(),
        }
    }

    /// Sends at most so many bytes of what there is; none if the kernel takes none.
    fn send(&mut self, most: usize) {
        let bytes = self.outgoing.make_contiguous();
        let end = most.min(bytes.len());
        match self.stream.write(&bytes[..end]) {
            Ok(count) => drop(self.outgoing.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the connection was dropped: {error}"),
        }
    }

    /// Reads what is there, and compares every message that is complete.
    fn receive(&mut self) {
        let mut bytes = [0; 65_536];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => panic!(
                    "the connection was closed; {:?} were to come",
                    self.expected
                ),
                Ok(count) => self.incoming.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the connection was dropped: {error}"),
            }
        }
        let mut at = 0;
        while let Some((got, length)) = server_frame(&self.incoming[at..]) {
            at += length;
            let expected = self.expected.pop_front();
            assert!(
                expected.as_ref() == Some(&got),
                "{got:?} came, where {expected:?} was to come"
            );
        }
        self.incoming.drain(..at);
    }

    /// Puts a message's frames behind what is still to be sent, with pings between its fragments.
    fn say(&mut self, random: &mut Random, message: Sent, fragments: usize, compressed: bool) {
        let payload = match compressed {
            true => deflate(&message.payload),
            false => message.payload.clone(),
        };
        let mut out = Vec::with_capacity(payload.len() + 64);
        let mut rest = &payload[..];
        for number in 0..fragments {
            let last = number + 1 == fragments;
            // Fragments may be empty.
            let (part, others) = rest.split_at(match last {
                true => rest.len(),
                false => random.below(rest.len() + 1),
            });
            rest = others;
            let first = match number {
                0 if compressed => message.opcode | COMPRESSED,
                0 => message.opcode,
                _ => 0,
            };
            let mask = (random.next() as u32).to_be_bytes();
            frame(&mut out, first | if last { FIN } else { 0 }, part, mask);
            if !last && random.one_in(3) {
                let payload = vec![b'p'; random.below(126)];
                frame(&mut out, FIN | PING, &payload, mask);
                self.expected.push_back(Sent {
                    opcode: PONG,
                    payload,
                });
            }
        }
        self.outgoing.extend(out);
        self.expected.push_back(message);
    }

    fn is_done(&self) -> bool {
        self.outgoing.is_empty() && self.expected.is_empty()
    }

    /// Sends and reads until everything has come back.
    fn finish(&mut self) {
        let begun = Instant::now();
        while !self.is_done() {
            self.send(usize::MAX);
            self.receive();
            assert!(
                begun.elapsed() < PATIENCE,
                "{} bytes were not taken, and {:?} did not come",
                self.outgoing.len(),
                self.expected
            );
            std::thread::yield_now();
        }
        assert!(self.incoming.is_empty(), "nothing else came");
    }
}

/// The first frame of these bytes, and its length; `None` if it is not complete. Servers neither mask (RFC 6455, 5.1) nor,
/// here, fragment.
fn server_frame(bytes: &[u8]) -> Option<(Sent, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match second {
        126 => {
            let length = bytes.get(2..4)?.try_into().expect("two bytes");
            (4, usize::from(u16::from_be_bytes(length)))
        }
        127 => {
            let length = bytes.get(2..10)?.try_into().expect("eight bytes");
            (10, u64::from_be_bytes(length) as usize)
        }
        length => (2, usize::from(length)),
    };
    let payload = bytes.get(head..head + length)?;
    assert_eq!(first & FIN, FIN, "a fragment");
    let payload = match first & COMPRESSED {
        0 => payload.to_vec(),
        _ => inflate(payload),
    };
    let opcode = first & 0x0F;
    Some((Sent { opcode, payload }, head + length))
}

fn text(random: &mut Random, length: usize) -> Vec<u8> {
    // Of two bytes a letter, so that a cut may fall into one; and not the same again and again, so that it is seen which
    // letters are missing.
    let letters = ["\u{e4}", "\u{f6}", "\u{fc}", "\u{df}"];
    let mut text = String::with_capacity(length + 1);
    while text.len() + 1 < length {
        text += letters[random.below(letters.len())];
    }
    if text.len() < length {
        text.push('.');
    }
    text.into_bytes()
}

/// Frames of every form, each on as many connections as it has bytes: of the first the swap cuts off all bytes, of the
/// second all but one, and so on; half of them are cut once more by the swap back.
#[test]
fn a_swap_may_cut_frames_at_every_byte() {
    let service = &mut Service::launch(SETTINGS, &["--dev-echo"]);
    let random = &mut Random(1);
    // Small, so of two bytes of header; above 125, so of four; in fragments, with letters and pings between them; compressed.
    let forms: [(u8, usize, usize, bool); 5] = [
        (TEXT, 12, 1, false),
        (BINARY, 126, 1, false),
        (TEXT, 40, 4, false),
        (TEXT, 60, 1, true),
        (TEXT, 60, 3, true),
    ];
    let mut peers = Vec::new();
    for (opcode, length, fragments, compressed) in forms {
        let message = Sent {
            opcode,
            payload: text(random, length),
        };
        // The same bytes for all of them.
        let seed = random.next();
        let mut cut = 0;
        loop {
            let mut peer = Peer::open(service, compressed);
            peer.say(&mut Random(seed), message.clone(), fragments, compressed);
            let total = peer.outgoing.len();
            peer.send(cut);
            assert_eq!(peer.outgoing.len(), total - cut, "the kernel has room");
            peers.push(peer);
            if cut == total {
                break;
            }
            cut += 1;
        }
    }
    // Whoever talks now is answered behind all that.
    service.first.get("/health");
    service.swap("second");
    let account = service.status("first").and_then(|it| it.last);
    let half_read = account.and_then(|it| it.service["halfReadMessages"].as_u64());
    assert!(
        half_read > Some(peers.len() as u64 / 2),
        "of {} messages {half_read:?} had been read in part",
        peers.len()
    );
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(match number % 2 {
            0 => peer.outgoing.len() / 2,
            _ => usize::MAX,
        });
    }
    service.first.get("/health");
    assert_eq!(service.take_over("first").transferred, peers.len() as u32);
    peers.iter_mut().for_each(Peer::finish);
}

/// Messages of 1 byte to 1 MiB, whole or in fragments, compressed or not, in writes of any size, while clients read or do
/// not, and swaps in between: forth, back, and to a third process.
#[test]
fn whatever_is_on_its_way_in_a_swap_arrives_once_and_in_order() {
    let seeds = match std::env::var("REALTIME_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("REALTIME_TEST_SEED is a number")],
        Err(_) => (1..=6).collect(),
    };
    for seed in seeds {
        eprintln!("REALTIME_TEST_SEED={seed}");
        play(seed);
    }
}

fn play(seed: u64) {
    const STEPS: usize = 400;
    const LONGEST: usize = 1 << 20;
    let service = &mut Service::launch(SETTINGS, &["--dev-echo"]);
    let random = &mut Random(seed);
    let mut compressed = Vec::new();
    let mut peers: Vec<Peer> = (0..8)
        .map(|_| {
            compressed.push(random.one_in(2));
            Peer::open(service, *compressed.last().expect("just pushed"))
        })
        .collect();
    let mut names = vec!["first".to_owned()];
    let mut serving = 0;
    for _ in 0..STEPS {
        let which = random.below(peers.len());
        let peer = &mut peers[which];
        match random.below(20) {
            0..6 => {
                let length = random.size(LONGEST);
                let opcode = if random.one_in(2) { TEXT } else { BINARY };
                let payload = text(random, length);
                let fragments = random.size(8);
                let deflated = compressed[which] && random.one_in(2);
                peer.say(random, Sent { opcode, payload }, fragments, deflated);
            }
            6..14 => peer.send(random.size(256 * 1024)),
            14..19 => peer.receive(),
            _ => {
                // Whoever does not serve may take over: one that did before, or a new one.
                let next = match random.one_in(2) || names.len() == 1 {
                    true => {
                        names.push(format!("number-{}", names.len()));
                        service.start_other(names.last().expect("just pushed"));
                        names.len() - 1
                    }
                    false => (serving + 1) % names.len(),
                };
                let receipt = service.take_over(&names[next]);
                assert_eq!(
                    (receipt.end, receipt.transferred as usize),
                    (handover::End::Taken, peers.len()),
                    "{receipt:?}"
                );
                serving = next;
            }
        }
    }
    peers.iter_mut().for_each(Peer::finish);
}

/// What is known of a connection besides its bytes is checked elsewhere; here, that the protocol's own messages may be cut
/// at every byte, too, and that whoever is spoken to hears it once.
#[test]
fn a_published_message_may_be_cut_at_every_byte() {
    let service = &mut Service::start();
    let claims = |uid: usize| {
        serde_json::json!({"uid": format!("client-{uid}"), "channels": {
            "room": {"subscribe": true, "messages": {"*": {"publish": true}}}}})
    };
    let mut listener = service.first.connect(claims(0));
    listener.subscribe("room");
    let mut bytes = Vec::new();
    let message = serde_json::json!({"event": "chat", "channel": "room", "data": "gr\u{fc}n"});
    frame(
        &mut bytes,
        FIN | TEXT,
        message.to_string().as_bytes(),
        [1, 2, 3, 4],
    );
    let mut speakers: Vec<Client> = (1..bytes.len())
        .map(|cut| {
            let mut speaker = service.first.connect(claims(cut));
            speaker.subscribe("room");
            speaker.stream().write_all(&bytes[..cut]).expect("written");
            speaker
        })
        .collect();
    service.swap("second");
    listener.expect_nothing();
    for (number, speaker) in speakers.iter_mut().enumerate() {
        let cut = number + 1;
        speaker.stream().write_all(&bytes[cut..]).expect("written");
        let heard = listener.expect("chat");
        assert_eq!(heard["data"], "gr\u{fc}n");
        assert_eq!(heard["meta"]["uid"], format!("client-{cut}"));
    }
    listener.expect_nothing();
}
