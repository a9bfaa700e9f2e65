//! The launch template: the user's, a translated launch configuration, or ours (D-TPL-19, D-TPL-31, D-TPL-32).

use super::{
    Input, TemplateError, attribute, hosts, reference, role,
    stack::{Stack, object_mut},
};
use contract::names;
use serde_json::{Map, Value, json};

const LAUNCH_TEMPLATE: &str = "AWS::EC2::LaunchTemplate";
const LAUNCH_CONFIGURATION: &str = "AWS::AutoScaling::LaunchConfiguration";
/// The mapping of configured image ids.
const IMAGES: &str = "RegionToAMI";
/// Two payloads of images, and blobs, beside the system.
const ROOT_VOLUME_GIB: u32 = 30;
/// Containers reach the metadata service through the bridge, which is one hop more (D-SEC-21: `aws_credentials: host`).
const METADATA_HOP_LIMIT: u32 = 2;

/// The launch template that the hosts come from: the user's, or ours.
pub(super) fn choose(stack: &mut Stack) -> Result<String, TemplateError> {
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

/// The launch template's `LaunchTemplateData`.
pub(super) fn data<'a>(
    stack: &'a mut Stack,
    id: &str,
) -> Result<&'a mut Map<String, Value>, TemplateError> {
    let data = (stack.properties(id)?)
        .entry("LaunchTemplateData")
        .or_insert_with(|| json!({}));
    object_mut(
        data,
        &format!("Resources.{id}.Properties.LaunchTemplateData"),
    )
}

/// Image, type, key, profile, metadata service, volume and tags (D-TPL-31, D-TPL-32).
pub(super) fn fill(stack: &mut Stack, input: &Input, id: &str) -> Result<(), TemplateError> {
    let profile = role::instance_profile(stack, input, id)?;
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
    let options = object_mut(
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

fn volume_tags(input: &Input) -> Value {
    let mut tags: Vec<Value> = (input.environment.tags.iter())
        .map(|(k, v)| json!({"Key": k, "Value": v}))
        .collect();
    if let Value::Array(ours) = hosts::our_tags() {
        tags.extend(ours);
    }
    json!(tags)
}
