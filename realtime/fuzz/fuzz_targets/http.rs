//! HTTP/1.1 requests of anybody: however they are cut into reads, the same requests come out, then an error or none, within
//! the limits; and everything that looks at a request copes with it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use realtime::http::{BadRequest, Decoder, Limits, Origins, TrustedProxies};
use realtime::{http, log, websocket};

const LIMITS: Limits = Limits {
    head: 512,
    body: 256,
    headers: 16,
};

/// The method, target, headers and body of each request, then the error.
type Outcome = (Vec<String>, Option<BadRequest>);

fn decode(bytes: &[u8], sizes: &[u8]) -> Outcome {
    let mut decoder = Decoder::new();
    let mut requests = Vec::new();
    let mut rest = bytes;
    for turn in 0_usize.. {
        let size = match sizes {
            [] => rest.len(),
            sizes => usize::from(sizes[turn % sizes.len()])
                .max(1)
                .min(rest.len()),
        };
        let (mut piece, after) = rest.split_at(size);
        rest = after;
        loop {
            match decoder.feed(piece, &LIMITS) {
                Err(error) => {
                    assert_eq!(
                        decoder.feed(b"more", &LIMITS).err(),
                        Some(error),
                        "it stays failed"
                    );
                    assert!(error.status().is_client_error() || error.status().is_server_error());
                    return (requests, Some(error));
                }
                Ok(Some(request)) => {
                    look_at(&request);
                    requests.push(format!("{request:?}"));
                    piece = &[];
                }
                Ok(None) => break,
            }
        }
        decoder.expects_continue();
        assert!(!decoder.is_idle() || decoder.buffered() == 0);
        if rest.is_empty() {
            return (requests, None);
        }
    }
    unreachable!("every turn takes a byte")
}

fn look_at(request: &::http::Request<Vec<u8>>) {
    assert!(request.body().len() <= LIMITS.body);
    assert!(request.headers().len() <= LIMITS.headers);
    http::keep_alive(request);
    http::query(request, "token");
    http::bearer(request);
    let _ = http::path_segments(request.uri().path());
    let _ = log::redact_url(&request.uri().to_string());
    if let Ok(upgrade) = websocket::upgrade(request, true) {
        assert!(upgrade.response().starts_with(b"HTTP/1.1 101 "));
    }
    let origins = Origins::parse(&["https://app.example".to_owned()]).expect("an origin");
    origins.allows(request.headers());
    origins.preflight(request.headers());
    let proxies = TrustedProxies::new(&["127.0.0.0/8".parse().expect("a network")]);
    assert!(
        proxies
            .client(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), request.headers())
            .is_some()
    );
}

fuzz_target!(|data: &[u8]| {
    let Some((sizes, bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    let ((pieces, why), (whole, why_whole)) = (decode(bytes, sizes), decode(bytes, &[]));
    assert_eq!(pieces, whole);
    // Of several things that are wrong, the reads decide which is seen first.
    assert_eq!(why.is_some(), why_whole.is_some(), "{why:?}, {why_whole:?}");
});
