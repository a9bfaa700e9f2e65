//! Step 1: what is there in each region, and what that means.

use super::{
    Deployment, UNTOUCHED, Way,
    region::{Target, aws_failure},
};
use crate::{
    aws::{self, Session, cloudformation::Stack},
    capacity,
    config::{LoadBalancer, OnIneligible},
    eligibility::{
        self, Decision, Destination, Finding, InServiceHost, LoadBalancerFacts, RegionFacts,
        StackFacts,
    },
    error::{Exit, Failure},
    template,
};
use contract::names::{self, tag};
use futures::future::try_join_all;
use jiff::Timestamp;
use std::{collections::BTreeMap, time::Duration};

/// Between two looks at a running update that is in the way.
const UPDATE_POLL: Duration = Duration::from_secs(5);

/// This program's version as tags spell it.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

impl Deployment<'_> {
    /// Reads every region and decides. A running update is waited for within the swap's deadline (D-HOT-11).
    pub(super) async fn decide(&self, targets: &mut [Target]) -> Result<Decision, Failure> {
        let deadline = Timestamp::now() + self.environment.hot_swap.deadline;
        let mut said = false;
        loop {
            self.unless_interrupted(UNTOUCHED, self.look(targets))
                .await?;
            let facts: Vec<RegionFacts> = targets.iter().filter_map(|t| t.facts.clone()).collect();
            let settings = self.settings();
            let assessments = eligibility::assess(&facts, &settings, Timestamp::now());
            let decision = eligibility::conclude(&assessments, &settings);
            if decision.may_pass_by_waiting() && Timestamp::now() < deadline && self.request.waits {
                if !said {
                    self.console.say(format!(
                        "  an earlier update is still running; waiting up to {} s for its end",
                        self.environment.hot_swap.deadline.as_secs()
                    ));
                    said = true;
                }
                self.unless_interrupted(UNTOUCHED, async {
                    tokio::time::sleep(UPDATE_POLL).await;
                    Ok(())
                })
                .await?;
                continue;
            }
            for (target, assessment) in targets.iter_mut().zip(&assessments) {
                self.console.say(format!("  {assessment}"));
                target.reasons = vec![assessment.to_string()];
                if let Some(warning) = assessment.warning() {
                    self.console.warn(warning);
                }
            }
            self.settle_sizes(targets, &decision)?;
            return Ok(decision);
        }
    }

    fn settings(&self) -> eligibility::Settings {
        let hot_swap = &self.environment.hot_swap;
        eligibility::Settings {
            enabled: hot_swap.enabled && self.request.way != Way::Provision,
            service: self.config.service_name.clone(),
            environment: self.environment.name.clone(),
            max_age: hot_swap.max_age,
            generation: hot_swap.generation.clone(),
            on_ineligible: if self.request.way == Way::HotSwap {
                OnIneligible::Fail
            } else {
                hot_swap.on_ineligible
            },
            version: VERSION.to_owned(),
        }
    }

    /// The capacity rule for all regions, before anything is done in one (D-HOT-13, D-HOT-17, D-PROV-11).
    fn settle_sizes(&self, targets: &mut [Target], decision: &Decision) -> Result<(), Failure> {
        let mut violations = vec![];
        match decision {
            Decision::HotSwap { targets: stacks } => {
                for (target, stack) in targets.iter_mut().zip(stacks) {
                    target.stack = Some(stack.stack.clone());
                    target.stack_status = Some(stack.status.to_string());
                    let promoted = target
                        .promoted
                        .as_ref()
                        .filter(|_| !self.request.reset_desired)
                        .map(|g| g.sizes);
                    match capacity::check(target.sizes, promoted) {
                        Ok(desired) => target.desired = Some(desired),
                        Err(error) => violations.push(format!("{}: {error}", target.region.name)),
                    }
                }
            }
            Decision::Provision { .. }
                if self.environment.hot_swap.enabled && !self.request.reset_desired =>
            {
                for target in targets {
                    let taken = capacity::take_over(
                        target.sizes,
                        target.promoted.as_ref().map(|g| g.sizes),
                    );
                    target.desired = Some(taken.desired);
                    if let Some(warning) = taken.warning {
                        self.console
                            .warn(format!("{}: {warning}", target.region.name));
                    }
                }
            }
            Decision::Provision { .. } | Decision::Refuse { .. } => {}
        }
        if violations.is_empty() {
            return Ok(());
        }
        let failure = Failure::new(
            Exit::Failure,
            "the size of the running group does not fit the template",
        )
        .hint("nothing has changed in any region");
        Err(violations.into_iter().fold(failure, Failure::detail))
    }

    async fn look(&self, targets: &mut [Target]) -> Result<(), Failure> {
        try_join_all(targets.iter_mut().map(|t| self.look_at(t)))
            .await
            .map(drop)
    }

    async fn look_at(&self, target: &mut Target) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let fail = |e: aws::Error| {
            aws_failure(
                &region,
                "the promoted stack can't be read; nothing has changed",
                e,
            )
        };
        let cloudformation = target.aws.cloudformation();

        let balancer = self.balancer(target).await.map_err(fail)?;
        let stacks: Vec<Stack> = match &balancer {
            None => cloudformation
                .stacks_of(&self.config.service_name, &self.environment.name)
                .await
                .map_err(fail)?,
            Some(lb) => match lb.tags.get(tag::PROMOTED_STACK).filter(|id| !id.is_empty()) {
                Some(id) => cloudformation
                    .stack(id)
                    .await
                    .map_err(fail)?
                    .into_iter()
                    .collect(),
                None => vec![],
            },
        };
        let mut facts = vec![];
        let mut groups = BTreeMap::new();
        for stack in stacks {
            let group = cloudformation.group_of(&stack.id).await.map_err(fail)?;
            let group = match group {
                Some(name) => target.aws.autoscaling().group(&name).await.map_err(fail)?,
                None => None,
            };
            facts.push(StackFacts {
                group_tags: group.as_ref().map(|g| g.tags.clone()).unwrap_or_default(),
                id: stack.id.clone(),
                name: stack.name,
                status: stack.status,
                created: stack.created,
                tags: stack.tags,
                serving: None,
            });
            if let Some(group) = group {
                groups.insert(stack.id, group);
            }
        }
        let destination = match balancer {
            None => Destination::None,
            Some(mut lb) => {
                for host in &mut lb.in_service {
                    let owner = groups
                        .iter()
                        .find(|(_, g)| g.members.iter().any(|m| m.instance == host.instance));
                    host.stack = owner.map(|(stack, _)| stack.clone());
                }
                Destination::LoadBalancer(lb)
            }
        };
        let facts = RegionFacts {
            region: target.region.name.clone(),
            destination,
            stacks: facts,
        };
        // The same choice that the decision makes, so that sizes and hooks speak of the stack that will be touched.
        let promoted = eligibility::assess(
            std::slice::from_ref(&facts),
            &self.settings(),
            Timestamp::now(),
        )
        .into_iter()
        .find_map(|a| a.target);
        if let Some(promoted) = promoted {
            target.previous_stack = Some(promoted.stack.clone());
            if capacity::source(&promoted.status) == capacity::Source::Group {
                target.promoted = groups.remove(&promoted.stack);
            }
        }
        target.serving = target
            .promoted
            .as_ref()
            .and_then(|g| g.tags.get(tag::PAYLOAD).cloned());
        target.facts = Some(facts);
        Ok(())
    }

    /// Tags and hosts of the destination, and what the template needs to know of it. `None` without a load balancer.
    async fn balancer(&self, target: &mut Target) -> Result<Option<LoadBalancerFacts>, aws::Error> {
        let hosts = |ids: Vec<String>| {
            ids.into_iter()
                .map(|instance| InServiceHost {
                    instance,
                    stack: None,
                })
                .collect()
        };
        match &target.region.load_balancer {
            LoadBalancer::None => Ok(None),
            LoadBalancer::Classic(list) => {
                let elb = target.aws.elb();
                let mut security_groups = vec![];
                let mut vpc_id = None;
                for lb in list {
                    let found = elb
                        .describe(&lb.name)
                        .await?
                        .ok_or_else(|| missing(&target.aws, "load balancer", &lb.name))?;
                    security_groups.extend(found.security_groups);
                    vpc_id = vpc_id.or(found.vpc);
                }
                target.destination = template::Destination::Classic {
                    vpc_id,
                    security_groups,
                };
                let Some(first) = list.first() else {
                    return Ok(None);
                };
                Ok(Some(LoadBalancerFacts {
                    name: first.name.clone(),
                    count: list.len(),
                    tags: elb.tags(&first.name).await?,
                    in_service: hosts(elb.in_service(&first.name).await?),
                }))
            }
            LoadBalancer::TargetGroups(arns) => {
                let Some(first) = arns.first() else {
                    return Ok(None);
                };
                let elbv2 = target.aws.elbv2();
                let group = elbv2
                    .target_group(first)
                    .await?
                    .ok_or_else(|| missing(&target.aws, "target group", first))?;
                let balancers = elbv2.load_balancers(&group.load_balancers).await?;
                target.destination_dns = balancers.dns;
                target.destination = template::Destination::TargetGroups {
                    vpc_id: group.vpc.clone().unwrap_or_default(),
                    security_groups: balancers.security_groups,
                    subnets: balancers.subnets,
                    protocol: group.protocol,
                    port: group.port,
                };
                let in_service = elbv2
                    .targets(first)
                    .await?
                    .into_iter()
                    .filter(|t| t.in_service())
                    .map(|t| t.instance)
                    .collect();
                Ok(Some(LoadBalancerFacts {
                    name: group.name,
                    count: 1,
                    tags: elbv2.tags(first).await?,
                    in_service: hosts(in_service),
                }))
            }
        }
    }
}

