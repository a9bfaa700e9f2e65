//! This process takes over from its predecessor, and is taken over by its successor (`docs/handover.md`): listeners, HTTP
//! requests that are half read, WebSockets with all that they are. Both run in the loop: while everything is frozen it has
//! nothing else to do. Talking before and after that is left to the [`Desk`]'s threads.
//!
//! What stays behind: operators' sockets, which are each process's own, and sockets that are about to close anyway.

use std::borrow::Cow;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use handover::control::Role;
use handover::desk::{Desk, Event};
use handover::place::{self, Place};
use handover::predecessor::{Asked, Ending};
use handover::successor::{self, Inheritance};
use handover::{Schemas, Settings as HandoverSettings};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::{error, info, warn};

use super::Server;
use super::listener::{Door, Listener};
use super::socket::{Echo, Http, Kind, Socket, Stream};
use crate::config::Address;
use crate::engine::EngineState;
use crate::http as wire;
use crate::hub::Client;
use crate::hub::succession::{Arrival, ConnectionState, Precopy, Revived};
use crate::info::VERSION;
use crate::outbox::Key;
use crate::time::Now;
use crate::websocket;

/// The version of [`SocketState`] and of all that is in it. Another layout gets the next number; the old one is read for a
/// release more, and written as long as the release before reads nothing else.
const SCHEMA: u32 = 1;

/// A state with more bytes than this travels beside the connections: of one that reads slowly more may wait than fits into
/// a frame of the protocol (1 MiB), and it must not stop anybody's deploy.
const LARGE: usize = 256 * 1024;

/// What a connection with a subscription or two takes in memory, about.
const CONNECTION_BYTES: usize = 4 * 1024;

/// The most memory that is made ready before a handover: for 16,384 connections.
const WARM_BYTES: usize = 64 * 1024 * 1024;

/// Smaller than what the allocator would map apart and unmap again (128 KiB with glibc).
const WARM_BLOCK: usize = 64 * 1024;

/// How long a handover waits for what is being kept. Nothing is frozen yet, but nobody is served either.
const SETTLING: Duration = Duration::from_millis(150);

/// What travels with a descriptor. `C` is what a connection leaves as or arrives as.
#[derive(Debug, Serialize, Deserialize)]
enum Travelling<'a, C> {
    /// Its state.
    Here(SocketState<'a, C>),
    /// Its state is the one with this number in [`Shared::large`].
    Beside(usize),
}

/// What travels beside the connections.
#[derive(Debug, Serialize, Deserialize)]
struct Shared<'a, C> {
    engine: EngineState,
    large: Vec<Option<SocketState<'a, C>>>,
}

/// One socket, as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct SocketState<'a, C> {
    unix: bool,
    peer: Option<IpAddr>,
    /// Bytes that its peer has not been sent yet.
    #[serde(with = "serde_bytes")]
    unsent: Vec<u8>,
    speaks: Speaks<'a, C>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Speaks<'a, C> {
    Http {
        decoder: Cow<'a, wire::Decoder>,
        served: bool,
    },
    WebSocket {
        decoder: Cow<'a, websocket::Decoder>,
        connection: Box<C>,
    },
    Echo {
        decoder: Cow<'a, websocket::Decoder>,
        deflate: bool,
    },
}

/// All that came, read and checked, before it is certain that it is ours.
struct Taken {
    listeners: Vec<(Address, Door, OwnedFd)>,
    engine: EngineState,
    sockets: Vec<Heir>,
}

/// One socket that came.
struct Heir {
    fd: OwnedFd,
    unix: bool,
    peer: Option<IpAddr>,
    unsent: Vec<u8>,
    kind: Kind,
    connection: Option<Revived>,
}

impl SocketState<'_, Arrival> {
    fn revive(self, fd: OwnedFd, known: &mut Precopy) -> Result<Heir, String> {
        let mut connection = None;
        let kind = match self.speaks {
            Speaks::WebSocket {
                decoder,
                connection: arrival,
            } => {
                connection = Some(arrival.complete(known)?);
                Kind::WebSocket(decoder.into_owned())
            }
            Speaks::Echo { decoder, deflate } => Kind::Echo(Box::new(Echo {
                decoder: decoder.into_owned(),
                deflate,
            })),
            Speaks::Http { decoder, served } => Kind::Http(Box::new(Http {
                decoder: decoder.into_owned(),
                served,
                ..Http::default()
            })),
        };
        Ok(Heir {
            fd,
            unix: self.unix,
            peer: self.peer,
            unsent: self.unsent,
            kind,
            connection,
        })
    }
}

