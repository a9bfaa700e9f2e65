//! What is true on this host now: our containers, and where the proxy sends requests.

use crate::{
    docker::{Container, Engine},
    failure::Failure,
    traffic::proxy::Proxy,
};
use contract::digest::Digest;
use std::{collections::BTreeSet, net::SocketAddrV4};

/// The facts on which plans are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Our containers, running or not.
    pub containers: Vec<Container>,
    /// Whether the proxy runs.
    pub proxy_runs: bool,
    /// Addresses that new requests go to.
    pub rotation: BTreeSet<SocketAddrV4>,
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

    /// Whether new requests go to containers of this swap.
    pub fn in_rotation(&self, swap: &str) -> bool {
        self.containers
            .iter()
            .any(|c| c.swap == swap && c.endpoint.is_some_and(|e| self.rotation.contains(&e)))
    }

    /// The swap and payload whose containers run and take the requests.
    pub fn serving(&self) -> Option<(&str, &Digest)> {
        self.containers
            .iter()
            .filter(|c| c.running)
            .find(|c| match c.endpoint {
                Some(endpoint) => self.rotation.contains(&endpoint),
                None => self.workers_only,
            })
            .map(|c| (c.swap.as_str(), &c.payload))
    }
}

/// Looks.
///
/// # Errors
/// When the engine does not answer.
pub async fn observe(engine: &Engine, proxy: &Proxy, service: &str) -> Result<Facts, Failure> {
    let containers = engine.containers().await?;
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
    })
}
