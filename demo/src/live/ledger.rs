//! The books of a load: who sent which number, who has to get it, and who got it when. Pure: time comes in as the distance
//! from the load's start.
//!
//! Every source numbers its messages 0, 1, 2 … by a timetable of its own, and every message is owed to each of the source's
//! audience exactly once and in the order of its numbers. Nothing is forgiven: a number that was skipped is lost until it
//! comes, and reordered when it does; one that comes again is doubled; one that was never sent is foreign.
//!
//! How long a client was without service is measured against the timetable and not against the moment of sending: a load
//! that is held up itself must not make a server look better than it is.

use serde::Serialize;
use std::{collections::BTreeSet, time::Duration};

/// Something that sends numbered messages: a client, or a backend for one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(pub u32);

/// A connection that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub u32);

/// What goes on while messages flow. A message belongs to the last of these that it met from when it was due until it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing but the load.
    Steady,
    /// The next version is being built and packed on the same machine.
    Build,
    /// A swap.
    Swap,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 3] = [Phase::Steady, Phase::Build, Phase::Swap];
}

/// Messages, over all sources and clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// Sent, each counted once whoever gets it.
    pub sent: u64,
    /// Deliveries that those sent owe: each message to each of its audience.
    pub owed: u64,
    /// Deliveries that came, each counted once however often.
    pub received: u64,
    /// Owed, and never came.
    pub lost: u64,
    /// Came again.
    pub doubled: u64,
    /// Came after a later one of the same source.
    pub reordered: u64,
    /// Came to somebody to whom it was not owed, or was never sent.
    pub foreign: u64,
}

/// The longest time without service that each client saw, over all clients that were owed anything then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gap {
    /// Of half of the clients, in milliseconds.
    pub p50: f64,
    /// Of all but one in a hundred.
    pub p99: f64,
    /// Of the worst.
    pub max: f64,
}

#[derive(Clone, Debug)]
struct Timetable {
    first: Duration,
    period: Duration,
    sent: u32,
}

/// What one client got from one source.
#[derive(Clone, Debug, Default)]
struct Line {
    source: u32,
    next: u32,
    skipped: BTreeSet<u32>,
}

#[derive(Clone, Debug, Default)]
struct Account {
    lines: Vec<Line>,
    /// The latest message of each phase, in microseconds behind its timetable; none where none came.
    worst: [Option<u32>; Phase::ALL.len()],
}

/// The books.
#[derive(Clone, Debug)]
pub struct Ledger {
    sources: Vec<Timetable>,
    clients: Vec<Account>,
    /// When each phase began; the last one goes on.
    phases: Vec<(Duration, Phase)>,
    received: u64,
    doubled: u64,
    reordered: u64,
    foreign: u64,
    /// How late the load itself was, in microseconds, by phase.
    own_lag: [u32; Phase::ALL.len()],
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            clients: Vec::new(),
            phases: vec![(Duration::ZERO, Phase::Steady)],
            received: 0,
            doubled: 0,
            reordered: 0,
            foreign: 0,
            own_lag: [0; Phase::ALL.len()],
        }
    }
}

impl Ledger {
    /// A source whose number `n` is due at `first + n × period`.
    pub fn source(&mut self, first: Duration, period: Duration) -> Source {
        self.sources.push(Timetable {
            first,
            period,
            sent: 0,
        });
        Source(self.sources.len() as u32 - 1)
    }

    /// A client that is owed nothing yet.
    pub fn client(&mut self) -> Client {
        self.clients.push(Account::default());
        Client(self.clients.len() as u32 - 1)
    }

    /// From now on `client` is owed every message of `source`.
    pub fn owe(&mut self, source: Source, client: Client) {
        let sent = self.sources[source.0 as usize].sent;
        self.clients[client.0 as usize].lines.push(Line {
            source: source.0,
            next: sent,
            skipped: BTreeSet::new(),
        });
    }

    /// When the source's next message is due.
    pub fn due(&self, source: Source) -> Duration {
        let timetable = &self.sources[source.0 as usize];
        due(timetable, timetable.sent)
    }

    /// The source sends its next message: its number.
    pub fn send(&mut self, source: Source, at: Duration) -> u32 {
        let due = self.due(source);
        let lag = micros(at.saturating_sub(due));
        let worst = &mut self.own_lag[self.phase_of(due, at) as usize];
        *worst = lag.max(*worst);
        let timetable = &mut self.sources[source.0 as usize];
        timetable.sent += 1;
        timetable.sent - 1
    }

