//! Each side's *word*: a pipe that says what it has decided, and whether it is alive.
//!
//! A stream cannot carry the decision. A message that was sent may never be read; a full buffer takes no abort; the end
//! of a stream may mean death or a mere close. So each side makes a pipe, keeps its writing end to itself, and gives the
//! other side a reading end. One byte is said into it, once: there is always room for it, and it stays after its
//! speaker's death. The end of the pipe without a byte means that the speaker died undecided.
//!
//! The predecessor keeps a reading end of its own too, so the byte [`COMMIT`] is a token: it is in the pipe, or the
//! successor has read it, or the predecessor has taken it back. The kernel gives it to exactly one of them.

use crate::{descriptors, failure::Cause};
use rustix::{
    event::PollFlags,
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, write},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// The predecessor: whoever reads this byte has the connections.
pub const COMMIT: u8 = b'C';
/// The successor: it has read the commit, and begins to serve.
pub const TAKEN: u8 = b'T';
/// Either: it has given up this handover, and acts on that from now on.
pub const GAVE_UP: u8 = b'A';

/// What one side has said, as seen through a reading end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Alive (or stopped), and undecided. Of a commit: or it is no longer there.
    Nothing,
    Said(u8),
    /// All writing ends are closed, and nothing is left: the process is gone.
    Died,
}

/// This side's own word.
#[derive(Debug)]
pub(crate) struct OwnWord {
    writing: OwnedFd,
    reading: OwnedFd,
    final_word: bool,
}

impl OwnWord {
    pub(crate) fn new() -> Result<Self, Cause> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|e| Cause::io("making a pipe", e))?;
        Ok(Self {
            writing,
            reading,
            final_word: false,
        })
    }

    /// What the other side gets. This side keeps one too, so saying something never meets a broken pipe.
    pub(crate) fn reading_end(&self) -> BorrowedFd<'_> {
        self.reading.as_fd()
    }

    fn say(&mut self, byte: u8) -> Result<(), Cause> {
        loop {
            match write(&self.writing, &[byte]) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Cause::io("giving the word", error)),
            }
        }
    }

    /// Puts the commit where exactly one of the two processes will find it.
    pub(crate) fn commit(&mut self) -> Result<(), Cause> {
        self.say(COMMIT)
    }

    /// Tries to get the commit back. True: the successor has not taken it, and never can.
    pub(crate) fn take_back(&mut self) -> bool {
        hear(self.reading.as_fd()) == Heard::Said(COMMIT)
    }

    /// Nothing is said after this, not even when dropped.
    pub(crate) fn close_with(&mut self, last: Option<u8>) {
        if !std::mem::replace(&mut self.final_word, true)
            && let Some(byte) = last
        {
            // A pipe in which two bytes at most are ever said has room.
            let _ = self.say(byte);
        }
    }
}

/// Whoever drops out on any path, a panic included, has given up, and the other side can rely on it.
impl Drop for OwnWord {
    fn drop(&mut self) {
        self.close_with(Some(GAVE_UP));
    }
}

/// The other side's word.
#[derive(Debug)]
pub(crate) struct PeerWord(OwnedFd);

impl PeerWord {
    /// Whatever the other side has made it: reading from it must never wait.
    pub(crate) fn new(reading: OwnedFd) -> Result<Self, Cause> {
        fcntl_getfl(&reading)
            .and_then(|flags| fcntl_setfl(&reading, flags | OFlags::NONBLOCK))
            .map_err(|e| Cause::io("preparing the other side's word", e))?;
        Ok(Self(reading))
    }

    /// Reads what there is. What has been read is not there any more.
    pub(crate) fn hear(&self) -> Heard {
        hear(self.0.as_fd())
    }

    /// Until something is said, the speaker dies, or the deadline (`None`: no end).
    pub(crate) fn listen(&self, deadline: Option<Instant>) -> Result<Heard, Cause> {
        loop {
            let [ready] = descriptors::wait([(self.0.as_fd(), PollFlags::IN)], deadline)?;
            let heard = self.hear();
            // Ready and empty: the predecessor has just taken its commit back.
            if heard != Heard::Nothing || !ready {
                return Ok(heard);
            }
        }
    }
}

fn hear(reading: BorrowedFd<'_>) -> Heard {
    let mut byte = [0];
    loop {
        match read(reading, &mut byte) {
            Ok(0) => return Heard::Died,
            Ok(_) => return Heard::Said(byte[0]),
            Err(Errno::INTR) => {}
            // EAGAIN. Anything else cannot be told from silence, which is the answer that never makes two readers.
            Err(_) => return Heard::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{COMMIT, GAVE_UP, Heard, OwnWord, PeerWord};
    use std::os::fd::BorrowedFd;

    fn pair() -> (OwnWord, PeerWord) {
        let own = OwnWord::new().unwrap();
        let peer =
            PeerWord::new(BorrowedFd::try_clone_to_owned(&own.reading_end()).unwrap()).unwrap();
        (own, peer)
    }

    #[test]
    fn a_commit_is_had_by_whoever_reads_it_first() {
        let (mut own, peer) = pair();
        own.commit().unwrap();
        assert!(own.take_back());
        assert_eq!(peer.hear(), Heard::Nothing);

        let (mut own, peer) = pair();
        own.commit().unwrap();
        assert_eq!(peer.hear(), Heard::Said(COMMIT));
        assert!(!own.take_back());
    }

    #[test]
    fn whoever_drops_out_has_given_up_and_that_outlasts_him() {
        let (own, peer) = pair();
        drop(own);
        assert_eq!(peer.listen(None).unwrap(), Heard::Said(GAVE_UP));
        assert_eq!(peer.hear(), Heard::Died);
    }

    #[test]
    fn who_is_gone_without_a_word_has_died() {
        let (mut own, peer) = pair();
        assert_eq!(peer.hear(), Heard::Nothing);
        // Death drops nothing: the kernel closes.
        own.close_with(None);
        drop(own);
        assert_eq!(peer.listen(None).unwrap(), Heard::Died);
    }
}
