//! HTTP/1.1, the server's side, as bytes in and bytes out: no sockets, no clock, no tasks.
//!
//! [`Decoder`] turns what arrives on a connection into requests, [`encode`] turns an answer into what is written back.
//! Between them stand small pure readings of a request: its query, its path, its API key, the address it really came
//! from ([`TrustedProxies`]) and which web pages may read the answer ([`Origins`]). A decoder is plain data at every
//! byte, so that a request that is half read can be finished by the process that takes the connection over (decision
//! 0013).

use std::borrow::Cow;
use std::str::Utf8Error;

use ::http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};

mod decoder;
mod origins;
mod proxies;

pub use decoder::{BadRequest, Decoder, Limits};
pub use origins::{InvalidOrigin, Origins};
pub use proxies::TrustedProxies;

/// What is written to a client that waits for leave to send its body, see [`Decoder::expects_continue`].
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The bytes of an answer.
///
/// `Content-Length` and `Connection` are written here and nowhere else, so the response's own are left out; only a 101
/// keeps its `Connection`. `head_only` leaves the body away but not its length (HEAD, RFC 9110 section 9.3.2). A `Date`
/// is sent when the response has one, as jiff's `timestamp_to_rfc9110_string` writes it: the caller has the clock.
pub fn encode(response: &Response<Vec<u8>>, head_only: bool, keep_alive: bool) -> Vec<u8> {
    let (status, body) = (response.status(), response.body());
    let fields: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let mut out = Vec::with_capacity(128 + fields + if head_only { 0 } else { body.len() });
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        let ours = name == CONTENT_LENGTH
            || name == TRANSFER_ENCODING
            || (name == CONNECTION && !switching);
        if !ours {
            field(&mut out, name.as_str(), value.as_bytes());
        }
    }
    // RFC 9110 section 8.6: an interim response and a 204 have no length, a 304 only that of the answer it stands for.
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        field(
            &mut out,
            "content-length",
            body.len().to_string().as_bytes(),
        );
    }
    if !status.is_informational() {
        field(
            &mut out,
            "connection",
            if keep_alive { b"keep-alive" } else { b"close" },
        );
    }
    out.extend_from_slice(b"\r\n");
    if !(bodiless || head_only) {
        out.extend_from_slice(body);
    }
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether the connection stays open after the answer (RFC 9112 section 9.3): in HTTP/1.1 unless the client says
/// `close`, in HTTP/1.0 only when it says `keep-alive`.
pub fn keep_alive<B>(request: &Request<B>) -> bool {
    let close = has_token(request.headers(), CONNECTION, "close");
    !close
        && (request.version() >= Version::HTTP_11
            || has_token(request.headers(), CONNECTION, "keep-alive"))
}

/// Whether a list-valued header holds a token, whatever its case and however many lines the header has.
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.any(|value| {
        value
            .split(',')
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    })
}

/// The first query parameter of that name, decoded as forms are (`%3d` and `%3D` are `=`, R-HTTP-2).
pub fn query<'a, B>(request: &'a Request<B>, name: &str) -> Option<Cow<'a, str>> {
    let query = request.uri().query()?;
    form_urlencoded::parse(query.as_bytes())
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

/// The segments of a path, each percent-decoded once after splitting, so that a channel name may hold `%2F` (R-SRV-33).
///
/// `/channels/a%2Fb` is `["channels", "a/b"]`, `/v1/` is `["v1", ""]`, `/` is `[""]`. A `%` that no two hexadecimal
/// digits follow stands for itself.
///
/// # Errors
/// A segment does not decode to UTF-8.
pub fn path_segments(path: &str) -> Result<Vec<Cow<'_, str>>, Utf8Error> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/')
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8())
        .collect()
}

