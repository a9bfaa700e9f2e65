//! `host-agent status`: what runs here, for people and scripts. Reads only; needs neither the lock nor AWS.

use crate::{
    docker::Engine,
    failure::Failure,
    host::Settings,
    journal::{Journal, JournalFile},
    machine::Machine,
    observe::{Facts, observe},
};
use contract::{
    digest::Digest,
    signal::{Cause, Drain, Handover, Kind},
    step::Step,
};
use handover::control::Role;
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// This host.
    pub instance: String,
    /// The payload that takes the requests.
    pub payload: Option<Digest>,
    /// The swap that brought it.
    pub swap: Option<String>,
    /// Whether the proxy runs.
    pub proxy: bool,
    /// Our containers.
    pub containers: Vec<ContainerStatus>,
    /// The last swap, finished or under way.
    pub last: Option<LastSwap>,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerStatus {
    /// `containers[].name`.
    pub name: String,
    /// The engine's id.
    pub id: String,
    /// Its payload.
    pub payload: Digest,
    /// Its swap.
    pub swap: String,
    /// Where it is reached.
    pub endpoint: Option<String>,
    /// What its process says that it is, if it hands over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether it runs.
    pub running: bool,
    /// Whether new requests go there.
    pub in_rotation: bool,
}

/// The last swap.
#[derive(Clone, Debug, Serialize)]
pub struct LastSwap {
    /// Its id.
    pub swap: String,
    /// What it was to bring.
    pub to: Digest,
    /// `None` while it is under way, or was interrupted.
    pub outcome: Option<Kind>,
    /// The step reached.
    pub step: Step,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// Milliseconds per finished step.
    pub ms: BTreeMap<Step, u64>,
    /// How the old connections ended.
    pub drain: Drain,
    /// What became of the connections of containers that hand over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// What went wrong beside.
    pub warnings: Vec<String>,
}

/// Looks at the host.
///
/// # Errors
/// A sentence when the engine or the instance's identity can't be reached.
pub async fn status(settings: &Settings) -> Result<Status, String> {
    let instance = settings.known_instance().await?;
    let engine = Engine::connect(&settings.docker_socket, &instance).await?;
    let journal = JournalFile::new(&settings.state_dir)
        .read()
        .map_err(|e| Failure::file("reading the journal in", &settings.state_dir, &e))?;
    let containers = engine.containers().await?;
    // The backend is named after the service; without a journal nothing was ever swapped here.
    let service = journal.as_ref().map_or("", |j| j.desired.service.as_str());
    let facts = if service.is_empty() {
        Facts {
            containers,
            ..Default::default()
        }
    } else {
        let machine = Machine::read(&settings.machine_file)?;
        let seats = settings.seats(&machine);
        observe(&engine, &settings.proxy(), &seats, service).await?
    };
    Ok(describe(instance, &facts, journal.as_ref()))
}

fn describe(instance: String, facts: &Facts, journal: Option<&Journal>) -> Status {
    let serving = facts.serving();
    Status {
        instance,
        payload: serving.map(|(_, p)| p.clone()),
        swap: serving.map(|(s, _)| s.to_owned()),
        proxy: facts.proxy_runs,
        containers: facts
            .containers
            .iter()
            .map(|c| ContainerStatus {
                name: c.name.clone(),
                id: c.id.clone(),
                payload: c.payload.clone(),
                swap: c.swap.clone(),
                endpoint: c.endpoint.as_ref().map(ToString::to_string),
                role: facts.roles.get(&c.id).copied(),
                running: c.running,
                in_rotation: facts.takes_requests(c),
            })
            .collect(),
        last: journal.map(|j| LastSwap {
            swap: j.desired.swap.clone(),
            to: j.desired.payload.clone(),
            outcome: j.verdict.as_ref().map(|v| v.kind),
            step: j.verdict.as_ref().map_or(j.reached(), |v| v.step),
            cause: j.verdict.as_ref().and_then(|v| v.cause.clone()),
            ms: j.milliseconds(),
            drain: j.drain,
            handover: j.handover(),
            warnings: j.warnings.clone(),
        }),
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "host {}", self.instance)?;
        match (&self.payload, &self.swap) {
            (Some(payload), Some(swap)) => {
                writeln!(f, "serves payload {} since swap {swap}", payload.short())?
            }
            _ => writeln!(f, "serves nothing")?,
        }
        writeln!(
            f,
            "proxy {}",
            if self.proxy { "runs" } else { "is stopped" }
        )?;
        for c in &self.containers {
            let state = match (c.running, c.in_rotation, &c.endpoint) {
                (false, ..) => "stopped",
                (true, true, _) => "running, in rotation",
                (true, false, Some(_)) if c.role == Some(Role::Waiting) => {
                    "running, waits to take over"
                }
                (true, false, Some(_)) if c.role == Some(Role::Emptied) => {
                    "running, has handed over and waits"
                }
                (true, false, Some(_)) => "running, takes no new requests",
                (true, false, None) => "running",
            };
            let at = c.endpoint.as_deref().unwrap_or("-");
            writeln!(
                f,
                "  {:<20} {:<12} {:<21} {state}",
                c.name,
                c.payload.short(),
                at
            )?;
        }
        let Some(last) = &self.last else {
            return Ok(());
        };
        let outcome = match last.outcome {
            Some(Kind::Success) => "succeeded",
            Some(Kind::Booted) => "booted",
            Some(Kind::Failed) => "failed",
            Some(Kind::Progress) | None => "not finished",
        };
        writeln!(
            f,
            "last swap {} to payload {}: {outcome} at step {}",
            last.swap,
            last.to.short(),
            last.step
        )?;
        let Drain { ended, cut, open } = last.drain;
        writeln!(
            f,
            "  old connections: {ended} ended, {cut} cut, {open} open"
        )?;
        if let Some(h) = &last.handover {
            writeln!(
                f,
                "  handover: {} connections, {} handed over, {} dropped, {} closed, frozen for {:.1} ms",
                h.before,
                h.handed_over,
                h.dropped,
                h.closed,
                h.frozen_us as f64 / 1000.0
            )?;
        }
        if let Some(cause) = &last.cause {
            writeln!(f, "  cause: {}", cause.message)?;
        }
        for warning in &last.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}