    /// A message has come.
    pub fn receive(&mut self, client: Client, source: Source, number: u32, at: Duration) {
        let account = &mut self.clients[client.0 as usize];
        let line = account.lines.iter_mut().find(|l| l.source == source.0);
        let (Some(line), Some(timetable)) = (line, self.sources.get(source.0 as usize)) else {
            self.foreign += 1;
            return;
        };
        if number >= timetable.sent {
            self.foreign += 1;
            return;
        }
        if number >= line.next {
            line.skipped.extend(line.next..number);
            line.next = number + 1;
        } else if line.skipped.remove(&number) {
            self.reordered += 1;
        } else {
            self.doubled += 1;
            return;
        }
        self.received += 1;
        let due = due(timetable, number);
        let late = micros(at.saturating_sub(due));
        let phase = self.phase_of(due, at);
        let worst = &mut self.clients[client.0 as usize].worst[phase as usize];
        *worst = Some(worst.map_or(late, |w| w.max(late)));
    }

    /// Another phase begins.
    pub fn begin(&mut self, phase: Phase, at: Duration) {
        self.phases.push((at, phase));
    }

    /// The phase of a message that was due and came at these times: the gravest of those it has met.
    fn phase_of(&self, due: Duration, came: Duration) -> Phase {
        let mut gravest = Phase::Steady;
        for &(begin, phase) in self.phases.iter().rev() {
            if begin <= came {
                gravest = gravest.max(phase);
            }
            if begin <= due {
                break;
            }
        }
        gravest
    }

    /// Deliveries that are owed and have not come.
    pub fn outstanding(&self) -> u64 {
        self.messages().lost
    }

    /// The balance: what has not come by now is lost.
    pub fn messages(&self) -> Messages {
        let sent = self.sources.iter().map(|s| u64::from(s.sent)).sum();
        // Not sent × audience: whoever joined later is owed less.
        let lines = || self.clients.iter().flat_map(|c| &c.lines);
        let lost: u64 = lines()
            .map(|l| {
                let never = self.sources[l.source as usize].sent - l.next;
                u64::from(never) + l.skipped.len() as u64
            })
            .sum();
        Messages {
            sent,
            owed: self.received + lost,
            received: self.received,
            lost,
            doubled: self.doubled,
            reordered: self.reordered,
            foreign: self.foreign,
        }
    }

    /// The longest gaps of a phase; nothing if no client was owed anything in it.
    pub fn gap(&self, phase: Phase) -> Option<Gap> {
        let worst = |a: &Account| a.worst[phase as usize];
        let mut all: Vec<u32> = self.clients.iter().filter_map(worst).collect();
        all.sort_unstable();
        let at = |percent| crate::http::tally::percentile(&all, percent);
        Some(Gap {
            p50: millis(at(50)?),
            p99: millis(at(99)?),
            max: millis(at(100)?),
        })
    }

    /// By how many milliseconds the load itself was late at worst: part of the gaps, and nobody else's fault.
    pub fn own_lag(&self, phase: Phase) -> f64 {
        millis(self.own_lag[phase as usize])
    }
}

