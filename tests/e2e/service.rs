//! A service's repository for one promise: its configuration, a Dockerfile, a version, hooks.

use crate::cloud::{Cloud, Said};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use tempfile::TempDir;

pub struct Service {
    folder: TempDir,
    pub name: String,
    /// Lines below `hot_swap:`, six spaces deep.
    pub hot_swap: String,
    /// Lines below the region, four spaces deep.
    pub region: String,
    /// The agent's first look at a new container comes so much later.
    pub start_period: &'static str,
    /// Lines of the container, six spaces deep.
    pub container: String,
    /// The section `hooks:`.
    pub hooks: String,
    pub instance_count: u32,
    /// Where the hosts are promoted to: one line of the region, four spaces deep.
    pub destination: String,
    /// Also deploys to us-west-2.
    pub two_regions: bool,
    /// It is one of `examples/`, with a configuration of its own.
    example: bool,
}

impl Service {
    /// A repository at version v1, not yet packed.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::copy(server(), folder.path().join("server")).expect("the server is copied");
        fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY server /server\nCOPY version /version\nEXPOSE 8080\nENTRYPOINT [\"/server\"]\n").expect("written");
        fs::write(folder.path().join(".gitignore"), ".porter-tmp/\nseen/\n").expect("written");
        let service = Self {
            folder,
            name: name.to_owned(),
            hot_swap: "      prepare_timeout: 30s\n      drain_timeout: 3s\n      deadline: 2m\n"
                .to_owned(),
            region: String::new(),
            start_period: "0s",
            container: String::new(),
            hooks: String::new(),
            instance_count: 3,
            destination: "    target_group_arns: [\"${PORTER_LOCAL_TARGET_GROUP_ARN}\"]\n"
                .to_owned(),
            two_regions: false,
            example: false,
        };
        service.git(&["init", "-q"]);
        service.version("v1");
        service
    }

    /// The same with the real-time server in the container, which hands its connections over. Keys are for this test only.
    pub fn real_time(name: &str) -> Self {
        let mut service = Self::new(name);
        let server = Path::new(env!("CARGO_BIN_EXE_porter")).with_file_name("realtime");
        fs::copy(&server, service.path().join("server"))
            .unwrap_or_else(|e| panic!("{} is built by `make build`: {e}", server.display()));
        let (signing, api) = ("A".repeat(44), "k".repeat(40));
        let dockerfile = format!(
            "FROM scratch\nCOPY server /server\nCOPY version /version\nENV REALTIME_SIGNING_KEYS_1_KEY={signing} \
             REALTIME_API_KEYS={api}\nENTRYPOINT [\"/server\", \"serve\", \"--dev-echo\"]\n"
        );
        fs::write(service.path().join("Dockerfile"), dockerfile).expect("written");
        service.container = "      handover: true\n".to_owned();
        service.hot_swap += "      handover_bake: 1s\n";
        service.commit();
        service
    }

    /// A copy of one of `examples/`, as a repository of its own, not yet packed.
    pub fn example(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(name);
        // Without what a build or a deployment may have left there.
        let copied = Command::new("sh")
            .args([
                "-c",
                "cp -r . \"$0\" && rm -rf \"$0/build\" \"$0/.porter-tmp\"",
            ])
            .arg(folder.path())
            .current_dir(from)
            .status()
            .expect("sh runs");
        assert!(copied.success(), "examples/{name} can't be copied");
        let service = Self {
            folder,
            name: name.to_owned(),
            hot_swap: String::new(),
            region: String::new(),
            start_period: "0s",
            container: String::new(),
            hooks: String::new(),
            instance_count: 3,
            destination: String::new(),
            two_regions: false,
            example: true,
        };
        service.git(&["init", "-q"]);
        service.commit();
        service
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the configuration and the version, and commits them.
    pub fn version(&self, version: &str) {
        fs::write(self.path().join("version"), version).expect("written");
        self.commit();
    }

    /// The same with lines of its region.
    pub fn with_region(mut self, lines: &str) -> Self {
        self.region = lines.to_owned();
        self
    }

    /// An executable hook.
    pub fn hook(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path().join(name);
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    pub fn commit(&self) {
        if !self.example {
            fs::create_dir_all(self.path().join(".porter")).expect("created");
            fs::write(self.path().join(".porter/config"), self.config()).expect("written");
        }
        self.git(&["add", "-A"]);
        self.git(&[
            "-c",
            "user.name=e2e",
            "-c",
            "user.email=e2e@example.invalid",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "change",
        ]);
    }

    fn config(&self) -> String {
        let Self {
            name,
            hot_swap,
            region,
            start_period,
            container,
            hooks,
            instance_count,
            destination,
            two_regions,
            ..
        } = self;
        let containers = format!(
            "    containers:\n    - name: web\n      topology: inet\n      \
             health_check: {{path: /health, interval: 500ms, timeout: 2s, healthy: 2, start_period: {start_period}}}\n      stop_grace: 1s\n{container}"
        );
        let west = if *two_regions {
            format!(
                "  - name: us-west-2\n    s3_bucket: ${{PORTER_LOCAL_BUCKET_US_WEST_2}}\n{}    \
                 azs: [{{name: us-west-2a}}]\n{containers}",
                destination.replace("_ARN}", "_ARN_US_WEST_2}")
            )
        } else {
            String::new()
        };
        format!(
            "x-interpolate: true\nservice_name: {name}\nporter_version: v0.1.0\nenvironments:\n- name: stage\n  \
             role_arn: ${{PORTER_LOCAL_ROLE_ARN}}\n  instance_count: {instance_count}\n  hot_swap:\n{hot_swap}  regions:\n  - name: us-east-1\n    \
             s3_bucket: ${{PORTER_LOCAL_BUCKET}}\n{destination}    \
             azs: [{{name: us-east-1a}}]\n{region}{containers}{west}{hooks}"
        )
    }

    fn git(&self, args: &[&str]) {
        let done = Command::new("git")
            .args(args)
            .current_dir(self.path())
            .output()
            .expect("git runs");
        assert!(
            done.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// `porter build pack`.
    pub fn pack(&self, cloud: &Cloud) {
        self.succeed(cloud, &["build", "pack"]);
    }

    /// Packs, provisions and promotes: three hosts serve the present version.
    pub fn provisioned(&self, cloud: &Cloud) {
        self.pack(cloud);
        self.succeed(cloud, &["build", "provision", "-e", "stage"]);
        self.succeed(cloud, &["build", "promote"]);
    }

    /// Changes the version and packs it.
    pub fn packed(&self, cloud: &Cloud, version: &str) {
        self.version(version);
        self.pack(cloud);
    }

    pub fn run(&self, cloud: &Cloud, args: &[&str]) -> Said {
        cloud.porter(self.path(), args)
    }

    pub fn succeed(&self, cloud: &Cloud, args: &[&str]) -> Said {
        let said = self.run(cloud, args);
        assert_eq!(said.status, 0, "porter {args:?}: {}", said.all());
        said
    }

    /// The report of the last run.
    pub fn report(&self) -> serde_json::Value {
        let text = fs::read(self.path().join(".porter-tmp/hotswap_report.json")).expect("a report");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Id of the stack that the last run made or changed.
    pub fn stack(&self) -> String {
        self.stack_in("us-east-1")
    }

    pub fn stack_in(&self, region: &str) -> String {
        let text =
            fs::read(self.path().join(".porter-tmp/provision_state.json")).expect("a state file");
        let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        state["Regions"][region]["StackId"]
            .as_str()
            .expect("a stack id")
            .to_owned()
    }
}

/// The server's static binary, compiled once a run.
fn server() -> &'static Path {
    static SERVER: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SERVER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("server");
        let done = Command::new("rustc")
            .args([
                "--edition=2024",
                "-Cpanic=abort",
                "-Cstrip=symbols",
                "-Ctarget-feature=+crt-static",
                "-o",
            ])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/server.rs"))
            .output()
            .expect("rustc runs");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        (folder, path)
    });
    path
}
