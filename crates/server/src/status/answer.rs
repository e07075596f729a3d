//! Answers an operator's requests.

use std::net::IpAddr;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use wws_project::PanelAccess;
use wws_telemetry::TextFormat;

use crate::status::private_response::private_response;
use crate::status::view::StatusView;
use crate::status::{api, metrics, panel, workers};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request of an operator.
pub(crate) struct StatusRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) client: StatusClient,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusClient {
    /// A program on the same machine, or in the same pod.
    Local,
    /// Another machine.
    Remote,
}

/// Answers a request on the admin address.
pub(crate) async fn admin(view: &StatusView<'_>, request: &StatusRequest<'_>) -> Response<Bytes> {
    match request.uri.path() {
        "/metrics" | "/healthz" | "/readyz" if !reads(request.method) => not_allowed(),
        "/metrics" => {
            let accept = request.headers.get(header::ACCEPT);
            let accept = accept.and_then(|accept| accept.to_str().ok());
            let format = TextFormat::accepted(accept.unwrap_or(""));
            let text = metrics::text(view, format);
            private_response(StatusCode::OK, format.content_type(), text.into())
        }
        "/healthz" => text(StatusCode::OK, "alive\n"),
        "/readyz" if view.gauges.draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" if view.gauges.uncompiled > 0 => {
            let waiting = match view.gauges.uncompiled {
                1 => "1 worker waits for its code\n".to_owned(),
                count => format!("{count} workers wait for their code\n"),
            };
            text(StatusCode::SERVICE_UNAVAILABLE, waiting)
        }
        "/readyz" => text(StatusCode::OK, "ready\n"),
        path => match SharedRoute::parse(path) {
            Some(route) => shared(view, request, route).await,
            None => text(StatusCode::NOT_FOUND, "There is nothing here.\n"),
        },
    }
}

/// Answers a request for what may be served on the port of the workers as well.
pub(crate) async fn shared(
    view: &StatusView<'_>,
    request: &StatusRequest<'_>,
    route: SharedRoute<'_>,
) -> Response<Bytes> {
    if !reads(request.method) {
        return not_allowed();
    }
    if view.project.settings().panel != PanelAccess::Any {
        if request.client == StatusClient::Remote || is_forwarded(request.headers) {
            return text(
                StatusCode::FORBIDDEN,
                "Only for clients on this machine (server.panel).\n",
            );
        }
        if !is_direct(request) {
            return text(
                StatusCode::FORBIDDEN,
                "Open this by an address or as localhost: a name could be another site's.\n",
            );
        }
    }
    if !matches!(route, SharedRoute::Panel | SharedRoute::PanelDirectory) && is_cross_site(request)
    {
        return text(StatusCode::FORBIDDEN, "Not for pages of other sites.\n");
    }
    let nothing = || json(StatusCode::NOT_FOUND, &json!({}));
    match route {
        SharedRoute::Panel => redirect("/_panel/"),
        SharedRoute::PanelDirectory => panel::page(),
        SharedRoute::Workers => json(StatusCode::OK, &workers::workers(view)),
        SharedRoute::Worker(id) => match workers::find(view, id) {
            Some(worker) => json(StatusCode::OK, &workers::worker(worker)),
            None => nothing(),
        },
        SharedRoute::Status => json(StatusCode::OK, &api::status(view)),
        SharedRoute::WorkerStatus(id) => match workers::find(view, id) {
            Some(worker) => json(StatusCode::OK, &api::worker(view, worker)),
            None => nothing(),
        },
        SharedRoute::Keys(namespace) => {
            let namespace = percent_decode_str(namespace).decode_utf8_lossy();
            match api::keys(view, &namespace).await {
                Some(Ok(keys)) => json(StatusCode::OK, &keys),
                Some(Err(error)) => {
                    let error = json!({ "error": error.to_string() });
                    json(StatusCode::BAD_GATEWAY, &error)
                }
                None => nothing(),
            }
        }
    }
}

