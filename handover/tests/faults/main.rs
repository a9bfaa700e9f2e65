//! A process is killed, or stopped for longer than every deadline, at every phase on each side, while clients talk.
//!
//! The cases are enumerated from [`Phase::ALL`]: a new phase is covered at once. Each spawns two real processes of a
//! small service, with clients over TCP and Unix sockets who keep a ledger: every line is answered once, in order, with
//! its number, or the connection ends. What has to come out is the table of `docs/handover.md`, as a function here.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod clients;
mod keeper;
mod others;
mod processes;

use clients::Clients;
use handover::{
    End, Phase, Side,
    control::{Request, Role},
};
use keeper::Act;
use libtest_mimic::{Arguments, Failed, Trial};
use processes::{Process, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;

/// More than one batch of 253.
const CONNECTIONS: usize = 300;
const FIRST_BATCH: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP for longer than every deadline, then SIGCONT.
    Stop,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    side: Side,
    phase: Phase,
    fault: Fault,
}

/// Who serves afterwards, and how many connections are still there.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    serves: Option<Side>,
    connections: usize,
}

impl Case {
    fn name(self) -> String {
        let Self { side, phase, fault } = self;
        format!("{side:?} {fault:?} at {phase}")
            .to_lowercase()
            .replace(' ', "_")
    }

    /// A successor that dies before its hello is nobody.
    fn is_unnoticed(self) -> bool {
        matches!(
            (self.side, self.phase, self.fault),
            (Side::Successor, Phase::Connected, Fault::Kill)
        )
    }

    /// The table of the specification.
    fn outcome(self) -> Outcome {
        let outcome = |serves, connections| Outcome {
            serves,
            connections,
        };
        match (self.fault, self.side) {
            // It had them to itself; then the successor has a part; then everything.
            (Fault::Kill, Side::Predecessor) if self.phase < Phase::Transferring => {
                outcome(None, 0)
            }
            (Fault::Kill, Side::Predecessor) if self.phase == Phase::Transferring => {
                outcome(Some(Side::Successor), FIRST_BATCH)
            }
            (Fault::Kill, Side::Predecessor) => outcome(Some(Side::Successor), CONNECTIONS),
            // Until it has said that it serves, the predecessor has them.
            (Fault::Kill, Side::Successor) if self.phase < Phase::Taken => {
                outcome(Some(Side::Predecessor), CONNECTIONS)
            }
            (Fault::Kill, Side::Successor) => outcome(None, 0),
            // A stopped process costs nobody a connection. The commit decides.
            (Fault::Stop, _) if self.phase < Phase::Committed => {
                outcome(Some(Side::Predecessor), CONNECTIONS)
            }
            (Fault::Stop, _) => outcome(Some(Side::Successor), CONNECTIONS),
        }
    }

    fn run(self) -> Result<(), Failed> {
        let act = |side| match side == self.side {
            true => Act::StopAt(self.phase),
            false => Act::Nothing,
        };
        // Death needs no deadline to be noticed.
        let service = Service::new(self.fault == Fault::Kill);
        let mut old = service.start("old", act(Side::Predecessor));
        service.until_serving("old");
        let mut new = service.start("new", act(Side::Successor));
        let mut clients = Clients::connect(&service, CONNECTIONS);
        clients.talk_until_each_has(2);
        service.until("old", |status| status.connections as usize == CONNECTIONS);

        let mut order = service.order("new", Request::TakeOver {});
        let (at_fault, other) = match self.side {
            Side::Predecessor => (&mut old, &mut new),
            Side::Successor => (&mut new, &mut old),
        };
        clients.talk_while(|| {
            if order.has_failed() {
                // A crowded machine has missed one of the short deadlines.
                order = service.order("new", Request::TakeOver {});
            }
            !at_fault.is_stopped()
        });
        match self.fault {
            Fault::Kill => at_fault.kill(),
            Fault::Stop => {
                clients.talk_for(keeper::LONGER_THAN_EVERY_DEADLINE);
                at_fault.go_on();
            }
        }
        let mut alive: Vec<&Process> = vec![&*other];
        if self.fault == Fault::Stop {
            alive.push(at_fault);
        }
        // Nothing hangs: everyone who lives comes to a decision.
        let mut serving = Vec::new();
        for process in &alive {
            let status = service.until(&process.name, |status| {
                let ended = status.last.is_some() || self.is_unnoticed();
                !matches!(status.role, Role::Giving | Role::Taking) && ended
            });
            if status.role == Role::Serving {
                serving.push(process.side());
            }
        }
        let expected = self.outcome();
        assert_eq!(serving, Vec::from_iter(expected.serves), "who serves");
        let survivors = clients.talk_more_and_count_the_living(5);
        assert_eq!(survivors, expected.connections, "connections that are left");

        if let Some(side) = expected.serves {
            let name = processes::name(side);
            let status = service.until(name, |status| status.connections as usize == survivors);
            let end = status.last.map_or(End::Failed, |receipt| receipt.end);
            match (side, self.side, self.fault) {
                (Side::Predecessor, _, _) => assert_eq!(end, End::Failed),
                (Side::Successor, Side::Predecessor, Fault::Kill)
                    if self.phase < Phase::Committed =>
                {
                    assert_eq!(end, End::Inherited);
                }
                (Side::Successor, _, _) => assert_eq!(end, End::Taken),
            }
            // Service goes on: for new clients, and for the next successor, who finds the handover socket.
            Clients::connect(&service, 2).talk_until_each_has(2);
            let _third = service.start("third", Act::Nothing);
            let receipt = service.take_over("third");
            assert_eq!(receipt.end, End::Taken, "{receipt:?}");
            assert_eq!(receipt.dropped, 0);
            assert_eq!(clients.talk_more_and_count_the_living(2), survivors);
        }
        drop(order);
        Ok(())
    }
}

fn main() -> ExitCode {
    if others::is_stranger() {
        return ExitCode::SUCCESS;
    }
    if let Some(child) = keeper::Child::from_environment() {
        child.run();
        return ExitCode::SUCCESS;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    // Eight times 300 clients at once, and many a shell allows 1,024 descriptors.
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let mut arguments = Arguments::from_args();
    // Each case is two processes and hundreds of sockets, and mostly waits.
    arguments.test_threads.get_or_insert(8);
    let trials = Phase::ALL.into_iter().flat_map(|phase| {
        [Side::Predecessor, Side::Successor]
            .into_iter()
            .flat_map(move |side| {
                [Fault::Kill, Fault::Stop]
                    .into_iter()
                    .map(move |fault| Case { side, phase, fault })
            })
    });
    let trials = trials
        .map(|case| Trial::test(case.name(), move || case.run()))
        .chain(others::trials())
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
