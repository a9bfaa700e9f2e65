//! The provisioned load balancer: stands before this stack alone, for tests before promotion (D-TPL-22, D-TPL-23,
//! D-TPL-28, D-TPL-41).

use super::{
    BalancerKind, Destination, Input, ProvisionedLoadBalancer, TemplateError, attribute, hosts,
    network::{FORWARDED_HTTPS, is_application},
    parameter, reference,
    stack::{Stack, target},
};
use contract::spec::Topology;
use serde_json::{Value, json};

const CLASSIC: &str = "AWS::ElasticLoadBalancing::LoadBalancer";
const V2: &str = "AWS::ElasticLoadBalancingV2::LoadBalancer";
const LISTENER: &str = "AWS::ElasticLoadBalancingV2::Listener";
const TARGET_GROUP: &str = "AWS::ElasticLoadBalancingV2::TargetGroup";

const INTERVAL_S: u32 = 5;
const TIMEOUT_S: u32 = 3;
const HEALTHY: u32 = 3;
const UNHEALTHY: u32 = 2;
const DRAINING_S: u32 = 300;

/// What the rest of the template needs to know of it.
pub(super) struct Balancer {
    pub place: ProvisionedLoadBalancer,
    /// For the group; empty with a classic one.
    pub target_groups: Vec<String>,
    /// Where it sends traffic on the hosts.
    pub host_ports: Vec<u16>,
}

/// Adds it, where the region's destination is a load balancer.
pub(super) fn provision(
    stack: &mut Stack,
    input: &Input,
) -> Result<Option<Balancer>, TemplateError> {
    if !input.is_inet() {
        return Ok(None);
    }
    let balancer = match input.destination {
        Destination::None => None,
        Destination::Classic { .. } => Some(classic(stack, input)?),
        Destination::TargetGroups {
            subnets, protocol, ..
        } => target_groups(stack, input, subnets, protocol)?,
    };
    if let (Some(balancer), Some(zone)) = (&balancer, &input.region.hosted_zone_name) {
        alias(stack, balancer, zone)?;
    }
    Ok(balancer)
}

fn host_ports(input: &Input) -> Vec<u16> {
    let mut ports = Vec::new();
    if !input.https_only() {
        ports.push(80);
    }
    if input.region.ssl_cert_arn.is_some() || ports.is_empty() {
        ports.push(FORWARDED_HTTPS);
    }
    ports
}

fn health_path<'a>(input: &Input<'a>) -> &'a str {
    (input.region.containers.iter())
        .find(|c| c.run.topology == Topology::Inet)
        .map_or("/health", |c| c.run.health.path.as_str())
}

fn classic(stack: &mut Stack, input: &Input) -> Result<Balancer, TemplateError> {
    let id = match stack.choose("the provisioned load balancer", stack.ids_of_type(CLASSIC))? {
        Some(id) => id,
        None => {
            stack.add("ApplicationLoadBalancer", json!({"Type": CLASSIC}))?;
            "ApplicationLoadBalancer".to_owned()
        }
    };
    let zones = &input.region.azs;
    let subnets: Vec<&String> = zones.iter().filter_map(|z| z.subnet_id.as_ref()).collect();
    let properties = stack.properties(&id)?;
    if !properties.contains_key("Subnets") && !properties.contains_key("AvailabilityZones") {
        if subnets.is_empty() {
            properties.insert("AvailabilityZones".into(), reference(parameter::ZONES));
        } else {
            properties.insert("Subnets".into(), json!(subnets));
        }
    }
    let mut listeners = Vec::new();
    if !input.https_only() {
        listeners.push(json!({
            "InstancePort": "80", "InstanceProtocol": "HTTP", "LoadBalancerPort": "80", "Protocol": "HTTP",
        }));
    }
    if let Some(certificate) = &input.region.ssl_cert_arn {
        listeners.push(json!({
            "InstancePort": FORWARDED_HTTPS.to_string(), "InstanceProtocol": "HTTP", "LoadBalancerPort": "443",
            "Protocol": "HTTPS", "SSLCertificateId": certificate,
        }));
    }
    let taken: Vec<String> = match properties.get("Listeners") {
        Some(Value::Array(theirs)) => theirs
            .iter()
            .map(|l| scalar(&l["LoadBalancerPort"]))
            .collect(),
        _ => Vec::new(),
    };
    listeners.retain(|l| !taken.contains(&scalar(&l["LoadBalancerPort"])));
    stack.append(&id, "Listeners", listeners)?;
    stack.fill(&id, "CrossZone", json!(true))?;
    stack.fill(
        &id,
        "ConnectionDrainingPolicy",
        json!({"Enabled": true, "Timeout": DRAINING_S}),
    )?;
    let ports = host_ports(input);
    let checked = ports.first().copied().unwrap_or(80);
    stack.fill(
        &id,
        "HealthCheck",
        json!({
            "HealthyThreshold": HEALTHY.to_string(),
            "Interval": INTERVAL_S.to_string(),
            "Target": format!("HTTP:{checked}{}", health_path(input)),
            "Timeout": TIMEOUT_S.to_string(),
            "UnhealthyThreshold": UNHEALTHY.to_string(),
        }),
    )?;
    Ok(Balancer {
        place: ProvisionedLoadBalancer {
            logical_id: id,
            kind: BalancerKind::Classic,
        },
        target_groups: Vec::new(),
        host_ports: ports,
    })
}

