//! What the directives grant and deny, requirement by requirement (section 5).

use super::*;

/// R-CLAIM-30, R-PERM-19
#[test]
fn without_channels_there_is_no_permission_and_no_error() {
    for claims in [
        claims(json!({})),
        channels(json!({})),
        channels(json!({"b": {"subscribe": true}, "a": {}})),
    ] {
        let grants = grants(&claims, "a");
        assert!(!grants.subscribe() && !grants.get_info() && !grants.omit_from_sub_count());
        assert_eq!((grants.history_start_ms(), grants.alias()), (None, None));
        let nothing = MessageGrants {
            publish: None,
            broadcast: false,
            echo: false,
            emit_pub_sub_event: false,
            store: 0,
            schedule_before_ms: 0,
            react: React::None,
        };
        assert_eq!(grants.message("e"), nothing);
        let storage = grants.storage("k");
        assert!(!storage.get && !storage.set && !storage.observe && !storage.emit_pub_sub_event);
        assert!(!may_update_umd(&claims, "a"));
    }
}

/// R-PERM-8, R-PERM-9, R-PERM-10, R-PERM-11
#[test]
fn an_explicit_false_wins_over_every_true_in_either_order() {
    for text in [
        r#"{"lab.*":{"subscribe":true},"lab.core":{"subscribe":false}}"#,
        r#"{"lab.core":{"subscribe":false},"lab.*":{"subscribe":true}}"#,
    ] {
        let claims = Claims::parse(&format!(
            r#"{{"exp":1,"scope":"connect","channels":{text}}}"#
        ))
        .unwrap();
        assert!(grants(&claims, "lab.9").subscribe());
        assert!(!grants(&claims, "lab.core").subscribe());
        assert!(!grants(&claims, "other").subscribe());
    }
    let claims = channels(json!({
        "#regex:^a": {"getInfo": true, "omitFromSubCount": true, "umdUpdate": true},
        "a*": {"getInfo": false, "umdUpdate": false},
        "ab": {"subscribe": true, "getInfo": true},
    }));
    assert!(grants(&claims, "ab").subscribe() && !grants(&claims, "ab").get_info());
    assert!(grants(&claims, "ab").omit_from_sub_count() && !may_update_umd(&claims, "ab"));
}

/// R-PERM-12
#[test]
fn every_event_key_in_every_channel_key_that_match_contribute() {
    let claims = channels(json!({
        "room.*": {"messages": {"*": {"publish": true}, "typing": {"echo": true}, "admin.*": {"publish": false}}},
        "room.8": {"messages": {"#regex:^chat$": {"emitPubSubEvent": true, "echo": false}, "*": {"broadcast": true}}},
        "room.9": {"messages": {"*": {"publish": false}}},
    }));
    let of = |channel, event| {
        let grants = grants(&claims, channel).message(event);
        (
            grants.publish,
            grants.broadcast,
            grants.echo,
            grants.emit_pub_sub_event,
        )
    };
    assert_eq!(of("room.8", "chat"), (Some(true), true, false, true));
    assert_eq!(of("room.8", "typing"), (Some(true), true, true, false));
    assert_eq!(
        of("room.8", "admin.kick"),
        (Some(false), true, false, false)
    );
    assert_eq!(of("room.7", "typing"), (Some(true), false, true, false));
    assert_eq!(of("room.9", "chat"), (Some(false), false, false, false));
    assert_eq!(of("hall", "chat"), (None, false, false, false));
}

/// R-PERM-12, R-STOR-6, R-STOR-27
#[test]
fn storage_keys_nest_in_the_same_way_and_no_grant_implies_another() {
    let claims = channels(json!({
        "game.*": {"storage": {"*": {"observe": true}, "#regex:^seat\\.[0-9]$": {"set": true}, "rules": {"get": true}}},
        "game.3": {"storage": {"seat.*": {"emitPubSubEvent": true}, "secret": {"observe": false}}},
    }));
    let of = |key| {
        let grants = grants(&claims, "game.3").storage(key);
        (
            grants.get,
            grants.set,
            grants.observe,
            grants.emit_pub_sub_event,
        )
    };
    assert_eq!(of("rules"), (true, false, true, false));
    assert_eq!(of("seat.1"), (false, true, true, true));
    assert_eq!(of("seat.x"), (false, false, true, true));
    assert_eq!(of("secret"), (false, false, false, false));
}

