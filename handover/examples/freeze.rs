//! How long a handover freezes its connections: `cargo run --release -p handover --example freeze`.
//!
//! Two processes hand connections with 1 KiB of state each back and forth, half of them TCP and half Unix. The receiver
//! keeps them; each line is the median of several runs, from the receiver's receipt: *frozen* is from its word to freeze
//! to its word that it serves.

use handover::{
    Receipt, Schemas, Settings,
    predecessor::{self, Counts, Ending},
    successor, unobserved,
};
use serde::{Deserialize, Serialize};
use std::{
    env,
    error::Error,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
};

const RUNS: usize = 9;
const SUCCESSOR: &str = "HANDOVER_FREEZE_SUCCESSOR";

/// Texts, numbers and bytes: 1 KiB of them.
#[derive(Clone, Serialize, Deserialize)]
struct State {
    id: String,
    channels: Vec<(String, u64)>,
    /// As one piece: a plain `Vec<u8>` is written and read byte by byte.
    #[serde(with = "serde_bytes")]
    unsent: Vec<u8>,
}

fn state(index: usize) -> State {
    State {
        id: format!("connection-{index:020}"),
        channels: (0..8)
            .map(|c| (format!("channel-{c}-of-{index:08}"), c))
            .collect(),
        unsent: vec![7; 772],
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::new(Schemas::only(1));
    if let Some(path) = env::var_os(SUCCESSOR) {
        let taken = successor::connect(Path::new(&path), &settings, unobserved())?
            .take(|inheritance: successor::Inheritance<State>| Ok(inheritance.connections));
        let (connections, receipt) = taken?;
        println!("{}", serde_json::to_string(&receipt)?);
        drop(connections);
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("handover.sock");
    let listener = UnixListener::bind(&path)?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    println!("| connections | state | frozen (median of {RUNS}) | worst | total |");
    println!("|---|---|---|---|---|");
    for count in [100, 1_000, 3_000, 9_000] {
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut clients: Vec<OwnedFd> = Vec::new();
        for index in 0..count {
            if index % 2 == 0 {
                clients.push(TcpStream::connect(tcp.local_addr()?)?.into());
                held.push(tcp.accept()?.0.into());
            } else {
                let (client, server) = UnixStream::pair()?;
                clients.push(client.into());
                held.push(server.into());
            }
        }
        let states: Vec<_> = (0..count).map(state).collect();
        let mut receipts = Vec::new();
        for _ in 0..RUNS {
            let successor = Command::new(env::current_exe()?)
                .env(SUCCESSOR, &path)
                .stdout(std::process::Stdio::piped())
                .spawn()?;
            let now = Counts {
                listeners: 1,
                connections: count as u32,
            };
            let asked = predecessor::answer(listener.accept()?.0, now, &settings, unobserved())?;
            let connections = held.iter().zip(&states).collect::<Vec<_>>();
            match asked.give(&[("tcp", tcp.as_fd())], &[], connections) {
                Ending::Released(_) => {}
                Ending::Resume(failure) => return Err(failure.into()),
            }
            let output = successor.wait_with_output()?;
            receipts.push(serde_json::from_slice::<Receipt>(&output.stdout)?);
        }
        receipts.sort_by(|a, b| a.frozen_ms.total_cmp(&b.frozen_ms));
        let (median, worst) = (&receipts[RUNS / 2], &receipts[RUNS - 1]);
        println!(
            "| {count} | {:.1} MiB | {:.1} ms | {:.1} ms | {:.1} ms |",
            median.bytes as f64 / f64::from(1 << 20),
            median.frozen_ms,
            worst.frozen_ms,
            median.total_ms
        );
    }
    Ok(())
}
