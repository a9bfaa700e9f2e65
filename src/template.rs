//! The user's CloudFormation in, the final one out; pure (D-TPL).
//!
//! | module | in the flow |
//! |---|---|
//! | [`document`] | the user's file, JSON or YAML with short intrinsics → one JSON document, nothing lost |
//! | [`sizes`] | the sizes of the group, also where they are intrinsics |
//! | `stack` | the document under construction: sections, resources, whose resource is ours to fill |
//! | `launch` | the launch template |
//! | `role` | what the hosts may do |
//! | `hosts` | the group, its queue and its wait condition |
//! | `machine` | what cfn-init, cfn-hup and cloud-init read |
//! | `network` | security groups |
//! | `balancer` | the provisioned load balancer, for tests before promotion |
//!
//! The text holds no value of a deployment. What differs from one hot swap to the next arrives through parameters, is
//! used in metadata and tags only, and so never touches the launch template's properties (D-TPL-53). What a stack must
//! keep from its creation (the wait condition can't be updated) is a parameter too: see [`Assembled::update_values`].

mod balancer;
pub mod document;
mod hosts;
mod launch;
mod machine;
mod network;
mod role;
pub mod sizes;
mod stack;

pub use sizes::sizes;

use crate::{
    capacity::Sizes,
    config::{Config, Environment, Region},
};
use contract::{digest::Digest, spec::Topology};
use serde_json::{Value, json};
use stack::Stack;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// CloudFormation refuses larger templates, also by URL (bytes).
pub const MAX_TEMPLATE_BYTES: usize = 1_000_000;
/// Longer output of `ec2_bootstrap` hooks does not belong into a template (D-HOOK-15, bytes).
pub const MAX_HOST_BOOTSTRAP_BYTES: usize = 16 * 1024;
/// CloudFormation's limit for a wait condition.
const MAX_CREATION_TIMEOUT: Duration = Duration::from_secs(12 * 3600);

/// Names of our template parameters.
pub mod parameter {
    /// Environment name, fixed.
    pub const ENVIRONMENT: &str = "PorterEnvironment";
    /// Service name, fixed.
    pub const SERVICE_NAME: &str = "PorterServiceName";
    /// The stack's name; kept on updates.
    pub const STACK_NAME: &str = "PorterStackName";
    /// Payload digest, `sha256:…`.
    pub const PAYLOAD_DIGEST: &str = "PorterPayloadDigest";
    /// Id of the run, new for every deployment.
    pub const SWAP_ID: &str = "PorterSwapId";
    /// RFC 3339 time after which no host moves traffic for this swap.
    pub const DEADLINE: &str = "PorterDeadline";
    /// Availability zones of hosts without subnets, separated by commas.
    pub const ZONES: &str = "PorterZones";
    /// `hot_swap.generation`, may be empty.
    pub const GENERATION: &str = "PorterGeneration";
    /// How many hosts the wait condition of the stack's creation awaits; kept on updates.
    pub const AWAITED_HOSTS: &str = "PorterAwaitedHosts";
    /// Seconds from creation to the last signal, also the group's health check grace period; kept on updates.
    pub const CREATION_TIMEOUT: &str = "PorterCreationTimeout";
}

/// The host agent's binary in the bucket, pinned by digest (D-SEC-26).
#[derive(Clone, Debug)]
pub struct Agent {
    /// S3 key, without the bucket.
    pub key: String,
    /// SHA-256 of the binary.
    pub digest: Digest,
}

/// What the configured load balancer looked like when it was read.
#[derive(Clone, Debug, Default)]
pub enum Destination {
    /// `elb: none`, or a region of workers.
    #[default]
    None,
    /// Classic load balancers.
    Classic {
        /// Where they stand, when the region names no VPC.
        vpc_id: Option<String>,
        /// Their groups, of all of them.
        security_groups: Vec<String>,
    },
    /// Target groups of an ALB or NLB.
    TargetGroups {
        /// The VPC of the first target group.
        vpc_id: String,
        /// Groups of the load balancers in front; empty for an NLB without groups.
        security_groups: Vec<String>,
        /// Subnets of those load balancers: the provisioned one stands there when the configuration names none.
        subnets: Vec<String>,
        /// `HTTP`, `HTTPS`: an ALB; `TCP`, `TLS`, …: an NLB.
        protocol: String,
        /// Where the destination sends traffic on hosts.
        port: u16,
    },
}

