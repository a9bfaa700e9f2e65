//! What the server announces.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use redis_protocol::resp3::types::BytesFrame;

use super::answers::stored;
use super::{Fields, Garbled, Link};
use crate::connection::ConnectionId;
use crate::engine::cluster::event::{Announced, Event};
use crate::engine::cluster::reply::{text, unpack};
use crate::engine::{Answer, Caller, Outcome, Ticket};

impl Link {
    /// Something was announced.
    pub(super) fn pushed(&mut self, now: Instant, frame: BytesFrame) {
        if let Err(error) = self.read_push(now, frame) {
            self.complain(now, &error);
        }
    }

    fn read_push(&mut self, now: Instant, frame: BytesFrame) -> Result<(), Garbled> {
        let mut fields = Fields::of(frame)?;
        if &*fields.bytes()? != b"message" {
            // That a subscription has begun or ended.
            return Ok(());
        }
        let place = fields.text()?;
        let body = fields.bytes()?;
        let prefix = self.installation.prefix.len() + 1;
        match place.get(prefix..).unwrap_or_default().split_once(':') {
            Some(("e", name)) => self.announced(now, name, body),
            Some(("returns", _)) => self.returned(body),
            None if place.get(prefix..) == Some("calls") => self.called(body),
            _ => Ok(()),
        }
    }

    fn announced(&mut self, now: Instant, name: &str, body: Bytes) -> Result<(), Garbled> {
        let Some((name, channel)) = self.channels.get_key_value(name) else {
            return Ok(());
        };
        if !channel.live {
            // What is announced while older things are still to be read is among them.
            return Ok(());
        }
        let announced = Announced::read(body)?;
        let position = announced.position;
        if channel.position.is_some_and(|last| position <= last) {
            return Ok(());
        }
        if *announced.origin == *self.node.as_bytes() {
            // The answer says the same, and stands beside this: before it or after it, depending on the server's version.
            return Ok(());
        }
        let name = name.clone();
        if channel.position.is_some_and(|last| position != last + 1) {
            // This can't happen as long as all that Redis sends arrives; if it does, the log has what is missing.
            self.reread(now, &name);
            return Ok(());
        }
        self.happen(&name, announced)
    }

    /// Something has happened in a channel: the next thing after all that is known.
    pub(super) fn happen(&mut self, name: &Arc<str>, announced: Announced) -> Result<(), Garbled> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Ok(());
        };
        channel.position = Some(announced.position);
        let (change, except) = match announced.event()? {
            Event::Message(id, publish) => {
                self.outcomes.push(Outcome::Message(id, publish));
                return Ok(());
            }
            Event::Storage(write) => {
                self.outcomes.push(stored(write));
                return Ok(());
            }
            Event::Reaction(id, reacting) => {
                self.outcomes.push(Outcome::Reaction { id, reacting });
                return Ok(());
            }
            Event::Added(member, except) => (channel.put(member), except),
            Event::Updated(member) => (channel.put(member), None),
            Event::Removed(member) => (channel.take(&member.uid), None),
        };
        if let Some(change) = change {
            let members = channel.list();
            self.outcomes.push(Outcome::Presence {
                channel: name.clone(),
                change,
                members,
                except,
            });
        }
        Ok(())
    }

    /// Another process asks for a call.
    fn called(&mut self, body: Bytes) -> Result<(), Garbled> {
        let parts = unpack(body)?;
        let [from, ticket, connection, call] = &parts[..] else {
            return Err(Garbled("a call is cut off"));
        };
        if **from == *self.process.as_bytes() {
            return Ok(());
        }
        let connection = ConnectionId::parse(&text(connection)?);
        self.outcomes.push(Outcome::Call {
            from: Caller {
                node: text(from)?.into(),
                ticket: ticket_of(ticket)?,
            },
            connection: connection.ok_or(Garbled("a call for no connection"))?,
            call: call.to_vec(),
        });
        Ok(())
    }

    /// Another process has carried out a call of this one.
    fn returned(&mut self, body: Bytes) -> Result<(), Garbled> {
        let parts = unpack(body)?;
        let [ticket, answer] = &parts[..] else {
            return Err(Garbled("an answer to a call is cut off"));
        };
        let ticket = ticket_of(ticket)?;
        if self.calls.remove(&ticket).is_some() {
            self.answer(Some(ticket), Answer::Called(answer.to_vec()));
        }
        Ok(())
    }
}

fn ticket_of(bytes: &[u8]) -> Result<Ticket, Garbled> {
    let number = text(bytes)?.parse();
    number
        .map(Ticket)
        .map_err(|_| Garbled("a call without a number"))
}
