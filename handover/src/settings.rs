//! What a service decides about its handovers: the schemas it speaks, whom it trusts, how much and how long it allows.

use std::time::Duration;

/// The versions of the service's own state, as numbers that only the service gives a meaning.
///
/// The predecessor writes the highest version that it can write and its successor can read. A service that reads what
/// it writes, and still writes what its last release reads, can be replaced and taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schemas {
    /// What this process understands when it takes over.
    pub reads: Vec<u32>,
    /// What this process can produce when it is taken over.
    pub writes: Vec<u32>,
}

impl Schemas {
    /// One version, read and written.
    pub fn only(version: u32) -> Self {
        Self {
            reads: vec![version],
            writes: vec![version],
        }
    }
}

/// The highest version in both lists.
pub(crate) fn common(writes: &[u32], reads: &[u32]) -> Option<u32> {
    writes.iter().filter(|v| reads.contains(v)).max().copied()
}

/// How much may cross. Whoever exceeds a limit ends the handover, before commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame's body; one connection's state must fit. At most [`crate::wire::MAX_BODY`].
    pub frame: usize,
    /// Bytes of all bodies together.
    pub total: u64,
    /// Bytes of what is told before the freeze. A predecessor that has more tells nothing then, and everything later.
    pub precopy: u64,
    /// Connections.
    pub connections: u32,
    /// Listeners; at most 253, since they travel in one frame.
    pub listeners: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: crate::wire::MAX_BODY,
            total: 1 << 30,
            precopy: 1 << 26,
            connections: 1 << 16,
            listeners: 64,
        }
    }
}

/// How long to wait for the other process, phase by phase. What passes before commit ends in resuming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Connecting, greeting, offer, and the word to begin: nothing is frozen yet.
    pub hello: Duration,
    /// From the successor's `begin` to the first frame: the time that the service takes to freeze.
    pub freeze: Duration,
    /// For each frame of the transfer, and its acknowledgement.
    pub batch: Duration,
    /// For the successor's service to accept all state.
    pub ready: Duration,
    /// From commit to the successor's word that it has taken; afterwards the predecessor takes its commit back.
    pub commit: Duration,
    /// From freeze to commit as a whole, whatever the phases would allow.
    pub frozen: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(2),
            freeze: Duration::from_secs(1),
            batch: Duration::from_secs(1),
            ready: Duration::from_secs(2),
            commit: Duration::from_secs(1),
            frozen: Duration::from_secs(5),
        }
    }
}

/// All of it. The default trusts this process's own user and root.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Versions of the state.
    pub schemas: Schemas,
    /// Sizes and counts.
    pub limits: Limits,
    /// Times.
    pub deadlines: Deadlines,
    /// Users besides our own and root whose processes may be a peer, as numbers in this process's user namespace.
    pub trusted_uids: Vec<u32>,
}

impl Settings {
    /// Defaults, for a service that speaks `schemas`.
    pub fn new(schemas: Schemas) -> Self {
        Self {
            schemas,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::common;

    #[test]
    fn the_highest_schema_that_both_sides_know_is_chosen() {
        assert_eq!(common(&[1, 3, 2], &[2, 1]), Some(2));
        assert_eq!(common(&[4], &[3, 5]), None);
    }
}
