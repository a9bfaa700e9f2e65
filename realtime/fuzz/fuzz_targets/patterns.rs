//! The patterns of a token against names: reading and matching ends in time whatever the pattern is (libFuzzer's time-out
//! is the judge of that), and means what a plain reading of the rules says.
//!
//! The input is lines: the name, then keys of `channels`, [`MOST`] of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realtime::claims::{Claims, Grants};
use realtime::names;
use serde_json::{Map, json};

/// More keys make a run slower, and find no more.
const MOST: usize = 8;

/// Each `*` stands for any characters, also none: the textbook's table.
fn wildcard(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // Whether the pattern so far covers the first so many characters.
    let mut covers = vec![false; name.len() + 1];
    covers[0] = true;
    for character in pattern.chars() {
        if character == '*' {
            let first = covers.iter().position(|&it| it).unwrap_or(covers.len());
            covers[first..].fill(true);
        } else {
            for at in (1..covers.len()).rev() {
                covers[at] = covers[at - 1] && name[at - 1] == character;
            }
            covers[0] = false;
        }
    }
    covers[name.len()]
}

/// What a regular expression without any special character means: nothing, where there is one.
fn plain(expression: &str) -> Option<&str> {
    let special = |character| r"\.+*?()|[]{}^$".contains(character);
    (!expression.contains(special)).then_some(expression)
}

fn claims(keys: &[&str], directives: &serde_json::Value) -> Option<Claims> {
    let channels: Map<_, _> = keys
        .iter()
        .map(|&key| (key.to_owned(), directives.clone()))
        .collect();
    let payload = json!({"exp": 4_000_000_000_u64, "scope": "connect", "channels": channels});
    Claims::parse(&payload.to_string()).ok()
}

fn subscribes(keys: &[&str], name: &str) -> Option<bool> {
    let claims = claims(keys, &json!({"subscribe": true}))?;
    Some(grants(&claims, name).subscribe())
}

fn grants<'a>(claims: &'a Claims, channel: &'a str) -> Grants<'a> {
    Grants {
        connect: claims,
        subscription: None,
        channel,
    }
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let name = lines.next().unwrap_or_default();
    if names::check_channel(name).is_err() {
        return;
    }
    let keys: Vec<_> = lines.take(MOST).collect();
    let mut any = Some(false);
    for key in &keys {
        let answer = subscribes(&[key], name);
        any = any.zip(answer).map(|(any, it)| any | it);
        let Some(answer) = answer else {
            continue;
        };
        match key.strip_prefix("#regex:") {
            None => assert_eq!(answer, wildcard(key, name), "{key:?} over {name:?}"),
            Some(expression) => {
                if let Some(plain) = plain(expression) {
                    assert_eq!(answer, name.contains(plain), "{key:?} over {name:?}");
                }
            }
        }
    }
    // All together grant what any of them grants; they may be too many together.
    if let (Some(any), Some(all)) = (any, subscribes(&keys, name)) {
        assert_eq!(all, any, "{keys:?} over {name:?}");
    }
    // The same keys for events and for storage.
    let keys: Map<_, _> = keys
        .iter()
        .map(|&key| (key.to_owned(), json!({"publish": true, "get": true})))
        .collect();
    if let Some(claims) = claims(&["*"], &json!({"messages": keys, "storage": keys})) {
        let _ = grants(&claims, name).message(name);
        let _ = grants(&claims, name).storage(name);
    }
});