/// Everything assembly depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The resolved configuration.
    pub config: &'a Config,
    /// One of its environments.
    pub environment: &'a Environment,
    /// One of its regions.
    pub region: &'a Region,
    /// Text of the file at `stack_definition_path`.
    pub user_template: Option<&'a str>,
    /// Version of this tool.
    pub tool_version: &'a str,
    /// The host agent's binary.
    pub agent: &'a Agent,
    /// Where promoted traffic comes from.
    pub destination: &'a Destination,
    /// DesiredP: overwrites the template's DesiredCapacity (D-HOT-14).
    pub desired_capacity: Option<u32>,
    /// Output of the `ec2_bootstrap` hooks, shell.
    pub host_bootstrap: &'a str,
    /// At most 12 h.
    pub stack_creation_timeout: Duration,
}

impl Input<'_> {
    fn is_inet(&self) -> bool {
        (self.region.containers.iter()).any(|c| c.run.topology == Topology::Inet)
    }

    fn https_only(&self) -> bool {
        self.region.haproxy.https_only
    }

    /// The VPC of hosts and groups, where it is known; otherwise it is the default VPC.
    fn vpc(&self) -> Option<&str> {
        let destination = match self.destination {
            Destination::None => None,
            Destination::Classic { vpc_id, .. } => vpc_id.as_deref(),
            Destination::TargetGroups { vpc_id, .. } => Some(vpc_id.as_str()),
        };
        (self.region.vpc_id.as_deref()).or(destination.filter(|v| !v.is_empty()))
    }
}

/// Which load balancer stands in the template for tests before promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalancerKind {
    /// `AWS::ElasticLoadBalancing::LoadBalancer`; the physical id is its name.
    Classic,
    /// `AWS::ElasticLoadBalancingV2::LoadBalancer`; the physical id is its ARN.
    V2,
}

/// The provisioned load balancer's place in the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvisionedLoadBalancer {
    /// Logical id.
    pub logical_id: String,
    /// Its kind.
    pub kind: BalancerKind,
}

/// The final template and what a caller needs to use it.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The template. Equal inputs give equal bytes (D-TPL-11).
    pub json: String,
    /// Sizes of the group in this template.
    pub sizes: Sizes,
    /// Values of parameters that are no value of a deployment: ours and the user's `stack_parameters`.
    pub parameters: BTreeMap<String, String>,
    /// Values for CreateStack alone. UpdateStack must keep the stack's previous ones: a wait condition can't be updated.
    pub creation_parameters: BTreeMap<String, String>,
    /// The user's parameters that the configuration gives no value: the default at creation, the previous value later.
    pub unset_parameters: BTreeSet<String>,
    /// The load balancer in front of this stack alone, if there is one.
    pub provisioned_load_balancer: Option<ProvisionedLoadBalancer>,
    /// Logical id of the launch template, which carries the desired state: the user's name for it, or ours.
    pub launch_template: String,
    /// Logical id of the Auto Scaling group.
    pub auto_scaling_group: String,
    /// What the operator should know; each a sentence.
    pub warnings: Vec<String>,
}

/// A parameter of an UpdateStack call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterValue {
    /// This value.
    New(String),
    /// `UsePreviousValue`.
    Previous,
}

/// The values of one deployment, for the parameters that no template text may hold.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Name of the stack.
    pub stack_name: String,
    /// What hosts shall run.
    pub payload: Digest,
    /// A ULID.
    pub swap_id: String,
    /// See [`parameter::DEADLINE`].
    pub deadline: jiff::Timestamp,
}

impl Assembled {
    /// Parameters of CreateStack.
    pub fn creation_values(&self, deployment: &Deployment) -> BTreeMap<String, String> {
        let mut values = self.parameters.clone();
        values.extend(self.creation_parameters.clone());
        values.extend(deployment.values());
        values.insert(parameter::STACK_NAME.into(), deployment.stack_name.clone());
        values
    }

    /// Parameters of UpdateStack on a stack that has the parameters `existing` (D-TPL-7).
    pub fn update_values(
        &self,
        deployment: &Deployment,
        existing: &BTreeSet<String>,
    ) -> BTreeMap<String, ParameterValue> {
        let mut values = BTreeMap::new();
        for (name, value) in (self.parameters.iter())
            .map(|(n, v)| (n.clone(), v.clone()))
            .chain(deployment.values())
        {
            values.insert(name, ParameterValue::New(value));
        }
        let created = (self.creation_parameters.iter())
            .map(|(n, v)| (n.clone(), v.clone()))
            .chain([(
                parameter::STACK_NAME.to_owned(),
                deployment.stack_name.clone(),
            )]);
        for (name, value) in created {
            let value = if existing.contains(&name) {
                ParameterValue::Previous
            } else {
                ParameterValue::New(value)
            };
            values.insert(name, value);
        }
        for name in self.unset_parameters.intersection(existing) {
            values.insert(name.clone(), ParameterValue::Previous);
        }
        values
    }
}

