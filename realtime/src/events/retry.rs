//! When to try again what has failed: soon at first, then ever later, and not at the same time as everybody else.

use std::time::Duration;

/// How long at most before the first repetition.
const FIRST: Duration = Duration::from_millis(200);

/// How long at most before any other.
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// It has failed again: how long to wait. `random` is evenly distributed between 0 and 1. At least half of the time is
    /// certain, so that a sink that refuses at once is not asked without a pause.
    pub fn failed(&mut self, random: f64) -> Duration {
        let most = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// It has worked.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// Is the last thing known of it that it failed?
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// R-EVT-11
        #[test]
        fn waits_grow_up_to_half_a_minute_and_differ_between_servers(random in 0.0_f64..1.0) {
            let mut retry = Retry::default();
            let mut before = Duration::ZERO;
            for n in 0..100 {
                let wait = retry.failed(random);
                prop_assert!(wait >= before && wait <= LONGEST && wait >= FIRST / 2);
                prop_assert!(n < 8 || wait >= LONGEST / 2);
                before = wait;
            }
            prop_assert!(retry.is_failing());
            retry.worked();
            prop_assert!(!retry.is_failing() && retry.failed(random) <= FIRST);
        }
    }
}
