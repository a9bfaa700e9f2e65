//! What the clients of a load saw, added up. Pure: time comes in as the distance from the load's start.

use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// So many examples of each kind of failure are kept: enough to see a pattern, never enough to fill a terminal.
pub const EXAMPLES: usize = 3;

/// Why a request counts as failed. Whatever a user would have noticed is in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The connection was refused.
    Refused,
    /// No connection could be made for another reason.
    Connect,
    /// Bytes of the request were sent, and the connection ended before the whole response had arrived.
    Broken,
    /// The whole response did not arrive within the request's time.
    Timeout,
    /// A response came, with a status other than 200.
    Status,
    /// What came was not HTTP, or a body without a version in it.
    Garbled,
}

impl FailureKind {
    /// The word for people, the same as on the wire.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Refused => "refused",
            FailureKind::Connect => "connect",
            FailureKind::Broken => "broken",
            FailureKind::Timeout => "timeout",
            FailureKind::Status => "status",
            FailureKind::Garbled => "garbled",
        }
    }
}

/// One failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What was seen, in one line.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.what)
    }
}

/// All failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// The first [`EXAMPLES`] of them, with their time and host.
    pub first: Vec<String>,
}

/// What one host's clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTally {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Answers of `/` per version.
    pub answered_by: BTreeMap<String, u64>,
    /// When good answers were complete, in microseconds from the load's start; unordered until [`Tally::longest_gap`].
    answers: Vec<u64>,
}

/// What all clients saw. Memory: about 12 bytes a request, so a run of minutes stays exact without a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// By host, in the order of the load's targets.
    pub hosts: Vec<HostTally>,
    /// Failures by kind.
    pub failures: BTreeMap<FailureKind, Failures>,
    /// Connections that the server had closed while they were idle: legal HTTP, a reconnect and not a failure.
    pub reconnects: u64,
    /// Requests to the slow page: in flight for so long that swaps catch them in the middle.
    pub slow: u64,
    /// Time from sending to the last byte, of good answers of `/`, in microseconds; unordered.
    latencies: Vec<u32>,
    /// Examples carry their time for sorting when tallies are merged.
    examples: Vec<(u64, FailureKind, String)>,
}

/// What a request ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `/` answered with this version.
    Version(String),
    /// The slow page answered.
    Slow,
}

impl Tally {
    /// Nothing seen yet on `hosts` hosts.
    pub fn new(hosts: usize) -> Self {
        Self {
            hosts: vec![HostTally::default(); hosts],
            ..Self::default()
        }
    }

    /// Adds one request to host number `host`, called `name`; it ended at `at` and had begun `took` before.
    pub fn record(
        &mut self,
        host: usize,
        name: &str,
        at: Duration,
        took: Duration,
        result: Result<Answer, Failure>,
    ) {
        let at = micros(at);
        let tally = &mut self.hosts[host];
        tally.requests += 1;
        match result {
            Ok(Answer::Version(version)) => {
                *tally.answered_by.entry(version).or_default() += 1;
                tally.answers.push(at);
                self.latencies
                    .push(u32::try_from(micros(took)).unwrap_or(u32::MAX));
            }
            Ok(Answer::Slow) => self.slow += 1,
            Err(failure) => {
                tally.failed += 1;
                self.failures.entry(failure.kind).or_default().count += 1;
                let seen = self
                    .examples
                    .iter()
                    .filter(|(_, kind, _)| *kind == failure.kind)
                    .count();
                if seen < EXAMPLES {
                    let line = format!("{:.3} s, {name}: {}", at as f64 / 1e6, failure.what);
                    self.examples.push((at, failure.kind, line));
                }
            }
        }
    }

    /// Adds what another client saw on the same hosts.
    pub fn merge(&mut self, other: Tally) {
        for (mine, theirs) in self.hosts.iter_mut().zip(other.hosts) {
            mine.requests += theirs.requests;
            mine.failed += theirs.failed;
            mine.answers.extend(theirs.answers);
            for (version, count) in theirs.answered_by {
                *mine.answered_by.entry(version).or_default() += count;
            }
        }
        for (kind, failures) in other.failures {
            self.failures.entry(kind).or_default().count += failures.count;
        }
        self.reconnects += other.reconnects;
        self.slow += other.slow;
        self.latencies.extend(other.latencies);
        self.examples.extend(other.examples);
    }

    /// Requests that ended, well or not.
    pub fn requests(&self) -> u64 {
        self.hosts.iter().map(|h| h.requests).sum()
    }

    /// Those that failed.
    pub fn failed(&self) -> u64 {
        self.hosts.iter().map(|h| h.failed).sum()
    }

    /// Answers of `/` per version.
    pub fn answered_by(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (version, count) in self.hosts.iter().flat_map(|h| &h.answered_by) {
            *all.entry(version.clone()).or_default() += count;
        }
        all
    }

    /// Failures by kind, with the earliest examples.
    pub fn failures(&self) -> BTreeMap<FailureKind, Failures> {
        let mut all = self.failures.clone();
        let mut examples = self.examples.clone();
        examples.sort();
        for (_, kind, line) in examples {
            let failures = all.entry(kind).or_default();
            if failures.first.len() < EXAMPLES {
                failures.first.push(line);
            }
        }
        all
    }

