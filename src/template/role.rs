//! Instance profile and role: what the hosts may do (D-TPL-18, D-TPL-44, D-SEC-20).

use super::{
    Input, TemplateError, attribute, launch, reference,
    stack::{PROFILE, ROLE, Stack, object_mut, target},
};
use contract::names;
use serde_json::{Value, json};

/// The profile that the launch template lacks, made with its role; none where the user gave one (D-TPL-18, D-TPL-44).
pub(super) fn instance_profile(
    stack: &mut Stack,
    input: &Input,
    launch_template: &str,
) -> Result<Option<String>, TemplateError> {
    let given = launch::data(stack, launch_template)?
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
        let policy = object_mut(policy, &format!("{part}[{n}]"))?;
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
