//! Golden files of the proxy's configuration (D-HAP-20), each accepted by the proxy's own check.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use contract::spec::{HeaderCapture, HostSpec, Topology};
use host_agent::{
    machine::Machine,
    traffic::{Server, Wanted, render},
};
use std::{path::Path, process::Command, time::Duration};
use support::*;

fn server(n: u16) -> Server {
    let port = 20_000 + n;
    Server {
        name: format!("docker-{n}-{port}"),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
    }
}

/// Renders, lets HAProxy check it, compares with the golden file.
#[track_caller]
fn golden(
    name: &str,
    servers: usize,
    deny_list: bool,
    change: impl FnOnce(&mut HostSpec),
) -> String {
    let names = ["web", "api"];
    let checked = |name: &&str| {
        let mut container = container(name, name);
        container.health.interval = Duration::from_millis(100);
        container
    };
    let mut spec = host_spec(names[..servers].iter().map(checked).collect());
    spec.proxy.log = true;
    change(&mut spec);
    let servers: Vec<Server> = (1..=servers)
        .map(|n| match spec.containers[n - 1].handover {
            false => server(n as u16),
            true => Server {
                name: format!("docker-{n}-s0123456789"),
                address: "unix:s0123456789".parse().unwrap(),
            },
        })
        .collect();
    let payload = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
    let mut text = render(&Wanted {
        service: "hello",
        payload: &payload,
        swap: "01JD",
        machine: &Machine::default(),
        spec: &spec,
        servers: &servers,
        admin_socket: Path::new("/run/haproxy/admin.sock"),
        root: Path::new("/run/porter"),
        deny_list,
    })
    .unwrap();
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(name, text) });
    let folder = tempfile::tempdir().unwrap();
    if deny_list {
        let list = folder.path().join("list");
        std::fs::write(&list, "203.0.113.7\n").unwrap();
        text = text.replace(host_agent::traffic::DENY_LIST, list.to_str().unwrap());
    }
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, &text).unwrap();
    let check = Command::new("haproxy")
        .arg("-c")
        .arg("-f")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success(), "{name}: {said}");
    assert!(!said.contains("WARNING"), "{name}: {said}");
    text
}

#[test]
fn d_hap_20_behind_a_load_balancer() {
    // D-HAP-20, D-HAP-3: the upper bound of the load balancer's draining, where nothing was set.
    let text = golden("load_balancer", 1, false, |_| {});
    assert!(text.contains("timeout client 3600000ms") && text.contains("timeout server 3600000ms"));
    // D-HAP-5: TLS that ended at the load balancer arrives at 8080.
    assert!(text.contains("bind *:80\n") && text.contains("bind *:8080\n"));
    // D-HAP-12: the check asks what the swap's own check asks.
    assert!(
        text.contains("http-check send meth GET uri /health")
            && text.contains("127.0.0.1:20001 check")
    );
    // Whoever goes round the load balancer can't pretend to be it, and a service can tell hop by hop.
    assert!(text.contains("http-request add-header X-Forwarded-For %[src]"));
}

#[test]
fn d_hap_20_without_a_load_balancer() {
    // D-HAP-18, D-HAP-5
    let text = golden("alone", 1, false, |s| s.proxy.behind_load_balancer = false);
    assert!(text.contains("set-header X-Forwarded-For %[src]") && !text.contains(":8080"));
    assert!(
        text.contains("timeout client 7000ms") && text.contains("timeout http-keep-alive 60000ms")
    );
}

#[test]
fn d_hap_4_timeouts_that_were_set_apply_behind_a_load_balancer_and_zero_leaves_one_out() {
    // D-HAP-4, D-HAP-20 (each timeout 0)
    let ms = |n| Some(Duration::from_millis(n));
    let text = golden("timeouts_set", 1, false, |s| {
        let t = &mut s.proxy.timeouts;
        (
            t.client,
            t.server,
            t.tunnel,
            t.http_request,
            t.http_keep_alive,
        ) = (ms(7000), ms(7000), ms(1500), ms(4000), ms(60_000));
    });
    assert!(text.contains("timeout client 7000ms") && text.contains("timeout tunnel 1500ms"));
    let text = golden("timeouts_zero", 1, false, |s| {
        let t = &mut s.proxy.timeouts;
        (t.tunnel, t.http_request, t.http_keep_alive) = (ms(0), ms(0), ms(0));
    });
    assert!(!text.contains("timeout tunnel") && !text.contains("timeout http-keep-alive"));
    // It always has a value: without one a slow client holds a connection for ever.
    assert!(text.contains("timeout http-request 4000ms"));
}

