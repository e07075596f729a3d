//! Replies to a kit.

use std::fmt::Display;

use bytes::Bytes;
use serde_json::json;

/// A reply: a line, and bytes.
pub(super) type Reply = (Vec<u8>, Bytes);

/// Why a request was refused: a word for programs and a text for people.
pub(super) type Refusal = (&'static str, String);

/// The line of a reply.
pub(super) fn to_line(value: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(internal)
}

/// The refusal for a failure of the server.
pub(super) fn internal(error: impl Display) -> Refusal {
    ("internal", error.to_string())
}

/// Whether somebody still takes what a worker sends: its response, or the messages of its socket.
pub(super) fn opened(is_open: bool) -> Result<Reply, Refusal> {
    Ok((to_line(&json!({"open": is_open}))?, Bytes::new()))
}
