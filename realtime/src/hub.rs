//! What every message of a client does: the rules of the protocol over the connections of this process.
//!
//! The hub does no I/O. The server gives it what arrived and what time it is; it fills [`Outboxes`] and leaves
//! [`Notice`]s for the server. What all hosts must agree on goes through the [`Engine`]: the hub submits a request, notes
//! in `waiting` what is to happen with the answer, and acts on the answer when it comes, whether at once or in a later
//! turn. Until then the connection is parked: what its client sends is processed strictly in order (R-CONN-22).

pub(crate) mod calls;
mod entrusting;
mod metadata;
mod opening;
mod publishing;
pub(crate) mod questions;
mod reacting;
mod scheduling;
#[cfg(test)]
mod scripted;
mod storage;
mod subscribing;
pub mod succession;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use http::Response;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::api;
use crate::auth::{Refusal, Verifier};
use crate::channels::Channels;
use crate::claims::Claims;
use crate::config::{Limits, Settings};
use crate::connection::{Connection, ConnectionId, Due, Pace};
use crate::engine::{Answer, Caller, Engine, Health, Outcome, Request, SingleUse, Ticket};
use crate::events::{ConnectionChange, ConnectionFacts, Happening};
use crate::fanout::Encoded;
use crate::function_api::Invocation;
use crate::metrics::{Closed, MessageKind, Metrics};
use crate::outbox::{Bounds, Key, Outboxes};
use crate::presence;
use crate::presence::Change;
use crate::protocol::{self, Code, Failure, Inbound, Kind};
use crate::time::Now;
use crate::trace::Tracer;
use crate::websocket::{self, CloseCode, Incoming};

use opening::Opening;
pub(crate) use publishing::Backend;
use publishing::Via;

/// A socket, and which of the sockets that had its number one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its number.
    pub key: Key,
    /// Rises with every socket.
    pub serial: u64,
}

/// What the server is to do with a socket.
#[derive(Debug)]
pub enum Notice {
    /// It is a WebSocket from now on, compressed or not; the head of the answer is in its outbox.
    Opened(Client, bool),
    /// The answer to its HTTP request.
    Answered(Client, Response<Vec<u8>>),
    /// Nothing keeps its next message waiting any longer.
    Unparked(Client),
    /// It is over: write what its outbox holds, wait for the peer's close at most for a moment, and let it go.
    Closed(Client),
    /// It is over, and nothing can be said any more.
    Dead(Client),
}

/// What operators ask of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The engine's name.
    pub engine: &'static str,
    /// How the engine is.
    pub health: Health,
    /// Open connections of this process.
    pub connections: usize,
    /// Subscriptions of this process.
    pub subscriptions: i64,
    /// Channels that have subscribers in this process.
    pub channels: usize,
}

/// All connections of this process, and what they may do.
pub struct Hub {
    /// What waits for each socket.
    pub outboxes: Outboxes,
    /// What operators see.
    pub metrics: Metrics,
    rules: Rules,
    verifier: Verifier,
    engine: Box<dyn Engine>,
    channels: Channels,
    connections: Vec<Option<Box<Connection>>>,
    by_id: HashMap<ConnectionId, Key>,
    waiting: HashMap<Ticket, Waiting>,
    notices: Vec<Notice>,
    /// Those that something has been answered to while outcomes are acted on: what they have sent behind it comes behind
    /// what it caused.
    to_release: VecDeque<Client>,
    /// Backends are told of what happens.
    tells: bool,
    happenings: Vec<Happening>,
    opened_in_second: (i64, usize),
    /// How many successors have been told something in advance.
    precopies: u64,
    tracer: Tracer,
}

/// The settings that the hub follows.
#[derive(Debug, Clone)]
pub struct Rules {
    pace: Pace,
    limits: Limits,
    compression: bool,
    region: Box<str>,
}

/// What is to happen when the engine has answered.
#[derive(Debug)]
enum Waiting {
    /// The single-use token of a client that wants to connect.
    Opening(Box<Opening>),
    /// A subscription.
    Subscribing(Box<subscribing::Joining>),
    /// A change of metadata.
    Metadata(Box<metadata::Updating>),
    /// Something that is kept, planned, or sent by somebody who is told what came of it.
    Accepted(entrusting::Reply),
    /// An entry of storage.
    Reading(Box<storage::Reading>),
    /// The event of a message to which somebody reacts.
    Finding(Box<reacting::Finding>),
    /// Something is asked over HTTP.
    Question(Asker, questions::Question),
    /// A client's call, which another process may carry out.
    Call(Asker),
}

