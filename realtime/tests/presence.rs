//! Who is present in a channel, and how a user's metadata changes while it is connected (sections 11 and 12), as clients
//! see it.

mod support;

use std::slice::from_ref;
use std::thread;

use serde_json::{Value, json};
use support::{Client, Server, token};

const DEN: &str = "presence.den";

/// Claims of a user who may do in every channel what members do.
fn user(uid: &str, umd: Value) -> Value {
    json!({
        "uid": uid,
        "umd": umd,
        "channels": {"*": {"subscribe": true, "messages": {"*": {"publish": true}}}},
    })
}

/// A connection of this user in [`DEN`].
fn member(server: &Server, uid: &str, umd: Value) -> Client {
    let mut client = server.connect(user(uid, umd));
    client.subscribe(DEN);
    client
}

/// A umd token with these claims.
fn umd_token(mut claims: Value) -> String {
    claims["scope"] = json!("umd");
    token(claims)
}

/// Changes the metadata of one subscription.
fn update(client: &mut Client, channel: &str, claims: Value) {
    let token = umd_token(claims);
    client
        .send(json!({"event": "hotsock.umdUpdate", "channel": channel, "data": {"token": token}}));
}

/// Changes the metadata of the connection.
fn update_connection(client: &mut Client, claims: Value) {
    let token = umd_token(claims);
    client.send(json!({"event": "hotsock.umdUpdate", "data": {"token": token}}));
}

/// Claims that permit to change a user's metadata in any channel.
fn in_any_channel(uid: &str, umd: Value) -> Value {
    json!({"uid": uid, "umd": umd, "channels": {"*": {"umdUpdate": true}}})
}

fn ana() -> Value {
    json!({"uid": "ana", "umd": null})
}

fn ben() -> Value {
    json!({"uid": "ben", "umd": {"mood": "busy"}})
}

fn event(name: &str, member: &Value, members: &[Value]) -> Value {
    json!({
        "event": format!("hotsock.{name}"),
        "channel": DEN,
        "data": {"member": member, "members": members},
    })
}

fn subscribed(uid: &str, umd: &Value, members: &[Value]) -> Value {
    json!({
        "event": "hotsock.subscribed",
        "channel": DEN,
        "data": {"members": members},
        "meta": {"uid": uid, "umd": umd},
    })
}

/// R-PRES-1
#[test]
fn a_presence_channel_is_known_by_the_beginning_of_its_name() {
    let server = Server::start();
    let mut client = server.connect(user("ana", json!(null)));
    for channel in ["presence", "presence-den", "Presence.den", "a.presence.den"] {
        assert_eq!(client.subscribe(channel)["data"], json!({}), "{channel}");
    }
    for channel in ["presence.", "presence.den", "presence..", "presence.a/b:c"] {
        assert_eq!(
            client.subscribe(channel)["data"],
            json!({"members": [ana()]}),
            "{channel}"
        );
    }
}

/// R-PRES-2: who has no uid, or an empty one, is no member and gets no subscription; a subscribe token may bring one.
#[test]
fn a_member_needs_a_uid() {
    let server = Server::start();
    for uid in [json!(null), json!("")] {
        let mut claims = user("", json!(null));
        match uid.is_null() {
            true => drop(claims.as_object_mut().expect("an object").remove("uid")),
            false => claims["uid"] = uid,
        }
        let mut client = server.connect(claims);
        client.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
        let error = client.expect_error("PRESENCE_CHANNEL_USER_ID_REQUIRED");
        assert_eq!(error["channel"], DEN);
        client.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
        client.expect_error("NOT_SUBSCRIBED");

        let subscribe = token(json!({
            "scope": "subscribe", "connectionId": client.id(), "uid": "guest", "channels": {},
        }));
        client.send(
            json!({"event": "hotsock.subscribe", "channel": DEN, "data": {"token": subscribe}}),
        );
        let guest = json!({"uid": "guest", "umd": null});
        assert_eq!(client.next(), subscribed("guest", &json!(null), &[guest]));
        client.close();
        server.await_metric("realtime_subscriptions", 0.0);
    }
}

/// R-PRES-3, R-PRES-4, R-PRES-5, R-PRES-6, R-PRES-12, R-PRES-23: whole messages, so there is no `id` and no `meta`.
#[test]
fn members_see_each_other_come_and_go() {
    let server = Server::start();
    let mut first = server.connect(user("ana", json!(null)));
    first.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
    assert_eq!(first.next(), subscribed("ana", &json!(null), &[ana()]));
    first.expect_nothing();

    let mut second = server.connect(user("ben", json!({"mood": "busy"})));
    second.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
    assert_eq!(
        second.next(),
        subscribed("ben", &json!({"mood": "busy"}), &[ana(), ben()])
    );
    second.expect_nothing();
    assert_eq!(
        first.drain(),
        [event("memberAdded", &ben(), &[ana(), ben()])]
    );

    second.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    second.expect("hotsock.unsubscribed");
    second.expect_nothing();
    assert_eq!(first.next(), event("memberRemoved", &ben(), &[ana()]));
    first.expect_nothing();

    // Whoever stays alone and goes leaves an empty list behind.
    first.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    first.expect("hotsock.unsubscribed");
    first.expect_nothing();
    assert_eq!(second.subscribe(DEN)["data"], json!({"members": [ben()]}));
}

