//! Replies to a kit.

use bytes::Bytes;

/// A reply: a line, and bytes.
pub(super) type Reply = (Vec<u8>, Bytes);

/// Why a request was refused: a word for programs and a text for people.
pub(super) type Refusal = (&'static str, String);

/// The line of a reply.
pub(super) fn to_line(value: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| ("internal", error.to_string()))
}
