//! What may differ between two assemblies, what a user's template may do, and what is refused.

use super::scenario::{self, Scenario};
use contract::digest::Digest;
use porter::{
    capacity::{self, CapacityError, Sizes},
    template::{Deployment, Destination, ParameterValue, TemplateError, sizes},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn template(scenario: &Scenario) -> Value {
    serde_json::from_str(&scenario.assemble().unwrap().json).unwrap()
}

/// Paths at which two documents differ.
fn differences(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
                let null = Value::Null;
                let (x, y) = (x.get(key).unwrap_or(&null), y.get(key).unwrap_or(&null));
                differences(x, y, &format!("{path}/{key}"), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (n, (x, y)) in x.iter().zip(y).enumerate() {
                differences(x, y, &format!("{path}/{n}"), found);
            }
        }
        _ if a == b => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn d_tpl_11_equal_inputs_give_equal_bytes() {
    // D-TPL-11
    for ((name, a), (_, b)) in scenario::all().into_iter().zip(scenario::all()) {
        assert_eq!(
            a.assemble().unwrap().json,
            b.assemble().unwrap().json,
            "{name}"
        );
    }
}

#[test]
fn d_tpl_52_two_deployments_differ_in_parameters_alone() {
    // D-TPL-52, D-TPL-12, D-TPL-15
    let deployment = |n: u8| Deployment {
        stack_name: "hello-stage-ci-1".into(),
        payload: Digest::from_bytes(&[n; 32]),
        swap_id: format!("01SWAP{n}"),
        deadline: format!("2026-11-21T0{n}:00:00Z").parse().unwrap(),
    };
    let assembled = Scenario::target_group().assemble().unwrap();
    let (a, b) = (
        assembled.creation_values(&deployment(1)),
        assembled.creation_values(&deployment(2)),
    );
    let differing: Vec<&String> = a.keys().filter(|k| a[*k] != b[*k]).collect();
    assert_eq!(
        differing,
        ["PorterDeadline", "PorterPayloadDigest", "PorterSwapId"]
    );
    let declared: Value = serde_json::from_str(&assembled.json).unwrap();
    let declared: BTreeSet<&String> = declared["Parameters"].as_object().unwrap().keys().collect();
    assert_eq!(declared, a.keys().collect());
}

#[test]
fn d_tpl_53_an_update_keeps_what_the_wait_condition_was_created_with() {
    // D-TPL-53, D-TPL-7
    let mut scenario = Scenario::target_group().with_user_template(
        "Parameters: {Mine: {Type: String, Default: a}, New: {Type: String, Default: b}}",
    );
    scenario.desired_capacity = Some(5);
    let assembled = scenario.assemble().unwrap();
    let existing: BTreeSet<String> = assembled
        .creation_parameters
        .keys()
        .cloned()
        .chain(["PorterStackName".to_owned(), "Mine".to_owned()])
        .collect();
    let deployment = Deployment {
        stack_name: "other".into(),
        payload: Digest::from_bytes(&[1; 32]),
        swap_id: "01SWAP".into(),
        deadline: "2026-11-21T00:00:00Z".parse().unwrap(),
    };
    let values = assembled.update_values(&deployment, &existing);
    for name in [
        "PorterAwaitedHosts",
        "PorterCreationTimeout",
        "PorterStackName",
        "Mine",
    ] {
        assert_eq!(values[name], ParameterValue::Previous, "{name}");
    }
    assert!(
        !values.contains_key("New"),
        "the template's default applies"
    );
    assert_eq!(values["PorterSwapId"], ParameterValue::New("01SWAP".into()));
}

#[test]
fn d_hot_14_another_desired_capacity_changes_desired_capacity_alone() {
    // D-HOT-14, D-TPL-53, D-TPL-43
    for (name, mut a) in scenario::all() {
        a.desired_capacity = Some(2);
        let before = a.assemble().unwrap();
        let mut found = Vec::new();
        let old = template(&a);
        a.desired_capacity = Some(1);
        let group = format!(
            "/Resources/{}/Properties/DesiredCapacity",
            before.auto_scaling_group
        );
        differences(&old, &template(&a), "", &mut found);
        assert_eq!(found, [group], "{name}");
        assert_eq!(a.assemble().unwrap().sizes.desired, 1);
    }
}

#[test]
fn d_tpl_53_a_new_agent_tool_or_bootstrap_code_changes_metadata_and_unpropagated_tags_alone() {
    // D-TPL-53, D-TPL-36
    for (name, a) in scenario::all() {
        let id = a.assemble().unwrap().launch_template;
        let group = a.assemble().unwrap().auto_scaling_group;
        let old = template(&a);
        let mut b = a;
        b.agent.digest = Digest::from_bytes(&[9; 32]);
        b.agent.key = "porter-deployment/hello/agents/sha256/09".into();
        b.tool_version = "0.2.0".into();
        b.host_bootstrap = "echo other".into();
        b.config.environments[0].hot_swap.generation = "2".into();
        let new = template(&b);
        let mut found = Vec::new();
        differences(&old, &new, "", &mut found);
        assert!(found.len() > 2, "{name}");
        for path in found {
            let is_metadata = path.starts_with(&format!(
                "/Resources/{id}/Metadata/AWS::CloudFormation::Init/"
            ));
            let is_tag = path
                .strip_prefix(&format!("/Resources/{group}/Properties/Tags/"))
                .is_some_and(|rest| {
                    let tag = rest.trim_end_matches("/Value").parse::<usize>().unwrap();
                    new["Resources"][&group]["Properties"]["Tags"][tag]["PropagateAtLaunch"]
                        == false
                });
            assert!(
                is_metadata || is_tag || path == "/Description",
                "{name}: {path}"
            );
        }
    }
}

#[test]
fn d_hot_15_the_test_vectors_of_the_specification() {
    // D-HOT-15, D-HOT-13: from what stands in the template to the answer; absent sizes are `instance_count`, both ends
    // are inclusive, and zero is a size.
    let mut scenario = Scenario::target_group();
    scenario.region().instance_count = 2;
    let mut answer = |properties: &str, desired_p| {
        let template = format!(
            "Resources: {{G: {{Type: 'AWS::AutoScaling::AutoScalingGroup', Properties: {properties}}}}}"
        );
        let template = sizes(Some(&template), scenario.region(), &BTreeMap::new()).unwrap();
        let promoted = Sizes {
            min: 0,
            max: 9,
            desired: desired_p,
        };
        capacity::check(template, Some(promoted))
    };
    let refused = |min, max, desired| Err(CapacityError { min, max, desired });
    assert_eq!(answer("{MinSize: 1, MaxSize: 3}", 1), Ok(1));
    assert_eq!(answer("{MinSize: 1, MaxSize: 3}", 3), Ok(3));
    assert_eq!(answer("{MinSize: 1, MaxSize: 3}", 0), refused(1, 3, 0));
    assert_eq!(answer("{MinSize: 1, MaxSize: 3}", 4), refused(1, 3, 4));
    assert_eq!(answer("{MinSize: 2, MaxSize: 2}", 2), Ok(2));
    assert_eq!(answer("{MinSize: '1', MaxSize: '3'}", 2), Ok(2));
    assert_eq!(answer("{}", 3), refused(2, 2, 3));
    assert_eq!(answer("{MinSize: 0, MaxSize: 4}", 0), Ok(0));
}

#[test]
fn d_hot_15_a_group_of_zero_hosts_has_nothing_to_wait_for() {
    // D-HOT-15, D-TPL-43
    let mut scenario = Scenario::target_group().with_user_template(
        "Resources: {G: {Type: 'AWS::AutoScaling::AutoScalingGroup', Properties: {MinSize: 0, MaxSize: 4}}}",
    );
    scenario.desired_capacity = Some(0);
    let assembled = scenario.assemble().unwrap();
    assert_eq!(
        assembled.sizes,
        Sizes {
            min: 0,
            max: 4,
            desired: 0
        }
    );
    assert_eq!(assembled.creation_parameters["PorterAwaitedHosts"], "0");
    let template: Value = serde_json::from_str(&assembled.json).unwrap();
    assert_eq!(
        template["Resources"]["WaitCondition"]["Condition"],
        "PorterAwaitsHosts"
    );
    assert_eq!(
        template["Conditions"]["PorterAwaitsHosts"],
        json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "PorterAwaitedHosts"}, "0"]}]})
    );
    assert!(
        assembled
            .warnings
            .iter()
            .any(|w| w.contains("starts no host"))
    );
}

