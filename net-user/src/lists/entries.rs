//! Every entry of every named list of a kind, and which of them a packet meets.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use net_common::{
    lists::{Expiry, Prefix},
    units::Version,
};

/// An entry's facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it is over.
    pub expiry: Expiry,
    /// Number of its reason's text.
    pub reason: u32,
    /// Packets seen.
    pub hits: u64,
}

impl Record {
    /// Whether it says the same as another, whatever was seen meanwhile.
    pub fn same(&self, other: &Self) -> bool {
        (self.expiry, self.reason) == (other.expiry, other.reason)
    }

    /// Whether it is over, at a time in units of [`Expiry`].
    pub fn is_over(&self, now: u64) -> bool {
        self.expiry.is_some_and(|end| end <= now)
    }
}

/// Entries by prefix and by the number of the list's name.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    records: BTreeMap<(Prefix, u32), Record>,
    /// How many there are of each length, so that only those are looked for.
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
    /// How many each name has.
    names: BTreeMap<u32, usize>,
    /// Nothing is over before; it may be too early.
    soonest: Option<u64>,
}

impl Entries {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many there are, of all names.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// How many a name has.
    pub fn count(&self, origin: u32) -> usize {
        self.names.get(&origin).copied().unwrap_or_default()
    }

    /// Every name that has entries, and how many.
    pub fn names(&self) -> impl Iterator<Item = (u32, usize)> {
        self.names.iter().map(|(&origin, &count)| (origin, count))
    }

    fn lengths(&mut self, prefix: Prefix) -> &mut BTreeMap<u8, usize> {
        match prefix.version {
            Version::V4 => &mut self.v4,
            Version::V6 => &mut self.v6,
        }
    }

    /// An entry of a name.
    pub fn get(&self, prefix: Prefix, origin: u32) -> Option<Record> {
        self.records.get(&(prefix, origin)).copied()
    }

    /// Adds or replaces one; returns what it replaced.
    pub fn insert(&mut self, prefix: Prefix, origin: u32, record: Record) -> Option<Record> {
        if let Some(end) = record.expiry {
            self.soonest = Some(self.soonest.map_or(end, |soonest| soonest.min(end)));
        }
        let old = self.records.insert((prefix, origin), record);
        if old.is_none() {
            *self.lengths(prefix).entry(prefix.len).or_default() += 1;
            *self.names.entry(origin).or_default() += 1;
        }
        old
    }

    /// Takes one out, and returns it.
    pub fn remove(&mut self, prefix: Prefix, origin: u32) -> Option<Record> {
        let old = self.records.remove(&(prefix, origin))?;
        one_less(self.lengths(prefix), prefix.len);
        one_less(&mut self.names, origin);
        Some(old)
    }

    /// Takes all entries of a name out, and returns them.
    pub fn take_origin(&mut self, origin: u32) -> HashMap<Prefix, Record> {
        let taken: HashMap<_, _> = self
            .records
            .iter()
            .filter(|(key, _)| key.1 == origin)
            .map(|(key, record)| (key.0, *record))
            .collect();
        for &prefix in taken.keys() {
            self.remove(prefix, origin);
        }
        taken
    }

    /// The entries of a prefix, with their names' numbers.
    pub fn of(&self, prefix: Prefix) -> impl Iterator<Item = (u32, &Record)> {
        self.records
            .range((prefix, 0)..=(prefix, u32::MAX))
            .map(|(key, record)| (key.1, record))
    }

    /// When a prefix is over for good: the last of its entries' ends. None if it is not listed.
    pub fn expiry(&self, prefix: Prefix) -> Option<Expiry> {
        self.of(prefix)
            .map(|(_, record)| record.expiry)
            .reduce(later)
    }