/// Who asked for something in the name of a connection, or as a backend, and so who is answered.
#[derive(Debug, Clone)]
pub enum Asker {
    /// A client over its WebSocket: what it sends next waits for the answer (R-CONN-22).
    Socket(Client),
    /// Whoever sent this HTTP request.
    Request(Client),
    /// Whoever sent this one in the form of a function's invocation (R-DIFF-7).
    Invocation(Client, Invocation),
    /// Whoever sent an HTTP request to another process, which has asked this one (R-HTTP-11).
    Process(Caller),
}

impl Hub {
    /// A hub without connections.
    pub fn new(
        settings: &Settings,
        verifier: Verifier,
        metrics: Metrics,
        engine: Box<dyn Engine>,
    ) -> Self {
        let rules = Rules::from(settings);
        let mut hub = Self {
            outboxes: Outboxes::new(rules.bounds()),
            metrics,
            rules,
            verifier,
            engine,
            channels: Channels::default(),
            connections: Vec::new(),
            by_id: HashMap::new(),
            waiting: HashMap::new(),
            notices: Vec::new(),
            to_release: VecDeque::new(),
            tracer: Tracer::new(&settings.log),
            tells: false,
            happenings: Vec::new(),
            opened_in_second: (0, 0),
            precopies: 0,
        };
        hub.set_tells(settings.events.any());
        hub
    }

    /// Backends are told, or not (R-EVT-4).
    fn set_tells(&mut self, on: bool) {
        self.tells = on;
        self.engine.tell(on);
    }

