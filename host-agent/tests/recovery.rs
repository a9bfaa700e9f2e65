//! Property: wherever the agent dies, and however often, exactly one version is in rotation at every moment, and in the
//! end only the wanted one is left (D-HOT-83, D-HOT-66).
//!
//! The model below has the same facts that the agent observes. Its steps do to those facts what the real steps do to the
//! engine and the proxy; what to do next is decided by the agent's own pure functions.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use contract::{
    digest::Digest,
    job::DesiredState,
    signal::{Cause, CauseCode, Kind},
    step::Step,
};
use handover::control::Role;
use host_agent::{
    docker::Container,
    journal::{Journal, Verdict},
    observe::Facts,
    plan::{Plan, plan},
    recover::{Recovery, recover},
    seat::Endpoint,
};
use jiff::Timestamp;
use proptest::prelude::*;
use std::{collections::BTreeSet, net::SocketAddrV4};

const NAMES: [(&str, bool); 3] = [("web", true), ("live", true), ("jobs", false)];

/// The one that hands over.
const KEEPER: &str = "live";
const SEAT: &str = "unix:s0123456789";

/// How a version behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quality {
    /// It passes its health check and stays healthy.
    Good,
    /// It never becomes healthy.
    Unhealthy,
    /// It is healthy, takes over, and then is not any more.
    Treacherous,
}

fn digest(n: u8) -> Digest {
    Digest::from_bytes(&[n; 32])
}

fn desired(swap: u8, payload: u8) -> DesiredState {
    serde_json::from_value(serde_json::json!({
        "v": 1, "swap": format!("01S{swap}"), "payload": digest(payload), "service": "hello", "environment": "test",
        "region": "us-east-1", "stack": "arn:x", "bucket": "b", "queue": "http://q", "mode": "simple",
        "deadline": "2100-01-01T00:00:00Z"
    }))
    .unwrap()
}

fn now() -> Timestamp {
    "2026-11-21T00:00:00Z".parse().unwrap()
}

/// A host, and how many effects it has left before it dies.
#[derive(Clone, Debug)]
struct World {
    facts: Facts,
    journal: Option<Journal>,
    next_port: u16,
    effects_left: Option<u32>,
    told: Vec<(String, Kind)>,
}

/// The agent died here.
struct Dead;

impl World {
    fn new(payload: u8) -> Self {
        let mut world = World {
            facts: Facts {
                proxy_runs: true,
                ..Default::default()
            },
            journal: None,
            next_port: 20_000,
            effects_left: None,
            told: vec![],
        };
        let first = desired(0, payload);
        for (name, inet) in NAMES {
            world.add(&first, name, inet);
        }
        world.facts.rotation = world.endpoints("01S0");
        world
            .facts
            .roles
            .values_mut()
            .for_each(|role| *role = Role::Serving);
        world
    }

    fn add(&mut self, desired: &DesiredState, name: &str, inet: bool) {
        self.next_port += 1;
        self.facts.containers.push(Container {
            id: self.next_port.to_string(),
            name: name.into(),
            payload: desired.payload.clone(),
            swap: desired.swap.clone(),
            endpoint: inet.then(|| match name {
                KEEPER => SEAT.parse().unwrap(),
                _ => Endpoint::Tcp(SocketAddrV4::new([127, 0, 0, 1].into(), self.next_port)),
            }),
            running: true,
        });
        if name == KEEPER {
            (self.facts.roles).insert(self.next_port.to_string(), Role::Waiting);
        }
    }

    /// One process takes everything from the other.
    fn take_over(&mut self, new: &str) {
        let ids: Vec<(String, bool)> = (self.facts.containers.iter())
            .filter(|c| c.name == KEEPER)
            .map(|c| (c.id.clone(), c.swap == new))
            .collect();
        for (id, new) in ids {
            let role = if new { Role::Serving } else { Role::Emptied };
            self.facts.roles.insert(id, role);
        }
    }

    fn endpoints(&self, swap: &str) -> BTreeSet<Endpoint> {
        self.facts
            .running(swap)
            .filter_map(|c| c.endpoint.clone())
            .collect()
    }

    /// One effect on the outside world: the agent may die before it, and the invariant holds after it.
    fn effect(&mut self, act: impl FnOnce(&mut Self)) -> Result<(), Dead> {
        if let Some(left) = &mut self.effects_left {
            if *left == 0 {
                return Err(Dead);
            }
            *left -= 1;
        }
        act(self);
        self.check();
        Ok(())
    }

    /// D-HOT-83: of each container exactly one version takes requests, and it runs. Those that do not hand over are all of
    /// one version.
    fn check(&self) {
        for (name, _) in NAMES.iter().filter(|(_, inet)| *inet) {
            let all = self.facts.containers.iter().filter(|c| c.name == *name);
            let taking: Vec<_> = all.filter(|c| self.facts.takes_requests(c)).collect();
            assert_eq!(
                taking.len(),
                1,
                "exactly one `{name}` takes requests: {self:?}"
            );
            assert!(taking[0].running, "what takes requests runs");
        }
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().expect("a swap is under way")
    }

