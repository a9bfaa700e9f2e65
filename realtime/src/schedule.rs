//! When something is to be done later: `at(…)` and a time zone to a moment (section 16 of the protocol). Pure; the rules
//! of all zones are in this program, so that reading them never waits for a disk.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;
use ulid::Ulid;

/// The zones of the IANA database, as they were when this program was built.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Longer than any zone's name. What is longer is not even looked up.
const ZONE_BYTES: usize = 64;

/// Why there is no moment at which to do it (R-SCHED-2, R-SCHED-5). Never repeats what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadSchedule {
    /// Not of the one form that there is.
    #[error(
        "scheduleExpression must be at(yyyy-mm-ddThh:mm:ss); rate(…) and cron(…) are not supported"
    )]
    Form,
    /// A 30th of February, a 25th hour, or a moment beyond the years that can be told.
    #[error("scheduleExpression names a date or time that does not exist")]
    NoSuchTime,
    /// No zone has that name.
    #[error("scheduleExpressionTimezone is not the name of an IANA time zone such as Europe/Oslo")]
    NoSuchZone,
    /// It has passed.
    #[error("scheduleExpression names a time in the past")]
    Past,
}

/// The moment that an expression names, in a zone or else in UTC (R-SCHED-1, R-SCHED-3). A local time that a clock change
/// skips is moved on by the gap; of a repeated one the first occurrence counts (R-SCHED-6).
///
/// # Errors
/// There is none, or it is before `now`.
pub fn moment(
    now: Timestamp,
    expression: &str,
    zone: Option<&str>,
) -> Result<Timestamp, BadSchedule> {
    let local = local_time(expression)?;
    let zone = match zone {
        None => TimeZone::UTC,
        Some(name) => find_zone(name)?,
    };
    let at = zone
        .to_ambiguous_timestamp(local)
        .compatible()
        .map_err(|_| BadSchedule::NoSuchTime)?;
    match at < now {
        true => Err(BadSchedule::Past),
        false => Ok(at),
    }
}

/// How a schedule is called outside: in the shape of the cloud's own schedules, so that whoever takes such names apart goes
/// on working (R-SCHED-12). Only the last part means anything here; the region is the server's own.
#[must_use]
pub fn arn(region: &str, id: Ulid) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let region: String = region
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    format!("arn:aws:scheduler:{region}:{ACCOUNT}:schedule/{GROUP}/{id}")
}

/// As long as the cloud's account numbers are, and nobody's.
const ACCOUNT: &str = "000000000000";

/// What all schedules here belong to.
const GROUP: &str = "realtime";

fn find_zone(name: &str) -> Result<TimeZone, BadSchedule> {
    if name.is_empty() || name.len() > ZONE_BYTES {
        return Err(BadSchedule::NoSuchZone);
    }
    let zone = ZONES.get(name).map_err(|_| BadSchedule::NoSuchZone)?;
    // There is an entry for not knowing the zone.
    match zone.is_unknown() {
        true => Err(BadSchedule::NoSuchZone),
        false => Ok(zone),
    }
}

/// Reads `at(yyyy-mm-ddThh:mm:ss)`, digit for digit.
fn local_time(expression: &str) -> Result<DateTime, BadSchedule> {
    let text = expression
        .strip_prefix("at(")
        .and_then(|rest| rest.strip_suffix(')'));
    let text: &[u8; 19] = text
        .and_then(|text| text.as_bytes().try_into().ok())
        .ok_or(BadSchedule::Form)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, wanted)| text[at] != wanted) {
        return Err(BadSchedule::Form);
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i16, |sum, &digit| {
            let digit = char::from(digit).to_digit(10).ok_or(BadSchedule::Form)?;
            Ok(sum * 10 + digit as i16)
        })
    };
    // Two digits fit into any integer.
    let short = |at: usize| number(&text[at..at + 2]).map(|number| number as i8);
    let (year, month, day) = (number(&text[..4])?, short(5)?, short(8)?);
    let (hour, minute, second) = (short(11)?, short(14)?, short(17)?);
    DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| BadSchedule::NoSuchTime)
}

#[cfg(test)]
mod tests {
    use jiff::civil;
    use jiff::tz::Offset;
    use proptest::prelude::*;

    use super::*;

    const EARLY: Timestamp = Timestamp::UNIX_EPOCH;

    fn at(expression: &str, zone: Option<&str>) -> Result<String, BadSchedule> {
        moment(EARLY, expression, zone).map(|at| at.to_string())
    }

    fn is(moment: &str) -> Result<String, BadSchedule> {
        Ok(moment.to_owned())
    }

