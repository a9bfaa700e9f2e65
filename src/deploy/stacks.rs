//! Step 4: the stack is updated or created, and what has to be undone when that fails.

use super::{
    Deployment, UNTOUCHED,
    prepare::Prepared,
    region::{Target, aws_failure},
};
use crate::{
    aws::{
        self,
        cloudformation::{CloudFormation, OnFailure, Stack, StackEvent, UpdateOutcome},
    },
    capacity::{self, Recheck},
    error::{Exit, Failure},
    report::Outcome,
    template::parameter,
    update::{self, FollowError, Operation, Times},
};
use futures::future::join_all;
use jiff::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Deleting a stack whose hosts have to terminate takes minutes; half an hour is D-PRUNE-7's limit too.
const DELETE_LIMIT: Duration = Duration::from_secs(1_800);

/// The results of all regions: the first failure, with the others' as details.
pub(crate) fn all<T>(results: Vec<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut good = vec![];
    let mut failure: Option<Failure> = None;
    for result in results {
        match (result, failure.take()) {
            (Ok(value), before) => {
                good.push(value);
                failure = before;
            }
            (Err(next), None) => failure = Some(next),
            (Err(next), Some(mut first)) => {
                first.details.push(next.message);
                first.details.extend(next.details);
                for hint in next.hints {
                    if !first.hints.contains(&hint) {
                        first.hints.push(hint);
                    }
                }
                failure = Some(first);
            }
        }
    }
    failure.map_or(Ok(good), Err)
}

