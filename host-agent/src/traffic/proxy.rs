//! Telling the running HAProxy: syntax check, runtime commands and hitless reload through the master's socket.
//!
//! A cut-over without a lost request takes two moves. First the *running* worker sends every new request, also those on
//! connections that are open already, to the new version. Then the master reloads: a new worker with the new
//! configuration takes the listening sockets, the old worker keeps only the connections it has. Runtime commands must come
//! first, because a worker that has been replaced refuses them.
//!
//! For the same reason a replaced worker could never be told of the version after the next, while a client may keep a
//! connection idle over several swaps. So the first move does not point the worker at the new containers directly, but at
//! the *relay*: a listener that every configuration has and that always belongs to the current worker.
//!
//! | backend of a worker | before its replacement | from the first move on |
//! |---|---|---|
//! | `<service>-backend` | its own version's servers | the server `relay` |
//! | `<service>-relay-backend` | the same servers, for what older workers send | the next version's servers |

use super::Server;
use crate::{failure::Failure, seat::Endpoint};
use contract::signal::CauseCode;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    time::{Instant, sleep, timeout},
};

/// How long the proxy may take to start or to take over a configuration.
const TAKE_OVER: Duration = Duration::from_secs(30);
/// For one answer on its socket.
const ANSWER: Duration = Duration::from_secs(5);
/// Server administrative states in which no new request is sent: maintenance (1, 2, 4, 32) and drain (8, 16).
const OUT_OF_ROTATION: u32 = 1 | 2 | 4 | 8 | 16 | 32;

/// Name of the server that stands for whatever worker is current.
pub const RELAY: &str = "relay";

/// The proxy of this host.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The program, for its syntax check.
    pub program: PathBuf,
    /// Its configuration (D-HAP-1).
    pub config: PathBuf,
    /// The runtime socket that the configuration names.
    pub admin_socket: PathBuf,
    /// The master's socket.
    pub master_socket: PathBuf,
    /// Command that starts the service.
    pub start: Vec<String>,
    /// Command that stops it.
    pub stop: Vec<String>,
}

/// A worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Process id as the master sees it.
    pub pid: u32,
    /// 0 is the current one; each reload makes a worker one older.
    pub reloads: u32,
}

/// The master's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// The one that accepts connections.
    pub current: Option<Worker>,
    /// Those that only finish theirs.
    pub old: Vec<Worker>,
    /// Reloads that failed since the last good one.
    pub failed: u32,
}

impl Workers {
    /// Current first.
    pub fn all(&self) -> impl Iterator<Item = Worker> {
        self.current.into_iter().chain(self.old.iter().copied())
    }
}

/// A server as a worker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Option<Endpoint>,
    /// Whether new requests may go there.
    pub in_rotation: bool,
}

