//! The instance metadata service, version 2 only: a token first, as launch templates with `HttpTokens: required` demand.

use crate::host::Boot;
use anyhow::Result;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";
const LONGEST_TTL: u64 = 21_600;
/// Temporary credentials are valid for so long, and made anew at every request.
const CREDENTIALS_VALID: SignedDuration = SignedDuration::from_hours(6);
const ROLES: &str = "meta-data/iam/security-credentials";

/// What the service tells, by path below `/latest`.
pub type Facts = BTreeMap<String, String>;

/// What an instance may know of itself.
pub fn facts(boot: &Boot) -> Facts {
    let text = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    let identity = serde_json::json!({
        "accountId": boot.account, "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" },
        "availabilityZone": boot.zone, "imageId": boot.image, "instanceId": boot.instance,
        "instanceType": boot.instance_type, "pendingTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "privateIp": boot.address, "region": boot.region, "version": "2017-09-30",
    });
    let mut facts = Facts::from([
        text("meta-data/ami-id", &boot.image),
        text("meta-data/hostname", &boot.instance),
        text("meta-data/instance-id", &boot.instance),
        text("meta-data/instance-life-cycle", "on-demand"),
        text("meta-data/instance-type", &boot.instance_type),
        text("meta-data/local-hostname", &boot.instance),
        text("meta-data/local-ipv4", &boot.address),
        text("meta-data/autoscaling/target-lifecycle-state", "InService"),
        text("meta-data/placement/availability-zone", &boot.zone),
        text("meta-data/placement/region", &boot.region),
        text("meta-data/services/domain", "amazonaws.com"),
        text("meta-data/services/partition", "aws"),
        text("dynamic/instance-identity/document", &identity.to_string()),
    ]);
    if let Some(user_data) = crate::cloud_init::decode(&boot.user_data)
        .ok()
        .filter(|d| !d.is_empty())
    {
        facts.insert("user-data".into(), user_data);
    }
    if let Some(role) = &boot.role {
        // The secret is as good as any: the emulator checks no signatures.
        let key = hex::encode(Sha256::digest(&boot.instance)).to_uppercase();
        let credentials = serde_json::json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": format!("ASIA{}", &key[..16]), "SecretAccessKey": &key[..40], "Token": key,
        });
        facts.insert(format!("{ROLES}/{role}"), credentials.to_string());
        let profile = serde_json::json!({
            "Code": "Success", "InstanceProfileArn": format!("arn:aws:iam::{}:instance-profile/{role}", boot.account), "InstanceProfileId": "AIPALOCAL",
        });
        facts.insert("meta-data/iam/info".into(), profile.to_string());
    }
    facts
}

/// Answers until the listener fails.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, facts: Facts) -> Result<()> {
    let service = Arc::new(Service {
        facts,
        tokens: Mutex::default(),
    });
    axum::serve(listener, Router::new().fallback(answer).with_state(service)).await?;
    Ok(())
}

struct Service {
    facts: Facts,
    tokens: Mutex<HashMap<String, Instant>>,
}

