//! Errors of this crate.

use std::error::Error as StdError;
use std::fmt;

use wws_project::Problems;

/// Why a command on runtimes failed. `Display` is the operator's text, with its causes; `source`
/// has the causes as values.
#[derive(Debug)]
pub enum Error {
    /// `.wws.toml` or the index of a repository is invalid.
    Invalid(Problems),
    /// Anything else.
    Failed {
        /// What kind of failure it is.
        kind: FailureKind,
        /// What failed, with what, and the remedy.
        message: String,
        /// The cause, where another error is the cause.
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// A name, a URL or a setting has a form that is not supported.
    Input,
    /// `.wws.toml` is written in a way that is not edited.
    Edit,
    /// A repository, a package or a server does not have what is wanted.
    NotFound,
    /// A server cannot be reached, rejects the request or breaks off.
    Network,
    /// A file is larger than allowed.
    TooLarge,
    /// A file is not the one that was meant, or is broken.
    Damaged,
    /// A file of this machine cannot be read or written.
    File,
}

impl Error {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The error with its cause.
    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        if let Self::Failed { source, .. } = &mut self {
            *source = Some(cause.into());
        }
        self
    }

    /// Prefixes what was being done.
    pub(crate) fn of(mut self, what: impl fmt::Display) -> Self {
        if let Self::Failed { message, .. } = &mut self {
            *message = format!("{what}: {message}");
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(problems) => write!(f, "{problems}"),
            Self::Failed {
                message, source, ..
            } => {
                f.write_str(message)?;
                let mut cause = source.as_deref().map(|source| source as &dyn StdError);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Invalid(_) => None,
            Self::Failed { source, .. } => source.as_deref().map(|source| source as _),
        }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Invalid(problems)
    }
}
