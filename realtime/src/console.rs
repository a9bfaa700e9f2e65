//! The web console: a page for whoever has a token and wants to see what happens (section 21 of the protocol).
//!
//! Its files are part of this program and ask nothing of any other server but the one that they are to talk with. The page
//! is public and holds no secret (R-CONS-2): a token is pasted into it, and stays in that tab.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};

use crate::http as wire;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Each file below `/console/`, its type, and what it holds.
const FILES: [(&str, &str, &str); 6] = [
    ("console.css", CSS, include_str!("console/console.css")),
    ("console.js", SCRIPT, include_str!("console/console.js")),
    ("client.js", SCRIPT, include_str!("console/client.js")),
    ("frames.js", SCRIPT, include_str!("console/frames.js")),
    ("json.js", SCRIPT, include_str!("console/json.js")),
    ("token.js", SCRIPT, include_str!("console/token.js")),
];

const PAGE: &str = include_str!("console/index.html");

/// One for all files: they belong together, and another version of one is another version of the page.
static VERSION: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut all = digest::Context::new(&digest::SHA256);
    for text in FILES.iter().map(|(_, _, text)| *text).chain([PAGE]) {
        all.update(text.as_bytes());
    }
    let hash: String = all.finish().as_ref()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    HeaderValue::try_from(format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
});

/// The answer to a request for the page (`None`, or an empty name) or one of its files. `None`: there is no such file.
pub fn answer(request: &Request<Vec<u8>>, file: Option<&str>) -> Option<Response<Vec<u8>>> {
    let (kind, text) = match file {
        None => (HTML, PAGE),
        // The page names its files relative to `/console`, so that a proxy may put it anywhere.
        Some("") => return Some(to_the_page(request.uri())),
        Some(name) => FILES
            .iter()
            .find(|(it, _, _)| *it == name)
            .map(|(_, kind, text)| (*kind, *text))?,
    };
    let mut response = if is_known(request.headers()) {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(text.as_bytes().to_vec())
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Kept, but asked for each time: after an update nobody sees a mixture of two versions.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ETAG, VERSION.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::try_from(policy(request)) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    Some(response)
}

fn to_the_page(uri: &Uri) -> Response<Vec<u8>> {
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let mut response = Response::new(Vec::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(page) = HeaderValue::try_from(format!("../console{query}")) {
        response.headers_mut().insert(LOCATION, page);
    }
    response
}

/// Has whoever asks got this version already (RFC 9110, section 13.1.2)?
fn is_known(headers: &HeaderMap) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag.as_bytes() == VERSION.as_bytes())
}

/// What the page may do: run these files, and talk with the one server that its address names (R-CONS-7). So nothing that
/// got into it could take a token elsewhere.
fn policy(request: &Request<Vec<u8>>) -> String {
    let given = wire::query(request, "wssUrl");
    let given: Option<Uri> = given.and_then(|url| url.parse().ok());
    let server = given.as_ref().and_then(Uri::authority).cloned();
    // Not every browser takes 'self' to mean its WebSockets, too.
    let own = || {
        let host = request.headers().get(HOST)?.to_str().ok()?;
        host.parse::<Authority>().ok()
    };
    let server = server.or_else(own).map(|it| sources(&it));
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'{}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        server.unwrap_or_default()
    )
}

/// A server as the policy names it, by its four schemes. Names that the policy's grammar has no place for, such as IPv6
/// addresses, are any server.
fn sources(server: &Authority) -> String {
    let named = server
        .host()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let place = match (named, server.port_u16()) {
        (false, _) => {
            return ["ws", "wss", "http", "https"]
                .map(|it| format!(" {it}:"))
                .concat();
        }
        (true, Some(port)) => format!("{}:{port}", server.host()),
        (true, None) => server.host().to_owned(),
    };
    ["ws", "wss", "http", "https"]
        .map(|it| format!(" {it}://{place}"))
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, host: &str) -> Request<Vec<u8>> {
        Request::get(target)
            .header(HOST, host)
            .body(Vec::new())
            .expect("a request")
    }

    fn connects_to(target: &str, host: &str) -> String {
        let policy = policy(&request(target, host));
        let directive = policy.split("; ").find(|it| it.starts_with("connect-src"));
        directive.expect("the directive").to_owned()
    }

    /// R-CONS-1, R-CONS-7
    #[test]
    fn the_policy_names_the_one_server_that_the_page_talks_with() {
        let all = |place: &str| {
            format!("connect-src 'self' ws://{place} wss://{place} http://{place} https://{place}")
        };
        let url = |url: &str| format!("/console?wssUrl={url}");
        for (target, place) in [
            ("/console".to_owned(), "own.example:7400"),
            (url("wss%3A%2F%2Frt.example.com%2Fv1"), "rt.example.com"),
            (url("ws://127.0.0.1:7400/v1"), "127.0.0.1:7400"),
            (url("wss://ana:secret@rt.example.com/"), "rt.example.com"),
            (url("not%20a%20url"), "own.example:7400"),
        ] {
            assert_eq!(
                connects_to(&target, "own.example:7400"),
                all(place),
                "{target}"
            );
        }
        let any = "connect-src 'self' ws: wss: http: https:";
        assert_eq!(connects_to(&url("ws://[::1]:7400/v1"), "own.example"), any);
    }

    /// R-CONS-7
    #[test]
    fn nothing_in_an_address_gets_out_of_its_directive() {
        for hostile in [
            "wss://a;script-src%20*/",
            "wss://a%0d%0aset-cookie:x/",
            "wss://a%20https:/",
            "wss://*/",
            "wss://a'unsafe-inline'/",
            "wss://%25;x/",
        ] {
            let policy = policy(&request(
                &format!("/console?wssUrl={hostile}"),
                "own.example",
            ));
            assert_eq!(policy.matches("script-src").count(), 1, "{policy}");
            assert!(!policy.contains(['*', '\r', '\n']), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
        }
    }

    /// Every file that the page or one of its scripts names is there, and no other server is named.
    #[test]
    fn the_page_is_complete_and_asks_nobody_else() {
        for (_, _, text) in FILES.iter().chain([&("index.html", HTML, PAGE)]) {
            let imported = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once(" from './")?;
                rest.split_once('\'')
            });
            for (name, _) in imported {
                assert!(FILES.iter().any(|(it, _, _)| *it == name), "{name}");
            }
            let elsewhere = [
                "src=\"http",
                "href=\"http",
                "url(http",
                "from 'http",
                "import('http",
            ];
            assert!(!elsewhere.iter().any(|it| text.contains(it)));
        }
        for name in ["console.css", "console.js"] {
            assert!(PAGE.contains(&format!("\"console/{name}\"")), "{name}");
        }
    }
}
