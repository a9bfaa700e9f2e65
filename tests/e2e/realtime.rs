//! Promises about `examples/realtime`: WebSockets through the proxies of three hosts, and over a hot swap.

use crate::{
    cloud::Cloud,
    promises::{Promise, containers, docker, done, hosts_of, text, url},
    service::Service,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet, fs, net::TcpStream, path::Path, path::PathBuf, process::Command,
    time::Duration,
};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

pub const ALL: &[(&str, Promise)] = &[(
    "web_sockets_pass_every_hosts_proxy_and_live_on_in_a_hot_swap",
    web_sockets,
)];

/// Longer than the drain, the stop and the machine's other work take together.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client says about itself, to be believed by nobody.
const CLAIMED: &str = "203.0.113.66";

/// A program that cargo has put beside porter.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_porter")).with_file_name(name);
    assert!(path.exists(), "{} is missing: make build", path.display());
    path
}

fn output(command: &mut Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).expect("text").trim().into()
}

/// A key pair of openssl's, as the example's README makes it: the private key's file, and the Base64 of the public one.
fn key_pair(folder: &Path) -> (PathBuf, String) {
    let private = folder.join("private.pem");
    output(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(&private),
    );
    let public = output(
        Command::new("sh")
            .args(["-c", "openssl pkey -in \"$0\" -pubout | openssl base64 -A"])
            .arg(&private),
    );
    (private, public)
}

struct Client(WebSocket<TcpStream>);

impl Client {
    /// Connects to a host's proxy, pretending to be somebody else's proxy, and subscribes to `room`.
    fn join(host: &Value, key: &Path, uid: &str) -> Self {
        let token = output(
            Command::new(program("realtime"))
                .args(["token", "--method", "EdDSA", "--uid", uid, "--key-file"])
                .arg(key)
                .args(["--channel", "room=subscribe,publish:chat"]),
        );
        let address = url(host).replace("http://", "");
        let address = address.trim_end_matches('/');
        let mut request = format!("ws://{address}/v1?token={token}")
            .into_client_request()
            .expect("a request");
        let headers = request.headers_mut();
        headers.insert("X-Forwarded-For", CLAIMED.parse().expect("a header"));
        let stream = TcpStream::connect(address).expect("the host's proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let (socket, _) = tungstenite::client(request, stream).expect("an upgrade");
        let mut client = Self(socket);
        client.expect("hotsock.connected");
        client.send(json!({"event": "hotsock.subscribe", "channel": "room"}));
        client.expect("hotsock.subscribed");
        client
    }

    fn send(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .expect("it is connected");
    }

    fn expect(&mut self, event: &str) -> Value {
        loop {
            match self.0.read().expect("a message") {
                Message::Text(message) => {
                    let message: Value = serde_json::from_str(&message).expect("JSON");
                    assert_eq!(message["event"], event, "{message}");
                    return message;
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{event} was expected, not {other:?}"),
            }
        }
    }
}

/// Two clients of a host talk with each other.
fn talk(from: &mut Client, to: &mut Client, what: &str) {
    from.send(json!({"event": "chat", "channel": "room", "data": what}));
    assert_eq!(to.expect("chat")["data"], what);
}

/// Where clients came from, as the host's server has logged it.
fn sources(instance: &str) -> BTreeSet<String> {
    let container = containers(instance).pop_first().expect("a container");
    docker(&["logs", &container])
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|record| record["message"] == "connected")
        .map(|record| text(&record["source_ip"]))
        .collect()
}

fn web_sockets(cloud: &Cloud) -> Result<(), String> {
    let service = Service::example("realtime");
    let keys = tempfile::tempdir().expect("a temporary folder");
    let (private, public) = key_pair(keys.path());
    let binary = program("realtime");
    let cloud = cloud
        .with("REALTIME_PUBLIC_KEY", &public)
        .with("REALTIME_BINARY", binary.to_str().expect("a path"));
    service.provisioned(&cloud);
    let hosts = hosts_of(&cloud, &service);
    assert_eq!(hosts.len(), 3, "{:?}", cloud.hosts());

    let join = |uid: &str| -> Vec<Client> {
        let join = |host| Client::join(host, &private, uid);
        hosts.iter().map(join).collect()
    };
    let (mut anas, mut bens) = (join("ana"), join("ben"));
    for (ana, ben) in anas.iter_mut().zip(&mut bens) {
        talk(ana, ben, "before the swap");
    }
    // R-CFG-5, D-HAP-18: what HAProxy saw, not what the client said.
    for host in &hosts {
        let seen = sources(&text(&host["instance"]));
        assert_eq!(seen, BTreeSet::from(["127.0.0.1".to_owned()]));
    }

    // The change that an operator makes.
    let dockerfile = service.path().join("Dockerfile");
    let changed =
        fs::read_to_string(&dockerfile).expect("a Dockerfile") + "ENV REALTIME_REGION=second\n";
    fs::write(&dockerfile, changed).expect("written");
    service.commit();
    service.pack(&cloud);
    let swap = ["build", "provision", "-e", "stage", "--hotswap-only"];
    let swap = cloud.porter_watched(service.path(), &swap);
    let said = swap.end(Duration::from_secs(120));
    assert_eq!(said.status, 0, "{}", said.all());
    // R-OPS-1: the same connections, and nothing between the two messages.
    for (ana, ben) in anas.iter_mut().zip(&mut bens) {
        talk(ana, ben, "after the swap");
    }
    for host in &hosts {
        let container = containers(&text(&host["instance"]))
            .pop_first()
            .expect("one");
        let environment = docker(&["inspect", "-f", "{{json .Config.Env}}", &container]);
        assert!(
            environment.contains("REALTIME_REGION=second"),
            "{environment}"
        );
    }

    // D-HOST-33: both connections of every host are counted, and none was cut.
    let report = service.report();
    let reported = report["regions"][0]["hosts"].as_array().expect("hosts");
    assert_eq!(reported.len(), 3, "{report}");
    for host in reported {
        assert_eq!(
            (&host["outcome"], &host["drain"]["cut"], &host["warnings"]),
            (&"success".into(), &0.into(), &json!([])),
            "{host}"
        );
        let connections = &host["connections"];
        assert!(
            connections["handed_over"].as_u64() >= Some(2) && connections["dropped"] == 0,
            "{host}"
        );
    }
    done(&cloud, &service)
}
