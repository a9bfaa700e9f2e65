//! The agent's two errands: `hotswap` (cfn-hup woke us) and `boot` (the first start of a fresh instance).
//!
//! Both bring the host to what the stack wants now and look again afterwards, because it may want something else by then.

use crate::{
    failure::Failure,
    host::{Host, Opened, Settings, WithoutEngine},
    journal::{Journal, Verdict},
    observe::observe,
    plan::{Plan, plan},
    recover::{Recovery, recover},
    store::Store,
    swap::Swap,
};
use contract::{
    job::DesiredState,
    signal::{CauseCode, Kind},
    spec::Topology,
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long `boot` waits for cfn-hup to have taken its baseline.
const BASELINE: Duration = Duration::from_secs(30);

/// Brings the host to the desired state. Returns the last verdict; `None` when there was nothing left to say.
///
/// # Errors
/// When no verdict could be delivered: cfn-hup then runs us again.
pub async fn hotswap(settings: Settings) -> Result<Option<Verdict>, String> {
    let mut host = match Host::open(settings).await? {
        Opened::Host(host) => host,
        Opened::WithoutEngine(rest) => return engine_is_silent(*rest, false).await.map(Some),
    };
    let result = converge(&mut host, false).await;
    host.signals.close().await;
    result
}

/// The same for a fresh instance: nothing to drain, no deadline, kind `booted` (D-HOST-11).
///
/// cfn-hup's first pass only stores a baseline, so an update between cfn-init and that pass would never be seen: after
/// the baseline is there, the stack is compared once more.
///
/// # Errors
/// When the host does not serve.
pub async fn boot(settings: Settings) -> Result<Option<Verdict>, String> {
    let mut host = match Host::open(settings).await? {
        Opened::Host(host) => host,
        Opened::WithoutEngine(rest) => {
            let why = rest.failure.message.clone();
            engine_is_silent(*rest, true).await?;
            return Err(why);
        }
    };
    let first = converge(&mut host, true).await;
    let result = match first {
        Ok(first) => {
            baseline(&host.settings).await;
            converge(&mut host, false)
                .await
                .map(|later| later.or(first))
        }
        Err(why) => Err(why),
    };
    host.signals.close().await;
    let verdict = result?;
    match &verdict {
        Some(Verdict {
            kind: Kind::Failed,
            cause: Some(cause),
            ..
        }) => Err(cause.message.clone()),
        _ => Ok(verdict),
    }
}

/// Waits until cfn-hup, if it runs on this host, has recorded what it compares with.
async fn baseline(settings: &Settings) {
    let hup = std::path::Path::new("/etc/cfn/cfn-hup.conf");
    let until = Instant::now() + BASELINE;
    while hup.exists() && !settings.cfn_hup_record.exists() && Instant::now() < until {
        sleep(Duration::from_millis(250)).await;
    }
}

/// Without its engine a host can do nothing but say so (D-HOT-42). A swap that was interrupted stays as it is: it is settled
/// when the engine answers again.
async fn engine_is_silent(mut rest: WithoutEngine, boot: bool) -> Result<Verdict, String> {
    let desired = rest.stack.desired().await?;
    let now = Timestamp::now();
    let open = rest
        .journal
        .read()
        .ok()
        .flatten()
        .filter(|j| j.verdict.is_none());
    let mut journal = open
        .clone()
        .unwrap_or_else(|| Journal::new(desired.clone(), boot, None, now));
    let step = journal.reached();
    let verdict = Verdict {
        kind: Kind::Failed,
        step,
        cause: Some(rest.failure.clone().into()),
        at: now,
    };
    journal.verdict = Some(verdict.clone());
    let signal = crate::swap::signal(&journal, &rest.instance, &verdict, None);
    let queue = &journal.desired.queue;
    if open.is_some() {
        rest.signals.send_now(queue, signal).await?;
    } else {
        rest.signals.keep(queue, signal)?;
        rest.journal
            .write(&journal)
            .map_err(|e| Failure::file("writing the journal", rest.journal.path(), &e))?;
        rest.signals.flush().await?;
    }
    rest.signals.close().await;
    Ok(verdict)
}

async fn converge(host: &mut Host, mut boot: bool) -> Result<Option<Verdict>, String> {
    let mut last = None;
    loop {
        let wanted = host.stack.desired().await;
        if let Some(verdict) = settle(host, wanted.as_ref().ok()).await? {
            last = Some(verdict);
        }
        host.signals.flush().await?;
        let wanted = wanted?;
        match once(host, &wanted, boot).await? {
            Some(verdict) => last = Some(verdict),
            None => return Ok(last),
        }
        boot = false;
    }
}

/// Brings a swap that was interrupted to its end, one way or the other.
async fn settle(
    host: &mut Host,
    wanted: Option<&DesiredState>,
) -> Result<Option<Verdict>, Failure> {
    let Some(mut journal) = read_journal(host)?.filter(|j| j.verdict.is_none()) else {
        return Ok(None);
    };
    // Its verdict was kept, only the journal was not closed.
    if let Some(signal) = host.signals.unsent_of(&journal.desired.swap) {
        let verdict = Verdict {
            kind: signal.kind,
            step: signal.step,
            cause: signal.cause,
            at: signal.at,
        };
        journal.verdict = Some(verdict.clone());
        write_journal(host, &journal)?;
        return Ok(Some(verdict));
    }
    let facts = observe(
        &host.engine,
        &host.proxy,
        &host.seats,
        &journal.desired.service,
    )
    .await?;
    let recovery = recover(Some(&journal), &facts, wanted);
    tracing::info!(
        ?recovery,
        swap = journal.desired.swap,
        reached = journal.reached().name(),
        "an interrupted swap was found"
    );
    let swap = journal.desired.swap.clone();
    let verdict = match recovery {
        Recovery::Nothing | Recovery::Again => return Ok(None),
        Recovery::Finish => Swap::new(host, journal, facts)?.resume().await?,
        Recovery::Abandon => {
            let why = format!(
                "another swap is wanted now; swap {swap} was interrupted before it moved traffic, and undone"
            );
            Swap::new(host, journal, facts)?
                .abandon(Failure::new(CauseCode::Superseded, why))
                .await?
        }
        Recovery::Revert => {
            let why = "the new containers ended after traffic had moved to them, or had given it back; the old version serves"
                .to_owned();
            Swap::new(host, journal, facts)?
                .abandon(Failure::new(CauseCode::ContainerExited, why))
                .await?
        }
    };
    Ok(Some(verdict))
}

/// One desired state. `None` when it is answered already.
async fn once(
    host: &mut Host,
    desired: &DesiredState,
    boot: bool,
) -> Result<Option<Verdict>, Failure> {
    let facts = observe(&host.engine, &host.proxy, &host.seats, &desired.service).await?;
    let journal = read_journal(host)?;
    let expected = expected(host, desired)?;
    let plan = plan(
        desired,
        boot,
        journal.as_ref(),
        &facts,
        expected.as_deref(),
        Timestamp::now(),
    );
    tracing::info!(
        ?plan,
        swap = desired.swap,
        payload = desired.payload.short(),
        "planned"
    );
    let from = facts.serving().map(|(_, payload)| payload.clone());
    let journal = match journal {
        Some(open) if open.verdict.is_none() && open.desired.swap == desired.swap => open,
        _ => Journal::new(desired.clone(), boot, from, Timestamp::now()),
    };
    let verdict = match plan {
        Plan::Answered => return Ok(None),
        Plan::AlreadyServing => Swap::new(host, journal, facts)?.confirm().await?,
        Plan::TooLate => {
            let why = format!(
                "the deadline {} had passed before the swap began; the old version serves",
                desired.deadline
            );
            Swap::new(host, journal, facts)?
                .abandon(Failure::new(CauseCode::Deadline, why))
                .await?
        }
        Plan::Swap(steps) => Swap::new(host, journal, facts)?.run(&steps).await?,
    };
    Ok(Some(verdict))
}

/// Names of the wanted payload's containers and whether each takes requests, if the manifest is on this host.
fn expected(host: &Host, desired: &DesiredState) -> Result<Option<Vec<(String, bool)>>, Failure> {
    let store = Store::open(&host.settings.state_dir)?;
    Ok(store
        .cached_manifest(&desired.payload)
        .and_then(|manifest| {
            let spec = manifest
                .hosts
                .get(&desired.environment)?
                .get(&desired.region)?;
            Some(
                spec.containers
                    .iter()
                    .map(|c| (c.name.clone(), c.topology == Topology::Inet))
                    .collect(),
            )
        }))
}

fn read_journal(host: &Host) -> Result<Option<Journal>, Failure> {
    host.journal
        .read()
        .map_err(|e| Failure::file("reading the journal", host.journal.path(), &e))
}

fn write_journal(host: &Host, journal: &Journal) -> Result<(), Failure> {
    host.journal
        .write(journal)
        .map_err(|e| Failure::file("writing the journal", host.journal.path(), &e))
}
