//! Verifies tokens: is this text signed by a configured key, for us, and usable now? (section 3 of the specification)
//!
//! What a token then permits is for [`crate::claims`] to say. Nothing here reads a clock or keeps state: whether a
//! single-use token is spent is known to the engine, and whether it names the right connection to the hub.

mod key;

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use jiff::Timestamp;
use thiserror::Error;

use self::key::PART;
pub use self::key::{Algorithm, KeyError, SigningKey};

use crate::claims::{self, Claims, ClaimsError, Object, Registered};

/// Most bytes of a token. The protocol asks for 8 KiB at least (R-LIM-20).
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a token is refused. The sentences are for operators and never quote the token; clients are told only what
/// R-CONN-6 and R-CONN-7 tell apart (R-AUTH-19).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three canonical base64url parts, of which the first is a JSON object that names an algorithm.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The algorithm is not supported, or no key that the token may use has it (R-AUTH-7, R-AUTH-8).
    #[error("the token's algorithm is not that of a configured key")]
    Algorithm,
    /// No key is configured, or none with the token's `kid` (R-AUTH-9, R-AUTH-18).
    #[error("no signing key is configured for the token's key id")]
    UnknownKey,
    /// No eligible key verifies the signature.
    #[error("the token's signature is wrong")]
    Signature,
    /// Used at or after its `exp` (R-CLAIM-2).
    #[error("the token has expired")]
    Expired,
    /// Used before its `nbf` (R-CLAIM-4).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Not for the configured audience (R-CLAIM-6).
    #[error("the token is for another audience")]
    Audience,
    /// Not by the configured issuer (R-CLAIM-7).
    #[error("the token is by another issuer")]
    Issuer,
    /// Correctly signed, but what it claims makes it invalid. The source names the claim.
    #[error("the token's claims are invalid")]
    Claims(#[source] ClaimsError),
}

impl Refusal {
    /// A short and stable label, for metrics and logs.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Claims(_) => "claims",
        }
    }
}

/// Everything that a token is checked against. Replaced as a whole when the configuration changes (R-AUTH-16).
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<SigningKey>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway: Duration,
}

impl Verifier {
    /// Keys in any order and number; the audience and issuer that every token must name, if any; and by how much `exp` and
    /// `nbf` may be missed, for clocks that disagree (R-CLAIM-3).
    #[must_use]
    pub fn new(
        keys: Vec<SigningKey>,
        audience: Option<String>,
        issuer: Option<String>,
        leeway: Duration,
    ) -> Self {
        Self {
            keys,
            audience,
            issuer,
            leeway,
        }
    }

    /// Whether any token can be accepted at all (R-AUTH-18).
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The claims of a token that is signed by a configured key and usable now, wherever its scope permits.
    ///
    /// # Errors
    /// The first check that it fails. Claims are only looked at once the signature has been found good.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let token = Token::split(token)?;
        self.check_signature(&token)?;

