//! What time it is: read once per turn of the loop, then an argument everywhere.

use std::time::Instant;

use jiff::Timestamp;

/// One moment on both clocks. The wall clock may jump and is for what leaves the process: identifiers, expiry dates of
/// tokens. The monotonic clock is for deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock.
    pub mono: Instant,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            wall: Timestamp::now(),
            mono: Instant::now(),
        }
    }
}
