//! Which tokens are accepted with which keys, and that nothing about a key or a token leaks out of a refusal.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"open sesame";

type Sign = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// What an issuer holds.
struct Issuer {
    algorithm: Algorithm,
    /// As the operator configures it.
    encoded: String,
    sign: Box<Sign>,
}

impl Issuer {
    fn key(&self, id: &str) -> SigningKey {
        SigningKey::parse(self.algorithm.name(), id, &self.encoded).expect("a good key")
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            PART.encode(header.to_string()),
            PART.encode(claims.to_string())
        );
        format!("{signed}.{}", PART.encode((self.sign)(signed.as_bytes())))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn public_pem(der: &PublicKeyX509Der<'_>) -> String {
    pem("PUBLIC KEY", der.as_ref())
}

static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

fn rsa(algorithm: Algorithm, encoding: &'static dyn signature::RsaEncoding) -> Issuer {
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; RSA.public_modulus_len()];
        RSA.sign(encoding, &SystemRandom::new(), message, &mut signature)
            .unwrap();
        signature
    };
    let encoded = STANDARD.encode(public_pem(&RSA.public_key().as_der().unwrap()));
    Issuer {
        algorithm,
        encoded,
        sign: Box::new(sign),
    }
}

fn ecdsa(algorithm: Algorithm, signing: &'static signature::EcdsaSigningAlgorithm) -> Issuer {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let encoded = STANDARD.encode(public_pem(&pair.public_key().as_der().unwrap()));
    let sign = move |message: &[u8]| {
        pair.sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    };
    Issuer {
        algorithm,
        encoded,
        sign: Box::new(sign),
    }
}

fn hmac_issuer(algorithm: Algorithm, hmac: hmac::Algorithm) -> Issuer {
    let sign = move |message: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac, SECRET), message)
            .as_ref()
            .to_vec()
    };
    Issuer {
        algorithm,
        encoded: STANDARD.encode(SECRET),
        sign: Box::new(sign),
    }
}

fn hs256() -> Issuer {
    hmac_issuer(Algorithm::Hs256, hmac::HMAC_SHA256)
}

/// One issuer for each algorithm; those with RSA share a key, as an operator's two methods might.
static ISSUERS: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    let ed25519 = {
        let pair = Ed25519KeyPair::generate().unwrap();
        let encoded = STANDARD.encode(public_pem(&pair.public_key().as_der().unwrap()));
        let sign = move |message: &[u8]| pair.sign(message).as_ref().to_vec();
        Issuer {
            algorithm: Algorithm::EdDsa,
            encoded,
            sign: Box::new(sign),
        }
    };
    vec![
        hs256(),
        hmac_issuer(Algorithm::Hs384, hmac::HMAC_SHA384),
        hmac_issuer(Algorithm::Hs512, hmac::HMAC_SHA512),
        rsa(Algorithm::Rs256, &signature::RSA_PKCS1_SHA256),
        rsa(Algorithm::Rs384, &signature::RSA_PKCS1_SHA384),
        rsa(Algorithm::Rs512, &signature::RSA_PKCS1_SHA512),
        rsa(Algorithm::Ps256, &signature::RSA_PSS_SHA256),
        rsa(Algorithm::Ps384, &signature::RSA_PSS_SHA384),
        rsa(Algorithm::Ps512, &signature::RSA_PSS_SHA512),
        ecdsa(
            Algorithm::Es256,
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        ),
        ecdsa(
            Algorithm::Es384,
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        ),
        ecdsa(
            Algorithm::Es512,
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ),
        ed25519,
    ]
});

fn now() -> Timestamp {
    "2027-03-01T10:00:00Z".parse().unwrap()
}

fn claims() -> Value {
    json!({"exp": now().as_second() + 60, "scope": "connect", "uid": "ana"})
}

fn verifier(keys: Vec<SigningKey>) -> Verifier {
    Verifier::new(keys, None, None, Duration::ZERO)
}

