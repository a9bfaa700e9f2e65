//! THE host side of a deployment, step by step, in the words of `docs/hotswap.md`.
//!
//! Until traffic has moved every failure undoes what was done and leaves the old version as it was. Afterwards nothing
//! that goes wrong can change the outcome: it becomes a warning in the report (D-HOST-36).

use crate::{
    clean, containers, custom,
    docker::Container,
    drain,
    failure::Failure,
    headroom, health,
    host::Host,
    images,
    journal::{Journal, Verdict},
    observe::{self, Facts},
    seat::Seat,
    store::Store,
    takeover::{self, Pair},
    traffic::{self, Server},
};
use contract::{
    digest::Digest,
    job::DesiredState,
    manifest::Manifest,
    signal::{CauseCode, FORMAT, Handover, HostSignal, Kind},
    spec::{ContainerSpec, HostSpec, SwapOrder, Topology},
    step::Step,
};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// Blobs that are fetched at a time.
const TRANSFERS: usize = 4;
/// The failure waits this long at most for an engine that does not answer: less than the build host waits for a verdict.
const ENGINE_RETURNS_WITHIN: Duration = Duration::from_secs(4);
/// Progress within the fetch is told this often at most.
const FETCH_DETAIL: Duration = Duration::from_secs(2);
/// Between two looks at the stack while a swap is prepared: is something newer wanted?
const NEWER: Duration = Duration::from_secs(10);

/// One swap under way.
pub struct Swap<'h> {
    host: &'h mut Host,
    store: Store,
    journal: Journal,
    /// What was true when the swap began.
    before: Facts,
}

/// What the steps up to the health check leave behind.
struct Prepared {
    spec: HostSpec,
    containers: Vec<Container>,
}

impl<'h> Swap<'h> {
    /// A swap for this desired state, or the rest of the one in `journal`.
    ///
    /// # Errors
    /// When the state directory can't be used.
    pub fn new(host: &'h mut Host, journal: Journal, before: Facts) -> Result<Self, Failure> {
        let store = Store::open(&host.settings.state_dir)?;
        Ok(Self {
            host,
            store,
            journal,
            before,
        })
    }

    /// The whole swap. Returns the verdict, which is journaled and handed to the outbox.
    ///
    /// # Errors
    /// Only when the verdict could not be delivered; it is sent when the agent runs next.
    pub async fn run(mut self, steps: &[Step]) -> Result<Verdict, Failure> {
        let verdict = match self.prepare().await {
            Ok(prepared) => match self.change_over(&prepared).await {
                Ok(servers) => self.finish(&prepared.spec, &servers, steps).await,
                Err(failure) => self.undo(failure).await,
            },
            Err(failure) => self.undo(failure).await,
        };
        self.report(verdict).await
    }

    /// The steps after the handover or the cut-over, for a swap that a restart of the agent interrupted there.
    ///
    /// # Errors
    /// As [`Swap::run`].
    pub async fn resume(mut self) -> Result<Verdict, Failure> {
        let ours: Vec<Container> = self
            .before
            .running(&self.journal.desired.swap)
            .cloned()
            .collect();
        let verdict = match self.spec().await {
            Ok((_, spec)) => {
                let prepared = Prepared {
                    spec,
                    containers: ours,
                };
                let rest = if self.journal.is_done(Step::CutOver) {
                    let servers = traffic::servers(&prepared.spec, &prepared.containers);
                    self.bake(&prepared).await.map(|()| servers)
                } else {
                    self.change_over(&prepared).await
                };
                match rest {
                    Ok(servers) => self.finish(&prepared.spec, &servers, &Step::ALL).await,
                    Err(failure) => self.undo(failure).await,
                }
            }
            Err(failure) => self.failed(failure),
        };
        self.report(verdict).await
    }

    /// Undoes a swap whose traffic has not moved, or moves it back, and reports why.
    ///
    /// # Errors
    /// As [`Swap::run`].
    pub async fn abandon(mut self, why: Failure) -> Result<Verdict, Failure> {
        let why = self.journal.failing.clone().map_or(why, Failure::from);
        let verdict = self.undo(why).await;
        self.report(verdict).await
    }

