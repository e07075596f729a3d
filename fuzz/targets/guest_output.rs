//! What guests print, and what they read: any output is a response or an error, and any request is
//! JSON within its bound.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};

// Of the engine without wasmtime.
/// What output is refused with. (The engine's own errors hold wasmtime's.)
#[allow(dead_code)]
mod error {
    #[derive(Debug)]
    pub(crate) enum CallError {
        Encode(serde_json::Error),
    }

    #[derive(Debug)]
    pub enum ResponseError {
        Empty,
        Json {
            start: String,
            source: serde_json::Error,
        },
        OldProtocol,
        Base64(base64::DecodeError),
        Status(i64),
        HeaderName(String),
        HeaderValue(http::HeaderName),
        TooManyHeaders {
            count: usize,
            bytes: usize,
        },
    }

    impl From<base64::DecodeError> for ResponseError {
        fn from(error: base64::DecodeError) -> Self {
            Self::Base64(error)
        }
    }
}
#[allow(dead_code)]
#[path = "../../crates/engine/src/guest/protocol.rs"]
mod protocol;
/// The one value of the engine's that is needed.
mod spec {
    pub(crate) struct Call<B = bytes::Bytes> {
        pub(crate) request: http::Request<B>,
        pub(crate) params: Vec<(String, String)>,
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok((response, kv)) = protocol::decode_output(bytes) {
        assert!((200..=599).contains(&response.status().as_u16()));
        assert!(response.headers().contains_key("content-type"));
        assert!(!response.headers().contains_key("transfer-encoding"));
        let strings = kv.iter().flatten().flat_map(|(key, value)| [key, value]);
        let kept: usize = strings.map(String::len).sum();
        // Neither the body nor a namespace is more than what was printed.
        assert!(response.body().len() <= bytes.len() && kept <= bytes.len());
    }
    let _ = request(&mut Unstructured::new(bytes));
});

fn request(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut request = http::Request::new(Bytes::new());
    for _ in 0..choices.int_in_range(0..=4)? {
        let name = http::HeaderName::from_bytes(choices.arbitrary()?);
        let value = http::HeaderValue::from_bytes(choices.arbitrary()?);
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let params = choices.arbitrary::<Vec<(String, String)>>()?;
    let entries = choices.arbitrary::<Vec<(String, String)>>()?;
    let body = Bytes::copy_from_slice(choices.arbitrary()?);
    *request.body_mut() = body.clone();
    let call = spec::Call { request, params };
    let kv = entries
        .into_iter()
        .fold(wws_kv::Map::default(), |kv, (key, value)| {
            kv.insert(key.into(), value.as_str().into())
        });
    let input = protocol::RequestInput::new(&call, &kv);
    let max = input.max_len();
    let json = input.encode(max).expect("JSON");
    assert!(json.len() as u64 <= max, "{} of {max} bytes", json.len());
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    if let Ok(text) = std::str::from_utf8(&body) {
        assert_eq!(json["body"], text);
    }
    for (key, value) in kv.iter() {
        assert_eq!(json["kv"][&**key], value.as_str());
    }
    Ok(())
}
