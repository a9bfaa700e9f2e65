//! Reading one key: its type, its rule, its complaint with path and line. Every complaint is collected and reading goes
//! on (D-CFG-3); a map remembers which keys were asked for, so that what is left over is unknown (D-CFG-4).

use super::{
    amount, duration,
    error::{ConfigError, Kind, one_line},
    node::{Flaw, Node, Position, Value, join},
    pattern::Pattern,
};
use std::{cell::RefCell, ops::RangeInclusive, time::Duration};

/// Looks up a variable of the process environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What one run of reading needs and finds.
pub(super) struct Reader<'a> {
    pub env: Env<'a>,
    file: &'a str,
    interpolate: bool,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, env: Env<'a>, interpolate: bool) -> Self {
        Self {
            env,
            file,
            interpolate,
            errors: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub fn flaw(&self, flaw: Flaw) {
        self.error(Kind::Invalid, Some(flaw.at), flaw.path, flaw.message);
    }

    /// A finding about a variable of the process environment, which has no line.
    pub fn variable(&self, kind: Kind, name: &str, message: String) {
        let error = ConfigError {
            kind,
            file: "environment".into(),
            path: name.into(),
            line: None,
            column: None,
            message,
        };
        self.errors.borrow_mut().push(error);
    }

    pub fn finish(self) -> (Vec<ConfigError>, Vec<String>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }

    fn error(&self, kind: Kind, at: Option<Position>, path: String, message: String) {
        let error = ConfigError {
            kind,
            file: self.file.into(),
            path,
            line: at.map(|p| p.line),
            column: at.map(|p| p.column),
            message,
        };
        self.errors.borrow_mut().push(error);
    }
}

/// What stands at `key`: this version of porter does not do that (`why` says what it does instead, or nothing).
pub(super) fn unsupported(key: &str, why: &str) -> String {
    let reason = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    format!("`{key}` is not available in this version of porter{reason}")
}

/// A value and its key path.
#[derive(Clone)]
pub(super) struct Field<'r> {
    pub reader: &'r Reader<'r>,
    pub node: &'r Node,
    pub path: String,
}

impl<'r> Field<'r> {
    pub fn error(&self, message: impl Into<String>) {
        self.reader.error(
            Kind::Invalid,
            Some(self.node.at),
            self.path.clone(),
            message.into(),
        );
    }

    /// The value is well formed, but would have an effect that this version does not implement.
    pub fn unavailable(&self, why: &str) {
        let message = match &self.node.value {
            Value::Scalar { text, .. } if is_plain_word(text) => {
                unsupported(&format!("{}: {text}", self.key()), why)
            }
            _ => unsupported(self.key(), why),
        };
        self.reader.error(
            Kind::Unavailable,
            Some(self.node.at),
            self.path.clone(),
            message,
        );
    }

    pub fn warn(&self, message: &str) {
        let at = self.node.at;
        let line = format!(
            "{}:{}:{}: {}: {message}",
            self.reader.file,
            at.line,
            at.column,
            one_line(&self.path)
        );
        let mut warnings = self.reader.warnings.borrow_mut();
        if !warnings.contains(&line) {
            warnings.push(line);
        }
    }

