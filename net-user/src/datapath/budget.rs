//! How much of the kernel's memory the maps take, before they are made, and whether there is room for it.
//!
//! The formulas are those by which the kernel accounts for a map (`map_mem_usage` of each type, Linux 6.4 and later): a
//! map's own structure is left out, which differs from release to release and is below [`ERROR_OCTETS`].

mod full;
mod room;

use anyhow::{Context as _, Result};
use aya_obj::{Object, generated::bpf_map_type as Kind};
use net_common::{
    abi::{LIST_TABLES, layout::KEPT},
    lists::{compact, general},
};
use serde::Serialize;

pub use room::Room;

use super::{
    load::OBJECT,
    pin::{MAPS as PINNED_MAPS, Pins},
    preflight::{Preflight, Severity},
};

/// By how much the kernel may account more for a map than is foreseen, octets: its structure, `struct bpf_htab` above all
/// with its locks for each CPU.
pub const ERROR_OCTETS: u64 = 4096;
/// Of the memory that is left, the maps may take this part without a warning.
const WARN_ABOVE: u64 = 2;

/// What one map is to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapBudget {
    /// Its name.
    pub name: String,
    /// Its type, as bpftool names it.
    pub kind: &'static str,
    /// Most entries; octets of the ring for a ring buffer.
    pub entries: u32,
    /// Octets of the kernel's memory.
    pub octets: u64,
    /// What becomes of packets when it is full, or has no room for one more, in plain words.
    pub when_full: &'static str,
}

/// What all maps are to take, and what there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Sum of all maps, octets; taken as a whole when the programs are loaded.
    pub octets: u64,
    /// What the tables of block and allow lists may take beside that, octets: with the most pieces that they may have, and
    /// while each is being replaced.
    pub lists_at_most: u64,
    /// CPUs for each of which some maps have values.
    pub cpus: u32,
    /// Memory that is left.
    pub room: Room,
    /// Every map, the largest first.
    pub maps: Vec<MapBudget>,
}

impl Budget {
    /// From the definitions in the object that will be loaded.
    ///
    /// # Errors
    /// The object is damaged, or the kernel does not tell how many CPUs there may be.
    pub fn read() -> Result<Self> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))
            .context("the number of CPUs is not known")?;
        Self::of(cpus as u64, Room::read())
    }

    fn of(cpus: u64, room: Room) -> Result<Self> {
        let object = Object::parse(OBJECT).context("the eBPF object cannot be parsed")?;
        let mut maps: Vec<_> = object
            .maps
            .iter()
            .map(|(name, map)| {
                let shape = Shape {
                    kind: map.map_type(),
                    key: map.key_size().into(),
                    value: map.value_size().into(),
                    entries: map.max_entries().into(),
                    mapped: map.map_flags() & MMAPABLE != 0,
                };
                MapBudget {
                    name: name.clone(),
                    kind: shape.name(),
                    entries: map.max_entries(),
                    octets: shape.octets(cpus, page_size()),
                    when_full: full::words(name),
                }
            })
            .collect();
        maps.sort_by(|a, b| (b.octets, &a.name).cmp(&(a.octets, &b.name)));
        Ok(Self {
            octets: maps.iter().map(|map| map.octets).sum(),
            lists_at_most: lists_at_most(),
            cpus: cpus as u32,
            room,
            maps,
        })
    }

    /// Octets of maps that an agent of this instance left and that fit this build: they go on, and are taken already.
    fn kept(&self, instance: &str) -> u64 {
        let pinned = Pins::dir(instance).join(PINNED_MAPS);
        let kept = KEPT.iter().filter(|kept| {
            let name = format!("{}-{}", kept.name, kept.layout);
            pinned.join(name).exists()
        });
        kept.filter_map(|kept| self.maps.iter().find(|map| map.name == kept.name))
            .map(|map| map.octets)
            .sum()
    }

    /// The largest maps, at most `count`.
    pub fn largest(&self, count: usize) -> &[MapBudget] {
        &self.maps[..count.min(self.maps.len())]
    }
}

/// Every generation of every list with all its pieces, and both compact tables.
const fn lists_at_most() -> u64 {
    let pieces = LIST_TABLES as u64 * general::MAX_PIECES as u64 * general::WORDS as u64;
    (pieces + 2 * compact::WORDS as u64) * size_of::<u64>() as u64
}

