//! Why a command has no answer.

use std::io;
use std::sync::Arc;

/// Why no connection was opened.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The host has no address, does not accept the connection, or fails the TLS handshake.
    #[error("{0}")]
    Stream(#[source] Arc<io::Error>),
    /// Redis rejected the password, the database or the first command.
    #[error("{0}")]
    Greeting(#[source] Arc<Failure>),
    /// Connection and greeting took too long.
    #[error("no connection in time")]
    TimedOut,
    /// The runtime that serves connections shuts down.
    #[error("the server ends")]
    ShuttingDown,
}

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection was opened: the command was not sent.
    #[error("{0}")]
    NotConnected(#[source] ConnectError),
    /// The connection failed before the command was sent.
    #[error("{0}")]
    NotSent(#[source] Arc<Failure>),
    /// The connection broke after the command was sent.
    #[error("{0}")]
    Lost(String),
    /// The answer did not come in time.
    #[error("no answer in time")]
    TimedOut,
    /// Redis answered with an error.
    #[error("{0}")]
    Server(String),
    /// Redis answered with something else than was asked for.
    #[error("the answer of Redis has {0}")]
    Unexpected(&'static str),
}

impl Failure {
    /// The error of a line that Redis sent.
    pub(super) fn of_server(line: &[u8]) -> Self {
        Self::Server(String::from_utf8_lossy(line).into_owned())
    }

    pub(super) fn malformed() -> Self {
        Self::Lost("what answers is no Redis".into())
    }

    pub(super) fn unexpected(what: &'static str) -> Self {
        Self::Unexpected(what)
    }

    /// Whether an access list of Redis does not allow the command.
    pub(super) fn is_forbidden(&self) -> bool {
        self.code() == Some("NOPERM")
    }

    /// The code of an error of Redis: its first word.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Server(text) => text.split(' ').next(),
            _ => None,
        }
    }
}
