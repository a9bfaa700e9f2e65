//! The loop of cfn-hup.

use super::{Baseline, Hook, MainConfig, Outcome, decide, interval, read_hooks};
use crate::{
    logfile::Log,
    place,
    stack_resource::{self, Detail},
    stand_ins,
};
use anyhow::{Context, Result};
use aws_sdk_cloudformation::Client;
use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

const LOG: &str = "/var/log/cfn-hup.log";
const DATA: &str = "/var/lib/cfn-hup/data/metadata_db.json";
const PID: &str = "/var/run/cfn-hup.pid";

/// See [`super::main`].
pub async fn main(args: &[String]) -> Result<ExitCode> {
    let flags = crate::flags::parse(
        args,
        &["-c", "--config"],
        &["-v", "--verbose", "--no-daemon"],
    )?;
    let dir = PathBuf::from(flags.get(["-c", "--config"]).unwrap_or("/etc/cfn"));
    let once = flags.get(["--no-daemon", "--no-daemon"]).is_some();
    let mut log = Log::open(LOG)?;
    let result = start(&dir, &mut log);
    if let Err(e) = &result {
        log.line(&format!("[ERROR] {e:#}"));
    }
    let mut hup = result?;
    hup.client = Some(Client::new(
        &stack_resource::config(Some(&hup.main.region)).await,
    ));
    if once {
        hup.pass(&mut log).await;
        return Ok(ExitCode::SUCCESS);
    }
    fs::write(PID, std::process::id().to_string())?;
    let faster = env::var(stand_ins::POLL)
        .ok()
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis);
    let pause = interval(&hup.main, faster);
    log.line(&format!(
        "[INFO] cfn-hup (stand-in) begins: {} hooks, every {} ms",
        hup.hooks.len(),
        pause.as_millis()
    ));
    let mut end = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            () = async {
                hup.pass(&mut log).await;
                tokio::time::sleep(pause).await;
            } => {}
            _ = end.recv() => {
                let _ = fs::remove_file(PID);
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

struct Hup {
    main: MainConfig,
    hooks: Vec<Hook>,
    client: Option<Client>,
}

fn start(dir: &Path, log: &mut Log) -> Result<Hup> {
    let path = dir.join("cfn-hup.conf");
    let main =
        MainConfig::parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?;
    let mut files = vec![];
    let one = dir.join("hooks.conf");
    if one.is_file() {
        files.push(one);
    }
    if let Ok(entries) = fs::read_dir(dir.join("hooks.d")) {
        // In the order of the directory, as the real one reads them.
        files.extend(entries.flatten().map(|e| e.path()).filter(|p| p.is_file()));
    }
    let texts = files
        .iter()
        .map(|f| {
            Ok((
                f.display().to_string(),
                fs::read_to_string(f).with_context(|| f.display().to_string())?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut notes = vec![];
    let hooks = read_hooks(&texts, &mut notes);
    notes
        .iter()
        .for_each(|n| log.line(&format!("[WARNING] {n}")));
    Ok(Hup {
        main,
        hooks: hooks?,
        client: None,
    })
}

impl Hup {
    /// One look at everything. What fails is logged, and tried again in the next pass.
    async fn pass(&self, log: &mut Log) {
        let mut resources: HashMap<String, Detail> = HashMap::new();
        for hook in &self.hooks {
            let resource = &hook.path.resource;
            if resources.contains_key(resource) {
                continue;
            }
            let Some(client) = &self.client else { return };
            match stack_resource::with(client, &self.main.stack, resource).await {
                Ok(detail) => {
                    resources.insert(resource.clone(), detail);
                }
                // Not the same as a resource that is gone: nothing may be concluded from it.
                Err(e) => {
                    log.line(&format!("[ERROR] {e:#}"));
                    return;
                }
            }
        }
        let mut baseline: Baseline = place::read_json(Path::new(DATA)).unwrap_or_default();
        for hook in &self.hooks {
            let new = match decide(hook, &baseline, &resources) {
                None => continue,
                Some(Outcome::Store(new)) => new,
                Some(Outcome::TooLong(why)) => {
                    log.line(&format!("[ERROR] {why}"));
                    continue;
                }
                Some(Outcome::Run { environment, new }) => {
                    log.line(&format!(
                        "[INFO] Data has changed from previous state; action for {} will be run",
                        hook.name
                    ));
                    if let Err(e) = self.act(hook, &environment, log).await {
                        log.line(&format!(
                            "[ERROR] {}: {e:#}; it runs again in the next pass",
                            hook.name
                        ));
                        continue;
                    }
                    new
                }
            };
            match new {
                Some(value) => baseline.insert(hook.key(), value),
                None => baseline.remove(&hook.key()),
            };
            if let Err(e) = store(&baseline) {
                log.line(&format!("[ERROR] {DATA}: {e:#}"));
            }
        }
    }

    async fn act(
        &self,
        hook: &Hook,
        environment: &[(String, String)],
        log: &mut Log,
    ) -> Result<()> {
        let mut command = match &hook.runas {
            Some(user) => {
                let mut su = Command::new("su");
                su.args([user, "-c", &hook.action]);
                su
            }
            None => {
                let mut sh = Command::new("/bin/sh");
                sh.args(["-c", &hook.action]);
                sh
            }
        };
        // Like the real one it waits until everything has closed the pipes, also a child left in the background.
        let output = command
            .envs(environment.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .await?;
        if self.main.verbose || !output.status.success() {
            log.raw(&output.stdout);
            log.raw(&output.stderr);
        }
        anyhow::ensure!(
            output.status.success(),
            "the action ended with {}",
            output.status
        );
        log.line(&format!("[INFO] {}: the action succeeded", hook.name));
        Ok(())
    }
}

fn store(baseline: &Baseline) -> Result<()> {
    let path = Path::new(DATA);
    fs::create_dir_all(path.parent().context("no parent")?)?;
    place::write_json(path, baseline)
}
