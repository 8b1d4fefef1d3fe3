//! Block and allow lists: what is listed and why, and the kernel's tables that follow it.
//!
//! [`Lists`] knows every entry of every named list; the kernel knows only which sources are covered. Single changes are
//! written into the tables that are read. Larger ones, and growth, build a second generation aside and turn to it with
//! one store: a packet meets all of the old list or all of the new one.

pub mod entries;
pub mod guard;
pub mod kernel;
pub mod memory;
pub mod store;
pub mod tables;
pub mod text;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use net_common::{
    abi::{ALLOW, BLOCK, MAX_LIST_ENTRIES},
    lists::{EXPIRY_SHIFT, Expiry, Prefix},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use entries::{Entries, Record};
use kernel::Kernel;
use tables::{TableError, Tables};
use text::{Entry, whole};

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// Sources that are asked nothing.
    Allow,
    /// Sources that are dropped.
    Block,
}

impl List {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Block];

    /// As commands and files are named.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
        }
    }

    /// Its number in the maps.
    pub const fn number(self) -> u32 {
        match self {
            Self::Allow => ALLOW,
            Self::Block => BLOCK,
        }
    }
}

/// The name of what stands in the config: nothing else may be listed under it.
pub const CONFIG: &str = "config";
/// Most names at one time: each is a file, and a line of `netmoat block list --names`.
pub const MAX_NAMES: usize = 1_000;

/// Whether a list can be called so.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "`{}` is no name of a list: write 1 to 64 letters, digits, `-`, `_` or `.`, not a `.` first",
        name.escape_debug()
    ))
}

/// What a change came to, in different prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Not listed under this name before.
    pub added: usize,
    /// Listed under this name before, now with another expiry or reason.
    pub updated: usize,
    /// Under this name no more.
    pub removed: usize,
}

/// What adding one entry comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not on the list.
    Added,
    /// It was, with another end or reason.
    Updated,
    /// It was, just so.
    Unchanged,
    /// It is no more.
    Removed,
    /// It was not on the list.
    Missing,
}

/// An entry as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is listed.
    pub prefix: Prefix,
    /// The name of the list that it is of.
    pub origin: String,
    /// Why.
    pub reason: String,
    /// How much longer; None for always.
    pub left: Option<Duration>,
    /// Packets seen from there, see [`Lists::count_hits`].
    pub hits: u64,
}

/// Every named list, and the kernel's tables.
pub struct Lists {
    kernel: Kernel,
    /// Allow, block.
    entries: [Entries; 2],
    tables: [Tables; 2],
    origins: Names,
    reasons: Names,
    /// Changes are collected and not put in force yet.
    held: bool,
}

/// Prefixes whose entries have changed, with the expiry that the tables have; None for those not in them.
type Touched = BTreeMap<Prefix, Option<Expiry>>;

/// Texts that many entries have in common, by number.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.texts.len() as u32;
        self.numbers.insert(text.to_owned(), number);
        self.texts.push(text.to_owned());
        number
    }

    fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", String::as_str)
    }

    /// The number of a text that is known.
    fn known(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }
}

/// The clock by which entries end: the kernel's coarse monotonic one, nanoseconds.
///
/// # Errors
/// The kernel has none, which it always has.
pub fn now_ns() -> std::io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?;
    // 584 years.
    Ok(Duration::from(now).as_nanos() as u64)
}

/// The last moment of an entry.
pub fn expiry(ttl: Option<Duration>, now_ns: u64) -> Expiry {
    ttl.map(|ttl| {
        let end = u128::from(now_ns) + ttl.as_nanos();
        // Rounded up: an entry lives no shorter than it was told. 2^48 units are nine thousand years.
        (((end >> EXPIRY_SHIFT) as u64) + 1).min((1 << 48) - 1)
    })
}

impl Lists {
    /// Empty lists, over a loaded object's maps.
    ///
    /// # Errors
    /// The object and the agent disagree about a map.
    pub fn new(ebpf: &mut aya::Ebpf) -> anyhow::Result<Self> {
        let kernel = Kernel::take(ebpf)?;
        let tables = || Tables::new(0, false, 0);
        Ok(Self {
            kernel,
            entries: Default::default(),
            tables: [tables()?, tables()?],
            origins: Names::default(),
            reasons: Names::default(),
            held: false,
        })
    }

    /// From now on [`Self::replace`] only collects, and what an agent before left in the kernel stays in force, until
    /// [`Self::release`].
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Puts in force what was collected: each list in one turn. What could not be is told; of that list the former
    /// contents stay in force.
    pub fn release(&mut self) -> Vec<(List, TableError)> {
        self.held = false;
        let mut failed = Vec::new();
        for list in [List::Allow, List::Block] {
            let entries = self.entries[list.number() as usize].clone();
            if let Err(error) = self.build(list, entries) {
                failed.push((list, error));
            }
        }
        failed
    }

