//! The hosts: launch template, role and profile, Auto Scaling group, signal queue, wait condition.

use super::{
    BalancerKind, Input, Sizes, TemplateError, attribute,
    balancer::Balancer,
    parameter, reference,
    stack::{PROFILE, ROLE, Stack, target},
};
use contract::names::{self, tag};
use serde_json::{Map, Value, json};

pub(super) const GROUP: &str = "AWS::AutoScaling::AutoScalingGroup";
pub(super) const LAUNCH_TEMPLATE: &str = "AWS::EC2::LaunchTemplate";
const LAUNCH_CONFIGURATION: &str = "AWS::AutoScaling::LaunchConfiguration";
const WAIT_CONDITION: &str = "AWS::CloudFormation::WaitCondition";
const QUEUE: &str = "AWS::SQS::Queue";
/// The condition under which a stack has hosts to wait for.
pub(super) const AWAITS_HOSTS: &str = "PorterAwaitsHosts";
/// The mapping of configured image ids.
const IMAGES: &str = "RegionToAMI";
/// Two payloads of images, and blobs, beside the system.
const ROOT_VOLUME_GIB: u32 = 30;
/// Containers reach the metadata service through the bridge, which is one hop more (D-SEC-21: `aws_credentials: host`).
const METADATA_HOP_LIMIT: u32 = 2;

/// The launch template that the hosts come from: the user's, or ours.
pub(super) fn launch_template(stack: &mut Stack) -> Result<String, TemplateError> {
    let mut candidates = stack.ids_of_type(LAUNCH_TEMPLATE);
    candidates.extend(stack.ids_of_type(LAUNCH_CONFIGURATION));
    let Some(id) = stack.choose("the hosts' launch template", candidates)? else {
        stack.add(
            names::LAUNCH_TEMPLATE,
            json!({"Type": LAUNCH_TEMPLATE, "Properties": {"LaunchTemplateData": {}}}),
        )?;
        return Ok(names::LAUNCH_TEMPLATE.into());
    };
    if stack.type_of(&id) == Some(LAUNCH_CONFIGURATION) {
        translate(stack, &id)?;
    }
    Ok(id)
}

/// A launch configuration as a launch template (D-TPL-19).
fn translate(stack: &mut Stack, id: &str) -> Result<(), TemplateError> {
    let mut data = Map::new();
    let mut groups = None;
    let mut public = None;
    for (name, value) in stack.properties(id)?.clone() {
        match name.as_str() {
            "BlockDeviceMappings"
            | "EbsOptimized"
            | "ImageId"
            | "InstanceType"
            | "KernelId"
            | "KeyName"
            | "MetadataOptions"
            | "UserData" => {
                data.insert(name, value);
            }
            "RamDiskId" => {
                data.insert("RamDiskId".into(), value);
            }
            "SecurityGroups" => groups = Some(value),
            "AssociatePublicIpAddress" => public = Some(value),
            "InstanceMonitoring" => {
                data.insert("Monitoring".into(), json!({"Enabled": value}));
            }
            "PlacementTenancy" => {
                data.insert("Placement".into(), json!({"Tenancy": value}));
            }
            "SpotPrice" => {
                data.insert(
                    "InstanceMarketOptions".into(),
                    json!({"MarketType": "spot", "SpotOptions": {"MaxPrice": value}}),
                );
            }
            "IamInstanceProfile" => {
                let is_arn = value.as_str().is_some_and(|s| s.starts_with("arn:"))
                    || value.get("Fn::GetAtt").is_some();
                let key = if is_arn { "Arn" } else { "Name" };
                data.insert(name, json!({key: value}));
            }
            // A name can't be kept: the new resource is another kind of thing.
            "LaunchConfigurationName" => {}
            _ => {
                return Err(TemplateError::new(
                    format!("Resources.{id}.Properties.{name}"),
                    "launch configurations can't be created in new accounts, and this property has no counterpart in a launch template",
                    "write the resource as AWS::EC2::LaunchTemplate",
                ));
            }
        }
    }
    match (public, groups) {
        (Some(public), groups) => {
            let mut interface = json!({"DeviceIndex": 0, "AssociatePublicIpAddress": public});
            if let Some(groups) = groups {
                interface["Groups"] = groups;
            }
            data.insert("NetworkInterfaces".into(), json!([interface]));
        }
        (None, Some(groups)) => {
            data.insert("SecurityGroupIds".into(), groups);
        }
        (None, None) => {}
    }
    let resource = stack.resource_mut(id)?;
    resource.insert("Type".into(), json!(LAUNCH_TEMPLATE));
    resource.insert("Properties".into(), json!({"LaunchTemplateData": data}));
    stack.warnings.push(format!(
        "`{id}` is a launch configuration, which new accounts can't create: it was translated into a launch template"
    ));
    Ok(())
}

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
                "VisibilityTimeout": 60,
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

