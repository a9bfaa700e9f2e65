//! An EventBridge bus: the event is the detail (R-EVT-5).

use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::ProvideErrorMetadata as _;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};

use super::{Answer, Verdict, failure};
use crate::events::batch::Limits;
use crate::events::envelope::{Labels, SOURCE};
use crate::events::spool::Record;

/// Ten entries in one request, together less than 1 MB since January 2026. Whether that is 10^6 or 2^20 nobody says: several
/// keep below the smaller, and a single one is given up only above the larger.
pub const LIMITS: Limits = Limits {
    events: 10,
    event_bytes: (1 << 20) - 1,
    total_bytes: 1_000_000 - 1,
};

/// What EventBridge counts for the time.
const TIME: usize = 14;

/// A bus.
#[derive(Debug)]
pub struct EventBridge {
    client: Client,
    bus: String,
}

impl EventBridge {
    /// A bus by its name or ARN.
    #[must_use]
    pub fn new(bus: String, config: &SdkConfig) -> Self {
        Self {
            client: Client::new(config),
            bus,
        }
    }

    pub(super) async fn send(&self, records: &[Record]) -> Answer {
        let entries = records.iter().map(|record| {
            let when: SystemTime = record.id.datetime();
            let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
            PutEventsRequestEntry::builder()
                .event_bus_name(&self.bus)
                .source(SOURCE)
                .detail_type(detail_type(&record.envelope))
                .detail(&record.envelope)
                .time(DateTime::from_secs(since.as_secs().cast_signed()))
                .build()
        });
        let request = self
            .client
            .put_events()
            .set_entries(Some(entries.collect()));
        match request.send().await {
            Ok(answer) => Answer::Each(verdicts(records.len(), answer.entries())),
            Err(error) => {
                let why = failure(&error, error.code());
                match error.code() {
                    Some(code) if is_about_content(code) => Answer::Refused(why),
                    _ => Answer::Later(why),
                }
            }
        }
    }
}

fn verdicts(count: usize, entries: &[PutEventsResultEntry]) -> Vec<Verdict> {
    let verdict = |entry: Option<&PutEventsResultEntry>| {
        let Some(entry) = entry else {
            return Verdict::Later("no answer".into());
        };
        match entry.error_code() {
            None => Verdict::Taken,
            Some(code) if is_about_content(code) => Verdict::Never(code.into()),
            Some(code) => Verdict::Later(code.into()),
        }
    };
    (0..count).map(|n| verdict(entries.get(n))).collect()
}

/// Will it be refused however often it is sent? What is wrong with permissions or the bus can be put right.
fn is_about_content(code: &str) -> bool {
    [
        "MalformedDetail",
        "InvalidArgument",
        "ValidationException",
        "ValidationError",
        "PayloadTooLarge",
        "RequestEntityTooLargeException",
    ]
    .contains(&code)
}

fn detail_type(envelope: &str) -> String {
    Labels::of(envelope)
        .map(|labels| labels.data_type.into_owned())
        .unwrap_or_default()
}

/// As EventBridge counts it (R-EVT-10).
pub fn size(envelope: &str) -> usize {
    SOURCE.len() + detail_type(envelope).len() + envelope.len() + TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-EVT-11: partial failures.
    #[test]
    fn a_failed_entry_is_sent_again_unless_it_is_wrong_itself() {
        let entry = |code: Option<&str>| {
            PutEventsResultEntry::builder()
                .set_error_code(code.map(str::to_owned))
                .build()
        };
        let answer = [
            entry(None),
            entry(Some("InternalFailure")),
            entry(Some("MalformedDetail")),
            entry(Some("NotAuthorizedForSourceException")),
        ];
        let later = |why: &str| Verdict::Later(why.into());
        assert_eq!(
            verdicts(5, &answer),
            [
                Verdict::Taken,
                later("InternalFailure"),
                Verdict::Never("MalformedDetail".into()),
                later("NotAuthorizedForSourceException"),
                later("no answer"),
            ]
        );
    }

    /// R-EVT-5, R-EVT-10
    #[test]
    fn the_size_is_that_of_source_type_detail_and_time() {
        let envelope =
            r#"{"source":"hotsock.v1","type":"t","metadata":{},"data":{},"dataType":"channel"}"#;
        assert_eq!(detail_type(envelope), "channel");
        assert_eq!(size(envelope), envelope.len() + 10 + 7 + 14);
    }
}
