//! A JSON value as its compact text: what clients and backends send as `data` and `umd`, and get back unaltered.
//!
//! White space between tokens is removed and nothing else is touched, so numbers arrive digit for digit (R-JSON-9) and
//! the size of a value is the length of its text (R-JSON-6). Copies share one allocation.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

/// Deepest nesting of arrays and objects in a value. Whoever reads the value back with a recursive parser, as most do,
/// is safe from exhausting its stack.
pub const MAX_DEPTH: usize = 128;

/// Why a text is not taken as a JSON value. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonError {
    /// Not one JSON value, surrounded by nothing but white space.
    #[error("not a valid JSON value")]
    Invalid,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("a JSON value nests at most {MAX_DEPTH} levels")]
    TooDeep,
}

/// One JSON value in compact form. Cloning is cheap; `==` compares texts, [`Json::same_value`] what they mean.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// The compact form of a text that may or may not be JSON. Linear, and not recursive.
    ///
    /// # Errors
    /// The text is not one JSON value, or nests deeper than [`MAX_DEPTH`].
    pub fn compact(raw: &str) -> Result<Self, JsonError> {
        let raw: &RawValue = serde_json::from_str(raw).map_err(|_| JsonError::Invalid)?;
        Self::from_raw(raw)
    }

    /// As [`Json::compact`], for a value that serde has already found valid: one pass, and one copy.
    ///
    /// # Errors
    /// The value nests deeper than [`MAX_DEPTH`].
    pub fn from_raw(raw: &RawValue) -> Result<Self, JsonError> {
        let text = raw.get();
        let compact: Box<RawValue> = match without_white_space(text)? {
            None => raw.to_owned(),
            Some(shorter) => RawValue::from_string(shorter).map_err(|_| JsonError::Invalid)?,
        };
        Ok(Self(compact.into()))
    }

    /// The value `null`.
    #[must_use]
    pub fn null() -> Self {
        static NULL: LazyLock<Json> = LazyLock::new(|| Json(RawValue::NULL.to_owned().into()));
        NULL.clone()
    }

    /// The compact text; its length is the size of the value (R-JSON-6).
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Deep equality: member order, escapes and the notation of a number do not matter, its exact decimal value does, so
    /// `1`, `1.0` and `10e-1` are the same and integers beyond 2^53 stay apart (R-STOR-12). Of repeated members the last
    /// one counts.
    #[must_use]
    pub fn same_value(&self, other: &Self) -> bool {
        self == other || Meaning::of(self.as_str()) == Meaning::of(other.as_str())
    }
}

impl Json {
    /// The SHA-256 of what the value means: two values have the same one exactly if they are [the same](Self::same_value).
    /// For whoever has to compare without being able to read JSON.
    #[must_use]
    pub fn meaning(&self) -> [u8; digest::SHA256_OUTPUT_LEN] {
        let mut hash = digest::Context::new(&digest::SHA256);
        Meaning::of(self.as_str()).digest(&mut hash);
        (hash.finish().as_ref().try_into()).expect("SHA-256 gives as many bytes")
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::from_raw(&raw).map_err(serde::de::Error::custom)
    }
}

/// A valid JSON text without the white space between its tokens, or nothing if there is none.
fn without_white_space(text: &str) -> Result<Option<String>, JsonError> {
    let bytes = text.as_bytes();
    let mut shorter: Option<String> = None;
    let mut kept = 0;
    let mut depth = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b' ' | b'\t' | b'\n' | b'\r' => {
                shorter
                    .get_or_insert_with(|| String::with_capacity(text.len()))
                    .push_str(&text[kept..at]);
                kept = at + 1;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonError::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    if let Some(shorter) = &mut shorter {
        shorter.push_str(&text[kept..]);
    }
    Ok(shorter)
}

/// The position of the quote that ends the string whose opening quote stands at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        if bytes[at + found] == b'"' {
            return at + found;
        }
        at += found + 2;
    }
    bytes.len()
}

