//! Names, and the limits that the protocol sets on them and on values (section 6 of `docs/spec/realtime-protocol.md`).
//!
//! Lengths in *characters* count Unicode scalar values, lengths in *bytes* count UTF-8 (R-JSON-6, R-JSON-7). Every limit
//! is inclusive (R-LIM-22). All checks are linear in the name and allocate nothing.

use thiserror::Error;

/// Most characters of a channel name, and of an alias (R-LIM-1).
pub const CHANNEL_CHARACTERS: usize = 256;
/// Most characters of an event name (R-LIM-4).
pub const EVENT_CHARACTERS: usize = 128;
/// Most characters of a storage key (R-LIM-6).
pub const STORAGE_KEY_CHARACTERS: usize = 128;
/// Most characters of a uid (R-LIM-9).
pub const UID_CHARACTERS: usize = 128;
/// Most bytes of a umd value as compact JSON (R-LIM-9).
pub const UMD_BYTES: usize = 1024;
/// Most bytes of a message's `data` and of a storage value as compact JSON (R-LIM-7, R-LIM-8).
pub const DATA_BYTES: usize = 32 * 1024;
/// Most bytes of a reaction value (R-LIM-10).
pub const REACTION_BYTES: usize = 100;
/// Most bytes of the deduplicated member list of a presence channel, each member as `{"uid":…,"umd":…}` (R-LIM-11).
pub const MEMBER_LIST_BYTES: usize = 102_400;
/// Most messages, or storage entries, on one page (R-LIM-12, R-HTTP-44).
pub const PAGE_ITEMS: usize = 100;
/// Most bytes of one page (R-LIM-12).
pub const PAGE_BYTES: usize = 1_000_000;
/// Most keys that one storage read may name (R-LIM-13).
pub const STORAGE_READ_KEYS: usize = 100;
/// Longest retention in seconds, 100 years (R-LIM-15).
pub const RETENTION_SECONDS: i64 = 3_155_695_200;
/// What an event name of an application must not begin with (R-LIM-4).
pub const RESERVED_PREFIX: &str = "hotsock.";
/// What makes a channel a presence channel (R-PRES-1).
pub const PRESENCE_PREFIX: &str = "presence.";

/// Why a name was refused. The sentence says which rule it breaks and never repeats the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadName {
    /// Nothing in it, or, where a blank name makes no sense either, only white space.
    #[error("{what} must not be blank")]
    Blank {
        /// The kind of name, with its article.
        what: &'static str,
    },
    /// Longer than its limit.
    #[error("{what} has at most {limit} {unit}")]
    TooLong {
        /// The kind of name, with its article.
        what: &'static str,
        /// The most that it may have.
        limit: usize,
        /// `characters` or `bytes`.
        unit: &'static str,
    },
    /// A character that the protocol keeps for patterns and lists.
    #[error("{what} must not contain `{character}`")]
    Forbidden {
        /// The kind of name, with its article.
        what: &'static str,
        /// The character.
        character: char,
    },
    /// White space of any kind.
    #[error("{what} must not contain white space")]
    WhiteSpace {
        /// The kind of name, with its article.
        what: &'static str,
    },
    /// An event name that begins with [`RESERVED_PREFIX`].
    #[error("an event name must not begin with `hotsock.`")]
    Reserved,
    /// An event name that begins with `#`, which introduces a regular expression in claims.
    #[error("an event name must not begin with `#`")]
    LeadingHash,
}

/// A channel name: 1 to [`CHANNEL_CHARACTERS`] characters without `*`, `#`, `,` and white space (R-LIM-1, R-LIM-2).
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_channel(name: &str) -> Result<(), BadName> {
    let what = "a channel name";
    check_not_empty(name, what)?;
    check_characters(name, what, CHANNEL_CHARACTERS)?;
    check_without(name, what, &['*', '#', ','])?;
    match name.contains(char::is_whitespace) {
        true => Err(BadName::WhiteSpace { what }),
        false => Ok(()),
    }
}

