//! What the tests share: a real server process, real WebSocket clients, tokens.
//!
//! Nothing here waits for time to pass. That something does *not* arrive is proved by a barrier: the server processes what
//! one connection sends in order (R-CONN-22) and answers `hotsock.ping` at once, so whatever was to come before the
//! `hotsock.pong` has come.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod redis;
pub mod scripts;
pub mod service;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use self::redis::Redis;

/// How long something that must happen may take on a busy machine before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The secret of signing key 1 in every test server.
pub const SECRET: &[u8] = b"a secret for tests, of no use elsewhere";

/// The two API keys of every test server.
pub const API_KEYS: [&str; 2] = [
    "test0000000000000000000000000000000key-1",
    "test0000000000000000000000000000000key-2",
];

/// Whether this is the copy of the tests that runs with the engine of several hosts (`tests/with_redis.rs`).
pub fn is_with_redis() -> bool {
    module_path!().starts_with("with_redis::")
}

/// A running server; ended when dropped.
pub struct Server {
    child: Child,
    /// What its engine is, in the tests with Redis, unless a test chose one itself.
    redis: Option<Redis>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Everything it needs on disk.
    pub dir: TempDir,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Server {
    /// With the settings of every test server.
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more settings, as TOML: top-level keys first, then tables.
    pub fn with(settings: &str) -> Self {
        Self::launch(settings, &[])
    }

    /// With more settings and command-line flags.
    pub fn launch(settings: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self::launch_in(dir, settings, flags)
    }

    /// In a folder that exists already.
    pub fn launch_in(dir: TempDir, settings: &str, flags: &[&str]) -> Self {
        Self::launch_with(dir, settings, flags, &[])
    }

    /// With variables in its environment.
    pub fn launch_with(
        dir: TempDir,
        settings: &str,
        flags: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Self {
        let chosen = !is_with_redis() || settings.contains("[engine");
        let redis = (!chosen).then(Redis::start);
        Self::launch_on(redis, dir, settings, flags, environment)
    }

    fn launch_on(
        redis: Option<Redis>,
        dir: TempDir,
        settings: &str,
        flags: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Self {
        let file = dir.path().join("realtime.toml");
        std::fs::write(&file, configuration(dir.path(), redis.as_ref(), settings))
            .expect("the settings are written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_realtime"))
            .args(["serve", "--config"])
            .arg(&file)
            .args(flags)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server starts");
        let log = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let output = child.stdout.take().expect("its output is piped");
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.0.lock().expect("no panic while locked").push(line);
                lines.1.notify_all();
            }
        });
        let mut server = Self {
            child,
            redis,
            address: ([127, 0, 0, 1], 0).into(),
            dir,
            log,
        };
        let listening = server.logged(|record| {
            record["message"] == "listening"
                && record["address"]
                    .as_str()
                    .is_some_and(|at| at.starts_with("tcp:"))
        });
        let address = listening["address"].as_str().expect("an address");
        server.address = address
            .trim_start_matches("tcp:")
            .parse()
            .expect("an address and a port");
        server
    }

    /// Ends gracefully, if it has not ended.
    pub fn end(&mut self) {
        if self
            .child
            .try_wait()
            .expect("it can be waited for")
            .is_none()
        {
            self.signal(libc_signal::TERM);
        }
        assert!(self.ended().success(), "it ends in order");
    }

    /// Ends gracefully, and starts again in the same folder.
    pub fn again(mut self, settings: &str) -> Self {
        self.end();
        let other = tempfile::tempdir().expect("a temporary folder");
        let dir = std::mem::replace(&mut self.dir, other);
        Self::launch_on(self.redis.take(), dir, settings, &[], &[])
    }

    /// The settings' file, to be changed before [`Server::reload`].
    pub fn configure(&self, settings: &str) {
        std::fs::write(
            self.dir.path().join("realtime.toml"),
            configuration(self.dir.path(), self.redis.as_ref(), settings),
        )
        .expect("the settings are written");
    }

    /// Has the settings read anew, and waits until that is done.
    pub fn reload(&self) -> Value {
        let seen = self.log.0.lock().expect("no panic while locked").len();
        self.signal(libc_signal::HUP);
        self.logged_after(seen, |record| {
            let message = record["message"].as_str().unwrap_or_default();
            message.contains("settings were read anew") || message.contains("settings are wrong")
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for it to end by itself.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the server did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a log record.
    pub fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.logged_after(0, wanted)
    }

    /// Waits for a log record after the first `skip`.
    pub fn logged_after(&self, skip: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut lines = self.log.0.lock().expect("no panic while locked");
        loop {
            let found = lines
                .iter()
                .skip(skip)
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(&wanted);
            if let Some(record) = found {
                return record;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not logged; the log is:\n{}",
                lines.join("\n")
            );
            lines = self
                .log
                .1
                .wait_timeout(lines, Duration::from_millis(100))
                .expect("no panic while locked")
                .0;
        }
    }

    /// Everything logged so far, as it was written.
    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().expect("no panic while locked").clone()
    }

    /// The path of a file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connected client with these claims.
    pub fn connect(&self, claims: Value) -> Client {
        Client::connect(self, &token(claims)).expect("the token is good")
    }

    /// Tries to upgrade with a token, and gives the status of the refusal.
    pub fn refusal(&self, token: &str) -> u16 {
        match Client::connect(self, token) {
            Ok(_) => 101,
            Err(status) => status,
        }
    }

    /// An HTTP request; the status, headers in lower case, and body of the answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        request_to(self.address, method, path, headers, body)
    }

    /// `POST /publish` with API key 1.
    pub fn publish(&self, body: Value) -> Answer {
        self.request(
            "POST",
            "/publish",
            &[("Authorization", &format!("Bearer {}", API_KEYS[0]))],
            &body.to_string(),
        )
    }

    /// `GET` with API key 1.
    pub fn get(&self, path: &str) -> Answer {
        self.request(
            "GET",
            path,
            &[("Authorization", &format!("Bearer {}", API_KEYS[0]))],
            "",
        )
    }

    /// `POST /connection/{endpoint}` in the name of a client.
    pub fn call(&self, client: &Client, endpoint: &str, body: Value) -> Answer {
        self.call_with(client, endpoint, &[], &body.to_string())
    }

    /// The same, with more headers and any body.
    pub fn call_with(
        &self,
        client: &Client,
        endpoint: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let path = format!("/connection/{endpoint}?{}", client.credentials());
        self.request("POST", &path, headers, body)
    }

    /// The value of a metric, such as `realtime_connections`; labels as they are printed.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        line.and_then(|line| line.rsplit(' ').next())
            .map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until a metric has a value.
    pub fn await_metric(&self, name: &str, wanted: f64) {
        let begun = Instant::now();
        while self.metric(name) != wanted {
            assert!(
                begun.elapsed() < PATIENCE,
                "{name} is {}, not {wanted}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP request to whoever listens at an address.
pub fn request_to(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream
        .write_all(format!("{head}\r\n{body}").as_bytes())
        .expect("it reads");
    Answer::read(stream)
}

/// The settings of every test server, and more.
fn configuration(dir: &Path, redis: Option<&Redis>, more: &str) -> String {
    use base64::Engine as _;
    let has = |key: &str| more.lines().any(|line| line.trim_start().starts_with(key));
    let mut text = String::new();
    if !has("listen") {
        text += "listen = [\"tcp:127.0.0.1:0\"]\n";
    }
    if !has("data_dir") {
        text += &format!("data_dir = \"{}\"\n", dir.display());
    }
    if !has("api_keys") {
        text += &format!("api_keys = [\"{}\", \"{}\"]\n", API_KEYS[0], API_KEYS[1]);
    }
    let mut more = more.to_owned();
    if !has("[signing_keys") {
        let key = base64::engine::general_purpose::STANDARD.encode(SECRET);
        more += &format!("\n[signing_keys.1]\nmethod = \"HS256\"\nkey = \"{key}\"\n");
    }
    if let Some(redis) = redis {
        more += &format!("\n[engine]\nurl = \"{}\"\n", redis.url());
    }
    text + &more
}

/// Unix signals by their usual names.
pub mod libc_signal {
    pub use rustix::process::Signal;
    /// Read the settings anew.
    pub const HUP: Signal = Signal::HUP;
    /// End gracefully.
    pub const TERM: Signal = Signal::TERM;
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// A token, signed with [`SECRET`], good for connecting, subscribing and changing metadata for an hour, unless the claims
/// say otherwise.
pub fn token(mut claims: Value) -> String {
    let given = claims.as_object_mut().expect("claims are an object");
    given.entry("exp").or_insert_with(|| json!(now() + 3600));
    given.entry("scope").or_insert_with(|| json!("connect"));
    realtime::auth::mint_hs256(SECRET, &claims)
}

/// Waits until something is so, by asking again and again.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A schedule expression for a time in so many seconds, and that time in Unix seconds. What is to fire later must be a whole
/// second.
pub fn in_seconds(seconds: i64) -> (String, i64) {
    let at = jiff::Timestamp::now().as_second() + seconds;
    (expression(at), at)
}

/// A schedule expression for a Unix time, in UTC.
pub fn expression(at: i64) -> String {
    let at = jiff::Timestamp::from_second(at).expect("a time");
    format!("at({})", at.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// An answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// Reads an answer up to the end of the connection.
    pub fn read(mut stream: impl std::io::Read) -> Self {
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .expect("the answer can be read");
        let text = String::from_utf8(bytes).expect("the answer is text");
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The code of an error (R-ERR-10).
    pub fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {}", self.body))
            .to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(it, _)| it == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A connected WebSocket client, which is not one of ours.
pub struct Client {
    socket: WebSocket<TcpStream>,
    /// The `hotsock.connected` message.
    pub welcome: Value,
}

impl Client {
    /// Connects with a token; the status if it is refused.
    pub fn connect(server: &Server, token: &str) -> Result<Self, u16> {
        Self::connect_to(server, &format!("/v1?token={token}"))
    }

    /// Connects to a path.
    pub fn connect_to(server: &Server, path: &str) -> Result<Self, u16> {
        let mut client = Self::open(server, path, &[])?;
        client.welcome = client.next();
        assert_eq!(client.welcome["event"], "hotsock.connected", "R-CONN-8");
        Ok(client)
    }

    /// Upgrades only, with more headers; the first message has not been read.
    pub fn open(
        server: &Server,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        let mut request = format!("ws://{}{path}", server.address)
            .into_client_request()
            .expect("a request");
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, value.parse().expect("a header"));
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self {
                socket,
                welcome: Value::Null,
            }),
            Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// The connection's id.
    pub fn id(&self) -> &str {
        self.welcome["data"]["connectionId"]
            .as_str()
            .expect("an id")
    }

    /// What opens the client HTTP API, as a query.
    pub fn credentials(&self) -> String {
        let secret = self.welcome["data"]["connectionSecret"]
            .as_str()
            .expect("a secret");
        let id = self.id().replace('=', "%3D");
        format!("connectionId={id}&connectionSecret={secret}")
    }

    /// Sends a JSON message.
    pub fn send(&mut self, message: Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a text message as it is.
    pub fn send_text(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .expect("it is connected");
    }

    /// Sends JSON messages in one go.
    pub fn send_together(&mut self, messages: impl IntoIterator<Item = Value>) {
        for message in messages {
            let message = Message::text(message.to_string());
            self.socket.write(message).expect("it is connected");
        }
        self.socket.flush().expect("it is connected");
    }

    /// Sends any message.
    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("it is connected");
    }

    /// The next frame of any kind, as it came.
    pub fn next_message(&mut self) -> Message {
        self.socket.read().expect("something comes")
    }

    /// The next message.
    pub fn next(&mut self) -> Value {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    return serde_json::from_str(&text).expect("R-JSON-1: a JSON text");
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("a text message was expected, not {other:?}"),
                Err(error) => panic!("a message was expected: {error}"),
            }
        }
    }

    /// The next frame, of whatever kind.
    pub fn next_frame(&mut self) -> Message {
        self.socket.read().expect("a frame")
    }

    /// The next message; `None` if the server closes or has closed instead.
    pub fn next_or_close(&mut self) -> Option<Value> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(&text).expect("R-JSON-1: a JSON text"));
                }
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return None;
                }
                Ok(_) => {}
                Err(error) => panic!("a message or a close frame was expected: {error}"),
            }
        }
    }

    /// The next message, which has this event.
    pub fn expect(&mut self, event: &str) -> Value {
        let message = self.next();
        assert_eq!(message["event"], event, "{message}");
        message
    }

    /// The next message, which is an error with this code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let message = self.expect("hotsock.error");
        assert_eq!(message["error"]["code"], code, "{message}");
        message
    }

    /// Everything that came before now, in order: up to the answer to a ping.
    pub fn drain(&mut self) -> Vec<Value> {
        self.send(json!({"event": "hotsock.ping"}));
        let mut messages = Vec::new();
        loop {
            let message = self.next();
            if message["event"] == "hotsock.pong" {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Nothing came before now.
    pub fn expect_nothing(&mut self) {
        assert_eq!(self.drain(), Vec::<Value>::new());
    }

    /// Everything this client has sent so far has been processed.
    pub fn settle(&mut self) {
        self.expect_nothing();
    }

    /// Subscribes, and gives the confirmation.
    pub fn subscribe(&mut self, channel: &str) -> Value {
        self.send(json!({"event": "hotsock.subscribe", "channel": channel}));
        self.expect("hotsock.subscribed")
    }

    /// Subscribes, whatever comes before the confirmation.
    pub fn subscribe_quietly(&mut self, channel: &str) {
        self.send(json!({"event": "hotsock.subscribe", "channel": channel}));
        while self.next()["event"] != "hotsock.subscribed" {}
    }

    /// Reads until the server closes, and gives code and reason.
    pub fn closed(&mut self) -> (u16, String) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    return (code.into(), reason.to_string());
                }
                Ok(Message::Close(None)) => return (1005, String::new()),
                Ok(_) => {}
                Err(error) => panic!("a close frame was expected: {error}"),
            }
        }
    }

    /// Closes as clients do, and waits until the server has answered.
    pub fn close(mut self) {
        let _ = self.socket.close(None);
        while self.socket.read().is_ok() {}
    }

    /// Goes without a word: the kernel resets the connection.
    pub fn vanish(self) {
        rustix::net::sockopt::set_socket_linger(self.socket.get_ref(), Some(Duration::ZERO))
            .expect("an option");
    }

    /// The bytes below.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }
}

/// A client over a Unix socket: the bytes only.
pub fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}