/// The launch template's `LaunchTemplateData`.
pub(super) fn data<'a>(
    stack: &'a mut Stack,
    id: &str,
) -> Result<&'a mut Map<String, Value>, TemplateError> {
    let data = (stack.properties(id)?)
        .entry("LaunchTemplateData")
        .or_insert_with(|| json!({}));
    super::stack::object_mut(
        data,
        &format!("Resources.{id}.Properties.LaunchTemplateData"),
    )
}

/// Image, type, key, profile, metadata service, volume and tags (D-TPL-31, D-TPL-32).
pub(super) fn fill_launch_template(
    stack: &mut Stack,
    input: &Input,
    id: &str,
) -> Result<(), TemplateError> {
    let profile = instance_profile(stack, input, id)?;
    let region = input.region;
    let image = match data(stack, id)?.get("ImageId") {
        Some(theirs) => theirs.clone(),
        None => image(stack, input)?,
    };
    let tags = volume_tags(input);
    let data = data(stack, id)?;
    let mut fill = |name: &str, value: Value| {
        data.entry(name).or_insert(value);
    };
    fill("ImageId", image);
    if let Some(key) = &region.key_pair_name {
        fill("KeyName", json!(key));
    }
    if let Some(profile) = profile {
        fill(
            "IamInstanceProfile",
            json!({"Arn": attribute(&profile, "Arn")}),
        );
    }
    fill(
        "BlockDeviceMappings",
        json!([{
            "DeviceName": "/dev/xvda",
            "Ebs": {"DeleteOnTermination": true, "Encrypted": true, "VolumeSize": ROOT_VOLUME_GIB, "VolumeType": "gp3"},
        }]),
    );
    fill(
        "TagSpecifications",
        json!([
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ]),
    );
    if !data.contains_key("InstanceRequirements") {
        data.entry("InstanceType")
            .or_insert_with(|| json!(region.instance_type));
    }
    let options = data.entry("MetadataOptions").or_insert_with(|| json!({}));
    let options = super::stack::object_mut(
        options,
        &format!("Resources.{id}.Properties.LaunchTemplateData.MetadataOptions"),
    )?;
    options
        .entry("HttpPutResponseHopLimit")
        .or_insert_with(|| json!(METADATA_HOP_LIMIT));
    // D-SEC-22: not the user's to loosen, our own access uses tokens.
    options.insert("HttpTokens".into(), json!("required"));
    Ok(())
}

/// D-TPL-13, D-TPL-14: a mapping for configured image ids, so that user templates can refer to it as well.
fn image(stack: &mut Stack, input: &Input) -> Result<Value, TemplateError> {
    let region = input.region;
    // EC2 resolves `resolve:ssm:` when it launches an instance. CloudFormation's own reference would be resolved again
    // at every update, and a hot swap on the day of a new image would change the launch template.
    if let Some(path) = region.ami.strip_prefix("ssm:") {
        return Ok(json!(format!("resolve:ssm:{path}")));
    }
    let mappings = stack.section("Mappings")?;
    if mappings.contains_key(IMAGES) {
        return Ok(json!(region.ami));
    }
    let by_region = json!({(region.name.as_str()): {"AMI": region.ami}});
    mappings.insert(IMAGES.into(), by_region);
    Ok(json!({"Fn::FindInMap": [IMAGES, reference("AWS::Region"), "AMI"]}))
}

/// The profile that the launch template lacks, made with its role; none where the user gave one (D-TPL-18, D-TPL-44).
fn instance_profile(
    stack: &mut Stack,
    input: &Input,
    launch_template: &str,
) -> Result<Option<String>, TemplateError> {
    let given = data(stack, launch_template)?
        .get("IamInstanceProfile")
        .cloned();
    let (profile, fill) = match &given {
        Some(value) => {
            let named = (value.get("Name"))
                .or_else(|| value.get("Arn"))
                .and_then(target);
            match named.filter(|id| stack.type_of(id) == Some(PROFILE)) {
                Some(id) => (id.to_owned(), false),
                None => {
                    stack.warnings.push(format!(
                        "`{launch_template}` names an instance profile outside the template: its role must allow what porter's hosts do (docs/template.md lists it)"
                    ));
                    return Ok(None);
                }
            }
        }
        None => {
            let id = stack.choose("the hosts' instance profile", stack.ids_of_type(PROFILE))?;
            let id = match id {
                Some(id) => id,
                None => {
                    stack.add("IAMInstanceProfile", json!({"Type": PROFILE}))?;
                    "IAMInstanceProfile".into()
                }
            };
            (id, true)
        }
    };
    stack.fill(&profile, "Path", json!("/"))?;
    let role = match stack.property(&profile, "Roles") {
        Some(roles) => {
            let role = (roles.as_array().and_then(|r| r.first()))
                .and_then(target)
                .filter(|id| stack.type_of(id) == Some(ROLE))
                .map(str::to_owned);
            if role.is_none() {
                stack.warnings.push(format!(
                    "the role of `{profile}` is outside the template: it must allow what porter's hosts do (docs/template.md lists it)"
                ));
            }
            role
        }
        None => {
            let role = host_role(stack)?;
            stack.fill(&profile, "Roles", json!([reference(&role)]))?;
            Some(role)
        }
    };
    if let Some(role) = role {
        fill_role(stack, input, &role)?;
    }
    Ok(fill.then_some(profile))
}

