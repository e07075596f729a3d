//! Waiting for something to become true, always with a deadline.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Result, bail};

/// How often a condition is looked at, on an ordinary machine: looking takes time as well.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it answers `Some`, and returns that.
///
/// # Errors
/// What `probe` fails with, at once; or, after `limit` (by this machine's [`patience`]), that
/// `what` did not happen.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        // The machine may have become busy meanwhile.
        let limit = patience(limit);
        if started.elapsed() >= limit {
            bail!("{what}: not within {limit:?}");
        }
        sleep(patience(INTERVAL));
    }
}

/// How long to wait on this machine, now, for what takes `limit` at most on an ordinary one:
/// `WWS_TEST_PATIENCE` says how many times slower it is, say because it is emulated, and its load
/// how many others want each CPU.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    let factor = env::var("WWS_TEST_PATIENCE").ok();
    let factor = factor.and_then(|factor| factor.parse::<u32>().ok());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    limit * factor.unwrap_or(1).max(1) * slower_by(&load, cpus)
}

/// How many times slower a machine of so many CPUs is at a load, as `/proc/loadavg` has it.
fn slower_by(load: &str, cpus: usize) -> u32 {
    const MOST: u32 = 30;
    let last_minute = load.split_whitespace().next();
    let wanted: f64 = last_minute
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0);
    let each = (wanted / cpus as f64).ceil();
    each.clamp(1.0, f64::from(MOST)) as u32
}

/// How often [`with_progress`] says something.
const PROGRESS: Duration = Duration::from_secs(10);

/// Does `work`, and prints every ten seconds for how long it has been at `what`.
pub fn with_progress<T>(what: &str, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        let started = Instant::now();
        scope.spawn(move || {
            while ended.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                println!("{what}: {} s so far", started.elapsed().as_secs());
            }
        });
        let done = work();
        drop(end);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_given_more_time() {
        assert_eq!(slower_by("0.00 0.00 0.00 1/99 1", 2), 1);
        assert_eq!(slower_by("2.00 0.00 0.00 1/99 1", 2), 1);
        assert_eq!(slower_by("4.00 0.00 0.00 1/99 1", 2), 2);
        assert_eq!(slower_by("20.00 9.00 9.00 1/99 1", 2), 10);
        assert_eq!(slower_by("9000 9.00 9.00 1/99 1", 1), 30);
        assert_eq!(slower_by("", 2), 1);
    }
}