    /// Takes what backends are to be told, in the order in which it happened (R-EVT-14).
    pub fn take_happenings(&mut self) -> impl Iterator<Item = Happening> + '_ {
        self.happenings.drain(..)
    }

    /// Backends are to be told.
    fn tell(&mut self, happening: Happening) {
        if self.tells {
            self.happenings.push(happening);
        }
    }

    /// Backends are to be told of a connection, as it is now.
    fn tell_of_connection(&mut self, what: ConnectionChange, key: Key) {
        if self.tells
            && let Some(connection) = self.connection(key)
        {
            let facts = ConnectionFacts::of(connection, None);
            let connection = Box::new(facts);
            self.happenings
                .push(Happening::Connection { what, connection });
        }
    }

    /// Follows other settings from now on. Connections stay (R-AUTH-16, R-AUTH-17).
    pub fn reload(&mut self, settings: &Settings, verifier: Verifier) {
        self.rules = Rules::from(settings);
        self.verifier = verifier;
        self.set_tells(settings.events.any());
        self.outboxes.set_bounds(self.rules.bounds());
        self.tracer.follow(&settings.log);
    }

    /// Takes what the server is to do.
    pub fn take_notices(&mut self, into: &mut Vec<Notice>) {
        into.append(&mut self.notices);
    }

    /// How the engine is, and how much there is in this process.
    pub fn running(&self) -> Running {
        Running {
            engine: self.engine.name(),
            health: self.engine.health(),
            connections: self.by_id.len(),
            subscriptions: self.metrics.subscriptions.get(),
            channels: self.channels.len(),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.by_id.len()
    }

    /// The sockets of all open connections.
    pub fn clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.by_id.values().filter_map(|&key| self.client(key))
    }

    /// Can any token be good?
    pub fn can_verify(&self) -> bool {
        self.verifier.has_keys()
    }

    /// Is there a connection under this number?
    pub fn is_open(&self, key: Key) -> bool {
        self.connection(key).is_some()
    }

    /// Must what this client sends wait?
    pub fn is_parked(&self, key: Key) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.parked > 0)
    }

    /// Bytes came from a client, whatever they mean.
    pub fn heard(&mut self, now: Now, key: Key) {
        if let Some(connection) = self.connection_mut(key) {
            connection.deadlines.heard(now.mono);
        }
    }

    /// A message or control frame came from a client.
    pub fn incoming(&mut self, now: Now, key: Key, message: Incoming<'_>) {
        match message {
            Incoming::Text(text) => self.receive(now, key, text),
            Incoming::Binary(_) => {
                self.end(
                    now,
                    key,
                    CloseCode::UNSUPPORTED,
                    "Binary messages are not supported",
                    Closed::Protocol,
                );
            }
            // Bounded like everything else: who pings without reading the answers is a slow consumer, too.
            Incoming::Ping(payload) => {
                if self.outboxes.push(key, websocket::pong(payload)).is_err() {
                    self.close_slow(now, key);
                }
            }
            Incoming::Pong(_) => {}
            Incoming::Close(frame) => {
                // The answer repeats the code, as RFC 6455, 5.5.1 suggests.
                let code = frame.map_or(CloseCode::NORMAL, |frame| frame.code);
                self.end(now, key, code, "", Closed::Client);
            }
        }
        self.pump(now);
    }

    /// A text message came: one JSON object with an event.
    fn receive(&mut self, now: Now, key: Key, text: &str) {
        let most = self.rules.limits.messages_per_second;
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        connection.deadlines.message(now.mono);
        let within_cap = most.is_none_or(|most| connection.rate.allows(now.mono, most));
        debug!(connection = %connection.id.as_str(), payload = %crate::log::redact_message(text), "received");
        if let Err(failure) = self.handle(now, key, text, within_cap) {
            self.refuse(now, key, &failure);
        }
    }

    fn handle(&mut self, now: Now, key: Key, text: &str, within_cap: bool) -> Result<(), Failure> {
        let message =
            protocol::parse(text).inspect_err(|_| self.metrics.received(MessageKind::Invalid))?;
        let kind = Kind::of(&message.event);
        self.metrics.received(counted_as(kind));
        // A heartbeat has no answer, costs nothing, and its loss would end the connection.
        if !within_cap && kind != Some(Kind::Heartbeat) {
            let failure = Failure::because(
                Code::RateLimited,
                "this connection sends more messages in a second than it may",
            );
            return Err(match message.channel.as_deref() {
                Some(channel) => failure.in_channel(channel),
                None => failure,
            });
        }
        let Some(client) = self.client(key) else {
            return Ok(());
        };
        if !self.goes_along(key, kind, &message) {
            self.hold(key, text);
            return Ok(());
        }
        match self.obey(now, client, &message) {
            // That it is refused is not said before what came before it is done, either (R-CONN-22).
            Err(_) if self.has_entrusted(key) => {
                self.hold(key, text);
                Ok(())
            }
            done => done,
        }
    }

    /// Does what a client's message says.
    fn obey(&mut self, now: Now, client: Client, message: &Inbound<'_>) -> Result<(), Failure> {
        let (key, asker) = (client.key, Asker::Socket(client));
        match Kind::of(&message.event) {
            Some(Kind::Subscribe) => self.subscribe(now, key, message),
            Some(Kind::Unsubscribe) => self.unsubscribe(now, key, message),
            Some(Kind::UmdUpdate) => self.update_metadata(now, key, message),
            Some(Kind::Heartbeat) => {
                if let Some(connection) = self.connection_mut(key) {
                    connection.deadlines.heartbeat(now.mono);
                }
                Ok(())
            }
            Some(Kind::Ping) => {
                self.send(now, key, protocol::pong());
                Ok(())
            }
            Some(Kind::Pong) => Ok(()),
            Some(Kind::StorageSet) => self.storage_set(now, &asker, key, message, Via::WebSocket),
            Some(Kind::StorageGet) => self.storage_get(now, &asker, key, message),
            Some(Kind::Reaction | Kind::Message) | None => {
                self.client_publish(now, &asker, key, message, Via::WebSocket)
            }
        }
    }

    /// Sends one message to one client.
    fn send(&mut self, now: Now, key: Key, payload: &str) {
        let deflate = self
            .connection(key)
            .is_some_and(|connection| connection.deflate);
        let frame = Encoded::new(payload).frame(deflate);
        self.push(now, key, frame);
    }

    fn push(&mut self, now: Now, key: Key, frame: websocket::Frame) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        connection.deadlines.message(now.mono);
        match self.outboxes.push(key, frame) {
            Ok(()) => {
                self.metrics.deliveries.inc();
            }
            Err(_) => self.close_slow(now, key),
        }
    }

    /// Tells a client what was wrong with its message.
    fn refuse(&mut self, now: Now, key: Key, failure: &Failure) {
        self.metrics.error(failure.code.as_str());
        self.send(now, key, &protocol::error(failure));
    }

    /// No other process served before: what was kept is read.
    ///
    /// # Errors
    /// It can't be read.
    pub fn begin(&mut self, now: Now) -> anyhow::Result<()> {
        self.engine.begin(now)
    }

    /// Lets the engine take what its threads have finished, and do what is due. Once in every turn of the loop.
    pub fn turn(&mut self, now: Now) {
        self.engine.turn(now);
        let healthy = self.engine.health() == Health::Well;
        self.metrics.engine.healthy.set(i64::from(healthy));
    }

    /// When the engine has something to do, if nothing else happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.engine.next_due()
    }

    /// Waits until the engine has answered everything, but not longer than that; whether it has. What it has answered is
    /// acted on.
    pub fn settle(&mut self, now: Now, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let settled = self.engine.settle(now, left);
            self.pump(now);
            // What was answered may have led to new requests.
            if !settled || self.engine.is_settled() {
                return settled;
            }
        }
    }

    /// Acts on everything that the engine has to say.
    pub fn pump(&mut self, now: Now) {
        loop {
            match self.engine.next_outcome() {
                Some(outcome) => self.act_on(now, outcome),
                // All that was caused so far is told.
                None => match self.to_release.pop_front() {
                    Some(client) => self.release_held(now, client),
                    None => return,
                },
            }
        }
    }

    fn act_on(&mut self, now: Now, outcome: Outcome) {
        match outcome {
            Outcome::Answer(ticket, answer) => self.answered(now, ticket, answer),
            Outcome::Message(id, message) => {
                let traced = self.tracer.delivery(id);
                let meta = message.meta.as_ref().map(protocol::Meta::from);
                let mut text = [0; ulid::ULID_LEN];
                let id: &str = id.array_to_str(&mut text);
                let payload = protocol::message(
                    id,
                    &message.event,
                    &message.channel,
                    message.data.as_str(),
                    meta,
                );
                let delivered = self.fan_out(now, &message.channel, &payload, message.except);
                if let Some(traced) = traced {
                    traced.end(delivered);
                }
            }
            Outcome::Presence {
                channel,
                change,
                members,
                except,
            } => {
                let members = presence::views(&members);
                let payload = match &change {
                    Change::Added(member) => {
                        protocol::member_added(&channel, &member.view(), &members)
                    }
                    Change::Updated(member) => {
                        protocol::member_updated(&channel, &member.view(), &members)
                    }
                    Change::Removed(member) => {
                        protocol::member_removed(&channel, &member.view(), &members)
                    }
                };
                self.fan_out(now, &channel, &payload, except);
            }
            Outcome::Storage {
                channel,
                key,
                value,
                meta,
            } => self.entry_changed(now, &channel, &key, value.as_ref(), &meta),
            Outcome::Reaction { id, reacting } => self.reacted(now, id, &reacting),
            Outcome::Call {
                from,
                connection,
                call,
            } => self.called(now, from, connection, &call),
            Outcome::Tell(happening) => self.tell(happening),
        }
    }

    /// Acts on an answer.
    fn answered(&mut self, now: Now, ticket: Ticket, answer: Answer) {
        self.tracer.answered(ticket, &answer);
        match self.waiting.remove(&ticket) {
            Some(Waiting::Opening(opening)) => self.opening_answered(now, *opening, &answer),
            Some(Waiting::Subscribing(joining)) => self.joined(now, *joining, answer),
            Some(Waiting::Metadata(updating)) => self.metadata_answered(now, *updating, &answer),
            Some(Waiting::Accepted(reply)) => self.accepted(now, &reply, &answer),
            Some(Waiting::Reading(reading)) => self.entry_read(now, &reading, &answer),
            Some(Waiting::Finding(finding)) => self.found(now, *finding, answer),
            Some(Waiting::Question(asker, question)) => {
                self.question_answered(now, &asker, &question, answer);
            }
            Some(Waiting::Call(asker)) => self.call_answered(now, &asker, &answer),
            // A client's publish: nobody waits (R-DLV-12).
            None => {}
        }
    }

    /// Submits a request for whose answer a connection waits.
    fn ask(&mut self, now: Now, key: Key, request: Request, waiting: Waiting) {
        let ticket = self.engine.submit(now, request);
        self.waiting.insert(ticket, waiting);
        if let Some(connection) = self.connection_mut(key) {
            connection.parked += 1;
        }
    }

    /// As [`Hub::ask`], for whoever asked: only a WebSocket is parked.
    fn ask_for(&mut self, now: Now, asker: &Asker, request: Request, waiting: Waiting) {
        match asker {
            Asker::Socket(client) => self.ask(now, client.key, request, waiting),
            Asker::Request(_) | Asker::Invocation(..) | Asker::Process(_) => {
                let ticket = self.engine.submit(now, request);
                self.waiting.insert(ticket, waiting);
            }
        }
    }

    /// Answers an HTTP request that this process or another one has got.
    fn answer_asker(&mut self, now: Now, asker: &Asker, response: Response<Vec<u8>>) {
        match asker {
            // Its answers are messages of their own kinds.
            Asker::Socket(_) => {}
            Asker::Request(client) => self.notices.push(Notice::Answered(*client, response)),
            Asker::Invocation(client, invocation) => {
                let response = invocation.done(response.into_body());
                self.notices.push(Notice::Answered(*client, response));
            }
            Asker::Process(caller) => {
                let mut answer = response.status().as_u16().to_be_bytes().to_vec();
                answer.extend_from_slice(response.body());
                let to = caller.clone();
                self.engine.submit(now, Request::Return { to, answer });
            }
        }
    }

    /// Tells whoever asked what was wrong.
    fn refuse_asker(&mut self, now: Now, asker: &Asker, failure: &Failure) {
        match asker {
            Asker::Socket(client) => self.refuse(now, client.key, failure),
            Asker::Invocation(client, invocation) => {
                self.metrics.error(failure.code.as_str());
                let response = invocation.failed(failure);
                self.notices.push(Notice::Answered(*client, response));
            }
            Asker::Request(_) | Asker::Process(_) => {
                self.metrics.error(failure.code.as_str());
                self.answer_asker(now, asker, api::failure(failure));
            }
        }
    }

    /// A connection got the answer it waited for. False: it has gone meanwhile.
    fn unpark(&mut self, now: Now, client: Client) -> bool {
        let pace = self.rules.pace;
        let Some(connection) = self.connection_mut(client.key) else {
            return false;
        };
        if connection.serial != client.serial {
            return false;
        }
        connection.parked -= 1;
        if connection.parked == 0 {
            connection.deadlines.resumed(now.mono, &pace);
            self.notices.push(Notice::Unparked(client));
        }
        true
    }

    /// A message for every subscriber of a channel in this process but one; how many got it.
    fn fan_out(
        &mut self,
        now: Now,
        channel: &str,
        payload: &str,
        except: Option<ConnectionId>,
    ) -> u64 {
        let Some(channel) = self
            .channels
            .find(channel)
            .and_then(|key| self.channels.get(key))
        else {
            return 0;
        };
        let except = except.and_then(|id| self.by_id.get(&id).copied());
        let message = Encoded::new(payload);
        let mut slow = Vec::new();
        let mut delivered = 0;
        for &subscriber in &channel.subscribers {
            if Some(subscriber) == except {
                continue;
            }
            let Some(connection) = self.connections[subscriber].as_mut() else {
                continue;
            };
            connection.deadlines.message(now.mono);
            match self
                .outboxes
                .push(subscriber, message.frame(connection.deflate))
            {
                Ok(()) => delivered += 1,
                Err(_) => slow.push(subscriber),
            }
        }
        self.metrics.deliveries.inc_by(delivered);
        for subscriber in slow {
            self.close_slow(now, subscriber);
        }
        delivered
    }

    fn close_slow(&mut self, now: Now, key: Key) {
        self.end(
            now,
            key,
            CloseCode::POLICY,
            "Slow consumer",
            Closed::SlowConsumer,
        );
    }

    /// Looks at the deadlines of a client, does what is due, and says when to look again.
    pub fn tick(&mut self, now: Now, client: Client) -> Option<Instant> {
        loop {
            let pace = self.rules.pace;
            let connection = self.connection_mut(client.key)?;
            if connection.serial != client.serial {
                return None;
            }
            let parked = connection.parked > 0;
            match connection.deadlines.due(now.mono, &pace, parked) {
                None => {
                    let next = connection.deadlines.next(&pace, parked);
                    self.pump(now);
                    return next;
                }
                Some(Due::KeepAlive) => self.send(now, client.key, protocol::keep_alive()),
                Some(Due::Ping) => self.outboxes.force(client.key, websocket::ping(b"")),
                Some(Due::Expired) => self.go_away(now, client.key, "Going away", Closed::Duration),
                Some(Due::Idle) => self.go_away(now, client.key, "Going away", Closed::Idle),
                Some(Due::HeartbeatMissed) => {
                    self.go_away(now, client.key, "Heartbeat timeout", Closed::Heartbeat)
                }
                Some(Due::Dead) => {
                    self.disconnected(now, client);
                    self.notices.push(Notice::Dead(client));
                }
            }
        }
    }

    /// Ends a connection with a close frame.
    pub fn close(&mut self, now: Now, key: Key, code: CloseCode, reason: &str, why: Closed) {
        self.end(now, key, code, reason, why);
        self.pump(now);
    }

    fn go_away(&mut self, now: Now, key: Key, reason: &str, why: Closed) {
        self.close(now, key, CloseCode::GOING_AWAY, reason, why);
    }

    /// Ends a connection. What waited for a client that reads too slowly is dropped; everybody else gets it before the
    /// close frame. Callers pump: this may itself be part of it.
    fn end(&mut self, now: Now, key: Key, code: CloseCode, reason: &str, why: Closed) {
        let Some(client) = self.client(key) else {
            return;
        };
        let frame = websocket::close(code, reason);
        if why == Closed::SlowConsumer {
            self.outboxes.cut(key, frame);
        } else {
            self.outboxes.force(key, frame);
        }
        self.metrics.closed(why, code.0);
        self.forget(now, key, why);
        self.notices.push(Notice::Closed(client));
    }

    /// The peer has gone, or broke the rules of the transport: cleans up as for any disconnect (R-CONN-23).
    pub fn disconnected(&mut self, now: Now, client: Client) {
        if self.client(client.key) == Some(client) {
            self.metrics.closed(Closed::Transport, 1006);
            self.forget(now, client.key, Closed::Transport);
            self.pump(now);
        }
    }

    /// Removes a connection and all its subscriptions.
    fn forget(&mut self, now: Now, key: Key, why: Closed) {
        let Some(connection) = self.connections.get_mut(key).and_then(Option::take) else {
            return;
        };
        info!(connection = connection.id.as_str(), ?why, "disconnected");
        self.by_id.remove(&connection.id);
        for subscription in &connection.subscriptions {
            self.leave(now, connection.id, subscription);
        }
        self.metrics.connections.dec();
        if self.tells {
            let facts = ConnectionFacts::of(&connection, Some(now.wall));
            self.tell(Happening::Connection {
                what: ConnectionChange::Disconnected,
                connection: Box::new(facts),
            });
        }
    }

    fn count_channels(&self) {
        self.metrics
            .channels
            .set(i64::try_from(self.channels.len()).unwrap_or(i64::MAX));
    }

    fn client(&self, key: Key) -> Option<Client> {
        self.connection(key).map(|connection| Client {
            key,
            serial: connection.serial,
        })
    }

    fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key)?.as_deref()
    }

    fn connection_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key)?.as_deref_mut()
    }

    /// Verifies a token, and counts and logs why not.
    fn verify(&mut self, now: Now, token: &str) -> Result<Claims, Refusal> {
        self.verifier
            .verify(token, now.wall)
            .inspect_err(|refusal| {
                self.metrics.auth_failed(refusal.cause());
                warn!(cause = refusal.cause(), "a token was refused: {refusal}");
            })
    }
}

