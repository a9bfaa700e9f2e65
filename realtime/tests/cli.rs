//! The program as its users run it: arguments in, output and exit codes out.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

const KEY: (&str, &str) = ("REALTIME_SIGNING_KEYS_1_KEY", "c2VzYW1l");
const API_KEY: &str = "0123456789abcdefghijABCDEFGHIJ0123456789";

fn realtime(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_realtime"));
    // Whoever runs the tests may have settings of their own.
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REALTIME_"))
    {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut child = realtime(arguments, variables).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

/// Runs it and expects it to work.
fn out(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> String {
    let ran = run(arguments, variables, input);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
    ran.out
}

/// Runs it and expects it to fail.
fn err(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> String {
    let ran = run(arguments, variables, input);
    assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.out);
    ran.err
}

// --- serve and settings

/// R-CFG-3
#[test]
fn a_check_of_the_settings_says_everything_that_is_wrong() {
    assert_eq!(
        out(&["serve", "--check"], &[], ""),
        "the settings are good\n"
    );
    let arguments = [
        "serve",
        "--check",
        "--log-level",
        "loud",
        "--set",
        "limits.idl=3",
        "--listen",
        "here",
    ];
    let wrong = err(&arguments, &[("REALTIME_LEEWAY", "-1")], "");
    assert_eq!(
        wrong,
        "error: the settings are wrong:\n  \
         REALTIME_LEEWAY: leeway: `-1` is not a duration such as `10m`, `570s` or `500ms`\n  \
         --set limits.idl: is no setting; did you mean `limits.idle`?\n  \
         --listen: `here` is not an address such as `tcp:127.0.0.1:7400` or `unix:/run/realtime.sock`\n  \
         --log-level: `loud` is not `debug`, `info`, `warn` or `error`\n"
    );
}

/// R-LOG-4
#[test]
fn secrets_are_not_taken_from_flags() {
    let wrong = err(
        &["serve", "--check", "--set", &format!("api_keys={API_KEY}")],
        &[],
        "",
    );
    assert!(
        wrong.contains("is a secret") && wrong.contains("REALTIME_API_KEYS"),
        "{wrong}"
    );
    assert!(!wrong.contains(API_KEY), "{wrong}");
}

/// R-OPS-7, R-OPS-9, R-OPS-10
#[test]
fn the_info_switch_prints_the_report_of_the_installation() {
    let text = out(
        &["serve", "--info", "--listen", "127.0.0.1:9"],
        &[("REALTIME_REGION", "here")],
        "",
    );
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&info["region"], &info["compatibility"]),
        (&json!("here"), &json!("1.13.5"))
    );
    assert_eq!(info["outputs"]["webSocketUrl"], "ws://127.0.0.1:9/v1");
    assert_eq!(info["license"], Value::Null);
    assert_eq!(info["limits"]["request_timeout"], "5s");
}

/// R-AUTH-18, R-CFG-1, R-CFG-4, R-LOG-1, R-LOG-4, R-LOG-5, R-OPS-10
#[test]
fn a_start_is_logged_as_json_without_the_keys_that_it_generates() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data").display().to_string();
    // No socket can be made there, so the server ends by itself.
    let ran = run(
        &[
            "serve",
            "--data-dir",
            &data,
            "--listen",
            "unix:/proc/nowhere/a.sock",
        ],
        &[],
        "",
    );
    assert_eq!(ran.code, Some(1));
    let records: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let has = |level: &str, words: &str| {
        records.iter().any(|r| {
            r["level"] == level && r["message"].as_str().is_some_and(|m| m.contains(words))
        })
    };
    assert!(has("INFO", "two API keys were generated"), "{}", ran.out);
    assert!(has("INFO", "starting"), "{}", ran.out);
    assert!(
        has(
            "WARN",
            "no signing key is configured: every token is refused"
        ),
        "{}",
        ran.out
    );
    assert!(records.iter().any(|r| r["level"] == "ERROR"), "{}", ran.out);
    let keys = fs::read_to_string(format!("{data}/api-keys")).unwrap();
    for key in keys.lines() {
        assert!(!ran.out.contains(key) && !ran.err.contains(key));
    }
}

/// R-LOG-1
#[test]
fn a_level_leaves_out_what_is_less_severe() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().display().to_string();
    let arguments = [
        "serve",
        "--data-dir",
        &data,
        "--listen",
        "unix:/proc/nowhere/a.sock",
        "--log-level",
        "error",
    ];
    let ran = run(&arguments, &[], "");
    let levels: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].clone())
        .collect();
    assert!(
        !levels.is_empty() && levels.iter().all(|level| level == "ERROR"),
        "{}",
        ran.out
    );
}

