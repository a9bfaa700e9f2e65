//! Times in which deployments are forbidden (D-CFG-26, D-CFG-111 to D-CFG-114).

use super::{
    field::{Field, Section},
    model::BlackoutWindow,
    pattern,
};
use jiff::Timestamp;

/// The first window that forbids a deployment now, with the reason, as a sentence for the operator.
///
/// A window is active strictly between its ends, and also when it is broken: an end that can't be read, or a start
/// after the end (D-CFG-111).
pub fn active(windows: &[BlackoutWindow], now: Timestamp) -> Option<String> {
    windows.iter().find_map(|window| {
        let shown = format!(
            "blackout window {} to {}",
            window.start_time, window.end_time
        );
        match (time(&window.start_time), time(&window.end_time)) {
            (Some(start), Some(end)) if start > end => {
                Some(format!("{shown} blocks because it ends before it starts"))
            }
            (Some(start), Some(end)) if start < now && now < end => {
                Some(format!("{shown} is active"))
            }
            (Some(_), Some(_)) => None,
            _ => Some(format!("{shown} blocks because its times are not RFC 3339")),
        }
    })
}

fn time(text: &str) -> Option<Timestamp> {
    if pattern::RFC_3339.matches(text) {
        text.parse().ok()
    } else {
        None
    }
}

/// `blackout_windows`; broken ones are noticed here, at pack (D-CFG-112).
pub(super) fn windows(field: &Field) -> Vec<BlackoutWindow> {
    field
        .list()
        .iter()
        .filter_map(Field::section)
        .map(window)
        .collect()
}

fn window(window: Section) -> BlackoutWindow {
    let recurring = ["cron", "duration", "timezone"].map(|key| window.get(key));
    if recurring.iter().any(Option::is_some) {
        recurs(&window, recurring);
        window.done();
        return BlackoutWindow {
            start_time: String::new(),
            end_time: String::new(),
        };
    }
    let end_of = |key| {
        let field = window.require(key)?;
        let text = field.matching(&pattern::RFC_3339)?;
        let time = time(&text);
        if time.is_none() {
            field.error(format!("`{text}` is not a day and time of the calendar"));
        }
        Some((text, time?))
    };
    let (start, end) = (end_of("start_time"), end_of("end_time"));
    if let (Some((_, start)), Some((_, end))) = (&start, &end)
        && start >= end
    {
        window.field.error("the window ends before it starts");
    }
    window.done();
    let text = |end: Option<(String, Timestamp)>| end.map(|(text, _)| text).unwrap_or_default();
    BlackoutWindow {
        start_time: text(start),
        end_time: text(end),
    }
}

/// D-CFG-114: `cron` with `duration` and `timezone`.
fn recurs(window: &Section, [cron, duration, timezone]: [Option<Field>; 3]) {
    for key in ["start_time", "end_time"] {
        if let Some(field) = window.get(key) {
            field.error("excludes `cron`; a window recurs or happens once");
        }
    }
    for (key, field) in [
        ("cron", &cron),
        ("duration", &duration),
        ("timezone", &timezone),
    ] {
        if field.is_none() {
            window.missing(key, "is required for a window that recurs");
        }
    }
    duration.iter().for_each(|f| _ = f.some_time());
    timezone
        .iter()
        .for_each(|f| _ = f.matching(&pattern::TIME_ZONE));
    if let Some(field) = cron
        && field.matching(&pattern::CRON).is_some()
    {
        field.unavailable("use windows with `start_time` and `end_time`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: &str, end: &str) -> BlackoutWindow {
        BlackoutWindow {
            start_time: start.into(),
            end_time: end.into(),
        }
    }

    #[test]
    fn d_cfg_111_a_window_is_active_strictly_between_its_ends() {
        let windows = [window("2026-12-24T18:00:00+01:00", "2026-12-27T00:00:00Z")];
        let at = |time: &str| active(&windows, time.parse().unwrap()); // D-CFG-111
        assert_eq!(at("2026-12-24T17:00:00Z"), None);
        assert_eq!(
            at("2026-12-24T17:00:01Z").as_deref(),
            Some("blackout window 2026-12-24T18:00:00+01:00 to 2026-12-27T00:00:00Z is active")
        );
        assert!(at("2026-12-26T23:59:59Z").is_some());
        assert_eq!(at("2026-12-27T00:00:00Z"), None);
        assert_eq!(active(&[], Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn d_cfg_111_a_broken_window_blocks_at_any_time() {
        // D-CFG-111
        for broken in [
            window("2026-12-24", "2026-12-27T00:00:00Z"),
            window("2026-12-24T18:00:00Z", "soon"),
            window("", ""),
            window("2026-13-24T18:00:00Z", "2026-12-27T00:00:00Z"),
            window("2026-12-27T00:00:00Z", "2026-12-24T18:00:00Z"),
        ] {
            for now in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                assert!(
                    active(std::slice::from_ref(&broken), now).is_some(),
                    "{broken:?}"
                );
            }
        }
    }
}
