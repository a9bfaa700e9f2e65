//! Where a server listens: `tcp:127.0.0.1:7400`, `tcp:[::1]:7400`, `unix:/run/app/inet.sock`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path that the kernel takes for a Unix socket: `sun_path` without its closing zero (unix(7)).
const LONGEST_PATH: usize = 107;

/// One place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix stream socket at an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// Reads `tcp:IP:PORT` or `unix:/PATH`; `IP:PORT` and `/PATH` alone will do.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is not an address such as `tcp:127.0.0.1:7400` or `unix:/run/realtime.sock`"
            )
        };
        if let Some(path) = text
            .strip_prefix("unix:")
            .or_else(|| text.starts_with('/').then_some(text))
        {
            return if !path.starts_with('/') {
                Err(format!(
                    "`{text}` needs an absolute path, such as `unix:/run/realtime.sock`"
                ))
            } else if path.len() > LONGEST_PATH {
                Err(format!(
                    "the path of a Unix socket has at most {LONGEST_PATH} bytes, this one has {}",
                    path.len()
                ))
            } else if path.contains('\0') || path.ends_with('/') {
                Err(expected())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let socket = text.strip_prefix("tcp:").unwrap_or(text);
        if let Ok(address) = socket.parse() {
            return Ok(Self::Tcp(address));
        }
        match socket.rsplit_once(':') {
            Some(("" | "*", port)) if port.parse::<u16>().is_ok() => Err(format!(
                "`{text}` names no address; write `tcp:[::]:{port}` for every interface, `tcp:127.0.0.1:{port}` for this \
                 machine"
            )),
            Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains([':', '/']) => {
                Err(format!(
                    "`{host}` is a name; listen at an IP address, such as `tcp:127.0.0.1:{port}`"
                ))
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
