//! The tally against a queue that does everything a queue may do (D-QA-4): repeats, reorders, mixes in strangers.
//!
//! The oracle keeps every delivered message and looks at all of them again each time; it shares no code with the tally.

use super::*;
use crate::eligibility::StackStatus;
use contract::{
    digest::Digest,
    signal::{Cause, CauseCode, Drain, HostSignal, Kind},
    step::Step,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const SWAP: &str = "01JDSWAP";

fn wanted() -> Digest {
    Digest::from_bytes(&[1; 32])
}

fn old() -> Digest {
    Digest::from_bytes(&[2; 32])
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn instance(n: usize) -> String {
    format!("i-{n:04}")
}

fn signal(host: &str, seq: u64, kind: Kind, serving: Option<Digest>) -> HostSignal {
    HostSignal {
        v: contract::signal::FORMAT,
        swap: SWAP.into(),
        epoch: 0,
        seq,
        stack: "arn:stack".into(),
        region: "us-east-1".into(),
        instance: host.into(),
        at: at(0),
        kind,
        from: Some(old()),
        to: wanted(),
        serving,
        step: match kind {
            Kind::Progress => Step::Fetch,
            Kind::Failed => Step::Health,
            _ => Step::Report,
        },
        detail: None,
        cause: (kind == Kind::Failed).then(|| Cause {
            code: CauseCode::HealthTimeout,
            message: "container `web` answered GET /health with 503, 40 times".into(),
            log: "panic: no database".into(),
        }),
        ms: BTreeMap::new(),
        bytes: 0,
        drain: Drain::default(),
        handover: None,
        warnings: vec![],
    }
}

fn success(host: &str, seq: u64) -> String {
    signal(host, seq, Kind::Success, Some(wanted())).to_body()
}

fn group(hosts: impl IntoIterator<Item = usize>) -> Membership {
    let in_service: BTreeSet<_> = hosts.into_iter().map(instance).collect();
    Membership {
        desired: in_service.len() as u32,
        in_service,
    }
}

fn tally(hosts: usize) -> Tally {
    Tally::new(SWAP, wanted(), &group(0..hosts), at(0))
}

/// How the hosts' story ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Story {
    Succeeds,
    Fails,
    BootsWanted,
    BootsOldThenSucceeds,
    StaysSilent,
    BootsOldOnly,
}

impl Story {
    fn messages(self, host: &str) -> Vec<HostSignal> {
        let progress = |seq| signal(host, seq, Kind::Progress, Some(old()));
        let mut all = vec![progress(1), progress(2)];
        match self {
            Self::Succeeds => all.push(signal(host, 3, Kind::Success, Some(wanted()))),
            Self::Fails => all.push(signal(host, 3, Kind::Failed, Some(old()))),
            Self::BootsWanted => all.push(signal(host, 3, Kind::Booted, Some(wanted()))),
            Self::BootsOldThenSucceeds => {
                all.push(signal(host, 3, Kind::Booted, Some(old())));
                all.push(progress(4));
                all.push(signal(host, 5, Kind::Success, Some(wanted())));
            }
            Self::StaysSilent => all.truncate(1),
            Self::BootsOldOnly => all.push(signal(host, 3, Kind::Booted, Some(old()))),
        }
        all
    }
}

/// Words for the state of the whole, from everything delivered so far.
#[derive(Default)]
struct Oracle {
    delivered: BTreeMap<String, Vec<HostSignal>>,
    done: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Oracle {
    fn deliver(&mut self, message: HostSignal) {
        let host = message.instance.clone();
        let all = self.delivered.entry(host.clone()).or_default();
        all.push(message);
        let last_word = all
            .iter()
            .filter(|m| m.kind != Kind::Progress)
            .max_by_key(|m| m.seq);
        self.done.remove(&host);
        self.failed.remove(&host);
        match last_word {
            Some(m) if m.kind == Kind::Failed => drop(self.failed.insert(host)),
            Some(m) if m.serving.as_ref() == Some(&wanted()) => drop(self.done.insert(host)),
            _ => {}
        }
    }

    fn verdict(&self, hosts: usize, over: bool) -> &'static str {
        match (self.failed.is_empty(), self.done.len() == hosts, over) {
            (false, _, _) => "failed",
            (true, true, _) => "success",
            (true, false, true) => "deadline",
            (true, false, false) => "waiting",
        }
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Waiting { .. } => "waiting",
        Verdict::Success { .. } => "success",
        Verdict::Failed { .. } => "failed",
        Verdict::DeadlinePassed { .. } => "deadline",
    }
}

fn story() -> impl Strategy<Value = Story> {
    prop_oneof![
        60 => Just(Story::Succeeds),
        2 => Just(Story::Fails),
        10 => Just(Story::BootsWanted),
        10 => Just(Story::BootsOldThenSucceeds),
        1 => Just(Story::StaysSilent),
        1 => Just(Story::BootsOldOnly),
    ]
}

/// A message of someone else, and why it must not count.
fn stranger(choice: u8, host: &str) -> String {
    let mut s = signal(host, 99, Kind::Failed, Some(old()));
    match choice % 9 {
        0 => s.swap = "01JDEARLIER".into(),
        1 => {
            s.swap = "01JDEARLIER".into();
            s.kind = Kind::Success;
            s.serving = Some(wanted());
        }
        2 => s.v = 2,
        3 => s.to = old(),
        4 => return "success".into(),
        5 => return "{\"v\": 1}".into(),
        6 => {
            return format!(
                "{{\"v\": 1, \"swap\": \"{SWAP}\", \"instance\": \"{host}\", \"kind\": \"failed\"}}"
            );
        }
        7 => return "[1, 2, {\"swap\":".into(),
        _ => s.instance = "i-stranger".into(),
    }
    s.to_body()
}

fn deliveries(hosts: usize) -> impl Strategy<Value = (Vec<Story>, Vec<String>)> {
    let stories = proptest::collection::vec(story(), hosts);
    // One dice per message: how often it comes, and where.
    let dice = proptest::collection::vec((1usize..=5, any::<u32>(), any::<u8>()), hosts * 5);
    let sorted = any::<bool>();
    (stories, dice, sorted).prop_map(move |(stories, dice, sorted)| {
        let mut queue: Vec<(u32, String)> = vec![];
        let mut dice = dice.into_iter().cycle();
        for (n, story) in stories.iter().enumerate() {
            for message in story.messages(&instance(n)) {
                let (times, place, choice) = dice.next().unwrap_or((1, 0, 0));
                for copy in 0..times as u32 {
                    queue.push((
                        place.wrapping_mul(copy.wrapping_mul(2_654_435_761) | 1),
                        message.to_body(),
                    ));
                }
                if choice < 60 {
                    queue.push((place ^ 0x5555_5555, stranger(choice, &instance(n))));
                }
            }
        }
        if !sorted {
            queue.sort_by_key(|(place, _)| *place);
        }
        (stories, queue.into_iter().map(|(_, body)| body).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // D-QA-4, D-HOT-29 to D-HOT-31: after every single delivery the verdict is the one that follows from the messages
    // of this swap alone, each counted once.
    #[test]
    fn d_qa_4_no_delivery_order_repetition_or_stranger_makes_a_false_verdict(
        (stories, queue) in prop::sample::select(vec![1usize, 2, 40, 41, 500]).prop_flat_map(deliveries)
    ) {
        // D-QA-4
        let hosts = stories.len();
        let mut tally = tally(hosts);
        let mut oracle = Oracle::default();
        for body in &queue {
            tally.observe(body, at(1));
            let of_us = serde_json::from_str::<HostSignal>(body).ok()
                .filter(|s| s.v == 1 && s.swap == SWAP && s.to == wanted() && s.instance != "i-stranger");
            if let Some(message) = of_us {
                oracle.deliver(message);
                prop_assert_eq!(word(&tally.verdict(at(1), at(9))), oracle.verdict(hosts, false));
            }
        }
        prop_assert_eq!(word(&tally.verdict(at(9), at(9))), oracle.verdict(hosts, true));
        // What the stories say in the end, whatever the queue did.
        let any = |s: Story| stories.contains(&s);
        let expected = if any(Story::Fails) { "failed" }
            else if any(Story::StaysSilent) || any(Story::BootsOldOnly) { "deadline" }
            else { "success" };
        prop_assert_eq!(word(&tally.verdict(at(9), at(9))), expected);
    }

    // D-QA-6, D-HOT-35, D-HOT-36: membership changes between any two messages.
    #[test]
    fn d_qa_6_only_the_hosts_then_in_service_decide(
        steps in proptest::collection::vec((0usize..6, any::<bool>(), any::<bool>()), 1..60)
    ) {
        let mut members: BTreeSet<usize> = (0..3).collect();
        let mut tally = tally(3);
        let mut done = BTreeSet::new();
        for (n, membership, side) in steps {
            if membership {
                if side { members.insert(n); } else { members.remove(&n); }
                tally.reconcile(&group(members.iter().copied()), at(1));
            } else {
                let kind = if side { Kind::Success } else { Kind::Booted };
                tally.observe(&signal(&instance(n), 1, kind, Some(wanted())).to_body(), at(1));
                done.insert(n);
            }
            let expected = members.iter().all(|n| done.contains(n));
            prop_assert_eq!(word(&tally.verdict(at(1), at(9))) == "success", expected, "{:?} {:?}", members, done);
        }
    }

    // D-QA-12: whatever is on the queue, it is only looked at.
    #[test]
    fn d_qa_12_no_text_breaks_the_tally_or_counts(body in ".{0,200}", junk in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut tally = tally(1);
        tally.observe(&body, at(1));
        tally.observe(&String::from_utf8_lossy(&junk), at(1));
        prop_assert_eq!(word(&tally.verdict(at(1), at(9))), "waiting");
    }
}

#[test]
fn d_hot_30_what_is_not_ours_is_named_for_what_it_is() {
    let mut tally = tally(1);
    let mut see = |body: String| tally.observe(&body, at(1));
    let with = |change: fn(&mut HostSignal)| {
        let mut s = signal("i-0000", 5, Kind::Success, Some(wanted()));
        change(&mut s);
        s.to_body()
    };
    // D-HOT-30, D-HOT-31, D-HOT-79
    assert_eq!(
        see(with(|s| s.swap = "x".into())),
        Observation::Stale { swap: "x".into() }
    );
    assert_eq!(see(with(|s| s.v = 7)), Observation::Unsupported { v: 7 });
    assert!(matches!(see("success".into()), Observation::Foreign { .. }));
    assert!(
        matches!(see(with(|s| s.to = old())), Observation::Foreign { why } if why.contains("i-0000"))
    );
    let host = || "i-0000".to_owned();
    assert_eq!(
        see(with(|_| ())),
        Observation::Recorded {
            instance: host(),
            listed: true
        }
    );
    assert_eq!(
        see(with(|_| ())),
        Observation::Duplicate { instance: host() }
    );
    assert_eq!(
        see(with(|s| s.seq = 4)),
        Observation::Duplicate { instance: host() }
    );
    let stranger = see(with(|s| s.instance = "i-new".into()));
    assert_eq!(
        stranger,
        Observation::Recorded {
            instance: "i-new".into(),
            listed: false
        }
    );
}

#[test]
fn d_hot_42_the_first_certain_failure_is_the_verdict_with_host_step_cause_and_log() {
    let mut tally = tally(3);
    tally.observe(&success(&instance(0), 4), at(1));
    tally.observe(
        &signal(&instance(2), 2, Kind::Progress, Some(old())).to_body(),
        at(2),
    );
    tally.observe(
        &signal(&instance(1), 6, Kind::Failed, Some(old())).to_body(),
        at(3),
    );
    let Verdict::Failed { hosts } = tally.verdict(at(3), at(900)) else {
        panic!("D-HOT-42")
    };
    assert_eq!(
        hosts[0].line(),
        "i-0001: failed in step health: container `web` answered GET /health with 503, 40 times; it serves 020202020202"
    );
    assert_eq!(
        hosts[0]
            .signal
            .as_ref()
            .unwrap()
            .cause
            .as_ref()
            .unwrap()
            .log,
        "panic: no database"
    );
    let phases: Vec<_> = tally.hosts().iter().map(|h| h.phase).collect();
    assert_eq!(
        phases,
        [Phase::Done, Phase::Failed, Phase::Working],
        "the others' state is reported"
    );
    assert_eq!(tally.hosts()[2].since, at(2));
}

#[test]
fn the_newest_result_of_a_host_decides_whatever_arrived_last() {
    let failed = |seq| signal(&instance(0), seq, Kind::Failed, Some(old())).to_body();
    let cases = [
        (vec![success("i-0000", 5), failed(6)], "failed"),
        (vec![failed(6), success("i-0000", 5)], "failed"),
        (vec![failed(5), success("i-0000", 6)], "success"),
        (vec![success("i-0000", 6), failed(5)], "success"),
    ];
    for (bodies, expected) in cases {
        let mut tally = tally(1);
        for body in &bodies {
            tally.observe(body, at(1));
        }
        assert_eq!(
            word(&tally.verdict(at(1), at(9))),
            expected,
            "D-HOT-31: {bodies:?}"
        );
    }
    // Progress never takes a result back, not even when it is newer.
    let mut tally = tally(1);
    tally.observe(&success("i-0000", 5), at(1));
    tally.observe(&signal("i-0000", 6, Kind::Progress, None).to_body(), at(2));
    assert_eq!(word(&tally.verdict(at(2), at(9))), "success");
    // But a host that came up again with the old payload is not done any more (D-HOT-36).
    tally.observe(
        &signal("i-0000", 7, Kind::Booted, Some(old())).to_body(),
        at(3),
    );
    assert_eq!(word(&tally.verdict(at(3), at(9))), "waiting");
    assert_eq!(tally.hosts()[0].phase, Phase::Booted);
}

#[test]
fn d_hot_36_an_empty_group_succeeds_at_once_and_says_that_nothing_was_verified() {
    let tally = tally(0);
    let verdict = tally.verdict(at(0), at(9));
    assert_eq!(verdict, Verdict::Success { verified: vec![] });
    assert!(
        verdict.to_string().contains("no host was verified"),
        "{verdict}"
    ); // D-HOT-36
}

#[test]
fn d_hot_35_a_group_that_is_being_refilled_proves_nothing() {
    let mut tally = tally(2);
    let empty = Membership {
        desired: 2,
        in_service: BTreeSet::new(),
    };
    let change = tally.reconcile(&empty, at(15));
    assert_eq!(change.left, [instance(0), instance(1)]); // D-HOT-35
    assert_eq!(word(&tally.verdict(at(15), at(900))), "waiting");
    assert_eq!(word(&tally.verdict(at(900), at(900))), "deadline");
    let refilled = tally.reconcile(&group([7]), at(30));
    assert_eq!(refilled.joined, [instance(7)]);
    tally.observe(
        &signal(&instance(7), 1, Kind::Booted, Some(wanted())).to_body(),
        at(31),
    );
    assert_eq!(
        tally.verdict(at(31), at(900)),
        Verdict::Success {
            verified: vec![instance(7)]
        }
    );
    let left: Vec<_> = tally
        .hosts()
        .iter()
        .filter(|h| h.phase == Phase::Left)
        .map(|h| h.instance.clone())
        .collect();
    assert_eq!(
        left,
        [instance(0), instance(1)],
        "who left is still reported"
    );
}

#[test]
fn d_hot_35_a_joiner_that_booted_with_the_old_payload_has_to_swap_like_the_others() {
    let mut tally = tally(1);
    tally.observe(&success(&instance(0), 3), at(1));
    // Its message is here before the group lists it.
    tally.observe(
        &signal(&instance(5), 1, Kind::Booted, Some(old())).to_body(),
        at(2),
    );
    assert_eq!(
        word(&tally.verdict(at(2), at(9))),
        "success",
        "not a member yet"
    );
    tally.reconcile(&group([0, 5]), at(3));
    assert_eq!(word(&tally.verdict(at(3), at(9))), "waiting"); // D-HOT-35
    assert_eq!(
        (tally.hosts()[1].phase, tally.hosts()[1].joined),
        (Phase::Booted, true)
    );
    tally.observe(&success(&instance(5), 2), at(4));
    assert_eq!(word(&tally.verdict(at(4), at(9))), "success");
}

#[test]
fn d_qa_6_a_terminated_host_neither_holds_the_swap_up_nor_fails_it() {
    let mut tally = tally(3);
    tally.observe(&success(&instance(0), 3), at(1));
    tally.observe(&success(&instance(1), 3), at(1));
    let change = tally.reconcile(&group([0, 1]), at(15));
    assert_eq!(change.left, [instance(2)]); // D-QA-6
    tally.observe(
        &signal(&instance(2), 9, Kind::Failed, None).to_body(),
        at(16),
    );
    assert_eq!(word(&tally.verdict(at(16), at(900))), "success");
    assert_eq!(tally.count(), (2, 2));
}

// The watch: stack and deadline beside the tally.

const STARTED: Mark = Mark::Started { before: None };

fn watch(hosts: usize, mark: Mark) -> Watch {
    Watch::new(tally(hosts), mark, at(900), Pace::default(), at(0))
}

fn status(text: &str) -> StackStatus {
    StackStatus::new(text)
}

fn finished_hosts(mark: Mark) -> Watch {
    let mut watch = watch(1, mark);
    watch.observe(&success(&instance(0), 3), at(1));
    watch.group(&group([0]), at(1));
    watch
}

#[test]
fn d_hot_37_success_needs_the_stacks_update_to_be_complete() {
    let mut watch = finished_hosts(STARTED);
    assert_eq!(watch.ended(at(1)), None, "the stack was not read yet");
    watch.stack(&status("UPDATE_IN_PROGRESS"), Some(at(1)), at(1));
    watch.stack(
        &status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"),
        Some(at(1)),
        at(2),
    );
    assert_eq!(watch.ended(at(2)), None); // D-HOT-37
    watch.stack(&status("UPDATE_COMPLETE"), Some(at(1)), at(3));
    assert_eq!(
        watch.ended(at(3)),
        Some(Ended::Succeeded {
            verified: vec![instance(0)]
        })
    );
}

#[test]
fn d_hot_37_a_failing_or_vanishing_stack_ends_the_wait_at_once() {
    for text in [
        "UPDATE_FAILED",
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
        "UPDATE_ROLLBACK_FAILED",
        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        "DELETE_IN_PROGRESS",
        "DELETE_COMPLETE",
    ] {
        let mut watch = watch(3, STARTED);
        watch.stack(&status(text), Some(at(1)), at(2));
        assert_eq!(
            watch.ended(at(2)),
            Some(Ended::StackFailed {
                status: status(text)
            }),
            "D-HOT-37: {text}"
        );
    }
}

#[test]
fn d_hot_37_a_reading_from_before_the_update_neither_fails_nor_completes_it() {
    let before = Mark::Started {
        before: Some(at(-500)),
    };
    for text in ["UPDATE_ROLLBACK_COMPLETE", "UPDATE_COMPLETE"] {
        let mut watch = finished_hosts(before);
        watch.stack(&status(text), Some(at(-500)), at(2));
        assert_eq!(watch.ended(at(2)), None, "{text}"); // D-HOT-37
    }
    let mut watch = finished_hosts(before);
    watch.stack(&status("UPDATE_COMPLETE"), Some(at(0)), at(3));
    assert!(
        matches!(watch.ended(at(3)), Some(Ended::Succeeded { .. })),
        "the time of the update has moved on"
    );
    // A time that never moves is not waited for without end.
    let mut watch = finished_hosts(before);
    watch.stack(&status("UPDATE_ROLLBACK_COMPLETE"), Some(at(-500)), at(61));
    assert!(matches!(
        watch.ended(at(61)),
        Some(Ended::StackFailed { .. })
    ));
}

#[test]
fn d_hot_22_without_an_update_the_hosts_alone_decide() {
    for text in [
        "UPDATE_COMPLETE",
        "CREATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
    ] {
        let mut watch = finished_hosts(Mark::NotNeeded);
        watch.stack(&status(text), None, at(2));
        assert!(
            matches!(watch.ended(at(2)), Some(Ended::Succeeded { .. })),
            "D-HOT-22: {text}"
        );
    }
}

#[test]
fn d_hot_28_the_deadline_is_a_time_and_not_a_number_of_polls() {
    let mut watch = watch(2, STARTED);
    watch.stack(&status("UPDATE_COMPLETE"), Some(at(1)), at(1));
    watch.observe(&success(&instance(0), 3), at(2));
    for second in 2..900 {
        assert_eq!(watch.ended(at(second)), None);
    }
    let Some(Ended::DeadlinePassed(Verdict::DeadlinePassed { done, missing })) =
        watch.ended(at(900))
    else {
        panic!("D-HOT-28");
    };
    assert_eq!(
        (done, missing[0].line()),
        (1, "i-0001: nothing heard yet".to_owned())
    );
    // Hosts that are done do not help a stack that never ends.
    let watch = finished_hosts(STARTED);
    assert!(matches!(
        watch.ended(at(900)),
        Some(Ended::DeadlinePassed(Verdict::Success { .. }))
    ));
}

#[test]
fn d_hot_36_success_is_declared_only_on_a_reading_of_the_group_that_is_newer_than_the_last_report()
{
    let mut watch = watch(1, STARTED);
    watch.stack(&status("UPDATE_COMPLETE"), Some(at(1)), at(1));
    watch.group(&group([0]), at(1));
    watch.observe(&success(&instance(0), 3), at(2));
    assert_eq!(watch.ended(at(2)), None);
    assert!(watch.due(at(2)).group, "so it is read at once"); // D-HOT-36
    // A second host had come up meanwhile: it has to be heard, too.
    watch.group(&group([0, 1]), at(3));
    assert_eq!(watch.ended(at(3)), None);
}

#[test]
fn d_hot_35_the_group_is_read_every_15_seconds_and_receives_stay_short() {
    let mut watch = watch(1, STARTED);
    watch.stack(&status("UPDATE_IN_PROGRESS"), Some(at(1)), at(0));
    let due = |s: i64| (watch.due(at(s)).group, watch.due(at(s)).stack);
    assert_eq!(
        (due(4), due(5), due(14), due(15)),
        ((false, false), (false, true), (false, true), (true, true))
    ); // D-HOT-35
    assert!(watch.due(at(4)).receive_for <= Duration::from_secs(2));
    assert_eq!(
        watch.due(at(899)).receive_for,
        Duration::from_secs(1),
        "never beyond the deadline"
    );
    assert_eq!(watch.due(at(950)).receive_for, Duration::ZERO);
}

#[test]
fn the_wait_can_be_given_to_another_task() {
    fn is_send<T: Send>(_: T) {}
    // Only its type is looked at; nothing is called.
    let _ = |region: Region, watch: Watch, cancel: tokio_util::sync::CancellationToken| {
        is_send(async move { wait(&region, watch, &cancel, |_| Ok(()), |_| ()).await });
    };
}
