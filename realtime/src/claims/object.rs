//! Reads the JSON objects of a token member by member, so that every refusal can name the place.
//!
//! A member that occurs twice in one object is refused: readers disagree on which of the two counts, and a token must
//! not mean one thing to its issuer and another here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ClaimsError;

/// Where in the claims a value stands. Lives on the stack; only an error turns it into text.
#[derive(Clone, Copy)]
pub struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    name: &'p str,
}

impl<'p> Path<'p> {
    /// The place of a top-level claim.
    pub fn claim(name: &'p str) -> Self {
        Self { parent: None, name }
    }

    /// The place of a member of this object.
    pub fn member(&'p self, name: &'p str) -> Self {
        Self {
            parent: Some(self),
            name,
        }
    }

    /// The refusal of what stands here.
    pub fn refuse(&self, problem: impl Into<Cow<'static, str>>) -> ClaimsError {
        ClaimsError {
            at: self.to_string().into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(formatter, "{parent}.")?;
        }
        formatter.write_str(self.name)
    }
}

/// The members of one JSON object in their order; names are unique.
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads a whole text as one object.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Reads a value as an object.
    pub fn of(value: &'a RawValue, path: Path<'_>) -> Result<Self, ClaimsError> {
        if !value.get().starts_with('{') {
            return Err(path.refuse("must be an object"));
        }
        Self::parse(value.get()).map_err(|error| path.refuse(reason(&error)))
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| *value)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

/// What is wrong with an object, in words that do not depend on the parser.
pub fn reason(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        // The only error that is not one of syntax is ours.
        serde_json::error::Category::Data if error.to_string().starts_with(REPEATED) => {
            "names a member twice"
        }
        serde_json::error::Category::Data => "must be an object",
        _ => "is not valid JSON",
    }
}

const REPEATED: &str = "repeated member";

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                if has_repetition(&members) {
                    return Err(A::Error::custom(REPEATED));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Few members are compared with each other, many through a set, so that a long object costs no more than its length.
fn has_repetition(members: &[(Cow<'_, str>, &RawValue)]) -> bool {
    if members.len() <= 16 {
        return members
            .iter()
            .enumerate()
            .any(|(at, (name, _))| members[..at].iter().any(|(other, _)| other == name));
    }
    let mut seen = HashSet::with_capacity(members.len());
    !members.iter().all(|(name, _)| seen.insert(name))
}

/// A boolean.
pub fn boolean(value: &RawValue, path: Path<'_>) -> Result<bool, ClaimsError> {
    match value.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(path.refuse("must be true or false")),
    }
}

/// A string.
pub fn string<'a>(value: &'a RawValue, path: Path<'_>) -> Result<Cow<'a, str>, ClaimsError> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    match serde_json::from_str::<Text<'a>>(value.get()) {
        Ok(Text(text)) => Ok(text),
        Err(_) => Err(path.refuse("must be a string")),
    }
}

/// An array of strings.
pub fn strings(value: &RawValue, path: Path<'_>) -> Result<Box<[Box<str>]>, ClaimsError> {
    serde_json::from_str(value.get()).map_err(|_| path.refuse("must be an array of strings"))
}

/// A number as Unix seconds, which may have a fraction (R-CLAIM-33) or lie outside of any calendar.
pub fn seconds(value: &RawValue, path: Path<'_>) -> Result<f64, ClaimsError> {
    number(value).ok_or_else(|| path.refuse("must be a number of Unix seconds"))
}

/// A number without a fraction, however it is written (`30`, `30.0`, `3e1`).
pub fn integer(value: &RawValue) -> Option<i64> {
    if let Ok(integer) = value.get().parse() {
        return Some(integer);
    }
    let number = number(value)
        .filter(|number| number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0)?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "whole and within range, as checked above"
    )]
    Some(number as i64)
}

fn number(value: &RawValue) -> Option<f64> {
    let text = value.get();
    // Only a JSON number begins so; `parse` alone would also take the words for infinity and not-a-number.
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}
