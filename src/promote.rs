//! Records which stack is the promoted one, in the tags of its load balancer (D-PROM-4).
//!
//! Only that: moving instances between load balancers is not part of this version.

use crate::{
    aws::{self, Role, Session},
    config::{Config, LoadBalancer, Region},
    deploy::{all, hook_failure},
    error::{Exit, Failure},
    hooks::{self, HookContext, Moment, RegionVariables},
    progress::Console,
    report::Outcome,
    state::ProvisionState,
};
use contract::names::tag;
use futures::future::join_all;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// What became of one region.
#[derive(Debug, Serialize)]
pub struct Promoted {
    /// Region name.
    pub region: String,
    /// Stack id.
    pub stack: String,
    /// Load balancer or target group whose tags now name it; `None` where there is none.
    pub load_balancer: Option<String>,
}

/// A promotion: what is promoted where, and what its hooks are told.
pub struct Promotion<'a> {
    /// The configuration that was packed.
    pub config: &'a Config,
    /// What the last provision left.
    pub state: &'a ProvisionState,
    /// Which of several classic load balancers (D-PROM-6).
    pub elb: Option<&'a str>,
    /// What all hooks are told; the region's part is added here.
    pub hooks: &'a HookContext,
    /// Where progress goes.
    pub console: &'a Console,
    /// Ends hooks.
    pub stop: &'a CancellationToken,
}

/// One region of a promotion.
struct Place<'a> {
    region: &'a Region,
    stack: &'a str,
    session: Session,
}

impl Promotion<'_> {
    /// Runs the pre_promote hooks, tags every region's load balancer with the stack that the state file names, runs the
    /// post_promote hooks (D-CLI-9).
    ///
    /// # Errors
    /// The state is not a success, names what the configuration does not have, a hook failed, or a tag could not be
    /// written; the message tells which.
    pub async fn run(&self) -> Result<Vec<Promoted>, Failure> {
        let places = self.places().await?;
        let result = match self.hook(Moment::PrePromote, &places, None).await {
            Ok(()) => all(join_all(places.iter().map(|p| self.tag(p))).await),
            Err(failure) => Err(failure),
        };
        let outcome = if result.is_ok() {
            hooks::Outcome::Pass
        } else {
            hooks::Outcome::Fail
        };
        match (
            result,
            self.hook(Moment::PostPromote, &places, Some(outcome)).await,
        ) {
            (Ok(promoted), Ok(())) => Ok(promoted),
            (Ok(_), Err(hook)) => Err(hook.hint("the promotion itself is recorded")),
            (Err(failure), Ok(())) => Err(failure),
            (Err(failure), Err(hook)) => Err(failure.detail(hook.message)),
        }
    }

    async fn places(&self) -> Result<Vec<Place<'_>>, Failure> {
        let (config, state) = (self.config, self.state);
        let fail = |message: String| Err(Failure::new(Exit::Failure, message));
        if state.outcome != Outcome::Success {
            let message = format!(
                "the last provision of {} was no success, so there is nothing to promote",
                state.environment
            );
            return Err(
                Failure::new(Exit::Failure, message).hint("run `porter build provision` again")
            );
        }
        let Some(environment) = config.environment(&state.environment) else {
            return fail(format!(
                "the configuration has no environment `{}`",
                state.environment
            ));
        };
        let mut places = vec![];
        for (name, made) in &state.regions {
            let Some(region) = environment.regions.iter().find(|r| r.name == *name) else {
                return fail(format!(
                    "the configuration has no region `{name}` in {}",
                    environment.name
                ));
            };
            let session_name =
                aws::session_name(&config.service_name, &environment.name, "promote");
            let role = region.role_arn.as_ref().map(|arn| Role {
                arn,
                external_id: region.external_id.as_deref(),
                session_name: &session_name,
            });
            let session = Session::connect(&region.name, role.as_ref()).await;
            places.push(Place {
                region,
                stack: &made.stack_id,
                session,
            });
        }
        Ok(places)
    }

    async fn hook(
        &self,
        moment: Moment,
        places: &[Place<'_>],
        outcome: Option<hooks::Outcome>,
    ) -> Result<(), Failure> {
        let entries = self
            .config
            .hooks
            .get(moment.name())
            .map(Vec::as_slice)
            .unwrap_or_default();
        if entries.is_empty() {
            return Ok(());
        }
        let ended = |run: &hooks::HookRun| self.console.hook(run);
        let runs = places.iter().map(async |place| {
            let region = RegionVariables {
                environment: self.state.environment.clone(),
                region: place.region.name.clone(),
                credentials: place.session.credentials().await,
                endpoint: std::env::var("AWS_ENDPOINT_URL").ok(),
                stack: Some(place.stack.to_owned()),
                ..RegionVariables::default()
            };
            let context = HookContext {
                region: Some(region),
                ..self.hooks.clone()
            };
            let run = hooks::run(entries, moment, &context, outcome, &ended, self.stop).await;
            run.map(drop).map_err(|e| hook_failure(e, self.stop))
        });
        all(join_all(runs).await).map(drop)
    }

    async fn tag(&self, place: &Place<'_>) -> Result<Promoted, Failure> {
        let Place {
            region,
            stack,
            session,
        } = place;
        let fail =
            |e: aws::Error| {
                Failure::because(
                Exit::Failure,
                format!("{}: the stack {stack} is not recorded as promoted", region.name),
                e,
            )
            .hint("it serves as before; run `porter build promote` again before the next hot swap")
            };
        let tags = BTreeMap::from([
            (tag::PROMOTED_STACK.to_owned(), (*stack).to_owned()),
            (
                tag::PORTER_VERSION.to_owned(),
                crate::deploy::VERSION.to_owned(),
            ),
        ]);
        let load_balancer = match &region.load_balancer {
            LoadBalancer::None => None,
            LoadBalancer::Classic(list) => {
                let found = list
                    .iter()
                    .find(|lb| self.elb.is_none_or(|tag| lb.tag == tag));
                let lb = found.ok_or_else(|| {
                    Failure::new(
                        Exit::Failure,
                        format!(
                            "{}: no load balancer has the tag `{}`",
                            region.name,
                            self.elb.unwrap_or_default()
                        ),
                    )
                })?;
                session
                    .elb()
                    .set_tags(&lb.name, &tags)
                    .await
                    .map_err(fail)?;
                Some(lb.name.clone())
            }
            LoadBalancer::TargetGroups(arns) => {
                for arn in arns {
                    session.elbv2().set_tags(arn, &tags).await.map_err(fail)?;
                }
                arns.first().cloned()
            }
        };
        Ok(Promoted {
            region: region.name.clone(),
            stack: (*stack).to_owned(),
            load_balancer,
        })
    }
}
