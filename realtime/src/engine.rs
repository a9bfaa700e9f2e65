//! What all hosts of an installation agree on: order and identifiers of messages, who is present, how many subscribe,
//! which single-use token is spent, which publish is a copy; and what is kept: messages, reactions, storage, schedules.
//!
//! An engine knows channels, not connections: it does not assume that the subscribers of a channel are in this process.
//! The hub submits a [`Request`], and reads [`Outcome`]s in the one order in which they hold: an answer to a request of
//! this process ([`Outcome::Answer`]), or something that every process with subscribers must tell them
//! ([`Outcome::Message`], [`Outcome::Presence`], [`Outcome::Storage`], [`Outcome::Reaction`]). An answer may come later, in
//! a later turn of the loop; whoever asked is parked until then.
//!
//! There are two: [`embedded`] for one host, with a database file; [`cluster`] for several, with Redis or Valkey.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use self::cluster::{Cluster, Installation};
use crate::config::{Secret, Settings};
use crate::connection::{ConnectionId, Identity, Origin};
use crate::events::Happening;
use crate::json::Json;
use crate::metrics::{EngineMeter, Trigger};
use crate::presence::{Change, Member};
use crate::time::Now;

pub mod cluster;
pub mod embedded;
mod ids;
mod marks;
mod store;

pub use store::{Durability, Wake};

/// Copies of a publish within this time disappear (R-LIM-14).
pub const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(5 * 60);

/// A spent token is remembered for so long after its `exp`: the most leeway that a server can be given, so that no token
/// is accepted whose use has been forgotten (R-CLAIM-3, R-CLAIM-26).
pub const SPENT_MARGIN: Duration = Duration::from_secs(3600);

/// Messages or entries in one page, at most (R-HTTP-17, R-HTTP-44).
pub const PAGE_ITEMS: usize = 100;

/// Bytes of the messages or entries in one page, at most, unless one alone is larger (R-HTTP-17, R-HTTP-44). Counted as
/// 10^6, the smaller reading of "1 MB".
pub const PAGE_BYTES: usize = 1_000_000;

/// Bytes of storage that one subscription may be sent when it begins, at most: they all wait in its outbox.
pub const OBSERVED_BYTES: usize = 16 << 20;

/// Names a request to whoever waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// A single-use token that is to be spent.
#[derive(Debug, Clone)]
pub struct SingleUse {
    /// The token's `jti`.
    pub jti: Box<str>,
    /// The token's `exp`: so long its use must be remembered (R-CLAIM-26).
    pub until: Timestamp,
}

/// How something came to the server: kept with what is stored (R-HIST-10), told to the backends (R-EVT-27, R-EVT-28).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// By which door.
    pub trigger: Trigger,
    /// The client's connection.
    pub connection: Option<ConnectionId>,
    /// Address and agent of the client or backend.
    pub origin: Origin,
    /// Names the request that was accepted; a UUID.
    pub request_id: Box<str>,
}

/// A message on its way to a channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    /// The real name of the channel.
    pub channel: Arc<str>,
    /// The event's name.
    pub event: Box<str>,
    /// The payload.
    pub data: Json,
    /// Who sent it; `None` for a backend.
    pub meta: Option<Identity>,
    /// The connection that sent it, if it is not to receive its own copy.
    pub except: Option<ConnectionId>,
    /// A later message with the same identifier in the same channel is a copy (R-SRV-13).
    pub deduplication_id: Option<Box<str>>,
    /// How long it is kept: -1 for ever, 0 not at all, else seconds (R-HIST-1, R-HIST-2).
    pub store: i64,
    /// Backends are told of it (R-EVT-26).
    pub emit: bool,
    /// How it came; there whenever it is stored, emitted or scheduled.
    pub source: Option<Arc<Source>>,
}

