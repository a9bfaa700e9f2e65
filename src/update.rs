//! Creates or updates the stack and follows it to its end.
//!
//! [`Follow`] decides, [`follow`] reads: status and events at every poll, until the status is terminal. What is terminal
//! depends on the operation ([`Operation`]); anything that leads away from what was asked for ends the wait at once
//! (D-PROV-6).

use crate::{
    aws::{
        self,
        cloudformation::{CloudFormation, OnFailure, Stack, StackEvent},
    },
    eligibility::{Progress, StackStatus},
};
use jiff::Timestamp;
use serde::Serialize;
use std::{fmt, time::Duration};
use tokio_util::sync::CancellationToken;

/// Readings that may fail in a row before the last error counts (D-PROV-6).
const ATTEMPTS: u32 = 5;
/// The pause after the first failed reading; doubles from there.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How many failing resources an error names: the first ones are causes, later ones consequences.
const NAMED_FAILURES: usize = 5;

/// Times of stack operations (D-CLI-48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `STACK_CREATION_TIMEOUT`: 15 min to 1 h, by default 20 min.
    pub timeout: Duration,
    /// `STACK_CREATION_POLL_INTERVAL`: by default 10 s.
    pub poll: Duration,
    /// `STACK_CREATION_ON_FAILURE`.
    pub on_failure: OnFailure,
}

impl Times {
    /// From the environment variables, which `get` looks up. Durations are written as `20m`, `90s`, `1h30m`, or as plain
    /// seconds; what can't be read counts as absent, as in the original porter.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Self {
        let duration = |name, default| {
            get(name)
                .and_then(|text| read_duration(&text))
                .unwrap_or(default)
        };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let poll = duration("STACK_CREATION_POLL_INTERVAL", Duration::from_secs(10));
        Self {
            timeout: duration("STACK_CREATION_TIMEOUT", minutes(20))
                .clamp(minutes(15), minutes(60)),
            poll: poll.max(Duration::from_millis(100)),
            on_failure: OnFailure::from_setting(
                &get("STACK_CREATION_ON_FAILURE").unwrap_or_default(),
            ),
        }
    }
}

fn read_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return None,
        };
        total += unit.checked_mul(u32::try_from(number).ok()?)?;
        rest = &rest[digits + letters..];
    }
    (!total.is_zero()).then_some(total)
}

/// What was asked of CloudFormation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// CreateStack.
    Create,
    /// UpdateStack.
    Update,
    /// DeleteStack.
    Delete,
}

impl Operation {
    fn progress(self, status: &StackStatus) -> Progress {
        match self {
            Self::Create => status.creation(),
            Self::Update => status.update(),
            Self::Delete => status.deletion(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Create => "creation",
            Self::Update => "update",
            Self::Delete => "deletion",
        }
    }
}

/// A resource that kept an operation from succeeding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedResource {
    /// Logical id.
    pub logical_id: String,
    /// Such as `AWS::IAM::Role`.
    pub resource_type: String,
    /// Such as `CREATE_FAILED`.
    pub status: String,
    /// CloudFormation's reason.
    pub reason: String,
}

impl fmt::Display for FailedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) is {}: {}",
            self.logical_id, self.resource_type, self.status, self.reason
        )
    }
}

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The stack took another way.
    #[error("{} of the stack {stack} failed: it is {status}{}", .operation.word(), first(.resources))]
    Failed {
        /// What was asked for.
        operation: Operation,
        /// Stack name or id.
        stack: String,
        /// Where it is.
        status: StackStatus,
        /// The first failing resources, oldest first (D-PROV-7).
        resources: Vec<FailedResource>,
    },
    /// It took too long.
    #[error("{} of the stack {stack} is still {status} after {} s", .operation.word(), .after.as_secs())]
    TimedOut {
        /// What was asked for.
        operation: Operation,
        /// Stack name or id.
        stack: String,
        /// Where it is.
        status: StackStatus,
        /// How long it was given.
        after: Duration,
    },
    /// The operator wanted to stop; CloudFormation goes on.
    #[error("interrupted while following the {} of the stack {stack}; CloudFormation goes on with it", .operation.word())]
    Interrupted {
        /// What was asked for.
        operation: Operation,
        /// Stack name or id.
        stack: String,
    },
    /// The stack can't be read.
    #[error(transparent)]
    Aws(#[from] aws::Error),
}

fn first(resources: &[FailedResource]) -> String {
    resources
        .first()
        .map_or(String::new(), |r| format!("; {r}"))
}

