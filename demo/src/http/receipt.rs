//! The report, the verdict and the table for people. Pure: facts in, text out.

use crate::{
    http::tally::{FailureKind, Failures, Latency, Tally},
    swap_report::{Bytes, Drain, HostReport, SwapReport},
};
use contract::step::Step;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// The report's format number.
pub const FORMAT: u32 = 1;

/// So long the load must go on after the last host's verdict: whatever a swap breaks late shows within this time.
pub const AFTER: Duration = Duration::from_secs(3);

/// Everything the demo saw.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// So many hosts there should be.
    pub expected_hosts: usize,
    /// The version served before.
    pub from: String,
    /// The version that should be served now.
    pub to: String,
    /// Requests a second below which the load proves nothing.
    pub floor_per_second: f64,
    /// porter's report; absent when it wrote none.
    pub swap: Option<SwapReport>,
    /// Why the command that swaps failed, if it did.
    pub swap_error: Option<String>,
    /// Wall-clock time of that command.
    pub swap_took: Duration,
    /// What the clients saw.
    pub tally: Tally,
    /// How long the load ran in all.
    pub load_ran: Duration,
    /// How long before the swap began.
    pub load_before: Duration,
    /// How long after it ended.
    pub load_after: Duration,
    /// One entry a host, in the order of the tally.
    pub hosts: Vec<HostFacts>,
}

/// What the demo saw of one host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Instance id.
    pub instance: String,
    /// Its front door.
    pub url: String,
    /// What its proxy answered at the end, question by question: a version, or an error.
    pub last_answers: Vec<Result<String, String>>,
}

/// `target/demo/report.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub v: u32,
    /// Whether nobody could have noticed the swap.
    pub passed: bool,
    /// Why not; empty when passed.
    pub problems: Vec<String>,
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// What porter decided; `unknown` when it did not say.
    pub decision: String,
    /// How its run ended; `unknown` when it did not say.
    pub outcome: String,
    /// Version served before.
    pub from: String,
    /// Version wanted.
    pub to: String,
    /// The payload digests behind those versions.
    pub payload: Payload,
    /// One entry a host.
    pub hosts: Vec<Host>,
    /// What the clients saw.
    pub http: Http,
    /// How long it took.
    pub swap_seconds: SwapSeconds,
    /// Bytes moved.
    pub bytes: Bytes,
}

/// Payload digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Payload {
    /// Before, where all hosts agree.
    pub from: Option<String>,
    /// Wanted.
    pub to: Option<String>,
}

/// One host in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Instance id.
    pub instance: String,
    /// Its front door.
    pub url: String,
    /// The host's own verdict.
    pub outcome: String,
    /// What its proxy answered at the end: one version, or `mixed`, or `none`.
    pub serves: String,
    /// Seconds in each step.
    pub seconds: BTreeMap<Step, f64>,
    /// Their sum.
    pub seconds_total: f64,
    /// The longest time without a good answer, in milliseconds, over the whole load.
    pub longest_gap_ms: f64,
    /// Requests made of it.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Answers per version.
    pub answered_by: BTreeMap<String, u64>,
    /// Bytes fetched.
    pub bytes: u64,
    /// How the old connections ended.
    pub drain: Drain,
    /// What went wrong without changing the outcome.
    pub warnings: Vec<String>,
}

/// What the clients saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Http {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those that failed, by the strict rule of `load`.
    pub failed: u64,
    /// Requests a second, over the whole load.
    pub per_second: f64,
    /// How long the load ran.
    pub seconds: f64,
    /// How long before the swap began.
    pub seconds_before_swap: f64,
    /// How long after it ended.
    pub seconds_after_swap: f64,
    /// Answers of `/` per version.
    pub answered_by: BTreeMap<String, u64>,
    /// Answers of the slow page, which names no version.
    pub slow: u64,
    /// Of good answers of `/`.
    pub latency_ms: Latency,
    /// Idle connections that the proxy closed: legal, and no request was lost.
    pub reconnects: u64,
    /// By kind, with first examples.
    pub failures: BTreeMap<FailureKind, Failures>,
}

/// How long it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SwapSeconds {
    /// Wall-clock time of `porter build provision`.
    pub total: f64,
    /// porter's own measure; absent when it wrote no report.
    pub reported: Option<f64>,
}

