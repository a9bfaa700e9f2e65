//! The thread that talks to the other hosts through Redis: one connection, on which commands go one way, and answers and
//! announcements come the other way in the one order in which Redis executed everything.
//!
//! Its life is a sequence of phases. After every connection the same is done: subscribe, say who one is ([`Phase::Resuming`],
//! or [`Phase::Registering`] under a new name), read what was missed ([`Phase::Catching`]), answer and send what the break had
//! left open, and then serve ([`Phase::Up`]). The first start and a handover are that, too.

mod answers;
mod pushes;
mod recovery;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Events, Poll, Token, Waker};
use tracing::{debug, error, warn};

use super::Installation;
use super::address::Place;
use super::channel::Channel;
use super::op::{Op, number, text};
use super::reply::{Fields, Garbled, failure, pack};
use super::scripts::Script;
use super::shared::{Order, Requests, Shared, Snapshot};
use super::wire::Wire;
use crate::engine::{Answer, Health, Outcome, Request, Ticket};

/// The link is woken.
pub const WAKE: Token = Token(0);
const WIRE: Token = Token(1);

/// What may be on its way at once. Redis remembers what came of the last 1,024 operations of a node.
const ON_THEIR_WAY: usize = 512;

/// The weight of what may be on its way at once, see [`Op::weight`]: far from the 32 MB at which Redis by default ends a
/// connection that subscribes and does not read.
const WEIGHT: usize = 8;

/// How often this node shows that it lives, and looks after what all share.
const TEND: Duration = Duration::from_millis(500);

/// How long it counts as living without showing it.
const LEASE: Duration = Duration::from_secs(9);

/// If no node at all has shown that it lives for so long, it was Redis that was away.
const NOBODY: Duration = Duration::from_millis(2500);

/// Steps of looking after things in one go: a script that takes long delays everybody.
const STEPS: usize = 100;

/// How long requests wait for a broken connection to come back before they are refused.
const GRACE: Duration = Duration::from_secs(2);

/// How long anything may take until an answer comes, and the connection counts as dead.
const STALL: Duration = Duration::from_secs(5);

/// How long another process has to answer a call.
const CALL: Duration = Duration::from_secs(2);

/// How long after a failure a member may be missing in Redis until this node believes that it is gone: the other nodes have
/// to say again whom they have.
const DOUBT: Duration = Duration::from_secs(5);

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Said to whoever asks while Redis is out of reach.
const AWAY: &str = "The server can't reach its other parts right now. Try again in a moment.";

/// Said when Redis refuses.
const REFUSED: &str = "The server could not do this right now. Try again in a moment.";

/// The thread's state.
pub struct Link {
    shared: Arc<Shared>,
    installation: Installation,
    poll: Poll,
    resolved: Arc<Waker>,
    wire: Option<Wire>,
    phase: Phase,
    since: Instant,
    /// Commands that wait for an answer, in order.
    expected: VecDeque<(Instant, Expect)>,
    digests: Vec<Bytes>,
    /// Which node this is, and under which name it acts.
    node: String,
    process: String,
    predecessor: String,
    acting: u64,
    registered: bool,
    replaces: String,
    /// The dead node whose subscriptions were ended last.
    reaping: String,
    sequence: u64,
    /// To be sent before anything else.
    redo: VecDeque<Op>,
    /// Ends of subscriptions that were refused, to be tried again.
    later: Vec<Op>,
    /// It is known from Redis what came of them.
    known: Vec<(Op, Vec<Bytes>)>,
    requests: Requests,
    channels: HashMap<Arc<str>, Channel>,
    /// Channels whose missed announcements are still to be read.
    missed: VecDeque<Arc<str>>,
    gaps: usize,
    calls: HashMap<Ticket, Instant>,
    outcomes: Vec<Outcome>,
    settled: usize,
    flying: usize,
    weight: usize,
    /// Nothing further is sent until a subscription in several steps has begun.
    barrier: bool,
    tend_at: Option<Instant>,
    fire_at: Option<Instant>,
    firing: bool,
    tending: bool,
    /// What time it is, if not what Redis says.
    given: Option<i64>,
    /// It is to look after things once, now.
    asked: bool,
    doubts: BTreeMap<Instant, Vec<Arc<str>>>,
    quiet: Option<u64>,
    paused: bool,
    down_since: Option<Instant>,
    given_up: bool,
    attempts: u32,
    address: usize,
    said_down: bool,
    last_error: Option<Instant>,
}

