//! A URL: every event is posted, signed as the Standard Webhooks specification has it, so that backends can verify it with a
//! library (R-DIFF-9).
//!
//! `webhook-signature` is `v1,` and the Base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, one for each
//! secret. The identifier stays the same when an event is sent again.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{ATTEMPT, Answer, CONNECT, Verdict, blocking};
use crate::config::Secret;
use crate::events::batch::Limits;
use crate::events::spool::{LONGEST, Record};
use crate::info::VERSION;

/// One event in a request.
pub const LIMITS: Limits = Limits {
    events: 1,
    event_bytes: LONGEST,
    total_bytes: LONGEST,
};

/// More of an answer is not read.
const ANSWER: u64 = 64 << 10;

/// What a request is signed with.
#[derive(Debug, Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// Bytes that a secret has at least: what the specification asks for.
    pub const SHORTEST: usize = 24;

    /// `whsec_` and Base64, or any text.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    pub fn parse(secret: &Secret) -> Result<Self, String> {
        let bytes = match secret.expose().strip_prefix("whsec_") {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map_err(|_| "is not Base64 after `whsec_`".to_owned())?,
            None => secret.expose().as_bytes().to_vec(),
        };
        if bytes.len() < Self::SHORTEST {
            return Err(format!(
                "has {} bytes at least, this one has {}",
                Self::SHORTEST,
                bytes.len()
            ));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// One element of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// A URL.
#[derive(Debug)]
pub struct Webhook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agent: ureq::Agent,
    url: String,
    keys: Vec<Key>,
}

impl Webhook {
    /// A URL, with secrets that have been checked.
    #[must_use]
    pub fn new(url: &str, secrets: &[Secret]) -> Self {
        // Fails only when another one is installed already, which then serves as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Whoever is sent elsewhere by an answer would send events there.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ATTEMPT))
            .user_agent(format!("realtime/{VERSION}"))
            .build()
            .into();
        Self(Arc::new(Inner {
            agent,
            url: url.into(),
            keys: secrets
                .iter()
                .filter_map(|secret| Key::parse(secret).ok())
                .collect(),
        }))
    }

    pub(super) async fn send(&self, records: &[Record]) -> Answer {
        let Some(record) = records.first().cloned() else {
            return Answer::Each(Vec::new());
        };
        let inner = self.0.clone();
        blocking(move || Answer::Each(vec![inner.post(&record)])).await
    }
}

impl Inner {
    fn post(&self, record: &Record) -> Verdict {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let id = record.id.to_string();
        let signatures: Vec<_> = (self.keys.iter())
            .map(|key| key.sign(&id, now, &record.envelope))
            .collect();
        let answer = self
            .agent
            .post(&self.url)
            .content_type("application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signatures.join(" "))
            .send(&record.envelope);
        match answer {
            Ok(mut answer) => {
                // Read, so that the connection can be used again.
                drop(answer.body_mut().with_config().limit(ANSWER).read_to_vec());
                verdict(answer.status().as_u16())
            }
            Err(error) => Verdict::Later(error.to_string()),
        }
    }
}

/// What a status means. A receiver that finds an event wrong will find it wrong again; all else can be put right.
fn verdict(status: u16) -> Verdict {
    let why = || format!("HTTP {status}");
    match status {
        200..300 => Verdict::Taken,
        400 | 413 | 422 => Verdict::Never(why()),
        _ => Verdict::Later(why()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Result<Key, String> {
        Key::parse(&Secret::new(secret))
    }

    /// R-DIFF-9: the example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// R-DIFF-9
    #[test]
    fn a_secret_is_long_enough_or_refused() {
        assert!(key("a secret of 24 characters").is_ok());
        assert!(key("short").is_err());
        assert!(key("whsec_c2hvcnQ=").is_err());
        assert!(key("whsec_%").unwrap_err().contains("Base64"));
    }

    /// R-EVT-11
    #[test]
    fn only_what_the_receiver_finds_wrong_is_given_up() {
        assert_eq!(verdict(204), Verdict::Taken);
        for status in [301, 401, 403, 404, 408, 410, 429, 500, 503] {
            assert!(matches!(verdict(status), Verdict::Later(_)), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(matches!(verdict(status), Verdict::Never(_)), "{status}");
        }
    }
}
