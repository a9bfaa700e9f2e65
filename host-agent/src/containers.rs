//! Containers: started beside the old ones, with the options of D-HOST-15 to D-HOST-20.

use crate::{
    data::{Data, Folder},
    docker::{Container, Engine, NewContainer, StartError},
    failure::Failure,
    images,
    machine::Machine,
    seat::{Endpoint, Seat, Seats},
};
use contract::{
    digest::Digest,
    job::DesiredState,
    manifest::Manifest,
    names::{label, path},
    signal::CauseCode,
    spec::{ContainerSpec, Topology},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddrV4, TcpListener},
    time::Duration,
};

/// Variables for every container of the host, written by the user's bootstrap code (D-HOST-15).
const ENV_FILE: &str = "/dockerfile.env";
/// Another process may take the port between our look and the engine's bind, and another host of the same engine may be
/// making the network just now.
const ATTEMPTS: u32 = 20;
/// Before looking at the network again.
const NETWORK_PAUSE: Duration = Duration::from_millis(250);

/// What every container of one swap shares.
#[derive(Clone, Debug)]
pub struct Common<'a> {
    /// The swap.
    pub desired: &'a DesiredState,
    /// For `PORTER_SERVICE_VERSION`.
    pub manifest: &'a Manifest,
    /// This host.
    pub instance: &'a str,
    /// Address and ports.
    pub machine: &'a Machine,
    /// Where containers that hand over find their sockets.
    pub seats: &'a Seats,
    /// Where containers keep data.
    pub data: &'a Data,
    /// Gateway of the network `porter`: where the machine's own services are reached.
    pub gateway: Option<String>,
}

/// Starts one container and returns it. One of the same swap that runs already, from before a restart of the agent, is
/// used as it is; one that does not run is replaced. `seat` is for one that hands over.
///
/// # Errors
/// [`CauseCode::StartFailed`], [`CauseCode::PortMissing`], [`CauseCode::Engine`].
pub async fn start(
    engine: &Engine,
    common: &Common<'_>,
    spec: &ContainerSpec,
    present: &[Container],
    seat: Option<&Seat>,
) -> Result<Container, Failure> {
    let ours = present
        .iter()
        .filter(|c| c.swap == common.desired.swap && c.name == spec.name);
    for container in ours {
        if container.running {
            return Ok(container.clone());
        }
        engine.remove(&container.id).await?;
    }
    let image =
        common.manifest.images.get(&spec.image).ok_or_else(|| {
            Failure::internal(format!("the manifest has no image `{}`", spec.image))
        })?;
    let inside = match (spec.topology, spec.inet_port, seat) {
        (Topology::Worker, ..) => None,
        (Topology::Inet, _, Some(seat)) => {
            common.seats.make(seat, spec.uid)?;
            None
        }
        (Topology::Inet, Some(port), None) => Some(port),
        (Topology::Inet, None, None) => {
            return Err(Failure::new(
                CauseCode::PortMissing,
                format!("inet container `{}` has no inet_port", spec.name),
            ));
        }
    };
    if spec.data {
        common.data.make(folder(common, spec), spec.uid)?;
    }
    let mut taken = engine.ports_in_use(common.machine.publish_address).await?;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let publish = match inside {
            None => None,
            Some(port) => Some((port, free_endpoint(common.machine, &taken)?)),
        };
        let published = publish.map(|(_, at)| at);
        let endpoint = (seat.cloned().map(Endpoint::Seat)).or(published.map(Endpoint::Tcp));
        let new = new_container(
            common,
            spec,
            &image.config.digest,
            publish,
            endpoint.as_ref(),
        );
        match engine.start(&new).await {
            Ok(id) => {
                if let Some(at) = published {
                    crate::custom::after_start(at).await;
                }
                return Ok(Container {
                    id,
                    name: spec.name.clone(),
                    payload: common.desired.payload.clone(),
                    swap: common.desired.swap.clone(),
                    endpoint,
                    running: true,
                });
            }
            Err(StartError::PortTaken) => {
                taken.extend(published.map(|e| e.port()));
                last = "its port was taken by others each time".into();
            }
            Err(StartError::Network(why)) => {
                tokio::time::sleep(NETWORK_PAUSE).await;
                engine.network().await?;
                last = why;
            }
            Err(StartError::NoImage) => {
                return Err(Failure::new(
                    CauseCode::StartFailed,
                    format!(
                        "container `{}` can't start: the engine no longer has image {}",
                        spec.name, image.reference
                    ),
                ));
            }
            Err(StartError::Other(why)) => {
                return Err(Failure::new(
                    CauseCode::StartFailed,
                    format!("container `{}` can't start: {why}", spec.name),
                ));
            }
        }
    }
    Err(Failure::new(
        CauseCode::StartFailed,
        format!(
            "container `{}` can't start, after {ATTEMPTS} attempts: {last}",
            spec.name
        ),
    ))
}

