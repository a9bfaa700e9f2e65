//! Why a region may not be swapped: one value and one sentence each.

use super::{
    StackStatus,
    age::{self, Age},
};
use contract::millis;
use serde::Serialize;
use std::{fmt, time::Duration};

/// A reason and the region it holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Region name; empty when it holds for the environment as a whole.
    pub region: String,
    /// The reason.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why there will be no hot swap. [`Reason::UpdateInProgress`] is the only one that waiting can end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// `hot_swap` is off, or `--no-hotswap` was given.
    Disabled,
    /// More than one classic load balancer (D-HOT-5).
    SeveralLoadBalancers {
        /// How many.
        count: usize,
    },
    /// Nothing was promoted to the load balancer yet (D-HOT-6).
    NothingPromoted {
        /// Name or ARN.
        load_balancer: String,
    },
    /// Neither a host protocol nor a tool version is recorded (D-HOT-6).
    NoVersion {
        /// Where the version tag was looked for.
        holder: String,
    },
    /// The stack comes from another version and has no host protocol number (D-HOT-6).
    OtherVersion {
        /// The recorded version.
        found: String,
        /// Ours.
        own: String,
    },
    /// Its hosts speak another protocol (D-HOT-7).
    OtherProtocol {
        /// As the tag says it.
        found: String,
        /// Ours.
        own: u32,
    },
    /// `elb: none` and no stack of the service and environment (D-HOT-9).
    NoStack,
    /// The load balancer names a stack that does not exist any more (D-HOT-8).
    PromotedStackGone {
        /// Its id.
        stack: String,
    },
    /// The load balancer names a stack of another service or environment (D-HOT-8).
    NotOurs {
        /// Stack name.
        stack: String,
        /// `service/environment` as its tags say it.
        owner: String,
    },
    /// A status with which the stack serves nobody (D-HOT-10).
    NotServing {
        /// Stack name.
        stack: String,
        /// Its status.
        status: StackStatus,
    },
    /// The last update was rolled back, and the hosts are not known to run one and the same payload (D-HOT-10, D-HOT-11).
    RolledBack {
        /// Stack name.
        stack: String,
        /// Its status.
        status: StackStatus,
    },
    /// A status the table does not know (D-HOT-10).
    OtherStatus {
        /// Stack name.
        stack: String,
        /// Its status.
        status: StackStatus,
    },
    /// An earlier update is still running (D-HOT-10, D-HOT-11).
    UpdateInProgress {
        /// Stack name.
        stack: String,
        /// Its status.
        status: StackStatus,
    },
    /// The window for swaps is over (D-HOT-2, D-CFG-97).
    TooOld {
        /// Stack name.
        stack: String,
        /// Time since the end of the window.
        #[serde(rename = "over_ms", with = "millis")]
        over: Duration,
        /// How much of the window is used.
        age: Age,
    },
    /// The configuration's `generation` is not the stack's (D-CFG-99).
    OtherGeneration {
        /// The stack's.
        found: String,
        /// The configuration's.
        wanted: String,
    },
    /// Hosts of another stack receive traffic (D-HOT-77).
    ForeignHosts {
        /// Their instance ids.
        instances: Vec<String>,
        /// Name of the stack that the load balancer's tag names.
        promoted: String,
    },
    /// The regions' stacks have different names: a promotion succeeded in some regions only (D-HOT-12).
    DifferentStacks {
        /// `region name` each.
        stacks: Vec<String>,
    },
}

impl Reason {
    /// True for what someone has to put right, whatever is deployed next (D-HOT-12, D-HOT-77).
    pub fn needs_repair(&self) -> bool {
        matches!(
            self,
            Self::ForeignHosts { .. } | Self::DifferentStacks { .. } | Self::NotOurs { .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => write!(f, "hot swap is off for this environment"),
            Self::SeveralLoadBalancers { count } => {
                write!(
                    f,
                    "the region lists {count} load balancers, and only one can tell which stack is promoted"
                )
            }
            Self::NothingPromoted { load_balancer } => {
                write!(
                    f,
                    "nothing is promoted: `{load_balancer}` has no tag `{}`",
                    contract::names::tag::PROMOTED_STACK
                )
            }
            Self::NoVersion { holder } => write!(
                f,
                "the stack has no tag `{}` and {holder} no tag `{}`",
                contract::names::tag::HOST_PROTOCOL,
                contract::names::tag::PORTER_VERSION
            ),
            Self::OtherVersion { found, own } => {
                write!(
                    f,
                    "the stack was built by porter {found}, this is {own}, and it records no host protocol"
                )
            }
            Self::OtherProtocol { found, own } => {
                write!(
                    f,
                    "the stack's hosts speak host protocol {found}, this porter speaks {own}"
                )
            }
            Self::NoStack => write!(f, "there is no stack of this service and environment"),
            Self::PromotedStackGone { stack } => {
                write!(
                    f,
                    "the load balancer's tag names the stack {stack}, which does not exist"
                )
            }
            Self::NotOurs { stack, owner } => {
                write!(
                    f,
                    "the load balancer's tag names the stack {stack}, which belongs to {owner}"
                )
            }
            Self::NotServing { stack, status } => {
                write!(f, "the stack {stack} is {status} and serves nobody")
            }
            Self::RolledBack { stack, status } => {
                write!(
                    f,
                    "the last update of the stack {stack} was rolled back ({status}), so its hosts may differ"
                )
            }
            Self::OtherStatus { stack, status } => {
                write!(
                    f,
                    "the stack {stack} is {status}, a status in which it is not swapped"
                )
            }
            Self::UpdateInProgress { stack, status } => {
                write!(
                    f,
                    "an earlier update of the stack {stack} is still running ({status})"
                )
            }
            Self::TooOld { stack, over, age } => write!(
                f,
                "the stack {stack} is too old: its {} for hot swaps ended {} ago",
                age::words(age.window),
                age::words(*over)
            ),
            Self::OtherGeneration { found, wanted } => {
                write!(
                    f,
                    "`hot_swap.generation` is `{wanted}`, the stack's is `{found}`"
                )
            }
            Self::ForeignHosts {
                instances,
                promoted,
            } => write!(
                f,
                "{} in service in the load balancer but not of the promoted stack {promoted}; promote again to repair it",
                match instances.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            ),
            Self::DifferentStacks { stacks } => write!(
                f,
                "the regions run different stacks ({}); a promotion may have succeeded in some regions only",
                stacks.join(", ")
            ),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.region.is_empty() {
            write!(f, "{}", self.reason)
        } else {
            write!(f, "{}: {}", self.region, self.reason)
        }
    }
}
