//! Brings events to the sinks: from the loop through a bounded queue to a thread, there onto disk, and from there to every
//! sink in its own time (R-EVT-11).
//!
//! The loop never waits. An event that finds the queue full is dropped and counted; that takes a disk that stalls for long.
//! On disk it waits until each sink has taken it, across restarts: a sink's place moves only after it has answered. So every
//! event arrives at least once, and twice only if a process ends between an answer and the note of it. Of two processes
//! only one has the spool, in turns ([`super::turn`]): in a swap the predecessor writes what it has, waits for what is under way, and lets
//! go.

use std::cell::RefCell;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info, warn};
use ulid::Ulid;

use super::Happening;
use super::batch::Next;
use super::cursor::Cursor;
use super::envelope::Labels;
use super::retry::Retry;
use super::sink::{NAMES, Target, Verdict};
use super::spool::{LONGEST, Place, Record, Spool};
use super::turn::Turn;
use crate::config::{Events, Settings};
use crate::metrics::{Dropped, EventMetrics};

/// Events that may wait for the thread.
const QUEUED: usize = 65_536;

/// Bytes of those, about.
const QUEUED_BYTES: usize = 64 << 20;

/// Events that are taken from the queue and written at once.
const TAKEN_AT_ONCE: usize = 512;

/// How long the end of a process waits for sinks that take events.
const LAST: Duration = Duration::from_secs(5);

/// How long a sink that is turned off, or whose process lets go, has for what is under way.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// How long a process that serves no more waits for its turn: those in front of it need [`UNDER_WAY`] each at most.
const TURN: Duration = Duration::from_secs(60);

/// How often another process's turn and a folder that can't be opened are looked at.
const AGAIN: Duration = Duration::from_millis(20);

/// How often the same complaint is logged.
const COMPLAIN: Duration = Duration::from_secs(60);

/// How long something may wait on disk before the disk is asked to keep it whatever happens to the machine.
const SYNC: Duration = Duration::from_secs(1);

/// The folder in the data directory.
pub const FOLDER: &str = "events";

/// The name under which events are counted that reach no sink at all.
const ALL: &str = "all";

/// What the thread follows.
#[derive(Debug, Clone)]
pub struct Config {
    events: Events,
    version: String,
    folder: PathBuf,
}

impl From<&Settings> for Config {
    fn from(settings: &Settings) -> Self {
        Self {
            events: settings.events.clone(),
            version: settings.compatibility_version.clone(),
            folder: settings.data_dir.join(FOLDER),
        }
    }
}

/// The loop's end of it.
pub struct Courier {
    config: Config,
    metrics: EventMetrics,
    serving: bool,
    line: Option<Line>,
    /// Threads that have been told to end.
    leaving: Vec<std_mpsc::Receiver<()>>,
    complaints: Complaints,
}

/// To a thread that runs. One queue for everything: whoever is turned on gets what happens from then on, and no less.
struct Line {
    messages: mpsc::UnboundedSender<Message>,
    waiting: Arc<Waiting>,
    /// Ends with the thread.
    ended: std_mpsc::Receiver<()>,
}

enum Message {
    Happened(Happening),
    Follow(Box<Config>),
    End(Ending),
}

/// What bounds the queue.
#[derive(Debug, Default)]
struct Waiting {
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.events.load(Ordering::Relaxed) >= QUEUED
            || self.bytes.load(Ordering::Relaxed) >= QUEUED_BYTES
    }

    fn add(&self, bytes: usize) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The process ends: what can be sent is sent.
    Stop,
    /// Another process goes on.
    LetGo,
}

impl Courier {
    /// Does nothing yet.
    #[must_use]
    pub fn new(config: Config, metrics: EventMetrics) -> Self {
        Self {
            config,
            metrics,
            serving: false,
            line: None,
            leaving: Vec::new(),
            complaints: Complaints::default(),
        }
    }

    /// This process serves from now on.
    pub fn begin(&mut self) {
        self.serving = true;
        self.start();
    }

