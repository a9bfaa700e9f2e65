//! Reactions to stored messages (section 15 of the protocol).
//!
//! What a client may put on a message depends on the message's event, which only the engine knows. So it is asked twice:
//! which event, and then for the change.

use std::sync::Arc;

use ulid::Ulid;

use super::entrusting::Reply;
use super::publishing::{Backend, Via};
use super::subscribing::channel_of;
use super::{Asker, Client, Hub, Waiting};
use crate::channels::ChannelKey;
use crate::connection::{Connection, Subscription};
use crate::engine::{self, Answer, Request, Source};
use crate::json::Json;
use crate::names::{self, UID_CHARACTERS, UMD_BYTES};
use crate::outbox::Key;
use crate::protocol::{self, Action, Code, Failure, Inbound, Meta};
use crate::time::Now;

/// A client's reaction, as long as the event of its message is not known.
#[derive(Debug)]
pub struct Finding {
    asker: Asker,
    /// In whose name.
    client: Client,
    /// The channel as it was called.
    called: Box<str>,
    channel: Arc<str>,
    message: Ulid,
    reaction: Box<str>,
    add: bool,
    source: Arc<Source>,
}

impl Hub {
    /// `hotsock.messageReaction` of a client, through whichever door.
    pub(super) fn react(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        message: &Inbound<'_>,
        via: Via<'_>,
    ) -> Result<(), Failure> {
        let called = channel_of(message)?;
        let wanted = Wanted::read(message.data, message.schedule_expression.is_some())
            .map_err(|failure| failure.in_channel(called))?;
        let Some(connection) = self.connection(key) else {
            return Ok(());
        };
        let (channel, subscription) = self.place(connection, called);
        let subscription =
            subscription.ok_or_else(|| Failure::from(Code::NotSubscribed).in_channel(called))?;
        if subscription.identity.uid.is_none() {
            return Err(Failure::from(Code::ReactionUserIdRequired).in_channel(called));
        }
        let message = (wanted.message)
            .ok_or_else(|| Failure::from(Code::MessageNotFound).in_channel(called))?;
        let finding = Finding {
            asker: asker.clone(),
            client: Client {
                key,
                serial: connection.serial,
            },
            called: called.into(),
            channel: channel.clone(),
            message,
            reaction: wanted.reaction,
            add: wanted.add,
            source: via.source(connection),
        };
        let request = Request::Find { channel, message };
        self.ask_for(now, asker, request, Waiting::Finding(Box::new(finding)));
        Ok(())
    }

    /// The event of the message is known, or that there is no such message.
    pub(super) fn found(&mut self, now: Now, finding: Finding, answer: Answer) {
        if let Asker::Socket(client) = finding.asker
            && !self.unpark(now, client)
        {
            return;
        }
        let (asker, called) = (finding.asker.clone(), finding.called.clone());
        if let Err(failure) = self.react_to(now, finding, answer) {
            self.refuse_asker(now, &asker, &failure.in_channel(&*called));
        }
    }

    /// Permission is that of now: meanwhile the subscription of somebody who asked over HTTP may have ended.
    fn react_to(&mut self, now: Now, finding: Finding, answer: Answer) -> Result<(), Failure> {
        let event = match answer {
            Answer::Found(Some(event)) => event,
            Answer::Found(None) => return Err(Code::MessageNotFound.into()),
            Answer::Unavailable(why) => return Err(Failure::unavailable(why)),
            _ => return Err(Code::InternalError.into()),
        };
        let (connection, subscription) = self.subscribed(finding.client, &finding.channel)?;
        let uid = (subscription.identity.uid.clone()).ok_or(Code::ReactionUserIdRequired)?;
        let grants = connection.grants(&finding.channel, Some(subscription));
        let target = grants.message(&event);
        if !target.react.allows(&finding.reaction) {
            return Err(Code::ReactionPermissionDenied.into());
        }
        let echo = grants.message(protocol::REACTION).echo;
        let reacting = engine::Reacting {
            message: finding.message,
            reaction: finding.reaction,
            add: finding.add,
            uid,
            umd: subscription.identity.umd.clone(),
            except: (!echo).then_some(connection.id),
            emit: target.emit_pub_sub_event,
            source: finding.source,
            channel: finding.channel,
        };
        self.metrics.reactions.inc();
        let reply = Reply::new(&finding.asker, &finding.called, protocol::REACTION, false);
        self.entrust(now, Request::React(reacting), reply);
        Ok(())
    }

