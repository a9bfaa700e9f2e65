//! The "machine image" of simulated hosts: what differs from the machine below them. The programs that an Amazon Linux
//! image has, as links to the stand-ins; units of packages; directories of the machine that hosts must not see.

use crate::{
    host::{Boot, FORWARDED_HTTPS_PORT, HTTP_PORT},
    init::PROGRAM,
    stand_ins,
};
use anyhow::{Context, Result};
use rustix::fs::XattrFlags;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Directories that start empty: the machine's users, logs, temporary files and services are not the hosts'.
const EMPTY: &[(&str, u32)] = &[
    ("etc/cfn", 0o755),
    ("etc/haproxy", 0o755),
    ("etc/porter", 0o755),
    ("etc/systemd/system", 0o755),
    ("home", 0o755),
    ("opt/aws", 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
    ("usr/lib/systemd/system", 0o755),
    ("var/lib/cfn-hup", 0o755),
    ("var/lib/cfn-init", 0o755),
    ("var/lib/cloud", 0o755),
    ("var/lib/docker", 0o710),
    ("var/lib/haproxy", 0o755),
    ("var/lib/porter", 0o700),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// The unit that the package aws-cfn-bootstrap brings.
const CFN_HUP_UNIT: &str = "[Unit]\nDescription=cfn-hup daemon\n\n[Service]\nType=simple\nExecStart=/opt/aws/bin/cfn-hup\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n";

/// Where the sockets of a host's containers are on this machine; the host has them as `/run/porter`.
pub fn sockets(host: &Path) -> PathBuf {
    host.join("sockets")
}

/// Where the data of a host's containers is on this machine; the host has it as `/var/lib/porter-data`.
pub fn data(host: &Path) -> PathBuf {
    host.join("data")
}

/// Writes the image into the upper layer. A host that starts again keeps what it has written.
///
/// # Errors
/// The layer can't be written.
pub fn write(upper: &Path, boot: &Boot) -> Result<()> {
    if upper.join("etc/porter/machine.json").exists() {
        return Ok(());
    }
    for (dir, mode) in EMPTY {
        let path = upper.join(dir);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        // Hides what the machine has at this place.
        rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .with_context(|| {
                format!(
                    "{}: the file system takes no `trusted.` attributes",
                    path.display()
                )
            })?;
    }
    for parent in [
        "etc",
        "etc/systemd",
        "opt",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib/systemd",
        "var",
        "var/lib",
    ] {
        fs::create_dir_all(upper.join(parent))?;
        fs::set_permissions(upper.join(parent), fs::Permissions::from_mode(0o755))?;
    }
    fs::create_dir_all(upper.join("opt/aws/bin"))?;
    fs::write(upper.join(PROGRAM.trim_start_matches('/')), "")?;
    for (dir, names) in [
        ("opt/aws/bin", stand_ins::CFN_TOOLS),
        ("usr/bin", stand_ins::SYSTEM_TOOLS),
    ] {
        for name in names {
            symlink(PROGRAM, upper.join(dir).join(name)).with_context(|| (*name).to_owned())?;
        }
    }
    fs::write(
        upper.join("usr/lib/systemd/system/cfn-hup.service"),
        CFN_HUP_UNIT,
    )?;
    fs::write(upper.join("etc/hostname"), format!("{}\n", boot.instance))?;
    let machine = serde_json::json!({
        "bind_address": boot.address,
        "http_port": HTTP_PORT,
        "forwarded_https_port": FORWARDED_HTTPS_PORT,
        "publish_address": boot.address,
        "engine_sockets": upper.parent().map(sockets),
        "engine_data": upper.parent().map(data),
    });
    fs::write(
        upper.join("etc/porter/machine.json"),
        serde_json::to_vec_pretty(&machine)?,
    )?;
    fs::create_dir_all(upper.join("var/lib/porter-host"))?;
    fs::write(
        upper.join("var/lib/porter-host/boot.json"),
        serde_json::to_vec(boot)?,
    )?;
    Ok(())
}
