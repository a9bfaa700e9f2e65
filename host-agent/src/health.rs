//! Health: a container takes traffic only after consecutive good answers (D-HOST-26 to D-HOST-29).

use crate::{
    docker::{Container, Engine, ProcessState},
    failure::Failure,
    seat::{Endpoint, Seats},
};
use bytes::Bytes;
use contract::{
    signal::CauseCode,
    spec::{ContainerSpec, HealthCheck, Topology},
};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::{fmt, net::SocketAddrV4, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

/// No more of a body is read than this.
const BODY_LIMIT: usize = 64 * 1024;
/// While nothing listens yet, looking again costs the service nothing.
const WHILE_STARTING: Duration = Duration::from_millis(100);

/// An engine that is silent for longer has failed.
const ENGINE_RESTARTS_WITHIN: Duration = Duration::from_secs(10);

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// The published port.
    Tcp(SocketAddrV4),
    /// The process's private socket, `PORTER_HEALTH_SOCKET`: its public one may still be its predecessor's.
    Unix(PathBuf),
}

impl Door {
    /// The door at which this container's health is asked for; a worker has none.
    pub fn of(container: &Container, seats: &Seats) -> Option<Self> {
        Some(match container.endpoint.as_ref()? {
            Endpoint::Tcp(at) => Door::Tcp(*at),
            Endpoint::Seat(seat) => Door::Unix(seats.sockets(seat, &container.swap).health),
        })
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Door::Tcp(at) => at.fmt(f),
            Door::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP status.
    Status(u16),
    /// Nothing listens.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Anything else.
    Broken(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status(status) => write!(f, "answered {status}"),
            Answer::Refused => f.write_str("refused the connection"),
            Answer::TimedOut => f.write_str("did not answer in time"),
            Answer::Broken(why) => write!(f, "gave no answer: {why}"),
        }
    }
}

/// The run of answers so far; pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    good: u32,
    asked: u32,
    last: Option<Answer>,
    same: u32,
}

impl Run {
    /// Takes one more answer; true once `healthy` good ones came in a row. Anything else starts the count again.
    pub fn take(&mut self, answer: Answer, check: &HealthCheck) -> bool {
        self.asked += 1;
        self.good = if answer == Answer::Status(check.status) {
            self.good + 1
        } else {
            0
        };
        self.same = if self.last.as_ref() == Some(&answer) {
            self.same + 1
        } else {
            1
        };
        self.last = Some(answer);
        self.good >= check.healthy.max(1)
    }

    fn describe(&self) -> String {
        match &self.last {
            None => "was never asked".into(),
            Some(last) => format!(
                "{last}, {} of {} times in a row at the end",
                self.same, self.asked
            ),
        }
    }
}

/// Waits until the container is ready.
///
/// # Errors
/// [`CauseCode::ContainerExited`] as soon as its process ends; [`CauseCode::HealthTimeout`] at `until`, with what it
/// answered and its last log lines.
pub async fn wait(
    engine: &Engine,
    seats: &Seats,
    spec: &ContainerSpec,
    container: &Container,
    until: Instant,
) -> Result<(), Failure> {
    match (spec.topology, Door::of(container, seats)) {
        (Topology::Inet, Some(at)) => wait_inet(engine, spec, container, &at, until).await,
        (Topology::Inet, None) => Err(Failure::new(
            CauseCode::PortMissing,
            format!("container `{}` is not published", spec.name),
        )),
        (Topology::Worker, _) => wait_worker(engine, spec, container, until).await,
    }
}

async fn wait_inet(
    engine: &Engine,
    spec: &ContainerSpec,
    container: &Container,
    at: &Door,
    until: Instant,
) -> Result<(), Failure> {
    let check = &spec.health;
    pause(check.start_period, until).await;
    let mut run = Run::default();
    loop {
        let answer = ask(at, check).await;
        let starting = answer == Answer::Refused;
        if run.take(answer, check) {
            return Ok(());
        }
        still_runs(engine, spec, container).await?;
        if Instant::now() >= until {
            let message = format!(
                "container `{}` {} on {} {} at {at}; wanted {} with status {}",
                spec.name,
                run.describe(),
                check.method,
                check.path,
                check.healthy,
                check.status
            );
            return Err(Failure::new(CauseCode::HealthTimeout, message)
                .with_log(engine.log_tail(&container.id).await));
        }
        let wait = if starting {
            check.interval.min(WHILE_STARTING)
        } else {
            check.interval
        };
        pause(wait, until).await;
    }
}

/// D-HOST-28: running for `start_period` without a restart, and the readiness command, if any, exits 0.
async fn wait_worker(
    engine: &Engine,
    spec: &ContainerSpec,
    container: &Container,
    until: Instant,
) -> Result<(), Failure> {
    let calm = Instant::now() + spec.health.start_period;
    while Instant::now() < calm {
        still_runs(engine, spec, container).await?;
        let left = calm.duration_since(Instant::now());
        sleep(left.min(Duration::from_millis(500))).await;
    }
    still_runs(engine, spec, container).await?;
    let Some(command) = &spec.health.exec else {
        return Ok(());
    };
    loop {
        let limit = spec.health.timeout.max(Duration::from_secs(1));
        let status = match timeout(limit, engine.exec(&container.id, command)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(status)) => format!("exits {status}"),
            Ok(Err(failure)) => failure.message,
            Err(_) => "does not end in time".into(),
        };
        still_runs(engine, spec, container).await?;
        if Instant::now() >= until {
            let message = format!(
                "worker `{}` is not ready: its readiness command {status}",
                spec.name
            );
            return Err(Failure::new(CauseCode::HealthTimeout, message)
                .with_log(engine.log_tail(&container.id).await));
        }
        pause(spec.health.interval, until).await;
    }
}

