//! What `up` was asked for, as the fleet reads it.

use crate::process::Process;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `settings.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Instances that a configuration should ask for; only exported.
    pub hosts: u32,
    /// How often hosts look for a changed stack, in milliseconds.
    pub poll_ms: u64,
    /// Regions to follow.
    pub regions: Vec<String>,
    /// The virtual environment's interpreter.
    pub python: PathBuf,
    /// When this process ends, the cloud takes itself down.
    pub owner: Option<Process>,
}
