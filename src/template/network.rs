//! Security groups of the hosts and of the provisioned load balancer (D-TPL-24 to D-TPL-34, D-TPL-45).

use super::{
    Destination, Input, TemplateError, attribute,
    balancer::Balancer,
    hosts, launch,
    stack::{SECURITY_GROUP, Stack, appended, target},
};
use crate::config::EgressRule;
use serde_json::{Map, Value, json};

/// In a group's metadata: it belongs to the hosts (D-TPL-30).
const HOSTS_MARK: &str = "as-lc-sg";
/// In a group's metadata: it belongs to the provisioned load balancer.
const BALANCER_MARK: &str = "elb-lb-sg";

/// Group of the provisioned load balancer.
const INET_TO_ELB: &str = "InetToElb";
const PROVISIONED_TO_HOSTS: &str = "ProvisionedELBToInstance";
const DESTINATION_TO_HOSTS: &str = "DestinationELBToInstance";
const INET_TO_HOSTS: &str = "InetToAsg";
/// Workers take no traffic, but their egress is ruled as well (D-TPL-34).
const WORKERS: &str = "WorkerHosts";
const DEFAULT_VPC: &str = "PorterDefaultVpc";

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// For traffic whose TLS ended at the load balancer (D-HAP-5).
pub(super) const FORWARDED_HTTPS: u16 = 8080;

/// Adds the groups that this region needs.
pub(super) fn groups(
    stack: &mut Stack,
    input: &Input,
    balancer: Option<&Balancer>,
) -> Result<(), TemplateError> {
    if !input.region.autowire_security_groups {
        return Ok(());
    }
    if !input.is_inet() {
        return add(stack, WORKERS, "Hosts of workers", HOSTS_MARK, vec![]);
    }
    let public: Vec<u16> = [
        (!input.https_only()).then_some(HTTP),
        input.region.ssl_cert_arn.is_some().then_some(HTTPS),
    ]
    .into_iter()
    .flatten()
    .collect();
    let from_anywhere = |ports: &[u16]| ports.iter().flat_map(|p| anywhere(*p)).collect();

    if matches!(input.destination, Destination::None) {
        return add(
            stack,
            INET_TO_HOSTS,
            "From anywhere to the hosts",
            HOSTS_MARK,
            from_anywhere(&public),
        );
    }
    if let Some(balancer) = balancer {
        add(
            stack,
            INET_TO_ELB,
            "From anywhere to the provisioned load balancer",
            BALANCER_MARK,
            from_anywhere(&public),
        )?;
        let rules = (balancer.host_ports.iter())
            .map(|port| from_group(*port, attribute(INET_TO_ELB, "GroupId")))
            .collect();
        add(
            stack,
            PROVISIONED_TO_HOSTS,
            "From the provisioned load balancer to the hosts",
            HOSTS_MARK,
            rules,
        )?;
    }

    let mut ports = vec![FORWARDED_HTTPS];
    if !input.https_only() {
        ports.insert(0, HTTP);
    }
    let (sources, network) =
        match input.destination {
            Destination::None => (&[][..], false),
            Destination::Classic {
                security_groups, ..
            } => (&security_groups[..], false),
            Destination::TargetGroups {
                security_groups,
                protocol,
                port,
                ..
            } => {
                if !ports.contains(port) {
                    stack.warnings.push(format!(
                    "the destination target group sends traffic to port {port}, hosts listen on {}",
                    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ")
                ));
                }
                (&security_groups[..], !is_application(protocol))
            }
        };
    let rules = if !sources.is_empty() {
        (ports.iter())
            .flat_map(|port| {
                sources
                    .iter()
                    .map(move |group| from_group(*port, json!(group)))
            })
            .collect()
    } else if network {
        // Without a group of its own a network load balancer hands on the clients' addresses.
        from_anywhere(&ports)
    } else {
        stack.warnings.push(
            "the destination load balancer has no security group, so no rule admits its traffic to the hosts: \
             mark a group of your own with `as-lc-sg: true`"
                .to_owned(),
        );
        return Ok(());
    };
    add(
        stack,
        DESTINATION_TO_HOSTS,
        "From the destination load balancer to the hosts",
        HOSTS_MARK,
        rules,
    )
}

/// Whether a target group of this protocol belongs to an application load balancer.
pub(super) fn is_application(protocol: &str) -> bool {
    matches!(protocol, "HTTP" | "HTTPS")
}

fn add(
    stack: &mut Stack,
    id: &str,
    description: &str,
    mark: &str,
    ingress: Vec<Value>,
) -> Result<(), TemplateError> {
    let mut properties = json!({"GroupDescription": description, "Tags": hosts::our_tags()});
    if !ingress.is_empty() {
        properties["SecurityGroupIngress"] = json!(ingress);
    }
    stack.add(
        id,
        json!({"Type": SECURITY_GROUP, "Metadata": {mark: true}, "Properties": properties}),
    )
}

fn anywhere(port: u16) -> [Value; 2] {
    [
        json!({"CidrIp": "0.0.0.0/0", "FromPort": port, "IpProtocol": "tcp", "ToPort": port}),
        json!({"CidrIpv6": "::/0", "FromPort": port, "IpProtocol": "tcp", "ToPort": port}),
    ]
}

fn from_group(port: u16, group: Value) -> Value {
    json!({"FromPort": port, "IpProtocol": "tcp", "SourceSecurityGroupId": group, "ToPort": port})
}