/// What becomes of a token with these claims, signed and checked with one key.
fn outcome(claims: Value) -> Result<Claims, Refusal> {
    verifier(vec![hs256().key("")]).verify(&mint_hs256(SECRET, &claims), now())
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

/// R-AUTH-1, R-AUTH-4, R-AUTH-6
#[test]
fn every_listed_algorithm_is_accepted_with_its_key() {
    assert_eq!(
        ISSUERS
            .iter()
            .map(|issuer| issuer.algorithm)
            .collect::<Vec<_>>(),
        Algorithm::ALL
    );
    for issuer in ISSUERS.iter() {
        let name = issuer.algorithm.name();
        let token = issuer.token(&json!({"alg": name, "typ": "JWT"}), &claims());
        let verified = verifier(vec![issuer.key("")]).verify(&token, now());
        assert_eq!(verified.expect(name).uid.as_deref(), Some("ana"), "{name}");

        // R-AUTH-14: in the signature as well as in what is signed.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut wrong = PART.decode(signature).unwrap();
        for at in [0, wrong.len() / 2, wrong.len() - 1] {
            wrong[at] ^= 1;
            let token = format!("{signed}.{}", PART.encode(&wrong));
            assert_eq!(
                verifier(vec![issuer.key("")])
                    .verify(&token, now())
                    .unwrap_err(),
                Refusal::Signature,
                "{name}"
            );
            wrong[at] ^= 1;
        }
        for cut in [&wrong[..wrong.len() - 1], &[], &[&wrong[..], &[0]].concat()] {
            let token = format!("{signed}.{}", PART.encode(cut));
            assert_eq!(
                verifier(vec![issuer.key("")])
                    .verify(&token, now())
                    .unwrap_err(),
                Refusal::Signature,
                "{name}"
            );
        }
    }
}

/// R-AUTH-7
#[test]
fn a_token_of_another_algorithm_than_its_key_is_refused() {
    for issuer in ISSUERS.iter() {
        for other in ISSUERS
            .iter()
            .filter(|other| other.algorithm != issuer.algorithm)
        {
            // Truly signed so, and merely said to be.
            for header in [
                json!({"alg": issuer.algorithm.name()}),
                json!({"alg": other.algorithm.name()}),
            ] {
                let refusal =
                    verifier(vec![other.key("")]).verify(&issuer.token(&header, &claims()), now());
                let (name, other) = (issuer.algorithm.name(), other.algorithm.name());
                assert!(
                    matches!(refusal, Err(Refusal::Algorithm | Refusal::Signature)),
                    "{name} {other}: {refusal:?}"
                );
            }
        }
    }
    let hs512 = hmac_issuer(Algorithm::Hs512, hmac::HMAC_SHA512);
    let refusal = verifier(vec![hs256().key("")])
        .verify(&hs512.token(&json!({"alg": "HS512"}), &claims()), now());
    assert_eq!(refusal.unwrap_err(), Refusal::Algorithm);
}

/// R-AUTH-7: the classic attack, where the public key serves as the secret.
#[test]
fn a_token_signed_with_the_public_key_as_its_secret_is_refused() {
    let issuer = ISSUERS
        .iter()
        .find(|issuer| issuer.algorithm == Algorithm::Rs256)
        .unwrap();
    for secret in [
        STANDARD.decode(&issuer.encoded).unwrap(),
        issuer.encoded.clone().into_bytes(),
    ] {
        let token = mint_hs256(&secret, &claims());
        assert_eq!(
            verifier(vec![issuer.key("")])
                .verify(&token, now())
                .unwrap_err(),
            Refusal::Algorithm
        );
    }
}

/// R-AUTH-8
#[test]
fn no_algorithm_and_unlisted_ones_are_refused() {
    let issuer = hs256();
    for algorithm in [
        "none", "None", "NONE", "", "hs256", "HS1", "ES256K", "Ed25519", "RSA-OAEP",
    ] {
        let token = issuer.token(&json!({"alg": algorithm, "typ": "JWT"}), &claims());
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        for token in [token, unsigned] {
            let refusal = verifier(vec![issuer.key("")])
                .verify(&token, now())
                .unwrap_err();
            assert_eq!(refusal, Refusal::Algorithm, "{algorithm}");
        }
    }
    for header in [
        json!({}),
        json!({"alg": null}),
        json!({"alg": ["HS256"]}),
        json!({"ALG": "HS256"}),
    ] {
        let refusal = verifier(vec![issuer.key("")])
            .verify(&issuer.token(&header, &claims()), now())
            .unwrap_err();
        assert_eq!(refusal.cause(), "malformed", "{header}");
    }
}

/// R-AUTH-3, R-AUTH-5
#[test]
fn an_hmac_key_is_the_base64_of_the_secret_however_it_was_pasted() {
    let token = mint_hs256(b"sesame", &claims());
    for encoded in [
        "c2VzYW1l",
        " c2Vz\n YW1l\r\n",
        "c2Vz\\nYW1l\\n",
        "\tc2VzYW1l",
    ] {
        let key = SigningKey::parse("HS256", "", encoded).unwrap();
        assert!(
            verifier(vec![key]).verify(&token, now()).is_ok(),
            "{encoded:?}"
        );
    }
    // With and without padding, and in both alphabets.
    let secret = [0xfb, 0xff, 0xbf, 0x01];
    let token = mint_hs256(&secret, &claims());
    for encoded in ["+/+/AQ==", "+/+/AQ", "-_-_AQ==", "-_-_AQ"] {
        let key = SigningKey::parse("HS256", "", encoded).unwrap();
        assert!(
            verifier(vec![key]).verify(&token, now()).is_ok(),
            "{encoded:?}"
        );
    }
}

/// R-AUTH-4, R-AUTH-5, R-AUTH-6
#[test]
fn a_public_key_is_the_base64_of_its_pem_however_it_was_pasted() {
    for issuer in ISSUERS.iter().skip(3) {
        let name = issuer.algorithm.name();
        let token = issuer.token(&json!({"alg": name}), &claims());
        let pem = String::from_utf8(STANDARD.decode(&issuer.encoded).unwrap()).unwrap();
        let wrapped: Vec<_> = issuer
            .encoded
            .as_bytes()
            .chunks(76)
            .map(String::from_utf8_lossy)
            .collect();
        let one_line = pem
            .lines()
            .filter(|line| !line.starts_with("---"))
            .collect::<String>();
        let one_line = format!("-----BEGIN PUBLIC KEY-----\n{one_line}\n-----END PUBLIC KEY-----");
        let encoded = [
            wrapped.join("\n"),
            wrapped.join("\\n"),
            STANDARD.encode(pem.trim_end()),
            STANDARD.encode(pem.replace('\n', "\r\n")),
            STANDARD.encode(format!("\n{pem}\n\n")),
            STANDARD.encode(one_line),
        ];
        for encoded in encoded {
            let key = SigningKey::parse(name, "", &encoded)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(verifier(vec![key]).verify(&token, now()).is_ok(), "{name}");
        }
    }
    // PKCS #1 stands for RSA keys alone.
    let rsa = ISSUERS
        .iter()
        .find(|issuer| issuer.algorithm == Algorithm::Rs256)
        .unwrap();
    let pkcs1 = STANDARD.encode(pem("RSA PUBLIC KEY", RSA.public_key().as_ref()));
    let key = SigningKey::parse("RS256", "", &pkcs1).unwrap();
    assert!(
        verifier(vec![key])
            .verify(&rsa.token(&json!({"alg": "RS256"}), &claims()), now())
            .is_ok()
    );
}

#[test]
fn a_key_that_cannot_be_used_says_what_is_expected() {
    let encoded = |algorithm: Algorithm| {
        ISSUERS
            .iter()
            .find(|issuer| issuer.algorithm == algorithm)
            .map(|issuer| issuer.encoded.clone())
            .unwrap()
    };
    let private = STANDARD.encode(pem("PRIVATE KEY", &[0; 40]));
    let certificate = STANDARD.encode(pem("CERTIFICATE", &[0; 40]));
    let damaged = STANDARD.encode(pem("PUBLIC KEY", &[0; 40]));
    // Test-only, and too short for anything else.
    let short = STANDARD.encode(
        "-----BEGIN PUBLIC KEY-----\n\
         MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDxFCfW5jW+Y3RrkZ4bEVWOmWBP\n\
         hsQFM4wgJlPmcjMwIlznj1nPbcjfgZqL/bY/RcrVIsjY+Lzbo4wRX5CltgQKJ9Sz\n\
         5OzbtzQW86tVcJX6ptFnxKGOE5xYuHQcTEnaEWxjO66ng8mxXJ+WhwrSNXcZpwcG\n\
         9qIa55Sk8u0yT7zHfQIDAQAB\n\
         -----END PUBLIC KEY-----\n",
    );
    let cases = [
        (
            "HS265",
            "c2VzYW1l".to_owned(),
            "`HS265` is not a signing method; it is one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, \
             PS512, ES256, ES384, ES512, EdDSA",
        ),
        (
            "none",
            String::new(),
            "`none` is not a signing method; it is one of HS256, ",
        ),
        (
            "HS256",
            " \\n".to_owned(),
            "the key is empty; HS256 needs the Base64 encoding of the secret's bytes",
        ),
        (
            "HS256",
            "sesame!".to_owned(),
            "the key is not Base64; HS256 needs the Base64 encoding of the secret's bytes",
        ),
        (
            "HS256",
            encoded(Algorithm::Rs256),
            "the key is a PEM, which HS256 would use as its secret; choose the method of that key, such as RS256",
        ),
        (
            "RS256",
            "-----BEGIN PUBLIC KEY-----".to_owned(),
            "the key is a PEM itself; give the Base64 encoding of the PEM (`base64 FILE` prints it)",
        ),
        (
            "RS256",
            "c2VzYW1l".to_owned(),
            "the decoded key is not a PEM; RS256 needs the Base64 encoding of a PEM public key",
        ),
        (
            "ES256",
            private,
            "the PEM is a `PRIVATE KEY`; ES256 needs a `PUBLIC KEY` (`openssl pkey -pubout -in FILE` prints it; a \
             private key belongs to the issuer of tokens alone)",
        ),
        (
            "RS256",
            certificate,
            "the PEM is a `CERTIFICATE`; RS256 needs a `PUBLIC KEY` (`openssl x509 -pubkey -noout -in FILE` prints it)",
        ),
        (
            "RS256",
            damaged,
            "the public key does not fit the method; RS256 needs an RSA key of 2048 to 8192 bits",
        ),
        (
            "PS256",
            short,
            "the public key does not fit the method; PS256 needs an RSA key of 2048 to 8192 bits",
        ),
        (
            "ES256",
            encoded(Algorithm::Es384),
            "the public key does not fit the method; ES256 needs a key on the curve P-256",
        ),
        (
            "ES512",
            encoded(Algorithm::Es256),
            "the public key does not fit the method; ES512 needs a key on the curve P-521",
        ),
        (
            "EdDSA",
            encoded(Algorithm::Es256),
            "the public key does not fit the method; EdDSA needs an Ed25519 key",
        ),
        (
            "RS512",
            encoded(Algorithm::EdDsa),
            "the public key does not fit the method; RS512 needs an RSA key of 2048 to 8192 bits",
        ),
    ];
    for (method, encoded, sentence) in cases {
        let error = SigningKey::parse(method, "", &encoded)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(sentence), "{method}: {error}");
    }
}