    fn step(
        &mut self,
        step: Step,
        act: impl FnOnce(&mut Self) -> Result<(), Dead>,
    ) -> Result<(), Dead> {
        self.effect(|w| w.journal().begin(step, now()))?;
        act(self)?;
        self.effect(|w| w.journal().done(step, now()))
    }

    fn remove(&mut self, wanted: impl Fn(&Container) -> bool) -> Result<(), Dead> {
        let ids: Vec<String> = self
            .facts
            .containers
            .iter()
            .filter(|c| wanted(c))
            .map(|c| c.id.clone())
            .collect();
        for id in ids {
            self.effect(|w| w.facts.containers.retain(|c| c.id != id))?;
        }
        Ok(())
    }

    fn verdict(&mut self, kind: Kind) -> Result<(), Dead> {
        let swap = self.journal().desired.swap.clone();
        self.effect(|w| {
            w.told.push((swap, kind));
            w.journal().verdict = Some(Verdict {
                kind,
                step: Step::Report,
                cause: None,
                at: now(),
            });
        })
    }

    /// The steps that can be put back.
    fn change_over(&mut self, quality: Quality) -> Result<bool, Dead> {
        let swap = self.journal().desired.swap.clone();
        self.step(Step::Handover, |w| w.effect(|w| w.take_over(&swap)))?;
        self.step(Step::CutOver, |w| {
            w.effect(|w| w.facts.rotation = w.endpoints(&swap))
        })?;
        self.bake(quality)
    }

    /// False: the new version must not stay.
    fn bake(&mut self, quality: Quality) -> Result<bool, Dead> {
        if self.journal().is_done(Step::Bake) {
            return Ok(true);
        }
        if quality == Quality::Treacherous {
            self.effect(|w| w.journal().begin(Step::Bake, now()))?;
            return Ok(false);
        }
        self.step(Step::Bake, |_| Ok(())).map(|()| true)
    }

    fn finish_or_undo(&mut self, good: bool) -> Result<(), Dead> {
        if good { self.finish() } else { self.undo() }
    }

    fn finish(&mut self) -> Result<(), Dead> {
        let swap = self.journal().desired.swap.clone();
        if self.facts.containers.iter().any(|c| c.swap != swap) {
            self.step(Step::Drain, |_| Ok(()))?;
            self.step(Step::Stop, |w| {
                let old: Vec<String> = w
                    .facts
                    .containers
                    .iter()
                    .filter(|c| c.swap != swap)
                    .map(|c| c.id.clone())
                    .collect();
                for id in old {
                    w.effect(|w| {
                        w.facts.roles.remove(&id);
                        w.facts
                            .containers
                            .iter_mut()
                            .filter(|c| c.id == id)
                            .for_each(|c| c.running = false)
                    })?;
                }
                Ok(())
            })?;
            self.step(Step::Remove, |w| w.remove(|c| c.swap != swap))?;
        }
        self.step(Step::RemoveImage, |_| Ok(()))?;
        self.verdict(Kind::Success)
    }

    fn undo(&mut self) -> Result<(), Dead> {
        let swap = self.journal().desired.swap.clone();
        self.effect(|w| {
            w.journal().failing = Some(Cause {
                code: CauseCode::HealthTimeout,
                message: "it is not healthy".into(),
                log: String::new(),
            });
        })?;
        let old = self.facts.containers.iter().find(|c| c.swap != swap);
        let old = old.expect("there is a way back").swap.clone();
        if self.journal().has_begun(Step::Handover) {
            self.effect(|w| w.take_over(&old))?;
        }
        if self.journal().has_begun(Step::CutOver) {
            self.effect(|w| w.facts.rotation = w.endpoints(&old))?;
        }
        self.remove(|c| c.swap == swap)?;
        self.verdict(Kind::Failed)
    }

    /// One run of the agent.
    fn run(&mut self, desired: &DesiredState, quality: Quality) -> Result<(), Dead> {
        match recover(self.journal.as_ref(), &self.facts, Some(desired)) {
            Recovery::Nothing | Recovery::Again => {}
            Recovery::Finish => {
                let good = if self.journal().is_done(Step::CutOver) {
                    self.bake(quality)?
                } else {
                    self.change_over(quality)?
                };
                self.finish_or_undo(good)?;
            }
            Recovery::Abandon | Recovery::Revert => self.undo()?,
        }
        let expected: Vec<(String, bool)> =
            NAMES.iter().map(|(n, i)| ((*n).to_owned(), *i)).collect();
        let plan = plan(
            desired,
            false,
            self.journal.as_ref(),
            &self.facts,
            Some(&expected),
            now(),
        );
        let open = self
            .journal
            .clone()
            .filter(|j| j.verdict.is_none() && j.desired.swap == desired.swap);
        if plan != Plan::Answered && open.is_none() {
            let from = self.facts.serving().map(|(_, p)| p.clone());
            self.effect(|w| w.journal = Some(Journal::new(desired.clone(), false, from, now())))?;
        }
        match plan {
            Plan::Answered => Ok(()),
            Plan::TooLate => unreachable!("the deadline is far away"),
            Plan::AlreadyServing => {
                let serving = self
                    .facts
                    .serving()
                    .map(|(s, _)| s.to_owned())
                    .expect("it serves");
                self.remove(|c| c.swap != serving)?;
                self.verdict(Kind::Success)
            }
            Plan::Swap(steps) => {
                for step in steps.into_iter().filter(|s| *s < Step::Handover) {
                    self.step(step, |w| {
                        if step != Step::Start {
                            return Ok(());
                        }
                        for (name, inet) in NAMES {
                            if !w.facts.running(&desired.swap).any(|c| c.name == name) {
                                w.effect(|w| w.add(desired, name, inet))?;
                            }
                        }
                        Ok(())
                    })?;
                }
                if quality == Quality::Unhealthy {
                    return self.undo();
                }
                let good = self.change_over(quality)?;
                self.finish_or_undo(good)
            }
        }
    }
}

