//! Checks a request that was signed as requests to AWS are (Signature Version 4): it is signed again with the secret that
//! belongs to the key that it names, and must come out the same.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::Request;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use thiserror::Error;

use crate::config::FunctionKey;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The service that requests must be signed for.
const SERVICE: &str = "lambda";

/// How far a client's clock may be off: as with AWS.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// More signed headers are not looked at; SDKs sign about ten.
const HEADERS: usize = 64;

/// Why a request is not permitted. The sentences are those of AWS, or close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// There are no credentials.
    #[error("Missing Authentication Token")]
    Missing,
    /// The API key is none of the server's.
    #[error("the API key is not valid")]
    ApiKey,
    /// The header does not say everything that is needed.
    #[error(
        "the Authorization header needs a Credential of five parts, SignedHeaders and a Signature, and the request an \
         X-Amz-Date; Host and X-Amz-Date must be signed"
    )]
    Incomplete,
    /// It was signed for something else.
    #[error("the Credential must be scoped to the date of X-Amz-Date and to the service lambda")]
    Scope,
    /// Nobody has such a key.
    #[error("The security token included in the request is invalid.")]
    Unknown,
    /// It is too old, or of the future.
    #[error("Signature expired or not yet valid: the clocks differ by more than 15 minutes")]
    Expired,
    /// It is another one.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key \
         and signing method."
    )]
    Mismatch,
}

impl Refused {
    /// The type of the error, by which SDKs tell them apart.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::ApiKey => "AccessDeniedException",
            Self::Incomplete => "IncompleteSignatureException",
            Self::Unknown => "UnrecognizedClientException",
            Self::Scope | Self::Expired | Self::Mismatch => "InvalidSignatureException",
        }
    }

    /// A word for metrics and log.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Missing | Self::ApiKey => "api_key",
            Self::Incomplete | Self::Scope => "signature_form",
            Self::Unknown => "access_key_id",
            Self::Expired => "signature_expired",
            Self::Mismatch => "signature",
        }
    }
}

/// What the header `Authorization` says.
struct Given<'a> {
    access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Given<'a> {
    fn read(header: &'a str) -> Option<Self> {
        let fields = header.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        // A key may have slashes; nothing behind it has.
        let mut parts = credential?.rsplitn(5, '/');
        let (Some("aws4_request"), Some(service), Some(region), Some(date), Some(access_key_id)) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return None;
        };
        Some(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers: signed?.split(';').collect(),
            signature: signature?,
        })
    }
}

/// Was this request signed with one of these keys, lately?
///
/// # Errors
/// Why not.
pub fn verify(
    keys: &[FunctionKey],
    request: &Request<Vec<u8>>,
    now: Timestamp,
) -> Result<(), Refused> {
    let header = |name: &str| {
        let mut values = request.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    };
    let given = header(AUTHORIZATION.as_str())
        .and_then(Given::read)
        .ok_or(Refused::Incomplete)?;
    let date = header("x-amz-date").ok_or(Refused::Incomplete)?;
    let has = |name| given.signed_headers.contains(&name);
    if !has("host") || !has("x-amz-date") || given.signed_headers.len() > HEADERS {
        return Err(Refused::Incomplete);
    }
    let at = moment(date).ok_or(Refused::Incomplete)?;
    if given.service != SERVICE || date.get(..8) != Some(given.date) {
        return Err(Refused::Scope);
    }
    if at.duration_since(now).unsigned_abs() > SKEW {
        return Err(Refused::Expired);
    }
    let secret = (keys.iter())
        .filter(|key| key.access_key_id.as_deref() == Some(given.access_key_id))
        .find_map(|key| key.secret_access_key.as_ref())
        .ok_or(Refused::Unknown)?;
    let signature = signature(&given, secret.expose(), request, at).ok_or(Refused::Mismatch)?;
    verify_slices_are_equal(signature.as_bytes(), given.signature.as_bytes())
        .map_err(|_| Refused::Mismatch)
}

