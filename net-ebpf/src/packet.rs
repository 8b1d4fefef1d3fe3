//! The only pointer arithmetic on packets. A pointer is handed out only after `start + offset + N` was
//! compared with the end of the linear data, derived from that same `start`.

use aya_ebpf::{
    helpers::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};
use net_common::{
    parse::{Frame, Header, Packet},
    units::{IpProto, Version},
};

use crate::maps::{SCRATCH, Scratch, ZERO};

/// Largest offset that any header may have: keeps the offset's range small for the verifier, and is
/// beyond what the parser's bounds allow.
const MAX_OFFSET: usize = 0x3fff;

/// Pointer to `N` octets that were shown to lie in the packet. Valid until head or tail move.
#[derive(Clone, Copy)]
pub struct Octets<const N: usize>(*mut u8);

/// Loads and stores of the width the wire needs at whatever alignment it has: Rust's own accesses to
/// an unaligned `u32` become four octets each on this target, while the instruction has no such limit.
macro_rules! load {
    ($name:ident, $ty:ty, $insn:literal) => {
        #[inline(always)]
        fn $name<const O: usize>(p: *const u8) -> $ty {
            let value: u64;
            // SAFETY: callers hold an `Octets<N>` with O + width <= N.
            unsafe {
                core::arch::asm!(
                    concat!("{v} = *(", $insn, " *)({p} + {o})"),
                    v = out(reg) value, p = in(reg) p, o = const O,
                    options(pure, readonly, nostack)
                );
            }
            value as $ty
        }
    };
}

load!(load16, u16, "u16");
load!(load32, u32, "u32");

impl<const N: usize> Header for Octets<N> {
    #[inline(always)]
    fn octet<const O: usize>(self) -> u8 {
        const { assert!(O < N) };
        let at = self.0.wrapping_add(O);
        // SAFETY: O < N, and N octets lie in the packet.
        unsafe { *at }
    }

    #[inline(always)]
    fn be16<const O: usize>(self) -> u16 {
        const { assert!(O + 2 <= N) };
        u16::from_be(load16::<O>(self.0))
    }

    #[inline(always)]
    fn word<const O: usize>(self) -> u32 {
        const { assert!(O + 4 <= N) };
        load32::<O>(self.0)
    }
}

impl<const N: usize> Octets<N> {
    /// Stores four octets as they are in memory.
    #[inline(always)]
    pub fn put_word<const O: usize>(self, word: u32) {
        const { assert!(O + 4 <= N) };
        // SAFETY: O + 4 <= N, and N octets lie in the packet.
        unsafe {
            core::arch::asm!(
                "*(u32 *)({p} + {o}) = {v}",
                v = in(reg) u64::from(word), p = in(reg) self.0, o = const O, options(nostack)
            );
        }
    }

    /// Stores two octets as they are in memory.
    #[inline(always)]
    pub fn put_half<const O: usize>(self, half: u16) {
        const { assert!(O + 2 <= N) };
        // SAFETY: O + 2 <= N, and N octets lie in the packet.
        unsafe {
            core::arch::asm!(
                "*(u16 *)({p} + {o}) = {v}",
                v = in(reg) u64::from(half), p = in(reg) self.0, o = const O, options(nostack)
            );
        }
    }

    /// Two octets as they are in memory.
    #[inline(always)]
    pub fn half<const O: usize>(self) -> u16 {
        const { assert!(O + 2 <= N) };
        load16::<O>(self.0)
    }

    /// The raw pointer, for helpers that take one.
    #[inline(always)]
    pub fn pointer(self) -> *mut u8 {
        self.0
    }
}

#[inline(always)]
fn octets<const N: usize>(start: usize, end: usize, offset: usize) -> Option<Octets<N>> {
    if offset > MAX_OFFSET {
        return None;
    }
    let at = start + offset;
    if at + N > end {
        return None;
    }
    Some(Octets(at as *mut u8))
}

/// What XDP and TC give of a packet.
pub trait Context {
    /// Which half of the scratch space is this hook's.
    const SCRATCH: u32;
    /// Start and end of the linear data.
    fn bounds(&self) -> (usize, usize);
    /// Octets of the whole packet.
    fn total_len(&self) -> usize;
    /// Interface of arrival.
    fn ifindex(&self) -> u32;
}

impl Context for XdpContext {
    const SCRATCH: u32 = 0;

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: the context is the one the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one the program was called with.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}

impl Context for TcContext {
    const SCRATCH: u32 = 1;

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        self.len() as usize
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one the program was called with.
        unsafe { (*self.skb.skb).ifindex }
    }
}

/// This CPU's and this hook's working memory.
#[inline(always)]
pub fn scratch<C: Context>() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(C::SCRATCH)
}

