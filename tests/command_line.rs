//! The program as scripts and people meet it before any deployment: help, errors, results, exit statuses.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

const CONFIG: &str = "
service_name: shop
porter_version: v0.1.0
environments:
- name: stage
  role_arn: arn:aws:iam::123456789012:role/deploy
  regions:
  - {name: us-east-1, s3_bucket: shop, azs: [{name: us-east-1a}]}
hooks:
  pre_pack: [{executable: fails}]
";

fn porter(folder: &Path) -> Command {
    let mut porter = Command::new(env!("CARGO_BIN_EXE_porter"));
    porter
        .current_dir(folder)
        .env_remove("DEV_MODE")
        .env_remove("RUST_BACKTRACE");
    porter
}

fn run(folder: &Path, args: &[&str]) -> Output {
    porter(folder).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder with this configuration, and a hook `fails` that does what its name says.
fn repository(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".porter")).unwrap();
    fs::write(folder.path().join(".porter/config"), config).unwrap();
    let hook = folder.path().join("fails");
    fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn d_cli_1_a_wrong_call_says_what_is_wrong_on_stderr_prints_the_help_on_stdout_and_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(folder.path(), &["build", "provison", "-e", "stage"]);
    // D-CLI-1, D-CLI-2
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stdout).contains("Usage: porter build [OPTIONS] <COMMAND>"));
    let wrong = text(&said.stderr);
    assert!(wrong.contains("unrecognized subcommand 'provison'"));
    assert!(wrong.contains("a similar subcommand exists: 'provision'"));
    assert!(!wrong.contains("Options:"), "{wrong}");
}

#[test]
fn d_cli_1_porter_alone_prints_its_help_once() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&[][..], &["build"], &["local"]] {
        let said = run(folder.path(), args);
        assert_eq!(said.status.code(), Some(2)); // D-CLI-1
        assert_eq!(text(&said.stdout).matches("Usage:").count(), 1, "{args:?}");
        assert_eq!(text(&said.stderr), "", "{args:?}");
    }
    let help = run(folder.path(), &["build", "pack", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--require-clean"));
}

#[test]
fn d_cli_4_with_output_json_stdout_is_one_document_also_for_an_error() {
    let folder = repository(&CONFIG.replace("  pre_pack", "  pre_pck"));
    let read = |said: &Output| serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap();
    // D-CLI-4
    let said = run(folder.path(), &["config", "check", "--output", "json"]);
    assert_eq!(said.status.code(), Some(0));
    assert_eq!(read(&said)["service"], "shop");
    assert!(read(&said)["notes"].to_string().contains("pre_pck"));
    let said = run(folder.path(), &["version", "--output", "json"]);
    assert_eq!(read(&said)["version"], env!("CARGO_PKG_VERSION"));
    // Progress goes to stderr.
    let failing = repository(CONFIG);
    let said = run(failing.path(), &["build", "pack", "--output", "json"]);
    assert_eq!(read(&said)["error"]["exit"], "hook");
    assert!(text(&said.stderr).contains("[1/3] call the pre_pack hook"));
    let said = run(folder.path(), &["build", "promote", "--output", "json"]);
    assert_eq!(said.status.code(), Some(1));
    let error = &read(&said)["error"];
    assert_eq!(error["exit"], "failure");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("porter build provision")
    );
}

#[test]
fn d_cfg_113_in_a_blackout_nothing_runs_not_even_a_hook_unless_somebody_says_why() {
    let window = "  blackout_windows: [{start_time: \"2020-01-01T00:00:00Z\", end_time: \"2999-01-01T00:00:00Z\"}]\n  regions";
    let folder = repository(&CONFIG.replace("  regions", window));
    let said = run(folder.path(), &["build", "pack"]);
    // D-CFG-113, D-CLI-2
    assert_eq!(said.status.code(), Some(3));
    assert!(!text(&said.stderr).contains("hook"), "{said:?}");
    let reason = ["build", "pack", "--override-blackout", "the site is down"];
    let said = run(folder.path(), &reason);
    assert_eq!(
        said.status.code(),
        Some(7),
        "the hook was reached: {said:?}"
    );
    assert!(text(&said.stderr).contains("the site is down"), "{said:?}");
}

#[test]
fn d_cli_15_clean_removes_what_pack_left_and_may_be_repeated() {
    let folder = repository(CONFIG);
    let out = folder.path().join(".porter-tmp");
    fs::create_dir_all(out.join("payload")).unwrap();
    for _ in 0..2 {
        let said = run(folder.path(), &["build", "clean"]);
        assert!(said.status.success(), "{said:?}");
        assert!(!out.exists()); // D-CLI-15
    }
    assert!(folder.path().join(".porter/config").exists());
}

#[test]
fn d_cli_31_version_prints_the_version() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["version"][..], &["--version"]] {
        let said = run(folder.path(), args);
        // D-CLI-31
        assert!(said.status.success());
        assert!(
            text(&said.stdout)
                .trim_end()
                .ends_with(env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let folder = repository(CONFIG);
    for args in [
        &["config", "show", "-e", "stage"][..],
        &["version"],
        &["local", "status", "--name", "nobody"],
    ] {
        let mut child = porter(folder.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "", "{args:?}");
        assert!(child.wait().unwrap().success(), "{args:?}");
    }
}

#[test]
fn a_pack_that_fails_is_never_followed_by_a_deployment_of_what_was_packed_before() {
    for (config, status) in [(CONFIG.to_owned(), 7), (CONFIG.replace("azs", "asz"), 1)] {
        let folder = repository(&config);
        let record = folder.path().join(".porter-tmp/payload.json");
        fs::create_dir(record.parent().unwrap()).unwrap();
        fs::write(&record, "{}").unwrap();
        let packed = run(folder.path(), &["build", "pack"]);
        assert_eq!(packed.status.code(), Some(status), "{packed:?}");
        assert!(!record.exists());
        let deployed = run(folder.path(), &["build", "provision", "-e", "stage"]);
        assert_eq!(deployed.status.code(), Some(1));
        let said = text(&deployed.stderr);
        assert!(said.contains("run `porter build pack` first"), "{said}");
    }
}

#[test]
fn variables_of_a_local_cloud_that_are_not_set_are_explained() {
    let folder = repository(
        &CONFIG
            .replace("service_name", "x-interpolate: true\nservice_name")
            .replace("s3_bucket: shop", "s3_bucket: \"${PORTER_LOCAL_BUCKET}\""),
    );
    let said = porter(folder.path())
        .args(["config", "check"])
        .env_remove("PORTER_LOCAL_BUCKET")
        .output()
        .unwrap();
    let said = text(&said.stderr);
    assert!(
        said.contains("the variable `PORTER_LOCAL_BUCKET` is not set"),
        "{said}"
    );
    assert!(
        said.contains("hint: `eval \"$(porter local env)\"`"),
        "{said}"
    );
}
