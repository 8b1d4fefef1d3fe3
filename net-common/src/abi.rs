//! Keys and values of the maps that the agent and the programs share.
//!
//! Every type is `repr(C)`, free of implicit padding (asserted below) and made of plain integers, so
//! that its bytes mean the same on both sides. A change to any of them raises [`ABI_VERSION`].

pub mod layout;

/// Version of everything in this module. The object carries it in the global `ABI`; the agent refuses
/// to work with an object or a map of another version.
pub const ABI_VERSION: u32 = 6;

/// Upper bound of listeners with statistics of their own ([`Listener::slot`] is below it).
pub const MAX_LISTENERS: u32 = 4096;
/// Entries of the `LISTENERS` map: listeners × own addresses × interfaces.
pub const MAX_LISTENER_KEYS: u32 = 65_536;
/// Cells of the SYN-ACK limit, a power of two; 128 KiB, so that they stay in an L2 cache.
pub const SYN_ACK_CELLS: u32 = 16_384;
/// 64-bit blocks of the filter of sources that may hold a socket; a power of two, 64 KiB.
pub const SOCKET_FILTER_BLOCKS: u32 = 8_192;
/// Entries of the `BINDINGS` map: own addresses, pinned and learned neighbours.
pub const MAX_BINDINGS: u32 = 16_384;
/// Link-layer addresses that one binding may have.
pub const BINDING_MACS: usize = 8;
/// Cells of the limits per link-layer address, a power of two; 128 KiB.
pub const NEIGHBOR_CELLS: u32 = 16_384;
/// Cells of what was asked for, a power of two; 64 KiB.
pub const ASKED_CELLS: u32 = 4_096;
/// Cells of the link-layer addresses that answered for a protected neighbour from outside its set, a power of two;
/// 512 KiB.
pub const CANDIDATE_CELLS: u32 = 65_536;
/// Cells of the neighbours seen before, a power of two; 256 KiB.
pub const SEEN_CELLS: u32 = 32_768;
/// Cells of the limits per interface, a power of two. Interfaces whose indices agree in the low bits share.
pub const INTERFACE_CELLS: u32 = 256;
/// How long a request that left this host makes an answer solicited (R-ARP-8), nanoseconds.
pub const ASKED_NS: u64 = 3_000_000_000;
/// Age of the agent's heartbeat beyond which learned bindings are only observed, nanoseconds.
pub const STALE_NS: u64 = 5_000_000_000;
/// Octets of a frame that an event carries.
pub const EVENT_FRAME: usize = 128;

/// An IP address as four words in network byte order, exactly as they stand in a packet. IPv4 uses the
/// first word and leaves the others 0; the family stands beside it wherever both can occur.
pub type AddrWords = [u32; 4];

/// Key of `LISTENERS`: an own address and port as seen on one attached interface. Wildcard listeners
/// are expanded by the agent, so one look-up answers both "is this address ours" (R-GEN-1) and "does a
/// fit listener wait here" (R-SYN-8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// The local address.
    pub addr: AddrWords,
    /// The attached interface on which the packet arrives.
    pub ifindex: u32,
    /// The local port, host byte order.
    pub port: u16,
    /// 4 or 6.
    pub family: u16,
}

/// Value of `LISTENERS`: how SYNs to this address and port are handled. Absent means: pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// GCRA emission interval of plain handshakes, nanoseconds; unused with [`Listener::ALWAYS`].
    pub interval_ns: u64,
    /// GCRA tolerance (burst), nanoseconds.
    pub tolerance_ns: u64,
    /// Index into `LISTENER_STATS`, below [`MAX_LISTENERS`].
    pub slot: u32,
    /// The flags below.
    pub flags: u32,
    /// First four octets of the link-layer address that this address is reached at, as they stand in a
    /// frame. A frame for another one is not for us, whatever its IP address (LVS, VRRP, a flooding switch).
    pub mac_front: u32,
    /// MSS to advertise, octets: what the link's MTU allows (no interface tells a listener's TCP_MAXSEG).
    pub mss: u16,
    /// Window to advertise in the SYN-ACK, octets, unscaled (RFC 7323 section 2.2).
    pub window: u16,
    /// Last two octets of the link-layer address.
    pub mac_back: u16,
    /// Window scale to advertise, 0 to 14.
    pub wscale: u8,
    /// TTL or hop limit of the SYN-ACK.
    pub hop_limit: u8,
    /// Zero.
    pub reserved: u32,
}