    /// The last key of the path, without an index.
    fn key(&self) -> &str {
        let key = self.path.rsplit('.').next().unwrap_or(&self.path);
        key.split('[').next().unwrap_or(key)
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Map(_) => "a map".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Scalar { .. } if self.node.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", shortened(text)),
        };
        self.error(format!("expected {what}, found {found}"));
        None
    }

    /// The text of a scalar after interpolation, and whether it may be read as something else than text.
    fn scalar(&self, what: &str) -> Option<(String, bool)> {
        match &self.node.value {
            Value::Scalar { text, plain } if !self.node.is_null() => {
                if !self.reader.interpolate || !text.contains("${") {
                    return Some((text.clone(), *plain));
                }
                match interpolated(text, self.reader.env) {
                    Ok(text) => Some((text, true)),
                    Err(message) => {
                        self.error(message);
                        None
                    }
                }
            }
            _ => self.expected(what),
        }
    }

    /// Any text; numbers and truth values count as their text.
    pub fn text(&self) -> Option<String> {
        self.scalar("text").map(|(text, _)| text)
    }

    /// Text with something in it.
    pub fn filled(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.error("must not be empty");
            return None;
        }
        Some(text)
    }

    pub fn matching(&self, pattern: &Pattern) -> Option<String> {
        let text = self.text()?;
        if pattern.matches(&text) {
            return Some(text);
        }
        self.error(format!("`{}` is not {}", shortened(&text), pattern.what));
        None
    }

    /// `true` or `false`, and what YAML 1.1 (porter's YAML) also took for them.
    pub fn boolean(&self) -> Option<bool> {
        let (text, plain) = self.scalar("true or false")?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" if plain => Some(true),
            "false" | "no" | "off" if plain => Some(false),
            _ => self.expected("true or false"),
        }
    }

    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let (text, plain) = self.scalar("an integer")?;
        let digits = text.replace('_', "");
        let number = (plain && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u64>().ok())
            .flatten();
        match number {
            Some(number) if range.contains(&number) => Some(number),
            Some(number) if *range.end() == u64::from(u32::MAX) => {
                self.error(format!(
                    "{number} is out of range; at least {}",
                    range.start()
                ));
                None
            }
            Some(number) => {
                self.error(format!(
                    "{number} is out of range; {} to {}",
                    range.start(),
                    range.end()
                ));
                None
            }
            None if !plain && digits.parse::<u64>().is_ok() => {
                self.expected("an integer without quotes")
            }
            None => self.expected("an integer"),
        }
    }

    pub fn count(&self, at_least: u32) -> Option<u32> {
        self.integer(u64::from(at_least)..=u64::from(u32::MAX))
            .map(|n| n as u32)
    }

    /// Whole milliseconds.
    pub fn duration(&self) -> Option<Duration> {
        let (text, _) = self.scalar("a duration such as `7s`")?;
        let parsed = duration::parse_go(&text).and_then(|d| {
            if d.subsec_nanos() % 1_000_000 == 0 {
                Ok(d)
            } else {
                Err(format!("`{text}` is finer than a millisecond"))
            }
        });
        self.accept(parsed)
    }

    /// A duration of at least a millisecond.
    pub fn some_time(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() {
            self.error("must be longer than 0");
            return None;
        }
        Some(duration)
    }

    pub fn memory(&self) -> Option<u64> {
        let text = self.scalar("a size such as `512m`")?.0;
        self.accept(amount::memory(&text))
    }

    pub fn nano_cpus(&self) -> Option<u64> {
        let text = self.scalar("a number of CPUs")?.0;
        self.accept(amount::cpus(&text))
    }

    /// A path below the repository root.
    pub fn path_below_root(&self) -> Option<std::path::PathBuf> {
        let path = std::path::PathBuf::from(self.filled()?);
        let inside = |c| {
            matches!(
                c,
                std::path::Component::Normal(_) | std::path::Component::CurDir
            )
        };
        if path.components().all(inside) {
            return Some(path);
        }
        self.error(format!(
            "`{}` leaves the directory it is relative to",
            path.display()
        ));
        None
    }

    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<_> = choices
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        self.error(format!(
            "`{}` is not one of {}",
            shortened(&text),
            names.join(", ")
        ));
        None
    }

    pub fn accept<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(message)).ok()
    }

    /// The items of a list.
    pub fn list(&self) -> Vec<Field<'r>> {
        match &self.node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| Field {
                    reader: self.reader,
                    node,
                    path: format!("{}[{index}]", self.path),
                })
                .collect(),
            _ => self.expected("a list").unwrap_or_default(),
        }
    }

    /// A list of texts.
    pub fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(Field::text).collect()
    }

    /// A map with fixed keys.
    pub fn section(&self) -> Option<Section<'r>> {
        match &self.node.value {
            Value::Map(_) => Some(Section {
                field: self.clone(),
                asked: RefCell::default(),
            }),
            _ => self.expected("a map"),
        }
    }

    /// A map whose keys the user chooses; null values are left in.
    pub fn entries(&self) -> Vec<(String, Field<'r>)> {
        match &self.node.value {
            Value::Map(entries) => entries
                .iter()
                .map(|(key, node)| {
                    (
                        key.name.clone(),
                        Field {
                            reader: self.reader,
                            node,
                            path: join(&self.path, &key.name),
                        },
                    )
                })
                .collect(),
            _ => self.expected("a map").unwrap_or_default(),
        }
    }

    /// A map of texts whose keys the user chooses.
    pub fn text_map(&self) -> std::collections::BTreeMap<String, String> {
        self.entries()
            .into_iter()
            .filter_map(|(key, field)| Some((key, field.text()?)))
            .collect()
    }
}

