//! Several hosts with one Redis between them: what each of them sees, and what stays true when something breaks.

#[path = "support/redis.rs"]
mod redis;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mio::{Events, Poll, Token, Waker};
use realtime::connection::{ConnectionId, Identity, Origin};
use realtime::engine::cluster::{Cluster, Installation};
use realtime::engine::{
    Answer, Caller, Deferred, Engine, Entry, Health, History, Keys, Outcome, Publish, Reacting,
    Request, Select, SingleUse, Source, Ticket, Write,
};
use realtime::events::Happening;
use realtime::json::Json;
use realtime::metrics::{EngineMeter, Trigger};
use realtime::presence::{Change, Member};
use realtime::time::Now;
use ulid::Ulid;

use redis::{Proxy, Redis};

/// How long something that must happen may take on a busy machine before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// One process of the installation, as its hub sees it.
struct Node {
    engine: Cluster,
    poll: Poll,
    events: Events,
    /// What came and has not been asked for.
    seen: VecDeque<Outcome>,
}

impl Node {
    /// A process that serves.
    fn start(url: &str) -> Self {
        let mut node = Self::open(url);
        node.engine.begin(Now::read()).expect("Redis can be used");
        node
    }

    /// A process that does not serve yet.
    fn open(url: &str) -> Self {
        Self::open_with(Installation::new(url, "rt", None).expect("the URL is good"))
    }

    fn open_with(installation: Installation) -> Self {
        let poll = Poll::new().expect("descriptors are left");
        let waker = Waker::new(poll.registry(), Token(0)).expect("it can be woken");
        let wake = Arc::new(move || waker.wake().expect("it can be woken"));
        Self {
            engine: Cluster::open(installation, EngineMeter::default(), wake)
                .expect("threads are left"),
            poll,
            events: Events::with_capacity(1),
            seen: VecDeque::new(),
        }
    }

    /// A turn of the loop: waits a moment for something to come.
    fn turn(&mut self) {
        let moment = Some(Duration::from_millis(20));
        match self.poll.poll(&mut self.events, moment) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => panic!("{error}"),
            _ => {}
        }
        self.engine.turn(Now::read());
        self.take();
    }

    fn take(&mut self) {
        while let Some(outcome) = self.engine.next_outcome() {
            self.seen.push_back(outcome);
        }
    }

    fn submit(&mut self, request: Request) -> Ticket {
        self.engine.submit(Now::read(), request)
    }

    /// Waits for an outcome, and takes it out of those that came.
    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Outcome) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.seen.iter().position(|it| wanted(it).is_some()) {
                let outcome = self.seen.remove(at).expect("it is there");
                return wanted(&outcome).expect("it was wanted");
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{what} did not come: {:?}",
                self.seen
            );
            self.turn();
        }
    }

    fn answer(&mut self, ticket: Ticket) -> Answer {
        self.wait_for("an answer", |outcome| match outcome {
            Outcome::Answer(to, answer) if *to == ticket => Some(answer.clone()),
            _ => None,
        })
    }

    fn ask(&mut self, request: Request) -> Answer {
        let ticket = self.submit(request);
        self.answer(ticket)
    }

    fn join(&mut self, channel: &str, member: Option<Member>) -> ConnectionId {
        let connection = ConnectionId::random();
        match self.ask(join(channel, connection, member)) {
            Answer::Joined { .. } => connection,
            other => panic!("not joined: {other:?}"),
        }
    }

    fn publish(&mut self, channel: &str, text: &str) -> Ulid {
        match self.ask(Request::Publish(publish(channel, text))) {
            Answer::Published(id) => id,
            other => panic!("not published: {other:?}"),
        }
    }

    fn describe(&mut self, channel: &str) -> (u64, Vec<String>) {
        let channel = channel.into();
        match self.ask(Request::Describe { channel }) {
            Answer::Described {
                subscriptions,
                members,
            } => (subscriptions, names(&members)),
            other => panic!("not described: {other:?}"),
        }
    }

    /// Waits for so many messages of a channel, in order.
    fn messages(&mut self, channel: &str, count: usize) -> Vec<(Ulid, String)> {
        let begun = Instant::now();
        let mut found = Vec::new();
        loop {
            self.seen.retain(|outcome| match outcome {
                Outcome::Message(id, message) if &*message.channel == channel => {
                    found.push((*id, message.data.as_str().to_owned()));
                    false
                }
                _ => true,
            });
            if found.len() >= count {
                return found;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {count} messages came",
                found.len()
            );
            self.turn();
        }
    }

    /// Waits for a change of a channel's members: which, and the list after it.
    fn change(&mut self, channel: &str) -> (String, Vec<String>) {
        self.wait_for("a change of members", |outcome| match outcome {
            Outcome::Presence {
                channel: of,
                change,
                members,
                ..
            } if &**of == channel => Some((shown(change), names(members))),
            _ => None,
        })
    }

    /// Changes of members that came, without waiting.
    fn changes(&mut self, channel: &str) -> Vec<String> {
        self.take();
        let mut found = Vec::new();
        for outcome in &self.seen {
            if let Outcome::Presence {
                channel: of,
                change,
                ..
            } = outcome
                && &**of == channel
            {
                found.push(shown(change));
            }
        }
        found
    }

    /// Whatever was announced before this has come when this returns: answers and announcements are in one order.
    fn barrier(&mut self) {
        self.describe("barrier");
    }

    fn wait_until_well(&mut self) {
        let begun = Instant::now();
        while self.engine.health() != Health::Well {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.engine.health());
            self.turn();
        }
    }

    fn wait_until_ill(&mut self) {
        let begun = Instant::now();
        while self.engine.health() == Health::Well {
            assert!(begun.elapsed() < PATIENCE, "it does not notice");
            self.turn();
        }
    }

    /// Another process takes over, with these subscriptions.
    fn hand_over(
        mut self,
        url: &str,
        subscriptions: &[(&str, ConnectionId, Option<Member>)],
    ) -> Node {
        let now = Now::read();
        self.engine.settle(now, Duration::from_secs(5));
        self.take();
        let state = self.engine.export(now);
        let mut successor = Self::open(url);
        successor.engine.import(now, state);
        for (channel, connection, member) in subscriptions {
            let (uid, umd) = match member {
                Some(member) => (Some(member.uid.clone()), member.umd.as_ref()),
                None => (None, None),
            };
            let channel: Arc<str> = (*channel).into();
            successor
                .engine
                .adopt(&channel, *connection, uid, umd, true);
        }
        successor.engine.adopted(now);
        self.engine.release();
        successor.seen = self.seen;
        successor
    }
}

fn json(text: &str) -> Json {
    Json::compact(text).expect("JSON")
}

fn member(uid: &str) -> Option<Member> {
    Some(Member {
        uid: uid.into(),
        umd: None,
    })
}

fn member_with(uid: &str, umd: &str) -> Option<Member> {
    Some(Member {
        uid: uid.into(),
        umd: Some(json(umd)),
    })
}

fn names(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .map(|member| member.uid.to_string())
        .collect()
}

fn shown(change: &Change) -> String {
    match change {
        Change::Added(member) => format!("+{}", member.uid),
        Change::Updated(member) => format!("~{}", member.uid),
        Change::Removed(member) => format!("-{}", member.uid),
    }
}

fn publish(channel: &str, text: &str) -> Publish {
    Publish {
        channel: channel.into(),
        event: "chat".into(),
        data: json(&format!("{text:?}")),
        meta: None,
        except: None,
        deduplication_id: None,
        store: 0,
        emit: false,
        source: None,
    }
}

fn write(channel: &str, key: &str, value: Option<&str>) -> Write {
    Write {
        channel: channel.into(),
        key: key.into(),
        value: value.map(json),
        meta: Identity {
            uid: Some("ana".into()),
            umd: None,
        },
        store: -1,
        deduplication_id: None,
        emit: false,
        source: None,
    }
}

fn join(channel: &str, connection: ConnectionId, member: Option<Member>) -> Request {
    Request::Join {
        channel: channel.into(),
        connection,
        member,
        counted: true,
        observe: None,
        spend: None,
    }
}

fn leave(channel: &str, connection: ConnectionId, uid: Option<&str>) -> Request {
    Request::Leave {
        channel: channel.into(),
        connection,
        uid: uid.map(Into::into),
        counted: true,
    }
}

