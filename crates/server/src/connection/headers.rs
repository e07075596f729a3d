//! Responses as every version of HTTP sends them: which headers are the connection's, and which
//! responses have no body.

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

/// Removes what the connection decides, and not a worker.
pub(crate) fn remove_hop_headers(headers: &mut HeaderMap) {
    for name in [
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// Whether a response has no body, whatever its worker makes.
pub(crate) fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || status_has_no_body(status)
}

/// Whether a response with this status has no body, whatever the method.
pub(crate) fn status_has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn responses_without_a_body() {
        for (method, status, none) in [
            (Method::HEAD, 200, true),
            (Method::GET, 200, false),
            (Method::GET, 204, true),
            (Method::POST, 304, true),
            (Method::POST, 205, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(has_no_body(&method, status), none, "{method} {status}");
        }
    }
}