/// An event name of a client or backend: 1 to [`EVENT_CHARACTERS`] characters, without `*`, not beginning with `#` or
/// [`RESERVED_PREFIX`] (R-LIM-4). The reserved events that a caller may send (R-LIM-5) are the caller's to let through.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_event(name: &str) -> Result<(), BadName> {
    let what = "an event name";
    check_not_empty(name, what)?;
    check_characters(name, what, EVENT_CHARACTERS)?;
    check_without(name, what, &['*'])?;
    if name.starts_with('#') {
        return Err(BadName::LeadingHash);
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(BadName::Reserved);
    }
    Ok(())
}

/// A storage key: not blank, at most [`STORAGE_KEY_CHARACTERS`] characters, without space, `*`, `#` and `,` (R-LIM-6).
///
/// # Errors
/// The first rule that the key breaks.
pub fn check_storage_key(key: &str) -> Result<(), BadName> {
    let what = "a storage key";
    check_not_blank(key, what)?;
    check_characters(key, what, STORAGE_KEY_CHARACTERS)?;
    check_without(key, what, &[' ', '*', '#', ','])
}

/// A reaction value: not blank, at most [`REACTION_BYTES`] bytes, without `#` (R-LIM-10).
///
/// # Errors
/// The first rule that the value breaks.
pub fn check_reaction(value: &str) -> Result<(), BadName> {
    let what = "a reaction";
    check_not_blank(value, what)?;
    if value.len() > REACTION_BYTES {
        return Err(BadName::TooLong {
            what,
            limit: REACTION_BYTES,
            unit: "bytes",
        });
    }
    check_without(value, what, &['#'])
}

/// Whether the channel has members: exactly when its name begins with [`PRESENCE_PREFIX`] (R-PRES-1).
#[must_use]
pub fn is_presence(channel: &str) -> bool {
    channel.starts_with(PRESENCE_PREFIX)
}

/// Whether a text has more than `limit` characters, without counting all of a long one.
pub(crate) fn has_more_characters(text: &str, limit: usize) -> bool {
    text.len() > limit && text.chars().nth(limit).is_some()
}

fn check_not_empty(name: &str, what: &'static str) -> Result<(), BadName> {
    if name.is_empty() {
        Err(BadName::Blank { what })
    } else {
        Ok(())
    }
}

fn check_not_blank(name: &str, what: &'static str) -> Result<(), BadName> {
    check_not_empty(name.trim(), what)
}

fn check_characters(name: &str, what: &'static str, limit: usize) -> Result<(), BadName> {
    match has_more_characters(name, limit) {
        true => Err(BadName::TooLong {
            what,
            limit,
            unit: "characters",
        }),
        false => Ok(()),
    }
}

