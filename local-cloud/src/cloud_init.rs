//! A stand-in for cloud-init: reads user data as EC2 delivers it and does what its first boot would do with it.
//! `#cloud-config`, shell scripts, and MIME multipart of both. A part that fails does not stop the others, as with the
//! real one. What it does not know is said in the log, never passed over.

use crate::logfile::Log;
use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// Output of everything that cloud-init runs.
pub const OUTPUT: &str = "/var/log/cloud-init-output.log";
const SCRIPTS: &str = "/var/lib/cloud/instance/scripts";

/// A part of the user data.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// `#cloud-config`
    Config(serde_yaml::Mapping),
    /// `#!…`
    Script(String),
}

/// A file of `write_files`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WrittenFile {
    /// Absolute path.
    pub path: PathBuf,
    /// Text, or base64 as `encoding` says.
    #[serde(default)]
    pub content: String,
    /// `b64` or `base64`; plain text otherwise.
    #[serde(default)]
    pub encoding: Option<String>,
    /// Octal, `0644` by default.
    #[serde(default)]
    pub permissions: Option<String>,
    /// `user:group`
    #[serde(default)]
    pub owner: Option<String>,
    /// Adds to a file that exists.
    #[serde(default)]
    pub append: bool,
}

/// What a first boot does, in the order in which cloud-init does it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootPlan {
    /// Files, before everything else.
    pub files: Vec<WrittenFile>,
    /// Packages that the image must have.
    pub packages: Vec<String>,
    /// Scripts by file name, in the order in which they run.
    pub scripts: BTreeMap<String, String>,
    /// Keys that this stand-in does not act on.
    pub ignored: Vec<String>,
}

/// User data as a launch template has it, base64, as text.
///
/// # Errors
/// It is not base64 or not UTF-8.
pub fn decode(user_data: &str) -> Result<String> {
    let bytes = aws_smithy_types::base64::decode(user_data.split_whitespace().collect::<String>())
        .context("user data is not base64")?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        bail!("user data is compressed; the local cloud reads plain user data only");
    }
    String::from_utf8(bytes).context("user data is not UTF-8")
}

/// Takes user data apart.
///
/// # Errors
/// A form that cloud-init would not act on: it would only warn, and the host would come up empty.
pub fn parse(data: &str) -> Result<Vec<Part>> {
    if data.trim().is_empty() {
        return Ok(vec![]);
    }
    let start = data.trim_start().to_ascii_lowercase();
    if start.starts_with("content-type: multipart") || start.starts_with("mime-version:") {
        return multipart(data.trim_start());
    }
    part(data).map(|p| vec![p])
}

fn part(text: &str) -> Result<Part> {
    if text.starts_with("#!") {
        return Ok(Part::Script(text.to_owned()));
    }
    if text.starts_with("#cloud-config") {
        let yaml: serde_yaml::Value =
            serde_yaml::from_str(text).context("#cloud-config is not YAML")?;
        return match yaml {
            serde_yaml::Value::Mapping(map) => Ok(Part::Config(map)),
            serde_yaml::Value::Null => Ok(Part::Config(serde_yaml::Mapping::new())),
            _ => bail!("#cloud-config is not a mapping"),
        };
    }
    let first: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(60)
        .collect();
    bail!("user data begins with `{first}`: neither #cloud-config, nor #!, nor MIME multipart")
}

