//! Generic cell rate algorithm (ITU-T I.371 annex A, virtual scheduling): a limit in one 64-bit
//! theoretical arrival time, read-only once it is exhausted.

/// Offers one event at `now`. Some(new theoretical arrival time) when it conforms, None when it does
/// not and the state stays as it is.
///
/// `interval` is the time between events at the limit's rate, `tolerance` the burst: from rest,
/// `tolerance / interval + 1` events conform at once. All in nanoseconds of one clock.
///
/// No overflow: clocks stay below 2^63 ns (292 years), and the callers' intervals and tolerances below
/// 2^62, so `max(tat, now) + interval` fits; saturation covers a state that was written by anything else.
#[inline(always)]
pub fn conform(tat: u64, now: u64, interval: u64, tolerance: u64) -> Option<u64> {
    if tat > now.saturating_add(tolerance) {
        return None;
    }
    Some(if tat > now { tat } else { now }.saturating_add(interval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_from_rest_is_tolerance_over_interval_plus_one() {
        let (mut tat, mut passed) = (0, 0);
        while let Some(next) = conform(tat, 1_000_000, 10, 100) {
            tat = next;
            passed += 1;
        }
        assert_eq!(passed, 11);
    }

    #[test]
    fn a_saturated_state_recovers_by_refusing_and_never_wraps() {
        assert_eq!(conform(u64::MAX, 5, 10, 10), None);
        assert_eq!(conform(0, u64::MAX, 10, 10), Some(u64::MAX));
    }

    proptest! {
        /// Against the definition: in any window of length L at most L/T + burst + 1 events pass.
        #[test]
        fn no_window_exceeds_rate_plus_burst(
            gaps in proptest::collection::vec(0u64..200, 1..400),
            interval in 1u64..100,
            tolerance in 0u64..1000,
        ) {
            let (mut tat, mut now, mut passed) = (0, 1_000, Vec::new());
            for gap in gaps {
                now += gap;
                if let Some(next) = conform(tat, now, interval, tolerance) {
                    tat = next;
                    passed.push(now);
                }
            }
            for (i, &from) in passed.iter().enumerate() {
                for (n, &to) in passed[i..].iter().enumerate() {
                    let allowed = (to - from + tolerance) / interval + 1;
                    prop_assert!((n as u64) < allowed + 1, "{} events in {} ns", n + 1, to - from);
                }
            }
        }

        /// Against an exact model: an event conforms exactly when a leaky bucket in rational
        /// arithmetic (contents drain 1 per ns, each event adds `interval`) holds at most `tolerance`.
        #[test]
        fn agrees_with_the_leaky_bucket(
            gaps in proptest::collection::vec(0u64..500, 1..300),
            interval in 1u64..100,
            tolerance in 0u64..1000,
        ) {
            let (mut tat, mut now, mut level) = (0, 1_000_000, 0u64);
            for gap in gaps {
                now += gap;
                level = level.saturating_sub(gap);
                let got = conform(tat, now, interval, tolerance);
                prop_assert_eq!(got.is_some(), level <= tolerance);
                if let Some(next) = got {
                    tat = next;
                    level += interval;
                }
            }
        }
    }
}
