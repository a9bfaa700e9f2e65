//! Rules, defaults and messages that need more than one example.

use super::{Level, file, first_region, parse_text};
use crate::config::show::{Origin, check, view};
use crate::config::{
    BlackoutWindow, Config, ConfigError, ConfigErrors, HotSwap, Kind, LoadBalancer, OnIneligible,
    OnTemplateDrift, RunCondition, load, parse,
};
use contract::spec::{OnDrainTimeout, SwapOrder, Topology};
use proptest::prelude::*;
use std::time::Duration;

const MINIMAL: &str = "service_name: hello\nporter_version: v0.1.0\nenvironments:\n- name: stage\n  role_arn: arn:aws:iam::123456789012:role/porter\n  \
                       regions:\n  - {name: us-east-1, s3_bucket: deploy, azs: [{name: us-east-1a}]}\n";

/// porter's sample project, with comments left out and its `TODO`s replaced by ids.
const PORTER_SAMPLE: &str = "\
service_name: sample-service

porter_version: v4.1.1

_container_base_inet: &CONTAINER_BASE_INET
  name: inet
  topology: inet

environments:
- name: dev
  role_arn: arn:aws:iam::123456789012:role/porter-deployment
  regions:
  - name: us-west-2

    containers:
    - <<: *CONTAINER_BASE_INET

    vpc_id: vpc-0a1b2c3d
    azs:
    - {name: us-west-2a, subnet_id: subnet-0a1b2c3d}
    s3_bucket: my-deployments
    elb: my-elb
";

/// The complete sample of `docs/configuration.md`.
fn documented() -> &'static str {
    let document = include_str!("../../../docs/configuration.md");
    let sample = document
        .split("<!-- complete -->")
        .nth(1)
        .and_then(|rest| rest.split("```yaml\n").nth(1));
    sample
        .and_then(|rest| rest.split("```").next())
        .expect("the document has a complete sample")
}

fn refused(text: &str) -> ConfigErrors {
    match parse_text(text) {
        Err(errors) => errors,
        Ok(_) => panic!("should be refused:\n{text}"),
    }
}

#[test]
fn d_cfg_3_all_mistakes_of_a_file_are_reported_at_once_with_path_line_and_suggestion() {
    let text = "\
service_name: 2nd
porter_version: v0.1.0
onwer: me
_base: &base
  topolgy: inet
environments:
- name: stage
  hot_swap: {mode: coordinated, max_age: 200h}
  instance_count: '3'
  regions:
  - name: us-east-1
    s3_bucket: deploy
    s3_bucket: again
    elbb: web
    azs:
    - {name: us-east-1a, subnet_id: subnet-0a1b2c3d}
    containers:
    - <<: *base
      name: web
      inet_port: http
      health_check: {intervall: 5s}
  - name: us-east-1
    role_arn: porter
    containers:
    - <<: *base
      name: web
hooks:
  pre_pack:
  - {repo: https://git.example/x.git, run_condition: always}
";
    let errors = refused(text);
    insta::assert_snapshot!("several_errors", errors.to_string()); // D-CFG-3, D-CFG-4
    insta::assert_json_snapshot!("several_errors_json", &errors.errors()[..2]);
}

#[test]
fn d_cfg_2_a_file_that_is_not_yaml_is_one_error_with_its_position() {
    let errors = refused("service_name: [a\nporter_version: v1.0.0\n");
    assert_eq!(errors.errors().len(), 1, "{errors}"); // D-CFG-2
    assert!(
        errors.to_string().starts_with(".porter/config:2:"),
        "{errors}"
    );
    for (text, message) in [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "expected a map, found a list"),
    ] {
        assert!(refused(text).to_string().contains(message), "{text:?}");
    }
}

#[test]
fn d_cfg_1_a_missing_file_and_one_that_is_not_text_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let message = |path| load(path, &|_| None).unwrap_err().to_string();
    assert!(message(&path).contains("run porter in the root of the repository")); // D-CFG-1
    std::fs::write(&path, b"service_name: a\nx: \xff\n").unwrap();
    assert!(
        message(&path).ends_with("config:2:4: not UTF-8"),
        "{}",
        message(&path)
    );
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(load(&path, &|_| None).unwrap().config.service_name, "hello");
}

#[test]
fn d_cfg_4_free_keys_hold_anchors_and_are_ignored_at_the_top_only() {
    assert!(parse_text(&format!("_any: {{a: [1]}}\nx-any: ~\n{MINIMAL}")).is_ok()); // D-CFG-4
    assert!(
        refused(&file(Level::Region, "_any: 1"))
            .to_string()
            .contains("regions[0]._any: unknown key")
    );
    assert!(
        refused(&format!("any: 1\n{MINIMAL}"))
            .to_string()
            .contains("any: unknown key")
    );
}

