//! A small HTTP service to deploy.

fn main() {}
