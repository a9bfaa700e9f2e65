//! The client HTTP API: a *call* is one request in the name of a connection, which its id and its secret open (section 18
//! of the protocol).
//!
//! The connection may be in this process; then the call is carried out at once. Else the engine is asked, which passes it
//! to whichever process has the connection (R-HTTP-11); that one carries it out in the same way and returns the answer.
//! Nothing here touches the connection's deadlines: a call is no message of its WebSocket (R-HTTP-10).

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::{debug, error, warn};

use super::subscribing::check_channel;
use super::{Asker, Client, Hub, Via, Waiting};
use crate::api;
use crate::connection::{ConnectionId, Origin, Secret};
use crate::engine::{Answer, Caller, Request};
use crate::outbox::Key;
use crate::protocol::{self, Code, Failure};
use crate::time::Now;

/// What can be asked for: the last segment of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// A page of a channel's history.
    ListMessages,
    /// Who reacted to a message.
    ListReactions,
    /// Sends a message, or a reaction.
    PublishMessage,
    /// One entry of storage.
    ChannelStorageGet,
    /// Writes an entry of storage.
    ChannelStorageSet,
    /// A page of storage.
    ChannelStorageList,
    /// Count and members of a channel.
    GetChannelInfo,
    /// Changes metadata.
    UmdUpdate,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ListMessages,
        Self::ListReactions,
        Self::PublishMessage,
        Self::ChannelStorageGet,
        Self::ChannelStorageSet,
        Self::ChannelStorageList,
        Self::GetChannelInfo,
        Self::UmdUpdate,
    ];

    /// The endpoint of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Its name in the path, and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ListMessages => "listMessages",
            Self::ListReactions => "listReactions",
            Self::PublishMessage => "publishMessage",
            Self::ChannelStorageGet => "channelStorageGet",
            Self::ChannelStorageSet => "channelStorageSet",
            Self::ChannelStorageList => "channelStorageList",
            Self::GetChannelInfo => "getChannelInfo",
            Self::UmdUpdate => "umdUpdate",
        }
    }
}

/// One request of the client HTTP API. It has no [`std::fmt::Debug`]: its body may hold a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Call {
    /// What is asked for.
    pub endpoint: Endpoint,
    /// What only the connection and its server know.
    pub secret: Secret,
    /// JSON, not yet read.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// Where the request comes from, which need not be where the connection comes from.
    pub origin: Origin,
}

impl Hub {
    /// A client calls. What is wrong with it is said at once, if the connection is in this process.
    pub(crate) fn call(
        &mut self,
        now: Now,
        client: Client,
        connection: ConnectionId,
        call: &Call,
    ) -> Result<(), Failure> {
        let asker = Asker::Request(client);
        if let Some(&key) = self.by_id.get(&connection) {
            self.carry_out(now, &asker, key, call)?;
        } else {
            let call = postcard::to_allocvec(call).map_err(|why| {
                error!(%why, "a call can't be passed on");
                Failure::from(Code::InternalError)
            })?;
            let request = Request::Call { connection, call };
            self.ask_for(now, &asker, request, Waiting::Call(asker.clone()));
        }
        self.pump(now);
        Ok(())
    }

    /// Another process passes a call on. Only whoever has the connection has an answer.
    pub(super) fn called(&mut self, now: Now, from: Caller, connection: ConnectionId, call: &[u8]) {
        let Some(&key) = self.by_id.get(&connection) else {
            return;
        };
        let asker = Asker::Process(from);
        let done = match postcard::from_bytes(call) {
            Ok(call) => self.carry_out(now, &asker, key, &call),
            // Another version may know endpoints that this one does not.
            Err(why) => {
                error!(%why, "a call of another process can't be read");
                Err(Code::InternalError.into())
            }
        };
        if let Err(failure) = done {
            self.refuse_asker(now, &asker, &failure);
        }
    }