fn multipart(data: &str) -> Result<Vec<Part>> {
    let data = data.replace("\r\n", "\n");
    let (head, body) = data
        .split_once("\n\n")
        .context("MIME user data has no body")?;
    let boundary = Regex::new(r#"(?i)boundary="?([^";\s]+)"?"#)?
        .captures(head)
        .map(|c| c[1].to_owned())
        .context("MIME user data has no boundary")?;
    let mark = format!("--{boundary}");
    let mut parts = vec![];
    for section in format!("\n{body}").split(&format!("\n{mark}")).skip(1) {
        if section.starts_with("--") {
            break;
        }
        let (head, text) = section
            .trim_start_matches([' ', '\n'])
            .split_once("\n\n")
            .context("a MIME part has no body")?;
        let head = head.to_ascii_lowercase();
        let text = if head.contains("content-transfer-encoding: base64") {
            decode(text)?
        } else {
            text.to_owned()
        };
        parts.push(part(&text)?);
    }
    Ok(parts)
}

/// What a first boot does with these parts. Of a key that several `#cloud-config` parts have, the last one's value counts.
///
/// # Errors
/// A known key has a value of another form.
pub fn plan(parts: &[Part]) -> Result<BootPlan> {
    let mut plan = BootPlan::default();
    let mut merged = serde_yaml::Mapping::new();
    for (n, part) in parts.iter().enumerate() {
        match part {
            Part::Config(map) => merged.extend(map.clone()),
            Part::Script(script) => {
                plan.scripts
                    .insert(format!("part-{:03}", n + 1), script.clone());
            }
        }
    }
    for (key, value) in merged {
        match key.as_str().unwrap_or_default() {
            "write_files" => plan.files = serde_yaml::from_value(value).context("write_files")?,
            "packages" => plan.packages = package_names(value)?,
            "runcmd" => {
                plan.scripts
                    .insert("runcmd".into(), shell_script(value).context("runcmd")?);
            }
            "package_update" | "package_upgrade" | "repo_upgrade" | "repo_releasever"
            | "output" | "merge_how" => {}
            other => plan.ignored.push(other.to_owned()),
        }
    }
    Ok(plan)
}

fn package_names(value: serde_yaml::Value) -> Result<Vec<String>> {
    let names: Vec<serde_yaml::Value> = serde_yaml::from_value(value).context("packages")?;
    // `[name, version]` pins a version.
    names
        .iter()
        .map(|n| {
            n.as_str()
                .or_else(|| n.get(0)?.as_str())
                .map(str::to_owned)
                .context("packages: neither a name nor a list")
        })
        .collect()
}

fn shell_script(value: serde_yaml::Value) -> Result<String> {
    let lines: Vec<serde_yaml::Value> = serde_yaml::from_value(value)?;
    let mut script = "#!/bin/sh\n".to_owned();
    for line in lines {
        match line {
            serde_yaml::Value::String(line) => script += &line,
            serde_yaml::Value::Sequence(words) => {
                let quoted: Vec<String> = words
                    .iter()
                    .map(|w| format!("'{}'", scalar(w).replace('\'', r"'\''")))
                    .collect();
                script += &quoted.join(" ");
            }
            serde_yaml::Value::Null => continue,
            _ => bail!("an entry is neither a command line nor a list of words"),
        }
        script.push('\n');
    }
    Ok(script)
}

fn scalar(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::String(s) => s.clone(),
        other => serde_yaml::to_string(other)
            .unwrap_or_default()
            .trim()
            .to_owned(),
    }
}

/// Does a first boot with this user data, and returns what failed.
pub async fn run(user_data: &str) -> Vec<String> {
    let mut log = match Log::open(OUTPUT) {
        Ok(log) => log,
        Err(e) => return vec![format!("{e:#}")],
    };
    log.line("cloud-init (stand-in) begins");
    let mut errors = vec![];
    let plan = decode(user_data).and_then(|text| {
        fs::create_dir_all(SCRIPTS)?;
        fs::write("/var/lib/cloud/instance/user-data.txt", &text)?;
        plan(&parse(&text)?)
    });
    match plan {
        Ok(plan) => carry_out(&plan, &mut log, &mut errors).await,
        Err(e) => errors.push(format!("{e:#}")),
    }
    for error in &errors {
        log.line(&format!("failed: {error}"));
    }
    log.line("cloud-init (stand-in) is done");
    errors
}

