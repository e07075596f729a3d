//! Histograms with fixed buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper bounds of times, in nanoseconds.
pub(crate) const TIMES: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The upper bounds of sizes of memory, in bytes.
pub(crate) const SIZES: [u64; 9] = [
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    128 << 20,
    256 << 20,
    1 << 30,
    4 << 30,
];

/// Counts of values up to each of `N` bounds, and of larger ones.
pub(crate) struct Buckets<const N: usize> {
    upto: [AtomicU64; N],
    larger: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self {
            upto: [const { AtomicU64::new(0) }; N],
            larger: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Buckets<N> {
    /// Counts a value among `bounds`.
    pub(crate) fn add(&self, bounds: &[u64; N], value: u64) {
        let index = bounds.partition_point(|bound| *bound < value);
        let bucket = self.upto.get(index).unwrap_or(&self.larger);
        bucket.fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Adds this histogram to a sum.
    pub(crate) fn add_to(&self, total: &mut Histogram) {
        total.buckets.resize(N + 1, 0);
        let all = self.upto.iter().chain([&self.larger]);
        for (sum, bucket) in total.buckets.iter_mut().zip(all) {
            *sum += bucket.load(Relaxed);
        }
        total.sum += u128::from(self.sum.load(Relaxed));
    }
}

impl Buckets<{ TIMES.len() }> {
    /// Counts a time.
    pub(crate) fn add_time(&self, time: Duration) {
        self.add(&TIMES, nanoseconds(time));
    }
}

/// The state of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Values up to each bound but larger than the one before; the last has no bound.
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: u128,
}

impl Histogram {
    /// The number of values.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// A time in nanoseconds.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_values_in_the_bucket_of_the_next_bound() {
        let buckets = Buckets::default();
        for value in [0, 10, 11, 20, 21, 1000] {
            buckets.add(&[10, 20], value);
        }
        let mut histogram = Histogram::default();
        buckets.add_to(&mut histogram);
        buckets.add_to(&mut histogram);
        assert_eq!(histogram.buckets, [4, 4, 4]);
        assert_eq!((histogram.count(), histogram.sum), (12, 2 * 1062));
    }

    #[test]
    fn bounds_ascend() {
        assert!(TIMES.is_sorted() && SIZES.is_sorted());
    }
}
