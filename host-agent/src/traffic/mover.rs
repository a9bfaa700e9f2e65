//! Moving traffic from one version to another, and back: configuration on disk first, then the running proxy.

use super::{
    Server, Wanted,
    proxy::{Proxy, Workers},
};
use crate::{
    failure::Failure,
    machine::Machine,
    seat::{Endpoint, Seats},
};
use contract::{job::DesiredState, signal::CauseCode, spec::HostSpec};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// How every configuration of ours begins; that of the proxy's package does not.
const OURS: &str = "# Written by porter's host agent";

/// What a move needs to know about this host.
#[derive(Debug)]
pub struct Mover<'a> {
    /// The proxy.
    pub proxy: &'a Proxy,
    /// Its listeners.
    pub machine: &'a Machine,
    /// The folder of the seats is the proxy's root.
    pub seats: &'a Seats,
    /// Keeps the configuration that served before.
    pub state: &'a Path,
}

impl Mover<'_> {
    fn previous(&self) -> PathBuf {
        self.state.join("haproxy.previous.cfg")
    }

    /// Sends every new request to `servers`. Can be repeated after an interruption at any point. A proxy that does so
    /// already, with the settings that are wanted, is neither told nor reloaded: what is served at a seat changes hands
    /// without it.
    ///
    /// # Errors
    /// [`CauseCode::ProxyConfig`]: refused by the syntax check, nothing has changed. [`CauseCode::ProxyReload`]: the old
    /// worker goes on; [`Mover::move_back`] restores the configuration on disk.
    pub async fn move_to(
        &self,
        desired: &DesiredState,
        spec: &HostSpec,
        servers: &[Server],
    ) -> Result<(), Failure> {
        let workers = self.proxy.workers().await;
        if servers.is_empty() {
            // Worker containers only: the proxy stays stopped (D-HAP-20).
            if workers.is_some() {
                self.proxy.stop().await.map_err(|why| {
                    Failure::new(
                        CauseCode::ProxyReload,
                        format!("the proxy did not stop: {why}"),
                    )
                })?;
            }
            return Ok(());
        }
        self.seats.prepare()?;
        let text = super::render(&Wanted {
            service: &desired.service,
            payload: &desired.payload,
            swap: &desired.swap,
            machine: self.machine,
            spec,
            servers,
            admin_socket: &self.proxy.admin_socket,
            root: self.seats.folder(),
            deny_list: Path::new(super::DENY_LIST).exists(),
        })?;
        if self
            .serves_so(workers.as_ref(), desired, &text, servers)
            .await
        {
            tracing::info!("the proxy's configuration stays as it is");
            let at = super::addresses(servers);
            self.proxy.trust(&desired.service, &at).await;
            return Ok(());
        }
        self.install(&text, &desired.swap).await?;
        self.take_over(workers, &desired.service, servers).await
    }

    /// Whether the proxy runs with just this configuration, its first line apart, which names payload and swap. One that
    /// this very swap wrote may not have been loaded yet.
    async fn serves_so(
        &self,
        workers: Option<&Workers>,
        desired: &DesiredState,
        text: &str,
        servers: &[Server],
    ) -> bool {
        let Some(current) = workers.and_then(|w| w.current) else {
            return false;
        };
        let Ok(Some(present)) = crate::files::read(&self.proxy.config) else {
            return false;
        };
        let rest = |config: &[u8]| {
            let line = config.iter().position(|b| *b == b'\n');
            line.map(|end| config[end..].to_vec())
        };
        present.starts_with(OURS.as_bytes())
            && !is_of(&present, &desired.swap)
            && rest(&present) == rest(text.as_bytes())
            && self.proxy.rotation(current, &desired.service).await == super::addresses(servers)
    }

    /// Renders aside, checks, renames (D-HOST-30). What served before is kept for the way back.
    async fn install(&self, text: &str, swap: &str) -> Result<(), Failure> {
        let config = &self.proxy.config;
        let failed = |e: io::Error| Failure::file("writing the proxy's configuration", config, &e);
        let folder = config.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        let mut aside = tempfile::Builder::new()
            .prefix(".haproxy-")
            .suffix(".cfg")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(failed)?;
        aside.write_all(text.as_bytes()).map_err(failed)?;
        aside.as_file().sync_all().map_err(failed)?;
        self.proxy.check(aside.path()).await?;
        let present = crate::files::read(config).map_err(failed)?;
        // A repetition finds its own configuration and must not take it for the one before.
        if !present.as_deref().is_some_and(|p| is_of(p, swap)) {
            let kept = match present {
                Some(bytes) => crate::files::replace(&self.previous(), &bytes),
                None => crate::files::remove(&self.previous()),
            };
            kept.map_err(|e| {
                Failure::file("keeping the proxy's configuration in", &self.previous(), &e)
            })?;
        }
        aside.persist(config).map_err(|e| failed(e.error))?;
        crate::files::sync_folder(folder).map_err(failed)
    }

    /// The running proxy follows the configuration on disk.
    async fn take_over(
        &self,
        workers: Option<Workers>,
        service: &str,
        servers: &[Server],
    ) -> Result<(), Failure> {
        let mut before = workers;
        if before.is_none() {
            let worker = self.proxy.start().await?;
            if self.proxy.rotation(worker, service).await == super::addresses(servers) {
                return Ok(());
            }
            // A proxy that had died: the service manager was faster, and it read the configuration before this one.
            before = self.proxy.workers().await;
        }
        let before = before.unwrap_or_default();
        if let Some(current) = before.current
            && let Err(why) = self.proxy.switch(current, service, servers).await
        {
            tracing::info!(
                why,
                "the running worker could not be switched; the reload moves the traffic"
            );
        }
        let worker = self.proxy.reload(&before).await?;
        let found: BTreeSet<Endpoint> = self.proxy.rotation(worker, service).await;
        if found == super::addresses(servers) {
            return Ok(());
        }
        Err(Failure::new(
            CauseCode::ProxyReload,
            format!(
                "the proxy runs with servers {found:?} instead of {:?}",
                super::addresses(servers)
            ),
        ))
    }

    /// Undoes [`Mover::move_to`] of this swap, however far it came. Does nothing when it had not changed anything.
    ///
    /// # Errors
    /// [`CauseCode::ProxyReload`], [`CauseCode::Internal`]: what serves now needs a look.
    pub async fn move_back(&self, service: &str, swap: &str) -> Result<(), Failure> {
        let config = &self.proxy.config;
        let failed =
            |e: io::Error| Failure::file("restoring the proxy's configuration", config, &e);
        let present = crate::files::read(config).map_err(failed)?;
        if !present.is_some_and(|p| is_of(&p, swap)) {
            return Ok(());
        }
        let workers = self.proxy.workers().await;
        match crate::files::read(&self.previous()).map_err(failed)? {
            None => {
                // There was no version before: nothing may serve.
                if workers.is_some() {
                    self.proxy.stop().await.map_err(|why| {
                        Failure::new(
                            CauseCode::ProxyReload,
                            format!("the proxy did not stop: {why}"),
                        )
                    })?;
                }
                crate::files::remove(config).map_err(failed)
            }
            Some(previous) => {
                let text = String::from_utf8_lossy(&previous).into_owned();
                crate::files::replace(config, &previous).map_err(failed)?;
                fs::set_permissions(config, fs::Permissions::from_mode(0o644)).map_err(failed)?;
                if workers.is_none() && !text.starts_with(OURS) {
                    return Ok(());
                }
                // A proxy that died meanwhile is started: otherwise nothing would serve.
                self.take_over(workers, service, &servers_in(&text)).await
            }
        }
    }
}