/// The same packet, its offsets read back from a map. The parser leaves one verifier state for every
/// number of tags and extension headers; behind this point there is one for each IP version.
#[inline(always)]
pub fn forget_path<C: Context>(packet: Packet) -> Option<Packet> {
    let scratch = scratch::<C>()?;
    // SAFETY: a live map value.
    let offsets = unsafe { &raw mut (*scratch).offsets };
    // SAFETY: as above; volatile, or the compiler would forward the stores.
    unsafe { offsets.write_volatile([packet.l3 as u32, packet.l4 as u32, packet.l4_len as u32]) };
    // SAFETY: as above.
    let [l3, l4, l4_len] = unsafe { offsets.read_volatile() };
    Some(Packet {
        l3: l3 as usize,
        l4: l4 as usize,
        l4_len: l4_len as usize,
        ..packet
    })
}

/// An offset with bounds that the verifier keeps when it is spilled; far beyond those of the parser.
#[inline(always)]
pub fn offset(offset: u32) -> usize {
    below::<0x3fff>(offset)
}

/// A number of which no more than the bits of a mask are kept, where the verifier sees it.
#[inline(always)]
pub fn below<const MASK: i32>(number: u32) -> usize {
    let mut number = u64::from(number);
    // SAFETY: one AND on a register.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) number, const MASK, options(pure, nomem, nostack));
    }
    number as usize
}

/// A packet as the arguments of a function with global linkage: its first three words, for [`unpack`].
#[inline(always)]
pub fn pack(packet: &Packet) -> (u32, u32, u32) {
    let mut place = packet.l3 as u32 | u32::from(packet.protocol.0) << 16;
    for (bit, set) in [
        (PACKED_V6, packet.version == Version::V6),
        (PACKED_FIRST, packet.first_fragment),
        (PACKED_HEADER, packet.fragment_header),
    ] {
        if set {
            place |= bit;
        }
    }
    let l4 = packet.l4 as u32 | u32::from(packet.fragment_offset) << 16;
    (place, l4, packet.l4_len as u32)
}

const PACKED_V6: u32 = 1 << 24;
const PACKED_FIRST: u32 = 1 << 25;
const PACKED_HEADER: u32 = 1 << 26;

/// The packet that [`pack`] took apart.
#[inline(always)]
pub fn unpack(place: u32, l4: u32, l4_len: u32, traffic_class: u32) -> Packet {
    Packet {
        version: if place & PACKED_V6 != 0 {
            Version::V6
        } else {
            Version::V4
        },
        protocol: IpProto((place >> 16) as u8),
        traffic_class: traffic_class as u8,
        l3: offset(place),
        l4: offset(l4),
        l4_len: l4_len as usize,
        first_fragment: place & PACKED_FIRST != 0,
        fragment_offset: (l4 >> 16) as u16,
        fragment_header: place & PACKED_HEADER != 0,
    }
}

/// The same word, read back from a map: one verifier state for all of its values.
#[inline(always)]
pub fn forget<C: Context>(word: u32) -> u32 {
    let Some(scratch) = scratch::<C>() else {
        return word;
    };
    // SAFETY: a live map value.
    let at = unsafe { &raw mut (*scratch).word };
    // SAFETY: as above; volatile, or the compiler would forward the store.
    unsafe { at.write_volatile(word) };
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

/// The same word, of which the verifier knows nothing any more. Unlike [`forget`] it needs no memory that a program of
/// another hook could be writing to.
#[inline(always)]
pub fn forget_in(word: u32) -> u32 {
    let zero = ZERO.get(0).map_or(0, |zero| {
        // SAFETY: a live map value; volatile, or it would be read once for all.
        unsafe { core::ptr::from_ref(zero).read_volatile() }
    });
    let mut word = u64::from(word);
    // In assembly, or the compiler would reason past it.
    // SAFETY: one XOR of two registers.
    unsafe {
        core::arch::asm!("{0} ^= {1}", inout(reg) word, in(reg) u64::from(zero), options(pure, nomem, nostack));
    }
    word as u32
}

/// `len`, but no more than `MAX`, a power of two; in a way that the verifier can follow.
#[inline(always)]
pub fn up_to<const MAX: u32>(len: usize) -> u32 {
    let len = forget_in(len as u32);
    if len >= MAX { MAX } else { len & (MAX - 1) }
}

/// A packet in the kernel as the parser sees it.
pub struct View<'a, C: Context>(pub &'a C);

impl<C: Context> Frame for View<'_, C> {
    type Header<const N: usize> = Octets<N>;

    #[inline(always)]
    fn header<const N: usize>(&self, offset: usize) -> Option<Octets<N>> {
        let (start, end) = self.0.bounds();
        octets(start, end, offset)
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        let (start, end) = self.0.bounds();
        // The common case needs no call; only a packet with fragments beyond its linear part does.
        start + len <= end || len <= self.0.total_len()
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        let mut len = self.0.total_len() as u64;
        // No frame is longer (MAX_SKB_FRAGS pages), and the verifier wants a bound.
        // SAFETY: one AND on a register.
        unsafe {
            core::arch::asm!("{0} &= 0x1ffff", inout(reg) len, options(pure, nomem, nostack));
        }
        len as usize
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget::<C>(value as u32) as usize
    }
}
