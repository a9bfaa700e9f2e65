//! What a command ends with when it does not succeed: an exit status, what failed, why, what still serves, what to do.
//!
//! Library modules have error types of their own; this one is made where a command decides what its failure means to
//! the caller (D-CLI-2, D-CLI-3; the list with advice is `docs/errors.md`).

use serde::Serialize;
use std::fmt;

/// Exit statuses that scripts rely on (D-CLI-2, D-CLI-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Anything without a status of its own.
    Failure,
    /// The command was called wrongly.
    Usage,
    /// A blackout window is active.
    Blackout,
    /// Not eligible for hot swap under `on_ineligible: fail` or `--hotswap-only`.
    NotEligible,
    /// A swap failed and hosts may run different versions.
    SwapFailed,
    /// A hook failed.
    Hook,
    /// SIGINT or SIGTERM.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Blackout => 3,
            Exit::NotEligible => 4,
            Exit::SwapFailed => 5,
            Exit::Hook => 7,
            Exit::Interrupted => 130,
        }
    }
}

/// A command's failure, written for the person on call.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Exit status.
    pub exit: Exit,
    /// What failed, where and why, in one sentence without a full stop.
    pub message: String,
    /// One line each: hosts, causes, what still serves.
    pub details: Vec<String>,
    /// What to do now.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure with only a message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            details: vec![],
            hints: vec![],
        }
    }

    /// A failure of a called part: the chain of its causes, each once, in front of which stands what was being done.
    pub fn because(exit: Exit, doing: impl fmt::Display, error: impl Into<anyhow::Error>) -> Self {
        Self::new(exit, format!("{doing}: {}", causes(&error.into())))
    }

    /// Adds a line of detail.
    #[must_use]
    pub fn detail(mut self, line: impl fmt::Display) -> Self {
        self.details.push(line.to_string());
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, line: impl fmt::Display) -> Self {
        self.hints.push(line.to_string());
        self
    }
}

impl fmt::Display for Failure {
    /// `error: …`, indented details, `hint: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for line in self.details.iter().flat_map(|d| d.lines()) {
            write!(f, "\n  {line}")?;
        }
        for hint in &self.hints {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A chain of causes as one line; a cause whose text already stands in the one before it is left out.
fn causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_reads_from_what_failed_to_what_to_do_and_names_each_cause_once() {
        let cause =
            anyhow::anyhow!("connection refused").context("S3 PutObject: connection refused");
        let failure = Failure::because(
            Exit::Failure,
            "us-west-2: the payload was not uploaded",
            cause,
        )
        .detail("bucket deploy-us-west-2")
        .hint("nothing has changed; run the command again");
        assert_eq!(
            failure.to_string(),
            "error: us-west-2: the payload was not uploaded: S3 PutObject: connection refused\n  bucket deploy-us-west-2\n\
             hint: nothing has changed; run the command again"
        );
        let deep = Err::<(), _>(std::io::Error::other("disk full"))
            .context("writing state")
            .unwrap_err();
        assert_eq!(causes(&deep), "writing state: disk full");
    }

    #[test]
    fn d_cli_3_statuses_are_the_documented_numbers() {
        let codes = [
            Exit::Failure,
            Exit::Usage,
            Exit::Blackout,
            Exit::NotEligible,
            Exit::SwapFailed,
            Exit::Hook,
            Exit::Interrupted,
        ]
        .map(Exit::code);
        assert_eq!(codes, [1, 2, 3, 4, 5, 7, 130]); // D-CLI-2, D-CLI-3
    }
}
