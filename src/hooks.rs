//! Runs the user's hooks at their named moments (D-HOOK; `docs/hooks.md`).
//!
//! A hook is a Dockerfile of the repository, a plugin that is cloned, or a plain executable. [`run`] takes all hooks of
//! one moment: which of them run now ([`order`]), what each of them is told ([`variables`]), and how each kind is run.

mod container;
mod executable;
pub mod order;
mod output;
mod plugin;
mod stats;
pub mod variables;

pub use stats::StatsCredentials;
pub use variables::{HookContext, RegionVariables, SwapVariables};

use crate::config::model::{HookEntry, RunCondition};
use futures::{StreamExt, stream::FuturesUnordered};
use output::Output;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long hooks that run beside a failed one may go on (D-HOOK-11).
const BESIDE_A_FAILURE: Duration = Duration::from_secs(60);

/// When a hook runs (D-HOOK-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the configuration is read.
    PrePack,
    /// After the payload is written, or was not.
    PostPack,
    /// Before new hosts are built.
    PreProvision,
    /// After new hosts were built, or were not.
    PostProvision,
    /// Before running hosts are asked to swap.
    PreHotswap,
    /// After all hosts have reported, or have not.
    PostHotswap,
    /// Before traffic moves to new hosts.
    PrePromote,
    /// After that.
    PostPromote,
    /// While the host bootstrap script is assembled.
    Ec2Bootstrap,
}

impl Moment {
    /// The key below `hooks` in `.porter/config`.
    pub fn name(self) -> &'static str {
        match self {
            Moment::PrePack => "pre_pack",
            Moment::PostPack => "post_pack",
            Moment::PreProvision => "pre_provision",
            Moment::PostProvision => "post_provision",
            Moment::PreHotswap => "pre_hotswap",
            Moment::PostHotswap => "post_hotswap",
            Moment::PrePromote => "pre_promote",
            Moment::PostPromote => "post_promote",
            Moment::Ec2Bootstrap => "ec2_bootstrap",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the phase went that a post hook follows. A failed `pre_*` hook is a failure too (D-HOOK-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Pass,
    /// Not well.
    Fail,
}

impl Outcome {
    /// The value of `PORTER_SWAP_OUTCOME`.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
        }
    }
}

/// A hook that ran, or could not be started.
#[derive(Clone, Debug)]
pub struct HookRun {
    /// Such as `pre_hotswap hook 2 (hooks/smoke-test) in us-east-1`.
    pub title: String,
    /// How it ended.
    pub end: End,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Standard output and standard error, in the order in which they came.
    pub output: Vec<u8>,
    /// Bytes that were not kept, because there were too many.
    pub lost: u64,
    /// How long it took, image builds and clones included.
    pub took: Duration,
    /// The commit of a plugin (D-HOOK-18).
    pub commit: Option<String>,
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit status.
    Exited(i64),
    /// A signal from elsewhere ended it.
    Signalled(i32),
    /// Its time was over; it was killed.
    TimedOut(Duration),
    /// The command was interrupted, or a hook beside it failed; it was killed.
    Stopped,
    /// It was never run.
    NotStarted(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "exit status {status}"),
            End::Signalled(signal) => write!(f, "ended by signal {signal}"),
            End::TimedOut(limit) => write!(f, "killed after its timeout of {limit:?}"),
            End::Stopped => write!(f, "killed because the command was ending"),
            End::NotStarted(why) => write!(f, "could not be run: {why}"),
        }
    }
}

/// At least one hook failed: the command ends with exit status 7 (D-HOOK-11, D-CLI-3).
#[derive(Debug, thiserror::Error)]
#[error("{}", sentence(runs))]
pub struct HookError {
    /// All that ran at this moment, in the order of definition; at least one did not end with exit status 0.
    pub runs: Vec<HookRun>,
}

fn sentence(runs: &[HookRun]) -> String {
    let failed = runs.iter().filter(|r| r.end != End::Exited(0));
    let all: Vec<String> = failed
        .map(|run| format!("{}: {}{}", run.title, run.end, tail(&run.output)))
        .collect();
    all.join("; ")
}

fn tail(output: &[u8]) -> String {
    const LINES: usize = 10;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().map(|line| format!("\n  {line}")).collect()
}

/// Runs the hooks of one moment, in order, marked neighbours together (D-HOOK-9), and returns what they said, in the
/// order of definition. Without hooks it succeeds at once (D-HOOK-5). `ended` hears of each hook when it has ended, with
/// its whole output. `outcome` is given for post hooks and chooses among them (D-HOOK-12).
///
/// # Errors
/// [`HookError`] when one failed; later ones were not started. Cancelling `stop` kills what runs.
pub async fn run(
    hooks: &[HookEntry],
    moment: Moment,
    context: &HookContext,
    outcome: Option<Outcome>,
    ended: &(dyn Fn(&HookRun) + Sync),
    stop: &CancellationToken,
) -> Result<Vec<HookRun>, HookError> {
    let chosen: Vec<(usize, &HookEntry)> = hooks
        .iter()
        .enumerate()
        .filter(|(_, hook)| runs_after(hook.run_condition, outcome))
        .collect();
    let concurrent: Vec<bool> = chosen.iter().map(|(_, hook)| hook.concurrent).collect();
    let mut done = BTreeMap::new();
    for group in order::groups(&concurrent) {
        let kill = stop.child_token();
        let mut running: FuturesUnordered<_> = chosen[group]
            .iter()
            .map(|(n, hook)| {
                let one = One {
                    hook,
                    moment,
                    context,
                    outcome,
                    title: title(*n, hook, moment, context),
                };
                let kill = &kill;
                async move { (*n, one.run(kill).await) }
            })
            .collect();
        let mut failed = false;
        let mut patience = pin!(tokio::time::sleep(BESIDE_A_FAILURE));
        loop {
            tokio::select! {
                next = running.next() => {
                    let Some((n, run)) = next else { break };
                    if run.end != End::Exited(0) && !failed {
                        failed = true;
                        patience.as_mut().reset(tokio::time::Instant::now() + BESIDE_A_FAILURE);
                    }
                    ended(&run);
                    done.insert(n, run);
                }
                () = &mut patience, if failed && !kill.is_cancelled() => kill.cancel(),
            }
        }
        drop(running);
        if failed {
            return Err(HookError {
                runs: done.into_values().collect(),
            });
        }
    }
    Ok(done.into_values().collect())
}

