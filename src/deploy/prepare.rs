//! Step 2: the payload and the template reach every region's bucket, and nothing else happens.

use super::{
    Deployment, UNTOUCHED, Way,
    decide::stack_tags,
    region::{Target, aws_failure, template_failure},
};
use crate::{
    aws::{
        cloudformation::{self, ChangeSet},
        s3::Put,
    },
    config::OnTemplateDrift,
    drift::{self, Drift},
    error::{Exit, Failure},
    payload::{blobs, upload},
    report::size,
    template::{self, Assembled, ParameterValue},
    update::Times,
};
use contract::names;
use futures::{FutureExt, future::try_join_all};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A change set is normally ready within seconds; after this time something is wrong with it.
const CHANGE_SET_LIMIT: Duration = Duration::from_secs(120);

/// What a region's stack call needs.
pub(super) struct Prepared {
    pub assembled: Assembled,
    pub template_url: String,
}

impl Deployment<'_> {
    /// Uploads what is missing, assembles the template and uploads it, in all regions.
    pub(super) async fn prepare(
        &self,
        targets: &mut [Target],
        state: &str,
    ) -> Result<Vec<Prepared>, Failure> {
        let work = try_join_all(targets.iter_mut().map(|t| self.prepare_region(t)));
        self.unless_interrupted(state, work).await
    }

    async fn prepare_region(&self, target: &mut Target) -> Result<Prepared, Failure> {
        self.upload(target).await?;
        self.assemble(target).await
    }

    async fn upload(&self, target: &mut Target) -> Result<(), Failure> {
        let region = target.region.name.clone();
        let total = self
            .packed
            .manifest
            .blobs()
            .iter()
            .map(|b| b.size)
            .sum::<u64>()
            + self.packed.manifest_size;
        let bar = self.console.bytes(&format!("{region}: upload"), total);
        let bucket = bucket_of(target);
        let failed = |e: upload::UploadError| {
            Failure::because(
                Exit::Failure,
                format!(
                    "{region}: the payload did not reach the bucket {}",
                    target.region.s3_bucket
                ),
                e,
            )
            .hint("no host has been asked for anything; the same command goes on where this ended")
        };
        let (_, agent) = upload::upload_agent(&self.config.service_name, &self.agent.path, &bucket)
            .await
            .map_err(failed)?;
        let payload = upload::upload(&self.packed, &bucket, &|bytes| bar.inc(bytes))
            .await
            .map_err(failed)?;
        bar.finish_and_clear();
        target.uploaded += agent.bytes + payload.bytes;
        self.console.say(format!(
            "  {region}: {} uploaded, {} were there already",
            size(agent.bytes + payload.bytes),
            size(agent.skipped_bytes + payload.skipped_bytes)
        ));
        Ok(())
    }

    /// The final template with the present `target.desired`, in the bucket.
    pub(super) async fn assemble(&self, target: &mut Target) -> Result<Prepared, Failure> {
        let region = target.region.name.clone();
        let bootstrap = self.host_bootstrap(target).await?;
        let assembled = self
            .assembled(target, &bootstrap)
            .map_err(|e| template_failure(&region, &e))?;
        for warning in &assembled.warnings {
            self.console.warn(warning);
        }
        let bytes = assembled.json.clone().into_bytes();
        // One file for each region; the first one also under porter's old name (D-CLI-47).
        let names = [
            format!("template.{region}.json"),
            "CloudFormationTemplate.json".to_owned(),
        ];
        let first = self
            .environment
            .regions
            .first()
            .is_some_and(|r| r.name == region);
        for name in names.iter().take(if first { 2 } else { 1 }) {
            crate::files::write_atomically(&self.request.out.join(name), &bytes).map_err(|e| {
                Failure::because(Exit::Failure, format!("{name} can't be written"), e)
            })?;
        }
        let key = names::template_key(
            &self.config.service_name,
            &self.environment.name,
            &self.packed.manifest.version,
            &blobs::digest(&bytes),
        );
        let s3 = target.aws.s3();
        let bucket = &target.region.s3_bucket;
        let put = Put {
            content_type: "application/json",
            kms_key: target.region.sse_kms_key_id.as_deref(),
        };
        let fail = |e| {
            aws_failure(
                &region,
                "the template was not uploaded; no host has been asked for anything",
                e,
            )
        };
        if s3.head(bucket, &key).await.map_err(fail)?.is_none() {
            s3.put_bytes(bucket, &key, bytes, &put)
                .await
                .map_err(fail)?;
        }
        let template_url = s3.url(bucket, &key);
        target.template_url = Some(template_url.clone());
        target.group_id.clone_from(&assembled.auto_scaling_group);
        Ok(Prepared {
            assembled,
            template_url,
        })
    }

    /// The final template; pure but for the clock-free inputs it is given.
    pub(super) fn assembled(
        &self,
        target: &Target,
        host_bootstrap: &str,
    ) -> Result<Assembled, template::TemplateError> {
        template::assemble(&template::Input {
            config: &self.config,
            environment: &self.environment,
            region: &target.region,
            user_template: target.user_template.as_deref(),
            tool_version: super::decide::VERSION,
            agent: &self.agent.pinned,
            destination: &target.destination,
            desired_capacity: target.desired,
            host_bootstrap,
            stack_creation_timeout: self.times().timeout,
        })
    }

    /// How long stacks may take, by the environment (D-CLI-48).
    pub(super) fn times(&self) -> Times {
        Times::from_environment(|name| std::env::var(name).ok())
    }

    /// The values of this run.
    pub(super) fn values(&self, stack_name: &str, deadline: Timestamp) -> template::Deployment {
        template::Deployment {
            stack_name: stack_name.to_owned(),
            payload: self.packed.payload.clone(),
            swap_id: self.swap.clone(),
            deadline,
        }
    }

    /// Looks at what the update would change beside what a swap may change (D-HOT-20). `Some` names the drift that means
    /// building new hosts instead.
    ///
    /// # Errors
    /// The configuration forbids to go on with such drift, or nothing may carry it out.
    pub(super) async fn drift(
        &self,
        targets: &[Target],
        prepared: &[Prepared],
    ) -> Result<Option<Vec<String>>, Failure> {
        let state = UNTOUCHED;
        let work = try_join_all(
            targets
                .iter()
                .zip(prepared)
                .map(|(t, p)| self.drift_in(t, p)),
        );
        let found: Vec<(String, Vec<Drift>)> = self.unless_interrupted(state, work).await?;
        let lines: Vec<String> = found
            .iter()
            .flat_map(|(region, drift)| drift.iter().map(move |d| format!("{region}: {d}")))
            .collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let destructive = found
            .iter()
            .any(|(_, drift)| drift.iter().any(|d| d.destructive));
        let refuse = |message: &str| {
            let failure = Failure::new(Exit::NotEligible, message)
                .hint("deploy this change with --no-hotswap, which builds new hosts, or take it out of the template")
                .hint(state);
            Err(lines.iter().fold(failure, Failure::detail))
        };
        match self.environment.hot_swap.on_template_drift {
            OnTemplateDrift::Allow if destructive => {
                refuse("the update would replace or remove resources, which no hot swap may do")
            }
            OnTemplateDrift::Allow => {
                for line in &lines {
                    self.console
                        .warn(format!("{line} (let through by on_template_drift: allow)"));
                }
                Ok(None)
            }
            OnTemplateDrift::Provision if self.request.way != Way::HotSwap => Ok(Some(lines)),
            OnTemplateDrift::Provision | OnTemplateDrift::Fail => {
                refuse("the template differs in more than a hot swap may change")
            }
        }
    }

    async fn drift_in(
        &self,
        target: &Target,
        prepared: &Prepared,
    ) -> Result<(String, Vec<Drift>), Failure> {
        let region = target.region.name.clone();
        let stack = target.stack.clone().unwrap_or_default();
        let cloudformation = target.aws.cloudformation();
        let fail = |e| {
            aws_failure(
                &region,
                "the change set can't be inspected; nothing has changed",
                e,
            )
        };
        let request = self
            .update_request(target, prepared, self.deadline())
            .await?;
        // Letters first: a change set's name may not begin with a digit, as a ULID does.
        let name = format!("porter-{}", self.swap);
        let id = cloudformation
            .create_change_set(
                &stack,
                &name,
                &request.as_request(&prepared.template_url, &self.swap),
            )
            .await
            .map_err(fail)?;
        let begun = Timestamp::now();
        let looked = loop {
            match cloudformation.change_set(&id).await.map_err(fail)? {
                ChangeSet::Pending
                    if Timestamp::now().duration_since(begun)
                        < jiff::SignedDuration::try_from(CHANGE_SET_LIMIT).unwrap_or_default() =>
                {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                ChangeSet::Pending => {
                    break Err(Failure::new(
                        Exit::Failure,
                        format!(
                            "{region}: the change set {name} is not ready after {} s; nothing has changed",
                            CHANGE_SET_LIMIT.as_secs()
                        ),
                    ));
                }
                ChangeSet::Ready(changes) => break Ok(changes),
                ChangeSet::Empty => break Ok(vec![]),
                ChangeSet::Failed(why) => {
                    break Err(Failure::new(
                        Exit::Failure,
                        format!("{region}: CloudFormation refuses the update: {why}"),
                    )
                    .hint(UNTOUCHED));
                }
            }
        };
        // One that stays behind is harmless and goes with the stack.
        if let Err(error) = cloudformation.delete_change_set(&id).await {
            self.console.warn(format!(
                "{region}: the inspected change set stays behind: {error}"
            ));
        }
        Ok((region, drift::inspect(&looked?)))
    }

    /// When hosts stop moving traffic for this swap (D-HOT-43).
    pub(super) fn deadline(&self) -> Timestamp {
        Timestamp::now() + self.environment.hot_swap.deadline
    }

    /// Parameters of UpdateStack: new values, and previous ones where a running stack has to keep them (D-TPL-7).
    pub(super) async fn update_request(
        &self,
        target: &Target,
        prepared: &Prepared,
        deadline: Timestamp,
    ) -> Result<StackRequest, Failure> {
        let id = target.stack.clone().unwrap_or_default();
        let stack = target
            .aws
            .cloudformation()
            .stack(&id)
            .await
            .map_err(|e| aws_failure(&target.region.name, "the stack can't be read", e))?;
        let Some(stack) = stack else {
            return Err(Failure::new(
                Exit::Failure,
                format!("{}: the stack {id} is gone", target.region.name),
            ));
        };
        let existing: BTreeSet<String> = stack.parameters.keys().cloned().collect();
        let parameters = prepared
            .assembled
            .update_values(&self.values(&stack.name, deadline), &existing);
        // Tags stay as they were created: CloudFormation hands changed ones down to every resource, and a swap must not
        // touch any (D-TPL-53).
        Ok(StackRequest {
            parameters,
            tags: BTreeMap::new(),
            updated: stack.updated,
        })
    }

    /// Parameters and tags of CreateStack.
    pub(super) fn create_request(
        &self,
        stack_name: &str,
        prepared: &Prepared,
        deadline: Timestamp,
    ) -> StackRequest {
        let values = prepared
            .assembled
            .creation_values(&self.values(stack_name, deadline));
        StackRequest {
            parameters: values
                .into_iter()
                .map(|(k, v)| (k, ParameterValue::New(v)))
                .collect(),
            tags: stack_tags(self),
            updated: None,
        }
    }
}

