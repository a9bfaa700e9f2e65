//! A failed call, written for the person on call.

use aws_sdk_cloudformation::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use std::fmt;

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The network, throttling or a fault of the service: the same call may succeed later.
    Transient,
    /// Credentials are missing, expired or do not allow the call.
    Denied,
    /// What was asked for does not exist.
    NotFound,
    /// The service understood and refused; repeating is useless.
    Refused,
}

/// A call that failed after all its attempts.
#[derive(Clone, Debug)]
pub struct Error {
    /// Such as `S3`.
    pub service: &'static str,
    /// Such as `HeadObject`.
    pub operation: &'static str,
    /// Region name.
    pub region: String,
    /// AWS's error code, or the HTTP status where there was no body to carry one.
    pub code: Option<Box<str>>,
    /// AWS's message, or what kept the call from being answered.
    pub message: String,
    /// For a support case.
    pub request_id: Option<Box<str>>,
    /// What it means.
    pub kind: Kind,
}

/// What to look at when nobody answers.
const UNREACHED: &str = "is the network up, and does AWS_ENDPOINT_URL, if set, name a running endpoint? (`porter local \
     status` tells of a local cloud)";

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        self.kind == Kind::Transient
    }

    /// True when the endpoint does not have this call at all: never said by AWS, but by emulators, and no reason to give
    /// up what would be nice to have.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("InvalidAction" | "NotImplemented")
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = self.message.to_ascii_lowercase();
        match self.kind {
            Kind::Denied if text.contains("expired") => {
                Some("the AWS credentials have expired: log in again".to_owned())
            }
            Kind::Denied if self.service == "S3" && self.operation == "HeadObject" => Some(
                "a 403 here means that the role lacks s3:GetObject on the object or s3:ListBucket on the bucket \
                 (without the latter S3 also answers 403 for an object that does not exist)"
                    .to_owned(),
            ),
            Kind::Denied | Kind::Transient if self.code.is_none() && text.contains("connect") => {
                Some(UNREACHED.to_owned())
            }
            Kind::Denied
                if self.code.is_none()
                    && ["accessdenied", "not authorized"].iter().any(|t| text.contains(t)) =>
            {
                Some("the role_arn of this region can't be assumed: allow sts:AssumeRole on it for these credentials, and let the role trust them".to_owned())
            }
            Kind::Denied if text.contains("credential") && self.code.is_none() => {
                Some("no AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned())
            }
            Kind::Denied
                if matches!(
                    self.code.as_deref(),
                    Some("InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch")
                ) =>
            {
                Some("AWS does not accept these credentials: check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned())
            }
            Kind::Denied => Some(format!(
                "allow {}:{} for the role that porter uses in {}",
                self.service.to_ascii_lowercase(),
                self.operation,
                self.region
            )),
            Kind::Transient if self.code.is_none() => Some(UNREACHED.to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} in {} failed: ",
            self.service, self.operation, self.region
        )?;
        match &self.code {
            Some(code) if self.message.is_empty() => write!(f, "{code}")?,
            Some(code) => write!(f, "{code}: {}", self.message)?,
            None => write!(f, "{}", self.message)?,
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Where a call goes; turns the SDK's errors into ours.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub service: &'static str,
    pub region: String,
}

impl Site {
    /// For `map_err`.
    pub fn failed<E>(
        &self,
        operation: &'static str,
    ) -> impl FnOnce(SdkError<E, HttpResponse>) -> Error + '_
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        move |error| self.error(operation, &error)
    }

    /// The same for an error that is looked at first.
    pub fn error<E>(&self, operation: &'static str, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|r| r.status().as_u16());
        let meta = error.as_service_error().map(ProvideErrorMetadata::meta);
        let code = meta
            .and_then(|m| m.code())
            .map(Box::from)
            .or_else(|| status.map(|s| s.to_string().into()));
        let message = match meta {
            Some(m) => m.message().unwrap_or_default().to_owned(),
            None => chain(error),
        };
        let mut kind = classify(status, code.as_deref());
        if status.is_none() {
            kind = unanswered(&message);
        }
        if matches!(error, SdkError::ConstructionFailure(_)) && kind == Kind::Transient {
            kind = Kind::Refused;
        }
        Error {
            service: self.service,
            operation,
            region: self.region.clone(),
            code,
            message,
            request_id: meta.and_then(|m| m.extra("aws_request_id")).map(Box::from),
            kind,
        }
    }

    /// A service's answer that lacks what its documentation promises.
    pub fn incomplete(&self, operation: &'static str, missing: &str) -> Error {
        Error {
            service: self.service,
            operation,
            region: self.region.clone(),
            code: None,
            message: format!("the answer has no {missing}"),
            request_id: None,
            kind: Kind::Refused,
        }
    }

    /// A failure on our side of a call, such as a file that can't be read.
    pub fn local(&self, operation: &'static str, message: impl fmt::Display) -> Error {
        Error {
            message: message.to_string(),
            ..self.incomplete(operation, "")
        }
    }
}

/// Pure: without an answer the cause is the way there: the network, or credentials that can't be had. Those may be
/// behind the network too, as with a role to assume.
fn unanswered(message: &str) -> Kind {
    let text = message.to_ascii_lowercase();
    let network = [
        "connect error",
        "dns error",
        "timed out",
        "connection refused",
    ];
    if text.contains("credential") && !network.iter().any(|n| text.contains(n)) {
        Kind::Denied
    } else {
        Kind::Transient
    }
}

/// Pure: what status and code mean.
fn classify(status: Option<u16>, code: Option<&str>) -> Kind {
    const THROTTLED: [&str; 10] = [
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
        "RequestTimeout",
        "ServiceUnavailable",
        "InternalFailure",
    ];
    const DENIED: [&str; 9] = [
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "OptInRequired",
    ];
    match (status, code) {
        (None, _) => Kind::Transient,
        (_, Some(code)) if THROTTLED.contains(&code) => Kind::Transient,
        (_, Some(code)) if DENIED.contains(&code) => Kind::Denied,
        (Some(429 | 500..=599), _) => Kind::Transient,
        (Some(401 | 403), _) => Kind::Denied,
        (Some(404), _) => Kind::NotFound,
        (_, Some(code))
            if code.contains("NotFound")
                || code.contains("NonExistent")
                || code.starts_with("NoSuch") =>
        {
            Kind::NotFound
        }
        _ => Kind::Refused,
    }
}

/// The causes of an error, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        let cases = [
            (None, None, Kind::Transient),
            (Some(503), None, Kind::Transient),
            (Some(400), Some("Throttling"), Kind::Transient),
            (Some(503), Some("SlowDown"), Kind::Transient),
            (Some(403), None, Kind::Denied),
            (Some(400), Some("ExpiredToken"), Kind::Denied),
            (Some(404), None, Kind::NotFound),
            (
                Some(400),
                Some("AWS.SimpleQueueService.NonExistentQueue"),
                Kind::NotFound,
            ),
            (Some(400), Some("ValidationError"), Kind::Refused),
        ];
        for (status, code, kind) in cases {
            assert_eq!(classify(status, code), kind, "{status:?} {code:?}");
        }
    }

    #[test]
    fn who_can_not_be_reached_is_not_told_to_look_for_credentials() {
        let site = Site {
            service: "STS",
            region: "us-east-1".into(),
        };
        let failed = |message: &str| Error {
            kind: Kind::Denied,
            ..site.local("GetCallerIdentity", message)
        };
        // With a role to assume, the SDK wraps the refused connection of a missing endpoint this way.
        let unreached = failed(
            "dispatch failure: an error occurred while loading credentials: io error: tcp connect error: Connection refused",
        );
        assert_eq!(unreached.hint().as_deref(), Some(UNREACHED));
        let none = failed("the credential provider was not enabled");
        assert!(none.hint().unwrap().contains("AWS_PROFILE"));
    }

    #[test]
    fn an_endpoint_that_is_down_is_not_taken_for_missing_credentials() {
        let text = "dispatch failure: other: an error occurred while loading credentials: io error: client error \
                    (Connect): tcp connect error: Connection refused (os error 111)";
        assert_eq!(unanswered(text), Kind::Transient);
        let text = "dispatch failure: other: an error occurred while loading credentials: no providers in chain";
        assert_eq!(unanswered(text), Kind::Denied);
        let text = "identity resolver timed out after 43.5s";
        assert_eq!(unanswered(text), Kind::Transient);
    }

    #[test]
    fn wrong_credentials_are_told_from_a_missing_permission() {
        let site = Site {
            service: "STS",
            region: "us-east-1".into(),
        };
        let mut error = site.local("GetCallerIdentity", "The security token is invalid");
        error.kind = Kind::Denied;
        error.code = Some("InvalidClientTokenId".into());
        assert!(error.hint().unwrap().contains("AWS_PROFILE"));
        error.code = Some("AccessDenied".into());
        assert!(
            error
                .hint()
                .unwrap()
                .contains("allow sts:GetCallerIdentity")
        );
    }

    #[test]
    fn d_pay_3_a_403_on_the_check_names_the_two_permissions() {
        let site = Site {
            service: "S3",
            region: "us-east-1".into(),
        };
        let mut error = site.local("HeadObject", "");
        error.code = Some("403".into());
        error.kind = Kind::Denied;
        error.request_id = Some("4711".into());
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("s3:GetObject") && hint.contains("s3:ListBucket"),
            "{hint}"
        ); // D-PAY-3
        assert_eq!(
            error.to_string(),
            "S3 HeadObject in us-east-1 failed: 403 (request 4711)"
        );
    }
}
