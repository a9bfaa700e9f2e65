//! Who we are: the cheapest call that proves endpoint, credentials and role.

use super::{Error, Kind, Session, error::Site};
use std::time::Duration;

/// With the role's assumption and all repetitions: this is the first call of every command, and whoever typed a wrong
/// endpoint waits for it.
const LIMIT: Duration = Duration::from_secs(20);

/// STS in one region.
#[derive(Clone, Debug)]
pub struct Sts {
    client: aws_sdk_sts::Client,
    site: Site,
}

/// The caller as AWS sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Twelve digits.
    pub account: String,
    /// Of the user or of the assumed role's session.
    pub arn: String,
}

impl Sts {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_sts::Client::new(&session.config),
            site: Site {
                service: "STS",
                region: session.region.clone(),
            },
        }
    }

    /// GetCallerIdentity, which everyone may call.
    ///
    /// # Errors
    /// There are no credentials, the role can't be assumed, or the endpoint does not answer.
    pub async fn whoami(&self) -> Result<Identity, Error> {
        const CALL: &str = "GetCallerIdentity";
        let call = self.client.get_caller_identity().send();
        let answer = match tokio::time::timeout(LIMIT, call).await {
            Ok(answer) => answer.map_err(self.site.failed(CALL))?,
            Err(_) => {
                return Err(Error {
                    kind: Kind::Transient,
                    ..self
                        .site
                        .local(CALL, format!("no answer within {} s", LIMIT.as_secs()))
                });
            }
        };
        Ok(Identity {
            account: answer
                .account
                .ok_or_else(|| self.site.incomplete(CALL, "account"))?,
            arn: answer.arn.unwrap_or_default(),
        })
    }
}
