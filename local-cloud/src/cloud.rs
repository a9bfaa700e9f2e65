//! A local cloud as its users see it: up, down, what runs.

use crate::{
    emulator, fleet,
    host::{self, HostInfo},
    place::{self, CloudFile, Place},
    process::{Process, owned_by},
    requirements,
    settings::Settings,
};
use anyhow::{Context, Result, bail};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    query_parameters::{
        ListContainersOptionsBuilder, ListImagesOptions, ListNetworksOptions,
        RemoveContainerOptionsBuilder, RemoveImageOptions,
    },
};
use contract::names::label;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::Signal,
};
use std::{
    collections::HashMap,
    env, fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The engine's network that host agents use for containers.
const NETWORK: &str = "porter";
/// MiniStack's start, buckets and all, on a slow machine.
const UP_WITHIN: Duration = Duration::from_secs(120);
const DOWN_WITHIN: Duration = Duration::from_secs(20);

/// How a cloud is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Exported as `PORTER_LOCAL_HOSTS` for configurations to use; groups decide themselves how many they have.
    pub hosts: u32,
    /// How often hosts look for a changed stack. The real cfn-hup needs at least a minute.
    pub poll: Duration,
    /// Regions to follow; the first is the default one.
    pub regions: Vec<String>,
    /// A program whose `main` calls [`crate::entry::run`].
    pub program: PathBuf,
    /// The cloud takes itself down when this process ends: for tests.
    pub owner: Option<Process>,
}

impl Options {
    /// One host, polled every second, in us-east-1, by the running program.
    ///
    /// # Errors
    /// The running program can't be found.
    pub fn new() -> Result<Self> {
        Ok(Self {
            hosts: 1,
            poll: Duration::from_secs(1),
            regions: vec!["us-east-1".into()],
            program: env::current_exe().context("the running program")?,
            owner: None,
        })
    }
}

/// A cloud that is up.
#[derive(Clone, Debug)]
pub struct Cloud {
    place: Place,
    file: CloudFile,
}

