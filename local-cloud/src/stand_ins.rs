//! The programs of a machine image that simulated hosts have as stand-ins, one program by many names.

use crate::{aws_cli, cfn_hup, cfn_init, cfn_signal, requirements, systemd};
use anyhow::Result;
use std::{ffi::OsStr, process::ExitCode};

/// In `/opt/aws/bin`.
pub const CFN_TOOLS: &[&str] = &["cfn-init", "cfn-hup", "cfn-signal"];
/// In `/usr/bin`.
pub const SYSTEM_TOOLS: &[&str] = &["aws", "dnf", "systemctl", "yum"];
/// Environment variable with cfn-hup's poll interval in milliseconds, instead of its minutes.
pub const POLL: &str = "PORTER_LOCAL_POLL_MS";

/// Whether a stand-in has this name.
pub fn is_one(name: &str) -> bool {
    CFN_TOOLS.contains(&name) || SYSTEM_TOOLS.contains(&name)
}

/// Runs a stand-in.
///
/// # Errors
/// As the real program's exit status 1; its message is printed with the name in front.
pub async fn run(name: &str, args: &[String]) -> Result<ExitCode> {
    match name {
        "cfn-init" => cfn_init::main(args).await,
        "cfn-hup" => cfn_hup::main(args).await,
        "cfn-signal" => cfn_signal::main(args).await,
        "aws" => aws_cli::main(args).await,
        "systemctl" => {
            let answer = systemd::systemctl(args).await?;
            print!("{}", answer.out);
            eprint!("{}", answer.err);
            Ok(answer.code.into())
        }
        _ => {
            package_manager(name, args);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn package_manager(name: &str, args: &[String]) {
    let mut words = args.iter().filter(|a| !a.starts_with('-'));
    let verb = words.next().map_or("", String::as_str);
    println!(
        "{name} {verb}: nothing is installed in the local cloud; hosts have the programs of this machine"
    );
    for package in words {
        println!("  {package}: {}", describe_package(package));
    }
}

/// Whether the program that a package is wanted for is on this machine; no package manager is asked.
pub fn describe_package(package: &str) -> String {
    let program = match package {
        "amazon-ssm-agent" | "aws-cfn-bootstrap" | "awscli" | "awscli-2" => {
            return "part of the simulated image".into();
        }
        "docker" | "docker.io" | "moby-engine" => {
            return "the machine's engine, at /run/docker.sock".into();
        }
        "haproxy28" | "haproxy30" => "haproxy",
        other => other,
    };
    let path = OsStr::new("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    requirements::find(program, path).map_or_else(
        || format!("there is no program `{program}` on this machine; it is not installed in the local cloud"),
        |file| format!("{} of this machine", file.display()),
    )
}
