//! What cfn-hup is configured to do. Pure.

use super::ini;
use crate::stack_resource::Detail;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

/// What a hook can be triggered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There was no value.
    Add,
    /// There were and are values, and they differ.
    Update,
    /// There is no value any more.
    Remove,
}

/// The part of a resource that a hook watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `Resources.X`: when it was last updated.
    LastUpdated,
    /// `Resources.X.PhysicalResourceId`
    PhysicalResourceId,
    /// `Resources.X.Metadata.a.b`
    Metadata(Vec<String>),
}

/// A hook's `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPath {
    /// Logical id.
    pub resource: String,
    /// What of it.
    pub target: Target,
}

/// A hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Section name.
    pub name: String,
    /// At least one.
    pub triggers: Vec<Event>,
    /// What it watches.
    pub path: HookPath,
    /// `path` as written: part of the baseline's key.
    pub written: String,
    /// Shell command.
    pub action: String,
    /// User.
    pub runas: Option<String>,
}

impl Hook {
    /// Key of its stored value.
    pub fn key(&self) -> String {
        format!("{}|{}", self.name, self.written)
    }
}

impl HookPath {
    /// `Resources.<Id>[.Metadata[.<key>…] | .PhysicalResourceId]`; the words ignore case, `\.` is a dot inside a key.
    ///
    /// # Errors
    /// It is anything else.
    pub fn parse(path: &str) -> Result<Self> {
        let marked = path.replace("\\.", "\0");
        let mut words = marked.split('.').map(|w| w.replace('\0', "."));
        let root = words.next().unwrap_or_default();
        let (Some(resource), true) = (
            words.next().filter(|r| !r.is_empty()),
            root.eq_ignore_ascii_case("resources"),
        ) else {
            bail!("path `{path}` does not begin with `Resources.` and a logical id");
        };
        let kind = words.next();
        let keys: Vec<String> = words.collect();
        let target = match kind.as_deref() {
            None => Target::LastUpdated,
            Some(k) if k.eq_ignore_ascii_case("metadata") && keys.iter().all(|k| !k.is_empty()) => {
                Target::Metadata(keys)
            }
            Some(k) if k.eq_ignore_ascii_case("physicalresourceid") && keys.is_empty() => {
                Target::PhysicalResourceId
            }
            _ => bail!("path `{path}` is neither a resource's Metadata nor its PhysicalResourceId"),
        };
        Ok(Self { resource, target })
    }

    /// The value at the path; none when it is missing or empty.
    pub fn value(&self, detail: &Detail) -> Option<Value> {
        let value = match &self.target {
            Target::LastUpdated => Value::from(detail.last_updated),
            Target::PhysicalResourceId => Value::from(detail.physical_id.clone()),
            Target::Metadata(keys) => keys
                .iter()
                .try_fold(detail.metadata.as_ref()?, |v, key| v.get(key))?
                .clone(),
        };
        let empty = match &value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        (!empty).then_some(value)
    }

    /// The end of `CFN_OLD_…` and `CFN_NEW_…`.
    pub fn variable(&self) -> &'static str {
        match self.target {
            Target::LastUpdated => "LAST_UPDATED",
            Target::PhysicalResourceId => "PHYSICAL_RESOURCE_ID",
            Target::Metadata(_) => "METADATA",
        }
    }
}

/// The hooks of `hooks.conf` and of every file in `hooks.d`, in the order in which they are read, merged by section.
/// A hook that lacks something is passed over with a sentence in `log`.
///
/// # Errors
/// A file is not INI, a path is not one, or no hook is left.
pub fn read_hooks(files: &[(String, String)], log: &mut Vec<String>) -> Result<Vec<Hook>> {
    let mut sections = ini::Sections::new();
    for (name, text) in files {
        ini::parse(text, &mut sections).with_context(|| name.clone())?;
    }
    let mut hooks = vec![];
    for (name, keys) in &sections {
        let get = |key: &str| -> Result<Option<String>> {
            keys.iter()
                .find(|(k, _)| k == key)
                .map(|(_, v)| ini::interpolate(v))
                .transpose()
                .map(|v| v.filter(|v| !v.is_empty()))
        };
        let (Some(triggers), Some(action)) = (get("triggers")?, get("action")?) else {
            log.push(format!(
                "hook `{name}` has no triggers or no action, skipped"
            ));
            continue;
        };
        if triggers.trim() == "on.command" {
            log.push(format!(
                "hook `{name}`: on.command is not simulated by the local cloud, skipped"
            ));
            continue;
        }
        let Some(written) = get("path")? else {
            log.push(format!("hook `{name}` has no path, skipped"));
            continue;
        };
        let events: Option<Vec<Event>> = triggers
            .split(',')
            .map(|t| match t.trim() {
                "post.add" => Some(Event::Add),
                "post.update" => Some(Event::Update),
                "post.remove" => Some(Event::Remove),
                _ => None,
            })
            .collect();
        let Some(events) = events else {
            bail!("hook `{name}`: `{triggers}` are not triggers")
        };
        let path = HookPath::parse(&written).with_context(|| format!("hook `{name}`"))?;
        hooks.push(Hook {
            name: name.clone(),
            triggers: events,
            path,
            written,
            action,
            runas: get("runas")?,
        });
    }
    if hooks.is_empty() {
        bail!("No hooks found in hooks.conf or hooks.d");
    }
    Ok(hooks)
}

/// `cfn-hup.conf`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainConfig {
    /// Stack name or id.
    pub stack: String,
    /// Region, `us-east-1` by default.
    pub region: String,
    /// Between the end of a pass and the next one.
    pub interval: Duration,
    /// Log the output of actions.
    pub verbose: bool,
}

