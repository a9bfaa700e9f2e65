//! Copies of publishes and spent tokens, as the file has them (R-SRV-16, R-CLAIM-26).

use rusqlite::{Connection, params};

use super::super::marks::Mark;

/// What a mark is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A publish, write or schedule with an identifier for deduplication.
    Seen = 1,
    /// A single-use token.
    Spent = 2,
}

/// Makes a mark; false if it was there, and then its time stays as it was.
pub fn insert(
    connection: &Connection,
    now_ms: i64,
    kind: Kind,
    mark: &Mark,
    until: i64,
) -> rusqlite::Result<bool> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO marks (kind, mark, until) VALUES (?1, ?2, ?3)
         ON CONFLICT (kind, mark) DO UPDATE SET until = excluded.until WHERE marks.until <= ?4",
    )?;
    Ok(insert.execute(params![kind as i64, mark, until, now_ms])? == 1)
}

/// Is it there?
pub fn contains(
    connection: &Connection,
    now_ms: i64,
    kind: Kind,
    mark: &Mark,
) -> rusqlite::Result<bool> {
    let mut find = connection
        .prepare_cached("SELECT 1 FROM marks WHERE kind = ?1 AND mark = ?2 AND until > ?3")?;
    find.exists(params![kind as i64, mark, now_ms])
}

/// Takes a mark back.
pub fn remove(connection: &Connection, kind: Kind, mark: &Mark) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM marks WHERE kind = ?1 AND mark = ?2")?
        .execute(params![kind as i64, mark])
        .map(drop)
}