async fn pause(wait: Duration, until: Instant) {
    sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
}

/// # Errors
/// [`CauseCode::ContainerExited`] when its process has ended, be it only once.
pub async fn still_runs(
    engine: &Engine,
    spec: &ContainerSpec,
    container: &Container,
) -> Result<(), Failure> {
    let state = state(engine, &container.id).await?;
    match ended(&state) {
        None => Ok(()),
        Some(how) => Err(Failure::new(
            CauseCode::ContainerExited,
            format!("container `{}` {how}", spec.name),
        )
        .with_log(engine.log_tail(&container.id).await)),
    }
}

/// An engine that restarts keeps its containers running (`live-restore`), and is silent for some seconds.
async fn state(engine: &Engine, id: &str) -> Result<ProcessState, Failure> {
    let until = Instant::now() + ENGINE_RESTARTS_WITHIN;
    loop {
        match engine.state(id).await {
            Ok(state) => return Ok(state),
            Err(failure) if Instant::now() >= until => return Err(failure),
            // It answers: then the container is gone, or the engine was back just now.
            Err(_) if engine.containers().await.is_ok() => return engine.state(id).await,
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    }
}

/// Whether the process ended at least once, and how.
fn ended(state: &ProcessState) -> Option<String> {
    if state.running && !state.restarting && state.restarts == 0 {
        return None;
    }
    Some(if state.out_of_memory {
        "was ended by the kernel: out of memory".into()
    } else if state.running {
        format!("ended and was started again {} times", state.restarts)
    } else {
        format!("exited with status {}", state.exit_code)
    })
}

/// One request on a connection of its own; redirects are answers like others.
pub async fn ask(at: &Door, check: &HealthCheck) -> Answer {
    match timeout(check.timeout, request(at, check)).await {
        Ok(answer) => answer,
        Err(_) => Answer::TimedOut,
    }
}

async fn request(at: &Door, check: &HealthCheck) -> Answer {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let asked = match at {
        Door::Tcp(at) => match TcpStream::connect(at).await {
            Ok(socket) => Ok(exchange(socket, check).await),
            Err(e) => Err(e),
        },
        Door::Unix(path) => match UnixStream::connect(path).await {
            Ok(socket) => Ok(exchange(socket, check).await),
            Err(e) => Err(e),
        },
    };
    match asked {
        Ok(answer) => answer,
        // A socket that does not exist yet is a port at which nobody listens yet.
        Err(e) if matches!(e.kind(), ConnectionRefused | NotFound) => Answer::Refused,
        Err(e) => Answer::Broken(e.to_string()),
    }
}

async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    check: &HealthCheck,
) -> Answer {
    let broken = |e: &dyn fmt::Display| Answer::Broken(e.to_string());
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake(TokioIo::new(socket)).await {
            Ok(pair) => pair,
            Err(e) => return broken(&e),
        };
    let request = Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(header::HOST, "localhost")
        .header(header::USER_AGENT, "porter-host-agent")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(e) => return broken(&e),
    };
    let exchange = async {
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(e) => return broken(&e),
        };
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > BODY_LIMIT {
                break;
            }
        }
        Answer::Status(status)
    };
    tokio::select! {
        answer = exchange => answer,
        // The connection task only drives the exchange; when it ends first, the exchange has its error already.
        result = async { let r = connection.await; sleep(WHILE_STARTING).await; r } =>
            Answer::Broken(result.err().map_or_else(|| "the connection closed".into(), |e| e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn check(healthy: u32) -> HealthCheck {
        HealthCheck {
            method: "GET".into(),
            path: "/health".into(),
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(500),
            healthy,
            start_period: Duration::ZERO,
            status: 200,
            exec: None,
        }
    }

    proptest! {
        #[test]
        fn d_host_27_only_consecutive_successes_count(answers in proptest::collection::vec(0..4u8, 0..60), healthy in 1..5u32) {
            // D-HOST-27
            let mut run = Run::default();
            let mut streak = 0;
            for a in answers {
                let answer = match a { 0 => Answer::Refused, 1 => Answer::Status(503), _ => Answer::Status(200) };
                streak = if a >= 2 { streak + 1 } else { 0 };
                prop_assert_eq!(run.take(answer, &check(healthy)), streak >= healthy);
            }
        }
    }

    async fn serve(answer: &'static [u8]) -> Door {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else {
            panic!()
        };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    let _ = socket.read(&mut buffer).await;
                    let _ = socket.write_all(answer).await;
                    // Nothing more comes, and the connection stays open.
                    let _ = socket.read(&mut buffer).await;
                    std::future::pending::<()>().await;
                });
            }
        });
        Door::Tcp(at)
    }

    #[tokio::test]
    async fn d_host_27_redirects_are_not_followed_bodies_are_capped_and_silence_times_out() {
        // D-HOST-27
        let patient = HealthCheck {
            timeout: Duration::from_secs(10),
            ..check(1)
        };
        let at = serve(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(ask(&at, &patient).await, Answer::Status(302));
        let endless: &'static [u8] = Box::leak(
            [
                b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".as_slice(),
                &[b'x'; 200_000],
            ]
            .concat()
            .into(),
        );
        let at = serve(endless).await;
        assert_eq!(ask(&at, &patient).await, Answer::Status(200));
        let at = serve(b"").await;
        assert_eq!(ask(&at, &check(1)).await, Answer::TimedOut);
        // A port that nobody is given by chance.
        let nobody = Door::Tcp(SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1));
        assert_eq!(ask(&nobody, &patient).await, Answer::Refused);
        let not_yet = Door::Unix("/nowhere/health.sock".into());
        assert_eq!(ask(&not_yet, &check(1)).await, Answer::Refused);
    }
}
