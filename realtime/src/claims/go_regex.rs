//! Regular expressions with the syntax and meaning that they have in Go (RE2), in terms of `regex-automata`.
//!
//! Both libraries share their ancestry, but differ where a difference would grant or deny a permission: to Go `\d`, `\w`,
//! `\s` and `\b` are ASCII, `[a&&b]` and `[a[b]` are sets of those very characters, `\Q…\E` quotes, `\<` is a character,
//! `\12` is octal, and `{` stands for itself unless it begins a repetition. So an expression is read by Go's grammar and
//! written down again using only what means the same to both. What is not known here is refused, never passed on.
//!
//! Left over: names in `\p{…}` are looked up by `regex-syntax`, which knows more of them, and of Unicode's version at
//! its build; `\x{D800}` to `\x{DFFF}`, `a(?i)*` and `(?i-i)` are refused, where Go takes them; nesting is limited to
//! [`MAX_NESTING`], where Go has 1000; nested counts are limited by the compiled size, where Go limits their product.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use regex_automata::nfa::thompson::pikevm::PikeVM;
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;

/// Most bytes of one expression as it is written in the token.
pub const MAX_BYTES: usize = 1024;
/// Deepest nesting of groups and repetitions.
pub const MAX_NESTING: u32 = 64;
/// About as many characters as the largest of the Unicode classes in use, that of letters, has.
const UNICODE_CLASS: u32 = 150_000;
/// Most repetitions that `{n,m}` may ask for, as in Go.
const MAX_REPETITIONS: u32 = 1000;

/// What the expressions of one token may use together, so that neither reading a token nor matching with it can stall a
/// server (R-PERM-7): about 30 milliseconds for the worst that could be thought of, where ordinary ones take
/// microseconds.
#[derive(Debug)]
pub struct Budget {
    /// How many expressions.
    pub expressions: usize,
    /// Bytes of their automata, which also bounds the time to match.
    pub bytes: usize,
    /// Characters in ranges and Unicode classes for which a counterpart in the other case has to be looked for.
    pub folded: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            expressions: 32,
            bytes: 128 * 1024,
            folded: 1_500_000,
        }
    }
}

/// A compiled expression.
///
/// It is kept as the smallest automaton, a few kilobytes, and not with what would make long texts fast: a connection may
/// have some of these for as long as it lives, and names are short.
#[derive(Debug)]
pub struct GoRegex(PikeVM);

impl GoRegex {
    /// Compiles an expression within what is left of a budget; the error completes a sentence that begins with its place.
    pub fn compile(expression: &str, budget: &mut Budget) -> Result<Self, String> {
        let too_large = || {
            "is too large a regular expression, alone or with the others of the token".to_owned()
        };
        budget.expressions = budget
            .expressions
            .checked_sub(1)
            .ok_or("is one regular expression too many")?;
        let (translated, folded) = translate(expression)?;
        budget.folded = budget.folded.checked_sub(folded).ok_or_else(too_large)?;

        // Messages go over several lines, and only the last says what is wrong.
        let last_line = |text: String| {
            invalid(
                text.lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: "),
            )
        };
        let syntax = syntax::Config::new().nest_limit(MAX_NESTING);
        let hir = syntax::parse_with(&translated, &syntax)
            .map_err(|error| last_line(error.to_string()))?;
        let config = thompson::Config::new()
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(budget.bytes));
        let nfa = thompson::Compiler::new()
            .configure(config)
            .build_from_hir(&hir)
            .map_err(|_| too_large())?;
        budget.bytes = budget
            .bytes
            .checked_sub(nfa.memory_usage())
            .ok_or_else(too_large)?;
        PikeVM::new_from_nfa(nfa)
            .map(Self)
            .map_err(|error| last_line(error.to_string()))
    }

    /// Whether it matches anywhere in the text. Time is linear in the text, and in the compiled size.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(&mut self.0.create_cache(), text)
    }
}

