//! Documents use the contract's words, all of them, and their links lead somewhere.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use contract::{signal::CauseCode, step::Step};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The cause after this one in the list of D-HOT-82; a new variant does not compile until it has its place here.
fn next(cause: CauseCode) -> Option<CauseCode> {
    use CauseCode::*;
    Some(match cause {
        PayloadMissing => DigestMismatch,
        DigestMismatch => DiskFull,
        DiskFull => MemoryLow,
        MemoryLow => Engine,
        Engine => StartFailed,
        StartFailed => ContainerExited,
        ContainerExited => PortMissing,
        PortMissing => HealthTimeout,
        HealthTimeout => HandoverFailed,
        HandoverFailed => ProxyConfig,
        ProxyConfig => ProxyReload,
        ProxyReload => DrainTimeout,
        DrainTimeout => Deadline,
        Deadline => Superseded,
        Superseded => Internal,
        Internal => return None,
    })
}

#[test]
fn d_hot_82_every_cause_has_a_line_of_advice() {
    let errors = read("docs/errors.md");
    let mut cause = Some(CauseCode::PayloadMissing);
    while let Some(code) = cause {
        let word = serde_json::to_value(code).unwrap();
        let row = format!("| `{}` |", word.as_str().unwrap());
        // D-HOT-82
        let line = errors
            .lines()
            .find(|l| l.starts_with(&row))
            .unwrap_or_else(|| panic!("docs/errors.md has no row {row}"));
        let advice = line.trim_end_matches('|').rsplit('|').next().unwrap();
        assert!(advice.trim().len() > 20, "{line}");
        cause = next(code);
    }
}

#[test]
fn d_cli_3_every_exit_status_is_explained() {
    let errors = read("docs/errors.md");
    for status in [0, 1, 2, 3, 4, 5, 6, 7, 8, 130] {
        // D-CLI-2, D-CLI-3
        assert!(
            errors
                .lines()
                .any(|l| l.starts_with(&format!("| {status} |"))),
            "{status}"
        );
    }
}

#[test]
fn the_steps_stand_in_the_document_in_the_order_of_the_work() {
    let document = read("docs/hotswap.md");
    // A step that no step of the seed stands for has an empty first cell.
    let rows: Vec<&str> = document
        .lines()
        .filter_map(|line| {
            let of_seed = line.strip_prefix("| ").and_then(|l| l.split(" | ").nth(1));
            let cell = line.strip_prefix("| | ").or(of_seed)?;
            cell.strip_prefix('`')?.split('`').next()
        })
        .collect();
    let mut names: Vec<&str> = Step::ALL.into_iter().map(Step::name).collect();
    for name in &names {
        assert!(
            rows.contains(name),
            "docs/hotswap.md has no row for `{name}`"
        );
    }
    names.retain(|n| *n != Step::Await.name());
    let in_order: Vec<&str> = rows.into_iter().filter(|r| names.contains(r)).collect();
    assert_eq!(in_order, names);
}

#[test]
fn links_between_documents_lead_to_files() {
    let root = root();
    let mut documents = vec![root.join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        documents.extend(
            fs::read_dir(root.join(folder))
                .unwrap()
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "md")),
        );
    }
    assert!(documents.len() > 8);
    let mut dead = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|t| t.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.contains("://") || file.is_empty() {
                continue;
            }
            if !document.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_eq!(dead, Vec::<String>::new());
}
