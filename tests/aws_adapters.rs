//! The AWS adapters against an AWS that we did not write: MiniStack for everything but classic load balancers, which it
//! does not have; those against moto.
//!
//! MiniStack is installed as `porter local up` does it. `MOTO_SERVER` names moto's program, which `make setup` installs.

// `allow-unwrap-in-tests` covers test functions, not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod support;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use contract::{
    digest::Digest,
    names,
    signal::{Drain, HostSignal, Kind},
    step::Step,
};
use jiff::{SignedDuration, Timestamp};
use porter::{
    aws::{
        self, Role, Session,
        cloudformation::{ChangeSet, OnFailure, Request, UpdateOutcome},
        s3::Put,
    },
    capacity::Sizes,
    eligibility::StackStatus,
    signals::{self, End, Ended, Mark, Observation, Pace, Phase, Tally, Verdict, Watch},
    template::ParameterValue,
    update::{self, FollowError, Operation, Times},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const REGION: &str = "us-east-1";
const BUCKET: &str = "porter-adapters";

/// An AWS endpoint that ends with the test.
enum Emulator {
    MiniStack(local_cloud::emulator::Emulator),
    Moto {
        child: Child,
        endpoint: String,
        _files: tempfile::TempDir,
    },
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Self::Moto { child, .. } = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Emulator {
    async fn ministack() -> Self {
        Self::MiniStack(local_cloud::emulator::Emulator::start().await.unwrap())
    }

    async fn moto() -> Self {
        let program = std::env::var_os("MOTO_SERVER").map_or_else(installed_moto, PathBuf::from);
        let files = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let log = std::fs::File::create(files.path().join("log")).unwrap();
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "{}: {e}; run `make setup`, or name moto_server in MOTO_SERVER",
                    program.display()
                )
            });
        let moto = Self::Moto {
            child,
            endpoint: format!("http://127.0.0.1:{port}"),
            _files: files,
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "moto does not listen on {port}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        moto
    }

    fn endpoint(&self) -> &str {
        match self {
            Self::MiniStack(emulator) => emulator.endpoint(),
            Self::Moto { endpoint, .. } => endpoint,
        }
    }

    async fn config(&self) -> SdkConfig {
        let endpoint = self.endpoint();
        let credentials =
            aws_sdk_sts::config::Credentials::new("test", "test", None, None, "tests");
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(endpoint)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .load()
            .await
    }

    async fn session(&self) -> Session {
        Session::with(self.config().await, None).await
    }

    fn pid(&self) -> i64 {
        match self {
            Self::MiniStack(emulator) => emulator.process().pid.into(),
            Self::Moto { child, .. } => child.id().into(),
        }
    }
}

fn installed_moto() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    cache.join("porter/venv-moto/bin/moto_server")
}

fn put() -> Put<'static> {
    Put {
        content_type: "application/json",
        kms_key: None,
    }
}

fn map(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn swap_id(id: &str) -> BTreeMap<String, ParameterValue> {
    [(
        "PorterSwapId".to_owned(),
        ParameterValue::New(id.to_owned()),
    )]
    .into()
}

/// What porter's own template comes down to: the desired state in metadata, a group, the queue.
fn template() -> serde_json::Value {
    serde_json::json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Parameters": {"PorterSwapId": {"Type": "String"}},
        "Resources": {
            "PorterSignalQueue": {"Type": "AWS::SQS::Queue", "Properties": {"MessageRetentionPeriod": 14400, "VisibilityTimeout": 5}},
            "LaunchTemplate": {
                "Type": "AWS::EC2::LaunchTemplate",
                "Metadata": {"Porter": {"swap": {"Ref": "PorterSwapId"}, "stack": {"Ref": "AWS::StackId"}}},
                "Properties": {"LaunchTemplateData": {"InstanceType": "t3.micro", "ImageId": "ami-12345678"}}
            },
            "AutoScalingGroup": {
                "Type": "AWS::AutoScaling::AutoScalingGroup",
                "Properties": {
                    "MinSize": "1", "MaxSize": "4", "DesiredCapacity": "2",
                    "AvailabilityZones": ["us-east-1a"],
                    "LaunchTemplate": {
                        "LaunchTemplateId": {"Ref": "LaunchTemplate"},
                        "Version": {"Fn::GetAtt": ["LaunchTemplate", "LatestVersionNumber"]}
                    },
                    "Tags": [{"Key": "porter-host-protocol", "Value": "1", "PropagateAtLaunch": false}]
                }
            }
        }
    })
}