async fn carry_out(plan: &BootPlan, log: &mut Log, errors: &mut Vec<String>) {
    for key in &plan.ignored {
        log.line(&format!("`{key}` is not simulated by the local cloud"));
    }
    for file in &plan.files {
        if let Err(e) = write_file(file).await {
            errors.push(format!("write_files {}: {e:#}", file.path.display()));
        }
    }
    for package in &plan.packages {
        let known = crate::stand_ins::describe_package(package);
        log.line(&format!("package {package}: {known}"));
    }
    for (name, script) in &plan.scripts {
        if let Err(e) = run_script(name, script, log).await {
            errors.push(format!("{name}: {e:#}"));
        }
    }
}

async fn write_file(file: &WrittenFile) -> Result<()> {
    let encoded = matches!(file.encoding.as_deref(), Some("b64" | "base64"));
    if file
        .encoding
        .as_deref()
        .is_some_and(|e| !encoded && e != "text/plain")
    {
        bail!(
            "encoding {} is not simulated by the local cloud",
            file.encoding.as_deref().unwrap_or_default()
        );
    }
    let content = if encoded {
        aws_smithy_types::base64::decode(file.content.trim())?
    } else {
        file.content.clone().into_bytes()
    };
    if let Some(parent) = file.path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options
        .create(true)
        .write(true)
        .append(file.append)
        .truncate(!file.append);
    options.open(&file.path)?.write_all(&content)?;
    let mode = u32::from_str_radix(file.permissions.as_deref().unwrap_or("0644"), 8)
        .context("permissions")?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(mode))?;
    if let Some(owner) = &file.owner
        && !Command::new("chown")
            .arg(owner)
            .arg(&file.path)
            .status()
            .await?
            .success()
    {
        bail!("chown {owner}");
    }
    Ok(())
}

async fn run_script(name: &str, script: &str, log: &mut Log) -> Result<()> {
    let path = Path::new(SCRIPTS).join(name);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    log.line(&format!("runs {name}"));
    let status = Command::new(&path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.file.try_clone()?)
        .stderr(log.file.try_clone()?)
        .status()
        .await?;
    if !status.success() {
        bail!("{status}; see {OUTPUT}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_tpl_4_cloud_config_and_script_parts_are_read_from_mime_as_from_plain_text() {
        let config = "#cloud-config\npackages: [haproxy, [docker, 20.10]]\nwrite_files:\n  - {path: /etc/x, content: hi, permissions: '0600'}\nruncmd:\n  - echo \"$A\"\n  - [touch, it's]\n";
        let script = "#!/bin/bash -e\necho part\n";
        // D-TPL-4
        let mime = format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"==B==\"\n\n--==B==\nContent-Type: text/cloud-config; charset=\"us-ascii\"\n\n{config}\n--==B==\nContent-Type: text/x-shellscript\n\n{script}\n--==B==--\n"
        );
        let plan = plan(&parse(&mime).unwrap()).unwrap();
        assert_eq!(plan.packages, ["haproxy", "docker"]);
        assert_eq!(plan.files[0].permissions.as_deref(), Some("0600"));
        assert_eq!(
            plan.scripts.keys().collect::<Vec<_>>(),
            ["part-002", "runcmd"]
        );
        assert_eq!(plan.scripts["part-002"].trim_end(), script.trim_end());
        assert_eq!(
            plan.scripts["runcmd"],
            "#!/bin/sh\necho \"$A\"\n'touch' 'it'\\''s'\n"
        );
        assert_eq!(
            super::plan(&parse(config).unwrap()).unwrap().files,
            plan.files
        );
    }

    #[test]
    fn what_cloud_init_would_pass_over_is_an_error_and_an_unknown_key_is_reported() {
        assert!(
            parse("packages: [x]\n")
                .unwrap_err()
                .to_string()
                .contains("neither #cloud-config")
        );
        assert!(
            decode("H4sIAAAAAAAA/w==")
                .unwrap_err()
                .to_string()
                .contains("compressed")
        );
        assert_eq!(
            plan(&parse("#cloud-config\nswap: {size: 1}\n").unwrap())
                .unwrap()
                .ignored,
            ["swap"]
        );
        assert!(parse(" \n").unwrap().is_empty());
    }
}
