//! `realtime info`: what a running server says of itself.

use super::print;
use super::server::Server;
use anyhow::Context;
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// Print what a running server says of itself, as JSON
///
/// Version, engine, uptime, counts, limits and addresses; never a secret. The API key is taken from --api-key-file or from
/// the variable REALTIME_API_KEY, never from the command line. `realtime serve --info` prints what is known without a
/// running server.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Info {
    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "\
Examples:
  realtime info --api-key-file realtime-data/api-keys
  REALTIME_API_KEY=... realtime info --url https://rt.example.com | jq .version";

impl Info {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.server.get("/info")?;
        let report: Value = serde_json::from_str(&answer)
            .context("the answer is not JSON; is this a realtime server?")?;
        print(format_args!("{report:#}"))?;
        Ok(ExitCode::SUCCESS)
    }
}
