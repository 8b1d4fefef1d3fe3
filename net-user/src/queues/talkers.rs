//! Who sends most SYNs, from the data path's log.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use net_common::{
    abi::{SYN_LOG, SynLog},
    units::words_addr,
};

use crate::control::queues::TopSource;

/// Over how long sources are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Sources of a listener that are kept of each look, the busiest.
const KEPT: usize = 64;
/// Sources of a listener that are told.
const TOLD: usize = 8;
/// Least share of one that is told, per thousand: of forged sources none stands out.
const LEAST: u32 = 5;

/// What one look found, by slot.
type Look = HashMap<u32, Sources>;

#[derive(Debug, Default)]
struct Sources {
    /// SYNs of all sources.
    total: u64,
    /// The busiest, each with its SYNs.
    busiest: Vec<(IpAddr, u64)>,
}

/// The logs of the last ten seconds.
#[derive(Debug, Default)]
pub struct Talkers {
    /// SYNs that were read of each CPU's log.
    read: Vec<u64>,
    looks: VecDeque<(Instant, Look)>,
}

impl Talkers {
    /// Takes the logs, one a CPU. Of one that has come round since the last look what is left stands for the rest.
    pub fn take(&mut self, now: Instant, logs: &[SynLog]) {
        self.read.resize(logs.len(), 0);
        let mut counts: HashMap<(u32, IpAddr), u64> = HashMap::new();
        for (log, read) in logs.iter().zip(&mut self.read) {
            let came = log.count.wrapping_sub(*read);
            *read = log.count;
            let left = came.min(SYN_LOG as u64);
            for place in (log.count.wrapping_sub(left)..log.count).rev() {
                let entry = &log.entries[place as usize % SYN_LOG];
                let source = words_addr(entry.version as u16, &entry.addr);
                // In thousandths, so that shares of a log that came round one and a half times are exact enough.
                *counts.entry((entry.slot, source)).or_default() += came * 1000 / left;
            }
        }
        let mut look = Look::new();
        for ((slot, source), count) in counts {
            let sources = look.entry(slot).or_default();
            sources.total += count;
            sources.busiest.push((source, count));
        }
        for sources in look.values_mut() {
            keep(&mut sources.busiest, KEPT);
        }
        self.looks.push_back((now, look));
        while self
            .looks
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.looks.pop_front();
        }
    }

    /// Forgets a slot that was given to another listener.
    pub fn forget(&mut self, slot: u32) {
        for (_, look) in &mut self.looks {
            look.remove(&slot);
        }
    }

    /// The busiest sources by slot.
    pub fn busiest(&self) -> HashMap<u32, Vec<TopSource>> {
        let mut all: HashMap<u32, (u64, HashMap<IpAddr, u64>)> = HashMap::new();
        for (slot, sources) in self.looks.iter().flat_map(|(_, look)| look) {
            let (total, counts) = all.entry(*slot).or_default();
            *total += sources.total;
            for &(source, count) in &sources.busiest {
                *counts.entry(source).or_default() += count;
            }
        }
        let told = |(slot, (total, counts)): (u32, (u64, HashMap<IpAddr, u64>))| {
            let mut busiest: Vec<_> = counts.into_iter().collect();
            keep(&mut busiest, TOLD);
            let share = |(source, count): (IpAddr, u64)| TopSource {
                address: source.to_string(),
                per_mille: (count * 1000 / total.max(1)) as u32,
            };
            let told = busiest.into_iter().map(share);
            (
                slot,
                told.filter(|source| source.per_mille >= LEAST).collect(),
            )
        };
        all.into_iter().map(told).collect()
    }
}

/// Keeps the busiest, in order; of equals the lower address comes first.
fn keep(sources: &mut Vec<(IpAddr, u64)>, most: usize) {
    sources.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    sources.truncate(most);
}

#[cfg(test)]
mod tests {
    use net_common::abi::SynLogEntry;

    use super::*;

    fn log(sources: impl IntoIterator<Item = (u32, u8)>) -> SynLog {
        let mut log = SynLog {
            count: 0,
            entries: [SynLogEntry::default(); SYN_LOG],
        };
        add(&mut log, sources);
        log
    }

    /// As the data path does it: slot and last octet of 192.0.2.0/24.
    fn add(log: &mut SynLog, sources: impl IntoIterator<Item = (u32, u8)>) {
        for (slot, host) in sources {
            log.entries[log.count as usize % SYN_LOG] = SynLogEntry {
                addr: [u32::from_ne_bytes([192, 0, 2, host]), 0, 0, 0],
                slot,
                version: 4,
            };
            log.count += 1;
        }
    }

    fn told(talkers: &Talkers, slot: u32) -> Vec<(String, u32)> {
        let busiest = talkers.busiest();
        let sources = busiest.get(&slot).into_iter().flatten();
        sources
            .map(|source| (source.address.clone(), source.per_mille))
            .collect()
    }

    #[test]
    fn the_busiest_of_each_listener_are_told_with_their_share() {
        let mut talkers = Talkers::default();
        let now = Instant::now();
        let syns = [(0, 1), (0, 1), (0, 1), (0, 2), (5, 9)];
        talkers.take(now, &[log(syns), log([(5, 9), (5, 8)])]);
        let first = |host, share| (format!("192.0.2.{host}"), share);
        assert_eq!(told(&talkers, 0), [first(1, 750), first(2, 250)]);
        assert_eq!(told(&talkers, 5), [first(9, 666), first(8, 333)]);
        talkers.forget(5);
        assert_eq!(told(&talkers, 5), []);
    }

    #[test]
    fn what_was_read_is_not_counted_again_and_what_is_old_is_forgotten() {
        let mut talkers = Talkers::default();
        let now = Instant::now();
        let mut log = log([(0, 1)]);
        talkers.take(now, std::slice::from_ref(&log));
        add(&mut log, [(0, 2), (0, 2), (0, 2)]);
        let later = now + Duration::from_secs(5);
        talkers.take(later, std::slice::from_ref(&log));
        assert_eq!(
            told(&talkers, 0),
            [("192.0.2.2".into(), 750), ("192.0.2.1".into(), 250)]
        );
        talkers.take(now + WINDOW, std::slice::from_ref(&log));
        assert_eq!(told(&talkers, 0), [("192.0.2.2".into(), 1000)]);
        talkers.take(later + WINDOW, &[log]);
        assert_eq!(told(&talkers, 0), []);
    }

    #[test]
    fn of_a_flood_of_forged_sources_none_is_told() {
        let mut talkers = Talkers::default();
        let syns = (0..=250).map(|host| (0, host)).chain([(1, 1)]);
        talkers.take(Instant::now(), &[log(syns)]);
        assert_eq!(told(&talkers, 0), []);
        assert_eq!(told(&talkers, 1), [("192.0.2.1".into(), 1000)]);
    }

    #[test]
    fn a_log_that_came_round_stands_for_what_it_lost() {
        let mut talkers = Talkers::default();
        // A flood on one CPU, of which the last thousand are left, and a few SYNs on another.
        let flood = log((0..SYN_LOG * 99).map(|_| (0, 1)));
        let few = log((0..SYN_LOG).map(|_| (0, 2)));
        talkers.take(Instant::now(), &[flood, few]);
        assert_eq!(
            told(&talkers, 0),
            [("192.0.2.1".into(), 990), ("192.0.2.2".into(), 10)]
        );
    }
}
