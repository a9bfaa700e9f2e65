//! What the hosts may reach: `auto_scaling_group.security_group_egress` (D-CFG-62, D-CFG-63).

use super::{
    field::{Field, Section},
    model::EgressRule,
    pattern,
};
use std::net::IpAddr;

/// Names and time by UDP, the web by TCP, over both versions of IP.
pub(super) fn default_rules() -> Vec<EgressRule> {
    let rule =
        |cidr_ip: Option<&str>, cidr_ipv6: Option<&str>, protocol: &str, port: i32| EgressRule {
            cidr_ip: cidr_ip.map(Into::into),
            cidr_ipv6: cidr_ipv6.map(Into::into),
            destination_prefix_list_id: None,
            destination_security_group_id: None,
            ip_protocol: protocol.into(),
            from_port: port,
            to_port: port,
        };
    let ports = [("udp", 53), ("udp", 123), ("tcp", 80), ("tcp", 443)];
    let v4 = ports
        .iter()
        .map(|(protocol, port)| rule(Some("0.0.0.0/0"), None, protocol, *port));
    let v6 = ports
        .iter()
        .map(|(protocol, port)| rule(None, Some("::/0"), protocol, *port));
    v4.chain(v6).collect()
}

/// The rules of `auto_scaling_group`, or the default ones.
pub(super) fn of_group(group: &Section) -> Vec<EgressRule> {
    match group.get("security_group_egress") {
        None => default_rules(),
        Some(field) => field
            .list()
            .iter()
            .filter_map(Field::section)
            .map(rule)
            .collect(),
    }
}

fn rule(rule: Section) -> EgressRule {
    let destinations = [
        rule.get("cidr_ip"),
        rule.get("cidr_ipv6"),
        rule.get("destination_prefix_list_id"),
        rule.get("destination_security_group_id"),
    ];
    if destinations.iter().flatten().count() != 1 {
        rule.field.error(
            "needs exactly one of `cidr_ip`, `cidr_ipv6`, `destination_prefix_list_id`, `destination_security_group_id`",
        );
    }
    let [v4, v6, prefixes, group] = destinations;
    let ip_protocol = rule
        .require("ip_protocol")
        .and_then(|f| f.matching(&pattern::PROTOCOL))
        .unwrap_or_default();
    let (from_port, to_port) = ports(&rule, &ip_protocol);
    let read = EgressRule {
        cidr_ip: v4.and_then(|f| cidr(&f, false)),
        cidr_ipv6: v6.and_then(|f| cidr(&f, true)),
        destination_prefix_list_id: prefixes.and_then(|f| f.matching(&pattern::PREFIX_LIST)),
        destination_security_group_id: group.and_then(|f| f.matching(&pattern::SECURITY_GROUP)),
        ip_protocol,
        from_port,
        to_port,
    };
    rule.done();
    read
}

/// TCP and UDP need both ports; elsewhere they default to -1, which means all.
fn ports(rule: &Section, protocol: &str) -> (i32, i32) {
    let port = |key: &'static str| {
        let field = match rule.get(key) {
            None if matches!(protocol, "tcp" | "udp" | "6" | "17") => {
                rule.missing(key, "is required for tcp and udp");
                return None;
            }
            None => return Some(-1),
            Some(field) => field,
        };
        if field.text().as_deref() == Some("-1") {
            return Some(-1);
        }
        field.integer(0..=65_535).map(|n| n as i32)
    };
    let (from, to) = (
        port("from_port").unwrap_or(-1),
        port("to_port").unwrap_or(-1),
    );
    if from > to && to >= 0 && matches!(protocol, "tcp" | "udp" | "6" | "17") {
        rule.missing("from_port", format!("{from} is above `to_port` {to}"));
    }
    (from, to)
}

/// An address range in the notation `address/bits`.
pub(super) fn cidr(field: &Field, v6: bool) -> Option<String> {
    let text = field.text()?;
    let range = text.split_once('/').and_then(|(address, bits)| {
        Some((
            address.parse::<IpAddr>().ok()?,
            bits.parse::<u8>().ok().filter(|_| !bits.starts_with('+'))?,
        ))
    });
    match range {
        Some((IpAddr::V4(_), 0..=32)) if !v6 => Some(text),
        Some((IpAddr::V6(_), 0..=128)) if v6 => Some(text),
        _ => {
            let example = if v6 { "2001:db8::/32" } else { "10.0.0.0/8" };
            field.error(format!(
                "`{text}` is not an address range such as `{example}`"
            ));
            None
        }
    }
}
