//! Times in buckets of powers of two.

use crate::control::queues::{Bucket, Histogram};

/// Buckets: the last one begins at 2^35 microseconds, half a day.
const BUCKETS: usize = 36;

/// Counts of times; bucket n holds those below 2^(n+1) microseconds that are not in the one before.
#[derive(Clone, Debug)]
pub(super) struct Log2([u64; BUCKETS]);

impl Default for Log2 {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Log2 {
    /// Counts `count` times of `us` microseconds.
    pub fn add(&mut self, us: u64, count: u64) {
        let bucket = us.max(1).ilog2() as usize;
        self.0[bucket.min(BUCKETS - 1)] += count;
    }

    /// As a report has it.
    pub fn report(&self) -> Histogram {
        histogram(&self.0)
    }
}

/// A report of buckets of powers of two, as `FlowStats::handshake` has them too.
pub(super) fn histogram(buckets: &[u64]) -> Histogram {
    let count = buckets.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let below = |bucket: usize| 1_u64 << (bucket + 1);
    // The upper end of the bucket that has the place `share` of the way through, rounded up.
    let percentile = |per_cent: u64| {
        let place = (u128::from(count) * u128::from(per_cent)).div_ceil(100);
        let mut passed = 0_u128;
        buckets
            .iter()
            .position(|n| {
                passed += u128::from(*n);
                *n > 0 && passed >= place
            })
            .map(below)
    };
    Histogram {
        count,
        p50_us: percentile(50),
        p90_us: percentile(90),
        p99_us: percentile(99),
        buckets: buckets
            .iter()
            .enumerate()
            .filter(|(_, n)| **n > 0)
            .map(|(bucket, n)| Bucket {
                below_us: below(bucket),
                count: *n,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_upper_ends_of_buckets() {
        let mut log = Log2::default();
        assert_eq!(log.report(), Histogram::default());
        log.add(0, 50);
        log.add(1000, 49);
        log.add(1_000_000, 1);
        let told = log.report();
        assert_eq!(told.count, 100);
        assert_eq!(
            (told.p50_us, told.p90_us, told.p99_us),
            (Some(2), Some(1024), Some(1024))
        );
        let buckets: Vec<_> = told.buckets.iter().map(|b| (b.below_us, b.count)).collect();
        assert_eq!(buckets, [(2, 50), (1024, 49), (1 << 20, 1)]);
        log.add(u64::MAX, 1);
        assert_eq!(log.report().buckets.last().unwrap().below_us, 1 << 36);
    }
}