fn new_container(
    common: &Common<'_>,
    spec: &ContainerSpec,
    image: &Digest,
    publish: Option<(u16, SocketAddrV4)>,
    endpoint: Option<&Endpoint>,
) -> NewContainer {
    let desired = common.desired;
    let mut labels = BTreeMap::from([
        (label::SERVICE.to_owned(), desired.service.clone()),
        (label::ENVIRONMENT.to_owned(), desired.environment.clone()),
        (label::PAYLOAD.to_owned(), desired.payload.to_string()),
        (label::SWAP.to_owned(), desired.swap.clone()),
        (label::CONTAINER.to_owned(), spec.name.clone()),
    ]);
    if let Some(endpoint) = endpoint {
        labels.insert(label::ENDPOINT.to_owned(), endpoint.to_string());
    }
    let seat = endpoint.and_then(Endpoint::seat);
    let env_file = std::fs::read_to_string(ENV_FILE).unwrap_or_default();
    NewContainer {
        name: format!(
            "{}.{}.{}.{}",
            desired.service,
            spec.name,
            desired.swap.to_lowercase(),
            common.instance
        ),
        image: images::reference(common.instance, image),
        env: variables(common, spec, &env_file, seat),
        labels,
        publish,
        mounts: (seat.map(|seat| common.seats.mount(seat)).into_iter())
            .chain(spec.data.then(|| common.data.mount(folder(common, spec))))
            .collect(),
        uid: spec.uid,
        read_only: spec.read_only,
        pids_limit: spec.pids_limit,
        memory: spec.memory,
        nano_cpus: spec.nano_cpus,
    }
}

fn folder<'a>(common: &Common<'a>, spec: &'a ContainerSpec) -> Folder<'a> {
    Folder {
        service: &common.desired.service,
        container: &spec.name,
    }
}

/// The env file's lines first, ours last, so that ours can't be overridden (D-HOST-16, D-HOST-17).
fn variables(
    common: &Common<'_>,
    spec: &ContainerSpec,
    env_file: &str,
    seat: Option<&Seat>,
) -> Vec<String> {
    let gateway = common.gateway.as_deref().unwrap_or("");
    let desired = common.desired;
    let mut all: BTreeMap<&str, &str> = env_file
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .filter_map(|l| l.split_once('='))
        .filter(|(name, _)| !name.trim().is_empty())
        .map(|(name, value)| (name.trim(), value))
        .collect();
    all.extend([
        ("PORTER_ENVIRONMENT", desired.environment.as_str()),
        ("AWS_REGION", &desired.region),
        ("RSYSLOG_TCP_ADDR", gateway),
        ("RSYSLOG_TCP_PORT", "514"),
        ("RSYSLOG_UDP_ADDR", gateway),
        ("RSYSLOG_UDP_PORT", "514"),
        ("PORTERD_TCP_ADDR", gateway),
        ("PORTERD_TCP_PORT", "3001"),
        ("PORTER_SERVICE_VERSION", &common.manifest.version),
        ("PORTER_PAYLOAD_DIGEST", desired.payload.as_str()),
        ("PORTER_SWAP_ID", &desired.swap),
    ]);
    if spec.data {
        all.insert("PORTER_DATA_DIR", path::DATA_INSIDE);
    }
    let sockets = seat.map(|seat| common.seats.sockets(seat, &desired.swap));
    let sockets = sockets.map(|s| {
        [
            ("PORTER_INET_SOCKET", s.inet),
            ("PORTER_HANDOVER_SOCKET", s.handover),
            ("PORTER_CONTROL_SOCKET", s.control),
            ("PORTER_HEALTH_SOCKET", s.health),
        ]
        .map(|(name, path)| (name, path.to_string_lossy().into_owned()))
    });
    all.extend(sockets.iter().flatten().map(|(k, v)| (*k, v.as_str())));
    all.into_iter().map(|(k, v)| format!("{k}={v}")).collect()
}

/// A port of the range that neither a container nor a process of the machine holds (D-HOST-19).
fn free_endpoint(machine: &Machine, taken: &BTreeSet<u16>) -> Result<SocketAddrV4, Failure> {
    let (first, last) = machine.port_range;
    (first..=last)
        .filter(|port| !taken.contains(port))
        .map(|port| SocketAddrV4::new(machine.publish_address, port))
        .find(|at| TcpListener::bind(at).is_ok())
        .ok_or_else(|| {
            Failure::new(
                CauseCode::PortMissing,
                format!(
                    "no port from {first} to {last} is free on {}",
                    machine.publish_address
                ),
            )
        })
}
