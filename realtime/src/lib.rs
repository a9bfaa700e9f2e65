//! The real-time server: a self-hosted WebSocket service with channels that speaks the protocol of
//! `docs/spec/realtime-protocol.md`, so that clients, tokens and backends of that protocol work by changing a URL.
//!
//! # Code map
//!
//! Data flows `socket → http or websocket → protocol → hub → engine → fan-out → outbox → socket`. Everything between the
//! sockets and the outbox is free of I/O and takes the time as an argument.
//!
//! * [`server`]: the loop that owns every socket: accept, read, write, deadlines, graceful end.
//! * [`http`]: HTTP/1.1 requests in, responses out, as bytes; [`websocket`]: RFC 6455 frames, likewise.
//! * [`auth`]: verifies a token's signature; [`claims`]: what it says, and pure answers to "may this connection …?".
//! * [`names`]: names, sizes and other limits of the protocol; [`json`]: a value as its compact text; [`schedule`]: when
//!   something is to be done later.
//! * [`protocol`]: messages in, messages out, every error code with its sentence.
//! * [`hub`]: connections, subscriptions and what each message of a client does; [`connection`], [`outbox`].
//! * [`engine`]: what all hosts of an installation agree on: order and ids, presence, single use, deduplication; and what is
//!   kept, in a file that threads of its own work at (`engine/store.rs`).
//! * [`api`]: the HTTP interfaces beside the WebSocket; [`console`]: the page for people, served from here.
//! * [`function_api`]: publishing in the form of a function's invocation; [`events`]: what backends are told.
//! * [`config`]: settings from file, environment and flags; [`log`], [`trace`], [`metrics`]: what operators see.
//! * [`info`]: the installation's report on itself; [`commands`]: the command line.
//!
//! Absent on purpose: threads that share connections (the engine's know none), an asynchronous runtime, locks (decision 0013).

pub mod api;
pub mod auth;
pub mod channels;
pub mod claims;
pub mod commands;
pub mod config;
pub mod connection;
pub mod console;
pub mod engine;
pub mod events;
pub mod fanout;
pub mod function_api;
pub mod http;
pub mod hub;
pub mod info;
pub mod json;
pub mod log;
pub mod metrics;
pub mod names;
pub mod outbox;
pub mod presence;
pub mod protocol;
pub mod schedule;
pub mod server;
pub mod time;
pub mod trace;
pub mod websocket;
