//! One golden file per scenario: a change of the template is always seen in review.

use super::scenario;

#[test]
fn d_tpl_1_the_assembled_templates_are_those_in_the_golden_files() {
    // D-TPL-1
    for (name, scenario) in scenario::all() {
        let assembled = scenario
            .assemble()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        insta::with_settings!({snapshot_path => "../golden/template", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, assembled.json);
        });
    }
}
