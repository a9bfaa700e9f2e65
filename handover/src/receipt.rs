//! What a handover came to, for logs and for whoever leads it.

use crate::phase::{Phase, Side};
use serde::{Deserialize, Serialize};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The successor has everything.
    Taken,
    /// The predecessor died; the successor has what had come by then.
    Inherited,
    /// Nothing changed: the predecessor serves on.
    Failed,
}

/// One side's account of one handover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose account this is.
    pub side: Side,
    /// How it ended.
    pub end: End,
    /// The last phase that was passed.
    pub phase: Option<Phase>,
    /// Why it ended otherwise than `taken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The version of the state.
    pub schema: Option<u32>,
    /// Whether the successor can be taken back: it writes a version that the predecessor reads.
    pub reversible: bool,
    /// Connections that the predecessor had, as far as this side knows.
    pub offered: u32,
    /// Connections that changed hands.
    pub transferred: u32,
    /// Connections that went down with their predecessor.
    pub dropped: u32,
    /// Listeners that changed hands.
    pub listeners: u32,
    /// Bytes of state.
    pub bytes: u64,
    /// Milliseconds in which nobody read: here, from the word to freeze until the successor's word that it serves (or
    /// until the predecessor resumed).
    pub frozen_ms: f64,
    /// Milliseconds from connecting to the end.
    pub total_ms: f64,
    /// Whatever the service adds, such as what was in flight.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub service: serde_json::Map<String, serde_json::Value>,
}

impl Receipt {
    /// Of a handover that failed before it began.
    pub(crate) fn nothing(side: Side, cause: String) -> Self {
        Self {
            side,
            end: End::Failed,
            phase: None,
            cause: Some(cause),
            schema: None,
            reversible: false,
            offered: 0,
            transferred: 0,
            dropped: 0,
            listeners: 0,
            bytes: 0,
            frozen_ms: 0.0,
            total_ms: 0.0,
            service: serde_json::Map::new(),
        }
    }
}