    /// Each prefix once, with [`Self::expiry`], in order.
    pub fn all(&self) -> impl Iterator<Item = (Prefix, Expiry)> {
        let mut records = self.records.iter().peekable();
        std::iter::from_fn(move || {
            let (&(prefix, _), record) = records.next()?;
            let mut expiry = record.expiry;
            while let Some((_, record)) = records.next_if(|(key, _)| key.0 == prefix) {
                expiry = later(expiry, record.expiry);
            }
            Some((prefix, expiry))
        })
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, u32, &Record)> {
        self.records
            .iter()
            .map(|(key, record)| (key.0, key.1, record))
    }

    /// The entries behind one, in order: all of them without it.
    pub fn behind(
        &self,
        key: Option<(Prefix, u32)>,
    ) -> impl Iterator<Item = (Prefix, u32, &Record)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.records
            .range((from, Bound::Unbounded))
            .map(|(key, record)| (key.0, key.1, record))
    }

    /// Gives every entry's reason another number.
    pub fn renumber_reasons(&mut self, mut number: impl FnMut(u32) -> u32) {
        for record in self.records.values_mut() {
            record.reason = number(record.reason);
        }
    }

    /// Entries that are over.
    pub fn over(&mut self, now: u64) -> Vec<(Prefix, u32)> {
        if self.soonest.is_none_or(|soonest| now < soonest) {
            return Vec::new();
        }
        let live = self.records.values().filter(|record| !record.is_over(now));
        self.soonest = live.filter_map(|record| record.expiry).min();
        self.records
            .iter()
            .filter(|(_, record)| record.is_over(now))
            .map(|(key, _)| *key)
            .collect()
    }

    /// The longest prefix with a live entry that covers an address.
    pub fn longest(&self, address: Prefix, now: u64) -> Option<Prefix> {
        self.covering(address, now)
            .next()
            .map(|(prefix, ..)| prefix)
    }

    /// The live entries that cover an address or a whole prefix, the longest first.
    pub fn covering(
        &self,
        prefix: Prefix,
        now: u64,
    ) -> impl Iterator<Item = (Prefix, u32, &Record)> {
        let lengths = match prefix.version {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        };
        lengths
            .range(..=prefix.len)
            .rev()
            .flat_map(move |(&len, _)| {
                let covering = prefix.first(len);
                let live = self
                    .of(covering)
                    .filter(move |(_, record)| !record.is_over(now));
                live.map(move |(origin, record)| (covering, origin, record))
            })
    }

    /// Whether an entry of up to /24 without an expiry covers an IPv4 /24, given by its number.
    pub fn covers_24(&self, p24: u32) -> bool {
        let address = Prefix {
            version: Version::V4,
            high: 0,
            low: u64::from(p24) << 8,
            len: 32,
        };
        self.v4
            .range(..=24)
            .any(|(&len, _)| self.expiry(address.first(len)) == Some(None))
    }

    /// Adds hits to the live entries that list an address.
    pub fn hit(&mut self, address: Prefix, now: u64, hits: u64) {
        // Its entry may be gone by now.
        let Some(prefix) = self.longest(address, now) else {
            return;
        };
        for (_, record) in self
            .records
            .range_mut((prefix, 0)..=(prefix, u32::MAX))
            .filter(|(_, record)| !record.is_over(now))
        {
            record.hits = record.hits.saturating_add(hits);
        }
    }
}

