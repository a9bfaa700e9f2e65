//! Signs tokens: for `realtime token` only, the server itself never does.

use crate::auth::Algorithm;
use anyhow::{Context, anyhow, bail};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// Base64 as it is configured (R-AUTH-3), with or without padding.
const ENCODED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key with which tokens are signed.
pub(super) struct Signer {
    algorithm: Algorithm,
    id: Option<String>,
    key: Key,
}

enum Key {
    Secret(Box<hmac::Key>),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Curve(Box<EcdsaKeyPair>),
    Edwards(Ed25519KeyPair),
}

impl Signer {
    /// `key` is the Base64 of a secret for HS256 to HS512, else a private key as PEM, or the Base64 of that.
    pub fn new(algorithm: Algorithm, id: Option<String>, key: &str) -> anyhow::Result<Self> {
        let key = match secret_algorithm(algorithm) {
            Some(hmac) => {
                if key.contains("-----BEGIN") {
                    bail!(
                        "{} needs the Base64 of a secret, this is a PEM; name its algorithm with --method",
                        algorithm.name()
                    );
                }
                let secret = decode(key).context("the key is not Base64")?;
                if secret.is_empty() {
                    bail!("the key is empty");
                }
                Key::Secret(Box::new(hmac::Key::new(hmac, &secret)))
            }
            None => private_key(algorithm, key)?,
        };
        Ok(Self { algorithm, id, key })
    }

    /// The token with these claims (RFC 7515, section 3.1).
    pub fn sign(&self, claims: &str) -> anyhow::Result<String> {
        let mut header = json!({"alg": self.algorithm.name(), "typ": "JWT"});
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            part(header.to_string().as_bytes()),
            part(claims.as_bytes())
        );
        let message = signed.as_bytes();
        let random = SystemRandom::new();
        let failed = |_| anyhow!("the key does not sign");
        let signature = match &self.key {
            Key::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Key::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature)
                    .map_err(failed)?;
                signature
            }
            Key::Curve(key) => key
                .sign(&random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Key::Edwards(key) => key.sign(message).as_ref().to_vec(),
        };
        Ok(format!("{signed}.{}", part(&signature)))
    }
}

fn decode(text: &str) -> anyhow::Result<Vec<u8>> {
    let text: String = text.replace("\\n", "").split_whitespace().collect();
    Ok(ENCODED.decode(text.replace('-', "+").replace('_', "/"))?)
}

fn secret_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
        Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
        Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn private_key(algorithm: Algorithm, text: &str) -> anyhow::Result<Key> {
    let pem = if text.contains("-----BEGIN") {
        text.as_bytes().to_vec()
    } else {
        decode(text).unwrap_or_default()
    };
    let name = algorithm.name();
    let der = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| anyhow!("{name} needs a private key as PEM; `openssl genpkey` makes one"))?;
    let unfit = |e| anyhow!("this private key does not fit {name}: {e}");
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            der => RsaKeyPair::from_pkcs8(der.secret_der()),
        };
        Ok(Key::Rsa(Box::new(key.map_err(unfit)?), encoding))
    };
    let curve = |algorithm: &'static EcdsaSigningAlgorithm| {
        let key = match &der {
            PrivateKeyDer::Sec1(der) => {
                EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der())
            }
            der => EcdsaKeyPair::from_pkcs8(algorithm, der.secret_der()),
        };
        Ok(Key::Curve(Box::new(key.map_err(unfit)?)))
    };
    match algorithm {
        Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
        Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
        Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
        Algorithm::Es256 => curve(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::Es384 => curve(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::Es512 => curve(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        // Keys of `openssl genpkey` hold no public part to check against.
        Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_der())
            .map(Key::Edwards)
            .map_err(unfit),
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => bail!("{name} needs a secret"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{SigningKey, Verifier};
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::KeyPair;
    use base64::engine::general_purpose::STANDARD;
    use jiff::Timestamp;
    use std::time::Duration;

    const CLAIMS: &str = r#"{"scope":"connect","exp":4000000000}"#;

    fn pem(label: &str, der: &[u8]) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    }

    /// A private key and the public one as it is configured.
    fn keys(algorithm: Algorithm) -> (String, String) {
        let (private, public) = match algorithm {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                return ("c2VzYW1l".into(), "c2VzYW1l".into());
            }
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => {
                let curve = match algorithm {
                    Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                    _ => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
                };
                let key = EcdsaKeyPair::generate(curve).unwrap();
                let public = key.public_key().as_der().unwrap().as_ref().to_vec();
                (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public)
            }
            Algorithm::EdDsa => {
                let key = Ed25519KeyPair::generate().unwrap();
                let public = key.public_key().as_der().unwrap().as_ref().to_vec();
                (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public)
            }
            _ => {
                let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let public =
                    AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key())
                        .unwrap();
                let private = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
                (private.as_ref().to_vec(), public.as_ref().to_vec())
            }
        };
        (
            pem("PRIVATE KEY", &private),
            STANDARD.encode(pem("PUBLIC KEY", &public)),
        )
    }

    /// R-AUTH-1, R-AUTH-4
    #[test]
    fn a_token_of_every_algorithm_is_accepted_by_the_server() {
        for algorithm in Algorithm::ALL {
            let (private, public) = keys(algorithm);
            let token = Signer::new(algorithm, Some("k1".into()), &private)
                .unwrap()
                .sign(CLAIMS)
                .unwrap();
            let key = SigningKey::parse(algorithm.name(), "k1", &public).unwrap();
            let verifier = Verifier::new(vec![key], None, None, Duration::ZERO);
            let verified = verifier.verify(&token, Timestamp::from_second(1_800_000_000).unwrap());
            assert!(
                verified.is_ok(),
                "{}: {:?}",
                algorithm.name(),
                verified.err()
            );
        }
    }

    #[test]
    fn a_key_that_does_not_fit_its_algorithm_is_refused_in_words() {
        let refusal = |algorithm, key: &str| {
            format!("{:#}", Signer::new(algorithm, None, key).err().unwrap())
        };
        let (curve, _) = keys(Algorithm::Es256);
        assert_eq!(
            refusal(Algorithm::Hs256, &curve),
            "HS256 needs the Base64 of a secret, this is a PEM; name its algorithm with --method"
        );
        assert!(
            refusal(Algorithm::Rs256, &curve).starts_with("this private key does not fit RS256: ")
        );
        assert!(
            refusal(Algorithm::Es384, &curve).starts_with("this private key does not fit ES384: ")
        );
        assert!(
            refusal(Algorithm::EdDsa, "c2VzYW1l").starts_with("EdDSA needs a private key as PEM")
        );
        assert_eq!(refusal(Algorithm::Hs512, " "), "the key is empty");
    }
}
