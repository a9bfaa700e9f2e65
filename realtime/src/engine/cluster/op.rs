//! A request on its way: which script carries it out, with what arguments, and how far it is.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::channel::Held;
use super::event::{body, rest_of};
use super::reply::hex;
use super::scripts::Script;
use crate::engine::marks::mark;
use crate::engine::{
    DEDUPLICATION_WINDOW, Deferred, Entry, History, Keys, OBSERVED_BYTES, Request, SPENT_MARGIN,
    Select, SingleUse, Stored, Ticket, Write,
};
use crate::json::Json;
use crate::names::MEMBER_LIST_BYTES;
use crate::presence::Member;

/// Keys of storage that are looked at in one step.
const KEYS: usize = 1000;

/// A request, and how far it is.
#[derive(Debug)]
pub struct Op {
    /// Who waits for the answer, if anybody does.
    pub ticket: Option<Ticket>,
    /// What is to be done.
    pub work: Work,
    /// Its number while it is not known what came of it.
    pub sequence: Option<u64>,
    /// It is counted among the subscriptions of its channel.
    pub entered: bool,
    /// Whoever asked has been told that it can't be done now.
    pub abandoned: bool,
    /// What has been gathered so far.
    pub progress: Progress,
}

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// A request of the hub, other than leaving.
    Asked(Box<Request>),
    /// Subscriptions end.
    Release(Arc<str>, Option<Arc<str>>, Held),
}

/// What has been gathered by a request that takes several steps.
#[derive(Debug, Default)]
pub enum Progress {
    /// Nothing, or all of it in one step.
    #[default]
    None,
    /// The keys of a channel's storage are being gathered, for a subscription that observes some.
    Keys(Observed),
    /// They are known.
    Observes(Observed),
    /// A page of storage.
    Page(Page),
    /// A page of history.
    Messages(Vec<Stored>, usize, Option<String>),
}

/// The keys that a subscription observes.
#[derive(Debug, Default)]
pub struct Observed {
    /// Of which version of the set of keys.
    pub version: String,
    /// Where to go on.
    pub after: Option<Bytes>,
    /// The keys.
    pub keys: Vec<Bytes>,
    /// How often the set has changed in the meantime.
    pub tries: usize,
}

/// A page of storage that is being gathered.
#[derive(Debug, Default)]
pub struct Page {
    /// What it has.
    pub entries: Vec<Entry>,
    /// The size of that.
    pub bytes: usize,
    /// Keys whose values are wanted.
    pub keys: VecDeque<Bytes>,
    /// Where to look for further keys.
    pub after: Option<Bytes>,
    /// There are no further keys.
    pub complete: bool,
}

impl Op {
    /// For a request of the hub.
    pub fn new(ticket: Ticket, request: Request) -> Self {
        let mut progress = Progress::None;
        let work = match request {
            Request::Leave {
                channel,
                connection: _,
                uid,
                counted,
            } => {
                let held = Held {
                    subscriptions: 1,
                    counted: usize::from(counted),
                };
                Work::Release(channel, uid, held)
            }
            request => {
                if let Request::List {
                    select, permitted, ..
                } = &request
                {
                    progress = Progress::Page(Page::of(select, permitted));
                }
                Work::Asked(Box::new(request))
            }
        };
        Self {
            ticket: Some(ticket),
            work,
            sequence: None,
            entered: false,
            abandoned: false,
            progress,
        }
    }

    /// Subscriptions end that nobody has asked to end.
    pub fn release(channel: Arc<str>, uid: Option<Arc<str>>, held: Held) -> Self {
        Self {
            ticket: None,
            work: Work::Release(channel, uid, held),
            sequence: None,
            entered: false,
            abandoned: false,
            progress: Progress::None,
        }
    }

    /// The single-use token was spent for it already.
    pub fn forget_token(&mut self) {
        if let Work::Asked(request) = &mut self.work
            && let Request::Join { spend, .. } = &mut **request
        {
            *spend = None;
        }
    }