/// Counts one down, and forgets it at none.
fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The later of two ends; never is the latest.
pub fn later(a: Expiry, b: Expiry) -> Expiry {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lists::text::parse_prefix;

    /// Prefixes of both families in few places, so that they meet.
    fn near() -> impl Strategy<Value = Prefix> {
        let v4 = (0u8..4, 0u8..4, 8u8..=32).prop_map(|(a, b, len)| {
            Prefix {
                len: 32,
                ..v4(u32::from_be_bytes([10, a, 0, b]))
            }
            .first(len)
        });
        let v6 = (0u64..4, 0u64..4, 16u8..=128).prop_map(|(a, b, len)| {
            let whole = Prefix {
                version: Version::V6,
                high: 0x2001_0db8 << 32 | a,
                low: b,
                len: 128,
            };
            whole.first(len)
        });
        prop_oneof![v4, v6]
    }

    fn v4(bits: u32) -> Prefix {
        Prefix {
            version: Version::V4,
            high: 0,
            low: bits.into(),
            len: 32,
        }
    }

    fn whole(prefix: Prefix) -> Prefix {
        Prefix {
            len: if prefix.version == Version::V4 {
                32
            } else {
                128
            },
            ..prefix
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Adding, deleting, replacing and sweeping: what covers an address is what a plain list of entries says.
        #[test]
        fn entries_agree_with_a_naive_model(
            changes in proptest::collection::vec((0u8..8, near(), 0u32..3, proptest::option::of(1u64..6)), 1..60),
            asked in proptest::collection::vec(near(), 1..30),
        ) {
            let mut entries = Entries::default();
            let mut model: BTreeMap<(Prefix, u32), Expiry> = BTreeMap::new();
            let mut now = 0;
            for (change, prefix, origin, expiry) in changes {
                let record = Record { expiry, ..Record::default() };
                match change {
                    0 => {
                        let taken = entries.take_origin(origin);
                        let before = model.len();
                        model.retain(|key, _| key.1 != origin);
                        prop_assert_eq!(taken.len(), before - model.len());
                    }
                    1 => {
                        now += 1;
                        for (prefix, origin) in entries.over(now) {
                            entries.remove(prefix, origin);
                        }
                        model.retain(|_, expiry| expiry.is_none_or(|end| end > now));
                    }
                    2 | 3 => {
                        let gone = entries.remove(prefix, origin).map(|record| record.expiry);
                        prop_assert_eq!(gone, model.remove(&(prefix, origin)));
                    }
                    _ => {
                        let old = entries.insert(prefix, origin, record).map(|record| record.expiry);
                        prop_assert_eq!(old, model.insert((prefix, origin), expiry));
                    }
                }
            }
            prop_assert_eq!(entries.len(), model.len());
            for origin in 0..3 {
                prop_assert_eq!(entries.count(origin), model.keys().filter(|key| key.1 == origin).count());
            }
            for now in now..8 {
                for &asked in asked.iter().chain(model.keys().map(|(prefix, _)| prefix)) {
                    let address = whole(asked);
                    let covers = |prefix: Prefix, other| prefix.covers(other);
                    let live = |(key, expiry): (&(Prefix, u32), &Expiry)| {
                        expiry.is_none_or(|end| end > now).then_some(*key)
                    };
                    let mut expected: Vec<_> = model.iter().filter_map(live).filter(|key| covers(key.0, address)).collect();
                    expected.sort_by_key(|(prefix, origin)| (std::cmp::Reverse(prefix.len), *origin));
                    let found: Vec<_> = entries.covering(address, now).map(|(prefix, origin, _)| (prefix, origin)).collect();
                    prop_assert_eq!(&found, &expected);
                    prop_assert_eq!(entries.longest(address, now), expected.first().map(|key| key.0));
                }
            }
            // Pages are in order, and none of them leaves anything out.
            let mut behind = None;
            for key in model.keys() {
                let next = entries.behind(behind).next().map(|(prefix, origin, _)| (prefix, origin));
                prop_assert_eq!(next, Some(*key));
                behind = next;
            }
            prop_assert!(entries.behind(behind).next().is_none());
        }
    }

    #[test]
    fn a_whole_prefix_is_covered_by_shorter_ones_only() {
        let mut entries = Entries::default();
        let prefix = |text| parse_prefix(text).unwrap();
        for text in ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3"] {
            entries.insert(prefix(text), 0, Record::default());
        }
        let found = |text| -> Vec<_> {
            entries
                .covering(prefix(text), 0)
                .map(|found| found.0)
                .collect()
        };
        assert_eq!(
            found("10.1.2.0/24"),
            [prefix("10.1.2.0/24"), prefix("10.0.0.0/8")]
        );
        assert_eq!(found("10.1.0.0/16"), [prefix("10.0.0.0/8")]);
        assert_eq!(found("0.0.0.0/0"), []);
    }
}