fn invalid(reason: &str) -> String {
    format!("is not a valid regular expression: {reason}")
}

/// The expression in the syntax of `regex-syntax`, and how many characters of classes it asks to fold.
fn translate(expression: &str) -> Result<(String, u32), String> {
    if expression.len() > MAX_BYTES {
        return Err(format!(
            "is a regular expression of more than {MAX_BYTES} bytes"
        ));
    }
    let out = String::with_capacity(2 * expression.len());
    let rest = expression.chars().peekable();
    let mut translation = Translation {
        rest,
        out,
        in_classes: 0,
        folds: false,
    };
    translation.run().map_err(invalid)?;
    let folded = if translation.folds {
        translation.in_classes
    } else {
        0
    };
    Ok((translation.out, folded))
}

struct Translation<'e> {
    rest: Peekable<Chars<'e>>,
    out: String,
    /// Characters in ranges and, counted as a large one, Unicode classes.
    in_classes: u32,
    /// Whether any part ignores case.
    folds: bool,
}

type Outcome<T = ()> = Result<T, &'static str>;

impl Translation<'_> {
    fn run(&mut self) -> Outcome {
        let mut after_repetition = false;
        while let Some(character) = self.rest.next() {
            let repetition = match character {
                '*' | '+' | '?' => Some(character.to_string()),
                '{' => self.counted()?,
                _ => None,
            };
            if let Some(repetition) = repetition {
                if after_repetition {
                    return Err("a repetition is repeated");
                }
                // Being lazy changes what is matched, not whether.
                self.rest.next_if_eq(&'?');
                self.out.push_str(&repetition);
                after_repetition = true;
                continue;
            }
            after_repetition = false;
            match character {
                '.' | '^' | '$' | '|' | ')' => self.out.push(character),
                '(' => self.group()?,
                '[' => self.class()?,
                '\\' => self.escape()?,
                literal => self.literal(literal),
            }
        }
        Ok(())
    }

    fn literal(&mut self, character: char) {
        push_literal(&mut self.out, character);
    }

    /// What `{` begins, if it is a repetition: `{n}`, `{n,}` or `{n,m}`. If not, nothing more is taken and the brace is
    /// left as a literal.
    fn counted(&mut self) -> Outcome<Option<String>> {
        let mut ahead = self.rest.clone();
        let Some(least) = number(&mut ahead) else {
            return Ok(None);
        };
        let mut most = Some(least);
        if ahead.next_if_eq(&',').is_some() {
            most = number(&mut ahead);
            if most.is_none() && ahead.peek() != Some(&'}') {
                return Ok(None);
            }
        }
        if ahead.next() != Some('}') {
            return Ok(None);
        }
        if least.max(most.unwrap_or(0)) > MAX_REPETITIONS || most.is_some_and(|most| most < least) {
            return Err("a repetition's count is too large or its ends are the wrong way round");
        }
        self.rest = ahead;
        Ok(Some(match most {
            Some(most) => format!("{{{least},{most}}}"),
            None => format!("{{{least},}}"),
        }))
    }

    /// After `(`. What is captured is of no interest, so every group becomes one that does not.
    fn group(&mut self) -> Outcome {
        if self.rest.next_if_eq(&'?').is_none() {
            self.out.push_str("(?:");
            return Ok(());
        }
        let mut ahead = self.rest.clone();
        ahead.next_if_eq(&'P');
        if ahead.next() == Some('<') {
            self.rest = ahead;
            return self.group_name();
        }
        self.flags()
    }

    fn group_name(&mut self) -> Outcome {
        let letter = |next: &char| next.is_ascii_alphanumeric() || *next == '_';
        let named = self.rest.next_if(letter).is_some();
        while self.rest.next_if(letter).is_some() {}
        if !named || self.rest.next() != Some('>') {
            return Err("look-behind is not supported, nor is this a group's name");
        }
        self.out.push_str("(?:");
        Ok(())
    }

    /// After `(?`: flags for the rest of the group, or for a group of their own.
    fn flags(&mut self) -> Outcome {
        let mut flags = String::new();
        let mut after_minus = None;
        loop {
            match self.rest.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U')) => {
                    after_minus = after_minus.map(|_| true);
                    self.folds |= flag == 'i';
                    // Setting a flag twice is no error to Go. The other library is told once.
                    if !flags.contains(flag) {
                        flags.push(flag);
                    }
                }
                Some('-') if after_minus.is_none() => {
                    after_minus = Some(false);
                    flags.push('-');
                }
                Some(end @ (':' | ')')) if after_minus != Some(false) => {
                    if end == ':' || !flags.is_empty() {
                        write!(self.out, "(?{flags}{end}").map_err(|_| "cannot be written")?;
                    }
                    return Ok(());
                }
                _ => return Err("look-around is not supported, nor is this a group or a flag"),
            }
        }
    }

    /// After `[`. Inside, only `\`, `]`, `[:`, a leading `^` and the `-` of a range mean anything.
    fn class(&mut self) -> Outcome {
        let unclosed = "a character class is not closed";
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let character = self.rest.next().ok_or(unclosed)?;
            match character {
                ']' if !first => break,
                '[' if self.rest.peek() == Some(&':') && self.named_class()? => {}
                '\\' if self.set_in_class()? => {}
                character => {
                    let low = self.class_character(character)?;
                    push_literal(&mut self.out, low);
                    let mut ahead = self.rest.clone();
                    if ahead.next() == Some('-') && ahead.peek().is_some_and(|&next| next != ']') {
                        self.rest = ahead;
                        let character = self.rest.next().ok_or(unclosed)?;
                        let high = self.class_character(character)?;
                        if high < low {
                            return Err("the ends of a range are the wrong way round");
                        }
                        self.out.push('-');
                        push_literal(&mut self.out, high);
                        self.in_classes = self
                            .in_classes
                            .saturating_add(u32::from(high) - u32::from(low));
                    }
                }
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }

    /// One character of a class, which may be written as an escape.
    fn class_character(&mut self, character: char) -> Outcome<char> {
        if character == '\\' {
            self.escaped_character()
        } else {
            Ok(character)
        }
    }

    /// Before `:`, after `[`: a POSIX class such as `[:alpha:]`. Without a `:]` further on the bracket is a literal.
    fn named_class(&mut self) -> Outcome<bool> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        let rest: String = self.rest.clone().skip(1).collect();
        let Some((name, _)) = rest.split_once(":]") else {
            return Ok(false);
        };
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err("there is no character class of that name");
        }
        write!(self.out, "[:{name}:]").map_err(|_| "cannot be written")?;
        // The name is ASCII, and stands between `:` and `:]`.
        self.rest.nth(name.len() + 2);
        Ok(true)
    }

    /// After `\` in a class: a set of characters such as `\d`, if it is one.
    fn set_in_class(&mut self) -> Outcome<bool> {
        match self.rest.peek() {
            Some('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'p' | 'P') => self.set().map(|()| true),
            _ => Ok(false),
        }
    }

    /// After `\`, before the letter of a set.
    fn set(&mut self) -> Outcome {
        let set = match self.rest.next() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            // Unlike others, without the vertical tab.
            Some('s') => r"[\t\n\f\r\x20]",
            Some('S') => r"[^\t\n\f\r\x20]",
            // With `(?i)` both libraries add what folds to these letters, and both before they negate.
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some(letter @ ('p' | 'P')) => return self.unicode_class(letter == 'P'),
            _ => return Err("there is no such escape"),
        };
        self.out.push_str(set);
        Ok(())
    }

    /// After `\p` or `\P`: one letter, or a name in braces, which `^` negates.
    fn unicode_class(&mut self, negated: bool) -> Outcome {
        let mut negated = negated;
        let mut name = String::new();
        match self.rest.next() {
            Some('{') => {
                if self.rest.next_if_eq(&'^').is_some() {
                    negated = !negated;
                }
                name.extend(std::iter::from_fn(|| {
                    self.rest
                        .next_if(|next| next.is_ascii_alphanumeric() || *next == '_')
                }));
                if self.rest.next() != Some('}') || name.is_empty() {
                    return Err("there is no Unicode class of that name");
                }
            }
            Some(letter) if letter.is_ascii_uppercase() => name.push(letter),
            _ => return Err("there is no Unicode class of that name"),
        }
        self.in_classes = self.in_classes.saturating_add(UNICODE_CLASS);
        let letter = if negated { 'P' } else { 'p' };
        write!(self.out, "\\{letter}{{{name}}}").map_err(|_| "cannot be written")
    }

    /// After `\`, outside of a class.
    fn escape(&mut self) -> Outcome {
        match self.rest.peek() {
            Some('A') => self.out.push_str(r"\A"),
            Some('z') => self.out.push_str(r"\z"),
            Some('b') => self.out.push_str(r"(?-u:\b)"),
            Some('B') => self.out.push_str(r"(?-u:\B)"),
            Some('Q') => {
                self.rest.next();
                self.quotation();
                return Ok(());
            }
            Some('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'p' | 'P') => return self.set(),
            _ => {
                let character = self.escaped_character()?;
                self.literal(character);
                return Ok(());
            }
        }
        self.rest.next();
        Ok(())
    }

    /// After `\Q`: everything up to `\E` or the end, as it is.
    fn quotation(&mut self) {
        while let Some(character) = self.rest.next() {
            if character == '\\' && self.rest.next_if_eq(&'E').is_some() {
                return;
            }
            self.literal(character);
        }
    }

    /// After `\`: an escape that stands for one character.
    fn escaped_character(&mut self) -> Outcome<char> {
        let unknown = "there is no such escape, or it is a back-reference";
        let character = self.rest.next().ok_or("it ends with a backslash")?;
        Ok(match character {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => return self.hexadecimal(),
            // One digit alone would be a back-reference.
            '1'..='7' if !self.rest.peek().is_some_and(|next| next.is_digit(8)) => {
                return Err(unknown);
            }
            '0'..='7' => {
                let mut value = character.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.rest.next_if(|next| next.is_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit.to_digit(8).unwrap_or(0);
                }
                char::from_u32(value).ok_or(unknown)?
            }
            character if character.is_ascii() && !character.is_ascii_alphanumeric() => character,
            _ => return Err(unknown),
        })
    }

    /// After `\x`: two hexadecimal digits, or any number of them in braces.
    fn hexadecimal(&mut self) -> Outcome<char> {
        let wrong = "`\\x` is not followed by the number of a character";
        let braces = self.rest.next_if_eq(&'{').is_some();
        let mut value: u32 = 0;
        let mut digits = 0;
        while let Some(digit) = self
            .rest
            .next_if(|next| (braces || digits < 2) && next.is_ascii_hexdigit())
        {
            value = value
                .saturating_mul(16)
                .saturating_add(digit.to_digit(16).unwrap_or(0));
            digits += 1;
        }
        let complete = if braces {
            digits > 0 && self.rest.next() == Some('}')
        } else {
            digits == 2
        };
        char::from_u32(value).filter(|_| complete).ok_or(wrong)
    }
}

/// A character that stands for itself, inside and outside of a class.
fn push_literal(out: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() {
        out.push(character);
    } else {
        out.push_str(&format!("\\x{:02X}", u32::from(character)));
    }
}

/// A count without leading zeros; one that is too large for anything is a large one.
fn number(characters: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let first = characters.next_if(char::is_ascii_digit)?;
    let mut value = first.to_digit(10)?;
    while let Some(digit) = characters.next_if(char::is_ascii_digit) {
        if first == '0' {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(digit.to_digit(10)?);
    }
    Some(value)
}

#[cfg(test)]
mod tests;
