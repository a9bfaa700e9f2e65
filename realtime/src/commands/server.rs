//! What the commands share that ask a running server: where it is, with which key, and what its refusals say.

use super::{first_line, install_tls};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

/// Longer than the server takes to answer or abandon a request (R-LIM-18).
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server, and the key to its API.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The server
    #[arg(long, env = "REALTIME_URL", default_value = "http://127.0.0.1:7400")]
    url: String,
    /// A file whose first line is an API key, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<String>,
}

impl Server {
    /// `GET`; the body of the answer.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        self.ask(path, None)
    }

    /// `POST`; the body of the answer.
    pub fn post(&self, path: &str, body: String) -> anyhow::Result<String> {
        self.ask(path, Some(body))
    }

    fn ask(&self, path: &str, body: Option<String>) -> anyhow::Result<String> {
        let key = self.key()?;
        let url = format!("{}{path}", base(&self.url)?);
        install_tls();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let authorization = format!("Bearer {key}");
        let sent = match body {
            None => agent
                .get(&url)
                .header("authorization", authorization)
                .call(),
            Some(body) => agent
                .post(&url)
                .header("authorization", authorization)
                .content_type("application/json")
                .send(body),
        };
        let mut response = sent.with_context(|| format!("{url} cannot be reached"))?;
        let status = response.status();
        let answer = response
            .body_mut()
            .read_to_string()
            .with_context(|| format!("{url} did not answer in full"))?;
        if status.is_success() {
            return Ok(answer);
        }
        let hint = match status.as_u16() {
            401 => "; the API key is not one of the server's",
            404 => "; is this a realtime server?",
            429 => "; try again later",
            _ => "",
        };
        bail!("{url} answered {status}: {}{hint}", sentence(&answer));
    }

    fn key(&self) -> anyhow::Result<String> {
        match (&self.api_key_file, std::env::var("REALTIME_API_KEY")) {
            (Some(file), _) => first_line(file),
            (None, Ok(key)) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
            (None, _) => {
                bail!("an API key is needed: --api-key-file, or the variable REALTIME_API_KEY")
            }
        }
    }
}

/// The base of all paths: the URL may be it, or the one for WebSockets or publishing.
fn base(url: &str) -> anyhow::Result<String> {
    let base = url.trim_end_matches('/');
    let base = ["/v1", "/publish", "/info"]
        .iter()
        .find_map(|path| base.strip_suffix(path))
        .unwrap_or(base);
    match base.split_once("://") {
        Some(("ws" | "http", rest)) => Ok(format!("http://{rest}")),
        Some(("wss" | "https", rest)) => Ok(format!("https://{rest}")),
        _ => bail!("`{url}` is not a URL such as https://rt.example.com"),
    }
}

/// The sentence of an error body (R-ERR-10), or what else was answered.
fn sentence(answer: &str) -> String {
    let body: Value = serde_json::from_str(answer).unwrap_or_default();
    match (
        body["error"]["code"].as_str(),
        body["error"]["message"].as_str(),
    ) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => answer.chars().take(300).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_url_of_a_server_leads_to_its_base() {
        for url in [
            "http://h:1",
            "http://h:1/",
            "ws://h:1/v1",
            "ws://h:1/v1/",
            "http://h:1/publish",
            "http://h:1/info",
        ] {
            assert_eq!(base(url).unwrap(), "http://h:1", "{url}");
        }
        assert_eq!(base("wss://h/base/v1").unwrap(), "https://h/base");
        for bad in ["h:1", "", "ftp://h"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}
