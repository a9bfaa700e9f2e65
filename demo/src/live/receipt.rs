//! The report, the verdict and the table for people. Pure: facts in, text out.

use super::{
    flow::Engine,
    ledger::{Gap, Messages, Phase},
    load::{Outcome, Publishes, WebSockets},
};
use crate::swap_report::{Bytes, Connections, SwapReport};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

/// The report's format number.
pub const FORMAT: u32 = 2;

/// Everything the demo saw.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// What the hosts keep their state in.
    pub engine: Engine,
    /// So many hosts there should be.
    pub expected_hosts: usize,
    /// So many WebSockets at least.
    pub expected_connections: usize,
    /// One entry a host, in the order of the load.
    pub hosts: Vec<HostFacts>,
    /// In the order in which they were made.
    pub swaps: Vec<SwapFacts>,
    /// What clients and backends saw.
    pub outcome: Outcome,
}

/// What the demo saw of one host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Instance id.
    pub instance: String,
    /// Its front door.
    pub url: String,
    /// The same HAProxy processes ran before the first swap and after the last one.
    pub proxy_kept: bool,
}

/// One swap.
#[derive(Clone, Debug)]
pub struct SwapFacts {
    /// Version before.
    pub from: String,
    /// Version wanted.
    pub to: String,
    /// Why the command that swaps failed, or left no report.
    pub error: Option<String>,
    /// porter's report.
    pub report: Option<SwapReport>,
    /// Wall-clock time of that command.
    pub took: Duration,
    /// What each host answered afterwards, in the order of the hosts.
    pub serves: Vec<BTreeSet<String>>,
}

/// `target/demo/report.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub v: u32,
    /// Whether nobody could have noticed the swaps.
    pub passed: bool,
    /// Why not; empty when passed.
    pub problems: Vec<String>,
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// What the hosts keep their state in.
    pub engine: Engine,
    /// One entry a host.
    pub hosts: Vec<Host>,
    /// One entry a swap.
    pub swaps: Vec<Swap>,
    /// The connections of the load.
    pub websockets: WebSockets,
    /// Messages of clients and backends.
    pub messages: Messages,
    /// HTTP requests of backends.
    pub publishes: Publishes,
    /// Members that were seen to come or go in a presence channel.
    pub member_events: u64,
    /// The longest gap that each client saw, while swaps went on: from `porter build provision` until a second after it.
    pub gap_ms: Gap,
    /// The same by what went on.
    pub gap_ms_by_phase: BTreeMap<Phase, Gap>,
    /// By how much the load itself was late at worst: part of the gaps.
    pub own_lag_ms: BTreeMap<Phase, f64>,
    /// How long messages flowed.
    pub seconds: f64,
}

/// One host in the report, over all swaps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Instance id.
    pub instance: String,
    /// Its front door.
    pub url: String,
    /// What it answered at the end: a version, or several.
    pub serves: String,
    /// Connections of the load on it that were dropped.
    pub dropped: u64,
    /// Milliseconds in which nobody read, of the longest handover.
    pub freeze_ms: f64,
    /// Milliseconds of the longest handover.
    pub handover_ms: f64,
    /// The same HAProxy processes ran all the time.
    pub proxy_kept: bool,
}

/// One swap in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Swap {
    /// Version before.
    pub from: String,
    /// Version wanted.
    pub to: String,
    /// What porter decided.
    pub decision: String,
    /// How its run ended.
    pub outcome: String,
    /// Wall-clock time of `porter build provision`.
    pub seconds: f64,
    /// Bytes moved.
    pub bytes: Bytes,
    /// One entry a host.
    pub hosts: Vec<SwapHost>,
}

/// One host in one swap.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SwapHost {
    /// Instance id.
    pub instance: String,
    /// Its own verdict.
    pub outcome: String,
    /// What it answered afterwards.
    pub serves: String,
    /// Seconds from the first step to the last.
    pub seconds: f64,
    /// Its own account of its connections; absent when nothing was handed over.
    #[serde(flatten)]
    pub connections: Option<Connections>,
}