fn check_without(name: &str, what: &'static str, forbidden: &[char]) -> Result<(), BadName> {
    match name.chars().find(|character| forbidden.contains(character)) {
        Some(character) => Err(BadName::Forbidden { what, character }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAN: &str = "漢";

    /// R-LIM-1, R-LIM-2, R-LIM-22
    #[test]
    fn a_channel_name_has_1_to_256_characters_and_none_that_are_kept_for_patterns() {
        for name in [
            "a",
            "a/b.c:d",
            "straße",
            "日本",
            "hotsock.x",
            "presence.",
            "-",
            "\"'\\",
            "🎉",
        ] {
            assert_eq!(check_channel(name), Ok(()), "{name}");
        }
        // Characters, not bytes.
        assert_eq!(check_channel(&HAN.repeat(256)), Ok(()));
        assert_eq!(check_channel(&"a".repeat(256)), Ok(()));
        let refusals = [
            (String::new(), "a channel name must not be blank"),
            (HAN.repeat(257), "a channel name has at most 256 characters"),
            ("a*".into(), "a channel name must not contain `*`"),
            ("#a".into(), "a channel name must not contain `#`"),
            ("a,b".into(), "a channel name must not contain `,`"),
            ("a b".into(), "a channel name must not contain white space"),
            ("a\n".into(), "a channel name must not contain white space"),
            ("\ta".into(), "a channel name must not contain white space"),
            (
                "a\u{a0}b".into(),
                "a channel name must not contain white space",
            ),
            (
                "a\u{2003}b".into(),
                "a channel name must not contain white space",
            ),
        ];
        for (name, sentence) in refusals {
            assert_eq!(
                check_channel(&name).unwrap_err().to_string(),
                sentence,
                "{name:?}"
            );
        }
    }

    /// R-LIM-4, R-LIM-22
    #[test]
    fn an_event_name_has_1_to_128_characters_and_is_not_reserved() {
        for name in [
            "chat",
            "a b",
            "a#",
            "a,b",
            "hotsock",
            "Hotsock.x",
            "nothotsock.x",
        ] {
            assert_eq!(check_event(name), Ok(()), "{name}");
        }
        assert_eq!(check_event(&HAN.repeat(128)), Ok(()));
        let refusals = [
            (String::new(), "an event name must not be blank"),
            (HAN.repeat(129), "an event name has at most 128 characters"),
            ("a*".into(), "an event name must not contain `*`"),
            ("#a".into(), "an event name must not begin with `#`"),
            (
                "hotsock.chat".into(),
                "an event name must not begin with `hotsock.`",
            ),
            (
                "hotsock.".into(),
                "an event name must not begin with `hotsock.`",
            ),
        ];
        for (name, sentence) in refusals {
            assert_eq!(
                check_event(&name).unwrap_err().to_string(),
                sentence,
                "{name:?}"
            );
        }
    }

    /// R-LIM-6, R-LIM-22
    #[test]
    fn a_storage_key_is_not_blank_and_has_at_most_128_characters() {
        for key in ["rules", "a/b", "日", "a:b.c"] {
            assert_eq!(check_storage_key(key), Ok(()), "{key}");
        }
        assert_eq!(check_storage_key(&HAN.repeat(128)), Ok(()));
        let refusals = [
            (String::new(), "a storage key must not be blank"),
            ("\t".into(), "a storage key must not be blank"),
            (HAN.repeat(129), "a storage key has at most 128 characters"),
            ("a b".into(), "a storage key must not contain ` `"),
            ("a*".into(), "a storage key must not contain `*`"),
            ("a#".into(), "a storage key must not contain `#`"),
            ("a,".into(), "a storage key must not contain `,`"),
        ];
        for (key, sentence) in refusals {
            assert_eq!(
                check_storage_key(&key).unwrap_err().to_string(),
                sentence,
                "{key:?}"
            );
        }
    }

    /// R-LIM-10, R-LIM-22
    #[test]
    fn a_reaction_is_not_blank_and_has_at_most_100_bytes() {
        for value in ["🎉", "+1", "thumbs up", "*"] {
            assert_eq!(check_reaction(value), Ok(()), "{value}");
        }
        assert_eq!(check_reaction(&"a".repeat(100)), Ok(()));
        assert_eq!(check_reaction(&"🎉".repeat(25)), Ok(()));
        let refusals = [
            (String::new(), "a reaction must not be blank"),
            ("  ".into(), "a reaction must not be blank"),
            ("🎉".repeat(26), "a reaction has at most 100 bytes"),
            ("a".repeat(101), "a reaction has at most 100 bytes"),
            ("#1".into(), "a reaction must not contain `#`"),
        ];
        for (value, sentence) in refusals {
            assert_eq!(
                check_reaction(&value).unwrap_err().to_string(),
                sentence,
                "{value:?}"
            );
        }
    }

    /// R-PRES-1
    #[test]
    fn a_channel_has_members_exactly_when_its_name_begins_so() {
        assert!(is_presence("presence.den"));
        assert!(is_presence("presence."));
        for name in [
            "presence",
            "Presence.den",
            "a.presence.den",
            "presence-den",
            "",
        ] {
            assert!(!is_presence(name), "{name}");
        }
    }
}