/// This process's part in handovers.
#[derive(Debug)]
pub struct Succession {
    desk: Desk,
    place: Place,
    /// The private socket on which it tells its health, also while it waits.
    pub health: Option<PathBuf>,
}

impl Succession {
    /// `None` where nobody hands over: `PORTER_HANDOVER_SOCKET` is not set.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn from_environment(registry: &Registry, token: Token) -> anyhow::Result<Option<Self>> {
        let Ok(place) = Place::from_environment() else {
            return Ok(None);
        };
        let desk = Desk::watched(
            HandoverSettings::new(Schemas::only(SCHEMA)),
            |side, phase| {
                tracing::debug!(?side, phase = phase.name(), "handover");
            },
        )?;
        desk.note(|status| {
            status.service.insert("version".into(), json!(VERSION));
        });
        registry.register(
            &mut SourceFd(&desk.as_fd().as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        let health = std::env::var_os("PORTER_HEALTH_SOCKET").map(Into::into);
        Ok(Some(Self {
            desk,
            place,
            health,
        }))
    }

    /// Where this process listens: on its own private socket for health always, on those of the service if it is the first.
    ///
    /// # Errors
    /// The folder can't be reached.
    pub fn addresses(&self) -> anyhow::Result<Vec<(Address, Door)>> {
        let mut addresses = Vec::new();
        let unix = |path: &PathBuf| Address::Unix(path.clone());
        addresses.extend(
            self.health
                .as_ref()
                .map(|path| (unix(path), Door::Operations)),
        );
        if self.is_first()? {
            addresses.push((unix(&self.place.handover), Door::Handover));
            addresses.extend(
                self.place
                    .inet
                    .as_ref()
                    .map(|path| (unix(path), Door::Public)),
            );
        }
        Ok(addresses)
    }

    /// Lets leaders in, once it is known whether this process serves.
    ///
    /// # Errors
    /// The control socket can't be opened.
    pub fn begin(&self, serves: bool) -> anyhow::Result<()> {
        if serves {
            self.desk.note(|status| status.role = Role::Serving);
        }
        if let Some(path) = &self.place.control {
            let listener = place::bind(path).and_then(|control| self.desk.obey(control));
            listener.with_context(|| format!("can't be led through {}", path.display()))?;
        }
        Ok(())
    }

    /// Nobody serves yet.
    ///
    /// # Errors
    /// The folder can't be reached.
    pub fn is_first(&self) -> anyhow::Result<bool> {
        let handover = &self.place.handover;
        let held = place::is_held(handover);
        Ok(!held.with_context(|| {
            format!(
                "can't tell whether anybody serves at {}",
                handover.display()
            )
        })?)
    }

    /// A process that nobody leads takes over as soon as it is up.
    pub fn is_unled(&self) -> bool {
        self.place.control.is_none()
    }
}

impl Server {
    /// What the desk has for the loop to decide. True: this process is to end.
    pub(super) fn succession_due(&mut self, now: Now) -> bool {
        while let Some(event) = self.succession.as_ref().and_then(|it| it.desk.next()) {
            match event {
                Event::Precopy(precopy) => precopy.give(self.hub.precopy()),
                Event::Asked(asked) => self.give(now, *asked),
                Event::TakeOver => self.take_over(now),
                Event::Retire => {
                    info!("retired: the successor serves");
                    return true;
                }
            }
        }
        false
    }

    /// Says what there is to hand over.
    pub(super) fn count_for_succession(&self) {
        if let Some(succession) = &self.succession {
            let listeners = self
                .listeners
                .iter()
                .filter(|(_, listener)| listener.door.travels());
            succession
                .desk
                .counts(listeners.count(), self.travellers().count());
        }
    }

