//! What is wrong with settings: every finding of one run, each with its place.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file and the line, from 1; line 0 is the file as a whole.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag as it was typed, such as `--set limits.idle`.
    Flag(String),
    /// Nowhere: the default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One finding. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it was written.
    pub source: Source,
    /// The setting, such as `limits.idle`; empty when a source as a whole is meant.
    pub key: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl fmt::Display for Finding {
    /// `realtime.toml:3: limits.idle: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        // `--set limits.idle` and `--log-level` have said it already.
        let said = matches!(&self.source, Source::Flag(flag)
            if flag.ends_with(&format!(" {}", self.key)) || flag.trim_start_matches('-') == self.key.replace(['.', '_'], "-"));
        if !self.key.is_empty() && !said {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Finding>);

impl Errors {
    /// In the order of the sources, and of the lines of each file.
    pub(super) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| match &finding.source {
            Source::File(path, line) => (0, path.clone(), *line),
            Source::Variable(_) => (1, PathBuf::new(), 0),
            Source::Flag(_) => (2, PathBuf::new(), 0),
            Source::Default => (3, PathBuf::new(), 0),
        });
        Self(findings)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, finding) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