impl Listener {
    /// A link-layer address as [`Listener::mac_front`] and [`Listener::mac_back`].
    pub const fn split_mac(mac: [u8; 6]) -> (u32, u16) {
        let [a, b, c, d, e, f] = mac;
        (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
    }

    /// Mode `always`: no SYN goes to the kernel untouched.
    pub const ALWAYS: u32 = 1;
    /// The accept queue is full: no cookie may be sent (R-SYN-14).
    pub const ACCEPT_FULL: u32 = 1 << 1;
    /// `net.ipv4.tcp_timestamps` allows timestamps. Without them a cookie carries the MSS alone.
    pub const TIMESTAMPS: u32 = 1 << 2;
    /// `net.ipv4.tcp_sack` is on.
    pub const SACK: u32 = 1 << 3;
    /// `net.ipv4.tcp_window_scaling` is on.
    pub const WINDOW_SCALING: u32 = 1 << 4;
    /// `net.ipv4.tcp_ecn` lets the host accept ECN.
    pub const ECN: u32 = 1 << 5;
}

/// Value of `PORTS`, an array indexed by port: what the data path remembers of a listening port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// Theoretical arrival time of the budget of plain handshakes (GCRA), nanoseconds of the kernel's
    /// coarse monotonic clock.
    pub tat_ns: u64,
    /// Cookie epoch in which the last cookie was sent, plus one; 0 for never. While it is recent, ACKs
    /// to this port are checked.
    pub last_epoch: u32,
    /// When a socket of this namespace last began or ceased to listen on the port, [`crate::sources::seconds`] of the
    /// kernel's monotonic clock; 0 for never. Written by the tracepoint.
    pub changed_s: u32,
}

/// Generations of the policy: one is in force, the other written meanwhile.
pub const GENERATIONS: u32 = 2;

/// Value of `SETTINGS`, one a generation, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// GCRA emission interval of SYN-ACKs to one destination prefix (/24, /64), nanoseconds.
    pub syn_ack_interval_ns: u64,
    /// GCRA tolerance of the same, nanoseconds.
    pub syn_ack_tolerance_ns: u64,
    /// Seed of the hashes that spread prefixes and sources over cells; random at each start, so that
    /// collisions cannot be chosen.
    pub hash_seed: u64,
    /// The flags below.
    pub flags: u32,
    /// Which half of `SOCKET_FILTER` is read, 0 or 1. Both are written.
    pub filter_half: u32,
    /// From when on everything is only observed, nanoseconds of the kernel's coarse monotonic clock; 0 for never. So a
    /// change that is to be confirmed loses its force on time also without an agent.
    pub tentative_until_ns: u64,
}

impl Settings {
    /// Observe mode: what would be dropped or answered passes, and is counted as such.
    pub const OBSERVE: u32 = 1;
    /// Draining before a detach: no new cookie is sent, pending ones are still honoured.
    pub const DRAIN: u32 = 1 << 1;
    /// The filter holds every source with a socket here, so a miss needs no socket look-up (R-SYN-8).
    pub const FILTER_COMPLETE: u32 = 1 << 2;
}

/// The one value of `COOKIE_KEYS`: two 128-bit SipHash keys and which of them makes new cookies. Both
/// are accepted (R-SYN-12). Secret: excluded from every dump.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CookieKeys {
    /// Keys as two little-endian words each.
    pub keys: [[u64; 2]; 2],
    /// Index of the key in use, 0 or 1.
    pub current: u32,
    /// Number of keys that are valid: 1 until the first rotation, then 2.
    pub valid: u32,
    /// Since when the current key is in use, nanoseconds of the kernel's monotonic clock, for the agent that comes after.
    pub since_ns: u64,
}

impl core::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "CookieKeys {{ keys: <secret>, current: {}, valid: {} }}",
            self.current, self.valid
        )
    }
}

