//! What the operator reads at the end of a wait, whole, from real tallies.

use super::*;
use crate::{eligibility::StackStatus, signals::Membership, update::FailedResource};
use contract::{
    digest::Digest,
    signal::{Cause, CauseCode, Drain, FORMAT, HostSignal, Kind},
};
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const LIMIT: Duration = Duration::from_secs(120);

fn digest(n: u8) -> Digest {
    Digest::from_bytes(&[n; 32])
}

fn tally(hosts: &[&str]) -> Tally {
    let group = Membership {
        desired: u32::try_from(hosts.len()).unwrap(),
        in_service: hosts.iter().map(|&h| h.to_owned()).collect(),
    };
    Tally::new("01SWAP", digest(2), &group, NOW)
}

fn signal(instance: &str, kind: Kind, step: Step) -> HostSignal {
    HostSignal {
        v: FORMAT,
        swap: "01SWAP".into(),
        epoch: 1,
        seq: 7,
        stack: "arn:stack".into(),
        region: "us-west-2".into(),
        instance: instance.into(),
        at: NOW,
        kind,
        from: Some(digest(1)),
        to: digest(2),
        serving: Some(if kind == Kind::Success {
            digest(2)
        } else {
            digest(1)
        }),
        step,
        detail: None,
        cause: None,
        ms: BTreeMap::new(),
        bytes: 0,
        drain: Drain::default(),
        handover: None,
        warnings: vec![],
    }
}

/// Three hosts: one done, one failed, one in the middle of its download.
fn mixed() -> Tally {
    let mut tally = tally(&["i-1", "i-2", "i-3", "i-4"]);
    let failed = HostSignal {
        cause: Some(Cause {
            code: CauseCode::HealthTimeout,
            message: "container `web` answered GET /health on :20001 with 503, 40 times".into(),
            log: "service v2 is up\ndatabase: connection refused".into(),
        }),
        ..signal("i-2", Kind::Failed, Step::Health)
    };
    let working = HostSignal {
        detail: Some("41 %".into()),
        ..signal("i-3", Kind::Progress, Step::Fetch)
    };
    for signal in [signal("i-1", Kind::Success, Step::Report), failed, working] {
        tally.observe(&signal.to_body(), NOW);
    }
    tally
}

fn waiting() -> Tally {
    let mut tally = tally(&["i-1", "i-2"]);
    tally.observe(&signal("i-1", Kind::Success, Step::Report).to_body(), NOW);
    tally
}

fn told(decision: DecisionKind, end: End, tally: Tally) -> String {
    let outcome = signals::Outcome {
        end,
        tally,
        failures: vec![FailedResource {
            logical_id: "HostRole".into(),
            resource_type: "AWS::IAM::Role".into(),
            status: "UPDATE_FAILED".into(),
            reason: "Policy is malformed".into(),
        }],
        trouble: None,
    };
    match judge("us-west-2", decision, LIMIT, outcome) {
        Ok(()) => "success".into(),
        Err(failure) => format!("exit status {}\n{failure}", failure.exit.code()),
    }
}

#[test]
fn d_hot_42_failed_hosts_are_named_with_step_cause_log_and_what_the_others_do() {
    let tally = mixed();
    let end = End::Ended(Ended::HostsFailed(tally.verdict(NOW, Timestamp::MAX)));
    insta::assert_snapshot!(told(DecisionKind::HotSwap, end, tally)); // D-HOT-42, D-HOT-55
}

#[test]
fn d_hot_28_a_deadline_names_who_is_missing_and_the_deadline_that_was_kept() {
    let tally = waiting();
    let passed = || End::Ended(Ended::DeadlinePassed(waiting().verdict(NOW, NOW)));
    insta::assert_snapshot!(told(DecisionKind::HotSwap, passed(), tally.clone())); // D-HOT-28
    insta::assert_snapshot!(
        "d_prov_8_deadline",
        told(DecisionKind::Provision, passed(), tally)
    );
}

#[test]
fn d_cli_5_an_interrupt_says_what_becomes_of_the_hosts() {
    // D-CLI-5: running hosts go on by themselves, new ones are taken away again.
    insta::assert_snapshot!(told(DecisionKind::HotSwap, End::Interrupted, waiting()));
    insta::assert_snapshot!(
        "d_cli_5_provision",
        told(DecisionKind::Provision, End::Interrupted, waiting())
    );
}

#[test]
fn d_hot_37_a_stack_that_is_given_up_names_its_failing_resources() {
    let status = StackStatus::new("UPDATE_ROLLBACK_IN_PROGRESS");
    let end = End::Ended(Ended::StackFailed { status });
    insta::assert_snapshot!(told(DecisionKind::HotSwap, end, waiting())); // D-HOT-37
}

#[test]
fn d_cli_3_a_queue_that_refuses_us_in_the_middle_of_a_swap_is_a_failed_swap() {
    let error = aws::Error {
        service: "SQS",
        operation: "ReceiveMessage",
        region: "us-west-2".into(),
        code: Some("AccessDenied".into()),
        message: "not authorized".into(),
        request_id: None,
        kind: aws::Kind::Denied,
    };
    insta::assert_snapshot!(told(DecisionKind::HotSwap, End::Refused(error), waiting())); // D-CLI-3
}
