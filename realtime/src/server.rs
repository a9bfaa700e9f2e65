//! The loop that owns every socket: accepts, reads, writes, keeps deadlines, ends gracefully (decision 0013).
//!
//! A turn of the loop: wait for the kernel; take new sockets; read from those that have something, each at most
//! [`READ_BUDGET`] bytes so that none starves the others; do what is due; act on the hub's notices; write to every socket
//! for which something new waits, all of it in one write. Only when much has come, some of it is written earlier: what
//! waits for a peer is bounded, and nobody is to lose a connection for what was never offered to it.
//!
//! The kernel tells of a change once (edge-triggered). So whoever leaves something undone notes it: `again` looks at a
//! socket in the next turn, `unread` when what it waits for has happened.

mod drain;
mod listener;
mod socket;
mod succession;
mod timers;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use http::header::ORIGIN;
use http::{Method, Request, Response, StatusCode};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slab::Slab;
use tracing::{error, info, warn};

use self::drain::Drain;
use self::listener::{Door, Listener};
use self::socket::{Echo, Kind, Socket, Stream};
use self::succession::Succession;
use self::timers::Timers;
use crate::api::{self, Asked};
use crate::config::{Loaded, Reloaded, Settings, Sources, Watch};
use crate::connection::Origin;
use crate::engine::{self, Wake};
use crate::events::courier::{self, Courier};
use crate::http as wire;
use crate::hub::{Client, Hub, Notice};
use crate::metrics::{Closed, Metrics};
use crate::outbox::Key;
use crate::protocol::Code;
use crate::time::Now;
use crate::websocket::{self, CloseCode, Incoming};

/// Bytes read from one socket before it is the others' turn; also the size of the one read buffer.
const READ_BUDGET: usize = 64 * 1024;

/// How long one connection's messages are worked at before it is the others' turn. Some cost much more than others, such as
/// those that have to be held against every pattern of a token, and thousands fit into one read.
const WORK_BUDGET: Duration = Duration::from_millis(5);

/// Bytes gathered for one write, if several frames wait.
const WRITE_GATHER: usize = 64 * 1024;

/// Sockets taken from one listener before it is the others' turn.
const ACCEPT_BUDGET: usize = 256;

/// How long an HTTP connection may rest between two requests. Above what load balancers use (ALB: 60 s), so that it is
/// them who close, never us under a request on its way.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a peer has to read the last bytes and to answer a close.
const LINGER: Duration = Duration::from_secs(5);

/// How often the files behind the settings are looked at. A replaced API key stops working within 30 seconds (R-SRV-3).
const WATCH: Duration = Duration::from_secs(5);

/// How long the end of the process waits for what is being kept.
const ENDING: Duration = Duration::from_secs(5);

/// Listeners' tokens count down from the highest; sockets' are their keys.
const SIGNALS: Token = Token(usize::MAX);
const DESK: Token = Token(usize::MAX - 1);
const ENGINE: Token = Token(usize::MAX - 2);
const FIRST_LISTENER: usize = usize::MAX - 3;

/// More listeners than anybody configures; sockets' keys stay below their tokens.
const MAX_LISTENERS: usize = 1024;

fn listener_token(key: usize) -> Token {
    Token(FIRST_LISTENER - key)
}

/// Serves until a signal ends it. `sources` is where the settings came from, for a reload.
///
/// # Errors
/// A listener can't be opened, or the kernel's readiness interface fails.
pub fn run(loaded: Loaded, sources: Sources) -> anyhow::Result<()> {
    let mut server = Server::new(loaded, sources)?;
    server.announce();
    server.serve()
}

struct Server {
    settings: Settings,
    sources: Sources,
    poll: Poll,
    signals: Signals,
    listeners: Slab<Listener>,
    succession: Option<Succession>,
    sockets: Slab<Socket>,
    hub: Hub,
    courier: Courier,
    timers: Timers,
    /// Sockets at which something is left to do, although the kernel will not say so again; each at most once.
    ready: Vec<Client>,
    /// Sockets that have not sent a complete request, the oldest first; among them some that have, or have gone.
    pending: VecDeque<Client>,
    pending_count: usize,
    proxies: wire::TrustedProxies,
    origins: wire::Origins,
    drain: Option<Drain>,
    watch: Watch,
    watch_next: Instant,
    started: Instant,
    last_serial: u64,
    read_buffer: Box<[u8]>,
    write_buffer: Vec<u8>,
    /// Empty between two uses; they keep their memory.
    lists: (Vec<Notice>, Vec<Key>),
}