/// The first failing resources of an operation's events, oldest first; the stack's own reason when no resource failed.
pub fn failures(events: &[StackEvent]) -> Vec<FailedResource> {
    let failed = |e: &&StackEvent| e.status.ends_with("_FAILED");
    // "Resource creation cancelled" is how CloudFormation ends the siblings of the one that failed.
    let cancelled = |e: &StackEvent| {
        e.reason
            .as_deref()
            .is_some_and(|r| r.to_ascii_lowercase().contains("cancelled"))
    };
    let named = |e: &StackEvent| FailedResource {
        logical_id: e.logical_id.clone(),
        resource_type: e.resource_type.clone(),
        status: e.status.clone(),
        reason: e
            .reason
            .clone()
            .unwrap_or_else(|| "CloudFormation gives no reason".to_owned()),
    };
    let resources: Vec<_> = events
        .iter()
        .filter(failed)
        .filter(|e| !e.is_of_stack() && !cancelled(e))
        .take(NAMED_FAILURES)
        .map(named)
        .collect();
    if !resources.is_empty() {
        return resources;
    }
    events
        .iter()
        .filter(|e| e.is_of_stack() && e.reason.is_some() && leads_away(e))
        .take(1)
        .map(named)
        .collect()
}

fn leads_away(event: &StackEvent) -> bool {
    event.status.contains("ROLLBACK")
        || event.status.ends_with("_FAILED")
        || event.status.starts_with("DELETE")
}

/// Pure: when to read again, and when it is over.
#[derive(Debug)]
pub struct Follow {
    operation: Operation,
    poll: Duration,
    deadline: Timestamp,
    failed_readings: u32,
    status: Option<StackStatus>,
}

/// What comes after a reading.
#[derive(Debug)]
pub enum Next {
    /// Read again after this time.
    Again(Duration),
    /// It succeeded.
    Complete,
    /// It will not.
    Failed(StackStatus),
    /// It took too long.
    TimedOut(StackStatus),
    /// It can't be read any more.
    Lost(aws::Error),
}

impl Follow {
    /// An operation that must be over by `deadline`.
    pub fn new(operation: Operation, poll: Duration, deadline: Timestamp) -> Self {
        Self {
            operation,
            poll,
            deadline,
            failed_readings: 0,
            status: None,
        }
    }

    /// What a reading means. A stack that is not there any more counts as deleted.
    pub fn read(
        &mut self,
        reading: Result<Option<StackStatus>, aws::Error>,
        now: Timestamp,
    ) -> Next {
        let status = match reading {
            Ok(status) => status.unwrap_or_else(|| StackStatus::new("DELETE_COMPLETE")),
            Err(error) => {
                self.failed_readings += 1;
                if !error.is_transient() || self.failed_readings >= ATTEMPTS {
                    return Next::Lost(error);
                }
                return Next::Again(FIRST_PAUSE * 2u32.pow(self.failed_readings - 1));
            }
        };
        self.failed_readings = 0;
        self.status = Some(status.clone());
        match self.operation.progress(&status) {
            Progress::Complete => Next::Complete,
            Progress::Failed => Next::Failed(status),
            Progress::Running if now >= self.deadline => Next::TimedOut(status),
            Progress::Running => {
                let left =
                    Duration::try_from(self.deadline.duration_since(now)).unwrap_or_default();
                Next::Again(self.poll.min(left))
            }
        }
    }
}

/// Follows an operation of the stack `id` until it is over. `on_event` is told every event once, as it appears.
///
/// # Errors
/// It did not succeed: the error names the failing resources (D-PROV-7).
pub async fn follow(
    cloudformation: &CloudFormation,
    id: &str,
    operation: Operation,
    times: &Times,
    cancel: &CancellationToken,
    mut on_event: impl FnMut(&StackEvent),
) -> Result<Option<Stack>, FollowError> {
    let deadline =
        Timestamp::now() + jiff::SignedDuration::try_from(times.timeout).unwrap_or_default();
    let mut follow = Follow::new(operation, times.poll, deadline);
    let mut events: Vec<StackEvent> = vec![];
    loop {
        let reading = tokio::select! {
            reading = read(cloudformation, id, &mut events, &mut on_event) => reading,
            () = cancel.cancelled() => return Err(FollowError::Interrupted { operation, stack: id.to_owned() }),
        };
        let (reading, stack) = match reading {
            Ok(stack) => (Ok(stack.as_ref().map(|s| s.status.clone())), stack),
            Err(e) => (Err(e), None),
        };
        let name = stack.as_ref().map_or(id, |s| &s.name).to_owned();
        match follow.read(reading, Timestamp::now()) {
            Next::Again(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Err(FollowError::Interrupted { operation, stack: name }),
            },
            Next::Complete => return Ok(stack),
            Next::Failed(status) => {
                return Err(FollowError::Failed {
                    operation,
                    stack: name,
                    status,
                    resources: failures(&events),
                });
            }
            Next::TimedOut(status) => {
                return Err(FollowError::TimedOut {
                    operation,
                    stack: name,
                    status,
                    after: times.timeout,
                });
            }
            Next::Lost(error) => return Err(error.into()),
        }
    }
}

