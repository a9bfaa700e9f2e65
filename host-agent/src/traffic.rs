//! What HAProxy should serve: a pure rendering of its configuration. Telling it so is in [`proxy`].

pub mod mover;
pub mod proxy;

use crate::{docker::Container, failure::Failure, machine::Machine, seat::Endpoint};
use contract::{
    digest::Digest,
    signal::CauseCode,
    spec::{HealthCheck, HostSpec, ProxySpec, Topology},
};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// Addresses listed here are denied, if the file exists (D-HAP-9).
pub const DENY_LIST: &str = "/var/lib/haproxy/ip_blacklist.txt";

/// Behind a load balancer, where nothing was set: the upper bound of its draining (D-HAP-3, D-HOT-70).
const LOAD_BALANCER_LIMIT: Duration = Duration::from_secs(3600);

/// One container as the proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// `docker-<n>-<port>`: the port keeps the names of two versions apart while both exist (D-HAP-11). With a seat
    /// instead of a port, `docker-<n>-<seat>`: it is the same for two versions, if one hands over to the other.
    pub name: String,
    /// Where it is reached.
    pub address: Endpoint,
}

/// The proxy's servers for these containers, in the order of the configuration.
pub fn servers(spec: &HostSpec, containers: &[Container]) -> Vec<Server> {
    spec.containers
        .iter()
        .filter(|c| c.topology == Topology::Inet)
        .filter_map(|c| {
            containers
                .iter()
                .find(|o| o.name == c.name)?
                .endpoint
                .clone()
        })
        .enumerate()
        .map(|(n, address)| Server {
            name: match &address {
                Endpoint::Tcp(at) => format!("docker-{}-{}", n + 1, at.port()),
                Endpoint::Seat(seat) => format!("docker-{}-{seat}", n + 1),
            },
            address,
        })
        .collect()
}

/// Name of the one backend (D-HAP-11).
pub fn backend(service: &str) -> String {
    format!("{service}-backend")
}

/// The backend behind the relay: see [`proxy`].
pub fn relay_backend(service: &str) -> String {
    format!("{service}-relay-backend")
}

/// The relay's socket: abstract, because a worker in its chroot reaches no path; named after the listener, because hosts
/// of one machine may share its network.
fn relay_socket(machine: &Machine) -> String {
    let address = match machine.bind_address.as_str() {
        "*" => "all",
        other => other,
    };
    format!("abns@porter-{address}-{}", machine.http_port)
}

/// Everything the configuration depends on.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// `service_name`.
    pub service: &'a str,
    /// For the comment on top.
    pub payload: &'a Digest,
    /// For the comment on top.
    pub swap: &'a str,
    /// Listeners.
    pub machine: &'a Machine,
    /// Settings and health check.
    pub spec: &'a HostSpec,
    /// The containers of one version.
    pub servers: &'a [Server],
    /// The runtime socket.
    pub admin_socket: &'a Path,
    /// The folder of all seats, where the proxy has its root.
    pub root: &'a Path,
    /// Whether [`DENY_LIST`] exists.
    pub deny_list: bool,
}

