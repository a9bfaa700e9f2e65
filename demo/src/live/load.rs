//! Thousands of WebSocket clients and the backends that publish to them, on one thread: opened, kept busy by a timetable,
//! and asked at the end whether they are still who they were.
//!
//! Each client is half of a pair, in whose channel each of the two publishes numbered messages; and one of a group, which
//! has a channel to which backends publish over HTTP, and a presence channel in which nobody may be seen to come or go.
//! The clients' side of RFC 6455 is tungstenite, so that it is not our own reading of it that judges our server.
//!
//! Everything is open loop: messages are due by a timetable, whether earlier ones have arrived or not.

use super::{
    ledger::{Client, Gap, Ledger, Messages, Phase, Source},
    publisher::Publisher,
    tokens::Issuer,
};
use anyhow::{Context, bail};
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tungstenite::{
    HandshakeError, Message, WebSocket,
    protocol::{CloseFrame, WebSocketConfig},
};

/// Members of a presence channel, and subscribers of a channel that backends publish to. The list of members, which goes
/// out whole with each change, is limited to 100 KiB.
const GROUP: usize = 50;

/// HTTP connections a host.
const PUBLISHERS: usize = 2;

/// Handshakes at the same time.
const OPENERS: usize = 4;

/// For whatever must happen before or after the load: opening, the last deliveries, the last question.
const PATIENCE: Duration = Duration::from_secs(120);

/// The last deliveries get this time.
const LAST_DELIVERIES: Duration = Duration::from_secs(20);

/// So many problems are kept as examples.
const EXAMPLES: usize = 5;

const WAKE: Token = Token(usize::MAX);

/// One host, as its clients and backends see it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its proxy listens.
    pub address: SocketAddr,
    /// A key of its server API.
    pub api_key: String,
}

/// What to hold, and how busy.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Clients of one channel are on all of them, because they share an engine; otherwise on one.
    pub across: bool,
    /// Connections over all hosts; rounded up to pairs on each.
    pub connections: usize,
    /// Time between two messages of a client.
    pub period: Duration,
    /// Time between two messages of the backends to one group.
    pub publish_period: Duration,
}

impl Plan {
    /// One message a second from each client, and half of one from the backends to each.
    pub fn new(hosts: Vec<Host>, connections: usize) -> Self {
        Self {
            hosts,
            across: false,
            connections,
            period: Duration::from_secs(1),
            publish_period: Duration::from_secs(2),
        }
    }

    fn per_host(&self) -> usize {
        self.connections
            .div_ceil(self.hosts.len().max(1))
            .next_multiple_of(2)
    }

    /// The seat of a host's client with this number.
    fn seat(&self, host: usize, client: usize) -> Seat {
        match self.across {
            true => Seat {
                home: 0,
                number: client * self.hosts.len() + host,
            },
            false => Seat {
                home: host,
                number: client,
            },
        }
    }

    /// The index, among all clients, of whoever has a seat.
    fn client(&self, seat: Seat) -> usize {
        let (host, client) = match self.across {
            true => (
                seat.number % self.hosts.len(),
                seat.number / self.hosts.len(),
            ),
            false => (seat.home, seat.number),
        };
        host * self.per_host() + client
    }

    /// How many homes there are, and how many seats each has.
    fn homes(&self) -> (usize, usize) {
        match self.across {
            true => (1, self.per_host() * self.hosts.len()),
            false => (self.hosts.len(), self.per_host()),
        }
    }
}

/// A client's place among those with whom it shares channels: one host, or all that share an engine. Neighbours are a
/// pair, and [`GROUP`] of them a group.
#[derive(Clone, Copy)]
struct Seat {
    home: usize,
    number: usize,
}

/// The WebSockets of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WebSockets {
    /// Opened at the start.
    pub opened: u64,
    /// Of them, those that answered the last question, under the identity that they had at the start.
    pub kept: u64,
    /// The others.
    pub dropped: u64,
}

/// What backends published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Publishes {
    /// Requests.
    pub sent: u64,
    /// Those that were answered once, with 202.
    pub accepted: u64,
    /// The others.
    pub failed: u64,
}

