//! The process that has the connections: hello → freeze → transfer → commit, and back to serving from anywhere before.
//!
//! The service keeps every descriptor it hands over until [`Ending::Released`]; the kernel duplicates them on the way. So
//! resuming means no more than to read again.

use crate::{
    failure::{Cause, Failure},
    phase::{Observer, Phase, Side},
    receipt::{End, Receipt},
    session::{Session, within},
    settings::{Settings, common},
    wire::{Body, HEADER, Kind, MAX_DESCRIPTORS, Message, Offer, Sealed},
    word::{GAVE_UP, Heard, OwnWord, PeerWord, TAKEN},
};
use serde::Serialize;
use std::{
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    time::Instant,
};

/// Descriptors that a successor needs besides those it is given.
const SPARE: u64 = 16;

/// What the predecessor has at the moment, for the offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Listeners.
    pub listeners: u32,
    /// Connections.
    pub connections: u32,
}

/// State that does not change any more, and is told before the freeze, so that it costs no client any time: the successor
/// reads it while everybody is served. What of it no longer exists at the freeze is left unused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precopied {
    /// In the service's own encoding, in the version that was agreed upon.
    pub bytes: Vec<u8>,
    /// By which the service knows again what it told, see [`Asked::precopied`].
    pub mark: u64,
}

/// A successor has asked, and waits for the service to freeze. Dropping this is giving up: the service serves on.
#[derive(Debug)]
pub struct Asked {
    session: Session,
    word: OwnWord,
    peer: PeerWord,
    room: u64,
    precopied: Option<u64>,
}

/// The successor has everything and has accepted it. Dropping this is giving up: the service serves on.
#[derive(Debug)]
pub struct Prepared {
    session: Session,
    word: OwnWord,
    peer: PeerWord,
}

/// How it ended for the predecessor. There is no third way.
#[derive(Debug)]
#[must_use = "either close every descriptor, or read again"]
pub enum Ending {
    /// The successor serves. Deregister and close every descriptor that was handed over; never read, write or shut down
    /// one of them again.
    Released(Receipt),
    /// The successor has nothing and can never have it. Read again.
    Resume(Failure),
}

/// Turns a successor away: this process has nothing to give, or is in another handover.
///
/// Cheap, and does not wait for the hello, so it may be called anywhere.
pub fn refuse(stream: UnixStream, why: &str) {
    if let Ok(session) = Session::new(stream, Settings::default(), crate::phase::unobserved()) {
        session.part(&Message::Refuse(why.to_owned()));
    }
}

/// Talks to a successor that has connected to the handover socket, up to the point where the service has to freeze.
///
/// Blocks for `Deadlines::hello` at most, for every frame. `now` is what the service would hand over at this moment.
///
/// # Errors
/// Anything: a stranger, silence, no common schema, a descriptor limit that is too low. Nothing has been frozen.
pub fn answer(
    stream: UnixStream,
    now: Counts,
    settings: &Settings,
    observer: Observer,
) -> Result<Asked, Failure> {
    answer_with_precopy(stream, now, settings, observer, |_| Precopied::default())
}

/// As [`answer`], and tells the successor something in advance, in the version of the state that is given to `precopy`.
/// More than `Limits::precopy` is not told.
///
/// # Errors
/// As [`answer`].
pub fn answer_with_precopy(
    stream: UnixStream,
    now: Counts,
    settings: &Settings,
    observer: Observer,
    precopy: impl FnOnce(u32) -> Precopied,
) -> Result<Asked, Failure> {
    let mut session = Session::new(stream, settings.clone(), observer)
        .map_err(|cause| cause.at_once(Side::Predecessor))?;
    match greet(&mut session, now, precopy) {
        Ok(greeted) => Ok(Asked {
            session,
            word: greeted.word,
            peer: greeted.peer,
            room: greeted.room,
            precopied: greeted.precopied,
        }),
        Err(cause) => {
            // A successor that has given up has nothing to be told.
            if !matches!(cause, Cause::Ended | Cause::GaveUp(_)) {
                session.part(&Message::Refuse(cause.to_string()));
            }
            Err(session.fail(Side::Predecessor, cause))
        }
    }
}

