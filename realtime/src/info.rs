//! The installation's report on itself: what it is, and where to find it (R-OPS-7 to R-OPS-10).

use std::time::Duration;

use crate::config::{API_KEYS_FILE, Address, Settings, settings as table};
use crate::engine::Health;
use crate::hub::Running;
use serde_json::{Map, Value, json};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from; `unknown` unless `REALTIME_COMMIT` was set for the build.
pub const COMMIT: &str = env!("REALTIME_BUILT_COMMIT");
/// The compiler that built it.
pub const RUST_VERSION: &str = env!("REALTIME_RUST_VERSION");

/// What `serve --info` prints (R-OPS-9), with what a user looks for after an installation (R-OPS-10). Contains no key.
#[must_use]
pub fn info(settings: &Settings) -> Value {
    json!({
        "architecture": architecture(),
        "commit": COMMIT,
        "os": std::env::consts::OS,
        "region": settings.region,
        "rustVersion": RUST_VERSION,
        "version": VERSION,
        "compatibility": settings.compatibility_version,
        "license": null,
        "limits": limits(settings),
        "outputs": outputs(settings),
    })
}

/// What `GET /info` answers: the same, and how this process is.
#[must_use]
pub fn report(settings: &Settings, running: &Running, uptime: Duration) -> Value {
    let problem = match &running.health {
        Health::Well => None,
        Health::Ill(why) => Some(why),
    };
    let mut report = info(settings);
    report["engine"] = running.engine.into();
    report["engineProblem"] = json!(problem);
    report["uptimeSeconds"] = uptime.as_secs().into();
    report["connections"] = running.connections.into();
    report["subscriptions"] = running.subscriptions.into();
    report["channels"] = running.channels.into();
    report
}

/// Times, sizes and caps, as they are written in the settings.
fn limits(settings: &Settings) -> Value {
    let limits = table().iter().filter_map(|row| {
        let name = row.key.strip_prefix("limits.")?;
        Some((name.to_owned(), row.show(settings).into()))
    });
    Value::Object(limits.collect::<Map<_, _>>())
}

/// The addresses of an installation, and where its API keys are (R-OPS-10).
#[must_use]
pub fn outputs(settings: &Settings) -> Value {
    let http = base_url(settings);
    let web_socket = http
        .as_ref()
        .map(|url| format!("{}/v1", url.replacen("http", "ws", 1)));
    let at = |path: &str| http.as_ref().map(|url| format!("{url}{path}"));
    let api_keys = match (&settings.keys.api_file, settings.keys.api.is_empty()) {
        (Some(file), _) => file.display().to_string(),
        (None, false) => "the setting api_keys".into(),
        (None, true) => settings.data_dir.join(API_KEYS_FILE).display().to_string(),
    };
    let show = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect::<Vec<_>>();
    let console = at("/console").filter(|_| settings.console);
    json!({
        "webSocketUrl": web_socket,
        "httpUrl": http,
        "publishUrl": at("/publish"),
        "consoleUrl": console,
        "listen": show(&settings.listen),
        "operations": show(&settings.operations),
        "apiKeys": api_keys,
        "eventSinks": event_sinks(settings),
    })
}

/// Where backends are told of what happens, by name.
fn event_sinks(settings: &Settings) -> Vec<String> {
    let events = &settings.events;
    let named = |kind: &str, name: &Option<String>| name.as_ref().map(|it| format!("{kind} {it}"));
    [
        named("sns", &events.sns_topic),
        named("eventbridge", &events.event_bus),
        events.webhook_url.as_ref().map(|_| "webhook".to_owned()),
        events.stdout.then(|| "stdout".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The URL that clients use: the configured one, else that of the first TCP listener.
fn base_url(settings: &Settings) -> Option<String> {
    settings.public_url.clone().or_else(|| {
        settings.listen.iter().find_map(|address| match address {
            Address::Tcp(socket) => Some(format!("http://{socket}")),
            Address::Unix(_) => None,
        })
    })
}

/// The processor in the words of the reference (R-OPS-8).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-OPS-9
    #[test]
    fn the_report_has_the_members_of_the_specification_and_claims_no_licence() {
        let report = info(&Settings::default());
        for member in [
            "architecture",
            "commit",
            "os",
            "region",
            "rustVersion",
            "version",
        ] {
            assert!(
                report[member].as_str().is_some_and(|t| !t.is_empty()),
                "{member}: {report}"
            );
        }
        assert_eq!(report["compatibility"], "1.13.5");
        assert_eq!(report.get("license"), Some(&Value::Null));
    }

    /// R-OPS-7, R-OPS-9
    #[test]
    fn a_running_server_also_says_how_it_is_and_what_its_limits_are() {
        let running = |health| Running {
            engine: "embedded",
            health,
            connections: 3,
            subscriptions: 7,
            channels: 2,
        };
        let settings = Settings::default();
        let uptime = Duration::from_millis(61_900);
        let report = |health| super::report(&settings, &running(health), uptime);
        let well = report(Health::Well);
        assert_eq!(well["engine"], "embedded");
        assert_eq!(well["engineProblem"], Value::Null);
        assert_eq!(
            [
                &well["uptimeSeconds"],
                &well["connections"],
                &well["subscriptions"],
                &well["channels"]
            ],
            [61, 3, 7, 2]
        );
        assert_eq!(well["limits"]["request_timeout"], "5s");
        assert_eq!(well["limits"]["connections"], "off");
        assert_eq!(well["version"], VERSION);
        assert_eq!(
            report(Health::Ill("the disk is full".into()))["engineProblem"],
            "the disk is full"
        );
    }

    /// R-OPS-10
    #[test]
    fn the_outputs_follow_the_public_url() {
        let mut settings = Settings {
            public_url: Some("https://rt.example.com".into()),
            ..Settings::default()
        };
        assert_eq!(
            outputs(&settings)["webSocketUrl"],
            "wss://rt.example.com/v1"
        );
        assert_eq!(
            outputs(&settings)["publishUrl"],
            "https://rt.example.com/publish"
        );
        assert_eq!(
            outputs(&settings)["consoleUrl"],
            "https://rt.example.com/console"
        );
        settings.console = false;
        assert_eq!(outputs(&settings)["consoleUrl"], Value::Null);
        settings.public_url = None;
        assert_eq!(outputs(&settings)["webSocketUrl"], "ws://127.0.0.1:7400/v1");
        settings.listen = vec![Address::Unix("/run/rt.sock".into())];
        assert_eq!(outputs(&settings)["webSocketUrl"], Value::Null);
        assert_eq!(outputs(&settings)["listen"][0], "unix:/run/rt.sock");
        assert_eq!(outputs(&settings)["eventSinks"], json!([]));
        settings.events.event_bus = Some("chat".into());
        settings.events.stdout = true;
        assert_eq!(
            outputs(&settings)["eventSinks"],
            json!(["eventbridge chat", "stdout"])
        );
    }
}
