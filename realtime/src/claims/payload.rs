//! Reads the payload of a token into claims, and refuses what section 4 and 5 of the specification do not allow.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::go_regex::Budget;
use super::object::{self, Object, Path};
use super::pattern::Pattern;
use super::rules::{ChannelRule, MessageRule, StorageRule, Votes};
use super::{Claims, ClaimsError, Scope};
use crate::json::Json;
use crate::names::{self, RETENTION_SECONDS, UID_CHARACTERS, UMD_BYTES};

/// Most keys in all of a token's `channels`, `messages` and `storage` objects together.
pub const MAX_KEYS: usize = 1024;
/// Most of these keys that may be wildcard patterns or regular expressions, each of which every question has to try.
pub const MAX_PATTERNS: usize = 256;

/// The claims that only matter while a token is being verified.
pub(crate) struct Registered {
    pub not_before: Option<Timestamp>,
    pub audience: Vec<Box<str>>,
    pub issuer: Option<Box<str>>,
}

/// As [`Claims::parse`], with what verification needs besides.
pub(crate) fn parse_registered(payload: &str) -> Result<(Claims, Registered), ClaimsError> {
    let object =
        Object::parse(payload).map_err(|error| Path::claim("").refuse(object::reason(&error)))?;
    let reader = Reader { object: &object };

    let scope = reader
        .string("scope")?
        .ok_or_else(|| Path::claim("scope").refuse("is required"))?;
    let expires = reader
        .date("exp")?
        .ok_or_else(|| Path::claim("exp").refuse("is required"))?;
    // Checked like every claim (R-CLAIM-31), used for nothing (R-CLAIM-5).
    reader.date("iat")?;

    let uid = reader.string("uid")?;
    if uid
        .as_deref()
        .is_some_and(|uid| names::has_more_characters(uid, UID_CHARACTERS))
    {
        return Err(
            Path::claim("uid").refuse(format!("must have at most {UID_CHARACTERS} characters"))
        );
    }
    let jti = reader.string("jti")?.filter(|jti| !jti.is_empty());
    let single_use = reader.boolean("singleUse")?;
    if single_use && jti.is_none() {
        return Err(Path::claim("jti").refuse("is required and must not be empty with `singleUse`"));
    }

    let claims = Claims {
        scope: Scope::parse(&scope),
        connection_id: reader.string("connectionId")?.map(Into::into),
        uid: uid.filter(|uid| !uid.is_empty()).map(Into::into),
        umd: reader.umd()?,
        umd_update: reader.boolean("umdUpdate")?,
        umd_propagate: reader.boolean("umdPropagate")?,
        keep_alive: reader.boolean("keepAlive")?,
        heartbeat_timeout: reader.heartbeat_timeout()?,
        single_use: jti.filter(|_| single_use).map(Into::into),
        expires,
        channels: ChannelReader::default().channels(object.get("channels"))?,
        payload: payload.into(),
    };
    let registered = Registered {
        not_before: reader.date("nbf")?,
        audience: reader.audience()?,
        issuer: reader.string("iss")?.map(Into::into),
    };
    Ok((claims, registered))
}

/// Reads top-level claims by name.
struct Reader<'r, 'a> {
    object: &'r Object<'a>,
}

impl<'a> Reader<'_, 'a> {
    fn string(&self, name: &str) -> Result<Option<Cow<'a, str>>, ClaimsError> {
        self.object
            .get(name)
            .map(|value| object::string(value, Path::claim(name)))
            .transpose()
    }

    fn boolean(&self, name: &str) -> Result<bool, ClaimsError> {
        self.object
            .get(name)
            .map_or(Ok(false), |value| object::boolean(value, Path::claim(name)))
    }

    fn date(&self, name: &str) -> Result<Option<Timestamp>, ClaimsError> {
        let seconds = self
            .object
            .get(name)
            .map(|value| object::seconds(value, Path::claim(name)))
            .transpose()?;
        Ok(seconds.map(timestamp))
    }

    fn umd(&self) -> Result<Option<Json>, ClaimsError> {
        let Some(value) = self.object.get("umd") else {
            return Ok(None);
        };
        let umd =
            Json::from_raw(value).map_err(|error| Path::claim("umd").refuse(error.to_string()))?;
        if umd.as_str().len() > UMD_BYTES {
            return Err(Path::claim("umd").refuse(format!(
                "must have at most {UMD_BYTES} bytes as compact JSON"
            )));
        }
        Ok(Some(umd))
    }

    fn heartbeat_timeout(&self) -> Result<Option<Duration>, ClaimsError> {
        let Some(value) = self.object.get("heartbeatTimeout") else {
            return Ok(None);
        };
        match object::integer(value).and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds @ 5..=600) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(Path::claim("heartbeatTimeout")
                .refuse("must be a whole number of seconds from 5 to 600")),
        }
    }

    fn audience(&self) -> Result<Vec<Box<str>>, ClaimsError> {
        let Some(value) = self.object.get("aud") else {
            return Ok(Vec::new());
        };
        let path = Path::claim("aud");
        if let Ok(one) = object::string(value, path) {
            return Ok(vec![one.into()]);
        }
        let several = object::strings(value, path)
            .map_err(|_| path.refuse("must be a string or an array of strings"))?;
        Ok(several.into())
    }
}

