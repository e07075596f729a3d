//! Errors of this crate.

use wws_project::Problems;

/// Why a command on runtimes failed; the text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `.wws.toml` or the index of a repository is invalid.
    #[error("{0}")]
    Invalid(Problems),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Prefixes what was being done.
    pub(crate) fn of(self, what: impl std::fmt::Display) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(format!("{what}: {message}")),
            invalid @ Self::Invalid(_) => invalid,
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Invalid(problems)
    }
}
