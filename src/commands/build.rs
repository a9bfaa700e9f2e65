//! `porter build …`

use super::{CONFIG, OUT, print, stop_on_signals};
use crate::{
    cli::{Output, Pack, Promote, Provision},
    config::{self, blackout},
    deploy::{self, Request, Way},
    error::{Exit, Failure},
    pack,
    progress::Console,
    promote,
};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// The root of the service's repository: where the command was called (D-CFG-1).
fn repository() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|e| Failure::because(Exit::Failure, "the current directory is unknown", e))
}

/// Reads the configuration and says its warnings.
pub(super) fn load(console: &Console) -> Result<config::Config, Failure> {
    let loaded = config::load(Path::new(CONFIG), &|name| std::env::var(name).ok()).map_err(|errors| {
        let n = errors.errors().len();
        let failure = Failure::new(Exit::Failure, format!("{CONFIG} has {n} error{}", if n == 1 { "" } else { "s" })).hint("docs/configuration.md lists every key");
        errors.errors().iter().fold(failure, Failure::detail)
    })?;
    for warning in &loaded.warnings {
        console.warn(warning);
    }
    Ok(loaded.config)
}

/// `porter build clean`
pub(super) fn clean(out: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(out) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::because(Exit::Failure, format!("{} can't be removed", out.display()), e)),
        _ => Ok(()),
    }
}

/// `porter build provision`
pub(super) async fn provision(args: Provision, output: Output) -> Result<(), Failure> {
    if args.dry_run {
        return super::hotswap::plan_with(request(&args)?, output).await;
    }
    let console = Console::new();
    let stop = stop_on_signals()?;
    let report = deploy::run(&request(&args)?, &console, &stop).await?;
    print(output, &report, || report.table())
}

fn request(args: &Provision) -> Result<Request, Failure> {
    Ok(Request {
        environment: args.environment.clone(),
        repository: repository()?,
        out: OUT.into(),
        way: match (args.no_hotswap, args.hotswap_only) {
            (true, _) => Way::Provision,
            (_, true) => Way::HotSwap,
            _ => Way::Either,
        },
        reset_desired: args.reset_desired,
        override_blackout: args.override_blackout.clone(),
        host_agent: args.host_agent.clone(),
        waits: !args.dry_run,
    })
}

/// `porter build promote`
pub(super) async fn promote(args: Promote, output: Output) -> Result<(), Failure> {
    let console = Console::new();
    let failed = |e: anyhow::Error| Failure::because(Exit::Failure, "there is nothing to promote", e);
    let state = crate::state::ProvisionState::read(&args.provision_output).map_err(|e| failed(anyhow::anyhow!(e)))?;
    if state.hotswap {
        console.say("the last provision was a hot swap: its stack is the promoted one already, nothing is to promote");
        return print(output, &Vec::<promote::Promoted>::new(), String::new);
    }
    let config = pack::Packed::open(Path::new(OUT)).and_then(|p| p.config()).map_err(|e| failed(e.into()))?;
    if let Some(environment) = config.environment(&state.environment) {
        forbid_in_blackout(&environment.name, &environment.blackout_windows, args.override_blackout.as_deref(), &console)?;
    }
    let promoted = promote::promote(&config, &state, args.elb.as_deref()).await?;
    print(output, &promoted, || {
        let line = |p: &promote::Promoted| match &p.load_balancer {
            Some(lb) => format!("{}: {} is promoted to {lb}", p.region, p.stack),
            None => format!("{}: {} has no load balancer to be promoted to", p.region, p.stack),
        };
        promoted.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// Stops with status 3 inside a blackout window, unless the operator overrides it with a reason (D-CFG-113).
fn forbid_in_blackout(environment: &str, windows: &[config::BlackoutWindow], reason: Option<&str>, console: &Console) -> Result<(), Failure> {
    match (blackout::active(windows, Timestamp::now()), reason) {
        (None, _) => Ok(()),
        (Some(window), Some(reason)) => {
            console.warn(format!("{environment}: {window}; overridden: {reason}"));
            Ok(())
        }
        (Some(window), None) => Err(Failure::new(Exit::Blackout, format!("{environment}: {window}"))
            .hint("nothing has changed; wait for its end, or give --override-blackout REASON in an emergency")),
    }
}

