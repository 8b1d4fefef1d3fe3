//! The maps of the guards of ARP and neighbour discovery, and what both guards' tests want of a frame.

use std::{net::IpAddr, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, RingBuf},
};
use net_common::{
    abi::{
        Asked, Binding, GENERATIONS, INTERFACE_CELLS, InterfaceLimits, Limit, NEIGHBOR_CELLS,
        NeighborEvent, NeighborKey, NeighborSettings, SEEN_CELLS, STALE_NS, Settings,
    },
    spread::{asked_cell, interface_cell},
    units::{Mac, addr_words},
    verdict::Reason,
};

use crate::frames::{SERVER_MAC, SERVER_V4, SERVER_V6};

use super::{HOUR, LOOPBACK, Lab, coarse_ns};

/// One of the two guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// ARP.
    Arp,
    /// Neighbour discovery.
    Ndp,
}

impl Guard {
    /// The flag that switches it on.
    pub fn on(self) -> u32 {
        match self {
            Self::Arp => NeighborSettings::ARP,
            Self::Ndp => NeighborSettings::NDP,
        }
    }

    /// The flag that carries its drops out.
    pub fn enforces(self) -> u32 {
        match self {
            Self::Arp => NeighborSettings::ARP_ENFORCE,
            Self::Ndp => NeighborSettings::NDP_ENFORCE,
        }
    }
}

/// What the agent writes and reads of the guards, and what they keep for themselves.
pub struct Neighbors {
    settings: NeighborSettings,
    map: Array<MapData, NeighborSettings>,
    bindings: HashMap<MapData, NeighborKey, Binding>,
    heartbeat: Array<MapData, u64>,
    asked: Array<MapData, Asked>,
    seen: Array<MapData, u64>,
    per_mac: Array<MapData, u64>,
    per_interface: Array<MapData, InterfaceLimits>,
    events: RingBuf<MapData>,
}

/// A second descriptor of a map, so that it does not matter who takes the first.
pub(super) fn open<T>(ebpf: &Ebpf, name: &str) -> T
where
    T: TryFrom<Map, Error: std::fmt::Debug>,
{
    let map = ebpf.map(name).unwrap_or_else(|| panic!("no map {name}"));
    let (Map::Array(data) | Map::HashMap(data) | Map::RingBuf(data)) = map else {
        panic!("map {name} is of another type");
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    let data = MapData::from_fd(fd.expect("a descriptor")).expect("a map");
    let again = match map {
        Map::HashMap(_) => Map::HashMap(data),
        Map::RingBuf(_) => Map::RingBuf(data),
        _ => Map::Array(data),
    };
    T::try_from(again).expect(name)
}

impl Neighbors {
    pub(super) fn open(ebpf: &Ebpf) -> Self {
        Self {
            settings: NeighborSettings::default(),
            map: open(ebpf, "NEIGHBOR_SETTINGS"),
            bindings: open(ebpf, "BINDINGS"),
            heartbeat: open(ebpf, "HEARTBEAT"),
            asked: open(ebpf, "ASKED"),
            seen: open(ebpf, "SEEN"),
            per_mac: open(ebpf, "NEIGHBOR_LIMIT"),
            per_interface: open(ebpf, "INTERFACE_LIMITS"),
            events: open(ebpf, "NEIGHBOR_EVENTS"),
        }
    }

    /// Both guards on and enforcing, no limit, an agent that lives for an hour and knows the host's own addresses.
    pub fn enforce(&mut self) {
        for own in [SERVER_V4.into(), SERVER_V6.into()] as [IpAddr; 2] {
            self.bind(key(own, 0), &[SERVER_MAC], Binding::OWN);
        }
        self.set(|s| {
            s.flags = [Guard::Arp, Guard::Ndp]
                .iter()
                .fold(0, |flags, guard| flags | guard.on() | guard.enforces());
        });
        self.beat(coarse_ns() + HOUR);
    }

    /// Changes the guards' settings.
    pub fn set(&mut self, change: impl FnOnce(&mut NeighborSettings)) {
        change(&mut self.settings);
        for generation in 0..GENERATIONS {
            let written = self.map.set(generation, self.settings, 0);
            written.expect("NEIGHBOR_SETTINGS");
        }
    }

    /// Sets or clears flags of the guards' settings.
    pub fn set_flag(&mut self, flag: u32, on: bool) {
        self.set(|s| {
            if on {
                s.flags |= flag;
            } else {
                s.flags &= !flag;
            }
        });
    }

    /// Writes a binding of a key.
    pub fn bind(&mut self, key: NeighborKey, macs: &[[u8; 6]], flags: u32) {
        let mut binding = Binding {
            flags,
            ..Binding::default()
        };
        for (place, mac) in binding.macs.iter_mut().zip(macs) {
            *place = Mac::new(*mac).0;
        }
        self.bindings.insert(key, binding, 0).expect("BINDINGS");
    }

    /// Protects an address without a tag.
    pub fn protect(&mut self, addr: impl Into<IpAddr>, macs: &[[u8; 6]]) {
        self.bind(key(addr, 0), macs, Binding::PROTECTED);
    }

    /// Takes a binding out, if it is there.
    pub fn unbind(&mut self, key: NeighborKey) {
        let _ = self.bindings.remove(&key);
    }

    /// Has the agent look as if it was last alive at a time; 0 for never.
    pub fn beat(&mut self, time_ns: u64) {
        self.heartbeat.set(0, time_ns, 0).expect("HEARTBEAT");
    }

    /// Has the agent look as if it were dead.
    pub fn stale(&mut self) {
        self.beat(coarse_ns() - STALE_NS - 1);
    }

    /// Zeros every limit's state but those in the bindings.
    pub fn refill(&mut self) {
        for cell in 0..INTERFACE_CELLS {
            self.refill_interface(cell);
        }
        for cell in 0..NEIGHBOR_CELLS {
            self.per_mac.set(cell, 0, 0).expect("NEIGHBOR_LIMIT");
        }
    }

    /// Zeros the limits that the test's interface has in common.
    pub fn refill_events(&mut self) {
        self.refill_interface(interface_cell(LOOPBACK));
    }

    fn refill_interface(&mut self, cell: u32) {
        let rested = InterfaceLimits::default();
        self.per_interface
            .set(cell, rested, 0)
            .expect("INTERFACE_LIMITS");
    }

    /// Forgets every neighbour that was told of.
    pub fn forget_seen(&mut self) {
        for cell in 0..SEEN_CELLS {
            self.seen.set(cell, 0, 0).expect("SEEN");
        }
    }

    /// What was told since the last call.
    pub fn events(&mut self) -> Vec<NeighborEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<NeighborEvent>());
            // SAFETY: as many octets as the type has, which is made of integers.
            events.push(unsafe { item.as_ptr().cast::<NeighborEvent>().read_unaligned() });
        }
        events
    }
}

