//! `.porter/config`: raw YAML → checked, resolved [`Config`] (section 1 of the deployment specification; for users
//! `docs/configuration.md`).
//!
//! text → `node` (a tree that knows its lines) → one file per section (types, rules, defaults; region values over
//! environment values) → [`Config`]. Nothing stops at the first mistake: every finding is collected with its key path
//! and line (D-CFG-3). Values that are right but whose effect this version does not have are findings too, of the kind
//! [`Kind::Unavailable`]: they are refused, never ignored.
//!
//! Pure except for [`load`], [`Config::save`] and [`Config::read_resolved`].

mod amount;
pub mod blackout;
mod containers;
pub mod duration;
mod egress;
mod environment;
mod error;
mod field;
mod haproxy;
mod hooks;
mod hot_swap;
mod load_balancer;
pub mod model;
mod node;
mod pattern;
mod region;
mod settings;
pub mod show;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigErrors, Kind};
pub use model::*;
pub(crate) use region::is_arm;

use field::{Field, Reader, Section};
use node::{Node, Position, Value};
use std::{collections::BTreeMap, io, path::Path, rc::Rc};

/// Owner of stacks that build commands create (D-CFG-118).
const DEFAULT_OWNER: &str = "ci";
/// No configuration that a person wrote is larger.
const MAX_BYTES: usize = 1 << 20;
/// CloudFormation's limit for `<service>-<environment>-<owner>-<unix seconds>`.
const MAX_STACK_NAME: usize = 128;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// With every default applied.
    pub config: Config,
    /// What deserves attention but stops nothing; each with file, line and key path.
    pub warnings: Vec<String>,
}

/// Reads and checks a configuration file, also against the version of this binary (D-CFG-14). `env` looks up the
/// process environment (`DEV_MODE`, `DOCKER_*`, interpolation).
///
/// # Errors
/// All findings at once; a file that can't be read is the only finding.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    let name = path.display().to_string();
    let alone = |at: Option<Position>, message: String| {
        ConfigErrors::new(vec![ConfigError {
            kind: Kind::Invalid,
            file: name.clone(),
            path: String::new(),
            line: at.map(|p| p.line),
            column: at.map(|p| p.column),
            message,
        }])
    };
    let bytes = std::fs::read(path).map_err(|e| {
        alone(
            None,
            match e.kind() {
                io::ErrorKind::NotFound => {
                    "not found; run porter in the root of the repository".into()
                }
                _ => format!("cannot be read: {e}"),
            },
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        alone(Some(Position { line, column }), "not UTF-8".into())
    })?;
    read(&text, &name, env, Some(env!("CARGO_PKG_VERSION")))
}

