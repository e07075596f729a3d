//! The refusal of memory that the host needs for a call.

/// The host may not keep so many bytes for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory to keep {0} bytes for this call (`limits.buffers`, `server.memory`)")]
pub struct NoMemory(pub u64);
