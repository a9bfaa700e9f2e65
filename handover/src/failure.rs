//! Why a handover ended without a new owner, and where.

use crate::{
    phase::{Phase, Side},
    receipt::Receipt,
    wire::{Message, WireError},
};
use std::io;

/// A handover that did not happen. Who sees it as the predecessor serves on; who sees it as the successor holds nothing.
#[derive(Debug, thiserror::Error)]
#[error("no handover (last phase: {}): {cause}", phase.map_or("none", Phase::name))]
pub struct Failure {
    /// The last phase that this side had passed.
    pub phase: Option<Phase>,
    /// What went wrong after it.
    pub cause: Cause,
    /// The account of it, for whoever leads.
    pub receipt: Box<Receipt>,
}

/// What went wrong. Sentences name what to do where an operator can do something.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The other side was silent for too long.
    #[error("the other process did not answer in time ({waited_for})")]
    TimedOut {
        /// The thing that did not come.
        waited_for: &'static str,
    },
    /// The other side closed the stream, or died.
    #[error("the other process ended the conversation")]
    Ended,
    /// The other side ended the handover in an orderly way.
    #[error("the other process gave up: {0}")]
    GaveUp(String),
    /// The predecessor did not let the successor in.
    #[error("the predecessor refuses: {0}")]
    Refused(String),
    /// The peer runs as a user who may not take part.
    #[error(
        "the peer runs as user {uid}, which is neither this process's user, nor root, nor trusted by its settings"
    )]
    NotOurs {
        /// The user, in this process's user namespace.
        uid: u32,
    },
    /// Nothing both can speak.
    #[error(
        "the predecessor writes state in versions {writes:?}, the successor reads {reads:?}: they have none in common"
    )]
    NoCommonSchema {
        /// Of the predecessor.
        writes: Vec<u32>,
        /// Of the successor.
        reads: Vec<u32>,
    },
    /// The successor's descriptor limit is too low.
    #[error(
        "the successor has room for {room} more descriptors and needs {needed}: raise its limit (ulimit -n, RLIMIT_NOFILE)"
    )]
    NoRoom {
        /// Descriptors to come, and the few that the protocol itself needs.
        needed: u64,
        /// Descriptors that the successor can still open.
        room: u64,
    },
    /// The kernel dropped descriptors on receipt.
    #[error(
        "{got} of {announced} descriptors arrived: this process has reached its limit (ulimit -n, RLIMIT_NOFILE)"
    )]
    DescriptorsLost {
        /// Said in the frame's header.
        announced: u16,
        /// Received.
        got: usize,
    },
    /// More than the limits allow.
    #[error("{what} is {is}, over the limit of {limit}")]
    OverLimit {
        /// The thing that is counted.
        what: &'static str,
        /// Its value.
        is: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A frame that cannot be understood.
    #[error("not understood: {0}")]
    Wire(#[from] WireError),
    /// A frame that is well-formed, but not what comes now.
    #[error("expected {expected}, got `{got}`")]
    OutOfOrder {
        /// What the protocol demands now.
        expected: &'static str,
        /// What came.
        got: &'static str,
    },
    /// The counts at the end differ from what came.
    #[error("the predecessor sealed {sealed} {what}, {arrived} have arrived")]
    Incomplete {
        /// What is counted.
        what: &'static str,
        /// By the predecessor.
        sealed: u64,
        /// By the successor.
        arrived: u64,
    },
    /// A connection's state cannot be encoded or decoded.
    #[error("the state of connection {index} cannot be {}: {source}", if *writing { "written" } else { "read" })]
    State {
        /// Position in the order of transfer, from 0.
        index: u64,
        /// Whether it happened in the predecessor.
        writing: bool,
        /// postcard's reason.
        source: postcard::Error,
    },
    /// The service said no.
    #[error("the service does not accept what came: {0}")]
    Service(String),
    /// The service can't be handed over at this moment.
    #[error("the service can't be handed over now: {0}")]
    NotNow(String),
}

impl Cause {
    pub(crate) fn io(doing: &'static str, source: impl Into<io::Error>) -> Self {
        Cause::Io {
            doing,
            source: source.into(),
        }
    }

    pub(crate) fn out_of_order(expected: &'static str, got: &Message) -> Self {
        Cause::OutOfOrder {
            expected,
            got: got.kind().name(),
        }
    }

    /// Before there was a conversation.
    pub(crate) fn at_once(self, side: Side) -> Failure {
        Failure {
            phase: None,
            receipt: Box::new(Receipt::nothing(side, self.to_string())),
            cause: self,
        }
    }
}
