//! The desired state of a host: what the launch template's metadata carries under the key `Porter`.
//!
//! Small on purpose: cfn-hup hands the watched value to its action through the environment, where one string is limited
//! to 128 KiB. Everything large is in the manifest, named by digest.

use crate::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The format that this version writes and reads; also the value of the tag `porter-host-protocol` (D-HOT-7).
pub const HOST_PROTOCOL: u32 = 1;

/// How the hosts of one deployment move together (D-CFG-96).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every host swaps on its own.
    Simple,
}

/// What a host shall run, and whom it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// [`HOST_PROTOCOL`] of the writer. Numbers travel as numbers or numeric strings, because CloudFormation turns
    /// metadata scalars into strings when it resolves them.
    #[serde(deserialize_with = "number")]
    pub v: u32,
    /// The deployment's id (a ULID), new for every `build provision`.
    pub swap: String,
    /// Payload digest.
    pub payload: Digest,
    /// `service_name`.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// Region of stack, queue and bucket.
    pub region: String,
    /// Stack id (an ARN).
    pub stack: String,
    /// Bucket of blobs and manifests.
    pub bucket: String,
    /// URL of `PorterSignalQueue`.
    pub queue: String,
    /// D-CFG-99; empty when unused.
    #[serde(default)]
    pub generation: String,
    /// How hosts move together.
    pub mode: Mode,
    /// After this time no host moves traffic for this swap any more (D-HOT-43). A first boot ignores it.
    pub deadline: Timestamp,
}

fn number<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    match Either::deserialize(d)? {
        Either::Number(n) => Ok(n),
        Either::Text(t) => t.parse().map_err(serde::de::Error::custom),
    }
}

impl DesiredState {
    /// Reads the desired state out of the launch template's whole `Metadata` object, as DescribeStackResource returns it.
    ///
    /// # Errors
    /// A sentence for the operator when the key is missing, malformed, or of a protocol this program does not speak.
    pub fn from_metadata(metadata: &serde_json::Value) -> Result<Self, String> {
        let value = metadata.get(crate::names::METADATA_KEY).ok_or_else(|| {
            format!(
                "the launch template's metadata has no key `{}`",
                crate::names::METADATA_KEY
            )
        })?;
        let state: Self = serde_json::from_value(value.clone()).map_err(|e| {
            format!(
                "the metadata key `{}` can't be read: {e}",
                crate::names::METADATA_KEY
            )
        })?;
        if state.v == HOST_PROTOCOL {
            Ok(state)
        } else {
            Err(format!(
                "the desired state has host protocol {}, this program speaks {HOST_PROTOCOL}",
                state.v
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(v: serde_json::Value) -> serde_json::Value {
        json!({"Porter": {
            "v": v, "swap": "01J", "payload": format!("sha256:{}", "0".repeat(64)), "service": "hello",
            "environment": "stage", "region": "us-east-1", "stack": "arn:x", "bucket": "b", "queue": "http://q",
            "mode": "simple", "deadline": "2026-11-21T00:00:00Z", "unknown-later-field": 1
        }})
    }

    #[test]
    fn numbers_may_arrive_as_strings_and_unknown_fields_are_left_to_later_versions() {
        let a = DesiredState::from_metadata(&metadata(json!(1))).unwrap();
        let b = DesiredState::from_metadata(&metadata(json!("1"))).unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn d_hot_7_another_host_protocol_is_refused_with_both_numbers() {
        let error = DesiredState::from_metadata(&metadata(json!(2))).unwrap_err();
        assert!(
            error.contains("protocol 2") && error.contains("speaks 1"),
            "{error}"
        );
        assert!(
            DesiredState::from_metadata(&json!({}))
                .unwrap_err()
                .contains("`Porter`")
        );
    }
}