impl Report {
    /// Everything the demo saw, added up and judged.
    pub fn new(facts: Facts) -> Self {
        let swaps: Vec<Swap> = facts
            .swaps
            .iter()
            .map(|swap| swap_of(swap, &facts.hosts))
            .collect();
        let hosts = facts
            .hosts
            .iter()
            .enumerate()
            .map(|(n, host)| {
                let own: Vec<&SwapHost> = swaps.iter().filter_map(|s| s.hosts.get(n)).collect();
                let longest = |of: fn(&Connections) -> f64| {
                    let all = own.iter().filter_map(|h| h.connections.as_ref().map(of));
                    all.fold(0.0, f64::max)
                };
                Host {
                    instance: host.instance.clone(),
                    url: host.url.clone(),
                    serves: own.last().map_or("none".into(), |h| h.serves.clone()),
                    dropped: facts.outcome.dropped_by_host.get(n).copied().unwrap_or(0),
                    freeze_ms: longest(|c| c.freeze_ms),
                    handover_ms: longest(|c| c.handover_ms),
                    proxy_kept: host.proxy_kept,
                }
            })
            .collect();
        let outcome = &facts.outcome;
        let mut report = Self {
            v: FORMAT,
            passed: false,
            problems: vec![],
            service: facts.service.clone(),
            environment: facts.environment.clone(),
            engine: facts.engine,
            hosts,
            swaps,
            websockets: outcome.websockets,
            messages: outcome.messages,
            publishes: outcome.publishes,
            member_events: outcome.member_events,
            gap_ms: outcome.gaps.get(&Phase::Swap).copied().unwrap_or_default(),
            gap_ms_by_phase: outcome.gaps.clone(),
            own_lag_ms: outcome.own_lag_ms.clone(),
            seconds: round(outcome.ran.as_secs_f64()),
        };
        report.problems = problems(&facts, &report);
        report.passed = report.problems.is_empty();
        report
    }
}

fn swap_of(swap: &SwapFacts, hosts: &[HostFacts]) -> Swap {
    let report = swap.report.clone().unwrap_or_default();
    let reported: BTreeMap<&str, _> = report
        .regions
        .iter()
        .flat_map(|r| &r.hosts)
        .map(|h| (h.instance.as_str(), h))
        .collect();
    let hosts = hosts
        .iter()
        .enumerate()
        .map(|(n, host)| {
            let own = reported.get(host.instance.as_str());
            let answers = swap.serves.get(n).into_iter().flatten();
            SwapHost {
                instance: host.instance.clone(),
                outcome: own.map_or("unknown".into(), |h| h.outcome.clone()),
                serves: answers.cloned().collect::<Vec<_>>().join(", "),
                seconds: own.map_or(0.0, |h| round(h.seconds.values().sum())),
                connections: own.and_then(|h| h.connections),
            }
        })
        .collect();
    Swap {
        from: swap.from.clone(),
        to: swap.to.clone(),
        decision: or_unknown(&report.decision),
        outcome: or_unknown(&report.outcome),
        seconds: round(swap.took.as_secs_f64()),
        bytes: report.bytes,
        hosts,
    }
}

/// To thousandths.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn or_unknown(word: &str) -> String {
    if word.is_empty() { "unknown" } else { word }.to_owned()
}

/// The rule behind the exit status: every reason why somebody could have noticed a swap, or why the run does not prove that
/// nobody could. None means success.
fn problems(facts: &Facts, report: &Report) -> Vec<String> {
    let mut found = facts.outcome.problems();
    let mut expect = |holds: bool, otherwise: String| {
        if !holds {
            found.push(otherwise);
        }
    };
    let opened = report.websockets.opened;
    expect(
        opened >= facts.expected_connections as u64,
        format!(
            "{opened} WebSockets opened instead of {}",
            facts.expected_connections
        ),
    );
    expect(
        report.hosts.len() == facts.expected_hosts,
        format!(
            "{} hosts instead of {}",
            report.hosts.len(),
            facts.expected_hosts
        ),
    );
    for host in &report.hosts {
        expect(
            host.proxy_kept,
            format!("HAProxy on {} was restarted or reloaded", host.instance),
        );
    }
    for (swap, facts) in report.swaps.iter().zip(&facts.swaps) {
        let name = format!("{} -> {}", swap.from, swap.to);
        if let Some(error) = &facts.error {
            expect(false, format!("{name}: {error}"));
        }
        expect(
            swap.decision == "hot_swap" && swap.outcome == "success",
            format!("{name}: {}, {}", swap.decision, swap.outcome),
        );
        for host in &swap.hosts {
            let at = format!("{name}, {}", host.instance);
            expect(
                host.outcome == "success",
                format!("{at}: its own verdict is `{}`", host.outcome),
            );
            expect(
                host.serves == swap.to,
                format!("{at}: serves {} and not {}", host.serves, swap.to),
            );
            let account = host.connections.unwrap_or_default();
            let per_host = opened / report.hosts.len().max(1) as u64;
            expect(
                account.handed_over >= per_host && account.handed_over == account.before,
                format!(
                    "{at}: {} of {} connections handed over, by its own account",
                    account.handed_over, account.before
                ),
            );
            let ended = account.dropped + account.closed + account.cut;
            expect(
                ended == 0,
                format!("{at}: {ended} connections ended, by its own account"),
            );
        }
    }
    found
}

