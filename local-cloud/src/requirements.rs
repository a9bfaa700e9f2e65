//! What this machine must have; everything that is missing is said in one error.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Something is missing on this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}{}{}", Self::SUMMARY, lines(.problems), self.install().map(|c| format!("\nhint: on Debian and Ubuntu: `{c}`")).unwrap_or_default())]
pub struct Missing {
    /// One line each.
    pub problems: Vec<String>,
    /// Debian and Ubuntu packages that bring the missing programs.
    pub packages: Vec<&'static str>,
}

fn lines(problems: &[String]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

/// The Docker Engine's socket: that of `DOCKER_HOST` when it is a Unix socket, else the usual one.
pub fn docker_socket() -> PathBuf {
    env::var("DOCKER_HOST")
        .ok()
        .and_then(|host| host.strip_prefix("unix://").map(PathBuf::from))
        .unwrap_or_else(|| "/var/run/docker.sock".into())
}

/// Checks this machine.
///
/// # Errors
/// [`Missing`], with everything that is missing.
pub fn check() -> Result<(), Missing> {
    check_with(&env::var_os("PATH").unwrap_or_default(), &docker_socket())
}

fn check_with(path: &OsStr, docker: &Path) -> Result<(), Missing> {
    let mut missing = Missing {
        problems: vec![],
        packages: vec![],
    };
    let find = |program: &str| find(program, path);
    if UnixStream::connect(docker).is_err() {
        if find("dockerd").is_none() && !docker.exists() {
            missing.add("Docker Engine: there is no `dockerd`", "docker.io");
        } else {
            missing.problems.push(format!(
                "Docker Engine: it does not answer at {}; start it (`sudo systemctl start docker`), or run as a user of the group `docker`",
                docker.display()
            ));
        }
    }
    if find("haproxy").is_none() {
        missing.add("HAProxy: there is no `haproxy`", "haproxy");
    }
    match find("python3") {
        None => {
            missing.add("Python: there is no `python3`", "python3");
            missing.packages.push("python3-venv");
        }
        Some(python) => {
            let modern = "import sys; sys.exit(sys.version_info < (3, 10))";
            if !succeeds(Command::new(&python).args(["-c", modern])) {
                missing.problems.push(format!(
                    "Python: {} is older than 3.10, which MiniStack needs",
                    python.display()
                ));
            } else if !succeeds(Command::new(&python).args(["-c", "import venv, ensurepip"])) {
                missing.add(
                    "Python: the modules `venv` and `ensurepip` are missing",
                    "python3-venv",
                );
            }
        }
    }
    match (find("unshare"), find("setpriv")) {
        (Some(unshare), Some(_)) => {
            if !rustix::process::getuid().is_root() {
                missing.problems.push("root: hosts have namespaces, an overlay file system and system services of their own; run as root".into());
            } else if !succeeds(Command::new(unshare).args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "true",
            ])) {
                missing.problems.push("namespaces: `unshare --mount --pid` is refused on this machine; inside a container, run it with --privileged".into());
            }
        }
        _ => missing.add(
            "util-linux: there is no `unshare` or no `setpriv`",
            "util-linux",
        ),
    }
    if !fs::read_to_string("/proc/filesystems")
        .is_ok_and(|f| f.lines().any(|l| l.ends_with("\toverlay")))
        && !succeeds(Command::new("modprobe").arg("overlay"))
    {
        missing
            .problems
            .push("overlay: this kernel has no overlay file system".into());
    }
    if missing.problems.is_empty() {
        Ok(())
    } else {
        Err(missing)
    }
}

impl Missing {
    /// What all of it means.
    pub const SUMMARY: &str = "this machine lacks what the local cloud needs";

    /// The command that installs the missing packages; none when no package would help.
    pub fn install(&self) -> Option<String> {
        (!self.packages.is_empty())
            .then(|| format!("sudo apt-get install {}", self.packages.join(" ")))
    }

    fn add(&mut self, problem: &str, package: &'static str) {
        self.problems.push(problem.to_owned());
        self.packages.push(package);
    }
}

/// The first executable of this name, in `path` and in the directories of administrators' programs, which are often
/// missing in a user's `PATH`; those only when `path` has anything at all.
pub fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    let admin = if path.is_empty() {
        ""
    } else {
        "/usr/local/sbin:/usr/sbin:/sbin"
    };
    let system = env::split_paths(path).any(|p| p.starts_with("/usr") || p.starts_with("/bin"));
    env::split_paths(path)
        .chain(env::split_paths(admin).filter(|_| system))
        .map(|dir| dir.join(program))
        .find(|file| {
            fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_at_once_with_its_packages() {
        let empty = tempfile::tempdir().unwrap();
        let error =
            check_with(empty.path().as_os_str(), &empty.path().join("docker.sock")).unwrap_err();
        assert_eq!(
            error.packages,
            [
                "docker.io",
                "haproxy",
                "python3",
                "python3-venv",
                "util-linux"
            ]
        );
        let text = error.to_string();
        assert!(text.starts_with("this machine lacks what the local cloud needs\n  Docker Engine: there is no `dockerd`\n"), "{text}");
        assert!(
            text.ends_with(
                "`sudo apt-get install docker.io haproxy python3 python3-venv util-linux`"
            ),
            "{text}"
        );
    }

    #[test]
    fn an_engine_that_does_not_answer_is_not_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = check_with(dir.path().as_os_str(), &socket).unwrap_err();
        assert!(!error.packages.contains(&"docker.io"));
        assert!(
            error.problems[0].contains("does not answer")
                && error.problems[0].contains("docker.sock"),
            "{}",
            error.problems[0]
        );
    }
}
