//! `porter local …`

use crate::{cli::Output, error::Failure};
use clap::Subcommand;

/// placeholder until merged
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// up
    Up,
}

/// run
pub async fn run(_command: LocalCommand, _output: Output) -> Result<(), Failure> {
    Ok(())
}
