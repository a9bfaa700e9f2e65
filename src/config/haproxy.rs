//! The proxy on each host (section 1.4 of the specification). Environment and region are read on their own, then
//! merged key by key: maps merge, lists replace (D-CFG-6).

use super::{
    field::{Field, Section},
    pattern,
};
use contract::spec::{HeaderCapture, ProxySpec, ProxyTimeouts};
use std::{net::SocketAddr, time::Duration};

/// D-CFG-36: both ends wait equally long.
const DEFAULT_CLIENT_TIMEOUT: Duration = Duration::from_secs(7);
/// D-CFG-41.
const DEFAULT_MAXCONN: u32 = 200_000;
/// D-CFG-48.
const DEFAULT_STATS_BIND: &str = "127.0.0.1:8404";

/// What one level says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxyPart {
    request_header_captures: Option<Vec<HeaderCapture>>,
    response_header_captures: Option<Vec<HeaderCapture>>,
    log: Option<bool>,
    compression: Option<bool>,
    compress_types: Option<Vec<String>>,
    timeouts: ProxyTimeouts,
    maxconn: Option<u32>,
    has_pem: Option<bool>,
    https_only: Option<bool>,
    https_redirect: Option<bool>,
    stats: Option<bool>,
    stats_bind: Option<String>,
}

impl ProxyPart {
    pub fn read(section: Section) -> Self {
        let mut part = ProxyPart {
            request_header_captures: section.get("request_header_captures").map(|f| captures(&f)),
            response_header_captures: section
                .get("response_header_captures")
                .map(|f| captures(&f)),
            log: section.get("log").and_then(|f| f.boolean()),
            compression: section.get("compression").and_then(|f| f.boolean()),
            compress_types: section.get("compress_types").map(|f| mime_types(&f)),
            maxconn: section.get("maxconn").and_then(|f| f.count(1)),
            ..ProxyPart::default()
        };
        if let Some(timeout) = section.get("timeout").and_then(|f| f.section()) {
            part.timeouts = timeouts(timeout);
        }
        if let Some(ssl) = section.get("ssl").and_then(|f| f.section()) {
            part.read_tls(ssl);
        }
        if let Some(stats) = section.get("stats").and_then(|f| f.section()) {
            part.read_stats(stats);
        }
        section.done();
        part
    }

    /// `ssl` (D-CFG-42 to D-CFG-47).
    fn read_tls(&mut self, ssl: Section) {
        if let Some(field) = ssl.get("pem") {
            self.has_pem = Some(true);
            if let Some(pem) = field.section() {
                let name = pem.require("secrets_exec_name").and_then(|f| f.filled());
                pem.get("secrets_exec_args").map(|f| f.texts());
                pem.done();
                if name.is_some() {
                    field.unavailable("let the load balancer end TLS");
                }
            }
        }
        if let Some(field) = ssl.get("cert_directory")
            && let Some(directory) = field.filled()
            && !directory.starts_with('/')
        {
            field.error(format!("`{directory}` is not an absolute path"));
        }
        self.https_only = ssl.get("https_only").and_then(|f| f.boolean());
        self.https_redirect = ssl.get("https_redirect").and_then(|f| f.boolean());
        ssl.done();
    }