/// A write to a channel's storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Write {
    /// The real name of the channel.
    pub channel: Arc<str>,
    /// Which entry.
    pub key: Box<str>,
    /// The value; `None` clears the entry (R-STOR-9).
    pub value: Option<Json>,
    /// The writer: user and metadata of a client, nobody for a backend (R-STOR-18).
    pub meta: Identity,
    /// How long the value is kept: -1 for ever, else seconds (R-STOR-20).
    pub store: i64,
    /// A later write with the same identifier in the same channel is a copy (R-SRV-16).
    pub deduplication_id: Option<Box<str>>,
    /// Backends are told of a change (R-STOR-31).
    pub emit: bool,
    /// How it came; there whenever it is emitted or scheduled.
    pub source: Option<Arc<Source>>,
}

/// A reaction to a stored message, put on or taken off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reacting {
    /// The real name of the channel.
    pub channel: Arc<str>,
    /// The message.
    pub message: Ulid,
    /// What is put on it.
    pub reaction: Box<str>,
    /// On, or off again.
    pub add: bool,
    /// Who reacts.
    pub uid: Arc<str>,
    /// Its metadata.
    pub umd: Option<Json>,
    /// The connection that reacts, if it is not to be told (R-REACT-11).
    pub except: Option<ConnectionId>,
    /// Backends are told of a change (R-REACT-16).
    pub emit: bool,
    /// How it came.
    pub source: Arc<Source>,
}

/// What is done at a later time (section 16 of the protocol).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Deferred {
    /// A message is sent.
    Publish(Publish),
    /// Storage is written.
    Write(Write),
}

impl Deferred {
    /// The channel it is for.
    #[must_use]
    pub fn channel(&self) -> &Arc<str> {
        match self {
            Self::Publish(publish) => &publish.channel,
            Self::Write(write) => &write.channel,
        }
    }
}

