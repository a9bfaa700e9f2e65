//! `POST /2015-03-31/functions/{name}/invocations`: publishing as if a function was invoked with an AWS SDK (R-DIFF-7), so
//! that a backend that does so changes nothing but its endpoint. Any name will do.

pub mod signature;

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::json;
use tracing::warn;

use self::signature::Refused;
use crate::api::{self, Asked};
use crate::connection::Origin;
use crate::http as wire;
use crate::hub::{Backend, Client, Hub};
use crate::metrics::Trigger;
use crate::protocol::{self, Failure};
use crate::time::Now;

/// What an SDK reads the type of an error from.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Says that a function has failed, and makes the body the reason.
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");

/// How a function is to be invoked.
const INVOCATION_TYPE: &str = "x-amz-invocation-type";

/// How it is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invocation {
    /// The result is awaited.
    RequestResponse,
    /// It is not.
    Event,
    /// Everything is checked, and nothing is done.
    DryRun,
}

impl Invocation {
    fn of(request: &Request<Vec<u8>>) -> Option<Self> {
        let Some(given) = request.headers().get(INVOCATION_TYPE) else {
            return Some(Self::RequestResponse);
        };
        match given.as_bytes() {
            b"RequestResponse" => Some(Self::RequestResponse),
            b"Event" => Some(Self::Event),
            b"DryRun" => Some(Self::DryRun),
            _ => None,
        }
    }

    /// It was done; `result` is what `POST /publish` answers (R-SRV-22, R-SRV-23).
    pub(crate) fn done(self, result: Vec<u8>) -> Response<Vec<u8>> {
        match self {
            Self::RequestResponse => {
                let mut response = api::json(StatusCode::OK, result);
                let version = HeaderName::from_static("x-amz-executed-version");
                let latest = HeaderValue::from_static("$LATEST");
                response.headers_mut().insert(version, latest);
                response
            }
            Self::Event => empty(StatusCode::ACCEPTED),
            Self::DryRun => empty(StatusCode::NO_CONTENT),
        }
    }

    /// It was not done. What is wrong with the message is the function's error. As with functions, whoever awaits no result
    /// is not told; the log has it. What is wrong with this server is told to everybody: an SDK tries again by itself.
    pub(crate) fn failed(self, failure: &Failure) -> Response<Vec<u8>> {
        if failure.http_status().is_server_error() {
            return error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "ServiceException",
                &failure.message,
            );
        }
        if self == Self::Event {
            let code = failure.code.as_str();
            warn!(code, "an invocation whose result nobody awaits was refused");
            return empty(StatusCode::ACCEPTED);
        }
        let body = json!({"errorType": failure.code.as_str(), "errorMessage": failure.message});
        let mut response = api::json(StatusCode::OK, body.to_string());
        response
            .headers_mut()
            .insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
        response
    }
}

/// Answers an invocation. `None`: a [`crate::hub::Notice`] will bring the answer.
pub fn handle(
    hub: &mut Hub,
    now: Now,
    client: Client,
    request: &Request<Vec<u8>>,
    asked: &Asked<'_>,
) -> Option<Response<Vec<u8>>> {
    if let Err(refused) = permit(now, request, asked) {
        hub.metrics.auth_failed(refused.cause());
        warn!(cause = refused.cause(), "an invocation was refused");
        return Some(error(
            StatusCode::FORBIDDEN,
            refused.kind(),
            &refused.to_string(),
        ));
    }
    let Some(invocation) = Invocation::of(request) else {
        return Some(error(
            StatusCode::BAD_REQUEST,
            "InvalidParameterValueException",
            "the invocation type is RequestResponse, Event or DryRun",
        ));
    };
    let published = protocol::parse_publish(request.body()).and_then(|message| {
        let backend = Backend {
            client,
            trigger: Trigger::ServerLambda,
            // R-SRV-24
            origin: &Origin::default,
            invocation: Some(invocation),
        };
        hub.publish_from_backend(now, &backend, &message)
    });
    match published {
        Ok(()) if invocation == Invocation::DryRun => Some(invocation.done(Vec::new())),
        Ok(()) => None,
        Err(failure) => {
            hub.metrics.error(failure.code.as_str());
            Some(invocation.failed(&failure))
        }
    }
}

/// An API key, or a signature with configured credentials.
fn permit(now: Now, request: &Request<Vec<u8>>, asked: &Asked<'_>) -> Result<(), Refused> {
    if let Some(key) = wire::bearer(request) {
        return match asked.settings.accepts_api_key(key.as_bytes()) {
            true => Ok(()),
            false => Err(Refused::ApiKey),
        };
    }
    if !request.headers().contains_key(AUTHORIZATION) {
        return Err(Refused::Missing);
    }
    signature::verify(&asked.settings.function_keys, request, now.wall)
}

fn empty(status: StatusCode) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    response
}

/// An error in the form of AWS.
fn error(status: StatusCode, kind: &'static str, message: &str) -> Response<Vec<u8>> {
    let mut response = api::json(status, json!({ "message": message }).to_string());
    response
        .headers_mut()
        .insert(ERROR_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Code;

    fn text(response: &Response<Vec<u8>>) -> &str {
        std::str::from_utf8(response.body()).unwrap()
    }

    /// R-DIFF-7, R-SRV-22, R-SRV-23
    #[test]
    fn results_have_the_form_of_a_function_s() {
        let result = br#"{"channel":"board.1","event":"price"}"#;
        let answer = Invocation::RequestResponse.done(result.to_vec());
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.body(), result);
        assert!(!answer.headers().contains_key(FUNCTION_ERROR));
        let answer = Invocation::Event.done(result.to_vec());
        assert_eq!((answer.status().as_u16(), text(&answer)), (202, ""));
        let answer = Invocation::DryRun.done(Vec::new());
        assert_eq!((answer.status().as_u16(), text(&answer)), (204, ""));
    }

    /// R-DIFF-7
    #[test]
    fn failures_are_the_function_s_unless_they_are_the_server_s() {
        let wrong = Failure::because(Code::InvalidChannel, "what is wrong");
        for invocation in [Invocation::RequestResponse, Invocation::DryRun] {
            let answer = invocation.failed(&wrong);
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()[FUNCTION_ERROR], "Unhandled");
            let body: serde_json::Value = serde_json::from_str(text(&answer)).unwrap();
            assert_eq!(
                body,
                json!({"errorType": "INVALID_CHANNEL", "errorMessage": "what is wrong"})
            );
        }
        let answer = Invocation::Event.failed(&wrong);
        assert_eq!((answer.status().as_u16(), text(&answer)), (202, ""));
        for invocation in [Invocation::RequestResponse, Invocation::Event] {
            let answer = invocation.failed(&Failure::unavailable("the disk is full"));
            assert_eq!(answer.status(), 500);
            assert_eq!(answer.headers()[ERROR_TYPE], "ServiceException");
        }
    }
}
