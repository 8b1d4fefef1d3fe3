//! Who is on the link, as arpwatch tells it: new addresses, changed ones, those that change to and fro; and answers
//! to what this host probed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use net_common::{abi::NeighborKey, units::Mac};

/// Addresses that are remembered; the one that was heard of longest ago gives way.
pub const STATIONS: usize = 16_384;
/// In the first time after the start every pair is new: changes are no alerts yet.
pub const QUIET: Duration = Duration::from_secs(60);
/// Link-layer addresses of one address from which on that is an alert of its own, within [`MANY_WITHIN`].
pub const MANY: usize = 4;
/// See [`MANY`].
const MANY_WITHIN: Duration = Duration::from_secs(600);
/// Link-layer addresses that are remembered of one address.
const MACS: usize = 8;
/// Addresses that this host probed and that were answered for, from which on that is denial.
pub const DENIED: usize = 3;
/// See [`DENIED`].
const DENIED_WITHIN: Duration = Duration::from_secs(60);
/// Probed addresses that are remembered.
const PROBED: usize = 64;

/// What an event tells of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New on the link.
    New,
    /// At another link-layer address than `before`.
    Changed {
        /// Where it was.
        before: Mac,
    },
    /// Back at the one that it had before `before`.
    FlipFlop {
        /// Where it was.
        before: Mac,
    },
    /// At this many link-layer addresses lately.
    Many {
        /// Which.
        macs: Vec<Mac>,
    },
}

/// Addresses and where they are.
#[derive(Debug)]
pub struct Stations {
    started: Duration,
    by_key: HashMap<NeighborKey, Station>,
    /// By the order in which they were heard of.
    by_age: BTreeMap<u64, NeighborKey>,
    next: u64,
}

#[derive(Debug)]
struct Station {
    age: u64,
    /// The last is where it is; with the time when it was heard of.
    macs: Vec<(Mac, Duration)>,
}

impl Stations {
    /// An empty table.
    pub fn new(now: Duration) -> Self {
        Self {
            started: now,
            by_key: HashMap::new(),
            by_age: BTreeMap::new(),
            next: 0,
        }
    }

    /// An address was heard of; None when nothing is new about it.
    pub fn heard(&mut self, key: NeighborKey, mac: Mac, now: Duration) -> Option<Change> {
        let age = self.next;
        self.next += 1;
        let quiet = now < self.started + QUIET;
        let Some(station) = self.by_key.get_mut(&key) else {
            if self.by_key.len() == STATIONS
                && let Some((_, oldest)) = self.by_age.pop_first()
            {
                self.by_key.remove(&oldest);
            }
            let macs = vec![(mac, now)];
            self.by_key.insert(key, Station { age, macs });
            self.by_age.insert(age, key);
            return Some(Change::New);
        };
        self.by_age.remove(&station.age);
        self.by_age.insert(age, key);
        station.age = age;
        station.heard(mac, now, quiet)
    }
}

impl Station {
    fn heard(&mut self, mac: Mac, now: Duration, quiet: bool) -> Option<Change> {
        let before = self.macs.last().map(|(mac, _)| *mac);
        let known = self.macs.iter().rposition(|(m, _)| *m == mac);
        // From the end: 0 is where it is, 1 where it was.
        let place = known.map(|i| self.macs.len() - 1 - i);
        if let Some(i) = known {
            self.macs.remove(i);
        } else if self.macs.len() == MACS {
            self.macs.remove(0);
        }
        self.macs.push((mac, now));
        let before = before.filter(|before| *before != mac)?;
        let lately = self.macs.iter().filter(|(_, at)| now < *at + MANY_WITHIN);
        let lately: Vec<_> = lately.map(|(mac, _)| *mac).collect();
        Some(match place {
            Some(1) => Change::FlipFlop { before },
            _ if quiet => Change::New,
            _ if lately.len() >= MANY => Change::Many { macs: lately },
            _ => Change::Changed { before },
        })
    }
}

/// Answers to probes of this host: one is a duplicate address, many are somebody who denies it every address.
#[derive(Debug, Default)]
pub struct Probes {
    answered: BTreeMap<NeighborKey, Probed>,
}

#[derive(Debug)]
struct Probed {
    at: Duration,
    macs: Vec<Mac>,
}

/// What an answer to a probe means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The address is in use.
    InUse,
    /// That much is no accident.
    Denial {
        /// Addresses that were answered for lately.
        addresses: usize,
        /// Who answered for this one.
        macs: Vec<Mac>,
    },
    /// It was told of before.
    Known,
}