/// Everything that the load saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The WebSockets.
    pub websockets: WebSockets,
    /// Of them, dropped ones by host, in the order of the plan.
    pub dropped_by_host: Vec<u64>,
    /// Messages of clients and backends together.
    pub messages: Messages,
    /// HTTP requests.
    pub publishes: Publishes,
    /// Members that were seen to leave, join or change in a presence channel.
    pub member_events: u64,
    /// The longest gaps, by phase.
    pub gaps: BTreeMap<Phase, Gap>,
    /// By how many milliseconds the load itself was late at worst, by phase.
    pub own_lag_ms: BTreeMap<Phase, f64>,
    /// Whatever else nobody may see, and how often; the first of them.
    pub unexpected: u64,
    /// The first of everything that went wrong, with time and place.
    pub examples: Vec<String>,
    /// How long messages flowed.
    pub ran: Duration,
}

impl Outcome {
    /// Why somebody could have noticed something; nothing if nobody could.
    pub fn problems(&self) -> Vec<String> {
        let m = &self.messages;
        let counts = [
            (self.websockets.dropped, "WebSockets dropped"),
            (m.lost, "messages lost"),
            (m.doubled, "messages doubled"),
            (m.reordered, "messages reordered"),
            (m.foreign, "messages that nobody sent"),
            (self.publishes.failed, "HTTP requests of backends failed"),
            (self.member_events, "members seen to come or go"),
            (self.unexpected, "things seen that nobody should see"),
        ];
        let mut problems: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if m.received == 0 {
            problems.push("no message was received: nothing is proved".into());
        }
        if let (false, Some(first)) = (problems.is_empty(), self.examples.first()) {
            problems.push(format!("first: {first}"));
        }
        problems
    }
}

enum Command {
    Begin(Phase),
    Look(Sender<Outcome>),
    Finish,
}

