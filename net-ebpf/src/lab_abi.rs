//! What the laboratory's programs and its harness share (net-tests includes this file by path). Plain
//! integers without padding, as in `net_common::abi`, but no part of the product.

/// Entries of `SINK`: SYN-ACKs that came back to the flood's sources.
pub const SINK_SYN_ACKS: u32 = 0;
/// RSTs that came back to the flood's sources.
pub const SINK_RSTS: u32 = 1;
/// Other TCP segments to the flood's sources.
pub const SINK_OTHERS: u32 = 2;
/// Number of entries of `SINK`.
pub const SINK_ENTRIES: u32 = 3;

/// Octets of the frames that `lab_flood` knows: a SYN and an ACK, each over IPv4 and IPv6.
pub const SYN_V4: usize = 74;
/// See [`SYN_V4`].
pub const ACK_V4: usize = 66;
/// See [`SYN_V4`].
pub const SYN_V6: usize = 94;
/// See [`SYN_V4`].
pub const ACK_V6: usize = 86;

/// Words of the TCP header that may vary: ports, sequence number, acknowledgment number, and the fourth
/// of Linux's options (a SYN's TSval, an ACK's TSecr).
pub const VARIED: [usize; 4] = [0, 4, 8, 28];

/// Value of `FLOOD`: a frame and which of its bits are random. Those bits are 0 in the frame, so that what
/// is random can simply be added, to the words and to their sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// The frame as it lies in memory, its checksums zero.
    pub frame: [u64; 12],
    /// Its last eight octets.
    pub tail: u64,
    /// Start of the random sequence.
    pub seed: u64,
    /// Source address as it lies in the frame; IPv4 uses the first word.
    pub source: [u32; 4],
    /// Its random bits.
    pub source_random: [u32; 4],
    /// The words at [`VARIED`] as they lie in the frame.
    pub varied: [u32; 4],
    /// Their random bits.
    pub varied_random: [u32; 4],
    /// Sum of the halves of the IPv4 header, as they lie in memory.
    pub ip_sum: u32,
    /// Sum of the halves of pseudo header and TCP segment, as they lie in memory.
    pub l4_sum: u32,
    /// Octets of the frame.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(core::mem::size_of::<Flood>() == 12 * 8 + 2 * 8 + 4 * 16 + 4 * 4);

impl Flood {
    /// Whether word `i` of an address can be that of one of the flood's sources.
    #[inline(always)]
    pub fn sends_from(&self, i: usize, word: u32) -> bool {
        word & !self.source_random[i] == self.source[i]
    }
}

/// Octets of the frames of [`Claims`], padding included.
pub const CLAIM: usize = 96;

/// Value of `CLAIMS`: an ARP packet or neighbour advertisement, whose sender or target goes through `count`
/// addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The frame as it lies in memory.
    pub frame: [u64; CLAIM / 8],
    /// The last word of the first address, host byte order.
    pub first: u32,
    /// How many addresses there are.
    pub count: u32,
    /// 1 for a neighbour advertisement, 0 for ARP.
    pub ndp: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(core::mem::size_of::<Claims>() == CLAIM + 16);

/// Value of `SOURCES`: a frame whose source goes through `count` addresses in an order that no cache foresees. They
/// are the [`spread_address`]es of the numbers from `first` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The frame as it lies in memory.
    pub frame: [u64; CLAIM / 8],
    /// Number of the first address.
    pub first: u32,
    /// How many addresses there are.
    pub count: u32,
    /// 1 for IPv6, 0 for IPv4.
    pub ipv6: u32,
    /// Sum of the halves that the checksum covers without the source, as they lie in memory: of the IPv4 header, or of
    /// pseudo header and ICMPv6 message. 0 to leave the checksum as it is.
    pub sum: u32,
}

const _: () = assert!(core::mem::size_of::<Sources>() == CLAIM + 16);

/// Steps from one source to the next; prime, so that they lead to every one of any count that it does not divide.
pub const STRIDE: u64 = 618_033_989;

/// Murmur3's 32-bit finalizer, a bijection.
#[inline(always)]
fn mix(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x85eb_ca6b);
    let n = (n ^ (n >> 13)).wrapping_mul(0xc2b2_ae35);
    n ^ (n >> 16)
}

/// The `n`-th address, words in host byte order: unicast, spread evenly over all of them. IPv4 is the first word.
#[inline(always)]
pub fn spread_address(n: u32, ipv6: bool) -> [u32; 4] {
    let word = mix(n);
    if ipv6 {
        return [
            0x2000_0000 | word >> 3,
            mix(word),
            mix(!word),
            mix(word ^ STRIDE as u32),
        ];
    }
    // 1.0.0.0 to 223.255.255.255, without 127.0.0.0/8.
    let top = match 1 + (((word >> 24) * 222) >> 8) {
        127 => 223,
        top => top,
    };
    [top << 24 | word & 0x00ff_ffff, 0, 0, 0]
}
