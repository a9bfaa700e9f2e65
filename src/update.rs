//! Creates or updates the stack and follows it to its end.