#[test]
fn d_sec_20_no_statement_of_the_host_role_has_a_star_as_action_or_resource() {
    // D-SEC-20, D-SEC-22, D-SEC-25
    for (name, scenario) in scenario::all() {
        let template = template(&scenario);
        let mut policies = 0;
        for (id, resource) in template["Resources"].as_object().unwrap() {
            let list = resource["Properties"]["Policies"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for policy in list.iter().filter(|p| p["PolicyName"] == "porter") {
                policies += 1;
                assert_ne!(id, "FunctionRole", "{name}: only the hosts' role");
                for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
                    assert!(
                        !statement["Action"].to_string().contains('*'),
                        "{name}: {statement}"
                    );
                    assert_ne!(statement["Resource"], "*", "{name}: {statement}");
                }
            }
        }
        assert_eq!(policies, 1, "{name}");
    }
}

#[test]
fn d_sec_22_tokens_are_required_whatever_the_user_wrote() {
    // D-SEC-22, D-TPL-32
    let scenario = Scenario::target_group().with_user_template(
        "Resources: {L: {Type: 'AWS::EC2::LaunchTemplate', Properties: {LaunchTemplateData: {MetadataOptions: {HttpTokens: optional, HttpPutResponseHopLimit: 1}}}}}",
    );
    let template = template(&scenario);
    assert_eq!(
        template["Resources"]["L"]["Properties"]["LaunchTemplateData"]["MetadataOptions"],
        json!({"HttpTokens": "required", "HttpPutResponseHopLimit": 1})
    );
}

