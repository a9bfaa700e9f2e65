//! Pure: may a stack of this size be swapped (D-HOT-13 to D-HOT-18)?
//!
//! Names as in the documents: *T* is what the template says, *P* what the group of the promoted stack has now.

use crate::eligibility::{StackStatus, Standing};
use serde::{Deserialize, Serialize};

/// The sizes of an Auto Scaling group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// MinSize.
    pub min: u32,
    /// MaxSize.
    pub max: u32,
    /// DesiredCapacity.
    pub desired: u32,
}

/// The rule D-HOT-13 is violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[error(
    "the running group has DesiredCapacity {desired}, but the template allows MinSize {min} to MaxSize {max}; either \
     adjust the template's sizes so that {desired} lies between them, or deploy once without hot swap (`--no-hotswap`)"
)]
pub struct CapacityError {
    /// MinSizeT.
    pub min: u32,
    /// MaxSizeT.
    pub max: u32,
    /// DesiredP.
    pub desired: u32,
}

/// Where DesiredP comes from (D-HOT-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The group of the promoted stack has it.
    Group,
    /// There is no group to ask: the template's values stand.
    Template,
    /// The group is being changed; its size is not to be trusted until that ends.
    Unsettled,
}

/// What reading DesiredP once more has shown (D-HOT-18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// Nothing to do.
    Unchanged,
    /// The template has to be assembled again with this value.
    Changed(u32),
}

/// What a normal provision takes over (D-PROV-11, D-PROV-12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// DesiredCapacity of the new stack.
    pub desired: u32,
    /// Why DesiredP was not taken over.
    pub warning: Option<String>,
}

/// The DesiredCapacity to write into the template (D-HOT-14): DesiredP, or DesiredT when no group is promoted.
///
/// # Errors
/// Not `MinSizeT <= DesiredP <= MaxSizeT`.
pub fn check(template: Sizes, promoted: Option<Sizes>) -> Result<u32, CapacityError> {
    let Some(Sizes { desired, .. }) = promoted else {
        return Ok(template.desired);
    };
    if (template.min..=template.max).contains(&desired) {
        Ok(desired)
    } else {
        Err(CapacityError {
            min: template.min,
            max: template.max,
            desired,
        })
    }
}

/// DesiredP was `planned` when the template was assembled and is `now` immediately before the update call.
///
/// # Errors
/// It changed and violates the rule now: the swap has to stop, unharmed.
pub fn recheck(template: Sizes, planned: u32, now: Sizes) -> Result<Recheck, CapacityError> {
    match check(template, Some(now))? {
        desired if desired == planned => Ok(Recheck::Unchanged),
        desired => Ok(Recheck::Changed(desired)),
    }
}

/// Scaling survives the weekly rebuild where the rule admits it.
pub fn take_over(template: Sizes, promoted: Option<Sizes>) -> TakeOver {
    match check(template, promoted) {
        Ok(desired) => TakeOver {
            desired,
            warning: None,
        },
        Err(e) => TakeOver {
            desired: template.desired,
            warning: Some(format!(
                "the running group has DesiredCapacity {}, outside of the template's MinSize {} and MaxSize {}: the new \
                 stack starts with the template's DesiredCapacity {}",
                e.desired, e.min, e.max, template.desired
            )),
        },
    }
}

/// Whether the group of a stack with this status tells DesiredP (D-HOT-16).
pub fn source(status: &StackStatus) -> Source {
    match status.standing() {
        Standing::Settled | Standing::RolledBack | Standing::RollbackFailed => Source::Group,
        Standing::Updating => Source::Unsettled,
        Standing::NotServing | Standing::Other => Source::Template,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_hot_13_the_message_gives_the_three_numbers_and_both_remedies() {
        let sizes = |min, max, desired| Sizes { min, max, desired };
        let message = check(sizes(11, 33, 20), Some(sizes(0, 50, 44)))
            .unwrap_err()
            .to_string();
        for part in [
            "DesiredCapacity 44",
            "MinSize 11",
            "MaxSize 33",
            "adjust the template's sizes",
            "without hot swap",
        ] {
            assert!(message.contains(part), "`{part}` is missing: {message}"); // D-HOT-13
        }
    }

    #[test]
    fn d_hot_16_only_settled_stacks_tell_the_size() {
        let source = |s| source(&StackStatus::new(s));
        for s in [
            "CREATE_COMPLETE",
            "UPDATE_COMPLETE",
            "UPDATE_ROLLBACK_COMPLETE",
            "UPDATE_ROLLBACK_FAILED",
        ] {
            assert_eq!(source(s), Source::Group, "D-HOT-16: {s}");
        }
        for s in [
            "UPDATE_IN_PROGRESS",
            "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
            "UPDATE_ROLLBACK_IN_PROGRESS",
            "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        ] {
            assert_eq!(source(s), Source::Unsettled, "{s}");
        }
        for s in [
            "CREATE_FAILED",
            "DELETE_IN_PROGRESS",
            "DELETE_FAILED",
            "ROLLBACK_COMPLETE",
            "CREATE_IN_PROGRESS",
        ] {
            assert_eq!(source(s), Source::Template, "{s}");
        }
    }

    #[test]
    fn d_hot_18_a_size_that_changed_before_the_update_is_taken_over_or_stops_the_swap() {
        let template = Sizes {
            min: 1,
            max: 3,
            desired: 1,
        };
        let now = |desired| Sizes {
            min: 1,
            max: 5,
            desired,
        };
        assert_eq!(recheck(template, 2, now(2)), Ok(Recheck::Unchanged)); // D-HOT-18
        assert_eq!(recheck(template, 2, now(3)), Ok(Recheck::Changed(3)));
        assert_eq!(
            recheck(template, 2, now(4)),
            Err(CapacityError {
                min: 1,
                max: 3,
                desired: 4
            })
        );
    }

    #[test]
    fn d_prov_11_a_rebuild_keeps_the_scaled_size_and_d_prov_12_warns_where_it_can_not() {
        let template = Sizes {
            min: 1,
            max: 30,
            desired: 2,
        };
        let running = |desired| {
            Some(Sizes {
                min: 1,
                max: 30,
                desired,
            })
        };
        assert_eq!(
            take_over(template, running(20)),
            TakeOver {
                desired: 20,
                warning: None
            }
        ); // D-PROV-11
        assert_eq!(
            take_over(template, None),
            TakeOver {
                desired: 2,
                warning: None
            }
        );
        let refused = take_over(template, running(31)); // D-PROV-12
        assert_eq!(refused.desired, 2);
        let warning = refused.warning.unwrap();
        assert!(
            warning.contains("31")
                && warning.contains("MinSize 1")
                && warning.contains("MaxSize 30"),
            "{warning}"
        );
    }

    proptest! {
        #[test]
        fn d_hot_13_the_answer_is_desired_p_exactly_when_it_lies_between_both_ends(min in 0u32..9, max in 0u32..9, t in 0u32..9, p in 0u32..9) {
            let template = Sizes { min, max, desired: t };
            let answer = check(template, Some(Sizes { min: 0, max: 9, desired: p }));
            let allowed = !(p < min || p > max);
            prop_assert_eq!(answer.ok(), allowed.then_some(p)); // D-HOT-13, D-HOT-14
            prop_assert_eq!(check(template, None), Ok(t));
        }
    }
}
