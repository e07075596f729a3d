//! Remembers for some minutes which modules cannot be compiled: a failing container that is started
//! again and again must not use all CPUs each time. What failed for a reason of the machine is not
//! here.
//!
//! They are in one small file, which is replaced as a whole. Two processes that write it at once
//! may lose a line, which costs one compilation.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::code_cache::cache::{CodeCache, CodeKey, UNFINISHED};

const FILE: &str = "failed";

/// The longest time for which a failure counts.
const MAX_TIME: Duration = Duration::from_secs(600);

/// Most modules that are kept; the oldest are dropped.
const MAX: usize = 1000;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

impl CodeCache {
    /// Returns for how long a module is not compiled again, because that failed before.
    #[must_use]
    pub fn failed(&self, key: &CodeKey) -> Option<Duration> {
        let failures = self.failures().into_iter();
        let left = failures.filter_map(|(left, failed)| (failed == key.0).then_some(left));
        left.max()
    }

    /// Records that a module could not be compiled, and is not to be tried again for a time of up
    /// to ten minutes.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn note_failed(&self, key: &CodeKey, for_time: Duration) -> io::Result<()> {
        let mut all = self.failures();
        all.push((for_time.min(MAX_TIME), key.0.clone()));
        let now = now();
        let text: String = all[all.len().saturating_sub(MAX)..]
            .iter()
            .map(|(left, key)| format!("{} {key}\n", now + left.as_secs()))
            .collect();
        let file = self.directory.join(FILE);
        let unfinished = self
            .directory
            .join(format!("{FILE}.{}{UNFINISHED}", std::process::id()));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, file))
            .inspect_err(|_| {
                let _ = fs::remove_file(&unfinished);
            })
    }

    /// The failures that still count, with the time for which they do.
    fn failures(&self) -> Vec<(Duration, String)> {
        let file = self.directory.join(FILE);
        if fs::metadata(&file).map_or(true, |file| file.len() > MAX_BYTES) {
            return Vec::new();
        }
        let (text, now) = (fs::read_to_string(file).unwrap_or_default(), now());
        let lines = text.lines().filter_map(|line| {
            let (until, key) = line.split_once(' ')?;
            let left = until.parse::<u64>().ok()?.checked_sub(now)?;
            // A time further in the future comes from a wrong clock.
            let counts = (1..=MAX_TIME.as_secs()).contains(&left);
            counts.then(|| (Duration::from_secs(left), key.to_owned()))
        });
        lines.collect()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn remembers_bounded_failures_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(directory.path(), 1).unwrap();
        let key = |number: usize| CodeKey(format!("{number:064}"));
        let failed = |number| cache.failed(&key(number)).is_some();
        assert!(!failed(0));
        for number in 0..MAX + 2 {
            cache.note_failed(&key(number), MAX_TIME).unwrap();
        }
        assert!(failed(MAX + 1) && failed(2));
        assert!(!failed(1));
        cache.note_failed(&key(1), Duration::from_secs(60)).unwrap();
        let left = cache.failed(&key(1)).unwrap().as_secs();
        assert!((1..=60).contains(&left), "{left}");
        let write = |until: u64| {
            let text = format!("{until} {}\nnonsense\n", key(5).0);
            fs::write(directory.path().join(FILE), text).unwrap();
        };
        // Over; what an earlier version wrote, the time of the failure; and a wrong clock.
        for until in [now(), now() - 100, now() + 10_000] {
            write(until);
            assert!(!failed(5), "{until}");
        }
        write(now() + 300);
        assert!(failed(5));
    }
}