/// What a message asks for, for the metrics.
fn counted_as(kind: Option<Kind>) -> MessageKind {
    match kind {
        Some(Kind::Subscribe) => MessageKind::Subscribe,
        Some(Kind::Unsubscribe) => MessageKind::Unsubscribe,
        Some(Kind::Ping | Kind::Pong) => MessageKind::Ping,
        Some(Kind::Heartbeat) => MessageKind::Heartbeat,
        Some(Kind::UmdUpdate) => MessageKind::UmdUpdate,
        Some(Kind::StorageSet | Kind::StorageGet) => MessageKind::Storage,
        Some(Kind::Reaction) => MessageKind::Reaction,
        Some(Kind::Message) => MessageKind::Publish,
        None => MessageKind::Invalid,
    }
}

/// What must be remembered of a single-use token.
fn single_use(claims: &Claims) -> Option<SingleUse> {
    claims.single_use.as_ref().map(|jti| SingleUse {
        jti: jti.clone(),
        until: claims.expires,
    })
}

impl Rules {
    fn bounds(&self) -> Bounds {
        Bounds {
            bytes: self.limits.outbound_bytes,
            frames: self.limits.outbound_messages,
        }
    }
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Self {
        let limits = &settings.limits;
        Self {
            pace: Pace {
                idle: limits.idle,
                duration: limits.duration,
                keep_alive: limits.keep_alive,
                ping: limits.ping,
            },
            limits: limits.clone(),
            compression: settings.compression,
            region: (*settings.region).into(),
        }
    }
}

#[cfg(test)]
mod tests;
