//! The hidden ways into the program: what the fleet and the hosts start, and the stand-ins by their names.

use crate::{fleet, guest, init, place::Place, process::OWNER, stand_ins};
use anyhow::{Context, Result, bail};
use std::{env, ffi::OsString, path::Path, process::ExitCode};

/// First argument of a hidden entry.
pub const HIDDEN: &str = "__local-cloud";

/// Runs a hidden entry, when this process was started as one: as a stand-in such as `cfn-init`, inside a simulated host,
/// or with [`HIDDEN`] as its first argument. The program's `main` calls it before anything else, outside any runtime.
pub fn run(args: &[OsString]) -> Option<ExitCode> {
    let name = args
        .first()
        .and_then(|a| Path::new(a).file_name())
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let text: Vec<String> = args
        .iter()
        .skip(1)
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let inside = env::var_os(OWNER).is_some();
    let result = if inside && stand_ins::is_one(name) {
        in_runtime(stand_ins::run(name, &text))
    } else if text.first().is_some_and(|a| a == HIDDEN) {
        hidden(&text[1..]).map(|()| ExitCode::SUCCESS)
    } else {
        return None;
    };
    Some(result.unwrap_or_else(|e| {
        eprintln!("{name}: {e:#}");
        ExitCode::FAILURE
    }))
}

fn hidden(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["fleet", name, state, cache] => {
            let place = Place {
                name: name.into(),
                state: state.into(),
                cache: cache.into(),
            };
            fleet::main(&place).inspect_err(|e| {
                // `up` reads it; when the directory is gone, `down` was faster.
                let _ = std::fs::write(place.file("failed"), format!("{e:#}"));
            })
        }
        ["host", dir] => init::run(Path::new(dir)),
        ["guest"] => in_runtime(guest::run()),
        _ => bail!("this is how the local cloud starts its own parts; use `porter local`"),
    }
}

/// A runtime on this thread: what it starts dies with it.
pub(crate) fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?
        .block_on(work)
}
