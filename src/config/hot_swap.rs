//! Whether and how running hosts may be swapped (section 1.8 of the specification).
//!
//! This version has the mode `simple`: every host swaps on its own. What belongs to `coordinated` is read and refused
//! as not available, unless the environment does not swap at all.

use super::{
    egress,
    environment::region_order,
    field::{Field, Section},
    model::{HotSwap, OnIneligible, OnTemplateDrift},
    node::Value,
    pattern,
};
use contract::spec::{DEFAULT_HANDOVER_BAKE, OnDrainTimeout};
use std::time::Duration;

/// A security rule: no host runs longer than a week without being rebuilt (D-CFG-97).
const MAX_AGE: Duration = Duration::from_secs(168 * 3600);
const DEFAULT_DEADLINE: Duration = Duration::from_secs(20 * 60);
const DEFAULT_PREPARE: Duration = Duration::from_secs(10 * 60);
/// Keep-alive of the load balancer, 60 s, and 120 s more (D-CFG-105).
const DEFAULT_DRAIN: Duration = Duration::from_secs(180);
/// cfn-hup looks once a minute.
const DETECT_INTERVAL: Duration = Duration::from_secs(60);

/// `hot_swap`: absent, a truth value or a map (D-CFG-23).
pub(super) fn hot_swap(field: Option<Field>, regions: &[String]) -> HotSwap {
    match field {
        None => settings(false),
        Some(field) => match &field.node.value {
            Value::Map(_) => field
                .section()
                .map_or_else(|| settings(false), |s| map(s, regions)),
            _ => settings(field.boolean().unwrap_or(false)),
        },
    }
}

fn settings(enabled: bool) -> HotSwap {
    HotSwap {
        enabled,
        max_age: MAX_AGE,
        on_ineligible: OnIneligible::Provision,
        generation: String::new(),
        deadline: DEFAULT_DEADLINE,
        prepare_timeout: DEFAULT_PREPARE,
        drain_timeout: DEFAULT_DRAIN,
        on_drain_timeout: OnDrainTimeout::Close,
        handover_bake: DEFAULT_HANDOVER_BAKE,
        suspend_scaling: true,
        on_template_drift: OnTemplateDrift::Provision,
    }
}

fn map(map: Section, regions: &[String]) -> HotSwap {
    let enabled = map
        .get("enabled")
        .map_or(Some(true), |f| f.boolean())
        .unwrap_or(true);
    let default = settings(enabled);
    let time = |key| map.get(key).and_then(|f| f.some_time());
    let deadline = time("deadline").unwrap_or(default.deadline);
    let hot_swap = HotSwap {
        max_age: map
            .get("max_age")
            .and_then(|f| max_age(&f))
            .unwrap_or(default.max_age),
        on_ineligible: map
            .get("on_ineligible")
            .and_then(|f| {
                f.one_of(&[
                    ("provision", OnIneligible::Provision),
                    ("fail", OnIneligible::Fail),
                ])
            })
            .unwrap_or(default.on_ineligible),
        generation: map
            .get("generation")
            .and_then(|f| generation(&f))
            .unwrap_or_default(),
        deadline,
        prepare_timeout: time("prepare_timeout").unwrap_or(default.prepare_timeout.min(deadline)),
        drain_timeout: map
            .get("drain_timeout")
            .and_then(|f| f.duration())
            .unwrap_or(default.drain_timeout),
        on_drain_timeout: on_drain_timeout(&map, enabled),
        handover_bake: map
            .get("handover_bake")
            .and_then(|f| f.duration())
            .unwrap_or(default.handover_bake),
        suspend_scaling: map
            .get("suspend_scaling")
            .and_then(|f| f.boolean())
            .unwrap_or(default.suspend_scaling),
        on_template_drift: map
            .get("on_template_drift")
            .and_then(|f| {
                f.one_of(&[
                    ("provision", OnTemplateDrift::Provision),
                    ("fail", OnTemplateDrift::Fail),
                    ("allow", OnTemplateDrift::Allow),
                ])
            })
            .unwrap_or(default.on_template_drift),
        enabled,
    };
    if hot_swap.prepare_timeout > hot_swap.deadline {
        map.missing("prepare_timeout", "is longer than `deadline`");
    }
    if hot_swap.handover_bake >= hot_swap.deadline {
        map.missing("handover_bake", "must be shorter than `deadline`");
    }
    refuse_coordinated(&map, enabled, regions);
    map.done();
    hot_swap
}