/// R-PERM-13, R-REACT-6, R-REACT-7
#[test]
fn reactions_are_denied_by_any_false_then_all_allowed_by_any_true_then_those_of_all_lists() {
    let react = |events: Value| {
        let claims = channels(json!({"a": {"messages": events}}));
        let react = grants(&claims, "a").message("chat").react;
        ["👍", "❤️", "x"].map(|reaction| react.allows(reaction))
    };
    assert_eq!(
        react(json!({"*": {"react": ["👍"]}, "chat": {"react": ["❤️"]}})),
        [true, true, false]
    );
    assert_eq!(
        react(json!({"*": {"react": ["👍"]}, "chat": {"react": true}})),
        [true, true, true]
    );
    assert_eq!(
        react(json!({"*": {"react": false}, "chat": {"react": true}, "c*": {"react": ["x"]}})),
        [false; 3]
    );
    assert_eq!(react(json!({"*": {"react": []}})), [false; 3]);
    assert_eq!(
        react(json!({"*": {"react": []}, "chat": {"react": ["x"]}})),
        [false, false, true]
    );
    assert_eq!(react(json!({"*": {"publish": true}})), [false; 3]);
    // No normalisation: the heart with and without its variation selector are two values.
    assert!(!React::Only(vec!["❤️"]).allows("❤"));
}

/// R-PERM-14, R-PERM-25, R-CLAIM-33
#[test]
fn the_earliest_history_start_and_the_latest_schedule_before_apply() {
    let claims = channels(json!({
        "a*": {"historyStart": 2000, "messages": {"*": {"scheduleBefore": 10}}, "storage": {"*": {"scheduleBefore": 30}}},
        "a": {"historyStart": 1000.0004, "messages": {"e": {"scheduleBefore": 20.0009}, "f": {"scheduleBefore": -5}}},
        "ab": {"historyStart": 0},
        "c": {},
        "d": {"historyStart": -3},
        "e": {"historyStart": 1e300},
    }));
    // To the first whole millisecond that is not before it, and the last that is not after it.
    assert_eq!(grants(&claims, "a").history_start_ms(), Some(1_000_001));
    assert_eq!(grants(&claims, "ab").history_start_ms(), Some(0));
    assert_eq!(grants(&claims, "abc").history_start_ms(), Some(2_000_000));
    assert_eq!(grants(&claims, "c").history_start_ms(), None);
    assert_eq!(grants(&claims, "d").history_start_ms(), Some(-3000));
    // What never begins makes nothing visible.
    assert_eq!(grants(&claims, "e").history_start_ms(), None);
    assert_eq!(grants(&claims, "a").message("e").schedule_before_ms, 20_000);
    assert_eq!(grants(&claims, "a").message("f").schedule_before_ms, 10_000);
    assert_eq!(grants(&claims, "a").storage("k").schedule_before_ms, 30_000);
    // R-PERM-29
    assert_eq!(grants(&claims, "c").message("e").schedule_before_ms, 0);
}