        let payload = PART
            .decode(token.payload)
            .map_err(|_| Refusal::Malformed("the payload is not base64url"))?;
        let payload =
            str::from_utf8(&payload).map_err(|_| Refusal::Malformed("the payload is not UTF-8"))?;
        let (claims, registered) = claims::parse_registered(payload).map_err(Refusal::Claims)?;
        self.check_time(&claims, &registered, now)?;
        self.check_parties(&registered)?;
        Ok(claims)
    }

    fn check_signature(&self, token: &Token<'_>) -> Result<(), Refusal> {
        let header = Header::parse(token.header)?;
        let algorithm = Algorithm::named(&header.algorithm).ok_or(Refusal::Algorithm)?;
        let signature = PART.decode(token.signature);
        let signature =
            signature.map_err(|_| Refusal::Malformed("the signature is not base64url"))?;

        let mut refusal = Refusal::UnknownKey;
        for key in self
            .keys
            .iter()
            .filter(|key| key.id.is_none() || header.may_use(key.id.as_deref()))
        {
            if key.algorithm != algorithm {
                // Once a signature has been tried, that it is wrong says more.
                if refusal == Refusal::UnknownKey {
                    refusal = Refusal::Algorithm;
                }
            } else if key.verifies(token.signed.as_bytes(), &signature) {
                return Ok(());
            } else {
                refusal = Refusal::Signature;
            }
        }
        Err(refusal)
    }

    fn check_time(
        &self,
        claims: &Claims,
        registered: &Registered,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let leeway = i128::try_from(self.leeway.as_nanos()).unwrap_or(i128::MAX / 2);
        let now = now.as_nanosecond();
        if now >= claims.expires.as_nanosecond() + leeway {
            return Err(Refusal::Expired);
        }
        match registered.not_before {
            Some(not_before) if now < not_before.as_nanosecond() - leeway => {
                Err(Refusal::NotYetValid)
            }
            _ => Ok(()),
        }
    }

    fn check_parties(&self, registered: &Registered) -> Result<(), Refusal> {
        if let Some(audience) = &self.audience
            && !registered
                .audience
                .iter()
                .any(|named| **named == **audience)
        {
            return Err(Refusal::Audience);
        }
        match &self.issuer {
            Some(issuer) if registered.issuer.as_deref() != Some(issuer) => Err(Refusal::Issuer),
            _ => Ok(()),
        }
    }
}

/// The parts of a token in compact serialisation (RFC 7515 section 3.1).
struct Token<'t> {
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
    /// The header and payload with the dot between them, which the signature is over.
    signed: &'t str,
}

impl<'t> Token<'t> {
    fn split(token: &'t str) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed("it is not three parts with dots between them");
        let Some((signed, signature)) = token.rsplit_once('.') else {
            return Err(malformed);
        };
        match signed.split_once('.') {
            Some((header, payload)) if !payload.contains('.') => Ok(Self {
                header,
                payload,
                signature,
                signed,
            }),
            _ => Err(malformed),
        }
    }
}

/// What matters of a token's header.
struct Header {
    algorithm: String,
    key_id: Option<String>,
}

impl Header {
    fn parse(encoded: &str) -> Result<Self, Refusal> {
        let header = PART
            .decode(encoded)
            .map_err(|_| Refusal::Malformed("the header is not base64url"))?;
        let header =
            str::from_utf8(&header).map_err(|_| Refusal::Malformed("the header is not UTF-8"))?;
        let header = Object::parse(header)
            .map_err(|_| Refusal::Malformed("the header is not a JSON object"))?;
        let string = |name, refusal| match header.get(name) {
            None => Ok(None),
            Some(value) => serde_json::from_str::<String>(value.get())
                .map(Some)
                .map_err(|_| Refusal::Malformed(refusal)),
        };
        // Extensions that must be understood are not (RFC 7515 section 4.1.11).
        if header.get("crit").is_some() {
            return Err(Refusal::Malformed("the header requires an extension"));
        }
        if string("typ", "`typ` is not a string")?
            .is_some_and(|kind| !kind.eq_ignore_ascii_case("JWT"))
        {
            return Err(Refusal::Malformed("`typ` is not `JWT`"));
        }
        let algorithm = string("alg", "`alg` is not a string")?
            .ok_or(Refusal::Malformed("`alg` is missing"))?;
        Ok(Self {
            algorithm,
            key_id: string("kid", "`kid` is not a string")?,
        })
    }

    /// Whether a key with this id is to be tried: the ids are equal, or the token names none (R-AUTH-9, R-AUTH-11).
    fn may_use(&self, id: Option<&str>) -> bool {
        self.key_id.is_none() || self.key_id.as_deref() == id
    }
}

/// A token over these claims, signed with the bytes of a secret by HS256, without a key id. [`SigningKey::mint`] signs as
/// a configured key does.
#[must_use]
pub fn mint_hs256(secret: &[u8], claims: &serde_json::Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    key::sign(
        &key,
        &serde_json::json!({"alg": "HS256", "typ": "JWT"}),
        claims,
    )
}

#[cfg(test)]
mod tests;
