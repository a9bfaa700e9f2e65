//! Build arguments: each `ARG` of a Dockerfile whose name exists in porter's environment is handed over
//! (D-PACK-10, D-PACK-11). They travel in the request to the engine, never on a command line.

use std::collections::BTreeMap;

/// Arguments that Docker itself defines.
const PREDEFINED: [&str; 14] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "SOURCE_DATE_EPOCH",
];

/// What a Dockerfile's `ARG` lines come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Declared and set in the environment.
    pub set: BTreeMap<String, String>,
    /// Declared without a default and not set.
    pub missing: Vec<String>,
}

/// Reads the `ARG` lines of a Dockerfile.
pub fn read(dockerfile: &str, environment: impl Fn(&str) -> Option<String>) -> Arguments {
    let mut declared: BTreeMap<String, bool> = BTreeMap::new();
    for line in instructions(dockerfile) {
        let Some((word, rest)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        if !word.eq_ignore_ascii_case("ARG") {
            continue;
        }
        for declaration in rest.split_whitespace() {
            let (name, default) = declaration
                .split_once('=')
                .map_or((declaration, false), |(name, _)| (name, true));
            if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty() {
                // One default serves every stage that declares the name again.
                *declared.entry(name.to_owned()).or_default() |= default;
            }
        }
    }
    let mut arguments = Arguments::default();
    for (name, has_default) in declared {
        match environment(&name) {
            Some(value) => drop(arguments.set.insert(name, value)),
            None if has_default || PREDEFINED.iter().any(|p| p.eq_ignore_ascii_case(&name)) => {}
            None => arguments.missing.push(name),
        }
    }
    arguments
}

/// Lines with continuations joined and comments left out.
fn instructions(dockerfile: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut current = String::new();
    for line in dockerfile
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        match line.strip_suffix('\\') {
            Some(part) => {
                current.push_str(part);
                current.push(' ');
            }
            None => {
                current.push_str(line);
                all.push(std::mem::take(&mut current));
            }
        }
    }
    all.push(current);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_pack_10_11_arguments_come_from_the_environment_and_only_those_without_default_may_be_missing()
     {
        let text = "ARG A\n# ARG COMMENT\nFROM x\narg B=2 C\nARG D \\\n  E=\"x\"\nARG A\nARG TARGETARCH\nRUN ARGUMENT\nARG G=1\nFROM y\nARG G\n";
        let environment = |name: &str| {
            ["A", "B", "UNDECLARED"]
                .contains(&name)
                .then(|| format!("{name}-value"))
        };
        let found = read(text, environment);
        // D-PACK-10, D-PACK-11
        assert_eq!(
            found.set,
            BTreeMap::from([
                ("A".into(), "A-value".into()),
                ("B".into(), "B-value".into())
            ])
        );
        assert_eq!(found.missing, ["C", "D"]);
    }
}
