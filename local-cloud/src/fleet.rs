//! The fleet: the background process of a local cloud. It starts the emulator, follows every Auto Scaling group, and keeps
//! one simulated host per instance. Everything else dies with it.
//!
//! It plays the parts of AWS that MiniStack leaves out: launching the instances of a group that CloudFormation made, and
//! starting and terminating real hosts for them.

use crate::{
    cloud,
    emulator::{self, Emulator},
    host::{self, Boot, HostState},
    membership::{self, Membership},
    place::{self, CloudFile, Place, exports},
    process::Process,
    query::Endpoint,
    requirements, resources,
    settings::Settings,
};
use anyhow::{Context, Result, bail};
use aws_sdk_autoscaling::Client;
use aws_sdk_elasticloadbalancingv2::{
    Client as Balancers, error::DisplayErrorContext, types::TargetDescription,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener},
    process::Child,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// MiniStack's account.
const ACCOUNT: &str = "000000000000";
/// Bound for as long as a cloud uses the block of addresses 127.0.N.0/24.
const BLOCK_PORT: u16 = 1337;
/// Hosts' addresses in a block; the lower ones are often taken, such as Debian's 127.0.1.1.
const ADDRESSES: std::ops::RangeInclusive<u8> = 11..=250;

/// An instance that an Auto Scaling group has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Group name.
    pub group: String,
    /// Region of the group.
    pub region: String,
    /// Availability zone.
    pub zone: String,
    /// Launch template's id.
    pub template: String,
    /// Its version.
    pub version: String,
}

/// What is to be done so that the hosts are the instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Instances without a host.
    pub start: Vec<String>,
    /// Hosts without an instance.
    pub terminate: Vec<String>,
}

/// Compares what the groups have with the hosts that were started. A host that has ended by itself is not started anew:
/// its instance is a crashed one, until its group lets it go.
pub fn steps(wanted: &BTreeMap<String, Instance>, hosts: &BTreeSet<String>) -> Steps {
    Steps {
        start: wanted
            .keys()
            .filter(|id| !hosts.contains(*id))
            .cloned()
            .collect(),
        terminate: hosts
            .iter()
            .filter(|id| !wanted.contains_key(*id))
            .cloned()
            .collect(),
    }
}

/// The fleet's whole life.
///
/// # Errors
/// The cloud can't be set up, or the emulator ended.
pub fn main(place: &Place) -> Result<()> {
    // A session of its own: the terminal from which `up` was called may go.
    rustix::process::setsid().context("the fleet is started by `up`")?;
    place::write_json(
        &place.file("fleet.json"),
        &Process::current().context("/proc")?,
    )?;
    let result = crate::entry::in_runtime(run(place));
    match &result {
        Ok(()) => eprintln!("the fleet ends"),
        Err(e) => eprintln!("the fleet ends: {e:#}"),
    }
    result
}

async fn run(place: &Place) -> Result<()> {
    let settings: Settings = place::read_json(&place.file("settings.json"))?;
    let (mut end, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let (claim, block) = claim_block(&place.name)?;
    let emulator = Emulator::start_in(
        &settings.python,
        &place.file("emulator"),
        &place.file("emulator.log"),
        &place.state,
    )
    .await?;
    let mut env = resources::create(emulator.endpoint(), &settings.regions)
        .await
        .context("setting the cloud up")?;
    let region = settings.regions.first().context("no region")?;
    for (key, value) in [
        ("AWS_ENDPOINT_URL", emulator.endpoint()),
        ("AWS_REGION", region),
        ("AWS_DEFAULT_REGION", region),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("PORTER_LOCAL_NAME", &place.name),
        ("PORTER_LOCAL_HOSTS", &settings.hosts.to_string()),
    ] {
        env.insert(key.into(), value.into());
    }
    place::write(&place.file("env"), exports(&env).as_bytes(), 0o600)?;
    let file = CloudFile {
        emulator: emulator.process(),
        endpoint: emulator.endpoint().into(),
        regions: settings.regions.clone(),
        env,
    };
    place::write_json(&place.file("cloud.json"), &file)?;
    let mut fleet = Fleet::new(place.clone(), settings, block, emulator.endpoint()).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
        }
        if !emulator.is_alive() {
            bail!(
                "MiniStack ended, and with it everything it knew; the end of its log:\n{}",
                emulator::tail(&place.file("emulator.log"), 10)
            );
        }
        if fleet.settings.owner.is_some_and(|owner| !owner.is_alive()) {
            eprintln!("the owner of this cloud has ended");
            fleet.end();
            drop((emulator, claim));
            return cloud::remove_leftovers(place).await;
        }
        fleet.look().await;
    }
    fleet.end();
    drop(claim);
    Ok(())
}