/// A running load. Dropping it ends it without an account.
pub struct Load {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// Opens every connection, waits until all of them are subscribed and nobody joins any more, and lets messages flow.
    ///
    /// # Errors
    /// A connection that can't be opened, or one that is not subscribed in time.
    pub fn open(plan: &Plan, issuer: &Issuer) -> anyhow::Result<Self> {
        if plan.hosts.is_empty() || plan.connections == 0 {
            bail!("a load needs hosts and connections");
        }
        raise_descriptor_limit(plan.connections)?;
        let mut work = Work::open(plan, issuer)?;
        work.settle()?;
        // Tokens for the last question are made now: making them later would be load on the machine that is measured.
        work.questions = work
            .clients
            .iter()
            .map(|client| question(issuer, &client.id))
            .collect();
        let waker = Waker::new(work.poll.registry(), WAKE)?;
        let (commands, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("load".into())
            .spawn(move || work.run(&receiver))?;
        Ok(Self {
            commands,
            waker,
            thread,
        })
    }

    /// Another phase begins now.
    pub fn begin(&self, phase: Phase) {
        self.tell(Command::Begin(phase));
    }

    /// The account so far; messages on their way count as lost in it.
    ///
    /// # Errors
    /// The load has broken.
    pub fn look(&self) -> anyhow::Result<Outcome> {
        let (sender, receiver) = mpsc::channel();
        self.tell(Command::Look(sender));
        receiver
            .recv_timeout(PATIENCE)
            .context("the load does not answer")
    }

    /// Sends nothing more, waits for the last deliveries, asks every connection who it is, and gives the account.
    ///
    /// # Errors
    /// The load has broken.
    pub fn finish(self) -> anyhow::Result<Outcome> {
        self.tell(Command::Finish);
        let broke = |_| anyhow::anyhow!("the load itself broke");
        self.thread.join().map_err(broke)
    }

    fn tell(&self, command: Command) {
        // A load that has broken says so when it is asked for its account.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

/// As many descriptors as this process may have: one for each connection, and a few.
fn raise_descriptor_limit(connections: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let needed = connections as u64 + 200;
    if let Some(maximum) = limit.maximum
        && maximum < needed
    {
        bail!(
            "{connections} connections need {needed} descriptors, and {maximum} are allowed (ulimit -Hn)"
        );
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("the limit of descriptors can't be raised")
}

struct Connection {
    socket: WebSocket<TcpStream>,
    host: usize,
    ledger: Client,
    /// Which source sends through it.
    source: Source,
    channel: String,
    id: String,
    subscribed: u8,
    /// Answers to the question that is open: a barrier's ping, or who it is.
    answered: bool,
    gone: bool,
}

/// Who sends a source's messages.
enum Speaker {
    Client(usize),
    Backend { publisher: usize, channel: String },
}

struct Backend {
    connection: Publisher,
    waiting: VecDeque<Source>,
    broken: bool,
}

struct Work {
    poll: Poll,
    events: Events,
    began: Instant,
    ledger: Ledger,
    clients: Vec<Connection>,
    backends: Vec<Backend>,
    speakers: Vec<Speaker>,
    timetable: BinaryHeap<Reverse<(Duration, Source)>>,
    hosts: usize,
    flowing: bool,
    questions: Vec<String>,
    publishes: Publishes,
    member_events: u64,
    unexpected: u64,
    examples: Vec<String>,
    ran: Duration,
}

/// A message of the server: which one, and the rest skipped. Most are looked at again, by what they are.
#[derive(Deserialize)]
struct Inbound<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Numbered {
    data: (u32, u32),
}

#[derive(Deserialize)]
struct Connected {
    data: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    connection_id: String,
}

impl Work {
    fn open(plan: &Plan, issuer: &Issuer) -> anyhow::Result<Self> {
        let per_host = plan.per_host();
        let mut work = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            began: Instant::now(),
            ledger: Ledger::default(),
            clients: Vec::with_capacity(per_host * plan.hosts.len()),
            backends: Vec::new(),
            speakers: Vec::new(),
            timetable: BinaryHeap::new(),
            hosts: plan.hosts.len(),
            flowing: false,
            questions: Vec::new(),
            publishes: Publishes::default(),
            member_events: 0,
            unexpected: 0,
            examples: Vec::new(),
            ran: Duration::ZERO,
        };
        for (host, target) in plan.hosts.iter().enumerate() {
            let sockets = connect(target.address, plan, host, per_host, issuer)?;
            work.adopt(plan, host, sockets);
        }
        for number in 0..work.clients.len() {
            let seat = plan.seat(number / per_host, number % per_host);
            let partner = plan.client(Seat {
                number: seat.number ^ 1,
                ..seat
            });
            work.ledger
                .owe(work.clients[partner].source, work.clients[number].ledger);
        }
        let (homes, seats) = plan.homes();
        for home in 0..homes {
            let targets = match plan.across {
                true => &plan.hosts[..],
                false => &plan.hosts[home..=home],
            };
            work.groups(plan, home, seats, targets)?;
        }
        Ok(work)
    }

    /// Clients of a host.
    fn adopt(&mut self, plan: &Plan, host: usize, sockets: Vec<WebSocket<TcpStream>>) {
        let total = (sockets.len() * plan.hosts.len()) as u32;
        for (seat, socket) in sockets.into_iter().enumerate() {
            let number = self.clients.len();
            // Spread over one period, so that they do not speak in step.
            let starts = plan.period * (seat * plan.hosts.len() + host) as u32 / total;
            let source = self.ledger.source(starts, plan.period);
            self.speakers.push(Speaker::Client(number));
            self.clients.push(Connection {
                socket,
                host,
                ledger: self.ledger.client(),
                source,
                channel: pair(plan.seat(host, seat)),
                id: String::new(),
                subscribed: 0,
                answered: false,
                gone: false,
            });
        }
    }

    /// Backends of a home, and what they owe its clients.
    fn groups(
        &mut self,
        plan: &Plan,
        home: usize,
        seats: usize,
        targets: &[Host],
    ) -> anyhow::Result<()> {
        let mut publishers = Vec::new();
        for target in targets.iter().cycle().take(PUBLISHERS * targets.len()) {
            let connection = Publisher::connect(target.address, &target.api_key)
                .with_context(|| format!("a backend can't connect to http://{}", target.address))?;
            publishers.push(self.backends.len());
            self.backends.push(Backend {
                connection,
                waiting: VecDeque::new(),
                broken: false,
            });
        }
        let count = seats.div_ceil(GROUP);
        for number in 0..count {
            let members = number * GROUP..((number + 1) * GROUP).min(seats);
            let starts = plan.publish_period * number as u32 / count as u32;
            let source = self.ledger.source(starts, plan.publish_period);
            self.speakers.push(Speaker::Backend {
                publisher: publishers[number % publishers.len()],
                channel: group(home, number),
            });
            for number in members {
                let client = plan.client(Seat { home, number });
                self.ledger.owe(source, self.clients[client].ledger);
            }
        }
        Ok(())
    }

    /// Registers everything, and reads until everybody is subscribed and everybody knows that everybody is.
    fn settle(&mut self) -> anyhow::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        for (number, client) in self.clients.iter().enumerate() {
            let fd = client.socket.get_ref().as_raw_fd();
            registry.register(&mut SourceFd(&fd), Token(number), both)?;
        }
        for (number, backend) in self.backends.iter_mut().enumerate() {
            let token = Token(self.clients.len() + number);
            registry.register(&mut backend.connection.stream, token, both)?;
        }
        // What came together with the handshake's answer is in the client's buffer, and makes nothing readable.
        for number in 0..self.clients.len() {
            self.read(number);
        }
        self.until("be subscribed", PATIENCE, |client| client.subscribed == 3)?;
        self.barrier("learn who is there", PATIENCE)
    }

    /// A server answers in order: whoever has an answer to a ping has everything that was sent to it before.
    fn barrier(&mut self, what: &str, patience: Duration) -> anyhow::Result<()> {
        for number in 0..self.clients.len() {
            self.clients[number].answered = false;
            self.say(number, r#"{"event":"hotsock.ping"}"#.into());
        }
        self.until(what, patience, |client| client.answered)
    }

    fn until(
        &mut self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Connection) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = self.clients.iter().filter(|c| !c.gone && !holds(c)).count();
            if missing == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{missing} of {} connections did not {what} within {} s{}",
                    self.clients.len(),
                    patience.as_secs(),
                    self.examples
                        .first()
                        .map(|e| format!("; first: {e}"))
                        .unwrap_or_default()
                );
            }
            self.events(Some(Duration::from_millis(100)));
        }
    }

    fn run(mut self, commands: &Receiver<Command>) -> Outcome {
        let refused = self.clients.iter().filter(|c| c.gone).count();
        if refused > 0 {
            self.problem(format!(
                "{refused} connections ended before messages flowed"
            ));
        }
        self.began = Instant::now();
        self.flowing = true;
        for number in 0..self.speakers.len() {
            let source = Source(number as u32);
            self.timetable
                .push(Reverse((self.ledger.due(source), source)));
        }
        loop {
            match commands.recv_timeout(Duration::ZERO) {
                Ok(Command::Begin(phase)) => self.ledger.begin(phase, self.began.elapsed()),
                Ok(Command::Look(answer)) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.outcome());
                }
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.speak();
                    self.events(self.next_due());
                }
            }
        }
        self.ran = self.began.elapsed();
        self.wind_up();
        self.outcome()
    }

    fn next_due(&self) -> Option<Duration> {
        self.timetable
            .peek()
            .map(|Reverse((due, _))| due.saturating_sub(self.began.elapsed()))
    }

    /// Everything that is due.
    fn speak(&mut self) {
        let now = self.began.elapsed();
        while let Some(&Reverse((due, source))) = self.timetable.peek()
            && due <= now
        {
            self.timetable.pop();
            match &self.speakers[source.0 as usize] {
                Speaker::Client(number) => {
                    let number = *number;
                    if self.clients[number].gone {
                        continue;
                    }
                    let message = self.ledger.send(source, now);
                    let text = format!(
                        r#"{{"event":"n","channel":"{}","data":[{},{message}]}}"#,
                        self.clients[number].channel, source.0
                    );
                    self.say(number, text);
                    let next = self.ledger.due(source);
                    self.timetable.push(Reverse((next, source)));
                }
                Speaker::Backend { publisher, .. } => {
                    let publisher = *publisher;
                    self.backends[publisher].waiting.push_back(source);
                    self.publish(publisher);
                }
            }
        }
    }

    /// A backend's next request, once its last one is answered.
    fn publish(&mut self, number: usize) {
        let backend = &mut self.backends[number];
        if backend.broken || !backend.connection.is_idle() {
            return;
        }
        let Some(source) = backend.waiting.pop_front() else {
            return;
        };
        let Speaker::Backend { channel, .. } = &self.speakers[source.0 as usize] else {
            unreachable!("only sources of backends wait for backends")
        };
        let message = self.ledger.send(source, self.began.elapsed());
        let body = format!(
            r#"{{"event":"n","channel":"{channel}","data":[{},{message}]}}"#,
            source.0
        );
        self.publishes.sent += 1;
        if let Err(error) = backend.connection.publish(&body) {
            self.backend_failed(number, &error.to_string());
        }
        let next = self.ledger.due(source);
        self.timetable.push(Reverse((next, source)));
    }

    fn backend_failed(&mut self, number: usize, why: &str) {
        self.backends[number].broken = true;
        self.publishes.failed += 1;
        self.example(format!("backend {number}: {why}"));
    }

    fn say(&mut self, number: usize, text: String) {
        let client = &mut self.clients[number];
        if client.gone {
            return;
        }
        match client.socket.send(Message::text(text)) {
            Ok(()) => {}
            // Kept in the client's buffer until the socket is writable.
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.lost(number, &error.to_string()),
        }
    }

    fn events(&mut self, timeout: Option<Duration>) {
        // Taken out while it is walked; an empty one costs nothing.
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            Err(error) => self.problem(format!("the kernel's events: {error}")),
        }
        for event in &events {
            match event.token() {
                WAKE => {}
                Token(number) if number < self.clients.len() => self.read(number),
                Token(number) => self.answered(number - self.clients.len()),
            }
        }
        self.events = events;
    }

    /// Reads what there is for a backend.
    fn answered(&mut self, number: usize) {
        if self.backends[number].broken {
            return;
        }
        match self.backends[number].connection.ready() {
            Ok(None) => {}
            Ok(Some(202)) => {
                self.publishes.accepted += 1;
                self.publish(number);
            }
            Ok(Some(status)) => {
                self.publishes.failed += 1;
                self.example(format!(
                    "backend {number}: a request was answered with {status}"
                ));
                self.publish(number);
            }
            Err(error) => self.backend_failed(number, &error.to_string()),
        }
    }

    /// Reads what there is for a client, and writes what could not be written.
    fn read(&mut self, number: usize) {
        while !self.clients[number].gone {
            match self.clients[number].socket.read() {
                Ok(Message::Text(text)) => self.message(number, &text),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(frame)) => self.lost(number, &closed(frame.as_ref())),
                Ok(other) => self.problem(format!("connection {number}: {other:?}")),
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    break;
                }
                Err(error) => self.lost(number, &error.to_string()),
            }
        }
        if !self.clients[number].gone {
            match self.clients[number].socket.flush() {
                Ok(()) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.lost(number, &error.to_string()),
            }
        }
    }

    fn message(&mut self, number: usize, text: &str) {
        let Ok(message) = serde_json::from_str::<Inbound<'_>>(text) else {
            return self.problem(format!("connection {number}: not understood: {text}"));
        };
        match &*message.event {
            "n" => match serde_json::from_str(text) {
                Ok(Numbered { data: (source, n) }) => {
                    let client = self.clients[number].ledger;
                    self.ledger
                        .receive(client, Source(source), n, self.began.elapsed());
                }
                Err(_) => self.problem(format!("connection {number}: not ours: {text}")),
            },
            "hotsock.pong" => self.clients[number].answered = true,
            "hotsock.connected" if !self.flowing => match serde_json::from_str(text) {
                Ok(Connected { data }) => self.clients[number].id = data.connection_id,
                Err(error) => self.problem(format!("connection {number}: {error} in {text}")),
            },
            "hotsock.subscribed" if !self.flowing => self.clients[number].subscribed += 1,
            // The answer to the last question: the token was for the identity of the start.
            "hotsock.subscribed" if text.contains(r#""channel":"proof""#) => {
                self.clients[number].answered = true;
            }
            "hotsock.memberAdded" if !self.flowing => {}
            "hotsock.memberAdded" | "hotsock.memberRemoved" | "hotsock.memberUpdated" => {
                self.member_events += 1;
                self.example(format!("connection {number}: {text}"));
            }
            _ => self.problem(format!("connection {number}: {text}")),
        }
    }

    fn lost(&mut self, number: usize, why: &str) {
        let client = &mut self.clients[number];
        client.gone = true;
        let host = client.host;
        self.example(format!("connection {number} on host {host} ended: {why}"));
    }

    fn problem(&mut self, what: String) {
        self.unexpected += 1;
        self.example(what);
    }

    fn example(&mut self, what: String) {
        if self.examples.len() < EXAMPLES {
            let at = self.began.elapsed().as_secs_f64();
            let what: String = what.chars().take(300).collect();
            self.examples.push(format!("{at:.3} s, {what}"));
        }
    }

    /// The last deliveries; then everybody is asked twice: who are you, and have you got everything?
    fn wind_up(&mut self) {
        let deadline = Instant::now() + LAST_DELIVERIES;
        let on_their_way = |work: &Self| {
            work.ledger.outstanding() > 0
                || work
                    .backends
                    .iter()
                    .any(|b| !b.broken && !b.connection.is_idle())
        };
        for backend in &mut self.backends {
            backend.waiting.clear();
        }
        while on_their_way(self) && Instant::now() < deadline {
            self.events(Some(Duration::from_millis(20)));
        }
        for number in 0..self.backends.len() {
            if !self.backends[number].broken && !self.backends[number].connection.is_idle() {
                self.backend_failed(number, "the last request was never answered");
            }
        }
        for number in 0..self.clients.len() {
            self.clients[number].answered = false;
            let question = std::mem::take(&mut self.questions[number]);
            self.say(number, question);
        }
        let asked = self.until("say who they are", LAST_DELIVERIES, |client| {
            client.answered
        });
        if let Err(error) = asked {
            self.example(error.to_string());
            for number in 0..self.clients.len() {
                if !self.clients[number].answered {
                    self.clients[number].gone = true;
                }
            }
        }
        if let Err(error) = self.barrier("answer the last ping", LAST_DELIVERIES) {
            self.problem(error.to_string());
        }
    }

    fn outcome(&self) -> Outcome {
        let dropped = |host| {
            let gone = |c: &&Connection| c.gone && c.host == host;
            self.clients.iter().filter(gone).count() as u64
        };
        let dropped_by_host: Vec<u64> = (0..self.hosts).map(dropped).collect();
        let opened = self.clients.len() as u64;
        let dropped = dropped_by_host.iter().sum();
        let gap = |phase| Some((phase, self.ledger.gap(phase)?));
        Outcome {
            websockets: WebSockets {
                opened,
                kept: opened - dropped,
                dropped,
            },
            dropped_by_host,
            messages: self.ledger.messages(),
            publishes: self.publishes,
            member_events: self.member_events,
            gaps: Phase::ALL.into_iter().filter_map(gap).collect(),
            own_lag_ms: Phase::ALL
                .into_iter()
                .map(|phase| (phase, self.ledger.own_lag(phase)))
                .collect(),
            unexpected: self.unexpected,
            examples: self.examples.clone(),
            ran: if self.ran.is_zero() {
                self.began.elapsed()
            } else {
                self.ran
            },
        }
    }
}

