//! The few calls of EC2 and IAM that the local cloud needs: their SDKs are too large for that, their query protocol is not.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use regex::Regex;
use std::time::Duration;

/// An AWS endpoint that speaks plain HTTP and checks no signatures.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A query for [`Endpoint::query`]: service, API version and action.
#[derive(Clone, Copy, Debug)]
pub struct Action(pub &'static str, pub &'static str, pub &'static str);

impl Endpoint {
    /// The endpoint at this URL.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// GET; status and body.
    ///
    /// # Errors
    /// No answer within ten seconds.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        self.send(Request::get(format!("{}{path}", self.url)).body(Full::default())?)
            .await
    }

    /// Calls a query API and returns the XML.
    ///
    /// # Errors
    /// No answer, or one that is an error; its code and sentence are in the error.
    pub async fn query(
        &self,
        region: &str,
        Action(service, version, action): Action,
        parameters: &[(&str, &str)],
    ) -> Result<String> {
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            body += &format!("&{name}={}", percent(value));
        }
        // Region and service are read from the signature's scope; nothing checks the signature itself.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = Request::post(format!("{}/", self.url))
            .header(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            )
            .header("authorization", authorization)
            .body(Full::from(body))?;
        let (status, xml) = self
            .send(request)
            .await
            .with_context(|| format!("{service} {action}"))?;
        if status == 200 {
            return Ok(xml);
        }
        let code = first(&xml, "Code").unwrap_or_default();
        bail!(
            "{service} {action}: status {status} {code}: {}",
            first(&xml, "Message").unwrap_or_default()
        )
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(u16, String)> {
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(Duration::from_secs(10), exchange)
            .await
            .context("no answer within 10 s")?
    }
}

/// The text of every element of this name, unescaped. Good for elements that contain only text.
pub fn all(xml: &str, element: &str) -> Vec<String> {
    let Ok(pattern) = Regex::new(&format!("<{element}>([^<]*)</{element}>")) else {
        return vec![];
    };
    pattern
        .captures_iter(xml)
        .map(|c| unescape(&c[1]))
        .collect()
}

/// The text of the first element of this name.
pub fn first(xml: &str, element: &str) -> Option<String> {
    all(xml, element).into_iter().next()
}

fn unescape(text: &str) -> String {
    let named = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&amp;", "&"),
    ];
    named.iter().fold(text.to_owned(), |t, (escaped, plain)| {
        t.replace(escaped, plain)
    })
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_both_directions() {
        assert_eq!(percent("a=b&c d/é"), "a%3Db%26c%20d%2F%C3%A9");
        assert_eq!(
            all("<a>1 &amp;lt; &lt;</a><b/><a></a>", "a"),
            ["1 &lt; <", ""]
        );
    }
}