/// `20150830T123600Z`
fn moment(text: &str) -> Option<Timestamp> {
    let fits = text.len() == 16 && text.ends_with('Z');
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
    fits.then(|| zoned.timestamp())
}

/// The signature that the request should have.
fn signature(
    given: &Given<'_>,
    secret: &str,
    request: &Request<Vec<u8>>,
    at: Timestamp,
) -> Option<String> {
    let mut headers = Vec::new();
    for &name in &given.signed_headers {
        let before = headers.len();
        for value in request.headers().get_all(name) {
            headers.push((name, value.to_str().ok()?));
        }
        // What was signed and has not come was taken out on the way.
        if headers.len() == before {
            return None;
        }
    }
    let credentials = Credentials::new(given.access_key_id, secret, None, None, "settings");
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    // What a client signs counts, whatever it is.
    settings.excluded_headers = None;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(given.region)
        .name(given.service)
        .time(SystemTime::from(at))
        .settings(settings)
        .build()
        .ok()?
        .into();
    // The host that counts is among the headers.
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let request = SignableRequest::new(
        request.method().as_str(),
        format!("http://host{path}"),
        headers.into_iter(),
        SignableBody::Bytes(request.body()),
    );
    let signed = sign(request.ok()?, &params).ok()?;
    Some(signed.signature().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const PATH: &str = "/2015-03-31/functions/publish/invocations";
    const BODY: &[u8] = br#"{"channel":"board.1","event":"price"}"#;

    fn keys() -> [FunctionKey; 2] {
        let pair = |id: &str, secret: &str| FunctionKey {
            access_key_id: Some(id.into()),
            secret_access_key: Some(Secret::new(secret)),
        };
        [
            pair("AKIDONE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            pair("AKIDTWO", "another secret of the same backend, or not"),
        ]
    }

    fn now() -> Timestamp {
        "2026-08-30T12:36:00Z".parse().unwrap()
    }

    /// Signs as a client does.
    fn signed(key: &FunctionKey, service: &str, at: Timestamp) -> Request<Vec<u8>> {
        let secret = key.secret_access_key.as_ref().unwrap().expose();
        let id = key.access_key_id.as_deref().unwrap();
        let identity = Credentials::new(id, secret, None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name(service)
            .time(SystemTime::from(at))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = [
            ("host", "rt.example.com"),
            ("x-amz-invocation-type", "Event"),
        ];
        let signable = SignableRequest::new(
            "POST",
            format!("https://rt.example.com{PATH}?Qualifier=a%20b"),
            headers.into_iter(),
            SignableBody::Bytes(BODY),
        );
        let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
        let mut request = Request::post(format!("{PATH}?Qualifier=a%20b"))
            .header("host", "rt.example.com")
            .header("x-amz-invocation-type", "Event")
            .header("x-forwarded-for", "203.0.113.9")
            .body(BODY.to_vec())
            .unwrap();
        instructions.apply_to_request_http1x(&mut request);
        request
    }

    fn change(change: impl FnOnce(&mut Request<Vec<u8>>)) -> Result<(), Refused> {
        let mut request = signed(&keys()[0], SERVICE, now());
        change(&mut request);
        verify(&keys(), &request, now())
    }

    /// R-DIFF-7, R-OPS-6
    #[test]
    fn what_was_signed_with_one_of_the_keys_is_permitted() {
        for key in keys() {
            let request = signed(&key, SERVICE, now());
            assert_eq!(verify(&keys(), &request, now()), Ok(()));
            assert_eq!(verify(&[], &request, now()), Err(Refused::Unknown));
        }
    }

    /// R-DIFF-7
    #[test]
    fn nothing_that_was_signed_may_be_another() {
        assert_eq!(change(|_| {}), Ok(()));
        assert_eq!(
            change(|it| it.body_mut().push(b' ')),
            Err(Refused::Mismatch)
        );
        assert_eq!(
            change(|it| *it.method_mut() = http::Method::PUT),
            Err(Refused::Mismatch)
        );
        for path in [
            "/",
            "/2015-03-31/functions/other/invocations?Qualifier=a%20b",
            PATH,
        ] {
            assert_eq!(
                change(|it| *it.uri_mut() = path.parse().unwrap()),
                Err(Refused::Mismatch)
            );
        }
        for (name, value) in [
            ("host", "other.example.com"),
            ("x-amz-invocation-type", "DryRun"),
        ] {
            let value = http::HeaderValue::from_static(value);
            let mismatch = change(|it| drop(it.headers_mut().insert(name, value.clone())));
            assert_eq!(mismatch, Err(Refused::Mismatch));
            let twice = change(|it| assert!(it.headers_mut().append(name, value)));
            assert_eq!(twice, Err(Refused::Mismatch));
            let missing = change(|it| drop(it.headers_mut().remove(name)));
            assert_eq!(missing, Err(Refused::Mismatch));
        }
        // What was not signed is nobody's.
        let other = http::HeaderValue::from_static("198.51.100.1");
        assert_eq!(
            change(|it| drop(it.headers_mut().insert("x-forwarded-for", other))),
            Ok(())
        );
    }

    /// R-DIFF-7
    #[test]
    fn a_signature_is_good_for_a_quarter_of_an_hour_before_and_after() {
        let request = signed(&keys()[0], SERVICE, now());
        for (seconds, outcome) in [
            (0, Ok(())),
            (900, Ok(())),
            (-900, Ok(())),
            (901, Err(Refused::Expired)),
            (-901, Err(Refused::Expired)),
        ] {
            let later = now() + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(verify(&keys(), &request, later), outcome, "{seconds}");
        }
    }

    /// R-DIFF-7
    #[test]
    fn a_signature_for_something_else_is_none() {
        let request = signed(&keys()[0], "s3", now());
        assert_eq!(verify(&keys(), &request, now()), Err(Refused::Scope));
        let wrong = FunctionKey {
            secret_access_key: keys()[1].secret_access_key.clone(),
            ..keys()[0].clone()
        };
        let request = signed(&wrong, SERVICE, now());
        assert_eq!(verify(&keys(), &request, now()), Err(Refused::Mismatch));
        let date = http::HeaderValue::from_static("20260829T123600Z");
        assert_eq!(
            change(|it| drop(it.headers_mut().insert("x-amz-date", date))),
            Err(Refused::Scope)
        );
    }

    /// R-DIFF-7
    #[test]
    fn a_header_that_lacks_something_is_incomplete() {
        let whole = signed(&keys()[0], SERVICE, now());
        let whole = whole.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
        let broken = [
            String::new(),
            "AWS4-HMAC-SHA256".into(),
            whole.replace("Signature=", "Sign="),
            whole.replace("SignedHeaders=host;", "SignedHeaders="),
            whole.replace("x-amz-date;", "").replace(";x-amz-date", ""),
            whole.replace("/aws4_request", ""),
            whole.replace("Credential=AKIDONE/", "Credential="),
            format!("{whole}, Signature=00"),
            whole.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        ];
        for header in broken {
            let value = http::HeaderValue::try_from(&header).unwrap();
            assert_eq!(
                change(|it| drop(it.headers_mut().insert(AUTHORIZATION, value))),
                Err(Refused::Incomplete),
                "{header}"
            );
        }
        for date in [
            "",
            "20260830T123600",
            "2026-08-30T12:36:00Z",
            "20260830T126100Z",
        ] {
            let value = http::HeaderValue::from_static(date);
            assert_eq!(
                change(|it| drop(it.headers_mut().insert("x-amz-date", value))),
                Err(Refused::Incomplete)
            );
        }
        let empty = whole.split("Signature=").next().unwrap().to_owned() + "Signature=";
        let value = http::HeaderValue::try_from(empty).unwrap();
        assert_eq!(
            change(|it| drop(it.headers_mut().insert(AUTHORIZATION, value))),
            Err(Refused::Mismatch)
        );
    }
}
