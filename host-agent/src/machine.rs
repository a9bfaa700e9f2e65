//! `/etc/porter/machine.json`: the few facts about a machine that the agent does not guess, and the instance's identity.
//! The file is absent on EC2.

use serde::Deserialize;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Where the proxy listens and where containers are published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// Address of the proxy's listeners; `*` is every address.
    pub bind_address: String,
    /// Plain HTTP (D-HAP-5: 80).
    pub http_port: u16,
    /// Traffic whose TLS ended at the load balancer (D-HAP-5: 8080).
    pub forwarded_https_port: u16,
    /// Where containers are published (D-HOST-19).
    pub publish_address: Ipv4Addr,
    /// First and last port for containers (D-HOST-19).
    pub port_range: (u16, u16),
    /// The sockets' folder as the container engine sees it, where the engine lives in another root than this host: on a
    /// simulated one.
    pub engine_sockets: Option<PathBuf>,
    /// The containers' data as the engine sees it, likewise.
    pub engine_data: Option<PathBuf>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            bind_address: "*".into(),
            http_port: 80,
            forwarded_https_port: 8080,
            publish_address: Ipv4Addr::LOCALHOST,
            port_range: (20_000, 29_999),
            engine_sockets: None,
            engine_data: None,
        }
    }
}

impl Machine {
    /// Reads the file; the defaults are those of EC2.
    ///
    /// # Errors
    /// A sentence naming the file when it exists and can't be read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bad = |e: &dyn std::fmt::Display| format!("{} can't be read: {e}", path.display());
        match crate::files::read(path).map_err(|e| bad(&e))? {
            None => Ok(Self::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| bad(&e)),
        }
    }
}

/// The instance's id, from the instance metadata service (IMDSv2).
///
/// # Errors
/// A sentence when the service does not answer: without the id no signal can be attributed to this host.
pub async fn instance_id() -> Result<String, String> {
    let client = aws_config::imds::Client::builder().build();
    client
        .get("/latest/meta-data/instance-id")
        .await
        .map(|id| id.as_ref().trim().to_owned())
        .map_err(|e| {
            format!(
                "the instance metadata service did not tell this host's instance id: {}",
                crate::aws_error(&e)
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_the_facts_are_those_of_ec2_and_a_partial_file_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        assert_eq!(Machine::read(&path), Ok(Machine::default()));
        std::fs::write(&path, r#"{"bind_address":"127.0.1.5","port_range":[1,2]}"#).unwrap();
        let machine = Machine::read(&path).unwrap();
        assert_eq!(machine.bind_address, "127.0.1.5");
        assert_eq!((machine.http_port, machine.port_range), (80, (1, 2)));
        std::fs::write(&path, "{").unwrap();
        assert!(Machine::read(&path).unwrap_err().contains("machine.json"));
    }
}
