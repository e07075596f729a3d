//! Lines of JSON: what a kit says, and what it is told.

use std::borrow::Cow;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use wws_engine::{AnsweredBy, Call, wasmtime::Result};

use super::broken;

/// Names and values, in order.
pub(super) type Pairs = Vec<(Box<str>, Box<str>)>;

/// A message of a kit. Which fields count depends on `op`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Line {
    pub(super) op: String,
    body: usize,
    pub(super) status: i64,
    pub(super) headers: Pairs,
    pub(super) message: String,
    pub(super) level: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) by: i64,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) name: String,
    pub(super) function: u32,
    pub(super) arguments: u32,
}

/// A whole message.
pub(super) struct Message {
    pub(super) line: Line,
    pub(super) body: Bytes,
}

impl Message {
    /// Takes the first message off `bytes`, if it is whole.
    pub(super) fn take(bytes: &mut Bytes) -> Result<Option<Self>> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line: Line = serde_json::from_slice(&bytes[..end]).map_err(broken)?;
        if bytes.len() - end - 1 < line.body {
            return Ok(None);
        }
        bytes.advance(end + 1);
        let body = bytes.split_to(line.body);
        Ok(Some(Self { line, body }))
    }
}

/// Bytes after a reply's line.
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
}

#[derive(Serialize)]
struct Response<'a> {
    status: u16,
    url: &'a str,
    redirected: bool,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: usize,
}

/// Header lines. A value that is not UTF-8 is Latin-1, as in the worker protocol.
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

/// The head of a call's request, and its body.
pub(super) fn request(call: Call) -> Result<(Vec<u8>, Bytes)> {
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
    })?;
    Ok((line, body))
}

/// The head of a response that came back, with the URL that gave it.
pub(super) fn response(response: &http::Response<Bytes>) -> Result<Vec<u8>> {
    let by = response.extensions().get::<AnsweredBy>();
    Ok(serde_json::to_vec(&Response {
        status: response.status().as_u16(),
        url: by.map_or("", |by| &by.url),
        redirected: by.is_some_and(|by| by.redirects > 0),
        headers: pairs(response.headers()),
        body: response.body().len(),
    })?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut bytes = Bytes::from_static(b"{\"op\":\"a\",\"body\":3}\nab");
        assert!(Message::take(&mut bytes).unwrap().is_none());
        let mut bytes =
            Bytes::from_static(b"{\"op\":\"a\",\"body\":3}\nab\n{\"op\":\"b\"}\n{\"op\"");
        let first = Message::take(&mut bytes).unwrap().unwrap();
        assert_eq!((first.line.op.as_str(), &*first.body), ("a", &b"ab\n"[..]));
        assert_eq!(Message::take(&mut bytes).unwrap().unwrap().line.op, "b");
        assert!(Message::take(&mut bytes).unwrap().is_none());
        assert_eq!(&*bytes, b"{\"op\"");
    }

    #[test]
    fn an_answer_names_the_url_that_gave_it() {
        let mut answer = http::Response::new(Bytes::from_static(b"ok"));
        answer.extensions_mut().insert(AnsweredBy {
            url: "http://b.example/end".into(),
            redirects: 2,
        });
        let line: serde_json::Value = serde_json::from_slice(&response(&answer).unwrap()).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "status": 200, "url": "http://b.example/end", "redirected": true, "headers": [], "body": 2,
            })
        );
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let mut bytes = Bytes::from_static(b"hello\n");
        assert!(Message::take(&mut bytes).is_err());
    }
}
