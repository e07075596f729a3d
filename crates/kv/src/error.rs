//! Errors of stores.

use std::{sync::Arc, time::Duration};

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
    /// The value is not text, and the store holds only text.
    #[error("the value of {key:?} is not text (UTF-8), and a file holds only text")]
    NotText {
        /// The key.
        key: String,
    },
    /// A value cannot be removed after such a time.
    #[error("a value cannot be kept for {0:?}: from 1 ms to 10 years")]
    BadTtl(Duration),
    /// The store does not answer. It may do later.
    #[error("not available: {0}")]
    Unavailable(String),
    /// The turn of the namespace was lost before the changes were written: it took too long, or the
    /// store forgot it.
    #[error("the turn of the namespace was lost: nothing was changed")]
    TurnLost,
    /// The storage failed.
    #[error("{0}")]
    Backend(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same operation may succeed a moment later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TurnLost)
    }

    /// The number that a key has after `delta` was added to its value.
    pub(crate) fn sum(key: &str, old: Option<&str>, delta: i64) -> Result<i64, Self> {
        let number = old.map_or(Ok(0), |text| text.trim().parse::<i64>());
        let sum = number.ok().and_then(|number| number.checked_add(delta));
        sum.ok_or_else(|| Self::NotANumber {
            key: key.to_owned(),
        })
    }

    pub(crate) fn backend(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Backend(Arc::new(error))
    }
}
