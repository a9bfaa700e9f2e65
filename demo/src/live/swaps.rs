//! Many swaps in a row under load on one bare host: whether anything leaks, and what a swap costs with how many connections.

use super::{
    bare::{BareHost, BareSwap, Holds},
    ledger::{Gap, Phase},
    load::{Load, Outcome, Plan},
    tokens::Issuer,
};
use anyhow::bail;
use serde::Serialize;
use std::{fmt::Write, path::Path, thread, time::Duration};
use tokio_util::sync::CancellationToken;

/// A message is due on every connection within this time, so that every connection has something to say about a swap.
const ROUND: Duration = Duration::from_millis(1100);

/// Messages flow for so long before the first swap, and after the last one.
const STEADY: Duration = Duration::from_secs(3);

/// Memory of the server may grow by so many percent over all swaps.
const GROWTH_PERCENT: f64 = 2.0;

/// Connections of the growth table.
pub const GROWTH: [usize; 4] = [100, 1_000, 3_000, 9_000];

/// What is to be swapped, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// The `realtime` program.
    pub program: &'a Path,
    /// WebSockets, over all hosts.
    pub connections: usize,
    /// Swaps, of one host after the other.
    pub count: usize,
    /// Hosts. More than one need an engine that they share; then the clients of every channel are on all of them.
    pub hosts: usize,
    /// The server's `engine.url`; blank for a database file of each host.
    pub engine: &'a str,
}

/// What many swaps came to.
#[derive(Clone, Debug)]
pub struct Swaps {
    /// One entry a swap.
    pub swaps: Vec<BareSwap>,
    /// What the server of the first host held at each moment: first before its first swap, last after its last one.
    pub server: Vec<Holds>,
    /// What the first host's server and proxy held without a client: before there was one, and when the last had gone.
    pub at_rest: [(Holds, Holds); 2],
    /// What the load saw.
    pub outcome: Outcome,
}

/// A line of the growth table, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// Connections.
    pub connections: u64,
    /// In which nobody read, the longest of all swaps.
    pub freeze_ms: f64,
    /// From the successor's hello to its last word, the longest of all swaps.
    pub handover_ms: f64,
    /// What clients saw while swaps went on.
    pub swap: Gap,
    /// And without.
    pub steady: Gap,
}

/// Swaps under load; `after` is called after each.
///
/// # Errors
/// `stop` is cancelled, a host that can't be started, connections that can't be opened, a swap that fails.
pub fn run(
    course: &Course<'_>,
    stop: &CancellationToken,
    mut after: impl FnMut(usize, &BareSwap, Holds),
) -> anyhow::Result<Swaps> {
    let issuer = Issuer::new()?;
    let mut hosts = Vec::new();
    for _ in 0..course.hosts {
        let mut host = BareHost::start(course.program, &issuer.public_key(), course.engine)?;
        // A process that has taken over is another case than the first one; from here on every process has.
        host.swap()?;
        hosts.push(host);
    }
    let mut plan = Plan::new(
        hosts.iter().map(BareHost::target).collect(),
        course.connections,
    );
    plan.across = course.hosts > 1;
    let before = hosts[0].at_rest()?;
    let load = Load::open(&plan, &issuer)?;
    thread::sleep(STEADY);
    let mut server = vec![hosts[0].server()?];
    let mut swaps = Vec::new();
    for number in 1..=course.count {
        let at = (number - 1) % hosts.len();
        let host = &mut hosts[at];
        if stop.is_cancelled() {
            bail!("interrupted before swap {number}");
        }
        load.begin(Phase::Swap);
        let swap = host.swap()?;
        thread::sleep(ROUND);
        load.begin(Phase::Steady);
        let holds = host.server()?;
        after(number, &swap, holds);
        if at == 0 {
            server.push(holds);
        }
        swaps.push(swap);
    }
    thread::sleep(STEADY);
    let outcome = load.finish()?;
    Ok(Swaps {
        swaps,
        server,
        at_rest: [before, hosts[0].at_rest()?],
        outcome,
    })
}

