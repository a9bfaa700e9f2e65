//! Who is present in a channel: pure, one structure per presence channel (section 11 of the protocol).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::json::Json;
use crate::names::MEMBER_LIST_BYTES;
use crate::protocol;

/// One entry of a member list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The user; unique in a list (R-PRES-7).
    pub uid: Arc<str>,
    /// The metadata written last by any of the user's subscriptions (R-PRES-14); `None` stands for `null`.
    pub umd: Option<Json>,
}

/// Members as messages show them.
pub fn views(members: &[Member]) -> Vec<protocol::Member<'_>> {
    members.iter().map(Member::view).collect()
}

impl Member {
    /// As messages show it.
    pub fn view(&self) -> protocol::Member<'_> {
        protocol::Member {
            uid: &self.uid,
            umd: self.umd.as_ref(),
        }
    }

    /// The size of `{"uid":…,"umd":…}` in bytes, for the limit of R-LIM-11.
    pub(crate) fn size(&self) -> usize {
        let uid = serde_json::to_string(&self.uid).map_or(self.uid.len() + 2, |text| text.len());
        r#"{"uid":,"umd":}"#.len()
            + uid
            + self
                .umd
                .as_ref()
                .map_or("null".len(), |umd| umd.as_str().len())
    }
}

/// What a join or an update did to the list.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A user joined who was not there.
    Added(Member),
    /// A user's metadata is another one.
    Updated(Member),
    /// The last subscription of a user ended.
    Removed(Member),
}

/// The list would exceed [`MEMBER_LIST_BYTES`]; nothing was changed (R-PRES-17, R-PRES-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapacityReached;

/// The members of one channel, in the order in which each user first joined (R-PRES-8).
#[derive(Debug, Default)]
pub struct Presence {
    entries: Vec<Entry>,
    /// The sum of the members' sizes.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    member: Member,
    size: usize,
    /// How many subscriptions the user has.
    holders: usize,
}

impl Presence {
    /// A subscription of a user begins. `None`: the list is as it was (R-PRES-9).
    ///
    /// # Errors
    /// [`CapacityReached`].
    pub fn join(&mut self, member: Member) -> Result<Option<Change>, CapacityReached> {
        if let Some(entry) = self.find(&member.uid) {
            let change = self.update(&member.uid.clone(), member.umd)?;
            self.entries[entry].holders += 1;
            return Ok(change);
        }
        let size = member.size();
        if self.bytes + size > MEMBER_LIST_BYTES {
            return Err(CapacityReached);
        }
        self.bytes += size;
        self.entries.push(Entry {
            member: member.clone(),
            size,
            holders: 1,
        });
        Ok(Some(Change::Added(member)))
    }

    /// A subscription of a user ends.
    pub fn leave(&mut self, uid: &str) -> Option<Change> {
        let at = self.find(uid)?;
        let entry = &mut self.entries[at];
        entry.holders -= 1;
        if entry.holders > 0 {
            return None;
        }
        let entry = self.entries.remove(at);
        self.bytes -= entry.size;
        Some(Change::Removed(entry.member))
    }

    /// A user's metadata is written anew. `None`: it had that value already (R-PRES-16), or the user is not here.
    ///
    /// # Errors
    /// [`CapacityReached`].
    pub fn update(
        &mut self,
        uid: &str,
        umd: Option<Json>,
    ) -> Result<Option<Change>, CapacityReached> {
        let Some(at) = self.find(uid) else {
            return Ok(None);
        };
        let entry = &mut self.entries[at];
        if same(entry.member.umd.as_ref(), umd.as_ref()) {
            return Ok(None);
        }
        let changed = Member {
            uid: entry.member.uid.clone(),
            umd,
        };
        let size = changed.size();
        if self.bytes - entry.size + size > MEMBER_LIST_BYTES {
            return Err(CapacityReached);
        }
        self.bytes = self.bytes - entry.size + size;
        entry.size = size;
        entry.member = changed.clone();
        Ok(Some(Change::Updated(changed)))
    }

    /// A member whose subscriptions are still to be adopted; it keeps the place and the metadata it had.
    pub fn expect_member(&mut self, member: Member) {
        let size = member.size();
        self.bytes += size;
        self.entries.push(Entry {
            member,
            size,
            holders: 0,
        });
    }

    /// A subscription that came from another process, of an expected member or, if that was not told, of a new one.
    pub fn adopt(&mut self, member: Member) {
        let at = self.find(&member.uid).unwrap_or_else(|| {
            self.expect_member(member);
            self.entries.len() - 1
        });
        self.entries[at].holders += 1;
    }

