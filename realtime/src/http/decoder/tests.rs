//! What a decoder promises: the same requests however the bytes are cut, and no request where two readings are
//! possible.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const SMALL: Limits = Limits {
    head: 512,
    body: 256,
    headers: 16,
};

/// All requests of a connection on which `pieces` arrive one after the other.
fn requests(pieces: &[&[u8]], limits: &Limits) -> Result<Vec<Request<Vec<u8>>>, BadRequest> {
    let mut decoder = Decoder::new();
    let mut requests = Vec::new();
    for piece in pieces {
        let mut next = decoder.feed(piece, limits)?;
        while let Some(request) = next {
            requests.push(request);
            next = decoder.feed(&[], limits)?;
        }
    }
    Ok(requests)
}

fn one(text: &str) -> Request<Vec<u8>> {
    let mut found = requests(&[text.as_bytes()], &Limits::default()).expect("a good request");
    assert_eq!(found.len(), 1, "{text:?}");
    found.remove(0)
}

fn refusal(text: &str) -> BadRequest {
    let all = requests(&[text.as_bytes()], &Limits::default()).expect_err(text);
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(
        requests(&bytes, &Limits::default()).expect_err(text),
        all,
        "the same byte by byte: {text:?}"
    );
    all
}

#[test]
fn a_request_without_a_body_is_its_head() {
    let request =
        one("GET /v1/?token=a.b.c HTTP/1.1\r\nHost: example.com\r\nX-Note:  two words \r\n\r\n");
    assert_eq!(
        (request.method(), request.version()),
        (&Method::GET, Version::HTTP_11)
    );
    assert_eq!(
        (request.uri().path(), request.uri().query()),
        ("/v1/", Some("token=a.b.c"))
    );
    assert_eq!(request.headers()["x-note"], "two words");
    assert!(request.body().is_empty());
}

