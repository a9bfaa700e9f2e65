//! Pure tally of what the hosts say, and the wait for them (D-HOT-27 to D-HOT-43).
//!
//! | module | what it does |
//! |---|---|
//! | [`tally`] | pure: counts instances, not messages; the verdict of the hosts |
//! | [`watch`] | pure: the tally, the stack's own status and the deadline together |
//! | [`wait`] | the only part with I/O: queue, group and stack are read until the watch has ended |

pub mod tally;
pub mod wait;
pub mod watch;

#[cfg(test)]
mod simulation;

pub use tally::{HostState, Membership, Observation, Phase, Reconciliation, Tally, Verdict};

pub use wait::{End, Outcome, Received, Region, wait};
pub use watch::{Due, Ended, Mark, Pace, Watch};
