//! The `host-agent` program.

use clap::{Parser, Subcommand};
use host_agent::{agent, host::Settings, status};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Swaps the code that this host serves
#[derive(Parser)]
#[command(name = "host-agent", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring this host to what its stack wants; run by cfn-hup
    Hotswap,
    /// The same on a fresh instance; run once by cloud-init
    Boot,
    /// Show what runs on this host
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("PORTER_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,host_agent=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: this process can't start its threads: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), String> {
    match cli.command {
        // A verdict that was delivered ends with 0, whatever it says: cfn-hup would only run the same again.
        Command::Hotswap => agent::hotswap(cli.settings).await.map(|_| ()),
        Command::Boot => agent::boot(cli.settings).await.map(|_| ()),
        Command::Status { json } => {
            let status = status::status(&cli.settings).await?;
            if json {
                let text = serde_json::to_string_pretty(&status).map_err(|e| e.to_string())?;
                println!("{text}");
            } else {
                print!("{status}");
            }
            Ok(())
        }
    }
}
