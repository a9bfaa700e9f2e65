//! Leads a handover between the two containers of a service, and the way back.
//!
//! The agent is no part of the handover itself (`docs/handover.md`): it says *when*, over each process's control socket,
//! and believes only what both say afterwards. So an agent that dies leaves two processes that end by themselves what they
//! have begun, and the next agent asks them how it ended.

use crate::{
    docker::{Container, Engine},
    failure::Failure,
    health::{self, Answer as Health, Door},
    observe::Facts,
    seat::{Seat, Seats},
};
use contract::{
    signal::{CauseCode, Handover},
    spec::ContainerSpec,
};
use handover::{
    End, Receipt, Side,
    control::{self, Answer, Request, Role, Status},
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// For an answer to `status` or `retire`: a process that is busy with a handover answers these, too.
const ANSWERS: Duration = Duration::from_secs(2);
/// For the receipt of a handover. Its own deadlines are shorter: this one is for a process that hangs, while clients wait.
const TAKES: Duration = Duration::from_secs(10);
/// After it was healthy, a process may still be about to listen on its control socket.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);
/// A handover that is under way ends within this, if its processes do not hang.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// After its restart a process serves within this.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Between two health checks while the old process waits: its clients wait with it.
const BAKE_LOOK: Duration = Duration::from_millis(500);

/// Two containers on one seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// `containers[].name`.
    pub name: String,
    /// Where they sit.
    pub seat: Seat,
    /// Gives.
    pub old: Container,
    /// Takes.
    pub new: Container,
}

/// The container whose connections the new container `name` could take over: of several the one that has them.
pub fn predecessor<'a>(facts: &'a Facts, swap: &str, name: &str) -> Option<&'a Container> {
    let others =
        |c: &&Container| c.swap != swap && c.name == name && c.running && seat(c).is_some();
    let all = || facts.containers.iter().filter(others);
    all().find(|c| facts.takes_requests(c)).or(all().next())
}

/// The new containers that sit where an old one sits.
pub fn pairs(facts: &Facts, swap: &str, new: &[Container]) -> Vec<Pair> {
    let pair = |new: &Container| {
        let old = predecessor(facts, swap, &new.name)?;
        Some(Pair {
            name: new.name.clone(),
            seat: seat(new).filter(|s| seat(old) == Some(s))?.clone(),
            old: old.clone(),
            new: new.clone(),
        })
    };
    new.iter().filter_map(pair).collect()
}

/// A container's seat, if it has one.
pub fn seat(container: &Container) -> Option<&Seat> {
    container.endpoint.as_ref()?.seat()
}

fn control(seats: &Seats, container: &Container) -> Option<PathBuf> {
    Some(seats.sockets(seat(container)?, &container.swap).control)
}

