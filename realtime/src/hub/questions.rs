//! What is asked over HTTP, by clients in the name of a connection and by backends: the history of a channel, reactions,
//! storage, counts and members, schedules.

use std::sync::Arc;

use http::StatusCode;
use tracing::error;
use ulid::Ulid;

use super::calls::unauthorized;
use super::subscribing::check_channel;
use super::{Asker, Client, Hub, Waiting};
use crate::api;
use crate::claims::Grants;
use crate::connection::{Connection, Subscription};
use crate::engine::{Answer, History, Keys, Request, Select};
use crate::names::{self, STORAGE_READ_KEYS};
use crate::outbox::Key;
use crate::presence;
use crate::protocol::{self, Browsing, Code, Failure, Listing};
use crate::time::Now;

/// What was asked, and so what the answer says.
#[derive(Debug)]
pub enum Question {
    /// Messages of a channel.
    Messages {
        /// The real name of the channel.
        channel: Arc<str>,
        /// With the users who reacted.
        expand: bool,
    },
    /// The reactions to a message.
    Reactions,
    /// Entries of storage.
    Entries,
    /// Count and members.
    Info {
        /// The real name of the channel.
        channel: Arc<str>,
        /// A backend reads another name for it (R-HTTP-51).
        backend: bool,
    },
    /// What is planned.
    Schedule(Ulid),
    /// Nothing: what was planned is taken back.
    Cancelled,
}

impl Hub {
    /// `listMessages` (R-HTTP-12 to R-HTTP-24).
    pub(super) fn list_messages(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        listing: &Listing<'_>,
    ) -> Result<(), Failure> {
        let (channel, since_ms) = self.window(key, &listing.channel)?;
        let history = History {
            channel: channel.clone(),
            since_ms,
            event: None,
            after: listing.after.filter(|_| !listing.reverse),
            before: listing.before.filter(|_| listing.reverse),
            reverse: listing.reverse,
        };
        let question = Question::Messages {
            channel,
            expand: listing.expand,
        };
        self.question(now, asker, Request::History(history), question);
        Ok(())
    }

    /// `listReactions` (R-HTTP-25 to R-HTTP-28).
    pub(super) fn list_reactions(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        called: &str,
        message: Ulid,
    ) -> Result<(), Failure> {
        let (channel, since_ms) = self.window(key, called)?;
        let request = Request::Reactions {
            channel,
            message,
            since_ms,
        };
        self.question(now, asker, request, Question::Reactions);
        Ok(())
    }

    /// `channelStorageList` (R-HTTP-41 to R-HTTP-45).
    pub(super) fn list_storage(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        browsing: &Browsing<'_>,
    ) -> Result<(), Failure> {
        let called = &*browsing.channel;
        let keys = browsing.keys.as_ref();
        let keys = keys.map(|keys| keys.iter().map(String::as_str));
        let select = select(keys, browsing.after.as_deref())
            .map_err(|failure| failure.in_channel(called))?;
        let (connection, channel, subscription) = self.view(key, called)?;
        let claims = connection.claims.clone();
        let token = subscription.and_then(|it| it.token.clone());
        let name = channel.clone();
        let permitted = Keys::such_that(move |key| {
            let grants = Grants {
                connect: &claims,
                subscription: token.as_deref(),
                channel: &name,
            };
            grants.storage(key).get
        });
        let request = Request::List {
            channel,
            select,
            permitted,
        };
        self.question(now, asker, request, Question::Entries);
        Ok(())
    }

    /// `getChannelInfo` (R-HTTP-46 to R-HTTP-51).
    pub(super) fn channel_info(
        &mut self,
        now: Now,
        asker: &Asker,
        key: Key,
        called: &str,
    ) -> Result<(), Failure> {
        let (connection, channel, subscription) = self.view(key, called)?;
        if !connection.grants(&channel, subscription).get_info() {
            return Err(Failure::from(Code::InfoPermissionDenied).in_channel(called));
        }
        let request = Request::Describe {
            channel: channel.clone(),
        };
        let backend = false;
        self.question(now, asker, request, Question::Info { channel, backend });
        Ok(())
    }

