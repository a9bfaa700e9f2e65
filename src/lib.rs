//! porter: deploys services of containers to EC2, and hot-swaps them on running hosts.
//!
//! # Code map
//!
//! `.porter/config` → [`config`] → [`pack`] → [`payload`] → [`template`] → [`eligibility`] → [`update`] → [`signals`] →
//! [`report`]
//!
//! | module | in the flow |
//! |---|---|
//! | [`config`] | raw YAML → checked, resolved configuration |
//! | [`pack`] | builds the containers, takes the images apart |
//! | [`payload`] | what the hosts receive: blobs and manifest, uploaded only when missing |
//! | [`template`] | the user's CloudFormation in, the final one out; pure |
//! | [`eligibility`], [`capacity`] | pure: hot swap, provision or refuse, with every reason |
//! | [`drift`] | pure: does a change set hold more than a swap may change? |
//! | [`deploy`] | THE deploy: the steps of `docs/hotswap.md`, in order |
//! | [`update`] | creates or updates the stack and follows it to its end |
//! | [`signals`] | pure tally of what the hosts say, and the wait for them |
//! | [`promote`] | records the promoted stack in its load balancer's tag |
//! | [`hooks`] | the user's hooks at their named moments |
//! | [`state`], [`report`], [`progress`], [`error`] | what people and scripts get to see |
//! | [`cli`], [`commands`] | flags and help; one thin file for each command |
//! | [`aws`] | the only files that know the SDK |

pub mod aws;
pub mod capacity;
pub mod cli;
pub mod commands;
pub mod config;
pub mod deploy;
pub mod drift;
pub mod eligibility;
pub mod error;
mod files;
pub mod hooks;
pub mod pack;
pub mod payload;
pub mod progress;
pub mod promote;
pub mod report;
pub mod signals;
pub mod state;
pub mod template;
pub mod update;
