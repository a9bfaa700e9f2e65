//! What holds for one channel, from all keys that match it (section 5 of the specification).

use super::Claims;
use super::pattern::{Pattern, Precedence};
use super::rules::{ChannelRule, Votes};

/// The directives that hold for one channel: those of the connect token and, while a subscription lasts that was made
/// with one, those of its subscribe token, taken together as one claim set (R-PERM-16 to R-PERM-20).
#[derive(Debug, Clone, Copy)]
pub struct Grants<'a> {
    /// The token that opened the connection.
    pub connect: &'a Claims,
    /// The token with which the channel was subscribed, if it was with one.
    pub subscription: Option<&'a Claims>,
    /// The channel's real name.
    pub channel: &'a str,
}

/// What holds for one event on one channel. Where the connection may not send the event at all, only `react` means
/// anything (R-PERM-30).
#[derive(Debug, Clone, PartialEq)]
pub struct MessageGrants<'a> {
    /// May send while subscribed; an explicit no denies broadcasting as well (R-PUB-5).
    pub publish: Option<bool>,
    /// May send without being subscribed (R-PUB-3).
    pub broadcast: bool,
    /// The sender receives its own message (R-PUB-9).
    pub echo: bool,
    /// The message is told to the backends (R-PUB-15).
    pub emit_pub_sub_event: bool,
    /// How long the message is kept: -1 forever, 0 not at all, else seconds (R-PUB-14).
    pub store: i64,
    /// The latest time for which it may be scheduled, in Unix milliseconds, inclusive; 0 for never (R-PERM-29).
    pub schedule_before_ms: i64,
    /// Which reactions this connection may add to messages of the event (R-REACT-6).
    pub react: React<'a>,
}

/// Which reactions are permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum React<'a> {
    /// None.
    None,
    /// All.
    All,
    /// Those listed by any matching key; compared byte by byte (R-REACT-7).
    Only(Vec<&'a str>),
}

impl React<'_> {
    /// Whether this reaction is permitted.
    #[must_use]
    pub fn allows(&self, reaction: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(listed) => listed.contains(&reaction),
        }
    }
}

/// What holds for one storage key of one channel. Without `set`, the last three mean nothing (R-PERM-30).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageGrants {
    /// May read it.
    pub get: bool,
    /// May write it.
    pub set: bool,
    /// Is sent its value on subscribing and its changes while subscribed.
    pub observe: bool,
    /// A change by this connection is told to the backends.
    pub emit_pub_sub_event: bool,
    /// How long a value is kept that this connection writes: -1 forever, else seconds (R-PERM-28).
    pub store: i64,
    /// The latest time for which a write may be scheduled, in Unix milliseconds, inclusive; 0 for never (R-PERM-29).
    pub schedule_before_ms: i64,
}

impl<'a> Grants<'a> {
    /// May subscribe (R-PERM-19, R-PERM-24).
    #[must_use]
    pub fn subscribe(&self) -> bool {
        let mut votes = self.votes();
        if self
            .connect
            .auto_subscribe()
            .any(|channel| channel == self.channel)
        {
            votes.cast(Votes::SUBSCRIBE, true);
        }
        votes.grants(Votes::SUBSCRIBE)
    }

    /// May ask how many subscriptions and which members the channel has (R-HTTP-46).
    #[must_use]
    pub fn get_info(&self) -> bool {
        self.votes().grants(Votes::GET_INFO)
    }

    /// A subscription made now is left out of the channel's count (R-SUB-17).
    #[must_use]
    pub fn omit_from_sub_count(&self) -> bool {
        self.votes().grants(Votes::OMIT_FROM_SUB_COUNT)
    }

    /// From when on stored messages are visible, in Unix milliseconds, inclusive: the earliest of all matching keys
    /// (R-PERM-14). Nothing means the start of the subscription.
    #[must_use]
    pub fn history_start_ms(&self) -> Option<i64> {
        self.rules()
            .map(|(_, rule)| rule.history_start_ms)
            .min()
            .filter(|&start| start != i64::MAX)
    }