fn missing(session: &Session, what: &str, name: &str) -> aws::Error {
    aws::Error {
        service: "ElasticLoadBalancing",
        operation: "Describe",
        region: session.region().to_owned(),
        code: None,
        message: format!("there is no {what} {name}, which the configuration names"),
        request_id: None,
        kind: aws::Kind::NotFound,
    }
}

/// Why nothing was done.
pub(super) fn refused(reasons: &[Finding], exit: Exit) -> Failure {
    let message = match exit {
        Exit::NotEligible => "a hot swap is not allowed, and building new hosts was excluded",
        _ => "an earlier update has not ended",
    };
    let failure = Failure::new(exit, message).hint(UNTOUCHED);
    reasons.iter().fold(failure, Failure::detail)
}

/// The tags that every stack of ours carries (D-PROV-3).
pub(super) fn stack_tags(deployment: &Deployment<'_>) -> BTreeMap<String, String> {
    let mut tags = deployment.environment.tags.clone();
    let ours = [
        (tag::SERVICE, deployment.config.service_name.clone()),
        (tag::ENVIRONMENT, deployment.environment.name.clone()),
        (tag::OWNER, deployment.config.owner.clone()),
        (tag::PORTER_VERSION, VERSION.to_owned()),
        (tag::HOST_PROTOCOL, contract::job::HOST_PROTOCOL.to_string()),
    ];
    tags.extend(ours.map(|(k, v)| (k.to_owned(), v)));
    tags
}

/// The queue on which a stack's hosts report.
pub(super) const QUEUE: &str = names::SIGNAL_QUEUE;
