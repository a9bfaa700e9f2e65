//! Stacks: find, create, update, delete, events, change sets.

use super::{Error, Kind, Session, error::Site, timestamp};
use crate::{drift::Change, eligibility::StackStatus, template::ParameterValue};
use aws_sdk_cloudformation::types::{self, Capability, ChangeSetStatus, ChangeSetType};
use contract::names::{AUTO_SCALING_GROUP, tag};
use jiff::Timestamp;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// CloudFormation in one region.
#[derive(Clone, Debug)]
pub struct CloudFormation {
    client: aws_sdk_cloudformation::Client,
    site: Site,
}

/// A stack as it was read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Stack id (an ARN).
    pub id: String,
    /// Stack name.
    pub name: String,
    /// Its status.
    pub status: StackStatus,
    /// CloudFormation's reason for the status.
    pub reason: Option<String>,
    /// When CreateStack was called.
    pub created: Timestamp,
    /// When the last update began.
    pub updated: Option<Timestamp>,
    /// The stack's own tags.
    pub tags: BTreeMap<String, String>,
    /// Resolved parameters.
    pub parameters: BTreeMap<String, String>,
    /// Outputs.
    pub outputs: BTreeMap<String, String>,
}

/// What create, update and change sets have in common.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// HTTPS address of the uploaded template ([`super::s3::S3::url`]).
    pub template_url: &'a str,
    /// Values of the template's parameters.
    pub parameters: &'a BTreeMap<String, ParameterValue>,
    /// Tags of the stack, propagated to its resources. Left as they are by an update when empty.
    pub tags: &'a BTreeMap<String, String>,
    /// Client token: the swap id, so that a repeated call is harmless (D-HOT-21).
    pub token: &'a str,
}

/// What CloudFormation does with a stack that could not be created (D-CLI-48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Deletes it.
    #[default]
    Delete,
    /// Deletes its resources and keeps the record.
    Rollback,
    /// Leaves everything for people to look at.
    DoNothing,
}

impl OnFailure {
    /// From `STACK_CREATION_ON_FAILURE`; anything unknown means delete.
    pub fn from_setting(text: &str) -> Self {
        match text {
            "ROLLBACK" => Self::Rollback,
            "DO_NOTHING" => Self::DoNothing,
            _ => Self::Delete,
        }
    }
}

/// What became of an update call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The update is under way.
    Started,
    /// "No updates are to be performed" (D-HOT-22).
    NoUpdates,
}

/// What a change set turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeSet {
    /// CloudFormation is still comparing.
    Pending,
    /// These resources would change.
    Ready(Vec<Change>),
    /// Nothing would change. No proof: MiniStack says so when only a parameter in metadata changes, so UpdateStack is
    /// called all the same.
    Empty,
    /// CloudFormation refused the template.
    Failed(String),
}

/// One event of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackEvent {
    /// Unique.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Logical id; the stack's own events carry the stack's name.
    pub logical_id: String,
    /// Such as an instance profile's name; for the stack itself its id.
    pub physical_id: String,
    /// Such as `AWS::IAM::Role`.
    pub resource_type: String,
    /// Such as `CREATE_FAILED`.
    pub status: String,
    /// Why, for people.
    pub reason: Option<String>,
}

impl StackEvent {
    /// True for an event of the stack as a whole.
    pub fn is_of_stack(&self) -> bool {
        self.resource_type == "AWS::CloudFormation::Stack" && self.physical_id.contains(":stack/")
    }
}