    /// Follows other settings (R-EVT-4).
    pub fn follow(&mut self, config: Config) {
        self.config = config;
        match &self.line {
            Some(line) => drop(
                line.messages
                    .send(Message::Follow(self.config.clone().into())),
            ),
            None => self.start(),
        }
    }

    fn start(&mut self) {
        // Nobody was ever told: no thread, no folder.
        if !self.serving || self.line.is_some() || !self.config.events.any() {
            return;
        }
        let (messages, taken) = mpsc::unbounded_channel();
        let (end, ended) = std_mpsc::channel::<()>();
        let waiting = Arc::<Waiting>::default();
        let work = Work {
            // Here, since the next process begins after this one has begun. What fails is tried again by the thread.
            turn: take_turn(&self.config.folder).ok(),
            config: self.config.clone(),
            messages: taken,
            backlog: Vec::new(),
            waiting: waiting.clone(),
            metrics: self.metrics.clone(),
            complaints: Complaints::default(),
        };
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            work.run();
            drop(end);
        });
        match thread {
            Ok(_) => {
                self.line = Some(Line {
                    messages,
                    waiting,
                    ended,
                });
            }
            Err(error) => {
                error!(%error, "no thread for events: none are delivered until the settings are read again");
            }
        }
    }

    /// Something happened. Never waits.
    pub fn tell(&mut self, happening: Happening) {
        let Some(line) = &self.line else {
            return;
        };
        self.metrics.emitted(happening.type_name());
        if !line.waiting.is_full() {
            line.waiting.add(happening.weight());
            if line.messages.send(Message::Happened(happening)).is_ok() {
                return;
            }
        }
        self.metrics.dropped(ALL, Dropped::Queue, 1);
        if self.complaints.may(Instant::now()) {
            error!(
                folder = %self.config.folder.display(),
                "an event was dropped: too many wait to be written; is the disk too slow?"
            );
        }
    }

    /// Another process serves from now on, and takes the spool when this one is done with it. Does not wait.
    pub fn let_go(&mut self) {
        self.serving = false;
        self.end(Ending::LetGo);
    }

    fn end(&mut self, ending: Ending) {
        if let Some(line) = self.line.take() {
            drop(line.messages.send(Message::End(ending)));
            self.leaving.push(line.ended);
        }
    }

    /// The process ends: waits for a moment until sinks have what they can have.
    pub fn stop(&mut self) {
        self.end(Ending::Stop);
        let end = Instant::now() + LAST + UNDER_WAY;
        for ended in self.leaving.drain(..) {
            let left = end.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left) == Err(std_mpsc::RecvTimeoutError::Timeout) {
                warn!("events are still being delivered: the next process goes on with them");
            }
        }
    }
}

impl Happening {
    /// About how many bytes it holds.
    fn weight(&self) -> usize {
        let json =
            |json: &Option<crate::json::Json>| json.as_ref().map_or(0, |it| it.as_str().len());
        300 + match self {
            Self::Connection { connection, .. } => json(&connection.identity.umd),
            Self::Subscription { identity, .. } => json(&identity.umd),
            Self::Channel { .. } => 0,
            Self::Member { members, .. } => members.len() * 100,
            Self::Published(_, publish) => publish.data.as_str().len(),
            Self::Storage(change) => json(&change.value) + json(&change.previous),
            Self::Reaction { reacting, .. } => json(&reacting.umd),
        }
    }
}

/// Keeps the log from being filled by one trouble.
#[derive(Debug, Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn may(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now >= last + COMPLAIN);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

fn take_turn(folder: &Path) -> io::Result<Turn> {
    let mut made = DirBuilder::new();
    made.recursive(true).mode(0o700).create(folder)?;
    Turn::take(folder)
}

/// What the thread has from the loop.
struct Work {
    turn: Option<Turn>,
    config: Config,
    messages: mpsc::UnboundedReceiver<Message>,
    /// What came before the spool could be had.
    backlog: Vec<Message>,
    waiting: Arc<Waiting>,
    metrics: EventMetrics,
    complaints: Complaints,
}