    /// A process that asks to be the successor.
    pub(super) fn to_desk(&self, stream: Stream) {
        if let (Some(succession), Stream::Unix(stream)) = (&self.succession, stream) {
            succession.desk.successor(OwnedFd::from(stream).into());
        }
    }

    fn travellers(&self) -> impl Iterator<Item = Key> + '_ {
        self.sockets
            .iter()
            .filter(|(_, socket)| travels(socket))
            .map(|(key, _)| key)
    }

    /// Everything is frozen as long as this runs: nothing is read, written or accepted.
    fn give(&mut self, now: Now, asked: Asked) {
        // What has been accepted is kept and answered first: the successor finds it in the file.
        let mut settled = self.hub.settle(now, SETTLING);
        self.deliver(now);
        settled = settled && self.hub.settle(now, SETTLING);
        let Some(succession) = self.succession.take() else {
            return;
        };
        if !settled {
            warn!(
                "a handover is put off: the engine has not finished what it accepted, the disk is slow"
            );
            let why =
                "it has not finished keeping what it has accepted: the disk is slow, try again";
            succession.desk.gave(asked.decline(why));
            self.succession = Some(succession);
            return;
        }
        let keys: Vec<_> = self.travellers().collect();
        let leaving: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, it)| it.door.travels())
            .map(|(key, _)| key)
            .collect();
        let ending = self.offer(now, asked, &keys, &leaving);
        let in_flight = self.in_flight(&keys);
        let (ending, taken) = match ending {
            Ending::Released(mut receipt) => {
                receipt.service = in_flight;
                info!(
                    connections = receipt.transferred,
                    frozen_ms = receipt.frozen_ms,
                    total_ms = receipt.total_ms,
                    "handed over"
                );
                (Ending::Released(receipt), true)
            }
            Ending::Resume(failure) => {
                warn!(%failure, "a handover failed: this process serves on");
                (Ending::Resume(failure), false)
            }
        };
        if taken {
            self.let_go(&keys, &leaving);
        }
        self.succession = Some(succession);
        self.count_for_succession();
        if let Some(succession) = &self.succession {
            succession.desk.gave(ending);
        }
    }

    fn offer(&mut self, now: Now, asked: Asked, keys: &[Key], leaving: &[usize]) -> Ending {
        let mut shared = Shared {
            engine: self.hub.export_engine(now),
            large: Vec::new(),
        };
        let told = asked.precopied();
        for &key in keys {
            if self.is_large(key) {
                let state = self.export(now, key, told);
                shared.large.push(Some(state));
            }
        }
        let bytes = match postcard::to_stdvec(&shared) {
            Ok(bytes) => bytes,
            // Dropping what the successor asked is giving up.
            Err(error) => unreachable!("plain data in memory can be encoded: {error}"),
        };
        let names: Vec<_> = leaving
            .iter()
            .map(|&key| self.listeners[key].name())
            .collect();
        let listeners: Vec<_> = names
            .iter()
            .zip(leaving)
            .map(|(name, &key)| (&**name, self.listeners[key].as_fd()))
            .collect();
        let mut large = 0..;
        let connections = keys.iter().map(|&key| {
            let state = match self.is_large(key) {
                true => Travelling::Beside(large.next().expect("numbers do not end")),
                false => Travelling::Here(self.export(now, key, told)),
            };
            (self.sockets[key].stream.as_fd(), state)
        });
        asked.give(&listeners, &bytes, connections)
    }

    fn is_large(&self, key: Key) -> bool {
        let buffered = match &self.sockets[key].kind {
            Kind::WebSocket(decoder) => decoder.buffered(),
            Kind::Echo(echo) => echo.decoder.buffered(),
            Kind::Http(http) => http.decoder.buffered(),
            Kind::Ending { .. } => 0,
        };
        self.hub.outboxes.get(key).len() + buffered > LARGE
    }

    fn export(
        &self,
        now: Now,
        key: Key,
        told: Option<u64>,
    ) -> SocketState<'_, ConnectionState<'_>> {
        let socket = &self.sockets[key];
        let outbox = self.hub.outboxes.get(key);
        let mut unsent = Vec::with_capacity(outbox.len());
        outbox
            .pending()
            .for_each(|bytes| unsent.extend_from_slice(bytes));
        SocketState {
            unix: matches!(socket.stream, Stream::Unix(_)),
            peer: socket.peer,
            unsent,
            speaks: self.speaks(now, key, told),
        }
    }

    fn speaks(&self, now: Now, key: Key, told: Option<u64>) -> Speaks<'_, ConnectionState<'_>> {
        match &self.sockets[key].kind {
            Kind::WebSocket(decoder) => Speaks::WebSocket {
                decoder: Cow::Borrowed(decoder),
                connection: Box::new(
                    self.hub
                        .export(now, key, told)
                        .expect("a WebSocket that travels is a connection"),
                ),
            },
            Kind::Echo(echo) => Speaks::Echo {
                decoder: Cow::Borrowed(&echo.decoder),
                deflate: echo.deflate,
            },
            Kind::Http(http) => Speaks::Http {
                decoder: Cow::Borrowed(&http.decoder),
                served: http.served,
            },
            Kind::Ending { .. } => Speaks::Http {
                decoder: Cow::Owned(wire::Decoder::new()),
                served: true,
            },
        }
    }

    /// What was on its way at the freeze, for the receipt.
    fn in_flight(&self, keys: &[Key]) -> Map<String, Value> {
        let (mut unsent, mut bytes, mut half_read) = (0, 0, 0);
        for &key in keys {
            let outbox = self.hub.outboxes.get(key);
            unsent += outbox.frames();
            bytes += outbox.len();
            half_read += usize::from(match &self.sockets[key].kind {
                Kind::WebSocket(decoder) => decoder.buffered() > 0,
                Kind::Echo(echo) => echo.decoder.buffered() > 0,
                Kind::Http(http) => !http.decoder.is_idle(),
                Kind::Ending { .. } => false,
            });
        }
        let facts =
            json!({"unsentMessages": unsent, "unsentBytes": bytes, "halfReadMessages": half_read});
        facts.as_object().cloned().unwrap_or_default()
    }

    /// They are the successor's. Closing a descriptor whose twin lives on does not take it out of the kernel's readiness
    /// interface, so that is done first.
    fn let_go(&mut self, keys: &[Key], leaving: &[usize]) {
        let registry = self.poll.registry();
        for &key in leaving {
            self.listeners.remove(key).let_go(registry);
        }
        for &key in keys {
            self.settle(key);
            self.sockets
                .remove(key)
                .stream
                .deregister(self.poll.registry());
            self.hub.outboxes.open(key);
        }
        self.hub.release();
        self.tell_backends();
        self.courier.let_go();
    }

    /// Takes everything from whoever serves.
    pub(super) fn take_over(&mut self, now: Now) {
        let Some(succession) = self.succession.take() else {
            return;
        };
        let desk = &succession.desk;
        let offered =
            successor::connect(&succession.place.handover, desk.settings(), desk.observer());
        let taken = offered.and_then(|mut offered| {
            // Nobody is frozen before `take`.
            let mut known = match Precopy::read(&offered.precopied()) {
                Ok(known) => known,
                Err(why) => return Err(offered.decline(why)),
            };
            let _warm = warm(offered.connections() as usize);
            self.make_room(offered.connections() as usize);
            offered.take(|inheritance| revive(inheritance, &mut known))
        });
        let taken = taken.map(|(taken, receipt)| {
            info!(
                connections = receipt.transferred,
                dropped = receipt.dropped,
                frozen_ms = receipt.frozen_ms,
                total_ms = receipt.total_ms,
                "took over"
            );
            self.adopt(now, taken);
            ((), receipt)
        });
        self.succession = Some(succession);
        self.count_for_succession();
        if let Some(succession) = &self.succession
            && let Err(failure) = succession.desk.took(taken)
        {
            error!(%failure, "a take-over failed: whoever served serves on");
        }
    }

    /// For so many more connections.
    fn make_room(&mut self, connections: usize) {
        self.sockets.reserve(connections);
        self.hub.make_room(connections);
    }

    fn adopt(&mut self, now: Now, taken: Taken) {
        for (address, door, fd) in taken.listeners {
            let entry = self.listeners.vacant_entry();
            let token = super::listener_token(entry.key());
            match Listener::inherit(fd, &address, door, self.poll.registry(), token) {
                Ok(listener) => {
                    entry.insert(listener);
                }
                Err(error) => error!(%error, %address, "an inherited listener can't be awaited"),
            }
        }
        self.hub.import_engine(now, taken.engine);
        for heir in taken.sockets {
            self.adopt_socket(now, heir);
        }
        self.hub.imported(now);
        self.courier.begin();
    }

    fn adopt_socket(&mut self, now: Now, heir: Heir) {
        let Heir {
            fd,
            unix,
            peer,
            unsent,
            kind,
            connection,
        } = heir;
        let mut stream = Stream::from_fd(fd, unix);
        let entry = self.sockets.vacant_entry();
        let key = entry.key();
        if let Err(error) = stream.register(self.poll.registry(), Token(key)) {
            error!(%error, "an inherited connection can't be awaited");
            return;
        }
        self.last_serial += 1;
        let client = Client {
            key,
            serial: self.last_serial,
        };
        let mut socket = Socket::new(stream, client.serial, peer, false);
        socket.kind = kind;
        if let Kind::Http(_) = socket.kind {
            socket.deadline = Some(now.mono + self.settings.limits.handshake);
        }
        entry.insert(socket);
        self.hub.outboxes.open(key);
        if !unsent.is_empty() {
            // Room for what it was given above the bounds has come with it.
            self.hub.outboxes.make_room(key, unsent.len());
            self.hub.outboxes.force(key, unsent.into());
        }
        if let Some(connection) = connection {
            self.hub.import(now.mono, client, connection);
        }
        self.look_at(now, client);
        // What came before the freeze may be complete, and the kernel may have more.
        self.ready.push(client);
    }
}