    /// The host serves the wanted payload already: leftovers go, the report says so, nothing that serves is touched.
    ///
    /// # Errors
    /// As [`Swap::run`].
    pub async fn confirm(mut self) -> Result<Verdict, Failure> {
        let serving = self.before.serving().map(|(swap, _)| swap.to_owned());
        let leftovers: Vec<Container> = self
            .before
            .containers
            .iter()
            .filter(|c| Some(&c.swap) != serving.as_ref())
            .cloned()
            .collect();
        self.step(Step::Detect, async |_| Ok(())).await?;
        let warnings = clean::containers(&self.host.engine, &leftovers).await;
        self.journal.warnings.extend(warnings);
        if let Ok((_, spec)) = self.spec().await {
            self.remove_images(&spec).await;
        }
        let verdict = self.verdict(self.good(), Step::Report, None);
        self.report(verdict).await
    }

    // ---- before traffic moves ------------------------------------------------------------------------------------

    /// Steps `detect` to `health`, given up at the deadline, at the end of `prepare_timeout`, or when something newer is
    /// wanted.
    async fn prepare(&mut self) -> Result<Prepared, Failure> {
        let stack = self.host.stack.clone();
        let desired = self.journal.desired.clone();
        let boot = self.journal.boot;
        tokio::select! {
            result = self.prepare_steps() => result,
            newer = superseded(&stack, &desired.swap) => Err(Failure::new(
                CauseCode::Superseded,
                format!("swap {newer} is wanted now; swap {} had not moved traffic and was undone", desired.swap),
            )),
            () = until(desired.deadline), if !boot => Err(too_late(&desired)),
        }
    }

    async fn prepare_steps(&mut self) -> Result<Prepared, Failure> {
        let began = Instant::now();
        self.step(Step::Detect, async |_| Ok(())).await?;
        let (manifest, spec) = self
            .step(Step::Fetch, async |swap| {
                let (manifest, spec) = swap.spec().await?;
                swap.fetch(&manifest, &spec, began + spec.swap.prepare_timeout)
                    .await?;
                Ok((manifest, spec))
            })
            .await?;
        let limit = began + spec.swap.prepare_timeout;
        let bounded = async {
            self.step(Step::Load, async |swap| swap.load(&manifest, &spec).await)
                .await?;
            self.step(Step::Start, async |swap| swap.start(&manifest, &spec).await)
                .await
        };
        let containers = timeout_at(limit, bounded)
            .await
            .unwrap_or_else(|_| Err(prepare_timeout(&spec)))?;
        let containers = self
            .step(Step::Health, async |swap| {
                swap.health(&spec, &containers, limit).await?;
                swap.successions(&manifest, &spec, containers, limit).await
            })
            .await?;
        Ok(Prepared { spec, containers })
    }

    /// What this host shall run: the manifest's entry for its environment and region.
    async fn spec(&self) -> Result<(Manifest, HostSpec), Failure> {
        let desired = &self.journal.desired;
        let manifest = self
            .store
            .manifest(
                &self.host.bucket,
                &desired.bucket,
                &desired.service,
                &desired.payload,
            )
            .await?;
        let spec = manifest
            .hosts
            .get(&desired.environment)
            .and_then(|r| r.get(&desired.region))
            .cloned();
        let spec = spec.ok_or_else(|| {
            Failure::new(
                CauseCode::PayloadMissing,
                format!(
                    "payload {} has nothing for environment `{}` in {}",
                    desired.payload.short(),
                    desired.environment,
                    desired.region
                ),
            )
        })?;
        Ok((manifest, spec))
    }

