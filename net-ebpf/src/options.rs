//! TCP options of a segment in a packet.

use net_common::{
    parse::{Frame, Header},
    tcp_options::{self, MAX_LEN, NO_WSCALE, Options},
};

use crate::{
    maps::SCRATCH,
    packet::{Context, View, scratch},
    pipeline::Tcp,
};

const WORDS: usize = MAX_LEN / 4;

/// Options of a segment whose data offset the sanity rules have checked. None when they are not in
/// the packet's linear part.
#[inline(always)]
pub fn read<C: Context>(ctx: &C, tcp: &Tcp) -> Option<Options> {
    let frame = View(ctx);
    let at = tcp.packet.l4 + 20;
    let len = tcp.segment.header_len - 20;
    // SAFETY: a live map value.
    let out = unsafe { &raw mut (*scratch::<C>()?).options };
    if !(len == 12 && linux_ack(&frame, at, out) || len == 20 && linux_syn(&frame, at, out)) {
        any::<C>(&frame, at, len)?;
    }
    // SAFETY: as above; volatile for the verifier, see `Scratch`.
    Some(unsafe { out.read_volatile() })
}

/// `NOP, NOP, timestamps`, what most segments of a connection carry.
#[inline(always)]
fn linux_ack<F: Frame>(frame: &F, at: usize, out: *mut Options) -> bool {
    let Some(o) = frame.header::<12>(at) else {
        return false;
    };
    if o.word::<0>() != u32::from_be(0x0101_080a) {
        return false;
    }
    let options = Options {
        tsval: u32::from_be(o.word::<4>()),
        tsecr: u32::from_be(o.word::<8>()),
        mss: 0,
        wscale: NO_WSCALE,
        flags: Options::TIMESTAMPS,
    };
    // SAFETY: callers pass a live map value.
    unsafe { out.write_volatile(options) };
    true
}

/// What Linux puts into a SYN.
#[inline(always)]
fn linux_syn<F: Frame>(frame: &F, at: usize, out: *mut Options) -> bool {
    let Some(o) = frame.header::<20>(at) else {
        return false;
    };
    let words = [
        o.word::<0>(),
        o.word::<4>(),
        o.word::<8>(),
        o.word::<12>(),
        o.word::<16>(),
    ];
    let mut options = Options::NONE;
    if !tcp_options::parse_linux_syn(&words, &mut options) {
        return false;
    }
    // SAFETY: callers pass a live map value.
    unsafe { out.write_volatile(options) };
    true
}

/// Any layout: the octets are copied to the scratch space and read there.
#[inline(always)]
fn any<C: Context>(frame: &View<'_, C>, at: usize, len: usize) -> Option<()> {
    let scratch = scratch::<C>()?;
    // SAFETY: a live map value.
    let space = unsafe { &raw mut (*scratch).space }.cast::<u32>();
    for i in 0..WORDS {
        if i * 4 < len {
            let word = frame.header::<4>(at + i * 4)?.word::<0>();
            // Inside: i < 10 and the space has 16 words, aligned as its map value is.
            let to = space.wrapping_add(i);
            // SAFETY: see above.
            unsafe { to.write_volatile(word) };
        }
    }
    parse_options(C::SCRATCH, len as u32);
    Some(())
}

/// Reads the options in the scratch space. A function of its own with global linkage, so that the
/// verifier checks its loop once instead of on every path that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_options(hook: u32, len: u32) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(hook) else {
        return 0;
    };
    // SAFETY: this CPU's and this hook's own value; nothing else refers to it meanwhile.
    let scratch = unsafe { &mut *scratch };
    tcp_options::parse(&scratch.space, len as usize, &mut scratch.options);
    0
}
