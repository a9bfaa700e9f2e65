//! Hands a running process's listeners and live connections to its successor: no connection dropped, none read twice.
//!
//! For any service on Linux. The two processes share a directory with a Unix socket, nothing else: they may live in
//! containers of their own. The protocol is specified in `docs/handover.md`.
//!
//! # In the order of a handover
//!
//! | the process that serves | its successor |
//! |---|---|
//! | [`predecessor::answer`] a connection on the handover socket | [`successor::connect`] |
//! | the service freezes; [`predecessor::Asked::transfer`] | [`successor::Offered::take`] |
//! | [`predecessor::Prepared::commit`] | … which calls the service back to accept what has come |
//! | [`predecessor::Ending`]: released, or resume | serves |
//!
//! # Code map
//!
//! | module | what |
//! |---|---|
//! | [`predecessor`], [`successor`] | the two sides; each reads as the phases in order |
//! | [`control`] | what whoever leads (an agent, a person) can ask of a process |
//! | [`desk`] | keeps conversations off a service's loop |
//! | [`place`] | which socket is whose |
//! | [`wire`] | frames, and their bounds; no I/O |
//! | `descriptors` | bytes and descriptors with deadlines |
//! | `word` | who has decided what, and who is alive |
//! | [`phase`], [`receipt`], [`failure`], [`settings`] | how far, what came of it, why not, and under which rules |
//!
//! Everything blocks, within deadlines; a service whose loop must not wait runs a side on a thread of its own.
//!
//! Absent on purpose: what a connection's state is, and how to freeze. Both are the service's.

pub mod control;
mod descriptors;
pub mod desk;
pub mod failure;
mod peers;
pub mod phase;
pub mod place;
pub mod predecessor;
pub mod receipt;
mod session;
pub mod settings;
pub mod successor;
pub mod wire;
mod word;

pub use failure::{Cause, Failure};
pub use phase::{Observer, Phase, Side, unobserved};
pub use receipt::{End, Receipt};
pub use settings::{Deadlines, Limits, Schemas, Settings};
