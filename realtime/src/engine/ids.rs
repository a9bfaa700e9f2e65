//! Identifiers of messages.

use std::time::SystemTime;

use jiff::Timestamp;
use ulid::Ulid;

/// Identifiers that rise by every step, also within a millisecond, when the clock is set back, and from one process to
/// the next (R-DLV-5): which is why the last one must be at hand, as it is not in the crate's generator.
#[derive(Debug, Default)]
pub struct Ids {
    /// The last one.
    pub last: Ulid,
}

impl Ids {
    /// The next one.
    pub fn next(&mut self, now: Timestamp) -> Ulid {
        let fresh = Ulid::from_datetime(SystemTime::from(now));
        self.last = match fresh.timestamp_ms() > self.last.timestamp_ms() {
            true => fresh,
            // 2^80 steps are never taken within a millisecond; past them the time counts on.
            false => Ulid(self.last.0 + 1),
        };
        self.last
    }
}
