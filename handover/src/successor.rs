//! The process that takes the connections over: connect → offer → receive → ready → taken.
//!
//! It touches none of what it receives before it has the commit, or knows its predecessor to be dead.

use crate::{
    descriptors,
    failure::{Cause, Failure},
    phase::{Observer, Phase, Side},
    receipt::{End, Receipt},
    session::{Session, within},
    settings::{Settings, common},
    wire::{Hello, Message, Offer, Sealed},
    word::{COMMIT, GAVE_UP, Heard, OwnWord, PeerWord, TAKEN},
};
use serde::de::DeserializeOwned;
use std::{
    os::fd::OwnedFd,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// How long a predecessor whose stream has ended may take to be seen dead: its descriptors close one after the other.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// A predecessor has made an offer, and serves on until [`Offered::take`]. Dropping this is giving up.
#[derive(Debug)]
pub struct Offered {
    session: Session,
    word: OwnWord,
    peer: PeerWord,
    offer: Offer,
    precopied: Vec<u8>,
}

/// What has come. Listeners and connections are in the order in which the predecessor sent them.
#[derive(Debug)]
pub struct Inheritance<S> {
    /// The version in which the states were written.
    pub schema: u32,
    /// Listeners by name. Their backlog came with them.
    pub listeners: Vec<(String, OwnedFd)>,
    /// State that belongs to no connection, as the predecessor's service encoded it.
    pub shared: Vec<u8>,
    /// Connections and their states.
    pub connections: Vec<(OwnedFd, S)>,
    /// False: the predecessor died on the way, and this is what had come. `shared` may be cut short, then.
    pub complete: bool,
}

impl<S> Inheritance<S> {
    fn count(&self) -> Sealed {
        Sealed {
            listeners: self.listeners.len() as u32,
            shared: self.shared.len() as u64,
            connections: self.connections.len() as u32,
        }
    }
}

/// Connects to the process that serves, and asks for what it has. Nothing is frozen yet.
///
/// # Errors
/// Nobody listens at `path` (see [`crate::place::is_held`]), a stranger does, or the predecessor refuses.
pub fn connect(path: &Path, settings: &Settings, observer: Observer) -> Result<Offered, Failure> {
    let deadline = Instant::now() + settings.deadlines.hello;
    let stream =
        descriptors::connect(path, deadline).map_err(|cause| cause.at_once(Side::Successor))?;
    ask(stream, settings, observer)
}

/// As [`connect`], over a stream that is there already.
///
/// # Errors
/// As [`connect`].
pub fn ask(
    stream: UnixStream,
    settings: &Settings,
    observer: Observer,
) -> Result<Offered, Failure> {
    let mut session = Session::new(stream, settings.clone(), observer)
        .map_err(|cause| cause.at_once(Side::Successor))?;
    match greet(&mut session) {
        Ok((word, peer, offer, precopied)) => Ok(Offered {
            session,
            word,
            peer,
            offer,
            precopied,
        }),
        Err(cause) => {
            if !matches!(cause, Cause::Ended | Cause::Refused(_) | Cause::GaveUp(_)) {
                session.part(&Message::Abort(cause.to_string()));
            }
            Err(session.fail(Side::Successor, cause))
        }
    }
}

fn greet(session: &mut Session) -> Result<(OwnWord, PeerWord, Offer, Vec<u8>), Cause> {
    session.check_peer()?;
    session.pass(Phase::Connected);
    let limit = session.settings.deadlines.hello;
    let word = OwnWord::new()?;
    let room = descriptors::room()
        .map_err(|e| Cause::io("counting open descriptors in /proc/self/fd", e))?;
    let schemas = session.settings.schemas.clone();
    let hello = Message::Hello(Hello {
        reads: schemas.reads.clone(),
        writes: schemas.writes.clone(),
        room: u32::try_from(room).unwrap_or(u32::MAX),
    });
    let sent = session.send(&hello, &[word.reading_end()], limit);
    // A predecessor that refuses may have closed before it read the hello: its reason is worth more than our error.
    let mut buffer = Vec::new();
    let received = session.receive(&mut buffer, limit, "the offer");
    let (offer, peer) = match (received, sent) {
        (Ok((Message::Offer(offer), mut fds)), Ok(())) => (offer, PeerWord::new(fds.remove(0))?),
        (Err(cause @ Cause::Refused(_)), _) | (_, Err(cause)) | (Err(cause), _) => {
            return Err(cause);
        }
        (Ok((other, _)), _) => return Err(Cause::out_of_order("offer", &other)),
    };
    if !schemas.reads.contains(&offer.schema) {
        return Err(Cause::NoCommonSchema {
            writes: vec![offer.schema],
            reads: schemas.reads,
        });
    }
    let limits = session.settings.limits;
    within("listeners", offer.listeners.into(), limits.listeners.into())?;
    within(
        "connections",
        offer.connections.into(),
        limits.connections.into(),
    )?;
    within("bytes told in advance", offer.precopy, limits.precopy)?;
    descriptors::make_room(u64::from(offer.connections) + u64::from(offer.listeners));
    session.account.schema = Some(offer.schema);
    session.account.reversible = common(&schemas.writes, &offer.reads).is_some();
    session.account.offered = offer.connections;
    let mut precopied = Vec::new();
    while (precopied.len() as u64) < offer.precopy {
        match session.receive(&mut buffer, limit, "what is told in advance")? {
            (Message::Precopy(piece), _) if !piece.is_empty() => precopied.extend(&*piece),
            (other, _) => return Err(Cause::out_of_order("precopy", &other)),
        }
    }
    within(
        "bytes told in advance",
        precopied.len() as u64,
        offer.precopy,
    )?;
    session.pass(Phase::Offered);
    Ok((word, peer, offer, precopied))
}

/// Why receiving ended before the commit.
enum Stop {
    /// This side, or a predecessor that lives, gave up.
    Failed(Cause),
    /// The predecessor died without having given up.
    Died(Cause),
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Stop::Failed(cause)
    }
}

