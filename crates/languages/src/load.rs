//! Makes a snapshot from code that is not asynchronous.

use std::sync::Arc;

use wws_engine::{Guest, GuestSpec, Interpreter, LoadError, LoadErrorKind, Program};

/// Loads a program. Blocks the thread.
pub(crate) fn load(
    interpreter: &Interpreter,
    spec: GuestSpec,
    program: Arc<dyn Program>,
) -> Result<Guest, LoadError> {
    // The caller may be inside a runtime, which must not be blocked on from within.
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