impl CloudFormation {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_cloudformation::Client::new(&session.config),
            site: Site {
                service: "CloudFormation",
                region: session.region.clone(),
            },
        }
    }

    /// The stack of that id or name, if there is one. By id, CloudFormation also tells of deleted ones.
    ///
    /// # Errors
    /// The call failed.
    pub async fn stack(&self, id: &str) -> Result<Option<Stack>, Error> {
        let call = self.client.describe_stacks().stack_name(id).send().await;
        match call.map_err(self.site.failed("DescribeStacks")) {
            Ok(answer) => Ok(answer.stacks().first().and_then(stack)),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every stack whose tags name this service and environment (D-PROV-3); deleted ones are not listed.
    ///
    /// # Errors
    /// A call failed; nothing is known then.
    pub async fn stacks_of(&self, service: &str, environment: &str) -> Result<Vec<Stack>, Error> {
        let pages = self
            .client
            .describe_stacks()
            .into_paginator()
            .items()
            .send();
        let all = pages
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(self.site.failed("DescribeStacks"))?;
        let has = |s: &Stack, key: &str, value: &str| s.tags.get(key).is_some_and(|v| v == value);
        let ours =
            |s: &Stack| has(s, tag::SERVICE, service) && has(s, tag::ENVIRONMENT, environment);
        Ok(all.iter().filter_map(stack).filter(ours).collect())
    }

    /// Starts the creation of a stack and returns its id (D-PROV-4).
    ///
    /// # Errors
    /// Nothing was created.
    pub async fn create(
        &self,
        name: &str,
        request: &Request<'_>,
        on_failure: OnFailure,
        timeout: Duration,
    ) -> Result<String, Error> {
        const CALL: &str = "CreateStack";
        let minutes = timeout.as_secs().div_ceil(60).max(1);
        let answer = self
            .client
            .create_stack()
            .stack_name(name)
            .template_url(request.template_url)
            .set_parameters(Some(parameters(request)))
            .set_tags(Some(tags(request)))
            .client_request_token(request.token)
            .capabilities(Capability::CapabilityIam)
            .on_failure(match on_failure {
                OnFailure::Delete => types::OnFailure::Delete,
                OnFailure::Rollback => types::OnFailure::Rollback,
                OnFailure::DoNothing => types::OnFailure::DoNothing,
            })
            .timeout_in_minutes(i32::try_from(minutes).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(self.site.failed(CALL))?;
        answer
            .stack_id
            .ok_or_else(|| self.site.incomplete(CALL, "stack id"))
    }

    /// Starts an update (D-HOT-21).
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn update(&self, id: &str, request: &Request<'_>) -> Result<UpdateOutcome, Error> {
        let call = self
            .client
            .update_stack()
            .stack_name(id)
            .template_url(request.template_url)
            .set_parameters(Some(parameters(request)))
            .set_tags(Some(tags(request)).filter(|t| !t.is_empty()))
            .client_request_token(request.token)
            .capabilities(Capability::CapabilityIam)
            .send()
            .await;
        match call.map_err(self.site.failed("UpdateStack")) {
            Ok(_) => Ok(UpdateOutcome::Started),
            Err(e) if e.message.contains("No updates are to be performed") => {
                Ok(UpdateOutcome::NoUpdates)
            }
            Err(e) => Err(e),
        }
    }

    /// Starts the deletion of a stack; one that is gone already is no error.
    ///
    /// # Errors
    /// The stack stays.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        let call = self.client.delete_stack().stack_name(id).send().await;
        match call.map_err(self.site.failed("DeleteStack")) {
            Err(e) if !is_missing(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// The events of the operation that was begun last, oldest first: from the stack's own `CREATE_IN_PROGRESS`,
    /// `UPDATE_IN_PROGRESS` or `DELETE_IN_PROGRESS` on. Told by the events themselves, so no clocks have to agree.
    ///
    /// # Errors
    /// A call failed.
    pub async fn events_of_last_operation(&self, id: &str) -> Result<Vec<StackEvent>, Error> {
        self.events_until(id, |e| {
            e.is_of_stack()
                && matches!(
                    e.status.as_str(),
                    "CREATE_IN_PROGRESS" | "UPDATE_IN_PROGRESS" | "DELETE_IN_PROGRESS"
                )
        })
        .await
    }

    /// The events after the one with the id `last`, oldest first; all of them without it.
    ///
    /// # Errors
    /// A call failed.
    pub async fn events_since(
        &self,
        id: &str,
        last: Option<&str>,
    ) -> Result<Vec<StackEvent>, Error> {
        let mut events = self
            .events_until(id, |e| Some(e.id.as_str()) == last)
            .await?;
        if events.first().is_some_and(|e| Some(e.id.as_str()) == last) {
            events.remove(0);
        }
        Ok(events)
    }

    /// CloudFormation answers the newest first; reads back to the first event that `is_start` accepts, inclusively.
    async fn events_until(
        &self,
        id: &str,
        is_start: impl Fn(&StackEvent) -> bool,
    ) -> Result<Vec<StackEvent>, Error> {
        let mut pages = self
            .client
            .describe_stack_events()
            .stack_name(id)
            .into_paginator()
            .items()
            .send();
        let mut events = vec![];
        while let Some(next) = pages.next().await {
            let Some(next) = event(&next.map_err(self.site.failed("DescribeStackEvents"))?) else {
                continue;
            };
            let found = is_start(&next);
            events.push(next);
            if found {
                break;
            }
        }
        events.reverse();
        Ok(events)
    }

    /// The template as it was last deployed.
    ///
    /// # Errors
    /// The call failed, or the template is not JSON, which no template of ours is.
    pub async fn template(&self, stack: &str) -> Result<Value, Error> {
        const CALL: &str = "GetTemplate";
        let answer = self
            .client
            .get_template()
            .stack_name(stack)
            .send()
            .await
            .map_err(self.site.failed(CALL))?;
        serde_json::from_str(answer.template_body().unwrap_or_default())
            .map_err(|e| self.site.local(CALL, e))
    }

    /// Name of the stack's Auto Scaling group: its only one, or of several the one under our own logical id.
    ///
    /// # Errors
    /// The call failed.
    pub async fn group_of(&self, stack: &str) -> Result<Option<String>, Error> {
        let call = self.client.describe_stack_resources().stack_name(stack);
        let answer = match call
            .send()
            .await
            .map_err(self.site.failed("DescribeStackResources"))
        {
            Err(e) if is_missing(&e) => return Ok(None),
            other => other?,
        };
        let groups: Vec<_> = answer
            .stack_resources()
            .iter()
            .filter(|r| r.resource_type() == Some("AWS::AutoScaling::AutoScalingGroup"))
            .collect();
        let ours = groups
            .iter()
            .find(|r| r.logical_resource_id() == Some(AUTO_SCALING_GROUP));
        let group = match groups.as_slice() {
            [only] => Some(only),
            _ => ours,
        };
        Ok(group
            .and_then(|r| r.physical_resource_id())
            .filter(|id| !id.is_empty())
            .map(str::to_owned))
    }

    /// The physical id of a resource, such as the queue's URL or the group's name (D-HOT-34).
    ///
    /// # Errors
    /// The call failed.
    pub async fn physical_id(
        &self,
        stack: &str,
        logical_id: &str,
    ) -> Result<Option<String>, Error> {
        let call = self
            .client
            .describe_stack_resource()
            .stack_name(stack)
            .logical_resource_id(logical_id);
        match call
            .send()
            .await
            .map_err(self.site.failed("DescribeStackResource"))
        {
            Ok(answer) => {
                let detail = answer.stack_resource_detail();
                Ok(detail
                    .and_then(|d| d.physical_resource_id())
                    .filter(|id| !id.is_empty())
                    .map(str::to_owned))
            }
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A resource's metadata with intrinsic functions resolved, as hosts read it.
    ///
    /// # Errors
    /// The call failed, or the metadata is not JSON.
    pub async fn metadata(&self, stack: &str, logical_id: &str) -> Result<Option<Value>, Error> {
        const CALL: &str = "DescribeStackResource";
        let call = self
            .client
            .describe_stack_resource()
            .stack_name(stack)
            .logical_resource_id(logical_id);
        let answer = match call.send().await.map_err(self.site.failed(CALL)) {
            Err(e) if is_missing(&e) => return Ok(None),
            other => other?,
        };
        let text = answer
            .stack_resource_detail()
            .and_then(|d| d.metadata())
            .filter(|t| !t.is_empty());
        text.map(serde_json::from_str)
            .transpose()
            .map_err(|e| self.site.local(CALL, format!("metadata: {e}")))
    }

    /// Asks what an update would change (D-HOT-20) and returns the change set's id, by which [`Self::change_set`] tells.
    ///
    /// # Errors
    /// CloudFormation refused the request.
    pub async fn create_change_set(
        &self,
        stack: &str,
        name: &str,
        request: &Request<'_>,
    ) -> Result<String, Error> {
        const CALL: &str = "CreateChangeSet";
        let answer = self
            .client
            .create_change_set()
            .stack_name(stack)
            .change_set_name(name)
            .change_set_type(ChangeSetType::Update)
            .template_url(request.template_url)
            .set_parameters(Some(parameters(request)))
            .set_tags(Some(tags(request)).filter(|t| !t.is_empty()))
            .capabilities(Capability::CapabilityIam)
            .send()
            .await
            .map_err(self.site.failed(CALL))?;
        answer
            .id
            .ok_or_else(|| self.site.incomplete(CALL, "change set id"))
    }

    /// What the change set holds, as far as it is known yet.
    ///
    /// # Errors
    /// A call failed.
    pub async fn change_set(&self, id: &str) -> Result<ChangeSet, Error> {
        let mut changes = vec![];
        let mut token = None;
        loop {
            let call = self.client.describe_change_set().change_set_name(id);
            let page = call
                .set_next_token(token)
                .send()
                .await
                .map_err(self.site.failed("DescribeChangeSet"))?;
            let reason = page.status_reason().unwrap_or_default();
            match page.status() {
                Some(ChangeSetStatus::CreateComplete) => {}
                // Both sentences have been in use for the same thing.
                Some(ChangeSetStatus::Failed)
                    if reason.contains("didn't contain changes")
                        || reason.contains("No updates are to be") =>
                {
                    return Ok(ChangeSet::Empty);
                }
                Some(ChangeSetStatus::CreatePending | ChangeSetStatus::CreateInProgress) | None => {
                    return Ok(ChangeSet::Pending);
                }
                Some(status) => {
                    return Ok(ChangeSet::Failed(format!("{}: {reason}", status.as_str())));
                }
            }
            changes.extend(
                page.changes()
                    .iter()
                    .filter_map(|c| c.resource_change())
                    .map(change),
            );
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(if changes.is_empty() {
                    ChangeSet::Empty
                } else {
                    ChangeSet::Ready(changes)
                });
            }
        }
    }

    /// Forgets a change set.
    ///
    /// # Errors
    /// It stays, which harms nobody.
    pub async fn delete_change_set(&self, id: &str) -> Result<(), Error> {
        let call = self.client.delete_change_set().change_set_name(id);
        call.send()
            .await
            .map_err(self.site.failed("DeleteChangeSet"))
            .map(drop)
    }
}

/// CloudFormation answers a missing stack with `ValidationError` and a sentence.
fn is_missing(error: &Error) -> bool {
    error.kind == Kind::NotFound
        || (error.kind == Kind::Refused && error.message.contains("does not exist"))
}

fn parameters(request: &Request<'_>) -> Vec<types::Parameter> {
    let parameter = |(name, value): (&String, &ParameterValue)| {
        let parameter = types::Parameter::builder().parameter_key(name);
        match value {
            ParameterValue::New(value) => parameter.parameter_value(value).build(),
            ParameterValue::Previous => parameter.use_previous_value(true).build(),
        }
    };
    request.parameters.iter().map(parameter).collect()
}

fn tags(request: &Request<'_>) -> Vec<types::Tag> {
    request
        .tags
        .iter()
        .map(|(k, v)| types::Tag::builder().key(k).value(v).build())
        .collect()
}

fn stack(stack: &types::Stack) -> Option<Stack> {
    Some(Stack {
        id: stack.stack_id()?.to_owned(),
        name: stack.stack_name()?.to_owned(),
        status: StackStatus::new(stack.stack_status()?.as_str()),
        reason: stack
            .stack_status_reason()
            .filter(|r| !r.is_empty())
            .map(str::to_owned),
        created: timestamp(stack.creation_time()?),
        updated: stack.last_updated_time().map(timestamp),
        tags: pairs(stack.tags().iter().map(|t| (t.key(), t.value()))),
        parameters: pairs(
            stack
                .parameters()
                .iter()
                .map(|p| (p.parameter_key(), p.parameter_value())),
        ),
        outputs: pairs(
            stack
                .outputs()
                .iter()
                .map(|o| (o.output_key(), o.output_value())),
        ),
    })
}

fn pairs<'a>(
    of: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> BTreeMap<String, String> {
    of.filter_map(|(k, v)| Some((k?.to_owned(), v.unwrap_or_default().to_owned())))
        .collect()
}

fn event(event: &types::StackEvent) -> Option<StackEvent> {
    let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
    Some(StackEvent {
        id: event.event_id()?.to_owned(),
        at: timestamp(event.timestamp()?),
        logical_id: text(event.logical_resource_id()),
        physical_id: text(event.physical_resource_id()),
        resource_type: text(event.resource_type()),
        status: text(event.resource_status().map(|s| s.as_str())),
        reason: event
            .resource_status_reason()
            .filter(|r| !r.is_empty())
            .map(str::to_owned),
    })
}

fn change(change: &types::ResourceChange) -> Change {
    let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
    let mut properties: Vec<(String, bool)> = vec![];
    for detail in change.details() {
        let Some(target) = detail.target() else {
            continue;
        };
        let name = target
            .name()
            .or_else(|| target.attribute().map(|a| a.as_str()));
        let Some(name) = name.filter(|_| {
            target
                .attribute()
                .is_none_or(|a| a.as_str() == "Properties")
        }) else {
            continue;
        };
        let dynamic = detail.evaluation().is_some_and(|e| e.as_str() == "Dynamic");
        // The same property may be listed once for each of its causes; it is dynamic only when all of them are.
        match properties.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known &= dynamic,
            None => properties.push((name.to_owned(), dynamic)),
        }
    }
    Change {
        logical_id: text(change.logical_resource_id()),
        resource_type: text(change.resource_type()),
        action: text(change.action().map(|a| a.as_str())),
        replacement: text(change.replacement().map(|r| r.as_str())),
        scope: change
            .scope()
            .iter()
            .map(|s| s.as_str().to_owned())
            .collect(),
        properties,
    }
}
