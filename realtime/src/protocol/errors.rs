//! Every refusal: its code, its HTTP status and what it says by default (section 7 of the specification).

use std::borrow::Cow;

use ::http::StatusCode;

/// What machines read of a refusal. The first six are fixed by the official client, which acts on them (R-ERR-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A subscribe on a channel that this connection already has.
    AlreadySubscribed,
    /// The operation needs an active subscription.
    NotSubscribed,
    /// No subscribe grant, or an explicit false.
    SubscribePermissionDenied,
    /// The token in `hotsock.subscribe` is unusable.
    InvalidSubscribeToken,
    /// The member list would exceed its size limit.
    PresenceChannelCapacityReached,
    /// A presence subscribe without a uid.
    PresenceChannelUserIdRequired,
    /// Not JSON, of the wrong shape, or with a member of the wrong type.
    InvalidMessage,
    /// A channel name that is missing or malformed.
    InvalidChannel,
    /// An event name that is missing, malformed or reserved.
    InvalidEvent,
    /// A storage key that is missing or malformed.
    InvalidKey,
    /// `data` over its limit.
    DataTooLarge,
    /// No publish or broadcast grant.
    PublishPermissionDenied,
    /// A bad expression, time zone or past time.
    InvalidSchedule,
    /// Later than `scheduleBefore`.
    SchedulePermissionDenied,
    /// No `get` grant for the storage key.
    StorageGetPermissionDenied,
    /// No `set` grant for the storage key.
    StorageSetPermissionDenied,
    /// The token of a umd update is unusable.
    InvalidUmdToken,
    /// The `umdUpdate` directive or claim is missing.
    UmdUpdatePermissionDenied,
    /// The reaction is not among those granted.
    ReactionPermissionDenied,
    /// A reaction without a uid.
    ReactionUserIdRequired,
    /// A reaction value or action that is missing or malformed.
    InvalidReaction,
    /// The target message is absent, expired or not visible.
    MessageNotFound,
    /// No `getInfo` grant.
    InfoPermissionDenied,
    /// HTTP credentials are missing or wrong.
    Unauthorized,
    /// An unknown path.
    NotFound,
    /// A known path, but not by this method.
    MethodNotAllowed,
    /// A configured cap is hit.
    RateLimited,
    /// An unexpected failure of the server.
    InternalError,
}

impl Code {
    /// Every code, in the order of the specification.
    pub const ALL: [Code; 28] = {
        use Code::*;
        [
            AlreadySubscribed,
            NotSubscribed,
            SubscribePermissionDenied,
            InvalidSubscribeToken,
            PresenceChannelCapacityReached,
            PresenceChannelUserIdRequired,
            InvalidMessage,
            InvalidChannel,
            InvalidEvent,
            InvalidKey,
            DataTooLarge,
            PublishPermissionDenied,
            InvalidSchedule,
            SchedulePermissionDenied,
            StorageGetPermissionDenied,
            StorageSetPermissionDenied,
            InvalidUmdToken,
            UmdUpdatePermissionDenied,
            ReactionPermissionDenied,
            ReactionUserIdRequired,
            InvalidReaction,
            MessageNotFound,
            InfoPermissionDenied,
            Unauthorized,
            NotFound,
            MethodNotAllowed,
            RateLimited,
            InternalError,
        ]
    };

