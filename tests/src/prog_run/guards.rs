//! The maps of the guards of IP, ICMP, UDP and TCP without a socket, and what their tests want of a frame.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{BtfTracePoint, TestRun as _, TestRunOptions, Xdp},
};
use net_common::{
    abi::{
        AddressKey, AddressRole, CLASSES, Class, ClassLimits, ClassState, DropEvent, GENERATIONS,
        GuardSettings, LIMIT_CELLS, NEWCOMER_CELLS, OWN_WORDS, Settings, SourceSet, SourceState,
        Trial,
    },
    sources::{self, Tier},
    spread::{Span, limit_cell, own_place},
    units::{Version, addr_words},
    verdict::Reason,
};
use net_user::datapath::load::{self, SOCK_PROGRAM, XDP_PROGRAM};

use crate::frames::{SERVER_V4, SERVER_V6};

use super::{HOUR, LOOPBACK, Lab, ROOM, coarse_ns, neighbors::open};

/// One of the guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// IP headers, fragments and sources.
    Ip,
    /// ICMP and ICMPv6.
    Icmp,
    /// UDP.
    Udp,
    /// TCP segments without a socket, and connections of one source.
    Tcp,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ip, Self::Icmp, Self::Udp, Self::Tcp];

    /// The flag that switches it on.
    pub fn on(self) -> u32 {
        match self {
            Self::Ip => GuardSettings::IP,
            Self::Icmp => GuardSettings::ICMP,
            Self::Udp => GuardSettings::UDP,
            Self::Tcp => GuardSettings::TCP,
        }
    }

    /// The flag that carries its drops out.
    pub fn enforces(self) -> u32 {
        match self {
            Self::Ip => GuardSettings::IP_ENFORCE,
            Self::Icmp => GuardSettings::ICMP_ENFORCE,
            Self::Udp => GuardSettings::UDP_ENFORCE,
            Self::Tcp => GuardSettings::TCP_ENFORCE,
        }
    }
}

/// What the agent writes and reads of the guards, and what they keep for themselves.
pub struct Guards {
    settings: GuardSettings,
    map: Array<MapData, GuardSettings>,
    addresses: HashMap<MapData, AddressKey, AddressRole>,
    limits: Array<MapData, ClassLimits>,
    totals: Array<MapData, ClassState>,
    cells: Array<MapData, u64>,
    sources: Array<MapData, SourceSet>,
    states: Array<MapData, SourceState>,
    newcomers: Array<MapData, u64>,
    strays: Array<MapData, u64>,
    event_limits: Array<MapData, u64>,
    events: RingBuf<MapData>,
}

impl Guards {
    pub(super) fn open(ebpf: &Ebpf) -> Self {
        let mut guards = Self {
            settings: GuardSettings::default(),
            map: open(ebpf, "GUARD_SETTINGS"),
            addresses: open(ebpf, "ADDRESSES"),
            limits: open(ebpf, "CLASS_LIMITS"),
            totals: open(ebpf, "CLASS_STATE"),
            cells: open(ebpf, "LIMIT_CELLS"),
            sources: open(ebpf, "SOURCES"),
            states: open(ebpf, "SOURCE_STATE"),
            newcomers: open(ebpf, "NEWCOMERS"),
            strays: open(ebpf, "STRAYS"),
            event_limits: open(ebpf, "EVENT_LIMITS"),
            events: open(ebpf, "DROP_EVENTS"),
        };
        guards.remember_newcomers(coarse_ns() + HOUR);
        guards
    }

    /// Changes the guards' settings.
    pub fn set(&mut self, change: impl FnOnce(&mut GuardSettings)) {
        change(&mut self.settings);
        for generation in 0..GENERATIONS {
            let written = self.map.set(generation, self.settings, 0);
            written.expect("GUARD_SETTINGS");
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

    /// Changes what a class may send.
    pub fn limit(&mut self, class: Class, change: impl FnOnce(&mut ClassLimits)) {
        let mut limits = self.limits.get(&(class as u32), 0).expect("CLASS_LIMITS");
        change(&mut limits);
        for generation in 0..GENERATIONS {
            let at = generation * CLASSES + class as u32;
            self.limits.set(at, limits, 0).expect("CLASS_LIMITS");
        }
    }

    /// Takes all limits of a class away, and rests what it has in common.
    pub fn unlimit(&mut self, class: Class) {
        self.limit(class, |limits| *limits = ClassLimits::default());
        self.rest_totals(class);
    }

    /// Rests what a class has in common.
    pub fn rest_totals(&mut self, class: Class) {
        self.totals
            .set(class as u32, ClassState::default(), 0)
            .expect("CLASS_STATE");
    }

    /// From when on newcomers are remembered; they are not unless a test asks for it: on a slow machine a source would be steady
    /// from one frame to the next, with limits that nobody has spent.
    pub fn remember_newcomers(&mut self, from_ns: u64) {
        self.newcomers
            .set(NEWCOMER_CELLS, from_ns, 0)
            .expect("NEWCOMERS");
    }

    /// Until when segments without a socket are taken for an attack; 0 in peace.
    pub fn attacked_until(&self) -> u64 {
        self.strays.get(&1, 0).expect("STRAYS")
    }

    /// Has an attack of segments without a socket look as if it lasted until a time, and its limit rested.
    pub fn set_attacked_until(&mut self, time_ns: u64) {
        self.strays.set(0, 0, 0).expect("STRAYS");
        self.strays.set(1, time_ns, 0).expect("STRAYS");
    }

    /// Rests the limit of a reason's events.
    pub fn rest_events(&mut self, reason: Reason) {
        self.event_limits
            .set(reason as u32, 0, 0)
            .expect("EVENT_LIMITS");
    }

    /// What was told since the last call.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<DropEvent>());
            // SAFETY: as many octets as the type has, which is made of integers.
            events.push(unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() });
        }
        events
    }
}

