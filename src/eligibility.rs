//! Pure: hot swap, provision or refuse, with every reason (D-HOT-5 to D-HOT-12).
//!
//! [`facts`] in, [`Decision`] out; the time is an argument. [`assess`] looks at each region by itself, [`decide`] draws
//! the conclusion for the environment: one region that may not be swapped means that all regions are provisioned
//! (D-HOT-12), since one deployment has one stack name everywhere.

pub mod age;
pub mod facts;
pub mod reason;
pub mod status;

#[cfg(test)]
mod table;

pub use age::Age;
pub use facts::{Destination, InServiceHost, LoadBalancerFacts, RegionFacts, StackFacts};
pub use reason::{Finding, Reason};
pub use status::{Progress, StackStatus, Standing};

use crate::{config::model::OnIneligible, error::Exit};
use contract::{job::HOST_PROTOCOL, millis, names::tag};
use jiff::Timestamp;
use serde::Serialize;
use std::{fmt, time::Duration};

/// Swaps need hosts of this age at most, whatever the configuration says (D-HOT-2).
pub const LONGEST_WINDOW: Duration = Duration::from_secs(168 * 3_600);

/// What the decision depends on besides facts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `hot_swap`, and no `--no-hotswap`.
    pub enabled: bool,
    /// `service_name`.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// `hot_swap.max_age`; above [`LONGEST_WINDOW`] it counts as that.
    pub max_age: Duration,
    /// `hot_swap.generation`.
    pub generation: String,
    /// `hot_swap.on_ineligible`; `Fail` with `--hotswap-only`.
    pub on_ineligible: OnIneligible,
    /// Version of this program, as the tag `porter-version` spells it.
    pub version: String,
}

/// What will be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Update these stacks in place.
    HotSwap {
        /// One for each region, in the order of the facts.
        targets: Vec<Target>,
    },
    /// Build new hosts in every region.
    Provision {
        /// Why not swap; never empty.
        reasons: Vec<Finding>,
    },
    /// Do nothing.
    Refuse {
        /// Why; never empty. When every reason is [`Reason::UpdateInProgress`], waiting may help (D-HOT-11).
        reasons: Vec<Finding>,
        /// Exit status of the command.
        exit: Exit,
    },
}

/// A stack that may be swapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Region name.
    pub region: String,
    /// Stack id (an ARN).
    pub stack: String,
    /// Stack name.
    pub name: String,
    /// Its status.
    pub status: StackStatus,
    /// Its age against the window.
    pub age: Age,
}

/// One region by itself. `Display` is the line that log and report show (D-HOT-59).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// Region name.
    pub region: String,
    /// The stack that would be swapped, as far as one was found.
    pub target: Option<Target>,
    /// Every reason against it.
    pub reasons: Vec<Reason>,
    /// What is left of the window once most of it is used (D-HOT-61).
    #[serde(rename = "ends_in_ms", with = "millis::option")]
    pub ends_in: Option<Duration>,
}

impl Decision {
    /// True when only a running update is in the way.
    pub fn may_pass_by_waiting(&self) -> bool {
        matches!(self, Self::Refuse { reasons, .. }
            if reasons.iter().all(|f| matches!(f.reason, Reason::UpdateInProgress { .. })))
    }
}

