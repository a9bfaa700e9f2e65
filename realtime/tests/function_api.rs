//! Backends that invoke a function with an AWS SDK publish here by changing the endpoint (R-DIFF-7, section 19.3).
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{API_KEYS, Answer, Server};

const PATH: &str = "/2015-03-31/functions/PublishFunction/invocations";

const KEYS: &str = "\
[[function_keys]]
access_key_id = \"AKIDFIRST\"
secret_access_key = \"the first secret of the backends, of 40 c.\"

[[function_keys]]
access_key_id = \"AKIDSECOND\"
secret_access_key = \"the second secret of the backends, of 41 c.\"
";

fn boto3(server: &Server, id: &str, secret: &str) -> (bool, String) {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
        PathBuf::from,
    );
    let python = base.join("porter/venv-boto3/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run scripts/setup, which installs it",
        python.display()
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/invoke.py");
    let output = Command::new(python)
        .arg(script)
        .env("REALTIME_URL", format!("http://{}", server.address))
        .env("ACCESS_KEY_ID", id)
        .env("SECRET_ACCESS_KEY", secret)
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

fn invoke(server: &Server, headers: &[(&str, &str)], body: &Value) -> Answer {
    server.request("POST", PATH, headers, &body.to_string())
}

fn listener(server: &Server) -> support::Client {
    let mut client = server.connect(json!({"uid": "ana", "channels": {"*": {"subscribe": true}}}));
    client.subscribe("board.1");
    client
}

/// R-DIFF-7, R-SRV-22, R-SRV-23, R-SRV-24, R-SRV-25, R-OPS-6
#[test]
fn boto3_publishes_by_changing_its_endpoint() {
    let server = Server::with(KEYS);
    let mut ana = listener(&server);
    let (good, said) = boto3(
        &server,
        "AKIDFIRST",
        "the first secret of the backends, of 40 c.",
    );
    assert!(good, "{said}");
    // Five were published, one of them while nobody awaited a result; none of those that were refused or only checked.
    for _ in 0..5 {
        let message = ana.next();
        assert_eq!(message["event"], "price");
        assert_eq!(message["data"], json!({"bid": 101.5, "text": "ä"}));
        assert_eq!(message.get("meta"), None);
    }
    ana.expect_nothing();
    server.await_metric(
        "realtime_messages_published_total{trigger=\"server.lambda\"}",
        5.0,
    );
    // The second key is good, too; then one is replaced while the server runs.
    let second = "the second secret of the backends, of 41 c.";
    let (good, said) = boto3(&server, "AKIDSECOND", second);
    assert!(good, "{said}");
    server.configure(&KEYS.replace("AKIDSECOND", "AKIDTHIRD"));
    server.reload();
    assert!(!boto3(&server, "AKIDSECOND", second).0);
    let (good, said) = boto3(&server, "AKIDTHIRD", second);
    assert!(good, "{said}");
    let log = server.log().join("\n");
    assert!(!log.contains(second), "no secret is logged");
}

/// R-DIFF-7: an API key will do as well, without any other credentials.
#[test]
fn an_api_key_permits_an_invocation() {
    let server = Server::start();
    let mut ana = listener(&server);
    let bearer = format!("Bearer {}", API_KEYS[1]);
    let message = json!({"channel": "board.1", "event": "price", "data": 7});
    let answer = invoke(&server, &[("Authorization", &bearer)], &message);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"channel": "board.1", "event": "price"})
    );
    assert_eq!(answer.header("x-amz-function-error"), None);
    assert_eq!(ana.expect("price")["data"], 7);
    let kind = |kind| [("Authorization", &*bearer), ("X-Amz-Invocation-Type", kind)];
    let answer = invoke(&server, &kind("Event"), &message);
    assert_eq!((answer.status, &*answer.body), (202, ""));
    assert_eq!(ana.expect("price")["data"], 7);
    // Nothing of any kind is done, but all is checked.
    for event in ["price", "hotsock.channelStorageSet"] {
        let dry = json!({"channel": "board.1", "event": event, "key": "k", "data": 8, "store": 60,
            "scheduleExpression": "at(2099-01-01T00:00:00)"});
        let answer = invoke(&server, &kind("DryRun"), &dry);
        assert_eq!((answer.status, &*answer.body), (204, ""));
        let mut wrong = dry.clone();
        wrong["store"] = json!(-2);
        let answer = invoke(&server, &kind("DryRun"), &wrong);
        assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
    }
    assert_eq!(invoke(&server, &kind("Sometimes"), &message).status, 400);
    ana.expect_nothing();
    assert_eq!(
        server.get("/channels/board.1/storage").json(),
        json!({"items": []})
    );
}

/// R-DIFF-7
#[test]
fn whoever_has_no_credentials_is_refused_as_by_aws() {
    let server = Server::with(KEYS);
    let mut ana = listener(&server);
    let message = json!({"channel": "board.1", "event": "price"});
    for (headers, kind) in [
        (vec![], "MissingAuthenticationTokenException"),
        (
            vec![("Authorization", "Bearer wrong")],
            "AccessDeniedException",
        ),
        (
            vec![("Authorization", "Basic YTpi")],
            "IncompleteSignatureException",
        ),
        (
            vec![("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDFIRST")],
            "IncompleteSignatureException",
        ),
    ] {
        let answer = invoke(&server, &headers, &message);
        assert_eq!(answer.status, 403);
        assert_eq!(answer.header("x-amzn-errortype"), Some(kind));
        assert!(answer.json()["message"].is_string());
    }
    let answer = server.request("GET", PATH, &[], "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(
        server
            .request("POST", "/2015-03-31/functions/a", &[], "")
            .status,
        404
    );
    ana.expect_nothing();
    assert_eq!(
        server.metric("realtime_http_requests_total{route=\"function\",status=\"403\"}"),
        4.0
    );
}

/// R-SRV-24, R-EVT-3, R-EVT-15: backends are told of it, with neither address nor agent.
#[test]
fn what_is_published_so_has_a_trigger_and_no_origin() {
    let server = Server::with("events.stdout = true\n");
    let bearer = format!("Bearer {}", API_KEYS[0]);
    let message = json!({"channel": "board.1", "event": "price", "emitPubSubEvent": true});
    let headers = [("Authorization", &*bearer), ("User-Agent", "demo/1.0")];
    assert_eq!(invoke(&server, &headers, &message).status, 200);
    let event = server.logged(|line| line["type"] == "hotsock.messagePublished");
    let metadata = event["metadata"].as_object().expect("metadata");
    assert_eq!(metadata["trigger"], "server.lambda");
    let names: Vec<_> = metadata.keys().collect();
    assert_eq!(
        names,
        ["channel", "event", "hotsockVersion", "requestId", "trigger"]
    );
}
