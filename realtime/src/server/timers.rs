//! One timer for each socket: when it must be looked at next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::hub::Client;
use crate::outbox::Key;

/// When sockets are to be looked at, the next first.
///
/// A socket has one valid entry, the earliest that was asked for. What a message pushes back is not moved: the entry comes
/// up, the socket finds nothing due and asks for its next moment. So a message costs nothing here.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// The valid entry of each socket, by key.
    valid: Vec<Option<(Instant, u64)>>,
}

impl Timers {
    /// Looks at a socket at this moment, or earlier if that was asked for before.
    pub fn set(&mut self, client: Client, at: Instant) {
        if self.valid.len() <= client.key {
            self.valid.resize(client.key + 1, None);
        }
        let valid = &mut self.valid[client.key];
        if valid.is_some_and(|(earlier, serial)| serial == client.serial && earlier <= at) {
            return;
        }
        *valid = Some((at, client.serial));
        self.heap.push(Reverse((at, client.serial, client.key)));
    }

    /// When something comes up next.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes a socket whose moment has come. Its entry is gone: whoever looks at it sets the next.
    pub fn pop(&mut self, now: Instant) -> Option<Client> {
        while let Some(&Reverse((at, serial, key))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if self.valid[key] == Some((at, serial)) {
                self.valid[key] = None;
                return Some(Client { key, serial });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(key: Key, serial: u64) -> Client {
        Client { key, serial }
    }

    #[test]
    fn the_earliest_moment_that_was_asked_for_counts_and_it_counts_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(client(3, 1), at(10));
        timers.set(client(3, 1), at(5));
        timers.set(client(3, 1), at(20));
        assert_eq!(timers.pop(at(4)), None);
        assert_eq!(timers.pop(at(30)), Some(client(3, 1)));
        assert_eq!(timers.pop(at(30)), None, "the later entries are void");
    }

    #[test]
    fn a_socket_that_took_the_number_of_another_is_not_mistaken_for_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(client(3, 1), at(5));
        timers.set(client(3, 2), at(9));
        assert_eq!(timers.pop(at(6)), None);
        assert_eq!(timers.pop(at(9)), Some(client(3, 2)));
    }
}
