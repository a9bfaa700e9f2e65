//! What `porter config check` and `porter config show` print (D-CFG-10): pure, the commands only print it.

use super::{
    Loaded, duration,
    model::{
        Config, Container, EgressRule, Environment, LoadBalancer, OnIneligible, OnTemplateDrift,
        Region,
    },
    node::{Node, Value as NodeValue},
};
use contract::spec::{HeaderCapture, OnDrainTimeout, SwapOrder, Topology};
use serde::Serialize;
use std::{fmt, time::Duration};

/// Stands for values that may be secret.
pub(super) const MASK: &str = "***";

/// What a valid configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `service_name`.
    pub service: String,
    /// Number of environments.
    pub environments: usize,
    /// Number of regions of all environments.
    pub regions: usize,
    /// Number of containers of all regions.
    pub containers: usize,
    /// Warnings, and what an owner should know.
    pub notes: Vec<String>,
}

/// Sums up a valid configuration.
pub fn check(loaded: &Loaded) -> Check {
    let config = &loaded.config;
    let regions = || config.environments.iter().flat_map(|e| &e.regions);
    let mut notes = loaded.warnings.clone();
    notes.push("all containers share the host's role, and with it everything that the role may do (`aws_credentials: host`)".into());
    Check {
        service: config.service_name.clone(),
        environments: config.environments.len(),
        regions: regions().count(),
        containers: regions().map(|r| r.containers.len()).sum(),
        notes,
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(
            f,
            "the configuration of {} is valid: {}, {}, {}",
            self.service,
            count(self.environments, "environment"),
            count(self.regions, "region"),
            count(self.containers, "container")
        )?;
        self.notes
            .iter()
            .try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

/// Where a value was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The region says so.
    Region,
    /// The environment says so.
    Environment,
    /// Nobody says anything: a default, or it follows from another value.
    Default,
}

/// One resolved value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Key path below the region or the environment.
    pub key: String,
    /// As one would write it; `-` for nothing.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything that counts in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionView {
    /// Environment name.
    pub environment: String,
    /// Region name.
    pub region: String,
    /// In the order of the documentation.
    pub values: Vec<Shown>,
}

/// The resolved view of an environment, of one region or of all. `text` is the file from which `config` was read.
/// `None` when there is no such environment or region.
pub fn view(
    config: &Config,
    text: &str,
    environment: &str,
    region: Option<&str>,
) -> Option<Vec<RegionView>> {
    let (root, _) = super::node::read(text);
    let root = root?;
    let index = config
        .environments
        .iter()
        .position(|e| e.name == environment)?;
    let env = &config.environments[index];
    let env_node = item(root.get("environments"), index);
    let views: Vec<RegionView> = env
        .regions
        .iter()
        .enumerate()
        .filter(|(_, r)| region.is_none_or(|name| name == r.name))
        .map(|(index, r)| {
            let region_node = item(env_node.and_then(|n| n.get("regions")), index);
            let shown = |(key, value): (String, String)| {
                let origin = if is_set(region_node, &key) {
                    Origin::Region
                } else if is_set(env_node, &key) {
                    Origin::Environment
                } else {
                    Origin::Default
                };
                Shown { key, value, origin }
            };
            let values = values(env, r).into_iter().map(shown).collect();
            RegionView {
                environment: env.name.clone(),
                region: r.name.clone(),
                values,
            }
        })
        .collect();
    (!views.is_empty()).then_some(views)
}

impl fmt::Display for RegionView {
    /// `key  value  origin`, the last in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.environment, self.region)?;
        let width = self.values.iter().map(|v| v.key.len()).max().unwrap_or(0);
        for Shown { key, value, origin } in &self.values {
            let origin = match origin {
                Origin::Region => "region",
                Origin::Environment => "environment",
                Origin::Default => "default",
            };
            write!(f, "\n  {key:width$}  {value}  ({origin})")?;
        }
        Ok(())
    }
}

fn item(list: Option<&Node>, index: usize) -> Option<&Node> {
    match list.map(|n| &n.value) {
        Some(NodeValue::List(items)) => items.get(index).map(|n| &**n),
        _ => None,
    }
}

