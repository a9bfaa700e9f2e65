//! Messages on their way to a channel: from clients (section 9 of the protocol) and from backends (section 19).

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::entrusting::Reply;
use super::subscribing::{channel_of, check_channel};
use super::{Asker, Client, Hub};
use crate::connection::{Connection, ConnectionId, Origin};
use crate::engine::{Deferred, Publish, Request, Source};
use crate::function_api::Invocation;
use crate::json::Json;
use crate::metrics::Trigger;
use crate::names::{self, DATA_BYTES, RETENTION_SECONDS};
use crate::outbox::Key;
use crate::protocol::{self, Code, Failure, Inbound, Kind};
use crate::time::Now;

/// By which door a client sends something.
#[derive(Debug, Clone, Copy)]
pub enum Via<'a> {
    /// Its WebSocket.
    WebSocket,
    /// The client HTTP API; the request may come from elsewhere than the connection (R-HTTP-33).
    Http(&'a Origin),
}

impl Via<'_> {
    fn trigger(self) -> Trigger {
        match self {
            Self::WebSocket => Trigger::ClientWebSocket,
            Self::Http(_) => Trigger::ClientHttp,
        }
    }

    /// What is noted of something that a connection sends.
    pub(super) fn source(self, connection: &Connection) -> Arc<Source> {
        let origin = match self {
            Self::WebSocket => &connection.origin,
            Self::Http(origin) => origin,
        };
        source(self.trigger(), Some(connection.id), origin.clone())
    }
}

/// A backend that sends something, and by which door.
#[derive(Clone, Copy)]
pub struct Backend<'a> {
    /// Who is answered.
    pub client: Client,
    /// The door.
    pub trigger: Trigger,
    /// Where it comes from; asked only for what is kept or told.
    pub origin: &'a dyn Fn() -> Origin,
    /// The form of the answer, if it is that of a function.
    pub invocation: Option<Invocation>,
}

impl Backend<'_> {
    pub(super) fn asker(&self) -> Asker {
        match self.invocation {
            None => Asker::Request(self.client),
            Some(invocation) => Asker::Invocation(self.client, invocation),
        }
    }

    /// Is everything only to be checked?
    pub(super) fn only_asks(&self) -> bool {
        self.invocation == Some(Invocation::DryRun)
    }

    pub(super) fn source(&self) -> Arc<Source> {
        source(self.trigger, None, (self.origin)())
    }
}

