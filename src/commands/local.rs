//! `porter local`: a place to try porter on this machine, without an AWS account. See `docs/local-cloud.md`.

use crate::{
    cli::Output,
    error::{Exit, Failure},
};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use local_cloud::{
    Cloud, HostInfo, HostState, Options, Place,
    logs::{self, Source},
    place::exports,
    requirements::Missing,
};
use std::{io::Write, time::Duration};

/// `porter local …`
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Start the local cloud, and print the variables that lead AWS programs to it. Harmless when it is up.
    Up(Up),
    /// Take the local cloud down: hosts, containers, network, files. Also what a killed one left behind.
    Down {
        /// Which local cloud.
        #[command(flatten)]
        which: Which,
        /// Remove MiniStack's virtual environment from the cache too.
        #[arg(long)]
        purge: bool,
    },
    /// What runs: emulator, hosts, payloads.
    Status(Which),
    /// Print the variables that `up` printed, for `eval "$(porter local env)"`.
    Env(Which),
    /// Print the logs of a host, or of the cloud itself.
    Logs(Logs),
}

/// Which local cloud.
#[derive(Debug, Args)]
pub struct Which {
    /// Name of the local cloud: several may run beside each other.
    #[arg(long, env = "PORTER_LOCAL_NAME", default_value = local_cloud::DEFAULT_NAME, value_name = "NAME")]
    pub name: String,
}

/// `porter local up`
#[derive(Debug, Args)]
pub struct Up {
    /// Which local cloud.
    #[command(flatten)]
    pub which: Which,
    /// Exported as PORTER_LOCAL_HOSTS, for a configuration's instance_count; Auto Scaling groups decide how many run.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub hosts: u32,
    /// How often hosts look for a changed stack; cfn-hup on EC2 looks once a minute.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time)]
    pub poll: Duration,
    /// Region to follow; may be repeated, the first is the default one.
    #[arg(long = "region", default_value = "us-east-1", value_name = "REGION")]
    pub regions: Vec<String>,
}

/// `porter local logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// Which local cloud.
    #[command(flatten)]
    pub which: Which,
    /// Instance id, its beginning, or address. Without it: every host.
    #[arg(value_name = "HOST")]
    pub host: Option<String>,
    /// Only this log: boot, cfn-init, cfn-hup, agent, services, containers, fleet or emulator.
    #[arg(long, value_name = "LOG")]
    pub only: Option<Source>,
    /// Lines of each log.
    #[arg(long, short = 'n', default_value_t = 200, value_name = "N")]
    pub lines: usize,
    /// Go on with what is written from now on, until interrupted.
    #[arg(long, short)]
    pub follow: bool,
}

/// `300ms`, `2s` or `1m`; at least 50 ms.
fn time(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number and a unit, such as 300ms or 2s".to_owned())?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("`{unit}` is not a unit of time: use ms, s or m")),
    };
    if time < Duration::from_millis(50) {
        Err("at least 50ms".into())
    } else {
        Ok(time)
    }
}

