//! Tests of the settings: what is read, what is refused and in which words, what a reload changes.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// `sesame`, the specification's example.
const KEY: &str = "c2VzYW1l";
const API_KEY: &str = "0123456789abcdefghijABCDEFGHIJ0123456789";

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, Secret)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), Secret::new(*value)))
        .collect()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<Flag> {
    let flag = |(key, value): &(&str, &str)| Flag {
        key: (*key).into(),
        value: (*value).into(),
        typed: format!("--set {key}"),
    };
    pairs.iter().map(flag).collect()
}

/// A directory with a file of settings.
struct Setup {
    dir: TempDir,
    sources: Sources,
}

impl Setup {
    fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let setup = Self {
            sources: Sources {
                file: Some(dir.path().join("realtime.toml")),
                ..Sources::default()
            },
            dir,
        };
        setup.write("realtime.toml", text);
        setup
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// What is wrong, with the directory's name taken out.
    fn errors(&self) -> String {
        let errors = self
            .sources
            .load()
            .expect_err("something is wrong")
            .to_string();
        errors.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn errors_of(text: &str) -> String {
    Setup::new(text).errors()
}

fn load(sources: Sources) -> Settings {
    sources.load().unwrap().settings
}

/// R-CFG-1, R-DIFF-1, R-DIFF-2, R-DIFF-3, R-DIFF-4, R-LIM-16, R-LIM-17, R-LIM-18, R-LOG-1
#[test]
fn without_any_source_the_documented_defaults_hold() {
    let settings = load(Sources::default());
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.limits.idle, Some(Duration::from_secs(600)));
    assert_eq!(settings.limits.duration, None);
    assert_eq!(settings.limits.keep_alive, Duration::from_secs(570));
    assert_eq!(settings.limits.ping, Some(Duration::from_secs(30)));
    assert_eq!(settings.limits.inbound_message, 131_072);
    assert_eq!(settings.limits.outbound_bytes, 1_048_576);
    assert_eq!(settings.limits.request_body, 262_144);
    assert_eq!(settings.limits.request_timeout, Duration::from_secs(5));
    assert_eq!(
        settings.log,
        Log {
            level: LogLevel::Info,
            format: LogFormat::Json,
            trace_sample_percent: 1,
        }
    );
    assert_eq!(settings.leeway, Duration::ZERO);
    assert_eq!((settings.audience, settings.issuer), (None, None));
    assert!(settings.signing_keys.is_empty() && settings.api_keys.is_empty());
    assert!(!settings.compression && !settings.dev_echo);
}

/// R-LIM-21, R-DIFF-18: none by default.
#[test]
fn without_any_source_there_are_no_caps() {
    let limits = Limits::default();
    let caps = [
        limits.connections,
        limits.connections_per_second,
        limits.subscriptions_per_connection,
        limits.subscribers_per_channel,
        limits.messages_per_second,
    ];
    assert_eq!(caps, [None; 5]);
}

/// R-CFG-1
#[test]
fn every_default_is_shown_as_it_would_be_written() {
    let defaults = Settings::default();
    for setting in settings() {
        let shown = setting.show(&defaults);
        if shown.is_empty() {
            continue;
        }
        let sources = Sources {
            flags: flags(&[(setting.key, &shown)]),
            ..Sources::default()
        };
        let read = sources.load().unwrap_or_else(|e| panic!("{e}")).settings;
        assert_eq!(setting.show(&read), shown, "{}", setting.key);
    }
}

/// R-STOR-2: what a container keeps, its successor finds, although neither may write into its own root.
#[test]
fn what_a_container_that_hands_over_keeps_lies_beside_its_sockets() {
    let socket = Secret::new("/run/porter/s0123456789/handover.sock");
    let mut sources = Sources {
        environment: vec![("PORTER_HANDOVER_SOCKET".into(), socket)],
        ..Sources::default()
    };
    let placed = |sources: &Sources| {
        let loaded = sources.load().unwrap_or_else(|e| panic!("{e}"));
        loaded.settings.data_dir.display().to_string()
    };
    assert_eq!(placed(&sources), "/run/porter/s0123456789/realtime-data");
    sources.flags = flags(&[("data_dir", "/data")]);
    assert_eq!(placed(&sources), "/data");
}

/// R-CFG-1, R-CFG-2
#[test]
fn the_document_has_the_table_of_the_program() {
    let document = include_str!("../../../docs/realtime-configuration.md");
    assert!(
        document.contains(&markdown()),
        "docs/realtime-configuration.md differs from what `realtime settings --output markdown` prints"
    );
}

/// R-CFG-2
#[test]
fn the_example_of_the_document_is_a_good_file() {
    let document = include_str!("../../../docs/realtime-configuration.md");
    let example = document
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let setup = Setup::new(example);
    let loaded = setup.sources.load().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.limits.idle, Some(Duration::from_secs(300)));
}

