//! The keys of `channels`, `messages` and `storage`: literal names, wildcard patterns and regular expressions.

use std::cmp::Reverse;
use std::fmt;

use super::go_regex::{Budget, GoRegex};

/// What introduces a regular expression (R-PERM-1).
const REGEX_PREFIX: &str = "#regex:";

/// One key, in two words: a token has many.
pub enum Pattern {
    /// A literal name, or with a `*` in it a wildcard pattern, where each stands for any characters, also none.
    Name(Box<str>),
    /// Matches anywhere in the name unless anchored. With its source.
    Regex(Box<(Box<str>, GoRegex)>),
}

/// Which of several keys that match a name gives the value where only one can (R-PERM-15); the greatest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'a>(Kind, Reverse<&'a str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Regex,
    /// With the number of its characters other than `*`.
    Wildcard(usize),
    Literal,
}

impl Pattern {
    /// Reads a key; the error completes a sentence about it.
    pub fn parse(key: &str, budget: &mut Budget) -> Result<Self, String> {
        if let Some(expression) = key.strip_prefix(REGEX_PREFIX) {
            let regex = GoRegex::compile(expression, budget)?;
            return Ok(Self::Regex(Box::new((key.into(), regex))));
        }
        Ok(Self::Name(key.into()))
    }

    /// The one name that the key stands for, if it is not a pattern.
    pub fn literal(&self) -> Option<&str> {
        match self {
            Self::Name(name) if !name.contains('*') => Some(name),
            Self::Name(_) | Self::Regex(_) => None,
        }
    }

    /// Whether the key covers the name. Time is linear in the name.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(pattern) => wildcard_matches(pattern, name),
            Self::Regex(regex) => regex.1.is_match(name),
        }
    }

    /// The rank of the key (R-PERM-15).
    pub fn precedence(&self) -> Precedence<'_> {
        match self {
            Self::Regex(regex) => Precedence(Kind::Regex, Reverse(&regex.0)),
            Self::Name(key) if self.literal().is_some() => Precedence(Kind::Literal, Reverse(key)),
            Self::Name(key) => {
                let characters = key.chars().filter(|&character| character != '*').count();
                Precedence(Kind::Wildcard(characters), Reverse(key))
            }
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(key) => key.fmt(formatter),
            Self::Regex(regex) => regex.0.fmt(formatter),
        }
    }
}

/// The text before the first `*` and after the last must be the ends of the name; what stands between stars is looked
/// for from left to right, each piece at its first occurrence after the one before, which leaves most to the others.
fn wildcard_matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(key: &str) -> Pattern {
        Pattern::parse(key, &mut Budget::default())
            .unwrap_or_else(|problem| panic!("{key} {problem}"))
    }

    /// R-PERM-1, R-PERM-2, R-PERM-3
    #[test]
    fn a_wildcard_key_covers_the_whole_name_and_each_star_any_characters() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "team.7.*",
                &["team.7.alerts", "team.7.", "team.7.a.b"],
                &["team.7", "team.71", "xteam.7.a"],
            ),
            ("*", &["", "a", "a.b/c", "日本"], &[]),
            ("*.x", &[".x", "a.x", "x.x.x"], &["x", "a.x.y"]),
            (
                "a*b*c",
                &["abc", "a-b-c", "abbcc", "abcbc"],
                &["acb", "ab", "abca"],
            ),
            ("a**b", &["ab", "axb"], &["a", "ba"]),
            ("*日*", &["日", "本日は"], &["本"]),
            // The ends may not overlap.
            ("ab*ba", &["abba", "abxba"], &["aba"]),
            ("a*a", &["aa"], &["a"]),
            // Nothing else means anything.
            ("a.c*", &["a.cd"], &["abcd"]),
            ("[a]?*", &["[a]?x"], &["ax"]),
        ];
        for (key, good, bad) in cases {
            good.iter()
                .for_each(|name| assert!(pattern(key).matches(name), "{key} {name}"));
            bad.iter()
                .for_each(|name| assert!(!pattern(key).matches(name), "{key} {name}"));
            assert_eq!(pattern(key).literal(), None);
        }
    }

    /// R-PERM-1
    #[test]
    fn any_other_key_is_the_name_itself() {
        for key in ["team.7", "", "regex:a", "#a", "^a$", "#REGEX:a"] {
            assert!(pattern(key).matches(key));
            assert!(!pattern(key).matches(&format!("{key}x")));
            assert_eq!(pattern(key).literal(), Some(key));
        }
    }

    /// R-PERM-1, R-PERM-4
    #[test]
    fn what_follows_the_prefix_is_a_regular_expression() {
        let lot = pattern(r"#regex:^lot\.[0-9]+$");
        assert!(lot.matches("lot.19"));
        assert!(!lot.matches("lot.x"));
        assert!(!lot.matches(r"#regex:^lot\.[0-9]+$"));
        assert_eq!(lot.literal(), None);
        // Also with a star in it.
        assert!(pattern("#regex:^a*$").matches("aaa"));
        // One without anything in it matches anywhere.
        assert!(pattern("#regex:").matches("a"));
    }

    /// R-PERM-15
    #[test]
    fn literal_keys_go_before_longer_patterns_before_shorter_ones_before_regular_expressions() {
        let order = [
            "lab.core",
            "lab.co*",
            "*.core",
            "lab.*",
            "lab*",
            "*",
            "#regex:a",
            "#regex:lab",
        ];
        let patterns = order.map(pattern);
        for pair in patterns.windows(2) {
            assert!(pair[0].precedence() > pair[1].precedence(), "{:?}", pair);
        }
        // Stars do not count, and characters are no bytes.
        assert!(pattern("abc*").precedence() > pattern("***日本***").precedence());
    }

    /// Tries every length for every star.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            Some((first, rest)) => name
                .split_first()
                .is_some_and(|(next, name)| next == first && naive(rest, name)),
        }
    }

    proptest! {
        /// R-PERM-3
        #[test]
        fn wildcards_match_what_trying_everything_matches(key in "[ab日*]{0,8}", name in "[ab日]{0,10}") {
            let (characters, text): (Vec<_>, Vec<_>) = (key.chars().collect(), name.chars().collect());
            prop_assert_eq!(pattern(&key).matches(&name), naive(&characters, &text));
        }
    }
}
