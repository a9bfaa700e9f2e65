//! Bodies of the client HTTP API that are no messages: what clients want to read, and a change of metadata (section 18 of
//! the protocol). Types are checked, names and sizes are not.

use std::borrow::Cow;

use ulid::Ulid;

use super::inbound::{Members, required};
use super::{Code, Failure};

/// Which messages a client wants to read.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    /// As the client calls it; never empty.
    pub channel: Cow<'a, str>,
    /// Only newer ones; without effect if `reverse` (R-HTTP-14).
    pub after: Option<Ulid>,
    /// Only older ones; without effect unless `reverse` (R-HTTP-15).
    pub before: Option<Ulid>,
    /// Newest first (R-HTTP-13).
    pub reverse: bool,
    /// Who reacted, not only how many (R-HTTP-21).
    pub expand: bool,
}

/// Reads the body of `listMessages`.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, a member of the wrong type, or no identifier (R-HTTP-16). INVALID_CHANNEL: it is
/// missing (R-HTTP-12).
pub fn parse_listing(body: &[u8]) -> Result<Listing<'_>, Failure> {
    const LISTING: [&str; 5] = ["channel", "after", "before", "reverse", "expandReactions"];
    let members = Members::of_body(body, &LISTING)?;
    let identifier = |name| {
        let text = members.string(name)?;
        text.map(|text| parse_id(name, &text)).transpose()
    };
    Ok(Listing {
        channel: required(&members, "channel", Code::InvalidChannel)?,
        after: identifier("after")?,
        before: identifier("before")?,
        reverse: members.boolean("reverse")?,
        expand: members.boolean("expandReactions")?,
    })
}

/// Reads the body of `listReactions`: the channel as the client calls it, and the message.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, or no identifier. INVALID_CHANNEL: it is missing (R-HTTP-25).
pub fn parse_target(body: &[u8]) -> Result<(Cow<'_, str>, Ulid), Failure> {
    let members = Members::of_body(body, &["channel", "messageId"])?;
    let channel = required(&members, "channel", Code::InvalidChannel)?;
    let message = required(&members, "messageId", Code::InvalidMessage)?;
    Ok((channel, parse_id("messageId", &message)?))
}

/// Which entries of a channel's storage a client wants to read.
#[derive(Debug, Clone)]
pub struct Browsing<'a> {
    /// As the client calls it; never empty.
    pub channel: Cow<'a, str>,
    /// Only these; then `after` has no effect (R-HTTP-44).
    pub keys: Option<Vec<String>>,
    /// Only entries behind this key (R-HTTP-43).
    pub after: Option<Cow<'a, str>>,
}

/// Reads the body of `channelStorageList`.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, or a member of the wrong type. INVALID_CHANNEL: it is missing.
pub fn parse_browsing(body: &[u8]) -> Result<Browsing<'_>, Failure> {
    let members = Members::of_body(body, &["channel", "keys", "after"])?;
    Ok(Browsing {
        channel: required(&members, "channel", Code::InvalidChannel)?,
        keys: members.strings("keys")?,
        after: members.string("after")?,
    })
}

/// Reads a body that names a channel and nothing else.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, or no string. INVALID_CHANNEL: it is missing.
pub fn parse_channel(body: &[u8]) -> Result<Cow<'_, str>, Failure> {
    let members = Members::of_body(body, &["channel"])?;
    required(&members, "channel", Code::InvalidChannel)
}

/// A change of metadata: the channel if it is for one subscription, and the token (R-HTTP-52, R-HTTP-54).
pub type Renewal<'a> = (Option<Cow<'a, str>>, Option<Cow<'a, str>>);

/// Reads the body of `umdUpdate`.
///
/// # Errors
/// INVALID_MESSAGE: not a JSON object, or a member that is no string.
pub fn parse_renewal(body: &[u8]) -> Result<Renewal<'_>, Failure> {
    let members = Members::of_body(body, &["channel", "token"])?;
    Ok((members.string("channel")?, members.string("token")?))
}

/// Reads the identifier of a message, which need not exist (R-HTTP-16). Letters may be small, as Crockford's base 32 says;
/// what is more than 128 bits is none.
///
/// # Errors
/// INVALID_MESSAGE.
pub fn parse_id(name: &str, text: &str) -> Result<Ulid, Failure> {
    let fits = text.as_bytes().first().is_some_and(|first| *first <= b'7');
    let id = fits.then(|| Ulid::from_string(text).ok()).flatten();
    id.ok_or_else(|| {
        Failure::because(
            Code::InvalidMessage,
            format!("{name} must be the identifier of a message: a ULID of 26 characters"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-HTTP-12, R-HTTP-13, R-HTTP-16, R-JSON-8, R-JSON-10
    #[test]
    fn a_listing_has_a_channel_and_identifiers_if_any() {
        let body = br#"{"channel":"a","after":"01KA5T6Q2M8Y0V3WZ4B7C9D1EF","before":null,"reverse":true,"more":1}"#;
        let listing = parse_listing(body).expect("a listing");
        assert_eq!(
            (&*listing.channel, listing.reverse, listing.expand),
            ("a", true, false)
        );
        assert_eq!(
            listing.after.map(|id| id.to_string()).as_deref(),
            Some("01KA5T6Q2M8Y0V3WZ4B7C9D1EF")
        );
        assert_eq!(listing.before, None);
        for (body, code, hint) in [
            ("", Code::InvalidMessage, "JSON"),
            ("[]", Code::InvalidMessage, "object"),
            ("{}", Code::InvalidChannel, "channel"),
            (r#"{"channel":""}"#, Code::InvalidChannel, "channel"),
            (
                r#"{"channel":"a","after":1}"#,
                Code::InvalidMessage,
                "after",
            ),
            (
                r#"{"channel":"a","after":""}"#,
                Code::InvalidMessage,
                "after",
            ),
            (
                r#"{"channel":"a","before":"01KA5T6Q2M8Y0V3WZ4B7C9D1E"}"#,
                Code::InvalidMessage,
                "before",
            ),
            (
                r#"{"channel":"a","before":"01KA5T6Q2M8Y0V3WZ4B7C9D1EU"}"#,
                Code::InvalidMessage,
                "before",
            ),
            (
                r#"{"channel":"a","before":"81KA5T6Q2M8Y0V3WZ4B7C9D1EF"}"#,
                Code::InvalidMessage,
                "before",
            ),
            (
                r#"{"channel":"a","reverse":"yes"}"#,
                Code::InvalidMessage,
                "reverse",
            ),
        ] {
            let failure = parse_listing(body.as_bytes()).expect_err(body);
            assert_eq!(failure.code, code, "{body}");
            assert!(
                failure.message.contains(hint),
                "{body}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn an_identifier_is_the_same_in_small_letters_and_no_text_panics() {
        let id = parse_id("id", "01KA5T6Q2M8Y0V3WZ4B7C9D1EF").expect("an identifier");
        assert_eq!(parse_id("id", "01ka5t6q2m8y0v3wz4b7c9d1ef"), Ok(id));
        for text in [
            "",
            "é",
            "日本日本日本日本日",
            "7ZZZZZZZZZZZZZZZZZZZZZZZZ\u{0}",
        ] {
            assert!(parse_id("id", text).is_err(), "{text:?}");
        }
    }
}