/// Runs a command of `porter local`.
///
/// # Errors
/// For the operator: what is missing on this machine, what did not start and the end of its log, what could not be removed.
pub async fn run(command: LocalCommand, output: Output) -> Result<(), Failure> {
    match dispatch(command, output).await {
        // Whoever read has had enough (`porter local logs | head`).
        Err(e) if is_broken_pipe(&e) => Ok(()),
        done => done.map_err(failure),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What is missing on this machine becomes one line each, with the packages as advice.
fn failure(error: anyhow::Error) -> Failure {
    let Some(missing) = error.downcast_ref::<Missing>() else {
        return Failure::because(Exit::Failure, "porter local", error);
    };
    let failure = missing.problems.iter().fold(
        Failure::new(Exit::Failure, Missing::SUMMARY),
        Failure::detail,
    );
    match missing.install() {
        Some(command) => failure.hint(format!("on Debian and Ubuntu: `{command}`")),
        None => failure,
    }
}

async fn dispatch(command: LocalCommand, output: Output) -> Result<()> {
    match command {
        LocalCommand::Up(up) => start(up, output).await,
        LocalCommand::Down { which, purge } => down(&which, purge, output).await,
        LocalCommand::Status(which) => status(&which, output).await,
        LocalCommand::Env(which) => {
            let cloud = running(&which)?;
            match output {
                Output::Text => print(&exports(&cloud.about().env)),
                Output::Json => print(&json(&cloud.about().env)?),
            }
        }
        LocalCommand::Logs(logs) => show_logs(logs).await,
    }
}

async fn start(up: Up, output: Output) -> Result<()> {
    let place = Place::from_env(&up.which.name)?;
    let options = Options {
        hosts: up.hosts,
        poll: up.poll,
        regions: up.regions,
        ..Options::new()?
    };
    let cloud = Cloud::up(&place, &options, &|line| eprintln!("{line}")).await?;
    eprintln!(
        "the local cloud is up at {}; hosts start when a stack asks for them",
        cloud.endpoint()
    );
    match output {
        Output::Text => {
            eprintln!("hint: eval \"$(porter local env)\" takes these variables into your shell");
            print(&exports(&cloud.about().env))
        }
        Output::Json => print(&json(cloud.about())?),
    }
}

async fn down(which: &Which, purge: bool, output: Output) -> Result<()> {
    let place = Place::from_env(&which.name)?;
    let existed = Cloud::down(&place).await?;
    if purge {
        local_cloud::emulator::uninstall(&place.cache)?;
    }
    match output {
        Output::Text if !existed => eprintln!("there was no local cloud to take down"),
        Output::Text if purge => eprintln!(
            "the local cloud is down, and MiniStack is removed from {}",
            place.cache.display()
        ),
        Output::Text => eprintln!(
            "the local cloud is down; MiniStack stays in {} (`--purge` removes it)",
            place.cache.display()
        ),
        Output::Json => print(&json(
            &serde_json::json!({ "removed": existed, "purged": purge }),
        )?)?,
    }
    Ok(())
}

async fn status(which: &Which, output: Output) -> Result<()> {
    let place = Place::from_env(&which.name)?;
    let cloud = Cloud::find(&place);
    let hosts = local_cloud::cloud::hosts(&place).await;
    if output == Output::Json {
        let endpoint = cloud.as_ref().map(Cloud::endpoint);
        return print(&json(
            &serde_json::json!({ "name": place.name, "up": cloud.is_some(), "endpoint": endpoint, "hosts": hosts }),
        )?);
    }
    match &cloud {
        Some(cloud) => print(&format!(
            "{} is up: {}, {}\n",
            place.name,
            cloud.endpoint(),
            cloud.about().regions.join(", ")
        ))?,
        None if place.state.exists() => {
            print(&format!(
                "{} is not up, but something is left of it: `porter local down` removes it\n",
                place.name
            ))?;
        }
        None => print(&format!("{} is not up\n", place.name))?,
    }
    if cloud.is_some() && hosts.is_empty() {
        print("no hosts: no Auto Scaling group has instances\n")?;
    }
    print(&table(&hosts))
}

fn table(hosts: &[HostInfo]) -> String {
    let state = |s: HostState| match s {
        HostState::Booting => "booting",
        HostState::Running => "running",
        HostState::Failed => "failed",
        HostState::Stopped => "stopped",
    };
    let mut text = String::new();
    for host in hosts {
        let payload = host.payload.as_deref().map_or("-", |p| {
            p.trim_start_matches("sha256:").get(..12).unwrap_or(p)
        });
        text += &format!(
            "{:<20} {:<9} {:<24} {:<12} {}\n",
            host.instance,
            state(host.state),
            host.url,
            payload,
            host.group
        );
        for error in &host.errors {
            text += &format!("  {error}\n");
        }
    }
    if text.is_empty() {
        text
    } else {
        format!(
            "{:<20} {:<9} {:<24} {:<12} {}\n",
            "INSTANCE", "STATE", "URL", "PAYLOAD", "GROUP"
        ) + &text
    }
}

async fn show_logs(args: Logs) -> Result<()> {
    let place = Place::from_env(&args.which.name)?;
    if !place.state.exists() {
        bail!(
            "the local cloud `{}` is not up, and nothing is left of it",
            place.name
        );
    }
    let hosts = logs::select(
        &local_cloud::cloud::hosts(&place).await,
        args.host.as_deref(),
    )?;
    let mut printer = logs::Printer::new(&place, hosts, args.only);
    printer
        .print(args.lines, &mut std::io::stdout().lock())
        .await?;
    if !args.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        printer
            .print(usize::MAX, &mut std::io::stdout().lock())
            .await?;
    }
}

fn running(which: &Which) -> Result<Cloud> {
    let place = Place::from_env(&which.name)?;
    Cloud::find(&place).with_context(|| {
        format!(
            "the local cloud `{}` is not up; start it with `porter local up`",
            place.name
        )
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_times_have_units_and_a_lower_bound() {
        assert_eq!(time("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(time("2"), time("2s"));
        assert_eq!(time("1m"), Ok(Duration::from_secs(60)));
        assert!(time("10ms").is_err() && time("1h").is_err() && time("s").is_err());
    }

    #[test]
    fn everything_that_is_missing_is_one_error_with_the_packages_to_install() {
        let missing = Missing {
            problems: vec![
                "HAProxy: there is no `haproxy`".into(),
                "Python: there is no `python3`".into(),
            ],
            packages: vec!["haproxy", "python3"],
        };
        assert_eq!(
            failure(missing.into()).to_string(),
            "error: this machine lacks what the local cloud needs\n  HAProxy: there is no `haproxy`\n  Python: there is no `python3`\n\
             hint: on Debian and Ubuntu: `sudo apt-get install haproxy python3`"
        );
    }

    #[test]
    fn a_host_that_failed_shows_why() {
        let host = HostInfo {
            instance: "i-0123456789abcdef0".into(),
            group: "hello-AutoScalingGroup".into(),
            stack: None,
            region: "us-east-1".into(),
            address: "127.0.1.11".into(),
            url: "http://127.0.1.11:8080".into(),
            state: HostState::Failed,
            errors: vec!["runcmd: exit status: 1; see /var/log/cloud-init-output.log".into()],
            payload: Some("sha256:0123456789abcdef".into()),
            pid: Some(1),
            root: "/".into(),
        };
        let text = table(&[host]);
        assert!(text.contains("failed    http://127.0.1.11:8080   0123456789ab hello-AutoScalingGroup\n  runcmd: exit status: 1"), "{text}");
        assert_eq!(table(&[]), "");
    }
}
