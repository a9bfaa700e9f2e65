//! How values are written: durations, sizes, caps, lists. Each form reads text and shows what it has read.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// Units of a duration, longest first.
const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of a size, largest first. Powers of 1024 only: what `KB` means is a matter of taste.
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads items as one value, or says everything that is wrong with them.
type Read<T> = Box<dyn Fn(&[String]) -> Result<T, Vec<String>> + Send + Sync>;
/// Shows a value.
type Show<T> = Box<dyn Fn(&T) -> String + Send + Sync>;

/// How the value of a setting is written.
pub(super) struct Form<T> {
    /// What the documentation says about it, such as `duration`.
    pub name: String,
    /// Whether it takes any number of items, separated by commas where one text holds them.
    pub list: bool,
    /// Reads the items: exactly one, unless it is a list.
    pub read: Read<T>,
    /// Shows what was read, such that reading it again gives the same.
    pub show: Show<T>,
}

/// A form for one value.
pub(super) fn one<T: 'static>(
    name: &str,
    read: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    show: impl Fn(&T) -> String + Send + Sync + 'static,
) -> Form<T> {
    Form {
        name: name.into(),
        list: false,
        read: Box::new(move |items| match items {
            [item] => read(item.trim()).map_err(|message| vec![message]),
            _ => Err(vec!["takes one value, not a list".into()]),
        }),
        show: Box::new(show),
    }
}

/// A form for any number of values.
pub(super) fn many<T: 'static>(
    name: &str,
    read: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    show: impl Fn(&T) -> String + Send + Sync + 'static,
) -> Form<Vec<T>> {
    Form {
        name: name.into(),
        list: true,
        read: Box::new(move |items| {
            let items = items.iter().map(|i| i.trim()).filter(|i| !i.is_empty());
            let (mut values, mut wrong) = (Vec::new(), Vec::new());
            for item in items.map(&read) {
                match item {
                    Ok(value) => values.push(value),
                    Err(message) => wrong.push(message),
                }
            }
            if wrong.is_empty() {
                Ok(values)
            } else {
                Err(wrong)
            }
        }),
        show: Box::new(move |items| items.iter().map(&show).collect::<Vec<_>>().join(",")),
    }
}

/// Values of one of our own types.
pub(super) fn parsed<T: FromStr<Err = String> + Display + 'static>(name: &str) -> Form<Vec<T>> {
    many(name, str::parse, T::to_string)
}

/// Text; empty for none.
pub(super) fn text() -> Form<Option<String>> {
    one(
        "text",
        |t| Ok((!t.is_empty()).then(|| t.to_owned())),
        |t| t.clone().unwrap_or_default(),
    )
}

/// One word of a few.
pub(super) fn choice<T: Copy + PartialEq + Send + Sync + 'static>(
    choices: &'static [(&'static str, T)],
) -> Form<T> {
    let words: Vec<_> = choices
        .iter()
        .map(|(word, _)| format!("`{word}`"))
        .collect();
    let words = match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    };
    let expected = words.clone();
    one(
        &words,
        move |t| {
            let found = choices
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(t));
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| format!("`{t}` is not {expected}"))
        },
        |value| {
            let found = choices.iter().find(|(_, v)| v == value);
            found
                .map(|(word, _)| (*word).to_owned())
                .unwrap_or_default()
        },
    )
}

/// A duration within bounds, both included.
pub(super) fn duration(least: Duration, most: Duration) -> Form<Duration> {
    one(
        "duration",
        move |t| within(t, parse_duration(t)?, least, most, &show_duration),
        |d| show_duration(*d),
    )
}

/// A size within bounds, both included.
pub(super) fn size(least: usize, most: usize) -> Form<usize> {
    one(
        "size",
        move |t| within(t, parse_size(t)?, least, most, &show_size),
        |n| show_size(*n),
    )
}

/// A number within bounds, both included.
pub(super) fn count(least: usize, most: usize) -> Form<usize> {
    one(
        "number",
        move |t| {
            let number = t
                .replace('_', "")
                .parse()
                .map_err(|_| format!("`{t}` is not a whole number such as `{}`", least.max(100)))?;
            within(t, number, least, most, &|n| n.to_string())
        },
        usize::to_string,
    )
}