/// R-PERM-15
#[test]
fn the_store_of_the_most_literal_key_applies_channel_keys_first() {
    let store = |channels_: Value| {
        let claims = channels(channels_);
        (
            grants(&claims, "lab.core").message("chat").store,
            grants(&claims, "lab.core").storage("chat").store,
        )
    };
    let rules = |keys: Value| {
        let (messages, storage) = (keys.clone(), keys);
        json!({"messages": messages, "storage": storage})
    };
    let one = |key: &str, store: i64| rules(json!({key: {"store": store}}));

    assert_eq!(
        store(json!({"lab.core": one("chat", 1), "lab.*": one("chat", 2)})),
        (1, 1)
    );
    assert_eq!(
        store(json!({"lab.*": one("chat", 2), "lab.core": one("chat", 1)})),
        (1, 1)
    );
    // The channel key decides before the event key does.
    assert_eq!(
        store(json!({"lab.*": one("chat", 2), "lab.core": one("*", 1)})),
        (1, 1)
    );
    assert_eq!(
        store(json!({"lab.c*": one("*", 3), "lab.*": one("chat", 2), "*": one("chat", 1)})),
        (3, 3)
    );
    assert_eq!(
        store(json!({"#regex:^lab.core$": one("chat", 9), "*": one("*", 1)})),
        (1, 1)
    );
    assert_eq!(
        store(
            json!({"lab.core": rules(json!({"c*": {"store": 5}, "chat": {"store": 6}, "*": {"store": 7}}))})
        ),
        (6, 6)
    );
    // Equal in length: the one that sorts first.
    assert_eq!(
        store(json!({"lab.*": one("ch*", 1), "*.core": one("ch*", 2), "la*re": one("*", 3)})),
        (2, 2)
    );
    assert_eq!(
        store(json!({"lab.*": one("ch*", 1), "*.cor*": one("ch*", 2)})),
        (2, 2)
    );
    assert_eq!(
        store(json!({"#regex:b": one("*", 1), "#regex:a": one("*", 2)})),
        (2, 2)
    );
    // A key without a value does not take part, and a shorter time is no lesser value.
    assert_eq!(
        store(json!({"lab.core": rules(json!({"chat": {}})), "*": one("*", -1)})),
        (-1, -1)
    );
    assert_eq!(
        store(json!({"lab.core": {"messages": {"chat": {"store": 0}}}, "*": one("*", 60)})),
        (0, 60)
    );
}

/// R-PERM-26, R-PERM-27, R-PERM-28, R-LIM-15
#[test]
fn store_is_forever_or_up_to_100_years_and_0_for_messages_only() {
    let message =
        |store: Value| parse(&json!({"channels": {"a": {"messages": {"e": {"store": store}}}}}));
    let storage =
        |store: Value| parse(&json!({"channels": {"a": {"storage": {"k": {"store": store}}}}}));
    for seconds in [-1, 0, 1, 3_155_695_200] {
        assert_eq!(
            grants(&message(seconds.into()).unwrap(), "a")
                .message("e")
                .store,
            seconds
        );
        assert_eq!(storage(seconds.into()).is_ok(), seconds != 0);
    }
    for value in [
        json!(-2),
        json!(3_155_695_201_i64),
        json!(1.5),
        json!("60"),
        json!(null),
        json!(true),
        json!(1e300),
    ] {
        let sentence = "claim `channels.a.messages.e.store` must be -1, 0 or a whole number of seconds, at most 3155695200";
        assert_eq!(message(value.clone()).unwrap_err().to_string(), sentence);
        assert!(storage(value).is_err());
    }
    let sentence = "claim `channels.a.storage.k.store` must be -1 or a whole number of seconds from 1, at most 3155695200";
    assert_eq!(storage(0.into()).unwrap_err().to_string(), sentence);
    let claims = channels(
        json!({"a": {"storage": {"k": {"set": true}}, "messages": {"e": {"publish": true}}}}),
    );
    assert_eq!(grants(&claims, "a").storage("k").store, -1);
    assert_eq!(grants(&claims, "a").message("e").store, 0);
}

/// R-PERM-16, R-PERM-17
#[test]
fn connect_and_subscribe_token_are_taken_together_and_false_from_either_wins() {
    let connect = channels(json!({
        "a": {"getInfo": false, "messages": {"e": {"publish": true, "react": ["x"], "scheduleBefore": 5}}, "historyStart": 7},
    }));
    let token = subscribe_token(json!({
        "a": {
            "subscribe": true, "getInfo": true, "historyStart": 9, "omitFromSubCount": true,
            "messages": {"e": {"echo": true, "react": ["y"], "scheduleBefore": 8}, "f": {"publish": true}, "*": {"publish": false}},
            "storage": {"k": {"get": true}},
        },
        "b": {"subscribe": true, "messages": {"*": {"publish": true}}},
    }));
    let both = both(&connect, &token, "a");
    assert!(
        both.subscribe() && !both.get_info() && both.omit_from_sub_count() && both.storage("k").get
    );
    assert_eq!(both.history_start_ms(), Some(7000));
    let message = both.message("e");
    assert_eq!(
        (message.publish, message.echo, message.schedule_before_ms),
        (Some(false), true, 8000)
    );
    assert_eq!(message.react, React::Only(vec!["x", "y"]));
    // R-PERM-18: without the subscription, its token is not asked.
    assert!(!grants(&connect, "a").subscribe());
    assert_eq!(grants(&connect, "a").message("e").publish, Some(true));
    assert!(!grants(&connect, "b").subscribe());
}