    fn subscribed(
        &self,
        client: Client,
        channel: &str,
    ) -> Result<(&Connection, &Subscription), Code> {
        let connection = (self.connection(client.key))
            .filter(|connection| connection.serial == client.serial)
            .ok_or(Code::Unauthorized)?;
        let at: Option<ChannelKey> = self.channels.find(channel);
        let subscription = at.and_then(|at| connection.subscription(at));
        Ok((connection, subscription.ok_or(Code::NotSubscribed)?))
    }

    /// A reaction of a backend, in the name of whomever it says (R-REACT-15).
    pub(super) fn react_from_backend(
        &mut self,
        now: Now,
        backend: &Backend<'_>,
        message: &protocol::Publish<'_>,
    ) -> Result<(), Failure> {
        let called = &*message.channel;
        let scheduled = message.schedule_expression.is_some();
        let wanted = Wanted::read(message.data, scheduled).and_then(|wanted| {
            let author = author(&message.author)?;
            let target = wanted.message.ok_or(Code::MessageNotFound)?;
            Ok((wanted, author, target))
        });
        let (wanted, (uid, umd), target) = wanted.map_err(|why| why.in_channel(called))?;
        let reacting = engine::Reacting {
            channel: called.into(),
            message: target,
            reaction: wanted.reaction,
            add: wanted.add,
            uid,
            umd,
            except: None,
            emit: message.emit_pub_sub_event,
            source: backend.source(),
        };
        if backend.only_asks() {
            return Ok(());
        }
        self.metrics.reactions.inc();
        let reply = Reply::new(&backend.asker(), called, protocol::REACTION, false);
        self.entrust(now, Request::React(reacting), reply);
        Ok(())
    }

    /// A reaction was put on a message or taken off: all subscribers are told, but perhaps not who did it (R-REACT-10,
    /// R-REACT-11).
    pub(super) fn reacted(&mut self, now: Now, id: Ulid, reacting: &engine::Reacting) {
        let action = match reacting.add {
            true => Action::Add,
            false => Action::Remove,
        };
        let meta = Meta {
            uid: Some(&reacting.uid),
            umd: reacting.umd.as_ref(),
        };
        let (mut id_text, mut message_text) = ([0; ulid::ULID_LEN], [0; ulid::ULID_LEN]);
        let payload = protocol::reaction(
            id.array_to_str(&mut id_text),
            &reacting.channel,
            reacting.message.array_to_str(&mut message_text),
            &reacting.reaction,
            action,
            meta,
        );
        self.fan_out(now, &reacting.channel, &payload, reacting.except);
    }
}

/// What is asked for, checked (R-REACT-1, R-REACT-17, R-LIM-10).
struct Wanted {
    /// Nothing if what was given can't name a message.
    message: Option<Ulid>,
    reaction: Box<str>,
    add: bool,
}

impl Wanted {
    fn read(data: Option<&serde_json::value::RawValue>, scheduled: bool) -> Result<Self, Failure> {
        if scheduled {
            return Err(Failure::because(
                Code::InvalidSchedule,
                "a reaction can't be scheduled",
            ));
        }
        let wanted = protocol::parse_reaction(data)?;
        names::check_reaction(&wanted.reaction)
            .map_err(|why| Failure::because(Code::InvalidReaction, why.to_string()))?;
        Ok(Self {
            message: wanted.message_id.parse().ok(),
            reaction: wanted.reaction.into(),
            add: wanted.action == Action::Add,
        })
    }
}

/// In whose name a backend reacts: with the limits that tokens have (R-LIM-9).
fn author(author: &protocol::Author<'_>) -> Result<(Arc<str>, Option<Json>), Failure> {
    let uid = (author.uid.as_deref())
        .filter(|uid| !uid.is_empty())
        .ok_or_else(|| {
            Failure::because(Code::ReactionUserIdRequired, "meta.uid is missing or empty")
        })?;
    if names::has_more_characters(uid, UID_CHARACTERS) {
        return Err(Failure::because(
            Code::InvalidMessage,
            format!("meta.uid has at most {UID_CHARACTERS} characters"),
        ));
    }
    let umd = (author.umd.map(Json::from_raw).transpose())
        .map_err(|why| Failure::because(Code::InvalidMessage, format!("meta.umd: {why}")))?
        .filter(|umd| !umd.is_null());
    if umd
        .as_ref()
        .is_some_and(|umd| umd.as_str().len() > UMD_BYTES)
    {
        return Err(Failure::because(
            Code::DataTooLarge,
            format!("meta.umd has at most {UMD_BYTES} bytes"),
        ));
    }
    Ok((uid.into(), umd))
}
