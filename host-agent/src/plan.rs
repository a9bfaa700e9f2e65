//! Pure: the job, what is true and the journal in; the steps still to do out.

use crate::{journal::Journal, observe::Facts};
use contract::{job::DesiredState, step::Step};
use jiff::Timestamp;

/// What to do about a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// This swap has its verdict already; only an unsent one remains to be sent.
    Answered,
    /// The wanted payload runs and takes the requests: say so, and touch nothing that serves (D-HOT-65).
    AlreadyServing,
    /// Traffic must not move any more (D-HOT-43).
    TooLate,
    /// These steps, in this order.
    Swap(Vec<Step>),
}

/// Decides. `expected` are the names of the wanted payload's containers and whether each takes requests, if its manifest
/// is on this host; `boot` is the first start, which has no deadline and is never already answered.
pub fn plan(
    desired: &DesiredState,
    boot: bool,
    journal: Option<&Journal>,
    facts: &Facts,
    expected: Option<&[(String, bool)]>,
    now: Timestamp,
) -> Plan {
    let answered = journal.is_some_and(|j| j.desired.swap == desired.swap && j.verdict.is_some());
    if answered && !boot {
        return Plan::Answered;
    }
    // One that was interrupted in a handover has a way to go, although the new version may already serve: the old process
    // waits to take everything back.
    let in_handover = journal.is_some_and(|j| {
        j.desired.swap == desired.swap && j.verdict.is_none() && j.has_begun(Step::Handover)
    });
    if !in_handover && expected.is_some_and(|e| serves(desired, facts, e)) {
        return Plan::AlreadyServing;
    }
    if !boot && now > desired.deadline {
        return Plan::TooLate;
    }
    let others = facts.containers.iter().any(|c| c.swap != desired.swap);
    Plan::Swap(
        Step::ALL
            .into_iter()
            .filter(|step| match step {
                // Coordinated mode only.
                Step::Await => false,
                // Found out when the new containers run beside the old ones.
                Step::Handover | Step::Bake => false,
                // Nothing to drain or remove at a first boot (D-HOST-11).
                Step::Drain | Step::Stop | Step::Remove => others,
                _ => true,
            })
            .collect(),
    )
}

/// Whether one swap's containers are just the wanted payload's, all running, all inet ones in rotation and no others.
fn serves(desired: &DesiredState, facts: &Facts, expected: &[(String, bool)]) -> bool {
    let Some((swap, payload)) = facts.serving() else {
        return false;
    };
    let ours: Vec<_> = facts.running(swap).collect();
    let endpoints: std::collections::BTreeSet<_> =
        ours.iter().filter_map(|c| c.endpoint.clone()).collect();
    *payload == desired.payload
        && expected.iter().all(|(name, inet)| {
            ours.iter()
                .any(|c| c.name == *name && facts.takes_requests(c) == *inet)
        })
        && facts.rotation == endpoints
}