fn version(addr: IpAddr) -> Version {
    if addr.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    }
}

/// A moment of the table of sources.
pub fn now_s() -> u32 {
    sources::seconds(coarse_ns())
}

impl Lab {
    /// All guards on and enforcing, no limit, and the host's own addresses known.
    pub fn enforce_guards(&mut self) {
        for own in [SERVER_V4.into(), SERVER_V6.into()] as [IpAddr; 2] {
            self.set_role(own, AddressRole::OWN);
        }
        self.guards.set(|s| {
            s.flags = Guard::ALL.iter().fold(GuardSettings::STRAYS, |flags, g| {
                flags | g.on() | g.enforces()
            });
        });
    }

    /// Writes what an address is; an own one enters the filter too.
    pub fn set_role(&mut self, addr: impl Into<IpAddr>, flags: u32) {
        let addr = addr.into();
        let key = AddressKey {
            addr: addr_words(addr),
            family: if addr.is_ipv4() { 4 } else { 6 },
        };
        let role = AddressRole { flags };
        self.guards
            .addresses
            .insert(key, role, 0)
            .expect("ADDRESSES");
        if flags & AddressRole::OWN != 0 {
            let (word, bits) = own_place(&key.addr, self.settings.hash_seed);
            self.guards.set(|s| s.own[word] |= bits);
        }
    }

    /// Has the filter of own addresses hold every address.
    pub fn fill_own_filter(&mut self) {
        self.guards.set(|s| s.own = [u64::MAX; OWN_WORDS]);
    }

    fn source(&self, addr: IpAddr) -> sources::Key {
        let seed = self.settings.hash_seed;
        sources::key(version(addr), &addr_words(addr), seed)
    }

    /// The way that a source has in its set, and what stands there.
    fn place(&self, addr: IpAddr) -> Option<(usize, u64)> {
        let key = self.source(addr);
        let set = self.guards.sources.get(&key.set, 0).expect("SOURCES");
        let mut places = set.places.into_iter().enumerate();
        places.find(|(_, place)| sources::is_of(*place, key.print))
    }

    /// What is known of a source.
    pub fn tier(&self, addr: impl Into<IpAddr>) -> Tier {
        self.place(addr.into())
            .map_or(Tier::Unseen, |(_, place)| sources::tier(place, now_s()))
    }

    /// When a source was seen last, seconds.
    pub fn seen_s(&self, addr: impl Into<IpAddr>) -> Option<u32> {
        self.place(addr.into()).map(|(_, place)| place as u32)
    }

    /// Gives a source a place, as if it was seen last some seconds ago.
    pub fn set_tier(&mut self, addr: impl Into<IpAddr>, tier: Tier, age_s: u32) {
        let addr = addr.into();
        let key = self.source(addr);
        let mut set = self.guards.sources.get(&key.set, 0).expect("SOURCES");
        let free = set.places.iter().position(|place| *place == 0);
        let way = self.place(addr).map(|(way, _)| way).or(free);
        set.places[way.expect("room in the set")] =
            sources::place(key.print, tier, now_s() - age_s);
        self.guards.sources.set(key.set, set, 0).expect("SOURCES");
    }

    /// Fills a source's set with others, seen just now.
    pub fn crowd(&mut self, addr: impl Into<IpAddr>, tier: Tier) {
        let key = self.source(addr.into());
        let mut set = SourceSet::default();
        for (way, place) in set.places.iter_mut().enumerate() {
            *place = sources::place(key.print ^ (way as u32 + 1) << 8, tier, now_s());
        }
        self.guards.sources.set(key.set, set, 0).expect("SOURCES");
    }

