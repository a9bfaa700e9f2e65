//! Where a request really came from, when proxies stand before the server (R-CFG-5).

use std::net::{IpAddr, SocketAddr};

use ::http::HeaderMap;

use crate::config::TrustedProxy;

/// The peers whose `X-Forwarded-For` is believed. The default believes nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<TrustedProxy>);

impl TrustedProxies {
    /// Those of the setting.
    pub fn new(entries: &[TrustedProxy]) -> TrustedProxies {
        TrustedProxies(entries.to_vec())
    }

    /// The client's address: the peer's, or what trusted proxies say about it. `peer` is `None` for a Unix socket, and
    /// the answer is `None` when nobody trustworthy named an address.
    ///
    /// Every proxy appends who connected to it, so the lines of `X-Forwarded-For` are walked from the right for as long
    /// as the one who appended is trusted. What a client made up stands further left and is not reached. At an item
    /// that is no address the last known hop is the answer.
    pub fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = peer.map(|peer| peer.to_canonical());
        if !self.trusts(client) {
            return client;
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines
            .flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii);
        for hop in hops.filter(|hop| !hop.is_empty()) {
            let Some(address) = std::str::from_utf8(hop).ok().and_then(address) else {
                break;
            };
            client = Some(address);
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.0.iter().any(|entry| entry.covers(peer))
    }
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`,
/// in quotes or not. A v4 address inside a v6 one is that v4 address.
fn address(text: &str) -> Option<IpAddr> {
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted(entries: &[&str]) -> TrustedProxies {
        let entries = entries
            .iter()
            .map(|entry| entry.parse().expect("a setting"));
        TrustedProxies::new(&entries.collect::<Vec<_>>())
    }

    fn forwarded(lines: &[&str]) -> HeaderMap {
        lines
            .iter()
            .map(|line| {
                (
                    "x-forwarded-for".parse().expect("a name"),
                    line.parse().expect("a value"),
                )
            })
            .collect()
    }

    fn client(entries: &[&str], peer: Option<&str>, lines: &[&str]) -> Option<String> {
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        trusted(entries)
            .client(peer, &forwarded(lines))
            .map(|address| address.to_string())
    }

    /// R-CFG-5
    #[test]
    fn the_source_is_the_peer_unless_the_peer_is_a_trusted_proxy() {
        type Case = (
            &'static [&'static str],
            Option<&'static str>,
            &'static [&'static str],
            Option<&'static str>,
        );
        let cases: &[Case] = &[
            // Nobody is trusted, or not this one.
            (&[], Some("192.0.2.1"), &["203.0.113.9"], Some("192.0.2.1")),
            (
                &["10.0.0.0/8"],
                Some("192.0.2.1"),
                &["203.0.113.9"],
                Some("192.0.2.1"),
            ),
            (&[], None, &["203.0.113.9"], None),
            // The trusted proxy says who it was; what the client claimed stands further left.
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["203.0.113.9"],
                Some("203.0.113.9"),
            ),
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["198.51.100.1, 203.0.113.9"],
                Some("203.0.113.9"),
            ),
            (
                &["unix"],
                None,
                &["127.0.0.1,203.0.113.9"],
                Some("203.0.113.9"),
            ),
            // Several proxies, in one line or in several.
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["1.1.1.1, 203.0.113.9, 10.2.2.2"],
                Some("203.0.113.9"),
            ),
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["1.1.1.1, 203.0.113.9", "10.2.2.2"],
                Some("203.0.113.9"),
            ),
            (
                &["unix", "10.0.0.7"],
                None,
                &["203.0.113.9", "10.0.0.7"],
                Some("203.0.113.9"),
            ),
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["10.3.3.3, 10.2.2.2"],
                Some("10.3.3.3"),
            ),
            // Nothing said, or nothing that is an address.
            (&["10.0.0.0/8"], Some("10.1.1.1"), &[], Some("10.1.1.1")),
            (&["unix"], None, &[], None),
            (&["unix"], None, &["unknown"], None),
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["203.0.113.9, unknown, 10.2.2.2"],
                Some("10.2.2.2"),
            ),
            (
                &["10.0.0.0/8"],
                Some("10.1.1.1"),
                &["203.0.113.9, ,"],
                Some("203.0.113.9"),
            ),
            // As proxies write addresses.
            (&["::1"], Some("::1"), &["2001:db8::1"], Some("2001:db8::1")),
            (
                &["::1"],
                Some("::1"),
                &["[2001:db8::1]"],
                Some("2001:db8::1"),
            ),
            (
                &["::1"],
                Some("::1"),
                &["[2001:db8::1]:4711"],
                Some("2001:db8::1"),
            ),
            (
                &["::1"],
                Some("::1"),
                &["\"[2001:db8::1]:4711\""],
                Some("2001:db8::1"),
            ),
            (
                &["::1"],
                Some("::1"),
                &["203.0.113.9:4711"],
                Some("203.0.113.9"),
            ),
            (
                &["2001:db8:1::/48"],
                Some("2001:db8:1::5"),
                &["203.0.113.9"],
                Some("203.0.113.9"),
            ),
            // A v4 address that a socket for both shows as v6.
            (
                &["10.0.0.0/8"],
                Some("::ffff:10.1.1.1"),
                &["::ffff:203.0.113.9"],
                Some("203.0.113.9"),
            ),
            (&[], Some("::ffff:192.0.2.1"), &[], Some("192.0.2.1")),
        ];
        for (entries, peer, lines, expected) in cases {
            assert_eq!(
                client(entries, *peer, lines).as_deref(),
                *expected,
                "{entries:?} {peer:?} {lines:?}"
            );
        }
    }

    #[test]
    fn an_entry_that_names_no_proxy_is_refused_by_name() {
        for entry in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "example.com",
            "unix:/run/x",
            "*",
        ] {
            let error = entry.parse::<TrustedProxy>().expect_err(entry);
            assert!(error.contains(&format!("`{entry}`")), "{error}");
        }
    }

    proptest! {
        /// R-CFG-5: a client chooses everything but what the last trusted hop appended.
        #[test]
        fn nothing_a_client_sends_hides_its_address(lines in proptest::collection::vec("[ -~]{0,30}", 0..4)) {
            let mut headers: HeaderMap = forwarded(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            headers.append("x-forwarded-for", "203.0.113.9".parse().expect("a value"));
            let found = trusted(&["10.0.0.0/8"]).client("10.1.1.1".parse().ok(), &headers);
            prop_assert_eq!(found, "203.0.113.9".parse().ok());
        }
    }
}
