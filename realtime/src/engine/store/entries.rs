//! Storage (section 13 of the protocol).

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::{
    Entry, Keys, OBSERVED_BYTES, Outcome, PAGE_BYTES, PAGE_ITEMS, Select, Source, Write,
};
use super::text::{Text, expiry, identity, moment};
use crate::connection::Identity;
use crate::events::{Happening, StorageChange};
use crate::json::Json;

/// An entry's row, expired or not.
struct Kept {
    n: i64,
    value: Json,
    meta: Identity,
    expires: i64,
    emit: bool,
    source: Option<Arc<Source>>,
}

impl Kept {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            n: row.get(0)?,
            value: row.get(1)?,
            meta: identity(row, 2, 3)?,
            expires: row.get(4)?,
            emit: row.get(5)?,
            source: row
                .get::<_, Option<Text<Source>>>(6)?
                .map(|it| Arc::new(it.0)),
        })
    }

    /// What is told when it has expired, if its last write asked for it (R-EVT-31).
    fn expired(self, channel: Arc<str>, key: Box<str>) -> Option<Outcome> {
        let change = StorageChange {
            channel,
            key,
            value: None,
            previous: Some(self.value),
            expired: true,
            expires_at: moment(self.expires),
            meta: self.meta,
            source: self.source,
        };
        let told = Outcome::Tell(Happening::Storage(Box::new(change)));
        self.emit.then_some(told)
    }
}

/// Writes, and gives what comes of it: nothing, if the value stays what it is (R-STOR-11 to R-STOR-13).
pub fn write(
    connection: &Connection,
    now_ms: i64,
    write: &Write,
) -> rusqlite::Result<(Vec<Outcome>, i64)> {
    let mut find = connection.prepare_cached(
        "SELECT n, value, uid, umd, expires, emit, source FROM entries WHERE channel = ?1 AND key = ?2",
    )?;
    let found = find.query_row(params![&*write.channel, &*write.key], Kept::read);
    let mut outcomes = Vec::new();
    let kept = match found.optional()? {
        // The sweeper has not been here yet: it goes now, as it would have gone (R-STOR-23).
        Some(kept) if kept.expires <= now_ms => {
            delete(connection, kept.n)?;
            outcomes.extend(kept.expired(write.channel.clone(), write.key.clone()));
            None
        }
        kept => kept,
    };
    let expires = expiry(now_ms, write.store);
    let same = match (&kept, &write.value) {
        (Some(kept), Some(value)) => kept.value.same_value(value),
        (None, None) => true,
        _ => false,
    };
    match (&kept, &write.value) {
        (None, None) => {}
        (Some(kept), None) => delete(connection, kept.n)?,
        (Some(kept), Some(value)) => {
            // What is the same value keeps its notation.
            let value = if same { &kept.value } else { value };
            let mut update = connection.prepare_cached(
                "UPDATE entries SET value = ?2, uid = ?3, umd = ?4, expires = ?5, emit = ?6, source = ?7
                 WHERE n = ?1",
            )?;
            update.execute(params![
                kept.n,
                value,
                write.meta.uid.as_deref(),
                write.meta.umd,
                expires,
                write.emit,
                write.source.as_deref().map(Text)
            ])?;
        }
        (None, Some(value)) => {
            let mut insert = connection.prepare_cached(
                "INSERT INTO entries (channel, key, value, uid, umd, expires, emit, source)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            insert.execute(params![
                &*write.channel,
                &*write.key,
                value,
                write.meta.uid.as_deref(),
                write.meta.umd,
                expires,
                write.emit,
                write.source.as_deref().map(Text)
            ])?;
        }
    }
    if !same {
        outcomes.push(Outcome::Storage {
            channel: write.channel.clone(),
            key: write.key.clone(),
            value: write.value.clone(),
            meta: write.meta.clone(),
        });
        if write.emit {
            let change = StorageChange {
                channel: write.channel.clone(),
                key: write.key.clone(),
                value: write.value.clone(),
                previous: kept.map(|kept| kept.value),
                expired: false,
                expires_at: write.value.as_ref().and_then(|_| moment(expires)),
                meta: write.meta.clone(),
                source: write.source.clone(),
            };
            outcomes.push(Outcome::Tell(Happening::Storage(Box::new(change))));
        }
    }
    Ok((outcomes, expires))
}

fn delete(connection: &Connection, n: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM entries WHERE n = ?1")?
        .execute([n])
        .map(drop)
}

/// One entry.
pub fn read(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    key: &str,
) -> rusqlite::Result<Option<Entry>> {
    let mut find = connection.prepare_cached(
        "SELECT key, value, uid, umd FROM entries WHERE channel = ?1 AND key = ?2 AND expires > ?3",
    )?;
    find.query_row(params![channel, key, now_ms], entry)
        .optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        meta: identity(row, 2, 3)?,
    })
}