impl Proxy {
    /// One command to the master, or with `@!<pid>` to a worker.
    async fn ask(&self, command: &str) -> std::io::Result<String> {
        let talk = async {
            let mut socket = UnixStream::connect(&self.master_socket).await?;
            socket.write_all(format!("{command}\n").as_bytes()).await?;
            socket.shutdown().await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        timeout(ANSWER, talk)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// The running processes; `None` when the proxy does not run.
    pub async fn workers(&self) -> Option<Workers> {
        // While the master starts itself anew for a reload, its socket refuses for some milliseconds.
        for _ in 0..40 {
            match self.ask("show proc").await {
                Ok(answer) if answer.contains("master") => return Some(parse_workers(&answer)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
                _ if !self.master_socket.exists() => return None,
                _ => sleep(Duration::from_millis(25)).await,
            }
        }
        None
    }

    /// Addresses to which a worker sends new requests, through the relay or not.
    pub async fn rotation(&self, worker: Worker, service: &str) -> BTreeSet<Endpoint> {
        let mut servers = self.servers(worker, &super::backend(service)).await;
        if servers.iter().any(|s| s.name == RELAY && s.in_rotation) {
            servers = self.servers(worker, &super::relay_backend(service)).await;
        }
        servers
            .iter()
            .filter(|s| s.in_rotation)
            .filter_map(|s| s.address.clone())
            .collect()
    }

    /// The backend's servers as one worker knows them; empty when it has no such backend.
    async fn servers(&self, worker: Worker, backend: &str) -> Vec<ServerState> {
        let command = format!("@!{} show servers state {backend}", worker.pid);
        self.ask(&command)
            .await
            .map(|answer| parse_servers(&answer))
            .unwrap_or_default()
    }

    /// Sessions per server in one worker, the relay's left out: they are counted where they arrive. A worker that has ended
    /// has none.
    pub async fn sessions(&self, worker: Worker, service: &str) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for backend in [super::backend(service), super::relay_backend(service)] {
            let command = format!("@!{} show stat {backend} 4 -1", worker.pid);
            let Ok(answer) = self.ask(&command).await else {
                continue;
            };
            for (server, sessions) in parse_sessions(&answer, &backend) {
                *all.entry(server).or_default() += sessions;
            }
        }
        all.remove(RELAY);
        all
    }

    /// Asks the proxy's own syntax check (D-HOST-30).
    ///
    /// # Errors
    /// [`CauseCode::ProxyConfig`] with what it says.
    pub async fn check(&self, config: &Path) -> Result<(), Failure> {
        let output = Command::new(&self.program)
            .args(["-c", "-f"])
            .arg(config)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| {
                Failure::new(
                    CauseCode::ProxyConfig,
                    format!("{} can't be run: {e}", self.program.display()),
                )
            })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let alerts: Vec<&str> = said
            .lines()
            .filter(|l| l.contains("ALERT"))
            .map(|l| l.rsplit("] :").next().unwrap_or(l).trim())
            .collect();
        Err(Failure::new(
            CauseCode::ProxyConfig,
            format!(
                "the proxy refused its new configuration: {}",
                alerts.join("; ")
            ),
        )
        .with_log(said.into_owned()))
    }

    /// First move of a cut-over: in the running worker `wanted` take the new requests and all others get none.
    ///
    /// # Errors
    /// A sentence; the reload alone then moves new connections, and connections that are open already keep the old servers
    /// until their next answer says `Connection: close`.
    pub async fn switch(
        &self,
        worker: Worker,
        service: &str,
        wanted: &[Server],
    ) -> Result<(), String> {
        let (main, relay) = (super::backend(service), super::relay_backend(service));
        let in_main = self.servers(worker, &main).await;
        let in_relay = self.servers(worker, &relay).await;
        if in_main.iter().all(|s| s.name != RELAY) {
            return Err(format!("the running worker has no relay in `{main}`"));
        }
        for command in switch_commands((&main, &in_main), (&relay, &in_relay), wanted) {
            let answer = self
                .ask(&format!("@!{} {command}", worker.pid))
                .await
                .map_err(|e| format!("`{command}`: {e}"))?;
            let answer = answer.trim();
            if !answer.is_empty() && answer != "New server registered." {
                return Err(format!("`{command}`: {answer}"));
            }
        }
        Ok(())
    }

    /// Has the running worker take the servers at these addresses for healthy, whatever its own checks saw last: whoever
    /// calls has just heard from them. A seat that changed hands keeps its server, and that server the failures of the
    /// process before; clients would be refused for two more checks. The checks go on.
    pub async fn trust(&self, service: &str, at: &BTreeSet<Endpoint>) {
        let Some(worker) = self.workers().await.and_then(|w| w.current) else {
            return;
        };
        // Those behind the relay follow these.
        let backend = super::backend(service);
        for server in self.servers(worker, &backend).await {
            if server.address.is_some_and(|address| at.contains(&address)) {
                let command = format!("set server {backend}/{} health up", server.name);
                match self.ask(&format!("@!{} {command}", worker.pid)).await {
                    Ok(answer) if answer.trim().is_empty() => {}
                    Ok(answer) => tracing::warn!(command, answer, "the proxy refuses"),
                    Err(error) => tracing::warn!(command, %error, "the proxy does not answer"),
                }
            }
        }
    }

    /// Second move: a new worker with the configuration on disk takes the listening sockets (D-HOST-31).
    ///
    /// # Errors
    /// [`CauseCode::ProxyReload`]; the old worker then goes on.
    pub async fn reload(&self, before: &Workers) -> Result<Worker, Failure> {
        let failed = |why: String| {
            Failure::new(
                CauseCode::ProxyReload,
                format!("the proxy did not take over its new configuration: {why}"),
            )
        };
        // The answer is lost with the master's own restart; what counts is the next look.
        if let Err(e) = self.ask("reload").await {
            tracing::debug!(error = %e, "the master closed the connection while it reloads");
        }
        let until = Instant::now() + TAKE_OVER;
        while Instant::now() < until {
            match self.workers().await {
                Some(now) if now.failed > before.failed => {
                    return Err(failed("the new worker did not start; see its log".into()));
                }
                Some(Workers {
                    current: Some(worker),
                    ..
                }) if before.all().all(|b| b.pid != worker.pid) => return Ok(worker),
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
        Err(failed(format!("no new worker after {TAKE_OVER:?}")))
    }

    /// Starts the service and waits for its worker.
    ///
    /// # Errors
    /// [`CauseCode::ProxyReload`].
    pub async fn start(&self) -> Result<Worker, Failure> {
        run(&self.start).await.map_err(|why| {
            Failure::new(
                CauseCode::ProxyReload,
                format!("the proxy did not start: {why}"),
            )
        })?;
        let until = Instant::now() + TAKE_OVER;
        while Instant::now() < until {
            if let Some(Workers {
                current: Some(worker),
                ..
            }) = self.workers().await
            {
                return Ok(worker);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(Failure::new(
            CauseCode::ProxyReload,
            format!(
                "the proxy was started, but {} did not answer within {TAKE_OVER:?}",
                self.master_socket.display()
            ),
        ))
    }

    /// Stops the service: a host without inet containers has nothing to proxy (D-HAP-20).
    ///
    /// # Errors
    /// A sentence.
    pub async fn stop(&self) -> Result<(), String> {
        run(&self.stop).await
    }

    /// Ends the sessions of the given servers in one worker.
    pub async fn cut(&self, worker: Worker, service: &str, servers: &[String]) {
        let backends = [super::backend(service), super::relay_backend(service)];
        let Ok(listed) = self.ask(&format!("@!{} show sess", worker.pid)).await else {
            return;
        };
        // `shutdown sessions server` would be one command, but a worker that has been replaced refuses it.
        for id in parse_session_ids(&listed, &backends, servers) {
            // One that is refused has ended by itself.
            let command = format!("@!{} shutdown session {id}", worker.pid);
            drop(self.ask(&command).await);
        }
    }
}

async fn run(command: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("no command is configured".into());
    };
    let output = Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("`{}`: {e}", command.join(" ")))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "`{}` ended with {}: {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

/// The commands that bring a running worker from the servers it has to the wanted ones: new ones first, so that there is
/// no moment without a server. A version that is the worker's own is served directly, any other through the relay.
fn switch_commands(
    (main, in_main): (&str, &[ServerState]),
    (relay, in_relay): (&str, &[ServerState]),
    wanted: &[Server],
) -> Vec<String> {
    let own = wanted
        .iter()
        .all(|w| in_main.iter().any(|p| p.name == w.name));
    let through = Server {
        name: RELAY.into(),
        // Every configuration has it, so that its address is never needed here.
        address: Endpoint::Tcp(SocketAddrV4::new([0, 0, 0, 0].into(), 0)),
    };
    let mut commands = bring(relay, in_relay, wanted);
    if own {
        commands.extend(bring(main, in_main, wanted));
    } else {
        commands.extend(bring(main, in_main, &[through]));
    }
    commands
}

/// The commands for one backend.
fn bring(backend: &str, present: &[ServerState], wanted: &[Server]) -> Vec<String> {
    let mut commands = Vec::new();
    for server in wanted {
        let name = format!("{backend}/{}", server.name);
        match present.iter().find(|p| p.name == server.name) {
            Some(p) if p.in_rotation => {}
            Some(_) => commands.push(format!("set server {name} state ready")),
            None => {
                commands.push(format!("add server {name} {}", server.address.in_proxy()));
                commands.push(format!("enable server {name}"));
            }
        }
    }
    let unwanted = present
        .iter()
        .filter(|p| p.in_rotation && wanted.iter().all(|w| w.name != p.name));
    commands.extend(unwanted.map(|p| format!("set server {backend}/{} state drain", p.name)));
    commands
}

fn parse_workers(answer: &str) -> Workers {
    let mut workers = Workers::default();
    for line in answer.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(kind), Some(reloads)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind == "master" {
            // `1 [failed: 0]`
            workers.failed = line
                .split_once("[failed:")
                .and_then(|(_, rest)| rest.split(']').next()?.trim().parse().ok())
                .unwrap_or(0);
        } else if kind == "worker"
            && let (Ok(pid), Ok(reloads)) = (pid.parse(), reloads.parse())
        {
            let worker = Worker { pid, reloads };
            if reloads == 0 {
                workers.current = Some(worker);
            } else {
                workers.old.push(worker);
            }
        }
    }
    // After a failed reload the master keeps the worker it had and counts it as old.
    if workers.current.is_none() {
        workers.old.sort_by_key(|w| w.reloads);
        workers.current = (!workers.old.is_empty()).then(|| workers.old.remove(0));
    }
    workers
}

fn parse_servers(answer: &str) -> Vec<ServerState> {
    let mut columns: Vec<&str> = Vec::new();
    let mut servers = Vec::new();
    for line in answer.lines() {
        if let Some(header) = line.strip_prefix("# ") {
            columns = header.split(' ').collect();
            continue;
        }
        let values: Vec<&str> = line.split(' ').collect();
        let get = |name: &str| {
            let at = columns.iter().position(|c| *c == name)?;
            values.get(at).copied()
        };
        let Some(name) = get("srv_name") else {
            continue;
        };
        // The proxy shows no path of a Unix socket; the server's name ends with its seat.
        let address = || match get("srv_addr")?.parse() {
            Ok(ip) => {
                let at = SocketAddrV4::new(ip, get("srv_port")?.parse().ok()?);
                Some(Endpoint::Tcp(at))
            }
            Err(_) => name.rsplit('-').next()?.parse().ok().map(Endpoint::Seat),
        };
        let state: u32 = get("srv_admin_state")
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        servers.push(ServerState {
            name: name.to_owned(),
            address: address(),
            in_rotation: state & OUT_OF_ROTATION == 0,
        });
    }
    servers
}

fn parse_sessions(answer: &str, backend: &str) -> BTreeMap<String, u64> {
    answer
        .lines()
        .filter_map(|line| {
            // pxname,svname,qcur,qmax,scur,…
            let mut fields = line.split(',');
            let (proxy, server) = (fields.next()?, fields.next()?);
            let current = fields.nth(2)?.parse().ok()?;
            (proxy == backend).then(|| (server.to_owned(), current))
        })
        .collect()
}

fn parse_session_ids<'a>(listed: &'a str, backends: &[String], servers: &[String]) -> Vec<&'a str> {
    listed
        .lines()
        .filter(|line| {
            let has = |key: &str, value: &str| {
                line.split_whitespace()
                    .any(|w| w.strip_prefix(key) == Some(value))
            };
            backends.iter().any(|b| has("be=", b)) && servers.iter().any(|s| has("srv=", s))
        })
        .filter_map(|line| line.split_once(": ").map(|(id, _)| id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESSES: &str = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
        27024           master          3 [failed: 0]   0d00h00m10s     2.6.12-1+deb12u4\n# workers\n\
        27079           worker          0               0d00h00m08s     2.6.12-1+deb12u4\n# old workers\n\
        27027           worker          1               0d00h00m10s     2.6.12-1+deb12u4\n\
        27000           worker          2               0d00h00m10s     2.6.12-1+deb12u4\n# programs\n\n";

    #[test]
    fn the_masters_list_of_processes_is_read_with_current_and_old_workers() {
        let workers = parse_workers(PROCESSES);
        assert_eq!(
            workers.current,
            Some(Worker {
                pid: 27079,
                reloads: 0
            })
        );
        assert_eq!(
            workers.old.iter().map(|w| w.pid).collect::<Vec<_>>(),
            [27027, 27000]
        );
        let failed = PROCESSES
            .replace("[failed: 0]", "[failed: 2]")
            .replace("27079           worker          0 ", "");
        assert_eq!(parse_workers(&failed).failed, 2);
        assert_eq!(parse_workers(&failed).current.map(|w| w.pid), Some(27027));
    }

    #[test]
    fn servers_in_drain_or_maintenance_are_out_of_rotation() {
        let answer = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord\n\
            3 b 1 docker-1-19001 127.0.0.1 2 8 1 1 0 6 3 4 6 0 0 0 - 19001 -\n3 b 2 docker-1-19002 127.0.0.1 2 0 1 1 0 1 0 0 0 0 0 0 - 19002 -\n3 b 3 x 127.0.0.1 2 1 1 1 0 1 0 0 0 0 0 0 - 19003 -\n\n";
        let servers = parse_servers(answer);
        assert_eq!(
            servers
                .iter()
                .map(|s| (s.name.as_str(), s.in_rotation))
                .collect::<Vec<_>>(),
            [
                ("docker-1-19001", false),
                ("docker-1-19002", true),
                ("x", false)
            ]
        );
        assert_eq!(servers[1].address, Some("127.0.0.1:19002".parse().unwrap()));
        let unix = answer.replace("docker-1-19001 127.0.0.1", "docker-1-s0123456789 -");
        let seat = Some("unix:s0123456789".parse().unwrap());
        assert_eq!(parse_servers(&unix)[0].address, seat);
    }

    #[test]
    fn d_host_32_sessions_are_counted_per_server_and_found_for_cutting() {
        // D-HOST-32
        let stat = "# pxname,svname,qcur,qmax,scur,smax\nb,docker-1-1,0,0,2,3\nb,docker-1-2,0,0,0,3\nother,docker-1-1,0,0,9,9\n";
        assert_eq!(
            parse_sessions(stat, "b"),
            BTreeMap::from([("docker-1-1".into(), 2), ("docker-1-2".into(), 0)])
        );
        let listed = "0x55aa: proto=tcpv4 src=127.0.0.1:6 fe=f be=b srv=docker-1-1 ts=00\n0x55ab: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00\n0x55ac: proto=tcpv4 fe=f be=b srv=docker-1-12 ts=0\n";
        assert_eq!(
            parse_session_ids(listed, &["b".into()], &["docker-1-1".into()]),
            ["0x55aa"]
        );
    }

    #[test]
    fn d_host_31_new_servers_take_requests_before_old_ones_stop_taking_them() {
        // D-HOST-31
        let state = |name: &str, in_rotation| ServerState {
            name: name.into(),
            address: None,
            in_rotation,
        };
        let server = |name: &str| Server {
            name: name.into(),
            address: "127.0.0.1:2".parse().unwrap(),
        };
        let commands = |main: &[ServerState], relay: &[ServerState], wanted: &str| {
            switch_commands(("b", main), ("r", relay), &[server(wanted)])
        };
        let fresh = [state("old", true), state("relay", false)];
        assert_eq!(
            commands(&fresh, &[state("old", true)], "new"),
            [
                "add server r/new 127.0.0.1:2",
                "enable server r/new",
                "set server r/old state drain",
                "set server b/relay state ready",
                "set server b/old state drain"
            ]
        );
        // After an interruption in the middle, and when it is all done already.
        assert_eq!(
            commands(&fresh, &[state("old", false), state("new", false)], "new"),
            [
                "set server r/new state ready",
                "set server b/relay state ready",
                "set server b/old state drain"
            ]
        );
        let done = [state("old", false), state("relay", true)];
        let relayed = [state("old", false), state("new", true)];
        assert!(commands(&done, &relayed, "new").is_empty());
        // The way back: the worker's own version needs no relay.
        assert_eq!(
            commands(&done, &relayed, "old"),
            [
                "set server r/old state ready",
                "set server r/new state drain",
                "set server b/old state ready",
                "set server b/relay state drain"
            ]
        );
    }
}
