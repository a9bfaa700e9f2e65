//! How far a handover has come, in words that logs, receipts and tests share.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which of the two processes of a handover one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Has the connections, and gives them away.
    Predecessor,
    /// Takes them.
    Successor,
}

/// A point that one side has passed. The order of declaration is the order in time.
///
/// | phase | in the predecessor | in the successor |
/// |---|---|---|
/// | `Connected` | a trusted peer has said hello | it is connected to a trusted peer |
/// | `Offered` | the offer is sent | the offer is read and possible |
/// | `Begun` | `begin` is read: the service freezes now | `begin` is sent |
/// | `Frozen` | the service has frozen | the first frame has come, so it has |
/// | `Transferring` | a batch of connections is sent (repeats) | a batch is acknowledged and read (repeats) |
/// | `Sealed` | `sealed` is sent | `sealed` is read, and everything is there |
/// | `Ready` | `ready` is read | the service has accepted the state, `ready` is sent |
/// | `Committed` | the commit is given | the commit is taken: no one else can have it |
/// | `Taken` | the successor's word is there: released | the word is given: the service may read |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The table above.
pub enum Phase {
    Connected,
    Offered,
    Begun,
    Frozen,
    Transferring,
    Sealed,
    Ready,
    Committed,
    Taken,
}

impl Phase {
    /// Every phase, in order of time.
    pub const ALL: [Phase; 9] = [
        Phase::Connected,
        Phase::Offered,
        Phase::Begun,
        Phase::Frozen,
        Phase::Transferring,
        Phase::Sealed,
        Phase::Ready,
        Phase::Committed,
        Phase::Taken,
    ];

    /// The name that JSON and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connected => "connected",
            Phase::Offered => "offered",
            Phase::Begun => "begun",
            Phase::Frozen => "frozen",
            Phase::Transferring => "transferring",
            Phase::Sealed => "sealed",
            Phase::Ready => "ready",
            Phase::Committed => "committed",
            Phase::Taken => "taken",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Told of every phase as it is passed, on the thread that runs the protocol: to report progress, or to stop a test
/// anywhere.
pub type Observer = Box<dyn FnMut(Phase) + Send>;

/// For those who do not watch.
pub fn unobserved() -> Observer {
    Box::new(|_| ())
}