/// What the thread and its tasks share.
struct Shared {
    state: RefCell<State>,
    /// There is more in the spool, or less to wait for.
    grown: Notify,
    /// A sink has taken something, or its task has ended.
    moved: Notify,
    metrics: EventMetrics,
}

struct State {
    spool: Spool,
    posts: Vec<Post>,
    last_post: u64,
}

/// A sink that is on, or about to be off.
struct Post {
    id: u64,
    target: Target,
    /// All before it has been taken.
    place: Place,
    cursor: Cursor,
    /// It has failed, and nothing is under way until it is tried again.
    resting: bool,
    /// It ends here.
    until: Option<Place>,
    /// It was turned off then.
    off: Option<Instant>,
    task: Option<JoinHandle<()>>,
}

/// What a sink does next.
enum Todo {
    Send(Vec<Record>),
    Wait,
    Pause(io::Error),
    End,
}

impl Work {
    fn run(mut self) {
        let runtime = loop {
            match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => break runtime,
                Err(error) => self.complain(&error, "events can't be delivered at the moment"),
            }
            thread::sleep(SYNC);
        };
        LocalSet::new().block_on(&runtime, self.work());
        // Something may be stuck in a write to standard output: it is not waited for.
        runtime.shutdown_background();
    }

    fn complain(&mut self, error: &io::Error, what: &str) {
        if self.complaints.may(Instant::now()) {
            error!(%error, folder = %self.config.folder.display(), "{what}");
        }
    }

    async fn work(mut self) {
        let Some(shared) = self.open().await else {
            return self.give_up();
        };
        self.follow(&shared);
        let mut tick = interval(SYNC);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = std::mem::take(&mut self.backlog);
        loop {
            if let Some(ending) = self.take(&shared, &mut taken) {
                return finish(&shared, ending).await;
            }
            let behind = shared.state.borrow().is_behind();
            tokio::select! {
                count = self.messages.recv_many(&mut taken, TAKEN_AT_ONCE) => {
                    if count == 0 {
                        return finish(&shared, Ending::Stop).await;
                    }
                }
                () = shared.moved.notified() => shared.tidy(),
                _ = tick.tick(), if behind => shared.tick(),
            }
        }
    }

    /// Does everything in the order in which it came.
    fn take(&mut self, shared: &Rc<Shared>, taken: &mut Vec<Message>) -> Option<Ending> {
        let mut happenings = Vec::with_capacity(taken.len());
        let mut end = None;
        for message in taken.drain(..) {
            match message {
                Message::Happened(happening) => happenings.push(happening),
                Message::Follow(config) => {
                    self.write(shared, &mut happenings);
                    self.config = *config;
                    self.follow(shared);
                }
                Message::End(ending) => end = Some(ending),
            }
        }
        self.write(shared, &mut happenings);
        end
    }

    /// Gets the spool, as soon as no other process has it and the disk allows. An order to end is obeyed afterwards; only if
    /// it can't be had for long, then without it.
    async fn open(&mut self) -> Option<Rc<Shared>> {
        let (mut told, mut closed, mut until) = (false, false, None::<Instant>);
        loop {
            match self.try_open() {
                Ok(Some(shared)) => return Some(shared),
                Ok(None) if !told => {
                    told = true;
                    info!("another process still has the events' spool: waiting for it");
                }
                Ok(None) => {}
                Err(error) => self.complain(
                    &error,
                    "the events' spool can't be opened: events wait in memory",
                ),
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return None;
            }
            tokio::select! {
                count = self.messages.recv_many(&mut self.backlog, TAKEN_AT_ONCE), if !closed => closed = count == 0,
                () = sleep(AGAIN) => {}
            }
            let patience = match self.backlog.last() {
                Some(Message::End(Ending::LetGo)) => TURN,
                Some(Message::End(Ending::Stop)) => LAST,
                _ if closed => LAST,
                _ => continue,
            };
            until.get_or_insert(Instant::now() + patience);
        }
    }

    fn try_open(&mut self) -> io::Result<Option<Rc<Shared>>> {
        let folder = &self.config.folder;
        let turn = match &self.turn {
            Some(turn) => turn,
            None => self.turn.insert(take_turn(folder)?),
        };
        if !turn.has_come()? {
            return Ok(None);
        }
        let places = NAMES
            .iter()
            .filter_map(|name| Cursor::peek(folder, name).map(|place| place.segment));
        let above = places.max().unwrap_or_default();
        let spool = Spool::open(folder, above, self.config.events.spool_bytes as u64)?;
        // Sinks that were turned off while nothing ran.
        let on = Target::all(&self.config.events);
        for name in NAMES {
            if !on.iter().any(|target| target.name() == name)
                && let Ok((cursor, Some(_))) = Cursor::open(folder, name)
            {
                cursor.remove()?;
            }
        }
        let shared = Shared {
            state: RefCell::new(State {
                spool,
                posts: Vec::new(),
                last_post: 0,
            }),
            grown: Notify::new(),
            moved: Notify::new(),
            metrics: self.metrics.clone(),
        };
        Ok(Some(Rc::new(shared)))
    }

    /// The spool could not be had.
    fn give_up(&mut self) {
        let happened = |message: &&Message| matches!(message, Message::Happened(_));
        let lost = self.backlog.iter().filter(happened).count() as u64;
        if lost > 0 {
            self.metrics.dropped(ALL, Dropped::Disk, lost);
            error!(lost, "events were lost: the spool could not be opened");
        }
    }

    /// Puts what happened into the spool.
    fn write(&mut self, shared: &Shared, taken: &mut Vec<Happening>) {
        let mut state = shared.state.borrow_mut();
        let wanted = state.posts.iter().any(|post| post.off.is_none());
        let mut events = Vec::with_capacity(taken.len());
        for happening in taken.drain(..) {
            self.waiting.remove(happening.weight());
            if !wanted {
                continue;
            }
            let envelope = happening.envelope(&self.config.version);
            if envelope.len() > LONGEST {
                self.metrics.dropped(ALL, Dropped::TooLarge, 1);
                error!(
                    r#type = happening.type_name(),
                    bytes = envelope.len(),
                    "an event was dropped: it is too large for any sink"
                );
                continue;
            }
            events.push((Ulid::generate(), envelope));
        }
        if events.is_empty() {
            return;
        }
        let written = state
            .spool
            .append(events.iter().map(|(id, envelope)| (*id, &**envelope)));
        if let Err(error) = written {
            self.metrics
                .dropped(ALL, Dropped::Disk, events.len() as u64);
            self.complain(&error, "events were dropped: the disk does not take them");
            return;
        }
        state.drop_excess(&self.metrics);
        self.metrics.spooled(state.spool.bytes());
        drop(state);
        shared.grown.notify_waiters();
    }

    /// Sinks as the settings want them.
    fn follow(&mut self, shared: &Rc<Shared>) {
        let mut state = shared.state.borrow_mut();
        state.spool.set_limit(self.config.events.spool_bytes as u64);
        let wanted = Target::all(&self.config.events);
        let end = state.spool.end();
        for post in &mut state.posts {
            if post.off.is_none() && !wanted.iter().any(|it| it.name() == post.target.name()) {
                info!(sink = post.target.name(), "a sink for events is off");
                (post.off, post.until) = (Some(Instant::now()), Some(end));
                if post.resting {
                    post.abort();
                }
            }
        }
        for target in wanted {
            let name = target.name();
            if let Some(post) = (state.posts.iter_mut()).find(|post| post.target.name() == name) {
                (post.off, post.until) = (None, None);
                if post.target == target && !post.is_over() {
                    continue;
                }
                post.abort();
                (post.target, post.resting) = (target, false);
            } else if let Err(error) = state.add(&self.config.folder, target) {
                self.complain(&error, "a sink can't be turned on: its place can't be kept");
                continue;
            }
            info!(sink = name, "a sink for events is on");
            if let Some(post) = (state.posts.iter_mut()).find(|post| post.target.name() == name) {
                let delivery = deliver(shared.clone(), post.id, post.target.clone());
                post.task = Some(spawn_local(delivery));
            }
        }
        drop(state);
        shared.grown.notify_waiters();
        shared.tidy();
    }
}

