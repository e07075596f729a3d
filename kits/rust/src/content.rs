//! Bodies of responses.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The body of a response. Made from text or bytes with `.into()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text, sent as it is.
    Text(String),
    /// Bytes, as base64: how they travel to the server, which sends the bytes themselves.
    Base64(String),
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        // Text needs no detour; the client gets the same bytes either way.
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => error.as_bytes().into(),
        }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Base64(STANDARD.encode(bytes))
    }
}