/// R-AUTH-9, R-AUTH-10, R-AUTH-11
#[test]
fn a_key_is_tried_if_the_ids_are_equal_or_either_has_none() {
    let token_with = |id: Option<&str>| {
        let header = json!({"alg": "HS256", "typ": "JWT"});
        hs256().token(
            &id.map_or(header.clone(), |id| with(header, "kid", id.into())),
            &claims(),
        )
    };
    for (configured, named, accepted) in [
        ("a", Some("a"), true),
        ("a", Some("b"), false),
        ("a", Some("A"), false),
        ("a", Some(""), false),
        ("", Some("a"), true),
        (" ", Some("a"), true),
        ("a", None, true),
        ("", None, true),
    ] {
        let outcome = verifier(vec![hs256().key(configured)]).verify(&token_with(named), now());
        assert_eq!(outcome.is_ok(), accepted, "{configured:?} {named:?}");
        assert_eq!(
            outcome.err(),
            (!accepted).then_some(Refusal::UnknownKey),
            "{configured:?} {named:?}"
        );
    }
    let token = hs256().token(&json!({"alg": "HS256", "kid": 7}), &claims());
    assert_eq!(
        verifier(vec![hs256().key("7")])
            .verify(&token, now())
            .unwrap_err()
            .cause(),
        "malformed"
    );
}

