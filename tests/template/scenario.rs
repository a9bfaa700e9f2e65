//! Inputs of the template tests: a small configuration, and one change to it per scenario.

use contract::{
    digest::Digest,
    spec::{
        ContainerSpec, HealthCheck, OnDrainTimeout, ProxySpec, ProxyTimeouts, SwapOrder, Topology,
    },
};
use porter::{
    config::{
        ClassicLoadBalancer, Config, Container, EgressRule, Environment, HotSwap, LoadBalancer,
        OnIneligible, OnTemplateDrift, Region, Zone,
    },
    template::{Agent, Assembled, Destination, Input, TemplateError, assemble},
};
use std::{collections::BTreeMap, time::Duration};

pub struct Scenario {
    pub config: Config,
    pub destination: Destination,
    pub user_template: Option<String>,
    pub desired_capacity: Option<u32>,
    pub host_bootstrap: String,
    pub agent: Agent,
    pub tool_version: String,
}

impl Scenario {
    /// An inet service behind a target group, as in the local cloud.
    pub fn target_group() -> Self {
        Self {
            config: config(),
            destination: Destination::TargetGroups {
                vpc_id: "vpc-0123456789abcdef0".into(),
                security_groups: vec!["sg-0aaaaaaaaaaaaaaa1".into()],
                subnets: vec![
                    "subnet-0aaaaaaaaaaaaaaa1".into(),
                    "subnet-0bbbbbbbbbbbbbbb2".into(),
                ],
                protocol: "HTTP".into(),
                port: 80,
            },
            user_template: None,
            desired_capacity: None,
            host_bootstrap: String::new(),
            agent: Agent {
                key: format!(
                    "porter-deployment/hello/agents/sha256/{}",
                    Digest::from_bytes(&[7; 32]).hex()
                ),
                digest: Digest::from_bytes(&[7; 32]),
            },
            tool_version: "0.1.0".into(),
        }
    }

    pub fn classic() -> Self {
        let mut scenario = Self::target_group();
        scenario.region().load_balancer = LoadBalancer::Classic(vec![ClassicLoadBalancer {
            tag: String::new(),
            name: "hello-stage".into(),
        }]);
        scenario.destination = Destination::Classic {
            vpc_id: None,
            security_groups: vec!["sg-0aaaaaaaaaaaaaaa1".into(), "sg-0bbbbbbbbbbbbbbb2".into()],
        };
        scenario
    }

    pub fn without_balancer() -> Self {
        let mut scenario = Self::target_group();
        scenario.region().load_balancer = LoadBalancer::None;
        scenario.destination = Destination::None;
        scenario
    }

    pub fn worker() -> Self {
        let mut scenario = Self::without_balancer();
        scenario.region().containers[0].run.topology = Topology::Worker;
        scenario.region().containers[0].run.inet_port = None;
        scenario
    }

    pub fn in_vpc(mut self) -> Self {
        let region = self.region();
        region.vpc_id = Some("vpc-0fedcba9876543210".into());
        region.azs[0].subnet_id = Some("subnet-0ccccccccccccccc3".into());
        region.azs[1].subnet_id = Some("subnet-0ddddddddddddddd4".into());
        self
    }

    pub fn with_certificate(mut self) -> Self {
        self.region().ssl_cert_arn = Some(
            "arn:aws:acm:us-east-1:123456789012:certificate/0aaaaaaa-1111-2222-3333-444444444444"
                .into(),
        );
        self.region().hosted_zone_name = Some("example.com.".into());
        self
    }

    pub fn with_user_template(mut self, text: &str) -> Self {
        self.user_template = Some(text.into());
        self
    }

    pub fn region(&mut self) -> &mut Region {
        &mut self.config.environments[0].regions[0]
    }

    pub fn assemble(&self) -> Result<Assembled, TemplateError> {
        let environment = &self.config.environments[0];
        assemble(&Input {
            config: &self.config,
            environment,
            region: &environment.regions[0],
            user_template: self.user_template.as_deref(),
            tool_version: &self.tool_version,
            agent: &self.agent,
            destination: &self.destination,
            desired_capacity: self.desired_capacity,
            host_bootstrap: &self.host_bootstrap,
            stack_creation_timeout: Duration::from_secs(900),
        })
    }
}

