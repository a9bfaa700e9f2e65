//! The program: parses the command line, runs the command, and says what went wrong.

use clap::Parser;
use realtime::commands::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
