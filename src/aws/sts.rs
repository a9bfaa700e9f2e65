//! Who we are: the cheapest call that proves endpoint, credentials and role.

use super::{Error, Session, error::Site};

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
        let answer = self
            .client
            .get_caller_identity()
            .send()
            .await
            .map_err(self.site.failed(CALL))?;
        Ok(Identity {
            account: answer
                .account
                .ok_or_else(|| self.site.incomplete(CALL, "account"))?,
            arn: answer.arn.unwrap_or_default(),
        })
    }
}