#[test]
fn d_cfg_5_the_region_beats_the_environment() {
    let text = "\
service_name: hello
porter_version: v0.1.0
environments:
- name: stage
  stack_definition_path: env.json
  role_arn: arn:aws:iam::123456789012:role/env
  external_id: env-id
  instance_count: 2
  stack_parameters: {A: env, B: env}
  regions:
  - name: us-east-1
    stack_definition_path: region.json
    role_arn: arn:aws:iam::123456789012:role/region
    instance_count: 5
    s3_bucket: deploy
    azs: [{name: us-east-1a}]
    stack_parameters: {B: region}
  - {name: eu-west-1, s3_bucket: deploy, azs: [{name: eu-west-1a}]}
";
    let config = parse_text(text).unwrap().config;
    let seen: Vec<_> = config.environments[0]
        .regions
        .iter()
        .map(|r| {
            let path = r
                .stack_definition_path
                .as_ref()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            (
                path,
                r.role_arn.clone().unwrap(),
                r.instance_count,
                r.external_id.clone().unwrap(),
            )
        })
        .collect();
    let expected = |from: &str, count| {
        (
            format!("{from}.json"),
            format!("arn:aws:iam::123456789012:role/{from}"),
            count,
            "env-id".to_owned(),
        )
    };
    assert_eq!(seen, [expected("region", 5), expected("env", 2)]); // D-CFG-5
    let parameters = &config.environments[0].regions[0].stack_parameters;
    assert_eq!(
        (parameters["A"].as_str(), parameters["B"].as_str()),
        ("env", "region")
    ); // D-CFG-119
}

#[test]
fn d_cfg_24_a_count_of_0_is_no_count() {
    let count = |region: u32, environment: u32| {
        let text = file(Level::Region, &format!("instance_count: {region}"));
        let environment = format!("name: stage\n  instance_count: {environment}");
        first_region(&text.replacen("name: stage", &environment, 1)).instance_count
    };
    assert_eq!(
        [count(0, 0), count(0, 3), count(2, 3), count(2, 0)],
        [1, 3, 2, 2]
    ); // D-CFG-24
}

#[test]
fn d_cfg_6_proxy_maps_merge_and_lists_replace() {
    let text = "\
service_name: hello
porter_version: v0.1.0
environments:
- name: stage
  role_arn: arn:aws:iam::123456789012:role/env
  instance_type: m7g.large
  ami: ami-0000000000000000a
  haproxy:
    log: false
    timeout: {client: 30s, http_request: 9s}
    request_header_captures: [{header: A, length: 1}, {header: B, length: 2}]
  regions:
  - name: us-east-1
    s3_bucket: deploy
    azs: [{name: us-east-1a}]
    instance_type: t3.small
    haproxy:
      maxconn: 5000
      timeout: {http_request: 2s}
      request_header_captures: [{header: C, length: 3}]
  - {name: eu-west-1, s3_bucket: deploy, azs: [{name: eu-west-1a}]}
";
    let config = parse_text(text).unwrap().config;
    let [own, inherited] = &config.environments[0].regions[..] else {
        panic!("two regions")
    };
    assert_eq!(
        (own.instance_type.as_str(), own.ami.as_str()),
        ("t3.small", "ami-0000000000000000a")
    ); // D-CFG-6
    assert_eq!(inherited.instance_type, "m7g.large");
    assert_eq!((own.haproxy.maxconn, own.haproxy.log), (5000, false));
    assert_eq!(own.haproxy.timeouts.client, Some(Duration::from_secs(30)));
    assert_eq!(
        own.haproxy.timeouts.http_request,
        Some(Duration::from_secs(2))
    );
    let headers: Vec<_> = own
        .haproxy
        .request_header_captures
        .iter()
        .map(|c| c.header.as_str())
        .collect();
    assert_eq!(headers, ["C"]);
    assert_eq!(
        (
            inherited.haproxy.maxconn,
            inherited.haproxy.request_header_captures.len()
        ),
        (200_000, 2)
    );
}

#[test]
fn d_cfg_11_interpolation_needs_the_opt_in_and_a_set_variable() {
    let text = file(
        Level::Region,
        "s3_bucket: \"${BUCKET}\"\ninstance_count: \"${COUNT}\"",
    );
    assert!(
        refused(&text)
            .to_string()
            .contains("`${BUCKET}` is not a bucket name")
    ); // D-CFG-11
    let env = |name: &str| match name {
        "BUCKET" => Some("from-environment".to_owned()),
        "COUNT" => Some("4".to_owned()),
        _ => None,
    };
    let opted = format!("x-interpolate: true\n{text}");
    let region = parse(&opted, "f", &env).unwrap().config.environments[0].regions[0].clone();
    assert_eq!(
        (region.s3_bucket.as_str(), region.instance_count),
        ("from-environment", 4)
    );
    let errors = refused(&opted).to_string();
    assert!(
        errors.contains("s3_bucket: the variable `BUCKET` is not set")
            && errors.contains("`COUNT` is not set"),
        "{errors}"
    );
}

