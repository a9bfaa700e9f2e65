//! What CloudFormation knows of an Auto Scaling group and MiniStack's group itself does not: its stack, and the target
//! groups in which its instances are registered.

use anyhow::{Context, Result};
use aws_sdk_cloudformation::{Client, error::ProvideErrorMetadata, types::StackStatus};
use serde_json::Value;
use std::collections::HashMap;

/// A group's stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Stack id.
    pub stack: String,
    /// Ids (ARNs) of target groups.
    pub target_groups: Vec<String>,
}

/// Finds the stack that made this group; none while no stack says that it did.
///
/// # Errors
/// The stacks can't be read.
pub async fn find(client: &Client, group: &str) -> Result<Option<Membership>> {
    let mut stacks = client.describe_stacks().into_paginator().items().send();
    while let Some(stack) = stacks.next().await {
        let stack = stack.context("DescribeStacks")?;
        let Some(id) = stack
            .stack_id()
            .filter(|_| stack.stack_status() != Some(&StackStatus::DeleteComplete))
        else {
            continue;
        };
        let resources = match client
            .describe_stack_resources()
            .stack_name(id)
            .send()
            .await
        {
            Ok(output) => output,
            // Deleted in between.
            Err(e) if e.code() == Some("ValidationError") => continue,
            Err(e) => return Err(e).context("DescribeStackResources"),
        };
        let mut known: HashMap<String, String> = stack
            .parameters()
            .iter()
            .filter_map(|p| {
                Some((
                    p.parameter_key()?.to_owned(),
                    p.parameter_value()?.to_owned(),
                ))
            })
            .collect();
        let mut logical = None;
        for resource in resources.stack_resources() {
            let (Some(name), Some(physical)) = (
                resource.logical_resource_id(),
                resource.physical_resource_id(),
            ) else {
                continue;
            };
            if physical == group
                && resource.resource_type() == Some("AWS::AutoScaling::AutoScalingGroup")
            {
                logical = Some(name.to_owned());
            }
            known.insert(name.to_owned(), physical.to_owned());
        }
        let Some(logical) = logical else { continue };
        let template = client
            .get_template()
            .stack_name(id)
            .send()
            .await
            .context("GetTemplate")?;
        let body = template.template_body().unwrap_or_default();
        // YAML is a superset of JSON. Short intrinsics such as `!Ref` are tags, which are left out by the reading below.
        let template: Value = serde_yaml::from_str(body).unwrap_or_default();
        return Ok(Some(Membership {
            stack: id.to_owned(),
            target_groups: target_groups(&template, &logical, &known),
        }));
    }
    Ok(None)
}

/// The group's `TargetGroupARNs`, as literals and references to the template's own resources and parameters.
fn target_groups(template: &Value, logical: &str, known: &HashMap<String, String>) -> Vec<String> {
    let list = &template["Resources"][logical]["Properties"]["TargetGroupARNs"];
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| match (item.as_str(), item["Ref"].as_str()) {
            (Some(arn), _) => Some(arn.to_owned()),
            (None, Some(name)) => known.get(name).cloned(),
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_groups_are_literals_or_references() {
        let template = serde_json::json!({"Resources": {"G": {"Properties": {"TargetGroupARNs": ["arn:a", {"Ref": "T"}, {"Ref": "P"}, {"Fn::GetAtt": ["X", "Y"]}]}}}});
        let known = HashMap::from([
            ("T".to_owned(), "arn:t".to_owned()),
            ("P".to_owned(), "arn:p".to_owned()),
        ]);
        assert_eq!(
            target_groups(&template, "G", &known),
            ["arn:a", "arn:t", "arn:p"]
        );
        assert!(target_groups(&template, "H", &known).is_empty());
    }
}