    /// R-SCHED-1, R-SCHED-3
    #[test]
    fn a_time_is_utc_unless_a_zone_is_named() {
        let expression = "at(2027-05-04T09:30:00)";
        assert_eq!(at(expression, None), is("2027-05-04T09:30:00Z"));
        for (zone, moment) in [
            ("UTC", "2027-05-04T09:30:00Z"),
            ("Etc/UTC", "2027-05-04T09:30:00Z"),
            ("Europe/Oslo", "2027-05-04T07:30:00Z"),
            ("America/New_York", "2027-05-04T13:30:00Z"),
            ("Asia/Kathmandu", "2027-05-04T03:45:00Z"),
        ] {
            assert_eq!(at(expression, Some(zone)), is(moment), "{zone}");
        }
        // The same wall clock, in winter.
        assert_eq!(
            at("at(2027-01-04T09:30:00)", Some("Europe/Oslo")),
            is("2027-01-04T08:30:00Z")
        );
    }

    /// R-SCHED-2, R-SCHED-5
    #[test]
    fn everything_of_another_form_is_refused() {
        for expression in [
            "",
            "at()",
            "at(2027-05-04T09:30)",
            "at(2027-05-04 09:30:00)",
            "at(2027-05-04t09:30:00)",
            "at(2027-05-04T09:30:00Z)",
            "at(2027-05-04T09:30:00.5)",
            "at(2027-05-04T09:30:00",
            "AT(2027-05-04T09:30:00)",
            " at(2027-05-04T09:30:00)",
            "at( 2027-05-04T09:30:00)",
            "at(2027/05/04T09:30:00)",
            "at(+027-05-04T09:30:00)",
            "at(2027-05-04T09:30:-1)",
            "at(２027-05-04T09:30:00)",
            "2027-05-04T09:30:00",
            "rate(5 minutes)",
            "cron(0 9 * * ? *)",
        ] {
            assert_eq!(at(expression, None), Err(BadSchedule::Form), "{expression}");
        }
    }

    /// R-SCHED-5
    #[test]
    fn a_date_or_time_that_does_not_exist_is_refused() {
        for expression in [
            "at(2027-02-29T09:30:00)",
            "at(2027-13-04T09:30:00)",
            "at(2027-00-04T09:30:00)",
            "at(2027-05-00T09:30:00)",
            "at(2027-04-31T09:30:00)",
            "at(2027-05-04T24:00:00)",
            "at(2027-05-04T09:60:00)",
            "at(2027-05-04T09:30:60)",
            "at(9999-12-31T23:59:59)",
        ] {
            let refused = at(expression, None);
            assert_eq!(refused, Err(BadSchedule::NoSuchTime), "{expression}");
        }
        assert!(at("at(2028-02-29T09:30:00)", None).is_ok());
    }

    /// R-SCHED-5
    #[test]
    fn what_is_no_zone_is_refused() {
        let long = "x".repeat(100_000);
        for zone in [
            "",
            "Europe/Atlantis",
            "+02:00",
            "UTC+2",
            "Etc/Unknown",
            "../x",
            &long,
        ] {
            let refused = at("at(2027-05-04T09:30:00)", Some(zone));
            assert_eq!(refused, Err(BadSchedule::NoSuchZone), "{zone:.20}");
        }
    }

    /// R-SCHED-5
    #[test]
    fn the_past_is_refused_and_this_very_moment_is_not() {
        let now: Timestamp = "2027-05-04T09:30:00Z".parse().expect("a time");
        let expression = "at(2027-05-04T09:30:00)";
        assert_eq!(moment(now, expression, None), Ok(now));
        let later = now + jiff::SignedDuration::from_nanos(1);
        assert_eq!(moment(later, expression, None), Err(BadSchedule::Past));
        // What counts is the moment, not the wall clock.
        let oslo = moment(now, expression, Some("Europe/Oslo"));
        assert_eq!(oslo, Err(BadSchedule::Past));
        let early: Timestamp = "2027-05-04T07:29:59Z".parse().expect("a time");
        assert!(moment(early, expression, Some("Europe/Oslo")).is_ok());
    }