    /// As it stands in `error.code`.
    pub fn as_str(self) -> &'static str {
        self.entry().0
    }

    /// The status of an HTTP answer (R-ERR-10). Four codes that only a subscribe on the WebSocket can cause have no
    /// status in the specification; theirs is the nearest one.
    pub fn http_status(self) -> StatusCode {
        self.entry().1
    }

    /// What `error.message` says when nothing more exact is known (R-ERR-2).
    pub fn sentence(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Code::AlreadySubscribed => (
                "ALREADY_SUBSCRIBED",
                S::CONFLICT,
                "this connection is already subscribed to the channel",
            ),
            Code::NotSubscribed => (
                "NOT_SUBSCRIBED",
                S::FORBIDDEN,
                "this needs an active subscription to the channel",
            ),
            Code::SubscribePermissionDenied => (
                "SUBSCRIBE_PERMISSION_DENIED",
                S::FORBIDDEN,
                "subscribe is not permitted on this channel",
            ),
            Code::InvalidSubscribeToken => (
                "INVALID_SUBSCRIBE_TOKEN",
                S::UNAUTHORIZED,
                "the subscribe token cannot be used here",
            ),
            Code::PresenceChannelCapacityReached => (
                "PRESENCE_CHANNEL_CAPACITY_REACHED",
                S::FORBIDDEN,
                "the channel has no room for more members",
            ),
            Code::PresenceChannelUserIdRequired => (
                "PRESENCE_CHANNEL_USER_ID_REQUIRED",
                S::FORBIDDEN,
                "a presence channel needs a token with a uid",
            ),
            Code::InvalidMessage => (
                "INVALID_MESSAGE",
                S::BAD_REQUEST,
                "the message is not a JSON object of the right shape",
            ),
            Code::InvalidChannel => (
                "INVALID_CHANNEL",
                S::BAD_REQUEST,
                "channel is missing or not a valid channel name",
            ),
            Code::InvalidEvent => (
                "INVALID_EVENT",
                S::BAD_REQUEST,
                "event is missing or not a valid event name",
            ),
            Code::InvalidKey => (
                "INVALID_KEY",
                S::BAD_REQUEST,
                "key is missing or not a valid storage key",
            ),
            Code::DataTooLarge => ("DATA_TOO_LARGE", S::PAYLOAD_TOO_LARGE, "data is too large"),
            Code::PublishPermissionDenied => (
                "PUBLISH_PERMISSION_DENIED",
                S::FORBIDDEN,
                "publish is not permitted for this event on this channel",
            ),
            Code::InvalidSchedule => (
                "INVALID_SCHEDULE",
                S::BAD_REQUEST,
                "the schedule is not at(yyyy-mm-ddThh:mm:ss) in the future",
            ),
            Code::SchedulePermissionDenied => (
                "SCHEDULE_PERMISSION_DENIED",
                S::FORBIDDEN,
                "scheduling is not permitted for that time",
            ),
            Code::StorageGetPermissionDenied => (
                "STORAGE_GET_PERMISSION_DENIED",
                S::FORBIDDEN,
                "get is not permitted for this storage key",
            ),
            Code::StorageSetPermissionDenied => (
                "STORAGE_SET_PERMISSION_DENIED",
                S::FORBIDDEN,
                "set is not permitted for this storage key",
            ),
            Code::InvalidUmdToken => (
                "INVALID_UMD_TOKEN",
                S::UNAUTHORIZED,
                "the umd token cannot be used here",
            ),
            Code::UmdUpdatePermissionDenied => (
                "UMD_UPDATE_PERMISSION_DENIED",
                S::FORBIDDEN,
                "the token does not permit this umd update",
            ),
            Code::ReactionPermissionDenied => (
                "REACTION_PERMISSION_DENIED",
                S::FORBIDDEN,
                "this reaction is not permitted for the message",
            ),
            Code::ReactionUserIdRequired => (
                "REACTION_USER_ID_REQUIRED",
                S::FORBIDDEN,
                "a reaction needs a uid",
            ),
            Code::InvalidReaction => (
                "INVALID_REACTION",
                S::BAD_REQUEST,
                "the reaction needs a valid value and the action add or remove",
            ),
            Code::MessageNotFound => (
                "MESSAGE_NOT_FOUND",
                S::NOT_FOUND,
                "there is no such message",
            ),
            Code::InfoPermissionDenied => (
                "INFO_PERMISSION_DENIED",
                S::FORBIDDEN,
                "getInfo is not permitted on this channel",
            ),
            Code::Unauthorized => (
                "UNAUTHORIZED",
                S::UNAUTHORIZED,
                "the credentials are missing or wrong",
            ),
            Code::NotFound => ("NOT_FOUND", S::NOT_FOUND, "there is nothing at this path"),
            Code::MethodNotAllowed => (
                "METHOD_NOT_ALLOWED",
                S::METHOD_NOT_ALLOWED,
                "this path does not take this method",
            ),
            Code::RateLimited => (
                "RATE_LIMITED",
                S::TOO_MANY_REQUESTS,
                "a limit of this server is reached, try again later",
            ),
            Code::InternalError => (
                "INTERNAL_ERROR",
                S::INTERNAL_SERVER_ERROR,
                "the server failed unexpectedly",
            ),
        }
    }
}

/// A refusal. What it says is for people and holds no token, secret or claim (R-ERR-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What machines read.
    pub code: Code,
    /// The channel as the client named it, whenever it could be read (R-ERR-3, R-ERR-4).
    pub channel: Option<String>,
    /// What people read.
    pub message: Cow<'static, str>,
    /// It is not the request's fault, and may work later: an HTTP answer is a 503.
    pub transient: bool,
}

