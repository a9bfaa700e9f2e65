//! Signing keys as operators configure them, and the algorithms of section 3.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use thiserror::Error;

/// Smallest RSA modulus in bits (RFC 7518 section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// An algorithm with which tokens may be signed (R-AUTH-1). There is no other, so `none` can't be named (R-AUTH-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// All of them, as they are listed to operators.
    pub const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The algorithm of this name, exactly as a token's `alg` has it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Its name in a token's `alg`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// How its signatures are made from a secret, if it is one with a secret.
    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    /// How its signatures are verified with a public key, and the kind of key in the words of an operator.
    fn public(self) -> Option<(&'static dyn VerificationAlgorithm, &'static str)> {
        let rsa = "an RSA key of 2048 to 8192 bits";
        Some(match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
            Self::Rs256 => (&signature::RSA_PKCS1_2048_8192_SHA256, rsa),
            Self::Rs384 => (&signature::RSA_PKCS1_2048_8192_SHA384, rsa),
            Self::Rs512 => (&signature::RSA_PKCS1_2048_8192_SHA512, rsa),
            Self::Ps256 => (&signature::RSA_PSS_2048_8192_SHA256, rsa),
            Self::Ps384 => (&signature::RSA_PSS_2048_8192_SHA384, rsa),
            Self::Ps512 => (&signature::RSA_PSS_2048_8192_SHA512, rsa),
            // A signature in a token is the two numbers one after the other, not ASN.1 (RFC 7518 section 3.4).
            Self::Es256 => (
                &signature::ECDSA_P256_SHA256_FIXED,
                "a key on the curve P-256",
            ),
            Self::Es384 => (
                &signature::ECDSA_P384_SHA384_FIXED,
                "a key on the curve P-384",
            ),
            Self::Es512 => (
                &signature::ECDSA_P521_SHA512_FIXED,
                "a key on the curve P-521",
            ),
            Self::EdDsa => (&signature::ED25519, "an Ed25519 key"),
        })
    }
}

/// Why a configured key can't be used: what is wrong, and what is expected. Never contains key material.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The method is not one of [`Algorithm::ALL`].
    #[error("`{0}` is not a signing method; it is one of {methods}", methods = methods())]
    Method(String),
    /// Nothing was given.
    #[error("the key is empty; {method} needs {expected}")]
    Empty {
        /// The configured method.
        method: &'static str,
        /// What it needs.
        expected: &'static str,
    },
    /// The key is not Base64.
    #[error("the key is not Base64; {method} needs {expected}")]
    Base64 {
        /// The configured method.
        method: &'static str,
        /// What it needs.
        expected: &'static str,
    },
    /// A PEM as it is in its file.
    #[error(
        "the key is a PEM itself; give the Base64 encoding of the PEM (`base64 FILE` prints it)"
    )]
    PlainPem,
    /// A PEM where a secret is expected: whoever has the public key could sign tokens.
    #[error(
        "the key is a PEM, which {method} would use as its secret; choose the method of that key, such as RS256"
    )]
    PemAsSecret {
        /// The configured method.
        method: &'static str,
    },
    /// Decoded, but no PEM.
    #[error("the decoded key is not a PEM; {method} needs {PUBLIC_KEY}")]
    Pem {
        /// The configured method.
        method: &'static str,
    },
    /// A PEM of another kind than a public key.
    #[error(
        "the PEM is a `{label}`; {method} needs a `PUBLIC KEY`{}",
        label_hint(label)
    )]
    Label {
        /// The configured method.
        method: &'static str,
        /// What the PEM says that it is.
        label: String,
    },
    /// A public key of another kind or size than the method needs, or a damaged one.
    #[error("the public key does not fit the method; {method} needs {expected}")]
    Kind {
        /// The configured method.
        method: &'static str,
        /// The kind of key that it needs.
        expected: &'static str,
    },
}

const PEM_START: &str = "-----BEGIN ";
const SECRET: &str = "the Base64 encoding of the secret's bytes";
const PUBLIC_KEY: &str = "the Base64 encoding of a PEM public key";

fn methods() -> String {
    Algorithm::ALL.map(Algorithm::name).join(", ")
}

fn label_hint(label: &str) -> &'static str {
    match label {
        "CERTIFICATE" => " (`openssl x509 -pubkey -noout -in FILE` prints it)",
        _ if label.ends_with("PRIVATE KEY") => {
            " (`openssl pkey -pubout -in FILE` prints it; a private key belongs to the issuer of tokens alone)"
        }
        _ => "",
    }
}

