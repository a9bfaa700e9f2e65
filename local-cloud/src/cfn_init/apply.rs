//! Does what a plan says.

use super::{Action, CommandAction, FileAction};
use crate::logfile::Log;
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
};
use tokio::process::Command;

/// Output of commands.
const COMMAND_LOG: &str = "/var/log/cfn-init-cmd.log";

/// Carries the actions out in order; the first failure ends the run.
///
/// # Errors
/// What failed, as the real one says it.
pub async fn run(actions: &[Action], log: &mut Log) -> Result<()> {
    for action in actions {
        match action {
            Action::Package(name) => {
                let package = name.rsplit_once(' ').map_or(name.as_str(), |(_, p)| p);
                log.line(&format!(
                    "package {name}: {}",
                    crate::stand_ins::describe_package(package)
                ));
            }
            Action::Service(name) => log.line(&format!(
                "service {name}: not simulated, start units by commands"
            )),
            Action::Group(name, gid) => group(name, gid.as_deref()).await?,
            Action::User(name, groups, home) => user(name, groups, home.as_deref()).await?,
            Action::File(file) => {
                write(file)
                    .await
                    .with_context(|| format!("Failed to write {}", file.path.display()))?;
                log.line(&format!("wrote {}", file.path.display()));
            }
            Action::Command(command) => run_command(command, log).await?,
        }
    }
    Ok(())
}

async fn write(file: &FileAction) -> Result<()> {
    if let Some(parent) = file.path.parent() {
        fs::create_dir_all(parent)?;
    }
    if file.path.symlink_metadata().is_ok() {
        // Also where it is read as configuration, such as hooks.d: exactly as the real one leaves it.
        let mut backup = file.path.clone().into_os_string();
        backup.push(".bak");
        fs::rename(&file.path, backup)?;
    }
    if file.link {
        return symlink(Path::new(std::str::from_utf8(&file.content)?), &file.path)
            .map_err(Into::into);
    }
    fs::write(&file.path, &file.content)?;
    if let Some(mode) = file.mode {
        fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
    }
    if file.owner.is_some() || file.group.is_some() {
        let spec = format!(
            "{}:{}",
            file.owner.as_deref().unwrap_or(""),
            file.group.as_deref().unwrap_or("")
        );
        let output = Command::new("chown")
            .arg("--")
            .arg(spec.trim_end_matches(':'))
            .arg(&file.path)
            .output()
            .await?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

async fn run_command(command: &CommandAction, log: &mut Log) -> Result<()> {
    if let Some(test) = &command.test {
        let output = process(test, command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        if !output.success() {
            log.line(&format!(
                "command {}: its test is not fulfilled, skipped",
                command.name
            ));
            return Ok(());
        }
    }
    let mut commands = Log::open(COMMAND_LOG)?;
    commands.line(&format!("command {}", command.name));
    // The real one collects the output until the command and everything that holds its pipes has ended.
    let output = process(&command.argv, command)
        .output()
        .await
        .with_context(|| format!("Command {} failed", command.name))?;
    commands.raw(&output.stdout);
    commands.raw(&output.stderr);
    if output.status.success() {
        log.line(&format!("Command {} succeeded", command.name));
    } else if command.ignore_errors {
        log.line(&format!(
            "Command {} failed ({}), ignoring error",
            command.name, output.status
        ));
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "Command {} failed: {}: {}",
            command.name,
            output.status,
            text.lines().last().unwrap_or_default()
        );
    }
    Ok(())
}

fn process(argv: &[String], command: &CommandAction) -> Command {
    let (program, args) = argv
        .split_first()
        .map_or(("/bin/true", &[][..]), |(p, a)| (p.as_str(), a));
    let mut process = Command::new(program);
    process.args(args).stdin(Stdio::null());
    if let Some(env) = &command.env {
        process.env_clear().envs(env.iter().map(|(k, v)| (k, v)));
    }
    if let Some(cwd) = &command.cwd {
        process.current_dir(cwd);
    }
    process
}

async fn group(name: &str, gid: Option<&str>) -> Result<()> {
    if Command::new("getent")
        .args(["group", name])
        .output()
        .await?
        .status
        .success()
    {
        return Ok(());
    }
    let mut command = Command::new("groupadd");
    command
        .arg("-r")
        .args(gid.map(|g| ["-g", g]).into_iter().flatten())
        .arg(name);
    succeed(&mut command, &format!("Failed to create group {name}")).await
}

async fn user(name: &str, groups: &[String], home: Option<&str>) -> Result<()> {
    if Command::new("getent")
        .args(["passwd", name])
        .output()
        .await?
        .status
        .success()
    {
        return Ok(());
    }
    let mut command = Command::new("useradd");
    command.args(["-M", "-r", "--shell", "/sbin/nologin"]);
    if let Some(home) = home {
        command.args(["-d", home]);
    }
    if !groups.is_empty() {
        command.arg("-G").arg(groups.join(","));
    }
    succeed(command.arg(name), &format!("Failed to create user {name}")).await
}

async fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = command.output().await.with_context(|| what.to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())
}
