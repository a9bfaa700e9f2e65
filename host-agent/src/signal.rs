//! Signals: what the build host hears of this host.
//!
//! Progress is best effort and never delays a swap. A verdict is kept in `outbox.json` until the queue has accepted it:
//! one that was not sent when the agent died is sent when it starts again. Sequence numbers come from `sequence`, whose
//! file always holds a number that was never used.

use crate::{failure::Failure, queue::Queue};
use contract::signal::HostSignal;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

/// D-HOST-10: 7 attempts, doubling.
const ATTEMPTS: u32 = 7;
/// So many numbers are taken from the file at once.
const BLOCK: u64 = 64;
/// For one progress message.
const PROGRESS: Duration = Duration::from_secs(5);

/// A verdict and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unsent {
    queue: String,
    signal: HostSignal,
}

/// The way to the build host.
#[derive(Debug)]
pub struct Signals {
    queue: Queue,
    outbox: PathBuf,
    sequence: PathBuf,
    next: u64,
    reserved: u64,
    progress: mpsc::Sender<(String, String)>,
    sender: JoinHandle<()>,
}

impl Signals {
    /// Opens the outbox in the state directory.
    pub fn new(queue: Queue, state: &Path) -> Self {
        let (progress, mut messages) = mpsc::channel::<(String, String)>(32);
        let best_effort = queue.clone();
        let sender = tokio::spawn(async move {
            while let Some((url, body)) = messages.recv().await {
                match timeout(PROGRESS, best_effort.send(&url, body)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => tracing::debug!(why, "a progress message was not sent"),
                    Err(_) => tracing::debug!("a progress message was not sent in time"),
                }
            }
        });
        Self {
            queue,
            outbox: state.join("outbox.json"),
            sequence: state.join("sequence"),
            next: 0,
            reserved: 0,
            progress,
            sender,
        }
    }

    /// The next sequence number; it rises over restarts too.
    ///
    /// # Errors
    /// When it can't be made durable.
    pub fn number(&mut self) -> Result<u64, Failure> {
        if self.next >= self.reserved {
            let failed =
                |e: io::Error| Failure::file("reserving sequence numbers in", &self.sequence, &e);
            let stored = crate::files::read(&self.sequence).map_err(failed)?;
            let stored = stored
                .and_then(|b| String::from_utf8(b).ok()?.trim().parse().ok())
                .unwrap_or(1);
            self.next = stored;
            self.reserved = stored + BLOCK;
            crate::files::replace(&self.sequence, self.reserved.to_string().as_bytes())
                .map_err(failed)?;
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Sends a progress message some time soon, or not at all.
    pub fn progress(&mut self, queue: &str, mut signal: HostSignal) {
        match self.number() {
            Ok(n) => signal.seq = n,
            Err(failure) => {
                tracing::debug!(%failure, "a progress message has no number and is dropped");
                return;
            }
        }
        let _ = self.progress.try_send((queue.to_owned(), signal.to_body()));
    }

    /// Keeps a verdict until the queue has accepted it. From here on a crash can't silence it.
    ///
    /// # Errors
    /// When the disk does not take it; [`Signals::send_now`] is what is left then.
    pub fn keep(&mut self, queue: &str, mut signal: HostSignal) -> Result<(), Failure> {
        signal.seq = self.number()?;
        let mut unsent = self.unsent();
        unsent.push(Unsent {
            queue: queue.to_owned(),
            signal,
        });
        self.write(&unsent)
    }

    /// Sends a verdict that can't be kept: a full disk must not silence the host.
    ///
    /// # Errors
    /// When the queue refused [`ATTEMPTS`] times.
    pub async fn send_now(&mut self, queue: &str, mut signal: HostSignal) -> Result<(), Failure> {
        // Without a durable number, one above all that this process has used.
        signal.seq = self.number().unwrap_or(self.reserved + BLOCK);
        self.send(&Unsent {
            queue: queue.to_owned(),
            signal,
        })
        .await
    }

    /// A verdict of this swap that waits to be sent.
    pub fn unsent_of(&self, swap: &str) -> Option<HostSignal> {
        self.unsent()
            .into_iter()
            .map(|u| u.signal)
            .find(|s| s.swap == swap)
    }

    fn unsent(&self) -> Vec<Unsent> {
        let read = crate::files::read(&self.outbox)
            .ok()
            .flatten()
            .unwrap_or_default();
        serde_json::from_slice(&read).unwrap_or_default()
    }

    fn write(&self, unsent: &[Unsent]) -> Result<(), Failure> {
        let failed = |e: io::Error| Failure::file("writing", &self.outbox, &e);
        if unsent.is_empty() {
            return crate::files::remove(&self.outbox).map_err(failed);
        }
        let bytes = serde_json::to_vec(unsent).map_err(|e| failed(e.into()))?;
        crate::files::replace(&self.outbox, &bytes).map_err(failed)
    }

    /// Sends every verdict that the queue has not accepted yet, oldest first.
    ///
    /// # Errors
    /// When the queue refused [`ATTEMPTS`] times; the verdict stays.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        let mut unsent = self.unsent();
        while !unsent.is_empty() {
            self.send(&unsent[0]).await?;
            unsent.remove(0);
            self.write(&unsent)?;
        }
        Ok(())
    }

    async fn send(&self, unsent: &Unsent) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            match self
                .queue
                .send(&unsent.queue, unsent.signal.to_body())
                .await
            {
                Ok(()) => return Ok(()),
                Err(why) if attempt >= ATTEMPTS => {
                    return Err(Failure::internal(format!(
                        "{why}, {ATTEMPTS} times; it is sent when the agent runs next"
                    )));
                }
                Err(why) => {
                    tracing::warn!(attempt, why, "a verdict was not accepted, trying again")
                }
            }
            tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
            attempt += 1;
        }
    }

    /// Ends the sending of progress messages; what is under way gets a moment.
    pub async fn close(self) {
        drop(self.progress);
        let _ = timeout(Duration::from_secs(2), self.sender).await;
    }
}
