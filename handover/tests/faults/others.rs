//! The faults that are no death: limits, strangers, a leader that leaves, a disk that takes nothing; and many swaps.

use crate::{
    clients::Clients,
    keeper::{Act, LONGER_THAN_EVERY_DEADLINE},
    processes::{Process, Service, condition},
};
use handover::{
    End, Phase, Schemas, Settings,
    control::{Answer, Request, Role, Status},
    successor, unobserved,
};
use libtest_mimic::Trial;
use std::{
    env,
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

const CONNECTIONS: usize = 60;

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    vec![
        trial(
            "a_descriptor_limit_that_is_too_low_is_noticed_before_the_freeze",
            few_descriptors,
        ),
        trial(
            "descriptors_that_the_kernel_drops_end_in_resuming",
            dropped_descriptors,
        ),
        trial("a_stranger_is_turned_away_by_both_sockets", strangers),
        trial("a_leader_that_leaves_changes_nothing", leader_leaves),
        trial("containers_hand_over_to_each_other", other_namespaces),
        trial("a_full_disk_does_not_matter", full_disk),
        trial("of_two_successors_at_once_one_takes_over", two_successors),
        trial(
            "a_kill_at_any_other_moment_breaks_no_ledger",
            kills_at_any_moment,
        ),
        trial(
            "what_a_stopped_successor_has_taken_comes_back_when_it_is_killed",
            killed_while_undecided,
        ),
        trial("a_hundred_swaps_to_and_fro_leak_nothing", many_swaps),
    ]
}

/// A service with clients, and a second process that waits.
fn start(old: Act, new: Act) -> (Service, Process, Process, Clients) {
    let service = Service::new(true);
    let old = service.start("old", old);
    service.until_serving("old");
    let new = service.start("new", new);
    let mut clients = Clients::connect(&service, CONNECTIONS);
    clients.talk_until_each_has(2);
    service.until("old", |status| status.connections as usize == CONNECTIONS);
    (service, old, new, clients)
}

fn few_descriptors() {
    let (service, _old, _new, mut clients) = start(Act::Nothing, Act::HasFewDescriptors);
    let receipt = service.take_over("new");
    assert_eq!(receipt.end, End::Failed);
    let cause = receipt.cause.unwrap();
    assert!(cause.contains("the successor has room for"), "{cause}");
    let old = service
        .until("old", |status| status.last.is_some())
        .last
        .unwrap();
    assert!(old.phase < Some(Phase::Begun), "{old:?}");
    assert_eq!(old.frozen_ms, 0.0);
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
}

fn dropped_descriptors() {
    let (service, _old, _new, mut clients) =
        start(Act::Nothing, Act::LosesDescriptorsAt(Phase::Begun));
    let receipt = service.take_over("new");
    assert_eq!((receipt.end, receipt.transferred), (End::Failed, 0));
    let cause = receipt.cause.unwrap();
    assert!(
        cause.contains("this process has reached its limit"),
        "{cause}"
    );
    service.until("old", |status| {
        status.role == Role::Serving && status.last.is_some()
    });
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
}

const STRANGER: &str = "HANDOVER_TEST_STRANGER";

