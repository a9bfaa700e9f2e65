//! Steps 3 and 7: the user's hooks, for every region at once (D-HOOK-4).

use super::{Deployment, region::Target, stacks::all};
use crate::{
    error::{Exit, Failure},
    hooks::{
        self, HookContext, HookError, Moment, Outcome, RegionVariables, StatsCredentials,
        SwapVariables,
    },
};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

impl Deployment<'_> {
    /// Runs the hooks of one moment for every region concurrently.
    pub(super) async fn hook(
        &self,
        moment: Moment,
        targets: &[Target],
        outcome: Option<Outcome>,
    ) -> Result<(), Failure> {
        // Post hooks clean up: an interrupt does not keep them from it, a second one ends the program.
        let stop = if outcome.is_some() {
            CancellationToken::new()
        } else {
            self.stop.clone()
        };
        all(join_all(
            targets
                .iter()
                .map(|t| self.hook_in(moment, t, outcome, &stop)),
        )
        .await)
        .map(drop)
    }

    async fn hook_in(
        &self,
        moment: Moment,
        target: &Target,
        outcome: Option<Outcome>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let entries = self
            .config
            .hooks
            .get(moment.name())
            .map(Vec::as_slice)
            .unwrap_or_default();
        if entries.is_empty() {
            return Ok(());
        }
        let context = self.hook_context(target).await;
        let ended = |run: &hooks::HookRun| self.console.hook(run);
        hooks::run(entries, moment, &context, outcome, &ended, stop)
            .await
            .map(drop)
            .map_err(|e| hook_failure(e, stop))
    }

    /// What the region's ec2_bootstrap hooks print, for its hosts' bootstrap script (D-HOOK-15).
    pub(super) async fn host_bootstrap(&self, target: &Target) -> Result<String, Failure> {
        let entries = self
            .config
            .hooks
            .get(Moment::Ec2Bootstrap.name())
            .map(Vec::as_slice)
            .unwrap_or_default();
        if entries.is_empty() {
            return Ok(String::new());
        }
        let context = self.hook_context(target).await;
        let ended = |run: &hooks::HookRun| self.console.hook(run);
        let printed = hooks::ec2_bootstrap(entries, &context, &ended, self.stop)
            .await
            .map_err(|e| hook_failure(e, self.stop))?;
        String::from_utf8(printed).map_err(|_| {
            Failure::new(
                Exit::Hook,
                format!(
                    "{}: the ec2_bootstrap hooks print something that is not UTF-8",
                    target.region.name
                ),
            )
        })
    }

    async fn hook_context(&self, target: &Target) -> HookContext {
        HookContext {
            root: self.request.repository.clone(),
            out: std::path::absolute(&self.request.out)
                .unwrap_or_else(|_| self.request.out.clone()),
            service: Some(self.config.service_name.clone()),
            version: Some(self.packed.manifest.version.clone()),
            // Hooks that need the statistics page fail in their own words when a pack left no credentials.
            stats: StatsCredentials::read(&self.request.out).ok(),
            region: Some(RegionVariables {
                environment: self.environment.name.clone(),
                region: target.region.name.clone(),
                credentials: target.aws.credentials().await,
                endpoint: std::env::var("AWS_ENDPOINT_URL").ok(),
                stack: target.stack.clone(),
                provisioned_dns: None,
                destination_dns: target.destination_dns.clone(),
            }),
            swap: Some(SwapVariables {
                id: self.swap.clone(),
                old_payload: target.serving.as_deref().and_then(|d| d.parse().ok()),
                new_payload: self.packed.payload.clone(),
            }),
            volume_flag: std::env::var("VOLUME_FLAG").ok(),
            keep_images: false,
        }
    }
}

/// A failed hook as the command's failure: status 7, or 130 when the operator ended it.
pub(crate) fn hook_failure(error: HookError, stop: &CancellationToken) -> Failure {
    let exit = if stop.is_cancelled() {
        Exit::Interrupted
    } else {
        Exit::Hook
    };
    Failure::because(exit, "a hook stopped the deployment", error)
}
