//! `hotsock.umdUpdate`: a user's metadata changes while it is connected (section 12 of the protocol).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;

use super::calls::unauthorized;
use super::subscribing::{channel_of, names_connection};
use super::{Asker, Client, Hub, Waiting, single_use};
use crate::api;
use crate::channels::ChannelKey;
use crate::claims::{self, Claims};
use crate::connection::Connection;
use crate::engine::{Answer, Request, SingleUse};
use crate::events::ConnectionChange;
use crate::json::Json;
use crate::names;
use crate::outbox::Key;
use crate::presence::{self, Member};
use crate::protocol::{Code, Failure, Inbound, parse_token};
use crate::time::Now;

/// A change of metadata that waits for the engine.
#[derive(Debug)]
pub struct Updating {
    asker: Asker,
    /// The connection whose metadata changes.
    client: Client,
    target: Target,
    umd: Option<Json>,
    /// The whole that this is a part of.
    whole: Option<Rc<Whole>>,
}

/// What is to have another value.
#[derive(Debug)]
enum Target {
    /// One subscription. An error repeats how the client called the channel (R-ERR-4).
    Subscription {
        channel: ChannelKey,
        name: Arc<str>,
        called: Box<str>,
    },
    /// The connection, and with `propagate` all its subscriptions.
    Connection { propagate: bool },
}

/// A change that reaches all subscriptions of a connection (R-UMD-10). An HTTP request has one answer, when all is done.
#[derive(Debug)]
struct Whole {
    left: Cell<usize>,
    failure: RefCell<Option<Failure>>,
}

impl Whole {
    /// A part is done. The outcome of all parts, once there is one.
    fn done(&self, outcome: Result<(), Failure>) -> Option<Result<(), Failure>> {
        if let Err(failure) = outcome {
            let place = failure.channel.clone().unwrap_or_default();
            let message = format!(
                "the metadata of the connection has changed, but not in `{place}`: {}",
                failure.message
            );
            self.failure.borrow_mut().get_or_insert(Failure {
                message: message.into(),
                ..failure
            });
        }
        self.left.set(self.left.get() - 1);
        (self.left.get() == 0).then(|| self.failure.take().map_or(Ok(()), Err))
    }
}

impl Hub {
    /// `hotsock.umdUpdate`, with a channel or without.
    pub(super) fn update_metadata(
        &mut self,
        now: Now,
        key: Key,
        message: &Inbound<'_>,
    ) -> Result<(), Failure> {
        let Some(client) = self.client(key) else {
            return Ok(());
        };
        let called = message.channel.is_some();
        let called = called.then(|| channel_of(message)).transpose()?;
        let token = parse_token(message.data).map_err(|failure| in_channel(failure, called))?;
        let token = token.unwrap_or_default();
        self.renew_metadata(now, &Asker::Socket(client), key, called, &token)
    }

    /// The metadata of a connection, or of its subscription to the channel of this name, is to be what a token says,
    /// whoever asked (R-UMD-13).
    pub(super) fn renew_metadata(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        called: Option<&str>,
        token: &str,
    ) -> Result<(), Failure> {
        let failure = |code: Code| in_channel(code.into(), called);
        let subscribed = match (self.connection(key), called) {
            (Some(connection), Some(called)) => {
                let name = self.real_name(connection, called);
                let at = self.channels.find(&name);
                let at = at.filter(|&at| connection.subscription(at).is_some());
                Some((at.ok_or_else(|| failure(Code::NotSubscribed))?, name))
            }
            _ => None,
        };
        let token = self
            .verify(now, token)
            .map_err(|_| failure(Code::InvalidUmdToken))?;
        let (Some(client), Some(connection)) = (self.client(key), self.connection(key)) else {
            return Ok(());
        };
        let at = subscribed.as_ref().map(|(at, _)| *at);
        if !token.scope.umd() || !names_holder(connection, at, &token) {
            return Err(failure(Code::InvalidUmdToken));
        }
        let (permitted, target) = match (subscribed, called) {
            (Some((channel, name)), Some(called)) => {
                let permitted = claims::may_update_umd(&token, &name);
                let called = called.into();
                let target = Target::Subscription {
                    channel,
                    name,
                    called,
                };
                (permitted, target)
            }
            _ => {
                let propagate = token.umd_propagate;
                (token.umd_update, Target::Connection { propagate })
            }
        };
        if !permitted {
            return Err(failure(Code::UmdUpdatePermissionDenied));
        }
        let spend = single_use(&token);
        let umd = token.umd.filter(|umd| !umd.is_null());
        let updating = Updating {
            asker: asker.clone(),
            client,
            target,
            umd,
            whole: None,
        };
        self.request(now, updating, spend);
        Ok(())
    }

    /// Asks the engine for what others must agree to: that a single-use token was not spent before, and that a member
    /// list has room (R-PRES-18). It decides both at once, so that a refusal spends nothing (R-CLAIM-25).
    fn request(&mut self, now: Now, updating: Updating, spend: Option<SingleUse>) {
        let member = match &updating.target {
            Target::Subscription { channel, .. } => {
                self.entry(updating.client.key, *channel, &updating.umd)
            }
            Target::Connection { .. } => None,
        };
        let request = match (member, spend) {
            (Some((channel, member)), spend) => Request::Update {
                channel,
                member,
                spend,
            },
            (None, Some(token)) => Request::Spend(token),
            (None, None) => return self.set(now, updating),
        };
        let asker = updating.asker.clone();
        self.ask_for(now, &asker, request, Waiting::Metadata(Box::new(updating)));
    }