    /// A connection, the real name of a channel, and the connection's subscription to it if there is one.
    fn view(
        &self,
        key: Key,
        called: &str,
    ) -> Result<(&Connection, Arc<str>, Option<&Subscription>), Failure> {
        check_channel(called)?;
        let connection = self.connection(key).ok_or_else(unauthorized)?;
        let channel = self.real_name(connection, called);
        let at = self.channels.find(&channel);
        let subscription = at.and_then(|at| connection.subscription(at));
        Ok((connection, channel, subscription))
    }

    /// The real name of a channel to which a connection is subscribed, and from when on it may see what was stored there:
    /// from the start of its subscription, or earlier if its claims say so (R-HIST-4 to R-HIST-9).
    fn window(&self, key: Key, called: &str) -> Result<(Arc<str>, i64), Failure> {
        let (connection, channel, subscription) = self.view(key, called)?;
        let subscription =
            subscription.ok_or_else(|| Failure::from(Code::NotSubscribed).in_channel(called))?;
        let since = subscription.since.as_millisecond();
        let start = connection
            .grants(&channel, Some(subscription))
            .history_start_ms();
        Ok((channel, start.map_or(since, |start| start.min(since))))
    }

    /// A backend asks about a channel (R-SRV-26).
    pub(crate) fn describe(&mut self, now: Now, client: Client, channel: &str) {
        let channel: Arc<str> = channel.into();
        let request = Request::Describe {
            channel: channel.clone(),
        };
        let backend = true;
        self.ask_for_backend(now, client, request, Question::Info { channel, backend });
    }

    /// A backend reads messages, whenever they were stored (R-DIFF-21).
    pub(crate) fn history(&mut self, now: Now, client: Client, history: History) {
        let question = Question::Messages {
            channel: history.channel.clone(),
            expand: false,
        };
        self.ask_for_backend(now, client, Request::History(history), question);
    }

    /// A backend reads storage, whatever any claims say (R-SRV-30).
    pub(crate) fn storage(&mut self, now: Now, client: Client, channel: &str, select: Select) {
        let request = Request::List {
            channel: channel.into(),
            select,
            permitted: Keys::all(),
        };
        self.ask_for_backend(now, client, request, Question::Entries);
    }

    /// A backend asks what is planned (R-DIFF-10).
    pub(crate) fn planned(&mut self, now: Now, client: Client, schedule: Ulid) {
        let question = Question::Schedule(schedule);
        self.ask_for_backend(now, client, Request::Planned(schedule), question);
    }

    /// A backend takes back what is planned (R-DIFF-10).
    pub(crate) fn cancel(&mut self, now: Now, client: Client, schedule: Ulid) {
        self.ask_for_backend(now, client, Request::Cancel(schedule), Question::Cancelled);
    }

    fn ask_for_backend(&mut self, now: Now, client: Client, request: Request, question: Question) {
        self.question(now, &Asker::Request(client), request, question);
        self.pump(now);
    }

    fn question(&mut self, now: Now, asker: &Asker, request: Request, question: Question) {
        let waiting = Waiting::Question(asker.clone(), question);
        self.ask_for(now, asker, request, waiting);
    }

    pub(super) fn question_answered(
        &mut self,
        now: Now,
        asker: &Asker,
        question: &Question,
        answer: Answer,
    ) {
        match told(question, answer) {
            Ok(body) => self.answer_asker(now, asker, api::json(StatusCode::OK, body)),
            Err(failure) => self.refuse_asker(now, asker, &failure),
        }
    }
}

