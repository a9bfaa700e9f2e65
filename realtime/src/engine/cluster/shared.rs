//! What the loop's thread and the link's thread have in common: requests one way, outcomes the other, both bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use serde::{Deserialize, Serialize};

use super::channel::Held;
use crate::connection::ConnectionId;
use crate::engine::{Health, Outcome, Publish, Reacting, Request, Ticket, Wake, Write};
use crate::json::Json;
use crate::metrics::EngineMeter;
use crate::presence::{Change, Member};

/// Requests that may wait for the link. More than the link can have on its way, and few enough to be answered within a
/// second or two; further ones are refused.
const REQUESTS: usize = 16_384;

/// Outcomes that may wait for the loop before the link reads on. Until then the server keeps the rest, and if that becomes
/// too much for it, the log of each channel does.
const OUTCOMES: usize = 16_384;

/// The two queues.
pub struct Shared {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    changed: Condvar,
    /// Wakes the link.
    link: Arc<Waker>,
    /// Wakes the loop.
    hub: Wake,
    /// What is counted.
    pub meter: EngineMeter,
    /// Backends are told.
    pub told: AtomicBool,
}

/// Requests in order; with each the time, if the server's clock does not count.
pub type Requests = VecDeque<(Ticket, Option<i64>, Request)>;

#[derive(Default)]
struct Inbox {
    requests: Requests,
    orders: VecDeque<Order>,
}

struct Outbox {
    outcomes: VecDeque<Outcome>,
    /// Requests of which it is not known what came.
    unsettled: usize,
    /// The last [`Order::Quiet`] since which nothing is done unasked.
    quiet: u64,
    health: Health,
    due: Option<u64>,
    /// What came of the first attempt to reach the server.
    began: Option<Result<(), String>>,
}

/// What the link is told to do, at once and before any request.
#[derive(Debug)]
pub enum Order {
    /// Serve.
    Begin,
    /// Serve, instead of another process.
    Adopt(Box<Adoption>),
    /// It is that time, in milliseconds.
    Clock(i64),
    /// Look after things once, now.
    Tend,
    /// Do nothing unasked until [`Order::Go`].
    ///
    /// The number is said back once that is so.
    Quiet(u64),
    /// Say what you know, and stand still until [`Order::Go`].
    Export(SyncSender<Snapshot>),
    /// Go on.
    Go,
    /// End, and leave everything as it is: another process goes on, or nobody does.
    Stop,
    /// End, and take leave of the other hosts if nothing is held any more.
    Quit,
}

/// What is held of each user, or of nobody in particular, with the user's metadata.
pub type Users = HashMap<Option<Arc<str>>, (Held, Option<Json>)>;

/// What a process knows that serves from now on instead of another.
#[derive(Debug, Default)]
pub struct Adoption {
    /// What the other one said; `None`: it died before.
    pub snapshot: Option<Snapshot>,
    /// The subscriptions that have come, by channel and user, with the user's metadata.
    pub adopted: HashMap<Arc<str>, Users>,
}

/// What the link of one process says to the next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its node.
    pub node: String,
    /// The process that acted for the node.
    pub process: String,
    /// It does not know what came of everything: the next one says anew what is held.
    pub uncertain: bool,
    /// Channels with subscribers.
    pub channels: Vec<ChannelState>,
    /// What the hub has not seen yet.
    pub undelivered: Vec<Undelivered>,
}

/// A channel, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelState {
    /// Its name.
    pub name: Arc<str>,
    /// The last announcement that was processed.
    pub position: Option<u64>,
    /// Its members.
    pub members: Vec<Member>,
    /// What is held, by user.
    pub held: Vec<(Option<Arc<str>>, Held)>,
}

/// An outcome that the hub has not seen yet, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Undelivered {
    /// [`Outcome::Message`].
    Message(ulid::Ulid, Publish),
    /// [`Outcome::Presence`].
    Presence {
        /// The channel.
        channel: Arc<str>,
        /// -1 removed, 0 updated, 1 added.
        change: i8,
        /// The member.
        member: Member,
        /// The list after it.
        members: Vec<Member>,
        /// Who is not told.
        except: Option<ConnectionId>,
    },
    /// [`Outcome::Storage`].
    Storage(Box<Write>),
    /// [`Outcome::Reaction`].
    Reaction(ulid::Ulid, Box<Reacting>),
}

impl Undelivered {
    /// As it travels; `None` for what only this process can use.
    pub fn of(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Message(id, publish) => Self::Message(id, publish),
            Outcome::Presence {
                channel,
                change,
                members,
                except,
            } => {
                let (change, member) = match change {
                    Change::Removed(member) => (-1, member),
                    Change::Updated(member) => (0, member),
                    Change::Added(member) => (1, member),
                };
                Self::Presence {
                    channel,
                    change,
                    member,
                    members: members.to_vec(),
                    except,
                }
            }
            Outcome::Storage {
                channel,
                key,
                value,
                meta,
            } => Self::Storage(Box::new(Write {
                channel,
                key,
                value,
                meta,
                store: -1,
                deduplication_id: None,
                emit: false,
                source: None,
            })),
            Outcome::Reaction { id, reacting } => Self::Reaction(id, Box::new(reacting)),
            Outcome::Answer(..) | Outcome::Tell(_) | Outcome::Call { .. } => return None,
        })
    }

    /// For the hub.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Message(id, publish) => Outcome::Message(id, publish),
            Self::Presence {
                channel,
                change,
                member,
                members,
                except,
            } => Outcome::Presence {
                channel,
                change: match change {
                    -1 => Change::Removed(member),
                    0 => Change::Updated(member),
                    _ => Change::Added(member),
                },
                members: members.into(),
                except,
            },
            Self::Storage(write) => {
                let Write {
                    channel,
                    key,
                    value,
                    meta,
                    ..
                } = *write;
                Outcome::Storage {
                    channel,
                    key,
                    value,
                    meta,
                }
            }
            Self::Reaction(id, reacting) => Outcome::Reaction {
                id,
                reacting: *reacting,
            },
        }
    }
}

