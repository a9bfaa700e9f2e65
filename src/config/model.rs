//! The resolved configuration: every default applied, every rule checked, region values merged over environment values.
//!
//! This is what `porter build pack` writes to `.porter-tmp/config.yaml` and what every later phase reads (D-CFG-7).

use contract::{
    millis,
    spec::{ContainerSpec, OnDrainTimeout, ProxySpec},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// The whole file (D-CFG-12 to D-CFG-18).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Part of stack names, S3 keys and proxy section names.
    pub service_name: String,
    /// `vX.Y.Z`.
    pub porter_version: String,
    /// Part of stack names and tags (D-CFG-118).
    pub owner: String,
    /// At least one, names unique.
    pub environments: Vec<Environment>,
    /// Hook name → hooks in the order of definition (D-HOOK-1).
    #[serde(default)]
    pub hooks: BTreeMap<String, Vec<HookEntry>>,
}

/// One environment (D-CFG-19 to D-CFG-30).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// `^[0-9a-zA-Z]+$`.
    pub name: String,
    /// Whether and how running hosts may be swapped.
    pub hot_swap: HotSwap,
    /// When deployments are forbidden.
    #[serde(default)]
    pub blackout_windows: Vec<BlackoutWindow>,
    /// Extra tags on every taggable resource.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Earlier payloads that stay on the hosts (D-CFG-122; 1 in ours, design decision).
    pub keep_images: u32,
    /// At least one, names unique.
    pub regions: Vec<Region>,
}

/// One region, with the environment's values where it had none of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Such as `us-east-1`.
    pub name: String,
    /// The user's CloudFormation template, relative to the repository root.
    pub stack_definition_path: Option<PathBuf>,
    /// Assumed for all AWS calls of this region (D-CFG-21).
    pub role_arn: Option<String>,
    /// With `role_arn`, for roles of other accounts (D-CFG-22).
    pub external_id: Option<String>,
    /// Default of the group's sizes and the wait condition's count.
    pub instance_count: u32,
    /// EC2 instance type.
    pub instance_type: String,
    /// `ami-…` or `ssm:/path`; always set (D-CFG-29).
    pub ami: String,
    /// SSH key pair.
    pub key_pair_name: Option<String>,
    /// Zones, with subnets when `vpc_id` is set.
    pub azs: Vec<Zone>,
    /// Absent means the default VPC.
    pub vpc_id: Option<String>,
    /// Payloads and templates go here.
    pub s3_bucket: String,
    /// Uploads use SSE-KMS with this key.
    pub sse_kms_key_id: Option<String>,
    /// What tells which stack is promoted, and what traffic comes from.
    pub load_balancer: LoadBalancer,
    /// HTTPS listener of the provisioned load balancer.
    pub ssl_cert_arn: Option<String>,
    /// With exactly one trailing dot.
    pub hosted_zone_name: Option<String>,
    /// False: no security groups are created (D-CFG-27).
    pub autowire_security_groups: bool,
    /// Egress of the hosts' security groups (D-CFG-62, D-CFG-63).
    pub security_group_egress: Vec<EgressRule>,
    /// Values for parameters of the user's template (D-CFG-119).
    #[serde(default)]
    pub stack_parameters: BTreeMap<String, String>,
    /// Boundary of every role we create (D-CFG-129).
    pub permissions_boundary: Option<String>,
    /// The proxy on each host, region merged over environment.
    pub haproxy: ProxySpec,
    /// At least one.
    pub containers: Vec<Container>,
}

/// The destination of promoted traffic (D-CFG-56 to D-CFG-58).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    /// `elb: none`, worker regions: hosts face the internet or nothing, promotion does nothing.
    None,
    /// A classic load balancer by name; more than one makes the region ineligible for hot swap (D-HOT-5).
    Classic(Vec<ClassicLoadBalancer>),
    /// Target groups of an ALB or NLB; the first one's tags tell the promoted stack.
    TargetGroups(Vec<String>),
}

/// An entry of `elbs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassicLoadBalancer {
    /// For `-elb TAG`; empty for the key `elb`.
    pub tag: String,
    /// The load balancer's name.
    pub name: String,
}