/// Which entries of storage are meant (R-HTTP-42 to R-HTTP-44, R-SRV-31). A key named twice is one.
pub(crate) fn select<'a>(
    keys: Option<impl Iterator<Item = &'a str>>,
    after: Option<&str>,
) -> Result<Select, Failure> {
    let Some(keys) = keys else {
        return Ok(Select::After(after.map(Into::into)));
    };
    // One more is enough to know that they are too many.
    let mut keys: Vec<Box<str>> = keys.take(STORAGE_READ_KEYS + 1).map(Into::into).collect();
    if keys.len() > STORAGE_READ_KEYS {
        return Err(Failure::because(
            Code::InvalidMessage,
            format!("keys names at most {STORAGE_READ_KEYS} keys"),
        ));
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(Select::Named(keys))
}

/// The body of the answer.
fn told(question: &Question, answer: Answer) -> Result<String, Failure> {
    Ok(match (question, answer) {
        (Question::Messages { channel, expand }, Answer::Messages(page)) => {
            protocol::messages(channel, &page, *expand)
        }
        (Question::Reactions, Answer::Reactions(reactions)) => protocol::reactions(&reactions),
        (Question::Entries, Answer::Entries(page)) => protocol::entries(&page),
        (
            Question::Info { channel, backend },
            Answer::Described {
                subscriptions,
                members,
            },
        ) => {
            let members = names::is_presence(channel).then_some(&*members);
            let members = members.map(presence::views);
            match backend {
                true => protocol::channel_info(channel, subscriptions, members.as_deref()),
                false => protocol::client_channel_info(channel, subscriptions, members.as_deref()),
            }
        }
        (Question::Schedule(id), Answer::Planned { at, deferred }) => {
            protocol::schedule(*id, at, &deferred)
        }
        (Question::Cancelled, Answer::Done) => "{}".into(),
        (Question::Reactions, Answer::NotFound) => return Err(Code::MessageNotFound.into()),
        (Question::Schedule(_) | Question::Cancelled, Answer::NotFound) => {
            return Err(no_schedule());
        }
        (_, Answer::Unavailable(sentence)) => return Err(Failure::unavailable(sentence)),
        (question, _) => {
            error!(
                ?question,
                "the engine answered something else than was asked"
            );
            return Err(Code::InternalError.into());
        }
    })
}

/// Nothing is planned under an identifier: it never was, or it was done or taken back.
pub(crate) fn no_schedule() -> Failure {
    Failure::because(
        Code::NotFound,
        "nothing is planned under this id; it may have been done or taken back",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-LIM-13, R-HTTP-42, R-HTTP-44, R-SRV-31
    #[test]
    fn at_most_a_hundred_keys_are_named_and_after_is_ignored_beside_them() {
        let keys: Vec<String> = (0..101).map(|number| format!("k{number}")).collect();
        let named =
            |count: usize| select(Some(keys[..count].iter().map(String::as_str)), Some("k"));
        assert!(matches!(named(100), Ok(Select::Named(keys)) if keys.len() == 100));
        assert_eq!(
            named(101).map_err(|failure| failure.code).err(),
            Some(Code::InvalidMessage)
        );
        let Ok(Select::Named(keys)) = select(Some(["b", "a", "b"].into_iter()), None) else {
            panic!("named keys");
        };
        assert_eq!(keys, [Box::from("a"), "b".into()]);
        let none = None::<std::iter::Empty<&str>>;
        assert!(matches!(select(none, Some("k")), Ok(Select::After(Some(key))) if &*key == "k"));
    }

    /// R-OPS-2
    #[test]
    fn what_the_engine_cannot_do_now_is_said_and_may_be_tried_again() {
        let questions = [
            Question::Reactions,
            Question::Entries,
            Question::Cancelled,
            Question::Schedule(Ulid::nil()),
        ];
        for question in questions {
            let failure = told(&question, Answer::Unavailable("away")).expect_err("a refusal");
            assert_eq!(
                (failure.http_status().as_u16(), &*failure.message),
                (503, "away")
            );
        }
    }
}
