//! The opening handshake (RFC 6455 §4.2) on a request that is already parsed, with the negotiation of permessage-deflate
//! (RFC 7692 §5 and §7.1).

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderName, Method, Request, StatusCode, Version, header};

use super::deflate::WINDOW_BITS;

/// What a key is hashed with (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request cannot be upgraded. Its text can be the body of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnUpgrade {
    /// Only GET upgrades (RFC 6455 §4.1).
    #[error("A WebSocket is opened with GET")]
    Method,
    /// Upgrades exist in HTTP/1.1 (§4.1).
    #[error("A WebSocket is opened with HTTP/1.1")]
    HttpVersion,
    /// There must be a Host header (§4.2.1).
    #[error("The Host header is missing")]
    Host,
    /// `Upgrade` must name `websocket`, in whatever case (§4.2.1).
    #[error("The Upgrade header does not name websocket")]
    Upgrade,
    /// `Connection` must name `upgrade`, in whatever case (§4.2.1).
    #[error("The Connection header does not name upgrade")]
    Connection,
    /// Only version 13 is spoken (§4.4).
    #[error("Sec-WebSocket-Version must be 13")]
    WebSocketVersion,
    /// There must be one key, and it must be 16 bytes in base64 (§4.2.1).
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
}

impl NotAnUpgrade {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HttpVersion | Self::Upgrade | Self::WebSocketVersion => {
                StatusCode::UPGRADE_REQUIRED
            }
            Self::Host | Self::Connection | Self::Key => StatusCode::BAD_REQUEST,
        }
    }

    /// The headers that belong to that status: what would have been right (RFC 6455 §4.4, RFC 9110 §15.5.6, §15.5.22).
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("Allow", "GET")],
            Self::HttpVersion | Self::Upgrade | Self::WebSocketVersion => {
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            Self::Host | Self::Connection | Self::Key => &[],
        }
    }
}

/// An upgrade that is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// permessage-deflate is agreed on: the [`Decoder`](super::Decoder) must know, and compressed frames may be sent.
    pub deflate: bool,
    /// The accepted offer names the server's window, so the answer must, too (RFC 7692 §7.1.2.1).
    window: bool,
}

impl Upgrade {
    /// The head of the response, complete; what follows it are frames. No subprotocol is ever selected (R-CONN-3).
    pub fn response(&self) -> Vec<u8> {
        let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        let extensions = match (self.deflate, self.window) {
            (false, _) => String::new(),
            (true, false) => format!("Sec-WebSocket-Extensions: {agreed}\r\n"),
            (true, true) => {
                format!(
                    "Sec-WebSocket-Extensions: {agreed}; server_max_window_bits={WINDOW_BITS}\r\n"
                )
            }
        };
        let accept = &self.accept;
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
        )
        .into_bytes()
    }
}

/// Whether the client wants a WebSocket at all: `Upgrade` names `websocket`. Whether it may have one, [`upgrade`] says.
fn is_upgrade(request: &Request<Vec<u8>>) -> bool {
    lists(request, header::UPGRADE, "websocket")
}

/// Answers the opening handshake. `deflate_enabled`: permessage-deflate may be negotiated if the client offers it
/// (R-CONN-32).
///
/// An offer of it that cannot be served as it is (RFC 7692 §7.1: an unknown or repeated parameter, a bad value, a server's
/// window smaller than 4 KiB) is passed over, as is one that is malformed or names another extension; then the next one
/// counts, and without any the connection is uncompressed.
///
/// # Errors
///
/// What is missing of an opening handshake (RFC 6455 §4.2.1), with the status and headers of the answer.
pub fn upgrade(request: &Request<Vec<u8>>, deflate_enabled: bool) -> Result<Upgrade, NotAnUpgrade> {
    let check = |condition, error| if condition { Ok(()) } else { Err(error) };
    check(request.method() == Method::GET, NotAnUpgrade::Method)?;
    check(
        request.version() == Version::HTTP_11,
        NotAnUpgrade::HttpVersion,
    )?;
    check(
        request.headers().contains_key(header::HOST),
        NotAnUpgrade::Host,
    )?;
    check(is_upgrade(request), NotAnUpgrade::Upgrade)?;
    check(
        lists(request, header::CONNECTION, "upgrade"),
        NotAnUpgrade::Connection,
    )?;
    let version = only(request, header::SEC_WEBSOCKET_VERSION);
    check(version == Some("13"), NotAnUpgrade::WebSocketVersion)?;
    let key = only(request, header::SEC_WEBSOCKET_KEY).ok_or(NotAnUpgrade::Key)?;
    let decoded = BASE64.decode(key);
    check(
        decoded.is_ok_and(|decoded| decoded.len() == 16),
        NotAnUpgrade::Key,
    )?;

    let offers =
        values(request, header::SEC_WEBSOCKET_EXTENSIONS).flat_map(|value| split(value, ','));
    let accepted = offers.filter(|_| deflate_enabled).find_map(accept_offer);
    Ok(Upgrade {
        accept: accept(key),
        deflate: accepted.is_some(),
        window: accepted.is_some_and(|offer| offer.window),
    })
}

