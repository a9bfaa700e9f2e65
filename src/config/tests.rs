//! The promises of section 1 of the specification: reading, merging, defaults, messages.

mod rules;
mod table;

use super::{ConfigErrors, Kind, Loaded, parse};

/// Where a snippet goes in an otherwise complete file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Level {
    Top,
    Environment,
    HotSwap,
    Haproxy,
    Region,
    Container,
    Hook,
}

/// A complete file with `snippet` at `level`, where it replaces lines that set the same key. The environment has a
/// second region, so that orders of regions mean something.
fn file(level: Level, snippet: &str) -> String {
    let keys: Vec<&str> = snippet
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(key, _)| key)
        .collect();
    let replaced = |at: Level, key: &str| at == level && keys.contains(&key);
    let mut out = String::new();
    let mut block = |at: Option<Level>, indent: usize, lines: &[&str]| {
        let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let kept = lines
            .iter()
            .copied()
            .filter(|l| !at.is_some_and(|at| replaced(at, &key(l))));
        for line in kept.chain(if at == Some(level) { snippet } else { "" }.lines()) {
            out.push_str(&format!("{:indent$}{line}\n", ""));
        }
    };
    block(
        Some(Level::Top),
        0,
        &["service_name: hello", "porter_version: v0.1.0"],
    );
    if level == Level::Hook {
        block(None, 0, &["hooks:", "  post_pack:", "  -"]);
        block(Some(Level::Hook), 4, &[]);
    }
    if replaced(Level::Top, "environments") {
        return out;
    }
    block(None, 0, &["environments:", "-"]);
    block(
        Some(Level::Environment),
        2,
        &[
            "name: stage",
            "role_arn: arn:aws:iam::123456789012:role/porter",
        ],
    );
    for (at, key) in [(Level::HotSwap, "hot_swap:"), (Level::Haproxy, "haproxy:")] {
        if level == at {
            block(None, 2, &[key]);
            block(Some(at), 4, &[]);
        }
    }
    if replaced(Level::Environment, "regions") {
        return out;
    }
    block(None, 2, &["regions:", "-"]);
    block(
        Some(Level::Region),
        4,
        &[
            "name: us-east-1",
            "s3_bucket: deploy",
            "azs: [{name: us-east-1a}]",
        ],
    );
    if level == Level::Container {
        block(None, 4, &["containers:", "-"]);
        block(Some(Level::Container), 6, &["name: web"]);
    }
    block(
        None,
        2,
        &["- {name: eu-west-1, s3_bucket: deploy, azs: [{name: eu-west-1a}]}"],
    );
    out
}

/// Parses with an empty process environment.
fn parse_text(text: &str) -> Result<Loaded, ConfigErrors> {
    parse(text, ".porter/config", &|_| None)
}

/// The kinds of all findings.
fn kinds(text: &str) -> Vec<Kind> {
    parse_text(text).map_or_else(
        |errors| errors.errors().iter().map(|e| e.kind).collect(),
        |_| vec![],
    )
}

/// The first region of the only environment of a file that must pass.
fn first_region(text: &str) -> super::Region {
    let config = parse_text(text)
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
        .config;
    config.environments[0].regions[0].clone()
}
