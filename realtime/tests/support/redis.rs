//! A Redis server of the test's own, and a proxy in front of it that can cut connections.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long something that must happen may take on a busy machine before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a loopback port; ended when dropped.
pub struct Redis {
    child: Option<Child>,
    /// Everything it needs on disk.
    pub dir: TempDir,
    /// Where it listens.
    pub port: u16,
    flags: Vec<String>,
}

impl Redis {
    /// One that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// One that has written everything to disk before it answers.
    pub fn durable() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// One with these flags.
    pub fn with(flags: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            dir: tempfile::tempdir().expect("a temporary folder"),
            port: free_port(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        redis.launch();
        redis
    }

    /// Starts it, again if it was killed, at the same place.
    pub fn launch(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.flags)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: `make setup`");
        self.child = Some(child);
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut answer = [0; 7];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && (&answer == b"+PONG\r\n" || &answer == b"-NOAUTH")
    }

    /// Ends it without notice.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
    }

    /// How it is reached.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Has it carry out a command, as `redis-cli` prints it.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is installed: `make setup`");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// All of its keys, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = (self.command(&["KEYS", "*"]).lines())
            .map(str::to_owned)
            .filter(|key| !key.is_empty())
            .collect();
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on, and that nobody gets who asks for any: those are above 32,768
/// (`net.ipv4.ip_local_port_range`).
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let mut ports = (0..COUNT).map(|_| {
        // Another process of tests begins elsewhere.
        let next = std::process::id() + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        FIRST + (next % u32::from(COUNT)) as u16
    });
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(free).expect("a port is free")
}

/// Passes bytes between clients and a server, until it is told to cut them off.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    open: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<(TcpStream, TcpStream)>>>,
    _thread: JoinHandle<()>,
}

impl Proxy {
    /// In front of a server.
    pub fn before(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let open = Arc::new(AtomicBool::new(true));
        let deaf = Arc::new(AtomicBool::new(false));
        let is_deaf = deaf.clone();
        let connections: Arc<Mutex<Vec<(TcpStream, TcpStream)>>> = Arc::default();
        let (is_open, all, server) = (open.clone(), connections.clone(), redis.port);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("it is open");
                }
                let (from, to) = (twin(&client), twin(&server));
                std::thread::spawn(move || pass(from, to, &AtomicBool::new(false)));
                let (from, to) = (twin(&server), twin(&client));
                let deaf = is_deaf.clone();
                std::thread::spawn(move || pass(from, to, &deaf));
                all.lock().expect("no panic").push((client, server));
            }
        });
        Self {
            port,
            open,
            deaf,
            connections,
            _thread: thread,
        }
    }

    /// How the server is reached through it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections off, whatever is on its way; new ones are let through.
    pub fn cut(&self) {
        for (client, server) in self.connections.lock().expect("no panic").drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Lets no answer through any more, until the connections are cut off; or lets them through again.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Lets new connections through, or not.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        if !open {
            self.cut();
        }
    }
}

fn twin(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("descriptors are left")
}

fn pass(mut from: TcpStream, mut to: TcpStream, deaf: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(read) = from.read(&mut bytes) {
        if deaf.load(Ordering::SeqCst) && read > 0 {
            continue;
        }
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A certificate for `localhost` and 127.0.0.1 with its key, signed by itself: `tls.crt` and `tls.key` in a folder.
pub fn certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join("tls.key"))
        .arg("-out")
        .arg(dir.join("tls.crt"))
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed: `make setup`");
    assert!(made.success());
}
