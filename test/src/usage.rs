//! What a process uses: memory and CPU time, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;

/// The resident memory of a process, in bytes.
///
/// # Errors
/// The process has ended.
pub fn resident(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{}/statm", pid.as_raw_nonzero());
    let statm = fs::read_to_string(&path)?;
    let pages = statm.split(' ').nth(1).context("no resident pages")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}

/// The CPU time of all threads of a process so far.
///
/// # Errors
/// The process has ended.
pub fn cpu_time(pid: Pid) -> Result<Duration> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(&path)?;
    // Its name, in parentheses, may have spaces.
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    let user = times.next().context("no user time")??;
    let system = times.next().context("no system time")??;
    let milliseconds = (user + system) * 1000 / clock_ticks_per_second();
    Ok(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    #[test]
    fn sees_memory_and_time_that_are_used() {
        let own = rustix::process::getpid();
        let (memory, time) = (resident(own).unwrap(), cpu_time(own).unwrap());
        let held = black_box(vec![1_u8; 64 << 20]);
        assert!(resident(own).unwrap() > memory + (48 << 20));
        drop(held);
        let start = Instant::now();
        while cpu_time(own).unwrap() < time + Duration::from_millis(50) {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }
}
