//! What is known about one region before anything is decided.

use super::StackStatus;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that the decision for one region depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionFacts {
    /// Region name.
    pub region: String,
    /// What tells which stack is promoted.
    pub destination: Destination,
    /// The stacks found: with a load balancer the one its tag names, otherwise every stack of service and environment.
    pub stacks: Vec<StackFacts>,
}

/// What traffic comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// `elb: none` and worker regions, which have no load balancer (D-CFG-65): the newest stack counts (D-HOT-9).
    None,
    /// The tags of a load balancer or target group name the promoted stack.
    LoadBalancer(LoadBalancerFacts),
}

/// A classic load balancer, or the first of the target groups.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadBalancerFacts {
    /// The name or ARN, for messages.
    pub name: String,
    /// How many *classic* load balancers the region lists; target groups count as one (D-HOT-5).
    pub count: usize,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The hosts that it sends traffic to now.
    pub in_service: Vec<InServiceHost>,
}

/// A host in service in the load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InServiceHost {
    /// Instance id.
    pub instance: String,
    /// Id of the stack whose group it belongs to; `None` when it belongs to none that we looked at.
    pub stack: Option<String>,
}

/// A stack and its group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StackFacts {
    /// Stack id (an ARN).
    pub id: String,
    /// Stack name.
    pub name: String,
    /// Its status.
    pub status: StackStatus,
    /// When CreateStack was called.
    pub created: Timestamp,
    /// The stack's own tags.
    pub tags: BTreeMap<String, String>,
    /// The tags of its Auto Scaling group; empty when it has none.
    pub group_tags: BTreeMap<String, String>,
    /// The payload that each host in service last said it serves; `None` when nobody asked them. Only needed for
    /// UPDATE_ROLLBACK_COMPLETE (D-HOT-11).
    pub serving: Option<Vec<Option<String>>>,
}

impl StackFacts {
    /// A tag that the stack carries on itself or on its group. The group's value is the later one: a hot swap renews it
    /// there, where no resource is touched by a change of tags.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.group_tags
            .get(key)
            .or_else(|| self.tags.get(key))
            .map(String::as_str)
    }
}