impl State {
    fn is_behind(&self) -> bool {
        let end = self.spool.end();
        self.posts.iter().any(|post| post.place < end)
    }

    fn post(&mut self, id: u64) -> Option<&mut Post> {
        self.posts.iter_mut().find(|post| post.id == id)
    }

    fn add(&mut self, folder: &Path, target: Target) -> io::Result<()> {
        let (mut cursor, place) = Cursor::open(folder, target.name())?;
        let place = place.unwrap_or(self.spool.end());
        cursor.set(place)?;
        self.last_post += 1;
        self.posts.push(Post {
            id: self.last_post,
            target,
            place,
            cursor,
            resting: false,
            until: None,
            off: None,
            task: None,
        });
        Ok(())
    }

    /// The spool has a limit: the oldest go, for whoever has not taken them. Whoever keeps up loses nothing.
    fn drop_excess(&mut self, metrics: &EventMetrics) {
        while let Some(oldest) = self.spool.excess() {
            let next = Place {
                segment: oldest + 1,
                offset: 0,
            };
            for post in &mut self.posts {
                if post.place < next {
                    let lost = self.spool.count(post.place, oldest);
                    post.move_to(next);
                    if lost > 0 {
                        let sink = post.target.name();
                        metrics.dropped(sink, Dropped::SpoolFull, lost);
                        error!(
                            sink,
                            lost, "the spool is full: the oldest events were dropped"
                        );
                    }
                }
            }
            if let Err(error) = self.spool.trim(next) {
                error!(%error, "a file of the events' spool can't be removed");
                return;
            }
        }
    }

