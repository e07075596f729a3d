//! Errors of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be packed, written, read or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A path that leaves the image.
    #[error("{}: `..` is no place in an image", .0.display())]
    OutsideImage(PathBuf),
    /// A file of an image that is neither a file, a directory nor a symbolic link.
    #[error("{}: neither a file, a directory nor a symbolic link", .0.display())]
    Special(PathBuf),
    /// A file changed between two reads.
    #[error("the project changed while it was packed: run the command again")]
    Changed,
    /// A directory that is written must be new or empty.
    #[error("{}: is not an empty directory: name a new one", .0.display())]
    NotEmpty(PathBuf),
    /// Files of a project cannot be packed.
    #[error("{}", listed(.0))]
    Project(Vec<ContextProblem>),
    /// A limit is reached.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A pattern of `.dockerignore` is invalid.
    #[error(".dockerignore:{line}: no valid pattern: {message}")]
    Pattern {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A registry cannot be reached, or refuses.
    #[error("{registry}: {why}")]
    Registry {
        /// The registry.
        registry: String,
        /// What it refuses, and the remedy.
        why: String,
    },
    /// The image cannot be written.
    #[error("write the image: {0}")]
    Write(#[source] io::Error),
    /// The image is damaged, or has a form that is not supported.
    #[error("{what}: {why}")]
    Unreadable {
        /// The part of the image.
        what: String,
        /// What is wrong.
        why: String,
    },
}

impl ImageError {
    pub(crate) fn file(path: &Path, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        Self::File { path, source }
    }

    pub(crate) fn unreadable(what: impl Into<String>, why: impl Into<String>) -> Self {
        let (what, why) = (what.into(), why.into());
        Self::Unreadable { what, why }
    }

    pub(crate) fn registry(registry: &str, why: impl Into<String>) -> Self {
        let (registry, why) = (registry.to_owned(), why.into());
        Self::Registry { registry, why }
    }

    pub(crate) fn too_large(what: impl Into<String>, limit: impl Into<String>) -> Self {
        let (what, limit) = (what.into(), limit.into());
        Self::TooLarge { what, limit }
    }
}

/// A file of a project that cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextProblem {
    /// The file, relative to the project.
    pub path: PathBuf,
    /// What is wrong, and the remedy.
    pub message: &'static str,
}

impl fmt::Display for ContextProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

fn listed(problems: &[ContextProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
