//! The file of the embedded engine and the threads that work at it (decision 0016).
//!
//! The loop hands over tasks and questions and goes on; what comes of them it takes when it is woken. One thread writes:
//! everything that waits, in one transaction. A few threads read pages. How much may be under way is bounded here; what is
//! beyond that is refused at once, so that neither memory nor the loop's time depends on the disk.

pub mod entries;
pub mod marks;
pub mod messages;
pub mod meta;
pub mod plans;
mod reactions;
pub mod reader;
pub mod schema;
pub mod sweep;
pub mod task;
mod text;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use self::reader::{Question, Reader};
use self::task::{Effect, Task};
use self::writer::{Job, Writer};
use super::{Answer, Ticket};
use crate::metrics::EngineMeter;
use crate::time::Now;

/// What whoever asked is told when nothing can be kept.
pub const UNWRITABLE: &str = "the server can't keep anything at the moment: try again later";

/// What whoever asked is told when nothing can be read.
pub const UNREADABLE: &str = "the server can't read what it keeps at the moment: try again later";

/// What whoever asked is told when too much is under way.
pub const BUSY: &str = "the server has too much to keep at the moment: try again later";

/// Tasks under way, at most: some seconds of work for an ordinary disk.
const TASKS: usize = 16 * 1024;

/// Their bytes, at most.
const BYTES: usize = 64 << 20;

/// Questions under way, at most.
const QUESTIONS: usize = 1024;

/// Threads that read.
const READERS: usize = 2;

/// Wakes the loop.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How certainly what has been accepted outlives a loss of power. It outlives the end of the process in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is on the disk before it is answered.
    #[default]
    Full,
    /// It is on the disk a little later: the file stays whole, the last seconds may be missing.
    Normal,
    /// It is left to the operating system: the file may be damaged.
    Off,
}

impl Durability {
    fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
            Self::Off => "OFF",
        }
    }
}

/// Where what comes of a task belongs.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Which task; they rise.
    pub number: u64,
    /// In the order of which channel.
    pub channel: Option<Arc<str>>,
    /// Who is answered if it can't be done.
    pub ticket: Option<Ticket>,
    bytes: usize,
}

/// What has been finished.
#[derive(Debug)]
pub enum Done {
    /// A task; nothing, if it could not be done.
    Written(Slot, Option<Effect>),
    /// A question.
    Read(Ticket, Answer),
}

/// Why nothing can be kept, if that is so.
#[derive(Debug, Clone, Default)]
pub struct Condition(Arc<Mutex<Option<String>>>);

impl Condition {
    /// Says how it is; whether it was ill before.
    fn set(&self, ill: Option<String>) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, ill).is_some()
    }

    /// Why nothing can be kept.
    #[must_use]
    pub fn ill(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The file, for the loop.
pub struct Store {
    jobs: Option<Sender<Job>>,
    questions: Option<Sender<Question>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
    condition: Condition,
    meter: EngineMeter,
    last_number: u64,
    tasks: usize,
    bytes: usize,
    asked: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file, brings it up to date, and starts the threads.
    ///
    /// # Errors
    /// The file can't be used, with what to do; or there can't be another thread.
    pub fn open(
        folder: &Path,
        durability: Durability,
        meter: EngineMeter,
        wake: Wake,
    ) -> anyhow::Result<Self> {
        let connection = schema::prepare(folder, durability)?;
        let (jobs, job_list) = mpsc::channel();
        let (questions, question_list) = mpsc::channel();
        let question_list = Arc::new(Mutex::new(question_list));
        let (done, done_list) = mpsc::channel();
        let condition = Condition::default();
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let reader = Reader {
                connection: schema::reader(folder)
                    .with_context(|| format!("{} can't be read", folder.display()))?,
                questions: question_list.clone(),
                done: done.clone(),
                wake: wake.clone(),
            };
            threads.push(spawn("reader", move || reader.run())?);
        }
        let writer = Writer {
            connection,
            jobs: job_list,
            done,
            wake,
            condition: condition.clone(),
            meter: meter.clone(),
        };
        threads.push(spawn("writer", move || writer.run())?);
        Ok(Self {
            jobs: Some(jobs),
            questions: Some(questions),
            done: done_list,
            threads,
            condition,
            meter,
            last_number: 0,
            tasks: 0,
            bytes: 0,
            asked: 0,
        })
    }

    /// Gives the writer a task; its number, or nothing if too much is under way. What belongs to the engine itself, and is
    /// never more than one at a time, is always taken.
    pub fn give(
        &mut self,
        now: Now,
        last_id: ulid::Ulid,
        channel: Option<Arc<str>>,
        ticket: Option<Ticket>,
        task: Task,
    ) -> Option<u64> {
        let bytes = task.size();
        if ticket.is_some() && (self.tasks >= TASKS || self.bytes + bytes > BYTES) {
            return None;
        }
        self.last_number += 1;
        let job = Job {
            slot: Slot {
                number: self.last_number,
                channel,
                ticket,
                bytes,
            },
            now: now.wall,
            last_id,
            task,
        };
        self.jobs.as_ref()?.send(job).ok()?;
        self.tasks += 1;
        self.bytes += bytes;
        self.meter.queue.set(self.tasks as i64);
        Some(self.last_number)
    }

    /// Gives the readers a question; false if too much is under way.
    pub fn ask(&mut self, question: Question) -> bool {
        let Some(questions) = &self.questions else {
            return false;
        };
        if self.asked >= QUESTIONS || questions.send(question).is_err() {
            return false;
        }
        self.asked += 1;
        true
    }

    /// What has been finished, if anything has.
    pub fn take(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.count(&done);
        Some(done)
    }

    /// As [`Store::take`], but waits for it.
    pub fn wait(&mut self, within: Duration) -> Option<Done> {
        let done = self.done.recv_timeout(within).ok()?;
        self.count(&done);
        Some(done)
    }

    fn count(&mut self, done: &Done) {
        match done {
            Done::Written(slot, _) => {
                self.tasks -= 1;
                self.bytes -= slot.bytes;
                self.meter.queue.set(self.tasks as i64);
            }
            Done::Read(..) => self.asked -= 1,
        }
    }

    /// Nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks == 0 && self.asked == 0
    }

    /// Why nothing can be kept, if that is so.
    #[must_use]
    pub fn ill(&self) -> Option<String> {
        self.condition.ill()
    }
}

impl Drop for Store {
    /// What has been taken is still done: the threads end when there is nothing more.
    fn drop(&mut self) {
        (self.jobs, self.questions) = (None, None);
        for thread in self.threads.drain(..) {
            // It has said why if it has failed.
            let _ = thread.join();
        }
    }
}

fn spawn(what: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("realtime-{what}"))
        .spawn(work)
        .context("a thread for the database can't be started")
}
