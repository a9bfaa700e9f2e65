//! The one thread that changes the file. It takes what waits, does all of it in one transaction, each task by itself, so
//! that one that fails does not take the others with it, and answers when the file has it.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use jiff::Timestamp;
use rusqlite::Connection;
use tracing::{error, info};
use ulid::Ulid;

use super::meta::{self, Height};
use super::task::{Effect, Task};
use super::{Condition, Done, Slot, Wake};
use crate::metrics::EngineMeter;

/// Tasks in one transaction, at most: what one that waits may have before it.
const BATCH: usize = 1024;

/// Bytes of the tasks in one transaction, about.
const BATCH_BYTES: usize = 4 << 20;

/// A task on its way to the writer.
#[derive(Debug)]
pub struct Job {
    /// Where what comes of it belongs.
    pub slot: Slot,
    /// When it was asked for.
    pub now: Timestamp,
    /// The last identifier that had been assigned then.
    pub last_id: Ulid,
    /// What is to be done.
    pub task: Task,
}

/// What the writer has.
pub struct Writer {
    pub connection: Connection,
    pub jobs: Receiver<Job>,
    pub done: Sender<Done>,
    pub wake: Wake,
    pub condition: Condition,
    pub meter: EngineMeter,
}

/// Says that the writer has ended, if a defect has ended it.
struct Guard(Condition);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ill = "nothing can be kept: the thread that writes has ended, restart the server";
            self.0.set(Some(ill.into()));
        }
    }
}

impl Writer {
    /// Works until nobody can ask any more.
    pub fn run(mut self) {
        let _guard = Guard(self.condition.clone());
        while let Ok(first) = self.jobs.recv() {
            let mut bytes = first.task.size();
            let mut batch = vec![first];
            while batch.len() < BATCH
                && bytes < BATCH_BYTES
                && let Ok(job) = self.jobs.try_recv()
            {
                bytes += job.task.size();
                batch.push(job);
            }
            self.work(batch);
            (self.wake)();
        }
    }

    fn work(&mut self, batch: Vec<Job>) {
        let kinds: Vec<_> = batch.iter().map(|job| job.task.writes()).collect();
        let writes = kinds.contains(&true);
        let slots: Vec<_> = batch.iter().map(|job| job.slot.clone()).collect();
        let begun = Instant::now();
        let results = match writes {
            true => self.commit(batch),
            false => Ok(batch.into_iter().map(|job| self.one(job)).collect()),
        };
        if writes {
            self.meter
                .committed(slots.len(), begun.elapsed(), results.is_ok());
            self.condition_is(&kinds, &results);
        }
        match results {
            Ok(results) => {
                for (slot, result) in slots.into_iter().zip(results) {
                    self.answer(slot, result.ok());
                }
            }
            Err(_) => slots.into_iter().for_each(|slot| self.answer(slot, None)),
        }
    }

    fn answer(&self, slot: Slot, effect: Option<Effect>) {
        // Nobody listens any more: the process ends.
        let _ = self.done.send(Done::Written(slot, effect));
    }

    /// All of it or nothing, but for what fails by itself.
    fn commit(&mut self, batch: Vec<Job>) -> rusqlite::Result<Vec<rusqlite::Result<Effect>>> {
        if let Err(error) = self.statement("BEGIN IMMEDIATE") {
            // Another process writes for too long. It keeps nobody from reading.
            let mut error = Some(error);
            let read_only = batch.into_iter().map(|job| match job.task.writes() {
                true => Err(error.take().unwrap_or(rusqlite::Error::InvalidQuery)),
                false => self.one(job),
            });
            return Ok(read_only.collect());
        }
        let results = self.within(batch).and_then(|results| {
            self.connection.execute_batch("COMMIT")?;
            Ok(results)
        });
        // Some errors have ended the transaction already.
        if results.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        results
    }

    fn within(&self, batch: Vec<Job>) -> rusqlite::Result<Vec<rusqlite::Result<Effect>>> {
        let mut height: Option<Height> = None;
        let mut results = Vec::with_capacity(batch.len());
        for job in batch {
            let (writes, last_id, wall) = (job.task.writes(), job.last_id, job.now);
            let result = match writes {
                true => self.apart(job)?,
                false => self.one(job),
            };
            if self.connection.is_autocommit() {
                // An error that took everything with it: the disk is full, the file can't be read.
                return Err(result.err().unwrap_or(rusqlite::Error::InvalidQuery));
            }
            if writes && result.is_ok() {
                height = Some(Height {
                    last_id,
                    wall: wall.as_millisecond(),
                    ceiling: 0,
                });
            }
            results.push(result);
        }
        if let Some(height) = height {
            meta::write(&self.connection, height)?;
        }
        Ok(results)
    }

    /// One task that is taken back by itself if it fails. If even that fails nothing of the transaction can be kept.
    fn apart(&self, job: Job) -> rusqlite::Result<rusqlite::Result<Effect>> {
        self.statement("SAVEPOINT task")?;
        let result = self.one(job);
        if !self.connection.is_autocommit() {
            if result.is_err() {
                self.statement("ROLLBACK TO task")?;
            }
            self.statement("RELEASE task")?;
        }
        Ok(result)
    }

    fn one(&self, job: Job) -> rusqlite::Result<Effect> {
        let result = job.task.apply(&self.connection, job.now);
        result.inspect_err(|error| error!(%error, "the database refused a task"))
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn condition_is(
        &self,
        writes: &[bool],
        results: &rusqlite::Result<Vec<rusqlite::Result<Effect>>>,
    ) {
        let failure = match results {
            Err(error) => Some(error),
            // A task that fails where others succeed says something of the task. Reading succeeds in any case.
            Ok(results) => match results
                .iter()
                .zip(writes)
                .any(|(it, writes)| *writes && it.is_ok())
            {
                true => None,
                false => results.iter().find_map(|result| result.as_ref().err()),
            },
        };
        let before = self
            .condition
            .set(failure.map(|error| format!("nothing can be kept: {error}")));
        match (failure, before) {
            (Some(error), false) => {
                error!(%error, "nothing can be kept: what is to be kept is refused until that is over");
            }
            (None, true) => info!("what is to be kept is kept again"),
            _ => {}
        }
    }
}
