//! A place to run porter without an AWS account: `porter local`.
//!
//! # Code map
//!
//! `up` → [`cloud`] → [`fleet`] → [`emulator`], [`resources`], and one [`host`] per instance
//!
//! | module | what |
//! |---|---|
//! | [`cloud`], [`place`], [`logs`] | a cloud as its users see it: up, down, its files |
//! | [`requirements`] | what the machine must have |
//! | [`emulator`], [`resources`], [`query`] | MiniStack, what exists in it from the start, calls without an SDK |
//! | [`fleet`], [`membership`] | the background process: groups → hosts |
//! | [`host`], [`init`], [`image`] | one simulated host from outside, its PID 1, what its root has |
//! | [`guest`], [`metadata`], [`cloud_init`], [`systemd`] | what runs in it |
//! | [`stand_ins`], [`cfn_init`], [`cfn_hup`], [`cfn_signal`], [`aws_cli`] | programs of the machine image, by their names |
//! | [`entry`] | how one program is all of these |
//!
//! Decisions are pure: [`cfn_init::plan`], [`cfn_hup::decide`], [`cloud_init::plan`], [`fleet::steps`].
//!
//! Absent on purpose: everything that MiniStack does. The template, the scripts and the host agent have no special case
//! for this place; what EC2 hosts have, these have under the same names.

pub mod aws_cli;
pub mod cfn_hup;
pub mod cfn_init;
pub mod cfn_signal;
pub mod cloud;
pub mod cloud_init;
pub mod emulator;
pub mod entry;
pub mod flags;
pub mod fleet;
pub mod guest;
pub mod host;
pub mod image;
pub mod init;
pub mod logfile;
pub mod logs;
pub mod membership;
pub mod metadata;
pub mod place;
pub mod process;
pub mod query;
pub mod requirements;
pub mod resources;
pub mod settings;
pub mod stack_resource;
pub mod stand_ins;
pub mod systemd;

pub use cloud::{Cloud, Ephemeral, Options};
pub use emulator::Emulator;
pub use host::{HostInfo, HostState};
pub use place::Place;

/// The cloud of `porter local` without `--name`.
pub const DEFAULT_NAME: &str = "default";
