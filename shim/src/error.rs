//! What goes wrong in a task, and how containerd is told.

use std::io;
use std::path::Path;

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
    fn a_failed_file_operation_names_the_file() {
        let failed: io::Result<()> = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            failed.on("read", Path::new("/a/b")),
            Err(Error::Other("read /a/b: permission denied".to_owned()))
        );
    }
}
