//! A hook that lives in another repository: cloned, shallow and at its `ref`, into `.porter-tmp`, and removed afterwards
//! (D-HOOK-2).

use super::HookContext;
use std::{path::Path, process::Stdio};
use tempfile::TempDir;
use tokio::process::Command;

/// A cloned plugin; the folder goes when this is dropped.
pub(super) struct Plugin {
    pub folder: TempDir,
    /// Full hash of what was cloned (D-HOOK-18).
    pub commit: String,
}

/// Clones. A `ref` that is a full commit hash is verified.
///
/// # Errors
/// A sentence for the operator.
pub(super) async fn fetch(
    repo: &str,
    reference: &str,
    context: &HookContext,
) -> Result<Plugin, String> {
    if reference.starts_with('-') {
        return Err(format!("`{reference}` is not a branch, tag or commit"));
    }
    std::fs::create_dir_all(&context.out)
        .map_err(|e| format!("{} can't be made: {e}", context.out.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("plugin-")
        .tempdir_in(&context.out)
        .map_err(|e| {
            format!(
                "a plugin can't be cloned into {}: {e}",
                context.out.display()
            )
        })?;
    // A path is meant from the repository's root, where the command runs.
    let local = context.root.join(repo);
    let address = if local.exists() {
        local.to_string_lossy().into_owned()
    } else {
        repo.to_owned()
    };
    let git = Git {
        folder: folder.path(),
        address: &address,
    };
    git.run(&["init", "--quiet"]).await?;
    if git
        .run(&[
            "fetch",
            "--quiet",
            "--depth",
            "1",
            "--no-tags",
            "origin",
            reference,
        ])
        .await
        .is_err()
    {
        // A server may refuse to send a single commit by its hash; then everything is fetched.
        git.run(&[
            "fetch",
            "--quiet",
            "--tags",
            "origin",
            "+refs/heads/*:refs/remotes/origin/*",
        ])
        .await?;
        git.run(&["checkout", "--quiet", "--detach", reference])
            .await?;
    } else {
        git.run(&["checkout", "--quiet", "--detach", "FETCH_HEAD"])
            .await?;
    }
    let commit = git.run(&["rev-parse", "HEAD"]).await?.trim().to_owned();
    let is_hash = reference.len() == 40 && reference.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash && !reference.eq_ignore_ascii_case(&commit) {
        return Err(format!(
            "the plugin's repository gave commit {commit} instead of {reference}"
        ));
    }
    Ok(Plugin { folder, commit })
}

struct Git<'a> {
    folder: &'a Path,
    address: &'a str,
}

impl Git<'_> {
    /// The address travels in the environment: it may hold a password, and command lines are for everyone to read.
    async fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("git")
            .current_dir(self.folder)
            .args(args)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "remote.origin.url")
            .env("GIT_CONFIG_VALUE_0", self.address)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| {
                format!("git can't be run: {e}; install it (Debian, Ubuntu: `apt-get install git`)")
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace(self.address, "the plugin's repository");
        Err(format!(
            "git {} failed: {message}",
            args.first().unwrap_or(&"")
        ))
    }
}
