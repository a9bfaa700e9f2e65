//! What a step may tell the operator: bars on a terminal, plain lines in CI, always on stderr, so that stdout carries
//! results alone (D-CLI-4).

use crate::hooks::HookRun;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

/// In plain mode a long wait says something at least this often (D-CLI-52).
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Where a command's progress goes.
pub struct Console {
    bars: Option<MultiProgress>,
    hosts: Mutex<BTreeMap<String, HostLine>>,
}

struct HostLine {
    bar: Option<ProgressBar>,
    /// What was last said of this host, and when.
    said: Option<(String, Instant)>,
}

impl Console {
    /// Bars when stderr is a terminal that can move its cursor, lines otherwise.
    pub fn new() -> Self {
        let fancy = std::io::stderr().is_terminal()
            && std::env::var_os("CI").is_none()
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let bars =
            fancy.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self {
            bars,
            hosts: Mutex::default(),
        }
    }

    /// A line that stays: a step, a decision, a fact.
    pub fn say(&self, line: impl AsRef<str>) {
        match &self.bars {
            // With a terminal that went away there is nobody to tell.
            Some(bars) => drop(bars.println(line.as_ref())),
            None => drop(writeln!(std::io::stderr(), "{}", line.as_ref())),
        }
    }

    /// A warning that stays.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.say(format!("warning: {}", line.as_ref()));
    }

    /// What a hook said, whole, so that concurrent hooks do not interleave (D-CLI-51).
    pub fn hook(&self, run: &HookRun) {
        let seconds = run.took.as_secs_f64();
        self.say(format!("  {}: {} after {seconds:.1} s", run.title, run.end));
        if let Some(commit) = &run.commit {
            self.say(format!("    commit {commit}"));
        }
        for line in String::from_utf8_lossy(&run.output).lines() {
            self.say(format!("    {line}"));
        }
        if run.lost > 0 {
            self.say(format!("    ({} bytes more were not kept)", run.lost));
        }
    }

    /// A bar over `total` bytes; in plain mode it is silent until it ends.
    pub fn bytes(&self, title: &str, total: u64) -> ProgressBar {
        let Some(bars) = &self.bars else {
            return ProgressBar::hidden();
        };
        let bar = bars.add(ProgressBar::new(total).with_message(title.to_owned()));
        if let Ok(style) = ProgressStyle::with_template(
            "  {msg:32!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        ) {
            bar.set_style(style);
        }
        bar
    }

    /// What one host is doing: `key` orders and names the line, `step` and `steps` move the bar.
    pub fn host(&self, key: &str, step: usize, steps: usize, text: &str) {
        let Ok(mut hosts) = self.hosts.lock() else {
            return;
        };
        let line = hosts.entry(key.to_owned()).or_insert_with(|| HostLine {
            bar: self.bars.as_ref().map(|bars| {
                let bar = bars.add(ProgressBar::new(steps as u64));
                if let Ok(style) =
                    ProgressStyle::with_template("  {prefix:36!} {bar:12} {wide_msg}")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(key.to_owned());
                bar
            }),
            said: None,
        });
        match &line.bar {
            Some(bar) => {
                bar.set_position(step as u64);
                bar.set_message(text.to_owned());
            }
            None => {
                let new = line
                    .said
                    .as_ref()
                    .is_none_or(|(said, at)| said != text || at.elapsed() >= PLAIN_INTERVAL);
                if new {
                    self.say(format!("  {key}  {text}"));
                    line.said = Some((text.to_owned(), Instant::now()));
                }
            }
        }
    }

    /// Leaves the host lines on the screen as they are and starts afresh.
    pub fn hosts_done(&self) {
        let Ok(mut hosts) = self.hosts.lock() else {
            return;
        };
        for line in std::mem::take(&mut *hosts).into_values() {
            if let Some(bar) = line.bar {
                bar.abandon();
            }
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}
