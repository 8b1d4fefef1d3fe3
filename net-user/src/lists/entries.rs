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
