//! The service that the host agent's tests put into containers: small, static, and badly behaved on request.
//!
//! `--version V` what `/` answers; `--health STATUS` what `/health` answers; `--exit-after-ms N` ends with status 3 and a
//! last line on stderr; `--worker` serves nothing; `--graceful` finishes its requests when it is told to end.

use axum::{Router, extract::Query, http::StatusCode, routing::get};
use std::{collections::HashMap, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

fn option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.next()?;
    Some(arguments.next().unwrap_or_default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let version = option("--version").unwrap_or_default();
    let health = option("--health")
        .and_then(|s| s.parse().ok())
        .unwrap_or(200);
    eprintln!("service {version} starts");
    let mut term = signal(SignalKind::terminate()).expect("a signal handler");
    if let Some(after) = option("--exit-after-ms").and_then(|s| s.parse().ok()) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            eprintln!("the service can't find its database");
            std::process::exit(3);
        });
    }
    let router = Router::new()
        .route("/", get(move || async move { version }))
        .route(
            "/health",
            get(move || async move {
                eprintln!("health is {health}");
                StatusCode::from_u16(health).expect("a status")
            }),
        )
        .route(
            "/slow",
            get(|Query(q): Query<HashMap<String, String>>| async move {
                let ms = q.get("ms").and_then(|m| m.parse().ok()).unwrap_or(1000);
                println!("a slow request begins");
                tokio::time::sleep(Duration::from_millis(ms)).await;
                "slow"
            }),
        )
        .route(
            "/env",
            get(|| async {
                let mut lines: Vec<String> =
                    std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
                lines.sort();
                lines.join("\n")
            }),
        );
    let serve = async {
        if option("--worker").is_some() {
            std::future::pending::<()>().await;
        }
        let listener = tokio::net::TcpListener::bind("0.0.0.0:8080")
            .await
            .expect("port 8080");
        let told = async {
            if option("--graceful").is_none() {
                std::future::pending::<()>().await;
            }
            let mut term = signal(SignalKind::terminate()).expect("a signal handler");
            term.recv().await;
        };
        axum::serve(listener, router)
            .with_graceful_shutdown(told)
            .await
            .expect("a server");
    };
    tokio::select! {
        () = serve => {}
        _ = term.recv(), if option("--graceful").is_none() => eprintln!("service ends"),
    }
}