/// Value of `LISTENER_STATS` (per CPU), indexed by [`Listener::slot`]. Packets, counted from the load.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerStats {
    /// SYNs to it that the rules of lists, sources and sanity let by, whatever became of them, in observe mode too.
    pub syns: u64,
    /// SYNs left to the kernel inside the budget.
    pub syns_passed: u64,
    /// SYN cookies sent.
    pub cookies_sent: u64,
    /// ACKs that proved a cookie at XDP.
    pub cookies_proven: u64,
    /// ACKs to the listener that proved neither our cookie nor the kernel's.
    pub cookies_failed: u64,
    /// Proven ACKs that the TC program turned into a request socket.
    pub handshakes: u64,
    /// Proven ACKs for which the kernel refused the request socket.
    pub handshakes_refused: u64,
    /// SYNs not answered because the accept queue was full.
    pub accept_full: u64,
    /// SYNs not answered because their prefix had its share of SYN-ACKs.
    pub syn_ack_limited: u64,
}

/// Key of `FLOW_SLOTS`: a listener as its connections know it. A connection's own address is looked for first, then the
/// unspecified one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Bound address, as it stands in a packet; IPv4 in the first word. Zero for a wildcard listener. A dual-stack socket's
    /// IPv4 address is IPv4-mapped.
    pub addr: AddrWords,
    /// Bound port, host byte order.
    pub port: u16,
    /// Family of the *socket*, 4 or 6, which its connections inherit.
    pub family: u16,
}

/// Buckets of [`FlowStats::handshake`].
pub const HANDSHAKE_BUCKETS: usize = 24;

/// Value of `FLOWS`, indexed by slot as [`ListenerStats`] is: connections of one listener, from the tracepoints, counted
/// from the load by whatever CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Connections that peers completed.
    pub established: u64,
    /// Of these, whose SYN-ACK had been sent more than once; they are not in `handshake`.
    pub late: u64,
    /// Connections that ended in order: both ends had sent their FIN, or the kernel waits for the peer's without a socket.
    pub closed: u64,
    /// Connections that ended otherwise: reset by either end, or timed out.
    pub reset: u64,
    /// Resets received from peers of complete connections.
    pub resets_received: u64,
    /// SYN-ACKs that the kernel sent again.
    pub syn_ack_retransmits: u64,
    /// Handshakes without a cookie by the time from SYN-ACK to ACK: bucket n holds those below 2^(n+1) microseconds that are
    /// not in the one before, the last one all that took longer.
    pub handshake: [u64; HANDSHAKE_BUCKETS],
}

impl FlowStats {
    /// Bucket of [`FlowStats::handshake`] for a time in microseconds, below [`HANDSHAKE_BUCKETS`].
    #[inline(always)]
    pub fn bucket(mut us: u32) -> u32 {
        // The binary logarithm, without an instruction that counts zeros.
        let mut bucket = 0;
        for half in [16, 8, 4, 2, 1] {
            if us >> half != 0 {
                us >>= half;
                bucket += half;
            }
        }
        bucket.min(HANDSHAKE_BUCKETS as u32 - 1)
    }
}

/// Words of a sketch of sources; see [`crate::sketch`].
pub const SKETCH_CELLS: usize = 128;
/// Sources that a [`SynLog`] keeps; a power of two.
pub const SYN_LOG: usize = 1024;

/// Value of `SYN_LOG` (per CPU): who sent the last SYNs to protected listeners. Under a flood it is a sample.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynLog {
    /// SYNs so far; the next one's goes to this place, modulo [`SYN_LOG`].
    pub count: u64,
    /// Sources and the slots of their listeners.
    pub entries: [SynLogEntry; SYN_LOG],
}

/// One of its entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynLogEntry {
    /// The source as it stands in the packet; IPv4 in the first word.
    pub addr: AddrWords,
    /// [`Listener::slot`].
    pub slot: u32,
    /// IP version, 4 or 6; 0 for a place that was never written.
    pub version: u32,
}

/// What the tracepoint program tells the agent through the ring buffer `LISTENER_EVENTS`: a socket
/// started or stopped listening, in whatever network namespace. A wake-up, not a source of truth: the
/// agent dumps sock_diag on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerEvent {
    /// Local port, host byte order.
    pub port: u16,
    /// 1 when it started to listen, 0 when it stopped.
    pub listening: u16,
}

