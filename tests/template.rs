//! What operators may rely on about the assembled template: golden files, and cfn-lint over every one of them.

#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

mod template {
    pub mod golden;
    pub mod lint;
    pub mod promises;
    pub mod scenario;
    pub mod scripts;
}
