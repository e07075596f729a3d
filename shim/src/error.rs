//! What goes wrong in a task, and how containerd is told.

use std::io;
use std::path::Path;

use containerd_shim_protos::ttrpc::{self, Code};

/// The result of everything that a caller of the task service may see fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error of the task service. The text is for the person who typed the command; the variant becomes the status code,
/// by which containerd and its clients decide what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such container, exec or process (any more).
    #[error("{0}")]
    NotFound(String),
    /// The identifier is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not in this state of the container.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// We do not do that.
    #[error("{0}")]
    Unimplemented(String),
    /// There is no OCI runtime that could be called: another try fails in the same way.
    #[error("{0}")]
    NoRuntime(String),
    /// The OCI runtime failed and left no message in its log.
    #[error("{0}")]
    Unexplained(String),
    /// A part of the machine failed, or the OCI runtime did.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// A failed system call or file operation, named by what was tried.
    pub(crate) fn io(what: impl std::fmt::Display, error: impl Into<io::Error>) -> Self {
        Self::Other(format!("{what}: {}", error.into()))
    }

    /// The same text under the same code, with `context` before it.
    pub(crate) fn context(self, context: impl std::fmt::Display) -> Self {
        match self {
            Self::NotFound(text) => Self::NotFound(format!("{context}: {text}")),
            Self::AlreadyExists(text) => Self::AlreadyExists(format!("{context}: {text}")),
            Self::FailedPrecondition(text) => {
                Self::FailedPrecondition(format!("{context}: {text}"))
            }
            Self::InvalidArgument(text) => Self::InvalidArgument(format!("{context}: {text}")),
            Self::Unimplemented(text) => Self::Unimplemented(format!("{context}: {text}")),
            Self::NoRuntime(text) => Self::NoRuntime(format!("{context}: {text}")),
            Self::Unexplained(text) => Self::Unexplained(format!("{context}: {text}")),
            Self::Other(text) => Self::Other(format!("{context}: {text}")),
        }
    }

    /// The status code of the wire (the numbers of gRPC; containerd's errdefs are made from them).
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Self::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
            Self::InvalidArgument(_) => Code::INVALID_ARGUMENT,
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::NoRuntime(_) | Self::Unexplained(_) | Self::Other(_) => Code::UNKNOWN,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error))
    }
}

/// Names the file in an error of a file operation.
pub(crate) trait OnPath<T> {
    /// Adds `verb` and `path`: "read /a/b: permission denied".
    fn on(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> OnPath<T> for std::result::Result<T, E> {
    fn on(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(format_args!("{verb} {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_sees_the_code_and_the_plain_text() {
        let error = Error::NotFound("no container c1".to_owned()).context("exec e1");
        let ttrpc::Error::RpcStatus(status) = error.into() else {
            unreachable!("an error becomes a status")
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message, "exec e1: no container c1");
    }

    #[test]
    fn a_failed_file_operation_names_the_file() {
        let failed: io::Result<()> = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            failed.on("read", Path::new("/a/b")),
            Err(Error::Other("read /a/b: permission denied".to_owned()))
        );
    }
}
