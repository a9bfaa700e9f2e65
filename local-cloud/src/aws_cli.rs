//! A stand-in for the AWS command line: `aws s3 cp s3://BUCKET/KEY FILE`, the one command that hosts' scripts use.

use crate::{flags, stack_resource};
use anyhow::{Context, Result, bail};
use aws_sdk_s3::{Client, error::DisplayErrorContext};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::io::{AsyncWriteExt, stdout};

/// Runs it.
///
/// # Errors
/// As exit status 1 of the real one.
pub async fn main(args: &[String]) -> Result<ExitCode> {
    if args.first().is_some_and(|a| a == "--version") {
        println!("aws-cli/2.0.0 (stand-in of the local cloud: s3 cp only)");
        return Ok(ExitCode::SUCCESS);
    }
    let quiet = ["--only-show-errors", "--quiet", "--no-progress"];
    let flags = flags::parse(args, &["--region", "--output", "--endpoint-url"], &quiet)?;
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    let ["s3", "cp", from, to] = words[..] else {
        bail!("only `aws s3 cp s3://BUCKET/KEY FILE` is simulated by the local cloud")
    };
    let (bucket, key) = from
        .strip_prefix("s3://")
        .and_then(|f| f.split_once('/'))
        .filter(|(b, k)| !b.is_empty() && !k.is_empty())
        .with_context(|| format!("`{from}`: only downloads are simulated by the local cloud"))?;
    let mut config = stack_resource::config(flags.get(["--region", "--region"])).await;
    if let Some(url) = flags.get(["--endpoint-url", "--endpoint-url"]) {
        config = config.into_builder().endpoint_url(url).build();
    }
    let object = Client::new(&config)
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await;
    let mut body = object
        .map_err(|e| anyhow::anyhow!("fatal error: {from}: {}", DisplayErrorContext(&e)))?
        .body;
    if to == "-" {
        while let Some(bytes) = body.try_next().await? {
            stdout().write_all(&bytes).await?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let target = target(Path::new(to), key);
    // Like the real one: aside, then renamed.
    let aside = target.with_extension(format!("{}.part", std::process::id()));
    let download = async {
        let mut file = tokio::fs::File::create(&aside)
            .await
            .with_context(|| aside.display().to_string())?;
        while let Some(bytes) = body.try_next().await? {
            file.write_all(&bytes).await?;
        }
        file.flush().await?;
        fs::rename(&aside, &target).with_context(|| target.display().to_string())
    };
    if let Err(e) = download.await {
        let _ = fs::remove_file(&aside);
        return Err(e);
    }
    if !quiet.iter().any(|q| flags.get([q, q]).is_some()) {
        println!("download: {from} to {}", target.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn target(to: &Path, key: &str) -> PathBuf {
    if to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/") {
        to.join(key.rsplit('/').next().unwrap_or(key))
    } else {
        to.to_owned()
    }
}