    /// R-SCHED-6
    #[test]
    fn a_skipped_time_is_moved_on_and_a_repeated_one_is_its_first() {
        // Clocks go from 02:00 to 03:00 on 2027-03-28, and from 03:00 back to 02:00 on 2027-10-31.
        for (local, moment) in [
            ("2027-03-28T01:59:59", "2027-03-28T00:59:59Z"),
            ("2027-03-28T02:30:00", "2027-03-28T01:30:00Z"),
            ("2027-03-28T03:30:00", "2027-03-28T01:30:00Z"),
            ("2027-10-31T02:30:00", "2027-10-31T00:30:00Z"),
            ("2027-10-31T03:00:00", "2027-10-31T02:00:00Z"),
        ] {
            let read = at(&format!("at({local})"), Some("Europe/Oslo"));
            assert_eq!(read, is(moment), "{local}");
        }
        // Half an hour, and a whole day.
        assert_eq!(
            at("at(2027-10-03T02:15:00)", Some("Australia/Lord_Howe")),
            is("2027-10-02T15:45:00Z")
        );
        assert_eq!(
            at("at(2011-12-30T12:00:00)", Some("Pacific/Apia")),
            is("2011-12-30T22:00:00Z")
        );
    }

    /// R-SCHED-12
    #[test]
    fn a_schedule_is_called_like_one_of_the_cloud() {
        let id = Ulid(1);
        assert_eq!(
            arn("eu-north-1", id),
            "arn:aws:scheduler:eu-north-1:000000000000:schedule/realtime/00000000000000000000000001"
        );
        // Whatever the region is called, there are as many parts.
        for region in ["local", "", "my region: a/b", "Köln"] {
            let arn = arn(region, id);
            assert_eq!(arn.split(':').count(), 6, "{arn}");
            assert_eq!(arn.split('/').count(), 3, "{arn}");
            assert!(arn.is_ascii() && !arn.contains(' '), "{arn}");
        }
    }

    fn local() -> impl Strategy<Value = DateTime> {
        (
            1971..9999_i16,
            1..=12_i8,
            1..=28_i8,
            0..24_i8,
            0..60_i8,
            0..60_i8,
        )
            .prop_map(|(year, month, day, hour, minute, second)| {
                civil::date(year, month, day).at(hour, minute, second, 0)
            })
    }

    proptest! {
        /// R-SCHED-1, R-SCHED-3: any date, written as a person would, is that date in UTC.
        #[test]
        fn what_is_written_is_what_is_read(local in local()) {
            let expected = Offset::UTC.to_timestamp(local).expect("within the calendar");
            prop_assert_eq!(moment(EARLY, &format!("at({local})"), None), Ok(expected));
        }

        /// R-SCHED-3, R-SCHED-6: whatever the zone, the moment shows the wall clock that was asked for, or a later one if a
        /// clock change skips it; and no earlier moment shows it.
        #[test]
        fn the_first_moment_that_shows_the_wall_clock(
            local in local(),
            zone in prop::sample::select(vec![
                "Europe/Oslo", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca",
                "Asia/Tehran", "Pacific/Chatham", "Pacific/Apia",
            ]),
            change in any::<prop::sample::Index>(),
            minutes in -180..180_i64,
        ) {
            let rules = ZONES.get(zone).expect("a zone");
            // Near a clock change, where it is difficult.
            let begin = Offset::UTC.to_timestamp(local).expect("within the calendar");
            let changes: Vec<_> = rules.following(begin).take(4).collect();
            let local = match changes.is_empty() {
                true => local,
                false => {
                    let at = change.get(&changes).timestamp() + jiff::SignedDuration::from_mins(minutes);
                    rules.to_datetime(at)
                }
            };
            let text = format!("at({})", local.strftime("%Y-%m-%dT%H:%M:%S"));
            let moment = moment(EARLY, &text, Some(zone)).expect("a moment");
            let shown = rules.to_datetime(moment);
            prop_assert!(shown >= local);
            if shown > local {
                prop_assert!(rules.to_ambiguous_timestamp(local).is_ambiguous(), "only what is skipped is moved");
            }
            for earlier in [30, 60, 120] {
                let before = rules.to_datetime(moment - jiff::SignedDuration::from_mins(earlier));
                prop_assert!(before != local, "the first occurrence");
            }
        }

        /// Whatever is sent, it is a moment that is not past, or a refusal.
        #[test]
        fn nothing_else_comes_of_it(expression in ".{0,40}", zone in prop::option::of(".{0,40}")) {
            let now: Timestamp = "2027-05-04T09:30:00Z".parse().expect("a time");
            if let Ok(at) = moment(now, &expression, zone.as_deref()) {
                prop_assert!(at >= now);
            }
        }

        /// R-SCHED-5: a digit that is none spoils it.
        #[test]
        fn every_character_counts(local in local(), at in 3..22_usize, other in "[^0-9]") {
            let mut text = format!("at({})", local.strftime("%Y-%m-%dT%H:%M:%S"));
            let replaced = text[at..=at].to_owned();
            prop_assume!(replaced != other);
            text.replace_range(at..=at, &other);
            prop_assert_eq!(moment(EARLY, &text, None), Err(BadSchedule::Form));
        }
    }
}