impl Cloud {
    /// Starts the cloud of this place, or finds that it is up. What is left of one that was killed is removed first.
    ///
    /// # Errors
    /// The machine lacks something ([`requirements::Missing`]), or a part did not start; the error has the log's end.
    pub async fn up(place: &Place, options: &Options, progress: &dyn Fn(&str)) -> Result<Self> {
        requirements::check()?;
        let lock = place.lock()?;
        if let Some(cloud) = Self::find(place) {
            return Ok(cloud);
        }
        remove_leftovers(place).await?;
        let python = emulator::install(&place.cache, progress)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place.state)
            .with_context(|| place.state.display().to_string())?;
        fs::set_permissions(&place.state, fs::Permissions::from_mode(0o700))?;
        let settings = Settings {
            hosts: options.hosts,
            poll_ms: u64::try_from(options.poll.as_millis())?,
            regions: options.regions.clone(),
            python,
            owner: options.owner,
        };
        place::write_json(&place.file("settings.json"), &settings)?;
        let program = place.file("program");
        fs::copy(&options.program, &program)
            .with_context(|| options.program.display().to_string())?;
        progress("starting the local cloud");
        let log = fs::File::create(place.file("fleet.log"))?;
        let mut fleet = Command::new(&program)
            .args([crate::entry::HIDDEN, "fleet", &place.name])
            .args([&place.state, &place.cache])
            .current_dir("/")
            .env(crate::process::OWNER, &place.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the fleet was not started")?;
        let begun = Instant::now();
        loop {
            if let Some(cloud) = Self::find(place) {
                drop(lock);
                return Ok(cloud);
            }
            let ended = fleet.try_wait()?;
            if ended.is_some() || begun.elapsed() > UP_WITHIN {
                let why = fs::read_to_string(place.file("failed"))
                    .unwrap_or_else(|_| emulator::tail(&place.file("fleet.log"), 15));
                remove_leftovers(place).await?;
                bail!("the local cloud did not start: {why}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The cloud of this place, when it is up.
    pub fn find(place: &Place) -> Option<Self> {
        place.fleet()?;
        let file = place.cloud().filter(|c| c.emulator.is_alive())?;
        Some(Self {
            place: place.clone(),
            file,
        })
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> &str {
        &self.file.endpoint
    }

    /// What it says about itself: regions, exported variables.
    pub fn about(&self) -> &CloudFile {
        &self.file
    }

    /// Where its files are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// SDK configuration that leads here, in a region.
    pub async fn sdk_config(&self, region: &str) -> aws_config::SdkConfig {
        emulator::sdk_config(&self.file.endpoint, region).await
    }

    /// Its hosts, with the payloads that their containers run.
    pub async fn hosts(&self) -> Vec<HostInfo> {
        hosts(&self.place).await
    }

    /// Terminates an instance through its Auto Scaling group, which replaces it, or becomes smaller by one.
    ///
    /// # Errors
    /// The instance is in no group, or the group must not become smaller.
    pub async fn terminate_instance(&self, instance: &str, replace: bool) -> Result<()> {
        let region = host::info(&self.place, instance)?.region;
        let client = aws_sdk_autoscaling::Client::new(&self.sdk_config(&region).await);
        let call = client
            .terminate_instance_in_auto_scaling_group()
            .instance_id(instance);
        call.should_decrement_desired_capacity(!replace)
            .send()
            .await
            .map_err(|e| {
                anyhow::anyhow!(
                    "{instance} was not terminated: {}",
                    aws_sdk_autoscaling::error::DisplayErrorContext(&e)
                )
            })?;
        Ok(())
    }

    /// Pulls a host's plug: everything in it dies at once, while its group still counts it.
    pub fn crash(&self, instance: &str) {
        host::stop(&self.place.host(instance));
    }

    /// Restarts a host: its root stays, its processes go, enabled services start again.
    ///
    /// # Errors
    /// There is no such host.
    pub fn reboot(&self, instance: &str) -> Result<()> {
        let file = self.place.host(instance).join("reboot");
        fs::write(&file, "").with_context(|| format!("{instance} is not a host of this cloud"))
    }

    /// Takes the cloud of this place down, whatever is left of it. Says what was removed.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn down(place: &Place) -> Result<bool> {
        let lock = place.lock()?;
        let existed = place.state.exists();
        if let Some(fleet) = place.fleet() {
            fleet.signal(Signal::TERM);
            wait_for_end(&[fleet]).await;
        }
        remove_leftovers(place).await?;
        drop(lock);
        // Only when no other cloud's directory is in them.
        for dir in place.state.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(dir);
        }
        Ok(existed)
    }
}

/// The hosts of a place, with the payloads that their containers run as far as the engine says.
pub async fn hosts(place: &Place) -> Vec<HostInfo> {
    let mut hosts: Vec<HostInfo> = place
        .hosts()
        .iter()
        .filter_map(|id| host::info(place, id).ok())
        .collect();
    let Ok(docker) = docker().await else {
        return hosts;
    };
    for container in containers(&docker, false).await.unwrap_or_default() {
        let labels = container.labels.unwrap_or_default();
        if let Some(host) = hosts
            .iter_mut()
            .find(|h| labels.get(label::INSTANCE) == Some(&h.instance))
        {
            host.payload = labels.get(label::PAYLOAD).cloned();
        }
    }
    hosts.sort_by(|a, b| a.address.cmp(&b.address));
    hosts
}

/// Removes what is left of a cloud whose fleet has ended or was killed: processes, containers, network, mounts, files.
///
/// # Errors
/// Something could not be removed.
pub async fn remove_leftovers(place: &Place) -> Result<()> {
    for _ in 0..5 {
        // A process that is just ending has no environment any more: the recorded ones are looked at too.
        let mut left = owned_by(&place.state);
        left.extend(recorded(place));
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|p| p.signal(Signal::KILL));
        wait_for_end(&left).await;
    }
    let hosts = place.hosts();
    if !hosts.is_empty() {
        remove_from_engine(&hosts).await?;
    }
    // Also when every host has been terminated before: the network outlives them.
    if place.state.exists()
        && !fleet::any_runs()
        && let Ok(docker) = docker().await
    {
        remove_networks(&docker, NETWORK).await;
    }
    for point in mounts_below(&place.state) {
        unmount(&point, UnmountFlags::DETACH).with_context(|| point.display().to_string())?;
    }
    match fs::remove_dir_all(&place.state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| place.state.display().to_string())
        }
        _ => Ok(()),
    }
}

/// The processes that wrote down who they are, as far as they run.
fn recorded(place: &Place) -> Vec<Process> {
    let hosts = place
        .hosts()
        .into_iter()
        .filter_map(|id| host::init(&place.host(&id)));
    let emulator = place.cloud().map(|c| c.emulator).filter(|p| p.is_alive());
    hosts
        .chain(emulator)
        .chain(place.fleet())
        .filter(|p| Some(*p) != Process::current())
        .collect()
}

async fn wait_for_end(processes: &[Process]) {
    let begun = Instant::now();
    while processes.iter().any(|p| p.is_alive()) && begun.elapsed() < DOWN_WITHIN {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Mount points below a directory in this process's mount namespace, the deepest first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    points.reverse();
    points
}

pub(crate) async fn docker() -> Result<Docker> {
    let socket = requirements::docker_socket();
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), 60, API_DEFAULT_VERSION)?;
    docker
        .negotiate_version()
        .await
        .with_context(|| format!("Docker Engine at {}", socket.display()))
}

