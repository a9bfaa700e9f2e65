//! Records which stack is the promoted one, in the tags of its load balancer (D-PROM-4).
//!
//! Only that: moving instances between load balancers is not part of this version.

use crate::{
    aws::{self, Role, Session},
    config::{Config, LoadBalancer, Region},
    error::{Exit, Failure},
    report::Outcome,
    state::ProvisionState,
};
use contract::names::tag;
use futures::future::join_all;
use serde::Serialize;
use std::collections::BTreeMap;

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

/// Tags every region's load balancer with the stack that the state file names.
///
/// # Errors
/// The state is not a success, names what the configuration does not have, or a tag could not be written; the message
/// tells which regions are tagged.
pub async fn promote(
    config: &Config,
    state: &ProvisionState,
    elb: Option<&str>,
) -> Result<Vec<Promoted>, Failure> {
    if state.outcome != Outcome::Success {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "the last provision of {} was no success, so there is nothing to promote",
                state.environment
            ),
        )
        .hint("run `porter build provision` again"));
    }
    let Some(environment) = config.environment(&state.environment) else {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "the configuration has no environment `{}`",
                state.environment
            ),
        ));
    };
    let mut work = vec![];
    for (name, region_state) in &state.regions {
        let Some(region) = environment.regions.iter().find(|r| r.name == *name) else {
            return Err(Failure::new(
                Exit::Failure,
                format!(
                    "the configuration has no region `{name}` in {}",
                    environment.name
                ),
            ));
        };
        work.push(promote_region(
            config,
            &environment.name,
            region,
            &region_state.stack_id,
            elb,
        ));
    }
    crate::deploy::all(join_all(work).await)
}

async fn promote_region(
    config: &Config,
    environment: &str,
    region: &Region,
    stack: &str,
    elb: Option<&str>,
) -> Result<Promoted, Failure> {
    let fail = |e: aws::Error| {
        Failure::because(
            Exit::Failure,
            format!(
                "{}: the stack {stack} is not recorded as promoted",
                region.name
            ),
            e,
        )
        .hint("it serves as before; run `porter build promote` again before the next hot swap")
    };
    let session_name = aws::session_name(&config.service_name, environment, "promote");
    let role = region.role_arn.as_ref().map(|arn| Role {
        arn,
        external_id: region.external_id.as_deref(),
        session_name: &session_name,
    });
    let session = Session::connect(&region.name, role.as_ref()).await;
    let tags = BTreeMap::from([
        (tag::PROMOTED_STACK.to_owned(), stack.to_owned()),
        (
            tag::PORTER_VERSION.to_owned(),
            crate::deploy::VERSION.to_owned(),
        ),
    ]);
    let load_balancer = match &region.load_balancer {
        LoadBalancer::None => None,
        LoadBalancer::Classic(list) => {
            let found = list.iter().find(|lb| elb.is_none_or(|tag| lb.tag == tag));
            let lb = found.ok_or_else(|| {
                Failure::new(
                    Exit::Failure,
                    format!(
                        "{}: no load balancer has the tag `{}`",
                        region.name,
                        elb.unwrap_or_default()
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
        stack: stack.to_owned(),
        load_balancer,
    })
}