/// Value of the global `SOCK_OFFSETS`: octets from the start of a socket in the running kernel, of `struct sock_common`
/// where no other is named.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockOffsets {
    /// `skc_daddr`, the peer's IPv4 address.
    pub daddr: u32,
    /// `skc_num`, the local port in host byte order.
    pub num: u32,
    /// `skc_family`.
    pub family: u32,
    /// `skc_v6_daddr`, the peer's IPv6 address.
    pub v6_daddr: u32,
    /// `skc_net`, a pointer to the network namespace.
    pub net: u32,
    /// Octets from the start of `struct net` to the number of the namespace.
    pub net_inum: u32,
    /// The number of our own namespace.
    pub own_inum: u32,
    /// `skc_state`, one octet.
    pub state: u32,
    /// `sk_err` of `struct sock`.
    pub err: u32,
    /// `inet_sport` of `struct inet_sock`, the local port in network byte order; unlike `skc_num` it outlives the socket's
    /// hold on its port.
    pub sport: u32,
    /// `total_retrans` of `struct tcp_sock`.
    pub total_retrans: u32,
    /// `srtt_us` of `struct tcp_sock`.
    pub srtt: u32,
}

/// Key of `BINDINGS`: a neighbour's address as seen on one attached interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighborKey {
    /// The neighbour's address.
    pub addr: AddrWords,
    /// The attached interface.
    pub ifindex: u32,
    /// VLAN id of the (inner) 802.1Q tag in the frame, 0 without one.
    pub vlan: u16,
    /// 4 or 6.
    pub family: u16,
}

/// Value of `BINDINGS`: the link-layer addresses that an address may be at. The agent writes the whole of it,
/// the data path the times.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// [`crate::units::Mac`]s; 0 for an unused place.
    pub macs: [u64; BINDING_MACS],
    /// The flags below.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// GCRA of the share of frames that is reserved for this neighbour, nanoseconds.
    pub share_tat_ns: u64,
    /// GCRA of events: contradicting claims that nobody asked for.
    pub claim_tat_ns: u64,
    /// GCRA of events: contradicting claims that answer a request of ours. Apart from the others, so that
    /// who floods claims does not hide a new holder that answers.
    pub candidate_tat_ns: u64,
    /// GCRA of events: the same, from a link-layer address that answered before in the last 3 s. Random ones never do,
    /// so that who floods them does not hide a new holder that answers each request.
    pub steady_tat_ns: u64,
    /// GCRA of events: answers of the recorded holder. Apart from all claims: a lost answer would look like
    /// silence.
    pub answer_tat_ns: u64,
}

impl Binding {
    /// An address of our own; `macs` are ours.
    pub const OWN: u32 = 1;
    /// Claims are held to it. Without, its answers are only told to the agent, which is still learning.
    pub const PROTECTED: u32 = 1 << 1;
    /// Named by the operator: enforced even while the agent is stale.
    pub const PINNED: u32 = 1 << 2;
    /// May advertise itself as a router while the RA guard is on.
    pub const ROUTER: u32 = 1 << 3;
}

/// A rate as GCRA has it; nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Time between events at the rate.
    pub interval_ns: u64,
    /// The burst.
    pub tolerance_ns: u64,
}

/// Value of `NEIGHBOR_SETTINGS`, one a generation, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighborSettings {
    /// ARP and, apart from it, NDP frames of one source link-layer address that are for this host: a router that
    /// asks for all of its network uses up nothing.
    pub mac: Limit,
    /// ARP announcements of one source link-layer address (R-ARP-7).
    pub announce: Limit,
    /// Frames of neighbours seen before on one interface; answers to requests of ours, and what is not for this host,
    /// have as much again each.
    pub known: Limit,
    /// Frames of all others on one interface.
    pub unknown: Limit,
    /// Router advertisements on one interface, but for protected routers.
    pub router: Limit,
    /// Share reserved for each protected neighbour.
    pub share: Limit,
    /// The flags below.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