/// R-PRES-7, R-PRES-9, R-PRES-12
#[test]
fn a_user_is_one_member_with_however_many_connections() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut first = member(&server, "ben", json!({"mood": "busy", "seat": 1}));
    observer.expect("hotsock.memberAdded");

    // The same value, written otherwise.
    let mut second = server.connect(user("ben", json!({"seat": 1.0, "mood": "busy"})));
    let members = second.subscribe(DEN)["data"]["members"].clone();
    let uids: Vec<_> = (members.as_array().expect("an array").iter())
        .map(|member| &member["uid"])
        .collect();
    assert_eq!(uids, ["ana", "ben"]);
    for client in [&mut observer, &mut first, &mut second] {
        client.expect_nothing();
    }

    first.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    first.expect("hotsock.unsubscribed");
    first.settle();
    for client in [&mut observer, &mut second] {
        client.expect_nothing();
    }

    second.close();
    let removed = observer.expect("hotsock.memberRemoved");
    assert_eq!(removed["data"]["member"]["uid"], "ben");
    assert_eq!(removed["data"]["members"], json!([ana()]));
    observer.expect_nothing();
    first.expect_nothing();
}

/// R-PRES-10, R-PRES-11, R-PRES-14: the value written last stays, also when the connection that wrote it goes.
#[test]
fn a_second_connection_with_other_metadata_updates_the_member() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut first = member(&server, "ben", json!("first"));
    observer.expect("hotsock.memberAdded");

    let now = json!({"uid": "ben", "umd": "second"});
    let updated = event("memberUpdated", &now, &[ana(), now.clone()]);
    let mut second = server.connect(user("ben", json!("second")));
    assert_eq!(
        second.subscribe(DEN),
        subscribed("ben", &json!("second"), &[ana(), now.clone()])
    );
    for client in [&mut second, &mut observer, &mut first] {
        assert_eq!(client.drain(), from_ref(&updated));
    }

    second.close();
    observer.expect_nothing();
    let mut late = server.connect(user("cid", json!(null)));
    let cid = json!({"uid": "cid", "umd": null});
    assert_eq!(
        late.subscribe(DEN)["data"]["members"],
        json!([ana(), now, cid])
    );

    // Nobody of the user is left, so nothing of it is remembered.
    first.close();
    late.expect("hotsock.memberRemoved");
    let mut third = server.connect(user("ben", json!(null)));
    let back = json!({"uid": "ben", "umd": null});
    assert_eq!(
        third.subscribe(DEN)["data"]["members"],
        json!([ana(), cid, back])
    );
    third.expect_nothing();
}

/// R-PRES-8: neither a second connection nor an update moves a member; who has gone and comes back is the last.
#[test]
fn members_are_listed_in_the_order_in_which_they_came() {
    let server = Server::start();
    let uids = |message: &Value| -> Vec<String> {
        (message["data"]["members"]
            .as_array()
            .expect("an array")
            .iter())
        .map(|member| member["uid"].as_str().expect("a string").to_owned())
        .collect()
    };
    let mut zoe = server.connect(user("zoe", json!(null)));
    assert_eq!(uids(&zoe.subscribe(DEN)), ["zoe"]);
    let mut ana = server.connect(user("ana", json!(null)));
    assert_eq!(uids(&ana.subscribe(DEN)), ["zoe", "ana"]);
    let mut moe = server.connect(user("moe", json!(null)));
    assert_eq!(uids(&moe.subscribe(DEN)), ["zoe", "ana", "moe"]);

    update(&mut zoe, DEN, in_any_channel("zoe", json!(1)));
    zoe.drain();
    let _second_of_zoe = member(&server, "zoe", json!(2));
    let last = zoe.drain().pop().expect("memberUpdated");
    assert_eq!(uids(&last), ["zoe", "ana", "moe"]);

    ana.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    ana.drain();
    assert_eq!(uids(&ana.subscribe(DEN)), ["zoe", "moe", "ana"]);
}