/// Reads `channels`, and counts what has to be bounded over all of it.
#[derive(Default)]
struct ChannelReader {
    keys: usize,
    patterns: usize,
    regexes: Budget,
}

impl ChannelReader {
    fn channels(mut self, value: Option<&RawValue>) -> Result<Box<[ChannelRule]>, ClaimsError> {
        let path = Path::claim("channels");
        let Some(value) = value else {
            return Ok(Box::default());
        };
        let object = Object::of(value, path)?;
        let mut rules = Vec::with_capacity(object.len());
        for (key, value) in object.iter() {
            let path = path.member(key);
            rules.push(self.channel(key, &Object::of(value, path)?, path)?);
        }
        check_aliases(&object, &rules)?;
        Ok(rules.into())
    }

    fn channel(
        &mut self,
        key: &str,
        object: &Object<'_>,
        path: Path<'_>,
    ) -> Result<ChannelRule, ClaimsError> {
        let mut rule = ChannelRule {
            key: self.key(key, path)?,
            votes: Votes::default(),
            history_start_ms: i64::MAX,
            alias: None,
            messages: Box::default(),
            storage: Box::default(),
        };
        for (name, value) in object.iter() {
            let path = path.member(name);
            match name {
                "subscribe" => rule
                    .votes
                    .cast(Votes::SUBSCRIBE, object::boolean(value, path)?),
                "getInfo" => rule
                    .votes
                    .cast(Votes::GET_INFO, object::boolean(value, path)?),
                "omitFromSubCount" => rule
                    .votes
                    .cast(Votes::OMIT_FROM_SUB_COUNT, object::boolean(value, path)?),
                "umdUpdate" => rule
                    .votes
                    .cast(Votes::UMD_UPDATE, object::boolean(value, path)?),
                "autoSubscribe" | "alias" if rule.key.literal().is_none() => {
                    return Err(path.refuse("is not allowed on a wildcard or regular expression"));
                }
                "autoSubscribe" => rule
                    .votes
                    .cast(Votes::AUTO_SUBSCRIBE, object::boolean(value, path)?),
                "alias" => {
                    let alias = object::string(value, path)?;
                    names::check_channel(&alias)
                        .map_err(|error| path.refuse(format!("is no alias: {error}")))?;
                    rule.alias = Some(alias.into());
                }
                // Inclusive, and messages have whole milliseconds: the first that is not before it.
                "historyStart" => {
                    rule.history_start_ms = milliseconds(object::seconds(value, path)?, f64::ceil)
                }
                "messages" => rule.messages = self.entries(value, path, Self::message)?,
                "storage" => rule.storage = self.entries(value, path, Self::storage)?,
                _ => {}
            }
        }
        Ok(rule)
    }

    fn entries<Rule>(
        &mut self,
        value: &RawValue,
        path: Path<'_>,
        read: fn(Pattern, &Object<'_>, Path<'_>) -> Result<Rule, ClaimsError>,
    ) -> Result<Box<[Rule]>, ClaimsError> {
        let object = Object::of(value, path)?;
        let mut rules = Vec::with_capacity(object.len());
        for (key, value) in object.iter() {
            let path = path.member(key);
            rules.push(read(self.key(key, path)?, &Object::of(value, path)?, path)?);
        }
        Ok(rules.into())
    }

    fn message(
        key: Pattern,
        object: &Object<'_>,
        path: Path<'_>,
    ) -> Result<MessageRule, ClaimsError> {
        let votes = Votes::default();
        let mut rule = MessageRule {
            key,
            votes,
            reactions: None,
            schedule_before_ms: 0,
            store: None,
        };
        for (name, value) in object.iter() {
            let path = path.member(name);
            match name {
                "broadcast" => rule
                    .votes
                    .cast(Votes::BROADCAST, object::boolean(value, path)?),
                "publish" => rule
                    .votes
                    .cast(Votes::PUBLISH, object::boolean(value, path)?),
                "echo" => rule.votes.cast(Votes::ECHO, object::boolean(value, path)?),
                "emitPubSubEvent" => rule
                    .votes
                    .cast(Votes::EMIT_PUB_SUB_EVENT, object::boolean(value, path)?),
                "react" => match object::boolean(value, path) {
                    Ok(react) => rule.votes.cast(Votes::REACT, react),
                    Err(_) => {
                        let listed = object::strings(value, path);
                        rule.reactions = Some(listed.map_err(|_| {
                            path.refuse("must be true, false or an array of strings")
                        })?);
                    }
                },
                "scheduleBefore" => rule.schedule_before_ms = schedule_before(value, path)?,
                "store" => {
                    rule.store = Some(store(
                        value,
                        path,
                        "must be -1, 0 or a whole number of seconds",
                        0,
                    )?)
                }
                _ => {}
            }
        }
        Ok(rule)
    }

