//! Why something was not done.

use wws_project::Problems;

/// Why a command on runtimes failed; for people, in one or more lines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `.wws.toml`, or a repository's index, is not valid.
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

    /// The same, behind what was being done.
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