/// R-PRES-13: in whatever way a connection ends, the remaining members learn of it.
#[test]
fn disconnecting_is_leaving() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let removed = event("memberRemoved", &ben(), &[ana()]);
    let leave: [fn(Client); 4] = [
        Client::close,
        Client::vanish,
        drop,
        // A violation of the protocol, upon which the server closes.
        |mut client| {
            client.send_message(tungstenite::Message::binary(vec![1]));
            client.closed();
        },
    ];
    for leave in leave {
        let client = member(&server, "ben", json!({"mood": "busy"}));
        assert_eq!(
            observer.next(),
            event("memberAdded", &ben(), &[ana(), ben()])
        );
        leave(client);
        assert_eq!(observer.next(), removed);
        observer.expect_nothing();
    }
}

/// R-PRES-21: the others see neither `memberRemoved` nor `memberAdded`.
#[test]
fn a_user_that_reconnects_before_its_old_connection_is_gone_never_was_away() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut old = member(&server, "ben", json!({"mood": "busy"}));
    observer.expect("hotsock.memberAdded");
    for _ in 0..3 {
        let new = member(&server, "ben", json!({"mood": "busy"}));
        old.vanish();
        server.await_metric("realtime_connections", 2.0);
        old = new;
        observer.expect_nothing();
    }
    old.vanish();
    assert_eq!(observer.next(), event("memberRemoved", &ben(), &[ana()]));
}

/// R-PRES-15, R-PRES-16, R-PRES-22, R-UMD-4, R-UMD-18: everybody gets `memberUpdated`, once, and the initiator nothing else.
#[test]
fn a_change_of_metadata_reaches_every_member_once() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut client = member(&server, "ben", json!(null));
    let mut twin = member(&server, "ben", json!(null));
    observer.expect("hotsock.memberAdded");

    update(
        &mut client,
        DEN,
        in_any_channel("ben", json!({"mood": "busy"})),
    );
    let updated = event("memberUpdated", &ben(), &[ana(), ben()]);
    for client in [&mut client, &mut observer, &mut twin] {
        assert_eq!(client.drain(), from_ref(&updated));
    }

    // The same value again; then by the user's other connection, whose own value was another one.
    update(
        &mut client,
        DEN,
        in_any_channel("ben", json!({"mood": "busy"})),
    );
    client.expect_nothing();
    update(
        &mut twin,
        DEN,
        in_any_channel("ben", json!({"mood": "busy"})),
    );
    twin.expect_nothing();
    client.expect_nothing();
    observer.expect_nothing();
    twin.send(json!({"event": "hi", "channel": DEN}));
    assert_eq!(client.expect("hi")["meta"], ben());
}

/// R-PRES-19: what other channels do, these do: messages of clients and backends, aliases.
#[test]
fn presence_channels_carry_messages_and_aliases() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut client = server.connect(json!({
        "uid": "ben",
        "umd": {"mood": "busy"},
        "channels": {DEN: {"alias": "den", "subscribe": true, "messages": {"hi": {"publish": true}}}},
    }));
    let confirmed = client.subscribe("den");
    assert_eq!(confirmed["channel"], DEN);
    assert_eq!(confirmed["data"]["members"], json!([ana(), ben()]));
    assert_eq!(confirmed["meta"]["channelAlias"], "den");
    observer.expect("hotsock.memberAdded");

    client.send(json!({"event": "hi", "channel": "den", "data": 1}));
    let message = observer.expect("hi");
    assert_eq!((&message["data"], &message["meta"]), (&json!(1), &ben()));
    let answer = server.publish(json!({"channel": DEN, "event": "bye", "data": 2}));
    assert_eq!(answer.status, 202);
    for client in [&mut observer, &mut client] {
        assert_eq!(client.expect("bye")["data"], 2);
    }

    update(&mut client, "den", in_any_channel("ben", json!(null)));
    assert_eq!(client.expect("hotsock.memberUpdated")["channel"], DEN);
    assert_eq!(observer.expect("hotsock.memberUpdated")["channel"], DEN);
}

