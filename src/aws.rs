//! The only files that know the AWS SDK: one per service, our types out.
//!
//! Endpoint, region and credentials come from the SDK's standard chain (`AWS_ENDPOINT_URL`, profiles, instance roles);
//! on top of it a region may assume a role. Calls are retried by the SDK (standard mode, a few attempts, doubling with
//! jitter); what outlasts that is an [`Error`] and never changes a decision (D-HOT-12).

pub mod autoscaling;
pub mod cloudformation;
pub mod elb;
pub mod elbv2;
mod error;
pub mod s3;
pub mod sqs;
pub mod sts;

pub use error::{Error, Kind};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, retry::RetryConfig, sts::AssumeRoleProvider,
    timeout::TimeoutConfig,
};
use std::time::Duration;

/// Attempts of one call, the first included. Covers D-HOT-6 and D-HOT-8 (three and four attempts, doubling).
const ATTEMPTS: u32 = 4;
/// Before the first repetition; doubles from there.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Where doubling ends.
const LONGEST_BACKOFF: Duration = Duration::from_secs(8);

/// The role that a region's calls assume (D-CFG-21, D-CFG-22).
#[derive(Clone, Debug)]
pub struct Role<'a> {
    /// Its ARN.
    pub arn: &'a str,
    /// For roles of other accounts.
    pub external_id: Option<&'a str>,
    /// See [`session_name`].
    pub session_name: &'a str,
}

/// Access to one region.
#[derive(Clone, Debug)]
pub struct Session {
    region: String,
    config: SdkConfig,
    /// Of single endpoints that differ from the common one, only S3's matters to us: for the style of its addresses.
    s3_endpoint: Option<String>,
}

impl Session {
    /// Access to `region`, as `role` where there is one. Reads profiles and environment; credentials are only fetched by
    /// the first call, so check them early with [`sts::Sts::whoami`].
    pub async fn connect(region: &str, role: Option<&Role<'_>>) -> Self {
        let retry = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_BACKOFF)
            .with_max_backoff(LONGEST_BACKOFF);
        // An endpoint that takes connections and never answers must not hold a command for minutes. The longest call is
        // a receive of 20 s; S3 has limits of its own, for uploads.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(25))
            .operation_timeout(Duration::from_secs(60))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .retry_config(retry)
            .timeout_config(timeouts)
            .load()
            .await;
        Self::with(config, role).await
    }

    /// Access with a configuration that somebody else has loaded, which names the region.
    pub async fn with(mut config: SdkConfig, role: Option<&Role<'_>>) -> Self {
        let region = config.region().map_or(String::new(), ToString::to_string);
        if let Some(role) = role {
            let mut provider = AssumeRoleProvider::builder(role.arn)
                .session_name(role.session_name)
                .configure(&config);
            if let Some(id) = role.external_id {
                provider = provider.external_id(id);
            }
            let provider = provider.build().await;
            config = config
                .into_builder()
                .credentials_provider(aws_sdk_sts::config::SharedCredentialsProvider::new(
                    provider,
                ))
                .build();
        }
        let s3_endpoint = std::env::var("AWS_ENDPOINT_URL_S3")
            .ok()
            .or_else(|| config.endpoint_url().map(str::to_owned))
            .or_else(|| std::env::var("AWS_ENDPOINT_URL").ok())
            .filter(|url| !url.is_empty());
        Self {
            region,
            config,
            s3_endpoint,
        }
    }

    /// Region name.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The credentials that calls are signed with, for the user's hooks (D-HOOK-7): id, secret, session token. `None`
    /// when there are none.
    pub async fn credentials(&self) -> Option<(String, String, Option<String>)> {
        use aws_sdk_sts::config::ProvideCredentials;
        let credentials = self
            .config
            .credentials_provider()?
            .provide_credentials()
            .await
            .ok()?;
        let token = credentials.session_token().map(str::to_owned);
        Some((
            credentials.access_key_id().to_owned(),
            credentials.secret_access_key().to_owned(),
            token,
        ))
    }

    /// Stacks.
    pub fn cloudformation(&self) -> cloudformation::CloudFormation {
        cloudformation::CloudFormation::new(self)
    }

    /// Auto Scaling groups.
    pub fn autoscaling(&self) -> autoscaling::AutoScaling {
        autoscaling::AutoScaling::new(self)
    }

    /// Queues.
    pub fn sqs(&self) -> sqs::Sqs {
        sqs::Sqs::new(self)
    }

    /// Objects.
    pub fn s3(&self) -> s3::S3 {
        s3::S3::new(self)
    }

    /// Classic load balancers.
    pub fn elb(&self) -> elb::Elb {
        elb::Elb::new(self)
    }

    /// Target groups and their load balancers.
    pub fn elbv2(&self) -> elbv2::Elbv2 {
        elbv2::Elbv2::new(self)
    }

    /// Who we are.
    pub fn sts(&self) -> sts::Sts {
        sts::Sts::new(self)
    }
}

/// A role session name that tells deployments apart in CloudTrail (D-CLI-50): service, environment and the CI's build id,
/// in the characters and the length (2 to 64) that STS admits. The build id is cut last: it is what tells them apart.
pub fn session_name(service: &str, environment: &str, build: &str) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect()
    };
    let build: String = clean(build).chars().take(24).collect();
    let room = 64 - build.len() - 1;
    let name: String = format!("{}-{}", clean(service), clean(environment))
        .chars()
        .take(room)
        .collect();
    format!("{name}-{build}")
}

/// AWS time to ours; what lies outside of our range (years -9999 to 9999) can't come from AWS.
fn timestamp(time: &aws_smithy_types::DateTime) -> jiff::Timestamp {
    let nanos = i32::try_from(time.subsec_nanos()).unwrap_or_default();
    jiff::Timestamp::new(time.secs(), nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_cli_50_the_session_name_carries_service_environment_and_build() {
        assert_eq!(session_name("hello", "stage", "4711"), "hello-stage-4711"); // D-CLI-50
        assert_eq!(
            session_name("my service", "prod", "refs/heads/x"),
            "my-service-prod-refs-heads-x"
        );
        let long = session_name(&"s".repeat(90), "prod", &"7".repeat(90));
        assert!(
            long.len() == 64 && long.ends_with(&"7".repeat(24)),
            "{long}"
        );
    }

    proptest! {
        #[test]
        fn d_cli_50_sts_accepts_every_session_name(service in ".{0,80}", environment in ".{0,80}", build in ".{0,80}") {
            let name = session_name(&service, &environment, &build);
            prop_assert!((2..=64).contains(&name.len()), "{}", name);
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)));
        }
    }
}
