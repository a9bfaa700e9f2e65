//! Drain: the connections of the old containers end, or outlast the deadline, and are counted either way (D-HOST-32,
//! D-HOST-33).
//!
//! Those that outlast it end with their container: told to stop, it can say goodbye to each, as a WebSocket server does
//! with a close code that makes clients return at once. Only what is left after that is cut by the proxy.

use crate::{
    failure::Failure,
    traffic::{
        Server,
        proxy::{Proxy, Worker},
    },
};
use contract::{
    signal::{CauseCode, Drain},
    spec::OnDrainTimeout,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

/// D-HOST-32: every second; sooner while there is a chance that it is over at once.
const LOOK: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];
/// Sessions that were told to end do so within this.
const CUT_TAKES: Duration = Duration::from_secs(5);

/// Waits for the old servers' sessions in every worker.
///
/// Idle client connections hold no session of a server: they never delay the drain. With their next request they reach
/// the current version through the relay, and are then told to close.
///
/// # Errors
/// [`CauseCode::DrainTimeout`] under `on_drain_timeout: fail`; `drain` then says how many are open.
pub async fn drain(
    proxy: &Proxy,
    service: &str,
    wanted: &[Server],
    limit: Duration,
    policy: OnDrainTimeout,
    drain: &mut Drain,
) -> Result<(), Failure> {
    let until = Instant::now() + limit;
    let first = open(proxy, service, wanted).await;
    let total: u64 = drain.ended.max(first.values().map(count).sum());
    let mut looks = LOOK
        .iter()
        .copied()
        .chain(std::iter::repeat(Duration::from_secs(1)));
    let mut sessions = first;
    loop {
        let left: u64 = sessions.values().map(count).sum();
        *drain = Drain {
            ended: total.saturating_sub(left),
            cut: 0,
            open: left,
        };
        if left == 0 {
            break;
        }
        if Instant::now() >= until {
            match policy {
                OnDrainTimeout::Fail => {
                    return Err(Failure::new(
                        CauseCode::DrainTimeout,
                        format!(
                            "{left} connections of the old containers were still open after {} s; they and the old containers stay, new requests go to the new ones",
                            limit.as_secs()
                        ),
                    ));
                }
                OnDrainTimeout::Close => {
                    drain.cut = left;
                    break;
                }
            }
        }
        sleep(looks.next().unwrap_or_default()).await;
        sessions = open(proxy, service, wanted).await;
    }
    drain.open = 0;
    Ok(())
}

type Open = BTreeMap<u32, (Worker, BTreeMap<String, u64>)>;

fn count((_, servers): &(Worker, BTreeMap<String, u64>)) -> u64 {
    servers.values().sum()
}

/// Sessions on servers that are not wanted, per worker.
async fn open(proxy: &Proxy, service: &str, wanted: &[Server]) -> Open {
    let mut open = Open::new();
    for worker in proxy.workers().await.unwrap_or_default().all() {
        let mut sessions = proxy.sessions(worker, service).await;
        sessions.retain(|name, n| *n > 0 && wanted.iter().all(|w| w.name != *name));
        if !sessions.is_empty() {
            open.insert(worker.pid, (worker, sessions));
        }
    }
    open
}

/// Cuts what is still open to servers that are not wanted, in every worker: their containers have stopped.
pub async fn cut(proxy: &Proxy, service: &str, wanted: &[Server]) {
    for (worker, servers) in open(proxy, service, wanted).await.into_values() {
        let names: Vec<String> = servers.into_keys().collect();
        proxy.cut(worker, service, &names).await;
        let until = Instant::now() + CUT_TAKES;
        while Instant::now() < until {
            let now = proxy.sessions(worker, service).await;
            if names.iter().all(|n| now.get(n).is_none_or(|n| *n == 0)) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