    /// Removes one of the members whose subscriptions have not come.
    pub fn remove_unheld(&mut self) -> Option<Member> {
        let at = self.entries.iter().position(|entry| entry.holders == 0)?;
        let entry = self.entries.remove(at);
        self.bytes -= entry.size;
        Some(entry.member)
    }

    /// The list, as it is shown.
    pub fn members(&self) -> Arc<[Member]> {
        self.entries
            .iter()
            .map(|entry| entry.member.clone())
            .collect()
    }

    /// Nobody is here.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, uid: &str) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| &*entry.member.uid == uid)
    }
}

/// Are two pieces of metadata the same value? `None` is `null`.
pub fn same(one: Option<&Json>, other: Option<&Json>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.same_value(other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn json(text: &str) -> Option<Json> {
        Some(Json::compact(text).expect("JSON")).filter(|json| !json.is_null())
    }

    fn member(uid: &str, umd: &str) -> Member {
        Member {
            uid: uid.into(),
            umd: json(umd),
        }
    }

    /// A string of so many bytes, quotes included.
    fn text(bytes: usize) -> String {
        format!("\"{}\"", "x".repeat(bytes - 2))
    }

    /// A list of two that takes exactly [`MEMBER_LIST_BYTES`].
    fn full() -> Presence {
        let mut presence = Presence::default();
        let ana = member("ana", "null");
        let rest = MEMBER_LIST_BYTES - ana.size() - member("ben", "null").size_without_umd();
        presence.join(ana).expect("there is room");
        let ben = member("ben", &text(rest));
        presence.join(ben).expect("exactly so much fits");
        presence
    }

    impl Member {
        fn size_without_umd(&self) -> usize {
            self.size() - self.umd.as_ref().map_or(4, |umd| umd.as_str().len())
        }
    }

    /// R-LIM-11: what counts is the text of each member as messages show it, without what stands between them.
    #[test]
    fn a_member_is_as_large_as_its_text() {
        for uid in [
            "a",
            "Zoë",
            "\"quoted\\\"",
            "\u{1}\n\t\u{7f}",
            "🎉",
            "</script>",
        ] {
            for umd in ["null", "1", r#"{"a":[1,2.50,"\u00e9\n"]}"#, r#""é""#] {
                let member = member(uid, umd);
                let view = member.view();
                let with = |members: &[protocol::Member<'_>]| {
                    protocol::member_added("presence.x", &view, members).len()
                };
                assert_eq!(
                    with(&[member.view()]) - with(&[]),
                    member.size(),
                    "{member:?}"
                );
            }
        }
    }

    /// R-LIM-11, R-PRES-17, R-PRES-18
    #[test]
    fn a_list_holds_exactly_its_limit() {
        let mut presence = full();
        let before = presence.members();
        let bytes: usize = before.iter().map(Member::size).sum();
        assert_eq!(bytes, MEMBER_LIST_BYTES);

        let ben = before[1].umd.as_ref().expect("a value").as_str().len();
        let longer = json(&text(ben + 1));
        assert_eq!(presence.join(member("c", "1")), Err(CapacityReached));
        assert_eq!(presence.update("ben", longer.clone()), Err(CapacityReached));
        assert_eq!(presence.update("ana", json("false")), Err(CapacityReached));
        let again = Member {
            uid: "ben".into(),
            umd: longer.clone(),
        };
        assert_eq!(presence.join(again), Err(CapacityReached));
        assert_eq!(presence.members(), before);

        assert_eq!(presence.join(before[1].clone()), Ok(None));
        assert!(presence.leave("ben").is_none(), "two held it");
        // A byte less here is a byte more there.
        assert!(matches!(presence.update("ana", json("1")), Ok(Some(_))));
        assert!(matches!(presence.update("ben", longer), Ok(Some(_))));
        assert!(matches!(presence.leave("ben"), Some(Change::Removed(_))));
        assert!(matches!(presence.join(member("c", "1")), Ok(Some(_))));
    }

    /// R-PRES-16: an update of somebody who is not here changes nothing (R-UMD-15).
    #[test]
    fn an_update_is_for_those_who_are_here() {
        let mut presence = Presence::default();
        assert_eq!(presence.update("ana", json("1")), Ok(None));
        assert_eq!(presence.leave("ana"), None);
        assert!(presence.is_empty());
    }

    /// What subscriptions do, by the number of the user and of the value.
    #[derive(Debug, Clone)]
    enum Step {
        Join(usize, usize),
        /// One of the live subscriptions, counted modulo their number.
        Leave(usize),
        Update(usize, usize),
    }

    const UIDS: [&str; 5] = ["ana", "ben", "Zoë\n", "\"", "e"];

    /// Two of them are equal but for the order of members; three are so large that not many fit.
    fn values() -> Vec<String> {
        let mut values = ["null", "0", r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#]
            .map(str::to_owned)
            .to_vec();
        values.extend([25_000, 34_000, 51_000].map(text));
        values
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (uid, umd) = (0..UIDS.len(), 0..values().len());
        let step = prop_oneof![
            4 => (uid, umd.clone()).prop_map(|(uid, umd)| Step::Join(uid, umd)),
            3 => any::<usize>().prop_map(Step::Leave),
            3 => (any::<usize>(), umd).prop_map(|(at, umd)| Step::Update(at, umd)),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// The rules, said as plainly as possible.
    #[derive(Default, Clone)]
    struct Model {
        /// The uid of each live subscription.
        subscriptions: Vec<usize>,
        /// Uid and umd, in order.
        list: Vec<(usize, String)>,
    }

    impl Model {
        /// Writes a value; true if that is another one. Nothing, if the list would be too large.
        fn write(&mut self, uid: usize, umd: &str) -> Option<bool> {
            let mut list = self.list.clone();
            let meaning = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
            match list.iter_mut().find(|(listed, _)| *listed == uid) {
                Some((_, value)) if meaning(value) == meaning(umd) => return Some(false),
                Some((_, value)) => umd.clone_into(value),
                None => list.push((uid, umd.to_owned())),
            }
            let shown = |(uid, umd): &(usize, String)| {
                let uid = serde_json::to_string(UIDS[*uid]).expect("JSON");
                format!(r#"{{"uid":{uid},"umd":{umd}}}"#)
            };
            let bytes: usize = list.iter().map(|entry| shown(entry).len()).sum();
            (bytes <= 102_400).then(|| self.list = list).map(|()| true)
        }

        fn members(&self) -> Vec<Member> {
            self.list
                .iter()
                .map(|(uid, umd)| member(UIDS[*uid], umd))
                .collect()
        }
    }

    proptest! {
        /// R-PRES-7, R-PRES-8, R-PRES-9, R-PRES-10, R-PRES-12, R-PRES-14, R-PRES-16, R-PRES-17, R-PRES-18: whatever joins,
        /// updates and leaves in whatever order, there is one entry for each uid that has a subscription, in the order of
        /// first joins, with the value written last; a change is told exactly when there is one, and a refusal changes
        /// nothing.
        #[test]
        fn a_list_is_what_its_subscriptions_make_it(steps in steps()) {
            let values = values();
            let (mut presence, mut model) = (Presence::default(), Model::default());
            for step in steps {
                match step {
                    Step::Join(uid, umd) => {
                        let is_new = !model.subscriptions.contains(&uid);
                        let joining = member(UIDS[uid], &values[umd]);
                        let expected = match model.write(uid, &values[umd]) {
                            None => Err(CapacityReached),
                            Some(false) => Ok(None),
                            Some(true) if is_new => Ok(Some(Change::Added(joining.clone()))),
                            Some(true) => Ok(Some(Change::Updated(joining.clone()))),
                        };
                        if expected.is_ok() {
                            model.subscriptions.push(uid);
                        }
                        prop_assert_eq!(presence.join(joining), expected);
                    }
                    Step::Leave(at) if !model.subscriptions.is_empty() => {
                        let uid = model.subscriptions.remove(at % model.subscriptions.len());
                        let mut expected = None;
                        if !model.subscriptions.contains(&uid) {
                            let at = model.list.iter().position(|(listed, _)| *listed == uid);
                            let (uid, umd) = model.list.remove(at.expect("it was listed"));
                            expected = Some(Change::Removed(member(UIDS[uid], &umd)));
                        }
                        prop_assert_eq!(presence.leave(UIDS[uid]), expected);
                    }
                    Step::Update(at, umd) if !model.subscriptions.is_empty() => {
                        let uid = model.subscriptions[at % model.subscriptions.len()];
                        let expected = match model.write(uid, &values[umd]) {
                            None => Err(CapacityReached),
                            Some(false) => Ok(None),
                            Some(true) => {
                                Ok(Some(Change::Updated(member(UIDS[uid], &values[umd]))))
                            }
                        };
                        prop_assert_eq!(presence.update(UIDS[uid], json(&values[umd])), expected);
                    }
                    Step::Leave(_) | Step::Update(..) => {}
                }
                prop_assert_eq!(&*presence.members(), &*model.members());
                prop_assert_eq!(presence.is_empty(), model.subscriptions.is_empty());
            }
        }
    }
}