    /// What comes next for a sink; what it will never take is left out.
    fn next(&mut self, id: u64, metrics: &EventMetrics) -> Todo {
        let Self { spool, posts, .. } = self;
        let Some(post) = posts.iter_mut().find(|post| post.id == id) else {
            return Todo::End;
        };
        let sink = post.target.name();
        let limits = post.target.limits();
        loop {
            if post.until.is_some_and(|until| post.place >= until) {
                return Todo::End;
            }
            let mut found = match spool.read(post.place, limits.events) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    metrics.dropped(sink, Dropped::Damaged, 1);
                    error!(sink, "a file of the events' spool has vanished");
                    let segment = post.place.segment + 1;
                    post.move_to(Place { segment, offset: 0 });
                    continue;
                }
                Err(error) => return Todo::Pause(error),
            };
            if found.damaged > 0 {
                // After a kill in the middle of a write: what it was is not known.
                metrics.dropped(sink, Dropped::Damaged, 1);
                let bytes = found.damaged;
                warn!(
                    sink,
                    bytes, "the end of a file of the events' spool is no event"
                );
            }
            if let Some(until) = post.until {
                found.records.retain(|record| record.end <= until);
            }
            if found.records.is_empty() {
                if post.place < found.place && post.until.is_none() {
                    post.move_to(found.place);
                }
                return match post.until {
                    Some(_) => Todo::End,
                    None => Todo::Wait,
                };
            }
            let sizes = found.records.iter().map(|record| post.target.size(record));
            match limits.next(sizes) {
                Next::TooLarge => {
                    let record = &found.records[0];
                    metrics.dropped(sink, Dropped::TooLarge, 1);
                    error!(
                        sink,
                        event = %record.id,
                        r#type = type_of(record),
                        bytes = post.target.size(record),
                        "an event was dropped: it is larger than the sink takes"
                    );
                    post.move_to(record.end);
                }
                Next::Send(count) => {
                    found.records.truncate(count);
                    return Todo::Send(found.records);
                }
            }
        }
    }
}