/// Which storage keys somebody may see. Asked by whatever thread reads them.
#[derive(Clone)]
pub struct Keys(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl Keys {
    /// Those that a function says.
    pub fn such_that(permits: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(permits))
    }

    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self::such_that(|_| true)
    }

    /// Is this one of them?
    #[must_use]
    pub fn permit(&self, key: &str) -> bool {
        (self.0)(key)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Which entries of a channel's storage are listed, in ascending byte order of the key (R-HTTP-44).
#[derive(Debug, Clone)]
pub enum Select {
    /// These, at most [`PAGE_ITEMS`] of them.
    Named(Vec<Box<str>>),
    /// Those after a key, or from the first one on.
    After(Option<Box<str>>),
}

/// A page of a channel's history. What has expired is not there.
#[derive(Debug, Clone)]
pub struct History {
    /// The real name of the channel.
    pub channel: Arc<str>,
    /// The start of what is visible, in Unix milliseconds, inclusive (R-HIST-5, R-HIST-6).
    pub since_ms: i64,
    /// Only messages of this event (R-DIFF-21).
    pub event: Option<Box<str>>,
    /// Only messages after this one; nothing if `reverse` (R-HTTP-14).
    pub after: Option<Ulid>,
    /// Only messages before this one; nothing unless `reverse` (R-HTTP-15).
    pub before: Option<Ulid>,
    /// Newest first (R-HTTP-13).
    pub reverse: bool,
}

/// What the hub asks for. Requests that concern one channel take effect in the order in which they were submitted, except
/// for [`Request::List`], [`Request::History`] and [`Request::Reactions`], which see at least what has been answered.
#[derive(Debug, Clone)]
pub enum Request {
    /// Spend a token. Answers: [`Answer::Done`], [`Answer::Spent`].
    Spend(SingleUse),
    /// Has a token been spent? Nothing changes. Answers: [`Answer::Done`], [`Answer::Spent`].
    Check(SingleUse),
    /// A subscription begins. Answers: [`Answer::Joined`], [`Answer::PresenceFull`], [`Answer::TooMuch`],
    /// [`Answer::Spent`]; in all but the first nothing was changed.
    Join {
        /// The real name of the channel.
        channel: Arc<str>,
        /// The subscribing connection: its own join is not announced to it.
        connection: ConnectionId,
        /// The entry in the member list of a presence channel.
        member: Option<Member>,
        /// Does it count (R-SUB-17)?
        counted: bool,
        /// The storage that it observes, if it observes any (R-STOR-25).
        observe: Option<Keys>,
        /// The single-use token that allowed it.
        spend: Option<SingleUse>,
    },
    /// A subscription ends. No answer.
    Leave {
        /// The real name of the channel.
        channel: Arc<str>,
        /// The connection that was subscribed.
        connection: ConnectionId,
        /// The user, in a presence channel.
        uid: Option<Arc<str>>,
        /// Was it counted?
        counted: bool,
    },
    /// A member's metadata changes. Answers: [`Answer::Done`], [`Answer::PresenceFull`], [`Answer::Spent`]; in the last two
    /// nothing was changed.
    Update {
        /// The real name of a presence channel.
        channel: Arc<str>,
        /// The user and the new value.
        member: Member,
        /// The single-use token that allowed it.
        spend: Option<SingleUse>,
    },
    /// A message. Answer: [`Answer::Published`].
    Publish(Publish),
    /// What is known about a channel. Answer: [`Answer::Described`].
    Describe {
        /// The real name of the channel.
        channel: Arc<str>,
    },
    /// Write storage. Answer: [`Answer::Done`], also for a copy or when nothing changes.
    Write(Write),
    /// Read one entry of storage. Answer: [`Answer::Entry`].
    Read {
        /// The real name of the channel.
        channel: Arc<str>,
        /// Which entry.
        key: Box<str>,
    },
    /// A page of a channel's storage. Answer: [`Answer::Entries`].
    List {
        /// The real name of the channel.
        channel: Arc<str>,
        /// Which of them.
        select: Select,
        /// Those that whoever asks may see; only they count for the page's bounds.
        permitted: Keys,
    },
    /// A page of messages. Answer: [`Answer::Messages`].
    History(History),
    /// The event of a stored message. Answer: [`Answer::Found`].
    Find {
        /// The real name of the channel.
        channel: Arc<str>,
        /// The message.
        message: Ulid,
    },
    /// Put a reaction on a message, or take it off. Answers: [`Answer::Done`], also when it changes nothing (R-REACT-9);
    /// [`Answer::NotFound`].
    React(Reacting),
    /// All reactions to a message. Answers: [`Answer::Reactions`], [`Answer::NotFound`].
    Reactions {
        /// The real name of the channel.
        channel: Arc<str>,
        /// The message.
        message: Ulid,
        /// It is not found if it is older: in Unix milliseconds.
        since_ms: i64,
    },
    /// Do something later. Answer: [`Answer::Scheduled`].
    Schedule {
        /// When; not before this, and a second later at most (R-SCHED-13).
        at: Timestamp,
        /// What.
        deferred: Deferred,
        /// The message's identifier is assigned now (R-SCHED-17).
        eager: bool,
    },
    /// What is planned under an identifier. Answers: [`Answer::Planned`], [`Answer::NotFound`].
    Planned(Ulid),
    /// Take back what is planned. Answers: [`Answer::Done`], [`Answer::NotFound`].
    Cancel(Ulid),
    /// Ask whichever process has a connection to carry out a call of the client HTTP API (R-HTTP-11). Answers:
    /// [`Answer::Called`], [`Answer::NotFound`] when no other process has it.
    Call {
        /// The connection.
        connection: ConnectionId,
        /// The call, in the hub's own form.
        call: Vec<u8>,
    },
    /// What came of a call that another process asked for ([`Outcome::Call`]). No answer.
    Return {
        /// Whose call.
        to: Caller,
        /// What is to be answered, in the hub's own form.
        answer: Vec<u8>,
    },
}

/// Where the answer to a call of another process goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The process.
    pub node: Box<str>,
    /// Its request.
    pub ticket: Ticket,
}

/// One entry of a channel's storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its key.
    pub key: Box<str>,
    /// Its value.
    pub value: Json,
    /// Who wrote it last.
    pub meta: Identity,
}

/// One stored message.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its identifier.
    pub id: Ulid,
    /// Its event.
    pub event: Box<str>,
    /// Its payload.
    pub data: Json,
    /// Who sent it: nobody for a backend.
    pub meta: Identity,
    /// Reactions to it, oldest first.
    pub reactions: Vec<Reaction>,
}

