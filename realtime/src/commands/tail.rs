//! `realtime tail`: a client for the terminal. Prints what a connection receives, and sends what is typed.

use super::{install_tls, token_of};
use crate::log::redact_url;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

/// How long connecting may take, each of its steps.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often signals and typed lines are looked for while nothing arrives.
const GLANCE: Duration = Duration::from_millis(50);
/// How long the server has to answer a close.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connect, subscribe, and print every message
///
/// One line for each message. Ctrl-C ends the connection with 1000. The exit code is 1 when the server refuses or ends the
/// connection.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Tail {
    /// The server
    #[arg(long, env = "REALTIME_URL", default_value = "ws://127.0.0.1:7400/v1")]
    url: String,
    /// The token, `-` for standard input [default: the variable REALTIME_TOKEN]
    #[arg(long)]
    token: Option<String>,
    /// A channel to subscribe to. May be repeated
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
    /// Send each line that is typed: a JSON message
    #[arg(long)]
    interactive: bool,
    /// Print messages over several lines
    #[arg(long)]
    pretty: bool,
    /// Print the time at which each message arrived
    #[arg(long)]
    timestamps: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  realtime token --channel room.1=subscribe | realtime tail --token - --channel room.1
  REALTIME_TOKEN=... realtime tail --url wss://rt.example.com/v1 --channel room.1 --count 3
  realtime tail --token eyJ... --interactive --timestamps";

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

/// What made the printing end.
enum End {
    /// Ctrl-C, or enough messages.
    Wanted,
    /// The server closed the connection.
    Closed(Option<CloseFrame>),
    /// The transport failed.
    Lost(String),
}

impl Tail {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.interactive && self.token.as_deref() == Some("-") {
            bail!("standard input can be the token or what is typed, not both");
        }
        let token = token_of(self.token.as_deref())?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The second one ends the program at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut socket = connect(&self.url, &token)?;
        for channel in &self.channel {
            let subscribe = json!({"event": "hotsock.subscribe", "channel": channel}).to_string();
            socket.send(Message::text(subscribe))?;
        }
        let typed = self.interactive.then(typed_lines);
        match self.follow(&mut socket, &stop, typed)? {
            End::Wanted => {
                farewell(&mut socket);
                Ok(ExitCode::SUCCESS)
            }
            End::Closed(frame) => bail!(
                "the server closed the connection: {}",
                words(frame.as_ref())
            ),
            End::Lost(why) => bail!("the connection was lost: {why}"),
        }
    }

    /// Prints and sends until there is a reason to end.
    fn follow(
        &self,
        socket: &mut Socket,
        stop: &AtomicBool,
        mut typed: Option<Receiver<String>>,
    ) -> anyhow::Result<End> {
        let mut printed = 0;
        while !stop.load(Ordering::Relaxed) {
            match typed.as_ref().map(Receiver::try_recv) {
                Some(Ok(line)) if !line.trim().is_empty() => socket.send(Message::text(line))?,
                // The end of the input ends the typing, not the listening.
                Some(Err(TryRecvError::Disconnected)) => typed = None,
                _ => {}
            }
            match socket.read() {
                Ok(Message::Text(text)) => {
                    // Whoever reads the output may have had enough, as `head` has.
                    if self.print(&text).is_err() {
                        return Ok(End::Wanted);
                    }
                    printed += 1;
                    if Some(printed) == self.count {
                        return Ok(End::Wanted);
                    }
                }
                Ok(Message::Close(frame)) => return Ok(End::Closed(frame)),
                Ok(_) => {}
                Err(Error::Io(e))
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(Error::ConnectionClosed) => return Ok(End::Closed(None)),
                Err(e) => return Ok(End::Lost(e.to_string())),
            }
        }
        Ok(End::Wanted)
    }

    fn print(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.timestamps {
            write!(out, "{:.3} ", Timestamp::now())?;
        }
        match serde_json::from_str::<Value>(text) {
            Ok(value) if self.pretty => writeln!(out, "{value:#}")?,
            _ => writeln!(out, "{text}")?,
        }
        out.flush()
    }
}

fn connect(url: &str, token: &str) -> anyhow::Result<Socket> {
    let url = match url.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        Some(("ws" | "wss", _)) => url.to_owned(),
        _ => bail!("`{url}` is not a URL such as wss://rt.example.com/v1"),
    };
    let shown = redact_url(&url).into_owned();
    let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let separator = if url.contains('?') { '&' } else { '?' };
    // An error about this URL must not quote it.
    let request = format!("{url}{separator}token={token}")
        .into_client_request()
        .map_err(|_| anyhow!("`{shown}` is not a URL such as wss://rt.example.com/v1"))?;
    let (host, port) = {
        let uri = request.uri();
        let port = uri
            .port_u16()
            .unwrap_or(if uri.scheme_str() == Some("wss") {
                443
            } else {
                80
            });
        (
            uri.host()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned(),
            port,
        )
    };
    let stream = reach(&host, port).with_context(|| format!("{shown} cannot be reached"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    install_tls();
    let (socket, _) = tungstenite::client_tls(request, stream).map_err(|error| match error {
        HandshakeError::Interrupted(_) => {
            anyhow!("{shown} did not answer within {} s", PATIENCE.as_secs())
        }
        HandshakeError::Failure(Error::Http(response)) => {
            anyhow!("{shown} refused the connection: {}", refusal(&response))
        }
        HandshakeError::Failure(error) => anyhow!("{shown} could not be connected to: {error}"),
    })?;
    match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream.set_read_timeout(Some(GLANCE))?,
        MaybeTlsStream::Rustls(stream) => stream.sock.set_read_timeout(Some(GLANCE))?,
        _ => bail!("this kind of TLS is not supported"),
    }
    Ok(socket)
}

/// Tries all addresses of the host, in turn.
fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What an answer other than a WebSocket means (R-CONN-6, R-CONN-7).
fn refusal(response: &http::Response<Option<Vec<u8>>>) -> String {
    let status = response.status();
    match status.as_u16() {
        401 => format!("{status}: the token is not good; `realtime check-token` says why"),
        403 => format!(
            "{status}: the token is good, but not for connecting; `realtime check-token` says why"
        ),
        429 => format!("{status}: the server takes no more connections at the moment"),
        _ => status.to_string(),
    }
}

/// Lines of standard input, read by a thread that ends with the program.
fn typed_lines() -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Closes with 1000 and waits a little for the answer.
fn farewell(socket: &mut Socket) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let until = Instant::now() + FAREWELL;
    if socket.close(Some(frame)).is_err() {
        return;
    }
    while Instant::now() < until {
        match socket.read() {
            Err(Error::Io(e))
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A close in words (RFC 6455, section 7.4.1).
fn words(frame: Option<&CloseFrame>) -> String {
    let Some(frame) = frame else {
        return "without a code".into();
    };
    let code = u16::from(frame.code);
    let meaning = match code {
        1000 => "normal",
        1001 => "going away",
        1002 => "the client broke the protocol",
        1003 => "the client sent what the server does not take",
        1007 => "the client sent text that is not UTF-8",
        1008 => "the client broke a rule of the server",
        1009 => "the client's message is too big",
        1011 => "the server failed",
        1012 => "the server restarts; connect again",
        1013 => "the server is overloaded; try again later",
        _ => "a code of the application",
    };
    match frame.reason.as_str() {
        "" => format!("{code} ({meaning})"),
        reason => format!("{code} {reason} ({meaning})"),
    }
}
