//! What a user of AWS has before porter is called for the first time: a bucket, a network, a load balancer, a role.

use crate::{
    emulator,
    query::{Action, Endpoint, all, first},
};
use anyhow::{Context, Result};
use aws_sdk_elasticloadbalancingv2::{
    Client as Elbv2,
    types::{Action as Forward, ActionTypeEnum, ProtocolEnum, TargetTypeEnum},
};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use std::collections::BTreeMap;

const EC2_VERSION: &str = "2016-11-15";
const IAM_VERSION: &str = "2010-05-08";

/// Prefix of the exported variables.
pub const PREFIX: &str = "PORTER_LOCAL";

/// Creates them in every region, and returns the variables that name them. The first region's have no suffix, the
/// others' end in the region's name, as in `PORTER_LOCAL_BUCKET_US_WEST_2`.
///
/// # Errors
/// The emulator refused something.
pub async fn create(url: &str, regions: &[String]) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    let endpoint = Endpoint::new(url);
    for (n, region) in regions.iter().enumerate() {
        let created = in_region(&endpoint, region)
            .await
            .with_context(|| region.clone())?;
        let suffix = if n == 0 {
            String::new()
        } else {
            format!("_{}", region.to_uppercase().replace('-', "_"))
        };
        env.extend(
            created
                .into_iter()
                .map(|(k, v)| (format!("{PREFIX}_{k}{suffix}"), v)),
        );
    }
    let main = regions.first().context("no region")?;
    env.insert(
        format!("{PREFIX}_ROLE_ARN"),
        deploy_role(&endpoint, main).await?,
    );
    Ok(env)
}

async fn in_region(endpoint: &Endpoint, region: &str) -> Result<BTreeMap<String, String>> {
    let sdk = emulator::sdk_config(&endpoint.url, region).await;
    let bucket = format!("porter-local-{region}");
    let s3 = aws_sdk_s3::Client::new(&sdk);
    // us-east-1 is the one region that must not be named.
    let place = (region != "us-east-1").then(|| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(region))
            .build()
    });
    s3.create_bucket()
        .bucket(&bucket)
        .set_create_bucket_configuration(place)
        .send()
        .await
        .context("bucket")?;

    let ec2 = |action| Action("ec2", EC2_VERSION, action);
    let vpcs = endpoint
        .query(
            region,
            ec2("DescribeVpcs"),
            &[("Filter.1.Name", "isDefault"), ("Filter.1.Value.1", "true")],
        )
        .await?;
    let vpc = match first(&vpcs, "vpcId") {
        Some(vpc) => vpc,
        None => first(
            &endpoint
                .query(region, ec2("CreateVpc"), &[("CidrBlock", "10.0.0.0/16")])
                .await?,
            "vpcId",
        )
        .context("CreateVpc")?,
    };
    let listed = endpoint
        .query(
            region,
            ec2("DescribeSubnets"),
            &[("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", &vpc)],
        )
        .await?;
    let mut subnets = all(&listed, "subnetId");
    subnets.dedup();
    for (cidr, zone) in [("10.0.1.0/24", "a"), ("10.0.2.0/24", "b")]
        .into_iter()
        .skip(subnets.len())
    {
        let zone = format!("{region}{zone}");
        let made = endpoint
            .query(
                region,
                ec2("CreateSubnet"),
                &[
                    ("VpcId", &vpc),
                    ("CidrBlock", cidr),
                    ("AvailabilityZone", &zone),
                ],
            )
            .await?;
        subnets.push(first(&made, "subnetId").context("CreateSubnet")?);
    }

    // On AWS the hosts' rules admit the load balancer by its security group: without one porter would warn, rightly.
    let balancer_group = endpoint
        .query(
            region,
            ec2("CreateSecurityGroup"),
            &[
                ("GroupName", BALANCER),
                ("GroupDescription", "load balancer of the local cloud"),
                ("VpcId", &vpc),
            ],
        )
        .await?;
    let balancer_group = first(&balancer_group, "groupId").context("CreateSecurityGroup")?;
    let elb = Elbv2::new(&sdk);
    let balancer = load_balancer(&elb, &subnets, &balancer_group)
        .await
        .context("load balancer")?;
    let group = target_group(&elb, &vpc).await.context("target group")?;
    listener(&elb, &balancer, &group)
        .await
        .context("listener")?;
    let mut made = BTreeMap::from([
        ("BUCKET".to_owned(), bucket),
        ("VPC_ID".to_owned(), vpc),
        ("SUBNET_IDS".to_owned(), subnets.join(",")),
        ("LOAD_BALANCER_ARN".to_owned(), balancer),
        ("TARGET_GROUP_ARN".to_owned(), group),
    ]);
    // One by one too, since `azs` of a configuration takes one subnet for each zone.
    made.extend(
        (1..)
            .zip(subnets)
            .map(|(n, id)| (format!("SUBNET_ID_{n}"), id)),
    );
    Ok(made)
}

