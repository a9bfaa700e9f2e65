//! A stand-in for cfn-init: the metadata's `AWS::CloudFormation::Init`, read as the real one reads it.
//!
//! This file decides ([`plan`], pure); [`apply`] acts. Facts: `docs/spec/cfn-hup.md`, and the reference of the metadata
//! key in the CloudFormation documentation.

mod apply;

use crate::stack_resource;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::{fs, path::PathBuf, process::ExitCode};

/// The key of the metadata that cfn-init reads.
pub const KEY: &str = "AWS::CloudFormation::Init";
const LOG: &str = "/var/log/cfn-init.log";

/// Why metadata can't be applied: what the real cfn-init would refuse, and what only it can do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InitError {
    /// A config set that is not there.
    #[error("Could not find configSet '{0}'")]
    NoSet(String),
    /// A config that a set names and that is not there.
    #[error("Config '{0}' is in a config set but not in the metadata")]
    NoConfig(String),
    /// Sets that name each other in a circle.
    #[error("Circular dependency detected in config set '{0}'")]
    Circle(String),
    /// A value of another form.
    #[error("{0}")]
    Form(String),
    /// The real one could.
    #[error("{0} is not simulated by the local cloud")]
    Unsimulated(String),
}

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only said: hosts have the programs of this machine.
    Package(String),
    /// A group, made when it is missing.
    Group(String, Option<String>),
    /// A user, made when missing; groups, home directory.
    User(String, Vec<String>, Option<String>),
    /// A file.
    File(FileAction),
    /// A command.
    Command(CommandAction),
    /// Only said: services are started by commands (`docs/spec/cfn-hup.md`, "do not depend on services").
    Service(String),
}

/// A file or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAction {
    /// Where.
    pub path: PathBuf,
    /// Bytes; of a link its target.
    pub content: Vec<u8>,
    /// Permission bits; none leaves what the umask gives.
    pub mode: Option<u32>,
    /// Mode `120xxx`.
    pub link: bool,
    /// Name or number.
    pub owner: Option<String>,
    /// Name or number.
    pub group: Option<String>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAction {
    /// Its key; commands run in the order of their keys.
    pub name: String,
    /// Program and arguments; a string goes to `/bin/sh -c`.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Replaces the whole environment when given.
    pub env: Option<Vec<(String, String)>>,
    /// The command runs only when this one ends with 0.
    pub test: Option<Vec<String>>,
    /// A failure does not end the run.
    pub ignore_errors: bool,
}

/// What these config sets do: per config in the order packages, groups, users, sources, files, commands, services.
/// Without config sets in the metadata the config named `config` is meant; metadata without the key is nothing to do.
///
/// # Errors
/// [`InitError`]
pub fn plan(metadata: &Value, sets: &[String]) -> Result<Vec<Action>, InitError> {
    let Some(init) = metadata.get(KEY) else {
        return Ok(vec![]);
    };
    let init = object(init, KEY)?;
    let mut actions = vec![];
    for name in configs(init, sets)? {
        let config = init
            .get(&name)
            .ok_or_else(|| InitError::NoConfig(name.clone()))?;
        config_actions(object(config, &name)?, &mut actions)?;
    }
    Ok(actions)
}

/// The configs of these sets, in order.
fn configs(init: &Map<String, Value>, sets: &[String]) -> Result<Vec<String>, InitError> {
    let Some(defined) = init.get("configSets") else {
        let asked = sets.iter().find(|s| *s != "default");
        return asked.map_or_else(
            || Ok(vec!["config".into()]),
            |s| Err(InitError::NoSet(s.clone())),
        );
    };
    let defined = object(defined, "configSets")?;
    let default = ["default".to_owned()];
    let mut found = vec![];
    for set in if sets.is_empty() { &default } else { sets } {
        expand(defined, set, &mut vec![], &mut found)?;
    }
    Ok(found)
}

fn expand(
    defined: &Map<String, Value>,
    set: &str,
    open: &mut Vec<String>,
    found: &mut Vec<String>,
) -> Result<(), InitError> {
    if open.iter().any(|o| o == set) {
        return Err(InitError::Circle(set.into()));
    }
    let value = defined
        .get(set)
        .ok_or_else(|| InitError::NoSet(set.into()))?;
    open.push(set.into());
    let items: &[Value] = match value {
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    };
    for item in items {
        match (item.as_str(), item.get("ConfigSet").and_then(Value::as_str)) {
            (Some(config), _) => found.push(config.into()),
            (_, Some(nested)) => expand(defined, nested, open, found)?,
            _ => {
                return Err(InitError::Form(format!(
                    "config set '{set}' holds neither a config's name nor {{\"ConfigSet\": …}}"
                )));
            }
        }
    }
    open.pop();
    Ok(())
}

