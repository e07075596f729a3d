//! What the server writes to the worker's standard input.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::Cache;

/// What a handler can take as the request's body.
pub trait Body: Sized {
    /// Makes it from the body's bytes.
    fn from_bytes(bytes: Vec<u8>) -> Self;
    /// Makes it from a body that is text, as most are.
    fn from_text(text: String) -> Self;
}

/// A body that is not UTF-8 has the replacement character in place of what is not. `Vec<u8>` gets
/// the bytes.
impl Body for String {
    fn from_bytes(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    fn from_text(text: String) -> Self {
        text
    }
}

impl Body for Vec<u8> {
    fn from_bytes(bytes: Vec<u8>) -> Self {
        bytes
    }

    fn from_text(text: String) -> Self {
        text.into_bytes()
    }
}

/// One request, and what comes with it. Borrows from the text it is read from wherever nothing is
/// escaped there.
#[derive(Deserialize)]
pub(crate) struct Input<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    header_list: Option<Headers>,
    #[serde(borrow, default)]
    body: Cow<'a, str>,
    #[serde(default)]
    body_base64: bool,
    #[serde(borrow, default)]
    kv: Store<'a>,
    #[serde(default)]
    params: HashMap<String, String>,
}

/// The request, the route's parameters, and the store.
pub(crate) type Parts<'a, B> = (Request<B>, HashMap<String, String>, Store<'a>);

/// A request that cannot be handed to a handler.
#[derive(Debug)]
pub(crate) struct BadRequest(String);

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's request is not as expected: {}", self.0)
    }
}

impl<'a> Input<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, BadRequest> {
        serde_json::from_slice(text).map_err(|error| BadRequest(error.to_string()))
    }

    pub(crate) fn into_parts<B: Body>(self) -> Result<Parts<'a, B>, BadRequest> {
        let body = if self.body_base64 {
            let bytes = STANDARD.decode(self.body.as_bytes());
            B::from_bytes(bytes.map_err(|error| BadRequest(format!("body: {error}")))?)
        } else {
            B::from_text(self.body.into_owned())
        };
        let mut request = Request::new(body);
        *request.method_mut() = self
            .method
            .parse()
            .map_err(|error| BadRequest(format!("method: {error}")))?;
        *request.uri_mut() = self
            .url
            .parse()
            .map_err(|error| BadRequest(format!("url: {error}")))?;
        *request.headers_mut() = self.header_list.unwrap_or(self.headers).0;
        Ok((request, self.params, self.kv))
    }
}

/// Headers as an object (a value a name) or as a list of pairs (every line).
#[derive(Default)]
struct Headers(HeaderMap);

impl Headers {
    /// What is no header is left out: a worker is not to fail for what a client sends.
    fn add(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            self.0.append(name, value);
        }
    }
}

/// Text that is borrowed unless something in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::default();
                while let Some((name, value)) = map.next_entry::<Text<'_>, Text<'_>>()? {
                    headers.add(&name.0, &value.0);
                }
                Ok(headers)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::default();
                while let Some((name, value)) = list.next_element::<(Text<'_>, Text<'_>)>()? {
                    headers.add(&name.0, &value.0);
                }
                Ok(headers)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The key/value namespace as the server gave it: what the handler's copy is compared with.