    /// Seed step 2: only blobs whose images the engine lacks, only those not on disk (D-PAY-6).
    async fn fetch(
        &mut self,
        manifest: &Manifest,
        spec: &HostSpec,
        limit: Instant,
    ) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let mut unpacked = 0;
        for image in self.images_lacking(manifest, spec).await? {
            let layers = image.layers.iter().map(|l| l.unpacked);
            unpacked = layers.fold(unpacked, u64::saturating_add);
            let blobs = std::iter::once(&image.config).chain(image.layers.iter().map(|l| &l.blob));
            for blob in blobs {
                if !missing.contains(blob) && !self.store.has(blob).await? {
                    missing.push(blob.clone());
                }
            }
        }
        let size = missing.iter().map(|b| b.size).fold(0, u64::saturating_add);
        headroom::disk(
            &self.host.settings.state_dir,
            self.host.engine.root_directory().await?.as_deref(),
            size,
            unpacked,
        )?;
        if missing.is_empty() {
            return Ok(());
        }
        let fetched = AtomicU64::new(0);
        let desired = self.journal.desired.clone();
        let (store, bucket) = (self.store.clone(), self.host.bucket.clone());
        let transfers = async {
            stream::iter(&missing)
                .map(|blob| store.fetch(&bucket, &desired.bucket, &desired.service, blob, &fetched))
                .buffer_unordered(TRANSFERS)
                .try_collect::<Vec<()>>()
                .await
        };
        let mut transfers = std::pin::pin!(transfers);
        let mut tick = tokio::time::interval_at(Instant::now() + FETCH_DETAIL, FETCH_DETAIL);
        let result = loop {
            tokio::select! {
                result = &mut transfers => break result.map(|_| ()),
                _ = tick.tick() => {
                    let percent = fetched.load(Ordering::Relaxed).saturating_mul(100) / size.max(1);
                    self.progress(Step::Fetch, Some(format!("{} %", percent.min(100))));
                }
                () = tokio::time::sleep_until(limit) => break Err(prepare_timeout(spec)),
            }
        };
        self.journal.bytes += fetched.load(Ordering::Relaxed);
        result
    }

    /// Seed step 2: the engine gets the images it lacks.
    async fn load(&mut self, manifest: &Manifest, spec: &HostSpec) -> Result<(), Failure> {
        for image in self.images_lacking(manifest, spec).await? {
            images::load(&self.host.engine, &self.store, &self.host.instance, &image).await?;
        }
        Ok(())
    }

    /// The images of this host's containers that the engine does not have.
    async fn images_lacking(
        &self,
        manifest: &Manifest,
        spec: &HostSpec,
    ) -> Result<Vec<contract::manifest::Image>, Failure> {
        let names: BTreeSet<&String> = spec.containers.iter().map(|c| &c.image).collect();
        let mut lacking = Vec::new();
        for name in names {
            let image = manifest
                .images
                .get(name)
                .ok_or_else(|| Failure::internal(format!("the manifest has no image `{name}`")))?;
            if !images::is_loaded(&self.host.engine, &self.host.instance, image).await? {
                lacking.push(image.clone());
            }
        }
        Ok(lacking)
    }

    /// Seed step 2: the new containers start beside the old ones. Workers that must not run twice wait for the cut-over.
    async fn start(
        &mut self,
        manifest: &Manifest,
        spec: &HostSpec,
    ) -> Result<Vec<Container>, Failure> {
        let engine = self.host.engine.clone();
        headroom::memory(&engine, spec, &self.before, &self.journal.desired.swap).await?;
        self.refuse_other_users(spec);
        let common = self.common(manifest).await?;
        let present = engine.containers().await?;
        let mut started = Vec::new();
        for container in spec.containers.iter().filter(|c| !waits_for_cut_over(c)) {
            let seat = self.seat(container);
            started.push(
                containers::start(&engine, &common, container, &present, seat.as_ref()).await?,
            );
        }
        Ok(started)
    }

    /// Processes of another user could not bind at their predecessor's seat, and would not be trusted.
    fn refuse_other_users(&mut self, spec: &HostSpec) {
        let swap = &self.journal.desired.swap;
        for container in spec.containers.iter().filter(|c| c.handover) {
            let old = takeover::predecessor(&self.before, swap, &container.name);
            let user = old
                .and_then(takeover::seat)
                .and_then(|s| self.host.seats.user(s));
            if let Some(user) = user.filter(|user| *user != container.uid) {
                let why = format!(
                    "the old version runs as user {user}, the new one as user {}",
                    container.uid
                );
                self.journal.refused.insert(container.name.clone(), why);
            }
        }
    }

    /// Where a container that hands over shall sit: where its predecessor sits, so that it can be taken over from. Else at
    /// a seat of its own, and the proxy is told.
    fn seat(&self, spec: &ContainerSpec) -> Option<Seat> {
        if !spec.handover {
            return None;
        }
        let swap = &self.journal.desired.swap;
        let before = takeover::predecessor(&self.before, swap, &spec.name)
            .and_then(takeover::seat)
            .filter(|_| !self.journal.refused.contains_key(&spec.name));
        let own = || Seat::begun_by(&self.host.instance, swap, &spec.name);
        Some(before.cloned().unwrap_or_else(own))
    }

    async fn common<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> Result<containers::Common<'a>, Failure> {
        Ok(containers::Common {
            desired: &self.journal.desired,
            manifest,
            instance: &self.host.instance,
            machine: &self.host.machine,
            seats: &self.host.seats,
            data: &self.host.data,
            gateway: self.host.engine.network().await?,
        })
    }

    /// Seed step 3: all at once, and all must pass (D-HOST-29).
    async fn health(
        &mut self,
        spec: &HostSpec,
        containers: &[Container],
        limit: Instant,
    ) -> Result<(), Failure> {
        let engine = &self.host.engine;
        let checks = containers.iter().filter_map(|container| {
            let spec = spec.containers.iter().find(|c| c.name == container.name)?;
            Some(health::wait(
                engine,
                &self.host.seats,
                spec,
                container,
                limit,
            ))
        });
        try_join_all(checks).await.map(|_| ())
    }

    /// Of the new containers that sit where an old one sits, which can take over from it? One that can't read its
    /// predecessor's state begins a seat of its own, before anything was frozen, and the old one is drained.
    async fn successions(
        &mut self,
        manifest: &Manifest,
        spec: &HostSpec,
        mut containers: Vec<Container>,
        limit: Instant,
    ) -> Result<Vec<Container>, Failure> {
        let engine = self.host.engine.clone();
        for pair in takeover::pairs(&self.before, &self.journal.desired.swap, &containers) {
            let Some(why) = takeover::obstacle(&self.host.seats, &pair).await? else {
                continue;
            };
            self.journal.refused.insert(pair.name.clone(), why);
            self.write()?;
            let new = containers.iter_mut().find(|c| c.id == pair.new.id);
            let wanted = spec.containers.iter().find(|c| c.name == pair.name);
            let (Some(new), Some(wanted)) = (new, wanted) else {
                continue;
            };
            engine.remove(&new.id).await?;
            let common = self.common(manifest).await?;
            let seat = self.seat(wanted);
            *new = containers::start(&engine, &common, wanted, &[], seat.as_ref()).await?;
            health::wait(&engine, &self.host.seats, wanted, new, limit).await?;
        }
        Ok(containers)
    }

    // ---- traffic moves -------------------------------------------------------------------------------------------

    /// Steps `handover` to `bake`: up to here everything can be put back. After the deadline traffic does not move
    /// (D-HOT-43).
    async fn change_over(&mut self, prepared: &Prepared) -> Result<Vec<Server>, Failure> {
        if !self.journal.boot
            && Timestamp::now() > self.journal.desired.deadline
            && !self.before.in_rotation(&self.journal.desired.swap)
        {
            return Err(too_late(&self.journal.desired));
        }
        let pairs = self.pairs(prepared);
        if !pairs.is_empty() {
            self.step(Step::Handover, async |swap| swap.hand_over(&pairs).await)
                .await?;
        }
        let servers = self.cut_over(prepared).await?;
        self.bake(prepared).await?;
        Ok(servers)
    }

    fn pairs(&self, prepared: &Prepared) -> Vec<Pair> {
        let swap = &self.journal.desired.swap;
        takeover::pairs(&self.before, swap, &prepared.containers)
    }

    /// The new processes take the listeners and every live connection, one container after the other. The proxy is not
    /// told: it has the same servers before and after.
    async fn hand_over(&mut self, pairs: &[Pair]) -> Result<(), Failure> {
        for pair in pairs {
            let (account, warning) =
                takeover::take(&self.host.engine, &self.host.seats, pair).await?;
            self.journal.handovers.insert(pair.name.clone(), account);
            self.journal.warnings.extend(warning);
            self.write()?;
            self.progress(
                Step::Handover,
                Some(format!(
                    "{} connections of `{}`",
                    account.handed_over, pair.name
                )),
            );
        }
        Ok(())
    }

    /// The old processes wait, empty, while the new ones prove themselves.
    async fn bake(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        let pairs = self.pairs(prepared);
        if pairs.is_empty() || self.journal.is_done(Step::Bake) {
            return Ok(());
        }
        let spec = &prepared.spec;
        self.step(Step::Bake, async |swap| {
            let (engine, seats) = (&swap.host.engine, &swap.host.seats);
            let time = spec.swap.handover_bake;
            let watched = pairs.iter().filter_map(|pair| {
                let container = spec.containers.iter().find(|c| c.name == pair.name)?;
                Some(takeover::bake(engine, seats, container, &pair.new, time))
            });
            try_join_all(watched).await.map(|_| ())
        })
        .await
    }

    /// Seed step 4.
    async fn cut_over(&mut self, prepared: &Prepared) -> Result<Vec<Server>, Failure> {
        self.step(Step::CutOver, async |swap| {
            swap.exchange_workers(&prepared.spec).await?;
            let servers = traffic::servers(&prepared.spec, &prepared.containers);
            let desired = &swap.journal.desired;
            swap.host
                .traffic()
                .move_to(desired, &prepared.spec, &servers)
                .await?;
            let published = servers.iter().filter_map(|s| s.address.tcp());
            custom::after_cut_over(&desired.swap, published).await;
            Ok(servers)
        })
        .await
    }

    /// Workers of which only one version may run: the old one stops, the new one starts and must become ready. Until then
    /// the old one can be started again.
    async fn exchange_workers(&mut self, spec: &HostSpec) -> Result<(), Failure> {
        let waiting: Vec<&ContainerSpec> = spec
            .containers
            .iter()
            .filter(|c| waits_for_cut_over(c))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let engine = self.host.engine.clone();
        let (manifest, _) = self.spec().await?;
        let common = self.common(&manifest).await?;
        let present = engine.containers().await?;
        let limit = Instant::now() + spec.swap.prepare_timeout;
        for worker in waiting {
            for old in present
                .iter()
                .filter(|c| c.name == worker.name && c.swap != common.desired.swap)
            {
                engine.stop(&old.id, worker.stop_grace).await?;
            }
            let new = containers::start(&engine, &common, worker, &present, None).await?;
            health::wait(&engine, &self.host.seats, worker, &new, limit).await?;
        }
        Ok(())
    }

    // ---- traffic has moved ---------------------------------------------------------------------------------------

    /// Seed steps 5 to 8.
    async fn finish(&mut self, spec: &HostSpec, servers: &[Server], steps: &[Step]) -> Verdict {
        let old: Vec<Container> = match self.host.engine.containers().await {
            Ok(all) => all
                .into_iter()
                .filter(|c| c.swap != self.journal.desired.swap)
                .collect(),
            Err(failure) => {
                self.journal.warnings.push(failure.message);
                Vec::new()
            }
        };
        if steps.contains(&Step::Drain) && !old.is_empty() {
            if let Err(failure) = self
                .step(Step::Drain, async |swap| {
                    swap.tell_to_end(servers, &old).await;
                    swap.drain(spec, servers).await
                })
                .await
            {
                return self.failed(failure);
            }
            self.cleaning(Step::Stop, async |swap| {
                swap.stop(spec, servers, &old).await
            })
            .await;
            self.cleaning(Step::Remove, async |swap| {
                let warnings = clean::containers(&swap.host.engine, &old).await;
                swap.leave_seats().await;
                warnings
            })
            .await;
        }
        self.cleaning(Step::RemoveImage, async |swap| {
            swap.remove_images(spec).await;
            Vec::new()
        })
        .await;
        self.verdict(self.good(), Step::Report, None)
    }

    /// Old processes that nobody has taken over from are told to end now, not after the drain: only they can ask their
    /// clients to come back, and long-lived connections do not end by themselves.
    async fn tell_to_end(&mut self, servers: &[Server], old: &[Container]) {
        let stays = |seat: &Seat| servers.iter().any(|s| s.address.seat() == Some(seat));
        let left = |c: &&Container| c.running && takeover::seat(c).is_some_and(|s| !stays(s));
        for container in old.iter().filter(left) {
            let name = &container.name;
            let open = takeover::status(&self.host.seats, container).await;
            let open = open.map_or(0, |status| u64::from(status.connections));
            // After an interruption there are fewer than there were.
            let known = self.journal.handovers.get(name).map_or(0, |h| h.closed);
            let closed = open.max(known);
            let account = Handover {
                containers: 1,
                before: closed,
                closed,
                ..Handover::default()
            };
            self.journal.handovers.insert(name.clone(), account);
            if known == 0 {
                let why = self.journal.refused.get(name).map_or(
                    "the new version has no container that takes over from it",
                    String::as_str,
                );
                self.journal.warnings.push(format!(
                    "container `{name}` was drained instead of handed over: {why}; {closed} connections were told to come back"
                ));
            }
            if let Err(failure) = self.write() {
                self.journal.warnings.push(failure.message);
            }
            if let Err(failure) = self.host.engine.ask_to_end(&container.id).await {
                tracing::debug!(%failure, "an old process had ended before it was told to");
            }
        }
    }

    /// Seats at which no container sits any more go.
    async fn leave_seats(&mut self) {
        if let Ok(all) = self.host.engine.containers().await {
            let used = all.iter().filter_map(takeover::seat).cloned().collect();
            let warnings = self.host.seats.keep_only(&used);
            self.journal.warnings.extend(warnings);
        }
    }

    /// Seed step 5.
    async fn drain(&mut self, spec: &HostSpec, servers: &[Server]) -> Result<(), Failure> {
        let service = self.journal.desired.service.clone();
        let mut drained = self.journal.drain;
        let result = drain::drain(
            &self.host.proxy,
            &service,
            servers,
            spec.swap.drain_timeout,
            spec.swap.on_drain_timeout,
            &mut drained,
        )
        .await;
        self.journal.drain = drained;
        result
    }

    /// Seed step 6: all at once, each with its own grace, in which it may end the connections that outlasted the drain in
    /// its own way. Those that have handed over are told that it is final. The proxy cuts what is left of the others.
    async fn stop(
        &mut self,
        spec: &HostSpec,
        servers: &[Server],
        old: &[Container],
    ) -> Vec<String> {
        let (engine, seats) = (&self.host.engine, &self.host.seats);
        let stops = old.iter().map(|container| async move {
            let grace = spec
                .containers
                .iter()
                .find(|c| c.name == container.name)
                .map_or(Duration::from_secs(30), |c| c.stop_grace);
            if container.running {
                takeover::retire(seats, container).await;
            }
            match engine.stop(&container.id, grace).await {
                Ok(false) => None,
                Ok(true) => Some(format!(
                    "the old container `{}` did not end within {} s and was killed",
                    container.name,
                    grace.as_secs()
                )),
                Err(failure) => Some(failure.message),
            }
        });
        let warnings = futures::future::join_all(stops).await;
        let service = &self.journal.desired.service;
        drain::cut(&self.host.proxy, service, servers).await;
        warnings.into_iter().flatten().collect()
    }

    /// Seed step 8: images and blobs of all but the current and `keep_images` earlier payloads.
    async fn remove_images(&mut self, spec: &HostSpec) {
        let payload = self.journal.desired.payload.clone();
        match self.host.history.record(&payload, spec.swap.keep_images) {
            Ok(keep) => {
                let warnings =
                    clean::images(&self.host.engine, &self.store, &self.host.instance, &keep).await;
                self.journal.warnings.extend(warnings);
            }
            Err(e) => self
                .journal
                .warnings
                .push(format!("the history of payloads can't be written: {e}")),
        }
    }

    // ---- the way back --------------------------------------------------------------------------------------------

    /// Puts everything back as it was before the swap, then makes the failure its verdict (D-HOST-24).
    async fn undo(&mut self, failure: Failure) -> Verdict {
        self.journal.failing = Some(failure.clone().into());
        if let Err(unwritten) = self.write() {
            self.journal.warnings.push(unwritten.message);
        }
        let verdict = self.failed(failure);
        let swap = self.journal.desired.swap.clone();
        let engine = self.host.engine.clone();
        // An engine that restarts is the cause, perhaps; without it nothing can be put back.
        let until = Instant::now() + ENGINE_RETURNS_WITHIN;
        while engine.containers().await.is_err() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        if self.journal.has_begun(Step::Handover) {
            self.give_back(&swap).await;
        }
        if self.journal.has_begun(Step::CutOver) {
            if let Err(e) = self
                .host
                .traffic()
                .move_back(&self.journal.desired.service, &swap)
                .await
            {
                self.journal.warnings.push(e.message);
            }
            // Workers that had made room for their successors.
            for old in self
                .before
                .containers
                .iter()
                .filter(|c| c.swap != swap && c.endpoint.is_none() && c.running)
            {
                if let Err(e) = engine.start_again(&old.id).await {
                    self.journal.warnings.push(e.message);
                }
            }
        }
        let moved = [Step::Handover, Step::CutOver];
        let serving = if moved.iter().any(|s| self.journal.has_begun(*s)) {
            self.still_serving(&swap).await
        } else {
            BTreeSet::new()
        };
        match engine.containers().await {
            Ok(all) => {
                let unwanted = (all.iter()).filter(|c| c.swap == swap && !serving.contains(&c.id));
                let warnings = clean::containers(&engine, unwanted).await;
                self.journal.warnings.extend(warnings);
                self.leave_seats().await;
            }
            Err(e) => self.journal.warnings.push(e.message),
        }
        let mut keep: BTreeSet<Digest> = self.host.history.read().payloads.into_iter().collect();
        keep.extend(self.journal.from.clone());
        let warnings = clean::images(&engine, &self.store, &self.host.instance, &keep).await;
        self.journal.warnings.extend(warnings);
        verdict
    }

    /// The old processes take everything back, as far as the new ones have taken it.
    async fn give_back(&mut self, swap: &str) {
        let Some(facts) = self.look().await else {
            return;
        };
        let here = |container: &Container| {
            let others = facts
                .containers
                .iter()
                .filter(|c| c.endpoint == container.endpoint);
            others.cloned().collect::<Vec<_>>()
        };
        let old = facts.containers.iter().filter(|c| {
            // Where an old process serves already, it has nothing to take back.
            let served = |c: &Container| c.swap != swap && facts.holds_seat(c);
            c.swap != swap
                && c.running
                && takeover::seat(c).is_some()
                && !here(c).iter().any(served)
        });
        let (mut done, mut back_at) = (BTreeSet::new(), BTreeSet::new());
        for old in old {
            if !done.insert(old.endpoint.clone()) {
                continue;
            }
            let new = here(old).into_iter().find(|c| c.swap == swap);
            let (engine, seats) = (&self.host.engine, &self.host.seats);
            let account = self.journal.handovers.get_mut(&old.name);
            let given = account.is_some();
            match takeover::give_back(engine, seats, old, new.as_ref(), given).await {
                Ok(back) => {
                    back_at.extend(old.endpoint.clone());
                    if let Some(account) = account {
                        account.taken_back = back.connections;
                        account.dropped += back.dropped.unwrap_or(account.handed_over);
                    }
                }
                Err(why) => self.journal.warnings.push(why),
            }
        }
        let service = &self.journal.desired.service;
        self.host.proxy.trust(service, &back_at).await;
    }

    async fn look(&mut self) -> Option<Facts> {
        let Host {
            engine,
            proxy,
            seats,
            ..
        } = &*self.host;
        let service = &self.journal.desired.service;
        match observe::observe(engine, proxy, seats, service).await {
            Ok(facts) => Some(facts),
            Err(failure) => {
                self.journal.warnings.push(failure.message);
                None
            }
        }
    }

    /// Ids of the new containers to which requests still go: taking these away would be an outage.
    async fn still_serving(&mut self, swap: &str) -> BTreeSet<String> {
        let facts = self.look().await.unwrap_or_default();
        let serve = |c: &&Container| c.swap == swap && facts.takes_requests(c);
        let serving: BTreeSet<String> = (facts.containers.iter().filter(serve))
            .map(|c| c.id.clone())
            .collect();
        if !serving.is_empty() {
            self.journal.warnings.push(
                "requests still reach new containers, so they stay; the next swap takes them away"
                    .to_owned(),
            );
        }
        serving
    }

    // ---- bookkeeping ---------------------------------------------------------------------------------------------

    /// Announces a step, records its intent, does it, records that it is done.
    async fn step<T>(
        &mut self,
        step: Step,
        act: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.journal.begin(step, Timestamp::now());
        self.write()?;
        tracing::info!(
            step = step.name(),
            swap = self.journal.desired.swap,
            "step begins"
        );
        self.progress(step, None);
        self.host.pause_at(step, "before").await;
        let result = act(self).await?;
        self.host.pause_at(step, "after").await;
        self.journal.done(step, Timestamp::now());
        self.write()?;
        Ok(result)
    }

    /// A step whose failures are warnings, because traffic has moved (D-HOST-36).
    async fn cleaning(&mut self, step: Step, act: impl AsyncFnOnce(&mut Self) -> Vec<String>) {
        let result = self
            .step(step, async |swap| {
                let warnings = act(swap).await;
                swap.journal.warnings.extend(warnings);
                Ok(())
            })
            .await;
        if let Err(failure) = result {
            self.journal.warnings.push(failure.message);
        }
    }

    fn write(&self) -> Result<(), Failure> {
        let file = &self.host.journal;
        file.write(&self.journal)
            .map_err(|e| Failure::file("writing the journal", file.path(), &e))
    }

    fn good(&self) -> Kind {
        if self.journal.boot {
            Kind::Booted
        } else {
            Kind::Success
        }
    }

    fn failed(&mut self, failure: Failure) -> Verdict {
        tracing::error!(step = self.journal.reached().name(), code = ?failure.code, "{failure}");
        self.verdict(Kind::Failed, self.journal.reached(), Some(failure))
    }

    fn verdict(&self, kind: Kind, step: Step, failure: Option<Failure>) -> Verdict {
        Verdict {
            kind,
            step,
            cause: failure.map(Into::into),
            at: Timestamp::now(),
        }
    }

    fn progress(&mut self, step: Step, detail: Option<String>) {
        let verdict = self.verdict(Kind::Progress, step, None);
        let serving = if self.journal.is_done(Step::CutOver) {
            Some(self.journal.desired.payload.clone())
        } else {
            self.journal.from.clone()
        };
        let mut signal = signal(&self.journal, &self.host.instance, &verdict, serving);
        signal.detail = detail;
        let queue = self.journal.desired.queue.clone();
        self.host.signals.progress(&queue, signal);
    }

    /// Seed step 9. First the outbox keeps the verdict, then the journal closes, then the queue hears of it: after a crash
    /// in between, the restarted agent finds the verdict in the outbox and neither forgets nor repeats the swap.
    async fn report(mut self, verdict: Verdict) -> Result<Verdict, Failure> {
        self.host.pause_at(Step::Report, "before").await;
        self.journal.begin(Step::Report, Timestamp::now());
        let serving = observe::observe(
            &self.host.engine,
            &self.host.proxy,
            &self.host.seats,
            &self.journal.desired.service,
        )
        .await
        .ok()
        .and_then(|facts| facts.serving().map(|(_, payload)| payload.clone()));
        let signal = signal(&self.journal, &self.host.instance, &verdict, serving);
        let queue = self.journal.desired.queue.clone();
        let kept = self.host.signals.keep(&queue, signal.clone());
        self.host.pause_at(Step::Report, "kept").await;
        self.journal.done(Step::Report, Timestamp::now());
        self.journal.verdict = Some(verdict.clone());
        let recorded = self.write();
        let sent = match kept {
            Ok(()) => self.host.signals.flush().await,
            Err(failure) => {
                tracing::warn!(%failure, "the verdict can't be kept on disk and is sent without");
                self.host.signals.send_now(&queue, signal).await
            }
        };
        if let Err(failure) = recorded {
            tracing::warn!(%failure, "the verdict can't be recorded");
        }
        self.host.pause_at(Step::Report, "after").await;
        sent.map(|()| verdict)
    }
}