/// R-CFG-2
#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let mut setup =
        Setup::new("region = 'file'\naudience = 'file'\nissuer = 'file'\n[limits]\nidle = 5\n");
    setup.sources.environment = variables(&[
        ("REALTIME_AUDIENCE", "environment"),
        ("REALTIME_ISSUER", "environment"),
        ("REALTIME_LIMITS_PING", "off"),
        ("AUDIENCE", "somebody else's"),
    ]);
    setup.sources.flags = flags(&[("issuer", "flag")]);
    let settings = load(setup.sources);
    assert_eq!(settings.region, "file");
    assert_eq!(settings.audience.as_deref(), Some("environment"));
    assert_eq!(settings.issuer.as_deref(), Some("flag"));
    assert_eq!(settings.limits.idle, Some(Duration::from_secs(5)));
    assert_eq!(settings.limits.ping, None);
}

/// R-CFG-2: container tools pass variables that nobody has set as empty ones.
#[test]
fn an_empty_variable_is_not_set() {
    let mut setup = Setup::new("audience = 'file'\n");
    setup.sources.environment =
        variables(&[("REALTIME_AUDIENCE", ""), ("REALTIME_LIMITS_IDLE", "")]);
    assert_eq!(load(setup.sources).audience.as_deref(), Some("file"));
}

/// R-CFG-2
#[test]
fn a_server_listens_at_several_addresses_of_every_kind() {
    let mut setup =
        Setup::new("listen = ['tcp:127.0.0.1:7400', '[::1]:7400']\noperations = '/run/ops.sock'\n");
    let shown = |settings: &Settings| {
        settings
            .listen
            .iter()
            .map(Address::to_string)
            .collect::<Vec<_>>()
    };
    let settings = load(setup.sources.clone());
    assert_eq!(shown(&settings), ["tcp:127.0.0.1:7400", "tcp:[::1]:7400"]);
    assert_eq!(settings.operations, [Address::Unix("/run/ops.sock".into())]);
    setup.sources.environment = variables(&[("REALTIME_LISTEN", "0.0.0.0:80, unix:/run/a.sock")]);
    assert_eq!(
        shown(&load(setup.sources.clone())),
        ["tcp:0.0.0.0:80", "unix:/run/a.sock"]
    );
    // A flag that is repeated adds up, and replaces what the other sources say.
    setup.sources.flags = flags(&[("listen", "127.0.0.1:1"), ("listen", "/b.sock")]);
    assert_eq!(
        shown(&load(setup.sources)),
        ["tcp:127.0.0.1:1", "unix:/b.sock"]
    );
}

/// R-AUTH-2, R-AUTH-3, R-AUTH-10
#[test]
fn two_signing_keys_are_taken_from_the_file_and_from_files_it_names() {
    let setup = Setup::new(&format!(
        "[[signing_keys]]\nkey = '{KEY}'\n[[signing_keys]]\nmethod = 'HS512'\nid = 'new'\nkey_file = 'KEY_FILE'\n"
    ));
    setup.write("second", &format!("{KEY}\n"));
    let text = fs::read_to_string(setup.path("realtime.toml")).unwrap();
    setup.write(
        "realtime.toml",
        &text.replace("KEY_FILE", &setup.path("second")),
    );
    let loaded = setup.sources.load().unwrap();
    let signers = &loaded.settings.keys.signers;
    assert_eq!(signers[0], ("HS256".into(), None, Secret::new(KEY)));
    assert_eq!(
        (signers[1].0.as_str(), signers[1].1.as_deref()),
        ("HS512", Some("new"))
    );
    assert_eq!(loaded.settings.signing_keys.len(), 2);
    assert!(loaded.settings.verifier().has_keys());
    let files: Vec<_> = loaded.watch.files().map(Path::to_path_buf).collect();
    assert_eq!(
        files[..2],
        [
            setup.dir.path().join("realtime.toml"),
            setup.dir.path().join("second")
        ]
    );
}

