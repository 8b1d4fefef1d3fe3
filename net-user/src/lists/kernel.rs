//! The maps of the lists, and the turn from one generation to the other.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray},
};
use net_common::{
    abi::{HITS, HitLog, LIST_TABLES, ListTable},
    lists::general::MAX_PIECES,
};
use nix::libc;

use super::tables::{TableError, Tables};
use crate::datapath::maps::wait_for_programs;

/// The maps that the data path reads.
pub struct Kernel {
    lists: Array<MapData, u32>,
    headers: Array<MapData, ListTable>,
    /// `LIST_COMPACT` and `LIST_PIECES`, kept untyped for their descriptors.
    compact: Map,
    pieces: Map,
    hits: PerCpuArray<MapData, HitLog>,
    /// What stands in `LISTS`.
    active: u32,
    /// Packets that each list's log had counted when it was read last, by CPU.
    read: [Vec<u64>; 2],
}

impl Kernel {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// The object and the agent disagree about a map.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| anyhow!("the object has no map {name}"))
        };
        let mut kernel = Self {
            lists: take("LISTS")?.try_into().context("LISTS")?,
            headers: take("LIST_TABLES")?.try_into().context("LIST_TABLES")?,
            compact: take("LIST_COMPACT")?,
            pieces: take("LIST_PIECES")?,
            hits: take("LIST_HITS")?.try_into().context("LIST_HITS")?,
            active: 0,
            read: Default::default(),
        };
        kernel.adopt().context("LISTS cannot be read")?;
        Ok(kernel)
    }

    /// What an agent before left is in force until the first turn. What it was building when it ended is freed.
    fn adopt(&mut self) -> Result<(), TableError> {
        self.active = self.lists.get(&0, 0)?;
        for list in [net_common::abi::ALLOW, net_common::abi::BLOCK] {
            for generation in 0..LIST_TABLES / 2 {
                if self.state(list).checked_sub(1) != Some(generation) {
                    self.drop_generation(list, generation);
                }
            }
            // Its hits are counted.
            let logs = self.hits.get(&list, 0)?;
            if let Some(read) = self.read.get_mut(list as usize) {
                *read = logs.iter().map(|log| log.count).collect();
            }
        }
        Ok(())
    }

    /// 0 while a list is empty, or the generation that is read plus one.
    fn state(&self, list: u32) -> u32 {
        self.active >> (2 * list) & 3
    }

    /// Writes what the data path has to know of the generation that is read.
    pub(super) fn show(&mut self, list: u32, tables: &Tables) -> Result<(), TableError> {
        let Some(generation) = self.state(list).checked_sub(1) else {
            return self.turn(list, Some(tables));
        };
        self.put(list, generation, tables)
    }

    fn put(&mut self, list: u32, generation: u32, tables: &Tables) -> Result<(), TableError> {
        let number = list * 2 + generation;
        if let Some(piece) = &tables.compact {
            let mut outer: ArrayOfMaps<_, MapData> = ArrayOfMaps::try_from(&mut self.compact)?;
            outer.set(generation, &piece.map, 0)?;
        }
        self.headers.set(number, tables.header(), 0)?;
        Ok(())
    }

    /// Turns a list to new tables, or to none. Packets meet the old ones or the new ones.
    pub(super) fn turn(&mut self, list: u32, tables: Option<&Tables>) -> Result<(), TableError> {
        let old = self.state(list).checked_sub(1);
        let new = tables.map(|_| u32::from(old == Some(0)));
        if let (Some(tables), Some(new)) = (tables, new) {
            let mut outer: ArrayOfMaps<_, MapData> = ArrayOfMaps::try_from(&mut self.pieces)?;
            for (index, piece) in ((list * 2 + new) * MAX_PIECES..).zip(&tables.pieces) {
                outer.set(index, &piece.map, 0)?;
            }
            self.put(list, new, tables)?;
        }
        let state = new.map_or(0, |generation| generation + 1);
        let active = self.active & !(3 << (2 * list)) | state << (2 * list);
        self.lists.set(0, active, 0)?;
        self.active = active;
        if let Some(old) = old {
            wait_for_programs();
            self.drop_generation(list, old);
        }
        Ok(())
    }

    /// Frees the memory of a generation that nothing reads any more.
    fn drop_generation(&self, list: u32, generation: u32) {
        let number = list * 2 + generation;
        let first = number * MAX_PIECES;
        // What is not there cannot be deleted; nothing depends on it.
        for index in first..first + MAX_PIECES {
            if delete(&self.pieces, index).is_err() {
                break;
            }
        }
        if list == net_common::abi::BLOCK {
            let _ = delete(&self.compact, generation);
        }
    }

    /// Compares which tables are read, and their places, with what was written, and sets right what somebody else has
    /// changed; gives it in words. The entries inside the tables are not compared: there is no second copy of them.
    pub(super) fn mend(&mut self, tables: &[Tables; 2]) -> Result<Vec<String>, TableError> {
        let mut found = Vec::new();
        for (list, tables) in (0..).zip(tables) {
            let Some(generation) = self.state(list).checked_sub(1) else {
                continue;
            };
            let number = list * 2 + generation;
            if self.headers.get(&number, 0)? != tables.header() {
                self.headers.set(number, tables.header(), 0)?;
                found.push(format!("LIST_TABLES: {number} changed"));
            }
            for (index, piece) in (number * MAX_PIECES..).zip(&tables.pieces) {
                if inner_id(&self.pieces, index) != Some(piece.map.info()?.id()) {
                    let mut outer: ArrayOfMaps<_, MapData> =
                        ArrayOfMaps::try_from(&mut self.pieces)?;
                    outer.set(index, &piece.map, 0)?;
                    found.push(format!("LIST_PIECES: {index} changed"));
                }
            }
            if let Some(piece) = &tables.compact
                && inner_id(&self.compact, generation) != Some(piece.map.info()?.id())
            {
                let mut outer: ArrayOfMaps<_, MapData> = ArrayOfMaps::try_from(&mut self.compact)?;
                outer.set(generation, &piece.map, 0)?;
                found.push(format!("LIST_COMPACT: {generation} changed"));
            }
        }
        // Last, so that what it leads to is in order.
        if self.lists.get(&0, 0)? != self.active {
            self.lists.set(0, self.active, 0)?;
            found.push("LISTS: 1 changed".to_owned());
        }
        Ok(found)
    }

    /// Sources that were listed since the last call, and how many packets each stands for.
    pub(super) fn hits(&mut self, list: u32) -> Result<Vec<(IpAddr, u64)>, TableError> {
        let logs = self.hits.get(&list, 0)?;
        let Some(read) = self.read.get_mut(list as usize) else {
            return Ok(Vec::new());
        };
        read.resize(logs.len(), 0);
        let mut hits = Vec::new();
        for (log, read) in logs.iter().zip(read) {
            let new = log.count.saturating_sub(*read);
            let kept = new.min(HITS as u64);
            // A flood overwrote the others; those left stand for them.
            let (weight, rest) = match kept {
                0 => continue,
                kept => (new / kept, new % kept),
            };
            for n in 0..kept {
                let at = (log.count - 1 - n) as usize & (HITS - 1);
                if let Some(&[high, low]) = log.sources.get(at) {
                    let bits = u128::from(high) << 64 | u128::from(low);
                    let source = IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical();
                    hits.push((source, weight + u64::from(n < rest)));
                }
            }
            *read = log.count;
        }
        Ok(hits)
    }
}