/// A page of those that somebody may see (R-HTTP-44).
pub fn list(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    select: &Select,
    permitted: &Keys,
) -> rusqlite::Result<Vec<Entry>> {
    let mut page = Page::of(PAGE_ITEMS, PAGE_BYTES);
    match select {
        Select::Named(keys) => {
            let mut keys: Vec<_> = keys.iter().filter(|key| permitted.permit(key)).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let found = read(connection, now_ms, channel, key)?;
                if found.is_some_and(|entry| !page.takes(entry)) {
                    break;
                }
            }
        }
        Select::After(after) => {
            let after = after.as_deref().unwrap_or_default();
            each(
                connection,
                now_ms,
                channel,
                after,
                permitted,
                &mut |entry| page.takes(entry),
            )?;
        }
    }
    Ok(page.entries)
}

/// All that a subscription observes; `None` if that is more than [`OBSERVED_BYTES`].
pub fn observed(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    permitted: &Keys,
) -> rusqlite::Result<Option<Vec<Entry>>> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    each(connection, now_ms, channel, "", permitted, &mut |entry| {
        bytes += size(&entry);
        entries.push(entry);
        bytes <= OBSERVED_BYTES
    })?;
    Ok((bytes <= OBSERVED_BYTES).then_some(entries))
}

/// Shows permitted entries in ascending order of their keys, as long as more are wanted. The keys are read from the index:
/// only those that are permitted cost a look at their row. No key is the empty one, so all come after it.
fn each(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    after: &str,
    permitted: &Keys,
    wants: &mut dyn FnMut(Entry) -> bool,
) -> rusqlite::Result<()> {
    let mut keys = connection.prepare_cached(
        "SELECT key, n FROM entries INDEXED BY entries_by_key WHERE channel = ?1 AND key > ?2 ORDER BY key",
    )?;
    let mut find = connection
        .prepare_cached("SELECT key, value, uid, umd FROM entries WHERE n = ?1 AND expires > ?2")?;
    let mut rows = keys.query(params![channel, after])?;
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str()?;
        if !permitted.permit(key) {
            continue;
        }
        let n: i64 = row.get(1)?;
        let found = find.query_row(params![n, now_ms], entry).optional()?;
        if found.is_some_and(|entry| !wants(entry)) {
            break;
        }
    }
    Ok(())
}

/// A list with an end.
struct Page {
    entries: Vec<Entry>,
    items: usize,
    bytes: usize,
}

impl Page {
    fn of(items: usize, bytes: usize) -> Self {
        Self {
            entries: Vec::new(),
            items,
            bytes,
        }
    }

    /// Takes another one, if there is room; whether there is room for one more.
    fn takes(&mut self, entry: Entry) -> bool {
        let size = size(&entry);
        if size > self.bytes && !self.entries.is_empty() {
            self.bytes = 0;
            return false;
        }
        self.bytes = self.bytes.saturating_sub(size);
        self.entries.push(entry);
        self.entries.len() < self.items
    }
}

/// Bytes of an entry as it is listed, but for the names of its members, which are counted at once.
pub fn size(entry: &Entry) -> usize {
    const NAMES: usize = 60;
    let meta = &entry.meta;
    NAMES
        + entry.key.len()
        + entry.value.as_str().len()
        + meta.uid.as_ref().map_or(0, |uid| uid.len())
        + meta.umd.as_ref().map_or(0, |umd| umd.as_str().len())
}

/// Removes some of those that have expired, and gives what is to be told of them.
pub fn sweep(
    connection: &Connection,
    now_ms: i64,
    most: i64,
) -> rusqlite::Result<(usize, Vec<Outcome>)> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM entries WHERE n IN (
             SELECT n FROM entries INDEXED BY entries_expiring
             WHERE expires <= ?1 AND expires < 9223372036854775807 ORDER BY expires LIMIT ?2
         ) RETURNING n, value, uid, umd, expires, emit, source, channel, key",
    )?;
    let mut rows = delete.query(params![now_ms, most])?;
    let (mut count, mut told) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        count += 1;
        // Most are told to nobody, and then there is no need to read their values.
        if row.get::<_, bool>(5)? {
            let channel = row.get::<_, String>(7)?.into();
            told.push((
                row.get::<_, i64>(4)?,
                Kept::read(row)?,
                channel,
                row.get(8)?,
            ));
        }
    }
    told.sort_by_key(|it| it.0);
    let told = told
        .into_iter()
        .filter_map(|(_, kept, channel, key)| kept.expired(channel, key));
    Ok((count, told.collect()))
}
