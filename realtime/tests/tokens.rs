//! Which tokens a server accepts, at each of the three places where it takes one: when connecting, when subscribing, and
//! when metadata is to change (sections 3 and 4).

mod support;

use std::sync::{Barrier, LazyLock};
use std::thread;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as signing, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use support::{Client, SECRET, Server, now, token};

/// Whoever issues tokens: with a key of its own, of which the server knows the public half or the secret.
struct Issuer {
    method: &'static str,
    /// The key, as an operator configures it.
    key: String,
    sign: Box<Sign>,
}

/// From a text to its signature.
type Sign = dyn Fn(&[u8]) -> Vec<u8>;

impl Issuer {
    /// With a secret.
    fn secret(method: &'static str, secret: &[u8]) -> Self {
        let algorithm = match method {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        let signer = hmac::Key::new(algorithm, secret);
        Self {
            method,
            key: STANDARD.encode(secret),
            sign: Box::new(move |text| hmac::sign(&signer, text).as_ref().to_vec()),
        }
    }

    /// With a key pair whose public half is this.
    fn public(
        method: &'static str,
        der: &PublicKeyX509Der<'_>,
        sign: impl Fn(&[u8]) -> Vec<u8> + 'static,
    ) -> Self {
        let body = STANDARD.encode(der.as_ref());
        let lines = body.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let lines = lines.collect::<Vec<_>>().join("\n");
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n");
        Self {
            method,
            key: STANDARD.encode(pem),
            sign: Box::new(sign),
        }
    }

    fn rsa(method: &'static str, padding: &'static dyn signing::RsaEncoding) -> Self {
        static PAIR: LazyLock<RsaKeyPair> =
            LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).expect("a key pair"));
        let der = PAIR.public_key().as_der().expect("DER");
        Self::public(method, &der, move |text| {
            let mut signature = vec![0; PAIR.public_modulus_len()];
            PAIR.sign(padding, &SystemRandom::new(), text, &mut signature)
                .expect("a signature");
            signature
        })
    }

    fn ecdsa(method: &'static str, curve: &'static signing::EcdsaSigningAlgorithm) -> Self {
        let pair = EcdsaKeyPair::generate(curve).expect("a key pair");
        let der = pair.public_key().as_der().expect("DER");
        Self::public(method, &der, move |text| {
            let signature = pair.sign(&SystemRandom::new(), text).expect("a signature");
            signature.as_ref().to_vec()
        })
    }

    /// One for each algorithm of R-AUTH-1; those with RSA share a key pair, and those with a secret share one.
    fn all() -> Vec<Self> {
        let pair = Ed25519KeyPair::generate().expect("a key pair");
        let der = pair.public_key().as_der().expect("DER");
        let eddsa = Self::public("EdDSA", &der, move |text| pair.sign(text).as_ref().to_vec());
        vec![
            Self::secret("HS256", b"sesame"),
            Self::secret("HS384", b"sesame"),
            Self::secret("HS512", b"sesame"),
            Self::rsa("RS256", &signing::RSA_PKCS1_SHA256),
            Self::rsa("RS384", &signing::RSA_PKCS1_SHA384),
            Self::rsa("RS512", &signing::RSA_PKCS1_SHA512),
            Self::rsa("PS256", &signing::RSA_PSS_SHA256),
            Self::rsa("PS384", &signing::RSA_PSS_SHA384),
            Self::rsa("PS512", &signing::RSA_PSS_SHA512),
            Self::ecdsa("ES256", &signing::ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::ecdsa("ES384", &signing::ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::ecdsa("ES512", &signing::ECDSA_P521_SHA512_FIXED_SIGNING),
            eddsa,
        ]
    }

    /// A token with this header and these claims.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode((self.sign)(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A usual token to connect with.
    fn token(&self) -> String {
        self.token_over(json!({"scope": "connect"}))
    }

    fn token_over(&self, mut claims: Value) -> String {
        claims["exp"] = json!(now() + 3600);
        self.sign(&json!({"alg": self.method, "typ": "JWT"}), &claims)
    }
}

/// Settings with these signing keys and their ids.
fn keys(keys: &[(&Issuer, &str)]) -> String {
    let mut settings = "[signing_keys]\n".to_owned();
    for (number, (issuer, id)) in (1..).zip(keys) {
        settings += &format!(
            "[signing_keys.{number}]\nmethod = '{}'\nid = '{id}'\nkey = '{}'\n",
            issuer.method, issuer.key
        );
    }
    settings
}

fn reload(server: &Server, settings: &str) {
    server.configure(settings);
    assert_eq!(server.reload()["message"], "the settings were read anew");
}

/// A connection works: what it sends comes back.
fn assert_alive(client: &mut Client) {
    client.expect_nothing();
}

/// R-AUTH-1, R-AUTH-2, R-AUTH-3, R-AUTH-4, R-AUTH-6, R-AUTH-7: tokens of every algorithm are good with its key, two at a
/// time, and with no other, also not with one of another SHA size.
///
/// R-AUTH-16, R-AUTH-17: all the while a connection made with the first of the keys stays.
#[test]
fn every_algorithm_is_accepted_with_its_key_and_no_other() {
    let issuers = Issuer::all();
    let server = Server::with(&keys(&[(&issuers[0], "")]));
    let mut first = Client::connect(&server, &issuers[0].token()).expect("it is good");
    // So chosen that no two neighbours share a key.
    for round in 0..7 {
        let configured = [round, (round + 6) % issuers.len()];
        let [one, other] = configured.map(|at| &issuers[at]);
        reload(&server, &keys(&[(one, ""), (other, "")]));
        for (at, issuer) in issuers.iter().enumerate() {
            let expected = if configured.contains(&at) { 101 } else { 401 };
            let status = server.refusal(&issuer.token());
            assert_eq!(status, expected, "{} with {configured:?}", issuer.method);
        }
        assert_alive(&mut first);
    }
}

/// R-AUTH-14: in whichever byte a token is altered, it is refused.
#[test]
fn an_altered_token_is_refused() {
    let server = Server::start();
    let good = token(json!({"uid": "ana"}));
    assert_eq!(server.refusal(&good), 101);
    for at in (0..good.len()).step_by(7).chain([good.len() - 1]) {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(bytes).expect("ASCII");
        assert_eq!(server.refusal(&altered), 401, "byte {at}");
    }
    let (_, signature) = good.rsplit_once('.').expect("three parts");
    let other = token(json!({"uid": "ben"}));
    let (others_text, _) = other.rsplit_once('.').expect("three parts");
    assert_eq!(server.refusal(&format!("{others_text}.{signature}")), 401);
    for cut in [
        good.trim_end_matches(signature).to_owned(),
        good[..good.len() - 1].to_owned(),
        format!("{good}A"),
        format!("{good}.{signature}"),
    ] {
        assert_eq!(server.refusal(&cut), 401, "{cut}");
    }
}

/// R-AUTH-8, R-AUTH-13
#[test]
fn the_header_of_a_token_must_be_a_usual_one() {
    let issuer = Issuer::secret("HS256", SECRET);
    let server = Server::start();
    let claims = json!({"scope": "connect", "exp": now() + 3600});
    for (header, expected) in [
        (json!({"alg": "HS256", "typ": "JWT"}), 101),
        (json!({"alg": "HS256"}), 101),
        (json!({"alg": "HS256", "typ": "JWT", "extra": [1]}), 101),
        (json!({"alg": "HS256", "typ": "JWS"}), 401),
        (json!({"alg": "HS256", "typ": 1}), 401),
        (json!({"alg": "HS384", "typ": "JWT"}), 401),
        (json!({"alg": "hs256", "typ": "JWT"}), 401),
        (json!({"alg": "HS1", "typ": "JWT"}), 401),
        (json!({"alg": "ES256K", "typ": "JWT"}), 401),
        (json!({"alg": "none", "typ": "JWT"}), 401),
        (json!({"alg": "None", "typ": "JWT"}), 401),
        (json!({"alg": "", "typ": "JWT"}), 401),
        (json!({"typ": "JWT"}), 401),
        (json!("HS256"), 401),
    ] {
        assert_eq!(
            server.refusal(&issuer.sign(&header, &claims)),
            expected,
            "{header}"
        );
    }
    // Without a signature, as `none` means it.
    let unsigned = issuer.sign(&json!({"alg": "none", "typ": "JWT"}), &claims);
    let (text, _) = unsigned.rsplit_once('.').expect("three parts");
    for unsigned in [format!("{text}."), text.to_owned()] {
        assert_eq!(server.refusal(&unsigned), 401);
    }
}

/// R-AUTH-9, R-AUTH-10, R-AUTH-11
#[test]
fn a_key_with_an_id_is_for_tokens_that_name_it_or_none() {
    let (named, blank) = (
        Issuer::secret("HS256", b"one"),
        Issuer::secret("HS256", b"two"),
    );
    let server = Server::with(&keys(&[(&named, "2027-03"), (&blank, "")]));
    let claims = json!({"scope": "connect", "exp": now() + 3600});
    for (issuer, id, expected) in [
        (&named, Some("2027-03"), 101),
        (&named, None, 101),
        (&named, Some("2027-04"), 401),
        (&named, Some("2027-0"), 401),
        (&blank, Some("2027-03"), 101),
        (&blank, Some("anything"), 101),
        (&blank, None, 101),
    ] {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        if let Some(id) = id {
            header["kid"] = json!(id);
        }
        assert_eq!(
            server.refusal(&issuer.sign(&header, &claims)),
            expected,
            "{header}"
        );
    }
}

/// R-AUTH-3, R-AUTH-5: an HMAC key is the Base64 encoding of the raw secret, however it was pasted.
///
/// R-AUTH-2: a second key may be blank.
#[test]
fn a_key_works_however_it_was_pasted() {
    let token = Issuer::secret("HS256", b"sesame").token();
    let server = Server::start();
    assert_eq!(server.refusal(&token), 401);
    for key in [
        "'c2VzYW1l'",
        "' c2Vz YW1l '",
        r"'c2Vz\nYW1l\n'",
        "'''\nc2Vz\n  YW1l\n'''",
    ] {
        reload(
            &server,
            &format!("[signing_keys.1]\nmethod = 'HS256'\nkey = {key}\n[signing_keys.2]\nkey = ''"),
        );
        assert_eq!(server.refusal(&token), 101, "{key}");
    }
}

/// R-AUTH-18
#[test]
fn a_server_without_keys_starts_warns_and_refuses() {
    let server = Server::with("[signing_keys]");
    server.logged(|record| {
        record["level"] == "WARN"
            && record["message"]
                .as_str()
                .is_some_and(|it| it.contains("no signing key"))
    });
    assert_eq!(server.refusal(&token(json!({}))), 401);
    assert_eq!(server.get("/info").status, 200);
}

/// R-AUTH-12, R-AUTH-16, R-AUTH-17: a rotation in three steps. While both keys are configured, tokens of both are good;
/// when the old one has gone, its tokens are refused at every place, and its connections stay, with what they may do.
#[test]
fn keys_are_rotated_without_losing_anybody() {
    let (old, new) = (
        Issuer::secret("HS256", b"old"),
        Issuer::rsa("RS256", &signing::RSA_PKCS1_SHA256),
    );
    let claims = |scope: &str| {
        json!({
            "scope": scope, "uid": "ana", "umdUpdate": true,
            "channels": {"room": {"subscribe": true, "messages": {"hi": {"publish": true, "echo": true}}}},
        })
    };
    let server = Server::with(&keys(&[(&old, "old")]));
    let mut early =
        Client::connect(&server, &old.token_over(claims("connect"))).expect("it is good");
    early.subscribe("room");
    assert_eq!(server.refusal(&new.token()), 401);

    reload(&server, &keys(&[(&new, "new"), (&old, "old")]));
    let mut late =
        Client::connect(&server, &new.token_over(claims("connect"))).expect("it is good");
    for issuer in [&old, &new] {
        assert_eq!(server.refusal(&issuer.token()), 101);
        for client in [&mut early, &mut late] {
            assert_eq!(
                subscribe_with(client, &issuer.token_over(claims("subscribe"))),
                None
            );
            assert_eq!(update_with(client, &issuer.token_over(claims("umd"))), None);
        }
    }

    reload(&server, &keys(&[(&new, "new")]));
    assert_eq!(server.refusal(&old.token()), 401);
    assert_eq!(server.refusal(&new.token()), 101);
    for client in [&mut early, &mut late] {
        let refused = subscribe_with(client, &old.token_over(claims("subscribe")));
        assert_eq!(refused.as_deref(), Some("INVALID_SUBSCRIBE_TOKEN"));
        let refused = update_with(client, &old.token_over(claims("umd")));
        assert_eq!(refused.as_deref(), Some("INVALID_UMD_TOKEN"));
        assert_eq!(
            subscribe_with(client, &new.token_over(claims("subscribe"))),
            None
        );
        assert_eq!(update_with(client, &new.token_over(claims("umd"))), None);
    }
    // What the old token permitted still is.
    early.send(json!({"event": "hi", "channel": "room"}));
    early.expect("hi");
    early.send(json!({"event": "hotsock.unsubscribe", "channel": "room"}));
    early.expect("hotsock.unsubscribed");
    early.subscribe("room");
}

/// Subscribes to a channel that exists for this only, and ends that again; the code of the refusal.
fn subscribe_with(client: &mut Client, token: &str) -> Option<String> {
    let channel = "tried-by-token";
    client
        .send(json!({"event": "hotsock.subscribe", "channel": channel, "data": {"token": token}}));
    let answer = client.next();
    if answer["event"] == "hotsock.subscribed" {
        client.send(json!({"event": "hotsock.unsubscribe", "channel": channel}));
        client.expect("hotsock.unsubscribed");
        return None;
    }
    match answer["error"]["code"].as_str() {
        // A usable token, though it grants nothing here.
        Some("SUBSCRIBE_PERMISSION_DENIED") => None,
        code => Some(code.expect("an error").to_owned()),
    }
}

/// Changes the connection's metadata; the code of the refusal.
fn update_with(client: &mut Client, token: &str) -> Option<String> {
    client.send(json!({"event": "hotsock.umdUpdate", "data": {"token": token}}));
    let messages = client.drain();
    let code = messages
        .first()
        .map(|message| message["error"]["code"].clone());
    code.map(|code| code.as_str().expect("an error").to_owned())
}

/// Is a token with these claims good at all three places (`Some(true)`), at none, or does that depend? Whatever must be
/// there is added: scopes, time, user.
fn verdict(server: &Server, client: &mut Client, claims: &Value) -> Option<bool> {
    let mut all = json!({
        "exp": now() + 3600, "scope": "connect subscribe umd", "uid": "ana", "umdUpdate": true,
        "channels": {"*": {"subscribe": true}},
    });
    for (name, value) in claims.as_object().expect("an object") {
        match value.is_null() {
            true => drop(all.as_object_mut().expect("an object").remove(name)),
            false => all[name] = value.clone(),
        }
    }
    // As written, not as `token` would complete it.
    let token = realtime::auth::mint_hs256(SECRET, &all);
    let connecting = server.refusal(&token);
    let subscribing = subscribe_with(client, &token);
    let updating = update_with(client, &token);
    match (connecting, subscribing.as_deref(), updating.as_deref()) {
        (101, None, None) => Some(true),
        (401, Some("INVALID_SUBSCRIBE_TOKEN"), Some("INVALID_UMD_TOKEN")) => Some(false),
        mixed => {
            eprintln!("{claims}: {mixed:?}");
            None
        }
    }
}

/// A verdict for each of these claims, of which `null` ones are left out of the token.
fn assert_verdicts(settings: &str, table: impl IntoIterator<Item = (Value, bool)>) {
    let server = Server::with(settings);
    let mut all_good = json!({"scope": "connect", "uid": "ana", "exp": now() + 3600});
    (all_good["aud"], all_good["iss"]) = (json!("app"), json!("issuer"));
    let mut client = Client::connect(&server, &token(all_good)).expect("it is good");
    for (claims, expected) in table {
        let verdict = verdict(&server, &mut client, &claims);
        assert_eq!(verdict, Some(expected), "{claims}");
    }
}

/// R-CLAIM-1, R-CLAIM-2, R-CLAIM-4, R-CLAIM-5, R-CLAIM-33, R-AUTH-15
#[test]
fn a_token_is_good_for_its_time_at_every_place() {
    let now = now();
    assert_verdicts(
        "",
        [
            (json!({"exp": null}), false),
            (json!({"exp": now - 1}), false),
            (json!({"exp": 0}), false),
            (json!({"exp": -1}), false),
            (json!({"exp": "2099-01-01"}), false),
            (json!({"exp": now as f64 + 100.5}), true),
            (json!({"exp": 1e30}), true),
            (json!({"nbf": now + 100}), false),
            (json!({"nbf": now as f64 + 100.5}), false),
            (json!({"nbf": now - 1}), true),
            (json!({"nbf": 0}), true),
            (json!({"nbf": "now"}), false),
            (json!({"iat": now + 100}), true),
            (json!({"iat": 0.5}), true),
            (json!({"iat": [now]}), false),
        ],
    );
}

/// R-CLAIM-3: none by default (see above), and for `exp` and `nbf` when configured.
#[test]
fn leeway_stretches_the_time_of_a_token_both_ways() {
    let now = now();
    assert_verdicts(
        "leeway = \"10m\"",
        [
            (json!({"exp": now - 300}), true),
            (json!({"exp": now - 900}), false),
            (json!({"nbf": now + 300}), true),
            (json!({"nbf": now + 900}), false),
            (json!({"exp": null}), false),
        ],
    );
}

/// R-CLAIM-6, R-CLAIM-7, R-AUTH-15
#[test]
fn audience_and_issuer_are_required_where_they_are_configured() {
    let table = [
        (json!({}), false),
        (json!({"aud": "app", "iss": "issuer"}), true),
        (json!({"aud": ["other", "app"], "iss": "issuer"}), true),
        (json!({"aud": ["app"], "iss": "issuer"}), true),
        (json!({"aud": [], "iss": "issuer"}), false),
        (json!({"aud": ["other"], "iss": "issuer"}), false),
        (json!({"aud": "App", "iss": "issuer"}), false),
        (json!({"aud": "app app", "iss": "issuer"}), false),
        (json!({"iss": "issuer"}), false),
        (json!({"aud": "app"}), false),
        (json!({"aud": "app", "iss": "Issuer"}), false),
        (json!({"aud": "app", "iss": "issuer/"}), false),
        (json!({"aud": "app", "iss": ""}), false),
    ];
    assert_verdicts("audience = \"app\"\nissuer = \"issuer\"", table.clone());
    // Each of them alone.
    assert_verdicts(
        "audience = \"app\"",
        [
            (json!({"aud": "app"}), true),
            (json!({"aud": "app", "iss": "whoever"}), true),
            (json!({"iss": "issuer"}), false),
        ],
    );
    assert_verdicts(
        "issuer = \"issuer\"",
        [
            (json!({"iss": "issuer"}), true),
            (json!({"aud": ["whatever"], "iss": "issuer"}), true),
            (json!({"aud": "app"}), false),
        ],
    );
    // Without either, no value matters.
    assert_verdicts("", table.map(|(claims, _)| (claims, true)));
}

/// R-CLAIM-16, R-CLAIM-18, R-CLAIM-28, R-CLAIM-30, R-CLAIM-31, R-CLAIM-32, R-LIM-9: limits are inclusive, a wrong type makes
/// the whole token invalid, and nothing else does.
#[test]
fn claims_of_the_wrong_type_or_size_make_a_token_invalid() {
    let table = [
        (json!({"scope": ["connect", "subscribe", "umd"]}), false),
        (json!({"scope": null}), false),
        (json!({"uid": 7}), false),
        (json!({"uid": ["ana"]}), false),
        (json!({"uid": "ü".repeat(129)}), false),
        (json!({"umd": "x".repeat(1022)}), true),
        (json!({"umd": "x".repeat(1023)}), false),
        (json!({"umd": "é".repeat(511)}), true),
        (json!({"umd": format!("{}x", "é".repeat(511))}), false),
        (json!({"umd": {"any": [1, "JSON", null, true]}}), true),
        (json!({"umd": false}), true),
        (json!({"umd": 1.5}), true),
        (json!({"umdUpdate": "true"}), false),
        (json!({"umdPropagate": 1}), false),
        (json!({"heartbeatTimeout": 4}), false),
        (json!({"heartbeatTimeout": 5}), true),
        (json!({"heartbeatTimeout": 600}), true),
        (json!({"heartbeatTimeout": 601}), false),
        (json!({"heartbeatTimeout": 0}), false),
        (json!({"heartbeatTimeout": -5}), false),
        (json!({"heartbeatTimeout": 30.5}), false),
        (json!({"heartbeatTimeout": "30"}), false),
        (json!({"heartbeatTimeout": true}), false),
        (json!({"keepAlive": true}), true),
        (json!({"keepAlive": "true"}), false),
        (json!({"singleUse": 1}), false),
        (json!({"jti": 1}), false),
        (json!({"connectionId": 1}), false),
        (json!({"aud": 1}), false),
        (json!({"aud": ["app", 1]}), false),
        (json!({"iss": ["issuer"]}), false),
        (json!({"channels": null}), true),
        (json!({"channels": {}}), true),
        (json!({"channels": []}), false),
        (json!({"channels": "*"}), false),
        (json!({"channels": {"room": true}}), false),
        (json!({"channels": {"room": {"subscribe": "yes"}}}), false),
        (json!({"channels": {"room": {"subscribe": 1}}}), false),
        (json!({"channels": {"room": {"messages": []}}}), false),
        (
            json!({"channels": {"room": {"messages": {"hi": true}}}}),
            false,
        ),
        (
            json!({"channels": {"room": {"messages": {"hi": {"publish": "true"}}}}}),
            false,
        ),
        (
            json!({"channels": {"room": {"storage": {"key": {"get": 1}}}}}),
            false,
        ),
        // Unknown ones do not matter, whatever they are, and case does (R-CLAIM-32).
        (
            json!({"other": {"a": [1]}, "Exp": "never", "UID": 7, "Channels": 1, "sendMessages": 1}),
            true,
        ),
        (
            json!({"channels": {"room": {"Subscribe": 1, "channelRules": "x"}}}),
            true,
        ),
        (
            json!({"channels": {"room": {"messages": {"hi": {"Publish": 1}}}}}),
            true,
        ),
    ];
    assert_verdicts("", table);
}

/// R-CLAIM-16, R-CLAIM-17, R-LIM-9, R-CLAIM-8, R-CLAIM-9, R-CLAIM-10, R-CLAIM-32: what depends on the place, when
/// connecting: the status, and whom the welcome names.
#[test]
fn who_may_connect_and_as_whom() {
    let server = Server::start();
    let user = |uid: &str| Some(json!(uid));
    for (claims, expected) in [
        (json!({"uid": "ana"}), Ok(user("ana"))),
        (json!({"uid": ""}), Ok(None)),
        (json!({}), Ok(None)),
        (json!({"uid": "ü".repeat(128)}), Ok(user(&"ü".repeat(128)))),
        (json!({"uid": "ü".repeat(129)}), Err(401)),
        (json!({"scope": "  umd   connect other "}), Ok(None)),
        (json!({"scope": "connect subscribe"}), Ok(None)),
        (json!({"scope": ""}), Err(403)),
        (json!({"scope": "subscribe"}), Err(403)),
        (json!({"scope": "subscribe umd"}), Err(403)),
        (json!({"scope": "Connect"}), Err(403)),
        (json!({"scope": "connected"}), Err(403)),
        (json!({"scope": "connect,subscribe"}), Err(403)),
        (json!({"scope": "auth"}), Err(403)),
        (json!({"connectionId": "Zt4Qw8LmPoAxBC0="}), Err(403)),
    ] {
        let connected = Client::connect(&server, &token(claims.clone()))
            .map(|client| Some(client.welcome["meta"]["uid"].clone()).filter(|it| !it.is_null()));
        assert_eq!(connected, expected, "{claims}");
    }
}

/// R-CLAIM-8, R-CLAIM-9, R-CLAIM-10, R-CLAIM-11, R-CLAIM-30: each place wants its scope, and a connection with nothing but
/// a connect token may do what that grants, which may be nothing.
#[test]
fn every_place_wants_its_scope() {
    let server = Server::start();
    let mut client = server.connect(json!({"uid": "ana"}));
    for (scope, subscribing, updating) in [
        ("subscribe", true, false),
        ("umd", false, true),
        ("connect", false, false),
        ("connect subscribe", true, false),
        (" x  umd  subscribe ", true, true),
        ("Subscribe UMD", false, false),
        ("", false, false),
    ] {
        let token = token(json!({
            "scope": scope, "uid": "ana", "umdUpdate": true, "channels": {"*": {"subscribe": true}},
        }));
        assert_eq!(
            subscribe_with(&mut client, &token).is_none(),
            subscribing,
            "{scope}"
        );
        assert_eq!(
            update_with(&mut client, &token).is_none(),
            updating,
            "{scope}"
        );
    }
    client.send(json!({"event": "hotsock.subscribe", "channel": "room"}));
    client.expect_error("SUBSCRIBE_PERMISSION_DENIED");
    client.send(json!({"event": "hi", "channel": "room"}));
    client.expect_error("PUBLISH_PERMISSION_DENIED");

    let mut client = server.connect(json!({
        "channels": {"room": {"subscribe": true, "messages": {"hi": {"publish": true, "echo": true}}}},
    }));
    client.subscribe("room");
    client.send(json!({"event": "hi", "channel": "room"}));
    client.expect("hi");
}

/// R-CLAIM-29: on connections that ask for it, and on no other.
#[test]
fn keep_alive_messages_are_for_those_who_ask() {
    let server = Server::with("[limits]\nkeep_alive = \"50ms\"");
    let mut with = server.connect(json!({"keepAlive": true}));
    let mut without = server.connect(json!({"keepAlive": false}));
    let mut silent = server.connect(json!({}));
    for _ in 0..3 {
        let message = json!({"event": "hotsock.keepAlive", "data": {}});
        assert_eq!(with.next(), message);
    }
    without.expect_nothing();
    silent.expect_nothing();
}

/// R-AUTH-19: whatever is wrong with a token, the answer is the same to the letter; so it is for all that may not connect.
#[test]
fn refusals_do_not_tell_which_check_failed() {
    let server = Server::with("issuer = \"issuer\"");
    let other = Issuer::secret("HS256", b"another secret");
    let good = json!({"iss": "issuer"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(claims)
    };
    let spent = with("singleUse", json!(false));
    assert_eq!(server.refusal(&spent), 101);
    let single = token(json!({"iss": "issuer", "singleUse": true, "jti": "1"}));
    assert_eq!(server.refusal(&single), 101);
    let answers = |tokens: &[String]| -> Vec<_> {
        tokens
            .iter()
            .map(|token| {
                let answer = server.request(
                    "GET",
                    &format!("/v1?token={token}"),
                    &[
                        ("Connection", "Upgrade"),
                        ("Upgrade", "websocket"),
                        ("Sec-WebSocket-Version", "13"),
                        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ],
                    "",
                );
                let headers: Vec<_> = (answer.headers.into_iter())
                    .filter(|(name, _)| name != "date")
                    .collect();
                (answer.status, headers, answer.body)
            })
            .collect()
    };
    let invalid = answers(&[
        String::new(),
        "nonsense".into(),
        "a.b.c".into(),
        other.token_over(good.clone()),
        with("exp", json!(1)),
        with("nbf", json!(now() + 1000)),
        with("iss", json!("somebody else")),
        with("uid", json!(7)),
        with("umd", json!("x".repeat(2000))),
        with("channels", json!({"#regex:(": {}})),
    ]);
    let forbidden = answers(&[
        with("scope", json!("subscribe")),
        with("connectionId", json!("Zt4Qw8LmPoAxBC0=")),
        single,
    ]);
    for (status, answers) in [(401, invalid), (403, forbidden)] {
        assert_eq!(answers[0].0, status);
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:#?}"
        );
    }
}

/// R-LIM-20
#[test]
fn a_token_of_eight_kilobytes_fits_into_the_url() {
    let server = Server::start();
    let of_length = |wanted: usize| {
        let mut filler = 0;
        loop {
            let token = token(json!({"filler": "x".repeat(filler)}));
            match wanted.saturating_sub(token.len()) {
                0 | 1 => return token,
                missing => filler += (missing * 3 / 4).max(1),
            }
        }
    };
    let token = of_length(8192);
    assert!(token.len() >= 8191, "{}", token.len());
    assert_eq!(server.refusal(&token), 101);
    // Far beyond, the refusal is a bounded one.
    let status = server.refusal(&of_length(40_000));
    assert!([401, 414, 431].contains(&status), "{status}");
}

/// What a use of a single-use token came to.
fn single_use(jti: &str, more: Value) -> Value {
    let mut claims = json!({
        "singleUse": true, "jti": jti, "uid": "ana", "scope": "connect subscribe umd", "umdUpdate": true,
        "channels": {"*": {"subscribe": true}, "closed": {"subscribe": false}},
    });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// R-CLAIM-22, R-CLAIM-24, R-CLAIM-26: after its first success, wherever that was, a token is good nowhere; also when the
/// settings have been read anew.
#[test]
fn a_single_use_token_is_spent_by_its_first_success() {
    let server = Server::start();
    let mut client = server.connect(json!({"uid": "ana"}));
    let uses: [fn(&Server, &mut Client, &str) -> bool; 3] = [
        |server, _, token| match server.refusal(token) {
            101 => true,
            status => {
                assert_eq!(status, 403, "R-CONN-7");
                false
            }
        },
        |_, client, token| match subscribe_with(client, token) {
            None => true,
            Some(code) => {
                assert_eq!(code, "INVALID_SUBSCRIBE_TOKEN");
                false
            }
        },
        |_, client, token| match update_with(client, token) {
            None => true,
            Some(code) => {
                assert_eq!(code, "INVALID_UMD_TOKEN");
                false
            }
        },
    ];
    let mut spent = Vec::new();
    for (number, first) in uses.iter().enumerate() {
        let token = token(single_use(&format!("use-{number}"), json!({})));
        assert!(first(&server, &mut client, &token));
        spent.push(token);
    }
    for round in 0..2 {
        for token in &spent {
            for again in uses {
                assert!(!again(&server, &mut client, token), "round {round}");
            }
        }
        reload(&server, "leeway = \"10m\"");
    }
}

/// R-CLAIM-23, R-CLAIM-27
#[test]
fn single_use_needs_an_id_and_an_id_alone_means_nothing() {
    let server = Server::start();
    let mut client = server.connect(json!({"uid": "ana"}));
    for claims in [
        json!({"singleUse": true}),
        json!({"singleUse": true, "jti": ""}),
    ] {
        assert_eq!(
            verdict(&server, &mut client, &claims),
            Some(false),
            "{claims}"
        );
    }
    for claims in [
        json!({"jti": "same"}),
        json!({"jti": "same", "singleUse": false}),
        json!({"jti": ""}),
    ] {
        for _ in 0..2 {
            assert_eq!(
                verdict(&server, &mut client, &claims),
                Some(true),
                "{claims}"
            );
        }
    }
}

/// R-CLAIM-25, R-CLAIM-4: whatever failed before, the first attempt that can succeed does.
#[test]
fn failed_attempts_do_not_spend_a_token() {
    let forger = Issuer::secret("HS256", b"another secret");
    let server = Server::start();
    let mut client =
        server.connect(json!({"uid": "ana", "channels": {"room": {"subscribe": true}}}));
    client.subscribe("room");
    let claims = single_use("1", json!({"nbf": now() + 300, "umdUpdate": false}));
    let good = token(claims.clone());
    let mut failed = |expected: [&str; 2]| {
        for (channel, expected) in [("closed", expected[0]), ("room", expected[1])] {
            let data = json!({"token": good});
            client.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
            client.expect_error(expected);
        }
    };
    // Too early, and with the signature of somebody else.
    assert_eq!(server.refusal(&good), 401);
    failed(["INVALID_SUBSCRIBE_TOKEN", "ALREADY_SUBSCRIBED"]);
    assert_eq!(
        server.refusal(&forger.token_over(single_use("1", json!({})))),
        401
    );
    // Too late: the same id in a token that has expired.
    assert_eq!(
        server.refusal(&token(single_use("1", json!({"exp": 1})))),
        401
    );

    // Its time has come, as far as this server is concerned.
    reload(&server, "leeway = \"10m\"");
    failed(["SUBSCRIBE_PERMISSION_DENIED", "ALREADY_SUBSCRIBED"]);
    assert_eq!(
        update_with(&mut client, &good).as_deref(),
        Some("UMD_UPDATE_PERMISSION_DENIED")
    );
    // In the wrong place, and for somebody else.
    let mut other = server.connect(json!({"uid": "ben"}));
    assert_eq!(
        subscribe_with(&mut other, &good).as_deref(),
        Some("INVALID_SUBSCRIBE_TOKEN")
    );
    assert_eq!(
        update_with(&mut other, &good).as_deref(),
        Some("INVALID_UMD_TOKEN")
    );
    let scoped = token(single_use("1", json!({"scope": "subscribe"})));
    assert_eq!(server.refusal(&scoped), 403);

    assert_eq!(server.refusal(&good), 101);
    assert_eq!(server.refusal(&good), 403);
}

/// R-CLAIM-26: of those who use one token at the same time, exactly one succeeds.
#[test]
fn of_simultaneous_uses_of_a_single_use_token_one_succeeds() {
    const CLIENTS: usize = 4;
    let server = Server::start();
    for round in 0..5 {
        let connecting = token(single_use(&format!("connect-{round}"), json!({})));
        let connected = at_once(vec![(); CLIENTS], |()| server.refusal(&connecting));
        assert_eq!(connected, [101, 403, 403, 403]);

        let subscribing = token(single_use(&format!("subscribe-{round}"), json!({})));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| server.connect(json!({"uid": "ana"})))
            .collect();
        let subscribed = at_once(clients, |mut client| {
            subscribe_with(&mut client, &subscribing)
        });
        let refused = Some("INVALID_SUBSCRIBE_TOKEN".to_owned());
        let refused = vec![refused; CLIENTS - 1];
        assert_eq!(subscribed[0], None);
        assert_eq!(subscribed[1..], refused);
    }
}

/// Does something with all of them at the same time; what came of it, sorted.
fn at_once<T: Send, U: Send + Ord>(all: Vec<T>, act: impl Fn(T) -> U + Sync) -> Vec<U> {
    let start = Barrier::new(all.len());
    let (start, act) = (&start, &act);
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = all
            .into_iter()
            .map(|one| {
                scope.spawn(move || {
                    start.wait();
                    act(one)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    outcomes.sort_unstable();
    outcomes
}

/// R-CLAIM-3, R-CLAIM-26: a token that is still accepted, if only for leeway, is still remembered.
#[test]
fn a_single_use_token_is_good_once_also_beyond_its_expiry() {
    let server = Server::with("leeway = \"10m\"");
    let late = token(single_use("late", json!({"exp": now() - 60})));
    assert_eq!(server.refusal(&late), 101);
    assert_eq!(server.refusal(&late), 403);
}
