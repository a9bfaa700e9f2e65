//! `porter config …`

use super::{CONFIG, build::load, print};
use crate::{
    cli::Output,
    config,
    error::{Exit, Failure},
    progress::Console,
};

/// `porter config check`
pub(super) fn check(output: Output) -> Result<(), Failure> {
    let config = load(&Console::new())?;
    let environments: Vec<&str> = config
        .environments
        .iter()
        .map(|e| e.name.as_str())
        .collect();
    let result = serde_json::json!({ "file": CONFIG, "service": config.service_name, "environments": environments });
    print(output, &result, || {
        format!(
            "{CONFIG} is valid: {} in {}",
            config.service_name,
            environments.join(", ")
        )
    })
}

/// `porter config show`
pub(super) fn show(environment: &str, region: Option<&str>, output: Output) -> Result<(), Failure> {
    let config = load(&Console::new())?;
    let Some(mut found) = config.environment(environment).cloned() else {
        let known: Vec<_> = config
            .environments
            .iter()
            .map(|e| e.name.as_str())
            .collect();
        return Err(Failure::new(
            Exit::Failure,
            format!("there is no environment `{environment}`"),
        )
        .hint(format!("there are: {}", known.join(", "))));
    };
    if let Some(region) = region {
        found.regions.retain(|r| r.name == region);
        if found.regions.is_empty() {
            return Err(Failure::new(
                Exit::Failure,
                format!("the environment `{environment}` has no region `{region}`"),
            ));
        }
    }
    let text = serde_yaml::to_string::<config::Environment>(&found)
        .map_err(|e| Failure::because(Exit::Failure, "the configuration can't be written", e))?;
    print(output, &found, || text)
}