fn pair(seat: Seat) -> String {
    format!("pair.{}.{}", seat.home, seat.number / 2)
}

fn group(home: usize, number: usize) -> String {
    format!("group.{home}.{number}")
}

/// Claims of one client: what it is subscribed to from the start, and where it may publish.
fn claims(seat: Seat) -> serde_json::Value {
    let home = seat.home;
    let number = seat.number / GROUP;
    let (pair, group) = (pair(seat), group(home, number));
    json!({"scope": "connect", "uid": format!("client-{home}-{}", seat.number), "channels": {
        pair: {"autoSubscribe": true, "messages": {"n": {"publish": true}}},
        group: {"autoSubscribe": true},
        format!("presence.{home}.{number}"): {"autoSubscribe": true},
    }})
}

/// A subscription that is only granted to the connection with this id.
fn question(issuer: &Issuer, id: &str) -> String {
    let claims = json!({"scope": "subscribe", "connectionId": id, "channels": {"proof": {"subscribe": true}}});
    json!({"event": "hotsock.subscribe", "channel": "proof", "data": {"token": issuer.issue(claims)}})
        .to_string()
}

fn closed(frame: Option<&CloseFrame>) -> String {
    frame.map_or("closed".into(), |f| {
        format!("closed with {} {}", f.code, f.reason)
    })
}

