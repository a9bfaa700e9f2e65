//! Steps 5 and 6: who has to report, and the wait until all of them have.

use super::{
    Deployment,
    decide::QUEUE,
    region::{Target, aws_failure},
    stacks::all,
};
use crate::{
    error::{Exit, Failure},
    report::{DecisionKind, Outcome},
    signals::{self, End, Ended, HostState, Mark, Pace, Phase, Received, Tally, Verdict, Watch},
};
use contract::step::Step;
use futures::future::join_all;
use jiff::Timestamp;
use std::{fs::OpenOptions, io::Write, path::Path, time::Duration};

/// Between two readings of a group that does not list its hosts yet.
const ROSTER_POLL: Duration = Duration::from_secs(1);

impl Deployment<'_> {
    /// The instances of every region's group: all that are InService, and for a new stack as many as it wants.
    pub(super) async fn roster(
        &self,
        targets: &mut [Target],
        decision: DecisionKind,
    ) -> Result<(), Failure> {
        all(join_all(targets.iter_mut().map(|t| self.roster_of(t, decision))).await).map(drop)
    }

    async fn roster_of(&self, target: &mut Target, decision: DecisionKind) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let fail = |e| aws_failure(&region, "the instances of the group can't be read", e);
        let (group, _) = self.group_and_queue(target).await?;
        let limit = Timestamp::now() + self.times().timeout;
        loop {
            let found = target.aws.autoscaling().group(&group).await.map_err(fail)?;
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
                return Ok(());
            }
            if Timestamp::now() >= limit {
                return Err(Failure::new(
                    Exit::Failure,
                    format!(
                        "{region}: only {} of {} instances are in service after {} s",
                        members.in_service.len(),
                        members.desired,
                        self.times().timeout.as_secs()
                    ),
                ));
            }
            self.unless_interrupted("the new stacks are deleted again", async {
                tokio::time::sleep(ROSTER_POLL).await;
                Ok(())
            })
            .await?;
        }
    }

    async fn group_and_queue(&self, target: &Target) -> Result<(String, String), Failure> {
        let region = &target.region.name;
        let stack = target.stack.clone().unwrap_or_default();
        let cloudformation = target.aws.cloudformation();
        let mut found = vec![];
        for id in [target.group_id.as_str(), QUEUE] {
            let physical = cloudformation
                .physical_id(&stack, id)
                .await
                .map_err(|e| aws_failure(region, "the stack's resources can't be read", e))?;
            found.push(physical.ok_or_else(|| {
                Failure::new(
                    Exit::Failure,
                    format!("{region}: the stack {stack} has no resource {id}"),
                )
            })?);
        }
        let queue = found.pop().unwrap_or_default();
        Ok((found.pop().unwrap_or_default(), queue))
    }

    /// Receives in every region until each has its verdict; one region's failure does not end the others' wait (D-HOT-41).
    pub(super) async fn follow_hosts(
        &self,
        targets: &mut [Target],
        decision: DecisionKind,
    ) -> Result<(), Failure> {
        let result =
            all(join_all(targets.iter_mut().map(|t| self.follow_region(t, decision))).await)
                .map(drop);
        self.console.hosts_done();
        result
    }

    async fn follow_region(
        &self,
        target: &mut Target,
        decision: DecisionKind,
    ) -> Result<(), Failure> {
        let (group, queue) = self.group_and_queue(target).await?;
        let region = signals::Region {
            sqs: target.aws.sqs(),
            autoscaling: target.aws.autoscaling(),
            cloudformation: target.aws.cloudformation(),
            queue,
            group,
            stack: target.stack.clone().unwrap_or_default(),
        };
        let now = Timestamp::now();
        let (mark, limit) = match decision {
            DecisionKind::HotSwap if !target.no_updates => (
                Mark::Started {
                    before: target.updated_before,
                },
                self.environment.hot_swap.deadline,
            ),
            DecisionKind::HotSwap => (Mark::NotNeeded, self.environment.hot_swap.deadline),
            DecisionKind::Provision => (Mark::NotNeeded, self.times().timeout),
        };
        let tally = Tally::new(
            self.swap.clone(),
            self.packed.payload.clone(),
            &target.members,
            now,
        );
        let watch = Watch::new(tally, mark, now + limit, Pace::default(), now);
        let journal = self
            .request
            .out
            .join(format!("signals.{}.jsonl", target.region.name));
        let record = |received: &Received<'_>| append(&journal, received);
        let outcome = signals::wait(&region, watch, self.stop, record, |tally| {
            self.show(&target.region.name, tally)
        })
        .await;
        target.hosts = outcome.tally.hosts();
        if let Ok(Some(stack)) = region.cloudformation.stack(&region.stack).await {
            target.stack_status = Some(stack.status.to_string());
        }
        self.judge(target, decision, outcome)
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

    /// The end of one region's wait, as success or as a failure that names hosts, causes and what serves.
    fn judge(
        &self,
        target: &mut Target,
        decision: DecisionKind,
        outcome: signals::Outcome,
    ) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let exit = match decision {
            DecisionKind::HotSwap => Exit::SwapFailed,
            DecisionKind::Provision => Exit::Failure,
        };
        let (done, all) = outcome.tally.count();
        target.outcome = Outcome::Failed;
        let failure = match outcome.end {
            End::Ended(Ended::Succeeded { verified }) => {
                target.outcome = Outcome::Success;
                if verified.is_empty() {
                    self.console.warn(format!(
                        "{region}: the group has no hosts, so no host was verified"
                    ));
                }
                return Ok(());
            }
            End::Ended(Ended::HostsFailed(Verdict::Failed { hosts })) => Failure::new(
                exit,
                format!(
                    "{region} is not finished: {} of {all} hosts failed, {done} are done",
                    hosts.len()
                ),
            ),
            End::Ended(Ended::HostsFailed(verdict)) => {
                Failure::new(exit, format!("{region}: {verdict}"))
            }
            End::Ended(Ended::StackFailed { status }) => {
                let failure = Failure::new(
                    exit,
                    format!("{region}: CloudFormation gave the update up: the stack is {status}"),
                );
                outcome.failures.iter().fold(failure, Failure::detail)
            }
            End::Ended(Ended::DeadlinePassed(Verdict::Success { .. })) => Failure::new(
                exit,
                format!(
                    "{region}: all hosts are done, but the stack's update was not complete at the deadline"
                ),
            ),
            End::Ended(Ended::DeadlinePassed(_)) => {
                let limit = self.environment.hot_swap.deadline.as_secs();
                Failure::new(
                    exit,
                    format!(
                        "{region} is not finished: {done} of {all} hosts reported before the {limit} s deadline"
                    ),
                )
            }
            End::Interrupted => {
                target.outcome = Outcome::Unknown;
                Failure::new(Exit::Interrupted, format!("{region}: interrupted while {done} of {all} hosts were done"))
                    .hint("the hosts go on by themselves until the deadline; `porter build provision` finishes what they do not")
            }
            End::NotRecorded(error) => Failure::because(
                exit,
                format!("{region}: reports of hosts can't be recorded, so they stay on the queue"),
                error,
            ),
            End::Refused(error) => aws_failure(
                &region,
                "the signal queue can't be read; the hosts go on by themselves",
                error,
            ),
        };
        let mut failure = match outcome.trouble {
            Some(error) => failure.detail(format!("last trouble: {error}")),
            None => failure,
        };
        for host in &target.hosts {
            failure = failure.detail(describe(host));
        }
        if decision == DecisionKind::HotSwap && failure.exit == exit {
            failure = failure.hint("a host that failed before cut_over still serves its previous containers")
                .hint("mend the cause and run `porter build provision` again: finished hosts are left alone");
        }
        Err(failure)
    }
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