/// R-AUTH-2, R-AUTH-12, R-AUTH-16: during a rotation, and after it.
#[test]
fn tokens_of_the_old_and_the_new_key_are_good_while_both_are_configured() {
    let parse = |method, id, secret: &[u8]| {
        SigningKey::parse(method, id, &STANDARD.encode(secret)).unwrap()
    };
    let old = mint_hs256(b"old", &claims());
    let new = mint_hs256(b"new", &claims());
    // In either order, with ids that tokens do not name, and beside a key of another method.
    for keys in [
        vec![parse("HS256", "", b"old"), parse("HS256", "", b"new")],
        vec![parse("HS256", "2", b"new"), parse("HS256", "1", b"old")],
        vec![
            ISSUERS[9].key(""),
            parse("HS256", "1", b"old"),
            parse("HS256", "", b"new"),
        ],
    ] {
        let both = verifier(keys);
        assert!(both.verify(&old, now()).is_ok());
        assert!(both.verify(&new, now()).is_ok());
        assert_eq!(
            both.verify(&mint_hs256(b"other", &claims()), now())
                .unwrap_err(),
            Refusal::Signature
        );
    }
    let rotated = verifier(vec![parse("HS256", "", b"new")]);
    assert!(rotated.verify(&new, now()).is_ok());
    assert_eq!(rotated.verify(&old, now()).unwrap_err(), Refusal::Signature);
}

