//! Steps 5 and 6: who has to report, and the wait until all of them have.

use super::{
    Deployment,
    decide::QUEUE,
    region::{Channel, Target, aws_failure},
};
use crate::{
    aws,
    error::{Exit, Failure},
    report::{DecisionKind, Outcome},
    signals::{self, End, Ended, HostState, Mark, Pace, Phase, Received, Tally, Verdict, Watch},
};
use contract::step::Step;
use futures::future::join_all;
use jiff::Timestamp;
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

/// Between two readings of a group that does not list its hosts yet.
const ROSTER_POLL: Duration = Duration::from_secs(1);
/// For the one reading of the stack's status that only the report wants.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// What follows an end of the wait while hosts swap.
const ON_THEIR_OWN: &str = "the hosts go on by themselves until the deadline; `porter build provision` finishes what they do not";
/// What follows an end of the wait while hosts are being built.
const TAKEN_AWAY: &str =
    "the new stacks are deleted again, unless STACK_CREATION_ON_FAILURE=DO_NOTHING keeps them";

impl Deployment<'_> {
    /// The instances of every asked region's group: all that are InService, and for a new stack as many as it wants. The
    /// answer is one result for each region; one that fails is not followed.
    pub(super) async fn roster(
        &self,
        targets: &mut [Target],
        decision: DecisionKind,
    ) -> Vec<Result<(), Failure>> {
        let asked = targets.iter_mut().filter(|t| t.asked);
        join_all(asked.map(|t| self.roster_of(t, decision))).await
    }

    async fn roster_of(&self, target: &mut Target, decision: DecisionKind) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let limit = Timestamp::now() + self.limit(decision);
        let channel = self.channel(target, decision, limit).await?;
        loop {
            let groups = target.aws.autoscaling();
            let read = async || groups.group(&channel.group).await;
            let found = self
                .persistently(limit, read)
                .await
                .map_err(|e| unreadable(&region, decision, "the instances of the group", e))?;
            let members = found.map(|g| g.membership()).unwrap_or_default();
            let enough =
                members.in_service.len() >= usize::try_from(members.desired).unwrap_or(usize::MAX);
            if enough || decision == DecisionKind::HotSwap {
                let names: Vec<&str> = members.in_service.iter().map(String::as_str).collect();
                self.console.say(format!(
                    "  {region}: {} of {}: {}",
                    names.len(),
                    members.desired,
                    names.join(", ")
                ));
                target.members = members;
                target.channel = Some(channel);
                return Ok(());
            }
            if Timestamp::now() >= limit {
                return Err(Failure::new(
                    Exit::Failure,
                    format!(
                        "{region}: only {} of {} instances are in service after {} s",
                        members.in_service.len(),
                        members.desired,
                        self.limit(decision).as_secs()
                    ),
                ));
            }
            self.unless_interrupted(TAKEN_AWAY, async {
                tokio::time::sleep(ROSTER_POLL).await;
                Ok(())
            })
            .await?;
        }
    }

    async fn channel(
        &self,
        target: &Target,
        decision: DecisionKind,
        limit: Timestamp,
    ) -> Result<Channel, Failure> {
        let region = &target.region.name;
        let stack = target.stack.clone().unwrap_or_default();
        let cloudformation = target.aws.cloudformation();
        let physical = async |id: &str| {
            let read = async || cloudformation.physical_id(&stack, id).await;
            self.persistently(limit, read)
                .await
                .map_err(|e| unreadable(region, decision, "the stack's resources", e))?
                .ok_or_else(|| {
                    Failure::new(
                        exit_of(decision),
                        format!("{region}: the stack {stack} has no resource {id}"),
                    )
                })
        };
        Ok(Channel {
            group: physical(&target.group_id).await?,
            queue: physical(QUEUE).await?,
        })
    }

    /// Repeats a reading that fails for a passing reason: hosts are on their way, so a throttled call is no reason to
    /// turn away from them before `limit` (D-HOT-33).
    async fn persistently<T>(
        &self,
        limit: Timestamp,
        read: impl AsyncFn() -> Result<T, aws::Error>,
    ) -> Result<T, aws::Error> {
        loop {
            match read().await {
                Err(error)
                    if error.is_transient()
                        && Timestamp::now() < limit
                        && !self.stop.is_cancelled() =>
                {
                    tracing::warn!("{error}; trying again until the deadline");
                    tokio::select! {
                        () = tokio::time::sleep(ROSTER_POLL) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
                result => return result,
            }
        }
    }

    /// How long hosts have.
    fn limit(&self, decision: DecisionKind) -> Duration {
        match decision {
            DecisionKind::HotSwap => self.environment.hot_swap.deadline,
            DecisionKind::Provision => self.times().timeout,
        }
    }

    /// Where the messages of a region's hosts are recorded.
    pub(super) fn journal(&self, target: &Target) -> PathBuf {
        let name = format!("signals.{}.jsonl", target.region.name);
        self.request.out.join(name)
    }

    /// Receives in every region with a roster until each has its verdict; one region's failure does not end the others'
    /// wait (D-HOT-41).
    pub(super) async fn follow_hosts(
        &self,
        targets: &mut [Target],
        decision: DecisionKind,
    ) -> Vec<Result<(), Failure>> {
        let follows = targets.iter_mut().filter_map(|target| {
            let channel = target.channel.take()?;
            Some(self.follow_region(target, channel, decision))
        });
        let results = join_all(follows).await;
        self.console.hosts_done();
        results
    }

    async fn follow_region(
        &self,
        target: &mut Target,
        channel: Channel,
        decision: DecisionKind,
    ) -> Result<(), Failure> {
        let region = signals::Region {
            sqs: target.aws.sqs(),
            autoscaling: target.aws.autoscaling(),
            cloudformation: target.aws.cloudformation(),
            queue: channel.queue,
            group: channel.group,
            stack: target.stack.clone().unwrap_or_default(),
        };
        let now = Timestamp::now();
        let mark = match decision {
            DecisionKind::HotSwap => Mark::Started {
                before: target.updated_before,
            },
            DecisionKind::Provision => Mark::NotNeeded,
        };
        let limit = self.limit(decision);
        let tally = Tally::new(
            self.swap.clone(),
            self.packed.payload.clone(),
            &target.members,
            now,
        );
        let watch = Watch::new(tally, mark, now + limit, Pace::default(), now);
        let journal = self.journal(target);
        let record = |received: &Received<'_>| append(&journal, received);
        let outcome = signals::wait(&region, watch, self.stop, record, |tally| {
            self.show(&target.region.name, tally)
        })
        .await;
        target.hosts = outcome.tally.hosts();
        // For the report only: a service that does not answer must not delay the verdict.
        let status = region.cloudformation.stack(&region.stack);
        if let Ok(Ok(Some(stack))) = tokio::time::timeout(STATUS_LIMIT, status).await {
            target.stack_status = Some(stack.status.to_string());
        }
        let nobody = outcome.tally.count().1 == 0;
        let result = judge(&target.region.name, decision, limit, outcome);
        target.outcome = match &result {
            Ok(()) => Outcome::Success,
            Err(failure) if failure.exit == Exit::Interrupted => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        if result.is_ok() && nobody {
            self.console.warn(format!(
                "{}: the group has no hosts, so no host was verified",
                target.region.name
            ));
        }
        result
    }

    fn show(&self, region: &str, tally: &Tally) {
        for host in tally.hosts() {
            let at = host.step.map_or(0, |s| {
                Step::ALL.iter().position(|&other| other == s).unwrap_or(0) + 1
            });
            let at = if host.phase == Phase::Done {
                Step::ALL.len()
            } else {
                at
            };
            self.console.host(
                &format!("{region} {}", host.instance),
                at,
                Step::ALL.len(),
                &words(&host),
            );
        }
    }
}

/// What a failure in a wait for hosts means to scripts.
fn exit_of(decision: DecisionKind) -> Exit {
    match decision {
        DecisionKind::HotSwap => Exit::SwapFailed,
        DecisionKind::Provision => Exit::Failure,
    }
}

/// A reading without which a region can't be followed.
fn unreadable(region: &str, decision: DecisionKind, what: &str, error: aws::Error) -> Failure {
    let failure = aws_failure(region, &format!("{what} can't be read"), error);
    Failure {
        exit: exit_of(decision),
        ..match decision {
            DecisionKind::HotSwap => failure.hint(ON_THEIR_OWN),
            DecisionKind::Provision => failure,
        }
    }
}

/// Pure: the end of one region's wait, as success or as a failure that names hosts, causes and what serves.
fn judge(
    region: &str,
    decision: DecisionKind,
    limit: Duration,
    outcome: signals::Outcome,
) -> Result<(), Failure> {
    let exit = exit_of(decision);
    let swap = decision == DecisionKind::HotSwap;
    let (done, all) = outcome.tally.count();
    let failure = match outcome.end {
        End::Ended(Ended::Succeeded { .. }) => return Ok(()),
        End::Ended(Ended::HostsFailed(Verdict::Failed { hosts })) => Failure::new(
            exit,
            format!(
                "{region} is not finished: {} of {all} hosts failed, {done} done",
                hosts.len()
            ),
        ),
        End::Ended(Ended::HostsFailed(verdict)) => {
            Failure::new(exit, format!("{region}: {verdict}"))
        }
        End::Ended(Ended::StackFailed { status }) => {
            let what = if swap { "update" } else { "stack" };
            let message =
                format!("{region}: CloudFormation gave the {what} up: the stack is {status}");
            let failure = Failure::new(exit, message);
            outcome.failures.iter().fold(failure, Failure::detail)
        }
        End::Ended(Ended::DeadlinePassed(Verdict::Success { .. })) => Failure::new(
            exit,
            format!(
                "{region}: all hosts are done, but the stack's update was not complete at the deadline"
            ),
        ),
        End::Ended(Ended::DeadlinePassed(_)) => Failure::new(
            exit,
            format!(
                "{region} is not finished: {done} of {all} hosts reported before the {} s deadline",
                limit.as_secs()
            ),
        ),
        End::Interrupted => {
            let message = format!("{region}: interrupted while {done} of {all} hosts were done");
            Failure::new(Exit::Interrupted, message).hint(if swap {
                ON_THEIR_OWN
            } else {
                TAKEN_AWAY
            })
        }
        End::NotRecorded(error) => Failure::because(
            exit,
            format!("{region}: reports of hosts can't be recorded, so they stay on the queue"),
            error,
        ),
        End::Refused(error) => unreadable(region, decision, "the signal queue", error),
    };
    let mut failure = match outcome.trouble {
        Some(error) => failure.detail(format!("last trouble: {error}")),
        None => failure,
    };
    for host in &outcome.tally.hosts() {
        failure = failure.detail(describe(host));
    }
    if swap && failure.exit == exit {
        failure = failure
            .hint("a host that failed before cut_over still serves its previous containers")
            .hint("mend the cause and run `porter build provision` again: finished hosts are left alone");
    }
    Err(failure)
}

/// A host on its progress line.
fn words(host: &HostState) -> String {
    let detail = host
        .detail
        .as_ref()
        .map(|d| format!(" {d}"))
        .unwrap_or_default();
    match (host.phase, host.step) {
        (Phase::Silent, _) => "waiting for its first report".to_owned(),
        (Phase::Done, _) => "done".to_owned(),
        (Phase::Left, _) => "left the group".to_owned(),
        (Phase::Booted, _) => "booted with the previous payload, will swap".to_owned(),
        (Phase::Failed, step) => format!("failed in step {}", step.map_or("?", Step::name)),
        (Phase::Working, step) => format!("{}{detail}", step.map_or("working", Step::name)),
    }
}

/// A host in an error: its line, the code of its cause, and the last lines of its log.
fn describe(host: &HostState) -> String {
    let mut text = host.line();
    if let Some(cause) = host
        .signal
        .as_ref()
        .and_then(|s| s.cause.as_ref())
        .filter(|_| host.phase == Phase::Failed)
    {
        let code = serde_json::to_value(cause.code)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default();
        text.push_str(&format!(" [{code}]"));
        for line in cause.log.lines() {
            text.push_str(&format!("\n  | {line}"));
        }
    }
    text
}

/// One line of the journal, on disk before the message is deleted (D-HOT-32).
fn append(path: &Path, received: &Received<'_>) -> std::io::Result<()> {
    let line = serde_json::json!({ "at": received.at, "body": received.body });
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{line}")?;
    file.sync_data()
}

#[cfg(test)]
mod tests;
