//! `.dockerignore`: which files stay out of a build context.
//!
//! The rules are Docker's, not git's: a pattern is anchored at the context's root, `**` spans folders, a pattern that
//! matches a folder covers what is below it, and the last pattern that matches decides, `!` bringing files back.

/// The patterns of one `.dockerignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    brings_back: bool,
    parts: Vec<String>,
}

impl Ignored {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let patterns = lines
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .filter_map(|line| {
                let (brings_back, pattern) = match line.strip_prefix('!') {
                    Some(rest) => (true, rest.trim()),
                    None => (false, line),
                };
                let mut parts: Vec<String> = Vec::new();
                for part in pattern.split('/') {
                    match part {
                        "" | "." => {}
                        ".." => drop(parts.pop()),
                        _ => parts.push(part.to_owned()),
                    }
                }
                (!parts.is_empty()).then_some(Pattern { brings_back, parts })
            });
        Self {
            patterns: patterns.collect(),
        }
    }

    /// Whether the file or folder with this path from the root (names separated by `/`) stays out.
    pub fn covers(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        let last = self
            .patterns
            .iter()
            .rev()
            .find(|p| (1..=path.len()).any(|n| matches(&p.parts, &path[..n])));
        last.is_some_and(|p| !p.brings_back)
    }

    /// Whether nothing below a covered folder can come back, so that it need not be searched.
    pub fn is_final(&self) -> bool {
        !self.patterns.iter().any(|p| p.brings_back)
    }
}

fn matches<P: AsRef<str>>(pattern: &[P], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first.as_ref() == "**" => {
            // At the end it needs something to span; otherwise it may also be nothing.
            if rest.is_empty() {
                !path.is_empty()
            } else {
                (0..=path.len()).any(|n| matches(rest, &path[n..]))
            }
        }
        (Some((first, rest)), Some((name, below))) => {
            let first: Vec<char> = first.as_ref().chars().collect();
            let name: Vec<char> = name.chars().collect();
            part_matches(&first, &name) && matches(rest, below)
        }
        _ => false,
    }
}

/// One name against `*`, `?`, `[a-z]`, `[^a-z]` and `\x`. A malformed class matches nothing.
fn part_matches(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', rest @ ..] => (0..=name.len()).any(|n| part_matches(rest, &name[n..])),
        ['?', rest @ ..] => !name.is_empty() && part_matches(rest, &name[1..]),
        ['[', rest @ ..] => {
            let (Some(first), Some((inside, after))) = (name.first(), class(rest)) else {
                return false;
            };
            inside.holds(*first) && part_matches(after, &name[1..])
        }
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            name.first() == Some(literal) && part_matches(rest, &name[1..])
        }
    }
}

struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn holds(&self, c: char) -> bool {
        self.ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c))
            != self.negated
    }
}

fn class(mut rest: &[char]) -> Option<(Class, &[char])> {
    let negated = matches!(rest, ['^', ..]);
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        match rest {
            [']', after @ ..] if !ranges.is_empty() => {
                return Some((Class { negated, ranges }, after));
            }
            ['\\', c, after @ ..] => {
                ranges.push((*c, *c));
                rest = after;
            }
            [low, '-', high, after @ ..] if *high != ']' => {
                ranges.push((*low, *high));
                rest = after;
            }
            [c, after @ ..] => {
                ranges.push((*c, *c));
                rest = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(text: &str, path: &str) -> bool {
        Ignored::parse(text).covers(path)
    }

    #[test]
    fn patterns_are_anchored_cover_folders_and_the_last_match_decides() {
        assert!(covered("target", "target"));
        assert!(covered("target/", "target/debug/x"));
        assert!(!covered("target", "a/target"));
        assert!(covered("**/target", "a/b/target/x"));
        assert!(covered("**/target", "target"));
        assert!(covered("a/**/b", "a/b") && covered("a/**/b", "a/x/y/b"));
        assert!(covered("a/**", "a/x") && !covered("a/**", "a"));
        assert!(covered("/a/./b", "a/b"));
        assert!(!covered("# a\n\n", "a"));
        assert!(
            covered("*.log", "x.log")
                && !covered("*.log", "d/x.log")
                && covered("**/*.log", "d/x.log")
        );
        assert!(
            covered("*\n!build/hello", "build/other") && !covered("*\n!build/hello", "build/hello")
        );
        assert!(covered("!a/b\na", "a/b") && !covered("a\n!a/b", "a/b/c"));
        assert!(
            covered("a?c", "abc")
                && covered("a[a-c]c", "abc")
                && !covered("a[^a-c]c", "abc")
                && covered(r"a\*c", "a*c")
        );
        assert!(!covered(r"a\*c", "abc") && !covered("a[", "a["));
        assert!(!Ignored::parse("*\n!x").is_final() && Ignored::parse("*").is_final());
    }
}