const _: () = assert!(LIST_TABLES == 4);

/// Empties a place of an array of maps, which aya has no call for.
fn delete(map: &Map, index: u32) -> io::Result<()> {
    const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
    element(BPF_MAP_DELETE_ELEM, map, index, 0)
}

/// Id of the map in a place of an array of maps; aya asks for its descriptor, which wants CAP_SYS_ADMIN.
fn inner_id(map: &Map, index: u32) -> Option<u32> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    let mut id = 0_u32;
    let place = (&raw mut id).expose_provenance() as u64;
    element(BPF_MAP_LOOKUP_ELEM, map, index, place).ok()?;
    Some(id)
}

/// A call about one place of an array of maps; `value` is where four octets are read to, or 0.
fn element(command: libc::c_int, map: &Map, index: u32, value: u64) -> io::Result<()> {
    /// The part of `union bpf_attr` for single elements.
    #[repr(C)]
    struct Attr {
        fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (Map::ArrayOfMaps(data) | Map::Array(data)) = map else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let attr = Attr {
        fd: data.fd().as_fd().as_raw_fd() as u32,
        padding: 0,
        key: (&raw const index).addr() as u64,
        value,
        flags: 0,
    };
    // SAFETY: the attribute, the key and the value that it names live until the call is over, and the value of an array of
    // maps has four octets.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
