//! `.porter-tmp/provision_state.json`: what `build provision` leaves for `build promote` and for people
//! (D-CLI-45, D-CLI-46).
//!
//! Written when the work begins, with outcome `running`, and after each transition, so that a stale success can't be
//! taken for the current run.

use crate::report::Outcome;
use contract::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The file's format number.
pub const FORMAT: u32 = 1;

/// The file's name below `.porter-tmp/`.
pub const FILE: &str = "provision_state.json";

/// The state of one run. Upper-case keys are the original porter's, which scripts read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProvisionState {
    /// [`FORMAT`].
    pub v: u32,
    /// Service name.
    #[serde(rename = "Name")]
    pub name: String,
    /// Whether running hosts were swapped.
    #[serde(rename = "Hotswap")]
    pub hotswap: bool,
    /// Environment name.
    #[serde(rename = "Environment")]
    pub environment: String,
    /// Region name → what was made there.
    #[serde(rename = "Regions")]
    pub regions: BTreeMap<String, RegionState>,
    /// How far the run is.
    pub outcome: Outcome,
    /// Its swap id.
    pub swap: String,
    /// The payload that was to be deployed.
    pub payload: Digest,
    /// When the run began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// One region of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionState {
    /// Id of the created or updated stack.
    #[serde(rename = "StackId")]
    pub stack_id: String,
    /// Physical name of the provisioned load balancer, empty where there is none.
    #[serde(rename = "ProvisionedELBName")]
    pub provisioned_elb_name: String,
    /// The stack that was promoted before.
    pub previous_stack_id: Option<String>,
    /// Where the assembled template lies.
    pub template_url: Option<String>,
}

impl ProvisionState {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        crate::files::write_atomically(
            &folder.join(FILE),
            &serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?,
        )
    }

    /// Reads a file that [`ProvisionState::save`] wrote.
    ///
    /// # Errors
    /// A sentence that names the file, for a missing, unreadable or newer one.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|e| {
            format!(
                "{} can't be read: {e}; run `porter build provision` first",
                path.display()
            )
        })?;
        let state: Self = serde_json::from_slice(&text)
            .map_err(|e| format!("{} is not a provision state: {e}", path.display()))?;
        if state.v == FORMAT {
            Ok(state)
        } else {
            Err(format!(
                "{} has format {}, this porter reads {FORMAT}",
                path.display(),
                state.v
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_cli_45_the_file_keeps_porters_keys_and_survives_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let state = ProvisionState {
            v: FORMAT,
            name: "hello".into(),
            hotswap: true,
            environment: "stage".into(),
            regions: BTreeMap::from([(
                "us-east-1".into(),
                RegionState {
                    stack_id: "arn:1".into(),
                    ..RegionState::default()
                },
            )]),
            outcome: Outcome::Running,
            swap: "01J".into(),
            payload: Digest::from_bytes(&[7; 32]),
            started: "2026-11-21T02:00:00Z".parse().unwrap(),
            ended: None,
        };
        state.save(folder.path()).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join(FILE)).unwrap()).unwrap();
        // D-CLI-45, D-CLI-46
        assert_eq!(
            (&json["Name"], &json["Hotswap"], &json["Environment"]),
            (&"hello".into(), &true.into(), &"stage".into())
        );
        assert_eq!(json["Regions"]["us-east-1"]["StackId"], "arn:1");
        assert_eq!(json["outcome"], "running");
        assert_eq!(ProvisionState::read(&folder.path().join(FILE)), Ok(state));
        assert!(
            ProvisionState::read(&folder.path().join("absent"))
                .unwrap_err()
                .contains("porter build provision")
        );
    }
}