impl Failure {
    /// A refusal with a sentence of its own.
    pub fn because(code: Code, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            code,
            channel: None,
            message: message.into(),
            transient: false,
        }
    }

    /// What the engine can't do now, in its own sentence.
    pub fn unavailable(sentence: &'static str) -> Failure {
        Failure {
            transient: true,
            ..Failure::because(Code::InternalError, sentence)
        }
    }

    /// The status of an HTTP answer that tells of it (R-ERR-10).
    pub fn http_status(&self) -> StatusCode {
        match self.transient {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => self.code.http_status(),
        }
    }

    /// The same refusal about a channel.
    pub fn in_channel(self, channel: impl Into<String>) -> Failure {
        Failure {
            channel: Some(channel.into()),
            ..self
        }
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Failure {
        Failure::because(code, code.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-ERR-10
    #[test]
    fn every_code_has_its_name_its_status_and_its_sentence() {
        let table: Vec<String> = (Code::ALL.iter())
            .map(|code| {
                format!(
                    "{} {} {}",
                    code.as_str(),
                    code.http_status().as_u16(),
                    code.sentence()
                )
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        ALREADY_SUBSCRIBED 409 this connection is already subscribed to the channel
        NOT_SUBSCRIBED 403 this needs an active subscription to the channel
        SUBSCRIBE_PERMISSION_DENIED 403 subscribe is not permitted on this channel
        INVALID_SUBSCRIBE_TOKEN 401 the subscribe token cannot be used here
        PRESENCE_CHANNEL_CAPACITY_REACHED 403 the channel has no room for more members
        PRESENCE_CHANNEL_USER_ID_REQUIRED 403 a presence channel needs a token with a uid
        INVALID_MESSAGE 400 the message is not a JSON object of the right shape
        INVALID_CHANNEL 400 channel is missing or not a valid channel name
        INVALID_EVENT 400 event is missing or not a valid event name
        INVALID_KEY 400 key is missing or not a valid storage key
        DATA_TOO_LARGE 413 data is too large
        PUBLISH_PERMISSION_DENIED 403 publish is not permitted for this event on this channel
        INVALID_SCHEDULE 400 the schedule is not at(yyyy-mm-ddThh:mm:ss) in the future
        SCHEDULE_PERMISSION_DENIED 403 scheduling is not permitted for that time
        STORAGE_GET_PERMISSION_DENIED 403 get is not permitted for this storage key
        STORAGE_SET_PERMISSION_DENIED 403 set is not permitted for this storage key
        INVALID_UMD_TOKEN 401 the umd token cannot be used here
        UMD_UPDATE_PERMISSION_DENIED 403 the token does not permit this umd update
        REACTION_PERMISSION_DENIED 403 this reaction is not permitted for the message
        REACTION_USER_ID_REQUIRED 403 a reaction needs a uid
        INVALID_REACTION 400 the reaction needs a valid value and the action add or remove
        MESSAGE_NOT_FOUND 404 there is no such message
        INFO_PERMISSION_DENIED 403 getInfo is not permitted on this channel
        UNAUTHORIZED 401 the credentials are missing or wrong
        NOT_FOUND 404 there is nothing at this path
        METHOD_NOT_ALLOWED 405 this path does not take this method
        RATE_LIMITED 429 a limit of this server is reached, try again later
        INTERNAL_ERROR 500 the server failed unexpectedly
        ");
    }

    #[test]
    fn no_code_is_listed_twice() {
        let names: std::collections::HashSet<&str> =
            Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn a_failure_says_its_code_s_sentence_unless_it_knows_better() {
        let failure = Failure::from(Code::NotSubscribed).in_channel("me");
        assert_eq!(
            (failure.channel.as_deref(), &*failure.message),
            (Some("me"), Code::NotSubscribed.sentence())
        );
        assert_eq!(
            Failure::because(Code::InvalidKey, "key is blank").message,
            "key is blank"
        );
    }

    /// R-OPS-2, R-ERR-10: that something is missing for a while is told apart from a defect.
    #[test]
    fn what_may_work_later_is_a_503_and_a_defect_a_500() {
        let failure = Failure::unavailable("the database can't be written").in_channel("a");
        assert_eq!(
            (failure.code, failure.http_status().as_u16()),
            (Code::InternalError, 503)
        );
        assert_eq!(failure.message, "the database can't be written");
        let defect = Failure::from(Code::InternalError);
        assert_eq!(defect.http_status().as_u16(), 500);
    }
}
