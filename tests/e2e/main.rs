//! Promises that only the whole can keep: the real `porter` and `host-agent`, real containers, a real HAProxy on each of
//! three simulated hosts, and an AWS API that we did not write.
//!
//! One local cloud serves all promises, one after the other: each deploys a service of its own and deletes its stack.
//! `cargo test --test e2e -- NAME` runs those whose name contains NAME.

mod aws;
mod cloud;
mod load;
mod promises;
mod realtime;
mod regions;
mod service;

use libtest_mimic::{Arguments, Failed, Trial};
use std::{process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share hosts' addresses, the Docker Engine and two cores.
    arguments.test_threads = Some(1);
    let cloud: Arc<std::sync::OnceLock<cloud::Cloud>> = Arc::default();
    let cloud_name = std::env::var("PORTER_LOCAL_NAME").unwrap_or_else(|_| "porter-e2e".to_owned());
    let trials = promises::ALL
        .iter()
        .chain(regions::ALL)
        .chain(realtime::ALL)
        .map(|(name, promise)| {
            let cloud = Arc::clone(&cloud);
            let cloud_name = cloud_name.clone();
            Trial::test(*name, move || {
                let cloud = cloud.get_or_init(|| cloud::Cloud::up(&cloud_name, 3));
                promise(cloud).map_err(Failed::from)
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(cloud) = cloud.get() {
        cloud.down();
    }
    conclusion.exit_code()
}