#[test]
fn d_cfg_13_dev_mode_skips_the_check_of_the_version() {
    let text = MINIMAL.replace("v0.1.0", "local-build");
    let dev = |name: &str| (name == "DEV_MODE").then(|| "1".to_owned());
    assert_eq!(
        parse(&text, "f", &dev).unwrap().config.porter_version,
        "local-build"
    ); // D-CFG-13
    assert!(parse_text(&text).is_err());
}

#[test]
fn d_cfg_14_another_major_version_fails_and_another_minor_one_warns() {
    let check = |version: &str| {
        super::super::read(
            &MINIMAL.replace("v0.1.0", version),
            "f",
            &|_| None,
            Some("2.3.4"),
        )
    };
    assert!(check("v2.3.0").unwrap().warnings.is_empty()); // D-CFG-14
    assert_eq!(
        check("v2.1.0").unwrap().warnings,
        [
            "f:2:17: porter_version: the configuration is written for porter v2.1.0, this is porter v2.3.4"
        ]
    );
    assert!(
        check("v1.3.4")
            .unwrap_err()
            .to_string()
            .contains("written for porter v1.3.4, this is porter v2.3.4")
    );
}

#[test]
fn d_cfg_15_d_cfg_28_names_of_environments_and_regions_are_unique() {
    let environment = "- {name: a, role_arn: 'arn:aws:iam::123456789012:role/r', regions: [{name: us-east-1, s3_bucket: bkt, azs: [{name: z}]}]}\n";
    let two = format!(
        "service_name: h\nporter_version: v0.1.0\nenvironments:\n{environment}{environment}"
    );
    assert!(
        refused(&two)
            .to_string()
            .contains("environments[1].name: `a` is already used, on line 4")
    ); // D-CFG-15
    let region = "{name: us-east-1, s3_bucket: bkt, azs: [{name: z}]}";
    let two = file(
        Level::Environment,
        &format!("regions: [{region}, {region}]"),
    );
    assert!(
        refused(&two)
            .to_string()
            .contains("regions[1].name: `us-east-1` is already used")
    ); // D-CFG-28
}

