//! Flags and help; no behaviour.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

/// Deploys services of containers to EC2, and hot-swaps them on running hosts.
#[derive(Debug, Parser)]
#[command(
    name = "porter",
    version,
    propagate_version = true,
    max_term_width = 110
)]
pub struct Cli {
    /// `json` prints one JSON document on stdout; progress always goes to stderr.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack, provision and promote a service: what CI runs.
    #[command(subcommand)]
    Build(Build),
    /// Look at what a hot swap would do.
    #[command(subcommand)]
    Hotswap(Hotswap),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// A place to try porter on this machine, without an AWS account.
    #[command(subcommand)]
    Local(crate::commands::local::LocalCommand),
    /// Print the version.
    Version,
}

/// `porter build …`
#[derive(Debug, Subcommand)]
pub enum Build {
    /// Build the containers of `.porter/config` and write the payload to `.porter-tmp/`.
    Pack(Pack),
    /// Deploy the packed payload: hot-swap running hosts where that is allowed, build new ones otherwise.
    Provision(Provision),
    /// Record the provisioned stack as the promoted one, in the tag of its load balancer.
    ///
    /// This version records the promotion; it does not move instances between load balancers. After a hot swap there
    /// is nothing to promote.
    Promote(Promote),
    /// Remove `.porter-tmp/`.
    Clean,
}

/// `porter build pack`
#[derive(Debug, Args)]
pub struct Pack {
    /// Fail when the work tree has uncommitted changes, instead of marking the version.
    #[arg(long)]
    pub require_clean: bool,
    /// Build every image layer anew.
    #[arg(long)]
    pub no_cache: bool,
    /// Let an emergency through an active blackout window; the reason is printed.
    #[arg(long, value_name = "REASON")]
    pub override_blackout: Option<String>,
}

/// `porter build provision`
#[derive(Debug, Args)]
pub struct Provision {
    /// Environment of `.porter/config`.
    #[arg(short, long, value_name = "ENV")]
    pub environment: String,
    /// Build new hosts even where a hot swap would be allowed.
    #[arg(long, conflicts_with = "hotswap_only")]
    pub no_hotswap: bool,
    /// Exit with status 4 where a hot swap is not allowed, instead of building new hosts.
    #[arg(long)]
    pub hotswap_only: bool,
    /// Print the decision and change nothing, like `porter hotswap plan`.
    #[arg(long)]
    pub dry_run: bool,
    /// Use the template's DesiredCapacity once, instead of keeping the promoted group's.
    #[arg(long)]
    pub reset_desired: bool,
    /// Let an emergency through an active blackout window; the reason is kept in the report.
    #[arg(long, value_name = "REASON")]
    pub override_blackout: Option<String>,
    /// The host agent's binary for the hosts' architecture; by default `host-agent` beside this program.
    #[arg(long, env = "PORTER_HOST_AGENT", value_name = "FILE")]
    pub host_agent: Option<PathBuf>,
}

/// `porter build promote`
#[derive(Debug, Args)]
pub struct Promote {
    /// The state file that `build provision` wrote.
    #[arg(
        long,
        value_name = "FILE",
        default_value = ".porter-tmp/provision_state.json"
    )]
    pub provision_output: PathBuf,
    /// Which of the legacy `elbs` to tag.
    #[arg(long, value_name = "TAG")]
    pub elb: Option<String>,
    /// Let an emergency through an active blackout window.
    #[arg(long, value_name = "REASON")]
    pub override_blackout: Option<String>,
}

/// `porter hotswap …`
#[derive(Debug, Subcommand)]
pub enum Hotswap {
    /// Print whether the next provision would hot-swap, with every reason, sizes, ages and bytes. Changes nothing.
    Plan {
        /// Environment of `.porter/config`.
        #[arg(short, long, value_name = "ENV")]
        environment: String,
        /// The host agent's binary that `build provision` would ship; by default `host-agent` beside this program.
        #[arg(long, env = "PORTER_HOST_AGENT", value_name = "FILE")]
        host_agent: Option<PathBuf>,
    },
}

/// `porter config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Validate `.porter/config`: every error in one run.
    Check,
    /// Print the resolved configuration of one environment.
    Show {
        /// Environment name.
        #[arg(short, long, value_name = "ENV")]
        environment: String,
        /// One region only.
        #[arg(short, long, value_name = "REGION")]
        region: Option<String>,
    },
}

/// Long flags may be written with one dash, as porter's users do (D-CLI-1): `-keep 2` and `-block=f` become `--keep 2`
/// and `--block=f`. Everything after `--`, and short flags, stay as they are.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = false;
    args.into_iter()
        .map(|arg| {
            rest |= arg == "--";
            match arg.to_str() {
                Some(text) if !rest && is_single_dash_long(text) => format!("-{text}").into(),
                _ => arg,
            }
        })
        .collect()
}

fn is_single_dash_long(text: &str) -> bool {
    let Some(name) = text
        .strip_prefix('-')
        .map(|t| t.split('=').next().unwrap_or(t))
    else {
        return false;
    };
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn d_cli_1_long_flags_take_one_dash_or_two() {
        let normal = |line: &str| {
            normalise(line.split(' ').map(OsString::from))
                .join(std::ffi::OsStr::new(" "))
                .into_string()
                .unwrap()
        };
        // D-CLI-1
        assert_eq!(
            normal("porter build promote -elb main -provision-output=x"),
            "porter build promote --elb main --provision-output=x"
        );
        assert_eq!(
            normal("porter build provision -e stage --dry-run"),
            "porter build provision -e stage --dry-run"
        );
        assert_eq!(normal("porter x -- -elb"), "porter x -- -elb");
        for dashes in ["-environment", "--environment", "-e"] {
            let args =
                normalise(["porter", "build", "provision", dashes, "stage"].map(OsString::from));
            let Command::Build(Build::Provision(p)) = Cli::try_parse_from(args).unwrap().command
            else {
                panic!("{dashes}")
            };
            assert_eq!(p.environment, "stage");
        }
    }
}