/// Checks the text of a configuration; `file_name` only names it in messages. Does not compare `porter_version` with
/// this binary.
///
/// # Errors
/// All findings at once.
pub fn parse(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigErrors> {
    read(text, file_name, env, None)
}

fn read(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    running_version: Option<&str>,
) -> Result<Loaded, ConfigErrors> {
    let (root, flaws) = tree(text);
    let interpolate = root.as_deref().is_some_and(opts_into_interpolation);
    let reader = Reader::new(file_name, env, interpolate);
    flaws.into_iter().for_each(|flaw| reader.flaw(flaw));
    let config = root.as_deref().and_then(|root| {
        Some(top_level(
            &Field {
                reader: &reader,
                node: root,
                path: String::new(),
            }
            .section()?,
            running_version,
        ))
    });
    match (config, reader.finish()) {
        (Some(config), (errors, warnings)) if errors.is_empty() => Ok(Loaded { config, warnings }),
        (_, (errors, _)) => Err(ConfigErrors::new(errors)),
    }
}

/// The file's tree; an empty file and a much too large one have none.
fn tree(text: &str) -> (Option<Rc<Node>>, Vec<node::Flaw>) {
    let whole_file = |message: String| {
        let flaw = node::Flaw {
            at: Position { line: 1, column: 1 },
            path: String::new(),
            message,
        };
        (None, vec![flaw])
    };
    if text.len() > MAX_BYTES {
        return whole_file(format!("larger than {MAX_BYTES} bytes"));
    }
    match node::read(text) {
        (None, flaws) if flaws.is_empty() => whole_file("the file is empty".into()),
        (Some(root), _) if root.is_null() => whole_file("the file is empty".into()),
        read => read,
    }
}

fn opts_into_interpolation(root: &Node) -> bool {
    let value = root.get("x-interpolate").map(|n| &n.value);
    matches!(value, Some(Value::Scalar { text, plain: true }) if matches!(text.as_str(), "true" | "True" | "TRUE" | "yes" | "on"))
}

/// Section 1.2.
fn top_level(top: &Section, running_version: Option<&str>) -> Config {
    let reader = top.field.reader;
    settings::registry(reader);
    top.get("x-interpolate").and_then(|f| f.boolean());
    if let Some(field) = top.get("x-legacy-hook-env")
        && field.boolean() == Some(true)
    {
        field.unavailable("list the variables under `environment` of each hook");
    }
    let service_name = top
        .require("service_name")
        .and_then(|f| f.matching(&pattern::SERVICE_NAME))
        .unwrap_or_default();
    let porter_version = top
        .require("porter_version")
        .and_then(|f| version(&f, running_version))
        .unwrap_or_default();
    let owner = top
        .get("owner")
        .map_or(Some(DEFAULT_OWNER.into()), |f| f.matching(&pattern::OWNER))
        .unwrap_or_default();
    let environments = top
        .require("environments")
        .map(|f| environment::list(&f))
        .unwrap_or_default();
    let hooks = top.get("hooks").map(|f| hooks::map(&f)).unwrap_or_default();
    top.get("slack")
        .and_then(|f| f.section())
        .into_iter()
        .for_each(settings::slack);

    let longest = environments.iter().map(|e| e.name.len()).max().unwrap_or(0);
    let stack_name = service_name.len() + longest + owner.len() + "---1234567890".len();
    if stack_name > MAX_STACK_NAME {
        top.missing(
            "service_name",
            format!("with environment and owner the stack name has {stack_name} characters; CloudFormation allows {MAX_STACK_NAME}"),
        );
    }
    top.done_except(|key| key.starts_with('_') || key.starts_with("x-"));
    let mut config = Config {
        service_name,
        porter_version,
        owner,
        environments,
        hooks,
    };
    name_images(&mut config);
    config
}

/// D-CFG-13, D-CFG-14.
fn version(field: &Field, running: Option<&str>) -> Option<String> {
    if (field.reader.env)("DEV_MODE").is_some_and(|v| !v.is_empty()) {
        return field.text();
    }
    let wanted = field.matching(&pattern::PORTER_VERSION)?;
    let Some(running) = running else {
        return Some(wanted);
    };
    let part = |version: &str, index: usize| {
        version
            .trim_start_matches('v')
            .split('.')
            .nth(index)
            .map(str::to_owned)
    };
    if part(&wanted, 0) != part(running, 0) {
        field.error(format!(
            "the configuration is written for porter {wanted}, this is porter v{running}"
        ));
        return None;
    }
    if part(&wanted, 1) != part(running, 1) {
        field.warn(&format!(
            "the configuration is written for porter {wanted}, this is porter v{running}"
        ));
    }
    Some(wanted)
}

/// Containers are distinct by name and files together (D-PACK-13): the first pair of files under a name keeps the name
/// for its image, the next becomes `name-2`, which no container can be called.
fn name_images(config: &mut Config) {
    let mut files: BTreeMap<String, Vec<(std::path::PathBuf, std::path::PathBuf)>> =
        BTreeMap::new();
    for region in config.environments.iter_mut().flat_map(|e| &mut e.regions) {
        for container in &mut region.containers {
            let pair = (
                container.dockerfile.clone(),
                container.dockerfile_build.clone(),
            );
            let known = files.entry(container.run.name.clone()).or_default();
            let index = known.iter().position(|k| *k == pair).unwrap_or_else(|| {
                known.push(pair);
                known.len() - 1
            });
            if index > 0 {
                container.run.image = format!("{}-{}", container.run.name, index + 1);
            }
        }
    }
}

/// The resolved configuration could not be written or read back.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// File system.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Not what this version of porter writes.
    #[error(
        "{path} was not written by this version of porter ({source}); run `porter build pack` again"
    )]
    Format {
        /// The file.
        path: String,
        /// What does not fit.
        source: serde_yaml::Error,
    },
}

impl Config {
    /// Writes the resolved file that later phases read (D-CFG-7); whole or not at all.
    ///
    /// # Errors
    /// Those of the file system; the directory must exist.
    pub fn save(&self, path: &Path) -> Result<(), ResolvedError> {
        let text = self.to_yaml().map_err(|source| ResolvedError::Format {
            path: path.display().to_string(),
            source,
        })?;
        crate::files::write_atomically(path, text.as_bytes()).map_err(|source| ResolvedError::Io {
            path: path.display().to_string(),
            source,
        })
    }

    /// Reads what [`Config::save`] wrote; no default is applied again (D-CFG-7).
    ///
    /// # Errors
    /// The file is missing, or another version of porter wrote it.
    pub fn read_resolved(path: &Path) -> Result<Config, ResolvedError> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ResolvedError::Io {
            path: name(),
            source,
        })?;
        serde_yaml::from_str(&text).map_err(|source| ResolvedError::Format {
            path: name(),
            source,
        })
    }

    /// The resolved file's text.
    ///
    /// # Errors
    /// None that is known; the type's serialisation is total.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(self)
    }

    /// The configuration as it may be printed (`DEBUG_CONFIG`, D-CFG-9): values given to hooks and credentials in
    /// clone addresses are masked.
    #[must_use]
    pub fn masked(&self) -> Config {
        let mut shown = self.clone();
        for hook in shown.hooks.values_mut().flatten() {
            hook.environment
                .values_mut()
                .flatten()
                .for_each(|value| *value = show::MASK.into());
            hook.repo = hook
                .repo
                .take()
                .map(|repo| show::without_credentials(&repo));
        }
        shown
    }
}