#[test]
fn the_smallest_file_gets_every_documented_default() {
    let Config {
        owner,
        environments,
        hooks,
        ..
    } = parse_text(MINIMAL).unwrap().config;
    let environment = &environments[0];
    assert_eq!(owner, "ci"); // D-CFG-118
    assert!(hooks.is_empty()); // D-CFG-16
    assert_eq!(environment.keep_images, 1); // D-CFG-122
    assert!(environment.tags.is_empty() && environment.blackout_windows.is_empty()); // D-CFG-30, D-CFG-26
    assert!(!environment.hot_swap.enabled); // D-CFG-23
    let region = &environment.regions[0];
    assert_eq!(region.instance_count, 1); // D-CFG-24
    assert_eq!(region.instance_type, "t3.medium"); // D-CFG-25
    assert_eq!(
        region.ami,
        "ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    ); // D-CFG-29
    assert_eq!(
        (
            &region.vpc_id,
            &region.key_pair_name,
            &region.sse_kms_key_id
        ),
        (&None, &None, &None)
    ); // D-CFG-52, D-CFG-61, D-CFG-55
    assert_eq!(region.load_balancer, LoadBalancer::None); // D-CFG-56
    assert_eq!(
        (&region.ssl_cert_arn, &region.hosted_zone_name),
        (&None, &None)
    ); // D-CFG-59, D-CFG-60
    assert!(region.autowire_security_groups); // D-CFG-27
    assert_eq!(
        (&region.permissions_boundary, region.stack_parameters.len()),
        (&None, 0)
    ); // D-CFG-129, D-CFG-119

    let egress: Vec<_> = region
        .security_group_egress
        .iter()
        .map(|r| {
            (
                r.cidr_ip.as_deref().or(r.cidr_ipv6.as_deref()).unwrap(),
                r.ip_protocol.as_str(),
                r.from_port,
                r.to_port,
            )
        })
        .collect();
    let ports = [("udp", 53), ("udp", 123), ("tcp", 80), ("tcp", 443)];
    let expected = |range| ports.map(|(protocol, port)| (range, protocol, port, port));
    assert_eq!(egress[..4], expected("0.0.0.0/0")); // D-CFG-62
    assert_eq!(egress[4..], expected("::/0")); // D-CFG-63

    let proxy = &region.haproxy;
    assert!(proxy.request_header_captures.is_empty() && proxy.response_header_captures.is_empty()); // D-CFG-31, D-CFG-32
    assert_eq!(
        (proxy.log, proxy.compression, proxy.compress_types.len()),
        (true, false, 0)
    ); // D-CFG-33, D-CFG-34, D-CFG-35
    assert_eq!(proxy.timeouts, Default::default()); // D-CFG-36 to D-CFG-40: open, see D-HAP-4
    assert_eq!(
        (proxy.maxconn, proxy.https_only, proxy.https_redirect),
        (200_000, false, false)
    ); // D-CFG-41, D-CFG-45, D-CFG-47
    assert_eq!(
        (&proxy.stats_bind, proxy.behind_load_balancer),
        (&None, false)
    ); // D-CFG-48

    let [container] = &region.containers[..] else {
        panic!("one container")
    }; // D-CFG-66
    assert_eq!(
        (
            container.dockerfile.to_str(),
            container.dockerfile_build.to_str()
        ),
        (Some("Dockerfile"), Some("Dockerfile.build"))
    ); // D-CFG-71, D-CFG-72
    assert!(container.validate_build_args_exist); // D-CFG-73
    let run = &container.run;
    assert_eq!(
        (run.name.as_str(), run.image.as_str(), run.topology),
        ("primary", "primary", Topology::Inet)
    ); // D-CFG-67, D-CFG-69
    assert_eq!(
        (run.inet_port, run.uid, run.read_only, run.pids_limit),
        (None, 1001, true, 4096)
    ); // D-CFG-70, D-CFG-74, D-CFG-75, D-CFG-76
    assert_eq!(
        (run.memory, run.nano_cpus, run.stop_grace),
        (None, None, Duration::from_secs(30))
    ); // D-CFG-83, D-CFG-84
    assert_eq!(run.swap_order, SwapOrder::StartFirst); // D-CFG-85
    let health = &run.health;
    assert_eq!(
        (health.method.as_str(), health.path.as_str(), health.status),
        ("GET", "/health", 200)
    ); // D-CFG-77, D-CFG-78
    let seconds = [health.interval, health.timeout, health.start_period].map(|d| d.as_secs());
    assert_eq!((seconds, health.healthy), ([2, 3, 0], 3)); // D-CFG-79
    assert_eq!(health.exec, None); // D-CFG-80
}

#[test]
fn d_cfg_95_true_equals_the_map_with_its_defaults() {
    let swap = |snippet: &str| {
        parse_text(&file(Level::Environment, snippet))
            .unwrap()
            .config
            .environments[0]
            .hot_swap
            .clone()
    };
    let minutes = |m: u64| Duration::from_secs(m * 60);
    let defaults = HotSwap {
        enabled: true,
        max_age: minutes(168 * 60),              // D-CFG-97
        on_ineligible: OnIneligible::Provision,  // D-CFG-98
        generation: String::new(),               // D-CFG-99
        deadline: minutes(20),                   // D-CFG-103
        prepare_timeout: minutes(10),            // D-CFG-104
        drain_timeout: minutes(3),               // D-CFG-105
        on_drain_timeout: OnDrainTimeout::Close, // D-CFG-106
        handover_bake: Duration::from_secs(5),
        suspend_scaling: true,                         // D-CFG-108
        on_template_drift: OnTemplateDrift::Provision, // D-CFG-109
    };
    assert_eq!(swap("hot_swap: true"), defaults); // D-CFG-95
    assert_eq!(swap("hot_swap: {}"), defaults);
    assert_eq!(
        swap("hot_swap: {enabled: false}"),
        HotSwap {
            enabled: false,
            ..defaults.clone()
        }
    );
    assert_eq!(swap("hot_swap: {deadline: 2m}").prepare_timeout, minutes(2));
}

#[test]
fn d_cfg_116_hot_swap_allows_one_load_balancer_per_region() {
    let text = file(Level::Region, "elbs: [{tag: a, name: one}]\nelb: two");
    let LoadBalancer::Classic(balancers) = first_region(&text).load_balancer else {
        panic!("classic")
    };
    let names: Vec<_> = balancers
        .iter()
        .map(|b| (b.tag.as_str(), b.name.as_str()))
        .collect();
    assert_eq!(names, [("a", "one"), ("", "two")]); // D-CFG-57
    let swapping = text.replacen("name: stage", "name: stage\n  hot_swap: true", 1);
    assert!(
        refused(&swapping)
            .to_string()
            .contains("`hot_swap` allows one load balancer per region")
    ); // D-CFG-116, D-CFG-23
    let one = file(Level::Region, "elbs: [{tag: a, name: one}]").replacen(
        "name: stage",
        "name: stage\n  hot_swap: true",
        1,
    );
    assert!(first_region(&one).haproxy.behind_load_balancer);
}

#[test]
fn d_cfg_45_d_cfg_46_d_cfg_117_tls_rules_depend_on_the_load_balancer() {
    let region = |lines: &str, ssl: &str| {
        file(
            Level::Region,
            &format!("{lines}\nhaproxy: {{ssl: {{{ssl}}}}}"),
        )
    };
    let certificate = "elb: web\nssl_cert_arn: arn:aws:acm:us-east-1:123456789012:certificate/0a";
    let proxy = first_region(&region(certificate, "https_only: true")).haproxy;
    assert!(proxy.https_only && proxy.https_redirect); // D-CFG-45
    assert!(
        refused(&region("elb: web", "https_only: true"))
            .to_string()
            .contains("needs `ssl.pem` or the region's `ssl_cert_arn`")
    ); // D-CFG-46
    assert!(
        refused(&region("elb: none", "https_only: true"))
            .to_string()
            .contains("without a load balancer")
    );
    let redirect = region("elb: web", "https_redirect: true");
    assert!(first_region(&redirect).haproxy.https_redirect); // D-CFG-117
    assert!(parse_text(&redirect).unwrap().warnings.is_empty());
    assert_eq!(
        parse_text(&region("elb: none", "https_redirect: true"))
            .unwrap()
            .warnings
            .len(),
        1
    );
}

#[test]
fn d_cfg_35_d_cfg_36_d_cfg_48_derived_proxy_values() {
    let proxy = |snippet: &str| first_region(&file(Level::Haproxy, snippet)).haproxy;
    let list = proxy("compress_types: [text/html, text/css]");
    assert_eq!(list, proxy("compress_types: text/html  text/css")); // D-CFG-35
    assert!(list.compression);
    let timeouts = proxy("timeout: {client: 30s}").timeouts;
    let half_a_minute = Some(Duration::from_secs(30));
    assert_eq!(
        (timeouts.client, timeouts.server, timeouts.tunnel),
        (half_a_minute, half_a_minute, half_a_minute)
    ); // D-CFG-36, D-CFG-37, D-CFG-38
    assert_eq!(
        proxy("timeout: {client: 0}").timeouts.client,
        Some(Duration::ZERO)
    );
    assert_eq!(
        proxy("stats: {}").stats_bind.as_deref(),
        Some("127.0.0.1:8404")
    ); // D-CFG-48
    assert_eq!(
        proxy("stats: {enabled: false, bind: '[::1]:9000'}").stats_bind,
        None
    );
}

#[test]
fn d_cfg_58_d_cfg_60_d_cfg_62_values_are_resolved_as_written() {
    let arn = "arn:aws:elasticloadbalancing:us-east-1:000000000000:targetgroup/web/0a1b";
    let region = first_region(&file(
        Level::Region,
        &format!("target_group_arns: [{arn}]\nhosted_zone_name: example.com.."),
    ));
    assert_eq!(
        region.load_balancer,
        LoadBalancer::TargetGroups(vec![arn.into()])
    ); // D-CFG-58
    assert_eq!(region.hosted_zone_name.as_deref(), Some("example.com.")); // D-CFG-60
    let rules = first_region(&file(
        Level::Region,
        "auto_scaling_group: {security_group_egress: []}",
    ))
    .security_group_egress;
    assert!(rules.is_empty()); // D-CFG-62: an empty list is a choice
}

#[test]
fn d_cfg_79_d_cfg_83_d_cfg_85_workers_have_their_own_readiness() {
    let region = first_region(&file(
        Level::Region,
        "containers: [{topology: worker, memory: 64m, cpus: 1.5, swap_order: stop_first, stop_grace: 5s}]",
    ));
    let run = &region.containers[0].run;
    assert_eq!(
        (run.topology, run.swap_order),
        (Topology::Worker, SwapOrder::StopFirst)
    ); // D-CFG-85
    assert_eq!(run.health.start_period, Duration::from_secs(10)); // D-CFG-79, D-HOST-28
    assert_eq!(
        (run.memory, run.nano_cpus),
        (Some(64 << 20), Some(1_500_000_000))
    ); // D-CFG-83
}

#[test]
fn d_pack_13_containers_of_one_name_with_different_files_are_different_images() {
    let text = file(
        Level::Environment,
        "regions: [{name: us-east-1, s3_bucket: bkt, azs: [{name: z}], containers: [{name: web}]}, {name: eu-west-1, s3_bucket: bkt, azs: [{name: z}], containers: [{name: web, dockerfile: other/Dockerfile}]}, {name: eu-west-2, s3_bucket: bkt, azs: [{name: z}], containers: [{name: web}]}]",
    );
    let config = parse_text(&text).unwrap().config;
    let images: Vec<_> = config.environments[0]
        .regions
        .iter()
        .map(|r| r.containers[0].run.image.clone())
        .collect();
    assert_eq!(images, ["web", "web-2", "web"]); // D-PACK-13
}

#[test]
fn d_cfg_88_to_d_cfg_94_hooks_are_resolved() {
    let text = format!(
        "{MINIMAL}hooks:\n  pre_pack: ~\n  post_pack:\n  - {{repo: https://git.example/x.git, ref: v1, environment: {{A: '', B: ~, C: 5}}}}\n  \
         - {{executable: hooks/run, concurrent: true, run_condition: always, timeout: 1m}}\n  mine: [{{dockerfile: hooks/Dockerfile}}]\n"
    );
    let hooks = parse_text(&text).unwrap().config.hooks;
    let names: Vec<_> = hooks.keys().map(String::as_str).collect();
    assert_eq!(names, ["mine", "post_pack"]); // D-CFG-16
    let [plugin, executable] = &hooks["post_pack"][..] else {
        panic!("two hooks")
    };
    assert_eq!(
        plugin.dockerfile.as_ref().unwrap().to_str(),
        Some("Dockerfile")
    ); // D-CFG-89
    let variables: Vec<_> = plugin
        .environment
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_deref()))
        .collect();
    assert_eq!(variables, [("A", Some("")), ("B", None), ("C", Some("5"))]); // D-CFG-90, D-CFG-91
    assert_eq!(
        (plugin.concurrent, plugin.run_condition, plugin.timeout),
        (false, RunCondition::Pass, Duration::from_secs(1800))
    ); // D-CFG-92, D-CFG-93, D-CFG-94
    assert_eq!(
        (executable.concurrent, executable.run_condition),
        (true, RunCondition::Always)
    );
    assert_eq!(
        executable.executable.as_ref().unwrap().to_str(),
        Some("hooks/run")
    );
}