fn due(timetable: &Timetable, number: u32) -> Duration {
    timetable.first + timetable.period * number
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One source, one client.
    fn pair() -> (Ledger, Source, Client) {
        let mut ledger = Ledger::default();
        let source = ledger.source(Duration::ZERO, SECOND);
        let client = ledger.client();
        ledger.owe(source, client);
        (ledger, source, client)
    }

    /// `sent` messages were sent, and these numbers came.
    fn balance(sent: u32, came: &[u32]) -> Messages {
        let (mut ledger, source, client) = pair();
        for n in 0..sent {
            assert_eq!(ledger.send(source, SECOND * n), n);
        }
        for &n in came {
            ledger.receive(client, source, n, SECOND * sent);
        }
        ledger.messages()
    }

    #[test]
    fn what_came_once_and_in_order_is_in_order() {
        let all = balance(3, &[0, 1, 2]);
        let expected = Messages {
            sent: 3,
            owed: 3,
            received: 3,
            ..Messages::default()
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn what_never_came_is_lost_in_the_middle_and_at_the_end() {
        let messages = balance(5, &[0, 2, 3]);
        assert_eq!((messages.lost, messages.received, messages.owed), (2, 3, 5));
    }

    #[test]
    fn what_came_again_is_doubled_whenever_it_comes() {
        assert_eq!(balance(3, &[0, 0, 1, 2, 1, 2]).doubled, 3);
    }

    #[test]
    fn what_came_after_a_later_one_is_reordered_and_not_lost() {
        let messages = balance(4, &[0, 3, 1, 2]);
        assert_eq!((messages.reordered, messages.lost), (2, 0));
        assert_eq!(balance(4, &[0, 3, 1, 1, 2]).doubled, 1);
    }

    #[test]
    fn what_nobody_sent_or_somebody_else_was_owed_is_foreign() {
        assert_eq!(balance(2, &[0, 1, 2]).foreign, 1);
        let (mut ledger, source, _) = pair();
        let stranger = ledger.client();
        ledger.send(source, Duration::ZERO);
        ledger.receive(stranger, source, 0, SECOND);
        assert_eq!(ledger.messages().foreign, 1);
    }

    #[test]
    fn each_of_an_audience_is_owed_every_message_from_when_it_joined() {
        let (mut ledger, source, first) = pair();
        ledger.send(source, Duration::ZERO);
        let second = ledger.client();
        ledger.owe(source, second);
        ledger.send(source, SECOND);
        assert_eq!((ledger.messages().sent, ledger.messages().owed), (2, 3));
        ledger.receive(first, source, 0, SECOND);
        ledger.receive(first, source, 1, SECOND);
        ledger.receive(second, source, 1, SECOND);
        assert_eq!(ledger.outstanding(), 0);
    }

    #[test]
    fn a_gap_is_measured_from_when_a_message_was_due_and_not_from_when_it_was_sent() {
        let (mut ledger, source, client) = pair();
        ledger.send(source, ms(40));
        ledger.receive(client, source, 0, ms(50));
        assert_eq!(ledger.gap(Phase::Steady).map(|g| g.max), Some(50.0));
        assert_eq!(ledger.own_lag(Phase::Steady), 40.0);
        assert_eq!(ledger.gap(Phase::Swap), None);
    }

    #[test]
    fn a_message_belongs_to_the_swap_that_it_met_on_its_way() {
        // The swap goes from 1,500 to 2,500 ms; messages are due at 0, 1,000, 2,000 and 3,000.
        for (number, came, phase) in [
            (0, 5, Phase::Steady),
            (1, 1_400, Phase::Steady),
            (1, 1_600, Phase::Swap),
            (1, 2_700, Phase::Swap),
            (2, 2_010, Phase::Swap),
            (2, 2_700, Phase::Swap),
            (3, 3_010, Phase::Steady),
        ] {
            let (mut ledger, source, client) = pair();
            for n in 0..=number {
                ledger.send(source, SECOND * n);
            }
            ledger.begin(Phase::Swap, ms(1_500));
            ledger.begin(Phase::Steady, ms(2_500));
            ledger.receive(client, source, number, ms(came));
            let met = Phase::ALL.map(|p| ledger.gap(p).is_some());
            let expected = Phase::ALL.map(|p| p == phase);
            assert_eq!(met, expected, "number {number} at {came} ms");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever is left out, repeated and held back: the books say exactly that.
        #[test]
        fn every_injected_fault_is_found_and_no_other(
            fates in proptest::collection::vec(0u8..10, 1..200),
        ) {
            let sent = fates.len() as u32;
            let (mut came, mut held, mut lost, mut doubled, mut reordered) = (vec![], vec![], 0, 0, 0);
            for (n, fate) in (0..sent).zip(&fates) {
                match fate {
                    0 => lost += 1,
                    1 => { came.extend([n, n]); doubled += 1; }
                    2 => held.push(n),
                    _ => {
                        came.push(n);
                        // Held back until a later one has come.
                        reordered += held.len() as u64;
                        came.append(&mut held);
                    }
                }
            }
            // Those that nothing followed, in whatever order they were sent, are only late.
            came.append(&mut held);
            // A doubled one also releases nothing: whoever was held back before it comes after it, out of order.
            let mut seen_max = None;
            let late = came.iter().scan(std::collections::BTreeSet::new(), |seen, &n| {
                let out_of_order = seen_max.is_some_and(|m| n < m) && seen.insert(n);
                seen.insert(n);
                seen_max = seen_max.max(Some(n));
                Some(out_of_order)
            }).filter(|late| *late).count() as u64;
            prop_assert!(late >= reordered);
            let messages = balance(sent, &came);
            prop_assert_eq!(messages.lost, lost);
            prop_assert_eq!(messages.doubled, doubled);
            prop_assert_eq!(messages.reordered, late);
            prop_assert_eq!(messages.received + messages.lost, u64::from(sent));
            prop_assert_eq!(messages.foreign, 0);
        }
    }
}