    /// Lists entries under a name; those listed under it already get the new expiry and reason. `now_ns` is the coarse
    /// monotonic clock.
    ///
    /// # Errors
    /// No room: nothing has changed then.
    pub fn add(
        &mut self,
        list: List,
        name: &str,
        wanted: &[Entry],
        now_ns: u64,
    ) -> Result<Changed, TableError> {
        self.change(list, name, wanted, &[], now_ns)
    }

    /// Takes prefixes off the list of a name; what is not on it is no error.
    ///
    /// # Errors
    /// No memory to build in: nothing has changed then.
    pub fn remove(
        &mut self,
        list: List,
        name: &str,
        gone: &[Prefix],
    ) -> Result<Changed, TableError> {
        self.change(list, name, &[], gone, 0)
    }

    /// Makes the list of a name hold exactly these entries, all at once.
    ///
    /// # Errors
    /// No room: nothing has changed then.
    pub fn replace(
        &mut self,
        list: List,
        name: &str,
        wanted: &[Entry],
        now_ns: u64,
    ) -> Result<Changed, TableError> {
        let origin = self.origins.number(name);
        let mut next = self.entries[list.number() as usize].clone();
        let before = next.take_origin(origin);
        let mut changed = Changed::default();
        for entry in wanted {
            let mut record = self.record(entry, now_ns);
            let old = before.get(&entry.prefix);
            record.hits = old.map_or(0, |old| old.hits);
            if next.insert(entry.prefix, origin, record).is_none() {
                match old {
                    None => changed.added += 1,
                    Some(old) if !old.same(&record) => changed.updated += 1,
                    Some(_) => {}
                }
            }
        }
        let kept = changed.added;
        changed.removed = before.len() - (next.count(origin) - kept);
        self.build(list, next)?;
        Ok(changed)
    }

    fn record(&mut self, entry: &Entry, now_ns: u64) -> Record {
        Record {
            expiry: expiry(entry.ttl, now_ns),
            reason: self.reasons.number(&entry.reason),
            hits: 0,
        }
    }

    /// A few changes at once. Written in place, or, when the tables are full, into new ones.
    fn change(
        &mut self,
        list: List,
        name: &str,
        wanted: &[Entry],
        gone: &[Prefix],
        now_ns: u64,
    ) -> Result<Changed, TableError> {
        let (at, origin) = (list.number() as usize, self.origins.number(name));
        let mut changed = Changed::default();
        let mut undo = Vec::new();
        let mut touched = Touched::new();
        for entry in wanted {
            let mut record = self.record(entry, now_ns);
            let entries = &mut self.entries[at];
            let old = entries.get(entry.prefix, origin);
            record.hits = old.map_or(0, |old| old.hits);
            match old {
                None => changed.added += 1,
                Some(old) if !old.same(&record) => changed.updated += 1,
                Some(_) => continue,
            }
            touched
                .entry(entry.prefix)
                .or_insert_with(|| entries.expiry(entry.prefix));
            entries.insert(entry.prefix, origin, record);
            undo.push((entry.prefix, old));
        }
        for &prefix in gone {
            let entries = &mut self.entries[at];
            let before = entries.expiry(prefix);
            if let Some(old) = entries.remove(prefix, origin) {
                changed.removed += 1;
                touched.entry(prefix).or_insert(before);
                undo.push((prefix, Some(old)));
            }
        }
        let written = self.follow(list, &touched);
        let Err(error) = written else {
            return Ok(changed);
        };
        // Growing builds everything anew from the entries; if that fails too, they are as before.
        let built = match error {
            TableError::Full => self.build(list, self.entries[at].clone()),
            other => Err(other),
        };
        if built.is_err() {
            for (prefix, old) in undo.into_iter().rev() {
                match old {
                    Some(old) => drop(self.entries[at].insert(prefix, origin, old)),
                    None => drop(self.entries[at].remove(prefix, origin)),
                }
            }
            self.build(list, self.entries[at].clone())?;
        }
        built.map(|()| changed)
    }

    /// Brings the tables in use after the entries.
    fn follow(&mut self, list: List, touched: &Touched) -> Result<(), TableError> {
        let at = list.number() as usize;
        let (entries, tables) = (&self.entries[at], &mut self.tables[at]);
        if entries.len() > MAX_LIST_ENTRIES as usize {
            return Err(TableError::TooMany);
        }
        if tables.is_unused() {
            // Nothing was built yet.
            return Err(TableError::Full);
        }
        for (&prefix, &old) in touched {
            let still = |p24: u32| entries.covers_24(p24);
            match (entries.expiry(prefix), old) {
                (Some(expiry), old) => tables.set(prefix, old, expiry, still)?,
                (None, Some(old)) => tables.remove(prefix, old, still),
                (None, None) => {}
            }
        }
        if entries.is_empty() {
            // An empty list costs the data path nothing, and no memory.
            return self.build(list, Entries::default());
        }
        self.kernel.show(list.number(), tables)?;
        Ok(())
    }