fn config_actions(config: &Map<String, Value>, actions: &mut Vec<Action>) -> Result<(), InitError> {
    let known = [
        "packages", "groups", "users", "sources", "files", "commands", "services",
    ];
    if let Some(key) = config.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(InitError::Form(format!("Unknown config key '{key}'")));
    }
    for (manager, packages) in section(config, "packages")? {
        actions.extend(
            object(packages, manager)?
                .keys()
                .map(|p| Action::Package(format!("{manager} {p}"))),
        );
    }
    for (name, group) in section(config, "groups")? {
        actions.push(Action::Group(name.clone(), group.get("gid").map(scalar)));
    }
    for (name, user) in section(config, "users")? {
        let groups = user
            .get("groups")
            .and_then(Value::as_array)
            .map(|g| g.iter().map(scalar).collect())
            .unwrap_or_default();
        actions.push(Action::User(
            name.clone(),
            groups,
            user.get("homeDir").map(scalar),
        ));
    }
    if let Some((path, _)) = section(config, "sources")?.first() {
        return Err(InitError::Unsimulated(format!("`sources` ({path})")));
    }
    for (path, file) in section(config, "files")? {
        actions.push(Action::File(file_action(path, object(file, path)?)?));
    }
    for (name, command) in section(config, "commands")? {
        actions.push(Action::Command(command_action(
            name,
            object(command, name)?,
        )?));
    }
    for (manager, services) in section(config, "services")? {
        actions.extend(
            object(services, manager)?
                .keys()
                .map(|s| Action::Service(format!("{manager} {s}"))),
        );
    }
    Ok(())
}

/// The entries of a section, by key.
fn section<'a>(
    config: &'a Map<String, Value>,
    name: &str,
) -> Result<Vec<(&'a String, &'a Value)>, InitError> {
    let Some(value) = config.get(name) else {
        return Ok(vec![]);
    };
    let mut entries: Vec<_> = object(value, name)?.iter().collect();
    entries.sort_by_key(|(k, _)| *k);
    Ok(entries)
}

fn file_action(path: &str, file: &Map<String, Value>) -> Result<FileAction, InitError> {
    let form = |what: &str| InitError::Form(format!("file {path}: {what}"));
    let mode = match file.get("mode") {
        None => None,
        Some(mode) => Some(
            u32::from_str_radix(&scalar(mode), 8)
                .map_err(|_| form("the mode is not an octal number"))?,
        ),
    };
    let link = mode.is_some_and(|m| m & 0o170_000 == 0o120_000);
    let mut content = match (file.get("content"), file.get("source")) {
        (Some(Value::String(text)), None) => text.clone(),
        (Some(value), None) if value.is_object() => value.to_string(),
        (Some(_), None) => return Err(form("the content is neither a string nor an object")),
        (None, Some(_)) => return Err(InitError::Unsimulated(format!("file {path}: `source`"))),
        (Some(_), Some(_)) => return Err(form("content and source at once")),
        (None, None) => return Err(form("File specified without source or content")),
    };
    if let Some(context) = file.get("context") {
        content = mustache(&content, context).map_err(|e| form(&e))?;
    }
    let bytes = match file.get("encoding").and_then(Value::as_str) {
        Some("base64") => aws_smithy_types::base64::decode(content.trim())
            .map_err(|_| form("the content is not base64"))?,
        _ => content.into_bytes(),
    };
    Ok(FileAction {
        path: path.into(),
        content: bytes,
        mode: mode.map(|m| m & 0o7777),
        link,
        owner: file.get("owner").map(scalar),
        group: file.get("group").map(scalar),
    })
}

