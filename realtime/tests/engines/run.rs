//! An engine that serves, with a clock of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use realtime::connection::{ConnectionId, Identity, Origin};
use realtime::engine::{
    Answer, Engine, History, Keys, Outcome, Publish, Reacting, Request, SingleUse, Source, Ticket,
    Write,
};
use realtime::json::Json;
use realtime::metrics::Trigger;
use realtime::presence::Member;
use realtime::time::Now;
use ulid::Ulid;

use super::{Place, places};

/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The clock begins here, in milliseconds.
pub const START: i64 = 1_790_000_000_000;

/// An engine at work.
pub struct Run {
    pub place: Arc<dyn Place>,
    pub engine: Box<dyn Engine>,
    /// Milliseconds since [`START`].
    pub clock: i64,
}

/// With each engine.
pub fn with_each(test: impl Fn(Run)) {
    for place in places() {
        test(Run::begin(place, 0));
    }
}

impl Run {
    /// Nobody served here before.
    pub fn begin(place: Arc<dyn Place>, clock: i64) -> Self {
        let engine = place.open();
        let mut run = Self {
            place,
            engine,
            clock,
        };
        run.engine.begin(run.now()).expect("it begins");
        run
    }

    /// Ends, and begins again after so many milliseconds.
    pub fn again(self, later: i64) -> Self {
        let Self {
            place,
            engine,
            clock,
        } = self;
        drop(engine);
        Self::begin(place, clock + later)
    }

    pub fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_millisecond(START + self.clock).expect("a time"),
            mono: Instant::now(),
        }
    }

    /// Everything that has happened, once everything is answered.
    pub fn settled(&mut self) -> Vec<Outcome> {
        assert!(self.engine.settle(self.now(), PATIENCE), "it settles");
        std::iter::from_fn(|| self.engine.next_outcome()).collect()
    }

    /// Lets time pass, and everything happen that is due then.
    pub fn pass(&mut self, ms: i64) -> Vec<Outcome> {
        self.clock += ms;
        let mut seen = Vec::new();
        // Something that was due may be followed by more of it.
        for _ in 0..100 {
            self.engine.turn(self.now());
            seen.extend(self.settled());
            let due = self.engine.next_due();
            if due.is_none_or(|due| due > self.now().wall) {
                return seen;
            }
        }
        panic!("something is always due");
    }

    /// The answer to a request, and what else came of it.
    pub fn ask(&mut self, request: Request) -> (Answer, Vec<Outcome>) {
        let asked = self.engine.submit(self.now(), request);
        let (mut answer, mut rest) = (None, Vec::new());
        for outcome in self.settled() {
            match outcome {
                Outcome::Answer(ticket, given) => {
                    assert_eq!(ticket, asked, "nobody else has asked");
                    assert!(answer.replace(given).is_none(), "one answer to one request");
                }
                other => rest.push(other),
            }
        }
        (answer.expect("every such request is answered"), rest)
    }

    pub fn answer(&mut self, request: Request) -> Answer {
        self.ask(request).0
    }

    pub fn submit(&mut self, request: Request) -> Ticket {
        self.engine.submit(self.now(), request)
    }

    /// Publishes, and gives the identifier.
    pub fn publish(&mut self, message: Publish) -> Ulid {
        match self.answer(Request::Publish(message)) {
            Answer::Published(id) => id,
            other => panic!("not published: {other:?}"),
        }
    }

    /// Publishes; whether it was delivered.
    pub fn delivers(&mut self, message: Publish) -> bool {
        let (answer, rest) = self.ask(Request::Publish(message));
        assert!(matches!(answer, Answer::Published(_)), "{answer:?}");
        !rest.is_empty()
    }

    /// The payloads of a page.
    pub fn page(&mut self, asked: History) -> Vec<String> {
        match self.answer(Request::History(asked)) {
            Answer::Messages(page) => page.iter().map(|it| it.data.to_string()).collect(),
            other => panic!("no page: {other:?}"),
        }
    }

    /// The value of an entry.
    pub fn value(&mut self, channel: &str, key: &str) -> Option<String> {
        let (channel, key) = (channel.into(), key.into());
        match self.answer(Request::Read { channel, key }) {
            Answer::Entry(entry) => entry.map(|entry| entry.value.to_string()),
            other => panic!("not read: {other:?}"),
        }
    }

    /// Writes; what came of it beside the answer.
    pub fn write(&mut self, write: Write) -> Vec<Outcome> {
        let (answer, rest) = self.ask(Request::Write(write));
        assert!(matches!(answer, Answer::Done), "{answer:?}");
        rest
    }
}

pub fn json(text: &str) -> Json {
    Json::compact(text).expect("JSON")
}

/// A message that is kept for so long.
pub fn message(channel: &str, data: &str, store: i64) -> Publish {
    Publish {
        channel: channel.into(),
        event: "chat".into(),
        data: json(data),
        meta: Some(user("ana")),
        except: None,
        deduplication_id: None,
        store,
        emit: false,
        source: Some(source("publish")),
    }
}

/// A write that is kept for so long; no value clears.
pub fn write(channel: &str, key: &str, value: Option<&str>, store: i64) -> Write {
    Write {
        channel: channel.into(),
        key: key.into(),
        value: value.map(json),
        meta: user("ana"),
        store,
        deduplication_id: None,
        emit: false,
        source: Some(source("write")),
    }
}

pub fn reacting(channel: &str, message: Ulid, reaction: &str, add: bool, uid: &str) -> Reacting {
    Reacting {
        channel: channel.into(),
        message,
        reaction: reaction.into(),
        add,
        uid: uid.into(),
        umd: Some(json("{\"of\":1}")),
        except: None,
        emit: false,
        source: source(if add { "add" } else { "remove" }),
    }
}

pub fn user(uid: &str) -> Identity {
    Identity {
        uid: Some(uid.into()),
        umd: Some(json("[1]")),
    }
}

/// How a request with this name came.
pub fn source(request: &str) -> Arc<Source> {
    Arc::new(Source {
        trigger: Trigger::ClientWebSocket,
        connection: ConnectionId::parse("AAAAAAAAAAAAAAA="),
        origin: Origin {
            source_ip: Some([192, 0, 2, 7].into()),
            user_agent: Some("test".into()),
        },
        request_id: request.into(),
    })
}

/// The whole history of a channel.
pub fn all(channel: &str) -> History {
    History {
        channel: channel.into(),
        since_ms: 0,
        event: None,
        after: None,
        before: None,
        reverse: false,
    }
}

pub fn token(jti: &str) -> SingleUse {
    SingleUse {
        jti: jti.into(),
        until: Timestamp::from_millisecond(START + 60_000).expect("a time"),
    }
}

pub fn member(uid: &str) -> Member {
    Member {
        uid: uid.into(),
        umd: None,
    }
}

pub fn join(channel: &str, member: Option<Member>, observe: Option<Keys>) -> Request {
    Request::Join {
        channel: channel.into(),
        connection: ConnectionId::random(),
        member,
        counted: true,
        observe,
        spend: None,
    }
}