#[test]
fn a_body_is_as_long_as_content_length_says() {
    let request = one("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(request.body(), b"{}");
    assert!(
        one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .body()
            .is_empty()
    );
    assert_eq!(
        one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\ncontent-length: 2\r\n\r\n{}")
            .body(),
        b"{}"
    );
}

#[test]
fn chunks_are_joined_and_their_extensions_and_trailers_dropped() {
    let request = one(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
        3\r\nabc\r\n00A ;note=\"x\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\nAuthorization: no\r\n\r\n",
    );
    assert_eq!(request.body(), b"abc0123456789");
    assert!(
        !request.headers().contains_key("authorization")
            && !request.headers().contains_key("x-sum")
    );
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let mut decoder = Decoder::new();
    assert_eq!(decoder.feed(b"\r\n\r\n", &SMALL).unwrap().map(|_| ()), None);
    assert!(decoder.is_idle(), "nothing of a request has arrived");
    assert_eq!(
        decoder
            .feed(b"\r\nGET / HTTP/1.0\r\n\r\n", &SMALL)
            .unwrap()
            .unwrap()
            .uri(),
        "/"
    );
}

#[test]
fn every_form_of_target_is_taken_where_it_belongs() {
    let absolute =
        one("GET http://example.com:80/channels/a%2Fb?x=1 HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!(
        (absolute.uri().path(), absolute.uri().query()),
        ("/channels/a%2Fb", Some("x=1"))
    );
    assert_eq!(
        one("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").uri().path(),
        "*"
    );
    assert_eq!(
        one("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").method(),
        Method::CONNECT
    );
    for line in [
        "GET *",
        "GET a",
        "GET a:80",
        "GET /a#b",
        "POST mailto:a@b",
        "CONNECT",
    ] {
        let reason = refusal(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(reason.status(), StatusCode::BAD_REQUEST, "{line}");
    }
}

#[test]
fn an_old_client_needs_no_host_and_a_new_one_exactly_one() {
    assert_eq!(
        one("GET /healthz HTTP/1.0\r\n\r\n").version(),
        Version::HTTP_10
    );
    assert_eq!(refusal("GET / HTTP/1.1\r\n\r\n"), BadRequest::Host);
    assert_eq!(
        refusal("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        BadRequest::Host
    );
}

#[test]
fn a_request_that_two_readers_could_end_differently_is_refused() {
    let cases = [
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            BadRequest::Framing,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            BadRequest::Framing,
        ),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            BadRequest::Framing,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            BadRequest::Framing,
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            BadRequest::TransferEncoding,
        ),
        (
            "Transfer-Encoding: identity\r\n",
            BadRequest::TransferEncoding,
        ),
        (
            "Transfer-Encoding: xchunked\r\n",
            BadRequest::TransferEncoding,
        ),
        (
            "Transfer-Encoding: \"chunked\"\r\n",
            BadRequest::TransferEncoding,
        ),
        ("Transfer-Encoding:\r\n", BadRequest::TransferEncoding),
        (
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            BadRequest::Length,
        ),
        ("Content-Length: 3, 4\r\n", BadRequest::Length),
        ("Content-Length: 3,\r\n", BadRequest::Length),
        ("Content-Length:\r\n", BadRequest::Length),
        ("Content-Length: +3\r\n", BadRequest::Length),
        ("Content-Length: -3\r\n", BadRequest::Length),
        ("Content-Length: 0x3\r\n", BadRequest::Length),
        ("Content-Length: 3 3\r\n", BadRequest::Length),
        (
            "Content-Length: 99999999999999999999999\r\n",
            BadRequest::BodyTooLarge,
        ),
        ("Content-Length : 3\r\n", BadRequest::Syntax),
        ("X-Folded: a\r\n b\r\n", BadRequest::Syntax),
        (" X-Folded: a\r\n", BadRequest::Syntax),
        ("X-Null: a\0b\r\n", BadRequest::Syntax),
        ("No colon\r\n", BadRequest::Syntax),
        (": no name\r\n", BadRequest::Syntax),
        ("X-Alone: a\n", BadRequest::LineEnding),
        ("X-Alone: a\rContent-Length: 3\r\n", BadRequest::LineEnding),
        ("X-Twice: a\r\r\n", BadRequest::LineEnding),
        ("Expect: 200-ok\r\n", BadRequest::Expectation),
    ];
    for (fields, reason) in cases {
        assert_eq!(
            refusal(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\nabc")),
            reason,
            "{fields:?}"
        );
    }
    assert_eq!(
        refusal("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        BadRequest::Framing
    );
    assert_eq!(
        refusal("GET / HTTP/1.1\nHost: a\n\n"),
        BadRequest::LineEnding
    );
    assert_eq!(
        refusal("GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        BadRequest::Version
    );
    assert_eq!(
        refusal("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        BadRequest::Version
    );
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET /",
        "G@T / HTTP/1.1",
        " GET / HTTP/1.1",
    ] {
        let status = refusal(&format!("{line}\r\nHost: a\r\n\r\n")).status();
        assert!(status == StatusCode::BAD_REQUEST, "{line:?}: {status}");
    }
}

#[test]
fn a_malformed_chunk_is_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\na",
        "+1\r\na",
        "0x1\r\na",
        "1 \r\na",
        "1 x\r\na",
        "11111111111111111\r\na",
        "1\r\nab\r\n",
        "1\r\na\rb",
        "1\r\na\n",
        "1;a\x01\r\na",
    ] {
        let reason = refusal(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        assert_eq!(reason, BadRequest::Chunk, "{body:?}");
    }
    for body in ["1\na\r\n", "1;a\rb\r\na", "0\r\nX: a\n\r\n"] {
        let reason = refusal(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        assert_eq!(reason, BadRequest::LineEnding, "{body:?}");
    }
    let endless =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
    assert_eq!(refusal(endless), BadRequest::BodyTooLarge);
}

/// R-LIM-20
#[test]
fn a_token_of_8_kib_fits_in_the_target() {
    let token = "t".repeat(8 * 1024);
    let request = one(&format!(
        "GET /v1?token={token} HTTP/1.1\r\nHost: a\r\n\r\n"
    ));
    assert_eq!(
        super::super::query(&request, "token").as_deref(),
        Some(token.as_str())
    );
}

/// R-LIM-17
#[test]
fn a_body_of_256_kib_is_taken_and_one_byte_more_answered_with_413() {
    let limit = 256 * 1024;
    let sized = |length: usize| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        requests(&[head.as_bytes(), &vec![b'x'; length]], &Limits::default())
    };
    let chunked = |length: usize| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut bytes = format!("{head}1\r\nx\r\n{:x}\r\n", length - 1).into_bytes();
        bytes.resize(bytes.len() + length - 1, b'x');
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        requests(&[&bytes], &Limits::default())
    };
    assert_eq!(sized(limit).unwrap()[0].body().len(), limit);
    assert_eq!(chunked(limit).unwrap()[0].body().len(), limit);
    for refused in [sized(limit + 1), chunked(limit + 1)] {
        assert_eq!(refused.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[test]
fn a_head_of_exactly_the_limit_is_taken_and_a_longer_one_told_from_a_long_target() {
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let head = |length: usize| format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4));
    assert_eq!(requests(&[head(512).as_bytes()], &SMALL).unwrap().len(), 1);
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(512));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(16));
    let later = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "X: some more of it\r\n".repeat(100)
    );
    let cases = [(head(513), 431), (target, 414), (many, 431), (later, 431)];
    for (text, status) in cases {
        for size in [1, 100, text.len()] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(
                requests(&pieces, &SMALL).unwrap_err().status(),
                status,
                "{size} bytes at a time: {text}"
            );
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded_by_the_head_s_limit() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(512);
    let cases = [
        format!("{head}1;{long}\r\n"),
        format!("{head}{}", "1;xxxxxxxx\r\na\r\n".repeat(100)),
        format!("{head}0\r\nX: {long}"),
        format!("{head}0\r\n{}", "X: y\r\n".repeat(100)),
    ];
    for text in cases {
        for size in [1, text.len()] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(
                requests(&pieces, &SMALL).unwrap_err(),
                BadRequest::HeadTooLarge,
                "{text}"
            );
        }
    }
}