/// Clients' sockets travel, unless they are about to close or wait for an answer that this process has to give.
fn travels(socket: &Socket) -> bool {
    let over = match &socket.kind {
        Kind::Ending { .. } => true,
        Kind::Http(http) => http.awaiting,
        Kind::WebSocket(_) | Kind::Echo(_) => false,
    };
    !over && !socket.operations
}

/// Has the allocator hold memory for so many connections, in pages that the kernel has already given: the first touch of
/// each is a fault, and a thousand of them take some milliseconds, better before anything is frozen. As long as the result
/// lives, it stays: what is free at the end of the heap would go back to the kernel.
fn warm(connections: usize) -> Option<Vec<u8>> {
    let blocks = (connections * CONNECTION_BYTES).min(WARM_BYTES) / WARM_BLOCK;
    // Written, as what is only reserved has no pages.
    let mut blocks: Vec<_> = (0..=blocks).map(|_| vec![1; WARM_BLOCK]).collect();
    blocks.pop()
}

/// Reads everything that came; what can't be read calls the handover off.
fn revive(
    inheritance: Inheritance<Travelling<'static, Arrival>>,
    known: &mut Precopy,
) -> Result<Taken, String> {
    let mut shared: Shared<'static, Arrival> = match postcard::from_bytes(&inheritance.shared) {
        Ok(shared) => shared,
        // The predecessor died in the middle of it.
        Err(_) if !inheritance.complete => Shared {
            engine: EngineState::default(),
            large: Vec::new(),
        },
        Err(error) => return Err(format!("the state of the service can't be read: {error}")),
    };
    let listeners = inheritance.listeners.into_iter().map(|(name, fd)| {
        let (address, door) =
            Listener::parse_name(&name).ok_or_else(|| format!("an unknown listener: {name}"))?;
        Ok((address, door, fd))
    });
    let listeners = listeners.collect::<Result<_, String>>()?;
    let mut sockets = Vec::with_capacity(inheritance.connections.len());
    for (fd, travelling) in inheritance.connections {
        let state = match travelling {
            Travelling::Here(state) => state,
            Travelling::Beside(number) => match shared.large.get_mut(number).and_then(Option::take)
            {
                Some(state) => state,
                // It went down with the predecessor: a connection without its state is none.
                None if !inheritance.complete => continue,
                None => return Err(format!("the state number {number} is missing")),
            },
        };
        sockets.push(state.revive(fd, known)?);
    }
    Ok(Taken {
        listeners,
        engine: shared.engine,
        sockets,
    })
}