impl Report {
    /// Everything the demo saw, added up and judged.
    pub fn new(facts: &Facts) -> Self {
        let swap = facts.swap.clone().unwrap_or_default();
        let reported: BTreeMap<&str, &HostReport> = swap
            .regions
            .iter()
            .flat_map(|r| &r.hosts)
            .map(|h| (h.instance.as_str(), h))
            .collect();
        let hosts = facts
            .hosts
            .iter()
            .zip(&facts.tally.hosts)
            .enumerate()
            .map(|(n, (host, seen))| {
                let own = reported
                    .get(host.instance.as_str())
                    .map(|h| (*h).clone())
                    .unwrap_or_default();
                Host {
                    instance: host.instance.clone(),
                    url: host.url.clone(),
                    outcome: or_unknown(&own.outcome),
                    serves: serves(&host.last_answers),
                    seconds_total: round(own.seconds.values().sum(), 3),
                    seconds: own.seconds,
                    longest_gap_ms: round(facts.tally.longest_gap(n, facts.load_ran), 1),
                    requests: seen.requests,
                    failed: seen.failed,
                    answered_by: seen.answered_by.clone(),
                    bytes: own.bytes,
                    drain: own.drain,
                    warnings: own.warnings,
                }
            })
            .collect();
        let seconds = facts.load_ran.as_secs_f64();
        let latency = facts.tally.latency();
        let mut report = Self {
            v: FORMAT,
            passed: false,
            problems: vec![],
            service: facts.service.clone(),
            environment: facts.environment.clone(),
            decision: or_unknown(&swap.decision),
            outcome: or_unknown(&swap.outcome),
            from: facts.from.clone(),
            to: facts.to.clone(),
            payload: Payload {
                from: swap.from.clone(),
                to: facts.swap.as_ref().map(|s| s.to.clone()),
            },
            hosts,
            http: Http {
                requests: facts.tally.requests(),
                failed: facts.tally.failed(),
                per_second: round(facts.tally.requests() as f64 / seconds.max(0.001), 1),
                seconds: round(seconds, 3),
                seconds_before_swap: round(facts.load_before.as_secs_f64(), 3),
                seconds_after_swap: round(facts.load_after.as_secs_f64(), 3),
                answered_by: facts.tally.answered_by(),
                slow: facts.tally.slow,
                latency_ms: Latency {
                    p50: round(latency.p50, 2),
                    p99: round(latency.p99, 2),
                    max: round(latency.max, 2),
                },
                reconnects: facts.tally.reconnects,
                failures: facts.tally.failures(),
            },
            swap_seconds: SwapSeconds {
                total: round(facts.swap_took.as_secs_f64(), 3),
                reported: facts.swap.as_ref().map(|s| round(s.seconds, 3)),
            },
            bytes: swap.bytes,
        };
        report.problems = problems(facts, &report);
        report.passed = report.problems.is_empty();
        report
    }
}

/// The rule behind the exit status: every reason why somebody could have noticed the swap, or why the run does not
/// prove that nobody could. None means success.
fn problems(facts: &Facts, report: &Report) -> Vec<String> {
    let mut found: Vec<String> = facts.swap_error.iter().cloned().collect();
    let mut expect = |holds: bool, otherwise: String| {
        if !holds {
            found.push(otherwise);
        }
    };
    expect(
        report.decision == "hot_swap",
        format!("the decision was `{}` and not `hot_swap`", report.decision),
    );
    expect(
        report.outcome == "success",
        format!("the swap's outcome is `{}`", report.outcome),
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
            host.outcome == "success",
            format!("{}'s own verdict is `{}`", host.instance, host.outcome),
        );
        expect(
            host.serves == facts.to,
            format!(
                "{} serves {} at the end and not {}",
                host.instance, host.serves, facts.to
            ),
        );
        expect(
            [&facts.from, &facts.to]
                .iter()
                .all(|v| host.answered_by.contains_key(*v)),
            format!(
                "the load did not see {} change from {} to {}",
                host.instance, facts.from, facts.to
            ),
        );
    }
    let http = &report.http;
    expect(
        http.failed == 0,
        format!("{} of {} requests failed", http.failed, http.requests),
    );
    for version in http.answered_by.keys() {
        expect(
            version == &facts.from || version == &facts.to,
            format!("version {version} answered, which nobody deployed"),
        );
    }
    expect(
        http.per_second >= facts.floor_per_second,
        format!(
            "the load reached {:.0} requests/s; below {:.0} it proves too little",
            http.per_second, facts.floor_per_second
        ),
    );
    expect(
        facts.load_after >= AFTER,
        format!(
            "the load ended {:.1} s after the swap, {} s are needed",
            facts.load_after.as_secs_f64(),
            AFTER.as_secs()
        ),
    );
    found
}

fn serves(answers: &[Result<String, String>]) -> String {
    let mut versions: Vec<&str> = answers
        .iter()
        .map(|a| a.as_ref().map_or("no answer", String::as_str))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [] => "none".into(),
        [one] => one.into(),
        _ => format!("mixed ({})", versions.join(", ")),
    }
}

