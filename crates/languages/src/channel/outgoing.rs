//! A kit's outgoing requests.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use wws_engine::{Host, HttpFailure};

use super::{
    answer::{Refusal, Reply},
    message::{self, Line},
};

/// Sends a request, and waits for its answer.
pub(super) async fn send(host: &mut Host, line: Line, body: Bytes) -> Result<Reply, Refusal> {
    let request = request(&line, body)?;
    let sending = host.send_http(request).map_err(failed)?;
    let response = sending.await.map_err(failed)?;
    let line = message::response(&response).map_err(|error| ("internal", error.to_string()))?;
    Ok((line, response.into_body()))
}

fn failed(failure: HttpFailure) -> Refusal {
    (failure.kind.name(), failure.message)
}

fn request(line: &Line, body: Bytes) -> Result<Request<Bytes>, Refusal> {
    let invalid = |what: String| ("invalid-request", what);
    let mut request = Request::new(body);
    *request.method_mut() = line
        .method
        .parse()
        .map_err(|_| invalid(format!("the method {:?} is not valid", line.method)))?;
    // A fragment is not sent.
    let url = line.url.split('#').next().unwrap_or_default();
    *request.uri_mut() = url
        .parse()
        .map_err(|_| invalid(format!("the URL {url:?} is not valid")))?;
    for (name, value) in &line.headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_| invalid(format!("{name:?} is not the name of a header")))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| invalid(format!("the value of header {name} is not valid")))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}