    /// Does what is called for, if the secret is right.
    fn carry_out(&mut self, now: Now, asker: &Asker, key: Key, call: &Call) -> Result<(), Failure> {
        let most = self.rules.limits.messages_per_second;
        let connection = self.connection_mut(key).ok_or_else(unauthorized)?;
        if !connection.secret.matches(call.secret.as_str()) {
            return Err(self.credentials_refused());
        }
        // What a connection may send in a second it may send by either way (R-DIFF-18).
        if most.is_some_and(|most| !connection.rate.allows(now.mono, most)) {
            return Err(Failure::because(
                Code::RateLimited,
                "this connection sends more messages in a second than it may",
            ));
        }
        debug!(
            connection = %connection.id.as_str(),
            endpoint = call.endpoint.name(),
            source_ip = call.origin.source_ip.map(tracing::field::display),
            payload = %crate::log::redact_message(&String::from_utf8_lossy(&call.body)),
            "called"
        );
        let body = &*call.body;
        match call.endpoint {
            Endpoint::ListMessages => {
                let listing = protocol::parse_listing(body)?;
                self.list_messages(now, asker, key, &listing)
            }
            Endpoint::ListReactions => {
                let (channel, message) = protocol::parse_target(body)?;
                self.list_reactions(now, asker, key, &channel, message)
            }
            Endpoint::ChannelStorageList => {
                let browsing = protocol::parse_browsing(body)?;
                self.list_storage(now, asker, key, &browsing)
            }
            Endpoint::GetChannelInfo => {
                let channel = protocol::parse_channel(body)?;
                self.channel_info(now, asker, key, &channel)
            }
            Endpoint::UmdUpdate => {
                let (channel, token) = protocol::parse_renewal(body)?;
                let channel = channel.as_deref();
                channel.map(check_channel).transpose()?;
                let token = token.as_deref().unwrap_or_default();
                self.renew_metadata(now, asker, key, channel, token)
            }
            Endpoint::PublishMessage => {
                let message = protocol::parse_body(body, None)?;
                self.client_publish(now, asker, key, &message, Via::Http(&call.origin))
            }
            Endpoint::ChannelStorageGet => {
                let message = protocol::parse_body(body, Some(protocol::STORAGE_GET))?;
                self.storage_get(now, asker, key, &message)
            }
            Endpoint::ChannelStorageSet => {
                let message = protocol::parse_body(body, Some(protocol::STORAGE_SET))?;
                self.storage_set(now, asker, key, &message, Via::Http(&call.origin))
            }
        }
    }

    /// Another process has carried a call out, or nobody has the connection.
    pub(super) fn call_answered(&mut self, now: Now, asker: &Asker, answer: &Answer) {
        let failure = match answer {
            Answer::Called(answer) => match response(answer) {
                Some(response) => return self.answer_asker(now, asker, response),
                None => {
                    error!("the answer of another process to a call can't be read");
                    Code::InternalError.into()
                }
            },
            Answer::NotFound => self.credentials_refused(),
            Answer::Unavailable(sentence) => Failure::unavailable(sentence),
            _ => Code::InternalError.into(),
        };
        self.refuse_asker(now, asker, &failure);
    }

    /// Notes that somebody does not have the credentials of a connection, and says so.
    pub(crate) fn credentials_refused(&self) -> Failure {
        self.metrics.auth_failed("connection_secret");
        warn!("a call was refused: the id or the secret of its connection is missing or wrong");
        unauthorized()
    }
}

/// What [`Hub::answer_asker`] has written for another process: a status and a body.
fn response(answer: &[u8]) -> Option<http::Response<Vec<u8>>> {
    let (status, body) = answer.split_first_chunk()?;
    let status = StatusCode::from_u16(u16::from_be_bytes(*status)).ok()?;
    Some(api::json(status, body))
}