/// The role for hosts: one that EC2 may assume. Roles for other services are none of our business (D-SEC-25).
fn host_role(stack: &mut Stack) -> Result<String, TemplateError> {
    let candidates = (stack.ids_of_type(ROLE).into_iter())
        .filter(|id| {
            trusts_ec2(stack.property(id, "AssumeRolePolicyDocument"))
                || stack
                    .resource(id)
                    .and_then(|r| r.get("Metadata")?.get("porter"))
                    .is_some()
        })
        .collect();
    if let Some(id) = stack.choose("the hosts' role", candidates)? {
        return Ok(id);
    }
    stack.add("IAMRole", json!({"Type": ROLE}))?;
    Ok("IAMRole".into())
}

fn trusts_ec2(document: Option<&Value>) -> bool {
    document.is_some_and(|d| d.to_string().contains("\"ec2."))
}

fn fill_role(stack: &mut Stack, input: &Input, id: &str) -> Result<(), TemplateError> {
    stack.fill(id, "Path", json!("/"))?;
    stack.fill(
        id,
        "AssumeRolePolicyDocument",
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": {"Service": {"Fn::Sub": "ec2.${AWS::URLSuffix}"}},
                "Action": "sts:AssumeRole",
            }],
        }),
    )?;
    if !trusts_ec2(stack.property(id, "AssumeRolePolicyDocument")) {
        return Err(TemplateError::new(
            format!("Resources.{id}.Properties.AssumeRolePolicyDocument"),
            "the hosts' role does not let EC2 assume it",
            "allow sts:AssumeRole to the service ec2.amazonaws.com, or mark another role with `porter: primary`",
        ));
    }
    if let Some(boundary) = &input.region.permissions_boundary {
        stack.fill(id, "PermissionsBoundary", json!(boundary))?;
    }
    let part = format!("Resources.{id}.Properties.Policies");
    let policies = stack
        .properties(id)?
        .entry("Policies")
        .or_insert_with(|| json!([]));
    let policies = policies.as_array_mut().ok_or_else(|| {
        TemplateError::new(
            part.clone(),
            "the policies are not a list",
            "write them as a list of inline policies",
        )
    })?;
    for (n, policy) in policies.iter_mut().enumerate() {
        let policy = super::stack::object_mut(policy, &format!("{part}[{n}]"))?;
        let name = policy
            .entry("PolicyName")
            .or_insert_with(|| json!(format!("service-defined-{}", n + 1)));
        if name == "porter" {
            return Err(TemplateError::new(
                format!("{part}[{n}].PolicyName"),
                "the name `porter` is taken by porter's own policy",
                "rename the policy",
            ));
        }
    }
    policies.push(json!({"PolicyName": "porter", "PolicyDocument": host_policy(input)}));
    Ok(())
}

/// What a host may do: read its own stack's metadata, fetch its service's payload, report (D-SEC-20).
fn host_policy(input: &Input) -> Value {
    let objects = |kind: &str| {
        json!({"Fn::Sub": format!(
            "arn:${{AWS::Partition}}:s3:::{}/porter-deployment/{}/{kind}/*",
            input.region.s3_bucket, input.config.service_name
        )})
    };
    let mut statements = vec![
        json!({
            "Effect": "Allow",
            "Action": "cloudformation:DescribeStackResource",
            "Resource": reference("AWS::StackId"),
        }),
        json!({
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [objects("agents"), objects("blobs"), objects("manifests")],
        }),
        json!({
            "Effect": "Allow",
            "Action": "sqs:SendMessage",
            "Resource": attribute(names::SIGNAL_QUEUE, "Arn"),
        }),
    ];
    if let Some(key) = &input.region.sse_kms_key_id {
        statements.push(json!({
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": key,
            "Condition": {"StringEquals": {"kms:ViaService": {"Fn::Sub": "s3.${AWS::Region}.${AWS::URLSuffix}"}}},
        }));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
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

fn volume_tags(input: &Input) -> Value {
    let mut tags: Vec<Value> = (input.environment.tags.iter())
        .map(|(k, v)| json!({"Key": k, "Value": v}))
        .collect();
    if let Value::Array(ours) = our_tags() {
        tags.extend(ours);
    }
    json!(tags)
}