/// R-CFG-2
#[test]
fn a_key_of_the_environment_wins_over_a_key_file_of_the_file() {
    let mut setup = Setup::new("[[signing_keys]]\nkey_file = '/nowhere'\n");
    setup.sources.environment = variables(&[("REALTIME_SIGNING_KEYS_1_KEY", KEY)]);
    assert_eq!(load(setup.sources).keys.signers[0].2, Secret::new(KEY));
}

/// R-CFG-3: all of it at once, each with its place, what is expected, and the nearest name.
#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let mut setup = Setup::new(
        "listen = ['localhost:7400', ':80', 'unix:relative.sock', '1.2.3.4']
limit.idle = '5m'
origins = ['https://app.example.com/path']
trusted_proxies = 'everyone'
public_url = 'rt.example.com'
compression = 'perhaps'
region = ['a', 'b']

[limits]
idl = '5m'
ping = '30x'
keep_alive = 0
inbound_message = '128KB'
outbound_bytes = '1KiB'
connections = -1
request_timeout = 2026-01-01

[log]
level = 'verbose'

[[signing_keys]]
method = 'HS265'
key = 'not Base64!'
[[signing_keys]]
key = 'c2VzYW1l'
key_file = '/run/key'
[[signing_keys]]
id = 'third'
",
    );
    setup.sources.environment = variables(&[
        ("REALTIME_LOG_FORMAT", "yaml"),
        ("REALTIME_API_KEYS", "short,é"),
    ]);
    setup.sources.flags = flags(&[
        ("limits.idle", "10 minutes"),
        ("api_keys", API_KEY),
        ("idle", "1s"),
        ("zzz", "1"),
    ]);
    insta::assert_snapshot!(setup.errors());
}

/// R-CFG-3
#[test]
fn a_file_that_cannot_be_read_or_is_not_toml_is_named() {
    insta::assert_snapshot!(errors_of("listen = \n[limits\nidle = 5\nidle = 6\n"));
    let sources = Sources {
        file: Some("/nowhere/realtime.toml".into()),
        ..Sources::default()
    };
    let errors = sources.load().unwrap_err().to_string();
    assert_eq!(
        errors,
        "/nowhere/realtime.toml: cannot be read: No such file or directory (os error 2)"
    );
}

/// R-AUTH-2
#[test]
fn a_signing_key_in_a_plain_table_is_told_where_it_belongs() {
    assert_eq!(
        errors_of("[signing_keys]\nkey = 'c2VzYW1l'\n"),
        "realtime.toml:2: signing_keys.key: belongs below `[[signing_keys]]`, with double brackets"
    );
}

/// R-CFG-3
#[test]
fn a_value_in_place_of_a_table_is_told_so() {
    assert_eq!(
        errors_of("limits = 3\n"),
        "realtime.toml:1: limits: holds settings, such as `limits.idle`"
    );
}

/// R-LOG-4
#[test]
fn a_secret_is_shown_by_no_error_listing_or_debug_form() {
    let secret = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4";
    let setup = Setup::new(&format!(
        "api_keys = ['{secret}', '{secret},']\n[[signing_keys]]\nmethod = 'RS256'\nkey = '{secret}'\n"
    ));
    let errors = setup.errors();
    assert!(!errors.contains(secret), "{errors}");
    let good = Setup::new(&format!(
        "api_keys = ['{secret}']\n[[signing_keys]]\nkey = '{secret}'\n"
    ));
    let loaded = good.sources.load().unwrap();
    let listing: String = settings()
        .iter()
        .map(|s| s.show(&loaded.settings))
        .collect();
    assert!(
        listing.contains("[redacted]") && !listing.contains(secret),
        "{listing}"
    );
    assert!(!format!("{loaded:?}").contains(secret));
    let environment = variables(&[("REALTIME_API_KEYS", secret)]);
    assert!(
        !format!(
            "{:?}",
            Sources {
                environment,
                ..Sources::default()
            }
        )
        .contains(secret)
    );
    assert!(
        !crate::info::info(&loaded.settings)
            .to_string()
            .contains(secret)
    );
}

