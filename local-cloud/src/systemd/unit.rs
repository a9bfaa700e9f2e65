//! Unit files: what the stand-in understands of them. Pure.

use anyhow::{Result, bail};
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// systemctl's sentence for a unit without a file.
#[derive(Debug, thiserror::Error)]
#[error("Unit {0} not found.")]
pub struct NotFound(pub String);

/// `Type=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Started once the process is.
    Simple,
    /// Started once the process has said so on its socket.
    Notify,
    /// Started once it has ended successfully.
    Oneshot,
    /// Started once it has left a process behind.
    Forking,
}

/// `Restart=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    No,
    /// Whatever it ended with.
    Always,
    /// When it failed.
    OnFailure,
}

/// `KillMode=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// Every process gets both signals.
    Group,
    /// The main process gets the first signal, every process the last one.
    Mixed,
    /// Only the main process gets any.
    Process,
}

/// A service unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `Type=`
    pub kind: Kind,
    /// `ConditionPathExists=`; with `true` the path must not exist.
    pub conditions: Vec<(PathBuf, bool)>,
    /// `ExecStartPre=`
    pub start_pre: Vec<String>,
    /// `ExecStart=`
    pub start: Vec<String>,
    /// `ExecReload=`
    pub reload: Vec<String>,
    /// `Environment=`
    pub environment: BTreeMap<String, String>,
    /// `EnvironmentFile=`, and whether it may be missing.
    pub environment_files: Vec<(PathBuf, bool)>,
    /// `User=`
    pub user: Option<String>,
    /// `Group=`
    pub group: Option<String>,
    /// `WorkingDirectory=`
    pub working_directory: Option<PathBuf>,
    /// `RuntimeDirectory=`
    pub runtime_directories: Vec<String>,
    /// `PIDFile=`
    pub pid_file: Option<PathBuf>,
    /// `Restart=`
    pub restart: Restart,
    /// `RestartSec=`
    pub restart_after: Duration,
    /// `TimeoutStopSec=`
    pub stop_within: Duration,
    /// `KillSignal=`
    pub stop_signal: Signal,
    /// `KillMode=`
    pub kill_mode: KillMode,
    /// `SuccessExitStatus=`
    pub success_status: Vec<i32>,
    /// `RemainAfterExit=`
    pub remain_after_exit: bool,
}

impl Unit {
    /// Reads the `[Service]` section; settings that the stand-in does not know change nothing here.
    ///
    /// # Errors
    /// There is no command to start, or a value is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let mut unit = Self {
            kind: Kind::Simple,
            conditions: vec![],
            start_pre: vec![],
            start: vec![],
            reload: vec![],
            environment: BTreeMap::new(),
            environment_files: vec![],
            user: None,
            group: None,
            working_directory: None,
            runtime_directories: vec![],
            pid_file: None,
            restart: Restart::No,
            restart_after: Duration::from_millis(100),
            stop_within: Duration::from_secs(90),
            stop_signal: Signal::TERM,
            kill_mode: KillMode::Group,
            success_status: vec![],
            remain_after_exit: false,
        };
        let mut section = String::new();
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                name.clone_into(&mut section);
            } else if section == "Service" {
                let Some((key, value)) = line.split_once('=') else {
                    bail!("`{line}` is not an assignment")
                };
                unit.set(key.trim(), value.trim())?;
            } else if let Some(("ConditionPathExists", path)) =
                line.split_once('=').map(|(k, v)| (k.trim(), v.trim()))
            {
                unit.conditions.push((
                    Path::new(path.trim_start_matches(['|', '!'])).into(),
                    path.contains('!'),
                ));
            }
        }
        if unit.start.is_empty() {
            bail!("the unit has no ExecStart");
        }
        Ok(unit)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let yes = matches!(value, "yes" | "true" | "on" | "1");
        let text = || (!value.is_empty()).then(|| value.to_owned());
        match key {
            "Type" => {
                self.kind = match value {
                    "simple" | "exec" | "idle" => Kind::Simple,
                    "notify" | "notify-reload" => Kind::Notify,
                    "oneshot" => Kind::Oneshot,
                    "forking" => Kind::Forking,
                    other => bail!("Type={other} is not simulated by the local cloud"),
                };
            }
            "ExecStartPre" => push(&mut self.start_pre, value),
            "ExecStart" => push(&mut self.start, value),
            "ExecReload" => push(&mut self.reload, value),
            "Environment" => self
                .environment
                .extend(assignments(&words(value, &BTreeMap::new())?.join("\n"))),
            "EnvironmentFile" => {
                self.environment_files.push((
                    Path::new(value.trim_start_matches('-')).into(),
                    value.starts_with('-'),
                ));
            }
            "User" => self.user = text(),
            "Group" => self.group = text(),
            "WorkingDirectory" => {
                self.working_directory = text().map(|t| t.trim_start_matches('-').into())
            }
            "RuntimeDirectory" => self
                .runtime_directories
                .extend(value.split_whitespace().map(str::to_owned)),
            "PIDFile" => self.pid_file = text().map(Into::into),
            "Restart" => {
                self.restart = match value {
                    "no" => Restart::No,
                    "always" => Restart::Always,
                    _ => Restart::OnFailure,
                };
            }
            "RestartSec" => self.restart_after = span(value)?,
            "TimeoutStopSec" | "TimeoutSec" => self.stop_within = span(value)?,
            "KillSignal" => {
                self.stop_signal = match value {
                    "SIGTERM" => Signal::TERM,
                    "SIGINT" => Signal::INT,
                    "SIGQUIT" => Signal::QUIT,
                    "SIGUSR1" => Signal::USR1,
                    other => bail!("KillSignal={other} is not simulated by the local cloud"),
                };
            }
            "KillMode" => {
                self.kill_mode = match value {
                    "mixed" => KillMode::Mixed,
                    "process" | "none" => KillMode::Process,
                    _ => KillMode::Group,
                };
            }
            "SuccessExitStatus" => self.success_status.extend(
                value
                    .split_whitespace()
                    .filter_map(|s| s.parse::<i32>().ok()),
            ),
            "RemainAfterExit" => self.remain_after_exit = yes,
            _ => {}
        }
        Ok(())
    }
}