/// An availability zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Such as `us-east-1a`.
    pub name: String,
    /// Present exactly when the region has a `vpc_id`.
    pub subnet_id: Option<String>,
}

/// One egress rule; exactly one destination is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressRule {
    /// IPv4 range.
    pub cidr_ip: Option<String>,
    /// IPv6 range.
    pub cidr_ipv6: Option<String>,
    /// Prefix list id.
    pub destination_prefix_list_id: Option<String>,
    /// Security group id.
    pub destination_security_group_id: Option<String>,
    /// `tcp`, `udp`, `icmp`, `-1` …
    pub ip_protocol: String,
    /// First port.
    pub from_port: i32,
    /// Last port.
    pub to_port: i32,
}

/// A container and how its image is built (D-CFG-66 to D-CFG-86).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// What hosts need. `image` is the name, unless two containers of one name differ in their files (D-PACK-13).
    /// An `inet_port` of `None` on an inet container means: the image's only exposed port, found at pack.
    pub run: ContainerSpec,
    /// Relative to the repository root.
    pub dockerfile: PathBuf,
    /// The builder file, used when it exists (D-PACK-8).
    pub dockerfile_build: PathBuf,
    /// D-CFG-73.
    pub validate_build_args_exist: bool,
}

/// `hot_swap` (D-CFG-95 to D-CFG-110).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HotSwap {
    /// False without the key.
    pub enabled: bool,
    /// At most 168 h.
    #[serde(rename = "max_age_ms", with = "millis")]
    pub max_age: Duration,
    /// What an ineligible stack leads to.
    pub on_ineligible: OnIneligible,
    /// A different value makes the stack ineligible.
    pub generation: String,
    /// From the update call to the last verdict.
    #[serde(rename = "deadline_ms", with = "millis")]
    pub deadline: Duration,
    /// D-CFG-104.
    #[serde(rename = "prepare_timeout_ms", with = "millis")]
    pub prepare_timeout: Duration,
    /// D-CFG-105.
    #[serde(rename = "drain_timeout_ms", with = "millis")]
    pub drain_timeout: Duration,
    /// D-CFG-106.
    pub on_drain_timeout: OnDrainTimeout,
    /// How long a process that has handed over its connections waits to take them back.
    #[serde(
        rename = "handover_bake_ms",
        with = "millis",
        default = "contract::spec::default_handover_bake"
    )]
    pub handover_bake: Duration,
    /// D-CFG-108.
    pub suspend_scaling: bool,
    /// D-CFG-109.
    pub on_template_drift: OnTemplateDrift,
}

/// What happens when the template differs in more than a hot swap may change (D-CFG-109).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTemplateDrift {
    /// Build new hosts.
    Provision,
    /// Exit with status 4.
    Fail,
    /// Let it ride along, unless it replaces or removes a resource.
    Allow,
}

/// D-CFG-98.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnIneligible {
    /// Build new hosts.
    Provision,
    /// Exit with status 4.
    Fail,
}

/// A time in which deployments are forbidden (D-CFG-111). Both ends were checked at pack; they stay text because a
/// window that can't be read must block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlackoutWindow {
    /// RFC 3339.
    pub start_time: String,
    /// RFC 3339.
    pub end_time: String,
}

/// One hook (D-CFG-87 to D-CFG-94).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookEntry {
    /// Anything `git clone` accepts.
    pub repo: Option<String>,
    /// Branch, tag or full commit hash.
    pub r#ref: Option<String>,
    /// A Dockerfile, relative to the clone or the repository root.
    pub dockerfile: Option<PathBuf>,
    /// New: a plain executable, relative to the repository root, run on the build host without a container.
    pub executable: Option<PathBuf>,
    /// A value sets the variable, null copies it from the caller.
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
    /// Runs together with its marked neighbours (D-HOOK-9).
    pub concurrent: bool,
    /// After which outcome a post hook runs (D-HOOK-12).
    pub run_condition: RunCondition,
    /// Then it is killed and counts as failed.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
}

/// D-CFG-93.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCondition {
    /// After success.
    Pass,
    /// After failure.
    Fail,
    /// After both.
    Always,
}

impl Config {
    /// The environment of that name.
    pub fn environment(&self, name: &str) -> Option<&Environment> {
        self.environments.iter().find(|e| e.name == name)
    }
}