#[test]
fn d_cfg_93_other_conditions_than_pass_belong_to_the_post_hooks_of_phases() {
    let hook = |name: &str| {
        format!("{MINIMAL}hooks: {{{name}: [{{dockerfile: D, run_condition: fail}}]}}\n")
    };
    for name in [
        "post_pack",
        "post_provision",
        "post_hotswap",
        "post_promote",
    ] {
        assert!(parse_text(&hook(name)).is_ok(), "{name}"); // D-CFG-93
    }
    for name in ["pre_pack", "pre_hotswap", "mine"] {
        assert!(
            refused(&hook(name))
                .to_string()
                .contains("only `pass` is possible here"),
            "{name}"
        );
    }
}

#[test]
fn hooks_without_a_moment_in_this_version_are_refused_and_probable_typing_errors_are_named() {
    for name in ["pre_prune", "post_prune", "pre_cutover", "post_rollback"] {
        let errors = refused(&format!(
            "{MINIMAL}hooks: {{{name}: [{{dockerfile: D}}]}}\n"
        ));
        assert_eq!(errors.errors()[0].kind, Kind::Unavailable, "{name}");
    }
    let warnings = parse_text(&format!(
        "{MINIMAL}hooks: {{pre_hotswp: [{{dockerfile: D}}]}}\n"
    ))
    .unwrap()
    .warnings;
    assert!(
        warnings[0].contains("`pre_hotswap` would run by itself"),
        "{warnings:?}"
    );
}

