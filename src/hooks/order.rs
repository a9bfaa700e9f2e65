//! Which hooks run together; pure.

use std::ops::Range;

/// Splits a list of hooks, of which each says whether it may run beside its neighbours, into groups that run one after
/// another; within a group all run together (D-HOOK-9).
pub fn groups(concurrent: &[bool]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (n, marked) in concurrent.iter().enumerate() {
        match groups.last_mut() {
            Some(last) if *marked && concurrent[last.start] => last.end = n + 1,
            _ => groups.push(n..n + 1),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_hook_10_the_documented_vectors() {
        // D-HOOK-9, D-HOOK-10
        assert_eq!(groups(&[false, true, false]), [0..1, 1..2, 2..3]);
        assert_eq!(groups(&[false, true, true, false]), [0..1, 1..3, 3..4]);
        assert_eq!(
            groups(&[true, true]),
            std::iter::once(0..2).collect::<Vec<_>>()
        );
        assert!(groups(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_hook_runs_once_in_order_and_unmarked_ones_alone(marks in prop::collection::vec(any::<bool>(), 0..12)) {
            let groups = groups(&marks);
            let all: Vec<usize> = groups.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..marks.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(group.len() == 1 || marks[group.clone()].iter().all(|m| *m));
            }
            for pair in groups.windows(2) {
                prop_assert!(!marks[pair[0].end - 1] || !marks[pair[1].start]);
            }
        }
    }
}
