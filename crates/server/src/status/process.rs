//! What the process uses, as the kernel counts it.

use std::{fs, time::Duration};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// What this process uses now. `None` for what cannot be read here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessUsage {
    /// CPU time of all threads.
    pub(crate) cpu: Duration,
    /// Bytes.
    pub(crate) resident: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) max_files: Option<u64>,
    pub(crate) threads: Option<u64>,
}

impl ProcessUsage {
    pub(crate) fn read() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let files = fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu: Duration::new(
                u64::try_from(time.tv_sec).unwrap_or(0),
                u32::try_from(time.tv_nsec).unwrap_or(0),
            ),
            resident: number("VmRSS:").map(|kib| kib << 10),
            // One is the directory itself.
            open_files: files.map(|files| (files.count() as u64).saturating_sub(1)),
            max_files: getrlimit(Resource::Nofile).current,
            threads: number("Threads:"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_the_process_uses() {
        let usage = ProcessUsage::read();
        assert!(usage.resident.unwrap() > 1 << 20);
        assert!(usage.threads.unwrap() >= 1);
        assert!(usage.open_files.unwrap() >= 3);
        assert!(usage.cpu > Duration::ZERO);
    }
}