#[test]
fn d_cfg_115_registry_variables_come_in_pairs() {
    let with = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        parse(MINIMAL, "f", &move |name| {
            pairs
                .iter()
                .find(|(k, _)| k == name)
                .map(|(_, v)| v.clone())
        })
    };
    let messages =
        |pairs: &[(&str, &str)]| with(pairs).map_or_else(|e| e.to_string(), |_| String::new());
    assert_eq!(
        messages(&[("DOCKER_PULL_USERNAME", "a"), ("DOCKER_PULL_PASSWORD", "b")]),
        ""
    ); // D-CFG-115
    assert_eq!(messages(&[("DOCKER_REGISTRY", "")]), "");
    assert_eq!(
        messages(&[("DOCKER_PUSH_PASSWORD", "b")]),
        "environment: DOCKER_PUSH_PASSWORD: needs `DOCKER_PUSH_USERNAME` beside it"
    );
    assert!(messages(&[("DOCKER_REPOSITORY", "b")]).contains("needs `DOCKER_REGISTRY`"));
    assert!(
        messages(&[
            ("DOCKER_REGISTRY", "https://r/"),
            ("DOCKER_REPOSITORY", "b")
        ])
        .contains("without scheme")
    );
    let unavailable = with(&[
        ("DOCKER_REGISTRY", "r.example:5000"),
        ("DOCKER_REPOSITORY", "b"),
    ])
    .unwrap_err();
    assert_eq!(
        unavailable
            .errors()
            .iter()
            .map(|e| e.kind)
            .collect::<Vec<_>>(),
        [Kind::Unavailable]
    );
}

#[test]
fn texts_of_the_file_can_neither_break_nor_flood_a_message() {
    let text = file(Level::Region, "\"a\\e[2Jb\\nc\": 1\nkey_pair_name: {}")
        .replace("hello", &"é".repeat(3000));
    let errors = refused(&text).to_string();
    assert!(
        errors.contains("regions[0].a [2Jb c: unknown key"),
        "{errors}"
    );
    assert!(
        errors
            .lines()
            .all(|line| line.chars().count() < 600 && !line.contains('\u{1b}')),
        "{errors}"
    );
}

#[test]
fn names_too_long_for_a_stack_are_refused() {
    let text = MINIMAL.replace(
        "service_name: hello",
        &format!("service_name: {}", "a".repeat(120)),
    );
    assert!(
        refused(&text)
            .to_string()
            .contains("CloudFormation allows 128")
    );
}