/// R-CFG-2, R-LOG-4
#[test]
fn the_listing_shows_the_values_in_force_and_no_secret() {
    let variables = [
        ("REALTIME_API_KEYS", API_KEY),
        ("REALTIME_LIMITS_IDLE", "300"),
    ];
    let text = out(&["settings"], &variables, "");
    assert!(
        text.contains("\nlimits.idle = 5m\n") && text.contains("\napi_keys = [redacted]\n"),
        "{text}"
    );
    assert!(!text.contains(API_KEY));
    let rows: Value =
        serde_json::from_str(&out(&["settings", "--output", "json"], &variables, "")).unwrap();
    let idle = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["key"] == "limits.idle")
        .unwrap();
    assert_eq!(
        (&idle["value"], &idle["variable"]),
        (&json!("5m"), &json!("REALTIME_LIMITS_IDLE"))
    );
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let mut child = realtime(&["settings"], &[]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

// --- token and check-token

fn check(token: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, Value) {
    let arguments = [&["check-token", "-", "--output", "json"], arguments].concat();
    let ran = run(&arguments, variables, token);
    (
        ran.code,
        serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err)),
    )
}

#[test]
fn a_minted_token_may_do_what_its_flags_say_and_no_more() {
    let arguments = [
        "token",
        "--uid",
        "ana",
        "--umd",
        r#"{"role":"host"}"#,
        "--channel",
        "room.*=subscribe,publish:chat,echo:chat",
        "--channel",
        "news=subscribe,alias:n,observe:state",
    ];
    let token = out(&arguments, &[KEY], "");
    let (code, report) = check(
        &token,
        &[
            "--channel",
            "room.8",
            "--channel",
            "n",
            "--event",
            "chat",
            "--event",
            "edit",
        ],
        &[KEY],
    );
    assert_eq!(
        (code, &report["signature"], &report["usable"]),
        (Some(0), &json!("good"), &json!(true))
    );
    assert_eq!(report["uses"]["connect"], "yes");
    let room = &report["channels"]["room.8"];
    assert_eq!(room["subscribe"], true);
    assert_eq!(
        (
            &room["messages"]["chat"]["publish"],
            &room["messages"]["chat"]["echo"]
        ),
        (&json!(true), &json!(true))
    );
    assert_eq!(room["messages"]["edit"]["publish"], false);
    assert_eq!(room["storage"]["state"]["observe"], false);
    let news = &report["channels"]["n"];
    assert_eq!(
        (&news["channel"], &news["storage"]["state"]["observe"]),
        (&json!("news"), &json!(true))
    );
    assert_eq!(report["patterns"], json!(["room.*"]));
    assert_eq!(report["claims"]["umd"], json!({"role": "host"}));
}

/// R-CLAIM-2, R-CLAIM-6
#[test]
fn a_token_is_refused_with_the_reason() {
    let token = out(&["token", "--expires", "10m"], &[KEY], "");
    let (code, report) = check(&token, &["--at", "2100-01-01T00:00:00Z"], &[KEY]);
    assert_eq!(
        (code, &report["refusal"]),
        (Some(1), &json!("the token has expired"))
    );
    let (code, report) = check(&token, &[], &[("REALTIME_SIGNING_KEYS_1_KEY", "b3RoZXI=")]);
    assert_eq!((code, &report["signature"]), (Some(1), &json!("refused")));
    assert_eq!(report["refusal"], "the token's signature is wrong");
    let (code, report) = check(&token, &[], &[KEY, ("REALTIME_AUDIENCE", "chat")]);
    assert_eq!(
        (code, &report["refusal"]),
        (Some(1), &json!("the token is for another audience"))
    );
    let bound = out(
        &["token", "--connection-id", "Zt4Qw8LmPoAxBC0="],
        &[KEY],
        "",
    );
    let (code, report) = check(&bound, &[], &[KEY]);
    assert_eq!(code, Some(0));
    assert_eq!(
        report["uses"]["connect"],
        "no: a token with connectionId never opens a connection"
    );
    let (code, report) = check("no token at all", &[], &[KEY]);
    assert_eq!((code, &report["usable"]), (Some(1), &json!(false)));
}

