//! The rules of the word (`docs/handover.md`), tried exhaustively: every order of steps of both sides, with a deadline that
//! passes and a death that comes at any point. A process that is stopped is one that takes no step for a while.
//!
//! This is a model, not the crate: it shows that the rules are right. That the crate follows them is what the fault
//! tests show.

use std::collections::{BTreeSet, VecDeque};

/// The predecessor, from the moment in which everything has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum P {
    /// Waits for `ready`, or has it.
    Sealed,
    /// Has written `C`.
    Committed,
    /// Its deadline has passed, and its `C` is gone.
    WaitsForTheWord,
    /// Has decided to resume, and not said so yet.
    GivesUp,
    Serves,
    Emptied,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum S {
    /// Has sent `ready`.
    Ready,
    /// Has read `C`, or seen that P is dead; and has not said so yet.
    Takes,
    /// Has decided to give up, and not said so yet.
    GivesUp,
    Serves,
    HasNothing,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    p: P,
    s: S,
    /// What is in each pipe, oldest first; zero is nothing.
    of_p: [u8; 2],
    of_s: [u8; 1],
    p_ever_served_again: bool,
    s_ever_served: bool,
    s_ever_said_taken: bool,
}

impl World {
    fn start() -> Self {
        Self {
            p: P::Sealed,
            s: S::Ready,
            of_p: [0; 2],
            of_s: [0],
            p_ever_served_again: false,
            s_ever_served: false,
            s_ever_said_taken: false,
        }
    }

    fn p_says(mut self, byte: u8, then: P) -> Self {
        let free = self
            .of_p
            .iter()
            .position(|said| *said == 0)
            .expect("at most two bytes are said");
        self.of_p[free] = byte;
        self.p = then;
        self.p_ever_served_again |= then == P::Serves;
        self
    }

    fn s_says(mut self, byte: u8, then: S) -> Self {
        assert_eq!(self.of_s, [0], "one byte is said");
        self.of_s = [byte];
        self.s = then;
        self.s_ever_served |= then == S::Serves;
        self.s_ever_said_taken |= byte == b'T';
        self
    }

    /// The first byte in P's pipe goes to its reader, whoever that is.
    fn without_first_of_p(mut self) -> Self {
        self.of_p = [self.of_p[1], 0];
        self
    }

    fn with_p(self, p: P) -> Self {
        Self { p, ..self }
    }

    fn with_s(self, s: S) -> Self {
        Self { s, ..self }
    }

    /// Everything that can happen next.
    fn steps(self) -> Vec<World> {
        let mut next = Vec::new();
        // What P hears of S decides for it, in two of its states.
        let heard_of_s = |after_silence: Option<World>| match (self.of_s, self.s) {
            ([b'T'], _) => Some(self.with_p(P::Emptied)),
            ([b'A'], _) | (_, S::Dead) => Some(self.with_p(P::GivesUp)),
            _ => after_silence,
        };
        match self.p {
            // Any failure before commit, or `ready`.
            P::Sealed => next.extend([self.with_p(P::GivesUp), self.p_says(b'C', P::Committed)]),
            P::Committed => next.extend(heard_of_s(Some(match self.of_p[0] {
                b'C' => self.without_first_of_p().with_p(P::GivesUp),
                _ => self.with_p(P::WaitsForTheWord),
            }))),
            P::WaitsForTheWord => next.extend(heard_of_s(None)),
            P::GivesUp => next.push(self.p_says(b'A', P::Serves)),
            P::Serves | P::Emptied | P::Dead => {}
        }
        match self.s {
            S::Ready => {
                match (self.of_p[0], self.p) {
                    (b'C', _) => next.push(self.without_first_of_p().with_s(S::Takes)),
                    (b'A', _) => next.push(self.with_s(S::GivesUp)),
                    (_, P::Dead) => next.push(self.with_s(S::Takes)),
                    // Its deadline.
                    _ => next.push(self.with_s(S::GivesUp)),
                }
            }
            S::Takes => next.push(self.s_says(b'T', S::Serves)),
            S::GivesUp => next.push(self.s_says(b'A', S::HasNothing)),
            S::Serves | S::HasNothing | S::Dead => {}
        }
        if self.p != P::Dead {
            next.push(self.with_p(P::Dead));
        }
        if self.s != S::Dead {
            next.push(self.with_s(S::Dead));
        }
        next
    }
}

#[test]
fn in_every_order_of_steps_and_deaths_one_process_reads_and_no_living_holder_loses_a_connection() {
    let mut seen = BTreeSet::from([World::start()]);
    let mut open = VecDeque::from([World::start()]);
    let mut ends = BTreeSet::new();
    while let Some(world) = open.pop_front() {
        // Not even one after the other: what the second one knows of the connection would be out of date.
        assert!(
            !(world.p_ever_served_again && world.s_ever_served),
            "{world:?}"
        );
        // A predecessor lets go of nothing before the word.
        assert!(
            world.p != P::Emptied || world.s_ever_said_taken,
            "{world:?}"
        );
        let without_deaths = world.steps().into_iter().filter(|next| {
            let dies = (next.p == P::Dead) != (world.p == P::Dead)
                || (next.s == S::Dead) != (world.s == S::Dead);
            !dies
        });
        if without_deaths.count() == 0 {
            // Whoever lives has decided, and if the holder lives, somebody serves.
            ends.insert((world.p, world.s));
        }
        for next in world.steps() {
            if seen.insert(next) {
                open.push_back(next);
            }
        }
    }
    let expected = [
        (P::Serves, S::HasNothing),
        (P::Serves, S::Dead),
        (P::Emptied, S::Serves),
        // S held them when it died.
        (P::Emptied, S::Dead),
        (P::Dead, S::Serves),
        // P held them when it died.
        (P::Dead, S::HasNothing),
        (P::Dead, S::Dead),
    ];
    assert_eq!(ends, BTreeSet::from(expected));
}
