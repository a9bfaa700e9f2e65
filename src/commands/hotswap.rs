//! `porter hotswap …`

use super::{OUT, print, stop_on_signals};
use crate::{
    cli::Output,
    deploy::{Request, Way, plan},
    error::Failure,
    progress::Console,
};
use std::path::PathBuf;

/// `porter hotswap plan`
pub(super) async fn plan(
    environment: String,
    host_agent: Option<PathBuf>,
    output: Output,
) -> Result<(), Failure> {
    let request = Request {
        environment,
        repository: ".".into(),
        out: OUT.into(),
        way: Way::Either,
        reset_desired: false,
        override_blackout: None,
        host_agent,
        waits: false,
    };
    plan_with(request, output).await
}

/// The plan of a request, printed.
pub(super) async fn plan_with(request: Request, output: Output) -> Result<(), Failure> {
    let plan = plan::plan(&request, &Console::new(), &stop_on_signals()?).await?;
    print(output, &plan, || plan.text())
}