/// A state is all of its bytes: what is left over was written in another layout.
fn decode<S: DeserializeOwned>(bytes: &[u8]) -> Result<S, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (state, []) => Ok(state),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

impl Offered {
    /// The version in which the states will come.
    pub fn schema(&self) -> u32 {
        self.offer.schema
    }

    /// How many connections the predecessor had when it made the offer.
    pub fn connections(&self) -> u32 {
        self.offer.connections
    }

    /// How many listeners it has.
    pub fn listeners(&self) -> u32 {
        self.offer.listeners
    }

    /// What the predecessor has told in advance, once: to be read before [`Offered::take`], while everybody is served.
    /// Empty if there was nothing.
    pub fn precopied(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.precopied)
    }

    /// Takes nothing, because the service can't; the predecessor is told why. Nothing has been frozen.
    pub fn decline(self, why: String) -> Failure {
        self.give_up(Cause::Service(why))
    }

    /// Has the predecessor freeze, receives everything, lets the service accept it, and takes the commit.
    ///
    /// `accept` turns what has come into what the service will serve with. It runs before the commit: it must not read
    /// from, write to, shut down or register any descriptor, and what it refuses goes back. When this returns `Ok`, the
    /// connections belong to this process, and it may serve at once.
    ///
    /// If the predecessor dies on the way, what has come by then is inherited (`Inheritance::complete` is false): nobody
    /// else has it any more. With nothing inherited at all, listeners included, that is an error.
    ///
    /// # Errors
    /// Nothing is held any more; the predecessor, if it lives, serves on.
    pub fn take<S: DeserializeOwned, T>(
        mut self,
        accept: impl FnOnce(Inheritance<S>) -> Result<T, String>,
    ) -> Result<(T, Receipt), Failure> {
        let mut inheritance = Inheritance {
            schema: self.offer.schema,
            listeners: Vec::new(),
            shared: Vec::new(),
            connections: Vec::new(),
            complete: false,
        };
        let received = self.receive(&mut inheritance);
        let has = inheritance.count();
        self.session.account.listeners = has.listeners;
        self.session.account.transferred = has.connections;
        let died = match received {
            Ok(()) => {
                inheritance.complete = true;
                None
            }
            Err(Stop::Died(cause)) if has != Sealed::default() => Some(cause),
            Err(Stop::Died(cause) | Stop::Failed(cause)) => {
                drop(inheritance);
                return Err(self.give_up(cause));
            }
        };
        // On an error `accept` has dropped what it was given.
        let accepted = match accept(inheritance) {
            Ok(accepted) => accepted,
            Err(reason) => return Err(self.give_up(Cause::Service(reason))),
        };
        let died = match died {
            Some(cause) => Some(cause),
            None => match self.await_commit() {
                Ok(()) => None,
                Err(Stop::Died(cause)) => Some(cause),
                Err(Stop::Failed(cause)) => {
                    drop(accepted);
                    return Err(self.give_up(cause));
                }
            },
        };
        // The word comes before the first read. To a dead predecessor it is nothing.
        self.word.close_with(Some(TAKEN));
        self.session.pass(Phase::Taken);
        let receipt = match died {
            None => self.session.receipt(Side::Successor, End::Taken, None),
            Some(cause) => {
                let cause = format!("the predecessor died: {cause}");
                self.session
                    .receipt(Side::Successor, End::Inherited, Some(cause))
            }
        };
        Ok((accepted, receipt))
    }

    fn receive<S: DeserializeOwned>(&mut self, into: &mut Inheritance<S>) -> Result<(), Stop> {
        match self.receive_all(into) {
            // The stream says that it is over. Whether that is death, only the word can tell.
            Err(cause @ Cause::Ended) => Err(self.dead_or_alive(cause)),
            other => Ok(other?),
        }
    }

    fn receive_all<S: DeserializeOwned>(&mut self, into: &mut Inheritance<S>) -> Result<(), Cause> {
        let session = &mut self.session;
        let deadlines = session.settings.deadlines;
        let limits = session.settings.limits;
        session.freeze();
        session.send(&Message::Begin, &[], deadlines.hello)?;
        session.pass(Phase::Begun);
        let mut limit = deadlines.freeze + deadlines.batch;
        let mut frames = 0;
        let mut buffer = Vec::new();
        loop {
            let (message, fds) =
                session.receive(&mut buffer, limit, "the next frame of the transfer")?;
            if session.phase == Some(Phase::Begun) {
                session.pass(Phase::Frozen);
            }
            limit = deadlines.batch;
            let batch = matches!(message, Message::Connections(_));
            let mut acknowledged = Ok(());
            if batch || matches!(message, Message::Listeners(_) | Message::Shared(_)) {
                session.count(session.received)?;
                // Before the states are looked at, so that the predecessor sends while this side reads them. If it has
                // died in the meantime, the frame is here all the same.
                frames += 1;
                acknowledged = session.send(&Message::Ack(frames), &[], deadlines.batch);
            }
            match message {
                Message::Listeners(names) => {
                    into.listeners.extend(names.into_iter().zip(fds));
                    within(
                        "listeners",
                        into.listeners.len() as u64,
                        limits.listeners.into(),
                    )?;
                }
                Message::Shared(bytes) => {
                    into.shared.extend_from_slice(&bytes);
                }
                Message::Connections(states) => {
                    let so_far = (into.connections.len() + states.len()) as u64;
                    within("connections", so_far, limits.connections.into())?;
                    for (fd, state) in fds.into_iter().zip(states) {
                        let index = into.connections.len() as u64;
                        let state = decode(&state).map_err(|source| Cause::State {
                            index,
                            writing: false,
                            source,
                        })?;
                        into.connections.push((fd, state));
                    }
                }
                Message::Sealed(sealed) => {
                    same(
                        "listeners",
                        sealed.listeners.into(),
                        into.listeners.len() as u64,
                    )?;
                    same(
                        "bytes of shared state",
                        sealed.shared,
                        into.shared.len() as u64,
                    )?;
                    same(
                        "connections",
                        sealed.connections.into(),
                        into.connections.len() as u64,
                    )?;
                    session.account.offered = sealed.connections;
                    session.pass(Phase::Sealed);
                    return Ok(());
                }
                other => return Err(Cause::out_of_order("a frame of the transfer", &other)),
            }
            acknowledged?;
            if batch {
                session.pass(Phase::Transferring);
            }
        }
    }

    /// Everything is here. Exactly one of the two processes will read the commit.
    fn await_commit(&mut self) -> Result<(), Stop> {
        let deadlines = self.session.settings.deadlines;
        match self.session.send(&Message::Ready, &[], deadlines.batch) {
            Ok(()) => self.session.pass(Phase::Ready),
            // The word decides.
            Err(Cause::Ended) => {}
            Err(cause) => return Err(Stop::Failed(cause)),
        }
        let deadline = self.session.until(deadlines.commit);
        match self.peer.listen(Some(deadline))? {
            Heard::Said(COMMIT) => {
                self.session.pass(Phase::Committed);
                Ok(())
            }
            Heard::Died => Err(Stop::Died(Cause::Ended)),
            Heard::Nothing => Err(Stop::Failed(Cause::TimedOut {
                waited_for: "the commit",
            })),
            Heard::Said(_) => Err(Stop::Failed(self.given_up())),
        }
    }

    fn dead_or_alive(&mut self, cause: Cause) -> Stop {
        match self.peer.listen(Some(Instant::now() + LAST_BREATH)) {
            Ok(Heard::Died) => Stop::Died(cause),
            Ok(Heard::Said(GAVE_UP)) => Stop::Failed(self.given_up()),
            // It closed the stream and lives: it serves, or may serve again.
            _ => Stop::Failed(cause),
        }
    }

    /// The predecessor has given its word; the reason follows.
    fn given_up(&mut self) -> Cause {
        let unsaid = || Cause::GaveUp("it did not say why".to_owned());
        self.session.reason().unwrap_or_else(unsaid)
    }

    fn give_up(mut self, cause: Cause) -> Failure {
        self.word.close_with(Some(GAVE_UP));
        if !matches!(cause, Cause::Ended | Cause::GaveUp(_)) {
            self.session.part(&Message::Abort(cause.to_string()));
        }
        self.session.fail(Side::Successor, cause)
    }
}

fn same(what: &'static str, sealed: u64, arrived: u64) -> Result<(), Cause> {
    if sealed == arrived {
        return Ok(());
    }
    Err(Cause::Incomplete {
        what,
        sealed,
        arrived,
    })
}
