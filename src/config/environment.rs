//! One environment and what its regions inherit from it (section 1.3 of the specification).

use super::{
    blackout,
    field::{Field, Section},
    haproxy::ProxyPart,
    hot_swap,
    model::Environment,
    node::Value,
    pattern, region, settings,
};
use std::collections::{BTreeMap, BTreeSet};

/// AWS allows 50 on a resource; the rest is ours.
const MAX_TAGS: usize = 40;

/// Values of the environment that count where a region has none of its own (D-CFG-5, D-CFG-6).
pub(super) struct Inherited {
    pub stack_definition_path: Option<std::path::PathBuf>,
    pub role_arn: Option<String>,
    /// Also when it was wrong, which is reported once, at the environment.
    pub has_role: bool,
    pub external_id: Option<String>,
    pub instance_count: Option<u32>,
    pub instance_type: Option<String>,
    pub ami: Option<String>,
    pub haproxy: ProxyPart,
    pub stack_parameters: BTreeMap<String, String>,
    pub permissions_boundary: Option<String>,
    pub autowire_security_groups: bool,
    pub hot_swap: bool,
}

/// `environments` (D-CFG-15).
pub(super) fn list(field: &Field) -> Vec<Environment> {
    let environments = at_least_one(field, "environment");
    unique(&environments, "name");
    environments
        .iter()
        .filter_map(|f| Some(environment(&f.section()?)))
        .collect()
}

fn environment(section: &Section) -> Environment {
    let names = region_names(section);
    let hot_swap = hot_swap::hot_swap(section.get("hot_swap"), &names);
    let inherited = Inherited {
        stack_definition_path: section
            .get("stack_definition_path")
            .and_then(|f| f.path_below_root()),
        role_arn: section
            .get("role_arn")
            .and_then(|f| f.matching(&pattern::ROLE_ARN)),
        has_role: section.get("role_arn").is_some(),
        external_id: section
            .get("external_id")
            .and_then(|f| f.matching(&pattern::EXTERNAL_ID)),
        instance_count: section.get("instance_count").and_then(|f| f.count(0)),
        instance_type: section
            .get("instance_type")
            .and_then(|f| f.matching(&pattern::INSTANCE_TYPE)),
        ami: section.get("ami").and_then(|f| f.matching(&pattern::AMI)),
        haproxy: section
            .get("haproxy")
            .and_then(|f| f.section())
            .map(ProxyPart::read)
            .unwrap_or_default(),
        stack_parameters: section
            .get("stack_parameters")
            .map(|f| stack_parameters(&f))
            .unwrap_or_default(),
        permissions_boundary: section
            .get("permissions_boundary")
            .and_then(|f| f.matching(&pattern::POLICY_ARN)),
        autowire_security_groups: section
            .get("autowire_security_groups")
            .and_then(|f| f.boolean())
            .unwrap_or(true),
        hot_swap: hot_swap.enabled,
    };
    let regions = section
        .require("regions")
        .map(|f| at_least_one(&f, "region"))
        .unwrap_or_default();
    unique(&regions, "name");
    let environment = Environment {
        name: section
            .require("name")
            .and_then(|f| f.matching(&pattern::ENVIRONMENT_NAME))
            .unwrap_or_default(),
        hot_swap,
        blackout_windows: section
            .get("blackout_windows")
            .map(|f| blackout::windows(&f))
            .unwrap_or_default(),
        tags: section.get("tags").map(|f| tags(&f)).unwrap_or_default(),
        keep_images: settings::payload(section),
        regions: regions
            .iter()
            .filter_map(|f| Some(region::region(&f.section()?, &inherited)))
            .collect(),
    };
    settings::secrets(section);
    order_of_regions(section, &names);
    section.done();
    environment
}

/// The names as they stand there, for keys that refer to regions.
fn region_names(section: &Section) -> Vec<String> {
    let Some(Value::List(regions)) = section.field.node.get("regions").map(|n| &n.value) else {
        return vec![];
    };
    let name = |region: &std::rc::Rc<super::node::Node>| match region.get("name").map(|n| &n.value)
    {
        Some(Value::Scalar { text, .. }) => Some(text.clone()),
        _ => None,
    };
    regions.iter().filter_map(name).collect()
}

/// `region_order` and `max_parallel_regions` of the environment (D-CFG-128). Without an effect they are harmless.
fn order_of_regions(section: &Section, names: &[String]) {
    if let Some(field) = section.get("region_order")
        && region_order(&field, names)
    {
        field.unavailable("all regions are deployed at once");
    }
    if let Some(field) = section.get("max_parallel_regions")
        && field.count(1).is_some_and(|n| (n as usize) < names.len())
    {
        field.unavailable("all regions are deployed at once");
    }
}

/// Checks a list of regions; true when it orders something.
pub(super) fn region_order(field: &Field, names: &[String]) -> bool {
    let mut seen = BTreeSet::new();
    for item in field.list() {
        let Some(name) = item.text() else { continue };
        if !names.contains(&name) {
            item.error(format!("`{name}` is not a region of this environment"));
        } else if !seen.insert(name.clone()) {
            item.error(format!("`{name}` is listed twice"));
        }
    }
    seen.len() > 1
}

/// `stack_parameters` (D-CFG-119).
pub(super) fn stack_parameters(field: &Field) -> BTreeMap<String, String> {
    for (name, value) in field.entries() {
        if !pattern::PARAMETER.matches(&name) {
            value.error(format!("`{name}` is not {}", pattern::PARAMETER.what));
        } else if name.starts_with("Porter") {
            value.error("parameters whose names begin with `Porter` are set by porter itself");
        }
    }
    field.text_map()
}

/// `tags` (D-CFG-30), within AWS's limits and without the names by which porter finds its stacks.
fn tags(field: &Field) -> BTreeMap<String, String> {
    let tags = field.text_map();
    if tags.len() > MAX_TAGS {
        field.error(format!(
            "{} tags; at most {MAX_TAGS} fit beside porter's own",
            tags.len()
        ));
    }
    for (name, entry) in field.entries() {
        let lower = name.to_ascii_lowercase();
        let value = tags.get(&name).map_or(0, |v| v.chars().count());
        if lower.starts_with("aws:") || lower.starts_with("porter-") {
            entry.error("tags that begin with `aws:` or `porter-` are reserved");
        } else if name.is_empty() || name.chars().count() > 128 || value > 256 {
            entry.error("a tag has a name of 1 to 128 and a value of at most 256 characters");
        }
    }
    tags
}

/// The items of a list that must not be empty.
pub(super) fn at_least_one<'r>(field: &Field<'r>, what: &str) -> Vec<Field<'r>> {
    let items = field.list();
    if items.is_empty() && matches!(field.node.value, Value::List(_)) {
        field.error(format!("at least one {what} is needed"));
    }
    items
}

/// Complains about the second use of a name in a list of maps.
pub(super) fn unique(items: &[Field], key: &'static str) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        let Some(node) = item.node.get(key) else {
            continue;
        };
        let Value::Scalar { text, .. } = &node.value else {
            continue;
        };
        if let Some(line) = seen.insert(text.clone(), node.at.line) {
            let field = Field {
                node,
                path: format!("{}.{key}", item.path),
                ..item.clone()
            };
            field.error(format!("`{text}` is already used, on line {line}"));
        }
    }
}