/// Renders the configuration.
///
/// # Errors
/// [`CauseCode::ProxyConfig`] when a configured text can't be part of a configuration line at all, such as one with a
/// line break; everything else is left to the proxy's own check.
pub fn render(wanted: &Wanted) -> Result<String, Failure> {
    let proxy = &wanted.spec.proxy;
    let health = health(wanted.spec);
    let machine = wanted.machine;
    let bind = |port: u16| format!("{}:{port}", machine.bind_address);
    let mut binds = Vec::new();
    if !proxy.https_only {
        binds.push(bind(machine.http_port));
    }
    if proxy.behind_load_balancer {
        binds.push(bind(machine.forwarded_https_port));
    }
    let captures = |list: &[contract::spec::HeaderCapture]| -> Result<Vec<_>, Failure> {
        list.iter()
            .map(|c| {
                Ok(minijinja::context! { header => word("a captured header", &c.header)?, length => c.length })
            })
            .collect()
    };
    let mut types = Vec::new();
    for t in &proxy.compress_types {
        types.push(word("a type to compress", t)?);
    }
    let context = minijinja::context! {
        payload => wanted.payload.as_str(),
        swap => word("the swap id", wanted.swap)?,
        service => word("the service name", wanted.service)?,
        backend => word("the service name", &backend(wanted.service))?,
        relay => word("the relay's socket", &relay_socket(machine))?,
        relay_backend => word("the service name", &relay_backend(wanted.service))?,
        admin_socket => wanted.admin_socket.display().to_string(),
        root => word("the sockets' folder", &wanted.root.display().to_string())?,
        // Connections that outlive a version outlive the worker that has them, which a reload has replaced.
        hard_stop => if wanted.servers.iter().any(|s| s.address.seat().is_some()) { "24h" } else { "3600s" },
        binds,
        deny_list => wanted.deny_list.then_some(DENY_LIST),
        forwarded_https_port => machine.forwarded_https_port,
        timeouts => timeouts(proxy).into_iter().map(|(name, d)| {
            minijinja::context! { name, ms => u64::try_from(d.as_millis()).unwrap_or(u64::MAX) }
        }).collect::<Vec<_>>(),
        proxy => minijinja::context! {
            maxconn => proxy.maxconn,
            log => proxy.log,
            compression => proxy.compression,
            compress_types => types,
            behind_load_balancer => proxy.behind_load_balancer,
            https_redirect => proxy.https_redirect,
            request_header_captures => captures(&proxy.request_header_captures)?,
            response_header_captures => captures(&proxy.response_header_captures)?,
            stats_bind => proxy.stats_bind.as_deref().map(|b| word("the statistics address", b)).transpose()?,
        },
        health => match health {
            None => minijinja::context! {},
            Some(h) => minijinja::context! {
                method => word("the health check's method", &h.method)?,
                path => word("the health check's path", &h.path)?,
                status => h.status,
                interval_ms => u64::try_from(h.interval.as_millis()).unwrap_or(u64::MAX).max(1),
            },
        },
        servers => wanted.servers.iter().map(|s| {
            minijinja::context! { name => s.name.clone(), address => s.address.in_proxy() }
        }).collect::<Vec<_>>(),
    };
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    let syntax = minijinja::syntax::SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .map_err(|e| Failure::internal(format!("the template syntax can't be set: {e}")))?;
    environment.set_syntax(syntax);
    environment
        .render_str(include_str!("../../templates/haproxy.cfg"), context)
        .map_err(|e| {
            Failure::internal(format!(
                "the proxy's configuration can't be rendered: {e:#}"
            ))
        })
}

/// The health check of the inet containers: identical for all of them (D-CFG-78).
fn health(spec: &HostSpec) -> Option<&HealthCheck> {
    spec.containers
        .iter()
        .find(|c| c.topology == Topology::Inet)
        .map(|c| &c.health)
}

/// D-HAP-3, D-HAP-4: what was set applies everywhere, 0 leaves a timeout out, `http-request` always has a value.
fn timeouts(proxy: &ProxySpec) -> Vec<(&'static str, Duration)> {
    let set = &proxy.timeouts;
    let or = |set: Option<Duration>, alone: Duration| {
        set.unwrap_or(if proxy.behind_load_balancer {
            LOAD_BALANCER_LIMIT
        } else {
            alone
        })
    };
    let client = or(set.client, Duration::from_secs(7));
    let guard = Duration::from_secs(4);
    let http_request = match set.http_request {
        Some(d) if !d.is_zero() => d,
        _ => guard,
    };
    [
        ("client", client),
        ("server", set.server.unwrap_or(client)),
        ("tunnel", set.tunnel.unwrap_or(client)),
        ("http-request", http_request),
        // Without a value of its own it would be that of `http-request`, shorter than a load balancer keeps connections,
        // which then meets closed ones.
        (
            "http-keep-alive",
            or(set.http_keep_alive, Duration::from_secs(60)),
        ),
    ]
    .into_iter()
    .filter(|(_, d)| !d.is_zero())
    .collect()
}

/// A text of the user's as one word of a configuration line.
fn word(what: &str, text: &str) -> Result<String, Failure> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Failure::new(
            CauseCode::ProxyConfig,
            format!(
                "{what} ({text:?}) can't be part of the proxy's configuration: it is empty or has a control character"
            ),
        ));
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' ' | '#' | '\\' | '"' | '\'') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    Ok(escaped)
}

/// The addresses of a set of servers.
pub fn addresses(servers: &[Server]) -> BTreeSet<Endpoint> {
    servers.iter().map(|s| s.address.clone()).collect()
}