proptest! {
    #[test]
    fn d_hot_83_one_version_is_in_rotation_whenever_and_however_often_the_agent_dies(
        deaths in proptest::collection::vec(0..50u32, 0..6),
        wanted in proptest::collection::vec(
            (1..4u8, prop_oneof![Just(Quality::Good), Just(Quality::Unhealthy), Just(Quality::Treacherous)]),
            1..4,
        ),
    ) {
        // D-HOT-83, D-HOT-66
        let mut world = World::new(0);
        let mut deaths = deaths.into_iter();
        let mut serves = digest(0);
        for (n, (payload, quality)) in wanted.iter().enumerate() {
            let desired = desired(n as u8 + 1, *payload);
            // cfn-hup runs the action until it ends well, or until something newer is wanted.
            let mut changed = false;
            loop {
                world.effects_left = deaths.next();
                match world.run(&desired, *quality) {
                    Ok(()) => break,
                    // A newer state sometimes arrives before the next run.
                    Err(Dead) if world.facts.containers.len() % 2 == 1 && n + 1 < wanted.len() => { changed = true; break }
                    Err(Dead) => {}
                }
            }
            if changed {
                continue;
            }
            // Already serving, or healthy: the wanted payload; unhealthy: what served before.
            let told = world.told.iter().rev().find(|(s, _)| *s == desired.swap).map(|(_, k)| *k);
            let now_serves = world.facts.serving().map(|(_, p)| p.clone()).unwrap();
            match told {
                Some(Kind::Success) => prop_assert_eq!(&now_serves, &desired.payload),
                Some(Kind::Failed) => prop_assert_ne!(&now_serves, &desired.payload),
                other => prop_assert!(false, "no verdict: {:?}", other),
            }
            // No leftovers: one container per name.
            prop_assert_eq!(world.facts.containers.len(), NAMES.len());
            serves = now_serves;
        }
        prop_assert!(world.facts.serving().is_some(), "something serves: {}", serves);
        // Every swap is told of once.
        let mut told: Vec<&String> = world.told.iter().map(|(s, _)| s).collect();
        told.sort();
        let all = told.len();
        told.dedup();
        prop_assert_eq!(told.len(), all);
    }
}

#[test]
fn d_host_13_new_containers_that_ended_after_the_cut_over_give_traffic_back_while_the_old_ones_run()
{
    // D-HOST-13
    let mut world = World::new(0);
    let wanted = desired(1, 1);
    let mut journal = Journal::new(wanted.clone(), false, Some(digest(0)), now());
    journal.begin(Step::CutOver, now());
    journal.done(Step::CutOver, now());
    world.add(&wanted, "web", true);
    world.facts.rotation = world.endpoints("01S1");
    assert_eq!(
        recover(Some(&journal), &world.facts, Some(&wanted)),
        Recovery::Finish
    );
    world
        .facts
        .containers
        .iter_mut()
        .filter(|c| c.swap == "01S1")
        .for_each(|c| c.running = false);
    assert_eq!(
        recover(Some(&journal), &world.facts, Some(&wanted)),
        Recovery::Revert
    );
    // D-HOST-41: after a reboot nothing runs, and the same payload is started again.
    world
        .facts
        .containers
        .iter_mut()
        .for_each(|c| c.running = false);
    assert_eq!(
        recover(Some(&journal), &world.facts, Some(&wanted)),
        Recovery::Again
    );
    assert_eq!(
        recover(Some(&journal), &world.facts, Some(&desired(2, 2))),
        Recovery::Abandon
    );
}

#[test]
fn d_host_11_a_first_boot_has_nothing_to_drain_and_no_deadline() {
    // D-HOST-11
    let mut late = desired(1, 1);
    late.deadline = "2000-01-01T00:00:00Z".parse().unwrap();
    let Plan::Swap(steps) = plan(&late, true, None, &Facts::default(), None, now()) else {
        panic!("a boot goes on")
    };
    assert!(
        [Step::Drain, Step::Stop, Step::Remove, Step::Await]
            .iter()
            .all(|s| !steps.contains(s))
    );
    // D-HOT-43: a swap ends there.
    assert_eq!(
        plan(&late, false, None, &Facts::default(), None, now()),
        Plan::TooLate
    );
}