fn times() -> Times {
    Times {
        timeout: Duration::from_secs(60),
        poll: Duration::from_millis(100),
        on_failure: OnFailure::Delete,
    }
}

async fn bucket(emulator: &Emulator) {
    let config = aws_sdk_s3::config::Builder::from(&emulator.config().await)
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
        .create_bucket()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
}

async fn upload(aws: &Session, template: &serde_json::Value) -> String {
    let key = format!("porter-template/{}", ulid_like(template));
    aws.s3()
        .put_bytes(BUCKET, &key, serde_json::to_vec(template).unwrap(), &put())
        .await
        .unwrap();
    aws.s3().url(BUCKET, &key)
}

fn ulid_like(template: &serde_json::Value) -> String {
    use sha2::Digest as _;
    hex::encode(&sha2::Sha256::digest(template.to_string())[..8])
}

fn stack_tags() -> BTreeMap<String, String> {
    map(&[
        (names::tag::SERVICE, "hello"),
        (names::tag::ENVIRONMENT, "stage"),
    ])
}

async fn create(aws: &Session, name: &str, template: &serde_json::Value) -> String {
    let url = upload(aws, template).await;
    let (parameters, tags) = (swap_id("01JA"), stack_tags());
    let request = Request {
        template_url: &url,
        parameters: &parameters,
        tags: &tags,
        token: "01JA",
    };
    aws.cloudformation()
        .create(name, &request, OnFailure::Delete, Duration::from_secs(900))
        .await
        .unwrap()
}

