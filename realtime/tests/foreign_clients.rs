//! Clients that we did not write talk with a real server: `ws` (npm), `websockets` (PyPI), and Chromium with the
//! example's chat page. Their scripts are in `tests/clients`; each signs or is given tokens, and ends with 0 only
//! when every promise was kept. `scripts/setup` installs what they need: what is missing fails these tests, nothing
//! is skipped.

mod support;

use serde_json::json;
use std::path::Path;
use std::process::Command;
use support::scripts::{
    cache, clients, in_a_browser, installed, keeps_its_promises, node, screenshots, told,
};
use support::{Server, libc_signal, token};

/// Keep-alive soon, compression on, and everyone closed at once at the end.
const SETTINGS: &str =
    "compression = true\nshutdown_spread = \"0s\"\n\n[limits]\nkeep_alive = \"300ms\"\n";

/// R-CONN-1 R-CONN-3 R-CONN-6 R-CONN-7 R-CONN-8 R-CONN-12 R-CONN-13 R-CONN-16 R-CONN-29 R-CONN-30 R-CONN-32,
/// R-AUTH-1 R-AUTH-4 R-AUTH-12 R-AUTH-14 R-AUTH-16 R-AUTH-17,
/// R-JSON-1, R-SUB-1 R-SUB-4 R-SUB-6 R-SUB-12 R-SUB-22 R-SUB-28 R-SUB-29, R-PRES-2 R-PRES-3 R-PRES-4 R-PRES-13,
/// R-PUB-8 R-PUB-9 R-PUB-12 R-PUB-13, R-DLV-2 R-DLV-4, R-UMD-1 R-UMD-4, R-ERR-4 R-ERR-5 R-ERR-6 R-ERR-7 R-ERR-8,
/// R-LIVE-1 R-LIVE-2 R-LIVE-15, R-SRV-1 R-SRV-7
#[test]
fn ws_of_npm_has_a_whole_conversation() {
    let mut server = Server::with(SETTINGS);
    keeps_its_promises(told(&mut node("talk.js"), &server), |_| {});
    assert!(server.ended().success());
}

/// Scenarios 1, 2, 5, 6, 8 to 13, 15, 16, 19 and 20 of section 26. The official client can't be installed from the package registry
/// that this was written with, so a client that does what the protocol's document says of it takes its place.
///
/// R-CONN-2 R-CONN-6 R-CONN-7 R-CONN-9 R-CONN-13 R-CONN-16 R-CONN-27 R-CONN-28, R-CLAIM-4 R-CLAIM-6 R-CLAIM-7 R-CLAIM-8
/// R-CLAIM-12 R-CLAIM-14, R-ERR-11, R-SUB-1 R-SUB-3 R-SUB-4 R-SUB-6 R-SUB-8 R-SUB-12 R-SUB-20 R-SUB-22 R-SUB-23 R-SUB-25
/// R-SUB-27 R-SUB-28 R-SUB-29 R-SUB-30, R-PUB-1 R-PUB-6 R-PUB-8 R-PUB-9 R-PUB-12, R-DLV-2 R-DLV-4, R-PRES-2 R-PRES-3
/// R-PRES-4 R-PRES-5 R-PRES-7 R-PRES-8 R-PRES-9 R-PRES-10 R-PRES-12 R-PRES-13 R-PRES-15 R-PRES-16, R-PUB-2 R-PUB-3 R-PUB-4
/// R-PUB-5 R-PUB-17, R-UMD-1 R-UMD-4 R-UMD-6 R-UMD-8 R-UMD-10, R-STOR-4 R-STOR-5 R-STOR-7 R-STOR-9 R-STOR-11 R-STOR-12
/// R-STOR-14 R-STOR-15 R-STOR-17 R-STOR-18 R-STOR-25 R-STOR-26, R-HIST-5 R-HIST-6 R-HIST-9, R-REACT-4 R-REACT-6 R-REACT-8
/// R-REACT-9 R-REACT-10 R-REACT-11, R-HTTP-13 R-HTTP-14 R-HTTP-15 R-HTTP-17 R-HTTP-20 R-HTTP-21 R-HTTP-26 R-HTTP-53, R-LIVE-5 R-LIVE-7 R-LIVE-11 R-LIVE-12
#[test]
fn a_client_of_bindings_keeps_the_acceptance_scenarios() {
    let server = Server::start();
    keeps_its_promises(told(&mut node("scenarios.js"), &server), |_| {});
}

/// R-CONN-4 R-CONN-6 R-CONN-7 R-CONN-8 R-CONN-29 R-CONN-30, R-PRES-7 R-PRES-9 R-PRES-12, R-DLV-1 R-DLV-5 R-DLV-6,
/// R-SRV-12 R-SRV-13 R-SRV-15, R-LIVE-7 R-LIVE-10, R-ERR-5
#[test]
fn websockets_of_pypi_has_a_whole_conversation() {
    let mut server = Server::with(SETTINGS);
    let python = installed(cache().join("venv-clients/bin/python"));
    keeps_its_promises(
        told(Command::new(python).arg(clients().join("talk.py")), &server),
        |_| {},
    );
    assert!(server.ended().success());
}

/// R-CONN-27, R-CONN-30, R-PRES-3, R-PRES-4, R-PUB-9
#[test]
fn two_tabs_of_chromium_chat_over_the_example_page_and_come_back_after_a_restart() {
    let mut server = Server::with(SETTINGS);
    let address = server.address;
    let mut next = None;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/realtime/page/index.html");
    let screenshots = screenshots("chat-page");
    let chat = json!({"presence.*": {"subscribe": true, "messages": {"chat": {"publish": true, "echo": true}}}});
    let of = |uid: &str| token(json!({"uid": uid, "channels": chat}));
    let mut script = in_a_browser("page.js");
    script
        .arg(page.canonicalize().expect("the example's page"))
        .arg(&screenshots)
        .env("TOKEN_ANA", of("ana"))
        .env("TOKEN_BEN", of("ben"));
    keeps_its_promises(told(&mut script, &server), |line| {
        if line == "restart" {
            server.signal(libc_signal::TERM);
            assert!(server.ended().success());
            next = Some(Server::with(&format!(
                "listen = [\"tcp:{address}\"]\n{SETTINGS}"
            )));
        }
    });
    assert!(next.is_some());
    println!("screenshots: {}", screenshots.display());
}
