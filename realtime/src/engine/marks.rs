//! What has been seen before: spent tokens, copies of publishes.

use std::collections::{BTreeSet, HashMap};

use aws_lc_rs::digest;
use jiff::Timestamp;

/// What is remembered of a text that others choose: its SHA-256, so that an entry has one size however long the text is.
pub type Mark = [u8; digest::SHA256_OUTPUT_LEN];

/// The mark of a text in several parts.
pub fn mark(parts: &[&str]) -> Mark {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| hash.update(part.as_bytes()));
    (hash.finish().as_ref().try_into()).expect("SHA-256 gives as many bytes")
}

/// Entries in a set, at most: of more, those go first that would go soonest. Where it matters the engine's file knows them,
/// too: this saves asking it, and is handed to a successor.
const MOST: usize = 1 << 16;

/// A set whose entries go at their time. Each insertion removes a few that are due, so nothing accumulates and nothing
/// takes long.
#[derive(Debug, Default)]
pub struct Expiring {
    pub(super) entries: HashMap<Mark, Timestamp>,
    pub(super) due: BTreeSet<(Timestamp, Mark)>,
}

impl Expiring {
    /// Adds an entry; false if it was there, and then its time stays as it was.
    pub fn insert(&mut self, now: Timestamp, mark: Mark, until: Timestamp) -> bool {
        self.sweep(now);
        if self.contains(now, &mark) {
            return false;
        }
        if let Some(before) = self.entries.insert(mark, until) {
            self.due.remove(&(before, mark));
        }
        self.due.insert((until, mark));
        true
    }

    /// All entries that are not due.
    pub fn export(&self, now: Timestamp) -> Vec<(Mark, Timestamp)> {
        let entries = self.entries.iter().filter(|(_, until)| **until > now);
        entries.map(|(mark, until)| (*mark, *until)).collect()
    }

    /// Adds entries of another set.
    pub fn import(&mut self, entries: Vec<(Mark, Timestamp)>) {
        for (mark, until) in entries {
            // Whether it is due is for the next sweep to find.
            self.insert(Timestamp::MIN, mark, until);
        }
    }

    /// Is it there?
    pub fn contains(&self, now: Timestamp, mark: &Mark) -> bool {
        self.entries.get(mark).is_some_and(|until| *until > now)
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..4 {
            match self.due.first() {
                Some((until, _)) if *until <= now => {
                    if let Some((_, mark)) = self.due.pop_first() {
                        self.entries.remove(&mark);
                    }
                }
                _ => break,
            }
        }
        while self.due.len() >= MOST
            && let Some((_, mark)) = self.due.pop_first()
        {
            self.entries.remove(&mark);
        }
    }
}
