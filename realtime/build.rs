//! Notes what the installation info reports of the build (R-OPS-9).

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").expect("cargo names the compiler");
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("the compiler runs");
    let version = String::from_utf8_lossy(&version.stdout);
    // `rustc 1.95.0 (… …)`
    let version = version.split_whitespace().nth(1).unwrap_or("unknown");
    println!("cargo::rustc-env=REALTIME_RUST_VERSION={version}");
    // Only who packages knows the commit for certain: a working tree may differ from it, and be built again after it.
    let commit = std::env::var("REALTIME_COMMIT").unwrap_or_else(|_| "unknown".into());
    println!("cargo::rustc-env=REALTIME_BUILT_COMMIT={commit}");
    println!("cargo::rerun-if-env-changed=REALTIME_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
}