/// A block of loopback addresses that no other cloud on this machine uses: the default cloud prefers 127.0.1.0/24.
fn claim_block(name: &str) -> Result<(TcpListener, u8)> {
    let first = if name == crate::DEFAULT_NAME { 1 } else { 2 };
    (first..=254)
        .find_map(|block| bind_block(block).map(|listener| (listener, block)))
        .context("no block of loopback addresses 127.0.N.0/24 is free")
}

fn bind_block(block: u8) -> Option<TcpListener> {
    TcpListener::bind(SocketAddr::from(([127, 0, block, 254], BLOCK_PORT))).ok()
}

/// Whether any cloud runs on this machine, of whatever user or name.
pub fn any_runs() -> bool {
    (1..=254).any(|block| bind_block(block).is_none())
}

/// A host that was started.
struct Host {
    process: Child,
    boot: Boot,
    registered: bool,
}

/// What is known of a group's stack, and how often nothing was found.
#[derive(Default)]
struct Group {
    membership: Option<Membership>,
    misses: u32,
}

/// A group that no stack names after so many looks was made without CloudFormation.
const MISSES: u32 = 6;

struct Fleet {
    place: Place,
    settings: Settings,
    block: u8,
    endpoint: Endpoint,
    clients: Vec<(String, Client)>,
    hosts: BTreeMap<String, Host>,
    groups: BTreeMap<String, Group>,
    complaints: BTreeMap<String, String>,
}

impl Fleet {
    async fn new(place: Place, settings: Settings, block: u8, url: &str) -> Self {
        let mut clients = vec![];
        for region in &settings.regions {
            clients.push((
                region.clone(),
                Client::new(&emulator::sdk_config(url, region).await),
            ));
        }
        Self {
            place,
            settings,
            block,
            endpoint: Endpoint::new(url),
            clients,
            hosts: BTreeMap::new(),
            groups: BTreeMap::new(),
            complaints: BTreeMap::new(),
        }
    }

    /// One look at the groups. When one can't be seen nothing is concluded.
    async fn look(&mut self) {
        let wanted = match self.wanted().await {
            Ok(wanted) => wanted,
            Err(e) => return self.complain("groups", &format!("{e:#}")),
        };
        let known = self.hosts.keys().cloned().collect();
        let steps = steps(&wanted, &known);
        for id in steps.terminate {
            eprintln!("{id} has left its group: its host is terminated");
            if let Err(e) = self.terminate(&id).await {
                self.complain(&id, &format!("{e:#}"));
            }
        }
        for id in steps.start {
            if let Some(instance) = wanted.get(&id)
                && let Err(e) = self.start(&id, instance).await
            {
                self.complain(&id, &format!("{id} was not started: {e:#}"));
            }
        }
        self.restart_asked();
        self.register().await;
    }

