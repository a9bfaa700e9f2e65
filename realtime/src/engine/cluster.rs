//! The engine of several hosts: what they agree on is in one Redis or Valkey, through which they also hear of each other
//! (decision 0017).
//!
//! [`Cluster`] is the loop's side: it queues requests and takes outcomes. Everything else is done by one thread, the
//! [`link`], over one connection.

pub mod address;
mod channel;
mod event;
mod link;
mod op;
mod reply;
mod scripts;
mod shared;
mod wire;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use mio::{Poll, Waker};

use self::address::{Address, Place, Tls};
use self::link::{Link, WAKE};
use self::shared::{Adoption, Order, Shared, Snapshot, Undelivered};
use super::{Answer, Engine, EngineState, Health, Outcome, Request, Ticket, Wake};
use crate::connection::ConnectionId;
use crate::json::Json;
use crate::metrics::EngineMeter;
use crate::time::Now;

/// How long the start waits for the server: nobody is connected yet. Without an answer this process starts all the same,
/// and says that it is ill until there is one.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How long the link has to say what it knows when another process takes over.
const EXPORT: Duration = Duration::from_secs(1);

/// What several hosts share.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where the server is.
    pub address: Address,
    /// How to make sure that it is the right one.
    pub tls: Option<Tls>,
    /// With what every key begins, so that several installations can share one server.
    pub prefix: String,
    /// Whose clock counts.
    pub clock: Clock,
}

/// Whose clock says what has expired and what is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The server's: it is one for all hosts.
    #[default]
    Server,
    /// That of whoever calls the engine, so that a test can let time pass.
    Caller,
}

impl Installation {
    /// From what operators write.
    ///
    /// # Errors
    /// What is wrong, without the password.
    pub fn new(url: &str, prefix: &str, authorities: Option<&Path>) -> anyhow::Result<Self> {
        let address = Address::parse(url)?;
        let tls = match &address.place {
            Place::Tcp(host, _) if address.tls => Some(Tls::new(host, authorities)?),
            _ => None,
        };
        Ok(Self {
            address,
            tls,
            prefix: prefix.to_owned(),
            clock: Clock::Server,
        })
    }
}

/// The engine of one of several processes.
pub struct Cluster {
    installation: Installation,
    meter: EngineMeter,
    wake: Wake,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    last_ticket: u64,
    outcomes: VecDeque<Outcome>,
    importing: Option<Adoption>,
    serves: bool,
    /// The link was told to do nothing unasked, or to stand still.
    stands: bool,
    settlings: u64,
}

impl Cluster {
    /// An engine that does nothing yet. Its outcomes wake the loop.
    ///
    /// # Errors
    /// The system has no more threads or descriptors.
    pub fn open(
        installation: Installation,
        meter: EngineMeter,
        wake: Wake,
    ) -> anyhow::Result<Self> {
        let (shared, thread) = start(&installation, &meter, &wake)?;
        Ok(Self {
            installation,
            meter,
            wake,
            shared,
            thread: Some(thread),
            last_ticket: 0,
            outcomes: VecDeque::new(),
            importing: None,
            serves: false,
            stands: false,
            settlings: 0,
        })
    }

    fn go_on(&mut self) {
        if std::mem::take(&mut self.stands) {
            self.shared.order(Order::Go);
        }
    }

    /// What time it is, if that is for the caller to say.
    fn given(&self, now: Now) -> Option<i64> {
        (self.installation.clock == Clock::Caller).then(|| now.wall.as_millisecond())
    }

    fn set_clock(&self, now: Now) {
        if let Some(ms) = self.given(now) {
            self.shared.order(Order::Clock(ms));
        }
    }
}

/// Starts the thread that talks to the other hosts; it waits to be told to begin.
fn start(
    installation: &Installation,
    meter: &EngineMeter,
    wake: &Wake,
) -> anyhow::Result<(Arc<Shared>, JoinHandle<()>)> {
    let poll = Poll::new().context("nothing can be awaited")?;
    // A poll has one waker: the thread that looks names up shares the one of the queue.
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let shared = Arc::new(Shared::new(waker.clone(), wake.clone(), meter.clone()));
    let link = Link::new(poll, shared.clone(), waker, installation.clone());
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || link.run())
        .context("the thread that talks to the other hosts can't be started")?;
    Ok((shared, thread))
}

