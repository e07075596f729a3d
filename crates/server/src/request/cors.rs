//! CORS: lets pages of other origins read responses, and answers their preflight requests.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use wws_project::{Cors, Origins, Project};

use crate::connection::body::Body;

/// The methods of a worker that names none.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// Bytes of the headers that a page asks for, and is allowed if the worker names none.
const MAX_HEADERS: usize = 4 << 10;

/// The rules of a project.
pub(crate) struct ProjectCors {
    /// For each worker, in their order; `None` where the server leaves CORS to the worker.
    workers: Vec<Option<CorsRules>>,
    /// For everything else.
    other: Option<CorsRules>,
    /// Whether there is any rule.
    pub(crate) any: bool,
}

impl ProjectCors {
    pub(crate) fn new(project: &Project) -> Self {
        let server = &project.settings().cors;
        let rules = |own: Option<&Cors>| {
            let default = Cors::default();
            CorsRules::new(own.unwrap_or(&default), server)
        };
        let workers = project.workers().iter();
        let workers: Vec<_> = workers.map(|worker| rules(worker.cors.as_ref())).collect();
        let other = rules(None);
        Self {
            any: other.is_some() || workers.iter().any(Option::is_some),
            workers,
            other,
        }
    }

    /// The rules for the responses of a worker, or of no worker.
    pub(crate) fn rules(&self, worker: Option<usize>) -> Option<&CorsRules> {
        match worker {
            Some(index) => self.workers.get(index)?.as_ref(),
            None => self.other.as_ref(),
        }
    }
}

/// The rules for some responses.
pub(crate) struct CorsRules {
    /// `None` for all.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    methods: HeaderValue,
    /// `None` for those that a page asks for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl CorsRules {
    /// The rules of these settings, with the origins of the server unless they name some. `None`
    /// without any origin.
    fn new(cors: &Cors, server: &Origins) -> Option<Self> {
        let origins = match cors.origins.as_ref().unwrap_or(server) {
            Origins::None => return None,
            Origins::Any => None,
            Origins::Only(origins) => {
                let values = origins
                    .iter()
                    .map(|origin| HeaderValue::try_from(origin).ok());
                Some(values.collect::<Option<Vec<_>>>()?)
            }
        };
        let list = |names: Vec<&str>| HeaderValue::try_from(names.join(", ")).ok();
        let methods = cors
            .methods
            .0
            .iter()
            .map(Method::as_str)
            .collect::<Vec<_>>();
        let names = |names: &[HeaderName]| match names {
            [] => None,
            names => list(names.iter().map(HeaderName::as_str).collect()),
        };
        Some(Self {
            // A flag that a command line set may still meet all origins.
            credentials: cors.credentials && origins.is_some(),
            origins,
            methods: match methods.as_slice() {
                [] => HeaderValue::from_static(METHODS),
                _ => list(methods)?,
            },
            headers: names(&cors.headers.0),
            expose: names(&cors.expose.0),
            max_age: cors.max_age.as_secs().into(),
        })
    }

    /// The value of `Access-Control-Allow-Origin` for a page; `None` if it may not read responses.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins
                .iter()
                .find(|allowed| Some(*allowed) == origin)
                .cloned(),
        }
    }

    /// Adds what a page needs to read a response, unless the worker has decided that.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if self.origins.is_some() {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let Some(allowed) = self.allowed(origin) else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            let credentials = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// Answers a preflight request.
    pub(crate) fn preflight(&self, request: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        for name in [
            "origin",
            "access-control-request-method",
            "access-control-request-headers",
        ] {
            headers.append(VARY, HeaderValue::from_static(name));
        }
        let Some(allowed) = self.allowed(request.get(ORIGIN)) else {
            return response;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let asked = asked.filter(|asked| asked.len() <= MAX_HEADERS);
        if let Some(allowed) = self.headers.as_ref().or(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        if self.credentials {
            let credentials = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        response
    }
}

/// The method that a preflight request asks for; `None` for other requests.
pub(crate) fn preflight_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rules(origins: &str, credentials: bool) -> Option<CorsRules> {
        let cors = Cors {
            credentials,
            ..Cors::default()
        };
        CorsRules::new(&cors, &Origins::new(origins).unwrap())
    }

    fn read(rules: &CorsRules, origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        rules.add_to(&mut headers, Some(&origin.parse().unwrap()));
        headers
    }

    #[test]
    fn only_named_origins_may_read() {
        let rules = rules("https://a.example, https://b.example", true).unwrap();
        let headers = read(&rules, "https://b.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://b.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(headers[VARY], "origin");
        for other in ["https://c.example", "null", "https://a.example.evil"] {
            let headers = read(&rules, other);
            assert!(
                !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN),
                "{other}"
            );
            // A cache must not give this response to an allowed page.
            assert_eq!(headers[VARY], "origin");
        }
    }

    #[test]
    fn all_origins_never_get_credentials() {
        let rules = rules("*", true).unwrap();
        let headers = read(&rules, "https://a.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert!(!headers.contains_key(VARY));
    }

    #[test]
    fn keeps_the_header_of_a_worker() {
        let rules = rules("https://a.example", false).unwrap();
        let mut headers = HeaderMap::new();
        let own = HeaderValue::from_static("https://own.example");
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, own.clone());
        rules.add_to(&mut headers, Some(&"https://a.example".parse().unwrap()));
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], own);
    }

    #[test]
    fn only_preflight_requests_are_answered() {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, "https://a.example".parse().unwrap());
        assert_eq!(preflight_method(&Method::OPTIONS, &headers), None);
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, "PUT".parse().unwrap());
        assert_eq!(
            preflight_method(&Method::OPTIONS, &headers),
            Some(Method::PUT)
        );
        assert_eq!(preflight_method(&Method::GET, &headers), None);
        headers.remove(ORIGIN);
        assert_eq!(preflight_method(&Method::OPTIONS, &headers), None);
    }

    #[test]
    fn without_origins_there_are_no_rules() {
        assert!(rules("", true).is_none());
    }
}
