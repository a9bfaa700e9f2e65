//! Sampled spans: what one message went through, from acceptance to delivery, as records of the log (R-LOG-6 to R-LOG-9).
//!
//! A trace is named by its message: `traceId` is the identifier's 128 bits, and whether a trace is kept is a hash of them.
//! So every process that handles a message decides alike and uses the same name, with nothing on the wire between them.
//! Three spans: `accept` is the root, from reading the message to handing it to the engine; `engine` lasts until the message
//! has its identifier and its place; `deliver` puts it into the outboxes of one process's subscribers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::info;
use ulid::Ulid;

use crate::config::{Log, LogLevel};
use crate::engine::{Answer, Ticket};
use crate::metrics::Trigger;
use crate::time::Now;

/// Accepted messages of which the engine has said nothing yet: beyond that the oldest is not traced. So many wait only
/// while an engine is out of reach.
const PENDING: usize = 4_096;

/// Which traces are kept, and what is known of those that are not complete.
#[derive(Debug)]
pub struct Tracer {
    /// Of 2^64 hashes, those below are kept.
    below: u128,
    /// Tells this process's spans of a message from those of others.
    process: u64,
    /// In ascending order of their tickets.
    pending: VecDeque<Accepted>,
}

/// A message that the engine has got.
#[derive(Debug)]
struct Accepted {
    ticket: Ticket,
    trigger: Trigger,
    read: Now,
    handed: Instant,
}

/// A message that is being delivered, and is traced.
#[derive(Debug)]
pub struct Delivery {
    id: Ulid,
    process: u64,
    begun: Now,
}

/// One span, as it is logged.
struct Span {
    trace: Ulid,
    id: u64,
    parent: Option<u64>,
    name: &'static str,
    begun: Timestamp,
    lasted: Duration,
    ok: bool,
    trigger: Option<Trigger>,
    deliveries: Option<u64>,
}

impl Tracer {
    /// Keeps as many traces as the settings say.
    pub fn new(log: &Log) -> Self {
        let mut tracer = Self {
            below: 0,
            process: rand::random(),
            pending: VecDeque::new(),
        };
        tracer.follow(log);
        tracer
    }

    /// Follows other settings from now on (R-LOG-10). Above INFO nothing is kept (R-LOG-8).
    pub fn follow(&mut self, log: &Log) {
        let shown = matches!(log.level, LogLevel::Info | LogLevel::Debug);
        let percent = if shown { log.trace_sample_percent } else { 0 };
        self.below = (1 << 64) * percent as u128 / 100;
        if self.below == 0 {
            self.pending = VecDeque::new();
        }
    }

    /// Is the trace of this message kept (R-LOG-7)?
    #[must_use]
    pub fn keeps(&self, id: Ulid) -> bool {
        u128::from(hash(id, 0)) < self.below
    }

    /// The engine has got a message that was read at the beginning of this turn.
    pub fn accepted(&mut self, read: Now, ticket: Ticket, trigger: Trigger) {
        if self.below == 0 {
            return;
        }
        if self.pending.len() == PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Accepted {
            ticket,
            trigger,
            read,
            handed: Instant::now(),
        });
    }

    /// The engine has answered a request, which may have been a message.
    pub fn answered(&mut self, ticket: Ticket, answer: &Answer) {
        // Answers come nearly in order: it is the first one, or none at all, most of the time.
        let at = match self.pending.front() {
            None => return,
            Some(first) if first.ticket == ticket => 0,
            Some(_) => match self.pending.binary_search_by_key(&ticket, |it| it.ticket) {
                Ok(at) => at,
                Err(_) => return,
            },
        };
        let Some(accepted) = self.pending.remove(at) else {
            return;
        };
        let (id, ok) = match answer {
            Answer::Published(id) => (*id, true),
            // It has no identifier, and never will have one.
            _ => {
                let ms = u64::try_from(accepted.read.wall.as_millisecond()).unwrap_or_default();
                (
                    Ulid::from_parts(ms, u128::from(self.process) << 16 | u128::from(ticket.0)),
                    false,
                )
            }
        };
        if self.keeps(id) {
            accepted.log(id, ok);
        }
    }

    /// A message is about to be delivered. `None`, at no cost, unless its trace is kept.
    #[must_use]
    pub fn delivery(&self, id: Ulid) -> Option<Delivery> {
        self.keeps(id).then(|| Delivery {
            id,
            process: self.process,
            begun: Now::read(),
        })
    }
}

impl Accepted {
    fn log(&self, trace: Ulid, ok: bool) {
        let accepting = self.handed.saturating_duration_since(self.read.mono);
        let accept = Span {
            trace,
            id: root(trace),
            parent: None,
            name: "accept",
            begun: self.read.wall,
            lasted: accepting,
            ok: true,
            trigger: Some(self.trigger),
            deliveries: None,
        };
        accept.log();
        let engine = Span {
            id: hash(trace, 2),
            parent: Some(accept.id),
            name: "engine",
            begun: accept.begun + accepting,
            lasted: self.handed.elapsed(),
            ok,
            trigger: None,
            ..accept
        };
        engine.log();
    }
}