    /// Does it end subscriptions? That is never given up.
    pub fn releases(&self) -> bool {
        matches!(self.work, Work::Release(..))
    }

    /// The request of the hub.
    pub fn request(&self) -> Option<&Request> {
        match &self.work {
            Work::Asked(request) => Some(request),
            Work::Release(..) => None,
        }
    }

    /// The channel in which a subscription begins, and of whom.
    pub fn joins(&self) -> Option<(&Arc<str>, Option<&Member>)> {
        match self.request() {
            Some(Request::Join {
                channel, member, ..
            }) => Some((channel, member.as_ref())),
            _ => None,
        }
    }

    /// Does it change anything? Then it must not be done twice.
    pub fn changes(&self) -> bool {
        match self.request() {
            None => true,
            Some(request) => match request {
                Request::Spend(_)
                | Request::Join { .. }
                | Request::Leave { .. }
                | Request::Update { .. }
                | Request::Publish(_)
                | Request::Write(_)
                | Request::React(_)
                | Request::Schedule { .. }
                | Request::Cancel(_) => true,
                Request::Check(_)
                | Request::Describe { .. }
                | Request::Read { .. }
                | Request::List { .. }
                | Request::History(_)
                | Request::Find { .. }
                | Request::Reactions { .. }
                | Request::Planned(_)
                | Request::Call { .. }
                | Request::Return { .. } => false,
            },
        }
    }

    /// How large its answer may be, in megabytes or so: the server ends connections on which too much waits.
    pub fn weight(&self) -> usize {
        match self.request() {
            Some(Request::List { .. } | Request::History(_)) => 1,
            Some(Request::Join {
                observe: Some(_), ..
            }) => match self.progress {
                Progress::Observes(_) => 8,
                _ => 1,
            },
            _ => 0,
        }
    }