impl Deployment<'_> {
    /// UpdateStack in every region, each with DesiredP as it is now (D-HOT-18). Answers region by region: where it was
    /// taken on, hosts swap, and somebody has to follow them whatever became of the other regions.
    ///
    /// # Errors
    /// No region was asked for anything.
    pub(super) async fn update(
        &self,
        targets: &mut [Target],
        prepared: &mut [Prepared],
    ) -> Result<Vec<Result<(), Failure>>, Failure> {
        // First every region's last look, then every region's call: a size that does not fit any more changes nothing
        // anywhere (D-HOT-17).
        let looks = targets
            .iter_mut()
            .zip(prepared.iter_mut())
            .map(|(t, p)| self.last_look(t, p));
        all(join_all(looks).await)?;
        self.not_interrupted(UNTOUCHED)?;
        let calls = targets
            .iter_mut()
            .zip(&*prepared)
            .map(|(t, p)| self.update_region(t, p));
        let mut results = join_all(calls).await;
        if targets.iter().all(|t| t.outcome == Outcome::Untouched) {
            return all(results).map(|_| vec![]).map_err(|f| f.hint(UNTOUCHED));
        }
        // Somewhere hosts are on their way, so the environment is left mixed.
        for failure in results.iter_mut().filter_map(|r| r.as_mut().err()) {
            failure.exit = Exit::SwapFailed;
        }
        Ok(results)
    }

    async fn last_look(&self, target: &mut Target, prepared: &mut Prepared) -> Result<(), Failure> {
        let Some(group) = target
            .promoted
            .as_ref()
            .filter(|_| !self.request.reset_desired)
        else {
            return Ok(());
        };
        let region = target.region.name.clone();
        let now = target
            .aws
            .autoscaling()
            .group(&group.name)
            .await
            .map_err(|e| aws_failure(&region, "the group can't be read; nothing has changed", e))?;
        let (Some(now), Some(planned)) = (now, target.desired) else {
            return Ok(());
        };
        let recheck = capacity::recheck(target.sizes, planned, now.sizes).map_err(|e| {
            Failure::new(
                Exit::Failure,
                format!("{region}: the group was scaled meanwhile: {e}"),
            )
            .hint("nothing has changed in any region")
        })?;
        if let Recheck::Changed(desired) = recheck {
            self.console.say(format!("  {region}: the group was scaled from {planned} to {desired} meanwhile; the template follows"));
            target.desired = Some(desired);
            *prepared = self.assemble(target).await?;
        }
        Ok(())
    }

    async fn update_region(&self, target: &mut Target, prepared: &Prepared) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let stack = target.stack.clone().unwrap_or_default();
        let request = self
            .update_request(target, prepared, self.deadline())
            .await?;
        let cloudformation = target.aws.cloudformation();
        let answer = cloudformation
            .update(
                &stack,
                &request.as_request(&prepared.template_url, &self.swap),
            )
            .await;
        target.updated_before = request.updated;
        let (failure, unsure) = match answer {
            Ok(UpdateOutcome::Started) => {
                (target.asked, target.outcome) = (true, Outcome::Unknown);
                return Ok(());
            }
            Ok(UpdateOutcome::NoUpdates) => (no_updates(&region), false),
            Err(e) if e.is_transient() => {
                let doing = "UpdateStack was not answered, so nobody knows whether this region's hosts swap";
                let hint = "`porter build provision` asks all hosts again and settles it";
                (aws_failure(&region, doing, e).hint(hint), true)
            }
            Err(e) => {
                let doing =
                    "UpdateStack was refused; this region's hosts serve what they served before";
                (aws_failure(&region, doing, e), false)
            }
        };
        // The answer to a repeated call is not the answer to the first one, which may have got through (D-HOT-21).
        match self.made_by_us(&cloudformation, &stack).await {
            Ok(Some(_)) => {
                (target.asked, target.outcome) = (true, Outcome::Unknown);
                return Ok(());
            }
            Ok(None) => {}
            Err(_) if unsure => target.outcome = Outcome::Unknown,
            Err(error) => tracing::debug!("{error}"),
        }
        Err(failure)
    }

    /// Id of the stack when its present parameters carry this run's swap id: then a call of ours has reached it.
    async fn made_by_us(
        &self,
        cloudformation: &CloudFormation,
        stack: &str,
    ) -> Result<Option<String>, aws::Error> {
        let found = cloudformation.stack(stack).await?;
        let ours = |s: &Stack| s.parameters.get(parameter::SWAP_ID) == Some(&self.swap);
        Ok(found.filter(ours).map(|s| s.id))
    }

    /// CreateStack in every region, under one name (D-PROV-2).
    pub(super) async fn create(
        &self,
        targets: &mut [Target],
        prepared: &[Prepared],
    ) -> Result<(), Failure> {
        let name = format!(
            "{}-{}-{}-{}",
            self.config.service_name,
            self.environment.name,
            self.config.owner,
            self.started.as_second()
        );
        let calls = targets
            .iter_mut()
            .zip(prepared)
            .map(|(t, p)| self.create_region(t, p, &name));
        all(join_all(calls).await).map(drop)
    }

    async fn create_region(
        &self,
        target: &mut Target,
        prepared: &Prepared,
        name: &str,
    ) -> Result<(), Failure> {
        let times = self.times();
        let request = self.create_request(name, prepared, Timestamp::now() + times.timeout);
        let request = request.as_request(&prepared.template_url, &self.swap);
        let created = target
            .aws
            .cloudformation()
            .create(name, &request, times.on_failure, times.timeout)
            .await;
        let id = match created {
            Ok(id) => id,
            // A lost answer must not leave a stack behind that nobody deletes.
            Err(error) => match self.made_by_us(&target.aws.cloudformation(), name).await {
                Ok(Some(id)) => id,
                _ => {
                    return Err(aws_failure(
                        &target.region.name,
                        &format!("CreateStack of {name} failed"),
                        error,
                    ));
                }
            },
        };
        self.console
            .say(format!("  {}: {name}", target.region.name));
        target.stack = Some(id);
        (target.asked, target.outcome) = (true, Outcome::Unknown);
        Ok(())
    }

    /// Follows every new stack to CREATE_COMPLETE, event by event (D-PROV-5 to D-PROV-7).
    pub(super) async fn follow_stacks(
        &self,
        targets: &mut [Target],
        prepared: &[Prepared],
    ) -> Result<(), Failure> {
        let follows = targets
            .iter_mut()
            .zip(prepared)
            .map(|(t, p)| self.follow_stack(t, p));
        all(join_all(follows).await).map(drop)
    }

    async fn follow_stack(&self, target: &mut Target, prepared: &Prepared) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let id = target.stack.clone().unwrap_or_default();
        let cloudformation = target.aws.cloudformation();
        let tell = |e: &StackEvent| {
            let reason = e
                .reason
                .as_ref()
                .map(|r| format!(": {r}"))
                .unwrap_or_default();
            self.console
                .say(format!("  {region}  {} {}{reason}", e.logical_id, e.status));
        };
        match update::follow(
            &cloudformation,
            &id,
            Operation::Create,
            &self.times(),
            self.stop,
            tell,
        )
        .await
        {
            Ok(stack) => {
                target.stack_status = stack.map(|s| s.status.to_string());
            }
            Err(error) => {
                if !matches!(error, FollowError::Interrupted { .. }) {
                    target.outcome = Outcome::Failed;
                }
                return Err(follow_failure(&region, error));
            }
        }
        if let Some(lb) = &prepared.assembled.provisioned_load_balancer {
            let found = cloudformation.physical_id(&id, &lb.logical_id).await;
            target.provisioned_load_balancer = found.map_err(|e| {
                aws_failure(&region, "the provisioned load balancer can't be read", e)
            })?;
        }
        Ok(())
    }

    /// Takes the new stacks of all regions away again, after `failure` (D-PROV-8, D-PROV-9).
    pub(super) async fn delete_stacks(
        &self,
        targets: &mut [Target],
        mut failure: Failure,
    ) -> Failure {
        if self.times().on_failure == OnFailure::DoNothing {
            return failure
                .hint("the new stacks are kept, as STACK_CREATION_ON_FAILURE=DO_NOTHING says");
        }
        let existing = targets.iter_mut().filter(|t| t.stack.is_some());
        let results = join_all(existing.map(|t| self.delete_stack(t))).await;
        let none = results.is_empty();
        for result in results {
            if let Err(left) = result {
                failure = failure.detail(left.message);
                for hint in left.hints {
                    failure = failure.hint(hint);
                }
            }
        }
        if none {
            failure.hint("nothing has been built")
        } else {
            failure.hint("what was promoted before still serves")
        }
    }

    async fn delete_stack(&self, target: &mut Target) -> Result<(), Failure> {
        let (region, id) = (
            target.region.name.clone(),
            target.stack.clone().unwrap_or_default(),
        );
        self.console
            .say(format!("  {region}: deleting the new stack {id}"));
        let by_hand = || {
            format!(
                "delete it by hand: aws cloudformation delete-stack --region {region} --stack-name {id}"
            )
        };
        let cloudformation = target.aws.cloudformation();
        cloudformation
            .delete(&id)
            .await
            .map_err(|e| aws_failure(&region, "the new stack stays behind", e).hint(by_hand()))?;
        let times = Times {
            timeout: DELETE_LIMIT,
            ..self.times()
        };
        // An interrupt that led here must not end the clean-up too; a second one ends the program.
        let never = CancellationToken::new();
        let followed = update::follow(
            &cloudformation,
            &id,
            Operation::Delete,
            &times,
            &never,
            |_| {},
        )
        .await;
        followed.map_err(|e| follow_failure(&region, e).hint(by_hand()))?;
        target.stack_status = Some("DELETE_COMPLETE".to_owned());
        Ok(())
    }

    /// Keeps alarms, schedules and rebalancing from changing the groups while hosts swap (D-HOT-39). A group that can't
    /// be suspended is swapped all the same: the tally copes with hosts that come and go.
    pub(super) async fn suspend_scaling(&self, targets: &mut [Target]) {
        if !self.environment.hot_swap.suspend_scaling {
            return;
        }
        join_all(targets.iter_mut().map(async |target| {
            let Some(group) = target.promoted.as_ref().filter(|g| g.may_be_suspended()) else {
                return;
            };
            let autoscaling = target.aws.autoscaling();
            match autoscaling.suspend(&group.name, self.deadline()).await {
                Ok(()) => target.suspended = Some(group.name.clone()),
                // An emulator without the call has no alarms either.
                Err(error) if error.is_unsupported() => tracing::debug!("{error}"),
                Err(error) => self.console.warn(format!(
                    "{}: scaling is not suspended during the swap: {error}",
                    target.region.name
                )),
            }
        }))
        .await;
    }

    /// Undoes [`Deployment::suspend_scaling`], whatever came between.
    pub(super) async fn resume_scaling(&self, targets: &mut [Target]) {
        join_all(targets.iter_mut().map(async |target| {
            let Some(group) = target.suspended.take() else { return };
            if let Err(error) = target.aws.autoscaling().resume(&group).await {
                self.console.warn(format!(
                    "{}: scaling of {group} is still suspended: {error}; resume it: aws autoscaling resume-processes --region {} \
                     --auto-scaling-group-name {group}",
                    target.region.name, target.region.name
                ));
            }
        }))
        .await;
    }
}

/// Every run has a swap id of its own, so there is always something to update; if CloudFormation sees nothing all the
/// same, another call with another id would be answered alike, and waiting for hosts that were not asked is no use.
fn no_updates(region: &str) -> Failure {
    let message = format!(
        "{region}: CloudFormation has no updates to perform although the swap id is new, so this region's hosts were not \
         asked for anything and serve what they served before"
    );
    Failure::new(Exit::Failure, message).hint(format!(
        "does the stack in {region} still hand the parameter {} to its launch template? --no-hotswap builds new hosts",
        parameter::SWAP_ID
    ))
}

fn follow_failure(region: &str, error: FollowError) -> Failure {
    let exit = match error {
        FollowError::Interrupted { .. } => Exit::Interrupted,
        _ => Exit::Failure,
    };
    let resources: Vec<String> = match &error {
        FollowError::Failed { resources, .. } => {
            resources.iter().map(ToString::to_string).collect()
        }
        _ => vec![],
    };
    let failure = Failure::because(exit, region, error);
    resources.iter().fold(failure, Failure::detail)
}