/// A map with fixed keys. Call [`Section::done`] when all of them were asked for.
pub(super) struct Section<'r> {
    pub field: Field<'r>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'r> Section<'r> {
    /// The value of a key; `None` when it is absent or null.
    pub fn get(&self, key: &'static str) -> Option<Field<'r>> {
        self.asked.borrow_mut().push(key);
        let node = self.field.node.get(key).filter(|n| !n.is_null())?;
        Some(Field {
            reader: self.field.reader,
            node,
            path: join(&self.field.path, key),
        })
    }

    /// The value of a key that must be there.
    pub fn require(&self, key: &'static str) -> Option<Field<'r>> {
        let field = self.get(key);
        if field.is_none() {
            self.missing(key, "is required");
        }
        field
    }

    /// Complains about an absent key, at the place where its map begins.
    pub fn missing(&self, key: &str, message: impl Into<String>) {
        let path = join(&self.field.path, key);
        self.field.reader.error(
            Kind::Invalid,
            Some(self.field.node.at),
            path,
            message.into(),
        );
    }

    /// Complains about every key that nobody asked for (D-CFG-4).
    pub fn done(&self) {
        self.done_except(|_| false);
    }

    /// The same, with keys that are free.
    pub fn done_except(&self, free: impl Fn(&str) -> bool) {
        let Value::Map(entries) = &self.field.node.value else {
            return;
        };
        let asked = self.asked.borrow();
        for (key, _) in entries {
            if asked.contains(&key.name.as_str()) || free(&key.name) {
                continue;
            }
            let hint = nearest(&key.name, &asked)
                .map(|k| format!("; did you mean `{k}`?"))
                .unwrap_or_default();
            let path = join(&self.field.path, &key.name);
            self.field.reader.error(
                Kind::Invalid,
                Some(key.at),
                path,
                format!("unknown key{hint}"),
            );
        }
    }
}

/// The known name that was most probably meant: swapped, missing or doubled letters, also `-` for `_`.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = name.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|k| {
            (
                strsim::damerau_levenshtein(&plain, k),
                strsim::jaro_winkler(&plain, k),
                *k,
            )
        })
        .filter(|(distance, alike, k)| *distance <= 1 + k.len() / 5 || *alike > 0.9)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(.., k)| k)
}

/// `${NAME}` → its value; `$${` stands for a literal `${` (D-CFG-11).
fn interpolated(text: &str, env: Env) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let (name, tail) = rest[start + 2..]
            .split_once('}')
            .ok_or("`${` has no closing `}`; write `$${` for the characters themselves")?;
        if !super::pattern::VARIABLE.matches(name) {
            return Err(format!(
                "`${{{}}}` is not the name of a variable",
                shortened(name)
            ));
        }
        out.push_str(&env(name).ok_or_else(|| format!("the variable `{name}` is not set"))?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// A value that a message may repeat: a choice or a number, not an address that may hold a secret.
fn is_plain_word(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_%.-".contains(&b))
}

/// Long texts are cut, so that what is wrong with them stays in sight.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_cfg_4_the_nearest_key_is_the_one_a_person_meant() {
        let known = [
            "elb",
            "elbs",
            "s3_bucket",
            "stack_definition_path",
            "instance_count",
            "instance_type",
            "name",
        ];
        for (typed, meant) in [
            ("elbb", "elb"),
            ("s3-bucket", "s3_bucket"),
            ("S3_Bucket", "s3_bucket"),
            ("stack_defintion_path", "stack_definition_path"),
            ("instance_cuont", "instance_count"),
            ("nmae", "name"),
        ] {
            assert_eq!(nearest(typed, &known), Some(meant), "{typed}"); // D-CFG-4
        }
        assert_eq!(nearest("completely_else", &known), None);
    }

    #[test]
    fn d_cfg_11_variables_are_replaced_and_unset_ones_refused() {
        let env = |name: &str| (name == "ZONE").then(|| "us-east-1a".to_owned());
        assert_eq!(
            interpolated("<${ZONE}|${ZONE}>", &env),
            Ok("<us-east-1a|us-east-1a>".into())
        ); // D-CFG-11
        assert_eq!(
            interpolated("$${ZONE} ${ZONE}", &env),
            Ok("${ZONE} us-east-1a".into())
        );
        assert_eq!(
            interpolated("${NOPE}", &env),
            Err("the variable `NOPE` is not set".into())
        );
        assert!(interpolated("${ZONE", &env).is_err() && interpolated("${}", &env).is_err());
        assert!(interpolated("${A B}", &env).is_err());
    }
}