/// D-CFG-97.
fn max_age(field: &Field) -> Option<Duration> {
    let age = field.some_time()?;
    if age > MAX_AGE {
        field.error("at most `168h`: the one-week limit is a security rule");
        return None;
    }
    Some(age)
}

/// D-CFG-99; the value of a tag.
fn generation(field: &Field) -> Option<String> {
    let text = field.text()?;
    if text.chars().count() > 256 || text.chars().any(char::is_control) {
        field.error("at most 256 printable characters");
        return None;
    }
    Some(text)
}

/// D-CFG-106.
fn on_drain_timeout(map: &Section, enabled: bool) -> OnDrainTimeout {
    let Some(field) = map.get("on_drain_timeout") else {
        return OnDrainTimeout::Close;
    };
    let choices = [
        ("close", Some(OnDrainTimeout::Close)),
        ("fail", Some(OnDrainTimeout::Fail)),
        ("keep", None),
    ];
    match field.one_of(&choices) {
        Some(Some(policy)) => policy,
        Some(None) if enabled => {
            field.unavailable(
                "in mode `simple` a host has nobody to stop the old container after its verdict; use `close` or `fail`",
            );
            OnDrainTimeout::Close
        }
        _ => OnDrainTimeout::Close,
    }
}

/// Keys whose other values this version does not act on. With hot swap off they have no effect, so they pass.
fn refuse_coordinated(map: &Section, enabled: bool, regions: &[String]) {
    let refuse = |field: &Field, wanted: Option<bool>, why: &str| {
        if enabled && wanted == Some(true) {
            field.unavailable(why);
        }
    };
    if let Some(field) = map.get("mode") {
        let coordinated = field.one_of(&[("simple", false), ("coordinated", true)]);
        refuse(
            &field,
            coordinated,
            "only `simple` is: every host swaps on its own",
        );
    }
    if let Some(field) = map.get("batch") {
        let partial = field.matching(&pattern::BATCH).map(|text| text != "100%");
        refuse(&field, partial, "all hosts swap at once (`100%`)");
    }
    if let Some(field) = map.get("canary") {
        if let Some(canary) = field.section() {
            canary.require("hosts").and_then(|f| f.count(1));
            canary.get("bake").and_then(|f| f.duration());
            canary.done();
        }
        refuse(&field, Some(true), "all hosts swap at once");
    }
    if let Some(field) = map.get("region_order") {
        let ordered = region_order(&field, regions);
        refuse(&field, Some(ordered), "all regions swap at once");
    }
    if let Some(field) = map.get("rollback") {
        let automatic = field.one_of(&[("auto", true), ("manual", false)]);
        refuse(
            &field,
            automatic,
            "a failed swap is left as it stands (`manual`)",
        );
    }
    if let Some(field) = map.get("detect_interval")
        && let Some(interval) = field.duration()
    {
        if interval < Duration::from_secs(5) || interval > Duration::from_secs(60) {
            field.error("must be between `5s` and `60s`");
        } else {
            refuse(
                &field,
                Some(interval != DETECT_INTERVAL),
                "hosts look once a minute (`60s`)",
            );
        }
    }
    if let Some(field) = map.get("test_cidrs") {
        let ranges = field.list();
        for range in &ranges {
            egress::cidr(range, range.text().is_some_and(|t| t.contains(':')));
        }
        refuse(
            &field,
            Some(!ranges.is_empty()),
            "there is no test listener",
        );
    }
    if let Some(field) = map.get("allow_stop_first") {
        let allowed = field.boolean();
        refuse(
            &field,
            allowed,
            "a host without memory for both versions fails its swap and keeps the old one",
        );
    }
}