impl<T: 'static> Form<T> {
    /// This form, or `off` (also `0`) for none.
    pub fn or_off(self) -> Form<Option<T>> {
        let Self {
            name, read, show, ..
        } = self;
        Form {
            name: format!("{name} or `off`"),
            list: false,
            read: Box::new(move |items| match items {
                [item]
                    if ["off", "0", "0s"].contains(&item.trim().to_ascii_lowercase().as_str()) =>
                {
                    Ok(None)
                }
                items => read(items).map(Some),
            }),
            show: Box::new(move |value| value.as_ref().map_or_else(|| "off".into(), &show)),
        }
    }
}

fn within<T: PartialOrd + Copy>(
    text: &str,
    value: T,
    least: T,
    most: T,
    show: &dyn Fn(T) -> String,
) -> Result<T, String> {
    if value < least {
        Err(format!("`{text}` is too little: {} at least", show(least)))
    } else if value > most {
        Err(format!("`{text}` is too much: {} at most", show(most)))
    } else {
        Ok(value)
    }
}

/// Reads a duration: `10m`, `1h30m`, `500ms`, `2d`; a bare number is seconds. Milliseconds are the finest.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as `10m`, `570s` or `500ms`");
    let mut rest = text;
    let mut millis: u64 = 0;
    if text.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let (unit, tail) = tail.split_at(
            tail.find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len()),
        );
        let unit = unit.trim();
        // Only a lone number may go without a unit: `1m30` is rather a slip.
        let unit = if unit.is_empty() && millis == 0 && tail.is_empty() {
            "s"
        } else {
            unit
        };
        let scale = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?
            .1;
        let part = scaled(number, scale).map_err(|e| match e {
            Scaled::NoNumber => wrong(),
            Scaled::TooFine => format!("`{text}` is finer than a millisecond"),
            Scaled::TooMuch => format!("`{text}` is too long"),
        })?;
        millis = millis
            .checked_add(part)
            .ok_or_else(|| format!("`{text}` is too long"))?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

/// Shows a duration as [`parse_duration`] reads it, milliseconds being the finest: `1h30m`, `570s` is `9m30s`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (unit, scale) in TIMES {
        if rest >= scale {
            shown.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    if shown.is_empty() { "0s".into() } else { shown }
}

/// Reads a size: `128KiB`, `1MiB`, `1.5GiB`, `100B`; a bare number is bytes. Units in any case.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size such as `128KiB` or `1MiB`");
    let (number, unit) = split_number(text);
    let unit = unit.trim();
    let scale = match unit {
        "" => 1,
        unit => {
            SIZES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .ok_or_else(wrong)?
                .1
        }
    };
    let bytes = scaled(number, scale).map_err(|e| match e {
        Scaled::NoNumber => wrong(),
        Scaled::TooFine => format!("`{text}` is no whole number of bytes"),
        Scaled::TooMuch => format!("`{text}` is too much"),
    })?;
    usize::try_from(bytes).map_err(|_| format!("`{text}` is too much"))
}

/// Shows a size as [`parse_size`] reads it, in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    let unit = SIZES
        .iter()
        .find(|(_, scale)| bytes as u64 >= *scale && (bytes as u64).is_multiple_of(*scale));
    match unit {
        Some((unit, scale)) => format!("{}{unit}", bytes as u64 / scale),
        None => format!("{bytes}B"),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}

enum Scaled {
    NoNumber,
    TooFine,
    TooMuch,
}

/// A decimal number times `scale`, exactly.
fn scaled(number: &str, scale: u64) -> Result<u64, Scaled> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(Scaled::NoNumber);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 18 {
        return Err(Scaled::TooFine);
    }
    let tens = 10u128.pow(fraction.len() as u32);
    let part = fraction.parse::<u128>().unwrap_or(0) * u128::from(scale);
    if !part.is_multiple_of(tens) {
        return Err(Scaled::TooFine);
    }
    let whole: u128 = whole.parse().map_err(|_| Scaled::TooMuch)?;
    let all = whole
        .checked_mul(u128::from(scale))
        .and_then(|n| n.checked_add(part / tens));
    all.and_then(|n| u64::try_from(n).ok())
        .ok_or(Scaled::TooMuch)
}
