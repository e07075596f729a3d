//! The worker protocol of core modules: a command reads a JSON object and prints one.
//! `docs/reference/guest-protocol.md` specifies it.

use std::{borrow::Cow, collections::HashMap, fmt};

use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

use crate::error::{CallError, ResponseError};
use crate::spec::Call;

/// The request as a guest reads it.
#[derive(Serialize)]
pub(crate) struct RequestInput<'a> {
    url: String,
    method: &'a str,
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header_list: Option<HeaderList<'a>>,
    body: Body<'a>,
    /// The body is base64, since it isn't UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<bool>,
    kv: KvEntries<'a>,
    params: ParamPairs<'a>,
}

/// A header's value as text: UTF-8, or else Latin-1.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => value.as_bytes().iter().map(|b| *b as char).collect(),
    }
}

/// A URL as text, without a formatter.
fn url_text(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let host = url.authority().map_or("", Authority::as_str);
    let path = url.path_and_query().map_or("", PathAndQuery::as_str);
    if scheme.is_empty() || host.is_empty() || !path.starts_with('/') {
        return url.to_string();
    }
    [scheme, "://", host, path].concat()
}

/// Headers with one value per name. Repeated headers are joined, as RFC 9110, 5.3 (and RFC 6265 for
/// cookies) allows.
struct Headers<'a>(&'a HeaderMap);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.keys_len()))?;
        for name in self.0.keys() {
            let mut values = self.0.get_all(name).iter();
            let first = values.next().map(text).unwrap_or_default();
            let separator = if name == header::COOKIE { "; " } else { ", " };
            let value = values.fold(first, |mut all, next| {
                all.to_mut().push_str(separator);
                all.to_mut().push_str(&text(next));
                all
            });
            map.serialize_entry(name.as_str(), &value)?;
        }
        map.end()
    }
}

/// Every header line in order.
struct HeaderList<'a>(&'a HeaderMap);

impl Serialize for HeaderList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in self.0 {
            list.serialize_element(&(name.as_str(), text(value)))?;
        }
        list.end()
    }
}

struct KvEntries<'a>(&'a wws_kv::Map);

impl Serialize for KvEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.0.iter();
        serializer.collect_map(entries.map(|(key, value)| (&**key, value.as_str())))
    }
}

struct ParamPairs<'a>(&'a [(String, String)]);

impl Serialize for ParamPairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The length of a string in JSON, without its quotes (RFC 8259, 7).
fn escaped_len(text: &[u8]) -> u64 {
    text.iter()
        .map(|byte| match byte {
            b'"' | b'\\' | 8 | 9 | 10 | 12 | 13 => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

impl<'a> RequestInput<'a> {
    /// Prepares what a guest reads of a request and of its namespace, without copying.
    pub(crate) fn new(call: &'a Call, kv: &'a wws_kv::Map) -> Self {
        let request = &call.request;
        let headers = request.headers();
        let body = Body::new(request.body());
        Self {
            url: url_text(request.uri()),
            method: request.method().as_str(),
            headers: Headers(headers),
            header_list: (headers.len() != headers.keys_len()).then_some(HeaderList(headers)),
            body_base64: matches!(body, Body::Base64(_)).then_some(true),
            body,
            kv: KvEntries(kv),
            params: ParamPairs(&call.params),
        }
    }

    /// Upper bound of the bytes that [`Self::encode`] writes: exact for the body and the namespace,
    /// an estimate for the rest.
    pub(crate) fn max_len(&self) -> u64 {
        /// A byte of a header takes at most six bytes in JSON, in each of the two lists.
        const PER_HEADER_BYTE: u64 = 12;
        let headers: usize = self
            .headers
            .0
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 8)
            .sum();
        let params: usize = self
            .params
            .0
            .iter()
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        let head = 256 + (self.url.len() + params) as u64 * 6 + headers as u64 * PER_HEADER_BYTE;
        let kv: u64 = self
            .kv
            .0
            .iter()
            .map(|(key, value)| escaped_len(key.as_bytes()) + escaped_len(value.as_bytes()) + 6)
            .sum();
        head + self.body.len() + kv
    }

    /// Encodes what a guest reads from standard input. `max_len` is [`Self::max_len`], which was
    /// charged.
    pub(crate) fn encode(&self, max_len: u64) -> Result<Vec<u8>, CallError> {
        let max = usize::try_from(max_len).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(max);
        serde_json::to_writer(&mut out, self).map_err(CallError::Encode)?;
        debug_assert!(out.len() <= max);
        Ok(out)
    }
}

/// A request's body: text, or else base64.
enum Body<'a> {
    Text(&'a str),
    Base64(&'a [u8]),
}

impl<'a> Body<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Base64(bytes),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => escaped_len(text.as_bytes()),
            Self::Base64(bytes) => (bytes.len() as u64).div_ceil(3) * 4,
        }
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            // Encodes into the output, without a copy.
            Self::Base64(bytes) => serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
        }
    }
}