    /// Builds the tables anew for these entries, and turns to them.
    fn build(&mut self, list: List, next: Entries) -> Result<(), TableError> {
        if next.len() > MAX_LIST_ENTRIES as usize {
            return Err(TableError::TooMany);
        }
        if self.held {
            self.entries[list.number() as usize] = next;
            return Ok(());
        }
        let compacts = list == List::Block;
        let probe = Tables::new(0, compacts, 0)?;
        let at = list.number() as usize;
        if next.is_empty() {
            self.kernel.turn(list.number(), None)?;
            self.tables[at] = probe;
            self.entries[at] = next;
            return Ok(());
        }
        let mut general = next
            .all()
            .filter(|&(prefix, expiry)| !probe.is_compact(prefix, expiry))
            .count();
        let tables = loop {
            let mut seed = [0; 8];
            // Without randomness the list still works; only its collisions could be foreseen.
            let _ = getrandom::fill(&mut seed);
            let mut tables = Tables::new(u64::from_ne_bytes(seed), compacts, general.max(1))?;
            let filled = next
                .all()
                .try_for_each(|(prefix, expiry)| tables.set(prefix, None, expiry, |_| false));
            match filled {
                Ok(()) => break tables,
                // Displaced entries, or uncommonly many collisions.
                Err(TableError::Full) => general = tables.capacity() + 1,
                Err(error) => return Err(error),
            }
        };
        self.kernel.turn(list.number(), Some(&tables))?;
        self.tables[at] = tables;
        self.entries[at] = next;
        Ok(())
    }

    /// Takes out what is over; the data path has ignored it since. Returns how many entries it was.
    ///
    /// # Errors
    /// No memory to build in.
    pub fn sweep(&mut self, now_ns: u64) -> Result<usize, TableError> {
        let mut swept = 0;
        for list in [List::Allow, List::Block] {
            let at = list.number() as usize;
            let over = self.entries[at].over(now_ns >> EXPIRY_SHIFT);
            let mut touched = Touched::new();
            for &(prefix, origin) in &over {
                let entries = &self.entries[at];
                touched
                    .entry(prefix)
                    .or_insert_with(|| entries.expiry(prefix));
                self.entries[at].remove(prefix, origin);
            }
            swept += over.len();
            if !touched.is_empty() {
                self.follow(list, &touched)?;
            }
        }
        self.prune_reasons();
        Ok(swept)
    }

