//! A small HTTP service to deploy: `GET /` answers its version, `/health` says 200, `/slow?ms=` takes its time.
//!
//! It listens on port 8080, or on `PORT`. On SIGTERM it accepts nothing new, finishes the requests it has, and exits 0:
//! what a hot swap expects of a service.

mod version;

use axum::{Router, extract::Query, http::StatusCode, response::IntoResponse, routing::get};
use std::{collections::HashMap, net::Ipv4Addr, process::ExitCode, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use version::VERSION;

const DEFAULT_PORT: u16 = 8080;

/// The longest answer to `/slow`: a caller must not hold a connection, and with it the end of a swap, for ever.
const MAX_SLOW: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello {VERSION}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let port = match std::env::var("PORT") {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("PORT is `{text}`: expected a number from 1 to 65535"))?,
        Err(_) => DEFAULT_PORT,
    };
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| format!("can't watch SIGTERM: {e}"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .map_err(|e| format!("can't listen on port {port}: {e}"))?;
    println!("hello {VERSION} listens on port {port}");
    axum::serve(listener, routes())
        .with_graceful_shutdown(async move {
            terminate.recv().await;
            println!("hello {VERSION} finishes its requests");
        })
        .await
        .map_err(|e| format!("serving failed: {e}"))
}

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { format!("{VERSION}\n") }))
        .route("/health", get(|| async { "ok\n" }))
        .route("/slow", get(slow))
}

/// Waits `ms` milliseconds, at most [`MAX_SLOW`], then answers the version.
async fn slow(Query(query): Query<HashMap<String, String>>) -> impl IntoResponse {
    let Some(wait) = query
        .get("ms")
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis)
    else {
        return (
            StatusCode::BAD_REQUEST,
            "usage: /slow?ms=MILLISECONDS\n".to_owned(),
        );
    };
    if wait > MAX_SLOW {
        return (
            StatusCode::BAD_REQUEST,
            format!("at most {} ms\n", MAX_SLOW.as_millis()),
        );
    }
    tokio::time::sleep(wait).await;
    (StatusCode::OK, format!("{VERSION}\n"))
}