    fn storage(
        key: Pattern,
        object: &Object<'_>,
        path: Path<'_>,
    ) -> Result<StorageRule, ClaimsError> {
        let mut rule = StorageRule {
            key,
            votes: Votes::default(),
            schedule_before_ms: 0,
            store: None,
        };
        for (name, value) in object.iter() {
            let path = path.member(name);
            match name {
                "observe" => rule
                    .votes
                    .cast(Votes::OBSERVE, object::boolean(value, path)?),
                "get" => rule.votes.cast(Votes::GET, object::boolean(value, path)?),
                "set" => rule.votes.cast(Votes::SET, object::boolean(value, path)?),
                "emitPubSubEvent" => rule
                    .votes
                    .cast(Votes::EMIT_PUB_SUB_EVENT, object::boolean(value, path)?),
                "scheduleBefore" => rule.schedule_before_ms = schedule_before(value, path)?,
                "store" => {
                    rule.store = Some(store(
                        value,
                        path,
                        "must be -1 or a whole number of seconds from 1",
                        1,
                    )?)
                }
                _ => {}
            }
        }
        Ok(rule)
    }

    fn key(&mut self, key: &str, path: Path<'_>) -> Result<Pattern, ClaimsError> {
        self.keys += 1;
        if self.keys > MAX_KEYS {
            return Err(
                Path::claim("channels").refuse(format!("has more than {MAX_KEYS} keys in all"))
            );
        }
        let pattern =
            Pattern::parse(key, &mut self.regexes).map_err(|problem| path.refuse(problem))?;
        if pattern.literal().is_none() {
            self.patterns += 1;
            if self.patterns > MAX_PATTERNS {
                return Err(Path::claim("channels")
                    .refuse(format!("has more than {MAX_PATTERNS} patterns in all")));
            }
        }
        Ok(pattern)
    }
}

/// Aliases are unlike each other and unlike every channel key, also the patterns (R-PERM-23).
fn check_aliases(channels: &Object<'_>, rules: &[ChannelRule]) -> Result<(), ClaimsError> {
    let mut taken = HashSet::new();
    for (rule, (key, _)) in rules.iter().zip(channels.iter()) {
        let Some(alias) = rule.alias.as_deref() else {
            continue;
        };
        if taken.is_empty() {
            taken.extend(channels.iter().map(|(key, _)| key));
        }
        if !taken.insert(alias) {
            let (channels, directive) = (Path::claim("channels"), "alias");
            let channel = channels.member(key);
            return Err(channel
                .member(directive)
                .refuse("equals another alias or a channel key of the token"));
        }
    }
    Ok(())
}

fn schedule_before(value: &RawValue, path: Path<'_>) -> Result<i64, ClaimsError> {
    // Inclusive: the last whole millisecond that is not after it.
    Ok(milliseconds(object::seconds(value, path)?, f64::floor))
}

/// -1 or from `least` up to [`RETENTION_SECONDS`] (R-PERM-26, R-PERM-27).
fn store(value: &RawValue, path: Path<'_>, expected: &str, least: i64) -> Result<i64, ClaimsError> {
    match object::integer(value) {
        Some(seconds) if seconds == -1 || (least..=RETENTION_SECONDS).contains(&seconds) => {
            Ok(seconds)
        }
        _ => Err(path.refuse(format!("{expected}, at most {RETENTION_SECONDS}"))),
    }
}

/// Unix seconds as milliseconds; what lies outside of the range becomes its end.
fn milliseconds(seconds: f64, round: fn(f64) -> f64) -> i64 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which is what is wanted"
    )]
    let milliseconds = round(seconds * 1000.0) as i64;
    milliseconds
}

/// Unix seconds as a time; what lies outside of the calendar becomes its end.
fn timestamp(seconds: f64) -> Timestamp {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which is what is wanted"
    )]
    let nanoseconds = (seconds.fract() * 1e9) as i32;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which is what is wanted"
    )]
    let whole = seconds.trunc() as i64;
    let end = if seconds < 0.0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::new(whole, nanoseconds).unwrap_or(end)
}
