//! Errors of stores.

use std::sync::Arc;

/// A store rejected an operation, or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A key or a value is too large.
    #[error("{what} of {size} bytes; the limit is {limit}")]
    TooLarge {
        /// The key or the value.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// The store has no room for more.
    #[error("no room: {what}, the limit is {limit}")]
    Full {
        /// What the store has too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The server has no memory for the entry.
    #[error("no memory to hold {bytes} bytes more (`server.memory`)")]
    NoMemory {
        /// Bytes of the entry.
        bytes: usize,
    },
    /// The value is not a number to add to, or the sum overflows.
    #[error("the value of {key:?} is not a number to add to")]
    NotANumber {
        /// The key.
        key: String,
    },
    /// The storage failed.
    #[error("{0}")]
    Backend(#[source] Arc<dyn std::error::Error + Send + Sync>),
}