/// R-PERM-16
#[test]
fn for_store_and_alias_the_subscribe_token_wins() {
    let connect = channels(json!({
        "a": {"alias": "mine", "messages": {"e": {"store": 10}, "f": {"store": 11}}, "storage": {"k": {"store": 12}}},
        "b": {"alias": "other"},
    }));
    let token = subscribe_token(json!({
        "a": {"alias": "yours"},
        "*": {"messages": {"*": {"store": 20}, "f": {}}, "storage": {"#regex:k": {"store": 22}}},
    }));
    let both_a = both(&connect, &token, "a");
    assert_eq!(
        (
            both_a.message("e").store,
            both_a.storage("k").store,
            both_a.storage("x").store
        ),
        (20, 22, -1)
    );
    assert_eq!(both_a.alias(), Some("yours"));
    // R-SUB-24: otherwise the connect token's.
    assert_eq!(both(&connect, &token, "b").alias(), Some("other"));
    assert_eq!(grants(&connect, "a").alias(), Some("mine"));
}

/// R-PERM-20, R-PUB-3, R-PUB-5
#[test]
fn broadcast_in_a_subscribe_token_neither_grants_nor_denies() {
    let connect = channels(json!({"a": {"messages": {"yes": {"broadcast": true}}}}));
    let token = subscribe_token(
        json!({"a": {"messages": {"*": {"broadcast": true}, "yes": {"broadcast": false}}}}),
    );
    assert!(both(&connect, &token, "a").message("yes").broadcast);
    assert!(!both(&connect, &token, "a").message("no").broadcast);
}

/// R-PERM-21
#[test]
fn alias_and_auto_subscribe_are_for_literal_keys_only() {
    for key in ["a*", "*", "#regex:^a$"] {
        for (directive, value) in [
            ("alias", json!("me")),
            ("autoSubscribe", json!(true)),
            ("autoSubscribe", json!(false)),
        ] {
            let sentence = format!(
                "claim `channels.{key}.{directive}` is not allowed on a wildcard or regular expression"
            );
            assert_eq!(
                refusal(json!({"channels": {key: {directive: value}}})),
                sentence
            );
        }
    }
}