    /// The name of a presence channel, and what the entry of a subscription's user is to be there.
    fn entry(
        &self,
        key: Key,
        channel: ChannelKey,
        umd: &Option<Json>,
    ) -> Option<(Arc<str>, Member)> {
        let subscription = self.connection(key)?.subscription(channel)?;
        let name = &self.channels.get(channel)?.name;
        let uid = subscription.identity.uid.clone()?;
        let umd = umd.clone();
        names::is_presence(name).then(|| (name.clone(), Member { uid, umd }))
    }

    pub(super) fn metadata_answered(&mut self, now: Now, updating: Updating, answer: &Answer) {
        let here = match &updating.asker {
            Asker::Socket(client) => self.unpark(now, *client),
            Asker::Request(_) | Asker::Invocation(..) | Asker::Process(_) => {
                self.client(updating.client.key) == Some(updating.client)
            }
        };
        let failure = match answer {
            // It went meanwhile: nothing is left that could have the value (R-UMD-15).
            _ if !here => unauthorized(),
            Answer::Spent => {
                self.metrics.auth_failed("spent");
                Code::InvalidUmdToken.into()
            }
            Answer::PresenceFull => Code::PresenceChannelCapacityReached.into(),
            Answer::Unavailable(sentence) => Failure::unavailable(sentence),
            _ => return self.set(now, updating),
        };
        let called = match &updating.target {
            Target::Subscription { called, .. } => Some(&**called),
            Target::Connection { .. } => None,
        };
        let failure = in_channel(failure, called);
        self.finish(
            now,
            &updating.asker,
            updating.whole.as_deref(),
            Err(failure),
        );
    }

    /// Nothing stands against it: the connection's own part is written.
    fn set(&mut self, now: Now, updating: Updating) {
        let Updating {
            asker,
            client,
            target,
            umd,
            whole,
        } = updating;
        let found = match &target {
            Target::Subscription { name, .. } => self.channels.find(name),
            Target::Connection { .. } => None,
        };
        let Some(connection) = self.connection_mut(client.key) else {
            return;
        };
        let mut subscriptions: Vec<ChannelKey> = Vec::new();
        let mut changed = false;
        match target {
            // While an HTTP request waited, the client may have unsubscribed: the number may be another channel's by now.
            Target::Subscription { channel, .. } => {
                if found == Some(channel)
                    && let Some(subscription) = connection.subscription_mut(channel)
                {
                    subscription.identity.umd = umd.clone();
                }
            }
            Target::Connection { propagate } => {
                changed = !presence::same(connection.identity.umd.as_ref(), umd.as_ref());
                connection.identity.umd.clone_from(&umd);
                if propagate {
                    let all = connection.subscriptions.iter();
                    subscriptions.extend(all.map(|subscription| subscription.channel));
                }
            }
        }
        // R-UMD-12
        if changed {
            self.tell_of_connection(ConnectionChange::Updated, client.key);
        }
        let parts: Vec<_> = (subscriptions.into_iter())
            .filter_map(|channel| Some((channel, self.channels.get(channel)?.name.clone())))
            .collect();
        if parts.is_empty() {
            return self.finish(now, &asker, whole.as_deref(), Ok(()));
        }
        let whole = Rc::new(Whole {
            left: Cell::new(parts.len()),
            failure: RefCell::default(),
        });
        // One by one: a presence channel without room refuses, and all others follow.
        for (channel, name) in parts {
            let called = (*name).into();
            let updating = Updating {
                asker: asker.clone(),
                client,
                target: Target::Subscription {
                    channel,
                    name,
                    called,
                },
                umd: umd.clone(),
                whole: Some(whole.clone()),
            };
            self.request(now, updating, None);
        }
    }

    /// A change, or a part of one, is made or refused. On a WebSocket only a refusal is told (R-UMD-18).
    fn finish(
        &mut self,
        now: Now,
        asker: &Asker,
        whole: Option<&Whole>,
        outcome: Result<(), Failure>,
    ) {
        if let Asker::Socket(client) = asker {
            if let Err(failure) = outcome
                && self.client(client.key) == Some(*client)
            {
                self.refuse(now, client.key, &failure);
            }
            return;
        }
        let outcome = match whole {
            Some(whole) => whole.done(outcome),
            None => Some(outcome),
        };
        match outcome {
            None => {}
            Some(Ok(())) => self.answer_asker(now, asker, api::json(StatusCode::OK, "{}")),
            Some(Err(failure)) => self.refuse_asker(now, asker, &failure),
        }
    }
}

/// A failure, in the channel that the client named if it named one (R-ERR-3).
fn in_channel(failure: Failure, called: Option<&str>) -> Failure {
    match called {
        Some(called) => failure.in_channel(called),
        None => failure,
    }
}

/// Does the token name this connection, or the user of the subscription (R-UMD-5)?
fn names_holder(connection: &Connection, channel: Option<ChannelKey>, token: &Claims) -> bool {
    let of_subscription = || {
        let subscription = channel.and_then(|channel| connection.subscription(channel));
        token.connection_id.is_none()
            && token.uid.is_some()
            && token.uid.as_deref() == subscription.and_then(|it| it.identity.uid.as_deref())
    };
    names_connection(connection, token) || of_subscription()
}
