//! Answers an operator's requests.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use wws_project::{PanelAccess, Project};
use wws_telemetry::{Telemetry, TextFormat, WorkerSeries};

use crate::status::{api, metrics, panel, workers};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What the answers show.
pub(crate) struct StatusView<'a> {
    pub(crate) project: &'a Project,
    pub(crate) telemetry: &'a Telemetry,
    /// The series of each worker, in their order.
    pub(crate) series: &'a [Arc<WorkerSeries>],
    pub(crate) gauges: metrics::ServerGauges,
    pub(crate) kv: &'a dyn wws_kv::Store,
}

/// A request of an operator.
pub(crate) struct StatusRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
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
    match request.path {
        "/metrics" | "/healthz" | "/readyz" if !reads(request.method) => not_allowed(),
        "/metrics" => {
            let accept = request.headers.get(header::ACCEPT);
            let accept = accept.and_then(|accept| accept.to_str().ok());
            let format = TextFormat::accepted(accept.unwrap_or(""));
            let text = metrics::text(view, format);
            answer(StatusCode::OK, format.content_type(), text.into())
        }
        "/healthz" => text(StatusCode::OK, "alive\n"),
        "/readyz" if view.gauges.draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => text(StatusCode::OK, "ready\n"),
        _ => {
            let shared = shared(view, request).await;
            shared.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "There is nothing here.\n"))
        }
    }
}

/// Answers a request for what may be served on the port of the workers as well. `None` for other
/// paths.
pub(crate) async fn shared(
    view: &StatusView<'_>,
    request: &StatusRequest<'_>,
) -> Option<Response<Bytes>> {
    if !is_shared(request.path) {
        return None;
    }
    if !reads(request.method) {
        return Some(not_allowed());
    }
    if view.project.settings().panel != PanelAccess::Any {
        if request.client == StatusClient::Remote || is_forwarded(request.headers) {
            return Some(text(
                StatusCode::FORBIDDEN,
                "Only for clients on this machine (server.panel).\n",
            ));
        }
        if !is_direct(request.headers) {
            return Some(text(
                StatusCode::FORBIDDEN,
                "Open this by an address or as localhost: a name could be another site's.\n",
            ));
        }
    }
    if let Some(path) = request.path.strip_prefix("/_panel") {
        return Some(match path {
            "/" => panel::page(),
            "" => redirect("/_panel/"),
            _ => return None,
        });
    }
    let path = request.path.strip_prefix("/_api/")?;
    let nothing = || json(StatusCode::NOT_FOUND, &json!({}));
    Some(match path.split('/').collect::<Vec<_>>().as_slice() {
        ["v0", "workers"] | ["v0", "workers", ""] => json(StatusCode::OK, &workers::workers(view)),
        ["v0", "workers", id] => match workers::find(view, id) {
            Some(worker) => json(StatusCode::OK, &workers::worker(worker)),
            None => nothing(),
        },
        ["v1", "status"] => json(StatusCode::OK, &api::status(view)),
        ["v1", "workers", id] => match workers::find(view, id) {
            Some(worker) => json(StatusCode::OK, &api::worker(view, worker)),
            None => nothing(),
        },
        ["v1", "kv", namespace] => {
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
        _ => return None,
    })
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

/// Whether a path belongs to the panel or its interface.
pub(crate) fn is_shared(path: &str) -> bool {
    path.starts_with("/_api/") || path == "/_panel" || path.starts_with("/_panel/")
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether the client named the server by an address or as `localhost`. A page of another site
/// whose name leads here has that site's name.
fn is_direct(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        // HTTP/1.0 or HTTP/2, which no page of another site chooses: a browser sends a host.
        return true;
    };
    let Ok(authority) = host.to_str().unwrap_or("").parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn not_allowed() -> Response<Bytes> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Bytes> {
    answer(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    )
}

fn json(status: StatusCode, value: &Value) -> Response<Bytes> {
    answer(status, "application/json", value.to_string().into())
}

/// A response that no other site and no cache may use.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        http::HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_other_sites_are_not_direct() {
        let direct = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_direct(&headers)
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
    }
}
