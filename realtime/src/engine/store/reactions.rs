//! Reactions to stored messages (section 15 of the protocol). They belong to the message's row and go with it.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use ulid::Ulid;

use super::super::{Answer, Outcome, Reacting, Reaction, Source, Ticket};
use super::messages;
use super::text::{Id, Text, moment};
use crate::events::Happening;
use crate::json::Json;

/// All reactions to a message, the oldest first.
pub fn of(connection: &Connection, message: i64) -> rusqlite::Result<Vec<Reaction>> {
    let mut query = connection.prepare_cached(
        "SELECT id, reaction, uid, umd FROM reactions WHERE message = ?1 ORDER BY id",
    )?;
    let found = query.query_map([message], |row| {
        Ok(Reaction {
            id: row.get::<_, Id>(0)?.0,
            reaction: row.get(1)?,
            uid: row.get::<_, String>(2)?.into(),
            umd: row.get(3)?,
        })
    })?;
    found.collect()
}

/// What comes of a reaction that is put on or taken off, with what to tell backends of it. `id` names this change.
pub fn react(
    connection: &Connection,
    now: Timestamp,
    ticket: Ticket,
    id: Ulid,
    reacting: &Reacting,
) -> rusqlite::Result<Vec<Outcome>> {
    let now_ms = now.as_millisecond();
    let found = messages::find(connection, now_ms, &reacting.channel, reacting.message)?;
    let Some((message, expires)) = found else {
        return Ok(vec![Outcome::Answer(ticket, Answer::NotFound)]);
    };
    let done = Outcome::Answer(ticket, Answer::Done);
    let change = Outcome::Reaction {
        id,
        reacting: reacting.clone(),
    };
    let told = match reacting.add {
        true => match add(connection, now_ms, id, message, reacting)? {
            true => (id, now_ms, reacting.clone()),
            false => return Ok(vec![done]),
        },
        false => match remove(connection, message, reacting)? {
            Some((added, created, umd, source)) => {
                // What was put on is what is taken off (R-EVT-33, R-EVT-35).
                let reacting = Reacting {
                    umd,
                    source,
                    ..reacting.clone()
                };
                (added, created, reacting)
            }
            None => return Ok(vec![done]),
        },
    };
    let mut outcomes = vec![done, change];
    if reacting.emit {
        let (id, created, reacting) = told;
        outcomes.push(Outcome::Tell(Happening::Reaction {
            id,
            reacting: Box::new(reacting),
            created_at: moment(created).unwrap_or(now),
            expires_at: moment(expires),
        }));
    }
    Ok(outcomes)
}

/// False: it is there already (R-REACT-8).
fn add(
    connection: &Connection,
    now_ms: i64,
    id: Ulid,
    message: i64,
    reacting: &Reacting,
) -> rusqlite::Result<bool> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO reactions (message, uid, reaction, id, umd, created, source)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )?;
    let inserted = insert.execute(params![
        message,
        &*reacting.uid,
        &*reacting.reaction,
        Id(id),
        reacting.umd,
        now_ms,
        Text(&*reacting.source)
    ])?;
    Ok(inserted == 1)
}

type Removed = (Ulid, i64, Option<Json>, Arc<Source>);

/// `None`: it is not there.
fn remove(
    connection: &Connection,
    message: i64,
    reacting: &Reacting,
) -> rusqlite::Result<Option<Removed>> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM reactions WHERE message = ?1 AND uid = ?2 AND reaction = ?3
         RETURNING id, created, umd, source",
    )?;
    let removed = delete.query_row(
        params![message, &*reacting.uid, &*reacting.reaction],
        |row| {
            Ok((
                row.get::<_, Id>(0)?.0,
                row.get(1)?,
                row.get(2)?,
                Arc::new(row.get::<_, Text<Source>>(3)?.0),
            ))
        },
    );
    removed.optional()
}

/// Removes some of the reactions to a message; how many.
pub fn remove_some(connection: &Connection, message: i64, most: i64) -> rusqlite::Result<i64> {
    let mut some = connection
        .prepare_cached("SELECT uid, reaction FROM reactions WHERE message = ?1 LIMIT ?2")?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM reactions WHERE message = ?1 AND uid = ?2 AND reaction = ?3",
    )?;
    let found = some.query_map(params![message, most], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    for (uid, reaction) in &found {
        delete.execute(params![message, uid, reaction])?;
    }
    Ok(found.len() as i64)
}
