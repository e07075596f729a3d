//! Modules that could not be compiled, kept for some minutes: a container that fails and is started again and again must not take
//! all processors each time.
//!
//! One small file, replaced as a whole. Two that write it at once may lose a line, which costs a compilation.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{CodeCache, CodeKey, UNFINISHED};

const FILE: &str = "failed";

/// For how long a module is not tried again.
const FOR: Duration = Duration::from_secs(600);

/// The most modules that are kept: the last ones.
const MAX: usize = 1000;

/// The longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

impl CodeCache {
    /// Whether a module could not be compiled some minutes ago.
    #[must_use]
    pub fn failed(&self, key: &CodeKey) -> bool {
        self.failures().iter().any(|(_, failed)| *failed == key.0)
    }

    /// Notes that a module could not be compiled.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn note_failed(&self, key: &CodeKey) -> io::Result<()> {
        let mut all = self.failures();
        all.push((now(), key.0.clone()));
        let text: String = all[all.len().saturating_sub(MAX)..]
            .iter()
            .map(|(at, key)| format!("{at} {key}\n"))
            .collect();
        let file = self.folder.join(FILE);
        let unfinished = self
            .folder
            .join(format!("{FILE}.{}{UNFINISHED}", std::process::id()));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, file))
            .inspect_err(|_| {
                let _ = fs::remove_file(&unfinished);
            })
    }

    /// Those that count, with their time.
    fn failures(&self) -> Vec<(u64, String)> {
        let file = self.folder.join(FILE);
        if fs::metadata(&file).map_or(true, |file| file.len() > MAX_BYTES) {
            return Vec::new();
        }
        let (text, now) = (fs::read_to_string(file).unwrap_or_default(), now());
        let lines = text.lines().filter_map(|line| {
            let (at, key) = line.split_once(' ')?;
            let at: u64 = at.parse().ok()?;
            // One of the future is of a clock that was wrong.
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
    fn failures_are_known_for_a_while_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(folder.path(), 1).unwrap();
        let key = |number: usize| CodeKey(format!("{number:064}"));
        assert!(!cache.failed(&key(0)));
        for number in 0..MAX + 2 {
            cache.note_failed(&key(number)).unwrap();
        }
        assert!(cache.failed(&key(MAX + 1)) && cache.failed(&key(2)));
        assert!(!cache.failed(&key(1)));
        let old = now() - FOR.as_secs();
        let text = format!("{old} {}\nnonsense\n", key(5).0);
        fs::write(folder.path().join(FILE), text).unwrap();
        assert!(!cache.failed(&key(5)));
        let late = now() + 1000;
        fs::write(folder.path().join(FILE), format!("{late} {}\n", key(5).0)).unwrap();
        assert!(!cache.failed(&key(5)));
    }
}
