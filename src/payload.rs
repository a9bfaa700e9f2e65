//! What the hosts receive (D-PAY): content-addressed blobs and one manifest, whose SHA-256 is the payload digest.
//!
//! On the build host a payload lies in `.porter-tmp/payload/`, which is also an OCI image layout; in the bucket it lies
//! under the keys of [`contract::names`]. [`blobs`] is the first, [`upload`] brings it to the second.

pub mod blobs;
pub mod oci;
pub mod upload;

use std::path::{Path, PathBuf};

/// The payload's folder below `.porter-tmp`.
pub fn folder(out: &Path) -> PathBuf {
    out.join("payload")
}