    /// The script that does its next step, and the arguments. `listed`: the members are wanted.
    pub fn step(&self, listed: bool) -> Option<(Script, Vec<Bytes>)> {
        let request = match &self.work {
            Work::Release(channel, uid, held) => {
                let mut arguments = vec![text(channel)];
                arguments.extend(optional(uid.as_deref()));
                arguments.push(number(held.subscriptions));
                arguments.push(number(held.counted));
                return Some((Script::Leave, arguments));
            }
            Work::Asked(request) => &**request,
        };
        Some(match request {
            Request::Spend(token) => {
                let [mark, until] = spend(Some(token));
                (Script::Spend, vec![mark, until])
            }
            Request::Join {
                channel,
                connection,
                member,
                counted,
                observe,
                spend: token,
            } => {
                if let Progress::Keys(observed) = &self.progress {
                    return Some((Script::Keys, keys(channel, observed.after.as_ref())));
                }
                let mut arguments = vec![
                    text(channel),
                    text(connection.as_str()),
                    flag(*counted),
                    flag(member.is_some()),
                ];
                match member {
                    None => arguments.extend([Bytes::new(), Bytes::new(), Bytes::new(), number(0)]),
                    Some(member) => arguments.extend(of_member(member)),
                }
                arguments.push(number(MEMBER_LIST_BYTES));
                arguments.push(flag(listed));
                let (observing, observed) = match (&self.progress, observe) {
                    (_, None) => (Bytes::new(), &[][..]),
                    (Progress::Observes(observed), _) => (text(&observed.version), &*observed.keys),
                    _ => (Bytes::from_static(b"all"), &[][..]),
                };
                arguments.push(observing);
                arguments.extend(spend(token.as_ref()));
                arguments.push(number(OBSERVED_BYTES));
                arguments.extend_from_slice(observed);
                (Script::Join, arguments)
            }
            Request::Update {
                channel,
                member,
                spend: token,
            } => {
                let [uid, umd, digest, size] = of_member(member);
                let [mark, until] = spend(token.as_ref());
                let limit = number(MEMBER_LIST_BYTES);
                let arguments = vec![text(channel), uid, umd, digest, size, limit, mark, until];
                (Script::Update, arguments)
            }
            Request::Publish(publish) => {
                let [copy, window] = deduplicated(&publish.channel, &publish.deduplication_id);
                let arguments = vec![
                    text(&publish.channel),
                    text(&publish.event),
                    number(publish.store),
                    copy,
                    window,
                    body(publish),
                ];
                (Script::Publish, arguments)
            }
            Request::Describe { channel } => (Script::Describe, vec![text(channel)]),
            Request::Write(write) => {
                let [copy, window] = deduplicated(&write.channel, &write.deduplication_id);
                let arguments = vec![
                    text(&write.channel),
                    text(&write.key),
                    number(write.store),
                    copy,
                    window,
                    digest_of(write),
                    flag(write.emit),
                    value_of(write),
                    rest_of(write),
                ];
                (Script::Write, arguments)
            }
            Request::Read { channel, key } => (Script::Values, vec![text(channel), text(key)]),
            Request::List { channel, .. } => match &self.progress {
                Progress::Page(page) if page.keys.is_empty() && !page.complete => {
                    (Script::Keys, keys(channel, page.after.as_ref()))
                }
                Progress::Page(page) => {
                    let mut arguments = vec![text(channel)];
                    arguments.extend(page.keys.iter().cloned());
                    (Script::Values, arguments)
                }
                _ => return None,
            },
            Request::History(history) => {
                let (found, cursor) = match &self.progress {
                    Progress::Messages(found, _, cursor) => (found.len(), cursor.as_deref()),
                    _ => (0, None),
                };
                (Script::History, page_of(history, found, cursor))
            }
            Request::Find { channel, message } => {
                (Script::Find, vec![text(channel), hex(*message).into()])
            }
            Request::React(reacting) => {
                let field = format!(
                    "{}:{}{}",
                    reacting.reaction.len(),
                    reacting.reaction,
                    reacting.uid
                );
                let arguments = vec![
                    text(&reacting.channel),
                    hex(reacting.message).into(),
                    field.into(),
                    flag(reacting.add),
                    body(reacting),
                ];
                (Script::React, arguments)
            }
            Request::Reactions {
                channel, message, ..
            } => (Script::Reactions, vec![text(channel), hex(*message).into()]),
            Request::Schedule {
                at,
                deferred,
                eager,
            } => {
                // Not before it: what is less than a millisecond counts as one.
                let ms = at.as_nanosecond().div_euclid(1_000_000)
                    + i128::from(at.as_nanosecond().rem_euclid(1_000_000) > 0);
                let copy = match deferred {
                    Deferred::Publish(publish) => &publish.deduplication_id,
                    Deferred::Write(write) => &write.deduplication_id,
                };
                let [copy, window] = deduplicated(deferred.channel(), copy);
                let mut arguments = vec![number(ms.max(0)), flag(*eager), copy, window];
                match deferred {
                    Deferred::Publish(publish) => arguments.extend([
                        Bytes::from_static(b"P"),
                        text(&publish.channel),
                        text(&publish.event),
                        number(publish.store),
                        body(publish),
                    ]),
                    Deferred::Write(write) => arguments.extend([
                        Bytes::from_static(b"W"),
                        text(&write.channel),
                        text(&write.key),
                        number(write.store),
                        digest_of(write),
                        flag(write.emit),
                        value_of(write),
                        rest_of(write),
                    ]),
                }
                (Script::Schedule, arguments)
            }
            Request::Planned(id) => (Script::Planned, vec![hex(*id).into()]),
            Request::Cancel(id) => (Script::Cancel, vec![hex(*id).into()]),
            Request::Check(token) => (Script::Check, vec![token_mark(token).into()]),
            Request::Call { .. } | Request::Return { .. } | Request::Leave { .. } => return None,
        })
    }
}