#[derive(Default)]
pub(crate) struct Store<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Store<'_> {
    /// A copy for the handler to change.
    pub(crate) fn to_cache(&self) -> Cache {
        let pairs = self.0.iter();
        pairs
            .map(|(key, value)| (key.clone().into_owned(), value.clone().into_owned()))
            .collect()
    }

    /// Whether `cache` still is what it was made as.
    pub(crate) fn is(&self, cache: &Cache) -> bool {
        let mut pairs = self.0.iter();
        self.0.len() == cache.len()
            && pairs.all(|(key, value)| cache.get(&**key).is_some_and(|now| now == value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Store<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Store<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Store<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Text<'_>, Text<'_>>()? {
                    pairs.push((key.0, value.0));
                }
                Ok(Store(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read<B: Body>(text: &str) -> (Request<B>, HashMap<String, String>, Cache) {
        let (request, params, store) = Input::parse(text.as_bytes()).unwrap().into_parts().unwrap();
        (request, params, store.to_cache())
    }

    #[test]
    fn reads_a_full_request() {
        let (request, params, cache) = read::<String>(
            r#"{"url":"http://localhost:3000/a?b=c","method":"PATCH","headers":{"x-a":"1","accept":"*/*"},"body":"a \"b\"\n",
                "kv":{"n":"1","quote\"d":"\u00e9"},"params":{"id":"7"},"of the future":[1]}"#,
        );
        assert_eq!(request.method(), "PATCH");
        assert_eq!(request.uri().path(), "/a");
        assert_eq!(request.uri().query(), Some("b=c"));
        assert_eq!(request.headers()["x-a"], "1");
        assert_eq!(request.headers().len(), 2);
        assert_eq!(request.body(), "a \"b\"\n");
        assert_eq!(params["id"], "7");
        assert_eq!(cache["quote\"d"], "é");
    }

    #[test]
    fn reads_a_minimal_request() {
        let (request, params, cache) = read::<Vec<u8>>(r#"{"url":"/","method":"GET"}"#);
        assert!(request.body().is_empty() && params.is_empty() && cache.is_empty());
    }

    #[test]
    fn bytes_arrive_as_bytes_and_as_text_with_replacements() {
        let text = r#"{"url":"/","method":"POST","body":"/2EA","body_base64":true}"#;
        assert_eq!(read::<Vec<u8>>(text).0.body(), b"\xffa\0");
        assert_eq!(read::<String>(text).0.body(), "\u{fffd}a\0");
    }

    #[test]
    fn repeated_headers_are_all_there_in_order() {
        let (request, ..) = read::<String>(
            r#"{"url":"/","method":"GET","headers":{"x-a":"1, 2","host":"h"},"header_list":[["x-a","1"],["host","h"],["x-a","2"]]}"#,
        );
        let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(request.headers().len(), 3);
    }

    #[test]
    fn accepts_unusual_headers() {
        let (request, ..) = read::<String>(
            r#"{"url":"/","method":"GET","headers":{"a b":"1","x-c":"2\r\n3","x-d":"é"}}"#,
        );
        assert_eq!(request.headers().len(), 1);
        assert_eq!(request.headers()["x-d"].as_bytes(), "é".as_bytes());
    }

    #[test]
    fn reports_an_invalid_request() {
        for (text, why) in [
            ("", "EOF"),
            ("{}", "missing field `url`"),
            (r#"{"url":"/","method":"G E"}"#, "method"),
            (r#"{"url":"a b","method":"GET"}"#, "url"),
            (
                r#"{"url":"/","method":"GET","body":"%","body_base64":true}"#,
                "body",
            ),
            (
                r#"{"url":"/","method":"GET","kv":{"n":1}}"#,
                "expected a string",
            ),
        ] {
            let error = Input::parse(text.as_bytes())
                .and_then(|input| input.into_parts::<String>().map(drop))
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn changes_of_the_store_are_seen() {
        let input = Input::parse(br#"{"url":"/","method":"GET","kv":{"a":"1","b":"2"}}"#).unwrap();
        let (_, _, store) = input.into_parts::<String>().unwrap();
        let with = |change: fn(&mut Cache)| {
            let mut cache = store.to_cache();
            change(&mut cache);
            store.is(&cache)
        };
        assert!(with(|_| ()));
        assert!(with(|cache| drop(cache.insert("a".into(), "1".into()))));
        assert!(!with(|cache| drop(cache.insert("a".into(), "2".into()))));
        assert!(!with(|cache| drop(cache.insert("c".into(), "3".into()))));
        assert!(!with(|cache| drop(cache.remove("b"))));
    }
}
