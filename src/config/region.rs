//! One region, with the environment's values where it has none of its own (section 1.5 of the specification).

use super::{
    containers, egress,
    environment::{Inherited, at_least_one, stack_parameters},
    field::Section,
    haproxy::ProxyPart,
    load_balancer,
    model::{LoadBalancer, Region, Zone},
    pattern,
};
use contract::spec::Topology;

/// D-CFG-25.
const DEFAULT_INSTANCE_TYPE: &str = "t3.medium";

pub(super) fn region(section: &Section, inherited: &Inherited) -> Region {
    let name = section
        .require("name")
        .and_then(|f| f.matching(&pattern::REGION))
        .unwrap_or_default();
    let role = section.get("role_arn");
    if role.is_none() && !inherited.has_role {
        section.missing("role_arn", "is required, here or in the environment");
    }
    let instance_type = section
        .get("instance_type")
        .and_then(|f| f.matching(&pattern::INSTANCE_TYPE));
    let instance_type = instance_type
        .or_else(|| inherited.instance_type.clone())
        .unwrap_or_else(|| DEFAULT_INSTANCE_TYPE.into());
    let ami = section
        .get("ami")
        .and_then(|f| f.matching(&pattern::AMI))
        .or_else(|| inherited.ami.clone());
    let instance_count = section
        .get("instance_count")
        .and_then(|f| f.count(0))
        .filter(|n| *n > 0)
        .or(inherited.instance_count);
    let mut parameters = inherited.stack_parameters.clone();
    parameters.extend(
        section
            .get("stack_parameters")
            .map(|f| stack_parameters(&f))
            .unwrap_or_default(),
    );
    let vpc_id = section.get("vpc_id");
    let (load_balancer, load_balancer_field) = load_balancer::load_balancer(section, &name);
    let containers = containers::containers(section);
    topology_fits(
        section,
        &containers,
        load_balancer_field.is_some() && load_balancer != LoadBalancer::None,
    );
    if inherited.hot_swap
        && let LoadBalancer::Classic(balancers) = &load_balancer
        && balancers.len() > 1
        && let Some(field) = &load_balancer_field
    {
        field.error("`hot_swap` allows one load balancer per region"); // D-CFG-116
    }
    let ssl_cert_arn = section
        .get("ssl_cert_arn")
        .and_then(|f| f.matching(&pattern::CERTIFICATE));
    let own = section
        .get("haproxy")
        .and_then(|f| f.section())
        .map(ProxyPart::read)
        .unwrap_or_default();
    let proxy = own.over(&inherited.haproxy);
    let haproxy = proxy.resolve(
        section,
        load_balancer != LoadBalancer::None,
        section.get("ssl_cert_arn").is_some(),
    );
    let group = section.get("auto_scaling_group").and_then(|f| f.section());
    let security_group_egress = group
        .as_ref()
        .map_or_else(egress::default_rules, egress::of_group);
    if let Some(group) = group {
        host_secrets(&group);
        group.done();
    }
    let region = Region {
        stack_definition_path: section
            .get("stack_definition_path")
            .and_then(|f| f.path_below_root())
            .or_else(|| inherited.stack_definition_path.clone()),
        role_arn: role
            .and_then(|f| f.matching(&pattern::ROLE_ARN))
            .or_else(|| inherited.role_arn.clone()),
        external_id: section
            .get("external_id")
            .and_then(|f| f.matching(&pattern::EXTERNAL_ID))
            .or_else(|| inherited.external_id.clone()),
        instance_count: instance_count.filter(|n| *n > 0).unwrap_or(1),
        ami: ami.unwrap_or_else(|| default_image(&instance_type)),
        instance_type,
        key_pair_name: section.get("key_pair_name").and_then(|f| f.filled()),
        azs: zones(section, vpc_id.is_some()),
        vpc_id: vpc_id.and_then(|f| f.matching(&pattern::VPC_ID)),
        s3_bucket: section
            .require("s3_bucket")
            .and_then(|f| f.matching(&pattern::BUCKET))
            .unwrap_or_default(),
        sse_kms_key_id: section
            .get("sse_kms_key_id")
            .and_then(|f| f.matching(&pattern::KMS_KEY)),
        load_balancer,
        ssl_cert_arn,
        hosted_zone_name: section.get("hosted_zone_name").and_then(|f| {
            let name = f.text()?;
            let bare = name.trim_end_matches('.');
            if pattern::ZONE_NAME.matches(bare) {
                return Some(format!("{bare}.")); // D-CFG-60
            }
            f.error(format!("`{name}` is not {}", pattern::ZONE_NAME.what));
            None
        }),
        autowire_security_groups: inherited.autowire_security_groups,
        security_group_egress,
        stack_parameters: parameters,
        permissions_boundary: inherited.permissions_boundary.clone(),
        haproxy,
        containers,
        name,
    };
    section.done();
    region
}