impl MainConfig {
    /// Reads the section `[main]`.
    ///
    /// # Errors
    /// As those for which the real one ends with status 1.
    pub fn parse(text: &str) -> Result<Self> {
        let mut sections = ini::Sections::new();
        ini::parse(text, &mut sections).context("cfn-hup.conf")?;
        let main = sections
            .iter()
            .find(|(s, _)| s == "main")
            .map(|(_, k)| k)
            .context("[main] section must be present in cfn-hup.conf")?;
        let get = |key: &str| main.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let stack = get("stack")
            .filter(|s| !s.is_empty())
            .context("stack must be specified in the [main] section of cfn-hup.conf")?;
        let minutes = match get("interval") {
            None => 15,
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|m| *m >= 1)
                .with_context(|| {
                    format!("interval `{text}` is not a number of whole minutes, at least 1")
                })?,
        };
        Ok(Self {
            stack: stack.into(),
            region: get("region").unwrap_or("us-east-1").into(),
            interval: Duration::from_secs(minutes * 60),
            verbose: get("verbose").is_some_and(|v| v.eq_ignore_ascii_case("true")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_tpl_50_the_hook_of_our_template_is_read() {
        // D-TPL-50
        let text = "[porter-hotswap]\ntriggers=post.update\npath=Resources.LaunchTemplate.Metadata.Porter\n\
                    action=/opt/aws/bin/cfn-init -v --stack arn:aws:x --resource LaunchTemplate --configsets hotswap --region us-east-1\nrunas=root\n";
        let hooks = read_hooks(&[("porter.conf".into(), text.into())], &mut vec![]).unwrap();
        assert_eq!(
            hooks[0].key(),
            "porter-hotswap|Resources.LaunchTemplate.Metadata.Porter"
        );
        assert_eq!(
            hooks[0].path.target,
            Target::Metadata(vec!["Porter".into()])
        );
        assert_eq!(
            (hooks[0].triggers.clone(), hooks[0].runas.as_deref()),
            (vec![Event::Update], Some("root"))
        );
        assert!(hooks[0].action.ends_with("--region us-east-1"));
    }

    #[test]
    fn a_backup_that_cfn_init_left_is_read_too_and_merged_by_section() {
        // docs/spec/cfn-hup.md: "cfn-init leaves x.conf.bak there, which is read too and merged by section, in listdir order"
        let new = (
            "x.conf".to_owned(),
            "[h]\ntriggers=post.update\npath=Resources.A\naction=new\n".to_owned(),
        );
        let old = ("x.conf.bak".to_owned(), "[h]\naction=old\n".to_owned());
        let action =
            |files: &[(String, String)]| read_hooks(files, &mut vec![]).unwrap()[0].action.clone();
        assert_eq!(action(&[new.clone(), old.clone()]), "old");
        assert_eq!(action(&[old, new]), "new");
    }

    #[test]
    fn paths_are_what_the_real_one_takes_and_nothing_else() {
        assert_eq!(
            HookPath::parse("resources.A.metadata.x\\.y.z")
                .unwrap()
                .target,
            Target::Metadata(vec!["x.y".into(), "z".into()])
        );
        assert_eq!(
            HookPath::parse("Resources.A.PhysicalResourceId")
                .unwrap()
                .target,
            Target::PhysicalResourceId
        );
        for bad in [
            "",
            "Resources",
            "Resources.",
            "Outputs.A",
            "Resources.A.Properties",
            "Resources.A.PhysicalResourceId.x",
            "Resources.A.Metadata..x",
        ] {
            assert!(HookPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_incomplete_hook_is_passed_over_and_none_left_is_an_error() {
        let mut log = vec![];
        let files = [(
            "hooks.conf".to_owned(),
            "[h]\ntriggers=post.update\naction=x\n[c]\ntriggers=on.command\naction=x\n".to_owned(),
        )];
        assert!(
            read_hooks(&files, &mut log)
                .unwrap_err()
                .to_string()
                .contains("No hooks")
        );
        assert_eq!(log.len(), 2);
    }

    #[test]
    fn percent_comments_and_continuations_are_those_of_python() {
        // docs/spec/cfn-hup.md: "`%` is `%%`; on an action's first line ` ;` cuts the rest off"
        let read = |action: &str| {
            let text = format!("[h]\ntriggers: post.update\npath=Resources.A\n{action}\n");
            read_hooks(&[("f".into(), text)], &mut vec![]).map(|h| h[0].action.clone())
        };
        assert_eq!(
            read("action=a; b && date +%%s ; c").unwrap(),
            "a; b && date +%s"
        );
        assert_eq!(read("Action=a\n  b ; c").unwrap(), "a\nb ; c");
        assert!(read("action=date +%s").is_err());
    }

    #[test]
    fn bad_configuration_is_refused() {
        // docs/spec/cfn-hup.md: "interval: whole minutes >= 1 (else exit 1), default 15"
        for bad in [
            "",
            "[main]\n",
            "[main]\nstack=s\ninterval=0\n",
            "[main]\nstack=s\ninterval=0.1\n",
            "stack=s\n",
        ] {
            assert!(MainConfig::parse(bad).is_err(), "{bad}");
        }
        let config =
            MainConfig::parse("[main]\nstack=s\nregion=eu-west-1\nverbose=True\n").unwrap();
        assert_eq!(
            (
                config.region.as_str(),
                config.interval.as_secs(),
                config.verbose
            ),
            ("eu-west-1", 900, true)
        );
    }
}
