//! An SNS topic: the event is the message, what it can be filtered by are attributes (R-EVT-6 to R-EVT-9).

use std::borrow::Cow;
use std::collections::HashMap;

use aws_config::SdkConfig;
use aws_sdk_sns::Client;
use aws_sdk_sns::error::ProvideErrorMetadata as _;
use aws_sdk_sns::types::{BatchResultErrorEntry, MessageAttributeValue, PublishBatchRequestEntry};

use super::{Answer, Verdict, failure};
use crate::events::batch::Limits;
use crate::events::envelope::{Labels, is_xml};
use crate::events::spool::Record;

/// Ten messages in one request; 256 KiB for one and for all together, which is what a topic takes unless its
/// `MaximumMessageSize` was raised.
pub const LIMITS: Limits = Limits {
    events: 10,
    event_bytes: 256 << 10,
    total_bytes: 256 << 10,
};

const STRING: &str = "String";

/// A topic.
#[derive(Debug)]
pub struct Sns {
    client: Client,
    topic: String,
}

impl Sns {
    /// A topic by its ARN.
    #[must_use]
    pub fn new(topic: String, config: &SdkConfig) -> Self {
        Self {
            client: Client::new(config),
            topic,
        }
    }

    pub(super) async fn send(&self, records: &[Record]) -> Answer {
        let mut request = self.client.publish_batch().topic_arn(&self.topic);
        for (n, record) in records.iter().enumerate() {
            let entry = PublishBatchRequestEntry::builder()
                .id(n.to_string())
                .message(message(&record.envelope))
                .set_message_attributes(Some(attributes(&record.envelope)))
                .build();
            match entry {
                Ok(entry) => request = request.publish_batch_request_entries(entry),
                Err(error) => return Answer::Refused(error.to_string()),
            }
        }
        match request.send().await {
            Ok(answer) => Answer::Each(verdicts(records.len(), answer.failed())),
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

fn verdicts(count: usize, failed: &[BatchResultErrorEntry]) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Taken; count];
    for entry in failed {
        let at = entry.id().parse().ok();
        if let Some(verdict) = at.and_then(|at: usize| verdicts.get_mut(at)) {
            let why = entry.code().to_owned();
            *verdict = match entry.sender_fault() && is_about_content(entry.code()) {
                true => Verdict::Never(why),
                false => Verdict::Later(why),
            };
        }
    }
    verdicts
}

/// Will it be refused however often it is sent? What is wrong with permissions, keys or the topic can be put right.
fn is_about_content(code: &str) -> bool {
    [
        "InvalidParameter",
        "InvalidParameterValue",
        "ParameterValueInvalid",
        "InvalidMessageContents",
        "BatchRequestTooLong",
        "ValidationError",
        "ValidationException",
    ]
    .contains(&code.strip_suffix("Exception").unwrap_or(code))
        || code == "ValidationException"
}

/// The envelope. The few characters that SNS does not take can stand only inside of strings, where an escape says the same.
fn message(envelope: &str) -> Cow<'_, str> {
    if envelope.chars().all(is_xml) {
        return envelope.into();
    }
    let escaped = envelope.chars().flat_map(|c| match is_xml(c) {
        true => vec![c],
        false => format!("\\u{:04x}", u32::from(c)).chars().collect(),
    });
    escaped.collect::<String>().into()
}

fn attributes(envelope: &str) -> HashMap<String, MessageAttributeValue> {
    let Some(labels) = Labels::of(envelope) else {
        return HashMap::new();
    };
    labels
        .attributes()
        .filter_map(|(name, value)| {
            let value = MessageAttributeValue::builder()
                .data_type(STRING)
                .string_value(value)
                .build();
            Some((name.to_owned(), value.ok()?))
        })
        .collect()
}

/// The message with its attributes: names, types and values count (R-EVT-10).
pub fn size(envelope: &str) -> usize {
    let labels = Labels::of(envelope);
    let attributes = labels.iter().flat_map(Labels::attributes);
    message(envelope).len()
        + attributes
            .map(|(name, value)| name.len() + STRING.len() + value.len())
            .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn envelope(channel: &str, data: &str) -> String {
        json!({
            "source": "hotsock.v1", "type": "hotsock.messagePublished", "dataType": "message",
            "metadata": {"channel": channel, "hotsockVersion": "1.13.5"}, "data": {"data": data},
        })
        .to_string()
    }

    /// R-EVT-7, R-EVT-9, R-EVT-10
    #[test]
    fn the_size_is_that_of_message_and_attributes() {
        let plain = envelope("room", "x");
        let attributes = "source".len()
            + "hotsock.v1".len()
            + "type".len()
            + "hotsock.messagePublished".len()
            + "dataType".len()
            + "message".len()
            + "channel".len()
            + "room".len()
            + 4 * "String".len();
        assert_eq!(size(&plain), plain.len() + attributes);
        let names: Vec<_> = super::attributes(&plain).into_keys().collect();
        assert_eq!(names.len(), 4);
        assert!(
            super::attributes(&plain)
                .values()
                .all(|it| it.data_type() == "String")
        );
    }

    /// R-EVT-6
    #[test]
    fn what_sns_does_not_take_is_escaped_and_means_the_same() {
        let strange = envelope("room", "a\u{ffff}b\u{fffe}");
        let message = message(&strange);
        assert!(message.chars().all(is_xml));
        let (one, other): (Value, Value) = (
            serde_json::from_str(&strange).unwrap(),
            serde_json::from_str(&message).unwrap(),
        );
        assert_eq!(one, other);
        assert!(size(&strange) >= message.len());
    }

    /// R-EVT-11: partial failures.
    #[test]
    fn a_failed_entry_is_sent_again_unless_it_is_wrong_itself() {
        let failed = |id: &str, code: &str, fault| {
            BatchResultErrorEntry::builder()
                .id(id)
                .code(code)
                .sender_fault(fault)
                .build()
                .unwrap()
        };
        let answer = [
            failed("1", "InternalError", false),
            failed("3", "InvalidParameter", true),
            failed("4", "KMSAccessDenied", true),
        ];
        assert_eq!(
            verdicts(5, &answer),
            [
                Verdict::Taken,
                Verdict::Later("InternalError".into()),
                Verdict::Taken,
                Verdict::Never("InvalidParameter".into()),
                Verdict::Later("KMSAccessDenied".into()),
            ]
        );
        assert!(!is_about_content("NotFound") && !is_about_content("AuthorizationError"));
    }
}