/// Gives hosts and load balancer their marked groups, rules the hosts' egress, and puts every group into the VPC.
pub(super) fn attach(
    stack: &mut Stack,
    input: &Input,
    launch_template: &str,
    balancer: Option<&Balancer>,
) -> Result<(), TemplateError> {
    let marked = |stack: &Stack, mark: &str| -> Vec<Value> {
        (stack.ids_of_type(SECURITY_GROUP).iter())
            .filter(|id| stack.is_marked(id, mark))
            .map(|id| attribute(id, "GroupId"))
            .collect()
    };
    let ours = marked(stack, HOSTS_MARK);
    let listed = host_groups(stack, launch_template, ours)?;
    rule_egress(stack, input, launch_template, &listed)?;
    place(stack, input)?;

    if let Some(balancer) = balancer {
        let groups = marked(stack, BALANCER_MARK);
        stack.append(&balancer.place.logical_id, "SecurityGroups", groups)?;
    }
    Ok(())
}

/// D-TPL-45, D-TPL-29. Without a VPC in configuration and destination, the default VPC is read off an empty group that
/// belongs to it: so it is treated like a configured one, and this host of the build needs no access to EC2.
fn place(stack: &mut Stack, input: &Input) -> Result<(), TemplateError> {
    let homeless: Vec<String> = (stack.ids_of_type(SECURITY_GROUP).into_iter())
        .filter(|id| stack.property(id, "VpcId").is_none())
        .collect();
    let vpc = match input.vpc() {
        Some(vpc) => json!(vpc),
        None if homeless.is_empty() => return Ok(()),
        None => {
            stack.add(
                DEFAULT_VPC,
                json!({"Type": SECURITY_GROUP, "Properties": {
                    "GroupDescription": "Tells the default VPC, is attached to nothing", "Tags": hosts::our_tags(),
                }}),
            )?;
            attribute(DEFAULT_VPC, "VpcId")
        }
    };
    for id in homeless {
        stack.fill(&id, "VpcId", vpc.clone())?;
    }
    Ok(())
}

/// Appends to the list where the launch template keeps it, and returns the whole list.
fn host_groups(
    stack: &mut Stack,
    launch_template: &str,
    ours: Vec<Value>,
) -> Result<Value, TemplateError> {
    let data = launch::data(stack, launch_template)?;
    // With a network interface the groups must be on it, EC2 refuses both.
    if let Some(interface) = data
        .get_mut("NetworkInterfaces")
        .and_then(|i| i.as_array_mut()?.first_mut()?.as_object_mut())
    {
        let list = extended(interface, "Groups", ours);
        return Ok(list);
    }
    Ok(extended(data, "SecurityGroupIds", ours))
}

fn extended(fields: &mut Map<String, Value>, name: &str, ours: Vec<Value>) -> Value {
    if ours.is_empty() {
        return fields.get(name).cloned().unwrap_or_else(|| json!([]));
    }
    let list = appended(fields.get(name), ours);
    fields.insert(name.into(), list.clone());
    list
}

/// D-TPL-33, D-TPL-34: the groups that this template defines get our egress; others are left alone.
fn rule_egress(
    stack: &mut Stack,
    input: &Input,
    launch_template: &str,
    listed: &Value,
) -> Result<(), TemplateError> {
    let rules: Vec<Value> = (input.region.security_group_egress.iter())
        .map(egress)
        .collect();
    let mut groups = Vec::new();
    references(listed, &mut groups);
    for id in groups {
        if stack.type_of(&id) == Some(SECURITY_GROUP) {
            (stack.properties(&id)?).insert("SecurityGroupEgress".into(), json!(rules));
        } else if stack.type_of(&id).is_none()
            && !id.starts_with("AWS::")
            && !(stack.read_section("Parameters")).is_some_and(|p| p.contains_key(&id))
        {
            return Err(TemplateError::new(
                format!("Resources.{launch_template}, security groups"),
                format!("`{id}` is neither a resource nor a parameter"),
                "define the group, or correct its name",
            ));
        }
    }
    Ok(())
}

/// The logical ids to which a list of groups refers, also inside Fn::If.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|i| references(i, found)),
        Value::Object(fields) => match target(value) {
            Some(id) => found.push(id.to_owned()),
            None => match fields.get("Fn::If").and_then(Value::as_array) {
                // The first item names a condition.
                Some(branches) => branches.iter().skip(1).for_each(|b| references(b, found)),
                None => fields.values().for_each(|v| references(v, found)),
            },
        },
        _ => {}
    }
}

fn egress(rule: &EgressRule) -> Value {
    let mut value = Map::new();
    for (name, destination) in [
        ("CidrIp", &rule.cidr_ip),
        ("CidrIpv6", &rule.cidr_ipv6),
        ("DestinationPrefixListId", &rule.destination_prefix_list_id),
        (
            "DestinationSecurityGroupId",
            &rule.destination_security_group_id,
        ),
    ] {
        if let Some(destination) = destination {
            value.insert(name.into(), json!(destination));
        }
    }
    value.insert("FromPort".into(), json!(rule.from_port));
    value.insert("IpProtocol".into(), json!(rule.ip_protocol));
    value.insert("ToPort".into(), json!(rule.to_port));
    Value::Object(value)
}