/// Whether a key path such as `containers[0].name` leads to something. A section that is there at all, such as
/// `hot_swap: true`, decides its `enabled`.
fn is_set(node: Option<&Node>, path: &str) -> bool {
    let Some(node) = node else { return false };
    if path.is_empty() || path == "enabled" {
        return !node.is_null();
    }
    let (segment, rest) = path.split_once('.').unwrap_or((path, ""));
    match segment.split_once('[') {
        None => is_set(node.get(segment), rest),
        Some((key, index)) => {
            let index = index.trim_end_matches(']').parse().unwrap_or(usize::MAX);
            is_set(item(node.get(key), index), rest)
        }
    }
}

/// Every key and its resolved value, as one would write it.
fn values(env: &Environment, region: &Region) -> Vec<(String, String)> {
    let mut out = vec![];
    let mut put = |key: &str, value: String| {
        out.push((
            key.to_owned(),
            if value.is_empty() { "-".into() } else { value },
        ))
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();

    put("role_arn", text(&region.role_arn));
    put("external_id", text(&region.external_id));
    put(
        "stack_definition_path",
        region
            .stack_definition_path
            .as_ref()
            .map(|p| p.display().to_string())
            .unwrap_or_default(),
    );
    for (name, value) in &region.stack_parameters {
        put(&format!("stack_parameters.{name}"), value.clone());
    }
    put("instance_count", region.instance_count.to_string());
    put("instance_type", region.instance_type.clone());
    put("ami", region.ami.clone());
    put("key_pair_name", text(&region.key_pair_name));
    put("vpc_id", text(&region.vpc_id));
    let zones = region.azs.iter().map(|z| {
        z.subnet_id
            .as_ref()
            .map_or(z.name.clone(), |s| format!("{} {s}", z.name))
    });
    put("azs", zones.collect::<Vec<_>>().join(", "));
    put("s3_bucket", region.s3_bucket.clone());
    put("sse_kms_key_id", text(&region.sse_kms_key_id));
    match &region.load_balancer {
        LoadBalancer::None => put("elb", "none".into()),
        LoadBalancer::TargetGroups(arns) => put("target_group_arns", arns.join(", ")),
        LoadBalancer::Classic(balancers) => {
            let key = if balancers.iter().all(|b| b.tag.is_empty()) {
                "elb"
            } else {
                "elbs"
            };
            put(
                key,
                balancers
                    .iter()
                    .map(|b| b.name.clone())
                    .collect::<Vec<_>>()
                    .join(", "),
            );
        }
    }
    put("ssl_cert_arn", text(&region.ssl_cert_arn));
    put("hosted_zone_name", text(&region.hosted_zone_name));
    put(
        "autowire_security_groups",
        region.autowire_security_groups.to_string(),
    );
    let rules: Vec<_> = region.security_group_egress.iter().map(egress).collect();
    put("auto_scaling_group.security_group_egress", rules.join(", "));
    put("permissions_boundary", text(&region.permissions_boundary));
    for (name, value) in &env.tags {
        put(&format!("tags.{name}"), value.clone());
    }
    let windows: Vec<_> = env
        .blackout_windows
        .iter()
        .map(|w| format!("{} to {}", w.start_time, w.end_time))
        .collect();
    put("blackout_windows", windows.join(", "));
    put("payload.keep_images", env.keep_images.to_string());

    let swap = &env.hot_swap;
    put("hot_swap.enabled", swap.enabled.to_string());
    if swap.enabled {
        put("hot_swap.max_age", duration::show(swap.max_age));
        let ineligible = match swap.on_ineligible {
            OnIneligible::Provision => "provision",
            OnIneligible::Fail => "fail",
        };
        put("hot_swap.on_ineligible", ineligible.into());
        put("hot_swap.generation", swap.generation.clone());
        put("hot_swap.deadline", duration::show(swap.deadline));
        put(
            "hot_swap.prepare_timeout",
            duration::show(swap.prepare_timeout),
        );
        put("hot_swap.drain_timeout", duration::show(swap.drain_timeout));
        let policy = match swap.on_drain_timeout {
            OnDrainTimeout::Close => "close",
            OnDrainTimeout::Fail => "fail",
        };
        put("hot_swap.on_drain_timeout", policy.into());
        put("hot_swap.handover_bake", duration::show(swap.handover_bake));
        put("hot_swap.suspend_scaling", swap.suspend_scaling.to_string());
        let drift = match swap.on_template_drift {
            OnTemplateDrift::Provision => "provision",
            OnTemplateDrift::Fail => "fail",
            OnTemplateDrift::Allow => "allow",
        };
        put("hot_swap.on_template_drift", drift.into());
    }

    let proxy = &region.haproxy;
    put(
        "haproxy.request_header_captures",
        captures(&proxy.request_header_captures),
    );
    put(
        "haproxy.response_header_captures",
        captures(&proxy.response_header_captures),
    );
    put("haproxy.log", proxy.log.to_string());
    put("haproxy.compression", proxy.compression.to_string());
    put("haproxy.compress_types", proxy.compress_types.join(" "));
    let timeouts = &proxy.timeouts;
    for (key, value) in [
        ("client", timeouts.client),
        ("server", timeouts.server),
        ("tunnel", timeouts.tunnel),
        ("http_request", timeouts.http_request),
        ("http_keep_alive", timeouts.http_keep_alive),
    ] {
        put(
            &format!("haproxy.timeout.{key}"),
            value.map(duration::show).unwrap_or_default(),
        );
    }
    put("haproxy.maxconn", proxy.maxconn.to_string());
    put(
        "haproxy.ssl.https_redirect",
        proxy.https_redirect.to_string(),
    );
    put("haproxy.ssl.https_only", proxy.https_only.to_string());
    put("haproxy.stats.bind", text(&proxy.stats_bind));

    for (index, container) in region.containers.iter().enumerate() {
        for (key, value) in container_values(container) {
            put(&format!("containers[{index}].{key}"), value);
        }
    }
    out
}

fn container_values(container: &Container) -> Vec<(&'static str, String)> {
    let (run, health) = (&container.run, &container.run.health);
    let worker = run.topology == Topology::Worker;
    let mut out = vec![
        ("name", run.name.clone()),
        (
            "topology",
            if worker { "worker" } else { "inet" }.to_owned(),
        ),
        ("dockerfile", container.dockerfile.display().to_string()),
        (
            "dockerfile_build",
            container.dockerfile_build.display().to_string(),
        ),
        (
            "validate_build_args_exist",
            container.validate_build_args_exist.to_string(),
        ),
        ("uid", run.uid.to_string()),
        ("read_only", run.read_only.to_string()),
        ("data", run.data.to_string()),
        ("pids_limit", run.pids_limit.to_string()),
        (
            "memory",
            run.memory.map(|b| format!("{b} bytes")).unwrap_or_default(),
        ),
        ("cpus", run.nano_cpus.map(cpus).unwrap_or_default()),
        ("stop_grace", duration::show(run.stop_grace)),
    ];
    let times: [(&'static str, Duration); 3] = [
        ("health_check.interval", health.interval),
        ("health_check.timeout", health.timeout),
        ("health_check.start_period", health.start_period),
    ];
    out.extend(times.map(|(key, time)| (key, duration::show(time))));
    if worker {
        let order = if run.swap_order == SwapOrder::StopFirst {
            "stop_first"
        } else {
            "start_first"
        };
        out.push(("swap_order", order.into()));
        out.push((
            "health_check.exec",
            health
                .exec
                .as_ref()
                .map(|e| e.join(" "))
                .unwrap_or_default(),
        ));
    } else {
        out.push(("handover", run.handover.to_string()));
        let port = match run.inet_port {
            Some(port) => port.to_string(),
            None if run.handover => "none, a Unix socket".into(),
            None => "the only exposed port".into(),
        };
        out.push(("inet_port", port));
        out.push(("health_check.method", health.method.clone()));
        out.push(("health_check.path", health.path.clone()));
        out.push(("health_check.healthy", health.healthy.to_string()));
        out.push(("health_check.status", health.status.to_string()));
    }
    out
}

fn captures(captures: &[HeaderCapture]) -> String {
    captures
        .iter()
        .map(|c| format!("{} {}", c.header, c.length))
        .collect::<Vec<_>>()
        .join(", ")
}

fn cpus(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn egress(rule: &EgressRule) -> String {
    let to = [
        &rule.cidr_ip,
        &rule.cidr_ipv6,
        &rule.destination_prefix_list_id,
        &rule.destination_security_group_id,
    ];
    let to = to.into_iter().flatten().next().map_or("", String::as_str);
    if rule.from_port == rule.to_port {
        format!("{to} {} {}", rule.ip_protocol, rule.from_port)
    } else {
        format!(
            "{to} {} {}-{}",
            rule.ip_protocol, rule.from_port, rule.to_port
        )
    }
}

/// A clone address without user name and password.
pub(super) fn without_credentials(address: &str) -> String {
    match address
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1)))
    {
        Some((scheme, rest)) => format!("{scheme}://{MASK}@{rest}"),
        None => address.to_owned(),
    }
}