/// The response as a guest prints it.
#[derive(Deserialize)]
struct PrintedResponse<'a> {
    #[serde(borrow)]
    data: Option<BorrowedText<'a>>,
    /// The name of `data` in workers of Wasm Workers Server 0.x.
    body: Option<IgnoredAny>,
    #[serde(borrow, default)]
    headers: PrintedHeaders<'a>,
    status: Option<i64>,
    kv: Option<PrintedNamespace>,
    #[serde(default)]
    base64: bool,
}

/// Most headers of a response.
const MAX_HEADERS: usize = 1024;

/// Most bytes of a response's headers.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Most keys of a namespace that a guest prints.
const MAX_KEYS: usize = 100_000;

/// Upper bound of the memory that decoding `printed` bytes takes besides these: for text, and for
/// the keys of a namespace.
pub(crate) fn decoding_cost(printed: usize) -> u64 {
    /// The shortest entry of an object in JSON is `"":"",`.
    const ENTRY: usize = 6;
    /// Bytes of a map's entry besides its strings.
    const KEY: usize = 128;
    (printed + (printed / ENTRY).min(MAX_KEYS) * KEY) as u64
}

/// The state of a namespace as a guest prints it.
struct PrintedNamespace(HashMap<String, String>);

impl<'de> Deserialize<'de> for PrintedNamespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = PrintedNamespace;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keys and values that are strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut keys = HashMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    if keys.len() == MAX_KEYS {
                        return Err(serde::de::Error::custom(format!(
                            "`kv` has more than {MAX_KEYS} keys"
                        )));
                    }
                    keys.insert(key, value);
                }
                Ok(PrintedNamespace(keys))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Headers in the order in which they were printed.
#[derive(Default)]
struct PrintedHeaders<'a>(Vec<(Cow<'a, str>, OneOrMany<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for PrintedHeaders<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = PrintedHeaders<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut headers = Vec::new();
                let mut lines = 0;
                while let Some((name, values)) =
                    map.next_entry::<BorrowedText<'_>, OneOrMany<'_>>()?
                {
                    lines += match &values {
                        OneOrMany::One(_) => 1,
                        OneOrMany::Many(values) => values.len().max(1),
                    };
                    if lines > MAX_HEADERS {
                        return Err(serde::de::Error::custom(format!(
                            "more than {MAX_HEADERS} headers"
                        )));
                    }
                    headers.push((name.0, values));
                }
                Ok(PrintedHeaders(headers))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Text that is borrowed unless it has escapes.
#[derive(Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

enum OneOrMany<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