impl Engine for Cluster {
    fn submit(&mut self, now: Now, request: Request) -> Ticket {
        self.go_on();
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        if self.thread.is_none() {
            return ticket;
        }
        let answered = !matches!(request, Request::Leave { .. } | Request::Return { .. });
        if !self.shared.request(ticket, self.given(now), request) && answered {
            const BUSY: &str = "The server has more to do than it can. Try again in a moment.";
            self.outcomes
                .push_back(Outcome::Answer(ticket, Answer::Unavailable(BUSY)));
        }
        ticket
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn next_outcome(&mut self) -> Option<Outcome> {
        if self.importing.is_some() {
            return None;
        }
        if self.outcomes.is_empty() {
            self.outcomes = self.shared.outcomes();
        }
        self.outcomes.pop_front()
    }

    fn turn(&mut self, now: Now) {
        self.go_on();
        if self.serves && self.installation.clock == Clock::Caller {
            self.set_clock(now);
            self.shared.order(Order::Tend);
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        // The link does what is due by itself, and wakes the loop.
        let asked = self.serves && self.installation.clock == Clock::Caller;
        let due = self.shared.due().filter(|_| asked)?;
        Timestamp::from_millisecond(i64::try_from(due).ok()?).ok()
    }

    fn tell(&mut self, on: bool) {
        self.shared.told.store(on, Ordering::Relaxed);
    }

    fn is_settled(&self) -> bool {
        self.thread.is_none() || self.shared.is_settled()
    }

    fn settle(&mut self, _now: Now, within: Duration) -> bool {
        if self.thread.is_none() {
            return true;
        }
        self.stands = true;
        self.settlings += 1;
        self.shared.order(Order::Quiet(self.settlings));
        self.shared.settle(self.settlings, within)
    }

    fn health(&self) -> Health {
        match &self.thread {
            Some(thread) if thread.is_finished() => Health::Ill(
                "the thread that talks to the other hosts has ended; restart this process".into(),
            ),
            _ => self.shared.health(),
        }
    }

    fn name(&self) -> &'static str {
        "cluster"
    }

    fn begin(&mut self, now: Now) -> anyhow::Result<()> {
        self.serves = true;
        self.set_clock(now);
        self.shared.order(Order::Begin);
        match self.shared.wait_for_begin(FIRST_ANSWER) {
            Some(Err(why)) => bail!("the server that joins the hosts can't be used: {why}"),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn export(&self, _now: Now) -> EngineState {
        let (send, receive) = sync_channel(1);
        self.shared.order(Order::Export(send));
        let snapshot = receive.recv_timeout(EXPORT).map(|mut snapshot| {
            // What the hub has not seen stands before what the link says.
            let waiting = self.outcomes.iter().cloned();
            let undelivered = waiting.chain(self.shared.undelivered());
            snapshot.undelivered = undelivered.filter_map(Undelivered::of).collect();
            snapshot
        });
        let more = match snapshot {
            Ok(snapshot) => serde_json::to_vec(&snapshot).unwrap_or_default(),
            Err(_) => {
                tracing::error!(
                    "the link does not say what it knows: the next process starts from what Redis knows"
                );
                Vec::new()
            }
        };
        EngineState {
            more,
            ..EngineState::default()
        }
    }

    fn import(&mut self, _now: Now, state: EngineState) {
        if self.thread.is_none() {
            // It has served before, and serves again.
            match start(&self.installation, &self.meter, &self.wake) {
                Ok((shared, thread)) => (self.shared, self.thread) = (shared, Some(thread)),
                Err(error) => tracing::error!(%error, "the other hosts are out of reach"),
            }
        }
        let mut snapshot: Option<Snapshot> = match &state.more[..] {
            [] => None,
            more => serde_json::from_slice(more)
                .inspect_err(|error| tracing::error!(%error, "what the predecessor knew of the other hosts can't be read"))
                .ok(),
        };
        if let Some(snapshot) = &mut snapshot {
            let undelivered = std::mem::take(&mut snapshot.undelivered);
            self.outcomes
                .extend(undelivered.into_iter().map(Undelivered::outcome));
        }
        self.importing = Some(Adoption {
            snapshot,
            ..Adoption::default()
        });
    }

    fn adopt(
        &mut self,
        channel: &Arc<str>,
        _connection: ConnectionId,
        uid: Option<Arc<str>>,
        umd: Option<&Json>,
        counted: bool,
    ) {
        let adoption = self.importing.get_or_insert_default();
        let users = adoption.adopted.entry(channel.clone()).or_default();
        let (held, metadata) = users.entry(uid).or_default();
        held.subscriptions += 1;
        held.counted += usize::from(counted);
        *metadata = umd.cloned();
    }

    fn adopted(&mut self, now: Now) {
        self.serves = true;
        self.set_clock(now);
        let adoption = self.importing.take().unwrap_or_default();
        self.shared.order(Order::Adopt(Box::new(adoption)));
    }

    fn release(&mut self) {
        self.shared.order(Order::Stop);
        self.outcomes.clear();
        (self.serves, self.stands) = (false, false);
        // It ends by itself; nobody waits for it.
        drop(self.thread.take());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.order(Order::Quit);
        if let Some(thread) = self.thread.take() {
            // A panic was logged when it happened.
            let _ = thread.join();
        }
    }
}
