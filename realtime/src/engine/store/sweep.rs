//! Removes what has expired, a little at a time, so that nobody waits for it (R-OPS-3, R-DIFF-14).

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::Outcome;
use super::{entries, reactions};

/// Rows in one go, at most.
const MOST: i64 = 500;

/// Rows in one step of it: after each it is looked at how long it has taken.
const STEP: i64 = 50;

/// After so long no further step is made, so that whoever waits behind it waits no longer than for an ordinary commit.
const TIME: Duration = Duration::from_millis(5);

/// What a sweep has done.
#[derive(Debug, Default)]
pub struct Swept {
    /// What is to be told.
    pub told: Vec<Outcome>,
    /// It has removed as much as it may: there may be more.
    pub more: bool,
    /// When the next one expires, if one does, in milliseconds.
    pub next: Option<i64>,
}

/// Removes some of what has expired.
pub fn sweep(connection: &Connection, now_ms: i64) -> rusqlite::Result<Swept> {
    let begun = Instant::now();
    let mut swept = Swept::default();
    let mut removed = 0;
    loop {
        let step = step(connection, now_ms, &mut swept.told)?;
        removed += step;
        swept.more = step >= STEP;
        if !swept.more || removed >= MOST || begun.elapsed() >= TIME {
            break;
        }
    }
    swept.next = next(connection)?;
    Ok(swept)
}

/// Removes [`STEP`] rows if there are as many; how many there were. Those come first of which backends are told: they have
/// a minute at most.
fn step(connection: &Connection, now_ms: i64, told: &mut Vec<Outcome>) -> rusqlite::Result<i64> {
    let (count, more) = entries::sweep(connection, now_ms, STEP)?;
    told.extend(more);
    let mut removed = count as i64;
    removed += messages(connection, now_ms, STEP - removed)?;
    removed += marks(connection, now_ms, STEP - removed)?;
    Ok(removed)
}

fn marks(connection: &Connection, now_ms: i64, most: i64) -> rusqlite::Result<i64> {
    let mut due = connection.prepare_cached(
        "SELECT kind, mark FROM marks INDEXED BY marks_by_until WHERE until <= ?1 ORDER BY until LIMIT ?2",
    )?;
    let mut delete =
        connection.prepare_cached("DELETE FROM marks WHERE kind = ?1 AND mark = ?2")?;
    let found = due.query_map(params![now_ms, most], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    for (kind, mark) in &found {
        delete.execute(params![kind, mark])?;
    }
    Ok(found.len() as i64)
}

/// Removes messages, each after its reactions; gives how many rows that were.
fn messages(connection: &Connection, now_ms: i64, most: i64) -> rusqlite::Result<i64> {
    let mut expired = connection.prepare_cached(
        "SELECT n FROM messages INDEXED BY messages_expiring
         WHERE expires <= ?1 AND expires < 9223372036854775807 ORDER BY expires LIMIT ?2",
    )?;
    let mut message = connection.prepare_cached("DELETE FROM messages WHERE n = ?1")?;
    let found = expired.query_map(params![now_ms, most], |row| row.get::<_, i64>(0))?;
    let found: Vec<i64> = found.collect::<rusqlite::Result<_>>()?;
    let mut removed = 0;
    for n in found {
        removed += reactions::remove_some(connection, n, most - removed)?;
        if removed >= most {
            break;
        }
        removed += message.execute([n])? as i64;
    }
    Ok(removed)
}

/// When anything expires next.
pub fn next(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let first = [
        "SELECT expires FROM entries INDEXED BY entries_expiring WHERE expires < 9223372036854775807 ORDER BY expires LIMIT 1",
        "SELECT expires FROM messages INDEXED BY messages_expiring WHERE expires < 9223372036854775807 ORDER BY expires LIMIT 1",
        "SELECT until FROM marks INDEXED BY marks_by_until ORDER BY until LIMIT 1",
    ];
    let mut next: Option<i64> = None;
    for sql in first {
        let mut query = connection.prepare_cached(sql)?;
        let found = query.query_row([], |row| row.get(0)).optional()?;
        next = next.into_iter().chain(found).min();
    }
    Ok(next)
}
