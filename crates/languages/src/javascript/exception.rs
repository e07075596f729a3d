//! Exceptions that the host has the kit throw.

use std::{borrow::Cow, fmt};

use wws_engine::HttpFailure;

/// An exception of the kit. `Display` is the form in which the kit reads it: `NAME:MESSAGE`.
pub(super) struct KitException {
    /// The class of an error, or the code of a system error.
    name: Cow<'static, str>,
    message: String,
}

impl KitException {
    pub(super) fn new(name: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            message: message.into(),
        }
    }

    /// The operation got no memory.
    pub(super) fn no_memory(error: impl fmt::Display) -> Self {
        Self::new("ENOMEM", error.to_string())
    }

    /// An outgoing request failed.
    pub(super) fn http_failure(failure: &HttpFailure) -> Self {
        Self::new(
            format!("TypeError/{}", failure.kind.name()),
            format!("fetch failed: {}", failure.message),
        )
    }

    /// Its size in memory, in bytes.
    pub(super) fn len(&self) -> usize {
        self.message.len()
    }
}

impl fmt::Display for KitException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.message)
    }
}
