//! The bound of the lines that a guest logs.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Bounds the lines that a guest logs in a second, in all of its calls together.
#[derive(Default)]
pub(crate) struct LogRate {
    /// The second that `lines` belong to, counted from an arbitrary moment.
    second: AtomicU64,
    lines: AtomicU32,
    left_out: AtomicU64,
}

impl LogRate {
    /// Whether one more line may be logged. `rate`: lines per second; 0 sets no bound. Calls that
    /// begin a second at once may log a few lines more.
    pub(crate) fn admits(&self, rate: u32, second: u64) -> bool {
        if rate == 0 {
            return true;
        }
        if self.second.swap(second, Relaxed) != second {
            self.lines.store(0, Relaxed);
        }
        let admitted = self.lines.fetch_add(1, Relaxed) < rate;
        if !admitted {
            self.left_out.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// The lines that were left out, once the second is over in which they were.
    pub(crate) fn take_left_out(&self, second: u64) -> u64 {
        if self.left_out.load(Relaxed) == 0 || self.second.load(Relaxed) == second {
            return 0;
        }
        self.left_out.swap(0, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_beyond_the_rate_and_reports_them_when_the_second_is_over() {
        let rate = LogRate::default();
        let admitted = (0..100).filter(|_| rate.admits(10, 1)).count();
        assert_eq!((admitted, rate.take_left_out(1)), (10, 0));
        assert_eq!((rate.take_left_out(2), rate.take_left_out(2)), (90, 0));
        assert!(rate.admits(10, 2));
        assert!((0..100).all(|_| rate.admits(0, 2)));
    }
}
