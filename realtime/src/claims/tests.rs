//! What claims say and what makes a token invalid (section 4), and what the tests of directives share.

use serde_json::{Value, json};

use super::pattern::Pattern;
use super::rules::{MessageRule, StorageRule};
use super::*;

mod directives;
mod properties;

/// Claims that are valid apart from what these members make of them.
fn parse(members: &Value) -> Result<Claims, ClaimsError> {
    let mut payload = json!({"exp": 1_900_000_000, "scope": "connect"});
    for (name, value) in members.as_object().expect("an object") {
        payload[name] = value.clone();
    }
    Claims::parse(&payload.to_string())
}

fn claims(members: Value) -> Claims {
    parse(&members).unwrap_or_else(|error| panic!("{members}: {error}"))
}

fn channels(channels: Value) -> Claims {
    claims(json!({"channels": channels}))
}

/// The claims of a subscribe token.
fn subscribe_token(channels: Value) -> Claims {
    claims(json!({"scope": "subscribe", "channels": channels}))
}

fn grants<'a>(connect: &'a Claims, channel: &'a str) -> Grants<'a> {
    Grants {
        connect,
        subscription: None,
        channel,
    }
}

fn both<'a>(connect: &'a Claims, subscription: &'a Claims, channel: &'a str) -> Grants<'a> {
    Grants {
        connect,
        subscription: Some(subscription),
        channel,
    }
}

/// Why claims with these members are refused.
fn refusal(members: Value) -> String {
    match parse(&members) {
        Ok(_) => panic!("{members} is accepted"),
        Err(error) => error.to_string(),
    }
}

