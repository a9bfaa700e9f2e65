//! The host agent: runs on every EC2 host, started by cfn-hup, and swaps the code that the host serves.
//!
//! # Code map
//!
//! `DesiredState → images → containers → health → traffic → drain → clean → HostSignal`, a journal beside every arrow.
//!
//! | module | in the flow |
//! |---|---|
//! | [`agent`] | the errands `hotswap` and `boot`: settle what was interrupted, converge, look again |
//! | [`job`] | the desired state, from the stack |
//! | [`observe`], [`plan`], [`recover`] | what is true; pure: what to do about it |
//! | [`swap`] | THE host side of a deployment, step by step |
//! | [`journal`], [`files`] | intent and done on disk |
//! | [`store`], [`images`] | blobs from the bucket, images into the engine |
//! | [`headroom`], [`containers`], [`health`] | room for both versions, start, readiness |
//! | [`seat`], [`takeover`] | containers that hand their connections over: their sockets, and leading a handover |
//! | [`traffic`], [`drain`] | the proxy's configuration, the cut-over, the old connections |
//! | [`clean`], [`signal`] | leftovers; what the build host hears |
//! | [`status`] | what runs here, for people and scripts |
//! | [`custom`] | the user's own programs on the host |
//! | [`host`], [`machine`], [`failure`] | this host, and why a step failed |
//! | [`docker`], [`queue`] | the only files that know the Engine API, and SQS |

pub mod agent;
pub mod clean;
pub mod containers;
pub mod custom;
pub mod data;
pub mod docker;
pub mod drain;
pub mod failure;
pub mod files;
pub mod headroom;
pub mod health;
pub mod host;
pub mod images;
pub mod job;
pub mod journal;
pub mod machine;
pub mod observe;
pub mod plan;
pub mod queue;
pub mod recover;
pub mod seat;
pub mod signal;
pub mod status;
pub mod store;
pub mod swap;
pub mod takeover;
pub mod traffic;

/// An SDK error with its causes on one line, each once.
pub(crate) fn aws_error(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        cause = e.source();
    }
    parts.join(": ")
}
