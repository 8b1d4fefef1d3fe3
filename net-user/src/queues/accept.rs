//! The accept queue of a listener over time: how long it is, how fast it is emptied, how long connections wait in it.
//!
//! Nothing tells when a single connection is accepted. But the queue is first in, first out: what has come less what waits is
//! what was accepted, so when the count of those accepted passes a connection's place, it was that connection. Its
//! wait is known to within a look (50 ms); what waits less than that is "below 65,536 µs" all alike. How many come is
//! counted by the tracepoint, once a second, and spread over the looks between; where it is missing, only rises of the
//! length are known, so counts are lower bounds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    histogram::Log2,
    history::{WINDOW, per_second},
};
use crate::control::queues::AcceptWait;

/// Looks that are kept until their arrivals are counted; more, and the rises have to do. Three seconds of looks.
const PENDING: usize = 64;
/// Arrivals that are told apart by time, one entry a look. At 20 looks a second, three minutes of a queue in which every look
/// finds a newcomer.
const FIFO: usize = 4096;

/// What one look found, of all sockets of a listener.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Length {
    /// Connections that wait, of all sockets.
    pub waiting: u32,
    /// Whether any socket's queue is full (R-Q-1).
    pub full: bool,
    /// Whether any socket's queue is half full.
    pub half: bool,
}

/// From one look to the next.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: Instant,
    at: Instant,
    before: u32,
    after: u32,
    /// Looks in this time, those that were left out too.
    looks: u32,
}

