//! The `host-agent` program.

fn main() {}
