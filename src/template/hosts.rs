//! The hosts as a group: Auto Scaling group, signal queue, wait condition.

use super::{
    BalancerKind, Input, Sizes, TemplateError, attribute,
    balancer::Balancer,
    parameter, reference,
    stack::{Stack, target},
};
use contract::names::{self, tag};
use serde_json::{Map, Value, json};

pub(super) const GROUP: &str = "AWS::AutoScaling::AutoScalingGroup";
const WAIT_CONDITION: &str = "AWS::CloudFormation::WaitCondition";
const QUEUE: &str = "AWS::SQS::Queue";
/// The condition under which a stack has hosts to wait for.
pub(super) const AWAITS_HOSTS: &str = "PorterAwaitsHosts";

/// The group: the user's, or ours. A launch configuration it refers to has become a launch template.
pub(super) fn group(stack: &mut Stack, launch_template: &str) -> Result<String, TemplateError> {
    let Some(id) = stack.choose("the Auto Scaling group", stack.ids_of_type(GROUP))? else {
        stack.add(
            names::AUTO_SCALING_GROUP,
            json!({"Type": GROUP, "Properties": {}}),
        )?;
        return Ok(names::AUTO_SCALING_GROUP.into());
    };
    let properties = stack.properties(&id)?;
    if (properties.get("LaunchConfigurationName"))
        .is_some_and(|v| target(v) == Some(launch_template))
    {
        properties.remove("LaunchConfigurationName");
    }
    Ok(id)
}

/// D-TPL-16, D-TPL-17
pub(super) fn signal_queue(stack: &mut Stack) -> Result<(), TemplateError> {
    stack.add(
        names::SIGNAL_QUEUE,
        json!({
            "Type": QUEUE,
            "Properties": {
                "MaximumMessageSize": contract::signal::MAX_BYTES,
                "MessageRetentionPeriod": 4 * 3600,
                "SqsManagedSseEnabled": true,
                // A build host that is killed between receiving and deleting hides the messages from the next one so long.
                "VisibilityTimeout": 15,
                "Tags": our_tags(),
            },
        }),
    )
}

/// Handle and condition; returns the handle's logical id (D-TPL-21, D-TPL-42, D-TPL-43).
///
/// CloudFormation can't update a wait condition, so count and timeout are parameters that keep the values of the
/// stack's creation. A stack that starts without hosts has none.
pub(super) fn wait_condition(stack: &mut Stack, group: &str) -> Result<String, TemplateError> {
    // Other wait conditions in a user's template wait for something else.
    let ours: Vec<String> = (stack.ids_of_type(WAIT_CONDITION).into_iter())
        .filter(|id| {
            id == "WaitCondition"
                || stack
                    .resource(id)
                    .and_then(|r| r.get("Metadata")?.get("porter"))
                    .is_some()
        })
        .collect();
    let id = match stack.choose("the hosts' wait condition", ours)? {
        Some(id) => id,
        None => {
            stack.add(
                "WaitCondition",
                json!({"Type": WAIT_CONDITION, "Condition": AWAITS_HOSTS}),
            )?;
            "WaitCondition".into()
        }
    };
    let handle = match stack.property(&id, "Handle") {
        Some(value) => target(value).map(str::to_owned).ok_or_else(|| {
            TemplateError::new(
                format!("Resources.{id}.Properties.Handle"),
                "the handle is not a Ref to a resource of this template, so hosts can't signal it",
                "refer to an AWS::CloudFormation::WaitConditionHandle with Ref, or leave the handle out",
            )
        })?,
        None => {
            stack.add(
                "WaitConditionHandle",
                json!({"Type": "AWS::CloudFormation::WaitConditionHandle"}),
            )?;
            "WaitConditionHandle".into()
        }
    };
    stack.fill(&id, "Handle", reference(&handle))?;
    stack.fill(&id, "Count", reference(parameter::AWAITED_HOSTS))?;
    stack.fill(&id, "Timeout", reference(parameter::CREATION_TIMEOUT))?;
    stack
        .resource_mut(&id)?
        .entry("DependsOn")
        .or_insert_with(|| json!(group));
    Ok(handle)
}