/// What is known of a successor that waits for the freeze.
struct Greeted {
    word: OwnWord,
    peer: PeerWord,
    room: u64,
    precopied: Option<u64>,
}

fn greet(
    session: &mut Session,
    now: Counts,
    precopy: impl FnOnce(u32) -> Precopied,
) -> Result<Greeted, Cause> {
    session.check_peer()?;
    let limit = session.settings.deadlines.hello;
    let mut buffer = Vec::new();
    let (hello, peer) = match session.receive(&mut buffer, limit, "hello")? {
        (Message::Hello(hello), mut fds) => (hello, PeerWord::new(fds.remove(0))?),
        (other, _) => return Err(Cause::out_of_order("hello", &other)),
    };
    session.pass(Phase::Connected);
    let schemas = &session.settings.schemas;
    let schema = common(&schemas.writes, &hello.reads).ok_or_else(|| Cause::NoCommonSchema {
        writes: schemas.writes.clone(),
        reads: hello.reads.clone(),
    })?;
    let reads = schemas.reads.clone();
    session.account.schema = Some(schema);
    session.account.reversible = common(&hello.writes, &reads).is_some();
    session.account.offered = now.connections;
    let room = u64::from(hello.room);
    enough(room, now)?;

    let word = OwnWord::new()?;
    let Precopied { mut bytes, mark } = precopy(schema);
    if bytes.len() as u64 > session.settings.limits.precopy {
        bytes.clear();
    }
    let offer = Message::Offer(Offer {
        schema,
        reads,
        listeners: now.listeners,
        connections: now.connections,
        precopy: bytes.len() as u64,
    });
    session.send(&offer, &[word.reading_end()], limit)?;
    for piece in session.pieces(&bytes) {
        session.send(&Message::Precopy(piece.into()), &[], limit)?;
    }
    session.pass(Phase::Offered);
    match session.receive(&mut buffer, limit, "begin")? {
        (Message::Begin, _) => {}
        (other, _) => return Err(Cause::out_of_order("begin", &other)),
    }
    session.freeze();
    session.pass(Phase::Begun);
    Ok(Greeted {
        word,
        peer,
        room,
        precopied: (!bytes.is_empty()).then_some(mark),
    })
}

impl Asked {
    /// The version in which the service has to write its state.
    pub fn schema(&self) -> u32 {
        self.session.account.schema.expect("set before the offer")
    }

    /// The mark of what the successor has been told in advance, and has read.
    pub fn precopied(&self) -> Option<u64> {
        self.precopied
    }

    /// Gives nothing, because the service can't at this moment; the successor is told why. Nothing has been frozen.
    pub fn decline(mut self, why: &str) -> Ending {
        let cause = Cause::NotNow(why.to_owned());
        Ending::Resume(give_up(&mut self.session, &mut self.word, cause))
    }

