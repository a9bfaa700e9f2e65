//! Flags and help; no behaviour.
