//! The only file that knows SQS: one message onto the stack's queue.

use aws_sdk_sqs::Client;

/// The stack's queue, the one porter listens on.
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
}

impl Queue {
    /// Endpoint, region and credentials come from the SDK's chain.
    pub fn new(config: &aws_config::SdkConfig) -> Self {
        Self {
            client: Client::new(config),
        }
    }

    /// Sends one message; returns once the queue has accepted it.
    ///
    /// # Errors
    /// A sentence with the queue's URL.
    pub async fn send(&self, url: &str, body: String) -> Result<(), String> {
        self.client
            .send_message()
            .queue_url(url)
            .message_body(body)
            .send()
            .await
            .map(|_| ())
            .map_err(|e| {
                format!(
                    "the queue {url} did not accept the message: {}",
                    crate::aws_error(&e)
                )
            })
    }
}
