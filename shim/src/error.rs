//! Errors of the shim: values with a code, a context and a source.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

/// The result of everything whose failure a caller of the task service may see.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What containerd and its clients decide by what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    /// The container, exec or process does not exist (any more).
    NotFound,
    /// The identifier is in use.
    AlreadyExists,
    /// The state of the container does not allow the operation.
    FailedPrecondition,
    /// The request itself is wrong.
    InvalidArgument,
    /// The shim does not support the operation.
    Unimplemented,
    /// The OCI runtime cannot be executed: a retry fails in the same way.
    RuntimeMissing,
    /// The OCI runtime failed and left no message in its log.
    RuntimeSilent,
    /// The machine or the OCI runtime failed.
    Unknown,
}

/// An error of the shim.
///
/// `{error}` prints the context alone, `{error:#}` the context and the chain of sources.
#[derive(Debug)]
pub(crate) struct Error {
    code: ErrorCode,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error without a source.
    pub(crate) fn new(code: ErrorCode, context: impl Into<String>) -> Self {
        Self {
            code,
            context: context.into(),
            source: None,
        }
    }

    /// Reports that something does not exist.
    pub(crate) fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, context)
    }

    /// Reports that an identifier is in use.
    pub(crate) fn already_exists(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::AlreadyExists, context)
    }

    /// Reports that the state does not allow an operation.
    pub(crate) fn failed_precondition(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::FailedPrecondition, context)
    }

    /// Reports a wrong request.
    pub(crate) fn invalid_argument(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, context)
    }

    /// Reports an operation that the shim does not support.
    pub(crate) fn unimplemented(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unimplemented, context)
    }

    /// Reports a failure of the machine or the OCI runtime.
    pub(crate) fn unknown(context: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unknown, context)
    }

    /// Reports a failed system call or file operation.
    pub(crate) fn io(context: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        Self::unknown(context.to_string()).with_source(error.into())
    }

    /// Sets the cause.
    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Wraps the error in another one with the same code.
    pub(crate) fn context(self, context: impl fmt::Display) -> Self {
        Self::new(self.code, context.to_string()).with_source(self)
    }

    /// Returns what kind of error it is.
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        if f.alternate() {
            let mut source = self.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Adds the path to the error of a file operation.
pub(crate) trait PathContext<T> {
    /// Adds `verb` and `path`: "read /a/b: permission denied".
    ///
    /// # Errors
    /// That of the operation.
    fn with_path(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> PathContext<T> for std::result::Result<T, E> {
    fn with_path(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(format_args!("{verb} {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_the_source_and_prints_the_chain() {
        let failed: io::Result<()> = Err(io::ErrorKind::PermissionDenied.into());
        let error = failed.with_path("read", Path::new("/a/b")).unwrap_err();
        let error = error.context("exec e1");
        assert_eq!(error.code(), ErrorCode::Unknown);
        assert_eq!(error.to_string(), "exec e1");
        assert_eq!(
            format!("{error:#}"),
            "exec e1: read /a/b: permission denied"
        );
        let cause = error.source().and_then(StdError::source).unwrap();
        let cause = cause.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn context_keeps_the_code() {
        let error = Error::not_found("no container c1").context("exec e1");
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
}
