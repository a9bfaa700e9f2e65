//! Channel storage: written, read, and observed (section 13 of the protocol).

use std::sync::Arc;

use http::StatusCode;

use super::entrusting::Reply;
use super::publishing::{Backend, Via, data};
use super::subscribing::channel_of;
use super::{Asker, Hub, Waiting};
use crate::api;
use crate::channels::ChannelKey;
use crate::connection::Identity;
use crate::engine::{Answer, Deferred, Entry, Request, Write};
use crate::fanout::Encoded;
use crate::json::Json;
use crate::names::{self, RETENTION_SECONDS};
use crate::outbox::Key;
use crate::protocol::{self, Code, Failure, Inbound, Meta};
use crate::time::Now;

/// A read that waits for the engine.
#[derive(Debug)]
pub struct Reading {
    asker: Asker,
    /// The channel as it was called, for an error (R-ERR-4).
    called: Box<str>,
    channel: Arc<str>,
    entry: Box<str>,
}

impl Hub {
    /// `hotsock.channelStorageSet` of a client, through whichever door. What is wrong with it is returned; what comes of it
    /// later, whoever asked is told. The caller pumps.
    pub(super) fn storage_set(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        message: &Inbound<'_>,
        via: Via<'_>,
    ) -> Result<(), Failure> {
        let called = channel_of(message)?;
        let entry = entry_of(message.key.as_deref(), called)?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let (channel, subscription) = self.place(connection, called);
        let grants = connection.grants(&channel, subscription).storage(entry);
        if !grants.set {
            return Err(Failure::from(Code::StorageSetPermissionDenied).in_channel(called));
        }
        let at = message.planned(now, called, grants.schedule_before_ms)?;
        let value = value(data(message.data, called)?);
        // R-STOR-19
        let identity =
            subscription.map_or(&connection.identity, |subscription| &subscription.identity);
        let emit = grants.emit_pub_sub_event;
        let write = Write {
            key: entry.into(),
            value,
            meta: identity.clone(),
            store: grants.store,
            deduplication_id: None,
            emit,
            source: (emit || at.is_some()).then(|| via.source(connection)),
            channel,
        };
        let reply = Reply::new(asker, called, &message.event, false);
        self.write(now, write, at, reply);
        Ok(())
    }

    /// `hotsock.channelStorageSet` of a backend: without permissions, in nobody's name (R-STOR-18, R-STOR-29).
    pub(super) fn write_from_backend(
        &mut self,
        now: Now,
        backend: &Backend<'_>,
        message: &protocol::Publish<'_>,
    ) -> Result<(), Failure> {
        let called = &*message.channel;
        let entry = entry_of(message.key.as_deref(), called)?;
        let at = message.planned(now)?;
        let store = message.store.unwrap_or(-1);
        if !(store == -1 || (1..=RETENTION_SECONDS).contains(&store)) {
            return Err(Failure::because(
                Code::InvalidMessage,
                format!("store is -1 or a number of seconds from 1 to {RETENTION_SECONDS}"),
            )
            .in_channel(called));
        }
        let emit = message.emit_pub_sub_event;
        let write = Write {
            channel: called.into(),
            key: entry.into(),
            value: value(data(message.data, called)?),
            meta: Identity::default(),
            store,
            deduplication_id: message.deduplication_id.as_deref().map(Into::into),
            emit,
            source: (emit || at.is_some()).then(|| backend.source()),
        };
        if backend.only_asks() {
            return Ok(());
        }
        let reply = Reply::new(&backend.asker(), called, &message.event, false);
        self.write(now, write, at, reply);
        Ok(())
    }

    fn write(&mut self, now: Now, write: Write, at: Option<jiff::Timestamp>, reply: Reply) {
        self.metrics.storage_writes.inc();
        let request = match at {
            None => Request::Write(write),
            Some(at) => self.later(at, Deferred::Write(write), false),
        };
        self.entrust(now, request, reply);
    }

    /// `hotsock.channelStorageGet` of a client, through whichever door; what is wrong with it is returned. The caller
    /// pumps.
    pub(super) fn storage_get(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        message: &Inbound<'_>,
    ) -> Result<(), Failure> {
        let called = channel_of(message)?;
        let entry = entry_of(message.key.as_deref(), called)?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let (channel, subscription) = self.place(connection, called);
        if !(connection.grants(&channel, subscription).storage(entry)).get {
            return Err(Failure::from(Code::StorageGetPermissionDenied).in_channel(called));
        }
        let request = Request::Read {
            channel: channel.clone(),
            key: entry.into(),
        };
        let reading = Reading {
            asker: asker.clone(),
            called: called.into(),
            entry: entry.into(),
            channel,
        };
        self.ask_for(now, asker, request, Waiting::Reading(Box::new(reading)));
        Ok(())
    }

