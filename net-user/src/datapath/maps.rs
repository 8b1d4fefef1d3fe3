//! The agent's hands on the maps. One task owns a [`Maps`]; all others send it requests.

use std::{collections::HashMap as StdHashMap, hash::Hash, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
};
use net_common::{
    abi::{
        AddressKey, AddressRole, Binding, CookieKeys, Listener, ListenerKey, ListenerStats,
        MAX_ADDRESSES, MAX_BINDINGS, MAX_LISTENER_KEYS, MAX_LISTENERS, NeighborKey, PortState,
        SOCKET_FILTER_BLOCKS, SOURCE_SETS, SourceSet, SourceState,
    },
    spread::filter_place,
    units::{Version, addr_words},
    verdict::{COUNTERS, Reason},
};

use super::pin::Plan;

mod drift;
mod flows;
mod policy;
pub mod watch;

pub use drift::Drift;
use flows::Flows;
use policy::Policy;
pub(crate) use policy::wait_for_programs;

use crate::control::protocol::MapFill;

/// Of so many blocks of the filter one is looked at for its fill.
const SAMPLED: usize = 16;

/// Every map that the agent reads or writes.
pub struct Maps {
    policy: Policy,
    seed: Array<MapData, u64>,
    keys: Array<MapData, CookieKeys>,
    listeners: HashMap<MapData, ListenerKey, Listener>,
    ports: Array<MapData, PortState>,
    activity: Array<MapData, u32>,
    filter: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, ListenerStats>,
    bindings: HashMap<MapData, NeighborKey, Binding>,
    heartbeat: Array<MapData, u64>,
    addresses: HashMap<MapData, AddressKey, AddressRole>,
    sources: Array<MapData, SourceSet>,
    source_state: Array<MapData, SourceState>,
    strays: Array<MapData, u64>,
    flows: Flows,
    /// What stands in `LISTENERS`, so that only changes are written.
    written: StdHashMap<ListenerKey, Listener>,
    /// What stands in `BINDINGS`, but for the data path's times.
    written_bindings: StdHashMap<NeighborKey, Binding>,
    /// What stands in `ADDRESSES`.
    written_addresses: StdHashMap<AddressKey, AddressRole>,
    /// What stands in `COOKIE_KEYS`; none before they are written for the first time.
    written_keys: Option<CookieKeys>,
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| anyhow!("the object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("map {name} is of another type"))
}

/// All of a map.
fn contents<K: Pod + Eq + Hash, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &str,
) -> Result<StdHashMap<K, V>> {
    map.iter()
        .collect::<Result<_, _>>()
        .with_context(|| format!("{name} cannot be read"))
}

/// Makes a map hold exactly `wanted`; `written` is what it holds. Everything that can be written is, and the first
/// error is told.
fn replace<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    written: &mut StdHashMap<K, V>,
    wanted: &StdHashMap<K, V>,
    name: impl Fn(&K) -> String,
) -> Result<()> {
    let removed = remove_gone(map, written, wanted, &name);
    let inserted = insert_new(map, written, wanted, &name);
    removed.and(inserted)
}

/// Removes what is no longer wanted.
fn remove_gone<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    written: &mut StdHashMap<K, V>,
    wanted: &StdHashMap<K, V>,
    name: &impl Fn(&K) -> String,
) -> Result<()> {
    let mut first = Ok(());
    let gone: Vec<_> = written
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .copied()
        .collect();
    for key in gone {
        match map.remove(&key) {
            Ok(()) => drop(written.remove(&key)),
            Err(error) => {
                first = first
                    .and(Err(error).with_context(|| format!("{} cannot be removed", name(&key))));
            }
        }
    }
    first
}

/// Writes what is new or changed.
fn insert_new<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    written: &mut StdHashMap<K, V>,
    wanted: &StdHashMap<K, V>,
    name: &impl Fn(&K) -> String,
) -> Result<()> {
    let mut first = Ok(());
    for (key, value) in wanted {
        if written.get(key) == Some(value) {
            continue;
        }
        match map.insert(key, value, 0) {
            Ok(()) => drop(written.insert(*key, *value)),
            Err(error) => {
                first = first.and(Err(error).with_context(|| {
                    format!(
                        "{} is not taken beside {} entries",
                        name(key),
                        written.len()
                    )
                }));
            }
        }
    }
    first
}

