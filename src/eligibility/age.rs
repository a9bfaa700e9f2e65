//! How much of its window a stack has used, in words.

use contract::millis;
use jiff::Timestamp;
use serde::Serialize;
use std::{fmt, time::Duration};

/// The age of a stack against the window in which it may be swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Age {
    /// Since CreateStack; zero when the clocks disagree and it lies in the future.
    #[serde(rename = "used_ms", with = "millis")]
    pub used: Duration,
    /// `hot_swap.max_age`, at most 168 h.
    #[serde(rename = "window_ms", with = "millis")]
    pub window: Duration,
}

impl Age {
    /// The age at `now`.
    pub fn at(now: Timestamp, created: Timestamp, window: Duration) -> Self {
        Self {
            used: Duration::try_from(now.duration_since(created)).unwrap_or_default(),
            window,
        }
    }

    /// Time since the end of the window, which is inclusive: exactly at its end a stack may still be swapped (D-HOT-67).
    pub fn over(self) -> Option<Duration> {
        self.used.checked_sub(self.window).filter(|d| !d.is_zero())
    }

    /// What is left of the window once four fifths are used (D-HOT-61).
    pub fn nearly_over(self) -> Option<Duration> {
        self.window
            .checked_sub(self.used)
            .filter(|_| self.used * 5 >= self.window * 4)
    }
}

impl fmt::Display for Age {
    /// `2 d 3 h of 7 d used`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} used", words(self.used), words(self.window))
    }
}

/// The two largest units that say something: `2 d 3 h`, `7 d`, `3 h 20 min`, `59 s`. Rounded down, but never to nothing.
pub fn words(d: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = d.as_secs();
    let Some(first) = UNITS.iter().position(|(size, _)| seconds >= *size) else {
        return if d.is_zero() {
            "0 s".into()
        } else {
            "less than 1 s".into()
        };
    };
    let (size, unit) = UNITS[first];
    let mut text = format!("{} {unit}", seconds / size);
    if let Some((smaller, unit)) = UNITS.get(first + 1) {
        let rest = seconds % size / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest} {unit}"));
        }
    }
    text
}

/// For deadlines people plan by: whole hours from two hours on (`26 h`), else [`words`].
pub fn hours(d: Duration) -> String {
    if d.as_secs() >= 7_200 {
        format!("{} h", d.as_secs() / 3_600)
    } else {
        words(d)
    }
}
