//! Members and counts: what concerns memory alone.

use std::sync::Arc;

use super::super::marks::Mark;
use super::super::store::task::{Marking, Task};
use super::super::{Answer, Outcome, Ticket};
use super::Embedded;
use super::line::{Action, Held, Then};
use crate::connection::ConnectionId;
use crate::events::Happening;
use crate::presence::{Change, Member, Presence};
use crate::time::Now;

/// A channel with subscribers.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) counted: u64,
    /// All subscriptions, those that are not counted included: an entry nobody uses is removed.
    pub(super) subscriptions: u64,
    pub(super) presence: Presence,
}

impl Embedded {
    /// Does what concerns memory alone. What it still has to wait for, if for anything.
    pub(super) fn perform(&mut self, now: Now, channel: &Arc<str>, action: Action) -> Option<Held> {
        match action {
            Action::Join {
                ticket,
                connection,
                member,
                counted,
                observed,
                spent,
            } => {
                let state = self.channels.entry(channel.clone()).or_default();
                let presence = member.is_some();
                let change = match member.map_or(Ok(None), |member| state.presence.join(member)) {
                    Ok(change) => change,
                    Err(_) => {
                        if state.subscriptions == 0 {
                            self.channels.remove(channel);
                        }
                        return self.refuse(now, channel, ticket, spent);
                    }
                };
                state.subscriptions += 1;
                state.counted += u64::from(counted);
                let subscriptions = state.counted;
                let members = presence.then(|| state.presence.members());
                if let Some(spent) = spent {
                    self.remember(now, &spent);
                }
                let answer = Answer::Joined {
                    members: members.clone(),
                    observed,
                };
                self.answer(ticket, answer);
                if counted {
                    self.counted(channel, subscriptions);
                }
                if let (Some(change), Some(members)) = (change, members) {
                    // A new member is announced to the others; new metadata of a known one to all, the joiner included
                    // (R-PRES-11).
                    let except = matches!(change, Change::Added(_)).then_some(connection);
                    self.changed(channel.clone(), change, members, except, true);
                }
            }
            Action::Leave { uid, counted } => self.leave(channel, uid.as_deref(), counted),
            Action::Update {
                ticket,
                member,
                spent,
            } => {
                if let Some(state) = self.channels.get_mut(channel) {
                    match state.presence.update(&member.uid, member.umd) {
                        Err(_) => return self.refuse(now, channel, ticket, spent),
                        Ok(None) => {}
                        Ok(Some(change)) => {
                            let members = state.presence.members();
                            self.changed(channel.clone(), change, members, None, true);
                        }
                    }
                }
                if let Some(spent) = spent {
                    self.remember(now, &spent);
                }
                self.answer(ticket, Answer::Done);
            }
            Action::Describe { ticket } => {
                let answer = self.describe(channel);
                self.answer(ticket, answer);
            }
        }
        None
    }

    /// The member list has no room: a token that was spent for it is taken back first (R-CLAIM-25).
    pub(super) fn refuse(
        &mut self,
        now: Now,
        channel: &Arc<str>,
        ticket: Ticket,
        spent: Option<Marking>,
    ) -> Option<Held> {
        let mark: Option<Mark> = spent.map(|spent| spent.mark);
        let given = mark.and_then(|mark| {
            let task = Task::Unspend { mark };
            self.store
                .give(now, self.ids.last, Some(channel.clone()), None, task)
        });
        match given {
            Some(number) => Some(Held::Awaited(
                number,
                Then::Tells(ticket, Answer::PresenceFull),
            )),
            None => {
                self.answer(ticket, Answer::PresenceFull);
                None
            }
        }
    }

    pub(super) fn leave(&mut self, channel: &Arc<str>, uid: Option<&str>, counted: bool) {
        let Some(state) = self.channels.get_mut(channel) else {
            return;
        };
        state.subscriptions -= 1;
        state.counted -= u64::from(counted);
        let subscriptions = state.counted;
        let change = uid.and_then(|uid| state.presence.leave(uid));
        let members = change.is_some().then(|| state.presence.members());
        let heard = state.subscriptions > 0;
        if !heard {
            self.channels.remove(channel);
        }
        if counted {
            self.counted(channel, subscriptions);
        }
        if let (Some(change), Some(members)) = (change, members) {
            self.changed(channel.clone(), change, members, None, heard);
        }
    }

    /// A member list has changed: for subscribers, if there are any, and for backends.
    pub(super) fn changed(
        &mut self,
        channel: Arc<str>,
        change: Change,
        members: Arc<[Member]>,
        except: Option<ConnectionId>,
        heard: bool,
    ) {
        let told = self.tells.then(|| {
            Outcome::Tell(Happening::Member {
                channel: channel.clone(),
                change: change.clone(),
                members: members.clone(),
            })
        });
        if heard {
            self.outcomes.push_back(Outcome::Presence {
                channel,
                change,
                members,
                except,
            });
        }
        self.outcomes.extend(told);
    }

    pub(super) fn counted(&mut self, channel: &Arc<str>, subscriptions: u64) {
        if self.tells {
            self.outcomes.push_back(Outcome::Tell(Happening::Channel {
                channel: channel.clone(),
                subscriptions,
            }));
        }
    }

    pub(super) fn describe(&self, channel: &str) -> Answer {
        match self.channels.get(channel) {
            Some(state) => Answer::Described {
                subscriptions: state.counted,
                members: state.presence.members(),
            },
            None => Answer::Described {
                subscriptions: 0,
                members: Arc::default(),
            },
        }
    }
}
