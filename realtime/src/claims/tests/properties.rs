//! What holds for any directives: order never matters, a false always wins, and nothing panics.

use proptest::prelude::*;

use super::*;

const KEYS: [&str; 7] = ["a", "ab", "b", "a*", "*b", "*", "#regex:^a"];

/// Directives of one event or storage key.
fn entry() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 7] = [
        "publish",
        "broadcast",
        "echo",
        "emitPubSubEvent",
        "get",
        "set",
        "observe",
    ];
    let flags = prop::collection::btree_map(prop::sample::select(&NAMES), any::<bool>(), 0..5);
    let store = prop::option::of(prop_oneof![Just(-1_i64), 1..100_i64]);
    let react = prop::option::of(prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(["x"])),
        Just(json!(["y", "x"]))
    ]);
    let before = prop::option::of(0..100_i64);
    (flags, store, react, before).prop_map(|(flags, store, react, before)| {
        let mut entry = json!(flags);
        let extras = [
            ("store", json!(store)),
            ("react", json!(react)),
            ("scheduleBefore", json!(before)),
        ];
        extras
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .for_each(|(name, value)| entry[name] = value);
        entry
    })
}

/// Directives of one channel key, as pairs that can be put in any order.
fn rules() -> impl Strategy<Value = Vec<(String, Value)>> {
    let keys = || prop::sample::select(&KEYS);
    let flags = prop::collection::btree_map(
        prop::sample::select(&["subscribe", "getInfo", "omitFromSubCount", "umdUpdate"]),
        any::<bool>(),
        0..4,
    );
    let entries = || prop::collection::btree_map(keys(), entry(), 0..4);
    let rule = (flags, entries(), entries(), prop::option::of(0..50_i64)).prop_map(
        |(flags, messages, storage, start)| {
            let mut rule = json!(flags);
            rule["messages"] = json!(messages);
            rule["storage"] = json!(storage);
            if let Some(start) = start {
                rule["historyStart"] = start.into();
            }
            rule
        },
    );
    prop::collection::btree_map(keys(), rule, 0..6).prop_map(|rules| {
        rules
            .into_iter()
            .map(|(key, rule)| (key.to_owned(), rule))
            .collect()
    })
}

/// The object with its members the other way round, and theirs.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .rev()
                .map(|(name, value)| (name.clone(), reversed(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().rev().cloned().collect()),
        other => other.clone(),
    }
}

/// Everything that can be asked of a channel.
fn answers(connect: &Claims, subscription: Option<&Claims>, channel: &str) -> String {
    let grants = Grants {
        connect,
        subscription,
        channel,
    };
    let mut answers = format!(
        "{:?} {:?} {:?} {:?} {:?}",
        grants.subscribe(),
        grants.get_info(),
        grants.omit_from_sub_count(),
        grants.history_start_ms(),
        may_update_umd(connect, channel),
    );
    for name in ["a", "ab", "b", "c"] {
        let mut message = grants.message(name);
        if let React::Only(listed) = &mut message.react {
            listed.sort_unstable();
        }
        answers += &format!("\n{message:?} {:?}", grants.storage(name));
    }
    answers
}