/// Every scenario that has a golden file and must pass cfn-lint.
pub fn all() -> Vec<(&'static str, Scenario)> {
    let mut https_only = Scenario::classic().in_vpc().with_certificate();
    https_only.region().haproxy.https_only = true;
    let mut swap = Scenario::target_group();
    swap.desired_capacity = Some(5);
    swap.host_bootstrap =
        "mkdir -p /opt/service\necho 'it''s \"here\"' >/opt/service/{{mark}}\n".into();
    let mut network = Scenario::target_group();
    network.destination = Destination::TargetGroups {
        vpc_id: "vpc-0123456789abcdef0".into(),
        security_groups: vec![],
        subnets: vec!["subnet-0aaaaaaaaaaaaaaa1".into()],
        protocol: "TCP".into(),
        port: 80,
    };
    let mut guarded = Scenario::target_group().in_vpc();
    guarded.region().sse_kms_key_id =
        Some("arn:aws:kms:us-east-1:123456789012:key/0aaaaaaa-1111-2222-3333-444444444444".into());
    guarded.region().permissions_boundary =
        Some("arn:aws:iam::123456789012:policy/boundary".into());
    guarded.region().key_pair_name = Some("operators".into());
    guarded.region().ami = "ami-0123456789abcdef0".into();
    let mut wired = Scenario::target_group().in_vpc();
    wired.region().autowire_security_groups = false;
    vec![
        ("target_group", Scenario::target_group()),
        (
            "target_group_certificate",
            Scenario::target_group().in_vpc().with_certificate(),
        ),
        ("target_group_guarded", guarded),
        ("target_group_network", network),
        ("target_group_swap", swap),
        ("classic", Scenario::classic()),
        ("classic_vpc_https_only", https_only),
        ("no_balancer", Scenario::without_balancer()),
        ("worker", Scenario::worker()),
        ("not_autowired", wired),
        (
            "user_yaml",
            Scenario::classic().with_user_template(include_str!("user.yaml")),
        ),
        (
            "example_realtime",
            Scenario::target_group()
                .with_user_template(include_str!("../../examples/realtime/.porter/stack.yaml")),
        ),
        (
            "user_yaml_target_group",
            Scenario::target_group().with_user_template(include_str!("user.yaml")),
        ),
        (
            "user_wait_condition",
            Scenario::worker().with_user_template(USER_WAIT_CONDITION),
        ),
        (
            "user_launch_configuration",
            Scenario::classic()
                .in_vpc()
                .with_user_template(include_str!("user_launch_configuration.json")),
        ),
    ]
}

pub const USER_WAIT_CONDITION: &str = "
Resources:
  Wait:
    Type: AWS::CloudFormation::WaitCondition
    Metadata: { porter: primary }
    Properties: { Count: 1, Timeout: '600' }
";

fn config() -> Config {
    Config {
        service_name: "hello".into(),
        porter_version: "v0.1.0".into(),
        owner: "ci".into(),
        environments: vec![Environment {
            name: "stage".into(),
            hot_swap: HotSwap {
                enabled: true,
                max_age: Duration::from_secs(7 * 24 * 3600),
                on_ineligible: OnIneligible::Provision,
                generation: "1".into(),
                deadline: Duration::from_secs(900),
                prepare_timeout: Duration::from_secs(600),
                drain_timeout: Duration::from_secs(180),
                on_drain_timeout: OnDrainTimeout::Close,
                handover_bake: Duration::from_secs(5),
                suspend_scaling: false,
                on_template_drift: OnTemplateDrift::Provision,
            },
            blackout_windows: vec![],
            tags: BTreeMap::from([("team".into(), "realtime".into())]),
            keep_images: 1,
            regions: vec![region()],
        }],
        hooks: BTreeMap::new(),
    }
}

fn region() -> Region {
    let zone = |name: &str| Zone {
        name: name.into(),
        subnet_id: None,
    };
    Region {
        name: "us-east-1".into(),
        stack_definition_path: None,
        role_arn: None,
        external_id: None,
        instance_count: 3,
        instance_type: "t3.medium".into(),
        ami: "ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64".into(),
        key_pair_name: None,
        azs: vec![zone("us-east-1a"), zone("us-east-1b")],
        vpc_id: None,
        s3_bucket: "deployments".into(),
        sse_kms_key_id: None,
        load_balancer: LoadBalancer::TargetGroups(vec![
            "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/hello/0123456789abcdef".into(),
        ]),
        ssl_cert_arn: None,
        hosted_zone_name: None,
        autowire_security_groups: true,
        security_group_egress: [("udp", 53), ("udp", 123), ("tcp", 80), ("tcp", 443)]
            .into_iter()
            .flat_map(|(protocol, port)| [egress(protocol, port, true), egress(protocol, port, false)])
            .collect(),
        stack_parameters: BTreeMap::new(),
        permissions_boundary: None,
        haproxy: ProxySpec {
            behind_load_balancer: true,
            request_header_captures: vec![],
            response_header_captures: vec![],
            log: true,
            compression: false,
            compress_types: vec![],
            timeouts: ProxyTimeouts::default(),
            maxconn: 200_000,
            https_redirect: false,
            https_only: false,
            stats_bind: None,
        },
        containers: vec![Container {
            run: ContainerSpec {
                name: "primary".into(),
                image: "primary".into(),
                topology: Topology::Inet,
                inet_port: Some(3000),
                handover: false,
                data: false,
                uid: 1001,
                read_only: true,
                pids_limit: 4096,
                memory: None,
                nano_cpus: None,
                stop_grace: Duration::from_secs(30),
                swap_order: SwapOrder::StartFirst,
                health: HealthCheck {
                    method: "GET".into(),
                    path: "/health".into(),
                    interval: Duration::from_secs(2),
                    timeout: Duration::from_secs(3),
                    healthy: 3,
                    start_period: Duration::ZERO,
                    status: 200,
                    exec: None,
                },
            },
            dockerfile: "Dockerfile".into(),
            dockerfile_build: "Dockerfile.build".into(),
            validate_build_args_exist: true,
        }],
    }
}

fn egress(protocol: &str, port: i32, v4: bool) -> EgressRule {
    EgressRule {
        cidr_ip: v4.then(|| "0.0.0.0/0".into()),
        cidr_ipv6: (!v4).then(|| "::/0".into()),
        destination_prefix_list_id: None,
        destination_security_group_id: None,
        ip_protocol: protocol.into(),
        from_port: port,
        to_port: port,
    }
}