/// The table for people.
pub fn receipt(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    let way: Vec<&str> = report
        .swaps
        .first()
        .map(|s| s.from.as_str())
        .into_iter()
        .chain(report.swaps.iter().map(|s| s.to.as_str()))
        .collect();
    line(format!(
        "SWAP RECEIPT  {} in {}: {} on {} hosts{}",
        report.service,
        report.environment,
        way.join(" -> "),
        report.hosts.len(),
        match report.engine {
            Engine::Embedded => "",
            Engine::Redis => " that share one Redis",
        }
    ));
    line(String::new());
    let (w, m, p) = (&report.websockets, &report.messages, &report.publishes);
    line(format!(
        "  websockets  {} opened, {} kept, {} dropped, over {:.1} s",
        w.opened, w.kept, w.dropped, report.seconds
    ));
    line(format!(
        "  messages    {} sent; {} of {} deliveries, {} lost, {} doubled, {} reordered",
        m.sent, m.received, m.owed, m.lost, m.doubled, m.reordered
    ));
    line(format!(
        "  backends    {} requests, {} accepted, {} failed",
        p.sent, p.accepted, p.failed
    ));
    line(format!(
        "  presence    {} members seen to come or go",
        report.member_events
    ));
    line(String::new());
    line(
        "  longest gap of each client, ms    p50      p99      max    of that, the load's own"
            .into(),
    );
    for (phase, gap) in &report.gap_ms_by_phase {
        let name = match phase {
            Phase::Steady => "nothing but the load",
            Phase::Build => "while packing",
            Phase::Swap => "while swapping",
        };
        let own = report.own_lag_ms.get(phase).copied().unwrap_or_default();
        line(format!(
            "    {name:<26} {:>8.1} {:>8.1} {:>8.1} {own:>11.1}",
            gap.p50, gap.p99, gap.max
        ));
    }
    for swap in &report.swaps {
        line(String::new());
        line(format!(
            "  {} -> {}  {}, {}, {:.1} s, {} bytes uploaded, {} downloaded",
            swap.from,
            swap.to,
            swap.decision,
            swap.outcome,
            swap.seconds,
            swap.bytes.uploaded,
            swap.bytes.downloaded
        ));
        let width = swap
            .hosts
            .iter()
            .map(|h| h.instance.len())
            .max()
            .unwrap_or(0)
            .max(4);
        line(format!(
            "    {:<width$}  serves  before  handed over  dropped  in flight  freeze ms  handover ms  swap s",
            "host"
        ));
        for host in &swap.hosts {
            let c = host.connections.unwrap_or_default();
            line(format!(
                "    {:<width$}  {:<6}  {:>6}  {:>11}  {:>7}  {:>9}  {:>9.1}  {:>11.1}  {:>6.1}",
                host.instance,
                host.serves,
                c.before,
                c.handed_over,
                c.dropped + c.closed + c.cut,
                c.in_flight.map_or("-".into(), |n| n.to_string()),
                c.freeze_ms,
                c.handover_ms,
                host.seconds
            ));
        }
    }
    line(String::new());
    if report.passed {
        line("PASSED: nobody noticed.".into());
    } else {
        line("FAILED:".into());
        for problem in &report.problems {
            line(format!("  - {problem}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swap_report::{HostReport, RegionReport};
    use contract::step::Step;

    fn swap(from: &str, to: &str) -> SwapFacts {
        let host = |n| HostReport {
            instance: format!("i-{n}"),
            outcome: "success".into(),
            seconds: BTreeMap::from([(Step::Start, 0.75), (Step::Handover, 0.25)]),
            connections: Some(Connections {
                before: 1004,
                handed_over: 1004,
                in_flight: Some(3),
                freeze_ms: 7.5 + f64::from(n),
                handover_ms: 9.25,
                ..Connections::default()
            }),
            ..HostReport::default()
        };
        SwapFacts {
            from: from.into(),
            to: to.into(),
            error: None,
            report: Some(SwapReport {
                decision: "hot_swap".into(),
                outcome: "success".into(),
                regions: vec![RegionReport {
                    hosts: (1..=3).map(host).collect(),
                }],
                ..SwapReport::default()
            }),
            took: Duration::from_millis(12_345),
            serves: vec![BTreeSet::from([to.to_owned()]); 3],
        }
    }

    fn good() -> Facts {
        let gap = |max| Gap {
            p50: 2.0,
            p99: 12.5,
            max,
        };
        Facts {
            service: "realtime".into(),
            environment: "stage".into(),
            engine: Engine::Embedded,
            expected_hosts: 3,
            expected_connections: 3000,
            hosts: (1..=3)
                .map(|n| HostFacts {
                    instance: format!("i-{n}"),
                    url: format!("http://127.0.1.{n}:8080"),
                    proxy_kept: true,
                })
                .collect(),
            swaps: vec![swap("v1", "v2"), swap("v2", "v1")],
            outcome: Outcome {
                websockets: WebSockets {
                    opened: 3000,
                    kept: 3000,
                    dropped: 0,
                },
                dropped_by_host: vec![0; 3],
                messages: Messages {
                    sent: 120_000,
                    owed: 180_000,
                    received: 180_000,
                    ..Messages::default()
                },
                publishes: Publishes {
                    sent: 1200,
                    accepted: 1200,
                    failed: 0,
                },
                gaps: BTreeMap::from([(Phase::Steady, gap(15.0)), (Phase::Swap, gap(42.0))]),
                own_lag_ms: BTreeMap::from([(Phase::Steady, 4.0), (Phase::Swap, 6.5)]),
                ran: Duration::from_secs(40),
                ..Outcome::default()
            },
        }
    }

    #[test]
    fn the_receipt_of_good_swaps() {
        insta::assert_snapshot!(receipt(&Report::new(good())));
    }

    #[test]
    fn the_report_has_the_fields_that_scripts_read() {
        insta::assert_json_snapshot!(Report::new(good()));
    }

    #[test]
    fn whatever_anybody_could_have_noticed_fails_the_run_with_its_reason() {
        type Spoil = fn(&mut Facts);
        let cases: [(Spoil, &str); 14] = [
            (|f| f.outcome.websockets.dropped = 1, "1 WebSockets dropped"),
            (
                |f| f.outcome.websockets.opened = 2998,
                "2998 WebSockets opened",
            ),
            (|f| f.outcome.messages.lost = 2, "2 messages lost"),
            (|f| f.outcome.messages.doubled = 3, "3 messages doubled"),
            (|f| f.outcome.messages.reordered = 4, "4 messages reordered"),
            (
                |f| f.outcome.messages.foreign = 5,
                "5 messages that nobody sent",
            ),
            (|f| f.outcome.messages.received = 0, "nothing is proved"),
            (|f| f.outcome.publishes.failed = 6, "6 HTTP requests"),
            (|f| f.outcome.member_events = 7, "7 members"),
            (|f| f.hosts[1].proxy_kept = false, "HAProxy on i-2"),
            (|f| f.swaps[1].report = None, "v2 -> v1: unknown, unknown"),
            (
                |f| f.swaps[0].serves[2] = BTreeSet::from(["v1".into(), "v2".into()]),
                "v1 -> v2, i-3: serves v1, v2 and not v2",
            ),
            (
                |f| f.swaps[0].error = Some("exit status: 5".into()),
                "exit status: 5",
            ),
            (
                |f| {
                    let report = f.swaps[1].report.as_mut().unwrap();
                    report.regions[0].hosts[0].connections = None;
                },
                "v2 -> v1, i-1: 0 of 0 connections handed over",
            ),
        ];
        assert!(Report::new(good()).passed);
        for (spoil, expected) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let report = Report::new(facts);
            assert!(!report.passed, "{expected}");
            let problems = report.problems.join("\n");
            assert!(problems.contains(expected), "{expected} not in: {problems}");
            assert!(receipt(&report).contains("FAILED:"));
        }
    }
}
