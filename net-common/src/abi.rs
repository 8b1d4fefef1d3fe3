//! Keys and values of the maps that the agent and the programs share.
//!
//! Every type is `repr(C)`, free of implicit padding (asserted below) and made of plain integers, so
//! that its bytes mean the same on both sides. A change to any of them raises [`ABI_VERSION`].

/// Version of everything in this module. The object carries it in the global `ABI`; the agent refuses
/// to work with an object or a map of another version.
pub const ABI_VERSION: u32 = 1;

/// Upper bound of listeners with statistics of their own ([`Listener::slot`] is below it).
pub const MAX_LISTENERS: u32 = 4096;
/// Entries of the `LISTENERS` map: listeners × own addresses × interfaces.
pub const MAX_LISTENER_KEYS: u32 = 65_536;
/// Cells of the SYN-ACK limit, a power of two; 128 KiB, so that they stay in an L2 cache.
pub const SYN_ACK_CELLS: u32 = 16_384;
/// 64-bit blocks of the filter of sources that may hold a socket; a power of two, 64 KiB.
pub const SOCKET_FILTER_BLOCKS: u32 = 8_192;

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
    /// Zero.
    pub reserved: u32,
}

/// The one value of `SETTINGS`, written by the agent.
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

/// Value of the global `SOCK_OFFSETS`: octets from the start of `struct sock_common` in the running
/// kernel.
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
    Settings = 32,
    CookieKeys = 40,
    ListenerStats = 64,
    ListenerEvent = 4,
    SockOffsets = 16,
}
