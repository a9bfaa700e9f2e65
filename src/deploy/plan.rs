//! What the next provision would do, told without doing it (D-HOT-60).

use super::{
    Deployment, Request,
    prepare::bucket_of,
    region::{Target, aws_failure, template_failure},
};
use crate::{
    capacity::Sizes,
    eligibility::Decision,
    error::{Exit, Failure},
    payload::upload,
    progress::Console,
    report::size,
};
use contract::digest::Digest;
use futures::future::try_join_all;
use serde::Serialize;
use std::fmt::Write;
use tokio_util::sync::CancellationToken;

/// The plan of one environment.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// What would be done, and why.
    pub decision: Decision,
    /// The payload that would be deployed.
    pub payload: Digest,
    /// One entry a region.
    pub regions: Vec<RegionPlan>,
}

/// One region's part of the plan.
#[derive(Debug, Serialize)]
pub struct RegionPlan {
    /// Region name.
    pub region: String,
    /// What was found, in one line.
    pub finding: String,
    /// The sizes that the capacity rule compares.
    pub sizes: PlannedSizes,
    /// Payload that the promoted stack was last asked to run.
    pub serving: Option<String>,
    /// Bytes that the bucket lacks.
    pub bytes_to_upload: u64,
    /// Bytes that are there already.
    pub bytes_there: u64,
    /// Resources whose definition differs from the promoted stack's, by logical id; a swap may change the launch
    /// template's metadata and the group's sizes and tags, anything else is looked at closer before the update.
    pub differing_resources: Vec<String>,
}

/// Sizes of template and promoted group.
#[derive(Debug, Serialize)]
pub struct PlannedSizes {
    /// MinSizeT, MaxSizeT, DesiredT.
    pub template: Sizes,
    /// MinSizeP, MaxSizeP, DesiredP.
    pub promoted: Option<Sizes>,
    /// DesiredCapacity that would be deployed.
    pub desired: u32,
}

/// Looks at everything that a deployment depends on and changes nothing.
///
/// # Errors
/// What would keep the deployment from starting, the capacity rule included.
pub async fn plan(
    request: &Request,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Plan, Failure> {
    let deployment = Deployment::open(request, console, stop)?;
    let state = "a plan changes nothing";
    let mut targets = deployment
        .unless_interrupted(state, deployment.connect())
        .await?;
    let decision = deployment.decide(&mut targets).await?;
    let regions = deployment
        .unless_interrupted(
            state,
            try_join_all(targets.iter().map(|t| deployment.plan_region(t))),
        )
        .await?;
    Ok(Plan {
        service: deployment.config.service_name.clone(),
        environment: deployment.environment.name.clone(),
        decision,
        payload: deployment.packed.payload.clone(),
        regions,
    })
}

impl Deployment<'_> {
    async fn plan_region(&self, target: &Target) -> Result<RegionPlan, Failure> {
        let region = target.region.name.clone();
        let (missing, there) = upload::plan(&self.packed, &bucket_of(target))
            .await
            .map_err(|e| {
                Failure::because(
                    Exit::Failure,
                    format!(
                        "{region}: the bucket {} can't be read",
                        target.region.s3_bucket
                    ),
                    e,
                )
            })?;
        Ok(RegionPlan {
            finding: target.reasons.join("; "),
            sizes: PlannedSizes {
                template: target.sizes,
                promoted: target.promoted.as_ref().map(|g| g.sizes),
                desired: target.desired.unwrap_or(target.sizes.desired),
            },
            serving: target.serving.clone(),
            bytes_to_upload: missing.iter().map(|o| o.blob.size).sum(),
            bytes_there: there.skipped_bytes,
            differing_resources: self.differing_resources(target).await?,
            region,
        })
    }

    /// Compares the template that would be deployed with the promoted stack's. The ec2_bootstrap hooks do not run for a
    /// plan, so a change in their output is not seen.
    async fn differing_resources(&self, target: &Target) -> Result<Vec<String>, Failure> {
        let region = &target.region.name;
        let Some(stack) = &target.previous_stack else {
            return Ok(vec![]);
        };
        let old = target
            .aws
            .cloudformation()
            .template(stack)
            .await
            .map_err(|e| aws_failure(region, "the promoted stack's template can't be read", e))?;
        let new = self
            .assembled(target, "")
            .map_err(|e| template_failure(region, &e))?;
        let new: serde_json::Value = serde_json::from_str(&new.json).map_err(|e| {
            Failure::because(Exit::Failure, "the assembled template is not JSON", e)
        })?;
        Ok(differing(&old, &new))
    }
}