/// R-CLAIM-1, R-CLAIM-8
#[test]
fn exp_and_scope_are_required() {
    assert_eq!(
        Claims::parse(r#"{"scope":"connect"}"#)
            .unwrap_err()
            .to_string(),
        "claim `exp` is required"
    );
    assert_eq!(
        Claims::parse(r#"{"exp":1}"#).unwrap_err().to_string(),
        "claim `scope` is required"
    );
    assert!(Claims::parse(r#"{"exp":1,"scope":""}"#).is_ok());
}

/// R-CLAIM-8, R-CLAIM-9, R-CLAIM-10, R-CLAIM-32
#[test]
fn the_scope_is_a_list_with_spaces_of_which_three_words_are_known() {
    let scope = |text: &str| {
        let scope = claims(json!({"scope": text})).scope;
        (scope.connect(), scope.subscribe(), scope.umd())
    };
    assert_eq!(scope("connect"), (true, false, false));
    assert_eq!(scope("subscribe"), (false, true, false));
    assert_eq!(scope("umd"), (false, false, true));
    assert_eq!(scope("connect subscribe"), (true, true, false));
    assert_eq!(scope("  umd  connect admin "), (true, false, true));
    for unknown in [
        "",
        "Connect",
        "connect,subscribe",
        "auth",
        "connect\tumd",
        "reconnect",
    ] {
        assert_eq!(scope(unknown), (false, false, false), "{unknown}");
    }
}

/// R-CLAIM-31, R-CLAIM-17
#[test]
fn a_claim_of_the_wrong_type_makes_the_token_invalid_and_is_named() {
    let cases = [
        (
            json!({"exp": "1900000000"}),
            "claim `exp` must be a number of Unix seconds",
        ),
        (
            json!({"exp": null}),
            "claim `exp` must be a number of Unix seconds",
        ),
        (
            json!({"nbf": true}),
            "claim `nbf` must be a number of Unix seconds",
        ),
        (
            json!({"iat": "now"}),
            "claim `iat` must be a number of Unix seconds",
        ),
        (
            json!({"scope": ["connect"]}),
            "claim `scope` must be a string",
        ),
        (json!({"uid": 7}), "claim `uid` must be a string"),
        (json!({"uid": null}), "claim `uid` must be a string"),
        (
            json!({"connectionId": {}}),
            "claim `connectionId` must be a string",
        ),
        (json!({"jti": 1}), "claim `jti` must be a string"),
        (json!({"iss": 1}), "claim `iss` must be a string"),
        (
            json!({"aud": 1}),
            "claim `aud` must be a string or an array of strings",
        ),
        (
            json!({"aud": ["a", 1]}),
            "claim `aud` must be a string or an array of strings",
        ),
        (
            json!({"keepAlive": 1}),
            "claim `keepAlive` must be true or false",
        ),
        (
            json!({"singleUse": "true"}),
            "claim `singleUse` must be true or false",
        ),
        (
            json!({"umdUpdate": null}),
            "claim `umdUpdate` must be true or false",
        ),
        (
            json!({"umdPropagate": 0}),
            "claim `umdPropagate` must be true or false",
        ),
        (
            json!({"channels": []}),
            "claim `channels` must be an object",
        ),
        (
            json!({"channels": null}),
            "claim `channels` must be an object",
        ),
        (
            json!({"channels": {"a": true}}),
            "claim `channels.a` must be an object",
        ),
        (
            json!({"channels": {"a": {"subscribe": 1}}}),
            "claim `channels.a.subscribe` must be true or false",
        ),
        (
            json!({"channels": {"a": {"getInfo": "x"}}}),
            "claim `channels.a.getInfo` must be true or false",
        ),
        (
            json!({"channels": {"a": {"omitFromSubCount": []}}}),
            "claim `channels.a.omitFromSubCount` must be true or false",
        ),
        (
            json!({"channels": {"a": {"umdUpdate": {}}}}),
            "claim `channels.a.umdUpdate` must be true or false",
        ),
        (
            json!({"channels": {"a": {"autoSubscribe": 1}}}),
            "claim `channels.a.autoSubscribe` must be true or false",
        ),
        (
            json!({"channels": {"a": {"alias": 1}}}),
            "claim `channels.a.alias` must be a string",
        ),
        (
            json!({"channels": {"a": {"historyStart": "0"}}}),
            "claim `channels.a.historyStart` must be a number of Unix seconds",
        ),
        (
            json!({"channels": {"a": {"messages": []}}}),
            "claim `channels.a.messages` must be an object",
        ),
        (
            json!({"channels": {"a": {"messages": {"*": 1}}}}),
            "claim `channels.a.messages.*` must be an object",
        ),
        (
            json!({"channels": {"a": {"messages": {"e": {"publish": 1}}}}}),
            "claim `channels.a.messages.e.publish` must be true or false",
        ),
        (
            json!({"channels": {"a": {"messages": {"e": {"react": "👍"}}}}}),
            "claim `channels.a.messages.e.react` must be true, false or an array of strings",
        ),
        (
            json!({"channels": {"a": {"messages": {"e": {"react": [1]}}}}}),
            "claim `channels.a.messages.e.react` must be true, false or an array of strings",
        ),
        (
            json!({"channels": {"a": {"messages": {"e": {"scheduleBefore": "x"}}}}}),
            "claim `channels.a.messages.e.scheduleBefore` must be a number of Unix seconds",
        ),
        (
            json!({"channels": {"a": {"storage": 1}}}),
            "claim `channels.a.storage` must be an object",
        ),
        (
            json!({"channels": {"a": {"storage": {"k": {"set": 1}}}}}),
            "claim `channels.a.storage.k.set` must be true or false",
        ),
    ];
    for (members, sentence) in cases {
        assert_eq!(refusal(members), sentence);
    }
    for payload in ["", "[]", "{", "7", "null", "{}x"] {
        assert!(Claims::parse(payload).is_err(), "{payload}");
    }
}

/// R-JSON-8, R-CLAIM-32
#[test]
fn unknown_members_and_names_of_old_versions_have_no_effect() {
    let claims = claims(json!({
        "sub": 7, "UID": "ben", "Scope": 1, "sendMessages": true, "channelRules": [],
        "channels": {"a": {"Subscribe": true, "x": 1, "messages": {"e": {"send": true}}, "storage": {"k": {"put": 1}}}},
    }));
    assert_eq!(claims.uid, None);
    assert!(!grants(&claims, "a").subscribe());
    assert_eq!(grants(&claims, "a").message("e").publish, None);
}

/// A member that occurs twice could mean one thing to the issuer and another here.
#[test]
fn a_repeated_member_makes_the_token_invalid_where_it_would_count() {
    let cases = [
        (
            r#"{"exp":1,"scope":"connect","exp":2}"#,
            "the payload names a member twice",
        ),
        (
            r#"{"exp":1,"scope":"connect","channels":{"a":{},"\u0061":{}}}"#,
            "claim `channels` names a member twice",
        ),
        (
            r#"{"exp":1,"scope":"connect","channels":{"a":{"subscribe":true,"subscribe":false}}}"#,
            "claim `channels.a` names a member twice",
        ),
    ];
    for (payload, sentence) in cases {
        assert_eq!(Claims::parse(payload).unwrap_err().to_string(), sentence);
    }
    let many: String = (0..200)
        .map(|number| format!(r#""x{number}":1,"#))
        .collect();
    assert!(Claims::parse(&format!(r#"{{{many}"exp":1,"scope":"connect"}}"#)).is_ok());
    assert!(Claims::parse(&format!(r#"{{{many}"exp":1,"scope":"connect","x77":1}}"#)).is_err());
}

/// R-CLAIM-16, R-CLAIM-17, R-LIM-22
#[test]
fn a_uid_has_at_most_128_characters_and_an_empty_one_is_none() {
    assert_eq!(
        claims(json!({"uid": "日".repeat(128)}))
            .uid
            .unwrap()
            .chars()
            .count(),
        128
    );
    assert_eq!(
        refusal(json!({"uid": "日".repeat(129)})),
        "claim `uid` must have at most 128 characters"
    );
    assert_eq!(claims(json!({"uid": ""})).uid, None);
    assert_eq!(claims(json!({})).uid, None);
    assert_eq!(claims(json!({"uid": " "})).uid.as_deref(), Some(" "));
    assert_eq!(
        claims(json!({"connectionId": "Zt4Q="}))
            .connection_id
            .as_deref(),
        Some("Zt4Q=")
    );
    // It names no connection, and is given nevertheless (R-CONN-5).
    assert_eq!(
        claims(json!({"connectionId": ""})).connection_id.as_deref(),
        Some("")
    );
}

/// R-CLAIM-18, R-CLAIM-21, R-JSON-6, R-JSON-9, R-LIM-22
#[test]
fn umd_is_any_json_of_at_most_1024_bytes_and_null_is_not_absence() {
    assert_eq!(claims(json!({})).umd, None);
    assert_eq!(claims(json!({"umd": null})).umd, Some(Json::null()));
    let umd = |text: &str| Claims::parse(&format!(r#"{{"exp":1,"scope":"connect","umd":{text}}}"#));
    assert_eq!(
        umd(r#" { "n" : 9007199254740993.0 } "#)
            .unwrap()
            .umd
            .unwrap()
            .as_str(),
        r#"{"n":9007199254740993.0}"#
    );
    // Measured without the white space.
    let longest = format!("[ \"{}\" ]", "é".repeat(510));
    assert_eq!(umd(&longest).unwrap().umd.unwrap().as_str().len(), 1024);
    let sentence = "claim `umd` must have at most 1024 bytes as compact JSON";
    assert_eq!(
        umd(&format!("\"{}\"", "x".repeat(1023)))
            .unwrap_err()
            .to_string(),
        sentence
    );
    assert!(umd(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_err());
}

/// R-CLAIM-22, R-CLAIM-23, R-CLAIM-27
#[test]
fn a_single_use_token_needs_a_jti() {
    assert_eq!(
        claims(json!({"singleUse": true, "jti": "a"}))
            .single_use
            .as_deref(),
        Some("a")
    );
    assert_eq!(claims(json!({"jti": "a"})).single_use, None);
    assert_eq!(
        claims(json!({"singleUse": false, "jti": "a"})).single_use,
        None
    );
    let sentence = "claim `jti` is required and must not be empty with `singleUse`";
    assert_eq!(refusal(json!({"singleUse": true})), sentence);
    assert_eq!(refusal(json!({"singleUse": true, "jti": ""})), sentence);
}

/// R-CLAIM-28
#[test]
fn the_heartbeat_timeout_is_a_whole_number_of_seconds_from_5_to_600() {
    let timeout = |value: Value| claims(json!({"heartbeatTimeout": value})).heartbeat_timeout;
    assert_eq!(timeout(5.into()), Some(Duration::from_secs(5)));
    assert_eq!(timeout(600.into()), Some(Duration::from_secs(600)));
    assert_eq!(timeout(json!(30.0)), Some(Duration::from_secs(30)));
    assert_eq!(claims(json!({})).heartbeat_timeout, None);
    for value in [
        json!(4),
        json!(601),
        json!(0),
        json!(-5),
        json!(5.5),
        json!("30"),
        json!(true),
        json!(null),
        json!(1e300),
    ] {
        let sentence = "claim `heartbeatTimeout` must be a whole number of seconds from 5 to 600";
        assert_eq!(refusal(json!({"heartbeatTimeout": value})), sentence);
    }
}

/// R-CLAIM-29
#[test]
fn flags_are_off_unless_they_are_true() {
    let off = claims(json!({"umdUpdate": false}));
    assert_eq!(
        (off.keep_alive, off.umd_update, off.umd_propagate),
        (false, false, false)
    );
    let on = claims(json!({"keepAlive": true, "umdUpdate": true, "umdPropagate": true}));
    assert_eq!(
        (on.keep_alive, on.umd_update, on.umd_propagate),
        (true, true, true)
    );
}

/// A process that takes over a connection makes the same claims of the payload again.
#[test]
fn the_payload_is_kept_as_it_was_signed() {
    let payload =
        r#" {"exp":1, "scope":"connect", "uid":"an\u0061", "channels":{"a*":{"subscribe":true}}} "#;
    let claims = Claims::parse(payload).unwrap();
    assert_eq!(claims.payload(), payload);
    let again = Claims::parse(claims.payload()).unwrap();
    assert_eq!(again.uid.as_deref(), Some("ana"));
    assert!(grants(&again, "ab").subscribe());
}

/// Every connection keeps the claims of its token.
#[test]
fn keys_and_rules_stay_small() {
    assert_eq!(size_of::<Pattern>(), 16);
    assert!(size_of::<Claims>() <= 160, "{}", size_of::<Claims>());
    assert!(
        size_of::<ChannelRule>() <= 80,
        "{}",
        size_of::<ChannelRule>()
    );
    assert!(
        size_of::<MessageRule>() <= 64,
        "{}",
        size_of::<MessageRule>()
    );
    assert!(
        size_of::<StorageRule>() <= 48,
        "{}",
        size_of::<StorageRule>()
    );
}
