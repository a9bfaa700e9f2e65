//! One region of a deployment: how it is reached, what it looked like, what came of it.

use super::{Deployment, Request};
use crate::{
    aws::{self, Session, autoscaling::Group},
    capacity::Sizes,
    config::{Region, blackout},
    eligibility::RegionFacts,
    error::{Exit, Failure},
    pack::Packed,
    payload::blobs,
    progress::Console,
    report::Outcome,
    signals::HostState,
    template,
};
use contract::names;
use futures::future::try_join_all;
use jiff::Timestamp;
use std::{collections::BTreeMap, fs::File, path::PathBuf};
use tokio_util::sync::CancellationToken;

/// A region while it is being deployed to.
pub(super) struct Target {
    pub region: Region,
    pub aws: Session,
    /// The user's template, as packed.
    pub user_template: Option<String>,
    /// What the destination load balancer looks like to the template.
    pub destination: template::Destination,
    /// DNS name of the destination load balancer, for hooks.
    pub destination_dns: Option<String>,
    pub facts: Option<RegionFacts>,
    /// The group of the promoted stack.
    pub promoted: Option<Group>,
    /// The promoted stack's payload, as its group's tag says.
    pub serving: Option<String>,
    /// Sizes of the template.
    pub sizes: Sizes,
    /// DesiredCapacity to deploy with; `None` leaves the template's.
    pub desired: Option<u32>,
    /// The stack to update, or the one that was created.
    pub stack: Option<String>,
    pub previous_stack: Option<String>,
    pub provisioned_load_balancer: Option<String>,
    pub template_url: Option<String>,
    /// Logical id of the group in the assembled template.
    pub group_id: String,
    pub uploaded: u64,
    /// What was found about it, for log and report (D-HOT-59).
    pub reasons: Vec<String>,
    pub stack_status: Option<String>,
    /// LastUpdatedTime before the update; `None` inside means never.
    pub updated_before: Option<Timestamp>,
    /// CloudFormation took the update or the creation on: hosts are on their way.
    pub asked: bool,
    /// Where the hosts report, once it is known.
    pub channel: Option<Channel>,
    pub members: crate::signals::Membership,
    pub hosts: Vec<HostState>,
    pub outcome: Outcome,
    /// The group whose scaling this run suspended.
    pub suspended: Option<String>,
}

/// Where one region's hosts are listed, and where they report.
pub(super) struct Channel {
    /// Name of the group.
    pub group: String,
    /// URL of the stack's own queue.
    pub queue: String,
}

/// The host agent's binary and its digest.
pub(super) struct AgentBinary {
    pub path: PathBuf,
    pub pinned: template::Agent,
}

impl AgentBinary {
    /// Finds and hashes the binary: the file asked for, else `host-agent` beside this program.
    fn find(wanted: Option<&PathBuf>, service: &str) -> Result<Self, Failure> {
        let path = match wanted {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|e| {
                    Failure::because(Exit::Failure, "the folder of this program is unknown", e)
                })?
                .with_file_name("host-agent"),
        };
        let (digest, _) = File::open(&path).and_then(blobs::hash).map_err(|e| {
            Failure::because(Exit::Failure, format!("the host agent's binary {} can't be read", path.display()), e)
                .hint("install host-agent beside porter, or name it with --host-agent or PORTER_HOST_AGENT")
        })?;
        Ok(Self {
            path,
            pinned: template::Agent {
                key: names::agent_key(service, &digest),
                digest,
            },
        })
    }
}

