//! The `porter` program: parse, run, print the error and its hints, exit status.

use clap::{CommandFactory, Parser};
use porter::{
    cli::{self, Cli, Output},
    commands,
    error::Exit,
};
use std::{ffi::OsString, io::Write, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Simulated hosts and their programs are this program under other names.
    if let Some(ended) = local_cloud::entry::run(&args) {
        return ended;
    }
    let args = cli::normalise(args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misuse(&error, &args),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return Exit::Failure.code().into();
        }
    };
    log();
    let output = cli.output;
    let result = runtime.block_on(commands::run(cli));
    // A blocking helper thread (a name look-up, a stuck pipe) must not keep a finished command from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if output == Output::Json {
                let json = serde_json::json!({ "error": failure });
                drop(writeln!(std::io::stdout(), "{json}"));
            }
            drop(writeln!(std::io::stderr(), "{failure}"));
            failure.exit.code().into()
        }
    }
}

/// Warnings always, details with `LOG_DEBUG` (D-CLI-48, D-CLI-51), on stderr.
fn log() {
    let debug = std::env::var_os("LOG_DEBUG").is_some_and(|v| !v.is_empty());
    let filter = if debug {
        "warn,porter=debug,local_cloud=debug"
    } else {
        "warn,aws_config=error"
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_file(debug)
        .with_line_number(debug)
        .init();
}

/// `--help` and `--version` end well; a wrong call shows what is wrong on stderr and the command's long help on stdout
/// (D-CLI-1).
fn misuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    // With stdout or stderr closed there is nobody to tell.
    drop(error.print());
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let mut command = Cli::command();
    command.build();
    for arg in args.iter().skip(1).filter_map(|a| a.to_str()) {
        match command.find_subcommand(arg) {
            Some(inner) => command = inner.clone(),
            None => break,
        }
    }
    drop(write!(std::io::stdout(), "{}", command.render_long_help()));
    Exit::Usage.code().into()
}
