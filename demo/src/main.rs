//! The `demo` program: arguments, Ctrl-C, what is printed, exit status.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use demo::{
    http,
    live::{
        self,
        flow::Engine,
        swaps::{self, Course},
    },
    stage::Settings,
};
use serde::Serialize;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Swaps the real-time server on simulated hosts under thousands of WebSockets, there and back, and prints the receipt.
///
/// Exit status: 0 when nobody could have noticed the swaps, 1 when somebody could or an act failed, 130 after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Number of hosts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    hosts: u8,
    /// WebSockets, over all hosts.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(2..=50_000))]
    connections: u32,
    /// What hosts keep their state in; with `redis` one is started, and the clients of every channel are on all hosts.
    #[arg(long, value_enum, default_value_t = Engine::Embedded, conflicts_with = "http")]
    engine: Engine,
    /// The demo of ordinary services instead: HTTP requests while `examples/hello` is swapped.
    #[arg(long)]
    http: bool,
    /// With --http: requests a second, over all hosts.
    #[arg(long, default_value_t = 750.0, value_parser = rate)]
    rate: f64,
    /// The load runs at least so many seconds, and in any case until 3 s after the last swap.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// The server's two versions are built with the dev profile: sooner done, slower at work.
    #[arg(long)]
    dev: bool,
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

/// Without a cloud: processes of the real-time server behind HAProxy.
#[derive(Debug, Subcommand)]
enum Mode {
    /// Many swaps in a row on the same connections: nothing is noticed, nothing leaks.
    Swaps {
        /// How many.
        #[arg(long, default_value_t = 200)]
        count: usize,
        /// WebSockets, over all hosts.
        #[arg(long, default_value_t = 2000)]
        connections: usize,
        /// The servers' `engine.url`, such as redis://127.0.0.1:6379; blank for a database file of each host.
        #[arg(long, default_value = "", value_name = "URL")]
        engine: String,
        /// Hosts, swapped in turn. With more than one, which needs an engine that they share, every channel is on all.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
        hosts: u8,
        /// The `realtime` program; by default the one beside this program.
        #[arg(long, value_name = "FILE")]
        realtime: Option<PathBuf>,
    },
    /// What a swap costs with more and more connections.
    Growth {
        /// Swaps for each number of connections.
        #[arg(long, default_value_t = 5)]
        count: usize,
        /// Numbers of connections.
        #[arg(long, value_delimiter = ',', default_values_t = swaps::GROWTH)]
        connections: Vec<usize>,
        /// The `realtime` program; by default the one beside this program.
        #[arg(long, value_name = "FILE")]
        realtime: Option<PathBuf>,
    },
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
    if let Some(mode) = arguments.mode {
        return tokio::task::spawn_blocking(move || bare(mode, &stop)).await?;
    }
    let root = std::path::absolute(&arguments.root)?;
    let settings = Settings {
        folder: root.join("target/demo"),
        root,
        porter: beside(arguments.porter, "porter")?,
        scratch: std::env::temp_dir(),
        hosts: arguments.hosts.into(),
        at_least: Duration::from_secs(arguments.seconds),
        release: !arguments.dev,
        keep: arguments.keep,
    };
    if arguments.http {
        let report = http::flow::run(settings, arguments.rate, stop).await?;
        print(arguments.output, &report, http::receipt::receipt)?;
        return Ok(report.passed);
    }
    let connections = arguments.connections as usize;
    let report = live::flow::run(settings, connections, arguments.engine, stop).await?;
    print(arguments.output, &report, live::receipt::receipt)?;
    Ok(report.passed)
}

fn print<Report: Serialize>(
    output: Output,
    report: &Report,
    receipt: impl FnOnce(&Report) -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Text => print!("\n{}", receipt(report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    Ok(())
}

/// A program that was named, or the one beside this program.
fn beside(named: Option<PathBuf>, name: &str) -> anyhow::Result<PathBuf> {
    Ok(match named {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe()?.with_file_name(name),
    })
}

fn bare(mode: Mode, stop: &CancellationToken) -> anyhow::Result<bool> {
    match mode {
        Mode::Swaps {
            count,
            connections,
            engine,
            hosts,
            realtime,
        } => {
            if hosts > 1 && engine.is_empty() {
                bail!("several hosts need an engine that they share: --engine redis://…");
            }
            let course = Course {
                program: &beside(realtime, "realtime")?,
                connections,
                count,
                hosts: hosts.into(),
                engine: &engine,
            };
            swap_and_judge(&course, stop).map(|(_, good)| good)
        }
        Mode::Growth {
            count,
            connections,
            realtime,
        } => {
            let program = beside(realtime, "realtime")?;
            let mut lines = Vec::new();
            let mut good = true;
            for connections in connections {
                let course = Course {
                    program: &program,
                    connections,
                    count,
                    hosts: 1,
                    engine: "",
                };
                let (line, passed) = swap_and_judge(&course, stop)?;
                lines.push(line);
                good &= passed;
            }
            println!("{}", swaps::table(&lines));
            Ok(good)
        }
    }
}

fn swap_and_judge(
    course: &Course<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<(live::swaps::Growth, bool)> {
    if course.count == 0 {
        bail!("no swap proves nothing");
    }
    eprintln!("opening {} WebSockets", course.connections);
    let swaps = swaps::run(course, stop, |number, swap, server| {
        eprintln!(
            "swap {number:>3}: {} handed over, freeze {:.1} ms, handover {:.1} ms, server {} KiB, {} descriptors",
            swap.receipt.transferred,
            swap.receipt.frozen_ms,
            swap.receipt.total_ms,
            server.rss_kib,
            server.descriptors
        );
    })?;
    println!("{}", swaps.summary());
    let problems = swaps.problems();
    for problem in &problems {
        println!("  - {problem}");
    }
    println!(
        "{}\n",
        if problems.is_empty() {
            "PASSED: nobody noticed."
        } else {
            "FAILED"
        }
    );
    Ok((swaps.growth(), problems.is_empty()))
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
            eprintln!("interrupted: ending the current command, then everything that was started");
            stop.cancel();
        }
    });
    Ok(())
}