/// Where the link stands.
enum Phase {
    /// Nothing is to be done yet.
    Idle,
    /// There is no connection until then.
    Off(Instant),
    /// The name is being looked up, by a thread of its own: the system's functions for it wait.
    Resolving(Receiver<io::Result<Vec<SocketAddr>>>),
    /// Waits for the connection.
    Connecting,
    /// Logs in, and loads the scripts.
    Greeting,
    /// Says that it is back.
    Resuming,
    /// Says under a new name what it holds.
    Registering,
    /// Reads what it missed.
    Catching,
    /// Serves.
    Up,
    /// Has lost its name; waits for the last answers before it takes a new one.
    Lost,
}

/// What a command that was sent is to be answered with.
enum Expect {
    Hello,
    Select,
    Info,
    Load,
    Resume(Vec<usize>),
    Register { last: bool },
    CatchUp(Vec<Arc<str>>),
    Op(Box<Op>),
    Call(Ticket),
    Return,
    Tend,
    Fire,
}

impl Link {
    /// A link that waits to be told to begin.
    pub fn new(
        poll: Poll,
        shared: Arc<Shared>,
        resolved: Arc<Waker>,
        installation: Installation,
    ) -> Self {
        Self {
            shared,
            installation,
            poll,
            resolved,
            wire: None,
            phase: Phase::Idle,
            since: Instant::now(),
            expected: VecDeque::new(),
            digests: Vec::new(),
            node: unique(),
            process: unique(),
            predecessor: String::new(),
            acting: 1,
            registered: false,
            replaces: String::new(),
            reaping: String::new(),
            sequence: 0,
            redo: VecDeque::new(),
            later: Vec::new(),
            known: Vec::new(),
            requests: VecDeque::new(),
            channels: HashMap::new(),
            missed: VecDeque::new(),
            gaps: 0,
            calls: HashMap::new(),
            outcomes: Vec::new(),
            settled: 0,
            flying: 0,
            weight: 0,
            barrier: false,
            tend_at: None,
            fire_at: None,
            firing: false,
            tending: false,
            given: None,
            asked: false,
            doubts: BTreeMap::new(),
            quiet: None,
            paused: false,
            down_since: None,
            given_up: false,
            attempts: 0,
            address: 0,
            said_down: false,
            last_error: None,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(8);
        loop {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    error!(%error, "nothing can be awaited: this host is cut off from the others");
                    self.shared.set_health(Health::Ill(error.to_string()));
                    return;
                }
            }
            let mut writable = false;
            for event in &events {
                if event.token() == WIRE {
                    writable |= event.is_writable() || event.is_error();
                    if let Some(wire) = &mut self.wire
                        && (event.is_readable() || event.is_read_closed() || event.is_error())
                    {
                        wire.arrived();
                    }
                }
            }
            let now = Instant::now();
            if self.obey(now) {
                return;
            }
            if self.paused {
                continue;
            }
            if matches!(self.phase, Phase::Idle) {
                self.asked = false;
            }
            if writable && matches!(self.phase, Phase::Connecting) {
                self.establish(now);
            }
            self.read(now);
            self.pass_time(now);
            self.work(now);
            self.write(now);
            self.shared.deliver(&mut self.outcomes, self.settled);
            self.settled = 0;
            self.quieten();
        }
    }

    /// Does what it is told. True: it is to end.
    fn obey(&mut self, now: Instant) -> bool {
        while let Some(order) = self.shared.next_order() {
            match order {
                Order::Begin => self.connect_at(now),
                Order::Adopt(adoption) => {
                    self.adopt(*adoption);
                    self.connect_at(now);
                }
                Order::Clock(ms) => self.given = Some(ms),
                Order::Tend => self.asked = true,
                Order::Quiet(number) => self.quiet = Some(number),
                Order::Export(to) => {
                    self.shared.deliver(&mut self.outcomes, self.settled);
                    self.settled = 0;
                    self.paused = true;
                    // Whoever asked may have given up waiting.
                    let _ = to.try_send(self.snapshot());
                }
                Order::Go => {
                    self.quiet = None;
                    self.paused = false;
                }
                Order::Quit if self.is_up() && self.channels.is_empty() && !self.paused => {
                    self.take_leave(now);
                    return true;
                }
                Order::Stop | Order::Quit => {
                    if let Some(wire) = self.wire.take() {
                        wire.close(self.poll.registry());
                    }
                    return true;
                }
            }
        }
        false
    }

    /// Nothing is held: the others need not find out by themselves that this node is gone.
    fn take_leave(&mut self, now: Instant) {
        let leases = self.key("leases");
        let remembered = self.key(&format!("q:{}", self.node));
        let acting = self.key(&format!("i:{}", self.node));
        self.notify(vec![text("DEL"), acting.into(), remembered.into()]);
        self.notify(vec![text("ZREM"), leases.into(), text(&self.node)]);
        self.write(now);
        if let Some(wire) = self.wire.take() {
            wire.close(self.poll.registry());
        }
    }

    /// Unasked: not if another process is about to take over, nor if somebody else says what time it is.
    fn looks_after_things(&self) -> bool {
        self.asked || self.quiet.is_none() && self.given.is_none()
    }

    fn quieten(&self) {
        if let Some(number) = self.quiet
            && !self.tending
            && !self.firing
            && !self.asked
        {
            self.shared.set_quiet(number);
        }
    }

    fn connect_at(&mut self, at: Instant) {
        self.down_since.get_or_insert(at);
        self.enter(Phase::Off(at), at);
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up)
    }

    /// How long nothing has to be done.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.paused {
            return None;
        }
        if self.wire.as_ref().is_some_and(Wire::is_readable) {
            // The loop has too much to do to take more.
            return Some(Duration::from_millis(if self.shared.has_room() {
                0
            } else {
                2
            }));
        }
        let mut due: Option<Instant> = None;
        let mut add = |at: Instant| due = Some(due.map_or(at, |due| due.min(at)));
        match &self.phase {
            Phase::Idle => return None,
            Phase::Off(at) => add(*at),
            Phase::Resolving(_) | Phase::Connecting | Phase::Greeting => add(self.since + STALL),
            Phase::Up if self.looks_after_things() => {
                let tend = self.tend_at.filter(|_| !self.tending);
                let fire = self.fire_at.filter(|_| !self.firing);
                let doubt = self.doubts.keys().next().copied();
                [tend, fire, doubt].into_iter().flatten().for_each(&mut add);
            }
            _ => {}
        }
        if let Some((at, _)) = self.expected.front() {
            add(*at + STALL);
        }
        if let Some(since) = self.down_since
            && !self.given_up
        {
            add(since + GRACE);
        }
        self.calls.values().for_each(|at| add(*at));
        due.map(|due| due.saturating_duration_since(now) + Duration::from_micros(100))
    }

    /// Does what is due.
    fn pass_time(&mut self, now: Instant) {
        match &self.phase {
            Phase::Off(at) if *at <= now => self.resolve(now),
            Phase::Resolving(answer) => match answer.try_recv() {
                Ok(Ok(addresses)) => self.connect(now, &addresses),
                Ok(Err(error)) => {
                    self.fail(now, &format!("its name can't be looked up: {error}"), false);
                }
                Err(TryRecvError::Empty) if now < self.since + STALL => {}
                Err(_) => self.fail(now, "its name can't be looked up in time", false),
            },
            Phase::Connecting | Phase::Greeting if now >= self.since + STALL => {
                self.fail(now, "it does not answer", false);
            }
            _ => {}
        }
        // What has come and could not be read yet counts as an answer.
        let unread = self.wire.as_ref().is_some_and(Wire::is_readable);
        if let Some((at, _)) = self.expected.front()
            && now >= *at + STALL
            && !unread
        {
            self.fail(now, "it has not answered for 5 s", false);
        }
        if let Some(since) = self.down_since
            && !self.given_up
            && now >= since + GRACE
        {
            self.give_up();
        }
        let late: Vec<_> = (self.calls.iter())
            .filter(|(_, at)| **at <= now)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in late {
            self.calls.remove(&ticket);
            self.answer(Some(ticket), Answer::NotFound);
        }
        if self.is_up() && self.asked {
            (self.tend_at, self.fire_at) = (Some(now), Some(now));
        }
        if self.is_up() && self.looks_after_things() {
            if !self.tending && self.tend_at.is_none_or(|at| at <= now) {
                self.tending = true;
                let arguments = vec![
                    number(LEASE.as_millis()),
                    number(NOBODY.as_millis()),
                    number(STEPS),
                ];
                self.script(now, Script::Tend, 0, arguments, Expect::Tend);
            }
            if !self.firing && self.fire_at.is_some_and(|at| at <= now) {
                self.firing = true;
                self.script(now, Script::Fire, 0, Vec::new(), Expect::Fire);
            }
            self.asked = false;
            while let Some(due) = self.doubts.first_entry().filter(|due| *due.key() <= now) {
                for channel in due.remove() {
                    self.doubt(now, channel);
                }
            }
        }
    }

    /// Looks the name up, or connects at once where there is none.
    fn resolve(&mut self, now: Instant) {
        let (host, port) = match &self.installation.address.place {
            Place::Tcp(host, port) => (host.clone(), *port),
            Place::Unix(path) => {
                match Wire::unix(self.poll.registry(), WIRE, path) {
                    Ok(wire) => {
                        self.wire = Some(wire);
                        self.enter(Phase::Connecting, now);
                        self.establish(now);
                    }
                    Err(error) => self.fail(now, &error.to_string(), false),
                }
                return;
            }
        };
        if let Ok(ip) = host.parse() {
            return self.connect(now, &[SocketAddr::new(ip, port)]);
        }
        let (send, receive) = channel();
        let waker = self.resolved.clone();
        let looked_up = std::thread::Builder::new()
            .name("engine-names".into())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                // The link may have ended, or given up waiting.
                let _: Result<(), mpsc::SendError<_>> = send.send(found.map(Iterator::collect));
                let _ = waker.wake();
            });
        match looked_up {
            Ok(_) => self.enter(Phase::Resolving(receive), now),
            Err(error) => self.fail(now, &error.to_string(), false),
        }
    }

    fn connect(&mut self, now: Instant, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            return self.fail(now, "its name has no address", false);
        }
        let address = addresses[self.address % addresses.len()];
        self.address = self.address.wrapping_add(1);
        let tls = self.installation.tls.as_ref();
        match Wire::tcp(self.poll.registry(), WIRE, address, tls) {
            Ok(wire) => {
                self.wire = Some(wire);
                self.enter(Phase::Connecting, now);
            }
            Err(error) => self.fail(now, &error.to_string(), false),
        }
    }

    fn establish(&mut self, now: Instant) {
        match self.wire.as_mut().map(Wire::established) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => self.greet(now),
            Some(Err(error)) => self.fail(now, &error.to_string(), false),
        }
    }

    fn greet(&mut self, now: Instant) {
        self.enter(Phase::Greeting, now);
        let address = self.installation.address.clone();
        let mut hello = vec![text("HELLO"), text("3")];
        if let Some(password) = &address.password {
            let user = address.user.as_deref().unwrap_or("default");
            hello.extend([text("AUTH"), text(user), text(password.expose())]);
        }
        hello.extend([text("SETNAME"), text(&format!("realtime-{}", self.process))]);
        self.command(now, hello, Expect::Hello);
        if address.database != 0 {
            let select = vec![text("SELECT"), number(address.database)];
            self.command(now, select, Expect::Select);
        }
        self.command(now, vec![text("INFO")], Expect::Info);
        self.digests.clear();
        for (_, script) in Script::ALL {
            let load = vec![text("SCRIPT"), text("LOAD"), text(script)];
            self.command(now, load, Expect::Load);
        }
    }

    fn command(&mut self, now: Instant, arguments: Vec<Bytes>, expect: Expect) {
        if let Some(wire) = &mut self.wire {
            wire.send(arguments);
            self.expected.push_back((now, expect));
        }
    }

    /// Sends something that is answered by announcements only.
    fn notify(&mut self, arguments: Vec<Bytes>) {
        if let Some(wire) = &mut self.wire {
            wire.send(arguments);
        }
    }

    fn script(
        &mut self,
        now: Instant,
        script: Script,
        sequence: u64,
        own: Vec<Bytes>,
        expect: Expect,
    ) {
        let Some(digest) = self.digests.get(script as usize).cloned() else {
            return self.fail(now, "its scripts are not loaded", false);
        };
        let bits = || number(rand::random::<u64>() >> 24);
        let mut arguments = vec![
            Bytes::from_static(b"EVALSHA"),
            digest,
            Bytes::from_static(b"0"),
            text(&self.installation.prefix),
            text(&self.node),
            text(&self.acting_as()),
            number(sequence),
            bits(),
            bits(),
            self.told_and_time(),
        ];
        arguments.extend(own);
        self.command(now, arguments, expect);
    }

    fn told_and_time(&self) -> Bytes {
        let told = u8::from(self.shared.tells());
        match self.given {
            None => number(told),
            Some(ms) => format!("{told}{ms}").into(),
        }
    }

    fn acting_as(&self) -> String {
        format!("{}#{}", self.process, self.acting)
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.installation.prefix)
    }

    /// Sends what waits, as far as there is room.
    fn work(&mut self, now: Instant) {
        if self.given_up && !self.is_up() {
            return self.refuse();
        }
        if !self.is_up() {
            return;
        }
        while !self.barrier && self.flying < ON_THEIR_WAY && self.is_up() {
            if let Some(op) = self.redo.pop_front() {
                if self.has_room_for(&op) {
                    self.send(now, op);
                    continue;
                }
                self.redo.push_front(op);
                return;
            }
            if self.requests.is_empty() {
                self.requests = self.shared.requests(ON_THEIR_WAY);
            }
            let Some((ticket, given, request)) = self.requests.pop_front() else {
                return;
            };
            self.given = given;
            match request {
                Request::Call { connection, call } => {
                    let number = ticket.0.to_string();
                    let body = pack(&[
                        self.process.as_bytes(),
                        number.as_bytes(),
                        connection.as_str().as_bytes(),
                        &call,
                    ]);
                    let publish = vec![text("PUBLISH"), self.key("calls").into(), body.into()];
                    self.calls.insert(ticket, now + CALL);
                    self.command(now, publish, Expect::Call(ticket));
                }
                Request::Return { to, answer } => {
                    let body = pack(&[to.ticket.0.to_string().as_bytes(), &answer]);
                    let inbox = self.key(&format!("returns:{}", to.node));
                    let publish = vec![text("PUBLISH"), inbox.into(), body.into()];
                    self.command(now, publish, Expect::Return);
                }
                request => {
                    let op = Op::new(ticket, request);
                    if self.has_room_for(&op) {
                        self.send(now, op);
                    } else {
                        self.redo.push_front(op);
                        return;
                    }
                }
            }
        }
    }

    fn has_room_for(&self, op: &Op) -> bool {
        self.weight == 0 || self.weight + op.weight() <= WEIGHT
    }

    /// Sends a request's next step.
    fn send(&mut self, now: Instant, mut op: Op) {
        let mut listed = false;
        if let Some((name, member)) = op.joins() {
            let name = name.clone();
            let presence = member.is_some();
            let channel = self.channels.entry(name.clone()).or_default();
            let new = channel.subscriptions == 0 && !op.entered;
            listed = presence && (channel.position.is_none() || !channel.live);
            if !op.entered {
                channel.subscriptions += 1;
                op.entered = true;
            }
            if new {
                let subscribe = vec![text("SUBSCRIBE"), self.key(&format!("e:{name}")).into()];
                self.notify(subscribe);
            }
        }
        let Some((script, arguments)) = op.step(listed) else {
            return self.finish(op, Answer::Unavailable(REFUSED));
        };
        let sequence = match op.changes() {
            true => {
                self.sequence += 1;
                op.sequence = Some(self.sequence);
                self.sequence
            }
            false => 0,
        };
        self.flying += 1;
        self.weight += op.weight();
        self.script(now, script, sequence, arguments, Expect::Op(Box::new(op)));
    }

    /// A request has come to its end.
    fn finish(&mut self, op: Op, answer: Answer) {
        if op.abandoned {
            return;
        }
        self.settled += usize::from(op.ticket.is_some());
        if let Some(ticket) = op.ticket
            && !op.releases()
        {
            self.outcomes.push(Outcome::Answer(ticket, answer));
        }
    }

    fn answer(&mut self, ticket: Option<Ticket>, answer: Answer) {
        if let Some(ticket) = ticket {
            self.settled += 1;
            self.outcomes.push(Outcome::Answer(ticket, answer));
        }
    }

    /// A subscription that was on its way, or existed, is none any more.
    fn left(&mut self, name: &Arc<str>, subscriptions: usize) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        channel.subscriptions = channel.subscriptions.saturating_sub(subscriptions);
        if channel.subscriptions == 0 {
            self.channels.remove(name);
            let unsubscribe = vec![text("UNSUBSCRIBE"), self.key(&format!("e:{name}")).into()];
            self.notify(unsubscribe);
        }
    }

    /// Everything that can be read, as far as the loop can take it.
    fn read(&mut self, now: Instant) {
        while self.wire.as_ref().is_some_and(Wire::is_readable) && self.shared.has_room() {
            if let Some(Err(error)) = self.wire.as_mut().map(Wire::fill) {
                // What came before the end still counts.
                self.take_in(now);
                return self.fail(now, &error.to_string(), false);
            }
            if !self.take_in(now) {
                return;
            }
            if self.outcomes.len() > 4096 {
                self.shared.deliver(&mut self.outcomes, self.settled);
                self.settled = 0;
            }
        }
    }

    /// False: the connection has gone.
    fn take_in(&mut self, now: Instant) -> bool {
        loop {
            match self.wire.as_mut().map(Wire::next) {
                None => return false,
                Some(Ok(None)) => return true,
                Some(Ok(Some(frame))) => self.came(now, frame),
                Some(Err(error)) => {
                    self.fail(now, &error.to_string(), false);
                    return false;
                }
            }
        }
    }

    fn write(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Connecting) {
            return;
        }
        if let Some(Err(error)) = self.wire.as_mut().map(Wire::flush) {
            self.fail(now, &error.to_string(), false);
        }
    }

    /// The connection can't be used, or there is none: another attempt follows. `wrong`: it is not a matter of time.
    fn fail(&mut self, now: Instant, why: &str, wrong: bool) {
        if let Some(wire) = self.wire.take() {
            wire.close(self.poll.registry());
        }
        let mut unanswered = VecDeque::new();
        for (_, expect) in std::mem::take(&mut self.expected) {
            match expect {
                Expect::Op(op) => unanswered.push_back(*op),
                Expect::Call(ticket) if self.calls.remove(&ticket).is_some() => {
                    self.answer(Some(ticket), Answer::NotFound);
                }
                Expect::Return => self.settled += 1,
                _ => {}
            }
        }
        unanswered.append(&mut self.redo);
        self.redo = unanswered;
        self.flying = 0;
        self.weight = 0;
        self.barrier = false;
        self.tending = false;
        self.firing = false;
        self.missed.clear();
        self.channels.values_mut().for_each(|it| it.live = false);
        self.down_since.get_or_insert(now);
        let place = &self.installation.address.place;
        self.shared
            .set_health(Health::Ill(format!("{place} is out of reach: {why}")));
        if !std::mem::replace(&mut self.said_down, true) {
            warn!(
                engine = %place, error = why,
                "the other hosts are out of reach: connections stay, what needs the others is refused until this heals"
            );
        } else {
            debug!(engine = %place, error = why, "the other hosts are still out of reach");
        }
        if wrong {
            self.shared.began(Err(format!("{place}: {why}")));
        }
        // A hundredth of a second at first, and not all hosts at once.
        let pause = Duration::from_millis(10 << self.attempts.min(8)).min(LONGEST_PAUSE);
        self.attempts = self.attempts.saturating_add(1);
        let pause = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.enter(Phase::Off(now + pause), now);
    }

    /// The grace is over: whoever waits is told so, and whoever comes is told at once.
    fn give_up(&mut self) {
        self.given_up = true;
        for mut op in std::mem::take(&mut self.redo) {
            if op.releases() {
                self.forgive(&mut op);
                self.redo.push_back(op);
                continue;
            }
            if op.abandoned {
                self.redo.push_back(op);
                continue;
            }
            self.answer(op.ticket, Answer::Unavailable(AWAY));
            op.abandoned = true;
            if op.sequence.is_some() {
                // Whether it was done shows when Redis is back: a subscription that nobody waits for ends again.
                self.redo.push_back(op);
            } else if op.entered
                && let Some((channel, _)) = op.joins()
            {
                let channel = channel.clone();
                self.left(&channel, 1);
            }
        }
        self.refuse();
    }

    /// That a subscription ends is remembered; whoever waits for everything to be settled does not wait for that.
    fn forgive(&mut self, op: &mut Op) {
        self.settled += usize::from(op.ticket.take().is_some());
    }

    fn refuse(&mut self) {
        loop {
            let mut requests = std::mem::take(&mut self.requests);
            if requests.is_empty() {
                requests = self.shared.requests(ON_THEIR_WAY);
            }
            if requests.is_empty() {
                return;
            }
            for (ticket, _, request) in requests {
                match request {
                    request @ Request::Leave { .. } => {
                        let mut op = Op::new(ticket, request);
                        self.forgive(&mut op);
                        self.redo.push_back(op);
                    }
                    Request::Return { .. } => self.settled += 1,
                    _ => self.answer(Some(ticket), Answer::Unavailable(AWAY)),
                }
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let pending = !self.redo.is_empty()
            || !self.known.is_empty()
            || !self.requests.is_empty()
            || self.shared.has_requests()
            || self
                .expected
                .iter()
                .any(|(_, it)| matches!(it, Expect::Op(_)));
        let between = matches!(self.phase, Phase::Lost | Phase::Registering);
        Snapshot {
            node: self.node.clone(),
            process: self.process.clone(),
            uncertain: pending || between || !self.registered,
            channels: (self.channels.iter())
                .map(|(name, channel)| super::shared::ChannelState {
                    name: name.clone(),
                    position: channel.position,
                    members: channel.members.clone(),
                    held: channel.held.clone().into_iter().collect(),
                })
                .collect(),
            undelivered: Vec::new(),
        }
    }

    /// Logs something that may happen often, once in ten seconds at most.
    fn complain(&mut self, now: Instant, error: &dyn std::fmt::Display) {
        if self
            .last_error
            .is_none_or(|at| now >= at + Duration::from_secs(10))
        {
            self.last_error = Some(now);
            error!(%error, "the server that joins the hosts refuses something");
        }
    }
}

/// A name that nobody else has.
fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