#[test]
fn after_a_bad_request_nothing_is_taken_for_a_request() {
    let mut decoder = Decoder::new();
    let bad = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n";
    assert_eq!(decoder.feed(bad, &SMALL).unwrap_err(), BadRequest::Length);
    assert_eq!(
        decoder
            .feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &SMALL)
            .unwrap_err(),
        BadRequest::Length
    );
    assert_eq!(decoder.buffered(), 0);
    assert!(!decoder.is_idle());
}

#[test]
fn the_bytes_after_an_upgrade_request_are_given_back_as_they_came() {
    let mut decoder = Decoder::new();
    let bytes = b"GET /v1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\
        \x81\x85\r\n\r\n\x00\xff";
    assert_eq!(
        decoder.feed(bytes, &SMALL).unwrap().unwrap().headers()["upgrade"],
        "websocket"
    );
    assert_eq!(decoder.take_rest(), b"\x81\x85\r\n\r\n\x00\xff");
    assert!(decoder.is_idle());
}

#[test]
fn a_client_that_waits_for_leave_to_send_is_noticed_once() {
    for fields in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let mut decoder = Decoder::new();
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\nExpect: 100-Continue\r\n\r\n");
        let body: &[u8] = if fields.starts_with('C') {
            b"abc"
        } else {
            b"3\r\nabc\r\n0\r\n\r\n"
        };
        let mut waited_at = Vec::new();
        for (index, byte) in head.as_bytes().chunks(1).chain(body.chunks(1)).enumerate() {
            let finished = decoder.feed(byte, &SMALL).unwrap().is_some();
            assert_eq!(finished, index + 1 == head.len() + body.len());
            if decoder.expects_continue() {
                waited_at.push(index + 1);
            }
        }
        assert_eq!(waited_at, [head.len()], "{fields}");
    }
    let mut decoder = Decoder::new();
    let old = b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    assert!(decoder.feed(old, &SMALL).unwrap().is_none());
    assert!(
        !decoder.expects_continue(),
        "HTTP/1.0 knows no interim answers"
    );
    assert_eq!(
        refusal(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n"
        )
        .status(),
        413
    );
}

