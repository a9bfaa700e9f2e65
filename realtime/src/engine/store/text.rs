//! Values as the file has them.

use jiff::Timestamp;
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ulid::Ulid;

use super::schema::FOREVER;
use crate::connection::Identity;
use crate::json::Json;

impl ToSql for Json {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.as_str().to_sql()
    }
}

impl FromSql for Json {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::compact(value.as_str()?).map_err(|why| FromSqlError::Other(why.into()))
    }
}

/// An identifier, as sixteen bytes in the order of identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub Ulid);

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_bytes().to_vec().into())
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        let bytes = (bytes.try_into()).map_err(|_| FromSqlError::InvalidBlobSize {
            expected_size: 16,
            blob_size: bytes.len(),
        })?;
        Ok(Self(Ulid::from_bytes(bytes)))
    }
}

/// Plain data as JSON text.
pub struct Text<T>(pub T);

impl<T: Serialize> ToSql for Text<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        text.map(Into::into)
            .map_err(|why| rusqlite::Error::ToSqlConversionFailure(why.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Text<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let read = serde_json::from_str(value.as_str()?);
        read.map(Self)
            .map_err(|why| FromSqlError::Other(why.into()))
    }
}

/// Who wrote or sent something, from two columns.
pub fn identity(row: &rusqlite::Row<'_>, uid: usize, umd: usize) -> rusqlite::Result<Identity> {
    Ok(Identity {
        uid: row.get::<_, Option<String>>(uid)?.map(Into::into),
        umd: row.get(umd)?,
    })
}

/// When something that is kept for so many seconds is gone: in milliseconds, [`FOREVER`] for -1.
pub fn expiry(now_ms: i64, seconds: i64) -> i64 {
    match seconds {
        ..0 => FOREVER,
        seconds => now_ms.saturating_add(seconds.saturating_mul(1000)),
    }
}

/// The moment, if there is one.
pub fn moment(expires: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(expires).ok()
}