#[test]
fn d_hap_16_the_redirect_spares_the_health_check_and_what_was_https_at_the_load_balancer() {
    // D-HAP-15, D-HAP-16, D-HAP-17
    let text = golden("redirect", 1, false, |s| s.proxy.https_redirect = true);
    assert!(text.contains("redirect scheme https code 301 unless https or health"));
    assert!(
        text.contains("acl https dst_port 8080")
            && text.contains("acl https req.hdr(X-Forwarded-Proto) -i https")
    );
    golden("redirect_alone", 1, false, |s| {
        s.proxy.behind_load_balancer = false;
        s.proxy.https_redirect = true;
    });
}

#[test]
fn d_hap_6_under_https_only_nothing_listens_on_port_80() {
    // D-HAP-6
    let text = golden("https_only", 1, false, |s| {
        s.proxy.https_only = true;
        s.proxy.https_redirect = true;
    });
    assert!(!text.contains("bind *:80\n") && text.contains("bind *:8080\n"));
}

#[test]
fn d_hap_7_captures_keep_their_order_and_names_with_odd_characters_stay_one_word() {
    // D-HAP-7
    let text = golden("captures", 1, false, |s| {
        let capture = |header: &str, length| HeaderCapture {
            header: header.into(),
            length,
        };
        s.proxy.request_header_captures =
            vec![capture("X-B", 10), capture("X-A # not a comment", 20)];
        s.proxy.response_header_captures = vec![capture("Content-Type", 30)];
    });
    assert!(text.find("X-B len 10") < text.find("X-A"));
}

#[test]
fn d_hap_8_compression_with_and_without_types() {
    // D-HAP-8
    golden("compression", 1, false, |s| {
        s.proxy.compression = true;
        s.proxy.compress_types = vec!["text/html".into(), "application/json".into()];
    });
    let text = golden("compression_all", 1, false, |s| s.proxy.compression = true);
    assert!(!text.contains("compression type"));
}

#[test]
fn d_hap_9_listed_addresses_are_denied_by_the_last_hop_or_the_peer() {
    // D-HAP-9, D-HAP-10
    let text = golden("deny_list", 1, true, |_| {});
    assert!(text.contains("req.hdr_ip(X-Forwarded-For,-1)"));
    let text = golden("deny_list_alone", 1, true, |s| {
        s.proxy.behind_load_balancer = false
    });
    assert!(text.contains("deny if { src -f"));
}

#[test]
fn d_hap_2_without_a_log_and_d_hap_14_statistics_on_their_own_listener() {
    // D-HAP-2
    let text = golden("log_off", 1, false, |s| s.proxy.log = false);
    assert!(text.contains("no log") && !text.contains("option httplog"));
    // D-HAP-13, D-HAP-14: never on the public port.
    let text = golden("statistics", 1, false, |s| {
        s.proxy.stats_bind = Some("127.0.0.1:8404".into())
    });
    assert!(text.contains("bind 127.0.0.1:8404\n    stats enable"));
}

#[test]
fn d_hap_11_two_containers_are_two_servers_of_one_backend() {
    // D-HAP-11
    let text = golden("two_containers", 2, false, |_| {});
    assert_eq!(text.matches(" check\n").count(), 2);
    // A worker is no server.
    let spec = host_spec(vec![container("web", "web"), {
        let mut worker = container("jobs", "jobs");
        worker.topology = Topology::Worker;
        worker
    }]);
    let ours = |name: &str, endpoint: Option<&str>| host_agent::docker::Container {
        id: name.into(),
        name: name.into(),
        payload: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
        swap: "01JD".into(),
        endpoint: endpoint.map(|e| e.parse().unwrap()),
        running: true,
    };
    let servers = host_agent::traffic::servers(
        &spec,
        &[ours("jobs", None), ours("web", Some("127.0.0.1:20001"))],
    );
    assert_eq!(servers, [server(1)]);
}

#[test]
fn a_container_that_hands_over_is_reached_at_its_seat_below_the_proxys_root() {
    let text = golden("seat", 2, false, |s| s.containers[0].handover = true);
    assert!(text.contains("chroot /run/porter\n"));
    assert!(text.contains("server docker-1-s0123456789 unix@/s0123456789/inet.sock check\n"));
    // Its connections may outlive the worker that has them by more than an hour.
    assert!(text.contains("hard-stop-after 24h\n"));
}
