//! How fast packets are dropped now, from the counters of the last seconds.

use std::{collections::VecDeque, time::Duration};

use net_common::verdict::{Action, Reason};

use crate::control::protocol::{DropRate, DropsAtAGlance};

/// Over how long the rate is taken: long enough not to jump, short enough to fall soon after a flood.
pub const OVER: Duration = Duration::from_secs(5);

/// The counter map's cells at several times, oldest first.
#[derive(Debug, Default)]
pub struct Rates {
    seen: VecDeque<(Duration, Vec<u64>)>,
}

impl Rates {
    /// Takes the cells as they are `now`, on any clock that only goes forward.
    pub fn push(&mut self, now: Duration, cells: Vec<u64>) {
        self.seen.push_back((now, cells));
        // The one at the far end of the time, or just behind it, stays.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.saturating_sub(*at) >= OVER)
        {
            self.seen.pop_front();
        }
    }

    /// What there is to say of drops.
    pub fn glance(&self) -> DropsAtAGlance {
        DropsAtAGlance {
            enforced: self.rate(0),
            observed: self.rate(Reason::ALL.len()),
        }
    }

    /// Of the verdicts whose cells begin at `base`.
    fn rate(&self, base: usize) -> DropRate {
        let (Some((from, before)), Some((to, after))) = (self.seen.front(), self.seen.back())
        else {
            return DropRate::default();
        };
        let count = |cells: &[u64], reason: Reason| {
            cells
                .get(base + reason as usize)
                .copied()
                .unwrap_or_default()
        };
        let over_ms = to.saturating_sub(*from).as_millis();
        let (mut packets, mut lately, mut most) = (0_u64, 0_u64, (0, None));
        for &reason in Reason::ALL {
            if reason.action() != Action::Drop {
                continue;
            }
            let now = count(after, reason);
            let grown = now.saturating_sub(count(before, reason));
            packets = packets.saturating_add(now);
            lately = lately.saturating_add(grown);
            if grown > most.0 {
                most = (grown, Some(reason));
            }
        }
        // Rounded up: one packet is not none.
        let per_second = (u128::from(lately) * 1000)
            .div_ceil(over_ms.max(1))
            .try_into()
            .unwrap_or(u64::MAX);
        DropRate {
            packets,
            per_second,
            mostly: most.1.map(|reason| reason.name().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use net_common::verdict::COUNTERS;

    use super::*;

    fn cells(counts: &[(usize, u64)]) -> Vec<u64> {
        let mut cells = vec![0; COUNTERS as usize];
        for &(at, count) in counts {
            cells[at] = count;
        }
        cells
    }

    #[test]
    fn the_rate_is_of_the_last_seconds_and_names_what_most_of_it_is() {
        let flags = Reason::TcpFlags as usize;
        let blocked = Reason::Blocked as usize;
        let observed = Reason::ALL.len() + Reason::Reflection as usize;
        let mut rates = Rates::default();
        assert_eq!(rates.glance(), DropsAtAGlance::default());
        // What was dropped before the first look makes no rate.
        rates.push(Duration::from_secs(10), cells(&[(flags, 900)]));
        let told = rates.glance().enforced;
        assert_eq!((told.packets, told.per_second, told.mostly), (900, 0, None));
        for second in 1..=20 {
            let more = [
                (flags, 900 + second),
                (blocked, 10_000 * second),
                (observed, 3 * second),
                (Reason::TcpPass as usize, 1_000_000 * second),
            ];
            rates.push(Duration::from_secs(10 + second), cells(&more));
        }
        let told = rates.glance();
        assert_eq!(rates.seen.len(), 6);
        assert_eq!(told.enforced.packets, 920 + 200_000);
        assert_eq!(told.enforced.per_second, 10_001);
        assert_eq!(told.enforced.mostly.as_deref(), Some("blocked"));
        assert_eq!(told.observed.packets, 60);
        assert_eq!(told.observed.per_second, 3);
        assert_eq!(told.observed.mostly.as_deref(), Some("reflection"));
        // Over, and some seconds later it is gone.
        let still = rates.seen.back().unwrap().1.clone();
        for second in 31..=36 {
            rates.push(Duration::from_secs(second), still.clone());
        }
        let told = rates.glance().enforced;
        assert_eq!((told.packets, told.per_second), (200_920, 0));
        assert_eq!(told.mostly, None);
    }

    #[test]
    fn one_packet_is_not_none() {
        let at = Reason::TcpFlags as usize;
        let mut rates = Rates::default();
        rates.push(Duration::from_secs(0), cells(&[]));
        rates.push(Duration::from_secs(5), cells(&[(at, 1)]));
        assert_eq!(rates.glance().enforced.per_second, 1);
    }
}