/// R-AUTH-18
#[test]
fn without_a_key_every_token_is_refused() {
    let verifier = verifier(Vec::new());
    assert!(!verifier.has_keys());
    assert_eq!(
        verifier
            .verify(&mint_hs256(b"", &claims()), now())
            .unwrap_err(),
        Refusal::UnknownKey
    );
}

/// R-AUTH-13
#[test]
fn the_type_is_jwt_or_absent() {
    for (header, accepted) in [
        (json!({"alg": "HS256", "typ": "JWT"}), true),
        (json!({"alg": "HS256", "typ": "jwt"}), true),
        (json!({"alg": "HS256"}), true),
        (json!({"alg": "HS256", "typ": "at+jwt"}), false),
        (json!({"alg": "HS256", "typ": ""}), false),
        (json!({"alg": "HS256", "typ": null}), false),
        (json!({"alg": "HS256", "typ": ["JWT"]}), false),
        // An extension that must be understood (RFC 7515 section 4.1.11).
        (json!({"alg": "HS256", "crit": ["exp"]}), false),
        (json!({"alg": "HS256", "cty": "x", "x5t": 1}), true),
    ] {
        let outcome =
            verifier(vec![hs256().key("")]).verify(&hs256().token(&header, &claims()), now());
        assert_eq!(outcome.is_ok(), accepted, "{header}");
    }
}

