//! Every map: key, size, what happens when it is full, who writes. Names are the ABI; the values are
//! in `net_common::abi`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use net_common::{
    abi::{
        CookieKeys, Listener, ListenerKey, ListenerStats, MAX_LISTENER_KEYS, MAX_LISTENERS,
        PortState, SOCKET_FILTER_BLOCKS, SYN_ACK_CELLS, Settings,
    },
    tcp_options::{Options, SPACE},
    verdict::COUNTERS as COUNTER_ENTRIES,
};

use crate::recent::{RECENT_ENTRIES, Recent};

/// Version of `net_common::abi` that this object was built with; read by the agent before the load.
#[unsafe(no_mangle)]
static ABI: u32 = net_common::abi::ABI_VERSION;

/// One value. Written by the agent. A miss cannot happen; if it did, everything passes.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

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

/// Cookies proven lately, by acknowledgment number; one that is overwritten is forgotten, and what arrived in
/// one go with its ACK is lost. Written by the data path.
#[map]
pub static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(RECENT_ENTRIES, 0);

/// Listeners that come and go, for the agent. Full: the event is lost, the agent's polling finds it.
#[map]
pub static LISTENER_EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024, 0);

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
}
