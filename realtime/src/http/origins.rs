//! Which web pages may connect and read answers (R-HTTP-6, R-DIFF-20).

use ::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

/// The origins that are allowed: all of them by default, or those of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// In lower case; `None` allows all.
    listed: Option<Vec<String>>,
}

/// An entry that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no origin: give scheme and host like `https://app.example.com`, with a port if it has one, or `*`"
)]
pub struct InvalidOrigin(pub String);

impl Origins {
    /// Reads the setting: origins as browsers send them, or `*`. No entry means all, as `*` does; `null` is what pages
    /// from files and sandboxes send.
    ///
    /// # Errors
    /// An entry is none of these.
    pub fn parse(entries: &[String]) -> Result<Origins, InvalidOrigin> {
        if entries.is_empty() || entries.iter().any(|entry| entry.trim() == "*") {
            return Ok(Origins::default());
        }
        let listed = entries
            .iter()
            .map(|entry| origin(entry).ok_or_else(|| InvalidOrigin(entry.clone())));
        Ok(Origins {
            listed: Some(listed.collect::<Result<_, _>>()?),
        })
    }

    /// Whether a request with these headers may go on. One without `Origin` comes from no web page and may.
    pub fn allows(&self, request: &HeaderMap) -> bool {
        let Some(listed) = &self.listed else {
            return true;
        };
        let is_listed = |origin: &HeaderValue| {
            listed
                .iter()
                .any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
        };
        request.get_all(ORIGIN).iter().all(is_listed)
    }

    /// Lets the page that asked read the answer if its origin is allowed. For every answer, errors included.
    pub fn permit(&self, request: &HeaderMap, response: &mut HeaderMap) {
        if self.listed.is_none() {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return;
        }
        response.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = request.get(ORIGIN).filter(|_| self.allows(request)) {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
    }

    /// The answer to a preflight (OPTIONS) of any path.
    pub fn preflight(&self, request: &HeaderMap) -> Response<Vec<u8>> {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.permit(request, headers);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET"),
        );
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type"),
        );
        // Seconds for which browsers need not ask again; they cut it down themselves.
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        response
    }
}

/// An entry as browsers send it.
fn origin(entry: &str) -> Option<String> {
    let entry = entry.trim().trim_end_matches('/').to_ascii_lowercase();
    let uri: Uri = entry.parse().ok()?;
    let bare = uri
        .scheme_str()
        .zip(uri.authority())
        .is_some_and(|(scheme, authority)| {
            entry == format!("{scheme}://{authority}") && !authority.as_str().contains(['@', '*'])
        });
    (bare || entry == "null").then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(entries: &[&str]) -> Origins {
        Origins::parse(
            &entries
                .iter()
                .map(|&entry| entry.to_owned())
                .collect::<Vec<_>>(),
        )
        .expect("a setting")
    }

    fn from(origin: &'static str) -> HeaderMap {
        [(ORIGIN, HeaderValue::from_static(origin))]
            .into_iter()
            .collect()
    }

    fn permitted(
        origins: &Origins,
        origin: &'static str,
    ) -> (Option<HeaderValue>, Option<HeaderValue>) {
        let mut headers = HeaderMap::new();
        origins.permit(&from(origin), &mut headers);
        (
            headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN),
            headers.remove(VARY),
        )
    }

    /// R-HTTP-6, R-DIFF-20
    #[test]
    fn every_page_is_allowed_by_default() {
        for all in [
            Origins::default(),
            origins(&[]),
            origins(&["https://a.example", "*"]),
        ] {
            assert!(all.allows(&from("https://any.example")) && all.allows(&HeaderMap::new()));
            assert_eq!(
                permitted(&all, "https://any.example"),
                (Some(HeaderValue::from_static("*")), None)
            );
        }
    }

    /// R-HTTP-6
    #[test]
    fn a_preflight_names_the_methods_and_headers_that_pages_may_use() {
        let response = Origins::default().preflight(&from("https://any.example"));
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_METHODS],
            "POST, GET"
        );
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "authorization, content-type"
        );
        assert!(response.body().is_empty());
    }

    /// R-DIFF-20
    #[test]
    fn with_a_list_only_its_origins_connect_and_read_answers() {
        let list = origins(&["https://App.example/", "http://[::1]:8080", "null"]);
        for allowed in [
            "https://app.example",
            "HTTPS://APP.EXAMPLE",
            "http://[::1]:8080",
            "null",
        ] {
            assert!(list.allows(&from(allowed)), "{allowed}");
            let echoed = Some(HeaderValue::from_static(allowed));
            assert_eq!(
                permitted(&list, allowed),
                (echoed, Some(HeaderValue::from_static("origin")))
            );
        }
        for refused in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil",
            "https://evil",
            "",
        ] {
            assert!(!list.allows(&from(refused)), "{refused}");
            assert_eq!(
                permitted(&list, refused),
                (None, Some(HeaderValue::from_static("origin"))),
                "{refused}"
            );
        }
        assert!(
            list.allows(&HeaderMap::new()),
            "what is no browser sends no origin"
        );
        let mut two = from("https://app.example");
        two.append(ORIGIN, HeaderValue::from_static("https://evil"));
        assert!(!list.allows(&two));
    }

    #[test]
    fn an_entry_that_is_no_origin_is_refused_by_name() {
        for entry in [
            "",
            "app.example",
            "https://",
            "https://app.example/path",
            "https://*.example",
            "https://a@b",
        ] {
            assert_eq!(
                Origins::parse(&[entry.to_owned()]).expect_err(entry),
                InvalidOrigin(entry.to_owned())
            );
        }
    }
}