/// Sizes, zones, launch template, load balancer, health check and tags (D-TPL-35 to D-TPL-40).
pub(super) fn fill_group(
    stack: &mut Stack,
    input: &Input,
    id: &str,
    launch_template: &str,
    handle: &str,
    balancer: Option<&Balancer>,
    sizes: Sizes,
) -> Result<(), TemplateError> {
    let count = json!(input.region.instance_count.to_string());
    stack.fill(id, "MinSize", count.clone())?;
    stack.fill(id, "MaxSize", count.clone())?;
    stack.fill(id, "DesiredCapacity", count)?;
    if input.desired_capacity.is_some() {
        stack
            .properties(id)?
            .insert("DesiredCapacity".into(), json!(sizes.desired.to_string()));
    }

    let properties = stack.properties(id)?;
    let is_placed = |p: &Map<String, Value>| {
        [
            "AvailabilityZones",
            "VPCZoneIdentifier",
            "AvailabilityZoneIds",
        ]
        .iter()
        .any(|k| p.contains_key(*k))
    };
    if !is_placed(properties) {
        let zones = &input.region.azs;
        let subnets: Vec<&String> = zones.iter().filter_map(|z| z.subnet_id.as_ref()).collect();
        if subnets.is_empty() {
            properties.insert("AvailabilityZones".into(), reference(parameter::ZONES));
        } else {
            properties.insert("VPCZoneIdentifier".into(), json!(subnets));
        }
    }
    let launches = [
        "LaunchTemplate",
        "MixedInstancesPolicy",
        "LaunchConfigurationName",
        "InstanceId",
    ];
    if !launches.iter().any(|k| properties.contains_key(*k)) {
        properties.insert(
            "LaunchTemplate".into(),
            json!({
                "LaunchTemplateId": reference(launch_template),
                "Version": attribute(launch_template, "LatestVersionNumber"),
            }),
        );
    }
    if let Some(balancer) = balancer {
        match balancer.place.kind {
            BalancerKind::Classic => {
                let name = reference(&balancer.place.logical_id);
                stack.append(id, "LoadBalancerNames", vec![name])?;
            }
            BalancerKind::V2 => {
                let arns = balancer
                    .target_groups
                    .iter()
                    .map(|t| reference(t))
                    .collect();
                stack.append(id, "TargetGroupARNs", arns)?;
            }
        }
    }
    let properties = stack.properties(id)?;
    let is_balanced = ["LoadBalancerNames", "TargetGroupARNs"]
        .iter()
        .any(|k| properties.contains_key(*k));
    if is_balanced {
        properties
            .entry("HealthCheckType")
            .or_insert_with(|| json!("ELB"));
        properties
            .entry("HealthCheckGracePeriod")
            .or_insert_with(|| reference(parameter::CREATION_TIMEOUT));
    }
    tag_group(stack, input, id, handle)
}

fn tag_group(
    stack: &mut Stack,
    input: &Input,
    id: &str,
    handle: &str,
) -> Result<(), TemplateError> {
    let name = format!(
        "{}-{}-{}",
        input.config.service_name, input.environment.name, input.config.owner
    );
    let host_protocol = contract::job::HOST_PROTOCOL.to_string();
    let on_hosts = [
        ("Name", json!(name)),
        (tag::ENVIRONMENT, reference(parameter::ENVIRONMENT)),
        (tag::SERVICE, reference(parameter::SERVICE_NAME)),
        (
            "porter:aws:cloudformation:waitconditionhandle:logical-id",
            json!(handle),
        ),
    ];
    let on_group = [
        (tag::PORTER_VERSION, json!(input.tool_version)),
        (tag::HOST_PROTOCOL, json!(host_protocol)),
        (tag::OWNER, json!(input.config.owner)),
        (tag::PAYLOAD, reference(parameter::PAYLOAD_DIGEST)),
        (tag::GENERATION, reference(parameter::GENERATION)),
    ];
    let part = format!("Resources.{id}.Properties.Tags");
    let tags = stack
        .properties(id)?
        .entry("Tags")
        .or_insert_with(|| json!([]));
    let tags = tags.as_array_mut().ok_or_else(|| {
        TemplateError::new(
            part,
            "the tags are not a list",
            "write them as a list of Key, Value and PropagateAtLaunch",
        )
    })?;
    let with_launch = |tags: Vec<(&'static str, Value)>, propagate: bool| {
        tags.into_iter()
            .map(move |(k, v)| json!({"Key": k, "Value": v, "PropagateAtLaunch": propagate}))
    };
    for tag in with_launch(on_hosts.into(), true).chain(with_launch(on_group.into(), false)) {
        let same = tags.iter().position(|t| t["Key"] == tag["Key"]);
        match same {
            // D-TPL-54: the user's Name is kept.
            Some(_) if tag["Key"] == "Name" => {}
            Some(at) => tags[at] = tag,
            None => tags.push(tag),
        }
    }
    Ok(())
}

/// Service and environment, for resources that people find in the console.
pub(super) fn our_tags() -> Value {
    json!([
        {"Key": tag::ENVIRONMENT, "Value": reference(parameter::ENVIRONMENT)},
        {"Key": tag::SERVICE, "Value": reference(parameter::SERVICE_NAME)},
    ])
}