/// An empty value clears what came before, as in drop-ins.
fn push(list: &mut Vec<String>, value: &str) {
    if value.is_empty() {
        list.clear();
    } else {
        list.push(value.to_owned());
    }
}

fn span(value: &str) -> Result<Duration> {
    if value == "infinity" || value == "0" {
        return Ok(Duration::from_secs(86_400));
    }
    let (number, unit) = value.split_at(
        value
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(value.len()),
    );
    let seconds: f64 = number
        .parse()
        .map_err(|_| anyhow::anyhow!("`{value}` is not a time"))?;
    let factor = match unit.trim() {
        "" | "s" | "sec" => 1.0,
        "ms" => 0.001,
        "min" | "m" => 60.0,
        "h" => 3600.0,
        other => bail!("`{other}` is not a unit of time"),
    };
    Ok(Duration::from_secs_f64(seconds * factor))
}

/// `NAME=value` lines, values optionally quoted.
pub fn assignments(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|l| l.trim().split_once('='))
        .filter(|(k, _)| !k.starts_with('#'))
        .map(|(k, v)| {
            let v = v.trim();
            let bare = ['"', '\'']
                .iter()
                .find_map(|q| v.strip_prefix(*q)?.strip_suffix(*q))
                .unwrap_or(v);
            (k.trim().to_owned(), bare.to_owned())
        })
        .collect()
}

/// The words of a command line: quotes removed, prefixes dropped, `$NAME` as words and `${NAME}` in place.
///
/// # Errors
/// A quote is not closed.
pub fn words(line: &str, variables: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut list: Vec<String> = vec![];
    let mut word = String::new();
    let (mut quote, mut begun) = (None, false);
    let mut chars = line
        .trim_start_matches(['@', '+', '!', ':', '-'])
        .chars()
        .peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => (quote, begun) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    list.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (Some('"') | None, '\\') => word.extend(chars.next()),
            (_, '$') if chars.peek() == Some(&'$') => word.extend(chars.next()),
            (_, '$') if chars.peek() == Some(&'{') => {
                chars.next();
                let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
                word += variables.get(&name).map_or("", String::as_str);
                begun = true;
            }
            // `$NAME` as a word of its own is split at blanks.
            (None, '$') if word.is_empty() && !begun => {
                let mut name = String::new();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                list.extend(
                    variables
                        .get(&name)
                        .map_or("", String::as_str)
                        .split_whitespace()
                        .map(str::to_owned),
                );
            }
            (_, c) => word.push(c),
        }
    }
    if quote.is_some() {
        bail!("`{line}` has an open quote");
    }
    if begun || !word.is_empty() {
        list.push(word);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_distribution_is_understood() {
        let unit = Unit::parse(
            "[Unit]\nDescription=HAProxy\nConditionPathExists=!/x\n[Service]\nEnvironmentFile=-/etc/default/haproxy\nEnvironment=\"CONFIG=/etc/haproxy/haproxy.cfg\" \"PIDFILE=/run/haproxy.pid\"\n\
             ExecStart=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS\nExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS\nExecReload=/bin/kill -USR2 $MAINPID\n\
             KillMode=mixed\nRestart=always\nSuccessExitStatus=143\nType=notify\nRestartSec=1min\n[Install]\nWantedBy=multi-user.target\n",
        )
        .unwrap();
        assert_eq!(
            (unit.kind, unit.restart, unit.kill_mode),
            (Kind::Notify, Restart::Always, KillMode::Mixed)
        );
        assert_eq!(unit.success_status, [143]);
        assert_eq!(unit.conditions, [(PathBuf::from("/x"), true)]);
        assert_eq!(unit.restart_after, Duration::from_secs(60));
        assert_eq!(unit.reload.len(), 2);
        let all = words(&unit.start[0], &unit.environment).unwrap();
        assert_eq!(
            all,
            [
                "/usr/sbin/haproxy",
                "-Ws",
                "-f",
                "/etc/haproxy/haproxy.cfg",
                "-p",
                "/run/haproxy.pid"
            ]
        );
        assert_eq!(
            words(
                "-/bin/kill -USR2 $MAINPID",
                &BTreeMap::from([("MAINPID".into(), "7".into())])
            )
            .unwrap(),
            ["/bin/kill", "-USR2", "7"]
        );
    }

    #[test]
    fn a_drop_in_can_clear_and_quotes_hold_words_together() {
        let unit = Unit::parse("[Service]\nExecStart=/a\n[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo \"a b\" $$x ${Y}z' \"\"\n").unwrap();
        let all = words(
            &unit.start[0],
            &BTreeMap::from([("Y".into(), "1 2".into())]),
        )
        .unwrap();
        assert_eq!(all, ["/bin/sh", "-c", "echo \"a b\" $x 1 2z", ""]);
        assert!(Unit::parse("[Service]\nType=dbus\nExecStart=/a\n").is_err());
        assert!(Unit::parse("[Service]\nType=simple\n").is_err());
    }
}