/// What the `ec2_bootstrap` hooks print, in the order of definition, for the host bootstrap script (D-HOOK-15).
///
/// # Errors
/// [`HookError`]; also for output that was too much to be kept, because half a script is worse than none.
pub async fn ec2_bootstrap(
    hooks: &[HookEntry],
    context: &HookContext,
    ended: &(dyn Fn(&HookRun) + Sync),
    stop: &CancellationToken,
) -> Result<Vec<u8>, HookError> {
    let mut runs = run(hooks, Moment::Ec2Bootstrap, context, None, ended, stop).await?;
    if let Some(run) = runs.iter_mut().find(|run| run.lost > 0) {
        run.end = End::NotStarted(format!(
            "it printed {} bytes more than a bootstrap script may have",
            run.lost
        ));
        return Err(HookError { runs });
    }
    Ok(runs.into_iter().flat_map(|run| run.stdout).collect())
}

fn runs_after(condition: RunCondition, outcome: Option<Outcome>) -> bool {
    match (condition, outcome) {
        (RunCondition::Always, _)
        | (RunCondition::Pass, None | Some(Outcome::Pass))
        | (RunCondition::Fail, Some(Outcome::Fail)) => true,
        (RunCondition::Pass, Some(Outcome::Fail))
        | (RunCondition::Fail, None | Some(Outcome::Pass)) => false,
    }
}

fn title(n: usize, hook: &HookEntry, moment: Moment, context: &HookContext) -> String {
    let file = hook
        .executable
        .as_ref()
        .or(hook.dockerfile.as_ref())
        .map(|p| p.display().to_string());
    let what = match (&hook.r#ref, file) {
        // The address of a plugin may hold a password; its ref does not.
        (Some(reference), Some(file)) => format!("plugin {reference}: {file}"),
        (Some(reference), None) => format!("plugin {reference}"),
        (None, file) => file.unwrap_or_else(|| "?".into()),
    };
    let region = context
        .region
        .as_ref()
        .map(|r| format!(" in {}", r.region))
        .unwrap_or_default();
    format!("{moment} hook {} ({what}){region}", n + 1)
}

/// One hook about to run.
struct One<'a> {
    hook: &'a HookEntry,
    moment: Moment,
    context: &'a HookContext,
    outcome: Option<Outcome>,
    title: String,
}

impl One<'_> {
    async fn run(self, kill: &CancellationToken) -> HookRun {
        let began = Instant::now();
        let mut output = Output::default();
        let mut commit = None;
        let end = match self.attempt(&mut output, &mut commit, kill).await {
            Ok(end) => end,
            Err(why) => End::NotStarted(why),
        };
        let (stdout, all, lost) = output.finish();
        HookRun {
            title: self.title,
            end,
            stdout,
            output: all,
            lost,
            took: began.elapsed(),
            commit,
        }
    }

    async fn attempt(
        &self,
        output: &mut Output,
        commit: &mut Option<String>,
        kill: &CancellationToken,
    ) -> Result<End, String> {
        if kill.is_cancelled() {
            return Ok(End::Stopped);
        }
        let limit = self.hook.timeout;
        let mut end = pin!(async {
            tokio::select! {
                () = tokio::time::sleep(limit) => End::TimedOut(limit),
                () = kill.cancelled() => End::Stopped,
            }
        });
        let clone = match &self.hook.repo {
            Some(repo) => {
                let reference = self.hook.r#ref.as_deref().ok_or("a plugin needs a `ref`")?;
                let cloned = tokio::select! {
                    cloned = plugin::fetch(repo, reference, self.context) => cloned?,
                    ended = &mut end => return Ok(ended),
                };
                *commit = Some(cloned.commit.clone());
                Some(cloned)
            }
            None => None,
        };
        let base: &Path = clone
            .as_ref()
            .map_or(&self.context.root, |c| c.folder.path());
        let variables = variables::of(
            self.hook,
            self.moment,
            self.context,
            self.outcome,
            &|name| std::env::var(name).ok(),
        );
        if let Some(program) = &self.hook.executable {
            return executable::run(
                &base.join(program),
                &self.context.root,
                &variables,
                output,
                end,
            )
            .await;
        }
        let dockerfile = self
            .hook
            .dockerfile
            .clone()
            .unwrap_or_else(|| PathBuf::from("Dockerfile"));
        container::run(
            &base.join(dockerfile),
            self.context,
            &variables,
            output,
            end,
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_hook_12_13_conditions_choose_by_the_outcome_and_pre_hooks_always_run() {
        use RunCondition::{Always, Fail, Pass};
        let table = [
            (Pass, [true, true, false]),
            (Fail, [false, false, true]),
            (Always, [true, true, true]),
        ];
        for (condition, expected) in table {
            let outcomes = [None, Some(Outcome::Pass), Some(Outcome::Fail)];
            assert_eq!(
                outcomes.map(|o| runs_after(condition, o)),
                expected,
                "D-HOOK-12, D-HOOK-13: {condition:?}"
            );
        }
    }
}