impl Server {
    fn new(loaded: Loaded, sources: Sources) -> anyhow::Result<Self> {
        let Loaded {
            settings, watch, ..
        } = loaded;
        raise_descriptor_limit();
        let poll =
            Poll::new().context("the kernel's readiness interface (epoll) is not available")?;
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals can't be received")?;
        poll.registry()
            .register(&mut signals, SIGNALS, Interest::READABLE)
            .context("signals can't be awaited")?;
        let succession = Succession::from_environment(poll.registry(), DESK)?;
        let mut addresses = Vec::new();
        addresses.extend(
            settings
                .operations
                .iter()
                .map(|address| (address.clone(), Door::Operations)),
        );
        // A successor opens nothing that its predecessor has: it gets that from it.
        if succession.as_ref().map_or(Ok(true), Succession::is_first)? {
            addresses.extend(
                settings
                    .listen
                    .iter()
                    .map(|address| (address.clone(), Door::Public)),
            );
        }
        if let Some(succession) = &succession {
            addresses.extend(succession.addresses()?);
        }
        let mut listeners = Slab::new();
        for (address, door) in addresses {
            let entry = listeners.vacant_entry();
            let token = listener_token(entry.key());
            entry.insert(Listener::open(&address, door, poll.registry(), token)?);
        }
        if let Some(succession) = &succession {
            succession.begin(
                listeners
                    .iter()
                    .any(|(_, it): (_, &Listener)| it.door == Door::Handover),
            )?;
        }
        let metrics = Metrics::new(SystemTime::now(), &settings.compatibility_version);
        let engine = engine::open(&settings, metrics.engine.clone(), waker(&poll)?)?;
        let hub = Hub::new(&settings, settings.verifier(), metrics, engine);
        let courier = Courier::new(courier::Config::from(&settings), hub.metrics.events.clone());
        Ok(Self {
            proxies: wire::TrustedProxies::new(&settings.trusted_proxies),
            origins: wire::Origins::parse(&settings.origins)?,
            settings,
            sources,
            poll,
            signals,
            listeners,
            succession,
            sockets: Slab::new(),
            hub,
            courier,
            timers: Timers::default(),
            ready: Vec::new(),
            pending: VecDeque::new(),
            pending_count: 0,
            drain: None,
            watch,
            watch_next: Instant::now() + WATCH,
            started: Instant::now(),
            last_serial: 0,
            read_buffer: vec![0; READ_BUDGET].into_boxed_slice(),
            write_buffer: Vec::with_capacity(WRITE_GATHER),
            lists: Default::default(),
        })
    }

