//! The `demo` program: arguments, Ctrl-C, what is printed, exit status.

use anyhow::Context;
use clap::Parser;
use demo::{flow, receipt};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Hot-swaps the example service on simulated hosts under load, and prints the receipt.
///
/// Exit status: 0 when nobody could have noticed the swap, 1 when somebody could or an act failed, 130 after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 110)]
struct Arguments {
    /// Number of hosts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    hosts: u8,
    /// Requests a second, over all hosts.
    #[arg(long, default_value_t = 750.0, value_parser = rate)]
    rate: f64,
    /// The load runs at least so many seconds, and in any case until 3 s after the swap.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Leave the local cloud running.
    #[arg(long)]
    keep: bool,
    /// `json` prints the report on stdout, as it is written to `target/demo/report.json`.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The repository.
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    root: PathBuf,
    /// The `porter` program; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    porter: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second from 1 to 100000".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let stop = CancellationToken::new();
    match run(Arguments::parse(), stop.clone()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if stop.is_cancelled() { 130 } else { 1 })
        }
    }
}

async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<bool> {
    cancel_on_signals(stop.clone())?;
    let root = std::path::absolute(&arguments.root)?;
    let porter = match arguments.porter {
        Some(porter) => std::path::absolute(porter)?,
        None => std::env::current_exe()?.with_file_name("porter"),
    };
    let settings = flow::Settings {
        folder: root.join("target/demo"),
        root,
        porter,
        scratch: std::env::temp_dir(),
        hosts: arguments.hosts.into(),
        rate: arguments.rate,
        at_least: Duration::from_secs(arguments.seconds),
        keep: arguments.keep,
    };
    let report = flow::run(settings, stop).await?;
    match arguments.output {
        Output::Text => print!("\n{}", receipt::receipt(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(report.passed)
}

/// The first SIGINT or SIGTERM ends the acts, and the cloud is taken down; further ones only say so.
fn cancel_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let watch = |kind| signal(kind).context("signals can't be watched");
    let (mut interrupt, mut terminate) = (
        watch(SignalKind::interrupt())?,
        watch(SignalKind::terminate())?,
    );
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("interrupted: ending the current command and taking the local cloud down");
            stop.cancel();
        }
    });
    Ok(())
}