/// R-SRV-2, R-SRV-4, R-LIM-19
#[test]
fn any_configured_api_key_is_accepted_and_nothing_else() {
    let other = "x".repeat(32);
    let settings = load(Sources {
        environment: variables(&[("REALTIME_API_KEYS", &format!("{API_KEY},{other}"))]),
        ..Sources::default()
    });
    assert!(
        settings.accepts_api_key(API_KEY.as_bytes()) && settings.accepts_api_key(other.as_bytes())
    );
    for wrong in [
        "",
        &API_KEY[..39],
        &format!("{API_KEY}0"),
        &API_KEY.to_ascii_uppercase(),
    ] {
        assert!(!settings.accepts_api_key(wrong.as_bytes()), "{wrong}");
    }
    assert!(!Settings::default().accepts_api_key(b""));
}

/// R-SRV-2, R-CFG-4
#[test]
fn without_api_keys_two_are_generated_once_and_only_their_owner_can_read_them() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("deep/data");
    let sources = Sources {
        flags: flags(&[("data_dir", &data.display().to_string())]),
        ..Sources::default()
    };
    let mut loaded = sources.load().unwrap();
    let path = loaded
        .generate_api_keys()
        .unwrap()
        .expect("keys were generated");
    let text = fs::read_to_string(&path).unwrap();
    let keys: Vec<_> = text.lines().collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
    for key in &keys {
        assert!(
            key.len() == 40 && key.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{key}"
        );
        assert!(loaded.settings.accepts_api_key(key.as_bytes()));
    }
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&data).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        fs::read_dir(&data).unwrap().count(),
        1,
        "nothing is left beside it"
    );

    // The next start takes the same ones.
    let mut again = sources.load().unwrap();
    assert_eq!(again.generate_api_keys().unwrap(), None);
    assert!(again.settings.accepts_api_key(keys[1].as_bytes()));
    assert!(again.watch.files().any(|file| file == path));
}

/// R-CFG-4: of two processes that start at once both take the keys of the first.
#[test]
fn keys_that_another_process_has_just_generated_are_taken() {
    let dir = TempDir::new().unwrap();
    let sources = Sources {
        flags: flags(&[("data_dir", &dir.path().display().to_string())]),
        ..Sources::default()
    };
    let (mut first, mut second) = (sources.load().unwrap(), sources.load().unwrap());
    first.generate_api_keys().unwrap();
    second.generate_api_keys().unwrap();
    assert_eq!(first.settings.api_keys, second.settings.api_keys);
}

/// R-CFG-4
#[test]
fn an_empty_file_of_keys_is_not_taken_for_generated_ones() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(API_KEYS_FILE), "# none\n").unwrap();
    let data = dir.path().display().to_string();
    let sources = Sources {
        flags: flags(&[("data_dir", &data)]),
        ..Sources::default()
    };
    let errors = sources.load().unwrap().generate_api_keys().unwrap_err();
    assert_eq!(
        errors.to_string(),
        format!("{data}/api-keys: holds no key; remove it, and two are generated")
    );
}

/// R-CFG-4
#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_the_way_out() {
    let sources = Sources {
        flags: flags(&[("data_dir", "/proc/nowhere")]),
        ..Sources::default()
    };
    let errors = sources
        .load()
        .unwrap()
        .generate_api_keys()
        .unwrap_err()
        .to_string();
    assert!(
        errors.starts_with("/proc/nowhere/api-keys: cannot be written: "),
        "{errors}"
    );
    assert!(
        errors
            .ends_with("set `data_dir` to a directory that can, or `api_keys` to keys of your own"),
        "{errors}"
    );
}