#[test]
fn an_error_in_an_anchor_is_reported_once() {
    let text = "service_name: h\nporter_version: v0.1.0\n_r: &r {s3_bucket: bkt, azs: [{name: z}], elbb: x}\nenvironments:\n\
                - {name: a, role_arn: 'arn:aws:iam::123456789012:role/r', regions: [{<<: *r, name: us-east-1}, {<<: *r, name: us-east-2}]}\n";
    assert_eq!(
        refused(text).to_string(),
        ".porter/config:3:43: environments[0].regions[0].elbb: unknown key; did you mean `elb`?"
    );
}

#[test]
fn d_qa_9_porters_sample_project_is_accepted() {
    let region = first_region(PORTER_SAMPLE);
    assert_eq!(region.containers[0].run.name, "inet"); // D-QA-9
    assert!(region.haproxy.behind_load_balancer);
    assert_eq!(region.azs[0].subnet_id.as_deref(), Some("subnet-0a1b2c3d"));
}

#[test]
fn the_example_service_is_accepted_once_the_local_cloud_has_set_its_variables() {
    let text = include_str!("../../../examples/hello/.porter/config");
    let env = |name: &str| {
        let value = match name {
            "PORTER_LOCAL_ROLE_ARN" => "arn:aws:iam::000000000000:role/porter-deploy",
            "PORTER_LOCAL_BUCKET" => "porter-local",
            "PORTER_LOCAL_VPC_ID" => "vpc-00000001",
            "PORTER_LOCAL_SUBNET_ID_1" => "subnet-00000001",
            "PORTER_LOCAL_SUBNET_ID_2" => "subnet-00000002",
            "PORTER_LOCAL_TARGET_GROUP_ARN" => {
                "arn:aws:elasticloadbalancing:us-east-1:000000000000:targetgroup/hello/0a1b"
            }
            _ => return None,
        };
        Some(value.to_owned())
    };
    let loaded = parse(text, "f", &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, [] as [String; 0]);
    assert!(loaded.config.environments[0].hot_swap.enabled);
    assert!(
        refused(text)
            .to_string()
            .contains("the variable `PORTER_LOCAL_BUCKET` is not set")
    );
}

#[test]
fn the_documented_complete_file_is_accepted_without_a_warning() {
    let loaded = parse_text(documented()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, [] as [String; 0]);
    assert_eq!(
        serde_yaml::from_str::<Config>(&loaded.config.to_yaml().unwrap()).unwrap(),
        loaded.config
    ); // D-CFG-7
    insta::assert_snapshot!("complete", loaded.config.to_yaml().unwrap());
}

#[test]
fn d_cfg_7_later_phases_read_back_exactly_what_pack_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let config = parse_text(PORTER_SAMPLE).unwrap().config;
    config.save(&path).unwrap();
    assert_eq!(Config::read_resolved(&path).unwrap(), config); // D-CFG-7
    std::fs::write(&path, "service_name: x\n").unwrap();
    assert!(
        Config::read_resolved(&path)
            .unwrap_err()
            .to_string()
            .contains("run `porter build pack` again")
    );
    assert!(Config::read_resolved(&folder.path().join("absent")).is_err());
}

#[test]
fn d_cfg_10_the_view_names_where_each_value_came_from() {
    let config = parse_text(documented()).unwrap().config;
    let one = view(&config, documented(), "prod", Some("eu-west-1")).unwrap();
    insta::assert_snapshot!("view", one[0].to_string()); // D-CFG-10
    assert_eq!(one.len(), 1);
    let regions = view(&config, documented(), "prod", None).unwrap();
    assert_eq!(
        regions
            .iter()
            .map(|r| r.region.as_str())
            .collect::<Vec<_>>(),
        ["us-east-1", "eu-west-1"]
    );
    let origin = |key: &str| {
        regions[1]
            .values
            .iter()
            .find(|v| v.key == key)
            .map(|v| v.origin)
    };
    assert_eq!(origin("instance_count"), Some(Origin::Region));
    assert_eq!(origin("instance_type"), Some(Origin::Environment));
    assert_eq!(origin("haproxy.maxconn"), Some(Origin::Region));
    assert_eq!(origin("haproxy.timeout.client"), Some(Origin::Environment));
    assert_eq!(origin("ami"), Some(Origin::Default));
    assert!(view(&config, documented(), "nowhere", None).is_none());
    assert!(view(&config, documented(), "prod", Some("mars-1")).is_none());
}

#[test]
fn d_cfg_10_d_sec_21_the_check_counts_what_it_saw_and_says_that_the_role_is_shared() {
    let report = check(&parse_text(documented()).unwrap());
    assert_eq!(
        (report.environments, report.regions, report.containers),
        (1, 2, 3)
    ); // D-CFG-10
    assert!(report.to_string().starts_with(
        "the configuration of shop is valid: 1 environment, 2 regions, 3 containers\nnote: "
    ));
    assert!(
        report.notes[0].contains("share the host's role"),
        "{report}"
    ); // D-SEC-21
}

