//! Counters over the last ten seconds, and what is usual over minutes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Over how long rates are taken.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Counters that only grow, as they were at several times of the last [`WINDOW`], oldest first.
#[derive(Debug)]
pub(super) struct History<const N: usize> {
    seen: VecDeque<(Instant, [u64; N])>,
}

impl<const N: usize> Default for History<N> {
    fn default() -> Self {
        Self {
            seen: VecDeque::new(),
        }
    }
}

impl<const N: usize> History<N> {
    /// Takes the counters as they are `now`. When one has fallen, whoever counts began anew, and so does the window.
    pub fn push(&mut self, now: Instant, counts: [u64; N]) {
        let fell = self
            .seen
            .back()
            .is_some_and(|(_, before)| before.iter().zip(&counts).any(|(b, c)| c < b));
        if fell {
            self.seen.clear();
        }
        self.seen.push_back((now, counts));
        // The one at the far end of the window, or just behind it, stays.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Forgets everything: the source is gone.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// The time of the newest.
    pub fn newest(&self) -> Option<Instant> {
        self.seen.back().map(|(at, _)| *at)
    }

    /// The newest count; 0 before the first.
    pub fn last(&self, which: usize) -> u64 {
        self.seen.back().map_or(0, |(_, counts)| counts[which])
    }

    /// By how much a counter grew within the window.
    pub fn grown(&self, which: usize) -> u64 {
        match (self.seen.front(), self.seen.back()) {
            (Some((_, before)), Some((_, after))) => after[which].saturating_sub(before[which]),
            _ => 0,
        }
    }

    /// By how much it grew from the last but one to the last, and the time between them.
    pub fn step(&self, which: usize) -> Option<(u64, Duration)> {
        let (to, after) = self.seen.back()?;
        let (from, before) = self.seen.get(self.seen.len().checked_sub(2)?)?;
        Some((
            after[which].saturating_sub(before[which]),
            to.saturating_duration_since(*from),
        ))
    }

    /// How much time the window holds.
    pub fn span(&self) -> Duration {
        match (self.seen.front(), self.seen.back()) {
            (Some((from, _)), Some((to, _))) => to.saturating_duration_since(*from),
            _ => Duration::ZERO,
        }
    }

    /// Events a second.
    pub fn rate(&self, which: usize) -> f64 {
        per_second(self.grown(which), self.span())
    }
}

/// Events a second; 0 in no time.
pub(super) fn per_second(count: u64, over: Duration) -> f64 {
    if over.is_zero() {
        0.0
    } else {
        count as f64 / over.as_secs_f64()
    }
}

/// A rate as a report has it.
pub(super) fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

/// What is usual of a rate: a mean that forgets slowly.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    mean: f64,
    known_for: Duration,
}

impl Baseline {
    /// From when on it is worth something.
    pub const LEAST: Duration = Duration::from_secs(60);
    /// How long it remembers.
    const MEMORY: Duration = Duration::from_secs(300);
    /// How long it remembers while the rate is thought to be an attack: what lasts is the new usual in the end.
    const MEMORY_UNDER_ATTACK: Duration = Duration::from_secs(3000);

    /// Takes the rate of a short while.
    pub fn learn(&mut self, rate: f64, over: Duration, attack: bool) {
        let memory = match attack {
            true => Self::MEMORY_UNDER_ATTACK,
            // At first it is the mean of all there was.
            false => Self::MEMORY.min(self.known_for + over),
        };
        if over.is_zero() || memory.is_zero() {
            return;
        }
        // A step up counts as twice the usual at most, so that the start of an attack does not pass for what is usual.
        let rate = match self.usual() {
            Some(usual) => rate.min(2.0 * usual + 1.0),
            None => rate,
        };
        let share = (over.as_secs_f64() / memory.as_secs_f64()).min(1.0);
        self.mean += (rate - self.mean) * share;
        self.known_for = self.known_for.saturating_add(over);
    }

    /// The usual rate; `None` until it is known for [`Self::LEAST`].
    pub fn usual(&self) -> Option<f64> {
        (self.known_for >= Self::LEAST).then_some(self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_over_ten_seconds_and_forget_what_is_older() {
        let start = Instant::now();
        let mut history = History::<1>::default();
        for second in 0..=30_u64 {
            // 100/s for ten seconds, then nothing.
            let count = second.min(10) * 100;
            history.push(start + Duration::from_secs(second), [count]);
            match second {
                0 => assert_eq!(rounded(history.rate(0)), 0),
                10 => assert_eq!(rounded(history.rate(0)), 100),
                15 => assert_eq!(rounded(history.rate(0)), 50),
                20 => assert_eq!(rounded(history.rate(0)), 0),
                _ => {}
            }
        }
        assert_eq!(history.span(), WINDOW);
        assert_eq!(history.seen.len(), 11);
    }

    #[test]
    fn a_counter_that_falls_began_anew() {
        let start = Instant::now();
        let mut history = History::<2>::default();
        history.push(start, [5, 1000]);
        history.push(start + Duration::from_secs(1), [6, 2000]);
        history.push(start + Duration::from_secs(2), [7, 3]);
        assert_eq!((history.grown(0), history.grown(1)), (0, 0));
        history.push(start + Duration::from_secs(3), [8, 13]);
        assert_eq!(rounded(history.rate(1)), 10);
    }

    #[test]
    fn what_is_usual_is_known_after_a_minute_and_moves_slowly() {
        let mut usual = Baseline::default();
        let second = Duration::from_secs(1);
        for _ in 0..59 {
            usual.learn(10.0, second, false);
        }
        assert_eq!(usual.usual(), None);
        for _ in 0..100 {
            usual.learn(10.0, second, false);
        }
        assert!((usual.usual().unwrap() - 10.0).abs() < 0.01);
        for _ in 0..10 {
            usual.learn(1000.0, second, true);
        }
        assert!(usual.usual().unwrap() < 11.0);
        // What lasts is usual in the end.
        for _ in 0..3600 {
            usual.learn(100.0, second, false);
        }
        assert!(usual.usual().unwrap() > 99.0);
    }
}