/// One key that may verify tokens. Its material never appears in its `Debug` form.
#[derive(Clone)]
pub struct SigningKey {
    /// Which tokens it verifies.
    pub(super) algorithm: Algorithm,
    /// The `kid` of the tokens it verifies; nothing for all.
    pub(super) id: Option<Box<str>>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl SigningKey {
    /// Reads a key as it is configured: its method, its id (blank for none), and the Base64 encoding of the secret's bytes
    /// or of a PEM public key (R-AUTH-2 to R-AUTH-6). White space in the encoding and the two characters `\n` are skipped,
    /// the padding may be left out, and the URL-safe alphabet is taken as well. PEM bodies may be `PUBLIC KEY` or
    /// `RSA PUBLIC KEY`.
    ///
    /// # Errors
    /// What is wrong with the method or the key, and what is expected.
    pub fn parse(method: &str, id: &str, encoded: &str) -> Result<Self, KeyError> {
        let method = method.trim();
        let algorithm =
            Algorithm::named(method).ok_or_else(|| KeyError::Method(method.to_owned()))?;
        let method = algorithm.name();
        let id = Some(id.trim()).filter(|id| !id.is_empty()).map(Into::into);
        let expected = if algorithm.hmac().is_some() {
            SECRET
        } else {
            PUBLIC_KEY
        };

        if encoded.trim_start().starts_with(PEM_START) {
            return Err(KeyError::PlainPem);
        }
        let bytes = decode(encoded).ok_or(KeyError::Base64 { method, expected })?;
        if bytes.is_empty() {
            return Err(KeyError::Empty { method, expected });
        }
        let material = if let Some(hmac) = algorithm.hmac() {
            if bytes.trim_ascii_start().starts_with(PEM_START.as_bytes()) {
                return Err(KeyError::PemAsSecret { method });
            }
            Material::Secret(Box::new(hmac::Key::new(hmac, &bytes)))
        } else {
            Material::Public(public_key(algorithm, &bytes)?)
        };
        Ok(Self {
            algorithm,
            id,
            material,
        })
    }

    /// A token over these claims, signed with this key and naming its id; nothing if the key is a public one, which can't
    /// sign.
    #[must_use]
    pub fn mint(&self, claims: &serde_json::Value) -> Option<String> {
        let Material::Secret(key) = &self.material else {
            return None;
        };
        let mut header = serde_json::json!({"alg": self.algorithm.name(), "typ": "JWT"});
        if let Some(id) = &self.id {
            header["kid"] = (&**id).into();
        }
        Some(sign(key, &header, claims))
    }

    /// Whether the signature is this key's over the message. Takes the same time for every wrong HMAC (R-AUTH-19).
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            algorithm,
            id,
            material: _,
        } = self;
        formatter
            .debug_struct("SigningKey")
            .field("algorithm", algorithm)
            .field("id", id)
            .finish_non_exhaustive()
    }
}

/// Decodes what operators paste: in lines, with the `\n` of a JSON string, with or without padding.
fn decode(encoded: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);

    let mut text = encoded.replace("\\n", "");
    text.retain(|character| !character.is_whitespace());
    let text = text.replace('-', "+").replace('_', "/");
    STANDARD.decode(text).ok()
}

fn public_key(algorithm: Algorithm, pem: &[u8]) -> Result<ParsedPublicKey, KeyError> {
    let method = algorithm.name();
    let (label, der) = decode_pem(pem).ok_or(KeyError::Pem { method })?;
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(KeyError::Label {
            method,
            label: label.to_owned(),
        });
    }
    let (verification, expected) = algorithm.public().ok_or(KeyError::Pem { method })?;
    let unfit = KeyError::Kind { method, expected };
    let key = ParsedPublicKey::new(verification, &der).map_err(|_| unfit.clone())?;
    if matches!(method.as_bytes(), [b'R' | b'P', b'S', ..])
        && rsa_bits(&key).is_none_or(|bits| bits < MIN_RSA_BITS)
    {
        return Err(unfit);
    }
    Ok(key)
}

/// The library refuses small keys only when they verify, which would leave the operator with tokens that are refused.
fn rsa_bits(key: &ParsedPublicKey) -> Option<usize> {
    let der = key.as_der().ok()?;
    PublicEncryptingKey::from_der(der.as_ref())
        .ok()
        .map(|key| key.key_size_bits())
}

/// The label and the content of the first PEM.
fn decode_pem(pem: &[u8]) -> Option<(&str, Vec<u8>)> {
    let mut decoder = pem_rfc7468::Decoder::new_detect_wrap(pem.trim_ascii()).ok()?;
    let mut der = Vec::new();
    decoder.decode_to_end(&mut der).ok()?;
    Some((decoder.type_label(), der))
}

/// A token over these claims, with this header, signed with a secret.
pub(super) fn sign(
    key: &hmac::Key,
    header: &serde_json::Value,
    claims: &serde_json::Value,
) -> String {
    let signed = format!(
        "{}.{}",
        PART.encode(header.to_string()),
        PART.encode(claims.to_string())
    );
    let signature = hmac::sign(key, signed.as_bytes());
    format!("{signed}.{}", PART.encode(signature))
}

/// How the parts of a token are encoded (RFC 7515 section 2): the URL-safe alphabet, without padding, and only in the one
/// canonical way, so that no two tokens differ and mean the same.
pub(super) const PART: GeneralPurpose = general_purpose::URL_SAFE_NO_PAD;
