//! The user's hooks (section 1.7 of the specification).

use super::{
    field::{Field, Section, nearest},
    model::{HookEntry, RunCondition},
    pattern,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Hooks with a moment of their own (D-HOOK-1). Any other name is a hook that the user calls.
const RESERVED: [&str; 13] = [
    "pre_pack",
    "post_pack",
    "pre_provision",
    "post_provision",
    "pre_hotswap",
    "post_hotswap",
    "pre_promote",
    "post_promote",
    "pre_prune",
    "post_prune",
    "ec2_bootstrap",
    "pre_cutover",
    "post_rollback",
];
/// Reserved ones whose moment this version does not have.
const UNAVAILABLE: [(&str, &str); 4] = [
    ("pre_prune", "there is no `build prune`"),
    ("post_prune", "there is no `build prune`"),
    ("pre_cutover", "a `simple` swap has no common cut-over"),
    ("post_rollback", "a `simple` swap is not rolled back"),
];
/// Where a hook may also run after a failure (D-CFG-93).
const AFTER_A_PHASE: [&str; 5] = [
    "post_pack",
    "post_provision",
    "post_hotswap",
    "post_promote",
    "post_prune",
];
/// D-CFG-94.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// `hooks` (D-CFG-16).
pub(super) fn map(field: &Field) -> BTreeMap<String, Vec<HookEntry>> {
    let mut hooks = BTreeMap::new();
    for (name, list) in field.entries() {
        if list.node.is_null() {
            continue;
        }
        if !pattern::HOOK_NAME.matches(&name) {
            list.error(format!("`{name}` is not {}", pattern::HOOK_NAME.what));
        } else if !RESERVED.contains(&name.as_str()) {
            // A typing error is the likelier reading; a hook of one's own waits for a later version.
            list.warn(&match nearest(&name, &RESERVED) {
                Some(meant) => {
                    format!("is never run by this version; `{meant}` would run by itself")
                }
                None => "is never run by this version: there is no `build hook` yet".to_owned(),
            });
        }
        let entries: Vec<HookEntry> = list
            .list()
            .iter()
            .filter_map(Field::section)
            .map(|section| entry(&name, section))
            .collect();
        if let Some((_, why)) = UNAVAILABLE.iter().find(|(n, _)| *n == name)
            && !entries.is_empty()
        {
            list.unavailable(why);
        }
        hooks.insert(name, entries);
    }
    hooks
}

fn entry(name: &str, hook: Section) -> HookEntry {
    let (repo, git_ref, dockerfile, executable) = (
        hook.get("repo"),
        hook.get("ref"),
        hook.get("dockerfile"),
        hook.get("executable"),
    );
    match (&repo, &executable) {
        (Some(_), Some(executable)) => {
            executable.error("excludes `repo`: a plugin runs from its Dockerfile")
        }
        (None, Some(executable)) if dockerfile.is_some() => {
            executable.error("excludes `dockerfile`; keep one of them")
        }
        (None, None) if dockerfile.is_none() => hook
            .field
            .error("needs `dockerfile`, `executable` or `repo`"),
        _ => {}
    }
    match (&repo, &git_ref) {
        (Some(_), None) => hook.missing(
            "ref",
            "is required with `repo`: a branch, a tag or, best, a full commit hash",
        ),
        (None, Some(git_ref)) => git_ref.error("needs `repo`"),
        _ => {}
    }
    let run_condition = run_condition(name, &hook);
    let default_dockerfile = repo.as_ref().map(|_| PathBuf::from("Dockerfile"));
    let read = HookEntry {
        repo: repo.and_then(|f| f.filled()),
        r#ref: git_ref.and_then(|f| git_ref_text(&f)),
        dockerfile: dockerfile.map_or(default_dockerfile, |f| f.path_below_root()),
        executable: executable.and_then(|f| f.path_below_root()),
        environment: hook
            .get("environment")
            .map(|f| environment(&f))
            .unwrap_or_default(),
        concurrent: hook
            .get("concurrent")
            .and_then(|f| f.boolean())
            .unwrap_or(false),
        run_condition,
        timeout: hook
            .get("timeout")
            .and_then(|f| f.some_time())
            .unwrap_or(DEFAULT_TIMEOUT),
    };
    if let Some(field) = hook.get("aws_credentials") {
        match field.text().as_deref() {
            None | Some("host") => {}
            Some(_) => {
                field.unavailable("hooks of regions get the credentials of the region's role")
            }
        }
    }
    hook.done();
    read
}

/// What git could take for an option is refused.
fn git_ref_text(field: &Field) -> Option<String> {
    let text = field.filled()?;
    if text.starts_with('-') || text.contains(char::is_whitespace) {
        field.error(format!("`{text}` is not a branch, tag or commit"));
        return None;
    }
    Some(text)
}

/// D-CFG-93.
fn run_condition(name: &str, hook: &Section) -> RunCondition {
    let Some(field) = hook.get("run_condition") else {
        return RunCondition::Pass;
    };
    let choices = [
        ("pass", RunCondition::Pass),
        ("fail", RunCondition::Fail),
        ("always", RunCondition::Always),
    ];
    let condition = field.one_of(&choices).unwrap_or(RunCondition::Pass);
    if condition != RunCondition::Pass && !AFTER_A_PHASE.contains(&name) {
        field.error(format!(
            "only `pass` is possible here; other conditions belong to {}",
            AFTER_A_PHASE.map(|n| format!("`{n}`")).join(", ")
        ));
    }
    condition
}

/// D-CFG-90, D-CFG-91: text sets the variable, also the empty text; null copies it from the caller.
fn environment(field: &Field) -> BTreeMap<String, Option<String>> {
    let mut variables = BTreeMap::new();
    for (name, value) in field.entries() {
        if !pattern::VARIABLE.matches(&name) {
            value.error(format!("`{name}` is not {}", pattern::VARIABLE.what));
        }
        if value.node.is_null() {
            variables.insert(name, None);
        } else if let Some(text) = value.text() {
            variables.insert(name, Some(text));
        }
    }
    variables
}
