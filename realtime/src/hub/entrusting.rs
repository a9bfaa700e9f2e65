//! What is entrusted to the engine, to be kept, planned or changed: whoever asked is told what came of it.
//!
//! A client over its WebSocket does not wait for that: it is told only of a failure (R-ERR-9), and what it sends next is read.
//! But nothing that it sends may overtake what it has sent (R-CONN-22). What goes the same way through the engine stays
//! behind by itself; anything else is held until all is answered.

use std::sync::Arc;

use http::StatusCode;

use super::{Asker, Client, Hub, Waiting};
use crate::api;
use crate::connection::Entrusted;
use crate::engine::{Answer, Request};
use crate::metrics::Trigger;
use crate::outbox::Key;
use crate::protocol::{self, Code, Failure, Inbound, Kind};
use crate::schedule;
use crate::time::Now;

/// What one client may have sent to be kept or planned before the engine has answered. Whoever sends faster than is
/// written to disk waits for it, and fills nobody else's queue.
const ENTRUSTED: u32 = 64;

/// Whoever is told what came of something that was sent, and what the answer repeats (R-HTTP-9, R-HTTP-29, R-SRV-7).
#[derive(Debug)]
pub struct Reply {
    asker: Asker,
    /// The channel as it was called.
    called: Box<str>,
    event: Box<str>,
    with_id: bool,
    /// A client over its WebSocket waits for it.
    parks: bool,
}

impl Reply {
    pub(super) fn new(asker: &Asker, called: &str, event: &str, with_id: bool) -> Self {
        Self {
            asker: asker.clone(),
            called: called.into(),
            event: event.into(),
            with_id,
            parks: false,
        }
    }
}

impl Hub {
    /// Submits what somebody is to be told about.
    pub(super) fn entrust(&mut self, now: Now, request: Request, mut reply: Reply) {
        if let Asker::Socket(client) = reply.asker
            && let Some(channel) = channel_of(&request)
            && let Some(connection) = self.connection_mut(client.key)
        {
            let entrusted = connection.entrusted.get_or_insert_with(|| {
                Box::new(Entrusted {
                    count: 0,
                    channel: Some(channel.clone()),
                    held: None,
                })
            });
            entrusted.count += 1;
            if entrusted.channel.as_ref() != Some(channel) {
                entrusted.channel = None;
            }
            reply.parks = entrusted.count >= ENTRUSTED;
            connection.parked += u32::from(reply.parks);
        }
        let trigger = match (&request, &reply.asker) {
            (Request::Publish(_), Asker::Socket(_)) => Some(Trigger::ClientWebSocket),
            (Request::Publish(publish), _) if publish.meta.is_some() => Some(Trigger::ClientHttp),
            (Request::Publish(_), _) => Some(Trigger::ServerHttp),
            _ => None,
        };
        let ticket = self.engine.submit(now, request);
        if let Some(trigger) = trigger {
            self.tracer.accepted(now, ticket, trigger);
        }
        self.waiting.insert(ticket, Waiting::Accepted(reply));
    }

    /// What was entrusted is done, or is not.
    pub(super) fn accepted(&mut self, now: Now, reply: &Reply, answer: &Answer) {
        let Reply { asker, called, .. } = reply;
        if let Asker::Socket(client) = *asker {
            if self.client(client.key) != Some(client) {
                return;
            }
            if reply.parks {
                self.unpark(now, client);
            }
            // What it has caused is said in outcomes that follow this answer; what came behind it comes behind them.
            self.to_release.push_back(client);
        }
        let (id, plan) = match answer {
            Answer::Done => (None, None),
            Answer::Published(id) => (Some(*id), None),
            Answer::Scheduled { schedule, message } => (*message, Some(*schedule)),
            refused => {
                let failure = match refused {
                    Answer::NotFound => Code::MessageNotFound.into(),
                    Answer::Unavailable(why) => Failure::unavailable(why),
                    _ => Code::InternalError.into(),
                };
                return self.refuse_asker(now, asker, &failure.in_channel(&**called));
            }
        };
        // There is no acknowledgement on the WebSocket (R-ERR-9).
        if let Asker::Socket(_) = asker {
            return;
        }
        let id = id.filter(|_| reply.with_id).map(|id| id.to_string());
        let arn = plan.map(|plan| schedule::arn(&self.rules.region, plan));
        let body = protocol::accepted(called, &reply.event, id.as_deref(), arn.as_deref());
        self.answer_asker(now, asker, api::json(StatusCode::ACCEPTED, body));
    }

    /// May what a client sends be done before all is answered that it has entrusted to the engine? What the engine puts into
    /// its place behind that may, and what has no effect. Anything else might overtake it: a message in another channel, the
    /// end of a subscription, even a pong.
    pub(super) fn goes_along(&self, key: Key, kind: Option<Kind>, message: &Inbound<'_>) -> bool {
        let Some(connection) = self.connection(key) else {
            return true;
        };
        let Some(entrusted) = &connection.entrusted else {
            return true;
        };
        let is_message = match kind {
            Some(Kind::Heartbeat | Kind::Pong | Kind::StorageSet | Kind::Reaction) => return true,
            Some(Kind::Message) if self.engine.is_elsewhere() => return true,
            Some(Kind::Message) => true,
            Some(Kind::StorageGet) => false,
            _ => return false,
        };
        let Some(called) = message.channel.as_deref() else {
            return true;
        };
        let channel = self.real_name(connection, called);
        let is_kept = || {
            let subscription =
                (self.channels.find(&channel)).and_then(|at| connection.subscription(at));
            let grants = connection.grants(&channel, subscription);
            message.schedule_expression.is_some() || grants.message(&message.event).store != 0
        };
        entrusted.channel.as_ref() == Some(&channel) || (is_message && is_kept())
    }

    /// Does a client wait for an answer about something that it has entrusted to the engine?
    pub(super) fn has_entrusted(&self, key: Key) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.entrusted.is_some())
    }

    /// A message waits until all is answered that its client has entrusted to the engine.
    pub(super) fn hold(&mut self, key: Key, text: &str) {
        if let Some(connection) = self.connection_mut(key)
            && let Some(entrusted) = &mut connection.entrusted
        {
            entrusted.held = Some(text.into());
            connection.parked += 1;
        }
    }

    /// Something that a client has entrusted is answered, and its effects are told. If it was the last, what was held is
    /// done.
    pub(super) fn release_held(&mut self, now: Now, client: Client) {
        if self.client(client.key) != Some(client) {
            return;
        }
        let Some(connection) = self.connection_mut(client.key) else {
            return;
        };
        let Some(entrusted) = &mut connection.entrusted else {
            return;
        };
        entrusted.count -= 1;
        if entrusted.count > 0 {
            return;
        }
        let held = connection.entrusted.take().and_then(|it| it.held);
        if let Some(text) = held {
            self.unpark(now, client);
            let done = protocol::parse(&text).and_then(|message| self.obey(now, client, &message));
            if let Err(failure) = done {
                self.refuse(now, client.key, &failure);
            }
        }
    }
}

/// The channel that something is for that can be entrusted.
fn channel_of(request: &Request) -> Option<&Arc<str>> {
    match request {
        Request::Publish(publish) => Some(&publish.channel),
        Request::Write(write) => Some(&write.channel),
        Request::React(reacting) => Some(&reacting.channel),
        Request::Schedule { deferred, .. } => Some(deferred.channel()),
        _ => None,
    }
}
