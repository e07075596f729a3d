//! Messages of a kit and the heads of requests and responses, as lines of JSON.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, response};
use serde::{Deserialize, Serialize};
use wws_engine::{
    AnsweredBy, Call, ProgramFailure, SourcePos,
    wasmtime::{Error, Result},
};

/// The error for a message that the host does not understand.
pub(super) fn broken(what: impl std::fmt::Display) -> Error {
    Error::msg(format!("the kit's message cannot be read: {what}"))
}

/// Names and values, in order.
pub(super) type HeaderPairs = Vec<(Box<str>, Box<str>)>;

/// The line of a message. Which fields count depends on `op`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct MessageLine {
    pub(super) op: String,
    body: usize,
    pub(super) status: i64,
    pub(super) headers: HeaderPairs,
    pub(super) message: String,
    /// The place of a failure; a line of 0 is none.
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) level: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) by: i64,
    /// The value that a key must have; none if there must be no such key.
    pub(super) expected: Option<String>,
    /// Seconds after which a key is removed.
    pub(super) ttl: Option<f64>,
    pub(super) prefix: String,
    pub(super) after: Option<String>,
    /// Most keys that are listed.
    pub(super) limit: usize,
    /// Milliseconds; below 0 for no limit.
    pub(super) timeout: i64,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) name: String,
    /// The number of a body.
    pub(super) id: u64,
    pub(super) function: u32,
    pub(super) arguments: u32,
    pub(super) iterations: u64,
    pub(super) length: usize,
    pub(super) split: usize,
    pub(super) n: u64,
    pub(super) r: u32,
    pub(super) p: u32,
}

/// A whole message.
pub(super) struct Message {
    pub(super) line: MessageLine,
    pub(super) body: Bytes,
}

impl MessageLine {
    /// The failure that a kit reports.
    pub(super) fn failure(self) -> ProgramFailure {
        let pos = (self.line > 0).then_some(SourcePos {
            file: self.file.into(),
            line: self.line,
            column: (self.column > 0).then_some(self.column),
        });
        ProgramFailure {
            pos,
            message: self.message,
        }
    }
}

/// Bytes from a kit that are not parsed yet. Each byte is searched once, in however many parts it
/// arrives.
#[derive(Default)]
pub(super) struct IncomingMessages {
    bytes: BytesMut,
    /// Bytes from the start that are known to have no line break.
    searched: usize,
    /// A line whose body is incomplete.
    line: Option<MessageLine>,
}

impl IncomingMessages {
    /// Appends bytes that the kit wrote.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::from(Bytes::from(bytes));
        } else {
            self.bytes.extend_from_slice(&bytes);
        }
    }

    /// The number of bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the first message, if it is complete.
    pub(super) fn take(&mut self) -> Result<Option<Message>> {
        let line = match self.line.take() {
            Some(line) => line,
            None => match self.take_line()? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        if self.bytes.len() < line.body {
            self.line = Some(line);
            return Ok(None);
        }
        let body = match line.body {
            0 => Bytes::new(),
            len => self.bytes.split_to(len).freeze(),
        };
        Ok(Some(Message { line, body }))
    }

    fn take_line(&mut self) -> Result<Option<MessageLine>> {
        let rest = &self.bytes[self.searched..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let end = self.searched + end;
        self.searched = 0;
        let line = serde_json::from_slice(&self.bytes[..end]).map_err(broken)?;
        self.bytes.advance(end + 1);
        Ok(Some(line))
    }
}

/// The number of bytes after the line of a reply.
#[derive(Serialize)]
pub(super) struct Body {
    pub(super) body: usize,
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    url: String,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    params: serde_json::Map<String, serde_json::Value>,
    body: usize,
    /// The number of a body that is read as it comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u64>,
}

#[derive(Serialize)]
struct Response<'a> {
    status: u16,
    url: &'a str,
    redirected: bool,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u64>,
}