#[test]
fn without_a_key_claims_are_explained_and_the_signature_is_said_to_be_unverified() {
    let token = out(&["token", "--channel", "a=subscribe"], &[KEY], "");
    let (code, report) = check(&token, &[], &[]);
    assert_eq!(
        (code, &report["signature"]),
        (Some(0), &json!("unverified"))
    );
    assert_eq!(report["channels"]["a"]["subscribe"], true);
    let text = out(&["check-token", token.trim()], &[], "");
    assert!(
        text.starts_with("usable                      perhaps: the signature is unverified\n"),
        "{text}"
    );
}

#[test]
fn claims_come_from_an_argument_a_file_or_input_and_the_settings_fill_them_up() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("claims.json");
    fs::write(
        &file,
        r#"{"scope":"subscribe","exp":4000000000,"uid":"file"}"#,
    )
    .unwrap();
    let at_file = format!("@{}", file.display());
    let variables = [("REALTIME_AUDIENCE", "chat"), ("REALTIME_ISSUER", "us")];
    let claims = out(
        &[
            "token",
            &at_file,
            "--uid",
            "flag",
            "--single-use",
            "--claims-only",
        ],
        &variables,
        "",
    );
    let claims: Value = serde_json::from_str(&claims).unwrap();
    assert_eq!(
        (&claims["scope"], &claims["uid"]),
        (&json!("subscribe"), &json!("flag"))
    );
    assert_eq!(
        (&claims["aud"], &claims["iss"], &claims["exp"]),
        (&json!("chat"), &json!("us"), &json!(4_000_000_000_u64))
    );
    assert!(
        claims["singleUse"] == true && claims["jti"].as_str().is_some_and(|jti| jti.len() == 26)
    );
    let from_input = out(
        &["token", "-", "--claims-only"],
        &[],
        r#"{"scope":"umd","exp":4000000000}"#,
    );
    assert_eq!(from_input, "{\"scope\":\"umd\",\"exp\":4000000000}\n");
}

#[test]
fn a_token_that_the_server_would_refuse_is_minted_only_by_force() {
    let arguments = ["token", "--channel", "a*=alias:x"];
    let why = err(&arguments, &[KEY], "");
    assert!(
        why.contains("channels.a*.alias") && why.contains("--force"),
        "{why}"
    );
    let token = out(&[&arguments[..], &["--force"]].concat(), &[KEY], "");
    assert_eq!(check(&token, &[], &[KEY]).0, Some(1));
}

/// R-LOG-4
#[test]
fn a_key_is_taken_from_a_file_a_variable_or_the_settings_and_never_shown() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("key").display().to_string();
    fs::write(&file, "c2VzYW1l\n").unwrap();
    for (arguments, variables) in [
        (vec!["token", "--key-file", file.as_str()], vec![]),
        (vec!["token"], vec![("REALTIME_SIGNING_KEY", "c2VzYW1l")]),
        (
            vec!["token"],
            vec![("REALTIME_SIGNING_KEYS_1_KEY_FILE", file.as_str())],
        ),
    ] {
        let token = out(&arguments, &variables, "");
        assert_eq!(check(&token, &[], &[KEY]).1["signature"], "good");
    }
    assert!(
        err(&["token"], &[], "")
            .contains("a key is needed: --key-file, the variable REALTIME_SIGNING_KEY")
    );
    let wrong = err(&["token"], &[("REALTIME_SIGNING_KEY", "!secret!")], "");
    assert!(
        wrong.contains("the key is not Base64") && !wrong.contains("secret"),
        "{wrong}"
    );
}

// --- publish

/// Answers one request, and gives back its head and body.
fn http_server(answer: &'static str) -> (String, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while reader.read_line(&mut head).unwrap() > 2 {}
        let lower = head.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        (head, String::from_utf8(body).unwrap())
    });
    (url, served)
}