/// One reaction of one user to one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reaction {
    /// Its identifier (R-EVT-35).
    pub id: Ulid,
    /// What was put on the message.
    pub reaction: Box<str>,
    /// By whom.
    pub uid: Arc<str>,
    /// The user's metadata then.
    pub umd: Option<Json>,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It is done.
    Done,
    /// The single-use token was spent before (R-CLAIM-22).
    Spent,
    /// The member list would exceed its limit (R-PRES-17).
    PresenceFull,
    /// The storage that a subscription observes exceeds [`OBSERVED_BYTES`].
    TooMuch,
    /// The subscription exists.
    Joined {
        /// The members of a presence channel, the new one included.
        members: Option<Arc<[Member]>>,
        /// The entries that it observes, in ascending order of their keys (R-STOR-26).
        observed: Vec<Entry>,
    },
    /// The message was accepted under this identifier, or was a copy and got one that nobody will see (R-SRV-15).
    Published(Ulid),
    /// How many counted subscriptions there are, and the members of a presence channel.
    Described {
        /// Counted subscriptions.
        subscriptions: u64,
        /// Members, empty for an ordinary channel.
        members: Arc<[Member]>,
    },
    /// The entry, if there is one.
    Entry(Option<Entry>),
    /// A page of entries.
    Entries(Vec<Entry>),
    /// A page of messages.
    Messages(Vec<Stored>),
    /// The event of the message, if it is stored.
    Found(Option<Box<str>>),
    /// Reactions, oldest first.
    Reactions(Vec<Reaction>),
    /// It is planned, or was a copy.
    Scheduled {
        /// Names it.
        schedule: Ulid,
        /// The identifier that the message has, if it was asked for.
        message: Option<Ulid>,
    },
    /// What is planned.
    Planned {
        /// When.
        at: Timestamp,
        /// What.
        deferred: Box<Deferred>,
    },
    /// What came of a call.
    Called(Vec<u8>),
    /// There is no such thing.
    NotFound,
    /// The engine can't do this now, and has not done it; in a sentence for whoever asked. Nothing names what it is made of.
    Unavailable(&'static str),
}

/// What happened, in order.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The answer to a request of this process.
    Answer(Ticket, Answer),
    /// A message for all subscribers.
    Message(Ulid, Publish),
    /// A change of a member list, for all subscribers.
    Presence {
        /// The channel.
        channel: Arc<str>,
        /// What changed.
        change: Change,
        /// The list after the change.
        members: Arc<[Member]>,
        /// The connection that is not told, since its own `hotsock.subscribed` says it.
        except: Option<ConnectionId>,
    },
    /// A change of storage, for all subscribers who observe the key.
    Storage {
        /// The channel.
        channel: Arc<str>,
        /// Which entry.
        key: Box<str>,
        /// Its value; `None` if it was cleared.
        value: Option<Json>,
        /// Who wrote it.
        meta: Identity,
    },
    /// A reaction was put on a message or taken off, for all subscribers.
    Reaction {
        /// The identifier of this change.
        id: Ulid,
        /// Which one.
        reacting: Reacting,
    },
    /// Backends are to be told, by this process and no other.
    Tell(Happening),
    /// Another process asks for a call on a connection that may be one of this process's: whoever has it answers with
    /// [`Request::Return`].
    Call {
        /// Who asks.
        from: Caller,
        /// The connection.
        connection: ConnectionId,
        /// The call.
        call: Vec<u8>,
    },
}

/// How an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does everything.
    Well,
    /// It can't do some of it; why, for operators.
    Ill(String),
}

/// What the engine of one process remembers, for the next one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EngineState {
    pub(crate) last_id: u128,
    pub(crate) spent: Vec<(marks::Mark, Timestamp)>,
    pub(crate) seen: Vec<(marks::Mark, Timestamp)>,
    /// By channel: members in order.
    pub(crate) presence: Vec<(String, Vec<MemberState>)>,
    /// What else an engine has to say to its successor, in its own form.
    #[serde(with = "serde_bytes")]
    pub(crate) more: Vec<u8>,
}

/// A user and its metadata as JSON text, on their way.
pub(crate) type MemberState = (String, Option<String>);

