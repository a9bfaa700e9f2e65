//! The only file that knows the Engine API (D-HOST-21). Everything else sees our own types.
//!
//! Hosts are told apart by the label `porter.instance`: a container without that label and this host's id is never
//! listed, hence never touched (D-HOST-20). Image tags carry the instance id too, so that removing a tag of this host
//! never takes an image away from another host of the same engine.

use crate::{failure::Failure, seat::Endpoint};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error as Bollard,
    exec::{StartExecOptions, StartExecResults},
    models::{
        ContainerCreateBody, ContainerSummaryStateEnum, ExecConfig, HostConfig,
        HostConfigLogConfig, Mount, MountType, NetworkCreateRequest, PortBinding, ResourcesUlimits,
        RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ImportImageOptions, InspectContainerOptions,
        KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
        ListNetworksOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptionsBuilder, RestartContainerOptionsBuilder, StatsOptionsBuilder,
        StopContainerOptionsBuilder, TagImageOptionsBuilder,
    },
};
use bytes::Bytes;
use contract::{
    digest::Digest,
    names::label,
    signal::{CauseCode, MAX_LOG_BYTES},
};
use futures::{Stream, StreamExt, TryStreamExt};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

/// The network all containers join (D-HOST-15).
pub const NETWORK: &str = "porter";

/// Loading a large image and stopping with a long grace are the slowest calls.
const CALL_SECONDS: u64 = 1800;

/// The engine, as this host may use it.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    instance: String,
}

/// One of our containers on this host, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// `containers[].name` of the configuration.
    pub name: String,
    /// The payload it belongs to.
    pub payload: Digest,
    /// The swap that started it.
    pub swap: String,
    /// Where an inet container is reached.
    pub endpoint: Option<Endpoint>,
    /// Whether its process runs now.
    pub running: bool,
}

/// What the engine says of one container's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    /// It runs.
    pub running: bool,
    /// The engine is about to start it again.
    pub restarting: bool,
    /// Status of its last end.
    pub exit_code: i64,
    /// How often the engine started it again.
    pub restarts: i64,
    /// The kernel ended it for lack of memory.
    pub out_of_memory: bool,
}

/// What a container is created from.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Name in the engine, for people.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Labels beside the instance's, which is always set.
    pub labels: BTreeMap<String, String>,
    /// Container port and the host address where it is published.
    pub publish: Option<(u16, SocketAddrV4)>,
    /// Folders as the engine sees them, and where they are mounted.
    pub mounts: Vec<(PathBuf, PathBuf)>,
    /// User id inside.
    pub uid: u32,
    /// Read-only root file system.
    pub read_only: bool,
    /// Process limit.
    pub pids_limit: u32,
    /// Bytes.
    pub memory: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
}

fn bound((from, to): &(PathBuf, PathBuf)) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(from.to_string_lossy().into_owned()),
        target: Some(to.to_string_lossy().into_owned()),
        ..Default::default()
    }
}

/// Why a container was not started.
#[derive(Debug)]
pub enum StartError {
    /// Somebody else took the host port meanwhile.
    PortTaken,
    /// The network is missing, or there are several of its name: [`Engine::network`] puts that right.
    Network(String),
    /// The image is not in the engine any more.
    NoImage,
    /// Anything else, as a sentence.
    Other(String),
}