/// Status first, then events: so the events are never older than the status that ends the wait.
async fn read(
    cloudformation: &CloudFormation,
    id: &str,
    events: &mut Vec<StackEvent>,
    on_event: &mut impl FnMut(&StackEvent),
) -> Result<Option<Stack>, aws::Error> {
    let stack = cloudformation.stack(id).await?;
    if stack.is_some() {
        let new = match events.last().map(|e| e.id.clone()) {
            Some(last) => cloudformation.events_since(id, Some(&last)).await?,
            None => cloudformation.events_of_last_operation(id).await?,
        };
        new.iter().for_each(&mut *on_event);
        events.extend(new);
    }
    Ok(stack)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn status(text: &str) -> Result<Option<StackStatus>, aws::Error> {
        Ok(Some(StackStatus::new(text)))
    }

    fn trouble(kind: aws::Kind) -> Result<Option<StackStatus>, aws::Error> {
        Err(aws::Error {
            service: "CloudFormation",
            operation: "DescribeStacks",
            region: "us-east-1".into(),
            code: None,
            message: "no route to host".into(),
            request_id: None,
            kind,
        })
    }

    fn creation() -> Follow {
        Follow::new(
            Operation::Create,
            Duration::from_secs(10),
            START + jiff::SignedDuration::from_secs(1_200),
        )
    }

    #[test]
    fn d_prov_6_any_terminal_or_deleting_status_ends_the_wait_at_once() {
        for running in ["CREATE_IN_PROGRESS", "REVIEW_IN_PROGRESS"] {
            assert!(
                matches!(creation().read(status(running), START), Next::Again(p) if p.as_secs() == 10),
                "{running}"
            );
        }
        assert!(matches!(
            creation().read(status("CREATE_COMPLETE"), START),
            Next::Complete
        ));
        for away in [
            "CREATE_FAILED",
            "ROLLBACK_IN_PROGRESS",
            "ROLLBACK_COMPLETE",
            "ROLLBACK_FAILED",
            "DELETE_IN_PROGRESS",
            "DELETE_COMPLETE",
            "DELETE_FAILED",
            "A_STATUS_OF_TOMORROW",
        ] {
            // D-PROV-5, D-PROV-6
            assert!(
                matches!(creation().read(status(away), START), Next::Failed(s) if s.as_str() == away),
                "{away}"
            );
        }
        assert!(
            matches!(creation().read(Ok(None), START), Next::Failed(_)),
            "a stack that is gone"
        );
    }

    #[test]
    fn d_prov_6_transient_errors_are_retried_five_times_doubling_and_others_not_at_all() {
        let mut follow = creation();
        for seconds in [1, 2, 4, 8] {
            let next = follow.read(trouble(aws::Kind::Transient), START);
            assert!(
                matches!(next, Next::Again(p) if p.as_secs() == seconds),
                "{next:?}"
            ); // D-PROV-6
        }
        assert!(matches!(
            follow.read(trouble(aws::Kind::Transient), START),
            Next::Lost(_)
        ));

        let mut follow = creation();
        for _ in 0..20 {
            assert!(matches!(
                follow.read(trouble(aws::Kind::Transient), START),
                Next::Again(_)
            ));
            assert!(
                matches!(
                    follow.read(status("CREATE_IN_PROGRESS"), START),
                    Next::Again(_)
                ),
                "the count starts anew"
            );
        }
        assert!(matches!(
            creation().read(trouble(aws::Kind::Denied), START),
            Next::Lost(_)
        ));
    }

    #[test]
    fn d_prov_5_the_timeout_ends_the_wait_but_not_a_success_at_its_very_end() {
        let mut follow = creation();
        let late = START + jiff::SignedDuration::from_secs(1_195);
        assert!(
            matches!(follow.read(status("CREATE_IN_PROGRESS"), late), Next::Again(p) if p.as_secs() == 5)
        );
        let end = START + jiff::SignedDuration::from_secs(1_200);
        assert!(matches!(
            follow.read(status("CREATE_IN_PROGRESS"), end),
            Next::TimedOut(_)
        )); // D-PROV-5
        assert!(matches!(
            follow.read(status("CREATE_COMPLETE"), end),
            Next::Complete
        ));
    }

    #[test]
    fn d_hot_37_an_update_is_complete_only_after_its_cleanup() {
        let update = |text| {
            Follow::new(Operation::Update, Duration::ZERO, Timestamp::MAX).read(status(text), START)
        };
        assert!(matches!(
            update("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"),
            Next::Again(_)
        )); // D-HOT-37
        assert!(matches!(update("UPDATE_COMPLETE"), Next::Complete));
        for away in [
            "UPDATE_FAILED",
            "UPDATE_ROLLBACK_IN_PROGRESS",
            "UPDATE_ROLLBACK_COMPLETE",
            "UPDATE_ROLLBACK_FAILED",
        ] {
            assert!(matches!(update(away), Next::Failed(_)), "{away}");
        }
    }

    fn event(logical_id: &str, status: &str, reason: Option<&str>) -> StackEvent {
        let stack = logical_id == "hello-stage";
        StackEvent {
            id: format!("{logical_id}-{status}"),
            at: START,
            logical_id: logical_id.into(),
            physical_id: if stack {
                "arn:aws:cloudformation:x:0:stack/hello-stage/1".into()
            } else {
                String::new()
            },
            resource_type: if stack {
                "AWS::CloudFormation::Stack".into()
            } else {
                "AWS::IAM::Role".into()
            },
            status: status.into(),
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn d_prov_7_the_error_names_what_failed_first_and_why_and_not_what_was_cancelled_with_it() {
        let events = [
            event("hello-stage", "CREATE_IN_PROGRESS", Some("User Initiated")),
            event("HostRole", "CREATE_FAILED", Some("Policy is malformed")),
            event(
                "Queue",
                "CREATE_FAILED",
                Some("Resource creation cancelled"),
            ),
            event(
                "hello-stage",
                "ROLLBACK_IN_PROGRESS",
                Some("The following resource(s) failed to create: [HostRole]."),
            ),
        ];
        let error = FollowError::Failed {
            operation: Operation::Create,
            stack: "hello-stage".into(),
            status: StackStatus::new("ROLLBACK_IN_PROGRESS"),
            resources: failures(&events),
        };
        assert_eq!(
            error.to_string(), // D-PROV-7
            "creation of the stack hello-stage failed: it is ROLLBACK_IN_PROGRESS; HostRole (AWS::IAM::Role) is \
             CREATE_FAILED: Policy is malformed"
        );
        assert_eq!(failures(&events).len(), 1);
        assert_eq!(
            failures(&events[2..])[0].reason,
            "The following resource(s) failed to create: [HostRole]."
        );
        assert_eq!(
            failures(&events[..1]),
            [],
            "a start is no failure, though it has a reason"
        );
    }

    #[test]
    fn d_cli_48_times_come_from_the_environment_within_their_limits() {
        let times = |timeout: &str, poll: &str, failure: &str| {
            let (timeout, poll, failure) =
                (timeout.to_owned(), poll.to_owned(), failure.to_owned());
            let t = Times::from_environment(|name| {
                Some(match name {
                    "STACK_CREATION_TIMEOUT" => timeout.clone(),
                    "STACK_CREATION_POLL_INTERVAL" => poll.clone(),
                    "STACK_CREATION_ON_FAILURE" => failure.clone(),
                    other => panic!("unexpected variable {other}"),
                })
            });
            (t.timeout.as_secs(), t.poll.as_millis(), t.on_failure)
        };
        // D-CLI-48
        assert_eq!(times("", "", ""), (1_200, 10_000, OnFailure::Delete));
        assert_eq!(
            times("30m", "2s", "DO_NOTHING"),
            (1_800, 2_000, OnFailure::DoNothing)
        );
        assert_eq!(
            times("1m", "250ms", "ROLLBACK"),
            (900, 250, OnFailure::Rollback)
        );
        assert_eq!(
            times("9h", "1m30s", "whatever"),
            (3_600, 90_000, OnFailure::Delete)
        );
        assert_eq!(
            times("soon", "5", "delete"),
            (1_200, 5_000, OnFailure::Delete)
        );
    }
}
