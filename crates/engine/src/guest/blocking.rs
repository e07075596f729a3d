//! Loads guests from code that is not asynchronous.

use std::future::Future;

use crate::error::LoadError;

/// Loads a guest. Blocks the thread.
///
/// # Errors
/// Returns the errors of `load`, or that there is no thread for it.
pub fn load_blocking<T: Send>(
    load: impl Future<Output = Result<T, LoadError>> + Send,
) -> Result<T, LoadError> {
    // The caller may be inside a runtime, in which blocking is not allowed.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .map_err(|error| LoadError::host("cannot start").caused_by(error))?
                    .block_on(load)
            })
            .map_err(|error| LoadError::host("cannot start a thread").caused_by(error))?
            .join()
            .unwrap_or_else(|_| Err(LoadError::host("loading panicked")))
    })
}