/// Run as another user: what both doors say to it.
pub fn is_stranger() -> bool {
    let Some(path) = env::var_os(STRANGER) else {
        return false;
    };
    let mut settings = Settings::new(Schemas::only(1));
    // It would talk to anyone.
    settings.trusted_uids = vec![0];
    let failure = successor::connect(Path::new(&path), &settings, unobserved()).unwrap_err();
    println!("{failure}");
    let control = env::var_os("PORTER_CONTROL_SOCKET").unwrap();
    let mut stream = UnixStream::connect(control).unwrap();
    let _ = stream.write_all(b"{\"command\":\"status\"}\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    println!("{answer:?}");
    true
}

fn strangers() {
    const NOBODY: u32 = 65_534;
    let (service, _old, _new, mut clients) = start(Act::Nothing, Act::Nothing);
    service.let_everyone_in();
    // A copy that another user may run, wherever the test itself lies.
    let program = service.copy_of_this_program();
    let output = Command::new(program)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env(STRANGER, service.handover())
        .env("PORTER_CONTROL_SOCKET", service.control("old"))
        .output()
        .expect("these tests run as root, as `make test` does");
    let said = String::from_utf8_lossy(&output.stdout);
    let refusal =
        "the peer runs as user 65534, which is neither this process's user, nor root, nor trusted";
    assert!(said.contains(refusal), "{output:?}");
    assert!(said.ends_with("\"\"\n"), "{output:?}");
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
    assert_eq!(service.until("old", |_| true).role, Role::Serving);
}

fn leader_leaves() {
    let (service, _old, _new, mut clients) = start(Act::Nothing, Act::Nothing);
    let mut stream = UnixStream::connect(service.control("new")).unwrap();
    stream.write_all(b"{\"command\":\"take-over\"}\n").unwrap();
    drop(stream);
    let status = service.until("new", |status| status.role == Role::Serving);
    assert_eq!(status.last.unwrap().transferred as usize, CONNECTIONS);
    let old = service.until("old", |status| status.role == Role::Emptied);
    assert_eq!(old.last.unwrap().end, End::Taken);
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
}

fn other_namespaces() {
    let service = Service::new(true);
    let _old = service.start_in_other_namespaces("old");
    service.until_serving("old");
    let _new = service.start_in_other_namespaces("new");
    // The network of the first one is not ours.
    let mut clients = Clients::connect_over_unix(&service, CONNECTIONS);
    clients.talk_until_each_has(2);
    for name in ["new", "old", "new"] {
        let receipt = service.take_over(name);
        assert_eq!(
            (receipt.end, receipt.transferred as usize),
            (End::Taken, CONNECTIONS),
            "{receipt:?}"
        );
        assert_eq!(clients.talk_more_and_count_the_living(2), CONNECTIONS);
    }
}

fn full_disk() {
    let (service, _old, _new, mut clients) = start(Act::CannotWriteFiles, Act::CannotWriteFiles);
    for name in ["new", "old", "new"] {
        assert_eq!(service.take_over(name).end, End::Taken);
        assert_eq!(clients.talk_more_and_count_the_living(2), CONNECTIONS);
    }
}

fn two_successors() {
    let (service, _old, _new, mut clients) = start(Act::Nothing, Act::Nothing);
    let _other = service.start("other", Act::Nothing);
    let orders = ["new", "other"].map(|name| service.order(name, Request::TakeOver {}));
    let ends = orders.map(|order| match order.wait() {
        Answer::Receipt(receipt) => receipt.end,
        other => panic!("{other:?}"),
    });
    // The second one finds either the first, who gives it everything, or a predecessor that has nothing to give.
    assert!(ends.contains(&End::Taken), "{ends:?}");
    let mut serving = 0;
    for name in ["old", "new", "other"] {
        let status = service.until(name, |status| {
            !matches!(status.role, Role::Giving | Role::Taking)
        });
        serving += usize::from(status.role == Role::Serving);
    }
    assert_eq!(serving, 1);
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
}

/// Between the phases, in the middle of a frame: wherever the signal happens to hit. What comes out depends on where that
/// was; but it is one of the outcomes of the table, and no ledger is broken.
fn kills_at_any_moment() {
    for round in 0_u64..40 {
        let (service, mut old, mut new, mut clients) = start(Act::Nothing, Act::Nothing);
        let kills_old = round % 2 == 0;
        let order = service.order("new", Request::TakeOver {});
        thread::sleep(Duration::from_micros(round * 7919 % 6000));
        let other = if kills_old {
            old.kill();
            "new"
        } else {
            new.kill();
            "old"
        };
        let decided = |status: &Status| match status.role {
            Role::Giving | Role::Taking => false,
            // Not reached by the order yet.
            Role::Waiting => status.last.is_some(),
            Role::Serving | Role::Emptied => true,
        };
        let status = service.until(other, decided);
        let alive = clients.talk_more_and_count_the_living(2);
        match (kills_old, status.role) {
            // Killed before it had sent anything, or when it had been given everything.
            (true, Role::Waiting) | (false, Role::Emptied) => assert_eq!(alive, 0),
            (true, Role::Serving) => {
                let receipt = status.last.unwrap();
                assert_eq!(alive, receipt.transferred as usize);
                assert_eq!(receipt.transferred + receipt.dropped, receipt.offered);
            }
            (false, Role::Serving) => assert_eq!(alive, CONNECTIONS),
            (_, role) => panic!("{role:?}"),
        }
        drop(order);
    }
}

/// The one case without a deadline: the successor has the commit, and has not said that it serves.
fn killed_while_undecided() {
    let service = Service::new(false);
    let _old = service.start("old", Act::Nothing);
    service.until_serving("old");
    let mut new = service.start("new", Act::StopAt(Phase::Committed));
    let mut clients = Clients::connect(&service, CONNECTIONS);
    clients.talk_until_each_has(2);
    service.until("old", |status| status.connections as usize == CONNECTIONS);
    let mut order = service.order("new", Request::TakeOver {});
    clients.talk_while(|| {
        if order.has_failed() {
            order = service.order("new", Request::TakeOver {});
        }
        !new.is_stopped()
    });
    clients.talk_for(LONGER_THAN_EVERY_DEADLINE);
    // It cannot serve, and says so.
    let status = service.until("old", |_| true);
    assert_eq!(
        (status.role, status.phase),
        (Role::Giving, Some(Phase::Committed))
    );
    new.kill();
    service.until_serving("old");
    assert_eq!(clients.talk_more_and_count_the_living(3), CONNECTIONS);
    drop(order);
}

fn many_swaps() {
    let (service, old, new, mut clients) = start(Act::Nothing, Act::Nothing);
    let fewest = |process: &Process, at_most: usize| {
        condition("no more descriptors than after the first round", || {
            process.descriptors() <= at_most
        });
    };
    let mut after_the_first = None;
    for round in 0..50 {
        for name in ["new", "old"] {
            let receipt = service.take_over(name);
            assert_eq!(
                (receipt.end, receipt.transferred as usize),
                (End::Taken, CONNECTIONS)
            );
            assert_eq!(clients.talk_more_and_count_the_living(1), CONNECTIONS);
        }
        if round == 0 {
            // Two for each process may still belong to a conversation that is ending.
            after_the_first = Some((old.descriptors() + 2, new.descriptors() + 2));
        }
    }
    let (of_old, of_new) = after_the_first.unwrap();
    fewest(&old, of_old);
    fewest(&new, of_new);
}