impl NeighborSettings {
    /// The ARP guard is on.
    pub const ARP: u32 = 1;
    /// Its drops are carried out, not only observed.
    pub const ARP_ENFORCE: u32 = 1 << 1;
    /// The NDP guard is on.
    pub const NDP: u32 = 1 << 2;
    /// Its drops are carried out, not only observed.
    pub const NDP_ENFORCE: u32 = 1 << 3;
    /// Only bindings with [`Binding::ROUTER`] may send router advertisements (RFC 7113).
    pub const RA_GUARD: u32 = 1 << 4;
    /// Drop ARP whose Ethernet source is not its sender (breaks VRRP, R-ARP-3).
    pub const ARP_SRC_MAC: u32 = 1 << 5;
    /// Drop ARP replies whose Ethernet destination is not their target.
    pub const ARP_DST_MAC: u32 = 1 << 6;
    /// Drop ARP with an unspecified, broadcast or multicast sender, or target of a reply.
    pub const ARP_IP: u32 = 1 << 7;
}

/// Value of `ASKED`: when this host last asked for an address; nanoseconds of the coarse monotonic clock, 0 for
/// never. Addresses that collide share, which passes more, never less.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// By any ARP request or neighbour solicitation.
    pub asked_ns: u64,
    /// By an ARP probe or for duplicate address detection: we want it for ourselves.
    pub probed_ns: u64,
}

/// Value of `INTERFACE_LIMITS`: theoretical arrival times (GCRA) of what one interface has in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceLimits {
    /// [`NeighborSettings::known`].
    pub known_tat_ns: u64,
    /// [`NeighborSettings::unknown`].
    pub unknown_tat_ns: u64,
    /// [`NeighborSettings::router`].
    pub router_tat_ns: u64,
    /// Events of neighbours not seen before.
    pub station_tat_ns: u64,
    /// Events of claims to own addresses.
    pub own_tat_ns: u64,
    /// Events of own probes and their answers.
    pub probe_tat_ns: u64,
    /// Events of routers that the RA guard refuses.
    pub rogue_tat_ns: u64,
    /// Requests and announcements that are not for this host; [`NeighborSettings::known`] is their rate too.
    pub others_tat_ns: u64,
    /// Answers to requests of ours; [`NeighborSettings::known`] is their rate too.
    pub asked_tat_ns: u64,
    /// Events of contradicting claims that nobody asked for, of all bindings together.
    pub claims_tat_ns: u64,
}

/// What the guards tell the agent through the ring buffer `NEIGHBOR_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborEvent {
    /// When, nanoseconds of the coarse monotonic clock.
    pub time_ns: u64,
    /// Claimed [`crate::units::Mac`]; 0 when the frame claims none that can be read.
    pub mac: u64,
    /// Ethernet source.
    pub source: u64,
    /// Which address, where.
    pub key: NeighborKey,
    /// [`crate::guard::neighbor::EventKind`].
    pub kind: u32,
    /// The flags below.
    pub flags: u32,
    /// [`crate::verdict::Reason`] of the frame.
    pub reason: u32,
    /// Octets of the frame in `frame`.
    pub len: u32,
    /// The frame from its Ethernet header on, cut off after [`EVENT_FRAME`] octets.
    pub frame: [u8; EVENT_FRAME],
}

impl NeighborEvent {
    /// Answers a request that this host sent in the last 3 s.
    pub const SOLICITED: u32 = 1;
    /// Gratuitous ARP, unsolicited neighbour advertisement, router advertisement.
    pub const ANNOUNCEMENT: u32 = 1 << 1;
    /// An ARP reply or neighbour advertisement.
    pub const REPLY: u32 = 1 << 2;
    /// The frame was dropped.
    pub const DROPPED: u32 = 1 << 3;
    /// The link-layer address answered for this address before, in the last 3 s.
    pub const STEADY: u32 = 1 << 4;
}

/// Number of the allowlist.
pub const ALLOW: u32 = 0;
/// Number of the blocklist.
pub const BLOCK: u32 = 1;
/// Entries of `LIST_TABLES`: two generations of each list, list × 2 + generation. One is read, the other built.
pub const LIST_TABLES: u32 = 4;
/// Different prefixes that a list may have.
pub const MAX_LIST_ENTRIES: u32 = 1 << 21;
/// Sources that a [`HitLog`] keeps.
pub const HITS: usize = 1024;