/// R-PERM-22, R-PERM-24, R-SUB-28
#[test]
fn auto_subscribe_counts_as_a_grant_and_only_with_the_connect_scope() {
    let rules = json!({
        "b": {"autoSubscribe": true},
        "a": {"autoSubscribe": true, "subscribe": false},
        "c": {"autoSubscribe": false},
        "d": {"subscribe": true},
    });
    let connect = channels(rules.clone());
    // Denied ones are among them: the denial is reported, not passed over.
    assert_eq!(connect.auto_subscribe().collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(
        ["a", "b", "c", "d"].map(|channel| grants(&connect, channel).subscribe()),
        [false, true, false, true]
    );

    let token = subscribe_token(rules);
    assert_eq!(token.auto_subscribe().count(), 0);
    let nothing = channels(json!({}));
    assert!(!both(&nothing, &token, "b").subscribe());
}

/// R-PERM-23
#[test]
fn an_alias_is_a_channel_name_unlike_all_others_of_the_token() {
    for alias in ["me", "Me", "a/b", "日本"] {
        assert!(
            parse(&json!({"channels": {"a": {"alias": alias}, "b": {"alias": "you"}}})).is_ok(),
            "{alias}"
        );
    }
    let refusals = [
        ("", "is no alias: a channel name must not be blank"),
        (
            "a b",
            "is no alias: a channel name must not contain white space",
        ),
        ("a*", "is no alias: a channel name must not contain `*`"),
        ("b", "equals another alias or a channel key of the token"),
        ("a", "equals another alias or a channel key of the token"),
    ];
    for (alias, problem) in refusals {
        let sentence = format!("claim `channels.a.alias` {problem}");
        assert_eq!(
            refusal(json!({"channels": {"a": {"alias": alias}, "b": {}}})),
            sentence
        );
    }
    let twice = json!({"channels": {"a": {"alias": "me"}, "b": {"alias": "me"}}});
    assert_eq!(
        refusal(twice),
        "claim `channels.b.alias` equals another alias or a channel key of the token"
    );
    // A pattern that merely covers it is another name.
    assert!(parse(&json!({"channels": {"a": {"alias": "me"}, "m*": {}}})).is_ok());
}

/// R-SUB-20, R-SUB-21
#[test]
fn an_alias_leads_to_its_channel_and_only_literal_keys_name_channels() {
    let claims = channels(
        json!({"member.9": {"alias": "me"}, "inbox": {"alias": "in"}, "m*": {}, "#regex:in": {}}),
    );
    assert_eq!(claims.channel_of_alias("me"), Some("member.9"));
    assert_eq!(claims.channel_of_alias("in"), Some("inbox"));
    assert_eq!(claims.channel_of_alias("member.9"), None);
    assert!(
        claims.names_channel("member.9")
            && !claims.names_channel("me")
            && !claims.names_channel("m*")
    );
}

/// R-PERM-31
#[test]
fn a_wildcard_grant_reaches_a_channel_that_another_key_closes() {
    let claims = channels(
        json!({"lab.core": {"subscribe": false}, "lab.*": {"messages": {"*": {"publish": true}}}}),
    );
    assert!(!grants(&claims, "lab.core").subscribe());
    assert_eq!(grants(&claims, "lab.core").message("e").publish, Some(true));
}

/// R-UMD-2, R-UMD-7
#[test]
fn a_umd_token_updates_the_channels_that_its_directives_name() {
    let token = claims(json!({
        "scope": "umd", "umdUpdate": true, "channels": {"presence.*": {"umdUpdate": true}, "presence.hall": {"umdUpdate": false}},
    }));
    assert!(may_update_umd(&token, "presence.den"));
    assert!(!may_update_umd(&token, "presence.hall"));
    assert!(!may_update_umd(&token, "room"));
}

/// R-PERM-5
#[test]
fn an_invalid_regular_expression_on_any_level_makes_the_token_invalid() {
    let bad = "#regex:(";
    for (members, place) in [
        (json!({"channels": {bad: {}}}), "channels.#regex:("),
        (
            json!({"channels": {"a": {"messages": {bad: {}}}}}),
            "channels.a.messages.#regex:(",
        ),
        (
            json!({"channels": {"a": {"storage": {bad: {}}}}}),
            "channels.a.storage.#regex:(",
        ),
    ] {
        let sentence = refusal(members);
        let beginning = format!("claim `{place}` is not a valid regular expression: ");
        assert!(sentence.starts_with(&beginning), "{sentence}");
    }
}

/// R-PERM-7
#[test]
fn the_number_of_keys_and_patterns_of_a_token_is_bounded() {
    let numbered = |prefix: &str, count: usize| {
        Value::Object(
            (0..count)
                .map(|number| (format!("{prefix}{number}"), json!({})))
                .collect(),
        )
    };
    assert!(parse(&json!({"channels": numbered("a", MAX_KEYS)})).is_ok());
    assert_eq!(
        refusal(json!({"channels": numbered("a", MAX_KEYS + 1)})),
        "claim `channels` has more than 1024 keys in all"
    );
    assert!(parse(&json!({"channels": numbered("*", MAX_PATTERNS)})).is_ok());
    // On all levels together.
    let nested = json!({"a": {"messages": numbered("*", 200), "storage": numbered("*", 57)}});
    assert_eq!(
        refusal(json!({"channels": nested})),
        "claim `channels` has more than 256 patterns in all"
    );
    assert!(parse(&json!({"channels": numbered("#regex:", 32)})).is_ok());
    assert!(
        refusal(json!({"channels": numbered("#regex:", 33)}))
            .ends_with("is one regular expression too many")
    );
}