    fn announce(&self) {
        for (_, listener) in &self.listeners {
            info!(address = %listener.address(), door = ?listener.door, "listening");
        }
        if !self.hub.can_verify() {
            warn!(
                "no signing key is configured: every token is refused (set signing_keys, see docs/realtime-configuration.md)"
            );
        }
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut ready = Vec::new();
        if !self.is_waiting() {
            self.hub.begin(Now::read())?;
        } else if self.succession.as_ref().is_some_and(|it| it.is_unled()) {
            self.take_over(Now::read());
        }
        if !self.is_waiting() {
            self.courier.begin();
        }
        loop {
            self.count_for_succession();
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("the kernel's readiness interface (epoll) failed");
                }
                _ => {}
            }
            let now = Now::read();
            std::mem::swap(&mut ready, &mut self.ready);
            // Whoever fills the outboxes of others so that all must wait is not the first again.
            let start = rand::random_range(0..=ready.len());
            ready.rotate_left(start);
            for client in ready.drain(..) {
                self.read_again(now, client);
                self.deliver_if_crowded(now);
            }
            for event in &events {
                match event.token() {
                    SIGNALS => self.signalled(now),
                    DESK | ENGINE => {}
                    Token(token) if token > FIRST_LISTENER - MAX_LISTENERS => {
                        self.accept(now, FIRST_LISTENER - token);
                    }
                    Token(key) => self.readiness(now, key, event),
                }
                self.deliver_if_crowded(now);
            }
            self.accept_more(now);
            self.timers_due(now);
            self.drain_due(now);
            self.watch_due(now);
            self.hub.turn(now);
            self.hub.pump(now);
            self.deliver(now);
            self.tell_backends();
            self.hub.metrics.loop_turn(now.mono.elapsed());
            if self.succession_due(now) {
                self.courier.stop();
                return Ok(());
            }
            if self
                .drain
                .as_ref()
                .is_some_and(|drain| drain.is_over(now.mono, self.sockets.is_empty()))
            {
                for listener in self.listeners.drain() {
                    listener.close(self.poll.registry());
                }
                // What was accepted is kept and done (R-DLV-13).
                if !self.hub.settle(now, ENDING) {
                    error!(
                        "the engine did not finish in time: what was not answered may be missing"
                    );
                }
                self.tell_backends();
                self.courier.stop();
                info!(left = self.sockets.len(), "ended");
                return Ok(());
            }
        }
    }

    /// Nothing is served yet: a predecessor has it.
    fn is_waiting(&self) -> bool {
        !self
            .listeners
            .iter()
            .any(|(_, listener)| listener.door == Door::Public)
    }

    /// Acts on what the hub decided, and writes what is new for anybody.
    fn deliver(&mut self, now: Now) {
        let (mut notices, mut news) = std::mem::take(&mut self.lists);
        loop {
            self.hub.take_notices(&mut notices);
            if notices.is_empty() && !self.hub.outboxes.has_news() {
                break;
            }
            for notice in notices.drain(..) {
                self.act(now, notice);
            }
            self.hub.outboxes.take_news(&mut news);
            // Nobody is served first or last every time (R-DLV-15).
            let start = rand::random_range(0..=news.len());
            news.rotate_left(start);
            for &key in &news {
                self.flush(now, key);
            }
        }
        self.lists = (notices, news);
    }

    /// Hands over what backends are to be told. It is delivered by a thread: nobody waits for it here (R-EVT-11).
    fn tell_backends(&mut self) {
        for happening in self.hub.take_happenings() {
            self.courier.tell(happening);
        }
    }

    /// Writes before the turn ends, if so much has come in it that somebody who reads would look slow (R-DLV-11).
    fn deliver_if_crowded(&mut self, now: Now) {
        if self.hub.outboxes.is_crowded() {
            self.deliver(now);
        }
    }

    /// How long the kernel may let us sleep.
    fn timeout(&mut self) -> Option<Duration> {
        if !self.ready.is_empty()
            || self
                .listeners
                .iter()
                .any(|(_, it)| it.has_more && it.retry.is_none())
        {
            return Some(Duration::ZERO);
        }
        let retry = self
            .listeners
            .iter()
            .filter_map(|(_, listener)| listener.retry)
            .min();
        let drain = self.drain.as_ref().map(Drain::next);
        let next = [self.timers.next(), drain, retry, Some(self.watch_next)];
        let next = next.into_iter().flatten().min()?;
        let now = Now::read();
        let wait = next.saturating_duration_since(now.mono);
        // The kernel counts in whole milliseconds, and the clock is looked at again in any case.
        let due = self.hub.next_due().map(|at| {
            let left = at.duration_since(now.wall);
            Duration::try_from(left).unwrap_or_default()
        });
        Some(due.map_or(wait, |due| due.min(wait)))
    }

    fn accept_more(&mut self, now: Now) {
        let keys: Vec<_> = self.listeners.iter().map(|(key, _)| key).collect();
        for index in keys {
            let listener = &mut self.listeners[index];
            if listener.retry.is_some_and(|at| at <= now.mono) {
                listener.retry = None;
            }
            if listener.has_more && listener.retry.is_none() {
                self.accept(now, index);
            }
        }
    }

    fn accept(&mut self, now: Now, index: usize) {
        for _ in 0..ACCEPT_BUDGET {
            let Some(listener) = self.listeners.get_mut(index) else {
                return;
            };
            let door = listener.door;
            match listener.accept() {
                Ok(Some((stream, _))) if door == Door::Handover => self.to_desk(stream),
                Ok(Some((stream, peer))) => {
                    self.opened(now, stream, peer, door == Door::Operations);
                }
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors: whoever has waited longest without saying anything makes room.
                    warn!(%error, address = %listener.address(), "a connection could not be taken");
                    self.evict_oldest(now);
                    return;
                }
            }
        }
    }

    fn opened(&mut self, now: Now, mut stream: Stream, peer: Option<IpAddr>, operations: bool) {
        let entry = self.sockets.vacant_entry();
        let key = entry.key();
        if let Err(error) = stream.register(self.poll.registry(), Token(key)) {
            warn!(%error, "a connection could not be awaited");
            return;
        }
        self.last_serial += 1;
        let client = Client {
            key,
            serial: self.last_serial,
        };
        entry.insert(Socket::new(stream, client.serial, peer, operations));
        self.hub.outboxes.open(key);
        self.set_deadline(client, now.mono + self.settings.limits.handshake);
        self.request_awaited(now, client);
    }

    /// A socket is new, or has begun a next request.
    fn request_awaited(&mut self, now: Now, client: Client) {
        while let Some(&oldest) = self.pending.front()
            && !self.socket(oldest).is_some_and(|socket| socket.pending)
        {
            self.pending.pop_front();
        }
        self.sockets[client.key].pending = true;
        self.pending.push_back(client);
        self.pending_count += 1;
        if self.pending_count > self.settings.limits.pending_handshakes {
            self.evict_oldest(now);
        }
    }

    /// Lets the oldest socket go that has not finished a request: whoever opens sockets and says nothing keeps no more of
    /// them than [`crate::config::Limits::pending_handshakes`], and others still get in.
    fn evict_oldest(&mut self, now: Now) {
        while let Some(client) = self.pending.pop_front() {
            if self.socket(client).is_some_and(|socket| socket.pending) {
                self.hub.metrics.refused("evicted");
                self.drop_socket(now, client.key);
                return;
            }
        }
    }

    /// A socket has sent a complete request.
    fn settle(&mut self, key: Key) {
        if std::mem::take(&mut self.sockets[key].pending) {
            self.pending_count -= 1;
        }
    }

    fn socket(&self, client: Client) -> Option<&Socket> {
        self.sockets
            .get(client.key)
            .filter(|socket| socket.serial == client.serial)
    }

    fn socket_mut(&mut self, client: Client) -> Option<&mut Socket> {
        self.sockets
            .get_mut(client.key)
            .filter(|socket| socket.serial == client.serial)
    }

    fn client(&self, key: Key) -> Client {
        Client {
            key,
            serial: self.sockets[key].serial,
        }
    }

    fn readiness(&mut self, now: Now, key: Key, event: &Event) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        let client = Client {
            key,
            serial: socket.serial,
        };
        socket.read_closed |= event.is_read_closed();
        if event.is_writable() {
            // Room after a full buffer: the peer takes bytes, so it lives, however long our ping waits behind them.
            if !std::mem::replace(&mut socket.writable, true) {
                self.hub.heard(now, key);
            }
            self.flush(now, key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(now, client);
        }
    }

    /// Looks at a socket again in the next turn.
    fn again(&mut self, client: Client) {
        if let Some(socket) = self.socket_mut(client)
            && !std::mem::replace(&mut socket.again, true)
        {
            self.ready.push(client);
        }
    }

    fn read_again(&mut self, now: Now, client: Client) {
        if let Some(socket) = self.socket_mut(client) {
            socket.again = false;
            self.read(now, client);
        }
    }

    /// Reads once, and hands on what came. A socket from which more can be read is looked at again in the next turn.
    fn read(&mut self, now: Now, client: Client) {
        if self.hub.outboxes.is_crowded() {
            return self.again(client);
        }
        // What came earlier comes first: a pipelined request, or messages behind one that had to wait. If there is more of
        // it, nothing is read now: so what is held for a socket stays within one request and one read.
        if !self.must_wait(client) {
            self.received(now, client, &mut []);
        }
        let must_wait = self.must_wait(client);
        match self.socket_mut(client) {
            Some(socket) if must_wait => return socket.unread = true,
            Some(socket) if !socket.again => {}
            _ => return,
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        self.read_into(now, client, &mut buffer);
        self.read_buffer = buffer;
    }

    fn read_into(&mut self, now: Now, client: Client, buffer: &mut [u8]) {
        let Some(socket) = self.socket_mut(client) else {
            return;
        };
        socket.unread = false;
        match socket.stream.read(buffer) {
            // It may still read what is being written; that done, it is looked at again.
            Ok(0) if matches!(socket.kind, Kind::Ending { told: false }) => {}
            // A WebSocket that ends without a close frame, or an HTTP client that has nothing more to ask: whatever it
            // asked for before was answered before this was read.
            Ok(0) => self.drop_socket(now, client.key),
            Ok(count) => {
                // A short read has emptied the kernel's buffer (epoll(7)), unless the end follows.
                if count == buffer.len() || socket.read_closed {
                    self.again(client);
                }
                self.hub.metrics.bytes_received.inc_by(count as u64);
                self.received(now, client, &mut buffer[..count]);
            }
            // There is no end yet: what was said of it was about an earlier socket of this number.
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.read_closed = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => self.again(client),
            Err(_) => self.drop_socket(now, client.key),
        }
    }

    /// Is something under way that must be finished before this socket's next bytes, or is it gone?
    fn must_wait(&self, client: Client) -> bool {
        self.socket(client).is_none_or(|socket| match &socket.kind {
            // Who does not read its answers is not asked for more: nothing else bounds them.
            Kind::Http(http) => http.awaiting || self.hub.outboxes.waits(client.key),
            Kind::Echo(_) => self.hub.outboxes.waits(client.key),
            Kind::WebSocket(_) => self.hub.is_parked(client.key),
            Kind::Ending { .. } => false,
        })
    }

    fn received(&mut self, now: Now, client: Client, bytes: &mut [u8]) {
        match self.sockets[client.key].kind {
            Kind::Http(_) => self.http_received(now, client, bytes),
            Kind::WebSocket(_) => self.websocket_received(now, client.key, bytes),
            Kind::Echo(_) => self.echo_received(now, client.key, bytes),
            Kind::Ending { .. } => {}
        }
    }

    fn websocket_received(&mut self, now: Now, key: Key, bytes: &mut [u8]) {
        let (hub, socket) = (&mut self.hub, &mut self.sockets[key]);
        let Kind::WebSocket(decoder) = &mut socket.kind else {
            return;
        };
        // It was closed within this turn: nothing is answered after a close frame.
        if !hub.is_open(key) {
            return;
        }
        if !bytes.is_empty() {
            hub.heard(now, key);
        }
        let begun = Instant::now();
        let mut others_turn = false;
        let outcome = decoder.feed(bytes, &mut |message| {
            hub.incoming(now, key, message);
            others_turn = hub.outboxes.is_crowded() || begun.elapsed() >= WORK_BUDGET;
            match hub.is_open(key) && !hub.is_parked(key) && !others_turn {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        if let Err(violation) = outcome {
            let (code, reason) = violation.close();
            self.hub.close(now, key, code, reason, Closed::Protocol);
        } else if others_turn {
            // What is left of its messages has its turn when all have been written to.
            self.again(self.client(key));
        }
    }

    /// The echo path of development: every message goes back as it came, with the codec and limits of the real ones.
    fn echo_received(&mut self, now: Now, key: Key, bytes: &mut [u8]) {
        let outboxes = &mut self.hub.outboxes;
        let Kind::Echo(echo) = &mut self.sockets[key].kind else {
            return;
        };
        let mut close = None;
        let deflate = echo.deflate;
        let outcome = echo.decoder.feed(bytes, &mut |message| {
            let frame = match message {
                Incoming::Text(text) if deflate => websocket::text_deflated(text),
                Incoming::Text(text) => websocket::text(text),
                Incoming::Binary(bytes) => websocket::binary(bytes),
                Incoming::Ping(payload) => websocket::pong(payload),
                Incoming::Pong(_) => return ControlFlow::Continue(()),
                Incoming::Close(frame) => {
                    close = Some((frame.map_or(CloseCode::NORMAL, |frame| frame.code), ""));
                    return ControlFlow::Break(());
                }
            };
            outboxes.force(key, frame);
            ControlFlow::Continue(())
        });
        if let Err(violation) = outcome {
            close = Some(violation.close());
        }
        if let Some((code, reason)) = close {
            outboxes.force(key, websocket::close(code, reason));
            self.end_socket(now, key);
        }
    }

    fn http_received(&mut self, now: Now, client: Client, bytes: &[u8]) {
        let limits = wire::Limits {
            head: self.settings.limits.request_head,
            body: self.settings.limits.request_body,
            ..wire::Limits::default()
        };
        let Kind::Http(http) = &mut self.sockets[client.key].kind else {
            return;
        };
        let was_idle = http.decoder.is_idle();
        match http.decoder.feed(bytes, &limits) {
            Ok(Some(request)) => {
                http.awaiting = true;
                http.head_only = request.method() == Method::HEAD;
                http.keep_alive = wire::keep_alive(&request);
                http.origin = request.headers().get(ORIGIN).cloned();
                self.settle(client.key);
                self.set_deadline(client, now.mono + self.settings.limits.request_timeout);
                self.requested(now, client, &request);
            }
            Ok(None) => {
                let begun = was_idle && !http.decoder.is_idle() && http.served;
                if !bytes.is_empty() && http.decoder.expects_continue() {
                    self.hub.outboxes.force(client.key, wire::CONTINUE.into());
                }
                // The first bytes of a next request: from now on it has as long as the first one had, and is one of as few.
                if begun {
                    self.set_deadline(client, now.mono + self.settings.limits.handshake);
                    self.request_awaited(now, client);
                }
            }
            Err(why) => {
                (http.awaiting, http.keep_alive, http.route) = (true, false, "malformed");
                self.settle(client.key);
                self.answer(now, client, api::bad_request(why));
            }
        }
    }

    /// A whole request: an upgrade, or one for the HTTP interfaces.
    fn requested(&mut self, now: Now, client: Client, request: &Request<Vec<u8>>) {
        let operations = self.sockets[client.key].operations;
        let path = request.uri().path();
        let socket_path = !operations && matches!(path, "/" | "/v1" | "/v1/");
        let echo_path = !operations && self.settings.dev_echo && path == "/echo";
        let (route, answer) = if request.method() == Method::OPTIONS {
            ("preflight", Some(self.origins.preflight(request.headers())))
        } else if socket_path || echo_path {
            // A request that asks for no upgrade gets 426 here: a proxy that does not pass `Upgrade` on is found at once.
            (
                "upgrade",
                self.upgrade_requested(now, client, request, echo_path),
            )
        } else {
            let asked = Asked {
                settings: &self.settings,
                proxies: &self.proxies,
                peer: self.sockets[client.key].peer,
                started: self.started,
                operations,
                draining: self.drain.is_some(),
            };
            let (route, answer) = api::handle(&mut self.hub, now, client, request, &asked);
            (route.name(), answer)
        };
        if let Kind::Http(http) = &mut self.sockets[client.key].kind {
            http.route = route;
        }
        if let Some(response) = answer {
            self.answer(now, client, response);
        }
    }

    fn upgrade_requested(
        &mut self,
        now: Now,
        client: Client,
        request: &Request<Vec<u8>>,
        echo: bool,
    ) -> Option<Response<Vec<u8>>> {
        if self.drain.is_some() {
            return Some(api::refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::RateLimited,
                "this server is about to end: connect again",
            ));
        }
        if !self.origins.allows(request.headers()) {
            self.hub.metrics.refused("origin");
            return Some(api::refusal(
                StatusCode::FORBIDDEN,
                Code::Unauthorized,
                "pages of this origin may not connect",
            ));
        }
        if echo {
            return match websocket::upgrade(request, self.settings.compression) {
                Err(why) => Some(api::not_an_upgrade(why)),
                Ok(upgrade) => {
                    self.hub
                        .outboxes
                        .force(client.key, upgrade.response().into());
                    self.become_websocket(now, client, upgrade.deflate, true);
                    None
                }
            };
        }
        let peer = self.sockets[client.key].peer;
        let headers = request.headers();
        let origin = Origin::new(self.proxies.client(peer, headers), headers);
        self.hub.upgrade(now, client, request, origin)
    }

    /// What the hub decided, carried out.
    fn act(&mut self, now: Now, notice: Notice) {
        match notice {
            Notice::Opened(client, deflate) => self.become_websocket(now, client, deflate, false),
            Notice::Answered(client, response) => self.answer(now, client, response),
            Notice::Unparked(client) => {
                self.again(client);
                // While it was parked, less was due.
                self.look_at(now, client);
            }
            Notice::Closed(client) => {
                if self.socket(client).is_some() {
                    self.end_socket(now, client.key);
                }
            }
            Notice::Dead(client) => {
                if self.socket(client).is_some() {
                    self.drop_socket(now, client.key);
                }
            }
        }
    }

    fn become_websocket(&mut self, now: Now, client: Client, deflate: bool, echo: bool) {
        let max_message = self.settings.limits.inbound_message;
        let Some(socket) = self.socket_mut(client) else {
            // It went while its token was being spent.
            self.hub.disconnected(now, client);
            return;
        };
        let Kind::Http(http) = &mut socket.kind else {
            // It was told that there is no answer in time.
            self.hub.disconnected(now, client);
            return;
        };
        let mut decoder = websocket::Decoder::new(max_message, deflate);
        // Messages may have come with the request (R-CONN-21); they are read in the next turn, as are bytes that came while
        // the token was being spent.
        decoder.hold(&http.decoder.take_rest());
        socket.kind = match echo {
            true => Kind::Echo(Box::new(Echo { decoder, deflate })),
            false => Kind::WebSocket(decoder),
        };
        socket.deadline = None;
        self.again(client);
        self.hub.metrics.request("upgrade", 101);
        // From here on the hub knows when something is due.
        self.look_at(now, client);
        if self.drain.is_some() && !echo {
            self.close_for_restart(now, client);
        }
    }

    /// Answers the request that a socket waits for.
    fn answer(&mut self, now: Now, client: Client, mut response: Response<Vec<u8>>) {
        let draining = self.drain.is_some();
        let Some(socket) = self.socket_mut(client) else {
            return;
        };
        let Kind::Http(http) = &mut socket.kind else {
            return;
        };
        let headers = http.origin.take().map(|origin| (ORIGIN, origin));
        let keep_alive = http.keep_alive && !draining;
        (http.awaiting, http.served) = (false, true);
        let (route, head_only, idle) = (http.route, http.head_only, http.decoder.is_idle());
        self.origins
            .permit(&headers.into_iter().collect(), response.headers_mut());
        self.hub.metrics.request(route, response.status().as_u16());
        let bytes = wire::encode(&response, head_only, keep_alive);
        self.hub.outboxes.force(client.key, bytes.into());
        if keep_alive {
            // The next request may be here already, or have begun.
            let time = match idle {
                true => KEEP_ALIVE,
                false => self.settings.limits.handshake,
            };
            self.set_deadline(client, now.mono + time);
            if !idle {
                self.again(client);
            }
        } else {
            self.end_socket(now, client.key);
        }
    }

    /// Nothing more will be said than what waits in the outbox.
    fn end_socket(&mut self, now: Now, key: Key) {
        self.settle(key);
        self.sockets[key].kind = Kind::Ending { told: false };
        self.sockets[key].deadline = Some(now.mono + LINGER);
        self.timers.set(self.client(key), now.mono + LINGER);
        self.flush(now, key);
    }

    /// Lets a socket go at once.
    fn drop_socket(&mut self, now: Now, key: Key) {
        let client = self.client(key);
        self.settle(key);
        // Closing the descriptor removes it from the kernel's readiness interface, too.
        self.sockets.remove(key);
        self.hub.outboxes.open(key);
        self.hub.disconnected(now, client);
    }

    /// Writes what waits for a socket, as much as the kernel takes.
    fn flush(&mut self, now: Now, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        let outbox = self.hub.outboxes.of(key);
        while socket.writable && !outbox.is_empty() {
            let bytes = outbox.gather(&mut self.write_buffer, WRITE_GATHER);
            match socket.stream.write(bytes) {
                Ok(count) => {
                    // A short write has filled the kernel's buffer; it says when there is room (epoll(7)).
                    socket.writable = count == bytes.len();
                    if count > 0 {
                        socket.stalled = None;
                    }
                    outbox.wrote(count);
                    self.hub.metrics.bytes_sent.inc_by(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.drop_socket(now, key),
            }
        }
        let client = Client {
            key,
            serial: socket.serial,
        };
        outbox.blocked = !socket.writable;
        if !outbox.is_empty() {
            if socket.stalled.is_none() {
                socket.stalled = Some(now.mono);
                self.timers
                    .set(client, now.mono + self.settings.limits.write_stall);
            }
            return;
        }
        socket.stalled = None;
        match &mut socket.kind {
            Kind::Ending { told } if !*told => {
                *told = true;
                socket.stream.end();
                self.again(client);
            }
            // Its next request or message had to wait for this.
            Kind::Http(_) | Kind::Echo(_) if socket.unread => self.again(client),
            _ => {}
        }
    }

    fn set_deadline(&mut self, client: Client, at: Instant) {
        self.sockets[client.key].deadline = Some(at);
        self.timers.set(client, at);
    }

    fn timers_due(&mut self, now: Now) {
        while let Some(client) = self.timers.pop(now.mono) {
            self.look_at(now, client);
            self.deliver_if_crowded(now);
        }
    }

    /// Does what is due for a socket, and says when to look at it again.
    fn look_at(&mut self, now: Now, client: Client) {
        let Some(socket) = self.socket(client) else {
            return;
        };
        // What is ending has a deadline for all of that.
        let stall = socket
            .stalled
            .filter(|_| !matches!(socket.kind, Kind::Ending { .. }))
            .map(|since| since + self.settings.limits.write_stall);
        if stall.is_some_and(|at| at <= now.mono) {
            return self.stalled(now, client);
        }
        if let Kind::WebSocket(_) = socket.kind {
            let tick = self.hub.tick(now, client);
            if let Some(next) = tick.into_iter().chain(stall).min() {
                self.timers.set(client, next);
            }
            return;
        }
        match socket.deadline {
            Some(at) if at <= now.mono => self.deadline_passed(now, client),
            deadline => {
                if let Some(next) = deadline.into_iter().chain(stall).min() {
                    self.timers.set(client, next);
                }
            }
        }
    }

    /// Bytes wait for a socket whose peer has taken none for `limits.write_stall`.
    fn stalled(&mut self, now: Now, client: Client) {
        if self.hub.is_open(client.key) {
            self.hub.close(
                now,
                client.key,
                CloseCode::POLICY,
                "Slow consumer",
                Closed::SlowConsumer,
            );
        } else {
            self.drop_socket(now, client.key);
        }
    }

    fn deadline_passed(&mut self, now: Now, client: Client) {
        let Kind::Http(http) = &mut self.sockets[client.key].kind else {
            return self.drop_socket(now, client.key);
        };
        let answer = if http.awaiting {
            // R-LIM-18. What was asked for may still happen: its answer is thrown away.
            api::refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::InternalError,
                "no answer in time",
            )
        } else if http.decoder.is_idle() {
            return self.drop_socket(now, client.key);
        } else {
            self.hub.metrics.refused("slow");
            api::refusal(
                StatusCode::REQUEST_TIMEOUT,
                Code::InvalidMessage,
                "the request was not complete in time",
            )
        };
        http.keep_alive = false;
        self.answer(now, client, answer);
    }

    fn signalled(&mut self, now: Now) {
        let signals: Vec<_> = self.signals.pending().collect();
        for signal in signals {
            if signal == SIGHUP {
                self.reload(now);
            } else if let Some(drain) = &mut self.drain {
                drain.hurry(now.mono);
            } else {
                self.begin_drain(now);
            }
        }
    }

    /// Applies the settings as they are now; what is wrong leaves everything as it was (R-CFG-3).
    fn reload(&mut self, now: Now) {
        match self.reloaded() {
            Ok(left) => {
                // Open connections are looked at when the new limits say so.
                let clients: Vec<_> = self.hub.clients().collect();
                for client in clients {
                    self.look_at(now, client);
                }
                self.hub.metrics.reloads.inc();
                info!("the settings were read anew");
                for setting in left {
                    warn!(setting, "this setting needs a restart to change");
                }
            }
            Err(error) => {
                self.hub.metrics.reloads_rejected.inc();
                error!("the new settings are wrong, the old ones stay in force: {error:#}");
            }
        }
    }

    fn reloaded(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let Reloaded { loaded, left } = self.settings.reload(&self.sources)?;
        let settings = loaded.settings;
        let verifier = settings.verifier();
        let (proxies, origins) = (
            wire::TrustedProxies::new(&settings.trusted_proxies),
            wire::Origins::parse(&settings.origins)?,
        );
        self.watch = loaded.watch;
        self.hub.reload(&settings, verifier);
        self.courier.follow(courier::Config::from(&settings));
        crate::log::set_level(settings.log.level);
        (self.settings, self.proxies, self.origins) = (settings, proxies, origins);
        Ok(left)
    }

    /// Key files and the settings' file are looked at every few seconds (R-CFG-2, R-SRV-3).
    fn watch_due(&mut self, now: Now) {
        if now.mono >= self.watch_next {
            self.watch_next = now.mono + WATCH;
            if self.watch.changed() {
                self.reload(now);
            }
        }
    }

    /// Stops taking connections, and closes those there are, one after the other.
    fn begin_drain(&mut self, now: Now) {
        let spread = self.settings.shutdown_spread;
        let clients: Vec<_> = self.hub.clients().collect();
        info!(
            connections = clients.len(),
            seconds = spread.as_secs(),
            "ending: closing every connection with 1012"
        );
        let public: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, it)| it.door.travels())
            .map(|(key, _)| key)
            .collect();
        for key in public {
            self.listeners.remove(key).close(self.poll.registry());
        }
        let others: Vec<_> = self.sockets.iter().map(|(key, _)| key).collect();
        for key in others {
            match &mut self.sockets[key].kind {
                Kind::Http(http) if http.awaiting || !http.decoder.is_idle() => {
                    http.keep_alive = false
                }
                Kind::Http(_) | Kind::Echo(_) => self.end_socket(now, key),
                Kind::WebSocket(_) | Kind::Ending { .. } => {}
            }
        }
        self.drain = Some(Drain::new(now.mono, spread, clients));
    }

    fn drain_due(&mut self, now: Now) {
        let due = self
            .drain
            .as_mut()
            .map(|drain| drain.due(now.mono))
            .unwrap_or_default();
        for client in due {
            self.close_for_restart(now, client);
            self.deliver_if_crowded(now);
        }
    }

    fn close_for_restart(&mut self, now: Now, client: Client) {
        if self.socket(client).is_some() {
            self.hub.close(
                now,
                client.key,
                CloseCode::RESTART,
                "Service restart",
                Closed::Shutdown,
            );
        }
    }
}

/// What the engine's threads wake the loop with.
fn waker(poll: &Poll) -> anyhow::Result<Wake> {
    let waker = Waker::new(poll.registry(), ENGINE).context("the loop can't be woken")?;
    Ok(Arc::new(move || {
        if let Err(error) = waker.wake() {
            error!(%error, "the loop can't be woken");
        }
    }))
}

/// As many descriptors as this process may have: each connection needs one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files could not be raised");
    }
}
