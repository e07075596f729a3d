//! Responses of the kit.

use bytes::Bytes;
use http::header;
use wws_engine::ResponseError;

/// A response of the kit: its status, and names and values of headers.
pub(super) fn response_of(head: &str, body: Bytes) -> Result<http::Response<Bytes>, ResponseError> {
    let mut lines = head.split('\0');
    let status = lines.next().and_then(|status| status.parse().ok());
    let lines: Vec<_> = lines.collect();
    let headers = lines
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[name, value]| (*name, *value));
    let has_type = lines.iter().step_by(2).any(|name| *name == "content-type");
    let mut response = wws_engine::build_response(status.unwrap_or(-1), headers, body)?;
    if !has_type {
        // The kit sets the type of text. Other content has its own type, or none.
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    Ok(response)
}
