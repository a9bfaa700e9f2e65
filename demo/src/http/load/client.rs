//! One HTTP/1.1 client: a connection that is kept where HTTP allows it, and the strict rule of what counts as failed.
//!
//! A server may close an idle connection at any time (RFC 9112, section 9.5). When that happened before a byte of our
//! request was sent, we connect anew and nobody has lost anything. Once a byte was sent, a connection that ends without
//! the whole response is a failed request, although the standard would let a client repeat a GET: browsers and
//! load balancers differ in that, and some show the error to their user.

use crate::http::tally::{Failure, FailureKind};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{error::Error, io, net::SocketAddr};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// A body is one short line; more than this is not our service.
const MAX_BODY: usize = 64 * 1024;

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// `/`, on a connection that is kept.
    Root,
    /// `/`, on a connection of its own (`Connection: close`).
    RootThenClose,
    /// `/slow?ms=…`, on a connection that is kept.
    Slow(u64),
}

/// An open connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// The same socket, for a look at what the kernel already knows: hyper learns of a close only when the runtime
    /// gets around to telling it, and until then it would send a request into a closed connection.
    probe: std::net::TcpStream,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let cannot = |error: &dyn std::fmt::Display| Failure {
            kind: FailureKind::Connect,
            what: format!("connecting to {address}: {error}"),
        };
        let stream = TcpStream::connect(address).await.map_err(|error| Failure {
            kind: match error.kind() {
                io::ErrorKind::ConnectionRefused => FailureKind::Refused,
                _ => FailureKind::Connect,
            },
            what: format!("connecting to {address}: {error}"),
        })?;
        let stream = stream.into_std().map_err(|e| cannot(&e))?;
        let probe = stream.try_clone().map_err(|e| cannot(&e))?;
        let stream = TcpStream::from_std(stream).map_err(|e| cannot(&e))?;
        stream.set_nodelay(true).map_err(|e| cannot(&e))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| cannot(&e))?;
        // It ends with the connection; its error reaches the request that it concerns.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self { sender, probe })
    }

    /// Whether a request may still be sent: nothing has arrived on the idle connection, neither bytes nor its end.
    async fn still_open(&mut self) -> bool {
        if self.sender.ready().await.is_err() {
            return false;
        }
        let idle = self.probe.peek(&mut [0]);
        matches!(idle, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Asks for `page` and returns the body of a response with status 200 that was complete at `deadline`.
/// `kept` is used when it is still open, and holds the connection afterwards when it may be used again.
pub(super) async fn ask(
    kept: &mut Option<Connection>,
    address: SocketAddr,
    page: Page,
    deadline: Instant,
    reconnects: &mut u64,
) -> Result<String, Failure> {
    // A connection whose request timed out is dropped with this future: it is not in `kept` while a request runs.
    match timeout_at(deadline, exchange(kept, address, page, reconnects)).await {
        Ok(result) => result,
        Err(_) => Err(Failure {
            kind: FailureKind::Timeout,
            what: format!("{address}: no whole answer in time"),
        }),
    }
}

async fn exchange(
    kept: &mut Option<Connection>,
    address: SocketAddr,
    page: Page,
    reconnects: &mut u64,
) -> Result<String, Failure> {
    if let Some(mut connection) = kept.take() {
        if connection.still_open().await {
            match send(&mut connection, address, page).await {
                Sent::Done(result) => {
                    *kept = result.is_ok().then_some(connection);
                    return result;
                }
                Sent::Nothing(_) => {}
            }
        }
        *reconnects += 1;
    }
    let mut connection = Connection::open(address).await?;
    let result = match send(&mut connection, address, page).await {
        Sent::Done(result) => result,
        // On a connection that was just made this is no idle close: the server hung up on a client that had come to ask.
        Sent::Nothing(what) => Err(broken(address, &what)),
    };
    if result.is_ok() && page != Page::RootThenClose {
        *kept = Some(connection);
    }
    result
}

enum Sent {
    /// Bytes of the request were sent; this came of it.
    Done(Result<String, Failure>),
    /// The connection had ended before the first byte.
    Nothing(String),
}

async fn send(connection: &mut Connection, address: SocketAddr, page: Page) -> Sent {
    let uri = match page {
        Page::Root | Page::RootThenClose => "/".to_owned(),
        Page::Slow(ms) => format!("/slow?ms={ms}"),
    };
    let mut request = Request::get(uri).header(header::HOST, address.to_string());
    if page == Page::RootThenClose {
        request = request.header(header::CONNECTION, "close");
    }
    let request = match request.body(Empty::new()) {
        Ok(request) => request,
        Err(error) => return Sent::Done(Err(garbled(address, &error))),
    };
    let response = match connection.sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) if error.message().is_some() => {
            drop(error.take_message());
            return Sent::Nothing(chain(error.error()));
        }
        Err(error) => return Sent::Done(Err(of_hyper(address, error.error()))),
    };
    let status = response.status();
    let body = match Limited::new(response.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Sent::Done(Err(match error.downcast_ref::<hyper::Error>() {
                Some(error) => of_hyper(address, error),
                None => garbled(address, &error),
            }));
        }
    };
    Sent::Done(if status == hyper::StatusCode::OK {
        String::from_utf8(body.to_vec()).map_err(|error| garbled(address, &error))
    } else {
        Err(Failure {
            kind: FailureKind::Status,
            what: format!("{address}: status {}", status.as_u16()),
        })
    })
}

fn of_hyper(address: SocketAddr, error: &hyper::Error) -> Failure {
    if error.is_parse() {
        garbled(address, error)
    } else {
        broken(address, &chain(error))
    }
}

fn broken(address: SocketAddr, what: &str) -> Failure {
    Failure {
        kind: FailureKind::Broken,
        what: format!("{address}: {what}"),
    }
}

fn garbled(address: SocketAddr, error: &dyn std::fmt::Display) -> Failure {
    Failure {
        kind: FailureKind::Garbled,
        what: format!("{address}: {error}"),
    }
}

/// hyper's errors say little without their causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
