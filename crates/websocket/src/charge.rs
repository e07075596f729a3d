//! Memory that is charged.

/// Memory that is charged before it is used, and released when this is dropped.
pub trait MemoryCharge: Send {
    /// Makes the charge `bytes` large. Returns `false`, and leaves it as it was, if so much is not
    /// free.
    fn resize(&mut self, bytes: u64) -> bool;
}
