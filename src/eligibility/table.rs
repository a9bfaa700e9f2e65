//! The full table of eligibility (D-QA-8), by enumeration, against an oracle that was written from the specification's
//! text and shares no code with the decision: it answers with words, the decision with types.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: &str = "2026-11-21T12:00:00Z";
const OWN: &str = "v6.0.0";

/// Every value of CloudFormation's StackStatus, and one from the future.
const STATUSES: [&str; 24] = [
    "CREATE_IN_PROGRESS",
    "CREATE_FAILED",
    "CREATE_COMPLETE",
    "ROLLBACK_IN_PROGRESS",
    "ROLLBACK_FAILED",
    "ROLLBACK_COMPLETE",
    "DELETE_IN_PROGRESS",
    "DELETE_FAILED",
    "DELETE_COMPLETE",
    "UPDATE_IN_PROGRESS",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_COMPLETE",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_IN_PROGRESS",
    "UPDATE_ROLLBACK_FAILED",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
    "UPDATE_ROLLBACK_COMPLETE",
    "REVIEW_IN_PROGRESS",
    "IMPORT_IN_PROGRESS",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_IN_PROGRESS",
    "IMPORT_ROLLBACK_FAILED",
    "IMPORT_ROLLBACK_COMPLETE",
    "A_STATUS_OF_TOMORROW",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Balancer {
    Classic,
    TwoClassic,
    TargetGroup,
    /// `elb: none`, and worker regions, whose configuration has no load balancer either (D-CFG-65).
    None,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Promoted {
    Absent,
    Right,
    Gone,
    OfOthers,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Absent,
    Equal,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Absent,
    Ours,
    Later,
    Garbage,
}

/// Seconds relative to the end of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Age {
    Below,
    At,
    Above,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Serving {
    Unknown,
    Same,
    Mixed,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    balancer: Balancer,
    promoted: Promoted,
    status: &'static str,
    version: Version,
    protocol: Protocol,
    age: Age,
    generation: bool,
    foreign_host: bool,
    serving: Serving,
}

impl Row {
    fn facts(&self, region: &str, name: &str) -> RegionFacts {
        let now: Timestamp = NOW.parse().unwrap();
        let age = match self.age {
            Age::Below => 168 * 3_600 - 1,
            Age::At => 168 * 3_600,
            Age::Above => 168 * 3_600 + 1,
        };
        let map = |of: &[(&str, &str)]| -> BTreeMap<String, String> {
            of.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let id = format!("arn:stack/{name}");
        let service = if self.promoted == Promoted::OfOthers {
            "other"
        } else {
            "hello"
        };
        let mut group_tags = map(&[]);
        match self.protocol {
            Protocol::Absent => {}
            Protocol::Ours => drop(group_tags.insert(tag::HOST_PROTOCOL.into(), "1".into())),
            Protocol::Later => drop(group_tags.insert(tag::HOST_PROTOCOL.into(), "2".into())),
            Protocol::Garbage => drop(group_tags.insert(tag::HOST_PROTOCOL.into(), "one".into())),
        }
        if !self.generation {
            group_tags.insert(tag::GENERATION.into(), "another".into());
        }
        let version = match self.version {
            Version::Absent => None,
            Version::Equal => Some(OWN),
            Version::Other => Some("v5.9.9"),
        };
        let mut lb_tags = map(&[]);
        let holder = if self.balancer == Balancer::None {
            &mut group_tags
        } else {
            &mut lb_tags
        };
        if let Some(version) = version {
            holder.insert(tag::PORTER_VERSION.into(), version.into());
        }
        if self.promoted != Promoted::Absent {
            lb_tags.insert(tag::PROMOTED_STACK.into(), id.clone());
        }
        let digest = |d: &str| Some(format!("sha256:{d}"));
        let stack = StackFacts {
            id: id.clone(),
            name: name.to_owned(),
            status: StackStatus::new(self.status),
            created: now - jiff::SignedDuration::from_secs(age),
            tags: map(&[(tag::SERVICE, service), (tag::ENVIRONMENT, "stage")]),
            group_tags,
            serving: match self.serving {
                Serving::Unknown => None,
                Serving::Same => Some(vec![digest("1"), digest("1")]),
                Serving::Mixed => Some(vec![digest("1"), digest("2")]),
            },
        };
        let host = |instance: &str, stack: Option<&str>| InServiceHost {
            instance: instance.into(),
            stack: stack.map(str::to_owned),
        };
        let mut in_service = vec![host("i-1", Some(&id))];
        if self.foreign_host {
            in_service.push(host("i-9", None));
        }
        let balancer = |count| {
            Destination::LoadBalancer(LoadBalancerFacts {
                name: "front".into(),
                count,
                tags: lb_tags.clone(),
                in_service: in_service.clone(),
            })
        };
        RegionFacts {
            region: region.into(),
            destination: match self.balancer {
                Balancer::Classic | Balancer::TargetGroup => balancer(1),
                Balancer::TwoClassic => balancer(2),
                Balancer::None => Destination::None,
            },
            stacks: if self.promoted == Promoted::Gone {
                vec![]
            } else {
                vec![stack]
            },
        }
    }

    /// The oracle: the words for everything that stands against a swap of this region, from D-HOT-5 to D-HOT-11 and
    /// D-HOT-77 as they are written.
    fn objections(&self) -> BTreeSet<&'static str> {
        let with_lb = self.balancer != Balancer::None;
        if self.balancer == Balancer::TwoClassic {
            return ["several_load_balancers"].into(); // D-HOT-5
        }
        if with_lb && self.promoted == Promoted::Absent {
            return ["nothing_promoted"].into(); // D-HOT-6
        }
        if self.promoted == Promoted::Gone {
            return [if with_lb {
                "promoted_stack_gone"
            } else {
                "no_stack"
            }]
            .into(); // D-HOT-8, D-HOT-9
        }
        if self.promoted == Promoted::OfOthers {
            return [if with_lb { "not_ours" } else { "no_stack" }].into(); // D-HOT-8
        }
        let unseen = ["CREATE_FAILED", "CREATE_IN_PROGRESS"].contains(&self.status)
            || self.status.starts_with("DELETE_")
            || self.status.starts_with("ROLLBACK_");
        if unseen {
            return [if with_lb { "not_serving" } else { "no_stack" }].into(); // D-HOT-10
        }
        let mut found = BTreeSet::new();
        match self.status {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => {}
            "UPDATE_IN_PROGRESS"
            | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
            | "UPDATE_ROLLBACK_IN_PROGRESS"
            | "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS" => {
                found.insert("update_in_progress");
            }
            "UPDATE_ROLLBACK_COMPLETE" if self.serving == Serving::Same => {} // D-HOT-11
            "UPDATE_ROLLBACK_COMPLETE" | "UPDATE_ROLLBACK_FAILED" => {
                found.insert("rolled_back");
            }
            _ => {
                found.insert("other_status");
            }
        }
        match (self.protocol, self.version) {
            (Protocol::Ours, _) => {} // D-HOT-7
            (Protocol::Later | Protocol::Garbage, _) => {
                found.insert("other_protocol");
            }
            (Protocol::Absent, Version::Equal) => {}
            (Protocol::Absent, Version::Absent) => {
                found.insert("no_version");
            } // D-HOT-6
            (Protocol::Absent, Version::Other) => {
                found.insert("other_version");
            }
        }
        if self.age == Age::Above {
            found.insert("too_old"); // D-HOT-2, D-HOT-67
        }
        if !self.generation {
            found.insert("other_generation"); // D-CFG-99
        }
        if with_lb && self.foreign_host {
            found.insert("foreign_hosts"); // D-HOT-77
        }
        found
    }
}

fn all_rows() -> Vec<Row> {
    use self::{Age as A, Balancer as B, Promoted as P, Protocol as R, Serving as S, Version as V};
    let mut rows = vec![];
    for balancer in [B::Classic, B::TwoClassic, B::TargetGroup, B::None] {
        for promoted in [P::Absent, P::Right, P::Gone, P::OfOthers] {
            for status in STATUSES {
                for version in [V::Absent, V::Equal, V::Other] {
                    for protocol in [R::Absent, R::Ours, R::Later, R::Garbage] {
                        for age in [A::Below, A::At, A::Above] {
                            for (generation, foreign_host) in
                                [(true, false), (true, true), (false, false), (false, true)]
                            {
                                for serving in [S::Unknown, S::Same, S::Mixed] {
                                    rows.push(Row {
                                        balancer,
                                        promoted,
                                        status,
                                        version,
                                        protocol,
                                        age,
                                        generation,
                                        foreign_host,
                                        serving,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    rows
}

fn settings(on_ineligible: OnIneligible) -> Settings {
    Settings {
        enabled: true,
        service: "hello".into(),
        environment: "stage".into(),
        max_age: LONGEST_WINDOW,
        generation: String::new(),
        on_ineligible,
        version: OWN.into(),
    }
}

fn words(reasons: &[Reason]) -> BTreeSet<String> {
    reasons
        .iter()
        .map(|r| {
            serde_json::to_value(r).unwrap()["reason"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// The oracle for the environment (D-HOT-11, D-HOT-12, D-CFG-98).
fn conclusion(
    regions: &[BTreeSet<&str>],
    same_names: bool,
    on_ineligible: OnIneligible,
) -> &'static str {
    let all: BTreeSet<_> = regions.iter().flatten().copied().collect();
    let only_running = !all.is_empty() && all.iter().all(|r| *r == "update_in_progress");
    match (
        all.is_empty() && same_names,
        only_running && same_names,
        on_ineligible,
    ) {
        (true, _, _) => "swap",
        (_, true, _) => "refuse 1",
        (_, _, OnIneligible::Provision) => "provision",
        (_, _, OnIneligible::Fail) => "refuse 4",
    }
}

fn outcome(decision: &Decision) -> &'static str {
    match decision {
        Decision::HotSwap { .. } => "swap",
        Decision::Provision { .. } => "provision",
        Decision::Refuse {
            exit: Exit::NotEligible,
            ..
        } => "refuse 4",
        Decision::Refuse {
            exit: Exit::Failure,
            ..
        } => "refuse 1",
        Decision::Refuse { .. } => "refuse otherwise",
    }
}

#[test]
fn d_qa_8_one_region_every_row_of_the_table_agrees_with_the_specification() {
    let now = NOW.parse().unwrap();
    let rows = all_rows();
    let mut swaps = 0;
    for row in &rows {
        let facts = [row.facts("us-east-1", "hello-stage-ci-1")];
        let expected = row.objections();
        for on_ineligible in [OnIneligible::Provision, OnIneligible::Fail] {
            let settings = settings(on_ineligible);
            let assessed = assess(&facts, &settings, now);
            // D-QA-8, D-HOT-10: every reason is reported, not only the first, for every status.
            assert_eq!(
                words(&assessed[0].reasons),
                expected.iter().map(|s| (*s).to_owned()).collect(),
                "{row:?}"
            );
            let decision = decide(&facts, &settings, now);
            assert_eq!(
                outcome(&decision),
                conclusion(std::slice::from_ref(&expected), true, on_ineligible),
                "{row:?}"
            );
            swaps += usize::from(matches!(decision, Decision::HotSwap { .. }));
        }
    }
    // The table has to have both kinds of rows, or the comparison proves nothing.
    assert!(
        swaps > 100 && swaps < rows.len(),
        "{swaps} of {}",
        rows.len()
    );
}

#[test]
fn d_hot_12_two_regions_are_swapped_together_or_not_at_all() {
    let now = NOW.parse().unwrap();
    // Every pair of a thinned-out table: all statuses and both edges of the window, with tags that are in order.
    let rows: Vec<Row> = all_rows()
        .into_iter()
        .filter(|r| {
            matches!(r.balancer, Balancer::TargetGroup | Balancer::None)
                && matches!(r.promoted, Promoted::Right | Promoted::Absent)
                && r.version == Version::Equal
                && r.protocol == Protocol::Absent
                && r.age != Age::Below
                && r.generation
                && !r.foreign_host
                && r.serving == Serving::Unknown
        })
        .collect();
    for a in &rows {
        for b in &rows {
            for same in [true, false] {
                let other = if same {
                    "hello-stage-ci-1"
                } else {
                    "hello-stage-ci-2"
                };
                let facts = [
                    a.facts("us-east-1", "hello-stage-ci-1"),
                    b.facts("us-west-2", other),
                ];
                let decision = decide(&facts, &settings(OnIneligible::Provision), now);
                let expected = [a.objections(), b.objections()];
                // D-HOT-12: different names are an objection of their own, where both stacks were found.
                let seen = |of: &BTreeSet<&str>| {
                    ![
                        "nothing_promoted",
                        "promoted_stack_gone",
                        "not_serving",
                        "no_stack",
                    ]
                    .iter()
                    .any(|w| of.contains(w))
                };
                let same_names = same || !(seen(&expected[0]) && seen(&expected[1]));
                assert_eq!(
                    outcome(&decision),
                    conclusion(&expected, same_names, OnIneligible::Provision),
                    "{a:?}\n{b:?}\n{same}"
                );
                if let Decision::HotSwap { targets } = decision {
                    assert_eq!(
                        targets
                            .iter()
                            .map(|t| t.region.as_str())
                            .collect::<Vec<_>>(),
                        ["us-east-1", "us-west-2"]
                    );
                }
            }
        }
    }
}

fn good() -> Row {
    Row {
        balancer: Balancer::Classic,
        promoted: Promoted::Right,
        status: "UPDATE_COMPLETE",
        version: Version::Equal,
        protocol: Protocol::Absent,
        age: Age::At,
        generation: true,
        foreign_host: false,
        serving: Serving::Unknown,
    }
}

#[test]
fn d_hot_67_exactly_168_h_may_be_swapped_and_one_second_more_may_not() {
    let now = NOW.parse().unwrap();
    let settings = settings(OnIneligible::Provision);
    let at = assess(&[good().facts("us-east-1", "s")], &settings, now);
    assert_eq!(
        at[0].to_string(),
        "us-east-1: the stack s may be swapped, 7 d of 7 d used"
    ); // D-HOT-67, D-HOT-60
    let above = assess(
        &[Row {
            age: Age::Above,
            ..good()
        }
        .facts("us-east-1", "s")],
        &settings,
        now,
    );
    assert_eq!(
        above[0].to_string(), // D-HOT-59
        "us-east-1: no hot swap: the stack s is too old: its 7 d for hot swaps ended 1 s ago"
    );
    // A nanosecond is more than 168 h, too.
    let mut facts = good().facts("us-east-1", "s");
    facts.stacks[0].created -= jiff::SignedDuration::from_nanos(1);
    assert_eq!(
        words(&assess(&[facts], &settings, now)[0].reasons),
        ["too_old".to_owned()].into()
    );
}

#[test]
fn d_cfg_97_a_shorter_window_counts_and_a_longer_one_does_not() {
    let now: Timestamp = NOW.parse().unwrap();
    let decide_at = |hours_old: i64, window: u64| {
        let mut facts = good().facts("us-east-1", "s");
        facts.stacks[0].created = now - jiff::SignedDuration::from_hours(hours_old);
        let settings = Settings {
            max_age: Duration::from_secs(window * 3_600),
            ..settings(OnIneligible::Provision)
        };
        outcome(&decide(&[facts], &settings, now))
    };
    assert_eq!(
        (decide_at(24, 24), decide_at(25, 24)),
        ("swap", "provision")
    ); // D-CFG-97
    assert_eq!(
        (decide_at(168, 1_000), decide_at(169, 1_000)),
        ("swap", "provision")
    ); // D-HOT-2
    assert_eq!(
        decide_at(-1, 24),
        "swap",
        "a clock that is behind AWS's by an hour"
    );
}

#[test]
fn d_hot_61_from_four_fifths_of_the_window_on_it_says_how_long_swaps_are_still_possible() {
    let now: Timestamp = NOW.parse().unwrap();
    let warning = |seconds_old: i64| {
        let mut facts = good().facts("us-east-1", "s");
        facts.stacks[0].created = now - jiff::SignedDuration::from_secs(seconds_old);
        assess(&[facts], &settings(OnIneligible::Provision), now)[0].warning()
    };
    let window = 168 * 3_600;
    assert_eq!(warning(window * 4 / 5 - 1), None); // D-HOT-61
    assert!(
        warning(window * 4 / 5)
            .unwrap()
            .contains("can be swapped for another 33 h")
    );
    assert!(
        warning((168 - 26) * 3_600)
            .unwrap()
            .starts_with("us-east-1: this stack can be swapped for another 26 h")
    );
    assert!(
        warning(window - 90 * 60)
            .unwrap()
            .contains("another 1 h 30 min")
    );
    assert_eq!(warning(window + 1), None, "then it is too old instead");
}

#[test]
fn d_hot_9_without_a_load_balancer_the_newest_stack_that_serves_counts() {
    let now: Timestamp = NOW.parse().unwrap();
    let row = Row {
        balancer: Balancer::None,
        age: Age::Below,
        ..good()
    };
    let stack = |name: &str, status: &str, hours_old: i64, service: &str| {
        let mut stack = row.facts("us-east-1", name).stacks.remove(0);
        stack.status = StackStatus::new(status);
        stack.created = now - jiff::SignedDuration::from_hours(hours_old);
        stack.tags.insert(tag::SERVICE.into(), service.into());
        stack
    };
    let mut stacks = vec![
        stack("oldest", "UPDATE_COMPLETE", 9, "hello"),
        stack("newest-serving", "UPDATE_COMPLETE", 3, "hello"),
        stack("failed-creation", "ROLLBACK_COMPLETE", 2, "hello"),
        stack("being-deleted", "DELETE_IN_PROGRESS", 1, "hello"),
        stack("of-others", "CREATE_COMPLETE", 0, "hello-two"),
    ];
    for _ in 0..stacks.len() {
        stacks.rotate_left(1);
        let facts = RegionFacts {
            region: "us-east-1".into(),
            destination: Destination::None,
            stacks: stacks.clone(),
        };
        let Decision::HotSwap { targets } =
            decide(&[facts], &settings(OnIneligible::Provision), now)
        else {
            panic!("D-HOT-9: the order of the answer decides nothing");
        };
        assert_eq!(targets[0].name, "newest-serving"); // D-HOT-9
    }
}

#[test]
fn d_hot_11_waiting_is_offered_only_when_nothing_else_is_in_the_way() {
    let now = NOW.parse().unwrap();
    let running = Row {
        status: "UPDATE_IN_PROGRESS",
        ..good()
    };
    let settings = settings(OnIneligible::Provision);
    let decision = decide(&[running.facts("us-east-1", "s")], &settings, now);
    assert!(decision.may_pass_by_waiting(), "D-HOT-11: {decision:?}");
    let old = Row {
        age: Age::Above,
        ..running
    };
    let decision = decide(&[old.facts("us-east-1", "s")], &settings, now);
    assert_eq!(
        outcome(&decision),
        "provision",
        "D-HOT-11: a stack that is too old is not waited for"
    );
    assert!(!decision.may_pass_by_waiting());
}

#[test]
fn d_cfg_23_a_hot_swap_that_is_off_is_a_reason_like_any_other() {
    let now = NOW.parse().unwrap();
    let facts = [good().facts("us-east-1", "s")];
    let off = |on_ineligible| Settings {
        enabled: false,
        ..settings(on_ineligible)
    };
    let decision = decide(&facts, &off(OnIneligible::Provision), now);
    let Decision::Provision { reasons } = &decision else {
        panic!("{decision:?}")
    }; // D-CFG-23, D-CLI-8
    assert_eq!(
        reasons[0].to_string(),
        "us-east-1: hot swap is off for this environment"
    );
    assert_eq!(
        outcome(&decide(&[], &settings(OnIneligible::Fail), now)),
        "refuse 4",
        "no regions, no swap"
    );
}

#[test]
fn d_hot_59_every_reason_is_one_line_that_names_what_it_is_about() {
    let status = StackStatus::new("UPDATE_FAILED");
    let stack = || "s-1".to_owned();
    let age = super::Age {
        used: Duration::from_secs(183_600),
        window: LONGEST_WINDOW,
    };
    assert_eq!(age.to_string(), "2 d 3 h of 7 d used"); // D-HOT-60
    let reasons = [
        Reason::Disabled,
        Reason::SeveralLoadBalancers { count: 2 },
        Reason::NothingPromoted {
            load_balancer: "front".into(),
        },
        Reason::NoVersion {
            holder: "`front`".into(),
        },
        Reason::OtherVersion {
            found: "v5".into(),
            own: OWN.into(),
        },
        Reason::OtherProtocol {
            found: "2".into(),
            own: 1,
        },
        Reason::NoStack,
        Reason::PromotedStackGone {
            stack: "arn:s-1".into(),
        },
        Reason::NotOurs {
            stack: stack(),
            owner: "other/stage".into(),
        },
        Reason::NotServing {
            stack: stack(),
            status: status.clone(),
        },
        Reason::RolledBack {
            stack: stack(),
            status: status.clone(),
        },
        Reason::OtherStatus {
            stack: stack(),
            status: status.clone(),
        },
        Reason::UpdateInProgress {
            stack: stack(),
            status,
        },
        Reason::TooOld {
            stack: stack(),
            over: Duration::from_secs(3_660),
            age,
        },
        Reason::OtherGeneration {
            found: "1".into(),
            wanted: "2".into(),
        },
        Reason::ForeignHosts {
            instances: vec!["i-1".into(), "i-2".into()],
            promoted: stack(),
        },
        Reason::DifferentStacks {
            stacks: vec!["us-east-1 a".into(), "us-west-2 b".into()],
        },
    ];
    let lines: Vec<_> = reasons
        .iter()
        .map(|r| {
            Finding {
                region: "us-east-1".into(),
                reason: r.clone(),
            }
            .to_string()
        })
        .collect();
    assert!(
        lines
            .iter()
            .all(|l| l.lines().count() == 1 && l.starts_with("us-east-1: "))
    ); // D-HOT-59
    insta::assert_snapshot!(lines.join("\n"));
}