/// Key of an address on the interface of the test runs.
pub fn key(addr: impl Into<IpAddr>, vlan: u16) -> NeighborKey {
    let addr = addr.into();
    NeighborKey {
        addr: addr_words(addr),
        ifindex: LOOPBACK,
        vlan,
        family: if addr.is_ipv4() { 4 } else { 6 },
    }
}

/// A limit of `burst` frames and no more for an hour.
pub fn only(burst: u64) -> Limit {
    Limit {
        interval_ns: HOUR,
        tolerance_ns: HOUR * (burst - 1),
    }
}

impl Lab {
    /// What the data path remembers of the host's request for an address.
    pub fn asked(&self, addr: impl Into<IpAddr>) -> Asked {
        let cell = asked_cell(&addr_words(addr.into()), self.settings.hash_seed);
        self.neighbors.asked.get(&cell, 0).expect("ASKED")
    }

    /// Has a request of the host look as if it was sent at a time.
    pub fn set_asked(&mut self, addr: impl Into<IpAddr>, asked: Asked) {
        let cell = asked_cell(&addr_words(addr.into()), self.settings.hash_seed);
        self.neighbors.asked.set(cell, asked, 0).expect("ASKED");
    }

    /// Wants a frame dropped for a reason; only counted in the guard's own observe mode, and in that of all; of no
    /// concern while the guard is off; and dropped again.
    #[track_caller]
    pub fn expect_dropped(&mut self, guard: Guard, what: &str, frame: &[u8], reason: Reason) {
        self.expect(what, frame, reason);
        self.neighbors.set_flag(guard.enforces(), false);
        self.expect_observed(&format!("{what}, guard observes"), frame, reason);
        self.neighbors.set_flag(guard.enforces(), true);
        self.set_flag(Settings::OBSERVE, true);
        self.expect_observed(&format!("{what}, all observe"), frame, reason);
        self.set_flag(Settings::OBSERVE, false);
        self.neighbors.set_flag(guard.on(), false);
        self.expect(&format!("{what}, off"), frame, Reason::NoRule);
        self.neighbors.set_flag(guard.on(), true);
        self.expect(&format!("{what}, again"), frame, reason);
    }

    /// Wants a frame to pass, counted under what would have dropped it.
    #[track_caller]
    pub fn expect_observed(&mut self, what: &str, frame: &[u8], reason: Reason) {
        let ran = self.run(frame);
        assert_eq!((ran.reason, ran.observed), (reason, true), "{what}");
    }
}