pub(crate) async fn containers(
    docker: &Docker,
    all: bool,
) -> Result<Vec<bollard::models::ContainerSummary>> {
    let filters = HashMap::from([("label".to_owned(), vec![label::INSTANCE.to_owned()])]);
    let options = ListContainersOptionsBuilder::default()
        .all(all)
        .filters(&filters)
        .build();
    Ok(docker.list_containers(Some(options)).await?)
}

/// Removes the containers of these instances, and the names that their host agents gave to images; an image goes with
/// its last name, so one that was built on this machine stays.
///
/// # Errors
/// The engine does not answer or refuses.
pub async fn remove_from_engine(instances: &[String]) -> Result<()> {
    let docker = docker().await?;
    for container in containers(&docker, true).await? {
        let labels = container.labels.unwrap_or_default();
        let (Some(id), Some(instance)) = (container.id, labels.get(label::INSTANCE)) else {
            continue;
        };
        if instances.contains(instance) {
            let options = RemoveContainerOptionsBuilder::default()
                .force(true)
                .v(true)
                .build();
            match docker.remove_container(&id, Some(options)).await {
                Ok(()) => {}
                // Gone, or going: somebody else removes it.
                Err(bollard::errors::Error::DockerResponseServerError {
                    status_code: 404 | 409,
                    ..
                }) => {}
                Err(e) => return Err(e).with_context(|| format!("container {id}")),
            }
        }
    }
    let images = docker.list_images(None::<ListImagesOptions>).await?;
    for name in images.into_iter().flat_map(|i| i.repo_tags) {
        // As the host agent names them: `porter/INSTANCE:DIGEST`.
        let instance = name
            .strip_prefix("porter/")
            .and_then(|n| n.split(':').next());
        if instance.is_some_and(|id| instances.iter().any(|i| i.eq_ignore_ascii_case(id))) {
            match docker
                .remove_image(&name, None::<RemoveImageOptions>, None)
                .await
            {
                Ok(_)
                | Err(bollard::errors::Error::DockerResponseServerError {
                    status_code: 404 | 409,
                    ..
                }) => {}
                Err(e) => return Err(e).with_context(|| format!("image {name}")),
            }
        }
    }
    Ok(())
}

/// Removes the agents' networks of this name: there may be several for a moment, and the engine then refuses to remove
/// one by its name. One that containers are in stays, and so does one that agents did not make.
async fn remove_networks(docker: &Docker, name: &str) {
    let networks = docker.list_networks(None::<ListNetworksOptions>).await;
    for network in networks.unwrap_or_default() {
        let made_by_agents = network
            .labels
            .is_some_and(|l| l.contains_key("porter.network"));
        if network.name.as_deref() == Some(name)
            && made_by_agents
            && let Some(id) = network.id
        {
            let _ = docker.remove_network(&id).await;
        }
    }
}

/// A cloud of a test: taken down when dropped, and by its fleet when the test's process dies.
#[derive(Debug)]
pub struct Ephemeral(pub Cloud);

impl Ephemeral {
    /// Starts a cloud with its files in `dir`, owned by this process.
    ///
    /// # Errors
    /// As [`Cloud::up`].
    pub async fn up(name: &str, dir: &Path, mut options: Options) -> Result<Self> {
        options.owner = Process::current();
        let cache = Place::from_env(name)?.cache;
        let place = Place {
            cache,
            ..Place::below(name, dir, Path::new("/"))?
        };
        Ok(Self(
            Cloud::up(&place, &options, &|line| eprintln!("{line}")).await?,
        ))
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let place = self.0.place.clone();
        // Dropped inside a runtime, which must not be blocked from within.
        let down = std::thread::spawn(move || crate::entry::in_runtime(Cloud::down(&place)));
        if let Ok(Err(e)) = down.join() {
            eprintln!("the cloud of this test was not taken down: {e:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::NetworkCreateRequest;

    #[tokio::test]
    async fn of_networks_with_one_name_all_that_agents_made_go_and_others_stay() {
        let docker = docker().await.unwrap();
        let name = format!("porter-test-{}", std::process::id());
        let agents = HashMap::from([("porter.network".to_owned(), "1".to_owned())]);
        for labels in [Some(agents.clone()), Some(agents), None] {
            let request = NetworkCreateRequest {
                name: name.clone(),
                driver: Some("bridge".into()),
                labels,
                ..Default::default()
            };
            docker.create_network(request).await.unwrap();
        }
        remove_networks(&docker, &name).await;
        let left = docker.list_networks(None::<ListNetworksOptions>).await;
        let left: Vec<_> = (left.unwrap().into_iter())
            .filter(|n| n.name.as_deref() == Some(&name))
            .collect();
        for network in &left {
            let id = network.id.as_deref().unwrap_or_default();
            docker.remove_network(id).await.unwrap();
        }
        assert_eq!(left.len(), 1);
        assert!(
            left[0]
                .labels
                .as_ref()
                .is_none_or(|l| !l.contains_key("porter.network"))
        );
    }
}