/// Sums over a part of the window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Looks.
    pub looks: u32,
    /// Of these, that found a queue full.
    pub full: u32,
    /// Of these, that found a queue half full or more.
    pub half: u32,
    /// Connections that came.
    pub arrivals: u64,
    /// Connections that were accepted.
    pub departures: u64,
    /// Length by time, in connections x microseconds.
    area_us: u128,
    /// Time.
    pub span: Duration,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.looks += other.looks;
        self.full += other.full;
        self.half += other.half;
        self.arrivals += other.arrivals;
        self.departures += other.departures;
        self.area_us += other.area_us;
        self.span += other.span;
    }

    /// Mean wait by Little's law: mean length by rate of departures.
    pub fn mean_us(&self) -> Option<u64> {
        let mean = self.area_us.checked_div(u128::from(self.departures))?;
        Some(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// Connections accepted a second.
    pub fn accepted(&self) -> f64 {
        per_second(self.departures, self.span)
    }

    /// Connections that came, a second.
    pub fn came(&self) -> f64 {
        per_second(self.arrivals, self.span)
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct AcceptQueue {
    last: Option<(Instant, u32)>,
    /// What waited at the first look: accepted later, it is none of the connections counted.
    initial: u64,
    arrivals: u64,
    departures: u64,
    established: Option<u64>,
    /// Whether arrivals are counted, as of the last try.
    counted: Option<bool>,
    /// Seen as rises and not counted yet: the look and the count are not of the same moment.
    owed: u64,
    /// Counted, and no look since.
    carried: u64,
    pending: Vec<Step>,
    /// When arrivals were seen, and how many there were with them.
    fifo: VecDeque<(Instant, u64)>,
    waits: Log2,
    seconds: VecDeque<(Instant, Sums)>,
}

impl AcceptQueue {
    /// One whose arrivals nobody counts.
    pub fn uncounted() -> Self {
        Self {
            counted: Some(false),
            ..Self::default()
        }
    }

    /// Takes a look, before which `left_out` others would have found what the last one did.
    pub fn look(&mut self, now: Instant, length: Length, left_out: u32) {
        let after = length.waiting;
        let Some((from, before)) = self.last.replace((now, after)) else {
            self.initial = u64::from(after);
            self.arrivals = self.initial;
            if after > 0 {
                self.fifo.push_back((now, self.arrivals));
            }
            return;
        };
        let span = now.saturating_duration_since(from);
        let sums = self.second(now);
        sums.looks += left_out + 1;
        sums.full += u32::from(length.full);
        sums.half += u32::from(length.half);
        sums.area_us += u128::from(before) * span.as_micros();
        sums.span += span;
        self.pending.push(Step {
            from,
            at: now,
            before,
            after,
            looks: left_out + 1,
        });
        if self.counted == Some(false) || self.pending.len() >= PENDING {
            self.settle(now, None);
        }
    }

    /// Takes how many connections peers have completed, since the listener is known; `None` where nobody counts them.
    pub fn count(&mut self, now: Instant, established: Option<u64>) {
        self.counted = Some(established.is_some());
        let Some(established) = established else {
            self.established = None;
            return self.settle(now, None);
        };
        // A count that fell began anew.
        let before = self.established.replace(established).unwrap_or_default();
        self.settle(now, Some(established.saturating_sub(before)));
    }

    /// Whether arrivals are counted; else they are at least what is told.
    pub fn is_counted(&self) -> bool {
        self.counted == Some(true)
    }

    /// Connections that were accepted, of those counted.
    pub fn accepted(&self) -> u64 {
        self.departures.saturating_sub(self.initial)
    }

    /// Sums over the window.
    pub fn sums(&self) -> Sums {
        let mut all = Sums::default();
        self.seconds.iter().for_each(|(_, sums)| all.add(sums));
        all
    }

    /// Connections accepted in the seconds that began at `since` or later.
    pub fn accepted_since(&self, since: Instant) -> u64 {
        let late = self.seconds.iter().filter(|(start, _)| *start >= since);
        late.map(|(_, sums)| sums.departures).sum()
    }

    /// Lower bound of how long the first in the queue has waited.
    pub fn oldest(&self, now: Instant) -> Duration {
        match (self.fifo.front(), self.last) {
            (Some((at, _)), Some((_, 1..))) => now.saturating_duration_since(*at),
            _ => Duration::ZERO,
        }
    }

    /// As a report has it.
    pub fn report(&self, now: Instant) -> AcceptWait {
        AcceptWait {
            mean_us: self.sums().mean_us(),
            oldest_ms: u64::try_from(self.oldest(now).as_millis()).unwrap_or(u64::MAX),
            histogram: self.waits.report(),
        }
    }

    /// The sums of the present second.
    fn second(&mut self, now: Instant) -> &mut Sums {
        let age = |start: &Instant| now.saturating_duration_since(*start);
        while self
            .seconds
            .front()
            .is_some_and(|(start, _)| age(start) >= WINDOW)
        {
            self.seconds.pop_front();
        }
        let fresh = self
            .seconds
            .back()
            .is_none_or(|(start, _)| age(start) >= Duration::from_secs(1));
        if fresh {
            self.seconds.push_back((now, Sums::default()));
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last].1
    }

    /// Says what came and went in the pending looks, of which `counted` came, if that is known.
    fn settle(&mut self, now: Instant, counted: Option<u64>) {
        let steps = std::mem::take(&mut self.pending);
        let rise = |step: &Step| u64::from(step.after.saturating_sub(step.before));
        let rises: u64 = steps.iter().map(rise).sum();
        let counted = counted.unwrap_or_default() + std::mem::take(&mut self.carried);
        if steps.is_empty() {
            self.carried = counted;
            return;
        }
        let due = counted.saturating_sub(std::mem::take(&mut self.owed));
        if self.counted != Some(false) {
            self.owed = rises.saturating_sub(due);
        }
        let extra = due.saturating_sub(rises);
        let parts: u64 = steps.iter().map(|step| u64::from(step.looks)).sum();
        let before = (self.arrivals, self.departures);
        let mut part = 0;
        for step in &steps {
            let next = part + u64::from(step.looks);
            // Whole connections, which add up to `extra`.
            let share = extra * next / parts - extra * part / parts;
            part = next;
            let came = rise(step) + share;
            let went = u64::from(step.before.saturating_sub(step.after)) + share;
            self.advance(step, came, went);
        }
        let (came, went) = (self.arrivals - before.0, self.departures - before.1);
        let sums = self.second(now);
        sums.arrivals += came;
        sums.departures += went;
        self.pending = steps;
        self.pending.clear();
    }

    /// `came` arrived and `went` were accepted in this step.
    fn advance(&mut self, step: &Step, came: u64, went: u64) {
        self.arrivals += came;
        if came > 0 {
            if self.fifo.len() >= FIFO {
                // Told younger than they are, so that the oldest stays a lower bound.
                self.fifo.pop_back();
            }
            self.fifo.push_back((step.at, self.arrivals));
        }
        let target = (self.departures + went).min(self.arrivals);
        while let (Some(&(at, upto)), true) = (self.fifo.front(), self.departures < target) {
            let least = step.at.saturating_duration_since(step.from) / step.looks;
            let wait = step.at.saturating_duration_since(at).max(least);
            let gone = upto.min(target);
            self.waits.add(
                u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
                gone - self.departures,
            );
            self.departures = gone;
            if gone == upto {
                self.fifo.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests;
