//! Bad input over real sockets: whatever a stranger or a client with a token sends, the offender gets what the
//! specification says, the server's memory stays within a bound that can be reasoned about, and other connections go on.
//!
//! During each attack two well-behaved clients exchange messages. That all arrive, in order, is asserted; how long they
//! took is measured and reported, a line for each attack and `bad_input.json` below `target/tmp`. Attackers, these two and
//! the server share the machine, so the figures are upper bounds.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Answer, Client, PATIENCE, Server, token};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What any attack may cost besides what it makes the server keep: the allocator's slack, tables that grew, the two
/// well-behaved clients.
const SLACK: u64 = 16 * MIB;

/// Messages of the well-behaved before and after each attack, so that every figure comes from some.
const AT_LEAST: u64 = 50;

// The stage: one attack at a time, a pair that goes on, memory, the report.

/// Two clients that exchange messages all the time.
struct Pair {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<Duration>>,
}

impl Pair {
    fn of(server: &Server) -> Self {
        let claims = json!({"channels": {"calm": {"autoSubscribe": true}}});
        let mut receiver = server.connect(claims);
        receiver.expect("hotsock.subscribed");
        let claims = json!({"channels": {"calm": {"messages": {"tick": {"broadcast": true}}}}});
        let mut sender = server.connect(claims);
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let (stopped, count) = (stop.clone(), arrived.clone());
        Self {
            stop,
            arrived,
            sender: std::thread::spawn(move || {
                for number in 0_u64.. {
                    let last = stopped.load(Ordering::Relaxed);
                    let sent = begun.elapsed().as_nanos() as u64;
                    sender.send(json!({"event": "tick", "channel": "calm",
                        "data": {"number": number, "sent": sent, "last": last}}));
                    if last {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }),
            receiver: std::thread::spawn(move || {
                let mut latencies = Vec::new();
                loop {
                    let tick = receiver.expect("tick");
                    let data = &tick["data"];
                    assert_eq!(
                        data["number"],
                        latencies.len(),
                        "R-DLV-1, R-DLV-6: one is missing, doubled or out of order"
                    );
                    let sent = Duration::from_nanos(data["sent"].as_u64().expect("a time"));
                    latencies.push(begun.elapsed() - sent);
                    count.store(latencies.len() as u64, Ordering::Relaxed);
                    if data["last"] == true {
                        return latencies;
                    }
                }
            }),
        }
    }

    /// Some more messages arrive.
    fn goes_on(&self) {
        let wanted = self.arrived.load(Ordering::Relaxed) + AT_LEAST;
        let begun = Instant::now();
        while self.arrived.load(Ordering::Relaxed) < wanted {
            assert!(begun.elapsed() < PATIENCE, "the well-behaved are stuck");
            assert!(!self.receiver.is_finished(), "the well-behaved failed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All messages have arrived in order, and took so long.
    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("everything was sent");
        let mut latencies = self.receiver.join().expect("everything arrived, in order");
        latencies.sort_unstable();
        latencies
    }
}

/// Bytes of memory of a process: now, and at most since the last [`forget_peak`].
fn memory(server: &Server) -> (u64, u64) {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let size = line.and_then(|line| {
            line.trim_matches([':', ' ', '\t', 'k', 'B'])
                .parse::<u64>()
                .ok()
        });
        size.expect("a size in KiB") * KIB
    };
    (of("VmRSS"), of("VmHWM"))
}

fn forget_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("our own process");
}

static REPORT: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Attacks a server of its own, and reports. `kept` is what the attack may make the server keep at once, in bytes.
fn attack(name: &str, settings: &str, kept: u64, act: impl FnOnce(&Server)) {
    let mut report: MutexGuard<'_, _> = REPORT.lock().unwrap_or_else(|poisoned| {
        // Another attack failed; this one has a server of its own.
        REPORT.clear_poison();
        poisoned.into_inner()
    });
    let server = Server::with(settings);
    let pair = Pair::of(&server);
    pair.goes_on();
    let (before, _) = memory(&server);
    forget_peak(&server);
    let begun = Instant::now();

    act(&server);

