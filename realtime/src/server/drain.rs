//! A graceful end without a successor: every connection is closed with 1012, spread over a time, so that clients do not
//! come back all at once (R-CONN-30, R-DIFF-16).

use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;

use crate::hub::Client;

/// How long peers may take to read their last bytes after the last close.
const GRACE: Duration = Duration::from_secs(5);

/// The connections that are still to be closed, and when.
#[derive(Debug)]
pub struct Drain {
    began: Instant,
    spread: Duration,
    total: usize,
    left: Vec<Client>,
}

impl Drain {
    /// Closes these connections, in random order, evenly over `spread`.
    pub fn new(now: Instant, spread: Duration, mut clients: Vec<Client>) -> Self {
        clients.shuffle(&mut rand::rng());
        Self {
            began: now,
            spread,
            total: clients.len(),
            left: clients,
        }
    }

    /// Whoever is left is closed now.
    pub fn hurry(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        self.spread = self.spread.min(passed);
    }

    /// Those whose turn has come.
    pub fn due(&mut self, now: Instant) -> Vec<Client> {
        let passed = now.saturating_duration_since(self.began);
        let closed = if passed >= self.spread {
            self.total
        } else {
            // The first goes at once, the last one before the end.
            (passed.as_secs_f64() / self.spread.as_secs_f64() * self.total as f64) as usize + 1
        };
        let keep = self.total.saturating_sub(closed).min(self.left.len());
        self.left.split_off(keep)
    }

    /// When to look again.
    pub fn next(&self) -> Instant {
        if self.left.is_empty() {
            return self.began + self.spread + GRACE;
        }
        let closed = (self.total - self.left.len()) as f64;
        self.began + self.spread.mul_f64((closed / self.total as f64).min(1.0))
    }

    /// Every connection was closed, and has gone or had time enough.
    pub fn is_over(&self, now: Instant, nothing_open: bool) -> bool {
        self.left.is_empty() && (nothing_open || now >= self.began + self.spread + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// R-CONN-30, R-DIFF-16
        #[test]
        fn every_connection_is_closed_once_and_evenly_within_the_spread(
            total in 0usize..300,
            spread in 1u64..20_000,
            steps in prop::collection::vec(0u64..2_000, 1..40),
        ) {
            let start = Instant::now();
            let spread = Duration::from_millis(spread);
            let clients = (0..total).map(|key| Client { key, serial: key as u64 }).collect();
            let mut drain = Drain::new(start, spread, clients);
            let (mut now, mut closed) = (start, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                closed.extend(drain.due(now).into_iter().map(|client| client.key));
                let share = (now - start).as_secs_f64() / spread.as_secs_f64() * total as f64;
                prop_assert!(closed.len() as f64 <= share.min(total as f64) + 1.0);
                prop_assert!(closed.len() as f64 + 1.0 >= share.min(total as f64));
            }
            closed.extend(drain.due(start + spread).into_iter().map(|client| client.key));
            closed.sort_unstable();
            prop_assert_eq!(closed, (0..total).collect::<Vec<_>>());
            prop_assert!(drain.is_over(start + spread, true));
        }

        /// R-CONN-30
        #[test]
        fn in_a_hurry_whoever_is_left_is_closed_at_once(total in 0usize..300, after in 0u64..20_000) {
            let start = Instant::now();
            let clients = (0..total).map(|key| Client { key, serial: key as u64 }).collect();
            let mut drain = Drain::new(start, Duration::from_secs(10), clients);
            let now = start + Duration::from_millis(after);
            let before = drain.due(now).len();
            drain.hurry(now);
            drain.hurry(now + Duration::from_secs(1));
            prop_assert_eq!(before + drain.due(now).len(), total);
            prop_assert!(drain.is_over(now, true));
            prop_assert!(drain.is_over(now + GRACE, false), "asking again prolongs nothing");
        }
    }
}
