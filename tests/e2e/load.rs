//! A small closed-loop client: one keep-alive connection a host, and what came back.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// One GET over a connection of its own: status and body.
pub fn get(url: &str) -> Result<(u16, String), String> {
    let (mut stream, host, path) = connect(url)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("no status in {text:?}"))?;
    Ok((
        status,
        text.split_once("\r\n\r\n")
            .map(|(_, body)| body.trim().to_owned())
            .unwrap_or_default(),
    ))
}

fn connect(url: &str) -> Result<(TcpStream, &str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or("only http")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |i| rest.split_at(i));
    let stream = TcpStream::connect(host).map_err(|e| format!("{host}: {e}"))?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(|e| e.to_string())?;
    Ok((stream, host, path))
}

/// What a load saw.
#[derive(Default, Debug)]
pub struct Seen {
    pub answers: BTreeMap<String, u64>,
    pub failures: Vec<String>,
}

/// New connections to every host, one after the other, until told to end.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Load {
    pub fn on(urls: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = urls
            .iter()
            .cloned()
            .map(|url| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let mut seen = Seen::default();
                    while !stop.load(Ordering::Relaxed) {
                        match get(&url) {
                            Ok((200, body)) => *seen.answers.entry(body).or_default() += 1,
                            Ok((status, body)) => {
                                seen.failures.push(format!("{url}: {status} {body}"))
                            }
                            Err(e) => seen.failures.push(format!("{url}: {e}")),
                        }
                        // A pace that leaves the two cores to what is being tested.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    seen
                })
            })
            .collect();
        Self { stop, threads }
    }

    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().expect("the load thread does not panic");
            for (version, n) in seen.answers {
                *all.answers.entry(version).or_default() += n;
            }
            all.failures.extend(seen.failures);
        }
        all
    }
}