/// Value of `LIST_TABLES`: what a generation of a list consists of. Which generation is read stands in `LISTS`, two bits
/// a list: 0 for an empty list, or the generation plus one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListTable {
    /// Seed of its hashes, random: who does not know it cannot choose collisions.
    pub seed: u64,
    /// Lengths in its compact table: bit n for length n, [`crate::lists::compact::SHORT`] for all up to 24; 0 for none.
    pub compact: u64,
    /// Its general pieces in `LIST_PIECES`, a power of two.
    pub pieces: u32,
    /// Lengths of IPv4 entries in the pieces, longest first, then [`crate::lists::NO_LENGTH`].
    pub v4: [u8; 36],
    /// Lengths of entries that the compact table displaced into the pieces, likewise.
    pub v4_displaced: [u8; 12],
    /// Lengths of IPv6 entries, likewise.
    pub v6: [u8; 132],
}

impl Default for ListTable {
    fn default() -> Self {
        let none = crate::lists::NO_LENGTH;
        Self {
            seed: 0,
            compact: 0,
            pieces: 0,
            v4: [none; 36],
            v4_displaced: [none; 12],
            v6: [none; 132],
        }
    }
}

/// Value of `LIST_HITS` (per CPU), one a list: whose packets were listed last. The agent reads it now and then, and finds
/// the entries; under a flood it is a sample, and the reason's counter tells of how many.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitLog {
    /// Packets so far; the next one's source goes to this place, modulo [`HITS`].
    pub count: u64,
    /// Sources, both halves of an address in host byte order; IPv4 as an IPv4-mapped address.
    pub sources: [[u64; 2]; HITS],
}

/// Entries of the `ADDRESSES` map.
pub const MAX_ADDRESSES: u32 = 8_192;
/// Words of [`GuardSettings::own`].
pub const OWN_WORDS: usize = 8;
/// Cells of the limits per address and prefix, a power of two, for each class and each of the totals that
/// [`crate::sources::Tier::total`] names; 128 KiB each.
pub const LIMIT_CELLS: u32 = 16_384;
/// Sets of the table of sources, a power of two.
pub const SOURCE_SETS: u32 = 8_192;
/// Places in a set: one cache line.
pub const SOURCE_WAYS: usize = 8;
/// Cells of sources that may become steady, a power of two; 128 KiB.
pub const NEWCOMER_CELLS: u32 = 16_384;
/// Octets of a frame that a [`DropEvent`] carries.
pub const DROP_FRAME: usize = 256;

/// Key of `ADDRESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey {
    /// The address.
    pub addr: AddrWords,
    /// 4 or 6.
    pub family: u32,
}

/// Value of `ADDRESSES`: what an address is to this network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressRole {
    /// The flags below.
    pub flags: u32,
}

impl AddressRole {
    /// A unicast address of this namespace, on whatever interface.
    pub const OWN: u32 = 1;
    /// The broadcast address of a network of ours.
    pub const BROADCAST: u32 = 1 << 1;
    /// A configured resolver or time server: its answers are not limited (R-UDP-3).
    pub const SERVER: u32 = 1 << 2;
}

/// Value of `GUARD_SETTINGS`, one a generation, written by the agent: the guards of IP, ICMP, UDP and TCP without a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardSettings {
    /// Filter of own unicast addresses, see [`crate::spread::own_place`]: spares most sources a look-up.
    pub own: [u64; OWN_WORDS],
    /// What a frame's metadata begin with when it is one of the agent's own trials ([`Trial`]); random, 0 for none.
    pub trial: u64,
    /// Sampled drops, for each reason.
    pub events: Limit,
    /// Segments without a socket, of those that are looked at in peace (one in [`STRAY_SAMPLE`]); beyond it they are an
    /// attack, and each is looked at.
    pub strays: Limit,
    /// New connections of one source; an interval of 0 for no limit.
    pub connections: Limit,
    /// Open connections of one source; 0 for no limit.
    pub open_connections: u32,
    /// The flags below.
    pub flags: u32,
}