impl Delivery {
    /// It is in the outboxes of so many subscribers.
    pub fn end(self, deliveries: u64) {
        let span = Span {
            trace: self.id,
            id: hash(self.id, self.process | 4),
            parent: Some(root(self.id)),
            name: "deliver",
            begun: self.begun.wall,
            lasted: self.begun.mono.elapsed(),
            ok: true,
            trigger: None,
            deliveries: Some(deliveries),
        };
        span.log();
    }
}

impl Span {
    /// The record (R-LOG-6). A root has no `parentSpanId`.
    fn log(&self) {
        let parent = self.parent.map(|id| format!("{id:016x}"));
        info!(
            target: "app.span",
            // As a `Display`: of those the writer of JSON leaves the `r#` away.
            r#type = %"app.span",
            traceId = format_args!("{:032x}", self.trace.0),
            spanId = format_args!("{:016x}", self.id),
            parentSpanId = parent.as_deref(),
            spanName = self.name,
            status = if self.ok { "ok" } else { "error" },
            startEpochMs = self.begun.as_millisecond(),
            durationMs = self.lasted.as_secs_f64() * 1e3,
            trigger = self.trigger.map(Trigger::as_str),
            deliveries = self.deliveries,
        );
    }
}

/// The span of acceptance, which whoever delivers can name without having been told.
fn root(id: Ulid) -> u64 {
    hash(id, 1)
}

/// Identifiers of one millisecond differ by one: this spreads them evenly (the finaliser of SplitMix64, twice).
fn hash(id: Ulid, salt: u64) -> u64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (high, low) = ((id.0 >> 64) as u64, id.0 as u64);
    mix(low ^ mix(high.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn tracer(level: LogLevel, trace_sample_percent: usize) -> Tracer {
        let log = Settings::default().log;
        Tracer::new(&Log {
            level,
            trace_sample_percent,
            ..log
        })
    }

    fn kept(tracer: &Tracer) -> usize {
        let first = Ulid::from_parts(1_800_000_000_000, 0x1234_5678_9abc_def0);
        (0..100_000)
            .filter(|n| tracer.keeps(Ulid(first.0 + n)))
            .count()
    }

    /// R-LOG-7, R-LOG-8
    #[test]
    fn so_many_of_a_hundred_are_kept_all_of_them_or_none() {
        for (percent, least, most) in [
            (0, 0, 0),
            (1, 900, 1_100),
            (50, 49_500, 50_500),
            (100, 100_000, 100_000),
        ] {
            for level in [LogLevel::Info, LogLevel::Debug] {
                let count = kept(&tracer(level, percent));
                assert!((least..=most).contains(&count), "{percent} %: {count}");
            }
            for level in [LogLevel::Warn, LogLevel::Error] {
                assert_eq!(kept(&tracer(level, percent)), 0);
            }
        }
    }

    /// R-LOG-9: with nothing told between them.
    #[test]
    fn two_processes_keep_the_same_traces_and_give_their_own_spans_other_names() {
        let (one, other) = (tracer(LogLevel::Info, 10), tracer(LogLevel::Debug, 10));
        let first = Ulid::from_parts(1_800_000_000_000, 7);
        for id in (0..10_000).map(|n| Ulid(first.0 + n)) {
            assert_eq!(one.keeps(id), other.keeps(id));
        }
        assert_ne!(one.process, other.process);
        assert_ne!(hash(first, one.process | 4), hash(first, other.process | 4));
        assert_ne!(root(first), hash(first, 2));
    }

    #[test]
    fn what_the_engine_never_answers_is_bounded_and_off_means_off() {
        let mut tracer = tracer(LogLevel::Info, 100);
        let now = Now::read();
        for ticket in 0..2 * PENDING as u64 {
            tracer.accepted(now, Ticket(ticket), Trigger::ServerHttp);
        }
        assert_eq!(tracer.pending.len(), PENDING);
        tracer.answered(Ticket(0), &Answer::Done);
        assert_eq!(tracer.pending.len(), PENDING, "that one was given up");
        tracer.answered(Ticket(2 * PENDING as u64 - 1), &Answer::Unavailable("now"));
        assert_eq!(tracer.pending.len(), PENDING - 1);
        let off = Log {
            trace_sample_percent: 0,
            ..Settings::default().log
        };
        tracer.follow(&off);
        tracer.accepted(now, Ticket(99_999), Trigger::ServerHttp);
        assert!(tracer.pending.is_empty());
    }
}