/// Opens `count` connections to one host, a few at a time.
fn connect(
    address: SocketAddr,
    plan: &Plan,
    host: usize,
    count: usize,
    issuer: &Issuer,
) -> anyhow::Result<Vec<WebSocket<TcpStream>>> {
    let seats = count.div_ceil(OPENERS);
    thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|n| {
                let range = (n * seats).min(count)..((n + 1) * seats).min(count);
                scope.spawn(move || {
                    range
                        .map(|n| connect_one(address, &issuer.issue(claims(plan.seat(host, n)))))
                        .collect::<anyhow::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut sockets = Vec::with_capacity(count);
        for opener in openers {
            let opened = opener
                .join()
                .map_err(|_| anyhow::anyhow!("opening connections broke"))?;
            sockets.extend(opened?);
        }
        Ok(sockets)
    })
}

fn connect_one(address: SocketAddr, token: &str) -> anyhow::Result<WebSocket<TcpStream>> {
    let stream =
        TcpStream::connect(address).with_context(|| format!("{address} takes no connection"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Small buffers: there are thousands of them, and each message leaves at once.
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0);
    let url = format!("ws://{address}/v1?token={token}");
    match tungstenite::client::client_with_config(url, stream, Some(config)) {
        Ok((socket, _)) => {
            socket.get_ref().set_nonblocking(true)?;
            Ok(socket)
        }
        Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            bail!("{address} refused a WebSocket with {}", answer.status())
        }
        Err(error) => bail!("{address} opened no WebSocket: {error}"),
    }
}
