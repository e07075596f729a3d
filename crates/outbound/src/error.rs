//! Why a request was not sent, or its response was rejected.

use std::{error::Error as StdError, io};

use hyper_util::client::legacy;
use url::Host;

/// The kind of a failure. The order is that of the guest interface's enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ErrorKind {
    /// The request is invalid: its URL or its method.
    InvalidRequest = 0,
    /// The body cannot be sent.
    InvalidRequestBody = 1,
    /// The body of the response is too large or incomplete.
    InvalidResponseBody = 2,
    /// The worker's policy refuses the request, or a redirect's next hop.
    NotAllowed = 3,
    /// There is no connection, no TLS session, no address, or no valid HTTP response.
    Internal = 4,
    /// The response was not complete in time.
    Timeout = 5,
    /// There were more redirects than the policy allows.
    RedirectLoop = 6,
}

impl ErrorKind {
    /// Its name in guest interfaces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::InvalidRequestBody => "invalid-request-body",
            Self::InvalidResponseBody => "invalid-response-body",
            Self::NotAllowed => "not-allowed",
            Self::Internal => "internal-error",
            Self::Timeout => "timeout",
            Self::RedirectLoop => "redirect-loop",
        }
    }
}

/// A failed request. The message is for the guest's author: it names hosts, but no addresses that
/// only the machine's resolver knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind.
    pub kind: ErrorKind,
    /// The text.
    pub message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    pub(crate) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotAllowed, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The client failed.
    pub(crate) fn no_answer(host: &Host, error: &legacy::Error) -> Self {
        let cause = error.source().map_or_else(|| error.to_string(), chain);
        if !error.is_connect() {
            return Self::internal(format!("`{host}` gave no answer: {cause}"));
        }
        let kind = if timed_out(error) {
            ErrorKind::Timeout
        } else {
            ErrorKind::Internal
        };
        Self::new(kind, format!("cannot connect to `{host}`: {cause}"))
    }
}

/// An error and its causes in one line, without repetitions.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}

fn timed_out(error: &legacy::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