fn token(jti: &str) -> SingleUse {
    SingleUse {
        jti: jti.into(),
        until: Timestamp::now() + Duration::from_secs(60),
    }
}

fn source() -> Arc<Source> {
    Arc::new(Source {
        trigger: Trigger::ServerHttp,
        connection: None,
        origin: Origin::default(),
        request_id: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".into(),
    })
}

/// R-DLV-5, R-DLV-6, R-DIFF-12
#[test]
fn all_hosts_see_the_messages_of_a_channel_in_one_order() {
    let redis = Redis::start();
    let mut nodes: Vec<_> = (0..3).map(|_| Node::start(&redis.url())).collect();
    for node in &mut nodes {
        node.join("room", None);
    }
    let tickets: Vec<Vec<Ticket>> = nodes
        .iter_mut()
        .enumerate()
        .map(|(at, node)| {
            (0..200)
                .map(|n| node.submit(Request::Publish(publish("room", &format!("{at} {n}")))))
                .collect()
        })
        .collect();
    let seen: Vec<_> = nodes
        .iter_mut()
        .map(|node| node.messages("room", 600))
        .collect();
    assert_eq!(seen[0].len(), 600);
    assert!(
        seen[0].is_sorted_by(|one, other| one.0 < other.0),
        "identifiers rise"
    );
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    for (at, (node, tickets)) in nodes.iter_mut().zip(tickets).enumerate() {
        // R-DLV-7: each publisher's messages stand in the order in which they were accepted.
        let own: Vec<_> = (seen[0].iter())
            .filter(|(_, text)| text.starts_with(&format!("\"{at} ")))
            .collect();
        for (ticket, (id, text)) in tickets.into_iter().zip(own) {
            match node.answer(ticket) {
                Answer::Published(answered) => assert_eq!(answered, *id, "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// R-DLV-4
#[test]
fn an_identifier_holds_the_time() {
    let redis = Redis::start();
    let mut node = Node::start(&redis.url());
    let before = Timestamp::now().as_millisecond();
    let id = node.publish("room", "hello");
    let at = i64::try_from(id.timestamp_ms()).expect("a time");
    assert!(before <= at && at <= Timestamp::now().as_millisecond());
}

/// R-PRES-3 to R-PRES-12, R-DIFF-12
#[test]
fn presence_spans_the_hosts() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let ana = a.join("presence.x", member("ana"));
    let ben = ConnectionId::random();
    match b.ask(join("presence.x", ben, member("ben"))) {
        Answer::Joined { members, .. } => {
            assert_eq!(
                names(&members.expect("it is a presence channel")),
                ["ana", "ben"]
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(a.change("presence.x"), ("+ana".into(), vec!["ana".into()]));
    let both = vec!["ana".to_owned(), "ben".into()];
    assert_eq!(a.change("presence.x"), ("+ben".into(), both.clone()));
    assert_eq!(b.change("presence.x"), ("+ben".into(), both.clone()));

    // The same user at another host: nobody is told; with other metadata, everybody is.
    let again = b.join("presence.x", member("ana"));
    let third = b.join("presence.x", member_with("ana", "{\"n\":1}"));
    assert_eq!(a.change("presence.x"), ("~ana".into(), both.clone()));
    assert_eq!(b.change("presence.x"), ("~ana".into(), both.clone()));
    assert_eq!(a.describe("presence.x"), (4, both.clone()));

    a.submit(leave("presence.x", ana, Some("ana")));
    b.submit(leave("presence.x", again, Some("ana")));
    let begun = Instant::now();
    while b.describe("presence.x").0 != 2 {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(b.changes("presence.x"), Vec::<String>::new(), "R-PRES-12");
    b.submit(leave("presence.x", third, Some("ana")));
    assert_eq!(b.change("presence.x"), ("-ana".into(), vec!["ben".into()]));
    b.submit(leave("presence.x", ben, Some("ben")));
    assert_eq!(b.describe("presence.x"), (0, Vec::new()));
    // Nothing is left of a channel without subscribers.
    let left: Vec<_> = redis
        .keys()
        .into_iter()
        .filter(|key| key.contains("presence.x"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "R-OPS-3");
}

/// R-PRES-14 to R-PRES-16
#[test]
fn metadata_is_compared_by_what_it_means() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.join("presence.x", member_with("ana", r#"{"n":1,"m":2}"#));
    b.join("presence.x", member("ben"));
    let update = |umd: &str| Request::Update {
        channel: "presence.x".into(),
        member: member_with("ana", umd).expect("a member"),
        spend: None,
    };
    assert!(matches!(
        a.ask(update(r#"{"m":2.0,"n":10e-1}"#)),
        Answer::Done
    ));
    assert!(matches!(a.ask(update(r#"{"m":3}"#)), Answer::Done));
    assert_eq!(b.change("presence.x").0, "+ben");
    assert_eq!(b.change("presence.x").0, "~ana");
    b.barrier();
    assert_eq!(b.changes("presence.x"), Vec::<String>::new());
}

/// R-PRES-17, R-PRES-18
#[test]
fn a_full_list_refuses_and_stays_as_it_was() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let large = format!("\"{}\"", "x".repeat(60_000));
    a.join("presence.x", member_with("ana", &large));
    let full = b.ask(join(
        "presence.x",
        ConnectionId::random(),
        member_with("ben", &large),
    ));
    assert!(matches!(full, Answer::PresenceFull));
    b.join("presence.x", member_with("ana", &large));
    let larger = format!("\"{}\"", "x".repeat(102_400));
    let update = Request::Update {
        channel: "presence.x".into(),
        member: member_with("ana", &larger).expect("a member"),
        spend: None,
    };
    assert!(matches!(a.ask(update), Answer::PresenceFull));
    assert_eq!(a.describe("presence.x"), (2, vec!["ana".into()]));
    b.join("presence.x", member("cem"));
}

/// R-CLAIM-26
#[test]
fn a_single_use_token_is_spent_once_whoever_comes_first() {
    let redis = Redis::start();
    let mut nodes: Vec<_> = (0..2).map(|_| Node::start(&redis.url())).collect();
    for n in 0..50 {
        let jti = format!("token {n}");
        let tickets: Vec<_> = (nodes.iter_mut().enumerate())
            .map(|(at, node)| match at {
                0 => node.submit(Request::Spend(token(&jti))),
                _ => node.submit(Request::Join {
                    channel: "room".into(),
                    connection: ConnectionId::random(),
                    member: None,
                    counted: true,
                    observe: None,
                    spend: Some(token(&jti)),
                }),
            })
            .collect();
        let answers = [nodes[0].answer(tickets[0]), nodes[1].answer(tickets[1])];
        let spent = answers
            .iter()
            .filter(|it| matches!(it, Answer::Spent))
            .count();
        assert_eq!(spent, 1, "{answers:?}");
        assert!(matches!(
            nodes[0].ask(Request::Check(token(&jti))),
            Answer::Spent
        ));
    }
    assert!(matches!(
        nodes[0].ask(Request::Check(token("another"))),
        Answer::Done
    ));
}

/// R-SRV-13, R-SRV-15, R-SRV-16
#[test]
fn copies_disappear_whichever_host_gets_them() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.join("room", None);
    let copy = |text: &str| {
        let mut message = publish("room", text);
        message.deduplication_id = Some("7".into());
        Request::Publish(message)
    };
    let Answer::Published(first) = a.ask(copy("one")) else {
        panic!("not published")
    };
    let Answer::Published(second) = b.ask(copy("two")) else {
        panic!("not published")
    };
    assert!(second > first, "a copy gets an identifier that nobody sees");
    let mut elsewhere = publish("other", "three");
    elsewhere.deduplication_id = Some("7".into());
    b.ask(Request::Publish(elsewhere));
    b.publish("room", "four");
    let texts: Vec<_> = a
        .messages("room", 2)
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts, ["\"one\"", "\"four\""]);
    // Remembered for five minutes from the first one on.
    let marks: Vec<_> = redis
        .keys()
        .into_iter()
        .filter(|key| key.starts_with("rt:d:"))
        .collect();
    assert_eq!(marks.len(), 2);
    for mark in marks {
        let left: i64 = redis.command(&["PTTL", &mark]).parse().expect("a number");
        assert!((290_000..=300_000).contains(&left), "{left}");
    }
}

/// R-STOR-8 to R-STOR-14, R-STOR-33, R-DIFF-12
#[test]
fn storage_is_one_for_all_hosts() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    b.join("game", None);
    let read = |key: &str| Request::Read {
        channel: "game".into(),
        key: key.into(),
    };
    let updated = |node: &mut Node| {
        node.wait_for("a change of storage", |outcome| match outcome {
            Outcome::Storage { key, value, .. } => Some((
                key.to_string(),
                value.as_ref().map(|it| it.as_str().to_owned()),
            )),
            _ => None,
        })
    };
    assert!(matches!(
        a.ask(Request::Write(write(
            "game",
            "turn",
            Some(r#"{"a":1,"b":2}"#)
        ))),
        Answer::Done
    ));
    assert_eq!(
        updated(&mut b),
        ("turn".into(), Some(r#"{"a":1,"b":2}"#.into()))
    );
    // The same value in another notation: nobody is told, the notation stays, the last writer is another.
    let mut same = write("game", "turn", Some(r#"{"b":2.0,"a":1}"#));
    same.meta.uid = Some("ben".into());
    assert!(matches!(b.ask(Request::Write(same)), Answer::Done));
    match a.ask(read("turn")) {
        Answer::Entry(Some(entry)) => {
            assert_eq!(entry.value.as_str(), r#"{"a":1,"b":2}"#);
            assert_eq!(entry.meta.uid.as_deref(), Some("ben"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        a.ask(Request::Write(write("game", "turn", None))),
        Answer::Done
    ));
    assert_eq!(updated(&mut b), ("turn".into(), None), "R-STOR-17");
    assert!(matches!(
        a.ask(Request::Write(write("game", "turn", None))),
        Answer::Done
    ));
    assert!(matches!(b.ask(read("turn")), Answer::Entry(None)));
    b.barrier();
    assert!(
        !b.seen
            .iter()
            .any(|it| matches!(it, Outcome::Storage { .. })),
        "{:?}",
        b.seen
    );

    // Copies, also of a write, whichever host gets them.
    for (node, value) in [(0, "1"), (1, "2")] {
        let mut copy = write("game", "n", Some(value));
        copy.deduplication_id = Some("once".into());
        let node = [&mut a, &mut b].into_iter().nth(node).expect("two");
        assert!(matches!(node.ask(Request::Write(copy)), Answer::Done));
    }
    match b.ask(read("n")) {
        Answer::Entry(Some(entry)) => assert_eq!(entry.value.as_str(), "1", "R-SRV-16"),
        other => panic!("{other:?}"),
    }
}

/// R-HTTP-41 to R-HTTP-44
#[test]
fn storage_is_listed_in_byte_order_by_the_page() {
    let redis = Redis::start();
    let mut node = Node::start(&redis.url());
    let mut keys: Vec<String> = (0..150).map(|n| format!("k{n}")).collect();
    keys.extend(["Ä".into(), "Z".into(), "a b".into(), "secret".into()]);
    let large = format!("\"{}\"", "x".repeat(30_000));
    for key in &keys {
        let value = if key.starts_with("k1") { "1" } else { &*large };
        node.submit(Request::Write(write("game", key, Some(value))));
    }
    let list = |select: Select| Request::List {
        channel: "game".into(),
        select,
        permitted: Keys::such_that(|key| key != "secret"),
    };
    let mut listed = Vec::new();
    let mut after: Option<Box<str>> = None;
    let mut pages = Vec::new();
    loop {
        let Answer::Entries(entries) = node.ask(list(Select::After(after.clone()))) else {
            panic!("not listed")
        };
        let Some(last) = entries.last() else { break };
        after = Some(last.key.clone());
        pages.push(entries.len());
        listed.extend(entries.into_iter().map(|entry| entry.key.to_string()));
    }
    keys.retain(|key| key != "secret");
    keys.sort_unstable();
    assert_eq!(listed, keys);
    assert!(pages.iter().all(|entries| *entries <= 100), "{pages:?}");
    // The first page ends at the megabyte, not before: 60 small entries among the large ones make it longer.
    assert!(pages[0] > 33, "{pages:?}");

    let named = ["k7", "secret", "k3", "none"].map(Into::into).to_vec();
    let Answer::Entries(entries) = node.ask(list(Select::Named(named))) else {
        panic!("not listed")
    };
    let found: Vec<_> = entries.iter().map(|entry: &Entry| &*entry.key).collect();
    assert_eq!(found, ["k3", "k7"]);
}

/// R-STOR-25, R-STOR-26
#[test]
fn a_subscription_is_given_what_it_observes_and_misses_no_change() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    // More than fits into the quick way, and more than one step of keys.
    for n in 0..1500 {
        a.submit(Request::Write(write(
            "game",
            &format!("k{n:04}"),
            Some("0"),
        )));
    }
    a.barrier();
    let observing = Request::Join {
        channel: "game".into(),
        connection: ConnectionId::random(),
        member: None,
        counted: true,
        observe: Some(Keys::such_that(|key| key.ends_with('7'))),
        spend: None,
    };
    let ticket = b.submit(observing);
    for n in 0..300 {
        a.submit(Request::Write(write("game", "k0007", Some(&n.to_string()))));
    }
    let Answer::Joined { observed, .. } = b.answer(ticket) else {
        panic!("not joined")
    };
    let keys: Vec<_> = observed.iter().map(|entry| entry.key.to_string()).collect();
    let wanted: Vec<_> = (0..150).map(|n| format!("k{:04}", n * 10 + 7)).collect();
    assert_eq!(keys, wanted);
    a.barrier();
    b.barrier();
    let first: i32 = observed[0].value.as_str().parse().expect("a number");
    let mut last = first;
    for outcome in &b.seen {
        if let Outcome::Storage {
            value: Some(value), ..
        } = outcome
        {
            let value: i32 = value.as_str().parse().expect("a number");
            assert!(
                value == last + 1 || last == 0 && value == 0,
                "{last} then {value}"
            );
            last = value;
        }
    }
    assert_eq!(last, 299);
}

/// R-STOR-21 to R-STOR-23, R-DIFF-14, R-EVT-31
#[test]
fn an_entry_expires_and_one_host_tells_backends() {
    let redis = Redis::start();
    let mut nodes: Vec<_> = (0..3).map(|_| Node::start(&redis.url())).collect();
    for node in &mut nodes {
        node.engine.tell(true);
        node.join("game", None);
    }
    let mut short = write("game", "turn", Some("1"));
    short.store = 1;
    short.emit = true;
    short.source = Some(source());
    let begun = Instant::now();
    nodes[0].ask(Request::Write(short));
    let read = Request::Read {
        channel: "game".into(),
        key: "turn".into(),
    };
    while let Answer::Entry(Some(_)) = nodes[1].ask(read.clone()) {
        assert!(begun.elapsed() < PATIENCE, "it does not expire");
    }
    assert!(
        begun.elapsed() > Duration::from_millis(800),
        "it lives for a second"
    );
    let told = |node: &Node| {
        let expired = |outcome: &&Outcome| match outcome {
            Outcome::Tell(Happening::Storage(change)) if change.expired => {
                assert_eq!(change.previous.as_ref().map(Json::as_str), Some("1"));
                assert_eq!(change.value, None);
                assert!(change.source.is_some() && change.expires_at.is_some());
                true
            }
            _ => false,
        };
        node.seen.iter().filter(expired).count()
    };
    while nodes.iter().map(told).sum::<usize>() == 0 {
        assert!(begun.elapsed() < PATIENCE, "nobody is told");
        nodes.iter_mut().for_each(Node::turn);
    }
    // Observers are not told of the end, and it leaves nothing.
    nodes.iter_mut().for_each(Node::barrier);
    assert_eq!(nodes.iter().map(told).sum::<usize>(), 1);
    for node in &nodes[1..] {
        let changes = node
            .seen
            .iter()
            .filter(|it| matches!(it, Outcome::Storage { .. }));
        assert_eq!(changes.count(), 1, "R-STOR-22");
    }
    let left: Vec<_> = redis
        .keys()
        .into_iter()
        .filter(|key| key.starts_with("rt:s"))
        .collect();
    assert_eq!(left, ["rt:sc"], "R-OPS-3");
}

fn history(channel: &str) -> History {
    History {
        channel: channel.into(),
        since_ms: 0,
        event: None,
        after: None,
        before: None,
        reverse: false,
    }
}

fn kept(channel: &str, event: &str, text: &str, store: i64) -> Request {
    let mut message = publish(channel, text);
    message.event = event.into();
    message.store = store;
    message.source = Some(source());
    Request::Publish(message)
}

fn page(node: &mut Node, asked: History) -> Vec<(Ulid, String)> {
    match node.ask(Request::History(asked)) {
        Answer::Messages(found) => (found.into_iter())
            .map(|it| (it.id, it.data.as_str().trim_matches('"').to_owned()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// R-HIST-1, R-HIST-2, R-HIST-6, R-HTTP-12 to R-HTTP-18, R-DIFF-21
#[test]
fn history_is_one_for_all_hosts() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let mut ids = Vec::new();
    for n in 0..2500 {
        let node = if n % 2 == 0 { &mut a } else { &mut b };
        let event = if n % 500 == 3 { "rare" } else { "chat" };
        // Every fifth of them expires at once, and must not shorten a page.
        let store = if n % 5 == 4 { 1 } else { -1 };
        let Answer::Published(id) = node.ask(kept("room", event, &n.to_string(), store)) else {
            panic!("not published")
        };
        ids.push(id);
    }
    a.ask(Request::Publish(publish("room", "not kept")));
    let begun = Instant::now();
    while page(
        &mut a,
        History {
            after: Some(ids[2490]),
            ..history("room")
        },
    )
    .len()
        > 7
    {
        assert!(begun.elapsed() < PATIENCE, "they do not expire");
    }
    let wanted: Vec<_> = (0..2500)
        .filter(|n| n % 5 != 4)
        .map(|n| (ids[n], n.to_string()))
        .collect();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = page(
            &mut b,
            History {
                after,
                ..history("room")
            },
        );
        let Some((last, _)) = page.last() else { break };
        assert!(
            page.len() == 100 || found.len() + page.len() == wanted.len(),
            "R-HTTP-18"
        );
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found, wanted);
    let newest = page(
        &mut a,
        History {
            reverse: true,
            ..history("room")
        },
    );
    assert!(newest.iter().eq(wanted.iter().rev().take(100)));
    let older = page(
        &mut a,
        History {
            reverse: true,
            before: Some(newest[99].0),
            ..history("room")
        },
    );
    assert!(older.iter().eq(wanted.iter().rev().skip(100).take(100)));
    let rare = page(
        &mut a,
        History {
            event: Some("rare".into()),
            ..history("room")
        },
    );
    assert_eq!(
        rare.iter().map(|(_, text)| &**text).collect::<Vec<_>>(),
        ["3", "503", "1003", "1503", "2003"]
    );
    let since = i64::try_from(ids[1000].timestamp_ms()).expect("a time");
    let visible = page(
        &mut a,
        History {
            since_ms: since,
            after: Some(ids[3]),
            ..history("room")
        },
    );
    assert!(
        visible[0].0.timestamp_ms() >= ids[1000].timestamp_ms(),
        "R-HTTP-19"
    );
    let find = |message| Request::Find {
        channel: "room".into(),
        message,
    };
    assert!(matches!(a.ask(find(ids[3])), Answer::Found(Some(event)) if &*event == "rare"));
    assert!(matches!(a.ask(find(ids[4])), Answer::Found(None)));
    // Sweeping leaves nothing of what has expired.
    while redis.command(&["ZCARD", "rt:hx"]) != "0" {
        assert!(begun.elapsed() < PATIENCE, "nobody sweeps");
        a.turn();
    }
    assert_eq!(redis.command(&["HLEN", "rt:b:room"]), "2000");
}

/// R-HTTP-17
#[test]
fn a_page_of_history_ends_at_a_megabyte() {
    let redis = Redis::start();
    let mut node = Node::start(&redis.url());
    for _ in 0..60 {
        node.submit(kept("room", "chat", &"x".repeat(30_000), -1));
    }
    let first = page(&mut node, history("room"));
    assert_eq!(first.len(), 33);
    let rest = page(
        &mut node,
        History {
            after: first.last().map(|it| it.0),
            ..history("room")
        },
    );
    assert_eq!(rest.len(), 27);
}

/// R-REACT-4, R-REACT-8 to R-REACT-12, R-EVT-33, R-EVT-35
#[test]
fn reactions_are_seen_by_all_hosts_and_told_by_one() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.engine.tell(true);
    b.engine.tell(true);
    a.join("room", None);
    let Answer::Published(message) = a.ask(kept("room", "chat", "hello", -1)) else {
        panic!("not published")
    };
    let unkept = a.publish("room", "hello");
    let react = |message, uid: &str, add, request: &str| {
        let mut source = (*source()).clone();
        source.request_id = request.into();
        Request::React(Reacting {
            channel: "room".into(),
            message,
            reaction: "🎉".into(),
            add,
            uid: uid.into(),
            umd: Some(json("1")),
            except: None,
            emit: true,
            source: Arc::new(source),
        })
    };
    assert!(matches!(
        b.ask(react(unkept, "ana", true, "0")),
        Answer::NotFound
    ));
    for request in ["1", "2"] {
        assert!(matches!(
            b.ask(react(message, "ana", true, request)),
            Answer::Done
        ));
    }
    assert!(matches!(
        a.ask(react(message, "ben", true, "3")),
        Answer::Done
    ));
    let all = Request::Reactions {
        channel: "room".into(),
        message,
        since_ms: 0,
    };
    let Answer::Reactions(found) = a.ask(all.clone()) else {
        panic!("no reactions")
    };
    assert_eq!(
        found.iter().map(|it| &*it.uid).collect::<Vec<_>>(),
        ["ana", "ben"]
    );
    let Answer::Messages(stored) = b.ask(Request::History(history("room"))) else {
        panic!("no messages")
    };
    assert_eq!(stored[0].reactions, found);
    assert!(matches!(
        a.ask(react(message, "ana", false, "4")),
        Answer::Done
    ));
    assert!(matches!(
        a.ask(react(message, "ana", false, "5")),
        Answer::Done
    ));
    let Answer::Reactions(left) = b.ask(all) else {
        panic!("no reactions")
    };
    assert_eq!(left, found[1..]);
    a.barrier();
    let changes: Vec<_> = (a.seen.iter())
        .filter_map(|it| match it {
            Outcome::Reaction { reacting, .. } => Some((&*reacting.uid, reacting.add)),
            _ => None,
        })
        .collect();
    assert_eq!(changes, [("ana", true), ("ben", true), ("ana", false)]);
    let told = |node: &Node| -> Vec<(Ulid, bool, String)> {
        (node.seen.iter())
            .filter_map(|it| match it {
                Outcome::Tell(Happening::Reaction { id, reacting, .. }) => {
                    Some((*id, reacting.add, reacting.source.request_id.to_string()))
                }
                _ => None,
            })
            .collect()
    };
    b.barrier();
    assert_eq!(told(&b), [(found[0].id, true, "1".into())]);
    assert_eq!(
        told(&a),
        [
            (found[1].id, true, "3".into()),
            (found[0].id, false, "1".into())
        ]
    );
}

/// R-SCHED-10, R-SCHED-13, R-SCHED-17, R-SRV-16
#[test]
fn a_schedule_is_carried_out_once_and_in_time() {
    let redis = Redis::start();
    let mut nodes: Vec<_> = (0..3).map(|_| Node::start(&redis.url())).collect();
    for node in &mut nodes {
        node.engine.tell(true);
        node.join("room", None);
    }
    let at = Timestamp::now() + Duration::from_secs(3);
    let mut tickets = Vec::new();
    for n in 0..120 {
        let mut message = publish("room", &n.to_string());
        message.emit = true;
        message.source = Some(source());
        message.store = -1;
        message.deduplication_id = (n % 10 == 9).then(|| "copy".into());
        let request = Request::Schedule {
            at,
            deferred: Deferred::Publish(message),
            eager: n == 0,
        };
        tickets.push(nodes[n % 3].submit(request));
    }
    let mut schedules = Vec::new();
    let mut eager = None;
    for (n, ticket) in tickets.into_iter().enumerate() {
        let Answer::Scheduled { schedule, message } = nodes[n % 3].answer(ticket) else {
            panic!("not scheduled")
        };
        assert_eq!(message.is_some(), n == 0);
        eager = eager.or(message);
        schedules.push(schedule);
    }
    // One is looked at and taken back elsewhere; its copies were never planned.
    match nodes[2].ask(Request::Planned(schedules[1])) {
        Answer::Planned { at: when, deferred } => {
            assert_eq!(
                when.as_millisecond(),
                at.as_millisecond() + 1,
                "not before it"
            );
            assert_eq!(&**deferred.channel(), "room");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        nodes[2].ask(Request::Cancel(schedules[1])),
        Answer::Done
    ));
    assert!(matches!(
        nodes[0].ask(Request::Cancel(schedules[1])),
        Answer::NotFound
    ));
    let copies: Vec<_> = schedules.iter().skip(9).step_by(10).copied().collect();
    let planned = copies.into_iter().filter(|copy| {
        matches!(
            nodes[0].ask(Request::Planned(*copy)),
            Answer::Planned { .. }
        )
    });
    assert_eq!(planned.count(), 1, "whichever was the first");
    let seen: Vec<_> = nodes
        .iter_mut()
        .map(|node| node.messages("room", 108))
        .collect();
    let late = Timestamp::now().duration_since(at);
    assert!(late.as_millis() < 1000, "{late:?} late");
    for (id, _) in seen[0].iter().filter(|it| Some(it.0) != eager) {
        let delivered = i64::try_from(id.timestamp_ms()).expect("a time");
        assert!(delivered >= at.as_millisecond(), "R-SCHED-13");
    }
    nodes.iter_mut().for_each(Node::barrier);
    for (node, seen) in nodes.iter_mut().zip(&seen) {
        assert!(
            !node
                .seen
                .iter()
                .any(|it| matches!(it, Outcome::Message(..))),
            "once"
        );
        assert_eq!(seen.len(), 108);
        assert!(
            seen.iter()
                .any(|(id, text)| Some(*id) == eager && text == "\"0\"")
        );
    }
    let told = |node: &Node| {
        let published = |it: &&Outcome| matches!(it, Outcome::Tell(Happening::Published(..)));
        node.seen.iter().filter(published).count()
    };
    assert_eq!(nodes.iter().map(told).sum::<usize>(), 108, "R-EVT-36");
    assert_eq!(page(&mut nodes[0], history("room")).len(), 100, "R-HIST-11");
}

/// R-SCHED-18
#[test]
fn a_write_can_be_scheduled() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    b.join("game", None);
    let mut schedule = |seconds| {
        let scheduled = a.ask(Request::Schedule {
            at: Timestamp::now() + Duration::from_secs(seconds),
            deferred: Deferred::Write(write("game", "turn", Some("2"))),
            eager: false,
        });
        match scheduled {
            Answer::Scheduled { schedule, .. } => schedule,
            other => panic!("{other:?}"),
        }
    };
    schedule(1);
    let schedule = schedule(3600);
    match b.ask(Request::Planned(schedule)) {
        Answer::Planned { deferred, .. } => match *deferred {
            Deferred::Write(planned) => {
                assert_eq!(planned.value.as_ref().map(Json::as_str), Some("2"));
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    let value = b.wait_for("the write", |outcome| match outcome {
        Outcome::Storage { value, .. } => value.clone(),
        _ => None,
    });
    assert_eq!(value.as_str(), "2");
}

/// R-HTTP-11
#[test]
fn a_call_reaches_the_process_that_has_the_connection() {
    let redis = Redis::start();
    let mut a = Node::start(&redis.url());
    let connection = ConnectionId::random();
    let call = Request::Call {
        connection,
        call: b"who are you?".to_vec(),
    };
    assert!(
        matches!(a.ask(call.clone()), Answer::NotFound),
        "there is nobody else"
    );
    let mut b = Node::start(&redis.url());
    let ticket = a.submit(call.clone());
    let from: Caller = b.wait_for("the call", |outcome| match outcome {
        Outcome::Call {
            from,
            connection: to,
            call,
        } if *to == connection && call == b"who are you?" => Some(from.clone()),
        _ => None,
    });
    b.submit(Request::Return {
        to: from,
        answer: b"me".to_vec(),
    });
    match a.answer(ticket) {
        Answer::Called(answer) => assert_eq!(answer, b"me"),
        other => panic!("{other:?}"),
    }
    assert!(!a.seen.iter().any(|it| matches!(it, Outcome::Call { .. })));
    // Nobody answers: after a while there is no such connection.
    let begun = Instant::now();
    assert!(matches!(a.ask(call), Answer::NotFound));
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// R-DIFF-13
#[test]
fn a_dead_hosts_subscriptions_end() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let mut c = Node::start(&redis.url());
    b.engine.tell(true);
    c.engine.tell(true);
    b.join("presence.x", member("ben"));
    c.join("presence.x", member("cem"));
    for n in 0..250 {
        a.join("presence.x", member(&format!("dead{}", n % 50)));
    }
    b.join("presence.x", member("dead7"));
    b.barrier();
    b.seen.clear();
    c.barrier();
    c.seen.clear();
    assert_eq!(b.describe("presence.x").0, 253);
    // It says nothing when it goes.
    drop(a);
    let died = Instant::now();
    while b.describe("presence.x") != (3, vec!["ben".into(), "cem".into(), "dead7".into()]) {
        assert!(
            died.elapsed() < Duration::from_secs(15),
            "{:?}",
            b.describe("presence.x")
        );
        b.turn();
        c.turn();
    }
    for node in [&mut b, &mut c] {
        let gone: Vec<_> = (0..49).map(|_| node.change("presence.x").0).collect();
        let mut wanted: Vec<_> = (0..50)
            .filter(|n| *n != 7)
            .map(|n| format!("-dead{n}"))
            .collect();
        wanted.sort();
        let mut sorted = gone.clone();
        sorted.sort();
        assert_eq!(sorted, wanted, "each exactly once");
        node.barrier();
        assert_eq!(node.changes("presence.x"), Vec::<String>::new());
    }
    let told = |node: &Node, removed: bool| {
        let told = |it: &&Outcome| match it {
            Outcome::Tell(Happening::Member {
                change: Change::Removed(_),
                ..
            }) => removed,
            Outcome::Tell(Happening::Channel {
                subscriptions: 3, ..
            }) => !removed,
            _ => false,
        };
        node.seen.iter().filter(told).count()
    };
    assert_eq!(told(&b, true) + told(&c, true), 49);
    assert!(told(&b, false) + told(&c, false) >= 1);
}

/// R-OPS-2: connections that break in mid-traffic lose nothing, double nothing and swap nothing.
#[test]
fn a_cut_connection_loses_and_doubles_nothing() {
    let redis = Redis::start();
    let proxies: Vec<_> = (0..2).map(|_| Proxy::before(&redis)).collect();
    let mut nodes: Vec<_> = proxies
        .iter()
        .map(|proxy| Node::start(&proxy.url()))
        .collect();
    for node in &mut nodes {
        node.join("room", None);
        node.join("presence.x", member("ana"));
    }
    let mut tickets = vec![Vec::new(), Vec::new()];
    for round in 0..40 {
        for (at, node) in nodes.iter_mut().enumerate() {
            for n in 0..25 {
                let text = format!("{at} {}", round * 25 + n);
                tickets[at].push(node.submit(Request::Publish(publish("room", &text))));
            }
        }
        if round % 4 == 3 {
            // Of breaks that follow each other too soon all together count: then nobody waits any longer.
            nodes[round / 4 % 2].wait_until_well();
            proxies[round / 4 % 2].cut();
        }
        nodes.iter_mut().for_each(Node::turn);
    }
    let mut ids = Vec::new();
    for (node, tickets) in nodes.iter_mut().zip(&tickets) {
        for ticket in tickets {
            match node.answer(*ticket) {
                Answer::Published(id) => ids.push(id),
                other => panic!("the breaks are short: {other:?}"),
            }
        }
    }
    let seen: Vec<_> = nodes
        .iter_mut()
        .map(|node| node.messages("room", 2000))
        .collect();
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].len(), 2000);
    assert!(seen[0].is_sorted_by(|one, other| one.0 < other.0));
    for at in 0..2 {
        let own: Vec<_> = seen[0]
            .iter()
            .filter(|it| it.1.starts_with(&format!("\"{at} ")))
            .collect();
        let wanted: Vec<_> = (0..1000).map(|n| format!("\"{at} {n}\"")).collect();
        assert!(own.iter().map(|it| &it.1).eq(&wanted), "R-DLV-7");
    }
    ids.sort_unstable();
    assert!(
        ids.iter().eq(seen[0].iter().map(|(id, _)| id)),
        "each answered under its own"
    );
    for node in &mut nodes {
        node.barrier();
        assert!(
            !node
                .seen
                .iter()
                .any(|it| matches!(it, Outcome::Message(..)))
        );
        assert_eq!(node.describe("presence.x"), (2, vec!["ana".into()]));
    }
}

/// R-OPS-2, R-PRES-20, R-SUB-17: joins and leaves that were on their way when the connection broke happen once.
#[test]
fn joins_and_leaves_survive_cuts_exactly_once() {
    let redis = Redis::start();
    let proxy = Proxy::before(&redis);
    let mut watcher = Node::start(&redis.url());
    watcher.join("presence.x", member("watcher"));
    let mut node = Node::start(&proxy.url());
    let mut staying = 1;
    for round in 0..60 {
        let connections: Vec<_> = (0..10).map(|_| ConnectionId::random()).collect();
        let tickets: Vec<_> = (connections.iter().enumerate())
            .map(|(n, connection)| {
                let uid = format!("u{round}.{n}");
                node.submit(join("presence.x", *connection, member(&uid)))
            })
            .collect();
        if round % 2 == 0 {
            node.engine.turn(Now::read());
            proxy.cut();
        }
        for ticket in tickets {
            assert!(matches!(node.answer(ticket), Answer::Joined { .. }));
        }
        for (n, connection) in connections.into_iter().enumerate() {
            if n == 0 {
                staying += 1;
                continue;
            }
            let uid = format!("u{round}.{n}");
            node.submit(leave("presence.x", connection, Some(&uid)));
            if round % 3 == 0 && n == 5 {
                proxy.cut();
            }
        }
    }
    let begun = Instant::now();
    while watcher.describe("presence.x").0 != staying {
        assert!(
            begun.elapsed() < PATIENCE,
            "{:?}",
            watcher.describe("presence.x").0
        );
        node.turn();
    }
    let (_, members) = watcher.describe("presence.x");
    assert_eq!(members.len() as u64, staying);
    // Followed change by change, the list is what it is.
    watcher.barrier();
    let mut followed = Vec::new();
    for change in watcher.changes("presence.x") {
        let (sign, uid) = change.split_at(1);
        match sign {
            "+" => followed.push(uid.to_owned()),
            "-" => followed.retain(|it| it != uid),
            _ => panic!("{change}"),
        }
    }
    followed.sort();
    let mut members = members;
    members.sort();
    assert_eq!(followed, members);
}

/// R-OPS-2, R-CLAIM-26: what was done, and whose answer was lost, is answered later and not done again.
#[test]
fn what_was_done_before_a_break_is_not_done_again() {
    let redis = Redis::start();
    let proxy = Proxy::before(&redis);
    let (mut a, mut b) = (Node::start(&proxy.url()), Node::start(&redis.url()));
    b.join("presence.x", member("ben"));
    let room = a.join("room", None);
    let Answer::Published(message) = a.ask(kept("room", "chat", "hello", -1)) else {
        panic!("not published")
    };
    b.ask(Request::Write(write("presence.x", "k", Some("1"))));
    b.barrier();
    b.seen.clear();
    a.seen.clear();
    proxy.set_deaf(true);
    let published = a.submit(Request::Publish(publish("presence.x", "once")));
    let joined = a.submit(join("presence.x", ConnectionId::random(), member("ana")));
    let observing = a.submit(Request::Join {
        channel: "presence.x".into(),
        connection: ConnectionId::random(),
        member: member("cem"),
        counted: true,
        observe: Some(Keys::all()),
        spend: Some(token("spent by this")),
    });
    let spent = a.submit(Request::Spend(token("t")));
    let reacted = a.submit(Request::React(Reacting {
        channel: "room".into(),
        message,
        reaction: "x".into(),
        add: true,
        uid: "ana".into(),
        umd: None,
        except: None,
        emit: false,
        source: source(),
    }));
    let scheduled = a.submit(Request::Schedule {
        at: Timestamp::now() + Duration::from_secs(3600),
        deferred: Deferred::Publish(publish("room", "later")),
        eager: true,
    });
    a.submit(leave("room", room, None));
    let read = a.submit(Request::Describe {
        channel: "room".into(),
    });
    // All of it is done, and nobody has heard of it.
    let begun = Instant::now();
    while redis.command(&["ZCARD", "rt:z"]) != "1" || b.describe("room").0 != 0 {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(a.seen.is_empty(), "{:?}", a.seen);
    let id = b.messages("presence.x", 1)[0].0;
    proxy.set_deaf(false);
    proxy.cut();
    assert!(matches!(a.answer(published), Answer::Published(it) if it == id));
    match a.answer(joined) {
        Answer::Joined { members, .. } => {
            assert_eq!(names(&members.expect("a list")), ["ben", "ana", "cem"]);
        }
        other => panic!("{other:?}"),
    }
    match a.answer(observing) {
        Answer::Joined { members, observed } => {
            assert_eq!(names(&members.expect("a list")), ["ben", "ana", "cem"]);
            assert_eq!(observed.len(), 1, "R-STOR-25");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(a.answer(spent), Answer::Done));
    assert!(matches!(a.answer(reacted), Answer::Done));
    let Answer::Scheduled {
        schedule,
        message: Some(_),
    } = a.answer(scheduled)
    else {
        panic!("not scheduled")
    };
    assert!(matches!(
        a.answer(read),
        Answer::Described {
            subscriptions: 0,
            ..
        }
    ));
    assert!(matches!(
        b.ask(Request::Planned(schedule)),
        Answer::Planned { .. }
    ));
    assert_eq!(redis.command(&["ZCARD", "rt:z"]), "1");
    assert!(matches!(b.ask(Request::Check(token("t"))), Answer::Spent));
    let begun = Instant::now();
    while b.describe("presence.x").0 != 3 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", b.describe("presence.x"));
    }
    b.barrier();
    assert_eq!(b.changes("presence.x"), ["+ana", "+cem"]);
    assert!(!b.seen.iter().any(|it| matches!(it, Outcome::Message(..))));
}

/// R-OPS-2: a subscription that was refused, but had begun before the break, ends as soon as that is known.
#[test]
fn what_was_refused_after_the_grace_does_not_stay() {
    let redis = Redis::start();
    let proxy = Proxy::before(&redis);
    let (mut a, mut b) = (Node::start(&proxy.url()), Node::start(&redis.url()));
    b.join("presence.x", member("ben"));
    b.barrier();
    b.seen.clear();
    proxy.set_deaf(true);
    let joined = a.submit(join("presence.x", ConnectionId::random(), member("ana")));
    assert_eq!(b.change("presence.x").0, "+ana");
    proxy.set_open(false);
    assert!(matches!(a.answer(joined), Answer::Unavailable(_)));
    proxy.set_deaf(false);
    proxy.set_open(true);
    assert_eq!(b.change("presence.x").0, "-ana");
    assert_eq!(b.describe("presence.x"), (1, vec!["ben".into()]));
    a.wait_until_well();
    assert!(a.engine.settle(Now::read(), PATIENCE));
}

/// R-OPS-2: while Redis is away connections stay and requests are refused; when it is back, so is everything.
#[test]
fn everything_heals_after_redis_was_away() {
    let mut redis = Redis::durable();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let ana = a.join("presence.x", member("ana"));
    a.join("presence.x", member("stays"));
    b.join("presence.x", member("ben"));
    b.barrier();
    a.barrier();
    a.seen.clear();
    b.seen.clear();
    redis.kill();
    let begun = Instant::now();
    assert!(matches!(
        a.ask(Request::Publish(publish("presence.x", "lost"))),
        Answer::Unavailable(_)
    ));
    assert!(begun.elapsed() < Duration::from_secs(4), "a short grace");
    let begun = Instant::now();
    let call = Request::Call {
        connection: ana,
        call: Vec::new(),
    };
    for request in [
        Request::Publish(publish("presence.x", "lost")),
        Request::Check(token("t")),
        call,
    ] {
        assert!(matches!(a.ask(request), Answer::Unavailable(_)));
    }
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "refused at once"
    );
    assert!(matches!(a.engine.health(), Health::Ill(why) if why.contains("out of reach")));
    // What ends meanwhile is not forgotten, and does not keep anybody waiting.
    a.submit(leave("presence.x", ana, Some("ana")));
    assert!(a.engine.settle(Now::read(), Duration::from_secs(5)));
    redis.launch();
    a.wait_until_well();
    b.wait_until_well();
    assert_eq!(
        b.change("presence.x"),
        ("-ana".into(), vec!["stays".into(), "ben".into()])
    );
    a.publish("presence.x", "healed");
    assert_eq!(b.messages("presence.x", 1)[0].1, "\"healed\"");
    assert_eq!(
        b.describe("presence.x"),
        (2, vec!["stays".into(), "ben".into()])
    );
    assert_eq!(a.changes("presence.x"), ["-ana"]);
    assert_eq!(b.changes("presence.x"), Vec::<String>::new());
}

/// R-OPS-2: even if Redis has lost everything, each host says again what it holds.
#[test]
fn a_redis_without_memory_learns_again_who_is_there() {
    let mut redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.join("presence.x", member("ana"));
    a.join("presence.x", member_with("cem", "1"));
    b.join("presence.x", member("ben"));
    a.barrier();
    b.barrier();
    a.seen.clear();
    b.seen.clear();
    redis.kill();
    // Both have noticed.
    a.wait_until_ill();
    b.wait_until_ill();
    redis.launch();
    a.wait_until_well();
    b.wait_until_well();
    let begun = Instant::now();
    while a.describe("presence.x").0 != 3 {
        assert!(begun.elapsed() < PATIENCE);
        b.turn();
    }
    let id = a.publish("presence.x", "again");
    assert_eq!(b.messages("presence.x", 1)[0].0, id);
    // Nobody has seen anybody leave or come, also once the doubt is over.
    let over = Instant::now() + Duration::from_secs(6);
    while Instant::now() < over {
        a.turn();
        b.turn();
    }
    assert_eq!(a.changes("presence.x"), Vec::<String>::new());
    assert_eq!(b.changes("presence.x"), Vec::<String>::new());
    let mut members = b.describe("presence.x").1;
    members.sort();
    assert_eq!(members, ["ana", "ben", "cem"]);
}

/// A host that was cut off for so long that it was taken for dead says again what it holds.
#[test]
fn a_host_that_was_taken_for_dead_comes_back() {
    let redis = Redis::start();
    let proxy = Proxy::before(&redis);
    let (mut a, mut b) = (Node::start(&proxy.url()), Node::start(&redis.url()));
    let ana = a.join("presence.x", member("ana"));
    b.join("presence.x", member("ben"));
    b.barrier();
    b.seen.clear();
    proxy.set_open(false);
    assert_eq!(b.change("presence.x"), ("-ana".into(), vec!["ben".into()]));
    assert_eq!(b.describe("presence.x").0, 1);
    let id = b.publish("presence.x", "meanwhile");
    proxy.set_open(true);
    assert_eq!(
        b.change("presence.x"),
        ("+ana".into(), vec!["ben".into(), "ana".into()])
    );
    assert_eq!(
        a.messages("presence.x", 1)[0].0,
        id,
        "what is kept of the channel is read"
    );
    assert_eq!(a.describe("presence.x").0, 2);
    a.submit(leave("presence.x", ana, Some("ana")));
    assert_eq!(b.change("presence.x"), ("-ana".into(), vec!["ben".into()]));
    assert_eq!(b.describe("presence.x").0, 1);
    let leases = redis.command(&["ZCARD", "rt:leases"]);
    assert_eq!(leases, "2", "one name for each host");
}

/// R-OPS-1: a process hands its part over to the next one under traffic, and nobody sees anything.
#[test]
fn a_host_is_handed_over_under_traffic() {
    let redis = Redis::start();
    let mut a = Node::start(&redis.url());
    let mut b = Node::start(&redis.url());
    let ana = a.join("presence.x", member("ana"));
    let gone = a.join("presence.x", member("gone"));
    let room = a.join("room", None);
    b.join("presence.x", member("ben"));
    b.join("room", None);
    a.barrier();
    b.barrier();
    a.seen.clear();
    b.seen.clear();
    let mut sent = 0;
    let mut send = |node: &mut Node, count: usize| {
        for _ in 0..count {
            node.submit(Request::Publish(publish("room", &sent.to_string())));
            sent += 1;
        }
    };
    send(&mut b, 300);
    for round in 0..6 {
        send(&mut b, 50);
        // The messages come while nobody is there to take them, and after.
        let mut subscriptions = vec![("presence.x", ana, member("ana")), ("room", room, None)];
        if round == 0 {
            // The connection of one did not make it.
            assert_ne!(gone, ana);
        }
        subscriptions.rotate_left(round % 2);
        a = a.hand_over(&redis.url(), &subscriptions);
        send(&mut b, 50);
        a.wait_until_well();
    }
    let seen = a.messages("room", 900);
    let wanted: Vec<_> = (0..900).map(|n| format!("\"{n}\"")).collect();
    assert!(seen.iter().map(|it| &it.1).eq(&wanted), "{seen:?}");
    assert!(seen.is_sorted_by(|one, other| one.0 < other.0));
    a.barrier();
    b.barrier();
    assert!(!a.seen.iter().any(|it| matches!(it, Outcome::Message(..))));
    assert_eq!(
        b.changes("presence.x"),
        ["-gone"],
        "nobody else has left or come"
    );
    assert_eq!(a.changes("presence.x"), ["-gone"]);
    assert_eq!(
        b.describe("presence.x"),
        (2, vec!["ana".into(), "ben".into()])
    );
    assert_eq!(b.describe("room").0, 2);
    assert_eq!(
        redis.command(&["ZCARD", "rt:leases"]),
        "2",
        "the node stays the same one"
    );
    a.submit(leave("room", room, None));
    a.submit(leave("presence.x", ana, Some("ana")));
    assert_eq!(b.change("presence.x").0, "-gone");
    assert_eq!(b.change("presence.x").0, "-ana");
    assert_eq!(b.describe("room").0, 1);
}

/// R-OPS-1, R-OPS-2: also while Redis is away, and whatever ended meanwhile.
#[test]
fn a_host_is_handed_over_while_redis_is_away() {
    let mut redis = Redis::durable();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    let ana = a.join("presence.x", member("ana"));
    let cem = a.join("presence.x", member_with("cem", "1"));
    b.join("presence.x", member("ben"));
    b.barrier();
    b.seen.clear();
    redis.kill();
    assert!(matches!(
        a.ask(Request::Publish(publish("room", "lost"))),
        Answer::Unavailable(_)
    ));
    a.submit(leave("presence.x", ana, Some("ana")));
    let subscriptions = [("presence.x", cem, member_with("cem", "1"))];
    let mut a = a.hand_over(&redis.url(), &subscriptions);
    redis.launch();
    a.wait_until_well();
    b.wait_until_well();
    assert_eq!(b.change("presence.x").0, "-ana");
    let begun = Instant::now();
    while b.describe("presence.x").0 != 2 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", b.describe("presence.x"));
        a.turn();
    }
    assert_eq!(b.changes("presence.x"), Vec::<String>::new());
}

/// A process that died in the middle of a handover has said nothing; its successor starts from the connections it got.
#[test]
fn a_successor_of_a_dead_process_starts_from_its_connections() {
    let redis = Redis::start();
    let mut a = Node::start(&redis.url());
    let mut b = Node::start(&redis.url());
    let ana = a.join("presence.x", member("ana"));
    a.join("presence.x", member("gone"));
    b.join("presence.x", member("ben"));
    b.barrier();
    b.seen.clear();
    drop(a);
    let now = Now::read();
    let mut successor = Node::open(&redis.url());
    successor
        .engine
        .import(now, realtime::engine::EngineState::default());
    let uid: Arc<str> = "ana".into();
    successor
        .engine
        .adopt(&"presence.x".into(), ana, Some(uid), None, true);
    successor.engine.adopted(now);
    successor.wait_until_well();
    assert_eq!(
        b.change("presence.x"),
        ("-gone".into(), vec!["ana".into(), "ben".into()])
    );
    assert_eq!(b.describe("presence.x").0, 2);
    assert_eq!(b.changes("presence.x"), Vec::<String>::new());
    assert_eq!(successor.change("presence.x").0, "-gone");
}

/// A handover that is called off: the process goes on where it stood.
#[test]
fn a_handover_that_is_called_off_changes_nothing() {
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.join("room", None);
    b.publish("room", "1");
    let now = Now::read();
    assert!(a.engine.settle(now, Duration::from_secs(5)));
    let state = a.engine.export(now);
    drop(state);
    for n in 2..50 {
        b.publish("room", &n.to_string());
    }
    let seen = a.messages("room", 49);
    let wanted: Vec<_> = (1..50).map(|n| format!("\"{n}\"")).collect();
    assert!(seen.iter().map(|it| &it.1).eq(&wanted));
}

#[test]
fn what_can_not_work_is_said_at_the_start() {
    let refused = |url: &str| {
        let mut node = Node::open(url);
        let error = node
            .engine
            .begin(Now::read())
            .expect_err("it can't be used");
        format!("{error:#}")
    };
    let redis = Redis::with(&["--cluster-enabled", "yes"]);
    let why = refused(&redis.url());
    assert!(why.contains("cluster mode"), "{why}");
    let redis = Redis::with(&["--requirepass", "a-secret"]);
    let why = refused(&redis.url());
    assert!(why.contains("NOAUTH"), "{why}");
    let why = refused(&format!("redis://:another-secret@127.0.0.1:{}", redis.port));
    assert!(
        why.contains("WRONGPASS") && !why.contains("secret"),
        "{why}"
    );
    let mut node = Node::start(&format!("redis://:a-secret@127.0.0.1:{}/3", redis.port));
    node.publish("room", "hello");
    let redis = Redis::start();
    redis.command(&["SET", "rt:format", "2"]);
    let why = refused(&redis.url());
    assert!(why.contains("format 2"), "{why}");
    // Who is not there yet may come: the start does not depend on it.
    let mut node = Node::start("redis://127.0.0.1:1");
    assert!(matches!(node.engine.health(), Health::Ill(_)));
    assert!(matches!(
        node.ask(Request::Publish(publish("room", "x"))),
        Answer::Unavailable(_)
    ));
}

/// `docs/realtime.md` says what a user of Redis's access control must be allowed.
#[test]
fn a_user_needs_no_more_than_the_documents_say() {
    let redis = Redis::start();
    let rules = "+@read +@write +@scripting +@pubsub +@connection +info +time ~rt:* &rt:*";
    let document = include_str!("../../docs/realtime.md");
    assert!(document.contains(rules));
    let mut user = vec!["ACL", "SETUSER", "app", "on", ">sesame"];
    user.extend(rules.split(' '));
    assert_eq!(redis.command(&user), "OK");
    let url = format!("redis://app:sesame@127.0.0.1:{}", redis.port);
    let (mut a, mut b) = (Node::start(&url), Node::start(&url));
    a.join("presence.x", member("ana"));
    b.join("presence.x", member("ben"));
    let Answer::Published(id) = b.ask(kept("presence.x", "chat", "hello", 60)) else {
        panic!("not published")
    };
    assert_eq!(a.messages("presence.x", 1)[0].0, id);
    assert_eq!(page(&mut a, history("presence.x")).len(), 1);
    a.ask(Request::Write(write("game", "turn", Some("1"))));
    let scheduled = a.ask(Request::Schedule {
        at: Timestamp::now(),
        deferred: Deferred::Publish(publish("presence.x", "later")),
        eager: false,
    });
    assert!(matches!(scheduled, Answer::Scheduled { .. }));
    assert_eq!(b.messages("presence.x", 2)[1].1, "\"later\"");
    assert_eq!(a.engine.health(), Health::Well);
}

#[test]
fn redis_is_reached_over_tls_and_over_a_socket() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    redis::certificate(dir.path());
    let file = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (port, socket) = (redis::free_port().to_string(), file("redis.sock"));
    let _redis = Redis::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file("tls.crt"),
        "--tls-key-file",
        &file("tls.key"),
        "--tls-ca-cert-file",
        &file("tls.crt"),
        "--tls-auth-clients",
        "no",
        "--unixsocket",
        &socket,
    ]);
    let trusted = dir.path().join("tls.crt");
    let url = format!("rediss://localhost:{port}");
    let mut secure =
        Node::open_with(Installation::new(&url, "rt", Some(&trusted)).expect("it is good"));
    secure.engine.begin(Now::read()).expect("it can be used");
    secure.wait_until_well();
    let mut local = Node::start(&format!("redis+unix://{socket}"));
    secure.join("room", None);
    let large = "x".repeat(200_000);
    for _ in 0..20 {
        local.publish("room", &large);
    }
    assert_eq!(secure.messages("room", 20).len(), 20);
    // Whom nobody vouches for is not spoken to.
    let untrusted = Installation::new(&url, "rt", None).expect("it is good");
    let mut node = Node::open_with(untrusted);
    node.engine.begin(Now::read()).expect("it may get better");
    assert!(matches!(node.engine.health(), Health::Ill(why) if why.contains("certificate")));
}

/// Two installations in one Redis know nothing of each other.
#[test]
fn a_prefix_keeps_installations_apart() {
    let redis = Redis::start();
    let mut nodes: Vec<_> = ["one", "other"]
        .into_iter()
        .map(|prefix| {
            let installation = Installation::new(&redis.url(), prefix, None).expect("it is good");
            let mut node = Node::open_with(installation);
            node.engine.begin(Now::read()).expect("it can be used");
            node.join("presence.x", member(prefix));
            node
        })
        .collect();
    nodes[0].publish("presence.x", "hello");
    for node in &mut nodes {
        node.barrier();
    }
    assert_eq!(nodes[0].messages("presence.x", 1).len(), 1);
    assert_eq!(nodes[1].describe("presence.x"), (1, vec!["other".into()]));
    assert!(
        !nodes[1]
            .seen
            .iter()
            .any(|it| matches!(it, Outcome::Message(..)))
    );
    let own = |key: &String| key.starts_with("one:") || key.starts_with("other:");
    assert!(redis.keys().iter().all(own));
}

/// How many messages a second one Redis carries from one host to another: as `latency_between_two_hosts`, `throughput`.
#[test]
#[ignore = "a measurement, for a machine that has nothing else to do"]
fn throughput_between_two_hosts() {
    const MESSAGES: usize = 200_000;
    let redis = Redis::start();
    let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
    a.join("room", None);
    let begun = Instant::now();
    let sender = std::thread::spawn(move || {
        let (mut sent, mut answered) = (0, 0);
        while answered < MESSAGES {
            while sent < MESSAGES && sent < answered + 2000 {
                b.submit(Request::Publish(publish(
                    "room",
                    "a message of some forty characters",
                )));
                sent += 1;
            }
            b.turn();
            answered += b
                .seen
                .drain(..)
                .filter(|it| matches!(it, Outcome::Answer(..)))
                .count();
        }
    });
    let mut seen = 0;
    while seen < MESSAGES {
        a.turn();
        seen += a
            .seen
            .drain(..)
            .filter(|it| matches!(it, Outcome::Message(..)))
            .count();
    }
    sender.join().expect("no panic");
    let took = begun.elapsed().as_secs_f64();
    println!("{:.0} messages/s", MESSAGES as f64 / took);
}

/// How long a message takes from one host to a subscriber of another: `cargo test --release -p realtime --test cluster --
/// --ignored --nocapture latency`.
#[test]
#[ignore = "a measurement, for a machine that has nothing else to do"]
fn latency_between_two_hosts() {
    const MESSAGES: usize = 20_000;
    for per_second in [500, 2000, 8000] {
        let redis = Redis::start();
        let (mut a, mut b) = (Node::start(&redis.url()), Node::start(&redis.url()));
        a.join("room", None);
        let base = Instant::now();
        let sender = std::thread::spawn(move || {
            let pause = Duration::from_secs(1) / per_second;
            let mut next = Instant::now();
            for _ in 0..MESSAGES {
                next += pause;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let text = base.elapsed().as_nanos().to_string();
                b.submit(Request::Publish(publish("room", &text)));
                b.take();
            }
            b
        });
        let mut took = Vec::with_capacity(MESSAGES);
        while took.len() < MESSAGES {
            a.turn();
            let now = base.elapsed().as_nanos();
            for outcome in a.seen.drain(..) {
                if let Outcome::Message(_, message) = outcome {
                    let sent: u128 = message
                        .data
                        .as_str()
                        .trim_matches('"')
                        .parse()
                        .expect("a time");
                    took.push(now - sent);
                }
            }
        }
        sender.join().expect("no panic");
        took.sort_unstable();
        let at = |share: f64| took[(share * (MESSAGES - 1) as f64) as usize] as f64 / 1e6;
        println!(
            "{per_second} messages/s: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}