impl Deployment {
    fn values(&self) -> [(String, String); 3] {
        [
            (parameter::PAYLOAD_DIGEST.into(), self.payload.to_string()),
            (parameter::SWAP_ID.into(), self.swap_id.clone()),
            (parameter::DEADLINE.into(), self.deadline.to_string()),
        ]
    }
}

/// Why a template can't be assembled: the part of the file, what is wrong with it, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stack definition, {part}: {problem}")]
pub struct TemplateError {
    /// Such as `Resources.Group.Properties.MinSize`, or line and column.
    pub part: String,
    /// One sentence.
    pub problem: String,
    /// The remedy, one sentence for a `hint:` line.
    pub remedy: String,
}

impl TemplateError {
    fn new(part: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            part: part.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// The final template.
///
/// # Errors
/// When the user's template can't be read, claims a name of ours, leaves a choice open, or has a part that we must fill
/// in a shape that CloudFormation would refuse.
pub fn assemble(input: &Input) -> Result<Assembled, TemplateError> {
    check(input)?;
    let mut stack = Stack::new(document::parse(input.user_template)?)?;
    let sizes = sizes::resolve(&stack, input)?;
    let unset_parameters = declare(&mut stack, input, sizes)?;

    let launch_template = launch::choose(&mut stack)?;
    let group = hosts::group(&mut stack, &launch_template)?;
    hosts::signal_queue(&mut stack)?;
    let handle = hosts::wait_condition(&mut stack, &group)?;
    let balancer = balancer::provision(&mut stack, input)?;
    network::groups(&mut stack, input, balancer.as_ref())?;
    launch::fill(&mut stack, input, &launch_template)?;
    network::attach(&mut stack, input, &launch_template, balancer.as_ref())?;
    machine::configure(&mut stack, input, &launch_template, &handle)?;
    hosts::fill_group(
        &mut stack,
        input,
        &group,
        &launch_template,
        &handle,
        balancer.as_ref(),
        sizes,
    )?;

    // A user's own sizes, zones or wait condition may leave these without a use.
    stack.prune("Conditions", hosts::AWAITS_HOSTS)?;
    let mut creation_parameters = BTreeMap::from([
        (
            parameter::AWAITED_HOSTS.to_owned(),
            sizes.desired.to_string(),
        ),
        (
            parameter::CREATION_TIMEOUT.to_owned(),
            input.stack_creation_timeout.as_secs().to_string(),
        ),
    ]);
    let mut pruned = Vec::new();
    for name in [
        parameter::ZONES,
        parameter::AWAITED_HOSTS,
        parameter::CREATION_TIMEOUT,
    ] {
        if stack.prune("Parameters", name)? {
            pruned.push(name);
        }
    }
    creation_parameters.retain(|name, _| !pruned.contains(&name.as_str()));
    let mut parameters = static_values(input);
    parameters.retain(|name, _| !pruned.contains(&name.as_str()));

    let json = stack.to_json();
    if json.len() > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::new(
            "the whole template",
            format!(
                "it has {} bytes, CloudFormation takes {MAX_TEMPLATE_BYTES}; the largest resources are {}",
                json.len(),
                stack.largest_resources(3)
            ),
            "move large texts to S3, or split resources off into a stack of their own",
        ));
    }
    Ok(Assembled {
        json,
        sizes,
        parameters,
        creation_parameters,
        unset_parameters,
        provisioned_load_balancer: balancer.map(|b| b.place),
        launch_template,
        auto_scaling_group: group,
        warnings: stack.warnings,
    })
}

fn check(input: &Input) -> Result<(), TemplateError> {
    if input.host_bootstrap.len() > MAX_HOST_BOOTSTRAP_BYTES {
        return Err(TemplateError::new(
            "the output of the ec2_bootstrap hooks",
            format!(
                "it has {} bytes, a host's bootstrap script takes {MAX_HOST_BOOTSTRAP_BYTES}",
                input.host_bootstrap.len()
            ),
            "let the hook print a command that fetches the rest from S3",
        ));
    }
    let timeout = input.stack_creation_timeout;
    if timeout < Duration::from_secs(1) || timeout > MAX_CREATION_TIMEOUT {
        return Err(TemplateError::new(
            "WaitCondition",
            format!(
                "the stack creation timeout is {} s, CloudFormation takes 1 to {}",
                timeout.as_secs(),
                MAX_CREATION_TIMEOUT.as_secs()
            ),
            "set STACK_CREATION_TIMEOUT to a duration of at most 12h",
        ));
    }
    Ok(())
}