async fn answer(
    State(service): State<Arc<Service>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    // As EC2 does: a request that came through a proxy gets nothing.
    if headers.contains_key("x-forwarded-for") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let path = uri.path().trim_matches('/');
    if path == "latest/api/token" {
        return match method {
            Method::PUT => token(&service, &headers),
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let known = headers
        .get(TOKEN)
        .and_then(|t| t.to_str().ok())
        .is_some_and(|t| {
            service
                .tokens
                .lock()
                .is_ok_and(|tokens| tokens.get(t).is_some_and(|until| *until > Instant::now()))
        });
    if !known {
        return (
            StatusCode::UNAUTHORIZED,
            "401 - Unauthorized: version 1 requests are switched off, ask for a token\n",
        )
            .into_response();
    }
    let Some(path) = path.strip_prefix("latest").map(|p| p.trim_matches('/')) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match look_up(&service.facts, path) {
        Some(text) if path.starts_with(ROLES) && text.starts_with('{') => {
            dated(&text).into_response()
        }
        Some(text) => text.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn token(service: &Service, headers: &HeaderMap) -> Response {
    let seconds = headers
        .get(TTL)
        .and_then(|t| t.to_str().ok())
        .and_then(|t| t.parse().ok())
        .filter(|t| (1..=LONGEST_TTL).contains(t));
    let Some(seconds) = seconds else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut random = [0; 32];
    if File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .is_err()
    {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let token = hex::encode(random);
    if let Ok(mut tokens) = service.tokens.lock() {
        let now = Instant::now();
        tokens.retain(|_, until| *until > now);
        tokens.insert(token.clone(), now + Duration::from_secs(seconds));
    }
    ([(TTL, seconds.to_string())], token).into_response()
}

/// Credentials with the times that clients check.
fn dated(credentials: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(credentials) else {
        return credentials.to_owned();
    };
    let now = Timestamp::now();
    let text = |t: Timestamp| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    value["LastUpdated"] = text(now).into();
    value["Expiration"] = text(now + CREDENTIALS_VALID).into();
    value.to_string()
}

/// A value, or the listing of a directory.
fn look_up(facts: &Facts, path: &str) -> Option<String> {
    if let Some(value) = facts.get(path) {
        return Some(value.clone());
    }
    let prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    };
    let mut names: Vec<String> = facts
        .keys()
        .filter_map(|k| k.strip_prefix(&prefix))
        .map(|rest| {
            rest.split_once('/')
                .map_or_else(|| rest.to_owned(), |(dir, _)| format!("{dir}/"))
        })
        .collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Endpoint;
    use http_body_util::{BodyExt, Empty};
    use hyper::Request;
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    fn boot() -> Boot {
        Boot {
            instance: "i-0abc".into(),
            group: "g".into(),
            stack: None,
            target_groups: vec![],
            address: "127.0.1.9".into(),
            region: "us-west-2".into(),
            zone: "us-west-2b".into(),
            account: "000000000000".into(),
            image: "ami-1".into(),
            instance_type: "t3.micro".into(),
            role: Some("hosts".into()),
            user_data: "I2Nsb3VkLWNvbmZpZwo=".into(),
            endpoint: String::new(),
            poll_ms: 1000,
            docker_socket: "/".into(),
            owner: "/".into(),
        }
    }

    #[tokio::test]
    async fn d_sec_22_nothing_is_told_without_a_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, facts(&boot())));
        // D-SEC-22: a version 1 request, as old tools and a tricked web application send it.
        let (status, body) = Endpoint::new(&url)
            .get("/latest/meta-data/instance-id")
            .await
            .unwrap();
        assert_eq!(status, 401);
        assert!(!body.contains("i-0abc"));

        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let send = |method: &str, path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder()
                .method(method)
                .uri(format!("{url}{path}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = client.request(request.body(Empty::new()).unwrap());
            async {
                let answer = answer.await.unwrap();
                let status = answer.status().as_u16();
                (
                    status,
                    String::from_utf8(
                        answer
                            .into_body()
                            .collect()
                            .await
                            .unwrap()
                            .to_bytes()
                            .to_vec(),
                    )
                    .unwrap(),
                )
            }
        };
        let token = |ttl: &'static str| send("PUT", "/latest/api/token", &[(TTL, ttl)]);
        assert_eq!(send("PUT", "/latest/api/token", &[]).await.0, 400);
        assert_eq!(
            (
                token("0").await.0,
                token("21601").await.0,
                token("x").await.0
            ),
            (400, 400, 400)
        );
        assert_eq!(
            send(
                "PUT",
                "/latest/api/token",
                &[(TTL, "60"), ("x-forwarded-for", "10.0.0.1")]
            )
            .await
            .0,
            403
        );
        let (status, good) = token("60").await;
        assert_eq!(status, 200);
        for (path, expected) in [
            ("/latest/meta-data/instance-id", "i-0abc"),
            ("/latest/meta-data/placement/region", "us-west-2"),
            ("/latest/meta-data/placement/", "availability-zone\nregion"),
            ("/latest/meta-data/iam/security-credentials/", "hosts"),
            ("/latest/user-data", "#cloud-config\n"),
        ] {
            assert_eq!(
                send("GET", path, &[(TOKEN, good.as_str())]).await,
                (200, expected.to_owned()),
                "{path}"
            );
            assert_eq!(
                send("GET", path, &[(TOKEN, "guess")]).await.0,
                401,
                "{path}"
            );
        }
        let (_, identity) = send(
            "GET",
            "/latest/dynamic/instance-identity/document",
            &[(TOKEN, good.as_str())],
        )
        .await;
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&identity).unwrap()["instanceId"],
            "i-0abc"
        );
        let (_, keys) = send(
            "GET",
            "/latest/meta-data/iam/security-credentials/hosts",
            &[(TOKEN, good.as_str())],
        )
        .await;
        let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
        assert!(
            keys["Expiration"]
                .as_str()
                .unwrap()
                .parse::<Timestamp>()
                .unwrap()
                > Timestamp::now()
        );
        assert_eq!(
            send(
                "GET",
                "/latest/meta-data/nothing",
                &[(TOKEN, good.as_str())]
            )
            .await
            .0,
            404
        );
    }
}
