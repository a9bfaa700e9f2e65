//! What this host shall run: `/etc/porter/stack.json` names the stack, the launch template's metadata holds the rest.

use aws_sdk_cloudformation::Client;
use contract::job::DesiredState;
use serde::Deserialize;
use std::path::Path;

/// Where the desired state is, as cfn-init wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StackFile {
    /// Stack id or name.
    pub stack: String,
    /// Its region.
    pub region: String,
    /// Logical id of the resource whose metadata is read.
    pub resource: String,
}

impl StackFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A sentence naming the file: without it the host does not know its stack.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|e| {
            format!(
                "{} can't be read: {e}. cfn-init writes it; see /var/log/cfn-init.log",
                path.display()
            )
        })?;
        serde_json::from_slice(&bytes).map_err(|e| format!("{} is damaged: {e}", path.display()))
    }
}

/// The stack, as this host may see it.
#[derive(Clone, Debug)]
pub struct Stack {
    client: Client,
    file: StackFile,
}

impl Stack {
    /// Endpoint and credentials come from the SDK's chain.
    pub fn new(config: &aws_config::SdkConfig, file: StackFile) -> Self {
        Self {
            client: Client::new(config),
            file,
        }
    }

    /// The desired state as it is now.
    ///
    /// # Errors
    /// A sentence: CloudFormation does not answer, or the metadata is not ours.
    pub async fn desired(&self) -> Result<DesiredState, String> {
        let StackFile {
            stack, resource, ..
        } = &self.file;
        let answer = self
            .client
            .describe_stack_resource()
            .stack_name(stack)
            .logical_resource_id(resource)
            .send()
            .await
            .map_err(|e| {
                format!(
                    "the metadata of {resource} in stack {stack} can't be read: {}",
                    crate::aws_error(&e)
                )
            })?;
        let text = answer
            .stack_resource_detail()
            .and_then(|d| d.metadata())
            .ok_or_else(|| format!("{resource} in stack {stack} has no metadata"))?;
        let value = serde_json::from_str(text)
            .map_err(|e| format!("the metadata of {resource} in stack {stack} is no JSON: {e}"))?;
        DesiredState::from_metadata(&value)
    }
}