/// The engine that the settings ask for. `wake` is called, by any thread, when [`Engine::turn`] has something to do.
///
/// # Errors
/// What is kept can't be opened, or there is no such engine; the message says what to do.
pub fn open(
    settings: &Settings,
    meter: EngineMeter,
    wake: Wake,
) -> anyhow::Result<Box<dyn Engine>> {
    let own = &settings.engine;
    let read = |path: &Option<PathBuf>, what: &str| {
        let read = path.as_ref().map(|path| {
            let read = std::fs::read_to_string(path);
            let read = read.with_context(|| format!("{what}: {} can't be read", path.display()))?;
            anyhow::Ok(read.trim_end_matches(['\r', '\n']).to_owned())
        });
        read.transpose()
    };
    let from_file = read(&own.url_file, "engine.url_file")?;
    let url = from_file.as_deref().unwrap_or_else(|| own.url.expose());
    match url.split_once("://").map_or(url, |(scheme, _)| scheme) {
        "" | "sqlite" => {
            let durability = settings.engine.durability;
            let engine = embedded::Embedded::open(&settings.data_dir, durability, meter, wake)?;
            Ok(Box::new(engine))
        }
        _ if cluster::address::Address::is_one(url) => {
            let mut installation = Installation::new(url, &own.prefix, own.ca_file.as_deref())
                .context("engine.url")?;
            if let Some(password) = read(&own.password_file, "engine.password_file")? {
                installation.address.password = Some(Secret::new(password));
            }
            Ok(Box::new(Cluster::open(installation, meter, wake)?))
        }
        // Not the URL itself: it may hold a password.
        scheme => {
            anyhow::bail!(
                "engine.url: `{scheme}` is no engine; leave it blank, or set `sqlite`, or `redis://host:port`"
            )
        }
    }
}

/// What a hub needs of an engine.
pub trait Engine {
    /// Takes a request; what comes of it is read with [`Engine::next_outcome`].
    fn submit(&mut self, now: Now, request: Request) -> Ticket;

    /// Whether every message may be refused, plain ones included, and whatever is submitted takes effect in that order, also
    /// over several channels: that of an engine elsewhere. Otherwise a plain message is certain.
    fn is_elsewhere(&self) -> bool;

    /// What happened next, if anything did.
    fn next_outcome(&mut self) -> Option<Outcome>;

    /// Takes what other threads have finished, and does what is due. Called once in every turn of the loop, which is woken
    /// when there is something.
    fn turn(&mut self, now: Now);

    /// When [`Engine::turn`] has something to do, if nothing else happens.
    fn next_due(&self) -> Option<Timestamp>;

    /// Backends are told of what happens from now on, or not.
    fn tell(&mut self, on: bool);

    /// Whether every request has been answered.
    fn is_settled(&self) -> bool;

    /// Waits until every request has been answered, but not longer than that; whether they have been. The outcomes are read
    /// as always.
    fn settle(&mut self, now: Now, within: Duration) -> bool;

    /// How it is.
    fn health(&self) -> Health;

    /// Its name, for operators.
    fn name(&self) -> &'static str;

    /// This process serves from now on, and no other did before: what was kept is read.
    ///
    /// # Errors
    /// What is kept can't be read.
    fn begin(&mut self, now: Now) -> anyhow::Result<()>;

    /// What must not be forgotten when another process goes on.
    fn export(&self, now: Now) -> EngineState;

    /// This process serves from now on, instead of the one that exported this. Members are in their order, and nobody
    /// holds them yet.
    fn import(&mut self, now: Now, state: EngineState);

    /// A subscription that has come with its connection: it exists, and nobody is told.
    fn adopt(
        &mut self,
        channel: &Arc<str>,
        connection: ConnectionId,
        uid: Option<Arc<str>>,
        umd: Option<&Json>,
        counted: bool,
    );

    /// Everything that came has been adopted: expected members whom nobody holds have left.
    fn adopted(&mut self, now: Now);

    /// Another process serves: nothing is held any more, and nothing is done unasked.
    fn release(&mut self);
}
