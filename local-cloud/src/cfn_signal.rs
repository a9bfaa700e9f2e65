//! A stand-in for cfn-signal: to a wait condition's URL, or to a resource of a stack.

use crate::{flags, stack_resource};
use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::types::ResourceSignalStatus;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::process::ExitCode;

/// `cfn-signal [-e STATUS | -s BOOL] [-r REASON] [-i ID] (--stack S --resource R [--region REGION] | URL)`
///
/// # Errors
/// The signal was not accepted. A failure that was signalled is a success of this program.
pub async fn main(args: &[String]) -> Result<ExitCode> {
    let flags = flags::parse(
        args,
        &[
            "-e",
            "--exit-code",
            "-s",
            "--success",
            "-r",
            "--reason",
            "-d",
            "--data",
            "-i",
            "--id",
            "--stack",
            "--resource",
            "--region",
            "--url",
            "--role",
        ],
        &["-v", "--verbose"],
    )?;
    let succeeded = match (
        flags.get(["-e", "--exit-code"]),
        flags.get(["-s", "--success"]),
    ) {
        (Some(code), _) => {
            code.parse::<i32>()
                .with_context(|| format!("exit code `{code}` is not a number"))?
                == 0
        }
        (None, Some(text)) => text.eq_ignore_ascii_case("true"),
        (None, None) => true,
    };
    let boot: crate::host::Boot =
        crate::place::read_json(std::path::Path::new("/var/lib/porter-host/boot.json"))?;
    let id = flags.get(["-i", "--id"]).unwrap_or(&boot.instance);
    let (stack, resource) = (
        flags.get(["--stack", "--stack"]),
        flags.get(["--resource", "--resource"]),
    );
    match (stack, resource, flags.words.as_slice()) {
        (Some(stack), Some(resource), []) => {
            let client = aws_sdk_cloudformation::Client::new(
                &stack_resource::config(flags.get(["--region", "--region"])).await,
            );
            let status = if succeeded {
                ResourceSignalStatus::Success
            } else {
                ResourceSignalStatus::Failure
            };
            let call = client
                .signal_resource()
                .stack_name(stack)
                .logical_resource_id(resource)
                .unique_id(id)
                .status(status);
            call.send().await.map_err(|e| {
                anyhow::anyhow!(
                    "SignalResource: {}",
                    aws_sdk_cloudformation::error::DisplayErrorContext(&e)
                )
            })?;
        }
        (None, None, [url]) => {
            let body = serde_json::json!({
                "Status": if succeeded { "SUCCESS" } else { "FAILURE" }, "UniqueId": id,
                "Reason": flags.get(["-r", "--reason"]).unwrap_or_default(), "Data": flags.get(["-d", "--data"]).unwrap_or_default(),
            });
            put(url, body.to_string()).await?;
        }
        _ => bail!("either --stack and --resource, or the URL of a wait condition handle"),
    }
    if let Ok(mut log) = crate::logfile::Log::open("/var/log/cfn-signal.log") {
        log.line(&format!(
            "signalled {}",
            if succeeded { "SUCCESS" } else { "FAILURE" }
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn put(url: &str, body: String) -> Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client
        .request(Request::put(url).body(Full::from(body))?)
        .await
        .with_context(|| url.to_owned())?;
    anyhow::ensure!(
        response.status().is_success(),
        "{url} answered {}",
        response.status()
    );
    Ok(())
}
