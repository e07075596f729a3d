//! A kit's outgoing requests.

use bytes::Bytes;
use http::Request;
use wws_engine::{Decode, Host, HttpFailure, RequestBody, header_map};

use crate::channel::message::{self, MessageLine};
use crate::channel::reply::{Refusal, Reply, internal};
use crate::channel::session::Session;
use crate::incoming::{IncomingBody, SHORT};

/// Sends a request, and waits for its answer. The kit reads a body that is not short as it comes.
pub(super) async fn send(
    host: &mut Host,
    line: MessageLine,
    body: Bytes,
) -> Result<Reply, Refusal> {
    let request = request(&line, body)?.map(RequestBody::Collected);
    let sending = host.stream_http(request).map_err(failed)?;
    let (head, body) = sending.await.map_err(failed)?.into_parts();
    let (bytes, stream) = match body.known_size() {
        Some(size) if size <= SHORT => {
            let read = body.read_all().await;
            (read.map_err(|error| failed(error.into()))?, None)
        }
        _ => {
            let session = Session::of(host).map_err(internal)?;
            session.last_body += 1;
            let body = IncomingBody::Response(Box::new(body));
            session.bodies.insert(session.last_body, body);
            (Bytes::new(), Some(session.last_body))
        }
    };
    let line = message::response(&head, bytes.len(), stream).map_err(internal)?;
    Ok((line, bytes))
}

fn failed(failure: HttpFailure) -> Refusal {
    (failure.kind.name(), failure.message)
}

fn request(line: &MessageLine, body: Bytes) -> Result<Request<Bytes>, Refusal> {
    let invalid = |what: String| ("invalid-request", what);
    let mut request = Request::new(body);
    // Python and Ruby can decode gzip themselves, and a worker that asks for it may do so.
    request.extensions_mut().insert(Decode::IfUnasked);
    *request.method_mut() = line
        .method
        .parse()
        .map_err(|_| invalid(format!("the method {:?} is not valid", line.method)))?;
    // A fragment is not sent.
    let url = line.url.split('#').next().unwrap_or_default();
    *request.uri_mut() = url
        .parse()
        .map_err(|_| invalid(format!("the URL {url:?} is not valid")))?;
    let lines = line.headers.iter();
    *request.headers_mut() = header_map(lines.map(|(n, v)| (n.as_bytes(), v.as_bytes())))
        .map_err(|error| invalid(error.message))?;
    Ok(request)
}
