//! The host's scripts, run by a real shell with the machine's programs replaced by small ones.

use super::scenario::Scenario;
use contract::digest::Digest;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// A pretended agent: what it prints and how it ends.
const AGENT: &str = "#!/bin/sh\necho \"agent $1\"\n[ \"$1\" != boot ] || [ ! -e \"$0.broken\" ]\n";

struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// The bucket holds `in_bucket` as the agent; the template pins the SHA-256 of `AGENT`.
    fn new(in_bucket: &str) -> Self {
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
        };
        machine.write("bucket-agent", in_bucket);
        machine.program("aws", "[ \"$1 $2\" = 's3 cp' ] && cp bucket-agent \"$4\"");
        machine.program("cfn-signal", "printf '%s|' \"$@\" >>signals");
        machine.program("systemctl", "true");
        machine.program("useradd", "true");
        machine.write("wait-handle", "https://handle");
        machine
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn program(&self, name: &str, body: &str) {
        self.write(name, &format!("#!/bin/sh\n{body}\n"));
        let file = self.path().join(name);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Runs one of the two scripts as the template has it, with the machine's paths moved below the root.
    fn run(&self, script: &str, host_bootstrap: &str) -> Output {
        use sha2::Digest as _;
        let mut scenario = Scenario::target_group();
        scenario.agent.digest = Digest::from_bytes(&sha2::Sha256::digest(AGENT).into());
        scenario.host_bootstrap = host_bootstrap.into();
        let template: Value = serde_json::from_str(&scenario.assemble().unwrap().json).unwrap();
        let files = &template["Resources"]["LaunchTemplate"]["Metadata"]["AWS::CloudFormation::Init"]
            ["porter_host"]["files"];
        let root = self.path().display();
        let text = files[script]["content"]
            .as_str()
            .unwrap()
            .replace("/usr/bin/host-agent", &format!("{root}/host-agent"))
            .replace("/opt/aws/bin/", &format!("{root}/"))
            .replace("/etc/porter/", &format!("{root}/"))
            .replace("/var/log/", &format!("{root}/"));
        self.write("script", &text);
        Command::new("sh")
            .arg("script")
            .current_dir(self.path())
            .env("PATH", format!("{root}:/usr/bin:/bin:/usr/sbin:/sbin"))
            .output()
            .unwrap()
    }
}

#[test]
fn d_sec_26_the_agent_is_installed_when_its_digest_is_the_pinned_one() {
    // D-SEC-26
    let machine = Machine::new(AGENT);
    let output = machine.run("/usr/bin/porter_hotswap", "");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("agent hotswap\n"));
    // The next swap finds it: the bucket is not asked again.
    fs::remove_file(machine.path().join("bucket-agent")).unwrap();
    assert!(machine.run("/usr/bin/porter_hotswap", "").status.success());
}

#[test]
fn d_sec_26_another_binary_is_neither_installed_nor_run_and_the_old_one_stays() {
    // D-SEC-26
    let machine = Machine::new("#!/bin/sh\ntouch evil\n");
    machine.program("host-agent", "touch old-ran");
    let before = machine.read("host-agent");
    let output = machine.run("/usr/bin/porter_hotswap", "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("not the host-agent that the template pins")
    );
    assert_eq!(machine.read("host-agent"), before);
    for left in ["evil", "old-ran"] {
        assert!(!machine.path().join(left).exists(), "{left}");
    }
    let rest = fs::read_dir(machine.path()).unwrap();
    assert!(
        !rest
            .flatten()
            .any(|f| f.file_name().to_string_lossy().starts_with("host-agent."))
    );
}

#[test]
fn d_host_45_a_host_that_serves_signals_success_once() {
    // D-HOST-45
    let machine = Machine::new(AGENT);
    let output = machine.run("/usr/bin/porter_bootstrap", "echo from-the-hook >hooked");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        machine.read("signals"),
        "-s|true|-r|the host serves|https://handle|"
    );
    assert_eq!(machine.read("hooked"), "from-the-hook\n");
}

#[test]
fn d_host_45_a_failed_boot_signals_its_last_line_and_ends_with_its_status() {
    // D-HOST-45
    let machine = Machine::new(AGENT);
    machine.write("host-agent.broken", "");
    let output = machine.run("/usr/bin/porter_bootstrap", "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        machine.read("signals"),
        "-s|false|-r|host-agent boot failed with status 1. agent boot|https://handle|"
    );
}

#[test]
fn d_host_45_a_failing_bootstrap_hook_is_named_and_the_agent_does_not_start() {
    // D-HOST-45, D-HOST-37
    let machine = Machine::new(AGENT);
    let output = machine.run("/usr/bin/porter_bootstrap", "sh -c 'exit 7'");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let signal = machine.read("signals");
    assert!(
        signal.contains("the output of the ec2_bootstrap hooks failed with status 7"),
        "{signal}"
    );
    assert!(!machine.path().join("porter-boot.log").exists());
}

#[test]
fn a_scaled_out_host_whose_signal_is_refused_still_serves() {
    let machine = Machine::new(AGENT);
    machine.program("cfn-signal", "exit 1");
    assert!(
        machine
            .run("/usr/bin/porter_bootstrap", "")
            .status
            .success()
    );
}

#[test]
fn the_user_data_is_a_cloud_config_whose_script_a_shell_can_read() {
    // D-TPL-47
    let template: Value =
        serde_json::from_str(&Scenario::target_group().assemble().unwrap().json).unwrap();
    let data = &template["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"];
    let text = data["UserData"]["Fn::Base64"]["Fn::Sub"][0]
        .as_str()
        .unwrap();
    assert!(text.starts_with("#cloud-config\n"));
    let config: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
    let script = config["runcmd"][0].as_str().unwrap();
    let script = ["${HANDLE}", "${AWS::StackId}", "${AWS::Region}"]
        .iter()
        .fold(script.to_owned(), |s, name| s.replace(name, "value"));
    assert!(
        !script.contains("${"),
        "CloudFormation would take it for a name"
    );
    let output = Command::new("sh")
        .args(["-n", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
