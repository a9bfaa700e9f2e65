//! The engine of several hosts keeps every promise that the embedded one keeps: the tests of whatever depends on an engine
//! run here a second time, each server with a Redis of its own (R-DIFF-11).

#![allow(
    clippy::duplicate_mod,
    reason = "each file has what all of them share as a module of its own"
)]

#[path = "channels.rs"]
mod channels;
#[path = "client_api.rs"]
mod client_api;
#[path = "events.rs"]
mod events;
#[path = "failed_swaps.rs"]
mod failed_swaps;
#[path = "foreign_clients.rs"]
mod foreign_clients;
#[path = "function_api.rs"]
mod function_api;
#[path = "history.rs"]
mod history;
#[path = "permissions.rs"]
mod permissions;
#[path = "presence.rs"]
mod presence;
#[path = "publishing.rs"]
mod publishing;
#[path = "reactions.rs"]
mod reactions;
#[path = "schedules.rs"]
mod schedules;
#[path = "server_api.rs"]
mod server_api;
#[path = "storage.rs"]
mod storage;
#[path = "stored_messages.rs"]
mod stored_messages;
#[path = "succession.rs"]
mod succession;
#[path = "tokens.rs"]
mod tokens;

#[path = "support/mod.rs"]
mod support;

/// Or else everything here would prove the other engine a second time.
#[test]
fn the_servers_of_these_tests_have_a_redis() {
    let server = support::Server::start();
    let info = server.get("/info").json();
    assert_eq!(info["engine"], "cluster");
}