impl<'a> Deployment<'a> {
    /// Reads and checks everything that needs no AWS: payload, environment, blackout window, agent.
    pub(super) fn open(
        request: &'a Request,
        console: &'a Console,
        stop: &'a CancellationToken,
    ) -> Result<Self, Failure> {
        let failed = |e| Failure::because(Exit::Failure, "there is no usable payload", e);
        let packed = Packed::open(&request.out).map_err(|e| failed(anyhow::Error::from(e)))?;
        let config = packed.config().map_err(|e| failed(e.into()))?;
        let Some(environment) = config.environment(&request.environment).cloned() else {
            let known: Vec<_> = config
                .environments
                .iter()
                .map(|e| e.name.as_str())
                .collect();
            return Err(Failure::new(
                Exit::Failure,
                format!("there is no environment `{}`", request.environment),
            )
            .hint(format!(
                "the packed configuration has: {}",
                known.join(", ")
            )));
        };
        let started = Timestamp::now();
        if let Some(window) = blackout::active(&environment.blackout_windows, started) {
            match &request.override_blackout {
                None => {
                    return Err(Failure::new(Exit::Blackout, format!("{}: {window}", environment.name))
                        .hint("nothing has changed; wait for its end, or give --override-blackout REASON in an emergency"));
                }
                Some(reason) => console.warn(format!(
                    "{}: {window}; overridden: {reason}",
                    environment.name
                )),
            }
        }
        let agent = AgentBinary::find(request.host_agent.as_ref(), &config.service_name)?;
        Ok(Self {
            request,
            console,
            stop,
            config,
            environment,
            packed,
            agent,
            swap: ulid::Ulid::generate().to_string(),
            started,
        })
    }

    /// Reaches every region and proves the credentials.
    pub(super) async fn connect(&self) -> Result<Vec<Target>, Failure> {
        try_join_all(
            self.environment
                .regions
                .iter()
                .map(|region| self.reach(region)),
        )
        .await
    }

    async fn reach(&self, region: &Region) -> Result<Target, Failure> {
        let build = std::env::var("BUILD_ID")
            .or_else(|_| std::env::var("GO_PIPELINE_COUNTER"))
            .unwrap_or_else(|_| self.swap.clone());
        let session_name =
            aws::session_name(&self.config.service_name, &self.environment.name, &build);
        let role = region.role_arn.as_ref().map(|arn| aws::Role {
            arn,
            external_id: region.external_id.as_deref(),
            session_name: &session_name,
        });
        let session = Session::connect(&region.name, role.as_ref()).await;
        session
            .sts()
            .whoami()
            .await
            .map_err(|e| aws_failure(&region.name, "no access to AWS", e))?;
        let user_template = match &region.stack_definition_path {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(self.request.repository.join(path)).map_err(|e| {
                    Failure::because(
                        Exit::Failure,
                        format!(
                            "{}: the packed copy of {} can't be read",
                            region.name,
                            path.display()
                        ),
                        e,
                    )
                    .hint("run `porter build pack` again")
                })?,
            ),
        };
        let sizes = template::sizes(user_template.as_deref(), region, &BTreeMap::new())
            .map_err(|e| template_failure(&region.name, &e))?;
        Ok(Target {
            region: region.clone(),
            aws: session,
            user_template,
            destination: template::Destination::None,
            destination_dns: None,
            facts: None,
            promoted: None,
            serving: None,
            sizes,
            desired: None,
            stack: None,
            previous_stack: None,
            provisioned_load_balancer: None,
            template_url: None,
            group_id: names::AUTO_SCALING_GROUP.to_owned(),
            uploaded: 0,
            reasons: vec![],
            stack_status: None,
            updated_before: None,
            asked: false,
            channel: None,
            members: crate::signals::Membership::default(),
            hosts: vec![],
            outcome: Outcome::Untouched,
            suspended: None,
        })
    }

    /// Stops between two steps when the operator asked for it (D-CLI-5).
    pub(super) fn not_interrupted(&self, state: &str) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            Err(interrupted(state))
        } else {
            Ok(())
        }
    }

    /// The work, unless the operator interrupts it first; then it is dropped, which is safe for reading and uploading.
    pub(super) async fn unless_interrupted<T>(
        &self,
        state: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            () = self.stop.cancelled() => Err(interrupted(state)),
            result = work => result,
        }
    }
}

/// What an interrupt leaves behind.
pub(super) fn interrupted(state: &str) -> Failure {
    Failure::new(Exit::Interrupted, "interrupted").hint(state)
}

/// A failed AWS call with its region and advice.
pub(super) fn aws_failure(region: &str, doing: &str, error: aws::Error) -> Failure {
    let hint = error.hint();
    let failure = Failure::because(Exit::Failure, format!("{region}: {doing}"), error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A template that can't be assembled, with its remedy.
pub(super) fn template_failure(region: &str, error: &template::TemplateError) -> Failure {
    Failure::new(Exit::Failure, format!("{region}: {error}")).hint(&error.remedy)
}
