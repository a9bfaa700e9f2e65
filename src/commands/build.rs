//! `porter build …`

use super::{CONFIG, OUT, print, stop_on_signals};
use crate::{
    cli::{Output, Pack, Promote, Provision},
    config::{self, blackout},
    deploy::{self, Request, Way, hook_failure},
    error::{Exit, Failure},
    hooks::{self, HookContext, Moment, StatsCredentials},
    pack::{self, PackEvent},
    progress::Console,
    promote,
    report::{Outcome, size},
};
use indicatif::ProgressBar;
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

/// The root of the service's repository: where the command was called (D-CFG-1).
fn repository() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|e| Failure::because(Exit::Failure, "the current directory is unknown", e))
}

/// Reads and checks the configuration; every finding is a line of the failure (D-CFG-3).
pub(super) fn load() -> Result<config::Loaded, Failure> {
    config::load(Path::new(CONFIG), &|name| std::env::var(name).ok()).map_err(|errors| {
        if let [only] = errors.errors()
            && only.line.is_none()
        {
            // Not a mistake in the file: there is none, or it can't be read.
            return Failure::new(Exit::Failure, only);
        }
        let n = errors.errors().len();
        let failure = Failure::new(
            Exit::Failure,
            format!("{CONFIG} has {n} error{}", if n == 1 { "" } else { "s" }),
        )
        .hint("docs/configuration.md lists every key");
        let failure = errors.errors().iter().fold(failure, Failure::detail);
        // The example's variables, in a shell that has not taken them.
        if failure.details.iter().any(|d| d.contains("`PORTER_LOCAL_")) {
            failure.hint(
                "`eval \"$(porter local env)\"` sets the variables of a local cloud that is up",
            )
        } else {
            failure
        }
    })
}

/// The same for commands that go on with it: warnings are said.
fn load_with(console: &Console) -> Result<config::Config, Failure> {
    let loaded = load()?;
    for warning in &loaded.warnings {
        console.warn(warning);
    }
    Ok(loaded.config)
}

/// `porter build clean`
pub(super) fn clean(out: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(out) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::because(
            Exit::Failure,
            format!("{} can't be removed", out.display()),
            e,
        )),
        _ => Ok(()),
    }
}

/// `porter build provision`
pub(super) async fn provision(args: Provision, output: Output) -> Result<(), Failure> {
    if args.dry_run {
        return super::hotswap::plan_with(request(&args)?, output).await;
    }
    let console = Console::new();
    let stop = stop_on_signals()?;
    let report = deploy::run(&request(&args)?, &console, &stop).await?;
    print(output, &report, || report.table())
}

fn request(args: &Provision) -> Result<Request, Failure> {
    Ok(Request {
        environment: args.environment.clone(),
        repository: repository()?,
        out: OUT.into(),
        way: match (args.no_hotswap, args.hotswap_only) {
            (true, _) => Way::Provision,
            (_, true) => Way::HotSwap,
            _ => Way::Either,
        },
        reset_desired: args.reset_desired,
        override_blackout: args.override_blackout.clone(),
        host_agent: args.host_agent.clone(),
        waits: !args.dry_run,
    })
}