/// R-AUTH-14
#[test]
fn a_token_with_any_byte_altered_removed_or_added_is_refused() {
    let verifier = verifier(vec![hs256().key("")]);
    let token = mint_hs256(SECRET, &claims());
    assert!(verifier.verify(&token, now()).is_ok());
    let characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/% \n\0é";
    for at in 0..=token.len() {
        for character in characters.chars() {
            let inserted = format!("{}{character}{}", &token[..at], &token[at..]);
            assert!(
                verifier.verify(&inserted, now()).is_err(),
                "{character:?} inserted at {at}"
            );
            if at < token.len() && !token[at..].starts_with(character) {
                let altered = format!("{}{character}{}", &token[..at], &token[at + 1..]);
                assert!(
                    verifier.verify(&altered, now()).is_err(),
                    "{character:?} written at {at}"
                );
            }
        }
        if at < token.len() {
            let removed = format!("{}{}", &token[..at], &token[at + 1..]);
            assert!(verifier.verify(&removed, now()).is_err(), "removed at {at}");
        }
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let verifier = verifier(vec![hs256().key("")]);
    let token = mint_hs256(SECRET, &claims());
    let parts: Vec<_> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let texts = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        format!("{header}.{payload}"),
        format!("{token}.{signature}"),
        format!(".{payload}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!(" {token}"),
        format!("Bearer {token}"),
        PART.encode(&token),
    ];
    for text in texts {
        assert_eq!(
            verifier.verify(&text, now()).unwrap_err().cause(),
            "malformed",
            "{text}"
        );
    }
    // A header that is an object only in parts.
    for header in [
        "",
        "[]",
        "null",
        r#"{"alg":"HS256"} {}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        "{\"alg\":\"HS256\"\u{0}}",
    ] {
        let signed = format!("{}.{payload}", PART.encode(header));
        let signature = PART.encode(hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
            signed.as_bytes(),
        ));
        let refusal = verifier
            .verify(&format!("{signed}.{signature}"), now())
            .unwrap_err();
        assert_eq!(refusal.cause(), "malformed", "{header}");
    }
    // Correctly signed, but no claims.
    let cases: [(&[u8], &str); 5] = [
        (b"", "claims"),
        (b"[]", "claims"),
        (b"\"a\"", "claims"),
        (b"\xff", "malformed"),
        (b"{} ", "claims"),
    ];
    for (payload, cause) in cases {
        let signed = format!("{header}.{}", PART.encode(payload));
        let signature = PART.encode(hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
            signed.as_bytes(),
        ));
        let refusal = verifier
            .verify(&format!("{signed}.{signature}"), now())
            .unwrap_err();
        assert_eq!(refusal.cause(), cause, "{payload:?}");
    }
}

/// R-LIM-20
#[test]
fn a_token_of_8_kib_is_accepted_and_one_of_more_than_16_kib_is_not() {
    let padded = |bytes: usize| {
        let empty = mint_hs256(SECRET, &with(claims(), "x", "".into())).len();
        mint_hs256(
            SECRET,
            &with(claims(), "x", "x".repeat((bytes - empty) * 3 / 4).into()),
        )
    };
    let verifier = verifier(vec![hs256().key("")]);
    let token = padded(8 * 1024 + 4);
    assert!(token.len() >= 8 * 1024, "{}", token.len());
    assert!(verifier.verify(&token, now()).is_ok());
    assert!(verifier.verify(&padded(MAX_TOKEN_BYTES), now()).is_ok());
    assert_eq!(
        verifier
            .verify(&padded(MAX_TOKEN_BYTES + 8), now())
            .unwrap_err(),
        Refusal::TooLong
    );
}