    /// `stats` (D-CFG-48); the page never leaves the host (D-HAP-14).
    fn read_stats(&mut self, stats: Section) {
        self.stats = stats.get("enabled").map_or(Some(true), |f| f.boolean());
        self.stats_bind = stats.get("bind").and_then(|f| {
            let text = f.text()?;
            match text.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() && address.port() > 0 => Some(text),
                _ => {
                    f.error(format!("`{text}` is not a loopback address with a port, such as `{DEFAULT_STATS_BIND}`"));
                    None
                }
            }
        });
        if let Some(field) = stats.get("public")
            && field.boolean() == Some(true)
        {
            field.unavailable("the page is on a loopback address only");
        }
        stats.done();
    }

    /// This level's values, and those of `below` where it has none.
    pub fn over(self, below: &ProxyPart) -> ProxyPart {
        let below = below.clone();
        let (own, other) = (self.timeouts, below.timeouts);
        ProxyPart {
            request_header_captures: self
                .request_header_captures
                .or(below.request_header_captures),
            response_header_captures: self
                .response_header_captures
                .or(below.response_header_captures),
            log: self.log.or(below.log),
            compression: self.compression.or(below.compression),
            compress_types: self.compress_types.or(below.compress_types),
            timeouts: ProxyTimeouts {
                client: own.client.or(other.client),
                server: own.server.or(other.server),
                tunnel: own.tunnel.or(other.tunnel),
                http_request: own.http_request.or(other.http_request),
                http_keep_alive: own.http_keep_alive.or(other.http_keep_alive),
            },
            maxconn: self.maxconn.or(below.maxconn),
            has_pem: self.has_pem.or(below.has_pem),
            https_only: self.https_only.or(below.https_only),
            https_redirect: self.https_redirect.or(below.https_redirect),
            stats: self.stats.or(below.stats),
            stats_bind: self.stats_bind.or(below.stats_bind),
        }
    }

    /// Rules across keys, then defaults. Complaints name the region, where both levels come together.
    pub fn resolve(self, region: &Section, balanced: bool, certificate: bool) -> ProxySpec {
        let pem = self.has_pem == Some(true);
        let https_only = self.https_only.unwrap_or(false);
        if https_only && !balanced {
            region.missing(
                "haproxy.ssl.https_only",
                "is impossible without a load balancer (`elb: none`)",
            ); // D-CFG-45
        } else if https_only && !pem && !certificate {
            region.missing(
                "haproxy.ssl.https_only",
                "needs `ssl.pem` or the region's `ssl_cert_arn`",
            ); // D-CFG-46
        }
        let https_redirect = self.https_redirect.unwrap_or(false) || https_only;
        if https_redirect && !balanced && !pem {
            region.field.warn("`https_redirect` without a load balancer and without `ssl.pem`: nothing here answers HTTPS");
        }
        let compress_types = self.compress_types.unwrap_or_default();
        let compression = self.compression.unwrap_or(false) || !compress_types.is_empty();
        let stats = self.stats.unwrap_or(false);
        ProxySpec {
            behind_load_balancer: balanced,
            request_header_captures: self.request_header_captures.unwrap_or_default(),
            response_header_captures: self.response_header_captures.unwrap_or_default(),
            log: self.log.unwrap_or(true),
            compression,
            compress_types,
            timeouts: resolve_timeouts(self.timeouts, region),
            maxconn: self.maxconn.unwrap_or(DEFAULT_MAXCONN),
            https_redirect,
            https_only,
            stats_bind: stats.then(|| self.stats_bind.unwrap_or_else(|| DEFAULT_STATS_BIND.into())),
        }
    }
}

fn timeouts(timeout: Section) -> ProxyTimeouts {
    let read = |key| timeout.get(key).and_then(|f| f.duration());
    let timeouts = ProxyTimeouts {
        client: read("client"),
        server: read("server"),
        tunnel: read("tunnel"),
        http_request: read("http_request"),
        http_keep_alive: read("http_keep_alive"),
    };
    timeout.done();
    timeouts
}

/// `server` and `tunnel` follow a configured `client` (D-CFG-36 to D-CFG-38). What nobody set stays open: its value
/// depends on the load balancer (D-HAP-3, D-HAP-4) and is the renderer's business.
fn resolve_timeouts(timeouts: ProxyTimeouts, region: &Section) -> ProxyTimeouts {
    let client = timeouts.client;
    if let Some(server) = timeouts.server
        && server != client.unwrap_or(DEFAULT_CLIENT_TIMEOUT)
    {
        let client = super::duration::show(client.unwrap_or(DEFAULT_CLIENT_TIMEOUT));
        region.missing(
            "haproxy.timeout.server",
            format!("must equal `timeout.client`, which is {client}"),
        );
    }
    ProxyTimeouts {
        server: timeouts.server.or(client),
        tunnel: timeouts.tunnel.or(client),
        ..timeouts
    }
}

/// D-CFG-31, D-CFG-32.
fn captures(field: &Field) -> Vec<HeaderCapture> {
    let capture = |capture: Section| {
        let read = HeaderCapture {
            header: capture
                .require("header")
                .and_then(|f| f.matching(&pattern::HEADER))
                .unwrap_or_default(),
            length: capture
                .require("length")
                .and_then(|f| f.count(1))
                .unwrap_or_default(),
        };
        capture.done();
        read
    };
    field
        .list()
        .iter()
        .filter_map(Field::section)
        .map(capture)
        .collect()
}

/// D-CFG-35: a list, or one text with spaces between the types.
fn mime_types(field: &Field) -> Vec<String> {
    if matches!(field.node.value, super::node::Value::List(_)) {
        return field
            .list()
            .iter()
            .filter_map(|f| f.matching(&pattern::MIME))
            .collect();
    }
    let types: Vec<String> = field
        .text()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for wrong in types.iter().filter(|t| !pattern::MIME.matches(t)) {
        field.error(format!("`{wrong}` is not {}", pattern::MIME.what));
    }
    types
}