    /// Sends everything. Call it when the service has frozen: it reads from none of these, writes to none, accepts from
    /// none, and the states say exactly how far each of them has come.
    ///
    /// `listeners` go with names by which the successor tells them apart. `shared` is state that belongs to no
    /// connection, in the service's own encoding; empty if there is none. Each of `connections` is a descriptor (owned,
    /// borrowed, shared; it is dropped after its batch) and its state.
    ///
    /// # Errors
    /// The service resumes: the successor has been told to drop what it got, and cannot have the commit.
    pub fn transfer<F: AsFd, S: Serialize>(
        mut self,
        listeners: &[(&str, BorrowedFd<'_>)],
        shared: &[u8],
        connections: impl IntoIterator<Item = (F, S), IntoIter: ExactSizeIterator>,
    ) -> Result<Prepared, Failure> {
        match self.send_all(listeners, shared, connections.into_iter()) {
            Ok(()) => Ok(Prepared {
                session: self.session,
                word: self.word,
                peer: self.peer,
            }),
            Err(cause) => Err(give_up(&mut self.session, &mut self.word, cause)),
        }
    }

    /// [`Asked::transfer`] and [`Prepared::commit`] in one.
    pub fn give<F: AsFd, S: Serialize>(
        self,
        listeners: &[(&str, BorrowedFd<'_>)],
        shared: &[u8],
        connections: impl IntoIterator<Item = (F, S), IntoIter: ExactSizeIterator>,
    ) -> Ending {
        match self.transfer(listeners, shared, connections) {
            Ok(prepared) => prepared.commit(),
            Err(failure) => Ending::Resume(failure),
        }
    }

    fn send_all<F: AsFd, S: Serialize>(
        &mut self,
        listeners: &[(&str, BorrowedFd<'_>)],
        shared: &[u8],
        connections: impl ExactSizeIterator<Item = (F, S)>,
    ) -> Result<(), Cause> {
        let session = &mut self.session;
        let limits = session.settings.limits;
        let deadlines = session.settings.deadlines;
        let counts = Counts {
            listeners: u32::try_from(listeners.len()).unwrap_or(u32::MAX),
            connections: u32::try_from(connections.len()).unwrap_or(u32::MAX),
        };
        session.account.offered = counts.connections;
        within(
            "listeners",
            counts.listeners.into(),
            limits.listeners.into(),
        )?;
        within(
            "connections",
            counts.connections.into(),
            limits.connections.into(),
        )?;
        enough(self.room, counts)?;
        session.pass(Phase::Frozen);

        let mut sealed = Sealed::default();
        let mut transfer = Transfer {
            session,
            unacknowledged: false,
            sent: 0,
        };
        if !listeners.is_empty() {
            let names = listeners
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect();
            let fds: Vec<_> = listeners.iter().map(|(_, fd)| *fd).collect();
            transfer.send(&Message::Listeners(names).encode()?, &fds, "listeners")?;
            sealed.listeners = counts.listeners;
        }
        for piece in transfer.session.pieces(shared) {
            transfer.send(&Message::Shared(piece.into()).encode()?, &[], "shared")?;
            sealed.shared += piece.len() as u64;
        }
        let mut body = Body::new();
        let mut batch: Vec<F> = Vec::new();
        let mut bytes = Vec::new();
        for (fd, state) in connections {
            let index = u64::from(sealed.connections);
            bytes.clear();
            bytes = postcard::to_extend(&state, bytes).map_err(|source| Cause::State {
                index,
                writing: true,
                source,
            })?;
            // Five bytes are the longest length in front of a state.
            within(
                "bytes of one state",
                bytes.len() as u64 + 5,
                limits.frame as u64,
            )?;
            if batch.len() == usize::from(MAX_DESCRIPTORS)
                || body.len() + bytes.len() + 5 > limits.frame
            {
                transfer.send_batch(&mut body, &mut batch)?;
            }
            body.push_blob(&bytes);
            batch.push(fd);
            sealed.connections += 1;
        }
        if !batch.is_empty() {
            transfer.send_batch(&mut body, &mut batch)?;
        }
        transfer.acknowledged()?;
        session.account.listeners = sealed.listeners;
        session.account.transferred = sealed.connections;

        session.send(&Message::Sealed(sealed), &[], deadlines.batch)?;
        session.pass(Phase::Sealed);
        match session.receive(&mut Vec::new(), deadlines.ready, "ready")? {
            (Message::Ready, _) => {}
            (other, _) => return Err(Cause::out_of_order("ready", &other)),
        }
        session.pass(Phase::Ready);
        Ok(())
    }
}

/// The frames of the transfer. The next one is prepared while the last one is on its way; only one is ever under way, so
/// that few descriptors are in flight (the kernel counts those of a user against his limit).
struct Transfer<'a> {
    session: &'a mut Session,
    unacknowledged: bool,
    sent: u32,
}

impl Transfer<'_> {
    fn send(
        &mut self,
        frame: &[u8],
        fds: &[BorrowedFd<'_>],
        what: &'static str,
    ) -> Result<(), Cause> {
        self.acknowledged()?;
        self.session.count(frame.len() - HEADER)?;
        let limit = self.session.settings.deadlines.batch;
        self.session.send_frame(frame, fds, limit, what)?;
        self.unacknowledged = true;
        self.sent += 1;
        Ok(())
    }

    fn send_batch<F: AsFd>(&mut self, body: &mut Body, batch: &mut Vec<F>) -> Result<(), Cause> {
        let frame = body.frame(Kind::Connections, batch.len())?;
        let fds: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        self.send(frame, &fds, "connections")?;
        body.clear();
        batch.clear();
        self.session.pass(Phase::Transferring);
        Ok(())
    }

    fn acknowledged(&mut self) -> Result<(), Cause> {
        if !std::mem::take(&mut self.unacknowledged) {
            return Ok(());
        }
        let limit = self.session.settings.deadlines.batch;
        match self.session.receive(&mut Vec::new(), limit, "ack")? {
            (Message::Ack(count), _) if count == self.sent => Ok(()),
            (other, _) => Err(Cause::out_of_order(
                "the acknowledgement of the last frame",
                &other,
            )),
        }
    }
}

impl Prepared {
    /// Gives everything away, and waits for the successor's word that it serves.
    ///
    /// After `Deadlines::commit` without one the commit is taken back; that succeeds unless the successor has taken it in
    /// the meantime. In that one case there is no deadline: the successor owns the connections, and this process waits
    /// until it says so, or is gone.
    pub fn commit(mut self) -> Ending {
        if let Err(cause) = self.word.commit() {
            return self.resume(cause);
        }
        self.session.pass(Phase::Committed);
        let deadline = Instant::now() + self.session.settings.deadlines.commit;
        let cause = match self.peer.listen(Some(deadline)) {
            Ok(Heard::Said(TAKEN)) => return self.released(),
            Ok(Heard::Said(_)) => Cause::GaveUp("after commit, without having taken it".to_owned()),
            Ok(Heard::Died) => Cause::Ended,
            Ok(Heard::Nothing) => {
                if self.word.take_back() {
                    return self.resume(Cause::TimedOut {
                        waited_for: "taken",
                    });
                }
                match self.peer.listen(None) {
                    Ok(Heard::Said(TAKEN)) => return self.released(),
                    Ok(Heard::Said(_)) => Cause::GaveUp("after commit, without serving".to_owned()),
                    Ok(Heard::Died | Heard::Nothing) => Cause::Ended,
                    Err(cause) => return self.stuck(cause),
                }
            }
            Err(cause) => return self.stuck(cause),
        };
        // It has said that it never served, or died without having said that it would. Nobody else can have the commit.
        self.resume(cause)
    }

    fn released(mut self) -> Ending {
        self.word.close_with(None);
        self.session.pass(Phase::Taken);
        Ending::Released(self.session.receipt(Side::Predecessor, End::Taken, None))
    }

    fn resume(mut self, cause: Cause) -> Ending {
        Ending::Resume(give_up(&mut self.session, &mut self.word, cause))
    }

    /// The kernel does not let this process listen. If the commit can be had back, fine; if not, the successor has it,
    /// and the connections are safe with it.
    fn stuck(mut self, cause: Cause) -> Ending {
        if self.word.take_back() {
            self.resume(cause)
        } else {
            self.released()
        }
    }
}

/// First the word, which binds; then the reason, which explains.
fn give_up(session: &mut Session, word: &mut OwnWord, cause: Cause) -> Failure {
    word.close_with(Some(GAVE_UP));
    let cause = match cause {
        // It may have said why before it hung up.
        Cause::Ended => session.reason().unwrap_or(Cause::Ended),
        Cause::GaveUp(_) => cause,
        cause => {
            session.part(&Message::Abort(cause.to_string()));
            cause
        }
    };
    session.fail(Side::Predecessor, cause)
}

fn enough(room: u64, counts: Counts) -> Result<(), Cause> {
    let needed = u64::from(counts.listeners) + u64::from(counts.connections) + SPARE;
    if needed > room {
        return Err(Cause::NoRoom { needed, room });
    }
    Ok(())
}
