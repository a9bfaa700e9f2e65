//! Pure: does a change set hold more than a hot swap may change (D-HOT-20, D-TPL-53)?
//!
//! A swap is meant to bring new code, not new infrastructure. Metadata of the launch template, the group's sizes and
//! tags and the host role's policy may change; anything else is drift, and drift that replaces a resource is never
//! carried out by a swap, whatever the configuration says.

use contract::names;
use std::fmt;

/// One resource change of a change set, as CloudFormation's DescribeChangeSet tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Logical id.
    pub logical_id: String,
    /// Such as `AWS::AutoScaling::AutoScalingGroup`.
    pub resource_type: String,
    /// `Add`, `Modify`, `Remove`, `Import` or `Dynamic`.
    pub action: String,
    /// CloudFormation says `True`, `False` or `Conditional`.
    pub replacement: String,
    /// `Properties`, `Metadata`, `Tags`, …
    pub scope: Vec<String>,
    /// Changed properties with `true` where the new value is only known while the update runs (`Evaluation: Dynamic`).
    pub properties: Vec<(String, bool)>,
}

/// A change that a swap must not bring along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Logical id.
    pub logical_id: String,
    /// What would happen to it, for people.
    pub what: String,
    /// It removes or replaces the resource: not even `on_template_drift: allow` lets it through.
    pub destructive: bool,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.logical_id, self.what)
    }
}

/// The changes that are more than a swap's own, in the order of the change set.
pub fn inspect(changes: &[Change]) -> Vec<Drift> {
    changes.iter().filter_map(drift).collect()
}

fn drift(change: &Change) -> Option<Drift> {
    let destructive = change.action == "Remove" || change.replacement != "False";
    let what = match change.action.as_str() {
        "Modify" if belongs_to_a_swap(change) => return None,
        "Modify" => {
            let parts: Vec<&str> = change
                .properties
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            let parts = if parts.is_empty() {
                change.scope.join(", ")
            } else {
                parts.join(", ")
            };
            let how = match change.replacement.as_str() {
                "False" => "would change",
                "True" => "would be replaced by a change",
                _ => "might be replaced by a change",
            };
            format!("{} {how} in {parts}", change.resource_type)
        }
        "Add" => {
            return Some(Drift {
                logical_id: change.logical_id.clone(),
                what: format!("{} would be added", change.resource_type),
                destructive: false,
            });
        }
        "Remove" => format!("{} would be removed", change.resource_type),
        other => format!("{} would see the change `{other}`", change.resource_type),
    };
    Some(Drift {
        logical_id: change.logical_id.clone(),
        what,
        destructive,
    })
}

fn belongs_to_a_swap(change: &Change) -> bool {
    if change.replacement == "True" {
        return false;
    }
    let only_metadata = change.scope.iter().all(|s| s == "Metadata");
    let only = |allowed: &[&str]| {
        change
            .properties
            .iter()
            .all(|(name, _)| allowed.contains(&name.as_str()))
    };
    match (change.logical_id.as_str(), change.resource_type.as_str()) {
        (_, "AWS::EC2::LaunchTemplate") => only_metadata,
        _ if change.replacement != "False" && !is_group(change) => false,
        // The group refers to the launch template's version; CloudFormation can't know beforehand that it stays. None of
        // these properties ever replaces a group, so an undecided `Conditional` says nothing here.
        _ if is_group(change) => change.properties.iter().all(|(name, dynamic)| {
            matches!(
                name.as_str(),
                "DesiredCapacity" | "MinSize" | "MaxSize" | "Tags"
            ) || (name == "LaunchTemplate" && *dynamic)
        }),
        (names::HOST_ROLE, _) => only(&["Policies"]),
        // Metadata has no effect on a resource by itself; without any scope nothing of the resource changes.
        _ => only_metadata,
    }
}

fn is_group(change: &Change) -> bool {
    change.resource_type == "AWS::AutoScaling::AutoScalingGroup"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(
        id: &str,
        kind: &str,
        action: &str,
        replacement: &str,
        scope: &[&str],
        properties: &[(&str, bool)],
    ) -> Change {
        Change {
            logical_id: id.into(),
            resource_type: kind.into(),
            action: action.into(),
            replacement: replacement.into(),
            scope: scope.iter().map(|s| (*s).to_owned()).collect(),
            properties: properties
                .iter()
                .map(|(n, d)| ((*n).to_owned(), *d))
                .collect(),
        }
    }

    const GROUP: &str = "AWS::AutoScaling::AutoScalingGroup";
    const LAUNCH: &str = "AWS::EC2::LaunchTemplate";

    #[test]
    fn d_tpl_53_a_swaps_own_changes_are_no_drift() {
        let own = [
            change(
                "LaunchTemplate",
                LAUNCH,
                "Modify",
                "False",
                &["Metadata"],
                &[],
            ),
            change(
                "AutoScalingGroup",
                GROUP,
                "Modify",
                "False",
                &["Properties"],
                &[
                    ("DesiredCapacity", false),
                    ("Tags", false),
                    ("LaunchTemplate", true),
                ],
            ),
            change(
                "AutoScalingGroup",
                GROUP,
                "Modify",
                "Conditional",
                &["Tags"],
                &[("Tags", false)],
            ),
            change(
                "IAMRole",
                "AWS::IAM::Role",
                "Modify",
                "False",
                &["Properties"],
                &[("Policies", false)],
            ),
        ];
        assert_eq!(inspect(&own), []); // D-TPL-53
    }

    #[test]
    fn d_hot_20_anything_else_is_named_and_what_destroys_is_marked() {
        let foreign = [
            change(
                "LaunchTemplate",
                LAUNCH,
                "Modify",
                "False",
                &["Metadata", "Properties"],
                &[("LaunchTemplateData", false)],
            ),
            change(
                "AutoScalingGroup",
                GROUP,
                "Modify",
                "Conditional",
                &["Properties"],
                &[("AutoScalingGroupName", false)],
            ),
            change(
                "AutoScalingGroup",
                GROUP,
                "Modify",
                "False",
                &["Properties"],
                &[("LaunchTemplate", false)],
            ),
            change(
                "Table",
                "AWS::DynamoDB::Table",
                "Modify",
                "True",
                &["Properties"],
                &[("KeySchema", false)],
            ),
            change("Topic", "AWS::SNS::Topic", "Add", "", &[], &[]),
            change("Bucket", "AWS::S3::Bucket", "Remove", "", &[], &[]),
        ];
        let found = inspect(&foreign); // D-HOT-20
        assert_eq!(
            found.iter().map(|d| d.destructive).collect::<Vec<_>>(),
            [false, true, false, true, false, true]
        );
        assert_eq!(
            found[3].to_string(),
            "Table: AWS::DynamoDB::Table would be replaced by a change in KeySchema"
        );
        assert_eq!(
            found[4].to_string(),
            "Topic: AWS::SNS::Topic would be added"
        );
    }
}
