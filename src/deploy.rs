//! THE deploy: the steps of `docs/hotswap.md`, in order.
//!
//! [`run`] decides first and acts second. [`hot_swap`] and [`provision`] read top to bottom as the documentation's lists;
//! what a step does in one region is in [`region`], regions are worked on concurrently.

pub mod plan;
mod region;
mod verdict;

use crate::{
    aws,
    capacity::Sizes,
    config::{self, Config, Environment, OnIneligible, OnTemplateDrift},
    eligibility::{self, Decision},
    error::{Exit, Failure},
    hooks::{self, Moment},
    pack::Packed,
    progress::Console,
    report::{Bytes, DecisionKind, HostReport, Outcome, RegionReport, Report},
    state::{ProvisionState, RegionState},
};
use contract::digest::Digest;
use futures::future::join_all;
use jiff::Timestamp;
use region::Target;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What the caller wants.
#[derive(Debug)]
pub struct Request {
    /// Environment of the configuration.
    pub environment: String,
    /// Root of the service's repository.
    pub repository: PathBuf,
    /// `.porter-tmp`.
    pub out: PathBuf,
    /// Which way.
    pub way: Way,
    /// Use the template's DesiredCapacity once (D-HOT-14).
    pub reset_desired: bool,
    /// Why an active blackout window does not count (D-CFG-113).
    pub override_blackout: Option<String>,
    /// The host agent's binary.
    pub host_agent: PathBuf,
}

/// Which way a deployment may go (D-CLI-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the decision says.
    Either,
    /// New hosts in any case.
    Provision,
    /// Running hosts or nothing.
    HotSwap,
}

/// What is deployed where: read once, checked, then only looked at.
struct Deployment<'a> {
    request: &'a Request,
    console: &'a Console,
    stop: &'a CancellationToken,
    config: Config,
    environment: Environment,
    packed: Packed,
    swap: String,
    started: Timestamp,
}
