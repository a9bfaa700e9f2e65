//! DescribeStackResource, the one call that cfn-init and cfn-hup make; credentials come from the metadata service.

use anyhow::{Context, Result};
use aws_config::{BehaviorVersion, Region};
use serde_json::Value;

/// A resource as the stack has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    /// Resolved metadata.
    pub metadata: Option<Value>,
    /// Physical id.
    pub physical_id: String,
    /// Status of the resource, not of the stack.
    pub status: String,
    /// Seconds since 1970.
    pub last_updated: f64,
}

/// The default configuration of a program on an instance, in a region where one is given.
pub async fn config(region: Option<&str>) -> aws_config::SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())).load().await,
        None => loader.load().await,
    }
}

/// Describes a resource of a stack.
///
/// # Errors
/// The call failed, or the metadata is not JSON.
pub async fn describe(region: Option<&str>, stack: &str, resource: &str) -> Result<Detail> {
    let client = aws_sdk_cloudformation::Client::new(&config(region).await);
    with(&client, stack, resource).await
}

/// Describes a resource of a stack with this client.
///
/// # Errors
/// As [`describe`].
pub async fn with(
    client: &aws_sdk_cloudformation::Client,
    stack: &str,
    resource: &str,
) -> Result<Detail> {
    let output = client
        .describe_stack_resource()
        .stack_name(stack)
        .logical_resource_id(resource)
        .send()
        .await
        .map_err(|e| {
            anyhow::anyhow!(
                "DescribeStackResource {resource}: {}",
                aws_sdk_cloudformation::error::DisplayErrorContext(&e)
            )
        })?;
    let detail = output
        .stack_resource_detail
        .context("DescribeStackResource: no detail")?;
    let metadata = match detail.metadata.as_deref().filter(|m| !m.is_empty()) {
        Some(text) => Some(serde_json::from_str(text).context("the metadata is not JSON")?),
        None => None,
    };
    Ok(Detail {
        metadata,
        physical_id: detail.physical_resource_id.unwrap_or_default(),
        status: detail
            .resource_status
            .map(|s| s.as_str().to_owned())
            .unwrap_or_default(),
        last_updated: detail
            .last_updated_timestamp
            .map(|t| t.as_secs_f64())
            .unwrap_or_default(),
    })
}