impl Engine {
    /// Connects and agrees on an API version.
    ///
    /// # Errors
    /// [`CauseCode::Engine`] when nothing answers at the socket.
    pub async fn connect(socket: &Path, instance: &str) -> Result<Self, Failure> {
        let path = socket.to_string_lossy();
        let connect = async {
            Docker::connect_with_unix(&path, CALL_SECONDS, API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let docker = connect.await.map_err(|e| {
            engine(format!(
                "the container engine does not answer at {path}: {e}"
            ))
        })?;
        Ok(Self {
            docker,
            instance: instance.to_owned(),
        })
    }

    /// Every container of ours on this host, running or not (D-HOST-20).
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn containers(&self) -> Result<Vec<Container>, Failure> {
        let filters = HashMap::from([(
            "label".to_owned(),
            vec![format!("{}={}", label::INSTANCE, self.instance)],
        )]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let list = self
            .docker
            .list_containers(Some(options))
            .await
            .map_err(|e| engine(format!("the containers can't be listed: {e}")))?;
        Ok(list
            .into_iter()
            .filter_map(|c| {
                let labels = c.labels?;
                Some(Container {
                    id: c.id?,
                    name: labels.get(label::CONTAINER)?.clone(),
                    payload: labels.get(label::PAYLOAD)?.parse().ok()?,
                    swap: labels.get(label::SWAP)?.clone(),
                    endpoint: labels.get(label::ENDPOINT).and_then(|e| e.parse().ok()),
                    running: c.state == Some(ContainerSummaryStateEnum::RUNNING),
                })
            })
            .collect())
    }

    /// Host ports that containers of anybody hold on this engine at `address`.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn ports_in_use(&self, address: Ipv4Addr) -> Result<BTreeSet<u16>, Failure> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let list = self
            .docker
            .list_containers(Some(options))
            .await
            .map_err(|e| engine(format!("the containers can't be listed: {e}")))?;
        let published = list
            .iter()
            .flat_map(|c| c.ports.iter().flatten())
            .filter(|p| {
                p.ip.as_deref()
                    .is_none_or(|ip| ip == address.to_string() || ip == "0.0.0.0")
            })
            .filter_map(|p| p.public_port);
        // A stopped container publishes nothing now and will again: its label tells.
        let reserved = list
            .iter()
            .filter_map(|c| {
                c.labels
                    .as_ref()?
                    .get(label::ENDPOINT)?
                    .parse::<SocketAddrV4>()
                    .ok()
            })
            .filter(|e| *e.ip() == address)
            .map(|e| e.port());
        Ok(published.chain(reserved).collect())
    }

    /// Makes sure that there is one network `porter` (D-HOST-15) and returns its gateway address, where the machine's own
    /// services are reached from inside.
    ///
    /// Engines allow several networks of one name, and then refuse to start containers in any of them. Where two hosts of
    /// one engine were equally fast, the oldest network stays and every host removes the others.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn network(&self) -> Result<Option<String>, Failure> {
        let mut networks = self.networks().await?;
        if networks.is_empty() {
            let request = NetworkCreateRequest {
                name: NETWORK.into(),
                driver: Some("bridge".into()),
                labels: Some(HashMap::from([("porter.network".into(), "1".into())])),
                ..Default::default()
            };
            match self.docker.create_network(request).await {
                Ok(_)
                | Err(Bollard::DockerResponseServerError {
                    status_code: 409, ..
                }) => networks = self.networks().await?,
                Err(e) => {
                    return Err(engine(format!(
                        "the network `{NETWORK}` can't be created: {e}"
                    )));
                }
            }
        }
        for surplus in networks.iter().skip(1).filter_map(|n| n.id.as_deref()) {
            // One that another host is removing, or that is in use, is no reason to fail here.
            if let Err(e) = self.docker.remove_network(surplus).await {
                tracing::debug!(error = %e, "a second network `{NETWORK}` stays for now");
            }
        }
        let configs = networks
            .into_iter()
            .next()
            .and_then(|n| n.ipam?.config)
            .unwrap_or_default();
        Ok(configs
            .into_iter()
            .find_map(|c| c.gateway.filter(|g| g.parse::<Ipv4Addr>().is_ok())))
    }

    /// The networks with exactly our name, oldest first (D-HOST-21: the engine's own filter matches parts of names).
    async fn networks(&self) -> Result<Vec<bollard::models::Network>, Failure> {
        let mut networks = self
            .docker
            .list_networks(None::<ListNetworksOptions>)
            .await
            .map_err(|e| engine(format!("the networks can't be listed: {e}")))?;
        networks.retain(|n| n.name.as_deref() == Some(NETWORK));
        networks.sort_by_key(|n| (n.created.clone(), n.id.clone()));
        Ok(networks)
    }

    /// Creates and starts a container (D-HOST-15).
    ///
    /// # Errors
    /// See [`StartError`]; a container that was created but not started is removed again.
    pub async fn start(&self, new: &NewContainer) -> Result<String, StartError> {
        let options = CreateContainerOptionsBuilder::new().name(&new.name).build();
        let id = self
            .docker
            .create_container(Some(options), self.body(new))
            .await
            .map_err(start_error)?
            .id;
        if let Err(e) = self.docker.start_container(&id, None).await {
            let error = start_error(e);
            if let Err(e) = self.remove(&id).await {
                tracing::warn!(container = new.name, error = %e, "a container that did not start can't be removed");
            }
            return Err(error);
        }
        Ok(id)
    }

    fn body(&self, new: &NewContainer) -> ContainerCreateBody {
        let mut labels: HashMap<String, String> = new.labels.clone().into_iter().collect();
        labels.insert(label::INSTANCE.into(), self.instance.clone());
        let inside = new.publish.map(|(port, _)| format!("{port}/tcp"));
        let bindings = new.publish.map(|(port, at)| {
            let binding = PortBinding {
                host_ip: Some(at.ip().to_string()),
                host_port: Some(at.port().to_string()),
            };
            HashMap::from([(format!("{port}/tcp"), Some(vec![binding]))])
        });
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        ContainerCreateBody {
            image: Some(new.image.clone()),
            env: Some(new.env.clone()),
            labels: Some(labels),
            user: Some(new.uid.to_string()),
            exposed_ports: inside.map(|p| vec![p]),
            host_config: Some(HostConfig {
                mounts: Some(new.mounts.iter().map(bound).collect()),
                port_bindings: bindings,
                network_mode: Some(NETWORK.into()),
                readonly_rootfs: Some(new.read_only),
                pids_limit: Some(i64::from(new.pids_limit)),
                memory: new.memory.map(signed),
                nano_cpus: new.nano_cpus.map(signed),
                security_opt: Some(vec!["no-new-privileges".into()]),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::ON_FAILURE),
                    maximum_retry_count: Some(5),
                }),
                ulimits: Some(vec![ResourcesUlimits {
                    name: Some("nofile".into()),
                    soft: Some(open_files()),
                    hard: Some(open_files()),
                }]),
                // The engine keeps the lines itself, bounded, so that a failure can carry the last of them.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".into()),
                    config: Some(HashMap::from([
                        ("max-size".into(), "20m".into()),
                        ("max-file".into(), "5".into()),
                    ])),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The state of one container's process.
    ///
    /// # Errors
    /// [`CauseCode::Engine`], also when the container is gone.
    pub async fn state(&self, id: &str) -> Result<ProcessState, Failure> {
        let inspected = self
            .docker
            .inspect_container(id, None::<InspectContainerOptions>)
            .await
            .map_err(|e| engine(format!("container {} can't be inspected: {e}", short(id))))?;
        let state = inspected.state.unwrap_or_default();
        Ok(ProcessState {
            running: state.running.unwrap_or(false),
            restarting: state.restarting.unwrap_or(false),
            exit_code: state.exit_code.unwrap_or(0),
            restarts: inspected.restart_count.unwrap_or(0),
            out_of_memory: state.oom_killed.unwrap_or(false),
        })
    }

    /// The last lines a container wrote; empty when they can't be had.
    pub async fn log_tail(&self, id: &str) -> String {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail("50")
            .build();
        let mut tail = Vec::new();
        let mut lines = std::pin::pin!(self.docker.logs(id, Some(options)));
        let read = async {
            while let Some(Ok(line)) = lines.next().await {
                tail.extend_from_slice(line.as_ref());
                let surplus = tail.len().saturating_sub(2 * MAX_LOG_BYTES);
                tail.drain(..surplus);
            }
        };
        // A log that can't be read must not delay the report of the failure it would illustrate.
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
        String::from_utf8_lossy(&tail).into_owned()
    }

    /// Memory in use, in bytes; 0 when the engine does not tell.
    pub async fn memory_in_use(&self, id: &str) -> u64 {
        let options = StatsOptionsBuilder::new()
            .stream(false)
            .one_shot(true)
            .build();
        let mut stats = std::pin::pin!(self.docker.stats(id, Some(options)));
        match stats.next().await {
            Some(Ok(stats)) => stats.memory_stats.and_then(|m| m.usage).unwrap_or(0),
            _ => 0,
        }
    }

    /// SIGTERM, `grace`, SIGKILL (D-HOST-35). Returns whether the grace was used up. A container that is gone is stopped.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<bool, Failure> {
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        match self.docker.stop_container(id, Some(options)).await {
            Ok(()) => {}
            // 304: it had stopped; 404: it is gone.
            Err(Bollard::DockerResponseServerError {
                status_code: 304 | 404,
                ..
            }) => return Ok(false),
            Err(e) => {
                return Err(engine(format!(
                    "container {} can't be stopped: {e}",
                    short(id)
                )));
            }
        }
        // 137 = killed by signal 9.
        Ok(self.state(id).await.is_ok_and(|s| s.exit_code == 137))
    }

    /// SIGTERM, and nothing more: the process may take its time.
    ///
    /// # Errors
    /// [`CauseCode::Engine`], also when it does not run.
    pub async fn ask_to_end(&self, id: &str) -> Result<(), Failure> {
        let options = KillContainerOptionsBuilder::new().signal("SIGTERM").build();
        let told = self.docker.kill_container(id, Some(options)).await;
        told.map_err(|e| engine(format!("container {} can't be told to end: {e}", short(id))))
    }

    /// Ends the process and starts it anew.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn restart(&self, id: &str) -> Result<(), Failure> {
        let options = RestartContainerOptionsBuilder::new().t(1).build();
        let restarted = self.docker.restart_container(id, Some(options)).await;
        restarted.map_err(|e| engine(format!("container {} can't be restarted: {e}", short(id))))
    }

