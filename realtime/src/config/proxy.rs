//! Proxies whose word about the client's address is taken (R-CFG-5).

use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// From whom forwarding headers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Peers with an address in this network.
    Net(IpNet),
    /// Peers on a Unix socket, where the file's permissions decide who connects.
    Unix,
}

impl TrustedProxy {
    /// Whether this entry covers a peer; `None` is one on a Unix socket.
    #[must_use]
    pub fn covers(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            // A socket for IPv6 shows IPv4 peers as `::ffff:a.b.c.d`.
            (Self::Net(net), Some(peer)) => net.contains(&peer.to_canonical()),
            (Self::Unix, None) => true,
            _ => false,
        }
    }
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(Self::Net)
            .map_err(|_| {
                format!("`{text}` is not a network such as `10.0.0.0/8`, an IP address, or `unix`")
            })
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
