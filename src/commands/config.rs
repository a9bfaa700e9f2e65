//! `porter config …`

use super::{CONFIG, build::load, print};
use crate::{
    cli::Output,
    config::show::{self, RegionView},
    error::{Exit, Failure},
};

/// `porter config check`
pub(super) fn check(output: Output) -> Result<(), Failure> {
    let check = show::check(&load()?);
    print(output, &check, || check.to_string())
}

/// `porter config show`
pub(super) fn show(environment: &str, region: Option<&str>, output: Output) -> Result<(), Failure> {
    let config = load()?.config;
    let text = std::fs::read_to_string(CONFIG)
        .map_err(|e| Failure::because(Exit::Failure, format!("{CONFIG} can't be read"), e))?;
    let views = show::view(&config, &text, environment, region).ok_or_else(|| {
        let known: Vec<_> = config
            .environments
            .iter()
            .flat_map(|e| {
                e.regions
                    .iter()
                    .map(|r| format!("{} in {}", e.name, r.name))
            })
            .collect();
        let place = region.map(|r| format!(" in {r}")).unwrap_or_default();
        Failure::new(Exit::Failure, format!("there is no `{environment}`{place}"))
            .hint(format!("there are: {}", known.join(", ")))
    })?;
    print(output, &views, || {
        let texts: Vec<String> = views.iter().map(RegionView::to_string).collect();
        texts.join("\n\n")
    })
}