    let took = begun.elapsed();
    pair.goes_on();
    let mut fresh = server.connect(json!({}));
    fresh.settle();
    let latencies = pair.finish();
    let (after, peak) = memory(&server);
    let at =
        |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    // Past the harness, which hides what tests print.
    writeln!(
        std::io::stdout(),
        "{name:<44} {:>6} messages, p50 {:>6.2} ms, p99 {:>7.2} ms, max {:>8.2} ms; {:>6.1} s; \
         memory {:>5.1} MiB, peak {:>6.1}, after {:>6.1}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        took.as_secs_f64(),
        mib(before),
        mib(peak),
        mib(after),
    )
    .expect("an output");
    report.push(json!({
        "attack": name, "messages": latencies.len(),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "seconds": took.as_secs_f64(),
        "memory_before": before, "memory_peak": peak, "memory_after": after, "memory_bound": before + kept + SLACK,
    }));
    let text = serde_json::to_string_pretty(&*report).expect("JSON");
    std::fs::write(
        concat!(env!("CARGO_TARGET_TMPDIR"), "/bad_input.json"),
        text,
    )
    .expect("a file");

    let grown = peak.saturating_sub(before);
    assert!(
        grown <= kept + SLACK,
        "{name}: memory grew by {grown} bytes, {kept} were to be expected"
    );
}

/// A frame as clients send it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = header(first, payload.len() as u64, 0x80);
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