    /// Starts a container that had been stopped.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn start_again(&self, id: &str) -> Result<(), Failure> {
        self.docker.start_container(id, None).await.map_err(|e| {
            engine(format!(
                "container {} can't be started again: {e}",
                short(id)
            ))
        })
    }

    /// Removes a container, running or not. One that is gone is removed.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn remove(&self, id: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        match self.docker.remove_container(id, Some(options)).await {
            // 404: it is gone; 409: a removal is under way.
            Ok(())
            | Err(Bollard::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(e) => Err(engine(format!(
                "container {} can't be removed: {e}",
                short(id)
            ))),
        }
    }

    /// Runs a command inside a container and returns its exit status (D-HOST-28).
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn exec(&self, id: &str, command: &[String]) -> Result<i64, Failure> {
        let failed = |e: Bollard| {
            engine(format!(
                "the readiness command can't run in container {}: {e}",
                short(id)
            ))
        };
        let config = ExecConfig {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = self
            .docker
            .create_exec(id, config)
            .await
            .map_err(failed)?
            .id;
        let started = self
            .docker
            .start_exec(&exec, None::<StartExecOptions>)
            .await
            .map_err(failed)?;
        if let StartExecResults::Attached { mut output, .. } = started {
            while output.next().await.is_some() {}
        }
        let inspected = self.docker.inspect_exec(&exec).await.map_err(failed)?;
        Ok(inspected.exit_code.unwrap_or(-1))
    }

    /// Whether the engine has the image: by its id (the classic store names an image by the digest of its configuration),
    /// or under our reference with just these layers (other stores).
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn has_image(
        &self,
        config: &Digest,
        reference: &str,
        diff_ids: &[Digest],
    ) -> Result<bool, Failure> {
        for name in [config.as_str(), reference] {
            match self.docker.inspect_image(name).await {
                Ok(image) => {
                    let layers = image.root_fs.and_then(|r| r.layers).unwrap_or_default();
                    let same = layers
                        .iter()
                        .map(String::as_str)
                        .eq(diff_ids.iter().map(Digest::as_str));
                    if image.id.as_deref() == Some(config.as_str()) || same {
                        return Ok(true);
                    }
                }
                Err(Bollard::DockerResponseServerError {
                    status_code: 404, ..
                }) => {}
                Err(e) => {
                    return Err(engine(format!(
                        "image {} can't be inspected: {e}",
                        config.short()
                    )));
                }
            }
        }
        Ok(false)
    }

    /// Sends a `docker load` archive.
    ///
    /// # Errors
    /// A sentence; what was loaded partially is dropped by the engine.
    pub async fn load(
        &self,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), String> {
        self.docker
            .import_image_stream(ImportImageOptions::default(), archive, None)
            .try_for_each(|_| futures::future::ready(Ok(())))
            .await
            .map_err(|e| e.to_string())
    }

    /// Gives the image a reference of this host; false when the engine does not have the image.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn tag(&self, config: &Digest, reference: &str) -> Result<bool, Failure> {
        let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        let options = TagImageOptionsBuilder::new()
            .repo(repository)
            .tag(tag)
            .build();
        match self.docker.tag_image(config.as_str(), Some(options)).await {
            Ok(()) => Ok(true),
            Err(Bollard::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(false),
            Err(e) => Err(engine(format!(
                "image {} can't be tagged: {e}",
                config.short()
            ))),
        }
    }

    /// This host's image references.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn references(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let filters = HashMap::from([("reference".to_owned(), vec![format!("{prefix}*")])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self
            .docker
            .list_images(Some(options))
            .await
            .map_err(|e| engine(format!("the images can't be listed: {e}")))?;
        Ok(images
            .into_iter()
            .flat_map(|i| i.repo_tags)
            .filter(|t| t.starts_with(prefix))
            .collect())
    }

    /// Removes one reference, and the image with its last one.
    ///
    /// # Errors
    /// [`CauseCode::Engine`], such as when a container still uses it.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Failure> {
        let options = RemoveImageOptionsBuilder::new().build();
        match self
            .docker
            .remove_image(reference, Some(options), None)
            .await
        {
            Ok(_)
            | Err(Bollard::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(()),
            Err(e) => Err(engine(format!("image {reference} can't be removed: {e}"))),
        }
    }

    /// Diff ids of every image the engine has; used to see which layers it lacks.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn layers(&self) -> Result<BTreeSet<String>, Failure> {
        let images = self
            .docker
            .list_images(Some(ListImagesOptionsBuilder::new().build()))
            .await
            .map_err(|e| engine(format!("the images can't be listed: {e}")))?;
        let mut layers = BTreeSet::new();
        for image in images {
            // One that vanished between the two calls has no layers to offer.
            if let Ok(inspected) = self.docker.inspect_image(&image.id).await {
                layers.extend(inspected.root_fs.and_then(|r| r.layers).unwrap_or_default());
            }
        }
        Ok(layers)
    }

    /// Where the engine keeps images; for the disk's headroom.
    ///
    /// # Errors
    /// [`CauseCode::Engine`].
    pub async fn root_directory(&self) -> Result<Option<String>, Failure> {
        self.docker
            .info()
            .await
            .map(|i| i.docker_root_dir)
            .map_err(|e| engine(format!("the engine does not describe itself: {e}")))
    }
}

/// D-HOST-15 wants 200,000 open files. Where the machine gives nobody that many, the engine would refuse to start the
/// container: what this process, as root beside the engine, may have is then the most there is.
fn open_files() -> i64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 200_000;
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: now.current,
        maximum: Some(WANTED),
    };
    let given = if most >= WANTED || setrlimit(Resource::Nofile, raised).is_ok() {
        WANTED
    } else {
        most
    };
    i64::try_from(given).unwrap_or(i64::MAX)
}

fn engine(message: String) -> Failure {
    Failure::new(CauseCode::Engine, message)
}

/// The first twelve digits of a container id, as the engine's own commands print it.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn start_error(error: Bollard) -> StartError {
    match &error {
        Bollard::DockerResponseServerError {
            status_code: 404,
            message,
        } if message.to_lowercase().contains("image") => StartError::NoImage,
        Bollard::DockerResponseServerError { message, .. }
            if message.contains(&format!("network {NETWORK} ")) =>
        {
            StartError::Network(error.to_string())
        }
        Bollard::DockerResponseServerError { message, .. }
            if message.contains("port is already allocated")
                || message.contains("address already in use") =>
        {
            StartError::PortTaken
        }
        _ => StartError::Other(error.to_string()),
    }
}