    async fn wanted(&self) -> Result<BTreeMap<String, Instance>> {
        let mut wanted = BTreeMap::new();
        for (region, client) in &self.clients {
            let mut pages = client
                .describe_auto_scaling_groups()
                .into_paginator()
                .items()
                .send();
            while let Some(group) = pages.next().await {
                let group = group.with_context(|| format!("groups in {region}"))?;
                let name = group.auto_scaling_group_name().unwrap_or_default();
                let desired = usize::try_from(group.desired_capacity().unwrap_or_default())
                    .unwrap_or_default();
                if group.instances().len() != desired {
                    // MiniStack launches and terminates instances when the group is touched; a touch that names no
                    // number can't undo a change that somebody makes at the same time.
                    client
                        .update_auto_scaling_group()
                        .auto_scaling_group_name(name)
                        .send()
                        .await
                        .with_context(|| name.to_owned())?;
                }
                for instance in group.instances() {
                    let template = instance.launch_template().or(group.launch_template());
                    wanted.insert(
                        instance.instance_id().unwrap_or_default().to_owned(),
                        Instance {
                            group: name.into(),
                            region: region.clone(),
                            zone: instance.availability_zone().unwrap_or_default().into(),
                            template: template
                                .and_then(|t| t.launch_template_id())
                                .unwrap_or_default()
                                .into(),
                            version: template
                                .and_then(|t| t.version())
                                .unwrap_or_default()
                                .into(),
                        },
                    );
                }
            }
        }
        Ok(wanted)
    }

    async fn start(&mut self, id: &str, instance: &Instance) -> Result<()> {
        let Some(membership) = self.membership(instance).await? else {
            return Ok(());
        };
        let data = resources::launch_data(
            &self.endpoint,
            &instance.region,
            &instance.template,
            &instance.version,
        )
        .await?;
        let taken: BTreeSet<&str> = self
            .hosts
            .values()
            .map(|h| h.boot.address.as_str())
            .collect();
        let address = ADDRESSES
            .map(|n| format!("127.0.{}.{n}", self.block))
            .find(|a| !taken.contains(a.as_str()))
            .context("every address of this cloud is taken")?;
        let boot = Boot {
            instance: id.into(),
            group: instance.group.clone(),
            stack: Some(membership.stack).filter(|s| !s.is_empty()),
            target_groups: membership.target_groups,
            address,
            region: instance.region.clone(),
            zone: instance.zone.clone(),
            account: ACCOUNT.into(),
            image: data.image,
            instance_type: data.instance_type,
            role: data.role,
            user_data: data.user_data,
            endpoint: self.endpoint.url.clone(),
            poll_ms: self.settings.poll_ms,
            docker_socket: requirements::docker_socket(),
            owner: self.place.state.clone(),
        };
        eprintln!("{id} of {} starts at {}", instance.group, boot.address);
        let process = host::start(&self.place, &boot)?;
        self.hosts.insert(
            id.into(),
            Host {
                process,
                boot,
                registered: false,
            },
        );
        Ok(())
    }

    /// The stack of an instance's group; none as long as it may still turn up. CloudFormation lists a resource a moment
    /// after it exists.
    async fn membership(&mut self, instance: &Instance) -> Result<Option<Membership>> {
        if let Some(known) = self
            .groups
            .get(&instance.group)
            .and_then(|g| g.membership.clone())
        {
            return Ok(Some(known));
        }
        let client = aws_sdk_cloudformation::Client::new(
            &emulator::sdk_config(&self.endpoint.url, &instance.region).await,
        );
        let found = membership::find(&client, &instance.group).await?;
        let group = self.groups.entry(instance.group.clone()).or_default();
        if found.is_none() {
            group.misses += 1;
        }
        group.membership = found.or_else(|| (group.misses >= MISSES).then(Membership::default));
        Ok(group.membership.clone())
    }

