//! How often a look may be taken that costs more the more there is to see.

use std::time::{Duration, Instant};

/// At most one part in `share` of a core is spent on a look: 200 for 0.5 %.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    least: Duration,
    share: u32,
    next: Option<Instant>,
}

impl Pace {
    /// A look at most every `least`, and for at most one part in `share` of the time. The first is due at once.
    pub fn new(least: Duration, share: u32) -> Self {
        Self {
            least,
            share,
            next: None,
        }
    }

    /// Whether it is time.
    pub fn due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// A look that took `cost` ended `now`.
    pub fn done(&mut self, now: Instant, cost: Duration) {
        let pause = self.least.max(cost.saturating_mul(self.share));
        // The clock does not reach so far: then never again.
        self.next = Some(now.checked_add(pause).unwrap_or(now + Self::FOREVER));
    }

    /// Longer than any host runs.
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cheap_look_is_due_after_the_least_time_and_a_dear_one_after_its_share() {
        let least = Duration::from_secs(5);
        for (description, cost, pause) in [
            ("free", Duration::ZERO, least),
            ("cheap", Duration::from_millis(25), least),
            (
                "0.5 % of 10 s",
                Duration::from_millis(50),
                Duration::from_secs(10),
            ),
            ("a second", Duration::from_secs(1), Duration::from_secs(200)),
        ] {
            let start = Instant::now();
            let mut pace = Pace::new(least, 200);
            assert!(pace.due(start), "{description}");
            pace.done(start, cost);
            assert!(!pace.due(start), "{description}");
            let before = start + pause - Duration::from_nanos(1);
            assert!(!pace.due(before), "{description}");
            assert!(pace.due(start + pause), "{description}");
        }
    }

    #[test]
    fn no_cost_overflows() {
        let mut pace = Pace::new(Duration::from_secs(5), 200);
        let now = Instant::now();
        pace.done(now, Duration::MAX);
        assert!(!pace.due(now + Duration::from_secs(86_400)));
    }

    #[test]
    fn looks_at_this_pace_take_no_more_than_their_share() {
        let mut now = Instant::now();
        let begun = now;
        let mut pace = Pace::new(Duration::from_secs(5), 200);
        let mut spent = Duration::ZERO;
        for look in 0..100 {
            while !pace.due(now) {
                now += Duration::from_millis(250);
            }
            let cost = Duration::from_millis(look * 7);
            now += cost;
            spent += cost;
            pace.done(now, cost);
        }
        // The last one's pause is not over yet.
        now += Duration::from_millis(99 * 7) * 200;
        assert!(spent * 200 <= now - begun, "{spent:?} of {:?}", now - begun);
    }
}
