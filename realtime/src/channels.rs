//! Which connections of this process are subscribed to which channel.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use crate::outbox::Key;

/// A channel's number in this process, for as long as it has a subscriber here.
pub type ChannelKey = u32;

/// The channels that have subscribers in this process.
#[derive(Debug, Default)]
pub struct Channels {
    by_name: HashMap<Arc<str>, ChannelKey>,
    channels: Slab<Channel>,
}

/// One channel, as far as this process is concerned.
#[derive(Debug)]
pub struct Channel {
    /// Its real name.
    pub name: Arc<str>,
    /// Its subscribers here, in no order (R-DLV-15).
    pub subscribers: Vec<Key>,
}

impl Channels {
    /// The number of a channel that has subscribers here.
    pub fn find(&self, name: &str) -> Option<ChannelKey> {
        self.by_name.get(name).copied()
    }

    /// The channel of a number.
    pub fn get(&self, key: ChannelKey) -> Option<&Channel> {
        self.channels.get(key as usize)
    }

    /// How many channels have subscribers here.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// No channel has.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Adds a subscriber, and says under which number and at which position.
    pub fn add(&mut self, name: &Arc<str>, subscriber: Key) -> (ChannelKey, usize) {
        let key = *self.by_name.entry(name.clone()).or_insert_with(|| {
            let at = self.channels.insert(Channel {
                name: name.clone(),
                subscribers: Vec::new(),
            });
            ChannelKey::try_from(at).expect("fewer than 2^32 channels fit into memory")
        });
        let subscribers = &mut self.channels[key as usize].subscribers;
        subscribers.push(subscriber);
        (key, subscribers.len() - 1)
    }

    /// Removes the subscriber at a position. Whoever stood last stands there now, and must be told.
    pub fn remove(&mut self, key: ChannelKey, position: usize) -> Option<Key> {
        let channel = self.channels.get_mut(key as usize)?;
        channel.subscribers.swap_remove(position);
        let moved = channel.subscribers.get(position).copied();
        if channel.subscribers.is_empty() {
            let channel = self.channels.remove(key as usize);
            self.by_name.remove(&channel.name);
        } else if channel.subscribers.capacity() > 64
            && channel.subscribers.len() * 4 < channel.subscribers.capacity()
        {
            channel.subscribers.shrink_to(channel.subscribers.len() * 2);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// R-DLV-1: after any additions and removals each subscriber stands in its channel's list exactly once, at the
        /// position that it was told, and a channel is known exactly as long as it has subscribers.
        #[test]
        fn positions_stay_right(steps in prop::collection::vec((0..4usize, 0..20usize, any::<bool>()), 1..200)) {
            let mut channels = Channels::default();
            // Of each subscription, by channel and subscriber, what `add` and `remove` have said.
            let mut model: BTreeMap<(usize, Key), (ChannelKey, usize)> = BTreeMap::new();
            let names: Vec<Arc<str>> = (0..4).map(|number| format!("c{number}").into()).collect();
            for (channel, subscriber, add) in steps {
                let subscription = (channel, subscriber);
                match (model.get(&subscription).copied(), add) {
                    (None, true) => {
                        model.insert(subscription, channels.add(&names[channel], subscriber));
                    }
                    (Some((key, position)), false) => {
                        model.remove(&subscription);
                        if let Some(moved) = channels.remove(key, position) {
                            model.get_mut(&(channel, moved)).expect("it is subscribed").1 = position;
                        }
                    }
                    _ => {}
                }
                for (number, name) in names.iter().enumerate() {
                    let expected = model.keys().filter(|(channel, _)| *channel == number).count();
                    let found = channels.find(name).and_then(|key| channels.get(key));
                    prop_assert_eq!(found.map_or(0, |channel| channel.subscribers.len()), expected);
                    prop_assert_eq!(found.is_some(), expected > 0);
                    prop_assert!(found.is_none_or(|channel| channel.name == *name));
                }
                for (&(channel, subscriber), &(key, position)) in &model {
                    prop_assert_eq!(channels.find(&names[channel]), Some(key));
                    let subscribers = channels.get(key).map(|channel| &channel.subscribers[..]);
                    prop_assert_eq!(subscribers.and_then(|it| it.get(position)), Some(&subscriber));
                }
            }
            let open = names.iter().filter(|name| channels.find(name).is_some()).count();
            prop_assert_eq!((channels.len(), channels.is_empty()), (open, open == 0));
        }
    }

    #[test]
    fn a_channel_that_was_large_gives_its_memory_back() {
        let mut channels = Channels::default();
        let name: Arc<str> = "c".into();
        let key = (0..10_000)
            .map(|key| channels.add(&name, key).0)
            .last()
            .expect("one");
        (1..10_000).rev().for_each(|position| {
            channels.remove(key, position);
        });
        let channel = channels.get(key).expect("one is left");
        assert_eq!(channel.subscribers, [0]);
        assert!(channel.subscribers.capacity() <= 64);
    }
}
