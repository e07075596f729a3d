//! What the test components share: reading a request, writing an answer.

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// The most that one `blocking-write-and-flush` takes.
const WRITE_LIMIT: usize = 4096;

/// Bytes asked for at once when a body is read.
const READ_SIZE: u64 = 64 * 1024;

/// A request's path, its segments and its query.
pub struct Target {
    path: String,
    query: String,
}

impl Target {
    pub fn of(request: &IncomingRequest) -> Self {
        let whole = request.path_with_query().unwrap_or_default();
        let (path, query) = whole.split_once('?').unwrap_or((&whole, ""));
        Target {
            path: path.to_owned(),
            query: query.to_owned(),
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first segment of the path, and what follows it.
    pub fn split(&self) -> (&str, &str) {
        let path = self.path.trim_start_matches('/');
        path.split_once('/').unwrap_or((path, ""))
    }

    /// A parameter of the query, as it was sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.parameter(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    }
}

/// An answer whose head has been sent.
pub struct Answer {
    // The stream is dropped before the body that it belongs to.
    stream: Option<OutputStream>,
    body: OutgoingBody,
}

impl Answer {
    pub fn start(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> Self {
        let fields = Fields::new();
        for (name, value) in headers {
            fields
                .append(name, value.as_bytes())
                .expect("a header that the host takes");
        }
        let response = OutgoingResponse::new(fields);
        response
            .set_status_code(status)
            .expect("a status that the host takes");
        let body = response.body().expect("the body for the first time");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream for the first time");
        Answer {
            stream: Some(stream),
            body,
        }
    }

    pub fn stream(&self) -> &OutputStream {
        self.stream.as_ref().expect("a stream until the end")
    }

    /// Writes all of it and waits until the host has taken it.
    pub fn write(&self, bytes: &[u8]) -> Result<(), StreamError> {
        write_all(self.stream(), bytes)
    }

    /// Writes as much at once as the host permits, and does not wait for a flush.
    pub fn write_permitted(&self, mut bytes: &[u8]) -> Result<(), StreamError> {
        let stream = self.stream();
        while !bytes.is_empty() {
            let permitted = stream.check_write()?;
            if permitted == 0 {
                stream.subscribe().block();
                continue;
            }
            let length = bytes.len().min(permitted as usize);
            let (now, rest) = bytes.split_at(length);
            stream.write(now)?;
            bytes = rest;
        }
        Ok(())
    }

    pub fn finish(self) {
        self.finish_with(None);
    }

    pub fn finish_with(mut self, trailers: Option<Fields>) {
        self.stream = None;
        OutgoingBody::finish(self.body, trailers).expect("a complete body");
    }

    /// The body without its stream, to do with it what is wanted.
    pub fn into_body(mut self) -> OutgoingBody {
        self.stream = None;
        self.body
    }
}

pub fn write_all(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    for part in bytes.chunks(WRITE_LIMIT) {
        stream.blocking_write_and_flush(part)?;
    }
    Ok(())
}

/// Answers with a text.
pub fn text(out: ResponseOutparam, status: u16, text: &str) {
    let answer = Answer::start(out, status, &[("content-type", "text/plain")]);
    // The client may be gone.
    if answer.write(text.as_bytes()).is_ok() {
        answer.finish();
    }
}

/// Calls `take` with each part of a stream until its end.
pub fn for_each_part(
    stream: &InputStream,
    mut take: impl FnMut(&[u8]) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    loop {
        match stream.blocking_read(READ_SIZE) {
            Ok(part) => take(&part)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Reads a whole body.
pub fn collect(body: &IncomingBody) -> Result<Vec<u8>, StreamError> {
    let stream = body.stream().expect("the stream for the first time");
    let mut collected = Vec::new();
    for_each_part(&stream, |part| {
        collected.extend_from_slice(part);
        Ok(())
    })?;
    Ok(collected)
}

/// One `name: value` in a line for each field.
pub fn lines(fields: &Fields) -> String {
    fields
        .entries()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)))
        .collect()
}