// The derived implementation would parse every value twice.
impl<'de: 'a, 'a> Deserialize<'de> for OneOrMany<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = OneOrMany<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header's value (a string), or a list of values")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element::<BorrowedText<'_>>()? {
                    if values.len() == MAX_HEADERS {
                        return Err(serde::de::Error::custom(format!(
                            "more than {MAX_HEADERS} headers"
                        )));
                    }
                    values.push(value.0);
                }
                Ok(OneOrMany::Many(values))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// Headers about the connection, which the server sets, not a guest.
static CONNECTION_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// A response, and the new state of the guest's namespace if the guest printed one.
type DecodedOutput = (Response<Bytes>, Option<HashMap<String, String>>);

/// Decodes what a guest printed.
pub(crate) fn decode_output(printed: &[u8]) -> Result<DecodedOutput, ResponseError> {
    if printed.is_empty() {
        return Err(ResponseError::Empty);
    }
    let output: PrintedResponse<'_> = serde_json::from_slice(printed).map_err(|error| {
        let start: String = String::from_utf8_lossy(&printed[..printed.len().min(80)])
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        ResponseError::Json {
            start,
            source: error,
        }
    })?;
    if output.data.is_none() && output.body.is_some() {
        return Err(ResponseError::OldProtocol);
    }
    let data = output.data.map_or(Cow::Borrowed(""), |text| text.0);
    let data = if output.base64 {
        Bytes::from(STANDARD.decode(data.as_bytes())?)
    } else {
        Bytes::from(data.into_owned())
    };
    let headers = output.headers.0.iter().flat_map(|(name, values)| {
        let values = match values {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        };
        values.iter().map(|value| (name.as_ref(), value.as_ref()))
    });
    let response = build_response(output.status.unwrap_or(200), headers, data)?;
    Ok((response, output.kv.map(|namespace| namespace.0)))
}

