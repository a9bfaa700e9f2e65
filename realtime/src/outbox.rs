//! What waits to be written to each socket.
//!
//! A frame is encoded once and shared by every outbox in which it waits. Whatever gathered during a turn of the loop
//! leaves in one write. An outbox is bounded in bytes and in frames: whoever does not read loses its connection and
//! never a message in between (R-DLV-11). The bounds are for what a socket does not take. What gathers before it was
//! asked for the first time is the doing of others, however many publish within one turn: there, [`BURST`] times as much
//! may wait.

use std::collections::VecDeque;

use crate::websocket::Frame;

/// A socket's number in the server's table; outboxes and connections have the same one.
pub type Key = usize;

/// How many times its bounds an outbox may hold as long as its socket has taken all that it was given.
const BURST: usize = 16;

/// How much may wait above the bounds: what four of the largest subscriptions are sent when they begin.
const ROOM: u32 = 4 * crate::engine::OBSERVED_BYTES as u32;

/// No frame for which room is made is smaller, so that room in bytes is room in frames, too.
const SMALLEST: usize = 64;

/// How much may wait for one socket.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes, the frame under way counted whole.
    pub bytes: usize,
    /// Frames. Bounds the bookkeeping that many tiny frames would need.
    pub frames: usize,
}

/// The bytes that wait for one socket, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    /// How much of the first frame has been written already.
    written: usize,
    /// The sum of the frames' lengths.
    bytes: usize,
    /// Bytes that waited already when the socket was last to be written to, and still do.
    left: usize,
    /// How many bytes, and in as many frames at most, may wait above the bounds: see [`Outboxes::make_room`].
    room: u32,
    /// Is this outbox in the list of those that have something new?
    listed: bool,
    /// The kernel takes nothing at the moment: what waits, waits for the peer.
    pub blocked: bool,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes - self.written
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// What waits, in order, the first frame without what has been written of it.
    pub fn pending(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().enumerate().map(|(i, frame)| match i {
            0 => &frame[self.written..],
            _ => &frame[..],
        })
    }

    /// Bytes for one write: the first frame where it lies if it is alone or large, else as many as fit into `most` bytes,
    /// copied together. Copying small frames costs less than telling the kernel where each of them is.
    pub fn gather<'a>(&'a self, buffer: &'a mut Vec<u8>, most: usize) -> &'a [u8] {
        let mut pending = self.pending();
        let first = pending.next().unwrap_or_default();
        if self.frames.len() < 2 || first.len() >= most / 2 {
            return first;
        }
        buffer.clear();
        buffer.extend_from_slice(first);
        for frame in pending {
            if buffer.len() + frame.len() > most {
                break;
            }
            buffer.extend_from_slice(frame);
        }
        buffer
    }

    /// Forgets `count` bytes, which have been written.
    pub fn wrote(&mut self, count: usize) {
        self.written += count;
        self.left = self.left.saturating_sub(count);
        while let Some(first) = self.frames.front() {
            if self.written < first.len() {
                return;
            }
            self.written -= first.len();
            self.bytes -= first.len();
            self.room = (self.room).saturating_sub(u32::try_from(first.len()).unwrap_or(u32::MAX));
            self.frames.pop_front();
        }
        self.room = 0;
        // An idle connection keeps no memory here.
        if self.frames.capacity() > 16 {
            self.frames = VecDeque::new();
        }
    }

    /// Forgets what waits, except for the rest of a frame that is half written: the peer could not read on without it.
    fn cut(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.bytes = self.frames.front().map_or(0, |frame| frame.len());
        self.left = self.left.min(self.len());
    }

    /// Is there room within bounds for a frame of that length?
    fn has_room(&self, length: usize, bounds: Bounds) -> bool {
        let times = if self.left == 0 { BURST } else { 1 };
        let room = self.room as usize;
        self.bytes + length <= bounds.bytes.saturating_mul(times).saturating_add(room)
            && self.frames.len()
                < bounds
                    .frames
                    .saturating_mul(times)
                    .saturating_add(room / SMALLEST)
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }
}

/// The outboxes of all sockets, and the list of those in which something new waits.
#[derive(Debug)]
pub struct Outboxes {
    boxes: Vec<Outbox>,
    news: Vec<Key>,
    bounds: Bounds,
    /// See [`Outboxes::is_crowded`].
    crowded: bool,
}

