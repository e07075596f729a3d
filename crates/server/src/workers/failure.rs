//! Why a worker has no guest.

use std::path::Path;
use std::sync::Arc;

use wws_engine::{Directories, LoadError, LoadErrorKind};
use wws_project::{Problem, Worker};

/// Why a worker has no guest.
#[derive(Clone)]
pub(crate) enum GuestFailure {
    /// The file is not a worker at all, for this reason. With the directories that have recorded
    /// what was read to find out, if that is known.
    NotAWorker(Arc<LoadError>, Option<Directories>),
    /// The project's loader has found these problems.
    Problems(Vec<Problem>),
    /// The worker cannot be loaded.
    Broken(Arc<LoadError>),
}

impl From<LoadError> for GuestFailure {
    fn from(error: LoadError) -> Self {
        Self::Broken(Arc::new(error))
    }
}

impl From<Arc<LoadError>> for GuestFailure {
    fn from(error: Arc<LoadError>) -> Self {
        Self::Broken(error)
    }
}

impl GuestFailure {
    /// Whether its code is neither in the cache nor can be compiled here.
    pub(crate) fn is_uncompiled(&self) -> bool {
        matches!(self, Self::Broken(error) if error.kind() == LoadErrorKind::CompileMemory)
    }

    /// The problems of a worker that cannot be loaded.
    pub(crate) fn problems(self, worker: &Worker) -> Vec<Problem> {
        match self {
            Self::NotAWorker(error, _) | Self::Broken(error) => {
                vec![problem(&worker.path, &error)]
            }
            Self::Problems(problems) => problems,
        }
    }
}

/// A problem of a worker: at the place of the error, or about the worker's file as a whole.
pub(crate) fn problem(worker: &Path, error: &LoadError) -> Problem {
    let pos = error.pos();
    Problem {
        file: pos.map_or_else(|| worker.to_path_buf(), |pos| pos.file.clone()),
        line: pos.map(|pos| pos.line),
        column: pos.and_then(|pos| pos.column),
        message: error.message(),
        help: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wws_engine::{ProgramFailure, SourcePos};

    fn broken(pos: Option<SourcePos>, message: &str) -> LoadError {
        let failure = ProgramFailure {
            pos,
            message: message.into(),
        };
        failure.into()
    }

    #[test]
    fn reports_errors_at_their_place() {
        let pos = SourcePos {
            file: "lib.js".into(),
            line: 3,
            column: Some(5),
        };
        let error = broken(Some(pos), "Error: x");
        let problem = problem(Path::new("w.js"), &error);
        assert_eq!(problem.to_string(), "lib.js:3:5: Error: x");
    }

    #[test]
    fn message_that_looks_like_a_position_is_not_one() {
        let error = broken(None, "evil.js:1:2: Error: x");
        let problem = problem(Path::new("w.js"), &error);
        assert_eq!(problem.file, Path::new("w.js"));
        assert_eq!((problem.line, problem.column), (None, None));
    }

    #[test]
    fn reports_all_causes() {
        let cause = std::io::Error::other("disk is full");
        let error = LoadError::new(LoadErrorKind::Host, "cannot read w.wasm").caused_by(cause);
        let problem = problem(Path::new("w.wasm"), &error);
        assert_eq!(problem.message, "cannot read w.wasm: disk is full");
    }
}
