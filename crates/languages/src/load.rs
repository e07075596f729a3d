//! Takes a snapshot from code that is not asynchronous.

use std::sync::Arc;

use wws_engine::{Guest, GuestSpec, Interpreter, LoadError, LoadErrorKind, Program};

/// Loads a program. Blocks the thread.
pub(crate) fn load(
    interpreter: &Interpreter,
    spec: GuestSpec,
    program: Arc<dyn Program>,
) -> Result<Guest, LoadError> {
    // The caller may be inside a runtime, in which blocking is not allowed.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .map_err(|error| {
                        LoadError::new(LoadErrorKind::Host, "cannot start").caused_by(error)
                    })?
                    .block_on(interpreter.snapshot(spec, program))
            })
            .map_err(|error| {
                LoadError::new(LoadErrorKind::Host, "cannot start a thread").caused_by(error)
            })?
            .join()
            .unwrap_or_else(|_| Err(LoadError::new(LoadErrorKind::Host, "loading panicked")))
    })
}

/// Why a Python or Ruby source that could not be loaded is not a worker.
pub(crate) fn defines_no_worker(source: &str) -> Option<String> {
    (!source.contains("worker")).then(|| "it defines no `worker`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_sources_without_worker() {
        assert!(defines_no_worker("import os\nprint(os)").is_some());
        assert_eq!(defines_no_worker("def worker(request): retrun"), None);
    }
}