impl Assessment {
    /// D-HOT-61, as a sentence.
    pub fn warning(&self) -> Option<String> {
        let left = self.ends_in?;
        Some(format!(
            "{}: this stack can be swapped for another {}; the deployment after that builds new hosts",
            self.region,
            age::hours(left)
        ))
    }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.region)?;
        match (&self.target, self.reasons.as_slice()) {
            (Some(t), []) => write!(f, "the stack {} may be swapped, {}", t.name, t.age),
            (_, reasons) => {
                write!(f, "no hot swap: ")?;
                for (i, reason) in reasons.iter().enumerate() {
                    write!(f, "{}{reason}", if i == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

/// Hot swap, provision or refuse.
pub fn decide(facts: &[RegionFacts], settings: &Settings, now: Timestamp) -> Decision {
    conclude(&assess(facts, settings, now), settings)
}

/// Each region by itself, with every reason; in the order of `facts`.
pub fn assess(facts: &[RegionFacts], settings: &Settings, now: Timestamp) -> Vec<Assessment> {
    facts
        .iter()
        .map(|region| assess_region(region, settings, now))
        .collect()
}

/// The environment's decision from its regions' assessments.
pub fn conclude(regions: &[Assessment], settings: &Settings) -> Decision {
    let mut lasting = vec![];
    let mut passing = vec![];
    let mut targets = vec![];
    for region in regions {
        for reason in &region.reasons {
            let finding = Finding {
                region: region.region.clone(),
                reason: reason.clone(),
            };
            match reason {
                Reason::UpdateInProgress { .. } => passing.push(finding),
                _ => lasting.push(finding),
            }
        }
        targets.extend(region.target.clone());
    }
    // A promotion that succeeded in some regions only leaves different names; porter failed for good there (D-HOT-12).
    if targets.windows(2).any(|pair| pair[0].name != pair[1].name) {
        let stacks = targets
            .iter()
            .map(|t| format!("{} {}", t.region, t.name))
            .collect();
        lasting.push(Finding {
            region: String::new(),
            reason: Reason::DifferentStacks { stacks },
        });
    }
    if regions.is_empty() {
        lasting.push(Finding {
            region: String::new(),
            reason: Reason::NoStack,
        });
    }
    // A lasting reason decides whatever else is going on: new stacks do not touch the one that is being updated (D-HOT-11).
    if !lasting.is_empty() {
        lasting.extend(passing);
        return match settings.on_ineligible {
            OnIneligible::Provision => Decision::Provision { reasons: lasting },
            OnIneligible::Fail => Decision::Refuse {
                reasons: lasting,
                exit: Exit::NotEligible,
            },
        };
    }
    if !passing.is_empty() {
        return Decision::Refuse {
            reasons: passing,
            exit: Exit::Failure,
        };
    }
    Decision::HotSwap { targets }
}

fn assess_region(facts: &RegionFacts, settings: &Settings, now: Timestamp) -> Assessment {
    let mut result = Assessment {
        region: facts.region.clone(),
        target: None,
        reasons: vec![],
        ends_in: None,
    };
    if !settings.enabled {
        result.reasons.push(Reason::Disabled);
    }
    let stack = match &facts.destination {
        Destination::None => newest(facts, settings).ok_or(Reason::NoStack),
        Destination::LoadBalancer(lb) => promoted(facts, lb, settings),
    };
    let stack = match stack {
        Ok(stack) => stack,
        Err(reason) => {
            result.reasons.push(reason);
            return result;
        }
    };
    let age = Age::at(now, stack.created, settings.max_age.min(LONGEST_WINDOW));
    result.target = Some(Target {
        region: facts.region.clone(),
        stack: stack.id.clone(),
        name: stack.name.clone(),
        status: stack.status.clone(),
        age,
    });
    result.ends_in = age.nearly_over();
    result.reasons.extend(
        [
            status_reason(stack),
            version_reason(facts, stack, settings),
            age.over().map(|over| Reason::TooOld {
                stack: stack.name.clone(),
                over,
                age,
            }),
            generation_reason(stack, settings),
            foreign_hosts(facts, stack),
        ]
        .into_iter()
        .flatten(),
    );
    result
}

/// The stack that the load balancer's tag names (D-HOT-5, D-HOT-6, D-HOT-8).
fn promoted<'a>(
    facts: &'a RegionFacts,
    lb: &LoadBalancerFacts,
    settings: &Settings,
) -> Result<&'a StackFacts, Reason> {
    if lb.count > 1 {
        return Err(Reason::SeveralLoadBalancers { count: lb.count });
    }
    let Some(id) = lb.tags.get(tag::PROMOTED_STACK).filter(|id| !id.is_empty()) else {
        return Err(Reason::NothingPromoted {
            load_balancer: lb.name.clone(),
        });
    };
    let Some(stack) = facts.stacks.iter().find(|s| s.id == *id) else {
        return Err(Reason::PromotedStackGone { stack: id.clone() });
    };
    if !is_ours(stack, settings) {
        let say = |key| stack.tags.get(key).map_or("(no tag)", String::as_str);
        let owner = format!("{}/{}", say(tag::SERVICE), say(tag::ENVIRONMENT));
        return Err(Reason::NotOurs {
            stack: stack.name.clone(),
            owner,
        });
    }
    match stack.status.standing() {
        Standing::NotServing => Err(Reason::NotServing {
            stack: stack.name.clone(),
            status: stack.status.clone(),
        }),
        _ => Ok(stack),
    }
}

/// The newest stack that serves (D-HOT-9); among equals the greater id, so that the answer never depends on the order.
fn newest<'a>(facts: &'a RegionFacts, settings: &Settings) -> Option<&'a StackFacts> {
    facts
        .stacks
        .iter()
        .filter(|s| is_ours(s, settings) && s.status.standing() != Standing::NotServing)
        .max_by_key(|s| (s.created, &s.id))
}

