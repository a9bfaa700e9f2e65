//! Reads queue, group and stack of one region until its [`Watch`] has ended.

use super::{
    tally::{Observation, Tally},
    watch::{Due, Ended, Watch},
};
use crate::{
    aws::{
        self,
        autoscaling::{AutoScaling, Group},
        cloudformation::{CloudFormation, Stack},
        sqs::{Message, Sqs},
    },
    update::{self, FailedResource},
};
use jiff::Timestamp;
use std::{future::Future, time::Duration};
use tokio_util::sync::CancellationToken;

/// A describe call that takes longer counts as failed: messages must not wait behind it.
const READ_LIMIT: Duration = Duration::from_secs(4);
/// Stands for the service's error code when there was no answer in time.
const NO_ANSWER: &str = "NoAnswer";
/// After the first failed receive; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Within the deadline a failing queue is tried at least this often (D-HOT-33).
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where one region's hosts report, and what they belong to.
#[derive(Clone, Debug)]
pub struct Region {
    /// The queue's service.
    pub sqs: Sqs,
    /// The group's service.
    pub autoscaling: AutoScaling,
    /// The stack's service.
    pub cloudformation: CloudFormation,
    /// URL of the stack's own queue, the physical id of `PorterSignalQueue` (D-HOT-34).
    pub queue: String,
    /// Name of the group.
    pub group: String,
    /// Stack id.
    pub stack: String,
}

/// A received message, to be recorded before it is deleted (D-HOT-32).
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// When it was received.
    pub at: Timestamp,
    /// Its text.
    pub body: &'a str,
    /// What it meant.
    pub observation: &'a Observation,
}

/// How a region's wait ended, and what is known of every host.
#[derive(Debug)]
pub struct Outcome {
    /// The end.
    pub end: End,
    /// The last state of every host.
    pub tally: Tally,
    /// With [`Ended::StackFailed`]: the first failing resources.
    pub failures: Vec<FailedResource>,
    /// The last call that failed, if the ones after it did not succeed.
    pub trouble: Option<aws::Error>,
}

/// Why the wait is over.
#[derive(Debug)]
pub enum End {
    /// As the watch says.
    Ended(Ended),
    /// The operator wanted to stop. Hosts go on by themselves.
    Interrupted,
    /// Messages can't be recorded, so they are left on the queue.
    NotRecorded(std::io::Error),
    /// The queue refuses us: no repetition would help. Hosts go on by themselves.
    Refused(aws::Error),
}

