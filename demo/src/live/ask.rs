//! One HTTP question on a connection of its own.

use anyhow::{Context, bail};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of what `path` answers with status 200.
///
/// # Errors
/// No answer, or one with another status.
pub fn get(address: SocketAddr, path: &str, api_key: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("{address} takes no connection"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {api_key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("http://{address}{path} gave no answer"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!(
            "http://{address}{path} answered {}",
            head.lines().next().unwrap_or("nothing")
        );
    }
    Ok(body.to_owned())
}
