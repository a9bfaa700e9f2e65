//! What runs in a simulated host beside its services: the metadata service, the service manager behind `systemctl`, and
//! cloud-init on the first start.

use crate::{
    cloud_init,
    host::{Boot, BootStatus, HostState, METADATA_PORT, STATUS_FILE},
    metadata, place,
    systemd::{self, Manager},
};
use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{fs, path::Path, sync::Arc};
use tokio::net::TcpListener;

/// Runs the guest; ends only on failure.
///
/// # Errors
/// The metadata address is taken, or the service manager's socket can't be made.
pub async fn run() -> Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).context("number of open files")?;
    let boot: Boot = place::read_json(Path::new("/var/lib/porter-host/boot.json"))?;
    let metadata = TcpListener::bind((boot.address.as_str(), METADATA_PORT))
        .await
        .with_context(|| format!("metadata service at {}:{METADATA_PORT}", boot.address))?;
    let metadata = tokio::spawn(metadata::serve(metadata, metadata::facts(&boot)));
    let manager = Arc::new(Manager::default());
    let services = tokio::spawn(systemd::serve(Arc::clone(&manager)));
    manager.start_enabled().await;
    let done = Path::new("/var/lib/cloud/instance/boot-finished");
    if !done.exists() {
        status(HostState::Booting, vec![])?;
        let errors = cloud_init::run(&boot.user_data).await;
        fs::write(done, "")?;
        status(
            if errors.is_empty() {
                HostState::Running
            } else {
                HostState::Failed
            },
            errors,
        )?;
    }
    tokio::select! {
        ended = metadata => ended?.context("metadata service"),
        ended = services => ended?.context("service manager"),
    }
}

fn status(state: HostState, errors: Vec<String>) -> Result<()> {
    let path = Path::new("/").join(STATUS_FILE);
    fs::create_dir_all(path.parent().context("no parent")?)?;
    place::write_json(&path, &BootStatus { state, errors })
}