/// What a value means: two texts with the same meaning are the same value.
#[derive(PartialEq)]
enum Meaning<'a> {
    /// `true`, `false` or `null`.
    Word(&'a str),
    Number(Number<'a>),
    Text(Cow<'a, str>),
    Array(Vec<Meaning<'a>>),
    Object(BTreeMap<Cow<'a, str>, Meaning<'a>>),
}

impl<'a> Meaning<'a> {
    fn of(compact: &'a str) -> Self {
        Reader {
            text: compact,
            at: 0,
        }
        .value()
    }

    /// Adds itself to a hash, in a form that nothing else has.
    fn digest(&self, hash: &mut digest::Context) {
        let tagged = |hash: &mut digest::Context, tag: u8, length: usize| {
            hash.update(&[tag]);
            hash.update(&(length as u64).to_be_bytes());
        };
        let text = |hash: &mut digest::Context, tag: u8, text: &str| {
            tagged(hash, tag, text.len());
            hash.update(text.as_bytes());
        };
        match self {
            Self::Word(word) => text(hash, b'w', word),
            Self::Number(Number::Vast(written)) => text(hash, b'v', written),
            Self::Number(Number::Decimal {
                negative,
                digits,
                exponent,
            }) => {
                text(hash, if *negative { b'-' } else { b'+' }, digits);
                hash.update(&exponent.to_be_bytes());
            }
            Self::Text(value) => text(hash, b't', value),
            Self::Array(items) => {
                tagged(hash, b'a', items.len());
                items.iter().for_each(|item| item.digest(hash));
            }
            Self::Object(members) => {
                tagged(hash, b'o', members.len());
                for (name, value) in members {
                    text(hash, b't', name);
                    value.digest(hash);
                }
            }
        }
    }
}

/// Reads a text that is known to be valid and compact. Its nesting is bounded by [`MAX_DEPTH`].
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Meaning<'a> {
        match self.peek() {
            b'{' => {
                let mut members = BTreeMap::new();
                while self.goes_on(b'}') {
                    let name = self.string();
                    // The colon.
                    self.at += 1;
                    members.insert(name, self.value());
                }
                Meaning::Object(members)
            }
            b'[' => {
                let mut items = Vec::new();
                while self.goes_on(b']') {
                    items.push(self.value());
                }
                Meaning::Array(items)
            }
            b'"' => Meaning::Text(self.string()),
            b't' | b'f' | b'n' => Meaning::Word(self.scalar()),
            _ => Meaning::Number(Number::of(self.scalar())),
        }
    }

    fn peek(&self) -> u8 {
        self.text
            .as_bytes()
            .get(self.at)
            .copied()
            .unwrap_or_default()
    }

    /// Steps over what opens, separates or closes the items of an array or object; whether another item follows.
    fn goes_on(&mut self, close: u8) -> bool {
        if self.peek() != close {
            self.at += 1;
        }
        let goes_on = self.peek() != close && self.at < self.text.len();
        if !goes_on {
            self.at += 1;
        }
        goes_on
    }

    fn string(&mut self) -> Cow<'a, str> {
        let end = end_of_string(self.text.as_bytes(), self.at);
        let quoted = &self.text[self.at..=end];
        self.at = end + 1;
        let written = &quoted[1..quoted.len() - 1];
        if !written.contains('\\') {
            return Cow::Borrowed(written);
        }
        // Half a surrogate pair is valid JSON and no text: it equals what is written the same.
        serde_json::from_str(quoted).map_or(Cow::Borrowed(quoted), Cow::Owned)
    }

    /// A word or a number: everything up to what can only stand after one.
    fn scalar(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let scalar = &rest[..rest.find([',', ']', '}']).unwrap_or(rest.len())];
        self.at += scalar.len();
        scalar
    }
}

/// The exact value of a number, whatever its size.
#[derive(PartialEq)]
enum Number<'a> {
    /// `digits` × 10^`exponent`, where the digits neither begin nor end with zero; none at all for zero.
    Decimal {
        negative: bool,
        digits: String,
        exponent: i64,
    },
    /// With an exponent that nobody can count to, it equals only what is written the same.
    Vast(&'a str),
}