impl Shared {
    /// With the wakers of both threads.
    pub fn new(link: Arc<Waker>, hub: Wake, meter: EngineMeter) -> Self {
        Self {
            inbox: Mutex::default(),
            outbox: Mutex::new(Outbox {
                outcomes: VecDeque::new(),
                unsettled: 0,
                quiet: 0,
                health: Health::Ill("not yet connected".into()),
                due: None,
                began: None,
            }),
            changed: Condvar::new(),
            link,
            hub,
            meter,
            told: AtomicBool::new(false),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nobody leaves a queue half changed, whatever panics.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to the link. False: too many wait. That a subscription ends is always taken; there are no more of
    /// those than there were subscriptions.
    pub fn request(&self, ticket: Ticket, given: Option<i64>, request: Request) -> bool {
        // Before the link can have it, and say what came of it.
        self.outbox().unsettled += 1;
        let mut inbox = self.inbox();
        if inbox.requests.len() >= REQUESTS && !matches!(request, Request::Leave { .. }) {
            drop(inbox);
            self.outbox().unsettled -= 1;
            return false;
        }
        let first = inbox.requests.is_empty();
        inbox.requests.push_back((ticket, given, request));
        drop(inbox);
        self.meter.queue.inc();
        if first {
            self.wake_link();
        }
        true
    }

    /// Tells the link what to do.
    pub fn order(&self, order: Order) {
        self.inbox().orders.push_back(order);
        self.wake_link();
    }

    fn wake_link(&self) {
        if let Err(error) = self.link.wake() {
            tracing::error!(%error, "the thread that talks to the other hosts can't be woken");
        }
    }

    /// The next order.
    pub fn next_order(&self) -> Option<Order> {
        self.inbox().orders.pop_front()
    }

    /// Requests that have come, some at most.
    pub fn requests(&self, most: usize) -> Requests {
        let mut inbox = self.inbox();
        if inbox.requests.len() <= most {
            return std::mem::take(&mut inbox.requests);
        }
        inbox.requests.drain(..most).collect()
    }

    /// Do requests wait?
    pub fn has_requests(&self) -> bool {
        !self.inbox().requests.is_empty()
    }

    /// Can the loop take more?
    pub fn has_room(&self) -> bool {
        self.outbox().outcomes.len() < OUTCOMES
    }

    /// Hands outcomes to the loop, and says how many requests are settled.
    pub fn deliver(&self, outcomes: &mut Vec<Outcome>, settled: usize) {
        if outcomes.is_empty() && settled == 0 {
            return;
        }
        let mut outbox = self.outbox();
        let wake = outbox.outcomes.is_empty() && !outcomes.is_empty();
        outbox.outcomes.extend(outcomes.drain(..));
        outbox.unsettled = outbox.unsettled.saturating_sub(settled);
        self.meter
            .queue
            .set(i64::try_from(outbox.unsettled).unwrap_or(i64::MAX));
        drop(outbox);
        self.changed.notify_all();
        if wake {
            (self.hub)();
        }
    }

    /// Takes all outcomes.
    pub fn outcomes(&self) -> VecDeque<Outcome> {
        std::mem::take(&mut self.outbox().outcomes)
    }

    /// Outcomes that the loop has not taken, which stay there.
    pub fn undelivered(&self) -> Vec<Outcome> {
        self.outbox().outcomes.iter().cloned().collect()
    }

    /// It is known what came of every request.
    pub fn is_settled(&self) -> bool {
        self.outbox().unsettled == 0
    }

    /// Waits until nothing is on its way; whether that is so.
    pub fn settle(&self, quiet: u64, within: Duration) -> bool {
        self.wait(within, |outbox| {
            (outbox.unsettled == 0 && outbox.quiet == quiet).then_some(())
        })
        .is_some()
    }

    /// Nothing is done unasked any more.
    pub fn set_quiet(&self, quiet: u64) {
        self.outbox().quiet = quiet;
        self.changed.notify_all();
    }

    /// When the next schedule is due, in milliseconds, as far as is known.
    pub fn due(&self) -> Option<u64> {
        self.outbox().due
    }

    /// The next schedule is due then.
    pub fn set_due(&self, due: Option<u64>) {
        self.outbox().due = due;
    }

    /// How the link is.
    pub fn health(&self) -> Health {
        self.outbox().health.clone()
    }

    /// The link is so.
    pub fn set_health(&self, health: Health) {
        self.outbox().health = health;
    }

    /// The first attempt has ended like this.
    pub fn began(&self, verdict: Result<(), String>) {
        let mut outbox = self.outbox();
        if outbox.began.is_none() {
            outbox.began = Some(verdict);
        }
        drop(outbox);
        self.changed.notify_all();
    }

    /// Waits for what comes of the first attempt.
    pub fn wait_for_begin(&self, within: Duration) -> Option<Result<(), String>> {
        self.wait(within, |outbox| outbox.began.clone())
    }

    /// Are backends told?
    pub fn tells(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn wait<T>(&self, within: Duration, done: impl Fn(&Outbox) -> Option<T>) -> Option<T> {
        let until = Instant::now() + within;
        let mut outbox = self.outbox();
        loop {
            if let Some(found) = done(&outbox) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            outbox = (self.changed.wait_timeout(outbox, left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