    /// Reads whose packets were listed since the last call, and adds them to their entries' hits. Exact up to
    /// [`net_common::abi::HITS`] packets a CPU between two calls; beyond, each source read stands for several.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn count_hits(&mut self, now_ns: u64) -> Result<(), TableError> {
        for list in [List::Allow, List::Block] {
            for (source, weight) in self.kernel.hits(list.number())? {
                self.entries[list.number() as usize].hit(
                    whole(source),
                    now_ns >> EXPIRY_SHIFT,
                    weight,
                );
            }
        }
        Ok(())
    }

    /// The entries that list an address, or a whole prefix, with the longest first, which is the one that counts.
    pub fn find(&self, list: List, prefix: Prefix, now_ns: u64) -> Vec<Listed> {
        self.entries[list.number() as usize]
            .covering(prefix, now_ns >> EXPIRY_SHIFT)
            .map(|(prefix, origin, record)| self.listed(prefix, origin, record, now_ns))
            .collect()
    }

    /// All entries of a list, in the order of their addresses.
    pub fn iter(&self, list: List, now_ns: u64) -> impl Iterator<Item = Listed> {
        self.page(list, None, None, now_ns)
    }

    /// The live entries of a list, or of a name, behind one; in the order of their addresses.
    pub fn page(
        &self,
        list: List,
        name: Option<&str>,
        behind: Option<(Prefix, &str)>,
        now_ns: u64,
    ) -> impl Iterator<Item = Listed> {
        let now = now_ns >> EXPIRY_SHIFT;
        // A name that nobody has lists nothing.
        let origin = name.map(|name| self.origins.known(name));
        let key = behind.map(|(prefix, name)| {
            // Of a name that is gone in between, the next prefix is behind.
            (prefix, self.origins.known(name).unwrap_or(u32::MAX))
        });
        self.entries[list.number() as usize]
            .behind(key)
            .filter(move |(_, of, record)| {
                origin.is_none_or(|origin| origin == Some(*of)) && !record.is_over(now)
            })
            .map(move |(prefix, origin, record)| self.listed(prefix, origin, record, now_ns))
    }

    /// Every name of a list, and how many entries it has.
    pub fn names(&self, list: List) -> impl Iterator<Item = (&str, usize)> {
        self.entries[list.number() as usize]
            .names()
            .map(|(origin, count)| (self.origins.text(origin), count))
    }

    /// How many entries a name has.
    pub fn count(&self, list: List, name: &str) -> usize {
        let entries = &self.entries[list.number() as usize];
        self.origins
            .known(name)
            .map_or(0, |origin| entries.count(origin))
    }

    /// How many entries a list has.
    pub fn len(&self, list: List) -> usize {
        self.entries[list.number() as usize].len()
    }

    /// Sets right what somebody else has changed of which tables are read; gives it in words.
    ///
    /// # Errors
    /// The kernel refuses a read or a write.
    pub fn mend(&mut self) -> Result<Vec<String>, TableError> {
        self.kernel.mend(&self.tables)
    }

    /// Whether nothing is listed at all.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(Entries::is_empty)
    }

    /// What [`Self::add`] would make of an entry.
    pub fn outcome(&self, list: List, name: &str, entry: &Entry, now_ns: u64) -> Outcome {
        let entries = &self.entries[list.number() as usize];
        let origin = self.origins.known(name);
        match origin.and_then(|origin| entries.get(entry.prefix, origin)) {
            None => Outcome::Added,
            Some(old)
                if old.expiry == expiry(entry.ttl, now_ns)
                    && self.reasons.text(old.reason) == entry.reason =>
            {
                Outcome::Unchanged
            }
            Some(_) => Outcome::Updated,
        }
    }

    /// Who is locked out now, and by which block entry and name.
    pub fn locked_out(
        &self,
        victims: &[guard::Victim],
        now_ns: u64,
    ) -> Vec<(guard::Victim, Listed)> {
        if self.len(List::Block) == 0 {
            return Vec::new();
        }
        let locked = |victim: &guard::Victim| {
            let address = whole(victim.address);
            let by = self.find(List::Block, address, now_ns).into_iter().next()?;
            let is_allowed = !self.find(List::Allow, address, now_ns).is_empty();
            (!is_allowed).then(|| (victim.clone(), by))
        };
        victims.iter().filter_map(locked).collect()
    }

    /// Whether an entry of a name is there, and ends.
    pub fn is_temporary(&self, list: List, name: &str, prefix: Prefix) -> bool {
        let entries = &self.entries[list.number() as usize];
        let record = self
            .origins
            .known(name)
            .and_then(|origin| entries.get(prefix, origin));
        record.is_some_and(|record| record.expiry.is_some())
    }

    /// The entry of a name for just this prefix, if it lives.
    pub fn under(&self, list: List, name: &str, prefix: Prefix, now_ns: u64) -> Option<Listed> {
        let origin = self.origins.known(name)?;
        let record = self.entries[list.number() as usize].get(prefix, origin)?;
        let lives = !record.is_over(now_ns >> EXPIRY_SHIFT);
        lives.then(|| self.listed(prefix, origin, &record, now_ns))
    }

    /// The names under which a prefix is listed.
    pub fn names_of(&self, list: List, prefix: Prefix) -> Vec<&str> {
        self.entries[list.number() as usize]
            .of(prefix)
            .map(|(origin, _)| self.origins.text(origin))
            .collect()
    }

    /// Why a change is not made, see [`guard::refusal`].
    pub fn refusal(
        &self,
        change: &guard::Change<'_>,
        victims: &[guard::Victim],
        now_ns: u64,
    ) -> Option<guard::Refusal> {
        let origin = self.origins.known(change.name);
        guard::refusal(&self.entries, origin, change, victims, now_ns)
    }

    /// Forgets reasons that no entry has any more, once they are many.
    fn prune_reasons(&mut self) {
        let entries: usize = self.entries.iter().map(Entries::len).sum();
        if self.reasons.texts.len() <= 2 * entries + 1024 {
            return;
        }
        let mut kept = Names::default();
        for entries in &mut self.entries {
            entries.renumber_reasons(|number| kept.number(self.reasons.text(number)));
        }
        self.reasons = kept;
    }

    fn listed(&self, prefix: Prefix, origin: u32, record: &Record, now_ns: u64) -> Listed {
        let left = |end: u64| Duration::from_nanos((end << EXPIRY_SHIFT).saturating_sub(now_ns));
        Listed {
            prefix,
            origin: self.origins.text(origin).to_owned(),
            reason: self.reasons.text(record.reason).to_owned(),
            left: record.expiry.map(left),
            hits: record.hits,
        }
    }

    /// Octets of the kernel's memory that the lists take.
    pub fn kernel_memory(&self) -> usize {
        self.tables.iter().map(Tables::memory).sum()
    }
}