/// An outbox has no room for a frame, which was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Outboxes {
    /// No outbox; each will have these bounds.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            boxes: Vec::new(),
            news: Vec::new(),
            bounds,
            crowded: false,
        }
    }

    /// Changes the bounds; what waits already may exceed them.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Opens an empty outbox under a number that has none.
    pub fn open(&mut self, key: Key) {
        if self.boxes.len() <= key {
            self.boxes.resize_with(key + 1, Outbox::default);
        }
        let listed = self.boxes[key].listed;
        self.boxes[key] = Outbox {
            listed,
            ..Outbox::default()
        };
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`Full`] when the outbox would exceed its bounds.
    pub fn push(&mut self, key: Key, frame: Frame) -> Result<(), Full> {
        let outbox = &self.boxes[key];
        // A frame above the bound on its own still goes to whoever is up to date: else nobody could ever receive it.
        if !outbox.is_empty() && !outbox.has_room(frame.len(), self.bounds) {
            return Err(Full);
        }
        self.force(key, frame);
        Ok(())
    }

    /// The bounds do not count so many of the bytes that are added next, until as many have been written: for what a client
    /// is sent at once because it asked for it, however much it is. In all no more than [`ROOM`], so that who asks again and
    /// again and does not read is a slow consumer like everybody else.
    pub fn make_room(&mut self, key: Key, bytes: usize) {
        let outbox = &mut self.boxes[key];
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        outbox.room = outbox.room.saturating_add(bytes).min(ROOM);
    }

    /// Is an outbox more than half full whose peer takes what it is given? Then it is time to write: who was not given
    /// anything yet is not slow.
    pub fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Adds a frame whatever the bounds: for the few bytes with which a connection begins and ends.
    pub fn force(&mut self, key: Key, frame: Frame) {
        let outbox = &mut self.boxes[key];
        outbox.push(frame);
        let Bounds { bytes, frames } = self.bounds;
        self.crowded |=
            !outbox.blocked && (outbox.bytes > bytes / 2 || outbox.frames.len() > frames / 2);
        if !outbox.listed {
            outbox.listed = true;
            self.news.push(key);
        }
    }

    /// Replaces what waits by a last frame, the half-written one excepted.
    pub fn cut(&mut self, key: Key, last: Frame) {
        self.boxes[key].cut();
        self.force(key, last);
    }

    /// The outbox of a socket, to be looked at.
    pub fn get(&self, key: Key) -> &Outbox {
        &self.boxes[key]
    }

    /// The outbox of a socket.
    pub fn of(&mut self, key: Key) -> &mut Outbox {
        &mut self.boxes[key]
    }

    /// Does something wait for a socket?
    pub fn waits(&self, key: Key) -> bool {
        !self.boxes[key].is_empty()
    }

    /// How many bytes and frames wait in all outboxes together.
    pub fn waiting(&self) -> (usize, usize) {
        self.boxes.iter().fold((0, 0), |(bytes, frames), outbox| {
            (bytes + outbox.len(), frames + outbox.frames.len())
        })
    }

    /// Takes the list of sockets for which something new waits, into a list whose memory is used again. The caller is about
    /// to write to each of them.
    pub fn take_news(&mut self, into: &mut Vec<Key>) {
        into.clear();
        std::mem::swap(&mut self.news, into);
        self.crowded = false;
        for &key in into.iter() {
            let outbox = &mut self.boxes[key];
            outbox.listed = false;
            outbox.left = outbox.len();
        }
    }

    /// Is there something new?
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 100,
        frames: 4,
    };

    fn frame(bytes: &[u8]) -> Frame {
        bytes.into()
    }

    fn waiting(outboxes: &mut Outboxes, key: Key) -> Vec<u8> {
        outboxes.of(key).pending().flatten().copied().collect()
    }

    /// As the server does before it writes.
    fn about_to_write(outboxes: &mut Outboxes) {
        outboxes.take_news(&mut Vec::new());
    }

    /// R-DLV-11
    #[test]
    fn an_outbox_is_bounded_in_bytes_and_in_frames() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(0);
        assert_eq!(outboxes.push(0, frame(&[1; 60])), Ok(()));
        about_to_write(&mut outboxes);
        assert_eq!(outboxes.push(0, frame(&[2; 41])), Err(Full), "101 bytes");
        assert_eq!(outboxes.push(0, frame(&[2; 40])), Ok(()), "exactly 100");
        outboxes.open(1);
        assert_eq!(outboxes.push(1, frame(&[3])), Ok(()));
        about_to_write(&mut outboxes);
        for _ in 1..4 {
            assert_eq!(outboxes.push(1, frame(&[3])), Ok(()));
        }
        assert_eq!(outboxes.push(1, frame(&[3])), Err(Full), "a fifth frame");
    }

    /// R-DLV-1, R-DLV-11: many publishers within one turn of the loop make nobody slow.
    #[test]
    fn a_burst_closes_only_whoever_had_not_taken_what_came_before() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(0);
        for _ in 0..BURST * 4 {
            assert_eq!(outboxes.push(0, frame(&[1])), Ok(()));
        }
        assert_eq!(outboxes.push(0, frame(&[1])), Err(Full), "it is bounded");
        about_to_write(&mut outboxes);
        outboxes.of(0).wrote(BURST * 4 - 1);
        for _ in 1..4 {
            assert_eq!(outboxes.push(0, frame(&[2])), Ok(()));
        }
        assert_eq!(outboxes.push(0, frame(&[2])), Err(Full), "one byte is left");
        outboxes.of(0).wrote(1);
        assert_eq!(outboxes.push(0, frame(&[2])), Ok(()), "it has caught up");
    }

    #[test]
    fn a_frame_above_the_bound_goes_to_whoever_is_up_to_date() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(0);
        assert_eq!(outboxes.push(0, frame(&[1; 5000])), Ok(()));
        about_to_write(&mut outboxes);
        assert_eq!(outboxes.push(0, frame(&[1])), Err(Full));
        outboxes.of(0).wrote(5000);
        assert_eq!(outboxes.push(0, frame(&[1])), Ok(()));
    }

    #[test]
    fn a_cut_keeps_the_rest_of_a_half_written_frame_and_nothing_else() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(7);
        outboxes.force(7, frame(b"first"));
        outboxes.force(7, frame(b"second"));
        outboxes.of(7).wrote(2);
        outboxes.cut(7, frame(b"!"));
        assert_eq!(waiting(&mut outboxes, 7), b"rst!");
        outboxes.of(7).wrote(3);
        outboxes.cut(7, frame(b"?"));
        assert_eq!(waiting(&mut outboxes, 7), b"?");
    }

    /// R-DLV-11
    #[test]
    fn it_is_time_to_write_when_an_outbox_is_half_full_unless_its_peer_is_what_it_waits_for() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(0);
        outboxes.push(0, frame(&[1; 50])).expect("room");
        assert!(!outboxes.is_crowded());
        outboxes.push(0, frame(&[1; 1])).expect("room");
        assert!(outboxes.is_crowded());
        outboxes.take_news(&mut Vec::new());
        outboxes.of(0).blocked = true;
        outboxes.push(0, frame(&[1; 1])).expect("room");
        assert!(!outboxes.is_crowded());
        outboxes.open(1);
        for _ in 0..3 {
            outboxes.push(1, frame(&[1])).expect("room");
        }
        assert!(outboxes.is_crowded(), "many small ones");
    }

    /// R-STOR-25, R-DLV-11: what a client is sent at once because it asked for it is no reason to close it, and neither is
    /// what comes behind that, within the bounds; but it can't ask for more and more without reading.
    #[test]
    fn room_above_the_bounds_lasts_until_it_has_been_written() {
        let mut outboxes = Outboxes::new(BOUNDS);
        outboxes.open(0);
        let whole = frame(&[1; 1000]);
        outboxes.make_room(0, whole.len());
        outboxes.push(0, whole).expect("there is room");
        outboxes.take_news(&mut Vec::new());
        outboxes.of(0).wrote(1);
        outboxes
            .push(0, frame(&[2; 99]))
            .expect("within the bounds");
        assert_eq!(outboxes.push(0, frame(&[3; 2])), Err(Full));
        outboxes.of(0).wrote(999);
        outboxes.take_news(&mut Vec::new());
        assert_eq!(
            outboxes.push(0, frame(&[3; 2])),
            Err(Full),
            "the bounds hold"
        );
        outboxes.of(0).wrote(100);
        assert!(outboxes.get(0).is_empty());
        // Asking again and again.
        let mut asked = 0;
        loop {
            let next: Frame = vec![0; 1 << 20].into();
            outboxes.make_room(0, next.len());
            let full = outboxes.push(0, next).is_err();
            outboxes.take_news(&mut Vec::new());
            if full {
                break;
            }
            asked += 1;
        }
        assert_eq!(asked, ROOM >> 20);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..20),
            steps in prop::collection::vec(0usize..30, 1..60),
        ) {
            let mut outboxes = Outboxes::new(Bounds { bytes: usize::MAX, frames: usize::MAX });
            outboxes.open(0);
            let whole: Vec<u8> = frames.iter().flatten().copied().collect();
            for bytes in &frames {
                outboxes.push(0, frame(bytes)).expect("no bound");
            }
            let mut written = Vec::new();
            for step in steps {
                prop_assert_eq!(outboxes.of(0).len(), whole.len() - written.len());
                let next = waiting(&mut outboxes, 0);
                let count = step.min(next.len());
                written.extend_from_slice(&next[..count]);
                outboxes.of(0).wrote(count);
            }
            written.extend(waiting(&mut outboxes, 0));
            prop_assert_eq!(written, whole);
        }

        #[test]
        fn a_socket_is_listed_once_however_much_is_new(keys in prop::collection::vec(0usize..5, 0..40)) {
            let mut outboxes = Outboxes::new(Bounds { bytes: usize::MAX, frames: usize::MAX });
            (0..5).for_each(|key| outboxes.open(key));
            for &key in &keys {
                outboxes.force(key, frame(b"x"));
            }
            let mut news = Vec::new();
            outboxes.take_news(&mut news);
            let mut once = keys.clone();
            once.sort_unstable();
            once.dedup();
            news.sort_unstable();
            prop_assert_eq!(news, once);
            prop_assert!(!outboxes.has_news());
        }
    }
}
