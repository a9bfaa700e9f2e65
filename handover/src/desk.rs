//! Keeps a service's loop free: whoever connects to the handover or the control socket is talked to on a thread, and the
//! loop hears of it when there is something to decide.
//!
//! The loop owns the handover socket's listener, like all others (they travel, and nobody accepts from them while frozen);
//! it accepts, and gives the stream to the desk. The control socket's listener is the desk's own: it answers a leader
//! while the loop waits, too. The loop says what it has and what came of a handover; the desk keeps the role.

use crate::{
    control::{Answer, Conversation, Request, Role, Status},
    failure::{Cause, Failure},
    phase::{Observer, Phase, Side},
    predecessor::{self, Asked, Counts, Ending, Precopied},
    receipt::Receipt,
    settings::Settings,
    successor::{self, Inheritance},
};
use rustix::{
    io::{read, write},
    pipe::{PipeFlags, pipe_with},
};
use serde::de::DeserializeOwned;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Conversations at a time; a further one is closed at once.
const MAX_CONVERSATIONS: usize = 16;

/// How long a successor's offer waits for what it may be told in advance. A loop that is busier than that tells nothing:
/// everything is told in the freeze, then.
const PRECOPIES_WITHIN: Duration = Duration::from_millis(500);

/// Something that only the loop can decide.
#[derive(Debug)]
pub enum Event {
    /// A successor will ask in a moment: what never changes may be [told](Precopy::give) already. Dropping this is having
    /// nothing to tell.
    Precopy(Precopy),
    /// A successor is ready, and waits: freeze, and [`Asked::give`] it everything, within `Deadlines::freeze`; then
    /// [`Desk::gave`]. While everything is frozen the loop has nothing else to do, and may do that itself.
    Asked(Box<Asked>),
    /// The leader says `take-over`: [`Desk::take_over`], or [`successor::connect`] and the rest
    /// on a thread and [`Desk::took`], which answers.
    TakeOver,
    /// The leader says `retire`, and has been answered: end.
    Retire,
}

/// A successor that can be told something before the freeze.
#[derive(Debug)]
pub struct Precopy {
    schema: u32,
    reply: Sender<Precopied>,
}

impl Precopy {
    /// The version in which to write.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// Gives it. Whether it came in time, [`Asked::precopied`] says.
    pub fn give(self, precopied: Precopied) {
        // Too late: nobody waits for it.
        let _ = self.reply.send(precopied);
    }
}

/// Owned by the loop, which polls it: it is readable when [`Desk::next`] has something.
pub struct Desk {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    woken: OwnedFd,
}

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    watch: Box<dyn Fn(Side, Phase) + Send + Sync>,
    /// Held while a successor is greeted: one at a time, the others wait their turn.
    greeting: Mutex<()>,
    conversations: AtomicUsize,
    events: Sender<Event>,
    wake: OwnedFd,
}

struct State {
    status: Status,
    /// The role to fall back to when a take-over fails.
    before: Role,
    /// The leader who waits for the take-over's receipt.
    leader: Option<Sender<Answer>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("status", &self.shared.state().status)
            .finish_non_exhaustive()
    }
}

impl AsFd for Desk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

