//! The example service in a git repository of its own: the demo changes its source, and the user's checkout stays as it
//! is.

use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Never copied: results of builds and of earlier runs.
const LEFT_OUT: [&str; 3] = ["target", ".porter-tmp", ".git"];

/// The line of the version is looked for here.
const SOURCE: &str = "src/version.rs";

/// The configuration, whose `instance_count` is the number of hosts.
const CONFIG: &str = ".porter/config";

/// Copies the example, named relative to the repository's root, into the folder `to`, which need not exist.
///
/// # Errors
/// Those of the file system.
pub fn copy(root: &Path, example: &str, to: &Path) -> anyhow::Result<()> {
    let from = root.join(example);
    copy_folder(&from, to)
        .with_context(|| format!("{} can't be copied to {}", from.display(), to.display()))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (from, to): (PathBuf, PathBuf) = (entry.path(), to.join(name));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            // With its mode: hooks must stay executable.
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

/// Writes `hosts` as the configuration's only `instance_count`.
///
/// # Errors
/// When the file does not have that line exactly once.
pub fn set_hosts(folder: &Path, hosts: usize) -> anyhow::Result<()> {
    set_line(folder, "instance_count:", |indent| {
        format!("{indent}instance_count: {hosts}")
    })
}

/// Gives the stack another parameter.
///
/// # Errors
/// When the configuration does not have `stack_parameters` exactly once.
pub fn set_parameter(folder: &Path, name: &str, value: &str) -> anyhow::Result<()> {
    set_line(folder, "stack_parameters:", |indent| {
        format!("{indent}stack_parameters:\n{indent}  {name}: {value}")
    })
}

/// Replaces the only line of the configuration that begins so, behind its indentation.
fn set_line(folder: &Path, begins: &str, with: impl Fn(&str) -> String) -> anyhow::Result<()> {
    change(&folder.join(CONFIG), begins, |text| {
        let mut found = 0;
        let mut replaced = String::new();
        for line in text.lines() {
            let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
            if rest.starts_with(begins) {
                found += 1;
                replaced += &with(indent);
            } else {
                replaced += line;
            }
            replaced += "\n";
        }
        (replaced, found)
    })
}

/// Changes the version in the source: the change that a developer makes between two deployments.
///
/// # Errors
/// When the source does not name the version `from` exactly once.
pub fn set_version(folder: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let (from, to) = (format!("\"{from}\""), format!("\"{to}\""));
    change(&folder.join(SOURCE), &from, |text| {
        (text.replace(&from, &to), text.matches(&from).count())
    })
}

fn change(
    path: &Path,
    what: &str,
    edit: impl FnOnce(&str) -> (String, usize),
) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
    let (text, found) = edit(&text);
    if found != 1 {
        bail!(
            "{} has `{what}` {found} times, and must have it once",
            path.display()
        );
    }
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const EXAMPLE: &str = "examples/hello";

    fn example(folder: &Path) {
        let example = folder.join(EXAMPLE);
        for sub in [".porter", "src", "hooks", "target", ".porter-tmp"] {
            fs::create_dir_all(example.join(sub)).unwrap();
        }
        fs::write(example.join(SOURCE), "const VERSION: &str = \"v1\";\n").unwrap();
        fs::write(
            example.join(CONFIG),
            "environments:\n- name: stage\n  instance_count: 1\n  stack_parameters:\n    A: b\n",
        )
        .unwrap();
        fs::write(example.join("hooks/pre_pack"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(
            example.join("hooks/pre_pack"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        fs::write(example.join("target/old"), "").unwrap();
        fs::write(example.join(".porter-tmp/old"), "").unwrap();
    }

    #[test]
    fn the_copy_has_sources_and_executable_hooks_but_nothing_of_earlier_runs() {
        let root = tempfile::tempdir().unwrap();
        example(root.path());
        let to = root.path().join("copy");
        copy(root.path(), EXAMPLE, &to).unwrap();
        let mode = fs::metadata(to.join("hooks/pre_pack"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111);
        assert!(to.join(SOURCE).exists());
        for absent in ["target", ".porter-tmp"] {
            assert!(!to.join(absent).exists(), "{absent}");
        }
    }

    #[test]
    fn version_hosts_and_parameters_are_changed_in_the_copy_alone() {
        let root = tempfile::tempdir().unwrap();
        example(root.path());
        let to = root.path().join("copy");
        copy(root.path(), EXAMPLE, &to).unwrap();
        set_version(&to, "v1", "v2").unwrap();
        set_hosts(&to, 3).unwrap();
        set_parameter(&to, "EngineUrl", "redis://h:1").unwrap();
        let read = |folder: &Path, file| fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read(&to, SOURCE), "const VERSION: &str = \"v2\";\n");
        assert_eq!(
            read(&to, CONFIG),
            "environments:\n- name: stage\n  instance_count: 3\n  stack_parameters:\n    EngineUrl: redis://h:1\n    A: b\n"
        );
        assert!(read(&root.path().join(EXAMPLE), SOURCE).contains("v1"));
        assert!(set_version(&to, "v1", "v2").is_err(), "v1 is gone");
    }
}