/// Whether a configuration was written for this swap: its first line says so.
fn is_of(config: &[u8], swap: &str) -> bool {
    let first = config.split(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(first).ends_with(&format!(", swap {swap}."))
}

/// The servers that a configuration of ours names; the relay and the copies behind it have no address or are known.
fn servers_in(config: &str) -> Vec<Server> {
    let mut servers: Vec<Server> = config
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "server").then_some(())?;
            Some(Server {
                name: words.next()?.to_owned(),
                address: address(words.next()?)?,
            })
        })
        .collect();
    servers.sort();
    servers.dedup();
    servers
}

/// The other way round than [`Endpoint::in_proxy`].
fn address(word: &str) -> Option<Endpoint> {
    match word.strip_prefix("unix@/") {
        Some(path) => path.split('/').next()?.parse().ok().map(Endpoint::Seat),
        None => word.parse().ok().map(Endpoint::Tcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seat::Seat;

    #[test]
    fn the_servers_of_a_configuration_are_found_in_it_again() {
        let server = |name: &str, address| Server {
            name: name.into(),
            address,
        };
        let servers = [
            server(
                "docker-1-20000",
                Endpoint::Tcp("127.0.0.1:20000".parse().unwrap()),
            ),
            server(
                "docker-2-s1",
                Endpoint::Seat(Seat::begun_by("i", "01A", "web")),
            ),
        ];
        let lines: Vec<String> = servers
            .iter()
            .map(|s| format!("    server {} {} check\n", s.name, s.address.in_proxy()))
            .collect();
        let config = format!(
            "{}    server relay abns@x pool-max-conn 0 disabled\n",
            lines.concat()
        );
        assert_eq!(servers_in(&config), servers);
    }
}
