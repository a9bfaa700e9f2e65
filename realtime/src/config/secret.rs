//! Values that no log, listing or error shows, and the API keys made of them.

use aws_lc_rs::{constant_time, digest};
use std::fmt;

/// A value that is never shown. [`fmt::Debug`] prints `[redacted]`; there is no way to print it by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

/// A key of the server API, kept and compared as its SHA-256, so that neither its length nor its beginning shows in the time
/// that a comparison takes.
#[derive(Clone, PartialEq)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// The shortest key that is accepted (R-LIM-19).
    pub const SHORTEST: usize = 32;
    /// Characters of a generated key (R-SRV-2).
    pub const LENGTH: usize = 40;

    /// Checks a configured key: 32 visible ASCII characters at least, none of them a comma (R-LIM-19).
    ///
    /// # Errors
    /// What is wrong, without the key.
    pub fn parse(key: &str) -> Result<Self, String> {
        if key.len() < Self::SHORTEST {
            return Err(format!(
                "an API key has at least {} characters, this one has {}",
                Self::SHORTEST,
                key.len()
            ));
        }
        if !key.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
            return Err(
                "an API key consists of visible ASCII characters without comma or space".into(),
            );
        }
        Ok(Self::of(key.as_bytes()))
    }

    fn of(key: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, key);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Compares digests, all of them, in constant time (R-SRV-4).
    pub(super) fn accepted(keys: &[Self], given: &[u8]) -> bool {
        let given = Self::of(given);
        keys.iter().fold(false, |found, key| {
            constant_time::verify_slices_are_equal(&key.0, &given.0).is_ok() | found
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