    /// Empties a source's set and forgets it as a newcomer.
    pub fn forget_source(&mut self, addr: impl Into<IpAddr>) {
        let key = self.source(addr.into());
        let none = SourceSet::default();
        self.guards.sources.set(key.set, none, 0).expect("SOURCES");
        let cell = key.newcomer_cell();
        self.guards.newcomers.set(cell, 0, 0).expect("NEWCOMERS");
    }

    /// Has a newcomer look as if it passed the pool for the first time some seconds ago.
    pub fn set_newcomer(&mut self, addr: impl Into<IpAddr>, age_s: u32) {
        let key = self.source(addr.into());
        let cell = u64::from(key.print) << 32 | u64::from(now_s() - age_s);
        self.guards
            .newcomers
            .set(key.newcomer_cell(), cell, 0)
            .expect("NEWCOMERS");
    }

    /// The connections of a source that has a place.
    pub fn connections(&self, addr: impl Into<IpAddr>) -> Option<SourceState> {
        let addr = addr.into();
        let (way, _) = self.place(addr)?;
        let index = sources::state_index(self.source(addr).set, way as u32);
        Some(self.guards.states.get(&index, 0).expect("SOURCE_STATE"))
    }

    /// Writes the connections of a source that has a place.
    pub fn set_connections(&mut self, addr: impl Into<IpAddr>, state: SourceState) {
        let addr = addr.into();
        let (way, _) = self.place(addr).expect("a known source");
        let index = sources::state_index(self.source(addr).set, way as u32);
        self.guards
            .states
            .set(index, state, 0)
            .expect("SOURCE_STATE");
    }

    /// Rests every limit of a class and a source.
    pub fn rest(&mut self, class: Class, addr: impl Into<IpAddr>) {
        let addr = addr.into();
        let seed = self.settings.hash_seed;
        for span in [Span::Host, Span::Prefix, Span::Site] {
            let cell = limit_cell(class as u32, span, version(addr), &addr_words(addr), seed);
            for total in 0..3 {
                let region = (total * CLASSES + class as u32) * LIMIT_CELLS;
                self.guards
                    .cells
                    .set(region + cell, 0, 0)
                    .expect("LIMIT_CELLS");
            }
        }
        self.guards.rest_totals(class);
    }

    /// Attaches the tracepoint of sockets, for connections that are really made.
    pub fn attach_sock(&mut self) {
        let sock: &mut BtfTracePoint =
            load::program(&mut self.ebpf, SOCK_PROGRAM).expect("the tracepoint's program");
        sock.attach().expect("the tracepoint");
    }

    /// Wants a frame dropped for a reason; only counted in the guard's own observe mode, and in that of all; passed
    /// for another reason while the guard is off; and dropped again.
    #[track_caller]
    pub fn expect_guarded(
        &mut self,
        guard: Guard,
        what: &str,
        frame: &[u8],
        reason: Reason,
        off: Reason,
    ) {
        self.expect(what, frame, reason);
        self.guards.set_flag(guard.enforces(), false);
        self.expect_observed(&format!("{what}, guard observes"), frame, reason);
        self.guards.set_flag(guard.enforces(), true);
        self.set_flag(Settings::OBSERVE, true);
        self.expect_observed(&format!("{what}, all observe"), frame, reason);
        self.set_flag(Settings::OBSERVE, false);
        self.guards.set_flag(guard.on(), false);
        self.expect(&format!("{what}, off"), frame, off);
        self.guards.set_flag(guard.on(), true);
        self.expect(&format!("{what}, again"), frame, reason);
    }

    /// Runs a frame with metadata in front of it. Returns XDP's code and the metadata afterwards; wants the frame left
    /// as it was.
    pub fn run_trial(&mut self, frame: &[u8], trial: Trial) -> (u32, Trial) {
        let size = size_of::<Trial>();
        let context = [size as u32, (size + frame.len()) as u32, 0, LOOPBACK, 0, 0]
            .map(u32::to_ne_bytes)
            .concat();
        let words = [trial.secret, trial.outcome].map(u64::to_ne_bytes).concat();
        let input = [&words, frame].concat();
        let mut out = vec![0; ROOM];
        let xdp: &mut Xdp = load::program(&mut self.ebpf, XDP_PROGRAM).expect("the XDP program");
        let result = xdp
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..Default::default()
            })
            .expect("a test run with metadata");
        out.truncate(result.data_size_out as usize);
        assert_eq!(&out[size..], frame, "the frame is left alone");
        let word = |at: usize| {
            let octets = out[at..at + 8].try_into().expect("eight octets");
            u64::from_ne_bytes(octets)
        };
        let after = Trial {
            secret: word(0),
            outcome: word(8),
        };
        (result.return_value, after)
    }

    /// Every counter, enforced and observed.
    pub fn counters(&self) -> Vec<u64> {
        self.maps.counters().expect("COUNTERS")
    }
}