    /// Hosts that have come up are registered in the target groups of their group. MiniStack calls every registered
    /// target healthy, so none is registered before it is.
    async fn register(&mut self) {
        let mut complaints = vec![];
        for (id, host) in &mut self.hosts {
            if host.registered || host.boot.target_groups.is_empty() {
                continue;
            }
            if !host::info(&self.place, id).is_ok_and(|i| i.state == HostState::Running) {
                continue;
            }
            let client =
                Balancers::new(&emulator::sdk_config(&self.endpoint.url, &host.boot.region).await);
            host.registered = true;
            for group in &host.boot.target_groups {
                let call = client
                    .register_targets()
                    .target_group_arn(group)
                    .targets(TargetDescription::builder().id(id).build());
                if let Err(e) = call.send().await {
                    complaints.push((
                        id.clone(),
                        format!(
                            "{id} was not registered in {group}: {}",
                            DisplayErrorContext(&e)
                        ),
                    ));
                }
            }
        }
        complaints
            .iter()
            .for_each(|(id, text)| self.complain(id, text));
    }

    async fn deregister(&self, boot: &Boot) {
        if boot.target_groups.is_empty() {
            return;
        }
        let client = Balancers::new(&emulator::sdk_config(&self.endpoint.url, &boot.region).await);
        for group in &boot.target_groups {
            let call = client
                .deregister_targets()
                .target_group_arn(group)
                .targets(TargetDescription::builder().id(&boot.instance).build());
            // A target group that goes with its stack needs no deregistration.
            let _ = call.send().await;
        }
    }

    async fn terminate(&mut self, id: &str) -> Result<()> {
        let dir = self.place.host(id);
        host::stop(&dir);
        if let Some(mut host) = self.hosts.remove(id) {
            host.process.kill().ok();
            host.process.wait()?;
            self.deregister(&host.boot).await;
        }
        cloud::remove_from_engine(&[id.to_owned()]).await?;
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
    }

    /// Hosts with a file `reboot` beside them are restarted: same root, new PID 1.
    fn restart_asked(&mut self) {
        for (id, host) in &mut self.hosts {
            let child = &mut host.process;
            let dir = self.place.host(id);
            let asked = dir.join("reboot");
            if !asked.exists() {
                continue;
            }
            host::stop(&dir);
            let restarted = child
                .kill()
                .and_then(|()| child.wait())
                .map_err(Into::into)
                .and_then(|_| {
                    let boot: Boot = place::read_json(&dir.join("boot.json"))?;
                    *child = host::start(&self.place, &boot)?;
                    fs::remove_file(&asked)?;
                    anyhow::Ok(())
                });
            if let Err(e) = restarted {
                eprintln!("{id} was not restarted: {e:#}");
            }
        }
    }

    /// Says the same thing about the same matter once.
    fn complain(&mut self, about: &str, text: &str) {
        if self.complaints.insert(about.into(), text.into()).as_deref() != Some(text) {
            eprintln!("{text}");
        }
    }

    fn end(&mut self) {
        for (id, mut host) in std::mem::take(&mut self.hosts) {
            host::stop(&self.place.host(&id));
            let _ = host.process.kill();
            let _ = host.process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance() -> Instance {
        Instance {
            group: "g".into(),
            region: "r".into(),
            zone: "z".into(),
            template: "t".into(),
            version: "1".into(),
        }
    }

    proptest! {
        #[test]
        fn after_the_steps_the_hosts_are_the_instances(wanted in proptest::collection::btree_set("i-[a-d]{2}", 0..8), hosts in proptest::collection::btree_set("i-[a-d]{2}", 0..8)) {
            let map: BTreeMap<_, _> = wanted.iter().map(|id| (id.clone(), instance())).collect();
            let steps = steps(&map, &hosts);
            prop_assert!(steps.start.iter().all(|s| !hosts.contains(s)) && steps.terminate.iter().all(|t| hosts.contains(t)));
            let mut after = hosts.clone();
            after.extend(steps.start);
            steps.terminate.iter().for_each(|t| { after.remove(t); });
            prop_assert_eq!(after, wanted);
        }
    }
}
