//! The web console (section 21 of the protocol): what is served, and a real browser at work with it. The pictures that the
//! browser takes stay in the target folder, `tmp/console`.

mod support;

use serde_json::json;
use support::scripts::{in_a_browser, keeps_its_promises, screenshots, told};
use support::{Answer, Server, libc_signal, token};

/// Every file of the page.
const FILES: [&str; 7] = [
    "/console",
    "/console/console.css",
    "/console/console.js",
    "/console/client.js",
    "/console/frames.js",
    "/console/json.js",
    "/console/token.js",
];

fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    server.request("GET", path, headers, "")
}

/// The same token with another signature.
fn forged(token: &str) -> String {
    let (rest, end) = token.split_at(token.len() - 10);
    let other = if end.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}{other}{}", &end[1..])
}

/// R-CONS-1, R-CONS-2, R-CONS-7
#[test]
fn the_page_needs_no_key_and_is_served_with_a_strict_policy_that_its_address_decides() {
    let server = Server::start();
    for path in FILES {
        let answer = ask(&server, path, &[]);
        assert_eq!(answer.status, 200, "{path}");
        let kind = answer.header("content-type").expect("a type");
        let wanted = match path.rsplit_once('.').map_or("", |(_, it)| it) {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(kind, wanted, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let policy = answer.header("content-security-policy").expect("a policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.split("; ").any(|it| it == part), "{part}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        // No secret of this server: neither its keys, nor anything that looks like one.
        for key in support::API_KEYS {
            assert!(!answer.body.contains(key), "{path}");
        }
    }
    let elsewhere = ask(
        &server,
        "/console?wssUrl=wss%3A%2F%2Frt.example.com%2Fv1",
        &[],
    );
    let policy = elsewhere
        .header("content-security-policy")
        .expect("a policy");
    assert!(
        policy.contains("connect-src 'self' ws://rt.example.com wss://rt.example.com"),
        "{policy}"
    );
}

/// R-CONS-1
#[test]
fn a_browser_that_has_the_page_gets_it_once_and_heads_and_wrong_methods_are_answered() {
    let server = Server::start();
    for path in FILES {
        let first = ask(&server, path, &[]);
        let tag = first.header("etag").expect("a tag").to_owned();
        let again = ask(&server, path, &[("If-None-Match", &tag)]);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("etag"), Some(&*tag));
        let weak = format!("\"other\", W/{tag}");
        assert_eq!(ask(&server, path, &[("If-None-Match", &weak)]).status, 304);
        assert_eq!(
            ask(&server, path, &[("If-None-Match", "\"other\"")]).status,
            200
        );
        let head = server.request("HEAD", path, &[], "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(
            head.header("content-length"),
            first.header("content-length")
        );
    }
    let slash = ask(&server, "/console/?wssUrl=ws%3A%2F%2Fa%2Fv1", &[]);
    assert_eq!(slash.status, 308);
    assert_eq!(
        slash.header("location"),
        Some("../console?wssUrl=ws%3A%2F%2Fa%2Fv1")
    );
    let post = server.request("POST", "/console", &[], "{}");
    assert_eq!(
        (post.status, post.header("allow")),
        (405, Some("GET, HEAD"))
    );
    for path in [
        "/console/other.js",
        "/console/console.css/x",
        "/console/..%2Findex.html",
    ] {
        assert_eq!(ask(&server, path, &[]).status, 404, "{path}");
    }
}

/// R-CONS-7, R-OPS-11
#[test]
fn switched_off_there_is_no_console_and_a_reload_is_enough() {
    let server = Server::with("console = false\n");
    let mut client = server.connect(json!({"uid": "ana"}));
    let absent = ask(&server, "/nothing", &[]);
    for path in FILES {
        let answer = ask(&server, path, &[]);
        assert_eq!((answer.status, &answer.body), (404, &absent.body), "{path}");
    }
    assert_eq!(server.request("POST", "/console", &[], "").status, 404);
    server.configure("console = true\n");
    server.reload();
    assert_eq!(ask(&server, "/console", &[]).status, 200);
    client.settle();
}

/// The page is for those who connect; operators' listeners take no WebSocket.
#[test]
fn a_listener_for_operators_has_no_console() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("operations.sock");
    let server = Server::with(&format!("operations = [\"unix:{}\"]\n", path.display()));
    let ask = |target: &str| {
        use std::io::Write as _;
        let mut stream = support::unix(&path);
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        Answer::read(stream).status
    };
    assert_eq!((ask("/console"), ask("/healthz")), (404, 200));
    drop(server);
}

/// R-CONS-1, R-CONS-2, R-CONS-3, R-CONS-4, R-CONS-5, R-CONS-6, R-CONS-7, R-CONN-27, R-CONN-28, R-LOG-4
#[test]
fn a_browser_connects_subscribes_publishes_and_finds_its_way_by_keyboard_and_on_a_phone() {
    let mut server = Server::with("shutdown_spread = \"0s\"\n");
    let chat = json!({"chat": {"publish": true, "echo": true, "store": 3600, "react": true}, "hotsock.messageReaction": {"echo": true}});
    let storage = json!({"*": {"get": true, "set": true, "observe": true}});
    let room = json!({"subscribe": true, "getInfo": true, "messages": chat, "storage": storage});
    let channels = json!({"room.8": room, "presence.den": {"subscribe": true, "alias": "den", "messages": chat}});
    let claims = json!({"uid": "ana", "umd": {"role": "host", "since": 9_007_199_254_740_993_u64}, "channels": channels});
    let good = token(claims);
    let expired = token(json!({"uid": "ana", "exp": support::now() - 90}));
    let umd = json!({"scope": "umd", "uid": "ana", "umd": {"mood": "busy"}, "channels": {"presence.den": {"umdUpdate": true}}});
    let forged = forged(&good);
    let screenshots = screenshots("console");
    let mut script = in_a_browser("console.js");
    script
        .arg(&screenshots)
        .env("TOKEN", &good)
        .env("TOKEN_EXPIRED", &expired)
        .env("TOKEN_FORGED", &forged)
        .env("TOKEN_UMD", token(umd));
    let address = server.address;
    let mut next = None;
    keeps_its_promises(told(&mut script, &server), |line| {
        if line == "restart" {
            server.signal(libc_signal::TERM);
            assert!(server.ended().success());
            let listen = format!("listen = [\"tcp:{address}\"]\n");
            next = Some(Server::with(&listen));
        }
    });
    let next = next.expect("it was replaced");
    let log = [server.log(), next.log()].concat().join("\n");
    for secret in [&good, &expired, &forged] {
        assert!(!log.contains(&**secret), "a token stands in the log");
    }
    println!("screenshots: {}", screenshots.display());
}
