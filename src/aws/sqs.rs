//! The stack's signal queue.

use super::{Error, Session, error::Site};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use std::time::Duration;

/// The most messages that one receive returns, and one delete takes.
pub const BATCH: usize = 10;

/// SQS in one region.
#[derive(Clone, Debug)]
pub struct Sqs {
    client: aws_sdk_sqs::Client,
    site: Site,
}

/// A received message. It comes again after the queue's visibility timeout unless it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The text.
    pub body: String,
    /// What deleting it takes.
    pub receipt: String,
}

impl Sqs {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_sqs::Client::new(&session.config),
            site: Site {
                service: "SQS",
                region: session.region.clone(),
            },
        }
    }

    /// Region name.
    pub fn region(&self) -> &str {
        &self.site.region
    }

    /// Up to [`BATCH`] messages, as soon as there is one; none after `wait` (whole seconds, at most 20).
    ///
    /// # Errors
    /// The queue can't be read.
    pub async fn receive(&self, queue_url: &str, wait: Duration) -> Result<Vec<Message>, Error> {
        let seconds = i32::try_from(wait.as_secs().min(20)).unwrap_or_default();
        let answer = self
            .client
            .receive_message()
            .queue_url(queue_url)
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(seconds)
            .send()
            .await
            .map_err(self.site.failed("ReceiveMessage"))?;
        let messages = answer.messages.unwrap_or_default().into_iter();
        Ok(messages
            .map(|m| Message {
                body: m.body.unwrap_or_default(),
                receipt: m.receipt_handle.unwrap_or_default(),
            })
            .collect())
    }

    /// Deletes messages; one that stays comes again, which harms nobody.
    ///
    /// # Errors
    /// The call failed, or the queue kept some of them.
    pub async fn delete(&self, queue_url: &str, messages: &[Message]) -> Result<(), Error> {
        const CALL: &str = "DeleteMessageBatch";
        for batch in messages.chunks(BATCH) {
            let entries = batch
                .iter()
                .enumerate()
                .map(|(i, m)| {
                    DeleteMessageBatchRequestEntry::builder()
                        .id(i.to_string())
                        .receipt_handle(&m.receipt)
                        .build()
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| self.site.local(CALL, e))?;
            let answer = self
                .client
                .delete_message_batch()
                .queue_url(queue_url)
                .set_entries(Some(entries))
                .send()
                .await
                .map_err(self.site.failed(CALL))?;
            if let Some(kept) = answer.failed().first() {
                return Err(self.site.local(
                    CALL,
                    format!(
                        "{} of {} messages stay: {}",
                        answer.failed().len(),
                        batch.len(),
                        kept.code()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Puts a message on a queue: for tests and for hosts simulated by hand.
    ///
    /// # Errors
    /// The queue refused it.
    pub async fn send(&self, queue_url: &str, body: &str) -> Result<(), Error> {
        let call = self
            .client
            .send_message()
            .queue_url(queue_url)
            .message_body(body);
        call.send()
            .await
            .map_err(self.site.failed("SendMessage"))
            .map(drop)
    }
}