#[test]
fn d_cfg_9_values_given_to_hooks_are_masked_when_shown() {
    let text = format!(
        "{MINIMAL}hooks: {{pre_pack: [{{repo: 'https://me:token@git.example/x.git', ref: v1, environment: {{KEY: s3cret, OWN: ~}}}}]}}\n"
    );
    let shown = parse_text(&text)
        .unwrap()
        .config
        .masked()
        .to_yaml()
        .unwrap();
    assert!(
        !shown.contains("s3cret") && !shown.contains("token"),
        "{shown}"
    ); // D-CFG-9
    assert!(
        shown.contains("https://***@git.example/x.git") && shown.contains("OWN: null"),
        "{shown}"
    );
}

/// Pieces from which arbitrary but plausible files are made.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ \\n:\\-\\[\\]{},&*!|>'\"#?%@`<~a-z0-9.$_/]{0,12}",
        Just("environments:\n- ".to_owned()),
        Just("  regions:\n  - name: us-east-1\n".to_owned()),
        Just("<<: *a\n".to_owned()),
        Just("&a ".to_owned()),
        Just("hot_swap: {batch: 5}\n".to_owned()),
        Just("\t".to_owned()),
        "\\PC{0,6}",
    ]
}

/// A file that is often complete and sometimes wrong.
fn plausible() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("us-east-1"), Just("eu-west-1"), Just("nowhere")];
    let millis = prop_oneof![
        Just("0".to_owned()),
        (1u32..90_000_000).prop_map(|n| format!("{n}ms")),
        (1u32..100).prop_map(|n| format!("{n}.5s"))
    ];
    let generation = "[ -~]{0,12}".prop_map(|text| format!("'{}'", text.replace('\'', "''")));
    (name, millis, generation, 0u32..5, any::<bool>(), 1u32..70_000).prop_map(|(name, time, generation, count, flag, port)| {
        format!(
            "service_name: hello\nporter_version: v0.1.0\nenvironments:\n- name: stage\n  role_arn: arn:aws:iam::123456789012:role/porter\n  \
             instance_count: {count}\n  hot_swap: {{generation: {generation}, drain_timeout: {time}}}\n  tags: {{note: {generation}}}\n  \
             haproxy: {{log: {flag}, timeout: {{tunnel: {time}}}}}\n  regions:\n  - name: {name}\n    s3_bucket: deploy\n    azs: [{{name: z}}]\n    \
             containers: [{{inet_port: {port}, stop_grace: {time}}}]\nhooks: {{post_pack: [{{executable: run, environment: {{A: {generation}, B: ~}}}}]}}\n"
        )
    })
}

proptest! {
    #[test]
    fn d_qa_12_no_text_makes_the_reader_panic(pieces in prop::collection::vec(piece(), 0..24)) {
        // D-QA-12
        let text = pieces.concat();
        if let Err(errors) = parse(&text, "f", &|_| None) {
            prop_assert!(!errors.errors().is_empty());
        }
    }

    #[test]
    fn d_qa_12_a_damaged_file_is_read_or_refused_but_never_panics(at in any::<prop::sample::Index>(), length in 0usize..20, piece in piece()) {
        // D-QA-12
        let base = documented();
        let starts: Vec<usize> = base.char_indices().map(|(i, _)| i).collect();
        let start = starts[at.index(starts.len())];
        let end = (start + length..=base.len()).find(|e| base.is_char_boundary(*e)).unwrap_or(base.len());
        let damaged = format!("{}{piece}{}", &base[..start], &base[end..]);
        if let Err(errors) = parse(&damaged, "f", &|name| (name == "HOME").then(|| "x".into())) {
            for ConfigError { line, column, message, .. } in errors.errors() {
                prop_assert!(line.is_some_and(|l| l >= 1 && l <= damaged.lines().count() + 1), "{:?} {}", line, message);
                prop_assert!(column.is_some_and(|c| c >= 1) && !message.is_empty() && !message.contains('\n'));
            }
        }
    }

    #[test]
    fn d_cfg_7_what_is_saved_is_what_is_read(text in plausible()) {
        if let Ok(loaded) = parse_text(&text) {
            let written = loaded.config.to_yaml().unwrap();
            prop_assert_eq!(serde_yaml::from_str::<Config>(&written).unwrap(), loaded.config); // D-CFG-7
        }
    }

    #[test]
    fn d_cfg_111_a_window_that_passed_the_check_blocks_between_its_ends_only(start in 0i64..4_000_000_000, length in 1i64..10_000_000, offset in -10_000_000i64..20_000_000) {
        let time = |s: i64| jiff::Timestamp::from_second(s).unwrap();
        let window = BlackoutWindow { start_time: time(start).to_string(), end_time: time(start + length).to_string() };
        let active = crate::config::blackout::active(&[window], time(start + offset)).is_some();
        prop_assert_eq!(active, offset > 0 && offset < length); // D-CFG-111
    }
}
