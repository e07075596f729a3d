//! Checks the `Transfer-Encoding` of a request.

use http::{HeaderMap, StatusCode, header};

/// The status and text for a request whose transfer codings are not accepted: hyper evaluates only
/// the last one and passes the body on unchanged, whatever the others are.
pub(crate) fn reject(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = values.next()?;
    let is_chunked = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if values.next().is_none() && is_chunked(first.as_bytes()) {
        return None;
    }
    let mut codings = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if codings.all(|coding| coding.trim_ascii().is_empty() || is_chunked(coding)) {
        return Some((
            StatusCode::BAD_REQUEST,
            "The request's Transfer-Encoding is not valid.",
        ));
    }
    Some((
        StatusCode::NOT_IMPLEMENTED,
        "The request's Transfer-Encoding is not supported.",
    ))
}
