//! The outcome per region and host, for people and as JSON.
