//! The steps of a swap on a host, in order. Code, output, journal, signals and `docs/hotswap.md` use these words.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One step of a host's swap (D-HOT-79, D-HOST-1 to D-HOST-9). The order of the variants is the order of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Seed step 1: the change was noticed, the desired state read and understood.
    Detect,
    /// Seed step 2: missing blobs come from the bucket and are verified.
    Fetch,
    /// Seed step 2: the engine loads the images.
    Load,
    /// Seed step 2: the new containers are started beside the old ones.
    Start,
    /// Seed step 3: the new containers pass their health checks.
    Health,
    /// Coordinated mode only: held until the build host grants the cut-over.
    Await,
    /// Containers with `handover: true` only: the new processes take the listeners and every live connection.
    Handover,
    /// Seed step 4: the proxy sends traffic to the new containers.
    CutOver,
    /// After a handover only: the old processes wait, empty, to take everything back if the new ones fail.
    Bake,
    /// Seed step 5: the connections of the old containers end.
    Drain,
    /// Seed step 6: the old containers are stopped.
    Stop,
    /// Seed step 7: they are removed.
    Remove,
    /// Seed step 8: their images are removed.
    RemoveImage,
    /// Seed step 9: the result is on the queue.
    Report,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 14] = [
        Step::Detect,
        Step::Fetch,
        Step::Load,
        Step::Start,
        Step::Health,
        Step::Await,
        Step::Handover,
        Step::CutOver,
        Step::Bake,
        Step::Drain,
        Step::Stop,
        Step::Remove,
        Step::RemoveImage,
        Step::Report,
    ];

    /// The step's name on the wire and in documents, such as `cut_over`.
    pub fn name(self) -> &'static str {
        match self {
            Step::Detect => "detect",
            Step::Fetch => "fetch",
            Step::Load => "load",
            Step::Start => "start",
            Step::Health => "health",
            Step::Await => "await",
            Step::Handover => "handover",
            Step::CutOver => "cut_over",
            Step::Bake => "bake",
            Step::Drain => "drain",
            Step::Stop => "stop",
            Step::Remove => "remove",
            Step::RemoveImage => "remove_image",
            Step::Report => "report",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_complete_in_order_and_named_as_on_the_wire() {
        assert!(Step::ALL.windows(2).all(|w| w[0] < w[1]));
        for step in Step::ALL {
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
    }
}