/// R-PRES-20: every list follows from the one before it, from the one in `hotsock.subscribed` on, and all see the same
/// changes in the same order.
#[test]
fn all_members_see_the_same_changes_in_the_same_order() {
    const CHURNERS: usize = 6;
    let server = Server::start();
    let mut observers = [
        member(&server, "observer-1", json!(null)),
        member(&server, "observer-2", json!(null)),
    ];
    observers[0].expect("hotsock.memberAdded");

    let seen: Vec<Vec<Value>> = thread::scope(|scope| {
        let churners: Vec<_> = (0..CHURNERS)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    // Two connections for each user, so that joins, updates and leaves of one uid overlap.
                    let uid = format!("user-{}", number / 2);
                    let mut client = server.connect(user(&uid, json!(number)));
                    let mut seen = Vec::new();
                    for round in 0..8 {
                        client.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
                        update(
                            &mut client,
                            DEN,
                            in_any_channel(&uid, json!([number, round])),
                        );
                        client.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
                        seen.extend(client.drain());
                    }
                    seen
                })
            })
            .collect();
        churners
            .into_iter()
            .map(|churner| churner.join().expect("no panic"))
            .collect()
    });

    // Everybody has gone. Who comes then is seen after all of it: an engine may be asked to forget a member later than the
    // member is told that it has left.
    server.await_metric("realtime_connections", 2.0);
    let _last = member(&server, "last", json!(null));
    let [all, same] = observers.each_mut().map(|observer| {
        let mut seen: Vec<Value> = Vec::new();
        while (seen.last()).is_none_or(|message| message["data"]["member"]["uid"] != "last") {
            seen.push(observer.next());
        }
        seen
    });
    assert_eq!(same, all);
    let last = all.last().expect("the last one came");
    assert_eq!(last["data"]["members"].as_array().map(Vec::len), Some(3));

    let start = json!([
        {"uid": "observer-1", "umd": null},
        {"uid": "observer-2", "umd": null},
    ]);
    assert_follows(start, &all);
    for seen in seen {
        let mut rest = &seen[..];
        while let Some((first, after)) = rest.split_first() {
            assert_eq!(first["event"], "hotsock.subscribed");
            let end = after
                .iter()
                .position(|message| message["event"] == "hotsock.unsubscribed")
                .expect("every subscription was ended");
            assert_follows(first["data"]["members"].clone(), &after[..end]);
            // What this member saw is a part of what the others saw, without a gap.
            let part = &after[..end];
            assert!(
                part.is_empty() || all.windows(part.len()).any(|window| window == part),
                "{part:#?}"
            );
            rest = &after[end + 1..];
        }
    }
}

/// Applies every change to the list before it, and compares with the list that came with it.
fn assert_follows(members: Value, changes: &[Value]) {
    let mut members = members.as_array().expect("an array").clone();
    for change in changes {
        let member = &change["data"]["member"];
        let at = members.iter().position(|it| it["uid"] == member["uid"]);
        match (change["event"].as_str(), at) {
            (Some("hotsock.memberAdded"), None) => members.push(member.clone()),
            (Some("hotsock.memberUpdated"), Some(at)) => {
                // R-PRES-11: the update of one's own joining repeats what its `hotsock.subscribed` showed already.
                members[at] = member.clone();
            }
            (Some("hotsock.memberRemoved"), Some(at)) => drop(members.remove(at)),
            _ => panic!("{change} does not follow {members:?}"),
        }
        assert_eq!(change["data"]["members"], json!(members));
    }
}

/// How many of [`full_channel`] there are; all but the last take 1807 bytes in the list.
const FILLERS: usize = 57;

/// The uid of one of them.
fn filler(number: usize) -> String {
    format!("{number:02}{}", "\u{1}".repeat(126))
}

/// Fills [`DEN`] to exactly 102400 bytes. Of a member, the uid takes 768 bytes at most (each control character is
/// written as `\u0001`), the umd 1024, the rest 15.
fn full_channel(server: &Server) -> Vec<Client> {
    let umd = |bytes: usize| json!("x".repeat(bytes - 2));
    let mut clients = Vec::new();
    for number in 0..FILLERS {
        // Two digits, 127 control characters and the quotes: 766 bytes; with umd and the rest 1805.
        let uid = filler(number);
        let size = 15 + 2 + 2 + 126 * 6;
        let left = 102_400 - (FILLERS - 1) * (size + 1024);
        let umd = match number + 1 {
            FILLERS => umd(left - size),
            _ => umd(1024),
        };
        clients.push(member(server, &uid, umd));
        unread(clients.last_mut().expect("just added"));
    }
    clients
}

/// From now on, what comes for this client is read and forgotten.
fn unread(client: &mut Client) {
    let stream = client.stream();
    stream.set_read_timeout(None).expect("no time-out");
    let mut stream = stream.try_clone().expect("a second descriptor");
    thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
}