    /// The answer to a read, which is the same on the WebSocket and over HTTP (R-STOR-7, R-HTTP-34).
    pub(super) fn entry_read(&mut self, now: Now, reading: &Reading, answer: &Answer) {
        let asker = &reading.asker;
        if let Asker::Socket(client) = *asker
            && !self.unpark(now, client)
        {
            return;
        }
        let entry = match answer {
            Answer::Entry(entry) => entry.as_ref(),
            refused => {
                let failure = match refused {
                    Answer::Unavailable(why) => Failure::unavailable(why),
                    _ => Code::InternalError.into(),
                };
                return self.refuse_asker(now, asker, &failure.in_channel(&*reading.called));
            }
        };
        let entry = entry.map(|entry| (entry.value.as_str(), Meta::from(&entry.meta)));
        let payload = protocol::storage_data(&reading.channel, &reading.entry, entry);
        match asker {
            Asker::Socket(client) => self.send(now, client.key, &payload),
            Asker::Request(_) | Asker::Invocation(..) | Asker::Process(_) => {
                self.answer_asker(now, asker, api::json(StatusCode::OK, payload));
            }
        }
    }

    /// What a new subscription observes, directly after its confirmation (R-STOR-25, R-STOR-26). It may be more than an
    /// outbox holds, and is none of the client's fault.
    pub(super) fn send_observed(&mut self, now: Now, key: Key, channel: &str, observed: &[Entry]) {
        for entry in observed {
            let meta = Meta::from(&entry.meta);
            let payload =
                protocol::storage_updated(channel, &entry.key, entry.value.as_str(), meta);
            let Some(connection) = self.connection(key) else {
                return;
            };
            let frame = Encoded::new(&payload).frame(connection.deflate);
            self.outboxes.make_room(key, payload.len());
            self.push(now, key, frame);
        }
    }

    /// An entry has another value: everybody who observes it is told, the writer included (R-STOR-14, R-STOR-15).
    pub(super) fn entry_changed(
        &mut self,
        now: Now,
        channel: &str,
        entry: &str,
        value: Option<&Json>,
        meta: &Identity,
    ) {
        let Some(at) = self.channels.find(channel) else {
            return;
        };
        let Some(subscribers) = self.channels.get(at).map(|channel| &channel.subscribers) else {
            return;
        };
        let observers: Vec<Key> = (subscribers.iter().copied())
            .filter(|&subscriber| self.observes(subscriber, at, channel, entry))
            .collect();
        if observers.is_empty() {
            return;
        }
        let value = value.map_or("null", Json::as_str);
        let payload = protocol::storage_updated(channel, entry, value, Meta::from(meta));
        let message = Encoded::new(&payload);
        for observer in observers {
            if let Some(connection) = self.connection(observer) {
                let frame = message.frame(connection.deflate);
                self.push(now, observer, frame);
            }
        }
    }

    /// Most subscribers observe nothing, and that is known without asking their tokens.
    fn observes(&self, subscriber: Key, at: ChannelKey, channel: &str, entry: &str) -> bool {
        let Some(connection) = self.connection(subscriber) else {
            return false;
        };
        connection.subscription(at).is_some_and(|subscription| {
            subscription.observes
                && connection
                    .grants(channel, Some(subscription))
                    .observes(entry)
        })
    }
}

/// The key of an entry as the protocol wants it (R-LIM-6, R-SRV-17, R-HTTP-36).
fn entry_of<'a>(key: Option<&'a str>, called: &str) -> Result<&'a str, Failure> {
    let key = key.ok_or_else(|| Failure::from(Code::InvalidKey).in_channel(called))?;
    names::check_storage_key(key)
        .map_err(|why| Failure::because(Code::InvalidKey, why.to_string()).in_channel(called))?;
    Ok(key)
}

/// `null` and `{}` clear the entry, and so does nothing at all (R-STOR-9); everything else is a value (R-STOR-10).
fn value(data: Json) -> Option<Json> {
    Some(data).filter(|data| !matches!(data.as_str(), "null" | "{}"))
}
