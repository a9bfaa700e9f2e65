//! The command line: one thin file for each command, from arguments over the domain to what is printed.
//!
//! Exit codes: 0 when it worked, 1 when it did not (wrong settings, a token that is refused, a publish that is refused), 2
//! when the command line itself is wrong.

mod check_token;
mod info;
mod publish;
mod serve;
mod server;
mod settings;
mod sign;
mod tail;
mod token;

use crate::config::{Errors, Flag, Loaded, Secret, Sources};
use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// A real-time server: WebSockets with channels, presence and messages, for clients that speak the Hotsock protocol.
#[derive(Debug, Parser)]
#[command(name = "realtime", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A first try, in three terminals of one directory:
  openssl rand -base64 32 > key; export REALTIME_SIGNING_KEYS_1_KEY_FILE=$PWD/key
  realtime serve --log-format text

  realtime token --uid ana --channel 'room.*=subscribe,publish:chat' > token
  realtime tail --token - --channel room.1 < token

  realtime publish --api-key-file realtime-data/api-keys \\
    --channel room.1 --event chat --data '\"hello\"'

Exit codes: 0 it worked, 1 it did not, 2 the command line is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Settings(settings::List),
    Token(token::Mint),
    CheckToken(check_token::Check),
    Publish(publish::Publish),
    Info(info::Info),
    Tail(tail::Tail),
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for standard error.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Settings(list) => list.run(),
        Command::Token(mint) => mint.run(),
        Command::CheckToken(check) => check.run(),
        Command::Publish(publish) => publish.run(),
        Command::Info(info) => info.run(),
        Command::Tail(tail) => tail.run(),
    }
}

/// Where settings come from, the same for every command that reads them.
#[derive(Debug, Args)]
struct SourceFlags {
    /// The TOML file with settings
    #[arg(long, value_name = "FILE", env = "REALTIME_CONFIG")]
    config: Option<PathBuf>,
    /// Any setting, such as `limits.idle=300s`; `realtime settings` lists them. May be repeated
    #[arg(long, value_name = "SETTING=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl SourceFlags {
    fn sources(&self) -> Sources {
        let flag = |(key, value): &(String, String)| Flag {
            key: key.clone(),
            value: value.clone(),
            typed: format!("--set {key}"),
        };
        Sources {
            file: self.config.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                // That socket says where the data of a container that hands over lies, if nothing else does.
                .filter(|(name, _)| {
                    name.starts_with("REALTIME_") || name == "PORTER_HANDOVER_SOCKET"
                })
                .map(|(name, value)| (name, Secret::new(value.to_string_lossy())))
                .collect(),
            flags: self.set.iter().map(flag).collect(),
            dev_echo: false,
        }
    }
}

impl SourceFlags {
    /// The settings of these sources.
    fn load(&self) -> anyhow::Result<Loaded> {
        load(&self.sources())
    }
}

fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    let wrong = |errors: Errors| {
        let lines = errors.to_string().replace('\n', "\n  ");
        anyhow!("the settings are wrong:\n  {lines}")
    };
    sources.load().map_err(wrong)
}

/// Prints to standard output. That nobody reads it any more is no failure: `head` has had enough.
fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected SETTING=VALUE, such as limits.idle=300s")?;
    Ok((key.trim().into(), value.into()))
}

/// The text behind an argument: `-` is standard input, `@FILE` a file, anything else the argument itself.
fn text_of(argument: &str) -> anyhow::Result<String> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => standard_input(),
        (_, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("`{file}` cannot be read"))
        }
        _ => Ok(argument.into()),
    }
}

/// The first line that is neither empty nor a comment, of a file or, for `-`, of standard input: where keys are kept.
fn first_line(file: &str) -> anyhow::Result<String> {
    let text = match file {
        "-" => standard_input()?,
        file => fs::read_to_string(file).with_context(|| format!("`{file}` cannot be read"))?,
    };
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .next()
        .map(str::to_owned)
        .with_context(|| format!("`{file}` holds nothing"))
}

fn standard_input() -> anyhow::Result<String> {
    let mut input = io::stdin();
    if input.is_terminal() {
        eprintln!("reading standard input; end it with Ctrl-D");
    }
    let mut text = String::new();
    input
        .read_to_string(&mut text)
        .context("standard input cannot be read")?;
    Ok(text)
}

/// A token from a flag (`-` for standard input), else from `REALTIME_TOKEN`.
fn token_of(flag: Option<&str>) -> anyhow::Result<String> {
    let token = match (flag, std::env::var("REALTIME_TOKEN")) {
        (Some("-"), _) => standard_input()?,
        (Some(token), _) => token.into(),
        (None, Ok(token)) => token,
        (None, Err(_)) => bail!(
            "a token is needed: --token, the variable REALTIME_TOKEN, or `--token -` for standard input"
        ),
    };
    match token.trim() {
        "" => bail!("the token is empty"),
        token => Ok(token.into()),
    }
}

/// Has the TLS of the client commands use the cryptography that the server uses.
fn install_tls() {
    // Fails only when another one is installed already, which then serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
