//! What the worker writes to its standard output.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Response};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::{Cache, Content};

#[derive(Serialize)]
struct Output<'a> {
    data: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    base64: bool,
    status: u16,
    #[serde(skip_serializing_if = "no_headers")]
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv: Option<&'a Cache>,
}

/// Writes `response` as the server reads it; with `kv`, also the new state of the key/value
/// namespace.
pub(crate) fn write(
    response: Response<Content>,
    kv: Option<&Cache>,
) -> Result<Vec<u8>, serde_json::Error> {
    let (data, base64) = match response.body() {
        Content::Text(text) => (text, false),
        Content::Base64(text) => (text, true),
    };
    let output = Output {
        data,
        base64,
        status: response.status().as_u16(),
        headers: Headers(response.headers()),
        kv,
    };
    let mut text = Vec::with_capacity(256 + data.len() + data.len() / 8);
    serde_json::to_writer(&mut text, &output)?;
    Ok(text)
}

struct Headers<'a>(&'a HeaderMap);

fn no_headers(headers: &Headers<'_>) -> bool {
    headers.0.is_empty()
}

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.keys_len()))?;
        for name in self.0.keys() {
            let mut values = self.0.get_all(name).iter().map(text);
            match (values.next(), values.next()) {
                (Some(first), None) => map.serialize_entry(name.as_str(), &first)?,
                _ => {
                    let all: Vec<_> = self.0.get_all(name).iter().map(text).collect();
                    map.serialize_entry(name.as_str(), &all)?;
                }
            }
        }
        map.end()
    }
}

/// A header's value: UTF-8, or else each byte as the character of its number (Latin-1).
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => value.as_bytes().iter().map(|byte| *byte as char).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn written(response: Response<Content>, kv: Option<&Cache>) -> Value {
        serde_json::from_slice(&write(response, kv).unwrap()).unwrap()
    }

    #[test]
    fn minimal_response_has_data_and_status() {
        assert_eq!(
            written(Response::new("a \"b\"".into()), None),
            json!({"data": "a \"b\"", "status": 200})
        );
    }

    #[test]
    fn headers_once_and_repeated() {
        let response = Response::builder()
            .status(201)
            .header("x-a", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-latin", HeaderValue::from_bytes(b"\xe9").unwrap())
            .body("".into())
            .unwrap();
        let kv = Cache::from([("n".to_owned(), "1".to_owned())]);
        assert_eq!(
            written(response, Some(&kv)),
            json!({"data": "", "status": 201, "kv": {"n": "1"},
                "headers": {"x-a": "1", "set-cookie": ["a=1", "b=2"], "x-latin": "é"}})
        );
    }

    #[test]
    fn bytes_go_as_base64_only_if_they_must() {
        assert_eq!(
            written(Response::new(vec![0xff, 0].into()), None),
            json!({"data": "/wA=", "base64": true, "status": 200})
        );
        assert_eq!(
            written(Response::new("é".as_bytes().to_vec().into()), None),
            json!({"data": "é", "status": 200})
        );
    }
}