#[tokio::test]
async fn objects_of_any_size_arrive_whole_and_missing_ones_are_told_from_present_ones() {
    let emulator = Emulator::ministack().await;
    bucket(&emulator).await;
    let aws = emulator.session().await;
    let (s3, files) = (aws.s3(), tempfile::tempdir().unwrap());
    assert_eq!(s3.head(BUCKET, "absent").await.unwrap(), None); // D-PAY-3

    // Below the first storage class, below one part, and three parts of which the last one is short.
    for (name, size) in [
        ("small", 1_000usize),
        ("middle", 300_000),
        ("large", 20_000_001),
    ] {
        let from = files.path().join(name);
        let bytes: Vec<u8> = (0..size).map(|i| (i / 251) as u8).collect();
        std::fs::write(&from, &bytes).unwrap();
        let sent = std::sync::atomic::AtomicU64::new(0);
        let count = |n| {
            sent.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        };
        s3.put_file(BUCKET, name, &from, &put(), count)
            .await
            .unwrap();
        assert_eq!(sent.into_inner(), size as u64, "every byte is counted once");
        let head = s3.head(BUCKET, name).await.unwrap().unwrap();
        assert_eq!(
            (head.size, head.content_type.as_deref()),
            (size as u64, Some("application/json"))
        );
        // D-PAY-2, D-PAY-15
        let class = head.storage_class.as_deref().unwrap_or("STANDARD");
        assert_eq!(
            class,
            if name == "small" {
                "STANDARD"
            } else {
                "STANDARD_IA"
            },
            "{name}"
        );
        let to = files.path().join("back");
        assert_eq!(
            s3.get_to_file(BUCKET, name, &to).await.unwrap(),
            size as u64
        );
        assert_eq!(std::fs::read(&to).unwrap(), bytes, "{name}");
    }

    let error = s3
        .get_to_file(BUCKET, "absent", &files.path().join("x"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (aws::Kind::NotFound, Some("NoSuchKey"))
    );
    let error = s3
        .put_file(BUCKET, "k", &files.path().join("no-file"), &put(), |_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no-file"), "{error}");
}

#[tokio::test]
async fn d_cli_49_a_role_is_assumed_before_any_other_call() {
    let emulator = Emulator::ministack().await;
    let name = aws::session_name("hello", "stage", "4711");
    let role = Role {
        arn: "arn:aws:iam::123456789012:role/deployer",
        external_id: Some("x-1"),
        session_name: &name,
    };
    let aws = Session::with(emulator.config().await, Some(&role)).await;
    let identity = aws.sts().whoami().await.unwrap();
    // D-CLI-49, D-CLI-50
    assert!(
        identity.arn.contains("deployer") && identity.arn.contains("hello-stage-4711"),
        "{}",
        identity.arn
    );
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named_with_what_to_check() {
    // One that nobody is given by chance.
    let port = 1;
    let credentials = aws_sdk_sts::config::Credentials::new("test", "test", None, None, "tests");
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        .load()
        .await;
    let error = Session::with(config, None)
        .await
        .sts()
        .whoami()
        .await
        .unwrap_err();
    assert!(
        error.is_transient()
            && error
                .to_string()
                .contains("STS GetCallerIdentity in us-east-1"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("AWS_ENDPOINT_URL"));
}

#[tokio::test]
async fn stacks_are_created_updated_inspected_and_deleted_with_their_events() {
    let emulator = Emulator::ministack().await;
    bucket(&emulator).await;
    let aws = emulator.session().await;
    let cloudformation = aws.cloudformation();
    assert_eq!(
        cloudformation.stack("hello-stage-ci-1").await.unwrap(),
        None
    );

    let id = create(&aws, "hello-stage-ci-1", &template()).await;
    let mut events = vec![];
    let cancel = CancellationToken::new();
    let stack = update::follow(
        &cloudformation,
        &id,
        Operation::Create,
        &times(),
        &cancel,
        |e| {
            events.push((e.logical_id.clone(), e.status.clone()));
        },
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(
        (stack.status.as_str(), stack.id == id),
        ("CREATE_COMPLETE", true)
    );
    for resource in [
        "PorterSignalQueue",
        "LaunchTemplate",
        "AutoScalingGroup",
        "hello-stage-ci-1",
    ] {
        let told = events
            .iter()
            .filter(|e| **e == (resource.to_owned(), "CREATE_COMPLETE".to_owned()))
            .count();
        assert_eq!(told, 1, "{resource} in {events:?}");
    }

    // D-PROV-3: by tags, and by nothing else.
    let mine = cloudformation.stacks_of("hello", "stage").await.unwrap();
    assert_eq!(mine.iter().map(|s| &s.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(cloudformation.stacks_of("hello", "prod").await.unwrap(), []);

    let url = upload(&aws, &template()).await;
    let (same, none) = (swap_id("01JA"), BTreeMap::new());
    let request = Request {
        template_url: &url,
        parameters: &same,
        tags: &none,
        token: "01JA",
    };
    assert_eq!(
        cloudformation.update(&id, &request).await.unwrap(),
        UpdateOutcome::NoUpdates
    ); // D-HOT-22

    // D-HOT-20: what a swap changes is the launch template's metadata and nothing that replaces it.
    let next = swap_id("01JB");
    let request = Request {
        parameters: &next,
        token: "01JB",
        ..request
    };
    // MiniStack compares metadata before it resolves references, so the change is made visible in the text as well.
    let mut visible = template();
    visible["Resources"]["LaunchTemplate"]["Metadata"]["Porter"]["generation"] = "2".into();
    visible["Resources"]["AutoScalingGroup"]["Properties"]["DesiredCapacity"] = "3".into();
    let other = upload(&aws, &visible).await;
    let inspected = Request {
        template_url: &other,
        ..request.clone()
    };
    let change_set = cloudformation
        .create_change_set(&id, "swap-01JB", &inspected)
        .await
        .unwrap();
    let changes = loop {
        match cloudformation.change_set(&change_set).await.unwrap() {
            ChangeSet::Pending => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other,
        }
    };
    let ChangeSet::Ready(changes) = changes else {
        panic!("{changes:?}")
    };
    let changed: Vec<_> = changes
        .iter()
        .map(|c| (c.logical_id.as_str(), c.action.as_str()))
        .collect();
    assert_eq!(
        changed,
        [("AutoScalingGroup", "Modify"), ("LaunchTemplate", "Modify")]
    );
    assert_eq!(
        (changes[1].scope.as_slice(), changes[1].replacement.as_str()),
        (&["Metadata".to_owned()][..], "False")
    );
    let properties = [
        ("DesiredCapacity".to_owned(), false),
        ("LaunchTemplate".to_owned(), true),
    ];
    assert_eq!(
        changes[0].properties, properties,
        "the group's reference to the version is only known later"
    );
    cloudformation.delete_change_set(&change_set).await.unwrap();

    assert_eq!(
        cloudformation.update(&id, &request).await.unwrap(),
        UpdateOutcome::Started
    );
    let before = stack.updated;
    let stack = update::follow(
        &cloudformation,
        &id,
        Operation::Update,
        &times(),
        &cancel,
        |_| (),
    )
    .await
    .unwrap();
    let stack = stack.unwrap();
    assert_ne!(
        stack.updated, before,
        "the time of the last update tells a fresh reading from a stale one"
    );
    let metadata = cloudformation
        .metadata(&id, names::LAUNCH_TEMPLATE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        metadata["Porter"],
        serde_json::json!({"swap": "01JB", "stack": id})
    );

    let group = cloudformation
        .physical_id(&id, names::AUTO_SCALING_GROUP)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        cloudformation
            .physical_id(&id, "NoSuchResource")
            .await
            .unwrap(),
        None
    );
    let autoscaling = aws.autoscaling();
    autoscaling.set_desired(&group, 3).await.unwrap();
    let read = autoscaling.group(&group).await.unwrap().unwrap();
    assert_eq!(
        (read.sizes, read.in_service().count()),
        (
            Sizes {
                min: 1,
                max: 4,
                desired: 3
            },
            3
        )
    );
    assert_eq!(
        read.tags.get("porter-host-protocol").map(String::as_str),
        Some("1")
    );
    assert_eq!(autoscaling.group("no-such-group").await.unwrap(), None);
    // MiniStack does not know it, and says so in a way that can be told from a refusal.
    assert!(
        autoscaling
            .suspend(&group, Timestamp::now())
            .await
            .unwrap_err()
            .is_unsupported()
    );

    cloudformation.delete(&id).await.unwrap();
    update::follow(
        &cloudformation,
        &id,
        Operation::Delete,
        &times(),
        &cancel,
        |_| (),
    )
    .await
    .unwrap();
    cloudformation.delete("no-such-stack").await.unwrap();
}

#[tokio::test]
async fn d_prov_7_a_stack_that_can_not_be_created_ends_with_the_resource_and_the_reason() {
    let emulator = Emulator::ministack().await;
    bucket(&emulator).await;
    let aws = emulator.session().await;
    let mut broken = template();
    broken["Resources"]["Ready"] = serde_json::json!({
        "Type": "AWS::CloudFormation::WaitCondition",
        "Properties": {"Handle": {"Ref": "Handle"}, "Timeout": "1", "Count": 1}
    });
    broken["Resources"]["Handle"] =
        serde_json::json!({"Type": "AWS::CloudFormation::WaitConditionHandle"});
    let id = create(&aws, "hello-stage-ci-2", &broken).await;
    let result = update::follow(
        &aws.cloudformation(),
        &id,
        Operation::Create,
        &times(),
        &CancellationToken::new(),
        |_| (),
    )
    .await;
    let Err(FollowError::Failed { resources, .. }) = &result else {
        panic!("D-PROV-7: {result:?}")
    };
    assert_eq!(resources[0].logical_id, "Ready"); // D-PROV-7
    assert!(!resources[0].reason.is_empty());
}

#[tokio::test]
async fn d_prom_4_the_target_group_tells_which_stack_is_promoted() {
    let emulator = Emulator::ministack().await;
    let aws = emulator.session().await;
    let client = aws_sdk_elasticloadbalancingv2::Client::new(&emulator.config().await);
    let made = client
        .create_target_group()
        .name("front")
        .protocol(aws_sdk_elasticloadbalancingv2::types::ProtocolEnum::Http)
        .port(80)
        .vpc_id("vpc-12345678")
        .send()
        .await
        .unwrap();
    let arn = made.target_groups()[0].target_group_arn().unwrap();
    let elb = aws.elbv2();
    let group = elb.target_group(arn).await.unwrap().unwrap();
    assert_eq!(
        (group.name.as_str(), group.vpc.as_deref()),
        ("front", Some("vpc-12345678"))
    );
    assert_eq!(elb.tags(arn).await.unwrap(), BTreeMap::new());
    let promoted = map(&[
        (names::tag::PROMOTED_STACK, "arn:stack/1"),
        (names::tag::PORTER_VERSION, "v6"),
    ]);
    elb.set_tags(arn, &promoted).await.unwrap();
    assert_eq!(elb.tags(arn).await.unwrap(), promoted); // D-PROM-4, D-PROM-11

    let target = aws_sdk_elasticloadbalancingv2::types::TargetDescription::builder()
        .id("i-1")
        .build();
    client
        .register_targets()
        .target_group_arn(arn)
        .targets(target)
        .send()
        .await
        .unwrap();
    let targets = elb.targets(arn).await.unwrap();
    assert_eq!(
        targets
            .iter()
            .map(|t| t.instance.as_str())
            .collect::<Vec<_>>(),
        ["i-1"]
    );
    assert_eq!(
        elb.load_balancers(&[]).await.unwrap().security_groups,
        Vec::<String>::new()
    );
    let absent = arn.replace("front", "back");
    assert_eq!(elb.target_group(&absent).await.unwrap(), None);
}

#[tokio::test]
async fn d_prom_4_so_does_a_classic_load_balancer() {
    let emulator = Emulator::moto().await;
    let aws = emulator.session().await;
    let client = aws_sdk_elasticloadbalancing::Client::new(&emulator.config().await);
    let listener = aws_sdk_elasticloadbalancing::types::Listener::builder()
        .protocol("http")
        .load_balancer_port(80)
        .instance_port(80)
        .build()
        .unwrap();
    client
        .create_load_balancer()
        .load_balancer_name("front")
        .listeners(listener)
        .availability_zones("us-east-1a")
        .send()
        .await
        .unwrap();
    let elb = aws.elb();
    assert_eq!(elb.describe("front").await.unwrap().unwrap().name, "front");
    assert_eq!(elb.describe("back").await.unwrap(), None);
    let promoted = map(&[
        (names::tag::PROMOTED_STACK, "arn:stack/1"),
        (names::tag::PORTER_VERSION, "v6"),
    ]);
    elb.set_tags("front", &promoted).await.unwrap();
    assert_eq!(elb.tags("front").await.unwrap(), promoted); // D-PROM-4, D-HOT-6

    // moto's instances come from a group, and are registered by it.
    let scaling = aws_sdk_autoscaling::Client::new(&emulator.config().await);
    let launch = scaling
        .create_launch_configuration()
        .launch_configuration_name("hosts");
    launch
        .image_id("ami-12c6146b")
        .instance_type("t3.micro")
        .send()
        .await
        .unwrap();
    scaling
        .create_auto_scaling_group()
        .auto_scaling_group_name("hosts")
        .launch_configuration_name("hosts")
        .min_size(2)
        .max_size(2)
        .availability_zones("us-east-1a")
        .load_balancer_names("front")
        .send()
        .await
        .unwrap();
    let mut in_service = elb.in_service("front").await.unwrap();
    in_service.sort();
    let group = aws.autoscaling().group("hosts").await.unwrap().unwrap();
    assert_eq!(
        in_service,
        group
            .membership()
            .in_service
            .into_iter()
            .collect::<Vec<_>>()
    ); // D-HOT-77
    assert_eq!(in_service.len(), 2);

    // D-HOT-39: suspended and resumed, by moto, which knows these calls.
    let autoscaling = aws.autoscaling();
    let group = async || autoscaling.group("hosts").await.unwrap().unwrap();
    assert!(group().await.may_be_suspended());
    autoscaling
        .suspend("hosts", Timestamp::now())
        .await
        .unwrap();
    let mut left = group().await;
    left.suspended.sort();
    assert_eq!(
        left.suspended,
        ["AZRebalance", "AlarmNotification", "ScheduledActions"]
    );
    // A run that was killed here leaves its mark: the next one takes the suspension over, and ends it.
    assert!(left.may_be_suspended());
    autoscaling
        .suspend("hosts", Timestamp::now())
        .await
        .unwrap();
    autoscaling.resume("hosts").await.unwrap();
    let after = group().await;
    assert_eq!(after.suspended, Vec::<String>::new());
    assert!(
        !after
            .tags
            .contains_key(contract::names::tag::SCALING_SUSPENDED)
    );
    // What an operator suspended has no mark, and stays as it is.
    left.tags.clear();
    assert!(!left.may_be_suspended());
    assert_eq!(
        elb.tags("back").await.unwrap_err().kind,
        aws::Kind::NotFound
    );
}

/// The decision of the program itself, behind a classic load balancer: moto has those, and needs no hosts for it.
#[tokio::test]
async fn d_hot_6_a_plan_finds_the_stack_that_a_classic_load_balancer_names() {
    let emulator = Emulator::moto().await;
    bucket(&emulator).await;
    let aws = emulator.session().await;
    let listener = aws_sdk_elasticloadbalancing::types::Listener::builder()
        .protocol("http")
        .load_balancer_port(80)
        .instance_port(80)
        .build()
        .unwrap();
    aws_sdk_elasticloadbalancing::Client::new(&emulator.config().await)
        .create_load_balancer()
        .load_balancer_name("front")
        .listeners(listener)
        .availability_zones("us-east-1a")
        .send()
        .await
        .unwrap();
    let mut template = template();
    template["Resources"]["AutoScalingGroup"]["Properties"]["LoadBalancerNames"] =
        serde_json::json!(["front"]);
    let tag = |(k, v): (&str, &str)| {
        aws_sdk_cloudformation::types::Tag::builder()
            .key(k)
            .value(v)
            .build()
    };
    // Moto takes no template from an address of its own.
    let stack = aws_sdk_cloudformation::Client::new(&emulator.config().await)
        .create_stack()
        .stack_name("hello-stage")
        .template_body(template.to_string())
        .parameters(
            aws_sdk_cloudformation::types::Parameter::builder()
                .parameter_key("PorterSwapId")
                .parameter_value("01JA")
                .build(),
        )
        .tags(tag((names::tag::SERVICE, "hello")))
        .tags(tag((names::tag::ENVIRONMENT, "stage")))
        .send()
        .await
        .unwrap()
        .stack_id
        .unwrap();

    let repository = support::repository(&[
        ("Dockerfile", b"FROM scratch\nCOPY Dockerfile /x\nEXPOSE 8080\nENTRYPOINT [\"/x\"]\n"),
        (".gitignore", b".porter-tmp/\n"),
        (
            ".porter/config",
            b"service_name: hello\nporter_version: v0.1.0\nenvironments:\n- name: stage\n  instance_count: 2\n  \
              role_arn: arn:aws:iam::123456789012:role/deployer\n  hot_swap: {enabled: true}\n  regions:\n  \
              - name: us-east-1\n    s3_bucket: porter-adapters\n    elb: front\n    azs: [{name: us-east-1a}]\n    \
              containers:\n    - {name: web, topology: inet}\n",
        ),
    ]);
    let porter = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_porter"));
        command
            .args(args)
            .args(["--output", "json"])
            .current_dir(repository.path())
            .env("AWS_ENDPOINT_URL", emulator.endpoint())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    porter(&["build", "pack"]).await;
    let plan = async || porter(&["hotswap", "plan", "-e", "stage"]).await;
    assert_eq!(plan().await["decision"]["decision"], "provision"); // D-HOT-6: nothing is promoted yet.

    let promoted = map(&[
        (names::tag::PROMOTED_STACK, stack.as_str()),
        (names::tag::HOST_PROTOCOL, "1"),
    ]);
    aws.elb().set_tags("front", &promoted).await.unwrap();
    let plan = plan().await;
    // D-HOT-6, D-HOT-8, D-HOT-16
    assert_eq!(plan["decision"]["decision"], "hot_swap", "{plan}");
    assert_eq!(
        plan["decision"]["targets"][0]["stack"],
        stack.as_str(),
        "{plan}"
    );
    assert_eq!(
        plan["regions"][0]["sizes"]["promoted"]["desired"], 2,
        "{plan}"
    );
}

/// Stops the emulator for a while: requests are accepted and not answered, which is worse than being refused.
fn pause(emulator: &Emulator, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &emulator.pid().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// A stack with two hosts whose update to the swap `01JB` has been started.
struct Swap {
    emulator: Emulator,
    aws: Session,
    region: signals::Region,
    hosts: Vec<String>,
    before: Option<Timestamp>,
}

fn wanted() -> Digest {
    Digest::from_bytes(&[7; 32])
}

impl Swap {
    async fn start() -> Self {
        let emulator = Emulator::ministack().await;
        bucket(&emulator).await;
        let aws = emulator.session().await;
        let cloudformation = aws.cloudformation();
        let id = create(&aws, "hello-stage-ci-3", &template()).await;
        let cancel = CancellationToken::new();
        let stack = update::follow(
            &cloudformation,
            &id,
            Operation::Create,
            &times(),
            &cancel,
            |_| (),
        )
        .await
        .unwrap();
        let group = cloudformation
            .physical_id(&id, names::AUTO_SCALING_GROUP)
            .await
            .unwrap()
            .unwrap();
        aws.autoscaling().set_desired(&group, 2).await.unwrap();
        let hosts = aws
            .autoscaling()
            .group(&group)
            .await
            .unwrap()
            .unwrap()
            .membership()
            .in_service;
        let queue = cloudformation
            .physical_id(&id, names::SIGNAL_QUEUE)
            .await
            .unwrap()
            .unwrap();
        let url = upload(&aws, &template()).await;
        let (next, none) = (swap_id("01JB"), BTreeMap::new());
        let request = Request {
            template_url: &url,
            parameters: &next,
            tags: &none,
            token: "01JB",
        };
        assert_eq!(
            cloudformation.update(&id, &request).await.unwrap(),
            UpdateOutcome::Started
        );
        let region = signals::Region {
            sqs: aws.sqs(),
            autoscaling: aws.autoscaling(),
            cloudformation,
            queue,
            group,
            stack: id,
        };
        let before = stack.unwrap().updated;
        Self {
            emulator,
            aws,
            region,
            hosts: hosts.into_iter().collect(),
            before,
        }
    }

    async fn say(&self, host: &str, seq: u64, kind: Kind) {
        let signal = HostSignal {
            v: contract::signal::FORMAT,
            swap: "01JB".into(),
            epoch: 0,
            seq,
            stack: self.region.stack.clone(),
            region: REGION.into(),
            instance: host.into(),
            at: Timestamp::now(),
            kind,
            from: None,
            to: wanted(),
            serving: (kind == Kind::Success).then(wanted),
            step: Step::Health,
            detail: None,
            cause: None,
            ms: BTreeMap::new(),
            bytes: 0,
            drain: Drain::default(),
            handover: None,
            warnings: vec![],
        };
        self.aws
            .sqs()
            .send(&self.region.queue, &signal.to_body())
            .await
            .unwrap();
    }

    async fn watch(&self, seconds: i64, pace: Pace) -> Watch {
        let now = Timestamp::now();
        let group = self
            .aws
            .autoscaling()
            .group(&self.region.group)
            .await
            .unwrap()
            .unwrap();
        let tally = Tally::new("01JB", wanted(), &group.membership(), now);
        Watch::new(
            tally,
            Mark::Started {
                before: self.before,
            },
            now + SignedDuration::from_secs(seconds),
            pace,
            now,
        )
    }
}

#[tokio::test]
async fn d_hot_29_every_hosts_success_ends_the_wait_and_every_message_is_recorded_then_deleted() {
    let swap = Swap::start().await;
    swap.aws
        .sqs()
        .send(&swap.region.queue, "success")
        .await
        .unwrap();
    for host in &swap.hosts {
        swap.say(host, 1, Kind::Progress).await;
        swap.say(host, 2, Kind::Success).await;
        swap.say(host, 2, Kind::Success).await;
    }
    let mut recorded = vec![];
    let mut seen = vec![];
    let watch = swap.watch(60, Pace::default()).await;
    let outcome = signals::wait(
        &swap.region,
        watch,
        &CancellationToken::new(),
        |message| {
            recorded.push(message.observation.clone());
            Ok(())
        },
        |tally| seen.push(tally.count()),
    )
    .await;
    let End::Ended(Ended::Succeeded { verified }) = &outcome.end else {
        panic!("{:?}", outcome.end)
    };
    assert_eq!(*verified, swap.hosts); // D-HOT-29, D-HOT-36
    assert_eq!((seen[0], *seen.last().unwrap()), ((0, 2), (2, 2)));
    // D-HOT-32: recorded, and gone from the queue.
    assert_eq!(
        recorded
            .iter()
            .filter(|o| matches!(o, Observation::Foreign { .. }))
            .count(),
        1
    );
    let left = swap
        .aws
        .sqs()
        .receive(&swap.region.queue, Duration::ZERO)
        .await
        .unwrap();
    let at_most_repeats = recorded.len() + left.len() == 7;
    assert!(at_most_repeats, "{recorded:?} {left:?}");
}

#[tokio::test]
async fn d_hot_42_a_failing_host_ends_the_wait_within_seconds() {
    let swap = Swap::start().await;
    swap.say(&swap.hosts[1], 1, Kind::Failed).await;
    let begun = Instant::now();
    let watch = swap.watch(60, Pace::default()).await;
    let outcome = signals::wait(
        &swap.region,
        watch,
        &CancellationToken::new(),
        |_| Ok(()),
        |_| (),
    )
    .await;
    let End::Ended(Ended::HostsFailed(Verdict::Failed { hosts })) = &outcome.end else {
        panic!("{:?}", outcome.end)
    };
    assert_eq!(hosts[0].instance, swap.hosts[1]); // D-HOT-42
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "the issue allows 5 s, it took {:?}",
        begun.elapsed()
    );
    assert_eq!(
        outcome
            .tally
            .hosts()
            .iter()
            .map(|h| h.phase)
            .collect::<Vec<_>>(),
        [Phase::Silent, Phase::Failed]
    );
}

#[tokio::test]
async fn d_hot_28_a_deadline_an_interrupt_and_a_journal_that_fails_each_end_the_wait_by_their_name()
{
    let swap = Swap::start().await;
    let never = CancellationToken::new();
    let watch = swap.watch(2, Pace::default()).await;
    let outcome = signals::wait(&swap.region, watch, &never, |_| Ok(()), |_| ()).await;
    assert!(
        matches!(outcome.end, End::Ended(Ended::DeadlinePassed(_))),
        "D-HOT-28: {:?}",
        outcome.end
    );

    let cancel = CancellationToken::new();
    let watch = swap.watch(60, Pace::default()).await;
    let stop = cancel.clone();
    let outcome = signals::wait(
        &swap.region,
        watch,
        &cancel,
        |_| Ok(()),
        move |_| stop.cancel(),
    )
    .await;
    assert!(matches!(outcome.end, End::Interrupted), "{:?}", outcome.end);

    swap.say(&swap.hosts[0], 1, Kind::Success).await;
    let watch = swap.watch(60, Pace::default()).await;
    let full = |_: &signals::Received<'_>| Err(std::io::Error::other("disk full"));
    let outcome = signals::wait(&swap.region, watch, &never, full, |_| ()).await;
    assert!(
        matches!(&outcome.end, End::NotRecorded(e) if e.to_string() == "disk full"),
        "{:?}",
        outcome.end
    );
}

#[tokio::test]
async fn d_hot_35_a_terminated_host_is_noticed_during_the_wait() {
    let swap = Swap::start().await;
    swap.say(&swap.hosts[0], 1, Kind::Success).await;
    let pace = Pace {
        group: Duration::from_millis(300),
        ..Pace::default()
    };
    let watch = swap.watch(60, pace).await;
    swap.aws
        .autoscaling()
        .set_desired(&swap.region.group, 1)
        .await
        .unwrap();
    let stayed = swap
        .aws
        .autoscaling()
        .group(&swap.region.group)
        .await
        .unwrap()
        .unwrap()
        .membership()
        .in_service;
    swap.say(stayed.first().unwrap(), 2, Kind::Success).await;
    let outcome = signals::wait(
        &swap.region,
        watch,
        &CancellationToken::new(),
        |_| Ok(()),
        |_| (),
    )
    .await;
    let End::Ended(Ended::Succeeded { verified }) = &outcome.end else {
        panic!("{:?}", outcome.end)
    };
    assert_eq!(*verified, stayed.into_iter().collect::<Vec<_>>()); // D-HOT-35
    let left = outcome
        .tally
        .hosts()
        .iter()
        .filter(|h| h.phase == Phase::Left)
        .count();
    assert_eq!(left, 1, "D-HOT-35: who left is reported");
}

#[tokio::test]
async fn d_hot_37_a_stack_that_goes_away_ends_the_wait() {
    let swap = Swap::start().await;
    let watch = swap
        .watch(
            60,
            Pace {
                stack: Duration::from_millis(200),
                ..Pace::default()
            },
        )
        .await;
    swap.region
        .cloudformation
        .delete(&swap.region.stack)
        .await
        .unwrap();
    let outcome = signals::wait(
        &swap.region,
        watch,
        &CancellationToken::new(),
        |_| Ok(()),
        |_| (),
    )
    .await;
    let End::Ended(Ended::StackFailed { status }) = &outcome.end else {
        panic!("{:?}", outcome.end)
    };
    assert!(
        status.as_str().starts_with("DELETE_"),
        "D-HOT-37: {}",
        StackStatus::as_str(status)
    );
}

#[tokio::test]
async fn d_hot_33_a_queue_that_does_not_answer_for_a_while_delays_the_wait_and_does_not_end_it() {
    let swap = Swap::start().await;
    for host in &swap.hosts {
        swap.say(host, 1, Kind::Success).await;
    }
    let watch = swap.watch(90, Pace::default()).await;
    pause(&swap.emulator, "-STOP");
    let silence = async {
        // Long enough for a receive to be given up.
        tokio::time::sleep(Duration::from_secs(7)).await;
        pause(&swap.emulator, "-CONT");
    };
    let never = CancellationToken::new();
    let (outcome, ()) = tokio::join!(
        signals::wait(&swap.region, watch, &never, |_| Ok(()), |_| ()),
        silence
    );
    assert!(
        matches!(outcome.end, End::Ended(Ended::Succeeded { .. })),
        "D-HOT-33: {:?}",
        outcome.end
    );
}

#[tokio::test]
async fn d_hot_28_the_deadline_holds_even_when_nothing_answers() {
    let swap = Swap::start().await;
    let watch = swap.watch(3, Pace::default()).await;
    pause(&swap.emulator, "-STOP");
    let begun = Instant::now();
    let outcome = signals::wait(
        &swap.region,
        watch,
        &CancellationToken::new(),
        |_| Ok(()),
        |_| (),
    )
    .await;
    assert!(
        matches!(outcome.end, End::Ended(Ended::DeadlinePassed(_))),
        "D-HOT-28: {:?}",
        outcome.end
    );
    assert!(
        outcome.trouble.is_some(),
        "what kept it from hearing anything is told"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    pause(&swap.emulator, "-CONT");
}
