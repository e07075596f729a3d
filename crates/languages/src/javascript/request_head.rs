//! The head of a request, as the kit reads it.

use http::Method;
use wws_engine::{Call, wasmtime::Result};

/// Method, URL, parameters as JSON, whether there is a body (1, 0, or 2 for a stream), and headers,
/// separated by NUL characters.
pub(super) fn request_head(call: &Call, is_stream: bool) -> Result<String> {
    let request = &call.request;
    let mut head = String::with_capacity(256);
    head.push_str(request.method().as_str());
    head.push('\0');
    head.push_str(&request.uri().to_string());
    head.push('\0');
    if call.params.is_empty() {
        head.push_str("{}");
    } else {
        let params: serde_json::Map<_, _> = call
            .params
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        head.push_str(&serde_json::to_string(&params)?);
    }
    head.push('\0');
    head.push_str(match request.method() {
        &Method::GET | &Method::HEAD => "0",
        _ if is_stream => "2",
        _ if request.body().is_empty() => "0",
        _ => "1",
    });
    for (name, value) in request.headers() {
        head.push('\0');
        head.push_str(name.as_str());
        head.push('\0');
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => head.push_str(value),
            // Latin-1, as in the worker protocol.
            Err(_) => head.extend(value.as_bytes().iter().map(|byte| *byte as char)),
        }
    }
    Ok(head)
}
