//! What the integration tests of this crate share.

#![allow(dead_code, reason = "every test program uses its own part of this")]

use porter::config::model::Config;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A resolved configuration of one environment and one region with these containers (YAML flow mappings that are merged
/// over the defaults).
pub fn config(containers: &[&str]) -> Config {
    let containers: Vec<serde_yaml::Value> = containers
        .iter()
        .map(|yaml| {
            let mut container: serde_yaml::Value = serde_yaml::from_str(
                "{run: {name: web, image: web, topology: inet, inet_port: null, uid: 1001, read_only: true, pids_limit: 4096,
                  memory: null, nano_cpus: null, stop_grace_ms: 1000, swap_order: start_first,
                  health: {method: GET, path: /health, interval_ms: 100, timeout_ms: 1000, healthy: 1, start_period_ms: 0,
                           status: 200, exec: null}},
                 dockerfile: Dockerfile, dockerfile_build: Dockerfile.build, validate_build_args_exist: true}",
            )
            .unwrap();
            merge(&mut container, serde_yaml::from_str(yaml).unwrap());
            container
        })
        .collect();
    let yaml = format!(
        "{{service_name: packed, porter_version: v0.1.0, owner: ci, hooks: {{}}, environments: [{{name: stage, keep_images: 1,
            hot_swap: {{enabled: true, max_age_ms: 604800000, on_ineligible: provision, generation: '', deadline_ms: 60000,
                       prepare_timeout_ms: 60000, drain_timeout_ms: 1000, on_drain_timeout: close, suspend_scaling: true,
                       on_template_drift: provision, detect_interval_ms: 15000}},
            regions: [{{name: us-east-1, stack_definition_path: null, role_arn: null, external_id: null, instance_count: 1,
                instance_type: t3.small, ami: ami-1, key_pair_name: null, azs: [{{name: us-east-1a, subnet_id: null}}], vpc_id: null,
                s3_bucket: bucket, sse_kms_key_id: null, load_balancer: none, ssl_cert_arn: null, hosted_zone_name: null,
                autowire_security_groups: true, security_group_egress: [], permissions_boundary: null,
                haproxy: {{behind_load_balancer: false, request_header_captures: [], response_header_captures: [], log: true,
                    compression: false, compress_types: [], timeouts: {{}}, maxconn: 1000, https_redirect: false, https_only: false,
                    stats_bind: null}},
                containers: {}}}]}}]}}",
        serde_json::to_string(&containers).unwrap()
    );
    serde_yaml::from_str(&yaml).unwrap()
}

fn merge(into: &mut serde_yaml::Value, from: serde_yaml::Value) {
    match (into, from) {
        (serde_yaml::Value::Mapping(into), serde_yaml::Value::Mapping(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_yaml::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A folder that goes when this is dropped, with the names of the images that were packed from it.
pub struct Repository(tempfile::TempDir);

impl Repository {
    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let manifest =
            fs::read(self.path().join(".porter-tmp/payload/manifest.json")).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
        for image in manifest["images"]
            .as_object()
            .into_iter()
            .flat_map(|images| images.values())
        {
            // Parents stay: a build of another test may just be using them.
            let reference = image["reference"].as_str().unwrap_or_default();
            drop(
                Command::new("docker")
                    .args(["rmi", "--force", "--no-prune", reference])
                    .output(),
            );
        }
    }
}

/// A git repository with these files, all committed at a fixed time.
pub fn repository(files: &[(&str, &[u8])]) -> Repository {
    let root = Repository(tempfile::tempdir().unwrap());
    for (name, content) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    git(root.path(), &["init", "--quiet"]);
    commit(root.path());
    root
}

/// Commits everything.
pub fn commit(root: &Path) {
    git(root, &["add", "--all"]);
    git(
        root,
        &[
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            "a change",
        ],
    );
}

/// Runs git with a fixed identity and time.
pub fn git(root: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@example.com",
            "-C",
        ])
        .arg(root)
        .args(args)
        .env("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z")
        .env("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
        .output()
        .expect("these tests need git");
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Compiles a program that needs no file but itself. Callers use different names, or one after the other.
pub fn static_program(name: &str, source: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (text, binary) = (folder.join(format!("{name}.rs")), folder.join(name));
    if fs::read_to_string(&text).is_ok_and(|old| old == source) && binary.exists() {
        return binary;
    }
    let compiled = folder.join(format!("{name}.new"));
    let unfinished = folder.join(format!("{name}-new.rs"));
    fs::write(&unfinished, source).unwrap();
    let status = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .args([&compiled, &unfinished])
        .status()
        .expect("these tests need rustc");
    assert!(status.success());
    fs::rename(compiled, &binary).unwrap();
    fs::rename(unfinished, text).unwrap();
    binary
}