fn command_action(name: &str, command: &Map<String, Value>) -> Result<CommandAction, InitError> {
    let form = |what: &str| InitError::Form(format!("command {name}: {what}"));
    let argv = |value: &Value| match value {
        Value::String(line) => Some(vec!["/bin/sh".into(), "-c".into(), line.clone()]),
        Value::Array(words) if !words.is_empty() => Some(words.iter().map(scalar).collect()),
        _ => None,
    };
    let test = match command.get("test") {
        None => None,
        Some(value) => {
            Some(argv(value).ok_or_else(|| form("the test is neither a string nor a list"))?)
        }
    };
    let env = match command.get("env") {
        None => None,
        Some(value) => Some(
            object(value, "env")?
                .iter()
                .map(|(k, v)| (k.clone(), scalar(v)))
                .collect(),
        ),
    };
    Ok(CommandAction {
        name: name.into(),
        argv: command
            .get("command")
            .and_then(argv)
            .ok_or_else(|| form("No command specified"))?,
        cwd: command.get("cwd").map(|c| scalar(c).into()),
        env,
        test,
        ignore_errors: command
            .get("ignoreErrors")
            .is_some_and(|v| scalar(v) == "true"),
    })
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, InitError> {
    value
        .as_object()
        .ok_or_else(|| InitError::Form(format!("`{name}` is not an object")))
}

fn scalar(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// `{{name}}` HTML-escaped, `{{{name}}}` and `{{&name}}` as they are; sections are refused.
fn mustache(text: &str, context: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out += before;
        let (raw, after) = after
            .strip_prefix('{')
            .map_or((false, after), |a| (true, a));
        let (name, after) = after
            .split_once(if raw { "}}}" } else { "}}" })
            .ok_or("a `{{` is not closed")?;
        rest = after;
        let (raw, name) = name
            .trim()
            .strip_prefix('&')
            .map_or((raw, name.trim()), |n| (true, n.trim()));
        if name.starts_with(['#', '^', '/', '>', '!', '=']) {
            return Err(format!(
                "`{{{{{name}}}}}` is not simulated by the local cloud"
            ));
        }
        let value = name
            .split('.')
            .try_fold(context, |v, key| v.get(key))
            .map(scalar)
            .unwrap_or_default();
        let escaped = [
            ("&", "&amp;"),
            ("<", "&lt;"),
            (">", "&gt;"),
            ("\"", "&quot;"),
            ("'", "&#39;"),
        ];
        out += &if raw {
            value
        } else {
            escaped.iter().fold(value, |t, (c, e)| t.replace(c, e))
        };
    }
    Ok(out + rest)
}

/// `cfn-init -v --stack STACK --resource RESOURCE [--configsets A,B] --region REGION`
///
/// # Errors
/// As exit status 1 of the real one.
pub async fn main(args: &[String]) -> Result<ExitCode> {
    let flags = crate::flags::parse(
        args,
        &[
            "-s",
            "--stack",
            "-r",
            "--resource",
            "-c",
            "--configsets",
            "--region",
            "--url",
            "--role",
        ],
        &["-v", "--verbose"],
    )?;
    let need = |names: [&str; 2]| {
        flags
            .get(names)
            .with_context(|| format!("{} is required", names[1]))
    };
    let (stack, resource) = (need(["-s", "--stack"])?, need(["-r", "--resource"])?);
    let sets: Vec<String> = flags
        .get(["-c", "--configsets"])
        .unwrap_or("default")
        .split(',')
        .map(str::to_owned)
        .collect();
    let mut log = crate::logfile::Log::open(LOG)?;
    log.line(&format!(
        "cfn-init (stand-in) begins: config sets {}",
        sets.join(", ")
    ));
    let result = async {
        let detail =
            stack_resource::describe(flags.get(["--region", "--region"]), stack, resource).await?;
        let Some(metadata) = detail.metadata.filter(|m| m.get(KEY).is_some()) else {
            log.line(&format!("there is no key {KEY}: nothing to do"));
            return anyhow::Ok(());
        };
        fs::create_dir_all("/var/lib/cfn-init/data")?;
        fs::write("/var/lib/cfn-init/data/metadata.json", metadata.to_string())?;
        // The real one takes `default` without a definition as the config named `config`.
        let actions = plan(&metadata, &sets)?;
        apply::run(&actions, &mut log).await
    }
    .await;
    match &result {
        Ok(()) => log.line("cfn-init (stand-in) is done"),
        Err(e) => log.line(&format!("Error occurred during build: {e:#}")),
    }
    if let Err(e) = result {
        bail!("Error occurred during build: {e:#}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(actions: &[Action]) -> Vec<String> {
        actions
            .iter()
            .map(|a| match a {
                Action::File(f) => f.path.display().to_string(),
                Action::Command(c) => c.name.clone(),
                Action::Package(n)
                | Action::Service(n)
                | Action::Group(n, _)
                | Action::User(n, _, _) => n.clone(),
            })
            .collect()
    }

    #[test]
    fn d_tpl_48_config_sets_nest_and_each_config_keeps_the_documented_order() {
        // D-TPL-48; docs/spec/cfn-hup.md: "Order: packages, groups, users, sources, files, commands (by name), services"
        let metadata = json!({ KEY: {
            "configSets": { "bootstrap": [{"ConfigSet": "base"}, "two"], "base": "one", "hotswap": ["two"] },
            "one": {
                "services": {"sysvinit": {"s": {}}}, "commands": {"b": {"command": "x"}, "a": {"command": ["y"]}},
                "files": {"/z": {"content": ""}, "/y": {"content": {"k": 1}}}, "packages": {"yum": {"p": []}}, "groups": {"g": {}}, "users": {"u": {}},
            },
            "two": { "commands": {"c": {"command": "z"}} },
        }});
        let plan = |sets: &[&str]| {
            super::plan(
                &metadata,
                &sets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            names(&plan(&["bootstrap"]).unwrap()),
            ["yum p", "g", "u", "/y", "/z", "a", "b", "sysvinit s", "c"]
        );
        assert_eq!(names(&plan(&["hotswap"]).unwrap()), ["c"]);
        assert_eq!(plan(&["typo"]), Err(InitError::NoSet("typo".into())));
        let Action::File(file) = &plan(&["base"]).unwrap()[3] else {
            panic!()
        };
        assert_eq!(file.content, br#"{"k":1}"#);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let init = |value: Value| plan(&json!({ KEY: value }), &["a".into()]);
        let sets = |a: Value| json!({"configSets": {"a": a, "b": [{"ConfigSet": "a"}]}, "c": {}});
        assert_eq!(
            init(sets(json!([{"ConfigSet": "b"}]))),
            Err(InitError::Circle("a".into()))
        );
        assert_eq!(
            init(sets(json!(["d"]))),
            Err(InitError::NoConfig("d".into()))
        );
        assert_eq!(
            init(json!({"config": {}})),
            Err(InitError::NoSet("a".into()))
        );
        let config = |c: Value| {
            init(json!({"configSets": {"a": ["x"]}, "x": c}))
                .unwrap_err()
                .to_string()
        };
        assert!(config(json!({"files": {"/f": {}}})).contains("without source or content"));
        assert!(config(json!({"files": {"/f": {"content": "", "mode": "9"}}})).contains("octal"));
        assert!(config(json!({"commands": {"c": {}}})).contains("No command"));
        assert!(config(json!({"file": {}})).contains("Unknown config key 'file'"));
        assert!(
            config(json!({"files": {"/f": {"source": "https://x"}}})).contains("not simulated")
        );
    }

    #[test]
    fn without_the_key_there_is_nothing_to_do_and_without_sets_the_config_is_meant() {
        // docs/spec/cfn-hup.md: "0 when metadata has no Init key"
        assert_eq!(
            plan(&json!({"Porter": {}}), &["default".into()]),
            Ok(vec![])
        );
        let one = plan(
            &json!({ KEY: {"config": {"commands": {"c": {"command": "x"}}}} }),
            &["default".into()],
        )
        .unwrap();
        assert_eq!(names(&one), ["c"]);
    }

    #[test]
    fn modes_links_contexts_and_environments_are_read_as_documented() {
        // docs/spec/cfn-hup.md: "mode octal string, 120xxx = symlink; context = Mustache, HTML-escaped"
        let metadata = json!({ KEY: {"config": {
            "files": {
                "/a": {"content": "{{x}} {{{x}}} {{&x}} {{none}}.", "context": {"x": "<&>"}, "mode": "000755", "owner": "root", "group": "root"},
                "/b": {"content": "/a", "mode": "120777"},
                "/c": {"content": "aGk=", "encoding": "base64"},
            },
            "commands": {"c": {"command": "x", "env": {"A": 1}, "cwd": "/tmp", "test": "true", "ignoreErrors": "true"}},
        }}});
        let actions = plan(&metadata, &["default".into()]).unwrap();
        let [
            Action::File(a),
            Action::File(b),
            Action::File(c),
            Action::Command(d),
        ] = &actions[..]
        else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (a.mode, a.link, std::str::from_utf8(&a.content).unwrap()),
            (Some(0o755), false, "&lt;&amp;&gt; <&> <&> .")
        );
        assert_eq!((b.link, &b.content[..]), (true, &b"/a"[..]));
        assert_eq!(c.content, b"hi");
        assert_eq!(d.env, Some(vec![("A".into(), "1".into())]));
        assert!(d.ignore_errors && d.test.is_some() && d.cwd == Some("/tmp".into()));
    }
}
