//! Waiting for something to become true, always with a deadline.

use std::env;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at, on an ordinary machine: looking takes time as well.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it answers `Some`, and returns that.
///
/// # Errors
/// What `probe` fails with, at once; or, after `limit` (by this machine's [`patience`]), that `what` did not happen.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        sleep(patience(INTERVAL));
    }
}

/// How long to wait on this machine for what takes `limit` at most on an ordinary one: `WWS_TEST_PATIENCE` says how many times
/// slower it is, say because it is emulated.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    let factor = env::var("WWS_TEST_PATIENCE").ok();
    let factor = factor.and_then(|factor| factor.parse::<u32>().ok());
    limit * factor.unwrap_or(1).max(1)
}