/// R-LIM-11, R-PRES-17, R-PRES-18: exactly 102400 bytes fit, and at capacity nobody new gets in, no value grows, and known
/// users still may.
///
/// R-CLAIM-25: whoever finds no room keeps its single-use token, for subscribing and for updating.
///
/// R-UMD-10: an update of all subscriptions is refused where there is no room, and done everywhere else.
#[test]
fn a_member_list_holds_102400_bytes_and_refuses_more() {
    let server = Server::with("[limits]\noutbound_bytes = \"64MiB\"");
    let mut fillers = full_channel(&server);
    let last = fillers.pop().expect("the last one");
    let uid = filler(FILLERS - 1);
    let umd = last.welcome["meta"]["umd"]
        .as_str()
        .expect("a string")
        .to_owned();
    let members = || {
        let members = server.get(&format!("/channels/{DEN}")).json()["members"].clone();
        members.as_array().expect("an array").clone()
    };
    let before = members();
    let bytes: usize = before.iter().map(|member| member.to_string().len()).sum();
    assert_eq!((before.len(), bytes), (FILLERS, 102_400));

    // Nobody else has room. The attempt is not counted as a use of the token.
    let mut late = server.connect(user("late", json!(null)));
    late.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
    let error = late.expect_error("PRESENCE_CHANNEL_CAPACITY_REACHED");
    assert_eq!(error["channel"], DEN);
    let once = token(json!({
        "scope": "subscribe", "uid": "late", "jti": "join", "singleUse": true, "channels": {},
    }));
    let join = json!({"event": "hotsock.subscribe", "channel": DEN, "data": {"token": once}});
    late.send(join.clone());
    late.expect_error("PRESENCE_CHANNEL_CAPACITY_REACHED");
    late.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    late.expect_error("NOT_SUBSCRIBED");
    assert_eq!(members(), before);

    // A second connection of a listed user has, unless its value is longer.
    let mut longer = server.connect(user(&uid, json!(format!("{umd}x"))));
    longer.send(json!({"event": "hotsock.subscribe", "channel": DEN}));
    longer.expect_error("PRESENCE_CHANNEL_CAPACITY_REACHED");
    assert_eq!(members(), before);
    let mut twin = server.connect(user(&uid, json!(umd)));
    twin.subscribe("presence.other");
    twin.subscribe(DEN);
    twin.subscribe("room");

    // An update has room if the value is not longer than the one before.
    let grow = umd_token(json!({
        "uid": uid, "umd": format!("{umd}x"), "jti": "grow", "singleUse": true, "channels": {"*": {"umdUpdate": true}},
    }));
    let grow = json!({"event": "hotsock.umdUpdate", "channel": DEN, "data": {"token": grow}});
    twin.send(grow.clone());
    let error = twin.expect_error("PRESENCE_CHANNEL_CAPACITY_REACHED");
    assert_eq!(error["channel"], DEN);
    twin.expect_nothing();
    assert_eq!(members(), before);

    // On all subscriptions at once: the full channel alone refuses, and keeps its value.
    let propagate =
        json!({"uid": uid, "umd": format!("{umd}x"), "umdUpdate": true, "umdPropagate": true});
    update_connection(&mut twin, propagate);
    let mut events: Vec<_> = twin
        .drain()
        .into_iter()
        .map(|message| (message["event"].clone(), message["channel"].clone()))
        .collect();
    events.sort_by_key(|(event, _)| event.to_string());
    assert_eq!(
        events,
        [
            (json!("hotsock.error"), json!(DEN)),
            (json!("hotsock.memberUpdated"), json!("presence.other")),
        ]
    );
    assert_eq!(members(), before);
    for (channel, length) in [(DEN, umd.len()), ("room", umd.len() + 1)] {
        let mut listener = server.connect(user(&uid, json!(umd)));
        listener.subscribe(channel);
        twin.send(json!({"event": "hi", "channel": channel}));
        let message = listener.expect("hi");
        assert_eq!(
            message["meta"]["umd"].as_str().map(str::len),
            Some(length),
            "{channel}"
        );
        listener.close();
    }

    // One member gone, both refused tokens are still good.
    fillers.pop().expect("a filler").close();
    twin.send(grow);
    loop {
        let message = twin.next();
        if message["event"] == "hotsock.memberUpdated" {
            break;
        }
        assert!(
            ["hotsock.memberRemoved", "hi"].contains(&message["event"].as_str().expect("an event")),
            "{message}"
        );
    }
    late.send(join);
    late.expect("hotsock.subscribed");
}

/// R-DLV-11, R-PRES-4, R-PRES-12: a member that comes and goes as fast as it can costs nobody the connection who reads, even
/// though each time everybody gets the whole list.
#[test]
fn a_restless_member_closes_nobody_elses_connection() {
    let server = Server::start();
    // Twelve members make 22 kB, and 900 requests are read at once: as many events, which is more than a burst may be.
    let umd = json!("x".repeat(1022));
    let mut members: Vec<_> = (0..12)
        .map(|number| member(&server, &filler(number), umd.clone()))
        .collect();
    members.iter_mut().for_each(unread);
    let mut restless = server.connect(user("restless", json!(null)));
    unread(&mut restless);
    let request = |event: &str| json!({"event": format!("hotsock.{event}"), "channel": DEN});
    restless.send_together(
        (0..450)
            .flat_map(|_| ["subscribe", "unsubscribe"])
            .map(request),
    );
    let received = |kind: &str| format!("realtime_messages_received_total{{kind=\"{kind}\"}}");
    server.await_metric(&received("unsubscribe"), 450.0);
    assert_eq!(server.metric("realtime_slow_consumer_closes_total"), 0.0);
    assert_eq!(server.metric("realtime_connections"), 13.0);
    assert_eq!(server.metric("realtime_subscriptions"), 12.0);
}