/// R-CLAIM-1, R-CLAIM-2
#[test]
fn a_token_without_exp_or_past_it_is_refused() {
    let at = |exp: Value| outcome(with(claims(), "exp", exp)).map(|_| ());
    let second = now().as_second();
    assert_eq!(at((second + 1).into()), Ok(()));
    assert_eq!(at(second.into()), Err(Refusal::Expired));
    assert_eq!(at((second - 1).into()), Err(Refusal::Expired));
    assert_eq!(at(0.into()), Err(Refusal::Expired));
    assert_eq!(at((-1).into()), Err(Refusal::Expired));
    // R-CLAIM-33
    assert_eq!(at(json!(second as f64 + 0.5)), Ok(()));
    assert_eq!(at(json!(second as f64 - 0.5)), Err(Refusal::Expired));
    // Far outside of any calendar.
    assert_eq!(at(json!(1e300)), Ok(()));
    assert_eq!(at(json!(i64::MAX)), Ok(()));
    assert_eq!(at(json!(-1e300)), Err(Refusal::Expired));

    let mut without = claims();
    without.as_object_mut().unwrap().remove("exp");
    let refusal = outcome(without).unwrap_err();
    let source = std::error::Error::source(&refusal).unwrap().to_string();
    assert_eq!(
        (refusal.cause(), source.as_str()),
        ("claims", "claim `exp` is required")
    );
}

/// R-CLAIM-4, R-CLAIM-5, R-CLAIM-33
#[test]
fn a_token_is_refused_before_nbf_and_never_for_iat() {
    let second = now().as_second();
    let at = |nbf: Value| outcome(with(claims(), "nbf", nbf)).map(|_| ());
    assert_eq!(at(second.into()), Ok(()));
    assert_eq!(at((second - 1).into()), Ok(()));
    assert_eq!(at((second + 1).into()), Err(Refusal::NotYetValid));
    assert_eq!(at(json!(second as f64 + 0.5)), Err(Refusal::NotYetValid));
    assert_eq!(at(json!(1e300)), Err(Refusal::NotYetValid));
    assert!(outcome(with(claims(), "iat", (second + 1000).into())).is_ok());
}

/// R-CLAIM-3
#[test]
fn the_leeway_applies_to_exp_and_nbf_and_is_none_by_default() {
    let second = now().as_second();
    let with_leeway = |seconds, exp: i64, nbf: i64| {
        let verifier = Verifier::new(
            vec![hs256().key("")],
            None,
            None,
            Duration::from_secs(seconds),
        );
        let claims = with(with(claims(), "exp", exp.into()), "nbf", nbf.into());
        verifier
            .verify(&mint_hs256(SECRET, &claims), now())
            .map(|_| ())
    };
    assert_eq!(with_leeway(0, second, second), Err(Refusal::Expired));
    assert_eq!(with_leeway(10, second - 9, second), Ok(()));
    assert_eq!(with_leeway(10, second - 10, second), Err(Refusal::Expired));
    assert_eq!(with_leeway(10, second + 60, second + 10), Ok(()));
    assert_eq!(
        with_leeway(10, second + 60, second + 11),
        Err(Refusal::NotYetValid)
    );
    assert_eq!(with_leeway(u64::MAX, 0, second + 100), Ok(()));
}

/// R-CLAIM-6, R-AUTH-15: whatever the scope.
#[test]
fn a_configured_audience_must_be_named_by_every_token() {
    let verifier = Verifier::new(
        vec![hs256().key("")],
        Some("live".to_owned()),
        None,
        Duration::ZERO,
    );
    for scope in ["connect", "subscribe", "umd"] {
        let outcome = |aud: Option<Value>| {
            let claims = with(claims(), "scope", scope.into());
            let claims = aud.map_or(claims.clone(), |aud| with(claims, "aud", aud));
            verifier
                .verify(&mint_hs256(SECRET, &claims), now())
                .map(|_| ())
        };
        assert_eq!(outcome(Some("live".into())), Ok(()));
        assert_eq!(outcome(Some(json!(["other", "live"]))), Ok(()));
        for aud in [
            None,
            Some("Live".into()),
            Some("live ".into()),
            Some(json!([])),
            Some(json!(["other"])),
        ] {
            assert_eq!(outcome(aud), Err(Refusal::Audience));
        }
    }
    assert!(outcome(with(claims(), "aud", "anything".into())).is_ok());
    assert_eq!(
        outcome(with(claims(), "aud", 7.into()))
            .unwrap_err()
            .cause(),
        "claims"
    );
}

