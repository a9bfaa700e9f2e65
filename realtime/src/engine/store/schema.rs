//! The file: how it is opened, what tables it has, and who may read it.
//!
//! While one process is replaced by the next, both have the file open, and the way back is open, too. So a version only
//! adds: tables, columns with a default, indexes. What it made is readable by every version from `meta.oldest_reader` on.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::Durability;

/// The file's name in the data directory.
pub const FILE: &str = "realtime.db";

/// The newest layout that this version knows: the number of steps in [`STEPS`].
pub const VERSION: i64 = STEPS.len() as i64;

/// How long a process waits for the lock of another one while it opens the file.
const OPENING: Duration = Duration::from_secs(10);

/// How long the writer waits for the lock of another process before what waits is refused.
pub const BUSY: Duration = Duration::from_secs(2);

/// The log of changes is cut to this after it has been larger.
const WAL_BYTES: i64 = 64 << 20;

/// What no time limit is: an ordinary value, so that indexes need no case for it.
pub const FOREVER: i64 = i64::MAX;

/// One layout after the other, and from which version on programs can read it.
const STEPS: &[(i64, &str)] = &[(
    1,
    "
    -- The last identifier; the last time of day that was seen; a time below which all identifiers lie.
    CREATE TABLE meta (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        oldest_reader INTEGER NOT NULL,
        last_id BLOB NOT NULL,
        wall INTEGER NOT NULL,
        ceiling INTEGER NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES (1, 1, zeroblob(16), 0, 0);

    CREATE TABLE messages (
        n INTEGER PRIMARY KEY,
        channel TEXT NOT NULL,
        id BLOB NOT NULL,
        event TEXT NOT NULL,
        data TEXT NOT NULL,
        uid TEXT,
        umd TEXT,
        expires INTEGER NOT NULL,
        source TEXT
    ) STRICT;
    -- With the time in it, what has expired is passed over without a look at the row.
    CREATE INDEX messages_by_id ON messages (channel, id, expires);
    CREATE INDEX messages_by_event ON messages (channel, event, id, expires);
    CREATE INDEX messages_expiring ON messages (expires) WHERE expires < 9223372036854775807;

    CREATE TABLE reactions (
        message INTEGER NOT NULL,
        uid TEXT NOT NULL,
        reaction TEXT NOT NULL,
        id BLOB NOT NULL,
        umd TEXT,
        created INTEGER NOT NULL,
        source TEXT NOT NULL,
        PRIMARY KEY (message, uid, reaction)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE entries (
        n INTEGER PRIMARY KEY,
        channel TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        uid TEXT,
        umd TEXT,
        expires INTEGER NOT NULL,
        emit INTEGER NOT NULL,
        source TEXT
    ) STRICT;
    CREATE UNIQUE INDEX entries_by_key ON entries (channel, key);
    CREATE INDEX entries_expiring ON entries (expires) WHERE expires < 9223372036854775807;

    CREATE TABLE plans (
        id BLOB PRIMARY KEY,
        due INTEGER NOT NULL,
        message BLOB,
        deferred TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX plans_by_due ON plans (due);

    CREATE TABLE marks (
        kind INTEGER NOT NULL,
        mark BLOB NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (kind, mark)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX marks_by_until ON marks (until);
    ",
)];

/// Makes the folder and the file if they are not there, and brings the layout up to date.
///
/// # Errors
/// The folder can't be written; the file is none of ours, is damaged, or is too new for this version.
pub fn prepare(folder: &Path, durability: Durability) -> anyhow::Result<Connection> {
    let path = folder.join(FILE);
    create(folder, &path).with_context(|| {
        format!(
            "{} can't be written: messages and storage are kept there; set `data_dir` to a folder that can be",
            path.display()
        )
    })?;
    let opened = open(&path, durability, OPENING).and_then(|mut connection| {
        migrate(&mut connection)?;
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    });
    opened.with_context(|| {
        format!(
            "{} can't be used; if it is damaged, move it and its -wal and -shm aside and bring back a copy, or begin empty",
            path.display()
        )
    })
}

/// Folder and file are for this user's eyes only; the database gives its other files the mode of this one. A file that is
/// there is not opened: closing it would let go of the locks that this process has on it.
fn create(folder: &Path, path: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn open(path: &Path, durability: Durability, wait: Duration) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly("main")? {
        bail!("this user may not write to it");
    }
    connection.busy_timeout(wait)?;
    connection.set_prepared_statement_cache_capacity(64);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        bail!("this file system has no shared memory for files (journal mode {mode})");
    }
    connection.pragma_update(None, "synchronous", durability.pragma())?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    Ok(connection)
}

/// A connection that only reads, for the pool.
///
/// # Errors
/// The file can't be opened.
pub fn reader(folder: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join(FILE), flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> anyhow::Result<()> {
    let version = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    let found = version(connection)?;
    if found > VERSION {
        let oldest: i64 =
            connection.query_row("SELECT oldest_reader FROM meta", [], |row| row.get(0))?;
        if oldest > VERSION {
            bail!(
                "it was written by a newer version of this program (layout {found}, readable from {oldest} on; this one \
                 knows {VERSION}); run that version, or a newer one"
            );
        }
    }
    if found >= VERSION {
        return Ok(());
    }
    // Another process may do the same at this moment.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = usize::try_from(version(&transaction)?)?;
    for (oldest, step) in STEPS.iter().skip(found) {
        transaction.execute_batch(step)?;
        transaction.execute("UPDATE meta SET oldest_reader = ?1", [oldest])?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}