impl GuardSettings {
    /// The guard of IP headers, fragments and sources is on.
    pub const IP: u32 = 1;
    /// Its drops are carried out, not only observed.
    pub const IP_ENFORCE: u32 = 1 << 1;
    /// The guard of ICMP and ICMPv6 is on.
    pub const ICMP: u32 = 1 << 2;
    /// Its drops are carried out, not only observed.
    pub const ICMP_ENFORCE: u32 = 1 << 3;
    /// The guard of UDP is on.
    pub const UDP: u32 = 1 << 4;
    /// Its drops are carried out, not only observed.
    pub const UDP_ENFORCE: u32 = 1 << 5;
    /// The guard of TCP segments without a socket, and of connections per source, is on.
    pub const TCP: u32 = 1 << 6;
    /// Its drops are carried out, not only observed.
    pub const TCP_ENFORCE: u32 = 1 << 7;
    /// The kernel follows IPv4 redirects on some attached interface.
    pub const REDIRECTS: u32 = 1 << 8;
    /// Drop sources to which there is no route at all.
    pub const REVERSE_PATH_LOOSE: u32 = 1 << 9;
    /// Drop sources to which the route leads by another interface.
    pub const REVERSE_PATH_STRICT: u32 = 1 << 10;
    /// Some attached interface has `accept_local`: own addresses may come from outside.
    pub const ACCEPT_LOCAL: u32 = 1 << 11;
    /// Whatever is for an own address is for a socket here: no forwarding, no NAT. Without it, segments that have no
    /// socket are left alone.
    pub const STRAYS: u32 = 1 << 12;
}

/// In peace one TCP segment in so many is asked for its socket.
pub const STRAY_SAMPLE: u64 = 64;
/// How long an attack of segments without a socket is taken to last after the last sign of it, nanoseconds.
pub const STRAY_NS: u64 = 10_000_000_000;

/// What is limited per source; index of `CLASS_LIMITS` and `CLASS_STATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Class {
    /// ICMP echo request.
    EchoRequest,
    /// ICMP echo reply.
    EchoReply,
    /// IPv4 "fragmentation needed", ICMPv6 "packet too big".
    PathMtu,
    /// ICMP time exceeded.
    TimeExceeded,
    /// ICMP destination unreachable, parameter problem.
    Unreachable,
    /// IPv4 redirect.
    Redirect,
    /// ICMP timestamp, information and their kin; node information.
    Informational,
    /// ICMP of any other type.
    Other,
    /// IP fragments.
    Fragment,
    /// UDP from the port of a service that amplifies, to a socket of ours.
    Reflection,
    /// TCP segments without a socket while they are an attack.
    Stray,
    /// SYN-ACKs that nobody here asked for.
    StraySynAck,
}

impl Class {
    /// All classes, by number.
    pub const ALL: [Self; CLASSES as usize] = [
        Self::EchoRequest,
        Self::EchoReply,
        Self::PathMtu,
        Self::TimeExceeded,
        Self::Unreachable,
        Self::Redirect,
        Self::Informational,
        Self::Other,
        Self::Fragment,
        Self::Reflection,
        Self::Stray,
        Self::StraySynAck,
    ];
}

/// How many [`Class`]es there are.
pub const CLASSES: u32 = 12;

/// Value of `CLASS_LIMITS`: what a class may send to this host. An interval of 0 is no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLimits {
    /// One address.
    pub host: Limit,
    /// One /24 or /64.
    pub prefix: Limit,
    /// One /48 of IPv6.
    pub site: Limit,
    /// All sources not seen before together.
    pub pool: Limit,
    /// All that are known by nothing but having been seen for a while, together.
    pub steady: Limit,
    /// All that have proved themselves, or were asked, together.
    pub proven: Limit,
}

/// Value of `CLASS_STATE`: theoretical arrival times of what a class has in common, by [`crate::sources::Tier::total`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassState {
    /// Pool, steady, proven.
    pub tat_ns: [u64; 3],
    /// Zero.
    pub reserved: u64,
}

/// Value of `SOURCES`: one set of the table of known sources, see [`crate::sources`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSet {
    /// Places; 0 for a free one.
    pub places: [u64; SOURCE_WAYS],
}

/// Value of `SOURCE_STATE`, by set × [`SOURCE_WAYS`] + way: the connections of a known source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceState {
    /// GCRA of handshakes that were completed, nanoseconds.
    pub tat_ns: u64,
    /// Open connections; counted by the data path, set right by the agent.
    pub open: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the programs tell the agent of a packet that was dropped, or would have been, through the ring buffer