/// R-UMD-1, R-UMD-3, R-UMD-16, R-UMD-17: one subscription has another value from then on; the others and the connection
/// have what they had, and the uid stays.
#[test]
fn an_update_changes_the_metadata_of_one_subscription() {
    let server = Server::start();
    let mut observer = server.connect(user("ana", json!(null)));
    let mut client = server.connect(user("ben", json!("old")));
    for channel in ["one", "two", "three"] {
        observer.subscribe(channel);
    }
    client.subscribe("one");
    client.subscribe("two");
    let mut meta_in = |client: &mut Client, channel: &str| {
        client.send(json!({"event": "hi", "channel": channel}));
        client.settle();
        observer.expect("hi")["meta"].clone()
    };
    let with = |umd: Value| json!({"uid": "ben", "umd": umd});

    // The token's uid may be missing if it names the connection, and may be another one.
    for (claims, umd) in [
        (json!({"uid": "ben", "umd": "new"}), json!("new")),
        (json!({"connectionId": client.id(), "umd": [1]}), json!([1])),
        (
            json!({"connectionId": client.id(), "uid": "zoe", "umd": 0}),
            json!(0),
        ),
        // R-UMD-3: a missing claim sets null, and so does null.
        (json!({"uid": "ben"}), json!(null)),
        (json!({"uid": "ben", "umd": false}), json!(false)),
        (json!({"uid": "ben", "umd": null}), json!(null)),
    ] {
        let mut claims = claims;
        claims["channels"] = json!({"one": {"umdUpdate": true}});
        update(&mut client, "one", claims);
        // R-UMD-18: nothing is confirmed.
        client.expect_nothing();
        assert_eq!(meta_in(&mut client, "one"), with(umd));
        assert_eq!(meta_in(&mut client, "two"), with(json!("old")));
    }
    assert_eq!(client.subscribe("three")["meta"], with(json!("old")));
    // A new subscription begins anew.
    client.send(json!({"event": "hotsock.unsubscribe", "channel": "one"}));
    client.expect("hotsock.unsubscribed");
    assert_eq!(client.subscribe("one")["meta"], with(json!("old")));
}

