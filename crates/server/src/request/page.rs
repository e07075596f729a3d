//! Responses of the server itself: short pages for the caller, which do not reveal causes.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::connection::body::Body;

/// Seconds after which the caller may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The text of a 500, whose cause is in the log.
pub(crate) const INTERNAL_ERROR_TEXT: &str = "The request could not be answered.";

/// The text of a 503.
pub(crate) const BUSY_TEXT: &str = "The server is busy. Try again.";

/// The text of a 503 of a worker whose code is not compiled.
pub(crate) const UNCOMPILED_TEXT: &str = "The worker is not ready. Try again.";

/// A page with a status and the request id, which the operator finds in the log.
pub(crate) fn page(status: StatusCode, text: &str, request_id: &str) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("Error");
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{code} \
         {reason}</title></head>\n\
         <body><h1>{reason}</h1><p>{text}</p><p><small>Request {request_id}</small></p></body>\n\
         </html>\n",
        code = status.as_u16(),
    );
    let mut response = Response::new(Body::from(Bytes::from(html)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}
