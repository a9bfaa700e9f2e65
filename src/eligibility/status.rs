//! What a CloudFormation stack status means to us.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A stack status as CloudFormation spells it. Kept as text: a status younger than this program must stay readable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StackStatus(String);

/// The rows of the status table (D-HOT-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May be swapped.
    Settled,
    /// An earlier update is still running.
    Updating,
    /// The last update was rolled back cleanly; hosts decide (D-HOT-11).
    RolledBack,
    /// The last update was rolled back, and that failed too.
    RollbackFailed,
    /// The search does not see it: being created, never created, being deleted, or deleted.
    NotServing,
    /// A status that the table does not list.
    Other,
}

/// Where an operation that we started has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not decided yet.
    Running,
    /// Done as wished.
    Complete,
    /// It will not be done: a terminal, rolling-back or deleting status (D-PROV-6).
    Failed,
}

impl StackStatus {
    /// From CloudFormation's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// CloudFormation's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The row of D-HOT-10.
    pub fn standing(&self) -> Standing {
        match self.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => Standing::Settled,
            "UPDATE_IN_PROGRESS"
            | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
            | "UPDATE_ROLLBACK_IN_PROGRESS"
            | "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS" => Standing::Updating,
            "UPDATE_ROLLBACK_COMPLETE" => Standing::RolledBack,
            "UPDATE_ROLLBACK_FAILED" => Standing::RollbackFailed,
            "CREATE_FAILED" | "CREATE_IN_PROGRESS" => Standing::NotServing,
            s if s.starts_with("DELETE_") || s.starts_with("ROLLBACK_") => Standing::NotServing,
            _ => Standing::Other,
        }
    }

    /// How far a CreateStack of ours is (D-PROV-5, D-PROV-6).
    pub fn creation(&self) -> Progress {
        match self.as_str() {
            "CREATE_COMPLETE" => Progress::Complete,
            "CREATE_IN_PROGRESS" | "REVIEW_IN_PROGRESS" => Progress::Running,
            _ => Progress::Failed,
        }
    }

    /// How far an UpdateStack of ours is; complete means that CloudFormation has also cleaned up (D-HOT-37).
    pub fn update(&self) -> Progress {
        match self.as_str() {
            "UPDATE_COMPLETE" => Progress::Complete,
            "UPDATE_IN_PROGRESS" | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS" => Progress::Running,
            _ => Progress::Failed,
        }
    }

    /// How far a DeleteStack of ours is.
    pub fn deletion(&self) -> Progress {
        match self.as_str() {
            "DELETE_COMPLETE" => Progress::Complete,
            "DELETE_FAILED" => Progress::Failed,
            _ => Progress::Running,
        }
    }

    /// True when nothing is going on.
    pub fn is_at_rest(&self) -> bool {
        !self.0.ends_with("_IN_PROGRESS")
    }
}

impl fmt::Display for StackStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