fn or_unknown(word: &str) -> String {
    if word.is_empty() { "unknown" } else { word }.to_owned()
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// The steps in the table: not those that only coordinated swaps, or containers that hand over, have.
fn columns() -> impl Iterator<Item = Step> {
    let absent = [Step::Await, Step::Handover, Step::Bake];
    Step::ALL.into_iter().filter(move |s| !absent.contains(s))
}

/// The table for people.
pub fn receipt(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    let http = &report.http;
    line(format!(
        "SWAP RECEIPT  {} in {}: {} -> {} on {} hosts",
        report.service,
        report.environment,
        report.from,
        report.to,
        report.hosts.len()
    ));
    line(String::new());
    line(format!(
        "  swap       {}, {}, {:.1} s from the command to its end",
        report.decision, report.outcome, report.swap_seconds.total
    ));
    line(format!(
        "  payload    {} -> {}",
        short(report.payload.from.as_deref()),
        short(report.payload.to.as_deref())
    ));
    line(format!(
        "  requests   {} at {:.0}/s over {:.1} s ({:.1} s before, {:.1} s after the swap), {} failed",
        http.requests,
        http.per_second,
        http.seconds,
        http.seconds_before_swap,
        http.seconds_after_swap,
        http.failed
    ));
    let versions: Vec<String> = http
        .answered_by
        .iter()
        .map(|(version, count)| format!("{version} {count}"))
        .collect();
    line(format!(
        "  answers    {}; {} of the slow page; {} idle connections renewed",
        versions.join(", "),
        http.slow,
        http.reconnects
    ));
    line(format!(
        "  latency    p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        http.latency_ms.p50, http.latency_ms.p99, http.latency_ms.max
    ));
    line(format!(
        "  bytes      {} uploaded, {} downloaded by all hosts",
        size(report.bytes.uploaded),
        size(report.bytes.downloaded)
    ));
    line(String::new());

    let widest = |head: &str, cell: fn(&Host) -> usize| {
        report.hosts.iter().map(cell).fold(head.len(), usize::max)
    };
    let name = widest("host", |h| h.instance.len());
    let serves = widest("serves", |h| h.serves.len());
    let mut head = format!("  {:<name$}  {:<serves$}  gap ms    cut", "host", "serves");
    for step in columns() {
        let _ = write!(head, "  {:>6}", step.name());
    }
    line(format!("{head}   total s"));
    for host in &report.hosts {
        let mut row = format!(
            "  {:<name$}  {:<serves$}  {:>6.1}  {:>5}",
            host.instance, host.serves, host.longest_gap_ms, host.drain.cut
        );
        for step in columns() {
            let cell = host
                .seconds
                .get(&step)
                .map_or("-".into(), |s| format!("{s:.2}"));
            let _ = write!(row, "  {cell:>0$}", step.name().len().max(6));
        }
        line(format!("{row}  {:>8.2}", host.seconds_total));
        for warning in &host.warnings {
            line(format!("    warning: {warning}"));
        }
    }
    for (kind, failures) in &http.failures {
        line(String::new());
        line(format!("  {} {}, first:", failures.count, kind.name()));
        for example in &failures.first {
            line(format!("    {example}"));
        }
    }
    line(String::new());
    if report.passed {
        line("PASSED: nobody noticed.".into());
    } else {
        line("FAILED:".into());
        for problem in &report.problems {
            line(format!("  {problem}"));
        }
    }
    out
}

/// The first twelve digits of a digest: enough for people.
fn short(digest: Option<&str>) -> &str {
    let hex = digest.map_or("?", |d| d.trim_start_matches("sha256:"));
    hex.get(..12).unwrap_or(hex)
}

/// `812 B`, `1.4 KiB`, `2.0 MiB`.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tally::{Answer, Failure};
    use crate::swap_report::RegionReport;

    const MS: Duration = Duration::from_millis(1);

    /// Three hosts, both versions seen on each, no failure, 12 requests in 10 ms.
    fn good() -> Facts {
        let mut tally = Tally::new(3);
        for (host, name) in ["i-1", "i-2", "i-3"].iter().enumerate() {
            for (at, version) in [(1, "v1"), (3, "v1"), (7, "v2")] {
                tally.record(
                    host,
                    name,
                    at * MS,
                    MS / 2,
                    Ok(Answer::Version(version.into())),
                );
            }
            tally.record(host, name, 8 * MS, 4 * MS, Ok(Answer::Slow));
        }
        tally.reconnects = 2;
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let seconds: BTreeMap<Step, f64> = columns()
            .enumerate()
            .map(|(n, step)| (step, n as f64 / 8.0))
            .collect();
        let host = |instance: &str| HostReport {
            instance: instance.into(),
            outcome: "success".into(),
            seconds: seconds.clone(),
            bytes: 2048,
            drain: Drain {
                ended: 9,
                cut: 0,
                open: 0,
            },
            connections: None,
            warnings: vec![],
        };
        Facts {
            service: "hello".into(),
            environment: "stage".into(),
            expected_hosts: 3,
            from: "v1".into(),
            to: "v2".into(),
            floor_per_second: 500.0,
            swap: Some(SwapReport {
                decision: "hot_swap".into(),
                outcome: "success".into(),
                from: Some(digest("a")),
                to: digest("b"),
                seconds: 12.25,
                bytes: Bytes {
                    uploaded: 812,
                    downloaded: 3 * 2048,
                },
                regions: vec![RegionReport {
                    hosts: ["i-1", "i-2", "i-3"].map(host).to_vec(),
                }],
            }),
            swap_error: None,
            swap_took: Duration::from_millis(12_400),
            tally,
            load_ran: 10 * MS,
            load_before: 2 * MS,
            load_after: AFTER,
            hosts: ["i-1", "i-2", "i-3"]
                .map(|i| HostFacts {
                    instance: i.into(),
                    url: format!("http://{i}:8080"),
                    last_answers: vec![Ok("v2".into()); 4],
                })
                .to_vec(),
        }
    }

    fn bad() -> Facts {
        let mut facts = good();
        let failure = |what: &str| Failure {
            kind: FailureKind::Broken,
            what: what.into(),
        };
        facts.tally.record(
            2,
            "i-3",
            5 * MS,
            MS,
            Err(failure("connection reset by peer")),
        );
        facts.hosts[2].last_answers[1] = Ok("v1".into());
        facts.hosts[2].last_answers[2] = Err("refused".into());
        let swap = facts.swap.as_mut().unwrap();
        swap.outcome = "failed".into();
        let host = &mut swap.regions[0].hosts[2];
        host.outcome = "failed".into();
        host.seconds.remove(&Step::Report);
        host.warnings = vec!["the old image is in use".into()];
        facts.swap_error = Some("`porter build provision` ended with status 5".into());
        facts
    }

    #[test]
    fn the_report_has_the_fields_that_scripts_read() {
        insta::assert_json_snapshot!(Report::new(&good()));
    }

    #[test]
    fn the_receipt_of_a_good_swap() {
        insta::assert_snapshot!(receipt(&Report::new(&good())));
    }

    #[test]
    fn the_receipt_of_a_bad_swap_says_why() {
        insta::assert_snapshot!(receipt(&Report::new(&bad())));
    }

    /// Each fact alone, made bad, fails the run with a sentence about it: this decides the exit status.
    #[test]
    fn every_single_flaw_fails_the_demo() {
        type Flaw = fn(&mut Facts);
        let flaws: [(&str, Flaw); 12] = [
            ("requests failed", |f| {
                let kind = FailureKind::Timeout;
                let what = "late".into();
                f.tally
                    .record(0, "i-1", 9 * MS, MS, Err(Failure { kind, what }));
            }),
            ("i-2 serves v1 at the end", |f| {
                f.hosts[1].last_answers = vec![Ok("v1".into())];
            }),
            ("i-2 serves mixed (v1, v2)", |f| {
                f.hosts[1].last_answers[3] = Ok("v1".into());
            }),
            ("i-2 serves mixed (no answer, v2)", |f| {
                f.hosts[1].last_answers[3] = Err("refused".into());
            }),
            ("i-2 serves none", |f| f.hosts[1].last_answers.clear()),
            ("decision was `provision`", |f| {
                f.swap.as_mut().unwrap().decision = "provision".into();
            }),
            ("decision was `unknown`", |f| f.swap = None),
            ("i-3's own verdict is `unknown`", |f| {
                f.swap.as_mut().unwrap().regions[0].hosts.pop();
            }),
            ("3 hosts instead of 4", |f| f.expected_hosts = 4),
            ("version v3 answered", |f| {
                f.tally
                    .record(0, "i-1", 9 * MS, MS, Ok(Answer::Version("v3".into())));
            }),
            ("below 5000 it proves too little", |f| {
                f.floor_per_second = 5000.0;
            }),
            ("the load ended 2.0 s after", |f| {
                f.load_after = Duration::from_secs(2);
            }),
        ];
        assert_eq!(Report::new(&good()).problems, Vec::<String>::new());
        for (sentence, flaw) in flaws {
            let mut facts = good();
            flaw(&mut facts);
            let report = Report::new(&facts);
            assert!(!report.passed, "{sentence}");
            assert!(
                report.problems.iter().any(|p| p.contains(sentence)),
                "{sentence}: {:?}",
                report.problems
            );
        }
        let mut unseen = good();
        unseen.tally.hosts[1].answered_by.remove("v1");
        assert!(!Report::new(&unseen).passed, "a host never seen on v1");
        let mut stopped = good();
        stopped.swap_error = Some("status 5".into());
        assert_eq!(Report::new(&stopped).problems, ["status 5"]);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [812, 1434, 2 << 20].map(size),
            ["812 B", "1.4 KiB", "2.0 MiB"]
        );
    }
}