/// A path of the panel or its interface. All other paths are the project's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedRoute<'a> {
    Panel,
    PanelDirectory,
    /// As Wasm Workers Server 1.7 has it.
    Workers,
    /// As Wasm Workers Server 1.7 has it, by the worker's id.
    Worker(&'a str),
    Status,
    /// By the worker's id.
    WorkerStatus(&'a str),
    /// By the namespace, percent-encoded.
    Keys(&'a str),
}

impl<'a> SharedRoute<'a> {
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        let path = match path {
            "/_panel" => return Some(Self::Panel),
            "/_panel/" => return Some(Self::PanelDirectory),
            _ => path.strip_prefix("/_api/")?,
        };
        Some(match path {
            "v0/workers" | "v0/workers/" => Self::Workers,
            "v1/status" => Self::Status,
            _ => {
                let (collection, id) = path.rsplit_once('/')?;
                match collection {
                    "v0/workers" => Self::Worker(id),
                    "v1/workers" => Self::WorkerStatus(id),
                    "v1/kv" => Self::Keys(id),
                    _ => return None,
                }
            }
        })
    }
}

/// Whether a proxy passed the request on, so that the peer is not the client.
fn is_forwarded(headers: &HeaderMap) -> bool {
    [header::FORWARDED, header::VIA, FORWARDED_FOR, REAL_IP]
        .iter()
        .any(|name| headers.contains_key(name))
}

fn redirect(location: &'static str) -> Response<Bytes> {
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "");
    let location = HeaderValue::from_static(location);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The server as the client named it.
fn authority(request: &StatusRequest<'_>) -> Option<Authority> {
    match request.headers.get(header::HOST) {
        Some(host) => host.to_str().ok()?.parse().ok(),
        // HTTP/2.
        None => request.uri.authority().cloned(),
    }
}

/// Whether the client named the server by an address or as `localhost`. A page of another site
/// whose name leads here has that site's name.
fn is_direct(request: &StatusRequest<'_>) -> bool {
    let Some(authority) = authority(request) else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Whether a browser says that a page of another site asks.
fn is_cross_site(request: &StatusRequest<'_>) -> bool {
    let site = request.headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return true;
    }
    let Some(origin) = request.headers.get(header::ORIGIN) else {
        return false;
    };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok());
    origin.is_none_or(|origin| origin.authority() != authority(request).as_ref())
}

fn not_allowed() -> Response<Bytes> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Bytes> {
    private_response(status, "text/plain; charset=utf-8", text.into())
}

fn json(status: StatusCode, value: &Value) -> Response<Bytes> {
    private_response(status, "application/json", value.to_string().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> StatusRequest<'a> {
        StatusRequest {
            method: &Method::GET,
            uri,
            headers,
            client: StatusClient::Local,
        }
    }

    #[test]
    fn rejects_host_names_of_other_sites() {
        let direct = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            let http1 = is_direct(&request(&Uri::from_static("/_panel/"), &headers));
            if let Ok(uri) = format!("http://{host}/_panel/").parse() {
                assert_eq!(
                    is_direct(&request(&uri, &HeaderMap::new())),
                    http1,
                    "{host}"
                );
            }
            http1
        };
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.0.0.7",
        ] {
            assert!(direct(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9090",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!direct(host), "{host}");
        }
        let nameless = Uri::from_static("/_panel/");
        assert!(!is_direct(&request(&nameless, &HeaderMap::new())));
    }

    #[test]
    fn requests_of_other_sites_are_known() {
        let cross = |headers: &[(HeaderName, &'static str)]| {
            let mut all = HeaderMap::new();
            all.insert(header::HOST, HeaderValue::from_static("127.0.0.1:9090"));
            for (name, value) in headers {
                all.insert(name, HeaderValue::from_static(value));
            }
            is_cross_site(&request(&Uri::from_static("/_api/v1/status"), &all))
        };
        assert!(!cross(&[]));
        assert!(!cross(&[(FETCH_SITE, "same-origin")]));
        assert!(!cross(&[(FETCH_SITE, "none")]));
        assert!(!cross(&[(header::ORIGIN, "http://127.0.0.1:9090")]));
        assert!(cross(&[(FETCH_SITE, "cross-site")]));
        assert!(cross(&[(FETCH_SITE, "same-site")]));
        for origin in ["null", "http://evil.example", "http://127.0.0.1:8080"] {
            assert!(cross(&[(header::ORIGIN, origin)]), "{origin}");
        }
    }

    #[test]
    fn other_paths_belong_to_the_project() {
        for (path, route) in [
            ("/_panel", Some(SharedRoute::Panel)),
            ("/_panel/", Some(SharedRoute::PanelDirectory)),
            ("/_panel/x", None),
            ("/_api/hello", None),
            ("/_api/v0/workers", Some(SharedRoute::Workers)),
            ("/_api/v0/workers/7", Some(SharedRoute::Worker("7"))),
            ("/_api/v0/workers/7/x", None),
            ("/_api/v1/kv/a%2Fb", Some(SharedRoute::Keys("a%2Fb"))),
            ("/_api/v2/status", None),
        ] {
            assert_eq!(SharedRoute::parse(path), route, "{path}");
        }
    }
}
