//! Where a redirect leads, and what is sent along.

use std::borrow::Cow;

use http::{
    HeaderMap, Method, StatusCode,
    header::{self, HeaderName},
};
use url::Url;

use crate::error::Error;

/// Credentials: they belong to one origin.
const OF_ORIGIN: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// Fields that describe a body, and are sent with it.
const OF_BODY: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
];

/// The next hop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) url: Url,
    pub(crate) method: Method,
    /// Whether the body is sent again.
    pub(crate) body: bool,
}

/// Where a response redirects to; `None` if it does not.
pub(crate) fn next(
    status: StatusCode,
    headers: &HeaderMap,
    from: &Url,
    method: &Method,
) -> Result<Option<Hop>, Error> {
    // Fetch standard, HTTP-redirect fetch: which methods become GET and lose the body.
    let again = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *method != Method::POST,
        StatusCode::SEE_OTHER => *method == Method::GET || *method == Method::HEAD,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => return Ok(None),
    };
    let Some(location) = headers.get(header::LOCATION) else {
        return Ok(None);
    };
    let host = from.host_str().unwrap_or_default();
    let wrong = |what: &str| Error::internal(format!("`{host}` redirects to {what}"));
    // Bytes beyond ASCII are UTF-8 in practice; what is not is Latin-1.
    let location = match std::str::from_utf8(location.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => Cow::from_iter(location.as_bytes().iter().map(|byte| *byte as char)),
    };
    let mut url = from.join(&location).map_err(|_| wrong("what is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL with a user name or password"));
    }
    url.set_fragment(None);
    Ok(Some(if again {
        Hop {
            url,
            method: method.clone(),
            body: true,
        }
    } else {
        Hop {
            url,
            method: Method::GET,
            body: false,
        }
    }))
}

/// Removes headers that the next hop must not see.
pub(crate) fn strip(headers: &mut HeaderMap, from: &Url, hop: &Hop) {
    if from.origin() != hop.url.origin() {
        for name in &OF_ORIGIN {
            headers.remove(name);
        }
    }
    if !hop.body {
        for name in &OF_BODY {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn hop(status: u16, location: &str, method: &Method) -> Result<Option<Hop>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().expect(location));
        next(
            StatusCode::from_u16(status).expect("status"),
            &headers,
            &"https://a.example/dir/page?q#f".parse().expect("url"),
            method,
        )
    }

    #[test]
    fn methods_and_bodies() {
        for (status, method, expected, body) in [
            (301, Method::POST, Method::GET, false),
            (302, Method::POST, Method::GET, false),
            (301, Method::PUT, Method::PUT, true),
            (302, Method::PUT, Method::PUT, true),
            (301, Method::PATCH, Method::PATCH, true),
            (302, Method::DELETE, Method::DELETE, true),
            (301, Method::HEAD, Method::HEAD, true),
            (302, Method::OPTIONS, Method::OPTIONS, true),
            (303, Method::POST, Method::GET, false),
            (303, Method::PUT, Method::GET, false),
            (303, Method::DELETE, Method::GET, false),
            (303, Method::HEAD, Method::HEAD, true),
            (302, Method::GET, Method::GET, true),
            (307, Method::POST, Method::POST, true),
            (308, Method::PATCH, Method::PATCH, true),
        ] {
            let hop = hop(status, "/x", &method).expect("valid").expect("a hop");
            assert_eq!(
                (hop.method, hop.body),
                (expected, body),
                "{status} {method}"
            );
        }
        for status in [200, 300, 304, 305, 400] {
            assert_eq!(hop(status, "/x", &Method::GET), Ok(None));
        }
    }

    #[test]
    fn locations() {
        for (location, url) in [
            ("other", "https://a.example/dir/other"),
            ("/other#f", "https://a.example/other"),
            ("//b.example", "https://b.example/"),
            ("http://b.example:81/x", "http://b.example:81/x"),
            ("?x", "https://a.example/dir/page?x"),
            ("", "https://a.example/dir/page?q"),
        ] {
            let hop = hop(302, location, &Method::GET)
                .expect(location)
                .expect("a hop");
            assert_eq!(hop.url.as_str(), url);
        }
        for location in [
            "https://",
            "http://[::1",
            "https://me:secret@b.example/",
            "//b@c",
        ] {
            let error = hop(302, location, &Method::GET).expect_err(location);
            assert!(
                error.message.contains("`a.example` redirects to"),
                "{error}"
            );
            assert!(!error.message.contains("secret"));
        }
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let from: Url = "https://a.example/".parse().expect("url");
        for (to, kept) in [
            ("https://a.example/x", true),
            ("https://a.example:443/x", true),
            ("https://a.example:444/", false),
            ("http://a.example/", false),
            ("https://b.example/", false),
            ("https://x.a.example/", false),
        ] {
            let mut headers = HeaderMap::new();
            for name in ["authorization", "cookie", "accept", "content-type"] {
                headers.insert(name, "x".parse().expect("value"));
            }
            let hop = Hop {
                url: to.parse().expect(to),
                method: Method::GET,
                body: true,
            };
            strip(&mut headers, &from, &hop);
            assert_eq!(headers.contains_key("authorization"), kept, "{to}");
            assert_eq!(headers.contains_key("cookie"), kept, "{to}");
            assert!(headers.contains_key("accept") && headers.contains_key("content-type"));
            strip(&mut headers, &from, &Hop { body: false, ..hop });
            assert!(!headers.contains_key("content-type"));
        }
    }
}