async fn ask(path: &Path, request: Request, patience: Duration) -> io::Result<Answer> {
    let path = path.to_owned();
    // `connect` to a process that accepts nothing any more can block for ever; that thread is given up.
    let asked = tokio::task::spawn_blocking(move || control::ask(&path, request, patience));
    match timeout(patience + Duration::from_secs(1), asked).await {
        Ok(answered) => answered.map_err(io::Error::other)?,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a container's process says of itself.
///
/// # Errors
/// A sentence.
pub async fn status(seats: &Seats, container: &Container) -> Result<Status, String> {
    let silent = |why: &dyn std::fmt::Display| {
        let (name, swap) = (&container.name, &container.swap);
        format!("container `{name}` of swap {swap} does not answer on its control socket: {why}")
    };
    let path = control(seats, container).ok_or_else(|| silent(&"it has none"))?;
    match ask(&path, Request::Status {}, ANSWERS).await {
        Ok(Answer::Status(status)) => Ok(status),
        Ok(other) => Err(silent(&format!("`status` was answered with {other:?}"))),
        Err(e) => Err(silent(&e)),
    }
}

/// The same, once it is in no handover any more. A process that was started just now is waited for.
///
/// # Errors
/// A sentence.
async fn settled(seats: &Seats, container: &Container) -> Result<Status, String> {
    let began = Instant::now();
    loop {
        match status(seats, container).await {
            Ok(status)
                if matches!(status.role, Role::Giving | Role::Taking)
                    && began.elapsed() < SETTLES_WITHIN => {}
            Err(_) if began.elapsed() < LISTENS_WITHIN => {}
            settled => return settled,
        }
        sleep(LOOK).await;
    }
}

/// Why a handover between the two is out of the question, if it is: then the old one is drained instead. Asked before
/// anything has changed.
///
/// # Errors
/// [`CauseCode::HandoverFailed`]: one of them does not answer, and so nothing is known.
pub async fn obstacle(seats: &Seats, pair: &Pair) -> Result<Option<String>, Failure> {
    let new = settled(seats, &pair.new).await.map_err(failed)?;
    let old = settled(seats, &pair.old).await.map_err(failed)?;
    if new.role == Role::Serving || old.role != Role::Serving {
        return Ok(None);
    }
    let common = old.writes.iter().any(|version| new.reads.contains(version));
    Ok((!common).then(|| {
        format!(
            "the old version writes its connections' state in versions {:?}, the new one reads {:?}",
            old.writes, new.reads
        )
    }))
}

/// Has the new process take over, and compares both accounts. Can be repeated: what has been taken over is only compared.
/// Returns the account, and what was remarkable about it.
///
/// # Errors
/// [`CauseCode::HandoverFailed`]. Mostly the old process serves as before; [`give_back`] makes sure of it.
pub async fn take(
    engine: &Engine,
    seats: &Seats,
    pair: &Pair,
) -> Result<(Handover, Option<String>), Failure> {
    match lead(seats, pair).await {
        Ok(account) => Ok(account),
        Err(why) => {
            let failure = failed(format!("container `{}`: {why}", pair.name));
            Err(failure.with_log(engine.log_tail(&pair.new.id).await))
        }
    }
}

async fn lead(seats: &Seats, pair: &Pair) -> Result<(Handover, Option<String>), String> {
    let mut new = settled(seats, &pair.new).await?;
    if new.role != Role::Serving {
        let path = control(seats, &pair.new).ok_or("it has no seat")?;
        match ask(&path, Request::TakeOver {}, TAKES).await {
            Ok(Answer::Receipt(receipt)) if receipt.end != End::Failed => {}
            Ok(Answer::Receipt(receipt)) => {
                let cause = receipt.cause.unwrap_or_default();
                return Err(format!("the new process did not take over: {cause}"));
            }
            Ok(Answer::Refused { reason }) => {
                return Err(format!("the new process refuses to take over: {reason}"));
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
                ) =>
            {
                let seconds = TAKES.as_secs();
                return Err(format!(
                    "the new process has not ended the handover after {seconds} s"
                ));
            }
            // It died on the way, before or after the commit, and the engine has started it again perhaps. What came of
            // it, `status` says.
            Ok(_) | Err(_) => {
                let died = "the new process ended in the handover";
                new = settled(seats, &pair.new).await.map_err(|_| died)?;
                if new.role != Role::Serving {
                    return Err(died.into());
                }
            }
        }
        new = settled(seats, &pair.new).await?;
    }
    let old = settled(seats, &pair.old).await;
    compare(old.as_ref().ok(), &new)
}

/// Pure: what both processes say, as one account.
fn compare(old: Option<&Status>, new: &Status) -> Result<(Handover, Option<String>), String> {
    if new.role != Role::Serving {
        return Err(format!(
            "the new process did not take over: it is {}",
            name(new.role)
        ));
    }
    let Some(taken) = new.last.as_ref().filter(|r| r.end != End::Failed) else {
        // The old process had ended before: nobody was at the seat.
        return match old.map(|s| s.role) {
            Some(Role::Emptied) => Err("the new process does not know of a handover: it ended after it had taken over, and was started again".into()),
            Some(Role::Serving | Role::Giving) => Err("both processes say that they serve".into()),
            _ => Ok((Handover { containers: 1, ..Handover::default() }, Some("the old process was not there any more when the new one began".into()))),
        };
    };
    let given = old.and_then(|s| s.last.as_ref());
    let account = account(taken, given);
    if taken.end == End::Inherited {
        let warning = format!(
            "the old process died in the handover: {} of its {} connections went down with it",
            account.dropped, account.before
        );
        return Ok((account, Some(warning)));
    }
    // One that the engine has started again knows of nothing.
    let Some(old) = old.filter(|old| old.role != Role::Waiting || old.last.is_some()) else {
        let warning = "the old process ended after it had handed over".into();
        return Ok((account, Some(warning)));
    };
    let agreed = old.role == Role::Emptied
        && old.connections == 0
        && taken.transferred == taken.offered
        && taken.dropped == 0
        && given.is_some_and(|g| g.end == End::Taken && g.transferred == taken.transferred);
    if agreed {
        return Ok((account, None));
    }
    Err(format!(
        "the two processes differ about the handover: the new one was offered {} connections and took {}; the old one is {} with {} connections, and says that it gave {}",
        taken.offered,
        taken.transferred,
        name(old.role),
        old.connections,
        given.map_or(0, |g| g.transferred)
    ))
}

fn account(taken: &Receipt, given: Option<&Receipt>) -> Handover {
    let given = given.filter(|g| g.end == End::Taken);
    let both = || [Some(taken), given].into_iter().flatten();
    let longest = |time: fn(&Receipt) -> f64| {
        let ms = both().map(time).fold(0.0, f64::max);
        // From a number of milliseconds that is never negative; the cast saturates.
        (ms * 1000.0).round() as u64
    };
    Handover {
        containers: 1,
        before: taken.offered.into(),
        handed_over: taken.transferred.into(),
        dropped: taken.dropped.into(),
        in_flight: both().find_map(in_flight),
        bytes: taken.bytes,
        frozen_us: longest(|r| r.frozen_ms),
        total_us: longest(|r| r.total_ms),
        ..Handover::default()
    }
}

/// What a service adds to its receipt, if it counts: messages that wait for their readers, and those that are half read.
fn in_flight(receipt: &Receipt) -> Option<u64> {
    let count = |name| receipt.service.get(name)?.as_u64();
    match (count("unsentMessages"), count("halfReadMessages")) {
        (None, None) => None,
        (unsent, half) => Some(unsent.unwrap_or(0) + half.unwrap_or(0)),
    }
}

/// What came back to an old process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// Connections.
    pub connections: u64,
    /// Those that were lost on the way back; `None`: all that had been given. Whoever left of its own accord, while the new
    /// process served, is none of them.
    pub dropped: Option<u64>,
}

impl Returned {
    const NOTHING: Self = Self {
        connections: 0,
        dropped: None,
    };
}

impl From<Receipt> for Returned {
    fn from(receipt: Receipt) -> Self {
        Self {
            connections: receipt.transferred.into(),
            dropped: Some(receipt.dropped.into()),
        }
    }
}

/// Gives a seat back to the old container, from wherever the handover or the time after it has ended.
///
/// A new process that still serves hands everything back. One that is gone has taken its connections along: it is removed,
/// so that the engine does not start it again, and the old process begins anew at the seat. An old process that has not
/// `given` anything, as far as anybody knows, and does not answer either, may just be stopped: it has its connections, and
/// is left alone.
///
/// # Errors
/// A sentence: the old process does not serve.
pub async fn give_back(
    engine: &Engine,
    seats: &Seats,
    old: &Container,
    new: Option<&Container>,
    given: bool,
) -> Result<Returned, String> {
    let serves = |status: &Status| status.role == Role::Serving;
    if let Ok(status) = settled(seats, old).await
        && serves(&status)
    {
        // It may have taken everything back already, ordered by an agent that did not live to note it.
        let back = |r: &Receipt| r.side == Side::Successor && r.end != End::Failed;
        let taken_back = status.last.filter(back).filter(|_| given);
        return Ok(taken_back.map_or(Returned::NOTHING, Returned::from));
    }
    let path = control(seats, old).ok_or("the old container has no seat")?;
    let take_over = || ask(&path, Request::TakeOver {}, TAKES);
    if let Some(new) = new {
        if status(seats, new).await.is_ok_and(|s| serves(&s))
            && let Ok(Answer::Receipt(receipt)) = take_over().await
            && receipt.end != End::Failed
        {
            return Ok(receipt.into());
        }
        if !engine
            .containers()
            .await?
            .iter()
            .any(|c| c.id == old.id && c.running)
        {
            return Err(format!(
                "the old container `{}` does not run any more",
                old.name
            ));
        }
        engine.remove(&new.id).await?;
        // One that hung between the commit and its last word has left everything with the old one.
        if let Ok(status) = settled(seats, old).await
            && serves(&status)
        {
            return Ok(Returned {
                connections: status.connections.into(),
                dropped: Some(0),
            });
        }
    }
    if !given && let Err(silent) = settled(seats, old).await {
        return Err(format!(
            "{silent}; it has not handed over its connections, so it was not restarted"
        ));
    }
    // A service may know how to begin anew from here; if not, its next process does.
    let _ = take_over().await;
    if !status(seats, old).await.is_ok_and(|s| serves(&s)) {
        engine.restart(&old.id).await?;
    }
    let until = Instant::now() + SERVES_WITHIN;
    while Instant::now() < until {
        if status(seats, old).await.is_ok_and(|s| serves(&s)) {
            return Ok(Returned::NOTHING);
        }
        sleep(LOOK).await;
    }
    Err(format!(
        "the old container `{}` does not serve again",
        old.name
    ))
}

/// Watches a new container for `time`, while the old process waits, empty.
///
/// # Errors
/// [`CauseCode::ContainerExited`], [`CauseCode::HealthTimeout`], [`CauseCode::HandoverFailed`]: it must not stay.
pub async fn bake(
    engine: &Engine,
    seats: &Seats,
    spec: &ContainerSpec,
    new: &Container,
    time: Duration,
) -> Result<(), Failure> {
    let door = Door::of(new, seats).ok_or_else(|| failed("it has no seat"))?;
    let until = Instant::now() + time;
    let mut bad = 0;
    loop {
        health::still_runs(engine, spec, new).await?;
        let answer = health::ask(&door, &spec.health).await;
        let good = answer == Health::Status(spec.health.status);
        bad = if good { 0 } else { bad + 1 };
        if bad >= spec.health.healthy.max(1) {
            let message = format!(
                "container `{}` was healthy, took over, and then {answer}, {bad} times in a row at {door}",
                spec.name
            );
            let failure = Failure::new(CauseCode::HealthTimeout, message);
            return Err(failure.with_log(engine.log_tail(&new.id).await));
        }
        let left = until.saturating_duration_since(Instant::now());
        if good && left.is_zero() {
            break;
        }
        let pause = spec.health.interval.min(BAKE_LOOK);
        sleep(if good { pause.min(left) } else { pause }).await;
    }
    let status = settled(seats, new).await.map_err(failed)?;
    if status.role == Role::Serving {
        Ok(())
    } else {
        let role = name(status.role);
        Err(failed(format!(
            "container `{}` serves no more: it is {role}",
            spec.name
        )))
    }
}

/// Tells a process that waits, empty, that nothing will be taken back. One that does not answer is stopped anyway.
pub async fn retire(seats: &Seats, old: &Container) {
    if let Some(path) = control(seats, old)
        && let Err(e) = ask(&path, Request::Retire {}, ANSWERS).await
    {
        tracing::debug!(container = old.name, error = %e, "an old process was not there to be retired");
    }
}

/// As `status` writes it.
fn name(role: Role) -> &'static str {
    match role {
        Role::Waiting => "waiting",
        Role::Serving => "serving",
        Role::Giving => "giving",
        Role::Taking => "taking",
        Role::Emptied => "emptied",
    }
}

