//! Candidates for the lists, measured before one was chosen. Not part of the product.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{self, XDP_ABORTED, XDP_DROP},
    btf_maps::{Array as BtfArray, ArrayOfMaps},
    macros::{btf_map, map, xdp},
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
    programs::XdpContext,
};

macro_rules! candidate {
    ($name:ident, $lookup:expr) => {
        #[xdp]
        fn $name(ctx: XdpContext) -> xdp_action::Type {
            let Some(addr) = source(&ctx) else {
                return XDP_ABORTED;
            };
            let found: bool = (|a: u32| -> bool { ($lookup)(a) })(addr);
            if found { XDP_DROP } else { XDP_ABORTED }
        }
    };
}

const MMAPABLE: u32 = 1 << 10;

#[map]
static LPM: LpmTrie<u32, u64> = LpmTrie::with_max_entries(1_100_000, 1);
#[map]
static KHASH: HashMap<u32, u64> = HashMap::with_max_entries(1_100_000, 0);
#[map]
static DIR24: Array<[u32; 16]> = Array::with_max_entries(1 << 20, MMAPABLE);
#[map]
static BLOCKS: Array<[u32; 256]> = Array::with_max_entries(1, MMAPABLE);
/// A bit a /24, a length mask a /20 (u32), and both in one word a /20.
#[map]
static BITS24: Array<[u64; 8]> = Array::with_max_entries(1 << 15, MMAPABLE);
#[map]
static MASK20: Array<[u32; 16]> = Array::with_max_entries(1 << 16, MMAPABLE);
#[map]
static WORD20: Array<[u64; 8]> = Array::with_max_entries(1 << 17, MMAPABLE);
/// Lines of eight slots: address, length - 1, expiry 26 bits.
#[map]
static TABLE: Array<[u64; 8]> = Array::with_max_entries(1 << 18, MMAPABLE);
#[map]
static HITS: Array<[u64; 8]> = Array::with_max_entries(1 << 18, MMAPABLE);

/// The same memory as one array and as 496-line pieces, which the kernel takes from huge pages.
#[map]
static WHOLE: Array<[u64; 8]> = Array::with_max_entries(1 << 18, 0);
#[btf_map]
static PIECES: ArrayOfMaps<BtfArray<[u64; 8], 496>, 512> = ArrayOfMaps::new();

candidate!(c_v16, |addr: u32| whole(addr, 262143));
candidate!(c_k16, |addr: u32| pieces(addr, 511));
candidate!(c_v05, |addr: u32| whole(addr, 8191));
candidate!(c_v1, |addr: u32| whole(addr, 16383));
candidate!(c_v2, |addr: u32| whole(addr, 32767));
candidate!(c_v4, |addr: u32| whole(addr, 65535));
candidate!(c_k05, |addr: u32| pieces(addr, 15));
candidate!(c_k1, |addr: u32| pieces(addr, 31));
candidate!(c_k2, |addr: u32| pieces(addr, 63));
candidate!(c_k4, |addr: u32| pieces(addr, 127));

#[inline(always)]
fn whole(addr: u32, mask: u32) -> bool {
    let h = u64::from(addr).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    WHOLE.get((h >> 32) as u32 & mask).is_some_and(|l| l[(h >> 29 & 7) as usize] == 0)
}

#[inline(always)]
fn pieces(addr: u32, mask: u32) -> bool {
    let h = u64::from(addr).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let line = ((h >> 32 & 0xffff) * 496 >> 16) as u32;
    let Some(piece) = PIECES.get((h >> 48) as u32 & mask) else { return false };
    piece.get(line).is_some_and(|l| l[(h >> 29 & 7) as usize] == 0)
}

#[inline(always)]
fn source(ctx: &XdpContext) -> Option<u32> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 34 > end {
        return None;
    }
    let at = (start + 26) as *const u16;
    // SAFETY: compared above.
    let a = unsafe { at.read_unaligned() };
    // SAFETY: compared above.
    let b = unsafe { at.add(1).read_unaligned() };
    Some(u32::from_be(u32::from(a) | u32::from(b) << 16))
}

candidate!(c_none, |addr: u32| addr != 7);
candidate!(c_lpm, |addr: u32| LPM.get(&Key::new(32, addr.to_be())).is_some());
candidate!(c_khash, |addr: u32| unsafe { KHASH.get(&addr) }.is_some());
candidate!(c_dir24, |addr: u32| dir24(addr).is_some());
candidate!(c_bits, |addr: u32| bits(addr, false));
candidate!(c_bits_hits, |addr: u32| bits(addr, true));
candidate!(c_word, |addr: u32| word(addr, false));
candidate!(c_word_hits, |addr: u32| word(addr, true));

#[inline(always)]
fn dir24(addr: u32) -> Option<u32> {
    let line = DIR24.get(addr >> 12)?;
    let value = line[(addr >> 8 & 15) as usize];
    if value >> 31 == 0 {
        return if value == 0 { None } else { Some(value) };
    }
    let block = BLOCKS.get(value & 0x7fff_ffff)?;
    let id = block[(addr & 255) as usize];
    if id == 0 { None } else { Some(id) }
}

#[inline(always)]
fn bits(addr: u32, hits: bool) -> bool {
    let Some(line) = BITS24.get(addr >> 17) else {
        return false;
    };
    if line[(addr >> 14 & 7) as usize] >> (addr >> 8 & 63) & 1 == 0 {
        return false;
    }
    let Some(line) = MASK20.get(addr >> 16) else {
        return false;
    };
    probe(addr, line[(addr >> 12 & 15) as usize], hits.into()) != 0
}

#[inline(always)]
fn word(addr: u32, hits: bool) -> bool {
    let Some(line) = WORD20.get(addr >> 15) else {
        return false;
    };
    let word = line[(addr >> 12 & 7) as usize];
    if word >> (32 + (addr >> 8 & 15)) & 1 == 0 {
        return false;
    }
    probe(addr, word as u32, hits.into()) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe(addr: u32, mask: u32, hits: u32) -> u32 {
    let mut mask = mask;
    for _ in 0..32 {
        if mask == 0 {
            return 0;
        }
        // The longest length has the highest bit: its number is 31 - leading zeros.
        let length = top_bit(mask);
        mask &= !(1u32 << (length & 31));
        if slot(addr & (u32::MAX << (31 - length & 31)), length, hits) != 0 {
            return 1;
        }
    }
    0
}

#[inline(always)]
fn top_bit(mask: u32) -> u32 {
    let mut m = mask;
    let mut n = 0;
    if m >> 16 != 0 {
        n += 16;
        m >>= 16;
    }
    if m >> 8 != 0 {
        n += 8;
        m >>= 8;
    }
    if m >> 4 != 0 {
        n += 4;
        m >>= 4;
    }
    if m >> 2 != 0 {
        n += 2;
        m >>= 2;
    }
    n + (m >> 1)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slot(prefix: u32, length: u32, hits: u32) -> u32 {
    let key = u64::from(prefix) << 6 | u64::from(length) + 1;
    let bucket = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 46) as u32;
    let Some(line) = TABLE.get(bucket) else {
        return 0;
    };
    for i in 0..8 {
        if line[i] >> 26 == key {
            if hits != 0 {
                if let Some(hit) = HITS.get_ptr_mut(bucket) {
                    // SAFETY: a live map value.
                    unsafe { (*hit)[i] += 1 };
                }
            }
            return 1;
        }
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