/// No such connection, or not its secret; or it has ended. Which of them is not told (R-HTTP-3).
pub(crate) fn unauthorized() -> Failure {
    Failure::because(
        Code::Unauthorized,
        "connectionId and connectionSecret must be those of an open connection",
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use base64::Engine as _;
    use serde_json::json;

    use super::*;
    use crate::auth::{SigningKey, Verifier, mint_hs256};
    use crate::config::Settings;
    use crate::engine::{Outcome, Ticket};
    use crate::hub::Notice;
    use crate::hub::scripted::Script;
    use crate::metrics::Metrics;

    /// R-HTTP-11: what one process writes another one reads.
    #[test]
    fn a_call_and_its_answer_travel_between_processes() {
        let call = Call {
            endpoint: Endpoint::ListMessages,
            secret: Secret::parse("q7Rk2ZpV0sLm9TxYb4Hc").expect("a secret"),
            body: br#"{"channel":"a"}"#.to_vec(),
            origin: Origin {
                source_ip: Some([203, 0, 113, 9].into()),
                user_agent: Some("demo/1.0".into()),
            },
        };
        let bytes = postcard::to_allocvec(&call).expect("it can be written");
        let read: Call = postcard::from_bytes(&bytes).expect("it can be read");
        assert_eq!(
            (read.endpoint, read.body, read.origin),
            (call.endpoint, call.body, call.origin)
        );
        assert!(read.secret.matches("q7Rk2ZpV0sLm9TxYb4Hc"));

        let answer = response(b"\x01\x93{\"error\":{}}").expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.body(), b"{\"error\":{}}");
        for unreadable in [&b""[..], b"\x00", b"\x00\x01{}"] {
            assert!(response(unreadable).is_none());
        }
    }

    const SECRET: &[u8] = b"a secret for tests, of no use elsewhere";

    /// One process of an installation, and what it has passed to others.
    struct Node {
        hub: Hub,
        script: Script,
        passed: Vec<(Ticket, Request)>,
    }

    impl Node {
        fn new() -> Self {
            let key = base64::engine::general_purpose::STANDARD.encode(SECRET);
            let key = SigningKey::parse("HS256", "", &key).expect("a key");
            let verifier = Verifier::new(vec![key], None, None, Duration::ZERO);
            let metrics = Metrics::new(SystemTime::now(), "1.13");
            let script = Script::default();
            let engine = Box::new(script.clone());
            Self {
                hub: Hub::new(&Settings::default(), verifier, metrics, engine),
                script,
                passed: Vec::new(),
            }
        }

        /// A client connects; its name and secret.
        fn connect(&mut self) -> (ConnectionId, Secret) {
            self.hub.outboxes.open(0);
            let claims = json!({
                "exp": 4_000_000_000_u64, "scope": "connect", "channels": {"open": {"getInfo": true}},
            });
            let request = http::Request::get(format!("/v1?token={}", mint_hs256(SECRET, &claims)))
                .header("Host", "test")
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(Vec::new())
                .expect("a request");
            let client = Client { key: 0, serial: 1 };
            let refused = self
                .hub
                .upgrade(Now::read(), client, &request, Origin::default());
            assert!(refused.is_none());
            let connection = self.hub.connection(0).expect("it is open");
            (connection.id, connection.secret)
        }

        /// A client calls; what it is answered, if it is at once.
        fn call(&mut self, id: ConnectionId, call: &Call) -> Option<(u16, String)> {
            self.hub.notices.clear();
            let client = Client { key: 9, serial: 9 };
            match self.hub.call(Now::read(), client, id, call) {
                Ok(()) => self.heard(None),
                Err(failure) => Some(shown(api::failure(&failure))),
            }
        }

        /// Something has come from another process. What this one says to its own client, if anything.
        fn heard(&mut self, outcome: Option<Outcome>) -> Option<(u16, String)> {
            outcome.into_iter().for_each(|it| self.script.say(it));
            self.hub.pump(Now::read());
            while let Some((ticket, request)) = self.script.asked() {
                match request {
                    Request::Describe { .. } => {
                        let answer = Answer::Described {
                            subscriptions: 2,
                            members: Default::default(),
                        };
                        self.script.answer(ticket, answer);
                        self.hub.pump(Now::read());
                    }
                    other => self.passed.push((ticket, other)),
                }
            }
            match self.hub.notices.pop()? {
                Notice::Answered(_, response) => Some(shown(response)),
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    fn shown(response: http::Response<Vec<u8>>) -> (u16, String) {
        let status = response.status().as_u16();
        let body = String::from_utf8(response.into_body()).expect("text");
        (status, body)
    }

    /// R-HTTP-11, R-HTTP-3: whichever process is asked, the answer is the same, byte by byte.
    #[test]
    fn any_process_answers_a_call_for_a_connection_of_another() {
        let (mut asked, mut holder) = (Node::new(), Node::new());
        let (id, secret) = holder.connect();
        let call = |secret: Secret, body: &str| Call {
            endpoint: Endpoint::GetChannelInfo,
            secret,
            body: body.into(),
            origin: Origin::default(),
        };
        for (call, status) in [
            (call(secret, r#"{"channel":"open"}"#), 200),
            (call(secret, r#"{"channel":"closed"}"#), 403),
            (call(secret, "[]"), 400),
            (call(Secret::random(), r#"{"channel":"open"}"#), 401),
        ] {
            let direct = holder.call(id, &call).expect("an answer");
            assert_eq!(direct.0, status, "{}", direct.1);

            assert_eq!(asked.call(id, &call), None, "it must ask first");
            let Some((ticket, Request::Call { connection, call })) = asked.passed.pop() else {
                panic!("nobody was asked");
            };
            let from = Caller {
                node: "asked".into(),
                ticket,
            };
            let outcome = Outcome::Call {
                from: from.clone(),
                connection,
                call,
            };
            // Everybody hears it; whoever does not have the connection is silent.
            let mut other = Node::new();
            assert_eq!(other.heard(Some(outcome.clone())), None);
            assert!(other.passed.is_empty());
            assert_eq!(holder.heard(Some(outcome)), None);
            let Some((_, Request::Return { to, answer })) = holder.passed.pop() else {
                panic!("no answer");
            };
            assert_eq!(to, from);
            let answer = Outcome::Answer(ticket, Answer::Called(answer));
            assert_eq!(asked.heard(Some(answer)), Some(direct));
            assert!(asked.hub.waiting.is_empty() && holder.hub.waiting.is_empty());
        }

        // Nobody has it: as with a wrong secret.
        let wrong = holder.call(id, &call(Secret::random(), "{}"));
        asked.call(ConnectionId::random(), &call(secret, "{}"));
        let (ticket, _) = asked.passed.pop().expect("it asks");
        let nobody = Outcome::Answer(ticket, Answer::NotFound);
        assert_eq!(asked.heard(Some(nobody)), wrong);

        // What another version of this program has written is no reason to fall silent.
        let from = Caller {
            node: "asked".into(),
            ticket,
        };
        holder.heard(Some(Outcome::Call {
            from,
            connection: id,
            call: vec![200],
        }));
        let Some((_, Request::Return { answer, .. })) = holder.passed.pop() else {
            panic!("no answer");
        };
        assert_eq!(response(&answer).map(|it| it.status().as_u16()), Some(500));
    }

    #[test]
    fn every_endpoint_is_found_by_its_name_and_nothing_else_is() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of(endpoint.name()), Some(endpoint));
        }
        for name in ["", "listmessages", "listMessages/", "unknown"] {
            assert_eq!(Endpoint::of(name), None);
        }
    }
}
