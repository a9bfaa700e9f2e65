//! What is true on this host now: our containers, where the proxy sends requests, and which process is at a seat.

use crate::{
    docker::{Container, Engine},
    failure::Failure,
    seat::{Endpoint, Seats},
    takeover,
    traffic::proxy::Proxy,
};
use contract::digest::Digest;
use handover::control::Role;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The facts on which plans are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Our containers, running or not.
    pub containers: Vec<Container>,
    /// Whether the proxy runs.
    pub proxy_runs: bool,
    /// Where new requests go.
    pub rotation: BTreeSet<Endpoint>,
    /// What the running containers with a seat say that they are, by the engine's id. One that does not answer is absent.
    pub roles: BTreeMap<String, Role>,
    /// A host without inet containers has no rotation to look at: what it runs counts as serving.
    pub workers_only: bool,
}

impl Facts {
    /// The running containers of a swap.
    pub fn running<'a>(&'a self, swap: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers
            .iter()
            .filter(move |c| c.swap == swap && c.running)
    }

    /// Whether new requests reach this container.
    pub fn takes_requests(&self, container: &Container) -> bool {
        let Some(endpoint) = &container.endpoint else {
            return false;
        };
        self.rotation.contains(endpoint)
            && (endpoint.seat().is_none() || self.holds_seat(container))
    }

    /// Whether this container's process is the one that accepts at its seat. One that does not say so is, when nobody else
    /// can be.
    pub fn holds_seat(&self, container: &Container) -> bool {
        match self.roles.get(&container.id) {
            Some(role) => matches!(role, Role::Serving | Role::Giving),
            None => {
                let here = |c: &&Container| c.running && c.endpoint == container.endpoint;
                container.running && self.containers.iter().filter(here).count() == 1
            }
        }
    }

    /// Whether new requests go to containers of this swap.
    pub fn in_rotation(&self, swap: &str) -> bool {
        (self.containers.iter()).any(|c| c.swap == swap && self.takes_requests(c))
    }

    /// The swap and payload whose containers run and take the requests.
    pub fn serving(&self) -> Option<(&str, &Digest)> {
        self.containers
            .iter()
            .filter(|c| c.running)
            .find(|c| match c.endpoint {
                Some(_) => self.takes_requests(c),
                None => self.workers_only,
            })
            .map(|c| (c.swap.as_str(), &c.payload))
    }
}

/// Looks. A handover that is under way is waited for.
///
/// # Errors
/// When the engine does not answer.
pub async fn observe(
    engine: &Engine,
    proxy: &Proxy,
    seats: &Seats,
    service: &str,
) -> Result<Facts, Failure> {
    // Only then there is a truth to observe.
    let until = Instant::now() + takeover::SETTLES_WITHIN;
    let (containers, roles) = loop {
        let containers = engine.containers().await?;
        let roles = roles(seats, &containers).await;
        let under_way = |role: &Role| matches!(role, Role::Giving | Role::Taking);
        if !roles.values().any(under_way) || Instant::now() >= until {
            break (containers, roles);
        }
        sleep(Duration::from_millis(100)).await;
    };
    let workers = proxy.workers().await;
    let mut rotation = BTreeSet::new();
    if let Some(current) = workers.as_ref().and_then(|w| w.current) {
        rotation = proxy.rotation(current, service).await;
    }
    Ok(Facts {
        workers_only: !containers.is_empty() && containers.iter().all(|c| c.endpoint.is_none()),
        proxy_runs: workers.is_some(),
        containers,
        rotation,
        roles,
    })
}

async fn roles(seats: &Seats, containers: &[Container]) -> BTreeMap<String, Role> {
    let mut roles = BTreeMap::new();
    for container in containers.iter().filter(|c| c.running) {
        if takeover::seat(container).is_some()
            && let Ok(status) = takeover::status(seats, container).await
        {
            roles.insert(container.id.clone(), status.role);
        }
    }
    roles
}