#[test]
fn a_message_is_published_with_an_api_key_and_the_answer_is_printed() {
    let (url, served) =
        http_server("HTTP/1.1 202 Accepted\r\ncontent-length: 11\r\n\r\n{\"id\":\"01\"}");
    let arguments = [
        "publish",
        "--url",
        &url,
        "--channel",
        "board.1",
        "--event",
        "price",
        "--data",
        "-",
        "--store",
        "-1",
        "--deduplication-id",
        "px-1",
        "--eager",
    ];
    let printed = out(
        &arguments,
        &[("REALTIME_API_KEY", API_KEY)],
        " {\"bid\": 12345678901234567890.10}\n",
    );
    assert_eq!(printed, "{\"id\":\"01\"}\n");
    let (head, body) = served.join().unwrap();
    assert!(head.starts_with("POST /publish HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("authorization: Bearer {API_KEY}\r\n")),
        "{head}"
    );
    assert_eq!(
        body,
        r#"{"channel":"board.1","event":"price","store":-1,"deduplicationId":"px-1","eagerIdGeneration":true,"data":{"bid": 12345678901234567890.10}}"#
    );
}

/// R-STOR-29, R-REACT-15, R-SCHED-9: everything that a backend may send can be sent by hand.
#[test]
fn storage_schedules_and_reactions_are_published_too() {
    for (arguments, expected) in [
        (
            &[
                "--event",
                "hotsock.channelStorageSet",
                "--key",
                "k",
                "--data",
                "{}",
            ][..],
            r#"{"channel":"a","event":"hotsock.channelStorageSet","key":"k","data":{}}"#,
        ),
        (
            &[
                "--event",
                "e",
                "--schedule",
                "at(2027-05-04T09:30:00)",
                "--timezone",
                "Europe/Oslo",
            ],
            r#"{"channel":"a","event":"e","scheduleExpression":"at(2027-05-04T09:30:00)","scheduleExpressionTimezone":"Europe/Oslo"}"#,
        ),
        (
            &[
                "--event",
                "hotsock.messageReaction",
                "--uid",
                "bot",
                "--umd",
                "{\"a\": 1}",
                "--data",
                "{}",
            ],
            r#"{"channel":"a","event":"hotsock.messageReaction","meta":{"uid":"bot","umd":{"a":1}},"data":{}}"#,
        ),
    ] {
        let (url, served) = http_server("HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}");
        let all = [&["publish", "--url", &url, "--channel", "a"], arguments].concat();
        out(&all, &[("REALTIME_API_KEY", API_KEY)], "");
        assert_eq!(served.join().unwrap().1, expected);
    }
}

#[test]
fn a_publish_that_is_refused_fails_in_the_words_of_the_server() {
    let (url, served) = http_server(
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 54\r\n\r\n{\"error\":{\"code\":\"UNAUTHORIZED\",\"message\":\"no such\"}}\n",
    );
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("api-keys").display().to_string();
    fs::write(&file, format!("# first\n{API_KEY}\nsecond\n")).unwrap();
    let arguments = [
        "publish",
        "--url",
        &url,
        "--api-key-file",
        &file,
        "--channel",
        "a",
        "--event",
        "b",
    ];
    let why = err(&arguments, &[], "");
    assert_eq!(
        why,
        format!(
            "error: {url}/publish answered 401 Unauthorized: UNAUTHORIZED: no such; the API key is not one of the server's\n"
        )
    );
    let (head, _) = served.join().unwrap();
    assert!(head.contains(&format!("Bearer {API_KEY}\r\n")), "{head}");
}

#[test]
fn what_cannot_be_published_is_said_before_anything_is_sent() {
    let publish = [
        "publish",
        "--url",
        "http://127.0.0.1:9",
        "--channel",
        "a",
        "--event",
        "b",
    ];
    assert!(err(&publish, &[], "").contains("an API key is needed"));
    let text = [&publish[..], &["--data", "hello"]].concat();
    assert!(
        err(&text, &[("REALTIME_API_KEY", API_KEY)], "").contains("a text needs quotes of its own")
    );
    let unreachable = err(&publish, &[("REALTIME_API_KEY", API_KEY)], "");
    assert!(
        unreachable.contains("http://127.0.0.1:9/publish cannot be reached"),
        "{unreachable}"
    );
    assert!(!unreachable.contains(API_KEY));
}

// --- info

/// R-OPS-7, R-LOG-4
#[test]
fn a_running_server_is_asked_for_its_report_with_an_api_key() {
    let (url, served) =
        http_server("HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{\"version\":\"1.2.3\"}");
    let printed = out(
        &["info", "--url", &format!("{url}/v1")],
        &[("REALTIME_API_KEY", API_KEY)],
        "",
    );
    assert_eq!(printed, "{\n  \"version\": \"1.2.3\"\n}\n");
    let (head, _) = served.join().unwrap();
    assert!(head.starts_with("GET /info HTTP/1.1\r\n"), "{head}");
    let authorization = format!("authorization: Bearer {API_KEY}\r\n");
    assert!(head.contains(&authorization), "{head}");

    let (url, _) = http_server(
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 54\r\n\r\n{\"error\":{\"code\":\"UNAUTHORIZED\",\"message\":\"no such\"}}\n",
    );
    let info = ["info", "--url", &url, "--api-key-file", "-"];
    assert_eq!(
        err(&info, &[], API_KEY),
        format!(
            "error: {url}/info answered 401 Unauthorized: UNAUTHORIZED: no such; the API key is not one of the server's\n"
        )
    );
    assert!(err(&info[..3], &[], "").contains("an API key is needed"));
    let (url, _) = http_server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let why = err(
        &["info", "--url", &url],
        &[("REALTIME_API_KEY", API_KEY)],
        "",
    );
    assert!(why.contains("is this a realtime server?"), "{why}");
}

// --- tail

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6ImNvbm5lY3QifQ.c2ln";

/// Takes one WebSocket, and does with it what `serve` says.
fn web_socket_server<T: Send + 'static>(
    serve: impl FnOnce(WebSocket<TcpStream>) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/v1", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(tungstenite::accept(stream).unwrap())
    });
    (url, served)
}