impl<'a> Number<'a> {
    fn of(text: &'a str) -> Self {
        let (negative, unsigned) = text
            .strip_prefix('-')
            .map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));

        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let shortest = digits.trim_end_matches('0');
        if shortest.is_empty() {
            return Self::Decimal {
                negative: false,
                digits: String::new(),
                exponent: 0,
            };
        }
        let exponent = exponent.parse::<i32>().ok().and_then(|exponent| {
            let fraction = i64::try_from(fraction.len()).ok()?;
            let zeros = i64::try_from(digits.len() - shortest.len()).ok()?;
            Some(i64::from(exponent) - fraction + zeros)
        });
        match exponent {
            Some(exponent) => Self::Decimal {
                negative,
                digits: shortest.to_owned(),
                exponent,
            },
            None => Self::Vast(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json::compact(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// R-JSON-6
    #[test]
    fn white_space_between_tokens_is_removed_and_that_within_strings_kept() {
        let cases = [
            (" 1 ", "1"),
            (
                "\t{ \"a b\" :\r\n[ 1 , 2 , { } , [ ] ] }\n",
                r#"{"a b":[1,2,{},[]]}"#,
            ),
            (r#"{"a":"x  \" y\\"}"#, r#"{"a":"x  \" y\\"}"#),
            (r#"[ "\\" , "\\\" ]" , "" ]"#, r#"["\\","\\\" ]",""]"#),
            ("\"日 本\"", "\"日 本\""),
            ("null", "null"),
        ];
        for (written, compact) in cases {
            assert_eq!(json(written).as_str(), compact, "{written}");
        }
    }

    /// R-JSON-9
    #[test]
    fn numbers_arrive_digit_for_digit() {
        for number in [
            "9007199254740993",
            "123456789012345678901234567890",
            "1.0",
            "-0",
            "1e400",
            "0.10",
            "1E+2",
        ] {
            assert_eq!(json(number).as_str(), number);
            assert_eq!(
                json(&format!("[ {number} ]")).as_str(),
                format!("[{number}]")
            );
        }
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        let texts = [
            "",
            " ",
            "1 2",
            "tru e",
            "{",
            "[1,]",
            "{\"a\"}",
            "{a:1}",
            "'a'",
            "\"a",
            "\"\u{1}\"",
            r#""\x""#,
            "01",
            "1.",
            ".5",
            "+1",
            "NaN",
            "[1]]",
            "\u{a0}1",
            "\u{feff}1",
            "// 1\n1",
        ];
        for text in texts {
            assert_eq!(Json::compact(text), Err(JsonError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_nest() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Json::compact(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            Json::compact(&nested(MAX_DEPTH + 1)),
            Err(JsonError::TooDeep)
        );
        assert_eq!(Json::compact(&nested(1_000_000)), Err(JsonError::TooDeep));
        assert_eq!(
            Json::compact(&format!("{}1", "{\"a\":".repeat(MAX_DEPTH + 1))),
            Err(JsonError::Invalid)
        );
        assert!(Json::compact(&format!("\"{}\"", "[".repeat(1000))).is_ok());
        assert!(Json::compact(&format!("[{}1]", "[],".repeat(1000))).is_ok());
    }

    /// R-STOR-12
    #[test]
    fn values_are_the_same_by_what_they_mean() {
        let same = [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E+2"),
            ("0", "-0.0"),
            ("0", "0e99999999999"),
            ("0.1", "0.10"),
            ("-1.5", "-15e-1"),
            ("9007199254740993", "9007199254740993.0"),
            ("1e99999999999", "1e99999999999"),
            (r#""A""#, r#""\u0041""#),
            (r#""é""#, r#""\u00e9""#),
            (r#""/""#, r#""\/""#),
            (r#"{"a":1,"b":[{}]}"#, r#"{ "b": [{}], "a": 1.0 }"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"\u0061":{}}"#, r#"{"a":{}}"#),
            (r#""\ud800""#, r#""\ud800""#),
            ("[]", "[ ]"),
        ];
        for (one, other) in same {
            assert!(json(one).same_value(&json(other)), "{one} {other}");
            assert_eq!(json(one).meaning(), json(other).meaning(), "{one} {other}");
        }
        let different = [
            ("1", "2"),
            ("1", "-1"),
            ("1", "10"),
            ("1", "\"1\""),
            ("1", "[1]"),
            ("9007199254740992", "9007199254740993"),
            ("1e99999999999", "1e99999999998"),
            ("null", "{}"),
            ("null", "false"),
            ("[]", "{}"),
            ("[1,2]", "[2,1]"),
            ("[1,2]", "[1,2,3]"),
            ("[[],1]", "[[1]]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            (r#"{"a":1}"#, r#"{"A":1}"#),
            (r#""a""#, r#""a ""#),
            (r#""\ud800""#, r#""\ud801""#),
            (r#""\ud800""#, r#""\\ud800""#),
        ];
        for (one, other) in different {
            assert!(!json(one).same_value(&json(other)), "{one} {other}");
            assert_ne!(json(one).meaning(), json(other).meaning(), "{one} {other}");
        }
    }

    #[test]
    fn it_is_serialised_as_the_value_itself() {
        #[derive(Serialize, Deserialize)]
        struct Message {
            data: Json,
        }
        let message: Message =
            serde_json::from_str(r#"{"data": {"n": 9007199254740993.0 }}"#).unwrap();
        assert_eq!(message.data.as_str(), r#"{"n":9007199254740993.0}"#);
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"data":{"n":9007199254740993.0}}"#
        );
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(129), "]".repeat(129));
        assert!(serde_json::from_str::<Message>(&deep).is_err());
        assert_eq!(Json::null().as_str(), "null");
    }

    /// Any JSON value.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            r#"[\[\]{}",:\\ \t\n]{0,8}"#.prop_map(Into::into),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn compact_text_means_what_the_text_meant(value in value()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let compact = json(&pretty);
            prop_assert_eq!(compact.as_str(), value.to_string());
            prop_assert_eq!(&json(compact.as_str()), &compact);
            prop_assert!(compact.same_value(&compact));
        }

        /// R-STOR-12
        #[test]
        fn the_order_of_members_does_not_matter(
            members in prop::collection::btree_map(any::<String>(), value(), 0..6),
        ) {
            let object = |members: Vec<(&String, &serde_json::Value)>| {
                let members = members.into_iter().map(|(name, value)| (name.clone(), value.clone()));
                json(&serde_json::Value::Object(members.collect()).to_string())
            };
            let forwards = object(members.iter().collect());
            let backwards = object(members.iter().rev().collect());
            prop_assert!(forwards.same_value(&backwards));
        }

        /// R-STOR-12
        #[test]
        fn integers_are_the_same_only_if_they_are_equal(one in any::<i64>(), step in -2_i64..=2) {
            let other = one.saturating_add(step);
            let same = json(&one.to_string()).same_value(&json(&format!("{other}.0")));
            prop_assert_eq!(same, one == other);
        }

        /// R-STOR-12
        #[test]
        fn a_number_is_the_same_in_every_notation(mantissa in any::<i64>(), zeros in 0_usize..30, point in 0_usize..30) {
            // Move the point to the left, and say so in the exponent.
            let sign = if mantissa < 0 { "-" } else { "" };
            let digits = format!("{:0>width$}", mantissa.unsigned_abs(), width = point + 1);
            let (whole, fraction) = digits.split_at(digits.len() - point);
            // JSON allows no leading zeros.
            let whole = Some(whole.trim_start_matches('0')).filter(|whole| !whole.is_empty()).unwrap_or("0");
            let moved = format!("{sign}{whole}.{fraction}{}E+{point}", "0".repeat(zeros + 1));
            let plain = mantissa.to_string();
            prop_assert!(json(&plain).same_value(&json(&moved)), "{} {}", plain, moved);
        }

        #[test]
        fn no_text_panics(text in r#"[\[\]{}",:\\0-9eE+\-. tru]{0,20}"#) {
            if let Ok(value) = Json::compact(&text) {
                prop_assert!(value.same_value(&json(value.as_str())));
            }
        }
    }
}
