//! Pure: what a restarted agent does about a swap that it finds without a verdict.

use crate::{docker::Container, journal::Journal, observe::Facts, seat::Endpoint};
use contract::{job::DesiredState, step::Step};

/// The way on, or the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No swap is unfinished.
    Nothing,
    /// Traffic had not moved and the swap is still wanted: go through the steps again; each finds what it did before.
    Again,
    /// Traffic had not moved and something else is wanted now: undo, report `superseded`.
    Abandon,
    /// Traffic has moved: finish, whatever is wanted now.
    Finish,
    /// Traffic has moved to containers that do not run any more, and the old ones still do, or these have taken their
    /// connections back already: move it back. Also the rest of what was being undone.
    Revert,
}

/// Decides from what was tried and what is true. The truth wins: a crash between an effect and its record leaves the
/// record behind the effect, never the other way round.
pub fn recover(
    journal: Option<&Journal>,
    facts: &Facts,
    desired: Option<&DesiredState>,
) -> Recovery {
    let Some(journal) = journal.filter(|j| j.verdict.is_none()) else {
        return Recovery::Nothing;
    };
    if journal.failing.is_some() {
        return Recovery::Revert;
    }
    let swap = journal.desired.swap.as_str();
    // What is done there is true of every container that hands over: the others follow, whatever is wanted now.
    let moved = journal.is_done(Step::Handover)
        || journal.is_done(Step::CutOver)
        || (journal.has_begun(Step::CutOver) && facts.in_rotation(swap));
    if moved {
        let ours_run = facts.running(swap).next().is_some();
        let others_run = facts
            .containers
            .iter()
            .any(|c| c.running && c.swap != swap && c.endpoint.is_some());
        let taken_back = facts.containers.iter().any(|old| {
            let seat = old.endpoint.as_ref().and_then(Endpoint::seat);
            let here = |c: &Container| c.swap == swap && c.endpoint == old.endpoint;
            old.swap != swap
                && seat.is_some()
                && facts.takes_requests(old)
                && facts.containers.iter().any(here)
        });
        return match (ours_run, others_run) {
            _ if taken_back && !journal.is_done(Step::Bake) => Recovery::Revert,
            (false, true) if !journal.has_begun(Step::Stop) => Recovery::Revert,
            // After a reboot nothing runs: the same payload starts again.
            (false, _) => again_or_abandon(journal, desired),
            (true, _) => Recovery::Finish,
        };
    }
    again_or_abandon(journal, desired)
}

fn again_or_abandon(journal: &Journal, desired: Option<&DesiredState>) -> Recovery {
    match desired {
        Some(desired) if desired.swap != journal.desired.swap => Recovery::Abandon,
        _ => Recovery::Again,
    }
}
