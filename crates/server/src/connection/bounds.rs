//! Bounds of connections.

use std::time::Duration;

use hyper::server::conn::http1::Builder;
use tokio_util::sync::CancellationToken;
use wws_engine::Account;

/// How often a client's rate is checked within the time that it is averaged over.
pub(crate) const RATE_CHECKS: u32 = 6;

/// Time and memory bounds of a connection.
#[derive(Clone)]
pub(crate) struct Bounds {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    /// The time over which a client's rate is averaged.
    pub(crate) write: Duration,
    /// The lowest rate at which a client must take what is sent, in bytes per second.
    pub(crate) min_rate: u64,
    /// The memory of all connections: while it is short, slow clients have less time.
    pub(crate) memory: Account,
    /// The account that long heads are charged to.
    pub(crate) heads: Account,
}

/// What all connections of a server have in common.
pub(crate) struct ConnectionSettings {
    pub(crate) http1: Builder,
    pub(crate) http2: h2::server::Builder,
    pub(crate) bounds: Bounds,
    /// Cancelled when the server stops.
    pub(crate) draining: CancellationToken,
}

/// The bytes that a rate (in bytes per second) yields within a time.
pub(crate) fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_millis() / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