/// R-UMD-2, R-UMD-5, R-UMD-7, R-UMD-11, R-UMD-14, R-CLAIM-15: what an update is refused for. Patterns and explicit noes
/// count as everywhere.
#[test]
fn an_update_needs_a_token_that_permits_it() {
    let server = Server::start();
    let mut other = server.connect(user("ben", json!(null)));
    let mut observer = member(&server, "ana", json!(null));
    let mut client = server.connect(user("ben", json!("old")));
    client.subscribe(DEN);
    observer.expect("hotsock.memberAdded");
    let granted = || json!({DEN: {"umdUpdate": true}});

    let refused = [
        // Unusable.
        (
            Some(DEN),
            json!({"uid": "ben", "scope": "connect subscribe", "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"uid": "zoe", "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"uid": "", "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"connectionId": other.id(), "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"connectionId": other.id(), "uid": "ben", "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "exp": 1, "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "nbf": 99_999_999_999_u64, "channels": granted()}),
            "INVALID_UMD_TOKEN",
        ),
        (
            None,
            json!({"uid": "zoe", "umdUpdate": true}),
            "INVALID_UMD_TOKEN",
        ),
        (None, json!({"umdUpdate": true}), "INVALID_UMD_TOKEN"),
        // Usable, but not for this.
        (
            Some(DEN),
            json!({"uid": "ben"}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "umdUpdate": true, "umdPropagate": true}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "channels": {"presence.attic": {"umdUpdate": true}}}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "channels": {"*": {"umdUpdate": true}, DEN: {"umdUpdate": false}}}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            Some(DEN),
            json!({"uid": "ben", "channels": {DEN: {"umdUpdate": true}, "#regex:den$": {"umdUpdate": false}}}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            None,
            json!({"uid": "ben", "channels": granted()}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            None,
            json!({"uid": "ben", "umdUpdate": false}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        (
            None,
            json!({"uid": "ben", "umdPropagate": true}),
            "UMD_UPDATE_PERMISSION_DENIED",
        ),
        // Nowhere to do it.
        (
            Some("room"),
            json!({"uid": "ben", "channels": {"*": {"umdUpdate": true}}}),
            "NOT_SUBSCRIBED",
        ),
        (
            Some("no room"),
            json!({"uid": "ben", "channels": {"*": {"umdUpdate": true}}}),
            "INVALID_CHANNEL",
        ),
    ];
    for (channel, mut claims, code) in refused {
        claims["umd"] = json!("new");
        claims
            .as_object_mut()
            .expect("an object")
            .entry("scope")
            .or_insert(json!("umd"));
        let mut message =
            json!({"event": "hotsock.umdUpdate", "data": {"token": token(claims.clone())}});
        if let Some(channel) = channel {
            message["channel"] = json!(channel);
        }
        client.send(message);
        let error = client.expect_error(code);
        assert_eq!(error["channel"], json!(channel), "R-ERR-3: {claims}");
    }
    for data in [
        json!({"token": "a.b.c"}),
        json!({}),
        json!({"token": null}),
        json!(null),
    ] {
        client.send(json!({"event": "hotsock.umdUpdate", "channel": DEN, "data": data}));
        client.expect_error("INVALID_UMD_TOKEN");
    }
    for data in [json!({"token": 5}), json!("token"), json!([1])] {
        client.send(json!({"event": "hotsock.umdUpdate", "channel": DEN, "data": data}));
        let error = client.expect_error("INVALID_MESSAGE");
        assert_eq!(error["channel"], DEN, "R-ERR-3");
    }
    // Nothing has changed anywhere.
    client.expect_nothing();
    observer.expect_nothing();
    client.subscribe("room");
    other.subscribe("room");
    client.send(json!({"event": "hi", "channel": "room"}));
    assert_eq!(other.expect("hi")["meta"]["umd"], "old");

    // And these do.
    for (number, channels) in [
        json!({"presence.*": {"umdUpdate": true}}),
        json!({"#regex:^presence\\.d": {"umdUpdate": true}, "room": {"umdUpdate": false}}),
        json!({DEN: {"umdUpdate": true}, "*": {}}),
    ]
    .into_iter()
    .enumerate()
    {
        update(
            &mut client,
            DEN,
            json!({"uid": "ben", "umd": number, "channels": channels}),
        );
        assert_eq!(
            client.expect("hotsock.memberUpdated")["data"]["member"]["umd"],
            number
        );
    }
}

/// R-UMD-5: a subscription may belong to another user than its connection, and a token of that user may change it.
#[test]
fn a_token_of_the_subscriptions_user_may_update_it() {
    let server = Server::start();
    let mut client = server.connect(user("ben", json!("of the connection")));
    let subscribe = token(json!({
        "scope": "subscribe", "connectionId": client.id(), "uid": "seat-4", "umd": 1, "channels": {},
    }));
    client
        .send(json!({"event": "hotsock.subscribe", "channel": DEN, "data": {"token": subscribe}}));
    let seat = |umd: Value| json!({"uid": "seat-4", "umd": umd});
    assert_eq!(
        client.next(),
        subscribed("seat-4", &json!(1), &[seat(json!(1))])
    );
    for (uid, umd) in [("seat-4", json!(2)), ("ben", json!(3))] {
        update(&mut client, DEN, in_any_channel(uid, umd.clone()));
        // R-UMD-16
        assert_eq!(
            client.next(),
            event("memberUpdated", &seat(umd.clone()), &[seat(umd)])
        );
    }
    // For the connection, the user of one of its subscriptions is nobody.
    update_connection(
        &mut client,
        json!({"uid": "seat-4", "umd": 4, "umdUpdate": true}),
    );
    client.expect_error("INVALID_UMD_TOKEN");
    // All subscriptions means all, whoever they belong to.
    update_connection(
        &mut client,
        json!({"uid": "ben", "umd": 5, "umdUpdate": true, "umdPropagate": true}),
    );
    let five = seat(json!(5));
    assert_eq!(
        client.drain(),
        [event("memberUpdated", &five, from_ref(&five))]
    );
}

/// R-UMD-6, R-UMD-8, R-UMD-9
#[test]
fn an_update_of_the_connection_is_for_later_subscriptions() {
    let server = Server::start();
    let mut observer = member(&server, "ana", json!(null));
    let mut client = member(&server, "ben", json!("old"));
    observer.expect("hotsock.memberAdded");

    update_connection(
        &mut client,
        json!({"uid": "ben", "umd": "new", "umdUpdate": true}),
    );
    client.expect_nothing();
    observer.expect_nothing();
    client.send(json!({"event": "hi", "channel": DEN}));
    assert_eq!(
        observer.expect("hi")["meta"],
        json!({"uid": "ben", "umd": "old"})
    );

    assert_eq!(
        client.subscribe("room")["meta"],
        json!({"uid": "ben", "umd": "new"})
    );
    // A subscribe token that has no umd inherits the connection's, one that has keeps its own (R-CLAIM-21).
    for (channel, claims, umd) in [
        ("inherits", json!({"uid": "ben"}), json!("new")),
        ("own", json!({"uid": "ben", "umd": "own"}), json!("own")),
        ("none", json!({"uid": "ben", "umd": null}), json!(null)),
    ] {
        let mut claims = claims;
        claims["scope"] = json!("subscribe");
        let data = json!({"token": token(claims)});
        client.send(json!({"event": "hotsock.subscribe", "channel": channel, "data": data}));
        assert_eq!(client.next()["meta"]["umd"], umd);
    }
}

/// R-UMD-10: every presence channel announces it once; channels in which nothing changes do not.
#[test]
fn a_propagated_update_reaches_all_subscriptions() {
    let server = Server::start();
    let channels = ["presence.a", "presence.b", "room", "presence.same"];
    let mut observer = server.connect(user("ana", json!(null)));
    let mut client = server.connect(user("ben", json!("old")));
    for client in [&mut observer, &mut client] {
        for channel in channels {
            client.subscribe(channel);
        }
    }
    update(
        &mut client,
        "presence.same",
        in_any_channel("ben", json!("new")),
    );
    client.drain();
    observer.drain();

    update_connection(
        &mut client,
        json!({"uid": "ben", "umd": "new", "umdUpdate": true, "umdPropagate": true}),
    );
    for messages in [client.drain(), observer.drain()] {
        let mut updated: Vec<_> = messages
            .iter()
            .map(|it| {
                assert_eq!(it["event"], "hotsock.memberUpdated");
                assert_eq!(it["data"]["member"], json!({"uid": "ben", "umd": "new"}));
                it["channel"].as_str().expect("a channel")
            })
            .collect();
        updated.sort_unstable();
        assert_eq!(updated, ["presence.a", "presence.b"]);
    }
    for channel in channels {
        client.send(json!({"event": "hi", "channel": channel}));
        assert_eq!(observer.expect("hi")["meta"]["umd"], "new", "{channel}");
    }
    assert_eq!(client.subscribe("later")["meta"]["umd"], "new");
}

/// R-UMD-15
#[test]
fn an_update_where_nobody_is_subscribed_leaves_nothing_behind() {
    let server = Server::start();
    let mut client = server.connect(user("ben", json!(null)));
    for channel in [DEN, "room"] {
        update(&mut client, channel, in_any_channel("ben", json!(1)));
        client.expect_error("NOT_SUBSCRIBED");
        let about = server.get(&format!("/channels/{channel}")).json();
        assert_eq!(about["subscriptionsCount"], 0, "{about}");
        assert_eq!(
            about.get("members").cloned().unwrap_or(json!([])),
            json!([])
        );
    }
    assert_eq!(server.metric("realtime_channels"), 0.0);
    // A subscription that begins later knows nothing of it, and neither does one that has ended.
    let alone = json!({"uid": "ben", "umd": null});
    assert_eq!(client.subscribe(DEN)["data"]["members"], json!([alone]));
    client.send(json!({"event": "hotsock.unsubscribe", "channel": DEN}));
    client.expect("hotsock.unsubscribed");
    update(&mut client, DEN, in_any_channel("ben", json!(1)));
    client.expect_error("NOT_SUBSCRIBED");
    assert_eq!(client.subscribe(DEN)["data"]["members"], json!([alone]));
}

/// R-CLAIM-24: a update counts as the use of a single-use token, whether or not it changed the value; a refused one does
/// not (R-CLAIM-25).
#[test]
fn a_single_use_umd_token_is_good_for_one_update() {
    let server = Server::start();
    let mut client = server.connect(user("ben", json!("old")));
    client.subscribe(DEN);
    client.subscribe("room");
    for (channel, jti) in [(Some(DEN), "a"), (Some("room"), "b"), (None, "c")] {
        let once = umd_token(json!({
            "uid": "ben", "umd": "new", "umdUpdate": true, "channels": {DEN: {"umdUpdate": true}, "room": {"umdUpdate": true}},
            "jti": jti, "singleUse": true,
        }));
        let send = |client: &mut Client, channel: Option<&str>| {
            let mut message = json!({"event": "hotsock.umdUpdate", "data": {"token": once}});
            if let Some(channel) = channel {
                message["channel"] = json!(channel);
            }
            client.send(message);
        };
        send(&mut client, Some("elsewhere"));
        client.expect_error("NOT_SUBSCRIBED");
        send(&mut client, channel);
        if channel == Some(DEN) {
            client.expect("hotsock.memberUpdated");
        }
        send(&mut client, channel);
        let error = client.expect_error("INVALID_UMD_TOKEN");
        assert_eq!(error["channel"], json!(channel));
        client.expect_nothing();
    }
}