impl fmt::Debug for Backend<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("client", &self.client)
            .field("trigger", &self.trigger)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// An event of the application, or a reaction, sent by a client through whichever door. What is wrong with it is
    /// returned; what comes of it later, whoever asked is told. The caller pumps.
    pub(super) fn client_publish(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        message: &Inbound<'_>,
        via: Via<'_>,
    ) -> Result<(), Failure> {
        let event = &*message.event;
        if Kind::of(event) == Some(Kind::Reaction) {
            return self.react(now, asker, key, message, via);
        }
        let called = message.channel.as_deref();
        check_event(event, called)?;
        let called = channel_of(message)?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let (channel, subscription) = self.place(connection, called);
        let grants = connection.grants(&channel, subscription).message(event);
        // The verdicts of R-PUB-2 to R-PUB-7.
        match grants.publish {
            Some(false) => {
                return Err(Failure::from(Code::PublishPermissionDenied).in_channel(called));
            }
            _ if grants.broadcast => {}
            Some(true) if subscription.is_some() => {}
            Some(true) => return Err(Failure::from(Code::NotSubscribed).in_channel(called)),
            None => return Err(Failure::from(Code::PublishPermissionDenied).in_channel(called)),
        }
        let at = message.planned(now, called, grants.schedule_before_ms)?;
        let data = data(message.data, called)?;
        let identity =
            subscription.map_or(&connection.identity, |subscription| &subscription.identity);
        let (store, emit) = (grants.store, grants.emit_pub_sub_event);
        let has_source = store != 0 || emit || at.is_some();
        let publish = Publish {
            event: event.into(),
            data,
            meta: Some(identity.clone()),
            except: (!grants.echo).then_some(connection.id),
            deduplication_id: None,
            store,
            emit,
            source: has_source.then(|| via.source(connection)),
            channel,
        };
        self.metrics.published(via.trigger());
        if store != 0 {
            self.metrics.stored.inc();
        }
        match (asker, at) {
            // Fire and forget (R-DLV-12).
            (Asker::Socket(_), None) if store == 0 && !self.engine.is_elsewhere() => {
                let ticket = self.engine.submit(now, Request::Publish(publish));
                self.tracer.accepted(now, ticket, via.trigger());
            }
            _ => {
                let eager = message.eager_id_generation;
                let reply = Reply::new(asker, called, event, eager);
                let request = self.now_or_later(at, publish, eager);
                self.entrust(now, request, reply);
            }
        }
        Ok(())
    }

    /// `POST /publish`: a backend may publish anything anywhere (R-SRV-9).
    pub(crate) fn publish_from_backend(
        &mut self,
        now: Now,
        backend: &Backend<'_>,
        message: &protocol::Publish<'_>,
    ) -> Result<(), Failure> {
        check_channel(&message.channel)?;
        match Kind::of(&message.event) {
            Some(Kind::StorageSet) => self.write_from_backend(now, backend, message),
            Some(Kind::Reaction) => self.react_from_backend(now, backend, message),
            _ => self.message_from_backend(now, backend, message),
        }?;
        self.pump(now);
        Ok(())
    }

    fn message_from_backend(
        &mut self,
        now: Now,
        backend: &Backend<'_>,
        message: &protocol::Publish<'_>,
    ) -> Result<(), Failure> {
        let (called, event) = (&*message.channel, &*message.event);
        check_event(event, Some(called))?;
        let at = message.planned(now)?;
        let (store, emit) = (message.store.unwrap_or(0), message.emit_pub_sub_event);
        if !(-1..=RETENTION_SECONDS).contains(&store) {
            return Err(Failure::because(
                Code::InvalidMessage,
                format!("store is -1, 0 or a number of seconds up to {RETENTION_SECONDS}"),
            )
            .in_channel(called));
        }
        let has_source = store != 0 || emit || at.is_some();
        let publish = Publish {
            channel: called.into(),
            event: event.into(),
            data: data(message.data, called)?,
            meta: None,
            except: None,
            deduplication_id: message.deduplication_id.as_deref().map(Into::into),
            store,
            emit,
            source: has_source.then(|| backend.source()),
        };
        if backend.only_asks() {
            return Ok(());
        }
        self.metrics.published(backend.trigger);
        if store != 0 {
            self.metrics.stored.inc();
        }
        let eager = message.eager_id_generation;
        let reply = Reply::new(&backend.asker(), called, event, eager);
        let request = self.now_or_later(at, publish, eager);
        self.entrust(now, request, reply);
        Ok(())
    }

    fn now_or_later(&self, at: Option<jiff::Timestamp>, publish: Publish, eager: bool) -> Request {
        match at {
            None => Request::Publish(publish),
            Some(at) => self.later(at, Deferred::Publish(publish), eager),
        }
    }
}

/// How something came, with a new name for its request (R-EVT-28).
fn source(trigger: Trigger, connection: Option<ConnectionId>, origin: Origin) -> Arc<Source> {
    let request_id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = Uuid::encode_buffer();
    let request_id = &*request_id.hyphenated().encode_lower(&mut text);
    Arc::new(Source {
        trigger,
        connection,
        origin,
        request_id: request_id.into(),
    })
}

/// The name of an event that is to be published.
fn check_event(event: &str, channel: Option<&str>) -> Result<(), Failure> {
    names::check_event(event).map_err(|why| {
        let failure = Failure::because(Code::InvalidEvent, why.to_string());
        match channel {
            Some(channel) => failure.in_channel(channel),
            None => failure,
        }
    })
}

/// The payload of a message or the value of an entry: compact, at most [`DATA_BYTES`]; nothing is `null` (R-PUB-13,
/// R-PUB-19, R-DLV-3, R-LIM-8).
pub(super) fn data(raw: Option<&RawValue>, called: &str) -> Result<Json, Failure> {
    let Some(raw) = raw else {
        return Ok(Json::null());
    };
    let data = Json::from_raw(raw).map_err(|why| {
        Failure::because(Code::InvalidMessage, why.to_string()).in_channel(called)
    })?;
    if data.as_str().len() > DATA_BYTES {
        return Err(Failure::from(Code::DataTooLarge).in_channel(called));
    }
    Ok(data)
}