impl Swaps {
    /// Why somebody could have noticed something, or what leaks.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.outcome.problems();
        for (number, swap) in self.swaps.iter().enumerate() {
            let receipt = &swap.receipt;
            if receipt.dropped > 0 || receipt.transferred != receipt.offered {
                problems.push(format!("swap {}: {receipt:?}", number + 1));
            }
        }
        let [before, after] = self.at_rest;
        if before.1.pid != after.1.pid {
            problems.push("HAProxy was restarted".into());
        }
        // Under load the proxy opens and closes connections to the server as it needs them; without clients every descriptor
        // is one that somebody meant to keep.
        let of = |holds: fn((Holds, Holds)) -> Holds| (holds(before), holds(after));
        for (who, (before, after)) in [("the server", of(|h| h.0)), ("HAProxy", of(|h| h.1))] {
            if after.descriptors > before.descriptors {
                problems.push(format!(
                    "without a client {who} has {} descriptors, and had {}",
                    after.descriptors, before.descriptors
                ));
            }
        }
        if self.growth_percent() > GROWTH_PERCENT {
            problems.push(format!(
                "the server's memory grew by {:.1} % from the first swap to the last",
                self.growth_percent()
            ));
        }
        problems
    }

    /// The server after the first swap and after the last one. The process before them is another case: it has taken
    /// nothing over, but has opened every connection.
    fn ends(&self) -> Option<(Holds, Holds)> {
        Some((*self.server.get(1)?, *self.server.last()?))
    }

    /// By how many percent the server's memory grew from one end to the other, as the median of the first and the last
    /// tenth of all swaps.
    pub fn growth_percent(&self) -> f64 {
        let taken: Vec<u64> = self.server.iter().skip(1).map(|h| h.rss_kib).collect();
        let tenth = (taken.len() / 10).max(1);
        let median = |values: &[u64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0) as f64
        };
        let first = median(&taken[..tenth.min(taken.len())]);
        let last = median(&taken[taken.len().saturating_sub(tenth)..]);
        if first == 0.0 {
            return 0.0;
        }
        (last / first - 1.0) * 100.0
    }

    /// As a line of the growth table.
    pub fn growth(&self) -> Growth {
        let longest = |of: fn(&BareSwap) -> f64| self.swaps.iter().map(of).fold(0.0, f64::max);
        let gap = |phase| self.outcome.gaps.get(&phase).copied().unwrap_or_default();
        Growth {
            connections: self.outcome.websockets.opened,
            freeze_ms: longest(|s| s.receipt.frozen_ms),
            handover_ms: longest(|s| s.receipt.total_ms),
            swap: gap(Phase::Swap),
            steady: gap(Phase::Steady),
        }
    }

    /// For people.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let mut line = |text: String| _ = writeln!(out, "{text}");
        let (o, m) = (&self.outcome, &self.outcome.messages);
        line(format!(
            "{} swaps: {} WebSockets opened, {} kept, {} dropped",
            self.swaps.len(),
            o.websockets.opened,
            o.websockets.kept,
            o.websockets.dropped
        ));
        line(format!(
            "messages: {} sent, {} of {} received, {} lost, {} doubled, {} reordered",
            m.sent, m.received, m.owed, m.lost, m.doubled, m.reordered
        ));
        line(format!(
            "backends: {} of {} requests accepted; members seen to come or go: {}",
            o.publishes.accepted, o.publishes.sent, o.member_events
        ));
        if let Some((first, last)) = self.ends() {
            line(format!(
                "server: {} KiB after the first swap, {} KiB after the last ({:+.1} %)",
                first.rss_kib,
                last.rss_kib,
                self.growth_percent()
            ));
        }
        let [before, after] = self.at_rest;
        line(format!(
            "without a client, before and after: server {} and {} descriptors; HAProxy {} and {}, {} and {} KiB, process {} and {}",
            before.0.descriptors,
            after.0.descriptors,
            before.1.descriptors,
            after.1.descriptors,
            before.1.rss_kib,
            after.1.rss_kib,
            before.1.pid,
            after.1.pid
        ));
        line(String::new());
        line(table(&[self.growth()]));
        out
    }
}

/// The growth table.
pub fn table(lines: &[Growth]) -> String {
    let mut out = String::from(
        "connections  freeze ms  handover ms  gap in swaps: p50    p99    max  without: p50    p99    max  (ms)",
    );
    for l in lines {
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "\n{:>11}  {:>9.1}  {:>11.1}  {:>17.1} {:>6.1} {:>6.1}  {:>12.1} {:>6.1} {:>6.1}",
            l.connections,
            l.freeze_ms,
            l.handover_ms,
            l.swap.p50,
            l.swap.p99,
            l.swap.max,
            l.steady.p50,
            l.steady.p99,
            l.steady.max
        );
    }
    out
}
