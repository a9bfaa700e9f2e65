//! Durations as Go writes them: `300ms`, `7s`, `1m30s`, `0` (D-CFG-49).

use std::time::Duration;

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration: numbers with an optional fraction, each followed by a unit (`ns`, `us`, `ms`, `s`, `m`, `h`), or `0`.
///
/// # Errors
/// A sentence that says what is wrong: no unit, an unknown unit, no number, a negative or an unimaginably long time.
pub fn parse_go(text: &str) -> Result<Duration, String> {
    let shown = || format!("`{text}` is not a duration such as `300ms`, `7s` or `1m30s`");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(format!("`{text}` is negative"));
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number);
        if number.is_empty() || number == "." || number.matches('.').count() > 1 {
            return Err(shown());
        }
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!(
                "`{text}` has no unit; write for example `{number}s`"
            ));
        }
        let scale = UNITS
            .iter()
            .find_map(|(name, scale)| (*name == unit).then_some(*scale))
            .ok_or_else(|| {
                format!("`{unit}` in `{text}` is not one of the units ns, us, ms, s, m, h")
            })?;
        nanos = scaled(number, scale)
            .and_then(|n| nanos.checked_add(n))
            .unwrap_or(u128::MAX);
        rest = tail;
    }
    if text.is_empty() {
        return Err(shown());
    }
    // Go's own limit, about 292 years.
    if nanos > i64::MAX as u128 {
        return Err(format!("`{text}` is too long"));
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// `number` × `scale`, digits beyond a nanosecond cut off; `None` above what can be counted.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u128>().ok()?
    };
    let fraction = &fraction[..fraction.len().min(15)];
    let part = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()? * scale / 10u128.pow(fraction.len() as u32)
    };
    whole.checked_mul(scale)?.checked_add(part)
}

/// The shortest of the usual forms: `168h`, `1m30s`, `300ms`, `0`.
pub(super) fn show(duration: Duration) -> String {
    let (mut out, millis) = (String::new(), duration.as_millis());
    for (unit, scale) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        let amount = match unit {
            "h" => millis / scale,
            "m" => millis % 3_600_000 / scale,
            "s" => millis % 60_000 / scale,
            _ => millis % 1_000,
        };
        if amount > 0 {
            out.push_str(&format!("{amount}{unit}"));
        }
    }
    if out.is_empty() { "0".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_cfg_49_durations_are_read_as_go_reads_them() {
        // D-CFG-49
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300),
            ("7s", 7_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1h0m1s", 3_601_000),
        ] {
            assert_eq!(parse_go(text).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
        assert_eq!(parse_go("1us1ns"), Ok(Duration::from_nanos(1_001)));
    }

    #[test]
    fn d_cfg_49_a_bare_number_and_nonsense_are_refused_with_the_reason() {
        // D-CFG-49
        assert_eq!(
            parse_go("7"),
            Err("`7` has no unit; write for example `7s`".into())
        );
        assert_eq!(
            parse_go("7 s").unwrap_err(),
            "` s` in `7 s` is not one of the units ns, us, ms, s, m, h"
        );
        for bad in [
            "",
            "s",
            ".s",
            "1..5s",
            "-1s",
            "1d",
            "1m30",
            "99999999999h",
            "9999999999999999999999999999999999999999999s",
        ] {
            assert!(parse_go(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_go(&show(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9.nuµmsh +-]{0,24}|\\PC{0,12}") {
            let _ = parse_go(&text);
        }
    }
}