/// The proof that the server understood the key (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        [key, GUID].concat().as_bytes(),
    );
    BASE64.encode(hash)
}

/// The values of a header that may come several times; values that are not ASCII text do not count.
fn values(request: &Request<Vec<u8>>, name: HeaderName) -> impl Iterator<Item = &str> {
    request
        .headers()
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// Whether the comma-separated values of a header hold this token, in whatever case.
fn lists(request: &Request<Vec<u8>>, name: HeaderName, token: &str) -> bool {
    values(request, name)
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The value of a header that must come exactly once (RFC 6455 §11.3).
fn only(request: &Request<Vec<u8>>, name: HeaderName) -> Option<&str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// An offer that can be served.
struct Accepted {
    window: bool,
}

/// Accepts `permessage-deflate; …` when every parameter can be kept to (RFC 7692 §7.1).
///
/// Not using context takeover is what this server does anyway, in both directions. Its compressor's window is fixed, so no
/// smaller one can be promised; the client's own may be any, since the decompressor has the largest there is.
fn accept_offer(offer: &str) -> Option<Accepted> {
    let mut items = split(offer, ';');
    if !items
        .next()?
        .trim()
        .eq_ignore_ascii_case("permessage-deflate")
    {
        return None;
    }
    let mut seen = Vec::new();
    let mut accepted = Accepted { window: false };
    for item in items {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim())?)),
            None => (item.trim(), None),
        };
        let name = name.to_ascii_lowercase();
        match (name.as_str(), value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => _ = window_bits(value)?,
            ("server_max_window_bits", Some(value)) if window_bits(value)? >= WINDOW_BITS => {
                accepted.window = true
            }
            _ => return None,
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(accepted)
}

/// 8 to 15, without a leading zero (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    (8..=15).find(|bits| bits.to_string() == value)
}

/// The parts between separators that are not within a quoted string (RFC 6455 §9.1, RFC 9110 §5.6.4).
fn split(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |character| {
        let separates = character == separator && !quoted;
        (quoted, escaped) = match character {
            '"' if !escaped => (!quoted, false),
            '\\' => (quoted, quoted && !escaped),
            _ => (quoted, false),
        };
        separates
    })
}

