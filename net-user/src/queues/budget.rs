//! The SYN budget of a listener in mode `auto` follows its SYN queue.
//!
//! An unanswered handshake inside the budget holds a place in the SYN queue for up to a minute, so that a flood within the
//! budget fills it in the end. When more than half is taken the budget is halved, at each look again; when less than a
//! quarter is, for [`CALM`], it doubles once a second until it is as configured. SYNs beyond it get cookies.
//!
//! The queue is walked every five seconds at most (R-Q-6). In between its length is estimated: what was found, and the
//! SYNs that were left to the kernel since, less the connections that it completed and the segments that it dropped since. A
//! SYN that a client sends again counts twice until the next walk; what expires or is reset counts until then.

use std::time::{Duration, Instant};

/// Halvings at most: of the default of 100/s is left less than one a second.
pub const MAX_LEVEL: u32 = 7;
/// How long the queue must be short before the budget grows again.
const CALM: Duration = Duration::from_secs(5);
/// Least time between two doublings.
const GROW_EVERY: Duration = Duration::from_secs(1);

/// What the data path counted for a listener when its queue was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// SYNs left to the kernel.
    pub passed: u64,
    /// Connections that the kernel completed from them.
    pub completed: u64,
    /// Segments dropped at its sockets: SYNs for which there was no room, most of them.
    pub dropped: u64,
}

/// The budget of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    level: u32,
    /// Half-open connections at the last walk, and what was counted then.
    walked: (u32, Counted),
    last: Counted,
    /// As of the last look.
    estimate: u32,
    calm_since: Option<Instant>,
    grown: Instant,
}

impl Follower {
    /// Of a listener that was just met.
    pub fn new(now: Instant, counted: Counted) -> Self {
        Self {
            level: 0,
            walked: (0, counted),
            last: counted,
            estimate: 0,
            calm_since: None,
            grown: now,
        }
    }

    /// How often the budget is halved, at most [`MAX_LEVEL`].
    pub const fn level(&self) -> u32 {
        self.level
    }

    /// Half-open connections as estimated last.
    pub const fn estimate(&self) -> u32 {
        self.estimate
    }

    /// Whether the queue has to be looked at closely.
    pub const fn is_busy(&self) -> bool {
        self.estimate > 0 || self.level > 0
    }

    /// A walk found so many half-open connections.
    pub fn walked(&mut self, half_open: u32) {
        self.walked = (half_open, self.last);
    }

    /// Follows the queue, whose limit is `limit`. Returns whether the level changed.
    pub fn follow(&mut self, now: Instant, counted: Counted, limit: u32) -> bool {
        let (found, then) = self.walked;
        self.last = counted;
        let came = counted.passed.saturating_sub(then.passed);
        let went = counted.completed.saturating_sub(then.completed);
        let dropped = counted.dropped.saturating_sub(then.dropped);
        let estimate = (u64::from(found) + came).saturating_sub(went + dropped);
        self.estimate = u32::try_from(estimate).unwrap_or(u32::MAX);
        let before = self.level;
        // One more than the limit fits (R-Q-1, R-Q-2).
        if self.estimate > limit / 2 {
            self.calm_since = None;
            self.level = (self.level + 1).min(MAX_LEVEL);
        } else if self.estimate <= limit / 4 {
            let since = *self.calm_since.get_or_insert(now);
            let calm = now.saturating_duration_since(since) >= CALM;
            if calm && now.saturating_duration_since(self.grown) >= GROW_EVERY {
                self.level = self.level.saturating_sub(1);
                self.grown = now;
            }
        } else {
            self.calm_since = None;
        }
        self.level != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(50);

    fn counted(passed: u64, completed: u64) -> Counted {
        Counted {
            passed,
            completed,
            dropped: 0,
        }
    }

    #[test]
    fn a_flood_within_the_budget_shrinks_it_before_the_queue_is_full() {
        let mut now = Instant::now();
        let mut follower = Follower::new(now, Counted::default());
        let (limit, mut passed) = (128, 0.0);
        // 100 a second, none of which is completed, for a minute.
        for _ in 0..1200 {
            now += LOOK;
            passed += 5.0 / f64::from(1 << follower.level());
            follower.follow(now, counted(passed as u64, 0), limit);
            assert!(
                follower.estimate() <= limit,
                "the SYN queue never fills: {follower:?}"
            );
        }
        assert_eq!(follower.level(), MAX_LEVEL);
    }

    #[test]
    fn honest_handshakes_leave_the_budget_as_it_is() {
        let mut now = Instant::now();
        let mut follower = Follower::new(now, Counted::default());
        // 1000 a second, each completed within 50 ms.
        for look in 1..1200 {
            now += LOOK;
            follower.follow(now, counted(look * 50, (look - 1) * 50), 128);
            assert_eq!((follower.level(), follower.estimate()), (0, 50));
        }
    }

    #[test]
    fn the_budget_returns_step_by_step_after_the_queue_has_been_short_for_a_while() {
        let start = Instant::now();
        let mut now = start;
        let mut follower = Follower::new(now, Counted::default());
        for _ in 0..3 {
            follower.follow(now, counted(100, 0), 128);
        }
        assert_eq!(follower.level(), 3);
        follower.walked(0);
        let mut levels = Vec::new();
        while follower.level() > 0 {
            now += LOOK;
            if follower.follow(now, counted(100, 0), 128) {
                let ms = now.duration_since(start).as_millis();
                levels.push((ms / 1000, follower.level()));
            }
        }
        assert_eq!(levels, [(5, 2), (6, 1), (7, 0)]);
        // Between a quarter and half nothing changes: neither calm nor pressed.
        follower.follow(now, counted(200, 0), 128);
        assert_eq!(follower.level(), 1);
        follower.walked(50);
        for _ in 0..400 {
            now += LOOK;
            assert!(!follower.follow(now, counted(200, 0), 128));
        }
    }

    #[test]
    fn a_walk_corrects_the_estimate() {
        let now = Instant::now();
        let mut follower = Follower::new(now, counted(1_000, 900));
        follower.follow(now, counted(1_060, 950), 128);
        assert_eq!(follower.estimate(), 10, "what was there before is unknown");
        follower.walked(30);
        follower.follow(now, counted(1_060, 950), 128);
        assert_eq!(follower.estimate(), 30);
        follower.follow(now, counted(1_070, 990), 128);
        assert_eq!(follower.estimate(), 0, "never below none");
        let dropped = Counted {
            dropped: 7,
            ..counted(1_070, 950)
        };
        follower.follow(now, dropped, 128);
        assert_eq!(
            follower.estimate(),
            33,
            "a dropped SYN takes no place (R-Q-3)"
        );
    }
}