proptest! {
    /// R-PERM-8
    #[test]
    fn the_order_of_keys_never_matters(one in rules(), other in rules(), shuffled in any::<prop::sample::Index>()) {
        let object = |rules: &[(String, Value)]| Value::Object(rules.iter().cloned().collect());
        let mut rotated = one.clone();
        if !rotated.is_empty() {
            let middle = shuffled.index(rotated.len());
            rotated.rotate_left(middle);
        }
        let (connect, subscription) = (channels(object(&one)), subscribe_token(object(&other)));
        let turned = (channels(reversed(&object(&rotated))), subscribe_token(reversed(&object(&other))));
        for channel in ["a", "ab", "b", "c"] {
            prop_assert_eq!(answers(&connect, None, channel), answers(&turned.0, None, channel));
            let both = answers(&connect, Some(&subscription), channel);
            prop_assert_eq!(both, answers(&turned.0, Some(&turned.1), channel));
        }
    }

    /// R-STOR-14, R-STOR-25: the two short ways of asking what is observed answer as the long one.
    #[test]
    fn what_is_observed_is_the_same_however_it_is_asked(one in rules(), other in rules(), with in any::<bool>()) {
        let object = |rules: Vec<(String, Value)>| Value::Object(rules.into_iter().collect());
        let (connect, token) = (channels(object(one)), subscribe_token(object(other)));
        for channel in ["a", "ab", "b", "c"] {
            let asked = Grants { connect: &connect, subscription: with.then_some(&token), channel };
            for key in ["a", "ab", "b", "c"] {
                prop_assert_eq!(asked.observes(key), asked.storage(key).observe);
                prop_assert!(asked.may_observe() || !asked.observes(key));
            }
        }
        let nothing = claims(json!({}));
        prop_assert!(!grants(&nothing, "a").may_observe());
    }

    /// R-PERM-9, R-PERM-16
    #[test]
    fn a_false_that_matches_always_denies(mut one in rules(), mut other in rules(), in_connect in any::<bool>()) {
        let events = json!({"*": {"publish": false, "echo": false, "react": false, "emitPubSubEvent": false}});
        let storage = json!({"a*": {"get": false, "set": false, "observe": false, "emitPubSubEvent": false}});
        let denial = json!({"subscribe": false, "getInfo": false, "omitFromSubCount": false, "messages": events, "storage": storage});
        let target = if in_connect { &mut one } else { &mut other };
        target.retain(|(key, _)| key != "ab");
        target.push(("ab".to_owned(), denial));
        let object = |rules: Vec<(String, Value)>| Value::Object(rules.into_iter().collect());
        let (connect, subscription) = (channels(object(one)), subscribe_token(object(other)));
        let grants = both(&connect, &subscription, "ab");
        prop_assert!(!grants.subscribe() && !grants.get_info() && !grants.omit_from_sub_count());
        for name in ["a", "ab"] {
            let message = grants.message(name);
            prop_assert_eq!((message.publish, message.echo, message.emit_pub_sub_event), (Some(false), false, false));
            prop_assert_eq!(message.react, React::None);
            let storage = grants.storage(name);
            prop_assert!(!storage.get && !storage.set && !storage.observe && !storage.emit_pub_sub_event);
        }
    }

    /// R-PERM-10
    #[test]
    fn booleans_are_granted_exactly_by_a_true_without_a_false(rules in rules(), channel in prop::sample::select(&["a", "ab", "b", "c"])) {
        let claims = channels(Value::Object(rules.iter().cloned().collect()));
        let matching = |key: &str, name: &str| match key {
            "a*" | "#regex:^a" => name.starts_with('a'),
            "*b" => name.ends_with('b'),
            "*" => true,
            literal => literal == name,
        };
        let said: Vec<_> = rules.iter().filter(|(key, _)| matching(key, channel)).map(|(_, rule)| rule).collect();
        let granted = |directive: &str| {
            let values: Vec<_> = said.iter().filter_map(|rule| rule.get(directive)?.as_bool()).collect();
            values.contains(&true) && !values.contains(&false)
        };
        prop_assert_eq!(grants(&claims, channel).subscribe(), granted("subscribe"));
        prop_assert_eq!(grants(&claims, channel).get_info(), granted("getInfo"));
        prop_assert_eq!(may_update_umd(&claims, channel), granted("umdUpdate"));
        for event in ["a", "ab", "b"] {
            let values: Vec<_> = said
                .iter()
                .flat_map(|rule| rule["messages"].as_object().expect("an object"))
                .filter(|(key, _)| matching(key, event))
                .filter_map(|(_, entry)| entry.get("publish")?.as_bool())
                .collect();
            let expected = if values.contains(&false) { Some(false) } else { values.first().copied() };
            prop_assert_eq!(grants(&claims, channel).message(event).publish, expected);
        }
    }

    #[test]
    fn no_payload_panics(text in r#"\{"(exp|scope|uid|umd|channels|aud)":([0-9eE.+-]{1,8}|"[a-z]{0,3}"|\{"[a*#]{0,3}":[\[\]{}0-9]{0,4}\}|null)\}"#) {
        prop_assert!(Claims::parse(&text).is_err());
    }
}
