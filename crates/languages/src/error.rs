//! Why a source is no guest.

use wws_engine::LoadError;

/// A source that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It was run, and left nothing that answers requests: it may be a library.
    #[error(transparent)]
    NoHandler(LoadError),
    /// It cannot be run.
    #[error(transparent)]
    Broken(#[from] LoadError),
}