/// Stacks are recognised by their tags, never by name (D-PROV-3).
fn is_ours(stack: &StackFacts, settings: &Settings) -> bool {
    stack.tags.get(tag::SERVICE) == Some(&settings.service)
        && stack.tags.get(tag::ENVIRONMENT) == Some(&settings.environment)
}

fn status_reason(stack: &StackFacts) -> Option<Reason> {
    let (name, status) = (stack.name.clone(), stack.status.clone());
    match status.standing() {
        Standing::Settled => None,
        Standing::RolledBack if all_serve_the_same(stack) => None,
        Standing::Updating => Some(Reason::UpdateInProgress {
            stack: name,
            status,
        }),
        Standing::RolledBack | Standing::RollbackFailed => Some(Reason::RolledBack {
            stack: name,
            status,
        }),
        Standing::NotServing => Some(Reason::NotServing {
            stack: name,
            status,
        }),
        Standing::Other => Some(Reason::OtherStatus {
            stack: name,
            status,
        }),
    }
}

/// D-HOT-11: after a clean rollback the hosts decide. Hosts that nobody could ask do not agree.
fn all_serve_the_same(stack: &StackFacts) -> bool {
    match stack.serving.as_deref() {
        Some([first @ Some(_), rest @ ..]) => rest.iter().all(|s| s == first),
        _ => false,
    }
}

/// The host protocol decides where it is recorded; the exact version only for older stacks (D-HOT-6, D-HOT-7).
fn version_reason(facts: &RegionFacts, stack: &StackFacts, settings: &Settings) -> Option<Reason> {
    if let Some(found) = stack.tag(tag::HOST_PROTOCOL) {
        return (found.parse() != Ok(HOST_PROTOCOL)).then(|| Reason::OtherProtocol {
            found: found.to_owned(),
            own: HOST_PROTOCOL,
        });
    }
    let (holder, version) = match &facts.destination {
        Destination::LoadBalancer(lb) => {
            (format!("`{}`", lb.name), lb.tags.get(tag::PORTER_VERSION))
        }
        Destination::None => (
            "its group".to_owned(),
            stack.group_tags.get(tag::PORTER_VERSION),
        ),
    };
    match version {
        None => Some(Reason::NoVersion { holder }),
        Some(found) if *found != settings.version => Some(Reason::OtherVersion {
            found: found.clone(),
            own: settings.version.clone(),
        }),
        Some(_) => None,
    }
}

fn generation_reason(stack: &StackFacts, settings: &Settings) -> Option<Reason> {
    let found = stack.tag(tag::GENERATION).unwrap_or_default();
    (found != settings.generation).then(|| Reason::OtherGeneration {
        found: found.to_owned(),
        wanted: settings.generation.clone(),
    })
}

/// D-HOT-77: a tag that was not written at promotion would make us swap hosts that serve nobody.
fn foreign_hosts(facts: &RegionFacts, stack: &StackFacts) -> Option<Reason> {
    let Destination::LoadBalancer(lb) = &facts.destination else {
        return None;
    };
    let instances: Vec<_> = lb
        .in_service
        .iter()
        .filter(|host| host.stack.as_ref() != Some(&stack.id))
        .map(|host| host.instance.clone())
        .collect();
    (!instances.is_empty()).then(|| Reason::ForeignHosts {
        instances,
        promoted: stack.name.clone(),
    })
}