/// Reads until the client closes; gives back its code.
fn close_code(socket: &mut WebSocket<TcpStream>) -> Option<u16> {
    loop {
        if let Message::Close(frame) = socket.read().unwrap() {
            let _ = socket.flush();
            return frame.map(|f| f.code.into());
        }
    }
}

fn tail(url: &str, arguments: &[&str]) -> Child {
    let arguments = [&["tail", "--url", url], arguments].concat();
    realtime(&arguments, &[("REALTIME_TOKEN", TOKEN)])
        .spawn()
        .unwrap()
}

#[test]
fn a_tail_subscribes_prints_each_message_and_ends_after_so_many() {
    let (url, served) = web_socket_server(|mut socket| {
        let subscribe = [
            socket.read().unwrap().to_string(),
            socket.read().unwrap().to_string(),
        ];
        for n in 0..3 {
            socket
                .send(Message::text(format!("{{\"n\":{n}}}")))
                .unwrap();
        }
        (subscribe, close_code(&mut socket))
    });
    let ran = Ran::from(
        tail(&url, &["--channel", "a", "--channel", "b", "--count", "2"])
            .wait_with_output()
            .unwrap(),
    );
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "{\"n\":0}\n{\"n\":1}\n", "")
    );
    let (subscribe, code) = served.join().unwrap();
    assert_eq!(
        subscribe[1],
        r#"{"event":"hotsock.subscribe","channel":"b"}"#
    );
    assert_eq!(code, Some(1000));
}

#[test]
fn what_is_typed_is_sent_and_an_interrupt_closes_with_1000() {
    let (url, served) = web_socket_server(|mut socket| {
        let typed = socket.read().unwrap().to_string();
        socket.send(Message::text("{}")).unwrap();
        (typed, close_code(&mut socket))
    });
    let mut child = tail(&url, &["--interactive"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"event\":\"hotsock.ping\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "{}\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(
        served.join().unwrap(),
        ("{\"event\":\"hotsock.ping\"}".into(), Some(1000))
    );
}

#[test]
fn a_close_by_the_server_is_told_in_words() {
    let (url, served) = web_socket_server(|mut socket| {
        let frame = CloseFrame {
            code: CloseCode::Restart,
            reason: "Restarting".into(),
        };
        socket.close(Some(frame)).unwrap();
        while socket.read().is_ok() {}
    });
    let ran = Ran::from(tail(&url, &[]).wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.err,
        "error: the server closed the connection: 1012 Restarting (the server restarts; connect again)\n"
    );
    served.join().unwrap();
}

/// R-LOG-4
#[test]
fn a_refused_token_is_told_without_showing_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/v1", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while reader.read_line(&mut head).unwrap() > 2 {}
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        head
    });
    let ran = Ran::from(tail(&url, &[]).wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1));
    let why = "refused the connection: 401 Unauthorized: the token is not good; `realtime check-token` says why";
    assert_eq!(ran.err, format!("error: {url} {why}\n"));
    assert!(
        served
            .join()
            .unwrap()
            .starts_with(&format!("GET /v1?token={TOKEN} HTTP/1.1\r\n"))
    );
    let unreachable = err(
        &["tail", "--url", "ws://127.0.0.1:9/v1", "--token", "-"],
        &[],
        TOKEN,
    );
    assert!(
        unreachable.contains("cannot be reached") && !unreachable.contains(TOKEN),
        "{unreachable}"
    );
}