#[test]
fn an_idle_decoder_holds_no_heap_memory() {
    let mut decoder = Decoder::new();
    assert!(
        decoder
            .feed(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{",
                &SMALL
            )
            .unwrap()
            .is_none()
    );
    assert!(!decoder.is_idle() && decoder.buffered() > 0);
    assert!(decoder.feed(b"}", &SMALL).unwrap().is_some());
    assert!(decoder.is_idle());
    assert_eq!((decoder.buffered(), decoder.buffer.capacity()), (0, 0));
}

#[test]
fn every_byte_of_a_head_is_looked_at_once() {
    let mut decoder = Decoder::new();
    for byte in format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\nX: {}",
        "x".repeat(99),
        "y".repeat(99)
    )
    .bytes()
    {
        assert!(decoder.feed(&[byte], &SMALL).unwrap().is_none());
        let Stage::Head { line, scanned } = decoder.stage else {
            panic!("{decoder:?}")
        };
        assert_eq!(line + scanned, decoder.buffer.len());
    }
}

#[test]
fn what_a_body_announces_is_not_allocated_before_it_arrives() {
    for fields in [
        "Content-Length: 262144\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n40000\r\n",
    ] {
        let mut decoder = Decoder::new();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}x");
        assert!(
            decoder
                .feed(head.as_bytes(), &Limits::default())
                .unwrap()
                .is_none()
        );
        let Stage::Chunked {
            chunks: Chunks { body, .. },
            ..
        } = &decoder.stage
        else {
            assert!(decoder.buffer.capacity() < 1024);
            continue;
        };
        assert!(decoder.buffer.capacity() < 1024 && body.capacity() < 1024);
    }
}

/// A request as a client might write it, and what is to be read.
fn written() -> impl Strategy<Value = (Vec<u8>, (String, String, Vec<u8>))> {
    let target = "/[a-z0-9/%_.~-]{0,20}(\\?[a-zA-Z0-9=&%+.]{0,20})?";
    let field = ("[a-zA-Z][a-zA-Z0-9-]{0,10}", "([!-~][ -~\\t]{0,20}[!-~])?");
    let body = vec(any::<u8>(), 0..200);
    let method = select(vec!["GET", "POST", "PUT", "OPTIONS", "QUERY"]);
    (
        method,
        target,
        vec(field, 0..6),
        body,
        vec(1..50usize, 0..6),
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(method, target, fields, body, sizes, [chunked, empty_line, trailer])| {
                let mut bytes = if empty_line {
                    b"\r\n".to_vec()
                } else {
                    Vec::new()
                };
                bytes
                    .extend(format!("{method} {target} HTTP/1.1\r\nHost: example.com\r\n").bytes());
                for (name, value) in &fields {
                    bytes.extend(format!("X-{name}: {value}\r\n").bytes());
                }
                if !chunked {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend_from_slice(&body);
                    return (bytes, (method.to_owned(), target, body));
                }
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                let mut rest = body.as_slice();
                let mut sizes = sizes.into_iter();
                while !rest.is_empty() {
                    let (chunk, after) =
                        rest.split_at(rest.len().min(sizes.next().unwrap_or(rest.len())));
                    bytes.extend(format!("{:X};n={}\r\n", chunk.len(), after.len()).bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                    rest = after;
                }
                bytes.extend_from_slice(if trailer {
                    b"00\r\nX-Sum: 1\r\n\r\n"
                } else {
                    b"0\r\n\r\n"
                });
                (bytes, (method.to_owned(), target, body))
            },
        )
}

/// Bytes with which attacks and accidents are made.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST /publish HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"0\r\n",
        b"5\r\nhello\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 500\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"ffffffff\r\n",
        b"Expect: 100-continue\r\n",
        b"X: ",
        b";",
        b"hello",
    ];
    let word =
        prop_oneof![4 => select(words).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..40)];
    vec(word, 0..40).prop_map(|words| words.concat())
}

fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let ends = at.iter().copied().chain([bytes.len()]);
    let begins = [0].into_iter().chain(at.iter().copied());
    begins
        .zip(ends)
        .map(|(begin, end)| &bytes[begin..end])
        .collect()
}

