//! What a node knows of a channel in which it has subscribers: how far it has read, who is present, what it holds itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::presence::{Change, Member, same};

/// A channel with subscribers in this process, or on their way.
#[derive(Debug, Default)]
pub struct Channel {
    /// The last announcement that was processed; `None`: none is known yet.
    pub position: Option<u64>,
    /// Announcements are processed as they come. Otherwise what was missed is being read first.
    pub live: bool,
    /// Members are in the list whom Redis does not have: they are kept until the other nodes had time to say so.
    pub doubted: bool,
    /// Members in order: a copy of what Redis has, kept up by the announcements.
    pub members: Vec<Member>,
    /// Subscriptions that exist, begin or have not ended yet.
    pub subscriptions: usize,
    /// What Redis holds for this node, by user.
    pub held: BTreeMap<Option<Arc<str>>, Held>,
}

/// Subscriptions of one user, or of nobody in particular.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How many.
    pub subscriptions: usize,
    /// How many of them count.
    pub counted: usize,
}

impl Channel {
    /// A subscription has begun.
    pub fn hold(&mut self, uid: Option<Arc<str>>, counted: bool) {
        let held = self.held.entry(uid).or_default();
        held.subscriptions += 1;
        held.counted += usize::from(counted);
    }

    /// Subscriptions have ended.
    pub fn let_go(&mut self, uid: &Option<Arc<str>>, ended: Held) {
        if let Some(held) = self.held.get_mut(uid) {
            held.subscriptions = held.subscriptions.saturating_sub(ended.subscriptions);
            held.counted = held.counted.saturating_sub(ended.counted);
            if held.subscriptions == 0 {
                self.held.remove(uid);
            }
        }
    }

    /// The list, as it is shown.
    pub fn list(&self) -> Arc<[Member]> {
        self.members.as_slice().into()
    }

    /// A member is new, or has other metadata. `None`: the list has it so already.
    pub fn put(&mut self, member: Member) -> Option<Change> {
        match self.members.iter_mut().find(|it| it.uid == member.uid) {
            None => {
                self.members.push(member.clone());
                Some(Change::Added(member))
            }
            Some(known) if same(known.umd.as_ref(), member.umd.as_ref()) => None,
            Some(known) => {
                *known = member.clone();
                Some(Change::Updated(member))
            }
        }
    }

    /// A member is gone. `None`: it was not there.
    pub fn take(&mut self, uid: &str) -> Option<Change> {
        let at = self.members.iter().position(|it| &*it.uid == uid)?;
        Some(Change::Removed(self.members.remove(at)))
    }

    /// The list is known to be another one: gives the changes that make it so, each with the list after it. Members who are
    /// not in it may be kept for now: after a failure other nodes may not have said yet who they have.
    pub fn become_list(
        &mut self,
        now: Vec<Member>,
        keep_missing: bool,
    ) -> Vec<(Change, Arc<[Member]>)> {
        let mut changes = Vec::new();
        let missing: Vec<_> = self
            .members
            .iter()
            .filter(|known| now.iter().all(|member| member.uid != known.uid))
            .map(|known| known.uid.clone())
            .collect();
        if !keep_missing {
            for uid in &missing {
                if let Some(change) = self.take(uid) {
                    changes.push((change, self.list()));
                }
            }
        }
        for member in &now {
            if let Some(change) = self.put(member.clone()) {
                changes.push((change, self.list()));
            }
        }
        let kept = self.members.iter().filter(|it| missing.contains(&it.uid));
        self.members = now.iter().chain(kept).cloned().collect();
        changes
    }

    /// Are there members whom Redis does not have?
    pub fn misses(&self, now: &[Member]) -> bool {
        self.members
            .iter()
            .any(|known| now.iter().all(|member| member.uid != known.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    fn member(uid: &str, umd: u8) -> Member {
        Member {
            uid: uid.into(),
            umd: (umd > 0).then(|| Json::compact(&umd.to_string()).expect("JSON")),
        }
    }

    /// R-PRES-5, R-PRES-8
    #[test]
    fn a_list_becomes_another_by_changes_that_lead_there() {
        let mut channel = Channel::default();
        for member in [member("ana", 0), member("ben", 1), member("cem", 0)] {
            assert!(channel.put(member).is_some());
        }
        let wanted = vec![member("ana", 2), member("cem", 0), member("dan", 0)];
        let mut followed = Channel {
            members: channel.members.clone(),
            ..Channel::default()
        };
        let changes = channel.become_list(wanted.clone(), false);
        assert_eq!(changes.len(), 3);
        for (change, list) in changes {
            match change {
                Change::Added(member) | Change::Updated(member) => {
                    followed.put(member);
                }
                Change::Removed(member) => {
                    followed.take(&member.uid);
                }
            }
            assert_eq!(*list, *followed.members);
        }
        assert_eq!(channel.members, wanted);
    }

    #[test]
    fn who_is_missing_may_stay_for_now() {
        let mut channel = Channel {
            members: vec![member("ana", 0), member("ben", 0)],
            ..Channel::default()
        };
        let now = vec![member("ben", 0)];
        assert!(channel.misses(&now));
        assert!(channel.become_list(now.clone(), true).is_empty());
        assert_eq!(channel.members.len(), 2);
        let changes = channel.become_list(now, false);
        assert!(matches!(&changes[..], [(Change::Removed(gone), _)] if &*gone.uid == "ana"));
    }
}
