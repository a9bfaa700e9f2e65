//! Command lines of the stand-ins: only the flags that the real programs have, so that a typo does not pass.

use anyhow::{Result, bail};

/// The values of flags and the words beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: Vec<(String, String)>,
    /// Words that belong to no flag.
    pub words: Vec<String>,
}

impl Flags {
    /// The value of a flag by its short or long name; the last one counts. A switch has the value of nothing.
    pub fn get(&self, names: [&str; 2]) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(n, _)| names.contains(&n.as_str()))
            .map(|(_, v)| v.as_str())
    }
}

/// Splits a command line, with these flags that take a value and these that don't.
///
/// # Errors
/// A flag is unknown, or its value is missing.
pub fn parse(args: &[String], with_value: &[&str], switches: &[&str]) -> Result<Flags> {
    let mut flags = Flags::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if arg.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        if with_value.contains(&name) {
            let Some(value) = inline.or_else(|| args.next().cloned()) else {
                bail!("{name} requires an argument")
            };
            flags.values.push((name.to_owned(), value));
        } else if switches.contains(&name) && inline.is_none() {
            flags.values.push((name.to_owned(), String::new()));
        } else if arg.starts_with('-') && arg.len() > 1 {
            bail!("no such option: {name}");
        } else {
            flags.words.push(arg.clone());
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unknown_flag_or_a_missing_value_is_refused() {
        let parse = |line: &str| {
            super::parse(
                &line.split(' ').map(str::to_owned).collect::<Vec<_>>(),
                &["-s", "--stack"],
                &["-v"],
            )
        };
        let flags = parse("-v --stack=a -s b word").unwrap();
        assert_eq!(
            (
                flags.get(["-s", "--stack"]),
                flags.get(["-v", "-v"]),
                &flags.words[..]
            ),
            (Some("b"), Some(""), &["word".to_owned()][..])
        );
        assert!(parse("--stak a").is_err() && parse("-s").is_err());
    }
}