/// `porter build promote`
pub(super) async fn promote(args: Promote, output: Output) -> Result<(), Failure> {
    let console = Console::new();
    let failed =
        |e: anyhow::Error| Failure::because(Exit::Failure, "there is nothing to promote", e);
    let state = crate::state::ProvisionState::read(&args.provision_output)
        .map_err(|e| failed(anyhow::anyhow!(e)))?;
    // Of a swap that failed nothing is promoted either, but that must not look like a success (D-CLI-46).
    if state.hotswap && state.outcome == Outcome::Success {
        console.say("the last provision was a hot swap: its stack is the promoted one already, nothing is to promote");
        return print(output, &Vec::<promote::Promoted>::new(), String::new);
    }
    let packed = pack::Packed::open(Path::new(OUT)).map_err(|e| failed(e.into()))?;
    let config = packed.config().map_err(|e| failed(e.into()))?;
    if let Some(environment) = config.environment(&state.environment) {
        let reason = args.override_blackout.as_deref();
        forbid_in_blackout(
            &environment.name,
            &environment.blackout_windows,
            reason,
            &console,
        )?;
    }
    let context = HookContext {
        root: repository()?,
        out: repository()?.join(OUT),
        service: Some(config.service_name.clone()),
        version: Some(packed.manifest.version),
        stats: StatsCredentials::read(Path::new(OUT)).ok(),
        volume_flag: std::env::var("VOLUME_FLAG").ok(),
        ..HookContext::default()
    };
    let promotion = promote::Promotion {
        config: &config,
        state: &state,
        elb: args.elb.as_deref(),
        hooks: &context,
        console: &console,
        stop: &stop_on_signals()?,
    };
    let promoted = promotion.run().await?;
    print(output, &promoted, || {
        let line = |p: &promote::Promoted| match &p.load_balancer {
            Some(lb) => format!("{}: {} is promoted to {lb}", p.region, p.stack),
            None => format!(
                "{}: {} has no load balancer to be promoted to",
                p.region, p.stack
            ),
        };
        promoted.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// Stops with status 3 inside a blackout window, unless the operator overrides it with a reason (D-CFG-113).
fn forbid_in_blackout(
    environment: &str,
    windows: &[config::BlackoutWindow],
    reason: Option<&str>,
    console: &Console,
) -> Result<(), Failure> {
    match (blackout::active(windows, Timestamp::now()), reason) {
        (None, _) => Ok(()),
        (Some(window), Some(reason)) => {
            console.warn(format!("{environment}: {window}; overridden: {reason}"));
            Ok(())
        }
        (Some(window), None) => Err(Failure::new(Exit::Blackout, format!("{environment}: {window}"))
            .hint("nothing has changed; wait for its end, or give --override-blackout REASON in an emergency")),
    }
}

/// A pack serves all environments, so it stops only when none of them may be deployed to now (D-CFG-113).
fn forbid_pack_in_blackout(
    config: &config::Config,
    reason: Option<&str>,
    console: &Console,
) -> Result<(), Failure> {
    let open = |e: &&config::Environment| {
        blackout::active(&e.blackout_windows, Timestamp::now()).is_none()
    };
    match (
        config.environments.iter().find(open),
        config.environments.first(),
    ) {
        (None, Some(first)) => {
            forbid_in_blackout(&first.name, &first.blackout_windows, reason, console)
        }
        _ => Ok(()),
    }
}

/// `porter build pack`
pub(super) async fn pack(args: Pack, output: Output) -> Result<(), Failure> {
    let console = Console::new();
    let stop = stop_on_signals()?;
    let root = repository()?;
    let out = root.join(OUT);
    // First of all: a pack that fails, in a hook or by a typo in the configuration, must not be followed by a deployment
    // of what was packed before.
    let unwritable = |e| {
        Failure::because(
            Exit::Failure,
            format!("{} can't be written", out.display()),
            e,
        )
    };
    pack::forget(&out).map_err(unwritable)?;
    // Its warnings are said when it is read for the pack itself.
    let config = load()?.config;
    forbid_pack_in_blackout(&config, args.override_blackout.as_deref(), &console)?;
    let stats = StatsCredentials::create(&out).map_err(unwritable)?;
    let context = HookContext {
        root: root.clone(),
        out: out.clone(),
        service: Some(config.service_name.clone()),
        version: pack::revision(&root).await.ok().map(|r| r.version),
        stats: Some(stats),
        volume_flag: std::env::var("VOLUME_FLAG").ok(),
        ..HookContext::default()
    };

    console.say("[1/3] call the pre_pack hook");
    let result = match hooks_at(&config, Moment::PrePack, &context, None, &console, &stop).await {
        // The hooks may have generated the configuration, so it is read again (D-CFG-7).
        Ok(()) => match load_with(&console) {
            Ok(config) => build_payload(&config, &args, &root, &out, &console, &stop).await,
            Err(failure) => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    console.say("[3/3] call the post_pack hook");
    let outcome = if result.is_ok() {
        hooks::Outcome::Pass
    } else {
        hooks::Outcome::Fail
    };
    let after = hooks_at(
        &config,
        Moment::PostPack,
        &context,
        Some(outcome),
        &console,
        &stop,
    )
    .await;
    let packed = match (result, after) {
        (Ok(packed), Ok(())) => packed,
        (Ok(_), Err(failure)) | (Err(failure), Ok(())) => return Err(failure),
        (Err(failure), Err(hook)) => return Err(failure.detail(hook.message)),
    };
    let summary = serde_json::json!({
        "service": packed.manifest.service,
        "version": packed.manifest.version,
        "payload": packed.payload,
        "images": packed.summary,
    });
    print(output, &summary, || table(&packed))
}

async fn hooks_at(
    config: &config::Config,
    moment: Moment,
    context: &HookContext,
    outcome: Option<hooks::Outcome>,
    console: &Console,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let entries = config
        .hooks
        .get(moment.name())
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ended = |run: &hooks::HookRun| console.hook(run);
    hooks::run(entries, moment, context, outcome, &ended, stop)
        .await
        .map(drop)
        .map_err(|e| hook_failure(e, stop))
}

async fn build_payload(
    config: &config::Config,
    args: &Pack,
    root: &Path,
    out: &Path,
    console: &Console,
    stop: &CancellationToken,
) -> Result<pack::Packed, Failure> {
    console.say("[2/3] build the containers and take the images apart");
    let options = pack::Options {
        require_clean: args.require_clean,
        no_cache: args.no_cache,
        stop: stop.clone(),
    };
    let bars = Mutex::new(BTreeMap::<String, ProgressBar>::new());
    let tell = |event: PackEvent<'_>| match event {
        PackEvent::Warning(text) => console.warn(text),
        PackEvent::Version(revision) => console.say(format!("  version {}", revision.version)),
        PackEvent::Building { image } => console.say(format!("  {image}: building")),
        PackEvent::Output { image, line } => tracing::debug!("{image}: {line}"),
        PackEvent::Built { image, took } => {
            console.say(format!("  {image}: built in {:.1} s", took.as_secs_f64()))
        }
        PackEvent::Saved { image, bytes } => {
            if let Ok(mut bars) = bars.lock() {
                bars.entry(image.to_owned())
                    .or_insert_with(|| console.bytes(&format!("{image}: layers"), 0))
                    .inc(bytes);
            }
        }
        PackEvent::Done(summary) => {
            if let Some(bar) = bars
                .lock()
                .ok()
                .and_then(|mut bars| bars.remove(&summary.image))
            {
                bar.finish_and_clear();
            }
        }
    };
    pack::run(config, root, out, options, &tell)
        .await
        .map_err(|error| {
            let exit = if matches!(error, pack::PackError::Interrupted) {
                Exit::Interrupted
            } else {
                Exit::Failure
            };
            Failure::because(exit, "packing failed", error)
                .hint("nothing was packed; no host is touched by a pack")
        })
}

/// One line for each image (D-PACK-21).
fn table(packed: &pack::Packed) -> String {
    let mut out = format!(
        "packed {} {} as {}\n",
        packed.manifest.service, packed.manifest.version, packed.payload
    );
    for image in &packed.summary {
        out.push_str(&format!(
            "  {}: {} in {} layers, {} stored; {} new layers, {}\n",
            image.image,
            size(image.unpacked),
            image.layers,
            size(image.stored),
            image.new_layers,
            size(image.new_bytes),
        ));
    }
    out
}
