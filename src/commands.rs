//! One thin file per command: arguments → domain → what is printed.

pub mod build;
pub mod config;
pub mod hotswap;
pub mod local;

use crate::{
    cli::{Build, Cli, Command, ConfigCommand, Hotswap, Output},
    error::{Exit, Failure},
    pack::OUT,
};
use std::{io::Write, path::Path};
use tokio_util::sync::CancellationToken;

/// The configuration file, looked up from the current directory (D-CFG-1).
pub const CONFIG: &str = ".porter/config";

/// Runs one command.
///
/// # Errors
/// What went wrong, with the exit status it leads to.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let output = cli.output;
    match cli.command {
        Command::Build(Build::Pack(args)) => build::pack(args, output).await,
        Command::Build(Build::Provision(args)) => build::provision(args, output).await,
        Command::Build(Build::Promote(args)) => build::promote(args, output).await,
        Command::Build(Build::Clean) => build::clean(Path::new(OUT)),
        Command::Hotswap(Hotswap::Plan {
            environment,
            host_agent,
        }) => hotswap::plan(environment, host_agent, output).await,
        Command::Config(ConfigCommand::Check) => config::check(output),
        Command::Config(ConfigCommand::Show {
            environment,
            region,
        }) => config::show(&environment, region.as_deref(), output),
        Command::Local(command) => local::run(command, output).await,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            print(output, &serde_json::json!({ "version": version }), || {
                version.into()
            })
        }
    }
}

/// A token that the first SIGINT or SIGTERM cancels; the second one ends the program at once (D-CLI-5).
///
/// # Errors
/// When the signals can't be watched.
pub fn stop_on_signals() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| {
        signal(kind).map_err(|e| Failure::because(Exit::Failure, "signals can't be watched", e))
    };
    let (mut interrupt, mut terminate) = (
        watch(SignalKind::interrupt())?,
        watch(SignalKind::terminate())?,
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let mut next =
            async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
        next().await;
        // With stderr closed there is nobody to tell, and the token matters all the same.
        let text = "interrupted: finishing the current step; interrupt again to end at once";
        drop(writeln!(std::io::stderr(), "{text}"));
        token.cancel();
        next().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    Ok(stop)
}

/// Prints a result: `text` for people, `json` for programs.
fn print<T: serde::Serialize>(
    output: Output,
    json: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let line = match output {
        Output::Text => text(),
        Output::Json => serde_json::to_string_pretty(json)
            .map_err(|e| Failure::because(Exit::Failure, "the result can't be written", e))?,
    };
    let line = line.trim_end();
    if line.is_empty() {
        return Ok(());
    }
    match writeln!(std::io::stdout(), "{line}") {
        // Whoever read has had enough (`| head`); that is no failure of the command.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::because(
            Exit::Failure,
            "the result can't be written",
            e,
        )),
        _ => Ok(()),
    }
}