impl Page {
    fn of(select: &Select, permitted: &Keys) -> Self {
        match select {
            Select::Named(named) => {
                let readable = named.iter().filter(|key| permitted.permit(key));
                let mut keys: Vec<_> = readable.map(|key| text(key)).collect();
                keys.sort_unstable();
                keys.dedup();
                keys.truncate(crate::engine::PAGE_ITEMS);
                Self {
                    keys: keys.into(),
                    complete: true,
                    ..Self::default()
                }
            }
            Select::After(after) => Self {
                after: after.as_deref().map(text),
                ..Self::default()
            },
        }
    }
}

/// A text as an argument.
pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A number as an argument.
pub fn number(number: impl ToString) -> Bytes {
    number.to_string().into()
}

/// Yes or no as an argument.
pub fn flag(flag: bool) -> Bytes {
    Bytes::from_static(if flag { b"1" } else { b"0" })
}

/// Something that may be absent as two arguments.
pub fn optional(value: Option<&str>) -> [Bytes; 2] {
    [flag(value.is_some()), text(value.unwrap_or_default())]
}

/// A member as arguments: uid, metadata, the digest of that, the member's size.
pub fn of_member(member: &Member) -> [Bytes; 4] {
    let umd = member.umd.as_ref();
    let meaning = umd.map_or_else(|| Json::null().meaning(), Json::meaning);
    [
        text(&member.uid),
        text(umd.map_or("", Json::as_str)),
        Bytes::copy_from_slice(&meaning),
        number(member.size()),
    ]
}

/// The mark of a token under which its use is remembered, as the scripts write it.
fn token_mark(token: &SingleUse) -> String {
    hexadecimal(&mark(&[&token.jti]))
}

fn spend(token: Option<&SingleUse>) -> [Bytes; 2] {
    let Some(token) = token else {
        return [Bytes::new(), number(0)];
    };
    let until = token.until.checked_add(SPENT_MARGIN);
    let until = until.map_or(i64::MAX / 2, |until| until.as_millisecond());
    [token_mark(token).into(), number(until.max(1))]
}

fn deduplicated(channel: &str, id: &Option<Box<str>>) -> [Bytes; 2] {
    let copy = id.as_deref().map_or_else(String::new, |id| {
        // A channel's name holds no white space, so the two parts can't run into each other.
        hexadecimal(&mark(&[channel, " ", id]))
    });
    [copy.into(), number(DEDUPLICATION_WINDOW.as_millis())]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of(write: &Write) -> Bytes {
    let value = write.value.as_ref();
    value.map_or_else(Bytes::new, |value| Bytes::copy_from_slice(&value.meaning()))
}

fn value_of(write: &Write) -> Bytes {
    text(write.value.as_ref().map_or("", Json::as_str))
}

fn keys(channel: &str, after: Option<&Bytes>) -> Vec<Bytes> {
    vec![
        text(channel),
        after.cloned().unwrap_or_default(),
        flag(after.is_none()),
        number(KEYS),
    ]
}

fn page_of(history: &History, found: usize, cursor: Option<&str>) -> Vec<Bytes> {
    let since = u128::try_from(history.since_ms).unwrap_or(0) << 80;
    let mut low = format!("[{since:032x}");
    let mut high = "+".to_owned();
    let beyond = cursor.map(|cursor| format!("({cursor}"));
    if history.reverse {
        if let Some(before) = history.before {
            high = format!("({}", hex(before));
        }
        high = beyond.unwrap_or(high);
    } else {
        if let Some(after) = history.after
            && after.0 >= since
        {
            low = format!("({}", hex(after));
        }
        low = beyond.unwrap_or(low);
    }
    vec![
        text(&history.channel),
        low.into(),
        high.into(),
        flag(history.reverse),
        text(history.event.as_deref().unwrap_or_default()),
        number(crate::engine::PAGE_ITEMS.saturating_sub(found).max(1)),
    ]
}
