//! Calls the `porter` program (and git) the way a person would: in the service's directory, with the variables that
//! `porter local up` names.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    collections::BTreeMap,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// A command that was told to stop gets this long to clean up before it is killed.
const GRACE: Duration = Duration::from_secs(60);

/// Set in git's own hooks: they would turn every git command in the scratch repository to the caller's repository.
const GIT: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];

/// How to call programs.
#[derive(Clone, Debug)]
pub struct Porter {
    /// The `porter` program.
    pub program: PathBuf,
    /// Where commands run.
    pub folder: PathBuf,
    /// Added to the environment.
    pub variables: BTreeMap<String, String>,
    /// Cancelled by Ctrl-C.
    pub stop: CancellationToken,
}

impl Porter {
    /// Runs `porter` with these arguments and returns what it printed on stdout. Its progress goes to our stderr.
    ///
    /// # Errors
    /// When it can't be run, ends with another status than 0, or we were told to stop.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        eprintln!("$ porter {}", arguments.join(" "));
        self.command(&self.program, arguments).await
    }

    /// Like [`Porter::run`], for commands whose stdout is one JSON document.
    ///
    /// # Errors
    /// Also when it is none.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        let text = self.run(&all).await?;
        serde_json::from_str(&text)
            .with_context(|| format!("`porter {}` did not print JSON: {text:?}", all.join(" ")))
    }

    /// Like [`Porter::run`], for people: what it prints goes to our stderr as well.
    ///
    /// # Errors
    /// As with [`Porter::run`].
    pub async fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let text = self.run(arguments).await?;
        eprint!("{text}");
        Ok(())
    }

    /// Runs a program and returns its stdout.
    ///
    /// # Errors
    /// As with [`Porter::run`].
    pub async fn command(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let line = format!("`{} {}`", name(program), arguments.join(" "));
        if self.stop.is_cancelled() {
            bail!("interrupted before {line}");
        }
        // A file and no pipe: programs left running in the background may hold it open without holding us up.
        let mut stdout = tempfile::tempfile().context("a temporary file can't be made")?;
        let mut command = Command::new(program);
        for variable in GIT {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments)
            .current_dir(&self.folder)
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            // Ctrl-C on the terminal shall reach us alone: we decide what is stopped and what still cleans up.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} can't be run", program.display()))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let status = tokio::select! {
            status = child.wait() => status?,
            () = self.stop.cancelled() => {
                if let Some(group) = group {
                    // It may just have ended: then there is nobody to tell.
                    let _ = kill_process_group(group, Signal::INT);
                }
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    child.kill().await?;
                }
                bail!("interrupted in {line}");
            }
        };
        let mut text = String::new();
        stdout.rewind()?;
        stdout.read_to_string(&mut text)?;
        if !status.success() {
            bail!("{line} ended with {status}{}", shown(&text));
        }
        Ok(text)
    }
}

/// What a failed command printed as its result; its messages have already gone to stderr.
fn shown(stdout: &str) -> String {
    let stdout = stdout.trim();
    if stdout.is_empty() {
        String::new()
    } else {
        format!(" and printed:\n{stdout}")
    }
}

fn name(program: &Path) -> std::borrow::Cow<'_, str> {
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Porter {
        Porter {
            program: "/bin/sh".into(),
            folder: "/".into(),
            variables: BTreeMap::from([("COLOUR".into(), "blue".into())]),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_command_gets_the_variables_and_its_stdout_comes_back() {
        let text = shell().run(&["-c", "echo $COLOUR in $PWD"]).await.unwrap();
        assert_eq!(text, "blue in /\n");
    }

    #[tokio::test]
    async fn a_failing_command_is_named_with_its_status_and_what_it_printed() {
        let error = shell().run(&["-c", "echo why; exit 5"]).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains("status: 5") && text.ends_with("why"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_background_child_that_keeps_stdout_open_does_not_hold_us_up() {
        let run = shell();
        let text = tokio::time::timeout(
            Duration::from_secs(20),
            run.run(&["-c", "sleep 60 & echo $!"]),
        )
        .await
        .expect("returned while the child still sleeps")
        .unwrap();
        let id = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn ctrl_c_lets_the_command_clean_up_and_then_ends_the_flow() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = shell();
        run.folder = folder.path().to_owned();
        let stop = run.stop.clone();
        let script =
            "trap 'echo done > cleaned; exit 1' INT; touch ready; while :; do sleep 0.05; done";
        let ready = folder.path().join("ready");
        let arguments = ["-c", script];
        let (result, ()) = tokio::join!(run.run(&arguments), async {
            while !ready.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.cancel();
        });
        assert!(result.unwrap_err().to_string().contains("interrupted in"));
        assert!(folder.path().join("cleaned").exists());
        assert!(
            run.run(&["-c", "true"]).await.is_err(),
            "no new command begins"
        );
    }
}
