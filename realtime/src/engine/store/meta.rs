//! What makes identifiers rise from one life of the installation to the next (R-DLV-5).
//!
//! Every batch that is kept writes the last identifier beside it: after a restart all are above everything stored. Those of
//! messages that nobody keeps are covered like this: every ten seconds in which there were any, a time ahead of all of them
//! is written, the ceiling, with the time of day. If at the start the clock is before that time of day, or before the last
//! identifier, it has been set back, and identifiers begin at the ceiling. If it isn't, the clock itself makes them rise, without a leap into the future,
//! which would show in the history (R-HIST-8).

use rusqlite::{Connection, params};
use ulid::Ulid;

use super::text::Id;

/// What is written of identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Height {
    /// The last one that was at hand.
    pub last_id: Ulid,
    /// What time it was.
    pub wall: i64,
    /// All that were assigned lie below, in milliseconds.
    pub ceiling: i64,
}

impl Height {
    /// The identifier above which new ones begin.
    #[must_use]
    pub fn floor(&self, now_ms: i64) -> Ulid {
        let last = i64::try_from(self.last_id.timestamp_ms()).unwrap_or(i64::MAX);
        match now_ms < self.wall || now_ms < last {
            true => {
                let ceiling = u64::try_from(self.ceiling).unwrap_or_default();
                self.last_id.max(Ulid::from_parts(ceiling, 0))
            }
            false => self.last_id,
        }
    }
}

/// Reads it.
pub fn read(connection: &Connection) -> rusqlite::Result<Height> {
    let mut query = connection.prepare_cached("SELECT last_id, wall, ceiling FROM meta")?;
    query.query_row([], |row| {
        Ok(Height {
            last_id: row.get::<_, Id>(0)?.0,
            wall: row.get(1)?,
            ceiling: row.get(2)?,
        })
    })
}

/// Writes it; what is higher stays, but for the time of day.
pub fn write(connection: &Connection, height: Height) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE meta SET last_id = max(last_id, ?1), wall = ?2, ceiling = max(ceiling, ?3)",
    )?;
    let changed = params![Id(height.last_id), height.wall, height.ceiling];
    update.execute(changed).map(drop)
}