/// Waits until `watch` has ended. Every message is given to `record` and then deleted; `on_change` sees the tally at the
/// beginning and after each change. API errors are retried without limit until the deadline (D-HOT-33), except those
/// that say that we may not read the queue.
pub async fn wait(
    region: &Region,
    mut watch: Watch,
    cancel: &CancellationToken,
    mut record: impl FnMut(&Received<'_>) -> std::io::Result<()>,
    mut on_change: impl FnMut(&Tally),
) -> Outcome {
    let mut trouble = None;
    let mut pause = FIRST_PAUSE;
    on_change(watch.tally());
    let end = loop {
        if let Some(ended) = watch.ended(Timestamp::now()) {
            break End::Ended(ended);
        }
        let due = watch.due(Timestamp::now());
        let readings = tokio::select! {
            readings = read(region, due) => readings,
            () = cancel.cancelled() => break End::Interrupted,
        };
        let now = Timestamp::now();
        let mut changed = false;
        let mut failed = None;
        match readings.messages {
            Ok(messages) => {
                pause = FIRST_PAUSE;
                match take(&mut watch, &messages, now, &mut record) {
                    Ok(news) => changed |= news,
                    Err(error) => break End::NotRecorded(error),
                }
                if let Err(error) = forget(region, &messages).await {
                    failed = Some(error);
                }
            }
            Err(error) if error.kind == aws::Kind::Denied => break End::Refused(error),
            // It has taken its time already.
            Err(error) if error.code.as_deref() == Some(NO_ANSWER) => failed = Some(error),
            Err(error) => {
                failed = Some(error);
                tokio::select! {
                    () = tokio::time::sleep(pause.min(left(&watch))) => pause = (pause * 2).min(LONGEST_PAUSE),
                    () = cancel.cancelled() => break End::Interrupted,
                }
            }
        }
        match readings.group {
            Some(Ok(Some(group))) => {
                let change = watch.group(&group.membership(), now);
                changed |= !change.left.is_empty() || !change.joined.is_empty();
                for instance in &change.left {
                    tracing::warn!("{instance} left the group {} during the swap", region.group);
                }
                for instance in &change.joined {
                    tracing::info!(
                        "{instance} joined the group {} during the swap",
                        region.group
                    );
                }
            }
            // A group that is not listed for a moment proves nothing; its hosts stay expected.
            Some(Ok(None)) => watch.missed(
                Due {
                    stack: false,
                    ..due
                },
                now,
            ),
            Some(Err(error)) => {
                watch.missed(
                    Due {
                        stack: false,
                        ..due
                    },
                    now,
                );
                failed = Some(error);
            }
            None => {}
        }
        match readings.stack {
            Some(Ok(Some(stack))) => watch.stack(&stack.status, stack.updated, now),
            Some(Ok(None)) => watch.stack(
                &crate::eligibility::StackStatus::new("DELETE_COMPLETE"),
                None,
                now,
            ),
            Some(Err(error)) => {
                watch.missed(
                    Due {
                        group: false,
                        ..due
                    },
                    now,
                );
                failed = Some(error);
            }
            None => {}
        }
        if let Some(error) = &failed {
            tracing::warn!("{error}; trying again until the deadline");
        }
        trouble = failed;
        if changed {
            on_change(watch.tally());
        }
    };
    let failures = match &end {
        End::Ended(Ended::StackFailed { .. }) => {
            match limited(
                region
                    .cloudformation
                    .events_of_last_operation(&region.stack),
            )
            .await
            {
                Some(Ok(events)) => update::failures(&events),
                Some(Err(error)) => {
                    trouble = Some(error);
                    vec![]
                }
                None => vec![],
            }
        }
        _ => vec![],
    };
    Outcome {
        end,
        tally: watch.into_tally(),
        failures,
        trouble,
    }
}

struct Readings {
    messages: Result<Vec<Message>, aws::Error>,
    group: Option<Result<Option<Group>, aws::Error>>,
    stack: Option<Result<Option<Stack>, aws::Error>>,
}

/// What is due, read side by side.
async fn read(region: &Region, due: Due) -> Readings {
    let group = async {
        if !due.group {
            return None;
        }
        limited(region.autoscaling.group(&region.group)).await
    };
    let stack = async {
        if !due.stack {
            return None;
        }
        limited(region.cloudformation.stack(&region.stack)).await
    };
    let messages = async {
        // The queue counts whole seconds: for less than one it answers at once, and asking on and on would be a storm.
        if due.receive_for < Duration::from_secs(1) {
            tokio::time::sleep(due.receive_for.max(Duration::from_millis(50))).await;
        }
        let call = region.sqs.receive(&region.queue, due.receive_for);
        match tokio::time::timeout(due.receive_for + READ_LIMIT, call).await {
            Ok(messages) => messages,
            Err(_) => Err(no_answer(region, "ReceiveMessage")),
        }
    };
    let (messages, group, stack) = tokio::join!(messages, group, stack);
    Readings {
        messages,
        group,
        stack,
    }
}

/// The answer, or nothing when it takes too long: then it is simply read again at the next turn.
async fn limited<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(READ_LIMIT, call).await.ok()
}

/// Observes and records messages; true when one of them was news.
fn take(
    watch: &mut Watch,
    messages: &[Message],
    now: Timestamp,
    record: &mut impl FnMut(&Received<'_>) -> std::io::Result<()>,
) -> std::io::Result<bool> {
    let mut news = false;
    for message in messages {
        let observation = watch.observe(&message.body, now);
        match &observation {
            Observation::Recorded { .. } => news = true,
            Observation::Duplicate { .. } => {}
            Observation::Stale { swap } => {
                tracing::debug!("a message of the swap {swap} was left aside")
            }
            Observation::Unsupported { v } => {
                tracing::warn!(
                    "a host sent a message of format {v}, which this porter does not read"
                );
            }
            Observation::Foreign { why } => {
                tracing::warn!("a message on the signal queue is not ours: {why}")
            }
        }
        record(&Received {
            at: now,
            body: &message.body,
            observation: &observation,
        })?;
    }
    Ok(news)
}

/// Deletes what has been recorded. A message that stays comes again and then counts as a duplicate.
async fn forget(region: &Region, messages: &[Message]) -> Result<(), aws::Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let call = limited(region.sqs.delete(&region.queue, messages)).await;
    call.unwrap_or_else(|| Err(no_answer(region, "DeleteMessageBatch")))
}

/// The SDK would go on waiting and repeating, longer than the deadline and the operator's patience allow.
fn no_answer(region: &Region, operation: &'static str) -> aws::Error {
    aws::Error {
        service: "SQS",
        operation,
        region: region.sqs.region().to_owned(),
        code: Some(NO_ANSWER.into()),
        message: "no answer in time".to_owned(),
        request_id: None,
        kind: aws::Kind::Transient,
    }
}

fn left(watch: &Watch) -> Duration {
    Duration::try_from(watch.deadline().duration_since(Timestamp::now())).unwrap_or_default()
}
