//! The HTTP interfaces beside the WebSocket: what backends, load balancers and operators ask.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Instant;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tracing::warn;
use ulid::Ulid;

use crate::config::Settings;
use crate::connection::{ConnectionId, Origin, Secret};
use crate::console;
use crate::engine::History;
use crate::function_api;
use crate::http as wire;
use crate::hub::calls::{Call, Endpoint};
use crate::hub::questions::{no_schedule, select};
use crate::hub::{Backend, Client, Hub};
use crate::info;
use crate::metrics::{self, Trigger};
use crate::names;
use crate::protocol::{self, Code, Failure};
use crate::time::Now;
use crate::websocket::NotAnUpgrade;

/// What a request is answered with besides what it says.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The settings in force.
    pub settings: &'a Settings,
    /// Whose word about where a request comes from is taken.
    pub proxies: &'a wire::TrustedProxies,
    /// Whoever is at the other end; nothing for a Unix socket.
    pub peer: Option<IpAddr>,
    /// When this process began to serve.
    pub started: Instant,
    /// It came through a listener for operators, which needs no key.
    pub operations: bool,
    /// This server takes no new connections any more.
    pub draining: bool,
}

impl Asked<'_> {
    /// Where a request comes from (R-CFG-5).
    fn origin(&self, request: &Request<Vec<u8>>) -> Origin {
        let headers = request.headers();
        Origin::new(self.proxies.client(self.peer, headers), headers)
    }
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/health`, and `/healthz` as R-OPS-12 calls it.
    Health,
    /// `/metrics` (R-LOG-12).
    Metrics,
    /// `/info` (R-OPS-9).
    Info,
    /// `/publish` (R-SRV-6).
    Publish,
    /// `/2015-03-31/functions/{name}/invocations` (R-DIFF-7).
    Function,
    /// `/channels/{name}` (R-SRV-26).
    Channel,
    /// `/channels/{name}/storage` (R-SRV-30).
    Storage,
    /// `/channels/{name}/messages` (R-DIFF-21).
    Messages,
    /// `/schedules/{id}` (R-DIFF-10).
    Schedule,
    /// `/connection/{endpoint}` (section 18 of the protocol).
    Connection(Endpoint),
    /// `/console` and what is below it (R-CONS-1).
    Console,
    /// Anything else.
    Unknown,
}

impl Route {
    /// The route of a path.
    pub fn of(segments: &[impl AsRef<str>]) -> Self {
        match segments.iter().map(AsRef::as_ref).collect::<Vec<_>>()[..] {
            ["health" | "healthz"] => Self::Health,
            ["metrics"] => Self::Metrics,
            ["info"] => Self::Info,
            ["publish"] => Self::Publish,
            ["2015-03-31", "functions", _, "invocations"] => Self::Function,
            ["channels", _] => Self::Channel,
            ["channels", _, "storage"] => Self::Storage,
            ["channels", _, "messages"] => Self::Messages,
            ["schedules", _] => Self::Schedule,
            ["connection", name] => Endpoint::of(name).map_or(Self::Unknown, Self::Connection),
            ["console"] | ["console", _] => Self::Console,
            _ => Self::Unknown,
        }
    }

    /// A name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Info => "info",
            Self::Publish => "publish",
            Self::Function => "function",
            Self::Channel => "channel",
            Self::Storage => "storage",
            Self::Messages => "messages",
            Self::Schedule => "schedule",
            Self::Connection(endpoint) => endpoint.name(),
            Self::Console => "console",
            Self::Unknown => "other",
        }
    }

    /// What may be done; nothing at an unknown path. Whoever may GET may HEAD.
    fn methods(self) -> &'static [Method] {
        match self {
            Self::Publish | Self::Function | Self::Connection(_) => &[Method::POST],
            Self::Schedule => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Health
            | Self::Metrics
            | Self::Info
            | Self::Channel
            | Self::Storage
            | Self::Messages
            | Self::Console => &[Method::GET, Method::HEAD],
            Self::Unknown => &[],
        }
    }

    /// What `Allow` says (RFC 9110, section 10.2.1).
    fn allowed(self) -> String {
        let methods: Vec<_> = self.methods().iter().map(Method::as_str).collect();
        methods.join(", ")
    }

    fn is_open(self, asked: &Asked<'_>) -> bool {
        match self {
            // They have credentials of their own, or need none.
            Self::Health | Self::Console | Self::Function | Self::Connection(_) => true,
            Self::Metrics | Self::Info => asked.operations,
            Self::Publish
            | Self::Channel
            | Self::Storage
            | Self::Messages
            | Self::Schedule
            | Self::Unknown => false,
        }
    }
}

/// Answers a request that is no upgrade. `None`: a [`crate::hub::Notice`] will bring the answer.
pub fn handle(
    hub: &mut Hub,
    now: Now,
    client: Client,
    request: &Request<Vec<u8>>,
    asked: &Asked<'_>,
) -> (Route, Option<Response<Vec<u8>>>) {
    let segments = wire::path_segments(request.uri().path());
    let route = match segments.as_ref().map_or(Route::Unknown, |it| Route::of(it)) {
        // Not where no client can connect, and nowhere if it is switched off (R-CONS-7).
        Route::Console if asked.operations || !asked.settings.console => Route::Unknown,
        route => route,
    };
    let answer = match segments {
        Err(_) => Err(Failure::because(
            Code::InvalidMessage,
            "the path is not UTF-8",
        )),
        Ok(segments) => permit(hub, route, request, asked).and_then(|()| match route {
            Route::Health => Ok(Some(health(hub, asked))),
            Route::Metrics => Ok(Some(scrape(hub))),
            Route::Info => {
                let uptime = now.mono.saturating_duration_since(asked.started);
                let report = info::report(asked.settings, &hub.running(), uptime);
                Ok(Some(json(StatusCode::OK, report.to_string())))
            }
            Route::Channel => channel(hub, now, client, &segments[1]).map(|()| None),
            Route::Storage => storage(hub, now, client, &segments[1], request).map(|()| None),
            Route::Messages => messages(hub, now, client, &segments[1], request).map(|()| None),
            Route::Schedule => schedule(hub, now, client, &segments[1], request).map(|()| None),
            Route::Connection(endpoint) => {
                call(hub, now, client, endpoint, request, asked).map(|()| None)
            }
            Route::Publish => publish(hub, now, client, request, asked).map(|()| None),
            Route::Console => console::answer(request, segments.get(1).map(|it| &**it))
                .map(Some)
                .ok_or_else(nothing_there),
            Route::Function => Ok(function_api::handle(hub, now, client, request, asked)),
            Route::Unknown => Err(nothing_there()),
        }),
    };
    let answer = answer.unwrap_or_else(|why| {
        hub.metrics.error(why.code.as_str());
        let mut answer = failure(&why);
        if why.code == Code::MethodNotAllowed
            && let Ok(allowed) = HeaderValue::try_from(route.allowed())
        {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        Some(answer)
    });
    (route, answer)
}

fn nothing_there() -> Failure {
    Failure::because(Code::NotFound, "there is nothing at this path")
}

/// May whoever sent this ask it, by this method and with this key? Of an unknown path nothing is asked.
fn permit(
    hub: &Hub,
    route: Route,
    request: &Request<Vec<u8>>,
    asked: &Asked<'_>,
) -> Result<(), Failure> {
    let methods = route.methods();
    if methods.is_empty() {
        return Ok(());
    }
    if !methods.contains(request.method()) {
        return Err(Failure::because(
            Code::MethodNotAllowed,
            "this path takes another method: see Allow",
        ));
    }
    if !route.is_open(asked) && !has_key(request, asked) {
        hub.metrics.auth_failed("api_key");
        warn!(
            route = route.name(),
            "a request was refused: its API key is missing or wrong"
        );
        return Err(Failure::because(
            Code::Unauthorized,
            "an API key is needed: Authorization: Bearer <key>",
        ));
    }
    Ok(())
}

fn has_key(request: &Request<Vec<u8>>, asked: &Asked<'_>) -> bool {
    wire::bearer(request).is_some_and(|key| asked.settings.accepts_api_key(key.as_bytes()))
}

/// Ready only when this server can take a connection.
fn health(hub: &Hub, asked: &Asked<'_>) -> Response<Vec<u8>> {
    if asked.draining {
        json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
    } else if !hub.can_verify() {
        json(
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"no signing key is configured: every token would be refused"}"#,
        )
    } else {
        json(StatusCode::OK, r#"{"status":"ready"}"#)
    }
}

fn scrape(hub: &Hub) -> Response<Vec<u8>> {
    let (bytes, messages) = hub.outboxes.waiting();
    let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
    hub.metrics.outbox_bytes.set(gauge(bytes));
    hub.metrics.outbox_messages.set(gauge(messages));
    let mut response = Response::new(hub.metrics.encode().into_bytes());
    let text = HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

fn check_channel(name: &str) -> Result<(), Failure> {
    names::check_channel(name)
        .map_err(|why| Failure::because(Code::InvalidChannel, why.to_string()))
}

fn channel(hub: &mut Hub, now: Now, client: Client, name: &str) -> Result<(), Failure> {
    check_channel(name)?;
    hub.describe(now, client, name);
    Ok(())
}

/// A parameter of the query that says something: a form sends its empty fields, too.
fn given<'a>(request: &'a Request<Vec<u8>>, name: &str) -> Option<Cow<'a, str>> {
    wire::query(request, name).filter(|value| !value.is_empty())
}

fn storage(
    hub: &mut Hub,
    now: Now,
    client: Client,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Result<(), Failure> {
    check_channel(name)?;
    let keys = given(request, "keys");
    let keys = keys.as_deref().map(|keys| keys.split(','));
    let select = select(keys, given(request, "after").as_deref())?;
    hub.storage(now, client, name, select);
    Ok(())
}

fn messages(
    hub: &mut Hub,
    now: Now,
    client: Client,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Result<(), Failure> {
    check_channel(name)?;
    let identifier = |name| {
        let text = given(request, name);
        text.map(|text| protocol::parse_id(name, &text)).transpose()
    };
    let reverse = match given(request, "reverse").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(Failure::because(
                Code::InvalidMessage,
                "reverse must be true or false",
            ));
        }
    };
    let history = History {
        channel: name.into(),
        since_ms: 0,
        event: given(request, "event").map(Into::into),
        after: identifier("after")?.filter(|_| !reverse),
        before: identifier("before")?.filter(|_| reverse),
        reverse,
    };
    hub.history(now, client, history);
    Ok(())
}

fn schedule(
    hub: &mut Hub,
    now: Now,
    client: Client,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Result<(), Failure> {
    // What can't be an identifier names nothing.
    let id: Ulid = protocol::parse_id("id", id).map_err(|_| no_schedule())?;
    match *request.method() {
        Method::DELETE => hub.cancel(now, client, id),
        _ => hub.planned(now, client, id),
    }
    Ok(())
}

/// A client calls in the name of a connection (section 18 of the protocol). What can't be the credentials of any is refused
/// here, so that nobody else is asked for it.
fn call(
    hub: &mut Hub,
    now: Now,
    client: Client,
    endpoint: Endpoint,
    request: &Request<Vec<u8>>,
    asked: &Asked<'_>,
) -> Result<(), Failure> {
    let given = |name| wire::query(request, name).unwrap_or_default();
    let connection = ConnectionId::parse(&given("connectionId"));
    let secret = Secret::parse(&given("connectionSecret"));
    let (Some(connection), Some(secret)) = (connection, secret) else {
        return Err(hub.credentials_refused());
    };
    let call = Call {
        endpoint,
        secret,
        body: request.body().clone(),
        origin: asked.origin(request),
    };
    hub.call(now, client, connection, &call)
}

fn publish(
    hub: &mut Hub,
    now: Now,
    client: Client,
    request: &Request<Vec<u8>>,
    asked: &Asked<'_>,
) -> Result<(), Failure> {
    let message = protocol::parse_publish(request.body())?;
    let backend = Backend {
        client,
        trigger: Trigger::ServerHttp,
        origin: &|| asked.origin(request),
        invocation: None,
    };
    hub.publish_from_backend(now, &backend, &message)
}

/// An answer with a JSON body (R-HTTP-7).
pub fn json(status: StatusCode, body: impl Into<Vec<u8>>) -> Response<Vec<u8>> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An error, with the status that belongs to its code (R-ERR-10).
pub fn failure(failure: &Failure) -> Response<Vec<u8>> {
    json(failure.http_status(), protocol::http_error(failure))
}

/// An error with a status of its own.
pub fn refusal(status: StatusCode, code: Code, message: &'static str) -> Response<Vec<u8>> {
    json(
        status,
        protocol::http_error(&Failure::because(code, message)),
    )
}

/// A request that is no opening handshake, although it asks for one.
pub fn not_an_upgrade(why: NotAnUpgrade) -> Response<Vec<u8>> {
    let body = protocol::http_error(&Failure::because(Code::InvalidMessage, why.to_string()));
    let mut response = json(why.status(), body);
    for (name, value) in why.headers() {
        response
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    response
}

/// Bytes that are no request.
pub fn bad_request(why: wire::BadRequest) -> Response<Vec<u8>> {
    let body = protocol::http_error(&Failure::because(Code::InvalidMessage, why.to_string()));
    json(why.status(), body)
}
