//! PID 1 of a simulated host: makes its root file system from the machine's own, goes into it, starts the guest, and
//! reaps what the host's processes leave behind. Dies when the fleet dies, and everything in the host with it.

use crate::{
    host::Boot,
    image,
    place::{read_json, write_json},
    process::Process,
};
use anyhow::{Context, Result, bail};
use rustix::{
    mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount},
    process::{WaitOptions, chroot},
};
use std::{
    env,
    ffi::CString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// Where this program is inside the host; the stand-ins are links to it.
pub const PROGRAM: &str = "/opt/aws/stand-in";

/// Runs the host of this directory until its guest ends.
///
/// # Errors
/// Its root can't be made, or the guest ended: a host without it is of no use.
pub fn run(dir: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("a host runs as PID 1 of its own namespace; it is started by the fleet");
    }
    // The parent's /proc is still mounted here, and shows this process under the machine's number.
    let outer: i32 = fs::read_link("/proc/self")?.to_string_lossy().parse()?;
    let process = Process::running(outer).context("/proc is not that of this machine")?;
    let boot: Boot = read_json(&dir.join("boot.json"))?;
    let program = env::current_exe()?;
    let root = make_root(dir, &boot, &program)?;
    write_json(&dir.join("init.json"), &process)?;
    chroot(&root)?;
    env::set_current_dir("/")?;
    let guest = Command::new(PROGRAM)
        .args([crate::entry::HIDDEN, "guest"])
        .spawn()
        .context("the guest was not started")?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status)))
                if u32::try_from(pid.as_raw_nonzero().get()) == Ok(guest.id()) =>
            {
                bail!("the guest ended: {status:?}");
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => bail!("waiting for the host's processes: {e}"),
        }
    }
}

fn make_root(dir: &Path, boot: &Boot, program: &Path) -> Result<PathBuf> {
    let (upper, work, root) = (dir.join("upper"), dir.join("work"), dir.join("root"));
    for d in [&upper, &work, &root] {
        fs::create_dir_all(d)?;
    }
    image::write(&upper, boot)?;
    let layers = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount("overlay", &root, "overlay", MountFlags::empty(), Some(CString::new(layers)?.as_c_str())).with_context(|| {
        format!(
            "overlay at {}: the file system of this directory can't hold an upper layer; set XDG_STATE_HOME to a directory on ext4, xfs, btrfs or tmpfs",
            root.display()
        )
    })?;
    let at = |path: &str| root.join(path);
    mount(
        "proc",
        at("proc"),
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .context("/proc")?;
    mount_bind_recursive("/dev", at("dev")).context("/dev")?;
    mount_bind_recursive("/sys", at("sys")).context("/sys")?;
    // The kernel and the network are the machine's: a host must not turn their knobs.
    mount_remount(at("sys"), MountFlags::BIND | MountFlags::RDONLY, c"")
        .context("/sys, read-only")?;
    mount_bind(at("proc/sys"), at("proc/sys")).context("/proc/sys")?;
    mount_remount(at("proc/sys"), MountFlags::BIND | MountFlags::RDONLY, c"")
        .context("/proc/sys, read-only")?;
    mount(
        "tmpfs",
        at("run"),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755"),
    )
    .context("/run")?;
    fs::create_dir_all(at("run/lock"))?;
    // The machine's engine mounts folders of this one into containers, so it must see it, too.
    let sockets = image::sockets(dir);
    fs::create_dir_all(&sockets)?;
    fs::create_dir_all(at("run/porter"))?;
    mount_bind(&sockets, at("run/porter")).context("/run/porter")?;
    let data = image::data(dir);
    fs::create_dir_all(&data)?;
    fs::create_dir_all(at("var/lib/porter-data"))?;
    mount_bind(&data, at("var/lib/porter-data")).context("/var/lib/porter-data")?;
    show_engine(&boot.docker_socket, &root)?;
    let inside = at(PROGRAM.trim_start_matches('/'));
    bind_file(program, &inside)?;
    mount_remount(&inside, MountFlags::BIND | MountFlags::RDONLY, c"")
        .context("stand-in, read-only")?;
    Ok(root)
}

/// The engine makes its socket anew whenever it starts, so hosts see the directory, not the one socket of today.
fn show_engine(socket: &Path, root: &Path) -> Result<()> {
    let socket = fs::canonicalize(socket).with_context(|| socket.display().to_string())?;
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        bail!("{} is no socket", socket.display());
    };
    let inside = Path::new("/run/machine");
    let point = root.join("run/machine");
    fs::create_dir_all(&point)?;
    mount_bind(dir, &point).with_context(|| format!("binding {}", dir.display()))?;
    mount_remount(&point, MountFlags::BIND | MountFlags::RDONLY, c"")
        .context("the engine's directory, read-only")?;
    symlink(inside.join(name), root.join("run/docker.sock")).context("/run/docker.sock")
}

fn bind_file(from: &Path, to: &Path) -> Result<()> {
    if !to.exists() {
        fs::write(to, "")?;
    }
    mount_bind(from, to).with_context(|| format!("binding {}", from.display()))
}
