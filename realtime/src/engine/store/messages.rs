//! Stored messages (section 14 of the protocol).

use rusqlite::{Connection, OptionalExtension as _, params};
use ulid::Ulid;

use super::super::{History, PAGE_BYTES, PAGE_ITEMS, Publish, Stored};
use super::reactions;
use super::text::{Id, Text, expiry, identity};

/// Keeps a message.
pub fn insert(
    connection: &Connection,
    now_ms: i64,
    id: Ulid,
    message: &Publish,
) -> rusqlite::Result<i64> {
    let meta = message.meta.as_ref();
    let expires = expiry(now_ms, message.store);
    let mut insert = connection.prepare_cached(
        "INSERT INTO messages (channel, id, event, data, uid, umd, expires, source)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute(params![
        &*message.channel,
        Id(id),
        &*message.event,
        message.data,
        meta.and_then(|meta| meta.uid.as_deref()),
        meta.and_then(|meta| meta.umd.as_ref()),
        expires,
        message.source.as_deref().map(Text),
    ])?;
    Ok(expires)
}

/// The row of a message that has not expired, and when it will.
pub fn find(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    id: Ulid,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut find = connection.prepare_cached(
        "SELECT n, expires FROM messages INDEXED BY messages_by_id
         WHERE channel = ?1 AND id = ?2 AND expires > ?3",
    )?;
    let found = find.query_row(params![channel, Id(id), now_ms], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    found.optional()
}

/// The event of a message.
pub fn event(
    connection: &Connection,
    now_ms: i64,
    channel: &str,
    id: Ulid,
) -> rusqlite::Result<Option<Box<str>>> {
    let mut find = connection.prepare_cached(
        "SELECT event FROM messages INDEXED BY messages_by_id
         WHERE channel = ?1 AND id = ?2 AND expires > ?3",
    )?;
    find.query_row(params![channel, Id(id), now_ms], |row| row.get(0))
        .optional()
}

/// The least and the greatest identifier that a page may hold; `None`: there can't be any.
fn bounds(asked: &History) -> Option<(Ulid, Ulid)> {
    let since = u64::try_from(asked.since_ms).unwrap_or_default();
    // 48 bits are the time of an identifier.
    let since = (since < 1 << 48).then(|| Ulid(u128::from(since) << 80))?;
    let after = asked
        .after
        .map_or(Some(0), |after| after.0.checked_add(1))?;
    let before = asked
        .before
        .map_or(Some(u128::MAX), |before| before.0.checked_sub(1))?;
    Some((since.max(Ulid(after)), Ulid(before)))
}

/// A page (R-HTTP-13 to R-HTTP-19).
pub fn page(
    connection: &Connection,
    now_ms: i64,
    asked: &History,
) -> rusqlite::Result<Vec<Stored>> {
    let Some((low, high)) = bounds(asked) else {
        return Ok(Vec::new());
    };
    let sql = match (asked.event.is_some(), asked.reverse) {
        (false, false) => concat!(
            "SELECT n, id, event, data, uid, umd FROM messages INDEXED BY messages_by_id ",
            "WHERE channel = ?1 AND id BETWEEN ?2 AND ?3 AND expires > ?4 ORDER BY id LIMIT ?5"
        ),
        (false, true) => concat!(
            "SELECT n, id, event, data, uid, umd FROM messages INDEXED BY messages_by_id ",
            "WHERE channel = ?1 AND id BETWEEN ?2 AND ?3 AND expires > ?4 ORDER BY id DESC LIMIT ?5"
        ),
        (true, false) => concat!(
            "SELECT n, id, event, data, uid, umd FROM messages INDEXED BY messages_by_event ",
            "WHERE channel = ?1 AND event = ?6 AND id BETWEEN ?2 AND ?3 AND expires > ?4 ORDER BY id LIMIT ?5"
        ),
        (true, true) => concat!(
            "SELECT n, id, event, data, uid, umd FROM messages INDEXED BY messages_by_event ",
            "WHERE channel = ?1 AND event = ?6 AND id BETWEEN ?2 AND ?3 AND expires > ?4 ORDER BY id DESC LIMIT ?5"
        ),
    };
    let mut query = connection.prepare_cached(sql)?;
    let limit = PAGE_ITEMS as i64;
    let (low, high) = (Id(low), Id(high));
    let mut rows = match &asked.event {
        None => query.query(params![&*asked.channel, low, high, now_ms, limit])?,
        Some(event) => query.query(params![&*asked.channel, low, high, now_ms, limit, &**event])?,
    };
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let message = Stored {
            id: row.get::<_, Id>(1)?.0,
            event: row.get(2)?,
            data: row.get(3)?,
            meta: identity(row, 4, 5)?,
            reactions: reactions::of(connection, row.get(0)?)?,
        };
        bytes += size(&message);
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push(message);
    }
    Ok(page)
}

/// Bytes of a message as it is listed, but for the names of its members, which are counted at once.
pub fn size(message: &Stored) -> usize {
    const NAMES: usize = 120;
    let meta = &message.meta;
    let reactions = message.reactions.iter().map(|it| {
        let umd = it.umd.as_ref().map_or(4, |umd| umd.as_str().len());
        NAMES + it.reaction.len() + it.uid.len() + umd
    });
    NAMES
        + message.event.len()
        + message.data.as_str().len()
        + meta.uid.as_ref().map_or(0, |uid| uid.len())
        + meta.umd.as_ref().map_or(0, |umd| umd.as_str().len())
        + reactions.sum::<usize>()
}
