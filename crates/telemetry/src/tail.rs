//! The last lines of the log, by worker: a bounded ring that a page reads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

/// Most lines that are kept of a worker.
const MAX_LINES: usize = 100;

/// Most bytes of a line; the rest is cut.
const MAX_LINE: usize = 1 << 10;

/// Most bytes of all lines.
const MAX_BYTES: usize = 1 << 20;

/// Bytes that a line is counted for besides its texts.
const LINE_COST: usize = 64;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub time: SystemTime,
    /// Its level, in capitals.
    pub level: &'static str,
    /// Its text.
    pub text: String,
}

impl LogLine {
    fn cost(&self) -> usize {
        self.text.len() + LINE_COST
    }
}

/// The last lines of the log. Empty until it is enabled.
#[derive(Default)]
pub struct LogTail {
    enabled: AtomicBool,
    state: Mutex<TailState>,
}

#[derive(Default)]
struct TailState {
    bytes: usize,
    /// By the worker's name; empty for lines of the server itself.
    workers: BTreeMap<String, WorkerTail>,
}

#[derive(Default)]
struct WorkerTail {
    bytes: usize,
    lines: VecDeque<LogLine>,
}

impl TailState {
    /// Removes the oldest line of a worker, and the worker if it was the only one.
    fn remove_oldest(&mut self, worker: &str) {
        let Some(tail) = self.workers.get_mut(worker) else {
            return;
        };
        if let Some(line) = tail.lines.pop_front() {
            tail.bytes -= line.cost();
            self.bytes -= line.cost();
        }
        if tail.lines.is_empty() {
            self.workers.remove(worker);
        }
    }
}

impl LogTail {
    /// Keeps lines from now on.
    pub fn enable(&self) {
        self.enabled.store(true, Relaxed);
    }

    /// Whether lines are kept.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, TailState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line of a worker, or of the server itself if `worker` is empty. The worker with the
    /// most lines loses its oldest ones.
    pub fn add(&self, worker: &str, level: &'static str, text: &str) {
        if !self.is_enabled() {
            return;
        }
        let line = LogLine {
            time: SystemTime::now(),
            level,
            text: text[..text.floor_char_boundary(MAX_LINE)].to_owned(),
        };
        let mut state = self.state();
        let cost = line.cost();
        state.bytes += cost;
        let tail = state.workers.entry(worker.to_owned()).or_default();
        tail.bytes += cost;
        tail.lines.push_back(line);
        if tail.lines.len() > MAX_LINES {
            state.remove_oldest(worker);
        }
        while state.bytes > MAX_BYTES {
            let largest = state.workers.iter().max_by_key(|(_, tail)| tail.bytes);
            let Some(largest) = largest.map(|(worker, _)| worker.clone()) else {
                return;
            };
            state.remove_oldest(&largest);
        }
    }

    /// The lines of a worker, the oldest first.
    #[must_use]
    pub fn lines(&self, worker: &str) -> Vec<LogLine> {
        let state = self.state();
        let tail = state.workers.get(worker);
        tail.map_or_else(Vec::new, |tail| tail.lines.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_the_last_lines_of_each_worker() {
        let tail = LogTail::default();
        tail.add("a", "INFO", "before it is enabled");
        tail.enable();
        for number in 0..1000 {
            tail.add("a", "INFO", &number.to_string());
        }
        tail.add("b", "ERROR", &"ä".repeat(MAX_LINE));
        let lines = tail.lines("a");
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.last().unwrap().text, "999");
        assert_eq!(tail.lines("b")[0].text.len(), MAX_LINE);
        assert_eq!(tail.lines("c"), []);
    }

    #[test]
    fn a_noisy_worker_costs_others_nothing() {
        let tail = LogTail::default();
        tail.enable();
        tail.add("quiet", "INFO", "here");
        let long = "x".repeat(MAX_LINE);
        for worker in 0..100 {
            (0..MAX_LINES).for_each(|_| tail.add(&worker.to_string(), "INFO", &long));
        }
        assert!(tail.state().bytes <= MAX_BYTES);
        assert_eq!(tail.lines("quiet").len(), 1);
        let sum: usize = tail.state().workers.values().map(|tail| tail.bytes).sum();
        assert_eq!(sum, tail.state().bytes);
    }
}
