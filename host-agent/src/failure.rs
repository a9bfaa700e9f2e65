//! Why a step failed, in the shape in which the build host hears of it.

use contract::signal::{Cause, CauseCode, MAX_LOG_BYTES};

/// A failed step: the code for machines, the sentence for people, and the container's last lines where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// D-HOT-82.
    pub code: CauseCode,
    /// One sentence: what failed, where, why.
    pub message: String,
    /// At most [`MAX_LOG_BYTES`] of the container's log.
    pub log: String,
}

impl Failure {
    /// Without log lines.
    pub fn new(code: CauseCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            log: String::new(),
        }
    }

    /// With the last log lines of the container that failed.
    pub fn with_log(mut self, log: String) -> Self {
        self.log = tail(log);
        self
    }

    /// A defect of ours or of the machine: nothing the user's service did.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(CauseCode::Internal, message)
    }

    /// Writing to the state directory or handling a file failed. A full disk has its own code, because its cure differs.
    pub fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let code = if is_full(error) {
            CauseCode::DiskFull
        } else {
            CauseCode::Internal
        };
        Self::new(code, format!("{what} {} failed: {error}", path.display()))
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Failure {
            code: cause.code,
            message: cause.message,
            log: cause.log,
        }
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        Cause {
            code: failure.code,
            message: failure.message,
            log: tail(failure.log),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// The end of `text` that fits into [`MAX_LOG_BYTES`], cut at a character.
fn tail(text: String) -> String {
    let from = text.len().saturating_sub(MAX_LOG_BYTES);
    let from = (from..=text.len())
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(text.len());
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_hot_79_a_log_tail_keeps_its_end_and_its_bound() {
        // D-HOT-79
        let failure = Failure::internal("m").with_log(format!("{}end", "ä".repeat(3000)));
        assert!(failure.log.len() <= MAX_LOG_BYTES);
        assert!(failure.log.ends_with("äend"));
    }
}