fn comparable(requests: Vec<Request<Vec<u8>>>) -> Vec<(String, String, Vec<u8>)> {
    requests
        .into_iter()
        .map(|r| (r.method().to_string(), r.uri().to_string(), r.into_body()))
        .collect()
}

/// What is wrong with a line matters only as long as the line is within the limit.
#[test]
fn a_line_that_is_too_long_is_that_whatever_else_is_wrong_with_it_and_wherever_it_is_cut() {
    let field = "Transfer-Encoding: chunked\r\n";
    let head = format!(
        "GET / HTTP/1.1\r\n{}X: {}\n",
        field.repeat(17),
        "h".repeat(40)
    );
    let chunk = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n1;{}\n",
        "h".repeat(600)
    );
    for bytes in [head.as_bytes(), chunk.as_bytes()] {
        for at in 0..=bytes.len() {
            let (begin, end) = bytes.split_at(at);
            assert_eq!(
                requests(&[begin, end], &SMALL).map(comparable),
                Err(BadRequest::HeadTooLarge),
                "cut at {at}"
            );
        }
    }
}

proptest! {
    #[test]
    fn the_requests_are_the_same_wherever_the_bytes_are_cut(
        sent in vec(written(), 1..5), cuts in vec(any::<Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<_> = sent.into_iter().map(|(_, expected)| expected).collect();
        let found = requests(&cut(&bytes, &cuts), &Limits::default()).unwrap();
        prop_assert_eq!(comparable(found), expected.clone());
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(comparable(requests(&single, &Limits::default()).unwrap()), expected);
    }

    #[test]
    fn a_request_can_be_read_on_by_another_process_at_any_byte(sent in vec(written(), 1..4), at in any::<Index>()) {
        let bytes: Vec<u8> = sent.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let limits = Limits::default();
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        for (index, piece) in bytes.chunks(1).enumerate() {
            if index == at.index(bytes.len()) {
                let state = serde_json::to_string(&decoder).unwrap();
                let moved: Decoder = serde_json::from_str(&state).unwrap();
                prop_assert_eq!(&moved, &decoder);
                decoder = moved;
            }
            found.extend(decoder.feed(piece, &limits).unwrap());
        }
        prop_assert_eq!(comparable(found), sent.into_iter().map(|(_, expected)| expected).collect::<Vec<_>>());
    }

    #[test]
    fn whatever_arrives_nothing_panics_and_memory_is_bounded(bytes in anything(), cuts in vec(any::<Index>(), 0..20)) {
        let bound = SMALL.head + SMALL.body + SIZE_DIGITS + 2;
        let mut decoder = Decoder::new();
        'connection: for piece in cut(&bytes, &cuts) {
            let mut next = decoder.feed(piece, &SMALL);
            loop {
                match next {
                    Err(reason) => {
                        prop_assert!(reason.status().is_client_error() || reason.status().is_server_error());
                        prop_assert_eq!(decoder.buffered(), 0);
                        break 'connection;
                    }
                    Ok(None) => break,
                    Ok(Some(request)) => prop_assert!(request.body().len() <= SMALL.body),
                }
                next = decoder.feed(&[], &SMALL);
            }
            prop_assert!(decoder.buffered() <= bound, "{} bytes", decoder.buffered());
        }
    }

    #[test]
    fn whatever_arrives_is_judged_the_same_wherever_it_is_cut(bytes in anything(), cuts in vec(any::<Index>(), 0..20)) {
        let whole = requests(&[&bytes], &SMALL).map(comparable);
        prop_assert_eq!(requests(&cut(&bytes, &cuts), &SMALL).map(comparable), whole);
    }

    #[test]
    fn limits_may_change_in_the_middle_of_a_request(
        bytes in anything(), sizes in vec((0..600usize, 0..300usize, 0..20usize), 1..9),
    ) {
        let mut decoder = Decoder::new();
        let mut sizes = sizes.iter().cycle();
        for piece in bytes.chunks(7) {
            let &(head, body, headers) = sizes.next().expect("at least one");
            match decoder.feed(piece, &Limits { head, body, headers }) {
                Ok(Some(request)) => prop_assert!(request.body().len() <= 300),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
}
