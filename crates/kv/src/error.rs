//! What goes wrong with a store.

/// A store refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One thing is larger than its bound.
    #[error("{what} of {size} bytes; the limit is {limit}")]
    TooLarge {
        /// The key or the value.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// There is no room for more.
    #[error("no room: {what}, the limit is {limit}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// There is no memory for it: all that the server holds together has a bound.
    #[error("no memory to hold {bytes} bytes more (`server.memory`)")]
    NoMemory {
        /// Bytes of the entry.
        bytes: usize,
    },
    /// A value that should be added to is no number, or the sum is none.
    #[error("the value of {key:?} is not a number to add to")]
    NotANumber {
        /// The key.
        key: String,
    },
    /// The storage behind it failed.
    #[error("{0}")]
    Backend(String),
}