/// The role of `role_arn`, which porter assumes.
async fn deploy_role(endpoint: &Endpoint, region: &str) -> Result<String> {
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
    let action = Action("iam", IAM_VERSION, "CreateRole");
    let made = endpoint
        .query(
            region,
            action,
            &[
                ("RoleName", "porter-deployment"),
                ("AssumeRolePolicyDocument", trust),
            ],
        )
        .await?;
    first(&made, "Arn").context("CreateRole")
}

/// What a launch template says about the instances it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchData {
    /// Base64.
    pub user_data: String,
    /// Image.
    pub image: String,
    /// Instance type.
    pub instance_type: String,
    /// Role behind the instance profile.
    pub role: Option<String>,
}

/// Reads a version of a launch template.
///
/// # Errors
/// It isn't there.
pub async fn launch_data(
    endpoint: &Endpoint,
    region: &str,
    template: &str,
    version: &str,
) -> Result<LaunchData> {
    let action = Action("ec2", EC2_VERSION, "DescribeLaunchTemplateVersions");
    let version = if version.is_empty() {
        "$Default"
    } else {
        version
    };
    let xml = endpoint
        .query(
            region,
            action,
            &[
                ("LaunchTemplateId", template),
                ("LaunchTemplateVersion.1", version),
            ],
        )
        .await?;
    let data = xml
        .split_once("<launchTemplateData>")
        .and_then(|(_, rest)| rest.split_once("</launchTemplateData>"))
        .with_context(|| format!("launch template {template} has no version {version}"))?
        .0;
    let profile = data
        .split_once("<iamInstanceProfile>")
        .and_then(|(_, rest)| rest.split_once("</iamInstanceProfile>"))
        .map(|(p, _)| p);
    let name = profile.and_then(|p| {
        first(p, "name").or_else(|| first(p, "arn")?.rsplit('/').next().map(str::to_owned))
    });
    let role = match &name {
        None => None,
        Some(name) => {
            let xml = endpoint
                .query(
                    region,
                    Action("iam", IAM_VERSION, "GetInstanceProfile"),
                    &[("InstanceProfileName", name)],
                )
                .await?;
            Some(
                first(&xml, "RoleName")
                    .with_context(|| format!("instance profile {name} has no role"))?,
            )
        }
    };
    Ok(LaunchData {
        user_data: first(data, "userData").unwrap_or_default(),
        image: first(data, "imageId").unwrap_or_default(),
        instance_type: first(data, "instanceType").unwrap_or_default(),
        role,
    })
}

/// Name of the load balancer and of its target group.
const BALANCER: &str = "porter-local";

/// The SDK repeats a call whose answer got lost, and then MiniStack has the resource already, which AWS would take for
/// the same request. So one that exists is the one that was wanted.
async fn load_balancer(elb: &Elbv2, subnets: &[String], security_group: &str) -> Result<String> {
    let create = elb
        .create_load_balancer()
        .name(BALANCER)
        .set_subnets(Some(subnets.to_vec()))
        .security_groups(security_group)
        .send()
        .await;
    let made = match create {
        Ok(answer) => answer.load_balancers.unwrap_or_default(),
        Err(e)
            if e.as_service_error()
                .is_some_and(|e| e.is_duplicate_load_balancer_name_exception()) =>
        {
            elb.describe_load_balancers()
                .names(BALANCER)
                .send()
                .await?
                .load_balancers
                .unwrap_or_default()
        }
        Err(e) => return Err(e.into()),
    };
    made.into_iter()
        .find_map(|b| b.load_balancer_arn)
        .context("it has no ARN")
}

/// As [`load_balancer`].
async fn target_group(elb: &Elbv2, vpc: &str) -> Result<String> {
    let create = elb
        .create_target_group()
        .name(BALANCER)
        .protocol(ProtocolEnum::Http)
        .port(80);
    let made = match create
        .target_type(TargetTypeEnum::Instance)
        .vpc_id(vpc)
        .send()
        .await
    {
        Ok(answer) => answer.target_groups.unwrap_or_default(),
        Err(e)
            if e.as_service_error()
                .is_some_and(|e| e.is_duplicate_target_group_name_exception()) =>
        {
            elb.describe_target_groups()
                .names(BALANCER)
                .send()
                .await?
                .target_groups
                .unwrap_or_default()
        }
        Err(e) => return Err(e.into()),
    };
    made.into_iter()
        .find_map(|g| g.target_group_arn)
        .context("it has no ARN")
}

/// What makes the load balancer the target group's own.
async fn listener(elb: &Elbv2, balancer: &str, group: &str) -> Result<()> {
    let forward = Forward::builder()
        .r#type(ActionTypeEnum::Forward)
        .target_group_arn(group)
        .build();
    let create = elb
        .create_listener()
        .load_balancer_arn(balancer)
        .protocol(ProtocolEnum::Http)
        .port(80)
        .default_actions(forward)
        .send()
        .await;
    match create {
        Err(e)
            if e.as_service_error()
                .is_some_and(|e| e.is_duplicate_listener_exception()) =>
        {
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}