impl Desk {
    /// For a process that waits; one that serves from the start says so with [`Desk::note`].
    ///
    /// # Errors
    /// No more descriptors.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Self::watched(settings, |_, _| ())
    }

    /// As [`Desk::new`], with somebody who is told of every phase as it is passed, on the thread that runs the protocol:
    /// to log it, or to stop a test anywhere.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn watched(
        settings: Settings,
        watch: impl Fn(Side, Phase) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (woken, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (sender, events) = mpsc::channel();
        let status = Status {
            reads: settings.schemas.reads.clone(),
            writes: settings.schemas.writes.clone(),
            ..Status::default()
        };
        let shared = Arc::new(Shared {
            settings,
            state: Mutex::new(State {
                status,
                before: Role::Waiting,
                leader: None,
            }),
            watch: Box::new(watch),
            greeting: Mutex::new(()),
            conversations: AtomicUsize::new(0),
            events: sender,
            wake,
        });
        Ok(Self {
            shared,
            events,
            woken,
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The next event; never waits. `None` also clears the wake-up, so call it until then.
    pub fn next(&self) -> Option<Event> {
        // Cleared first: whatever is sent behind this wakes again.
        while read(&self.woken, &mut [0; 64]).is_ok_and(|count| count > 0) {}
        self.events.try_recv().ok()
    }

    /// What the process has now: `status` answers it, and successors are offered it.
    pub fn counts(&self, listeners: usize, connections: usize) {
        self.note(|status| {
            status.listeners = u32::try_from(listeners).unwrap_or(u32::MAX);
            status.connections = u32::try_from(connections).unwrap_or(u32::MAX);
        });
    }

    /// Changes what `status` answers, such as the role of a process that serves from the start.
    pub fn note(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.shared.state().status);
    }

    /// Reports phases as part of the status, for [`successor::connect`].
    pub fn observer(&self) -> Observer {
        self.shared.observer(Side::Successor)
    }

    /// Notes how [`Asked::give`] ended. True: released.
    pub fn gave(&self, ending: Ending) -> bool {
        let mut state = self.shared.state();
        match ending {
            Ending::Released(receipt) => {
                state.ended(receipt, Role::Emptied);
                // At once: a leader may compare both sides' counts before the loop says so.
                (state.status.listeners, state.status.connections) = (0, 0);
                true
            }
            Ending::Resume(failure) => {
                state.ended(*failure.receipt, Role::Serving);
                false
            }
        }
    }

    /// Notes how a take-over ended, and answers the leader who ordered it, if one did.
    ///
    /// # Errors
    /// The failure that it was given.
    pub fn took<T>(&self, taken: Result<(T, Receipt), Failure>) -> Result<T, Failure> {
        let mut state = self.shared.state();
        let (receipt, role) = match &taken {
            Ok((_, receipt)) => (receipt.clone(), Role::Serving),
            Err(failure) => ((*failure.receipt).clone(), state.before),
        };
        if let Some(leader) = state.leader.take() {
            // One that has left does not matter.
            let _ = leader.send(Answer::Receipt(receipt.clone()));
        }
        state.ended(receipt, role);
        taken.map(|(taken, _)| taken)
    }

    /// The whole take-over, for a process that may wait for it: one that has nothing yet, or nothing any more.
    /// `accept` as in [`successor::Offered::take`].
    ///
    /// # Errors
    /// Nothing has been taken.
    pub fn take_over<S: DeserializeOwned, T>(
        &self,
        handover: &Path,
        accept: impl FnOnce(Inheritance<S>) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let offered = successor::connect(handover, self.settings(), self.observer());
        self.took(offered.and_then(|offered| offered.take(accept)))
    }

    /// Talks to whoever has connected to the handover socket. A failure before the freeze is noted as the last handover;
    /// nothing else comes of it.
    pub fn successor(&self, stream: UnixStream) {
        self.shared.on_a_thread("handover", stream, Shared::greet);
    }

    /// Lets leaders in, from now on until the process ends.
    ///
    /// # Errors
    /// No more threads.
    pub fn obey(&self, control: UnixListener) -> io::Result<()> {
        control.set_nonblocking(false)?;
        let shared = Arc::clone(&self.shared);
        let accepting = move || {
            loop {
                match control.accept() {
                    Ok((stream, _)) => shared.on_a_thread("control", stream, Shared::converse),
                    // Mostly a lack of descriptors, which may pass.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(accepting)?;
        Ok(())
    }
}

impl State {
    fn ended(&mut self, receipt: Receipt, role: Role) {
        self.status.phase = None;
        self.status.role = role;
        self.before = role;
        self.status.last = Some(receipt);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left a status that is merely old.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        // Without a loop the process is ending: the event is dropped, which gives up.
        let _ = self.events.send(event);
        // A full pipe wakes as well.
        let _ = write(&self.wake, &[0]);
    }

    fn observer(self: &Arc<Self>, side: Side) -> Observer {
        let shared = Arc::clone(self);
        Box::new(move |phase: Phase| {
            {
                let status = &mut shared.state().status;
                status.phase = Some(phase);
                // The service is about to freeze; nothing fails between this and the loop's hearing of it.
                if (side, phase) == (Side::Predecessor, Phase::Begun) {
                    status.role = Role::Giving;
                }
            }
            (shared.watch)(side, phase);
        })
    }

    fn greet(self: &Arc<Self>, stream: UnixStream) {
        let _greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = {
            let status = &self.state().status;
            (status.role == Role::Serving).then_some(Counts {
                listeners: status.listeners,
                connections: status.connections,
            })
        };
        let Some(now) = now else {
            return predecessor::refuse(
                stream,
                "this process does not serve, or is being taken over already",
            );
        };
        let precopy = |schema| {
            let (reply, told) = mpsc::channel();
            self.tell(Event::Precopy(Precopy { schema, reply }));
            told.recv_timeout(PRECOPIES_WITHIN).unwrap_or_default()
        };
        match predecessor::answer_with_precopy(
            stream,
            now,
            &self.settings,
            self.observer(Side::Predecessor),
            precopy,
        ) {
            Ok(asked) => self.tell(Event::Asked(Box::new(asked))),
            Err(failure) => {
                let state = &mut self.state();
                state.status.phase = None;
                // Who only looks whether somebody is here says no hello.
                if failure.phase.is_some() || !matches!(failure.cause, Cause::Ended) {
                    state.status.last = Some(*failure.receipt);
                }
            }
        }
    }

    fn converse(self: &Arc<Self>, stream: UnixStream) {
        let Ok(mut conversation) = Conversation::open(stream, &self.settings.trusted_uids) else {
            return;
        };
        while let Ok(Some(request)) = conversation.request() {
            if self.obey(request, &mut conversation).is_err() {
                break;
            }
        }
    }

    fn obey(&self, request: Request, conversation: &mut Conversation) -> io::Result<()> {
        let mut state = self.state();
        let free = matches!(state.status.role, Role::Waiting | Role::Emptied);
        match request {
            Request::Status {} => {
                let status = state.status.clone();
                drop(state);
                conversation.answer(&Answer::Status(status))
            }
            Request::TakeOver {} if free => {
                let (leader, receipt) = mpsc::channel();
                state.before = state.status.role;
                state.status.role = Role::Taking;
                state.leader = Some(leader);
                drop(state);
                self.tell(Event::TakeOver);
                conversation.answer(
                    &receipt
                        .recv()
                        .unwrap_or_else(|_| refused("the process is ending")),
                )
            }
            Request::Retire {} if free => {
                drop(state);
                // Answered first: afterwards there may be no process to do so.
                let answered = conversation.answer(&Answer::Retiring {});
                self.tell(Event::Retire);
                answered
            }
            Request::TakeOver {} | Request::Retire {} => {
                drop(state);
                conversation.answer(&refused("this process serves, or is in a handover"))
            }
        }
    }

    fn on_a_thread(
        self: &Arc<Self>,
        name: &str,
        stream: UnixStream,
        talk: impl FnOnce(&Arc<Self>, UnixStream) + Send + 'static,
    ) {
        let shared = Arc::clone(self);
        let talking = move || {
            talk(&shared, stream);
            shared.conversations.fetch_sub(1, Ordering::Relaxed);
        };
        let crowded = self.conversations.fetch_add(1, Ordering::Relaxed) >= MAX_CONVERSATIONS;
        if crowded
            || thread::Builder::new()
                .name(name.to_owned())
                .spawn(talking)
                .is_err()
        {
            // The stream has been closed with the closure.
            self.conversations.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn refused(reason: &str) -> Answer {
    Answer::Refused {
        reason: reason.to_owned(),
    }
}