/// `BPF_F_MMAPABLE` (`uapi/linux/bpf.h`).
const MMAPABLE: u32 = 1 << 10;
/// `struct htab_elem` without key and value (`kernel/bpf/hashtab.c`).
const HASH_ELEMENT: u64 = 48;
/// `struct bucket`.
const HASH_BUCKET: u64 = 16;
/// `HASHTAB_MAP_LOCK_COUNT` counters of four octets a CPU.
const HASH_LOCKS: u64 = 8 * 4;
/// Pages of a ring buffer before its data: `struct bpf_ringbuf`, consumer's and producer's position
/// (`kernel/bpf/ringbuf.c`).
const RING_PAGES: u64 = 3;

/// What a map's memory follows from.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: u32,
    key: u64,
    value: u64,
    entries: u64,
    /// Made with [`MMAPABLE`].
    mapped: bool,
}

impl Shape {
    /// Octets, without the map's own structure. No overflow: each factor is below 2^32 and their product, with some
    /// thousand CPUs, would have to be memory that exists.
    fn octets(self, cpus: u64, page: u64) -> u64 {
        let word = size_of::<u64>() as u64;
        let value = self.value.next_multiple_of(word);
        let values = self.entries * value;
        if self.kind == Kind::BPF_MAP_TYPE_PERCPU_ARRAY as u32 {
            return self.entries * word + values * cpus;
        }
        if self.kind == Kind::BPF_MAP_TYPE_HASH as u32 {
            // Preallocated, with one element more a CPU for updates in place.
            let element = HASH_ELEMENT + self.key.next_multiple_of(word) + value;
            return self.entries.next_power_of_two() * HASH_BUCKET
                + (self.entries + cpus) * element
                + cpus * (HASH_LOCKS + word);
        }
        if self.kind == Kind::BPF_MAP_TYPE_RINGBUF as u32 {
            return RING_PAGES * page + self.entries;
        }
        // Arrays, and arrays of maps, whose values are pointers.
        if self.mapped {
            return page + values.next_multiple_of(page);
        }
        values
    }

    const fn name(self) -> &'static str {
        match self.kind {
            kind if kind == Kind::BPF_MAP_TYPE_HASH as u32 => "hash",
            kind if kind == Kind::BPF_MAP_TYPE_PERCPU_ARRAY as u32 => "percpu_array",
            kind if kind == Kind::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32 => "array_of_maps",
            kind if kind == Kind::BPF_MAP_TYPE_RINGBUF as u32 => "ringbuf",
            _ => "array",
        }
    }
}

fn page_size() -> u64 {
    procfs::page_size()
}

/// Tells whether there is room for the maps.
pub(super) fn check(report: &mut Preflight, instance: &str) {
    match Budget::read() {
        Ok(budget) => {
            let (severity, what, remedy) = judge(&budget, budget.kept(instance));
            report.add(severity, what, remedy);
        }
        Err(error) => report.warning(
            format!("what the maps will take of the kernel's memory is not known: {error:#}"),
            "see that some hundred MiB are free",
        ),
    }
}

