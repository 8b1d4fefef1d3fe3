//! Every map: key, size, what happens when it is full, who writes. Names are the ABI; the values are
//! in `net_common::abi`.

use aya_ebpf::{
    btf_maps::{Array as InnerArray, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use net_common::{
    abi::{
        ASKED_CELLS, AddrWords, AddressKey, AddressRole, Asked, Binding, CANDIDATE_CELLS, CLASSES,
        ClassLimits, ClassState, CookieKeys, FlowKey, FlowStats, GENERATIONS, GuardSettings,
        HitLog, INTERFACE_CELLS, InterfaceLimits, LIMIT_CELLS as LIMIT_CELL_ENTRIES,
        LIST_TABLES as LIST_TABLE_ENTRIES, ListTable, Listener, ListenerKey, ListenerStats,
        MAX_ADDRESSES, MAX_BINDINGS, MAX_LISTENER_KEYS, MAX_LISTENERS, MAX_WATCHED, NEIGHBOR_CELLS,
        NEWCOMER_CELLS, NeighborKey, NeighborSettings, PortState, SEEN_CELLS, SKETCH_CELLS,
        SOCKET_FILTER_BLOCKS, SOURCE_SETS, SOURCE_WAYS, SYN_ACK_CELLS, Settings, SourceSet,
        SourceState, SynLog, WatchKey, Watched,
    },
    guard::{ip::OPTIONS_SPACE, ndp},
    lists::{compact, general},
    tcp_options::{Options, SPACE},
    verdict::{COUNTERS as COUNTER_ENTRIES, Reason},
};

use crate::{
    ip::FIB_WORDS,
    lists::MMAPABLE,
    recent::{RECENT_ENTRIES, Recent},
};

/// Version of `net_common::abi` that this object was built with; read by the agent before the load.
#[unsafe(no_mangle)]
static ABI: u32 = net_common::abi::ABI_VERSION;

/// One value: which of two generations of the policy is in force, see `policy.rs`. Written by the agent, in one store.
#[map]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

/// One value: the generation that the program that runs has chosen.
#[map]
pub static CHOSEN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// One value a generation. Written by the agent. A miss cannot happen; if it did, everything passes.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(GENERATIONS, 0);

/// One value: the seed of all hashes ([`Settings::hash_seed`]), kept for the agent that comes after in a map of its own, so
/// that a change of the settings' layout does not make worthless what was counted by it.
#[map]
pub static SEED: Array<u64> = Array::with_max_entries(1, 0);

/// One value, secret. Written by the agent: the idle slot first, then the flip.
#[map]
pub static COOKIE_KEYS: Array<CookieKeys> = Array::with_max_entries(1, 0);

/// Fit listeners by own address, port and interface. Written by the agent, which reports when it is
/// full; preallocated, never evicts. A miss passes: nothing is known of that listener.
#[map]
pub static LISTENERS: HashMap<ListenerKey, Listener> =
    HashMap::with_max_entries(MAX_LISTENER_KEYS, 0);

/// State by local port. Written by the data path (CAS on the budget, plain store on the epoch).
#[map]
pub static PORTS: Array<PortState> = Array::with_max_entries(65_536, 0);

/// One value: the highest [`PortState::last_epoch`] of all ports. Lets TC return at once in peace.
#[map]
pub static ACTIVITY: Array<u32> = Array::with_max_entries(1, 0);

/// Theoretical arrival times of SYN-ACKs, by hash of the destination prefix. Written by the data path.
#[map]
pub static SYN_ACK_LIMIT: Array<u64> = Array::with_max_entries(SYN_ACK_CELLS, 0);

/// Two halves of [`SOCKET_FILTER_BLOCKS`]: sources that may hold a socket here. Bits set by the data
/// path, the tracepoint and the agent; the agent clears the half that is not read and flips.
#[map]
pub static SOCKET_FILTER: Array<u64> = Array::with_max_entries(SOCKET_FILTER_BLOCKS * 2, 0);

/// Packets by reason, enforced and observed. Written by the data path.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_ENTRIES, 0);

/// Packets by listener slot. Written by the data path.
#[map]
pub static LISTENER_STATS: PerCpuArray<ListenerStats> =
    PerCpuArray::with_max_entries(MAX_LISTENERS, 0);

/// Slots of listeners by bound address, port and family. Written by the agent, which reports when it is full;
/// preallocated, never evicts. The connections of a listener that is missing are counted for none.
#[map]
pub static FLOW_SLOTS: HashMap<FlowKey, u32> = HashMap::with_max_entries(MAX_LISTENERS, 0);

/// Connections by listener slot, all CPUs together. Written by the tracepoints; the agent zeroes a slot before another
/// listener has it.
#[map]
pub static FLOWS: Array<FlowStats> = Array::with_max_entries(MAX_LISTENERS, 0);

/// Who sent SYNs, by listener slot, see `net_common::sketch`. Bits set by the data path; the agent reads and zeroes.
#[map]
pub static SKETCHES: Array<[u32; SKETCH_CELLS]> = Array::with_max_entries(MAX_LISTENERS, 0);

/// One value: the last SYNs to listeners. Written by the data path; the oldest are overwritten.
#[map]
pub static SYN_LOG: PerCpuArray<SynLog> = PerCpuArray::with_max_entries(1, 0);

/// Cookies proven lately, by acknowledgment number; one that is overwritten is forgotten, and what arrived in
/// one go with its ACK is lost. Written by the data path.
#[map]
pub static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(RECENT_ENTRIES, 0);

/// Listeners that come and go, for the agent. Full: the event is lost, the agent's polling finds it.
#[map]
pub static LISTENER_EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024, 0);

/// Own addresses and neighbours by address, interface and VLAN. Written by the agent (the limits' state inside by
/// the data path), which reports when it is full; preallocated, never evicts. A miss is a stranger.
#[map]
pub static BINDINGS: HashMap<NeighborKey, Binding> = HashMap::with_max_entries(MAX_BINDINGS, 0);

/// One value a generation. Written by the agent. Zero: the guards of ARP and NDP are off.
#[map]
pub static NEIGHBOR_SETTINGS: Array<NeighborSettings> = Array::with_max_entries(GENERATIONS, 0);

/// One value: when the agent was last seen alive, nanoseconds of the coarse monotonic clock.
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

/// What this host asked for, by hash of the address. Written at TC egress; colliding addresses share.
#[map]
pub static ASKED: Array<Asked> = Array::with_max_entries(ASKED_CELLS, 0);

/// Fingerprints of the neighbours told of last, by hash of the address; a collision forgets one, which is then told
/// of again. Written by the data path, as slowly as it may tell.
#[map]
pub static SEEN: Array<u64> = Array::with_max_entries(SEEN_CELLS, 0);

/// Who answered for protected neighbours from outside their sets, by hash of both: fingerprint and time. Written by the
/// data path; one that is overwritten has answered for the first time again.
#[map]
pub static CANDIDATES: Array<u64> = Array::with_max_entries(CANDIDATE_CELLS, 0);

/// Theoretical arrival times by hash of the source link-layer address. Written by the data path.
#[map]
pub static NEIGHBOR_LIMIT: Array<u64> = Array::with_max_entries(NEIGHBOR_CELLS, 0);

/// Theoretical arrival times by interface. Written by the data path.
#[map]
pub static INTERFACE_LIMITS: Array<InterfaceLimits> = Array::with_max_entries(INTERFACE_CELLS, 0);

/// Claims and answers, for the agent. Full: the event is lost and counted.
#[map]
pub static NEIGHBOR_EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// One value: which generation of each list is read, see [`ListTable`]. Written by the agent, in one store.
#[map]
pub static LISTS: Array<u32> = Array::with_max_entries(1, 0);

/// What each generation of each list consists of. Written by the agent.
#[map]
pub static LIST_TABLES: Array<ListTable> = Array::with_max_entries(LIST_TABLE_ENTRIES, 0);

/// The compact tables of both generations of the blocklist. Put there by the agent when they are needed; without one
/// its entries are not found.
#[btf_map]
pub static LIST_COMPACT: ArrayOfMaps<InnerArray<u64, { compact::WORDS as usize }, MMAPABLE>, 2> =
    ArrayOfMaps::new();

/// The general pieces of each generation of each list, table × [`general::MAX_PIECES`] + piece; likewise. Never evict:
/// the agent reports when they are full.
#[btf_map]
pub static LIST_PIECES: ArrayOfMaps<
    InnerArray<u64, { general::WORDS as usize }, MMAPABLE>,
    { (LIST_TABLE_ENTRIES * general::MAX_PIECES) as usize },
> = ArrayOfMaps::new();

/// Whose packets were listed last, by list. Written by the data path; the oldest are overwritten.
#[map]
pub static LIST_HITS: PerCpuArray<HitLog> = PerCpuArray::with_max_entries(2, 0);

/// What addresses are to this namespace. Written by the agent, which reports when it is full; never evicts. A miss is an
/// address of somebody else.
#[map]
pub static ADDRESSES: HashMap<AddressKey, AddressRole> =
    HashMap::with_max_entries(MAX_ADDRESSES, 0);

/// One value a generation. Written by the agent. Zero: the guards of IP, ICMP, UDP and stray segments are off.
#[map]
pub static GUARD_SETTINGS: Array<GuardSettings> = Array::with_max_entries(GENERATIONS, 0);

/// What each class may send, generation × [`CLASSES`] + class. Written by the agent.
#[map]
pub static CLASS_LIMITS: Array<ClassLimits> = Array::with_max_entries(GENERATIONS * CLASSES, 0);

/// Theoretical arrival times of what a class has in common. Written by the data path.
#[map]
pub static CLASS_STATE: Array<ClassState> = Array::with_max_entries(CLASSES, 0);

/// Theoretical arrival times by hash of address, prefix or site: those of unseen sources, class by class, then those of
/// steady, then those of proven ones. Written by the data path; what collides shares.
#[map]
pub static LIMIT_CELLS: Array<u64> = Array::with_max_entries(LIMIT_CELL_ENTRIES * CLASSES * 3, 0);

/// Known sources, see `net_common::sources`. Written by the data path.
#[map]
pub static SOURCES: Array<SourceSet> = Array::with_max_entries(SOURCE_SETS, 0);

/// Connections of known sources, by place. Written by the data path, and by the agent, which counts them now and then.
#[map]
pub static SOURCE_STATE: Array<SourceState> =
    Array::with_max_entries(SOURCE_SETS * SOURCE_WAYS as u32, 0);

/// Sources that may become steady, and last the arrival time of all of them together. Written by the data path; who is
/// overwritten begins again.
#[map]
pub static NEWCOMERS: Array<u64> = Array::with_max_entries(NEWCOMER_CELLS + 1, 0);

/// Theoretical arrival time of segments without a socket, of those looked at in peace; and until when they are taken for
/// an attack. Written by the data path.
#[map]
pub static STRAYS: Array<u64> = Array::with_max_entries(2, 0);

/// Theoretical arrival times of events, by reason. Written by the data path.
#[map]
pub static EVENT_LIMITS: Array<u64> = Array::with_max_entries(Reason::COUNT, 0);

/// Some of the packets that are dropped, for the agent. Full: the event is lost and counted.
#[map]
pub static DROP_EVENTS: RingBuf = RingBuf::with_byte_size(512 * 1024, 0);

/// One value: until when somebody is watched at the latest, nanoseconds of the coarse monotonic clock; 0 for nobody. Written
/// by the agent; the data path puts 0 when the time is over. It is all that a packet pays for `WATCHED` in peace.
#[map]
pub static WATCHING: Array<u64> = Array::with_max_entries(1, 0);

/// Whose segments are told of one by one. Written by the agent, which refuses more; never evicts.
#[map]
pub static WATCHED: HashMap<WatchKey, Watched> = HashMap::with_max_entries(MAX_WATCHED, 0);

/// What became of them, for the agent. Full: the event is lost and counted.
#[map]
pub static WATCH_EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// One word that is 0 and that nobody writes; see `packet::forget_in`.
#[map]
pub static ZERO: Array<u32> = Array::with_max_entries(1, 0);

/// Working memory of the guards of ARP and NDP.
#[map]
pub static NEIGHBOR_SCRATCH: PerCpuArray<NeighborScratch> = PerCpuArray::with_max_entries(1, 0);

/// In a map for the reasons of [`Scratch`], and because the guards are several functions.
#[repr(C)]
pub struct NeighborScratch {
    /// The frame being judged.
    pub sighting: Sighting,
    /// What was read of the options of a message.
    pub options: ndp::Options,
    /// The message, from the ICMPv6 header on.
    pub space: [u8; ndp::SPACE],
}

/// A sane frame of ARP or NDP, as the bindings and the shares see it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sighting {
    /// The address that is claimed; without a claim only the interface and the VLAN count.
    pub key: NeighborKey,
    /// Where it is said to be.
    pub mac: u64,
    /// Ethernet source.
    pub source: u64,
    /// [`net_common::guard::neighbor::Form`] of the claim.
    pub form: u32,
    /// See `neighbor.rs`.
    pub flags: u32,
}

/// Working memory, a value each for XDP and TC, which may interrupt one another on a CPU.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);

/// In a map and not on the stack, because the verifier follows every value of a stack slot and forgets
/// a map's: what is stored here and read back has one state, whatever path led there.
#[repr(C)]
pub struct Scratch {
    /// Octets of TCP options as they stand in the packet.
    pub space: [u8; SPACE],
    /// What was read of them.
    pub options: Options,
    /// See `packet::forget`.
    pub word: u32,
    /// See `packet::forget_path`.
    pub offsets: [u32; 3],
    /// TCP segments that were no handshake's; see `stray.rs`.
    pub segments: u64,
    /// Whom a packet was for that an ICMP error quotes.
    pub quoted: AddrWords,
    /// A question about routes.
    pub fib: [u32; FIB_WORDS],
    /// Options of an IPv4 header.
    pub ip_options: [u8; OPTIONS_SPACE],
}