fn header(first: u8, length: u64, masked: u8) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..=125 => header.push(masked | length as u8),
        126..=0xFFFF => {
            header.push(masked | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(masked | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

/// Each of these inputs, sent by a client of its own, is answered by a close with this code; many times over.
fn closes(server: &Server, code: u16, inputs: &[(&str, Vec<u8>)]) {
    for round in 0..20 {
        for (what, bytes) in inputs {
            let mut offender = server.connect(json!({}));
            // Whole, and cut in two.
            let (one, two) = bytes.split_at(bytes.len() * (round % 2) / 2);
            for piece in [one, two] {
                // It may be closed after the first half already.
                let _ = offender.stream().write_all(piece);
            }
            assert_eq!(offender.closed().0, code, "{what}");
        }
    }
}

fn texts(count: usize, text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes()).repeat(count)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// A client in whose kernel little can wait, so that it is soon felt that it does not read.
fn hard_of_hearing(server: &Server) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&stream, 16 * 1024).expect("an option");
    connect(&stream, &server.address).expect("it listens");
    let stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .expect("a time-out");
    stream
}

/// One that opens a connection, of which it reads nothing.
fn deaf(server: &Server, claims: Value) -> TcpStream {
    let mut stream = hard_of_hearing(server);
    let token = token(claims);
    let upgrade = format!(
        "GET /v1?token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).expect("it listens");
    stream
}

/// As many descriptors as this process may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("within the limit");
}

// The attacks.

/// What the others are to be compared with.
#[test]
fn a_calm_minute() {
    attack("nothing", "", 0, |_| {});
}

/// RFC 6455 §8.1: text and reasons of closes are UTF-8, or the connection fails with 1007.
#[test]
fn malformed_utf8_is_closed_with_1007() {
    let inputs = [
        (
            "no UTF-8 at all",
            frame(FIN | TEXT, b"{\"event\":\"\xff\"}"),
        ),
        ("too long a form", frame(FIN | TEXT, b"\xc0\xaf")),
        ("half a surrogate pair", frame(FIN | TEXT, b"\xed\xa0\x80")),
        ("above U+10FFFF", frame(FIN | TEXT, b"\xf4\x90\x80\x80")),
        (
            "a character that ends early",
            frame(FIN | TEXT, b"\xe2\x82"),
        ),
        ("wrong in the first fragment", frame(TEXT, b"{\xff")),
        (
            "wrong over two fragments",
            [frame(TEXT, b"\xe2"), frame(FIN | CONTINUATION, b"\x28\xa1")].concat(),
        ),
        (
            "in the reason of a close",
            frame(FIN | CLOSE, b"\x03\xe8\xff"),
        ),
    ];
    attack("malformed UTF-8", "", 0, |server| {
        closes(server, 1007, &inputs)
    });
}

/// RFC 6455 §5: what breaks the framing fails the connection with 1002.
#[test]
fn breaches_of_the_framing_are_closed_with_1002() {
    let unmasked = [header(FIN | TEXT, 2, 0), b"{}".to_vec()].concat();
    let inputs = [
        ("unmasked", unmasked),
        ("RSV1 without an extension", frame(FIN | 0x40 | TEXT, b"{}")),
        ("RSV2", frame(FIN | 0x20 | TEXT, b"{}")),
        ("RSV3 on a ping", frame(FIN | 0x10 | PING, b"")),
        ("opcode 3", frame(FIN | 0x3, b"{}")),
        ("opcode 15", frame(FIN | 0xF, b"")),
        (
            "a fragmented ping",
            [frame(PING, b"a"), frame(FIN | CONTINUATION, b"b")].concat(),
        ),
        ("a fragmented close", frame(CLOSE, b"\x03\xe8")),
        ("a long ping", frame(FIN | PING, &[0; 126])),
        (
            "a length in more bytes than needed",
            vec![FIN | TEXT, 0x80 | 126, 0, 2, 0, 0, 0, 0, b'{', b'}'],
        ),
        (
            "a length of 2^63",
            [vec![FIN | TEXT, 0x80 | 127, 0x80], vec![0; 7]].concat(),
        ),
        (
            "a continuation of nothing",
            frame(FIN | CONTINUATION, b"{}"),
        ),
        (
            "a message within a message",
            [frame(TEXT, b"{"), frame(FIN | TEXT, b"{}")].concat(),
        ),
        ("a close of one byte", frame(FIN | CLOSE, b"\x03")),
        (
            "a close with a code that is not to be sent",
            frame(FIN | CLOSE, b"\x03\xed"),
        ),
    ];
    attack("broken frames", "", 0, |server| {
        closes(server, 1002, &inputs)
    });
}

/// R-CONN-29
#[test]
fn binary_messages_are_closed_with_1003() {
    let inputs = [
        ("binary", frame(FIN | BINARY, b"{}")),
        ("empty", frame(FIN | BINARY, b"")),
        (
            "in fragments",
            [frame(BINARY, b"\0\xff"), frame(FIN | CONTINUATION, b"\xff")].concat(),
        ),
    ];
    attack("binary messages", "", 0, |server| {
        closes(server, 1003, &inputs)
    });
}

/// R-CONN-29, R-LIM-16, R-LIM-17, R-LIM-7: above its limit, everything has its own answer; what is announced and
/// never comes costs nothing.
#[test]
fn what_is_too_large_is_refused_as_such() {
    const LIMIT: usize = 128 * 1024;
    let inputs = [
        (
            "one byte too many, announced",
            header(FIN | TEXT, LIMIT as u64 + 1, 0x80),
        ),
        (
            "four exbibytes, announced",
            header(FIN | TEXT, 1 << 62, 0x80),
        ),
        (
            "in fragments",
            frame(TEXT, &[b' '; LIMIT / 2])
                .into_iter()
                .chain(frame(CONTINUATION, &[b' '; LIMIT / 2]))
                .chain(frame(CONTINUATION, b" "))
                .collect(),
        ),
    ]
    .map(|(what, mut bytes)| {
        // The mask and a first byte, if they are still to come.
        bytes.extend([0; 5]);
        (what, bytes)
    });
    // Messages that have begun: 100 clients hold all that one message may have.
    let kept = 100 * LIMIT as u64;
    attack("oversized messages and requests", "", kept, |server| {
        closes(server, 1009, &inputs);

        let mut half: Vec<_> = (0..100).map(|_| server.connect(json!({}))).collect();
        for client in &mut half {
            client
                .stream()
                .write_all(&frame(TEXT, &[b' '; LIMIT]))
                .expect("within the limit");
        }

        let claims = json!({"channels": {"a": {"messages": {"m": {"broadcast": true}}}}});
        let mut client = server.connect(claims);
        let data =
            |bytes: usize| json!({"event": "m", "channel": "a", "data": "x".repeat(bytes - 2)});
        client.send(data(32 * 1024));
        client.expect_nothing();
        client.send(data(32 * 1024 + 1));
        client.expect_error("DATA_TOO_LARGE");
        client.send(json!({"event": "m", "channel": "x".repeat(257)}));
        client.expect_error("INVALID_CHANNEL");
        client.send(json!({"event": "x".repeat(129), "channel": "a"}));
        client.expect_error("INVALID_EVENT");
        client.send_text(&" ".repeat(LIMIT));
        client.expect_error("INVALID_MESSAGE");

        assert_eq!(
            server
                .request("POST", "/publish", &[], &"x".repeat(256 * 1024 + 1))
                .status,
            413
        );
        let long = format!("/v1?token={}", "x".repeat(33 * 1024));
        assert_eq!(server.request("GET", &long, &[], "").status, 414);
        assert_eq!(
            server
                .request("GET", "/v1", &[("x", &"x".repeat(33 * 1024))], "")
                .status,
            431
        );
        assert_eq!(server.refusal(&"x".repeat(20 * 1024)), 401);
        for client in &mut half {
            client
                .stream()
                .write_all(&frame(FIN | CONTINUATION, b""))
                .expect("the end of a message");
            client.expect_error("INVALID_MESSAGE");
        }
    });
}

/// R-ERR-5, R-ERR-6, R-CONN-6: nesting that would exhaust the stack of a recursive reader is an error like any other.
#[test]
fn deep_nesting_is_an_error_and_nothing_more() {
    const DEPTH: usize = 60_000;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    attack("deeply nested JSON", "", 0, |server| {
        let claims = json!({"channels": {"a": {"messages": {"m": {"broadcast": true}}}}});
        let mut client = server.connect(claims);
        for _ in 0..50 {
            for (text, code) in [
                ("[".repeat(2 * DEPTH), "INVALID_MESSAGE"),
                (nested(DEPTH), "INVALID_MESSAGE"),
                (objects(DEPTH / 4), "INVALID_MESSAGE"),
                (
                    format!(r#"{{"event":"m","channel":"a","data":{}}}"#, nested(10_000)),
                    "INVALID_MESSAGE",
                ),
                (
                    format!(r#"{{"event":"m","channel":{}}}"#, nested(DEPTH)),
                    "INVALID_MESSAGE",
                ),
            ] {
                client.send_text(&text);
                client.expect_error(code);
            }
        }
        let key = format!("Bearer {}", support::API_KEYS[0]);
        for body in [
            nested(100_000),
            format!(r#"{{"event":"m","channel":"a","data":{}}}"#, objects(5_000)),
        ] {
            let answer = server.request("POST", "/publish", &[("Authorization", &key)], &body);
            assert_eq!(answer.status, 400, "{}", answer.body);
        }
        let mut umd = json!(1);
        for _ in 0..500 {
            umd = json!([umd]);
        }
        assert_eq!(server.refusal(&token(json!({"umd": umd}))), 401);
    });
}

/// R-LIM-16, RFC 7692: a message counts with the size that it has once it is uncompressed.
#[test]
fn a_compression_bomb_is_closed_with_1009() {
    use std::io::Write as _;
    // 64 MiB of zeros in about as many kilobytes.
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    (0..1024).for_each(|_| deflate.write_all(&[b' '; 64 * 1024]).expect("memory"));
    deflate.flush().expect("memory");
    let mut bomb = deflate.get_ref().clone();
    bomb.truncate(bomb.len() - 4);
    assert!(
        bomb.len() < 128 * 1024,
        "it is within the limit as sent: {}",
        bomb.len()
    );
    attack("compression bombs", "compression = true", 0, |server| {
        for _ in 0..50 {
            let path = format!("/v1?token={}", token(json!({})));
            let offer = [("sec-websocket-extensions", "permessage-deflate")];
            let mut offender = Client::open(server, &path, &offer).expect("the token is good");
            offender
                .stream()
                .write_all(&frame(FIN | 0x40 | TEXT, &bomb))
                .expect("it is connected");
            // The welcome may be compressed, which this client does not read.
            let mut rest = Vec::new();
            offender
                .stream()
                .read_to_end(&mut rest)
                .expect("it is closed");
            assert!(ends_with_close(&rest, 1009), "{rest:?}");
        }
    });
}

/// Do these bytes end with a close frame with this code?
fn ends_with_close(bytes: &[u8], code: u16) -> bool {
    let [high, low] = code.to_be_bytes();
    (2..=125).any(|length: usize| {
        let start = [FIN | CLOSE, length as u8, high, low];
        bytes.len() >= length + 2 && bytes[bytes.len() - length - 2..].starts_with(&start)
    })
}

/// R-CONN-31: who sends an upgrade byte by byte has as long as everybody else.
#[test]
fn slow_upgrades_are_answered_with_408() {
    raise_descriptor_limit();
    attack(
        "500 slow upgrades",
        "limits.handshake = \"1s\"",
        500 * 8 * KIB,
        |server| {
            let request = format!("GET /v1?token={} HTTP/1.1\r\nx: ", token(json!({})));
            // Who has sent nothing at all is let go without an answer.
            let mut slow: Vec<_> = (0..500)
                .map(|_| {
                    let mut stream = connect(server);
                    stream.set_nonblocking(true).expect("an option");
                    stream.write_all(&request.as_bytes()[..1]).expect("room");
                    stream
                })
                .collect();
            let begun = Instant::now();
            let mut sent = 1;
            while !slow.is_empty() {
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{} of them are still open",
                    slow.len()
                );
                let byte = request.as_bytes().get(sent).copied().unwrap_or(b'x');
                sent += 1;
                slow.retain_mut(|stream| {
                    let mut answer = [0; 1024];
                    match stream.read(&mut answer) {
                        Ok(count) => {
                            let answer = String::from_utf8_lossy(&answer[..count]);
                            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
                            false
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock);
                            let _ = stream.write(&[byte]);
                            true
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(
                server.metric("realtime_handshakes_refused_total{cause=\"slow\"}"),
                500.0
            );
            assert_eq!(server.metric("realtime_connections_opened_total"), 2.0);
        },
    );
}

/// Of sockets that have not sent a whole request, the oldest make room for others (`limits.pending_handshakes`).
#[test]
fn ten_thousand_half_open_upgrades_keep_nobody_out() {
    raise_descriptor_limit();
    // The default of 1024, each with its tables and a head of a kilobyte.
    attack(
        "10,000 half-open upgrades",
        "limits.handshake = \"1m\"",
        1024 * 8 * KIB,
        |server| {
            let head = format!(
                "GET /v1?token={} HTTP/1.1\r\nHost: x\r\nx: {}",
                token(json!({})),
                "x".repeat(512)
            );
            let mut half_open = Vec::new();
            for number in 0..10_000 {
                let mut stream = connect(server);
                if number % 2 == 0 {
                    // It may have been let go again.
                    let _ = stream.write_all(head.as_bytes());
                }
                half_open.push(stream);
                if number % 1000 == 999 {
                    server.connect(json!({})).settle();
                }
            }
            let evicted = server.metric("realtime_handshakes_refused_total{cause=\"evicted\"}");
            assert!(evicted >= 10_000.0 - 1024.0, "{evicted}");
            assert!(evicted < 10_000.0, "the newest stay");
        },
    );
}

/// R-LIM-17: bodies that never end are bounded in number like heads, after an earlier request too.
#[test]
fn unfinished_requests_are_bounded_in_number() {
    let settings = "limits.handshake = \"1m\"\nlimits.pending_handshakes = 64";
    // Head and body of 64 requests, in buffers that may be twice as large.
    attack(
        "unfinished requests on kept connections",
        settings,
        64 * 2 * 288 * KIB,
        |server| {
            let first = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
            let second = "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 262144\r\n\r\n";
            let body = vec![b'x'; 262_143];
            let mut unfinished = Vec::new();
            for _ in 0..500 {
                let mut stream = connect(server);
                stream.write_all(first.as_bytes()).expect("it listens");
                let mut answer = [0; 1024];
                assert!(stream.read(&mut answer).expect("an answer") > 0);
                let _ = stream
                    .write_all(second.as_bytes())
                    .and_then(|()| stream.write_all(&body));
                unfinished.push(stream);
            }
            let evicted = server.metric("realtime_handshakes_refused_total{cause=\"evicted\"}");
            assert!(evicted >= 500.0 - 64.0, "{evicted}");
        },
    );
}

/// R-DLV-9, R-DLV-11: who stops reading is closed with 1008, and sees that when it reads on; its memory is `limits.outbound_bytes`
/// at most, however much is sent.
#[test]
fn subscribers_that_stop_reading_are_closed_with_1008() {
    const READERS: usize = 20;
    // The payload is shared by all outboxes; were it not, this is what each may hold.
    let kept = READERS as u64 * MIB;
    attack("20 subscribers that stop reading", "", kept, |server| {
        let claims = json!({"channels": {"loud": {"autoSubscribe": true}}});
        let mut stopped: Vec<_> = (0..READERS).map(|_| deaf(server, claims.clone())).collect();
        server.await_metric("realtime_subscriptions", READERS as f64 + 1.0);
        let claims = json!({"channels": {"loud": {"messages": {"m": {"broadcast": true}}}}});
        let mut loud = server.connect(claims);
        let message = json!({"event": "m", "channel": "loud", "data": "x".repeat(32_000)});
        let begun = Instant::now();
        while server.metric("realtime_slow_consumer_closes_total") < READERS as f64 {
            assert!(begun.elapsed() < PATIENCE, "not all of them were closed");
            (0..20).for_each(|_| loud.send(message.clone()));
            loud.settle();
        }
        for client in &mut stopped {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("the end can be read");
            assert!(ends_with_close(&rest, 1008), "no close frame at the end");
            assert!(rest.ends_with(b"Slow consumer"));
        }
        server.await_metric("realtime_connections", 3.0);
    });
}

/// R-DLV-11: answers wait like everything else. Who asks and does not listen is closed.
#[test]
fn askers_that_do_not_read_are_closed_with_1008() {
    let floods = [
        ("pings", frame(FIN | PING, &[0; 125]).repeat(500)),
        ("messages that are refused", texts(500, "nonsense")),
        (
            "pings of the protocol",
            texts(500, r#"{"event":"hotsock.ping"}"#),
        ),
    ];
    attack(
        "floods of questions, answers unread",
        "",
        3 * MIB,
        |server| {
            for (number, (what, flood)) in floods.iter().enumerate() {
                let mut offender = deaf(server, json!({}));
                let begun = Instant::now();
                // Its writes may fail once it was closed, and may take a part only.
                let mut sent = 0;
                while server.metric("realtime_slow_consumer_closes_total") < number as f64 + 1.0 {
                    assert!(begun.elapsed() < PATIENCE, "{what}");
                    sent += offender.write(&flood[sent % flood.len()..]).unwrap_or(0);
                }
            }
        },
    );
}

/// Requests in a pipeline are answered as fast as the answers are read, and no faster.
#[test]
fn pipelined_requests_wait_until_answers_are_read() {
    attack(
        "a pipeline of requests, answers unread",
        "",
        3 * MIB,
        |server| {
            let mut offender = hard_of_hearing(server);
            let request = format!(
                "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
                support::API_KEYS[0]
            );
            let request = request.repeat(100);
            let mut sent = 0_usize;
            // Until the kernel takes no more: the server has stopped reading.
            while offender.write_all(request.as_bytes()).is_ok() {
                sent += request.len();
                assert!(sent < 1 << 30, "the server reads on");
            }
        },
    );
}

/// Reads up to the end of these bytes, however much comes before them.
fn read_until(stream: &mut TcpStream, wanted: &[u8]) {
    let mut buffer = vec![0; 256 * 1024];
    let mut held = 0;
    loop {
        let count = stream.read(&mut buffer[held..]).expect("it goes on");
        assert!(count > 0, "the end came first");
        held += count;
        if memchr::memmem::find(&buffer[..held], wanted).is_some() {
            return;
        }
        let kept = held.min(wanted.len());
        buffer.copy_within(held - kept..held, 0);
        held = kept;
    }
}

/// R-SUB-16, R-LIM-3, R-LIM-21: any number of subscriptions, each for a modest price that is given back, or an error at the
/// cap.
#[test]
fn a_flood_of_subscribes_costs_what_it_asks_for() {
    const CHANNELS: usize = 100_000;
    // A kilobyte for each subscription: channel in the hub and in the engine, its name, its place in two lists.
    attack(
        "a flood of 100,000 subscribes",
        "",
        CHANNELS as u64 * KIB,
        |server| {
            let mut peaks = Vec::new();
            for _ in 0..2 {
                let (before, _) = memory(server);
                let mut client = server.connect(json!({"channels": {"*": {"subscribe": true}}}));
                let mut sender = client.stream().try_clone().expect("a descriptor");
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        for number in 0..CHANNELS {
                            let message = format!(
                                r#"{{"event":"hotsock.subscribe","channel":"channel/{number}"}}"#
                            );
                            sender
                                .write_all(&frame(FIN | TEXT, message.as_bytes()))
                                .expect("it is connected");
                        }
                        sender
                            .write_all(&texts(1, r#"{"event":"hotsock.ping"}"#))
                            .expect("it is connected");
                    });
                    read_until(client.stream(), b"hotsock.pong");
                });
                assert_eq!(server.metric("realtime_channels"), CHANNELS as f64 + 1.0);
                let (full, peak) = memory(server);
                peaks.push(peak);
                let each = full.saturating_sub(before) / CHANNELS as u64;
                writeln!(
                    std::io::stdout(),
                    "{:<44} {each} bytes for each subscription",
                    ""
                )
                .expect("an output");
                client.close();
                server.await_metric("realtime_channels", 1.0);
            }
            // What the first connection had was given back: the second one needs no more.
            assert!(peaks[1] < peaks[0] + SLACK, "{peaks:?}");
        },
    );
    attack(
        "a flood of subscribes above a cap",
        "limits.subscriptions_per_connection = 1000",
        0,
        |server| {
            let mut client = server.connect(json!({"channels": {"*": {"subscribe": true}}}));
            for number in 0..5000 {
                client.send(
                    json!({"event": "hotsock.subscribe", "channel": format!("channel/{number}")}),
                );
                match number {
                    0..1000 => drop(client.expect("hotsock.subscribed")),
                    _ => drop(client.expect_error("RATE_LIMITED")),
                }
            }
        },
    );
}

/// Who sends as fast as the kernel takes it, and reads, has its turn and no more.
#[test]
fn a_flood_of_messages_is_served_in_turn() {
    attack(
        "a flood of messages by 4 connections",
        "",
        4 * MIB,
        |server| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut client = server.connect(json!({}));
                        let flood =
                            [texts(1000, "{}"), texts(1, r#"{"event":"hotsock.ping"}"#)].concat();
                        for _ in 0..50 {
                            client.stream().write_all(&flood).expect("it is connected");
                            read_until(client.stream(), b"hotsock.pong");
                        }
                    });
                }
            });
        },
    );
}

/// R-PERM-5, R-PERM-7: patterns of a token can't stall the server, neither when they are read nor when they are matched.
#[test]
fn hostile_patterns_stall_nobody() {
    let refused = [
        r"#regex:(a+)+\1",
        "#regex:(?=a)a",
        "#regex:((a{1000}){1000}){1000}",
        r"#regex:\p{L}{500}",
        "#regex:(((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((a)))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))",
        "#regex:[",
    ];
    let patient = [
        "(a+)+b",
        "(a|a)*b",
        "(a|aa)+b",
        "(a*)*c",
        "(.*a){12}x",
        "([a-z]+)*Z",
        "(a?){60}a{200}b",
        "(a+a+)+y",
        "(?:a.?){40}z",
    ];
    attack("hostile patterns", "", 8 * MIB, |server| {
        for key in refused {
            assert_eq!(
                server.refusal(&token(json!({"channels": {key: {"subscribe": true}}}))),
                401,
                "{key}"
            );
        }
        // As many as a token may have, wildcards of many stars among them.
        let mut channels = serde_json::Map::new();
        for (number, pattern) in patient.iter().enumerate() {
            channels.insert(
                format!("#regex:{pattern}{number}"),
                json!({"subscribe": true}),
            );
        }
        for number in 0..200 {
            channels.insert(
                format!("{}b{number}", "*a".repeat(16)),
                json!({"subscribe": true}),
            );
        }
        let mut client = server.connect(json!({ "channels": channels }));
        // All at once, within one read of the server.
        let channel = "a".repeat(256);
        let message = json!({"event": "hotsock.subscribe", "channel": channel}).to_string();
        client
            .stream()
            .write_all(&texts(100, &message))
            .expect("it is connected");
        (0..100).for_each(|_| drop(client.expect_error("SUBSCRIBE_PERMISSION_DENIED")));
    });
}

/// Strangers: no HTTP, half of TLS, no token, any bytes. Each is answered by HTTP and let go.
#[test]
fn strangers_are_answered_and_let_go() {
    let inputs: [(&[u8], u16); 7] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\0\0\0\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"POST /publish HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /v1?token=x HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\
           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", 401),
    ];
    attack("strangers", "", 0, |server| {
        for _ in 0..50 {
            for (bytes, status) in inputs {
                let mut stream = connect(server);
                stream.write_all(bytes).expect("it listens");
                let answer = Answer::read(stream);
                assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(bytes));
            }
        }
    });
}
