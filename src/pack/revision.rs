//! Which commit is being packed (D-PACK-3, D-PACK-4).

use std::{path::Path, process::Stdio};
use tokio::process::Command;

/// The commit of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Short hash of HEAD; `-dirty` is appended when the work tree differs from it.
    pub version: String,
    /// Unix seconds of the commit.
    pub committed: i64,
    /// Changed or untracked files, as `git status` names them; empty when clean.
    pub changes: Vec<String>,
}

/// Why there is no version.
#[derive(Debug, thiserror::Error)]
pub enum NoRevision {
    /// git could not be started.
    #[error("git can't be run: {0}; install it (Debian, Ubuntu: `apt-get install git`)")]
    NoGit(std::io::Error),
    /// git refused.
    #[error(
        "the service version is the commit that is packed, but git says of {folder}: {message}"
    )]
    Git {
        /// The repository root.
        folder: String,
        /// Its words.
        message: String,
    },
}

/// Asks git.
///
/// # Errors
/// [`NoRevision`]: no git, no repository, no commit.
pub async fn read(root: &Path) -> Result<Revision, NoRevision> {
    let hash = git(root, &["rev-parse", "--short=7", "HEAD"]).await?;
    let committed = git(root, &["show", "--no-patch", "--format=%ct", "HEAD"]).await?;
    // What porter writes itself is no change of the service.
    let status = git(
        root,
        &[
            "status",
            "--porcelain",
            "--untracked-files=normal",
            "--",
            ".",
            ":(exclude).porter-tmp",
        ],
    )
    .await?;
    let changes: Vec<String> = status
        .lines()
        .map(|l| l.get(3..).unwrap_or(l).to_owned())
        .collect();
    let suffix = if changes.is_empty() { "" } else { "-dirty" };
    Ok(Revision {
        version: format!("{}{suffix}", hash.trim()),
        committed: committed.trim().parse().unwrap_or(0),
        changes,
    })
}

async fn git(root: &Path, args: &[&str]) -> Result<String, NoRevision> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(args)
        .env("LC_ALL", "C")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(NoRevision::NoGit)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    Err(NoRevision::Git {
        folder: root.display().to_string(),
        message,
    })
}