/// R-SRV-3, R-CFG-2
#[test]
fn a_reload_applies_keys_audience_issuer_log_level_and_limits() {
    let setup = Setup::new(&format!(
        "api_keys = ['{API_KEY}']\n[[signing_keys]]\nkey = '{KEY}'\n"
    ));
    let old = setup.sources.load().unwrap().settings;
    let new_key = "n".repeat(40);
    setup.write(
        "realtime.toml",
        &format!(
            "api_keys = ['{new_key}']\naudience = 'a'\nissuer = 'i'\nlimits.idle = 'off'\nlog.level = 'debug'\n\
             [[signing_keys]]\nkey = '{KEY}'\n[[signing_keys]]\nkey = '{KEY}'\nid = 'two'\n"
        ),
    );
    let Reloaded {
        loaded: Loaded { settings: new, .. },
        left,
    } = old.reload(&setup.sources).unwrap();
    assert_eq!(left, Vec::<&str>::new());
    assert!(new.accepts_api_key(new_key.as_bytes()) && !new.accepts_api_key(API_KEY.as_bytes()));
    assert_eq!(new.signing_keys.len(), 2);
    assert_eq!(
        (new.audience.as_deref(), new.issuer.as_deref()),
        (Some("a"), Some("i"))
    );
    assert_eq!((new.limits.idle, new.log.level), (None, LogLevel::Debug));
}

/// R-CFG-2
#[test]
fn what_needs_a_restart_stays_as_it_was_and_is_named() {
    let setup = Setup::new("listen = '127.0.0.1:1'\ndata_dir = '/a'\n");
    let old = setup.sources.load().unwrap().settings;
    setup.write(
        "realtime.toml",
        "listen = '127.0.0.1:2'\ndata_dir = '/b'\nlog.format = 'text'\nregion = 'new'\n",
    );
    let Reloaded {
        loaded: Loaded { settings: new, .. },
        left,
    } = old.reload(&setup.sources).unwrap();
    assert_eq!(left, ["listen", "log.format", "data_dir"]);
    assert_eq!(
        (&new.listen, &new.data_dir, new.log.format),
        (&old.listen, &old.data_dir, LogFormat::Json)
    );
    assert_eq!(new.region, "new");
}

/// R-CFG-3
#[test]
fn a_reload_with_anything_wrong_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().display().to_string();
    let sources = Sources {
        flags: flags(&[("data_dir", &data)]),
        ..Sources::default()
    };
    let mut loaded = sources.load().unwrap();
    let path = loaded.generate_api_keys().unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    let errors = loaded.settings.reload(&sources).unwrap_err().to_string();
    assert!(
        errors.contains("api-keys: api_keys: cannot be read: No such file"),
        "{errors}"
    );
}

/// R-CFG-2
#[test]
fn a_change_of_any_file_behind_the_settings_is_noticed_once() {
    let setup = Setup::new("region = 'a'\n");
    let mut watch = setup.sources.load().unwrap().watch;
    assert!(!watch.changed());
    setup.write("realtime.toml", "region = 'longer'\n");
    assert!(!watch.changed(), "it may be half written");
    assert!(watch.changed());
    assert!(!watch.changed());
    fs::remove_file(setup.path("realtime.toml")).unwrap();
    assert!(!watch.changed());
    assert!(watch.changed());
}

/// R-CFG-3: a file that is still being written is not read.
#[test]
fn a_change_is_told_only_once_the_files_have_come_to_rest() {
    let setup = Setup::new("region = 'a'\n");
    let mut watch = setup.sources.load().unwrap().watch;
    for length in 1..5 {
        setup.write("realtime.toml", &"#".repeat(length));
        assert!(!watch.changed());
    }
    assert!(watch.changed());
}

/// R-CFG-2: a typing mistake is told, and so is that nothing comes of it; what Kubernetes sets is left alone.
#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let sources = Sources {
        environment: variables(&[
            ("REALTIME_LIMITS_IDEL", "5"),
            ("REALTIME_SERVICE_HOST", "10.0.0.1"),
            ("REALTIME_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
            ("REALTIME_TOKEN", "eyJ"),
            ("REALTIME_LIMITS_IDLE", "60"),
            ("REALTIME_SIGNING_KEYS_2_ID", "two"),
        ]),
        ..Sources::default()
    };
    let warnings: Vec<_> = sources
        .load()
        .unwrap()
        .warnings
        .iter()
        .map(Finding::to_string)
        .collect();
    insta::assert_snapshot!(warnings.join("\n"));
}

