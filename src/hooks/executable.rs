//! A hook that is a program of the repository, run on the build host without a container.

use super::{End, Output};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    collections::BTreeMap, os::unix::process::ExitStatusExt, path::Path, process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// All that a hook inherits: what a shell needs to find programs and their settings.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long output may still come from something that the hook has left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs a program in `folder` with these variables. `end` completing kills its whole process group.
///
/// # Errors
/// Why it could not be started.
pub(super) async fn run(
    program: &Path,
    folder: &Path,
    variables: &BTreeMap<String, String>,
    output: &mut Output,
    end: impl Future<Output = End>,
) -> Result<End, String> {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_clear()
        .process_group(0)
        .kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(variables);
    let mut child = command
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let group = Group(
        child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
    );
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = std::pin::pin!(read(&mut stdout, &mut stderr, output));
    let mut read_all = false;

    let ended = {
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = &mut reading, if !read_all => read_all = true,
                status = child.wait() => break Ok(status),
                ended = &mut end => break Err(ended),
            }
        }
    };
    let result = match ended {
        Ok(status) => {
            group.forget();
            let status = status.map_err(|e| format!("its exit status is not known: {e}"))?;
            match (status.code(), status.signal()) {
                (Some(code), _) => End::Exited(code.into()),
                (None, signal) => End::Signalled(signal.unwrap_or(0)),
            }
        }
        Err(ended) => {
            group.signal(Signal::TERM);
            let gone = async {
                tokio::select! {
                    _ = child.wait() => {}
                    // Full pipes must not keep it from ending.
                    () = async { if !read_all { (&mut reading).await; read_all = true; } std::future::pending().await } => {}
                }
            };
            drop(tokio::time::timeout(GRACE, gone).await);
            // Also those who ignored the first signal.
            group.signal(Signal::KILL);
            group.forget();
            ended
        }
    };
    if !read_all {
        drop(tokio::time::timeout(LEFT_BEHIND, reading).await);
    }
    Ok(result)
}

/// The hook's process group, killed when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // A group that has ended by itself is what is wanted.
            kill_process_group(group, signal).unwrap_or_default();
        }
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

async fn read(
    stdout: &mut Option<impl AsyncRead + Unpin>,
    stderr: &mut Option<impl AsyncRead + Unpin>,
    output: &mut Output,
) {
    let (mut a, mut b) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            n = next(stdout, &mut a) => match n {
                Some(n) => output.stdout(&a[..n]),
                None => *stdout = None,
            },
            n = next(stderr, &mut b) => match n {
                Some(n) => output.stderr(&b[..n]),
                None => *stderr = None,
            },
        }
    }
}

/// The next piece, or `None` at the end; never for a pipe that has ended before.
async fn next(pipe: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> Option<usize> {
    match pipe {
        Some(pipe) => pipe.read(into).await.ok().filter(|n| *n > 0),
        None => std::future::pending().await,
    }
}