/// `kept` octets of the budget are taken already.
fn judge(budget: &Budget, kept: u64) -> (Severity, String, Option<&'static str>) {
    let mib = |octets: u64| format!("{}.{} MiB", octets >> 20, (octets >> 10) % 1024 * 10 / 1024);
    let taken = format!(
        "the maps take {} of the kernel's memory",
        mib(budget.octets)
    );
    let taken = match kept {
        0 => taken,
        kept => format!(
            "{taken}, {} of it already, by maps that an agent before left",
            mib(kept)
        ),
    };
    let wanted = budget.octets.saturating_sub(kept);
    let Some((left, what)) = budget.room.least() else {
        let remedy = "mount /proc, and see that some hundred MiB are free";
        return (
            Severity::Warning,
            format!("{taken}, and how much is left is not known"),
            Some(remedy),
        );
    };
    let shown = format!("{} left ({what})", mib(left));
    match left {
        few if few < wanted => (
            Severity::Error,
            format!(
                "{taken}, and there are only {shown}: loading them would fail, or another process would be ended for them"
            ),
            Some("free memory, or raise MemoryMax= of the unit or memory.max of the control group"),
        ),
        some if some < WARN_ABOVE * wanted => (
            Severity::Warning,
            format!("{taken}, which is more than half of the {shown}"),
            Some(
                "free memory, or raise MemoryMax= of the unit or memory.max of the control group; the agent itself and its lists need some too",
            ),
        ),
        _ => (Severity::Ok, format!("{taken}; {shown}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(octets: u64, available: Option<u64>, group: Option<u64>) -> Budget {
        Budget {
            octets,
            lists_at_most: 0,
            cpus: 2,
            room: Room { available, group },
            maps: Vec::new(),
        }
    }

    #[test]
    fn every_map_of_the_object_is_budgeted_and_its_fill_is_named() {
        let budget = Budget::of(4, Room::default()).unwrap();
        for name in [
            "LISTENERS",
            "COUNTERS",
            "DROP_EVENTS",
            "LIST_PIECES",
            "SOURCES",
        ] {
            assert!(budget.maps.iter().any(|map| map.name == name), "{name}");
        }
        for map in &budget.maps {
            assert_ne!(map.when_full, full::UNKNOWN, "{}", map.name);
            assert!(map.octets > 0, "{}", map.name);
        }
        assert_eq!(
            budget.octets,
            budget.maps.iter().map(|map| map.octets).sum::<u64>()
        );
        assert!(budget.maps.is_sorted_by(|a, b| a.octets >= b.octets));
        assert_eq!(budget.largest(5).len(), 5);
    }

    #[test]
    fn values_for_each_cpu_are_counted_for_each_cpu() {
        let of = |cpus| Budget::of(cpus, Room::default()).unwrap();
        let octets = |budget: &Budget, name: &str| {
            let map = budget.maps.iter().find(|map| map.name == name);
            map.unwrap().octets
        };
        let (one, eight) = (of(1), of(8));
        let pointers = u64::from(net_common::verdict::COUNTERS) * 8;
        assert_eq!(octets(&one, "COUNTERS"), 2 * pointers);
        assert_eq!(octets(&eight, "COUNTERS"), 9 * pointers);
        assert_eq!(octets(&one, "SOURCES"), octets(&eight, "SOURCES"));
    }

    #[test]
    fn shapes_take_what_the_kernel_accounts_for() {
        let shape = |kind: Kind, key, value, entries, mapped| Shape {
            kind: kind as u32,
            key,
            value,
            entries,
            mapped,
        };
        for (what, shape, octets) in [
            (
                "values are whole words",
                shape(Kind::BPF_MAP_TYPE_ARRAY, 4, 12, 3, false),
                48,
            ),
            (
                "mapped memory is whole pages, behind one",
                shape(Kind::BPF_MAP_TYPE_ARRAY, 4, 8, 513, true),
                3 * 4096,
            ),
            (
                "a pointer a value, a value a CPU",
                shape(Kind::BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 10, false),
                80 + 160,
            ),
            (
                "buckets are a power of two, elements one more a CPU",
                shape(Kind::BPF_MAP_TYPE_HASH, 20, 12, 3, false),
                4 * 16 + 5 * (48 + 24 + 16) + 2 * (32 + 8),
            ),
            (
                "three pages before the ring",
                shape(Kind::BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, false),
                5 * 4096,
            ),
        ] {
            assert_eq!(shape.octets(2, 4096), octets, "{what}");
        }
    }

    #[test]
    fn too_little_memory_is_an_error_and_little_a_warning() {
        for (budget, severity, words) in [
            (
                budget(100 * MIB, Some(1000 * MIB), None),
                Severity::Ok,
                "100.0 MiB",
            ),
            (
                budget(100 * MIB, Some(150 * MIB), None),
                Severity::Warning,
                "MemAvailable",
            ),
            (
                budget(100 * MIB, Some(99 * MIB), None),
                Severity::Error,
                "MemAvailable",
            ),
            (
                budget(100 * MIB, Some(1000 * MIB), Some(64 * MIB)),
                Severity::Error,
                "memory.max",
            ),
            (
                budget(100 * MIB, Some(1000 * MIB), Some(200 * MIB)),
                Severity::Ok,
                "memory.max",
            ),
            (
                budget(100 * MIB, None, None),
                Severity::Warning,
                "not known",
            ),
        ] {
            let (found, what, remedy) = judge(&budget, 0);
            assert_eq!(found, severity, "{what}");
            assert!(what.contains(words), "{what}");
            assert_eq!(remedy.is_some(), severity != Severity::Ok, "{what}");
        }
    }

    #[test]
    fn maps_that_go_on_need_no_room() {
        let (severity, what, _) = judge(&budget(100 * MIB, Some(30 * MIB), None), 90 * MIB);
        assert_eq!(severity, Severity::Ok, "{what}");
        assert!(what.contains("90.0 MiB of it already"), "{what}");
        let all = Budget::of(2, Room::default()).unwrap();
        assert_eq!(all.kept("no-such-instance"), 0);
        let missing: Vec<_> = KEPT
            .iter()
            .filter(|kept| !all.maps.iter().any(|map| map.name == kept.name))
            .map(|kept| kept.name)
            .collect();
        assert!(missing.is_empty(), "{missing:?} are kept and not budgeted");
    }
}
