//! What `GET /` answers. The demo changes this line and swaps the running service.

/// The version of the service.
pub const VERSION: &str = "v1";
