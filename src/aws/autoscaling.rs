//! Auto Scaling groups: sizes, members, tags, and the processes that a swap suspends.

use super::{Error, Session, error::Site};
use crate::{capacity::Sizes, signals::Membership};
use aws_sdk_autoscaling::types::{AutoScalingGroup, LifecycleState, Tag, builders::TagBuilder};
use contract::names::tag;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What would change the group's size or move its hosts in the middle of a swap (D-HOT-39). Launching, terminating and
/// replacing what is broken go on.
pub const SUSPENDED_IN_A_SWAP: [&str; 3] = ["AlarmNotification", "ScheduledActions", "AZRebalance"];

/// Auto Scaling in one region.
#[derive(Clone, Debug)]
pub struct AutoScaling {
    client: aws_sdk_autoscaling::Client,
    site: Site,
}

/// A group as it was read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, the physical id of the stack's resource.
    pub name: String,
    /// MinSize, MaxSize, DesiredCapacity.
    pub sizes: Sizes,
    /// Every instance that belongs to it.
    pub members: Vec<Member>,
    /// The group's own tags.
    pub tags: BTreeMap<String, String>,
    /// Names of suspended processes.
    pub suspended: Vec<String>,
}

/// An instance of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Instance id.
    pub instance: String,
    /// Such as `InService`, `Pending`, `Terminating:Wait`.
    pub lifecycle: String,
    /// Its zone.
    pub zone: String,
}

impl Group {
    /// Whether a swap may suspend this group's scaling and resume it afterwards: nothing is suspended, or what is was
    /// left by a run of ours that did not come to its end. What an operator suspended stays suspended (D-HOT-39).
    pub fn may_be_suspended(&self) -> bool {
        let suspended = |p: &&str| self.suspended.iter().any(|s| s == p);
        self.tags.contains_key(tag::SCALING_SUSPENDED) || !SUSPENDED_IN_A_SWAP.iter().any(suspended)
    }

    /// Ids of the instances that are InService.
    pub fn in_service(&self) -> impl Iterator<Item = &str> {
        let state = LifecycleState::InService.as_str();
        self.members
            .iter()
            .filter(move |m| m.lifecycle == state)
            .map(|m| m.instance.as_str())
    }

    /// What the tally wants to know.
    pub fn membership(&self) -> Membership {
        Membership {
            desired: self.sizes.desired,
            in_service: self.in_service().map(str::to_owned).collect(),
        }
    }
}

impl AutoScaling {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_autoscaling::Client::new(&session.config),
            site: Site {
                service: "AutoScaling",
                region: session.region.clone(),
            },
        }
    }

    /// The group of that name, if there is one. (A stack's group is found by the physical id of its resource.)
    ///
    /// # Errors
    /// The call failed.
    pub async fn group(&self, name: &str) -> Result<Option<Group>, Error> {
        let answer = self
            .client
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(name)
            .send()
            .await
            .map_err(self.site.failed("DescribeAutoScalingGroups"))?;
        // Emulators have been seen to ignore filters, so the name is compared here as well.
        Ok(answer
            .auto_scaling_groups()
            .iter()
            .find(|g| g.auto_scaling_group_name() == Some(name))
            .map(group))
    }

    /// Suspends what a swap suspends and marks the group as suspended by us `until` then; the mark comes first, so that a
    /// run that is killed in between leaves no suspension without its mark. Repeating it is harmless.
    ///
    /// # Errors
    /// A call failed; nothing was suspended.
    pub async fn suspend(&self, group: &str, until: Timestamp) -> Result<(), Error> {
        let mark = mark(group)
            .value(until.to_string())
            .propagate_at_launch(false)
            .build();
        let call = self.client.create_or_update_tags().tags(mark);
        call.send()
            .await
            .map_err(self.site.failed("CreateOrUpdateTags"))?;
        let names = SUSPENDED_IN_A_SWAP.map(str::to_owned).to_vec();
        let call = self
            .client
            .suspend_processes()
            .auto_scaling_group_name(group);
        let result = call.set_scaling_processes(Some(names)).send().await;
        match result.map_err(self.site.failed("SuspendProcesses")) {
            Ok(_) => Ok(()),
            Err(error) => {
                // A mark without a suspension is harmless; the refusal is what the caller has to hear.
                drop(self.unmark(group).await);
                Err(error)
            }
        }
    }

    /// Resumes what [`AutoScaling::suspend`] suspended and removes its mark; repeating it is harmless.
    ///
    /// # Errors
    /// A call failed; the processes may still be suspended, and the mark is still there.
    pub async fn resume(&self, group: &str) -> Result<(), Error> {
        let names = SUSPENDED_IN_A_SWAP.map(str::to_owned).to_vec();
        let call = self
            .client
            .resume_processes()
            .auto_scaling_group_name(group);
        let result = call.set_scaling_processes(Some(names)).send().await;
        result.map_err(self.site.failed("ResumeProcesses"))?;
        self.unmark(group).await
    }

    async fn unmark(&self, group: &str) -> Result<(), Error> {
        let call = self.client.delete_tags().tags(mark(group).build());
        call.send()
            .await
            .map_err(self.site.failed("DeleteTags"))
            .map(drop)
    }

    /// Sets DesiredCapacity: for tests, and for emulators that list no instance of a group before it was called.
    ///
    /// # Errors
    /// The group refused it.
    pub async fn set_desired(&self, group: &str, desired: u32) -> Result<(), Error> {
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let call = self
            .client
            .set_desired_capacity()
            .auto_scaling_group_name(group)
            .desired_capacity(desired);
        call.send()
            .await
            .map_err(self.site.failed("SetDesiredCapacity"))
            .map(drop)
    }
}

/// The tag that says whose suspension it is.
fn mark(group: &str) -> TagBuilder {
    Tag::builder()
        .key(tag::SCALING_SUSPENDED)
        .resource_id(group)
        .resource_type("auto-scaling-group")
}

fn group(group: &AutoScalingGroup) -> Group {
    let size = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    Group {
        name: group
            .auto_scaling_group_name()
            .unwrap_or_default()
            .to_owned(),
        sizes: Sizes {
            min: size(group.min_size()),
            max: size(group.max_size()),
            desired: size(group.desired_capacity()),
        },
        members: group
            .instances()
            .iter()
            .map(|i| Member {
                instance: i.instance_id().unwrap_or_default().to_owned(),
                lifecycle: i
                    .lifecycle_state()
                    .map_or(String::new(), |s| s.as_str().to_owned()),
                zone: i.availability_zone().unwrap_or_default().to_owned(),
            })
            .collect(),
        tags: group
            .tags()
            .iter()
            .filter_map(|t| {
                Some((
                    t.key()?.to_owned(),
                    t.value().unwrap_or_default().to_owned(),
                ))
            })
            .collect(),
        suspended: group
            .suspended_processes()
            .iter()
            .filter_map(|p| p.process_name().map(str::to_owned))
            .collect(),
    }
}
