//! Remembers for some minutes which modules could not be compiled: a failing container that is
//! started again and again must not use all CPUs each time.
//!
//! They are in one small file, which is replaced as a whole. Two processes that write it at once
//! may lose a line, which costs one compilation.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::code_cache::cache::{CodeCache, CodeKey, UNFINISHED};

const FILE: &str = "failed";

/// The time after which a module is compiled again.
const FOR: Duration = Duration::from_secs(600);

/// Most modules that are kept; the oldest are dropped.
const MAX: usize = 1000;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

impl CodeCache {
    /// Whether compiling a module failed some minutes ago.
    #[must_use]
    pub fn failed(&self, key: &CodeKey) -> bool {
        self.failures().iter().any(|(_, failed)| *failed == key.0)
    }

    /// Records that a module could not be compiled.
    ///
    /// # Errors
    /// Returns an error if the cache cannot be written.
    pub fn note_failed(&self, key: &CodeKey) -> io::Result<()> {
        let mut all = self.failures();
        all.push((now(), key.0.clone()));
        let text: String = all[all.len().saturating_sub(MAX)..]
            .iter()
            .map(|(at, key)| format!("{at} {key}\n"))
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

    /// The failures that still count, with their time.
    fn failures(&self) -> Vec<(u64, String)> {
        let file = self.directory.join(FILE);
        if fs::metadata(&file).map_or(true, |file| file.len() > MAX_BYTES) {
            return Vec::new();
        }
        let (text, now) = (fs::read_to_string(file).unwrap_or_default(), now());
        let lines = text.lines().filter_map(|line| {
            let (at, key) = line.split_once(' ')?;
            let at: u64 = at.parse().ok()?;
            // A time in the future comes from a wrong clock.
            let counts = now.checked_sub(at).is_some_and(|age| age < FOR.as_secs());
            counts.then(|| (at, key.to_owned()))
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
        assert!(!cache.failed(&key(0)));
        for number in 0..MAX + 2 {
            cache.note_failed(&key(number)).unwrap();
        }
        assert!(cache.failed(&key(MAX + 1)) && cache.failed(&key(2)));
        assert!(!cache.failed(&key(1)));
        let old = now() - FOR.as_secs();
        let text = format!("{old} {}\nnonsense\n", key(5).0);
        fs::write(directory.path().join(FILE), text).unwrap();
        assert!(!cache.failed(&key(5)));
        let late = now() + 1000;
        fs::write(
            directory.path().join(FILE),
            format!("{late} {}\n", key(5).0),
        )
        .unwrap();
        assert!(!cache.failed(&key(5)));
    }
}
