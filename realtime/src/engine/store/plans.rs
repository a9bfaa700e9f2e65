//! What is to be done later (section 16 of the protocol).

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use tracing::error;
use ulid::Ulid;

use super::super::{Answer, Deferred};
use super::text::{Id, Text, moment};

const HOUR_MS: i64 = 3_600_000;

/// One that is due.
#[derive(Debug)]
pub struct Plan {
    /// Names it.
    pub id: Ulid,
    /// The identifier that its message was promised (R-SCHED-17).
    pub message: Option<Ulid>,
    /// What is to be done.
    pub deferred: Deferred,
}

/// Notes one.
pub fn insert(
    connection: &Connection,
    id: Ulid,
    due_ms: i64,
    message: Option<Ulid>,
    deferred: &Deferred,
) -> rusqlite::Result<()> {
    let mut insert = connection
        .prepare_cached("INSERT INTO plans (id, due, message, deferred) VALUES (?1, ?2, ?3, ?4)")?;
    insert
        .execute(params![Id(id), due_ms, message.map(Id), Text(deferred)])
        .map(drop)
}

/// Takes one out; whether it was there.
pub fn remove(connection: &Connection, id: Ulid) -> rusqlite::Result<bool> {
    let mut delete = connection.prepare_cached("DELETE FROM plans WHERE id = ?1")?;
    Ok(delete.execute([Id(id)])? == 1)
}

/// What is noted under an identifier.
pub fn find(connection: &Connection, id: Ulid) -> rusqlite::Result<Answer> {
    let mut find = connection.prepare_cached("SELECT due, deferred FROM plans WHERE id = ?1")?;
    let found = find.query_row([Id(id)], |row| {
        Ok(Answer::Planned {
            at: moment(row.get(0)?).unwrap_or(Timestamp::MAX),
            deferred: Box::new(row.get::<_, Text<Deferred>>(1)?.0),
        })
    });
    Ok(found.optional()?.unwrap_or(Answer::NotFound))
}

/// Those that are due, in their order, but not more than so many. One that can't be read, because a newer version has made
/// it, keeps nobody waiting: it is tried again later.
pub fn due(connection: &Connection, now_ms: i64, most: i64) -> rusqlite::Result<Vec<Plan>> {
    let mut query = connection.prepare_cached(
        "SELECT id, message, deferred FROM plans WHERE due <= ?1 ORDER BY due, id LIMIT ?2",
    )?;
    let found = query.query_map(params![now_ms, most], |row| {
        let id = row.get::<_, Id>(0)?.0;
        let plan = row.get::<_, Text<Deferred>>(2).and_then(|deferred| {
            Ok(Plan {
                id,
                message: row.get::<_, Option<Id>>(1)?.map(|id| id.0),
                deferred: deferred.0,
            })
        });
        Ok((id, plan))
    })?;
    let mut due = Vec::new();
    for found in found {
        match found? {
            (_, Ok(plan)) => due.push(plan),
            (id, Err(error)) => {
                error!(%id, %error, "what was planned can't be read: it is tried again in an hour");
                put_off(connection, id, now_ms + HOUR_MS)?;
            }
        }
    }
    Ok(due)
}

fn put_off(connection: &Connection, id: Ulid, until: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE plans SET due = ?2 WHERE id = ?1")?
        .execute(params![Id(id), until])
        .map(drop)
}

/// When the next one is due, in milliseconds.
pub fn next(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT min(due) FROM plans")?
        .query_row([], |row| row.get(0))
}