/// Builds a guest's response. Drops headers about the connection, and adds a content type if there
/// is none.
///
/// # Errors
/// Returns an error if the status or a header cannot be sent.
pub fn build_response<'a>(
    status: i64,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Bytes,
) -> Result<Response<Bytes>, ResponseError> {
    let mut response = Response::new(body);
    *response.status_mut() = u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or(ResponseError::Status(status))?;
    let all = response.headers_mut();
    let mut bytes = 0;
    for (name, value) in headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| ResponseError::HeaderName(name.to_owned()))?;
        if CONNECTION_HEADERS.contains(&header) {
            continue;
        }
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| ResponseError::HeaderValue(header.clone()))?;
        bytes += name.len() + value.len();
        if all.len() == MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            return Err(ResponseError::TooManyHeaders {
                count: MAX_HEADERS,
                bytes: MAX_HEADER_BYTES,
            });
        }
        all.append(header, value);
    }
    all.entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("text/html"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(body: &'static [u8], headers: &[(&str, &[u8])]) -> serde_json::Value {
        let mut request = http::Request::builder()
            .uri("http://a.example/x?y=1")
            .method("POST");
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let call = Call {
            request: request.body(Bytes::from_static(body)).unwrap(),
            params: vec![("id".into(), "7".into())],
            request_id: String::new(),
        };
        let kv = [("k".into(), "v".into())].into_iter().collect();
        let input = RequestInput::new(&call, &kv);
        let encoded = input.encode(input.max_len()).unwrap();
        assert!(encoded.len() as u64 <= input.max_len());
        serde_json::from_slice(&encoded).unwrap()
    }

    #[test]
    fn encodes_request_namespace_and_parameters() {
        assert_eq!(
            call(b"hi \xc3\xa9", &[("accept", b"*/*")]),
            serde_json::json!({"url": "http://a.example/x?y=1", "method": "POST",
                "headers": {"accept": "*/*"}, "body": "hi é",
                "kv": {"k": "v"}, "params": {"id": "7"}})
        );
    }

    #[test]
    fn encodes_other_bodies_as_base64() {
        let json = call(b"\xff\x00", &[]);
        assert_eq!(json["body"], "/wA=");
        assert_eq!(json["body_base64"], true);
    }

    #[test]
    fn input_is_never_longer_than_charged() {
        let control: Vec<u8> = (0..=255)
            .cycle()
            .take(20_000)
            .map(|b: u8| b % 0x7f)
            .collect();
        let binary: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        let long = "\"\\\u{1}é".repeat(2000);
        for body in [control, binary] {
            let request = http::Request::builder()
                .uri("http://a.example/x?y=%22&z=1")
                .header("x-a", HeaderValue::from_bytes(&[0xe9; 300]).unwrap())
                .header("x-a", HeaderValue::from_bytes(&[b'"'; 300]).unwrap())
                .body(Bytes::from(body))
                .unwrap();
            let call = Call {
                request,
                params: vec![("id".into(), long.clone())],
                request_id: String::new(),
            };
            let kv = [("k".into(), long.as_str().into())].into_iter().collect();
            let input = RequestInput::new(&call, &kv);
            let encoded = input.encode(input.max_len()).unwrap();
            assert!(encoded.len() as u64 <= input.max_len());
            assert!(encoded.capacity() as u64 <= input.max_len());
        }
    }

    #[test]
    fn rejects_too_many_headers_or_keys() {
        let object = |count: usize| {
            let entries: Vec<_> = (0..count).map(|i| format!("\"x-{i}\":\"\"")).collect();
            entries.join(",")
        };
        for printed in [
            format!(r#"{{"headers":{{{}}}}}"#, object(40_000)),
            format!(r#"{{"headers":{{"x-a":["{}"]}}}}"#, "\",\"".repeat(40_000)),
            format!(r#"{{"headers":{{"x-a":"{}"}}}}"#, "a".repeat(65 << 10)),
            format!(r#"{{"kv":{{{}}}}}"#, object(100_001)),
        ] {
            let error = decode_output(printed.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("more than"), "{error}");
        }
    }

    #[test]
    fn joins_and_lists_repeated_headers() {
        let json = call(
            b"",
            &[
                ("x-a", b"1"),
                ("cookie", b"a=1"),
                ("x-a", b"\xe9"),
                ("cookie", b"b=2"),
            ],
        );
        assert_eq!(json["headers"]["x-a"], "1, é");
        assert_eq!(json["headers"]["cookie"], "a=1; b=2");
        assert_eq!(json["header_list"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn decodes_response() {
        let (response, kv) = decode_output(
            br#"{"data":"aGk=","base64":true,"status":201,"headers":{"x-a":"b","set-cookie":["a=1","b=2"],"Content-Length":"9"},"kv":{"n":"1"},"more":1}"#,
        )
        .unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.body().as_ref(), b"hi");
        assert_eq!(response.headers()["x-a"], "b");
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        assert!(!response.headers().contains_key("content-length"));
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(kv.unwrap()["n"], "1");
    }

    #[test]
    fn reports_why_output_is_not_a_response() {
        for (printed, why) in [
            ("", "nothing was printed"),
            ("hello", "begins with \"hello\""),
            (r#"{"data":"","status":99999}"#, "status 99999"),
            (r#"{"data":"","status":101}"#, "status 101"),
            (r#"{"data":"","status":-1}"#, "status -1"),
            (r#"{"data":"%","base64":true}"#, "not base64"),
            ("{\"headers\":{\"a b\":\"c\"}}", "not the name of a header"),
            (r#"{"headers":{"x-a":"b\r\nx-b: c"}}"#, "line break"),
            (r#"{"headers":{"x-a":"b\u0000"}}"#, "control character"),
            (r#"{"headers":{"x-a":3}}"#, "a list of values"),
            (r#"{"headers":{"x-a":[3]}}"#, "expected a string"),
            (r#"{"headers":["x-a"]}"#, "an object of headers"),
            (
                r#"{"body":"hello","status":200}"#,
                "Wasm Workers Server 0.x",
            ),
        ] {
            let error = decode_output(printed.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{printed}: {error}");
        }
    }
}
