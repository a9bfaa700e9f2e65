//! Clients that keep asking while hosts swap.
//!
//! Three kinds, on every host at once, each a closed loop (a client sends its next request only after the last answer):
//!
//! - *kept*: connections that stay open from request to request, as a load balancer's do;
//! - *fresh*: a new connection for every request (`Connection: close`);
//! - *slow*: a kept connection on `/slow`, so that a request is in flight at any moment, also when traffic moves.
//!
//! Every client follows a fixed timetable; one that was held up catches up, so the rate holds over the whole run.
//! Nothing is retried after a byte of the request was sent: what a strict client would notice is counted as failed.

mod client;

use crate::http::tally::{Answer, Failure, Tally, version_in};
use client::{Connection, Page};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

/// One host's front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Instance id.
    pub instance: String,
    /// Where its proxy listens.
    pub address: SocketAddr,
}

/// How much to ask of whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The hosts.
    pub targets: Vec<Target>,
    /// Requests to `/` a second, over all hosts.
    pub rate: f64,
    /// Kept connections per host.
    pub kept: usize,
    /// Clients per host that open a connection for each request.
    pub fresh: usize,
    /// Milliseconds that the slow page takes; `None` leaves the slow client out.
    pub slow_ms: Option<u64>,
    /// For one request, from connecting to the last byte.
    pub timeout: Duration,
}

impl Plan {
    /// `rate` requests a second on `targets`: eight kept connections and two fresh clients on each, and a slow one.
    pub fn new(targets: Vec<Target>, rate: f64) -> Self {
        Self {
            targets,
            rate,
            kept: 8,
            fresh: 2,
            slow_ms: Some(400),
            timeout: Duration::from_secs(5),
        }
    }
}

/// A running load. Dropping it ends the clients without counting what they saw.
pub struct Load {
    started: Instant,
    stop: CancellationToken,
    clients: JoinSet<Tally>,
    hosts: usize,
    /// Good answers so far, per host: what a caller may wait for.
    answers: Arc<Vec<AtomicU64>>,
}

/// What every client of a load shares.
#[derive(Clone)]
struct Shared {
    started: Instant,
    stop: CancellationToken,
    hosts: usize,
    timeout: Duration,
    answers: Arc<Vec<AtomicU64>>,
}

impl Load {
    /// Starts the clients; must be called within a tokio runtime.
    pub fn start(plan: &Plan) -> Self {
        let hosts = plan.targets.len();
        let shared = Shared {
            started: Instant::now(),
            stop: CancellationToken::new(),
            hosts,
            timeout: plan.timeout,
            answers: Arc::new((0..hosts).map(|_| AtomicU64::new(0)).collect()),
        };
        let paced = (plan.kept + plan.fresh) * hosts;
        let period = Duration::from_secs_f64(paced as f64 / plan.rate.max(0.001));
        let mut clients = JoinSet::new();
        for (host, target) in plan.targets.iter().enumerate() {
            for n in 0..plan.kept + plan.fresh {
                // Spread over one period, so that clients do not ask in step.
                let seat = host * (plan.kept + plan.fresh) + n;
                let first = shared.started + period.mul_f64(seat as f64 / paced as f64);
                let page = if n < plan.kept {
                    Page::Root
                } else {
                    Page::RootThenClose
                };
                clients.spawn(keep_asking(
                    shared.clone(),
                    host,
                    target.clone(),
                    page,
                    first,
                    period,
                ));
            }
            if let Some(ms) = plan.slow_ms {
                // Back to back: the timetable is tighter than the page.
                let period = Duration::from_millis(ms / 2).max(Duration::from_millis(1));
                clients.spawn(keep_asking(
                    shared.clone(),
                    host,
                    target.clone(),
                    Page::Slow(ms),
                    shared.started,
                    period,
                ));
            }
        }
        Self {
            started: shared.started,
            stop: shared.stop,
            clients,
            hosts,
            answers: shared.answers,
        }
    }

    /// Time since the load began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The smallest number of good answers that any host has given so far.
    pub fn fewest_answers(&self) -> u64 {
        self.answers
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .min()
            .unwrap_or(0)
    }

    /// Lets requests in flight end, and adds up what all clients saw and how long the load ran.
    pub async fn finish(mut self) -> (Tally, Duration) {
        let ran = self.started.elapsed();
        self.stop.cancel();
        let mut all = Tally::new(self.hosts);
        while let Some(client) = self.clients.join_next().await {
            match client {
                Ok(tally) => all.merge(tally),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        (all, ran)
    }
}

/// One client: asks for `page` by its timetable until it is told to stop.
async fn keep_asking(
    shared: Shared,
    host: usize,
    target: Target,
    page: Page,
    first: Instant,
    period: Duration,
) -> Tally {
    let mut tally = Tally::new(shared.hosts);
    let mut timetable = interval_at(first, period);
    // A slow page is asked again at once but never in a burst; the others make up for lost time.
    timetable.set_missed_tick_behavior(match page {
        Page::Slow(_) => MissedTickBehavior::Delay,
        Page::Root | Page::RootThenClose => MissedTickBehavior::Burst,
    });
    let mut kept: Option<Connection> = None;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return tally,
            _ = timetable.tick() => {}
        }
        let began = Instant::now();
        let limit = match page {
            Page::Slow(ms) => shared.timeout + Duration::from_millis(ms),
            Page::Root | Page::RootThenClose => shared.timeout,
        };
        let asked = client::ask(
            &mut kept,
            target.address,
            page,
            began + limit,
            &mut tally.reconnects,
        );
        let result = asked.await.and_then(|body| answer(page, &body));
        if result.is_ok() && !matches!(page, Page::Slow(_)) {
            shared.answers[host].fetch_add(1, Ordering::Relaxed);
        }
        tally.record(
            host,
            &target.instance,
            shared.started.elapsed(),
            began.elapsed(),
            result,
        );
    }
}

fn answer(page: Page, body: &str) -> Result<Answer, Failure> {
    match page {
        Page::Slow(_) => Ok(Answer::Slow),
        Page::Root | Page::RootThenClose => {
            version_in(body)
                .map(Answer::Version)
                .ok_or_else(|| Failure {
                    kind: crate::http::tally::FailureKind::Garbled,
                    what: format!(
                        "no version in {:?}",
                        body.chars().take(60).collect::<String>()
                    ),
                })
        }
    }
}

/// Asks `target` `times` times for `/`, each time on a new connection, and returns what it said.
pub async fn poll(
    target: &Target,
    times: usize,
    timeout: Duration,
) -> Vec<Result<String, Failure>> {
    let mut said = Vec::with_capacity(times);
    for _ in 0..times {
        let deadline = Instant::now() + timeout;
        let body = client::ask(
            &mut None,
            target.address,
            Page::RootThenClose,
            deadline,
            &mut 0,
        )
        .await;
        said.push(
            match body.and_then(|body| answer(Page::RootThenClose, &body)) {
                Ok(Answer::Version(version)) => Ok(version),
                Ok(Answer::Slow) => Ok(String::new()),
                Err(failure) => Err(failure),
            },
        );
    }
    said
}
