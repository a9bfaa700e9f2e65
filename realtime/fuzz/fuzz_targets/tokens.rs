//! Tokens of anybody, and correctly signed ones whose header or payload is anything: nothing is taken that is not signed
//! as a whole, usable now, and within the limits of what claims may say.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use realtime::auth::{Refusal, SigningKey, Verifier};
use realtime::claims::{Claims, Grants};
use realtime::names;

const SECRET: &[u8] = b"a secret for fuzzing, of no use elsewhere";
const HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT","kid":"1"}"#;

static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::from_second(1_800_000_000).expect("a time"));

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let key = SigningKey::parse("HS256", "1", &STANDARD.encode(SECRET)).expect("a key");
    Verifier::new(vec![key], None, None, Duration::ZERO)
});

fn signed(header: &[u8], payload: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header), encode(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn verify(token: &str) -> Result<Claims, Refusal> {
    let outcome = VERIFIER.verify(token, *NOW);
    match &outcome {
        Err(refusal) => {
            assert!(!refusal.cause().is_empty());
            let _ = refusal.to_string();
        }
        Ok(claims) => accepted(token, claims),
    }
    outcome
}

fn accepted(token: &str, claims: &Claims) {
    assert!(claims.expires > *NOW);
    assert!(claims.uid.as_ref().is_none_or(|uid| !uid.is_empty()));
    let characters = |uid: &str| uid.chars().count();
    assert!(
        claims
            .uid
            .as_deref()
            .is_none_or(|uid| characters(uid) <= names::UID_CHARACTERS)
    );
    assert!(
        claims
            .umd
            .as_ref()
            .is_none_or(|umd| umd.as_str().len() <= names::UMD_BYTES)
    );
    let seconds = claims.heartbeat_timeout.map(|timeout| timeout.as_secs());
    assert!(seconds.is_none_or(|seconds| (5..=600).contains(&seconds)));
    assert!(claims.single_use.as_ref().is_none_or(|jti| !jti.is_empty()));
    let _ = format!("{claims:?}");

    let again = Claims::parse(claims.payload()).expect("a payload that was read before");
    assert_eq!(again.scope, claims.scope);
    assert_eq!(again.expires, claims.expires);
    for channel in claims
        .auto_subscribe()
        .chain(["a", "presence.room", "übung/1"])
    {
        let grants = |subscription| Grants {
            connect: claims,
            subscription,
            channel,
        };
        let (alone, twice) = (grants(None), grants(Some(claims)));
        assert_eq!(
            alone.subscribe(),
            twice.subscribe(),
            "the same claims twice say the same"
        );
        let (alone, twice) = (alone.message("e"), twice.message("e"));
        assert_eq!(alone.publish, twice.publish);
        assert_eq!(alone.broadcast, twice.broadcast);
        let _ = grants(None).storage("k");
        let _ = grants(None).alias();
        let _ = claims.channel_of_alias(channel);
    }

    // A token with another byte anywhere is another token.
    let at = token.len() / 2;
    let mut other = token.to_owned().into_bytes();
    other[at] = if other[at] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).expect("tokens are ASCII");
    assert!(
        VERIFIER.verify(&other, *NOW).is_err(),
        "a changed token was taken"
    );
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            if let Ok(text) = str::from_utf8(data) {
                let _ = verify(text);
            }
        }
        1 => {
            let line = data
                .iter()
                .position(|&byte| byte == b'\n')
                .unwrap_or(data.len());
            let (header, payload) = data.split_at(line);
            let _ = verify(&signed(header, payload.get(1..).unwrap_or_default()));
        }
        _ => {
            let outcome = verify(&signed(HEADER, data));
            if let Ok(text) = str::from_utf8(data)
                && Claims::parse(text).is_err()
            {
                assert!(outcome.is_err());
            }
        }
    }
});
