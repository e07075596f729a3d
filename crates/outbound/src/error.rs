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

/// What failed, for interfaces that tell more failures apart than [`ErrorKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Only the kind says it.
    #[default]
    Other,
    /// The host's name has no address, or no name server answered.
    NameNotFound,
    /// The host's addresses are not public, and not allowed.
    AddressRefused,
    /// There was no connection in time.
    ConnectTimeout,
    /// The host refused the connection.
    ConnectionRefused,
    /// There is no connection for another reason.
    ConnectionFailed,
    /// The host's certificate is not trusted.
    Certificate,
    /// There is no TLS session for another reason.
    Tls,
    /// There was no head of a response in time.
    HeadTimeout,
    /// The next piece of the response did not come in time.
    IdleTimeout,
    /// The host closed the connection too early.
    ConnectionLost,
    /// The host's bytes are no HTTP.
    Protocol,
    /// The response is too large.
    TooLarge,
    /// There is not enough memory.
    NoMemory,
    /// The response's content coding is broken.
    Coding,
    /// The body of the request failed.
    RequestBody,
    /// The body of the request does not have the announced length.
    RequestBodySize,
}

impl Reason {
    pub(crate) fn of_hyper(error: &hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol
        } else if causes(error).any(|cause| cause.is::<io::Error>())
            || error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled()
        {
            Self::ConnectionLost
        } else {
            Self::Other
        }
    }

    fn of_connecting(error: &legacy::Error) -> Self {
        for cause in causes(error) {
            match cause.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidCertificate(_)) => return Self::Certificate,
                Some(_) => return Self::Tls,
                None => {}
            }
            match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::TimedOut) => return Self::ConnectTimeout,
                Some(io::ErrorKind::ConnectionRefused) => return Self::ConnectionRefused,
                _ => {}
            }
        }
        Self::ConnectionFailed
    }
}

/// A failed request. The message is for the guest's author: it names hosts, but no addresses that
/// only the machine's resolver knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind.
    pub kind: ErrorKind,
    /// What failed.
    pub reason: Reason,
    /// The text.
    pub message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: Reason::Other,
            message: message.into(),
        }
    }

    pub(crate) fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
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
            let mut reasons = causes(error).filter_map(|cause| cause.downcast_ref());
            let reason = reasons.next().map_or(Reason::Other, Reason::of_hyper);
            return Self::internal(format!("`{host}` gave no answer: {cause}")).because(reason);
        }
        let reason = Reason::of_connecting(error);
        let kind = match reason {
            Reason::ConnectTimeout => ErrorKind::Timeout,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, format!("cannot connect to `{host}`: {cause}")).because(reason)
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

/// An error and its causes, also those that an I/O error wraps.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        let error: &'a (dyn StdError + 'static) = *error;
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}