/// The key of `Authorization: Bearer <key>`; the scheme's case does not matter (R-SRV-5). Two such headers are none.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let mut values = request.headers().get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, fields: &[(&str, &'static str)], body: &str) -> Response<Vec<u8>> {
        let mut builder = Response::builder().status(status);
        for &(name, value) in fields {
            builder = builder.header(name, value);
        }
        builder.body(body.as_bytes().to_vec()).expect("a response")
    }

    fn written(response: &Response<Vec<u8>>, head_only: bool, keep_alive: bool) -> String {
        String::from_utf8(encode(response, head_only, keep_alive)).expect("text")
    }

    #[test]
    fn an_answer_has_one_length_and_says_whether_the_connection_stays() {
        let fields = [
            ("content-type", "application/json"),
            ("content-length", "99"),
            ("connection", "upgrade"),
        ];
        let ok = response(200, &fields, "{}");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n";
        assert_eq!(
            written(&ok, false, true),
            format!("{head}connection: keep-alive\r\n\r\n{{}}")
        );
        assert_eq!(
            written(&ok, false, false),
            format!("{head}connection: close\r\n\r\n{{}}")
        );
        assert_eq!(
            written(&ok, true, true),
            format!("{head}connection: keep-alive\r\n\r\n"),
            "the answer to a HEAD"
        );
        for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
            let bare = format!("HTTP/1.1 {line}\r\nconnection: keep-alive\r\n\r\n");
            assert_eq!(written(&response(status, &[], "x"), false, true), bare);
        }
        let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert_eq!(
            written(&response(101, &upgrade, ""), false, true),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        );
    }

    #[test]
    fn a_connection_stays_open_by_version_and_by_wish() {
        let cases = [
            (Version::HTTP_11, None, true),
            (Version::HTTP_11, Some("Close"), false),
            (Version::HTTP_11, Some("x, close , y"), false),
            (Version::HTTP_11, Some("closed"), true),
            (Version::HTTP_10, None, false),
            (Version::HTTP_10, Some("Keep-Alive"), true),
            (Version::HTTP_10, Some("keep-alive, close"), false),
        ];
        for (version, connection, stays) in cases {
            let mut request = Request::new(());
            *request.version_mut() = version;
            if let Some(connection) = connection {
                request
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static(connection));
            }
            assert_eq!(keep_alive(&request), stays, "{version:?} {connection:?}");
        }
    }

    fn get(target: &str) -> Request<()> {
        Request::get(target).body(()).expect("a request")
    }

    /// R-HTTP-2
    #[test]
    fn query_parameters_are_url_decoded() {
        let request = get(
            "/connection/umdUpdate?connectionId=Zt4Qw8LmPoAxBC0%3d&connectionSecret=a%2Bb+c&connectionId=2",
        );
        assert_eq!(
            query(&request, "connectionId").as_deref(),
            Some("Zt4Qw8LmPoAxBC0=")
        );
        assert_eq!(
            query(&request, "connectionSecret").as_deref(),
            Some("a+b c")
        );
        assert_eq!(query(&request, "connectionid"), None);
        assert_eq!(
            query(&get("/?connectionId=x%3D"), "connectionId").as_deref(),
            Some("x=")
        );
        assert_eq!(
            query(&get("/?connectionId=x="), "connectionId").as_deref(),
            Some("x=")
        );
        assert_eq!(query(&get("/?token"), "token").as_deref(), Some(""));
        assert_eq!(query(&get("/"), "token"), None);
    }

    /// R-SRV-33
    #[test]
    fn a_segment_is_decoded_once_after_splitting() {
        let segments = |path| path_segments(path).map_err(|_| "not UTF-8");
        assert_eq!(
            segments("/channels/a%2Fb%252F/storage"),
            Ok(vec!["channels".into(), "a/b%2F".into(), "storage".into()])
        );
        assert_eq!(
            segments("/channels/stra%C3%9Fe+1"),
            Ok(vec!["channels".into(), "straße+1".into()])
        );
        assert_eq!(segments("/v1/"), Ok(vec!["v1".into(), "".into()]));
        assert_eq!(segments("/"), Ok(vec!["".into()]));
        assert_eq!(segments("/100%/%zz"), Ok(vec!["100%".into(), "%zz".into()]));
        assert_eq!(segments("/channels/%ff"), Err("not UTF-8"));
    }

    /// R-SRV-5
    #[test]
    fn a_key_is_read_from_the_authorization_header_only() {
        let key = |name: &str, values: &[&'static str]| {
            let mut request = get("/publish?key=k&authorization=Bearer%20k");
            for value in values {
                let name: HeaderName = name.parse().expect("a name");
                request
                    .headers_mut()
                    .append(name, HeaderValue::from_static(value));
            }
            bearer(&request).map(str::to_owned)
        };
        for value in ["Bearer k3y", "bearer k3y", "BEARER  k3y"] {
            assert_eq!(
                key("authorization", &[value]).as_deref(),
                Some("k3y"),
                "{value}"
            );
        }
        for value in ["k3y", "Bearer", "Bearer ", "Basic k3y", "Bearerk3y"] {
            assert_eq!(key("authorization", &[value]), None, "{value}");
        }
        assert_eq!(key("authentication", &["Bearer k3y"]), None);
        assert_eq!(key("authorization", &["Bearer k3y", "Bearer other"]), None);
        assert_eq!(key("x-other", &[]), None);
    }

    proptest! {
        #[test]
        fn any_segments_come_back_from_an_encoded_path(names in proptest::collection::vec(any::<String>(), 1..4)) {
            let encode = |name: &String| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
            let path = names.iter().map(encode).fold(String::new(), |path, segment| path + "/" + &segment);
            prop_assert_eq!(path_segments(&path).expect("UTF-8"), names);
        }
    }
}