/// Header lines. A value that is not UTF-8 is decoded as Latin-1, as in the worker protocol.
fn pairs(headers: &HeaderMap) -> Vec<(&str, Cow<'_, str>)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => text.into(),
                Err(_) => value.as_bytes().iter().map(|byte| *byte as char).collect(),
            };
            (name.as_str(), value)
        })
        .collect()
}

/// The head of a call's request, and its body; `stream` is the number of one that is read as it
/// comes.
pub(super) fn request(call: Call, stream: Option<u64>) -> Result<(Vec<u8>, Bytes)> {
    let (head, body) = call.request.into_parts();
    let line = serde_json::to_vec(&Request {
        method: head.method.as_str(),
        url: head.uri.to_string(),
        headers: pairs(&head.headers),
        params: call
            .params
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect(),
        body: body.len(),
        stream,
    })?;
    Ok((line, body))
}

/// The head of a response, with the URL that it came from, and the length of its body or the number
/// of one that is read as it comes.
pub(super) fn response(
    response: &response::Parts,
    body: usize,
    stream: Option<u64>,
) -> serde_json::Result<Vec<u8>> {
    let by = response.extensions.get::<AnsweredBy>();
    serde_json::to_vec(&Response {
        status: response.status.as_u16(),
        url: by.map_or("", |by| &by.url),
        redirected: by.is_some_and(|by| by.redirects > 0),
        headers: pairs(&response.headers),
        body,
        stream,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn taken(incoming: &mut IncomingMessages) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(Message { line, body }) = incoming.take().unwrap() {
            all.push((line.op, body.to_vec()));
        }
        all
    }

    #[test]
    fn responses_have_their_url() {
        let mut answer = http::Response::new(Bytes::from_static(b"ok"));
        answer.extensions_mut().insert(AnsweredBy {
            url: "http://b.example/end".into(),
            redirects: 2,
        });
        let (head, body) = answer.into_parts();
        let line = |stream| -> serde_json::Value {
            let line = response(&head, body.len(), stream).unwrap();
            serde_json::from_slice(&line).unwrap()
        };
        let mut expected = serde_json::json!({
            "status": 200, "url": "http://b.example/end", "redirected": true, "headers": [],
            "body": 2,
        });
        assert_eq!(line(None), expected);
        expected["stream"] = 7.into();
        assert_eq!(line(Some(7)), expected);
    }

    #[test]
    fn takes_messages_once_they_are_whole() {
        let text = b"{\"op\":\"a\",\"body\":3}\nab\n{\"op\":\"b\"}\n{\"op\"";
        let whole = [("a".to_owned(), b"ab\n".to_vec()), ("b".to_owned(), vec![])];
        for size in 1..=text.len() {
            let mut incoming = IncomingMessages::default();
            let mut all = Vec::new();
            for part in text.chunks(size) {
                incoming.push(part.to_vec());
                all.extend(taken(&mut incoming));
            }
            assert_eq!(all, whole, "in parts of {size}");
            assert_eq!(&*incoming.bytes, b"{\"op\"");
        }
    }

    #[test]
    fn takes_a_body_in_many_parts_in_linear_time() {
        let mut incoming = IncomingMessages::default();
        let head = format!("{{\"op\":\"a\",\"body\":{}}}\n", 1 << 20);
        incoming.push(head.into());
        let start = std::time::Instant::now();
        for _ in 1..1 << 20 {
            incoming.push(vec![0]);
            assert!(incoming.take().unwrap().is_none());
        }
        incoming.push(vec![0]);
        assert_eq!(taken(&mut incoming)[0].1.len(), 1 << 20);
        // A line without an end, too.
        for _ in 0..1 << 20 {
            incoming.push(vec![b' ']);
            assert!(incoming.take().unwrap().is_none());
        }
        // Looking at all of it each time would take minutes.
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    #[test]
    fn rejects_what_is_no_json() {
        let mut incoming = IncomingMessages::default();
        incoming.push(b"hello\n".to_vec());
        assert!(incoming.take().is_err());
    }
}
