//! The third party: what whoever leads a handover (porter's host agent, a person with `socat`) asks of a process.
//!
//! One JSON object a line, over the process's own control socket; one answer a line, in order. The leader is no part of
//! a handover: if it dies, both processes end what they have begun, and its successor asks for `status`.

use crate::{failure::Cause, peers, phase::Phase, receipt::Receipt};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Bytes of a line, at most.
const MAX_LINE: u64 = 64 << 10;

/// How long a conversation may be silent, and an answer wait to be read.
const PATIENCE: Duration = Duration::from_secs(30);

/// A line from the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How things are. Answered at any time, also during a handover.
    Status {},
    /// Take over from whoever serves: the way forward in a new process, the way back in an emptied one.
    TakeOver {},
    /// End: the handover is final, nothing will be taken back. Refused by a process that serves.
    Retire {},
}

/// A line to the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To `status`.
    Status(Status),
    /// To `take-over`, however it ended.
    Receipt(Receipt),
    /// To `retire`: this process ends now.
    Retiring {},
    /// The command is not possible now, or not understood.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a process of the service is at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Started, healthy, serves nobody: waits for `take-over`.
    #[default]
    Waiting,
    /// Has the listeners and the connections.
    Serving,
    /// Serves, and is being taken over: between `begun` and the end.
    Giving,
    /// Is taking over.
    Taking,
    /// Has given everything away, and waits for `take-over` (the way back) or `retire`.
    Emptied,
}

/// The account of a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it is.
    pub role: Role,
    /// Connections that it has.
    pub connections: u32,
    /// Listeners that it has.
    pub listeners: u32,
    /// The last phase of the handover that is under way.
    pub phase: Option<Phase>,
    /// Versions of state that it reads.
    pub reads: Vec<u32>,
    /// Versions that it writes.
    pub writes: Vec<u32>,
    /// The last handover that ended here.
    pub last: Option<Receipt>,
    /// Whatever the service adds, such as its version.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub service: serde_json::Map<String, serde_json::Value>,
}

/// Asks one thing of the process whose control socket is at `path`, and waits for the answer for `patience`.
///
/// # Errors
/// There is nobody, or no answer in time, or none that is understood.
pub fn ask(path: &Path, request: Request, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write_line(&mut stream, &request)?;
    let line = read_line(&mut BufReader::new(stream))?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_slice(&line)?)
}

/// The process's side of one conversation with a leader.
#[derive(Debug)]
pub struct Conversation {
    stream: BufReader<UnixStream>,
}

impl Conversation {
    /// With whoever has connected to the control socket.
    ///
    /// # Errors
    /// A stranger.
    pub fn open(stream: UnixStream, trusted_uids: &[u32]) -> Result<Self, Cause> {
        peers::check(&stream, trusted_uids)?;
        let prepare = || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))
        };
        prepare().map_err(|e| Cause::io("preparing a conversation", e))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The next request; what is not understood has been answered. `None`: the leader has left.
    ///
    /// # Errors
    /// Silence, a line without end, a broken stream: the conversation is over.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            let Some(line) = read_line(&mut self.stream)? else {
                return Ok(None);
            };
            match serde_json::from_slice(&line) {
                Ok(request) => return Ok(Some(request)),
                Err(error) => self.answer(&Answer::Refused {
                    reason: format!("not understood: {error}"),
                })?,
            }
        }
    }

    /// Answers the request that came last.
    ///
    /// # Errors
    /// The leader has gone, or does not read.
    pub fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        write_line(self.stream.get_mut(), answer)
    }
}

fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line that is too long, or has no end",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Conversation, Request, Role, Status, ask};
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::{UnixListener, UnixStream},
        thread,
        time::Duration,
    };

    fn conversation() -> (Conversation, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Conversation::open(ours, &[]).unwrap(), theirs)
    }

    #[test]
    fn every_command_is_one_line_of_the_specification() {
        let (mut conversation, mut leader) = conversation();
        leader
            .write_all(b"{\"command\":\"status\"}\n{\"command\":\"take-over\"}\n{\"command\":\"retire\"}\n")
            .unwrap();
        drop(leader);
        assert_eq!(conversation.request().unwrap(), Some(Request::Status {}));
        assert_eq!(conversation.request().unwrap(), Some(Request::TakeOver {}));
        assert_eq!(conversation.request().unwrap(), Some(Request::Retire {}));
        assert_eq!(conversation.request().unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_answered_and_the_conversation_goes_on() {
        let (mut conversation, mut leader) = conversation();
        leader
            .write_all(b"{\"command\":\"dance\"}\nnonsense\n{\"command\":\"status\",\"now\":1}\n{\"command\":\"status\"}\n")
            .unwrap();
        assert_eq!(conversation.request().unwrap(), Some(Request::Status {}));
        let refusals = BufReader::new(leader).lines().take(3);
        for line in refusals {
            let line = line.unwrap();
            assert!(
                line.starts_with("{\"answer\":\"refused\",\"reason\":\"not understood: "),
                "{line}"
            );
        }
    }

    #[test]
    fn a_line_without_end_ends_the_conversation() {
        let (mut conversation, mut leader) = conversation();
        let writing = thread::spawn(move || {
            let _ = leader.write_all(&[b'x'; 70_000]);
            leader
        });
        assert!(conversation.request().is_err());
        drop(conversation);
        writing.join().unwrap();
    }

    #[test]
    fn a_leader_gets_the_answer_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let status = Answer::Status(Status {
            role: Role::Serving,
            connections: 7,
            ..Status::default()
        });
        let answer = status.clone();
        let process = thread::spawn(move || {
            let mut conversation = Conversation::open(listener.accept().unwrap().0, &[]).unwrap();
            assert_eq!(conversation.request().unwrap(), Some(Request::Status {}));
            conversation.answer(&answer).unwrap();
        });
        assert_eq!(
            ask(&path, Request::Status {}, Duration::from_secs(60)).unwrap(),
            status
        );
        process.join().unwrap();
    }
}