fn type_of(record: &Record) -> String {
    Labels::of(&record.envelope)
        .map(|labels| labels.r#type.into_owned())
        .unwrap_or_default()
}

impl Post {
    fn move_to(&mut self, place: Place) {
        self.place = self.place.max(place);
        if let Err(error) = self.cursor.set(self.place) {
            // Nothing is lost: after a restart some would be sent again.
            warn!(sink = self.target.name(), %error, "the place of a sink can't be kept");
        }
    }

    fn abort(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn is_over(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Shared {
    /// Sinks that are off and done go, and so do files that nobody needs.
    fn tidy(&self) {
        let mut state = self.state.borrow_mut();
        let State { spool, posts, .. } = &mut *state;
        for post in posts.extract_if(.., |post| post.off.is_some() && post.is_over()) {
            let sink = post.target.name();
            let left = spool.behind(post.place) - spool.behind(post.until.unwrap_or(post.place));
            if left > 0 {
                warn!(
                    sink,
                    bytes = left,
                    "a sink was turned off before it took everything"
                );
                self.metrics.dropped(sink, Dropped::TurnedOff, 1);
            }
            self.metrics.lag(sink, Duration::ZERO);
            if let Err(error) = post.cursor.remove() {
                warn!(sink, %error, "the place of a sink that is off can't be forgotten");
            }
        }
        let needed = posts.iter().map(|post| post.place).min();
        if let Err(error) = spool.trim(needed.unwrap_or(spool.end())) {
            warn!(%error, "a file of the events' spool can't be removed");
        }
        self.metrics.spooled(spool.bytes());
    }

    /// Once in a second while a sink is behind.
    fn tick(&self) {
        let mut state = self.state.borrow_mut();
        let State { spool, posts, .. } = &mut *state;
        let end = spool.end();
        let mut oldest = Duration::ZERO;
        for post in posts {
            let waiting = (post.place < end)
                .then(|| spool.read(post.place, 1).ok()?.records.pop())
                .flatten();
            let age = waiting.map_or(Duration::ZERO, |record| age(&record));
            self.metrics.lag(post.target.name(), age);
            oldest = oldest.max(age);
            if post.off.is_some_and(|since| since.elapsed() > UNDER_WAY) {
                post.abort();
            }
        }
        if oldest >= SYNC
            && let Err(error) = spool.sync()
        {
            warn!(%error, "the disk does not confirm the events' spool");
        }
        drop(state);
        self.tidy();
    }

    fn taken(&self, id: u64, end: Place) {
        let mut state = self.state.borrow_mut();
        let last = state.spool.end();
        if let Some(post) = state.post(id) {
            post.move_to(end);
            if post.place >= last {
                self.metrics.lag(post.target.name(), Duration::ZERO);
            }
        }
        self.moved.notify_one();
    }

    /// A sink has failed, and will be tried again; or not, since it is about to end.
    async fn rest(&self, id: u64, wait: Duration) -> bool {
        let rests = |resting| match self.state.borrow_mut().post(id) {
            Some(post) if post.until.is_none() => {
                post.resting = resting;
                true
            }
            _ => false,
        };
        if !rests(true) {
            return false;
        }
        self.moved.notify_one();
        sleep(wait).await;
        rests(false)
    }
}

fn age(record: &Record) -> Duration {
    let written: SystemTime = record.id.datetime();
    SystemTime::now()
        .duration_since(written)
        .unwrap_or_default()
}

/// Sends what comes, in order, as long as the sink is on. What fails is sent again, and nothing later before it.
async fn deliver(shared: Rc<Shared>, id: u64, target: Target) {
    let sink = target.open().await;
    let name = target.name();
    let mut trouble = Trouble::new(name);
    loop {
        let grown = shared.grown.notified();
        let todo = shared.state.borrow_mut().next(id, &shared.metrics);
        let mut rest = match todo {
            Todo::Send(records) => records,
            Todo::Wait => {
                grown.await;
                continue;
            }
            Todo::Pause(error) => {
                trouble.failed(&error.to_string());
                sleep(SYNC).await;
                continue;
            }
            Todo::End => break,
        };
        // Those that are done in front of all others.
        let Some(end) = rest.last().map(|record| record.end) else {
            continue;
        };
        let mut alone = false;
        while !rest.is_empty() {
            let count = if alone { 1 } else { rest.len() };
            let answer = sink.send(&rest[..count]).await;
            let Some(verdicts) = answer.verdicts(count) else {
                alone = true;
                continue;
            };
            let (mut again, mut taken, mut why) = (Vec::new(), 0, None);
            for (record, verdict) in rest.drain(..count).zip(verdicts) {
                match verdict {
                    Verdict::Taken => taken += 1,
                    Verdict::Later(reason) => {
                        again.push(record);
                        why = Some(reason);
                    }
                    Verdict::Never(why) => {
                        shared.metrics.dropped(name, Dropped::Refused, 1);
                        let (event, r#type) = (record.id, type_of(&record));
                        error!(sink = name, %event, r#type, why, "an event was dropped: the sink refuses it");
                    }
                }
            }
            shared.metrics.delivered(name, taken);
            rest.splice(..0, again);
            match why {
                None => trouble.worked(),
                Some(why) => {
                    shared.metrics.failed(name);
                    let wait = trouble.failed(&why);
                    if !shared.rest(id, wait).await {
                        return shared.moved.notify_one();
                    }
                }
            }
        }
        shared.taken(id, end);
    }
    shared.moved.notify_one();
}

/// A sink that fails, as operators are told.
struct Trouble {
    sink: &'static str,
    retry: Retry,
    since: Option<Instant>,
    complaints: Complaints,
}

impl Trouble {
    fn new(sink: &'static str) -> Self {
        Self {
            sink,
            retry: Retry::default(),
            since: None,
            complaints: Complaints::default(),
        }
    }

    fn failed(&mut self, why: &str) -> Duration {
        let now = Instant::now();
        self.since.get_or_insert(now);
        if self.complaints.may(now) {
            warn!(
                sink = self.sink,
                why, "events can't be delivered: they are kept, and sent again"
            );
        }
        self.retry.failed(rand::random())
    }

    fn worked(&mut self) {
        self.retry.worked();
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            info!(sink = self.sink, seconds, "events are delivered again");
            self.complaints = Complaints::default();
        }
    }
}

/// The end: sinks that work get what waits, or only what is under way if another process goes on with the rest.
async fn finish(shared: &Rc<Shared>, ending: Ending) {
    let (deadline, all) = match ending {
        Ending::Stop => (LAST, true),
        Ending::LetGo => (UNDER_WAY, false),
    };
    {
        let mut state = shared.state.borrow_mut();
        let end = state.spool.end();
        for post in &mut state.posts {
            post.until = Some(if all { end } else { post.place });
        }
    }
    shared.grown.notify_waiters();
    let deadline = tokio::time::Instant::now() + deadline;
    while shared.is_busy() {
        tokio::select! {
            () = shared.moved.notified() => {}
            () = sleep_until(deadline) => break,
        }
    }
    let mut state = shared.state.borrow_mut();
    state.posts.iter_mut().for_each(Post::abort);
    let end = state.spool.end();
    let behind = state.posts.iter().map(|post| post.place).min();
    let bytes = state.spool.behind(behind.unwrap_or(end));
    if bytes > 0 {
        if let Err(error) = state.spool.sync() {
            warn!(%error, "the disk does not confirm the events' spool");
        }
        if all {
            info!(bytes, "events wait on disk for the next start");
        }
    }
}

impl Shared {
    /// Does any sink still take something?
    fn is_busy(&self) -> bool {
        let state = self.state.borrow();
        state
            .posts
            .iter()
            .any(|post| !post.resting && !post.is_over())
    }
}