fn address_name(key: &AddressKey) -> String {
    format!("ADDRESSES: {}", crate::guards::addresses::ip(key))
}

impl Maps {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// The object and the agent disagree about a map.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            policy: Policy::take(ebpf)?,
            seed: take(ebpf, "SEED")?,
            keys: take(ebpf, "COOKIE_KEYS")?,
            listeners: take(ebpf, "LISTENERS")?,
            ports: take(ebpf, "PORTS")?,
            activity: take(ebpf, "ACTIVITY")?,
            filter: take(ebpf, "SOCKET_FILTER")?,
            counters: take(ebpf, "COUNTERS")?,
            stats: take(ebpf, "LISTENER_STATS")?,
            bindings: take(ebpf, "BINDINGS")?,
            heartbeat: take(ebpf, "HEARTBEAT")?,
            addresses: take(ebpf, "ADDRESSES")?,
            sources: take(ebpf, "SOURCES")?,
            source_state: take(ebpf, "SOURCE_STATE")?,
            strays: take(ebpf, "STRAYS")?,
            flows: Flows::take(ebpf)?,
            written: StdHashMap::new(),
            written_bindings: StdHashMap::new(),
            written_addresses: StdHashMap::new(),
            written_keys: None,
        })
    }

    /// Learns what an agent before has left in the maps that go on, so that only differences are written.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn adopt(&mut self, plan: &Plan) -> Result<()> {
        self.policy.adopt(plan);
        if plan.adopts("LISTENERS") {
            self.written = contents(&self.listeners, "LISTENERS")?;
        }
        if plan.adopts("BINDINGS") {
            let found = contents(&self.bindings, "BINDINGS")?;
            // The data path's times are not the agent's.
            let ours = |(key, binding): (NeighborKey, Binding)| {
                let ours = Binding {
                    macs: binding.macs,
                    flags: binding.flags,
                    ..Binding::default()
                };
                (key, ours)
            };
            self.written_bindings = found.into_iter().map(ours).collect();
        }
        if plan.adopts("ADDRESSES") {
            self.written_addresses = contents(&self.addresses, "ADDRESSES")?;
        }
        if plan.adopts("FLOW_SLOTS") {
            self.flows.adopt()?;
        }
        Ok(())
    }

    /// Whether all of these keys stand in `LISTENERS` already.
    pub fn stand(&self, wanted: &StdHashMap<ListenerKey, Listener>) -> bool {
        wanted.keys().all(|key| self.written.contains_key(key))
    }

    /// The seed of all hashes; 0 before there is one.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn seed(&self) -> Result<u64> {
        self.seed.get(&0, 0).context("SEED cannot be read")
    }

    /// Keeps the seed of all hashes for the agent that comes after.
    ///
    /// # Errors
    /// The kernel refuses, which it never should for an array.
    pub fn set_seed(&mut self, seed: u64) -> Result<()> {
        self.seed.set(0, seed, 0).context("SEED cannot be written")
    }

    /// The cookie keys as they stand in the kernel; none valid before the first.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn keys(&self) -> Result<CookieKeys> {
        self.keys.get(&0, 0).context("COOKIE_KEYS cannot be read")
    }

    /// The ring buffer of listener events.
    ///
    /// # Errors
    /// It was taken before.
    pub fn listener_events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
        take(ebpf, "LISTENER_EVENTS")
    }

    /// The ring buffer of neighbours' claims and answers.
    ///
    /// # Errors
    /// It was taken before.
    pub fn neighbor_events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
        take(ebpf, "NEIGHBOR_EVENTS")
    }

    /// The ring buffer of sampled drops.
    ///
    /// # Errors
    /// It was taken before.
    pub fn drop_events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
        take(ebpf, "DROP_EVENTS")
    }

    /// Writes the cookie keys.
    ///
    /// # Errors
    /// The kernel refuses, which it never should for an array.
    pub fn set_keys(&mut self, keys: &CookieKeys) -> Result<()> {
        self.keys
            .set(0, keys, 0)
            .context("COOKIE_KEYS cannot be written")?;
        self.written_keys = Some(*keys);
        Ok(())
    }

    /// These keys, of an agent before, are to stay.
    pub const fn keep_keys(&mut self, keys: CookieKeys) {
        self.written_keys = Some(keys);
    }

    /// Makes `LISTENERS` hold exactly `wanted`: first what is gone, then what is new or changed.
    ///
    /// # Errors
    /// The map is full or refuses; everything that could be written is, and the first error is told.
    pub fn set_listeners(&mut self, wanted: &StdHashMap<ListenerKey, Listener>) -> Result<()> {
        let name = |key: &ListenerKey| format!("LISTENERS: port {}", key.port);
        replace(&mut self.listeners, &mut self.written, wanted, name)
    }

    /// Makes `BINDINGS` hold exactly `wanted`, as [`Self::set_listeners`] does. A changed entry begins with full
    /// shares again.
    ///
    /// # Errors
    /// See there.
    pub fn set_bindings(&mut self, wanted: &StdHashMap<NeighborKey, Binding>) -> Result<()> {
        let name =
            |key: &NeighborKey| format!("BINDINGS: {}", crate::neighbor::ports::address(key));
        replace(&mut self.bindings, &mut self.written_bindings, wanted, name)
    }

    /// Makes `ADDRESSES` hold `wanted`, without what is gone: [`Self::drop_addresses`] removes that.
    ///
    /// # Errors
    /// As [`Self::set_listeners`].
    pub fn add_addresses(&mut self, wanted: &StdHashMap<AddressKey, AddressRole>) -> Result<()> {
        insert_new(
            &mut self.addresses,
            &mut self.written_addresses,
            wanted,
            &address_name,
        )
    }

    /// Removes from `ADDRESSES` what is not in `wanted`; true when anything was.
    ///
    /// # Errors
    /// As [`Self::set_listeners`].
    pub fn drop_addresses(&mut self, wanted: &StdHashMap<AddressKey, AddressRole>) -> Result<bool> {
        let before = self.written_addresses.len();
        remove_gone(
            &mut self.addresses,
            &mut self.written_addresses,
            wanted,
            &address_name,
        )?;
        Ok(self.written_addresses.len() < before)
    }

    /// How many entries stand in the maps that the agent fills, and how many may.
    pub fn fill(&self) -> Vec<MapFill> {
        [
            ("LISTENERS", self.written.len(), MAX_LISTENER_KEYS),
            ("FLOW_SLOTS", self.flows.used(), MAX_LISTENERS),
            ("BINDINGS", self.written_bindings.len(), MAX_BINDINGS),
            ("ADDRESSES", self.written_addresses.len(), MAX_ADDRESSES),
        ]
        .map(|(name, used, capacity)| MapFill {
            name: name.to_owned(),
            used: used as u64,
            capacity: capacity.into(),
        })
        .to_vec()
    }

    /// Every set of the table of known sources, by number.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn source_sets(&self) -> impl Iterator<Item = Result<(u32, SourceSet)>> {
        (0..SOURCE_SETS).map(|index| {
            let set = self.sources.get(&index, 0);
            Ok((index, set.context("SOURCES cannot be read")?))
        })
    }

    /// Writes how many connections the source at a place has open, if the data path counted otherwise. What it counts
    /// between the read and the write is lost until the next time.
    ///
    /// # Errors
    /// The kernel refuses the read or the write.
    pub fn set_open_connections(&mut self, place: u32, open: u32) -> Result<()> {
        let state = self.source_state.get(&place, 0);
        let mut state = state.context("SOURCE_STATE cannot be read")?;
        if state.open == open {
            return Ok(());
        }
        state.open = open;
        self.source_state
            .set(place, state, 0)
            .context("SOURCE_STATE cannot be written")
    }

    /// Until when segments without a socket are taken for an attack, nanoseconds of the coarse monotonic clock; 0 for no
    /// attack since the start.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn stray_attack_until(&self) -> Result<u64> {
        self.strays.get(&1, 0).context("STRAYS cannot be read")
    }

    /// Packets of a reason whose verdict was carried out, all CPUs together; what is only noted has no other.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn counter(&self, reason: Reason) -> Result<u64> {
        let cells = self.counters.get(&(reason as u32), 0);
        Ok(cells.context("COUNTERS cannot be read")?.iter().sum())
    }

    /// Tells the data path that the agent is alive; `now` is of the coarse monotonic clock.
    ///
    /// # Errors
    /// The kernel refuses, which it never should for an array.
    pub fn beat(&mut self, now: Duration) -> Result<()> {
        self.heartbeat
            .set(0, now.as_nanos() as u64, 0)
            .context("HEARTBEAT cannot be written")
    }

    /// Events of neighbours that found the ring buffer full.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn neighbor_events_lost(&self) -> Result<u64> {
        let cells = self.counters.get(&(Reason::NeighborEventLost as u32), 0);
        Ok(cells.context("COUNTERS cannot be read")?.iter().sum())
    }

    /// What the data path remembers of a port.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn port(&self, port: u16) -> Result<PortState> {
        self.ports
            .get(&u32::from(port), 0)
            .context("PORTS cannot be read")
    }

    /// Highest epoch in which any cookie was sent, plus one; 0 for never.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn last_epoch(&self) -> Result<u32> {
        self.activity.get(&0, 0).context("ACTIVITY cannot be read")
    }

    /// Packets by reason, all CPUs together: [`net_common::verdict::Reason::COUNT`] cells that were enforced, then as many that
    /// were observed.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn counters(&self) -> Result<Vec<u64>> {
        (0..COUNTERS)
            .map(|i| {
                Ok(self
                    .counters
                    .get(&i, 0)
                    .context("COUNTERS cannot be read")?
                    .iter()
                    .sum())
            })
            .collect()
    }

    /// Packets of the listener in a slot, all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn listener_stats(&self, slot: u32) -> Result<ListenerStats> {
        let mut sum = ListenerStats::default();
        for s in self
            .stats
            .get(&slot, 0)
            .context("LISTENER_STATS cannot be read")?
            .iter()
        {
            sum.syns += s.syns;
            sum.syns_passed += s.syns_passed;
            sum.cookies_sent += s.cookies_sent;
            sum.cookies_proven += s.cookies_proven;
            sum.cookies_failed += s.cookies_failed;
            sum.handshakes += s.handshakes;
            sum.handshakes_refused += s.handshakes_refused;
            sum.accept_full += s.accept_full;
            sum.syn_ack_limited += s.syn_ack_limited;
        }
        Ok(sum)
    }

    /// Zeroes a slot before it is given to another listener: packets, connections and sources. No key of
    /// [`Self::set_flow_slots`] should lead to it meanwhile.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn clear_listener_stats(&mut self, slot: u32) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
        let zeros = aya::maps::PerCpuValues::try_from(vec![ListenerStats::default(); cpus])?;
        self.stats
            .set(slot, zeros, 0)
            .context("LISTENER_STATS cannot be written")?;
        self.flows.clear(slot)
    }

    /// Empties the half of the filter that is not read.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn clear_filter_half(&mut self, half: u32) -> Result<()> {
        for block in 0..SOCKET_FILTER_BLOCKS {
            self.filter
                .set(half * SOCKET_FILTER_BLOCKS + block, 0, 0)
                .context("SOCKET_FILTER cannot be written")?;
        }
        Ok(())
    }

    /// Adds a source to a half of the filter; true when it was not in it.
    ///
    /// The read and the write are two calls, so a bit that the data path sets in the same word in between is
    /// lost. [`crate::filter::Renewal`] deals with that; it never writes to the half that is read.
    ///
    /// # Errors
    /// The kernel refuses a read or write.
    pub fn add_to_filter(&mut self, half: u32, addr: std::net::IpAddr, seed: u64) -> Result<bool> {
        let version = if addr.is_ipv4() {
            Version::V4
        } else {
            Version::V6
        };
        let (block, bits) = filter_place(version, &addr_words(addr), seed);
        let index = half * SOCKET_FILTER_BLOCKS + block;
        let word = self
            .filter
            .get(&index, 0)
            .context("SOCKET_FILTER cannot be read")?;
        if word & bits == bits {
            return Ok(false);
        }
        self.filter
            .set(index, word | bits, 0)
            .context("SOCKET_FILTER cannot be written")?;
        Ok(true)
    }

    /// Share of bits set in a half of the filter, 0 to 1, of one block in [`SAMPLED`]: hashes spread them evenly.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn filter_fill(&self, half: u32) -> Result<f64> {
        let mut ones = 0;
        let blocks = (0..SOCKET_FILTER_BLOCKS).step_by(SAMPLED);
        let bits = blocks.len() as f64 * 64.0;
        for block in blocks {
            ones += self
                .filter
                .get(&(half * SOCKET_FILTER_BLOCKS + block), 0)?
                .count_ones();
        }
        Ok(f64::from(ones) / bits)
    }
}
