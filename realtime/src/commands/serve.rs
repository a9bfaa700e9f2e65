//! `realtime serve`: settings, log, API keys, then the loop.

use super::{SourceFlags, load, print};
use crate::config::{Finding, Flag, Loaded, LogLevel, Settings, Sources};
use crate::{info, log, server};
use clap::Args;
use std::process::ExitCode;
use tracing::{info, warn};

/// Run the server
///
/// Settings come from a TOML file, from environment variables and from flags, the later winning; `realtime settings` lists
/// them. Secrets are never taken from flags. The server reads its settings again on SIGHUP and when a file behind them
/// changes, and ends on SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    #[command(flatten)]
    sources: SourceFlags,
    /// Where clients connect: `tcp:127.0.0.1:7400`, `unix:/run/rt.sock`. May be repeated
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where /healthz, /metrics and /info are served without an API key. May be repeated
    #[arg(long, value_name = "ADDRESS")]
    operations: Vec<String>,
    /// Where generated API keys are kept
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// The least severe level that is logged: debug, info, warn, error
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How records are logged: json, text
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Serve /echo, which sends every message back. For development only
    #[arg(long)]
    dev_echo: bool,
    /// Check the settings, print what is wrong with them, and exit
    #[arg(long, conflicts_with = "info")]
    check: bool,
    /// Print version and addresses of this installation as JSON, and exit
    #[arg(long)]
    info: bool,
}

const EXAMPLES: &str = "\
Examples:
  realtime serve --log-format text
  realtime serve --config /etc/realtime.toml --check
  realtime serve --listen unix:/run/rt/inet.sock --operations tcp:127.0.0.1:9400
  realtime serve --set limits.idle=off --set limits.duration=2h
  REALTIME_SIGNING_KEYS_1_KEY=c2VzYW1l realtime serve";

impl Serve {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let sources = self.sources();
        let mut loaded = load(&sources)?;
        if self.info {
            print(format_args!("{:#}", info::info(&loaded.settings)))?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.check {
            loaded
                .warnings
                .iter()
                .for_each(|warning| eprintln!("warning: {warning}"));
            print("the settings are good")?;
            return Ok(ExitCode::SUCCESS);
        }
        let _log = log::init(&loaded.settings.log)?;
        let served = prepare(&mut loaded).and_then(|()| server::run(loaded, sources));
        // Also in the log, where whoever is called looks first.
        served.inspect_err(|error| tracing::error!("{error:#}"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn sources(&self) -> Sources {
        let named = |key: &str, flag: &str, value: &String| Flag {
            key: key.into(),
            value: value.clone(),
            typed: flag.into(),
        };
        let mut sources = self.sources.sources();
        sources.dev_echo = self.dev_echo;
        sources
            .flags
            .extend(self.listen.iter().map(|v| named("listen", "--listen", v)));
        sources.flags.extend(
            self.operations
                .iter()
                .map(|v| named("operations", "--operations", v)),
        );
        sources.flags.extend(
            self.data_dir
                .iter()
                .map(|v| named("data_dir", "--data-dir", v)),
        );
        sources.flags.extend(
            self.log_level
                .iter()
                .map(|v| named("log.level", "--log-level", v)),
        );
        sources.flags.extend(
            self.log_format
                .iter()
                .map(|v| named("log.format", "--log-format", v)),
        );
        sources
    }
}

/// What happens once, before the loop: API keys are made if there are none, and the log says what is about to run
/// (R-OPS-10).
fn prepare(loaded: &mut Loaded) -> anyhow::Result<()> {
    if let Some(path) = loaded.generate_api_keys()? {
        info!(path = %path.display(), "two API keys were generated");
    }
    announce(&loaded.settings, &loaded.warnings);
    Ok(())
}

fn announce(settings: &Settings, warnings: &[Finding]) {
    let outputs = info::outputs(settings);
    let text = |name: &str| outputs[name].as_str().unwrap_or("none").to_owned();
    info!(
        version = info::VERSION,
        commit = info::COMMIT,
        web_socket_url = text("webSocketUrl"),
        http_url = text("httpUrl"),
        publish_url = text("publishUrl"),
        console_url = text("consoleUrl"),
        listen = %outputs["listen"],
        operations = %outputs["operations"],
        api_keys = text("apiKeys"),
        event_sinks = %outputs["eventSinks"],
        "starting"
    );
    for warning in warnings {
        warn!("{warning}");
    }
    // R-AUTH-18
    if settings.signing_keys.is_empty() {
        warn!("no signing key is configured: every token is refused; set signing_keys.1.key");
    }
    if settings.dev_echo {
        warn!("/echo is served: --dev-echo is for development only");
    }
    if settings.log.level == LogLevel::Debug {
        warn!("log.level is debug: the payload of every message is logged");
    }
}
