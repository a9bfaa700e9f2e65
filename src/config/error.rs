//! What is wrong with a configuration: every finding of one run, each with its place.

use serde::Serialize;
use std::fmt;

/// Characters of a message, and of a path.
const MAX_TEXT: usize = 500;

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The file is not YAML, or breaks a rule of the specification.
    Invalid,
    /// Well formed, but this version of porter would not do what it asks for.
    Unavailable,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// Whether the value is wrong, or only ahead of this version.
    pub kind: Kind,
    /// The file as the caller named it; for settings of the process environment the word `environment`.
    pub file: String,
    /// Key path such as `environments[0].regions[1].elb`; empty when the whole file is meant.
    pub path: String,
    /// From 1; absent when the file could not be read at all.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    /// `file:line:column: key.path: message`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration (D-CFG-3), in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Sorts the findings and drops repetitions: an anchor that is used in five regions is wrong in one place only.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|e| (e.line, e.column));
        let mut distinct: Vec<ConfigError> = Vec::with_capacity(errors.len());
        for mut error in errors {
            error.path = one_line(&error.path);
            error.message = one_line(&error.message);
            let seen = |d: &&ConfigError| {
                d.line.is_some()
                    && (d.line, d.column, &d.message) == (error.line, error.column, &error.message)
                    && leaf(&d.path) == leaf(&error.path)
            };
            if distinct
                .iter()
                .rev()
                .take_while(|d| d.line == error.line)
                .find(seen)
                .is_none()
            {
                distinct.push(error);
            }
        }
        Self(distinct)
    }

    /// The findings, in the order of the file.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

/// Texts of the file that a message repeats must neither break or flood its line nor reach the terminal as commands.
pub(super) fn one_line(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = chars.by_ref().take(MAX_TEXT).collect();
    if chars.next().is_some() {
        format!("{line}…")
    } else {
        line
    }
}

/// The last key of a path.
fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

impl fmt::Display for ConfigErrors {
    /// One line for each finding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