/// What a verdict, or a step's beginning, looks like on the queue. Its number is given when it is sent.
pub(crate) fn signal(
    journal: &Journal,
    instance: &str,
    verdict: &Verdict,
    serving: Option<Digest>,
) -> HostSignal {
    let desired = &journal.desired;
    HostSignal {
        v: FORMAT,
        swap: desired.swap.clone(),
        epoch: 0,
        seq: 0,
        stack: desired.stack.clone(),
        region: desired.region.clone(),
        instance: instance.to_owned(),
        at: verdict.at,
        kind: verdict.kind,
        from: journal.from.clone(),
        to: desired.payload.clone(),
        serving,
        step: verdict.step,
        detail: None,
        cause: verdict.cause.clone(),
        ms: journal.milliseconds(),
        bytes: journal.bytes,
        drain: journal.drain,
        handover: journal.handover(),
        warnings: if verdict.kind == Kind::Progress {
            Vec::new()
        } else {
            journal.warnings.clone()
        },
    }
}

/// Whether a container starts only when traffic moves, after its predecessor has stopped (D-HOST-25).
fn waits_for_cut_over(spec: &ContainerSpec) -> bool {
    spec.topology == Topology::Worker && spec.swap_order == SwapOrder::StopFirst
}

fn too_late(desired: &DesiredState) -> Failure {
    Failure::new(
        CauseCode::Deadline,
        format!(
            "the deadline {} passed before traffic moved; the old version serves",
            desired.deadline
        ),
    )
}

fn prepare_timeout(spec: &HostSpec) -> Failure {
    Failure::new(
        CauseCode::Deadline,
        format!(
            "the new version was not prepared within prepare_timeout ({} s)",
            spec.swap.prepare_timeout.as_secs()
        ),
    )
}

/// Ends at `time`, also when the clock is set meanwhile.
async fn until(time: Timestamp) {
    while Timestamp::now() <= time {
        let left = time.duration_since(Timestamp::now());
        let left = Duration::try_from(left).unwrap_or_default();
        tokio::time::sleep(left.clamp(Duration::from_millis(10), Duration::from_secs(1))).await;
    }
}

/// Ends when the stack wants another swap, with its id.
async fn superseded(stack: &crate::job::Stack, swap: &str) -> String {
    loop {
        tokio::time::sleep(NEWER).await;
        match stack.desired().await {
            Ok(desired) if desired.swap != swap => return desired.swap,
            Ok(_) => {}
            Err(why) => tracing::debug!(why, "no look at the stack this time"),
        }
    }
}
