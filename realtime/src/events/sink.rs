//! Where events go. A sink sends a few of them, and says of each what became of it.

#[cfg(not(feature = "aws"))]
mod absent;
#[cfg(feature = "aws")]
pub mod eventbridge;
#[cfg(feature = "aws")]
pub mod sns;
pub mod stdout;
pub mod webhook;

use std::time::Duration;

#[cfg(feature = "aws")]
use aws_config::retry::RetryConfig;
#[cfg(feature = "aws")]
use aws_config::timeout::TimeoutConfig;
#[cfg(feature = "aws")]
use aws_config::{BehaviorVersion, Region, SdkConfig};

#[cfg(not(feature = "aws"))]
use self::absent::{eventbridge, sns};
use self::eventbridge::EventBridge;
use self::sns::Sns;
use self::webhook::Webhook;
use super::batch::Limits;
use super::spool::Record;
use crate::config::{Events, Secret};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// The names of all sinks.
pub const NAMES: [&str; 4] = ["sns", "eventbridge", "webhook", "stdout"];

/// A sink as it is set.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// An SNS topic.
    Sns(String, Aws),
    /// An EventBridge bus.
    EventBridge(String, Aws),
    /// A URL, and what requests to it are signed with.
    Webhook(String, Vec<Secret>),
    /// Standard output.
    Stdout,
}

/// Where a service of AWS is.
#[derive(Debug, Clone, PartialEq)]
pub struct Aws {
    region: Option<String>,
    endpoint: Option<String>,
}

impl Target {
    /// Those that are on.
    #[must_use]
    pub fn all(events: &Events) -> Vec<Self> {
        let aws = |name: &str| Aws {
            region: events
                .region
                .clone()
                .or_else(|| region_of(name).map(str::to_owned)),
            endpoint: events.endpoint_url.clone(),
        };
        let topic = events.sns_topic.iter();
        let bus = events.event_bus.iter();
        let url = events.webhook_url.iter();
        topic
            .map(|arn| Self::Sns(arn.clone(), aws(arn)))
            .chain(bus.map(|bus| Self::EventBridge(bus.clone(), aws(bus))))
            .chain(url.map(|url| Self::Webhook(url.clone(), events.webhook_secrets.clone())))
            .chain(events.stdout.then_some(Self::Stdout))
            .collect()
    }

    /// Its name, in metrics, in the log and on disk.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sns(..) => NAMES[0],
            Self::EventBridge(..) => NAMES[1],
            Self::Webhook(..) => NAMES[2],
            Self::Stdout => NAMES[3],
        }
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        match self {
            Self::Sns(..) => sns::LIMITS,
            Self::EventBridge(..) => eventbridge::LIMITS,
            Self::Webhook(..) => webhook::LIMITS,
            Self::Stdout => stdout::LIMITS,
        }
    }

    /// How large it finds an event.
    #[must_use]
    pub fn size(&self, record: &Record) -> usize {
        match self {
            Self::Sns(..) => sns::size(&record.envelope),
            Self::EventBridge(..) => eventbridge::size(&record.envelope),
            Self::Webhook(..) | Self::Stdout => record.envelope.len(),
        }
    }

    /// Makes what is needed to send. Does not fail: what is wrong shows when something is sent, and may be right later.
    pub async fn open(&self) -> Sink {
        match self {
            Self::Sns(topic, aws) => Sink::Sns(Sns::new(topic.clone(), &aws.load().await)),
            Self::EventBridge(bus, aws) => {
                Sink::EventBridge(EventBridge::new(bus.clone(), &aws.load().await))
            }
            Self::Webhook(url, secrets) => Sink::Webhook(Webhook::new(url, secrets)),
            Self::Stdout => Sink::Stdout,
        }
    }
}

#[cfg(not(feature = "aws"))]
impl Aws {
    async fn load(&self) {}
}

#[cfg(feature = "aws")]
impl Aws {
    /// As the AWS SDK finds everything that is not set. It tries nothing twice: that is ours to do.
    async fn load(&self) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(ATTEMPT);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        loader.load().await
    }
}