/// R-CLAIM-7, R-AUTH-15
#[test]
fn a_configured_issuer_must_be_named_by_every_token() {
    let verifier = Verifier::new(
        vec![hs256().key("")],
        None,
        Some("https://id.example".to_owned()),
        Duration::ZERO,
    );
    for scope in ["connect", "subscribe", "umd"] {
        let outcome = |iss: Option<&str>| {
            let claims = with(claims(), "scope", scope.into());
            let claims = iss.map_or(claims.clone(), |iss| with(claims, "iss", iss.into()));
            verifier
                .verify(&mint_hs256(SECRET, &claims), now())
                .map(|_| ())
        };
        assert_eq!(outcome(Some("https://id.example")), Ok(()));
        for iss in [
            None,
            Some(""),
            Some("https://id.example/"),
            Some("HTTPS://id.example"),
        ] {
            assert_eq!(outcome(iss), Err(Refusal::Issuer), "{iss:?}");
        }
    }
    assert!(outcome(with(claims(), "iss", "anything".into())).is_ok());
}

/// A claim that occurs twice could mean one thing to the issuer and another here.
#[test]
fn a_repeated_claim_is_refused() {
    let payload = r#"{"exp":99999999999,"scope":"connect","uid":"ana","uid":"ben"}"#;
    let signed = format!(
        "{}.{}",
        PART.encode(r#"{"alg":"HS256"}"#),
        PART.encode(payload)
    );
    let signature = PART.encode(hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
        signed.as_bytes(),
    ));
    let refusal = verifier(vec![hs256().key("")])
        .verify(&format!("{signed}.{signature}"), now())
        .unwrap_err();
    assert_eq!(refusal.cause(), "claims");
}

/// R-ERR-2, R-AUTH-19
#[test]
fn neither_keys_nor_refusals_show_what_is_secret() {
    let key = SigningKey::parse("HS256", "kid-1", &STANDARD.encode("TOPSECRET")).unwrap();
    let shown = format!("{:?}", verifier(vec![key.clone()]));
    assert!(
        shown.contains("kid-1") && shown.contains("Hs256"),
        "{shown}"
    );
    let secret_bytes = format!("{:?}", b"TOPSECRET");
    for secret in [
        "TOPSECRET",
        &STANDARD.encode("TOPSECRET"),
        secret_bytes.trim_matches(['[', ']']),
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let token = mint_hs256(
        SECRET,
        &json!({"exp": 1, "scope": "connect", "channels": {"hush": {"subscribe": "hush"}}}),
    );
    let refusal = verifier(vec![hs256().key("")])
        .verify(&token, now())
        .unwrap_err();
    assert_eq!(refusal.to_string(), "the token's claims are invalid");
}

#[test]
fn a_configured_secret_mints_tokens_that_it_verifies() {
    for method in ["HS256", "HS384", "HS512"] {
        for id in ["", "k"] {
            let key = SigningKey::parse(method, id, "c2VzYW1l").unwrap();
            let token = key.mint(&claims()).unwrap();
            assert!(verifier(vec![key]).verify(&token, now()).is_ok());
            // The id is named, so that a key with another one is not tried.
            let other = SigningKey::parse(method, "other", "c2VzYW1l").unwrap();
            assert_eq!(
                verifier(vec![other]).verify(&token, now()).is_ok(),
                id.is_empty()
            );
        }
    }
    assert_eq!(ISSUERS[3].key("").mint(&claims()), None);
}

proptest! {
    /// R-AUTH-14
    #[test]
    fn no_text_is_accepted_as_a_token_nor_panics(text in r"[A-Za-z0-9_.=-]{0,60}|\PC{0,60}") {
        prop_assert!(verifier(vec![hs256().key("")]).verify(&text, now()).is_err());
    }
}
