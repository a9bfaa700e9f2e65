//! Standard output: one event a line, between the records of the log (R-DIFF-9).

use std::io::Write as _;

use super::{Answer, Verdict, blocking};
use crate::events::batch::Limits;
use crate::events::spool::{LONGEST, Record};

/// Bounds what is held in memory for one write.
pub const LIMITS: Limits = Limits {
    events: 256,
    event_bytes: LONGEST,
    total_bytes: 1 << 20,
};

/// Whoever reads it may stall: a thread of its own waits for that.
pub(super) async fn send(records: &[Record]) -> Answer {
    let count = records.len();
    let mut lines = String::new();
    for record in records {
        lines.push_str(&record.envelope);
        lines.push('\n');
    }
    blocking(move || {
        let mut stdout = std::io::stdout().lock();
        let written = stdout
            .write_all(lines.as_bytes())
            .and_then(|()| stdout.flush());
        match written {
            Ok(()) => Answer::Each(vec![Verdict::Taken; count]),
            Err(error) => Answer::Later(error.to_string()),
        }
    })
    .await
}
