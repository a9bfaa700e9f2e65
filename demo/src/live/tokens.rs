//! Who issues the load's tokens: an Ed25519 key of its own for each run, of which servers get the public half only.

use anyhow::Context;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than any run.
const GOOD_FOR: Duration = Duration::from_secs(12 * 3600);

/// What stands before the 32 bytes of an Ed25519 public key in its DER form (RFC 8410, section 4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Issues tokens.
#[derive(Debug)]
pub struct Issuer {
    key: Ed25519KeyPair,
    expires: u64,
}

impl Issuer {
    /// With a new key.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new() -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            key: Ed25519KeyPair::generate().context("a key can't be made")?,
            expires: (now + GOOD_FOR).as_secs(),
        })
    }

    /// The public key as the server's setting `signing_keys.1.key` wants it, for the method `EdDSA`: Base64 of a PEM.
    pub fn public_key(&self) -> String {
        let der = [&SPKI, self.key.public_key().as_ref()].concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        );
        STANDARD.encode(pem)
    }

    /// A token over these claims, and an expiry.
    pub fn issue(&self, mut claims: Value) -> String {
        claims["exp"] = self.expires.into();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({"alg": "EdDSA", "typ": "JWT"})),
            part(&claims)
        );
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