fn failed(why: impl Into<String>) -> Failure {
    Failure::new(CauseCode::HandoverFailed, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::Phase;

    fn receipt(side: Side, end: End, offered: u32, transferred: u32) -> Receipt {
        serde_json::from_value(serde_json::json!({
            "side": side, "end": end, "phase": Phase::Taken, "schema": 1, "reversible": true, "offered": offered,
            "transferred": transferred, "dropped": offered - transferred, "listeners": 2, "bytes": 9,
            "frozen_ms": 1.5, "total_ms": 2.0, "service": {"unsentMessages": 2, "halfReadMessages": 1, "unsentBytes": 99}
        }))
        .unwrap()
    }

    fn is(role: Role, connections: u32, last: Option<Receipt>) -> Status {
        Status {
            role,
            connections,
            last,
            ..Status::default()
        }
    }

    #[test]
    fn a_handover_counts_only_when_both_processes_give_the_same_account_of_it() {
        let new = is(
            Role::Serving,
            5,
            Some(receipt(Side::Successor, End::Taken, 5, 5)),
        );
        let old = |role, connections, transferred| {
            let last = receipt(Side::Predecessor, End::Taken, 5, transferred);
            is(role, connections, Some(last))
        };
        let (account, warning) = compare(Some(&old(Role::Emptied, 0, 5)), &new).unwrap();
        assert_eq!(
            (account.before, account.handed_over, account.dropped),
            (5, 5, 0)
        );
        assert_eq!((account.in_flight, account.frozen_us), (Some(3), 1500));
        assert_eq!(warning, None);
        for bad in [
            old(Role::Emptied, 0, 4),
            old(Role::Emptied, 1, 5),
            old(Role::Serving, 0, 5),
            is(Role::Emptied, 0, None),
        ] {
            compare(Some(&bad), &new).unwrap_err();
        }
        // One that died while it waited, and was started again, can say nothing against it.
        for gone in [None, Some(&is(Role::Waiting, 0, None))] {
            assert!(compare(gone, &new).unwrap().1.is_some());
        }
        // A client that leaves, or comes, after the handover changes no account.
        let later = is(Role::Serving, 3, new.last.clone());
        compare(Some(&old(Role::Emptied, 0, 5)), &later).unwrap();
    }

    #[test]
    fn a_new_process_that_knows_of_no_handover_while_the_old_one_is_empty_has_lost_the_connections()
    {
        let fresh = is(Role::Serving, 0, None);
        compare(Some(&is(Role::Emptied, 0, None)), &fresh).unwrap_err();
        compare(Some(&is(Role::Serving, 1, None)), &fresh).unwrap_err();
        // The old process had died earlier, and was started again behind the new one.
        let (account, warning) = compare(Some(&is(Role::Waiting, 0, None)), &fresh).unwrap();
        assert!(account.before == 0 && warning.is_some());
        compare(None, &is(Role::Waiting, 0, None)).unwrap_err();
    }

    #[test]
    fn connections_that_died_with_their_process_are_dropped_not_handed_over() {
        let last = receipt(Side::Successor, End::Inherited, 5, 2);
        let (account, warning) = compare(None, &is(Role::Serving, 2, Some(last))).unwrap();
        assert_eq!((account.handed_over, account.dropped), (2, 3));
        assert!(warning.unwrap().contains("3 of its 5 connections"));
    }
}
