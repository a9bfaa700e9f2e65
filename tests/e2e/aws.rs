//! What the tests do to AWS beside porter: what an operator, an alarm or an intruder would do.

use crate::cloud::Cloud;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::{config::Credentials, primitives::ByteStream};
use contract::names::tag;
use std::{collections::BTreeMap, sync::OnceLock};
use tokio::runtime::Runtime;

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

impl Cloud {
    fn sdk(&self) -> SdkConfig {
        self.sdk_in("us-east-1")
    }

    fn sdk_in(&self, region: &'static str) -> SdkConfig {
        let credentials = Credentials::new(
            self.var("AWS_ACCESS_KEY_ID"),
            self.var("AWS_SECRET_ACCESS_KEY"),
            None,
            None,
            "e2e",
        );
        runtime().block_on(
            aws_config::defaults(BehaviorVersion::latest())
                .region(Region::new(region))
                .endpoint_url(self.var("AWS_ENDPOINT_URL"))
                .credentials_provider(credentials)
                .load(),
        )
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::config::Builder::from(&self.sdk())
                .force_path_style(true)
                .build(),
        )
    }

    fn cloudformation(&self) -> aws_sdk_cloudformation::Client {
        aws_sdk_cloudformation::Client::new(&self.sdk())
    }

    fn autoscaling(&self) -> aws_sdk_autoscaling::Client {
        aws_sdk_autoscaling::Client::new(&self.sdk())
    }

    /// Every object of the deployment bucket with its ETag.
    pub fn objects(&self) -> BTreeMap<String, String> {
        let (s3, bucket) = (self.s3(), self.var("PORTER_LOCAL_BUCKET"));
        runtime().block_on(async {
            let mut pages = s3.list_objects_v2().bucket(bucket).into_paginator().send();
            let mut all = BTreeMap::new();
            while let Some(page) = pages.next().await {
                for object in page.expect("the bucket lists").contents() {
                    all.insert(
                        object.key().unwrap_or_default().to_owned(),
                        object.e_tag().unwrap_or_default().to_owned(),
                    );
                }
            }
            all
        })
    }

    pub fn overwrite(&self, key: &str, bytes: &'static [u8]) {
        let put = self
            .s3()
            .put_object()
            .bucket(self.var("PORTER_LOCAL_BUCKET"))
            .key(key)
            .body(ByteStream::from_static(bytes));
        runtime()
            .block_on(put.send())
            .expect("the object is overwritten");
    }

    /// Status, last update and parameters of a stack, for comparison.
    pub fn describe_stack(&self, id: &str) -> String {
        let answer = runtime()
            .block_on(
                self.cloudformation()
                    .describe_stacks()
                    .stack_name(id)
                    .send(),
            )
            .expect("the stack exists");
        let stack = answer.stacks().first().expect("one stack");
        format!(
            "{:?} {:?} {:?}",
            stack.stack_status(),
            stack.last_updated_time(),
            stack.parameters()
        )
    }

    /// Ids of the stacks that are not deleted.
    pub fn stacks(&self) -> Vec<String> {
        let answer = runtime()
            .block_on(self.cloudformation().describe_stacks().send())
            .expect("stacks list");
        let mut ids: Vec<_> = answer
            .stacks()
            .iter()
            .filter(|s| {
                s.stack_status()
                    .is_none_or(|s| s.as_str() != "DELETE_COMPLETE")
            })
            .filter_map(|s| s.stack_id().map(str::to_owned))
            .collect();
        ids.sort();
        ids
    }

    pub fn delete_stack(&self, id: &str) {
        runtime()
            .block_on(self.cloudformation().delete_stack().stack_name(id).send())
            .expect("the stack is deleted");
    }

    pub fn delete_stack_in(&self, region: &'static str, id: &str) {
        let client = aws_sdk_cloudformation::Client::new(&self.sdk_in(region));
        runtime()
            .block_on(client.delete_stack().stack_name(id).send())
            .expect("the stack is deleted");
    }

    /// Name of a stack's Auto Scaling group.
    pub fn group(&self, stack: &str) -> String {
        let answer = runtime()
            .block_on(
                self.cloudformation()
                    .describe_stack_resources()
                    .stack_name(stack)
                    .send(),
            )
            .expect("the stack has resources");
        let group = answer
            .stack_resources()
            .iter()
            .find(|r| r.resource_type() == Some("AWS::AutoScaling::AutoScalingGroup"));
        group
            .and_then(|g| g.physical_resource_id())
            .expect("the stack has a group")
            .to_owned()
    }

    /// What an alarm's scaling policy does.
    pub fn set_desired(&self, stack: &str, desired: i32) {
        let call = self
            .autoscaling()
            .set_desired_capacity()
            .auto_scaling_group_name(self.group(stack))
            .desired_capacity(desired);
        runtime().block_on(call.send()).expect("the group scales");
    }

    pub fn desired(&self, stack: &str) -> i32 {
        let call = self
            .autoscaling()
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(self.group(stack));
        let answer = runtime()
            .block_on(call.send())
            .expect("the group is described");
        answer
            .auto_scaling_groups()
            .first()
            .and_then(|g| g.desired_capacity())
            .expect("a desired capacity")
    }

    /// What a failed status check does.
    pub fn terminate(&self, instance: &str) {
        let call = self
            .autoscaling()
            .terminate_instance_in_auto_scaling_group()
            .instance_id(instance)
            .should_decrement_desired_capacity(false);
        runtime()
            .block_on(call.send())
            .expect("the instance is terminated");
    }

    /// Removes the tag that names the promoted stack.
    pub fn forget_promotion(&self) {
        let elb = aws_sdk_elasticloadbalancingv2::Client::new(&self.sdk());
        let call = elb
            .remove_tags()
            .resource_arns(self.var("PORTER_LOCAL_TARGET_GROUP_ARN"))
            .tag_keys(tag::PROMOTED_STACK);
        runtime().block_on(call.send()).expect("the tag is removed");
    }
}
