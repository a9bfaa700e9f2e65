//! Intent and done of every step, on disk before and after its effect (D-HOST-13).
//!
//! One file, replaced as a whole, so that a reader after a crash finds the state of one moment. The journal says what was
//! *tried*; what is *true* is always observed ([`crate::observe`]), and [`crate::recover`] weighs the two.

use contract::{
    digest::Digest,
    job::DesiredState,
    signal::{Cause, Drain, Handover, Kind},
    step::Step,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// One swap of this host, from detection to verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`FORMAT`].
    pub v: u32,
    /// What was wanted.
    pub desired: DesiredState,
    /// Whether this is the host's first start (D-HOST-11).
    pub boot: bool,
    /// The payload in rotation before.
    pub from: Option<Digest>,
    /// When the swap was first seen.
    pub began: Timestamp,
    /// The steps in the order in which they were begun.
    pub records: Vec<Record>,
    /// Bytes fetched from the bucket.
    #[serde(default)]
    pub bytes: u64,
    /// How the old connections ended.
    #[serde(default)]
    pub drain: Drain,
    /// What became of the connections of containers that hand over, by container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub handovers: BTreeMap<String, Handover>,
    /// Why old containers could not hand over, by container: they are drained instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// Why the swap is being undone. Written before anything is: from then on there is no way but back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Cause>,
    /// What went wrong without changing the outcome (D-HOST-36).
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Set once nothing remains to be done for this swap but, perhaps, telling the queue.
    #[serde(default)]
    pub verdict: Option<Verdict>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub step: Step,
    /// Written before the step's effect.
    pub began: Timestamp,
    /// Written after it.
    pub done: Option<Timestamp>,
}

/// How a swap ended on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Success, failed or booted.
    pub kind: Kind,
    /// The last step, or the one that failed.
    pub step: Step,
    /// Only with a failure.
    pub cause: Option<Cause>,
    /// When.
    pub at: Timestamp,
}

impl Journal {
    /// A new swap.
    pub fn new(desired: DesiredState, boot: bool, from: Option<Digest>, now: Timestamp) -> Self {
        Self {
            v: FORMAT,
            desired,
            boot,
            from,
            began: now,
            records: Vec::new(),
            bytes: 0,
            drain: Drain::default(),
            handovers: BTreeMap::new(),
            refused: BTreeMap::new(),
            failing: None,
            warnings: Vec::new(),
            verdict: None,
        }
    }

    /// Records the intent. A step that is repeated after a restart keeps its place.
    pub fn begin(&mut self, step: Step, now: Timestamp) {
        match self.records.iter_mut().find(|r| r.step == step) {
            Some(record) => record.done = None,
            None => self.records.push(Record {
                step,
                began: now,
                done: None,
            }),
        }
    }

    /// Records that the step's effect is complete.
    pub fn done(&mut self, step: Step, now: Timestamp) {
        if let Some(record) = self.records.iter_mut().find(|r| r.step == step) {
            record.done = Some(now);
        }
    }

    /// Whether the step was ever begun.
    pub fn has_begun(&self, step: Step) -> bool {
        self.records.iter().any(|r| r.step == step)
    }

    /// Whether it is complete.
    pub fn is_done(&self, step: Step) -> bool {
        self.records
            .iter()
            .any(|r| r.step == step && r.done.is_some())
    }

    /// All containers that hand over as one account; absent without any.
    pub fn handover(&self) -> Option<Handover> {
        let mut all = self.handovers.values();
        let mut sum = *all.next()?;
        all.for_each(|one| sum.add(one));
        Some(sum)
    }

    /// The step begun last.
    pub fn reached(&self) -> Step {
        self.records.last().map_or(Step::Detect, |r| r.step)
    }

    /// Milliseconds spent in each finished step.
    pub fn milliseconds(&self) -> BTreeMap<Step, u64> {
        self.records
            .iter()
            .filter_map(|r| {
                let spent = r.done?.duration_since(r.began).as_millis();
                Some((r.step, u64::try_from(spent).unwrap_or(0)))
            })
            .collect()
    }
}

/// The journal's file.
#[derive(Clone, Debug)]
pub struct JournalFile(PathBuf);

impl JournalFile {
    /// `journal.json` in the state directory.
    pub fn new(state: &Path) -> Self {
        Self(state.join("journal.json"))
    }

    /// The last swap, finished or not. A file that can't be read is set aside with a warning: what is true on the host is
    /// observed anyway, so the host can go on.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&self) -> io::Result<Option<Journal>> {
        let Some(bytes) = crate::files::read(&self.0)? else {
            return Ok(None);
        };
        match serde_json::from_slice::<Journal>(&bytes) {
            Ok(journal) if journal.v == FORMAT => Ok(Some(journal)),
            other => {
                let why = other.map_or_else(
                    |e| e.to_string(),
                    |j| format!("it has format {}, this program reads {FORMAT}", j.v),
                );
                let aside = self.0.with_extension("unreadable");
                tracing::warn!(path = %self.0.display(), aside = %aside.display(), why, "the journal can't be read and is set aside");
                std::fs::rename(&self.0, aside)?;
                Ok(None)
            }
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// Those of the file system, such as a full disk.
    pub fn write(&self, journal: &Journal) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(journal).map_err(io::Error::other)?;
        crate::files::replace(&self.0, &bytes)
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        let desired = serde_json::json!({
            "v": 1, "swap": "01A", "payload": format!("sha256:{}", "a".repeat(64)), "service": "hello",
            "environment": "stage", "region": "us-east-1", "stack": "arn:x", "bucket": "b", "queue": "http://q",
            "mode": "simple", "deadline": "2026-11-21T01:00:00Z"
        });
        let mut journal = Journal::new(
            serde_json::from_value(desired).unwrap(),
            false,
            None,
            "2026-11-21T00:00:00Z".parse().unwrap(),
        );
        journal.begin(Step::Detect, "2026-11-21T00:00:00Z".parse().unwrap());
        journal.done(Step::Detect, "2026-11-21T00:00:01.5Z".parse().unwrap());
        journal.begin(Step::Fetch, "2026-11-21T00:00:02Z".parse().unwrap());
        journal
    }

    #[test]
    fn d_host_13_the_file_format_is_stable_and_versioned() {
        // D-HOST-13
        insta::assert_json_snapshot!(journal());
    }

    #[test]
    fn d_host_13_what_was_written_is_read_again_and_steps_keep_intent_and_done_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = JournalFile::new(folder.path());
        assert_eq!(file.read().unwrap(), None);
        file.write(&journal()).unwrap();
        let read = file.read().unwrap().unwrap();
        assert_eq!(read, journal());
        assert!(read.is_done(Step::Detect) && !read.is_done(Step::Fetch));
        assert!(read.has_begun(Step::Fetch) && !read.has_begun(Step::Load));
        assert_eq!(read.reached(), Step::Fetch);
        assert_eq!(read.milliseconds()[&Step::Detect], 1500);
    }

    #[test]
    fn an_unreadable_or_newer_journal_is_set_aside_and_the_host_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = JournalFile::new(folder.path());
        let mut newer = serde_json::to_value(journal()).unwrap();
        newer["v"] = 99.into();
        for content in ["{", &newer.to_string()] {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(file.read().unwrap(), None);
            assert!(!file.path().exists());
            assert!(folder.path().join("journal.unreadable").exists());
        }
    }
}