/// The region that an ARN names.
fn region_of(arn: &str) -> Option<&str> {
    let rest = arn.strip_prefix("arn:")?;
    rest.split(':').nth(2).filter(|region| !region.is_empty())
}

/// Ready to send.
#[derive(Debug)]
pub enum Sink {
    /// To a topic.
    Sns(Sns),
    /// To a bus.
    EventBridge(EventBridge),
    /// To a URL.
    Webhook(Webhook),
    /// To standard output.
    Stdout,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The sink has it.
    Taken,
    /// It may take it later.
    Later(String),
    /// It will never take it, for what it is.
    Never(String),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Of every event in it.
    Each(Vec<Verdict>),
    /// All of it may be taken later.
    Later(String),
    /// Something in it will never be taken: who is alone will know.
    Refused(String),
}

impl Answer {
    /// The verdict on each of `count` events; `None`: they must be sent one by one.
    #[must_use]
    pub fn verdicts(self, count: usize) -> Option<Vec<Verdict>> {
        match self {
            Self::Each(verdicts) => Some(verdicts),
            Self::Later(why) => Some(vec![Verdict::Later(why); count]),
            Self::Refused(why) if count == 1 => Some(vec![Verdict::Never(why)]),
            Self::Refused(_) => None,
        }
    }
}

impl Sink {
    /// Sends events, no more than its limits allow.
    pub async fn send(&self, records: &[Record]) -> Answer {
        match self {
            Self::Sns(sns) => sns.send(records).await,
            Self::EventBridge(bus) => bus.send(records).await,
            Self::Webhook(webhook) => webhook.send(records).await,
            Self::Stdout => stdout::send(records).await,
        }
    }
}

/// Waits for what blocks its thread.
async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Answer::Later(error.to_string()))
}

/// Of a request to AWS that failed, what operators may know: codes, never what was sent.
#[cfg(feature = "aws")]
fn failure<E>(
    error: &aws_sdk_sns::error::SdkError<E, aws_sdk_sns::config::http::HttpResponse>,
    code: Option<&str>,
) -> String
where
    E: std::error::Error + 'static,
{
    match (code, error) {
        (Some(code), _) => code.to_owned(),
        (None, aws_sdk_sns::error::SdkError::ServiceError(answer)) => {
            format!("HTTP {}", answer.raw().status().as_u16())
        }
        (None, error) => aws_sdk_sns::error::DisplayErrorContext(error).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-EVT-4, R-DIFF-8, R-DIFF-9
    #[test]
    fn each_sink_is_on_by_itself_and_none_by_default() {
        assert_eq!(Target::all(&Events::default()), []);
        let arn = "arn:aws:sns:eu-central-1:123456789012:events";
        let events = Events {
            sns_topic: Some(arn.into()),
            stdout: true,
            ..Events::default()
        };
        let aws = Aws {
            region: Some("eu-central-1".into()),
            endpoint: None,
        };
        assert_eq!(
            Target::all(&events),
            [Target::Sns(arn.into(), aws), Target::Stdout]
        );
        let events = Events {
            event_bus: Some("chat".into()),
            webhook_url: Some("https://example.com/".into()),
            region: Some("us-west-2".into()),
            ..Events::default()
        };
        let names: Vec<_> = Target::all(&events).iter().map(Target::name).collect();
        assert_eq!(names, ["eventbridge", "webhook"]);
        let Target::EventBridge(_, aws) = &Target::all(&events)[0] else {
            panic!("the bus comes first");
        };
        assert_eq!(aws.region.as_deref(), Some("us-west-2"));
    }

    /// R-EVT-10, R-EVT-11
    #[test]
    fn what_is_refused_with_others_is_sent_alone_before_it_is_given_up() {
        let refused = || Answer::Refused("InvalidParameter".into());
        assert_eq!(refused().verdicts(2), None);
        assert_eq!(
            refused().verdicts(1),
            Some(vec![Verdict::Never("InvalidParameter".into())])
        );
        assert_eq!(
            Answer::Later("no".into()).verdicts(2),
            Some(vec![Verdict::Later("no".into()); 2])
        );
    }
}