/// R-CFG-5
#[test]
fn only_configured_proxies_are_believed() {
    let ip = |text: &str| Some(text.parse().unwrap());
    let settings = load(Sources {
        flags: flags(&[("trusted_proxies", "10.0.0.0/8,192.168.1.1,fd00::/8")]),
        ..Sources::default()
    });
    for trusted in ["10.1.2.3", "192.168.1.1", "fd00::1", "::ffff:10.1.2.3"] {
        assert!(trusts(&settings, ip(trusted)), "{trusted}");
    }
    for other in ["11.0.0.1", "192.168.1.2", "fe80::1"] {
        assert!(!trusts(&settings, ip(other)), "{other}");
    }
    assert!(!trusts(&settings, None), "a Unix socket was not named");
    assert!(trusts(&Settings::default(), None) && !trusts(&Settings::default(), ip("127.0.0.1")));
}

/// R-DIFF-20
#[test]
fn a_list_of_origins_shuts_out_all_others() {
    assert!(allows_origin(
        &Settings::default(),
        "https://anything.example"
    ));
    let settings = load(Sources {
        flags: flags(&[("origins", "https://App.example.com,http://localhost:3000")]),
        ..Sources::default()
    });
    assert!(
        allows_origin(&settings, "https://app.example.com")
            && allows_origin(&settings, "http://localhost:3000")
    );
    for other in [
        "http://app.example.com",
        "https://app.example.com:444",
        "null",
        "",
        "https://app.example.com.evil",
    ] {
        assert!(!allows_origin(&settings, other), "{other}");
    }
}

#[test]
fn durations_and_sizes_are_read_as_people_write_them() {
    for (text, millis) in [
        ("10m", 600_000),
        ("570s", 570_000),
        ("570", 570_000),
        ("1h30m", 5_400_000),
        ("500ms", 500),
        ("1.5s", 1500),
        ("0.25", 250),
        ("2d", 172_800_000),
        ("1m 5s", 65_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for (text, bytes) in [
        ("128KiB", 131_072),
        ("1 MiB", 1 << 20),
        ("100", 100),
        ("100b", 100),
        ("1.5kib", 1536),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for bad in [
        "",
        "m",
        "1m30",
        "-5s",
        "1w",
        "0.0001s",
        "1..5s",
        "5 minutes",
        "99999999999999999999d",
    ] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
    for bad in [
        "",
        "KiB",
        "1KB",
        "-1",
        "0.3B",
        "1.2.3",
        "99999999999999999999GiB",
    ] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_duration_that_is_shown_reads_as_the_same(millis in any::<u64>()) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }

    #[test]
    fn a_size_that_is_shown_reads_as_the_same(bytes in any::<usize>(), shift in 0u32..40) {
        let bytes = bytes >> shift << (shift / 2);
        prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "[0-9.dhmsKMGiB +-]{0,24}|\\PC{0,12}") {
        let _ = (parse_duration(&text), parse_size(&text), text.parse::<Address>());
    }

    /// R-CFG-3
    #[test]
    fn no_file_makes_the_program_panic(text in "([a-z_.]{1,8} ?= ?('[^']{0,6}'|[0-9.x]{1,4}|\\[[0-9,{}'=a]{0,8}\\])\n|\\[\\[?[a-z_.]{1,12}\\]?\\]\n|\\PC{0,6}){0,6}") {
        let setup = Setup::new(&text);
        let _ = setup.sources.load();
    }

    #[test]
    fn an_address_that_is_shown_reads_as_the_same(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>(), path in "/[a-z/.é]{0,20}[a-z]") {
        let addresses = [
            Address::Tcp((std::net::Ipv4Addr::from(v4), port).into()),
            Address::Tcp((std::net::Ipv6Addr::from(v6), port).into()),
            Address::Unix(path.into()),
        ];
        for address in addresses {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
}

fn trusts(settings: &Settings, peer: Option<std::net::IpAddr>) -> bool {
    settings
        .trusted_proxies
        .iter()
        .any(|proxy| proxy.covers(peer))
}

fn allows_origin(settings: &Settings, origin: &str) -> bool {
    let origins = crate::http::Origins::parse(&settings.origins).expect("checked already");
    let header = (::http::header::ORIGIN, origin.parse().expect("a header"));
    origins.allows(&[header].into_iter().collect())
}
