//! What operators may rely on about the assembled template: golden files, and cfn-lint over every one of them.

mod template {
    pub mod golden;
    pub mod lint;
    pub mod promises;
    pub mod scenario;
    pub mod scripts;
}