#[test]
fn d_tpl_54_what_the_user_set_is_kept_and_lists_grow() {
    // D-TPL-54, D-TPL-2, D-TPL-30, D-TPL-33, D-TPL-37
    let scenario = Scenario::classic().with_user_template(include_str!("user.yaml"));
    let assembled = scenario.assemble().unwrap();
    let t: Value = serde_json::from_str(&assembled.json).unwrap();
    assert_eq!(
        assembled.sizes,
        Sizes {
            min: 1,
            max: 4,
            desired: 2
        }
    );
    assert_eq!(
        (
            assembled.launch_template.as_str(),
            assembled.auto_scaling_group.as_str()
        ),
        ("Launch", "Group")
    );
    assert_eq!(
        t["Description"],
        "hello (powered by porter 0.1.0): The service's own resources"
    );
    for section in ["Metadata", "Rules", "Mappings", "Outputs"] {
        assert!(t[section].is_object(), "{section}");
    }
    let tags = t["Resources"]["Group"]["Properties"]["Tags"]
        .as_array()
        .unwrap();
    let names: Vec<&Value> = tags
        .iter()
        .filter(|t| t["Key"] == "Name")
        .map(|t| &t["Value"])
        .collect();
    assert_eq!(names, ["hello-hosts"]);
    let groups = &t["Resources"]["Launch"]["Properties"]["LaunchTemplateData"]["SecurityGroupIds"];
    assert_eq!(groups[0], json!({"Fn::GetAtt": ["Admin", "GroupId"]}));
    assert_eq!(
        t["Resources"]["Admin"]["Properties"]["SecurityGroupEgress"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
    let role = &t["Resources"]["HostRole"]["Properties"]["Policies"];
    assert_eq!(
        (role[0]["PolicyName"].clone(), role[1]["PolicyName"].clone()),
        (json!("work"), json!("porter"))
    );
    assert!(t["Resources"]["FunctionRole"]["Properties"]["Policies"].is_null());
    assert!(t["Resources"]["IAMRole"].is_null());
    let init = &t["Resources"]["Launch"]["Metadata"]["AWS::CloudFormation::Init"];
    assert_eq!(
        init["configSets"]["bootstrap"],
        json!(["porter_host", "config"])
    );
    assert!(init["config"]["files"]["/etc/service.conf"].is_object());
    let data = t["Resources"]["Launch"]["Properties"]["LaunchTemplateData"]["UserData"].to_string();
    assert!(data.find("#cloud-config").unwrap() < data.find("/etc/stack-name").unwrap());
}

#[test]
fn d_tpl_35_tags_say_service_environment_and_owner() {
    // D-TPL-35, D-TPL-36
    let t = template(&Scenario::target_group());
    let tags = t["Resources"]["AutoScalingGroup"]["Properties"]["Tags"]
        .as_array()
        .unwrap();
    let tag = |key: &str| {
        let t = tags.iter().find(|t| t["Key"] == key).unwrap();
        (t["Value"].clone(), t["PropagateAtLaunch"].clone())
    };
    assert_eq!(tag("Name"), (json!("hello-stage-ci"), json!(true)));
    assert_eq!(
        tag("porter-payload-digest"),
        (json!({"Ref": "PorterPayloadDigest"}), json!(false))
    );
    assert_eq!(tag("porter-host-protocol"), (json!("1"), json!(false)));
    assert_eq!(tag("porter-version"), (json!("0.1.0"), json!(false)));
}

#[test]
fn d_tpl_38_sizes_are_resolved_from_parameters_mappings_and_conditions() {
    // D-TPL-38, D-TPL-37, D-HOT-15
    let mut scenario = Scenario::target_group();
    let group = |properties: &str| {
        format!(
            "Parameters: {{P: {{Type: Number, Default: 2}}, E: {{Type: String}}}}\n\
             Conditions: {{Big: !Equals [!Ref P, 9], Here: !Equals [!Ref 'AWS::Region', us-east-1]}}\n\
             Mappings: {{M: {{us-east-1: {{Max: '7'}}}}}}\n\
             Resources: {{G: {{Type: 'AWS::AutoScaling::AutoScalingGroup', Properties: {properties}}}}}"
        )
    };
    let found = |scenario: &mut Scenario, properties: &str, values: &[(&str, &str)]| {
        let values: BTreeMap<String, String> = values
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        sizes(Some(&group(properties)), scenario.region(), &values)
    };
    let of = |min, max, desired| Ok(Sizes { min, max, desired });
    assert_eq!(found(&mut scenario, "{}", &[]), of(3, 3, 3));
    assert_eq!(
        found(&mut scenario, "{MinSize: '1', MaxSize: 3}", &[]),
        of(1, 3, 3)
    );
    assert_eq!(
        found(
            &mut scenario,
            "{MinSize: !Ref P, MaxSize: !FindInMap [M, !Ref 'AWS::Region', Max], DesiredCapacity: !If [Big, 9, !If [Here, 4, 5]]}",
            &[]
        ),
        of(2, 7, 4)
    );
    assert_eq!(
        found(
            &mut scenario,
            "{DesiredCapacity: !If [Big, !Ref P, 1]}",
            &[("P", "9")]
        ),
        of(3, 3, 9)
    );
    scenario
        .region()
        .stack_parameters
        .insert("P".into(), "6".into());
    assert_eq!(
        found(&mut scenario, "{DesiredCapacity: !Ref P}", &[]),
        of(3, 3, 6)
    );
    for (properties, problem) in [
        ("{MinSize: !ImportValue x}", "no value before"),
        ("{MinSize: !Ref E}", "no value before"),
        ("{MinSize: many}", "not a number of hosts"),
        ("{MinSize: -1}", "not a number of hosts"),
        ("{MinSize: 1.5}", "not a number of hosts"),
    ] {
        let error = found(&mut scenario, properties, &[]).unwrap_err();
        assert!(
            error.part.ends_with("G.Properties.MinSize") && error.problem.contains(problem),
            "{error:?}"
        );
    }
}

#[test]
fn d_tpl_8_every_refusal_names_part_problem_and_remedy() {
    // D-TPL-8, D-TPL-33, D-TPL-44, D-TPL-4
    let group = "Type: 'AWS::AutoScaling::AutoScalingGroup'";
    let launch = "Type: 'AWS::EC2::LaunchTemplate'";
    let cases = [
        (format!("Resources: {{A: {{{group}}}, B: {{{group}}}}}"), "Resources", "`A`, `B`", "porter: primary"),
        ("Resources: {LaunchTemplate: {Type: 'AWS::SQS::Queue'}}".into(), "Resources.LaunchTemplate", "AWS::SQS::Queue", "rename"),
        ("Resources: {PorterSignalQueue: {Type: 'AWS::SQS::Queue'}}".into(), "Resources.PorterSignalQueue", "one of porter's", "rename"),
        ("Resources: {A: {Properties: {}}}".into(), "Resources.A", "no type", "Type"),
        ("Resources: {A: 3}".into(), "Resources.A", "map", "indentation"),
        ("Resources: [1]".into(), "Resources", "map", "indentation"),
        ("Parameters: [1]".into(), "Parameters", "map", "indentation"),
        (
            format!("Resources: {{L: {{{launch}, Properties: {{LaunchTemplateData: {{SecurityGroupIds: [!Ref Gone]}}}}}}}}"),
            "Resources.L, security groups", "`Gone`", "define",
        ),
        (
            format!("Resources: {{L: {{{launch}, Metadata: {{Porter: 1}}}}}}"),
            "Resources.L.Metadata.Porter", "porter's", "rename",
        ),
        (
            format!("Resources: {{L: {{{launch}, Metadata: {{'AWS::CloudFormation::Init': {{configSets: {{hotswap: [a]}}}}}}}}}}"),
            "configSets.hotswap", "porter's", "rename",
        ),
        (
            "Resources: {R: {Type: 'AWS::IAM::Role', Metadata: {porter: primary}, Properties: {AssumeRolePolicyDocument: {}}}}".into(),
            "Resources.R.Properties.AssumeRolePolicyDocument", "EC2", "ec2.amazonaws.com",
        ),
        (
            "Resources: {R: {Type: 'AWS::IAM::Role', Metadata: {porter: primary}, Properties: {Policies: [{PolicyName: porter}]}}}".into(),
            "Resources.R.Properties.Policies[0].PolicyName", "taken", "rename",
        ),
        (
            "Resources: {L: {Type: 'AWS::AutoScaling::LaunchConfiguration', Properties: {ClassicLinkVPCId: x}}}".into(),
            "Resources.L.Properties.ClassicLinkVPCId", "no counterpart", "LaunchTemplate",
        ),
        (
            format!("Resources: {{G: {{{group}, Properties: {{MinSize: 4, MaxSize: 2}}}}}}"),
            "sizes", "MinSize 4", "all three",
        ),
        ("Resources:\n\tA: 1".into(), "line 2", "tab", "YAML"),
    ];
    for (text, part, problem, remedy) in cases {
        let error: TemplateError = Scenario::target_group()
            .with_user_template(&text)
            .assemble()
            .expect_err(&text);
        assert!(
            error.part.contains(part)
                && error.remedy.contains(remedy)
                && (error.problem.contains(problem) || text.contains('\t')),
            "{text}\n{error:?}"
        );
    }
}

#[test]
fn d_tpl_8_the_mark_decides_between_two_groups() {
    // D-TPL-8
    let scenario = Scenario::target_group().with_user_template(
        "Resources:\n  A: {Type: 'AWS::AutoScaling::AutoScalingGroup'}\n  B: {Type: 'AWS::AutoScaling::AutoScalingGroup', Metadata: {porter: primary}}",
    );
    assert_eq!(scenario.assemble().unwrap().auto_scaling_group, "B");
}

#[test]
fn d_tpl_6_unknown_types_and_sections_pass_through_unchanged() {
    // D-TPL-6, D-TPL-5
    let text = json!({
        "Transform": ["AWS::LanguageExtensions"],
        "Parameters": {"Secret": {"Type": "String", "NoEcho": true, "MinLength": 3}},
        "Resources": {"X": {"Type": "Custom::Thing", "DependsOn": ["Y"], "Properties": {"A": [1, null, {"b": 2.5}]}},
                      "Y": {"Type": "Vendor::Service::Thing", "UpdatePolicy": {"a": true}}},
    });
    let t = template(&Scenario::target_group().with_user_template(&text.to_string()));
    assert_eq!(t["Transform"], text["Transform"]);
    assert_eq!(t["Parameters"]["Secret"], text["Parameters"]["Secret"]);
    for id in ["X", "Y"] {
        assert_eq!(t["Resources"][id], text["Resources"][id]);
    }
}

#[test]
fn d_tpl_14_an_image_id_goes_into_the_mapping_and_a_parameter_is_resolved_at_launch() {
    // D-TPL-13, D-TPL-14
    let image = |t: &Value| {
        t["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["ImageId"].clone()
    };
    let t = template(&Scenario::target_group());
    assert_eq!(
        image(&t),
        "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    );
    assert!(t["Mappings"].is_null());
    let mut scenario = Scenario::target_group();
    scenario.region().ami = "ami-0123456789abcdef0".into();
    let t = template(&scenario);
    assert_eq!(
        image(&t),
        json!({"Fn::FindInMap": ["RegionToAMI", {"Ref": "AWS::Region"}, "AMI"]})
    );
    assert_eq!(
        t["Mappings"],
        json!({"RegionToAMI": {"us-east-1": {"AMI": "ami-0123456789abcdef0"}}})
    );
}

#[test]
fn d_tpl_7_a_value_for_an_undeclared_parameter_is_refused() {
    // D-TPL-7
    let mut scenario = Scenario::target_group();
    scenario
        .region()
        .stack_parameters
        .insert("Tier".into(), "gold".into());
    let error = scenario.assemble().unwrap_err();
    assert_eq!(error.part, "Parameters.Tier");
    scenario.user_template = Some("Parameters: {Tier: {Type: String}}".into());
    assert_eq!(scenario.assemble().unwrap().parameters["Tier"], "gold");
}

#[test]
fn d_hook_15_bootstrap_output_above_16_kib_is_refused() {
    // D-HOOK-15
    let mut scenario = Scenario::target_group();
    scenario.host_bootstrap = "#".repeat(16 * 1024);
    scenario.assemble().unwrap();
    scenario.host_bootstrap.push('#');
    assert!(
        scenario
            .assemble()
            .unwrap_err()
            .problem
            .contains("16385 bytes")
    );
}

#[test]
fn d_tpl_10_a_template_above_the_limit_names_its_largest_resources() {
    // D-TPL-10
    let text = json!({"Resources": {"Big": {"Type": "A::B::C", "Properties": {"T": "x".repeat(1_000_000)}}}});
    let error = Scenario::target_group()
        .with_user_template(&text.to_string())
        .assemble()
        .unwrap_err();
    assert!(error.problem.contains("`Big` (1000"), "{error}");
}

#[test]
fn d_tpl_46_without_subnets_a_target_group_region_has_no_provisioned_balancer_and_says_so() {
    // D-TPL-23, D-TPL-46
    let mut scenario = Scenario::target_group();
    if let Destination::TargetGroups { subnets, .. } = &mut scenario.destination {
        subnets.clear();
    }
    let assembled = scenario.assemble().unwrap();
    assert_eq!(assembled.provisioned_load_balancer, None);
    assert!(assembled.warnings[0].contains("azs[].subnet_id"));
    let t: Value = serde_json::from_str(&assembled.json).unwrap();
    assert!(t["Resources"]["AutoScalingGroup"]["Properties"]["HealthCheckType"].is_null());
    // Workers never have one.
    assert_eq!(
        Scenario::worker()
            .assemble()
            .unwrap()
            .provisioned_load_balancer,
        None
    );
}

#[test]
fn d_tpl_12_unused_parameters_of_ours_are_not_declared() {
    // D-TPL-12
    let scenario = Scenario::worker().with_user_template(scenario::USER_WAIT_CONDITION);
    let assembled = scenario.assemble().unwrap();
    assert!(assembled.creation_parameters.is_empty());
    let t: Value = serde_json::from_str(&assembled.json).unwrap();
    for name in ["PorterAwaitedHosts", "PorterCreationTimeout"] {
        assert!(t["Parameters"][name].is_null(), "{name}");
    }
    assert!(t["Conditions"].is_null());
    assert_eq!(
        t["Resources"]["Wait"]["Properties"]["Handle"],
        json!({"Ref": "WaitConditionHandle"})
    );
}