/// `azs` (D-CFG-51): with a VPC every zone has a subnet, without one none has.
fn zones(section: &Section, in_vpc: bool) -> Vec<Zone> {
    let Some(field) = section.require("azs") else {
        return vec![];
    };
    let zones = at_least_one(&field, "availability zone");
    let zone = |zone: Section| {
        let subnet = zone.get("subnet_id");
        match &subnet {
            None if in_vpc => zone.missing(
                "subnet_id",
                "every zone needs a subnet, because the region has a `vpc_id`",
            ),
            Some(subnet) if !in_vpc => subnet.error("a subnet needs the region's `vpc_id`"),
            _ => {}
        }
        let read = Zone {
            name: zone
                .require("name")
                .and_then(|f| f.filled())
                .unwrap_or_default(),
            subnet_id: subnet.and_then(|f| f.matching(&pattern::SUBNET_ID)),
        };
        zone.done();
        read
    };
    zones.iter().filter_map(|f| f.section()).map(zone).collect()
}

/// D-CFG-65: a region without inet containers has nothing for a load balancer to talk to.
fn topology_fits(section: &Section, containers: &[super::model::Container], balanced: bool) {
    if balanced
        && !containers.is_empty()
        && containers
            .iter()
            .all(|c| c.run.topology == Topology::Worker)
    {
        section.missing(
            "containers",
            "all of them are workers, so the region must not have a load balancer",
        );
    }
}

/// `secrets_exec_name` and `secrets_exec_args` (D-CFG-64).
fn host_secrets(group: &Section) {
    let (name, args) = (
        group.get("secrets_exec_name"),
        group.get("secrets_exec_args"),
    );
    if let Some(args) = &args {
        args.texts();
        if name.is_none() {
            args.error("needs `secrets_exec_name`");
        }
    }
    if let Some(name) = name
        && name.filled().is_some()
    {
        name.unavailable("no secrets are delivered");
    }
}

/// The public parameter of Amazon Linux 2023 for the instance type's architecture (D-CFG-29).
fn default_image(instance_type: &str) -> String {
    let architecture = if is_arm(instance_type) {
        "arm64"
    } else {
        "x86_64"
    };
    format!("ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}")
}

/// Graviton and Grace types have a `g` after the generation (`t4g`, `c7gn`, `im4gn`, `p6e-gb200`); `a1` came first.
pub(crate) fn is_arm(instance_type: &str) -> bool {
    let family = instance_type.split('.').next().unwrap_or(instance_type);
    let options = family
        .trim_start_matches(|c: char| c.is_ascii_lowercase())
        .trim_start_matches(|c: char| c.is_ascii_digit());
    family == "a1" || options.contains('g')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_cfg_29_the_default_image_fits_the_architecture() {
        for arm in [
            "t4g.micro",
            "m6gd.large",
            "c7gn.xlarge",
            "im4gn.large",
            "is4gen.large",
            "x2gd.large",
            "g5g.xlarge",
            "a1.large",
            "hpc7g.4xlarge",
        ] {
            assert!(default_image(arm).ends_with("-arm64"), "{arm}"); // D-CFG-29
        }
        for intel_or_amd in [
            "t3.medium",
            "m7i.large",
            "m7i-flex.large",
            "g4dn.xlarge",
            "g5.xlarge",
            "gr6.4xlarge",
            "c6a.large",
            "u7i-12tb.224xlarge",
            "i4i.large",
        ] {
            assert!(
                default_image(intel_or_amd).ends_with("-x86_64"),
                "{intel_or_amd}"
            );
        }
    }
}