    /// The alias of the channel; the subscribe token's wins (R-SUB-24).
    #[must_use]
    pub fn alias(&self) -> Option<&'a str> {
        let of_subscription = self
            .subscription
            .and_then(|claims| claims.alias_of(self.channel));
        of_subscription.or_else(|| self.connect.alias_of(self.channel))
    }

    /// What holds for an event (R-PERM-12).
    #[must_use]
    pub fn message(&self, event: &str) -> MessageGrants<'a> {
        let mut votes = Votes::default();
        let mut listed: Option<Vec<&'a str>> = None;
        let mut schedule_before_ms = 0;
        let mut store = Store::default();
        for (token, channel) in self.rules() {
            for rule in channel
                .messages
                .iter()
                .filter(|rule| rule.key.matches(event))
            {
                votes.add(match token {
                    Token::Connect => rule.votes,
                    // R-PERM-20
                    Token::Subscribe => rule.votes.without(Votes::BROADCAST),
                });
                if let Some(reactions) = &rule.reactions {
                    listed
                        .get_or_insert_default()
                        .extend(reactions.iter().map(|reaction| &**reaction));
                }
                schedule_before_ms = schedule_before_ms.max(rule.schedule_before_ms);
                store.consider(token, channel, &rule.key, rule.store);
            }
        }
        let react = match (votes.decision(Votes::REACT), listed) {
            (Some(true), _) => React::All,
            (None, Some(listed)) => React::Only(listed),
            _ => React::None,
        };
        MessageGrants {
            publish: votes.decision(Votes::PUBLISH),
            broadcast: votes.grants(Votes::BROADCAST),
            echo: votes.grants(Votes::ECHO),
            emit_pub_sub_event: votes.grants(Votes::EMIT_PUB_SUB_EVENT),
            store: store.value().unwrap_or(0),
            schedule_before_ms,
            react,
        }
    }

    /// Can any storage key of the channel be observed? `false` for certain when no key of the tokens says so, and then no
    /// name is compared: of tokens without storage this asks next to nothing.
    #[must_use]
    pub fn may_observe(&self) -> bool {
        let may = |claims: &Claims| {
            claims.channels.iter().any(|rule| {
                let mut keys = rule.storage.iter();
                keys.any(|key| key.votes.grants(Votes::OBSERVE)) && rule.key.matches(self.channel)
            })
        };
        may(self.connect) || self.subscription.is_some_and(may)
    }

    /// Is the storage key observed (R-STOR-14)? As [`Grants::storage`] says, in less time.
    #[must_use]
    pub fn observes(&self, key: &str) -> bool {
        let mut votes = Votes::default();
        for (_, channel) in self.rules() {
            let rules = channel.storage.iter().filter(|rule| rule.key.matches(key));
            rules.for_each(|rule| votes.add(rule.votes));
        }
        votes.grants(Votes::OBSERVE)
    }

    /// What holds for a storage key (R-PERM-12).
    #[must_use]
    pub fn storage(&self, key: &str) -> StorageGrants {
        let mut votes = Votes::default();
        let mut schedule_before_ms = 0;
        let mut store = Store::default();
        for (token, channel) in self.rules() {
            for rule in channel.storage.iter().filter(|rule| rule.key.matches(key)) {
                votes.add(rule.votes);
                schedule_before_ms = schedule_before_ms.max(rule.schedule_before_ms);
                store.consider(token, channel, &rule.key, rule.store);
            }
        }
        StorageGrants {
            get: votes.grants(Votes::GET),
            set: votes.grants(Votes::SET),
            observe: votes.grants(Votes::OBSERVE),
            emit_pub_sub_event: votes.grants(Votes::EMIT_PUB_SUB_EVENT),
            store: store.value().unwrap_or(-1),
            schedule_before_ms,
        }
    }

    fn rules(&self) -> impl Iterator<Item = (Token, &'a ChannelRule)> + use<'a> {
        let channel = self.channel;
        let connect = self
            .connect
            .rules_for(channel)
            .map(|rule| (Token::Connect, rule));
        let subscription = self
            .subscription
            .into_iter()
            .flat_map(move |claims| claims.rules_for(channel));
        connect.chain(subscription.map(|rule| (Token::Subscribe, rule)))
    }

    fn votes(&self) -> Votes {
        let mut votes = Votes::default();
        self.rules().for_each(|(_, rule)| votes.add(rule.votes));
        votes
    }
}

/// Which of the two tokens a rule comes from; for `store` the later one wins (R-PERM-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Connect,
    Subscribe,
}

/// The `store` of the key that takes precedence: first by token, then by channel key, then by event or storage key
/// (R-PERM-15, R-PERM-16). Keys without the directive do not take part.
#[derive(Default)]
struct Store<'a>(Option<((Token, Precedence<'a>, Precedence<'a>), i64)>);

impl<'a> Store<'a> {
    fn consider(
        &mut self,
        token: Token,
        channel: &'a ChannelRule,
        key: &'a Pattern,
        store: Option<i64>,
    ) {
        let Some(store) = store else { return };
        let rank = (token, channel.key.precedence(), key.precedence());
        if self.0.as_ref().is_none_or(|(best, _)| rank > *best) {
            self.0 = Some((rank, store));
        }
    }

    fn value(self) -> Option<i64> {
        self.0.map(|(_, store)| store)
    }
}
