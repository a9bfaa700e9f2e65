//! Where promoted traffic comes from: a classic load balancer, several, target groups or none (D-CFG-56 to D-CFG-58).

use super::{
    environment::unique,
    field::{Field, Section},
    model::{ClassicLoadBalancer, LoadBalancer},
    pattern,
};

/// The region's load balancer and the key that says so.
pub(super) fn load_balancer<'r>(
    section: &Section<'r>,
    region: &str,
) -> (LoadBalancer, Option<Field<'r>>) {
    let (elb, elbs, groups) = (
        section.get("elb"),
        section.get("elbs"),
        section.get("target_group_arns"),
    );
    let name = elb.as_ref().and_then(|f| f.matching(&pattern::ELB_NAME));
    let none = name.as_deref() == Some("none");
    let mut classic = elbs.as_ref().map(legacy).unwrap_or_default();
    let target_groups = groups.as_ref().map(|f| arns(f, region)).unwrap_or_default();

    if let Some(groups) = &groups
        && (elb.is_some() || elbs.is_some())
    {
        groups.error("excludes `elb` and `elbs`; keep one of them");
    }
    if none && !classic.is_empty() {
        elb.iter()
            .for_each(|f| f.error("`none` contradicts `elbs`"));
    }
    if let Some(name) = name.filter(|_| !none) {
        classic.push(ClassicLoadBalancer {
            tag: String::new(),
            name,
        });
    }
    match (classic.is_empty(), target_groups.is_empty()) {
        (false, _) => (LoadBalancer::Classic(classic), elbs.or(elb)),
        (true, false) => (LoadBalancer::TargetGroups(target_groups), groups),
        (true, true) => (LoadBalancer::None, elb.or(elbs).or(groups)),
    }
}

/// `elbs` (D-CFG-57).
fn legacy(field: &Field) -> Vec<ClassicLoadBalancer> {
    let items = field.list();
    unique(&items, "tag");
    let entry = |entry: Section| {
        let read = ClassicLoadBalancer {
            tag: entry
                .require("tag")
                .and_then(|f| f.filled())
                .unwrap_or_default(),
            name: entry
                .require("name")
                .and_then(|f| f.matching(&pattern::ELB_NAME))
                .unwrap_or_default(),
        };
        entry.done();
        read
    };
    items.iter().filter_map(Field::section).map(entry).collect()
}

/// `target_group_arns` (D-CFG-58); a group serves hosts of its own region only.
fn arns(field: &Field, region: &str) -> Vec<String> {
    let mut arns: Vec<String> = vec![];
    for item in field.list() {
        let Some(arn) = item.matching(&pattern::TARGET_GROUP) else {
            continue;
        };
        if arn.split(':').nth(3) != Some(region) && !region.is_empty() {
            item.error(format!("the target group is not in {region}"));
        } else if arns.contains(&arn) {
            item.error("is listed twice");
        }
        arns.push(arn);
    }
    arns
}