fn differing(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let resources = |t: &'_ serde_json::Value| {
        t["Resources"]
            .as_object()
            .cloned()
            .unwrap_or_else(|| empty.clone())
    };
    let (old, new) = (resources(old), resources(new));
    let mut ids: Vec<String> = old
        .keys()
        .chain(new.keys())
        .filter(|id| old.get(*id) != new.get(*id))
        .cloned()
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

impl Plan {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = match &self.decision {
            Decision::HotSwap { .. } => writeln!(
                out,
                "{} {}: the running hosts would be hot-swapped to {}",
                self.service,
                self.environment,
                self.payload.short()
            ),
            Decision::Provision { .. } => writeln!(
                out,
                "{} {}: new hosts would be built for {}",
                self.service,
                self.environment,
                self.payload.short()
            ),
            Decision::Refuse { .. } => writeln!(
                out,
                "{} {}: nothing would be done",
                self.service, self.environment
            ),
        };
        if let Decision::Provision { reasons } | Decision::Refuse { reasons, .. } = &self.decision {
            for reason in reasons {
                let _ = writeln!(out, "  because {reason}");
            }
        }
        for region in &self.regions {
            let t = region.sizes.template;
            let _ = writeln!(out, "  {}", region.finding);
            let _ = writeln!(
                out,
                "    sizes      MinSize {} <= DesiredCapacity {} <= MaxSize {}{}",
                t.min,
                region.sizes.desired,
                t.max,
                if region.sizes.promoted.is_some() {
                    " (kept from the running group)"
                } else {
                    " (from the template)"
                }
            );
            let _ = writeln!(
                out,
                "    payload    {} -> {}",
                region.serving.as_deref().unwrap_or("-"),
                self.payload
            );
            let _ = writeln!(
                out,
                "    upload     {} missing in the bucket, {} there already",
                size(region.bytes_to_upload),
                size(region.bytes_there)
            );
            if !region.differing_resources.is_empty() {
                let _ = writeln!(
                    out,
                    "    template   differs in {}",
                    region.differing_resources.join(", ")
                );
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eligibility::{Finding, Reason};
    use serde_json::json;

    #[test]
    fn d_hot_60_a_plan_names_each_resource_that_differs_once() {
        let old =
            json!({"Resources": {"A": {"Type": "X"}, "B": {"Type": "Y"}, "Same": {"Type": "Z"}}});
        let new =
            json!({"Resources": {"A": {"Type": "W"}, "C": {"Type": "Y"}, "Same": {"Type": "Z"}}});
        assert_eq!(differing(&old, &new), ["A", "B", "C"]); // D-HOT-60
    }

    fn plan(decision: Decision, promoted: Option<Sizes>) -> Plan {
        let sizes = |desired| Sizes {
            min: 1,
            max: 4,
            desired,
        };
        Plan {
            service: "hello".into(),
            environment: "stage".into(),
            decision,
            payload: Digest::from_bytes(&[2; 32]),
            regions: vec![RegionPlan {
                region: "us-east-1".into(),
                finding: "us-east-1: as the decision found it".into(),
                sizes: PlannedSizes {
                    template: sizes(2),
                    promoted,
                    desired: promoted.map_or(2, |p| p.desired),
                },
                serving: promoted.map(|_| Digest::from_bytes(&[1; 32]).to_string()),
                bytes_to_upload: 1_572_864,
                bytes_there: 2048,
                differing_resources: vec!["LaunchTemplate".into(), "Queue".into()],
            }],
        }
    }

    #[test]
    fn d_hot_60_a_plan_reads_as_decision_reasons_sizes_payload_bytes_and_differences() {
        let reasons = || {
            vec![Finding {
                region: "us-east-1".into(),
                reason: Reason::NothingPromoted {
                    load_balancer: "hello".into(),
                },
            }]
        };
        let kept = Sizes {
            min: 1,
            max: 4,
            desired: 3,
        };
        // D-HOT-60
        let swap = Decision::HotSwap { targets: vec![] };
        insta::assert_snapshot!("plan_of_a_hot_swap", plan(swap, Some(kept)).text());
        let provision = Decision::Provision { reasons: reasons() };
        insta::assert_snapshot!("plan_of_a_provision", plan(provision, None).text());
        let refuse = Decision::Refuse {
            reasons: reasons(),
            exit: Exit::NotEligible,
        };
        insta::assert_snapshot!("plan_of_nothing", plan(refuse, None).text());
    }
}