/// The text of a parameter's value, which may be in quotes. Values that need an escape inside are none that this server
/// knows.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455 §1.2, without its subprotocols.
    const REQUEST: [(&str, &str); 5] = [
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn request<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Request<Vec<u8>> {
        let mut request = Request::get("/?token=t");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Vec::new()).expect("a valid request")
    }

    /// The request with one header set to these values instead.
    fn request_with(name: &str, values: &[&str]) -> Request<Vec<u8>> {
        let others = REQUEST.into_iter().filter(|(other, _)| *other != name);
        request(others.chain(values.iter().map(|value| (name, *value))))
    }

    fn response(upgrade: &Upgrade) -> String {
        String::from_utf8(upgrade.response()).expect("ASCII")
    }

    /// R-CONN-3, RFC 6455 §4.2.2
    #[test]
    fn an_upgrade_succeeds_without_a_subprotocol() {
        let granted = upgrade(&request(REQUEST), false).expect("an upgrade");
        assert_eq!(
            response(&granted),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    /// R-CONN-3
    #[test]
    fn a_subprotocol_is_never_selected() {
        let offered = request_with("Sec-WebSocket-Protocol", &["chat, superchat"]);
        let granted = upgrade(&offered, true).expect("an upgrade");
        assert!(!response(&granted).contains("Sec-WebSocket-Protocol"));
    }

    /// RFC 6455 §4.2.1: lists and names are compared without regard to case.
    #[test]
    fn upgrades_are_recognised_in_the_ways_that_clients_write_them() {
        for (name, values) in [
            ("Upgrade", &["WebSocket"][..]),
            ("Upgrade", &["h2c", "x, WEBSOCKET"]),
            ("Connection", &["keep-alive, Upgrade"]),
            ("Connection", &["keep-alive", "upgrade"]),
            ("Sec-WebSocket-Version", &[" 13 "]),
        ] {
            let request = request_with(name, values);
            assert!(is_upgrade(&request), "{name}: {values:?}");
            assert!(upgrade(&request, false).is_ok(), "{name}: {values:?}");
        }
    }

    /// RFC 6455 §4.2.1, §4.4
    #[test]
    fn a_handshake_that_lacks_something_is_refused() {
        for (name, values, error, status) in [
            ("Host", &[][..], NotAnUpgrade::Host, 400),
            ("Upgrade", &[], NotAnUpgrade::Upgrade, 426),
            ("Upgrade", &["websockets"], NotAnUpgrade::Upgrade, 426),
            ("Connection", &[], NotAnUpgrade::Connection, 400),
            ("Connection", &["keep-alive"], NotAnUpgrade::Connection, 400),
            (
                "Sec-WebSocket-Version",
                &[],
                NotAnUpgrade::WebSocketVersion,
                426,
            ),
            (
                "Sec-WebSocket-Version",
                &["8"],
                NotAnUpgrade::WebSocketVersion,
                426,
            ),
            (
                "Sec-WebSocket-Version",
                &["13", "13"],
                NotAnUpgrade::WebSocketVersion,
                426,
            ),
            ("Sec-WebSocket-Key", &[], NotAnUpgrade::Key, 400),
            (
                "Sec-WebSocket-Key",
                &["dGhlIHNhbXBsZSBub25jZQ"],
                NotAnUpgrade::Key,
                400,
            ),
            ("Sec-WebSocket-Key", &["c2hvcnQ="], NotAnUpgrade::Key, 400),
            (
                "Sec-WebSocket-Key",
                &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="],
                NotAnUpgrade::Key,
                400,
            ),
        ] {
            assert_eq!(
                upgrade(&request_with(name, values), true),
                Err(error),
                "{name}: {values:?}"
            );
            assert_eq!(error.status().as_u16(), status, "{error}");
        }
        assert_eq!(
            NotAnUpgrade::WebSocketVersion.headers(),
            [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        );

        let mut post = request(REQUEST);
        *post.method_mut() = Method::POST;
        assert_eq!(upgrade(&post, true), Err(NotAnUpgrade::Method));
        assert_eq!(NotAnUpgrade::Method.headers(), [("Allow", "GET")]);
        let mut old = request(REQUEST);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(upgrade(&old, true), Err(NotAnUpgrade::HttpVersion));
    }

    #[test]
    fn an_ordinary_request_is_no_upgrade() {
        assert!(!is_upgrade(&request([
            ("Host", "h"),
            ("Connection", "keep-alive")
        ])));
        assert!(!is_upgrade(&request([
            ("Host", "h"),
            ("Connection", "Upgrade"),
            ("Upgrade", "h2c")
        ])));
    }

    const AGREED: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    /// What is agreed on, by the values of the header that offers it.
    fn agreed(offers: &[&str], enabled: bool) -> Option<String> {
        let granted = upgrade(&request_with("Sec-WebSocket-Extensions", offers), enabled)
            .expect("an upgrade");
        let response = response(&granted);
        let line = response
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        assert_eq!(line.is_some(), granted.deflate);
        line.map(str::to_owned)
    }

    /// R-CONN-32
    #[test]
    fn compression_is_agreed_on_only_when_offered_and_enabled() {
        assert_eq!(
            agreed(&["permessage-deflate"], true).as_deref(),
            Some(AGREED)
        );
        assert_eq!(agreed(&["permessage-deflate"], false), None);
        assert_eq!(agreed(&[], true), None);
        assert_eq!(agreed(&["x-webkit-deflate-frame"], true), None);
    }

    /// R-CONN-32, RFC 7692 §7.1
    #[test]
    fn offers_of_compression_that_can_be_served_are_accepted() {
        for offers in [
            // Browsers, and libraries by default.
            &["permessage-deflate; client_max_window_bits"][..],
            &["Permessage-Deflate;Client_Max_Window_Bits = 15 ; server_no_context_takeover"],
            &["permessage-deflate; client_max_window_bits=\"8\"; client_no_context_takeover"],
            // Others beside it, in one header or several.
            &["mux; \"max, channels\"=4, permessage-deflate"],
            &[
                "permessage-deflate; server_max_window_bits=10, permessage-deflate; client_max_window_bits=9",
            ],
            &[
                "permessage-deflate; server_max_window_bits=10",
                "permessage-deflate",
            ],
            &[
                "permessage-deflate; note=\"a \\\" ; b, c\"",
                "permessage-deflate",
            ],
        ] {
            assert_eq!(agreed(offers, true).as_deref(), Some(AGREED), "{offers:?}");
        }
        // A window is promised to whoever asks for it, and what is promised is the one there is.
        for bits in 12..=15 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            assert_eq!(
                agreed(&[&offer], true),
                Some(format!("{AGREED}; server_max_window_bits=12"))
            );
        }
    }

    /// R-CONN-32, RFC 7692 §7.1: declined, which leaves an uncompressed connection.
    #[test]
    fn offers_of_compression_that_cannot_be_served_are_declined() {
        for offer in [
            "permessage-deflate; server_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=\"15",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate=1",
            "",
            ",;,",
        ] {
            assert_eq!(agreed(&[offer], true), None, "{offer}");
        }
    }
}
