//! The `porter` program.

fn main() {}
