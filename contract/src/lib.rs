//! What porter (on the build host) and the host agent (on every EC2 host) promise each other.
//!
//! Pure data: no I/O, no clock, no randomness. The build host writes [`job::DesiredState`] into the stack's template
//! and [`manifest::Manifest`] into the bucket; each host answers with [`signal::HostSignal`]s on the stack's queue.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | SHA-256 names of blobs and payloads |
//! | [`manifest`] | the payload: images, layers, and what each environment's hosts run |
//! | [`spec`] | containers, health checks and proxy settings of one kind of host |
//! | [`job`] | the desired state that the template's metadata carries |
//! | [`step`] | the steps a host goes through, by the names that documents and output use |
//! | [`signal`] | what a host tells the build host |
//! | [`names`] | logical ids, tags, labels, keys and paths on which both sides rely |

pub mod digest;
pub mod job;
pub mod manifest;
pub mod millis;
pub mod names;
pub mod signal;
pub mod spec;
pub mod step;