/// `DROP_EVENTS`; a sample, see [`GuardSettings::events`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropEvent {
    /// When, nanoseconds of the coarse monotonic clock.
    pub time_ns: u64,
    /// [`crate::verdict::Reason`].
    pub reason: u32,
    /// The interface where it arrived.
    pub ifindex: u32,
    /// Octets of the whole frame.
    pub len: u32,
    /// Octets of it in `frame`.
    pub captured: u16,
    /// 1 when it was only observed, and passed.
    pub observed: u8,
    /// The [`crate::sources::Share`] that refused it.
    pub share: u8,
    /// The frame's first octets, from its Ethernet header on.
    pub frame: [u8; DROP_FRAME],
}

/// Entries of the `WATCHED` map.
pub const MAX_WATCHED: u32 = 64;

/// Key of `WATCHED`: the TCP segments that come from an address and go to or come from a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchKey {
    /// The other end's address.
    pub addr: AddrWords,
    /// A port, host byte order: ours where it is the client, its own where it is the server.
    pub port: u16,
    /// 4 or 6.
    pub family: u16,
}

/// Value of `WATCHED`: what becomes of such a segment is told through the ring buffer `WATCH_EVENTS` as a [`DropEvent`],
/// whatever the verdict, with a time of the fine monotonic clock. Written by the agent, counted down by the data path,
/// where a race of two CPUs can at worst tell of one segment more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Until when, nanoseconds of the kernel's coarse monotonic clock.
    pub until_ns: u64,
    /// Segments that were to be told of, [`Self::lost`] among them. Once a budget is spent nothing counts what it is for.
    pub segments: u64,
    /// How many of those that pass as part of a connection may still be told of; at 0 there may have been more.
    pub passes_left: u32,
    /// How many of all others; likewise.
    pub verdicts_left: u32,
    /// Segments that were to be told of and found no room in the ring buffer.
    pub lost: u32,
    /// Zero.
    pub reserved: u32,
}

/// Metadata of a frame that the agent sends through the loaded program with `BPF_PROG_TEST_RUN` to learn its fate: the
/// verdict of such a frame is counted nowhere, though it takes its shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// [`GuardSettings::trial`].
    pub secret: u64,
    /// Written by the program: the [`crate::verdict::Reason`], with [`Trial::OBSERVED`] and [`Trial::SHARE_SHIFT`].
    pub outcome: u64,
}

impl Trial {
    /// Flag in `outcome`: observe mode let the frame pass.
    pub const OBSERVED: u64 = 1 << 32;
    /// Where `outcome` has the [`crate::sources::Share`] that refused it, in eight bits.
    pub const SHARE_SHIFT: u32 = 40;
}

macro_rules! shared {
    ($($t:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$t>() == $size);
        // SAFETY: repr(C), made of integers only, and the size assertion shows there is no padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    )+};
}

shared! {
    ListenerKey = 24,
    Listener = 40,
    PortState = 16,
    Settings = 40,
    CookieKeys = 48,
    ListenerStats = 72,
    FlowKey = 20,
    FlowStats = 240,
    SynLogEntry = 24,
    SynLog = 24_584,
    ListenerEvent = 4,
    SockOffsets = 48,
    NeighborKey = 24,
    Binding = 112,
    Limit = 16,
    NeighborSettings = 104,
    Asked = 16,
    InterfaceLimits = 80,
    NeighborEvent = 192,
    ListTable = 200,
    HitLog = 16_392,
    AddressKey = 20,
    AddressRole = 4,
    GuardSettings = 128,
    ClassLimits = 96,
    ClassState = 32,
    SourceSet = 64,
    SourceState = 16,
    DropEvent = 280,
    WatchKey = 20,
    Watched = 32,
    Trial = 16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_times_up_to_twice_the_one_before() {
        let last = HANDSHAKE_BUCKETS as u32 - 1;
        for (us, bucket) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (1000, 9),
            (u32::MAX, last),
        ] {
            assert_eq!(FlowStats::bucket(us), bucket, "{us} us");
        }
        for bucket in 1..last {
            assert_eq!(FlowStats::bucket(1 << bucket), bucket);
            assert_eq!(FlowStats::bucket((1 << bucket) - 1), bucket - 1);
        }
        assert_eq!(FlowStats::bucket(1 << last), last);
        assert_eq!(FlowStats::bucket(u32::MAX >> 1), last);
    }
}