/// What a stack call is made of.
pub(super) struct StackRequest {
    parameters: BTreeMap<String, ParameterValue>,
    tags: BTreeMap<String, String>,
    /// LastUpdatedTime of the stack before the call.
    pub updated: Option<Timestamp>,
}

impl StackRequest {
    pub(super) fn as_request<'a>(
        &'a self,
        template_url: &'a str,
        token: &'a str,
    ) -> cloudformation::Request<'a> {
        cloudformation::Request {
            template_url,
            parameters: &self.parameters,
            tags: &self.tags,
            token,
        }
    }
}

/// The region's bucket as the payload's upload wants it.
pub(super) fn bucket_of(target: &Target) -> upload::Bucket {
    let (s3, bucket, kms_key) = (
        target.aws.s3(),
        target.region.s3_bucket.clone(),
        target.region.sse_kms_key_id.clone(),
    );
    let (s3_too, bucket_too) = (s3.clone(), bucket.clone());
    upload::Bucket {
        size: Box::new(move |key| {
            let (s3, bucket, key) = (s3.clone(), bucket.clone(), key.to_owned());
            async move { Ok(s3.head(&bucket, &key).await?.map(|h| h.size)) }.boxed()
        }),
        put: Box::new(move |object| {
            let (s3, bucket, kms_key) = (s3_too.clone(), bucket_too.clone(), kms_key.clone());
            async move {
                let put = Put {
                    content_type: object.content_type,
                    kms_key: kms_key.as_deref(),
                };
                Ok(s3
                    .put_file(&bucket, &object.key, &object.path, &put, |_| {})
                    .await?)
            }
            .boxed()
        }),
    }
}
