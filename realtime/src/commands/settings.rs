//! `realtime settings`: what can be set, and what is in force.

use super::{SourceFlags, print};
use crate::config::{markdown, settings};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::process::ExitCode;

/// List all settings with the values in force
///
/// Values come from the same sources as those of `realtime serve`. Secrets are never shown.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    #[command(flatten)]
    sources: SourceFlags,
    /// How the list is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  realtime settings --config /etc/realtime.toml
  realtime settings --output json | jq -r '.[] | select(.reload) | .key'";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// One setting a line, with what it does
    Text,
    /// A JSON array
    Json,
    /// The table of the documentation, with defaults only
    Markdown,
}

impl List {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if matches!(self.output, Output::Markdown) {
            print(markdown().trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let loaded = self.sources.load()?;
        let rows = settings().iter().map(|s| (s, s.show(&loaded.settings)));
        match self.output {
            Output::Json => {
                let rows: Vec<_> = rows
                    .map(|(s, value)| {
                        json!({
                            "key": s.key,
                            "variable": s.variable(),
                            "kind": s.kind,
                            "list": s.list,
                            "value": value,
                            "secret": s.secret,
                            "reload": s.reload,
                            "meaning": s.meaning,
                        })
                    })
                    .collect();
                print(format_args!("{:#}", json!(rows)))?;
            }
            Output::Text | Output::Markdown => {
                let rows = rows.map(|(s, value)| {
                    let restart = if s.reload { "" } else { " Needs a restart." };
                    format!(
                        "{} = {value}\n    {}{restart}\n    {}",
                        s.key,
                        s.meaning,
                        s.variable()
                    )
                });
                print(rows.collect::<Vec<_>>().join("\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
