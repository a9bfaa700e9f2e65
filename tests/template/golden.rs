//! One golden file per scenario: a change of the template is always seen in review.

use super::scenario;

#[test]
fn d_tpl_1_the_assembled_templates_are_those_in_the_golden_files() {
    // D-TPL-1, and what the files show of each part.
    // Resources: D-TPL-17, D-TPL-18, D-TPL-20, D-TPL-21, D-TPL-22, D-TPL-25, D-TPL-26, D-TPL-27, D-TPL-28, D-TPL-29.
    // Properties: D-TPL-31, D-TPL-34, D-TPL-39, D-TPL-40, D-TPL-41, D-TPL-42, D-TPL-45, D-HOT-73.
    // Files of hosts: D-HOST-38, D-HOST-40.
    for (name, scenario) in scenario::all() {
        let assembled = scenario
            .assemble()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        insta::with_settings!({snapshot_path => "../golden/template", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, assembled.json);
        });
    }
}