impl Probes {
    /// Somebody answered for an address that this host probed.
    pub fn answered(&mut self, key: NeighborKey, mac: Mac, now: Duration) -> Probe {
        self.answered
            .retain(|_, probed| now < probed.at + DENIED_WITHIN);
        let full = self.answered.len() >= PROBED;
        let (news, macs) = match self.answered.get_mut(&key) {
            Some(probed) => {
                probed.at = now;
                let news = !probed.macs.contains(&mac) && probed.macs.len() < MACS;
                if news {
                    probed.macs.push(mac);
                }
                (news, probed.macs.clone())
            }
            None if full => (true, vec![mac]),
            None => {
                let macs = vec![mac];
                self.answered.insert(
                    key,
                    Probed {
                        at: now,
                        macs: macs.clone(),
                    },
                );
                (true, macs)
            }
        };
        let addresses = self.answered.len();
        if !news {
            Probe::Known
        } else if addresses >= DENIED || macs.len() > 1 {
            Probe::Denial { addresses, macs }
        } else {
            Probe::InUse
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::neighbor::ports::key;

    fn k(n: u32) -> NeighborKey {
        key(Ipv4Addr::from_bits(n).into(), 2, 0)
    }

    const LATER: Duration = Duration::from_secs(100);

    #[test]
    fn changes_are_told_as_arpwatch_tells_them() {
        use Change::*;
        let (a, b, c, d) = (Mac(2), Mac(4), Mac(6), Mac(8));
        /// Who is heard of, and what that tells.
        type Heard = (Mac, Option<Change>);
        let tables: [(&str, &[Heard]); 5] = [
            ("the same again", &[(a, Some(New)), (a, None), (a, None)]),
            (
                "a change",
                &[(a, Some(New)), (b, Some(Changed { before: a })), (b, None)],
            ),
            (
                "to and fro",
                &[
                    (a, Some(New)),
                    (b, Some(Changed { before: a })),
                    (a, Some(FlipFlop { before: b })),
                    (b, Some(FlipFlop { before: a })),
                ],
            ),
            (
                "back at an older one",
                &[
                    (a, Some(New)),
                    (b, Some(Changed { before: a })),
                    (c, Some(Changed { before: b })),
                    (a, Some(Changed { before: c })),
                ],
            ),
            (
                "many",
                &[
                    (a, Some(New)),
                    (b, Some(Changed { before: a })),
                    (c, Some(Changed { before: b })),
                    (
                        d,
                        Some(Many {
                            macs: vec![a, b, c, d],
                        }),
                    ),
                ],
            ),
        ];
        for (description, table) in tables {
            let mut stations = Stations::new(Duration::ZERO);
            for (i, (mac, expected)) in table.iter().enumerate() {
                let now = LATER + Duration::from_secs(i as u64);
                assert_eq!(
                    stations.heard(k(1), *mac, now),
                    *expected,
                    "{description}, {i}"
                );
            }
        }
    }

    #[test]
    fn many_addresses_of_one_host_are_legal() {
        let mut stations = Stations::new(Duration::ZERO);
        for n in 0..1000 {
            assert_eq!(stations.heard(k(n), Mac(2), LATER), Some(Change::New));
        }
    }

    #[test]
    fn the_start_is_quiet_but_for_what_alternates() {
        let mut stations = Stations::new(LATER);
        assert_eq!(stations.heard(k(1), Mac(2), LATER), Some(Change::New));
        assert_eq!(stations.heard(k(1), Mac(4), LATER), Some(Change::New));
        let flip = Some(Change::FlipFlop { before: Mac(4) });
        assert_eq!(stations.heard(k(1), Mac(2), LATER), flip);
        let changed = Some(Change::Changed { before: Mac(2) });
        assert_eq!(stations.heard(k(1), Mac(6), LATER + QUIET), changed);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_was_silent_longest() {
        let mut stations = Stations::new(Duration::ZERO);
        for n in 0..STATIONS as u32 {
            stations.heard(k(n), Mac(2), LATER);
        }
        assert_eq!(
            stations.heard(k(0), Mac(2), LATER),
            None,
            "remembered, and young again"
        );
        for n in 0..1000 {
            assert_eq!(
                stations.heard(k(1 << 20 | n), Mac(2), LATER),
                Some(Change::New)
            );
        }
        assert_eq!(
            (stations.by_key.len(), stations.by_age.len()),
            (STATIONS, STATIONS)
        );
        assert_eq!(stations.heard(k(0), Mac(2), LATER), None);
        assert_eq!(
            stations.heard(k(1), Mac(2), LATER),
            Some(Change::New),
            "forgotten"
        );
    }

    #[test]
    fn one_answered_probe_is_a_duplicate_and_three_are_denial() {
        let mut probes = Probes::default();
        let denial = |addresses, macs: &[Mac]| Probe::Denial {
            addresses,
            macs: macs.to_vec(),
        };
        assert_eq!(probes.answered(k(1), Mac(2), LATER), Probe::InUse);
        assert_eq!(probes.answered(k(1), Mac(2), LATER), Probe::Known);
        assert_eq!(probes.answered(k(2), Mac(4), LATER), Probe::InUse);
        assert_eq!(probes.answered(k(3), Mac(2), LATER), denial(3, &[Mac(2)]));
        let much_later = LATER + 2 * DENIED_WITHIN;
        assert_eq!(probes.answered(k(4), Mac(2), much_later), Probe::InUse);
        assert_eq!(
            probes.answered(k(4), Mac(4), much_later),
            denial(1, &[Mac(2), Mac(4)])
        );
        for n in 0..10_000 {
            probes.answered(k(n), Mac(u64::from(n) + 1), much_later);
        }
        assert!(probes.answered.len() <= PROBED);
    }
}
