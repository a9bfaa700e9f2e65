//! What both sides do alike: frames over the stream within deadlines and limits, phases, and the account of it.

use crate::{
    descriptors,
    failure::{Cause, Failure},
    peers,
    phase::{Observer, Phase, Side},
    receipt::{End, Receipt},
    settings::Settings,
    wire::{HEADER, Header, MAX_BODY, Message},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// How long an abort may wait for room in the stream: it only explains, the word has been given.
const PARTING: Duration = Duration::from_millis(50);

pub(crate) struct Session {
    stream: UnixStream,
    pub(crate) settings: Settings,
    observer: Observer,
    pub(crate) phase: Option<Phase>,
    started: Instant,
    frozen: Option<Instant>,
    /// Bytes of bodies that belong to the transfer.
    pub(crate) bytes: u64,
    /// Bytes of the body that was received last.
    pub(crate) received: usize,
    pub(crate) account: Account,
}

/// What a receipt says besides times and phase.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) schema: Option<u32>,
    pub(crate) reversible: bool,
    pub(crate) offered: u32,
    pub(crate) transferred: u32,
    pub(crate) listeners: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("phase", &self.phase)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(
        stream: UnixStream,
        settings: Settings,
        observer: Observer,
    ) -> Result<Self, Cause> {
        stream
            .set_nonblocking(true)
            .map_err(|e| Cause::io("preparing the stream", e))?;
        Ok(Self {
            stream,
            settings,
            observer,
            phase: None,
            started: Instant::now(),
            frozen: None,
            bytes: 0,
            received: 0,
            account: Account::default(),
        })
    }

    /// Bytes that may be more than a frame carries.
    pub(crate) fn pieces<'a>(&self, bytes: &'a [u8]) -> std::slice::Chunks<'a, u8> {
        bytes.chunks(self.settings.limits.frame.clamp(1, MAX_BODY))
    }

    pub(crate) fn check_peer(&self) -> Result<(), Cause> {
        peers::check(&self.stream, &self.settings.trusted_uids)
    }

    pub(crate) fn pass(&mut self, phase: Phase) {
        self.phase = Some(phase);
        (self.observer)(phase);
    }

    /// From here on nobody reads, and `Deadlines::frozen` runs.
    pub(crate) fn freeze(&mut self) {
        self.frozen = Some(Instant::now());
    }

    pub(crate) fn until(&self, limit: Duration) -> Instant {
        let deadline = Instant::now() + limit;
        match self.frozen {
            Some(frozen) => deadline.min(frozen + self.settings.deadlines.frozen),
            None => deadline,
        }
    }

    pub(crate) fn send(
        &self,
        message: &Message<'_>,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), Cause> {
        self.send_frame(
            &message.encode()?,
            descriptors,
            limit,
            message.kind().name(),
        )
    }

    pub(crate) fn send_frame(
        &self,
        frame: &[u8],
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
        what: &'static str,
    ) -> Result<(), Cause> {
        let until = self.until(limit);
        descriptors::send_all(self.stream.as_fd(), frame, descriptors, until, what)
    }

    /// The next frame, which is read into `buffer` and may borrow from it. An abort or a refusal is an error, with the
    /// other side's reason.
    pub(crate) fn receive<'a>(
        &mut self,
        buffer: &'a mut Vec<u8>,
        limit: Duration,
        waited_for: &'static str,
    ) -> Result<(Message<'a>, Vec<OwnedFd>), Cause> {
        let until = self.until(limit);
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        let stream = self.stream.as_fd();
        let mut lost =
            descriptors::receive_exact(stream, &mut header, &mut fds, until, waited_for)?;
        let header = Header::decode(header, self.settings.limits.frame)?;
        let length = header.length as usize;
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let body = &mut buffer[..length];
        lost |= descriptors::receive_exact(stream, body, &mut fds, until, waited_for)?;
        if lost || fds.len() != usize::from(header.descriptors) {
            return Err(Cause::DescriptorsLost {
                announced: header.descriptors,
                got: fds.len(),
            });
        }
        self.received = body.len();
        match Message::decode(header.kind, header.descriptors, body)? {
            Message::Abort(text) => Err(Cause::GaveUp(text)),
            Message::Refuse(text) => Err(Cause::Refused(text)),
            message => Ok((message, fds)),
        }
    }

    /// Tells the other side why, if the stream still takes it.
    pub(crate) fn part(&self, message: &Message<'_>) {
        if let Ok(frame) = message.encode() {
            let until = Instant::now() + PARTING;
            let _ = descriptors::send_all(self.stream.as_fd(), &frame, &[], until, "abort");
        }
    }

    /// The reason of an abort that has come already or comes at once, behind acknowledgements that do not matter now.
    pub(crate) fn reason(&mut self) -> Option<Cause> {
        loop {
            match self.receive(&mut Vec::new(), PARTING, "abort") {
                Ok((Message::Ack(_) | Message::Ready, _)) => {}
                Err(cause @ Cause::GaveUp(_)) => return Some(cause),
                _ => return None,
            }
        }
    }

    /// Counts the bytes of the transfer, and refuses to go over the limit.
    pub(crate) fn count(&mut self, bytes: usize) -> Result<(), Cause> {
        self.bytes += bytes as u64;
        within("bytes of state", self.bytes, self.settings.limits.total)
    }

    pub(crate) fn fail(&self, side: Side, cause: Cause) -> Failure {
        Failure {
            phase: self.phase,
            receipt: Box::new(self.receipt(side, End::Failed, Some(cause.to_string()))),
            cause,
        }
    }

    pub(crate) fn receipt(&self, side: Side, end: End, cause: Option<String>) -> Receipt {
        let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
        let Account {
            schema,
            reversible,
            offered,
            transferred,
            listeners,
        } = self.account;
        let failed = end == End::Failed;
        Receipt {
            side,
            end,
            phase: self.phase,
            cause,
            schema,
            reversible,
            offered,
            transferred: if failed { 0 } else { transferred },
            dropped: if failed {
                0
            } else {
                offered.saturating_sub(transferred)
            },
            listeners: if failed { 0 } else { listeners },
            bytes: self.bytes,
            frozen_ms: self.frozen.map_or(0.0, milliseconds),
            total_ms: milliseconds(self.started),
            service: serde_json::Map::new(),
        }
    }
}

pub(crate) fn within(what: &'static str, is: u64, limit: u64) -> Result<(), Cause> {
    if is > limit {
        return Err(Cause::OverLimit { what, is, limit });
    }
    Ok(())
}
