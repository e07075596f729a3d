//! Bounds of one socket.

use std::time::Duration;

/// Bounds of one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message, in both directions.
    pub message: u64,
    /// Bytes of a frame that the peer sends.
    pub frame: u64,
    /// Bytes of messages that wait, in each direction.
    pub queue: u64,
    /// Time in which something has to come from the peer, if only the answer to a ping.
    pub idle: Duration,
    /// Time from the handshake to the close.
    pub time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 1 << 20,
            frame: 1 << 20,
            queue: 1 << 20,
            idle: Duration::from_secs(60),
            time: None,
        }
    }
}