/// Description, parameters and the condition that a stack without hosts needs; returns the user's unset parameters.
fn declare(
    stack: &mut Stack,
    input: &Input,
    sizes: Sizes,
) -> Result<BTreeSet<String>, TemplateError> {
    let ours = format!(
        "{} (powered by porter {})",
        input.config.service_name, input.tool_version
    );
    stack.describe(&ours);

    let user: BTreeSet<String> = stack.section("Parameters")?.keys().cloned().collect();
    for name in input.region.stack_parameters.keys() {
        if !user.contains(name) || name.starts_with("Porter") {
            return Err(TemplateError::new(
                format!("Parameters.{name}"),
                "`stack_parameters` gives a value to a parameter that the template does not declare",
                "declare the parameter in the stack definition, or remove the value",
            ));
        }
    }
    let fixed = |value: &str, description: &str| {
        json!({
            "Type": "String", "Default": value, "AllowedValues": [value], "Description": description,
        })
    };
    let given = |description: &str| json!({"Type": "String", "Description": description});
    let ours = [
        (
            parameter::ENVIRONMENT,
            fixed(&input.environment.name, "Environment name"),
        ),
        (
            parameter::SERVICE_NAME,
            fixed(&input.config.service_name, "Service name"),
        ),
        (parameter::STACK_NAME, given("Name of this stack")),
        (
            parameter::PAYLOAD_DIGEST,
            given("Digest of the payload that the hosts run"),
        ),
        (parameter::SWAP_ID, given("Id of the deployment")),
        (
            parameter::DEADLINE,
            given("After this time no host moves traffic for the deployment"),
        ),
        (
            parameter::GENERATION,
            json!({"Type": "String", "Default": "", "Description": "hot_swap.generation of the configuration"}),
        ),
        (
            parameter::AWAITED_HOSTS,
            json!({"Type": "Number", "MinValue": 0, "Description": "How many hosts the stack's creation waits for"}),
        ),
        (
            parameter::CREATION_TIMEOUT,
            json!({
                "Type": "Number", "MinValue": 1, "MaxValue": MAX_CREATION_TIMEOUT.as_secs(),
                "Description": "Seconds within which the first hosts must serve",
            }),
        ),
    ];
    let zones = zones(input);
    let ours = ours.into_iter().chain((!zones.is_empty()).then(|| {
        let description = "Availability zones of the hosts";
        (
            parameter::ZONES,
            json!({"Type": "CommaDelimitedList", "Default": zones, "Description": description}),
        )
    }));
    let section = stack.section("Parameters")?;
    for (name, value) in ours {
        section.insert(name.into(), value);
    }
    stack.section("Conditions")?.insert(
        hosts::AWAITS_HOSTS.into(),
        json!({"Fn::Not": [{"Fn::Equals": [{"Ref": parameter::AWAITED_HOSTS}, "0"]}]}),
    );
    if sizes.desired == 0 {
        stack.warnings.push(
            "DesiredCapacity is 0: the stack starts no host, so nothing is verified".to_owned(),
        );
    }
    Ok(user
        .into_iter()
        .filter(|n| !n.starts_with("Porter") && !input.region.stack_parameters.contains_key(n))
        .collect())
}

fn static_values(input: &Input) -> BTreeMap<String, String> {
    let mut values = input.region.stack_parameters.clone();
    values.extend([
        (
            parameter::ENVIRONMENT.into(),
            input.environment.name.clone(),
        ),
        (
            parameter::SERVICE_NAME.into(),
            input.config.service_name.clone(),
        ),
        (
            parameter::GENERATION.into(),
            input.environment.hot_swap.generation.clone(),
        ),
    ]);
    let zones = zones(input);
    if !zones.is_empty() {
        values.insert(parameter::ZONES.into(), zones);
    }
    values
}

/// The zones' names, for groups and classic load balancers that are not placed by subnets.
fn zones(input: &Input) -> String {
    let names: Vec<&str> = (input.region.azs.iter())
        .filter(|z| z.subnet_id.is_none())
        .map(|z| z.name.as_str())
        .collect();
    names.join(",")
}

/// `{"Ref": id}`.
fn reference(id: &str) -> Value {
    json!({"Ref": id})
}

/// `{"Fn::GetAtt": [id, attribute]}`.
fn attribute(id: &str, attribute: &str) -> Value {
    json!({"Fn::GetAtt": [id, attribute]})
}
