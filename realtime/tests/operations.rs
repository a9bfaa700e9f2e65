//! What operators may rely on beside the protocol: the server talks with nobody who did not ask, and one door is enough for
//! backends.

mod support;

use std::collections::HashSet;
use std::fs;

use serde_json::json;
use support::Server;

/// The inodes of the sockets that a process has.
fn sockets(pid: u32) -> HashSet<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    files
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok())
        .filter_map(|it| {
            let inode = it.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

/// The local ports of a process's sockets of one kind, as the kernel lists them (proc_net_tcp(5)).
fn ports(pid: u32, kind: &str) -> Vec<u16> {
    let own = sockets(pid);
    let table = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).expect("a table");
    let rows = table.lines().skip(1);
    rows.map(|row| row.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|row| own.contains(row[9]))
        .map(|row| {
            let (_, port) = row[1].rsplit_once(':').expect("an address and a port");
            u16::from_str_radix(port, 16).expect("a port")
        })
        .collect()
}

/// R-OPS-15
#[test]
fn the_server_calls_nobody_counts_no_messages_and_asks_for_no_licence() {
    let server = Server::start();
    assert_eq!(server.get("/info").json()["license"], json!(null));
    let messages = json!({"tick": {"publish": true}});
    let mut ana = server.connect(
        json!({"uid": "ana", "channels": {"board": {"subscribe": true, "messages": messages}}}),
    );
    let mut ben = server.connect(json!({"uid": "ben", "channels": {"board": {"subscribe": true}}}));
    ana.subscribe("board");
    ben.subscribe("board");
    // Many times what a quota of the reference would let pass in a second, and never an error.
    for _ in 0..20 {
        ana.send_together(
            (0..500).map(|n| json!({"event": "tick", "channel": "board", "data": n})),
        );
        ana.settle();
        for n in 0..500 {
            assert_eq!(ben.expect("tick")["data"], n);
        }
    }
    // Every TCP socket of it listens, or was opened by somebody else: none has a port of its own choice.
    let tcp = [ports(server.pid(), "tcp"), ports(server.pid(), "tcp6")].concat();
    assert!(tcp.len() >= 3, "the listener and two clients: {tcp:?}");
    assert_eq!(tcp, vec![server.address.port(); tcp.len()]);
    for kind in ["udp", "udp6", "raw", "raw6"] {
        let found = ports(server.pid(), kind);
        assert!(found.is_empty(), "{kind}: not even a name is looked up");
    }
}

/// R-DIFF-6
#[test]
fn whatever_a_backend_can_ask_for_goes_through_publish() {
    let server = Server::start();
    let mut ana = server.connect(json!({"uid": "ana", "channels": {"board": {"subscribe": true, "storage": {"*": {"observe": true}}}}}));
    ana.subscribe("board");
    let message = json!({
        "channel": "board", "event": "price", "data": {"bid": 101.5}, "store": -1, "emitPubSubEvent": true,
        "deduplicationId": "px-1", "eagerIdGeneration": true,
    });
    let answer = server.publish(message.clone());
    let id = answer.json()["id"].clone();
    assert_eq!(answer.status, 202);
    assert_eq!(
        ana.expect("price"),
        json!({"id": id, "event": "price", "channel": "board", "data": {"bid": 101.5}})
    );
    assert_eq!(server.publish(message).status, 202);
    ana.expect_nothing();

    let entry = json!({"channel": "board", "event": "hotsock.channelStorageSet", "key": "rules", "data": {"seats": 4}, "store": 60});
    assert_eq!(
        server.publish(entry).json(),
        json!({"channel": "board", "event": "hotsock.channelStorageSet"})
    );
    assert_eq!(
        ana.expect("hotsock.channelStorageUpdated")["data"],
        json!({"seats": 4})
    );

    let reaction = json!({"messageId": id, "reaction": "🎉", "action": "add"});
    let answer = server.publish(json!({"channel": "board", "event": "hotsock.messageReaction", "data": reaction, "meta": {"uid": "bot"}}));
    assert_eq!(answer.status, 202);
    assert_eq!(
        ana.expect("hotsock.messageReactionAdded")["meta"]["uid"],
        "bot"
    );

    let later = json!({"channel": "board", "event": "later", "scheduleExpression": "at(2101-05-04T09:30:00)", "scheduleExpressionTimezone": "Europe/Oslo"});
    let arn = server.publish(later).json()["scheduleArn"].clone();
    let id = arn
        .as_str()
        .and_then(|it| it.rsplit('/').next())
        .expect("an ARN");
    assert_eq!(server.get(&format!("/schedules/{id}")).status, 200);
    ana.expect_nothing();
}
