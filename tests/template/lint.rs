//! cfn-lint has nothing to say about any template that we assemble.

use super::scenario;
use std::{env, path::PathBuf, process::Command};

/// `$CFN_LINT`, or `cfn-lint` on the path. Missing is a failure: a skipped check would look like a passed one.
fn cfn_lint() -> PathBuf {
    let named = env::var_os("CFN_LINT").map(PathBuf::from);
    let on_path = || {
        env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .map(|d| d.join("cfn-lint"))
            .find(|p| p.is_file())
    };
    match named.or_else(on_path) {
        Some(path) if path.is_file() => path,
        Some(path) => panic!("CFN_LINT names {}, which is not a file", path.display()),
        None => panic!(
            "cfn-lint is not installed: `python3 -m venv V && V/bin/pip install cfn-lint==1.58.0`, then set \
             CFN_LINT=V/bin/cfn-lint (`make test` does this)"
        ),
    }
}

#[test]
fn d_tpl_19_cfn_lint_has_no_error_and_no_warning_for_any_golden_template() {
    // D-TPL-19, D-TPL-24, D-TPL-44
    let lint = cfn_lint();
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, scenario) in scenario::all() {
        let file = folder.path().join(format!("{name}.json"));
        let assembled = scenario
            .assemble()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        std::fs::write(&file, assembled.json).unwrap();
        files.push(file);
    }
    let output = Command::new(&lint)
        .args([
            "--regions",
            "us-east-1",
            "--non-zero-exit-code",
            "warning",
            "--",
        ])
        .args(&files)
        .output()
        .unwrap_or_else(|e| panic!("{} can't be run: {e}", lint.display()));
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_linter_would_find_a_mistake() {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(
        file.path(),
        r#"{"Resources": {"Q": {"Type": "AWS::SQS::Queue", "Properties": {"Oops": 1}}}}"#,
    )
    .unwrap();
    let output = Command::new(cfn_lint())
        .arg("--")
        .arg(file.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Oops"));
}
