//! The logs of a local cloud, in one stream: `porter local logs`.

use crate::{host::HostInfo, place::Place};
use anyhow::{Result, bail};
use bollard::query_parameters::LogsOptionsBuilder;
use clap::ValueEnum;
use contract::names::label;
use futures::StreamExt;
use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// A kind of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Source {
    /// The host's console and cloud-init's output.
    Boot,
    /// cfn-init, and the output of its commands.
    CfnInit,
    /// cfn-hup
    CfnHup,
    /// The host agent.
    Agent,
    /// Services of the host, such as haproxy.
    Services,
    /// Containers of the host.
    Containers,
    /// The fleet, once for all hosts.
    Fleet,
    /// MiniStack, once for all hosts.
    Emulator,
}

/// The host that is meant by an instance id, its beginning, or an address; all of them when nothing is said.
///
/// # Errors
/// None or several are meant.
pub fn select(hosts: &[HostInfo], wanted: Option<&str>) -> Result<Vec<HostInfo>> {
    let Some(wanted) = wanted else {
        return Ok(hosts.to_vec());
    };
    let meant: Vec<&HostInfo> = hosts
        .iter()
        .filter(|h| h.instance == wanted || h.address == wanted)
        .collect();
    let begins: Vec<&HostInfo> = hosts
        .iter()
        .filter(|h| h.instance.starts_with(wanted))
        .collect();
    let ids = || {
        hosts
            .iter()
            .map(|h| h.instance.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (&meant[..], &begins[..]) {
        ([one], _) | ([], [one]) => Ok(vec![(*one).clone()]),
        ([], []) => bail!("there is no host `{wanted}`; there are: {}", ids()),
        _ => bail!("`{wanted}` means several hosts: {}", ids()),
    }
}

/// Prints logs, and later only what has been added.
pub struct Printer {
    files: Vec<(String, Source, PathBuf)>,
    containers: Option<Vec<HostInfo>>,
    printed: HashMap<PathBuf, u64>,
}

impl Printer {
    /// The logs of these hosts; the cloud's own ones too, unless one kind is asked for.
    pub fn new(place: &Place, hosts: Vec<HostInfo>, only: Option<Source>) -> Self {
        let shown = |source| only.is_none_or(|o| o == source);
        let mut files = vec![];
        if only == Some(Source::Fleet) || only.is_none() {
            files.push(("fleet".into(), Source::Fleet, place.file("fleet.log")));
        }
        if only == Some(Source::Emulator) {
            files.push((
                "emulator".into(),
                Source::Emulator,
                place.file("emulator.log"),
            ));
        }
        for host in &hosts {
            let dir = place.host(&host.instance);
            if shown(Source::Boot) {
                files.push((host.instance.clone(), Source::Boot, dir.join("console.log")));
            }
            files.extend(
                logs_below(&dir.join("upper/var/log"))
                    .into_iter()
                    .filter(|(source, _)| shown(*source))
                    .map(|(source, path)| (host.instance.clone(), source, path)),
            );
        }
        Self {
            files,
            containers: shown(Source::Containers).then_some(hosts),
            printed: HashMap::new(),
        }
    }

    /// Prints at most this many last lines of each log, or of what has been added to it since the last time.
    ///
    /// # Errors
    /// The output is closed.
    pub async fn print(&mut self, lines: usize, out: &mut impl Write) -> Result<()> {
        for (host, source, path) in &self.files {
            let bytes = fs::read(path).unwrap_or_default();
            let seen = self.printed.entry(path.clone()).or_default();
            let new = usize::try_from(*seen)
                .ok()
                .and_then(|s| bytes.get(s..))
                .unwrap_or(&bytes);
            *seen = bytes.len() as u64;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let name = if matches!(source, Source::Fleet | Source::Emulator) {
                host.clone()
            } else {
                format!("{host} {file}")
            };
            block(out, &name, &String::from_utf8_lossy(new), lines)?;
        }
        // The engine keeps containers' output; it is shown once, not followed.
        if let Some(hosts) = self.containers.take() {
            container_logs(&hosts, lines, out).await?;
        }
        Ok(())
    }
}

fn logs_below(dir: &Path) -> Vec<(Source, PathBuf)> {
    let mut found = vec![];
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let (name, path) = (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        );
        if path.is_dir() {
            // /var/log/services is the service manager's, everything else belongs to what runs on the host.
            found.extend(logs_below(&path).into_iter().map(|(s, p)| {
                (
                    if name == "services" {
                        Source::Services
                    } else {
                        s
                    },
                    p,
                )
            }));
            continue;
        }
        let source = match name.as_str() {
            n if n.starts_with("cloud-init") => Source::Boot,
            n if n.starts_with("cfn-init") || n.starts_with("cfn-signal") => Source::CfnInit,
            n if n.starts_with("cfn-hup") => Source::CfnHup,
            _ => Source::Agent,
        };
        found.push((source, path));
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}

async fn container_logs(hosts: &[HostInfo], lines: usize, out: &mut impl Write) -> Result<()> {
    let Ok(docker) = crate::cloud::docker().await else {
        return Ok(());
    };
    for container in crate::cloud::containers(&docker, true)
        .await
        .unwrap_or_default()
    {
        let labels = container.labels.unwrap_or_default();
        let host = hosts
            .iter()
            .find(|h| labels.get(label::INSTANCE) == Some(&h.instance));
        let (Some(host), Some(id)) = (host, container.id) else {
            continue;
        };
        let tail = if lines == usize::MAX {
            "all".to_owned()
        } else {
            lines.to_string()
        };
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&tail)
            .build();
        let mut text = String::new();
        let mut chunks = docker.logs(&id, Some(options));
        while let Some(Ok(chunk)) = chunks.next().await {
            text += &String::from_utf8_lossy(&chunk.into_bytes());
        }
        let name = labels
            .get(label::CONTAINER)
            .map_or(id.as_str(), String::as_str);
        block(
            out,
            &format!("{} container {name}", host.instance),
            &text,
            lines,
        )?;
    }
    Ok(())
}

fn block(out: &mut impl Write, name: &str, text: &str, lines: usize) -> Result<()> {
    let all: Vec<&str> = text.lines().collect();
    if !all.is_empty() {
        writeln!(out, "==> {name}")?;
    }
    for line in &all[all.len().saturating_sub(lines)..] {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostState;

    fn host(instance: &str, address: &str) -> HostInfo {
        HostInfo {
            instance: instance.into(),
            group: String::new(),
            stack: None,
            region: String::new(),
            address: address.into(),
            url: String::new(),
            state: HostState::Running,
            errors: vec![],
            payload: None,
            pid: None,
            root: "/".into(),
        }
    }

    #[test]
    fn a_host_is_named_by_id_beginning_or_address_and_ambiguity_is_refused() {
        let hosts = [
            host("i-0a1", "127.0.1.11"),
            host("i-0a2", "127.0.1.12"),
            host("i-0b", "127.0.1.13"),
        ];
        let meant = |w| {
            select(&hosts, Some(w))
                .map(|h| h[0].instance.clone())
                .map_err(|e| e.to_string())
        };
        assert_eq!(meant("i-0b").unwrap(), "i-0b");
        assert_eq!(meant("127.0.1.12").unwrap(), "i-0a2");
        assert!(meant("i-0a").unwrap_err().contains("several"));
        assert!(
            meant("i-9")
                .unwrap_err()
                .contains("there are: i-0a1, i-0a2, i-0b")
        );
        assert_eq!(select(&hosts, None).unwrap().len(), 3);
    }

    #[tokio::test]
    async fn the_second_time_only_what_is_new_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::below("x", dir.path(), dir.path()).unwrap();
        let log = place.host("i-1").join("upper/var/log/cfn-hup.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "a\nb\n").unwrap();
        let mut printer = Printer::new(&place, vec![host("i-1", "")], Some(Source::CfnHup));
        let mut printed = async |lines| {
            let mut out = vec![];
            printer.print(lines, &mut out).await.unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(1).await, "==> i-1 cfn-hup.log\nb\n");
        fs::write(&log, "a\nb\nc\n").unwrap();
        assert_eq!(printed(9).await, "==> i-1 cfn-hup.log\nc\n");
        assert_eq!(printed(9).await, "");
    }
}