    /// 50th and 99th percentile and maximum of the latency, in milliseconds; zeros when nothing was answered.
    pub fn latency(&self) -> Latency {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent| percentile(&sorted, percent).map_or(0.0, |us| f64::from(us) / 1e3);
        Latency {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }

    /// The longest time in which host number `host` completed no answer, in milliseconds, from the load's start to its
    /// `end`. A host that never answered has a gap as long as the load.
    pub fn longest_gap(&self, host: usize, end: Duration) -> f64 {
        let mut times = self.hosts[host].answers.clone();
        times.push(0);
        times.push(micros(end));
        times.sort_unstable();
        let gap = times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        gap as f64 / 1e3
    }
}

/// Milliseconds from sending a request to the last byte of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the answers were at least this quick.
    pub p50: f64,
    /// 99 of 100 were.
    pub p99: f64,
    /// All were.
    pub max: f64,
}

/// The nearest-rank percentile of sorted values: the smallest value that at least `percent` of 100 do not exceed.
pub fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// The version in the body of `/`: its first word that looks like one (`v` and a digit, or a digit), else the whole
/// body when it is one short line.
pub fn version_in(body: &str) -> Option<String> {
    let looks_like_one = |word: &&str| {
        let rest = word.strip_prefix('v').unwrap_or(word);
        rest.starts_with(|c: char| c.is_ascii_digit())
    };
    let trimmed = body.trim();
    trimmed
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+')))
        .find(looks_like_one)
        .or(
            (!trimmed.is_empty() && trimmed.len() <= 64 && !trimmed.contains('\n'))
                .then_some(trimmed),
        )
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn v(version: &str) -> Result<Answer, Failure> {
        Ok(Answer::Version(version.into()))
    }

    fn broken(n: u64) -> Result<Answer, Failure> {
        Err(Failure {
            kind: FailureKind::Broken,
            what: format!("number {n}"),
        })
    }

    #[test]
    fn answers_are_counted_per_version_and_failures_per_kind_with_the_earliest_examples() {
        let mut late = Tally::new(2);
        let mut early = Tally::new(2);
        for n in 10..15 {
            late.record(1, "b", ms(n), ms(1), broken(n));
        }
        early.record(1, "b", ms(2), ms(1), broken(2));
        early.record(0, "a", ms(3), ms(2), v("v1"));
        early.record(0, "a", ms(4), ms(2), v("v2"));
        early.record(1, "b", ms(5), ms(400), Ok(Answer::Slow));
        late.merge(early);

        assert_eq!((late.requests(), late.failed(), late.slow), (9, 6, 1));
        assert_eq!(
            late.answered_by(),
            BTreeMap::from([("v1".into(), 1), ("v2".into(), 1)])
        );
        let failures = &late.failures()[&FailureKind::Broken];
        assert_eq!(failures.count, 6);
        assert_eq!(
            failures.first,
            [
                "0.002 s, b: number 2",
                "0.010 s, b: number 10",
                "0.011 s, b: number 11"
            ]
        );
    }

    #[test]
    fn the_longest_gap_sees_the_start_the_middle_and_the_end_whatever_the_order_of_merging() {
        let mut a = Tally::new(2);
        a.record(0, "a", ms(50), ms(1), v("v1"));
        let mut b = Tally::new(2);
        b.record(0, "a", ms(10), ms(1), v("v1"));
        a.merge(b);
        assert_eq!(a.longest_gap(0, ms(60)), 40.0);
        assert_eq!(a.longest_gap(0, ms(100)), 50.0);
        assert_eq!(
            a.longest_gap(1, ms(100)),
            100.0,
            "a host that never answered"
        );
    }

    #[test]
    fn a_failed_request_does_not_end_a_gap_and_has_no_latency() {
        let mut t = Tally::new(1);
        t.record(0, "a", ms(1), ms(1), v("v1"));
        t.record(0, "a", ms(50), ms(49), broken(1));
        t.record(0, "a", ms(100), ms(3), v("v1"));
        assert_eq!(t.longest_gap(0, ms(100)), 99.0);
        assert_eq!(
            t.latency(),
            Latency {
                p50: 1.0,
                p99: 3.0,
                max: 3.0
            }
        );
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(
            [50, 99, 100].map(|p| percentile(&hundred, p)),
            [Some(50), Some(99), Some(100)]
        );
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_version_is_found_in_plain_text_sentences_and_json() {
        for (body, version) in [
            ("v1\n", Some("v1")),
            ("hello v2", Some("v2")),
            (r#"{"version":"1.4.0-rc1"}"#, Some("1.4.0-rc1")),
            ("blue", Some("blue")),
            ("", None),
            ("<html>\n<p>no</p>", None),
        ] {
            assert_eq!(version_in(body).as_deref(), version, "{body:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_percentile_splits_the_values_as_it_promises(mut values in proptest::collection::vec(any::<u32>(), 1..300), percent in 1usize..=100) {
            values.sort_unstable();
            let p = percentile(&values, percent).unwrap();
            let not_above = values.iter().filter(|v| **v <= p).count();
            let below = values.iter().filter(|v| **v < p).count();
            prop_assert!(not_above * 100 >= percent * values.len());
            prop_assert!(below * 100 < percent * values.len());
        }
    }
}
