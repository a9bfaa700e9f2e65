//! A stand-in for cfn-hup: reads the same configuration and hooks, keeps the same baseline, runs the same actions.
//!
//! This file and [`hooks`] decide (pure); [`daemon`] acts. Facts: `docs/spec/cfn-hup.md`. What differs: it stays in the
//! foreground, polls faster than once a minute, and finds its credentials with the SDK's chain (IMDSv2), where
//! aws-cfn-bootstrap 1.4 used version 1.

mod daemon;
mod hooks;
mod ini;

pub use hooks::{Event, Hook, HookPath, MainConfig, Target, read_hooks};

use crate::stack_resource::Detail;
use anyhow::Result;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    time::Duration,
};

/// One string of a process's environment may be so long (Linux, MAX_ARG_STRLEN), its name included.
const LONGEST_VARIABLE: usize = 128 * 1024;

/// The stored values, by `<section>|<path>`.
pub type Baseline = BTreeMap<String, Value>;

/// What one pass does with one hook.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Store the new value, run nothing.
    Store(Option<Value>),
    /// Run the action; store the new value when it ends with 0.
    Run {
        /// `CFN_OLD_*` and `CFN_NEW_*`.
        environment: Vec<(String, String)>,
        /// To be stored.
        new: Option<Value>,
    },
    /// The action can never be started.
    TooLong(String),
}