fn target_groups(
    stack: &mut Stack,
    input: &Input,
    destination_subnets: &[String],
    protocol: &str,
) -> Result<Option<Balancer>, TemplateError> {
    let is_application = is_application(protocol);
    let chosen = stack.choose("the provisioned load balancer", stack.ids_of_type(V2))?;
    let configured: Vec<String> = (input.region.azs.iter())
        .filter_map(|z| z.subnet_id.clone())
        .collect();
    let subnets = if configured.is_empty() {
        destination_subnets.to_vec()
    } else {
        configured
    };
    let needed = if is_application { 2 } else { 1 };
    if chosen.is_none() && subnets.len() < needed {
        stack.warnings.push(format!(
            "{}: there is no provisioned load balancer for tests before promotion, because that needs {needed} \
             subnets and {} are known: set `vpc_id` and `azs[].subnet_id`",
            input.region.name,
            subnets.len()
        ));
        return Ok(None);
    }
    let id = match chosen {
        Some(id) => id,
        None => {
            let kind = if is_application {
                "application"
            } else {
                "network"
            };
            stack.add(
                "ProvisionedLoadBalancer",
                json!({"Type": V2, "Properties": {"Scheme": "internet-facing", "Type": kind}}),
            )?;
            "ProvisionedLoadBalancer".to_owned()
        }
    };
    if stack.property(&id, "SubnetMappings").is_none() {
        stack.fill(&id, "Subnets", json!(subnets))?;
    }

    let ports = host_ports(input);
    let mut ids = Vec::new();
    for port in &ports {
        let name = if ids.is_empty() {
            "ProvisionedTargetGroup"
        } else {
            "ProvisionedTargetGroupForwardedHttps"
        };
        let mut properties = json!({
            "HealthCheckEnabled": true,
            "HealthCheckIntervalSeconds": INTERVAL_S,
            "HealthCheckPath": health_path(input),
            "HealthCheckProtocol": "HTTP",
            "HealthCheckTimeoutSeconds": TIMEOUT_S,
            "HealthyThresholdCount": HEALTHY,
            "Port": port,
            "Protocol": if is_application { "HTTP" } else { "TCP" },
            "Tags": hosts::our_tags(),
            "TargetGroupAttributes": [
                {"Key": "deregistration_delay.timeout_seconds", "Value": DRAINING_S.to_string()},
            ],
            "TargetType": "instance",
            "UnhealthyThresholdCount": UNHEALTHY,
        });
        if let Some(vpc) = input.vpc() {
            properties["VpcId"] = json!(vpc);
        }
        stack.add(
            name,
            json!({"Type": TARGET_GROUP, "Properties": properties}),
        )?;
        ids.push(name.to_owned());
    }

    let taken: Vec<String> = (stack.ids_of_type(LISTENER).iter())
        .filter(|l| stack.property(l, "LoadBalancerArn").and_then(target) == Some(id.as_str()))
        .filter_map(|l| stack.property(l, "Port").map(scalar))
        .collect();
    let forward = |group: &str| json!([{"Type": "forward", "TargetGroupArn": reference(group)}]);
    if !input.https_only() && !taken.contains(&"80".to_owned()) {
        stack.add(
            "ProvisionedListenerHttp",
            json!({"Type": LISTENER, "Properties": {
                "DefaultActions": forward(&ids[0]),
                "LoadBalancerArn": reference(&id),
                "Port": 80,
                "Protocol": if is_application { "HTTP" } else { "TCP" },
            }}),
        )?;
    }
    if let (Some(certificate), Some(group), false) = (
        &input.region.ssl_cert_arn,
        ids.last(),
        taken.contains(&"443".to_owned()),
    ) {
        stack.add(
            "ProvisionedListenerHttps",
            json!({"Type": LISTENER, "Properties": {
                "Certificates": [{"CertificateArn": certificate}],
                "DefaultActions": forward(group),
                "LoadBalancerArn": reference(&id),
                "Port": 443,
                "Protocol": if is_application { "HTTPS" } else { "TLS" },
                "SslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06",
            }}),
        )?;
    }
    Ok(Some(Balancer {
        place: ProvisionedLoadBalancer {
            logical_id: id,
            kind: BalancerKind::V2,
        },
        target_groups: ids,
        host_ports: ports,
    }))
}

/// D-TPL-28
fn alias(stack: &mut Stack, balancer: &Balancer, zone: &str) -> Result<(), TemplateError> {
    let id = &balancer.place.logical_id;
    let zone_id = match balancer.place.kind {
        BalancerKind::Classic => "CanonicalHostedZoneNameID",
        BalancerKind::V2 => "CanonicalHostedZoneID",
    };
    stack.add(
        "ELBARecordAlias",
        json!({"Type": "AWS::Route53::RecordSet", "Properties": {
            "AliasTarget": {"DNSName": attribute(id, "DNSName"), "HostedZoneId": attribute(id, zone_id)},
            "HostedZoneName": zone,
            "Name": {"Fn::Join": [".", [reference(parameter::STACK_NAME), zone]]},
            "Type": "A",
        }}),
    )
}

/// Ports are written as numbers or as texts.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