/// What a pass does with this hook; nothing when the value has not changed, or the resource is being changed.
pub fn decide(
    hook: &Hook,
    baseline: &Baseline,
    resources: &HashMap<String, Detail>,
) -> Option<Outcome> {
    let detail = resources.get(&hook.path.resource);
    if detail.is_some_and(|d| d.status.ends_with("_IN_PROGRESS")) {
        return None;
    }
    let old = baseline.get(&hook.key());
    let new = detail.and_then(|d| hook.path.value(d));
    // Parsed values are compared, so the order of keys makes no change.
    if old == new.as_ref() {
        return None;
    }
    let event = match (old.is_some(), new.is_some()) {
        (false, _) => Event::Add,
        (true, true) => Event::Update,
        (true, false) => Event::Remove,
    };
    if !hook.triggers.contains(&event) {
        return Some(Outcome::Store(new));
    }
    let name = hook.path.variable();
    let environment: Vec<(String, String)> = [("CFN_OLD_", old), ("CFN_NEW_", new.as_ref())]
        .into_iter()
        .filter_map(|(prefix, value)| value.map(|v| (format!("{prefix}{name}"), text(v))))
        .collect();
    if let Some((name, _)) = environment
        .iter()
        .find(|(n, v)| n.len() + v.len() + 2 > LONGEST_VARIABLE)
    {
        return Some(Outcome::TooLong(format!(
            "{name} is longer than 128 KiB: the action of `{}` can never be started",
            hook.name
        )));
    }
    Some(Outcome::Run { environment, new })
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// How long to wait between passes: the configured minutes, or the local cloud's shorter interval.
pub fn interval(main: &MainConfig, faster: Option<Duration>) -> Duration {
    faster.unwrap_or(main.interval).min(main.interval)
}

/// `cfn-hup [-c DIR] [-v] [--no-daemon]`
///
/// # Errors
/// As exit status 1 of the real one: bad configuration or hooks.
pub async fn main(args: &[String]) -> Result<ExitCode> {
    daemon::main(args).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn hook(triggers: &str, path: &str) -> Hook {
        let file = format!("[h]\ntriggers={triggers}\npath={path}\naction=/bin/true\n");
        read_hooks(&[("hooks.conf".into(), file)], &mut vec![])
            .unwrap()
            .remove(0)
    }

    fn resources(metadata: Value, status: &str) -> HashMap<String, Detail> {
        let detail = Detail {
            metadata: Some(metadata),
            physical_id: "lt-1".into(),
            status: status.into(),
            last_updated: 7.5,
        };
        HashMap::from([("LaunchTemplate".into(), detail)])
    }

    const PATH: &str = "Resources.LaunchTemplate.Metadata.Porter";

    #[test]
    fn d_host_1_an_update_runs_the_action_and_the_first_pass_only_stores_a_baseline() {
        // D-HOST-1; docs/spec/cfn-hup.md: "The first pass only stores a baseline (post.add runs then)"
        let update = hook("post.update", PATH);
        let first = resources(json!({"Porter": {"swap": "1"}}), "CREATE_COMPLETE");
        assert_eq!(
            decide(&update, &Baseline::new(), &first),
            Some(Outcome::Store(Some(json!({"swap": "1"}))))
        );
        assert!(matches!(
            decide(&hook("post.add", PATH), &Baseline::new(), &first),
            Some(Outcome::Run { .. })
        ));

        let baseline = Baseline::from([(update.key(), json!({"swap": "1"}))]);
        assert_eq!(decide(&update, &baseline, &first), None);
        let second = resources(
            json!({"Porter": {"swap": "2"}, "Other": 1}),
            "UPDATE_COMPLETE",
        );
        assert_eq!(
            decide(&update, &baseline, &second),
            Some(Outcome::Run {
                environment: vec![
                    ("CFN_OLD_METADATA".into(), r#"{"swap":"1"}"#.into()),
                    ("CFN_NEW_METADATA".into(), r#"{"swap":"2"}"#.into())
                ],
                new: Some(json!({"swap": "2"})),
            })
        );
    }

    #[test]
    fn changes_elsewhere_key_order_and_updates_under_way_do_nothing() {
        let update = hook("post.update", PATH);
        let baseline = Baseline::from([(update.key(), json!({"a": 1, "b": 2}))]);
        assert_eq!(
            decide(
                &update,
                &baseline,
                &resources(
                    json!({"Other": 5, "Porter": {"b": 2, "a": 1}}),
                    "UPDATE_COMPLETE"
                )
            ),
            None
        );
        // docs/spec/cfn-hup.md: "Resource (not stack) status *_IN_PROGRESS: skipped until complete"
        assert_eq!(
            decide(
                &update,
                &baseline,
                &resources(json!({"Porter": {"a": 9}}), "UPDATE_IN_PROGRESS")
            ),
            None
        );
        let gone = resources(json!({}), "UPDATE_COMPLETE");
        assert_eq!(
            decide(&update, &baseline, &gone),
            Some(Outcome::Store(None))
        );
        assert!(matches!(
            decide(&hook("post.remove", PATH), &baseline, &gone),
            Some(Outcome::Run { .. })
        ));
    }

    #[test]
    fn the_variable_is_named_after_the_path_and_a_value_over_128_kib_never_starts_the_action() {
        for (path, name) in [
            ("Resources.LaunchTemplate", "LAST_UPDATED"),
            (
                "Resources.LaunchTemplate.PhysicalResourceId",
                "PHYSICAL_RESOURCE_ID",
            ),
        ] {
            let Some(Outcome::Run { environment, .. }) = decide(
                &hook("post.add", path),
                &Baseline::new(),
                &resources(json!({}), "CREATE_COMPLETE"),
            ) else {
                panic!("{path}")
            };
            assert_eq!(environment[0].0, format!("CFN_NEW_{name}"));
        }
        let large = resources(
            json!({"Porter": "x".repeat(LONGEST_VARIABLE)}),
            "UPDATE_COMPLETE",
        );
        assert!(matches!(
            decide(&hook("post.add", PATH), &Baseline::new(), &large),
            Some(Outcome::TooLong(_))
        ));
    }

    #[test]
    fn d_hot_71_the_interval_is_never_longer_than_configured() {
        // D-HOT-71
        let main = MainConfig::parse("[main]\nstack=s\ninterval=1\n").unwrap();
        assert_eq!(interval(&main, None), Duration::from_secs(60));
        assert_eq!(
            interval(&main, Some(Duration::from_secs(1))),
            Duration::from_secs(1)
        );
        assert_eq!(
            interval(&main, Some(Duration::from_secs(600))),
            Duration::from_secs(60)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_action_runs_until_it_succeeds_and_then_not_again(values in proptest::collection::vec(0u8..4, 1..20), fails in proptest::collection::vec(any::<bool>(), 20)) {
            let update = hook("post.update", PATH);
            let mut baseline = Baseline::new();
            let mut acted = None;
            for (i, value) in values.iter().enumerate() {
                let now = resources(json!({"Porter": value}), "UPDATE_COMPLETE");
                match decide(&update, &baseline, &now) {
                    None => prop_assert_eq!(acted, Some(*value)),
                    Some(Outcome::Store(new)) => {
                        prop_assert!(acted.is_none());
                        baseline.insert(update.key(), new.unwrap());
                        acted = Some(*value);
                    }
                    Some(Outcome::Run { environment, new }) => {
                        // The old value is the last one that an action has dealt with.
                        prop_assert_eq!(environment[0].1.clone(), acted.unwrap().to_string());
                        if !fails[i] {
                            baseline.insert(update.key(), new.unwrap());
                            acted = Some(*value);
                        }
                    }
                    Some(Outcome::TooLong(_)) => prop_assert!(false),
                }
            }
        }
    }
}
